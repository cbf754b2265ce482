//! All partitions and all connections, and how they start, change and leave.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use inflection_bus::{Bus, InvalidName, Log, ReadError};
use inflection_control::Directory;
use inflection_domain::{ConnectionId, WorkspaceId};
use inflection_segment::ClientError;
use inflection_wire::{DecodeError, Installation, ParkedBatch};
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::books::{Books, ConnectionKey};
use crate::connection::{Failure, Shared, of_log};
use crate::control::Control;
use crate::dispatcher::Limits;
use crate::handle::DeliveryHandle;
use crate::hub::Hub;
use crate::journal::Journal;
use crate::metrics::DeliveryMetrics;
use crate::partition::{Common, PartitionError, Reading};
use crate::progress::{Hold, ProgressError, Tracked, load_progress};
use crate::room::Room;

/// Rendered bytes that wait for Segment, over all connections: what the memory of this stage is bounded by.
const ROOM_BYTES_MAX: usize = 64 * 1024 * 1024;

/// What delivery is told.
#[derive(Debug)]
pub struct DeliveryConfig {
    /// Whose calls go where.
    pub directory: Directory,
    /// The installation's identity.
    pub installation: Installation,
    /// Bounds of requests.
    pub limits: Limits,
    /// How long a connection takes nothing until its calls are parked.
    pub park_after: Duration,
}

