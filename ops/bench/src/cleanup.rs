//! What has to be undone however a run ends: processes that were started, settings of the kernel that were changed.
//!
//! Guards undo it on return and on errors. The release profile aborts on a panic, so a hook undoes it there too. A signal
//! only sets a flag ([`interrupted`]), at which every wait of a run returns an error.

use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::{fs, io};

static UNDO: Mutex<Vec<(u64, Undo)>> = Mutex::new(Vec::new());
static NEXT: AtomicU64 = AtomicU64::new(0);
static INTERRUPTED: Mutex<Option<Arc<AtomicBool>>> = Mutex::new(None);

#[derive(Debug)]
enum Undo {
    Kill(Child),
    Restore { path: String, value: String },
    Remove(std::path::PathBuf),
}

impl Undo {
    fn run(self) {
        // Nothing here has a caller who could do more about an error than read of it.
        let outcome = match self {
            Self::Kill(child) => kill_group(child),
            Self::Restore { path, value } => fs::write(&path, value),
            Self::Remove(path) if path.is_dir() => fs::remove_dir_all(path),
            Self::Remove(path) => fs::remove_file(path),
        };
        if let Err(error) = outcome {
            eprintln!("bench: not undone: {error}");
        }
    }
}

/// Kills a process and whatever it started in its group, such as the port mapper of an Erlang node.
fn kill_group(mut child: Child) -> io::Result<()> {
    let group = format!("-{}", child.id());
    let _ = signal("KILL", &group); // The process itself may be gone already, which the next line finds out.
    child.kill()?;
    child.wait().map(drop)
}

/// Sends a signal. There is no call for it in the standard library, and no unsafe code here.
fn signal(name: &str, whom: &str) -> io::Result<()> {
    Command::new("kill")
        .args([&format!("-{name}"), "--", whom])
        .stderr(Stdio::null())
        .status()
        .map(drop)
}

/// Undoes one thing when it is dropped.
#[derive(Debug)]
#[must_use]
pub(crate) struct Guard(u64);

impl Drop for Guard {
    fn drop(&mut self) {
        let mut list = lock(&UNDO);
        let at = list.iter().position(|(id, _)| *id == self.0);
        let undo = at.map(|at| list.remove(at).1);
        drop(list);
        if let Some(undo) = undo {
            undo.run();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn register(undo: Undo) -> Guard {
    let id = NEXT.fetch_add(1, Ordering::Relaxed);
    lock(&UNDO).push((id, undo));
    Guard(id)
}

/// Kills this process, the leader of a process group, and its group in the end.
pub(crate) fn kill_at_end(child: Child) -> Guard {
    register(Undo::Kill(child))
}

/// Removes this folder in the end.
pub(crate) fn remove_at_end(folder: std::path::PathBuf) -> Guard {
    register(Undo::Remove(folder))
}

/// Sets a sysctl (`net/core/somaxconn`), and sets it back in the end.
///
/// # Errors
/// When it cannot be read or written: mostly not enough rights.
pub(crate) fn set_sysctl(name: &str, value: &str) -> io::Result<Guard> {
    let path = format!("/proc/sys/{name}");
    let before = fs::read_to_string(&path)?;
    fs::write(&path, value)?;
    Ok(register(Undo::Restore {
        path,
        value: before,
    }))
}

/// Whether the process of a guard has ended by itself.
pub(crate) fn has_ended(guard: &Guard) -> bool {
    let mut list = lock(&UNDO);
    let child = list.iter_mut().find(|(id, _)| *id == guard.0);
    match child {
        Some((_, Undo::Kill(child))) => child.try_wait().is_ok_and(|status| status.is_some()),
        _ => true,
    }
}

/// Asks the process of a guard to end as its operator would. It may take its time: [`has_ended`].
///
/// # Errors
/// When there is no `kill` on this machine.
pub(crate) fn ask_to_end(guard: &Guard) -> io::Result<()> {
    signal_to(guard, "TERM")
}

/// Stops the process of a guard as the machine would that stands still, or lets it go on.
///
/// # Errors
/// When there is no `kill` on this machine.
pub(crate) fn stand_still(guard: &Guard, still: bool) -> io::Result<()> {
    signal_to(guard, if still { "STOP" } else { "CONT" })
}

fn signal_to(guard: &Guard, name: &str) -> io::Result<()> {
    let list = lock(&UNDO);
    match list.iter().find(|(id, _)| *id == guard.0) {
        Some((_, Undo::Kill(child))) => signal(name, &child.id().to_string()),
        _ => Ok(()),
    }
}

/// Catches SIGINT, SIGTERM and SIGHUP, and panics.
///
/// # Errors
/// When the system refuses the handlers.
pub(crate) fn install() -> io::Result<()> {
    let flag = Arc::new(AtomicBool::new(false));
    for signal in [
        signal_hook::consts::SIGINT,
        signal_hook::consts::SIGTERM,
        signal_hook::consts::SIGHUP,
    ] {
        // A second Ctrl-C ends the process at once. SIGTERM may come twice for one stop: timeout(1) sends it so.
        if signal == signal_hook::consts::SIGINT {
            signal_hook::flag::register_conditional_default(signal, Arc::clone(&flag))?;
        }
        signal_hook::flag::register(signal, Arc::clone(&flag))?;
    }
    *lock(&INTERRUPTED) = Some(flag);
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        before(panic);
        if let Ok(mut list) = UNDO.try_lock() {
            list.drain(..).rev().for_each(|(_, undo)| undo.run());
        }
    }));
    Ok(())
}

/// True once a signal asked to stop.
pub(crate) fn interrupted() -> bool {
    let flag = lock(&INTERRUPTED);
    flag.as_ref()
        .is_some_and(|flag| flag.load(Ordering::Relaxed))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead as _, BufReader};
    use std::os::unix::process::CommandExt as _;

    #[test]
    fn what_a_process_started_ends_with_it() {
        let mut child = Command::new("sh")
            .args(["-c", "sleep 1000 & echo $!; wait"])
            .process_group(0)
            .stdout(Stdio::piped())
            .spawn()
            .expect("there is a shell");
        let mut line = String::new();
        let out = child.stdout.take().expect("it is piped");
        BufReader::new(out)
            .read_line(&mut line)
            .expect("the shell says whom it started");
        let grandchild = format!("/proc/{}/stat", line.trim());
        assert!(fs::metadata(&grandchild).is_ok());
        drop(kill_at_end(child));
        // It is killed, and stays as a zombie until somebody collects it.
        let until = crate::clock::now() + std::time::Duration::from_secs(10);
        let lives = || fs::read_to_string(&grandchild).is_ok_and(|stat| !stat.contains(") Z "));
        while lives() {
            assert!(crate::clock::now() < until, "the grandchild still runs");
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_changed_setting_is_set_back() {
        let path = std::env::temp_dir().join(format!("bench-setting-{}", std::process::id()));
        fs::write(&path, "changed").expect("it can be written");
        drop(register(Undo::Restore {
            path: path.display().to_string(),
            value: "before".to_owned(),
        }));
        let found = fs::read_to_string(&path).expect("it is there");
        drop(register(Undo::Remove(path)));
        assert_eq!(found, "before");
    }

    #[test]
    fn a_folder_is_gone_in_the_end() {
        let folder = std::env::temp_dir().join(format!("bench-cleanup-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("it can be made");
        drop(remove_at_end(folder.clone()));
        assert!(!folder.exists());
    }
}
