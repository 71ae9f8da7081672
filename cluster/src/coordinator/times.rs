//! How long the coordinator waits for what, in milliseconds, and why that long.

/// How often the coordinator wants a tick. Nothing is later than it should be by more than this.
pub const TICK_MS: u64 = 100;

/// A member must be dead for so long before it is taken out: those that go together, go in one view.
pub const DEATH_SETTLES_MS: u64 = 300;

/// A newcomer must be there for so long before it is taken in: nodes that start together join in one view, and owners move once.
pub const JOIN_SETTLES_MS: u64 = 2_000;

/// The next in rank proposes when the one before has been silent for so long: twice what a slow store takes to answer.
pub const LEADER_SILENCE_MS: u64 = 2_000;

/// Who sees no majority waits for this part by part of what is lost, so that a majority, which does not wait, comes first.
pub const MINORITY_WAITS_MS: u64 = 5_000;

/// A minority takes over only when nobody of the stored view has refreshed it for so long: four beats of its leader.
pub const BEAT_STALE_MS: u64 = 4_000;

/// A node that hears neither from the majority nor from the store for so long owns nothing any more: about when the others,
/// who need up to as long to see it dead, give its partitions away. What is durable does not depend on it: the engine's own
/// fence decides there.
pub const FENCE_AFTER_MS: u64 = 3_000;

/// A fenced node keeps its clients for so long: most cuts are shorter, and a client that moves costs more than one that waits.
pub const ELSEWHERE_AFTER_MS: u64 = 10_000;

/// What is not answered by then counts as failed.
pub const ANSWER_WITHIN_MS: u64 = 1_000;

/// Between two reads of the store by who needs one: the leader, who refreshes the view, and whoever may be outside without
/// knowing it. A third of [`FENCE_AFTER_MS`], so that one lost answer fences nobody.
pub const READ_EVERY_MS: u64 = 1_000;

/// Between two reads by all others, as a check on what they were told.
pub const READ_SELDOM_MS: u64 = 10_000;

/// Between two reads for the sake of a proposal.
pub const RETRY_MS: u64 = 400;

/// A newcomer must have answered over the bus within so long: who cannot be reached would own partitions that nobody reaches.
pub const CONTACT_FRESH_MS: u64 = 2_000;

/// Who is to count for a quorum must have answered over the bus within so long: two heartbeats and the way. Shorter than gossip
/// takes to see the first death after a cut, so that no side counts those of the other.
pub const QUORUM_FRESH_MS: u64 = 1_200;

/// News of a later view that nobody repeats and nobody can give is forgotten after so long.
pub const BEHIND_FORGOTTEN_MS: u64 = 5_000;

/// A member that gossip calls alive and that the leader does not reach over the bus for so long is taken out: ten beats of
/// the heart of a link and a slow reconnection are shorter.
pub const UNREACHABLE_AFTER_MS: u64 = 10_000;

/// Another node with this node's uid must be there for so long before this one gives up: an earlier run of it, at another
/// address, is known to be dead by then.
pub const RIVAL_AFTER_MS: u64 = 10_000;

/// A node that wanted to leave and was not taken out goes after so long: the others will see it dead.
pub const LEAVE_PATIENCE_MS: u64 = 10_000;

/// Nodes that are dead and no members are forgotten after so long.
pub const FORGET_AFTER_MS: u64 = 60_000;
