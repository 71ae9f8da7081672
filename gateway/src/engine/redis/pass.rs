//! Takes a plan to the servers, step by step; what failed is taken up at its step.
//!
//! The order of the steps is what makes a crash between them harmless. Reads come before any change, since a change may remove what is
//! read. Appends come before what says that a message need not be sent again, and before its copy elsewhere is removed. Routes come
//! after their subscriptions, which tell whether this node may write them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use redis::Value;

use crate::engine::redis::changes::Script;
use crate::engine::redis::load::{Claim, Pages, other_writer, unreadable};
use crate::engine::redis::options::Policy;
use crate::engine::redis::plan::{Change, Destination, Plan, Read};
use crate::engine::redis::server::{Request, ServersError, mark_all_again};
use crate::engine::redis::{APPLY, READ, Redis, records};
use crate::engine::{Completion, Delivery};
use crate::message::{Message, SessionId};

/// Fields of one mailbox that one command reads: scripts have a limit of their own.
const FIELDS_AT_ONCE: usize = 1_000;

/// Who may write a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Writer {
    pub(super) epoch: u64,
    pub(super) node: u64,
}

impl fmt::Display for Writer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}", self.epoch, self.node)
    }
}

/// Reads what [`Writer`] shows.
pub(super) fn read_writer(text: &str) -> Option<Writer> {
    let (epoch, node) = text.split_once(':')?;
    Some(Writer {
        epoch: epoch.parse().ok()?,
        node: node.parse().ok()?,
    })
}

/// Why a pass did not come to its end.
#[derive(Debug, thiserror::Error)]
pub(super) enum PassError {
    #[error(transparent)]
    Servers(#[from] ServersError),
    /// A server has forgotten a claim; it was claimed again.
    #[error(
        "a server has lost the claim on partition {0}, and maybe more: it went back to an earlier state, as after a failover without a replica that had everything. It is claimed again"
    )]
    Rewound(u16),
}

/// The steps, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Read,
    First,
    Routes,
    Second,
    Done,
}

/// A plan on its way.
#[derive(Debug)]
pub(super) struct Pass {
    plan: Plan,
    step: Step,
    /// True exactly when the step was begun before.
    again: bool,
    /// Partitions that turned out to be another node's.
    lost: BTreeSet<u16>,
    /// Partitions whose mirror is to be read anew: a server went back, or a move was stopped half way.
    reload: BTreeSet<u16>,
    /// Partitions whose fence was checked.
    checked: BTreeSet<u16>,
    /// Answers that are not given: those of messages that were not there to be moved.
    unanswered: BTreeSet<usize>,
    /// Entries of pages that were not there: (answer, entry).
    missing: BTreeSet<(usize, usize)>,
}

impl Pass {
    pub(super) fn new(plan: Plan) -> Self {
        Self {
            plan,
            step: Step::Read,
            again: false,
            lost: BTreeSet::new(),
            reload: BTreeSet::new(),
            checked: BTreeSet::new(),
            unanswered: BTreeSet::new(),
            missing: BTreeSet::new(),
        }
    }

    /// The answers: those that depend on a partition that was lost say so, or are left out.
    fn answers(self) -> impl Iterator<Item = (u16, Completion)> {
        let Self {
            mut plan,
            lost,
            unanswered,
            ..
        } = self;
        let answers = std::mem::take(&mut plan.answers);
        let answers = answers.into_iter().enumerate();
        answers.filter_map(move |(index, answer)| {
            let is_lost = plan
                .depends(&answer)
                .iter()
                .any(|partition| lost.contains(partition));
            let completion = match (is_lost, answer.token) {
                (false, _) if unanswered.contains(&index) => return None,
                (false, _) => answer.completion,
                (true, Some(token)) => Completion::Deposed { token },
                (true, None) => return None,
            };
            Some((answer.core, completion))
        })
    }
}

