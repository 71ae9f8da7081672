//! A server core without sockets, clients of quinn-proto, and a network that loses, delays and reorders.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use gateway::access::gate::{Gate, GateLimits};
use gateway::limits::QuicLimits;
use gateway::metrics::TurnedAway;
use gateway::quic::{Arrived, Endpoints, Listening, NodeKeys, Output};
use gateway::shard::Arrival;
use gateway::tls::{Acceptor, ClusterSecret, Reason, Settings};
use gateway::turn::Now;
use quinn_proto::{Dir, EcnCodepoint, Endpoint, EndpointConfig};
use reactor::datagram::Transmit;
use reactor::driver::ConnectionId;

use crate::authority::Authority;
use crate::client::{Client, DataStream};
use crate::node::Node;

/// In 2027.
const UNIX_MS: u64 = 1_800_000_000_000;
/// One way, in milliseconds.
const DELAY_MS: u64 = 10;

pub(crate) fn server_address() -> SocketAddr {
    ([192, 0, 2, 1], 14_567).into()
}

#[expect(
    clippy::disallowed_methods,
    reason = "instants have no other beginning"
)]
fn origin() -> Instant {
    Instant::now()
}

/// What the server told of one connection.
#[derive(Default)]
pub(crate) struct Told {
    pub(crate) arrival: Option<Arrival>,
    pub(crate) data: Vec<u8>,
    /// What came on further streams, by number, and which of them have ended; `None` while there are none.
    pub(crate) streams: Option<BTreeMap<u64, (Vec<u8>, bool)>>,
    pub(crate) drained: u32,
    pub(crate) has_peer_closed: bool,
    pub(crate) is_closed: bool,
}

/// What the server told of further streams.
fn told_of_streams(told: &mut HashMap<ConnectionId, Told>, output: Output<'_>) {
    let (Output::StreamsOpened(id) | Output::StreamData(id, ..) | Output::StreamEnded(id, _)) =
        &output
    else {
        return;
    };
    let told = told.get_mut(id).expect("it was accepted");
    match output {
        Output::StreamData(_, number, bytes) => {
            let (heard, has_ended) = told.stream(number);
            assert!(!*has_ended, "data after the end of the stream");
            heard.extend_from_slice(bytes);
        }
        Output::StreamEnded(_, number) => {
            let (_, has_ended) = told.stream(number);
            assert!(!std::mem::replace(has_ended, true), "ended twice");
        }
        _ => {
            let before = told.streams.replace(BTreeMap::new());
            assert_eq!(before, None, "told twice");
        }
    }
}

impl Told {
    /// What came on a further stream, and whether it has ended.
    pub(crate) fn stream(&mut self, number: u64) -> &mut (Vec<u8>, bool) {
        let streams = self.streams.as_mut();
        streams
            .expect("it was told of them")
            .entry(number)
            .or_default()
    }
}

struct Packet {
    at_ms: u64,
    from: SocketAddr,
    to: SocketAddr,
    ecn: Option<EcnCodepoint>,
    bytes: Vec<u8>,
}

/// Everything.
pub(crate) struct World {
    pub(crate) authority: Authority,
    pub(crate) server: Endpoints,
    pub(crate) clients: Vec<Client>,
    /// In the order in which the server accepted them.
    pub(crate) accepted: Vec<ConnectionId>,
    pub(crate) told: HashMap<ConnectionId, Told>,
    pub(crate) strays: Vec<(u16, Vec<u8>)>,
    pub(crate) failed: Vec<Reason>,
    /// Where nobody may come from.
    pub(crate) banned: Vec<SocketAddr>,
    /// The bounds of who may come in; none at first.
    pub(crate) gate: Gate,
    pub(crate) turned_away: Vec<(SocketAddr, TurnedAway)>,
    /// Handshakes that a turn has time for.
    pub(crate) time_for: u32,
    /// What the server sent to each address, in bytes.
    pub(crate) sent_to: HashMap<SocketAddr, usize>,
    /// What a client sends next comes from here, too.
    pub(crate) network_loss_percent: u64,
    pub(crate) jitter_ms: u64,
    /// True for a datagram to the server that is to be lost.
    pub(crate) drops: fn(&[u8]) -> bool,
    pub(crate) now_ms: u64,
    /// Echo what arrives.
    pub(crate) echoes: bool,
    /// The rest of the node, which is told instead of `told`.
    pub(crate) node: Option<Node>,
    packets: Vec<Packet>,
    origin: Instant,
    seed: u64,
    acceptor: Arc<Acceptor>,
    pub(crate) limits: QuicLimits,
}

