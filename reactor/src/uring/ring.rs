//! The ring itself: setup, submission, waiting, and completions copied out.

use std::collections::VecDeque;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

use io_uring::types::{CancelBuilder, Timespec};
use io_uring::{IoUring, cqueue, squeue};

const ENTER_GETEVENTS: u32 = 1;
const ENTER_EXT_ARG: u32 = 1 << 3;
const ENTER_REGISTERED_RING: u32 = 1 << 4;
const ENTER_NO_IOWAIT: u32 = 1 << 7;
/// Threads of the kernel that run what cannot be started without blocking: shutdown(2), for this driver.
const WORKERS_MAX: u32 = 2;
const REGISTER_RING_FDS: u32 = 20;
const UNREGISTER_RING_FDS: u32 = 21;

/// `struct io_uring_rsrc_update`.
#[repr(C)]
struct RingFdUpdate {
    offset: u32,
    reserved: u32,
    data: u64,
}

/// `struct __kernel_timespec`.
#[repr(C)]
struct KernelTimespec {
    seconds: i64,
    nanoseconds: i64,
}

/// `struct io_uring_getevents_arg`.
#[repr(C)]
struct WaitArgument {
    sigmask: u64,
    sigmask_size: u32,
    min_wait_microseconds: u32,
    timespec: u64,
}

/// How long an enter may wait for a completion.
#[derive(Clone, Copy, Debug)]
pub(super) enum Wait {
    No,
    For(Duration),
    /// For so many completions, or this long.
    Many(u32, Duration),
    Forever,
}

/// A completion, copied out of the queue.
#[derive(Clone, Copy, Debug)]
pub(super) struct Completion {
    pub(super) user_data: u64,
    pub(super) result: i32,
    pub(super) flags: u32,
}

impl Completion {
    /// Whether the operation goes on.
    pub(super) fn more(&self) -> bool {
        cqueue::more(self.flags)
    }
}

pub(super) struct Ring {
    ring: IoUring,
    /// Entries that found the submission queue full while the kernel took none.
    backlog: VecDeque<squeue::Entry>,
    /// Operations whose last completion was not seen.
    in_flight: u64,
    /// What enter takes: an index of a registered ring, or a descriptor.
    enter_fd: RawFd,
    registered: bool,
    /// Flags of every enter.
    enter_flags: u32,
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Ring")
            .field("in_flight", &self.in_flight)
            .finish_non_exhaustive()
    }
}

impl Ring {
    /// Sets a ring up for the calling thread, which alone may use it from then on.
    pub(super) fn new(submission_entries: u32, completion_entries: u32) -> io::Result<Self> {
        let completion_entries = completion_entries.max(submission_entries);
        let ring = build(submission_entries, completion_entries, true).or_else(|error| {
            // IORING_SETUP_NO_SQARRAY is of Linux 6.6.
            let old = error.raw_os_error() == Some(libc::EINVAL);
            if old {
                build(submission_entries, completion_entries, false)
            } else {
                Err(error)
            }
        })?;
        // Works with the kernel's own bound when it fails.
        let _ = ring
            .submitter()
            .register_iowq_max_workers(&mut [WORKERS_MAX; 2]);
        // A thread that waits for the network is idle, and not waiting for a disk.
        let no_iowait = if ring.params().is_feature_no_iowait() {
            ENTER_NO_IOWAIT
        } else {
            0
        };
        let mut ring = Self {
            enter_fd: ring.as_raw_fd(),
            ring,
            backlog: VecDeque::new(),
            in_flight: 0,
            registered: false,
            enter_flags: ENTER_GETEVENTS | ENTER_EXT_ARG | no_iowait,
        };
        ring.register_ring_fd();
        Ok(ring)
    }

