//! What clients do: connect, publish, subscribe, acknowledge late, break off.

use edge_proto::encode;
use edge_proto::packet::{
    Ack, Packet, PacketType, Publish, PublishProperties, QoS, RetainHandling, SubscriptionOptions,
    Version,
};
use edge_proto::reason::ReasonCode;

use crate::client::{Outgoing, Subscription};
use crate::oracle::{Published, is_shared};
use crate::run::Run;

/// Topics that are published to.
pub(crate) const TOPICS: [&str; 10] = [
    "a/b/x",
    "a/b/y",
    "u/c0/in",
    "a/c",
    "d",
    "u/c1/in",
    "g/1/m/2",
    "g/1",
    "h/2/z",
    "a/b/x/deep",
];

/// Filters that are subscribed to.
const FILTERS: [&str; 14] = [
    "a/b/x", "a/b/#", "a/+/x", "#", "+/b/#", "u/c0/#", "u/+/in", "a/c", "d", "g/1/#", "g/+/m/+",
    "h/2/+", "a/b/+", "a/b/x/#",
];

/// Shared ones.
const SHARED: [&str; 4] = [
    "$share/one/a/b/#",
    "$share/two/#",
    "$share/one/g/1/m/+",
    "$share/two/u/c0/in",
];

impl Run {
    /// A client does something.
    pub(crate) fn act(&mut self, at: usize) {
        // In a work queue the first client gives out the work, and the others are away for long.
        let work_queue = self.world.plan.is_work_queue();
        let (gives, works) = (work_queue && at == 0, work_queue && at > 0);
        if self.clients[at].connection.is_none() {
            if self.random.percent(if works { 4 } else { 30 }) {
                self.connect(at, None);
            }
            return;
        }
        if !self.clients[at].is_live() {
            if self.random.percent(3) {
                self.cut(at);
            }
            return;
        }
        let deeds = self.world.plan.deeds;
        let weights = [
            deeds.publish,
            deeds.subscribe,
            deeds.unsubscribe,
            deeds.acknowledge,
            deeds.cut,
            deeds.disconnect,
            deeds.takeover,
            deeds.slow,
            deeds.silent,
        ];
        match self.random.weighted(&weights) {
            0 if works => self.acknowledge(at),
            1 if gives => self.publish(at),
            0 => self.publish(at),
            1 => self.subscribe(at),
            2 => self.unsubscribe(at),
            3 => self.acknowledge(at),
            4 => self.cut(at),
            5 => self.disconnect(at),
            6 => {
                self.abandon(at);
                self.note(at, || "is taken over".to_owned());
                self.connect(at, None);
            }
            7 => self.be_slow(at),
            _ => {
                if let Some(connection) = &mut self.clients[at].connection {
                    connection.silent = true;
                }
            }
        }
    }

    fn be_slow(&mut self, at: usize) {
        let until_ms = self.world.now.mono_ms + self.random.between(10, 3000);
        if let Some(connection) = &self.clients[at].connection {
            self.world.wires[connection.wire].slow_until_ms = until_ms;
        }
    }

    /// Writes bytes to the client's connection.
    pub(crate) fn write(&mut self, at: usize, bytes: &[u8]) {
        let Some(connection) = &self.clients[at].connection else {
            return;
        };
        let wire = &mut self.world.wires[connection.wire];
        if !wire.gone && !wire.broken {
            wire.to_server.extend_from_slice(bytes);
            wire.wrote_ms = self.world.now.mono_ms;
        }
    }

    /// Writes one packet.
    pub(crate) fn send(&mut self, at: usize, packet: &Packet<'_>) {
        let mut bytes = Vec::new();
        encode::packet(&mut bytes, self.clients[at].version, packet);
        self.write(at, &bytes);
    }

    pub(crate) fn published(&mut self, at: usize, epoch: u64, topic: &str, qos: QoS) -> Published {
        self.next_order += 1;
        Published {
            topic: topic.to_owned(),
            qos,
            retain: false,
            clears: false,
            publisher: at,
            epoch,
            order: self.next_order,
            connection: self.next_connection_of(at),
            sent_at: self.step,
            acknowledged_at: None,
            acknowledged_ms: 0,
            was_refused: false,
            upheavals: self.world.upheavals(),
            expiry_s: None,
            will: false,
            resent: false,
            length: 8,
        }
    }

