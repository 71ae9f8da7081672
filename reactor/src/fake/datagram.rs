//! Datagrams of the fake: ports of the network, what becomes of datagrams on their way, and the driver's sockets.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::net::FakeNet;
use crate::buffers::Buffers;
use crate::datagram::{
    DatagramConfig, DatagramCounters, DatagramOptions, DatagramSocketId, Ecn, Transmit,
};
use crate::driver::{BufferRef, Event};
use crate::send_queue::Reclaimed;
use crate::slab::{Key, Slab};
use crate::transmit::{Outbound, Settled, SpareQueues};
use crate::udp::{Ancillary, PAYLOAD_BYTES_MAX};

/// Bytes that wait at a port at most, unless [`DatagramOptions::receive_buffer_bytes`] says otherwise. More are lost.
const WAITING_BYTES_MAX: u32 = 212_992;

/// What becomes of a datagram on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DatagramFate {
    /// It arrives.
    Deliver,
    /// It does not.
    Lose,
    /// It arrives two times.
    Twice,
    /// It arrives after the next one to the same address that is delivered, and never if there is none.
    Behind,
}

type Fate = Box<dyn FnMut(SocketAddr, SocketAddr, &[u8]) -> DatagramFate + Send>;

/// Datagrams from one peer that arrived at once.
#[derive(Clone, Debug)]
struct Batch {
    from: SocketAddr,
    to: IpAddr,
    ecn: Option<Ecn>,
    stride: usize,
    bytes: Vec<u8>,
}

#[derive(Debug)]
struct Port {
    /// `None` for a peer that the test plays.
    owner: Option<(usize, DatagramSocketId)>,
    options: DatagramOptions,
    waiting: VecDeque<Batch>,
    waiting_bytes: usize,
    behind: Option<Batch>,
    /// True exactly when the socket is in the ready list of its driver.
    ready: bool,
}

impl Port {
    fn new(owner: Option<(usize, DatagramSocketId)>, options: DatagramOptions) -> Self {
        Self {
            owner,
            options,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            behind: None,
            ready: false,
        }
    }

    /// `joins`: it follows the last one that arrived, from the same send.
    fn arrive(&mut self, batch: Batch, joins: bool) {
        let bytes_max = self
            .options
            .receive_buffer_bytes
            .unwrap_or(WAITING_BYTES_MAX);
        if self.waiting_bytes + batch.bytes.len() > bytes_max as usize {
            return;
        }
        self.waiting_bytes += batch.bytes.len();
        match self.waiting.back_mut() {
            Some(last)
                if joins
                    && self.options.batches
                    && last.from == batch.from
                    && last.bytes.len() % last.stride == 0
                    && batch.bytes.len() <= last.stride
                    && last.bytes.len() + batch.bytes.len() <= PAYLOAD_BYTES_MAX =>
            {
                last.bytes.extend_from_slice(&batch.bytes);
            }
            _ => self.waiting.push_back(batch),
        }
    }

    fn take(&mut self) -> Option<Batch> {
        let batch = self.waiting.pop_front()?;
        self.waiting_bytes -= batch.bytes.len();
        Some(batch)
    }
}

/// All ports of a network.
#[derive(Default)]
pub(super) struct Ports {
    ports: BTreeMap<SocketAddr, Port>,
    /// Sockets with news, by driver.
    ready: Vec<VecDeque<DatagramSocketId>>,
    fate: Option<Fate>,
}

impl std::fmt::Debug for Ports {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.ports.fmt(formatter)
    }
}

impl Ports {
    pub(super) fn add_driver(&mut self) {
        self.ready.push(VecDeque::new());
    }

