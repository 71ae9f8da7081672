//! The queue of a shared subscription: an owner on a store in memory, and members that are played.

use std::collections::BTreeMap;
use std::sync::Arc;

use edge_proto::packet::SubscriptionOptions;
use edge_proto::topic::RootDepths;
use reactor::driver::ConnectionId;
use reactor::wheel::Wheel;

use super::*;
use crate::access::policy::Policy;
use crate::core_message::{
    Origin, Presence, PublishRequest, SubscribeRequest, UnsubscribeRequest, load_level,
};
use crate::engine::claim::MessageId;
use crate::engine::memory::Memory;
use crate::engine::{Engine, MailboxLimits, Restored, SubscriptionRecord, WhenFull};
use crate::limits::Limits;
use crate::message::MessageParts;
use crate::metrics::Counters;
use crate::outbox::Outbox;
use crate::ownership::Ownership;
use crate::turn::{Congestion, Facts, Now, SessionIds, Stats, Unanswered};

const FILTER: &str = "$share/workers/jobs/+";

/// An owner, its engine, and what its members have got.
struct Tested {
    owner: Owner,
    outbox: Outbox,
    facts: Facts,
    policy: Arc<Policy>,
    stats: Stats,
    timers: Wheel<Timer>,
    ids: SessionIds,
    unanswered: Unanswered,
    now: Now,
    engine: Memory,
    batches: u64,
    /// What each durable member has in its mailbox, and each live-only one was handed.
    got: BTreeMap<u64, Vec<String>>,
    /// Messages that live-only members take of what they are handed; `None` = all.
    takes: Option<u32>,
    /// Messages that the home refused to send on: QoS 0 for members that may be offline.
    lossy: u32,
}

impl Tested {
    fn new(limits: MailboxLimits) -> Self {
        let facts = Facts {
            core: 0,
            limits: Limits::default(),
            root_depths: RootDepths::default(),
            websocket_path: "/".into(),
            seed: 1,
        };
        let mut tested = Self {
            owner: Owner::new(1),
            outbox: Outbox::new(0, 0..1),
            policy: Arc::new(Policy::open()),
            stats: Stats::default(),
            timers: Wheel::new(0),
            ids: SessionIds::new(1, 0),
            unanswered: Unanswered::default(),
            now: Now::default(),
            engine: Memory::new(limits, 0),
            batches: 0,
            facts,
            got: BTreeMap::new(),
            takes: None,
            lossy: 0,
        };
        for session in 1..=3 {
            tested.outbox.engine.push_back(Command::PutSession {
                token: token(TokenRole::Nobody, 0),
                session: SessionId(session),
                record: Box::new(SessionRecord {
                    client_id: format!("c{session}").into(),
                    user: None,
                    expiry_s: u32::MAX,
                    disconnected_at_unix_ms: None,
                    will: None,
                }),
            });
        }
        tested
    }

