//! A subscriber that keeps the rules: it remembers the QoS 2 packet identifiers it has received until their PUBREL, also across
//! connections, and answers late, in bursts, or not at all before it is cut off.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;

use edge_proto::packet::{PacketType, QoS, Version};

use super::ledger::{Ledger, root};
use super::trace::Trace;
use crate::random::Random;
use crate::wire::{Arrived, Received, Wire};

/// A session that outlives every run.
const EXPIRY_S: u32 = 24 * 3600;
/// Packet identifier of SUBSCRIBE and UNSUBSCRIBE; one is on its way at a time.
const REQUEST_ID: u16 = 7;

/// What it has asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Nothing,
    Subscribe,
    Unsubscribe,
}

/// How a subscriber behaves.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Manner {
    pub(crate) version: Version,
    pub(crate) durable: bool,
    /// Unsubscribes and subscribes again, now and then.
    pub(crate) toggles: bool,
}

/// One subscriber.
#[derive(Debug)]
pub(crate) struct Subscriber {
    pub(crate) name: String,
    reader: usize,
    manner: Manner,
    qos: QoS,
    filters: Vec<String>,
    pub(crate) wire: Option<Wire>,
    /// True exactly when it stays away for this cycle.
    pub(crate) absent: bool,
    online: bool,
    had_session: bool,
    /// CONNECTs sent.
    tried: u32,
    subscribed: bool,
    asked: Asked,
    /// QoS 2 packet identifiers received and not released.
    held: BTreeSet<u16>,
    replies: VecDeque<(PacketType, u16)>,
    /// The newest message of each publisher, root and QoS.
    newest: BTreeMap<(usize, String, u8), usize>,
    pub(crate) trace: Trace,
}

impl Subscriber {
    /// A subscriber that has never connected.
    pub(crate) fn new(
        name: &str,
        reader: usize,
        manner: Manner,
        qos: QoS,
        filters: &[&str],
    ) -> Self {
        Self {
            name: name.to_owned(),
            reader,
            manner,
            qos,
            filters: filters.iter().map(|filter| (*filter).to_owned()).collect(),
            wire: None,
            absent: false,
            online: false,
            had_session: false,
            tried: 0,
            subscribed: false,
            asked: Asked::Nothing,
            held: BTreeSet::new(),
            replies: VecDeque::new(),
            newest: BTreeMap::new(),
            trace: Trace::default(),
        }
    }

    /// True when it is connected, has subscribed, and owes no answer.
    pub(crate) fn is_settled(&self) -> bool {
        self.online
            && self.asked == Asked::Nothing
            && self.replies.is_empty()
            && (self.subscribed || self.manner.toggles)
    }

    /// Connects if it is not connected and not to stay away.
    pub(crate) fn connect(&mut self, ledger: &mut Ledger, address: SocketAddr) {
        if self.wire.is_some() || self.absent {
            return;
        }
        let Ok(mut wire) = Wire::open(address, self.manner.version) else {
            return;
        };
        wire.connect(
            &self.name,
            !self.manner.durable,
            if self.manner.durable { EXPIRY_S } else { 0 },
        );
        self.trace.note(ledger.tick(), "→ CONNECT");
        self.wire = Some(wire);
        self.tried += 1;
        self.online = false;
    }

    /// The connection is gone.
    pub(crate) fn lost(&mut self, ledger: &mut Ledger, why: &str) {
        self.wire = None;
        self.online = false;
        self.replies.clear();
        self.trace
            .note(ledger.tick(), format_args!("connection over: {why}"));
    }

    /// Answers what it has, or not yet; and changes its mind about its subscription.
    pub(crate) fn act(&mut self, ledger: &mut Ledger, random: &mut Random, may_toggle: bool) {
        if !self.online {
            return;
        }
        if random.per_mille(600) {
            self.reply(ledger);
        }
        let toggle = self.manner.toggles
            && may_toggle
            && self.asked == Asked::Nothing
            && random.per_mille(30);
        if toggle {
            self.asked = if self.subscribed {
                Asked::Unsubscribe
            } else {
                Asked::Subscribe
            };
            match self.asked {
                Asked::Subscribe => ledger.subscribing(self.reader),
                _ => ledger.unsubscribing(self.reader),
            }
            self.ask(ledger);
        }
    }

    fn reply(&mut self, ledger: &mut Ledger) {
        let Some(wire) = &mut self.wire else { return };
        for (packet_type, packet_id) in self.replies.drain(..) {
            wire.ack(packet_type, packet_id);
            self.trace.note(
                ledger.tick(),
                format_args!("→ {packet_type:?} #{packet_id}"),
            );
        }
    }

    /// Sends what it asks for; after a lost connection, again.
    fn ask(&mut self, ledger: &mut Ledger) {
        let Some(wire) = &mut self.wire else { return };
        let filters: Vec<&str> = self.filters.iter().map(String::as_str).collect();
        match self.asked {
            Asked::Nothing => return,
            Asked::Subscribe => wire.subscribe(REQUEST_ID, &filters, self.qos),
            Asked::Unsubscribe => filters
                .iter()
                .for_each(|filter| wire.unsubscribe(REQUEST_ID, filter)),
        }
        self.trace.note(
            ledger.tick(),
            format_args!("→ {:?} {filters:?}", self.asked),
        );
    }

