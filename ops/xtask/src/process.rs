//! Running a program to its end, or to a limit. A program that hangs is killed with everything it started, so that CI ends.

use std::os::unix::process::CommandExt as _;
use std::process::{Command, Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::project::Project;

/// Most that one program of a step may take.
pub(crate) const LIMIT: Duration = Duration::from_secs(25 * 60);

/// Runs a program with its output on ours.
///
/// # Errors
/// It cannot be started, exits with something other than 0, or reaches the limit.
pub(crate) fn run(project: &Project, command: &mut Command, limit: Duration) -> Result<()> {
    let name = describe(command);
    // On a terminal the program stays in our process group, so that Ctrl-C reaches it; in CI it gets one of its own, so that
    // all of it can be killed.
    if project.ci {
        command.process_group(0);
    }
    let mut child = command
        .spawn()
        .with_context(|| format!("cannot start `{name}`"))?;
    let id = child.id().to_string();
    let (sender, receiver) = mpsc::channel();
    let waiter = std::thread::spawn(move || sender.send(child.wait()));
    let status = match receiver.recv_timeout(limit) {
        Ok(status) => status.with_context(|| format!("cannot wait for `{name}`"))?,
        Err(_) => {
            let whom = if project.ci { format!("-{id}") } else { id };
            Command::new("kill")
                .args(["-KILL", "--", &whom])
                .status()
                .context("cannot run `kill`")?;
            let _ = waiter.join();
            bail!(
                "`{name}` took more than {} s and was killed",
                limit.as_secs()
            );
        }
    };
    let _ = waiter.join();
    if !status.success() {
        bail!("`{name}` failed: {status}");
    }
    Ok(())
}

/// Runs a program and returns what it printed.
///
/// # Errors
/// It cannot be started or fails; the error holds the end of what it said.
pub(crate) fn capture(command: &mut Command) -> Result<String> {
    let name = describe(command);
    let Output {
        status,
        stdout,
        stderr,
    } = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start `{name}`"))?;
    if !status.success() {
        let said = String::from_utf8_lossy(&stderr);
        let last: Vec<&str> = said
            .lines()
            .rev()
            .filter(|line| !line.trim().is_empty())
            .take(3)
            .collect();
        bail!(
            "`{name}` failed: {status}: {}",
            last.into_iter().rev().collect::<Vec<_>>().join(" | ")
        );
    }
    Ok(String::from_utf8_lossy(&stdout).into_owned())
}

/// The command as one would type it, shortened.
fn describe(command: &Command) -> String {
    let program = std::path::Path::new(command.get_program());
    let mut text = program
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    for argument in command.get_args().take(12) {
        text.push(' ');
        text.push_str(&argument.to_string_lossy());
    }
    text
}
