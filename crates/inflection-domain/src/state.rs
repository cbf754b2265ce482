//! What a partition remembers: persons, mails, and event ids already seen.
//!
//! State is a plain value. Everything that changes it goes through [`PartitionState::fold`](crate::PartitionState::fold)
//! or through [`PartitionState::apply`] with the changes an earlier fold reported; both give the same state, so a log of
//! changes is the state.
//!
//! A state holds millions of keys, so it is packed: the parts say how (`mail`, `seen`), and how nothing of it is ever
//! touched all at once (`shards`).

mod export;
mod held;
mod mail;
mod seen;
mod shards;
mod suppressed;

use std::collections::BTreeSet;

use crate::{BounceClass, Hash128, OpenSource, Timestamp, Tombstone, UserId};

pub use export::Restore;
use held::Held;
pub use held::{HeldClick, RecentClicks};
pub(crate) use mail::{Mail, Mark};
use seen::Seen;
use shards::Shards;

/// What is known of a person. Persons of whom nothing is known (still anonymous) have no entry.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Person {
    /// The person's user id was learned; it stays.
    Known(UserId),
}

/// The first counted click on one link of one mail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LinkClick {
    /// The link's key.
    pub link: u64,
    /// The event that won, so that the same event processed again is told "unique" again.
    pub winner: u64,
}

/// A counted click that waits for its mail to be opened.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PendingLink {
    /// The link's key.
    pub link: u64,
    /// The link as clicked.
    pub url: Box<str>,
}

/// What happened to one mail sent to one person (one delivery key `D`), as changes tell it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Delivery {
    /// Day of the last change, in log time; state expires from here.
    pub day: u32,
    /// Whether `Email Delivered` was told.
    pub delivered: bool,
    /// When it was delivered, in units of 10 ms modulo 2^32; 0 when that is not known.
    pub delivered_at: u32,
    /// Whether `Email Reported as Spam` was told.
    pub spam: bool,
    /// Whether a machine opened the mail.
    pub machine_open: bool,
    /// How the one unique open came about.
    pub unique_open: Option<OpenSource>,
    /// The event that carries `is_unique_open`.
    pub open_winner: Option<u64>,
    /// First counted clicks, one a link.
    pub clicks: Vec<LinkClick>,
    /// Counted clicks whose per-unique-open event waits for an open.
    pub pending: Vec<PendingLink>,
    /// Whether the one `Unique Link Click per Unique Open` of the mail was told.
    pub per_open: bool,
    /// Bounce classes told.
    pub bounces: Vec<BounceClass>,
    /// Unsubscribe scopes told.
    pub scopes: Vec<u64>,
}

impl Delivery {
    /// Most bytes of addresses that wait in [`Delivery::pending`]; clicks beyond wait without theirs.
    pub const PENDING_BYTES_MAX: usize = 64 * 1024;
}

/// Changes that a run of folds made: full replacements of what they touched. Applying them in order rebuilds the state.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Changes {
    /// Log time of the folds.
    pub log_time: Timestamp,
    /// Event keys seen for the first time.
    pub seen: Vec<Hash128>,
    /// Persons, by key.
    pub persons: Vec<(Hash128, Person)>,
    /// Mails, by delivery key.
    pub deliveries: Vec<(Hash128, Delivery)>,
    /// Tombstones that were set.
    pub suppressed: Vec<Tombstone>,
    /// Tombstones that were taken away.
    pub lifted: Vec<Tombstone>,
    /// Keys of persons that were erased.
    pub forgotten_persons: Vec<Hash128>,
    /// Keys of mails that were erased.
    pub forgotten_mails: Vec<Hash128>,
    /// The receive time that holds of clicks are measured by.
    pub clock: Timestamp,
    /// Clicks that are held now, by the number of their arrival.
    pub held: Vec<(u64, HeldClick)>,
    /// Numbers of clicks that are held no more.
    pub released: Vec<u64>,
    /// Numbers of clicks held before that turned out to be part of a burst.
    pub burst: Vec<u64>,
    /// The last links of mails, by delivery key.
    pub recent: Vec<(Hash128, RecentClicks)>,
}

