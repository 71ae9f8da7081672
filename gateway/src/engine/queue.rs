//! The way of commands from the cores to the engine thread: a bounded queue per core, and waking the thread.

use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::sync::{Arc, OnceLock};
use std::thread;

use crossbeam_queue::ArrayQueue;

use crate::engine::Command;

/// The end of the queue that one core holds.
#[derive(Debug)]
pub struct CommandSender {
    pub(super) shared: Arc<Shared>,
    pub(super) core: u16,
}

impl CommandSender {
    /// Queues a command and wakes the engine thread.
    ///
    /// # Errors
    /// The command itself: the queue is full. Try again after the next completion.
    pub fn try_send(&self, command: Command) -> Result<(), Command> {
        self.shared.queues[usize::from(self.core)].push(command)?;
        self.shared.wake();
        Ok(())
    }

    /// Commands that wait in this queue.
    pub fn queued(&self) -> usize {
        self.shared.queues[usize::from(self.core)].len()
    }

    /// Asks the thread to offer waiting completions again now: the core has made room.
    pub fn wake(&self) {
        self.shared.wake();
    }
}

#[derive(Debug)]
pub(super) struct Shared {
    /// One per core.
    pub(super) queues: Box<[ArrayQueue<Command>]>,
    /// True exactly while the engine thread waits, or is about to, and nobody has woken it yet.
    pub(super) asleep: AtomicBool,
    pub(super) stopping: AtomicBool,
    pub(super) thread: OnceLock<thread::Thread>,
}

impl Shared {
    pub(super) fn wake(&self) {
        // Pairs with the fence in `Worker::wait` of the engine thread: either this sees `asleep`, or the thread sees what was pushed.
        fence(Ordering::SeqCst);
        if self.asleep.load(Ordering::Relaxed)
            && self.asleep.swap(false, Ordering::AcqRel)
            && let Some(thread) = self.thread.get()
        {
            thread.unpark();
        }
    }
}
