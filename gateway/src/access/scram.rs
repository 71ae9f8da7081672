//! SCRAM-SHA-256 (RFC 5802, RFC 7677), the server's side: two messages in, two out, nothing else. No channel binding.
//!
//! ```text
//! client-first ─▶ start ─▶ server-first, Exchange ─┬▶ finish ─▶ server-final, Identity
//!                   │        client-final ─────────┘    │
//!                   └▶ ScramError                       └▶ ScramError
//! ```
//!
//! A name that is not in the file gets a salt and an iteration count as any other, always the same ones, and fails at the end, so that
//! names cannot be found out by asking. Names and passwords are compared as they are: clients send them normalised, so a file
//! has the normalised form (which plain ASCII is).

use std::fmt;
use std::num::NonZeroU32;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::{digest, hmac, pbkdf2};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::Identity;
use super::password::{PasswordFile, Problem};

/// What a stored verifier begins with.
pub(super) const PREFIX: &str = "SCRAM-SHA-256$";

/// Name of the mechanism, as the Authentication Method of MQTT 5.0 has it.
pub const METHOD: &str = "SCRAM-SHA-256";

/// Iterations of a new verifier: what RFC 7677 asks for at least, and PostgreSQL uses.
pub(super) const ITERATIONS: NonZeroU32 = NonZeroU32::new(4_096).unwrap();

/// More would make each connection expensive for its client, whose work it is, and a check of a plain password for us.
const ITERATIONS_MAX: u32 = 100_000;

/// The longest message that is looked at.
const MESSAGE_BYTES_MAX: usize = 2_048;

/// The longest nonce of a client.
const NONCE_BYTES_MAX: usize = 256;

type Key = [u8; 32];

/// What is stored of a password: enough to check a proof of it, not enough to make one (RFC 5802 §3).
#[derive(Clone)]
pub struct Verifier {
    iterations: NonZeroU32,
    salt: Box<[u8]>,
    stored_key: Key,
    server_key: Key,
}

impl fmt::Debug for Verifier {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Verifier({} iterations)", self.iterations)
    }
}

impl Verifier {
    /// Reads `SCRAM-SHA-256$iterations:salt$stored:server`.
    pub(super) fn parse(text: &str) -> Result<Self, Problem> {
        let form = Problem::Damaged("not SCRAM-SHA-256$iterations:salt$stored:server");
        let parts = || {
            let (iterations, rest) = text.strip_prefix(PREFIX)?.split_once(':')?;
            let (salt, rest) = rest.split_once('$')?;
            let (stored, server) = rest.split_once(':')?;
            let iterations: NonZeroU32 = iterations.parse().ok()?;
            let key = |text: &str| Key::try_from(STANDARD.decode(text).ok()?).ok();
            Some(Self {
                iterations,
                salt: STANDARD.decode(salt).ok()?.into(),
                stored_key: key(stored)?,
                server_key: key(server)?,
            })
        };
        let verifier = parts().ok_or(form)?;
        let asked = verifier.iterations.get();
        if asked > ITERATIONS_MAX {
            return Err(Problem::TooCostly {
                what: "iterations",
                asked,
                max: ITERATIONS_MAX,
            });
        }
        if !(1..=64).contains(&verifier.salt.len()) {
            return Err(Problem::Damaged("its salt is not 1 to 64 bytes long"));
        }
        Ok(verifier)
    }

    /// As [`Verifier::parse`] reads it.
    pub(super) fn to_text(&self) -> String {
        let encode = |bytes: &[u8]| STANDARD.encode(bytes);
        format!(
            "{PREFIX}{}:{}${}:{}",
            self.iterations,
            encode(&self.salt),
            encode(&self.stored_key),
            encode(&self.server_key)
        )
    }

    /// The verifier of a password; `None` unless it is printable ASCII, which normalisation (RFC 4013) leaves as it is.
    pub(super) fn of_password(password: &str, salt: &[u8], iterations: NonZeroU32) -> Option<Self> {
        let printable = |byte: u8| matches!(byte, b' '..=b'~');
        if password.is_empty() || !password.bytes().all(printable) {
            return None;
        }
        Some(Self::derive(password.as_bytes(), salt, iterations))
    }

    fn derive(password: &[u8], salt: &[u8], iterations: NonZeroU32) -> Self {
        let mut salted = [0; 32];
        pbkdf2::derive(
            pbkdf2::PBKDF2_HMAC_SHA256,
            iterations,
            salt,
            password,
            &mut salted,
        );
        Self {
            iterations,
            salt: salt.into(),
            stored_key: hash(&mac(&salted, b"Client Key")),
            server_key: mac(&salted, b"Server Key"),
        }
    }

