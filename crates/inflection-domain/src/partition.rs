//! Which log a person's facts go to.

use std::fmt;
use std::num::NonZeroU16;

use crate::{Hash128, PersonId, WorkspaceId};

/// How many partitions an installation has. Chosen once, stored in the bus, never changed in place: changing it would
/// move persons between logs and break their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartitionCount(NonZeroU16);

impl PartitionCount {
    /// Most partitions: one consumer each must stay below the server's 1,000 a stream.
    pub const MAX: u16 = 512;

    /// A count from 1 to [`PartitionCount::MAX`].
    #[must_use]
    pub fn new(count: u16) -> Option<Self> {
        NonZeroU16::new(count).filter(|count| count.get() <= Self::MAX).map(Self)
    }

    /// The count.
    #[must_use]
    pub fn get(self) -> u16 {
        self.0.get()
    }

    /// All partitions, in order.
    pub fn all(self) -> impl Iterator<Item = Partition> {
        (0..self.get()).map(Partition)
    }

    /// The partition of a person: everything about one person stays in one log, through every stage.
    #[must_use]
    pub fn of(self, workspace: &WorkspaceId, person: &PersonId) -> Partition {
        let hash = Hash128::of("partition", &[workspace.as_str().as_bytes(), person.as_str().as_bytes()]);
        let index = hash.high() % u64::from(self.get());
        Partition(u16::try_from(index).unwrap_or_default()) // smaller than a u16 by the remainder
    }
}

/// One partition, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Partition(u16);

impl Partition {
    /// The partition's number.
    #[must_use]
    pub fn index(self) -> u16 {
        self.0
    }
}

impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routing_is_frozen() {
        let count = PartitionCount::new(64).unwrap();
        let workspace = WorkspaceId::new("acme").unwrap();
        let routed: Vec<u16> = ["per_1", "per_2", "per_3", "ann"]
            .iter()
            .map(|person| count.of(&workspace, &PersonId::new(*person).unwrap()).index())
            .collect();
        assert_eq!(routed, [14, 57, 46, 15]);
    }

    #[test]
    fn partitions_fill_evenly() {
        let count = PartitionCount::new(16).unwrap();
        let workspace = WorkspaceId::new("acme").unwrap();
        let mut sizes = [0u32; 16];
        for person in 0..16_000 {
            let person = PersonId::new(format!("person-{person}")).unwrap();
            sizes[usize::from(count.of(&workspace, &person).index())] += 1;
        }
        assert!(sizes.iter().all(|size| (850..1150).contains(size)), "{sizes:?}");
    }
}
