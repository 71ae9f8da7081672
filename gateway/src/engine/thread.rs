//! The engine thread: takes the commands of all cores from bounded queues, commits them as one batch, hands out the answers.
//!
//! **Invariants**
//! - A command that was accepted by [`CommandSender::try_send`] is committed once, in the order of its core, or the thread
//!   says at its end how many were not.
//! - No completion is lost or overtakes another one of the same core: when a core does not take one, it waits here, and no
//!   further batch begins while too many wait.
//! - Batches form by themselves: whatever arrived during a commit is the next one. Nothing waits in order to be together.
//! - Cores never wait for this thread; a full queue gives the command back.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};
use std::sync::{Arc, OnceLock};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crossbeam_queue::ArrayQueue;

pub use crate::engine::queue::CommandSender;
use crate::engine::queue::Shared;
use crate::engine::status::{EngineState, EngineStatus};
use crate::engine::{Command, Completion, Engine, EngineError};

/// Wait after the first failed commit; doubles up to [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_millis(100);
/// Longest wait between attempts to commit.
const RETRY_MAX: Duration = Duration::from_secs(2);
/// How soon completions are offered again to a core that had no room.
const REDELIVER_INTERVAL: Duration = Duration::from_millis(1);

/// Takes completions to the cores.
pub trait CompletionSink: Send {
    /// Hands a completion to a core, or back when the core has no room; it is offered again soon.
    ///
    /// # Errors
    /// The completion itself: the core has no room.
    fn deliver(&mut self, core: u16, completion: Completion) -> Result<(), Completion>;

    /// Called after completions were delivered to this core.
    fn wake(&mut self, core: u16);
}

/// Bounds of the engine thread.
#[derive(Clone, Copy, Debug)]
pub struct ThreadLimits {
    /// Commands that wait in the queue of one core; beyond, [`CommandSender::try_send`] gives them back.
    pub queue_commands: usize,
    /// Bytes that these keep in memory; the command that crosses it is the last one that is taken.
    pub queue_bytes: usize,
    /// Commands in one batch; beyond, they wait for the next one.
    pub batch_commands: usize,
    /// Bytes of messages in one batch; the command that crosses it is the last of its batch.
    pub batch_bytes: usize,
    /// Completions that cores had no room for; beyond, no further batch begins.
    pub undelivered: usize,
    /// Longest time that what needs no immediate sync stays unsynced: acknowledgements alone, and everything under
    /// [`crate::engine::Durability::Relaxed`].
    pub sync_interval: Duration,
    /// How long [`EngineThread::stop`] goes on trying when commits fail or cores take nothing.
    pub stop_timeout: Duration,
}

impl Default for ThreadLimits {
    fn default() -> Self {
        Self {
            queue_commands: 4_096,
            queue_bytes: 16 << 20,
            batch_commands: 4_096,
            batch_bytes: 16 << 20,
            undelivered: 16_384,
            sync_interval: Duration::from_secs(1),
            stop_timeout: Duration::from_secs(5),
        }
    }
}

/// A change of state, for the log: one per change, not one per failure.
#[derive(Debug)]
pub enum EngineEvent<'a> {
    /// Commits began to fail, or fail for another reason than before.
    Failing {
        /// Why.
        error: &'a EngineError,
    },
    /// Commits work again.
    Recovered {
        /// How long they did not.
        after: Duration,
    },
}

/// What was left when the thread ended; all zero after a clean stop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StopReport {
    /// Commands that were accepted and never committed.
    pub uncommitted: usize,
    /// Completions that no core took.
    pub undelivered: usize,
    /// True exactly when the last sync failed, so that acknowledgements may come back.
    pub unsynced: bool,
}

/// The handle of the engine thread. Dropping it leaves the thread running; end it with [`EngineThread::stop`].
#[derive(Debug)]
pub struct EngineThread {
    shared: Arc<Shared>,
    status: EngineStatus,
    thread: JoinHandle<StopReport>,
}

impl EngineThread {
    /// Starts the thread over an engine that was restored. Returns one sender per core, in order of the cores. `cores` are their numbers,
    /// which commands name; the sink knows them by their places, from 0.
    ///
    /// # Errors
    /// The system cannot start a thread.
    pub fn spawn<E: Engine + Send + 'static>(
        engine: E,
        cores: Range<u16>,
        limits: ThreadLimits,
        sink: impl CompletionSink + 'static,
        on_event: impl FnMut(EngineEvent<'_>) + Send + 'static,
    ) -> io::Result<(Self, Vec<CommandSender>)> {
        let first_core = cores.start;
        let cores = cores.len() as u16;
        let shared = Arc::new(Shared {
            queues: (0..cores)
                .map(|_| ArrayQueue::new(limits.queue_commands.max(1)))
                .collect(),
            queued_bytes: (0..cores).map(|_| AtomicUsize::new(0)).collect(),
            queue_bytes_max: limits.queue_bytes,
            asleep: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            thread: OnceLock::new(),
        });
        let status = EngineStatus::new(engine.disk_bytes());
        let worker = Worker {
            engine,
            sink,
            on_event,
            limits,
            shared: Arc::clone(&shared),
            status: status.clone(),
            batch: 1,
            commands: Vec::new(),
            completions: Vec::new(),
            undelivered: (0..cores).map(|_| VecDeque::new()).collect(),
            undelivered_total: 0,
            touched: vec![false; usize::from(cores)],
            first_core,
            first_queue: 0,
            failure: None,
            unsynced_since: None,
        };
        let thread = thread::Builder::new()
            .name("engine".to_owned())
            .spawn(move || worker.run())?;
        let senders = (0..cores)
            .map(|core| CommandSender {
                shared: Arc::clone(&shared),
                core,
            })
            .collect();
        Ok((
            Self {
                shared,
                status,
                thread,
            },
            senders,
        ))
    }

