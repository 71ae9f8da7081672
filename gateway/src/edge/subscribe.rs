//! SUBSCRIBE and UNSUBSCRIBE: every filter goes to its owner (live-only sessions) or to the home (durable ones), and the
//! client is answered when all of them have answered.

use edge_proto::encode;
use edge_proto::packet::{
    PacketType, QoS, RetainHandling, SubAck, Subscribe, Unsubscribe, UserProperties,
};
use edge_proto::reason::{ReasonCode, Violation};
use edge_proto::topic::{SharedFilter, TopicFilter};
use reactor::driver::ConnectionId;
use reactor::slab::Key;

use super::login::judge_subscribe;
use super::{Edge, Flow};
use crate::core_message::{
    CoreMessage, Deliver, HomeSubscribe, Presence, Recipient, ReplyTo, RetainedPage,
    SubscribeRequest, Subscriber, Target, UnsubscribeRequest,
};
use crate::engine::SubscriptionRecord;
use crate::retained_scan::{self, Scan};
use crate::turn::{Turn, is_shared};

/// A SUBSCRIBE or UNSUBSCRIBE that waits for its owners.
#[derive(Debug)]
pub(super) struct SubscribePacket {
    /// Counts these packets at their edge.
    pub(super) number: u64,
    pub(super) connection: ConnectionId,
    packet_id: u16,
    pub(super) outstanding: u32,
    /// One reason code per filter; the lists below have no more of them than a packet may have.
    reasons: Vec<u8>,
    /// What was asked for, by filter; `None` for an UNSUBSCRIBE and for refused filters.
    wanted: Vec<Option<(Box<str>, SubscriptionRecord)>>,
    /// The filters of an UNSUBSCRIBE of a live-only session.
    unwanted: Vec<Box<str>>,
    /// Whether each subscription existed before. Of a durable session its home says so, of a live-only one the session itself.
    existed: Vec<bool>,
    /// Filters of which only an existing subscription may be replaced: the session has as many as it may.
    only_replaces: Vec<bool>,
    /// True for a durable session.
    asks_home: bool,
    subscribe: bool,
}

const TOO_MANY_FILTERS: Violation = Violation::new(
    ReasonCode::QuotaExceeded,
    "MQTT5 §3.10.3",
    "more filters in one UNSUBSCRIBE than this server takes",
);

impl Edge {
    /// SUBSCRIBE (§3.8).
    pub(super) fn subscribe(
        &mut self,
        turn: &mut Turn<'_>,
        id: ConnectionId,
        packet: &Subscribe<'_>,
    ) -> Result<Flow, Violation> {
        let subscription_id = packet.subscription_id.unwrap_or(0);
        let mut operation = self.operation(id, packet.packet_id, true);
        for (filter, mut options) in packet.filters.iter() {
            let parsed = match SharedFilter::parse(filter)? {
                Some(shared) => shared.filter,
                None => TopicFilter::parse(filter)?,
            };
            let place = operation.reasons.len();
            if place >= turn.facts.limits.filters_per_packet_max {
                // Its place in the answer is all that it costs.
                operation.reasons.push(ReasonCode::QuotaExceeded as u8);
                continue;
            }
            operation.existed.push(false);
            let admitted = self
                .admit(turn, id, filter, parsed, place)
                .and_then(|only_replaces| {
                    let (_, session) = self.live(id).ok_or(ReasonCode::UnspecifiedError)?;
                    let asked = options.maximum_qos;
                    options.maximum_qos = judge_subscribe(turn, id, session, filter, asked)?;
                    Ok(only_replaces)
                });
            operation.only_replaces.push(admitted == Ok(true));
            operation
                .reasons
                .push(admitted.map_or_else(|reason| reason as u8, |_| options.maximum_qos as u8));
            let record = SubscriptionRecord {
                options,
                subscription_id,
            };
            operation
                .wanted
                .push(admitted.is_ok().then(|| (filter.into(), record)));
        }
        let wanted = operation.wanted.iter().zip(&operation.only_replaces);
        let requests: Vec<_> = wanted
            .enumerate()
            .filter_map(|(index, (wanted, only_replaces))| {
                let (filter, record) = wanted.clone()?;
                Some((index as u16, filter, record, *only_replaces))
            })
            .collect();
        let key = self.operations.insert(operation);
        let mut outstanding = 0;
        for (index, filter, record, only_replaces) in requests {
            let reply = ReplyTo {
                core: turn.facts.core,
                home: false,
                request: key,
                index,
            };
            outstanding += self.ask_subscribe(turn, id, reply, filter, (record, only_replaces));
        }
        self.wait_for(turn, key, outstanding);
        Ok(Flow::Continue)
    }

