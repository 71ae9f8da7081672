//! CONNECT and the wait for its CONNACK.

use std::net::SocketAddr;

use crate::client::{Client, describe};
use crate::parse::{Body, Packet};
use crate::wire::{Connect, Props, Version, Will, prop};
use crate::{Outcome, fail};

/// A CONNECT in preparation.
pub struct Dial {
    address: SocketAddr,
    version: Version,
    /// The packet to be sent.
    pub connect: Connect,
}

impl Dial {
    pub(crate) fn new(address: SocketAddr, version: Version, client_id: &str) -> Self {
        Self {
            address,
            version,
            connect: Connect::new(version, client_id),
        }
    }

    /// With these properties (5.0).
    pub fn props(mut self, props: Props) -> Self {
        self.connect.props.0.extend_from_slice(&props.0);
        self
    }

    /// Clean Start 0 and, in 5.0, a session that outlives the connection by 100 s.
    pub fn resume(self) -> Self {
        self.resume_for(100)
    }

    /// Clean Start 0 and, in 5.0, this Session Expiry Interval.
    pub fn resume_for(mut self, expiry_s: u32) -> Self {
        self.connect.clean = false;
        if self.version == Version::V5 {
            self.connect.props = self.connect.props.u32(prop::SESSION_EXPIRY, expiry_s);
        }
        self
    }

    /// With this Keep Alive.
    pub const fn keep_alive(mut self, seconds: u16) -> Self {
        self.connect.keep_alive_s = seconds;
        self
    }

    /// With a will.
    pub fn will(mut self, topic: &str, payload: &str, qos: u8) -> Self {
        let will = Will {
            topic: topic.into(),
            payload: payload.into(),
            qos,
            ..Will::default()
        };
        self.connect.will = Some(will);
        self
    }

    /// With Will Properties; call it after [`Self::will`].
    pub fn will_props(mut self, props: Props) -> Self {
        self.connect.will.get_or_insert_default().props = props;
        self
    }

    /// Opens a connection and sends the CONNECT.
    pub fn send(&self) -> Outcome<Client> {
        let mut client = Client::open(self.address, self.version)?;
        client.send(self.connect.encode());
        Ok(client)
    }

    /// Connects; the server must accept.
    pub fn open(&self) -> Outcome<Client> {
        let client = self.send()?;
        accepted(client)
    }
}

/// Waits for a CONNACK 0 and keeps what it says.
pub fn accepted(mut client: Client) -> Outcome<Client> {
    match client.receive("CONNACK")? {
        Packet {
            body:
                Body::ConnAck {
                    session_present,
                    code: 0,
                    props,
                },
            ..
        } => {
            client.session_present = session_present;
            client.connack = props;
            Ok(client)
        }
        other => fail!("expected CONNACK 0, got {}", describe(&other)),
    }
}
