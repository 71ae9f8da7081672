//! How a connection ends: what the client is told, what happens to its session, and when its home hears of it.

use edge_proto::encode;
use edge_proto::packet::{Disconnect, UserProperties};
use edge_proto::reason::{ReasonCode, Violation};
use edge_proto::session::inbound::Inbound;
use reactor::driver::ConnectionId;

use super::handover::Place;
use super::session::Session;
use super::{Detaching, Edge, State, tells_reasons};
use crate::core_message::{CoreMessage, Detach, UnsubscribeRequest};
use crate::engine::claim::{MessageId, ReceivedId};
use crate::metrics::DropReason;
use crate::turn::Turn;

/// Why and how a connection ends.
#[derive(Clone, Copy, Debug)]
pub(super) struct Leave<'a> {
    /// The reason code of a DISCONNECT to the client; `None` when there is nobody or nothing to tell.
    pub(super) tell: Option<ReasonCode>,
    /// The reason in words.
    pub(super) detail: Option<&'static str>,
    /// True when the will is to be published.
    pub(super) will: bool,
    /// A Session Expiry Interval that the client's DISCONNECT set.
    pub(super) expiry_s: Option<u32>,
    /// Where the client is to go instead (Server Reference).
    pub(super) elsewhere: Option<&'a str>,
}

impl<'a> Leave<'a> {
    /// The connection was lost.
    pub(super) const fn lost() -> Self {
        Self {
            tell: None,
            detail: None,
            will: true,
            expiry_s: None,
            elsewhere: None,
        }
    }

    /// The server ends it.
    pub(super) const fn because(reason: ReasonCode) -> Self {
        Self {
            tell: Some(reason),
            detail: None,
            will: true,
            expiry_s: None,
            elsewhere: None,
        }
    }

    /// The client is to go to another server, if one is known to this one (MQTT 5.0 §4.11).
    pub(super) const fn elsewhere(server: Option<&'a str>) -> Self {
        Self {
            elsewhere: server,
            ..Self::because(ReasonCode::UseAnotherServer)
        }
    }

    /// The client broke a rule.
    pub(super) const fn violation(violation: Violation) -> Self {
        Self {
            tell: Some(violation.reason),
            detail: Some(violation.detail),
            will: true,
            expiry_s: None,
            elsewhere: None,
        }
    }
}

impl Edge {
    /// Ends a connection.
    pub(super) fn leave(&mut self, turn: &mut Turn<'_>, id: ConnectionId, leave: Leave<'_>) {
        let Some(connection) = self.connection(id) else {
            return;
        };
        if let (State::Live(session), Some(reason)) = (&connection.state, leave.tell)
            && tells_reasons(session.version)
        {
            let detail = leave.detail.filter(|_| session.problem_information);
            let packet = Disconnect {
                reason,
                session_expiry_s: None,
                reason_string: detail,
                user_properties: UserProperties::default(),
                server_reference: leave.elsewhere,
            };
            let (version, maximum) = (session.version, session.maximum_packet_size);
            connection.link.write(turn, |out| {
                encode::disconnect_within(out, version, &packet, maximum);
            });
        }
        if !matches!(connection.state, State::Closing) {
            connection.link.close(turn);
        }
        self.forget_partial(turn, id);
        self.depart_if_live(turn, id, leave);
    }

    /// Takes the session off a connection that ends.
    pub(super) fn depart_if_live(
        &mut self,
        turn: &mut Turn<'_>,
        id: ConnectionId,
        leave: Leave<'_>,
    ) {
        let Some(connection) = self.connection(id) else {
            return;
        };
        if !matches!(connection.state, State::Live(_)) {
            return connection.close_state(turn);
        }
        let State::Live(session) = std::mem::replace(&mut connection.state, State::Closing) else {
            return;
        };
        self.live -= 1;
        self.depart(turn, id, *session, leave);
    }

    fn depart(
        &mut self,
        turn: &mut Turn<'_>,
        id: ConnectionId,
        mut session: Session,
        leave: Leave<'_>,
    ) {
        if let Some(timer) = session.login.as_mut().and_then(|login| login.timer.take()) {
            turn.timers.cancel(timer);
        }
        let mut traffic = *session.take_traffic().unwrap_or_default();
        for scan in traffic.waiting_scans.drain(..) {
            self.scans.remove(scan);
        }
        turn.stats.queued_bytes -= traffic.queue_bytes;
        let lost = traffic
            .queue
            .iter()
            .filter(|queued| queued.sequence == 0)
            .count() as u64;
        let in_flight = if session.durable {
            0
        } else {
            traffic.outbound.drain().count() as u64
        };
        turn.stats
            .drop_accepted(DropReason::SessionEnded, lost + in_flight);
        for filter in std::mem::take(&mut session.filters) {
            for &core in turn.owners_of_filter(&filter) {
                let request = UnsubscribeRequest {
                    filter: filter.clone(),
                    session: session.session,
                    reply: None,
                };
                turn.outbox
                    .tell(core, CoreMessage::Unsubscribe(Box::new(request)));
            }
        }
        let is_homeless = session
            .attachment()
            .is_some_and(|it| it.place == Place::Nowhere);
        let detaching = Detaching {
            session: session.session,
            durable: session.durable,
            told: false,
            login: session.login,
            home_core: session.home_core,
            home: session.home,
            inbound: traffic.inbound,
            will: leave.will,
            expiry_s: leave.expiry_s,
            sent_to: session.sequence,
        };
        if is_homeless {
            return; // There is nobody to tell.
        }
        self.detaching.insert(id, detaching);
        self.detach_if_quiet(turn, id);
    }

    /// Tells the home once the last publish of an ended connection is stored: before that is known, it must not give the session to
    /// another connection.
    pub(super) fn detach_if_quiet(&mut self, turn: &mut Turn<'_>, id: ConnectionId) {
        let Some(detaching) = self.detaching.get_mut(&id) else {
            return;
        };
        let is_quiet = detaching.inbound.is_quiet() || !detaching.durable;
        if !is_quiet || detaching.told || detaching.is_away() {
            return;
        }
        detaching.told = true;
        let detach = Detach {
            home: detaching.home,
            connection: id,
            core: turn.facts.core,
            will: detaching.will,
            expiry_s: detaching.expiry_s,
            received: received_ids(std::mem::take(&mut detaching.inbound)),
            sent_to: detaching.sent_to,
        };
        let detach = CoreMessage::Detach(Box::new(detach));
        turn.outbox.tell(detaching.home_core, detach);
        if !turn.ownership.is_clustered() {
            self.detaching.remove(&id);
        }
    }
}

/// What was received and not released; in a cluster the home knows it better.
fn received_ids(inbound: Inbound) -> Vec<ReceivedId> {
    let received = inbound.into_received().into_iter();
    received
        .map(|packet_id| ReceivedId {
            packet_id,
            message: MessageId::NONE,
        })
        .collect()
}