/// Why delivery stopped, or did not start.
#[derive(Debug, thiserror::Error)]
pub enum DeliveryError {
    /// A connection cannot be set up.
    #[error("connection {connection} of workspace {workspace} cannot be set up")]
    Client {
        /// Its workspace.
        workspace: WorkspaceId,
        /// Its name.
        connection: ConnectionId,
        /// Why.
        source: ClientError,
    },
    /// A connection cannot go on.
    #[error("connection {connection} of workspace {workspace} cannot go on")]
    Connection {
        /// Its workspace.
        workspace: WorkspaceId,
        /// Its name.
        connection: ConnectionId,
        /// Why.
        source: Failure,
    },
    /// A log has no valid name: a defect.
    #[error("a log cannot be named")]
    Name(#[from] InvalidName),
    /// Progress cannot be read.
    #[error("partition {partition} cannot start")]
    Progress {
        /// Its number.
        partition: u16,
        /// Why.
        source: ProgressError,
    },
    /// What is parked, or what operators want, cannot be read.
    #[error("the bus cannot be read")]
    Read(#[from] ReadError),
    /// A parked log is damaged.
    #[error("the parked log {log} is damaged")]
    Damaged {
        /// Its name.
        log: Log,
        /// What is wrong with it.
        source: DecodeError,
    },
    /// A partition cannot go on.
    #[error("partition {partition} cannot go on")]
    Partition {
        /// Its number.
        partition: u16,
        /// Why.
        source: PartitionError,
    },
    /// A task panicked: a defect.
    #[error("a task of delivery has failed")]
    Panicked(#[source] JoinError),
}

/// Starts delivery: gives a handle, and the stage itself to be awaited.
///
/// # Errors
/// [`DeliveryError`] when a connection cannot be set up or progress cannot be read.
pub async fn start(
    config: DeliveryConfig,
    bus: Bus,
    metrics: DeliveryMetrics,
    shutdown: CancellationToken,
) -> Result<(DeliveryHandle, impl Future<Output = Result<(), DeliveryError>> + Send), DeliveryError> {
    let books = books(&bus, &config.installation).await?;
    let positions: Vec<u64> = books.iter().map(Books::read_through).collect();
    let shared = Shared {
        bus: bus.clone(),
        tracked: Arc::new(books.into_iter().map(Tracked::new).collect()),
        metrics: metrics.clone(),
        room: Room::new(ROOM_BYTES_MAX),
        journal: Arc::new(Mutex::new(Journal::default())),
        park_after: config.park_after,
    };
    let common = Arc::new(Common {
        bus: bus.clone(),
        installation: config.installation.id,
        outlets: std::sync::RwLock::default(),
        room: Arc::clone(&shared.room),
        parking: Common::parking(),
        metrics,
    });
    let control = Control::start(&bus).await?;
    let mut hub = Hub::new(shared.clone(), Arc::clone(&common), control, config.limits, shutdown.clone());
    hub.configure(&config.directory.current()).await?;
    let mut readings = Vec::new();
    for (partition, after) in (0u16..).zip(positions) {
        let Some(tracked) = shared.tracked.get(usize::from(partition)).map(Arc::clone) else { continue };
        let log = Log::new(&format!("decisions.{partition}"))?;
        readings.push(Reading { partition, log, after, tracked, common: Arc::clone(&common) });
    }
    let handle = DeliveryHandle::new(shared.clone(), hub.entries());
    Ok((handle, run(readings, hub, config.directory, shared, shutdown)))
}

/// The books of all partitions: what was stored as progress, or in a parked log by a life that could not store it.
async fn books(bus: &Bus, installation: &Installation) -> Result<Vec<Books<Hold>>, DeliveryError> {
    let mut books = Vec::new();
    for partition in installation.partitions.all().map(|partition| partition.index()) {
        let progress =
            load_progress(bus, partition).await.map_err(|source| DeliveryError::Progress { partition, source })?;
        books.push(progress);
    }
    let mut parked: BTreeMap<u16, Vec<(ConnectionKey, Log)>> = BTreeMap::new();
    for log in bus.logs("parked").await? {
        if let Some((key, partition)) = of_log(&log) {
            parked.entry(partition).or_default().push((key, log));
        }
    }
    let mut opened = Vec::new();
    for (partition, progress) in (0u16..).zip(books) {
        let mut totals = Vec::new();
        for (key, log) in parked.remove(&partition).unwrap_or_default() {
            let Some(last) = bus.last(&log).await? else { continue };
            let damaged = |source| DeliveryError::Damaged { log: log.clone(), source };
            totals.push((key, ParkedBatch::decode_totals(last.payload).map_err(damaged)?));
        }
        opened.push(Books::new(progress, totals));
    }
    Ok(opened)
}

/// Readers leave first, then what is under way is answered, then progress is stored a last time.
async fn run(
    readings: Vec<Reading>,
    hub: Hub,
    directory: Directory,
    shared: Shared,
    shutdown: CancellationToken,
) -> Result<(), DeliveryError> {
    let finish = CancellationToken::new();
    let mut keeping = JoinSet::new();
    for (partition, tracked) in (0u16..).zip(shared.tracked.iter()) {
        keeping.spawn(Arc::clone(tracked).keep(shared.bus.clone(), partition, finish.clone()));
    }
    let mut stages = JoinSet::new();
    let guard = shutdown.clone().drop_guard();
    stages.spawn(async move {
        // When connections cannot go on, or panic, the stage must not go on without them.
        let outcome = hub.run(directory).await;
        drop(guard);
        outcome
    });
    let mut reading = JoinSet::new();
    for task in readings {
        let (partition, shutdown) = (task.partition, shutdown.clone());
        reading.spawn(async move {
            task.run(shutdown).await.map_err(|source| DeliveryError::Partition { partition, source })
        });
    }
    let mut outcome = Ok(());
    while let Some(ended) = reading.join_next().await {
        if let Err(error) = ended.map_err(DeliveryError::Panicked).flatten() {
            // One partition that cannot go on ends the stage: whoever restarts it looks at why.
            shutdown.cancel();
            outcome = outcome.and(Err(error));
        }
    }
    while let Some(ended) = stages.join_next().await {
        outcome = outcome.and(ended.map_err(DeliveryError::Panicked).flatten());
    }
    finish.cancel();
    while let Some(ended) = keeping.join_next().await {
        outcome = outcome.and(ended.map_err(DeliveryError::Panicked));
    }
    outcome
}
