//! A connection and its session: how they come together and part; and how cores go from one view to the next.

use crate::core_message::{
    Attach, Attached, AttachedSession, Detach, HandoverStep, Identify, Reattach, Stage,
};

record! { Attach {
    core,
    connection,
    asked,
    session,
    client_id,
    clean_start,
    expiry_s,
    will,
    peer,
    secure,
    identity,
} }

record! { Identify { home, identity } }

record! { Attached { connection, asked, outcome } }

record! { AttachedSession {
    session,
    home,
    home_core,
    present,
    durable,
    received,
    subscriptions,
} }

record! { Detach {
    home,
    connection,
    core,
    will,
    expiry_s,
    received,
    sent_to,
} }

record! { Reattach {
    core,
    connection,
    session,
    client_id,
    durable,
    will,
    peer,
    identity,
    sent_to,
} }

record! { HandoverStep { epoch, stage } }

tagged! { Stage as "stage" {
    0 => Installed,
    1 => Announced,
    2 => Loaded,
} }
