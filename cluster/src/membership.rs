//! Who is alive, by gossip: SWIM as foca has it, behind an interface without sockets and clocks. Datagrams go in, datagrams and
//! events come out, and there is one heap of timers.
//!
//! What we do otherwise than foca alone would:
//!
//! - foca spreads names only (uid, incarnation, address). What else a node says of itself is asked of it directly when it
//!   comes up, and an event is only made of it when it has answered: so who is called alive was heard of first-hand.
//! - Whoever is doubted is asked directly as well, three times, so that refuting takes one round trip however many nodes there are.
//!   A broken link of the bus is a reason to doubt ([`Membership::doubt`]).
//! - Death is not for ever. foca never takes a dead identity back, and tells it to come as another one. After a cut both sides
//!   would do that to each other, and members of a majority would lose their place. Here nobody is told; a peer that speaks again
//!   after [`DEAD_FOR_MS`] is alive again, and who has fallen is asked now and then. Only the coordinator gives a node another
//!   incarnation ([`Membership::rejoin`]).

mod timers;
mod wire;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::num::{NonZeroU8, NonZeroUsize};
use std::time::Duration;

use foca::{Foca, Member, NoCustomBroadcast, OwnedNotification, PeriodicParams, State};
use rand::SeedableRng;
use rand::rngs::SmallRng;

use crate::limits::PEERS_MAX;
use crate::sealed::{BODY_BYTES_MAX, DatagramError, KeyRing, Refusals, Sealer, Sessions};
use crate::view::{Joining, NodeId};
use timers::{Timer, Timers, Wishes};
use wire::{ALIVE, ASK, Ask, FOCA, FocaMessage, Peer, TELL, Tell, Wire};

/// Each node probes one other in this time: 2.5 probes and as many answers a second and node, however many nodes there are.
pub const PROBE_EVERY_MS: u64 = 400;

/// A probe is answered in this time, or others are asked to try: thirty times the way between two zones of a region.
pub const PROBE_ANSWER_MS: u64 = 150;

/// Who is doubted has this time to refute it. At three nodes the worst case is to be probed last in two rounds, to
/// fail a probe and to be doubted: 4 × 400 + 1,000 ms.
pub const DOUBT_MS: u64 = 1_000;

/// How often who is doubted is asked.
const DOUBT_ASKS: u32 = 3;

/// A dead peer that speaks is alive again after this time. Before, what is still told of its death would only kill it once more.
pub const DEAD_FOR_MS: u64 = 5_000;

/// Who has fallen is asked every five seconds for ten minutes, after which it is forgotten.
const FALLEN_ASKED_EVERY_MS: u64 = 5_000;
const FALLEN_FORGOTTEN_MS: u64 = 600_000;

/// Between two looks at who is not described or has fallen.
const REVISIT_MS: u64 = 250;

/// Most questions in one look.
const ASKS_AT_ONCE: usize = 32;

/// A gap between two calls that is longer than this means that the whole process was stopped.
const STOPPED_MS: u64 = 1_500;

/// A farewell is spread so often, every [`FAREWELL_EVERY_MS`].
const FAREWELLS: u32 = 5;
const FAREWELL_EVERY_MS: u64 = 100;

/// The time, by two clocks.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// A clock that does not go back.
    pub ms: u64,
    /// Unix time, which others can be compared with.
    pub unix_ms: u64,
}

/// Something for others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Send these bytes.
    Datagram {
        /// Where.
        to: SocketAddr,
        /// What.
        bytes: Vec<u8>,
    },
    /// A node has come up and has said this of itself; or it is alive again.
    Alive(Joining),
    /// A node that was alive is dead or has left.
    Dead(NodeId),
    /// This node is another incarnation from now on: SWIM has run out of ways to say that it lives.
    Renewed(NodeId),
    /// The farewell is spread: the process may end.
    Gone,
}

/// Gossip of one node. See the page above.
pub struct Membership {
    me: Joining,
    foca: Foca<Peer, Wire, SmallRng, NoCustomBroadcast>,
    /// SWIM's incarnation of this node, which only rises.
    swim: u16,
    keys: KeyRing,
    sealer: Sealer,
    sessions: Sessions,
    refusals: Refusals,
    timers: Timers,
    last_ms: u64,
    /// What living peers have said of themselves.
    described: BTreeMap<Peer, Joining>,
    /// Living peers that have not, and when they are asked again.
    undescribed: BTreeMap<Peer, u64>,
    fallen: BTreeMap<Peer, Fallen>,
    leaving: bool,
}

