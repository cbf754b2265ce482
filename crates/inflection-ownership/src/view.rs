//! What one worker knows of its stage, and what it does about it. A pure state machine: time is an argument.
//!
//! Each worker counts the beats of the others by its own clock: no two clocks need to agree. What it wants follows from
//! who is alive; what it has follows from compare-and-set on the owner's record of each partition. A partition changes
//! hands when its owner lets go of it, when its owner is dead, or when its owner takes too long.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use inflection_wire::{MemberRecord, OwnerRecord};

use crate::assign;

/// A worker gives a sign of life this often.
const BEAT_EVERY: Duration = Duration::from_secs(1);
/// A worker without one for so long is dead.
const DEAD_AFTER: Duration = Duration::from_secs(6);
/// A dead worker's record is deleted after this.
const FORGET_AFTER: Duration = Duration::from_secs(30);
/// How long an owner that lives may take to let go of a partition.
const PATIENCE: Duration = Duration::from_secs(5);
/// A worker whose own signs of life do not come through for so long knows nothing of the others' either: it was asleep, or
/// the bus is away. Until they do again nobody is taken for dead.
const BLIND_AFTER: Duration = Duration::from_secs(3);
/// How long a worker that leaves may take to let go of everything.
const LEAVE_WITHIN: Duration = Duration::from_secs(15);
/// Wait before a write is tried again that did not come through.
const RETRY_AFTER: Duration = Duration::from_millis(500);

/// A worker's name within its stage: the same again when its process is started again.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkerId(String);

impl WorkerId {
    /// A name of letters, digits, `-` and `_`; other characters become `_`.
    #[must_use]
    pub fn new(name: impl AsRef<str>) -> Self {
        let plain = |character: char| character.is_ascii_alphanumeric() || character == '-' || character == '_';
        let name: String = name.as_ref().chars().take(64).map(|one| if plain(one) { one } else { '_' }).collect();
        Self(if name.is_empty() { "_".to_owned() } else { name })
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// One life of a worker.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Claim {
    /// Its name.
    pub worker: WorkerId,
    /// When its process started, in Unix microseconds: of two with one name the younger stays.
    pub incarnation: u64,
}

impl Claim {
    /// The owner that a record names, if it names one.
    #[must_use]
    pub fn of(record: &OwnerRecord) -> Option<Self> {
        let named = !record.worker.is_empty();
        named.then(|| Self { worker: WorkerId(record.worker.clone()), incarnation: record.incarnation })
    }

    /// The record that names it.
    #[must_use]
    pub fn record(claim: Option<&Self>) -> OwnerRecord {
        claim.map_or_else(OwnerRecord::default, |claim| OwnerRecord {
            worker: claim.worker.0.clone(),
            incarnation: claim.incarnation,
        })
    }
}

/// What the shell should do now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Write a sign of life.
    Beat(MemberRecord),
    /// Write who owns a partition, if its record is still this revision (0: there is none), and say what came of it.
    Write {
        /// The partition.
        partition: u16,
        /// The owner; nobody when it is let go of.
        owner: Option<Claim>,
        /// The revision.
        revision: u64,
    },
    /// Serve a partition.
    Start(u16),
    /// Stop serving a partition, and say when that is done.
    Stop(u16),
    /// Delete the record of a worker that is long dead.
    Forget(WorkerId),
    /// Another process has this worker's name: end.
    Replaced,
    /// Nothing is held any more: end.
    Left,
    /// Nothing until this moment, or until something is told.
    Wait(Duration),
}

/// What a worker does with a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Hold {
    Nothing,
    Claiming,
    Serving,
    Stopping,
    Releasing,
}

#[derive(Debug, Clone, Hash)]
struct Partition {
    owner: Option<Claim>,
    revision: u64,
    hold: Hold,
    /// Since when it is wanted while somebody else has it.
    wanted_since: Option<Duration>,
    not_before: Duration,
}

#[derive(Debug, Clone, Hash)]
struct Seen {
    record: (u64, u64, bool),
    at: Duration,
}

/// What one worker knows and does.
#[derive(Debug, Clone, Hash)]
pub struct Ownership {
    me: Claim,
    members: BTreeMap<WorkerId, Seen>,
    partitions: Vec<Partition>,
    /// Who is alive, as of the last look, and whether each partition is to be this worker's.
    alive: BTreeSet<WorkerId>,
    desired: Vec<bool>,
    beat: u64,
    beat_at: Duration,
    /// When a sign of life last came through.
    beaten_at: Option<Duration>,
    leaving_since: Option<Duration>,
    replaced: bool,
    /// Partitions that were claimed and are to be served.
    claimed: VecDeque<u16>,
}

