//! The verbs of the repository. Whatever a developer or CI does with this project is one of these words; nothing else has to
//! be known or installed by hand. It must never need a network beyond the package registries, nor leave a process behind.

#![allow(
    clippy::disallowed_methods,
    reason = "a tool that measures how long its steps take reads the clock"
)]

mod chart;
mod clients;
mod cluster;
mod fuzz;
mod instructions;
mod lint;
mod network;
mod process;
mod programs;
mod project;
mod server;
mod step;
mod test;
mod testssl;
mod tools;
mod wasm;

use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};

use crate::project::Project;

const HELP: &str = "\
cargo xtask VERB

  lint  [--only NAME]            format, clippy, rustdoc, deny, wasm check of the pure crates, typos, tidy rules
  test  [--only NAME] [--quick]  installs what the tests need into .tools, then runs every test;
                                 --quick leaves out what takes more than a minute
  tools [NAME …]                 installs the tools (or those: mosquitto, nats, rumqttd, …) into .tools and stops
  clients [--against SERVER] [--only NAME]
                                 real clients hold the scripted conversation with SERVER: io_uring or epoll (a node that
                                 is built and started here), mosquitto (the reference), or HOST:PORT[:WS_PORT]
  chart [--only NAME]            the Helm chart, alerts, dashboards and seccomp profile against the tools that read them, and against
                                 a real node; UPDATE_GOLDEN=1 writes what is made of something else
  testssl                        testssl.sh looks for weaknesses of a node's TLS listener
  cluster VERB                   up, status, start, down: a cluster on this machine to try things on; `cluster help` says more
  fuzz  [--seconds N] [TARGET]   fuzzes TARGET, or every target in turn, for N seconds (default 60)
  bench SCENARIO …               the load tool, after it has installed what its --rivals or its cluster need; arguments go to it unchanged
  chaos VERB …                   a node killed, overloaded, out of disk: crash, bounds, disk, garbage, churn, reload;
                                 three of them in a cluster: cluster
  sim …                          many cores under faults from one seed, the promises as oracle
  conformance …                  the MQTT conformance suite; arguments go to it unchanged
  help                           this text

--only NAME runs the steps whose name contains NAME. `--list` instead prints the names of the steps.
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match dispatch(&arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Runs one verb; `Ok(false)` when something that it ran has failed.
fn dispatch(arguments: &[String]) -> Result<bool> {
    let project = Project::locate()?;
    let (verb, rest) = match arguments.split_first() {
        Some((verb, rest)) => (verb.as_str(), rest),
        None => ("help", arguments),
    };
    match verb {
        "lint" => run_steps(&project, lint::steps(), rest),
        "test" => run_steps(&project, test::steps(), rest),
        "clients" => {
            let mut rest = rest.to_vec();
            let against =
                take_value(&mut rest, "--against")?.unwrap_or_else(|| "io_uring".to_owned());
            run_steps(&project, clients::steps_against(&against)?, &rest)
        }
        "tools" => {
            let chosen = if rest.is_empty() {
                tools::all()
            } else {
                tools::named(rest)?
            };
            Ok(tools::install_all(&project, &chosen))
        }
        "chart" => {
            let steps = std::iter::once(clients::build_node()).chain(chart::steps());
            run_steps(&project, steps.collect(), rest)
        }
        "cluster" => cluster::run_verb(&project, rest),
        "testssl" => run_steps(&project, vec![clients::build_node(), testssl::step()], rest),
        "fuzz" => {
            let mut rest = rest.to_vec();
            let seconds = match take_value(&mut rest, "--seconds")? {
                Some(text) => text.parse().context("--seconds takes a whole number")?,
                None => 60,
            };
            let target = (!rest.is_empty()).then(|| rest.remove(0));
            expect_empty(&rest)?;
            run_steps(
                &project,
                fuzz::steps(target, seconds, fuzz::Build::Search),
                &[],
            )
        }
        "bench" => {
            // The load tool names what is missing of a rival that cannot be had, and goes on without it.
            for tool in tools::of_benchmark(rest) {
                if let Err(error) = tools::ensure(&project, tool) {
                    eprintln!("{tool}: cannot be had: {error:#}");
                }
            }
            pass_through(&project, verb, rest)
        }
        "chaos" => chaos(&project, rest),
        "conformance" | "sim" => pass_through(&project, verb, rest),
        "help" | "--help" | "-h" => {
            print!("{HELP}");
            Ok(true)
        }
        other => bail!("there is no verb `{other}`\n\n{HELP}"),
    }
}

/// `--only`, `--quick` and `--list` choose among the steps; the rest is the runner's.
fn run_steps(project: &Project, steps: Vec<step::Step>, arguments: &[String]) -> Result<bool> {
    let mut rest = arguments.to_vec();
    let only = take_value(&mut rest, "--only")?;
    let quick = take_flag(&mut rest, "--quick");
    let list = take_flag(&mut rest, "--list");
    expect_empty(&rest)?;
    let chosen: Vec<_> = steps
        .into_iter()
        .filter(|step| {
            only.as_ref()
                .is_none_or(|only| step.name.contains(only.as_str()))
        })
        .filter(|step| !(quick && step.slow))
        .collect();
    if chosen.is_empty() {
        bail!(
            "no step has a name with `{}` in it; `--list` shows them",
            only.unwrap_or_default()
        );
    }
    if list {
        for step in &chosen {
            println!("{}", step.name);
        }
        return Ok(true);
    }
    Ok(step::run_all(project, &chosen))
}

/// Builds a package of `ops/` in release mode and hands it the arguments.
fn pass_through(project: &Project, package: &str, arguments: &[String]) -> Result<bool> {
    let status = project
        .cargo(&["run", "--release", "--quiet", "--package", package, "--"])
        .args(arguments)
        .status()
        .with_context(|| format!("cannot start cargo for `{package}`"))?;
    Ok(status.success())
}

/// Runs `ops/chaos`, with what a cluster needs: Valkey, and the program `ip`.
fn chaos(project: &Project, arguments: &[String]) -> Result<bool> {
    let mut command = project.cargo(&["run", "--release", "--quiet", "--package", "chaos", "--"]);
    if arguments.first().is_some_and(|verb| verb == "cluster") {
        for tool in [tools::Tool::Valkey, tools::Tool::Iproute2] {
            if let Err(error) = tools::ensure(project, tool) {
                eprintln!("{tool}: cannot be had: {error:#}");
            }
        }
        network::Ip::find(project).with_path(&mut command);
    }
    let status = command.args(arguments).status();
    Ok(status.context("cannot start cargo for `chaos`")?.success())
}

/// Removes `flag VALUE` from the arguments.
fn take_value(arguments: &mut Vec<String>, flag: &str) -> Result<Option<String>> {
    let Some(at) = arguments.iter().position(|argument| argument == flag) else {
        return Ok(None);
    };
    if at + 1 >= arguments.len() {
        bail!("`{flag}` takes a value");
    }
    arguments.remove(at);
    Ok(Some(arguments.remove(at)))
}

fn take_flag(arguments: &mut Vec<String>, flag: &str) -> bool {
    let before = arguments.len();
    arguments.retain(|argument| argument != flag);
    arguments.len() != before
}

fn expect_empty(arguments: &[String]) -> Result<()> {
    match arguments.first() {
        Some(argument) => bail!("unexpected argument `{argument}`\n\n{HELP}"),
        None => Ok(()),
    }
}