    fn next_connection_of(&self, at: usize) -> u64 {
        self.clients[at]
            .connection
            .as_ref()
            .map_or(0, |connection| connection.number)
    }

    fn publish(&mut self, at: usize) {
        let topic = TOPICS[self.random.below(self.world.plan.topics)];
        self.publish_to(at, topic, None);
    }

    /// PUBLISH to a topic; the QoS is drawn unless it is given.
    pub(crate) fn publish_to(&mut self, at: usize, topic: &str, qos: Option<QoS>) {
        let plan = &self.world.plan;
        let (retain_percent, expiry_percent) = (plan.retain_percent, plan.expiry_percent);
        let drawn = qos.is_none();
        let qos = qos.unwrap_or_else(|| {
            *self
                .random
                .pick(&[QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce])
        });
        let client = &self.clients[at];
        let Some(connection) = &client.connection else {
            return;
        };
        let room = connection.server_receive_maximum.min(40);
        if qos > QoS::AtMostOnce && client.outbound.len() >= usize::from(room) {
            return;
        }
        let retain = drawn && self.random.percent(retain_percent);
        let clears = retain && self.random.percent(25);
        let v5 = client.version == Version::V5;
        let expiry_s = (v5 && drawn && self.random.percent(expiry_percent))
            .then(|| self.random.between(1, 20) as u32);
        let padding = if self.random.percent(10) {
            self.random.below(400)
        } else {
            0
        };
        let epoch = client.epoch;
        let message = Published {
            retain,
            clears,
            expiry_s,
            length: 8 + padding,
            ..self.published(at, epoch, topic, qos)
        };
        let number = self.oracle.publish(message);
        let mut payload = number.to_be_bytes().to_vec();
        payload.resize(8 + padding, 0x55);
        if clears {
            payload.clear();
        }
        let packet_id = (qos > QoS::AtMostOnce).then(|| self.clients[at].packet_id());
        let properties = PublishProperties {
            message_expiry_s: expiry_s,
            ..PublishProperties::default()
        };
        let publish = Publish {
            dup: false,
            qos,
            retain,
            topic,
            packet_id,
            properties,
            payload: &payload,
        };
        let mut bytes = Vec::new();
        encode::publish(&mut bytes, self.clients[at].version, &publish);
        self.note(at, || format!("PUBLISH message {number} {topic} {qos:?} retain {retain} id {packet_id:?} expiry {expiry_s:?}"));
        self.write(at, &bytes);
        let Some(packet_id) = packet_id else { return };
        let client = &mut self.clients[at];
        client.outbound.push_back(Outgoing {
            packet_id,
            message: number,
            qos,
            releasing: false,
            bytes,
        });
        if let Some(connection) = &mut client.connection {
            connection.answers[qos as usize - 1].push_back(packet_id);
        }
    }

    fn subscribe(&mut self, at: usize) {
        let shared = self.random.percent(self.world.plan.shared_percent);
        let plan = &self.world.plan;
        let filter = if plan.is_work_queue() {
            *self.random.pick(plan.work_queues)
        } else if shared {
            *self.random.pick(&SHARED)
        } else {
            *self.random.pick(&FILTERS)
        };
        self.subscribe_to(at, filter);
    }

