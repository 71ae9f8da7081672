//! Who a session's client is, and what of it is judged: at CONNECT, when it asks for something, and again when the policy changes.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use edge_proto::packet::{Connect, Publish, QoS, Will};
use edge_proto::reason::ReasonCode;
use edge_proto::topic::TopicName;
use reactor::driver::ConnectionId;
use reactor::wheel::TimerKey;

use super::depart::Leave;
use super::exchange::Method;
use super::handover::{Attachment, Place};
use super::session::Session;
use super::{Edge, Flow, State};
use crate::access::policy::{Answer, Changes, Credentials, Outcome, Question, Verdict};
use crate::access::rules::Denial;
use crate::access::{Identity, Who, scram};
use crate::core_message::{CoreMessage, Identify};
use crate::outbox::Note;
use crate::shard::Arrival;
use crate::turn::{Timer, Turn};

/// What a session logged in with. A session without one may do everything: no rules come to a node that has started without. In a cluster
/// every session has one.
#[derive(Debug)]
pub(super) struct Login {
    pub(super) identity: Arc<Identity>,
    pub(super) client: Box<str>,
    pub(super) peer: IpAddr,
    /// What another home would have to know; `None` in a node alone.
    pub(super) attachment: Option<Box<Attachment>>,
    /// How it authenticates by AUTH.
    pub(super) method: Option<Method>,
    /// The exchange of a re-authentication that is not complete.
    pub(super) exchange: Option<Box<scram::Exchange>>,
    /// True from when the control thread is asked about a token that renews until it has answered.
    pub(super) is_asking: bool,
    pub(super) timer: Option<TimerKey>,
}

impl Login {
    /// `None` for a client that proved nothing and may do everything.
    pub(super) fn new(
        turn: &Turn<'_>,
        (identity, method): (Option<Arc<Identity>>, Option<Method>),
        client: &str,
        peer: IpAddr,
    ) -> Option<Box<Self>> {
        let is_clustered = turn.ownership.is_clustered();
        if identity.is_none() && !is_clustered && turn.policy.is_open_to(None, peer) {
            return None;
        }
        Some(Box::new(Self {
            identity: identity.unwrap_or_default(),
            client: client.into(),
            peer,
            attachment: is_clustered.then(Box::default),
            method,
            exchange: None,
            is_asking: false,
            timer: None,
        }))
    }

    fn who(&self) -> Who<'_> {
        Who {
            identity: &self.identity,
            client: &self.client,
        }
    }

    /// What the client shows with a token that renews.
    pub(super) fn credentials(&self, token: &[u8]) -> Credentials {
        Credentials {
            client: self.client.clone(),
            user_name: None,
            password: Some(token.into()),
            peer: SocketAddr::new(self.peer, 0),
            certificate: None,
        }
    }

    /// Whether the client may publish this, and is one that may hear the answer to it.
    pub(super) fn may_publish(
        &self,
        turn: &Turn<'_>,
        topic: &str,
        (qos, retain): (QoS, bool),
        response_topic: Option<&str>,
    ) -> Result<(), Denial> {
        let topic = TopicName::parse(topic).map_err(|_| Denial::NotAFilter)?;
        let (who, policy) = (self.who(), turn.policy);
        policy.may_publish((&who, self.peer), topic, qos, retain)?;
        // Whoever answers has more rights than who asks, perhaps: no request may make it speak where the asker may not listen.
        if let Some(topic) = response_topic {
            policy.may_subscribe((&who, self.peer), topic, QoS::AtMostOnce)?;
        }
        Ok(())
    }
}

/// What a client shows of itself.
pub(super) fn credentials(arrival: &Arrival, connect: &Connect<'_>) -> Credentials {
    Credentials {
        client: connect.client_id.into(),
        user_name: connect.username.map(Into::into),
        password: connect.password.map(Into::into),
        peer: arrival.peer,
        certificate: arrival.certificate.clone(),
    }
}

/// Whether a session may publish this.
pub(super) fn judge_publish(
    turn: &mut Turn<'_>,
    id: ConnectionId,
    login: Option<&Login>,
    topic: &str,
    publish: &Publish<'_>,
) -> Result<(), ReasonCode> {
    let asked = (publish.qos, publish.retain);
    let response_topic = publish.properties.response_topic;
    judge(turn, id, login, (topic, response_topic), asked)
}

