//! Every method × allowed, denied, expired, malformed. (A certificate that is expired or signed by a stranger does not get through TLS:
//! `tests/tls/certificates.rs`. The call-out's answers are those of `elsewhere_*` below; how it gets them is in `control`.)

use std::sync::Arc;

use aws_lc_rs::{digest, hmac, pbkdf2};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use edge_proto::packet::{Connect, PublishProperties, QoS, Version, Will};
use edge_proto::reason::ReasonCode;
use gateway::access::Identity;
use gateway::access::password::{hash_line, scram_line};
use gateway::access::policy::{CertificateName, Method, Origins, Policy, Refusal};
use gateway::limits::Limits;
use gateway::shard::Arrival;
use gateway::tls;
use serde_json::{Value, json};

use crate::world::{
    Heard, SECRET, World, claims, local, passwords, remote, signed_token, strict, token, tokens,
    with_password,
};

const NOTHING: &str = "";

fn refused(reason: ReasonCode) -> Vec<Heard> {
    vec![Heard::ConnAck(reason), Heard::Closed]
}

fn accepted() -> Vec<Heard> {
    vec![Heard::ConnAck(ReasonCode::Success)]
}

#[test]
fn anonymous_clients_come_in_from_where_the_policy_says() {
    use Origins::{Everywhere, Loopback, Nowhere};
    let table = [
        (Nowhere, local(), false),
        (Nowhere, remote(), false),
        (Loopback, local(), true),
        (Loopback, remote(), false),
        (Everywhere, local(), true),
        (Everywhere, remote(), true),
    ];
    for (anonymous, peer, allowed) in table {
        let mut world = World::new(Policy {
            anonymous,
            ..strict([tokens()], NOTHING)
        });
        let connect = Connect::new(Version::V5, "one");
        let (_, heard) = world.connect_from(Arrival::plain(false, peer), &connect);
        let expected = if allowed {
            accepted()
        } else {
            refused(ReasonCode::NotAuthorized)
        };
        assert_eq!(heard, expected, "{anonymous:?} from {peer}");
    }
}

#[test]
fn a_password_that_no_method_knows_lets_nobody_in_as_anonymous() {
    let mut world = World::new(Policy {
        anonymous: Origins::Everywhere,
        ..strict([tokens()], NOTHING)
    });
    let (_, heard) = world.connect(&with_password("one", "alice", b"guess"));
    assert_eq!(heard, refused(ReasonCode::BadUserNameOrPassword));
}

/// What is shown as a token, and whether it opens.
fn token_table() -> Vec<(&'static str, String, bool)> {
    let plain = json!({"alg": "HS256"});
    let with = |change: &dyn Fn(&mut Value)| {
        let mut claims = claims("alice", &[]);
        change(&mut claims);
        token(&claims)
    };
    let good = token(&claims("alice", &[]));
    let signed = |header: &Value, secret| signed_token(header, &claims("alice", &[]), secret);
    let (unsigned, _) = good.rsplit_once('.').expect("three parts");
    let none = json!({"alg": "none"});
    let claim = |name: &'static str, value: Value| with(&|claims| claims[name] = value.clone());
    let row = |name, token, opens| (name, token, opens);
    vec![
        row("allowed", good.clone(), true),
        row(
            "another key",
            signed(&plain, b"another secret, of 32 bytes or so"),
            false,
        ),
        row("alg none", signed(&none, SECRET), false),
        row("no signature", format!("{unsigned}."), false),
        row("another audience", claim("aud", json!("others")), false),
        row("no audience", claim("aud", Value::Null), false),
        row("expired", claim("exp", json!(1_799_999_000)), false),
        row(
            "expired within the leeway",
            claim("exp", json!(1_799_999_980)),
            true,
        ),
        row("without an end", claim("exp", Value::Null), false),
        row("not yet", claim("nbf", json!(1_800_000_900)), false),
        row("nobody's", claim("sub", Value::Null), false),
        row("malformed", "eyJhbGciOiJIUzI1NiJ9.eyJ.x".to_owned(), false),
        row("no token", "hunter2".to_owned(), false),
    ]
}