#[derive(Clone, Copy, Debug)]
struct Fallen {
    since_ms: u64,
    asked_ms: u64,
}

impl Membership {
    /// A node that knows nobody yet. `session` must be random and new for each process; `seed` is for whom to probe and to tell.
    pub fn new(
        now: Now,
        cluster: &str,
        me: Joining,
        keys: KeyRing,
        session: [u8; 16],
        seed: u64,
    ) -> Self {
        let mut timers = Timers::default();
        timers.push(now.ms + REVISIT_MS, Timer::Revisit);
        let rng = SmallRng::seed_from_u64(seed);
        Self {
            foca: Foca::new(peer_of(&me), config(), rng, Wire),
            swim: 0,
            sealer: Sealer::new(cluster, me.protocol, me.node.uid, session),
            me,
            keys,
            sessions: Sessions::default(),
            refusals: Refusals::default(),
            timers,
            last_ms: now.ms,
            described: BTreeMap::new(),
            undescribed: BTreeMap::new(),
            fallen: BTreeMap::new(),
            leaving: false,
        }
    }

    /// Takes a datagram. Take all that wait before [`Membership::advance`], which doubts who has not answered.
    ///
    /// # Errors
    /// When it is refused, which is counted. Say so in a log, seldom.
    pub fn datagram(
        &mut self,
        now: Now,
        from: SocketAddr,
        bytes: &[u8],
        outputs: &mut Vec<Output>,
    ) -> Result<(), DatagramError> {
        self.wake(now);
        let taken = self
            .sealer
            .open(&self.keys, &mut self.sessions, (now.ms, now.unix_ms), bytes)
            .and_then(|body| self.body(now, from, body, outputs));
        if let Err(error) = &taken {
            self.refusals.count(error);
        }
        taken
    }

    /// Does what is due. Call it at [`Membership::deadline_ms`], and after anything that makes an earlier one.
    pub fn advance(&mut self, now: Now, outputs: &mut Vec<Output>) {
        self.wake(now);
        while let Some(timer) = self.timers.due(now.ms) {
            self.timer(now, timer, outputs);
        }
    }

    /// When something is due next.
    pub fn deadline_ms(&self) -> Option<u64> {
        self.timers.next_ms()
    }

    /// Asks these addresses who is there. For all addresses of all seeds, each time that they were resolved, for ever: it is
    /// how the parts of a cluster that was cut find each other again when nobody knows the other part any more.
    pub fn seeds(&mut self, now: Now, addresses: &[SocketAddr], outputs: &mut Vec<Output>) {
        let known: BTreeSet<SocketAddr> = self
            .foca
            .iter_members()
            .map(|member| member.id().gossip)
            .chain([self.me.gossip])
            .collect();
        for &address in addresses.iter().filter(|address| !known.contains(address)) {
            self.ask(now, address, None, outputs);
        }
    }

    /// There is direct evidence that a node is dead: its link is broken and cannot be made again, or it does not answer over
    /// it. It is asked at once, and is dead if it does not answer in [`DOUBT_MS`].
    pub fn doubt(&mut self, now: Now, node: NodeId, outputs: &mut Vec<Output>) {
        let Some((peer, swim)) = self
            .foca
            .iter_members()
            .find(|member| member.id().node == node && member.state() == State::Alive)
            .map(|member| (*member.id(), member.incarnation()))
        else {
            return;
        };
        self.apply(now, Member::new(peer, swim, State::Suspect), outputs);
        self.timers
            .push(now.ms + DOUBT_MS, Timer::Fall { peer, swim });
        self.ask_doubted(now, peer, swim, DOUBT_ASKS, outputs);
    }

    /// This node is another incarnation from now on, which its coordinator has chosen.
    pub fn rejoin(&mut self, now: Now, node: NodeId, outputs: &mut Vec<Output>) {
        if node.uid != self.me.node.uid || node.incarnation <= self.me.node.incarnation {
            return;
        }
        self.me.node = node;
        self.swim = 0;
        let mut wishes = Wishes::default();
        // It fails only when the identity is the same.
        let _ = self.foca.change_identity(peer_of(&self.me), &mut wishes);
        self.fulfil(now, wishes, outputs);
        // Whoever held this node for dead did not answer it, and seems dead here for that reason alone.
        for fallen in self.fallen.values_mut() {
            *fallen = Fallen {
                since_ms: 0,
                asked_ms: 0,
            };
        }
        self.revisit(now, outputs);
    }

