//! Plain counters of one core. Only its own thread touches them; a scrape asks each core for a copy between two turns, so
//! each copy is consistent, and conservation (accepted = delivered + expired + dropped + queued) holds in every one.

/// Declares the counters with their help texts, and a way to walk them.
macro_rules! counters {
    ($($(#[doc = $help:literal])+ $name:ident,)+) => {
        /// Counters of one core since its start. Monotone.
        #[derive(Clone, Debug, Default)]
        pub struct Counters {
            $($(#[doc = $help])+ pub $name: u64,)+
        }

        impl Counters {
            /// Name, help and value of each counter.
            pub fn iter(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
                [$((stringify!($name), concat!($($help),+).trim_ascii(), self.$name),)+].into_iter()
            }

            /// Adds another core's counters.
            pub fn add(&mut self, other: &Self) {
                $(self.$name += other.$name;)+
            }
        }
    };
}

counters! {
    /// Connections accepted.
    connections_accepted,
    /// Connections closed.
    connections_closed,
    /// Connections closed because no CONNECT came in time.
    connect_timeouts,
    /// Connections closed because the keep-alive ran out.
    keep_alive_timeouts,
    /// Connections closed because incomplete packets took too much memory.
    partial_overflows,
    /// Connections closed because the peer broke a rule of the protocol.
    protocol_violations,
    /// Sessions taken over by a newer connection.
    takeovers,
    /// Connections ended because the home of their session moved in the middle of an exchange.
    sessions_interrupted,
    /// Clients disconnected because they read too slowly.
    slow_consumers_disconnected,
    /// CONNECT packets answered with success.
    connects,
    /// CONNECT packets answered with an error.
    connects_refused,
    /// Packets received.
    packets_received,
    /// PINGREQ packets among them.
    pings_received,
    /// Packets sent.
    packets_sent,
    /// PUBLISH packets received from clients (duplicates of QoS 2 not counted).
    publishes_received,
    /// Messages published by the node itself: wills and admin publishes.
    publishes_internal,
    /// Messages that matched no subscription.
    publishes_unmatched,
    /// Clients not let in because of who they are or are not, and those that failed to prove it again.
    authentications_refused,
    /// Connections ended because what their client had proved ended.
    logins_expired,
    /// Clients that proved again who they are, by AUTH.
    logins_renewed,
    /// Publishes and wills that the rules deny.
    publishes_denied,
    /// Subscriptions that the rules deny.
    subscribes_denied,
    /// Subscriptions ended because the rules do not allow them any more.
    subscriptions_cut,
    /// Wills not published because the rules do not allow them any more.
    wills_denied,
    /// Publishes refused: a topic that no client may publish to, too many levels, or denied by the rules.
    publishes_refused,
    /// Publishes of QoS 0 dropped because another core took no more.
    publishes_dropped,
    /// Retained messages not kept: of QoS 0 while the engine takes no more, or beyond a bound and from a client that cannot be told.
    retained_dropped,
    /// Publishes acknowledged to their publisher (PUBACK, PUBREC).
    publishes_acknowledged,
    /// Deliveries taken over by this core: one per message and recipient.
    deliveries_accepted,
    /// Deliveries completed: QoS 0 handed to the connection, QoS 1 and 2 acknowledged by the client.
    deliveries_delivered,
    /// Deliveries dropped because the message expired.
    deliveries_expired,
    /// Messages of the deliveries handed to connections, repetitions included.
    messages_sent,
    /// Subscriptions made.
    subscribes,
    /// Subscriptions removed.
    unsubscribes,
    /// Wills published.
    wills_published,
    /// Messages exchanged with other cores.
    mesh_sent,
    /// Times the mesh to another core was full and messages waited on this side.
    mesh_full,
    /// Times a connection was paused because of a bound.
    pauses,
    /// Times a client was not read for a while because it sent more than `mqtt.session_messages_per_s` or
    /// `mqtt.session_bytes_per_s`.
    throttles,
    /// Commands sent to the engine.
    engine_commands,
    /// Turns of the event loop.
    turns,
}

impl Counters {
    /// Grows exactly when clients do anything but ping, or are to get something.
    pub(crate) const fn activity(&self) -> u64 {
        self.connections_accepted + self.packets_received - self.pings_received
            + self.deliveries_accepted
    }
}

/// Why a delivery was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum DropReason {
    /// QoS 0, and the session's queue was full.
    QueueFull,
    /// QoS 0, and the core's queues were full.
    CoreQueueFull,
    /// QoS 0, and another core took no more.
    MeshFull,
    /// QoS ≥ 1 beyond the queue bound, policy `drop`.
    SlowConsumer,
    /// The live-only session ended with the message in its queue.
    SessionEnded,
    /// QoS 0 for a durable session that is not connected.
    Offline,
    /// Larger than the client's Maximum Packet Size.
    TooLarge,
    /// The mailbox was full: the oldest message made room.
    MailboxEvicted,
    /// The mailbox was full and refused the message.
    MailboxRejected,
    /// The session was gone when the message arrived.
    Stale,
    /// The client refused it (PUBREC with an error).
    Refused,
    /// The rules do not let the client read it any more.
    Denied,
    /// Another node answers for it now: its partition has moved. The message is in the engine.
    HandedOver,
}

impl DropReason {
    /// All reasons, by index.
    pub const ALL: [(Self, &'static str); 13] = [
        (Self::QueueFull, "queue_full"),
        (Self::CoreQueueFull, "core_queue_full"),
        (Self::MeshFull, "mesh_full"),
        (Self::SlowConsumer, "slow_consumer"),
        (Self::SessionEnded, "session_ended"),
        (Self::Offline, "offline"),
        (Self::TooLarge, "too_large"),
        (Self::MailboxEvicted, "mailbox_evicted"),
        (Self::MailboxRejected, "mailbox_rejected"),
        (Self::Stale, "stale"),
        (Self::Refused, "refused"),
        (Self::Denied, "denied"),
        (Self::HandedOver, "handed_over"),
    ];
}

/// Why somebody was not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum TurnedAway {
    /// The listener had as many connections as it may.
    ListenerFull,
    /// The address had as many connections as it may.
    AddressFull,
    /// The address opened connections too fast.
    AddressRate,
    /// All together opened connections too fast.
    Rate,
    /// A listener behind a proxy was reached from elsewhere.
    ProxyUntrusted,
    /// A proxy sent something else than a PROXY header.
    ProxyHeader,
    /// A proxy sent no complete PROXY header in time.
    ProxyTimeout,
    /// The client connected again and again, and its CONNECT was refused.
    Flapping,
    /// Far more clients wanted in than could be taken, and the CONNECT of one without a session here was refused.
    Pressed,
    /// The address is banned, or the client or its user, whose CONNECT was refused.
    Banned,
    /// A web page of a site that may not connect.
    Origin,
}

impl TurnedAway {
    /// All reasons, by index.
    pub const ALL: [(Self, &'static str); 11] = [
        (Self::ListenerFull, "listener_full"),
        (Self::AddressFull, "address_full"),
        (Self::AddressRate, "address_rate"),
        (Self::Rate, "rate"),
        (Self::ProxyUntrusted, "proxy_untrusted"),
        (Self::ProxyHeader, "proxy_header"),
        (Self::ProxyTimeout, "proxy_timeout"),
        (Self::Flapping, "flapping"),
        (Self::Pressed, "pressed"),
        (Self::Banned, "banned"),
        (Self::Origin, "origin"),
    ];

    /// Its word in metrics and logs.
    pub const fn word(self) -> &'static str {
        Self::ALL[self as usize].1
    }
}

/// Everything one core tells at a scrape.
#[derive(Clone, Debug, Default)]
pub struct CoreSnapshot {
    /// Monotone counters.
    pub counters: Counters,
    /// Dropped deliveries by [`DropReason`].
    pub dropped: [u64; DropReason::ALL.len()],
    /// Who was not let in, by [`TurnedAway`].
    pub turned_away: [u64; TurnedAway::ALL.len()],
    /// Deliveries accepted and not yet delivered, expired or dropped.
    pub deliveries_queued: u64,
    /// Bytes of messages queued at the edges of this core.
    pub queued_bytes: u64,
    /// Bytes of publishes that wait for their acknowledgement.
    pub pending_bytes: u64,
    /// Connections open, handshakes included.
    pub connections: u64,
    /// Sessions connected at this edge.
    pub sessions_connected: u64,
    /// Sessions whose home is here, connected or not.
    pub sessions: u64,
    /// Durable sessions whose home is here and that are not connected.
    pub sessions_offline: u64,
    /// Subscription entries owned here.
    pub subscriptions: u64,
    /// Retained messages owned here.
    pub retained_messages: u64,
    /// Bytes of them.
    pub retained_bytes: u64,
    /// Messages in the queues of the shared subscriptions owned here.
    pub group_queue_messages: u64,
    /// The roots with the most publishes since the last decay, hottest first, with their share of this core's publishes.
    pub hottest_roots: Vec<(String, u64)>,
    /// Counters of the driver.
    pub driver: reactor::driver::DriverCounters,
    /// How many may come in; added by the event loop.
    pub newcomers: crate::event_loop::NewcomersSample,
    /// What the TLS layer counted; `None` without a TLS listener.
    pub tls: Option<crate::tls::Stats>,
    /// What the QUIC layer counted; `None` without a QUIC listener.
    pub quic: Option<crate::quic::Stats>,
    /// What the bus counted, and what was dropped on the way to it; `None` when the node is alone.
    pub bus: Option<(crate::bus::stats::BusStats, crate::event_loop::DroppedOnBus)>,
    /// How far it is with its partitions; `None` when the node is alone.
    pub handover: Option<HandoverSample>,
}

/// Partitions of a core of a cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HandoverSample {
    /// Those that are served.
    pub ready: u64,
    /// Those that are not served yet.
    pub syncing: u64,
    /// Those that are served although not every core has said what it knows.
    pub degraded: u64,
    /// How long the hand-over has been under way, in milliseconds; 0 when none is.
    pub age_ms: u64,
}

impl CoreSnapshot {
    /// True when every accepted delivery is accounted for.
    pub fn conserves(&self) -> bool {
        self.counters.deliveries_accepted
            == self.counters.deliveries_delivered
                + self.counters.deliveries_expired
                + self.dropped.iter().sum::<u64>()
                + self.deliveries_queued
    }
}
