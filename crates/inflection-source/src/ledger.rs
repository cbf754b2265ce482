//! The books: events in, calls out, computed from what the bus holds.
//!
//! Identity's half is the totals in the last decision message of each partition; delivery's half is the progress record.
//! Both are written together with the work they count, so a crash cannot put them out of step.

mod backlog;
mod metrics;
mod rejected;

use std::collections::HashMap;

use anyhow::Context as _;
use backlog::Backlog;
use inflection_bus::{Bus, Log, Sequence};
use inflection_delivery::{ConnectionKey, Standings, load_progress};
use inflection_domain::{ConnectionId, PartitionCount, Timestamp, WorkspaceId};
use inflection_wire::{ConnectionTotals, DecisionBatch, DeliveryProgress};
pub(crate) use metrics::LedgerMetrics;
use rejected::Rejected;
use serde::{Deserialize, Serialize};

use crate::decided::{decided, intact};

/// The books of an install.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ledger {
    /// Whether everything that came in is somewhere.
    pub(crate) balanced: bool,
    /// Whether nothing is on its way.
    pub(crate) at_rest: bool,
    /// Events and calls that are on their way, parked ones included.
    pub(crate) pending: u64,
    pub(crate) events: EventBooks,
    pub(crate) workspaces: Vec<WorkspaceBooks>,
    pub(crate) calls: Vec<CallBooks>,
    /// When the oldest was received of what waits; for metrics.
    #[serde(skip)]
    pub(crate) oldest: Oldest,
}

/// When the oldest fact was received that a stage has not finished.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Oldest {
    pub(crate) undecided: Option<Timestamp>,
    /// Of calls that are neither finished nor parked.
    pub(crate) undelivered: Option<Timestamp>,
}

/// Events: accepted = folded + duplicate + suppressed + undecodable + pending. Rejected ones were never taken; their count may miss
/// what a process had refused in the last second before it was killed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct EventBooks {
    pub(crate) accepted: u64,
    pub(crate) folded: u64,
    pub(crate) duplicate: u64,
    /// Of suppressed persons, dropped.
    #[serde(default)]
    pub(crate) suppressed: u64,
    pub(crate) undecodable: u64,
    pub(crate) pending: u64,
    /// Of those that are pending: clicks that are held to be judged with later ones.
    #[serde(default)]
    pub(crate) held: u64,
    pub(crate) rejected: u64,
    pub(crate) identity_conflicts: u64,
}

/// Events of one workspace that were decided.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct WorkspaceBooks {
    pub(crate) workspace: String,
    pub(crate) folded: u64,
    pub(crate) duplicate: u64,
    #[serde(default)]
    pub(crate) suppressed: u64,
    pub(crate) rejected: u64,
    pub(crate) identity_conflicts: u64,
    /// Calls decided, before any connection's filter.
    pub(crate) calls: u64,
}

/// Calls of one connection: produced = accepted + dead + dropped + filtered + suppressed + parked + pending.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CallBooks {
    pub(crate) workspace: String,
    pub(crate) connection: String,
    pub(crate) produced: u64,
    /// Answered 2xx, replayed dead letters included.
    pub(crate) accepted: u64,
    /// In the dead letters.
    pub(crate) dead: u64,
    /// Taken out of the dead letters by an operator.
    pub(crate) dropped: u64,
    pub(crate) filtered: u64,
    /// Not sent because their person is suppressed.
    #[serde(default)]
    pub(crate) suppressed: u64,
    pub(crate) parked: u64,
    pub(crate) pending: u64,
    /// Calls that are missing or too many: not zero is a defect.
    pub(crate) gap: u64,
}

/// Reads the books. Asked again, it reads only what is new of the logs.
#[derive(Debug)]
pub(crate) struct Bookkeeper {
    bus: Bus,
    partitions: PartitionCount,
    backlogs: Vec<Backlog>,
    letters: HashMap<ConnectionKey, Standings>,
    rejected: Rejected,
}

impl Bookkeeper {
    pub(crate) fn new(bus: Bus, partitions: PartitionCount) -> Self {
        let backlogs = partitions.all().map(|_| Backlog::default()).collect();
        let rejected = Rejected::follow(&bus);
        Self { bus, partitions, backlogs, letters: HashMap::new(), rejected }
    }

