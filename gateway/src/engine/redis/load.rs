//! Claiming partitions, and reading what is in them: in pages, so that no partition has to fit into one reply.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use redis::{Cmd, Value};

use crate::engine::claim::{MessageId, ReceivedId};
use crate::engine::embedded::records as stored;
use crate::engine::redis::changes::Script;
use crate::engine::redis::keys::{decimal, session_id};
use crate::engine::redis::mirror::{Map, Session, Slot};
use crate::engine::redis::options::Policy;
use crate::engine::redis::pass::{Writer, read_writer};
use crate::engine::redis::server::{Request, ServersError};
use crate::engine::redis::topology::text;
use crate::engine::redis::{CLAIM, Redis, records};
use crate::engine::{MailboxSummary, Restored, SessionRecord, SubscriptionRecord};
use crate::message::{Message, SessionId};

/// Sessions that are read at once.
const SESSIONS_AT_ONCE: usize = 128;
/// Retained messages that are read at once.
const RETAINED_AT_ONCE: usize = 32;
/// Routes that a server is asked for at once; it may give more.
const ROUTES_AT_ONCE: usize = 512;

/// What became of a claim.
#[derive(Debug)]
pub(super) enum Claim {
    /// This node is the writer.
    Held(Content),
    /// Somebody else is, or this node in a later epoch.
    Lost(Writer),
}

/// What there is to load of a partition.
#[derive(Debug)]
pub(super) struct Content {
    pub(super) epoch: u64,
    /// Sequences below this may be in use.
    reserved: u64,
    sessions: Vec<SessionId>,
    has_retained: bool,
    has_routes: bool,
}

/// A session as its keys have it.
struct Found {
    record: SessionRecord,
    subscriptions: BTreeMap<Box<str>, SubscriptionRecord>,
    received: BTreeMap<u16, MessageId>,
    slots: VecDeque<Slot>,
    known: Vec<(u32, MessageId)>,
}

/// Items on their way into pages.
pub(super) struct Pages {
    pub(super) full: Vec<Vec<Restored>>,
    page: Vec<Restored>,
    bytes: usize,
    bytes_max: usize,
}

impl Pages {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self {
            full: Vec::new(),
            page: Vec::new(),
            bytes: 0,
            bytes_max,
        }
    }

    fn push(&mut self, item: Restored, bytes: usize) {
        if self.bytes + bytes > self.bytes_max {
            self.end();
        }
        self.bytes += bytes;
        self.page.push(item);
    }

    /// Ends the last page.
    pub(super) fn end(&mut self) {
        if !self.page.is_empty() {
            self.full.push(std::mem::take(&mut self.page));
        }
        self.bytes = 0;
    }
}

impl Redis {
    /// Claims partitions, each for an epoch. Can be done again.
    pub(super) fn claim_all(&mut self, claims: &[(u16, u64)]) -> Result<Vec<Claim>, ServersError> {
        let mut requests: Vec<_> = claims
            .iter()
            .map(|&(partition, epoch)| self.claim_request(partition, epoch))
            .collect();
        let policy = self.options.policy;
        let replies = self.servers.call_many(&mut requests, policy)?;
        let claim = |(reply, (_, epoch)): (&Value, &(u16, u64))| {
            read_claim(reply, *epoch).ok_or_else(|| unreadable("a claim", reply))
        };
        replies.iter().zip(claims).map(claim).collect()
    }

    fn claim_request(&self, partition: u16, epoch: u64) -> Request {
        let mut command = redis::cmd("EVALSHA");
        command
            .arg(&*self.hashes[CLAIM])
            .arg(4)
            .arg(self.keys.fence(partition))
            .arg(self.keys.sessions(partition))
            .arg(self.keys.retained(partition))
            .arg(self.keys.routes(partition))
            .arg(epoch)
            .arg(self.options.node)
            .arg(self.mirror.reserved(partition));
        Request::new(partition, &command)
    }

