//! The password file: who has which password, and in which groups.
//!
//! ```text
//! # name:hash[:group,group]
//! alice:$argon2id$v=19$m=19456,t=2,p=1$c2FsdHNhbHRzYWx0$…:staff,night
//! bob:SCRAM-SHA-256$4096:c2FsdA==$…:…
//! ```
//!
//! A SCRAM entry, as PostgreSQL writes it, serves passwords and SCRAM; an argon2id entry serves passwords only.
//!
//! **A name that is not in the file costs what one that is costs**: it is checked against an entry that nobody can match, with the
//! parameters of some entry of the file, always the same for the same name. Checking takes milliseconds and megabytes by intent:
//! never do it on a core.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use argon2::password_hash::phc::{PasswordHash, Salt};
use argon2::{Algorithm, Argon2, Params, Version};
use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::hmac;

use super::Identity;
use super::scram::{self, Verifier};

/// Most entries in a file.
pub const USERS_MAX: usize = 1_000_000;

/// The longest line of a file, groups included.
const LINE_BYTES_MAX: usize = 8_192;

/// What a hash may ask for, so that neither a file nor a mistake in it can take the machine.
const MEMORY_KIB_MAX: u32 = 64 * 1024;
const PASSES_MAX: u32 = 16;
const LANES_MAX: u32 = 4;

/// What is wrong with a password file. The operator's to mend. No message contains a hash.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {problem}")]
pub struct FileError {
    /// Where, from 1.
    pub line: usize,
    /// What is wrong and what would be right.
    pub problem: Problem,
}

/// What can be wrong with a line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// No `:`.
    #[error("not name:hash[:group,group]; `roadstead passwd` writes such a line")]
    Form,
    /// More than a line may have.
    #[error("longer than {LINE_BYTES_MAX} bytes; put the user into fewer groups")]
    TooLong,
    /// A name that no placeholder of a rule can stand for.
    #[error(
        "the {what} {name:?} is empty, or has a control character, /, + or #, which no topic level may have"
    )]
    Name {
        /// User or group.
        what: &'static str,
        /// As it was written.
        name: String,
    },
    /// A name for the second time.
    #[error("{0:?} is in the file already; remove one of the two lines")]
    Twice(String),
    /// Neither argon2id nor SCRAM.
    #[error(
        "the hash is neither $argon2id$… nor SCRAM-SHA-256$…; hash the password again with `roadstead passwd`"
    )]
    Kind,
    /// The hash is cut off or changed.
    #[error("the hash is damaged ({0}); hash the password again with `roadstead passwd`")]
    Damaged(&'static str),
    /// The hash asks for more than it may.
    #[error(
        "the hash asks for {what} = {asked}, {max} at most; hash the password again with `roadstead passwd`"
    )]
    TooCostly {
        /// Which parameter.
        what: &'static str,
        /// How much it asks for.
        asked: u32,
        /// How much it may.
        max: u32,
    },
    /// More than [`USERS_MAX`].
    #[error("more than {USERS_MAX} users; use tokens or the call-out for so many")]
    TooMany,
}

/// Why somebody is not let in. It does not say whether the name is known, and nobody else should.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the name or the password is wrong")]
pub struct Refused;

/// The users of a file.
#[derive(Clone, Debug)]
pub struct PasswordFile {
    /// Sorted by name.
    users: Box<[(Arc<str>, Entry)]>,
    /// Makes what an unknown name is answered with the same every time, and not to be foretold.
    secret: hmac::Key,
}

#[derive(Clone, Debug)]
struct Entry {
    stored: Stored,
    groups: Arc<[Box<str>]>,
}

#[derive(Clone)]
enum Stored {
    Argon2 {
        parameters: Params,
        salt: Box<[u8]>,
        hash: Box<[u8]>,
    },
    Scram(Verifier),
}

impl fmt::Debug for Stored {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Argon2 { .. } => "argon2id",
            Self::Scram(_) => "SCRAM-SHA-256",
        })
    }
}

