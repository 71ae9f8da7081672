//! What commands do to the mirror, and which changes, reads and answers follow. Nothing here talks to a server, so nothing fails.
//!
//! A plan is for a part of a batch that can go in one pass: reads, then first changes, then routes, then second changes. A command
//! that needs what an earlier one of the plan has not read or finished yet ends the plan, and begins the next.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use cluster::partition::partition_of;
use edge_proto::topic::RootDepths;

use crate::engine::claim::{MessageId, ReceivedId, partition_of_filter, partition_of_session};
use crate::engine::embedded::records as stored;
use crate::engine::redis::changes::Script;
use crate::engine::redis::keys::{Keys, decimal};
use crate::engine::redis::mirror::{Map, Mirror, Place, Session, Slot};
use crate::engine::redis::records;
use crate::engine::{
    Command, Completion, Delivery, MailboxLimits, RetainChange, SessionRecord, SubscriptionRecord,
    Token,
};
use crate::message::{Message, SessionId};

/// An answer, and the partitions that must not have been lost for it to be true.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) core: u16,
    pub(super) completion: Completion,
    /// Whom to tell that the partition is lost; `None` for what is only left out then.
    pub(super) token: Option<Token>,
    /// Where they are in [`Plan::touched`].
    depends: Range<usize>,
}

/// Where a message that has to be read goes.
#[derive(Debug)]
pub(super) enum Destination {
    /// Into an entry of a page.
    Page { answer: usize, entry: usize },
    /// Into another mailbox.
    Moved {
        /// Its `Appended`.
        answer: usize,
        partition: u16,
        to: SessionId,
        slot: Slot,
        record: SubscriptionRecord,
    },
}

/// A message that has to be read.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) session: SessionId,
    pub(super) slot: Slot,
    pub(super) destination: Destination,
}

/// A change that waits until others are made.
#[derive(Debug)]
pub(super) struct Change {
    /// Where it is made.
    pub(super) partition: u16,
    /// It is not made when this partition is lost.
    pub(super) needs: u16,
    pub(super) key: String,
    pub(super) command: &'static str,
    pub(super) args: Vec<Vec<u8>>,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) answers: Vec<Answer>,
    /// Partitions that answers depend on.
    touched: Vec<u16>,
    pub(super) reads: BTreeMap<u16, Vec<Read>>,
    /// Made before anything is read, by partition: what marks messages that are about to move.
    pub(super) marks: BTreeMap<u16, Script>,
    pub(super) first: BTreeMap<u16, Script>,
    /// Made whoever writes the partition.
    pub(super) routes: Vec<Change>,
    pub(super) second: Vec<Change>,
    /// Messages that this plan appends.
    pub(super) fresh: Map<(SessionId, u64), (Arc<Message>, Delivery)>,
    /// Sessions that nothing may be planned for any more.
    pub(super) closed: BTreeSet<SessionId>,
    /// True exactly when something was done whose answer promises that it is durable.
    pub(super) promises: bool,
}

impl Plan {
    /// The partitions that an answer depends on.
    pub(super) fn depends(&self, answer: &Answer) -> &[u16] {
        &self.touched[answer.depends.clone()]
    }
}

/// Applies commands to the mirror.
pub(super) struct Planner<'a> {
    pub(super) mirror: &'a mut Mirror,
    pub(super) plan: &'a mut Plan,
    pub(super) keys: &'a Keys,
    pub(super) depths: &'a RootDepths,
    pub(super) limits: MailboxLimits,
    pub(super) unix_ms: u64,
    /// Stands for messages that are still to be read.
    pub(super) unread: &'a Arc<Message>,
}