    /// Says farewell. [`Output::Gone`] follows when it is spread.
    pub fn leave(&mut self, now: Now, outputs: &mut Vec<Output>) {
        if self.leaving {
            return;
        }
        self.leaving = true;
        let mut wishes = Wishes::default();
        let _ = self.foca.leave_cluster(&mut wishes);
        self.fulfil(now, wishes, outputs);
        self.timers.push(
            now.ms + FAREWELL_EVERY_MS,
            Timer::Farewell { more: FAREWELLS },
        );
    }

    /// Takes another key ring; what comes sealed with keys that are not in it is refused from now on.
    pub fn keys(&mut self, keys: KeyRing) {
        self.keys = keys;
    }

    /// How many datagrams were refused, by reason.
    pub fn refusals(&self) -> &Refusals {
        &self.refusals
    }

    /// Living nodes that have described themselves, this one not among them.
    pub fn living(&self) -> impl Iterator<Item = &Joining> {
        self.described.values()
    }

    /// Notices that the process was stopped: then nobody failed to answer.
    fn wake(&mut self, now: Now) {
        let gap_ms = now.ms.saturating_sub(self.last_ms);
        if gap_ms > STOPPED_MS {
            self.timers.put_off(gap_ms);
        }
        self.last_ms = self.last_ms.max(now.ms);
    }

    fn body(
        &mut self,
        now: Now,
        from: SocketAddr,
        mut body: Vec<u8>,
        outputs: &mut Vec<Output>,
    ) -> Result<(), DatagramError> {
        let malformed = |_| DatagramError::Malformed;
        match body.split_first() {
            Some((&FOCA, message)) => {
                let read = FocaMessage::read(message, &peer_of(&self.me)).map_err(malformed)?;
                for state in read.deaths_of_me {
                    // It lives, as everyone can see who takes this node's messages. If the cluster has decided otherwise,
                    // the next view says so.
                    body[1 + state] = ALIVE;
                }
                self.revive(now, read.header.src, outputs);
                let mut wishes = Wishes::default();
                let handled = self.foca.handle_data(&body[1..], &mut wishes);
                self.fulfil(now, wishes, outputs);
                handled.map_err(|_| DatagramError::Malformed)
            }
            Some((&ASK, ask)) => {
                let ask = Ask::decode(ask).map_err(malformed)?;
                self.asked(now, from, &ask, outputs);
                Ok(())
            }
            Some((&TELL, tell)) => {
                let tell = Tell::decode(tell).map_err(malformed)?;
                self.told(now, tell, outputs);
                Ok(())
            }
            _ => Err(DatagramError::Malformed),
        }
    }

    fn asked(&mut self, now: Now, from: SocketAddr, ask: &Ask, outputs: &mut Vec<Output>) {
        if self.leaving || ask.asker.gossip == self.me.gossip {
            return;
        }
        if let Some(doubted) = ask.doubted.filter(|&doubted| doubted >= self.swim) {
            // foca refutes it, under a higher incarnation.
            let me = Member::new(peer_of(&self.me), doubted, State::Suspect);
            self.swim = doubted.saturating_add(1);
            self.apply(now, me, outputs);
        }
        self.alive(now, ask.asker, ask.swim, outputs);
        let tell = Tell {
            swim: self.swim,
            joining: self.me.clone(),
        };
        self.send(now, from, &tell.encode(), outputs);
    }

    fn told(&mut self, now: Now, tell: Tell, outputs: &mut Vec<Output>) {
        let peer = peer_of(&tell.joining);
        if self.leaving || peer.gossip == self.me.gossip {
            return;
        }
        let is_new = !self.knows(&peer);
        self.alive(now, peer, tell.swim, outputs);
        if !self.knows(&peer) {
            return;
        }
        if is_new {
            // It answers with others that it knows.
            let mut wishes = Wishes::default();
            let _ = self.foca.announce(peer, &mut wishes);
            self.fulfil(now, wishes, outputs);
        }
        self.undescribed.remove(&peer);
        if self.described.insert(peer, tell.joining.clone()).is_none() {
            outputs.push(Output::Alive(tell.joining));
        }
    }

