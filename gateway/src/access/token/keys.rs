//! Keys that tokens are checked with: from a secret, from PEM, from a JWKS (RFC 7517).
//!
//! **A key has its algorithms, and verifies with nothing else.** What a token's header names can only pick one of them, so that an
//! RSA public key never becomes an HMAC secret, whatever the header says.

use aws_lc_rs::hmac;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, ParsedPublicKey,
    RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512,
    RSA_PSS_2048_8192_SHA256, RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512, RsaParameters,
    RsaPublicKeyComponents, VerificationAlgorithm,
};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde::Deserialize;

/// Most keys in a set. A token without a key identifier is tried with all that have its algorithm.
pub const KEYS_MAX: usize = 64;

/// Bytes of a 2,048-bit number: a smaller RSA key is refused.
const RSA_BYTES_MIN: usize = 256;

/// How a token can be signed (RFC 7518 §3.1, RFC 8037 §3.1). `none` is not one of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// HMAC with SHA-256.
    Hs256,
    /// HMAC with SHA-384.
    Hs384,
    /// HMAC with SHA-512.
    Hs512,
    /// RSA PKCS #1 v1.5 with SHA-256.
    Rs256,
    /// RSA PKCS #1 v1.5 with SHA-384.
    Rs384,
    /// RSA PKCS #1 v1.5 with SHA-512.
    Rs512,
    /// RSA PSS with SHA-256.
    Ps256,
    /// RSA PSS with SHA-384.
    Ps384,
    /// RSA PSS with SHA-512.
    Ps512,
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// ECDSA on P-384 with SHA-384.
    Es384,
    /// Ed25519.
    EdDsa,
}

impl Algorithm {
    /// Every algorithm with its name in a header.
    const ALL: [(&'static str, Self); 12] = [
        ("HS256", Self::Hs256),
        ("HS384", Self::Hs384),
        ("HS512", Self::Hs512),
        ("RS256", Self::Rs256),
        ("RS384", Self::Rs384),
        ("RS512", Self::Rs512),
        ("PS256", Self::Ps256),
        ("PS384", Self::Ps384),
        ("PS512", Self::Ps512),
        ("ES256", Self::Es256),
        ("ES384", Self::Es384),
        ("EdDSA", Self::EdDsa),
    ];

    /// The algorithm that a header names.
    pub fn from_name(name: &str) -> Option<Self> {
        let known = Self::ALL.iter().find(|(known, _)| *known == name);
        known.map(|(_, algorithm)| *algorithm)
    }
}

/// What each kind of RSA signature is verified with.
const RSA: [(Algorithm, &RsaParameters); 6] = [
    (Algorithm::Rs256, &RSA_PKCS1_2048_8192_SHA256),
    (Algorithm::Rs384, &RSA_PKCS1_2048_8192_SHA384),
    (Algorithm::Rs512, &RSA_PKCS1_2048_8192_SHA512),
    (Algorithm::Ps256, &RSA_PSS_2048_8192_SHA256),
    (Algorithm::Ps384, &RSA_PSS_2048_8192_SHA384),
    (Algorithm::Ps512, &RSA_PSS_2048_8192_SHA512),
];

/// What each kind of HMAC is verified with, and the fewest bytes of its secret (RFC 7518 §3.2).
const HMAC: [(Algorithm, hmac::Algorithm, usize); 3] = [
    (Algorithm::Hs256, hmac::HMAC_SHA256, 32),
    (Algorithm::Hs384, hmac::HMAC_SHA384, 48),
    (Algorithm::Hs512, hmac::HMAC_SHA512, 64),
];

/// What is wrong with a key. The operator's to mend, or of whoever publishes the JWKS.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Shorter than a SHA-256 hash.
    #[error(
        "a secret of {bytes} bytes can be guessed; use at least 32 random bytes (48 for HS384, 64 for HS512)"
    )]
    SecretTooShort {
        /// How long it is.
        bytes: usize,
    },
    /// A key in PEM where a secret should be: with the public one, everybody could sign.
    #[error(
        "this is a key in PEM, not a secret; give it as a public key, so that tokens are checked with its own algorithm"
    )]
    SecretIsPem,
    /// No `-----BEGIN …-----`, or bad base64 in it.
    #[error("not PEM: {0}; a public key begins with -----BEGIN PUBLIC KEY-----")]
    Pem(&'static str),
    /// PEM of something else.
    #[error(
        "this is a {0}; give the public key alone (openssl pkey -pubout, or openssl x509 -pubkey -noout for a certificate)"
    )]
    NotAPublicKey(String),
    /// A kind of key that no algorithm here has.
    #[error(
        "not a key that this server can use; it takes RSA from 2,048 bits, P-256, P-384 and Ed25519"
    )]
    Unsupported,
    /// An RSA key below 2,048 bits.
    #[error("an RSA key of less than 2,048 bits can be broken; use 2,048 or more")]
    RsaTooShort,
    /// Not a JWKS.
    #[error("not a JSON Web Key Set: {0}; it is a JSON object with a list \"keys\"")]
    Jwks(String),
    /// A key of a JWKS is malformed.
    #[error("key {number} of the set: {detail}")]
    Jwk {
        /// Which, from 1.
        number: usize,
        /// What is wrong with it.
        detail: String,
    },
    /// No key that a token could be checked with.
    #[error(
        "the set has no key to check signatures with; it takes RSA, EC (P-256, P-384), OKP (Ed25519) and oct keys that are not for encryption"
    )]
    Empty,
    /// More than [`KEYS_MAX`].
    #[error("{count} keys, {KEYS_MAX} at most; remove those that are out of use")]
    TooMany {
        /// How many there are.
        count: usize,
    },
}