    pub(super) fn submitter(&self) -> io_uring::Submitter<'_> {
        self.ring.submitter()
    }

    /// True when operations wait for the next enter.
    pub(super) fn has_submissions(&mut self) -> bool {
        !self.ring.submission().is_empty()
    }

    pub(super) const fn in_flight(&self) -> u64 {
        self.in_flight
    }

    /// Saves the kernel a descriptor look-up per enter. Works without when it fails.
    fn register_ring_fd(&mut self) {
        let fd = self.ring.as_raw_fd();
        let mut update = RingFdUpdate {
            offset: u32::MAX,
            reserved: 0,
            data: fd as u64,
        };
        // SAFETY: `update` has the layout of io_uring_rsrc_update, one of them is passed, and it outlives the call.
        let result = unsafe {
            libc::syscall(
                libc::SYS_io_uring_register,
                fd,
                REGISTER_RING_FDS,
                &raw mut update,
                1,
            )
        };
        if result == 1 {
            self.enter_fd = update.offset as RawFd;
            self.registered = true;
        }
    }

    fn unregister_ring_fd(&mut self) {
        if !std::mem::take(&mut self.registered) {
            return;
        }
        let fd = self.ring.as_raw_fd();
        let mut update = RingFdUpdate {
            offset: self.enter_fd as u32,
            reserved: 0,
            data: 0,
        };
        self.enter_fd = fd;
        // SAFETY: `update` has the layout of io_uring_rsrc_update, one of them is passed, and it outlives the call.
        unsafe {
            libc::syscall(
                libc::SYS_io_uring_register,
                fd,
                UNREGISTER_RING_FDS,
                &raw mut update,
                1,
            )
        };
    }

    /// Queues an operation for the next enter.
    ///
    /// # Safety
    /// The memory that the entry points to is valid, and is not used otherwise, until the operation's last completion.
    pub(super) unsafe fn push(&mut self, entry: &squeue::Entry) {
        self.in_flight += 1;
        if !self.backlog.is_empty() || !self.try_push(entry) {
            // The queue is full: hand it to the kernel and try again. What it does not take waits its turn.
            let _ = self.enter(Wait::No);
            if !self.backlog.is_empty() || !self.try_push(entry) {
                self.backlog.push_back(entry.clone());
            }
        }
    }

    fn try_push(&mut self, entry: &squeue::Entry) -> bool {
        // SAFETY: entries come from `push` only, whose caller answers for their memory.
        unsafe { self.ring.submission().push(entry).is_ok() }
    }

    /// Submits what is queued and waits for a completion. An interrupted or timed-out wait is no error; nor is EBUSY or
    /// EAGAIN, after which the entries are still queued and completions have to be taken first.
    pub(super) fn enter(&mut self, wait: Wait) -> io::Result<()> {
        while let Some(entry) = self.backlog.pop_front() {
            if !self.try_push(&entry) {
                self.backlog.push_front(entry);
                break;
            }
        }
        let to_submit = self.ring.submission().len() as u32;
        let (span, wanted) = match wait {
            Wait::No => (None, 0),
            Wait::For(span) => (Some(span), 1),
            Wait::Many(count, span) => (Some(span), count),
            Wait::Forever => (None, 1),
        };
        let timed = span.is_some();
        let span = span.unwrap_or_default();
        let timespec = KernelTimespec {
            seconds: i64::try_from(span.as_secs()).unwrap_or(i64::MAX),
            nanoseconds: i64::from(span.subsec_nanos()),
        };
        let timespec = if timed {
            (&raw const timespec) as u64
        } else {
            0
        };
        let argument = WaitArgument {
            sigmask: 0,
            sigmask_size: 8,
            min_wait_microseconds: 0,
            timespec,
        };
        let registered = if self.registered {
            ENTER_REGISTERED_RING
        } else {
            0
        };
        // SAFETY: `argument` and the timespec it points to have the layout of the kernel's structures and outlive the
        // call; the entries it submits were pushed under the contract of `push`.
        let result = unsafe {
            libc::syscall(
                libc::SYS_io_uring_enter,
                self.enter_fd,
                to_submit,
                wanted,
                self.enter_flags | registered,
                &raw const argument,
                size_of::<WaitArgument>(),
            )
        };
        if result >= 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN) => Ok(()),
            _ => Err(error),
        }
    }

    /// Whether the kernel holds completions that found the queue full; the next enter brings them.
    pub(super) fn overflowed(&mut self) -> bool {
        self.ring.submission().cq_overflow()
    }

    pub(super) fn has_completions(&mut self) -> bool {
        !self.ring.completion().is_empty()
    }

    /// Moves up to `max` completions out of the queue.
    pub(super) fn take(&mut self, max: usize, into: &mut Vec<Completion>) {
        for entry in self.ring.completion().take(max) {
            let completion = Completion {
                user_data: entry.user_data(),
                result: entry.result(),
                flags: entry.flags(),
            };
            self.in_flight -= u64::from(!completion.more());
            into.push(completion);
        }
    }

    /// Cancels everything and takes completions until nothing is in flight; false when that came to a standstill.
    pub(super) fn shut_down(&mut self) -> bool {
        let mut completions = Vec::new();
        let mut standstill = 0;
        let mut cancelled = false;
        while self.in_flight > 0 && standstill < 50 {
            let before = self.in_flight;
            // Submits what is queued, so that the cancellation covers it too.
            let _ = self.enter(Wait::No);
            self.take(usize::MAX, &mut completions);
            // Once is enough, unless something was started meanwhile; each time costs the square of what is pending.
            if !std::mem::replace(&mut cancelled, true) || standstill > 0 {
                let patience = Some(Timespec::new().nsec(10_000_000));
                let _ = self
                    .submitter()
                    .register_sync_cancel(patience, CancelBuilder::any());
            }
            // The kernel hands out cancelled operations in the number that is waited for, and few otherwise.
            let all = u32::try_from(self.in_flight).unwrap_or(u32::MAX);
            let wanted = all.min(self.ring.params().cq_entries());
            if wanted > 0 {
                let _ = self.enter(Wait::Many(wanted, Duration::from_millis(10)));
            }
            self.take(usize::MAX, &mut completions);
            completions.clear();
            standstill = if self.in_flight < before {
                0
            } else {
                standstill + 1
            };
        }
        self.in_flight == 0
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        self.unregister_ring_fd();
    }
}

fn build(
    submission_entries: u32,
    completion_entries: u32,
    no_sqarray: bool,
) -> io::Result<IoUring> {
    let mut builder = IoUring::builder();
    builder
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_coop_taskrun()
        .setup_taskrun_flag()
        .setup_submit_all()
        .setup_cqsize(completion_entries)
        .setup_clamp()
        .dontfork();
    if no_sqarray {
        builder.setup_no_sqarray();
    }
    builder.build(submission_entries)
}
