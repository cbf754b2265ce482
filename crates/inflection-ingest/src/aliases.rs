//! Whose an address is: kept when an explicit identify says so, looked up for facts that have nothing else.
//!
//! The rule is the domain's ([`Alias`]). Here is how it holds over several processes: the records of the bus are read and
//! written by compare-and-set, and **nothing of them is cached**, so who waits for the 200 of an identify finds its alias
//! through every process from then on, and memory does not grow with the number of aliases. The one thing a process
//! remembers is that there is no alias at all (`begun`): then facts cost nothing here. Facts that name a person cost nothing
//! in any case.

mod begun;
mod plan;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use inflection_bus::{Bus, Expected, Record, RecordError};
use inflection_domain::{Alias, AliasUse, Fact, InstallationKey, PersonId};
use inflection_wire::{ALIASES_BEGUN_RECORD, alias_record, decode_alias, encode_alias};
use tokio::sync::Semaphore;

use self::begun::Begun;
use self::plan::{Found, Plan};
use crate::metrics::IngestMetrics;
use crate::priority::Priority;

/// Records that this process reads or writes at once, over all requests.
const UNDER_WAY_MAX: usize = 64;
/// The same for history, which may have thousands of addresses in one request: live requests do not wait behind it.
const BACKGROUND_UNDER_WAY_MAX: usize = 16;
/// Tries to change aliases that others change too.
const TRIES: usize = 10;
/// Tries to read a record. A leader that is missed is back within seconds.
const READS: usize = 3;
const READ_AGAIN_AFTER: Duration = Duration::from_millis(100);

/// Looks aliases up, and keeps them.
#[derive(Debug)]
pub(crate) struct Aliases {
    bus: Bus,
    metrics: IngestMetrics,
    begun: Begun,
    /// The clock of `begun` starts here.
    started: Instant,
    under_way: Semaphore,
    background_under_way: Semaphore,
    /// Whether the last look at a record had no answer.
    is_silent: AtomicBool,
}

impl Aliases {
    pub(crate) fn new(bus: Bus, metrics: IngestMetrics) -> Self {
        Self {
            bus,
            metrics,
            begun: Begun::default(),
            started: Instant::now(),
            under_way: Semaphore::new(UNDER_WAY_MAX),
            background_under_way: Semaphore::new(BACKGROUND_UNDER_WAY_MAX),
            is_silent: AtomicBool::new(false),
        }
    }

