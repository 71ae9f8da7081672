//! Tokens: every algorithm, and every way to fail.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeySize, PublicKeyComponents};
use aws_lc_rs::signature::{self, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RsaKeyPair};
use aws_lc_rs::{encoding::AsDer, encoding::PublicKeyX509Der, hmac};
use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::access::Who;
use edge_proto::packet::QoS;

pub(super) const NOW: u64 = 1_800_000_000_000;
const SECRET: &[u8; 64] = b"a secret that is only known to this test and to nobody else: 64!";

fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn signed(header: &Value, claims: &Value, sign: impl Fn(&[u8]) -> Vec<u8>) -> Vec<u8> {
    let message = format!(
        "{}.{}",
        encode(header.to_string()),
        encode(claims.to_string())
    );
    let signature = encode(sign(message.as_bytes()));
    format!("{message}.{signature}").into_bytes()
}

fn hs256(claims: &Value) -> Vec<u8> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET);
    signed(&json!({ "alg": "HS256" }), claims, |message| {
        hmac::sign(&key, message).as_ref().to_vec()
    })
}

fn secret_keys() -> KeySet {
    KeySet::from_secret(SECRET).expect("a long secret")
}

fn claims() -> Value {
    json!({ "sub": "alice", "exp": NOW / 1_000 + 60, "groups": ["staff"] })
}

fn with(name: &str, value: Value) -> Value {
    let mut claims = claims();
    claims[name] = value;
    claims
}

fn check(claims: &Value, policy: &TokenPolicy) -> Result<Identity, TokenError> {
    verify(&hs256(claims), &secret_keys(), policy, NOW)
}

fn pem(label: &str, der: &[u8]) -> String {
    format!(
        "-----BEGIN {label}-----\n{}\n-----END {label}-----\n",
        STANDARD.encode(der)
    )
}

#[test]
fn claims_give_user_groups_expiry_and_rules() {
    let mut claims = claims();
    claims["acl"] = json!([{ "allow": ["publish"], "topics": ["u/%u/#"] }]);
    let identity = check(&claims, &TokenPolicy::default()).expect("a good token");
    assert_eq!(identity.user.as_deref(), Some("alice"));
    assert_eq!(*identity.groups, [Box::<str>::from("staff")]);
    assert_eq!(identity.expires_at_unix_ms, Some(NOW + 60_000 + 30_000));
    let who = Who {
        identity: &identity,
        client: "phone",
    };
    let topic = |text| edge_proto::topic::TopicName::parse(text).expect("a topic");
    let none = Rules::default();
    assert!(
        none.publish(&who, topic("u/alice/x"), QoS::AtMostOnce, false)
            .is_allowed()
    );
    assert!(
        !none
            .publish(&who, topic("u/bob/x"), QoS::AtMostOnce, false)
            .is_allowed()
    );
}

#[test]
fn claims_can_have_other_names_and_be_nested() {
    let policy = TokenPolicy {
        user_claim: "https://example.com/name".into(),
        groups_claim: "realm_access.roles".into(),
        ..TokenPolicy::default()
    };
    let mut claims = with("https://example.com/name", json!("bob"));
    claims["realm_access"] = json!({ "roles": ["a", "b"] });
    let identity = check(&claims, &policy).expect("a good token");
    assert_eq!(identity.user.as_deref(), Some("bob"));
    assert_eq!(identity.groups.len(), 2);
}

pub(super) fn jwks(keys: &[Value]) -> Result<KeySet, KeyError> {
    KeySet::from_jwks(&json!({ "keys": keys }).to_string())
}

