//! The books: events in, calls out, computed from what the bus holds.
//!
//! Identity's half is the totals in the last decision message of each partition; delivery's half is the progress record.
//! Both are written together with the work they count, so a crash cannot put them out of step.

use anyhow::Context as _;
use inflection_bus::{Bus, Log};
use inflection_delivery::load_progress;
use inflection_domain::{ConnectionId, PartitionCount, WorkspaceId};
use inflection_ingest::rejected_key;
use inflection_telemetry::{GaugeFamily, Registry};
use inflection_wire::{DecisionBatch, DeliveryProgress, EventBatch, RejectedEvents};
use serde::{Deserialize, Serialize};

/// Bytes read of a log at once.
const READ_BYTES: usize = 1024 * 1024;

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
}

/// Events: accepted = folded + duplicate + undecodable + pending. Rejected ones were never taken; their count may miss
/// what a process had refused in the last second before it was killed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct EventBooks {
    pub(crate) accepted: u64,
    pub(crate) folded: u64,
    pub(crate) duplicate: u64,
    pub(crate) undecodable: u64,
    pub(crate) pending: u64,
    pub(crate) rejected: u64,
    pub(crate) identity_conflicts: u64,
}

/// Events of one workspace that were decided.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct WorkspaceBooks {
    pub(crate) workspace: String,
    pub(crate) folded: u64,
    pub(crate) duplicate: u64,
    pub(crate) rejected: u64,
    pub(crate) identity_conflicts: u64,
    /// Calls decided, before any connection's filter.
    pub(crate) calls: u64,
}

/// Calls of one connection: produced = accepted + dead + dropped + filtered + parked + pending.
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
    pub(crate) parked: u64,
    pub(crate) pending: u64,
    /// Calls that are missing or too many: not zero is a defect.
    pub(crate) gap: u64,
}

/// Reads the books.
pub(crate) async fn read(bus: &Bus, partitions: PartitionCount) -> anyhow::Result<Ledger> {
    let mut ledger = Ledger::default();
    for partition in partitions.all().map(|partition| partition.index()) {
        // Progress first: what is decided meanwhile makes calls pending, never finished.
        let progress = load_progress(bus, partition).await.context("progress cannot be read")?;
        let last = bus.last(&Log::new(&format!("decisions.{partition}"))?).await?;
        let (decided_through, batch) = match last {
            Some(message) => (message.sequence, DecisionBatch::decode(&message.payload)?),
            None => (0, DecisionBatch::default()),
        };
        add_events(&mut ledger, &batch);
        ledger.events.pending += pending_events(bus, partition, &batch).await?;
        add_calls(&mut ledger, &progress, &batch, decided_through);
    }
    for books in &mut ledger.workspaces {
        let record = bus.get_record(&rejected_key(&WorkspaceId::new(&books.workspace)?)).await?;
        books.rejected = record.map_or(0, |record| RejectedEvents::decode(&record.value).count);
        ledger.events.rejected += books.rejected;
    }
    for calls in ledger.calls.iter_mut().filter(|calls| calls.dead > 0) {
        let (workspace, connection) = (WorkspaceId::new(&calls.workspace)?, ConnectionId::new(&calls.connection)?);
        let letters = inflection_delivery::counts(bus, &workspace, &connection).await?;
        calls.dead = calls.dead.saturating_sub(letters.replayed + letters.dropped);
        calls.accepted += letters.replayed;
        calls.dropped += letters.dropped;
    }
    let books = &mut ledger.events;
    books.accepted = books.folded + books.duplicate + books.undecodable + books.pending;
    ledger.pending += books.pending + ledger.calls.iter().map(|calls| calls.pending + calls.parked).sum::<u64>();
    ledger.at_rest = ledger.pending == 0;
    ledger.balanced = ledger.calls.iter().all(|calls| calls.gap == 0);
    Ok(ledger)
}

fn add_events(ledger: &mut Ledger, batch: &DecisionBatch) {
    for totals in &batch.totals {
        ledger.events.folded += totals.folded;
        ledger.events.duplicate += totals.duplicates;
        ledger.events.undecodable += totals.undecodable;
        ledger.events.identity_conflicts += totals.identity_conflicts;
        let name = totals.workspace.as_str();
        let at = ledger.workspaces.iter().position(|books| books.workspace == name).unwrap_or_else(|| {
            ledger.workspaces.push(WorkspaceBooks { workspace: name.to_owned(), ..WorkspaceBooks::default() });
            ledger.workspaces.len() - 1
        });
        if let Some(books) = ledger.workspaces.get_mut(at) {
            books.folded += totals.folded;
            books.duplicate += totals.duplicates;
            books.identity_conflicts += totals.identity_conflicts;
            books.calls += totals.calls;
        }
    }
}

