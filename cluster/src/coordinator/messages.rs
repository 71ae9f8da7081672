//! What a coordinator is told and what it says.

use std::sync::Arc;

use super::standing::FenceReason;
use crate::view::{Joining, NodeId, Version, View, ViewError};

/// Something that happened.
#[derive(Clone, Debug)]
pub enum Input {
    /// Time went on; expected every [`super::times::TICK_MS`].
    Tick,
    /// Gossip has it that this node is alive.
    Alive(Joining),
    /// Gossip has it that this node is dead or has left.
    Dead(NodeId),
    /// Gossip has given this node another incarnation: it was taken for dead.
    Renewed(NodeId),
    /// A node spoke over the bus, and said which view it has. Each greeting and each heartbeat says it, and so does each answer.
    Heard {
        /// Who spoke.
        from: NodeId,
        /// Its view, if it has one.
        version: Option<Version>,
        /// When this node sent what is answered, by its own clock; none when it is no answer. An answer that lay in a
        /// buffer proves nothing of later times.
        answers_ms: Option<u64>,
    },
    /// The store answered [`Action::ReadStore`]; none when it failed or was too slow.
    Read {
        /// The number of the request.
        request: u64,
        /// What is stored.
        stored: Option<Stored>,
    },
    /// The store answered [`Action::CompareAndSet`].
    Written {
        /// The number of the request.
        request: u64,
        /// What became of it.
        outcome: Written,
    },
    /// A node answered [`Action::Pull`]; none when it has no view or could not be reached.
    Pulled {
        /// Who was asked.
        from: NodeId,
        /// Its view.
        view: Option<View>,
    },
    /// An operator wants this node to leave. Once its role is `Leaving` it owns nothing, and its clients can be moved.
    Leave,
    /// This node has nothing left to do as a member, or has waited for it long enough.
    Drained,
    /// An operator wants a member to have another share.
    Weight {
        /// The member.
        uid: u64,
        /// Its weight, at least 1.
        weight: u32,
    },
}

/// What the store has.
#[derive(Clone, Debug)]
pub struct Stored {
    /// The view.
    pub content: Content,
    /// How often it was refreshed.
    pub beat: u64,
}

/// A stored view, in answer to a question that named a known one.
#[derive(Clone, Debug)]
pub enum Content {
    /// No view at all.
    Nothing,
    /// The one that is known.
    Known,
    /// Another one.
    View(Arc<View>),
}

/// What became of a compare-and-set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// The view is stored.
    Done,
    /// Something else was stored than expected; nothing has changed.
    Changed,
    /// It is not known whether the view is stored.
    Unknown,
}

/// Something to do.
#[derive(Clone, Debug)]
pub enum Action {
    /// Read the stored view; answer with [`Input::Read`].
    ReadStore {
        /// Names the answer.
        request: u64,
        /// If this is what is stored, it need not be sent.
        known: Option<Version>,
        /// Refresh it as well, in the same step, if `known` is what is stored.
        beat: bool,
    },
    /// Store a view if what is stored is what is expected, in one step; answer with [`Input::Written`].
    CompareAndSet {
        /// Names the answer.
        request: u64,
        /// What must be stored; none: nothing.
        expected: Option<Version>,
        /// What to store.
        view: Arc<View>,
        /// Its number and hash.
        version: Version,
    },
    /// This view holds from now on. Its epoch is higher than that of any before.
    Install(Arc<View>),
    /// Tell these nodes over the bus which view there is.
    Tell {
        /// Who is to know.
        to: Vec<NodeId>,
        /// The view.
        version: Version,
    },
    /// Ask a node for its view; answer with [`Input::Pulled`].
    Pull {
        /// Whom to ask.
        from: NodeId,
    },
    /// Own nothing and acknowledge nothing.
    Fence(FenceReason),
    /// What the installed view says holds again.
    Unfence,
    /// The fence has lasted: send clients to other nodes and take no more.
    SendClientsElsewhere,
    /// This node is another incarnation from now on: in gossip and in greetings.
    Rejoin(NodeId),
    /// A node cannot be a member, for the operator's eyes. Said once for each incarnation and reason.
    Refused {
        /// Who.
        node: NodeId,
        /// Why.
        reason: Refusal,
    },
    /// Another living node has this node's uid and was there first: stop, and let the operator give it another one.
    DuplicateUid(NodeId),
    /// The store holds the view of another cluster: nothing is proposed. One store serves one cluster.
    ForeignStore(Box<str>),
    /// This node is no member any more and may stop.
    Left,
}

/// Why a living node is not taken into the view.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It breaks a rule of views, or there is no room.
    #[error(transparent)]
    View(#[from] ViewError),
    /// A living node has this uid.
    #[error("another node has this uid: give each node a uid of its own")]
    DuplicateUid,
    /// There are more nodes than a coordinator knows.
    #[error("too many nodes are known")]
    TooManyNodes,
    /// It is seen by gossip and not over its control link.
    #[error(
        "it is alive by gossip but does not answer over TCP: open its gossip port to the other nodes for TCP too"
    )]
    NoBus,
}
