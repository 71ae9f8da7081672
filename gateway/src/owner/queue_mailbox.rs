//! What an owner knows of a mailbox in which a group's queue is kept.

use std::collections::VecDeque;

use reactor::slab::Key;

use crate::engine::{Command, Evicted};
use crate::message::SessionId;
use crate::turn::Turn;

/// A mailbox of a group in the engine.
#[derive(Debug)]
pub(super) struct QueueMailbox {
    /// Its group; `None` once that has ended and the engine is deleting the mailbox.
    pub(super) group: Option<Key>,
    /// Messages in it.
    pub(super) messages: u64,
    /// Messages on their way to a member, in order.
    pub(super) handed: VecDeque<Handed>,
    /// Messages that a member took: the engine does not know yet, and may still say that it evicted one of them.
    pub(super) settled: Vec<u64>,
}

/// A message on its way to a member.
#[derive(Debug)]
pub(super) struct Handed {
    pub(super) sequence: u64,
    /// True when the engine has dropped it since, to make room.
    pub(super) evicted: bool,
}

impl QueueMailbox {
    /// One from the store, whose group is not known yet.
    pub(super) fn of(messages: u64) -> Self {
        Self {
            messages,
            ..Self::new(None)
        }
    }

    pub(super) fn new(group: Option<Key>) -> Self {
        Self {
            group,
            messages: 0,
            handed: VecDeque::new(),
            settled: Vec::new(),
        }
    }

    /// A message has left for good.
    pub(super) fn settle(&mut self, turn: &mut Turn<'_>, session: SessionId, sequence: u64) {
        self.messages -= 1;
        self.settled.push(sequence);
        turn.outbox
            .engine
            .push_back(Command::Ack { session, sequence });
    }

    /// Notes that the engine dropped old messages to make room; returns how many of them were still in the queue.
    pub(super) fn evict(&mut self, evicted: &[Evicted]) -> u64 {
        let before = self.messages;
        for Evicted { sequence, .. } in evicted {
            let handed = self
                .handed
                .iter_mut()
                .find(|handed| handed.sequence == *sequence);
            if let Some(handed) = handed {
                handed.evicted = true;
                self.messages -= 1;
            } else if !self.settled.contains(sequence) {
                self.messages -= 1;
            }
        }
        before - self.messages
    }
}
