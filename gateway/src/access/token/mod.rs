//! JSON Web Tokens (RFC 7519, signed as in RFC 7515) → [`Identity`].
//!
//! The signature is checked first, then who it is from and for, then its time, and only then is anything in it believed. Nothing
//! of a token is in an error but its algorithm and key identifier: the rest is a secret.

mod keys;

#[cfg(test)]
mod rfc_tests;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde_json::{Map, Value};

pub use keys::{Algorithm, KEYS_MAX, KeyError, KeySet};

use super::Identity;
use super::rules::{RuleSource, Rules, RulesError};
use keys::Verification;

/// The longest token that is looked at.
pub const TOKEN_BYTES_MAX: usize = 16_384;

/// Most groups in a token: rules with `%g` are asked once for each.
pub const GROUPS_MAX: usize = 128;

/// What a token must say, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenPolicy {
    /// What `iss` must be. `None`: anything, or nothing.
    pub issuer: Option<String>,
    /// What `aud` must be or contain. `None`: anything, or nothing.
    pub audience: Option<String>,
    /// How far the issuer's clock may be from ours.
    pub leeway_ms: u64,
    /// Whether a token must end: one without `exp` is good for as long as its key is.
    pub expiry_required: bool,
    /// The claim that names the user.
    pub user_claim: String,
    /// The claim that lists the groups. A name with dots is looked for as it is, then as a path (`realm_access.roles`).
    pub groups_claim: String,
    /// The claim that has rules, in the form of a list of objects with the keys of the rules file.
    pub rules_claim: String,
}

impl Default for TokenPolicy {
    /// Any issuer and audience, 30 s of leeway, an end required, claims `sub`, `groups` and `acl`.
    fn default() -> Self {
        Self {
            issuer: None,
            audience: None,
            leeway_ms: 30_000,
            expiry_required: true,
            user_claim: "sub".into(),
            groups_claim: "groups".into(),
            rules_claim: "acl".into(),
        }
    }
}

/// Why a token is refused. The issuer's or the client's fault, but for a key that is not there.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// More than [`TOKEN_BYTES_MAX`].
    #[error("a token of {bytes} bytes; {TOKEN_BYTES_MAX} at most")]
    TooLong {
        /// How long it is.
        bytes: usize,
    },
    /// Not three parts in base64url, or not JSON in them.
    #[error("not a signed JSON Web Token: {0}")]
    Malformed(&'static str),
    /// An extension that changes what the token means (RFC 7515 §4.1.11).
    #[error("the token's header has critical extensions, and this server knows none")]
    CriticalExtension,
    /// `none`, or an algorithm that this server does not have.
    #[error("the token's algorithm is {0:?}; sign it with HS…, RS…, PS…, ES256, ES384 or EdDSA")]
    Algorithm(String),
    /// The key is not in the set: the issuer has changed keys, or the set is of another issuer.
    #[error("no key{}; is the key set of this issuer, and up to date?", .0.as_ref().map_or_else(String::new, |id| format!(" {id:?}")))]
    NoKey(Option<String>),
    /// The key is there and is for other algorithms: a mistake, or an attempt at making it another kind of key.
    #[error("the key is not for {0:?}")]
    NotItsAlgorithm(Algorithm),
    /// The signature is of another key or of other content.
    #[error("the signature does not fit")]
    Signature,
    /// A claim has the wrong type.
    #[error("the claim {claim:?} is not {expected}")]
    Claim {
        /// Which one.
        claim: String,
        /// What it should be.
        expected: &'static str,
    },
    /// `iss` is not the one that is asked for.
    #[error("the token is of another issuer")]
    Issuer,
    /// `aud` is not the one that is asked for.
    #[error("the token is for another audience")]
    Audience,
    /// `exp` has passed.
    #[error("the token expired {ago_ms} ms ago")]
    Expired {
        /// How long ago, leeway not counted.
        ago_ms: u64,
    },
    /// `nbf` has not come.
    #[error("the token is good only in {ms} ms; compare the clocks of issuer and server")]
    NotYet {
        /// How long until then, leeway not counted.
        ms: u64,
    },
    /// `exp` is not there and the policy wants it.
    #[error("the token has no end (claim \"exp\")")]
    NoExpiry,
    /// The claim with the user is not there or empty.
    #[error("the token names no user (claim {0:?})")]
    NoUser(String),
    /// The rules in it are bad; a client without the rules it was given could do too much.
    #[error("the rules in the token: {0}")]
    Rules(RulesError),
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    crit: Option<Value>,
}

/// Checks a token and tells whose it is.
///
/// # Errors
/// Which check it failed.
pub fn verify(
    token: &[u8],
    keys: &KeySet,
    policy: &TokenPolicy,
    now_unix_ms: u64,
) -> Result<Identity, TokenError> {
    let claims = verified_claims(token, keys)?;
    check_origin(&claims, policy)?;
    let expires_at_unix_ms = check_time(&claims, policy, now_unix_ms)?;
    let user = match claim(&claims, &policy.user_claim) {
        Some(Value::String(user)) if !user.is_empty() => Arc::from(user.as_str()),
        Some(Value::String(_) | Value::Null) | None => {
            return Err(TokenError::NoUser(policy.user_claim.clone()));
        }
        Some(_) => return Err(wrong(&policy.user_claim, "a text")),
    };
    let rules = match claim(&claims, &policy.rules_claim) {
        None | Some(Value::Null) => None,
        Some(value) => {
            let rules = Rules::from_json(value, RuleSource::Token).map_err(TokenError::Rules)?;
            Some(Arc::new(rules))
        }
    };
    Ok(Identity {
        user: Some(user),
        groups: groups(&claims, &policy.groups_claim)?,
        expires_at_unix_ms,
        rules,
    })
}

