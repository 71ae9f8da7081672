//! When a publish is delivered and when it is answered: an owner, and an engine that has not committed yet.

use edge_proto::packet::SubscriptionOptions;
use edge_proto::topic::RootDepths;
use reactor::driver::ConnectionId;
use reactor::wheel::Wheel;

use super::*;
use crate::access::policy::Policy;
use crate::core_message::{Presence, Subscriber};
use crate::engine::claim::MessageId;
use crate::limits::Limits;
use crate::message::MessageParts;
use crate::outbox::Outbox;
use crate::ownership::Ownership;
use crate::turn::{Congestion, Facts, Now, SessionIds, Stats, Timer, Unanswered};

/// An owner that can have turns.
struct Tested {
    owner: Owner,
    outbox: Outbox,
    facts: Facts,
    policy: Arc<Policy>,
    ownership: Arc<Ownership>,
    stats: Stats,
    timers: Wheel<Timer>,
    ids: SessionIds,
    unanswered: Unanswered,
}

impl Tested {
    fn new() -> Self {
        Self {
            owner: Owner::new(1),
            outbox: Outbox::new(0, 0..1),
            facts: Facts {
                core: 0,
                limits: Limits::default(),
                root_depths: RootDepths::default(),
                websocket_path: "/".into(),
                seed: 1,
            },
            policy: Arc::new(Policy::open()),
            ownership: Arc::new(Ownership::alone(1)),
            stats: Stats::default(),
            timers: Wheel::new(0),
            ids: SessionIds::new(1, 0),
            unanswered: Unanswered::default(),
        }
    }

    fn turn(&mut self, act: impl FnOnce(&mut Owner, &mut Turn<'_>)) {
        let mut turn = Turn {
            now: Now::default(),
            outbox: &mut self.outbox,
            facts: &self.facts,
            policy: &self.policy,
            ownership: &self.ownership,
            stats: &mut self.stats,
            timers: &mut self.timers,
            ids: &mut self.ids,
            unanswered: &mut self.unanswered,
            congestion: Congestion::default(),
        };
        act(&mut self.owner, &mut turn);
    }

    fn subscribe(&mut self, session: u64, target: Target, qos: QoS) {
        let granted = SubscriptionRecord {
            options: SubscriptionOptions::from_qos(qos),
            subscription_id: 0,
        };
        let request = SubscribeRequest {
            filter: "a/b".into(),
            subscriber: Subscriber::new(SessionId(session), target, granted),
            presence: Presence {
                connected: true,
                load: 0,
            },
            reply: None,
        };
        self.turn(|owner, turn| owner.subscribe(turn, request));
    }

    /// What the owner has said since it was last asked.
    fn said(&mut self) -> Vec<CoreMessage> {
        self.outbox.local.drain(..).collect()
    }
}

#[test]
fn live_clients_do_not_wait_for_the_commit_and_the_publisher_does() {
    let connection = ConnectionId {
        slot: 1,
        generation: 1,
    };
    let mut tested = Tested::new();
    let live = Target::Live {
        core: 0,
        connection,
    };
    tested.subscribe(1, live, QoS::AtLeastOnce);
    tested.subscribe(2, Target::Home { partition: 0 }, QoS::AtLeastOnce);
    tested.subscribe(3, Target::Home { partition: 0 }, QoS::AtMostOnce);
    let message = Arc::new(Message::new(MessageParts {
        topic: "a/b",
        properties: &[],
        payload: b"x",
        qos: QoS::ExactlyOnce,
        retain: false,
        expires_at_unix_ms: u64::MAX,
        publisher: SessionId(9),
    }));
    let origin = Origin::Client {
        core: 0,
        connection,
        packet_id: 1,
        bytes: 1,
    };
    let request = PublishRequest {
        message,
        origin,
        may_refuse: true,
        received: Some((SessionId(9), 1)),
        id: MessageId::NONE,
        retry: false,
    };
    tested.turn(|owner, turn| owner.publish(turn, request));
    let said = tested.said();
    let [
        CoreMessage::Deliver(deliver),
        CoreMessage::DeliverHome(home),
    ] = &said[..]
    else {
        panic!("both live deliveries leave at once: {said:?}");
    };
    assert_eq!((deliver.recipients.len(), home.recipients.len()), (1, 1));
    let publish = deliver.answer.expect("the owner counts it").publish;
    assert_eq!(tested.outbox.engine.len(), 1, "the commit is asked for");
    tested.turn(|owner, turn| owner.answered(turn, publish, false));
    assert!(tested.said().is_empty(), "the engine has not answered");
    tested.turn(|owner, turn| owner.answered(turn, publish, false));
    assert!(matches!(
        tested.said()[..],
        [CoreMessage::PublishDone {
            reason: ReasonCode::Success,
            recipients: 3,
            ..
        }]
    ));
}