/// The state of one partition.
#[derive(Debug, Clone, Default)]
pub struct PartitionState {
    log_time: Timestamp,
    seen: Seen,
    persons: Shards<Hash128, Person>,
    mails: Shards<Hash128, Mail>,
    /// Whose facts are dropped: at most [`Tombstone::COUNT_MAX`].
    tombstones: BTreeSet<Tombstone>,
    /// The receive time that holds are measured by; see [`PartitionState::tick`].
    clock: Timestamp,
    /// Bounded by [`PartitionState::HELD_BYTES_MAX`] and [`PartitionState::RECENT_MAX`].
    held: Held,
    /// What persons and mails hold outside their maps.
    heap_bytes: usize,
    new_seen: Vec<Hash128>,
    /// Keys in the order they were touched, some more than once.
    touched_persons: Vec<Hash128>,
    touched_mails: Vec<Hash128>,
    touched_tombstones: BTreeSet<Tombstone>,
    touched_held: BTreeSet<u64>,
    touched_burst: BTreeSet<u64>,
    touched_recent: Vec<Hash128>,
    changes_bytes: usize,
}

impl PartitionState {
    /// Days an event id is remembered: longer than any sender's retries (48 hours at most; `docs/engagement.md`).
    pub const SEEN_DAYS: u32 = 7;
    /// Days a mail's firsts are remembered. Providers report for at most 60 days after sending.
    pub const UNIQUENESS_DAYS: u32 = 400;

    /// Moves log time forward (never back) and forgets what has expired. To be called before the folds of a batch.
    ///
    /// What has expired counts no more from now on, but is dropped in turns over a day of log time: to look for it
    /// everywhere at once takes long in a large state.
    pub fn advance(&mut self, log_time: Timestamp) {
        if log_time <= self.log_time {
            return;
        }
        let before = std::mem::replace(&mut self.log_time, log_time);
        let today = log_time.day();
        if today - before.day() > Self::SEEN_DAYS {
            self.seen = Seen::default();
        }
        for shard in shards::turns(before, log_time) {
            self.seen.sweep(shard, today);
            let heap_bytes = &mut self.heap_bytes;
            self.mails.sweep(shard, |mail| {
                let expired = mail.has_expired(today);
                if expired {
                    *heap_bytes -= mail.heap_bytes();
                }
                !expired
            });
        }
    }

    /// Log time: the latest receive time of the batches folded so far.
    #[must_use]
    pub fn log_time(&self) -> Timestamp {
        self.log_time
    }

    /// Entries held: persons, mails, event ids. Some of them may have expired.
    #[must_use]
    pub fn sizes(&self) -> (usize, usize, usize) {
        (self.persons.len(), self.mails.len(), self.seen.len())
    }

