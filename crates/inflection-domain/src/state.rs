//! What a partition remembers: persons, mails, and event ids already seen.
//!
//! State is a plain value. Everything that changes it goes through [`PartitionState::fold`](crate::PartitionState::fold)
//! or through [`PartitionState::apply`] with the changes an earlier fold reported; both give the same state, so a log of
//! changes is the state.

use std::collections::BTreeMap;

use hashbrown::{HashMap, HashSet};

use crate::{BounceClass, Hash128, OpenSource, Timestamp, UserId};

/// What is known of a person. Persons of whom nothing is known (still anonymous) have no entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Person {
    /// The person's user id was learned; it stays.
    Known(UserId),
}

/// The first counted click on one link of one mail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkClick {
    /// The link's key.
    pub link: u64,
    /// The event that won, so that the same event processed again is told "unique" again.
    pub winner: u64,
}

/// A counted click that waits for its mail to be opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PendingLink {
    /// The link's key.
    pub link: u64,
    /// The link as clicked.
    pub url: Box<str>,
}

/// What happened to one mail sent to one person (one delivery key `D`).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Delivery {
    /// Day of the last change, in log time; state expires from here.
    pub day: u32,
    /// Whether `Email Delivered` was told.
    pub delivered: bool,
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

    /// Adds a click that waits for the mail to be opened.
    pub(crate) fn wait_for_open(&mut self, link: u64, url: &str) {
        let waiting: usize = self.pending.iter().map(|pending| pending.url.len()).sum();
        let fits = waiting + url.len() <= Self::PENDING_BYTES_MAX;
        self.pending.push(PendingLink { link, url: if fits { url.into() } else { "".into() } });
    }

    fn bytes(&self) -> usize {
        let links = self.clicks.len() * 16 + self.scopes.len() * 8;
        80 + links + self.pending.iter().map(|pending| pending.url.len() + 16).sum::<usize>()
    }
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
}

/// The state of one partition.
#[derive(Debug, Clone, Default)]
pub struct PartitionState {
    pub(crate) log_time: Timestamp,
    pub(crate) persons: HashMap<Hash128, Person>,
    pub(crate) deliveries: HashMap<Hash128, Delivery>,
    /// Event keys by the day they were seen, so that a day is forgotten in one step.
    seen: BTreeMap<u32, HashSet<Hash128>>,
    new_seen: Vec<Hash128>,
    touched_persons: HashSet<Hash128>,
    touched_deliveries: HashSet<Hash128>,
    changes_bytes: usize,
}

impl PartitionState {
    /// Days an event id is remembered: longer than any sender's retries (48 hours at most; `docs/engagement.md`).
    pub const SEEN_DAYS: u32 = 7;
    /// Days a mail's firsts are remembered. Providers report for at most 60 days after sending.
    pub const UNIQUENESS_DAYS: u32 = 400;

    /// Moves log time forward (never back) and forgets what has expired. To be called before the folds of a batch.
    pub fn advance(&mut self, log_time: Timestamp) {
        let (before, after) = (self.log_time.day(), log_time.day());
        self.log_time = self.log_time.max(log_time);
        if after > before {
            self.seen = self.seen.split_off(&after.saturating_sub(Self::SEEN_DAYS));
            self.deliveries.retain(|_, delivery| !Self::expired(delivery, after));
        }
    }

    fn expired(delivery: &Delivery, today: u32) -> bool {
        delivery.day + Self::UNIQUENESS_DAYS < today
    }

    /// Log time: the latest receive time of the batches folded so far.
    #[must_use]
    pub fn log_time(&self) -> Timestamp {
        self.log_time
    }

    /// Entries held: persons, mails, event ids.
    #[must_use]
    pub fn sizes(&self) -> (usize, usize, usize) {
        (self.persons.len(), self.deliveries.len(), self.seen.values().map(HashSet::len).sum())
    }

    /// Remembers an event key; `false` when it was known.
    pub(crate) fn see(&mut self, event: Hash128) -> bool {
        let today = self.log_time.day();
        if self.seen.values().any(|day| day.contains(&event)) {
            return false;
        }
        self.seen.entry(today).or_default().insert(event);
        self.new_seen.push(event);
        self.changes_bytes += 16;
        true
    }

    pub(crate) fn touch_person(&mut self, key: Hash128, person: Person) {
        let Person::Known(user) = &person;
        self.changes_bytes += 32 + user.as_str().len();
        self.persons.insert(key, person);
        self.touched_persons.insert(key);
    }

    pub(crate) fn touch_delivery(&mut self, key: Hash128) -> &mut Delivery {
        self.touched_deliveries.insert(key);
        let today = self.log_time.day();
        let delivery = self.deliveries.entry(key).or_default();
        delivery.day = today;
        self.changes_bytes += delivery.bytes();
        delivery
    }

    /// About how large the changes since the last [`PartitionState::take_changes`] are when written, in bytes.
    #[must_use]
    pub fn changes_bytes(&self) -> usize {
        self.changes_bytes
    }

    /// The changes since the last call, ordered by key so that equal folds give equal bytes.
    pub fn take_changes(&mut self) -> Changes {
        let mut persons: Vec<Hash128> = self.touched_persons.drain().collect();
        persons.sort_unstable();
        let mut deliveries: Vec<Hash128> = self.touched_deliveries.drain().collect();
        deliveries.sort_unstable();
        self.changes_bytes = 0;
        Changes {
            log_time: self.log_time,
            seen: std::mem::take(&mut self.new_seen),
            persons: persons.into_iter().filter_map(|key| Some((key, self.persons.get(&key)?.clone()))).collect(),
            deliveries: deliveries
                .into_iter()
                .filter_map(|key| Some((key, self.deliveries.get(&key)?.clone())))
                .collect(),
        }
    }

    /// Applies changes that an earlier fold reported.
    pub fn apply(&mut self, changes: Changes) {
        self.advance(changes.log_time);
        self.seen.entry(changes.log_time.day()).or_default().extend(changes.seen);
        self.persons.extend(changes.persons);
        self.deliveries.extend(changes.deliveries);
    }
}

impl PartialEq for PartitionState {
    /// Equal memory; what waits in the list of changes does not count, nor do days without events.
    fn eq(&self, other: &Self) -> bool {
        let days = |state: &Self| -> BTreeMap<u32, HashSet<Hash128>> {
            state.seen.iter().filter(|(_, keys)| !keys.is_empty()).map(|(day, keys)| (*day, keys.clone())).collect()
        };
        self.log_time == other.log_time
            && self.persons == other.persons
            && self.deliveries == other.deliveries
            && days(self) == days(other)
    }
}