/// Whether a client may have this will.
pub(super) fn judge_will(
    turn: &mut Turn<'_>,
    id: ConnectionId,
    login: Option<&Login>,
    will: &Will<'_>,
) -> Result<(), ReasonCode> {
    let topics = (will.topic, will.properties.response_topic);
    judge(turn, id, login, topics, (will.qos, will.retain))
}

fn judge(
    turn: &mut Turn<'_>,
    id: ConnectionId,
    login: Option<&Login>,
    (topic, response_topic): (&str, Option<&str>),
    asked: (QoS, bool),
) -> Result<(), ReasonCode> {
    let judged = match login {
        Some(login) => login.may_publish(turn, topic, asked, response_topic),
        None if turn.policy.rules.is_none() => return Ok(()),
        None => Err(Denial::NoRule), // Nobody is known here, so nobody may do anything.
    };
    judged.map_err(|denial| {
        turn.stats.counters.publishes_denied += 1;
        let client = login.map_or("", |login| &login.client);
        turn.outbox.note(|| Note::Denied {
            connection: id,
            client: client.into(),
            action: "publish",
            topic: topic.into(),
            denial,
        });
        ReasonCode::NotAuthorized
    })
}

impl Edge {
    /// Who a client is that shows no authentication method; an error when that must be found out elsewhere.
    pub(super) fn outcome(
        turn: &Turn<'_>,
        arrival: &Arrival,
        connect: &Connect<'_>,
    ) -> Result<Outcome, (Credentials, usize)> {
        let policy = turn.policy;
        if policy.methods.is_empty() {
            let showed_any = connect.username.is_some() || connect.password.is_some();
            return Ok(policy.without_proof(showed_any, arrival.peer.ip()));
        }
        let credentials = credentials(arrival, connect);
        match policy.ask(0, &credentials, turn.now.unix_ms) {
            Answer::Decided(outcome) => Ok(outcome),
            Answer::Elsewhere(from) => Err((credentials, from)),
        }
    }

    /// Asks the control thread who a client is. Its CONNECT is kept unread, and read again when the answer is there.
    pub(super) fn ask_elsewhere(
        &mut self,
        turn: &mut Turn<'_>,
        id: ConnectionId,
        arrival: Arrival,
        credentials: Credentials,
        from: usize,
    ) -> Flow {
        let Some(connection) = self.connection(id) else {
            return Flow::Closed;
        };
        connection.state = State::Authenticating(Box::new(arrival));
        turn.outbox.questions.push(Question {
            core: turn.facts.core,
            connection: id,
            policy: Arc::clone(turn.policy),
            from,
            credentials: Box::new(credentials),
        });
        Flow::Stall
    }

    /// A question about a client is answered: its CONNECT, which was kept, is read again, or its session goes on or ends.
    pub fn judged(&mut self, turn: &mut Turn<'_>, verdict: Verdict) {
        let id = verdict.connection;
        if self.live(id).is_some() {
            return self.renewal_judged(turn, id, verdict.outcome);
        }
        let Some(connection) = self.connection(id) else {
            return;
        };
        match std::mem::replace(&mut connection.state, State::Closing) {
            State::Authenticating(arrival) => {
                connection.state = State::Judged(Box::new((*arrival, verdict.outcome)));
                self.resume(turn, id);
            }
            other => connection.state = other,
        }
    }

    /// Sees to it that the connection ends when what its client proved does.
    pub(super) fn arm_login(turn: &mut Turn<'_>, id: ConnectionId, login: &mut Login) {
        if let Some(timer) = login.timer.take() {
            turn.timers.cancel(timer);
        }
        if let Some(end) = login.identity.expires_at_unix_ms {
            let left_ms = end.saturating_sub(turn.now.unix_ms);
            let due_ms = turn.now.mono_ms.saturating_add(left_ms);
            login.timer = Some(turn.timers.arm(due_ms, Timer::Login(id)));
        }
    }

