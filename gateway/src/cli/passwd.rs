//! `roadstead passwd`: puts a user into a password file, changes its password, or takes it out.

use std::fs::File;
use std::io::{self, IsTerminal as _, Read as _, Write};
use std::path::Path;

use aws_lc_rs::rand;
use rustix::fs::{FlockOperation, flock};
use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

use super::arguments::Passwd;
use super::{CommandError, EXIT_DONE};
use crate::access::password::{PasswordFile, Problem, check_names, hash_line, scram_line};
use crate::durable_file;

/// Longest password that is read.
const PASSWORD_BYTES_MAX: u64 = 4_096;

/// Does what was typed.
pub(super) fn run(passwd: &Passwd, out: &mut dyn Write) -> Result<u8, CommandError> {
    let Passwd {
        file,
        user,
        groups,
        scram,
        delete,
    } = passwd;
    let new = if *delete {
        None
    } else {
        // Before a password is asked for: a name that cannot be in a file would make it typed for nothing.
        let groups: Vec<&str> = groups.iter().map(|group| group.trim()).collect();
        check_names(user, &groups).map_err(unfit)?;
        Some(line(user, &groups, &password()?, *scram)?)
    };
    let is_new = change(file, user, new.as_deref())?;
    let done = match (delete, is_new) {
        (true, _) => "removed",
        (false, true) => "added",
        (false, false) => "changed",
    };
    writeln!(out, "{user}: {done}")?;
    Ok(EXIT_DONE)
}

fn line(user: &str, groups: &[&str], password: &[u8], scram: bool) -> Result<String, CommandError> {
    let mut salt = [0; 16];
    rand::fill(&mut salt).map_err(|_| {
        CommandError::failed("the system has no random numbers", "try again in a moment")
    })?;
    let line = match (scram, std::str::from_utf8(password)) {
        (false, _) => hash_line(user, groups, password, salt),
        (true, Ok(password)) => scram_line(user, groups, password, salt),
        (true, Err(_)) => {
            let remedy = "choose one of printable ASCII characters, or leave --scram out";
            return Err(CommandError::failed(
                "the password is not text, which SCRAM asks for",
                remedy,
            ));
        }
    };
    line.map_err(unfit)
}

fn unfit(problem: Problem) -> CommandError {
    CommandError::Failed {
        error: problem.to_string(),
        remedy: None,
    }
}

/// Replaces the line of a user, adds it, or takes it out; true when the user was not there. Everything else stays as it is.
fn change(path: &Path, user: &str, new: Option<&str>) -> Result<bool, CommandError> {
    let failed = |error: &dyn std::fmt::Display, remedy: &str| {
        CommandError::failed(format!("{}: {error}", path.display()), remedy)
    };
    // Whoever changes the file at the same time waits; the folder is locked, for the file itself is replaced.
    let folder = File::open(durable_file::folder(path))
        .map_err(|error| failed(&error, "name a file in a folder that is there"))?;
    flock(&folder, FlockOperation::LockExclusive)
        .map_err(|error| failed(&error, "name a file on a file system with locks"))?;
    let old = match std::fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && new.is_some() => String::new(),
        outcome => outcome.map_err(|error| failed(&error, "name a password file"))?,
    };
    let (text, found) = with_line(&old, user, new);
    if !found && new.is_none() {
        return Err(CommandError::failed(
            format!("{}: no user {user:?}", path.display()),
            "names are case-sensitive",
        ));
    }
    // A node would not take the file, and it is better to hear of it now.
    PasswordFile::parse(&text, &[0; 32])
        .map_err(|error| failed(&error, "mend that line first; nothing was changed"))?;
    durable_file::replace(path, text.as_bytes())
        .map_err(|error| failed(&error, "see that the folder can be written to"))?;
    Ok(!found)
}

/// The text of a file with another line for a user, and whether the user had one.
fn with_line(old: &str, user: &str, new: Option<&str>) -> (String, bool) {
    let mut text = String::with_capacity(old.len() + 256);
    let mut add = |line: &str| {
        text.push_str(line);
        text.push('\n');
    };
    let mut found = false;
    for line in old.lines() {
        let is_theirs =
            !line.starts_with('#') && line.split_once(':').is_some_and(|(name, _)| name == user);
        match new {
            _ if !is_theirs => add(line),
            Some(new) if !found => add(new),
            _ => {}
        }
        found |= is_theirs;
    }
    if let (false, Some(new)) = (found, new) {
        add(new);
    }
    (text, found)
}

/// The password: typed twice at a terminal, else the first line of standard input.
fn password() -> Result<Zeroizing<Vec<u8>>, CommandError> {
    let password = if io::stdin().is_terminal() {
        let first = typed("Password: ")?;
        if typed("The same again: ")? != first {
            return Err(CommandError::failed(
                "the two passwords differ",
                "try again; nothing was changed",
            ));
        }
        first
    } else {
        first_line()?
    };
    if password.is_empty() {
        return Err(CommandError::failed(
            "the password is empty",
            "type one, or give it as the first line of standard input",
        ));
    }
    Ok(password)
}

fn first_line() -> Result<Zeroizing<Vec<u8>>, CommandError> {
    let mut input = Zeroizing::new(Vec::with_capacity(PASSWORD_BYTES_MAX as usize + 1));
    // Byte by byte as far as this reader is concerned: what stands behind the line is not ours.
    for byte in io::stdin().lock().take(PASSWORD_BYTES_MAX + 1).bytes() {
        match byte? {
            b'\n' => break,
            byte => input.push(byte),
        }
    }
    if input.last() == Some(&b'\r') {
        input.pop();
    }
    if input.len() as u64 > PASSWORD_BYTES_MAX {
        return Err(CommandError::failed(
            format!("the password has more than {PASSWORD_BYTES_MAX} bytes"),
            "choose a shorter one",
        ));
    }
    Ok(input)
}

/// A line from the terminal that is not shown while it is typed.
fn typed(prompt: &str) -> Result<Zeroizing<Vec<u8>>, CommandError> {
    eprint!("{prompt}");
    let terminal = io::stdin();
    let shown = tcgetattr(&terminal).map_err(io::Error::from)?;
    let mut hidden = shown.clone();
    hidden.local_modes.remove(LocalModes::ECHO);
    tcsetattr(&terminal, OptionalActions::Flush, &hidden).map_err(io::Error::from)?;
    let line = first_line();
    tcsetattr(&terminal, OptionalActions::Now, &shown).map_err(io::Error::from)?;
    eprintln!();
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_line_of_the_user_changes() {
        let old = "# alice: the boss\nalice:1:staff\n\nbob:2\nalice2:3\n";
        let changed = with_line(old, "alice", Some("alice:9"));
        assert_eq!(
            changed,
            (
                "# alice: the boss\nalice:9\n\nbob:2\nalice2:3\n".into(),
                true
            )
        );
        let added = with_line("bob:2", "alice", Some("alice:9"));
        assert_eq!(added, ("bob:2\nalice:9\n".into(), false));
        let removed = with_line(old, "bob", None);
        assert_eq!(
            removed,
            (
                "# alice: the boss\nalice:1:staff\n\nalice2:3\n".into(),
                true
            )
        );
        assert_eq!(with_line(old, "carol", None), (old.into(), false));
        let twice = with_line("bob:1\nbob:2\n", "bob", Some("bob:3"));
        assert_eq!(twice, ("bob:3\n".into(), true), "one of two stays");
    }
}
