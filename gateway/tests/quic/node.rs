//! The shard and an engine behind the QUIC layer, joined as the event loop joins them.

use std::sync::Arc;

use edge_proto::topic::RootDepths;
use gateway::access::policy::Policy;
use gateway::engine::memory::Memory;
use gateway::engine::{Engine, MailboxLimits, WhenFull};
use gateway::limits::Limits;
use gateway::outbox::{ForStream, Order, Outbox};
use gateway::ownership::Ownership;
use gateway::quic::{Endpoints, Output};
use gateway::shard::{Event, Shard};
use gateway::turn::{Congestion, Facts, Now};
use reactor::driver::ConnectionId;

/// One core without a driver.
pub(crate) struct Node {
    pub(crate) shard: Shard,
    outbox: Outbox,
    engine: Memory,
    batches: u64,
    watched: Vec<ConnectionId>,
    /// True while the engine takes nothing.
    pub(crate) is_stuck: bool,
}

impl Node {
    pub(crate) fn new(limits: Limits, now: Now) -> Self {
        let facts = Facts {
            core: 0,
            limits,
            root_depths: RootDepths::default(),
            websocket_path: "/mqtt".into(),
            seed: 7,
        };
        let mailboxes = MailboxLimits {
            messages_max: 1_000,
            bytes_max: 1 << 20,
            when_full: WhenFull::DropOldest,
        };
        Self {
            shard: Shard::new(
                facts,
                Arc::new(Ownership::alone(1)),
                Arc::new(Policy::open()),
                1,
                now,
            ),
            outbox: Outbox::new(0, 0..1),
            engine: Memory::new(mailboxes, now.unix_ms),
            batches: 0,
            watched: Vec::new(),
            is_stuck: false,
        }
    }

    pub(crate) fn next_deadline_ms(&self) -> Option<u64> {
        let is_waiting =
            !self.watched.is_empty() || !(self.is_stuck || self.outbox.engine.is_empty());
        is_waiting
            .then_some(0)
            .or_else(|| self.shard.next_deadline_ms())
    }

    /// What the QUIC layer has to say.
    pub(crate) fn tell(&mut self, now: Now, output: Output<'_>) {
        let event = match output {
            Output::Accepted(connection, arrival) => Event::Accepted {
                connection,
                arrival,
            },
            Output::Data(connection, bytes) => Event::Received { connection, bytes },
            Output::StreamsOpened(id) => Event::StreamsOpened(id),
            Output::StreamData(connection, number, bytes) => Event::StreamReceived {
                connection,
                number,
                bytes,
            },
            Output::StreamEnded(connection, number) => Event::StreamEnded { connection, number },
            Output::Drained(id) => Event::Drained(id),
            Output::PeerClosed(id) => Event::PeerClosed(id),
            Output::Closed(id) => Event::Closed(id),
            Output::Stray(..) | Output::TurnedAway(..) | Output::Failed(..) => return,
        };
        self.shard.handle(now, event, &mut self.outbox);
    }

    /// A turn without anything from the network.
    pub(crate) fn turn(&mut self, server: &mut Endpoints, now: Now) {
        for id in std::mem::take(&mut self.watched) {
            if server.unsent(id) == 0 {
                self.shard.handle(now, Event::Drained(id), &mut self.outbox);
            }
        }
        let tick = Event::Tick(Congestion::default());
        self.shard.handle(now, tick, &mut self.outbox);
        self.hand_out(server, now);
    }

    /// Hands out what the shard produced, until it produces nothing more.
    pub(crate) fn hand_out(&mut self, server: &mut Endpoints, now: Now) {
        loop {
            self.outbox.seal();
            for (id, what) in self.outbox.streams.drain(..) {
                match what {
                    ForStream::Admit => server.admit(id),
                    ForStream::Write(number, bytes) => server.send_on_stream(id, number, &bytes),
                    ForStream::Finish(number) => server.finish_stream(id, number),
                }
            }
            for output in self.outbox.outputs.drain(..) {
                server.send(output.connection, &output.bytes);
            }
            for order in self.outbox.orders.drain(..) {
                match order {
                    Order::Close(id, how) => server.close(id, how, now),
                    Order::Pause(id) => server.pause(id),
                    Order::Resume(id) => server.resume(id),
                    Order::Watch(id) => self.watched.push(id),
                }
            }
            if self.is_stuck || self.outbox.engine.is_empty() {
                return;
            }
            let commands: Vec<_> = self.outbox.engine.drain(..).map(|it| (0, it)).collect();
            self.batches += 1;
            let mut completions = Vec::new();
            self.engine
                .commit(self.batches, now.unix_ms, &commands, &mut completions)
                .expect("no fault is set");
            for (_, completion) in completions {
                let completion = Event::Engine(completion);
                self.shard.handle(now, completion, &mut self.outbox);
            }
        }
    }
}
