//! The keys of tokens that are fetched from a URL: at the start, then now and then, and when a token names a key that nobody has seen.

use std::time::Duration;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::ACCEPT;
use hyper::{Request, Uri};
use tokio::sync::{Mutex, Notify};
use tokio::time::Instant;

use super::Access;
use crate::access::token::KeySet;
use crate::config::{AccessMethod, Config};
use crate::control::Cores;

/// How long a fetch may take.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The largest set that is read.
const BYTES_MAX: usize = 1 << 20;
/// How soon a fetch may follow another one because of an unknown key.
const APART: Duration = Duration::from_secs(10);
/// The wait after the first failure; it doubles with each further one.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(60);

/// Where keys come from.
pub(super) struct KeySource {
    url: Uri,
    refresh: Duration,
    /// Held while they are fetched, so that everybody who needs them waits for the same fetch.
    last: Mutex<Attempt>,
    /// Rung when they are wanted at once.
    wanted: Notify,
}

#[derive(Default)]
struct Attempt {
    ended: Option<Instant>,
    failures: u32,
    /// What was fetched last.
    text: Bytes,
}

impl KeySource {
    /// The URL of the configuration, if it has one.
    pub(super) fn of(config: &Config) -> Option<Self> {
        let used = config.access.methods.have(AccessMethod::Token);
        let url = config.token.jwks_url.uri().filter(|_| used)?;
        Some(Self {
            url,
            refresh: config.token.jwks_refresh,
            last: Mutex::default(),
            wanted: Notify::new(),
        })
    }

    /// The keys are fetched at once, as soon as [`Access::keep_keys`] looks.
    pub(super) fn want(&self) {
        self.wanted.notify_one();
    }
}

impl Access {
    /// Fetches keys for ever.
    pub(super) async fn keep_keys(&self, cores: &Cores) {
        let Some(source) = &self.keys else {
            return std::future::pending().await;
        };
        loop {
            let failures = {
                let mut last = source.last.lock().await;
                self.fetch_keys(source, &mut last, cores).await;
                last.failures
            };
            let wait = match failures {
                0 => source.refresh,
                failures => {
                    let doubled = RETRY_FIRST.saturating_mul(1 << (failures - 1).min(10));
                    doubled.min(RETRY_MAX).min(source.refresh)
                }
            };
            let _ = tokio::time::timeout(wait, source.wanted.notified()).await; // Both mean: now.
        }
    }

    /// Called for a token whose key is unknown: fetches the keys, unless that was done a moment ago.
    pub(super) async fn keys_again(&self, cores: &Cores) {
        let Some(source) = &self.keys else { return };
        let mut last = source.last.lock().await;
        if last.ended.is_none_or(|ended| ended.elapsed() >= APART) {
            self.fetch_keys(source, &mut last, cores).await;
        }
    }

    async fn fetch_keys(&self, source: &KeySource, last: &mut Attempt, cores: &Cores) {
        let outcome = self.fetch_set(source).await;
        last.ended = Some(Instant::now());
        match outcome {
            Ok((text, keys)) => {
                last.failures = 0;
                let changed = text != last.text;
                last.text = text;
                let count = keys.len();
                self.keys_fetched(keys, changed, cores).await;
                if changed {
                    tracing::info!(keys = count, url = %source.url, "the keys of tokens were fetched");
                }
            }
            Err(error) => {
                last.failures = last.failures.saturating_add(1);
                self.keys_failed(&error);
                tracing::error!(
                    url = %source.url, failures = last.failures,
                    "the keys of tokens cannot be fetched: {error}; those fetched before stay in use, and it is tried again"
                );
            }
        }
    }

    async fn fetch_set(&self, source: &KeySource) -> Result<(Bytes, KeySet), String> {
        let client = self.state().content.client.clone();
        let client = client.ok_or("there is no HTTP client")?;
        let request = Request::get(source.url.clone())
            .header(ACCEPT, "application/json")
            .body(Full::default())
            .map_err(|error| error.to_string())?;
        let body = client.exchange(request, BYTES_MAX, TIMEOUT).await;
        let body = body.map_err(|error| error.to_string())?;
        let text = std::str::from_utf8(&body).map_err(|_| "its answer is not text")?;
        let keys = KeySet::from_jwks(text).map_err(|error| error.to_string())?;
        Ok((body, keys))
    }
}
