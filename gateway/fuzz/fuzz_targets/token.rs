//! No token panics, and none is good without the key; any text is a key set or is refused with words. What stands behind a good
//! signature is fuzzed, too.
//!
//! The input is text: a token or a JWKS; and claims that the target signs itself.

#![no_main]

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use gateway::access::token::{KeySet, TokenPolicy, verify};
use libfuzzer_sys::fuzz_target;

const SECRET: &[u8] = b"a secret that the fuzzer signs by";
const NOW: u64 = 1_800_000_000_000;

fuzz_target!(|text: &str| {
    let keys = KeySet::from_secret(SECRET).expect("a long secret");
    let policy = TokenPolicy::default();
    assert!(verify(text.as_bytes(), &keys, &policy, NOW).is_err(), "nobody guesses an HMAC");
    for set in [KeySet::from_jwks(text), KeySet::from_pem(text)] {
        match set {
            Ok(set) => assert!(!set.is_empty()),
            Err(error) => assert!(!error.to_string().is_empty()),
        }
    }
    let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256"}"#);
    let message = format!("{header}.{}", URL_SAFE_NO_PAD.encode(text));
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, SECRET);
    let signature = aws_lc_rs::hmac::sign(&key, message.as_bytes());
    let token = format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature));
    match verify(token.as_bytes(), &keys, &policy, NOW) {
        Ok(identity) => assert!(identity.user.is_some() && !identity.is_expired(NOW)),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
