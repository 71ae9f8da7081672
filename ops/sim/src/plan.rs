//! What one seed's run is like: sizes, bounds and weights are drawn once, some weights are zero (swarm testing), so that
//! runs differ in kind and not only in order.

use gateway::engine::{MailboxLimits, WhenFull};
use gateway::limits::{Limits, SlowConsumer};

use crate::random::Random;

/// A mutation of the environment that the oracle must notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Planted {
    /// The engine loses an append and says it is stored.
    LosesAppend,
    /// The engine appends a message twice.
    DuplicatesAppend,
    /// The engine tells completions of one batch in reverse.
    ReordersCompletions,
    /// The engine does not keep the packet identifier of a QoS 2 publisher.
    ForgetsReceived,
    /// The engine answers before it commits, so a crash loses what was answered.
    AnswersBeforeCommit,
    /// The engine does not keep a PUBREC.
    ForgetsPubRec,
    /// The mesh loses a message of the control lane.
    MeshDropsControl,
    /// The mesh swaps two messages of the control lane.
    MeshReorders,
    /// A start forgets a subscription.
    RestoreForgetsSubscription,
    /// A start forgets a session's received packet identifiers.
    RestoreForgetsReceived,
    /// A start forgets a retained message.
    RestoreForgetsRetained,
    /// A start forgets the queue of a shared subscription.
    RestoreForgetsGroupQueue,
    /// The engine loses a message that it moves.
    LosesMoved,
    /// A DISCONNECT to a client gets lost before the close.
    LosesDisconnect,
    /// A core serves a partition without what is stored there.
    ServesUnread,
    /// A core handles what follows the news of a view before that news.
    HoldsNothingBack,
    /// Whoever waits for a lost owner does not ask the new one.
    AsksOnce,
    /// A mailbox takes a message again that it knows.
    IgnoresIds,
    /// The engine does what a node says that has lost its claim.
    DeposedWrites,
}

impl Planted {
    /// Those of a cluster, by name.
    pub const CLUSTER: [(Self, &'static str); 8] = [
        (Self::ServesUnread, "serves-unread"),
        (Self::HoldsNothingBack, "holds-nothing-back"),
        (Self::AsksOnce, "asks-once"),
        (Self::IgnoresIds, "ignores-ids"),
        (Self::DeposedWrites, "deposed-writes"),
        (Self::LosesAppend, "loses-append"),
        (Self::DuplicatesAppend, "duplicates-append"),
        (Self::ForgetsPubRec, "forgets-pubrec"),
    ];

    /// Those of one node, by name.
    pub const ALL: [(Self, &'static str); 14] = [
        (Self::LosesAppend, "loses-append"),
        (Self::DuplicatesAppend, "duplicates-append"),
        (Self::ReordersCompletions, "reorders-completions"),
        (Self::ForgetsReceived, "forgets-received"),
        (Self::AnswersBeforeCommit, "answers-before-commit"),
        (Self::ForgetsPubRec, "forgets-pubrec"),
        (Self::MeshDropsControl, "mesh-drops-control"),
        (Self::MeshReorders, "mesh-reorders"),
        (
            Self::RestoreForgetsSubscription,
            "restore-forgets-subscription",
        ),
        (Self::RestoreForgetsReceived, "restore-forgets-received"),
        (Self::RestoreForgetsRetained, "restore-forgets-retained"),
        (
            Self::RestoreForgetsGroupQueue,
            "restore-forgets-group-queue",
        ),
        (Self::LosesMoved, "loses-moved"),
        (Self::LosesDisconnect, "loses-disconnect"),
    ];
}

/// What a caller asks of a run.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Everything follows from it.
    pub seed: u64,
    /// Steps with faults.
    pub steps: u64,
    /// Nodes; 1 is one node alone.
    pub nodes: u16,
    /// Cores of each; `None` = drawn.
    pub cores: Option<u16>,
    /// In a cluster: numbers of views are left out, and some views do not reach some cores.
    pub jumps: bool,
    /// Keep the notes of every step.
    pub verbose: bool,
    /// The bug to plant.
    pub planted: Option<Planted>,
    /// Kinds of happenings to leave out, by name, to look past a known bug.
    pub without: Without,
}

/// Kinds of happenings that are left out.
#[derive(Clone, Copy, Debug, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "a set of switches on the command line"
)]
pub struct Without {
    /// No crash of the node.
    pub crashes: bool,
    /// No message expiry.
    pub expiry: bool,
    /// No small mailboxes.
    pub small_mailboxes: bool,
    /// No failing engine.
    pub engine_faults: bool,
    /// No session that expires during the run.
    pub short_sessions: bool,
    /// No keep-alive.
    pub keep_alive: bool,
    /// No wills.
    pub wills: bool,
    /// No retained messages.
    pub retained: bool,
    /// No shared subscriptions.
    pub shared: bool,
    /// No complaint about a CONNACK with 0x8E.
    pub connack: bool,
    /// No node that stands still.
    pub pauses: bool,
    /// No node that is cut off.
    pub cuts: bool,
    /// No link that stands still.
    pub clogs: bool,
    /// No node that leaves.
    pub leaves: bool,
    /// No view without another reason.
    pub views: bool,
}

