//! The control side of the node: how its one ordinary thread talks to the cores, and what it tells operators.
//!
//! [`Cores`] asks the cores; [`http`] answers operators, [`metrics`] answers Prometheus; [`access`] answers the cores'
//! questions about clients; [`status`] is what the node
//! knows about itself apart from its cores; [`engine`] makes options of a Valkey; [`log`] sets up the log of the shell. The core itself does not log: it
//! counts.

pub mod access;
mod answer;
mod api;
pub mod certificates;
pub mod cluster;
pub mod engine;
pub mod http;
pub mod log;
pub mod metrics;
pub mod status;

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::oneshot;

use crate::admin::{AdminReply, AdminRequest};

/// How long a core may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Hands a request to one core; `Err` gives it back when the core's inbox is full.
pub type SendToCore = Box<dyn Fn(u64, AdminRequest) -> Result<(), AdminRequest> + Send + Sync>;

/// All cores of the node, as the control thread sees them.
pub struct Cores {
    senders: Vec<SendToCore>,
    pending: Mutex<BTreeMap<u64, oneshot::Sender<AdminReply>>>,
    next_id: AtomicU64,
}

/// Why a core gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Its inbox is full: it is overloaded or stuck.
    #[error("core {0} takes no more requests: it is overloaded; try again")]
    Busy(usize),
    /// It ended before it answered.
    #[error("core {0} did not answer: the node is stopping")]
    Gone(usize),
    /// It took too long.
    #[error("core {0} did not answer within {1} ms")]
    Timeout(usize, u64),
}

impl Cores {
    /// Cores reached through these senders.
    pub fn new(senders: Vec<SendToCore>) -> Self {
        Self {
            senders,
            pending: Mutex::default(),
            next_id: AtomicU64::new(1),
        }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.senders.len()
    }

    /// Asks one core and waits for its answer, for at most ten seconds.
    ///
    /// # Errors
    /// See [`AskError`].
    pub async fn ask(&self, core: usize, request: AdminRequest) -> Result<AdminReply, AskError> {
        self.send(core, request)?
            .answer_within(ANSWER_TIMEOUT)
            .await
    }

    /// Asks every core the same at the same time; answers in core order.
    ///
    /// # Errors
    /// The first failure.
    pub async fn ask_all(&self, request: AdminRequest) -> Result<Vec<AdminReply>, AskError> {
        self.ask_each(request, ANSWER_TIMEOUT)
            .await
            .into_iter()
            .collect()
    }

    /// Asks every core the same at the same time; the answer or the failure of each, in core order. The time counts for
    /// all of them together.
    pub async fn ask_each(
        &self,
        request: AdminRequest,
        timeout: Duration,
    ) -> Vec<Result<AdminReply, AskError>> {
        let asked: Vec<_> = (0..self.count())
            .map(|core| self.send(core, request.clone()))
            .collect();
        let deadline = tokio::time::Instant::now() + timeout;
        let mut answers = Vec::with_capacity(asked.len());
        for question in asked {
            answers.push(match question {
                Ok(question) => question.answer_until(deadline, timeout).await,
                Err(error) => Err(error),
            });
        }
        answers
    }

    fn send(&self, core: usize, request: AdminRequest) -> Result<Question<'_>, AskError> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = oneshot::channel();
        self.pending
            .lock()
            .expect("no panic while held")
            .insert(id, sender);
        let question = Question {
            cores: self,
            id,
            core,
            receiver,
        };
        match self.senders[core](id, request) {
            Ok(()) => Ok(question),
            Err(_) => Err(AskError::Busy(core)),
        }
    }

    /// Called by a core's thread with its answer.
    pub fn answer(&self, id: u64, reply: AdminReply) {
        if let Some(sender) = self
            .pending
            .lock()
            .expect("no panic while held")
            .remove(&id)
        {
            let _ = sender.send(reply); // The asker gave up; nobody wants the answer.
        }
    }
}

/// A request on its way. Dropping it forgets the request, so that askers that give up leave nothing behind.
struct Question<'a> {
    cores: &'a Cores,
    id: u64,
    core: usize,
    receiver: oneshot::Receiver<AdminReply>,
}

impl Question<'_> {
    async fn answer_within(self, timeout: Duration) -> Result<AdminReply, AskError> {
        let deadline = tokio::time::Instant::now() + timeout;
        self.answer_until(deadline, timeout).await
    }

    async fn answer_until(
        mut self,
        deadline: tokio::time::Instant,
        timeout: Duration,
    ) -> Result<AdminReply, AskError> {
        match tokio::time::timeout_at(deadline, &mut self.receiver).await {
            Ok(Ok(reply)) => Ok(reply),
            Ok(Err(_)) => Err(AskError::Gone(self.core)),
            Err(_) => Err(AskError::Timeout(
                self.core,
                u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX),
            )),
        }
    }
}

impl Drop for Question<'_> {
    fn drop(&mut self) {
        self.cores
            .pending
            .lock()
            .expect("no panic while held")
            .remove(&self.id);
    }
}
