//! The three system calls of epoll.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use crate::socket::checked;

#[derive(Debug)]
pub(super) struct Poller {
    fd: OwnedFd,
    events: Vec<libc::epoll_event>,
}

impl Poller {
    pub(super) fn new(events_max: usize) -> io::Result<Self> {
        // SAFETY: epoll_create1 takes an integer and no memory.
        let fd = checked(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        // SAFETY: the kernel has just made this descriptor for us.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self {
            fd,
            events: vec![libc::epoll_event { events: 0, u64: 0 }; events_max.clamp(1, 4096)],
        })
    }

    pub(super) fn add(&self, fd: RawFd, interest: i32, token: u64) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, fd, interest, token)
    }

    pub(super) fn modify(&self, fd: RawFd, interest: i32, token: u64) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_MOD, fd, interest, token)
    }

    pub(super) fn control(
        &self,
        operation: i32,
        fd: RawFd,
        interest: i32,
        token: u64,
    ) -> io::Result<()> {
        let mut event = libc::epoll_event {
            events: interest as u32,
            u64: token,
        };
        // SAFETY: `event` is a local that outlives the call.
        checked(unsafe { libc::epoll_ctl(self.fd.as_raw_fd(), operation, fd, &raw mut event) })
            .map(drop)
    }

    /// Waits at most `timeout` (`None` = no limit) and returns the number of events. An interrupted wait has none.
    pub(super) fn wait(&mut self, timeout: Option<Duration>) -> io::Result<usize> {
        // Rounded up, so that the deadline has passed when the wait ends.
        let milliseconds = timeout.map_or(-1, |span| {
            i32::try_from(span.as_nanos().div_ceil(1_000_000)).unwrap_or(i32::MAX)
        });
        let (events, length) = (self.events.as_mut_ptr(), self.events.len() as i32);
        // SAFETY: `events` has room for `length` events.
        let count = unsafe { libc::epoll_wait(self.fd.as_raw_fd(), events, length, milliseconds) };
        match checked(count) {
            Ok(count) => Ok(count as usize),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(0),
            Err(error) => Err(error),
        }
    }

    /// The event of the last wait with this number, as (flags, token).
    pub(super) fn event(&self, index: usize) -> (i32, u64) {
        let event = self.events[index];
        (event.events as i32, event.u64)
    }
}
