//! Data streams: streams that a QUIC client opens beside the one that its connection began with, so that a large packet on one does
//! not keep the packets on another waiting. **They carry whole packets of the one session of the connection**: its packet
//! identifiers, its QoS state, its subscriptions. So a data stream that ends takes nothing with it but the packet that was not complete.
//!
//! ```text
//! StreamsOpened ─▶ (client let in) ─Admit─▶ StreamReceived … ─StreamEnded─▶ (all answered) ─Finish─▶ gone
//! ```
//!
//! An answer goes back on the stream that its packet came on, as EMQX does it; what answers nothing goes on the first one.

use edge_proto::frame::Frame;
use edge_proto::packet::{PacketType, QoS};
use edge_proto::reason::Violation;
use foldhash::fast::FixedState;
use hashbrown::HashMap;
use reactor::driver::ConnectionId;

use super::link::Transport;
use super::{Edge, State};
use crate::outbox::ForStream;
use crate::turn::Turn;

/// The data streams of one connection.
#[derive(Debug, Default)]
pub(super) struct Streams {
    /// The one that the packet came on that is being handled; `None`: the first stream.
    current: Option<u64>,
    /// Those of which something is kept or expected, in the order in which that began.
    active: Vec<DataStream>,
    /// Where the answers go that are still to come. As many as the session may have requests in progress.
    asked: HashMap<Asked, u64, FixedState>,
}

/// One of them, while it is not as good as new.
#[derive(Default)]
struct DataStream {
    number: u64,
    /// Bytes of a packet that is not complete, or that cannot be taken now.
    kept: Vec<u8>,
    /// How many answers are to come.
    unanswered: u32,
    /// True exactly when nothing more will come on it.
    has_ended: bool,
}

impl std::fmt::Debug for DataStream {
    /// Without the bytes: they may hold what a log must not.
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("DataStream")
            .field("number", &self.number)
            .field("kept_bytes", &self.kept.len())
            .field("unanswered", &self.unanswered)
            .field("has_ended", &self.has_ended)
            .finish()
    }
}

/// What an answer is to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Asked {
    Publish(u16),
    Release(u16),
    Subscribe(u16),
    Unsubscribe(u16),
}

impl Asked {
    /// What a packet of a client asks to be answered; `None` when its answer has no packet identifier, or when it is malformed, which
    /// the decoder finds out.
    fn by(frame: Frame<'_>) -> Option<Self> {
        let number_at = |at: usize| {
            let bytes = frame.body.get(at..at + 2)?;
            Some(u16::from_be_bytes([bytes[0], bytes[1]]))
        };
        match frame.packet_type()? {
            PacketType::Publish => {
                let qos = frame.flags() >> 1 & 0b11;
                let topic_length = number_at(0)?;
                let packet_id = number_at(2 + usize::from(topic_length));
                (qos > QoS::AtMostOnce as u8).then_some(Self::Publish(packet_id?))
            }
            PacketType::PubRel => Some(Self::Release(number_at(0)?)),
            PacketType::Subscribe => Some(Self::Subscribe(number_at(0)?)),
            PacketType::Unsubscribe => Some(Self::Unsubscribe(number_at(0)?)),
            _ => None,
        }
    }

    /// What a packet of the server answers.
    const fn answered_by(packet_type: PacketType, packet_id: u16) -> Option<Self> {
        match packet_type {
            PacketType::PubAck | PacketType::PubRec => Some(Self::Publish(packet_id)),
            PacketType::PubComp => Some(Self::Release(packet_id)),
            PacketType::SubAck => Some(Self::Subscribe(packet_id)),
            PacketType::UnsubAck => Some(Self::Unsubscribe(packet_id)),
            _ => None,
        }
    }
}

/// Where an answer goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Answered {
    pub(super) number: u64,
    /// True when nothing is to come on this stream in either direction any more.
    pub(super) is_last: bool,
}

impl Streams {
    /// The data stream that the packet came on that is being handled.
    pub(super) const fn current(&self) -> Option<u64> {
        self.current
    }

