//! QoS 1 and 2 towards the client: which messages are in flight, and what each acknowledgement does.
//!
//! ```text
//! QoS 1   send ─▶ AwaitPubAck ─PUBACK─▶ done
//! QoS 2   send ─▶ AwaitPubRec ─PUBREC─▶ Recording ─recorded─▶ AwaitPubComp ─PUBCOMP─▶ done
//! ```
//!
//! A message has a *sequence* that is its place in the session's mailbox. Its packet identifier follows from the sequence,
//! so it is the same after a reconnect and after a crash, as exactly-once delivery needs, and is stored nowhere.
//! `Recording` lasts until the store knows of the PUBREC: a PUBREL must not be sent before, because a store that forgot
//! would send the PUBLISH again to a client that has forgotten the packet identifier.

use std::collections::VecDeque;

use crate::packet::QoS;

/// The packet identifier of the message with this sequence (≥ 1).
pub fn packet_id_of(sequence: u64) -> u16 {
    ((sequence - 1) % u64::from(u16::MAX)) as u16 + 1
}

/// How far a message in flight has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlightState {
    /// QoS 1, sent.
    AwaitPubAck,
    /// QoS 2, sent.
    AwaitPubRec,
    /// QoS 2, PUBREC received and not recorded yet.
    Recording,
    /// QoS 2, PUBREL sent.
    AwaitPubComp,
}

/// One message in flight.
#[derive(Debug)]
pub struct Flight<M> {
    /// Its place in the mailbox.
    pub sequence: u64,
    /// How far it has come.
    pub state: FlightState,
    /// The message.
    pub message: M,
}

impl<M> Flight<M> {
    /// Its packet identifier.
    pub fn packet_id(&self) -> u16 {
        packet_id_of(self.sequence)
    }
}

/// What a PUBREC means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PubRec {
    /// The first for this message: record it, then call [`Outbound::recorded`].
    Record(u64),
    /// It is being recorded; PUBREL follows then.
    Recording,
    /// PUBREL was sent before; send it again.
    Repeat,
    /// No such message: PUBREL with 0x92 Packet Identifier not found.
    Unknown,
}

/// The messages in flight towards one client, in the order in which they were sent.
#[derive(Debug)]
pub struct Outbound<M> {
    flights: VecDeque<Flight<M>>,
}

impl<M> Default for Outbound<M> {
    fn default() -> Self {
        Self {
            flights: VecDeque::new(),
        }
    }
}

impl<M> Outbound<M> {
    /// Number of messages in flight.
    pub fn len(&self) -> usize {
        self.flights.len()
    }

    /// True when nothing is in flight.
    pub fn is_empty(&self) -> bool {
        self.flights.is_empty()
    }

    /// True when one more message with this sequence may be sent: the client's Receive Maximum is not reached (MQTT-3.3.4-9)
    /// and the packet identifier is free.
    pub fn has_room(&self, receive_maximum: u16, sequence: u64) -> bool {
        let packet_id = packet_id_of(sequence);
        let uses_it = |flight: &Flight<M>| flight.packet_id() == packet_id;
        self.flights.len() < usize::from(receive_maximum) && !self.flights.iter().any(uses_it)
    }

    /// Notes that a message is being sent for the first time on this connection; returns its packet identifier.
    pub fn send(&mut self, sequence: u64, qos: QoS, message: M) -> u16 {
        debug_assert_ne!(qos, QoS::AtMostOnce);
        let state = if qos == QoS::AtLeastOnce {
            FlightState::AwaitPubAck
        } else {
            FlightState::AwaitPubRec
        };
        self.flights.push_back(Flight {
            sequence,
            state,
            message,
        });
        packet_id_of(sequence)
    }

    /// Notes that PUBREL is being sent for a message whose PUBREC came on an earlier connection.
    pub fn resume_release(&mut self, sequence: u64, message: M) -> u16 {
        self.flights.push_back(Flight {
            sequence,
            state: FlightState::AwaitPubComp,
            message,
        });
        packet_id_of(sequence)
    }

