//! Nodes of a cluster in one process: each core has a driver of its own and a bus, over loopback sockets.

use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use cluster::hello::PROTOCOL;
use cluster::link::Unsent;
use cluster::view::{Joining, NodeId, View};
use gateway::bus::identity::Identity;
use gateway::bus::keys::KeyRing;
use gateway::event_loop::{Bus, BusLimits, Clock, Heard, Place};
use reactor::driver::{Driver, DriverConfig, Event};

pub(crate) const KEYS: [&str; 2] = [
    "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
    "AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA=",
];
/// How long anything may take on a busy machine.
const LIMIT_MS: u64 = 60_000;

/// What a core was told: by which node, from which core number, to which, and what.
pub(crate) type Told = (NodeId, u16, u16, Vec<u8>);

pub(crate) struct Core<D> {
    pub(crate) driver: D,
    pub(crate) bus: Bus,
    pub(crate) told: Vec<Told>,
    /// Nodes that said at which view they are.
    pub(crate) views: Vec<(NodeId, u64)>,
}

pub(crate) struct Node<D> {
    pub(crate) id: NodeId,
    pub(crate) address: SocketAddr,
    pub(crate) cores: Vec<Core<D>>,
}

/// What a node is started with.
pub(crate) struct Start<'a> {
    pub(crate) cluster: &'a str,
    pub(crate) id: NodeId,
    pub(crate) cores: u16,
    pub(crate) keys: &'a [usize],
    pub(crate) limits: BusLimits,
}

impl Start<'_> {
    /// A node of the usual cluster with two cores.
    pub(crate) fn usual(uid: u64) -> Self {
        Self {
            cluster: "roadstead",
            id: node(uid),
            cores: 2,
            keys: &[0],
            limits: BusLimits::default(),
        }
    }
}

pub(crate) fn node(uid: u64) -> NodeId {
    let incarnation = 100;
    NodeId { uid, incarnation }
}

pub(crate) fn identity(keys: &[usize], uid: u64) -> Identity {
    let text: Vec<_> = keys.iter().map(|&key| KEYS[key]).collect();
    let ring = KeyRing::parse(&text.join("\n")).expect("they are keys");
    Identity::issue(&ring, uid).expect("it can be made")
}

pub(crate) struct World<D> {
    pub(crate) clock: Clock,
    pub(crate) nodes: Vec<Node<D>>,
    make: fn(DriverConfig) -> std::io::Result<D>,
}

