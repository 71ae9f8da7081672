//! HTTP for operators: health, readiness, metrics, and the API behind `roadstead ctl`; and, on a listener of its own, the first
//! three alone, for probes and scrapes from other machines.
//!
//! There is no authentication, so the address is a loopback one unless the configuration says otherwise, and two things
//! keep the browsers of this machine out: a request must name the node by address (a page that had its own name resolve to
//! 127.0.0.1 does not), and one that changes something must not come from a page. Connections, requests, bodies and times
//! are bounded.

use std::future::Future;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::sync::Semaphore;

use super::answer::ApiError;
use super::api::{monitoring, router};
use super::metrics::CoreSample;
use super::status::NodeStatus;
use super::{AskError, Cores};
use crate::admin::{AdminReply, AdminRequest};
use crate::config::AdminSection;

/// Time for the head of a request, waiting between two requests of a connection included.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// Time for a whole request: its body, the cores, its answer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// Time that requests get to end when the node stops.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(2);
/// Connections for each request that may run; beyond it connections wait to be accepted.
const CONNECTIONS_PER_REQUEST: usize = 4;
/// How long a pause accepting takes when the process has no descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What the handlers share.
pub(super) struct Admin {
    pub(super) cores: Arc<Cores>,
    pub(super) status: Arc<NodeStatus>,
    /// The last answer of each core, for scrapes that one does not answer: counters must not go back.
    last: Mutex<Vec<CoreSample>>,
    requests: Semaphore,
    loopback: bool,
}

/// What a listener answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Paths {
    /// All that operators may ask.
    All,
    /// Health, readiness and metrics: what changes nothing, and may be asked from anywhere.
    Monitoring,
}

/// Serves until `shutdown` completes; then the requests being served get two seconds.
///
/// # Errors
/// When the listener cannot be used by the runtime. Later errors are those of single connections.
pub async fn serve(
    listener: std::net::TcpListener,
    paths: Paths,
    cores: Arc<Cores>,
    status: Arc<NodeStatus>,
    settings: AdminSection,
    shutdown: impl Future<Output = ()>,
) -> std::io::Result<()> {
    listener.set_nonblocking(true)?;
    let loopback = listener.local_addr()?.ip().to_canonical().is_loopback();
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let requests_max = settings.requests_max as usize;
    let admin = Arc::new(Admin {
        last: Mutex::new(vec![CoreSample::default(); cores.count()]),
        requests: Semaphore::new(requests_max),
        cores,
        status,
        loopback,
    });
    let router = match paths {
        Paths::All => router(&admin, settings.body_bytes_max.as_usize()),
        Paths::Monitoring => monitoring(&admin),
    };
    let service = TowerToHyperService::new(router);
    let connections = Arc::new(Semaphore::new(requests_max * CONNECTIONS_PER_REQUEST));
    let graceful = GracefulShutdown::new();
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        let next = async {
            let permit = Arc::clone(&connections)
                .acquire_owned()
                .await
                .expect("the semaphore is never closed");
            (permit, listener.accept().await)
        };
        let (permit, accepted) = tokio::select! {
            () = &mut shutdown => break,
            next = next => next,
        };
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIMEOUT)
            .serve_connection(TokioIo::new(stream), service.clone());
        let connection = graceful.watch(connection);
        tokio::spawn(async move {
            let _ = connection.await; // Its error is the peer's, who has gone.
            drop(permit);
        });
    }
    drop(listener);
    let _ = tokio::time::timeout(SHUTDOWN_TIMEOUT, graceful.shutdown()).await; // What has not ended is cut off.
    Ok(())
}

/// Holds every request against the rules above, and ends it in time.
pub(super) async fn guard(
    State(admin): State<Arc<Admin>>,
    request: Request,
    next: Next,
) -> Response {
    if admin.loopback && !host_is_local(request.headers()) {
        return ApiError::new(
            StatusCode::MISDIRECTED_REQUEST,
            "the Host of the request is neither an IP address nor localhost",
            "name the node by its address, e.g. http://127.0.0.1:9883; by name only with admin.allow_remote = true",
        )
        .into_response();
    }
    let safe = matches!(*request.method(), Method::GET | Method::HEAD);
    if !safe && request.headers().contains_key(header::ORIGIN) {
        return ApiError::new(
            StatusCode::FORBIDDEN,
            "a web page sent this request",
            "use `roadstead ctl`, curl or a program: requests with an Origin header change nothing here",
        )
        .into_response();
    }
    let Ok(_permit) = admin.requests.try_acquire() else {
        return ApiError::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "too many requests at once",
            "try again in a moment, or raise admin.requests_max",
        )
        .into_response();
    };
    match tokio::time::timeout(REQUEST_TIMEOUT, next.run(request)).await {
        Ok(response) => response,
        Err(_) => ApiError::new(
            StatusCode::REQUEST_TIMEOUT,
            "the request took longer than 30 s",
            "send its body faster, or see with /healthz whether a core is stuck",
        )
        .into_response(),
    }
}

/// True when the request has no Host or names this machine by address or as `localhost`.
fn host_is_local(headers: &HeaderMap) -> bool {
    let Some(host) = headers.get(header::HOST) else {
        return true;
    };
    let Ok(host) = host.to_str() else {
        return false;
    };
    // An IPv6 address stands in brackets, and a port may follow either kind.
    let (name, port) = match host.strip_prefix('[') {
        Some(rest) => rest.split_once(']').unwrap_or((rest, "")),
        None => host.split_at(host.find(':').unwrap_or(host.len())),
    };
    let only_a_port = port.is_empty()
        || port
            .strip_prefix(':')
            .is_some_and(|port| port.parse::<u16>().is_ok());
    if !only_a_port {
        return false;
    }
    name.parse::<IpAddr>().is_ok() || name.eq_ignore_ascii_case("localhost")
}

impl Admin {
    /// One sample of each core; a core that does not answer in time is represented by its last answer.
    pub(super) async fn samples(&self, timeout: Duration) -> (Vec<CoreSample>, Vec<AskError>) {
        let answers = self.cores.ask_each(AdminRequest::Snapshot, timeout).await;
        let mut failures = Vec::new();
        let mut last = self.last.lock().expect("no panic while held");
        for (sample, answer) in last.iter_mut().zip(answers) {
            match answer {
                Ok(AdminReply::Snapshot(snapshot)) => {
                    *sample = CoreSample {
                        snapshot: *snapshot,
                        answered: true,
                    }
                }
                Ok(_) => sample.answered = false,
                Err(error) => {
                    sample.answered = false;
                    failures.push(error);
                }
            }
        }
        (last.clone(), failures)
    }
}
