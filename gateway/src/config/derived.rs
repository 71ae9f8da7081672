//! What the parts of the node take, made from the configuration.

use edge_proto::topic::RootDepths;
use reactor::datagram::DatagramConfig;
use reactor::driver::{DriverConfig, Keepalive, ListenOptions};
use reactor::probe::Preference;

use super::{ByteSize, Config, CoreCount, IoBackend, MailboxWhenFull, SlowConsumerPolicy};
use crate::access::bucket::Rate;
use crate::access::flap::FlapPolicy;
use crate::access::gate::GateLimits;
use crate::engine::thread::ThreadLimits;
use crate::engine::{Durability, MailboxLimits, WhenFull};
use crate::event_loop::ProxyLimits;
use crate::limits::{Limits, QuicLimits, SessionRates, SlowConsumer, TlsLimits};

impl Config {
    /// Number of cores: as set, or as many as the process may use.
    pub fn core_count(&self) -> usize {
        match self.node.cores {
            CoreCount::Exactly(count) => usize::from(count),
            CoreCount::All => {
                std::thread::available_parallelism().map_or(1, |count| count.get().min(255))
            }
        }
    }

    /// Bounds of one core. Bounds of the node (`sessions.count_max`, `retained.*`, `queues.pending_bytes_max`,
    /// `queues.partial_bytes_max`, `queues.total_bytes_max`) are divided by the number of cores and rounded up, so a core may refuse while another has
    /// room: topics and sessions are spread by hash, and none moves.
    pub fn to_limits(&self) -> Limits {
        let cores = self.core_count() as u64;
        let share = |total: u64| usize::try_from(total.div_ceil(cores)).unwrap_or(usize::MAX);
        let bytes_u32 = |size: ByteSize| u32::try_from(size.0).unwrap_or(u32::MAX);
        let milliseconds =
            |time: std::time::Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        Limits {
            connect_timeout_ms: milliseconds(self.mqtt.connect_timeout),
            packet_bytes_max: bytes_u32(self.mqtt.packet_bytes_max),
            client_id_bytes_max: self.mqtt.client_id_bytes_max.as_usize(),
            topic_bytes_max: self.mqtt.topic_bytes_max.as_usize(),
            will_bytes_max: self.mqtt.will_bytes_max.as_usize(),
            topic_levels_max: self.mqtt.topic_levels_max as usize,
            filters_per_packet_max: self.mqtt.filters_per_packet_max as usize,
            subscriptions_per_session_max: self.mqtt.subscriptions_per_session_max,
            receive_maximum: self.mqtt.receive_maximum,
            processing_max: self.mqtt.processing_max,
            topic_alias_maximum: self.mqtt.topic_alias_maximum,
            outbound_topic_aliases_max: self.mqtt.outbound_topic_aliases_max,
            inflight_max: self.mqtt.inflight_max,
            session_expiry_s_max: u32::try_from(self.sessions.expiry_max.as_secs())
                .unwrap_or(u32::MAX - 1),
            keep_alive_s_max: u16::try_from(milliseconds(self.mqtt.keep_alive_max).div_ceil(1_000))
                .unwrap_or(u16::MAX),
            session_queue_messages_max: self.queues.session_messages_max,
            session_queue_bytes_max: bytes_u32(self.queues.session_bytes_max),
            slow_consumer: match self.queues.slow_consumer {
                SlowConsumerPolicy::Disconnect => SlowConsumer::Disconnect,
                SlowConsumerPolicy::Drop => SlowConsumer::Drop,
            },
            unsent_bytes_max: self.queues.unsent_bytes_max.as_usize(),
            partial_bytes_max: share(self.queues.partial_bytes_max.0),
            pending_bytes_max: share(self.queues.pending_bytes_max.0),
            core_queue_bytes_max: share(self.queues.total_bytes_max.0),
            sessions_max: share(self.sessions.count_max),
            retained_messages_max: share(self.retained.messages_max),
            retained_bytes_max: share(self.retained.bytes_max.0),
            mailbox_window_messages: self.mailboxes.window_messages,
            mailbox_window_bytes: bytes_u32(self.mailboxes.window_bytes),
            linger_ms: u32::try_from(milliseconds(self.mqtt.linger)).unwrap_or(u32::MAX),
            session_rates: SessionRates {
                messages: rate(self.mqtt.session_messages_per_s),
                bytes: rate(bytes_u32(self.mqtt.session_bytes_per_s)),
            },
            flapping: unless_zero(self.flapping.connects_max).map(|connects_max| FlapPolicy {
                connects_max,
                window_ms: milliseconds(self.flapping.window),
                ban_ms: milliseconds(self.flapping.ban),
            }),
            flapping_clients_max: share(self.flapping.clients_max.into()),
        }
    }

