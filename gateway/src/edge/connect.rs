//! CONNECT: from the first packet of a connection to its CONNACK. Who the client is, is found out in `login.rs` and `exchange.rs`.

use std::fmt;
use std::sync::Arc;

use edge_proto::decode::{answer_version, decode_connect};
use edge_proto::encode;
use edge_proto::frame::{Frame, PACKET_LENGTH_MAX};
use edge_proto::packet::{ConnAck, Connect, PacketType, Version, Will};
use edge_proto::reason::ReasonCode;
use edge_proto::shown::Length;
use reactor::driver::ConnectionId;

use super::depart::Leave;
use super::exchange::{Method, unguessable};
use super::login::{Login, judge_will};
use super::publish::forwarded_properties;
use super::session::{Session, Traffic};
use super::{Edge, Flow, State, tells_reasons};
use crate::access::Identity;
use crate::access::policy::Refusal;
use crate::core_message::{Attach, Attached, AttachedSession, CoreMessage, Detach};
use crate::engine::WillRecord;
use crate::handover::Speaker;
use crate::limits::Limits;
use crate::message::{Message, MessageParts, SessionId};
use crate::metrics::TurnedAway;
use crate::outbox::ForStream;
use crate::shard::Arrival;
use crate::turn::Turn;

/// How the server proves that it knows the client's secret too.
pub(super) struct Proof(pub(super) Vec<u8>);

impl fmt::Debug for Proof {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_tuple("Proof")
            .field(&Length::of(&self.0))
            .finish()
    }
}

/// What a CONNECT asked for, kept until its home has answered.
#[derive(Debug)]
pub(super) struct Attaching {
    version: Version,
    keep_alive_s: u16,
    /// True when `keep_alive_s` is not what the client asked for.
    keep_alive_changed: bool,
    receive_maximum: u16,
    topic_alias_maximum: u16,
    maximum_packet_size: u32,
    expiry_s: u32,
    /// True when `expiry_s` is not what the client asked for.
    expiry_changed: bool,
    problem_information: bool,
    response_information: bool,
    client_id: Box<str>,
    /// True when the server chose the client identifier.
    assigned: bool,
    /// Who the client is, where that matters.
    login: Option<Box<Login>>,
    /// The user, in whose name the client may ask for answers.
    user: Option<Arc<str>>,
    /// The server's last message of the authentication.
    authentication: Option<(Method, Option<Proof>)>,
    /// Its home, and the view under which that was asked.
    pub(super) home: Speaker,
    /// What the home was asked, in a cluster: it may move before it answers.
    pub(super) attach: Option<Box<Attach>>,
}

/// A client that is let in.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) arrival: Arrival,
    /// `None` for a client that proved nothing.
    pub(super) identity: Option<Arc<Identity>>,
    /// How it authenticated, if by AUTH, and the last message of that.
    pub(super) method: Option<Method>,
    pub(super) data: Option<Proof>,
}

impl Entry {
    fn user(&self) -> Option<&Arc<str>> {
        self.identity.as_ref()?.user.as_ref()
    }
}

impl Attaching {
    /// What the server tells of itself and of what it changed.
    fn connack(&self, limits: &Limits) -> ConnAck<'_> {
        let authentication = self.authentication.as_ref();
        ConnAck {
            session_expiry_s: self.expiry_changed.then_some(self.expiry_s),
            receive_maximum: limits.receive_maximum,
            maximum_packet_size: Some(limits.packet_bytes_max),
            assigned_client_id: self.assigned.then_some(&*self.client_id),
            topic_alias_maximum: limits.topic_alias_maximum,
            server_keep_alive_s: self.keep_alive_changed.then_some(self.keep_alive_s),
            authentication_method: authentication.map(|(method, _)| method.name()),
            authentication_data: authentication
                .and_then(|(_, data)| data.as_ref().map(|proof| &*proof.0)),
            ..ConnAck::default()
        }
    }
}