impl Ownership {
    /// A worker that knows nothing yet and has nothing.
    #[must_use]
    pub fn new(me: Claim, partitions: u16, now: Duration) -> Self {
        let partition =
            Partition { owner: None, revision: 0, hold: Hold::Nothing, wanted_since: None, not_before: Duration::ZERO };
        Self {
            me,
            members: BTreeMap::new(),
            partitions: vec![partition; usize::from(partitions)],
            alive: BTreeSet::new(),
            desired: vec![false; usize::from(partitions)],
            beat: 0,
            beat_at: now,
            beaten_at: None,
            leaving_since: None,
            replaced: false,
            claimed: VecDeque::new(),
        }
    }

    /// Lets go of everything.
    pub fn leave(&mut self, now: Duration) {
        self.leaving_since.get_or_insert(now);
        self.beat_at = now;
    }

    /// A sign of life has come through. After a time of blindness the others' silence counts from now.
    pub fn beaten(&mut self, now: Duration) {
        if self.is_blind(now) {
            self.members.values_mut().for_each(|seen| seen.at = now);
        }
        self.beaten_at = Some(now);
    }

    fn is_blind(&self, now: Duration) -> bool {
        self.beaten_at.is_none_or(|at| now.saturating_sub(at) >= BLIND_AFTER)
    }

    /// A worker's record was read.
    pub fn member(&mut self, worker: WorkerId, record: MemberRecord, now: Duration) {
        if worker == self.me.worker {
            self.replaced |= record.incarnation > self.me.incarnation;
            return;
        }
        let record = (record.incarnation, record.beat, record.leaving);
        match self.members.get_mut(&worker) {
            // What an older life said counts no more.
            Some(seen) if seen.record == record || seen.record.0 > record.0 => {}
            Some(seen) => *seen = Seen { record, at: now },
            None => drop(self.members.insert(worker, Seen { record, at: now })),
        }
    }

    /// A partition's owner record was read.
    pub fn owner(&mut self, partition: u16, record: &OwnerRecord, revision: u64) {
        let Some(one) = self.partitions.get_mut(usize::from(partition)) else { return };
        if revision > one.revision {
            one.owner = Claim::of(record);
            let younger = |owner: &Claim| owner.worker == self.me.worker && owner.incarnation > self.me.incarnation;
            self.replaced |= one.owner.as_ref().is_some_and(younger);
            one.revision = revision;
            one.not_before = Duration::ZERO;
        }
    }

    /// A write came through and gave this revision; or it did not (somebody else wrote, or the bus is away).
    pub fn written(&mut self, partition: u16, revision: Option<u64>, now: Duration) {
        let Some(one) = self.partitions.get_mut(usize::from(partition)) else { return };
        let claiming = one.hold == Hold::Claiming;
        match revision {
            Some(revision) => {
                // What was read meanwhile may already be newer.
                if revision > one.revision {
                    one.owner = claiming.then(|| self.me.clone());
                    one.revision = revision;
                }
                one.wanted_since = None;
                // Somebody else may have taken it before the answer came: then it was never this worker's to serve.
                let taken = claiming && one.owner.as_ref() == Some(&self.me);
                one.hold = if taken { Hold::Serving } else { Hold::Nothing };
                if taken {
                    self.claimed.push_back(partition);
                }
            }
            None => {
                one.not_before = now + RETRY_AFTER;
                // A release that did not come through is no harm: it is done again, or somebody else has the partition.
                one.hold = Hold::Nothing;
            }
        }
    }

    /// A partition is not served any more.
    pub fn stopped(&mut self, partition: u16) {
        if let Some(one) = self.partitions.get_mut(usize::from(partition)).filter(|one| one.hold == Hold::Stopping) {
            one.hold = Hold::Nothing;
        }
    }

    /// The next thing to do. To be called again until it says to wait, or to end.
    pub fn poll(&mut self, now: Duration) -> Action {
        if self.replaced && self.leaving_since.is_none() {
            return Action::Replaced;
        }
        if now >= self.beat_at {
            self.beat += 1;
            self.beat_at = now + BEAT_EVERY;
            let (incarnation, beat, leaving) = (self.me.incarnation, self.beat, self.leaving_since.is_some());
            return Action::Beat(MemberRecord { incarnation, beat, leaving });
        }
        if let Some(partition) = self.claimed.pop_front() {
            return Action::Start(partition);
        }
        if !self.is_blind(now) {
            if let Some(forgotten) = self.forget(now) {
                return Action::Forget(forgotten);
            }
            self.wish(now);
        }
        for number in 0..self.partitions.len() {
            if let Some(action) = self.partition(number, now) {
                return action;
            }
        }
        if let Some(since) = self.leaving_since {
            let gone = self.partitions.iter().all(|one| one.hold == Hold::Nothing && !self.is_mine(one));
            if gone || now.saturating_sub(since) >= LEAVE_WITHIN {
                return Action::Left;
            }
        }
        Action::Wait(self.wake_at(now))
    }

