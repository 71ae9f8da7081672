//! MQTT over WebSocket: the upgrade request, then frames whose payloads are the MQTT byte stream.

use edge_proto::websocket::handshake::{
    self, HEAD_LENGTH_MAX, Upgrade, UpgradeError, parse_upgrade,
};
use edge_proto::websocket::{self, Decoder, Event};
use reactor::driver::ConnectionId;

use super::depart::Leave;
use super::link::Transport;
use super::{Connection, Edge, State};
use crate::metrics::TurnedAway;
use crate::outbox::Note;
use crate::turn::Turn;

impl Edge {
    /// Bytes of the upgrade request, and perhaps frames behind it.
    pub(super) fn upgrade(&mut self, turn: &mut Turn<'_>, id: ConnectionId, bytes: &[u8]) {
        let Some(connection) = self.connection(id) else {
            return;
        };
        if matches!(connection.state, State::Closing) {
            return;
        }
        let mut head = *connection.link.partial.take().unwrap_or_default();
        turn.stats.partial_bytes -= head.len() as u64;
        head.extend_from_slice(bytes);
        let parsed = match parse_upgrade(&head) {
            Ok(Some(upgrade)) if !is_path(upgrade.path, &turn.facts.websocket_path) => {
                Err(UpgradeError::UnknownPath)
            }
            Ok(Some(upgrade)) if !may_connect(turn, connection, &upgrade) => {
                Err(UpgradeError::OriginNotAllowed)
            }
            other => other,
        };
        match parsed {
            Ok(Some(upgrade)) => {
                connection
                    .link
                    .write_raw(turn, |out| handshake::write_response(&upgrade, out));
                connection.link.transport = Transport::WebSocket(Box::new(Decoder::server()));
                let mut rest = head.split_off(upgrade.length);
                if !rest.is_empty() {
                    self.frames(turn, id, &mut rest);
                }
            }
            Ok(None) if head.len() <= HEAD_LENGTH_MAX => self.keep(turn, id, Box::new(head)),
            Ok(None) => self.refuse_upgrade(turn, id, UpgradeError::TooLarge),
            Err(error) => self.refuse_upgrade(turn, id, error),
        }
    }

    fn refuse_upgrade(&mut self, turn: &mut Turn<'_>, id: ConnectionId, error: UpgradeError) {
        if error == UpgradeError::OriginNotAllowed {
            turn.stats.turn_away(TurnedAway::Origin);
        } else {
            turn.stats.counters.protocol_violations += 1;
        }
        let Some(connection) = self.connection(id) else {
            return;
        };
        connection
            .link
            .write_raw(turn, |out| error.write_response(out));
        self.abandon(turn, id);
    }

    /// Bytes of WebSocket frames, cut anywhere.
    pub(super) fn frames(&mut self, turn: &mut Turn<'_>, id: ConnectionId, bytes: &mut [u8]) {
        let Some(connection) = self.connection(id) else {
            return;
        };
        let Transport::WebSocket(decoder) = &mut connection.link.transport else {
            return;
        };
        let mut decoder = std::mem::replace(&mut **decoder, Decoder::server());
        let mut closed = false;
        let result = decoder.decode(bytes, |event| match event {
            Event::Data(data) => self.stream(turn, id, data),
            Event::Ping(payload) => {
                if let Some(connection) = self.connection(id) {
                    let link = &connection.link;
                    // Before CONNECT is answered nothing else is sent to it that could pile up.
                    if link.is_flooded(turn)
                        || connection.state.is_arriving() && !link.can_take_more(turn)
                    {
                        closed = true; // It pings and does not read.
                        return;
                    }
                    connection
                        .link
                        .write_raw(turn, |out| websocket::pong(out, payload));
                }
            }
            Event::Pong => {}
            Event::Close(_) => closed = true,
        });
        if let Err(error) = result {
            turn.stats.counters.protocol_violations += 1;
            if let Some(connection) = self.connection(id) {
                connection
                    .link
                    .write_raw(turn, |out| websocket::close(out, error.code, error.detail));
            }
            closed = true;
        }
        let Some(connection) = self.connection(id) else {
            return;
        };
        if let Transport::WebSocket(kept) = &mut connection.link.transport {
            **kept = decoder;
        }
        if closed {
            self.leave(turn, id, Leave::lost());
        }
    }
}

/// Whether the page that a client runs in, if it runs in one, may connect.
fn may_connect(turn: &mut Turn<'_>, connection: &Connection, upgrade: &Upgrade<'_>) -> bool {
    let State::AwaitConnect(arrival) = &connection.state else {
        return true; // Its CONNECT cannot come before the upgrade.
    };
    let has_certificate = arrival.certificate.is_some();
    let peer = arrival.peer.ip();
    let (origin, host) = (upgrade.origin, upgrade.host);
    let may = turn
        .policy
        .may_page_connect((origin, host), peer, has_certificate);
    if !may {
        turn.outbox.note(|| Note::Page {
            connection: connection.link.id,
            origin: origin.unwrap_or_default().into(),
        });
    }
    may
}

/// True when a request target is this path, whatever its query.
fn is_path(target: &str, path: &str) -> bool {
    target.split('?').next() == Some(path)
}
