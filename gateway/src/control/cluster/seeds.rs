//! Where other nodes may be found: names are looked up again for ever, since behind a name there are other addresses tomorrow.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};

use crate::config::{Host, Seed};

/// Addresses of one name that are taken.
const ADDRESSES_MAX: usize = 1_024;
/// How long one look-up may take.
const LOOK_UP: Duration = Duration::from_secs(5);
/// Between two look-ups while nobody is known, and later; the latter by a part of it more or less, so that not all ask at once.
const SOON: Duration = Duration::from_secs(1);
const SELDOM_MS: u64 = 10_000;

/// Looks all seeds up, now and again for ever; `alone` is true while nobody else is known.
pub(super) async fn resolve_for_ever(
    seeds: Vec<Seed>,
    random: u64,
    alone: watch::Receiver<bool>,
    found: mpsc::Sender<Vec<SocketAddr>>,
) {
    if seeds.is_empty() {
        return;
    }
    let mut failing = vec![false; seeds.len()];
    for round in 0u64.. {
        let mut addresses = Vec::new();
        for (seed, is_failing) in seeds.iter().zip(&mut failing) {
            let looked_up = look_up(seed).await;
            match looked_up {
                Ok(some) => {
                    *is_failing = false;
                    addresses.extend(some);
                }
                Err(error) if !std::mem::replace(is_failing, true) => {
                    tracing::warn!(%seed, %error, "a seed of cluster.seeds has no address; it is looked up again and again");
                }
                Err(_) => {}
            }
        }
        if found.send(addresses).await.is_err() {
            return;
        }
        let seldom =
            Duration::from_millis(SELDOM_MS + random.wrapping_mul(round | 1) % (SELDOM_MS / 2));
        sleep(if *alone.borrow() { SOON } else { seldom }).await;
    }
}

async fn look_up(seed: &Seed) -> std::io::Result<Vec<SocketAddr>> {
    let name = match &seed.host {
        Host::Address(address) => return Ok(vec![SocketAddr::new(*address, seed.port)]),
        Host::Name(name) => name,
    };
    let slow = |_| std::io::Error::from(std::io::ErrorKind::TimedOut);
    let found = timeout(LOOK_UP, tokio::net::lookup_host((name.as_str(), seed.port))).await;
    Ok(found.map_err(slow)??.take(ADDRESSES_MAX).collect())
}