    /// Notes where the answer to a packet goes.
    ///
    /// # Errors
    /// For a packet that belongs on the first stream.
    pub(super) fn arrives(&mut self, frame: Frame<'_>) -> Result<(), Violation> {
        let asked = Asked::by(frame);
        let Some(number) = self.current else {
            // The same identifier again, on the first stream now.
            if let Some(asked) = asked {
                self.forget(asked);
            }
            return Ok(());
        };
        if let Some(PacketType::Connect | PacketType::Auth | PacketType::Disconnect) =
            frame.packet_type()
        {
            return Err(Violation::protocol(
                "MQTT5 §4.2",
                "a packet that is about the whole connection, on a data stream",
            ));
        }
        if let Some(asked) = asked {
            self.forget(asked);
            self.asked.insert(asked, number);
            self.entry(number).unanswered += 1;
        }
        Ok(())
    }

    /// Where an answer goes that is about to be written, once; `None`: on the first stream.
    pub(super) fn answered(&mut self, packet_type: PacketType, id: u16) -> Option<Answered> {
        let number = self.forget(Asked::answered_by(packet_type, id)?)?;
        let is_last = self.let_go(number);
        Some(Answered { number, is_last })
    }

    fn forget(&mut self, asked: Asked) -> Option<u64> {
        const KEPT_PLACES: usize = 14;
        let number = self.asked.remove(&asked)?;
        if self.asked.is_empty() && self.asked.capacity() > KEPT_PLACES {
            self.asked = HashMap::default(); // An idle session must not keep what a busy hour needed.
        }
        self.entry(number).unanswered -= 1;
        Some(number)
    }

    fn entry(&mut self, number: u64) -> &mut DataStream {
        let place = self.active.iter().position(|it| it.number == number);
        let place = place.unwrap_or_else(|| {
            self.active.push(DataStream {
                number,
                ..DataStream::default()
            });
            self.active.len() - 1
        });
        &mut self.active[place]
    }

    /// Drops what is known of a stream that is as good as new, or of which nothing is to come: true for the latter.
    fn let_go(&mut self, number: u64) -> bool {
        if self.current == Some(number) {
            return false; // More of it may be in the hands of whoever is handling this packet.
        }
        let entry = self.entry(number);
        let is_done = entry.kept.is_empty() && entry.unanswered == 0;
        let is_last = is_done && entry.has_ended;
        if is_done {
            self.active.retain(|it| it.number != number);
        }
        is_last
    }

    pub(super) fn kept_bytes(&self) -> usize {
        self.active.iter().map(|it| it.kept.len()).sum()
    }

    /// What the bytes that are kept take in memory.
    #[cfg(test)]
    pub(super) fn kept_capacity(&self) -> usize {
        self.active.iter().map(|it| it.kept.capacity()).sum()
    }

    pub(super) fn drop_kept(&mut self) {
        for stream in &mut self.active {
            stream.kept = Vec::new();
        }
    }
}

impl Edge {
    /// The client of a QUIC connection opened its first data stream.
    pub fn streams_opened(&mut self, turn: &mut Turn<'_>, id: ConnectionId) {
        let Some(connection) = self.connection(id) else {
            return;
        };
        if matches!(connection.link.transport, Transport::Tcp) {
            connection.link.transport = Transport::Streams(Box::default());
            if matches!(connection.state, State::Live(_)) {
                turn.outbox.streams.push((id, ForStream::Admit));
            }
        }
    }

    /// Bytes have arrived on a data stream.
    pub fn stream_received(
        &mut self,
        turn: &mut Turn<'_>,
        id: ConnectionId,
        number: u64,
        bytes: &[u8],
    ) {
        if let Some(connection) = self.connection(id) {
            connection.link.last_seen_ms = turn.now.mono_ms;
            self.data_stream(turn, id, number, bytes);
        }
    }

    /// Nothing more will come on a data stream. It is finished when all that came is answered.
    pub fn stream_ended(&mut self, turn: &mut Turn<'_>, id: ConnectionId, number: u64) {
        let Some(streams) = self.live(id).and_then(|(link, _)| link.streams()) else {
            return;
        };
        streams.entry(number).has_ended = true;
        self.settle_stream(turn, id, number);
    }

    /// Handles what data streams had sent of a connection that was stalled, until it stalls again.
    pub(super) fn resume_streams(&mut self, turn: &mut Turn<'_>, id: ConnectionId) {
        let Some(streams) = self.live(id).and_then(|(link, _)| link.streams()) else {
            return;
        };
        let numbers: Vec<u64> = streams.active.iter().map(|it| it.number).collect();
        for number in numbers {
            if self.live(id).is_none_or(|(link, _)| link.stalled) {
                return;
            }
            self.data_stream(turn, id, number, &[]);
        }
    }

