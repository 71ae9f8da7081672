//! Partitions: CRC16(root) mod 16,384, the Redis Cluster slot of `{root}`, and their owners by rendezvous hashing.

use crate::view::{Member, Role, View};

/// Number of partitions, equal to the number of Redis Cluster slots.
pub const PARTITIONS: u16 = 16_384;

/// The partition of a root: CRC16 (XMODEM, polynomial 0x1021, as in the Redis Cluster specification) modulo
/// [`PARTITIONS`].
pub fn partition_of(root: &str) -> u16 {
    crc16(root.as_bytes()) % PARTITIONS
}

/// CRC16 with polynomial 0x1021, initial value 0, no reflection.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0u16, |crc, &byte| {
        (crc << 8) ^ CRC16_TABLE[usize::from((crc >> 8) as u8 ^ byte)]
    })
}

const CRC16_TABLE: [u16; 256] = {
    let mut table = [0u16; 256];
    let mut index = 0;
    while index < 256 {
        let mut crc = (index as u16) << 8;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x8000 != 0 {
                (crc << 1) ^ 0x1021
            } else {
                crc << 1
            };
            bit += 1;
        }
        table[index] = crc;
        index += 1;
    }
    table
};

/// The owner core of every partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    owners: Box<[u16]>,
    cores: u16,
}

impl Placement {
    /// The placement on one node: the core with the highest hash of (partition, core) owns the partition, so a change of
    /// the number of cores moves only the partitions it must.
    ///
    /// # Panics
    /// When `cores` is 0.
    pub fn single_node(cores: u16) -> Self {
        assert!(cores > 0, "a node has at least one core");
        let owners = (0..PARTITIONS)
            .map(|partition| core_within(partition, cores))
            .collect();
        Self { owners, cores }
    }

    /// The placement in a view: weighted rendezvous over the active members by uid and weight, then rendezvous over the
    /// member's cores. So a member that comes, goes or changes its weight moves only the partitions that it gains or loses. A
    /// view whose only member has the core numbers from 0 on gives what [`Placement::single_node`] gives. Members that
    /// leave own nothing, unless all leave: then somebody has to.
    ///
    /// # Panics
    /// When the view has no member, which no function of [`View`] makes.
    pub fn of(view: &View) -> Self {
        let all_leave = view
            .members
            .iter()
            .all(|member| member.role == Role::Leaving);
        let members: Vec<(u64, &Member)> = view
            .members
            .iter()
            .filter(|member| all_leave || member.role == Role::Active)
            .map(|member| (finalise(member.node.uid.wrapping_add(GOLDEN)), member))
            .collect();
        let owners = (0..PARTITIONS)
            .map(|partition| {
                let member = rendezvous(partition, &members);
                member.first_core + core_within(partition, member.cores)
            })
            .collect();
        let cores = view.members.iter().map(|member| member.cores).sum();
        Self { owners, cores }
    }

    /// Number of cores of all members.
    pub fn cores(&self) -> u16 {
        self.cores
    }

    /// The core that owns this partition.
    ///
    /// # Panics
    /// When there is no such partition.
    pub fn core_of(&self, partition: u16) -> u16 {
        *self.owner(partition)
    }

    /// The same, in its place: a list of one owner needs no memory.
    ///
    /// # Panics
    /// When there is no such partition.
    pub fn owner(&self, partition: u16) -> &u16 {
        &self.owners[usize::from(partition)]
    }

    /// The core that owns this root.
    pub fn core_of_root(&self, root: &str) -> u16 {
        self.core_of(partition_of(root))
    }

    /// The partitions that another core owns in `other`.
    pub fn moved<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = u16> + 'a {
        (0..PARTITIONS).filter(|&partition| self.core_of(partition) != other.core_of(partition))
    }
}

/// The core, counted from 0, that owns a partition on a member with this many.
fn core_within(partition: u16, cores: u16) -> u16 {
    (0..cores)
        .max_by_key(|&core| mix(partition, core))
        .expect("there is a core")
}

