//! A short crash run, when the server is built: its release build next to this test's, or where `CHAOS_SERVER` says.

use std::path::PathBuf;
use std::process::Command;

#[test]
fn ten_crashes_lose_nothing_that_was_acknowledged() {
    let chaos = PathBuf::from(env!("CARGO_BIN_EXE_chaos"));
    let beside = chaos
        .parent()
        .and_then(|profile| profile.parent())
        .map(|target| target.join("release/roadstead"));
    let server = std::env::var_os("CHAOS_SERVER")
        .map(PathBuf::from)
        .or(beside)
        .filter(|path| path.exists());
    let Some(server) = server else {
        eprintln!("skipped: the server is not built; `cargo build --release -p gateway`");
        return;
    };
    let run = Command::new(chaos)
        .args(["crash", "--quick", "--io", "epoll", "--seed", "1"])
        .arg("--server")
        .arg(server)
        .output();
    let run = run.expect("the program of this crate runs");
    let said = String::from_utf8_lossy(&run.stdout);
    assert!(run.status.success(), "{said}");
    assert!(said.trim_end().ends_with(" passed, 0 failed"), "{said}");
}
