//! The model of a store: ordered maps and nothing else, small enough to be seen to be right.
//!
//! Tests compare the embedded store with it, and simulated nodes run on it: a [`Memory`] that is kept while its node is
//! thrown away is the disk that survives a crash. [`Memory::set_fault`] makes commits fail. After [`Memory::act_as`] it is a store that
//! several nodes share, and what one of them has claimed the others cannot change.

mod claims;
mod session;

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use edge_proto::topic::RootDepths;

use crate::engine::claim::{MessageId, ReceivedId, partition_of_session};
use crate::engine::embedded::sequences_reserved;
use crate::engine::{
    Append, Command, Completion, Engine, EngineError, MailboxEntry, MailboxLimits, Restored,
    RetainChange, SubscriptionRecord, Token,
};
use crate::message::{Message, SessionId};
use session::Session;

/// How the commits of a [`Memory`] fail until the fault is taken away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing is applied: no space is left.
    Full,
    /// Nothing is applied: I/O error.
    Io,
    /// I/O error, but the batch was applied: the retry must not apply it again.
    IoAfterApply,
}

/// A store in memory. Cloning it is taking a copy of the disk.
#[derive(Clone, Debug)]
pub struct Memory {
    limits: MailboxLimits,
    boot_count: u32,
    opened_at_unix_ms: u64,
    sessions: BTreeMap<SessionId, Session>,
    retained: BTreeMap<Box<str>, Arc<Message>>,
    /// No sequence that was ever used in any mailbox reaches this: an empty mailbox continues here.
    sequence_floor: u64,
    /// The batch that was applied but reported as failed, with its answers.
    unanswered: Option<(u64, Vec<(u16, Completion)>)>,
    fault: Option<Fault>,
    depths: RootDepths,
    /// The node whose commands come now; none for a store of one node, which asks for no claims.
    acting: Option<u64>,
    /// Epoch and node of the last claim, by partition.
    claims: BTreeMap<u16, (u64, u64)>,
}

impl Memory {
    /// An empty store, started for the first time.
    pub fn new(limits: MailboxLimits, unix_ms: u64) -> Self {
        Self {
            limits,
            boot_count: 1,
            opened_at_unix_ms: unix_ms,
            sessions: BTreeMap::new(),
            retained: BTreeMap::new(),
            sequence_floor: 1,
            unanswered: None,
            fault: None,
            depths: RootDepths::default(),
            acting: None,
            claims: BTreeMap::new(),
        }
    }

    /// The commands that come next are those of this node.
    pub fn act_as(&mut self, node: u64) {
        self.acting = Some(node);
    }

    /// The commands that come next are done whoever holds a claim: a simulator plants this fault to see whether it is noticed.
    pub fn act_unfenced(&mut self) {
        self.acting = None;
    }

    /// What a new process finds: the same content, one more start, no fault.
    pub fn restart(&mut self, unix_ms: u64) {
        self.boot_count += 1;
        self.opened_at_unix_ms = unix_ms;
        self.unanswered = None;
        self.fault = None;
        if self.sequence_floor > 1 {
            self.sequence_floor = sequences_reserved(self.sequence_floor);
        }
        for stored in self.sessions.values_mut() {
            stored.next = self.sequence_floor;
        }
        self.retained
            .retain(|_, message| !message.is_expired(unix_ms));
    }

    /// Makes commits fail from now on, or work again with `None`.
    pub fn set_fault(&mut self, fault: Option<Fault>) {
        self.fault = fault;
    }

    fn error(fault: Fault) -> EngineError {
        let path = "(memory)".to_owned();
        match fault {
            Fault::Full => EngineError::Full { path },
            Fault::Io | Fault::IoAfterApply => EngineError::Io {
                path,
                source: io::Error::other("injected"),
            },
        }
    }