impl World {
    pub(crate) fn new(limits: QuicLimits) -> Self {
        let authority = Authority::new();
        let settings = authority.settings();
        Self::with(limits, authority, &settings)
    }

    pub(crate) fn with(limits: QuicLimits, authority: Authority, settings: &Settings) -> Self {
        let acceptor = Arc::new(Acceptor::for_quic(settings).expect("the settings are good"));
        let origin = origin();
        let listening = listening(0, 1);
        let now = Now {
            mono_ms: 0,
            unix_ms: UNIX_MS,
        };
        let addresses = [server_address()];
        let server = Endpoints::new(
            limits.clone(),
            listening,
            &acceptor,
            &addresses,
            origin,
            now,
        );
        Self {
            server: server.expect("it does for QUIC"),
            authority,
            clients: Vec::new(),
            accepted: Vec::new(),
            told: HashMap::new(),
            strays: Vec::new(),
            failed: Vec::new(),
            banned: Vec::new(),
            gate: Gate::new(GateLimits::default(), 7),
            turned_away: Vec::new(),
            time_for: u32::MAX,
            sent_to: HashMap::new(),
            network_loss_percent: 0,
            jitter_ms: 0,
            drops: |_| false,
            now_ms: 0,
            echoes: false,
            node: None,
            packets: Vec::new(),
            origin,
            seed: 42,
            acceptor,
            limits,
        }
    }

    /// The process starts again: with these keys, on this core of so many.
    pub(crate) fn restart(&mut self, listening: Listening) {
        self.restart_at(listening, server_address());
    }

    /// The process starts again, and its listener takes itself for one at another address.
    pub(crate) fn restart_at(&mut self, listening: Listening, address: SocketAddr) {
        let (limits, now) = (self.limits.clone(), self.now());
        let (acceptor, addresses) = (&self.acceptor, [address]);
        let server = Endpoints::new(limits, listening, acceptor, &addresses, self.origin, now);
        self.server = server.expect("it does for QUIC");
        self.told.clear();
        self.accepted.clear();
    }

    pub(crate) fn now(&self) -> Now {
        Now {
            mono_ms: self.now_ms,
            unix_ms: UNIX_MS + self.now_ms,
        }
    }

    pub(crate) fn instant(&self) -> Instant {
        self.origin + Duration::from_millis(self.now_ms)
    }

    pub(crate) fn random(&mut self) -> u64 {
        self.seed = self
            .seed
            .wrapping_mul(0x5851_f42d_4c95_7f2d)
            .wrapping_add(1);
        self.seed >> 33
    }

    /// A client begins to connect.
    pub(crate) fn connect(&mut self, config: quinn_proto::ClientConfig) -> usize {
        let index = self.clients.len();
        let mut endpoint = Endpoint::new(Arc::new(EndpointConfig::default()), None, false, None);
        let connecting = endpoint.connect(self.instant(), config, server_address(), "localhost");
        let (handle, connection) = connecting.expect("it can begin");
        self.clients.push(Client {
            address: ([198, 51, 100, 1], 1_000 + index as u16).into(),
            endpoint,
            handle,
            connection,
            is_connected: false,
            has_stream: false,
            lost: None,
            received: Vec::new(),
            unsent: Vec::new(),
            stopped: Vec::new(),
            data: BTreeMap::new(),
        });
        index
    }

    /// Opens a further stream of a client; `None` when the server does not allow another one now.
    pub(crate) fn open(&mut self, client: usize) -> Option<u64> {
        let client = &mut self.clients[client];
        let number = client.connection.streams().open(Dir::Bi)?.index();
        client.data.insert(number, DataStream::default());
        Some(number)
    }

    /// Sends on a further stream of a client.
    pub(crate) fn say_on(&mut self, client: usize, number: u64, bytes: &[u8]) {
        let data = self.clients[client].data.get_mut(&number);
        data.expect("it is open").unsent.extend_from_slice(bytes);
    }

    /// What came to a client on one of its streams.
    pub(crate) fn received(&self, client: usize, number: u64) -> &[u8] {
        let client = &self.clients[client];
        match number {
            0 => &client.received,
            _ => &client.data[&number].received,
        }
    }

    /// A client that is connected, with its stream open.
    pub(crate) fn client(&mut self) -> (usize, ConnectionId) {
        let config = self.authority.client_config(b"mqtt", None);
        self.client_with(config)
    }

