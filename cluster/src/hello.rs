//! HELLO: what each side of a bus connection says first, and whether it is heard.
//!
//! ```text
//! who dials                                   who listens
//!   HELLO ─────────────────────────────────▶  judge: REFUSED and close, or
//!   judge: REFUSED and close, or   ◀────────  HELLO
//!   messages  ◀────────────────────────────▶  messages
//! ```
//!
//! The bodies of HELLO and REFUSED begin the same in every version of the protocol; a newer one may have more behind, which is not read.

use crate::frame::{CONTROL_BODY_BYTES_MAX, Header, Kind};
use crate::limits::CLUSTER_NAME_BYTES_MAX;
use crate::view::{NodeId, ProtocolRange};

/// The versions of the bus protocol that this build speaks.
pub const PROTOCOL: ProtocolRange = ProtocolRange { min: 1, max: 1 };

/// The body begins with it, so that a log tells what was meant to be a HELLO.
const MAGIC: [u8; 4] = *b"RSB\x01";
/// Bytes before the name.
const FIXED_BYTES: usize = 80;
const _: () = assert!(FIXED_BYTES + CLUSTER_NAME_BYTES_MAX <= CONTROL_BODY_BYTES_MAX as usize);

/// What a node says of itself and of a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Name of the cluster.
    pub cluster: Box<str>,
    /// Who says it.
    pub node: NodeId,
    /// Whom it takes the other for.
    pub to: NodeId,
    /// The versions it speaks.
    pub protocol: ProtocolRange,
    /// Epoch of its view.
    pub epoch: u64,
    /// Hash of its view.
    pub view_hash: u64,
    /// Which link between the two nodes.
    pub link: u16,
    /// How many it reckons that there are.
    pub links: u16,
    /// The last message that it received on the link: the other goes on behind it.
    pub received: u64,
    /// Bytes that the other may have unacknowledged.
    pub credit_bytes: u32,
}

/// Why a node is not spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[repr(u16)]
pub enum Refusal {
    /// Something else than a node of this project, or a broken one.
    #[error("its HELLO cannot be read: is it a node?")]
    Malformed = 1,
    /// Two clusters with one key, or one seed list.
    #[error("it belongs to another cluster: `cluster.name` and the seeds do not fit together")]
    WrongCluster = 2,
    /// An upgrade that left out a version.
    #[error(
        "no version of the bus protocol is spoken by both: upgrade the older node, one version at a time"
    )]
    IncompatibleVersion = 3,
    /// A copied data folder, or the same `cluster.uid` in two configurations.
    #[error(
        "it has the id of another node: each node needs its own id, also one whose files were copied"
    )]
    DuplicateNode = 4,
    /// A process that was replaced and does not know it.
    #[error("it is an older incarnation of a node that has come back since: end the older process")]
    OlderIncarnation = 5,
    /// It has not joined yet, or was thrown out. It tries again.
    #[error("it is not a member of the view, or not any more; it may be one soon")]
    UnknownMember = 6,
    /// An address that now belongs to another node.
    #[error(
        "it looks for another node at this address: addresses have changed hands, or `cluster.advertise_address` is wrong"
    )]
    WrongNode = 7,
    /// The certificate is good, but somebody else's.
    #[error("its certificate is that of another node")]
    WrongCertificate = 8,
    /// The two have different views, which passes.
    #[error("there is no such link between the nodes")]
    WrongLink = 9,
    /// One of the two has forgotten the link, which must not happen within an incarnation.
    #[error("the link cannot go on where it was: one of the nodes has to restart")]
    CannotResume = 10,
    /// A frame that the rules forbid.
    #[error("it does not keep the protocol")]
    Violation = 11,
    /// What only a newer node knows.
    #[error("it has a reason that only a newer version knows")]
    Other = 0,
}

