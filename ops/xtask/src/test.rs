//! The steps of `cargo xtask test`: everything that shows that the project works. A new one is one line of this table.

use crate::chart;
use crate::clients;
use crate::cluster;
use crate::fuzz::{self, Build};
use crate::instructions;
use crate::process::{LIMIT, run};
use crate::programs::{self, program};
use crate::step::Step;
use crate::testssl;
use crate::tools::Tool;

/// Seconds per fuzz target: enough to replay the corpus and to notice a target that fails at once. Real searches are
/// `cargo xtask fuzz`.
const FUZZ_SECONDS: u64 = 5;

pub(crate) fn steps() -> Vec<Step> {
    let mut steps = vec![
        Step::cargo(
            "unit and property tests",
            &[],
            &["test", "--workspace", "--locked"],
        )
        .needs(&[Tool::Valkey]),
        Step::cargo(
            "loom",
            &[
                ("RUSTFLAGS", "--cfg loom"),
                ("CARGO_TARGET_DIR", "target/loom"),
                ("LOOM_MAX_PREEMPTIONS", "3"),
            ],
            &[
                "test",
                "--release",
                "--locked",
                "--package",
                "reactor",
                "--lib",
                "mesh",
            ],
        )
        .slow(),
        programs::build_step(),
        instructions::step(),
    ];
    steps.extend(["io_uring", "epoll"].map(conformance));
    steps.extend(["io_uring", "epoll"].map(density));
    steps.extend(CHAOS.map(chaos));
    steps.push(sim());
    steps.push(cluster::step());
    steps.extend(clients::steps());
    steps.extend(chart::steps());
    steps.push(testssl::step());
    let fuzz = fuzz::steps(None, FUZZ_SECONDS, Build::Replay);
    steps.extend(fuzz.into_iter().map(Step::slow));
    steps
}

/// Faults that a run of the tests has time for; the long ones are `cargo xtask chaos`.
const CHAOS: [&[&str]; 7] = [
    &["crash", "--cycles", "15", "--io", "io_uring"],
    &["crash", "--cycles", "15", "--io", "epoll"],
    &["disk", "--quick"],
    &["bounds", "--quick"],
    &["garbage", "--quick"],
    &["churn", "--quick"],
    &["reload", "--quick"],
];

/// A node under faults.
fn chaos(arguments: &'static [&'static str]) -> Step {
    let name = format!("chaos {}", arguments.join(" "));
    Step::call(name, &[], move |project| {
        let mut command = program(project, "chaos")?;
        command
            .args(arguments)
            .arg("--server")
            .arg(project.release_binary("roadstead"));
        run(project, &mut command, LIMIT)
    })
}

/// Fresh seeds of the simulator.
fn sim() -> Step {
    Step::call("simulator, 256 seeds", &[], |project| {
        let mut command = program(project, "sim")?;
        run(project, command.args(["--seeds", "256"]), LIMIT)
    })
}

/// The conformance suite with a node on one backend.
fn conformance(backend: &'static str) -> Step {
    Step::call(format!("conformance on {backend}"), &[], move |project| {
        let mut command = program(project, "conformance")?;
        command
            .args(["run", "--target", "roadstead", "--binary"])
            .arg(project.release_binary("roadstead"));
        run(project, command.env("ROADSTEAD_IO_BACKEND", backend), LIMIT)
    })
}

/// A thousand sessions held by a node on one backend: shows that the load tool and the node work together, and measures nothing.
fn density(backend: &'static str) -> Step {
    Step::call(
        format!("density of 1,000 sessions on {backend}"),
        &[],
        move |project| {
            let mut command = program(project, "bench")?;
            command
                .args([
                    "density",
                    "--runs",
                    "1",
                    "--sessions",
                    "1000",
                    "--hold",
                    "2s",
                ])
                .args(["--io", backend, "--server"])
                .arg(project.release_binary("roadstead"));
            run(project, &mut command, LIMIT)
        },
    )
}
