//! Enhanced authentication (MQTT 5.0 §4.12): SCRAM-SHA-256 in two round trips, and tokens in the packet that asks.
//!
//! ```text
//! CONNECT ─▶ AUTH 0x18 ─▶ (client) AUTH 0x18 ─▶ CONNACK          SCRAM-SHA-256
//! CONNECT ─▶ CONNACK                                             JWT
//! AUTH 0x19 ─▶ (AUTH 0x18 ─▶ AUTH 0x18 ─▶) AUTH 0x00             the same again, on a live session
//! ```
//!
//! A token whose key is not known while keys are fetched waits for a fetch, at CONNECT and on a live session.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::hmac;
use edge_proto::decode::{Sender, decode, decode_connect};
use edge_proto::encode;
use edge_proto::frame::Frame;
use edge_proto::packet::{Auth, Connect, Packet, PacketType, UserProperties, Version};
use edge_proto::reason::{ReasonCode, Violation};
use reactor::driver::ConnectionId;

use super::connect::{Entry, Proof};
use super::depart::Leave;
use super::login::credentials;
use super::{Edge, Flow, State};
use crate::access::Identity;
use crate::access::policy::{Outcome, Question, Refusal};
use crate::access::scram::{self, Exchange};
use crate::shard::Arrival;
use crate::turn::{Facts, Turn};

/// A way to authenticate by AUTH.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Method {
    Scram,
    Token,
}

impl Method {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Scram => "SCRAM-SHA-256",
            Self::Token => "JWT",
        }
    }

    pub(super) fn of_name(name: &str) -> Option<Self> {
        [Self::Scram, Self::Token]
            .into_iter()
            .find(|method| method.name() == name)
    }
}

/// What a CONNECT in the middle of its exchange may have besides a will.
const KEPT_BESIDE_WILL_BYTES_MAX: usize = 8 * 1024;

/// A CONNECT in the middle of its exchange.
pub(super) struct Exchanging {
    arrival: Arrival,
    /// What is behind the fixed header of the CONNECT.
    connect: Box<[u8]>,
    exchange: Exchange,
}

impl fmt::Debug for Exchanging {
    /// Without the CONNECT, which may have a password.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = formatter.debug_struct("Exchanging");
        shown
            .field("arrival", &self.arrival)
            .finish_non_exhaustive()
    }
}

impl Exchanging {
    /// Bytes that count as received and not handled.
    pub(super) const fn kept_bytes(&self) -> u64 {
        self.connect.len() as u64
    }
}

/// What a client's message led to.
enum Step {
    /// The exchange goes on with this message.
    Continue(Box<Exchange>, Vec<u8>),
    /// The client is who it says; the last message, if there is one.
    Done(Arc<Identity>, Option<Vec<u8>>),
}

const NO_METHOD: Violation = Violation::protocol(
    "MQTT-4.12.1-1",
    "AUTH with another authentication method than CONNECT's, or without one",
);

