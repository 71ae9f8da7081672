//! One core with an engine in memory, its clients, and a control thread that answers at once.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use edge_proto::decode::{Sender, decode};
use edge_proto::encode;
use edge_proto::frame::next_frame;
use edge_proto::packet::{
    Auth, Connect, Packet, Publish, PublishProperties, QoS, SubscriptionOptions, UserProperties,
    Version,
};
use edge_proto::reason::ReasonCode;
use edge_proto::topic::RootDepths;
use gateway::access::password::PasswordFile;
use gateway::access::policy::{
    Method, Origins, Outcome, Policy, Question, Refusal, TokenMethod, Verdict,
};
use gateway::access::rules::Rules;
use gateway::access::token::{KeySet, TokenPolicy};
use gateway::engine::memory::Memory;
use gateway::engine::{Engine, MailboxLimits, WhenFull};
use gateway::limits::Limits;
use gateway::outbox::{Order, Outbox};
use gateway::ownership::Ownership;
use gateway::shard::{Arrival, Event, Shard};
use gateway::turn::{Congestion, Facts, Now};
use reactor::driver::ConnectionId;
use serde_json::{Value, json};

pub(crate) const SECRET: &[u8] = b"a secret of thirty-two bytes or more";

/// What a client hears.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Heard {
    ConnAck(ReasonCode),
    Message { topic: String, payload: String },
    Acknowledged(ReasonCode),
    SubAck(Vec<u8>),
    Auth(ReasonCode, Vec<u8>),
    Disconnect(ReasonCode),
    Closed,
}

/// A core, and everybody around it.
pub(crate) struct World {
    shard: Shard,
    outbox: Outbox,
    engine: Memory,
    batches: u64,
    pub(crate) now: Now,
    connections: u32,
    heard: BTreeMap<u32, Vec<u8>>,
    closed: Vec<ConnectionId>,
    /// What the control thread says to the next question; `None`: what the password file says.
    pub(crate) verdict: Option<Outcome>,
    /// Questions that were asked.
    pub(crate) questions: usize,
    /// True while the control thread does not answer of itself.
    pub(crate) is_silent: bool,
    unanswered: Vec<Question>,
}

impl World {
    pub(crate) fn new(policy: Policy) -> Self {
        Self::with_limits(policy, Limits::default())
    }

    pub(crate) fn with_limits(policy: Policy, limits: Limits) -> Self {
        let facts = facts(limits);
        let now = Now {
            mono_ms: 1,
            unix_ms: 1_800_000_000_000,
        };
        let mailboxes = MailboxLimits {
            messages_max: 1_000,
            bytes_max: 1 << 20,
            when_full: WhenFull::DropOldest,
        };
        Self {
            shard: Shard::new(
                facts,
                Arc::new(Ownership::alone(1)),
                Arc::new(policy),
                1,
                now,
            ),
            outbox: Outbox::new(0, 0..1),
            engine: Memory::new(mailboxes, now.unix_ms),
            batches: 0,
            now,
            connections: 0,
            heard: BTreeMap::new(),
            closed: Vec::new(),
            verdict: None,
            questions: 0,
            is_silent: false,
            unanswered: Vec::new(),
        }
    }

    /// Handles an event and all that follows from it.
    fn handle(&mut self, event: Event<'_>) {
        self.shard.handle(self.now, event, &mut self.outbox);
        loop {
            let tick = Event::Tick(Congestion::default());
            self.shard.handle(self.now, tick, &mut self.outbox);
            self.deliver();
            let answered = self.answer_questions();
            let closed = self.close();
            if !self.commit() && !answered && !closed && !self.has_work() {
                return;
            }
        }
    }

    fn has_work(&self) -> bool {
        let due = self.shard.next_deadline_ms();
        due.is_some_and(|due| due <= self.now.mono_ms)
    }

    fn deliver(&mut self) {
        self.outbox.seal();
        for output in std::mem::take(&mut self.outbox.outputs) {
            let heard = self.heard.entry(output.connection.slot).or_default();
            heard.extend(output.bytes);
            self.shard.handle(
                self.now,
                Event::Drained(output.connection),
                &mut self.outbox,
            );
        }
    }

