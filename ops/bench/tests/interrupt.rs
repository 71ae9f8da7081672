//! A run that is interrupted leaves nothing behind. The server here is the relay in a server's clothes, so that nothing has to
//! be built or installed.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use reactor::driver::DriverConfig;

const BENCH: &str = env!("CARGO_BIN_EXE_bench");
const LIMIT: Duration = Duration::from_secs(60);

#[expect(clippy::disallowed_methods, reason = "a test waits for real processes")]
fn now() -> Instant {
    Instant::now()
}

/// Waits for a condition.
fn wait(what: &str, mut holds: impl FnMut() -> bool) {
    let until = now() + LIMIT;
    while !holds() {
        assert!(now() < until, "in vain: {what}");
        std::thread::park_timeout(Duration::from_millis(10));
    }
}

/// A folder that is removed in the end.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A server that adds its process id to the file `pid` and relays.
fn server(folder: &Path) -> PathBuf {
    let script = format!(
        "#!/bin/sh\nif [ \"$1\" = --version ]; then echo pretender; exit; fi\n\
         echo $$ >> {pid}\n\
         while [ \"$1\" != --listen ]; do shift; done\nexec {BENCH} relay --listen \"$2\"\n",
        pid = folder.join("pid").display(),
    );
    let path = folder.join("server");
    fs::write(&path, script).expect("a script can be written");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("it can be executable");
    path
}

fn bench(folder: &Path, scenario: &str) -> Child {
    Command::new(BENCH)
        .args([scenario, "--pairs", "4", "--runs", "1000", "--pin", "never"])
        .arg("--server")
        .arg(server(folder))
        .env("TMPDIR", folder)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the bench starts")
}

fn lives(process: &str) -> bool {
    !process.is_empty()
        && fs::read_to_string(format!("/proc/{process}/stat"))
            .is_ok_and(|stat| !stat.contains(") Z "))
}

fn interrupted_by(signal: &str) {
    if reactor::probe::probe(&DriverConfig::small()).ring.is_err() {
        eprintln!("no io_uring here, which the relay needs");
        return;
    }
    let name = format!("bench-interrupt-{signal}-{}", std::process::id());
    let folder = Folder(std::env::temp_dir().join(name));
    fs::create_dir_all(&folder.0).expect("a folder can be made");
    let mut child = bench(&folder.0, "p2p");
    let read = || fs::read_to_string(folder.0.join("pid")).unwrap_or_default();
    wait("the server starts", || {
        lives(read().trim()) || child.try_wait().is_ok_and(|status| status.is_some())
    });
    let pid = read().trim().to_owned();
    let own = folder.0.join(format!("roadstead-bench-{}", child.id()));
    assert!(own.exists() && lives(&pid));
    let killed = Command::new("kill")
        .args([&format!("-{signal}"), &child.id().to_string()])
        .status();
    assert!(killed.is_ok_and(|status| status.success()));
    let mut status = None;
    wait("the bench ends", || {
        status = child.try_wait().expect("it can be waited for");
        status.is_some()
    });
    assert!(!status.is_some_and(|status| status.success()));
    wait("the server ends", || !lives(&pid));
    if signal != "KILL" {
        assert_eq!(status.and_then(|status| status.code()), Some(130));
        assert!(!own.exists(), "{} is left", own.display());
    }
}

#[test]
fn a_terminated_run_leaves_nothing() {
    interrupted_by("TERM");
}

#[test]
fn an_interrupted_run_leaves_nothing() {
    interrupted_by("INT");
}

#[test]
fn a_killed_run_leaves_no_process() {
    interrupted_by("KILL");
}

/// Processes that work in a folder below this one.
fn processes_in(folder: &Path) -> Vec<PathBuf> {
    let all = fs::read_dir("/proc").expect("there is /proc");
    let processes = all.flatten().map(|entry| entry.path());
    let is_there = |process: &PathBuf| {
        fs::read_link(process.join("cwd")).is_ok_and(|cwd| cwd.starts_with(folder))
    };
    processes.filter(is_there).collect()
}

/// Three nodes that never become members, since they are none, and their Valkey.
#[test]
fn an_interrupted_cluster_leaves_no_process() {
    let valkey = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.tools/valkey/valkey-server");
    if reactor::probe::probe(&DriverConfig::small()).ring.is_err() || !valkey.exists() {
        eprintln!("no io_uring here, or no Valkey: `cargo xtask tools valkey`");
        return;
    }
    let name = format!("bench-interrupt-cluster-{}", std::process::id());
    let folder = Folder(std::env::temp_dir().join(name));
    fs::create_dir_all(&folder.0).expect("a folder can be made");
    let mut child = bench(&folder.0, "cluster");
    wait("Valkey and three nodes start", || {
        processes_in(&folder.0).len() == 4 || child.try_wait().is_ok_and(|status| status.is_some())
    });
    assert_eq!(processes_in(&folder.0).len(), 4);
    let killed = Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status();
    assert!(killed.is_ok_and(|status| status.success()));
    let mut status = None;
    wait("the bench ends", || {
        status = child.try_wait().expect("it can be waited for");
        status.is_some()
    });
    assert_eq!(status.and_then(|status| status.code()), Some(130));
    assert_eq!(processes_in(&folder.0), Vec::<PathBuf>::new());
    let left = fs::read_dir(&folder.0).expect("it is there").flatten();
    let left = left.filter(|entry| entry.path().is_dir());
    assert_eq!(left.count(), 0, "folders are left");
}
