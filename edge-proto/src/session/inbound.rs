//! QoS 1 and 2 from the client: what is being processed, what was received and not released, and in which order to answer.
//!
//! ```text
//! QoS 1   PUBLISH ─▶ processing ─done─▶ PUBACK
//! QoS 2   PUBLISH ─▶ processing ─done─▶ PUBREC, received ─PUBREL─▶ releasing ─released─▶ PUBCOMP
//! ```
//!
//! Acknowledgements leave in the order in which the messages came (MQTT-4.6.0-2, -3), whatever order they are done in.
//! A QoS 2 packet identifier that is known in any state is a repetition and is not processed again (MQTT-4.3.3-10).

use std::collections::VecDeque;

use crate::packet::QoS;
use crate::reason::ReasonCode;

/// What to do with a PUBLISH of QoS 1 or 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// Process it, then call [`Inbound::done`].
    New,
    /// A repetition that is still being processed; its answer is on the way.
    Processing,
    /// A repetition of a received message and nothing before it waits for an answer: send PUBREC again.
    Received,
    /// More than the Receive Maximum is being processed (MQTT-3.3.4-7).
    OverMaximum,
}

/// What to do with a PUBREL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Release {
    /// Forget the packet identifier durably, then call [`Inbound::released`] and send PUBCOMP.
    Release,
    /// That is being done already.
    Releasing,
    /// Unknown packet identifier: PUBCOMP with 0x92.
    Unknown,
}

/// An answer whose turn it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Packet identifier of the PUBLISH.
    pub packet_id: u16,
    /// Its QoS: PUBACK for 1, PUBREC for 2.
    pub qos: QoS,
    /// The reason code.
    pub reason: ReasonCode,
}

#[derive(Debug)]
struct Processing {
    packet_id: u16,
    qos: QoS,
    done: Option<ReasonCode>,
}

/// What one client has sent with QoS 1 and 2.
#[derive(Debug, Default)]
pub struct Inbound {
    processing: VecDeque<Processing>,
    received: Vec<u16>,
    releasing: Vec<u16>,
    /// PUBLISH packets of this connection that are not answered to their end (§4.9). What an earlier connection left does not
    /// count, and its end does not make the quota larger.
    quota_used: u16,
}

impl Inbound {
    /// The state of a resumed session: packet identifiers received and not released.
    pub fn resume(received: Vec<u16>) -> Self {
        Self {
            received,
            ..Self::default()
        }
    }

    /// True when nothing is known and nothing is being processed.
    pub fn is_empty(&self) -> bool {
        self.processing.is_empty() && self.received.is_empty() && self.releasing.is_empty()
    }

    /// True when no answer is outstanding.
    pub fn is_quiet(&self) -> bool {
        self.processing.is_empty() && self.releasing.is_empty()
    }

    /// True when so many messages are being processed that the next one should not be read yet. Counts nothing that waits
    /// for the client, so that this always ends.
    pub fn is_busy(&self, processing_max: u16) -> bool {
        self.processing.len() >= usize::from(processing_max)
    }

    /// A PUBLISH of QoS 1 or 2 arrived.
    pub fn publish(&mut self, packet_id: u16, qos: QoS, receive_maximum: u16) -> Arrival {
        if qos == QoS::ExactlyOnce {
            if self.received.contains(&packet_id) {
                self.quota_used = self.quota_used.saturating_add(1).min(receive_maximum);
                if self.processing.is_empty() {
                    return Arrival::Received;
                }
                let done = Some(ReasonCode::Success);
                self.processing.push_back(Processing {
                    packet_id,
                    qos,
                    done,
                });
                return Arrival::Processing;
            }
            let known =
                |entry: &Processing| entry.packet_id == packet_id && entry.qos == QoS::ExactlyOnce;
            if self.releasing.contains(&packet_id) || self.processing.iter().any(known) {
                return Arrival::Processing;
            }
        }
        if self.quota_used >= receive_maximum {
            return Arrival::OverMaximum;
        }
        self.quota_used += 1;
        self.processing.push_back(Processing {
            packet_id,
            qos,
            done: None,
        });
        Arrival::New
    }