    /// About how many bytes of memory the state holds. Costs some microseconds: not for every fold.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let keys = self.new_seen.capacity() + self.touched_persons.capacity() + self.touched_mails.capacity();
        let maps = self.seen.bytes() + self.persons.bytes() + self.mails.bytes();
        let tombstones = self.tombstones.len() * size_of::<Tombstone>();
        size_of::<Self>() + keys * size_of::<Hash128>() + maps + tombstones + self.heap_bytes + self.held.bytes()
    }

    /// Remembers an event key; `false` when it was known.
    pub(crate) fn see(&mut self, event: Hash128) -> bool {
        let new = self.seen.insert(event, self.log_time.day());
        if new {
            self.new_seen.push(event);
            self.changes_bytes += 16;
        }
        new
    }

    /// The user a person is.
    pub(crate) fn user(&self, person: Hash128) -> Option<&UserId> {
        self.persons.of(person).get(&person).map(|Person::Known(user)| user)
    }

    /// What is remembered of a mail, unless it has expired.
    pub(crate) fn mail(&self, key: Hash128) -> Option<&Mail> {
        self.mails.of(key).get(&key).filter(|mail| !mail.has_expired(self.log_time.day()))
    }

    pub(crate) fn change_person(&mut self, key: Hash128, person: Person) {
        let Person::Known(user) = &person;
        self.changes_bytes += 32 + user.as_str().len();
        self.put_person(key, person);
        self.touched_persons.push(key);
    }

    /// Changes what is held of a mail; gives what `change` gives.
    pub(crate) fn change_mail<T>(&mut self, key: Hash128, change: impl FnOnce(&mut Mail) -> T) -> T {
        let today = self.log_time.day();
        let mail = self.mails.of_mut(key).entry(key).or_default();
        let before = mail.heap_bytes();
        if mail.has_expired(today) {
            *mail = Mail::default();
        }
        mail.touch(today);
        let given = change(mail);
        self.heap_bytes = self.heap_bytes + mail.heap_bytes() - before;
        self.changes_bytes += mail.change_bytes();
        self.touched_mails.push(key);
        given
    }

    fn put_person(&mut self, key: Hash128, person: Person) {
        self.heap_bytes += person.heap_bytes();
        let old = self.persons.of_mut(key).insert(key, person);
        self.heap_bytes -= old.map_or(0, |old| old.heap_bytes());
    }

    fn put_mail(&mut self, key: Hash128, mail: Mail) {
        self.heap_bytes += mail.heap_bytes();
        let old = self.mails.of_mut(key).insert(key, mail);
        self.heap_bytes -= old.map_or(0, |old| old.heap_bytes());
    }

    fn remove_person(&mut self, key: Hash128) {
        let old = self.persons.of_mut(key).remove(&key);
        self.heap_bytes -= old.map_or(0, |old| old.heap_bytes());
    }

    fn remove_mail(&mut self, key: Hash128) {
        let old = self.mails.of_mut(key).remove(&key);
        self.heap_bytes -= old.map_or(0, |old| old.heap_bytes());
    }

    /// About how large the changes since the last [`PartitionState::take_changes`] are when written, in bytes.
    #[must_use]
    pub fn changes_bytes(&self) -> usize {
        self.changes_bytes
    }

    /// The changes since the last call, ordered by key so that equal folds give equal bytes.
    pub fn take_changes(&mut self) -> Changes {
        self.changes_bytes = 0;
        let mut changes =
            Changes { log_time: self.log_time, seen: std::mem::take(&mut self.new_seen), ..Changes::default() };
        // What was touched and is not there was erased.
        for key in drain_distinct(&mut self.touched_persons) {
            match self.persons.of(key).get(&key) {
                Some(person) => changes.persons.push((key, person.clone())),
                None => changes.forgotten_persons.push(key),
            }
        }
        for key in drain_distinct(&mut self.touched_mails) {
            match self.mails.of(key).get(&key) {
                Some(mail) => changes.deliveries.push((key, mail.into())),
                None => changes.forgotten_mails.push(key),
            }
        }
        let touched = std::mem::take(&mut self.touched_tombstones);
        (changes.suppressed, changes.lifted) =
            touched.into_iter().partition(|tombstone| self.tombstones.contains(tombstone));
        changes.clock = self.clock;
        let touched = std::mem::take(&mut self.touched_held);
        // What is written whole says it already.
        changes.burst =
            std::mem::take(&mut self.touched_burst).into_iter().filter(|number| !touched.contains(number)).collect();
        for number in touched {
            match self.held.get(number) {
                Some(click) => changes.held.push((number, click.clone())),
                None => changes.released.push(number),
            }
        }
        // What was touched and is not there is too old by now, and will be wherever these changes are applied.
        let recent = drain_distinct(&mut self.touched_recent);
        changes.recent = recent.filter_map(|mail| Some((mail, self.held.recent(mail)?.clone()))).collect();
        changes
    }

    /// Applies changes that an earlier fold reported.
    pub fn apply(&mut self, changes: Changes) {
        self.advance(changes.log_time);
        let today = self.log_time.day();
        changes.seen.into_iter().for_each(|event| self.seen.put(event, today));
        changes.persons.into_iter().for_each(|(key, person)| self.put_person(key, person));
        changes.deliveries.into_iter().for_each(|(key, delivery)| self.put_mail(key, delivery.into()));
        changes.forgotten_persons.into_iter().for_each(|key| self.remove_person(key));
        changes.forgotten_mails.into_iter().for_each(|key| self.remove_mail(key));
        for tombstone in &changes.lifted {
            self.tombstones.remove(tombstone);
        }
        self.tombstones.extend(changes.suppressed);
        self.tick(changes.clock);
        for number in changes.released {
            self.held.take(number);
        }
        changes.held.into_iter().for_each(|(number, click)| self.held.put(number, click));
        for number in changes.burst {
            self.held.mark_burst(number);
        }
        changes.recent.into_iter().for_each(|(mail, recent)| self.held.put_recent(mail, recent));
    }
}

impl Person {
    /// Bytes held outside the value itself.
    fn heap_bytes(&self) -> usize {
        let Self::Known(user) = self;
        heap(user.as_str().len())
    }
}

/// What an allocation takes: allocators round up, most of them to 16 bytes.
fn heap(bytes: usize) -> usize {
    bytes.next_multiple_of(16)
}

/// Empties a list of keys: each key once, in order.
fn drain_distinct(keys: &mut Vec<Hash128>) -> impl Iterator<Item = Hash128> {
    keys.sort_unstable();
    keys.dedup();
    keys.drain(..)
}

#[cfg(test)]
mod tests;
