//! The control link between two living nodes, members or not: over it they ask each other whether they are there, say which view they
//! are at, and give it. It has a connection of its own, so that nothing of a client is ever before it, and it is up before the cores are.
//!
//! ```text
//! who asks (dialled)                             who answers
//!   HELLO ─────────────────────────────────────▶  judge: REFUSED and close, or
//!   judge: REFUSED and close, or   ◀────────────  HELLO
//!   VIEW, PING every half second ──────────────▶
//!                                  ◀────────────  VIEW, PONG
//!   PULL ──────────────────────────────────────▶
//!                                  ◀────────────  CONTENT
//! ```
//!
//! Each node asks each other one on a connection that it has dialled, so that an answer proves both directions of its way, and there is
//! nobody to agree with about who dials. Pure: no socket, no clock.

use std::collections::VecDeque;

use crate::frame::{Decoder, Frame, FrameError, Header, Kind};
use crate::hello::{Hello, PROTOCOL, Refusal};
use crate::view::{NodeId, Version, View, ViewDecodeError};

/// What [`Hello::link`] says on a control link.
pub const CONTROL_LINK: u16 = u16::MAX;
/// From one question to the next.
pub const ASK_EVERY_MS: u64 = 500;
/// Questions without an answer, after which the other is unreachable.
pub const UNANSWERED_MAX: usize = 4;

/// Who one is on a control link.
#[derive(Clone, Debug)]
pub struct Me {
    /// Name of the cluster.
    pub cluster: Box<str>,
    /// This node.
    pub node: NodeId,
}

impl Me {
    /// What is said first, to a node.
    fn hello(&self, to: NodeId, version: Option<Version>) -> Hello {
        Hello {
            cluster: self.cluster.clone(),
            node: self.node,
            to,
            protocol: PROTOCOL,
            epoch: version.map_or(0, |version| version.epoch),
            view_hash: version.map_or(0, |version| version.hash),
            link: CONTROL_LINK,
            links: 0,
            received: 0,
            credit_bytes: 0,
        }
    }

    /// Whether a node that says `hello`, and is certified as `certified_uid`, is spoken to.
    fn judge(&self, hello: &Hello, certified_uid: u64) -> Result<(), Refusal> {
        if *hello.cluster != *self.cluster {
            return Err(Refusal::WrongCluster);
        }
        if PROTOCOL.common(hello.protocol).is_none() {
            return Err(Refusal::IncompatibleVersion);
        }
        if hello.node.uid != certified_uid {
            return Err(Refusal::WrongCertificate);
        }
        if hello.node.uid == self.node.uid {
            return Err(Refusal::DuplicateNode);
        }
        if hello.to.uid != self.node.uid {
            return Err(Refusal::WrongNode);
        }
        if hello.link != CONTROL_LINK {
            return Err(Refusal::WrongLink);
        }
        Ok(())
    }
}

/// What the other side says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// Which view it is at, if it has one.
    At(NodeId, Option<Version>),
    /// It has answered what was asked at this time of this side's clock, and is at this view.
    Answered(NodeId, Option<Version>, u64),
    /// Its view, which was asked for.
    View(NodeId, Option<Box<View>>),
    /// It asks for this side's view.
    Pull,
}

/// What ends a control link.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ControlError {
    /// What is no frame.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The other side does not speak to this node.
    #[error("the other node refuses this one: {0}")]
    RefusedByPeer(Refusal),
    /// This node does not speak to the other side; it has been told.
    #[error("the other node is refused: {0}")]
    Refused(Refusal),
    /// A view that is none.
    #[error("the other node gave a view that is none ({0}): upgrade by one version at a time")]
    View(#[from] ViewDecodeError),
    /// Nobody answers.
    #[error("the other node has not answered for {0} ms: it hangs, or the network is cut")]
    Unreachable(u64),
}

