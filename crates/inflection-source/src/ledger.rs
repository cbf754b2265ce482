//! The books: events in, calls out, computed from what the bus holds.
//!
//! Identity's half is the totals in the last decision message of each partition; delivery's half is the progress record.
//! Both are written together with the work they count, so a crash cannot put them out of step.

use anyhow::Context as _;
use inflection_bus::{Bus, Log};
use inflection_delivery::load_progress;
use inflection_domain::{PartitionCount, WorkspaceId};
use inflection_wire::{ConnectionTotals, DecisionBatch, DeliveryProgress, EventBatch};
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
    /// Events and calls that are on their way.
    pub(crate) pending: u64,
    pub(crate) events: EventBooks,
    pub(crate) calls: Vec<CallBooks>,
}

/// Events: accepted = folded + duplicate + undecodable + pending.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct EventBooks {
    pub(crate) accepted: u64,
    pub(crate) folded: u64,
    pub(crate) duplicate: u64,
    pub(crate) undecodable: u64,
    pub(crate) pending: u64,
    pub(crate) identity_conflicts: u64,
}

/// Calls of one connection: produced = accepted + dead + filtered + pending.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CallBooks {
    pub(crate) workspace: String,
    pub(crate) connection: String,
    pub(crate) produced: u64,
    pub(crate) accepted: u64,
    pub(crate) dead: u64,
    pub(crate) filtered: u64,
    pub(crate) pending: u64,
}

/// Reads the books.
pub(crate) async fn read(bus: &Bus, partitions: PartitionCount) -> anyhow::Result<Ledger> {
    let mut ledger = Ledger { balanced: true, ..Ledger::default() };
    for partition in partitions.all().map(|partition| partition.index()) {
        // Progress first: what is decided meanwhile makes calls pending, never finished.
        let progress = load_progress(bus, partition).await.context("progress cannot be read")?;
        let last = bus.last(&Log::new(&format!("decisions.{partition}"))?).await?;
        let (decided_through, batch) = match last {
            Some(message) => (message.sequence, DecisionBatch::decode(message.payload)?),
            None => (0, DecisionBatch::default()),
        };
        add_events(&mut ledger.events, &batch);
        ledger.events.pending += pending_events(bus, partition, &batch).await?;
        add_calls(&mut ledger, &progress, &batch, progress.finished_through >= decided_through);
    }
    let books = &mut ledger.events;
    books.accepted = books.folded + books.duplicate + books.undecodable + books.pending;
    ledger.pending += books.pending + ledger.calls.iter().map(|calls| calls.pending).sum::<u64>();
    ledger.at_rest = ledger.pending == 0;
    Ok(ledger)
}

fn add_events(books: &mut EventBooks, batch: &DecisionBatch) {
    for totals in &batch.totals {
        books.folded += totals.folded;
        books.duplicate += totals.duplicates;
        books.undecodable += totals.undecodable;
        books.identity_conflicts += totals.identity_conflicts;
    }
}

fn add_calls(ledger: &mut Ledger, progress: &DeliveryProgress, batch: &DecisionBatch, at_end: bool) {
    let decided = |workspace: &WorkspaceId| {
        batch.totals.iter().find(|totals| totals.workspace == *workspace).map_or(0, |totals| totals.calls)
    };
    for ConnectionTotals { workspace, connection, baseline, accepted, dead, filtered, .. } in &progress.connections {
        let produced = decided(workspace).saturating_sub(*baseline);
        let finished = accepted + dead + filtered;
        // A connection whose cursor is at the end has nothing pending; one that finished more than was decided is wrong.
        ledger.balanced &= finished <= produced && (!at_end || finished == produced);
        let (workspace, connection) = (workspace.as_str(), connection.as_str());
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
            calls.accepted += accepted;
            calls.dead += dead;
            calls.filtered += filtered;
            calls.pending += produced.saturating_sub(finished);
        }
    }
    // Delivery has not looked at this partition yet, so it is not known how many connections these calls are for.
    if progress.connections.is_empty() && !at_end {
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
            count += EventBatch::decode(message.payload).map_or(1, |batch| batch.events.len() as u64);
        }
    }
    Ok(count.saturating_sub(u64::from(batch.consumed_events)))
}

impl std::fmt::Display for Ledger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let EventBooks { accepted, folded, duplicate, undecodable, pending, identity_conflicts } = &self.events;
        writeln!(
            f,
            "events   accepted {accepted} = folded {folded} + duplicate {duplicate} + undecodable {undecodable} + pending {pending}"
        )?;
        for calls in &self.calls {
            let CallBooks { workspace, connection, produced, accepted, dead, filtered, pending } = calls;
            writeln!(
                f,
                "calls    {workspace}/{connection}: produced {produced} = accepted {accepted} + dead {dead} + filtered {filtered} + pending {pending}"
            )?;
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