    /// Bounds of who comes in, on one core.
    pub fn to_gate_limits(&self) -> GateLimits {
        let admission = &self.admission;
        let cores = self.core_count() as u32;
        GateLimits {
            listener_connections_max: unless_zero(admission.listener_connections_max)
                .map(|maximum| maximum.div_ceil(cores)),
            address_connections_max: unless_zero(admission.address_connections_max),
            address_rate: unless_zero(admission.address_rate).map(|per_second| Rate {
                per_second,
                burst: admission.address_burst,
            }),
            rate: rate(admission.rate.div_ceil(cores)),
            exempt: admission.exempt.0.as_slice().into(),
        }
    }

    /// Who may send PROXY headers; `None` when no listener is behind a proxy.
    pub fn to_proxy_limits(&self) -> Option<ProxyLimits> {
        let timeout = self.mqtt.connect_timeout.as_millis();
        (!self.listeners.proxy_protocol.is_empty()).then(|| ProxyLimits {
            trusted: self.listeners.proxy_trusted.0.as_slice().into(),
            timeout_ms: u64::try_from(timeout).unwrap_or(u64::MAX),
        })
    }

    /// Bounds of the TLS layer of one core.
    pub fn to_tls_limits(&self) -> TlsLimits {
        let cores = self.core_count() as u64;
        let timeout = self.tls.handshake_timeout.as_millis();
        TlsLimits {
            handshake_timeout_ms: u64::try_from(timeout).unwrap_or(u64::MAX),
            handshakes_max: self.tls.handshakes_max,
            handshakes_per_turn: self.tls.handshakes_per_turn,
            partial_bytes_max: ByteSize(self.tls.partial_bytes_max.0.div_ceil(cores)).as_usize(),
            ..TlsLimits::default()
        }
    }

    /// Bounds of the QUIC layer of one core.
    pub fn to_quic_limits(&self) -> QuicLimits {
        let quic = &self.quic;
        let timeout = quic.handshake_timeout.as_millis();
        QuicLimits {
            connections_max: quic.connections_max,
            handshake_timeout_ms: u64::try_from(timeout).unwrap_or(u64::MAX),
            handshakes_max: quic.handshakes_max,
            retry_above: quic.retry_above,
            handshakes_per_turn: quic.handshakes_per_turn,
            receive_window_bytes: u32::try_from(quic.receive_window_bytes.0).unwrap_or(u32::MAX),
            data_streams_max: quic.data_streams_max,
            send_window_bytes: u32::try_from(quic.send_window_bytes.0).unwrap_or(u32::MAX),
        }
    }

    /// Sizes of the driver of one core.
    pub fn driver_config(&self) -> DriverConfig {
        DriverConfig {
            connections_max: self.io.connections_max,
            receive_buffers: self.io.receive_buffers,
            receive_buffer_bytes: u32::try_from(self.io.receive_buffer_bytes.0).unwrap_or(u32::MAX),
            events_max: self.io.events_max as usize,
            submission_entries: self.io.submission_entries,
            completion_entries: self.io.completion_entries,
            datagrams: DatagramConfig::server(),
        }
    }

    /// Which backend was asked for.
    pub fn io_preference(&self) -> Preference {
        match self.io.backend {
            IoBackend::Auto => Preference::Auto,
            IoBackend::IoUring => Preference::IoUring,
            IoBackend::Epoll => Preference::Epoll,
        }
    }