    fn close(&mut self) -> bool {
        let orders = std::mem::take(&mut self.outbox.orders);
        let closing = orders.into_iter().filter_map(|order| match order {
            Order::Close(id, _) => Some(id),
            _ => None,
        });
        let closing: Vec<ConnectionId> = closing.collect();
        for id in &closing {
            self.closed.push(*id);
            self.shard
                .handle(self.now, Event::Closed(*id), &mut self.outbox);
        }
        !closing.is_empty()
    }

    fn commit(&mut self) -> bool {
        let commands: Vec<_> = self.outbox.engine.drain(..).map(|it| (0, it)).collect();
        if commands.is_empty() {
            return false;
        }
        self.batches += 1;
        let mut completions = Vec::new();
        self.engine
            .commit(self.batches, self.now.unix_ms, &commands, &mut completions)
            .expect("no fault is set");
        for (_, completion) in completions {
            let event = Event::Engine(completion);
            self.shard.handle(self.now, event, &mut self.outbox);
        }
        true
    }

    /// What the control thread does, but at once.
    fn answer_questions(&mut self) -> bool {
        let questions = std::mem::take(&mut self.outbox.questions);
        let any = !questions.is_empty();
        if self.is_silent {
            self.questions += questions.len();
            self.unanswered.extend(questions);
            return false;
        }
        for question in questions {
            self.questions += 1;
            let credentials = &question.credentials;
            let outcome = self.verdict.clone().unwrap_or_else(|| {
                let Method::Password(file) = &question.policy.methods[question.from] else {
                    return Err(Refusal::Unknown);
                };
                let user = credentials.user_name.as_deref().unwrap_or_default();
                let password = credentials.password.as_deref().unwrap_or_default();
                let verified = file.verify(user, password);
                verified
                    .map(|identity| Some(Arc::new(identity)))
                    .map_err(|_| Refusal::Credentials)
            });
            let verdict = Verdict {
                connection: question.connection,
                outcome,
            };
            let event = Event::Verdict(verdict);
            self.shard.handle(self.now, event, &mut self.outbox);
        }
        any
    }

    /// The control thread answers the last question that it has not answered.
    pub(crate) fn answer(&mut self, outcome: Outcome) {
        let question = self.unanswered.pop().expect("there is one");
        let connection = question.connection;
        self.handle(Event::Verdict(Verdict {
            connection,
            outcome,
        }));
    }

    /// The node is killed and starts again with what its engine has.
    pub(crate) fn restart(&mut self, policy: Policy) {
        self.restart_with(policy, Limits::default());
    }

    pub(crate) fn restart_with(&mut self, policy: Policy, limits: Limits) {
        self.engine.restart(self.now.unix_ms);
        self.outbox = Outbox::new(0, 0..1);
        self.heard.clear();
        self.batches = 0;
        let facts = facts(limits);
        self.shard = Shard::new(
            facts,
            Arc::new(Ownership::alone(1)),
            Arc::new(policy),
            2,
            self.now,
        );
        let (shard, outbox, now) = (&mut self.shard, &mut self.outbox, self.now);
        self.engine
            .restore(&mut |item| shard.restore(now, &item, 0, outbox))
            .expect("no fault is set");
        self.pass(1);
    }

    pub(crate) fn set_policy(&mut self, policy: Policy) {
        self.handle(Event::Policy(Arc::new(policy)));
    }

    /// Time passes.
    pub(crate) fn pass(&mut self, ms: u64) {
        self.now.mono_ms += ms;
        self.now.unix_ms += ms;
        self.handle(Event::Tick(Congestion::default()));
    }

    pub(crate) fn counter(&self, name: &str) -> u64 {
        let counters = self.shard.snapshot().counters;
        let found = counters.iter().find(|(known, ..)| *known == name);
        found.map(|(_, _, value)| value).expect("a counter's name")
    }

    pub(crate) fn conserves(&self) -> bool {
        self.shard.snapshot().conserves()
    }

    /// What the core shows of itself.
    pub(crate) fn shown(&self) -> String {
        format!("{:?}", self.shard)
    }

    /// A connection from an address.
    pub(crate) fn arrive(&mut self, arrival: Arrival) -> ConnectionId {
        self.connections += 1;
        let connection = ConnectionId {
            slot: self.connections,
            generation: 1,
        };
        self.handle(Event::Accepted {
            connection,
            arrival,
        });
        connection
    }

