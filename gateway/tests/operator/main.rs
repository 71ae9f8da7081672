//! What operators see of a node: HTTP, metrics, `roadstead ctl`, `check` and `config`, and that the documentation has all of
//! it. The cores are fakes that answer from a table; everything from the socket to the terminal is real.

mod command_line;
mod documentation;
mod exposition;
mod fake;
mod http;
mod security;

use std::path::{Path, PathBuf};

/// A file of the repository.
fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// Compares a text with the one that is kept in the repository; `UPDATE_GOLDEN=1` keeps the new one.
fn golden(name: &str, actual: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/operator/golden")
        .join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, actual).expect("the golden file can be written");
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        kept == actual,
        "{name} differs; if it should, run with UPDATE_GOLDEN=1\n--- kept\n{kept}\n--- now\n{actual}"
    );
}
