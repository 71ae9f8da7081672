//! What the pure parts of the node cost in instructions, counted by callgrind, so that a regression fails on any machine,
//! however busy. The cases are in `ops/instructions`.

use anyhow::{Context as _, Result, bail};

use crate::programs::program;
use crate::project::Project;
use crate::step::Step;
use crate::tools::{self, Tool};

/// A case with the instructions that one time of it takes, and by which counts it is measured.
struct Case {
    name: &'static str,
    instructions: u64,
    counts: (u32, u32),
}

const fn case(name: &'static str, instructions: u64) -> Case {
    Case {
        name,
        instructions,
        counts: (200, 1_200),
    }
}

/// Lower a number when the code became cheaper; a commit that raises one says why.
const CASES: &[Case] = &[
    case("decode_publish", 540),
    case("encode_publish", 305),
    case("match_10000_filters", 1_370),
    case("judge_publish_1_of_20", 645),
    case("judge_publish_20_of_20", 7_080),
    case("judge_subscribe_20_of_20", 1_180),
    case("turn_ping", 1_270),
    case("turn_publish_qos0", 5_820),
    case("turn_publish_qos1", 9_650),
    case("turn_publish_qos2", 12_970),
    Case {
        counts: (5, 25),
        ..case("turn_fan_out_to_1000", 614_000)
    },
    case("turn_connect", 9_900),
    case("wire_publish", 2_010),
    case("wire_deliver_to_1", 2_290),
    case("wire_deliver_to_100", 10_020),
    case("wire_deliver_done", 355),
    case("wire_publish_done", 1_000),
];

/// How much more than its number a case may take, in per cent: the C library differs between machines.
const TOLERANCE_PERCENT: u64 = 15;

/// Counts every case and holds it against its number.
pub(crate) fn step() -> Step {
    Step::call("instruction counts", &[Tool::Valgrind], |project| {
        program(project, "instructions")?;
        let mut over = Vec::new();
        for case in CASES {
            let found = measure(project, case)?;
            println!(
                "{:24} {found:>9} instructions, expected {}",
                case.name, case.instructions
            );
            if found * 100 > case.instructions * (100 + TOLERANCE_PERCENT) {
                over.push(case.name);
            }
        }
        if !over.is_empty() {
            bail!(
                "more than {TOLERANCE_PERCENT} % above the expected count: {}; find out why with \
                 `valgrind --tool=callgrind target/release/instructions CASE 1000`, or raise the number in \
                 ops/xtask/src/instructions.rs and say why",
                over.join(", ")
            );
        }
        Ok(())
    })
}

/// What one time of the case costs: the difference of two runs, divided.
fn measure(project: &Project, case: &Case) -> Result<u64> {
    let (few, many) = case.counts;
    let difference =
        count(project, case.name, many)?.saturating_sub(count(project, case.name, few)?);
    Ok(difference / u64::from(many - few))
}

/// Instructions of a whole run.
fn count(project: &Project, name: &str, times: u32) -> Result<u64> {
    let program = project.release_binary("instructions");
    let mut command = tools::valgrind(project);
    command
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(program)
        .arg(name)
        .arg(times.to_string())
        .stderr(std::process::Stdio::piped());
    let output = command.output().context("cannot start valgrind")?;
    let text = String::from_utf8_lossy(&output.stderr);
    let counted = text
        .lines()
        .find_map(|line| line.split("Collected :").nth(1))
        .and_then(|number| number.trim().parse().ok());
    match counted {
        Some(counted) if output.status.success() => Ok(counted),
        _ => bail!("`instructions {name} {times}` under valgrind failed:\n{text}"),
    }
}
