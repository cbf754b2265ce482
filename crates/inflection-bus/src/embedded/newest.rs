//! The newest payloads of all logs, in memory: a reader that keeps up never touches the disk.
//!
//! One bound for all logs together, so that memory does not grow with their number.

use std::collections::{HashMap, VecDeque};

use bytes::Bytes;

use crate::{Log, Sequence};

/// What is kept, over all logs, in bytes.
const BYTES_MAX: usize = 16 * 1024 * 1024;
/// What a payload takes beside its own bytes: its place in its log and in the order of leaving.
const PAYLOAD_EXTRA_BYTES: usize = 96;
/// Purged payloads that the order of leaving may still name, beside as many as there are payloads.
const STALE_MAX: usize = 4096;

/// Contiguous messages of one log, up to its last.
#[derive(Debug, Default)]
pub(super) struct Tail {
    first: Sequence,
    payloads: VecDeque<Bytes>,
}

impl Tail {
    pub(super) fn get(&self, sequence: Sequence) -> Option<&Bytes> {
        self.payloads.get(usize::try_from(sequence.checked_sub(self.first)?).ok()?)
    }

    fn drop_first(&mut self) -> usize {
        self.first += 1;
        self.payloads.pop_front().map_or(0, |payload| size(&payload))
    }
}

/// What is kept, and who leaves first: the oldest of all.
#[derive(Debug, Default)]
pub(super) struct Newest {
    tails: HashMap<Log, Tail>,
    /// Also names what was purged meanwhile.
    order: VecDeque<(Log, Sequence)>,
    kept: usize,
    bytes: usize,
}

impl Newest {
    pub(super) fn push(&mut self, log: &Log, sequence: Sequence, payload: Bytes) {
        self.bytes += size(&payload);
        self.kept += 1;
        let tail = self.tails.entry(log.clone()).or_default();
        if tail.payloads.is_empty() {
            tail.first = sequence;
        }
        tail.payloads.push_back(payload);
        self.order.push_back((log.clone(), sequence));
        while self.bytes > BYTES_MAX {
            let Some((log, sequence)) = self.order.pop_front() else { break };
            self.purge(&log, sequence);
        }
        if self.order.len() > 2 * self.kept + STALE_MAX {
            let Self { tails, order, .. } = self;
            order.retain(|(log, sequence)| tails.get(log).is_some_and(|tail| *sequence >= tail.first));
        }
    }

    /// Forgets the messages of a log up to a sequence.
    pub(super) fn purge(&mut self, log: &Log, through: Sequence) {
        let Some(tail) = self.tails.get_mut(log) else { return };
        while tail.first <= through && !tail.payloads.is_empty() {
            self.bytes -= tail.drop_first();
            self.kept -= 1;
        }
        if tail.payloads.is_empty() {
            self.tails.remove(log);
        }
    }

    /// What is kept of a log.
    pub(super) fn tail(&self, log: &Log) -> Option<&Tail> {
        self.tails.get(log)
    }
}

fn size(payload: &Bytes) -> usize {
    payload.len() + PAYLOAD_EXTRA_BYTES
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn log(number: usize) -> Log {
        Log::new(&format!("events.{number}")).unwrap()
    }

    fn taken(model: &BTreeMap<(usize, Sequence), usize>) -> usize {
        model.values().map(|bytes| bytes + PAYLOAD_EXTRA_BYTES).sum()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// What is there is what a plain model says, and bounds hold whatever is purged.
        #[test]
        fn newest_of_all_logs(steps in proptest::collection::vec((0usize..4, 0usize..4_000_000, any::<bool>()), 0..200)) {
            let (mut newest, mut lasts) = (Newest::default(), [0u64; 4]);
            let mut model: BTreeMap<(usize, Sequence), usize> = BTreeMap::new();
            let mut order = Vec::new();
            for (number, bytes, purge) in steps {
                if purge {
                    let through = lasts[number].saturating_sub((bytes % 3) as u64);
                    newest.purge(&log(number), through);
                    model.retain(|(other, sequence), _| *other != number || *sequence > through);
                } else {
                    lasts[number] += 1;
                    newest.push(&log(number), lasts[number], Bytes::from(vec![0; bytes]));
                    model.insert((number, lasts[number]), bytes);
                    order.push((number, lasts[number]));
                    while taken(&model) > BYTES_MAX {
                        model.remove(&order.remove(0));
                    }
                }
                prop_assert_eq!(newest.bytes, taken(&model));
                prop_assert!(newest.bytes <= BYTES_MAX && newest.kept == model.len());
                for (number, last) in lasts.iter().enumerate() {
                    let (log, model) = (log(number), &model);
                    let tail = newest.tail(&log);
                    for sequence in 0..=*last {
                        let kept = tail.and_then(|tail| tail.get(sequence)).map(Bytes::len);
                        prop_assert_eq!(kept, model.get(&(number, sequence)).copied());
                    }
                }
            }
        }
    }

    #[test]
    fn names_of_what_was_purged_do_not_pile_up() {
        let mut newest = Newest::default();
        newest.push(&log(0), 1, Bytes::from_static(b"stays"));
        for sequence in 1..=100_000 {
            newest.push(&log(1), sequence, Bytes::from_static(b"goes"));
            newest.purge(&log(1), sequence);
            assert!(newest.order.len() <= 2 * (newest.kept + 1) + STALE_MAX, "{}", newest.order.len());
        }
        let stays = newest.tail(&log(0)).and_then(|tail| tail.get(1));
        assert_eq!(stays.map(Bytes::as_ref), Some(b"stays".as_ref()));
    }
}
