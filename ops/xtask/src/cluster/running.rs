//! Processes that go on after the verb that started them. A file says which they are, and nobody else is ever ended: a process is
//! the one of its file when it has the number, the start time and the program that are written there.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

/// Between two looks at something that is awaited.
pub(super) const LOOK: Duration = Duration::from_millis(50);

/// A process, as its file names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Running {
    id: u32,
    /// When it was started, in ticks since the machine was: no other process has this and the number.
    started: u64,
    program: PathBuf,
    file: PathBuf,
}

impl Running {
    /// Starts a process that outlives this one, with its output in a log, and writes its file.
    ///
    /// # Errors
    /// It cannot be started, or a file cannot be written.
    pub(super) fn start(command: &mut Command, folder: &Path, log: &Path) -> Result<Self> {
        use std::os::unix::process::CommandExt as _;
        let output = File::options().append(true).create(true).open(log);
        let output = output.with_context(|| format!("cannot write {}", log.display()))?;
        let mut child = command
            .process_group(0) // Ctrl-C on the terminal is not for it.
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("cannot start {}", command.get_program().display()))?;
        let file = folder.join("pid");
        let written = (|| -> Result<Self> {
            let this = Self {
                id: child.id(),
                started: start_time(child.id()).context("it has ended at once")?,
                program: program(child.id()).context("it has ended at once")?,
                file: file.clone(),
            };
            let text = format!(
                "{}\n{}\n{}\n",
                this.id,
                this.started,
                this.program.display()
            );
            fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
            Ok(this)
        })();
        if written.is_err() {
            let _ = child.kill(); // Nobody would find it again.
            let _ = child.wait();
        }
        // Who waits for it: a child that has ended stays in the table until somebody has asked for it.
        std::thread::spawn(move || child.wait());
        written
    }

    /// The process that a folder names, if it runs.
    pub(super) fn of(folder: &Path) -> Option<Self> {
        let file = folder.join("pid");
        let text = fs::read_to_string(&file).ok()?;
        let mut lines = text.lines();
        let this = Self {
            id: lines.next()?.parse().ok()?,
            started: lines.next()?.parse().ok()?,
            program: PathBuf::from(lines.next()?),
            file,
        };
        this.is_alive().then_some(this)
    }

    /// Its number.
    pub(super) fn id(&self) -> u32 {
        self.id
    }

    /// True while the process runs, and the number has not become another one's.
    pub(super) fn is_alive(&self) -> bool {
        start_time(self.id) == Some(self.started) && program(self.id) == Some(self.program.clone())
    }

    fn signal(&self, name: &str) -> Result<()> {
        if self.is_alive() {
            let sent = Command::new("kill")
                .args([name, &self.id.to_string()])
                .stderr(Stdio::null())
                .status();
            sent.context("cannot run `kill`")?;
        }
        Ok(())
    }

    /// Asks it to end, and waits; kills it when it does not. True when it had to be killed.
    ///
    /// # Errors
    /// It cannot be ended, e.g. because it is somebody else's.
    pub(super) fn end(&self, signal: &str, patience: Duration) -> Result<bool> {
        self.signal(signal)?;
        let mut killed = false;
        if !self.ends_within(patience) {
            killed = true;
            self.signal("-KILL")?;
            if !self.ends_within(patience) {
                bail!(
                    "process {} ({}) cannot be ended",
                    self.id,
                    self.program.display()
                );
            }
        }
        let _ = fs::remove_file(&self.file); // Whoever reads it sees that there is no such process.
        Ok(killed)
    }

    fn ends_within(&self, patience: Duration) -> bool {
        let start = Instant::now();
        while self.is_alive() {
            if start.elapsed() > patience {
                return false;
            }
            std::thread::park_timeout(LOOK);
        }
        true
    }
}

/// When a process was started, in ticks; `None` when there is none, or it has ended and nobody has asked for it yet.
fn start_time(id: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    // The second field, the name in brackets, may have anything in it.
    let mut fields = text.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    let started = fields.nth(18)?.parse().ok()?;
    (state != "Z" && state != "X").then_some(started)
}

/// The program that a process runs; the same when its file was built anew.
fn program(id: u32) -> Option<PathBuf> {
    let link = fs::read_link(format!("/proc/{id}/exe")).ok()?;
    let text = link.to_str()?;
    Some(PathBuf::from(
        text.strip_suffix(" (deleted)").unwrap_or(text),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    fn folder(name: &str) -> PathBuf {
        let folder =
            std::env::temp_dir().join(format!("roadstead-xtask-{}-{name}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder can be made");
        folder
    }

    fn sleeper(folder: &Path) -> Running {
        let log = folder.join("log");
        Running::start(Command::new("sleep").arg("600"), folder, &log).expect("sleep is everywhere")
    }

    #[test]
    fn a_process_is_found_again_by_its_file_and_ended() {
        let folder = folder("ended");
        let started = sleeper(&folder);
        let found = Running::of(&folder).expect("it runs");
        assert_eq!(found, started);
        assert!(
            !found.end("-TERM", PATIENCE).expect("it is ours"),
            "it ends by itself"
        );
        assert!(!started.is_alive());
        assert_eq!(Running::of(&folder), None);
        fs::remove_dir_all(folder).expect("it is there");
    }

    #[test]
    fn who_has_got_the_number_of_another_one_is_left_alone() {
        let folder = folder("another");
        let ours = sleeper(&folder);
        let file = folder.join("pid");
        let text = fs::read_to_string(&file).expect("it is written");
        for (from, to) in [
            (ours.started.to_string(), (ours.started + 1).to_string()),
            (
                ours.program.display().to_string(),
                "/bin/roadstead".to_owned(),
            ),
        ] {
            fs::write(&file, text.replace(&from, &to)).expect("it can be written");
            assert_eq!(Running::of(&folder), None, "{to}");
        }
        let other = Running {
            started: ours.started + 1,
            ..ours.clone()
        };
        other
            .end("-KILL", PATIENCE)
            .expect("there is nothing to end");
        assert!(ours.is_alive());
        ours.end("-KILL", PATIENCE).expect("it is ours");
        fs::remove_dir_all(folder).expect("it is there");
    }

    #[test]
    fn who_does_not_want_to_end_is_killed() {
        let folder = folder("stubborn");
        let mut command = Command::new("sh");
        command.args([
            "-c",
            "trap '' TERM; echo trapped; while :; do sleep 0.05; done",
        ]);
        let log = folder.join("log");
        let stubborn = Running::start(&mut command, &folder, &log).expect("sh is everywhere");
        let start = Instant::now();
        while fs::read_to_string(&log).is_ok_and(|text| text.is_empty())
            && start.elapsed() < PATIENCE
        {
            std::thread::park_timeout(LOOK);
        }
        assert!(stubborn.end("-TERM", LOOK * 4).expect("it is ours"));
        assert!(!stubborn.is_alive());
        fs::remove_dir_all(folder).expect("it is there");
    }
}
