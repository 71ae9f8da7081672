//! What an operator can ask a core, as values. The HTTP side and the command line are in `control/`.

use serde::{Deserialize, Serialize};

use crate::metrics::CoreSnapshot;

/// A question or an order for one core.
#[derive(Clone, Debug)]
pub enum AdminRequest {
    /// A consistent copy of all counters.
    Snapshot,
    /// Sessions whose home is this core, in client id order.
    Sessions {
        /// Only client ids that begin so.
        prefix: String,
        /// Only those after this client id (paging).
        after: String,
        /// At most so many.
        limit: usize,
    },
    /// One session; asked of its home.
    Session {
        /// Which.
        client_id: String,
    },
    /// Disconnects a client (0x98) and, if asked, ends its session; asked of its home.
    Kick {
        /// Which.
        client_id: String,
        /// Also delete its durable state.
        delete: bool,
    },
    /// Publishes a message as the node itself; any core. Answered when it is acknowledged.
    Publish {
        /// A topic name.
        topic: String,
        /// The payload.
        payload: Vec<u8>,
        /// 0, 1 or 2.
        qos: u8,
        /// Retain it.
        retain: bool,
    },
    /// Subscriptions owned by this core.
    Subscriptions {
        /// Only filters that begin so.
        prefix: String,
        /// At most so many.
        limit: usize,
    },
    /// Retained messages owned by this core.
    Retained {
        /// Only topics that match this filter.
        filter: String,
        /// At most so many.
        limit: usize,
    },
    /// Clears the retained messages of this core that match.
    ClearRetained {
        /// Which topics.
        filter: String,
    },
}

/// The answer to an [`AdminRequest`].
#[derive(Clone, Debug)]
pub enum AdminReply {
    /// To `Snapshot`.
    Snapshot(Box<CoreSnapshot>),
    /// To `Sessions`.
    Sessions(Vec<SessionInfo>),
    /// To `Session`.
    Session(Option<Box<SessionInfo>>),
    /// To `Kick`: whether there was such a session.
    Kicked(bool),
    /// To `Publish`: recipients it was queued or stored for, or why it was refused.
    Published(Result<u64, String>),
    /// To `Subscriptions`.
    Subscriptions(Vec<SubscriptionInfo>),
    /// To `Retained`.
    Retained(Vec<RetainedInfo>),
    /// To `ClearRetained`: how many were removed, or why none.
    Cleared(Result<u64, String>),
}

/// A session as an operator sees it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SessionInfo {
    /// Client identifier.
    pub client_id: String,
    /// Connected now.
    pub connected: bool,
    /// The core of its connection, when connected.
    pub edge_core: Option<u16>,
    /// The core that is its home.
    pub home_core: u16,
    /// Peer address, when connected.
    pub peer: Option<String>,
    /// Session Expiry Interval in seconds.
    pub expiry_s: u32,
    /// True when its state is in the engine.
    pub durable: bool,
    /// Messages in its mailbox.
    pub mailbox_messages: u64,
    /// Bytes in its mailbox.
    pub mailbox_bytes: u64,
    /// When it was disconnected, milliseconds of Unix time.
    pub disconnected_at_unix_ms: Option<u64>,
}

/// A subscription as an operator sees it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SubscriptionInfo {
    /// The whole filter, `$share/…` included.
    pub filter: String,
    /// Subscribers of it on this core.
    pub subscribers: u64,
    /// True when it is replicated to every core.
    pub broad: bool,
}

/// A retained message as an operator sees it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RetainedInfo {
    /// Topic name.
    pub topic: String,
    /// QoS.
    pub qos: u8,
    /// Bytes of the payload.
    pub payload_bytes: u64,
    /// Expiry, milliseconds of Unix time.
    pub expires_at_unix_ms: Option<u64>,
}
