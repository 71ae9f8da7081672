//! Proof that the pure crates are pure: they compile for `wasm32-unknown-unknown`, and no forbidden crate is below them.
//! What wasm's std stubs out (sockets, threads, files compile there and fail at run time) the tidy rules ban by name.

use anyhow::{Result, bail};

use crate::process::{LIMIT, capture, run};
use crate::project::Project;
use crate::tools;

/// Crates without a socket, clock, thread or `unsafe` in reach.
pub(crate) const PURE: &[&str] = &["edge-proto", "cluster"];

/// Crates that have no business below a pure one, whether or not they compile for wasm.
const FORBIDDEN: &[&str] = &[
    "async-std",
    "getrandom",
    "io-uring",
    "libc",
    "mio",
    "nix",
    "polling",
    "rustix",
    "smol",
    "socket2",
    "tokio",
];

/// What is below these is not looked at: they ask the CPU what it can, on some platforms by libc, and nothing else.
const HARMLESS: &[&str] = &["cpufeatures"];

const TARGET: &str = "wasm32-unknown-unknown";

/// Compiles the pure crates with the toolchain's own target where it has one, else with a compiler from Debian that comes
/// with the source of std: `docs/decisions/` has the page on why.
pub(crate) fn check(project: &Project) -> Result<()> {
    let mut command = project.cargo(&["check", "--lib", "--target", TARGET]);
    for package in PURE {
        command.args(["--package", package]);
    }
    if !installed(project) {
        tools::ensure(project, tools::Tool::RustWithSource)?;
        let root = project.tools().join("rust");
        command
            .args(["-Z", "build-std=core,alloc,std,panic_abort"])
            .env("RUSTC_BOOTSTRAP", "1")
            .env("RUSTC", root.join("usr/bin/rustc"))
            .env("LD_LIBRARY_PATH", tools::debian_libraries(&root))
            .env("CARGO_TARGET_DIR", project.target().join("wasm"));
    }
    run(project, &mut command, LIMIT)
}

fn installed(project: &Project) -> bool {
    capture(
        project
            .command("rustup")
            .args(["target", "list", "--installed"]),
    )
    .is_ok_and(|targets| targets.lines().any(|line| line == TARGET))
}

/// Looks for forbidden crates in the dependencies of the pure ones, on every platform.
pub(crate) fn dependencies(project: &Project) -> Result<()> {
    for package in PURE {
        let mut tree = project.cargo(&[
            "tree",
            "--package",
            package,
            "--edges",
            "normal",
            "--target",
            "all",
            "--prefix",
            "none",
            "--format",
            "{p}",
        ]);
        for harmless in HARMLESS {
            tree.args(["--prune", harmless]);
        }
        for line in capture(&mut tree)?.lines() {
            let name = line.split_whitespace().next().unwrap_or_default();
            if FORBIDDEN.contains(&name) {
                bail!("`{package}` is a pure crate and depends on `{name}`");
            }
        }
    }
    Ok(())
}
