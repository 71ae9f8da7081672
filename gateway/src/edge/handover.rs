//! The edge role in a cluster: connections stay where they are while owners and homes move.
//!
//! ```text
//!                     ┌─ live-only, or nothing under way ─▶ away ─Reattached─▶ at its new home
//! its home has moved ─┤                                      └─────Evict─────▶ ended: the session is somebody else's
//!                     └─ in the middle of an exchange ─────▶ DISCONNECT 0x89: the client resumes at the new home
//! ```
//!
//! The subscriptions of a live-only session are known to its edge alone: owners that are new hear of them from here. What owners were
//! asked and may not have answered they are asked again, under a new key, so that a late answer to the first question is none.
//!
//! What a home says is heard only if it comes from the present one, and was said under the view in which the session was given to it, or
//! a later one: a partition may go and come back while a message is on its way.

use std::net::SocketAddr;
use std::sync::Arc;

use edge_proto::reason::ReasonCode;
use edge_proto::session::inbound::Inbound;
use reactor::driver::ConnectionId;
use reactor::slab::Key;

use super::depart::Leave;
use super::login::Login;
use super::session::Session;
use super::{Edge, State};
use crate::core_message::{
    Attach, CoreMessage, Detach, Identify, Origin, Presence, PublishRequest, Reattach, ReplyTo,
    SubscribeRequest, Subscriber, Target, UnsubscribeRequest,
};
use crate::engine::claim::ReceivedId;
use crate::engine::{SubscriptionRecord, WillRecord};
use crate::handover::Speaker;
use crate::message::SessionId;
use crate::ownership::{Ownership, home_partition};
use crate::turn::Turn;

/// What a session in a cluster has to be given to another home.
#[derive(Debug, Default)]
pub(super) struct Attachment {
    /// The view under which it was given to its home.
    pub(super) since: u64,
    /// Where it is.
    pub(super) place: Place,
    /// True when its client has proved again who it is while there was no home to tell.
    pub(super) unidentified: bool,
    /// The will of a live-only session.
    pub(super) will: Option<WillRecord>,
    /// Port that the client connected from.
    pub(super) port: u16,
    /// How each filter of a live-only session is subscribed to, in the order of the filters.
    pub(super) records: Vec<SubscriptionRecord>,
    /// QoS 2 packet identifiers that an earlier connection used: whether their messages went anywhere is not known.
    pub(super) begun: Vec<ReceivedId>,
}

/// Where a session is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Place {
    /// At its home.
    #[default]
    Home,
    /// On its way to a new one.
    Away,
    /// Nowhere: its home does not have it, and is not told of its end.
    Nowhere,
}

/// What a view changes.
struct Change<'a> {
    old: &'a Ownership,
    new: &'a Ownership,
    /// After a view that this core has not seen, everything may have moved and come back.
    all: bool,
}

impl Change<'_> {
    fn has_moved(&self, partition: u16) -> bool {
        self.all || self.old.core_of(partition) != self.new.core_of(partition)
    }

    /// The owners of a filter that do not know it.
    fn new_owners(&self, turn: &Turn<'_>, filter: &str) -> Vec<u16> {
        let depths = &turn.facts.root_depths;
        let old = self.old.owners_of_filter(depths, filter);
        let owners = self.new.owners_of_filter(depths, filter).iter().copied();
        owners
            .filter(|core| self.all || !old.contains(core))
            .collect()
    }

    fn has_moved_filter(&self, turn: &Turn<'_>, filter: &str) -> bool {
        let depths = &turn.facts.root_depths;
        let old = self.old.owners_of_filter(depths, filter);
        self.all || old != self.new.owners_of_filter(depths, filter)
    }
}

impl Session {
    /// What it has to be given to another home; `None` in a node alone.
    pub(super) fn attachment(&mut self) -> Option<&mut Attachment> {
        self.login.as_deref_mut()?.attachment.as_deref_mut()
    }

