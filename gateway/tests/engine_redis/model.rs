//! Two nodes on one store do what the model does when two nodes act on it.

use std::collections::{BTreeMap, BTreeSet};

use edge_proto::topic::RootDepths;
use gateway::engine::claim::{ClaimOutcome, MessageId, partition_of_filter};
use gateway::engine::memory::Memory;
use gateway::engine::redis::options::{ConnectOptions, RedisOptions};
use gateway::engine::{Command, Completion, Engine, MailboxLimits, WhenFull};
use gateway::message::SessionId;
use proptest::prelude::*;

use crate::engine_support::{Generator, Rng, SESSIONS, limits};
use crate::servers::Server;
use crate::shown::show;
use crate::support::{Node, Proxy, UNIX_MS, claim, home, name, read};

/// Filters of the commands: with a root, shared, and broad.
const FILTERS: [&str; 5] = ["x/y", "x/y/+", "$share/g/x/y", "#", "ü/ä/#"];

/// One step of a run.
#[derive(Clone, Debug)]
enum Step {
    /// A batch of the commands that these words stand for, by the node of this number.
    Batch(u64, Vec<u64>),
    /// A node claims a few partitions.
    Claim(u64, Vec<u64>),
    /// A node ends and starts again as another.
    Restart(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let words = |most| proptest::collection::vec(any::<u64>(), 1..most);
    prop_oneof![
        10 => (0..2u64, words(20)).prop_map(|(node, words)| Step::Batch(node, words)),
        4 => (0..2u64, words(6)).prop_map(|(node, words)| Step::Claim(node, words)),
        1 => (0..2u64).prop_map(Step::Restart),
    ]
}

/// What sequences of the store stand for those of the model: both rise in every mailbox.
#[derive(Default)]
struct Sequences {
    to_store: BTreeMap<(SessionId, u64), u64>,
    to_model: BTreeMap<(SessionId, u64), u64>,
}

impl Sequences {
    fn pair(&mut self, session: SessionId, model: u64, store: u64) {
        let newest = self.to_model.range((session, 0)..=(session, u64::MAX));
        let newest = newest.map(|((_, store), _)| *store).next_back();
        assert!(
            newest.is_none_or(|newest| newest < store),
            "{session:?}: {store} was used"
        );
        self.to_store.insert((session, model), store);
        self.to_model.insert((session, store), model);
    }

    fn model(&self, session: SessionId, store: u64) -> u64 {
        *self
            .to_model
            .get(&(session, store))
            .unwrap_or_else(|| panic!("{session:?}: nobody has seen {store}"))
    }
}

/// Both stores, and what a test has to know in order to ask what both can answer: a node cannot tell whether a session exists that it has
/// never seen, nor whether one that it has lost still does.
struct World {
    model: Memory,
    nodes: Vec<(u64, Node)>,
    options: RedisOptions,
    proxy: Option<Proxy>,
    generator: Generator,
    sequences: Sequences,
    model_batch: u64,
    epoch: u64,
    started: u64,
    exists: BTreeSet<SessionId>,
    writers: BTreeMap<u16, u64>,
    known: BTreeMap<u64, BTreeSet<SessionId>>,
    /// Sessions that a node tried to make in a partition that it had lost: it takes them for lost ones until it claims it again.
    unsure: BTreeSet<(u64, SessionId)>,
    ids: u64,
}

impl World {
    fn new(options: RedisOptions, proxy: Option<Proxy>) -> Self {
        let mut world = Self {
            model: Memory::new(options.mailbox_limits, UNIX_MS),
            nodes: Vec::new(),
            options,
            proxy,
            generator: Generator::default(),
            sequences: Sequences::default(),
            model_batch: 0,
            epoch: 1,
            started: 0,
            exists: BTreeSet::new(),
            writers: BTreeMap::new(),
            known: BTreeMap::new(),
            unsure: BTreeSet::new(),
            ids: 0,
        };
        for _ in 0..2 {
            let node = world.start();
            world.nodes.push(node);
        }
        world
    }

