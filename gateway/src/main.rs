//! `roadstead`: reads the command line and the configuration, and runs a node.

use std::process::ExitCode;

use gateway::cli::{self, Output};
use gateway::config::Config;
use gateway::control::log;
use gateway::node::{self, StartError};

fn main() -> ExitCode {
    // Variables that are not text cannot be any of ours.
    let environment: Vec<_> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .filter(|(name, _)| name.starts_with("ROADSTEAD_"))
        .collect();
    let mut output = Output {
        out: &mut std::io::stdout(),
        err: &mut std::io::stderr(),
    };
    cli::run(std::env::args_os(), &environment, &mut output, start).into()
}

/// Runs a node until it stops; the log is written out before the last word of the command line.
fn start(config: Config) -> Result<(), StartError> {
    let _log = log::init(&config.log);
    node::run(config)
}
