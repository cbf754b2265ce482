//! Which messageIds were taken within the last 24 hours, over all write keys (Segment docs, duplicate data).
//!
//! Ids are remembered as 128-bit keyed hashes. Two generations per shard bound the memory without a queue: the young one
//! becomes the old one after 24 hours or when it is full, and the old one before it is forgotten as a whole. Many small
//! shards, so that no single map ever grows long enough to stall the request that grows it.

use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, Hasher, RandomState};

/// How long an id is remembered.
const WINDOW_MS: i64 = 24 * 60 * 60 * 1_000;
/// One for each value of an id's first byte.
const SHARDS: usize = 256;
/// Ids in one generation of one shard: about ten million in all, twice that with the old generation.
const SHARD_IDS_MAX: usize = 40_000;

/// Turns messageIds into keys. Made once per sandbox, so that keys compare.
#[derive(Debug, Default)]
pub(crate) struct IdHasher {
    low: RandomState,
    high: RandomState,
}

impl IdHasher {
    /// The key of an id.
    pub(crate) fn key(&self, message_id: &str) -> u128 {
        u128::from(self.low.hash_one(message_id)) | (u128::from(self.high.hash_one(message_id)) << 64)
    }
}

/// What is remembered of an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    /// The arrival that was accepted.
    pub(crate) first: u64,
    /// The hash of its content.
    pub(crate) content: u64,
    /// When it was accepted, in Unix milliseconds.
    pub(crate) at_ms: i64,
}

/// The memory of ids.
#[derive(Debug)]
pub(crate) struct MessageIds {
    shards: Vec<Shard>,
    shard_ids_max: usize,
    forgotten: u64,
}

type Generation = HashMap<u128, Seen, BuildHasherDefault<HashedAlready>>;

#[derive(Debug, Default)]
struct Shard {
    young: Generation,
    old: Generation,
    /// When the young generation began.
    since_ms: i64,
}

impl Default for MessageIds {
    fn default() -> Self {
        Self::with_shard_ids_max(SHARD_IDS_MAX)
    }
}

impl MessageIds {
    fn with_shard_ids_max(shard_ids_max: usize) -> Self {
        Self { shards: (0..SHARDS).map(|_| Shard::default()).collect(), shard_ids_max, forgotten: 0 }
    }

    /// Ids that were forgotten before their time.
    pub(crate) fn forgotten(&self) -> u64 {
        self.forgotten
    }

    /// Remembers an id, or answers with what is known of it.
    pub(crate) fn admit(&mut self, key: u128, seen: Seen) -> Option<Seen> {
        let [first_byte, ..] = key.to_le_bytes();
        // There is a shard for each value of a byte.
        let shard = self.shards.get_mut(usize::from(first_byte))?;
        let expired_ms = seen.at_ms - WINDOW_MS;
        let known = shard.young.get(&key).or_else(|| shard.old.get(&key));
        if let Some(known) = known.filter(|known| known.at_ms > expired_ms) {
            return Some(*known);
        }
        if shard.young.len() >= self.shard_ids_max || shard.since_ms <= expired_ms {
            let old = std::mem::replace(&mut shard.old, std::mem::take(&mut shard.young));
            let alive = old.values().filter(|known| known.at_ms > expired_ms).count();
            self.forgotten += u64::try_from(alive).unwrap_or(u64::MAX);
            shard.since_ms = seen.at_ms;
        }
        shard.young.insert(key, seen);
        None
    }
}

/// The keys are hashes already: the map takes their upper half as it is.
#[derive(Debug, Default)]
struct HashedAlready(u64);

impl Hasher for HashedAlready {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u128(&mut self, key: u128) {
        self.0 = u64::try_from(key >> 64).unwrap_or(u64::MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_MS: i64 = 1_800_000_000_000;

    fn seen(first: u64, at_ms: i64) -> Seen {
        Seen { first, content: first, at_ms }
    }

    #[test]
    fn an_id_is_remembered_for_24_hours() {
        let mut ids = MessageIds::default();
        assert_eq!(ids.admit(7, seen(1, NOW_MS)), None);
        assert_eq!(ids.admit(7, seen(2, NOW_MS + 1)), Some(seen(1, NOW_MS)));
        assert_eq!(ids.admit(7, seen(3, NOW_MS + WINDOW_MS - 1)), Some(seen(1, NOW_MS)));
        assert_eq!(ids.admit(7, seen(4, NOW_MS + WINDOW_MS)), None);
        assert_eq!(ids.admit(7, seen(5, NOW_MS + WINDOW_MS + 1)), Some(seen(4, NOW_MS + WINDOW_MS)));
        assert_eq!(ids.forgotten(), 0);
    }

    #[test]
    fn an_id_survives_the_turn_of_a_generation() {
        let mut ids = MessageIds::default();
        ids.admit(0x100, seen(1, NOW_MS));
        let late_ms = NOW_MS + WINDOW_MS - 10;
        ids.admit(0x200, seen(2, late_ms));
        ids.admit(0x300, seen(3, NOW_MS + WINDOW_MS + 10));
        assert_eq!(ids.admit(0x200, seen(4, late_ms + WINDOW_MS - 1)), Some(seen(2, late_ms)));
    }

    #[test]
    fn the_number_of_ids_is_bounded_and_the_newest_stay() {
        let mut ids = MessageIds::with_shard_ids_max(10);
        // All keys share their first byte, hence their shard.
        for n in 0..100_u64 {
            assert_eq!(ids.admit(u128::from(n) << 64, seen(n, NOW_MS)), None);
        }
        assert_eq!(ids.forgotten(), 80);
        assert!(ids.admit(99 << 64, seen(100, NOW_MS)).is_some());
        assert!(ids.admit(90 << 64, seen(100, NOW_MS)).is_some());
    }

    #[test]
    fn equal_ids_have_equal_keys() {
        let hasher = IdHasher::default();
        assert_eq!(hasher.key("infl_1"), hasher.key("infl_1"));
        assert_ne!(hasher.key("infl_1"), hasher.key("infl_2"));
    }
}
