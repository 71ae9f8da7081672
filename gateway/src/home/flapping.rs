//! Clients that connect again and again: told of once, refused until their ban is over.

use super::Home;
use crate::access::flap::Flap;
use crate::core_message::Attach;
use crate::metrics::TurnedAway;
use crate::outbox::Note;
use crate::turn::Turn;

impl Home {
    /// Counts a CONNECT; true when its client has connected so often lately that it is not let in. The home of a user
    /// hears of all its clients' CONNECTs, so each is counted once; nobody counts against a client of another user.
    pub(super) fn is_flapping(&mut self, turn: &mut Turn<'_>, attach: &Attach) -> bool {
        let Some(guard) = &mut self.flapping else {
            return false;
        };
        let client = (attach.user(), &*attach.client_id);
        match guard.connect(client, attach.peer.ip(), turn.now.mono_ms) {
            Flap::Welcome => return false,
            Flap::BanBegins { until_ms } => {
                let ban_ms = until_ms - turn.now.mono_ms;
                turn.outbox.note(|| Note::Flapping {
                    client: attach.client_id.clone(),
                    peer: attach.peer.ip(),
                    ban_ms,
                });
            }
            Flap::Banned { .. } => {}
        }
        turn.stats.turn_away(TurnedAway::Flapping);
        true
    }
}
