//! The control side of the node: how its one ordinary thread talks to the cores.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::oneshot;

use crate::admin::{AdminReply, AdminRequest};

/// Hands a request to one core; `Err` gives it back when the core's inbox is full.
pub type SendToCore = Box<dyn Fn(u64, AdminRequest) -> Result<(), AdminRequest> + Send + Sync>;

/// All cores of the node, as the control thread sees them.
pub struct Cores {
    senders: Vec<SendToCore>,
    pending: Mutex<BTreeMap<u64, oneshot::Sender<AdminReply>>>,
    next_id: AtomicU64,
    core_of_client: Box<dyn Fn(&str) -> usize + Send + Sync>,
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
    /// Cores reached through these senders; `core_of_client` names the home of a client id.
    pub fn new(senders: Vec<SendToCore>, core_of_client: Box<dyn Fn(&str) -> usize + Send + Sync>) -> Self {
        Self { senders, pending: Mutex::default(), next_id: AtomicU64::new(1), core_of_client }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.senders.len()
    }

    /// The core that is the home of this client id (of a client without an authenticated user).
    pub fn core_of_client(&self, client_id: &str) -> usize {
        (self.core_of_client)(client_id)
    }

    /// Asks one core and waits for its answer.
    ///
    /// # Errors
    /// See [`AskError`].
    pub async fn ask(&self, core: usize, request: AdminRequest) -> Result<AdminReply, AskError> {
        const TIMEOUT_MS: u64 = 10_000;
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = oneshot::channel();
        self.pending.lock().expect("no panic while held").insert(id, sender);
        if self.senders[core](id, request).is_err() {
            self.pending.lock().expect("no panic while held").remove(&id);
            return Err(AskError::Busy(core));
        }
        match tokio::time::timeout(std::time::Duration::from_millis(TIMEOUT_MS), receiver).await {
            Ok(Ok(reply)) => Ok(reply),
            Ok(Err(_)) => Err(AskError::Gone(core)),
            Err(_) => {
                self.pending.lock().expect("no panic while held").remove(&id);
                Err(AskError::Timeout(core, TIMEOUT_MS))
            }
        }
    }

    /// Asks every core the same; answers in core order.
    ///
    /// # Errors
    /// The first failure.
    pub async fn ask_all(&self, request: AdminRequest) -> Result<Vec<AdminReply>, AskError> {
        let mut replies = Vec::with_capacity(self.count());
        for core in 0..self.count() {
            replies.push(self.ask(core, request.clone()).await?);
        }
        Ok(replies)
    }

    /// Called by a core's thread with its answer.
    pub fn answer(&self, id: u64, reply: AdminReply) {
        if let Some(sender) = self.pending.lock().expect("no panic while held").remove(&id) {
            let _ = sender.send(reply); // The asker gave up; nobody wants the answer.
        }
    }
}
