//! What only the inside shows: answers of the kernel that cannot be provoked, and what is in flight.

use std::net::TcpStream;
use std::time::Duration;

use super::*;
use crate::send_queue::SHORTAGES_MAX;

/// A driver with so many accepted connections, or `None` where it cannot run.
fn connected(count: usize) -> Option<(UringDriver, Vec<TcpStream>, Vec<Key>)> {
    let mut driver = UringDriver::new(DriverConfig::small()).ok()?;
    let options = ListenOptions {
        backlog: 1024,
        reuse_port: false,
        keepalive: None,
    };
    let (_, address) = driver
        .listen(([127, 0, 0, 1], 0).into(), options)
        .expect("a port is free");
    let streams = (0..count)
        .map(|_| TcpStream::connect(address).expect("it listens"))
        .collect();
    let (mut keys, mut events) = (Vec::new(), Vec::new());
    while keys.len() < count {
        driver.poll(None, &mut events).expect("it is usable");
        keys.extend(events.drain(..).filter_map(|event| match event {
            Event::Accepted { connection, .. } => Some(key(connection)),
            _ => None,
        }));
    }
    Some((driver, streams, keys))
}

/// Makes the driver believe that the kernel answered its next send so.
fn answer_send(driver: &mut UringDriver, key: Key, result: i32) {
    let connection = driver.connections.get_mut(key).expect("it is open");
    connection.pending.add(Pending::SEND);
    let sending = connection.sending.as_mut().expect("something is unsent");
    if sending.current.is_none() {
        sending.current = sending.queue.gather(1 << 16, &mut driver.reclaimed);
    }
    let completion = Completion {
        user_data: operation::user_data(operation::Kind::Send, key),
        result,
        flags: 0,
    };
    let mut events = Vec::new();
    driver.complete(completion, &mut events);
    assert!(events.is_empty());
}

#[test]
fn a_send_without_kernel_memory_is_tried_again() {
    let Some((mut driver, mut streams, keys)) = connected(1) else {
        return;
    };
    driver.send(id(keys[0]), b"hello".to_vec());
    for error in [libc::ENOBUFS, libc::ENOMEM] {
        answer_send(&mut driver, keys[0], -error);
        assert_eq!(driver.unsent(id(keys[0])), 5);
        driver.drive_dirty();
        let connection = driver.connections.get(keys[0]).expect("it is open");
        assert!(!connection.pending.has(Pending::SEND), "not at once");
        driver.send_again();
    }
    answer_send(&mut driver, keys[0], -libc::ENOBUFS);
    let mut events = Vec::new();
    while driver.counters().bytes_sent < 5 {
        let deadline = now() + Duration::from_millis(5);
        driver.poll(Some(deadline), &mut events).expect("usable");
    }
    let mut bytes = [0; 5];
    io::Read::read_exact(&mut streams[0], &mut bytes).expect("the peer is there");
    assert_eq!(&bytes, b"hello");
    assert_eq!(driver.counters().send_shortages, 3);
}

#[test]
fn a_connection_ends_when_the_kernel_stays_without_memory() {
    let Some((mut driver, _streams, keys)) = connected(1) else {
        return;
    };
    driver.send(id(keys[0]), b"hello".to_vec());
    for _ in 0..SHORTAGES_MAX {
        answer_send(&mut driver, keys[0], -libc::ENOMEM);
        driver.send_again();
    }
    answer_send(&mut driver, keys[0], -libc::ENOMEM);
    let mut events = Vec::new();
    driver.poll(None, &mut events).expect("usable");
    let [Event::Closed { unsent, error, .. }] = &events[..] else {
        panic!("{events:?}")
    };
    let code = error.as_ref().and_then(io::Error::raw_os_error);
    assert_eq!((*unsent, code), (5, Some(libc::ENOMEM)));
}

#[test]
fn connections_of_a_dropped_driver_end_before_anything_is_cancelled() {
    let Some((mut driver, _streams, keys)) = connected(300) else {
        return;
    };
    let connect = driver.connect(([127, 0, 0, 1], 1).into(), None);
    connect.expect("there is room");
    driver.pause(id(keys[0]));
    driver.send(id(keys[1]), vec![0; 10_000_000]);
    driver.drive_dirty();
    driver.end_all();
    assert!(driver.connections.is_empty());
    assert_eq!(driver.ring.in_flight(), 1, "the poll of the waker");
}
