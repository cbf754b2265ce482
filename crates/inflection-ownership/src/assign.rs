//! Who should have which partition. Pure.

use crate::WorkerId;

/// The worker of each partition: as even as can be (loads differ by one at most), the same for everybody who knows the
/// same workers, and with few partitions that move when one comes or goes.
///
/// Rendezvous hashing with a bound: of all pairs of worker and partition the highest scores win, as long as the worker
/// has room. Empty when there are no workers.
#[must_use]
pub fn assign<'w>(workers: &[&'w WorkerId], partitions: u16) -> Vec<&'w WorkerId> {
    if workers.is_empty() {
        return Vec::new();
    }
    let count = usize::from(partitions);
    let (least, mut more) = (count / workers.len(), count % workers.len());
    let mut pairs: Vec<(u64, usize, u16)> = Vec::with_capacity(workers.len() * count);
    for (worker, id) in workers.iter().enumerate() {
        pairs.extend((0..partitions).map(|partition| (score(id, partition), worker, partition)));
    }
    pairs.sort_unstable_by(|(one, a, p), (other, b, q)| other.cmp(one).then_with(|| (p, a).cmp(&(q, b))));
    let (mut loads, mut owners) = (vec![0; workers.len()], vec![None; count]);
    for (_, worker, partition) in pairs {
        let (Some(load), Some(owner)) = (loads.get_mut(worker), owners.get_mut(usize::from(partition))) else {
            continue;
        };
        let room = *load < least || (*load == least && more > 0);
        if owner.is_none() && room {
            more -= usize::from(*load == least);
            *load += 1;
            *owner = workers.get(worker).copied();
        }
    }
    owners.into_iter().flatten().collect()
}

fn score(worker: &WorkerId, partition: u16) -> u64 {
    let mut hash = blake3::Hasher::new();
    hash.update(worker.as_str().as_bytes()).update(&partition.to_be_bytes());
    let [a, b, c, d, e, f, g, h, ..] = *hash.finalize().as_bytes();
    u64::from_be_bytes([a, b, c, d, e, f, g, h])
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn workers(numbers: impl IntoIterator<Item = u32>) -> Vec<WorkerId> {
        numbers.into_iter().map(|number| WorkerId::new(format!("worker-{number}"))).collect()
    }

    fn owners(workers: &[WorkerId], partitions: u16) -> Vec<String> {
        let references: Vec<&WorkerId> = workers.iter().collect();
        assign(&references, partitions).into_iter().map(|worker| worker.as_str().to_owned()).collect()
    }

    #[test]
    fn a_worker_that_comes_takes_its_share_and_moves_little_else() {
        for count in 1..12u32 {
            let before = owners(&workers(0..count), 64);
            let after = owners(&workers(0..=count), 64);
            let moved = before.iter().zip(&after).filter(|(before, after)| before != after).count();
            let share = 64_usize.div_ceil(count as usize + 1);
            assert!(moved <= share * 2, "{moved} of 64 moved to make room for worker {count}, whose share is {share}");
        }
    }

    proptest! {
        #[test]
        fn everything_has_one_owner_and_loads_differ_by_one(
            numbers in proptest::collection::btree_set(0u32..1000, 1..20),
            partitions in 1u16..130,
        ) {
            let workers = workers(numbers);
            let owners = owners(&workers, partitions);
            prop_assert_eq!(owners.len(), usize::from(partitions));
            let mut loads: BTreeMap<&str, usize> = workers.iter().map(|worker| (worker.as_str(), 0)).collect();
            owners.iter().for_each(|owner| *loads.get_mut(owner.as_str()).unwrap() += 1);
            let (least, most) = (loads.values().min().unwrap(), loads.values().max().unwrap());
            prop_assert!(most - least <= 1, "{:?}", loads);
            let mut reversed: Vec<&WorkerId> = workers.iter().collect();
            reversed.reverse();
            prop_assert_eq!(
                assign(&reversed, partitions).into_iter().map(WorkerId::as_str).collect::<Vec<_>>(),
                owners.iter().map(String::as_str).collect::<Vec<_>>()
            );
        }
    }
}
