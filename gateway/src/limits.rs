//! Every bound of the node, in one place, with what happens there.
//!
//! The configuration fills this struct; the core reads it and nothing else. Each field says what happens at the bound, and
//! every such event is counted (`metrics.rs`).

use crate::access::bucket::Rate;
use crate::access::flap::FlapPolicy;

/// What a session does when a QoS ≥ 1 message does not fit into the queue of its edge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlowConsumer {
    /// The client is disconnected with 0x97 Quota exceeded; a live-only session ends, a durable one keeps its mailbox.
    Disconnect,
    /// The message is dropped and counted; the client stays.
    Drop,
}

/// Bounds of one core and of each connection, session and table on it. Bytes and milliseconds unless the name says else.
#[derive(Clone, Debug)]
pub struct Limits {
    /// A connection that sent no complete CONNECT within this time is closed.
    pub connect_timeout_ms: u64,
    /// Largest packet accepted from a client; larger ones get 0x95 as soon as their length is known. Told in CONNACK.
    pub packet_bytes_max: u32,
    /// Longest client identifier; longer ones get 0x85.
    pub client_id_bytes_max: usize,
    /// Longest topic or filter in bytes; longer ones get 0x90 or 0x8F.
    pub topic_bytes_max: usize,
    /// Bytes of a will, its properties included; a CONNECT with a larger one gets 0x97.
    pub will_bytes_max: usize,
    /// Most topic levels in a topic or filter; deeper ones get 0x90 or 0x8F.
    pub topic_levels_max: usize,
    /// Most filters in one SUBSCRIBE or UNSUBSCRIBE; more get 0x97 per filter beyond it.
    pub filters_per_packet_max: usize,
    /// Most subscriptions of a session; more get 0x97 in SUBACK.
    pub subscriptions_per_session_max: u32,
    /// Receive Maximum of the server: QoS ≥ 1 publishes of one client that are not answered to their end. MQTT 5.0 clients
    /// that exceed it get 0x93.
    pub receive_maximum: u16,
    /// QoS ≥ 1 publishes of one client being processed; nothing more is read from it until one is answered.
    pub processing_max: u16,
    /// Topic Alias Maximum of the server; more get 0x94.
    pub topic_alias_maximum: u16,
    /// Topic aliases the server uses towards one client, within the client's own maximum.
    pub outbound_topic_aliases_max: u16,
    /// Unacknowledged QoS ≥ 1 messages towards one client, within the client's Receive Maximum; the rest waits in the queue.
    pub inflight_max: u16,
    /// Longest session expiry interval; longer ones are shortened, and the CONNACK says so.
    pub session_expiry_s_max: u32,
    /// Longest keep-alive; longer ones, and 0, are replaced by it through Server Keep Alive. 0 = no bound.
    pub keep_alive_s_max: u16,
    /// Messages waiting at the edge of one session. QoS 0 beyond it is dropped; QoS ≥ 1 follows `slow_consumer`.
    pub session_queue_messages_max: u32,
    /// Bytes waiting at the edge of one session. As above.
    pub session_queue_bytes_max: u32,
    /// What happens to QoS ≥ 1 beyond the two bounds above.
    pub slow_consumer: SlowConsumer,
    /// Bytes encoded for one connection that the kernel has not taken yet; above it, messages stay in the queue, and above four
    /// times it nothing more is read from the client until it has taken them.
    pub unsent_bytes_max: usize,
    /// Bytes of published messages on one core that wait for their acknowledgement; above it publishers are not read.
    pub pending_bytes_max: usize,
    /// Bytes of incomplete packets on one core; above three quarters of it, those that have most, or more than their share of the
    /// rest, are closed with 0x97.
    pub partial_bytes_max: usize,
    /// Bytes queued at all edges of one core; above it QoS 0 is dropped and QoS ≥ 1 follows `slow_consumer`.
    pub core_queue_bytes_max: usize,
    /// Sessions in the directory of one core; more CONNECTs get 0x97.
    pub sessions_max: usize,
    /// Retained messages on one core; more are refused with 0x97 (QoS 0: dropped).
    pub retained_messages_max: usize,
    /// Bytes of retained messages on one core; as above.
    pub retained_bytes_max: usize,
    /// Messages of one mailbox sent to an edge and not acknowledged; the rest stays in the engine.
    pub mailbox_window_messages: u32,
    /// Bytes of the same.
    pub mailbox_window_bytes: u32,
    /// Time a closing connection gets to take its last bytes.
    pub linger_ms: u32,
    /// How fast one client may send; above it, it is not read for a while.
    pub session_rates: SessionRates,
    /// How often one client may connect; more get 0x9F for a while. `None`: as often as it likes.
    pub flapping: Option<FlapPolicy>,
    /// Clients whose connects are counted on one core; beyond it, those that came longest ago are forgotten.
    pub flapping_clients_max: usize,
}

/// How fast one client may send what is not an answer to the server. What it may send at once after a pause is that of a second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SessionRates {
    /// Packets. `None`: no bound.
    pub messages: Option<Rate>,
    /// Bytes of the same packets. `None`: no bound.
    pub bytes: Option<Rate>,
}

