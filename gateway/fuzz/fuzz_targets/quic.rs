//! Datagrams of strangers into an endpoint, from a few addresses, while time passes: nothing panics, nothing is acted on, and nothing
//! is left once all deadlines are over. Some are noise, and some are Initial packets with valid protection around noise, since
//! everybody can make those (RFC 9001 §5.2).
#![no_main]

use std::sync::{Arc, LazyLock};
use std::time::Instant;

use gateway::access::gate::{Gate, GateLimits};
use gateway::limits::QuicLimits;
use gateway::quic::{Arrived, Endpoints, Listening, NodeKeys, Output};
use gateway::tls::{
    Acceptor, Certificate, ClientCertificates, ClusterSecret, PemFile, Settings, Versions,
};
use gateway::turn::Now;
use libfuzzer_sys::fuzz_target;
use rcgen::{CertificateParams, KeyPair};
use rustls::Side;
use rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256;
use rustls::quic::Version;

static ACCEPTOR: LazyLock<Arc<Acceptor>> = LazyLock::new(|| {
    let key = KeyPair::generate().expect("a key can be made");
    let params = CertificateParams::new(vec!["localhost".to_owned()]).expect("it is a name");
    let certificate = params.self_signed(&key).expect("it signs itself");
    let file = |name: &str, text: String| PemFile {
        name: name.to_owned(),
        text: text.into_bytes(),
    };
    let settings = Settings {
        certificates: vec![Certificate {
            chain: file("server.pem", certificate.pem()),
            key: file("server.key", key.serialize_pem()),
        }],
        client_certificates: ClientCertificates::None,
        application_protocols: vec![b"mqtt".to_vec()],
        versions: Versions::Only13,
        ticket_secrets: vec![ClusterSecret([7; 32])],
        ticket_epoch_s: 3600,
    };
    Arc::new(Acceptor::for_quic(&settings).expect("the settings are good"))
});

/// An Initial packet with these frames, from a client that chose this id (RFC 9000 §17.2.2).
fn initial(frames: &[u8], number: u8, id: [u8; 8]) -> Vec<u8> {
    const FLAGS: u8 = 0xc0; // Long header, Initial, packet number of one byte.
    const TAG: usize = 16;
    let suite = TLS13_AES_128_GCM_SHA256
        .tls13()
        .and_then(|suite| suite.quic_suite());
    let keys = suite
        .expect("QUIC has it")
        .keys(&id, Side::Client, Version::V1);
    let length = 1_200.max(frames.len()) + 1 + TAG;
    let mut packet = vec![FLAGS, 0, 0, 0, 1, 8];
    packet.extend(id);
    packet.extend([0, 0]); // No id of the client's own, no token.
    packet.extend((0x4000 | length as u16).to_be_bytes());
    packet.push(number);
    let mut payload = frames.to_vec();
    payload.resize(length - 1 - TAG, 0); // Padding.
    let tag = keys
        .local
        .packet
        .encrypt_in_place(number.into(), &packet, &mut payload);
    let start = packet.len();
    packet.extend(payload);
    packet.extend(tag.expect("it seals").as_ref());
    let (header, sealed) = packet.split_at_mut(start);
    let (first, header) = header.split_at_mut(1);
    let place = header.len() - 1;
    // The sample begins four bytes after the packet number does (RFC 9001 §5.4.2).
    let masked =
        keys.local
            .header
            .encrypt_in_place(&sealed[3..19], &mut first[0], &mut header[place..]);
    masked.expect("it masks");
    packet
}

fuzz_target!(|input: &[u8]| {
    let listening = Listening {
        keys: NodeKeys::new(&ClusterSecret([7; 32]), &[8; 32]),
        node: 0,
        core: 0,
        cores: 1,
    };
    let at = |mono_ms| Now {
        mono_ms,
        unix_ms: 1_800_000_000_000 + mono_ms,
    };
    let limits = QuicLimits {
        retry_above: 2,
        handshakes_max: 4,
        ..QuicLimits::default()
    };
    let origin = Instant::now();
    let addresses = [([192, 0, 2, 200], 14_567).into()];
    let server = Endpoints::new(limits, listening, &ACCEPTOR, &addresses, origin, at(0));
    let mut server = server.expect("it does for QUIC");
    let bounds = GateLimits {
        listener_connections_max: Some(3),
        address_connections_max: Some(1),
        ..GateLimits::default()
    };
    let mut gate = Gate::new(bounds, 7);
    let mut tell = |output: Output<'_>| {
        assert!(
            matches!(output, Output::Failed(..)),
            "a stranger without a handshake is never heard"
        );
    };
    let (mut rest, mut now_ms, mut sent) = (input, 0, 0);
    // Each datagram: where from, how long to wait, and its length.
    while let [who, wait, high, low, tail @ ..] = rest {
        let length = usize::from(u16::from_be_bytes([*high, *low]) % 1_500).min(tail.len());
        let (datagram, tail) = tail.split_at(length);
        rest = tail;
        let bytes = if who & 0x80 == 0 {
            datagram.to_vec()
        } else {
            initial(datagram, who & 0x0f, [who >> 4; 8])
        };
        now_ms += u64::from(*wait);
        if !bytes.is_empty() {
            let arrived = Arrived {
                listener: 0,
                remote: ([192, 0, 2, who & 0x03], 5).into(),
                local: None,
                ecn: None,
                is_banned: false,
                stride: bytes.len(),
                bytes: &bytes,
            };
            server.received(&arrived, at(now_ms), &mut gate, &mut tell);
        }
        server.turn(at(now_ms), &mut gate, || true, &mut tell);
        server.transmit(at(now_ms), &mut gate, |_, transmit| {
            sent += transmit.bytes.len();
        });
    }
    while server.stats().connections > 0 || server.stats().handshakes_waiting > 0 {
        let next_ms = server
            .next_deadline_ms()
            .expect("something is still to come");
        now_ms = now_ms.max(next_ms);
        assert!(now_ms < 10_000_000, "it must end");
        server.turn(at(now_ms), &mut gate, || true, &mut tell);
        server.transmit(at(now_ms), &mut gate, |_, transmit| {
            sent += transmit.bytes.len();
        });
    }
    let stats = server.stats();
    assert_eq!((stats.handshakes_in_progress, stats.unsent_bytes), (0, 0));
});