impl Edge {
    /// A CONNECT with an authentication method.
    pub(super) fn begin_exchange(
        &mut self,
        turn: &mut Turn<'_>,
        id: ConnectionId,
        arrival: Arrival,
        connect: &Connect<'_>,
        frame: Frame<'_>,
    ) -> Result<Flow, ReasonCode> {
        let name = connect.authentication_method.unwrap_or_default();
        let method = Method::of_name(name).ok_or(ReasonCode::BadAuthenticationMethod);
        let data = connect.authentication_data.unwrap_or_default();
        let begun = method.and_then(|method| Ok((method, self.begin(turn, method, data)?)));
        let Ok((method, begun)) = begun else {
            turn.stats.counters.authentications_refused += 1;
            return Err(ReasonCode::BadAuthenticationMethod);
        };
        if let Err(refusal) = &begun
            && let Some(from) = turn.policy.elsewhere(refusal, data)
        {
            let mut credentials = credentials(&arrival, connect);
            credentials.password = Some(data.into());
            return Ok(self.ask_elsewhere(turn, id, arrival, credentials, from));
        }
        match begun.map_err(|refusal| self.refused(turn, id, connect.client_id, refusal))? {
            Step::Done(identity, data) => {
                let entry = Entry {
                    arrival,
                    identity: Some(identity),
                    method: Some(method),
                    data: data.map(Proof),
                };
                self.attach(turn, id, connect, entry)?;
                Ok(Flow::Continue)
            }
            Step::Continue(exchange, message) => {
                // It is kept where nobody can take it away, so it is a CONNECT with a large will at most, and never the last quarter.
                let limits = &turn.facts.limits;
                let bytes = frame.body.len();
                if bytes > limits.will_bytes_max + KEPT_BESIDE_WILL_BYTES_MAX {
                    return Err(ReasonCode::QuotaExceeded);
                }
                let bytes = bytes as u64;
                let total = limits.partial_bytes_max as u64;
                if turn.stats.partial_bytes + bytes > total - total / 4 {
                    return Err(ReasonCode::ServerBusy);
                }
                let Some(connection) = self.connection(id) else {
                    return Ok(Flow::Closed);
                };
                turn.stats.partial_bytes += bytes;
                connection.state = State::Exchanging(Box::new(Exchanging {
                    arrival,
                    connect: frame.body.into(),
                    exchange: *exchange,
                }));
                let auth = auth(ReasonCode::ContinueAuthentication, method, Some(&message));
                connection.link.write(turn, |out| encode::auth(out, &auth));
                Ok(Flow::Continue)
            }
        }
    }

    /// The first message of a client; the outer error is for a method that this node does not have.
    fn begin(
        &mut self,
        turn: &Turn<'_>,
        method: Method,
        data: &[u8],
    ) -> Result<Result<Step, Refusal>, ReasonCode> {
        const NONE: ReasonCode = ReasonCode::BadAuthenticationMethod;
        Ok(match method {
            Method::Token => {
                let tokens = turn.policy.tokens().ok_or(NONE)?;
                let checked = tokens.check(data, turn.now.unix_ms);
                checked.map(|identity| Step::Done(Arc::new(identity), None))
            }
            Method::Scram => {
                let file = turn.policy.scram().ok_or(NONE)?;
                let nonce = self.nonce(turn);
                scram::start(data, file, nonce)
                    .map(|(exchange, message)| Step::Continue(Box::new(exchange), message))
                    .map_err(Refusal::Exchange)
            }
        })
    }

    /// A nonce that was never given before and that nobody outside can know (RFC 5802 §5.1).
    fn nonce(&mut self, turn: &Turn<'_>) -> [u8; 18] {
        self.nonces += 1;
        unguessable(turn.facts, b"nonce", self.nonces)
    }

    /// The packet behind a CONNECT whose exchange has begun, which must be AUTH.
    pub(super) fn exchange(
        &mut self,
        turn: &mut Turn<'_>,
        id: ConnectionId,
        frame: Frame<'_>,
    ) -> Flow {
        let Some(connection) = self.connection(id) else {
            return Flow::Closed;
        };
        let State::Exchanging(exchanging) =
            std::mem::replace(&mut connection.state, State::Closing)
        else {
            return Flow::Closed;
        };
        let Exchanging {
            arrival,
            connect: held,
            exchange,
        } = *exchanging;
        turn.stats.partial_bytes -= held.len() as u64;
        let held = Frame {
            first_byte: (PacketType::Connect as u8) << 4,
            body: &held,
            length: held.len(),
        };
        let Ok(connect) = decode_connect(held) else {
            self.abandon(turn, id); // It was read once before, so this cannot be.
            return Flow::Closed;
        };
        let message = match decode(Version::V5, Sender::Client, frame) {
            Ok(Packet::Auth(auth)) if is_next(&auth, Method::Scram) => {
                auth.authentication_data.unwrap_or_default().to_vec()
            }
            Ok(_) | Err(_) => {
                turn.stats.counters.protocol_violations += 1;
                self.refuse(turn, id, Version::V5, ReasonCode::ProtocolError);
                return Flow::Closed;
            }
        };
        let entered = exchange
            .finish(&message)
            .map_err(|error| self.refused(turn, id, connect.client_id, Refusal::Exchange(error)))
            .and_then(|(identity, data)| {
                let entry = Entry {
                    arrival,
                    identity: Some(Arc::new(identity)),
                    method: Some(Method::Scram),
                    data: Some(Proof(data)),
                };
                self.attach(turn, id, &connect, entry)
            });
        match entered {
            Ok(()) => Flow::Continue,
            Err(reason) => {
                self.refuse(turn, id, Version::V5, reason);
                Flow::Closed
            }
        }
    }