    /// Its home has it since a view.
    pub(super) fn note_attached(&mut self, since: u64, attach: Attach, begun: Vec<ReceivedId>) {
        let durable = self.durable;
        if let Some(attachment) = self.attachment() {
            attachment.since = since;
            attachment.port = attach.peer.port();
            attachment.will = attach.will.filter(|_| !durable);
            attachment.begun = begun;
        }
    }

    fn place(&self) -> Place {
        let login = self.login.as_deref();
        let attachment = login.and_then(|login| login.attachment.as_deref());
        attachment.map_or(Place::Home, |attachment| attachment.place)
    }

    /// True for a durable session that has no home at the moment: what its client sends has to wait.
    pub(super) fn is_away(&self) -> bool {
        self.durable && self.place() != Place::Home
    }

    /// True when who says something is its home, and has been since the session was given to it.
    pub(super) fn is_home(&mut self, from: Speaker) -> bool {
        let since = self.attachment().map_or(0, |attachment| attachment.since);
        from.core == self.home_core && from.epoch >= since
    }
}

impl Login {
    fn partition(&self) -> u16 {
        home_partition(self.identity.user.as_deref().unwrap_or(&self.client))
    }

    /// Gives a session to the home that the present view says.
    fn reattach(
        &mut self,
        turn: &mut Turn<'_>,
        connection: ConnectionId,
        (session, durable, sent_to): (SessionId, bool, u64),
    ) -> u16 {
        let core = turn.ownership.core_of(self.partition());
        let attachment = self.attachment.get_or_insert_default();
        attachment.since = turn.ownership.epoch();
        attachment.place = Place::Away;
        let reattach = Reattach {
            core: turn.facts.core,
            connection,
            session,
            client_id: self.client.clone(),
            durable,
            will: attachment.will.clone(),
            peer: SocketAddr::new(self.peer, attachment.port),
            identity: Some(Arc::clone(&self.identity)),
            sent_to,
        };
        turn.outbox
            .tell(core, CoreMessage::Reattach(Box::new(reattach)));
        core
    }
}

impl Edge {
    /// A view holds: new homes are given their sessions, new owners hear of what they own.
    pub fn view(&mut self, turn: &mut Turn<'_>, old: &Ownership) {
        let new = Arc::clone(turn.ownership);
        let change = Change {
            old,
            new: &new,
            all: new.epoch() > old.epoch() + 1,
        };
        let ids: Vec<ConnectionId> = self.connections.ids().collect();
        for id in ids {
            self.attach_again(turn, id, &change);
            self.move_home(turn, id, &change);
            self.announce(turn, id, &change);
        }
        self.move_detaching(turn, &change);
        self.operate_again(turn, &change);
        self.scan_again(turn);
    }

    /// A CONNECT whose home has moved goes to the new one.
    fn attach_again(&mut self, turn: &mut Turn<'_>, id: ConnectionId, change: &Change<'_>) {
        let Some(connection) = self.connection(id) else {
            return;
        };
        let State::Attaching(attaching) = &mut connection.state else {
            return;
        };
        if let Some(attach) = &mut attaching.attach
            && change.has_moved(attach.partition())
        {
            let core = change.new.core_of(attach.partition());
            attach.asked = change.new.epoch();
            attaching.home = Speaker {
                core,
                epoch: attach.asked,
            };
            turn.outbox.tell(core, CoreMessage::Attach(attach.clone()));
        }
    }

    fn move_home(&mut self, turn: &mut Turn<'_>, id: ConnectionId, change: &Change<'_>) {
        let receives = self.receiving.contains_key(&id);
        let Some((_, session)) = self.live(id) else {
            return;
        };
        let is_busy = session.durable && (receives || session.is_in_exchange());
        let what = (session.session, session.durable, session.sequence);
        let Some(login) = session.login.as_deref_mut() else {
            return;
        };
        if !change.has_moved(login.partition()) {
            return;
        }
        if is_busy {
            self.forget_receiving(turn, id);
            turn.stats.counters.sessions_interrupted += 1;
            self.leave(turn, id, Leave::because(ReasonCode::ServerBusy));
            return self.abandon_publishes(id); // The home that it has now hears of its end, with the others that wait for that.
        }
        session.home_core = login.reattach(turn, id, what);
    }