    /// Reads a claimed partition into the mirror and into pages.
    pub(super) fn load(
        &mut self,
        partition: u16,
        content: &Content,
        unix_ms: u64,
        pages: &mut Pages,
    ) -> Result<(), ServersError> {
        let mut sessions = Map::default();
        for ids in content.sessions.chunks(SESSIONS_AT_ONCE) {
            for (id, found) in self.read_sessions(partition, content, ids)? {
                let floor = content.reserved;
                let filters: BTreeSet<_> = found.subscriptions.keys().cloned().collect();
                let session = Session::loaded(
                    filters,
                    found.received.clone(),
                    (found.slots.clone(), floor),
                    (found.known.clone(), unix_ms),
                );
                found.restore(id, &session, floor, pages);
                sessions.insert(id, session);
            }
        }
        if content.has_routes && !self.options.alone {
            self.load_routes(partition, pages)?;
        }
        if content.has_retained {
            self.load_retained(partition, unix_ms, pages)?;
        }
        self.mirror
            .hold(partition, (content.epoch, content.reserved), sessions);
        Ok(())
    }

    /// Reads sessions; finishes what was begun with them when their last writer ended.
    fn read_sessions(
        &mut self,
        partition: u16,
        content: &Content,
        ids: &[SessionId],
    ) -> Result<Vec<(SessionId, Found)>, ServersError> {
        let mut requests = Vec::with_capacity(3 * ids.len());
        for &id in ids {
            let keys = [
                ("HGETALL", self.keys.session(partition, id)),
                ("HKEYS", self.keys.mailbox(partition, id)),
                ("GET", self.keys.known(partition, id)),
            ];
            requests
                .extend(keys.map(|(name, key)| Request::new(partition, redis::cmd(name).arg(key))));
        }
        let replies = self.servers.call_many(&mut requests, Policy::Memory)?;
        let mut sessions = Vec::with_capacity(ids.len());
        let mut repairs = Script::default();
        for (&id, replies) in ids.iter().zip(replies.chunks_exact(3)) {
            let [hash, mailbox, known] = replies else {
                continue;
            };
            let fields = pairs(hash).ok_or_else(|| unreadable("a session", hash))?;
            if fields.iter().any(|(field, _)| *field == "d") {
                self.finish_deletion(partition, id, &fields, &mut repairs)?;
                continue;
            }
            let moved = self.arrived(id, &fields)?;
            let Some(mut found) = read_session(&fields, mailbox, known)
                .ok_or_else(|| unreadable(&self.keys.session(partition, id), hash))?
            else {
                continue; // A server has lost its record: nobody can have it.
            };
            for (sequence, has_arrived) in moved {
                self.finish_move(
                    partition,
                    (id, sequence),
                    has_arrived,
                    &mut found,
                    &mut repairs,
                );
            }
            sessions.push((id, found));
        }
        self.repair(partition, content.epoch, &repairs)?;
        Ok(sessions)
    }

    /// Of the messages that were about to move away: those there are, and which have arrived.
    fn arrived(
        &mut self,
        id: SessionId,
        fields: &[(&str, &[u8])],
    ) -> Result<Vec<(u64, bool)>, ServersError> {
        let marks: Vec<_> = fields
            .iter()
            .filter_map(|(field, target)| {
                let sequence: u64 = field.strip_prefix('x')?.parse().ok()?;
                let target = records::read_target(std::str::from_utf8(target).ok()?)?;
                Some((sequence, target))
            })
            .collect();
        let mut requests: Vec<_> = marks
            .iter()
            .map(|&(sequence, (partition, to))| {
                let mut command = redis::cmd("SISMEMBER");
                command
                    .arg(self.keys.moved(partition, to))
                    .arg(records::origin(id, sequence));
                Request::new(partition, &command)
            })
            .collect();
        let replies = self.servers.call_many(&mut requests, Policy::Memory)?;
        let arrived = replies.iter().map(|reply| *reply == Value::Int(1));
        Ok(marks
            .iter()
            .map(|(sequence, _)| *sequence)
            .zip(arrived)
            .collect())
    }

    fn finish_move(
        &self,
        partition: u16,
        (id, sequence): (SessionId, u64),
        has_arrived: bool,
        found: &mut Found,
        repairs: &mut Script,
    ) {
        let place = found
            .slots
            .iter()
            .position(|slot| slot.sequence == sequence);
        if has_arrived && let Some(slot) = place.and_then(|place| found.slots.remove(place)) {
            let key = self.keys.mailbox(partition, id);
            repairs.change("HDEL", &key, &[records::field(slot).as_bytes()]);
        }
        let mark = format!("x{sequence}");
        let key = self.keys.session(partition, id);
        repairs.change("HDEL", &key, &[mark.as_bytes()]);
    }

