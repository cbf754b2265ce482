//! The loop around one partition's fold: read, fold, append, purge; and recovery from a snapshot and the log after it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use inflection_bus::{AppendError, Bus, InvalidName, Log, Message, ReadError, Reader};
use inflection_control::{Directory, Workspace};
use inflection_domain::{InstallationKey, Partition, Timestamp};
use inflection_telemetry::Pulse;
use inflection_wire::{DecisionBatch, DecodeError, Snapshot, event_batch};
use tokio_util::sync::CancellationToken;

use crate::budget::{StateBudget, StateSize};
use crate::metrics::IdentityMetrics;
use crate::snapshots::{LoadError, SnapshotConfig, Snapshots};
use crate::step::{Input, Step};
use crate::trace::StepTrace;
use crate::{IdentityConfig, Policies};

/// Bytes of input read for one step.
const INPUT_BYTES_MAX: usize = 512 * 1024;
/// Bytes of output after which a step ends; the largest single fact still fits into a message with them.
pub(crate) const OUTPUT_BYTES: usize = 512 * 1024;
/// Consumed input is deleted this often.
const PURGE_EVERY: Duration = Duration::from_secs(2);
/// Shortest and longest wait before an append is tried again.
const RETRY_WAIT: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// Shortest wait between two time marks of a partition.
const MARK_EVERY: Duration = Duration::from_secs(1);
/// How often a partition that holds still looks whether there is room again.
const HOLD_LOOK: Duration = Duration::from_secs(1);
/// Wait after another owner has written, before the state is read anew.
const FENCED_WAIT: Duration = Duration::from_millis(500);

/// Why a partition cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum PartitionError {
    /// The bus cannot be read any more.
    #[error("its logs cannot be read")]
    Read(#[from] ReadError),
    /// The decision log holds something that is no decision.
    #[error("message {sequence} of its decision log is no decision")]
    Decisions {
        /// Its sequence.
        sequence: u64,
        /// What is wrong with it.
        source: DecodeError,
    },
    /// Neither its snapshots nor its log give its state.
    #[error("its state cannot be restored: {0}")]
    Snapshots(String),
    /// The store has failed for good.
    #[error("the bus has failed: {0}")]
    Failed(String),
}

/// One partition's owner.
#[derive(Debug)]
pub(crate) struct Worker {
    partition: Partition,
    bus: Bus,
    events: Log,
    decisions: Log,
    unparsed: Log,
    directory: Directory,
    key: InstallationKey,
    snapshots: SnapshotConfig,
    budget: StateBudget,
    metrics: IdentityMetrics,
    pulse: Pulse,
}

/// What recovery gives: where to go on.
pub(crate) struct Recovered {
    pub(crate) step: Step,
    pub(crate) fence: u64,
    reader: Reader,
    pub(crate) snapshots: Snapshots,
}

impl Worker {
    pub(crate) fn new(
        partition: Partition,
        bus: &Bus,
        config: &IdentityConfig,
        snapshots: SnapshotConfig,
        metrics: IdentityMetrics,
    ) -> Result<Self, InvalidName> {
        Ok(Self {
            partition,
            bus: bus.clone(),
            events: Log::new(&format!("events.{partition}"))?,
            decisions: Log::new(&format!("decisions.{partition}"))?,
            unparsed: Log::new(&format!("unparsed._events.{partition}"))?,
            directory: config.directory.clone(),
            key: config.key.clone(),
            snapshots,
            budget: config.state_budget.clone(),
            pulse: metrics.liveness.watch("identity, folding a partition,"),
            metrics,
        })
    }

