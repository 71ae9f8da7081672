//! What the engine answers to the home role.

use reactor::slab::Key;

use super::{Edge, Home, Phase, Request};
use crate::core_message::CoreMessage;
use crate::engine::Completion;
use crate::turn::Turn;

impl Home {
    /// An answer of the engine to a request of this role.
    pub fn completed(&mut self, turn: &mut Turn<'_>, request: u64, completion: Completion) {
        use Completion as Answer;
        let Some(request) = self.requests.remove(&request) else {
            return;
        };
        match (request, completion) {
            (_, Answer::Deposed { .. }) => {} // A view is on its way that takes the session away.
            (Request::Stored(key), _) => {
                if let Some(session) = self.sessions.get_mut(key) {
                    session.phase = Phase::Offline;
                    self.stored(turn, key);
                }
            }
            (Request::Resumed(key), _) => {
                if let Some(session) = self.sessions.get_mut(key) {
                    session.phase = Phase::Offline;
                    self.advance(turn, key);
                }
            }
            (Request::Subscription(operation), _) => self.operation_step(turn, operation, None),
            (Request::PubRec { edge, sequence }, _) => {
                let connection = edge.connection;
                let recorded = CoreMessage::PubRecRecorded {
                    connection,
                    sequence,
                };
                turn.outbox.tell(edge.core, recorded);
            }
            (
                Request::Release {
                    key,
                    edge,
                    packet_id,
                },
                _,
            ) => self.is_released(turn, (key, edge), packet_id),
            (Request::Append { core, publish }, Answer::Published { rejected, .. }) => {
                let rejected = rejected > 0;
                let done = CoreMessage::AppendDone { publish, rejected };
                turn.outbox.tell(core, done);
            }
            (Request::Receive { key, edge }, Answer::Received { received, .. }) => {
                self.received(turn, (key, edge), received);
            }
            (Request::Read { key, read }, Answer::MailboxPage { entries, end, .. }) => {
                self.page(turn, key, read, entries, end);
            }
            (
                Request::Deleted(key),
                Answer::SessionDeleted {
                    session, filters, ..
                },
            ) => self.deleted(turn, key, session, &filters),
            (
                Request::Review(key),
                Answer::Subscriptions {
                    session, filters, ..
                },
            ) => self.reviewed(turn, key, session, &filters),
            _ => {}
        }
    }

    /// A QoS 2 packet identifier is forgotten for good.
    fn is_released(&mut self, turn: &mut Turn<'_>, (key, edge): (Key, Edge), packet_id: u16) {
        let session = self.sessions.get_mut(key);
        if let Some(durable) = session.and_then(|session| session.durable.as_mut()) {
            durable
                .received
                .retain(|known| known.packet_id != packet_id);
        }
        let connection = edge.connection;
        let released = CoreMessage::Released {
            connection,
            packet_id,
        };
        turn.outbox.tell(edge.core, released);
    }
}