impl Refusal {
    /// All of them. The place of one here is its place in a table of counters.
    pub const ALL: [Self; 12] = [
        Self::Other,
        Self::Malformed,
        Self::WrongCluster,
        Self::IncompatibleVersion,
        Self::DuplicateNode,
        Self::OlderIncarnation,
        Self::UnknownMember,
        Self::WrongNode,
        Self::WrongCertificate,
        Self::WrongLink,
        Self::CannotResume,
        Self::Violation,
    ];

    /// Its name in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Other => "other",
            Self::Malformed => "malformed",
            Self::WrongCluster => "wrong_cluster",
            Self::IncompatibleVersion => "incompatible_version",
            Self::DuplicateNode => "duplicate_node",
            Self::OlderIncarnation => "older_incarnation",
            Self::UnknownMember => "unknown_member",
            Self::WrongNode => "wrong_node",
            Self::WrongCertificate => "wrong_certificate",
            Self::WrongLink => "wrong_link",
            Self::CannotResume => "cannot_resume",
            Self::Violation => "violation",
        }
    }

    /// Appends the frame that tells the peer.
    pub fn write(self, out: &mut Vec<u8>) {
        let mut body = [0; 6];
        body[..2].copy_from_slice(&(self as u16).to_le_bytes());
        body[2..4].copy_from_slice(&PROTOCOL.min.to_le_bytes());
        body[4..].copy_from_slice(&PROTOCOL.max.to_le_bytes());
        Header::control(Kind::Refused, PROTOCOL.min).write(&body, out);
    }

    /// Reads the body of such a frame.
    pub fn decode(body: &[u8]) -> Self {
        let code = body
            .first_chunk()
            .map_or(0, |bytes| u16::from_le_bytes(*bytes));
        Self::ALL
            .into_iter()
            .find(|refusal| *refusal as u16 == code)
            .unwrap_or(Self::Other)
    }
}

/// What is known where a HELLO arrives.
#[derive(Clone, Copy, Debug)]
pub struct Judge<'a> {
    /// Name of the cluster.
    pub cluster: &'a str,
    /// This node.
    pub node: NodeId,
    /// The uid that the peer's certificate was issued for.
    pub certified_uid: u64,
    /// Links to that peer.
    pub links: u16,
}

impl Judge<'_> {
    /// The version to speak with who says `hello`. `incarnation_of` knows the members of the view by uid.
    ///
    /// # Errors
    /// Why it is not spoken to. What both nodes could change comes before what the peer alone can.
    pub fn judge(
        &self,
        hello: &Hello,
        incarnation_of: impl FnOnce(u64) -> Option<u64>,
    ) -> Result<u16, Refusal> {
        if *hello.cluster != *self.cluster {
            return Err(Refusal::WrongCluster);
        }
        let common = PROTOCOL.common(hello.protocol);
        let version = common.ok_or(Refusal::IncompatibleVersion)?.max;
        if hello.node.uid != self.certified_uid {
            return Err(Refusal::WrongCertificate);
        }
        if hello.node.uid == self.node.uid {
            return Err(Refusal::DuplicateNode);
        }
        if hello.to != self.node {
            return Err(Refusal::WrongNode);
        }
        match incarnation_of(hello.node.uid) {
            Some(known) if hello.node.incarnation < known => return Err(Refusal::OlderIncarnation),
            Some(known) if hello.node.incarnation == known => {}
            Some(_) | None => return Err(Refusal::UnknownMember),
        }
        if hello.link >= self.links {
            return Err(Refusal::WrongLink);
        }
        Ok(version)
    }
}

