//! The driver in memory, for tests and simulations: deterministic, in virtual time, never blocking.
//!
//! A [`FakeNet`] holds any number of drivers and peers. A test opens a [`FakePeer`] to a listening driver (or accepts what a
//! driver connects to), writes bytes in the chunks it likes, reads what was sent, narrows its window so that sends become
//! partial, and resets or ends the connection. Drivers of one net can also connect to each other. `poll` returns at once,
//! with what there is; time passes by [`FakeNet::advance`] only.
//!
//! Datagrams go between sockets of drivers and [`FakeDatagramPeer`]s; [`FakeNet::set_datagram_fate`] loses, doubles and swaps
//! them.

mod connection;
mod datagram;
mod driver;
mod net;

pub use datagram::{DatagramFate, FakeDatagram, FakeDatagramPeer};
pub use driver::FakeDriver;
pub use net::{FakeNet, FakePeer};

#[cfg(all(test, not(loom)))]
mod tests {
    use std::net::SocketAddr;
    use std::time::{Duration, Instant};

    use super::{DatagramFate, FakeDriver, FakeNet};
    use crate::datagram::{DatagramOptions, Ecn, Transmit};
    use crate::driver::{
        Close, ConnectionId, Driver, DriverConfig, Event, Keepalive, ListenOptions,
    };

    const ADDRESS: SocketAddr = SocketAddr::new(
        std::net::IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1)),
        1883,
    );

    const ADDRESS_OF_PEER: SocketAddr = SocketAddr::new(
        std::net::IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2)),
        1883,
    );

    fn net() -> FakeNet {
        #[expect(
            clippy::disallowed_methods,
            reason = "an instant can only be had from the clock"
        )]
        FakeNet::new(Instant::now())
    }

    fn listening(net: &FakeNet) -> FakeDriver {
        let mut driver = net.driver(DriverConfig::small());
        let options = ListenOptions {
            backlog: 8,
            reuse_port: false,
            keepalive: Some(Keepalive::USUAL),
        };
        driver
            .listen(ADDRESS, options)
            .expect("the address is free");
        driver
    }

    /// Polls once and returns what was told, with received bytes in full.
    fn poll(driver: &mut FakeDriver) -> Vec<(ConnectionId, String)> {
        let mut events = Vec::new();
        driver
            .poll(None, &mut events)
            .expect("the fake does not fail");
        let tell = |event| match event {
            Event::Accepted { connection, .. } => (connection, "accepted".to_owned()),
            Event::Connected { connection } => (connection, "connected".to_owned()),
            Event::Received { connection, buffer } => (
                connection,
                String::from_utf8_lossy(driver.received(buffer)).into_owned(),
            ),
            Event::Drained { connection } => (connection, "drained".to_owned()),
            Event::PeerClosed { connection } => (connection, "peer closed".to_owned()),
            Event::Closed {
                connection,
                unsent,
                error,
            } => (connection, format!("closed {unsent} {}", error.is_some())),
            Event::Datagrams { .. } | Event::Woken => panic!("{event:?}"),
        };
        events.into_iter().map(tell).collect()
    }

    fn told(driver: &mut FakeDriver) -> Vec<String> {
        poll(driver).into_iter().map(|(_, what)| what).collect()
    }

    #[test]
    fn two_drivers_of_one_net_talk() {
        let net = net();
        let (mut server, mut client) = (listening(&net), net.driver(DriverConfig::small()));
        let ours = client.connect(ADDRESS, None).expect("there is room");
        client.send(ours, b"hello".to_vec());
        assert_eq!(told(&mut client), ["connected", "drained"]);
        let accepted = poll(&mut server);
        assert_eq!(
            accepted.iter().map(|(_, what)| what).collect::<Vec<_>>(),
            ["accepted", "hello"]
        );
        server.close(accepted[0].0, Close::Graceful { linger_ms: 1_000 });
        assert_eq!(told(&mut server), [""; 0]);
        assert_eq!(told(&mut client), ["peer closed"]);
        client.close(ours, Close::Graceful { linger_ms: 1_000 });
        assert_eq!(told(&mut client), ["closed 0 false"]);
        assert_eq!(told(&mut server), ["closed 0 false"]);
    }

    #[test]
    fn datagrams_are_lost_doubled_and_swapped_as_the_test_says() {
        let net = net();
        let mut driver = net.driver(DriverConfig::small());
        let options = DatagramOptions::server();
        let (_, bound) = driver.bind_datagrams(ADDRESS, options).expect("it is free");
        let peer = net.datagram_peer(ADDRESS_OF_PEER).expect("it is free");
        net.set_datagram_fate(move |from, to, bytes| {
            assert_eq!((from, to), (ADDRESS_OF_PEER, bound));
            match bytes[0] {
                b'l' => DatagramFate::Lose,
                b't' => DatagramFate::Twice,
                b'b' => DatagramFate::Behind,
                _ => DatagramFate::Deliver,
            }
        });
        let transmit = Transmit {
            to: bound,
            from: None,
            ecn: Some(Ecn::Ce),
            segment: Some(2),
            bytes: b"a1l1t1b1a2b2l2b3a3b4".to_vec(),
        };
        peer.send(&transmit);
        let mut events = Vec::new();
        driver.poll(None, &mut events).expect("it does not fail");
        let mut heard = Vec::new();
        for event in events {
            let Event::Datagrams {
                buffer,
                stride,
                ecn,
                ..
            } = event
            else {
                panic!("{event:?}")
            };
            assert_eq!((stride, ecn), (2, Some(Ecn::Ce)));
            let parts = driver.received(buffer).chunks(stride);
            heard.extend(parts.map(|part| String::from_utf8_lossy(part).into_owned()));
        }
        assert_eq!(heard, ["a1", "t1", "t1", "a2", "b1", "b2", "a3", "b3"]);
    }

    #[test]
    fn chunks_stalls_and_virtual_time_do_what_the_test_says() {
        let net = net();
        let mut driver = listening(&net);
        let peer = net.open(ADDRESS).expect("it listens");
        peer.set_chunk(2);
        peer.stall(2);
        assert_eq!(peer.write(b"abcde"), 5);
        let accepted = poll(&mut driver);
        let heard: Vec<String> = (0..6).flat_map(|_| told(&mut driver)).collect();
        assert_eq!(heard, ["ab", "cd", "e"]);
        assert_eq!(driver.counters().receive_buffers_exhausted, 2);
        peer.set_window(3);
        driver.send(accepted[0].0, b"12345".to_vec());
        driver.close(accepted[0].0, Close::Graceful { linger_ms: 500 });
        assert_eq!(told(&mut driver), [""; 0]);
        assert_eq!(peer.read(), b"123");
        peer.set_window(0);
        net.advance(Duration::from_millis(499));
        assert_eq!(told(&mut driver), [""; 0]);
        net.advance(Duration::from_millis(1));
        driver
            .poll(None, &mut Vec::new())
            .expect("the fake does not fail");
        assert_eq!(told(&mut driver), ["closed 2 false"]);
        assert!(peer.is_reset());
    }
}