    /// AUTH of a connected client: it proves again who it is.
    pub(super) fn authenticate_again(
        &mut self,
        turn: &mut Turn<'_>,
        id: ConnectionId,
        packet: &Auth<'_>,
    ) -> Result<Flow, Violation> {
        let Some((_, session)) = self.live(id) else {
            return Ok(Flow::Closed);
        };
        let Some(login) = session.login.as_deref_mut() else {
            return Err(NO_METHOD);
        };
        let method = login.method.ok_or(NO_METHOD)?;
        if packet.authentication_method != Some(method.name()) {
            return Err(NO_METHOD);
        }
        if login.is_asking {
            return Ok(Flow::Stall); // Until the one before is answered.
        }
        let begun = login.exchange.take();
        let data = packet.authentication_data.unwrap_or_default();
        let step = match (packet.reason, begun) {
            (ReasonCode::ReAuthenticate, _) => self.begin(turn, method, data),
            (ReasonCode::ContinueAuthentication, Some(exchange)) => Ok(exchange
                .finish(data)
                .map(|(identity, data)| Step::Done(Arc::new(identity), Some(data)))
                .map_err(Refusal::Exchange)),
            _ => {
                return Err(Violation::protocol(
                    "MQTT5 §4.12.1",
                    "AUTH with a reason that does not fit the state of the authentication",
                ));
            }
        };
        Ok(match step {
            Ok(Ok(Step::Continue(exchange, message))) => {
                self.say(turn, id, ReasonCode::ContinueAuthentication, Some(&message));
                if let Some((_, session)) = self.live(id)
                    && let Some(login) = session.login.as_deref_mut()
                {
                    login.exchange = Some(exchange);
                }
                Flow::Continue
            }
            Ok(Ok(Step::Done(identity, message))) => self.proved_again(turn, id, identity, message),
            Ok(Err(refusal)) => match turn.policy.elsewhere(&refusal, data) {
                Some(from) => self.ask_about_renewal(turn, id, data, from),
                None => self.not_proved(turn, id, Some(refusal)),
            },
            Err(_) => self.not_proved(turn, id, None),
        })
    }

    /// Has the key of a token fetched. The session goes on as whom it was meanwhile; the control thread answers within the time that a
    /// CONNECT may take.
    fn ask_about_renewal(
        &mut self,
        turn: &mut Turn<'_>,
        id: ConnectionId,
        token: &[u8],
        from: usize,
    ) -> Flow {
        let Some((_, session)) = self.live(id) else {
            return Flow::Closed;
        };
        let Some(login) = session.login.as_deref_mut() else {
            return Flow::Closed;
        };
        login.is_asking = true;
        let credentials = login.credentials(token);
        turn.outbox.questions.push(Question {
            core: turn.facts.core,
            connection: id,
            policy: Arc::clone(turn.policy),
            from,
            credentials: Box::new(credentials),
        });
        Flow::Continue
    }

    /// The answer of the control thread to a token that renews.
    pub(super) fn renewal_judged(
        &mut self,
        turn: &mut Turn<'_>,
        id: ConnectionId,
        outcome: Outcome,
    ) {
        let Some((_, session)) = self.live(id) else {
            return;
        };
        let Some(login) = session.login.as_deref_mut() else {
            return;
        };
        if !std::mem::take(&mut login.is_asking) {
            return;
        }
        let flow = match outcome {
            Ok(Some(identity)) => self.proved_again(turn, id, identity, None),
            Ok(None) => self.not_proved(turn, id, None),
            Err(refusal) => self.not_proved(turn, id, Some(refusal)),
        };
        if flow == Flow::Continue {
            self.resume(turn, id);
        }
    }