    fn bind(&mut self, address: SocketAddr, port: Port) -> io::Result<()> {
        if self.ports.contains_key(&address) {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        self.ports.insert(address, port);
        Ok(())
    }

    /// Sends datagrams of up to `stride` bytes each, and returns whether somebody listens there.
    fn send(
        &mut self,
        from: SocketAddr,
        to: SocketAddr,
        ecn: Option<Ecn>,
        stride: usize,
        bytes: &[u8],
    ) -> bool {
        let any = SocketAddr::new(unspecified(to), to.port());
        let found = if self.ports.contains_key(&to) {
            to
        } else {
            any
        };
        let Some(port) = self.ports.get_mut(&found) else {
            return false;
        };
        if port.options.peer.is_some_and(|peer| peer != from) {
            return false;
        }
        let mut joins = false;
        for datagram in bytes.chunks(stride.max(1)) {
            let batch = Batch {
                from,
                to: to.ip(),
                ecn,
                stride: datagram.len(),
                bytes: datagram.to_vec(),
            };
            let fate = self.fate.as_mut();
            match fate.map_or(DatagramFate::Deliver, |fate| fate(from, to, datagram)) {
                DatagramFate::Lose => continue,
                DatagramFate::Behind => {
                    if let Some(before) = port.behind.replace(batch) {
                        port.arrive(before, false);
                    }
                    continue;
                }
                DatagramFate::Twice => port.arrive(batch.clone(), joins),
                DatagramFate::Deliver => {}
            }
            port.arrive(batch, joins);
            joins = true;
            if let Some(behind) = port.behind.take() {
                port.arrive(behind, false);
                joins = false;
            }
        }
        if let Some((driver, socket)) = port.owner
            && !std::mem::replace(&mut port.ready, true)
        {
            self.ready[driver].push_back(socket);
        }
        true
    }
}

const fn unspecified(like: SocketAddr) -> IpAddr {
    match like {
        SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    }
}

const fn loopback(like: SocketAddr) -> IpAddr {
    match like {
        SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
        SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
    }
}

#[derive(Debug)]
struct Socket {
    address: SocketAddr,
    peer: Option<SocketAddr>,
    outbound: Outbound,
}

/// The datagram sockets of one driver.
#[derive(Debug)]
pub(super) struct Datagrams {
    config: DatagramConfig,
    sockets: Slab<Socket>,
    buffers: Option<Buffers>,
    /// Sockets that have something to send; may name one more than once.
    sending: VecDeque<DatagramSocketId>,
    spare: SpareQueues,
}

impl Datagrams {
    pub(super) fn new(config: DatagramConfig) -> Self {
        Self {
            config,
            sockets: Slab::new(),
            buffers: None,
            sending: VecDeque::new(),
            spare: SpareQueues::default(),
        }
    }

    pub(super) fn bind(
        &mut self,
        net: &FakeNet,
        driver: usize,
        mut address: SocketAddr,
        options: DatagramOptions,
    ) -> io::Result<(DatagramSocketId, SocketAddr)> {
        if self.sockets.len() >= self.config.sockets_max as usize {
            return Err(io::Error::new(
                io::ErrorKind::QuotaExceeded,
                "the table of datagram sockets is full: raise sockets_max",
            ));
        }
        let config = &self.config;
        self.buffers.get_or_insert_with(|| {
            Buffers::new(config.receive_buffers, config.receive_buffer_bytes)
        });
        let net = &mut *net.lock();
        if address.port() == 0 {
            address.set_port(net.port());
        }
        // A socket that is connected has the address that the way to its peer begins with.
        if options.peer.is_some() && address.ip().is_unspecified() {
            address.set_ip(loopback(address));
        }
        let key = self.sockets.insert(Socket {
            address,
            peer: options.peer,
            outbound: Outbound::new(&options),
        });
        let port = Port::new(Some((driver, id(key))), options);
        if let Err(error) = net.ports.bind(address, port) {
            self.sockets.remove(key);
            return Err(error);
        }
        Ok((id(key), address))
    }

    pub(super) fn queue(
        &mut self,
        socket: DatagramSocketId,
        transmit: Transmit,
        reclaimed: &mut Reclaimed,
        counters: &mut DatagramCounters,
    ) {
        if let Some(entry) = self.sockets.get_mut(key(socket)) {
            entry
                .outbound
                .push(transmit, &mut self.spare, reclaimed, counters);
            self.sending.push_back(socket);
        }
    }