/// A key with the algorithms that it is for.
#[derive(Clone, Debug)]
struct Key {
    id: Option<Box<str>>,
    verifiers: Vec<(Algorithm, Verifier)>,
}

#[derive(Clone, Debug)]
enum Verifier {
    Secret(Box<hmac::Key>),
    Public(ParsedPublicKey),
}

impl Verifier {
    fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        match self {
            Self::Secret(key) => hmac::verify(key, message, signature).is_ok(),
            Self::Public(key) => key.verify_sig(message, signature).is_ok(),
        }
    }
}

/// The keys that tokens are checked with.
#[derive(Clone, Debug, Default)]
pub struct KeySet {
    keys: Vec<Key>,
}

/// How a set of keys answered for a signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verification {
    Good,
    Bad,
    /// No key has the key identifier.
    NoKey,
    /// There are keys, and none of them is for this algorithm.
    NotItsAlgorithm,
}

impl KeySet {
    /// A secret that the issuer of tokens has, too: HS256, and HS384 and HS512 when it is long enough for them.
    ///
    /// # Errors
    /// It is too short, or a key of another kind.
    pub fn from_secret(secret: &[u8]) -> Result<Self, KeyError> {
        if secret.trim_ascii_start().starts_with(b"-----BEGIN ") {
            return Err(KeyError::SecretIsPem);
        }
        Ok(Self {
            keys: vec![Key {
                id: None,
                verifiers: secret_verifiers(secret, None)?,
            }],
        })
    }

    /// Public keys in PEM: RSA (RS… and PS…), P-256 (ES256), P-384 (ES384), Ed25519 (EdDSA).
    ///
    /// # Errors
    /// What is wrong with the first bad one.
    pub fn from_pem(text: &str) -> Result<Self, KeyError> {
        let mut keys = Vec::new();
        let mut rest = text;
        while let Some(block) = PemBlock::next(rest)? {
            rest = block.behind;
            if block.label != "PUBLIC KEY" && block.label != "RSA PUBLIC KEY" {
                return Err(KeyError::NotAPublicKey(block.label.to_lowercase()));
            }
            keys.push(Key {
                id: None,
                verifiers: public_verifiers(&block.content)?,
            });
        }
        if keys.is_empty() {
            return Err(KeyError::Pem("there is no key in it"));
        }
        Self { keys }.bounded()
    }

    /// A JSON Web Key Set. Keys of kinds unknown here and keys for encryption are left out (RFC 7517 §5).
    ///
    /// # Errors
    /// It is none, a key of a known kind is malformed, or no key is left.
    pub fn from_jwks(text: &str) -> Result<Self, KeyError> {
        let set: RawSet =
            serde_json::from_str(text).map_err(|error| KeyError::Jwks(error.to_string()))?;
        let mut keys = Vec::new();
        for (index, raw) in set.keys.iter().enumerate() {
            let failed = |detail: String| KeyError::Jwk {
                number: index + 1,
                detail,
            };
            let jwk = Jwk::deserialize(raw).map_err(|error| failed(error.to_string()))?;
            if !jwk.is_for_signatures() {
                continue;
            }
            let verifiers = jwk.verifiers().map_err(|error| failed(error.to_string()))?;
            if !verifiers.is_empty() {
                let id = jwk.kid.map(Box::from);
                keys.push(Key { id, verifiers });
            }
        }
        if keys.is_empty() {
            return Err(KeyError::Empty);
        }
        Self { keys }.bounded()
    }

