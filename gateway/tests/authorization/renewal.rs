//! A token that renews a session and names a key that is only being fetched: the session goes on, and the answer comes with the key.

use std::sync::Arc;

use edge_proto::packet::{Connect, QoS, Version};
use edge_proto::reason::ReasonCode;
use gateway::access::Identity;
use gateway::access::policy::{Method, Outcome, Refusal, TokenMethod};
use gateway::access::token::{KeySet, TokenError, TokenPolicy};
use reactor::driver::ConnectionId;
use serde_json::json;

use crate::world::{Heard, SECRET, World, claims, signed_token, strict, token};

const RULES: &str = "[[rule]]\nallow = [\"publish\", \"subscribe\"]\ntopics = [\"u/%u/#\"]\n";
const RENEW: ReasonCode = ReasonCode::ReAuthenticate;

/// Keys of which one is in a file, and the others are fetched: none is there yet.
fn fetching() -> Method {
    Method::Token(Arc::new(TokenMethod {
        keys: KeySet::from_secret(SECRET).expect("long enough"),
        fetched: Some(KeySet::default()),
        policy: TokenPolicy {
            audience: Some("roadstead".into()),
            ..TokenPolicy::default()
        },
    }))
}

/// A token with a key that nobody here has.
fn newer() -> String {
    let header = json!({"alg": "HS256", "kid": "newer"});
    signed_token(
        &header,
        &claims("alice", &[]),
        b"a newer secret of thirty-two bytes, about",
    )
}

/// A client that has come in by a token, and a control thread that has not answered its renewal.
fn renewing() -> (World, ConnectionId) {
    let mut world = World::new(strict([fetching()], RULES));
    let first = token(&claims("alice", &[]));
    let (id, heard) = world.connect(&Connect {
        authentication_method: Some("JWT"),
        authentication_data: Some(first.as_bytes()),
        ..Connect::new(Version::V5, "phone")
    });
    assert_eq!(heard, [Heard::ConnAck(ReasonCode::Success)]);
    world.is_silent = true;
    let heard = world.authenticate(id, RENEW, "JWT", newer().as_bytes());
    assert_eq!((heard, world.questions), (vec![], 1), "it waits");
    (world, id)
}

fn alice() -> Outcome {
    Ok(Some(Arc::new(Identity::of_user("alice"))))
}

#[test]
fn a_renewal_waits_for_the_key_of_its_token_and_the_session_goes_on() {
    let (mut world, id) = renewing();
    assert_eq!(world.subscribe(id, "u/alice/#", QoS::AtLeastOnce), 1);
    world.answer(alice());
    assert_eq!(world.hear(id), [Heard::Auth(ReasonCode::Success, vec![])]);
    assert_eq!(world.counter("logins_renewed"), 1);
    world.pass(6_000_000); // What it came in with is over; this has no end.
    assert_eq!(world.hear(id), []);
}

#[test]
fn a_renewal_that_is_refused_ends_the_session_and_says_why() {
    let no_key = || Refusal::Token(TokenError::NoKey(Some("newer".into())));
    let table: [(Outcome, ReasonCode); 5] = [
        (Err(no_key()), ReasonCode::NotAuthorized),
        (Err(Refusal::Busy), ReasonCode::ServerBusy),
        (
            Err(Refusal::Unavailable("no answer".into())),
            ReasonCode::ServerBusy,
        ),
        (
            Ok(Some(Arc::new(Identity::of_user("bob")))),
            ReasonCode::NotAuthorized,
        ),
        (Ok(None), ReasonCode::NotAuthorized),
    ];
    for (outcome, reason) in table {
        let (mut world, id) = renewing();
        world.answer(outcome);
        assert_eq!(world.hear(id), [Heard::Disconnect(reason), Heard::Closed]);
        assert_eq!(world.counter("authentications_refused"), 1);
    }
}

#[test]
fn a_second_renewal_is_read_when_the_first_is_answered() {
    let (mut world, id) = renewing();
    let mut later = claims("alice", &[]);
    later["exp"] = json!(1_800_010_000);
    let heard = world.authenticate(id, RENEW, "JWT", token(&later).as_bytes());
    assert_eq!(heard, []);
    world.answer(alice());
    let success = Heard::Auth(ReasonCode::Success, vec![]);
    assert_eq!(world.hear(id), [success.clone(), success]);
    assert_eq!(world.counter("logins_renewed"), 2);
}

#[test]
fn a_session_whose_proof_ends_while_its_renewal_waits_ends_too() {
    let (mut world, id) = renewing();
    world.pass(5_431_000);
    let over = Heard::Disconnect(ReasonCode::MaximumConnectTime);
    assert_eq!(world.hear(id), [over, Heard::Closed]);
    world.answer(alice()); // Nobody is there to hear it.
    assert_eq!(world.counter("logins_renewed"), 0);
}

#[test]
fn what_another_method_could_take_for_a_password_is_not_asked_about() {
    let (mut world, id) = renewing();
    world.answer(alice());
    world.hear(id);
    let (_, rest) = newer()
        .split_once('.')
        .map(|(a, b)| (a.to_owned(), b.to_owned()))
        .expect("a token");
    // `{ "alg":"HS256","kid":"newer"}`, whose first characters are not those of other tokens.
    let odd = format!("eyAiYWxnIjoiSFMyNTYiLCJraWQiOiJuZXdlciJ9.{rest}");
    let heard = world.authenticate(id, RENEW, "JWT", odd.as_bytes());
    let refused = Heard::Disconnect(ReasonCode::NotAuthorized);
    assert_eq!(heard, [refused, Heard::Closed]);
    assert_eq!(world.questions, 1);
}