impl Hello {
    /// Appends the frame.
    ///
    /// # Panics
    /// When the name of the cluster is longer than [`CLUSTER_NAME_BYTES_MAX`], which the configuration does not allow.
    pub fn write(&self, out: &mut Vec<u8>) {
        let name = self.cluster.as_bytes();
        assert!(
            name.len() <= CLUSTER_NAME_BYTES_MAX,
            "a cluster's name of {} bytes",
            name.len()
        );
        let mut body = Vec::with_capacity(FIXED_BYTES + name.len());
        body.extend_from_slice(&MAGIC);
        body.extend_from_slice(&self.protocol.min.to_le_bytes());
        body.extend_from_slice(&self.protocol.max.to_le_bytes());
        for number in [
            self.node.uid,
            self.node.incarnation,
            self.to.uid,
            self.to.incarnation,
            self.epoch,
            self.view_hash,
            self.received,
        ] {
            body.extend_from_slice(&number.to_le_bytes());
        }
        body.extend_from_slice(&self.link.to_le_bytes());
        body.extend_from_slice(&self.links.to_le_bytes());
        body.extend_from_slice(&self.credit_bytes.to_le_bytes());
        body.extend_from_slice(&[0; 6]);
        body.extend_from_slice(&(name.len() as u16).to_le_bytes());
        debug_assert_eq!(body.len(), FIXED_BYTES);
        body.extend_from_slice(name);
        Header::control(Kind::Hello, PROTOCOL.min).write(&body, out);
    }

    /// Reads the body of such a frame. Bytes behind it are a newer version's.
    ///
    /// # Errors
    /// [`Refusal::Malformed`].
    pub fn decode(body: &[u8]) -> Result<Self, Refusal> {
        let mut body = Body(body);
        if body.take()? != MAGIC {
            return Err(Refusal::Malformed);
        }
        let (min, max) = (body.u16()?, body.u16()?);
        let (node, to) = (body.node()?, body.node()?);
        let (epoch, view_hash, received) = (body.u64()?, body.u64()?, body.u64()?);
        let (link, links) = (body.u16()?, body.u16()?);
        let credit_bytes = u32::from_le_bytes(body.take()?);
        let _reserved: [u8; 6] = body.take()?;
        let name_bytes = usize::from(body.u16()?);
        let name = body.0.get(..name_bytes).ok_or(Refusal::Malformed)?;
        if name_bytes > CLUSTER_NAME_BYTES_MAX {
            return Err(Refusal::Malformed);
        }
        let cluster = str::from_utf8(name).map_err(|_| Refusal::Malformed)?;
        Ok(Self {
            cluster: cluster.into(),
            node,
            to,
            protocol: ProtocolRange { min, max },
            epoch,
            view_hash,
            link,
            links,
            received,
            credit_bytes,
        })
    }
}

/// What is not read yet of a body.
struct Body<'a>(&'a [u8]);