    /// PUBACK: the message, if it was waiting for one.
    pub fn puback(&mut self, packet_id: u16) -> Option<Flight<M>> {
        self.take(packet_id, |state| state == FlightState::AwaitPubAck)
    }

    /// PUBREC without error.
    pub fn pubrec(&mut self, packet_id: u16) -> PubRec {
        match self
            .flights
            .iter_mut()
            .find(|flight| flight.packet_id() == packet_id)
        {
            Some(flight) => match flight.state {
                FlightState::AwaitPubRec => {
                    flight.state = FlightState::Recording;
                    PubRec::Record(flight.sequence)
                }
                FlightState::Recording => PubRec::Recording,
                FlightState::AwaitPubComp => PubRec::Repeat,
                FlightState::AwaitPubAck => PubRec::Unknown,
            },
            None => PubRec::Unknown,
        }
    }

    /// PUBREC with an error, which ends the flow (MQTT-4.3.3-4): the message, if it was waiting for one.
    pub fn pubrec_refused(&mut self, packet_id: u16) -> Option<Flight<M>> {
        self.take(packet_id, |state| state == FlightState::AwaitPubRec)
    }

    /// The PUBREC of this message is recorded: the packet identifier to send PUBREL for.
    pub fn recorded(&mut self, sequence: u64) -> Option<u16> {
        let flight = self
            .flights
            .iter_mut()
            .find(|flight| flight.sequence == sequence && flight.state == FlightState::Recording)?;
        flight.state = FlightState::AwaitPubComp;
        Some(flight.packet_id())
    }

    /// PUBCOMP: the message, if it was waiting for one.
    pub fn pubcomp(&mut self, packet_id: u16) -> Option<Flight<M>> {
        self.take(packet_id, |state| state == FlightState::AwaitPubComp)
    }

    /// Everything in flight, in order; used when the connection ends.
    pub fn drain(&mut self) -> impl Iterator<Item = Flight<M>> {
        self.flights.drain(..)
    }

    fn take(&mut self, packet_id: u16, accepts: impl Fn(FlightState) -> bool) -> Option<Flight<M>> {
        let index = self
            .flights
            .iter()
            .position(|flight| flight.packet_id() == packet_id)?;
        if accepts(self.flights[index].state) {
            self.flights.remove(index)
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packet_identifiers_follow_the_sequence_and_are_never_zero() {
        assert_eq!(packet_id_of(1), 1);
        assert_eq!(packet_id_of(65_535), 65_535);
        assert_eq!(packet_id_of(65_536), 1);
    }

    #[test]
    fn a_qos_2_message_is_released_only_after_its_pubrec_is_recorded() {
        let mut outbound = Outbound::default();
        let packet_id = outbound.send(7, QoS::ExactlyOnce, ());
        assert!(outbound.pubcomp(packet_id).is_none());
        assert_eq!(outbound.pubrec(packet_id), PubRec::Record(7));
        assert_eq!(outbound.pubrec(packet_id), PubRec::Recording);
        assert_eq!(outbound.recorded(7), Some(packet_id));
        assert_eq!(outbound.pubrec(packet_id), PubRec::Repeat);
        assert!(outbound.pubcomp(packet_id).is_some());
        assert_eq!(outbound.pubrec(packet_id), PubRec::Unknown);
    }

    #[test]
    fn a_packet_identifier_in_flight_is_not_used_again() {
        let mut outbound = Outbound::default();
        outbound.send(1, QoS::AtLeastOnce, ());
        assert!(outbound.has_room(10, 65_535));
        assert!(!outbound.has_room(10, 65_536));
        assert!(outbound.has_room(10, 65_537));
    }

    #[test]
    fn the_receive_maximum_of_the_client_is_kept() {
        let mut outbound = Outbound::default();
        outbound.send(1, QoS::AtLeastOnce, ());
        assert!(!outbound.has_room(1, 2));
        assert!(outbound.puback(1).is_some());
        assert!(outbound.has_room(1, 2));
    }
}