    /// Whether this is the password. Slow by intent.
    pub(super) fn matches(&self, password: &[u8]) -> bool {
        let found = Self::derive(password, &self.salt, self.iterations);
        verify_slices_are_equal(&found.stored_key, &self.stored_key).is_ok()
    }

    /// For a name without a verifier: one that looks like those of the file, and that nobody can satisfy.
    pub(super) fn nobodys(user: &str, secret: &hmac::Key, model: Option<&Self>) -> Self {
        let make = |purpose: &[u8]| -> Key {
            let message = [purpose, user.as_bytes()].concat();
            to_key(hmac::sign(secret, &message).as_ref())
        };
        let made = [make(b"salt\0"), make(b"more salt\0")].concat();
        let salt_bytes = model.map_or(16, |model| model.salt.len());
        Self {
            iterations: model.map_or(ITERATIONS, |model| model.iterations),
            salt: made[..salt_bytes.min(made.len())].into(),
            stored_key: make(b"stored\0"),
            server_key: make(b"server\0"),
        }
    }
}

/// Why an exchange ended without success. The client's fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScramError {
    /// A message that does not follow the grammar (RFC 5802 §7).
    #[error("not a SCRAM message: {0}")]
    Malformed(&'static str),
    /// `p=`: the client wants its proof bound to the TLS channel.
    #[error("the client asks for channel binding, and this server has SCRAM-SHA-256 without it")]
    ChannelBinding,
    /// `m=`: an extension that must be understood.
    #[error("the client uses a mandatory extension, and there is none that this server knows")]
    Extension,
    /// `a=` with another name than the user's.
    #[error("the client wants to act as somebody else")]
    OtherIdentity,
    /// The name is not known, or the proof is not of its password.
    #[error("the name or the password is wrong")]
    Refused,
}

/// An exchange between its two messages. Bounded by the client's first message.
pub struct Exchange {
    /// `None` for a name that is not known: the exchange goes on, and fails.
    identity: Option<Identity>,
    verifier: Verifier,
    /// The nonces of client and server.
    nonce: String,
    /// What the `c=` of client-final must be.
    binding: String,
    /// `client-first-bare,server-first,`: the beginning of what is signed.
    messages: String,
}

impl fmt::Debug for Exchange {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Exchange").finish_non_exhaustive()
    }
}

/// Takes client-first and gives server-first. `nonce` must be random for each exchange.
///
/// # Errors
/// The message is malformed or asks for what there is not.
pub fn start(
    message: &[u8],
    file: &PasswordFile,
    nonce: [u8; 18],
) -> Result<(Exchange, Vec<u8>), ScramError> {
    start_with(message, file, &STANDARD.encode(nonce))
}

fn start_with(
    message: &[u8],
    file: &PasswordFile,
    server_nonce: &str,
) -> Result<(Exchange, Vec<u8>), ScramError> {
    let first = ClientFirst::parse(message)?;
    let (identity, verifier) = file.scram(&first.user);
    let nonce = format!("{}{server_nonce}", first.nonce);
    let answer = format!(
        "r={nonce},s={},i={}",
        STANDARD.encode(&verifier.salt),
        verifier.iterations
    );
    let exchange = Exchange {
        identity,
        verifier,
        nonce,
        binding: STANDARD.encode(first.header),
        messages: format!("{},{answer},", first.bare),
    };
    Ok((exchange, answer.into_bytes()))
}

impl Exchange {
    /// Takes client-final, and gives who the client is and server-final, with which the server proves itself, too.
    ///
    /// # Errors
    /// The proof is wrong, or the name is not known, or the message is malformed.
    pub fn finish(self, message: &[u8]) -> Result<(Identity, Vec<u8>), ScramError> {
        let text = text(message)?;
        let (without_proof, proof) = text
            .rsplit_once(",p=")
            .ok_or(ScramError::Malformed("no proof"))?;
        let mut attributes = without_proof.split(',');
        let binding = attributes.next().and_then(|part| part.strip_prefix("c="));
        if binding != Some(&self.binding) {
            return Err(ScramError::Malformed(
                "c= does not repeat the first message's header",
            ));
        }
        let nonce = attributes.next().and_then(|part| part.strip_prefix("r="));
        if nonce != Some(&self.nonce) {
            return Err(ScramError::Malformed(
                "r= is not the nonce of this exchange",
            ));
        }
        let proof = STANDARD
            .decode(proof)
            .ok()
            .and_then(|proof| Key::try_from(proof).ok());
        let proof = proof.ok_or(ScramError::Malformed("the proof is not 32 bytes in base64"))?;
        let signed = [&self.messages, without_proof].concat();
        let signature = mac(&self.verifier.stored_key, signed.as_bytes());
        let mut client_key = proof;
        for (byte, mask) in client_key.iter_mut().zip(signature) {
            *byte ^= mask;
        }
        let good = verify_slices_are_equal(&hash(&client_key), &self.verifier.stored_key);
        match (good, self.identity) {
            (Ok(()), Some(identity)) => {
                let proof = mac(&self.verifier.server_key, signed.as_bytes());
                Ok((
                    identity,
                    format!("v={}", STANDARD.encode(proof)).into_bytes(),
                ))
            }
            _ => Err(ScramError::Refused),
        }
    }
}