#[test]
fn tokens_as_passwords() {
    for (name, token, allowed) in token_table() {
        let mut world = World::new(strict([tokens()], NOTHING));
        let (_, heard) = world.connect(&with_password("one", "", token.as_bytes()));
        let expected = if allowed {
            accepted()
        } else {
            refused(ReasonCode::BadUserNameOrPassword)
        };
        assert_eq!(heard, expected, "{name}");
    }
}

#[test]
fn tokens_by_authentication_method() {
    for (name, token, allowed) in token_table() {
        let mut world = World::new(strict([tokens()], NOTHING));
        let connect = Connect {
            authentication_method: Some("JWT"),
            authentication_data: Some(token.as_bytes()),
            ..Connect::new(Version::V5, "one")
        };
        let (_, heard) = world.connect(&connect);
        let expected = if allowed {
            accepted()
        } else {
            refused(ReasonCode::BadUserNameOrPassword)
        };
        assert_eq!(heard, expected, "{name}");
    }
}

#[test]
fn a_method_that_the_node_does_not_have_is_a_bad_one() {
    for (methods, method) in [
        (vec![], "JWT"),
        (vec![], "SCRAM-SHA-256"),
        (vec![tokens()], "SCRAM-SHA-256"),
        (vec![tokens()], "GSSAPI"),
    ] {
        let mut world = World::new(strict(methods, NOTHING));
        let connect = Connect {
            authentication_method: Some(method),
            authentication_data: Some(b"n,,n=alice,r=abc"),
            ..Connect::new(Version::V5, "one")
        };
        let (_, heard) = world.connect(&connect);
        assert_eq!(
            heard,
            refused(ReasonCode::BadAuthenticationMethod),
            "{method}"
        );
    }
}

#[test]
fn names_in_certificates() {
    let shown = tls::Identity {
        common_name: Some("alice".into()),
        uris: vec!["spiffe://x/alice".into()],
        ..tls::Identity::default()
    };
    let table = [
        (Some(shown.clone()), CertificateName::CommonName, true),
        (Some(shown.clone()), CertificateName::Uri, true),
        (Some(shown.clone()), CertificateName::DnsName, false),
        (Some(shown), CertificateName::Email, false),
        (
            Some(tls::Identity::default()),
            CertificateName::CommonName,
            false,
        ),
    ];
    for (certificate, name, allowed) in table {
        let mut world = World::new(strict([Method::Certificate(name), tokens()], NOTHING));
        let arrival = Arrival {
            certificate: certificate.map(Arc::new),
            ..Arrival::plain(false, remote())
        };
        let (_, heard) = world.connect_from(arrival, &Connect::new(Version::V5, "one"));
        let expected = if allowed {
            accepted()
        } else {
            refused(ReasonCode::BadUserNameOrPassword)
        };
        assert_eq!(heard, expected, "{name}");
    }
    // Who shows none is asked for something else.
    let mut world = World::new(strict(
        [Method::Certificate(CertificateName::CommonName), tokens()],
        NOTHING,
    ));
    world.enter("one", &claims("bob", &[]));
}

#[test]
fn passwords_are_looked_up_elsewhere_and_the_connect_waits() {
    let line = hash_line("alice", &[], b"right", [1; 16]).expect("a name");
    let mut world = World::new(strict([passwords(&[line])], NOTHING));
    let table = [
        ("alice", &b"right"[..], true),
        ("alice", b"wrong", false),
        ("alice", b"", false),
        ("Alice", b"right", false),
        ("nobody", b"right", false),
    ];
    for (index, (user, password, allowed)) in table.into_iter().enumerate() {
        let (_, heard) = world.connect(&with_password("one", user, password));
        let expected = if allowed {
            accepted()
        } else {
            refused(ReasonCode::BadUserNameOrPassword)
        };
        assert_eq!(heard, expected, "{user}");
        assert_eq!(world.questions, index + 1);
    }
    // A password without a name is nobody's.
    let (_, heard) = world.connect(&with_password("one", "", b"right"));
    assert_eq!(heard, refused(ReasonCode::BadUserNameOrPassword));
}

