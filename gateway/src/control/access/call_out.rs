//! Asks the HTTP service about a client. Those who show the same wait for the same request; a failure lets nobody in.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use http_body_util::Full;
use hyper::header::{ACCEPT, CONTENT_TYPE, HeaderMap};
use hyper::{Request, Uri};
use tokio::sync::{OnceCell, Semaphore};

use super::fetch::HttpClient;
use super::files::{AccessError, Content};
use super::random;
use super::stats::Stats;
use crate::access::call_out::{self, Cache, CacheKey, Reply};
use crate::access::policy::Credentials;
use crate::config::{AccessMethod, Config};
use crate::event_loop::Clock;

/// The largest answer: 32 rules with 64 topics fit several times.
const BYTES_MAX: usize = 256 * 1024;
/// How long failures are counted between two lines in the log.
const LOG_EVERY_MS: u64 = 5_000;

/// What the service said, or why it said nothing.
type Outcome = Result<Reply, Box<str>>;

/// The service, as the configuration and its headers name it. Another one takes its place when the files are read again, with an empty
/// cache.
pub(super) struct Caller {
    url: Uri,
    headers: HeaderMap,
    client: HttpClient,
    timeout: Duration,
    room: Semaphore,
    shared: Mutex<Shared>,
}

struct Shared {
    cache: Cache,
    /// Requests on their way, each for everybody who shows the same.
    asked: BTreeMap<CacheKey, Arc<OnceCell<Outcome>>>,
    failures_unlogged: u64,
    logged_at_ms: Option<u64>,
}

impl Caller {
    /// The service of the configuration, if it is asked at all.
    pub(super) fn of(config: &Config, content: &Content) -> Result<Option<Arc<Self>>, AccessError> {
        let used = config.access.methods.have(AccessMethod::Http);
        let (Some(url), Some(client), true) = (config.http.url.uri(), &content.client, used) else {
            return Ok(None);
        };
        let http = &config.http;
        let ttl_ms = u64::try_from(http.cache_ttl.as_millis()).unwrap_or(u64::MAX);
        Ok(Some(Arc::new(Self {
            url,
            headers: content.headers.clone(),
            client: client.clone(),
            timeout: http.timeout,
            room: Semaphore::new(http.requests_max as usize),
            shared: Mutex::new(Shared {
                cache: Cache::new(http.cache_entries_max as usize, ttl_ms, &random()?),
                asked: BTreeMap::new(),
                failures_unlogged: 0,
                logged_at_ms: None,
            }),
        })))
    }

    /// What the service says about a client.
    pub(super) async fn ask(
        &self,
        credentials: &Credentials,
        clock: Clock,
        stats: &Stats,
    ) -> Outcome {
        let key = self.shared().cache.key(credentials);
        let cell = {
            let mut shared = self.shared();
            if let Some(reply) = shared.cache.find(key, clock.now().unix_ms) {
                stats.cache_hits.fetch_add(1, Ordering::Relaxed);
                return Ok(reply);
            }
            Arc::clone(shared.asked.entry(key).or_default())
        };
        let waiter = Waiter {
            caller: self,
            key,
            cell,
        };
        let asked = || self.request(credentials, clock);
        let outcome = waiter.cell.get_or_init(asked).await;
        let mut shared = self.shared();
        if let Ok(reply) = outcome {
            shared.cache.keep(key, reply, clock.now().unix_ms);
        }
        outcome.clone()
    }

    async fn request(&self, credentials: &Credentials, clock: Clock) -> Outcome {
        let _room = self.room.acquire().await; // Never closed.
        let mut request = Request::post(self.url.clone())
            .header(CONTENT_TYPE, "application/json")
            .header(ACCEPT, "application/json");
        if let Some(headers) = request.headers_mut() {
            headers.extend(self.headers.clone());
        }
        let body = Full::from(call_out::body(credentials));
        let outcome = match request.body(body) {
            Ok(request) => {
                let answer = self.client.exchange(request, BYTES_MAX, self.timeout).await;
                answer.map_err(|error| error.to_string())
            }
            Err(error) => Err(error.to_string()),
        };
        let now_unix_ms = clock.now().unix_ms;
        let reply = outcome.and_then(|body| {
            let reply = call_out::reply(&body, credentials, now_unix_ms);
            reply.map_err(|error| error.to_string())
        });
        reply.map_err(|error| {
            self.log(&error, now_unix_ms);
            error.into()
        })
    }

    /// A line now and then: a service that is down fails for every client.
    fn log(&self, error: &str, now_unix_ms: u64) {
        let mut shared = self.shared();
        shared.failures_unlogged += 1;
        let logged = shared.logged_at_ms;
        if logged.is_some_and(|logged| now_unix_ms.saturating_sub(logged) < LOG_EVERY_MS) {
            return;
        }
        shared.logged_at_ms = Some(now_unix_ms);
        let failures = std::mem::take(&mut shared.failures_unlogged);
        tracing::error!(url = %self.url, failures, "the service at http.url gives no answer, so its clients are refused: {error}");
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().expect("no panic while held")
    }
}

/// Somebody who waits for a request. The last one takes it off the list.
struct Waiter<'a> {
    caller: &'a Caller,
    key: CacheKey,
    cell: Arc<OnceCell<Outcome>>,
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        let mut shared = self.caller.shared();
        let known = shared.asked.get(&self.key);
        let listed = known.is_some_and(|known| Arc::ptr_eq(known, &self.cell));
        // Two: the list's own and this waiter's.
        if listed && (self.cell.initialized() || Arc::strong_count(&self.cell) <= 2) {
            shared.asked.remove(&self.key);
        }
    }
}
