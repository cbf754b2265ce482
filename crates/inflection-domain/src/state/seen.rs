//! Event ids already seen: the most numerous keys, so 16 bytes each, the day included.

use std::hash::{Hash, Hasher};

use hashbrown::hash_map::Entry;

use super::PartitionState;
use super::shards::Shards;
use crate::Hash128;

/// Event keys with the day they were seen on, modulo 256.
///
/// A byte is enough for the day because a key is dropped long before it is 256 days old: its shard is swept within a
/// day of log time after it expired, and a jump of log time over all days that count drops everything
/// ([`PartitionState::advance`]). Until it is swept an expired key counts as absent.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen(Shards<Tail, u8>);

/// An event key without its first byte, which is its shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Tail([u8; 15]);

impl Hash for Tail {
    /// Eight of the bytes, which are BLAKE3's: to find two keys that agree in all of them takes 2^32 tries, to find a
    /// crowd of them takes nearly 2^64.
    fn hash<H: Hasher>(&self, state: &mut H) {
        let [.., a, b, c, d, e, f, g, h] = self.0;
        state.write_u64(u64::from_le_bytes([a, b, c, d, e, f, g, h]));
    }
}

impl Tail {
    fn of(event: Hash128) -> Self {
        let [_, tail @ ..] = event.to_bytes();
        Self(tail)
    }

    fn after(self, first: u8) -> Hash128 {
        let mut bytes = [first; 16];
        let [_, tail @ ..] = &mut bytes;
        *tail = self.0;
        Hash128::from_bytes(bytes)
    }
}

impl Seen {
    /// Remembers an event key as seen today; `false` when it was known.
    pub(crate) fn insert(&mut self, event: Hash128, today: u32) -> bool {
        match self.0.of_mut(event).entry(Tail::of(event)) {
            Entry::Occupied(mut known) => {
                let expired = !counts(*known.get(), today);
                if expired {
                    known.insert(modulo(today));
                }
                expired
            }
            Entry::Vacant(new) => {
                new.insert(modulo(today));
                true
            }
        }
    }

    /// Remembers an event key as seen on a day that still counts.
    pub(crate) fn put(&mut self, event: Hash128, day: u32) {
        self.0.of_mut(event).insert(Tail::of(event), modulo(day));
    }

    /// Drops what has expired from one shard.
    pub(crate) fn sweep(&mut self, shard: u8, today: u32) {
        self.0.sweep(shard, |day| counts(*day, today));
    }

    /// The event keys that count, with their day.
    pub(crate) fn iter(&self, today: u32) -> impl Iterator<Item = (u32, Hash128)> {
        let counted = self.0.iter().filter(move |(_, _, day)| counts(**day, today));
        counted.map(move |(first, tail, day)| (today.saturating_sub(age(*day, today)), tail.after(first)))
    }

    /// Whether both hold the same keys, of those that count.
    pub(crate) fn same(&self, other: &Self, today: u32) -> bool {
        self.0.same(&other.0, |day| counts(*day, today))
    }

    /// Keys held.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Bytes held.
    pub(crate) fn bytes(&self) -> usize {
        self.0.bytes()
    }
}

fn modulo(day: u32) -> u8 {
    let [low, ..] = day.to_le_bytes();
    low
}

fn age(day: u8, today: u32) -> u32 {
    u32::from(modulo(today).wrapping_sub(day))
}

fn counts(day: u8, today: u32) -> bool {
    age(day, today) <= PartitionState::SEEN_DAYS
}
