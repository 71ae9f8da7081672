//! Wakes from other threads, and deadlines.

use std::sync::mpsc;
use std::time::{Duration, Instant};

use reactor::driver::{Backend, Driver};
use reactor::mesh::inbox;

use crate::world::{Seen, Setup, World, config};

pub(crate) fn many_wakes_make_one_event<S: Setup>() {
    let mut world = World::<S>::new(config());
    let waker = world.driver().waker();
    for _ in 0..100 {
        waker.wake();
    }
    world.poll(None);
    assert_eq!(world.seen, [Seen::Woken]);
    world.turn();
    assert_eq!(world.seen, [Seen::Woken]);
    waker.wake();
    world.poll(None);
    assert_eq!(world.seen, [Seen::Woken, Seen::Woken]);
}

/// Each message is sent only after the one before was answered, so that one lost wake stops everything.
pub(crate) fn no_wake_is_lost<S: Setup>() {
    const ROUNDS: u32 = 20_000;
    let mut world = World::<S>::new(config());
    let (sender, mut inbox) = inbox::<u32>(4, world.driver().waker());
    let (answer, answers) = mpsc::channel();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            for round in 0..ROUNDS {
                sender.send(round).expect("one message at a time");
                assert_eq!(answers.recv(), Ok(round));
            }
        });
        let mut next = 0;
        let long = Duration::from_secs(10);
        let mut last = Instant::now();
        while next < ROUNDS {
            let before = next;
            inbox.drain(10, |round| {
                assert_eq!(round, next);
                next += 1;
                answer.send(round).expect("the sender waits for it");
            });
            if next > before {
                last = Instant::now();
            } else {
                world.poll(Some(last + long));
            }
            assert!(last.elapsed() < long, "a wake was lost in round {next}");
        }
    });
    world.seen.clear();
}

pub(crate) fn a_deadline_ends_a_poll<S: Setup>() {
    let mut world = World::<S>::new(config());
    let virtual_time = world.driver().backend() == Backend::Fake;
    for wait in [0, 1, 30] {
        let start = Instant::now();
        let wait = Duration::from_millis(wait);
        world.poll(Some(start + wait));
        assert!(virtual_time || start.elapsed() >= wait);
        assert!(start.elapsed() < Duration::from_secs(5));
    }
    let past = Instant::now()
        .checked_sub(Duration::from_secs(1))
        .expect("the machine runs for a second");
    world.poll(Some(past));
    assert_eq!(world.seen, []);
}