impl PasswordFile {
    /// Reads the text of a file. `secret` should be random and, so that a restart does not tell unknown names from known ones, stay.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn parse(text: &str, secret: &[u8; 32]) -> Result<Self, FileError> {
        let mut users = BTreeMap::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim_end();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let failed = |problem| FileError {
                line: index + 1,
                problem,
            };
            let (name, entry) = parse_line(line).map_err(failed)?;
            if users.len() == USERS_MAX {
                return Err(failed(Problem::TooMany));
            }
            if users.insert(Arc::from(name), entry).is_some() {
                return Err(failed(Problem::Twice(name.to_owned())));
            }
        }
        Ok(Self {
            users: users.into_iter().collect(),
            secret: hmac::Key::new(hmac::HMAC_SHA256, secret),
        })
    }

    /// How many users there are.
    pub fn len(&self) -> usize {
        self.users.len()
    }

    /// True when nobody is in the file.
    pub fn is_empty(&self) -> bool {
        self.users.is_empty()
    }

    /// True when this user is in the file.
    pub fn contains(&self, user: &str) -> bool {
        self.find(user).is_some()
    }

    /// Whether this is the user's password. Slow by intent.
    ///
    /// # Errors
    /// It is not, or there is no such user.
    pub fn verify(&self, user: &str, password: &[u8]) -> Result<Identity, Refused> {
        let Some((name, entry)) = self.entry_to_check(user) else {
            Stored::of_nobody().matches(password);
            return Err(Refused);
        };
        if entry.stored.matches(password) && **name == *user {
            Ok(identity(name, entry))
        } else {
            Err(Refused)
        }
    }

    /// The identity and the SCRAM verifier of a user. For anybody else `None` and a verifier that nobody can satisfy, always the
    /// same for the same name.
    pub(super) fn scram(&self, user: &str) -> (Option<Identity>, Verifier) {
        let model = self.stand_in(user, |stored| matches!(stored, Stored::Scram(_)));
        let model = model.and_then(|(_, entry)| match &entry.stored {
            Stored::Scram(verifier) => Some(verifier),
            Stored::Argon2 { .. } => None,
        });
        // Made for known names too, so that they take as long.
        let nobodys = Verifier::nobodys(user, &self.secret, model);
        if let Some((name, entry)) = self.find(user)
            && let Stored::Scram(verifier) = &entry.stored
        {
            return (Some(identity(name, entry)), verifier.clone());
        }
        (None, nobodys)
    }

    fn find(&self, user: &str) -> Option<&(Arc<str>, Entry)> {
        let at = self.users.binary_search_by(|(name, _)| (**name).cmp(user));
        at.ok().map(|at| &self.users[at])
    }

    /// The user's entry, or one that stands in for it, so that the answer takes as long. `None` for an empty file.
    fn entry_to_check(&self, user: &str) -> Option<&(Arc<str>, Entry)> {
        self.find(user).or_else(|| self.stand_in(user, |_| true))
    }

    /// Some entry of a kind, the same one every time for the same name. The search is bounded: entries of a kind that is rare in
    /// the file may be missed, and then the defaults stand in.
    fn stand_in(
        &self,
        user: &str,
        is_kind: impl Fn(&Stored) -> bool,
    ) -> Option<&(Arc<str>, Entry)> {
        let tag = hmac::sign(&self.secret, user.as_bytes());
        let (start, _) = tag.as_ref().split_first_chunk::<8>()?;
        let start = u64::from_le_bytes(*start) as usize;
        let count = self.users.len();
        (0..count.min(1_000))
            .map(|step| &self.users[start.wrapping_add(step) % count])
            .find(|(_, entry)| is_kind(&entry.stored))
    }
}

fn identity(name: &Arc<str>, entry: &Entry) -> Identity {
    Identity {
        user: Some(Arc::clone(name)),
        groups: Arc::clone(&entry.groups),
        ..Identity::anonymous()
    }
}

impl Stored {
    /// What a name is checked against when the file is empty.
    fn of_nobody() -> Self {
        Self::Argon2 {
            parameters: Params::DEFAULT,
            salt: Box::new([0; 16]),
            hash: Box::new([0; 32]),
        }
    }

    fn matches(&self, password: &[u8]) -> bool {
        match self {
            Self::Argon2 {
                parameters,
                salt,
                hash,
            } => {
                let mut found = vec![0; hash.len()];
                let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, parameters.clone());
                let hashed = argon2.hash_password_into(password, salt, &mut found);
                hashed.is_ok() && verify_slices_are_equal(&found, hash).is_ok()
            }
            Self::Scram(verifier) => verifier.matches(password),
        }
    }
}

