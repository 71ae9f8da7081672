//! The load tool: scenarios against servers, which are black boxes to it.
//!
//! Reading order: [`scenario`] (what is done and measured, and with whom), [`subject`] and [`rival`] (who is measured),
//! [`server`] (the process that is loaded), [`cluster`] (several nodes and their engine), [`generator`] (threads of clients), [`memory`] (what sessions cost), [`machine`]
//! (what can be asked for here), [`figures`] and [`report`] (what came out), [`relay`] (the physical limit).
//!
//! **Invariants**
//! - Nothing of a server but its program and its address is known here.
//! - However a run ends, no process and no changed setting of the kernel stays ([`cleanup`]).
//! - Servers are measured in turns within one invocation, so that a ratio is of one machine in one state.

mod admin;
mod arguments;
mod certificate;
mod chart;
mod cleanup;
mod clock;
mod cluster;
mod figures;
mod generator;
mod machine;
mod memory;
mod ports;
mod relay;
mod report;
mod rival;
mod scenario;
mod server;
mod subject;

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    let cli = arguments::Cli::parse();
    let outcome = cleanup::install()
        .map_err(Into::into)
        .and_then(|()| scenario::run(&cli.scenario));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(if cleanup::interrupted() { 130 } else { 1 })
        }
    }
}