    /// A peer has spoken itself.
    fn alive(&mut self, now: Now, peer: Peer, swim: u16, outputs: &mut Vec<Output>) {
        self.revive(now, peer, outputs);
        if self.foca.num_members() < PEERS_MAX || self.knows(&peer) {
            self.apply(now, Member::new(peer, swim, State::Alive), outputs);
        }
    }

    /// Forgets the death of a peer that speaks, when it was dead for long enough.
    fn revive(&mut self, now: Now, peer: Peer, outputs: &mut Vec<Output>) {
        let long_dead = self
            .fallen
            .get(&peer)
            .is_some_and(|fallen| now.ms >= fallen.since_ms + DEAD_FOR_MS);
        if long_dead {
            self.fallen.remove(&peer);
            let mut wishes = Wishes::default();
            let _ = self
                .foca
                .handle_timer(foca::Timer::RemoveDown(peer), &mut wishes);
            self.fulfil(now, wishes, outputs);
        }
    }

    fn knows(&self, peer: &Peer) -> bool {
        self.described.contains_key(peer) || self.undescribed.contains_key(peer)
    }

    fn apply(&mut self, now: Now, member: Member<Peer>, outputs: &mut Vec<Output>) {
        let mut wishes = Wishes::default();
        let _ = self
            .foca
            .apply_many(std::iter::once(member), true, &mut wishes);
        self.fulfil(now, wishes, outputs);
    }

    fn timer(&mut self, now: Now, timer: Timer, outputs: &mut Vec<Output>) {
        match timer {
            Timer::Swim(timer) => {
                let mut wishes = Wishes::default();
                // It fails when a round of probes was not complete, and begins another.
                let _ = self.foca.handle_timer(timer, &mut wishes);
                self.fulfil(now, wishes, outputs);
            }
            Timer::Doubt { peer, swim, more } => {
                if self.is_doubted(&peer, swim) {
                    self.ask_doubted(now, peer, swim, more, outputs);
                }
            }
            Timer::Fall { peer, swim } => {
                if self.is_doubted(&peer, swim) {
                    self.apply(now, Member::new(peer, swim, State::Down), outputs);
                }
            }
            Timer::Revisit => {
                self.revisit(now, outputs);
                self.timers.push(now.ms + REVISIT_MS, Timer::Revisit);
            }
            Timer::Farewell { more: 0 } => outputs.push(Output::Gone),
            Timer::Farewell { more } => {
                let mut wishes = Wishes::default();
                let _ = self.foca.gossip(&mut wishes);
                self.fulfil(now, wishes, outputs);
                let more = more - 1;
                self.timers
                    .push(now.ms + FAREWELL_EVERY_MS, Timer::Farewell { more });
            }
        }
    }

    fn is_doubted(&self, peer: &Peer, swim: u16) -> bool {
        self.foca.iter_members().any(|member| {
            member.id() == peer && member.incarnation() == swim && member.state() == State::Suspect
        })
    }

    fn ask_doubted(
        &mut self,
        now: Now,
        peer: Peer,
        swim: u16,
        asks: u32,
        outputs: &mut Vec<Output>,
    ) {
        self.ask(now, peer.gossip, Some(swim), outputs);
        if asks > 1 {
            let more = asks - 1;
            let again_ms = now.ms + DOUBT_MS / u64::from(DOUBT_ASKS + 1);
            self.timers
                .push(again_ms, Timer::Doubt { peer, swim, more });
        }
    }

    /// Asks those who are alive and have not described themselves, and those who have fallen.
    fn revisit(&mut self, now: Now, outputs: &mut Vec<Output>) {
        if self.leaving {
            return;
        }
        let mut asked = Vec::new();
        for (peer, again_ms) in &mut self.undescribed {
            if now.ms >= *again_ms && asked.len() < ASKS_AT_ONCE {
                *again_ms = now.ms + REVISIT_MS;
                asked.push(peer.gossip);
            }
        }
        self.fallen.retain(|_, fallen| {
            now.ms < fallen.since_ms.max(fallen.asked_ms) + FALLEN_FORGOTTEN_MS
        });
        for (peer, fallen) in &mut self.fallen {
            let due = now.ms >= fallen.asked_ms + FALLEN_ASKED_EVERY_MS;
            if due && asked.len() < ASKS_AT_ONCE {
                fallen.asked_ms = now.ms;
                asked.push(peer.gossip);
            }
        }
        for address in asked {
            self.ask(now, address, None, outputs);
        }
    }