/// Weights of what happens in a step.
#[derive(Clone, Copy, Debug)]
pub struct Weights {
    pub(crate) turn: u32,
    pub(crate) network: u32,
    pub(crate) engine: u32,
    pub(crate) client: u32,
    pub(crate) fault: u32,
    pub(crate) time: u32,
}

/// Weights of what goes wrong in a cluster.
#[derive(Clone, Copy, Debug, Default)]
pub struct Troubles {
    pub(crate) crash: u32,
    pub(crate) pause: u32,
    pub(crate) cut: u32,
    pub(crate) clog: u32,
    pub(crate) leave: u32,
    pub(crate) view: u32,
    pub(crate) engine: u32,
    pub(crate) freeze: u32,
}

/// Weights of what a client does.
#[derive(Clone, Copy, Debug)]
pub struct Deeds {
    pub(crate) publish: u32,
    pub(crate) subscribe: u32,
    pub(crate) unsubscribe: u32,
    pub(crate) acknowledge: u32,
    pub(crate) cut: u32,
    pub(crate) disconnect: u32,
    pub(crate) takeover: u32,
    pub(crate) slow: u32,
    pub(crate) silent: u32,
}

/// One seed's run.
#[derive(Clone, Debug)]
pub struct Plan {
    pub(crate) nodes: u16,
    /// Of each node.
    pub(crate) cores: u16,
    pub(crate) clients: usize,
    pub(crate) limits: Limits,
    pub(crate) mailbox: MailboxLimits,
    pub(crate) weights: Weights,
    pub(crate) deeds: Deeds,
    /// Messages of one lane between two cores; more wait in the outbox.
    pub(crate) mesh_slots: usize,
    pub(crate) lossy_backlog: usize,
    pub(crate) engine_slots: usize,
    pub(crate) congested_from: usize,
    pub(crate) durable_percent: u32,
    pub(crate) version5_percent: u32,
    pub(crate) clean_percent: u32,
    pub(crate) retain_percent: u32,
    pub(crate) expiry_percent: u32,
    pub(crate) will_percent: u32,
    pub(crate) shared_percent: u32,
    pub(crate) keep_alive_percent: u32,
    pub(crate) short_session_percent: u32,
    pub(crate) refuse_percent: u32,
    pub(crate) crash_percent: u32,
    pub(crate) engine_fault_percent: u32,
    pub(crate) unordered_acks: bool,
    pub(crate) topics: usize,
    pub(crate) tolerates_connack: bool,
    /// Whether some views do not reach a core.
    pub(crate) jumps: bool,
    /// The shared subscriptions of a run in which clients have no others. No two of them match one topic, so what one of them
    /// got can be told. Empty in other runs.
    pub(crate) work_queues: &'static [&'static str],
    /// Of a cluster.
    pub(crate) troubles: Troubles,
}

/// See [`Plan::work_queues`]: on one core, and on all of them.
const WORK_QUEUES: [&[&str]; 2] = [
    &[
        "$share/one/a/b/#",
        "$share/one/g/1/m/+",
        "$share/two/u/c0/in",
    ],
    &["$share/two/#"],
];

impl Plan {
    /// True when clients share their subscriptions and work is waiting for them.
    pub(crate) fn is_work_queue(&self) -> bool {
        !self.work_queues.is_empty()
    }

    /// True when nothing that clients do may void what is owed to a shared subscription.
    pub(crate) fn keeps_what_is_owed(&self) -> bool {
        self.is_work_queue() && self.durable_percent == 100
    }

    /// Draws a run.
    pub fn draw(options: &Options) -> Self {
        let random = &mut Random::new(options.seed, "plan");
        let without = options.without;
        let small_mailboxes = random.percent(20) && !without.small_mailboxes;
        let some = |random: &mut Random, percent: u32| if random.percent(60) { percent } else { 0 };
        let some_unless =
            |random: &mut Random, off: bool, percent: u32| some(random, percent) * u32::from(!off);
        let limits = limits(random);
        let when_full = if random.percent(60) {
            WhenFull::DropOldest
        } else {
            WhenFull::Reject
        };
        // A 3.1.1 client whose publish is refused is disconnected, sends it again, and so on without end.
        let refuses = (small_mailboxes && when_full == WhenFull::Reject)
            || limits.retained_messages_max < 100;
        let version5_percent = if refuses {
            100
        } else {
            *random.pick(&[0, 50, 100])
        };
        let plan = Self {
            nodes: options.nodes,
            cores: options.cores.unwrap_or_else(|| random.between(1, 5) as u16),
            clients: random.between(2, 8) as usize,
            limits,
            mailbox: MailboxLimits {
                messages_max: if small_mailboxes {
                    random.between(2, 12)
                } else {
                    100_000
                },
                bytes_max: u64::MAX,
                when_full,
            },
            weights: Weights {
                turn: 30,
                network: 30,
                engine: random.between(2, 20) as u32,
                client: 20,
                fault: some(random, 1),
                time: 6,
            },
            deeds: deeds(random),
            mesh_slots: *random.pick(&[1, 4, 64, 4096]),
            lossy_backlog: *random.pick(&[2, 1024, 1024]),
            engine_slots: *random.pick(&[2, 64, 4096]),
            congested_from: *random.pick(&[4, 64, 1024]),
            durable_percent: *random.pick(&[0, 50, 80, 100]),
            version5_percent,
            clean_percent: *random.pick(&[0, 10, 40]),
            retain_percent: some_unless(random, without.retained, 15),
            expiry_percent: some_unless(random, without.expiry, 20),
            will_percent: some_unless(random, without.wills, 30),
            shared_percent: some_unless(random, without.shared, 25),
            keep_alive_percent: some_unless(random, without.keep_alive, 40),
            short_session_percent: some_unless(random, without.short_sessions, 40),
            refuse_percent: some(random, 3),
            crash_percent: some_unless(random, without.crashes, 40),
            engine_fault_percent: some_unless(random, without.engine_faults, 40),
            unordered_acks: random.percent(40),
            topics: random.between(1, 10) as usize,
            tolerates_connack: without.connack,
            jumps: options.jumps,
            work_queues: &[],
            troubles: Troubles::default(),
        };
        plan.perhaps_a_work_queue(options)
            .perhaps_in_cluster(options)
    }

