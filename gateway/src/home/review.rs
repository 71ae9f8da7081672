//! Durable sessions judged anew: when the policy changes, when a client comes back as somebody with other rights, and when a
//! session of the store is used for the first time. What the rules do not allow any more is unsubscribed, and what it brought into the
//! mailbox is not sent. Who is banned is disconnected, and keeps its session.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use edge_proto::packet::QoS;
use edge_proto::reason::ReasonCode;
use edge_proto::topic::TopicName;
use reactor::slab::Key;

use super::{Home, HomeSession, Request};
use crate::access::policy::Changes;
use crate::access::rules::Denial;
use crate::access::{Identity, Who};
use crate::core_message::Identify;
use crate::engine::{Command, WillRecord};
use crate::message::SessionId;
use crate::turn::Turn;

impl Home {
    /// The policy has changed: some sessions of this core in each turn are held against the new bans, and against the new rules if
    /// there are any.
    pub fn begin_review(&mut self, new_rules: bool) {
        self.to_ban = self.sessions.keys();
        if new_rules {
            self.to_review = self.to_ban.clone();
        }
    }

    /// True while sessions are to be judged anew.
    pub fn is_reviewing(&self) -> bool {
        !self.to_review.is_empty() || !self.to_ban.is_empty()
    }

    /// Goes on with it; called at the end of a turn.
    pub fn review(&mut self, turn: &mut Turn<'_>) {
        const BANS_PER_TURN: usize = 1_024;
        const SESSIONS_PER_TURN: usize = 256;
        for _ in 0..BANS_PER_TURN {
            let Some(key) = self.to_ban.pop() else {
                self.to_ban = Vec::new();
                break;
            };
            self.evict_if_banned(turn, key);
        }
        if turn.congestion.congested {
            return; // The engine takes nothing: asking it for subscriptions would only wait there.
        }
        for _ in 0..SESSIONS_PER_TURN {
            let Some(key) = self.to_review.pop() else {
                self.to_review = Vec::new();
                return;
            };
            self.review_session(turn, key);
        }
    }

    fn evict_if_banned(&mut self, turn: &mut Turn<'_>, key: Key) {
        let Some(session) = self.sessions.get(key) else {
            return;
        };
        let (user, peer) = (session.user(), session.peer.ip());
        let now_unix_ms = turn.now.unix_ms;
        let ban = turn.policy.ban(peer, &session.client_id, user, now_unix_ms);
        if ban.is_some() {
            self.evict(turn, key, ReasonCode::AdministrativeAction);
        }
    }

    fn review_session(&mut self, turn: &mut Turn<'_>, key: Key) {
        let Some(session) = self.sessions.get(key) else {
            return;
        };
        // Of a session that came from the store, the rights are known when its client comes back; then it is judged.
        let durable = session.durable.as_ref();
        if durable.is_some_and(|durable| durable.reviewed) {
            self.review_subscriptions(turn, key);
        }
    }

    /// Asks the engine which subscriptions a durable session has, unless it may have any.
    pub(super) fn review_subscriptions(&mut self, turn: &mut Turn<'_>, key: Key) {
        let Some(session) = self.sessions.get_mut(key) else {
            return;
        };
        let peer = session.peer_to_judge();
        let Some(durable) = &mut session.durable else {
            return;
        };
        durable.reviewed = true;
        let is_open = turn.policy.is_open_to(session.identity.as_deref(), peer);
        durable.suspect |= !is_open && durable.mailbox.len() > 0;
        if is_open && !durable.limited || durable.subscriptions == 0 {
            return;
        }
        let session = session.session;
        let token = self.request(Request::Review(key));
        turn.outbox
            .engine
            .push_back(Command::ListSubscriptions { token, session });
    }