/// The line of a user for a password file, with argon2id in the parameters that OWASP recommends (19 MiB, 2 passes, 1 lane).
///
/// # Errors
/// The name or a group cannot be in a file.
pub fn hash_line(
    user: &str,
    groups: &[&str],
    password: &[u8],
    salt: [u8; 16],
) -> Result<String, Problem> {
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, Params::DEFAULT);
    let mut hash = [0; 32];
    let hashed = argon2.hash_password_into(password, &salt, &mut hash);
    hashed.map_err(|_| Problem::Damaged("argon2id failed: is there memory left?"))?;
    let parameters = &Params::DEFAULT;
    let encode = |bytes: &[u8]| {
        use base64::Engine;
        base64::engine::general_purpose::STANDARD_NO_PAD.encode(bytes)
    };
    let hash = format!(
        "$argon2id$v=19$m={},t={},p={}${}${}",
        parameters.m_cost(),
        parameters.t_cost(),
        parameters.p_cost(),
        encode(&salt),
        encode(&hash)
    );
    line(user, &hash, groups)
}

/// The line of a user for a password file, for SCRAM-SHA-256.
///
/// # Errors
/// The name or a group cannot be in a file, or the password is not plain ASCII.
pub fn scram_line(
    user: &str,
    groups: &[&str],
    password: &str,
    salt: [u8; 16],
) -> Result<String, Problem> {
    let verifier = Verifier::of_password(password, &salt, scram::ITERATIONS);
    let verifier = verifier.ok_or(Problem::Damaged(
        "SCRAM takes a password of printable ASCII characters only, or use argon2id",
    ))?;
    line(user, &verifier.to_text(), groups)
}

fn line(user: &str, hash: &str, groups: &[&str]) -> Result<String, Problem> {
    check_names(user, groups)?;
    let separator = if groups.is_empty() { "" } else { ":" };
    let line = format!("{user}:{hash}{separator}{}", groups.join(","));
    if line.len() > LINE_BYTES_MAX {
        return Err(Problem::TooLong);
    }
    Ok(line)
}

/// Whether a user of this name and in these groups can be in a file.
///
/// # Errors
/// The first name that cannot.
pub fn check_names(user: &str, groups: &[&str]) -> Result<(), Problem> {
    check_name("name", user)?;
    groups
        .iter()
        .try_for_each(|group| check_name("group", group))
}

fn check_name(what: &'static str, name: &str) -> Result<(), Problem> {
    let bad = |c: char| c.is_control() || matches!(c, '/' | '+' | '#' | ':' | ',');
    if name.trim().is_empty() || name.contains(bad) {
        return Err(Problem::Name {
            what,
            name: name.to_owned(),
        });
    }
    Ok(())
}

fn parse_line(line: &str) -> Result<(&str, Entry), Problem> {
    if line.len() > LINE_BYTES_MAX {
        return Err(Problem::TooLong);
    }
    let (name, rest) = line.split_once(':').ok_or(Problem::Form)?;
    check_name("name", name)?;
    let (stored, groups) = if rest.starts_with("$argon2id$") {
        let (hash, groups) = match rest.split_once(':') {
            Some((hash, groups)) => (hash, Some(groups)),
            None => (rest, None),
        };
        (parse_argon2(hash)?, groups)
    } else if rest.starts_with(scram::PREFIX) {
        // Its form has two colons of its own.
        let (end, groups) = match rest.match_indices(':').nth(2) {
            Some((at, _)) => (at, Some(&rest[at + 1..])),
            None => (rest.len(), None),
        };
        (Stored::Scram(Verifier::parse(&rest[..end])?), groups)
    } else {
        return Err(Problem::Kind);
    };
    let groups = groups.map_or_else(|| Ok(Arc::default()), parse_groups)?;
    Ok((name, Entry { stored, groups }))
}

fn parse_groups(text: &str) -> Result<Arc<[Box<str>]>, Problem> {
    let group = |group: &str| {
        let group = group.trim();
        check_name("group", group).map(|()| group.into())
    };
    text.split(',').map(group).collect()
}

