//! Every key: its type, default, range, and what it does. The help texts are what the example file and
//! `docs/OPERATIONS.md` say, so they are written for operators.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::define::sections;
use super::value::{
    Anonymous, ByteSize, ClientCertificates, CoreCount, Durability, Files, HttpPath, IoBackend,
    LogFormat, LogLevel, MailboxWhenFull, NodeName, OptionalAddress, RootDepths,
    SlowConsumerPolicy, TlsVersion,
};

const fn loopback_v4(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

const fn loopback_v6(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V6(Ipv6Addr::LOCALHOST), port)
}

const MINUTE: u64 = 60;
const DAY: u64 = 24 * 60 * MINUTE;

sections! {
    /// The whole configuration of a node, every value good and in its range. Made by [`Config::load`](super::Sources).
    Config;

    /// The node itself.
    node: NodeSection {
        /// Name of this node in logs and metrics.
        name: NodeName = NodeName("roadstead".into());
        /// Number of cores (data threads): a number, or "all" the process may use.
        cores: CoreCount = CoreCount::All;
        /// Pin each core to one CPU. Turn it off when other busy processes share the machine.
        pin_cores: bool = true;
    }

    /// What the cores need from the kernel. All sizes are per core.
    io: IoSection {
        /// "auto" takes io_uring where it works and epoll elsewhere; "io_uring" and "epoll" insist.
        backend: IoBackend = IoBackend::Auto;
        /// Connections of one core, handshakes included. One more is accepted and closed at once, and counted.
        connections_max: u32 = 1_000_000, 16 => 16_000_000;
        /// Receive buffers of one core, a power of two. When all are in use, receiving waits, and it is counted.
        receive_buffers: u16 = 1_024, 16 => 32_768;
        /// Size of one receive buffer.
        receive_buffer_bytes: ByteSize = ByteSize::kib(8), ByteSize::bytes(512) => ByteSize::mib(1);
        /// Events handled in one turn of a core.
        events_max: u32 = 512, 1 => 65_536;
        /// A core that has had nothing but pings for a second, and four or more of them in this time, sleeps so long before it looks
        /// at its sockets, and wakes once for all of them; other cores and timers wake it at any time. "0s" = sockets always do.
        quiet_wait: Duration = Duration::from_millis(20), Duration::ZERO => Duration::from_secs(1);
        /// Entries of the submission queue of io_uring, a power of two.
        submission_entries: u32 = 1_024, 8 => 32_768;
        /// Entries of the completion queue of io_uring, a power of two, at least `submission_entries`.
        completion_entries: u32 = 8_192, 16 => 65_536;
    }

    /// Where clients connect.
    listeners: ListenersSection {
        /// Addresses for MQTT over TCP. [] = none.
        tcp: Vec<SocketAddr> = vec![loopback_v4(1883), loopback_v6(1883)];
        /// Addresses for MQTT over WebSocket. [] = none.
        websocket: Vec<SocketAddr> = vec![loopback_v4(8083)];
        /// Addresses for MQTT over TLS, by convention on port 8883. [] = none.
        tls: Vec<SocketAddr> = vec![];
        /// Addresses for MQTT over WebSocket over TLS, by convention on port 8084. [] = none.
        websocket_tls: Vec<SocketAddr> = vec![];
        /// UDP addresses for MQTT over QUIC (ALPN "mqtt"), by convention on port 14567. [] = none.
        quic: Vec<SocketAddr> = vec![];
        /// Path of the WebSocket upgrade request; another path is answered with 404.
        websocket_path: HttpPath = HttpPath("/mqtt".into());
        /// Connections the kernel holds for each listener of a core before they are accepted; more are not answered by the
        /// kernel. `net.core.somaxconn` bounds it.
        backlog: u32 = 4_096, 1 => 65_535;
    }

    /// TLS of `listeners.tls`, `listeners.websocket_tls` and `listeners.quic`. Files are read again when they change, and on
    /// `roadstead ctl reload`: new connections get what they say, and open ones stay.
    tls: TlsSection {
        /// PEM files with a certificate each, followed by those that lead to its root. A client gets the first that is for the name
        /// it asks for (SNI), and the first of all when none is.
        certificates: Files = Files::default();
        /// PEM files with their private keys, in the same order, not encrypted.
        keys: Files = Files::default();
        /// "none" asks clients for no certificate, "optional" identifies those that show one, "required" refuses the others. One that
        /// cannot be verified is always refused.
        client_certificates: ClientCertificates = ClientCertificates::None;
        /// PEM files with the certificates of the authorities that sign the clients'.
        client_authorities: Files = Files::default();
        /// PEM files with revocation lists of these authorities.
        revocation_lists: Files = Files::default();
        /// Oldest version that is spoken: "1.2" or "1.3".
        version_min: TlsVersion = TlsVersion::V12;
        /// Files with secrets of 32 bytes or more for session tickets, the same on all nodes: the first one seals, all open. [] = a
        /// random one, so that nobody resumes at another node or after a restart.
        ticket_secrets: Files = Files::default();
        /// How long a ticket key is used; a ticket is accepted for once to twice as long.
        ticket_epoch: Duration = Duration::from_secs(12 * 60 * MINUTE), Duration::from_secs(MINUTE) => Duration::from_secs(7 * DAY);
        /// A handshake that is not complete within this time fails.
        handshake_timeout: Duration = Duration::from_secs(10), Duration::from_millis(100) => Duration::from_secs(10 * MINUTE);
        /// Handshakes in progress on one core; further connections are closed at once, and counted.
        handshakes_max: u32 = 4_096, 1 => 1_000_000;
        /// Steps of handshakes that one turn of a core does, each 20 to 500 µs; the others wait, so that a storm of them
        /// does not stall those who are connected.
        handshakes_per_turn: u32 = 8, 1 => 1_024;
        /// Bytes of incomplete records of the node, divided evenly among the cores. Above three quarters of it a connection that has
        /// more than its share is closed.
        partial_bytes_max: ByteSize = ByteSize::mib(64), ByteSize::mib(1) => ByteSize::gib(64);
    }

    /// QUIC of `listeners.quic`. Its certificates and secrets are those of `tls`; TLS 1.3 alone. All bounds are per core.
    quic: QuicSection {
        /// Connections, with those that are closing; further clients are refused, and counted.
        connections_max: u32 = 1_000_000, 1 => 16_000_000;
        /// A handshake that is not complete within this time fails, and so does a connection whose client opens no stream for as long.
        handshake_timeout: Duration = Duration::from_secs(10), Duration::from_millis(100) => Duration::from_secs(10 * MINUTE);
        /// Handshakes in progress or waiting; further clients are refused, and counted.
        handshakes_max: u32 = 4_096, 1 => 1_000_000;
        /// Handshakes in progress or waiting above which a client must show that it is where it says (Retry): one round trip more
        /// for honest clients, and forged addresses cost nothing. 0 = always.
        retry_above: u32 = 256, 0 => 1_000_000;
        /// Handshakes that one turn of a core begins, each 100 to 500 µs; the others wait.
        handshakes_per_turn: u32 = 8, 1 => 1_024;
        /// Bytes that a client may have sent and the node not read: what a client costs that sends faster than it is served. Larger
        /// is faster for uploads over long distances.
        receive_window_bytes: ByteSize = ByteSize::kib(32), ByteSize::kib(4) => ByteSize::mib(16);
        /// Bytes sent to a client and not acknowledged; the rest waits as `queues.unsent_bytes_max` says.
        send_window_bytes: ByteSize = ByteSize::kib(64), ByteSize::kib(4) => ByteSize::mib(16);
    }

    /// Who may connect.
    access: AccessSection {
        /// Clients that did not prove who they are: "loopback" lets only those on this machine in, and refuses to start with
        /// a listener on any other address; "everywhere-without-any-authentication" lets in everyone who reaches a listener.
        /// This release has no other authentication: user name and password of a CONNECT are accepted and not checked.
        anonymous: Anonymous = Anonymous::Loopback;
    }

    /// Limits of the protocol, for each connection or session.
    mqtt: MqttSection {
        /// A connection that sent no complete CONNECT within this time is closed.
        connect_timeout: Duration = Duration::from_secs(10), Duration::from_millis(100) => Duration::from_secs(10 * MINUTE);
        /// Largest packet accepted from a client; larger ones get 0x95. Told to the client in CONNACK.
        packet_bytes_max: ByteSize = ByteSize::mib(1), ByteSize::kib(1) => ByteSize::mib(256);
        /// Longest client identifier; longer ones get 0x85.
        client_id_bytes_max: ByteSize = ByteSize::bytes(256), ByteSize::bytes(23) => ByteSize::bytes(65_535);
        /// Longest topic or filter; longer ones get 0x90 or 0x8F.
        topic_bytes_max: ByteSize = ByteSize::kib(4), ByteSize::bytes(64) => ByteSize::bytes(65_535);
        /// Largest will, with its topic and properties; a CONNECT with a larger one gets 0x97.
        will_bytes_max: ByteSize = ByteSize::kib(64), ByteSize::kib(1) => ByteSize::mib(256);
        /// Most levels in a topic or filter; deeper ones get 0x90 or 0x8F.
        topic_levels_max: u32 = 32, 2 => 1_024;
        /// Most filters in one SUBSCRIBE or UNSUBSCRIBE; each one beyond gets 0x97.
        filters_per_packet_max: u32 = 256, 1 => 65_536;
        /// Most subscriptions of a session; more get 0x97 in SUBACK.
        subscriptions_per_session_max: u32 = 1_000, 1 => 10_000_000;
        /// Receive Maximum of the server: QoS 1 and 2 publishes of one client that are not answered to their end. MQTT 5.0
        /// clients that exceed it get 0x93.
        receive_maximum: u16 = 1_024, 1 => u16::MAX;
        /// QoS 1 and 2 publishes of one client being processed; nothing more is read from it until one is answered.
        processing_max: u16 = 128, 1 => u16::MAX;
        /// Topic Alias Maximum of the server; higher aliases get 0x94.
        topic_alias_maximum: u16 = 16, 0 => u16::MAX;
        /// Topic aliases the server uses towards one client, within the client's own maximum.
        outbound_topic_aliases_max: u16 = 16, 0 => u16::MAX;
        /// QoS 1 and 2 messages sent to one client and not acknowledged, within the client's Receive Maximum; the rest waits
        /// in the queue.
        inflight_max: u16 = 128, 1 => u16::MAX;
        /// Longest keep-alive; longer ones, and 0, are replaced by it (Server Keep Alive). "0s" = no bound.
        keep_alive_max: Duration = Duration::ZERO, Duration::ZERO => Duration::from_secs(65_535);
        /// Time a closing connection gets to take its last bytes.
        linger: Duration = Duration::from_secs(2), Duration::ZERO => Duration::from_secs(MINUTE);
    }

    /// Sessions.
    sessions: SessionsSection {
        /// Sessions of the node, connected or not; divided evenly among the cores, and a core whose share is used up answers
        /// CONNECTs of new sessions with 0x97.
        count_max: u64 = 4_000_000, 256 => 1_000_000_000;
        /// Longest session expiry interval; longer ones are shortened, and the CONNACK says so.
        expiry_max: Duration = Duration::from_secs(7 * DAY), Duration::from_secs(1) => Duration::from_secs(4_294_967_294);
    }

    /// Messages on their way, in memory.
    queues: QueuesSection {
        /// Messages waiting for one connected client. QoS 0 beyond it is dropped; QoS 1 and 2 follow `slow_consumer`.
        session_messages_max: u32 = 1_000, 1 => 10_000_000;
        /// Bytes waiting for one connected client; as above. At least `mqtt.packet_bytes_max`.
        session_bytes_max: ByteSize = ByteSize::mib(1), ByteSize::kib(1) => ByteSize::gib(1);
        /// What happens to QoS 1 and 2 beyond these bounds: "disconnect" ends the connection with 0x97 (a durable session
        /// keeps its mailbox), "drop" drops the message and counts it.
        slow_consumer: SlowConsumerPolicy = SlowConsumerPolicy::Disconnect;
        /// Bytes encoded for one connection that the kernel has not taken; above it messages stay in the queue, and above four times
        /// it nothing more is read from the client until it has taken them.
        unsent_bytes_max: ByteSize = ByteSize::kib(64), ByteSize::kib(4) => ByteSize::mib(64);
        /// Bytes of publishes of the node that wait for their acknowledgement, divided among the cores; above it
        /// publishers are not read.
        pending_bytes_max: ByteSize = ByteSize::mib(128), ByteSize::kib(64) => ByteSize::gib(1_024);
        /// Bytes of packets of the node that clients have sent a part of, divided among the cores; above three quarters of it
        /// a connection that has more than its share of the rest is closed with 0x97.
        partial_bytes_max: ByteSize = ByteSize::mib(128), ByteSize::kib(64) => ByteSize::gib(1_024);
        /// Bytes queued for all connected clients of the node, divided among the cores; above it QoS 0 is dropped, and QoS 1
        /// and 2 follow `slow_consumer`.
        total_bytes_max: ByteSize = ByteSize::mib(512), ByteSize::kib(64) => ByteSize::gib(1_024);
    }

    /// Retained messages, of the node, divided among the cores.
    retained: RetainedSection {
        /// How many; more are refused with 0x97 (QoS 0: dropped).
        messages_max: u64 = 2_000_000, 256 => 1_000_000_000;
        /// Bytes of them; as above.
        bytes_max: ByteSize = ByteSize::mib(512), ByteSize::kib(64) => ByteSize::gib(1_024);
    }

    /// How topics are spread over the cores. All nodes of a cluster need the same values.
    topics: TopicsSection {
        /// Levels of a topic that make its root: everything under one root is the work of one core.
        root_depth: u8 = 2, 1 => 8;
        /// Another depth for the topics under a prefix.
        root_depth_by_prefix: RootDepths = RootDepths::default();
    }

    /// The store of durable sessions and retained messages.
    engine: EngineSection {
        /// Its folder; made when it is not there. One process may have it open.
        path: PathBuf = PathBuf::from("data");
        /// "sync": acknowledged when the disk has it. "relaxed": at once, and a loss of power or a crash takes away up to
        /// `sync_interval` of what was acknowledged.
        durability: Durability = Durability::Sync;
        /// Longest time that what needs no immediate sync stays unsynced: acknowledgements of clients, and under "relaxed"
        /// everything.
        sync_interval: Duration = Duration::from_secs(1), Duration::from_millis(10) => Duration::from_secs(10 * MINUTE);
        /// Bytes of the store's file that are kept in memory.
        cache_bytes: ByteSize = ByteSize::mib(64), ByteSize::mib(1) => ByteSize::gib(64);
    }

    /// Messages of durable sessions, on disk.
    mailboxes: MailboxesSection {
        /// Messages in one mailbox; beyond it see `when_full`.
        messages_max: u64 = 10_000, 1 => 100_000_000;
        /// Bytes in one mailbox; beyond it see `when_full`. At least `mqtt.packet_bytes_max`.
        bytes_max: ByteSize = ByteSize::mib(16), ByteSize::kib(1) => ByteSize::gib(1_024);
        /// "drop_oldest" drops the oldest message that was never sent to the client; "reject" refuses the new one, and its
        /// publisher is told 0x97. Both are counted.
        when_full: MailboxWhenFull = MailboxWhenFull::DropOldest;
        /// Messages of one mailbox sent to its client and not acknowledged; the rest stays on disk.
        window_messages: u32 = 256, 1 => 65_535;
        /// Bytes of the same; one message is always sent.
        window_bytes: ByteSize = ByteSize::kib(512), ByteSize::kib(1) => ByteSize::mib(256);
    }

    /// HTTP for operators: health, metrics and the API behind `roadstead ctl`.
    admin: AdminSection {
        /// Its address, or "off". It has no authentication.
        address: OptionalAddress = OptionalAddress(Some(loopback_v4(9883)));
        /// Allow an address that is not loopback: then everyone who reaches it can publish, read and disconnect.
        allow_remote: bool = false;
        /// Requests served at once; more get 503.
        requests_max: u32 = 64, 1 => 10_000;
        /// Largest request body; larger ones get 413.
        body_bytes_max: ByteSize = ByteSize::mib(1), ByteSize::kib(1) => ByteSize::mib(256);
    }

    /// The log, on standard error.
    log: LogSection {
        /// "error", "warn", "info", "debug" or "trace".
        level: LogLevel = LogLevel::Info;
        /// "text" for people, "json" for machines: one object per line.
        format: LogFormat = LogFormat::Text;
    }
}