    fn finish_deletion(
        &mut self,
        partition: u16,
        id: SessionId,
        fields: &[(&str, &[u8])],
        repairs: &mut Script,
    ) -> Result<(), ServersError> {
        let filters = fields
            .iter()
            .filter_map(|(field, _)| field.strip_prefix('f'));
        let mut requests: Vec<_> = filters
            .filter_map(|filter| {
                let root = crate::engine::claim::partition_of_filter(&self.options.depths, filter)?;
                let mut command = redis::cmd("HDEL");
                command
                    .arg(self.keys.routes(root))
                    .arg(records::route_field(id, filter));
                Some(Request::new(root, &command))
            })
            .collect();
        self.servers.call_many(&mut requests, Policy::Memory)?;
        for key in [
            self.keys.session(partition, id),
            self.keys.mailbox(partition, id),
            self.keys.known(partition, id),
            self.keys.moved(partition, id),
        ] {
            repairs.change("DEL", &key, &[]);
        }
        let index = self.keys.sessions(partition);
        repairs.change("SREM", &index, &[decimal(id).to_string().as_bytes()]);
        Ok(())
    }

    fn repair(&mut self, partition: u16, epoch: u64, repairs: &Script) -> Result<(), ServersError> {
        if repairs.is_empty() {
            return Ok(());
        }
        let writer = Writer {
            epoch,
            node: self.options.node,
        };
        let fence = self.keys.fence(partition);
        let hash = &self.hashes[super::APPLY];
        let request = repairs.apply(hash, partition, &fence, &writer.to_string());
        // Whether it is the writer is found out by what it writes next.
        self.servers
            .call_many(&mut [request], self.options.policy)?;
        Ok(())
    }

    fn load_routes(&mut self, partition: u16, pages: &mut Pages) -> Result<(), ServersError> {
        let mut cursor = "0".to_owned();
        loop {
            let mut command = redis::cmd("HSCAN");
            command
                .arg(self.keys.routes(partition))
                .arg(&cursor)
                .arg("COUNT")
                .arg(ROUTES_AT_ONCE);
            let reply = self.servers.call(partition, &command)?;
            let wrong = || unreadable("routes", &reply);
            let Value::Array(parts) = &reply else {
                return Err(wrong());
            };
            let [next, found] = parts.as_slice() else {
                return Err(wrong());
            };
            for (field, value) in pairs(found).ok_or_else(wrong)? {
                let (session, filter, home, record) =
                    records::read_route(field, value).ok_or_else(wrong)?;
                let route = Restored::Route {
                    session,
                    home,
                    filter,
                    record,
                };
                pages.push(route, field.len() + value.len());
            }
            text(next).ok_or_else(wrong)?.clone_into(&mut cursor);
            if cursor == "0" {
                return Ok(());
            }
        }
    }

    fn load_retained(
        &mut self,
        partition: u16,
        unix_ms: u64,
        pages: &mut Pages,
    ) -> Result<(), ServersError> {
        let key = self.keys.retained(partition);
        let topics = self
            .servers
            .call(partition, redis::cmd("HKEYS").arg(&key))?;
        let topics = texts(&topics).ok_or_else(|| unreadable(&key, &topics))?;
        let topics: BTreeSet<_> = topics.into_iter().collect();
        let topics: Vec<_> = topics.into_iter().collect();
        for topics in topics.chunks(RETAINED_AT_ONCE) {
            let mut command: Cmd = redis::cmd("HMGET");
            command.arg(&key).arg(topics);
            let reply = self.servers.call(partition, &command)?;
            let Value::Array(values) = &reply else {
                return Err(unreadable(&key, &reply));
            };
            for value in values {
                let Value::BulkString(bytes) = value else {
                    continue;
                };
                let message = Message::decode(bytes).ok_or_else(|| unreadable(&key, value))?;
                if !message.is_expired(unix_ms) {
                    let message = Arc::new(message);
                    pages.push(Restored::Retained { message }, bytes.len());
                }
            }
        }
        Ok(())
    }
}

