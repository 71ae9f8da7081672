//! `conformance run`: starts a server, runs the cases, says what holds.
#![allow(
    clippy::disallowed_methods,
    reason = "a black-box client of a real server lives in real time"
)]

use std::process::ExitCode;
use std::time::Instant;

use conformance::report::{self, Column};
use conformance::runner::{self, Results, Verdict};
use conformance::target::{Target, Which};
use serde_json::json;

const USAGE: &str = "conformance run [options]
  --target roadstead|mosquitto   the server to start; may be given twice (default: roadstead, with --report both)
  --binary PATH                  its binary (of the last --target before it)
  --address HOST:PORT            a running server instead
  --filter TEXT                  only cases whose name contains this
  --json                         results as JSON on the standard output
  --report FILE                  write the page
  --check FILE                   fail unless this page is what the run gives";

/// What was asked for.
#[derive(Default)]
struct Arguments {
    targets: Vec<Which>,
    filter: String,
    json: bool,
    report: Option<String>,
    check: Option<String>,
}

fn main() -> ExitCode {
    let arguments = match arguments() {
        Ok(arguments) => arguments,
        Err(error) => {
            eprintln!("{error}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match run(&arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(2)
        }
    }
}

fn arguments() -> Result<Arguments, String> {
    let mut given = std::env::args().skip(1);
    if given.next().as_deref() != Some("run") {
        return Err("nothing to do".into());
    }
    let mut parsed = Arguments::default();
    while let Some(option) = given.next() {
        if option == "--json" {
            parsed.json = true;
            continue;
        }
        let value = given
            .next()
            .ok_or_else(|| format!("{option} needs a value"))?;
        match option.as_str() {
            "--target" => parsed.targets.push(match value.as_str() {
                "roadstead" => Which::Roadstead(None),
                "mosquitto" => Which::Mosquitto(None),
                other => return Err(format!("no target {other:?}")),
            }),
            "--binary" => match parsed.targets.last_mut() {
                Some(Which::Roadstead(binary) | Which::Mosquitto(binary)) => {
                    *binary = Some(value.into());
                }
                _ => return Err("--binary comes after --target".into()),
            },
            "--address" => parsed.targets.push(Which::Address(value)),
            "--filter" => parsed.filter = value,
            "--report" => parsed.report = Some(value),
            "--check" => parsed.check = Some(value),
            other => return Err(format!("no option {other:?}")),
        }
    }
    if parsed.targets.is_empty() {
        parsed.targets.push(Which::Roadstead(None));
        if parsed.report.is_some() || parsed.check.is_some() {
            parsed.targets.push(Which::Mosquitto(None));
        }
    }
    Ok(parsed)
}

/// True when no case failed against the first target and the page, if it was checked, is the one of this run.
fn run(arguments: &Arguments) -> Result<bool, String> {
    let mut columns = Vec::new();
    for which in &arguments.targets {
        let target = Target::start(which)?;
        let started = Instant::now();
        let results = runner::run(&target, &arguments.filter);
        if !arguments.json {
            print_table(which.name(), &target.release, &results);
            println!(
                "{} cases in {:.1} s\n",
                results.len(),
                started.elapsed().as_secs_f64()
            );
        }
        let release = target.release.clone();
        columns.push(Column {
            name: which.name(),
            release,
            results: Some(results),
        });
    }
    if arguments.json {
        println!("{}", as_json(&columns));
    }
    let failed = columns[0]
        .results
        .iter()
        .flatten()
        .any(|(_, verdict)| matches!(verdict, Verdict::Failed(_)));
    let mut right = !failed;
    // The page always has both columns, in this order.
    for name in ["Roadstead", "Mosquitto"] {
        if !columns.iter().any(|column| column.name == name) {
            columns.push(Column {
                name,
                release: "not run".into(),
                results: None,
            });
        }
    }
    columns.sort_by_key(|column| {
        ["Roadstead", "Mosquitto"]
            .iter()
            .position(|name| *name == column.name)
            .unwrap_or(2)
    });
    let page = report::page(&columns);
    if let Some(path) = &arguments.report {
        std::fs::write(path, &page).map_err(|error| format!("{path}: {error}"))?;
    }
    if let Some(path) = &arguments.check {
        let found = std::fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?;
        if found != page {
            eprintln!("{path} is not what this run gives; write it again with --report {path}");
            right = false;
        }
    }
    Ok(right)
}

fn print_table(name: &str, release: &str, results: &Results) {
    println!("{name} ({release})");
    for ((case, version), verdict) in results {
        let more = match verdict {
            Verdict::Passed => String::new(),
            Verdict::Failed(text) | Verdict::NotApplicable(text) => format!("  {text}"),
        };
        println!("  {:4} {:5} {case}{more}", verdict.word(), version.name());
    }
    let count = |word| {
        results
            .values()
            .filter(|verdict| verdict.word() == word)
            .count()
    };
    println!(
        "{name}: {} pass, {} fail, {} not applicable",
        count("pass"),
        count("FAIL"),
        count("n/a")
    );
}

fn as_json(columns: &[Column]) -> serde_json::Value {
    let servers: Vec<_> = columns
        .iter()
        .map(|column| {
            let cases: Vec<_> = column
                .results
                .iter()
                .flatten()
                .map(|((case, version), verdict)| {
                    let text = match verdict {
                        Verdict::Passed => None,
                        Verdict::Failed(text) | Verdict::NotApplicable(text) => Some(text),
                    };
                    json!({ "case": case, "mqtt": version.name(), "result": verdict.word(), "text": text })
                })
                .collect();
            json!({ "server": column.name, "release": column.release, "cases": cases })
        })
        .collect();
    json!(servers)
}
