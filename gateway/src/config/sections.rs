//! Every key: its type, default, range, and what it does. The help texts are what the example file and
//! `docs/OPERATIONS.md` say, so they are written for operators.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::access_value::{
    CertificateName, ClaimName, Methods, OptionalFile, OptionalText, OptionalUrl, PageOrigins,
    Unruled,
};
use super::cluster_value::{OptionalHost, OptionalUid, Seeds};
use super::define::sections;
use super::engine_value::{Durability, EngineKind, EngineMode, EngineUrls, KeyPrefix};
use super::value::{
    Anonymous, ByteSize, ClientCertificates, CoreCount, Files, HttpPath, IoBackend, LogFormat,
    LogLevel, MailboxWhenFull, Networks, NodeName, OptionalAddress, RootDepths, SlowConsumerPolicy,
    TlsVersion,
};

const fn loopback_v4(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

const fn loopback_v6(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V6(Ipv6Addr::LOCALHOST), port)
}

const fn everywhere_v4(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port)
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
        /// Origins of the web pages that may connect over WebSocket (e.g. `"https://app.example.com"`); others are answered with 403, and
        /// counted. [] = pages of any site; but where `access.anonymous` lets this machine in, only those of a server on it, and with a
        /// client certificate also those of the name in the request's Host. Clients that are no browsers mostly have no origin.
        websocket_origins: PageOrigins = PageOrigins::default();
        /// Which of the addresses above are behind a proxy that sends PROXY headers (HAProxy's protocol, version 1 or 2): the client's
        /// address is then the one that the proxy tells, in bans, rates and logs too. Every connection must begin with a header,
        /// before TLS, within `mqtt.connect_timeout`.
        proxy_protocol: Vec<SocketAddr> = vec![];
        /// Addresses and networks (e.g. "10.0.0.0/8") of these proxies; connections from elsewhere are closed, and counted.
        proxy_trusted: Networks = Networks::default();
        /// A connection without traffic for so long is asked by the kernel whether its client still lives; "0s" = never.
        tcp_keepalive_idle: Duration = Duration::from_secs(2 * MINUTE), Duration::ZERO => Duration::from_secs(32_767);
        /// Time from one such question to the next, in whole seconds.
        tcp_keepalive_interval: Duration = Duration::from_secs(30), Duration::from_secs(1) => Duration::from_secs(32_767);
        /// Questions without an answer after which the connection is over.
        tcp_keepalive_probes: u8 = 4, 1 => 127;
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
        /// Handshakes that one turn of a core begins at most, each 100 to 500 µs, and no further one when they have taken 500 µs of CPU
        /// time; the others wait.
        handshakes_per_turn: u32 = 8, 1 => 1_024;
        /// Bytes that a client may have sent and the node not read: what a client costs that sends faster than it is served. Larger
        /// is faster for uploads over long distances.
        receive_window_bytes: ByteSize = ByteSize::kib(32), ByteSize::kib(4) => ByteSize::mib(16);
        /// Streams that a client may have open beside the one that its connection began with, for packets of the same session. One that
        /// wants more waits until one of them is closed. Each may have `receive_window_bytes` of its own. 0 = further streams are refused.
        data_streams_max: u32 = 4, 0 => 64;
        /// Bytes sent to a client and not acknowledged; the rest waits as `queues.unsent_bytes_max` says.
        send_window_bytes: ByteSize = ByteSize::kib(64), ByteSize::kib(4) => ByteSize::mib(16);
    }

    /// How many connections may come in, and how fast. What is beyond a bound is closed at once, before TLS, and counted by reason in
    /// `roadstead_turned_away_total`. The bounds of an address are off until they are set: behind a load balancer without PROXY headers,
    /// or a NAT, many clients have the same one.
    admission: AdmissionSection {
        /// Connections at once on each listener of the node, divided evenly among the cores. 0 = only `io.connections_max`, and
        /// `quic.connections_max`.
        listener_connections_max: u32 = 0, 0 => 1_000_000_000;
        /// Connections at once of one address (IPv6: of its /64). Each core counts for itself, so that an address may have up to this
        /// many on each. 0 = no bound.
        address_connections_max: u32 = 0, 0 => 1_000_000_000;
        /// New connections of one address in a second, on each core. 0 = no bound.
        address_rate: u32 = 0, 0 => 1_000_000;
        /// How many of these may come at once after a pause.
        address_burst: u32 = 100, 1 => 1_000_000;
        /// New connections of the node in a second, divided evenly among the cores; so many may come at once after a pause.
        /// 0 = no bound.
        rate: u32 = 100_000, 0 => 1_000_000_000;
        /// Addresses and networks that have no bounds of their own: proxies, large NATs, this machine.
        exempt: Networks = Networks::default();
    }

    /// Clients that connect again and again, which a broken client or two devices with one client identifier do. Counted by client
    /// identifier and address together, so that nobody can keep another's client out.
    flapping: FlappingSection {
        /// Connects of one client within `window`; at more, its CONNECTs are refused with 0x9F for the time of `ban`. 0 = no bound.
        connects_max: u32 = 1_000, 0 => 1_000_000_000;
        /// How long a window is; it begins with the first connect.
        window: Duration = Duration::from_secs(MINUTE), Duration::from_secs(1) => Duration::from_secs(DAY);
        /// How long such a client is kept out.
        ban: Duration = Duration::from_secs(MINUTE), Duration::from_secs(1) => Duration::from_secs(7 * DAY);
        /// Clients that are counted at a time, divided evenly among the cores; 24 bytes each.
        clients_max: u32 = 32_768, 64 => 100_000_000;
    }

    /// Who may connect, how they prove who they are, and what they may do. Files are read again when they change, and on
    /// `roadstead ctl reload`; one that is wrong leaves what was read before in use.
    access: AccessSection {
        /// Where clients may come from that prove nothing: "nowhere", "loopback" (this machine), or
        /// "everywhere-without-any-authentication". Without methods, a listener on an address that is not loopback needs the last one.
        anonymous: Anonymous = Anonymous::Loopback;
        /// How clients prove who they are, in the order in which they are asked: "certificate" (verified by TLS), "token" (a JSON Web
        /// Token as the password), "password" (`access.password_file`), "http" (`[http]`). The first that takes what a client shows
        /// decides. [] = user name and password of a CONNECT are not looked at.
        methods: Methods = Methods::default();
        /// File with the rules of what clients may publish and subscribe to. "" = none.
        rules: OptionalFile = OptionalFile::default();
        /// Where clients come from for whom everything is allowed that no rule decides: "nowhere", "loopback" or "everywhere".
        /// "auto" is "nowhere" with a rules file; without one it is "everywhere" where `access.anonymous` lets everybody in, and
        /// "loopback" otherwise.
        unruled: Unruled = Unruled::Auto;
        /// Write who sent a message to an inbox (`u/{user}/in`, `g/{group}/in`) on it: the user property `from`, which nobody else
        /// can write.
        stamp_senders: bool = true;
        /// File of users, passwords and groups, written by `roadstead passwd`. "" = none.
        password_file: OptionalFile = OptionalFile::default();
        /// Passwords checked at the same time, each on a thread and 19 MiB of its own for some 20 ms; the others wait.
        password_threads: u32 = 2, 1 => 64;
        /// Which name of a client's certificate is the user: "common-name", "dns", "uri" or "email" (the first one of its kind).
        certificate_name: CertificateName = CertificateName::CommonName;
        /// Clients that wait for their password, their token's keys or the HTTP service; one more is refused with 0x89, and counted. So is
        /// one whose address (IPv6: its /64) has a quarter of them, and 16, waiting already, unless it is in `admission.exempt`.
        questions_max: u32 = 1_024, 1 => 1_000_000;
        /// PEM files with the certificates of the authorities that the servers of `token.jwks_url` and `http.url` are verified with.
        /// [] = those of the operating system.
        authorities: Files = Files::default();
    }

    /// JSON Web Tokens, which clients send as their password. For the method "token".
    token: TokenSection {
        /// PEM files with public keys: RSA from 2,048 bits, P-256, P-384, Ed25519.
        keys: Files = Files::default();
        /// Files with JSON Web Key Sets.
        jwks: Files = Files::default();
        /// Files with secrets for HS256 (32 bytes or more), HS384 (48) and HS512 (64), each as its bytes are, a line break at the end aside.
        secrets: Files = Files::default();
        /// Address of a JSON Web Key Set. "" = none.
        jwks_url: OptionalUrl = OptionalUrl::default();
        /// How often it is fetched; at once, and at most every 10 s, when a token names a key that is not in it.
        jwks_refresh: Duration = Duration::from_secs(5 * MINUTE), Duration::from_secs(10) => Duration::from_secs(DAY);
        /// What the claim `iss` must be. "" = anything.
        issuer: OptionalText = OptionalText::default();
        /// What the claim `aud` must be or contain. "" = anything.
        audience: OptionalText = OptionalText::default();
        /// How far the clock of the issuer may be from this one.
        leeway: Duration = Duration::from_secs(30), Duration::ZERO => Duration::from_secs(10 * MINUTE);
        /// Refuse tokens that never end.
        expiry_required: bool = true;
        /// The claim with the user. A name with dots is looked for as it is, then as a path.
        user_claim: ClaimName = ClaimName("sub".into());
        /// The claim with the groups of the user.
        groups_claim: ClaimName = ClaimName("groups".into());
        /// The claim with rules for this client, which come before those of `access.rules`.
        rules_claim: ClaimName = ClaimName("acl".into());
    }

    /// An HTTP service that is asked who a client is. For the method "http". A client is refused when the service cannot be asked or
    /// answers anything that is not understood.
    http: HttpSection {
        /// Its address; a POST with JSON goes there for each client. "" = none.
        url: OptionalUrl = OptionalUrl::default();
        /// File with headers for these requests, a line each (`Authorization: Bearer …`). They are never shown. "" = none.
        headers_file: OptionalFile = OptionalFile::default();
        /// An answer that is not complete within this time is none.
        timeout: Duration = Duration::from_secs(2), Duration::from_millis(10) => Duration::from_secs(30);
        /// Requests at the same time; the others wait.
        requests_max: u32 = 32, 1 => 1_024;
        /// How long an answer holds for a client that shows the same again from the same address. "0s" = only for those who wait for it.
        cache_ttl: Duration = Duration::from_secs(30), Duration::ZERO => Duration::from_secs(DAY);
        /// Answers that are kept, half of them at most of clients that were not let in; a further one takes the place of the oldest.
        cache_entries_max: u32 = 10_000, 2 => 1_000_000;
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
        /// Packets that one client may send in a second of its own (publishes, subscriptions, pings), and as many at once after a
        /// pause. A faster one is not read for a while; nothing is lost. 0 = no bound.
        session_messages_per_s: u32 = 0, 0 => 1_000_000;
        /// Bytes of these packets in a second; a packet that is larger is taken, and paid for by waiting. "0 B" = no bound.
        session_bytes_per_s: ByteSize = ByteSize::bytes(0), ByteSize::bytes(0) => ByteSize::gib(1);
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

    /// The store of durable sessions and retained messages. `roadstead engine check` says whether a Valkey or Redis keeps the promises.
    engine: EngineSection {
        /// "embedded": files of this node alone. "redis": a Valkey (7.2 or later) or Redis (7.2 or later).
        kind: EngineKind = EngineKind::Embedded;
        /// Folder of the embedded store, and of secrets that a node makes for itself; made when it is not there. One process may have it
        /// open.
        path: PathBuf = PathBuf::from("data");
        /// Addresses of the servers of a Valkey or Redis, `"redis://host:port"`, or `"rediss://host:port"` for TLS. Of a cluster, a few: it
        /// tells of the others.
        urls: EngineUrls = EngineUrls::default();
        /// "single": one primary, with or without replicas. "cluster": a Valkey or Redis Cluster. "auto": what the server says.
        mode: EngineMode = EngineMode::Auto;
        /// User (of its access control list) to log in as. "" = the default user.
        user: OptionalText = OptionalText::default();
        /// File with the password for the Valkey or Redis; a line break at its end does not count. "" = none.
        password_file: OptionalFile = OptionalFile::default();
        /// PEM files with the certificates of the authorities that the servers are verified with, at `rediss://`. [] = those of the
        /// operating system.
        authorities: Files = Files::default();
        /// What the names of all keys in the Valkey or Redis begin with. Clusters that share one need different ones.
        prefix: KeyPrefix = KeyPrefix("rs".into());
        /// When something counts as stored. Embedded: "sync", when the disk has it; "relaxed", at once, and a loss of power or a crash takes
        /// away up to `sync_interval` of what was acknowledged. Valkey or Redis: "memory", when the primary has it; "aof", when the primary's
        /// disk has it; "replica", when a replica has it too; "replica-aof", when the disks of both have it. "auto": "sync", or the
        /// strictest that the servers are set up for.
        durability: Durability = Durability::Auto;
        /// A Valkey or Redis that does not answer within this time has failed, and what was asked is asked again.
        timeout: Duration = Duration::from_secs(2), Duration::from_millis(50) => Duration::from_secs(30);
        /// Longest time that what needs no immediate sync stays unsynced: acknowledgements of clients, and under "relaxed"
        /// everything.
        sync_interval: Duration = Duration::from_secs(1), Duration::from_millis(10) => Duration::from_secs(10 * MINUTE);
        /// Bytes of the embedded store's file that are kept in memory.
        cache_bytes: ByteSize = ByteSize::mib(64), ByteSize::mib(1) => ByteSize::gib(64);
    }

    /// The cluster that this node is a member of; none without a name. Nodes find each other by gossip, sealed with the key, and keep
    /// what they own in an engine that they share.
    cluster: ClusterSection {
        /// Its name, the same on all nodes. "" = this node is alone.
        name: OptionalText = OptionalText(None);
        /// File with the cluster's secret: a line from `openssl rand -base64 32`, the same on all nodes. To replace it, add the new one as the
        /// second line everywhere, then make it the first everywhere, then take the old one out. Read again when it changes.
        key_file: OptionalFile = OptionalFile(None);
        /// Where other nodes may be found: names, whose addresses are looked up again for ever, or addresses; port 7946 unless one
        /// is given. This node may be among them. [] = it waits to be found.
        seeds: Seeds = Seeds::default();
        /// Address of gossip, over UDP, and of the control links between nodes, over TCP.
        gossip_address: SocketAddr = everywhere_v4(7_946);
        /// Address of the bus, over TCP. Core 0 listens there, core 1 one port higher, and so on, on 8 ports at most.
        bus_address: SocketAddr = everywhere_v4(7_947);
        /// Address or name at which other nodes reach this one. "" = what the two addresses above say, or the address that leads to the
        /// seeds.
        advertise_address: OptionalHost = OptionalHost(None);
        /// What clients of MQTT 5 are told when they are sent elsewhere (Server Reference), e.g. `"mqtt.example.com:8883"`. "" = nothing.
        server_reference: OptionalText = OptionalText(None);
        /// Share of the partitions, against the weights of the other nodes. 0 = the number of cores.
        weight: u32 = 0, 0 => 65_535;
        /// Names the node across its restarts: 16 hexadecimal digits, another one for each node. "" = it follows from the name of the host
        /// and the address of gossip.
        uid: OptionalUid = OptionalUid(None);
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
        /// Address of a second listener that answers `/healthz`, `/readyz` and `/metrics` and nothing else, for probes and scrapes from
        /// other machines, or "off". It changes nothing; who reaches it learns the names of the hottest roots.
        monitoring_address: OptionalAddress = OptionalAddress(None);
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