fn add_calls(ledger: &mut Ledger, progress: &DeliveryProgress, batch: &DecisionBatch, decided_through: u64) {
    let decided = |workspace: &WorkspaceId| {
        batch.totals.iter().find(|totals| totals.workspace == *workspace).map_or(0, |totals| totals.calls)
    };
    for totals in &progress.connections {
        let produced = decided(&totals.workspace).saturating_sub(totals.baseline);
        let counted = totals.counted();
        let at_end = totals.ended.through >= decided_through;
        // Who is at the end has nothing pending; who counted more than was decided is wrong.
        let gap = counted.saturating_sub(produced) + if at_end { produced.saturating_sub(counted) } else { 0 };
        let gap = gap + (totals.released_accepted + totals.released_dead).saturating_sub(totals.parked);
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

/// Events behind the last decision, counted where they lie.
async fn pending_events(bus: &Bus, partition: u16, batch: &DecisionBatch) -> anyhow::Result<u64> {
    let log = Log::new(&format!("events.{partition}"))?;
    let Some(last) = bus.last(&log).await?.filter(|last| last.sequence > batch.consumed_through) else { return Ok(0) };
    let mut reader = bus.read(&log, batch.consumed_through);
    let (mut count, mut sequence) = (0u64, batch.consumed_through);
    while sequence < last.sequence {
        // What identity consumes and deletes meanwhile may be the very message we wait for.
        let messages = tokio::time::timeout(std::time::Duration::from_secs(2), reader.next(READ_BYTES)).await;
        let Ok(messages) = messages else { break };
        for message in messages? {
            sequence = message.sequence;
            count += EventBatch::decode(&message.payload).map_or(1, |batch| batch.events.len() as u64);
        }
    }
    Ok(count.saturating_sub(u64::from(batch.consumed_events)))
}

impl std::fmt::Display for Ledger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let EventBooks { accepted, folded, duplicate, undecodable, pending, rejected, identity_conflicts } =
            &self.events;
        writeln!(
            f,
            "events   accepted {accepted} = folded {folded} + duplicate {duplicate} + undecodable {undecodable} + pending {pending}"
        )?;
        for calls in &self.calls {
            let CallBooks { workspace, connection, produced, accepted, dead, dropped, filtered, parked, pending, gap } =
                calls;
            writeln!(
                f,
                "calls    {workspace}/{connection}: produced {produced} = accepted {accepted} + dead {dead} + dropped {dropped} + filtered {filtered} + parked {parked} + pending {pending}"
            )?;
            if *gap > 0 {
                writeln!(f, "gap      {workspace}/{connection}: {gap} calls are missing or too many")?;
            }
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

/// The books as metrics.
#[derive(Debug, Clone)]
pub(crate) struct LedgerMetrics {
    calls: GaugeFamily,
    gap: GaugeFamily,
    pending_events: inflection_telemetry::Gauge,
}

impl LedgerMetrics {
    pub(crate) fn new(registry: &Registry) -> Self {
        Self {
            calls: registry.gauges("inflection_ledger_calls", "Calls of a connection, by what became of them"),
            gap: registry.gauges("inflection_ledger_gap", "Calls that are missing or too many; not zero is a defect"),
            pending_events: registry.gauge("inflection_ledger_events_pending", "Events that are not decided yet"),
        }
    }

    pub(crate) fn set(&self, ledger: &Ledger) {
        let number = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        self.pending_events.set(number(ledger.events.pending));
        for books in &ledger.calls {
            let labels = [("workspace", books.workspace.as_str()), ("connection", books.connection.as_str())];
            self.gap.with(&labels).set(number(books.gap));
            for (fate, count) in [
                ("produced", books.produced),
                ("accepted", books.accepted),
                ("dead", books.dead),
                ("dropped", books.dropped),
                ("filtered", books.filtered),
                ("parked", books.parked),
                ("pending", books.pending),
            ] {
                self.calls.with(&[labels[0], labels[1], ("fate", fate)]).set(number(count));
            }
        }
    }
}
