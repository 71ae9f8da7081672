//! The other members, as one core knows them: whose core numbers are whose, the link of this core to each, and when to dial again.

use std::net::SocketAddr;

use cluster::hello::{PROTOCOL, Refusal};
use cluster::link::{Counters, Limits, Link, number_of_links};
use cluster::view::{Member, NodeId, View};
use reactor::driver::ConnectionId;

/// The first pause between two dials, in milliseconds; each is twice as long as the one before.
const PAUSE_MS: u64 = 100;
/// The longest one.
const PAUSE_MS_MAX: u64 = 5_000;

/// Another member.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) node: NodeId,
    /// Its first core number, and one past its last.
    cores: (u32, u32),
    /// Where its core 0 listens.
    pub(crate) bus: SocketAddr,
    /// How many links there are to it.
    pub(crate) links: u16,
    /// The version that both speak, if any.
    version: Option<u16>,
    /// The link of this core. Who listens has none before the other has dialled.
    pub(crate) link: Option<Link>,
    /// The connection of the link.
    pub(crate) connection: Option<ConnectionId>,
    /// A connection that is to become it.
    pub(crate) dialling: Option<ConnectionId>,
    pub(crate) pause: Pause,
    /// What was logged last since it was connected.
    pub(crate) logged: Option<Refusal>,
    /// True exactly when the link is in the list of those that may have something to write.
    pub(crate) is_dirty: bool,
}

impl Peer {
    fn new(own_cores: u16, nodes: usize, member: &Member) -> Self {
        let mut peer = Self {
            node: member.node,
            cores: (0, 0),
            bus: member.bus,
            links: 0,
            version: PROTOCOL.common(member.protocol).map(|range| range.max),
            link: None,
            connection: None,
            dialling: None,
            pause: Pause::default(),
            logged: None,
            is_dirty: false,
        };
        peer.update(own_cores, nodes, member);
        peer
    }

    fn update(&mut self, own_cores: u16, nodes: usize, member: &Member) {
        let first = u32::from(member.first_core);
        self.cores = (first, first + u32::from(member.cores));
        self.bus = member.bus;
        self.links = number_of_links(nodes, own_cores, member.cores);
    }

    /// Puts it on the list of those that may have something to write.
    pub(crate) fn touch(&mut self, dirty: &mut Vec<u64>) {
        if !std::mem::replace(&mut self.is_dirty, true) {
            dirty.push(self.node.uid);
        }
    }

    /// The link of this core, made now if there is none. `None` when no version is spoken by both.
    pub(crate) fn link_or_new(&mut self, limits: Limits) -> Option<&mut Link> {
        if self.link.is_none() {
            self.link = Some(Link::new(self.version?, limits));
        }
        self.link.as_mut()
    }
}

/// The other members, sorted by uid, and by core number.
#[derive(Debug, Default)]
pub(crate) struct Peers {
    all: Vec<Peer>,
    /// First core number, one past the last, and place in `all`; sorted.
    ranges: Vec<(u32, u32, usize)>,
}

impl Peers {
    /// Takes the members of a view but for `own`. Returns those that are none any more. A member in another incarnation is another one.
    pub(crate) fn follow(&mut self, own: NodeId, own_cores: u16, view: &View) -> Vec<Peer> {
        let nodes = view.members.len();
        let mut gone = Vec::new();
        let mut before = std::mem::take(&mut self.all).into_iter().peekable();
        for member in view
            .members
            .iter()
            .filter(|member| member.node.uid != own.uid)
        {
            while let Some(peer) = before.next_if(|peer| peer.node < member.node) {
                gone.push(peer);
            }
            self.all
                .push(match before.next_if(|peer| peer.node == member.node) {
                    Some(mut peer) => {
                        peer.update(own_cores, nodes, member);
                        peer
                    }
                    None => Peer::new(own_cores, nodes, member),
                });
        }
        gone.extend(before);
        let ranges = self.all.iter().enumerate();
        self.ranges = ranges
            .map(|(place, peer)| (peer.cores.0, peer.cores.1, place))
            .collect();
        self.ranges.sort_unstable();
        gone
    }

    /// Forgets all of them.
    pub(crate) fn take_all(&mut self) -> Vec<Peer> {
        self.ranges.clear();
        std::mem::take(&mut self.all)
    }

    pub(crate) fn of(&mut self, uid: u64) -> Option<&mut Peer> {
        let place = self.all.binary_search_by_key(&uid, |peer| peer.node.uid);
        Some(&mut self.all[place.ok()?])
    }

    /// The member that has this core number.
    pub(crate) fn of_core(&self, core: u16) -> Option<&Peer> {
        self.place_of_core(core).map(|place| &self.all[place])
    }

    pub(crate) fn of_core_mut(&mut self, core: u16) -> Option<&mut Peer> {
        self.place_of_core(core).map(|place| &mut self.all[place])
    }