impl Edge {
    /// The first packet of a connection, which must be CONNECT (MQTT-3.1.0-1).
    pub(super) fn first_packet(
        &mut self,
        turn: &mut Turn<'_>,
        id: ConnectionId,
        frame: Frame<'_>,
    ) -> Flow {
        if frame.packet_type() != Some(PacketType::Connect) {
            turn.stats.counters.protocol_violations += 1;
            self.abandon(turn, id);
            return Flow::Closed;
        }
        let outcome = match decode_connect(frame) {
            Ok(connect) => self
                .enter(turn, id, &connect, frame)
                .map_err(|reason| (connect.version, reason)),
            Err(violation) => {
                turn.stats.counters.protocol_violations += 1;
                turn.outbox.violations.push((id, violation));
                Err((answer_version(frame), violation.reason))
            }
        };
        match outcome {
            Ok(flow) => flow,
            Err((version, reason)) => {
                self.refuse(turn, id, version, reason);
                Flow::Closed
            }
        }
    }

    /// Finds out who the client is, and takes it in.
    fn enter(
        &mut self,
        turn: &mut Turn<'_>,
        id: ConnectionId,
        connect: &Connect<'_>,
        frame: Frame<'_>,
    ) -> Result<Flow, ReasonCode> {
        let limits = &turn.facts.limits;
        if connect.client_id.len() > limits.client_id_bytes_max {
            return Err(ReasonCode::ClientIdentifierNotValid);
        }
        if connect.client_id.is_empty() && connect.version == Version::V311 && !connect.clean_start
        {
            return Err(ReasonCode::ClientIdentifierNotValid); // MQTT-3.1.3-8
        }
        let Some(connection) = self.connection(id) else {
            return Ok(Flow::Closed);
        };
        let (arrival, outcome) = match std::mem::replace(&mut connection.state, State::Closing) {
            State::AwaitConnect(arrival) if connect.authentication_method.is_some() => {
                return self.begin_exchange(turn, id, *arrival, connect, frame);
            }
            State::AwaitConnect(arrival) => match Self::outcome(turn, &arrival, connect) {
                Ok(outcome) => (*arrival, outcome),
                Err((credentials, from)) => {
                    return Ok(self.ask_elsewhere(turn, id, *arrival, credentials, from));
                }
            },
            State::Judged(judged) => *judged,
            _ => return Ok(Flow::Closed),
        };
        let entry = Entry {
            arrival,
            identity: outcome
                .map_err(|refusal| self.refused(turn, id, connect.client_id, refusal))?,
            method: connect.authentication_method.and_then(Method::of_name),
            data: None,
        };
        self.attach(turn, id, connect, entry)?;
        Ok(Flow::Continue)
    }

    /// Sends the CONNECT of a client that is let in to its home.
    pub(super) fn attach(
        &mut self,
        turn: &mut Turn<'_>,
        id: ConnectionId,
        connect: &Connect<'_>,
        entry: Entry,
    ) -> Result<(), ReasonCode> {
        let limits = &turn.facts.limits;
        let will = connect.will.as_ref();
        let will = will.map(|will| will_record(turn, entry.identity.as_deref(), will));
        let will = will.transpose()?;
        let asked_expiry_s = match connect.version {
            Version::V5 => connect.session_expiry_s.unwrap_or(0),
            Version::V311 if connect.clean_start => 0,
            Version::V311 => limits.session_expiry_s_max,
        };
        let expiry_s = asked_expiry_s.min(limits.session_expiry_s_max);
        let (keep_alive_s, keep_alive_changed) = keep_alive(connect, limits.keep_alive_s_max);
        let assigned = connect.client_id.is_empty();
        let client_id = match assigned {
            true => self.assign_client_id(turn),
            false => connect.client_id.into(),
        };
        let login = self.login(turn, id, &client_id, &entry)?;
        if let Some(will) = &connect.will {
            judge_will(turn, id, login.as_deref(), will)?;
        }
        let user = entry.user().cloned();
        let home = Speaker::home(turn.ownership, user.as_deref().unwrap_or(&client_id));
        let mut attaching = Attaching {
            version: connect.version,
            keep_alive_s,
            keep_alive_changed,
            receive_maximum: connect.receive_maximum.min(limits.inflight_max),
            topic_alias_maximum: connect
                .topic_alias_maximum
                .min(limits.outbound_topic_aliases_max),
            maximum_packet_size: connect
                .maximum_packet_size
                .unwrap_or(u32::MAX)
                .min(PACKET_LENGTH_MAX as u32),
            expiry_s,
            expiry_changed: expiry_s != asked_expiry_s,
            problem_information: connect.request_problem_information,
            response_information: connect.request_response_information,
            client_id: client_id.clone(),
            assigned,
            login,
            user,
            authentication: entry.method.map(|method| (method, entry.data)),
            home,
            attach: None,
        };
        let attach = Attach {
            core: turn.facts.core,
            connection: id,
            asked: home.epoch,
            session: turn.ids.issue(),
            client_id,
            clean_start: connect.clean_start,
            expiry_s,
            will,
            peer: entry.arrival.peer,
            secure: entry.arrival.secure,
            identity: entry.identity,
        };
        let attach = Box::new(attach);
        attaching.attach = turn.ownership.is_clustered().then(|| attach.clone());
        let Some(connection) = self.connection(id) else {
            return Ok(());
        };
        connection.state = State::Attaching(Box::new(attaching));
        turn.outbox.tell(home.core, CoreMessage::Attach(attach));
        Ok(())
    }

