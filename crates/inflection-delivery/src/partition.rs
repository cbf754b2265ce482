//! The task that reads a partition's decisions, renders their calls and hands them to the connections.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use inflection_bus::{AppendError, Bus, Log, Message, ReadError};
use inflection_control::Connection;
use inflection_domain::{Body, InstallationId, MessageId, WorkspaceId};
use inflection_wire::{
    DeadLetter, DeadLetterEntry, DeadLetterOutcome, Decided, DecisionBatch, DecodeError, WorkspaceTotals, decode_body,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use crate::connection::Command;
use crate::dead_letters::now;
use crate::dispatcher::{Item, LaneId, Ticket};
use crate::metrics::DeliveryMetrics;
use crate::progress::Tracked;
use crate::translate::{Rendered, Translation, translate};
use crate::window::{ConnectionKey, Ends};

/// Bytes of decisions read at once.
const READ_BYTES: usize = 1024 * 1024;
/// The unit in which rendered bytes are counted against the window.
const PERMIT_BYTES: usize = 1024;

/// A connection as its partitions see it.
#[derive(Debug)]
pub(crate) struct Outlet {
    pub(crate) key: ConnectionKey,
    pub(crate) settings: Connection,
    pub(crate) inbox: mpsc::Sender<Command>,
    pub(crate) dead: Log,
}

/// What all partitions share.
#[derive(Debug)]
pub(crate) struct Common {
    pub(crate) bus: Bus,
    pub(crate) installation: InstallationId,
    pub(crate) outlets: HashMap<WorkspaceId, Vec<Outlet>>,
    pub(crate) window: Arc<Semaphore>,
    pub(crate) window_permits: usize,
    pub(crate) metrics: DeliveryMetrics,
}

/// Why a partition cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum PartitionError {
    /// The decision log cannot be read.
    #[error("its decision log cannot be read")]
    Read(#[from] ReadError),
    /// A message is no decision.
    #[error("message {sequence} of its decision log is no decision")]
    Decisions {
        /// Its sequence.
        sequence: u64,
        /// What is wrong with it.
        source: DecodeError,
    },
    /// A dead letter cannot be stored.
    #[error("a dead letter cannot be stored")]
    Bury(#[from] AppendError),
}

/// The reader of one partition.
#[derive(Debug)]
pub(crate) struct Reading {
    pub(crate) partition: u16,
    pub(crate) log: Log,
    pub(crate) after: u64,
    pub(crate) tracked: Arc<Tracked>,
    pub(crate) common: Arc<Common>,
}

/// What one message makes for one connection.
#[derive(Debug, Default)]
struct Output {
    bytes: Vec<u8>,
    rendered: Vec<Rendered>,
    ends: Ends,
    dead: Vec<DeadLetter>,
}

impl Reading {
    /// Reads until `shutdown`.
    pub(crate) async fn run(self, shutdown: CancellationToken) -> Result<(), PartitionError> {
        let mut reader = self.common.bus.read(&self.log, self.after);
        loop {
            let messages = tokio::select! {
                biased;
                () = shutdown.cancelled() => return Ok(()),
                messages = reader.next(READ_BYTES) => messages?,
            };
            for message in messages {
                tokio::select! {
                    biased;
                    () = shutdown.cancelled() => return Ok(()),
                    outcome = self.message(message) => outcome?,
                }
            }
        }
    }

    async fn message(&self, Message { sequence, payload }: Message) -> Result<(), PartitionError> {
        let batch = DecisionBatch::decode(payload).map_err(|source| PartitionError::Decisions { sequence, source })?;
        self.introduce(&batch);
        let mut outputs: HashMap<&ConnectionKey, (&Outlet, Output)> = HashMap::new();
        for decided in &batch.decisions {
            let Some(outlets) = self.common.outlets.get(&decided.workspace) else { continue };
            let body = decode_body(&decided.body);
            for outlet in outlets {
                let (_, output) = outputs.entry(&outlet.key).or_insert_with(|| (outlet, Output::default()));
                match &body {
                    Ok(body) => self.render(decided, body, outlet, output),
                    Err(error) => self.unreadable(decided, error, outlet, output),
                }
            }
        }
        let (mut ends, mut open, mut bytes) = (BTreeMap::new(), 0, 0);
        for (outlet, output) in outputs.values_mut() {
            for letter in std::mem::take(&mut output.dead) {
                self.bury(outlet, letter).await?;
            }
            let labels = [("workspace", outlet.key.0.as_str()), ("connection", outlet.key.1.as_str())];
            if output.ends.filtered > 0 {
                self.common.metrics.filtered.with(&labels).add(output.ends.filtered);
            }
            ends.insert(outlet.key.clone(), output.ends);
            open += output.rendered.len();
            bytes += output.bytes.len();
        }
        let held = self.hold(bytes).await;
        let known = self.known();
        let mut calls = BTreeMap::new();
        for decided in &batch.decisions {
            *calls.entry(decided.workspace.clone()).or_insert(0) += decided.calls.len() as u64;
        }
        self.tracked.update(|window| {
            window.leave_out(&known, &calls, &mut ends);
            window.open(sequence, open, ends, held);
            open == 0
        });
        for (outlet, output) in outputs.into_values() {
            self.push(outlet, output, sequence, &batch).await;
        }
        Ok(())
    }

    /// Connections that are new to this partition begin with this message.
    fn introduce(&self, batch: &DecisionBatch) {
        let before = |totals: &WorkspaceTotals| {
            let own = batch.decisions.iter().filter(|decided| decided.workspace == totals.workspace);
            let calls: usize = own.map(|decided| decided.calls.len()).sum();
            WorkspaceTotals { calls: totals.calls.saturating_sub(calls as u64), ..totals.clone() }
        };
        let known = self.known();
        self.tracked.update(|window| {
            if window.is_new(&known) {
                window.introduce(&known, &batch.totals.iter().map(before).collect::<Vec<_>>());
            }
            false
        });
    }

    fn known(&self) -> Vec<ConnectionKey> {
        self.common.outlets.values().flatten().map(|outlet| outlet.key.clone()).collect()
    }

    fn render(&self, decided: &Decided, body: &Body, outlet: &Outlet, output: &mut Output) {
        for call in &decided.calls {
            let installation = &self.common.installation;
            match translate(installation, &outlet.settings, decided, body, call, &mut output.bytes) {
                Translation::Rendered(rendered) => output.rendered.push(rendered),
                Translation::Filtered => output.ends.filtered += 1,
                Translation::Invalid(invalid) => {
                    output.ends.dead += 1;
                    let letter = self.letter(decided, call, outlet, body.event_id.as_str(), invalid.to_string());
                    output.dead.push(letter);
                }
            }
        }
    }

    fn unreadable(&self, decided: &Decided, error: &DecodeError, outlet: &Outlet, output: &mut Output) {
        tracing::error!(partition = self.partition, %error, "a fact's body cannot be read; its calls are dead");
        for call in &decided.calls {
            output.ends.dead += 1;
            output.dead.push(self.letter(decided, call, outlet, "", "undecodable".to_owned()));
        }
    }

    fn letter(
        &self,
        decided: &Decided,
        call: &inflection_domain::Call,
        outlet: &Outlet,
        event_id: &str,
        reason: String,
    ) -> DeadLetter {
        let (workspace, connection) = outlet.key.clone();
        let id = MessageId::new(&self.common.installation, &decided.workspace, &connection, call.key);
        DeadLetter {
            workspace,
            connection,
            message_id: id.to_string(),
            event_id: event_id.to_owned(),
            kind: call.kind.event_name().unwrap_or(call.kind.name()).to_owned(),
            reason,
            attempts: 0,
            last_status: 0,
            item: Bytes::new(),
        }
    }

    async fn bury(&self, outlet: &Outlet, letter: DeadLetter) -> Result<(), AppendError> {
        let (workspace, connection) = (outlet.key.0.as_str(), outlet.key.1.as_str());
        tracing::warn!(
            workspace,
            connection,
            reason = letter.reason,
            message_id = letter.message_id,
            "segment would drop a call; it goes to the dead letters"
        );
        self.common
            .metrics
            .dead
            .with(&[("workspace", workspace), ("connection", connection), ("reason", "invalid")])
            .add(1);
        let entry = DeadLetterEntry { at: now(), outcome: DeadLetterOutcome::Died(letter) }.encode();
        loop {
            match self.common.bus.append(&outlet.dead, None, entry.clone()).await {
                Ok(_) => return Ok(()),
                Err(error) if self.common.bus.has_failed() => return Err(error),
                Err(error) => {
                    tracing::warn!(%error, "a dead letter waits for the bus");
                    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
                }
            }
        }
    }

    /// Room in the window for rendered bytes; waits while too much is under way.
    async fn hold(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let permits = bytes.div_ceil(PERMIT_BYTES).clamp(1, self.common.window_permits);
        let permits = u32::try_from(permits).unwrap_or(u32::MAX);
        Arc::clone(&self.common.window).acquire_many_owned(permits).await.ok()
    }

    async fn push(&self, outlet: &Outlet, output: Output, sequence: u64, batch: &DecisionBatch) {
        if output.rendered.is_empty() {
            return;
        }
        let bytes = Bytes::from(output.bytes);
        let ticket = Ticket::Decision { partition: self.partition, sequence };
        let items = output.rendered.iter().map(|at| Item {
            bytes: bytes.slice(at.start..at.end),
            split: at.item - at.start,
            ticket,
            received_at: batch.received_at,
        });
        let push = Command::Push { lane: LaneId::Partition(self.partition), items: items.collect() };
        if outlet.inbox.send(push).await.is_err() {
            tracing::debug!(partition = self.partition, "a connection has ended; its calls stay in the log");
        }
    }
}