    pub(crate) fn say(&mut self, connection: ConnectionId, write: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = Vec::new();
        write(&mut bytes);
        let bytes = &mut bytes[..];
        self.handle(Event::Received { connection, bytes });
    }

    /// What a client has heard since it was last asked.
    pub(crate) fn hear(&mut self, id: ConnectionId) -> Vec<Heard> {
        let bytes = self.heard.remove(&id.slot).unwrap_or_default();
        let (mut rest, mut heard) = (&bytes[..], Vec::new());
        let mut replies = Vec::new();
        while let Some(frame) = next_frame(rest, 1 << 20).expect("the server keeps the rules") {
            let packet = decode(Version::V5, Sender::Server, frame);
            match packet.expect("the server keeps the rules") {
                Packet::ConnAck(connack) => heard.push(Heard::ConnAck(connack.reason)),
                Packet::Publish(publish) => {
                    replies.extend(publish.packet_id);
                    heard.push(Heard::Message {
                        topic: publish.topic.to_owned(),
                        payload: String::from_utf8_lossy(publish.payload).into_owned(),
                    });
                }
                Packet::PubAck(ack) => heard.push(Heard::Acknowledged(ack.reason)),
                Packet::SubAck(suback) => heard.push(Heard::SubAck(suback.reasons.to_vec())),
                Packet::Auth(auth) => heard.push(Heard::Auth(
                    auth.reason,
                    auth.authentication_data.unwrap_or_default().to_vec(),
                )),
                Packet::Disconnect(disconnect) => heard.push(Heard::Disconnect(disconnect.reason)),
                _ => {}
            }
            rest = &rest[frame.length..];
        }
        for packet_id in replies {
            // QoS 1 is the highest that these clients ask for.
            self.say(id, |out| {
                out.extend([0x40, 2]);
                out.extend(packet_id.to_be_bytes());
            });
        }
        if self.closed.contains(&id) {
            heard.push(Heard::Closed);
        }
        heard
    }

    /// The QoS of the messages that a client has heard.
    pub(crate) fn hear_qos(&mut self, id: ConnectionId) -> Vec<QoS> {
        let bytes = self.heard.get(&id.slot).cloned().unwrap_or_default();
        self.hear(id); // Acknowledges them.
        let (mut rest, mut heard) = (&bytes[..], Vec::new());
        while let Some(frame) = next_frame(rest, 1 << 20).expect("the server keeps the rules") {
            if let Ok(Packet::Publish(publish)) = decode(Version::V5, Sender::Server, frame) {
                heard.push(publish.qos);
            }
            rest = &rest[frame.length..];
        }
        heard
    }

    /// The user properties of the next message that a client has heard.
    pub(crate) fn hear_user_properties(&mut self, id: ConnectionId) -> Vec<[String; 2]> {
        let bytes = self.heard.get(&id.slot).cloned().unwrap_or_default();
        self.hear(id); // Acknowledges it.
        let frame = next_frame(&bytes, 1 << 20).expect("the server keeps the rules");
        match decode(Version::V5, Sender::Server, frame.expect("a packet")) {
            Ok(Packet::Publish(publish)) => {
                let pairs = publish.properties.user_properties.iter();
                pairs
                    .map(|(name, value)| [name.to_owned(), value.to_owned()])
                    .collect()
            }
            other => panic!("no message: {other:?}"),
        }
    }

    /// Connects from this machine, and gives what the server answered.
    pub(crate) fn connect(&mut self, connect: &Connect<'_>) -> (ConnectionId, Vec<Heard>) {
        self.connect_from(Arrival::plain(false, local()), connect)
    }

    pub(crate) fn connect_from(
        &mut self,
        arrival: Arrival,
        connect: &Connect<'_>,
    ) -> (ConnectionId, Vec<Heard>) {
        let id = self.arrive(arrival);
        self.say(id, |out| encode::connect(out, connect));
        let heard = self.hear(id);
        (id, heard)
    }

    /// Connects with a token and must be let in.
    pub(crate) fn enter(&mut self, client: &str, claims: &Value) -> ConnectionId {
        let token = token(claims);
        let (id, heard) = self.connect(&with_password(client, "", token.as_bytes()));
        assert_eq!(heard, [Heard::ConnAck(ReasonCode::Success)]);
        id
    }

