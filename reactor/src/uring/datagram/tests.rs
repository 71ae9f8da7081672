//! What only the inside shows: answers of the kernel that cannot be provoked, and what is allocated.

use std::time::Duration;

use super::*;
use crate::datagram::DatagramOptions;
use crate::driver::Driver;
use crate::uring::now;

/// A driver with a datagram socket, and its address; or `None` where it cannot run.
fn bound() -> Option<(UringDriver, DatagramSocketId, std::net::SocketAddr)> {
    let mut driver = UringDriver::new(DriverConfig::small()).ok()?;
    let any = ([127, 0, 0, 1], 0).into();
    let bound = driver.bind_datagrams(any, DatagramOptions::server());
    let (socket, address) = bound.expect("a port is free");
    Some((driver, socket, address))
}

/// Makes the driver believe that the kernel answered so, once and for all.
fn answer(driver: &mut UringDriver, kind: Kind, socket: DatagramSocketId, result: i32) {
    let completion = Completion {
        user_data: user_data(kind, key(socket)),
        result,
        flags: 0,
    };
    let mut events = Vec::new();
    driver.complete(completion, &mut events);
    assert!(events.is_empty());
}

#[test]
fn nothing_is_allocated_before_the_first_socket() {
    let Ok(driver) = UringDriver::new(DriverConfig::small()) else {
        return;
    };
    assert!(driver.datagrams.buffers.is_none() && driver.datagrams.template.is_none());
    assert_eq!(driver.datagrams.sends.capacity(), 0);
}

#[test]
fn a_cancel_that_found_nothing_is_repeated() {
    let Some((mut driver, socket, _)) = bound() else {
        return;
    };
    driver.drive_datagrams();
    driver.end_datagrams(socket);
    // The receive was between two attempts when a cancel looked for it.
    let entry = driver.datagrams.sockets.get_mut(key(socket));
    entry.expect("it is closing").cancelling = true;
    driver.drive_datagrams();
    answer(&mut driver, Kind::DatagramCancel, socket, -libc::ENOENT);
    let mut events = Vec::new();
    let start = now();
    while driver.counters().datagrams.sockets > 0 {
        let deadline = now() + Duration::from_millis(5);
        driver.poll(Some(deadline), &mut events).expect("usable");
        assert!(start.elapsed() < Duration::from_secs(10));
    }
    assert!(events.is_empty());
}

#[test]
fn a_receive_that_failed_is_tried_again_after_a_rest() {
    let Some((mut driver, socket, address)) = bound() else {
        return;
    };
    let entry = driver.datagrams.sockets.get_mut(key(socket));
    entry.expect("it is open").receiving = true;
    answer(&mut driver, Kind::DatagramReceive, socket, -libc::ENOMEM);
    driver.drive_datagrams();
    let entry = driver.datagrams.sockets.get(key(socket));
    assert!(!entry.expect("it is open").receiving, "not at once");
    let peer = std::net::UdpSocket::bind("127.0.0.1:0").expect("a port is free");
    peer.send_to(b"hello", address).expect("it is sent");
    let mut events = Vec::new();
    let start = now();
    while events.is_empty() {
        // The end of the rest ends the wait.
        driver.poll(None, &mut events).expect("usable");
        assert!(start.elapsed() < Duration::from_secs(10));
    }
    assert!(matches!(events[..], [Event::Datagrams { .. }]));
    assert_eq!(driver.counters().datagrams.receive_errors, 1);
}
