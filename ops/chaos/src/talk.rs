//! What a client says, encoded and not sent yet.

use edge_proto::encode;
use edge_proto::packet::{
    Ack, Connect, Disconnect, PacketType, Publish, PublishProperties, QoS, SubscriptionOptions,
    Version,
};
use edge_proto::reason::ReasonCode;

/// Encoded packets that wait to be sent.
#[derive(Debug)]
pub(crate) struct Talk {
    pub(crate) version: Version,
    pub(crate) bytes: Vec<u8>,
}

impl Talk {
    /// Nothing said yet.
    pub(crate) const fn new(version: Version) -> Self {
        Self {
            version,
            bytes: Vec::new(),
        }
    }

    /// Takes what waits to be sent away.
    pub(crate) fn take_unsent(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.bytes)
    }

    /// Bytes that wait to be sent.
    pub(crate) fn unsent(&self) -> usize {
        self.bytes.len()
    }

    /// Queues raw bytes.
    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Queues a CONNECT; `expiry_s` 0 is a session that ends with its connection.
    pub(crate) fn connect(&mut self, client_id: &str, clean_start: bool, expiry_s: u32) {
        let mut connect = Connect::new(self.version, client_id);
        connect.clean_start = clean_start;
        if self.version == Version::V5 && expiry_s > 0 {
            connect.session_expiry_s = Some(expiry_s);
        }
        encode::connect(&mut self.bytes, &connect);
    }

    /// Queues a PUBLISH; the packet identifier is for QoS 1 and 2.
    pub(crate) fn publish(
        &mut self,
        dup: bool,
        qos: QoS,
        retain: bool,
        topic: &str,
        packet_id: u16,
        payload: &[u8],
    ) {
        let publish = Publish {
            dup,
            qos,
            retain,
            topic,
            packet_id: (qos > QoS::AtMostOnce).then_some(packet_id),
            properties: PublishProperties::default(),
            payload,
        };
        encode::publish(&mut self.bytes, self.version, &publish);
    }

    /// Queues a PUBACK, PUBREC, PUBREL or PUBCOMP.
    pub(crate) fn ack(&mut self, packet_type: PacketType, packet_id: u16) {
        encode::ack(
            &mut self.bytes,
            self.version,
            packet_type,
            &Ack::new(packet_id, ReasonCode::Success),
        );
    }

    /// Queues a SUBSCRIBE of some filters at one maximum QoS.
    pub(crate) fn subscribe(&mut self, packet_id: u16, filters: &[&str], qos: QoS) {
        let filters: Vec<_> = filters
            .iter()
            .map(|filter| (*filter, SubscriptionOptions::from_qos(qos)))
            .collect();
        encode::subscribe(&mut self.bytes, self.version, packet_id, None, &filters);
    }

    /// Queues an UNSUBSCRIBE.
    pub(crate) fn unsubscribe(&mut self, packet_id: u16, filter: &str) {
        encode::unsubscribe(&mut self.bytes, self.version, packet_id, &[filter]);
    }

    /// Queues a PINGREQ.
    pub(crate) fn ping(&mut self) {
        encode::pingreq(&mut self.bytes);
    }

    /// Queues a DISCONNECT.
    pub(crate) fn disconnect(&mut self) {
        let disconnect = Disconnect::new(ReasonCode::Success);
        encode::disconnect(&mut self.bytes, self.version, &disconnect);
    }
}