    #[expect(clippy::too_many_lines, reason = "one arm for each command")]
    fn apply(
        &mut self,
        (core, unix_ms): (u16, u64),
        command: &Command,
        out: &mut Vec<(u16, Completion)>,
    ) {
        let allowed = self.is_allowed(command);
        if !allowed && !matches!(command, Command::Publish { .. }) {
            out.extend(
                command
                    .token()
                    .map(|token| (core, Completion::Deposed { token })),
            );
            return;
        }
        match command {
            Command::PutSession {
                token,
                session,
                record,
            } => {
                match self.sessions.get_mut(session) {
                    Some(stored) => stored.record = (**record).clone(),
                    None => {
                        let name = record.home_name();
                        let partition = partition_of_session(&self.depths, *session, name);
                        let new = Session::new((**record).clone(), partition);
                        self.sessions.insert(*session, new);
                    }
                }
                out.push((core, Completion::Done { token: *token }));
            }
            Command::DeleteSession { token, session } => {
                let (filters, dropped) =
                    self.sessions
                        .remove(session)
                        .map_or((Vec::new(), 0), |stored| {
                            (
                                stored.subscriptions.into_keys().collect(),
                                stored.mailbox.len() as u64,
                            )
                        });
                out.push((
                    core,
                    Completion::SessionDeleted {
                        token: *token,
                        session: *session,
                        filters,
                        dropped,
                    },
                ));
            }
            Command::Subscribe {
                token,
                session,
                filter,
                record,
            } => {
                if let Some(stored) = self.sessions.get_mut(session) {
                    stored.subscriptions.insert(filter.clone(), *record);
                }
                out.push((core, Completion::Done { token: *token }));
            }
            Command::Unsubscribe {
                token,
                session,
                filter,
            } => {
                if let Some(stored) = self.sessions.get_mut(session) {
                    stored.subscriptions.remove(filter);
                }
                out.push((core, Completion::Done { token: *token }));
            }
            Command::Publish {
                token,
                id,
                retry,
                message,
                appends,
                received,
                retain,
            } => {
                let mut rejected = 0;
                for append in appends {
                    if !self.holds_session(append.session)
                        || (*retry && self.knows(append.session, *id))
                    {
                        continue;
                    }
                    let taken = self.append(message, append, out);
                    rejected += u32::from(!taken);
                    if taken && let Some(stored) = self.sessions.get_mut(&append.session) {
                        stored.remember(*id);
                    }
                }
                if let Some((session, packet_id)) = received
                    && self.holds_session(*session)
                    && let Some(stored) = self.sessions.get_mut(session)
                {
                    stored.received.insert(*packet_id, MessageId::NONE);
                }
                let root = self.depths.root_of_topic(message.topic());
                match retain {
                    _ if !self.holds(cluster::partition::partition_of(root)) => {}
                    RetainChange::None => {}
                    RetainChange::Set => {
                        self.retained
                            .insert(message.topic().into(), Arc::clone(message));
                    }
                    RetainChange::Clear => {
                        self.retained.remove(message.topic());
                    }
                }
                let token = *token;
                let answer = if allowed {
                    Completion::Published { token, rejected }
                } else {
                    Completion::Deposed { token }
                };
                out.push((core, answer));
            }
            Command::Receive {
                token,
                session,
                received,
            } => {
                let packet_id = received.packet_id;
                let stored = self.sessions.get_mut(session);
                let message = stored.map_or(received.message, |stored| {
                    *stored.received.entry(packet_id).or_insert(received.message)
                });
                let answer = Completion::Received {
                    token: *token,
                    session: *session,
                    received: ReceivedId { packet_id, message },
                };
                out.push((core, answer));
            }
            Command::Release {
                token,
                session,
                packet_id,
            } => {
                if let Some(stored) = self.sessions.get_mut(session) {
                    stored.received.remove(packet_id);
                }
                out.push((core, Completion::Done { token: *token }));
            }
            Command::Ack { session, sequence } => self.ack(*session, *sequence),
            Command::PubRec {
                token,
                session,
                sequence,
            } => {
                if let Some(content) = self
                    .sessions
                    .get_mut(session)
                    .and_then(|stored| stored.mailbox.get_mut(sequence))
                {
                    *content = None;
                }
                out.push((core, Completion::Done { token: *token }));
            }
            Command::ReadMailbox {
                token,
                session,
                from,
                messages_max,
                bytes_max,
            } => {
                let page = self.read(*token, *session, *from, *messages_max, *bytes_max);
                out.push((core, page));
            }
            Command::ListSubscriptions { token, session } => {
                let stored = self.sessions.get(session);
                let filters = stored.map_or_else(Vec::new, |stored| {
                    stored.subscriptions.keys().cloned().collect()
                });
                let (token, session) = (*token, *session);
                let listed = Completion::Subscriptions {
                    token,
                    session,
                    filters,
                };
                out.push((core, listed));
            }
            Command::Move {
                token,
                from,
                to,
                home,
                record,
                messages_max,
                bytes_max,
            } => {
                let bounds = (*messages_max, *bytes_max);
                let messages = self.move_all(*from, (*to, *home), *record, bounds, out);
                let (token, from) = (*token, *from);
                let moved = Completion::Moved {
                    token,
                    from,
                    messages,
                };
                out.push((core, moved));
            }
            Command::Claim {
                token,
                partition,
                epoch,
            } => {
                let (token, partition) = (*token, *partition);
                let (outcome, items) = self.claim(partition, *epoch, unix_ms);
                if !items.is_empty() {
                    out.push((core, Completion::Loaded { token, items }));
                }
                let claimed = Completion::Claimed {
                    token,
                    partition,
                    outcome,
                };
                out.push((core, claimed));
            }
        }
    }

    fn knows(&self, session: SessionId, id: MessageId) -> bool {
        let stored = self.sessions.get(&session);
        stored.is_some_and(|stored| stored.known.contains(&id))
    }