/// One key of each kind: the key set with its public part, and the algorithms with which it signs.
fn kinds_of_keys() -> Vec<(KeySet, Vec<&'static str>, Signer)> {
    let rsa = RsaKeyPair::generate(KeySize::Rsa2048).expect("an RSA key");
    let rsa_public: PublicKeyX509Der<'_> = rsa.public_key().as_der().expect("DER");
    let rsa_set = KeySet::from_pem(&pem("PUBLIC KEY", rsa_public.as_ref())).expect("RSA");
    let mut kinds = vec![(
        rsa_set,
        vec!["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"],
        Signer::Rsa(rsa),
    )];
    for (algorithm, name) in [
        (&signature::ECDSA_P256_SHA256_FIXED_SIGNING, "ES256"),
        (&signature::ECDSA_P384_SHA384_FIXED_SIGNING, "ES384"),
    ] {
        let pair = EcdsaKeyPair::generate(algorithm).expect("an EC key");
        let public: PublicKeyX509Der<'_> = pair.public_key().as_der().expect("DER");
        let set = KeySet::from_pem(&pem("PUBLIC KEY", public.as_ref())).expect(name);
        kinds.push((set, vec![name], Signer::Ecdsa(pair)));
    }
    let pair = Ed25519KeyPair::generate().expect("an Ed25519 key");
    let public: PublicKeyX509Der<'_> = pair.public_key().as_der().expect("DER");
    let set = KeySet::from_pem(&pem("PUBLIC KEY", public.as_ref())).expect("Ed25519");
    kinds.push((set, vec!["EdDSA"], Signer::Ed25519(pair)));
    kinds.push((
        secret_keys(),
        vec!["HS256", "HS384", "HS512"],
        Signer::Secret(SECRET.to_vec()),
    ));
    kinds
}