    /// Publishes that wait until their packet identifier is recorded go nowhere: the client will send them again.
    fn forget_receiving(&mut self, turn: &mut Turn<'_>, id: ConnectionId) {
        for request in self.receiving.remove(&id).unwrap_or_default() {
            if let Origin::Client { bytes, .. } = request.origin {
                turn.stats.pending_bytes -= u64::from(bytes);
            }
        }
    }

    /// Nobody waits for answers on an ended connection.
    fn abandon_publishes(&mut self, id: ConnectionId) {
        if let Some(detaching) = self.detaching.get_mut(&id) {
            detaching.inbound = Inbound::default();
        }
    }

    /// Owners that are new hear of the subscriptions of a live-only session.
    fn announce(&mut self, turn: &mut Turn<'_>, id: ConnectionId, change: &Change<'_>) {
        let Some((_, session)) = self.live(id) else {
            return;
        };
        let is_limited = session.limited;
        let load = session.traffic.as_ref().map_or(0, |traffic| traffic.load);
        let target = Target::Live {
            core: turn.facts.core,
            connection: id,
        };
        let (number, filters) = (session.session, session.filters.clone());
        let Some(attachment) = session.attachment() else {
            return;
        };
        let mut was_told = false;
        for (filter, record) in filters.iter().zip(&attachment.records) {
            for core in change.new_owners(turn, filter) {
                was_told = true;
                let request = SubscribeRequest {
                    filter: filter.clone(),
                    subscriber: Subscriber::new(number, target, *record),
                    presence: Presence {
                        connected: true,
                        load,
                    },
                    reply: None,
                };
                turn.outbox
                    .tell(core, CoreMessage::Subscribe(Box::new(request)));
            }
        }
        if was_told && is_limited {
            self.review_session(turn, id); // They do not know what the rules allow.
        }
    }

    /// Sessions that have lost their connection and wait for their own publishes.
    fn move_detaching(&mut self, turn: &mut Turn<'_>, change: &Change<'_>) {
        let ids: Vec<ConnectionId> = self.detaching.keys().copied().collect();
        for id in ids {
            let receives = self.receiving.contains_key(&id);
            let Some(detaching) = self.detaching.get_mut(&id) else {
                continue;
            };
            let what = (detaching.session, detaching.durable, detaching.sent_to);
            let Some(login) = detaching.login.as_deref_mut() else {
                continue;
            };
            if !change.has_moved(login.partition()) {
                continue;
            }
            detaching.told = false;
            detaching.home_core = login.reattach(turn, id, what);
            // The home that was to release a packet identifier is not there to say that it has.
            if receives || detaching.inbound.is_releasing() {
                self.forget_receiving(turn, id);
                self.abandon_publishes(id);
            }
        }
    }

    /// Owners are asked again about the SUBSCRIBE and UNSUBSCRIBE packets of live-only sessions, in the order in which they came.
    fn operate_again(&mut self, turn: &mut Turn<'_>, change: &Change<'_>) {
        let operations = self.operations.iter();
        let mut keys: Vec<(u64, Key)> = operations.map(|(key, it)| (it.number, key)).collect();
        keys.sort_unstable();
        for (_, key) in keys {
            let Some(operation) = self.operations.get(key) else {
                continue;
            };
            let (id, filters) = (operation.connection, operation.filters());
            let Some((_, session)) = self.live(id) else {
                self.operations.remove(key);
                continue;
            };
            let mut filters = filters.iter();
            if session.durable
                || !filters.any(|(_, filter, _)| change.has_moved_filter(turn, filter))
            {
                continue;
            }
            if let Some(operation) = self.operations.remove(key) {
                let key = self.operations.insert(operation);
                self.ask_owners(turn, key);
            }
        }
    }

