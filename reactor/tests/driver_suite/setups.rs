//! The three drivers with their peers.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

use reactor::datagram::Transmit;
use reactor::driver::DriverConfig;
use reactor::epoll::EpollDriver;
use reactor::fake::{FakeDatagramPeer, FakeDriver, FakeNet, FakePeer};
use reactor::uring::UringDriver;

use crate::world::{DatagramPeer, Peer, Read, Setup};

/// How long one poll may wait.
const POLL: Duration = Duration::from_millis(2);
/// Receive window of a narrow peer.
const NARROW: i32 = 4096;

pub(crate) struct Real<D> {
    driver: Option<D>,
    listener: Option<TcpListener>,
    unanswered: Option<TcpStream>,
}

pub(crate) type Uring = Real<UringDriver>;
pub(crate) type Epoll = Real<EpollDriver>;

pub(crate) trait Make: Sized {
    fn make(config: DriverConfig) -> io::Result<Self>;
}

impl Make for UringDriver {
    fn make(config: DriverConfig) -> io::Result<Self> {
        Self::new(config)
    }
}

impl Make for EpollDriver {
    fn make(config: DriverConfig) -> io::Result<Self> {
        Self::new(config)
    }
}

impl<D: Make + reactor::driver::Driver> Setup for Real<D> {
    type Driver = D;
    type Peer = TcpPeer;
    type DatagramPeer = UdpPeer;

    fn available() -> bool {
        let made = D::make(DriverConfig::small());
        if let Err(error) = &made {
            eprintln!("not tested here: {error}");
        }
        made.is_ok()
    }

    fn new(config: DriverConfig) -> Self {
        Self {
            driver: Some(D::make(config).expect("it was available")),
            listener: None,
            unanswered: None,
        }
    }

    fn driver(&mut self) -> &mut D {
        self.driver.as_mut().expect("the driver was not dropped")
    }

    fn drop_driver(&mut self) {
        self.driver = None;
    }

    fn deadline(&mut self) -> Instant {
        Instant::now() + POLL
    }

    fn open(&mut self, to: SocketAddr, narrow: bool) -> io::Result<TcpPeer> {
        if narrow {
            TcpPeer::new(connect_narrow(to)?)
        } else {
            TcpPeer::new(TcpStream::connect(to)?)
        }
    }

    fn listen(&mut self) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        listener.set_nonblocking(true).expect("it is a socket");
        let address = listener.local_addr().expect("it is bound");
        self.listener = Some(listener);
        address
    }

    fn accept(&mut self) -> Option<TcpPeer> {
        let (stream, _) = self.listener.as_ref()?.accept().ok()?;
        TcpPeer::new(stream).ok()
    }

    fn nobody(&mut self) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        listener.local_addr().expect("it is bound")
    }

    fn silence(&mut self) -> Option<SocketAddr> {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        // SAFETY: listen takes integers and no memory. Once more, it changes the length of the queue.
        assert_eq!(unsafe { libc::listen(listener.as_raw_fd(), 0) }, 0);
        let address = listener.local_addr().expect("it is bound");
        // One that nobody accepts fills the queue; what comes after it is not answered.
        self.unanswered = Some(TcpStream::connect(address).expect("the first is let in"));
        self.listener = Some(listener);
        Some(address)
    }

    fn datagram_peer(&mut self, address: SocketAddr) -> io::Result<UdpPeer> {
        let socket = UdpSocket::bind(address)?;
        socket.set_nonblocking(true)?;
        Ok(UdpPeer(socket))
    }
}

pub(crate) struct UdpPeer(UdpSocket);

impl DatagramPeer for UdpPeer {
    fn address(&self) -> SocketAddr {
        self.0.local_addr().expect("it is bound")
    }

    fn send(&mut self, to: SocketAddr, bytes: &[u8]) {
        let sent = self.0.send_to(bytes, to).expect("the loopback has room");
        assert_eq!(sent, bytes.len());
    }

    fn receive(&mut self) -> Option<(SocketAddr, Vec<u8>)> {
        let mut bytes = vec![0; 1 << 16];
        let (length, from) = self.0.recv_from(&mut bytes).ok()?;
        bytes.truncate(length);
        Some((from, bytes))
    }
}

pub(crate) struct TcpPeer {
    stream: TcpStream,
    address: SocketAddr,
    remote: SocketAddr,
}

impl TcpPeer {
    fn new(stream: TcpStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        Ok(Self {
            address: stream.local_addr()?,
            remote: stream.peer_addr()?,
            stream,
        })
    }
}

impl Peer for TcpPeer {
    fn address(&self) -> SocketAddr {
        self.address
    }

    fn remote(&self) -> SocketAddr {
        self.remote
    }

    fn write(&mut self, bytes: &[u8]) -> usize {
        self.stream.write(bytes).unwrap_or(0)
    }