impl SessionRates {
    /// True when there is any bound.
    pub const fn any(&self) -> bool {
        self.messages.is_some() || self.bytes.is_some()
    }
}

impl Default for Limits {
    /// Holds on a machine with 1 GiB of memory and two cores.
    fn default() -> Self {
        Self {
            connect_timeout_ms: 10_000,
            packet_bytes_max: 1024 * 1024,
            client_id_bytes_max: 256,
            topic_bytes_max: 4_096,
            will_bytes_max: 64 * 1024,
            topic_levels_max: 32,
            filters_per_packet_max: 256,
            subscriptions_per_session_max: 1_000,
            receive_maximum: 1_024,
            processing_max: 128,
            topic_alias_maximum: 16,
            outbound_topic_aliases_max: 16,
            inflight_max: 128,
            session_expiry_s_max: 7 * 24 * 3600,
            keep_alive_s_max: 0,
            session_queue_messages_max: 1_000,
            session_queue_bytes_max: 1024 * 1024,
            slow_consumer: SlowConsumer::Disconnect,
            unsent_bytes_max: 64 * 1024,
            pending_bytes_max: 64 * 1024 * 1024,
            partial_bytes_max: 64 * 1024 * 1024,
            core_queue_bytes_max: 256 * 1024 * 1024,
            sessions_max: 2_000_000,
            retained_messages_max: 1_000_000,
            retained_bytes_max: 256 * 1024 * 1024,
            mailbox_window_messages: 256,
            mailbox_window_bytes: 512 * 1024,
            linger_ms: 2_000,
            session_rates: SessionRates::default(),
            flapping: Some(FlapPolicy {
                connects_max: 1_000,
                window_ms: 60_000,
                ban_ms: 60_000,
            }),
            flapping_clients_max: 16_384,
        }
    }
}

/// Bounds of the TLS layer of one core. Bytes and milliseconds unless the name says else.
#[derive(Clone, Debug)]
pub struct TlsLimits {
    /// A handshake that is not complete within this time fails.
    pub handshake_timeout_ms: u64,
    /// Bytes of one handshake that were received and not processed; more fail it. A client's certificates have to fit.
    pub handshake_bytes_max: usize,
    /// Handshakes in progress on one core; further connections are closed at once. Times the bound above, it bounds their memory.
    pub handshakes_max: u32,
    /// Flights of handshakes processed in one turn, at 20 to 500 µs each; the others wait for the next turn.
    pub handshakes_per_turn: u32,
    /// Bytes of incomplete records on one core; above three quarters of it, a session that has more than its share of the rest fails.
    pub partial_bytes_max: usize,
    /// Records sealed with one key, within the bound of its cipher: then TLS 1.3 takes the next key and TLS 1.2 closes.
    pub records_per_key_max: u64,
}

impl Default for TlsLimits {
    /// Holds on a machine with 1 GiB of memory and two cores.
    fn default() -> Self {
        Self {
            handshake_timeout_ms: 10_000,
            handshake_bytes_max: 20 * 1024,
            handshakes_max: 4_096,
            handshakes_per_turn: 8,
            partial_bytes_max: 64 * 1024 * 1024,
            records_per_key_max: u64::MAX,
        }
    }
}

/// Bounds of the QUIC layer of one core. Bytes and milliseconds unless the name says else.
#[derive(Clone, Debug)]
pub struct QuicLimits {
    /// Connections with all that they hold, closing ones too; further clients are refused.
    pub connections_max: u32,
    /// A handshake that is not complete within this time fails; a first stream gets as long again.
    pub handshake_timeout_ms: u64,
    /// Handshakes in progress or waiting; further clients are refused.
    pub handshakes_max: u32,
    /// Handshakes in progress or waiting above which a client has to prove its address first (Retry).
    pub retry_above: u32,
    /// Handshakes begun in one turn at most, at 100 to 500 µs each; the others wait for the next turn. A turn without time begins fewer.
    pub handshakes_per_turn: u32,
    /// Bytes that a client may send and that were not read. It bounds what a paused or out-of-order client costs.
    pub receive_window_bytes: u32,
    /// Streams that a client may have open beside its first; it has to wait for one to be closed before it opens another. Each may have
    /// as many unread bytes as `receive_window_bytes` says, too. 0: further streams are refused.
    pub data_streams_max: u32,
    /// Bytes sent to a client and not acknowledged; the rest waits, and counts against `Limits::unsent_bytes_max`.
    pub send_window_bytes: u32,
}

impl Default for QuicLimits {
    /// Holds on a machine with 1 GiB of memory and two cores.
    fn default() -> Self {
        Self {
            connections_max: 1_000_000,
            handshake_timeout_ms: 10_000,
            handshakes_max: 4_096,
            retry_above: 256,
            handshakes_per_turn: 8,
            receive_window_bytes: 32 * 1024,
            data_streams_max: 4,
            send_window_bytes: 64 * 1024,
        }
    }
}
