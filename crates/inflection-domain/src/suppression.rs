//! Suppression: persons and users whose events are dropped until they are let in again.

use std::fmt;

use crate::{Hash128, InstallationKey, UserId, WorkspaceId};

/// What is kept of a suppressed person or user: a keyed hash. Without the installation's key nobody can tell whose it is,
/// or confirm a guess.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tombstone(Hash128);

impl Tombstone {
    /// Most of them in an installation. All of them are one keyed record of about 40 bytes each, and a record must fit into
    /// a message (1 MiB) and, twice while it is replaced, into what the embedded store keeps of records (4 MiB).
    pub const COUNT_MAX: usize = 10_000;

    /// The tombstone of a person, by the key that its workspace is part of.
    #[must_use]
    pub fn of_person(key: &InstallationKey, person: Hash128) -> Self {
        Self(Hash128::keyed(key.expose(), "suppressed person", &[&person.to_bytes()]))
    }

    /// The tombstone of all persons that are this user.
    #[must_use]
    pub fn of_user(key: &InstallationKey, workspace: &WorkspaceId, user: &UserId) -> Self {
        let parts = [workspace.as_str().as_bytes(), user.as_str().as_bytes()];
        Self(Hash128::keyed(key.expose(), "suppressed user", &parts))
    }

    /// Bytes for the wire.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 16] {
        self.0.to_bytes()
    }

    /// The inverse of [`Tombstone::to_bytes`].
    #[must_use]
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(Hash128::from_bytes(bytes))
    }
}

impl fmt::Display for Tombstone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for Tombstone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// What an operator wants of a person.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OrderKind {
    /// Its events are dropped from now on.
    Suppress,
    /// The same, and what is known of it is forgotten.
    Erase,
    /// Its events count again from now on.
    Lift,
}

/// An operator's word on a person, taken by the fold in the order of the event log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PersonOrder {
    /// Whose person it is.
    pub workspace: WorkspaceId,
    /// What is wanted.
    pub kind: OrderKind,
    /// Whom it is about.
    pub tombstone: Tombstone,
    /// The key of the person to be forgotten. Of a user that is the person derived from its id. Its other persons are not
    /// known by it, and stay: their entries are what their further events are recognised by.
    pub person: Option<Hash128>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Head, PersonId};

    #[test]
    fn tombstones_are_frozen_and_told_apart() {
        let (key, other) = (InstallationKey::new([7; 32]), InstallationKey::new([8; 32]));
        let (acme, globex) = (WorkspaceId::new("acme").unwrap(), WorkspaceId::new("globex").unwrap());
        let (person, user) = (PersonId::new("u1").unwrap(), UserId::new("u1").unwrap());
        let of_person = |key, workspace| Tombstone::of_person(key, Head::person_key(workspace, &person));
        let all = [
            of_person(&key, &acme),
            of_person(&key, &globex),
            of_person(&other, &acme),
            Tombstone::of_user(&key, &acme, &user),
            Tombstone::of_user(&key, &globex, &user),
            Tombstone::of_user(&other, &acme, &user),
        ];
        assert_eq!(all.iter().collect::<std::collections::BTreeSet<_>>().len(), all.len());
        let frozen = ["18fbb0ecfccfbad59f5c72e7ca37b521", "5281bc05d7c195af821827a88e2b5222"];
        assert_eq!([all[0].to_string(), all[3].to_string()], frozen);
        assert_eq!(Tombstone::from_bytes(all[0].to_bytes()), all[0]);
    }
}
