//! A storm: clients that want in, at a rate that does not depend on whether they get in. Run as a process of its own, so that it
//! can be given less of the CPU than the clients whose latency is measured meanwhile.
//!
//! ```text
//! Connecting ─▶ (TLS) ─▶ Greeting ─CONNACK─▶ counted ─DISCONNECT─▶ gone
//!       └────────── closed, or out of patience ──────▶ counted ─▶ gone
//! ```

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::time::{Duration, Instant};

use anyhow::Result;
use edge_proto::decode::{Sender, decode};
use edge_proto::encode;
use edge_proto::frame::{PACKET_LENGTH_MAX, next_frame};
use edge_proto::packet::{Connect, Disconnect, Packet, Version};
use edge_proto::reason::ReasonCode;
use reactor::datagram::DatagramConfig;
use reactor::driver::{BufferRef, Close, ConnectionId, Driver, DriverConfig, Event};
use reactor::epoll::EpollDriver;
use reactor::slab::Table;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde::{Deserialize, Serialize};

use super::addresses::local_of;
use super::client::client_id_of;
use super::tls::{Handshake, Shared, Tickets, Tls, TlsSettings};
use crate::arguments::StormClients;
use crate::arguments::TlsKey;
use crate::clock::{self, Pace};

/// Clients on their way at once; who is due beyond it is left out and counted.
pub(crate) const UNDERWAY_MAX: usize = 16_000;
/// Connects between two looks at the sockets.
const BATCH: u64 = 64;
/// How many of these clients are told apart: addresses and names come again after so many.
const STRANGERS: u32 = 500_000;
/// How long the last bytes of a client may take.
const LINGER_MS: u32 = 1_000;
const IDLE: Duration = Duration::from_millis(20);

/// A client on its way.
#[derive(Clone, Copy, Debug)]
struct Client {
    connection: ConnectionId,
    number: u32,
    /// True for one whose session the server has kept.
    known: bool,
    counted: bool,
}

/// What became of the clients.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Tally {
    pub(crate) offered: u64,
    pub(crate) left_out: u64,
    pub(crate) no_socket: u64,
    pub(crate) done: u64,
    pub(crate) done_known: u64,
    pub(crate) offered_known: u64,
    pub(crate) closed: u64,
    pub(crate) impatient: u64,
    /// By reason code.
    pub(crate) refused: BTreeMap<u8, u64>,
}

impl Tally {
    /// Adds what became of the clients of another process.
    pub(crate) fn add(&mut self, other: &Self) {
        let Self {
            offered,
            left_out,
            no_socket,
            done,
            done_known,
            offered_known,
            closed,
            impatient,
            refused,
        } = other;
        self.offered += offered;
        self.left_out += left_out;
        self.no_socket += no_socket;
        self.done += done;
        self.done_known += done_known;
        self.offered_known += offered_known;
        self.closed += closed;
        self.impatient += impatient;
        for (code, count) in refused {
            *self.refused.entry(*code).or_default() += count;
        }
    }
}

struct Storm<'a> {
    arguments: &'a StormClients,
    driver: EpollDriver,
    tls: Option<Tls>,
    clients: Table<Client>,
    /// When each gives up, in the order in which they began.
    patience: VecDeque<(Instant, ConnectionId)>,
    underway: usize,
    /// Clients so far, of this process.
    clients_so_far: u32,
    tally: Tally,
}

/// Storms for as long as it was told, and prints what came of it as one line of JSON.
pub(crate) fn run(arguments: &StormClients) -> Result<()> {
    reactor::probe::raise_nofile_limit()?;
    let driver = EpollDriver::new(DriverConfig {
        connections_max: 2 * UNDERWAY_MAX as u32,
        receive_buffers: 256,
        receive_buffer_bytes: 4_096,
        events_max: 256,
        submission_entries: 8,
        completion_entries: 16,
        datagrams: DatagramConfig::small(),
    })?;
    let tls = match &arguments.trust {
        None => None,
        Some(path) => {
            let settings = TlsSettings {
                version: None,
                key: TlsKey::Ecdsa,
                tickets: Tickets::Ignore,
            };
            let trusted = CertificateDer::from_pem_file(path)?;
            let shared = Shared::new(&trusted, settings)?;
            Some(Tls::new(&shared))
        }
    };
    let mut storm = Storm {
        arguments,
        driver,
        tls,
        clients: Table::new(),
        patience: VecDeque::new(),
        underway: 0,
        clients_so_far: 0,
        tally: Tally::default(),
    };
    storm.turns()?;
    println!("{}", serde_json::to_string(&storm.tally)?);
    Ok(())
}