    fn operation(&mut self, id: ConnectionId, packet_id: u16, subscribe: bool) -> SubscribePacket {
        self.subscribe_packets += 1;
        SubscribePacket {
            number: self.subscribe_packets,
            connection: id,
            packet_id,
            outstanding: 0,
            reasons: Vec::new(),
            wanted: Vec::new(),
            unwanted: Vec::new(),
            existed: Vec::new(),
            only_replaces: Vec::new(),
            asks_home: self.live(id).is_some_and(|(_, session)| session.durable),
            subscribe,
        }
    }

    /// Whether a session may have this subscription. True when only an existing one may be replaced, and its home must find out
    /// whether there is one.
    fn admit(
        &mut self,
        turn: &Turn<'_>,
        id: ConnectionId,
        whole: &str,
        filter: TopicFilter<'_>,
        index: usize,
    ) -> Result<bool, ReasonCode> {
        let limits = &turn.facts.limits;
        let Some((_, session)) = self.live(id) else {
            return Err(ReasonCode::UnspecifiedError);
        };
        let too_long = filter.as_str().len() > limits.topic_bytes_max;
        if too_long || filter.levels().count() > limits.topic_levels_max {
            return Err(ReasonCode::TopicFilterInvalid);
        }
        let count = session.subscriptions + i32::from(session.subscribing) + index as i32;
        if count.max(0).cast_unsigned() < limits.subscriptions_per_session_max {
            return Ok(false);
        }
        let known = session.filters.iter().any(|known| **known == *whole);
        match (session.durable, known) {
            (true, _) => Ok(true),
            (false, true) => Ok(false),
            (false, false) => Err(ReasonCode::QuotaExceeded),
        }
    }

    /// Asks whoever is responsible for one subscription; returns how many answers will come.
    fn ask_subscribe(
        &mut self,
        turn: &mut Turn<'_>,
        id: ConnectionId,
        reply: ReplyTo,
        filter: Box<str>,
        (record, only_replaces): (SubscriptionRecord, bool),
    ) -> u32 {
        let Some((_, session)) = self.live(id) else {
            return 0;
        };
        if session.durable {
            let request = HomeSubscribe {
                home: session.home,
                reply,
                filter,
                options: record.options,
                subscription_id: record.subscription_id,
                only_replaces,
            };
            turn.outbox.tell(
                session.home_core,
                CoreMessage::HomeSubscribe(Box::new(request)),
            );
            return 1;
        }
        let is_new = session.add_filter(&filter, record);
        if !is_new {
            self.end_scans(id, &filter);
        }
        if let Some(operation) = self.operations.get_mut(reply.request) {
            operation.existed[usize::from(reply.index)] = !is_new;
        }
        let Some((_, session)) = self.live(id) else {
            return 0;
        };
        session.tell_load(turn); // To the owners that it has already; the new one hears of it with the request.
        let load = session.traffic.as_ref().map_or(0, |traffic| traffic.load);
        let target = Target::Live {
            core: turn.facts.core,
            connection: id,
        };
        let subscriber = Subscriber::new(session.session, target, record);
        let owners = turn.owners_of_filter(&filter);
        let count = owners.len() as u32;
        for &core in owners {
            let request = SubscribeRequest {
                filter: filter.clone(),
                subscriber,
                presence: Presence {
                    connected: true,
                    load,
                },
                reply: Some(reply),
            };
            turn.outbox
                .tell(core, CoreMessage::Subscribe(Box::new(request)));
        }
        count
    }

    /// UNSUBSCRIBE (§3.10).
    pub(super) fn unsubscribe(
        &mut self,
        turn: &mut Turn<'_>,
        id: ConnectionId,
        packet: &Unsubscribe<'_>,
    ) -> Result<Flow, Violation> {
        let mut operation = self.operation(id, packet.packet_id, false);
        let mut filters: Vec<Box<str>> = Vec::new();
        for filter in packet.filters.iter() {
            if SharedFilter::parse(filter)?.is_none() {
                TopicFilter::parse(filter)?;
            }
            if operation.reasons.len() >= turn.facts.limits.filters_per_packet_max {
                return Err(TOO_MANY_FILTERS);
            }
            operation
                .reasons
                .push(ReasonCode::NoSubscriptionExisted as u8);
            operation.existed.push(false);
            operation.wanted.push(None);
            filters.push(filter.into());
        }
        let key = self.operations.insert(operation);
        let mut outstanding = 0;
        for (index, filter) in filters.into_iter().enumerate() {
            let reply = ReplyTo {
                core: turn.facts.core,
                home: false,
                request: key,
                index: index as u16,
            };
            let Some((_, session)) = self.live(id) else {
                return Ok(Flow::Closed);
            };
            if session.durable {
                outstanding += 1;
                let ask = CoreMessage::HomeUnsubscribe {
                    home: session.home,
                    reply,
                    filter,
                };
                turn.outbox.tell(session.home_core, ask);
                continue;
            }
            self.end_scans(id, &filter);
            let Some((_, session)) = self.live(id) else {
                return Ok(Flow::Closed);
            };
            let existed = session.remove_filter(&filter);
            let session = session.session;
            if let Some(operation) = self.operations.get_mut(key) {
                operation.existed[index] = existed;
                operation.unwanted.push(filter.clone());
            }
            for &core in turn.owners_of_filter(&filter) {
                outstanding += 1;
                let request = UnsubscribeRequest {
                    filter: filter.clone(),
                    session,
                    reply: Some(reply),
                };
                turn.outbox
                    .tell(core, CoreMessage::Unsubscribe(Box::new(request)));
            }
        }
        self.wait_for(turn, key, outstanding);
        Ok(Flow::Continue)
    }

