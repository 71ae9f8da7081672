//! How fast one client may send. Above its rate it is not read for a while: what it has sent waits in the kernel and then at its
//! own side, and nothing is lost.
//!
//! Counted is what a client does of its own: publishes, subscriptions, pings. Answers to what it was sent are not: their number is
//! the server's doing.

use edge_proto::frame::Frame;
use edge_proto::packet::PacketType;
use reactor::driver::ConnectionId;

use super::Edge;
use crate::access::bucket::Bucket;
use crate::limits::SessionRates;
use crate::turn::{Timer, Turn};

/// What is left of the rates of a session. It is a part of its traffic state, and goes away with that when both buckets are full.
#[derive(Debug, Default)]
pub(super) struct Throttle {
    messages: Bucket,
    bytes: Bucket,
    /// True exactly when a timer will let it go on.
    waits: bool,
}

impl Throttle {
    /// Takes what a packet costs in any case, and says how long to wait before the next one.
    fn charge(&mut self, rates: &SessionRates, now_ms: u64, messages: u32, bytes: u32) -> u64 {
        const FOR_EVER_MS: u64 = u64::MAX;
        let wait_ms = |bucket: &mut Bucket, rate, tokens| match rate {
            Some(rate) => bucket.charge(rate, now_ms, tokens).unwrap_or(FOR_EVER_MS),
            None => 0,
        };
        let messages = wait_ms(&mut self.messages, rates.messages, messages);
        messages.max(wait_ms(&mut self.bytes, rates.bytes, bytes))
    }

    /// True when a new one would say the same.
    pub(super) fn is_idle(&mut self, rates: &SessionRates, now_ms: u64) -> bool {
        let is_full = |bucket: &mut Bucket, rate: Option<_>| {
            rate.is_none_or(|rate| bucket.is_full(rate, now_ms))
        };
        !self.waits
            && is_full(&mut self.messages, rates.messages)
            && is_full(&mut self.bytes, rates.bytes)
    }
}

/// True for what a client sends of its own.
fn is_counted(frame: Frame<'_>) -> bool {
    matches!(
        frame.packet_type(),
        Some(
            PacketType::Publish
                | PacketType::Subscribe
                | PacketType::Unsubscribe
                | PacketType::PingReq
                | PacketType::Auth
        )
    )
}

impl Edge {
    /// How long a throttled client waits before it is looked at again.
    const WAIT_MS_MAX: u64 = 1_000;

    /// True when a client has sent so much lately that this packet has to wait. A timer lets it go on.
    pub(super) fn must_wait(
        &mut self,
        turn: &mut Turn<'_>,
        id: ConnectionId,
        frame: Frame<'_>,
    ) -> bool {
        let rates = turn.facts.limits.session_rates;
        if !rates.any() || !is_counted(frame) {
            return false;
        }
        let Some((_, session)) = self.live(id) else {
            return false;
        };
        let throttle = &mut session.traffic().throttle;
        let throttle = throttle.get_or_insert_default();
        let wait_ms = throttle.charge(&rates, turn.now.mono_ms, 0, 0);
        if wait_ms == 0 {
            return false;
        }
        if !throttle.waits {
            throttle.waits = true;
            turn.stats.counters.throttles += 1;
            let at_ms = turn.now.mono_ms + wait_ms.min(Self::WAIT_MS_MAX);
            turn.timers.arm(at_ms, Timer::Throttled(id));
        }
        true
    }

    /// A packet was handled: it counts.
    pub(super) fn charge(&mut self, turn: &Turn<'_>, id: ConnectionId, frame: Frame<'_>) {
        let rates = turn.facts.limits.session_rates;
        if !rates.any() || !is_counted(frame) {
            return;
        }
        if let Some((_, session)) = self.live(id) {
            let bytes = u32::try_from(frame.length).unwrap_or(u32::MAX);
            let throttle = &mut session.traffic().throttle;
            let throttle = throttle.get_or_insert_default();
            throttle.charge(&rates, turn.now.mono_ms, 1, bytes);
        }
    }

    /// The wait of a client is over, or as long as it may be without another look.
    pub fn throttle_over(&mut self, turn: &mut Turn<'_>, id: ConnectionId) {
        let Some((_, session)) = self.live(id) else {
            return;
        };
        if let Some(throttle) = session
            .traffic_if_any()
            .and_then(|traffic| traffic.throttle.as_deref_mut())
        {
            throttle.waits = false;
            self.resume(turn, id);
        }
    }
}