    fn start(&mut self) -> (u64, Node) {
        self.started += 1;
        if let Some(proxy) = &self.proxy {
            proxy.cut_after(-1);
        }
        let mut options = self.options.clone();
        options.node = self.started;
        (self.started, Node::open(options))
    }

    fn run(&mut self, step: &Step) {
        match step {
            Step::Batch(node, words) => {
                let id = self.nodes[*node as usize].0;
                let commands: Vec<_> = words
                    .iter()
                    .filter_map(|&word| self.command(id, word))
                    .collect();
                self.compare(*node as usize, &commands);
            }
            Step::Claim(node, words) => {
                let commands: Vec<_> = words.iter().map(|&word| (0, self.claim(word))).collect();
                self.compare(*node as usize, &commands);
            }
            Step::Restart(node) => {
                let started = self.start();
                self.nodes[*node as usize] = started;
            }
        }
    }

    fn claim(&mut self, word: u64) -> Command {
        let mut rng = Rng(word);
        let all = partitions();
        let partition = all[rng.below(all.len() as u64) as usize];
        self.epoch += rng.below(2);
        // Sometimes an older one, which is lost.
        let epoch = self.epoch - u64::from(rng.chance(10)).min(self.epoch);
        claim(partition, epoch)
    }

    /// The command that a word stands for, as far as both stores can be expected to agree about it.
    fn command(&mut self, node: u64, word: u64) -> Option<(u16, Command)> {
        let mut rng = Rng(!word);
        let (core, mut command) = self.generator.command(word);
        let filter_of = |rng: &mut Rng| FILTERS[rng.below(5) as usize].into();
        match &mut command {
            Command::PutSession {
                session, record, ..
            } => {
                record.client_id = name(*session).into();
                record.user = None;
            }
            Command::Subscribe { filter, .. } | Command::Unsubscribe { filter, .. } => {
                *filter = filter_of(&mut rng);
            }
            Command::Publish {
                id,
                retry,
                appends,
                received,
                ..
            } => {
                self.ids += 1;
                *retry = rng.chance(30);
                let number = self.ids
                    - if *retry {
                        rng.below(90).min(self.ids - 1)
                    } else {
                        0
                    };
                if rng.chance(90) {
                    *id = MessageId { origin: 7, number };
                }
                appends.retain(|append| self.can_name(node, append.session));
                *received = received.filter(|(session, _)| self.can_name(node, *session));
            }
            Command::Release {
                token,
                session,
                packet_id,
            } if rng.chance(50) => {
                let (token, session, packet_id) = (*token, *session, *packet_id);
                let message = MessageId {
                    origin: 8,
                    number: rng.below(9),
                };
                command = Command::Receive {
                    token,
                    session,
                    received: gateway::engine::claim::ReceivedId { packet_id, message },
                };
            }
            _ => {}
        }
        let named = named(&command);
        if !named.iter().all(|&session| self.can_name(node, session)) {
            return None;
        }
        self.note(node, &command);
        Some((core, command))
    }

    fn holds(&self, node: u64, session: SessionId) -> bool {
        self.writers.get(&home(session)) == Some(&node)
    }

    fn can_name(&self, node: u64, session: SessionId) -> bool {
        if self.unsure.contains(&(node, session)) {
            return false;
        }
        let is_known = self
            .known
            .get(&node)
            .is_some_and(|known| known.contains(&session));
        self.holds(node, session) || self.exists.contains(&session) == is_known
    }

    /// What a command does to what exists.
    fn note(&mut self, node: u64, command: &Command) {
        match command {
            Command::PutSession { session, .. } if self.holds(node, *session) => {
                self.exists.insert(*session);
                self.known.entry(node).or_default().insert(*session);
            }
            Command::PutSession { session, .. } => {
                self.unsure.insert((node, *session));
            }
            Command::DeleteSession { session, .. } if self.holds(node, *session) => {
                self.exists.remove(session);
                self.known.entry(node).or_default().remove(session);
            }
            _ => {}
        }
    }

