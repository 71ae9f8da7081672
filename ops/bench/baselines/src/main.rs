//! An echo server on one of four engines, on one thread: what arrives goes back. `bench reactor` loads it and says what a
//! message costs and what an idle connection holds.
//!
//! ```text
//! baselines reactor|reactor-epoll|monoio|tokio-uring ADDRESS
//! ```
//!
//! monoio and tokio-uring have a task for each connection and give the kernel a buffer with each read, as they are used
//! elsewhere; the buffer has room for two messages. The reactor has neither.

use std::io;
use std::net::SocketAddr;

use reactor::datagram::DatagramConfig;
use reactor::driver::{Close, Driver, DriverConfig, Event, Keepalive, ListenOptions};
use reactor::epoll::EpollDriver;
use reactor::uring::UringDriver;

/// Bytes of a task's receive buffer.
const BUFFER_BYTES: usize = 256;
/// Length of the accept queue.
const BACKLOG: u32 = 4_096;
/// Entries of a ring.
const ENTRIES: u32 = 4_096;

fn main() -> io::Result<()> {
    reactor::probe::raise_nofile_limit()?;
    let mut arguments = std::env::args().skip(1);
    let (engine, address) = (arguments.next(), arguments.next());
    let address = address.and_then(|address| address.parse().ok());
    let Some((engine, address)) = engine.zip(address) else {
        return Err(usage());
    };
    match engine.as_str() {
        "reactor" => reactor_echo(UringDriver::new(config())?, address),
        "reactor-epoll" => reactor_echo(EpollDriver::new(config())?, address),
        "monoio" => monoio_echo(address),
        "tokio-uring" => tokio_uring_echo(address),
        _ => Err(usage()),
    }
}

fn usage() -> io::Error {
    io::Error::other("baselines reactor|reactor-epoll|monoio|tokio-uring ADDRESS")
}

/// The sizes that the server has by default.
fn config() -> DriverConfig {
    DriverConfig {
        connections_max: 19_000,
        receive_buffers: 1_024,
        receive_buffer_bytes: 8 << 10,
        events_max: 512,
        submission_entries: 1_024,
        completion_entries: 8_192,
        datagrams: DatagramConfig::small(),
    }
}

fn reactor_echo(mut driver: impl Driver, address: SocketAddr) -> io::Result<()> {
    let options = ListenOptions {
        backlog: BACKLOG,
        reuse_port: false,
        keepalive: Some(Keepalive::USUAL),
    };
    driver.listen(address, options)?;
    let mut events = Vec::new();
    loop {
        driver.poll(None, &mut events)?;
        for event in events.drain(..) {
            match event {
                Event::Received { connection, buffer } => {
                    let mut bytes = driver.reclaim().unwrap_or_default();
                    bytes.extend_from_slice(driver.received(buffer));
                    driver.send(connection, bytes);
                }
                Event::PeerClosed { connection } => driver.close(connection, Close::Abort),
                _ => {}
            }
        }
    }
}

/// A listener with the same accept queue for both, which their own calls would not give.
fn listener(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let domain = socket2::Domain::for_address(address);
    let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG as i32)?;
    Ok(socket.into())
}

fn monoio_echo(address: SocketAddr) -> io::Result<()> {
    use monoio::io::{AsyncReadRent as _, AsyncWriteRentExt as _};

    let mut runtime = monoio::RuntimeBuilder::<monoio::IoUringDriver>::new()
        .with_entries(ENTRIES)
        .build()?;
    runtime.block_on(async {
        let listener = monoio::net::TcpListener::from_std(listener(address)?)?;
        loop {
            let (mut stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            monoio::spawn(async move {
                let mut buffer = Vec::with_capacity(BUFFER_BYTES);
                loop {
                    let (outcome, mut read) = stream.read(buffer).await;
                    match outcome {
                        Ok(0) | Err(_) => return,
                        Ok(_) => {}
                    }
                    let outcome;
                    (outcome, read) = stream.write_all(read).await;
                    if outcome.is_err() {
                        return;
                    }
                    read.clear();
                    buffer = read;
                }
            });
        }
    })
}

fn tokio_uring_echo(address: SocketAddr) -> io::Result<()> {
    use tokio_uring::buf::BoundedBuf as _;

    tokio_uring::builder().entries(ENTRIES).start(async {
        let listener = tokio_uring::net::TcpListener::from_std(listener(address)?);
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            tokio_uring::spawn(async move {
                let mut buffer = Vec::with_capacity(BUFFER_BYTES);
                loop {
                    let (outcome, read) = stream.read(buffer).await;
                    let length = match outcome {
                        Ok(0) | Err(_) => return,
                        Ok(length) => length,
                    };
                    let (outcome, slice) = stream.write_all(read.slice(..length)).await;
                    if outcome.is_err() {
                        return;
                    }
                    buffer = slice.into_inner();
                    buffer.clear();
                }
            });
        }
    })
}
