//! What the tests of the engine share: a generator of commands, a disk that fails, and a way to see all that is stored.

#![allow(dead_code, reason = "each test uses its part")]
#![allow(unreachable_pub, reason = "a module of several test crates")]

pub mod disk;

use std::sync::Arc;

use edge_proto::packet::{QoS, RetainHandling, SubscriptionOptions};
use gateway::engine::claim::MessageId;
use gateway::engine::embedded::EmbeddedOptions;
use gateway::engine::{
    Append, Command, Completion, Delivery, Durability, Engine, MailboxLimits, RetainChange,
    SessionRecord, SubscriptionRecord, Token, WhenFull, WillRecord,
};
use gateway::message::{Message, MessageParts, SessionId};

/// Sessions that commands are about.
pub const SESSIONS: u64 = 6;

/// Numbers from a seed (splitmix64).
#[derive(Clone, Debug)]
pub struct Rng(pub u64);

impl Rng {
    pub fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.word() % bound
    }

    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// Makes commands that mostly make sense, from arbitrary words.
#[derive(Clone, Debug, Default)]
pub struct Generator {
    tokens: u64,
    /// Messages that were appended and may still be there.
    waiting: Vec<(SessionId, u64)>,
}

impl Generator {
    pub fn token(&mut self) -> Token {
        self.tokens += 1;
        Token(self.tokens)
    }

    /// Remembers what was appended, so that later commands acknowledge it.
    pub fn observe(&mut self, completions: &[(u16, Completion)]) {
        for (_, completion) in completions {
            if let Completion::Appended {
                session, sequence, ..
            } = completion
            {
                self.waiting.push((*session, *sequence));
            }
        }
    }

    /// The command that a word stands for, with its core.
    pub fn command(&mut self, word: u64) -> (u16, Command) {
        let mut rng = Rng(word);
        let session = SessionId(1 + rng.below(SESSIONS));
        let token = self.token();
        let command = match rng.below(100) {
            0..12 => Command::PutSession {
                token,
                session,
                record: Box::new(record(&mut rng)),
            },
            12..15 => Command::DeleteSession { token, session },
            15..22 => Command::Subscribe {
                token,
                session,
                filter: filter(&mut rng),
                record: subscription(&mut rng),
            },
            22..25 => Command::Unsubscribe {
                token,
                session,
                filter: filter(&mut rng),
            },
            25..65 => self.publish(token, &mut rng),
            65..68 => Command::Release {
                token,
                session,
                packet_id: rng.below(4) as u16,
            },
            68..84 => {
                let (session, sequence) = self.pick(&mut rng, session, true);
                Command::Ack { session, sequence }
            }
            84..90 => {
                let (session, sequence) = self.pick(&mut rng, session, false);
                Command::PubRec {
                    token,
                    session,
                    sequence,
                }
            }
            90..95 => Command::Move {
                token,
                from: session,
                to: SessionId(1 + rng.below(SESSIONS)),
                home: rng.below(3) as u16,
                record: subscription(&mut rng),
                messages_max: rng.below(6) as u32,
                bytes_max: rng.below(1_500) as u32,
            },
            95..97 => Command::ListSubscriptions { token, session },
            _ => Command::ReadMailbox {
                token,
                session,
                from: rng.below(3) * rng.below(20),
                messages_max: rng.below(6) as u32,
                bytes_max: rng.below(1_500) as u32,
            },
        };
        (rng.below(3) as u16, command)
    }

    /// A message that waits, mostly an old one, sometimes one that never was.
    fn pick(&mut self, rng: &mut Rng, session: SessionId, take: bool) -> (SessionId, u64) {
        if self.waiting.is_empty() || rng.chance(10) {
            return (session, rng.below(30));
        }
        let index = rng.below(1 + self.waiting.len() as u64 / 2) as usize;
        if take && rng.chance(90) {
            self.waiting.remove(index)
        } else {
            self.waiting[index]
        }
    }