    /// Options of every listener: each core has its own socket on each address.
    pub fn listen_options(&self) -> ListenOptions {
        ListenOptions {
            backlog: self.listeners.backlog,
            reuse_port: true,
            keepalive: self.tcp_keepalive(),
        }
    }

    fn tcp_keepalive(&self) -> Option<Keepalive> {
        let listeners = &self.listeners;
        let seconds = |time: std::time::Duration| {
            u16::try_from(time.as_millis().div_ceil(1_000)).unwrap_or(u16::MAX)
        };
        (!listeners.tcp_keepalive_idle.is_zero()).then(|| Keepalive {
            idle_s: seconds(listeners.tcp_keepalive_idle),
            interval_s: seconds(listeners.tcp_keepalive_interval),
            probes: listeners.tcp_keepalive_probes,
        })
    }

    /// When a commit of the embedded engine reaches the disk.
    pub fn durability(&self) -> Durability {
        match self.engine.durability {
            super::Durability::Relaxed => Durability::Relaxed,
            _ => Durability::Sync,
        }
    }

    /// Bounds of the engine thread.
    pub fn engine_limits(&self) -> ThreadLimits {
        ThreadLimits {
            sync_interval: self.engine.sync_interval,
            ..ThreadLimits::default()
        }
    }

    /// Which levels of a topic make its root.
    pub fn root_depths(&self) -> RootDepths {
        let prefixes: Vec<_> = self
            .topics
            .root_depth_by_prefix
            .0
            .iter()
            .map(|(prefix, depth)| (prefix.as_str(), *depth))
            .collect();
        RootDepths::new(self.topics.root_depth, &prefixes)
    }

    /// Bounds of one mailbox.
    pub fn mailbox_limits(&self) -> MailboxLimits {
        MailboxLimits {
            messages_max: self.mailboxes.messages_max,
            bytes_max: self.mailboxes.bytes_max.0,
            when_full: match self.mailboxes.when_full {
                MailboxWhenFull::DropOldest => WhenFull::DropOldest,
                MailboxWhenFull::Reject => WhenFull::Reject,
            },
        }
    }
}

/// 0 stands for no bound.
fn unless_zero(bound: u32) -> Option<u32> {
    (bound > 0).then_some(bound)
}

/// So many in a second, and as many at once after a pause; 0 stands for no bound.
fn rate(per_second: u32) -> Option<Rate> {
    unless_zero(per_second).map(|per_second| Rate {
        per_second,
        burst: per_second,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_on_two_cores_are_the_default_limits() {
        let mut config = Config::default();
        config.node.cores = CoreCount::Exactly(2);
        assert_eq!(
            format!("{:?}", config.to_limits()),
            format!("{:?}", Limits::default())
        );
    }

    #[test]
    fn the_defaults_of_quic_are_its_default_limits() {
        assert_eq!(
            format!("{:?}", Config::default().to_quic_limits()),
            format!("{:?}", QuicLimits::default())
        );
    }

    #[test]
    fn bounds_of_the_node_are_divided_among_the_cores_and_rounded_up() {
        let mut config = Config::default();
        config.node.cores = CoreCount::Exactly(3);
        config.sessions.count_max = 1_000;
        assert_eq!(config.to_limits().sessions_max, 334);
    }

    #[test]
    fn a_bound_of_zero_is_none() {
        let mut config = Config::default();
        config.node.cores = CoreCount::Exactly(2);
        config.admission.rate = 0;
        config.flapping.connects_max = 0;
        config.listeners.tcp_keepalive_idle = std::time::Duration::ZERO;
        let gate = config.to_gate_limits();
        assert!(gate.rate.is_none() && gate.address_rate.is_none());
        assert!(gate.address_connections_max.is_none() && gate.listener_connections_max.is_none());
        assert!(config.to_limits().flapping.is_none());
        assert!(config.listen_options().keepalive.is_none());
        config.admission.rate = 1_001;
        let rate = config.to_gate_limits().rate.expect("a bound");
        assert_eq!((rate.per_second, rate.burst), (501, 501));
    }
}