    /// Ends a subscription of a live-only session that it may not have any more.
    pub(super) fn cut_subscription(&mut self, turn: &mut Turn<'_>, id: ConnectionId, filter: &str) {
        self.end_scans(id, filter);
        let Some((_, session)) = self.live(id) else {
            return;
        };
        session.remove_filter(filter);
        session.subscriptions -= 1;
        turn.stats.counters.subscriptions_cut += 1;
        let session = session.session;
        for &core in turn.owners_of_filter(filter) {
            let request = UnsubscribeRequest {
                filter: filter.into(),
                session,
                reply: None,
            };
            turn.outbox
                .tell(core, CoreMessage::Unsubscribe(Box::new(request)));
        }
    }

    /// The home has ended a subscription of a durable session.
    pub fn subscription_cut(&mut self, id: ConnectionId) {
        if let Some((_, session)) = self.live(id) {
            session.subscriptions -= 1;
        }
    }

    /// Tells the owners of a subscription of a live-only session what the rules allow it now.
    pub(super) fn limit_subscription(
        &mut self,
        turn: &mut Turn<'_>,
        id: ConnectionId,
        filter: &str,
        qos_allowed: QoS,
    ) {
        let Some((_, session)) = self.live(id) else {
            return;
        };
        turn.limit_subscription(session.session, filter, qos_allowed);
        let of_it = self.scans.iter();
        let of_it = of_it.filter(|(_, scan)| scan.is_for(&id, filter));
        let scans: Vec<Key> = of_it.map(|(key, _)| key).collect();
        for key in scans {
            if let Some(scan) = self.scans.get_mut(key) {
                scan.record.limit(qos_allowed);
            }
        }
    }

    /// Ends the scans of a subscription that is replaced or removed.
    fn end_scans(&mut self, id: ConnectionId, filter: &str) {
        let ended = self
            .scans
            .iter()
            .filter(|(_, scan)| scan.is_for(&id, filter));
        let ended: Vec<Key> = ended.map(|(key, _)| key).collect();
        for key in ended {
            self.scans.remove(key);
            if let Some((_, session)) = self.live(id) {
                session
                    .traffic()
                    .waiting_scans
                    .retain(|waiting| *waiting != key);
            }
        }
    }

    /// Waits for so many answers; without any the client is answered at once.
    fn wait_for(&mut self, turn: &mut Turn<'_>, key: Key, outstanding: u32) {
        let Some(operation) = self.operations.get_mut(key) else {
            return;
        };
        operation.outstanding = outstanding;
        let (id, filters) = (operation.connection, operation.asked());
        if let Some((_, session)) = self.live(id) {
            session.subscribing = session.subscribing.saturating_add(filters);
        }
        if outstanding == 0 {
            self.answer_subscription(turn, key);
        }
    }

    /// An owner or the home has made or removed a subscription.
    pub fn subscription_done(&mut self, turn: &mut Turn<'_>, reply: ReplyTo, existed: bool) {
        let Some(operation) = self.operations.get_mut(reply.request) else {
            return;
        };
        operation.existed[usize::from(reply.index)] |= existed && operation.asks_home;
        operation.outstanding -= 1;
        if operation.outstanding == 0 {
            self.answer_subscription(turn, reply.request);
        }
    }