impl Body<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], Refusal> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(Refusal::Malformed)?;
        self.0 = rest;
        Ok(*taken)
    }

    fn u16(&mut self) -> Result<u16, Refusal> {
        self.take().map(u16::from_le_bytes)
    }

    fn node(&mut self) -> Result<NodeId, Refusal> {
        let (uid, incarnation) = (self.u64()?, self.u64()?);
        Ok(NodeId { uid, incarnation })
    }

    fn u64(&mut self) -> Result<u64, Refusal> {
        self.take().map(u64::from_le_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::Decoder;

    const JUDGE: Judge<'_> = Judge {
        cluster: "roadstead",
        node: NodeId {
            uid: 1,
            incarnation: 100,
        },
        certified_uid: 2,
        links: 2,
    };

    fn hello() -> Hello {
        Hello {
            cluster: "roadstead".into(),
            node: NodeId {
                uid: 2,
                incarnation: 200,
            },
            to: JUDGE.node,
            protocol: PROTOCOL,
            epoch: 7,
            view_hash: 0xABCD,
            link: 1,
            links: 2,
            received: 42,
            credit_bytes: 4 << 20,
        }
    }

    fn body(hello: &Hello) -> Vec<u8> {
        let mut bytes = Vec::new();
        hello.write(&mut bytes);
        let mut decoder = Decoder::new(PROTOCOL.max);
        let frame = decoder
            .decode(&mut &bytes[..])
            .expect("it is well formed")
            .expect("it is whole");
        assert_eq!(frame.header.kind, Kind::Hello);
        frame.body.to_vec()
    }

    fn judged(change: impl FnOnce(&mut Hello)) -> Result<u16, Refusal> {
        let mut changed = hello();
        change(&mut changed);
        JUDGE.judge(&changed, |uid| (uid == 2).then_some(200))
    }

    #[test]
    fn a_hello_comes_back_equal_and_one_with_more_behind_too() {
        let mut body = body(&hello());
        assert_eq!(Hello::decode(&body), Ok(hello()));
        body.extend(b"what version 9 has to say");
        assert_eq!(Hello::decode(&body), Ok(hello()));
    }

    #[test]
    fn a_hello_that_is_cut_or_is_none_is_malformed() {
        let body = body(&hello());
        for cut in 0..body.len() {
            assert_eq!(Hello::decode(&body[..cut]), Err(Refusal::Malformed));
        }
        let mut other = body.clone();
        other[0] = b'X';
        assert_eq!(Hello::decode(&other), Err(Refusal::Malformed));
        let mut other = body;
        *other.last_mut().expect("it has a name") = 0xFF;
        assert_eq!(Hello::decode(&other), Err(Refusal::Malformed));
    }

    #[test]
    fn a_member_is_heard_in_the_newest_version_of_both() {
        assert_eq!(judged(|_| {}), Ok(PROTOCOL.max));
        assert_eq!(judged(|hello| hello.protocol.max = 900), Ok(PROTOCOL.max));
        assert_eq!(judged(|hello| hello.protocol.min = 0), Ok(PROTOCOL.max));
    }

    #[test]
    fn every_reason_to_refuse_has_its_name() {
        type Change = fn(&mut Hello);
        let cases: [(Change, Refusal); 10] = [
            (
                |hello| hello.cluster = "other".into(),
                Refusal::WrongCluster,
            ),
            (
                |hello| hello.protocol.min = 900,
                Refusal::IncompatibleVersion,
            ),
            (|hello| hello.protocol.max = 0, Refusal::IncompatibleVersion),
            (|hello| hello.node.uid = 3, Refusal::WrongCertificate),
            (
                |hello| hello.node.incarnation = 199,
                Refusal::OlderIncarnation,
            ),
            (|hello| hello.node.incarnation = 201, Refusal::UnknownMember),
            (|hello| hello.to.uid = 9, Refusal::WrongNode),
            (|hello| hello.to.incarnation = 99, Refusal::WrongNode),
            (|hello| hello.link = 2, Refusal::WrongLink),
            (|hello| hello.link = u16::MAX, Refusal::WrongLink),
        ];
        for (change, refusal) in cases {
            assert_eq!(judged(change), Err(refusal));
        }
        let judge = Judge {
            certified_uid: 1,
            ..JUDGE
        };
        let mut twin = hello();
        twin.node.uid = 1;
        assert_eq!(
            judge.judge(&twin, |_| Some(200)),
            Err(Refusal::DuplicateNode)
        );
        assert_eq!(JUDGE.judge(&hello(), |_| None), Err(Refusal::UnknownMember));
    }

    #[test]
    fn a_refusal_arrives_and_an_unknown_one_is_another() {
        for refusal in Refusal::ALL {
            let mut bytes = Vec::new();
            refusal.write(&mut bytes);
            let mut decoder = Decoder::new(PROTOCOL.max);
            let frame = decoder
                .decode(&mut &bytes[..])
                .expect("it is well formed")
                .expect("it is whole");
            assert_eq!(frame.header.kind, Kind::Refused);
            assert_eq!(Refusal::decode(frame.body), refusal);
        }
        assert_eq!(Refusal::decode(&[0xFF, 0xFF]), Refusal::Other);
        assert_eq!(Refusal::decode(&[]), Refusal::Other);
        for (place, refusal) in Refusal::ALL.into_iter().enumerate() {
            let same = Refusal::ALL
                .iter()
                .filter(|one| one.name() == refusal.name());
            assert_eq!(same.count(), 1);
            assert_eq!(
                Refusal::ALL.iter().position(|one| *one == refusal),
                Some(place)
            );
        }
    }
}