    /// False when the mailbox refuses the message.
    fn append(
        &mut self,
        message: &Arc<Message>,
        append: &Append,
        out: &mut Vec<(u16, Completion)>,
    ) -> bool {
        let Some(stored) = self.sessions.get_mut(&append.session) else {
            return true;
        };
        let Some(evicted) = stored.make_room(message, self.limits) else {
            out.push((
                append.home,
                Completion::Rejected {
                    session: append.session,
                },
            ));
            return false;
        };
        let sequence = if stored.mailbox.is_empty() && evicted.is_empty() {
            self.sequence_floor
        } else {
            stored.next
        };
        stored.next = sequence + 1;
        self.sequence_floor = self.sequence_floor.max(stored.next);
        stored.mailbox.insert(
            sequence,
            Some((Arc::clone(message), append.delivery.clone())),
        );
        let appended = Completion::Appended {
            session: append.session,
            sequence,
            message: Arc::clone(message),
            delivery: append.delivery.clone(),
            evicted,
        };
        out.push((append.home, appended));
        true
    }

    fn ack(&mut self, session: SessionId, sequence: u64) {
        if let Some(stored) = self.sessions.get_mut(&session) {
            stored.mailbox.remove(&sequence);
        }
    }

    /// Returns how many messages moved.
    fn move_all(
        &mut self,
        from: SessionId,
        (to, home): (SessionId, u16),
        record: SubscriptionRecord,
        (messages_max, bytes_max): (u32, u32),
        out: &mut Vec<(u16, Completion)>,
    ) -> u32 {
        let (mut moved, mut bytes) = (0, 0);
        while from != to && moved < messages_max {
            let oldest = self
                .sessions
                .get(&from)
                .and_then(|stored| stored.mailbox.first_key_value());
            let Some((&sequence, Some((message, _)))) = oldest else {
                break;
            };
            let message = Arc::clone(message);
            bytes += message.queued_bytes();
            let fits = self
                .sessions
                .get(&to)
                .is_some_and(|stored| stored.has_room(&message, self.limits));
            if !fits || (moved > 0 && bytes > bytes_max as usize) {
                break;
            }
            let append = Append {
                session: to,
                home,
                delivery: record.delivery(&message),
            };
            self.append(&message, &append, out);
            self.ack(from, sequence);
            moved += 1;
        }
        moved
    }

    fn read(
        &self,
        token: Token,
        session: SessionId,
        from: u64,
        messages_max: u32,
        bytes_max: u32,
    ) -> Completion {
        let mut entries = Vec::new();
        let mut bytes = 0;
        let mut end = true;
        let mailbox = self
            .sessions
            .get(&session)
            .map(|stored| stored.mailbox.range(from..))
            .into_iter()
            .flatten();
        for (&sequence, content) in mailbox {
            bytes += content
                .as_ref()
                .map_or(0, |(message, _)| message.queued_bytes());
            if !entries.is_empty()
                && (entries.len() >= messages_max as usize || bytes > bytes_max as usize)
            {
                end = false;
                break;
            }
            entries.push(MailboxEntry {
                sequence,
                content: content.clone(),
            });
        }
        Completion::MailboxPage {
            token,
            session,
            entries,
            end,
        }
    }
}

impl Engine for Memory {
    fn boot_count(&self) -> u32 {
        self.boot_count
    }

    fn restore(&mut self, sink: &mut dyn FnMut(Restored)) -> Result<(), EngineError> {
        for (&session, stored) in &self.sessions {
            self.restore_session(session, stored, sink);
        }
        for message in self
            .retained
            .values()
            .filter(|message| !message.is_expired(self.opened_at_unix_ms))
        {
            sink(Restored::Retained {
                message: Arc::clone(message),
            });
        }
        Ok(())
    }

    fn commit(
        &mut self,
        batch: u64,
        unix_ms: u64,
        commands: &[(u16, Command)],
        completions: &mut Vec<(u16, Completion)>,
    ) -> Result<(), EngineError> {
        if let Some(fault @ (Fault::Full | Fault::Io)) = self.fault {
            return Err(Self::error(fault));
        }
        let answers = match self.unanswered.take() {
            Some((applied, answers)) if applied == batch => answers,
            _ => {
                let mut answers = Vec::new();
                for (core, command) in commands {
                    self.apply((*core, unix_ms), command, &mut answers);
                }
                answers
            }
        };
        if let Some(fault) = self.fault {
            self.unanswered = Some((batch, answers));
            return Err(Self::error(fault));
        }
        completions.extend(answers);
        Ok(())
    }

    fn sync(&mut self) -> Result<(), EngineError> {
        self.fault.map_or(Ok(()), |fault| Err(Self::error(fault)))
    }

    fn disk_bytes(&self) -> u64 {
        0
    }
}