    /// The engine has told the subscriptions of a session: those that it may not have go, and the others are delivered as they may be now.
    pub(super) fn reviewed(
        &mut self,
        turn: &mut Turn<'_>,
        key: Key,
        id: SessionId,
        filters: &[Box<str>],
    ) {
        let session = self.sessions.get_mut(key);
        let Some(session) = session.filter(|session| session.session == id) else {
            return;
        };
        let judge = Judge::of(session.identity.as_ref(), &session.client_id, session.peer);
        let Some(durable) = &mut session.durable else {
            return;
        };
        let changes = Changes::of(filters, durable.limited, |filter| judge.judge(turn, filter));
        durable.limited = changes.limits();
        durable.suspect |= !changes.cut.is_empty();
        for filter in changes.cut {
            turn.stats.counters.subscriptions_cut += 1;
            self.keep_retained(id, &filter);
            self.unsubscribe(turn, key, None, filter);
        }
        for (filter, qos_allowed) in changes.allowed {
            turn.limit_subscription(id, &filter, qos_allowed);
            self.limit_retained((key, id), &filter, qos_allowed);
        }
    }

    /// A connected client has proved again who it is.
    pub fn identify(&mut self, turn: &mut Turn<'_>, identify: Identify) {
        if let Some(session) = self.sessions.get_mut(identify.home) {
            session.identity = Some(identify.identity);
            self.review_subscriptions(turn, identify.home);
        }
    }
}

/// Whether one client may read topics.
pub(super) struct Judge {
    identity: Arc<Identity>,
    client_id: Box<str>,
    peer: IpAddr,
}

impl Judge {
    pub(super) fn of(identity: Option<&Arc<Identity>>, client_id: &str, peer: SocketAddr) -> Self {
        Self {
            identity: identity.cloned().unwrap_or_default(),
            client_id: client_id.into(),
            peer: peer_to_judge(peer),
        }
    }

    /// The highest QoS with which the client may subscribe to a filter, or read a topic, which is a filter too.
    pub(super) fn judge(&self, turn: &Turn<'_>, filter: &str) -> Result<QoS, Denial> {
        let who = Who {
            identity: &self.identity,
            client: &self.client_id,
        };
        if turn.policy.is_open_to(Some(&self.identity), self.peer) {
            return Ok(QoS::ExactlyOnce);
        }
        turn.policy
            .may_subscribe((&who, self.peer), filter, QoS::ExactlyOnce)
    }

    /// True when the client may read it at all.
    pub(super) fn may_read(&self, turn: &Turn<'_>, filter: &str) -> bool {
        self.judge(turn, filter).is_ok()
    }
}

/// Where a client came from. Of a session from the store that is not known: its CONNECT was judged, so it counts as one from this
/// machine, which is where most of what no rule decides is allowed to.
fn peer_to_judge(peer: SocketAddr) -> IpAddr {
    if peer.ip().is_unspecified() {
        Ipv4Addr::LOCALHOST.into()
    } else {
        peer.ip()
    }
}

impl HomeSession {
    /// The user of the session; `None` for a client that proved nothing.
    pub(super) fn user(&self) -> Option<&str> {
        self.identity.as_ref()?.user.as_deref()
    }

    fn who<'a>(&'a self, nobody: &'a Identity) -> Who<'a> {
        Who {
            identity: self.identity.as_deref().unwrap_or(nobody),
            client: &self.client_id,
        }
    }

    fn peer_to_judge(&self) -> IpAddr {
        peer_to_judge(self.peer)
    }

    /// Publishes the will, if there is one and the rules still allow it.
    pub(super) fn publish_will(&mut self, turn: &mut Turn<'_>) {
        let Some(will) = self.will.take() else {
            return;
        };
        if self.may_publish(turn, &will) {
            super::publish_will(turn, *will);
        } else {
            turn.stats.counters.wills_denied += 1;
        }
    }

    fn may_publish(&self, turn: &Turn<'_>, will: &WillRecord) -> bool {
        let (policy, peer) = (turn.policy, self.peer_to_judge());
        let is_known = self.durable.as_ref().is_none_or(|durable| durable.reviewed);
        if !is_known || policy.is_open_to(self.identity.as_deref(), peer) {
            return true; // It was judged with its CONNECT.
        }
        let nobody = Identity::anonymous();
        let message = &will.message;
        TopicName::parse(message.topic()).is_ok_and(|topic| {
            let who = self.who(&nobody);
            let judged = policy.may_publish((&who, peer), topic, message.qos, message.retain);
            judged.is_ok()
        })
    }
}