    pub(crate) fn subscribe(&mut self, id: ConnectionId, filter: &str, qos: QoS) -> u8 {
        let options = SubscriptionOptions::from_qos(qos);
        self.say(id, |out| {
            encode::subscribe(out, Version::V5, 9, None, &[(filter, options)]);
        });
        let heard = self.hear(id);
        let reasons = heard.iter().find_map(|heard| match heard {
            Heard::SubAck(reasons) => Some(reasons[0]),
            _ => None,
        });
        reasons.unwrap_or_else(|| panic!("no SUBACK for {filter}: {heard:?}"))
    }

    /// Publishes with QoS 1 and gives the reason of the PUBACK.
    pub(crate) fn publish(
        &mut self,
        id: ConnectionId,
        topic: &str,
        payload: &str,
        properties: PublishProperties<'_>,
        retain: bool,
    ) -> Option<ReasonCode> {
        let publish = Publish {
            dup: false,
            qos: QoS::AtLeastOnce,
            retain,
            topic,
            packet_id: Some(3),
            properties,
            payload: payload.as_bytes(),
        };
        self.say(id, |out| encode::publish(out, Version::V5, &publish));
        self.hear(id).into_iter().find_map(|heard| match heard {
            Heard::Acknowledged(reason) => Some(reason),
            _ => None,
        })
    }

    pub(crate) fn leave(&mut self, id: ConnectionId) {
        self.handle(Event::PeerClosed(id));
        self.hear(id);
    }

    pub(crate) fn authenticate(
        &mut self,
        id: ConnectionId,
        reason: ReasonCode,
        method: &str,
        data: &[u8],
    ) -> Vec<Heard> {
        let auth = Auth {
            reason,
            authentication_method: Some(method),
            authentication_data: Some(data),
            reason_string: None,
            user_properties: UserProperties::default(),
        };
        self.say(id, |out| encode::auth(out, &auth));
        self.hear(id)
    }
}

fn facts(limits: Limits) -> Facts {
    Facts {
        core: 0,
        limits,
        root_depths: RootDepths::default(),
        websocket_path: "/mqtt".into(),
        seed: 7,
    }
}

pub(crate) fn local() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 50_000))
}

pub(crate) fn remote() -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 7], 50_000))
}

pub(crate) fn with_password<'a>(client: &'a str, user: &'a str, password: &'a [u8]) -> Connect<'a> {
    Connect {
        username: (!user.is_empty()).then_some(user),
        password: Some(password),
        ..Connect::new(Version::V5, client)
    }
}

/// A token that is signed with [`SECRET`].
pub(crate) fn token(claims: &Value) -> String {
    signed_token(&json!({"alg": "HS256", "typ": "JWT"}), claims, SECRET)
}

pub(crate) fn signed_token(header: &Value, claims: &Value, secret: &[u8]) -> String {
    let encode = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
    let message = format!(
        "{}.{}",
        encode(header.to_string().as_bytes()),
        encode(claims.to_string().as_bytes())
    );
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    let tag = hmac::sign(&key, message.as_bytes());
    format!("{message}.{}", encode(tag.as_ref()))
}

/// Claims of a user for an hour and a half.
pub(crate) fn claims(user: &str, groups: &[&str]) -> Value {
    json!({"sub": user, "groups": groups, "aud": "roadstead", "exp": 1_800_005_400})
}

pub(crate) fn tokens() -> Method {
    Method::Token(Arc::new(TokenMethod {
        keys: KeySet::from_secret(SECRET).expect("long enough"),
        fetched: None,
        policy: TokenPolicy {
            audience: Some("roadstead".into()),
            ..TokenPolicy::default()
        },
    }))
}

pub(crate) fn passwords(lines: &[String]) -> Method {
    let file = PasswordFile::parse(&lines.join("\n"), &[5; 32]);
    Method::Password(Arc::new(file.expect("a valid file")))
}

/// A policy of these methods and rules, where nobody comes in without proof and nothing is allowed without a rule.
pub(crate) fn strict(methods: impl Into<Box<[Method]>>, rules: &str) -> Policy {
    Policy {
        anonymous: Origins::Nowhere,
        methods: methods.into(),
        rules: Some(Arc::new(Rules::from_toml(rules).expect("valid rules"))),
        unruled: Origins::Nowhere,
        ..Policy::open()
    }
}
