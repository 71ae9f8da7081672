//! Every bound of this crate's views and membership, and what happens at it.

/// Most members of a view. One more is refused (`ViewError::TooManyMembers`) and stays outside.
pub const MEMBERS_MAX: usize = 1_024;

/// Most cores of one member. A node with more is refused (`ViewError::Cores`): it can start with fewer.
pub const CORES_PER_MEMBER_MAX: u16 = 1_024;

/// Core numbers of a cluster are below this one, so that it is free to mean "none". When no range is free, a newcomer is
/// refused (`ViewError::NoFreeCores`) and tries again as others leave.
pub const CORE_NUMBERS_END: u16 = u16::MAX;

/// Longest name of a cluster in bytes. A longer one is refused where it is read.
pub const CLUSTER_NAME_BYTES_MAX: usize = 64;

/// Longest server reference of a member in bytes. A longer one is refused where it is read.
pub const REFERENCE_BYTES_MAX: usize = 255;

/// Most nodes that a coordinator knows, members or not. Further newcomers are not heard until others are forgotten.
pub const PEERS_MAX: usize = 2 * MEMBERS_MAX;

/// Longest gossip datagram in bytes: it fits a packet of any network of this century. A longer one is refused.
pub const DATAGRAM_BYTES_MAX: usize = 1_400;

/// Most keys of a key ring: a rotation needs two. More are refused where they are read.
pub const KEYS_MAX: usize = 8;

/// Most sessions of gossip whose counters are kept. With one more, the one that was silent for longest is forgotten, and who goes on
/// with it must have a right clock again.
pub const SESSIONS_MAX: usize = 4 * MEMBERS_MAX;
