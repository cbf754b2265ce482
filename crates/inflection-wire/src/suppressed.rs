//! Who is suppressed: one keyed record.

use std::collections::BTreeMap;

use bytes::Bytes;
use inflection_domain::{Timestamp, Tombstone, WorkspaceId};
use prost::Message as _;

use crate::{DecodeError, key, pb, tombstone};

/// What is known of one suppressed person or user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SuppressedPerson {
    /// It stands for all persons of a user.
    pub user: bool,
    /// When an operator said so.
    pub at: Timestamp,
    /// What was known of it was erased as well.
    pub erased: bool,
}

/// All suppressed persons and users, by workspace: at most [`Tombstone::COUNT_MAX`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SuppressedPersons {
    /// By workspace and tombstone.
    pub workspaces: BTreeMap<WorkspaceId, BTreeMap<Tombstone, SuppressedPerson>>,
}

impl SuppressedPersons {
    /// Begins the keys of records about suppression; there is one so far.
    pub const RECORDS: &str = "suppressed";
    /// The record's key.
    pub const RECORD: &str = "suppressed.persons";

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.workspaces.values().map(BTreeMap::len).sum()
    }

    /// Writes the record.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let person = |(tombstone, person): (&Tombstone, &SuppressedPerson)| pb::SuppressedPerson {
            tombstone: Bytes::copy_from_slice(&tombstone.to_bytes()),
            user: person.user,
            at_ms: person.at.as_ms(),
            erased: person.erased,
        };
        let workspaces = self.workspaces.iter().filter(|(_, persons)| !persons.is_empty());
        let workspaces = workspaces.map(|(workspace, persons)| pb::SuppressedOfWorkspace {
            workspace: workspace.as_str().to_owned(),
            persons: persons.iter().map(person).collect(),
        });
        pb::SuppressedPersons { workspaces: workspaces.collect() }.encode_to_vec().into()
    }

    /// Reads the record.
    ///
    /// # Errors
    /// [`DecodeError`] when it is none.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut all = Self::default();
        for workspace in pb::SuppressedPersons::decode(bytes)?.workspaces {
            let id = WorkspaceId::new(&workspace.workspace).ok().ok_or(DecodeError::Field("workspace"))?;
            let persons = workspace.persons.into_iter().map(|person| {
                let tombstone = tombstone(key("tombstone", &person.tombstone)?);
                let at = Timestamp::from_ms(person.at_ms);
                Ok((tombstone, SuppressedPerson { user: person.user, at, erased: person.erased }))
            });
            all.workspaces.insert(id, persons.collect::<Result<_, DecodeError>>()?);
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn many(count: usize) -> SuppressedPersons {
        let mut all = SuppressedPersons::default();
        for number in 0..count {
            let workspace = WorkspaceId::new(&format!("{}{}", "w".repeat(60), number % 3)).unwrap();
            let mut bytes = [0xff; 16];
            bytes[..8].copy_from_slice(&number.to_be_bytes());
            let at = Timestamp::from_ms(1_796_000_000_000 + i64::try_from(number).unwrap());
            let person = SuppressedPerson { user: number.is_multiple_of(2), at, erased: !number.is_multiple_of(5) };
            all.workspaces.entry(workspace).or_default().insert(Tombstone::from_bytes(bytes), person);
        }
        all
    }

    #[test]
    fn decode_undoes_encode() {
        for all in [SuppressedPersons::default(), many(10)] {
            assert_eq!(SuppressedPersons::decode(&all.encode()).unwrap(), all);
        }
        assert_eq!(SuppressedPersons::decode(&many(10).encode()).unwrap().count(), 10);
    }

    #[test]
    fn the_most_there_may_be_fit_into_a_record() {
        assert!(many(Tombstone::COUNT_MAX).encode().len() < 40 * Tombstone::COUNT_MAX);
    }
}
