//! Two chunked tables: [`Slab`] chooses the slot of a value, [`Table`] is told it.
//!
//! Both keep values in chunks of [`CHUNK_SLOTS`] slots that are allocated when first needed and returned to the system
//! when empty (one empty chunk is kept, so that a value coming and going at a border does not allocate each time). A value
//! never moves. The lowest free slot is used first, so that a table that shrank is dense again.
//!
//! Cost per slot beside the value: 4 bytes of generation and one bit in a [`Slab`], nothing in a [`Table`]; and the tag of
//! `Option<T>`, which is free when `T` has a niche (a `Box`, a `NonZero`, an enum).

/// Slots of one chunk.
pub const CHUNK_SLOTS: usize = 256;

const WORDS: usize = CHUNK_SLOTS / 64;

/// Names a value in a [`Slab`]: a stale key finds nothing, also after its slot was used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Index, dense from 0.
    pub slot: u32,
    /// Counts the uses of the slot.
    pub generation: u32,
}

#[derive(Debug)]
struct Chunk<T> {
    /// Bit set exactly when the slot is free.
    free: [u64; WORDS],
    live: u16,
    generations: [u32; CHUNK_SLOTS],
    values: Box<[Option<T>]>,
}

impl<T> Chunk<T> {
    fn new(generation: u32) -> Box<Self> {
        Box::new(Self {
            free: [u64::MAX; WORDS],
            live: 0,
            generations: [generation; CHUNK_SLOTS],
            values: empty_values(),
        })
    }

    fn first_free(&self) -> Option<usize> {
        let word = self.free.iter().position(|bits| *bits != 0)?;
        Some(word * 64 + self.free[word].trailing_zeros() as usize)
    }

    fn is_full(&self) -> bool {
        usize::from(self.live) == CHUNK_SLOTS
    }
}

#[derive(Debug)]
struct Place<T> {
    chunk: Option<Box<Chunk<T>>>,
    /// The generation a new chunk starts with: above all that its slots had before it was returned.
    generation_next: u32,
}

/// A table that chooses the slot and counts its uses.
#[derive(Debug)]
pub struct Slab<T> {
    places: Vec<Place<T>>,
    /// No place below this one has a free slot.
    open_hint: usize,
    /// A chunk that was empty when last looked at, and is kept.
    spare: Option<usize>,
    len: usize,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Slab<T> {
    /// An empty slab; allocates nothing.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            places: Vec::new(),
            open_hint: 0,
            spare: None,
            len: 0,
        }
    }

    /// Number of values.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no value.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Chunks that hold memory now.
    #[must_use]
    pub fn chunks(&self) -> usize {
        self.places
            .iter()
            .filter(|place| place.chunk.is_some())
            .count()
    }

    /// Puts a value into the lowest free slot.
    ///
    /// # Panics
    /// When 2³² slots are in use.
    pub fn insert(&mut self, value: T) -> Key {
        let index = self.open_place();
        let place = &mut self.places[index];
        let generation = place.generation_next;
        let chunk = place.chunk.get_or_insert_with(|| Chunk::new(generation));
        let within = chunk.first_free().expect("an open place has a free slot");
        chunk.free[within / 64] &= !(1 << (within % 64));
        chunk.live += 1;
        chunk.values[within] = Some(value);
        self.len += 1;
        let slot = u32::try_from(index * CHUNK_SLOTS + within).expect("slots fit in 32 bits");
        Key {
            slot,
            generation: chunk.generations[within],
        }
    }

    /// Takes a value out. `None` for a stale key.
    pub fn remove(&mut self, key: Key) -> Option<T> {
        let (index, within) = split(key.slot);
        let chunk = self.places.get_mut(index)?.chunk.as_mut()?;
        if chunk.generations[within] != key.generation {
            return None;
        }
        let value = chunk.values[within].take()?;
        chunk.generations[within] = key.generation.wrapping_add(1);
        chunk.free[within / 64] |= 1 << (within % 64);
        chunk.live -= 1;
        let empty = chunk.live == 0;
        self.len -= 1;
        self.open_hint = self.open_hint.min(index);
        if empty {
            self.became_empty(index);
        }
        Some(value)
    }

    /// The value of a key. `None` for a stale key.
    #[must_use]
    pub fn get(&self, key: Key) -> Option<&T> {
        let (index, within) = split(key.slot);
        let chunk = self.places.get(index)?.chunk.as_ref()?;
        if chunk.generations[within] == key.generation {
            chunk.values[within].as_ref()
        } else {
            None
        }
    }

    /// The value of a key, to be changed. `None` for a stale key.
    pub fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        let (index, within) = split(key.slot);
        let chunk = self.places.get_mut(index)?.chunk.as_mut()?;
        if chunk.generations[within] == key.generation {
            chunk.values[within].as_mut()
        } else {
            None
        }
    }

    /// The key of the value that is in a slot now.
    #[must_use]
    pub fn key_at(&self, slot: u32) -> Option<Key> {
        let (index, within) = split(slot);
        let chunk = self.places.get(index)?.chunk.as_ref()?;
        chunk.values[within].as_ref()?;
        Some(Key {
            slot,
            generation: chunk.generations[within],
        })
    }

    /// All values, by slot.
    pub fn iter(&self) -> impl Iterator<Item = (Key, &T)> {
        self.places
            .iter()
            .enumerate()
            .filter_map(|(index, place)| Some((index, place.chunk.as_ref()?)))
            .flat_map(|(index, chunk)| {
                chunk
                    .values
                    .iter()
                    .enumerate()
                    .filter_map(move |(within, value)| {
                        let slot = (index * CHUNK_SLOTS + within) as u32;
                        Some((
                            Key {
                                slot,
                                generation: chunk.generations[within],
                            },
                            value.as_ref()?,
                        ))
                    })
            })
    }

    fn open_place(&mut self) -> usize {
        while let Some(place) = self.places.get(self.open_hint) {
            if place.chunk.as_ref().is_none_or(|chunk| !chunk.is_full()) {
                return self.open_hint;
            }
            self.open_hint += 1;
        }
        self.places.push(Place {
            chunk: None,
            generation_next: 0,
        });
        self.open_hint
    }

    /// Keeps the lower of the empty chunks and returns the other to the system.
    fn became_empty(&mut self, index: usize) {
        let other = self.spare.filter(|spare| {
            *spare != index
                && self.places[*spare]
                    .chunk
                    .as_ref()
                    .is_some_and(|chunk| chunk.live == 0)
        });
        let Some(other) = other else {
            self.spare = Some(index);
            return;
        };
        self.spare = Some(other.min(index));
        let place = &mut self.places[other.max(index)];
        if let Some(chunk) = place.chunk.take() {
            let highest = chunk.generations.iter().max().copied().unwrap_or(0);
            place.generation_next = highest.wrapping_add(1);
        }
    }
}