    /// SUBACK or UNSUBACK, and the retained messages after it.
    fn answer_subscription(&mut self, turn: &mut Turn<'_>, key: Key) {
        let Some(mut operation) = self.operations.remove(key) else {
            return;
        };
        let id = operation.connection;
        let Some((link, session)) = self.live(id) else {
            return;
        };
        let filters = operation.asked();
        session.subscribing = session.subscribing.saturating_sub(filters);
        for (index, existed) in operation.existed.iter().enumerate() {
            if operation.subscribe && operation.only_replaces[index] && !existed {
                operation.reasons[index] = ReasonCode::QuotaExceeded as u8;
                operation.wanted[index] = None;
            }
            if operation.subscribe {
                let is_new = operation.wanted[index].is_some() && !existed;
                session.subscriptions += i32::from(is_new);
                turn.stats.counters.subscribes += u64::from(operation.wanted[index].is_some());
            } else if *existed {
                operation.reasons[index] = ReasonCode::Success as u8;
                session.subscriptions -= 1;
                turn.stats.counters.unsubscribes += 1;
            }
        }
        let answer = SubAck {
            packet_id: operation.packet_id,
            reason_string: None,
            user_properties: UserProperties::default(),
            reasons: &operation.reasons,
        };
        let (version, packet_id) = (session.version, operation.packet_id);
        if operation.subscribe {
            link.answer(turn, PacketType::SubAck, packet_id, |out| {
                encode::suback(out, version, &answer);
            });
        } else {
            link.answer(turn, PacketType::UnsubAck, packet_id, |out| {
                encode::unsuback(out, version, &answer);
            });
        }
        if !session.durable {
            let wanted = operation.wanted.into_iter().zip(operation.existed);
            for ((filter, record), existed) in
                wanted.filter_map(|(wanted, existed)| Some((wanted?, existed)))
            {
                let session = self.live(id).map(|(_, session)| session);
                if session.is_none_or(|session| !session.filters.contains(&filter)) {
                    continue; // It was cut while it was made.
                }
                self.start_scan(turn, id, filter, record, existed);
            }
        }
        self.resume(turn, id);
    }

    /// Asks for the retained messages that a new subscription of a live-only session gets.
    fn start_scan(
        &mut self,
        turn: &mut Turn<'_>,
        id: ConnectionId,
        filter: Box<str>,
        record: SubscriptionRecord,
        existed: bool,
    ) {
        let wanted = match record.options.retain_handling {
            RetainHandling::Send => true,
            RetainHandling::SendIfNew => !existed,
            RetainHandling::DoNotSend => false,
        };
        if !wanted || is_shared(&filter) {
            return; // Shared subscriptions get no retained messages (MQTT 5.0 §4.8.2).
        }
        let owners = turn.owners_of_filter(&filter);
        let key = self.scans.insert(Scan::new(id, filter, record, owners));
        self.ask_scan(turn, key);
    }

    pub(super) fn ask_scan(&self, turn: &mut Turn<'_>, key: Key) {
        let Some(scan) = self.scans.get(key) else {
            return;
        };
        scan.ask(
            turn,
            None,
            ReplyTo {
                core: turn.facts.core,
                home: false,
                request: key,
                index: 0,
            },
        );
    }

    /// A page of retained messages for a live-only session. The next one is asked for when this one has been sent.
    pub fn retained_page(&mut self, turn: &mut Turn<'_>, page: RetainedPage) {
        let key = page.reply.request;
        let Some(scan) = self.scans.get_mut(key) else {
            return;
        };
        let (id, record) = (scan.target, scan.record);
        let more = scan.advance(page.next);
        for message in page.messages {
            let delivery = retained_scan::delivery(&message, record);
            let recipients = vec![Recipient {
                connection: id,
                delivery,
            }];
            self.deliver(
                turn,
                Deliver {
                    message,
                    recipients,
                    answer: None,
                    is_lossy: false,
                },
            );
        }
        let Some((_, session)) = self.live(id).filter(|_| more) else {
            self.scans.remove(key);
            return self.continue_scan(turn, id);
        };
        session.traffic().waiting_scans.push(key);
        self.continue_scan(turn, id);
    }

    /// Asks for the next page once the queue is empty.
    pub(super) fn continue_scan(&mut self, turn: &mut Turn<'_>, id: ConnectionId) {
        let Some((_, session)) = self.live(id) else {
            return;
        };
        let Some(traffic) = session.traffic_if_any() else {
            return;
        };
        if !traffic.queue.is_empty() || traffic.waiting_scans.is_empty() {
            return;
        }
        let key = traffic.waiting_scans.remove(0);
        self.ask_scan(turn, key);
        self.resume(turn, id);
    }
}

impl SubscribePacket {
    /// What its owners are asked: place in the packet, filter, and how it is subscribed to; `None` for an UNSUBSCRIBE.
    pub(super) fn filters(&self) -> Vec<(u16, Box<str>, Option<SubscriptionRecord>)> {
        let wanted = self.wanted.iter().enumerate();
        let wanted = wanted.filter_map(|(index, wanted)| {
            let (filter, record) = wanted.clone()?;
            Some((index as u16, filter, Some(record)))
        });
        let unwanted = self.unwanted.iter().enumerate();
        let unwanted = unwanted.map(|(index, filter)| (index as u16, filter.clone(), None));
        wanted.chain(unwanted).collect()
    }

    /// Filters that somebody is asked about, which is what bounds the next packet.
    fn asked(&self) -> u16 {
        u16::try_from(self.existed.len()).unwrap_or(u16::MAX)
    }
}
