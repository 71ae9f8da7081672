//! Two links and what is between them: a TCP connection that may be cut at any byte, at which each side may learn of it when it likes.

use std::collections::VecDeque;

use cluster::frame::{Decoder, Kind};
use cluster::hello::{Hello, PROTOCOL};
use cluster::link::{Incoming, Limits, Link, Message, Unsent};
use cluster::view::NodeId;

pub(crate) const SIDES: [usize; 2] = [0, 1];

/// What happens next.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Step {
    /// A side has a message.
    Send {
        side: usize,
        lossy: bool,
        bytes: usize,
    },
    /// A side's turn ends.
    Output(usize),
    /// So many of the bytes that a side wrote reach the other.
    Arrive { side: usize, bytes: usize },
    /// Time passes.
    Wait(u64),
    /// The connection is cut: what is on its way is lost, and nobody knows.
    Cut,
    /// A side learns that it is.
    Notice(usize),
    /// Both connect again, whatever they knew.
    Connect,
}

/// One lane of one direction.
#[derive(Debug, Default)]
struct Lane {
    sent: Vec<Vec<u8>>,
    arrived: Vec<Vec<u8>>,
}

#[derive(Debug)]
pub(crate) struct Pair {
    pub(crate) links: [Link; 2],
    pub(crate) now_ms: u64,
    /// By the side that wrote.
    on_the_way: [VecDeque<u8>; 2],
    /// By the side that wrote: a cut connection takes bytes and brings none.
    is_whole: bool,
    /// By the side that sent, then reliable and lossy.
    lanes: [[Lane; 2]; 2],
    count: u64,
}

