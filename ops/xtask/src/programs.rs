//! The programs of the workspace that steps run. One command builds them all: cargo then builds what they share once, and not once for
//! each combination of features that the packages alone would ask for.

use std::process::Command;

use anyhow::Result;

use crate::process::{LIMIT, run};
use crate::project::Project;
use crate::step::Step;

/// Each has a program of its name, but for `gateway`, whose program is `roadstead`.
const PACKAGES: [&str; 7] = [
    "bench",
    "certificates",
    "chaos",
    "conformance",
    "gateway",
    "instructions",
    "sim",
];

/// Builds them, as a step of its own: it takes minutes on a fresh machine.
pub(crate) fn build_step() -> Step {
    Step::call("build the programs", &[], build)
}

/// A program of the release profile at the root, built from what is there now.
///
/// # Errors
/// It cannot be built.
pub(crate) fn program(project: &Project, name: &str) -> Result<Command> {
    build(project)?;
    Ok(project.command(project.release_binary(name)))
}

fn build(project: &Project) -> Result<()> {
    let mut build = project.cargo(&["build", "--release", "--quiet", "--locked"]);
    for package in PACKAGES {
        build.args(["--package", package]);
    }
    run(project, &mut build, LIMIT)
}