/// A table beside another one: state kept under a slot that somebody else has chosen (a [`Slab`], a driver).
#[derive(Debug)]
pub struct Table<T> {
    places: Vec<Option<Box<TableChunk<T>>>>,
    spare: Option<usize>,
    len: usize,
}

#[derive(Debug)]
struct TableChunk<T> {
    live: u16,
    values: Box<[Option<T>]>,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Table<T> {
    /// An empty table; allocates nothing.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            places: Vec::new(),
            spare: None,
            len: 0,
        }
    }

    /// Number of values.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no value.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Chunks that hold memory now.
    #[must_use]
    pub fn chunks(&self) -> usize {
        self.places.iter().flatten().count()
    }

    /// Puts a value under a slot and returns the one that was there.
    pub fn insert(&mut self, slot: u32, value: T) -> Option<T> {
        let (index, within) = split(slot);
        if index >= self.places.len() {
            self.places.resize_with(index + 1, || None);
        }
        let chunk = self.places[index].get_or_insert_with(|| {
            Box::new(TableChunk {
                live: 0,
                values: empty_values(),
            })
        });
        let before = chunk.values[within].replace(value);
        if before.is_none() {
            chunk.live += 1;
            self.len += 1;
        }
        before
    }

    /// Takes the value of a slot out.
    pub fn remove(&mut self, slot: u32) -> Option<T> {
        let (index, within) = split(slot);
        let chunk = self.places.get_mut(index)?.as_mut()?;
        let value = chunk.values[within].take()?;
        chunk.live -= 1;
        let empty = chunk.live == 0;
        self.len -= 1;
        if empty {
            self.became_empty(index);
        }
        Some(value)
    }

    /// The value of a slot.
    #[must_use]
    pub fn get(&self, slot: u32) -> Option<&T> {
        let (index, within) = split(slot);
        self.places.get(index)?.as_ref()?.values[within].as_ref()
    }

    /// The value of a slot, to be changed.
    pub fn get_mut(&mut self, slot: u32) -> Option<&mut T> {
        let (index, within) = split(slot);
        self.places.get_mut(index)?.as_mut()?.values[within].as_mut()
    }

    /// All values, by slot.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        self.places
            .iter()
            .enumerate()
            .filter_map(|(index, place)| Some((index, place.as_ref()?)))
            .flat_map(|(index, chunk)| {
                let values = chunk.values.iter().enumerate();
                values.filter_map(move |(within, value)| {
                    Some(((index * CHUNK_SLOTS + within) as u32, value.as_ref()?))
                })
            })
    }

    /// All values, by slot, to be changed.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (u32, &mut T)> {
        self.places
            .iter_mut()
            .enumerate()
            .filter_map(|(index, place)| Some((index, place.as_mut()?)))
            .flat_map(|(index, chunk)| {
                let values = chunk.values.iter_mut().enumerate();
                values.filter_map(move |(within, value)| {
                    Some(((index * CHUNK_SLOTS + within) as u32, value.as_mut()?))
                })
            })
    }

    fn became_empty(&mut self, index: usize) {
        let other = self.spare.filter(|spare| {
            *spare != index
                && self.places[*spare]
                    .as_ref()
                    .is_some_and(|chunk| chunk.live == 0)
        });
        self.spare = Some(other.map_or(index, |other| other.min(index)));
        if let Some(other) = other {
            self.places[other.max(index)] = None;
        }
    }
}