impl Pair {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            links: SIDES.map(|_| Link::new(PROTOCOL.max, limits)),
            now_ms: 1_000,
            on_the_way: Default::default(),
            is_whole: false,
            lanes: Default::default(),
            count: 0,
        }
    }

    pub(crate) fn connected(limits: Limits) -> Self {
        let mut pair = Self::new(limits);
        pair.step(Step::Connect);
        pair
    }

    pub(crate) fn step(&mut self, step: Step) {
        match step {
            Step::Send { side, lossy, bytes } => {
                let _outcome = self.send(side, lossy, bytes);
            }
            Step::Output(side) => self.output(side),
            Step::Arrive { side, bytes } => self.arrive(side, bytes),
            Step::Wait(span_ms) => {
                self.now_ms += span_ms;
                for side in SIDES {
                    if self.links[side].tick(self.now_ms).is_err() {
                        self.cut();
                    }
                }
            }
            Step::Cut => self.cut(),
            Step::Notice(side) => {
                if !self.is_whole {
                    self.links[side].disconnected();
                }
            }
            Step::Connect => self.connect(),
        }
    }

    pub(crate) fn send(&mut self, side: usize, lossy: bool, bytes: usize) -> Result<(), Unsent> {
        let mut body = self.count.to_le_bytes().to_vec();
        body.resize(bytes.max(8), self.count as u8);
        let message = Message {
            from_core: side as u16,
            to_core: 9,
            epoch: self.count,
            lossy,
            retry: self.count.is_multiple_of(3),
            body: &body,
        };
        let had_room = self.links[side].has_room();
        let result = self.links[side].send(&message);
        let is_takeable = bytes <= cluster::frame::BODY_BYTES_MAX as usize;
        if !lossy && is_takeable {
            assert_eq!(had_room, result.is_ok(), "room is what is taken");
        }
        if result.is_ok() {
            self.count += 1;
            self.lanes[side][usize::from(lossy)].sent.push(body);
        }
        result
    }

    fn output(&mut self, side: usize) {
        let mut out = Vec::new();
        let had_output = self.links[side].has_output(self.now_ms);
        self.links[side].output(self.now_ms, &mut out);
        assert_eq!(had_output, !out.is_empty());
        if self.is_whole {
            self.on_the_way[side].extend(out);
        }
    }

    fn arrive(&mut self, side: usize, bytes: usize) {
        let bytes = bytes.min(self.on_the_way[side].len());
        let piece: Vec<u8> = self.on_the_way[side].drain(..bytes).collect();
        let result = self.receive(1 - side, &piece);
        assert_eq!(result, Ok(()), "both keep the rules");
    }

    /// Shows a side bytes.
    pub(crate) fn receive(
        &mut self,
        side: usize,
        bytes: &[u8],
    ) -> Result<(), cluster::link::LinkError> {
        let lanes = &mut self.lanes[1 - side];
        self.links[side].receive(self.now_ms, bytes, |incoming| {
            let Incoming::Message(message) = incoming else {
                return;
            };
            assert_eq!((message.from_core, message.to_core), (1 - side as u16, 9));
            assert_eq!(message.retry, message.epoch.is_multiple_of(3));
            assert_eq!(message.body[..8], message.epoch.to_le_bytes());
            let lane = &mut lanes[usize::from(message.lossy)];
            lane.arrived.push(message.body.to_vec());
        })
    }

    fn cut(&mut self) {
        self.is_whole = false;
        self.on_the_way = Default::default();
    }

    /// Side 0 dials. Neither knows more of the other than its HELLO says, and what follows the HELLO at once comes with it.
    fn connect(&mut self) {
        self.cut();
        self.links[0].disconnected();
        let first = hello(&self.links[0]);
        self.links[1].disconnected();
        let mut answer = hello(&self.links[1]);
        self.is_whole = true;
        self.greet(1, &first);
        self.links[1].output(self.now_ms, &mut answer);
        self.greet(0, &answer);
    }

    fn greet(&mut self, side: usize, bytes: &[u8]) {
        let mut decoder = Decoder::new(PROTOCOL.max);
        let mut rest = bytes;
        let frame = decoder.decode(&mut rest).expect("good").expect("whole");
        assert_eq!(frame.header.kind, Kind::Hello);
        let hello = Hello::decode(frame.body).expect("it is one");
        let (received, credit_bytes) = (hello.received, hello.credit_bytes);
        let result = self.links[side].connected(self.now_ms, received, credit_bytes, decoder);
        assert_eq!(result, Ok(()));
        assert_eq!(self.receive(side, rest), Ok(()));
    }

    /// Everything that is on its way arrives, and is acknowledged.
    pub(crate) fn settle(&mut self) {
        if !self.is_whole {
            self.connect();
        }
        loop {
            for side in SIDES {
                self.output(side);
                self.arrive(side, usize::MAX);
            }
            let quiet = SIDES.iter().all(|&side| {
                self.on_the_way[side].is_empty() && !self.links[side].has_output(self.now_ms)
            });
            let acknowledged = SIDES
                .iter()
                .all(|&side| self.links[side].queued_bytes() == 0);
            if quiet && acknowledged {
                return;
            }
            if quiet {
                self.now_ms += 100; // An acknowledgement waits for it.
            }
        }
    }

    pub(crate) fn arrived(&self, side: usize, lossy: bool) -> usize {
        self.lanes[side][usize::from(lossy)].arrived.len()
    }

    pub(crate) fn assert_prefix(&self) {
        for lane in self.lanes.iter().flatten() {
            let arrived = lane.arrived.len();
            assert!(arrived <= lane.sent.len());
            // What was compared before is equal still.
            let from = arrived.saturating_sub(40);
            assert_eq!(lane.arrived[from..], lane.sent[from..arrived]);
        }
    }

    pub(crate) fn assert_all_arrived(&self) {
        for lane in self.lanes.iter().flatten() {
            assert!(lane.arrived == lane.sent);
        }
    }
}

fn node(uid: u64) -> NodeId {
    let incarnation = 100;
    NodeId { uid, incarnation }
}

fn hello(link: &Link) -> Vec<u8> {
    let hello = Hello {
        cluster: "roadstead".into(),
        node: node(1),
        to: node(2),
        protocol: PROTOCOL,
        epoch: 1,
        view_hash: 1,
        link: 0,
        links: 1,
        received: link.received(),
        credit_bytes: link.credit_bytes(),
    };
    let mut bytes = Vec::new();
    hello.write(&mut bytes);
    bytes
}