impl Planner<'_> {
    /// False, and nothing is done, when the command has to wait for the next plan.
    pub(super) fn apply(&mut self, core: u16, command: &Command) -> bool {
        if matches!(command, Command::Claim { .. }) || self.must_wait(command) {
            return false;
        }
        self.plan.promises |= command.promises();
        let start = self.plan.touched.len();
        let allowed = self.touch(command);
        if let Command::Publish { .. } = command {
            self.publish(core, command, (start, allowed));
            return true;
        }
        let Some(token) = command.token() else {
            if allowed && let Command::Ack { session, sequence } = command {
                self.take(*session, *sequence);
            }
            return true;
        };
        let completion = if allowed {
            self.change(command, token)
        } else {
            Completion::Deposed { token }
        };
        self.answer(core, completion, Some(token), start);
        true
    }

    /// True when the command names a session that is closed for this plan.
    fn must_wait(&self, command: &Command) -> bool {
        let closed = &self.plan.closed;
        if closed.is_empty() {
            return false;
        }
        match command {
            Command::Publish {
                appends, received, ..
            } => {
                let sessions = appends.iter().map(|append| append.session);
                sessions
                    .chain(received.map(|(session, _)| session))
                    .any(|session| closed.contains(&session))
            }
            Command::Move { from, to, .. } => closed.contains(from) || closed.contains(to),
            command => session_of(command).is_some_and(|session| closed.contains(&session)),
        }
    }

    /// Notes which partitions of this node the command is about. False when one of them is another node's.
    fn touch(&mut self, command: &Command) -> bool {
        match command {
            Command::PutSession {
                session, record, ..
            } => {
                let partition = partition_of_session(self.depths, *session, record.home_name());
                self.touch_partition(partition) & self.touch_session(*session)
            }
            Command::Publish {
                message,
                appends,
                received,
                retain,
                ..
            } => {
                let mut allowed = true;
                for append in appends {
                    allowed &= self.touch_session(append.session);
                }
                if let Some((session, _)) = received {
                    allowed &= self.touch_session(*session);
                }
                if *retain != RetainChange::None {
                    allowed &= self.touch_partition(self.retained_in(message));
                }
                allowed
            }
            Command::Move { from, to, .. } => self.touch_session(*from) & self.touch_session(*to),
            command => session_of(command).is_none_or(|session| self.touch_session(session)),
        }
    }

    fn touch_session(&mut self, session: SessionId) -> bool {
        match self.mirror.place(session) {
            Place::Unknown => true,
            Place::Lost(_) => false,
            Place::Held(partition) => self.touch_partition(partition),
        }
    }

    fn touch_partition(&mut self, partition: u16) -> bool {
        let held = self.mirror.holds(partition);
        if held {
            self.plan.touched.push(partition);
            self.plan.first.entry(partition).or_default();
        }
        held
    }

    fn retained_in(&self, message: &Message) -> u16 {
        partition_of(self.depths.root_of_topic(message.topic()))
    }

    fn answer(&mut self, core: u16, completion: Completion, token: Option<Token>, start: usize) {
        let depends = start..self.plan.touched.len();
        self.plan.answers.push(Answer {
            core,
            completion,
            token,
            depends,
        });
    }

    /// An answer to the home of a mailbox.
    pub(super) fn tell_home(&mut self, home: u16, completion: Completion, partition: u16) {
        let start = self.plan.touched.len();
        self.plan.touched.push(partition);
        self.answer(home, completion, None, start);
    }

    /// A command other than a publish that this node may do. Returns its answer.
    fn change(&mut self, command: &Command, token: Token) -> Completion {
        match command {
            Command::PutSession {
                session, record, ..
            } => self.put_session(*session, record),
            Command::DeleteSession { session, .. } => return self.delete(token, *session),
            Command::Subscribe {
                session,
                filter,
                record,
                ..
            } => self.subscribe(*session, filter, Some(*record)),
            Command::Unsubscribe {
                session, filter, ..
            } => self.subscribe(*session, filter, None),
            Command::Receive {
                session, received, ..
            } => return self.receive(token, *session, *received),
            Command::Release {
                session, packet_id, ..
            } => self.forget_received(*session, *packet_id),
            Command::PubRec {
                session, sequence, ..
            } => self.release(*session, *sequence),
            Command::ReadMailbox {
                session,
                from,
                messages_max,
                bytes_max,
                ..
            } => return self.read(token, *session, *from, (*messages_max, *bytes_max)),
            Command::ListSubscriptions { session, .. } => {
                let found = self.mirror.session(*session);
                let filters =
                    found.map_or_else(Vec::new, |found| found.filters.iter().cloned().collect());
                let session = *session;
                return Completion::Subscriptions {
                    token,
                    session,
                    filters,
                };
            }
            Command::Move {
                from,
                to,
                home,
                record,
                messages_max,
                bytes_max,
                ..
            } => {
                let bounds = (*messages_max, *bytes_max);
                let messages = self.move_all(*from, (*to, *home), *record, bounds);
                return Completion::Moved {
                    token,
                    from: *from,
                    messages,
                };
            }
            Command::Publish { .. } | Command::Ack { .. } | Command::Claim { .. } => {}
        }
        Completion::Done { token }
    }

    fn put_session(&mut self, session: SessionId, record: &SessionRecord) {
        let partition = match self.mirror.place(session) {
            Place::Held(partition) => partition,
            _ => partition_of_session(self.depths, session, record.home_name()),
        };
        if self.mirror.session(session).is_none() {
            self.mirror.add(partition, session);
            let id = decimal(session).to_string();
            let key = self.keys.sessions(partition);
            self.first(partition).change("SADD", &key, &[id.as_bytes()]);
        }
        let key = self.keys.session(partition, session);
        let record = stored::session(record);
        self.first(partition).change("HSET", &key, &[b"r", &record]);
    }

    pub(super) fn first(&mut self, partition: u16) -> &mut Script {
        self.plan.first.entry(partition).or_default()
    }

    /// A change behind the first ones of all partitions.
    pub(super) fn second(
        &mut self,
        partition: u16,
        command: &'static str,
        key: String,
        args: Vec<Vec<u8>>,
    ) {
        self.plan.second.push(Change {
            partition,
            needs: partition,
            key,
            command,
            args,
        });
    }

    /// The partition of a session that exists here.
    pub(super) fn partition(&self, session: SessionId) -> Option<u16> {
        match self.mirror.place(session) {
            Place::Held(partition) => Some(partition),
            _ => None,
        }
    }

    fn delete(&mut self, token: Token, session: SessionId) -> Completion {
        let (mut filters, mut dropped) = (Vec::new(), 0);
        if let Some(partition) = self.partition(session)
            && let Some(found) = self.mirror.remove(session)
        {
            dropped = found.messages();
            let key = self.keys.session(partition, session);
            // Whoever loads the partition before the end of this finishes it.
            self.first(partition).change("HSET", &key, &[b"d", b""]);
            for filter in &found.filters {
                self.route(session, partition, filter, None);
            }
            let keys = [
                key,
                self.keys.mailbox(partition, session),
                self.keys.known(partition, session),
                self.keys.moved(partition, session),
            ];
            let id = decimal(session).to_string().into_bytes();
            let index = self.keys.sessions(partition);
            for key in keys {
                self.second(partition, "DEL", key, Vec::new());
            }
            self.second(partition, "SREM", index, vec![id]);
            self.plan.closed.insert(session);
            filters = found.filters.into_iter().collect();
        }
        Completion::SessionDeleted {
            token,
            session,
            filters,
            dropped,
        }
    }

    /// Adds, replaces or removes a subscription.
    fn subscribe(&mut self, session: SessionId, filter: &str, record: Option<SubscriptionRecord>) {
        let Some(partition) = self.partition(session) else {
            return;
        };
        let Some(found) = self.mirror.session_mut(session) else {
            return;
        };
        let key = self.keys.session(partition, session);
        let field = format!("f{filter}");
        if let Some(record) = record {
            found.filters.insert(filter.into());
            let value = stored::subscription(record);
            let args: [&[u8]; 2] = [field.as_bytes(), &value];
            self.first(partition).change("HSET", &key, &args);
        } else {
            found.filters.remove(filter);
            self.first(partition)
                .change("HDEL", &key, &[field.as_bytes()]);
        }
        self.route(session, partition, filter, record);
    }

    /// Writes or removes the route of a subscription, which is kept under the root of its filter, whoever the writer there is.
    fn route(
        &mut self,
        session: SessionId,
        home: u16,
        filter: &str,
        record: Option<SubscriptionRecord>,
    ) {
        let Some(partition) = partition_of_filter(self.depths, filter) else {
            return;
        };
        let mut args = vec![records::route_field(session, filter).into_bytes()];
        args.extend(record.map(|record| records::route(home, record)));
        self.plan.routes.push(Change {
            partition,
            needs: home,
            key: self.keys.routes(partition),
            command: if record.is_some() { "HSET" } else { "HDEL" },
            args,
        });
    }

    fn receive(&mut self, token: Token, session: SessionId, received: ReceivedId) -> Completion {
        let packet_id = received.packet_id;
        let partition = self.partition(session);
        let mut message = received.message;
        if let Some(partition) = partition
            && let Some(found) = self.mirror.session_mut(session)
        {
            let is_new = !found.received.contains_key(&packet_id);
            message = *found.received.entry(packet_id).or_insert(message);
            if is_new {
                self.store_received(partition, session, received);
            }
        }
        Completion::Received {
            token,
            session,
            received: ReceivedId { packet_id, message },
        }
    }

    fn store_received(&mut self, partition: u16, session: SessionId, received: ReceivedId) {
        let field = format!("p{}", received.packet_id).into_bytes();
        let value = records::message_id(received.message).to_vec();
        let key = self.keys.session(partition, session);
        self.second(partition, "HSET", key, vec![field, value]);
    }

    fn forget_received(&mut self, session: SessionId, packet_id: u16) {
        if let Some(partition) = self.partition(session)
            && let Some(found) = self.mirror.session_mut(session)
            && found.received.remove(&packet_id).is_some()
        {
            let key = self.keys.session(partition, session);
            let field = format!("p{packet_id}").into_bytes();
            self.second(partition, "HDEL", key, vec![field]);
        }
    }

    fn publish(&mut self, core: u16, command: &Command, (start, allowed): (usize, bool)) {
        let Command::Publish {
            token,
            message,
            id,
            retry,
            appends,
            received,
            retain,
        } = command
        else {
            return;
        };
        let token = *token;
        let depends = start..self.plan.touched.len();
        let mut rejected = 0;
        for append in appends {
            let known = |found: &Session| *retry && found.knows(*id);
            let skip = self.mirror.session(append.session).is_none_or(known);
            if !skip && !self.append(message, append, *id) {
                rejected += 1;
            }
        }
        if let Some((session, packet_id)) = *received
            && let Some(partition) = self.partition(session)
            && let Some(found) = self.mirror.session_mut(session)
        {
            found.received.insert(packet_id, MessageId::NONE);
            let received = ReceivedId {
                packet_id,
                message: MessageId::NONE,
            };
            self.store_received(partition, session, received);
        }
        self.retain(message, *retain);
        let completion = if allowed {
            Completion::Published { token, rejected }
        } else {
            Completion::Deposed { token }
        };
        self.plan.answers.push(Answer {
            core,
            completion,
            token: Some(token),
            depends,
        });
    }

    fn retain(&mut self, message: &Message, change: RetainChange) {
        let partition = self.retained_in(message);
        if change == RetainChange::None || !self.mirror.holds(partition) {
            return;
        }
        let mut args = vec![message.topic().as_bytes().to_vec()];
        let mut command = "HDEL";
        if change == RetainChange::Set {
            let mut value = Vec::new();
            message.encode(&mut value);
            args.push(value);
            command = "HSET";
        }
        self.second(partition, command, self.keys.retained(partition), args);
    }
}

/// The session that a command is about, of those that are about one.
fn session_of(command: &Command) -> Option<SessionId> {
    match command {
        Command::PutSession { session, .. }
        | Command::DeleteSession { session, .. }
        | Command::Subscribe { session, .. }
        | Command::Unsubscribe { session, .. }
        | Command::Receive { session, .. }
        | Command::Release { session, .. }
        | Command::Ack { session, .. }
        | Command::PubRec { session, .. }
        | Command::ReadMailbox { session, .. }
        | Command::ListSubscriptions { session, .. } => Some(*session),
        Command::Publish { .. } | Command::Move { .. } | Command::Claim { .. } => None,
    }
}