impl Redis {
    /// Goes on with a pass until its end.
    pub(super) fn run(&mut self, pass: &mut Pass) -> Result<(), PassError> {
        while pass.step != Step::Done {
            let again = std::mem::replace(&mut pass.again, true);
            pass.step = match pass.step {
                Step::Read => {
                    self.read(pass, again)?;
                    Step::First
                }
                Step::First => {
                    self.first(pass, again)?;
                    Step::Routes
                }
                Step::Routes => {
                    self.routes(pass)?;
                    Step::Second
                }
                Step::Second | Step::Done => {
                    self.second(pass, again)?;
                    Step::Done
                }
            };
            pass.again = false;
        }
        while let Some(&partition) = pass.reload.first() {
            self.reload(partition)?;
            pass.reload.remove(&partition);
        }
        self.mirror.settle();
        Ok(())
    }

    /// The answers of a pass that came to its end.
    pub(super) fn finish(pass: Pass, answers: &mut Vec<(u16, Completion)>) {
        answers.extend(pass.answers());
    }

    /// What a batch waits for.
    fn policy(&mut self, plan: &Plan) -> Policy {
        if plan.promises {
            return self.options.policy;
        }
        self.unconfirmed = true;
        Policy::Memory
    }

    fn read(&mut self, pass: &mut Pass, again: bool) -> Result<(), PassError> {
        if pass.plan.reads.is_empty() && pass.plan.marks.is_empty() {
            return Ok(());
        }
        let policy = if pass.plan.marks.is_empty() {
            Policy::Memory
        } else {
            self.options.policy
        };
        self.apply(&pass.plan.marks.clone(), policy, again, pass)?;
        let (mut partitions, mut requests) = (Vec::new(), Vec::new());
        for (&partition, reads) in &pass.plan.reads {
            let Some(writer) = self
                .writer(partition)
                .filter(|_| !pass.lost.contains(&partition))
            else {
                continue;
            };
            let script = self.read_script(partition, reads);
            let fence = self.keys.fence(partition);
            requests.push(script.query(&self.hashes[READ], partition, &fence, &writer.to_string()));
            partitions.push(partition);
        }
        let replies = self.servers.call_many(&mut requests, Policy::Memory)?;
        let mut found = BTreeMap::new();
        for (partition, reply) in partitions.into_iter().zip(replies) {
            match reply {
                Value::Array(lists) => {
                    let values = lists.into_iter().flat_map(|list| match list {
                        Value::Array(values) => values,
                        _ => Vec::new(),
                    });
                    found.insert(partition, values.collect::<Vec<_>>());
                    pass.checked.insert(partition);
                }
                reply => self.refused(partition, &reply, pass)?,
            }
        }
        let reads = std::mem::take(&mut pass.plan.reads);
        for (partition, reads) in reads {
            let values = found.remove(&partition).unwrap_or_default();
            let mut values = values.into_iter();
            for read in reads {
                let content = match values.next() {
                    Some(Value::BulkString(stored)) => Some(
                        records::content(&stored)
                            .ok_or_else(|| unreadable("a message", &Value::Nil))?,
                    ),
                    _ => None,
                };
                self.place(read, content, pass);
            }
        }
        // From behind, so that the places of the others stay.
        while let Some((answer, entry)) = pass.missing.pop_last() {
            if let Completion::MailboxPage { entries, .. } =
                &mut pass.plan.answers[answer].completion
            {
                entries.remove(entry);
            }
        }
        Ok(())
    }

    fn read_script(&self, partition: u16, reads: &[Read]) -> Script {
        let mut script = Script::default();
        for reads in reads.chunk_by(|one, next| one.session == next.session) {
            let key = self.keys.mailbox(partition, reads[0].session);
            for reads in reads.chunks(FIELDS_AT_ONCE) {
                let fields: Vec<_> = reads.iter().map(|read| records::field(read.slot)).collect();
                script.read(&key, fields.iter().map(String::as_str));
            }
        }
        script
    }

