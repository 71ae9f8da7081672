//! What quinn-proto is told: transport parameters tuned for many connections with one mostly idle stream each, keys, bounds.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use quinn_proto::crypto::rustls::{NoInitialCipherSuite, QuicServerConfig};
use quinn_proto::{EndpointConfig, ServerConfig, TimeSource, TransportConfig, VarInt};
use reactor::steering::{Steering, SteeringError};

use super::ids::{CORE_BYTE, Ids};
use super::keys::NodeKeys;
use super::session::{Desk, Sessions};
use crate::limits::QuicLimits;
use crate::tls::{Acceptor, CoreClock};

/// QUIC version 1 (RFC 9000), the only one that is spoken.
const VERSION: u32 = 1;
/// The first stream, and another one: a data stream, which gets the client leave to open as many as it may have, or one to be refused,
/// for without it a client would wait for ever. More would cost each connection memory that most have no use for.
const STREAMS: u32 = 2;
/// Bytes of a client's handshake that came out of order. Its certificates have to fit.
const CRYPTO_BYTES: usize = 20 * 1024;
/// Bytes of a handshake that has to wait for its turn, beyond its first datagram.
const WAITING_BYTES: u64 = 8 * 1024;
/// A client that was silent for so long is asked whether it is there: long, so that no phone is woken by it.
const PING_AFTER: Duration = Duration::from_secs(60 * 60);
/// A client that does not answer for so long is gone, in milliseconds. Clients are told, and keep to it, too.
const GONE_AFTER: VarInt = VarInt::from_u32(4 * 60 * 60 * 1_000);
/// How long a client may take to come back after a Retry.
const RETRY_LIFETIME: Duration = Duration::from_secs(15);

/// Where this core is, and the keys of its node.
#[derive(Clone, Debug)]
pub struct Listening {
    /// Keys of the node.
    pub keys: NodeKeys,
    /// Number of the node.
    pub node: u16,
    /// This core.
    pub core: u16,
    /// How many cores there are.
    pub cores: u16,
}

impl Listening {
    /// Which core a datagram is for, when it is for another one.
    pub(super) fn other_core(&self, datagram: &[u8]) -> Option<u16> {
        let rule = steering(self.cores).ok()?;
        rule.socket(datagram).filter(|core| *core != self.core)
    }
}

/// How the kernel finds the core of a datagram.
///
/// # Errors
/// For more cores than a byte can tell apart.
pub(crate) fn steering(cores: u16) -> Result<Steering, SteeringError> {
    Steering::new(CORE_BYTE, 0xff, cores)
}

pub(super) fn endpoint_config(listening: &Listening, address: SocketAddr) -> EndpointConfig {
    let keys = listening.keys.of_listener(address);
    let mut config = EndpointConfig::new(keys.reset);
    let (node, core, cores) = (listening.node, listening.core, listening.cores);
    config
        .supported_versions(vec![VERSION])
        // All clients of a node that was killed hear at once. It is sent for an id that this listener issued, smaller than the packet
        // that it answers; and all of a turn have the same time, so that any interval would let one of them go.
        .min_reset_interval(Duration::ZERO)
        .cid_generator(move || {
            Box::new(Ids {
                key: keys.ids.clone(),
                node,
                core,
                cores,
            })
        });
    config
}

/// The configuration of new connections.
pub(super) fn server_config(
    acceptor: &Acceptor,
    clock: &Arc<CoreClock>,
    desk: &Arc<Desk>,
    keys: &NodeKeys,
    limits: &QuicLimits,
) -> Result<ServerConfig, NoInitialCipherSuite> {
    let tls = Arc::new(acceptor.config(clock, None));
    let sessions = Sessions {
        initial: QuicServerConfig::try_from(Arc::clone(&tls))?,
        tls,
        desk: Arc::clone(desk),
    };
    let mut config = ServerConfig::new(Arc::new(sessions), keys.token.clone());
    let waiting = limits.handshakes_max as usize;
    config
        .transport_config(Arc::new(transport(limits)))
        .migration(true)
        // One more than may wait: the one that is looked at now, to be told so.
        .max_incoming(waiting + 1)
        .incoming_buffer_size(WAITING_BYTES)
        .incoming_buffer_size_total(WAITING_BYTES * waiting as u64)
        .retry_token_lifetime(RETRY_LIFETIME)
        .time_source(Arc::new(TokenClock(Arc::clone(clock))));
    Ok(config)
}

fn transport(limits: &QuicLimits) -> TransportConfig {
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(STREAMS))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .stream_receive_window(VarInt::from_u32(limits.receive_window_bytes))
        .receive_window(VarInt::from_u32(limits.receive_window_bytes))
        .send_window(limits.send_window_bytes.into())
        .crypto_buffer_size(CRYPTO_BYTES)
        // Whether a client is there is for MQTT's keep-alive to say. This is for those who have none, and vanish.
        .max_idle_timeout(Some(GONE_AFTER.into()))
        .keep_alive_interval(Some(PING_AFTER))
        .datagram_receive_buffer_size(None)
        .datagram_send_buffer_size(0)
        // Probes of larger packets would wake each phone for what small messages do not need.
        .mtu_discovery_config(None)
        .allow_spin(false);
    transport
}

/// The time of the core, for the age of tokens.
struct TokenClock(Arc<CoreClock>);

impl TimeSource for TokenClock {
    fn now(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(self.0.unix_time().as_secs())
    }
}