impl Found {
    fn restore(self, session: SessionId, mirrored: &Session, floor: u64, pages: &mut Pages) {
        let mailbox = MailboxSummary {
            messages: self.slots.len() as u64,
            bytes: self.slots.iter().map(|slot| u64::from(slot.bytes)).sum(),
            head: self.slots.front().map_or(0, |slot| slot.sequence),
            next: mirrored.next(floor),
        };
        let will = self.record.will.as_ref();
        let bytes = 64 + will.map_or(0, |will| will.message.queued_bytes());
        let received = self.received.into_iter();
        let item = Restored::Session {
            session,
            record: self.record,
            mailbox,
            received: received
                .map(|(packet_id, message)| ReceivedId { packet_id, message })
                .collect(),
        };
        pages.push(item, bytes);
        for (filter, record) in self.subscriptions {
            let bytes = 32 + filter.len();
            let item = Restored::Subscription {
                session,
                filter,
                record,
            };
            pages.push(item, bytes);
        }
    }
}

fn read_claim(reply: &Value, epoch: u64) -> Option<Claim> {
    let Value::Array(parts) = reply else {
        return None;
    };
    match parts.as_slice() {
        [Value::Int(0), other, node] => Some(Claim::Lost(Writer {
            epoch: text(other)?.parse().ok()?,
            node: text(node)?.parse().ok()?,
        })),
        [
            Value::Int(1),
            reserved,
            sessions,
            Value::Int(retained),
            Value::Int(routes),
        ] => {
            let ids = texts(sessions)?.into_iter().map(session_id);
            let mut sessions = ids.collect::<Option<Vec<_>>>()?;
            sessions.sort_unstable();
            Some(Claim::Held(Content {
                epoch,
                reserved: text(reserved)?.parse().ok()?,
                sessions,
                has_retained: *retained > 0,
                has_routes: *routes > 0,
            }))
        }
        _ => None,
    }
}

/// A session from its fields, the fields of its mailbox and its remembered ids. `None` for what cannot be read, `Some(None)` for one that
/// has no record.
fn read_session(fields: &[(&str, &[u8])], mailbox: &Value, known: &Value) -> Option<Option<Found>> {
    let Some((_, record)) = fields.iter().find(|(field, _)| *field == "r") else {
        return Some(None);
    };
    let mut found = Found {
        record: stored::session_record(record)?,
        subscriptions: BTreeMap::new(),
        received: BTreeMap::new(),
        slots: VecDeque::new(),
        known: match known {
            Value::BulkString(ring) => records::read_known(ring),
            _ => Vec::new(),
        },
    };
    for (field, value) in fields {
        if let Some(filter) = field.strip_prefix('f') {
            let record = stored::subscription_record(value)?;
            found.subscriptions.insert(filter.into(), record);
        } else if let Some(packet_id) = field.strip_prefix('p') {
            let message = records::read_message_id(value)?;
            found.received.insert(packet_id.parse().ok()?, message);
        }
    }
    let slots = texts(mailbox)?.into_iter().map(records::slot);
    let mut slots = slots.collect::<Option<Vec<_>>>()?;
    slots.sort_unstable_by_key(|slot| slot.sequence);
    found.slots = slots.into();
    Some(Some(found))
}

/// The fields of a hash with their values.
fn pairs(reply: &Value) -> Option<Vec<(&str, &[u8])>> {
    let Value::Array(parts) = reply else {
        return None;
    };
    parts
        .chunks(2)
        .map(|pair| match pair {
            [field, Value::BulkString(value)] => Some((text(field)?, value.as_slice())),
            _ => None,
        })
        .collect()
}

fn texts(reply: &Value) -> Option<Vec<&str>> {
    match reply {
        Value::Array(parts) | Value::Set(parts) => parts.iter().map(text).collect(),
        _ => None,
    }
}

pub(super) fn unreadable(what: &str, reply: &Value) -> ServersError {
    let kind = match reply {
        Value::Nil => "nothing",
        Value::Array(_) => "a list",
        Value::BulkString(_) => "bytes",
        _ => "something else",
    };
    ServersError::Reply {
        server: "a server".to_owned(),
        detail: format!("{what} is {kind} that this release does not read"),
    }
}

/// Who the writer of a partition is, from a reply of a script that found it to be another; `None` for nobody.
pub(super) fn other_writer(reply: &Value) -> Option<Writer> {
    read_writer(text(reply)?)
}