    /// A message that an earlier connection has brought came again, and nobody knows what became of it: it is processed like a new one.
    /// False when the packet identifier is not received, or is being released.
    pub fn process_again(&mut self, packet_id: u16) -> bool {
        let received = self.received.iter().position(|known| *known == packet_id);
        let Some(place) = received else {
            return false;
        };
        self.received.remove(place);
        self.quota_used = self.quota_used.saturating_add(1);
        self.processing.push_back(Processing {
            packet_id,
            qos: QoS::ExactlyOnce,
            done: None,
        });
        true
    }

    /// True while a packet identifier is being forgotten durably.
    pub fn is_releasing(&self) -> bool {
        !self.releasing.is_empty()
    }

    /// The oldest unanswered message with this packet identifier is processed. A reason of 0x80 and above ends a QoS 2 flow.
    pub fn done(&mut self, packet_id: u16, reason: ReasonCode) {
        if let Some(entry) = self
            .processing
            .iter_mut()
            .find(|entry| entry.packet_id == packet_id && entry.done.is_none())
        {
            entry.done = Some(reason);
        }
    }

    /// The next answer to send, if its turn has come.
    pub fn next_answer(&mut self) -> Option<Answer> {
        let reason = self.processing.front()?.done?;
        let entry = self.processing.pop_front()?;
        if entry.qos == QoS::AtLeastOnce || reason.is_error() {
            self.quota_used = self.quota_used.saturating_sub(1);
        }
        if entry.qos == QoS::ExactlyOnce && !reason.is_error() && !self.knows(entry.packet_id) {
            self.received.push(entry.packet_id);
        }
        Some(Answer {
            packet_id: entry.packet_id,
            qos: entry.qos,
            reason,
        })
    }

    /// True when the packet identifier is received or being released.
    fn knows(&self, packet_id: u16) -> bool {
        self.received.contains(&packet_id) || self.releasing.contains(&packet_id)
    }

    /// A PUBREL arrived.
    pub fn pubrel(&mut self, packet_id: u16) -> Release {
        if let Some(index) = self
            .received
            .iter()
            .position(|&received| received == packet_id)
        {
            self.received.remove(index);
            self.releasing.push(packet_id);
            Release::Release
        } else if self.releasing.contains(&packet_id) {
            Release::Releasing
        } else {
            Release::Unknown
        }
    }

    /// The packet identifier is forgotten durably; true when PUBCOMP is due.
    pub fn released(&mut self, packet_id: u16) -> bool {
        match self
            .releasing
            .iter()
            .position(|&releasing| releasing == packet_id)
        {
            Some(index) => {
                self.releasing.remove(index);
                self.quota_used = self.quota_used.saturating_sub(1);
                true
            }
            None => false,
        }
    }

