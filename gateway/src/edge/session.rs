//! A session at its edge: what the protocol of one connection needs, small while idle.

use std::collections::VecDeque;
use std::sync::Arc;

use edge_proto::packet::Version;
use edge_proto::session::alias::{InboundAliases, OutboundAliases};
use edge_proto::session::inbound::Inbound;
use edge_proto::session::outbound::Outbound;
use reactor::slab::Key;

use super::login::Login;
use super::throttle::Throttle;
use crate::core_message::{Presence, load_level};
use crate::engine::claim::ReceivedId;
use crate::engine::{Delivery, SubscriptionRecord};
use crate::limits::Limits;
use crate::message::{Message, SessionId};
use crate::turn::{Turn, is_shared};

/// A connected session.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) session: SessionId,
    pub(super) home: Key,
    pub(super) home_core: u16,
    pub(super) version: Version,
    /// True when the engine has its state: acknowledgements go to its home.
    pub(super) durable: bool,
    /// True when the client takes reason strings and user properties on all packets.
    pub(super) problem_information: bool,
    pub(super) keep_alive_s: u16,
    /// Messages the client takes at once, within the server's bound.
    pub(super) receive_maximum: u16,
    pub(super) topic_alias_maximum: u16,
    /// The longest packet of the protocol when the client has no limit.
    pub(super) maximum_packet_size: u32,
    pub(super) expiry_s: u32,
    /// Below 0 for a moment when one is cut whose SUBSCRIBE is not answered yet.
    pub(super) subscriptions: i32,
    /// Filters of SUBSCRIBE and UNSUBSCRIBE packets that are not answered yet.
    pub(super) subscribing: u16,
    /// Highest sequence that was written to this connection; the last one given, in a live-only session.
    pub(super) sequence: u64,
    /// Filters of a live-only session; the owners forget them when it ends.
    pub(super) filters: Box<[Box<str>]>,
    /// True exactly when one of `filters` is a shared subscription: its owners hear how busy the session is.
    pub(super) shared: bool,
    /// True when an owner was told that the rules allow one of `filters` less than the highest QoS.
    pub(super) limited: bool,
    /// Who its client is, where that matters.
    pub(super) login: Option<Box<Login>>,
    pub(super) traffic: Option<Box<Traffic>>,
}

// A block of 96 bytes of the allocator has room for 88.
const _: () = assert!(size_of::<Session>() <= 88, "there is one for every session");

/// What a session needs only in traffic.
#[derive(Debug, Default)]
pub(super) struct Traffic {
    /// Messages that wait for the client.
    pub(super) queue: VecDeque<Queued>,
    pub(super) queue_bytes: u64,
    /// What the owners of shared subscriptions heard last of the queue.
    pub(super) load: u8,
    /// True from when it gets messages out of the queue of a group until it has done with all it has: these are told as its
    /// load too, so that it gets no more while it is busy.
    pub(super) handed: bool,
    /// Messages sent and not acknowledged, with the bytes they had.
    pub(super) outbound: Outbound<u32>,
    pub(super) inbound: Inbound,
    pub(super) inbound_aliases: Option<Box<InboundAliases>>,
    pub(super) outbound_aliases: Option<Box<OutboundAliases>>,
    /// Retained messages still to be asked for, once the queue is empty.
    pub(super) waiting_scans: Vec<Key>,
    /// How fast the client sent lately, where that is bounded.
    pub(super) throttle: Option<Box<Throttle>>,
}

/// A message that waits for the client.
#[derive(Debug)]
pub(super) struct Queued {
    pub(super) message: Arc<Message>,
    pub(super) delivery: Delivery,
    /// Its place in the mailbox; 0 when the edge alone answers for it.
    pub(super) sequence: u64,
    pub(super) dup: bool,
    /// True when its delivery has begun on an earlier connection: it does not expire any more.
    pub(super) begun: bool,
}

impl Session {
    /// Notes a filter of a live-only session, and how it is subscribed to. True when it is a new one.
    pub(super) fn add_filter(&mut self, filter: &str, record: SubscriptionRecord) -> bool {
        let known = self.filters.iter().position(|known| **known == *filter);
        if let Some(attachment) = self.attachment() {
            match known {
                Some(place) => attachment.records[place] = record,
                None => attachment.records.push(record),
            }
        }
        if known.is_none() {
            self.push_filter(filter.into());
        }
        known.is_none()
    }

    fn push_filter(&mut self, filter: Box<str>) {
        self.shared |= is_shared(&filter);
        let mut filters = std::mem::take(&mut self.filters).into_vec();
        filters.reserve_exact(1);
        filters.push(filter);
        self.filters = filters.into();
    }

