//! Partitions: CRC16(root) mod 16,384, the Redis Cluster slot of `{root}`, and their owners by rendezvous hashing.

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

/// The owner core of every partition on a node with a given number of cores.
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
            .map(|partition| {
                (0..cores)
                    .max_by_key(|&core| mix(partition, core))
                    .expect("there is a core")
            })
            .collect();
        Self { owners, cores }
    }

    /// Number of cores.
    pub fn cores(&self) -> u16 {
        self.cores
    }

    /// The core that owns a partition.
    ///
    /// # Panics
    /// When there is no such partition: they are below [`PARTITIONS`].
    pub fn owner(&self, partition: u16) -> &u16 {
        &self.owners[usize::from(partition)]
    }

    /// The core that owns this root.
    pub fn core_of_root(&self, root: &str) -> u16 {
        self.owners[usize::from(partition_of(root))]
    }
}

/// A 64-bit mix of partition and core (the finaliser of SplitMix64).
fn mix(partition: u16, core: u16) -> u64 {
    let mut value =
        (u64::from(partition) << 16 | u64::from(core)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
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
}