struct ClientFirst<'a> {
    /// The GS2 header: whether channel binding is wanted, and for whom the client acts.
    header: &'a str,
    /// All behind the header.
    bare: &'a str,
    user: String,
    nonce: &'a str,
}

impl<'a> ClientFirst<'a> {
    fn parse(message: &'a [u8]) -> Result<Self, ScramError> {
        let header = ScramError::Malformed("no header of two parts (n,,)");
        let text = text(message)?;
        let (binding, rest) = text.split_once(',').ok_or(header)?;
        match binding {
            "n" | "y" => {} // The client has no channel binding, or thinks that the server has none, which is so.
            _ if binding.starts_with("p=") => return Err(ScramError::ChannelBinding),
            _ => return Err(header),
        }
        let (acts_for, bare) = rest.split_once(',').ok_or(header)?;
        let header = &text[..text.len() - bare.len()];
        if bare.starts_with("m=") {
            return Err(ScramError::Extension);
        }
        let mut attributes = bare.split(',');
        let user = attributes.next().and_then(|part| part.strip_prefix("n="));
        let user = saslname(user.ok_or(ScramError::Malformed("no user (n=)"))?)?;
        let nonce = attributes.next().and_then(|part| part.strip_prefix("r="));
        let nonce = nonce.ok_or(ScramError::Malformed("no nonce (r=)"))?;
        let printable = nonce.bytes().all(|byte| byte.is_ascii_graphic());
        if !printable || !(1..=NONCE_BYTES_MAX).contains(&nonce.len()) {
            return Err(ScramError::Malformed(
                "the nonce is not 1 to 256 printable characters",
            ));
        }
        match acts_for.strip_prefix("a=") {
            None if acts_for.is_empty() => {}
            None => {
                return Err(ScramError::Malformed(
                    "the second part of the header is not a=",
                ));
            }
            Some(name) if saslname(name)? == user => {}
            Some(_) => return Err(ScramError::OtherIdentity),
        }
        Ok(Self {
            header,
            bare,
            user,
            nonce,
        })
    }
}

fn text(message: &[u8]) -> Result<&str, ScramError> {
    if message.len() > MESSAGE_BYTES_MAX {
        return Err(ScramError::Malformed("it is longer than 2,048 bytes"));
    }
    let text = std::str::from_utf8(message)
        .ok()
        .filter(|text| !text.contains('\0'));
    text.ok_or(ScramError::Malformed("it is not text"))
}

/// A name as it is sent: `,` is `=2C`, `=` is `=3D` (RFC 5802 §5.1).
fn saslname(text: &str) -> Result<String, ScramError> {
    let mut name = String::with_capacity(text.len());
    let mut parts = text.split('=');
    name.push_str(parts.next().unwrap_or_default());
    for part in parts {
        let (character, rest) = match (part.strip_prefix("2C"), part.strip_prefix("3D")) {
            (Some(rest), _) => (',', rest),
            (_, Some(rest)) => ('=', rest),
            _ => {
                return Err(ScramError::Malformed(
                    "a name has = other than as =2C or =3D",
                ));
            }
        };
        name.push(character);
        name.push_str(rest);
    }
    if name.is_empty() {
        return Err(ScramError::Malformed("the name is empty"));
    }
    Ok(name)
}

fn mac(key: &[u8], message: &[u8]) -> Key {
    to_key(hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), message).as_ref())
}

fn hash(bytes: &[u8]) -> Key {
    to_key(digest::digest(&digest::SHA256, bytes).as_ref())
}