    /// A client identifier that nobody else has and nobody can guess (MQTT-3.1.3-6, -7).
    fn assign_client_id(&mut self, turn: &Turn<'_>) -> Box<str> {
        self.assigned += 1;
        let bytes: [u8; 16] = unguessable(turn.facts, b"client", self.assigned);
        format!("auto-{:032x}", u128::from_be_bytes(bytes)).into()
    }

    /// The home has answered.
    pub fn attached(&mut self, turn: &mut Turn<'_>, from: Speaker, attached: Attached) {
        let id = attached.connection;
        let connection = self
            .connection(id)
            .filter(|connection| matches!(connection.state, State::Attaching(_)));
        if let Some(State::Attaching(attaching)) = connection.as_ref().map(|it| &it.state)
            && (from.core != attaching.home.core || attached.asked != attaching.home.epoch)
        {
            return; // It was asked again since, there or elsewhere.
        }
        match (connection, attached.outcome) {
            (Some(_), Ok(session)) => self.go_live(turn, id, session),
            (Some(connection), Err(reason)) => {
                let version = match &connection.state {
                    State::Attaching(attaching) => attaching.version,
                    _ => return,
                };
                self.refuse(turn, id, version, reason);
            }
            (None, Ok(session)) => Self::give_back(turn, id, session),
            (None, Err(_)) => {}
        }
    }

    /// What a client logs in with, unless it is banned.
    fn login(
        &self,
        turn: &mut Turn<'_>,
        id: ConnectionId,
        client_id: &str,
        entry: &Entry,
    ) -> Result<Option<Box<Login>>, ReasonCode> {
        let (peer, user) = (entry.arrival.peer.ip(), entry.user());
        let user = user.map(|user| &**user);
        let ban = turn.policy.ban(peer, client_id, user, turn.now.unix_ms);
        if ban.is_some() {
            turn.stats.turn_away(TurnedAway::Banned);
            return Err(self.refused(turn, id, client_id, Refusal::Banned));
        }
        let who = (entry.identity.clone(), entry.method);
        Ok(Login::new(turn, who, client_id, peer))
    }

    fn go_live(&mut self, turn: &mut Turn<'_>, id: ConnectionId, attached: AttachedSession) {
        let Some(connection) = self.connection(id) else {
            return;
        };
        let State::Attaching(mut attaching) =
            std::mem::replace(&mut connection.state, State::Closing)
        else {
            return;
        };
        let mut session = Session {
            session: attached.session,
            home: attached.home,
            home_core: attached.home_core,
            version: attaching.version,
            durable: attached.durable,
            problem_information: attaching.problem_information,
            keep_alive_s: attaching.keep_alive_s,
            receive_maximum: attaching.receive_maximum,
            topic_alias_maximum: attaching.topic_alias_maximum,
            maximum_packet_size: attaching.maximum_packet_size,
            expiry_s: attaching.expiry_s,
            subscriptions: attached.subscriptions.cast_signed(),
            subscribing: 0,
            sequence: 0,
            filters: Box::default(),
            shared: false,
            limited: false,
            login: attaching.login.take(),
            traffic: Traffic::resumed(&attached.received),
        };
        if let Some(attach) = attaching.attach.take() {
            session.note_attached(attaching.home.epoch, *attach, attached.received);
        }
        let link = &mut connection.link;
        link.arm_keep_alive(turn, &session);
        if let Some(login) = session.login.as_deref_mut() {
            Self::arm_login(turn, id, login);
        }
        let user = attaching.user.as_deref().unwrap_or(&attaching.client_id);
        let response_information = attaching.response_information.then(|| format!("u/{user}/"));
        let connack = ConnAck {
            session_present: attached.present,
            response_information: response_information.as_deref(),
            ..attaching.connack(&turn.facts.limits)
        };
        let mut fits = true;
        link.write(turn, |out| {
            fits = encode::connack_within(
                out,
                attaching.version,
                &connack,
                attaching.maximum_packet_size,
            );
        });
        if link.streams().is_some() {
            turn.outbox.streams.push((id, ForStream::Admit));
        }
        connection.state = State::Live(Box::new(session));
        self.strangers.remove(&id);
        self.live += 1;
        turn.stats.counters.connects += 1;
        if !fits {
            return self.leave(turn, id, Leave::because(ReasonCode::PacketTooLarge));
        }
        self.resume(turn, id);
    }