    /// Packet identifiers received and not released: what a durable session keeps when its connection ends.
    pub fn into_received(self) -> Vec<u16> {
        self.received
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_leave_in_the_order_of_arrival() {
        let mut inbound = Inbound::default();
        assert_eq!(inbound.publish(1, QoS::AtLeastOnce, 10), Arrival::New);
        assert_eq!(inbound.publish(2, QoS::ExactlyOnce, 10), Arrival::New);
        inbound.done(2, ReasonCode::Success);
        assert_eq!(inbound.next_answer(), None);
        inbound.done(1, ReasonCode::Success);
        assert_eq!(
            inbound.next_answer().map(|answer| answer.packet_id),
            Some(1)
        );
        assert_eq!(
            inbound.next_answer().map(|answer| answer.packet_id),
            Some(2)
        );
        assert_eq!(inbound.next_answer(), None);
    }

    #[test]
    fn a_repeated_qos_2_message_is_never_processed_twice() {
        let mut inbound = Inbound::default();
        assert_eq!(inbound.publish(9, QoS::ExactlyOnce, 10), Arrival::New);
        assert_eq!(
            inbound.publish(9, QoS::ExactlyOnce, 10),
            Arrival::Processing
        );
        inbound.done(9, ReasonCode::Success);
        inbound.next_answer();
        assert_eq!(inbound.publish(9, QoS::ExactlyOnce, 10), Arrival::Received);
        assert_eq!(inbound.pubrel(9), Release::Release);
        assert_eq!(
            inbound.publish(9, QoS::ExactlyOnce, 10),
            Arrival::Processing
        );
        assert!(inbound.released(9));
        assert_eq!(inbound.publish(9, QoS::ExactlyOnce, 10), Arrival::New);
    }

    #[test]
    fn what_an_earlier_connection_brought_can_be_processed_once_more() {
        let mut inbound = Inbound::resume(vec![9]);
        assert!(!inbound.process_again(8));
        assert!(inbound.process_again(9));
        assert_eq!(
            inbound.publish(9, QoS::ExactlyOnce, 10),
            Arrival::Processing
        );
        inbound.done(9, ReasonCode::Success);
        let answer = inbound.next_answer().expect("it is processed");
        assert_eq!((answer.packet_id, answer.qos), (9, QoS::ExactlyOnce));
        assert!(!inbound.is_releasing());
        assert_eq!(inbound.pubrel(9), Release::Release);
        assert!(inbound.is_releasing() && !inbound.process_again(9));
    }

    #[test]
    fn the_answer_to_a_repetition_waits_for_its_turn() {
        let mut inbound = Inbound::resume(vec![9]);
        assert_eq!(inbound.publish(5, QoS::ExactlyOnce, 10), Arrival::New);
        assert_eq!(
            inbound.publish(9, QoS::ExactlyOnce, 10),
            Arrival::Processing
        );
        assert_eq!(inbound.next_answer(), None);
        inbound.done(5, ReasonCode::Success);
        assert_eq!(
            inbound.next_answer().map(|answer| answer.packet_id),
            Some(5)
        );
        assert_eq!(
            inbound.next_answer().map(|answer| answer.packet_id),
            Some(9)
        );
        assert_eq!(inbound.pubrel(9), Release::Release);
        assert!(inbound.released(9));
        assert_eq!(inbound.pubrel(9), Release::Unknown);
    }

    #[test]
    fn a_refused_qos_2_message_frees_its_packet_identifier() {
        let mut inbound = Inbound::default();
        inbound.publish(3, QoS::ExactlyOnce, 10);
        inbound.done(3, ReasonCode::QuotaExceeded);
        inbound.next_answer();
        assert_eq!(inbound.pubrel(3), Release::Unknown);
        assert!(inbound.is_empty());
    }

    #[test]
    fn what_an_earlier_connection_left_does_not_use_the_quota() {
        let mut inbound = Inbound::resume(vec![7, 8]);
        assert_eq!(inbound.publish(1, QoS::AtLeastOnce, 1), Arrival::New);
        assert_eq!(inbound.pubrel(7), Release::Release);
        assert_eq!(
            inbound.publish(2, QoS::AtLeastOnce, 1),
            Arrival::OverMaximum
        );
    }

    #[test]
    fn the_receive_maximum_counts_until_pubcomp() {
        let mut inbound = Inbound::default();
        inbound.publish(1, QoS::ExactlyOnce, 1);
        inbound.done(1, ReasonCode::Success);
        inbound.next_answer();
        assert_eq!(
            inbound.publish(2, QoS::AtLeastOnce, 1),
            Arrival::OverMaximum
        );
        inbound.pubrel(1);
        assert_eq!(
            inbound.publish(2, QoS::AtLeastOnce, 1),
            Arrival::OverMaximum
        );
        inbound.released(1);
        assert_eq!(inbound.publish(2, QoS::AtLeastOnce, 1), Arrival::New);
    }
}