    /// One batch on both stores.
    fn compare(&mut self, node: usize, commands: &[(u16, Command)]) {
        let (id, store) = &mut self.nodes[node];
        let id = *id;
        let mut expected = Vec::new();
        let (commands, translated): (Vec<_>, Vec<_>) = commands
            .iter()
            .map(|(core, command)| {
                let (model, store) = self.sequences.translate(command);
                ((*core, model), (*core, store))
            })
            .unzip();
        self.model.act_as(id);
        self.model_batch += 1;
        self.model
            .commit(self.model_batch, UNIX_MS, &commands, &mut expected)
            .expect("commits");
        if let Some(proxy) = &self.proxy {
            proxy.cut_after((self.model_batch * 331 % 1_709) as i64);
        }
        let found = store.commit(&translated);
        self.generator.observe(&expected);
        pair_appended(&mut self.sequences, &expected, &found);
        let expected_text = show(&expected, |_, sequence| sequence);
        let found_text = show(&found, |session, store| {
            self.sequences.model(session, store)
        });
        let mut lines = found_text.lines().zip(expected_text.lines());
        let difference = lines.find(|(found, expected)| found != expected);
        assert!(difference.is_none(), "node {id}: {difference:?}");
        assert_eq!(found_text.len(), expected_text.len(), "node {id}");
        for (_, completion) in &expected {
            if let Completion::Claimed {
                partition,
                outcome: ClaimOutcome::Held,
                ..
            } = completion
            {
                self.writers.insert(*partition, id);
                self.unsure
                    .retain(|(node, session)| *node != id || home(*session) != *partition);
                let known = self.known.entry(id).or_default();
                known.retain(|session| home(*session) != *partition);
                let here = self
                    .exists
                    .iter()
                    .filter(|session| home(**session) == *partition);
                known.extend(here);
            }
        }
    }

