//! Everything at once, from seeds.

use std::collections::BTreeMap;

use reactor::driver::{Close, ConnectionId, Driver, DriverConfig};

use crate::world::{Peer, Read, Seen, Setup, World, config, pattern};

/// xorshift64*, so that a failing seed can be run again.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % bound
    }
}

struct Pair<P> {
    peer: P,
    written: Vec<u8>,
    sent: usize,
    read: Vec<u8>,
}

pub(crate) fn random_traffic_ends_with_everything_accounted_for<S: Setup>() {
    for seed in 1..=12 {
        run::<S>(seed);
    }
}

fn run<S: Setup>(seed: u64) {
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let config = DriverConfig {
        receive_buffers: 4 << random.below(3),
        receive_buffer_bytes: 128 << random.below(4),
        events_max: 2 + random.below(60),
        submission_entries: 8,
        completion_entries: 16 << random.below(4),
        ..config()
    };
    let mut world = World::<S>::new(config);
    let address = world.listen();
    let stream = pattern(1 << 20);
    let mut pairs: BTreeMap<ConnectionId, Pair<S::Peer>> = BTreeMap::new();
    for _ in 0..600 {
        if pairs.len() < 20 && random.below(4) == 0 {
            let (peer, connection) = world.pair_with(address, random.below(2) == 0);
            pairs.insert(
                connection,
                Pair {
                    peer,
                    written: Vec::new(),
                    sent: 0,
                    read: Vec::new(),
                },
            );
        }
        for _ in 0..random.below(8) {
            let Some(connection) = pairs.keys().nth(random.below(pairs.len().max(1))).copied()
            else {
                continue;
            };
            step(&mut world, &mut pairs, connection, &stream, &mut random);
        }
        world.turn();
        check(&world, &mut pairs, &stream);
    }
    let accepted = world.seen.iter().filter_map(|seen| match seen {
        Seen::Accepted { connection, .. } => Some(*connection),
        _ => None,
    });
    for connection in accepted.collect::<Vec<_>>() {
        world
            .driver()
            .close(connection, Close::Graceful { linger_ms: 100 });
    }
    pairs.clear();
    world.until("all are gone", |world| {
        world.driver().counters().connections == 0
    });
    let counters = world.driver().counters();
    assert_eq!(counters.bytes_unsent, 0, "seed {seed}");
    let ended = world.count(|seen| matches!(seen, Seen::Closed { .. }));
    assert_eq!(ended as u64, counters.accepted, "seed {seed}");
}

fn step<S: Setup>(
    world: &mut World<S>,
    pairs: &mut BTreeMap<ConnectionId, Pair<S::Peer>>,
    connection: ConnectionId,
    stream: &[u8],
    random: &mut Random,
) {
    let pair = pairs.get_mut(&connection).expect("it was just found");
    match random.below(40) {
        0..=11 => {
            let start = pair.written.len();
            let length = (1usize << random.below(14)).min(stream.len() - start);
            let count = pair.peer.write(&stream[start..start + length]);
            pair.written
                .extend_from_slice(&stream[start..start + count]);
        }
        12..=23 => {
            let length = (1usize << random.below(16)).min(stream.len() - pair.sent);
            if length > 0 {
                world.send(connection, &stream[pair.sent..pair.sent + length]);
                pair.sent += length;
            }
        }
        24..=31 => {
            if let Read::Bytes(bytes) = pair.peer.read(1 << random.below(18)) {
                pair.read.extend(bytes);
            }
        }
        32 => world.driver().pause(connection),
        33 | 34 => world.driver().resume(connection),
        35 => pair.peer.finish(),
        36 => world.driver().close(
            connection,
            Close::Graceful {
                linger_ms: random.below(50) as u32,
            },
        ),
        37 => world.driver().close(connection, Close::Abort),
        38 => pairs
            .remove(&connection)
            .expect("it was just found")
            .peer
            .reset(),
        _ => drop(pairs.remove(&connection)),
    }
}

/// What arrived, on either side, is a beginning of what was sent.
fn check<S: Setup>(
    world: &World<S>,
    pairs: &mut BTreeMap<ConnectionId, Pair<S::Peer>>,
    stream: &[u8],
) {
    for (connection, pair) in pairs.iter() {
        let received = world.received(*connection);
        assert!(pair.written.starts_with(received));
        assert!(stream[..pair.sent].starts_with(&pair.read));
    }
    pairs.retain(|connection, _| world.closed(*connection).is_none());
}