/// The member that owns a partition, of members beside a hash of their uid. Each draws a lot from (uid, partition), uniform in
/// 0..1, and the least −ln(lot) ÷ weight wins: an exponential race, which each member wins in proportion to its weight and
/// which nobody else's weight changes (Schindelhauer and Schomaker, "Weighted Distributed Hash Tables", 2005). In integers, so
/// that all platforms agree.
fn rendezvous<'a>(partition: u16, members: &[(u64, &'a Member)]) -> &'a Member {
    let mut best: Option<(u64, u64, &Member)> = None;
    for &(key, member) in members {
        let lot = finalise(key ^ u64::from(partition));
        let time = negative_log2(lot);
        let wins = best.is_none_or(|(best_time, best_lot, champion)| {
            let mine = u128::from(time) * u128::from(champion.weight);
            let theirs = u128::from(best_time) * u128::from(member.weight);
            (mine, best_lot, member.node.uid) < (theirs, lot, champion.node.uid)
        });
        if wins {
            best = Some((time, lot, member));
        }
    }
    best.expect("a view has a member").2
}

/// Bits after the point of [`negative_log2`].
const LOG_BITS: u32 = 40;

/// −log2(lot ÷ 2^64) with [`LOG_BITS`] bits after the point, at least 1: a table of 1,024 steps and straight lines between
/// them, at most 2^-22 off. It never rises as `lot` does.
fn negative_log2(lot: u64) -> u64 {
    let lot = lot.max(1);
    let zeros = lot.leading_zeros();
    let mantissa = lot << zeros;
    let step = (mantissa >> 53) as usize & 0x3FF;
    let within = (mantissa >> 21) & 0xFFFF_FFFF;
    let (low, high) = (LOG2_TABLE[step], LOG2_TABLE[step + 1]);
    let fraction = low + (((high - low) * within) >> 32);
    ((1 + u64::from(zeros)) << LOG_BITS) - fraction
}

/// log2(1 + step ÷ 1024) with [`LOG_BITS`] bits after the point: each squaring brings out one more bit.
const LOG2_TABLE: [u64; 1_025] = {
    let mut table = [1 << LOG_BITS; 1_025];
    let mut step = 0;
    while step < 1_024 {
        let mut value = (1_024 + step as u128) << 52; // 62 bits after the point.
        let mut log = 0;
        let mut bit = 0;
        while bit < LOG_BITS {
            value = (value * value) >> 62;
            log <<= 1;
            if value >= 1 << 63 {
                value >>= 1;
                log |= 1;
            }
            bit += 1;
        }
        table[step] = log;
        step += 1;
    }
    table
};

/// 2^64 divided by the golden ratio, as SplitMix64 steps.
const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

/// A 64-bit mix of partition and core.
fn mix(partition: u16, core: u16) -> u64 {
    finalise((u64::from(partition) << 16 | u64::from(core)).wrapping_mul(GOLDEN))
}

/// The finaliser of SplitMix64.
fn finalise(mut value: u64) -> u64 {
    value = (value ^ (value >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc_is_the_one_of_the_redis_cluster_specification() {
        assert_eq!(crc16(b"123456789"), 0x31C3);
        assert_eq!(partition_of("foo"), 12_182); // CLUSTER KEYSLOT foo
    }

    #[test]
    fn every_core_owns_about_its_share() {
        let placement = Placement::single_node(8);
        for core in 0..8 {
            let owned = placement
                .owners
                .iter()
                .filter(|&&owner| owner == core)
                .count();
            assert!((1_800..2_300).contains(&owned), "core {core} owns {owned}");
        }
    }

    #[test]
    fn one_more_core_moves_only_what_it_takes() {
        let (before, after) = (Placement::single_node(4), Placement::single_node(5));
        for (old, new) in before.owners.iter().zip(after.owners.iter()) {
            assert!(old == new || *new == 4);
        }
    }

    #[test]
    fn owners_on_one_node_never_change() {
        // Data of one node is stored where these owners look for it.
        let hash = |cores| {
            Placement::single_node(cores)
                .owners
                .iter()
                .fold(0, |hash, &core| finalise(hash ^ u64::from(core)))
        };
        assert_eq!(
            [hash(1), hash(2), hash(7)],
            [
                0x0000_0000_0000_0000,
                0x5009_21E4_E7E6_89F7,
                0x4B52_C50D_CAAF_69D9
            ]
        );
    }

    #[test]
    fn the_logarithm_is_one() {
        for lot in [
            1,
            2,
            3,
            1 << 31,
            0x1234_5678_9ABC_DEF0,
            u64::MAX / 3,
            u64::MAX / 2,
        ] {
            let exact = 64.0 - (lot as f64).log2();
            let fixed = negative_log2(lot) as f64 / (1u64 << LOG_BITS) as f64;
            assert!((exact - fixed).abs() < 3e-7, "{lot}: {exact} {fixed}");
        }
        assert_eq!(negative_log2(1 << 63), 1 << LOG_BITS);
        assert!(negative_log2(u64::MAX) >= 1);
    }
}
