//! `roadstead passwd` as a process.

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use gateway::access::password::PasswordFile;

use crate::world::Folder;

/// Exit code, standard output and standard error.
fn passwd(input: &[u8], arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_roadstead"))
        .arg("passwd")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program of this crate runs");
    let mut stdin = child.stdin.take().expect("piped");
    let _ = stdin.write_all(input); // One that fails before it reads has closed it.
    drop(stdin);
    let output = child.wait_with_output().expect("it ends");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    (
        output.status.code(),
        text(output.stdout),
        text(output.stderr),
    )
}

fn read(path: &Path) -> PasswordFile {
    let text = std::fs::read_to_string(path).expect("there");
    PasswordFile::parse(&text, &[0; 32]).expect("a good file")
}

#[test]
fn users_are_added_changed_and_removed_and_the_rest_stays() {
    let folder = Folder::new();
    let path = folder.0.join("users");
    let name = path.to_str().expect("text");
    let done = |input: &[u8], arguments: &[&str], said: &str| {
        let all = [&[name], arguments].concat();
        assert_eq!(
            passwd(input, &all),
            (Some(0), format!("{said}\n"), String::new())
        );
    };
    done(
        b"secret\n",
        &["alice", "--groups", "staff,night"],
        "alice: added",
    );
    let mode = |path: &Path| std::fs::metadata(path).expect("there").permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o600, "nobody else reads it");
    let text = std::fs::read_to_string(&path).expect("there");
    std::fs::write(&path, format!("# users of the gateway\n\n{text}")).expect("written");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).expect("ours");
    done(b"hunter2\r\nmore", &["bob", "--scram"], "bob: added");
    let file = read(&path);
    let identity = file.verify("alice", b"secret").expect("her password");
    assert_eq!(
        *identity.groups,
        [Box::<str>::from("staff"), Box::<str>::from("night")]
    );
    assert!(file.verify("bob", b"hunter2").is_ok());
    done(b"other", &["alice"], "alice: changed");
    let file = read(&path);
    assert!(file.verify("alice", b"secret").is_err());
    assert!(
        file.verify("alice", b"other")
            .is_ok_and(|identity| identity.groups.is_empty())
    );
    done(b"", &["alice", "--delete"], "alice: removed");
    let text = std::fs::read_to_string(&path).expect("there");
    assert!(
        text.starts_with("# users of the gateway\n\nbob:SCRAM-SHA-256$"),
        "{text}"
    );
    assert_eq!((text.lines().count(), mode(&path)), (3, 0o640));
    let names = std::fs::read_dir(&folder.0).expect("a folder").count();
    assert_eq!(names, 1, "nothing else is left");
}

#[test]
fn what_cannot_be_is_refused_with_a_reason_and_changes_nothing() {
    let folder = Folder::new();
    let path = folder.write("users", "bob:plain\n");
    let missing = folder.0.join("none/users").display().to_string();
    let absent = folder.0.join("absent").display().to_string();
    let (path, missing, absent) = (path.as_str(), missing.as_str(), absent.as_str());
    for (input, arguments, reason) in [
        (
            &b"x\n"[..],
            &[path, "a/b"][..],
            "the name \"a/b\" is empty, or has",
        ),
        (
            b"x\n",
            &[path, "alice", "--groups", "a+b"],
            "the group \"a+b\"",
        ),
        (b"x\n", &[path, "alice", "--groups", ""], "the group \"\""),
        (b"\n", &[path, "alice"], "the password is empty"),
        (b"", &[path, "alice"], "the password is empty"),
        (
            "schön\n".as_bytes(),
            &[path, "alice", "--scram"],
            "printable ASCII",
        ),
        (b"\xff\n", &[path, "alice", "--scram"], "not text"),
        (&[b'x'; 5_000], &[path, "alice"], "more than 4096 bytes"),
        (b"x\n", &[path, "alice"], "line 1: the hash is neither"),
        (b"x\n", &[path, "eve", "--delete"], "no user \"eve\""),
        (b"x\n", &[missing, "alice"], "No such file or directory"),
        (
            b"",
            &[absent, "alice", "--delete"],
            "No such file or directory",
        ),
    ] {
        let (code, out, err) = passwd(input, arguments);
        assert_eq!((code, out.as_str()), (Some(1), ""), "{arguments:?}: {err}");
        assert!(err.contains(reason), "{arguments:?}: {err}");
    }
    assert_eq!(std::fs::read_to_string(path).expect("there"), "bob:plain\n");
    assert!(!Path::new(absent).exists());
    // The bad line itself can be replaced.
    let (code, _, err) = passwd(b"x\n", &[path, "bob"]);
    assert_eq!((code, err.as_str()), (Some(0), ""));
}
