//! Wakes from other threads, and deadlines.

use std::sync::mpsc;
use std::time::{Duration, Instant};

use reactor::driver::{Backend, Close, Driver};
use reactor::mesh::inbox;

use crate::world::{Peer, Seen, Setup, World, config};

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

pub(crate) fn no_wake_is_lost<S: Setup>() {
    every_wake_is_told(&mut World::<S>::new(config()));
}

pub(crate) fn no_wake_is_lost_while_sockets_gather<S: Setup>() {
    let mut world = World::<S>::new(config());
    let_gather(&mut world, Duration::from_secs(60));
    every_wake_is_told(&mut world);
}

/// Lets socket events gather, after some that came so fast that it pays.
fn let_gather<S: Setup>(world: &mut World<S>, span: Duration) {
    world.driver().gather(span);
    let waker = world.driver().waker();
    for _ in 0..2 {
        waker.wake();
        world.poll(None);
    }
    world.seen.clear();
}

/// Each message is sent only after the one before was answered, so that one lost wake stops everything.
fn every_wake_is_told<S: Setup>(world: &mut World<S>) {
    const ROUNDS: u32 = 20_000;
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

pub(crate) fn sockets_that_gather_are_told_of_together<S: Setup>() {
    let span = Duration::from_millis(100);
    let mut world = World::<S>::new(config());
    let virtual_time = world.driver().backend() == Backend::Fake;
    let address = world.listen();
    let (mut first, one) = world.pair(address);
    let (mut second, other) = world.pair(address);
    world.turn();
    let_gather(&mut world, span);
    let start = Instant::now();
    first.write(b"one");
    second.write(b"other");
    world.poll(None);
    while !world.data.contains_key(&one) && !world.data.contains_key(&other) {
        world.poll(None);
    }
    assert!(virtual_time || start.elapsed() >= span);
    assert_eq!(world.data[&one], b"one");
    assert_eq!(world.data[&other], b"other");
}

pub(crate) fn a_deadline_ends_a_poll_that_gathers<S: Setup>() {
    let mut world = World::<S>::new(config());
    let_gather(&mut world, Duration::from_secs(60));
    ends_at_its_deadline(&mut world);
}

pub(crate) fn a_deadline_ends_a_poll<S: Setup>() {
    ends_at_its_deadline(&mut World::<S>::new(config()));
}

fn ends_at_its_deadline<S: Setup>(world: &mut World<S>) {
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

/// Enters of the kernel in a time in which nothing happens.
fn enters_at_rest<S: Setup>(world: &mut World<S>) -> u64 {
    for _ in 0..5 {
        world.turn();
    }
    let (events, enters) = (world.seen.len(), world.driver().counters().enters);
    let until = Instant::now() + Duration::from_millis(50);
    world.poll(Some(until));
    while Instant::now() < until && world.driver().backend() != Backend::Fake {
        world.poll(Some(until));
    }
    assert_eq!(world.seen.len(), events, "nothing happens");
    world.driver().counters().enters - enters
}

pub(crate) fn a_fin_that_nobody_reads_keeps_no_core_busy<S: Setup>() {
    let mut world = World::<S>::new(config());
    let address = world.listen();
    let (mut paused, connection) = world.pair(address);
    world.driver().pause(connection);
    world.turn();
    paused.write(b"unread");
    paused.finish();
    let enters = enters_at_rest(&mut world);
    assert!(enters <= 5, "{enters} enters for a paused connection");
    let (mut half, connection) = world.pair(address);
    half.finish();
    world.until("the peer closed", |world| {
        world.seen.contains(&Seen::PeerClosed(connection))
    });
    let enters = enters_at_rest(&mut world);
    assert!(enters <= 5, "{enters} enters for a half-closed connection");
    // A graceful close that waits for a peer that does not read.
    let (_stuck, connection) = world.pair_with(address, true);
    world.send(connection, &[0; 5_000_000]);
    world.turn();
    let longest = Close::Graceful {
        linger_ms: u32::MAX,
    };
    world.driver().close(connection, longest);
    let enters = enters_at_rest(&mut world);
    assert!(enters <= 5, "{enters} enters for a connection that lingers");
}
