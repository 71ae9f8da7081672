//! The way of commands from the cores to the engine thread: a bounded queue per core, and waking the thread.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};
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
        let core = usize::from(self.core);
        let queued_bytes = &self.shared.queued_bytes[core];
        if queued_bytes.load(Ordering::Relaxed) > self.shared.queue_bytes_max {
            return Err(command);
        }
        // Counted before the thread can take it, so that the sum never falls below nothing.
        let bytes = command.bytes();
        queued_bytes.fetch_add(bytes, Ordering::Relaxed);
        if let Err(command) = self.shared.queues[core].push(command) {
            queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
            return Err(command);
        }
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
    /// What the commands of each queue keep in memory.
    pub(super) queued_bytes: Box<[AtomicUsize]>,
    pub(super) queue_bytes_max: usize,
    /// True exactly while the engine thread waits, or is about to, and nobody has woken it yet.
    pub(super) asleep: AtomicBool,
    pub(super) stopping: AtomicBool,
    pub(super) thread: OnceLock<thread::Thread>,
}

impl Shared {
    /// Takes the oldest command of a core.
    pub(super) fn pop(&self, core: usize) -> Option<Command> {
        let command = self.queues[core].pop()?;
        self.queued_bytes[core].fetch_sub(command.bytes(), Ordering::Relaxed);
        Some(command)
    }

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