fn parse_argon2(text: &str) -> Result<Stored, Problem> {
    let hash = PasswordHash::new(text).map_err(|_| Problem::Damaged("not the form of a hash"))?;
    if hash.version != Some(19) {
        return Err(Problem::Damaged("its version is not v=19"));
    }
    let parameters =
        Params::try_from(&hash).map_err(|_| Problem::Damaged("its parameters are no argon2id"))?;
    let bounds = [
        ("m", parameters.m_cost(), MEMORY_KIB_MAX),
        ("t", parameters.t_cost(), PASSES_MAX),
        ("p", parameters.p_cost(), LANES_MAX),
    ];
    for (what, asked, max) in bounds {
        if asked > max {
            return Err(Problem::TooCostly { what, asked, max });
        }
    }
    let salt = hash
        .salt
        .as_ref()
        .map(Salt::as_ref)
        .filter(|salt: &&[u8]| salt.len() >= 8);
    let salt = salt
        .ok_or(Problem::Damaged("it has no salt of 8 bytes or more"))?
        .into();
    let output = hash.hash.as_ref().map(|output| output.as_bytes());
    let output = output.filter(|bytes| (16..=64).contains(&bytes.len()));
    let hash = output
        .ok_or(Problem::Damaged("it is not 16 to 64 bytes long"))?
        .into();
    Ok(Stored::Argon2 {
        parameters,
        salt,
        hash,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// As another implementation computed it for the password `open sesame`.
    const HASH: &str = "$argon2id$v=19$m=64,t=2,p=1$c2FsdHNhbHRzYWx0c2FsdA$bX3/WJv35GcmIr93ahKZ4M8sebipQgdE7n6CQJ9N1Lw";
    const SCRAM: &str = "SCRAM-SHA-256$4096:MDEyMzQ1Njc4OWFiY2RlZg==$zFuK0LLTd7QL5BPwE9y67ays8/a4CC4uja7+QnaP2EQ=:vjZUa961pBnSxOfN65HhpzC4x054xWo0ftpxxphkHOU=";

    fn parse(text: &str) -> Result<PasswordFile, FileError> {
        PasswordFile::parse(text, &[7; 32])
    }

    fn error(line: &str) -> String {
        parse(line).expect_err("a bad line").to_string()
    }

    #[test]
    fn the_right_password_lets_a_user_in_with_the_groups_of_the_file() {
        let text = format!(
            "# people\n\nalice:{HASH}:staff, night\r\nbob:{SCRAM}:staff\ncarol:{HASH}\ndora:{SCRAM}\n"
        );
        let file = parse(&text).expect("a good file");
        assert_eq!(file.len(), 4);
        for (user, groups) in [
            ("alice", &["staff", "night"][..]),
            ("bob", &["staff"]),
            ("carol", &[]),
            ("dora", &[]),
        ] {
            let identity = file.verify(user, b"open sesame").expect(user);
            assert_eq!(identity.user.as_deref(), Some(user));
            assert!(
                identity
                    .groups
                    .iter()
                    .map(|group| &**group)
                    .eq(groups.iter().copied())
            );
            assert_eq!(file.verify(user, b"open sesam"), Err(Refused));
            assert_eq!(file.verify(user, b""), Err(Refused));
        }
        assert_eq!(file.verify("eve", b"open sesame"), Err(Refused));
        assert_eq!(file.verify("", b"open sesame"), Err(Refused));
    }

    #[test]
    fn a_name_that_is_not_in_the_file_is_checked_against_an_entry_like_the_others() {
        let cheap = parse(&format!("alice:{HASH}")).expect("a good file");
        let (_, entry) = cheap.entry_to_check("eve").expect("an entry");
        assert!(
            matches!(&entry.stored, Stored::Argon2 { parameters, .. } if parameters.m_cost() == 64)
        );
        let mixed = parse(&format!("alice:{HASH}\nbob:{SCRAM}")).expect("a good file");
        let kinds: Vec<bool> = (0..64)
            .map(|number| mixed.entry_to_check(&format!("eve{number}")))
            .map(|found| {
                matches!(
                    found,
                    Some((
                        _,
                        Entry {
                            stored: Stored::Scram(_),
                            ..
                        }
                    ))
                )
            })
            .collect();
        assert!(
            kinds.contains(&true) && kinds.contains(&false),
            "names are spread over the kinds"
        );
        let same = |name| mixed.entry_to_check(name).map(|(name, _)| Arc::clone(name));
        assert_eq!(same("eve"), same("eve"));
        assert_eq!(same("bob").as_deref(), Some("bob"));
        for number in 0..8 {
            let stranger = format!("eve{number}");
            assert_eq!(
                mixed.verify(&stranger, b"open sesame"),
                Err(Refused),
                "not by the stand-in's password"
            );
        }
    }

    #[test]
    fn what_is_hashed_here_is_good_here() {
        let line = hash_line("alice", &["staff"], b"open sesame", [9; 16]).expect("a line");
        assert!(line.starts_with("alice:$argon2id$v=19$m=19456,t=2,p=1$"));
        assert!(line.ends_with(":staff"));
        let other = scram_line("bob", &[], "open sesame", [9; 16]).expect("a line");
        let file = parse(&format!("{line}\n{other}\n")).expect("a good file");
        assert!(file.verify("alice", b"open sesame").is_ok());
        assert!(file.verify("bob", b"open sesame").is_ok());
        assert!(hash_line("a/b", &[], b"x", [9; 16]).is_err());
        assert!(scram_line("bob", &["a:b"], "x", [9; 16]).is_err());
        let error = scram_line("bob", &[], "schön", [9; 16]).expect_err("not ASCII");
        assert!(error.to_string().contains("printable ASCII"));
    }

    #[test]
    fn each_bad_line_is_named_with_what_is_wrong() {
        assert!(error("\n\nalice").starts_with("line 3: not name:hash[:group,group]"));
        assert!(error(&format!(":{HASH}")).starts_with("line 1: the name \"\" is empty"));
        assert!(
            error(&format!("a/b:{HASH}")).starts_with("line 1: the name \"a/b\" is empty, or has")
        );
        assert!(error(&format!("alice:{HASH}:a+b")).starts_with("line 1: the group \"a+b\""));
        assert!(error(&format!("alice:{HASH}:")).starts_with("line 1: the group \"\""));
        assert!(
            error(&format!("alice:{HASH}\nalice:{HASH}"))
                .starts_with("line 2: \"alice\" is in the file already")
        );
        assert!(error("alice:open sesame").starts_with("line 1: the hash is neither $argon2id$"));
        assert!(
            error(&format!("alice:{}", HASH.replace("id", "i")))
                .starts_with("line 1: the hash is neither")
        );
        assert!(
            error(&format!("alice:{}", HASH.replace("v=19", "v=16")))
                .contains("its version is not v=19")
        );
        assert!(error(&format!("alice:{}", &HASH[..60])).contains("the hash is damaged"));
        assert!(error("alice:$argon2id$v=19$m=64,t=2,p=1").contains("it has no salt"));
        assert!(
            error("alice:$argon2id$v=19$m=64,t=2,p=1$c2FsdHNhbHRzYWx0c2FsdA")
                .contains("it is not 16 to 64")
        );
        assert!(error(&format!("alice:{}", &SCRAM[..60])).contains("not SCRAM-SHA-256$iterations"));
        assert!(
            error(&format!("alice:{}", SCRAM.replace("4096", "0")))
                .contains("not SCRAM-SHA-256$iterations")
        );
        let long = format!("alice:{HASH}:{}", "x".repeat(8_192));
        assert!(error(&long).starts_with("line 1: longer than"));
    }

    #[test]
    fn a_hash_cannot_ask_for_the_machine() {
        let with = |from: &str, to: &str| error(&format!("alice:{}", HASH.replace(from, to)));
        assert!(with("m=64", "m=4194304").contains("asks for m = 4194304, 65536 at most"));
        assert!(with("t=2", "t=100").contains("asks for t = 100, 16 at most"));
        assert!(with("p=1", "p=8").contains("asks for p = 8, 4 at most"));
        assert!(
            error(&format!("bob:{}", SCRAM.replace("4096", "4000000")))
                .contains("iterations = 4000000, 100000 at most")
        );
    }

    #[test]
    fn hashes_are_not_shown() {
        let file = parse(&format!("alice:{HASH}\nbob:{SCRAM}")).expect("a good file");
        let shown = format!("{file:?}");
        assert!(
            shown.contains("alice") && !shown.contains("bX3") && !shown.contains("zFuK"),
            "{shown}"
        );
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "(alice|bob|[:$,=a-z0-9+/]{0,40}|\\PC{0,10}|:\\$argon2id\\$v=19\\$m=64,t=2,p=1\\$|:SCRAM-SHA-256\\$4096:|\n){0,8}") {
            let _ = parse(&text);
        }
    }
}