    /// The connection is gone before its session came: the home takes the session back.
    fn give_back(turn: &mut Turn<'_>, id: ConnectionId, session: AttachedSession) {
        let detach = Detach {
            home: session.home,
            connection: id,
            core: turn.facts.core,
            will: true,
            expiry_s: None,
            received: session.received,
            sent_to: 0,
        };
        turn.outbox
            .tell(session.home_core, CoreMessage::Detach(Box::new(detach)));
    }

    /// Answers CONNECT with an error and closes.
    pub(super) fn refuse(
        &mut self,
        turn: &mut Turn<'_>,
        id: ConnectionId,
        version: Version,
        reason: ReasonCode,
    ) {
        turn.stats.counters.connects_refused += 1;
        let Some(connection) = self.connection(id) else {
            return;
        };
        connection.state = State::Closing;
        let connack = ConnAck {
            reason,
            ..ConnAck::default()
        };
        // What a CONNACK cannot say, the end of the connection says: a 3.1.1 client gets a return code only where one of the
        // five fits (MQTT-3.2.2-6), and "session taken over" is no reason of a CONNACK (MQTT-3.2.2-8).
        let sayable = reason.is_valid_in(PacketType::ConnAck)
            && (tells_reasons(version) || has_return_code(reason));
        if sayable {
            connection
                .link
                .write(turn, |out| encode::connack(out, version, &connack));
        }
        connection.link.close(turn);
    }
}

/// True for the reasons that 3.1.1 has a CONNACK return code for.
fn has_return_code(reason: ReasonCode) -> bool {
    matches!(
        reason,
        ReasonCode::UnsupportedProtocolVersion
            | ReasonCode::ClientIdentifierNotValid
            | ReasonCode::ServerUnavailable
            | ReasonCode::ServerBusy
            | ReasonCode::QuotaExceeded
            | ReasonCode::ConnectionRateExceeded
            | ReasonCode::BadUserNameOrPassword
            | ReasonCode::NotAuthorized
            | ReasonCode::BadAuthenticationMethod
    )
}

/// The keep-alive to use, and whether it differs from what the client asked for; a 3.1.1 client cannot be told another one.
fn keep_alive(connect: &Connect<'_>, maximum_s: u16) -> (u16, bool) {
    let asked_s = connect.keep_alive_s;
    let too_long = maximum_s > 0 && (asked_s == 0 || asked_s > maximum_s);
    if too_long && connect.version == Version::V5 {
        (maximum_s, true)
    } else {
        (asked_s, false)
    }
}

/// The will as it is kept.
fn will_record(
    turn: &Turn<'_>,
    identity: Option<&Identity>,
    will: &Will<'_>,
) -> Result<WillRecord, ReasonCode> {
    let limits = &turn.facts.limits;
    let levels = will.topic.split('/').count();
    let too_long = will.topic.len() > limits.topic_bytes_max || levels > limits.topic_levels_max;
    if too_long || will.topic.starts_with('$') {
        return Err(ReasonCode::TopicNameInvalid);
    }
    let properties = forwarded_properties(turn, identity, will.topic, &will.properties);
    let message = Message::new(MessageParts {
        topic: will.topic,
        properties: &properties,
        payload: will.payload,
        qos: will.qos,
        retain: will.retain,
        expires_at_unix_ms: u64::MAX,
        publisher: SessionId(0),
    });
    if message.queued_bytes() > limits.will_bytes_max {
        return Err(ReasonCode::QuotaExceeded);
    }
    Ok(WillRecord {
        message: Arc::new(message),
        delay_s: will.delay_s,
        message_expiry_s: will.properties.message_expiry_s,
    })
}