    /// Asks the owners of all filters of a packet of a live-only session, whose filters are noted already.
    fn ask_owners(&mut self, turn: &mut Turn<'_>, key: Key) {
        let Some(operation) = self.operations.get(key) else {
            return;
        };
        let (id, filters) = (operation.connection, operation.filters());
        let Some((_, session)) = self.live(id) else {
            return;
        };
        let load = session.traffic.as_ref().map_or(0, |traffic| traffic.load);
        let session = session.session;
        let mut outstanding = 0;
        for (index, filter, record) in filters {
            let reply = Some(ReplyTo {
                core: turn.facts.core,
                home: false,
                request: key,
                index,
            });
            for &core in turn.owners_of_filter(&filter) {
                outstanding += 1;
                let target = Target::Live {
                    core: turn.facts.core,
                    connection: id,
                };
                let message = match record {
                    Some(record) => CoreMessage::Subscribe(Box::new(SubscribeRequest {
                        filter: filter.clone(),
                        subscriber: Subscriber::new(session, target, record),
                        presence: Presence {
                            connected: true,
                            load,
                        },
                        reply,
                    })),
                    None => CoreMessage::Unsubscribe(Box::new(UnsubscribeRequest {
                        filter: filter.clone(),
                        session,
                        reply,
                    })),
                };
                turn.outbox.tell(core, message);
            }
        }
        if let Some(operation) = self.operations.get_mut(key) {
            operation.outstanding = outstanding;
        }
    }

    /// Pages of retained messages that were asked for are asked for again where the topics have moved.
    fn scan_again(&mut self, turn: &mut Turn<'_>) {
        let keys: Vec<Key> = self.scans.iter().map(|(key, _)| key).collect();
        for key in keys {
            let Some(scan) = self.scans.get_mut(key) else {
                continue;
            };
            let (id, is_moved) = (scan.target, scan.is_moved(turn));
            let traffic = self.live(id).map(|(_, session)| session.traffic());
            let Some(traffic) = traffic else {
                self.scans.remove(key);
                continue;
            };
            if !is_moved || traffic.waiting_scans.contains(&key) {
                continue;
            }
            if let Some(scan) = self.scans.remove(key) {
                let key = self.scans.insert(scan); // A page that is on its way is none of it.
                self.ask_scan(turn, key);
            }
        }
    }

    /// The new home has a session.
    pub fn reattached(&mut self, turn: &mut Turn<'_>, from: Speaker, id: ConnectionId, home: Key) {
        if let Some(detaching) = self.detaching.get_mut(&id) {
            let login = detaching.login.as_deref_mut();
            let Some(attachment) = login.and_then(|login| login.attachment.as_deref_mut()) else {
                return;
            };
            if detaching.home_core == from.core && from.epoch >= attachment.since {
                attachment.place = Place::Home;
                detaching.home = home;
                self.detach_if_quiet(turn, id);
            }
            return;
        }
        let Some((_, session)) = self
            .live(id)
            .filter(|(_, session)| session.place() == Place::Away)
        else {
            return;
        };
        if !session.is_home(from) {
            return;
        }
        session.home = home;
        let Some(login) = session.login.as_deref_mut() else {
            return;
        };
        let Some(attachment) = login.attachment.as_deref_mut() else {
            return;
        };
        attachment.place = Place::Home;
        if std::mem::take(&mut attachment.unidentified) {
            let identify = Identify {
                home,
                identity: Arc::clone(&login.identity),
            };
            let identify = CoreMessage::Identify(Box::new(identify));
            turn.outbox.tell(from.core, identify);
        }
        self.resume(turn, id);
    }