    /// A client has proved again who it is. A session is one user's: another one needs a CONNECT of its own.
    fn proved_again(
        &mut self,
        turn: &mut Turn<'_>,
        id: ConnectionId,
        identity: Arc<Identity>,
        message: Option<Vec<u8>>,
    ) -> Flow {
        let session = self.live(id).map(|(_, session)| session);
        let login = session.and_then(|session| session.login.as_deref());
        if login.is_none_or(|login| login.identity.user != identity.user) {
            return self.not_proved(turn, id, None);
        }
        self.say(turn, id, ReasonCode::Success, message.as_deref());
        turn.stats.counters.logins_renewed += 1;
        self.renew(turn, id, identity);
        Flow::Continue
    }

    /// A client has not proved again who it is (MQTT-4.12.1-2).
    fn not_proved(
        &mut self,
        turn: &mut Turn<'_>,
        id: ConnectionId,
        refusal: Option<Refusal>,
    ) -> Flow {
        let reason = match &refusal {
            Some(Refusal::Busy | Refusal::Unavailable(_)) => ReasonCode::ServerBusy,
            _ => ReasonCode::NotAuthorized,
        };
        let session = self.live(id).map(|(_, session)| session);
        let login = session.and_then(|session| session.login.as_deref());
        let client = login.map(|login| login.client.clone());
        match refusal {
            Some(refusal) => {
                self.refused(turn, id, &client.unwrap_or_default(), refusal);
            }
            None => turn.stats.counters.authentications_refused += 1,
        }
        self.leave(turn, id, Leave::because(reason));
        Flow::Closed
    }

    /// Sends AUTH to a connected client.
    fn say(
        &mut self,
        turn: &mut Turn<'_>,
        id: ConnectionId,
        reason: ReasonCode,
        data: Option<&[u8]>,
    ) {
        let Some((link, session)) = self.live(id) else {
            return;
        };
        let Some(method) = session.login.as_ref().and_then(|login| login.method) else {
            return;
        };
        let auth = auth(reason, method, data);
        link.write(turn, |out| encode::auth(out, &auth));
    }

    /// Notes that a client is not let in; gives what CONNACK says.
    pub(super) fn refused(
        &self,
        turn: &mut Turn<'_>,
        id: ConnectionId,
        client: &str,
        refusal: Refusal,
    ) -> ReasonCode {
        turn.stats.counters.authentications_refused += 1;
        let reason = refusal.reason();
        turn.outbox.note(|| crate::outbox::Note::Refused {
            connection: id,
            client: client.into(),
            refusal,
        });
        reason
    }
}

/// Bytes that nobody outside can know: another lot for each purpose, number, core and run of the node. 32 at most.
pub(super) fn unguessable<const BYTES: usize>(
    facts: &Facts,
    purpose: &[u8],
    number: u64,
) -> [u8; BYTES] {
    const { assert!(BYTES <= 32, "one tag of HMAC-SHA256") };
    let key = hmac::Key::new(hmac::HMAC_SHA256, &facts.seed.to_le_bytes());
    let mut context = hmac::Context::with_key(&key);
    context.update(&facts.core.to_le_bytes());
    context.update(&number.to_le_bytes());
    context.update(purpose);
    let mut bytes = [0; BYTES];
    bytes.copy_from_slice(&context.sign().as_ref()[..BYTES]);
    bytes
}

fn is_next(auth: &Auth<'_>, method: Method) -> bool {
    auth.reason == ReasonCode::ContinueAuthentication
        && auth.authentication_method == Some(method.name())
}

fn auth(reason: ReasonCode, method: Method, data: Option<&[u8]>) -> Auth<'_> {
    Auth {
        reason,
        authentication_method: Some(method.name()),
        authentication_data: data,
        reason_string: None,
        user_properties: UserProperties::default(),
    }
}