    /// What a client proved has ended, unless it has proved it again, or the clock was set back.
    pub fn login_over(&mut self, turn: &mut Turn<'_>, id: ConnectionId) {
        let Some((_, session)) = self.live(id) else {
            return;
        };
        let Some(login) = session.login.as_deref_mut() else {
            return;
        };
        login.timer = None;
        if login.identity.is_expired(turn.now.unix_ms) {
            turn.stats.counters.logins_expired += 1;
            self.leave(turn, id, Leave::because(ReasonCode::MaximumConnectTime));
        } else {
            Self::arm_login(turn, id, login);
        }
    }

    /// The client has proved again who it is: what it may do is judged anew.
    pub(super) fn renew(&mut self, turn: &mut Turn<'_>, id: ConnectionId, identity: Arc<Identity>) {
        let Some((_, session)) = self.live(id) else {
            return;
        };
        let Some(login) = session.login.as_deref_mut() else {
            return;
        };
        login.identity = Arc::clone(&identity);
        Self::arm_login(turn, id, login);
        let attachment = login.attachment.as_deref_mut();
        if let Some(attachment) = attachment.filter(|it| it.place != Place::Home) {
            attachment.unidentified = true;
        } else {
            let identify = Identify {
                home: session.home,
                identity,
            };
            turn.outbox
                .tell(session.home_core, CoreMessage::Identify(Box::new(identify)));
        }
        self.review_session(turn, id);
    }

    /// The policy has changed: the sessions of this core are judged anew, some in each turn.
    pub fn begin_review(&mut self) {
        self.to_review = self.connections.ids().collect();
    }

    /// True while sessions are to be judged anew.
    pub fn is_reviewing(&self) -> bool {
        !self.to_review.is_empty()
    }

    /// Goes on with it; called at the end of a turn.
    pub fn review(&mut self, turn: &mut Turn<'_>) {
        const PER_TURN: usize = 256;
        for _ in 0..PER_TURN {
            let Some(id) = self.to_review.pop() else {
                self.to_review = Vec::new();
                return;
            };
            self.review_session(turn, id);
        }
    }

    /// Ends the subscriptions of a live-only session that it may not have any more, drops what waits for them, and has the others delivered
    /// as they may be now. The subscriptions of a durable one are its home's.
    pub(super) fn review_session(&mut self, turn: &mut Turn<'_>, id: ConnectionId) {
        let Some((_, session)) = self.live(id) else {
            return;
        };
        let Some(login) = session.login.as_deref() else {
            return;
        };
        let (identity, client, peer) = (
            Arc::clone(&login.identity),
            login.client.clone(),
            login.peer,
        );
        let policy = Arc::clone(turn.policy);
        let judged = |filter: &str| {
            let who = Who {
                identity: &identity,
                client: &client,
            };
            policy.may_subscribe((&who, peer), filter, QoS::ExactlyOnce)
        };
        let changes = Changes::of(&session.filters, session.limited, judged);
        session.limited = changes.limits();
        for filter in changes.cut {
            self.cut_subscription(turn, id, &filter);
        }
        for (filter, qos_allowed) in changes.allowed {
            self.limit_subscription(turn, id, &filter, qos_allowed);
        }
        self.drop_denied(turn, id, |topic| judged(topic).is_ok());
    }
}

/// Whether a session may have a subscription, and the QoS that it is granted.
pub(super) fn judge_subscribe(
    turn: &mut Turn<'_>,
    id: ConnectionId,
    session: &Session,
    filter: &str,
    qos: QoS,
) -> Result<QoS, ReasonCode> {
    let judged = match session.login.as_deref() {
        Some(login) => {
            let who = login.who();
            turn.policy.may_subscribe((&who, login.peer), filter, qos)
        }
        None if turn.policy.rules.is_none() => return Ok(qos),
        None => Err(Denial::NoRule), // Nobody is known here, so nobody may do anything.
    };
    judged.map_err(|denial| {
        turn.stats.counters.subscribes_denied += 1;
        let client = session.login.as_ref().map_or("", |login| &login.client);
        turn.outbox.note(|| Note::Denied {
            connection: id,
            client: client.into(),
            action: "subscribe",
            topic: filter.into(),
            denial,
        });
        ReasonCode::NotAuthorized
    })
}
