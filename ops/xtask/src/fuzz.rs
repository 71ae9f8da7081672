//! Fuzzing with cargo-fuzz on the nightly toolchain. Every folder `CRATE/fuzz` with a manifest is found by itself.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::process::{LIMIT, capture, run};
use crate::project::Project;
use crate::step::Step;
use crate::tools::{Tool, python_program};

const NEEDS: &[Tool] = &[Tool::Nightly, Tool::Python];

/// How targets are built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Build {
    /// Optimised, with AddressSanitizer: for searches.
    Search,
    /// In a tenth of the time, with neither: enough to replay the corpus.
    Replay,
}

/// One step for `target`, or for all targets.
pub(crate) fn steps(target: Option<String>, seconds: u64, build: Build) -> Vec<Step> {
    let name = match &target {
        Some(target) => format!("fuzz {target}"),
        None => "fuzz every target".to_owned(),
    };
    vec![Step::call(name, NEEDS, move |project| {
        fuzz(project, target.as_deref(), seconds, build)
    })]
}

fn fuzz(project: &Project, only: Option<&str>, seconds: u64, build: Build) -> Result<()> {
    let mut count = 0;
    for folder in fuzz_folders(&project.root)? {
        let targets = capture(cargo_fuzz(project, &folder).arg("list"))?;
        for target in targets
            .split_whitespace()
            .filter(|target| only.is_none_or(|only| only == *target))
        {
            println!("fuzzing {target} for {seconds} s");
            let mut command = cargo_fuzz(project, &folder);
            command.arg("run");
            if build == Build::Replay {
                command.args(["--dev", "--sanitizer", "none"]);
            }
            command.args([
                target,
                "--",
                "-print_final_stats=0",
                "-verbosity=0",
                "-timeout=10",
            ]);
            command.arg(format!("-max_total_time={seconds}"));
            run(project, &mut command, LIMIT + Duration::from_secs(seconds))
                .with_context(|| format!("target `{target}` of {}", folder.display()))?;
            count += 1;
        }
    }
    if count == 0 {
        bail!(
            "no fuzz target {}",
            only.map_or_else(
                || "in the repository".to_owned(),
                |name| format!("is called `{name}`")
            )
        );
    }
    println!("{count} fuzz targets, nothing found");
    Ok(())
}

/// `cargo fuzz` in the crate that the targets belong to.
fn cargo_fuzz(project: &Project, folder: &Path) -> Command {
    let mut command = project.command(python_program(project, "cargo-fuzz"));
    command
        .current_dir(folder.parent().unwrap_or(&project.root))
        .env("RUSTUP_TOOLCHAIN", "nightly")
        // The workspace's build folder holds what another compiler built.
        .env("CARGO_TARGET_DIR", project.target().join("fuzz"));
    command
}

/// Folders called `fuzz` with a manifest, at most three levels below the root.
fn fuzz_folders(root: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![(root.to_owned(), 0)];
    while let Some((folder, depth)) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            let name = entry.file_name();
            let hidden = name.to_string_lossy().starts_with('.') || name == "target";
            if hidden || !entry.file_type()?.is_dir() {
                continue;
            }
            if name == "fuzz" && entry.path().join("Cargo.toml").exists() {
                found.push(entry.path());
            } else if depth < 2 {
                folders.push((entry.path(), depth + 1));
            }
        }
    }
    found.sort();
    Ok(found)
}
