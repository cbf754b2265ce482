//! The whole stage: connections, partitions, and their order of leaving.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use inflection_bus::{Bus, InvalidName, Log};
use inflection_control::{Connection, Workspace};
use inflection_domain::{ConnectionId, WorkspaceId};
use inflection_segment::{Client, ClientError};
use inflection_wire::Installation;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::connection::{Command, ConnectionStatus, INBOX_MAX, Sender, Shared};
use crate::dead_letters::{DeadLetterError, dead_letter_log, list};
use crate::dispatcher::{Dispatcher, Item, LaneId, Limits, Ticket};
use crate::metrics::DeliveryMetrics;
use crate::partition::{Common, Outlet, PartitionError, Reading};
use crate::progress::{ProgressError, Tracked, load_progress};
use crate::window::ConnectionKey;

/// Rendered bytes under way at once, over all partitions: what the memory of this stage is bounded by.
const WINDOW_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Counted in units of this many.
const PERMIT_BYTES: usize = 1024;

/// What delivery is told.
#[derive(Debug)]
pub struct DeliveryConfig {
    /// Whose calls go where.
    pub workspaces: Vec<Workspace>,
    /// The installation's identity.
    pub installation: Installation,
    /// Bounds of requests.
    pub limits: Limits,
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

/// A connection as others see it.
#[derive(Debug)]
struct Entry {
    settings: Connection,
    status: Arc<Mutex<ConnectionStatus>>,
    inbox: mpsc::Sender<Command>,
}

/// A handle to a running delivery stage.
#[derive(Debug, Clone)]
pub struct DeliveryHandle {
    bus: Bus,
    entries: Arc<HashMap<ConnectionKey, Entry>>,
}

/// Why letters cannot be replayed.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// There is no such connection here.
    #[error("there is no connection {1} in workspace {0}")]
    NoConnection(WorkspaceId, ConnectionId),
    /// The letters cannot be read.
    #[error(transparent)]
    Letters(#[from] DeadLetterError),
    /// The stage is stopping.
    #[error("delivery is stopping")]
    Stopping,
}

impl DeliveryHandle {
    /// All connections with their settings and status.
    #[must_use]
    pub fn connections(&self) -> Vec<(WorkspaceId, Connection, ConnectionStatus)> {
        let status = |entry: &Entry| entry.status.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut all: Vec<_> = self
            .entries
            .iter()
            .map(|((workspace, _), entry)| (workspace.clone(), entry.settings.clone(), status(entry)))
            .collect();
        all.sort_by(|(one, a, _), (other, b, _)| (one, &a.id).cmp(&(other, &b.id)));
        all
    }