/// One control link, either side, from the end of the TLS handshake on.
#[derive(Debug)]
pub struct ControlLink {
    me: Me,
    certified_uid: u64,
    /// True exactly on the side that dialled.
    asks: bool,
    decoder: Decoder,
    /// Who the other is, once it has said so.
    peer: Option<NodeId>,
    /// The view that it was at last.
    version: Option<Version>,
    /// Questions without an answer: number, and when they were asked.
    asked: VecDeque<(u64, u64)>,
    number: u64,
    next_ms: u64,
}

impl ControlLink {
    /// The side that dialled node `to`, which the certificate has proved it to be. Appends what is to be said first.
    pub fn ask(me: Me, to: NodeId, version: Option<Version>, out: &mut Vec<u8>) -> Self {
        me.hello(to, version).write(out);
        Self::new(me, to.uid, true)
    }

    /// The side that accepted node `certified_uid`.
    pub fn answer(me: Me, certified_uid: u64) -> Self {
        Self::new(me, certified_uid, false)
    }

    fn new(me: Me, certified_uid: u64, asks: bool) -> Self {
        Self {
            me,
            certified_uid,
            asks,
            decoder: Decoder::new(PROTOCOL.max),
            peer: None,
            version: None,
            asked: VecDeque::new(),
            number: 0,
            next_ms: 0,
        }
    }

    /// Who the other is, once it has said so and is spoken to.
    pub fn peer(&self) -> Option<NodeId> {
        self.peer
    }

    /// Reads what came. `version` is that of this side's view. Appends answers to `out`, also when it fails, and what was said to `said`.
    ///
    /// # Errors
    /// The connection is to be closed after `out`.
    pub fn receive(
        &mut self,
        mut bytes: &[u8],
        version: Option<Version>,
        out: &mut Vec<u8>,
        said: &mut Vec<Said>,
    ) -> Result<(), ControlError> {
        loop {
            let Some(Frame { header, body }) = self.decoder.decode(&mut bytes)? else {
                return Ok(());
            };
            let Some(peer) = self.peer else {
                let first = match header.kind {
                    Kind::Hello => Hello::decode(body),
                    Kind::Refused => {
                        return Err(ControlError::RefusedByPeer(Refusal::decode(body)));
                    }
                    _ => Err(Refusal::Violation),
                };
                self.greeted(first, version, out, said)?;
                continue;
            };
            match header.kind {
                Kind::View => {
                    let hash = body.first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
                    let Some(hash) = hash else {
                        return refuse(Refusal::Violation, out);
                    };
                    let epoch = header.epoch;
                    self.version = Some(Version { epoch, hash });
                    said.push(Said::At(peer, self.version));
                }
                Kind::Ping if !self.asks => {
                    tell(version, out);
                    control(Kind::Pong, header.sequence).write(&[], out);
                }
                Kind::Pong if self.asks => {
                    let asked = self
                        .asked
                        .iter()
                        .position(|asked| asked.0 == header.sequence);
                    if let Some((_, sent_ms)) =
                        asked.and_then(|at| self.asked.drain(..=at).next_back())
                    {
                        said.push(Said::Answered(peer, self.version, sent_ms));
                    }
                }
                Kind::Pull if !self.asks => said.push(Said::Pull),
                Kind::Content if self.asks => {
                    let view = (!body.is_empty()).then(|| View::decode(body)).transpose()?;
                    said.push(Said::View(peer, view.map(Box::new)));
                }
                Kind::Refused => {
                    return Err(ControlError::RefusedByPeer(Refusal::decode(body)));
                }
                _ => return refuse(Refusal::Violation, out),
            }
        }
    }

    fn greeted(
        &mut self,
        hello: Result<Hello, Refusal>,
        version: Option<Version>,
        out: &mut Vec<u8>,
        said: &mut Vec<Said>,
    ) -> Result<(), ControlError> {
        let judged =
            hello.and_then(|hello| self.me.judge(&hello, self.certified_uid).map(|()| hello));
        let hello = match judged {
            Ok(hello) => hello,
            Err(refusal) => return refuse(refusal, out),
        };
        self.peer = Some(hello.node);
        self.decoder.allow_views();
        self.version = (hello.epoch != 0).then_some(Version {
            epoch: hello.epoch,
            hash: hello.view_hash,
        });
        if !self.asks {
            self.me.hello(hello.node, version).write(out);
        }
        said.push(Said::At(hello.node, self.version));
        Ok(())
    }

