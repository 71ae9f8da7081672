//! The command line: `chaos VERB [--name value …] [--quick]`.

use std::path::PathBuf;
use std::time::Duration;

use crate::clock;

/// What was asked for.
#[derive(Debug)]
pub(crate) struct Options {
    /// Seed of all decisions.
    pub(crate) seed: u64,
    /// The server to start.
    pub(crate) server: PathBuf,
    /// Its I/O backend.
    pub(crate) io: String,
    /// True when a short run is enough.
    pub(crate) quick: bool,
    /// Names of faults, separated by commas; `None`: those that are usual.
    pub(crate) faults: Option<String>,
    cycles: Option<usize>,
    clients: Option<usize>,
    seconds: Option<u64>,
}

impl Options {
    /// Reads what follows the verb.
    ///
    /// # Errors
    /// A name that is not known, or a value that is none.
    pub(crate) fn parse(mut words: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut options = Self {
            seed: clock::seed(),
            server: beside_this_program("roadstead"),
            io: "auto".into(),
            quick: false,
            faults: None,
            cycles: None,
            clients: None,
            seconds: None,
        };
        while let Some(name) = words.next() {
            if name == "--quick" {
                options.quick = true;
                continue;
            }
            let value = words
                .next()
                .ok_or_else(|| format!("{name} needs a value"))?;
            match name.as_str() {
                "--seed" => options.seed = number(&name, &value)?,
                // The server runs in a folder of its own.
                "--server" => {
                    options.server = std::path::absolute(&value)
                        .map_err(|error| format!("--server {value}: {error}"))?;
                }
                "--io" => options.io = value,
                "--faults" => options.faults = Some(value),
                "--cycles" => options.cycles = Some(number(&name, &value)? as usize),
                "--clients" => options.clients = Some(number(&name, &value)? as usize),
                "--seconds" => options.seconds = Some(number(&name, &value)?),
                _ => return Err(format!("unknown option {name}")),
            }
        }
        if options.server.exists() {
            Ok(options)
        } else {
            let path = options.server.display();
            Err(format!(
                "{path} is not there; build it with `cargo build --release -p gateway`, or name it with --server"
            ))
        }
    }

    /// Cycles to run.
    pub(crate) fn cycles(&self, usual: usize, quick: usize) -> usize {
        self.cycles
            .unwrap_or(if self.quick { quick } else { usual })
    }

    /// Clients to run.
    pub(crate) fn clients(&self, usual: usize, quick: usize) -> usize {
        self.clients
            .unwrap_or(if self.quick { quick } else { usual })
    }

    /// How long to run.
    pub(crate) fn time(&self, usual_s: u64, quick_s: u64) -> Duration {
        Duration::from_secs(
            self.seconds
                .unwrap_or(if self.quick { quick_s } else { usual_s }),
        )
    }
}

fn number(name: &str, value: &str) -> Result<u64, String> {
    value
        .parse()
        .map_err(|_| format!("{name} {value}: not a number"))
}

/// A program that cargo has built next to this one.
fn beside_this_program(name: &str) -> PathBuf {
    let here = std::env::current_exe().unwrap_or_default();
    here.with_file_name(name)
}