    pub(super) fn unsent(&self, socket: DatagramSocketId) -> u64 {
        self.sockets
            .get(key(socket))
            .map_or(0, |socket| socket.outbound.held())
    }

    pub(super) fn close(
        &mut self,
        ports: &mut Ports,
        socket: DatagramSocketId,
        reclaimed: &mut Reclaimed,
        counters: &mut DatagramCounters,
    ) {
        if let Some(mut socket) = self.sockets.remove(key(socket)) {
            socket.outbound.clear(&mut self.spare, reclaimed, counters);
            ports.ports.remove(&socket.address);
            counters.sockets -= 1;
        }
    }

    /// As when the process ends.
    pub(super) fn close_all(&self, ports: &mut Ports) {
        for (_, socket) in self.sockets.iter() {
            ports.ports.remove(&socket.address);
        }
    }

    pub(super) fn send(
        &mut self,
        ports: &mut Ports,
        reclaimed: &mut Reclaimed,
        counters: &mut DatagramCounters,
    ) {
        while let Some(socket) = self.sending.pop_front() {
            let Some(socket) = self.sockets.get_mut(key(socket)) else {
                continue;
            };
            while let Some(mut outgoing) = socket.outbound.pop(&mut self.spare) {
                let transmit = &outgoing.transmit;
                let to = socket.peer.unwrap_or(transmit.to);
                let ip = Some(socket.address.ip()).filter(|ip| !ip.is_unspecified());
                let ip = transmit.from.or(ip).unwrap_or_else(|| loopback(to));
                let from = SocketAddr::new(ip, socket.address.port());
                let ecn = transmit.ecn;
                loop {
                    let segment = outgoing.choose(socket.outbound.segmentation);
                    let chosen = outgoing.chosen();
                    let stride = segment.map_or(chosen.len(), usize::from);
                    let result = if stride > PAYLOAD_BYTES_MAX {
                        Err(libc::EMSGSIZE)
                    } else {
                        let heard = ports.send(from, to, ecn, stride, chosen);
                        // The answer of a host whose port is closed; the datagram itself went out.
                        counters.refused += u64::from(!heard && socket.peer.is_some());
                        Ok(())
                    };
                    let segmentation = &mut socket.outbound.segmentation;
                    if outgoing.settle(result, segmentation, counters) == Settled::Done {
                        break;
                    }
                }
                socket.outbound.finish(outgoing, reclaimed, counters);
            }
        }
    }

    pub(super) fn receive(
        &mut self,
        ports: &mut Ports,
        driver: usize,
        room: usize,
        counters: &mut DatagramCounters,
        events: &mut Vec<Event>,
    ) {
        let Some(buffers) = &mut self.buffers else {
            return;
        };
        for _ in 0..ports.ready[driver].len() {
            // Whoever's turn it is keeps it until there is room for the event.
            if events.len() >= room {
                return;
            }
            if buffers.next_free().is_none() {
                counters.receive_buffers_exhausted += 1;
                return;
            }
            let Some(socket) = ports.ready[driver].pop_front() else {
                return;
            };
            let port = self
                .sockets
                .get(key(socket))
                .and_then(|entry| ports.ports.get_mut(&entry.address));
            let Some(port) = port else { continue };
            while !port.waiting.is_empty() && events.len() < room {
                let Some(buffer) = buffers.next_free() else {
                    counters.receive_buffers_exhausted += 1;
                    break;
                };
                let Some(batch) = port.take() else { break };
                let Some(place) = buffer.get_mut(..batch.bytes.len()) else {
                    counters.truncated += 1;
                    continue;
                };
                place.copy_from_slice(&batch.bytes);
                let told = Ancillary {
                    stride: Some(batch.stride),
                    ecn: batch.ecn.filter(|_| port.options.ecn),
                    local: Some(batch.to).filter(|_| port.options.local_address),
                };
                let stride = told.count(batch.bytes.len(), counters);
                events.push(Event::Datagrams {
                    socket,
                    buffer: buffers.lend_last(batch.bytes.len()).switched(),
                    remote: batch.from,
                    local: told.local,
                    ecn: told.ecn,
                    stride,
                });
            }
            port.ready = !port.waiting.is_empty();
            if port.ready {
                ports.ready[driver].push_back(socket);
            }
        }
    }

