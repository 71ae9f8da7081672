//! What clients were not let do, in the log.

use crate::outbox::Note;

/// Writes a note to the log.
pub(super) fn log(core: u16, note: &Note) {
    match note {
        Note::Refused {
            connection,
            client,
            refusal,
        } => {
            let slot = connection.slot;
            tracing::debug!(core, slot, ?client, %refusal, "a client was not let in");
        }
        Note::Denied {
            connection,
            client,
            action,
            topic,
            denial,
        } => {
            let slot = connection.slot;
            tracing::debug!(core, slot, ?client, action, ?topic, %denial, "a client may not do this");
        }
        Note::Page { connection, origin } => {
            let slot = connection.slot;
            tracing::debug!(
                core,
                slot,
                ?origin,
                "a web page may not connect; listeners.websocket_origins says which may"
            );
        }
        Note::Flapping {
            client,
            peer,
            ban_ms,
        } => {
            tracing::info!(?client, %peer, ban_ms, "a client connects again and again; its CONNECTs are refused for a while");
        }
    }
}