    /// Keeps what the explicit identifies among the facts say of addresses, and makes facts that have nothing but an address
    /// those of the person it is tied to once all of them are kept, wherever in the request they stand.
    ///
    /// When it fails no fact has changed. What an identify said may be kept all the same: its sender sends it again, and each
    /// fact then becomes the same person's as it would have been.
    pub(crate) async fn route(
        &self,
        facts: &mut [Fact<'_>],
        key: &InstallationKey,
        priority: Priority,
    ) -> Result<(), RecordError> {
        let places = match priority {
            Priority::Live => &self.under_way,
            Priority::Background => &self.background_under_way,
        };
        let uses = facts.iter().enumerate().filter_map(|(place, fact)| Some((place, AliasUse::of(fact, key)?)));
        let uses: Vec<(usize, AliasUse)> = uses.collect();
        let ties = uses.iter().any(|(_, alias)| alias.ties);
        if uses.is_empty() || !self.may_be_any(ties, places).await? {
            return Ok(());
        }
        let mut unkept = HashSet::new();
        for _ in 0..TRIES {
            let plan = Plan::of(facts, &uses, &self.look_up(&uses, places).await?, &unkept);
            if self.write(&plan, &mut unkept, places).await? {
                self.metrics.routed.add(plan.routes.len() as u64);
                for (place, person) in &plan.routes {
                    if let Some(fact) = facts.get_mut(*place) {
                        fact.follow_address(person);
                    }
                }
                return Ok(());
            }
        }
        Err(RecordError::Conflict)
    }

    /// Whether there may be an alias; there will be one if the request `ties` an address.
    async fn may_be_any(&self, ties: bool, places: &Semaphore) -> Result<bool, RecordError> {
        let asked = self.started.elapsed();
        if !ties && self.begun.is_not(asked) {
            return Ok(false);
        }
        if !self.begun.is() {
            let there = self.read(ALIASES_BEGUN_RECORD, places).await?.is_some();
            if !there && !ties {
                self.begun.was_not(asked);
                return Ok(false);
            }
            if !there {
                let mark = self.bus.put_record(ALIASES_BEGUN_RECORD, Expected::Absent, Bytes::from_static(b"1")).await;
                match mark {
                    Ok(_) | Err(RecordError::Conflict) => {}
                    // Without the mark there will be no alias, and nothing to look up.
                    Err(RecordError::Full(_)) => {
                        self.metrics.aliases_unkept.add(1);
                        return Ok(false);
                    }
                    Err(error) => return Err(error),
                }
            }
            self.begun.has(self.started.elapsed());
        }
        // Other processes may believe a little longer that there is none.
        if ties && self.bus.is_shared() {
            tokio::time::sleep(self.begun.until_all_know(self.started.elapsed())).await;
        }
        Ok(true)
    }

    async fn look_up(
        &self,
        uses: &[(usize, AliasUse)],
        places: &Semaphore,
    ) -> Result<HashMap<PersonId, Found>, RecordError> {
        let distinct: HashSet<PersonId> = uses.iter().map(|(_, alias)| alias.derived.clone()).collect();
        let found = stream::iter(distinct).map(|derived| self.look_up_one(derived, places));
        found.buffer_unordered(UNDER_WAY_MAX).try_collect().await
    }

    async fn look_up_one(&self, derived: PersonId, places: &Semaphore) -> Result<(PersonId, Found), RecordError> {
        let found = Found::of(self.read(&alias_record(&derived), places).await?);
        self.metrics.alias_looked_up(found.alias.as_ref());
        Ok((derived, found))
    }

    /// Writes what has changed. False when somebody else was faster with any of it, or there was no room for it: then `unkept`
    /// says which, and all is to be planned anew. What was written is found again.
    async fn write(
        &self,
        plan: &Plan,
        unkept: &mut HashSet<PersonId>,
        places: &Semaphore,
    ) -> Result<bool, RecordError> {
        let written = stream::iter(plan.changes.clone()).map(|change| self.write_one(change, places));
        let mut written = written.buffer_unordered(UNDER_WAY_MAX);
        let mut whole = true;
        while let Some((derived, outcome)) = written.next().await {
            match outcome {
                Ok(()) => {}
                Err(RecordError::Conflict) => whole = false,
                Err(RecordError::Full(why)) => {
                    tracing::warn!(why, "no further alias of an address can be kept");
                    self.metrics.aliases_unkept.add(1);
                    unkept.insert(derived);
                    whole = false;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(whole)
    }

    async fn write_one(
        &self,
        change: (PersonId, Alias, Expected),
        places: &Semaphore,
    ) -> (PersonId, Result<(), RecordError>) {
        let (derived, alias, expected) = change;
        let _place = places.acquire().await;
        let outcome = self.bus.put_record(&alias_record(&derived), expected, encode_alias(&alias)).await;
        (derived, outcome.map(|_revision| self.metrics.alias_changed(&alias)))
    }

    async fn read(&self, record: &str, places: &Semaphore) -> Result<Option<Record>, RecordError> {
        let _place = places.acquire().await;
        // Who waits for a bus that is known to be away hears so at once, and not one time-out later each.
        if self.is_silent.load(Ordering::Relaxed) {
            self.bus.health().await.map_err(RecordError::Unavailable)?;
        }
        let mut tries = 1;
        loop {
            let outcome = self.bus.get_record(record).await;
            let silent = matches!(outcome, Err(RecordError::Unavailable(_)));
            if !silent || tries == READS {
                self.is_silent.store(silent, Ordering::Relaxed);
                return outcome;
            }
            tries += 1;
            tokio::time::sleep(READ_AGAIN_AFTER).await;
        }
    }
}

impl Found {
    /// What a record says. One that cannot be read says that the address is nobody's.
    fn of(record: Option<Record>) -> Self {
        let Some(Record { value, revision }) = record else { return Self { alias: None, expected: Expected::Absent } };
        let alias = decode_alias(&value).unwrap_or_else(|error| {
            tracing::warn!(%error, "an alias of an address is damaged, and counts as shared");
            Alias::Shared
        });
        Self { alias: Some(alias), expected: Expected::Revision(revision) }
    }
}

#[cfg(test)]
mod tests;