    fn is_mine(&self, one: &Partition) -> bool {
        one.owner.as_ref() == Some(&self.me)
    }

    fn forget(&mut self, now: Duration) -> Option<WorkerId> {
        let long_dead = |seen: &Seen| now.saturating_sub(seen.at) >= FORGET_AFTER;
        let worker = self.members.iter().find(|(_, seen)| long_dead(seen)).map(|(worker, _)| worker.clone())?;
        self.members.remove(&worker);
        Some(worker)
    }

    /// Works out anew what this worker should have, when other workers are alive than before.
    fn wish(&mut self, now: Duration) {
        let living = |seen: &Seen| now.saturating_sub(seen.at) < DEAD_AFTER && !seen.record.2;
        let mut alive: BTreeSet<WorkerId> =
            self.members.iter().filter(|(_, seen)| living(seen)).map(|(worker, _)| worker.clone()).collect();
        if self.leaving_since.is_none() {
            alive.insert(self.me.worker.clone());
        }
        if alive == self.alive {
            return;
        }
        let workers: Vec<&WorkerId> = alive.iter().collect();
        let owners = assign(&workers, u16::try_from(self.partitions.len()).unwrap_or(u16::MAX));
        let desired = self.desired.iter_mut().zip(owners.into_iter().map(Some).chain(std::iter::repeat(None)));
        desired.for_each(|(desired, owner)| *desired = owner == Some(&self.me.worker));
        self.alive = alive;
    }

    /// The next thing to do about one partition.
    fn partition(&mut self, number: usize, now: Duration) -> Option<Action> {
        let desired = self.leaving_since.is_none() && self.desired.get(number).copied().unwrap_or(false);
        let one = self.partitions.get(number)?;
        let (mine, partition) = (self.is_mine(one), u16::try_from(number).ok()?);
        match one.hold {
            Hold::Serving if !desired || !mine => {
                self.partitions.get_mut(number)?.hold = Hold::Stopping;
                Some(Action::Stop(partition))
            }
            Hold::Nothing if now < one.not_before => None,
            Hold::Nothing if desired && self.is_blind(now) => None,
            Hold::Nothing if desired => self.claim(number, now),
            Hold::Nothing if mine => {
                let revision = one.revision;
                self.partitions.get_mut(number)?.hold = Hold::Releasing;
                Some(Action::Write { partition, owner: None, revision })
            }
            Hold::Nothing => {
                self.partitions.get_mut(number)?.wanted_since = None;
                None
            }
            Hold::Serving | Hold::Claiming | Hold::Stopping | Hold::Releasing => None,
        }
    }

    /// Takes a wanted partition, when its owner has let go of it, is dead, or takes too long.
    fn claim(&mut self, number: usize, now: Duration) -> Option<Action> {
        let one = self.partitions.get(number)?;
        let free = match &one.owner {
            None => true,
            Some(owner) if owner.worker == self.me.worker => true,
            Some(owner) => match self.members.get(&owner.worker) {
                Some(seen) => seen.record.0 > owner.incarnation || now.saturating_sub(seen.at) >= DEAD_AFTER,
                // Its first sign of life may still be on its way here; for one that is long gone, patience ends the wait.
                None => false,
            },
        };
        let me = self.me.clone();
        let one = self.partitions.get_mut(number)?;
        let since = *one.wanted_since.get_or_insert(now);
        if !free && now.saturating_sub(since) < PATIENCE {
            return None;
        }
        one.hold = Hold::Claiming;
        Some(Action::Write { partition: u16::try_from(number).ok()?, owner: Some(me), revision: one.revision })
    }

    /// When something may have to be done although nothing is told.
    fn wake_at(&self, now: Duration) -> Duration {
        let deaths = self.members.values().flat_map(|seen| [seen.at + DEAD_AFTER, seen.at + FORGET_AFTER]);
        let waits = self.partitions.iter().filter(|one| one.hold == Hold::Nothing);
        let waits = waits.flat_map(|one| [one.wanted_since.map(|since| since + PATIENCE), Some(one.not_before)]);
        let later = deaths.chain(waits.flatten()).filter(|at| *at > now);
        let leave = self.leaving_since.map(|since| since + LEAVE_WITHIN);
        later.chain(leave).chain([self.beat_at]).min().unwrap_or(self.beat_at)
    }
}

#[cfg(test)]
mod explore;
#[cfg(test)]
mod tests;