enum Signer {
    Rsa(RsaKeyPair),
    Ecdsa(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
    Secret(Vec<u8>),
}

impl Signer {
    fn sign(&self, algorithm: &str, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match self {
            Self::Rsa(pair) => {
                let padding: &dyn signature::RsaEncoding = match algorithm {
                    "RS256" => &signature::RSA_PKCS1_SHA256,
                    "RS384" => &signature::RSA_PKCS1_SHA384,
                    "RS512" => &signature::RSA_PKCS1_SHA512,
                    "PS256" => &signature::RSA_PSS_SHA256,
                    "PS384" => &signature::RSA_PSS_SHA384,
                    _ => &signature::RSA_PSS_SHA512,
                };
                let mut out = vec![0; pair.public_modulus_len()];
                pair.sign(padding, &random, message, &mut out)
                    .expect("a signature");
                out
            }
            Self::Ecdsa(pair) => pair
                .sign(&random, message)
                .expect("a signature")
                .as_ref()
                .to_vec(),
            Self::Ed25519(pair) => pair.sign(message).as_ref().to_vec(),
            Self::Secret(secret) => {
                let hash = match algorithm {
                    "HS384" => hmac::HMAC_SHA384,
                    "HS512" => hmac::HMAC_SHA512,
                    _ => hmac::HMAC_SHA256,
                };
                hmac::sign(&hmac::Key::new(hash, secret), message)
                    .as_ref()
                    .to_vec()
            }
        }
    }
}

#[test]
fn every_algorithm_is_good_with_its_own_key_and_with_no_other() {
    let kinds = kinds_of_keys();
    for (index, (_, algorithms, signer)) in kinds.iter().enumerate() {
        for algorithm in algorithms {
            let header = json!({ "alg": algorithm });
            let token = signed(&header, &claims(), |message| {
                signer.sign(algorithm, message)
            });
            for (other, (keys, known, _)) in kinds.iter().enumerate() {
                let outcome = verify(&token, keys, &TokenPolicy::default(), NOW);
                match outcome {
                    Ok(_) => assert_eq!(other, index, "{algorithm}"),
                    Err(TokenError::NotItsAlgorithm(_)) => assert!(!known.contains(algorithm)),
                    Err(error) => panic!("{algorithm} with keys {other}: {error}"),
                }
            }
        }
    }
}

#[test]
fn a_public_key_is_no_secret_and_none_is_no_algorithm() {
    for (keys, algorithms, signer) in kinds_of_keys() {
        let published: Vec<u8> = match &signer {
            Signer::Rsa(pair) => pair.public_key().as_ref().to_vec(),
            Signer::Ecdsa(pair) => pair.public_key().as_ref().to_vec(),
            Signer::Ed25519(pair) => pair.public_key().as_ref().to_vec(),
            Signer::Secret(_) => continue,
        };
        for forged_key in [
            published.clone(),
            pem("PUBLIC KEY", &published).into_bytes(),
        ] {
            let forger = Signer::Secret(forged_key);
            for name in ["HS256", "HS384", "HS512"] {
                let token = signed(&json!({ "alg": name }), &claims(), |message| {
                    forger.sign(name, message)
                });
                let error =
                    verify(&token, &keys, &TokenPolicy::default(), NOW).expect_err("forged");
                assert!(
                    matches!(error, TokenError::NotItsAlgorithm(_)),
                    "{algorithms:?} {error}"
                );
            }
        }
        for name in ["none", "None", "NONE", "", "hs256"] {
            let token = signed(&json!({ "alg": name }), &claims(), |_| Vec::new());
            let error = verify(&token, &keys, &TokenPolicy::default(), NOW).expect_err("unsigned");
            assert_eq!(error, TokenError::Algorithm(name.into()));
        }
    }
}

#[test]
fn a_key_in_pem_is_refused_as_a_secret() {
    let text = pem("PUBLIC KEY", &[1; 300]);
    assert_eq!(
        KeySet::from_secret(text.as_bytes()).expect_err("no secret"),
        KeyError::SecretIsPem
    );
    let short = KeySet::from_secret(b"correct horse").expect_err("short");
    assert_eq!(short, KeyError::SecretTooShort { bytes: 13 });
}

#[test]
fn a_secret_has_only_the_algorithms_that_it_is_long_enough_for() {
    let keys = KeySet::from_secret(&SECRET[..40]).expect("long enough for HS256");
    let signer = Signer::Secret(SECRET[..40].to_vec());
    let token = |name: &str| {
        signed(&json!({ "alg": name }), &claims(), |message| {
            signer.sign(name, message)
        })
    };
    assert!(verify(&token("HS256"), &keys, &TokenPolicy::default(), NOW).is_ok());
    let error =
        verify(&token("HS512"), &keys, &TokenPolicy::default(), NOW).expect_err("too short");
    assert_eq!(error, TokenError::NotItsAlgorithm(Algorithm::Hs512));
}

#[test]
fn the_key_identifier_chooses_the_key() {
    let key = |kid: &str, secret: &[u8]| json!({ "kty": "oct", "kid": kid, "alg": "HS256", "k": encode(secret) });
    let keys = jwks(&[key("old", &[1; 32]), key("new", &SECRET[..])]).expect("two keys");
    let signer = Signer::Secret(SECRET.to_vec());
    let token = |header: &Value| signed(header, &claims(), |message| signer.sign("HS256", message));
    let outcome = |header| verify(&token(&header), &keys, &TokenPolicy::default(), NOW).map(|_| ());
    assert_eq!(outcome(json!({ "alg": "HS256", "kid": "new" })), Ok(()));
    assert_eq!(outcome(json!({ "alg": "HS256" })), Ok(()));
    assert_eq!(
        outcome(json!({ "alg": "HS256", "kid": "old" })),
        Err(TokenError::Signature)
    );
    assert_eq!(
        outcome(json!({ "alg": "HS256", "kid": "newer" })),
        Err(TokenError::NoKey(Some("newer".into())))
    );
    let hostile = outcome(json!({ "alg": "HS256", "kid": "x\ny" })).expect_err("no such key");
    assert!(
        hostile.to_string().starts_with("no key \"x\\ny\";"),
        "{hostile}"
    );
    // The key says HS256, so that it is nothing else although it is long enough.
    assert_eq!(
        outcome(json!({ "alg": "HS512", "kid": "new" })),
        Err(TokenError::NotItsAlgorithm(Algorithm::Hs512))
    );
}

#[test]
fn keys_for_encryption_and_of_unknown_kinds_are_left_out() {
    let good = json!({ "kty": "oct", "k": encode(SECRET) });
    let others = [
        json!({ "kty": "XYZ", "k": "?" }),
        json!({ "kty": "EC", "crv": "secp256k1", "x": "AA", "y": "AA" }),
        json!({ "kty": "oct", "use": "enc", "k": encode(SECRET) }),
        json!({ "kty": "oct", "key_ops": ["sign"], "k": encode(SECRET) }),
    ];
    assert_eq!(jwks(&others).expect_err("none is left"), KeyError::Empty);
    let all: Vec<_> = others.into_iter().chain([good]).collect();
    assert_eq!(jwks(&all).expect("one is left").len(), 1);
}

#[test]
fn bad_keys_are_named() {
    let small = PublicKeyComponents {
        n: vec![0xC5; 128],
        e: vec![1, 0, 1],
    };
    let small: PublicKeyX509Der<'_> = small.as_der().expect("DER");
    let error = KeySet::from_pem(&pem("PUBLIC KEY", small.as_ref())).expect_err("1,024 bits");
    assert_eq!(error, KeyError::RsaTooShort);
    let error = jwks(&[json!({ "kty": "RSA", "n": encode([0xC5; 128]), "e": "AQAB" })])
        .expect_err("1,024 bits");
    assert!(
        error
            .to_string()
            .starts_with("key 1 of the set: an RSA key of less"),
        "{error}"
    );
    let off_curve =
        json!({ "kty": "EC", "crv": "P-256", "x": encode([1; 32]), "y": encode([1; 32]) });
    assert!(jwks(&[off_curve]).is_err());
    let text = |text: &str| KeySet::from_pem(text).expect_err("bad").to_string();
    assert!(text(&pem("PRIVATE KEY", &[1; 48])).starts_with("this is a private key"));
    assert!(text(&pem("CERTIFICATE", &[1; 48])).starts_with("this is a certificate"));
    assert!(text("nothing").starts_with("not PEM: there is no key in it"));
    assert!(text("-----BEGIN PUBLIC KEY-----\nAAAA").starts_with("not PEM: a block has no end"));
    assert!(
        text("-----BEGIN PUBLIC KEY-----\n?\n-----END PUBLIC KEY-----")
            .starts_with("not PEM: a block is not base64")
    );
    assert!(text(&pem("PUBLIC KEY", &[1; 300])).starts_with("not a key that this server can use"));
    assert!(
        KeySet::from_jwks("[]")
            .expect_err("no set")
            .to_string()
            .starts_with("not a JSON Web Key Set")
    );
    let many: Vec<_> = (0..65)
        .map(|_| json!({ "kty": "oct", "k": encode(SECRET) }))
        .collect();
    assert_eq!(
        jwks(&many).expect_err("too many"),
        KeyError::TooMany { count: 65 }
    );
}

#[test]
fn issuer_and_audience_are_checked() {
    let policy = TokenPolicy {
        issuer: Some("https://id.example.com".into()),
        audience: Some("roadstead".into()),
        ..TokenPolicy::default()
    };
    let token = |issuer: Value, audience: Value| {
        let mut claims = claims();
        claims["iss"] = issuer;
        claims["aud"] = audience;
        check(&claims, &policy).map(|_| ())
    };
    let issuer = json!("https://id.example.com");
    assert_eq!(token(issuer.clone(), json!("roadstead")), Ok(()));
    assert_eq!(token(issuer.clone(), json!(["other", "roadstead"])), Ok(()));
    for wrong in [
        json!("https://id.example.com/"),
        json!(null),
        json!(["https://id.example.com"]),
    ] {
        assert_eq!(token(wrong, json!("roadstead")), Err(TokenError::Issuer));
    }
    for wrong in [
        json!("other"),
        json!([]),
        json!(null),
        json!({ "roadstead": 1 }),
    ] {
        assert_eq!(token(issuer.clone(), wrong), Err(TokenError::Audience));
    }
}

#[test]
fn time_is_checked_with_leeway() {
    let policy = TokenPolicy::default();
    let (now, good) = (NOW / 1_000, Ok(()));
    let outcome = |claims: Value| check(&claims, &policy).map(|_| ());
    assert_eq!(outcome(with("exp", json!(now - 29))), good);
    assert_eq!(
        outcome(with("exp", json!(now - 30))),
        Err(TokenError::Expired { ago_ms: 30_000 })
    );
    assert_eq!(
        outcome(with("exp", json!(-5))),
        Err(TokenError::Expired { ago_ms: NOW })
    );
    assert_eq!(outcome(with("exp", json!(now as f64 + 0.5))), good);
    assert_eq!(outcome(with("exp", json!(u64::MAX))), good);
    assert_eq!(outcome(with("nbf", json!(now + 30))), good);
    assert_eq!(
        outcome(with("nbf", json!(now + 31))),
        Err(TokenError::NotYet { ms: 31_000 })
    );
    let text = outcome(with("exp", json!("tomorrow")))
        .expect_err("not a number")
        .to_string();
    assert_eq!(text, "the claim \"exp\" is not a number of seconds");
    let mut endless = claims();
    endless.as_object_mut().expect("an object").remove("exp");
    assert_eq!(outcome(endless.clone()), Err(TokenError::NoExpiry));
    let lax = TokenPolicy {
        expiry_required: false,
        ..policy.clone()
    };
    assert_eq!(
        check(&endless, &lax)
            .expect("a good token")
            .expires_at_unix_ms,
        None
    );
}

#[test]
fn claims_of_the_wrong_kind_are_named() {
    let text = |claims: Value| {
        check(&claims, &TokenPolicy::default())
            .expect_err("bad")
            .to_string()
    };
    assert_eq!(
        text(with("sub", json!(""))),
        "the token names no user (claim \"sub\")"
    );
    assert_eq!(
        text(with("sub", json!(null))),
        "the token names no user (claim \"sub\")"
    );
    assert_eq!(
        text(with("sub", json!(7))),
        "the claim \"sub\" is not a text"
    );
    assert_eq!(
        text(with("groups", json!([1]))),
        "the claim \"groups\" is not a list of at most 128 texts"
    );
    assert_eq!(
        text(with("groups", json!(vec!["x"; 129]))),
        "the claim \"groups\" is not a list of at most 128 texts"
    );
    assert!(
        text(with("acl", json!([{ "topics": ["a"] }])))
            .starts_with("the rules in the token: rule 1 of the token: it neither")
    );
    assert!(
        text(with("acl", json!("all"))).starts_with("the rules in the token: not a list of rules")
    );
}

#[test]
fn what_is_no_token_is_refused() {
    let keys = secret_keys();
    let error =
        |token: &[u8]| verify(token, &keys, &TokenPolicy::default(), NOW).expect_err("no token");
    for token in [
        &b""[..],
        b".",
        b"..",
        b"a.b",
        b"a.b.c",
        b"a.b.c.d",
        b"\xFF.\xFF.\xFF",
        b"e30.e30.e30",
    ] {
        assert!(
            matches!(error(token), TokenError::Malformed(_)),
            "{token:?}"
        );
    }
    assert!(matches!(
        error(&vec![b'a'; 16_385]),
        TokenError::TooLong { .. }
    ));
    let header = json!({ "alg": "HS256", "crit": ["b64"], "b64": false });
    assert_eq!(
        error(&signed(&header, &claims(), |_| vec![0; 32])),
        TokenError::CriticalExtension
    );
    let long = error(&signed(
        &json!({ "alg": "ü".repeat(100) }),
        &claims(),
        |_| vec![0; 32],
    ));
    assert!(long.to_string().len() < 200);
}

proptest! {
    #[test]
    fn a_changed_token_is_refused(at in 0..10_000_usize, byte in any::<u8>()) {
        let mut token = hs256(&claims());
        let at = at % token.len();
        prop_assume!(token[at] != byte);
        token[at] = byte;
        prop_assert!(verify(&token, &secret_keys(), &TokenPolicy::default(), NOW).is_err());
    }
}