const fn split(slot: u32) -> (usize, usize) {
    (slot as usize / CHUNK_SLOTS, slot as usize % CHUNK_SLOTS)
}

fn empty_values<T>() -> Box<[Option<T>]> {
    (0..CHUNK_SLOTS).map(|_| None).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_stale_key_finds_nothing_after_its_slot_was_used_again() {
        let mut slab = Slab::new();
        let first = slab.insert("a");
        assert_eq!(slab.remove(first), Some("a"));
        let second = slab.insert("b");
        assert_eq!(first.slot, second.slot);
        assert_eq!(slab.get(first), None);
        assert_eq!(slab.remove(first), None);
        assert_eq!(slab.get(second), Some(&"b"));
        assert_eq!(slab.key_at(second.slot), Some(second));
    }

    #[test]
    fn empty_chunks_are_returned_and_generations_survive_it() {
        let mut slab = Slab::new();
        let keys: Vec<Key> = (0..CHUNK_SLOTS * 4)
            .map(|value| slab.insert(value))
            .collect();
        assert_eq!(slab.chunks(), 4);
        for key in &keys {
            assert!(slab.remove(*key).is_some());
        }
        assert_eq!(slab.chunks(), 1);
        let again: Vec<Key> = (0..CHUNK_SLOTS * 4)
            .map(|value| slab.insert(value))
            .collect();
        assert!(keys.iter().all(|key| slab.get(*key).is_none()));
        assert!(again.iter().all(|key| slab.get(*key).is_some()));
    }

    #[test]
    fn values_do_not_move() {
        let mut slab = Slab::new();
        let key = slab.insert(1u64);
        let address = std::ptr::from_ref(slab.get(key).expect("just inserted"));
        for value in 0..10_000 {
            slab.insert(value);
        }
        assert_eq!(
            address,
            std::ptr::from_ref(slab.get(key).expect("still there"))
        );
    }

    #[test]
    fn a_table_returns_empty_chunks() {
        let mut table = Table::new();
        for slot in 0..CHUNK_SLOTS as u32 * 3 {
            assert_eq!(table.insert(slot, slot), None);
        }
        assert_eq!(table.insert(5, 50), Some(5));
        assert_eq!(table.len(), CHUNK_SLOTS * 3);
        for slot in 0..CHUNK_SLOTS as u32 * 3 {
            assert!(table.remove(slot).is_some());
        }
        assert_eq!((table.len(), table.chunks()), (0, 1));
    }

    proptest! {
        #[test]
        fn slab_behaves_like_a_map(steps in proptest::collection::vec((any::<bool>(), any::<prop::sample::Index>()), 1..2000)) {
            let mut slab = Slab::new();
            let mut model = BTreeMap::new();
            let mut keys = Vec::new();
            for (number, (insert, index)) in steps.into_iter().enumerate() {
                if insert || keys.is_empty() {
                    let key = slab.insert(number);
                    prop_assert!(model.insert((key.slot, key.generation), number).is_none());
                    keys.push(key);
                } else {
                    let key = keys[index.index(keys.len())];
                    prop_assert_eq!(slab.remove(key), model.remove(&(key.slot, key.generation)));
                }
                prop_assert_eq!(slab.len(), model.len());
            }
            let held: BTreeMap<_, _> = slab.iter().map(|(key, value)| ((key.slot, key.generation), *value)).collect();
            prop_assert_eq!(held, model);
        }
    }
}