    /// Puts a message that was read where it goes. One that is not there was lost by a server: its entry is left out.
    fn place(&mut self, read: Read, content: Option<(Arc<Message>, Delivery)>, pass: &mut Pass) {
        match read.destination {
            Destination::Page { answer, entry } => {
                if content.is_none() {
                    pass.missing.insert((answer, entry));
                    if let Some(found) = self.mirror.session_mut(read.session) {
                        found.take(read.slot.sequence);
                    }
                }
                if let Completion::MailboxPage { entries, .. } =
                    &mut pass.plan.answers[answer].completion
                {
                    entries[entry].content = content;
                }
            }
            Destination::Moved {
                answer,
                partition,
                to,
                slot,
                record,
            } => {
                let Some((message, _)) = content else {
                    if let Some(found) = self.mirror.session_mut(to) {
                        found.take(slot.sequence);
                    }
                    pass.unanswered.insert(answer);
                    return;
                };
                let delivery = record.delivery(&message);
                let key = self.keys.mailbox(partition, to);
                let (field, value) = (records::field(slot), records::entry(&message, &delivery));
                let script = pass.plan.first.entry(partition).or_default();
                script.change("HSET", &key, &[field.as_bytes(), &value]);
                if let Completion::Appended {
                    message: unread,
                    delivery: unknown,
                    ..
                } = &mut pass.plan.answers[answer].completion
                {
                    (*unread, *unknown) = (message, delivery);
                }
            }
        }
    }

    fn first(&mut self, pass: &mut Pass, again: bool) -> Result<(), PassError> {
        let policy = self.policy(&pass.plan);
        let mut scripts = std::mem::take(&mut pass.plan.first);
        scripts.retain(|partition, script| !script.is_empty() || !pass.checked.contains(partition));
        let result = self.apply(&scripts, policy, again, pass);
        pass.plan.first = scripts;
        result
    }

    fn routes(&mut self, pass: &Pass) -> Result<(), PassError> {
        let changes = pass.plan.routes.iter();
        let mut requests: Vec<_> = changes
            .filter(|change| !pass.lost.contains(&change.needs))
            .map(|change| {
                let mut command = redis::cmd(change.command);
                command.arg(&change.key);
                for arg in &change.args {
                    command.arg(arg);
                }
                Request::new(change.partition, &command)
            })
            .collect();
        let policy = self.policy(&pass.plan);
        self.servers.call_many(&mut requests, policy)?;
        Ok(())
    }

    fn second(&mut self, pass: &mut Pass, again: bool) -> Result<(), PassError> {
        let mut scripts: BTreeMap<u16, Script> = BTreeMap::new();
        for change in &pass.plan.second {
            let Change {
                partition,
                needs,
                key,
                command,
                args,
            } = change;
            if pass.lost.contains(needs) {
                // What did not arrive is still where it was.
                pass.reload.insert(*partition);
                continue;
            }
            let args: Vec<_> = args.iter().map(Vec::as_slice).collect();
            let script = scripts.entry(*partition).or_default();
            script.change(command, key, &args);
        }
        pass.reload
            .retain(|partition| !pass.lost.contains(partition));
        let policy = self.policy(&pass.plan);
        self.apply(&scripts, policy, again, pass)
    }

    /// Makes changes in the partitions that are this node's.
    fn apply(
        &mut self,
        scripts: &BTreeMap<u16, Script>,
        policy: Policy,
        again: bool,
        pass: &mut Pass,
    ) -> Result<(), PassError> {
        let (mut partitions, mut requests) = (Vec::new(), Vec::new());
        for (&partition, script) in scripts {
            let Some(writer) = self
                .writer(partition)
                .filter(|_| !pass.lost.contains(&partition))
            else {
                pass.lost.insert(partition);
                continue;
            };
            let fence = self.keys.fence(partition);
            requests.push(script.apply(
                &self.hashes[APPLY],
                partition,
                &fence,
                &writer.to_string(),
            ));
            partitions.push(partition);
        }
        if again {
            mark_all_again(&mut requests);
        }
        let replies = self.servers.call_many(&mut requests, policy)?;
        for (partition, reply) in partitions.into_iter().zip(replies) {
            if reply == Value::Int(1) {
                pass.checked.insert(partition);
            } else {
                self.refused(partition, &reply, pass)?;
            }
        }
        Ok(())
    }