    /// The home knows that a connection has ended.
    pub fn detach_done(&mut self, id: ConnectionId, known: bool) {
        let Some(detaching) = self.detaching.get_mut(&id) else {
            return;
        };
        if detaching.told {
            self.detaching.remove(&id);
        } else if known && !detaching.durable {
            detaching.will = false; // The former home has published it, and the next one is told only that it is over.
        }
    }

    /// The home wants a connection ended; while the session is on its way there, because it has no such session.
    pub fn evict(
        &mut self,
        turn: &mut Turn<'_>,
        from: Speaker,
        (id, home): (ConnectionId, Option<Key>),
        reason: ReasonCode,
    ) {
        if let Some((_, session)) = self.live(id) {
            let is_refused = home.is_none() && session.is_home(from);
            if let Some(attachment) = session.attachment().filter(|_| is_refused) {
                attachment.place = Place::Nowhere;
            }
            turn.stats.counters.takeovers += u64::from(reason == ReasonCode::SessionTakenOver);
            return self.leave(turn, id, Leave::because(reason));
        }
        if let Some(detaching) = self.detaching.get(&id) {
            if detaching.is_away() && detaching.home_core == from.core && home.is_none() {
                self.detaching.remove(&id);
            }
        } else if let Some(home) = home {
            // It is over, and the home waits to hear that.
            let detach = Detach {
                home,
                connection: id,
                core: turn.facts.core,
                will: true,
                expiry_s: None,
                received: Vec::new(),
                sent_to: 0,
            };
            turn.outbox
                .tell(from.core, CoreMessage::Detach(Box::new(detach)));
        }
    }

    /// Sends so many clients to other servers; nothing of their sessions is lost. `servers` are those that clients can be told of.
    pub fn send_elsewhere(&mut self, turn: &mut Turn<'_>, count: usize, servers: &[Box<str>]) {
        let all: Vec<ConnectionId> = self.connections.ids().collect();
        let live = all.into_iter().filter(|id| self.live(*id).is_some());
        let ids: Vec<ConnectionId> = live.take(count).collect();
        for id in ids {
            let place = (self.sent_elsewhere % servers.len().max(1) as u64) as usize;
            self.sent_elsewhere += 1;
            let server = servers.get(place).map(|server| &**server);
            self.leave(turn, id, Leave::elsewhere(server));
        }
    }

    /// Has a QoS 2 packet identifier recorded before its message goes anywhere.
    pub(super) fn receive(
        &mut self,
        turn: &mut Turn<'_>,
        id: ConnectionId,
        packet_id: u16,
        mut request: PublishRequest,
    ) {
        let Some((_, session)) = self.live(id) else {
            return;
        };
        let (home, core) = (session.home, session.home_core);
        request.id = turn.ids.name_message();
        let received = ReceivedId {
            packet_id,
            message: request.id,
        };
        self.receiving.entry(id).or_default().push(request);
        turn.outbox
            .tell(core, CoreMessage::Receive { home, received });
    }

    /// It is recorded, perhaps with the name of an earlier connection's message: then that one is sent again.
    pub fn received_id(&mut self, turn: &mut Turn<'_>, id: ConnectionId, received: ReceivedId) {
        let Some(requests) = self.receiving.get_mut(&id) else {
            return;
        };
        let is_its = |request: &PublishRequest| matches!(request.origin, Origin::Client { packet_id, .. } if packet_id == received.packet_id);
        let Some(place) = requests.iter().position(is_its) else {
            return;
        };
        let mut request = requests.remove(place);
        if requests.is_empty() {
            self.receiving.remove(&id);
        }
        request.retry = request.id != received.message;
        request.id = received.message;
        turn.route(request);
    }
}

impl super::Detaching {
    /// True while its new home has not answered.
    pub(super) fn is_away(&self) -> bool {
        let login = self.login.as_deref();
        let attachment = login.and_then(|login| login.attachment.as_deref());
        attachment.is_some_and(|attachment| attachment.place == Place::Away)
    }
}