    pub(crate) fn client_with(
        &mut self,
        config: quinn_proto::ClientConfig,
    ) -> (usize, ConnectionId) {
        let client = self.connect(config);
        let before = self.accepted.len();
        self.run(10_000, |world| world.clients[client].is_connected);
        self.say(client, b"hello");
        self.run(10_000, |world| world.accepted.len() > before);
        let id = *self.accepted.last().expect("it was accepted");
        let heard = |world: &Self| world.told[&id].data.ends_with(b"hello");
        self.run(10_000, heard);
        (client, id)
    }

    /// Sends on the first stream of a client, which is opened if it was not.
    pub(crate) fn say(&mut self, client: usize, bytes: &[u8]) {
        let client = &mut self.clients[client];
        client.unsent.extend_from_slice(bytes);
        if !client.has_stream {
            client.has_stream = client.connection.streams().open(Dir::Bi).is_some();
        }
        client.write();
    }

    /// What the server heard on a connection.
    pub(crate) fn heard(&self, id: ConnectionId) -> &[u8] {
        self.told.get(&id).map_or(&[], |told| &told.data)
    }

    /// Lets time pass until something is true.
    pub(crate) fn run(&mut self, for_ms: u64, until: impl Fn(&Self) -> bool) {
        assert!(self.try_run(for_ms, &until), "not within {for_ms} ms");
    }

    /// Lets so much time pass.
    pub(crate) fn pass(&mut self, for_ms: u64) {
        let end = self.now_ms + for_ms;
        self.try_run(for_ms, &|_| false);
        self.now_ms = end;
    }

    fn try_run(&mut self, for_ms: u64, until: &dyn Fn(&Self) -> bool) -> bool {
        let end = self.now_ms + for_ms;
        loop {
            self.turn();
            if until(self) {
                return true;
            }
            let next = self.next_ms();
            if next > end {
                return false;
            }
            self.now_ms = next.max(self.now_ms);
        }
    }

    /// When something happens next.
    fn next_ms(&mut self) -> u64 {
        let origin = self.origin;
        let packets = self.packets.iter().map(|packet| packet.at_ms).min();
        let clients = self.clients.iter_mut().filter_map(|client| {
            let timeout = client.connection.poll_timeout()?;
            let after = timeout.saturating_duration_since(origin);
            Some(after.as_nanos().div_ceil(1_000_000) as u64)
        });
        let clients = clients.min();
        // A turn without time for anything does not bring the next one nearer.
        let soonest = self.now_ms + u64::from(self.time_for == 0);
        let server = self.server.next_deadline_ms().map(|ms| ms.max(soonest));
        let node = self.node.as_ref().and_then(Node::next_deadline_ms);
        let all = [packets, clients, server, node];
        all.into_iter().flatten().min().unwrap_or(u64::MAX)
    }

    /// One moment: what is due arrives, and everybody sends.
    fn turn(&mut self) {
        let due: Vec<Packet> = {
            let now_ms = self.now_ms;
            let (due, later) = self.packets.drain(..).partition(|it| it.at_ms <= now_ms);
            self.packets = later;
            due
        };
        for packet in due {
            if packet.to == server_address() {
                self.deliver(packet.from, &packet.bytes);
            } else if let Some(client) = self.clients.iter().position(|it| it.address == packet.to)
            {
                let instant = self.instant();
                self.clients[client].deliver(instant, packet.ecn, &packet.bytes);
            }
        }
        self.server_turn();
        let now = self.now();
        if let Some(node) = &mut self.node {
            node.turn(&mut self.server, now);
        }
        for client in 0..self.clients.len() {
            self.client_turn(client);
        }
        self.flush();
    }

    /// The server does what waits for its turn.
    pub(crate) fn server_turn(&mut self) {
        let mut left = self.time_for;
        let has_time = || {
            let has_time = left > 0;
            left = left.saturating_sub(1);
            has_time
        };
        self.with_server(|server, now, gate, mut tell| server.turn(now, gate, has_time, &mut tell));
    }

    fn client_turn(&mut self, index: usize) {
        let instant = self.instant();
        let client = &mut self.clients[index];
        if client
            .connection
            .poll_timeout()
            .is_some_and(|at| at <= instant)
        {
            client.connection.handle_timeout(instant);
        }
        client.drive();
        loop {
            let mut bytes = Vec::new();
            let client = &mut self.clients[index];
            let Some(transmit) = client.connection.poll_transmit(instant, 1, &mut bytes) else {
                break;
            };
            let (from, to) = (client.address, transmit.destination);
            self.post(from, to, transmit.ecn, bytes);
        }
    }