    fn ask(&mut self, now: Now, to: SocketAddr, doubted: Option<u16>, outputs: &mut Vec<Output>) {
        let ask = Ask {
            asker: peer_of(&self.me),
            swim: self.swim,
            doubted,
        };
        self.send(now, to, &ask.encode(), outputs);
    }

    fn send(&mut self, now: Now, to: SocketAddr, body: &[u8], outputs: &mut Vec<Output>) {
        let bytes = self.sealer.seal(&self.keys, now.unix_ms, body);
        outputs.push(Output::Datagram { to, bytes });
    }

    /// Does what foca wants.
    fn fulfil(&mut self, now: Now, wishes: Wishes, outputs: &mut Vec<Output>) {
        for (to, message) in wishes.messages {
            self.swim = wire::swim_of_sender(&message).unwrap_or(self.swim);
            let body = [&[FOCA], message.as_slice()].concat();
            self.send(now, to.gossip, &body, outputs);
        }
        for (timer, after) in wishes.timers {
            if let foca::Timer::ChangeSuspectToDown {
                member_id,
                incarnation,
                ..
            } = &timer
            {
                self.ask_doubted(now, *member_id, *incarnation, DOUBT_ASKS, outputs);
            }
            let at_ms = now.ms + u64::try_from(after.as_millis()).unwrap_or(u64::MAX / 2);
            self.timers.push(at_ms, Timer::Swim(timer));
        }
        for note in wishes.notes {
            self.note(now, note, outputs);
        }
    }

    fn note(&mut self, now: Now, note: OwnedNotification<Peer>, outputs: &mut Vec<Output>) {
        match note {
            OwnedNotification::MemberUp(peer) => self.up(now, peer, outputs),
            OwnedNotification::MemberDown(peer) => self.down(now, peer, outputs),
            OwnedNotification::Rename(before, after) => {
                let was_up = self.knows(&before);
                self.down(now, before, outputs);
                self.fallen.remove(&before);
                if was_up {
                    self.up(now, after, outputs);
                }
            }
            OwnedNotification::Defunct if !self.leaving => {
                let node = NodeId {
                    incarnation: self.me.node.incarnation + 1,
                    ..self.me.node
                };
                self.rejoin(now, node, outputs);
                outputs.push(Output::Renewed(node));
            }
            _ => {}
        }
    }

    fn up(&mut self, now: Now, peer: Peer, outputs: &mut Vec<Output>) {
        self.fallen.remove(&peer);
        if !self.knows(&peer) {
            self.undescribed.insert(peer, now.ms + REVISIT_MS);
            self.ask(now, peer.gossip, None, outputs);
        }
    }

    fn down(&mut self, now: Now, peer: Peer, outputs: &mut Vec<Output>) {
        self.undescribed.remove(&peer);
        let fallen = Fallen {
            since_ms: now.ms,
            asked_ms: now.ms,
        };
        if self.fallen.len() < PEERS_MAX {
            self.fallen.insert(peer, fallen);
        }
        if self.described.remove(&peer).is_some() {
            outputs.push(Output::Dead(peer.node));
        }
    }
}

fn peer_of(joining: &Joining) -> Peer {
    Peer {
        node: joining.node,
        gossip: joining.gossip,
    }
}

/// foca's settings. Those that are not named in the constants above do little: gossip runs only while there is news.
fn config() -> foca::Config {
    let count = |count| NonZeroUsize::new(count).expect("more than none");
    let every = |ms, members| {
        Some(PeriodicParams {
            frequency: Duration::from_millis(ms),
            num_members: count(members),
        })
    };
    foca::Config {
        probe_period: Duration::from_millis(PROBE_EVERY_MS),
        probe_rtt: Duration::from_millis(PROBE_ANSWER_MS),
        num_indirect_probes: count(3),
        max_transmissions: NonZeroU8::new(12).expect("more than none"),
        suspect_to_down_after: Duration::from_millis(DOUBT_MS),
        remove_down_after: Some(Duration::from_millis(FALLEN_FORGOTTEN_MS)),
        max_packet_size: count(BODY_BYTES_MAX - 1),
        notify_down_members: false,
        // An answer names as many others as fit a datagram, about forty: a newcomer knows hundreds soon.
        periodic_announce: every(5_000, 1),
        periodic_announce_to_down_members: None,
        periodic_gossip: every(100, 3),
    }
}
