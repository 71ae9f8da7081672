//! No message and no password file panics, and nobody comes in without a password.
//!
//! The input is bytes in three parts that end with 0xFF: a file, client-first, client-final. In client-final `R` stands for the
//! nonce of the exchange, which the search could not know.

#![no_main]

use gateway::access::password::PasswordFile;
use gateway::access::scram;
use libfuzzer_sys::fuzz_target;

const FILE: &str = "bob:SCRAM-SHA-256$1:MDEyMzQ1Njc4OWFiY2RlZg==$zFuK0LLTd7QL5BPwE9y67ays8/a4CC4uja7+QnaP2EQ=:vjZUa961pBnSxOfN65HhpzC4x054xWo0ftpxxphkHOU=";

fuzz_target!(|input: &[u8]| {
    let parts: Vec<&[u8]> = input.splitn(3, |byte| *byte == 0xFF).collect();
    let [text, first, last] = parts[..] else { return };
    if let Ok(text) = std::str::from_utf8(text)
        && let Err(error) = PasswordFile::parse(text, &[7; 32])
    {
        assert!(!error.to_string().is_empty());
    }
    let file = PasswordFile::parse(FILE, &[7; 32]).expect("a good file");
    let Ok((exchange, answer)) = scram::start(first, &file, [1; 18]) else { return };
    let nonce = answer.split(|byte| *byte == b',').next().unwrap_or_default();
    let last: Vec<u8> = last.iter().flat_map(|byte| if *byte == b'R' { nonce } else { std::slice::from_ref(byte) }).copied().collect();
    assert!(exchange.finish(&last).is_err(), "nobody guesses a proof");
});