    /// Owns the partition until `shutdown`. A step in hand is finished: what was read is either decided or not consumed.
    pub(crate) async fn run(self, shutdown: CancellationToken) -> Result<(), PartitionError> {
        let mut wait = RETRY_WAIT.0;
        while !shutdown.is_cancelled() {
            let recovered = tokio::select! {
                biased;
                () = shutdown.cancelled() => return Ok(()),
                recovered = self.recover_if_there_is_room() => recovered,
            };
            match recovered {
                Ok(None) => tokio::select! {
                    () = shutdown.cancelled() => return Ok(()),
                    () = tokio::time::sleep(HOLD_LOOK) => self.metrics.holds.add(1),
                },
                Ok(Some((recovered, size))) => {
                    wait = RETRY_WAIT.0;
                    self.own(recovered, size, &shutdown).await?;
                    // Another owner has written. That this worker is one no more will be told in a moment: until then
                    // the two must not keep reading the log anew in turn.
                    tokio::select! {
                        () = shutdown.cancelled() => return Ok(()),
                        () = tokio::time::sleep(FENCED_WAIT) => {}
                    }
                }
                // The bus may be away while we start; a damaged log is another matter.
                Err(PartitionError::Read(ReadError::Unavailable(error))) => {
                    if self.bus.has_failed() {
                        return Err(PartitionError::Failed(error));
                    }
                    tracing::warn!(partition = self.partition.index(), error, "a partition waits for the bus");
                    tokio::select! {
                        () = shutdown.cancelled() => return Ok(()),
                        () = tokio::time::sleep(wait) => wait = (wait * 2).min(RETRY_WAIT.1),
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Rebuilds the state and counts it, unless what is loaded already takes too much memory.
    async fn recover_if_there_is_room(&self) -> Result<Option<(Recovered, StateSize)>, PartitionError> {
        let Some(_until_counted) = self.budget.admit().await else { return Ok(None) };
        let recovered = self.recover().await?;
        let mut size = StateSize::of(self.partition.index(), &self.budget, &self.metrics);
        measure(&recovered.step, &mut size);
        Ok(Some((recovered, size)))
    }

    /// Rebuilds the state from the newest snapshot and the decision log after it.
    pub(crate) async fn recover(&self) -> Result<Recovered, PartitionError> {
        let started = Instant::now();
        let last = self.bus.last(&self.decisions).await?.map_or(0, |last| last.sequence);
        let (mut snapshots, snapshot) = self.load_snapshot(last).await?;
        let after = snapshot.as_ref().map_or(0, |snapshot| snapshot.head.decisions_through);
        let (mut step, mut fence) = (snapshot.map(Step::restore).unwrap_or_default(), after);
        let mut log = self.bus.read(&self.decisions, after);
        while fence < last {
            for Message { sequence, payload } in log.next(INPUT_BYTES_MAX).await? {
                snapshots.appended(payload.len());
                let _work = self.pulse.work();
                let batch =
                    DecisionBatch::decode(&payload).map_err(|source| PartitionError::Decisions { sequence, source })?;
                step.replay(batch);
                fence = sequence;
            }
        }
        let reader = self.bus.read(&self.events, step.position().through);
        let (persons, mails, events) = step.state().sizes();
        tracing::debug!(partition = self.partition.index(), snapshot = after, persons, mails, events,
            elapsed = ?started.elapsed(), "partition recovered");
        Ok(Recovered { step, fence, reader, snapshots })
    }

    async fn load_snapshot(&self, log_end: u64) -> Result<(Snapshots, Option<Snapshot>), PartitionError> {
        let (config, metrics) = (self.snapshots.clone(), self.metrics.clone());
        let loaded =
            Snapshots::load(self.partition.index(), &self.bus, (&self.decisions, log_end), config, metrics).await;
        loaded.map_err(|error| match error {
            LoadError::Unavailable(error) => PartitionError::Read(ReadError::Unavailable(error)),
            error @ (LoadError::Index(_) | LoadError::Lost { .. }) => PartitionError::Snapshots(error.to_string()),
        })
    }

    /// Folds until `shutdown`, or until another owner has written (then it returns, and recovery starts anew).
    async fn own(
        &self,
        recovered: Recovered,
        mut size: StateSize,
        shutdown: &CancellationToken,
    ) -> Result<(), PartitionError> {
        let Recovered { mut step, mut fence, mut reader, mut snapshots } = recovered;
        let mut workspaces = self.directory.current();
        let mut policies = Policies::of(&workspaces, &self.key);
        let mut inputs = VecDeque::new();
        let (mut purged, mut purge_at) = (step.position().through, Instant::now() + PURGE_EVERY);
        let mut marked: Option<Instant> = None;
        loop {
            if inputs.is_empty() {
                let (mark_at, through) = (mark_at(&step, marked), step.position().through);
                let messages = if self.budget.exceeded().is_some() {
                    tokio::select! {
                        () = shutdown.cancelled() => return Ok(()),
                        () = tokio::time::sleep(HOLD_LOOK) => self.metrics.holds.add(1),
                    }
                    None
                } else {
                    tokio::select! {
                        biased;
                        () = shutdown.cancelled() => return Ok(()),
                        messages = reader.next(INPUT_BYTES_MAX) => Some(messages?),
                        () = tokio::time::sleep_until(purge_at.into()), if purged < through || snapshots.are_owed() => None,
                        () = sleep_until(mark_at), if mark_at.is_some() => {
                            marked = Some(Instant::now());
                            self.mark_time().await;
                            continue;
                        }
                    }
                };
                let Some(messages) = messages else {
                    let idle = self.idle(&step, &mut snapshots, (fence, purged), &mut size).await;
                    let Some(tidied) = idle else { return Ok(()) };
                    (purged, purge_at) = tidied;
                    continue;
                };
                if !self.take(messages, &mut inputs, shutdown).await? {
                    return Ok(());
                }
            }
            self.follow(&mut workspaces, &mut policies);
            let (began, work) = (SystemTime::now(), self.pulse.work());
            let Some((mut batch, counts)) = step.fold(&mut inputs, &policies, OUTPUT_BYTES) else { continue };
            let (traced, tracer) = (step.take_traced(), &self.metrics.tracer);
            let trace = StepTrace::begin(tracer, self.partition.index(), began, traced, &mut batch);
            let started = Instant::now();
            let payload = batch.encode();
            drop(work);
            let payload_bytes = payload.len();
            snapshots.appended(payload_bytes);
            match self.append(fence, payload, shutdown).await? {
                Some(sequence) => fence = sequence,
                None => return Ok(()),
            }
            trace.into_iter().for_each(|trace| trace.end(fence));
            self.metrics.appended(payload_bytes, started.elapsed(), &counts);
            snapshots.erased(counts.erased, fence);
            snapshots.take_if_due(&step, fence);
            if Instant::now() > purge_at {
                (purged, purge_at) = self.tidy(&step, purged, &mut size).await;
            }
        }
    }

    /// Decodes messages; those that cannot be read are kept in a log of their own before they are consumed. `false` at
    /// shutdown: then nothing of them may be consumed.
    async fn take(
        &self,
        messages: Vec<Message>,
        inputs: &mut VecDeque<Input>,
        shutdown: &CancellationToken,
    ) -> Result<bool, PartitionError> {
        for Message { sequence, payload } in messages {
            let input = Input::new(sequence, &payload);
            if input.is_damaged() {
                tracing::error!(
                    partition = self.partition.index(),
                    sequence,
                    "an event message cannot be read whole; it is kept in the dead letters"
                );
                while let Err(error) = self.bus.append(&self.unparsed, None, payload.clone()).await {
                    if self.bus.has_failed() || matches!(error, AppendError::TooLarge { .. }) {
                        return Err(PartitionError::Failed(error.to_string()));
                    }
                    tracing::error!(%error, "it cannot be kept yet; the partition waits");
                    tokio::select! {
                        () = shutdown.cancelled() => return Ok(false),
                        () = tokio::time::sleep(RETRY_WAIT.1) => {}
                    }
                }
            }
            inputs.push_back(input);
        }
        Ok(true)
    }

    /// Appends a step's output, through outages. `None` when another owner has written, or at shutdown: then what was
    /// folded here is forgotten.
    async fn append(
        &self,
        fence: u64,
        payload: Bytes,
        shutdown: &CancellationToken,
    ) -> Result<Option<u64>, PartitionError> {
        let mut wait = RETRY_WAIT.0;
        loop {
            match self.bus.append(&self.decisions, Some(fence), payload.clone()).await {
                Ok(sequence) => return Ok(Some(sequence)),
                Err(AppendError::Fenced { .. }) => {
                    self.metrics.fenced.add(1);
                    tracing::warn!(
                        partition = self.partition.index(),
                        fence,
                        "another owner has appended decisions; the state here is dropped and read anew"
                    );
                    return Ok(None);
                }
                Err(error @ AppendError::TooLarge { .. }) => return Err(PartitionError::Failed(error.to_string())),
                Err(error @ (AppendError::Full(_) | AppendError::Unavailable(_))) => {
                    if self.bus.has_failed() {
                        return Err(PartitionError::Failed(error.to_string()));
                    }
                    tracing::warn!(partition = self.partition.index(), %error, "decisions wait for the bus");
                }
            }
            tokio::select! {
                () = shutdown.cancelled() => return Ok(None),
                () = tokio::time::sleep(wait) => wait = (wait * 2).min(RETRY_WAIT.1),
            }
        }
    }

    /// Moves the log's own time on, by a message without events: nothing else lets held clicks go when nothing else comes.
    /// It stands in the log like everything that is decided by, so whoever reads it again decides the same. Two owners that
    /// both append one do no harm, and neither does failing: it is tried again.
    async fn mark_time(&self) {
        match self.bus.append(&self.events, None, event_batch(now(), &[])).await {
            Ok(_) => self.metrics.time_marks.add(1),
            Err(error) => {
                tracing::warn!(partition = self.partition.index(), %error, "held clicks wait for the bus");
            }
        }
    }

    /// Takes over a configuration that has changed.
    fn follow(&self, workspaces: &mut Arc<Vec<Workspace>>, policies: &mut Policies) {
        let now = self.directory.current();
        if !Arc::ptr_eq(&now, workspaces) {
            (*policies, *workspaces) = (Policies::of(&now, &self.key), now);
        }
    }

    /// What there is to do while nothing is folded: tidying, and snapshots that are owed whatever comes. `None` when another
    /// owner has appended: no append of ours has shown that this worker is still the owner, and a snapshot of a former one would
    /// take the place of the present one's.
    pub(crate) async fn idle(
        &self,
        step: &Step,
        snapshots: &mut Snapshots,
        (fence, purged): (u64, u64),
        size: &mut StateSize,
    ) -> Option<(u64, Instant)> {
        if snapshots.are_owed() {
            match self.bus.last(&self.decisions).await {
                Ok(last) if last.as_ref().map_or(0, |last| last.sequence) != fence => return None,
                Ok(_) => snapshots.take_if_due(step, fence),
                // Nobody knows: it is asked again in a moment.
                Err(_unavailable) => {}
            }
        }
        Some(self.tidy(step, purged, size).await)
    }

    /// Deletes consumed input and measures the state. Gives up to where input is deleted, and when this is due again.
    async fn tidy(&self, step: &Step, purged: u64, size: &mut StateSize) -> (u64, Instant) {
        let purged = self.purge(step.position().through, purged).await;
        measure(step, size);
        (purged, Instant::now() + PURGE_EVERY)
    }

    /// Deletes consumed input. Failing is no harm: the next purge includes it.
    async fn purge(&self, through: u64, purged: u64) -> u64 {
        if through == purged {
            return purged;
        }
        match self.bus.purge(&self.events, through).await {
            Ok(()) => through,
            Err(error) => {
                tracing::warn!(partition = self.partition.index(), %error, "consumed events could not be deleted yet");
                purged
            }
        }
    }
}

/// When the next time mark is due, if a click is held: when the first is to be let go by the wall clock, which is the clock
/// that ingest gives messages their time by. Other messages may let it go before.
fn mark_at(step: &Step, marked: Option<Instant>) -> Option<Instant> {
    let wait = step.state().next_release()?.as_ms() - now().as_ms();
    let due = Instant::now() + Duration::from_millis(u64::try_from(wait).unwrap_or(0));
    Some(marked.map_or(due, |marked| due.max(marked + MARK_EVERY)))
}

async fn sleep_until(at: Option<Instant>) {
    if let Some(at) = at {
        tokio::time::sleep_until(at.into()).await;
    }
}

/// The wall clock, as ingest reads it.
fn now() -> Timestamp {
    SystemTime::now().into()
}

fn measure(step: &Step, size: &mut StateSize) {
    let (persons, mails, events) = step.state().sizes();
    size.set(persons + mails + events, step.state().bytes());
}