    fn perhaps_a_work_queue(self, options: &Options) -> Self {
        // Of its own, so that the other seeds stay what they are.
        let random = &mut Random::new(options.seed, "work queue");
        if random.percent(15) && !options.without.shared {
            let work_queues = WORK_QUEUES[random.below(WORK_QUEUES.len())];
            self.work_queue(work_queues, if random.percent(50) { 100 } else { 60 })
        } else {
            self
        }
    }

    /// What is different in a cluster: the claims of all partitions must get through, and what goes wrong is another.
    fn perhaps_in_cluster(self, options: &Options) -> Self {
        if options.nodes == 1 {
            return self;
        }
        let random = &mut Random::new(options.seed, "cluster");
        let without = options.without;
        let mut some = |off: bool, weight: u32| {
            if random.percent(60) && !off {
                weight
            } else {
                0
            }
        };
        let troubles = Troubles {
            crash: some(without.crashes, 8),
            pause: some(without.pauses, 6),
            cut: some(without.cuts, 6),
            clog: some(without.clogs, 10),
            leave: some(without.leaves, 6),
            view: some(without.views, 10),
            engine: some(without.engine_faults, 6),
            freeze: some(false, 10),
        };
        Self {
            cores: options.cores.unwrap_or_else(|| random.between(1, 3) as u16),
            limits: Limits {
                retained_messages_max: 1_000_000,
                ..self.limits
            },
            weights: Weights {
                turn: 45,
                client: 30,
                engine: random.between(6, 24) as u32,
                fault: *random.pick(&[0, 1, 1, 3]),
                ..self.weights
            },
            mesh_slots: *random.pick(&[4, 64, 4096]),
            engine_slots: *random.pick(&[64, 4096]),
            troubles,
            ..self
        }
    }

    /// Workers that share their subscriptions, stay in their groups, and are often away: what they are owed waits in the queues
    /// of the groups. If all of them are durable, nothing that they do voids what is owed.
    fn work_queue(self, work_queues: &'static [&'static str], durable_percent: u32) -> Self {
        Self {
            shared_percent: 100,
            durable_percent,
            clean_percent: 0,
            short_session_percent: 0,
            refuse_percent: 0,
            work_queues,
            deeds: Deeds {
                unsubscribe: 0,
                takeover: 0,
                cut: 4,
                disconnect: 4,
                ..self.deeds
            },
            ..self
        }
    }
}

fn deeds(random: &mut Random) -> Deeds {
    let mut some = |weight: u32| if random.percent(75) { weight } else { 0 };
    Deeds {
        publish: 30,
        subscribe: 6,
        unsubscribe: some(3),
        acknowledge: 40,
        cut: some(2),
        disconnect: some(2),
        takeover: some(2),
        slow: some(2),
        silent: some(1),
    }
}

fn limits(random: &mut Random) -> Limits {
    Limits {
        processing_max: *random.pick(&[1, 4, 128]),
        receive_maximum: *random.pick(&[2, 10, 1024]),
        inflight_max: *random.pick(&[1, 3, 128]),
        outbound_topic_aliases_max: *random.pick(&[0, 2, 16]),
        // A page of 32 retained messages must fit.
        session_queue_messages_max: *random.pick(&[40, 1000, 1000]),
        slow_consumer: if random.percent(50) {
            SlowConsumer::Disconnect
        } else {
            SlowConsumer::Drop
        },
        unsent_bytes_max: *random.pick(&[64, 512, 64 * 1024]),
        pending_bytes_max: *random.pick(&[200, 1000, 64 * 1024 * 1024]),
        mailbox_window_messages: *random.pick(&[1, 4, 256]),
        mailbox_window_bytes: *random.pick(&[300, 512 * 1024]),
        retained_messages_max: *random.pick(&[2, 1_000_000]),
        linger_ms: 2_000,
        ..Limits::default()
    }
}
