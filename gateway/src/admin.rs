//! What an operator can ask a core, as values. The HTTP side and the command line are in `control/`.

use std::fmt;
use std::sync::Arc;

use edge_proto::packet::QoS;
use edge_proto::reason::ReasonCode;
use edge_proto::shown::Length;
use edge_proto::topic::{TopicFilter, TopicName};
use serde::{Deserialize, Serialize};

use crate::access::policy::Policy;
use crate::core_message::Origin;
use crate::edge::Edge;
use crate::home::Home;
use crate::message::Message;
use crate::metrics::CoreSnapshot;
use crate::owner::Owner;
use crate::shard::{internal_message, snapshot};
use crate::tls::Acceptor;
use crate::turn::Turn;

/// The payload of a message, which is not shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Payload(pub Vec<u8>);

impl fmt::Debug for Payload {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let length = Length::of(&self.0);
        formatter.debug_tuple("Payload").field(&length).finish()
    }
}

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
    /// The sessions of a client id; any core may be the home of one.
    Session {
        /// Of this user; `None`: of all.
        user: Option<String>,
        /// Which.
        client_id: String,
    },
    /// Disconnects a client (0x98) and, if asked, ends its session; any core may be the home of one.
    Kick {
        /// Of this user; `None`: of all.
        user: Option<String>,
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
        payload: Payload,
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
    /// New connections get these, by place. The event loop does it.
    ReloadTls(Vec<Arc<Acceptor>>),
    /// This holds for all clients from now on. The event loop tells the shard.
    SetPolicy(Arc<Policy>),
}

/// The answer to an [`AdminRequest`].
#[derive(Clone, Debug)]
pub enum AdminReply {
    /// To `Snapshot`.
    Snapshot(Box<CoreSnapshot>),
    /// To `Sessions`.
    Sessions(Vec<SessionInfo>),
    /// To `Session`.
    Session(Vec<SessionInfo>),
    /// To `Kick`: whether there was such a session.
    Kicked(bool),
    /// To `Publish`: recipients it was queued or stored for, or why it was refused.
    Published(Result<u64, String>),
    /// To `Subscriptions`.
    Subscriptions(Vec<SubscriptionInfo>),
    /// To `Retained`.
    Retained(Vec<RetainedInfo>),
    /// To `ReloadTls`.
    ReloadedTls,
    /// To `SetPolicy`.
    PolicySet,
    /// To `ClearRetained`: how many were removed, or why none.
    Cleared(Result<u64, String>),
}

/// A session as an operator sees it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SessionInfo {
    /// Client identifier.
    pub client_id: String,
    /// The user; `None` for a client that proved nothing.
    #[serde(default)]
    pub user: Option<String>,
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
    /// Messages that wait for any member of a shared subscription.
    #[serde(default)]
    pub queued: u64,
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

/// How many of these rows, which are in order, make a page of about `limit`: rows of one name are not parted, because the next page
/// begins behind a name.
pub(crate) fn page_length<T>(rows: &[T], limit: usize, name: impl Fn(&T) -> &str) -> usize {
    let Some(last) = limit.checked_sub(1).and_then(|last| rows.get(last)) else {
        return limit.min(rows.len());
    };
    let same = rows[limit..]
        .iter()
        .take_while(|row| name(row) == name(last));
    limit + same.count()
}

/// Answers a request at once; `None` when the answer comes later.
pub(crate) fn answer(
    edge: &Edge,
    owner: &mut Owner,
    home: &mut Home,
    turn: &mut Turn<'_>,
    id: u64,
    request: AdminRequest,
) -> Option<AdminReply> {
    let core = turn.facts.core;
    Some(match request {
        AdminRequest::Snapshot => {
            AdminReply::Snapshot(Box::new(snapshot(edge, owner, home, turn.stats)))
        }
        AdminRequest::Sessions {
            prefix,
            after,
            limit,
        } => AdminReply::Sessions(home.directory().list(core, &prefix, &after, limit)),
        AdminRequest::Session { user, client_id } => {
            let found = home.directory().show(core, user.as_deref(), &client_id);
            AdminReply::Session(found)
        }
        AdminRequest::Kick {
            user,
            client_id,
            delete,
        } => AdminReply::Kicked(home.kick(turn, user.as_deref(), &client_id, delete)),
        AdminRequest::Publish {
            topic,
            payload,
            qos,
            retain,
        } => {
            return publish(turn, id, &topic, &payload.0, qos, retain)
                .err()
                .map(|error| AdminReply::Published(Err(error)));
        }
        AdminRequest::Subscriptions { prefix, limit } => {
            AdminReply::Subscriptions(subscriptions(owner, &prefix, limit))
        }
        AdminRequest::Retained { filter, limit } => {
            AdminReply::Retained(retained(owner, turn, &filter, limit))
        }
        AdminRequest::ReloadTls(_) => AdminReply::ReloadedTls,
        AdminRequest::SetPolicy(_) => AdminReply::PolicySet,
        AdminRequest::ClearRetained { filter } => {
            AdminReply::Cleared(match TopicFilter::parse(&filter) {
                Ok(_) => Ok(owner.clear_retained(turn, &filter)),
                Err(violation) => Err(violation.detail.to_owned()),
            })
        }
    })
}

/// The answer to `Publish` once the message is stored and queued.
pub(crate) fn published(reason: ReasonCode, recipients: u32) -> AdminReply {
    AdminReply::Published(if reason.is_error() {
        Err(reason.name().to_owned())
    } else {
        Ok(u64::from(recipients))
    })
}

fn publish(
    turn: &mut Turn<'_>,
    id: u64,
    topic: &str,
    payload: &[u8],
    qos: u8,
    retain: bool,
) -> Result<(), String> {
    TopicName::parse(topic).map_err(|violation| violation.detail.to_owned())?;
    let qos = QoS::from_u8(qos)
        .ok_or_else(|| format!("qos {qos} does not exist; 0, 1 or 2 would be right"))?;
    if payload.len() > turn.facts.limits.packet_bytes_max as usize {
        return Err(format!(
            "the payload is larger than the largest packet ({} bytes)",
            turn.facts.limits.packet_bytes_max
        ));
    }
    let message = internal_message(topic, payload, qos, retain);
    turn.publish(
        message,
        Origin::Admin {
            core: turn.facts.core,
            request: id,
        },
    );
    Ok(())
}

fn subscriptions(owner: &Owner, prefix: &str, limit: usize) -> Vec<SubscriptionInfo> {
    let mut found = Vec::new();
    owner
        .subscriptions
        .for_each(|filter, broad, subscribers, queued| {
            if filter.starts_with(prefix) {
                found.push(SubscriptionInfo {
                    filter: filter.to_owned(),
                    subscribers,
                    broad,
                    queued,
                });
            }
        });
    found.sort_unstable_by(|left, right| left.filter.cmp(&right.filter));
    found.truncate(limit);
    found
}

fn retained(owner: &Owner, turn: &Turn<'_>, filter: &str, limit: usize) -> Vec<RetainedInfo> {
    let limit = u16::try_from(limit).unwrap_or(u16::MAX);
    let (messages, _) = owner
        .retained()
        .page(filter, "", (limit, usize::MAX), turn.now.unix_ms);
    let info = |message: &Message| RetainedInfo {
        topic: message.topic().to_owned(),
        qos: message.qos as u8,
        payload_bytes: message.payload().len() as u64,
        expires_at_unix_ms: (message.expires_at_unix_ms != u64::MAX)
            .then_some(message.expires_at_unix_ms),
    };
    messages.iter().map(|message| info(message)).collect()
}
