//! The load tool: scenarios against a server, which is a black box to it.
//!
//! Reading order: [`scenario`] (what is done and measured), [`generator`] (threads of clients), [`server`] (the process
//! that is loaded), [`memory`] (what sessions cost), [`machine`] (what can be asked for here), [`report`].
//!
//! **Invariants**
//! - Nothing of the server but its program and its address is known here.
//! - However a run ends, no process and no changed setting of the kernel stays ([`cleanup`]).

mod arguments;
mod cleanup;
mod clock;
mod generator;
mod machine;
mod memory;
mod report;
mod scenario;
mod server;

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