    /// When [`ControlLink::tick`] has something to do; `None` on the side that answers.
    pub fn next_deadline_ms(&self) -> Option<u64> {
        (self.asks && self.peer.is_some()).then_some(self.next_ms)
    }

    /// Asks when it is time. A pause of this process is not held against the other: questions are counted, not time.
    ///
    /// # Errors
    /// Too many questions were not answered.
    pub fn tick(
        &mut self,
        now_ms: u64,
        version: Option<Version>,
        out: &mut Vec<u8>,
    ) -> Result<(), ControlError> {
        if !self.asks || self.peer.is_none() || now_ms < self.next_ms {
            return Ok(());
        }
        if self.asked.len() >= UNANSWERED_MAX {
            return Err(ControlError::Unreachable(
                UNANSWERED_MAX as u64 * ASK_EVERY_MS,
            ));
        }
        self.number += 1;
        self.asked.push_back((self.number, now_ms));
        self.next_ms = now_ms + ASK_EVERY_MS;
        tell(version, out);
        control(Kind::Ping, self.number).write(&[], out);
        Ok(())
    }

    /// Says which view this side is at, when the other has said who it is.
    pub fn tell(&self, version: Option<Version>, out: &mut Vec<u8>) {
        if self.peer.is_some() {
            tell(version, out);
        }
    }

    /// Asks for the other's view; true when it could be asked.
    pub fn pull(&self, out: &mut Vec<u8>) -> bool {
        let can = self.asks && self.peer.is_some();
        if can {
            control(Kind::Pull, 0).write(&[], out);
        }
        can
    }

    /// Gives this side's view, which was asked for.
    pub fn give(&self, view: Option<&View>, out: &mut Vec<u8>) {
        let body = view.map(View::encode).unwrap_or_default();
        control(Kind::Content, 0).write(&body, out);
    }
}

fn control(kind: Kind, sequence: u64) -> Header {
    Header {
        sequence,
        ..Header::control(kind, PROTOCOL.min)
    }
}

fn tell(version: Option<Version>, out: &mut Vec<u8>) {
    if let Some(Version { epoch, hash }) = version {
        let header = Header {
            epoch,
            ..control(Kind::View, 0)
        };
        header.write(&hash.to_le_bytes(), out);
    }
}

