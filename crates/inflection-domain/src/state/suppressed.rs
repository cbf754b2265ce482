//! Whose facts are dropped, and what is forgotten of whom.

use super::PartitionState;
use crate::{Hash128, Head, InstallationKey, MailRef, OrderKind, PersonOrder, Tombstone};

/// What a tombstone or the key of something erased takes when changes are written, about, in bytes: itself, and the
/// beginning of its list.
const KEY_CHANGE_BYTES: usize = 18;

impl PartitionState {
    /// Whose facts are dropped.
    pub fn tombstones(&self) -> impl ExactSizeIterator<Item = Tombstone> {
        self.tombstones.iter().copied()
    }

    /// Whether a fact is dropped: its person is suppressed, the user it claims, or the user its person is known to be.
    pub(crate) fn suppresses(&self, key: &InstallationKey, head: &Head) -> bool {
        if self.tombstones.is_empty() {
            return false;
        }
        let is = |tombstone: Tombstone| self.tombstones.contains(&tombstone);
        let known = self.user(head.person).filter(|known| Some(*known) != head.user.as_ref());
        is(Tombstone::of_person(key, head.person))
            || head.user.iter().chain(known).any(|user| is(Tombstone::of_user(key, &head.workspace, user)))
    }

    /// Takes an operator's order. Its tombstone was made under `key`.
    pub fn obey(&mut self, key: &InstallationKey, order: &PersonOrder) {
        let changed = match order.kind {
            OrderKind::Suppress | OrderKind::Erase => self.tombstones.insert(order.tombstone),
            OrderKind::Lift => self.tombstones.remove(&order.tombstone),
        };
        if changed {
            self.touched_tombstones.insert(order.tombstone);
            self.changes_bytes += KEY_CHANGE_BYTES;
        }
        if order.kind == OrderKind::Erase {
            // First: who the person was known to be also says which of its clicks are meant.
            self.erase_held(key, order);
            order.person.into_iter().for_each(|person| self.forget(person));
        }
    }

    /// Forgets a person, and of its mails the one whose key can be made from the person alone: the one of facts that name
    /// no mail. Keys of other mails and of event ids cannot be found by person; both expire.
    fn forget(&mut self, person: Hash128) {
        let mail = MailRef::new(person, None, None, None).key;
        if self.persons.of(person).contains_key(&person) {
            self.remove_person(person);
            self.touched_persons.push(person);
            self.changes_bytes += KEY_CHANGE_BYTES;
        }
        if self.mails.of(mail).contains_key(&mail) {
            self.remove_mail(mail);
            self.touched_mails.push(mail);
            self.changes_bytes += KEY_CHANGE_BYTES;
        }
    }
}