    fn post(
        &mut self,
        from: SocketAddr,
        to: SocketAddr,
        ecn: Option<EcnCodepoint>,
        bytes: Vec<u8>,
    ) {
        let is_lost = self.random() % 100 < self.network_loss_percent;
        let delay_ms = DELAY_MS + self.random() % (self.jitter_ms + 1);
        if is_lost || (to == server_address() && (self.drops)(&bytes)) {
            return;
        }
        self.packets.push(Packet {
            at_ms: self.now_ms + delay_ms,
            from,
            to,
            ecn,
            bytes,
        });
    }

    /// A datagram reaches the server.
    pub(crate) fn deliver(&mut self, from: SocketAddr, bytes: &[u8]) {
        let arrived = Arrived {
            listener: 0,
            remote: from,
            local: Some(server_address().ip()),
            ecn: None,
            is_banned: self.banned.contains(&from),
            stride: bytes.len(),
            bytes,
        };
        self.with_server(|server, now, gate, mut tell| {
            server.received(&arrived, now, gate, &mut tell);
        });
    }

    /// What is on its way to the server comes from another address.
    pub(crate) fn forge_sources(&mut self, address: SocketAddr) {
        let to_server = |packet: &&mut Packet| packet.to == server_address();
        for packet in self.packets.iter_mut().filter(to_server) {
            packet.from = address;
        }
    }

    /// The first datagram of somebody who wants to connect, and never speaks again.
    pub(crate) fn initial(&self) -> Vec<u8> {
        let config = self.authority.client_config(b"mqtt", None);
        let mut endpoint = Endpoint::new(Arc::new(EndpointConfig::default()), None, false, None);
        let connecting = endpoint.connect(self.instant(), config, server_address(), "localhost");
        let (_, mut connection) = connecting.expect("it can begin");
        let mut bytes = Vec::new();
        let transmit = connection.poll_transmit(self.instant(), 1, &mut bytes);
        assert!(transmit.is_some(), "it has something to say");
        bytes
    }

    fn with_server(
        &mut self,
        act: impl FnOnce(&mut Endpoints, Now, &mut Gate, &mut dyn FnMut(Output<'_>)),
    ) {
        let now = self.now();
        let mut answers = Vec::new();
        let Self {
            server,
            told,
            accepted,
            strays,
            failed,
            gate,
            turned_away,
            echoes,
            node,
            ..
        } = self;
        if let Some(node) = node {
            act(server, now, gate, &mut |output| node.tell(now, output));
            return node.hand_out(server, now);
        }
        act(server, now, gate, &mut |output| match output {
            Output::Accepted(id, arrival) => {
                accepted.push(id);
                let told = told.entry(id).or_default();
                assert!(told.arrival.is_none(), "accepted twice");
                told.arrival = Some(arrival);
            }
            Output::Data(id, bytes) => {
                let told = told.get_mut(&id).expect("it was accepted");
                assert!(
                    !told.is_closed && !told.has_peer_closed,
                    "data after the end"
                );
                told.data.extend_from_slice(bytes);
                if *echoes {
                    answers.push((id, bytes.to_vec()));
                }
            }
            output @ (Output::StreamsOpened(_)
            | Output::StreamData(..)
            | Output::StreamEnded(..)) => told_of_streams(told, output),
            Output::Drained(id) => told.get_mut(&id).expect("accepted").drained += 1,
            Output::PeerClosed(id) => {
                told.get_mut(&id).expect("accepted").has_peer_closed = true;
            }
            Output::Closed(id) => {
                let told = told.get_mut(&id).expect("it was accepted");
                assert!(!told.is_closed, "closed twice");
                told.is_closed = true;
            }
            Output::Stray(core, bytes) => strays.push((core, bytes.to_vec())),
            Output::Failed(_, reason, _) => failed.push(reason),
            Output::TurnedAway(from, reason) => turned_away.push((from, reason)),
        });
        for (id, bytes) in answers {
            self.server.send(id, &bytes);
        }
    }

    /// The server sends what it has to send.
    pub(crate) fn flush(&mut self) {
        let mut sent = Vec::new();
        let now = self.now();
        let gate = &mut self.gate;
        self.server
            .transmit(now, gate, |_, transmit| sent.push(transmit));
        for transmit in sent {
            let Transmit {
                to, segment, bytes, ..
            } = transmit;
            *self.sent_to.entry(to).or_default() += bytes.len();
            let length = segment.map_or(bytes.len(), usize::from);
            for datagram in bytes.chunks(length.max(1)) {
                self.post(server_address(), to, None, datagram.to_vec());
            }
        }
    }
}

/// A core of node 0 with the keys that follow from the usual secret.
pub(crate) fn listening(core: u16, cores: u16) -> Listening {
    Listening {
        keys: NodeKeys::new(&ClusterSecret([7; 32]), &[9; 32]),
        node: 0,
        core,
        cores,
    }
}