    /// What the thread does and how well; cheap to clone, readable from any thread.
    pub fn status(&self) -> EngineStatus {
        self.status.clone()
    }

    /// Commands that wait in all queues.
    pub fn queued(&self) -> usize {
        self.shared.queues.iter().map(ArrayQueue::len).sum()
    }

    /// Commits what is queued, hands out the answers, syncs, closes the store and ends the thread.
    ///
    /// # Panics
    /// When the engine thread has panicked.
    pub fn stop(self) -> StopReport {
        self.shared.stopping.store(true, Ordering::Release);
        self.shared.wake();
        self.thread
            .join()
            .expect("the engine thread does not panic")
    }
}

/// Everything the thread owns.
struct Worker<E, S, F> {
    engine: E,
    sink: S,
    on_event: F,
    limits: ThreadLimits,
    shared: Arc<Shared>,
    status: EngineStatus,
    /// Number of the next batch, or of the one in `commands`.
    batch: u64,
    /// The batch that is being formed or retried.
    commands: Vec<(u16, Command)>,
    completions: Vec<(u16, Completion)>,
    /// Completions that a core had no room for, per core.
    undelivered: Box<[VecDeque<Completion>]>,
    undelivered_total: usize,
    /// Cores that were given something since they were last woken.
    touched: Vec<bool>,
    /// Number of the core whose place is 0.
    first_core: u16,
    /// Where the next batch begins to collect, so that no core is always last.
    first_queue: usize,
    failure: Option<Failure>,
    /// Since when something has waited for a sync, as far as the thread knows.
    unsynced_since: Option<Instant>,
}

/// A period of failing commits.
#[derive(Clone, Copy)]
struct Failure {
    since: Instant,
    state: EngineState,
    wait: Duration,
    retry_at: Instant,
}

