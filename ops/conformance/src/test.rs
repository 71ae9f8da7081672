//! What a case is given: an address, a protocol version, and names that no other case uses.

use std::net::SocketAddr;
use std::time::Duration;

use crate::client::{Client, Stream};
use crate::dial::Dial;
use crate::websocket::WebSocket;
use crate::wire::Version;
use crate::{Outcome, skip};

/// One execution of a case.
pub struct Test {
    /// MQTT over TCP.
    pub address: SocketAddr,
    /// MQTT over WebSocket, when the server listens for it.
    pub websocket: Option<SocketAddr>,
    /// Protocol version of this execution.
    pub version: Version,
    /// At most 16 letters and digits, different in each execution and each run.
    pub unique: String,
}

impl Test {
    /// True for 5.0.
    pub fn v5(&self) -> bool {
        self.version == Version::V5
    }

    /// A client identifier of this execution: letters and digits, at most 23 bytes.
    pub fn id(&self, role: &str) -> String {
        let id = format!("{}{role}", self.unique);
        assert!(
            id.len() <= 23 && id.bytes().all(|byte| byte.is_ascii_alphanumeric()),
            "{id} is a plain client identifier"
        );
        id
    }

    /// A topic of this execution; the first two levels are its own.
    pub fn topic(&self, rest: &str) -> String {
        format!("cf/{}/{rest}", self.unique)
    }

    /// A client with this role, Clean Start 1, Keep Alive 60.
    pub fn client(&self, role: &str) -> Dial {
        Dial::new(self.address, self.version, &self.id(role))
    }

    /// The same in the other protocol version.
    pub fn client_of_other_version(&self, role: &str) -> Dial {
        let other = if self.v5() {
            Version::V311
        } else {
            Version::V5
        };
        Dial::new(self.address, other, &self.id(role))
    }

    /// Connects a client with this role.
    pub fn connect(&self, role: &str) -> Outcome<Client> {
        self.client(role).open()
    }

    /// A connection over which nothing was sent yet.
    pub fn raw(&self) -> Outcome<Client> {
        Client::open(self.address, self.version)
    }

    /// A WebSocket connection that offers these subprotocols.
    pub fn websocket(&self, offer: &str) -> Outcome<Client> {
        let Some(address) = self.websocket else {
            skip!("the server runs without a WebSocket listener here")
        };
        Ok(Client::over(
            Stream::WebSocket(WebSocket::open(address, offer)?),
            self.version,
        ))
    }

    /// Lets time pass, in cases whose subject is an interval of the protocol.
    pub fn pass(&self, time: Duration) {
        std::thread::sleep(time);
    }
}
