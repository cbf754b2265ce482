//! A state as a whole: read out, rebuilt, compared.

use std::hash::{Hash, Hasher};

use super::{Delivery, HeldClick, Mail, PartitionState, Person, RecentClicks};
use crate::{Hash128, Timestamp, Tombstone};

impl PartitionState {
    /// The event keys seen, with the day each was seen on, in no order.
    pub fn seen_events(&self) -> impl Iterator<Item = (u32, Hash128)> {
        self.seen.iter(self.log_time.day())
    }

    /// The persons, in no order.
    pub fn persons(&self) -> impl Iterator<Item = (Hash128, &Person)> {
        self.persons.iter().map(|(_, key, person)| (*key, person))
    }

    /// The mails, in no order.
    pub fn deliveries(&self) -> impl Iterator<Item = (Hash128, Delivery)> {
        self.live_mails().map(|(key, mail)| (key, Delivery::from(mail)))
    }

    fn live_mails(&self) -> impl Iterator<Item = (Hash128, &Mail)> {
        let today = self.log_time.day();
        let live = self.mails.iter().filter(move |(_, _, mail)| !mail.has_expired(today));
        live.map(|(_, key, mail)| (*key, mail))
    }

    /// Begins to rebuild a state whose log time is `log_time`.
    #[must_use]
    pub fn restore(log_time: Timestamp) -> Restore {
        Restore(Self { log_time, ..Self::default() })
    }

    /// A sum over everything remembered: equal for equal states, and in practice for no others. It is made for
    /// comparing processes of one version, not for keeping.
    #[must_use]
    pub fn digest(&self) -> Hash128 {
        let seen = self.seen_events().map(|entry| digest("seen", &entry));
        let persons = self.persons().map(|entry| digest("person", &entry));
        let mails = self.live_mails().map(|entry| digest("mail", &entry));
        let tombstones = self.tombstones().map(|entry| digest("tombstone", &entry));
        let held = self.held_clicks().map(|entry| digest("held click", &entry));
        let recent = self.recent_clicks().map(|entry| digest("recent clicks", &entry));
        // Addition, because entries come in no order.
        let sum = seen
            .chain(persons)
            .chain(mails)
            .chain(tombstones)
            .chain(held)
            .chain(recent)
            .fold(digest("log time", &(self.log_time, self.clock)), u128::wrapping_add);
        Hash128::from_bytes(sum.to_be_bytes())
    }
}

impl PartialEq for PartitionState {
    /// Equal memory. What waits in the list of changes does not count, nor does what has expired and is not swept yet.
    fn eq(&self, other: &Self) -> bool {
        let today = self.log_time.day();
        self.log_time == other.log_time
            && self.seen.same(&other.seen, today)
            && self.tombstones == other.tombstones
            && self.clock == other.clock
            && self.held.same(&other.held)
            && self.persons.same(&other.persons, |_| true)
            && self.mails.same(&other.mails, |mail| !mail.has_expired(today))
    }
}

/// A state that is being rebuilt from what another one held.
#[derive(Debug)]
pub struct Restore(PartitionState);

impl Restore {
    /// Adds event keys seen on one day. A day that counts no more is left out.
    pub fn seen_events(&mut self, day: u32, events: impl IntoIterator<Item = Hash128>) {
        let age = self.0.log_time.day().checked_sub(day);
        if age.is_some_and(|age| age <= PartitionState::SEEN_DAYS) {
            events.into_iter().for_each(|event| self.0.seen.put(event, day));
        }
    }

    /// Adds persons.
    pub fn persons(&mut self, persons: impl IntoIterator<Item = (Hash128, Person)>) {
        persons.into_iter().for_each(|(key, person)| self.0.put_person(key, person));
    }

    /// Adds mails.
    pub fn deliveries(&mut self, deliveries: impl IntoIterator<Item = (Hash128, Delivery)>) {
        deliveries.into_iter().for_each(|(key, delivery)| self.0.put_mail(key, delivery.into()));
    }

    /// Adds tombstones.
    pub fn tombstones(&mut self, tombstones: impl IntoIterator<Item = Tombstone>) {
        self.0.tombstones.extend(tombstones);
    }

    /// Sets the clock that holds are measured by.
    pub fn clock(&mut self, clock: Timestamp) {
        self.0.tick(clock);
    }

    /// Adds held clicks by the number of their arrival.
    pub fn held(&mut self, clicks: impl IntoIterator<Item = (u64, HeldClick)>) {
        clicks.into_iter().for_each(|(number, click)| self.0.held.put(number, click));
    }

    /// Adds the last links of mails.
    pub fn recent(&mut self, recent: impl IntoIterator<Item = (Hash128, RecentClicks)>) {
        recent.into_iter().for_each(|(mail, recent)| self.0.held.put_recent(mail, recent));
    }

    /// The state.
    #[must_use]
    pub fn finish(self) -> PartitionState {
        self.0
    }
}

/// Feeds what `Hash` tells of a value to BLAKE3.
struct Feed(blake3::Hasher);

impl Feed {
    fn hash128(&self) -> Hash128 {
        Hash128::first(&self.0.finalize())
    }
}

impl Hasher for Feed {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(&self) -> u64 {
        self.hash128().high()
    }
}

fn digest(kind: &str, entry: &impl Hash) -> u128 {
    let mut feed = Feed(blake3::Hasher::new());
    (kind, entry).hash(&mut feed);
    u128::from_be_bytes(feed.hash128().to_bytes())
}