    /// Who this node is as the writer of a partition; `None` when it is not.
    pub(super) fn writer(&self, partition: u16) -> Option<Writer> {
        let epoch = self.mirror.epoch(partition)?;
        Some(Writer {
            epoch,
            node: self.options.node,
        })
    }

    /// A script found another writer, or none.
    fn refused(&mut self, partition: u16, reply: &Value, pass: &mut Pass) -> Result<(), PassError> {
        let other = other_writer(reply);
        if self.is_older(partition, other) {
            if self.claim_again(partition)? {
                pass.reload.insert(partition);
                return Err(PassError::Rewound(partition));
            }
        } else {
            self.mirror.lose(partition);
        }
        pass.lost.insert(partition);
        Ok(())
    }

    /// True when what a server has as the writer is older than this node's claim: the server went back.
    pub(super) fn is_older(&self, partition: u16, other: Option<Writer>) -> bool {
        let held = self.mirror.epoch(partition);
        other.is_none_or(|other| held.is_some_and(|epoch| other.epoch < epoch))
    }

    /// Claims a partition again that a server has forgotten. False when another node has claimed it since.
    pub(super) fn claim_again(&mut self, partition: u16) -> Result<bool, ServersError> {
        let Some(epoch) = self.mirror.epoch(partition) else {
            return Ok(false);
        };
        let claims = self.claim_all(&[(partition, epoch)])?;
        let is_held = matches!(claims.as_slice(), [Claim::Held(_)]);
        if !is_held {
            self.mirror.lose(partition);
        }
        Ok(is_held)
    }

    /// Reads the mirror of a partition anew.
    fn reload(&mut self, partition: u16) -> Result<(), ServersError> {
        let Some(epoch) = self.mirror.epoch(partition) else {
            return Ok(());
        };
        match self.claim_all(&[(partition, epoch)])?.as_slice() {
            [Claim::Held(content)] => {
                let mut pages = Pages::new(usize::MAX);
                self.load(partition, content, self.unix_ms, &mut pages)
            }
            _ => {
                self.mirror.lose(partition);
                Ok(())
            }
        }
    }

    /// Finds out which partitions of sessions are this node's still, before it is decided what moves between them.
    pub(super) fn check(&mut self, sessions: &BTreeSet<SessionId>) -> Result<(), PassError> {
        let place = |session| match self.mirror.place(session) {
            super::mirror::Place::Held(partition) => Some(partition),
            _ => None,
        };
        let partitions: BTreeSet<_> = sessions.iter().copied().filter_map(place).collect();
        let partitions: Vec<_> = partitions.into_iter().collect();
        let mut requests: Vec<_> = partitions
            .iter()
            .map(|&partition| {
                let mut command = redis::cmd("HGET");
                command.arg(self.keys.fence(partition)).arg("w");
                Request::new(partition, &command)
            })
            .collect();
        let replies = self.servers.call_many(&mut requests, Policy::Memory)?;
        for (partition, reply) in partitions.into_iter().zip(replies) {
            let other = other_writer(&reply);
            if other == self.writer(partition) {
                continue;
            }
            if self.is_older(partition, other) {
                if self.claim_again(partition)? {
                    self.reload(partition)?;
                    return Err(PassError::Rewound(partition));
                }
            } else {
                self.mirror.lose(partition);
            }
        }
        Ok(())
    }
}