    /// Reads the books.
    pub(crate) async fn read(&mut self) -> anyhow::Result<Ledger> {
        let mut ledger = Ledger::default();
        for (partition, backlog) in self.partitions.all().zip(&mut self.backlogs) {
            let partition = partition.index();
            // Progress first: what is decided meanwhile makes calls pending, never finished.
            let progress = load_progress(&self.bus, partition).await.context("progress cannot be read")?;
            let (decided_through, batch) = decided(&self.bus, &Log::new(&format!("decisions.{partition}"))?).await?;
            add_events(&mut ledger, &batch);
            ledger.events.pending += backlog.count(&self.bus, partition, &batch).await?;
            ledger.oldest.undecided = earlier(ledger.oldest.undecided, backlog.oldest());
            let undelivered = undelivered(&self.bus, partition, &progress, (decided_through, &batch)).await?;
            ledger.oldest.undelivered = earlier(ledger.oldest.undelivered, undelivered);
            add_calls(&mut ledger, &progress, &batch, decided_through);
        }
        self.add_rejected(&mut ledger).await?;
        self.add_letters(&mut ledger).await?;
        let books = &mut ledger.events;
        books.accepted = books.folded + books.duplicate + books.suppressed + books.undecodable + books.pending;
        ledger.pending += books.pending + ledger.calls.iter().map(|calls| calls.pending + calls.parked).sum::<u64>();
        ledger.at_rest = ledger.pending == 0;
        ledger.balanced = ledger.calls.iter().all(|calls| calls.gap == 0);
        Ok(ledger)
    }

    /// Adds what was refused, also of workspaces of which nothing was taken.
    async fn add_rejected(&mut self, ledger: &mut Ledger) -> anyhow::Result<()> {
        for (workspace, count) in self.rejected.counts().await? {
            ledger.add(&workspace, |books| books.rejected += count);
            ledger.events.rejected += count;
        }
        Ok(())
    }

    /// Takes those that were replayed or dropped out of the dead.
    async fn add_letters(&mut self, ledger: &mut Ledger) -> anyhow::Result<()> {
        for calls in ledger.calls.iter_mut().filter(|calls| calls.dead > 0) {
            let key = (WorkspaceId::new(&calls.workspace)?, ConnectionId::new(&calls.connection)?);
            let standings = self.letters.entry(key.clone()).or_default();
            standings.read(&self.bus, &key.0, &key.1).await?;
            let letters = standings.counts();
            calls.dead = calls.dead.saturating_sub(letters.replayed + letters.dropped);
            calls.accepted += letters.replayed;
            calls.dropped += letters.dropped;
        }
        Ok(())
    }
}

/// When the oldest decision was received that a partition's connections have not come to the end of.
async fn undelivered(
    bus: &Bus,
    partition: u16,
    progress: &DeliveryProgress,
    (decided_through, last): (Sequence, &DecisionBatch),
) -> anyhow::Result<Option<Timestamp>> {
    let waits = |totals: &&ConnectionTotals| totals.counted() < produced(totals, last);
    let ended = progress.connections.iter().filter(waits).map(|totals| totals.ended.through).min();
    let Some(ended) = ended.filter(|ended| *ended < decided_through) else { return Ok(None) };
    if ended + 1 == decided_through {
        return Ok(Some(last.received_at));
    }
    let log = Log::new(&format!("decisions.{partition}"))?;
    let first = bus.first(&log, ended).await.context("the decisions cannot be read")?;
    // Deleted meanwhile is delivered meanwhile.
    let Some(first) = first else { return Ok(None) };
    Ok(Some(intact(&log, first.sequence, DecisionBatch::decode_totals(&first.payload))?.received_at))
}

fn earlier(one: Option<Timestamp>, other: Option<Timestamp>) -> Option<Timestamp> {
    [one, other].into_iter().flatten().min()
}

impl Ledger {
    fn add(&mut self, workspace: &str, add: impl FnOnce(&mut WorkspaceBooks)) {
        if let Some(books) = self.workspaces.iter_mut().find(|books| books.workspace == workspace) {
            return add(books);
        }
        let mut books = WorkspaceBooks { workspace: workspace.to_owned(), ..WorkspaceBooks::default() };
        add(&mut books);
        self.workspaces.push(books);
    }
}

fn add_events(ledger: &mut Ledger, batch: &DecisionBatch) {
    for totals in &batch.totals {
        ledger.events.folded += totals.folded;
        ledger.events.duplicate += totals.duplicates;
        ledger.events.suppressed += totals.suppressed;
        ledger.events.held += totals.held;
        ledger.events.pending += totals.held;
        ledger.events.undecodable += totals.undecodable;
        ledger.events.identity_conflicts += totals.identity_conflicts;
        ledger.add(totals.workspace.as_str(), |books| {
            books.folded += totals.folded;
            books.duplicate += totals.duplicates;
            books.suppressed += totals.suppressed;
            books.identity_conflicts += totals.identity_conflicts;
            books.calls += totals.calls;
        });
    }
}

/// Calls that a partition's decisions made for a connection.
fn produced(totals: &ConnectionTotals, last: &DecisionBatch) -> u64 {
    let own = last.totals.iter().find(|decided| decided.workspace == totals.workspace);
    own.map_or(0, |decided| decided.calls).saturating_sub(totals.baseline)
}

