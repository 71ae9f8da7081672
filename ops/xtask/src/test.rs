//! The steps of `cargo xtask test`: everything that shows that the project works. A new one is one line of this table.

use crate::clients;
use crate::fuzz;
use crate::step::Step;

/// Seconds per fuzz target: enough to replay the corpus and to notice a target that fails at once. Real searches are
/// `cargo xtask fuzz`.
const FUZZ_SECONDS: u64 = 5;

pub(crate) fn steps() -> Vec<Step> {
    let mut steps = vec![
        Step::cargo(
            "unit and property tests",
            &[],
            &["test", "--workspace", "--locked"],
        ),
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
        clients::build_node(),
    ];
    steps.extend(clients::steps());
    steps.extend(fuzz::steps(None, FUZZ_SECONDS).into_iter().map(Step::slow));
    steps
}