    /// Sends dead letters again, under the same messageIds, behind nothing and before nothing: in a lane of their own.
    /// Gives how many were taken up; those without a frozen item (Segment would drop them) cannot be.
    ///
    /// # Errors
    /// [`ReplayError`] says why.
    pub async fn replay(
        &self,
        workspace: &WorkspaceId,
        connection: &ConnectionId,
        wanted: impl Fn(&str) -> bool,
    ) -> Result<usize, ReplayError> {
        let missing = || ReplayError::NoConnection(workspace.clone(), connection.clone());
        let entry = self.entries.get(&(workspace.clone(), connection.clone())).ok_or_else(missing)?;
        let letters = list(&self.bus, workspace, connection).await?;
        let items: Vec<Item> = letters
            .into_iter()
            .filter(|stored| wanted(&stored.letter.message_id) && !stored.letter.item.is_empty())
            .map(|stored| Item {
                split: stored.letter.event_id.len(),
                bytes: [stored.letter.event_id.as_bytes(), &stored.letter.item].concat().into(),
                ticket: Ticket::DeadLetter,
                received_at: stored.at,
            })
            .collect();
        let count = items.len();
        let push = Command::Push { lane: LaneId::Replay, items };
        entry.inbox.send(push).await.map_err(|_ended| ReplayError::Stopping)?;
        Ok(count)
    }
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
    let mut tracked = Vec::new();
    let mut positions = Vec::new();
    for partition in config.installation.partitions.all().map(|partition| partition.index()) {
        let progress =
            load_progress(&bus, partition).await.map_err(|source| DeliveryError::Progress { partition, source })?;
        positions.push((partition, progress.finished_through));
        tracked.push(Tracked::new(progress));
    }
    let shared = Shared { bus: bus.clone(), tracked: Arc::new(tracked), metrics: metrics.clone() };
    let (mut outlets, mut entries, mut senders): (HashMap<WorkspaceId, Vec<Outlet>>, _, _) =
        (HashMap::new(), HashMap::new(), Vec::new());
    for workspace in &config.workspaces {
        for connection in &workspace.connections {
            let (outlet, entry, sender) = connect(&workspace.id, connection, config.limits, &shared)?;
            entries.insert(outlet.key.clone(), entry);
            outlets.entry(workspace.id.clone()).or_default().push(outlet);
            senders.push(sender);
        }
    }
    let permits = WINDOW_BYTES_MAX / PERMIT_BYTES;
    let common = Arc::new(Common {
        bus: bus.clone(),
        installation: config.installation.id,
        outlets,
        window: Arc::new(Semaphore::new(permits)),
        window_permits: permits,
        metrics,
    });
    let mut readings = Vec::new();
    for (partition, after) in positions {
        let Some(tracked) = shared.tracked.get(usize::from(partition)).map(Arc::clone) else { continue };
        let log = Log::new(&format!("decisions.{partition}"))?;
        readings.push(Reading { partition, log, after, tracked, common: Arc::clone(&common) });
    }
    let handle = DeliveryHandle { bus, entries: Arc::new(entries) };
    Ok((handle, run(readings, senders, shared, shutdown)))
}

fn connect(
    workspace: &WorkspaceId,
    connection: &Connection,
    limits: Limits,
    shared: &Shared,
) -> Result<(Outlet, Entry, Sender), DeliveryError> {
    let agent = concat!("inflection-source/", env!("CARGO_PKG_VERSION"));
    let client = Client::new(connection.endpoint.clone(), connection.write_key.expose(), agent).map_err(|source| {
        DeliveryError::Client { workspace: workspace.clone(), connection: connection.id.clone(), source }
    })?;
    let key = (workspace.clone(), connection.id.clone());
    let dead = dead_letter_log(workspace, &connection.id)?;
    let (inbox, commands) = mpsc::channel(INBOX_MAX);
    let dispatcher = Dispatcher::new(limits, connection.rate());
    let sender = Sender::new(key.clone(), connection, client, dead.clone(), dispatcher, commands, shared.clone());
    let entry = Entry { settings: connection.clone(), status: sender.status(), inbox: inbox.clone() };
    Ok((Outlet { key, settings: connection.clone(), inbox, dead }, entry, sender))
}

/// Readers leave first, then what is under way is answered, then progress is stored a last time.
async fn run(
    readings: Vec<Reading>,
    senders: Vec<Sender>,
    shared: Shared,
    shutdown: CancellationToken,
) -> Result<(), DeliveryError> {
    let finish = CancellationToken::new();
    let mut keeping = JoinSet::new();
    for (partition, tracked) in (0u16..).zip(shared.tracked.iter()) {
        keeping.spawn(Arc::clone(tracked).keep(shared.bus.clone(), partition, finish.clone()));
    }
    let mut sending = JoinSet::new();
    for sender in senders {
        let ended_early = shutdown.clone();
        sending.spawn(async move {
            // A connection's task ends at shutdown only; when it panics, the stage must not go on without it.
            let guard = ended_early.clone().drop_guard();
            sender.run(ended_early).await;
            drop(guard);
        });
    }
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
    while let Some(ended) = sending.join_next().await {
        outcome = outcome.and(ended.map_err(DeliveryError::Panicked));
    }
    finish.cancel();
    while let Some(ended) = keeping.join_next().await {
        outcome = outcome.and(ended.map_err(DeliveryError::Panicked));
    }
    outcome
}