impl<D: Driver> World<D> {
    /// Starts nodes and tells none of them of the others.
    pub(crate) fn new(make: fn(DriverConfig) -> std::io::Result<D>, starts: &[Start<'_>]) -> Self {
        let mut world = Self {
            clock: Clock::start(),
            nodes: Vec::new(),
            make,
        };
        for start in starts {
            world.start(start);
        }
        world
    }

    /// Two nodes of two cores that are members of one view.
    pub(crate) fn two(make: fn(DriverConfig) -> std::io::Result<D>) -> Self {
        let mut world = Self::new(make, &[Start::usual(1), Start::usual(2)]);
        let view = world.view(&[0, 1]);
        world.tell(&view, &[0, 1]);
        world
    }

    fn start(&mut self, start: &Start<'_>) {
        let address = free_ports(start.cores);
        let cores = (0..start.cores).map(|core| {
            let place = Place {
                cluster: start.cluster.into(),
                node: start.id,
                core,
                cores: start.cores,
            };
            let identity = identity(start.keys, start.id.uid);
            let mut driver = (self.make)(DriverConfig::small()).expect("there is a driver");
            let mut bus = Bus::new(
                place,
                identity,
                start.limits,
                start.id.uid ^ u64::from(core),
            );
            let bound = bus.listen(&mut driver, address).expect("the port is free");
            assert_eq!(bound.map(|bound| bound.port()), Some(address.port() + core));
            Core {
                driver,
                bus,
                told: Vec::new(),
                views: Vec::new(),
            }
        });
        self.nodes.push(Node {
            id: start.id,
            address,
            cores: cores.collect(),
        });
    }

    /// What a node says of itself.
    pub(crate) fn joining(&self, place: usize) -> Joining {
        let node = &self.nodes[place];
        Joining {
            node: node.id,
            cores: node.cores.len() as u16,
            weight: 1,
            gossip: node.address,
            bus: node.address,
            reference: "".into(),
            protocol: PROTOCOL,
        }
    }

    /// A view of these nodes.
    pub(crate) fn view(&self, places: &[usize]) -> View {
        let (first, others) = places.split_first().expect("there is one");
        let view = View::first(1, "roadstead", &self.joining(*first)).expect("a good view");
        others.iter().fold(view, |view, &place| {
            view.with_member(view.epoch + 1, &self.joining(place))
                .expect("a good view")
        })
    }

    /// These nodes are at this view from now on.
    pub(crate) fn tell(&mut self, view: &View, places: &[usize]) {
        let now_ms = self.now_ms();
        for &place in places {
            for core in &mut self.nodes[place].cores {
                core.bus.set_peers(&mut core.driver, now_ms, view);
            }
        }
    }

    pub(crate) fn now_ms(&self) -> u64 {
        self.clock.now().mono_ms
    }

    pub(crate) fn core(&mut self, place: usize, core: usize) -> &mut Core<D> {
        &mut self.nodes[place].cores[core]
    }

    pub(crate) fn send(
        &mut self,
        place: usize,
        core: usize,
        to_core: u16,
        body: &[u8],
    ) -> Result<(), Unsent> {
        let bus = &mut self.nodes[place].cores[core].bus;
        bus.send(core as u16, to_core, false, false, body)
    }

    /// Turns all cores until something is the case.
    pub(crate) fn until(&mut self, what: &str, mut is_so: impl FnMut(&mut Self) -> bool) {
        let start_ms = self.now_ms();
        while !is_so(self) {
            assert!(self.now_ms() < start_ms + LIMIT_MS, "never: {what}");
            self.turn();
        }
    }

    /// Turns all cores until every link between these two nodes is up.
    pub(crate) fn until_up(&mut self, a: usize, b: usize) {
        let (uid_a, uid_b) = (self.nodes[a].id.uid, self.nodes[b].id.uid);
        self.until("the links are up", |world| {
            let is_up = |node: &Node<D>, uid| {
                let mut cores = node.cores.iter();
                cores.all(|core| core.bus.connection_to(uid).is_some())
            };
            is_up(&world.nodes[a], uid_b) && is_up(&world.nodes[b], uid_a)
        });
    }

    /// One turn of each core.
    pub(crate) fn turn(&mut self) {
        let clock = self.clock;
        for core in self.nodes.iter_mut().flat_map(|node| &mut node.cores) {
            core.turn(&clock);
        }
    }
}

impl<D: Driver> Core<D> {
    fn turn(&mut self, clock: &Clock) {
        let mut events = Vec::new();
        let deadline = clock.started() + Duration::from_millis(clock.now().mono_ms);
        let deadline = deadline + Duration::from_micros(500);
        self.driver
            .poll(Some(deadline), &mut events)
            .expect("it polls");
        let now_ms = clock.now().mono_ms;
        let Self {
            driver,
            bus,
            told,
            views,
        } = self;
        for event in events {
            match event {
                Event::Accepted {
                    connection,
                    listener,
                    peer,
                } => {
                    assert!(bus.is_listener(listener));
                    bus.accepted(driver, now_ms, connection, peer);
                }
                Event::Connected { connection } => bus.connected(driver, connection),
                Event::Received { connection, buffer } => {
                    bus.received(
                        driver,
                        now_ms,
                        (connection, buffer),
                        &mut |heard| match heard {
                            Heard::Message(node, message) => {
                                let body = message.body.to_vec();
                                told.push((node, message.from_core, message.to_core, body));
                            }
                            Heard::View { node, epoch, .. } => views.push((node, epoch)),
                        },
                    );
                }
                Event::Drained { connection } => bus.drained(connection),
                Event::PeerClosed { connection } => bus.peer_closed(driver, now_ms, connection),
                Event::Closed { connection, .. } => bus.closed(now_ms, connection),
                Event::Datagrams { .. } | Event::Woken => {}
            }
        }
        bus.turn(driver, now_ms);
        bus.flush(driver, now_ms);
    }
}

/// An address whose port and the next ones nobody listens at.
fn free_ports(count: u16) -> SocketAddr {
    for _ in 0..100 {
        let first = TcpListener::bind("127.0.0.1:0").expect("there is a port");
        let address = first.local_addr().expect("it is bound");
        let next = |index| {
            let port = address.port().checked_add(index)?;
            TcpListener::bind((address.ip(), port)).ok()
        };
        if (1..count).all(|index| next(index).is_some()) {
            return address;
        }
    }
    panic!("no two free ports are next to each other");
}