    /// The keys of both sets.
    ///
    /// # Errors
    /// There would be more than [`KEYS_MAX`].
    pub fn joined(mut self, other: Self) -> Result<Self, KeyError> {
        self.keys.extend(other.keys);
        self.bounded()
    }

    /// How many keys there are.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// True when there is none, so that no token is good.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    fn bounded(self) -> Result<Self, KeyError> {
        let count = self.keys.len();
        if count > KEYS_MAX {
            return Err(KeyError::TooMany { count });
        }
        Ok(self)
    }

    /// Checks a signature with the keys that have this key identifier, or with those that have none where nobody has it.
    pub(super) fn verify(
        &self,
        id: Option<&str>,
        algorithm: Algorithm,
        message: &[u8],
        signature: &[u8],
    ) -> Verification {
        let named = |key: &Key| id.is_some() && key.id.as_deref() == id;
        let by_name = self.keys.iter().any(named);
        let meant = |key: &&Key| match id {
            Some(_) if by_name => named(key),
            Some(_) => key.id.is_none(),
            None => true,
        };
        let mut outcome = Verification::NoKey;
        for key in self.keys.iter().filter(meant) {
            let verifier = key.verifiers.iter().find(|(known, _)| *known == algorithm);
            match verifier {
                Some((_, verifier)) if verifier.verifies(message, signature) => {
                    return Verification::Good;
                }
                Some(_) => outcome = Verification::Bad,
                None if outcome == Verification::NoKey => outcome = Verification::NotItsAlgorithm,
                None => {}
            }
        }
        outcome
    }
}

#[derive(Deserialize)]
struct RawSet {
    keys: Vec<serde_json::Value>,
}

/// The members of a JSON Web Key that matter here (RFC 7517 §4, RFC 7518 §6, RFC 8037 §2).
#[derive(Deserialize)]
struct Jwk<'a> {
    kty: &'a str,
    kid: Option<&'a str>,
    #[serde(rename = "use")]
    intended: Option<&'a str>,
    key_ops: Option<Vec<&'a str>>,
    alg: Option<&'a str>,
    crv: Option<&'a str>,
    n: Option<&'a str>,
    e: Option<&'a str>,
    x: Option<&'a str>,
    y: Option<&'a str>,
    k: Option<&'a str>,
}

impl Jwk<'_> {
    fn is_for_signatures(&self) -> bool {
        let operations = self.key_ops.as_deref();
        self.intended.is_none_or(|intended| intended == "sig")
            && operations.is_none_or(|operations| operations.contains(&"verify"))
    }

    /// What the key can verify: nothing for a kind that is unknown here, and only its own algorithm when it names one.
    fn verifiers(&self) -> Result<Vec<(Algorithm, Verifier)>, KeyError> {
        let verifiers = match (self.kty, self.crv) {
            ("RSA", _) => self.rsa()?,
            ("EC", Some("P-256")) => {
                self.elliptic(Algorithm::Es256, &ECDSA_P256_SHA256_FIXED, 32)?
            }
            ("EC", Some("P-384")) => {
                self.elliptic(Algorithm::Es384, &ECDSA_P384_SHA384_FIXED, 48)?
            }
            ("OKP", Some("Ed25519")) => {
                let key = ParsedPublicKey::new(&ED25519, decode(self.x)?);
                vec![(
                    Algorithm::EdDsa,
                    Verifier::Public(key.map_err(|_| KeyError::Unsupported)?),
                )]
            }
            ("oct", _) => secret_verifiers(&decode(self.k)?, self.alg)?,
            _ => Vec::new(),
        };
        let Some(name) = self.alg else {
            return Ok(verifiers);
        };
        let only = Algorithm::from_name(name);
        Ok(verifiers
            .into_iter()
            .filter(|(algorithm, _)| Some(*algorithm) == only)
            .collect())
    }

    fn rsa(&self) -> Result<Vec<(Algorithm, Verifier)>, KeyError> {
        let (n, e) = (decode(self.n)?, decode(self.e)?);
        let significant = n.iter().skip_while(|byte| **byte == 0).count();
        if significant < RSA_BYTES_MIN {
            return Err(KeyError::RsaTooShort);
        }
        let components = RsaPublicKeyComponents { n, e };
        let verifier = |(algorithm, parameters): (Algorithm, &'static RsaParameters)| {
            let key = components.to_parsed_public_key(parameters);
            Ok((
                algorithm,
                Verifier::Public(key.map_err(|_| KeyError::Unsupported)?),
            ))
        };
        RSA.into_iter().map(verifier).collect()
    }

    fn elliptic(
        &self,
        algorithm: Algorithm,
        verification: &'static dyn VerificationAlgorithm,
        coordinate_bytes: usize,
    ) -> Result<Vec<(Algorithm, Verifier)>, KeyError> {
        let (x, y) = (decode(self.x)?, decode(self.y)?);
        if x.len() != coordinate_bytes || y.len() != coordinate_bytes {
            return Err(KeyError::Unsupported);
        }
        // An uncompressed point (SEC 1 §2.3.3).
        let point = [&[4], x.as_slice(), &y].concat();
        let key = ParsedPublicKey::new(verification, point).map_err(|_| KeyError::Unsupported)?;
        Ok(vec![(algorithm, Verifier::Public(key))])
    }
}

