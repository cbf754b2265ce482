//! All partitions and all connections, and how they start, change and leave.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use inflection_bus::{AppendError, Bus, InvalidName, Log, ReadError, RecordError};
use inflection_control::Directory;
use inflection_domain::{ConnectionId, WorkspaceId};
use inflection_ownership::{Change, Shares, StopWait};
use inflection_segment::ClientError;
use inflection_wire::{DecodeError, Installation, ParkedBatch};
use tokio::sync::oneshot;
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::books::{Books, ConnectionKey};
use crate::connection::{Command, Failure, Share, Shared, of_log};
use crate::control::Control;
use crate::dispatcher::Limits;
use crate::handle::DeliveryHandle;
use crate::hub::{Entries, Entry, Hub, tell};
use crate::journal::Journal;
use crate::metrics::DeliveryMetrics;
use crate::partition::{Common, PartitionError, Reading};
use crate::progress::{Hold, ProgressError, Tracked, load_revision, pause};
use crate::room::Room;
use crate::suppression::{self, Announcer};

/// Memory of rendered calls that wait for Segment, over all connections, in bytes: it bounds the memory of this stage.
const ROOM_BYTES_MAX: usize = 64 * 1024 * 1024;
/// How long requests of a partition that is let go of may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);
/// Wait before a partition is taken up again that another owner had written to.
const REOPEN_WAIT: Duration = Duration::from_secs(1);

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
    /// Who is suppressed cannot be known.
    #[error("the record of suppressed persons is damaged")]
    Suppressed(#[source] DecodeError),
    /// A parked log is damaged.
    #[error("the parked log {log} is damaged")]
    Damaged {
        /// Its name.
        log: Log,
        /// What is wrong with it.
        source: DecodeError,
    },
    /// What is written to a parked log is not taken.
    #[error("the parked log {log} cannot be written")]
    Park {
        /// Its name.
        log: Log,
        /// Why.
        source: AppendError,
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

impl DeliveryError {
    /// Whether waiting for the bus may help.
    fn is_outage(&self) -> bool {
        matches!(
            self,
            Self::Read(ReadError::Unavailable(_))
                // Too large it cannot be; whoever has written it in between has left it readable.
                | Self::Park { .. }
                | Self::Progress {
                    source: ProgressError::Record(RecordError::Unavailable(_))
                        | ProgressError::Parked(ReadError::Unavailable(_)),
                    ..
                }
        )
    }
}

/// Starts delivery: gives a handle, and the stage itself to be awaited. It serves the partitions it is given, each until it
/// is taken away, and ends when there will be none.
///
/// # Errors
/// [`DeliveryError`] when a connection cannot be set up or the bus cannot be read.
pub async fn start(
    config: DeliveryConfig,
    bus: Bus,
    metrics: DeliveryMetrics,
    shares: Shares,
) -> Result<(DeliveryHandle, impl Future<Output = Result<(), DeliveryError>> + Send), DeliveryError> {
    let (shared, common, announcer) = parts(&config, &bus, metrics);
    let mut renewing = JoinSet::new();
    if bus.is_shared() {
        announcer.expire();
        renewing.spawn(announcer.clone().renew(bus.clone()));
    }
    let (control, shutdown) = (Control::start(&bus, announcer).await?, CancellationToken::new());
    let mut hub = Hub::new(shared.clone(), Arc::clone(&common), control, config.limits, shutdown.clone());
    hub.configure(&config.directory.current()).await?;
    let handle = DeliveryHandle::new(shared.clone(), hub.entries());
    let service = Service { shared, common, entries: hub.entries() };
    Ok((handle, run(Arc::new(service), (hub, renewing), config.directory, shares, shutdown)))
}

/// What the tasks of connections share, what those of partitions share, and who tells both of suppressed persons.
fn parts(config: &DeliveryConfig, bus: &Bus, metrics: DeliveryMetrics) -> (Shared, Arc<Common>, Announcer) {
    let partitions = config.installation.partitions.get();
    let (announcer, suppression) = suppression::channel(config.installation.key.clone());
    let shared = Shared {
        bus: bus.clone(),
        tracked: Arc::new((0..partitions).map(|_| Arc::default()).collect()),
        metrics: metrics.clone(),
        room: Room::new(ROOM_BYTES_MAX),
        journal: Arc::new(Mutex::new(Journal::default())),
        park_after: config.park_after,
        share: Share::new(partitions),
        opening: Arc::default(),
        suppression: suppression.clone(),
    };
    let common = Common {
        bus: bus.clone(),
        installation: config.installation.id.clone(),
        outlets: std::sync::RwLock::default(),
        room: Arc::clone(&shared.room),
        parking: Common::parking(),
        metrics,
        suppression,
    };
    (shared, Arc::new(common), announcer)
}

/// Serves partitions as they come and go. When there will be none, connections leave too.
async fn run(
    service: Arc<Service>,
    (hub, mut renewing): (Hub, JoinSet<Infallible>),
    directory: Directory,
    mut shares: Shares,
    shutdown: CancellationToken,
) -> Result<(), DeliveryError> {
    let mut connections = JoinSet::new();
    connections.spawn(hub.run(directory));
    let mut serving: JoinSet<Result<u16, DeliveryError>> = JoinSet::new();
    let mut served: BTreeMap<u16, (CancellationToken, Option<StopWait>)> = BTreeMap::new();
    let mut open = true;
    while open || !serving.is_empty() {
        tokio::select! {
            change = shares.next(), if open => match change {
                Some(Change::Start(partition)) => {
                    let stop = CancellationToken::new();
                    served.insert(partition, (stop.clone(), None));
                    let service = Arc::clone(&service);
                    serving.spawn(async move { service.serve(partition, stop).await.map(|()| partition) });
                }
                Some(Change::Stop(partition, wait)) => {
                    if let Some((stop, waiting)) = served.get_mut(&partition) {
                        stop.cancel();
                        *waiting = Some(wait);
                    }
                }
                None => open = false,
            },
            Some(ended) = serving.join_next() => {
                // Whoever waits for the partition is told by this. One that cannot go on ends the stage.
                served.remove(&ended.map_err(DeliveryError::Panicked)??);
            }
            Some(ended) = connections.join_next() => return ended.map_err(DeliveryError::Panicked)?,
            Some(Err(error)) = renewing.join_next() => return Err(DeliveryError::Panicked(error)),
        }
    }
    shutdown.cancel();
    match connections.join_next().await {
        Some(ended) => ended.map_err(DeliveryError::Panicked)?,
        None => Ok(()),
    }
}

/// A partition's books, the progress record's revision, and where each of its parked logs ends.
type Standing = (Books<Hold>, Option<u64>, Vec<(ConnectionKey, u64)>);

/// The end of a parked log.
#[derive(Debug)]
struct End {
    key: ConnectionKey,
    log: Log,
    last: u64,
    /// Its last message has calls.
    calls: bool,
}

/// What serving a partition takes.
#[derive(Debug)]
struct Service {
    shared: Shared,
    common: Arc<Common>,
    entries: Entries,
}

impl Service {
    /// Serves a partition until `stop`. When another owner turns up it is let go of, and taken up again if this worker is
    /// not told to stop.
    async fn serve(&self, partition: u16, stop: CancellationToken) -> Result<(), DeliveryError> {
        let Some(tracked) = self.shared.tracked.get(usize::from(partition)) else { return Ok(()) };
        while !stop.is_cancelled() {
            let Some(after) = self.open(partition, tracked, &stop).await? else { return Ok(()) };
            let finish = CancellationToken::new();
            let mut keeping = JoinSet::new();
            keeping.spawn(Arc::clone(tracked).keep(self.shared.bus.clone(), partition, finish.clone()));
            let log = Log::new(&format!("decisions.{partition}"))?;
            let (common, tracked) = (Arc::clone(&self.common), Arc::clone(tracked));
            let pulse = self.common.metrics.liveness.watch("delivery, reading a partition,");
            let reading = Reading { partition, log, after, tracked: Arc::clone(&tracked), common, pulse };
            let read = tokio::select! {
                biased;
                Some(kept) = keeping.join_next() => {
                    kept.map_err(DeliveryError::Panicked)?;
                    tracing::warn!(partition, "another owner has stored progress; this one lets go");
                    Ok(())
                }
                () = tracked.fenced() => {
                    tracing::warn!(partition, "another owner has parked calls; this one lets go");
                    Ok(())
                }
                read = reading.run(stop.clone()) => read,
            };
            self.close(partition).await;
            finish.cancel();
            while let Some(kept) = keeping.join_next().await {
                kept.map_err(DeliveryError::Panicked)?;
            }
            tracked.close();
            read.map_err(|source| DeliveryError::Partition { partition, source })?;
            if !stop.is_cancelled() {
                pause(REOPEN_WAIT, &stop).await;
            }
        }
        Ok(())
    }

    /// Reads where a partition stands, through outages of the bus, and tells every connection; gives where reading begins.
    /// `None` when it was told to stop meanwhile.
    async fn open(
        &self,
        partition: u16,
        tracked: &Tracked,
        stop: &CancellationToken,
    ) -> Result<Option<u64>, DeliveryError> {
        // Until every connection is told. Whoever has to wait for the bus lets go of it: others go on meanwhile.
        let (_opening, (books, revision, lasts)) = loop {
            let opening = self.shared.opening.lock().await;
            if stop.is_cancelled() {
                return Ok(None);
            }
            match self.standing(partition).await {
                Ok(standing) => break (opening, standing),
                Err(error) if error.is_outage() && !self.shared.bus.has_failed() => {
                    drop(opening);
                    tracing::warn!(partition, ?error, "a partition waits for the bus");
                    pause(REOPEN_WAIT, stop).await;
                }
                Err(error) => return Err(error),
            }
        };
        let after = books.read_through();
        tracked.open(books, revision);
        self.shared.share.change(true);
        for entry in self.all() {
            let last = lasts.iter().find(|(key, _)| *key == entry.outlet.key);
            if let Some((_, last)) = last {
                tell(&entry, Command::Open { partition, last: *last }).await;
            }
            tell(&entry, self.shared.share.command()).await;
        }
        Ok(Some(after))
    }

    /// What the progress record and the parked logs say of a partition. What a former owner still has on its way into a log
    /// is kept out of it.
    async fn standing(&self, partition: u16) -> Result<Standing, DeliveryError> {
        let bus = &self.shared.bus;
        let (progress, revision) =
            load_revision(bus, partition).await.map_err(|source| DeliveryError::Progress { partition, source })?;
        let (mut totals, mut ends) = (Vec::new(), Vec::new());
        for log in bus.logs("parked").await? {
            let Some((key, _)) = of_log(&log).filter(|(_, number)| *number == partition) else { continue };
            let Some(last) = bus.last(&log).await? else { continue };
            let damaged = |source| DeliveryError::Damaged { log: log.clone(), source };
            let (own, calls) = ParkedBatch::decode_totals(last.payload).map_err(damaged)?;
            totals.push((key.clone(), own));
            ends.push(End { key, log, last: last.sequence, calls });
        }
        let books = Books::new(progress, totals);
        let mut lasts = Vec::new();
        for end in ends {
            lasts.push((end.key.clone(), self.seal(&books, end).await?));
        }
        Ok((books, revision, lasts))
    }

    /// Puts a message without calls at the end of a parked log, where calls lie in it by the books, and where its last
    /// message has some: that one would have to stay. Gives where the log ends.
    async fn seal(&self, books: &Books<Hold>, End { key, log, last, calls }: End) -> Result<u64, DeliveryError> {
        let Some(totals) = books.totals(&key).filter(|totals| calls || totals.still_parked() > 0) else {
            return Ok(last);
        };
        let seal = ParkedBatch { totals: totals.clone(), calls: Vec::new() }.encode();
        let sealed = self.shared.bus.append(&log, Some(last), seal).await;
        sealed.map_err(|source| DeliveryError::Park { log, source })
    }

    /// Waits until no connection has anything of a partition in hand any more.
    async fn close(&self, partition: u16) {
        self.shared.share.change(false);
        let mut waits = Vec::new();
        for entry in self.all() {
            let (done, wait) = oneshot::channel();
            tell(&entry, Command::Close { partition, done }).await;
            tell(&entry, self.shared.share.command()).await;
            waits.push(wait);
        }
        let all = async {
            for wait in waits {
                let _told_or_ended = wait.await;
            }
        };
        if tokio::time::timeout(CLOSE_TIMEOUT, all).await.is_err() {
            tracing::warn!(partition, "requests did not end in time; their calls are sent again, under equal ids");
        }
    }

    fn all(&self) -> Vec<Entry> {
        self.entries.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::pin::pin;

    use inflection_bus::EmbeddedConfig;
    use inflection_domain::Timestamp;
    use inflection_domain::{InstallationId, InstallationKey, PartitionCount};
    use inflection_telemetry::Registry;
    use inflection_wire::{CallPosition, ConnectionTotals, DeliveryProgress, ParkedCall, SCHEMA_VERSION};

    use super::*;
    use crate::connection::parked_log;

    /// Longest wait for anything here.
    const PATIENCE: Duration = Duration::from_secs(30);

    fn service(bus: &Bus) -> Service {
        let installation = Installation {
            id: InstallationId::new("i1").unwrap(),
            key: InstallationKey::new([7; 32]),
            partitions: PartitionCount::new(2).unwrap(),
            schema_version: SCHEMA_VERSION,
            oldest_reader: SCHEMA_VERSION,
        };
        let (directory, limits) = (Directory::new(Vec::new()).1, Limits::default());
        let config = DeliveryConfig { directory, installation, limits, park_after: Duration::from_secs(60) };
        let (shared, common, _announcer) = parts(&config, bus, DeliveryMetrics::new(&Registry::default()));
        Service { shared, common, entries: Entries::default() }
    }

    fn prod() -> ConnectionKey {
        (WorkspaceId::new("acme").unwrap(), ConnectionId::new("prod").unwrap())
    }

    fn parked(totals: &ConnectionTotals, call: &'static [u8]) -> bytes::Bytes {
        let call = ParkedCall {
            call: call.into(),
            event_id_bytes: 1,
            received_at: Timestamp::default(),
            id: 1,
            person: None,
            trace: None,
        };
        ParkedBatch { totals: totals.clone(), calls: vec![call] }.encode()
    }

    #[tokio::test]
    async fn what_a_former_owner_parks_too_late_is_kept_out_or_passed_over() {
        let folder = tempfile::tempdir().unwrap();
        let bus = Bus::open_embedded(EmbeddedConfig::new(folder.path().to_owned())).await.unwrap();
        let (service, stop, log) = (service(&bus), CancellationToken::new(), parked_log(&prod(), 0).unwrap());
        let ended = |through| ConnectionTotals::new(prod().0, prod().1, 0, CallPosition { through, calls: 0 });
        // A call lies parked.
        let one = ConnectionTotals { parked: 1, ..ended(1) };
        let first = bus.append(&log, None, parked(&one, b"e{}")).await.unwrap();
        let tracked = Tracked::default();
        assert_eq!(service.open(0, &tracked, &stop).await.unwrap(), Some(1));
        let late = bus.append(&log, Some(first), parked(&ConnectionTotals { parked: 2, ..ended(2) }, b"f{}")).await;
        assert!(matches!(late, Err(AppendError::Fenced { .. })), "{late:?}");
        // Nothing lies parked, and what the former owner parks was sent meanwhile.
        let last = bus.last(&log).await.unwrap().unwrap().sequence;
        let sent =
            ConnectionTotals { accepted: 1, parked: 1, released_accepted: 1, released_through: last, ..ended(2) };
        let progress = DeliveryProgress { finished_through: 2, read_through: 2, connections: vec![sent] };
        let record = DeliveryProgress::record_key(0);
        bus.put_record(&record, inflection_bus::Expected::Absent, progress.encode()).await.unwrap();
        bus.append(&log, Some(last), parked(&ConnectionTotals { parked: 2, ..ended(2) }, b"f{}")).await.unwrap();
        assert_eq!(service.open(0, &tracked, &stop).await.unwrap(), Some(2));
        let last = bus.last(&log).await.unwrap().unwrap();
        assert!(!ParkedBatch::decode_totals(last.payload).unwrap().1, "its calls need not stay");
        assert_eq!(tracked.released(&prod(), last.sequence), last.sequence, "nor are they sent");
    }

    /// A bus that cannot read the end of the one parked log there is.
    async fn unreadable_bus(folder: &tempfile::TempDir) -> Bus {
        let open = || Bus::open_embedded(EmbeddedConfig::new(folder.path().to_owned()));
        let key = prod();
        let log = parked_log(&key, 0).unwrap();
        let totals = ConnectionTotals::new(key.0, key.1, 0, CallPosition::default());
        let bus = open().await.unwrap();
        bus.append(&log, None, ParkedBatch { totals, calls: Vec::new() }.encode()).await.unwrap();
        bus.close().await;
        let bus = open().await.unwrap();
        for file in std::fs::read_dir(folder.path()).unwrap() {
            File::options().write(true).open(file.unwrap().path()).unwrap().set_len(0).unwrap();
        }
        assert!(matches!(bus.last(&log).await, Err(ReadError::Unavailable(_))));
        bus
    }

    #[tokio::test]
    async fn a_partition_that_waits_for_the_bus_holds_up_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let service = service(&unreadable_bus(&folder).await);
        let (one, other, stop) = (Tracked::default(), Tracked::default(), CancellationToken::new());
        let mut waiting = pin!(service.open(0, &one, &stop));
        let opened = async {
            tokio::select! {
                biased; // so that the other one comes second
                opened = &mut waiting => panic!("it was opened: {opened:?}"),
                opened = service.open(1, &other, &stop) => opened.unwrap(),
            }
        };
        assert_eq!(tokio::time::timeout(PATIENCE, opened).await.unwrap(), Some(0));
        stop.cancel();
        assert_eq!(tokio::time::timeout(PATIENCE, waiting).await.unwrap().unwrap(), None, "it ends when told so");
    }
}
