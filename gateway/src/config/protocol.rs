//! What a listener speaks.

use std::net::SocketAddr;

use super::Config;

/// What a listener speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// MQTT over TCP.
    Tcp,
    /// MQTT over WebSocket.
    WebSocket,
    /// MQTT over TLS.
    Tls,
    /// MQTT over WebSocket over TLS.
    WebSocketTls,
    /// MQTT over QUIC, on UDP.
    Quic,
}

impl Protocol {
    /// Every protocol, in the order in which listeners are opened and told of.
    pub const ALL: [Self; 5] = [
        Self::Tcp,
        Self::WebSocket,
        Self::Tls,
        Self::WebSocketTls,
        Self::Quic,
    ];

    /// Its word in reports.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::WebSocket => "websocket",
            Self::Tls => "tls",
            Self::WebSocketTls => "websocket_tls",
            Self::Quic => "quic",
        }
    }

    /// The key with its addresses.
    pub const fn key(self) -> &'static str {
        match self {
            Self::Tcp => "listeners.tcp",
            Self::WebSocket => "listeners.websocket",
            Self::Tls => "listeners.tls",
            Self::WebSocketTls => "listeners.websocket_tls",
            Self::Quic => "listeners.quic",
        }
    }

    /// True when MQTT is in WebSocket frames.
    pub const fn is_websocket(self) -> bool {
        matches!(self, Self::WebSocket | Self::WebSocketTls)
    }

    /// True for datagrams: UDP.
    pub const fn is_datagrams(self) -> bool {
        matches!(self, Self::Quic)
    }

    /// True when all of it is in TLS.
    pub const fn is_secure(self) -> bool {
        matches!(self, Self::Tls | Self::WebSocketTls | Self::Quic)
    }
}

impl Config {
    /// The addresses of the listeners of a protocol.
    pub fn addresses(&self, protocol: Protocol) -> &[SocketAddr] {
        match protocol {
            Protocol::Tcp => &self.listeners.tcp,
            Protocol::WebSocket => &self.listeners.websocket,
            Protocol::Tls => &self.listeners.tls,
            Protocol::WebSocketTls => &self.listeners.websocket_tls,
            Protocol::Quic => &self.listeners.quic,
        }
    }

    /// True when any listener speaks TLS.
    pub fn has_secure_listeners(&self) -> bool {
        let is_open = |protocol: &Protocol| !self.addresses(*protocol).is_empty();
        Protocol::ALL
            .iter()
            .filter(|protocol| protocol.is_secure())
            .any(is_open)
    }
}