    pub(super) fn recycle_all(&mut self) {
        if let Some(buffers) = &mut self.buffers {
            buffers.recycle_all();
        }
    }

    pub(super) fn received(&mut self, buffer: BufferRef) -> &mut [u8] {
        let buffers = self.buffers.as_mut().expect("a datagram was received");
        buffers.received(buffer.switched())
    }

    pub(super) fn recycle(&mut self, buffer: BufferRef) {
        if let Some(buffers) = &mut self.buffers {
            buffers.recycle(buffer.switched());
        }
    }
}

impl FakeNet {
    /// Binds an address for the test to play a peer from; port 0 gives one.
    ///
    /// # Errors
    /// `AddrInUse` when somebody has the address.
    pub fn datagram_peer(&self, mut address: SocketAddr) -> io::Result<FakeDatagramPeer> {
        let mut net = self.lock();
        if address.port() == 0 {
            address.set_port(net.port());
        }
        let options = DatagramOptions {
            batches: false,
            ..DatagramOptions::server()
        };
        net.ports.bind(address, Port::new(None, options))?;
        drop(net);
        Ok(FakeDatagramPeer {
            net: self.clone(),
            address,
        })
    }

    /// Decides from now on what becomes of each datagram, by its source, destination and bytes.
    pub fn set_datagram_fate(
        &self,
        fate: impl FnMut(SocketAddr, SocketAddr, &[u8]) -> DatagramFate + Send + 'static,
    ) {
        self.lock().ports.fate = Some(Box::new(fate));
    }
}

/// A datagram that a [`FakeDatagramPeer`] received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FakeDatagram {
    /// From whom.
    pub from: SocketAddr,
    /// To which address.
    pub to: IpAddr,
    /// Its ECN bits.
    pub ecn: Option<Ecn>,
    /// What is in it.
    pub bytes: Vec<u8>,
}

/// The test's datagram socket. Dropping it closes it.
#[derive(Debug)]
pub struct FakeDatagramPeer {
    net: FakeNet,
    address: SocketAddr,
}

impl FakeDatagramPeer {
    /// Its address.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sends, all at once.
    pub fn send(&self, transmit: &Transmit) {
        let ip = transmit.from.unwrap_or_else(|| self.address.ip());
        let from = SocketAddr::new(ip, self.address.port());
        let bytes = &transmit.bytes;
        let stride = transmit.segment.map_or(bytes.len(), usize::from);
        let ports = &mut self.net.lock().ports;
        ports.send(from, transmit.to, transmit.ecn, stride, bytes);
    }

    /// The next datagram that arrived.
    #[must_use]
    pub fn receive(&self) -> Option<FakeDatagram> {
        let net = &mut *self.net.lock();
        let batch = net.ports.ports.get_mut(&self.address)?.take()?;
        Some(FakeDatagram {
            from: batch.from,
            to: batch.to,
            ecn: batch.ecn,
            bytes: batch.bytes,
        })
    }
}

impl Drop for FakeDatagramPeer {
    fn drop(&mut self) {
        self.net.lock().ports.ports.remove(&self.address);
    }
}

const fn key(id: DatagramSocketId) -> Key {
    Key {
        slot: id.slot,
        generation: id.generation,
    }
}

const fn id(key: Key) -> DatagramSocketId {
    DatagramSocketId {
        slot: key.slot,
        generation: key.generation,
    }
}
