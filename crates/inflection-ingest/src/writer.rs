//! Partition writers: one append in flight each, and what arrives meanwhile is the next message.
//!
//! No timer and no tuning. Idle, a message holds one event and costs one append; busy, messages grow by themselves until
//! the disk keeps up.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use inflection_bus::{AppendError, Bus, InvalidName, Log};
use inflection_domain::{Partition, PartitionCount, Timestamp};
use inflection_wire::{EventChunk, event_batch};
use tokio::sync::{mpsc, oneshot};
use tokio_util::task::TaskTracker;

use crate::metrics::IngestMetrics;
use crate::room::Share;

/// Bytes of one bus message beyond which no further chunk is added.
const MESSAGE_BYTES: usize = 256 * 1024;
/// Bytes of one chunk: larger requests are cut into several.
pub(crate) const CHUNK_BYTES: usize = 128 * 1024;
/// Chunks waiting for one writer. Requests are bounded before they come here; this only keeps a burst in order.
const WAITING_CHUNKS_MAX: usize = 1024;

/// Facts of one partition that wait to be stored, and who waits for it.
#[derive(Debug)]
struct Waiting {
    chunk: EventChunk,
    /// The request's share of the memory of this stage: held until its facts have left it, whoever waits or does not.
    in_hand: InHand,
    stored: oneshot::Sender<Result<(), Arc<AppendError>>>,
}

/// A request's share of the memory of this stage; its chunks share it.
pub(crate) type InHand = Arc<Share>;

/// The writers of all partitions.
#[derive(Debug, Clone)]
pub(crate) struct Writers(Vec<mpsc::Sender<Waiting>>);

/// A chunk on its way to disk.
pub(crate) type Stored = oneshot::Receiver<Result<(), Arc<AppendError>>>;

impl Writers {
    /// Starts a writer for each partition. They end when all handles are gone and everything is written.
    pub(crate) fn start(
        bus: &Bus,
        partitions: PartitionCount,
        metrics: &IngestMetrics,
        tasks: &TaskTracker,
    ) -> Result<Self, InvalidName> {
        let mut senders = Vec::new();
        for partition in partitions.all() {
            let log = Log::new(&format!("events.{partition}"))?;
            let (sender, waiting) = mpsc::channel(WAITING_CHUNKS_MAX);
            tasks.spawn(write(bus.clone(), log, waiting, metrics.clone()));
            senders.push(sender);
        }
        Ok(Self(senders))
    }

    /// Hands a chunk to its partition's writer. `None` when the writers have ended.
    pub(crate) async fn submit(&self, partition: Partition, chunk: EventChunk, in_hand: &InHand) -> Option<Stored> {
        let (stored, answer) = oneshot::channel();
        let writer = self.0.get(usize::from(partition.index()))?;
        writer.send(Waiting { chunk, in_hand: Arc::clone(in_hand), stored }).await.ok()?;
        Some(answer)
    }
}

async fn write(bus: Bus, log: Log, mut waiting: mpsc::Receiver<Waiting>, metrics: IngestMetrics) {
    let pulse = metrics.liveness.watch("ingest, writing a partition,");
    let mut next = waiting.recv().await;
    while let Some(first) = next.take() {
        let work = pulse.work();
        let (mut bytes, mut chunks, mut answers, mut in_hand) = (0, Vec::new(), Vec::new(), Vec::new());
        let mut candidate = Some(first);
        while let Some(Waiting { chunk, in_hand: share, stored }) = candidate.take() {
            in_hand.push(share);
            bytes += chunk.entries.len();
            chunks.push(chunk);
            answers.push(stored);
            match waiting.try_recv() {
                Ok(more) if bytes + more.chunk.entries.len() <= MESSAGE_BYTES => candidate = Some(more),
                Ok(more) => next = Some(more),
                Err(_) => {}
            }
        }
        let started = Instant::now();
        let message = event_batch(now(), &chunks);
        drop(work);
        let message_bytes = message.len() as u64;
        let outcome = bus.append(&log, None, message).await;
        metrics.append_seconds.observe(started.elapsed());
        match outcome {
            Ok(_) => {
                metrics.messages.add(1);
                metrics.message_bytes.add(message_bytes);
            }
            Err(ref error) => tracing::warn!(%error, log = %log, "events could not be stored"),
        }
        let outcome = outcome.map(drop).map_err(Arc::new);
        for stored in answers {
            let _sender_left = stored.send(outcome.clone());
        }
        drop(in_hand);
        // While the bus is away, what waits behind waits in vain: its senders hear so now, and not one time-out later each.
        if outcome.is_err() {
            for Waiting { stored, .. } in next.take().into_iter().chain(std::iter::from_fn(|| waiting.try_recv().ok()))
            {
                let _sender_left = stored.send(outcome.clone());
            }
        }
        if next.is_none() {
            next = waiting.recv().await;
        }
    }
}

/// The wall clock, read once for a message: the log's own time.
pub(crate) fn now() -> Timestamp {
    SystemTime::now().into()
}