fn decode(member: Option<&str>) -> Result<Vec<u8>, KeyError> {
    let bytes = member.and_then(|text| URL_SAFE_NO_PAD.decode(text).ok());
    bytes
        .filter(|bytes| !bytes.is_empty())
        .ok_or(KeyError::Unsupported)
}

/// A secret's algorithms: those that it is long enough for, or the one that its JWK names.
fn secret_verifiers(
    secret: &[u8],
    named: Option<&str>,
) -> Result<Vec<(Algorithm, Verifier)>, KeyError> {
    let bytes = secret.len();
    let fits = |(_, _, bytes_min): &(Algorithm, hmac::Algorithm, usize)| bytes >= *bytes_min;
    let verifiers: Vec<_> = HMAC
        .into_iter()
        .filter(fits)
        .map(|(algorithm, hash, _)| {
            (
                algorithm,
                Verifier::Secret(Box::new(hmac::Key::new(hash, secret))),
            )
        })
        .collect();
    let is_named = |(algorithm, _): &(Algorithm, Verifier)| {
        named.is_none_or(|name| Algorithm::from_name(name) == Some(*algorithm))
    };
    if verifiers.iter().any(is_named) {
        Ok(verifiers)
    } else {
        Err(KeyError::SecretTooShort { bytes })
    }
}

/// The algorithms of a public key, which its own structure names (`SubjectPublicKeyInfo`, or PKCS #1 for RSA).
fn public_verifiers(der: &[u8]) -> Result<Vec<(Algorithm, Verifier)>, KeyError> {
    let single: [(Algorithm, &'static dyn VerificationAlgorithm); 3] = [
        (Algorithm::EdDsa, &ED25519),
        (Algorithm::Es256, &ECDSA_P256_SHA256_FIXED),
        (Algorithm::Es384, &ECDSA_P384_SHA384_FIXED),
    ];
    for (algorithm, verification) in single {
        if let Ok(key) = ParsedPublicKey::new(verification, der) {
            return Ok(vec![(algorithm, Verifier::Public(key))]);
        }
    }
    let verifier = |(algorithm, parameters): (Algorithm, &'static RsaParameters)| {
        let key = ParsedPublicKey::new(parameters, der).map_err(|_| KeyError::Unsupported)?;
        Ok((algorithm, Verifier::Public(key)))
    };
    let verifiers = RSA
        .into_iter()
        .map(verifier)
        .collect::<Result<Vec<_>, KeyError>>()?;
    if der.len() < RSA_BYTES_MIN {
        return Err(KeyError::RsaTooShort);
    }
    Ok(verifiers)
}

/// A block of PEM (RFC 7468).
struct PemBlock<'a> {
    label: &'a str,
    content: Vec<u8>,
    /// The text behind it.
    behind: &'a str,
}

impl<'a> PemBlock<'a> {
    fn next(text: &'a str) -> Result<Option<Self>, KeyError> {
        const UNFINISHED: KeyError = KeyError::Pem("a block has no end");
        let Some((_, begun)) = text.split_once("-----BEGIN ") else {
            return Ok(None);
        };
        let (label, body) = begun.split_once("-----").ok_or(UNFINISHED)?;
        let end = format!("-----END {label}-----");
        let (body, behind) = body.split_once(end.as_str()).ok_or(UNFINISHED)?;
        let base64: String = body.split_ascii_whitespace().collect();
        let content = STANDARD.decode(base64);
        let content = content.map_err(|_| KeyError::Pem("a block is not base64"))?;
        Ok(Some(Self {
            label,
            content,
            behind,
        }))
    }
}
