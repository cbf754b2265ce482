//! A map in 256 parts, so that nothing that happens to it takes long.
//!
//! One map of millions of entries stands still when it grows, and again when what has expired is looked for. A part
//! stands still for a 256th of that.

use std::hash::Hash;

use hashbrown::HashMap;

use crate::{Hash128, Timestamp};

const SHARDS: usize = 256;
/// Log time between the turns of two shards: every shard has one turn a day.
const TURN_MS: i64 = 86_400_000 / 256;

/// Maps by the first byte of the key.
///
/// The maps keep their seeded hasher although the keys are hashes: most are plain BLAKE3 of ids that a sender chooses,
/// and ids that meet in one bucket of a map of 2^k are found with 2^k tries each. The seed makes that useless, for the
/// price of one multiplication. Choosing the shard is no attack: a crowded one is a map like any other.
#[derive(Debug, Clone)]
pub(crate) struct Shards<K, V>(Box<[HashMap<K, V>; SHARDS]>);

impl<K, V> Default for Shards<K, V> {
    fn default() -> Self {
        Self(Box::new(std::array::from_fn(|_| HashMap::default())))
    }
}

impl<K: Eq + Hash, V> Shards<K, V> {
    /// The map of a key.
    #[expect(clippy::indexing_slicing, reason = "there is a shard for every byte")]
    pub(crate) fn of(&self, key: Hash128) -> &HashMap<K, V> {
        &self.0[usize::from(shard(key))]
    }

    /// The map of a key, to be changed.
    pub(crate) fn of_mut(&mut self, key: Hash128) -> &mut HashMap<K, V> {
        self.at_mut(shard(key))
    }

    #[expect(clippy::indexing_slicing, reason = "there is a shard for every byte")]
    fn at_mut(&mut self, shard: u8) -> &mut HashMap<K, V> {
        &mut self.0[usize::from(shard)]
    }

    /// Every entry, with its shard.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u8, &K, &V)> {
        (0..=u8::MAX)
            .zip(self.0.iter())
            .flat_map(|(shard, map)| map.iter().map(move |(key, value)| (shard, key, value)))
    }

    /// Entries held.
    pub(crate) fn len(&self) -> usize {
        self.0.iter().map(HashMap::len).sum()
    }

    /// Bytes held, but for what values hold elsewhere.
    pub(crate) fn bytes(&self) -> usize {
        size_of::<[HashMap<K, V>; SHARDS]>() + self.0.iter().map(HashMap::allocation_size).sum::<usize>()
    }

    /// Drops what is not to be kept from one shard, and the room that a peak left behind.
    pub(crate) fn sweep(&mut self, shard: u8, mut keep: impl FnMut(&V) -> bool) {
        let map = self.at_mut(shard);
        map.retain(|_, value| keep(value));
        if map.len() < map.capacity() / 4 {
            map.shrink_to(map.len() * 2);
        }
    }
}

impl<K: Eq + Hash, V: PartialEq> Shards<K, V> {
    /// Whether both hold the same, of what counts.
    pub(crate) fn same(&self, other: &Self, counts: impl Fn(&V) -> bool) -> bool {
        let counted = |map: &HashMap<K, V>| map.values().filter(|value| counts(value)).count();
        self.0.iter().zip(other.0.iter()).all(|(one, two)| {
            counted(one) == counted(two) && one.iter().all(|(key, value)| !counts(value) || two.get(key) == Some(value))
        })
    }
}

fn shard(key: Hash128) -> u8 {
    let [first, ..] = key.to_bytes();
    first
}

/// The shards whose turn to be swept came after `before`, until `after`: each once at most, and all of them once a day.
pub(crate) fn turns(before: Timestamp, after: Timestamp) -> impl Iterator<Item = u8> {
    let turn = |time: Timestamp| time.as_ms().div_euclid(TURN_MS);
    let (before, after) = (turn(before), turn(after));
    let first = (before + 1).max(after - i64::from(u8::MAX));
    (first..=after).map(|turn| {
        let [shard, ..] = turn.to_le_bytes();
        shard
    })
}
