//! A connection and its session: how they come together and part.

use crate::core_message::{Attach, Attached, AttachedSession, Detach, Identify};

record! { Attach {
    core,
    connection,
    client_id,
    clean_start,
    expiry_s,
    will,
    peer,
    secure,
    identity,
} }

record! { Identify { home, identity } }

record! { Attached { connection, outcome } }

record! { AttachedSession {
    session,
    home,
    home_core,
    present,
    durable,
    received via packet_ids,
    subscriptions,
} }

record! { Detach {
    home,
    connection,
    core,
    will,
    expiry_s,
    received via packet_ids,
    sent_to,
} }
