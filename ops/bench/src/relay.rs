//! The physical limit: a relay on the reactor's ring that moves packets between the two clients of a pair.
//!
//! It answers CONNECT and SUBSCRIBE with what a server would, and from then on sends whatever one client of a pair sends
//! to the other, unread. So it receives and sends the same packets on the same sockets as a server does, acknowledgements
//! included, and does nothing else: no session, no topic, no queue. Who is whose partner follows from the client
//! identifiers of the generator: 2k and 2k + 1. A PINGREQ alone is answered.

use anyhow::{Context as _, Result};
use edge_proto::decode::{Sender, decode};
use edge_proto::encode;
use edge_proto::frame::{PACKET_LENGTH_MAX, next_frame};
use edge_proto::packet::{ConnAck, Packet, SubAck, UserProperties, Version};
use reactor::datagram::DatagramConfig;
use reactor::driver::{Close, ConnectionId, Driver, DriverConfig, Event, Keepalive, ListenOptions};
use reactor::uring::UringDriver;

use crate::arguments::Relay;
use crate::generator::number_of;

/// A PINGREQ (MQTT 5.0, 3.12).
const PINGREQ: [u8; 2] = [0xC0, 0];

/// A connection of the relay, by slot.
#[derive(Clone, Copy, Debug)]
enum Peer {
    /// Has not said who it is.
    Unknown,
    /// The client of this number, whose partner is not there.
    Client { number: u32, version: Version },
    /// Everything goes to that connection.
    Paired(ConnectionId),
}

struct State {
    peers: Vec<Peer>,
    /// Connections by the number of their client.
    by_number: Vec<Option<ConnectionId>>,
}

/// Relays until it is killed.
pub(crate) fn run(arguments: &Relay) -> Result<()> {
    reactor::probe::raise_nofile_limit()?;
    let mut driver = UringDriver::new(DriverConfig {
        connections_max: arguments.connections_max,
        receive_buffers: 1_024,
        receive_buffer_bytes: 8 << 10,
        events_max: 512,
        submission_entries: 1_024,
        completion_entries: 8_192,
        datagrams: DatagramConfig::small(),
    })
    .context("the relay needs io_uring")?;
    let options = ListenOptions {
        backlog: 4_096,
        reuse_port: false,
        keepalive: Some(Keepalive::USUAL),
    };
    driver
        .listen(arguments.listen, options)
        .with_context(|| format!("cannot listen on {}", arguments.listen))?;
    let mut state = State {
        peers: Vec::new(),
        by_number: Vec::new(),
    };
    let mut events = Vec::new();
    loop {
        driver.poll(None, &mut events)?;
        for event in events.drain(..) {
            match event {
                Event::Received { connection, buffer } => {
                    let mut out = driver.reclaim().unwrap_or_default();
                    let received = driver.received(buffer);
                    if received == PINGREQ {
                        encode::pingresp(&mut out);
                        driver.send(connection, out);
                    } else if let Peer::Paired(partner) = state.peers[connection.slot as usize] {
                        out.extend_from_slice(received);
                        driver.send(partner, out);
                    } else if state.answer(connection, received, &mut out).is_some() {
                        driver.send(connection, out);
                    } else {
                        driver.close(connection, Close::Abort);
                    }
                }
                Event::Accepted { connection, .. } => {
                    let slot = connection.slot as usize;
                    if state.peers.len() <= slot {
                        state.peers.resize(slot + 1, Peer::Unknown);
                    }
                    state.peers[slot] = Peer::Unknown;
                }
                Event::PeerClosed { connection } => driver.close(connection, Close::Abort),
                Event::Connected { .. }
                | Event::Drained { .. }
                | Event::Closed { .. }
                | Event::Datagrams { .. }
                | Event::Woken => {}
            }
        }
    }
}

impl State {
    /// Answers what comes before the first message. `None` for what the generator would not send.
    fn answer(&mut self, from: ConnectionId, bytes: &[u8], out: &mut Vec<u8>) -> Option<()> {
        let slot = from.slot as usize;
        let frame = next_frame(bytes, PACKET_LENGTH_MAX as u32).ok()??;
        let version = match self.peers[slot] {
            Peer::Client { version, .. } => version,
            _ => Version::V5,
        };
        match decode(version, Sender::Client, frame).ok()? {
            Packet::Connect(connect) => {
                let number = number_of(connect.client_id)?;
                self.peers[slot] = Peer::Client {
                    number,
                    version: connect.version,
                };
                encode::connack(out, connect.version, &ConnAck::default());
            }
            Packet::Subscribe(subscribe) => {
                let Peer::Client { number, version } = self.peers[slot] else {
                    return None;
                };
                let suback = SubAck {
                    packet_id: subscribe.packet_id,
                    reason_string: None,
                    user_properties: UserProperties::default(),
                    reasons: &[0],
                };
                encode::suback(out, version, &suback);
                self.pair(from, number);
            }
            _ => return None,
        }
        Some(())
    }

    /// Joins the two clients of a pair when both are there.
    fn pair(&mut self, connection: ConnectionId, number: u32) {
        let places = (number | 1) as usize + 1;
        if self.by_number.len() < places {
            self.by_number.resize(places, None);
        }
        self.by_number[number as usize] = Some(connection);
        if let Some(partner) = self.by_number[(number ^ 1) as usize] {
            self.peers[connection.slot as usize] = Peer::Paired(partner);
            self.peers[partner.slot as usize] = Peer::Paired(connection);
        }
    }
}
