//! A bounded queue into a core from threads that are no core.

use std::sync::Arc;

use crossbeam_queue::ArrayQueue;

use crate::driver::Waker;

/// The end of the core.
#[derive(Debug)]
pub struct Inbox<T> {
    queue: Arc<ArrayQueue<T>>,
}

/// The end of the other threads. Each send wakes the core.
#[derive(Debug)]
pub struct InboxSender<T> {
    queue: Arc<ArrayQueue<T>>,
    waker: Waker,
}

impl<T> Clone for InboxSender<T> {
    fn clone(&self) -> Self {
        Self {
            queue: Arc::clone(&self.queue),
            waker: self.waker.clone(),
        }
    }
}

/// An inbox of `capacity` messages for the core whose driver `waker` wakes.
#[must_use]
pub fn inbox<T: Send>(capacity: usize, waker: Waker) -> (InboxSender<T>, Inbox<T>) {
    let queue = Arc::new(ArrayQueue::new(capacity.max(1)));
    (
        InboxSender {
            queue: Arc::clone(&queue),
            waker,
        },
        Inbox { queue },
    )
}

impl<T: Send> InboxSender<T> {
    /// Puts a message into the inbox and wakes the core.
    ///
    /// # Errors
    /// Gives the message back when the inbox is full; the core is woken all the same.
    pub fn send(&self, message: T) -> Result<(), T> {
        let sent = self.queue.push(message);
        self.waker.wake();
        sent
    }
}

impl<T: Send> Inbox<T> {
    /// Takes up to `max` messages and returns how many.
    pub fn drain(&mut self, max: usize, mut handle: impl FnMut(T)) -> usize {
        for taken in 0..max {
            let Some(message) = self.queue.pop() else {
                return taken;
            };
            handle(message);
        }
        max
    }

    /// Whether a message waits.
    #[must_use]
    pub fn has_pending(&self) -> bool {
        !self.queue.is_empty()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_send_notifies_the_driver_and_a_full_inbox_gives_back() {
        let waker = Waker::without_eventfd();
        let (sender, mut inbox) = inbox(1, waker.clone());
        assert_eq!(sender.send(1), Ok(()));
        assert!(waker.flag().awake());
        assert_eq!(sender.send(2), Err(2));
        assert!(inbox.has_pending());
        assert_eq!(inbox.drain(10, |number| assert_eq!(number, 1)), 1);
        assert!(!inbox.has_pending());
    }
}
