//! The command line: what may be typed, and what is printed for it.
//!
//! Everything here is a function of its arguments, the environment it is given and two writers, so that the tests run it
//! without a process. Exit codes: 0 done, 1 failed, 2 typed wrongly.

mod arguments;
mod check;
mod client;
mod ctl;
mod engine;
mod migrate;
mod passwd;
mod settings;
mod table;

use std::ffi::OsString;
use std::io::{self, Write};

use clap::Parser as _;

pub use arguments::Cli;
use arguments::{Command, ConfigCommand};

use crate::config::Config;

/// Done.
pub const EXIT_DONE: u8 = 0;
/// Something failed; standard error says what, and what to do.
pub const EXIT_FAILED: u8 = 1;
/// The command was typed wrongly; standard error says how.
pub const EXIT_USAGE: u8 = 2;

/// Where a command writes to.
pub struct Output<'a> {
    /// Standard output: what was asked for.
    pub out: &'a mut dyn Write,
    /// Standard error: what went wrong.
    pub err: &'a mut dyn Write,
}

/// Why a command did not do what it should.
#[derive(Debug, thiserror::Error)]
enum CommandError {
    /// It failed.
    #[error("{error}")]
    Failed {
        /// What went wrong.
        error: String,
        /// What to do.
        remedy: Option<String>,
    },
    /// It was typed wrongly.
    #[error("{0}")]
    Usage(String),
    /// The output was closed or is full.
    #[error("cannot write: {0}")]
    Output(#[from] io::Error),
}

impl CommandError {
    fn failed(error: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::Failed {
            error: error.into(),
            remedy: Some(remedy.into()),
        }
    }
}

/// Runs what was typed. `start` runs a node with a good configuration until it stops.
pub fn run<E: std::fmt::Display>(
    arguments: impl IntoIterator<Item = OsString>,
    environment: &[(String, String)],
    output: &mut Output<'_>,
    start: impl FnOnce(Config) -> Result<(), E>,
) -> u8 {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            let text = error.render();
            let (writer, code): (&mut dyn Write, _) = if error.use_stderr() {
                (output.err, EXIT_USAGE)
            } else {
                (output.out, EXIT_DONE)
            };
            let _ = write!(writer, "{text}"); // Nowhere is left to complain.
            return code;
        }
    };
    let json = cli.wants_json();
    match dispatch(cli, environment, output, start) {
        Ok(code) => code,
        // `roadstead … | head` has what it wanted.
        Err(CommandError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => EXIT_DONE,
        Err(error) => complain(&error, json, output.err),
    }
}

fn dispatch<E: std::fmt::Display>(
    cli: Cli,
    environment: &[(String, String)],
    output: &mut Output<'_>,
    start: impl FnOnce(Config) -> Result<(), E>,
) -> Result<u8, CommandError> {
    match cli.command() {
        Command::Run(settings) => {
            let config = settings.load(environment)?;
            start(config).map_err(|error| CommandError::Failed {
                error: error.to_string(),
                remedy: None,
            })?;
            Ok(EXIT_DONE)
        }
        Command::Check { settings, json } => {
            check::run(&settings.load(environment)?, json, output.out)
        }
        Command::Config {
            command: ConfigCommand::Print { settings, json },
        } => {
            let config = settings.load(environment)?;
            let text = if json {
                format!("{:#}\n", config.to_json())
            } else {
                config.to_toml()
            };
            output.out.write_all(text.as_bytes())?;
            Ok(EXIT_DONE)
        }
        Command::Config {
            command: ConfigCommand::Check { file },
        } => {
            let config = settings::check_file(&file)?;
            let errors = settings::file_errors(&config);
            if !errors.is_empty() {
                return Err(CommandError::Failed {
                    error: errors.join("\nerror: "),
                    remedy: None,
                });
            }
            let warnings = config.access_warnings().into_iter();
            for warning in warnings.chain(config.engine_warnings()) {
                writeln!(output.err, "warning: {warning}")?;
            }
            writeln!(output.out, "{}: good", file.display())?;
            Ok(EXIT_DONE)
        }
        Command::Config {
            command: ConfigCommand::Example,
        } => {
            output.out.write_all(crate::config::example().as_bytes())?;
            Ok(EXIT_DONE)
        }
        Command::Engine { command } => engine::run(&command, environment, output.out),
        Command::Passwd(passwd) => passwd::run(&passwd, output.out),
        Command::Ctl(ctl) => ctl::run(ctl, environment, output.out),
    }
}

fn complain(error: &CommandError, json: bool, err: &mut dyn Write) -> u8 {
    let (code, remedy) = match error {
        CommandError::Failed { remedy, .. } => (EXIT_FAILED, remedy.as_deref()),
        CommandError::Usage(_) => (EXIT_USAGE, None),
        CommandError::Output(_) => (EXIT_FAILED, None),
    };
    let text = match (json, remedy) {
        (true, _) => {
            serde_json::json!({ "error": error.to_string(), "remedy": remedy }).to_string()
        }
        (false, Some(remedy)) => format!("error: {error}\n  {remedy}"),
        (false, None) => format!("error: {error}"),
    };
    let _ = writeln!(err, "{text}"); // Nowhere is left to complain.
    code
}