impl<E: Engine, S: CompletionSink, F: FnMut(EngineEvent<'_>)> Worker<E, S, F> {
    fn run(mut self) -> StopReport {
        self.shared.thread.get_or_init(thread::current);
        let mut stop_at = None;
        loop {
            let now = clock();
            if stop_at.is_none() && self.shared.stopping.load(Ordering::Acquire) {
                stop_at = Some(now + self.limits.stop_timeout);
            }
            self.redeliver();
            let due = self.failure.is_none_or(|failure| {
                failure.retry_at <= now || stop_at.is_some_and(|at| at <= now)
            });
            if due {
                self.step(now);
            }
            if let Some(at) = stop_at
                && (self.is_idle() || at <= now)
            {
                return self.finish();
            }
            self.wait(stop_at);
        }
    }

    /// One attempt: commits a batch if there is one, syncs if it is time.
    fn step(&mut self, now: Instant) {
        if self.commands.is_empty() && self.undelivered_total < self.limits.undelivered {
            self.collect();
        }
        if !self.commands.is_empty() {
            self.commit();
        } else if let Some(since) = self.unsynced_since
            && now.duration_since(since) >= self.limits.sync_interval
        {
            self.sync(now);
        }
    }

    fn is_idle(&self) -> bool {
        self.commands.is_empty()
            && self.undelivered_total == 0
            && self.shared.queues.iter().all(ArrayQueue::is_empty)
    }

    /// Takes commands from all queues, up to the bounds of a batch.
    fn collect(&mut self) {
        let cores = self.shared.queues.len();
        let mut bytes = 0;
        for index in (0..cores).map(|offset| (self.first_queue + offset) % cores) {
            while self.commands.len() < self.limits.batch_commands
                && bytes < self.limits.batch_bytes
            {
                let Some(command) = self.shared.pop(index) else {
                    break;
                };
                bytes += command.batch_bytes();
                self.commands
                    .push((self.first_core + index as u16, command));
            }
        }
        self.first_queue = (self.first_queue + 1) % cores.max(1);
        self.status
            .count_collected(self.commands.len() as u64, bytes as u64);
    }

    fn commit(&mut self) {
        let begin = clock();
        let result =
            self.engine
                .commit(self.batch, unix_ms(), &self.commands, &mut self.completions);
        let end = clock();
        match result {
            Ok(()) => {
                self.status
                    .count_commit(end.duration_since(begin), self.engine.disk_bytes());
                self.unsynced_since.get_or_insert(end);
                self.recovered(end);
                self.batch += 1;
                self.commands.clear();
                self.deliver_completions();
                // Under constant load the step above never finds time for it.
                if self
                    .unsynced_since
                    .is_some_and(|since| end.duration_since(since) >= self.limits.sync_interval)
                {
                    self.sync(end);
                }
            }
            Err(error) => self.failed(&error, end),
        }
    }

    fn sync(&mut self, now: Instant) {
        match self.engine.sync() {
            Ok(()) => {
                self.unsynced_since = None;
                self.recovered(now);
            }
            Err(error) => self.failed(&error, now),
        }
    }

    fn failed(&mut self, error: &EngineError, now: Instant) {
        let state = if matches!(error, EngineError::Full { .. }) {
            EngineState::Full
        } else {
            EngineState::Failing
        };
        let before = self.failure;
        let wait = before.map_or(RETRY_MIN, |failure| (failure.wait * 2).min(RETRY_MAX));
        let since = before.map_or(now, |failure| failure.since);
        self.failure = Some(Failure {
            since,
            state,
            wait,
            retry_at: now + wait,
        });
        self.status.count_failure(state, error);
        if before.is_none_or(|failure| failure.state != state) {
            (self.on_event)(EngineEvent::Failing { error });
        }
    }

    fn recovered(&mut self, now: Instant) {
        if let Some(failure) = self.failure.take() {
            self.status.set_working();
            (self.on_event)(EngineEvent::Recovered {
                after: now.duration_since(failure.since),
            });
        }
    }

    fn deliver_completions(&mut self) {
        for (core, completion) in self.completions.drain(..) {
            let core = core.wrapping_sub(self.first_core);
            let index = usize::from(core);
            let Some(waiting) = self.undelivered.get_mut(index) else {
                continue; // Of a core that this node has not.
            };
            let refused = if waiting.is_empty() {
                self.sink.deliver(core, completion).err()
            } else {
                Some(completion)
            };
            if let Some(completion) = refused {
                waiting.push_back(completion);
                self.undelivered_total += 1;
            } else {
                self.touched[index] = true;
            }
        }
        self.wake_touched();
    }

    fn redeliver(&mut self) {
        if self.undelivered_total == 0 {
            return;
        }
        for (index, waiting) in self.undelivered.iter_mut().enumerate() {
            while let Some(completion) = waiting.pop_front() {
                if let Err(completion) = self.sink.deliver(index as u16, completion) {
                    waiting.push_front(completion);
                    break;
                }
                self.touched[index] = true;
                self.undelivered_total -= 1;
            }
        }
        self.wake_touched();
    }

    fn wake_touched(&mut self) {
        for (core, touched) in self.touched.iter_mut().enumerate() {
            if std::mem::take(touched) {
                self.sink.wake(core as u16);
            }
        }
    }

    /// Sleeps until there may be something to do.
    fn wait(&self, stop_at: Option<Instant>) {
        self.shared.asleep.store(true, Ordering::Relaxed);
        // Pairs with the fence in `Shared::wake`.
        fence(Ordering::SeqCst);
        let ready = self.failure.is_none()
            && self.undelivered_total < self.limits.undelivered
            && !self.shared.queues.iter().all(ArrayQueue::is_empty);
        let stop_is_news = stop_at.is_none() && self.shared.stopping.load(Ordering::Acquire);
        if !ready && !stop_is_news {
            match self.next_deadline(stop_at) {
                Some(deadline) => thread::park_timeout(deadline.saturating_duration_since(clock())),
                None => thread::park(),
            }
        }
        self.shared.asleep.store(false, Ordering::Relaxed);
    }

    fn next_deadline(&self, stop_at: Option<Instant>) -> Option<Instant> {
        let redeliver = (self.undelivered_total > 0).then(|| clock() + REDELIVER_INTERVAL);
        let retry_or_sync = match self.failure {
            Some(failure) => Some(failure.retry_at),
            None => self
                .unsynced_since
                .map(|since| since + self.limits.sync_interval),
        };
        [redeliver, retry_or_sync, stop_at]
            .into_iter()
            .flatten()
            .min()
    }

    fn finish(mut self) -> StopReport {
        let queued: usize = self.shared.queues.iter().map(ArrayQueue::len).sum();
        StopReport {
            uncommitted: self.commands.len() + queued,
            undelivered: self.undelivered_total,
            unsynced: self.engine.sync().is_err(),
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "this thread is a shell around the engine: it reads the clock itself"
)]
fn clock() -> Instant {
    Instant::now()
}

#[expect(
    clippy::disallowed_methods,
    reason = "this thread is a shell around the engine: it reads the clock itself"
)]
fn unix_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_millis() as u64)
}