#[test]
fn elsewhere_a_method_that_cannot_be_asked_lets_nobody_in() {
    let table = [
        (
            Ok(Some(Arc::new(Identity::of_user("alice")))),
            ReasonCode::Success,
        ),
        (Err(Refusal::Credentials), ReasonCode::BadUserNameOrPassword),
        (
            Err(Refusal::Unavailable("no answer".into())),
            ReasonCode::ServerUnavailable,
        ),
        (Err(Refusal::Busy), ReasonCode::ServerBusy),
        (Err(Refusal::Banned), ReasonCode::Banned),
    ];
    for (outcome, reason) in table {
        let line = hash_line("alice", &[], b"right", [1; 16]).expect("a name");
        let mut world = World::new(strict([passwords(&[line])], NOTHING));
        world.verdict = Some(outcome);
        let (_, heard) = world.connect(&with_password("one", "alice", b"right"));
        let expected = match reason {
            ReasonCode::Success => accepted(),
            reason => refused(reason),
        };
        assert_eq!(heard, expected);
    }
}

#[test]
fn the_first_method_that_knows_the_credentials_decides() {
    let line = hash_line("alice", &[], b"right", [1; 16]).expect("a name");
    let mut world = World::new(strict([tokens(), passwords(&[line])], NOTHING));
    let (_, heard) = world.connect(&with_password("one", "alice", b"right"));
    assert_eq!(heard, accepted());
    // A bad token is a bad token: it is not tried as a password.
    let expired = token(&json!({"sub": "alice", "aud": "roadstead", "exp": 1}));
    let (_, heard) = world.connect(&with_password("one", "alice", expired.as_bytes()));
    assert_eq!(heard, refused(ReasonCode::BadUserNameOrPassword));
    assert_eq!(world.questions, 1);
}

/// A client of SCRAM-SHA-256 (RFC 5802), as short as can be.
struct ScramClient {
    password: &'static str,
    first: String,
}

impl ScramClient {
    fn new(user: &str, password: &'static str) -> Self {
        Self {
            password,
            first: format!("n={user},r=clientnonce"),
        }
    }

    fn first(&self) -> Vec<u8> {
        format!("n,,{}", self.first).into_bytes()
    }

    /// The last message of the client, and what the server must answer to it.
    fn last(&self, server_first: &[u8]) -> (Vec<u8>, Vec<u8>) {
        let server_first = std::str::from_utf8(server_first).expect("text");
        let part = |name: &str| {
            let mut parts = server_first.split(',');
            parts
                .find_map(|part| part.strip_prefix(name))
                .expect("a part")
        };
        let salt = BASE64_STANDARD.decode(part("s=")).expect("base64");
        let iterations = part("i=").parse().expect("a number");
        let mut salted = [0; 32];
        pbkdf2::derive(
            pbkdf2::PBKDF2_HMAC_SHA256,
            iterations,
            &salt,
            self.password.as_bytes(),
            &mut salted,
        );
        let mac = |key: &[u8], text: &[u8]| {
            hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text)
                .as_ref()
                .to_vec()
        };
        let client_key = mac(&salted, b"Client Key");
        let stored_key = digest::digest(&digest::SHA256, &client_key);
        let without_proof = format!("c=biws,r={}", part("r="));
        let signed = format!("{},{server_first},{without_proof}", self.first);
        let signature = mac(stored_key.as_ref(), signed.as_bytes());
        let proof: Vec<u8> = client_key
            .iter()
            .zip(&signature)
            .map(|(a, b)| a ^ b)
            .collect();
        let server = mac(&mac(&salted, b"Server Key"), signed.as_bytes());
        (
            format!("{without_proof},p={}", BASE64_STANDARD.encode(proof)).into_bytes(),
            format!("v={}", BASE64_STANDARD.encode(server)).into_bytes(),
        )
    }

    fn connect<'a>(first: &'a [u8], client: &'a str) -> Connect<'a> {
        Connect {
            authentication_method: Some("SCRAM-SHA-256"),
            authentication_data: Some(first),
            ..Connect::new(Version::V5, client)
        }
    }
}