impl Storm<'_> {
    fn turns(&mut self) -> io::Result<()> {
        let started = clock::now();
        let until = started + self.arguments.duration;
        let mut pace = Pace::new(started, self.arguments.rate);
        let mut events = Vec::new();
        loop {
            let now = clock::now();
            if now >= until {
                return Ok(());
            }
            let due = pace.due(now).min(BATCH);
            for _ in 0..due {
                self.open();
            }
            pace.take(due);
            self.give_up(now);
            let deadline = pace.next().min(now + IDLE);
            self.driver.poll(Some(deadline), &mut events)?;
            for event in events.drain(..) {
                self.event(event);
            }
        }
    }

    fn open(&mut self) {
        self.tally.offered += 1;
        let (
            sequence,
            StormClients {
                process, processes, ..
            },
        ) = (self.clients_so_far, self.arguments);
        self.clients_so_far += 1;
        let number_of = |sequence: u32, of: u32| (sequence % of * processes + process) % of;
        let known = self.arguments.known > 0 && sequence.is_multiple_of(2);
        self.tally.offered_known += u64::from(known);
        if self.underway >= UNDERWAY_MAX {
            self.tally.left_out += 1;
            return;
        }
        let remote = self.arguments.remote;
        let stranger = number_of(sequence, STRANGERS);
        let Ok(connection) = self.driver.connect(remote, local_of(remote, stranger)) else {
            self.tally.no_socket += 1;
            return;
        };
        let number = if known {
            self.arguments.known_first + number_of(sequence / 2, self.arguments.known)
        } else {
            stranger
        };
        let client = Client {
            connection,
            number,
            known,
            counted: false,
        };
        self.clients.insert(connection.slot, client);
        self.underway += 1;
        let until = clock::now() + self.arguments.patience;
        self.patience.push_back((until, connection));
    }

    fn give_up(&mut self, now: Instant) {
        while let Some((until, connection)) = self.patience.front().copied() {
            if until > now {
                return;
            }
            self.patience.pop_front();
            if let Some(client) = self.client(connection)
                && !client.counted
            {
                client.counted = true;
                self.tally.impatient += 1;
                self.driver.close(connection, Close::Abort);
            }
        }
    }

    fn client(&mut self, connection: ConnectionId) -> Option<&mut Client> {
        let client = self.clients.get_mut(connection.slot)?;
        (client.connection == connection).then_some(client)
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Connected { connection } => match &mut self.tls {
                None => self.greet(connection),
                Some(tls) => {
                    let mut out = Vec::new();
                    if tls.connected(connection.slot, &mut out).is_ok() {
                        self.driver.send(connection, out);
                    } else {
                        self.driver.close(connection, Close::Abort);
                    }
                }
            },
            Event::Received { connection, buffer } => self.received(connection, buffer),
            Event::PeerClosed { connection } => self.driver.close(connection, Close::Abort),
            Event::Closed { connection, .. } => {
                let Some(client) = self.client(connection).copied() else {
                    return;
                };
                self.tally.closed += u64::from(!client.counted);
                self.clients.remove(connection.slot);
                if let Some(tls) = &mut self.tls {
                    tls.closed(connection.slot);
                }
                self.underway -= 1;
            }
            Event::Accepted { .. }
            | Event::Drained { .. }
            | Event::Datagrams { .. }
            | Event::Woken => {}
        }
    }

    fn greet(&mut self, connection: ConnectionId) {
        let Some(client) = self.client(connection) else {
            return;
        };
        let name = if client.known {
            client_id_of(client.number)
        } else {
            format!("storm-{}", client.number)
        };
        let mut connect = Connect::new(Version::V5, &name);
        if client.known {
            connect.clean_start = false;
            connect.session_expiry_s = Some(86_400);
        }
        let mut out = Vec::new();
        encode::connect(&mut out, &connect);
        self.send(connection, out);
    }

    fn send(&mut self, connection: ConnectionId, out: Vec<u8>) {
        let Some(tls) = &mut self.tls else {
            return self.driver.send(connection, out);
        };
        let mut sealed = Vec::new();
        if tls.seal(connection.slot, &out, &mut sealed).is_ok() {
            self.driver.send(connection, sealed);
        } else {
            self.driver.close(connection, Close::Abort);
        }
    }

    fn received(&mut self, connection: ConnectionId, buffer: BufferRef) {
        let bytes = self.driver.received(buffer).to_vec();
        let Some(tls) = &mut self.tls else {
            return self.answered(connection, &bytes);
        };
        let (mut plain, mut out) = (Vec::new(), Vec::new());
        match tls.received(connection.slot, &bytes, &mut plain, &mut out) {
            Ok(handshake) => {
                self.driver.send(connection, out);
                if handshake != Handshake::Nothing {
                    self.greet(connection);
                }
                if !plain.is_empty() {
                    self.answered(connection, &plain);
                }
            }
            Err(_) => self.driver.close(connection, Close::Abort), // Counted as closed.
        }
    }

    /// A CONNACK is short, and comes alone or not at all.
    fn answered(&mut self, connection: ConnectionId, bytes: &[u8]) {
        let Some(client) = self.client(connection) else {
            return;
        };
        if client.counted {
            return;
        }
        let Ok(Some(frame)) = next_frame(bytes, PACKET_LENGTH_MAX as u32) else {
            return;
        };
        let Ok(Packet::ConnAck(connack)) = decode(Version::V5, Sender::Server, frame) else {
            return;
        };
        client.counted = true;
        let known = client.known;
        if connack.reason != ReasonCode::Success {
            *self.tally.refused.entry(connack.reason as u8).or_default() += 1;
            return self.driver.close(connection, Close::Abort);
        }
        self.tally.done += 1;
        self.tally.done_known += u64::from(known && connack.session_present);
        let mut out = Vec::new();
        encode::disconnect(&mut out, Version::V5, &Disconnect::new(ReasonCode::Success));
        self.send(connection, out);
        let how = Close::Graceful {
            linger_ms: LINGER_MS,
        };
        self.driver.close(connection, how);
    }
}