fn add_calls(ledger: &mut Ledger, progress: &DeliveryProgress, batch: &DecisionBatch, decided_through: u64) {
    for totals in &progress.connections {
        let produced = produced(totals, batch);
        let counted = totals.counted();
        let at_end = totals.ended.through >= decided_through;
        // Who is at the end has nothing pending; who counted more than was decided is wrong.
        let gap = counted.saturating_sub(produced) + if at_end { produced.saturating_sub(counted) } else { 0 };
        let gap = gap + totals.released().saturating_sub(totals.parked);
        let (workspace, connection) = (totals.workspace.as_str(), totals.connection.as_str());
        let at = ledger
            .calls
            .iter()
            .position(|calls| calls.workspace == workspace && calls.connection == connection)
            .unwrap_or_else(|| {
                let names = (workspace.to_owned(), connection.to_owned());
                ledger.calls.push(CallBooks { workspace: names.0, connection: names.1, ..CallBooks::default() });
                ledger.calls.len() - 1
            });
        if let Some(calls) = ledger.calls.get_mut(at) {
            calls.produced += produced;
            calls.accepted += totals.accepted + totals.released_accepted;
            calls.dead += totals.dead + totals.released_dead;
            calls.filtered += totals.filtered;
            calls.suppressed += totals.suppressed + totals.released_suppressed;
            calls.parked += totals.still_parked();
            calls.pending += produced.saturating_sub(counted);
            calls.gap += gap;
        }
    }
    // Delivery has not looked at this partition yet, so it is not known how many connections these calls are for.
    if progress.connections.is_empty() && progress.read_through < decided_through {
        ledger.pending += batch.totals.iter().map(|totals| totals.calls).sum::<u64>();
    }
}

impl std::fmt::Display for Ledger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let EventBooks {
            accepted,
            folded,
            duplicate,
            suppressed,
            undecodable,
            pending,
            held,
            rejected,
            identity_conflicts,
        } = &self.events;
        writeln!(
            f,
            "events   accepted {accepted} = folded {folded} + duplicate {duplicate} + suppressed {suppressed} + undecodable {undecodable} + pending {pending}"
        )?;
        for calls in &self.calls {
            let CallBooks {
                workspace,
                connection,
                produced,
                accepted,
                dead,
                dropped,
                filtered,
                suppressed,
                parked,
                pending,
                gap,
            } = calls;
            writeln!(
                f,
                "calls    {workspace}/{connection}: produced {produced} = accepted {accepted} + dead {dead} + dropped {dropped} + filtered {filtered} + suppressed {suppressed} + parked {parked} + pending {pending}"
            )?;
            if *gap > 0 {
                writeln!(f, "gap      {workspace}/{connection}: {gap} calls are missing or too many")?;
            }
        }
        if *held > 0 {
            writeln!(f, "held     {held} clicks wait to be judged with later ones")?;
        }
        if *rejected > 0 {
            writeln!(f, "rejected {rejected} events were refused and never taken")?;
        }
        if *identity_conflicts > 0 {
            writeln!(f, "conflicts {identity_conflicts} facts claimed another user id than their person has")?;
        }
        match (self.balanced, self.at_rest) {
            (true, true) => write!(f, "ledger   balanced, at rest"),
            (true, false) => write!(f, "ledger   balanced so far, {} on their way", self.pending),
            (false, _) => write!(f, "ledger   NOT BALANCED"),
        }
    }
}

#[cfg(test)]
mod tests {
    use inflection_bus::EmbeddedConfig;
    use inflection_wire::{CallPosition, WorkspaceTotals};

    use super::*;

    #[tokio::test]
    async fn the_oldest_undelivered_is_behind_the_slowest_connection_that_has_calls() {
        let folder = tempfile::tempdir().unwrap();
        let bus = Bus::open_embedded(EmbeddedConfig::new(folder.path().to_owned())).await.unwrap();
        let (workspace, log) = (WorkspaceId::new("acme").unwrap(), Log::new("decisions.3").unwrap());
        for number in 1..=3u32 {
            let totals = vec![WorkspaceTotals { calls: u64::from(number), ..WorkspaceTotals::new(workspace.clone()) }];
            let received_at = Timestamp::from_ms(i64::from(number));
            let batch = DecisionBatch { received_at, totals, ..DecisionBatch::default() };
            bus.append(&log, None, batch.encode()).await.unwrap();
        }
        let (through, last) = decided(&bus, &log).await.unwrap();
        // How many messages each connection is through with, and how many calls it has counted.
        let cases = [
            (vec![(3, 3)], None),
            (vec![(2, 2)], Some(3)),
            (vec![(3, 3), (0, 0)], Some(1)),
            (vec![(1, 1), (2, 2)], Some(2)),
            (vec![(1, 3)], None),
        ];
        for (ended, expected) in cases {
            let connections = ended.iter().map(|(through, accepted)| {
                let (connection, at) = (ConnectionId::new("c").unwrap(), CallPosition { through: *through, calls: 0 });
                let totals = ConnectionTotals::new(workspace.clone(), connection, 0, at);
                ConnectionTotals { accepted: *accepted, ..totals }
            });
            let progress = DeliveryProgress { connections: connections.collect(), ..DeliveryProgress::default() };
            let oldest = undelivered(&bus, 3, &progress, (through, &last)).await.unwrap();
            assert_eq!(oldest, expected.map(Timestamp::from_ms), "{ended:?}");
        }
        bus.close().await;
    }
}
