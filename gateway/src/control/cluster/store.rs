//! The store of views, whose calls block, on a thread of its own.
//!
//! One call at a time. What waits for longer than the coordinator does is not done at all: it counts it as failed, and asks again.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

use cluster::coordinator::times::ANSWER_WITHIN_MS;
use cluster::coordinator::{Input, Written};
use cluster::view::{Version, View};
use tokio::sync::mpsc;

use crate::engine::views::ViewStore;
use crate::event_loop::Clock;

/// Requests that wait; one more is dropped, and counts as failed.
const WAITING_MAX: usize = 4;

/// Something to ask of the store.
pub(super) enum Request {
    Read {
        request: u64,
        known: Option<Version>,
        beat: bool,
    },
    Write {
        request: u64,
        expected: Option<Version>,
        view: Arc<View>,
        version: Version,
    },
}

/// Where requests go. The thread ends when this is dropped, after the call that it is in.
pub(super) struct StoreThread {
    requests: SyncSender<(u64, Request)>,
}

impl StoreThread {
    /// Starts the thread. Answers go to `answers`; errors are in the log, once for each row of them.
    pub(super) fn spawn(
        store: Arc<dyn ViewStore>,
        clock: Clock,
        answers: mpsc::Sender<Input>,
    ) -> std::io::Result<Self> {
        let (requests, receiver) = sync_channel(WAITING_MAX);
        std::thread::Builder::new()
            .name("views".into())
            .spawn(move || serve(&*store, clock, &receiver, &answers))?;
        Ok(Self { requests })
    }

    /// Asks the store. What does not fit is dropped.
    pub(super) fn ask(&self, now_ms: u64, request: Request) {
        match self.requests.try_send((now_ms, request)) {
            Ok(()) | Err(TrySendError::Full(_)) => {}
            Err(TrySendError::Disconnected(_)) => {
                tracing::error!("the thread of the store of views is gone");
            }
        }
    }
}

fn serve(
    store: &dyn ViewStore,
    clock: Clock,
    requests: &Receiver<(u64, Request)>,
    answers: &mpsc::Sender<Input>,
) {
    let mut is_failing = false;
    while let Ok((asked_ms, request)) = requests.recv() {
        if clock.now().mono_ms >= asked_ms + ANSWER_WITHIN_MS {
            continue;
        }
        let (input, failed) = call(store, request);
        if let Some(error) = &failed
            && !is_failing
        {
            tracing::error!("{error}; no view can be changed meanwhile");
        }
        if failed.is_none() && is_failing {
            tracing::info!("the store of views answers again");
        }
        is_failing = failed.is_some();
        if answers.blocking_send(input).is_err() {
            return;
        }
    }
}

fn call(store: &dyn ViewStore, request: Request) -> (Input, Option<String>) {
    match request {
        Request::Read {
            request,
            known,
            beat,
        } => match store.read(known, beat) {
            Ok(stored) => {
                let stored = Some(stored);
                (Input::Read { request, stored }, None)
            }
            Err(error) => {
                let stored = None;
                (Input::Read { request, stored }, Some(error.to_string()))
            }
        },
        Request::Write {
            request,
            expected,
            view,
            version,
        } => {
            let outcome = store.compare_and_set(expected, &view, version);
            let failed = (outcome == Written::Unknown)
                .then(|| "the store of views did not say whether it took a view".to_owned());
            (Input::Written { request, outcome }, failed)
        }
    }
}
