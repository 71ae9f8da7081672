//! What no node writes: cut off, turned around, made up. It is refused in words that name the field, and never a panic.

use gateway::bus::wire::{self, KINDS, Problem, VERSION, WireError};
use proptest::collection::vec;
use proptest::prelude::*;

use super::strategies::any_message;
use super::{encoded, samples};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_024))]

    #[test]
    fn every_message_that_is_cut_off_is_refused(message in any_message()) {
        let bytes = encoded(&message);
        for end in 0..bytes.len() {
            prop_assert!(wire::decode(&bytes[..end], VERSION).is_err(), "{end} of {}", bytes.len());
        }
    }

    #[test]
    fn whatever_bytes_change_what_is_read_is_a_message_that_can_be_sent(
        message in any_message(), changes in vec((any::<usize>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = encoded(&message);
        for (place, byte) in changes {
            let place = place % bytes.len();
            bytes[place] = byte;
        }
        if let Ok(read) = wire::decode(&bytes, VERSION) {
            prop_assert_eq!(wire::decode(&encoded(&read), VERSION), Ok(read));
        }
    }

    #[test]
    fn bytes_by_chance_are_a_message_or_refused(
        kind in 0..=KINDS.len() as u8 + 1, bytes in vec(any::<u8>(), 0..200),
    ) {
        let bytes = [&[kind], &bytes[..]].concat();
        if let Ok(read) = wire::decode(&bytes, VERSION) {
            prop_assert_eq!(wire::decode(&encoded(&read), VERSION), Ok(read));
        }
    }
}

#[test]
fn an_empty_message_an_unknown_kind_and_a_version_that_is_gone_are_named() {
    assert_eq!(wire::decode(&[], VERSION), Err(WireError::Empty));
    for number in [0, KINDS.len() as u8 + 1, 255] {
        let unknown = WireError::Kind {
            number,
            version: VERSION,
        };
        assert!(
            unknown
                .to_string()
                .contains(&format!("kind {number} in version"))
        );
        assert_eq!(wire::decode(&[number, 1, 2], VERSION), Err(unknown));
    }
    let (_, message) = samples::all().swap_remove(0);
    let gone = wire::decode(&encoded(&message), 0);
    assert_eq!(gone, Err(WireError::Version { version: 0 }));
}

/// Bytes of a message, the field that is wrong and what is wrong with it.
type Case = (&'static str, Vec<u8>, &'static str, Problem);

fn unknown(what: &'static str, number: u8) -> Problem {
    Problem::Unknown { what, number }
}

/// `number`, seven bits in a byte.
fn varint(mut number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number > 0x7F {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}

/// A message with these flags and this topic, and nothing else.
fn message(flags: u8, topic: &[u8]) -> Vec<u8> {
    [
        &[flags][..],
        &[0; 8],
        &varint(topic.len() as u64),
        &[0],
        topic,
    ]
    .concat()
}

const CONNECTION: &[u8] = &[0, 0, 0, 1, 0, 0, 0, 1];
const KEY: &[u8] = CONNECTION;
const REPLY: &[u8] = &[1, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0];
const SESSION: &[u8] = &[0; 8];

fn kind(name: &str) -> u8 {
    let known = KINDS.iter().find(|(_, known)| *known == name);
    known.expect("the name of a kind").0
}

fn case(name: &'static str, body: &[&[u8]], field: &'static str, problem: Problem) -> Case {
    let bytes = [&[kind(name)], &body.concat()[..]].concat();
    (name, bytes, field, problem)
}

fn numbers() -> Vec<Case> {
    let hand_done = |rest: &[u8], field, problem| case("HandDone", &[rest], field, problem);
    let (transfer, taken) = ("HandDone.transfer", "HandDone.taken");
    vec![
        hand_done(&[], transfer, Problem::Ends),
        hand_done(&[0xFF], transfer, Problem::Ends),
        hand_done(&[1], taken, Problem::Ends),
        hand_done(&[0x80, 0x00, 1], transfer, Problem::Number { bits: 64 }),
        hand_done(
            &[0x80, 0x80, 0x00, 1],
            transfer,
            Problem::Number { bits: 64 },
        ),
        hand_done(
            &[&[0xFF; 9][..], &[2, 1]].concat(),
            transfer,
            Problem::Number { bits: 64 },
        ),
        hand_done(&[0xFF; 20], transfer, Problem::Number { bits: 64 }),
        hand_done(
            &[1, 0x80, 0x80, 0x80, 0x80, 0x10],
            taken,
            Problem::Number { bits: 32 },
        ),
        case(
            "Evict",
            &[&CONNECTION[..7]],
            "Evict.connection",
            Problem::Ends,
        ),
        case(
            "Evict",
            &[&[0], CONNECTION, &[3]],
            "Evict.reason",
            unknown("reason code", 3),
        ),
    ]
}

fn codes_and_counts() -> Vec<Case> {
    vec![
        case("Release", &[KEY, &[0]], "Release.packet_id", Problem::Zero),
        case(
            "Released",
            &[CONNECTION, &[0x80, 0x80, 0x04]],
            "Released.packet_id",
            Problem::Number { bits: 16 },
        ),
        case(
            "MailboxPubRec",
            &[KEY, &[0]],
            "MailboxPubRec.sequence",
            Problem::Zero,
        ),
        case(
            "MailboxAck",
            &[KEY, &[1, 1, 5]],
            "MailboxAck.outcome",
            unknown("outcome", 5),
        ),
        case(
            "SubscriptionDone",
            &[REPLY, &[2]],
            "SubscriptionDone.existed",
            unknown("yes or no (1 or 0)", 2),
        ),
        case(
            "PublishDone",
            &[&[4]],
            "PublishDone.origin",
            unknown("origin", 4),
        ),
        case(
            "PublishDone",
            &[&[1, 1], CONNECTION, &[0, 1]],
            "Client.packet_id",
            Problem::Zero,
        ),
        case(
            "Attached",
            &[CONNECTION, &[1], &[7]],
            "Attached.outcome",
            unknown("yes or no (1 or 0)", 7),
        ),
        case(
            "Stray",
            &[&[1, 5]],
            "StrayDatagram.remote",
            unknown("version of IP", 5),
        ),
        case(
            "Stray",
            &[&[1, 4], &[0; 4], &[1, 0, 1, 4]],
            "StrayDatagram.ecn",
            unknown("ECN", 4),
        ),
    ]
}

fn texts() -> Vec<Case> {
    let empty = edge_proto::topic::TopicName::parse("").expect_err("it is empty");
    let wild = edge_proto::topic::TopicName::parse("+").expect_err("it has a wildcard");
    let nul = edge_proto::topic::TopicName::parse("\0").expect_err("it has a NUL");
    let filter = |text| edge_proto::topic::TopicFilter::parse(text).expect_err("no filter");
    let share = edge_proto::topic::SharedFilter::parse("$share//a").expect_err("no share name");
    let publish = |topic: &[u8], problem| {
        let body = message(0, topic);
        case("Publish", &[&body], "Message.topic", problem)
    };
    let unsubscribe = |text: &[u8], problem| {
        let length = varint(text.len() as u64);
        let field = "HomeUnsubscribe.filter";
        case(
            "HomeUnsubscribe",
            &[KEY, REPLY, &length, text],
            field,
            problem,
        )
    };
    vec![
        publish(b"", Problem::Invalid(empty)),
        publish(b"a/+", Problem::Invalid(wild)),
        publish(b"a\0", Problem::Invalid(nul)),
        publish(b"\xFF", Problem::Utf8),
        unsubscribe(b"", Problem::Invalid(filter(""))),
        unsubscribe(b"a#", Problem::Invalid(filter("a#"))),
        unsubscribe(b"a+/b", Problem::Invalid(filter("a+/b"))),
        unsubscribe(b"$share//a", Problem::Invalid(share)),
        unsubscribe(b"\xC0\x80", Problem::Utf8),
        case(
            "RetainedScan",
            &[b"\x01#\x01+"],
            "RetainedScan.after",
            Problem::Invalid(wild),
        ),
        case(
            "RetainedScan",
            &[b"\x01#\x00\x00"],
            "RetainedScan.limit",
            Problem::Zero,
        ),
        case(
            "RetainedPage",
            &[REPLY, b"\x00\x01\x01#"],
            "RetainedPage.next",
            Problem::Invalid(wild),
        ),
        case(
            "Attach",
            &[&[1], CONNECTION, &[1], SESSION, b"\x01\xFF"],
            "Attach.client_id",
            Problem::Utf8,
        ),
    ]
}

fn flags_and_options() -> Vec<Case> {
    let max = 268_435_455;
    let above = Problem::Above {
        number: max + 1,
        max,
    };
    let delivered = |flags: &[u8]| [&message(0, b"t")[..], &[1], CONNECTION, flags].concat();
    let options = |byte: u8| [KEY, REPLY, b"\x01#", &[byte]].concat();
    let deliver = |body: &[u8], field, problem| case("Deliver", &[body], field, problem);
    let subscribe =
        |options: &[u8], field, problem| case("HomeSubscribe", &[options], field, problem);
    let ids = "Recipient.delivery";
    vec![
        case(
            "Publish",
            &[&message(3, b"t")],
            "Message.qos",
            unknown("QoS", 3),
        ),
        case(
            "Publish",
            &[&message(0x20, b"t")],
            "PublishRequest.message",
            unknown("byte of flags of a message", 0x20),
        ),
        deliver(&delivered(&[3]), "Delivery.qos", unknown("QoS", 3)),
        deliver(
            &delivered(&[0x10]),
            ids,
            unknown("byte of flags of a delivery", 0x10),
        ),
        deliver(&delivered(&[8, 0]), ids, Problem::Zero),
        deliver(&delivered(&[8, 1, 0]), ids, Problem::Zero),
        deliver(
            &delivered(&[&[8, 1][..], &varint(max.into()), &[9]].concat()),
            "Deliver.answer",
            unknown("way to deliver", 9),
        ),
        deliver(
            &delivered(&[&[8, 1][..], &varint(u64::from(max) + 1)].concat()),
            ids,
            above.clone(),
        ),
        subscribe(
            &options(0x30),
            "HomeSubscribe.options",
            unknown("byte of subscription options", 0x30),
        ),
        subscribe(&options(0x03), "HomeSubscribe.options", unknown("QoS", 3)),
        subscribe(
            &[&options(0)[..], &varint(u64::from(max) + 1)].concat(),
            "HomeSubscribe.subscription_id",
            above,
        ),
        case(
            "LimitSubscription",
            &[b"\x01#", SESSION, &[3]],
            "LimitSubscription.qos_allowed",
            unknown("QoS", 3),
        ),
        case(
            "Subscribe",
            &[b"\x01#", SESSION, &[0]],
            "Subscriber.target",
            unknown("target", 0),
        ),
    ]
}

/// A list that claims more entries than there are bytes for is refused before there is memory for it.
fn lists() -> Vec<Case> {
    let many = varint(u64::from(u32::MAX));
    let count = |left| Problem::Count {
        count: u32::MAX as usize,
        left,
    };
    let one = |left| Problem::Count { count: 1, left };
    let text = message(0, b"t");
    let home = [&text[..], &[1], &[0; 8]].concat();
    let deliver = [&text[..], &[1, 1, 1]].concat();
    let attached = [CONNECTION, &[1], &[1], SESSION, KEY, &[1, 1, 1]].concat();
    vec![
        case(
            "Deliver",
            &[&text, &many, &[0; 9]],
            "Deliver.recipients",
            count(9),
        ),
        case("Deliver", &[&deliver], "Deliver.recipients", one(2)),
        case("DeliverHome", &[&home], "DeliverHome.recipients", one(8)),
        case(
            "Deliver",
            &[&text, &[1], CONNECTION, &[8], &many, &[1]],
            "Recipient.delivery",
            count(1),
        ),
        case(
            "Hand",
            &[CONNECTION, &many, &[0; 99]],
            "Hand.messages",
            count(99),
        ),
        case(
            "RetainedPage",
            &[REPLY, &many, &[0; 12]],
            "RetainedPage.messages",
            count(12),
        ),
        case(
            "Attached",
            &[&attached, &many],
            "AttachedSession.received",
            count(0),
        ),
        case(
            "Attached",
            &[&attached, &[1, 0, 7, 9]],
            "ReceivedId.packet_id",
            Problem::Zero,
        ),
        case("Identify", &[KEY, &[0], &many], "Identity.groups", count(0)),
        case(
            "Stray",
            &[&[1, 4], &[0; 4], &[1, 0, 0], &many, &[1]],
            "StrayDatagram.bytes",
            Problem::Ends,
        ),
        case(
            "Publish",
            &[&[0], SESSION, &many, &[0]],
            "PublishRequest.message",
            Problem::Ends,
        ),
    ]
}

#[test]
fn what_is_wrong_is_told_with_its_field() {
    let cases = [
        numbers(),
        codes_and_counts(),
        texts(),
        flags_and_options(),
        lists(),
    ];
    for (kind, bytes, field, problem) in cases.into_iter().flatten() {
        let expected = WireError::Field {
            kind,
            field,
            problem,
        };
        let text = expected.to_string();
        assert!(text.starts_with(&format!("{kind}: {field}: ")), "{text}");
        assert_eq!(wire::decode(&bytes, VERSION), Err(expected), "{bytes:02x?}");
    }
}

#[test]
fn rules_that_cannot_be_made_out_let_nobody_in() {
    let rule = |allow: &[u8], topics: &[u8]| {
        // Source, one rule: what it allows, no deny, users, groups, clients; its topics, no limits.
        [&[1, 1, 1][..], allow, &[0, 0, 0, 0], topics, &[0, 0]].concat()
    };
    let identify = |rules: &[u8]| {
        let bytes = [&[kind("Identify")], KEY, &[0, 0, 0, 1], rules].concat();
        wire::decode(&bytes, VERSION).map(|_| ())
    };
    assert_eq!(identify(&rule(b"\x01\x07publish", b"\x01\x01#")), Ok(()));
    for (rules, words) in [
        (rule(b"\x01\x07perform", b"\x01\x01#"), "perform"),
        (rule(b"\x01\x07publish", b"\x01\x02a#"), "wildcard"),
        (rule(b"\x01\x07publish", b"\x00"), "no topics"),
    ] {
        let error = identify(&rules).expect_err("bad rules").to_string();
        assert!(error.starts_with("Identify: Rules.rules: "), "{error}");
        assert!(error.contains(words), "{error}");
    }
    let too_many = [
        &[1, 33][..],
        &rule(b"\x01\x07publish", b"\x01\x01#")[2..].repeat(33),
    ]
    .concat();
    let error = identify(&too_many).expect_err("33 rules").to_string();
    assert!(error.contains("33 rules, 32 at most"), "{error}");
}