    fn publish(&self, token: Token, rng: &mut Rng) -> Command {
        let recipients = [0, 1, 1, 1, 2, 3, 5][rng.below(7) as usize];
        let appends = (0..recipients)
            .map(|_| Append {
                session: SessionId(1 + rng.below(SESSIONS)),
                home: rng.below(3) as u16,
                delivery: Delivery {
                    qos: QoS::from_u8(rng.below(3) as u8).expect("below 3"),
                    retain: rng.chance(20),
                    subscription_ids: (0..rng.below(3)).map(|_| rng.word() as u32).collect(),
                },
            })
            .collect();
        let received = rng
            .chance(30)
            .then(|| (SessionId(1 + rng.below(SESSIONS)), rng.below(4) as u16));
        let retain = match rng.below(10) {
            0..2 => RetainChange::Set,
            2 => RetainChange::Clear,
            _ => RetainChange::None,
        };
        Command::Publish {
            token,
            id: MessageId::NONE,
            retry: false,
            message: message(rng),
            appends,
            received,
            retain,
        }
    }
}

pub fn message(rng: &mut Rng) -> Arc<Message> {
    let topic = format!("t/{}", rng.below(4));
    let payload = vec![rng.word() as u8; rng.below(2) as usize * rng.below(800) as usize];
    Arc::new(Message::new(MessageParts {
        topic: &topic,
        properties: &[rng.word() as u8; 3][..rng.below(4) as usize],
        payload: &payload,
        qos: QoS::from_u8(rng.below(3) as u8).expect("below 3"),
        retain: rng.chance(30),
        expires_at_unix_ms: if rng.chance(30) {
            rng.below(20)
        } else {
            u64::MAX
        },
        publisher: SessionId(rng.below(10)),
    }))
}

pub fn record(rng: &mut Rng) -> SessionRecord {
    let will = rng.chance(30).then(|| WillRecord {
        message: message(rng),
        delay_s: rng.word() as u32,
        message_expiry_s: rng.chance(50).then(|| rng.word() as u32),
    });
    SessionRecord {
        client_id: format!("client {}", rng.below(9)).into(),
        user: rng.chance(50).then(|| "ü".into()),
        expiry_s: rng.word() as u32,
        disconnected_at_unix_ms: rng.chance(50).then(|| rng.word()),
        will,
    }
}

fn filter(rng: &mut Rng) -> Box<str> {
    ["a/#", "a/+", "$share/g/x/y", "", "ü/ä"][rng.below(5) as usize].into()
}

fn subscription(rng: &mut Rng) -> SubscriptionRecord {
    let retain_handling = [
        RetainHandling::Send,
        RetainHandling::SendIfNew,
        RetainHandling::DoNotSend,
    ];
    SubscriptionRecord {
        options: SubscriptionOptions {
            maximum_qos: QoS::from_u8(rng.below(3) as u8).expect("below 3"),
            no_local: rng.chance(50),
            retain_as_published: rng.chance(50),
            retain_handling: retain_handling[rng.below(3) as usize],
        },
        subscription_id: rng.word() as u32,
    }
}

/// Limits small enough to be met.
pub fn limits(when_full: WhenFull) -> MailboxLimits {
    MailboxLimits {
        messages_max: 5,
        bytes_max: 1_500,
        when_full,
    }
}

pub fn options(when_full: WhenFull) -> EmbeddedOptions {
    EmbeddedOptions {
        mailbox_limits: limits(when_full),
        durability: Durability::Sync,
        cache_bytes: 1 << 20,
    }
}

/// Everything a store hands out at its start, as text.
pub fn restored(engine: &mut impl Engine) -> String {
    let mut text = String::new();
    engine
        .restore(&mut |item| text += &format!("{item:?}\n"))
        .expect("restores");
    text
}

/// All mailboxes, as text. Takes part in the numbering of batches.
pub fn mailboxes(engine: &mut impl Engine, batch: u64) -> String {
    let commands: Vec<_> = (1..=SESSIONS)
        .map(|session| {
            let read = Command::ReadMailbox {
                token: Token(session),
                session: SessionId(session),
                from: 0,
                messages_max: u32::MAX,
                bytes_max: u32::MAX,
            };
            (0, read)
        })
        .collect();
    let mut pages = Vec::new();
    engine
        .commit(batch, 0, &commands, &mut pages)
        .expect("reads");
    format!("{pages:?}")
}
