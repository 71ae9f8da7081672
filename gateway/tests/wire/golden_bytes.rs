//! The bytes of each kind in each version, as they were first written. Nodes of two releases speak to each other during an upgrade: a
//! change here is a change of the protocol, and belongs into a new version.

use std::fmt::Write as _;
use std::path::Path;

use gateway::bus::wire::{self, KINDS, VERSION, VERSION_MIN};

use super::samples;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("text has room");
        text
    })
}

fn from_hex(text: &str) -> Vec<u8> {
    let digits = |index: usize| u8::from_str_radix(&text[index..index + 2], 16);
    let bytes = (0..text.len()).step_by(2).map(digits);
    bytes.collect::<Result<_, _>>().expect("hexadecimal digits")
}

/// One line for each sample, with its bytes.
fn written(version: u16) -> String {
    let mut text = String::new();
    for (name, message) in samples::all() {
        let mut bytes = Vec::new();
        wire::encode(&message, version, &mut bytes);
        writeln!(text, "{name}: {}", hex(&bytes)).expect("text has room");
    }
    text
}

/// The file of a version, as it is kept; `UPDATE_GOLDEN=1` keeps the new one.
fn kept(version: u16) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/wire/golden")
        .join(format!("version_{version}.txt"));
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, written(version)).expect("the golden file can be written");
    }
    std::fs::read_to_string(&path).unwrap_or_default()
}

#[test]
fn the_bytes_of_every_kind_stay_as_they_are() {
    for version in VERSION_MIN..=VERSION {
        let (kept, actual) = (kept(version), written(version));
        for (kept, actual) in kept.lines().zip(actual.lines()) {
            assert_eq!(
                kept, actual,
                "version {version} has changed; see the rule for versions in gateway/src/bus/wire/mod.rs"
            );
        }
        assert_eq!(
            kept.lines().count(),
            actual.lines().count(),
            "there are other samples than were kept; run with UPDATE_GOLDEN=1"
        );
    }
}

#[test]
fn what_was_kept_is_read_as_the_message_that_was_written() {
    let kept = kept(VERSION);
    let mut kept = kept.lines();
    for (name, message) in samples::all() {
        let line = kept.next().expect("a line for each sample");
        let (_, bytes) = line.rsplit_once(": ").expect("a name and bytes");
        let read = wire::decode(&from_hex(bytes), VERSION);
        assert_eq!(read, Ok(message), "{name}");
    }
}

#[test]
fn there_is_a_sample_of_every_kind_under_its_name() {
    let samples = samples::all();
    for (number, kind) in KINDS {
        let mut of_kind = samples
            .iter()
            .filter(|(name, _)| name.split(',').next() == Some(kind))
            .peekable();
        assert!(of_kind.peek().is_some(), "{kind} has no sample");
        for (name, message) in of_kind {
            assert_eq!(super::encoded(message)[0], *number, "{name}");
        }
    }
}
