//! Records that no client of rustls would send, made with the keys of one, and given to this layer and to a server of rustls:
//! both must take the same data out of them, end at the same record, and say the same alert.

use gateway::limits::TlsLimits;
use gateway::tls::Reason;
use proptest::prelude::*;

use crate::forger::{ALERT, CCS, DATA, Forged, Forger, HANDSHAKE, Pair, data};
use crate::world::{Authority, BOTH, Client, Server};

const KEY_UPDATE: &[u8] = &[24, 0, 0, 1, 0];

fn pairs(is_13: bool) -> [Pair; 2] {
    [Pair::new(is_13, true), Pair::new(is_13, false)]
}

#[test]
fn alerts_are_heard_as_rustls_hears_them() {
    for is_13 in [false, true] {
        for pair in pairs(is_13) {
            for alert in [
                vec![1, 0],
                vec![2, 0],
                vec![2, 40],
                vec![1, 90],
                vec![1, 41],
                vec![3, 40],
                vec![1],
                vec![1, 0, 0],
            ] {
                pair.agree(&[data(b"a"), Forged::Record(ALERT, alert), data(b"b")]);
            }
            let warning = Forged::Record(ALERT, vec![1, 90]);
            let many = pair.agree(&vec![warning; 4]);
            assert_eq!(many.failed_at, None, "four warnings are borne");
        }
    }
}

#[test]
fn a_fifth_warning_ends_the_session() {
    for is_13 in [false, true] {
        for pair in pairs(is_13) {
            let warning = Forged::Record(ALERT, vec![1, 90]);
            let records = vec![warning; 6];
            let (outcome, reason) = pair.here(&records);
            assert_eq!(outcome.failed_at, pair.there(&records).failed_at);
            assert_eq!(
                (outcome.failed_at, reason),
                (Some(4), Some(Reason::Violation))
            );
        }
    }
}

#[test]
fn key_updates_may_be_split_and_must_end_a_record() {
    for pair in pairs(true) {
        let split = [
            Forged::Record(HANDSHAKE, KEY_UPDATE[..2].to_vec()),
            Forged::Record(HANDSHAKE, KEY_UPDATE[2..4].to_vec()),
        ];
        assert_eq!(pair.agree(&split).failed_at, None);
        let interleaved = [split[0].clone(), data(b"between")];
        let (here, there) = (pair.here(&interleaved).0, pair.there(&interleaved));
        assert_eq!((here.failed_at, here.data), (there.failed_at, there.data));
        assert_eq!(here.failed_at, Some(1));
        for wrong in [
            [KEY_UPDATE, KEY_UPDATE].concat(),
            [KEY_UPDATE, &[24]].concat(),
            vec![24, 0, 0, 1, 2],
        ] {
            let records = [Forged::Record(HANDSHAKE, wrong)];
            assert_eq!(pair.agree(&records).failed_at, Some(0), "{records:?}");
        }
        for wrong in [
            vec![24, 0, 0, 0, 0],
            vec![24, 0, 0, 2, 0, 0],
            vec![4, 0, 0, 1, 0],
            vec![1, 0, 0, 1, 0],
            vec![],
        ] {
            let records = [Forged::Record(HANDSHAKE, wrong)];
            let (here, reason) = pair.here(&records);
            assert_eq!((here.failed_at, reason), (Some(0), Some(Reason::Violation)));
            assert!(here.alert.is_some());
        }
    }
}

#[test]
fn a_key_update_is_answered_when_an_answer_is_asked_for() {
    for pair in pairs(true) {
        for (request, is_answered) in [(0, false), (1, true)] {
            let mut server = Server::new(&pair.settings, TlsLimits::default());
            let mut client = pair.client();
            server.connect(0, &mut client);
            let mut forger = Forger::new(client);
            let record = forger.tx.seal(HANDSHAKE, &[24, 0, 0, 1, request], 0);
            server.receive(0, &record);
            assert!(server.send(0, b"data"));
            let sent: Vec<u8> = server.of(0).sent.drain(..).collect();
            let records = forger.rx.open(&sent);
            let answer = (HANDSHAKE, KEY_UPDATE.to_vec());
            let data = (DATA, b"data".to_vec());
            // What follows the answer is under a key that this half does not have.
            assert_eq!(records, [if is_answered { answer } else { data }]);
        }
    }
}

#[test]
fn key_updates_without_data_between_them_come_to_an_end() {
    let authority = Authority::new("root");
    let mut server = Server::usual(&authority);
    let mut client = Client::new(authority.client_config(BOTH[1], None));
    server.connect(0, &mut client);
    for round in 0..33 {
        assert!(server.of(0).failed.is_none(), "round {round}");
        let update = client.connection.refresh_traffic_keys();
        update.expect("the client can update");
        let bytes = client.written();
        server.receive(0, &bytes);
    }
    let failure = server.of(0).failed.clone().expect("it was too many");
    assert_eq!(failure.reason, Reason::Violation);
}