    /// SUBSCRIBE with one filter.
    pub(crate) fn subscribe_to(&mut self, at: usize, filter: &str) {
        let v5 = self.clients[at].version == Version::V5;
        let mut options = SubscriptionOptions::from_qos(*self.random.pick(&[
            QoS::AtMostOnce,
            QoS::AtLeastOnce,
            QoS::ExactlyOnce,
            QoS::ExactlyOnce,
        ]));
        if self.world.plan.keeps_what_is_owed() {
            options.maximum_qos = options.maximum_qos.max(QoS::AtLeastOnce);
        }
        let mut id = None;
        if v5 {
            options.no_local = self.random.percent(15) && !is_shared(filter);
            options.retain_as_published = self.random.percent(40);
            options.retain_handling = *self.random.pick(&[
                RetainHandling::Send,
                RetainHandling::SendIfNew,
                RetainHandling::DoNotSend,
            ]);
            id = self
                .random
                .percent(30)
                .then(|| self.random.between(1, 200) as u32);
        }
        let packet_id = self.clients[at].packet_id();
        let step = self.step;
        let client = &mut self.clients[at];
        for known in client
            .subscriptions
            .iter_mut()
            .filter(|known| known.filter == filter)
        {
            known.until_sure.get_or_insert(step);
        }
        let index = client.subscriptions.len();
        client.subscriptions.push(Subscription {
            filter: filter.to_owned(),
            options,
            from_maybe: step,
            from_sure: None,
            until_sure: None,
            until_maybe: None,
        });
        if let Some(connection) = &mut client.connection {
            connection.operations.insert(packet_id, vec![index]);
        }
        let mut bytes = Vec::new();
        encode::subscribe(
            &mut bytes,
            client.version,
            packet_id,
            id,
            &[(filter, options)],
        );
        self.note(at, || {
            format!("SUBSCRIBE {filter} {options:?} id {packet_id}")
        });
        self.write(at, &bytes);
    }

    fn unsubscribe(&mut self, at: usize) {
        let filters: Vec<String> = self.clients[at]
            .filters()
            .into_iter()
            .map(str::to_owned)
            .collect();
        if !filters.is_empty() {
            let filter = self.random.pick(&filters).clone();
            self.unsubscribe_from(at, &filter);
        }
    }

    /// UNSUBSCRIBE with one filter.
    pub(crate) fn unsubscribe_from(&mut self, at: usize, filter: &str) {
        let packet_id = self.clients[at].packet_id();
        let step = self.step;
        let client = &mut self.clients[at];
        let mut indices = Vec::new();
        for (index, known) in client
            .subscriptions
            .iter_mut()
            .enumerate()
            .filter(|(_, known)| known.filter == filter)
        {
            known.until_sure.get_or_insert(step);
            indices.push(index);
        }
        if is_shared(filter) {
            self.oracle.share_lost.insert(filter.to_owned());
        }
        if let Some(connection) = &mut client.connection {
            connection.unsubscribing.insert(packet_id, indices);
        }
        let mut bytes = Vec::new();
        encode::unsubscribe(&mut bytes, client.version, packet_id, &[filter]);
        self.note(at, || format!("UNSUBSCRIBE {filter} id {packet_id}"));
        self.write(at, &bytes);
    }

    /// Sends some of the acknowledgements that are due.
    pub(crate) fn acknowledge(&mut self, at: usize) {
        let any_order = self.world.plan.unordered_acks;
        let Some(connection) = &mut self.clients[at].connection else {
            return;
        };
        let due = &mut connection.acknowledgements;
        if due.is_empty() {
            return;
        }
        let index = if any_order {
            self.random.below(due.len())
        } else {
            0
        };
        let Some((packet_type, packet_id, message)) = due.remove(index) else {
            return;
        };
        let refuses = packet_type == PacketType::PubRec
            && self.clients[at].version == Version::V5
            && self.random.percent(self.world.plan.refuse_percent)
            && self.clients[at].received.get(&packet_id) == Some(&message);
        let reason = if refuses {
            ReasonCode::QuotaExceeded
        } else {
            ReasonCode::Success
        };
        let client = &mut self.clients[at];
        if refuses {
            client.received.remove(&packet_id);
            client.refused.insert(message);
        }
        if let Some(connection) = &mut client.connection
            && (refuses || matches!(packet_type, PacketType::PubAck | PacketType::PubComp))
        {
            connection.unacknowledged.remove(&packet_id);
        }
        self.note(at, || format!("{packet_type:?} id {packet_id} {reason:?}"));
        let ack = Ack::new(packet_id, reason);
        self.send(
            at,
            &match packet_type {
                PacketType::PubAck => Packet::PubAck(ack),
                PacketType::PubRec => Packet::PubRec(ack),
                PacketType::PubRel => Packet::PubRel(ack),
                _ => Packet::PubComp(ack),
            },
        );
    }
}