    fn place_of_core(&self, core: u16) -> Option<usize> {
        let core = u32::from(core);
        let behind = self.ranges.partition_point(|range| range.0 <= core);
        let (_, end, place) = *self.ranges.get(behind.checked_sub(1)?)?;
        (core < end).then_some(place)
    }

    pub(crate) fn incarnation_of(&self, uid: u64) -> Option<u64> {
        let place = self.all.binary_search_by_key(&uid, |peer| peer.node.uid);
        Some(self.all[place.ok()?].node.incarnation)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Peer> {
        self.all.iter()
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Peer> {
        self.all.iter_mut()
    }

    /// What the links have counted.
    pub(crate) fn counters(&self) -> impl Iterator<Item = &Counters> {
        self.all
            .iter()
            .filter_map(|peer| Some(peer.link.as_ref()?.counters()))
    }
}

/// When to dial again: at once, then after pauses that grow. Each is a random part of its length, so that nodes that lost each other
/// together do not come back together.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Pause {
    failed: u32,
    pub(crate) until_ms: u64,
}

impl Pause {
    /// A dial failed, or a connection has ended.
    pub(crate) fn begin(&mut self, now_ms: u64, random: u64) {
        let longest_ms = (PAUSE_MS << self.failed.min(16)).min(PAUSE_MS_MAX);
        self.failed += 1;
        self.until_ms = now_ms + longest_ms / 2 + random % (longest_ms / 2 + 1);
    }

    /// The connection is good.
    pub(crate) fn reset(&mut self) {
        self.failed = 0;
    }
}

#[cfg(test)]
mod tests {
    use cluster::view::Joining;

    use super::*;

    const OWN: NodeId = NodeId {
        uid: 5,
        incarnation: 50,
    };

    fn joining(uid: u64, incarnation: u64, cores: u16) -> Joining {
        Joining {
            node: NodeId { uid, incarnation },
            cores,
            weight: 1,
            gossip: ([127, 0, 0, 1], 7946).into(),
            bus: ([127, 0, 0, 1], 7947).into(),
            reference: "".into(),
            protocol: PROTOCOL,
        }
    }

    fn view(members: &[Joining]) -> View {
        let (first, others) = members.split_first().expect("there is one");
        let view = View::first(1, "roadstead", first).expect("a good view");
        others.iter().fold(view, |view, joining| {
            view.with_member(view.epoch + 1, joining)
                .expect("a good view")
        })
    }

    #[test]
    fn members_are_found_by_their_core_numbers() {
        let view = view(&[joining(9, 1, 2), joining(5, 50, 4), joining(1, 1, 3)]);
        let mut peers = Peers::default();
        assert!(peers.follow(OWN, 4, &view).is_empty());
        for member in &view.members {
            for core in member.first_core..member.first_core + member.cores {
                let peer = peers.of_core(core).map(|peer| peer.node);
                assert_eq!(peer, (member.node != OWN).then_some(member.node));
            }
        }
        assert!(peers.of_core(9).is_none() && peers.of_core(u16::MAX).is_none());
        assert_eq!(peers.of(9).map(|peer| peer.links), Some(2));
        assert!(peers.of(5).is_none(), "a node is no peer of its own");
    }

    #[test]
    fn who_stays_keeps_its_link_and_another_incarnation_is_another_peer() {
        let mut peers = Peers::default();
        let before = view(&[
            joining(5, 50, 2),
            joining(1, 1, 2),
            joining(7, 7, 2),
            joining(9, 1, 2),
        ]);
        peers.follow(OWN, 2, &before);
        for peer in peers.iter_mut() {
            assert!(peer.link_or_new(Limits::default()).is_some());
        }
        let after = before.without_member(10, 7).expect("it was one");
        let after = after
            .with_member(11, &joining(9, 2, 2))
            .expect("a good view");
        let gone: Vec<_> = peers
            .follow(OWN, 2, &after)
            .iter()
            .map(|peer| peer.node)
            .collect();
        let node = |uid, incarnation| NodeId { uid, incarnation };
        assert_eq!(gone, [node(7, 7), node(9, 1)]);
        let links: Vec<_> = peers
            .iter()
            .map(|peer| (peer.node, peer.link.is_some()))
            .collect();
        assert_eq!(links, [(node(1, 1), true), (node(9, 2), false)]);
    }

    #[test]
    fn pauses_grow_to_a_bound_and_differ() {
        let mut pause = Pause::default();
        let mut spans = Vec::new();
        for _ in 0..40 {
            pause.begin(1_000, u64::MAX / 3);
            spans.push(pause.until_ms - 1_000);
        }
        assert!(spans[0] >= 50 && spans[0] <= 100);
        assert!(spans.iter().all(|span| *span <= PAUSE_MS_MAX));
        assert!(spans[39] >= PAUSE_MS_MAX / 2);
        let (mut one, mut other) = (Pause::default(), Pause::default());
        one.begin(0, 1);
        other.begin(0, 2);
        assert_ne!(one.until_ms, other.until_ms);
        pause.reset();
        pause.begin(1_000, 0);
        assert_eq!(pause.until_ms, 1_050);
    }
}