    /// MQTT bytes of a data stream, in order, cut anywhere.
    fn data_stream(&mut self, turn: &mut Turn<'_>, id: ConnectionId, number: u64, bytes: &[u8]) {
        let Some((link, _)) = self.live(id) else {
            return; // It is closing, or was never let in.
        };
        let stalled = link.stalled;
        let Some(streams) = link.streams() else {
            return;
        };
        let mut kept = std::mem::take(&mut streams.entry(number).kept);
        turn.stats.partial_bytes -= kept.len() as u64;
        streams.current = Some(number);
        if kept.is_empty() {
            let consumed = if stalled {
                0
            } else {
                self.packets(turn, id, bytes)
            };
            kept.extend_from_slice(&bytes[consumed..]);
        } else {
            kept.extend_from_slice(bytes);
            let consumed = if stalled {
                0
            } else {
                self.packets(turn, id, &kept)
            };
            if consumed > 0 {
                // A few bytes behind a large packet do not keep its whole buffer.
                kept = kept[consumed..].to_vec();
            }
        }
        let Some(streams) = self.live(id).and_then(|(link, _)| link.streams()) else {
            return; // It is closing: nothing is left of what came.
        };
        streams.current = None;
        turn.stats.partial_bytes += kept.len() as u64;
        streams.entry(number).kept = kept;
        self.settle_stream(turn, id, number);
        self.bound_kept(turn, id);
    }

    /// What is to become of a stream after something changed.
    fn settle_stream(&mut self, turn: &mut Turn<'_>, id: ConnectionId, number: u64) {
        let Some((link, _)) = self.live(id) else {
            return;
        };
        let stalled = link.stalled;
        let Some(streams) = link.streams() else {
            return;
        };
        let entry = streams.entry(number);
        if entry.has_ended && !stalled {
            // The rest of the packet will never come.
            turn.stats.partial_bytes -= entry.kept.len() as u64;
            entry.kept = Vec::new();
        }
        if streams.let_go(number) {
            turn.outbox.streams.push((id, ForStream::Finish(number)));
        }
    }
}

#[cfg(test)]
mod tests {
    use edge_proto::encode;
    use edge_proto::frame::next_frame;
    use edge_proto::packet::{Publish, PublishProperties, Version};

    use super::*;

    fn asked(bytes: &[u8]) -> Option<Asked> {
        let frame = next_frame(bytes, u32::MAX).ok().flatten();
        Asked::by(frame.expect("it is whole"))
    }

    #[test]
    fn what_a_packet_asks_for_is_known_without_decoding_it() {
        for (qos, wanted) in [
            (QoS::AtMostOnce, None),
            (QoS::AtLeastOnce, Some(Asked::Publish(0x0102))),
            (QoS::ExactlyOnce, Some(Asked::Publish(0x0102))),
        ] {
            let publish = Publish {
                dup: true,
                qos,
                retain: true,
                topic: "a/topic",
                packet_id: wanted.map(|_| 0x0102),
                properties: PublishProperties::default(),
                payload: b"text",
            };
            let mut bytes = Vec::new();
            encode::publish(&mut bytes, Version::V5, &publish);
            assert_eq!(asked(&bytes), wanted);
        }
        assert_eq!(asked(&[0x62, 2, 1, 2]), Some(Asked::Release(0x0102)));
        assert_eq!(asked(&[0x82, 2, 1, 2]), Some(Asked::Subscribe(0x0102)));
        assert_eq!(asked(&[0xA2, 2, 1, 2]), Some(Asked::Unsubscribe(0x0102)));
        assert_eq!(asked(&[0x40, 2, 1, 2]), None);
    }

    #[test]
    fn a_packet_that_is_too_short_asks_for_nothing() {
        for bytes in [
            &[0x32, 0][..],
            &[0x32, 1, 0],
            &[0x32, 3, 0xFF, 0xFF, b'a'],
            &[0x32, 4, 0, 1, b'a', 0],
            &[0x62, 1, 0],
            &[0x00, 0],
        ] {
            assert_eq!(asked(bytes), None, "{bytes:?}");
        }
    }
}