fn refuse(refusal: Refusal, out: &mut Vec<u8>) -> Result<(), ControlError> {
    refusal.write(out);
    Err(ControlError::Refused(refusal))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::Joining;

    const ONE: NodeId = NodeId {
        uid: 1,
        incarnation: 10,
    };
    const TWO: NodeId = NodeId {
        uid: 2,
        incarnation: 20,
    };
    const AT: Option<Version> = Some(Version { epoch: 7, hash: 9 });

    fn me(node: NodeId) -> Me {
        Me {
            cluster: "roadstead".into(),
            node,
        }
    }

    fn view() -> View {
        let joining = Joining {
            node: TWO,
            cores: 2,
            weight: 1,
            gossip: ([127, 0, 0, 1], 1).into(),
            bus: ([127, 0, 0, 1], 2).into(),
            reference: "".into(),
            protocol: PROTOCOL,
        };
        View::first(7, "roadstead", &joining).expect("a good view")
    }

    /// Hands `bytes` over byte by byte; what is answered, said, and how it ended.
    fn receive(
        link: &mut ControlLink,
        bytes: &[u8],
        version: Option<Version>,
    ) -> (Vec<u8>, Vec<Said>, Result<(), ControlError>) {
        let (mut out, mut said) = (Vec::new(), Vec::new());
        for byte in bytes.chunks(1) {
            if let Err(error) = link.receive(byte, version, &mut out, &mut said) {
                return (out, said, Err(error));
            }
        }
        (out, said, Ok(()))
    }

    fn pair() -> (ControlLink, ControlLink) {
        let mut hello = Vec::new();
        let mut one = ControlLink::ask(me(ONE), TWO, None, &mut hello);
        let mut two = ControlLink::answer(me(TWO), ONE.uid);
        let (answer, said, _) = receive(&mut two, &hello, AT);
        assert_eq!(said, [Said::At(ONE, None)]);
        let (_, said, end) = receive(&mut one, &answer, None);
        assert_eq!((said, end), (vec![Said::At(TWO, AT)], Ok(())));
        (one, two)
    }

    #[test]
    fn an_answer_proves_the_time_of_its_question() {
        let (mut one, mut two) = pair();
        let mut out = Vec::new();
        one.tick(1_000, None, &mut out).expect("nothing is late");
        let (answer, said, _) = receive(&mut two, &out, AT);
        assert_eq!(said, [], "who has no view says nothing of it");
        let (_, said, _) = receive(&mut one, &answer, None);
        assert_eq!(said, [Said::At(TWO, AT), Said::Answered(TWO, AT, 1_000)]);
        let (_, said, _) = receive(&mut one, &answer, None);
        assert_eq!(said, [Said::At(TWO, AT)], "an answer counts once");
    }

    #[test]
    fn who_does_not_answer_four_questions_is_unreachable() {
        let (mut one, _) = pair();
        let mut out = Vec::new();
        for round in 0..4 {
            assert_eq!(one.tick(round * ASK_EVERY_MS, None, &mut out), Ok(()));
        }
        let end = one.tick(4 * ASK_EVERY_MS, None, &mut out);
        assert_eq!(end, Err(ControlError::Unreachable(2_000)));
    }

    #[test]
    fn a_view_can_be_had_from_who_has_it() {
        let (mut one, mut two) = pair();
        let mut out = Vec::new();
        assert!(one.pull(&mut out) && !two.pull(&mut Vec::new()));
        let (_, said, _) = receive(&mut two, &out, AT);
        assert_eq!(said, [Said::Pull]);
        for view in [None, Some(view())] {
            let mut out = Vec::new();
            two.give(view.as_ref(), &mut out);
            let (_, said, _) = receive(&mut one, &out, None);
            assert_eq!(said, [Said::View(TWO, view.map(Box::new))]);
        }
        let mut out = Vec::new();
        control(Kind::Content, 0).write(b"no view", &mut out);
        assert!(matches!(
            receive(&mut one, &out, None).2,
            Err(ControlError::View(_))
        ));
    }

    #[test]
    fn strangers_are_refused_and_told_why() {
        let mut other = me(ONE);
        other.cluster = "elsewhere".into();
        let late = NodeId { uid: 3, ..TWO };
        let cases = [
            (other, TWO, ONE.uid, Refusal::WrongCluster),
            (me(ONE), TWO, 5, Refusal::WrongCertificate),
            (me(TWO), TWO, TWO.uid, Refusal::DuplicateNode),
            (me(ONE), late, ONE.uid, Refusal::WrongNode),
        ];
        for (from, to, certified, refusal) in cases {
            let mut hello = Vec::new();
            let mut one = ControlLink::ask(from, to, None, &mut hello);
            let mut two = ControlLink::answer(me(TWO), certified);
            let (answer, said, end) = receive(&mut two, &hello, AT);
            assert_eq!((said, end), (vec![], Err(ControlError::Refused(refusal))));
            let end = receive(&mut one, &answer, None).2;
            assert_eq!(end, Err(ControlError::RefusedByPeer(refusal)));
        }
    }

    #[test]
    fn a_message_of_a_core_has_no_place_on_a_control_link() {
        let (mut one, mut two) = pair();
        for kind in [Kind::Message, Kind::Received, Kind::Hello] {
            let mut out = Vec::new();
            control(kind, 1).write(&[0; 8], &mut out);
            for link in [&mut one, &mut two] {
                let end = receive(link, &out, AT).2;
                assert_eq!(end, Err(ControlError::Refused(Refusal::Violation)));
            }
        }
    }
}
