//! Waking a driver from another thread, without a lost wake and without a system call while the driver is awake.
//!
//! ```text
//!            prepare_sleep                 notify (writes the eventfd)
//!   AWAKE ───────────────▶ SLEEPING ───────────────────────────┐
//!     ▲ │                     │ awake (a socket event, a deadline)│
//!     │ └──── notify ─────┐   ▼                                ▼
//!     └───────── awake ───┴─ AWAKE                          NOTIFIED ── awake ──▶ AWAKE, and Event::Woken
//! ```
//!
//! A sender first publishes its message and then calls `notify`; a driver first leaves NOTIFIED and then its core reads
//! the messages. Both are read-modify-write operations on one word, so that one of them comes first: either the driver
//! sees NOTIFIED and does not sleep, or the sender sees SLEEPING and rings.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

#[cfg(not(loom))]
use std::sync::atomic::{AtomicU8, Ordering};

#[cfg(loom)]
use loom::sync::atomic::{AtomicU8, Ordering};

const AWAKE: u8 = 0;
const NOTIFIED: u8 = 1;
const SLEEPING: u8 = 2;

/// The word between a driver and everybody who may wake it.
#[derive(Debug)]
pub(crate) struct SleepFlag(AtomicU8);

impl SleepFlag {
    pub(crate) fn new() -> Self {
        Self(AtomicU8::new(AWAKE))
    }

    /// By a waker: returns true when the driver sleeps, or is about to, and has to be rung.
    pub(crate) fn notify(&self) -> bool {
        self.0.swap(NOTIFIED, Ordering::AcqRel) == SLEEPING
    }

    /// By the driver: returns false when it was notified and must not block.
    pub(crate) fn prepare_sleep(&self) -> bool {
        self.0
            .compare_exchange(AWAKE, SLEEPING, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }

    /// By the driver, after it looked for events: returns true when it was notified since the last call.
    pub(crate) fn awake(&self) -> bool {
        self.0.swap(AWAKE, Ordering::AcqRel) == NOTIFIED
    }
}

#[derive(Debug)]
struct Bell {
    flag: SleepFlag,
    /// `None` for the fake driver, which never sleeps.
    eventfd: Option<OwnedFd>,
}

/// Wakes one driver from any thread. Cheap when the driver is awake: the eventfd is written only when it sleeps or is
/// about to.
///
/// Publish what the driver's core is to find (a ring, an inbox) before the call.
#[derive(Clone, Debug)]
pub struct Waker {
    bell: Arc<Bell>,
}

impl Waker {
    pub(crate) fn with_eventfd() -> io::Result<Self> {
        // SAFETY: eventfd takes two integers and no memory.
        let fd = unsafe { libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `fd` was just returned to us by the kernel, so that nobody else owns it.
        let eventfd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self {
            bell: Arc::new(Bell {
                flag: SleepFlag::new(),
                eventfd: Some(eventfd),
            }),
        })
    }

    pub(crate) fn without_eventfd() -> Self {
        Self {
            bell: Arc::new(Bell {
                flag: SleepFlag::new(),
                eventfd: None,
            }),
        }
    }

    pub(crate) fn flag(&self) -> &SleepFlag {
        &self.bell.flag
    }

    pub(crate) fn eventfd(&self) -> RawFd {
        self.bell.eventfd.as_ref().map_or(-1, AsRawFd::as_raw_fd)
    }

    /// By the driver, before [`SleepFlag::prepare_sleep`]: forgets the rings that were for an earlier sleep.
    pub(crate) fn clear(&self) {
        let mut count: u64 = 0;
        // SAFETY: the pointer is to eight bytes of the local `count`, which outlives the call. The descriptor does not block.
        unsafe { libc::read(self.eventfd(), (&raw mut count).cast(), 8) };
    }

    /// By the driver, after `clear` and `prepare_sleep`: sleeps until it is woken or `span` has passed.
    pub(crate) fn wait(&self, span: Duration) {
        let mut descriptor = libc::pollfd {
            fd: self.eventfd(),
            events: libc::POLLIN,
            revents: 0,
        };
        let span = libc::timespec {
            tv_sec: span.as_secs() as libc::time_t,
            tv_nsec: libc::c_long::from(span.subsec_nanos() as i32),
        };
        // SAFETY: one pollfd and one timespec, both local, are passed and outlive the call; no signal mask is.
        unsafe { libc::ppoll(&raw mut descriptor, 1, &raw const span, std::ptr::null()) };
    }

    /// Makes the driver's present or next `poll` return with [`Event::Woken`](crate::driver::Event::Woken).
    pub fn wake(&self) {
        if !self.bell.flag.notify() {
            return;
        }
        let Some(eventfd) = &self.bell.eventfd else {
            return;
        };
        let one: u64 = 1;
        // SAFETY: the pointer is to eight bytes of the local `one`, which outlives the call.
        let written = unsafe { libc::write(eventfd.as_raw_fd(), (&raw const one).cast(), 8) };
        // EAGAIN means that the counter is full, and then it is readable already.
        debug_assert!(
            written == 8 || io::Error::last_os_error().raw_os_error() == Some(libc::EAGAIN)
        );
    }
}
