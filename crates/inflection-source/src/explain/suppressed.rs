//! Who of those that are explained is suppressed, and since when.

use inflection_bus::Bus;
use inflection_domain::{ConnectionId, Hash128, Head, PersonId, Timestamp, Tombstone, UserId, WorkspaceId};
use inflection_wire::{Installation, SuppressedPersons};

use super::find::{Found, Hop};
use crate::persons;

/// The record of suppressed persons, and the key it is made under.
#[derive(Debug)]
pub(super) struct Suppressions<'i> {
    installation: &'i Installation,
    all: SuppressedPersons,
}

impl<'i> Suppressions<'i> {
    /// Reads the record.
    pub(super) async fn load(bus: &Bus, installation: &'i Installation) -> anyhow::Result<Self> {
        Ok(Self { installation, all: persons::load(bus).await? })
    }

    fn of(&self, workspace: &WorkspaceId, person: Option<Hash128>, user: Option<&UserId>) -> Option<Timestamp> {
        let own = self.all.workspaces.get(workspace)?;
        let key = &self.installation.key;
        let person = person.map(|person| Tombstone::of_person(key, person));
        let user = user.map(|user| Tombstone::of_user(key, workspace, user));
        person.into_iter().chain(user).filter_map(|tombstone| own.get(&tombstone)).map(|found| found.at).min()
    }

    /// Since when the person of an event is suppressed.
    pub(super) fn since(&self, found: &Found) -> Option<Timestamp> {
        let person = |id: &PersonId| Some(Head::person_key(&found.workspace, id));
        match (&found.hop, found.decisions().last()) {
            (_, Some(event)) => self.of(&found.workspace, person(&event.body.person), event.decided.user.as_ref()),
            (Hop::Waiting { person: id, .. }, None) => self.of(&found.workspace, person(id), None),
            (Hop::Silent | Hop::Decided(_), None) => None,
        }
    }

    /// Since when a person or user of this id is suppressed, in one of these connections' workspaces.
    pub(super) fn of_id(&self, id: &str, connections: &[(WorkspaceId, ConnectionId)]) -> Option<Timestamp> {
        let (person, user) = (PersonId::new(id).ok(), UserId::new(id).ok());
        let since = |workspace: &WorkspaceId| {
            let person = person.as_ref().map(|person| Head::person_key(workspace, person));
            self.of(workspace, person, user.as_ref())
        };
        connections.iter().filter_map(|(workspace, _)| since(workspace)).min()
    }
}