    /// A packet of the server.
    pub(crate) fn received(&mut self, ledger: &mut Ledger, packet: Received) {
        let tick = ledger.tick();
        match packet {
            Received::ConnAck { present, reason } => {
                self.trace.note(
                    tick,
                    format_args!("← CONNACK present={present} {}", reason.name()),
                );
                if reason.is_error() {
                    let text = format!("CONNECT refused: {}", reason.name());
                    return ledger.violated(&self.name, None, text);
                }
                self.connected(ledger, present);
            }
            Received::SubAck(_, reasons) => {
                self.trace.note(tick, format_args!("← SUBACK {reasons:?}"));
                if reasons.iter().any(|reason| *reason != self.qos as u8) {
                    ledger.violated(
                        &self.name,
                        None,
                        format!("SUBSCRIBE answered with {reasons:?}"),
                    );
                }
                ledger.subscribed(self.reader);
                (self.asked, self.subscribed) = (Asked::Nothing, true);
            }
            Received::UnsubAck(_) => {
                self.trace.note(tick, "← UNSUBACK");
                ledger.unsubscribed(self.reader);
                (self.asked, self.subscribed) = (Asked::Nothing, false);
            }
            Received::PubRel(packet_id) => {
                self.trace.note(tick, format_args!("← PUBREL #{packet_id}"));
                self.held.remove(&packet_id);
                self.replies.push_back((PacketType::PubComp, packet_id));
            }
            Received::Publish(arrived) => self.arrived(ledger, tick, &arrived),
            other => self.trace.note(tick, format_args!("← {other:?}")),
        }
    }

    fn connected(&mut self, ledger: &mut Ledger, present: bool) {
        let wrong = if present {
            self.tried == 1 || !self.manner.durable
        } else {
            self.had_session && self.manner.durable
        };
        if wrong {
            ledger.violated(&self.name, None, format!("session present is {present}"));
        }
        self.online = true;
        self.had_session = true;
        if !present {
            self.held.clear();
            self.newest.clear();
            self.subscribed = false;
        }
        if !self.manner.durable {
            ledger.begins_anew(self.reader);
        }
        if !present || (!self.subscribed && !self.manner.toggles) {
            self.asked = Asked::Subscribe;
            ledger.subscribing(self.reader);
        }
        self.ask(ledger);
    }

    fn arrived(&mut self, ledger: &mut Ledger, tick: u64, arrived: &Arrived) {
        let Arrived {
            dup,
            qos,
            packet_id,
            ref topic,
            ref payload,
            ..
        } = *arrived;
        let number = payload
            .strip_prefix(b"m")
            .and_then(|rest| rest.split(|byte| *byte == b' ').next());
        let number = number
            .and_then(|digits| str::from_utf8(digits).ok())
            .and_then(|digits| digits.parse::<usize>().ok());
        let Some(message) = number.filter(|number| *number < ledger.messages.len()) else {
            return ledger.violated(
                &self.name,
                None,
                format!("a message on {topic} that nobody sent"),
            );
        };
        let shown = if dup { " DUP" } else { "" };
        self.trace.note(
            tick,
            format_args!("← PUBLISH{shown} #{packet_id} m{message} {topic} {qos:?}"),
        );
        if ledger.messages[message].topic != *topic {
            ledger.violated(
                &self.name,
                Some(message),
                format!("m{message} came on {topic}"),
            );
        }
        if qos == QoS::ExactlyOnce {
            self.replies.push_back((PacketType::PubRec, packet_id));
            if !self.held.insert(packet_id) {
                if !dup {
                    ledger.violated(
                        &self.name,
                        Some(message),
                        format!("m{message} #{packet_id} again without DUP"),
                    );
                }
                return;
            }
        } else if qos == QoS::AtLeastOnce {
            self.replies.push_back((PacketType::PubAck, packet_id));
        }
        if ledger.delivered(&self.name, self.reader, message, qos, dup) {
            self.check_order(ledger, message);
        }
    }

    /// What one publisher sends to one root at one QoS arrives in that order. A QoS 1 message that was sent again is two
    /// messages to the server, and whoever missed the first (it was not subscribed, or another member of its group got it)
    /// may see the second behind newer ones.
    fn check_order(&mut self, ledger: &mut Ledger, message: usize) {
        let sent = &ledger.messages[message];
        let missed_none =
            self.manner.durable && !self.manner.toggles && !self.filters[0].starts_with('$');
        if sent.resent && sent.qos == QoS::AtLeastOnce && !missed_none {
            return;
        }
        let stream = (sent.publisher, root(&sent.topic).to_owned(), sent.qos as u8);
        let newest = self.newest.entry(stream).or_insert(message);
        if *newest > message {
            let text = format!("m{message} on {} came after m{newest}", sent.topic);
            ledger.violated(&self.name, Some(message), text);
        }
        *newest = (*newest).max(message);
    }
}