    fn turn<T>(&mut self, act: impl FnOnce(&mut Owner, &mut Turn<'_>) -> T) -> T {
        let mut turn = Turn {
            now: self.now,
            outbox: &mut self.outbox,
            facts: &self.facts,
            policy: &self.policy,
            ownership: &Arc::new(Ownership::alone(1)),
            stats: &mut self.stats,
            timers: &mut self.timers,
            ids: &mut self.ids,
            unanswered: &mut self.unanswered,
            congestion: Congestion::default(),
        };
        act(&mut self.owner, &mut turn)
    }

    fn join(&mut self, session: u64, target: Target, connected: bool) {
        let granted = SubscriptionRecord {
            options: SubscriptionOptions::from_qos(QoS::ExactlyOnce),
            subscription_id: 0,
        };
        let request = SubscribeRequest {
            filter: FILTER.into(),
            subscriber: Subscriber::new(SessionId(session), target, granted),
            presence: Presence { connected, load: 0 },
            reply: None,
        };
        self.turn(|owner, turn| owner.subscribe(turn, request));
    }

    fn leave(&mut self, session: u64) {
        let request = UnsubscribeRequest {
            filter: FILTER.into(),
            session: SessionId(session),
            reply: None,
        };
        self.turn(|owner, turn| owner.unsubscribe(turn, &request));
    }

    fn presence(&mut self, session: u64, connected: bool, load: u8) {
        let member = SharedPresence {
            filter: FILTER.into(),
            session: SessionId(session),
            presence: Presence { connected, load },
        };
        self.turn(|owner, turn| owner.set_presence(turn, &member));
    }

    fn publish(&mut self, texts: impl IntoIterator<Item = u32>, qos: QoS) {
        for text in texts {
            self.publish_until(text, qos, u64::MAX);
        }
    }

    fn publish_until(&mut self, text: u32, qos: QoS, expires_at_unix_ms: u64) {
        let message = Message::new(MessageParts {
            topic: "jobs/new",
            properties: &[],
            payload: text.to_string().as_bytes(),
            qos,
            retain: false,
            expires_at_unix_ms,
            publisher: SessionId(0),
        });
        let request = PublishRequest {
            message: Arc::new(message),
            origin: Origin::Nobody,
            may_refuse: false,
            received: None,
            id: MessageId::NONE,
            retry: false,
        };
        self.turn(|owner, turn| owner.publish(turn, request));
    }

    /// Lets the engine and the members do what they are asked, until nothing is left.
    fn settle(&mut self) {
        loop {
            while let Some(message) = self.outbox.local.pop_front() {
                self.member_does(message);
            }
            let commands: Vec<_> = self.outbox.engine.drain(..).map(|each| (0, each)).collect();
            if commands.is_empty() {
                break;
            }
            self.batches += 1;
            let mut answers = Vec::new();
            self.engine
                .commit(self.batches, self.now.unix_ms, &commands, &mut answers)
                .expect("a store in memory works");
            for (_, answer) in answers {
                self.answer(answer);
            }
        }
        assert_eq!(
            self.stats.queued,
            self.owner.queued_in_groups(),
            "conservation"
        );
    }

    fn member_does(&mut self, message: CoreMessage) {
        match message {
            CoreMessage::Hand(hand) => {
                let taken = self
                    .takes
                    .unwrap_or(u32::MAX)
                    .min(hand.messages.len() as u32);
                let got = self.got.entry(u64::from(hand.connection.slot)).or_default();
                for (message, _) in &hand.messages[..taken as usize] {
                    got.push(text(message));
                }
                let transfer = hand.answer.1;
                self.turn(|owner, turn| owner.handed(turn, transfer, taken));
            }
            CoreMessage::DeliverHome(_) => self.lossy += 1,
            _ => {}
        }
    }

    fn answer(&mut self, answer: Completion) {
        match answer {
            Completion::Appended { session, .. } | Completion::Rejected { session }
                if session.is_group_queue() =>
            {
                self.turn(|owner, turn| owner.queue_answered(turn, answer));
            }
            Completion::Appended {
                session, message, ..
            } => {
                let got = self.got.entry(session.0).or_default();
                got.push(text(&message));
                let load = load_level(0, got.len() as u64);
                self.presence(session.0, true, load);
            }
            Completion::Moved { token, .. }
            | Completion::MailboxPage { token, .. }
            | Completion::SessionDeleted { token, .. } => {
                let id = token.0 & 0xFF_FFFF;
                self.turn(|owner, turn| owner.completed(turn, id, answer));
            }
            _ => {}
        }
    }

    fn got(&self, session: u64) -> Vec<&str> {
        let got = self.got.get(&session).into_iter().flatten();
        got.map(String::as_str).collect()
    }

    fn queues_in_engine(&mut self) -> usize {
        let mut count = 0;
        let mut see = |item: Restored| {
            count += usize::from(
                matches!(item, Restored::Session { session, .. } if session.is_group_queue()),
            );
        };
        self.engine.restore(&mut see).expect("it reads");
        count
    }
}

const ROOMY: MailboxLimits = MailboxLimits {
    messages_max: 10_000,
    bytes_max: u64::MAX,
    when_full: WhenFull::DropOldest,
};

const DURABLE: Target = Target::Home { partition: 0 };

fn live(session: u32) -> Target {
    let connection = ConnectionId {
        slot: session,
        generation: 1,
    };
    Target::Live {
        core: 0,
        connection,
    }
}

fn text(message: &Message) -> String {
    String::from_utf8_lossy(message.payload()).into_owned()
}

fn texts(range: std::ops::Range<u32>) -> Vec<String> {
    range.map(|number| number.to_string()).collect()
}

/// A group of two durable members that are offline, with so many messages in its queue.
fn waiting(messages: u32, limits: MailboxLimits) -> Tested {
    let mut tested = Tested::new(limits);
    tested.join(1, DURABLE, false);
    tested.join(2, DURABLE, false);
    tested.publish(0..messages, QoS::AtLeastOnce);
    tested.settle();
    tested
}

#[test]
fn what_comes_while_nobody_is_connected_waits_and_goes_to_the_first_who_comes_in_order() {
    let mut tested = waiting(100, ROOMY);
    assert_eq!(
        (tested.owner.queued_in_groups(), tested.got.len()),
        (100, 0)
    );
    // It takes all as fast as it comes.
    for _ in 0..10 {
        tested.presence(2, true, 0);
        tested.settle();
    }
    assert_eq!(tested.got(2), texts(0..100));
    assert!(tested.got(1).is_empty());
    let Counters {
        deliveries_accepted,
        deliveries_delivered,
        ..
    } = tested.stats.counters;
    assert_eq!((deliveries_accepted, deliveries_delivered), (100, 100));
    tested.publish(100..101, QoS::AtLeastOnce);
    tested.settle();
    assert_eq!(tested.got(2).len(), 101, "the queue is empty: straight on");
    assert_eq!(tested.stats.counters.deliveries_accepted, 100);
}

#[test]
fn a_message_does_not_overtake_those_that_wait() {
    let mut tested = waiting(3, ROOMY);
    tested.presence(1, true, 0);
    tested.publish(3..6, QoS::AtLeastOnce);
    tested.settle();
    assert_eq!(tested.got(1), texts(0..6));
}

#[test]
fn a_member_that_does_not_keep_up_gets_no_more_until_it_does() {
    let mut tested = waiting(100, ROOMY);
    tested.presence(1, true, 0);
    tested.settle();
    assert_eq!(tested.got(1), texts(0..32));
    assert_eq!(tested.owner.queued_in_groups(), 68);
    tested.presence(2, true, 0);
    tested.settle();
    assert_eq!(tested.got(2), texts(32..64), "another one can");
    tested.now.mono_ms = 1_000;
    tested.presence(1, true, load_level(0, 10));
    tested.settle();
    assert_eq!(tested.owner.queued_in_groups(), 4);
    tested.presence(2, true, load_level(0, 40));
    tested.settle();
    assert_eq!(tested.owner.queued_in_groups(), 4, "it has enough to do");
    tested.presence(2, true, load_level(0, 15));
    tested.settle();
    assert_eq!(tested.owner.queued_in_groups(), 0);
}

#[test]
fn a_fast_member_gets_more_at_once_each_time() {
    let mut tested = waiting(1_000, ROOMY);
    let mut sizes = Vec::new();
    for _ in 0..5 {
        tested.now.mono_ms += 10;
        let before = tested.got(1).len();
        tested.presence(1, true, 0);
        tested.settle();
        sizes.push(tested.got(1).len() - before);
    }
    assert_eq!(sizes, [32, 64, 128, 256, 512]);
}

#[test]
fn a_live_only_member_is_handed_what_waits() {
    let mut tested = waiting(100, ROOMY);
    tested.join(9, live(9), true);
    tested.settle();
    assert_eq!(tested.got(9), texts(0..100));
    assert_eq!(tested.owner.queued_in_groups(), 0);
    tested.publish_until(7, QoS::AtLeastOnce, u64::MAX);
    tested.settle();
    assert_eq!(tested.owner.queued_in_groups(), 0, "it is connected");
}

#[test]
fn what_a_live_only_member_does_not_take_stays_and_is_offered_again() {
    let mut tested = waiting(10, ROOMY);
    tested.takes = Some(0);
    tested.join(9, live(9), true);
    tested.settle();
    assert_eq!(tested.owner.queued_in_groups(), 10);
    tested.takes = Some(4);
    let key = tested.owner.subscriptions.group(None, FILTER);
    tested.now.mono_ms += 2 * RETRY_MS;
    let mut due = Vec::new();
    tested
        .timers
        .expire(tested.now.mono_ms, 10, |timer| due.push(timer));
    let key = key.expect("it has members");
    assert_eq!(due, [Timer::Group(key)]);
    tested.turn(|owner, turn| owner.retry(turn, key));
    tested.settle();
    assert_eq!(tested.got(9), texts(0..10), "four at a time");
    assert_eq!(tested.owner.queued_in_groups(), 0);
}

#[test]
fn a_member_that_leaves_with_messages_on_their_way_loses_none() {
    let mut tested = waiting(10, ROOMY);
    tested.join(9, live(9), true);
    tested.leave(9);
    tested.settle();
    assert!(tested.got(9).is_empty());
    assert_eq!(tested.owner.queued_in_groups(), 10);
    tested.presence(1, true, 0);
    tested.presence(1, false, 0);
    tested.settle();
    // What was on its way to a durable member is in its mailbox now, the rest waits.
    assert_eq!(tested.got(1), texts(0..10));
}

#[test]
fn the_queue_goes_with_the_last_member() {
    let mut tested = waiting(10, ROOMY);
    assert_eq!(tested.queues_in_engine(), 1);
    tested.leave(1);
    tested.publish(10..11, QoS::ExactlyOnce);
    tested.leave(2);
    tested.settle();
    assert_eq!(tested.queues_in_engine(), 0);
    assert_eq!(tested.stats.dropped[DropReason::SessionEnded as usize], 11);
}

#[test]
fn qos_0_does_not_wait() {
    let mut tested = waiting(0, ROOMY);
    tested.publish(0..3, QoS::AtMostOnce);
    tested.settle();
    assert_eq!((tested.owner.queued_in_groups(), tested.lossy), (0, 3));
    assert_eq!(tested.queues_in_engine(), 0);
}

#[test]
fn expired_messages_are_not_handed() {
    let mut tested = waiting(1, ROOMY);
    tested.publish_until(1, QoS::AtLeastOnce, 50);
    tested.publish(2..3, QoS::AtLeastOnce);
    tested.settle();
    tested.now.unix_ms = 100;
    tested.join(9, live(9), true);
    tested.settle();
    assert_eq!(tested.got(9), ["0", "2"]);
    assert_eq!(tested.stats.counters.deliveries_expired, 1);
}

#[test]
fn a_full_queue_drops_its_oldest_or_refuses() {
    let small = MailboxLimits {
        messages_max: 5,
        ..ROOMY
    };
    let mut tested = waiting(8, small);
    assert_eq!(tested.stats.dropped[DropReason::MailboxEvicted as usize], 3);
    tested.join(9, live(9), true);
    // The read is under way while more comes: what it finds is evicted before it is taken.
    tested.publish(8..10, QoS::AtLeastOnce);
    tested.settle();
    assert_eq!(tested.owner.queued_in_groups(), 0);
    let small = MailboxLimits {
        when_full: WhenFull::Reject,
        ..small
    };
    let mut tested = waiting(8, small);
    assert_eq!(
        tested.stats.dropped[DropReason::MailboxRejected as usize],
        3
    );
    tested.presence(1, true, 0);
    tested.settle();
    assert_eq!(tested.got(1), texts(0..5));
}

#[test]
fn a_full_mailbox_of_a_member_keeps_what_it_has() {
    let small = MailboxLimits {
        messages_max: 5,
        ..ROOMY
    };
    let mut tested = waiting(5, small);
    tested.presence(1, true, 0);
    tested.settle();
    tested.presence(1, false, 0);
    tested.publish(5..10, QoS::AtLeastOnce);
    tested.settle();
    tested.presence(1, true, load_level(0, 5));
    tested.settle();
    assert_eq!(tested.got(1), texts(0..5), "its mailbox is full");
    assert_eq!(tested.owner.queued_in_groups(), 5);
    tested.presence(2, true, load_level(0, 5));
    tested.settle();
    assert_eq!(tested.got(2), texts(5..10));
}

#[test]
fn a_member_that_got_room_while_it_was_asked_is_asked_again() {
    let small = MailboxLimits {
        messages_max: 5,
        ..ROOMY
    };
    let mut tested = waiting(5, small);
    tested.presence(1, true, 0);
    tested.settle();
    tested.presence(1, false, 0);
    tested.publish(5..10, QoS::AtLeastOnce);
    tested.settle();
    tested.presence(1, true, load_level(0, 5));
    // The engine finds its mailbox full, and is told only then that it is empty.
    for sequence in 0..100 {
        tested.outbox.engine.push_back(Command::Ack {
            session: SessionId(1),
            sequence,
        });
    }
    tested.presence(1, true, 0);
    tested.settle();
    assert_eq!(tested.got(1), texts(0..10));
}

#[test]
fn a_queue_from_the_store_goes_on_if_its_group_has_members_and_ends_otherwise() {
    let mut before = waiting(4, ROOMY);
    let mut queue = None;
    let mut see = |item: Restored| {
        if let Restored::Session {
            session, mailbox, ..
        } = item
            && session.is_group_queue()
        {
            queue = Some((session, mailbox.messages));
        }
    };
    before.engine.restore(&mut see).expect("it reads");
    let (session, messages) = queue.expect("there is a queue");
    for has_members in [true, false] {
        let mut tested = Tested {
            engine: before.engine.clone(),
            batches: before.batches,
            ids: SessionIds::new(2, 0),
            ..Tested::new(ROOMY)
        };
        tested.turn(|owner, turn| owner.restore_queue(turn, session, FILTER, messages));
        if has_members {
            tested.join(1, DURABLE, false);
        }
        tested.turn(|owner, turn| owner.settle_orphans(turn));
        tested.publish(4..5, QoS::AtLeastOnce);
        tested.settle();
        assert_eq!(tested.queues_in_engine(), usize::from(has_members));
        if has_members {
            tested.presence(1, true, 0);
            tested.settle();
            assert_eq!(tested.got(1), texts(0..5));
        } else {
            assert_eq!(tested.stats.dropped[DropReason::SessionEnded as usize], 4);
        }
    }
}