fn scram_world() -> World {
    let line = scram_line("alice", &["staff"], "pencil", [2; 16]).expect("a name");
    World::new(strict([passwords(&[line])], NOTHING))
}

fn data_of(heard: &[Heard]) -> &[u8] {
    match heard {
        [Heard::Auth(ReasonCode::ContinueAuthentication, data)] => data,
        other => panic!("no AUTH: {other:?}"),
    }
}

const CONTINUE: ReasonCode = ReasonCode::ContinueAuthentication;
const SCRAM: &str = "SCRAM-SHA-256";

#[test]
fn scram_proves_both_sides_and_can_be_renewed() {
    let mut world = scram_world();
    let client = ScramClient::new("alice", "pencil");
    let first = client.first();
    let (id, heard) = world.connect(&ScramClient::connect(&first, "phone"));
    let (last, _) = client.last(data_of(&heard));
    let heard = world.authenticate(id, CONTINUE, SCRAM, &last);
    assert_eq!(heard, accepted());

    let heard = world.authenticate(id, ReasonCode::ReAuthenticate, SCRAM, &first);
    let (last, answer) = client.last(data_of(&heard));
    let heard = world.authenticate(id, CONTINUE, SCRAM, &last);
    assert_eq!(heard, [Heard::Auth(ReasonCode::Success, answer)]);
    assert_eq!(world.counter("logins_renewed"), 1);
}

#[test]
fn scram_refuses_wrong_passwords_unknown_names_and_messages_of_another_exchange() {
    for (user, password) in [("alice", "pen"), ("nobody", "pencil")] {
        let mut world = scram_world();
        let client = ScramClient::new(user, password);
        let first = client.first();
        let (id, heard) = world.connect(&ScramClient::connect(&first, "phone"));
        let (last, _) = client.last(data_of(&heard));
        let heard = world.authenticate(id, CONTINUE, SCRAM, &last);
        assert_eq!(heard, refused(ReasonCode::NotAuthorized), "{user}");
    }
    // What was heard of one exchange does not open another one.
    let mut world = scram_world();
    let client = ScramClient::new("alice", "pencil");
    let first = client.first();
    let (_, heard) = world.connect(&ScramClient::connect(&first, "phone"));
    let (last, _) = client.last(data_of(&heard));
    let (id, _) = world.connect(&ScramClient::connect(&first, "tablet"));
    let heard = world.authenticate(id, CONTINUE, SCRAM, &last);
    assert_eq!(heard, refused(ReasonCode::NotAuthorized));
}

#[test]
fn scram_refuses_what_is_malformed_and_packets_out_of_order() {
    let mut world = scram_world();
    for first in [&b""[..], b"n,,", b"p=tls-unique,,n=alice,r=x", b"\xFF"] {
        let (_, heard) = world.connect(&ScramClient::connect(first, "phone"));
        assert_eq!(heard, refused(ReasonCode::NotAuthorized));
    }
    let first = ScramClient::new("alice", "pencil").first();
    let (id, _) = world.connect(&ScramClient::connect(&first, "phone"));
    let heard = world.authenticate(id, CONTINUE, "JWT", b"");
    assert_eq!(heard, refused(ReasonCode::ProtocolError));
    let (id, _) = world.connect(&ScramClient::connect(&first, "phone"));
    world.say(id, |out| out.extend([0xC0, 0])); // PINGREQ
    assert_eq!(world.hear(id), refused(ReasonCode::ProtocolError));
    let (id, _) = world.connect(&ScramClient::connect(&first, "phone"));
    world.pass(20_000);
    assert_eq!(world.hear(id), [Heard::Closed]);
    assert_eq!(world.counter("connect_timeouts"), 1);
}