/// The 32 bytes of a SHA-256 hash, which has no other length.
fn to_key(bytes: &[u8]) -> Key {
    let mut key = [0; 32];
    key.copy_from_slice(bytes);
    key
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SALT: [u8; 16] = *b"0123456789abcdef";

    fn file(lines: &str) -> PasswordFile {
        PasswordFile::parse(lines, &[7; 32]).expect("a good file")
    }

    /// The line of a user, as another implementation computed it for the password `open sesame`.
    const BOB: &str = "bob:SCRAM-SHA-256$4096:MDEyMzQ1Njc4OWFiY2RlZg==$zFuK0LLTd7QL5BPwE9y67ays8/a4CC4uja7+QnaP2EQ=:vjZUa961pBnSxOfN65HhpzC4x054xWo0ftpxxphkHOU=:staff";

    /// A client that knows a password: the other side of RFC 5802 §3.
    fn client_final(
        password: &str,
        first_bare: &str,
        answer: &[u8],
        extension: &str,
    ) -> (String, String) {
        let answer = std::str::from_utf8(answer).expect("text");
        let mut parts = answer.split(',').map(|part| &part[2..]);
        let (nonce, salt, iterations) = (parts.next(), parts.next(), parts.next());
        let salt = STANDARD.decode(salt.expect("a salt")).expect("base64");
        let iterations = iterations
            .and_then(|text| text.parse().ok())
            .expect("a number");
        let mut salted = [0; 32];
        pbkdf2::derive(
            pbkdf2::PBKDF2_HMAC_SHA256,
            iterations,
            &salt,
            password.as_bytes(),
            &mut salted,
        );
        let without_proof = format!("c=biws,r={}{extension}", nonce.expect("a nonce"));
        let signed = format!("{first_bare},{answer},{without_proof}");
        let client_key = mac(&salted, b"Client Key");
        let signature = mac(&hash(&client_key), signed.as_bytes());
        let proof: Vec<u8> = client_key
            .iter()
            .zip(signature)
            .map(|(key, mask)| key ^ mask)
            .collect();
        let server = mac(&mac(&salted, b"Server Key"), signed.as_bytes());
        (
            format!("{without_proof},p={}", STANDARD.encode(proof)),
            format!("v={}", STANDARD.encode(server)),
        )
    }

    #[test]
    fn the_example_of_rfc_7677_ends_as_it_says() {
        let salt = STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==").expect("base64");
        let verifier = Verifier::of_password("pencil", &salt, ITERATIONS).expect("ASCII");
        let file = file(&format!("user:{}", verifier.to_text()));
        let (exchange, answer) = start_with(
            b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO",
            &file,
            "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0",
        )
        .expect("server-first");
        assert_eq!(
            answer,
            b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
        );
        let last = b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
        let (identity, answer) = exchange.finish(last).expect("server-final");
        assert_eq!(identity.user.as_deref(), Some("user"));
        assert_eq!(answer, b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=");
    }

    #[test]
    fn a_client_with_the_password_comes_in_and_sees_the_servers_proof() {
        let (exchange, answer) =
            start(b"n,,n=bob,r=abc", &file(BOB), [1; 18]).expect("server-first");
        let (last, proof) = client_final("open sesame", "n=bob,r=abc", &answer, ",x=later");
        let (identity, answer) = exchange.finish(last.as_bytes()).expect("server-final");
        assert_eq!(
            (identity.user.as_deref(), &*identity.groups),
            (Some("bob"), &["staff".into()][..])
        );
        assert_eq!(answer, proof.as_bytes());
    }

    #[test]
    fn a_wrong_password_and_an_unknown_name_look_the_same() {
        let file = file(&BOB.replace("4096", "4097"));
        let mut answers = Vec::new();
        for user in ["bob", "eve", "eve", "mallory"] {
            let bare = format!("n={user},r=abc");
            let (exchange, answer) =
                start(format!("n,,{bare}").as_bytes(), &file, [1; 18]).expect("server-first");
            let (last, _) = client_final("wrong", &bare, &answer, "");
            assert_eq!(
                exchange.finish(last.as_bytes()).expect_err("refused"),
                ScramError::Refused
            );
            answers.push(String::from_utf8(answer).expect("text"));
        }
        assert_eq!(
            answers[1], answers[2],
            "a name is answered the same every time"
        );
        assert_ne!(answers[1], answers[3], "names have salts of their own");
        assert!(
            answers
                .iter()
                .all(|answer| answer.ends_with(",i=4097") && answer.len() == answers[0].len())
        );
        let other = PasswordFile::parse(BOB, &[8; 32]).expect("a good file");
        let (_, answer) = start(b"n,,n=eve,r=abc", &other, [1; 18]).expect("server-first");
        assert_ne!(
            answer,
            answers[1].as_bytes(),
            "a salt cannot be computed without the secret"
        );
    }

    #[test]
    fn a_proof_is_good_for_one_exchange() {
        let file = file(BOB);
        let (exchange, answer) = start(b"n,,n=bob,r=abc", &file, [1; 18]).expect("server-first");
        let (last, _) = client_final("open sesame", "n=bob,r=abc", &answer, "");
        assert!(exchange.finish(last.as_bytes()).is_ok());
        let (again, answer) = start(b"n,,n=bob,r=abc", &file, [2; 18]).expect("server-first");
        let replayed = again.finish(last.as_bytes()).expect_err("another nonce");
        assert!(matches!(replayed, ScramError::Malformed(_)));
        // With the new nonce put into it, the old proof does not fit.
        let (again, _) = start(b"n,,n=bob,r=abc", &file, [2; 18]).expect("server-first");
        let nonce = String::from_utf8(answer).expect("text");
        let nonce = nonce.split(',').next().expect("a nonce");
        let proof = last.rsplit_once(",p=").expect("a proof").1;
        let forged = again.finish(format!("c=biws,{nonce},p={proof}").as_bytes());
        assert_eq!(forged.expect_err("a stale proof"), ScramError::Refused);
    }

    #[test]
    fn first_messages_are_taken_apart_as_the_grammar_says() {
        let file = file(BOB);
        let outcome = |message: &str| start(message.as_bytes(), &file, [1; 18]).map(|_| ());
        for good in [
            "n,,n=bob,r=abc",
            "y,,n=bob,r=abc",
            "n,a=bob,n=bob,r=abc",
            "n,,n=bob,r=abc,x=y",
            "n,a=a=2Cb=3D,n=a=2Cb=3D,r=abc",
        ] {
            assert_eq!(outcome(good), Ok(()), "{good}");
        }
        assert_eq!(
            outcome("p=tls-exporter,,n=bob,r=abc"),
            Err(ScramError::ChannelBinding)
        );
        assert_eq!(outcome("n,,m=x,n=bob,r=abc"), Err(ScramError::Extension));
        assert_eq!(
            outcome("n,a=alice,n=bob,r=abc"),
            Err(ScramError::OtherIdentity)
        );
        let long = format!("n,,n=bob,r={}", "x".repeat(257));
        let longest = format!("n,,n=bob,r=abc,x={}", "x".repeat(2_048));
        for bad in [
            "",
            "n",
            "n,",
            "x,,n=bob,r=abc",
            "n,b,n=bob,r=abc",
            "n,,r=abc",
            "n,,n=bob",
            "n,,n=,r=abc",
            "n,,n=b=b,r=abc",
            "n,,n=bob,r=",
            "n,,n=bob,r=a\u{7f}",
            &long,
            &longest,
        ] {
            assert!(
                matches!(outcome(bad), Err(ScramError::Malformed(_))),
                "{bad}"
            );
        }
    }

    #[test]
    fn the_first_messages_header_must_be_repeated() {
        let (exchange, answer) =
            start(b"y,,n=bob,r=abc", &file(BOB), [1; 18]).expect("server-first");
        // `biws` is `n,,`: somebody between has taken the `y` away, or put it there.
        let (last, _) = client_final("open sesame", "n=bob,r=abc", &answer, "");
        assert!(matches!(
            exchange.finish(last.as_bytes()),
            Err(ScramError::Malformed(_))
        ));
    }

    #[test]
    fn a_password_that_normalisation_would_change_has_no_verifier() {
        assert!(Verifier::of_password("pässword", &SALT, ITERATIONS).is_none());
        assert!(Verifier::of_password("", &SALT, ITERATIONS).is_none());
        let verifier = Verifier::of_password("open sesame", &SALT, ITERATIONS).expect("ASCII");
        assert_eq!(format!("bob:{}:staff", verifier.to_text()), BOB);
        assert!(!format!("{verifier:?}").contains("zFuK"));
    }

    proptest! {
        #[test]
        fn no_message_panics(first in any::<Vec<u8>>(), last in any::<Vec<u8>>(), user in "\\PC{0,6}", nonce in "\\PC{0,6}") {
            let file = file(BOB);
            let _ = start(&first, &file, [1; 18]);
            let (exchange, _) = start(b"n,,n=bob,r=abc", &file, [1; 18]).unwrap();
            prop_assert!(exchange.finish(&last).is_err());
            let _ = start(format!("n,,n={user},r={nonce}").as_bytes(), &file, [1; 18]);
        }
    }
}