#[test]
fn another_handshake_is_refused_with_a_warning_and_then_for_good() {
    for pair in pairs(false) {
        let hello = Forged::Record(HANDSHAKE, hello());
        let once = pair.agree(&[hello.clone(), data(b"goes on")]);
        assert_eq!(once.alert, Some(100), "no_renegotiation");
        assert_eq!((&once.data[..], once.failed_at), (&b"goes on"[..], None));
        let records = [hello.clone(), hello];
        let (twice, _) = pair.here(&records);
        assert_eq!(twice.failed_at, Some(1));
        assert_eq!(twice.failed_at, pair.there(&records).failed_at);
        let other = [Forged::Record(HANDSHAKE, vec![20, 0, 0, 1, 0])];
        assert_eq!(
            pair.here(&other).0.failed_at,
            Some(0),
            "a message of a handshake"
        );
    }
}

/// A ClientHello that parses.
fn hello() -> Vec<u8> {
    let authority = Authority::new("root");
    let mut client = Client::new(authority.client_config(BOTH[0], None));
    client.written()[5..].to_vec()
}

#[test]
fn records_are_as_long_as_they_may_be() {
    for is_13 in [false, true] {
        for pair in pairs(is_13) {
            assert_eq!(pair.agree(&[data(&vec![1; 16_384])]).data.len(), 16_384);
            let long = pair.agree(&[data(&vec![1; 16_385])]);
            assert_eq!((long.failed_at, long.alert), (Some(0), Some(22)));
            let (huge, _) = pair.here(&[Forged::Raw(vec![DATA, 3, 3, 0xFF, 0xFF])]);
            assert_eq!((huge.failed_at, huge.alert), (Some(0), Some(22)));
        }
    }
}

#[test]
fn padding_is_taken_off_and_counts_as_length() {
    for pair in pairs(true) {
        let padded = Forged::Padded(DATA, b"data".to_vec(), 100);
        assert_eq!(pair.agree(&[padded]).data, b"data");
        let alert = Forged::Padded(ALERT, vec![1, 0], 3);
        assert!(pair.agree(&[alert]).closed);
        let nothing = Forged::Padded(0, vec![], 40);
        let (nothing, reason) = pair.here(&[nothing]);
        assert_eq!((nothing.alert, reason), (Some(10), Some(Reason::Violation)));
    }
}

#[test]
fn empty_records_are_borne_for_a_while() {
    for is_13 in [false, true] {
        for pair in pairs(is_13) {
            let empty = Forged::Record(DATA, vec![]);
            let mut records = vec![empty.clone(); 32];
            records.push(data(b"data"));
            records.extend(vec![empty.clone(); 32]);
            assert_eq!(pair.agree(&records).data, b"data");
            records.push(empty);
            let (here, there) = (pair.here(&records).0, pair.there(&records));
            assert_eq!((here.failed_at, there.failed_at), (Some(65), Some(65)));
        }
    }
}

#[test]
fn other_content_types_are_unexpected() {
    for is_13 in [false, true] {
        for pair in pairs(is_13) {
            for (content_type, plain) in [(CCS, vec![1]), (24, vec![1]), (99, vec![1])] {
                let records = [Forged::Record(content_type, plain)];
                let (here, reason) = pair.here(&records);
                assert_eq!(here.failed_at, pair.there(&records).failed_at);
                assert_eq!((here.alert, reason), (Some(10), Some(Reason::Violation)));
            }
            for content_type in [CCS, ALERT, HANDSHAKE] {
                let raw = [Forged::Raw(vec![content_type, 3, 3, 0, 2, 1, 0])];
                let (here, _) = pair.here(&raw);
                assert_eq!(here.failed_at, Some(0), "plaintext {content_type}");
            }
        }
    }
}

fn any_record(is_13: bool) -> impl Strategy<Value = Forged> {
    let small = prop::collection::vec(any::<u8>(), 1..40);
    prop_oneof![
        8 => small.clone().prop_map(|plain| Forged::Record(DATA, plain)),
        2 => (small, 0..if is_13 { 50_usize } else { 1 })
            .prop_map(|(plain, zeros)| Forged::Padded(DATA, plain, zeros)),
        1 => Just(Forged::Record(DATA, vec![])),
        1 => any::<usize>().prop_map(Forged::Damaged),
        1 => Just(Forged::Replayed),
        1 => (1..4_u8, any::<u8>()).prop_map(|(level, alert)| Forged::Record(ALERT, vec![level, alert])),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn any_records_come_to_the_same_end(
        (is_13, records) in any::<bool>().prop_flat_map(|is_13| {
            (Just(is_13), prop::collection::vec(any_record(is_13), 1..12))
        }),
        is_gcm in any::<bool>(),
    ) {
        // Replaying nothing is nothing.
        let is_first_replayed = matches!(records[0], Forged::Replayed);
        prop_assume!(!is_first_replayed);
        let pair = Pair::new(is_13, is_gcm);
        let (here, reason) = pair.here(&records);
        let there = pair.there(&records);
        prop_assert_eq!(&here, &there);
        prop_assert_eq!(reason.is_some(), there.failed_at.is_some());
    }
}