#[test]
fn an_authentication_that_was_not_begun_is_a_protocol_error() {
    let mut world = World::new(strict([tokens()], NOTHING));
    let id = world.enter("phone", &claims("alice", &[]));
    let fresh = token(&claims("alice", &[]));
    let heard = world.authenticate(id, ReasonCode::ReAuthenticate, "JWT", fresh.as_bytes());
    assert_eq!(
        heard,
        [Heard::Disconnect(ReasonCode::ProtocolError), Heard::Closed]
    );
}

/// A client that has entered by a token with the method that lets it renew it.
fn enter_by_method(world: &mut World, claims: &Value) -> reactor::driver::ConnectionId {
    let token = token(claims);
    let connect = Connect {
        authentication_method: Some("JWT"),
        authentication_data: Some(token.as_bytes()),
        ..Connect::new(Version::V5, "phone")
    };
    let (id, heard) = world.connect(&connect);
    assert_eq!(heard, accepted());
    id
}

#[test]
fn a_connection_ends_with_its_token_and_says_so() {
    let mut world = World::new(strict([tokens()], NOTHING));
    let id = world.enter("phone", &claims("alice", &[]));
    world.pass(5_390_000);
    assert_eq!(world.hear(id), []);
    world.pass(41_000); // Half a minute is granted to clocks that differ.
    assert_eq!(
        world.hear(id),
        [
            Heard::Disconnect(ReasonCode::MaximumConnectTime),
            Heard::Closed
        ]
    );
    assert_eq!(world.counter("logins_expired"), 1);
}

#[test]
fn a_token_is_renewed_by_auth_by_the_same_user_alone() {
    let mut world = World::new(strict([tokens()], NOTHING));
    let id = enter_by_method(&mut world, &claims("alice", &[]));
    let mut longer = claims("alice", &[]);
    longer["exp"] = json!(1_800_010_000);
    let renewed = token(&longer);
    let heard = world.authenticate(id, ReasonCode::ReAuthenticate, "JWT", renewed.as_bytes());
    assert_eq!(heard, [Heard::Auth(ReasonCode::Success, vec![])]);
    world.pass(9_990_000);
    assert_eq!(world.hear(id), []);
    let of_bob = token(&json!({"sub": "bob", "aud": "roadstead", "exp": 1_900_000_000}));
    let heard = world.authenticate(id, ReasonCode::ReAuthenticate, "JWT", of_bob.as_bytes());
    assert_eq!(
        heard,
        [Heard::Disconnect(ReasonCode::NotAuthorized), Heard::Closed]
    );
}

#[test]
fn a_user_cannot_take_another_users_session() {
    let mut world = World::new(strict([tokens()], NOTHING));
    let alice = world.enter("phone", &claims("alice", &[]));
    let bob = world.enter("phone", &claims("bob", &[]));
    assert_eq!(world.hear(alice), []);
    world.enter("phone", &claims("alice", &[]));
    assert_eq!(
        world.hear(alice),
        [
            Heard::Disconnect(ReasonCode::SessionTakenOver),
            Heard::Closed
        ]
    );
    assert_eq!(world.hear(bob), []);
}

#[test]
fn an_exchange_that_is_broken_off_keeps_no_bytes() {
    let line = scram_line("alice", &[], "pencil", [2; 16]).expect("a name");
    let limits = Limits {
        partial_bytes_max: 64 * 1024,
        ..Limits::default()
    };
    let mut world = World::with_limits(strict([passwords(&[line])], NOTHING), limits);
    let first = ScramClient::new("alice", "pencil").first();
    let will = Will {
        topic: "gone",
        qos: QoS::AtMostOnce,
        retain: false,
        payload: &[0; 16 * 1024],
        delay_s: 0,
        properties: PublishProperties::default(),
    };
    for _ in 0..100 {
        let connect = Connect {
            will: Some(will.clone()),
            ..ScramClient::connect(&first, "phone")
        };
        let (id, heard) = world.connect(&connect);
        data_of(&heard); // It goes on, however many were broken off before.
        world.leave(id);
    }
}