    /// Forgets a filter of a live-only session. True when it had it.
    pub(super) fn remove_filter(&mut self, filter: &str) -> bool {
        let Some(place) = self.filters.iter().position(|known| **known == *filter) else {
            return false;
        };
        if let Some(attachment) = self.attachment() {
            attachment.records.remove(place);
        }
        let mut filters = std::mem::take(&mut self.filters).into_vec();
        filters.remove(place);
        self.filters = filters.into();
        self.shared = self.filters.iter().any(|filter| is_shared(filter));
        true
    }

    /// True while something is under way between its client and its home.
    pub(super) fn is_in_exchange(&self) -> bool {
        let traffic = self.traffic.as_deref();
        let is_busy = |traffic: &Traffic| {
            !traffic.outbound.is_empty()
                || traffic.inbound.is_releasing()
                || traffic.queue.iter().any(|queued| queued.sequence > 0)
        };
        self.subscribing > 0 || traffic.is_some_and(is_busy)
    }

    /// How long the client may be silent, in milliseconds; `u64::MAX / 2` without keep-alive.
    pub(super) fn keep_alive_limit_ms(&self) -> u64 {
        if self.keep_alive_s == 0 {
            u64::MAX / 2
        } else {
            u64::from(self.keep_alive_s) * 1500
        }
    }

    /// When to look whether the client was silent until `due_ms`: a little later, together with others, so that a core with
    /// many idle sessions wakes once for many of them.
    pub(super) fn keep_alive_look_ms(&self, due_ms: u64) -> u64 {
        const STEP_MS_MAX: u64 = 1_024;
        let step_ms = (self.keep_alive_limit_ms() / 32).clamp(1, STEP_MS_MAX);
        due_ms.next_multiple_of(step_ms)
    }

    /// True when so much of its asking is unanswered, or so many retained messages are still to be sent, that it has to wait.
    pub(super) fn is_subscribing_too_much(&self, limits: &Limits) -> bool {
        let scans = self
            .traffic
            .as_ref()
            .map_or(0, |traffic| traffic.waiting_scans.len());
        let bound = limits.filters_per_packet_max.min(u16::MAX.into());
        usize::from(self.subscribing) + scans >= bound
    }

    /// Tells the owners of shared subscriptions when more or less waits for the client than did.
    pub(super) fn tell_load(&mut self, turn: &mut Turn<'_>) {
        let Some(traffic) = self.traffic.as_deref_mut().filter(|_| self.shared) else {
            return;
        };
        let in_flight = if traffic.handed {
            traffic.outbound.len()
        } else {
            0
        };
        let waiting = traffic.queue.len() + in_flight;
        traffic.handed &= waiting > 0;
        let load = load_level(traffic.load, waiting as u64);
        if traffic.load != load {
            traffic.load = load;
            let shared = self.filters.iter().filter(|filter| is_shared(filter));
            let connected = true;
            turn.tell_presence(self.session, shared, Presence { connected, load });
        }
    }

    /// The traffic state, made when there is none.
    pub(super) fn traffic(&mut self) -> &mut Traffic {
        self.traffic.get_or_insert_default()
    }

    /// The traffic state, if there is one.
    pub(super) fn traffic_if_any(&mut self) -> Option<&mut Traffic> {
        self.traffic.as_deref_mut()
    }

    /// Takes the traffic state away, when the session ends.
    pub(super) fn take_traffic(&mut self) -> Option<Box<Traffic>> {
        self.traffic.take()
    }

    /// Gives the memory of past traffic back.
    pub(super) fn relax(&mut self, turn: &Turn<'_>) {
        if self
            .traffic
            .as_mut()
            .is_some_and(|traffic| traffic.is_idle(turn))
        {
            self.traffic = None;
        }
    }
}

impl Traffic {
    /// The traffic state of a resumed session: QoS 2 packet identifiers received and not released.
    pub(super) fn resumed(received: &[ReceivedId]) -> Option<Box<Self>> {
        let ids = received.iter().map(|received| received.packet_id);
        let resume = || {
            Box::new(Self {
                inbound: Inbound::resume(ids.collect()),
                ..Self::default()
            })
        };
        (!received.is_empty()).then(resume)
    }

    fn is_idle(&mut self, turn: &Turn<'_>) -> bool {
        let rates = &turn.facts.limits.session_rates;
        let throttle = self.throttle.as_deref_mut();
        throttle.is_none_or(|throttle| throttle.is_idle(rates, turn.now.mono_ms))
            && self.queue.is_empty()
            && self.outbound.is_empty()
            && self.inbound.is_empty()
            && self.inbound_aliases.is_none()
            && self.outbound_aliases.is_none()
            && self.waiting_scans.is_empty()
    }
}
