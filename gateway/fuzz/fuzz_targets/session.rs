//! Whatever four clients send, cut anywhere, with time passing and connections ending in between: no panic, and every delivery is
//! accounted for after each step.
//!
//! The input is a list of steps: a byte that names the client and what it does, a byte that says how much, then the bytes it
//! sends, on its first stream or on one of three data streams. CONNECT comes ready-made too, or the search would spend its time on
//! finding one.

#![no_main]

use std::sync::Arc;
use std::net::SocketAddr;

use edge_proto::encode;
use edge_proto::packet::{Connect, Version};
use edge_proto::topic::RootDepths;
use gateway::engine::memory::Memory;
use gateway::engine::{Engine, MailboxLimits, WhenFull};
use gateway::limits::Limits;
use gateway::outbox::{Order, Outbox};
use gateway::ownership::Ownership;
use gateway::access::policy::Policy;
use gateway::shard::{Arrival, Event, Shard};
use gateway::turn::{Congestion, Facts, Now};
use libfuzzer_sys::fuzz_target;
use reactor::driver::ConnectionId;

const CLIENTS: u32 = 4;

struct World {
    shard: Shard,
    outbox: Outbox,
    engine: Memory,
    batch: u64,
    now: Now,
    generations: [Option<u32>; CLIENTS as usize],
    next_generation: u32,
}

impl World {
    fn new() -> Self {
        let now = Now { mono_ms: 0, unix_ms: 1_000_000 };
        let limits = MailboxLimits { messages_max: 8, bytes_max: 4_096, when_full: WhenFull::DropOldest };
        let facts = Facts {
            core: 0,
            limits: Limits { session_queue_messages_max: 8, subscriptions_per_session_max: 16, ..Limits::default() },
            root_depths: RootDepths::default(),
            websocket_path: "/mqtt".into(),
            seed: 7,
        };
        Self {
            shard: Shard::new(facts, Arc::new(Ownership::alone(1)), Arc::new(Policy::open()), 1, now),
            outbox: Outbox::new(0, 0..1),
            engine: Memory::new(limits, now.unix_ms),
            batch: 0,
            now,
            generations: [None; CLIENTS as usize],
            next_generation: 0,
        }
    }

    /// The connection of a client, opened when it has none.
    fn connection(&mut self, client: u32) -> ConnectionId {
        if let Some(generation) = self.generations[client as usize] {
            return ConnectionId { slot: client, generation };
        }
        self.next_generation += 1;
        self.generations[client as usize] = Some(self.next_generation);
        let connection = ConnectionId { slot: client, generation: self.next_generation };
        let peer = SocketAddr::from(([127, 0, 0, 1], 1_024));
        self.handle(Event::Accepted { connection, arrival: Arrival::plain(client == 3, peer) });
        connection
    }

    fn handle(&mut self, event: Event<'_>) {
        self.shard.handle(self.now, event, &mut self.outbox);
        self.settle();
        assert!(self.shard.snapshot().conserves(), "every accepted delivery is accounted for");
    }

    /// Does what the event loop, the driver and the engine would do, until nothing is left.
    fn settle(&mut self) {
        loop {
            self.outbox.seal();
            self.outbox.outputs.clear();
            self.outbox.streams.clear();
            self.outbox.admin.clear();
            self.outbox.violations.clear();
            self.outbox.notes.clear();
            let commands: Vec<_> = self.outbox.engine.drain(..).map(|command| (0, command)).collect();
            let orders = std::mem::take(&mut self.outbox.orders);
            if commands.is_empty() && orders.is_empty() {
                return;
            }
            for order in orders {
                match order {
                    Order::Close(connection, _) => self.closed(connection),
                    Order::Watch(connection) => {
                        self.shard.handle(self.now, Event::Drained(connection), &mut self.outbox);
                    }
                    Order::Pause(_) | Order::Resume(_) => {}
                }
            }
            self.batch += 1;
            let mut completions = Vec::new();
            let committed = self.engine.commit(self.batch, self.now.unix_ms, &commands, &mut completions);
            committed.expect("the model does not fail unless told to");
            for (_, completion) in completions {
                self.shard.handle(self.now, Event::Engine(completion), &mut self.outbox);
            }
        }
    }

    fn closed(&mut self, connection: ConnectionId) {
        let generation = &mut self.generations[connection.slot as usize];
        if *generation == Some(connection.generation) {
            *generation = None;
            self.shard.handle(self.now, Event::Closed(connection), &mut self.outbox);
        }
    }

    fn step(&mut self, what: u8, size: u8, rest: &mut &[u8]) {
        let client = u32::from(what) % CLIENTS;
        match what / CLIENTS as u8 % 8 {
            0 => {
                let mut bytes = Vec::new();
                let version = if size & 1 == 0 { Version::V5 } else { Version::V311 };
                let id = ["a", "b", "", "a"][usize::from(size >> 1) % 4];
                let mut connect = Connect::new(version, id);
                connect.clean_start = size & 8 != 0;
                connect.session_expiry_s = (version == Version::V5 && size & 16 != 0).then_some(30);
                connect.receive_maximum = if version == Version::V5 && size & 32 != 0 { 2 } else { u16::MAX };
                encode::connect(&mut bytes, &connect);
                let connection = self.connection(client);
                self.handle(Event::Received { connection, bytes: &mut bytes });
            }
            1 => {
                let connection = self.connection(client);
                self.closed(connection);
                self.settle();
            }
            2 => {
                self.now.mono_ms += u64::from(size) * 200;
                self.now.unix_ms += u64::from(size) * 200;
                let congestion = Congestion { congested: size >= 254, engine: size == 255, pressed: size == 253 };
                self.handle(Event::Tick(congestion));
            }
            3 => {
                let connection = self.connection(client);
                self.handle(Event::StreamEnded { connection, number: 1 + u64::from(size) % 3 });
            }
            4 => {
                let number = 1 + u64::from(size) % 3;
                let (bytes, left) = rest.split_at(usize::from(size / 3).min(rest.len()));
                *rest = left;
                let connection = self.connection(client);
                self.handle(Event::StreamsOpened(connection));
                self.handle(Event::StreamReceived { connection, number, bytes });
            }
            _ => {
                let (bytes, left) = rest.split_at(usize::from(size).min(rest.len()));
                *rest = left;
                let connection = self.connection(client);
                self.handle(Event::Received { connection, bytes: &mut bytes.to_vec() });
            }
        }
    }
}

fuzz_target!(|input: &[u8]| {
    let mut world = World::new();
    let mut rest = input;
    while let [what, size, left @ ..] = rest {
        rest = left;
        world.step(*what, *size, &mut rest);
    }
    for client in 0..CLIENTS {
        let connection = world.connection(client);
        world.closed(connection);
        world.settle();
    }
    assert_eq!(world.shard.stats_mut().partial_bytes, 0, "nothing is kept of who is gone");
});