/// What a token claims, once its signature is found to be good.
fn verified_claims(token: &[u8], keys: &KeySet) -> Result<Map<String, Value>, TokenError> {
    const PARTS: TokenError = TokenError::Malformed("it has not three parts");
    if token.len() > TOKEN_BYTES_MAX {
        return Err(TokenError::TooLong { bytes: token.len() });
    }
    let text = std::str::from_utf8(token).map_err(|_| TokenError::Malformed("it is not text"))?;
    let (message, signature) = text.rsplit_once('.').ok_or(PARTS)?;
    let (header, payload) = message.split_once('.').ok_or(PARTS)?;
    if payload.contains('.') {
        return Err(PARTS);
    }
    let decode = |part: &str| URL_SAFE_NO_PAD.decode(part);
    let header = decode(header).ok();
    let header: Header = header
        .and_then(|json| serde_json::from_slice(&json).ok())
        .ok_or(TokenError::Malformed("its header is not JSON in base64url"))?;
    if header.crit.is_some() {
        return Err(TokenError::CriticalExtension);
    }
    let Some(algorithm) = Algorithm::from_name(&header.alg) else {
        return Err(TokenError::Algorithm(shown(header.alg)));
    };
    let signature = decode(signature);
    let signature =
        signature.map_err(|_| TokenError::Malformed("its signature is not base64url"))?;
    match keys.verify(
        header.kid.as_deref(),
        algorithm,
        message.as_bytes(),
        &signature,
    ) {
        Verification::Good => {}
        Verification::Bad => return Err(TokenError::Signature),
        Verification::NoKey => return Err(TokenError::NoKey(header.kid.map(shown))),
        Verification::NotItsAlgorithm => return Err(TokenError::NotItsAlgorithm(algorithm)),
    }
    let payload = decode(payload).ok();
    let claims = payload.and_then(|json| serde_json::from_slice(&json).ok());
    claims.ok_or(TokenError::Malformed(
        "its payload is not a JSON object in base64url",
    ))
}

/// The beginning of a text that a client chose, for an error that may be logged.
fn shown(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(64));
    text
}

fn wrong(claim: &str, expected: &'static str) -> TokenError {
    TokenError::Claim {
        claim: claim.to_owned(),
        expected,
    }
}

fn check_origin(claims: &Map<String, Value>, policy: &TokenPolicy) -> Result<(), TokenError> {
    if let Some(issuer) = &policy.issuer
        && claims.get("iss").and_then(Value::as_str) != Some(issuer)
    {
        return Err(TokenError::Issuer);
    }
    let Some(audience) = &policy.audience else {
        return Ok(());
    };
    let is_meant = |value: &Value| value.as_str() == Some(audience);
    let meant = match claims.get("aud") {
        Some(Value::Array(list)) => list.iter().any(is_meant),
        Some(value) => is_meant(value),
        None => false,
    };
    if meant {
        Ok(())
    } else {
        Err(TokenError::Audience)
    }
}

/// When the token ends, leeway included, if it is good now.
fn check_time(
    claims: &Map<String, Value>,
    policy: &TokenPolicy,
    now_unix_ms: u64,
) -> Result<Option<u64>, TokenError> {
    let leeway_ms = policy.leeway_ms;
    if let Some(from) = time(claims, "nbf")?
        && from > now_unix_ms.saturating_add(leeway_ms)
    {
        return Err(TokenError::NotYet {
            ms: from - now_unix_ms,
        });
    }
    let Some(end) = time(claims, "exp")? else {
        return if policy.expiry_required {
            Err(TokenError::NoExpiry)
        } else {
            Ok(None)
        };
    };
    let forgiven = end.saturating_add(leeway_ms);
    if forgiven <= now_unix_ms {
        return Err(TokenError::Expired {
            ago_ms: now_unix_ms - end,
        });
    }
    Ok(Some(forgiven))
}

/// A NumericDate, seconds of Unix time that may have a fraction (RFC 7519 §2), in milliseconds; before 1970 it is 0.
fn time(claims: &Map<String, Value>, name: &'static str) -> Result<Option<u64>, TokenError> {
    match claims.get(name) {
        None => Ok(None),
        Some(Value::Number(number)) => Ok(Some(match (number.as_u64(), number.as_f64()) {
            (Some(seconds), _) => seconds.saturating_mul(1_000),
            (None, Some(seconds)) => (seconds * 1_000.0) as u64, // Saturates at both ends.
            (None, None) => 0,
        })),
        Some(_) => Err(wrong(name, "a number of seconds")),
    }
}

/// A claim by its name, or by a path of names.
fn claim<'c>(claims: &'c Map<String, Value>, name: &str) -> Option<&'c Value> {
    claims.get(name).or_else(|| {
        let (first, rest) = name.split_once('.')?;
        claim(claims.get(first)?.as_object()?, rest)
    })
}

fn groups(claims: &Map<String, Value>, name: &str) -> Result<Arc<[Box<str>]>, TokenError> {
    let expected = "a list of at most 128 texts";
    match claim(claims, name) {
        None | Some(Value::Null) => Ok(Arc::default()),
        Some(Value::String(group)) => Ok(Arc::from([group.as_str().into()])),
        Some(Value::Array(list)) if list.len() <= GROUPS_MAX => {
            let group = |value: &Value| {
                value
                    .as_str()
                    .map(Box::from)
                    .ok_or_else(|| wrong(name, expected))
            };
            list.iter().map(group).collect()
        }
        Some(_) => Err(wrong(name, expected)),
    }
}
