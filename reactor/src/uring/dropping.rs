//! The end of a driver: its connections, then what is still in flight, then the memory.
//!
//! Connections end as they always do, by a shutdown that their polls end with. To cancel those instead would cost the square of
//! their number: the kernel searches a table of at most 256 buckets for each, past those that it has cancelled before.

use std::time::Duration;

use super::ring::Wait;
use super::{HeldAddress, Key, UringDriver};
use crate::driver::Driver;

/// How long one enter waits for connections to end.
const PATIENCE: Duration = Duration::from_millis(10);
/// Enters in a row without an end, after which what is left is cancelled.
const STANDSTILLS_MAX: u32 = 50;

impl UringDriver {
    /// Ends every connection, every accept and every datagram socket, and drives them until none is left. Nobody is told.
    pub(super) fn end_all(&mut self) {
        self.stop_listening();
        let keys: Vec<Key> = self.connections.iter().map(|(key, _)| key).collect();
        for key in keys {
            self.end(key, 0);
        }
        self.end_all_datagrams();
        let mut events = Vec::new();
        let mut standstills = 0;
        while self.sockets() > 0 && standstills < STANDSTILLS_MAX {
            self.drive_dirty();
            self.drive_datagrams();
            let before = self.ring.in_flight();
            // Every one that is left has at least one completion under way.
            let wanted = u32::try_from(self.sockets()).unwrap_or(u32::MAX);
            if self.ring.enter(Wait::Many(wanted, PATIENCE)).is_err() {
                return;
            }
            self.reap(usize::MAX, &mut events);
            events.clear();
            let moved = self.ring.in_flight() < before;
            standstills = if moved { 0 } else { standstills + 1 };
        }
    }

    fn sockets(&self) -> usize {
        self.connections.len() + self.datagrams.sockets()
    }
}

impl Drop for UringDriver {
    fn drop(&mut self) {
        self.end_all();
        if self.ring.shut_down() {
            let slots: Vec<u32> = self.addresses.iter().map(|(slot, _)| slot).collect();
            for slot in slots {
                self.addresses.remove(slot).map(HeldAddress::release);
            }
            self.datagrams.release();
            // Closes the sockets now rather than when the kernel comes round to the ring.
            let _ = self.ring.submitter().unregister_files();
        } else {
            // The kernel may still read or write what operations point to: it stays allocated.
            std::mem::forget(std::mem::take(&mut self.connections));
            std::mem::forget(self.buffers.take());
            self.datagrams.leak();
            // A second panic would hide the first, and abort.
            debug_assert!(
                std::thread::panicking(),
                "every operation ends when it is cancelled"
            );
        }
    }
}