    fn read(&mut self, max: usize) -> Read {
        let mut bytes = vec![0; max.min(1 << 20)];
        match self.stream.read(&mut bytes) {
            Ok(0) if !bytes.is_empty() => Read::End,
            Ok(count) => {
                bytes.truncate(count);
                Read::Bytes(bytes)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Read::Nothing,
            Err(_) => Read::Reset,
        }
    }

    fn finish(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    fn reset(self) {
        let linger = libc::linger {
            l_onoff: 1,
            l_linger: 0,
        };
        set(self.stream.as_raw_fd(), libc::SO_LINGER, &linger);
    }
}

pub(crate) fn set<T>(fd: i32, name: i32, value: &T) {
    let length = size_of::<T>() as libc::socklen_t;
    // SAFETY: `value` is `length` bytes that outlive the call.
    let result = unsafe {
        libc::setsockopt(
            fd,
            libc::SOL_SOCKET,
            name,
            (&raw const *value).cast(),
            length,
        )
    };
    assert_eq!(result, 0);
}

/// A stream whose receive buffer was small from the start, so that its window is.
fn connect_narrow(to: SocketAddr) -> io::Result<TcpStream> {
    // SAFETY: socket takes integers and no memory.
    let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) };
    assert!(fd >= 0);
    // SAFETY: the kernel has just made this descriptor for us.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    set(fd.as_raw_fd(), libc::SO_RCVBUF, &NARROW);
    let SocketAddr::V4(to) = to else {
        panic!("narrow peers speak IPv4")
    };
    // SAFETY: sockaddr_in is plain integers, for which all zeroes is a value.
    let mut address: libc::sockaddr_in = unsafe { std::mem::zeroed() };
    address.sin_family = libc::AF_INET as libc::sa_family_t;
    address.sin_port = to.port().to_be();
    address.sin_addr.s_addr = u32::from(*to.ip()).to_be();
    let length = size_of::<libc::sockaddr_in>() as libc::socklen_t;
    // SAFETY: `address` is `length` bytes that outlive the call.
    let result = unsafe { libc::connect(fd.as_raw_fd(), (&raw const address).cast(), length) };
    if result == 0 {
        Ok(TcpStream::from(fd))
    } else {
        Err(io::Error::last_os_error())
    }
}

pub(crate) struct Fake {
    net: FakeNet,
    driver: Option<FakeDriver>,
    listening: Option<SocketAddr>,
}

impl Setup for Fake {
    type Driver = FakeDriver;
    type Peer = FakeEnd;
    type DatagramPeer = FakeDatagrams;

    fn new(config: DriverConfig) -> Self {
        let net = FakeNet::new(Instant::now());
        let driver = Some(net.driver(config));
        Self {
            net,
            driver,
            listening: None,
        }
    }

    fn driver(&mut self) -> &mut FakeDriver {
        self.driver.as_mut().expect("the driver was not dropped")
    }

    fn drop_driver(&mut self) {
        self.driver = None;
    }

    fn deadline(&mut self) -> Instant {
        self.net.advance(POLL);
        self.net.now()
    }

    fn open(&mut self, to: SocketAddr, narrow: bool) -> io::Result<FakeEnd> {
        let peer = self.net.open(to)?;
        if narrow {
            peer.set_window(NARROW as usize);
        }
        Ok(FakeEnd(peer))
    }

    fn listen(&mut self) -> SocketAddr {
        let address = SocketAddr::from(([127, 0, 0, 2], 1883));
        self.net.listen(address);
        self.listening = Some(address);
        address
    }

    fn accept(&mut self) -> Option<FakeEnd> {
        self.net.accept(self.listening?).map(FakeEnd)
    }

    fn nobody(&mut self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 3], 1883))
    }

    fn silence(&mut self) -> Option<SocketAddr> {
        None
    }

    fn datagram_peer(&mut self, address: SocketAddr) -> io::Result<FakeDatagrams> {
        self.net.datagram_peer(address).map(FakeDatagrams)
    }
}

pub(crate) struct FakeDatagrams(FakeDatagramPeer);

impl DatagramPeer for FakeDatagrams {
    fn address(&self) -> SocketAddr {
        self.0.address()
    }

    fn send(&mut self, to: SocketAddr, bytes: &[u8]) {
        self.0.send(&Transmit {
            to,
            from: None,
            ecn: None,
            segment: None,
            bytes: bytes.to_vec(),
        });
    }

    fn receive(&mut self) -> Option<(SocketAddr, Vec<u8>)> {
        let datagram = self.0.receive()?;
        Some((datagram.from, datagram.bytes))
    }
}

pub(crate) struct FakeEnd(FakePeer);

impl Peer for FakeEnd {
    fn address(&self) -> SocketAddr {
        self.0.local_address()
    }

    fn remote(&self) -> SocketAddr {
        self.0.remote_address().expect("the connection is there")
    }

    fn write(&mut self, bytes: &[u8]) -> usize {
        self.0.write(bytes)
    }

    fn read(&mut self, max: usize) -> Read {
        let bytes = self.0.read_up_to(max);
        if !bytes.is_empty() {
            Read::Bytes(bytes)
        } else if self.0.is_reset() {
            Read::Reset
        } else if self.0.is_finished() {
            Read::End
        } else {
            Read::Nothing
        }
    }

    fn finish(&mut self) {
        self.0.shutdown();
    }

    fn reset(self) {
        self.0.reset();
    }
}