    /// A third node claims everything and reads everything.
    fn finish(mut self) {
        let node = self.start();
        self.nodes.push(node);
        self.epoch += 1;
        let claims: Vec<_> = partitions()
            .into_iter()
            .map(|partition| (0, claim(partition, self.epoch)))
            .collect();
        self.compare(2, &claims);
        let reads: Vec<_> = (1..=SESSIONS)
            .map(|session| (0, read(SessionId(session))))
            .collect();
        self.compare(2, &reads);
    }
}

impl Sequences {
    /// The command for the model and the one for the store. A sequence that nobody has seen stands for none in both.
    fn translate(&self, command: &Command) -> (Command, Command) {
        const NONE: u64 = u64::MAX;
        let (mut first, mut second) = (command.clone(), command.clone());
        match (&mut first, &mut second) {
            (
                Command::Ack { session, sequence },
                Command::Ack {
                    sequence: store, ..
                },
            )
            | (
                Command::PubRec {
                    session, sequence, ..
                },
                Command::PubRec {
                    sequence: store, ..
                },
            ) => {
                let known = self.to_store.get(&(*session, *sequence)).copied();
                (*sequence, *store) = known.map_or((NONE, NONE), |known| (*sequence, known));
            }
            (
                Command::ReadMailbox { session, from, .. },
                Command::ReadMailbox { from: store, .. },
            ) => {
                let mut later = self.to_store.range((*session, *from)..=(*session, NONE));
                let known = later.next();
                (*from, *store) = known.map_or((NONE, NONE), |((_, from), store)| (*from, *store));
            }
            _ => {}
        }
        (first, second)
    }
}

/// The sessions that a command is about, those of a publish left out.
fn named(command: &Command) -> Vec<SessionId> {
    match command {
        Command::Publish { .. } => Vec::new(),
        Command::Move { from, to, .. } => vec![*from, *to],
        Command::PutSession { session, .. }
        | Command::DeleteSession { session, .. }
        | Command::Subscribe { session, .. }
        | Command::Unsubscribe { session, .. }
        | Command::Receive { session, .. }
        | Command::Release { session, .. }
        | Command::Ack { session, .. }
        | Command::PubRec { session, .. }
        | Command::ReadMailbox { session, .. }
        | Command::ListSubscriptions { session, .. } => vec![*session],
        Command::Claim { .. } => Vec::new(),
    }
}

/// Partitions that something can be in.
fn partitions() -> Vec<u16> {
    let depths = RootDepths::default();
    let sessions = (1..=SESSIONS).map(|session| home(SessionId(session)));
    let topics = (0..4).map(|topic| cluster::partition::partition_of(&format!("t/{topic}")));
    let filters = FILTERS
        .iter()
        .filter_map(|filter| partition_of_filter(&depths, filter));
    let all: BTreeSet<_> = sessions.chain(topics).chain(filters).collect();
    all.into_iter().collect()
}

fn pair_appended(
    sequences: &mut Sequences,
    expected: &[(u16, Completion)],
    found: &[(u16, Completion)],
) {
    let appended = |answers: &[(u16, Completion)]| -> Vec<(SessionId, u64)> {
        let sequence = |(_, answer): &(u16, Completion)| match answer {
            Completion::Appended {
                session, sequence, ..
            } => Some((*session, *sequence)),
            _ => None,
        };
        answers.iter().filter_map(sequence).collect()
    };
    for ((session, model), (other, store)) in appended(expected).into_iter().zip(appended(found)) {
        if session == other {
            sequences.pair(session, model, store);
        }
    }
}

fn options(connect: ConnectOptions, mailbox_limits: MailboxLimits, run: &str) -> RedisOptions {
    let mut options = RedisOptions::new(connect, 0, mailbox_limits);
    options.prefix = format!("test-{run}").into();
    options.page_bytes_max = 200;
    options.pipeline_bytes_max = 2_000;
    options
}

fn check(steps: &[Step], options: RedisOptions, proxy: Option<Proxy>) {
    let mut world = World::new(options, proxy);
    // Otherwise little of what follows is allowed.
    for (index, partition) in partitions().into_iter().enumerate() {
        world.compare(index % 2, &[(0, claim(partition, 1))]);
    }
    steps.iter().for_each(|step| world.run(step));
    world.finish();
}

#[test]
fn two_nodes_equal_the_model() {
    let server = Server::start(&[]);
    let runs = std::sync::atomic::AtomicU64::new(0);
    let config = ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(96)
    };
    proptest!(config, |(steps in proptest::collection::vec(step(), 1..40), drop in any::<bool>())| {
        let run = runs.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let full = if drop { WhenFull::DropOldest } else { WhenFull::Reject };
        check(&steps, options(server.options(), limits(full), &run.to_string()), None);
    });
}

fn long_run(seed: u64, batches: u64) -> Vec<Step> {
    let mut rng = Rng(seed);
    (0..batches)
        .map(|_| {
            let node = rng.below(2);
            let words = (0..=rng.below(25)).map(|_| rng.word()).collect();
            match rng.below(40) {
                0 => Step::Restart(node),
                1..=6 => Step::Claim(node, words),
                _ => Step::Batch(node, words),
            }
        })
        .collect()
}

fn generous() -> MailboxLimits {
    MailboxLimits {
        messages_max: 60,
        bytes_max: 20_000,
        when_full: WhenFull::DropOldest,
    }
}

#[test]
fn two_nodes_equal_the_model_in_long_runs_on_a_cluster() {
    let servers = crate::servers::cluster(&[]);
    let connect = servers[1].options();
    for seed in 0..4 {
        let options = options(connect.clone(), generous(), &seed.to_string());
        check(&long_run(seed, 300), options, None);
    }
}

#[test]
fn connections_that_break_change_nothing() {
    let server = Server::start(&[]);
    let url = |port| ConnectOptions::from_urls(&[format!("redis://127.0.0.1:{port}")]);
    for seed in 10..13 {
        let proxy = Proxy::start(server.port);
        let connect = url(proxy.port).expect("a URL");
        let options = options(connect, generous(), &seed.to_string());
        check(&long_run(seed, 300), options, Some(proxy));
    }
}
