//! The records on the bus around a worker's view, and what its stage is told.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use inflection_bus::{Bus, Expected, ReadError, RecordChange, RecordError};
use inflection_wire::{MemberRecord, OwnerRecord};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{AbortHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::{Action, Claim, Ownership, WorkerId};

/// Who a worker is.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Its stage: workers of one stage share its partitions.
    pub stage: &'static str,
    /// Its name within the stage.
    pub worker: WorkerId,
}

/// What a stage is told.
#[derive(Debug)]
pub enum Change {
    /// Serve this partition.
    Start(u16),
    /// Finish what is in hand of this partition, and let [`StopWait`] go when that is stored.
    Stop(u16, StopWait),
}

/// Somebody waits until a partition is not served any more; dropping it tells them.
#[derive(Debug)]
pub struct StopWait(#[expect(dead_code, reason = "dropping it tells")] Option<oneshot::Sender<()>>);

/// The partitions of a stage in this process, as they come and go.
#[derive(Debug)]
pub struct Shares(mpsc::Receiver<Change>);

/// Why a worker cannot stay.
#[derive(Debug, thiserror::Error)]
pub enum OwnershipError {
    /// Another process has taken its name.
    #[error("another process of stage {stage} is called {worker}; give each a --worker-id of its own")]
    Replaced {
        /// The stage.
        stage: &'static str,
        /// The name.
        worker: String,
    },
    /// Records cannot be followed.
    #[error("the owners of partitions cannot be read")]
    Read(#[from] ReadError),
}

impl Shares {
    /// All partitions, for a stage that is alone on its bus; they stop at `shutdown`.
    pub fn alone(partitions: u16, shutdown: CancellationToken) -> (Self, impl Future<Output = ()> + Send) {
        let (tell, shares) = mpsc::channel(usize::from(partitions).max(1));
        let all = async move {
            for partition in 0..partitions {
                if tell.send(Change::Start(partition)).await.is_err() {
                    return;
                }
            }
            shutdown.cancelled().await;
            for partition in 0..partitions {
                if tell.send(Change::Stop(partition, StopWait(None))).await.is_err() {
                    return;
                }
            }
        };
        (Self(shares), all)
    }

    /// The next change; `None` when there will be none: then everything was stopped.
    ///
    /// # Cancel safety
    /// A dropped call has lost nothing.
    pub async fn next(&mut self) -> Option<Change> {
        self.0.recv().await
    }
}

/// What came of something that was written, or waited for.
#[derive(Debug)]
enum Done {
    Written { partition: u16, revision: Option<u64> },
    Stopped(u16),
    Beaten,
    Nothing,
}

/// Joins the workers of a stage, and gives the partitions that fall to this one until `shutdown`; then lets go of them, one
/// by one as the stage has finished with them.
pub fn join(
    bus: &Bus,
    identity: Identity,
    partitions: u16,
    shutdown: CancellationToken,
) -> (Shares, impl Future<Output = Result<(), OwnershipError>> + Send + use<>) {
    let (tell, shares) = mpsc::channel(usize::from(partitions).max(1));
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let incarnation = u64::try_from(since.as_micros()).unwrap_or(u64::MAX);
    let me = Claim { worker: identity.worker.clone(), incarnation };
    let member = Member {
        bus: bus.clone(),
        identity,
        started: Instant::now(),
        view: Ownership::new(me, partitions, Duration::ZERO),
        tell,
        work: JoinSet::new(),
        beat: None,
    };
    (Shares(shares), member.run(shutdown))
}

/// The task of one worker.
#[derive(Debug)]
struct Member {
    bus: Bus,
    identity: Identity,
    started: Instant,
    view: Ownership,
    tell: mpsc::Sender<Change>,
    work: JoinSet<Done>,
    /// The newest sign of life, on its way or stored.
    beat: Option<AbortHandle>,
}

impl Member {
    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn member_key(&self, worker: &WorkerId) -> String {
        format!("member.{}.{}", self.identity.stage, worker.as_str())
    }

    async fn run(mut self, shutdown: CancellationToken) -> Result<(), OwnershipError> {
        let mut members = self.bus.watch(&format!("member.{}", self.identity.stage));
        let mut owners = self.bus.watch(&format!("owner.{}", self.identity.stage));
        let there = (members.next().await?, owners.next().await?);
        self.members(there.0);
        self.owners(there.1);
        let mut leaving = false;
        loop {
            let Some(wait) = self.act().await? else { return Ok(()) };
            let wait = self.started + wait;
            tokio::select! {
                biased;
                () = shutdown.cancelled(), if !leaving => {
                    leaving = true;
                    self.view.leave(self.now());
                }
                Some(done) = self.work.join_next() => self.take(done),
                changes = members.next() => self.members(changes?),
                changes = owners.next() => self.owners(changes?),
                () = tokio::time::sleep_until(wait.into()) => {}
            }
        }
    }

    /// Does what the view asks for; gives the moment to ask again, or `None` when this worker has left.
    async fn act(&mut self) -> Result<Option<Duration>, OwnershipError> {
        loop {
            let now = self.now();
            match self.view.poll(now) {
                Action::Beat(record) => self.beat(record),
                Action::Write { partition, owner, revision } => self.write(partition, owner.as_ref(), revision),
                Action::Start(partition) => {
                    tracing::info!(stage = self.identity.stage, partition, "this worker serves a partition");
                    // The stage ends by itself only when it fails, and then everything ends.
                    let _stage_ended = self.tell.send(Change::Start(partition)).await;
                }
                Action::Stop(partition) => {
                    tracing::info!(stage = self.identity.stage, partition, "this worker lets go of a partition");
                    let (done, stopped) = oneshot::channel();
                    let _stage_ended = self.tell.send(Change::Stop(partition, StopWait(Some(done)))).await;
                    self.work.spawn(async move {
                        let _dropped_when_done = stopped.await;
                        Done::Stopped(partition)
                    });
                }
                Action::Forget(worker) => {
                    let (bus, key) = (self.bus.clone(), self.member_key(&worker));
                    self.work.spawn(async move {
                        if let Err(error) = bus.delete_record(&key).await {
                            tracing::debug!(%error, "a dead worker's record stays");
                        }
                        Done::Nothing
                    });
                }
                Action::Replaced => {
                    let worker = self.identity.worker.as_str().to_owned();
                    return Err(OwnershipError::Replaced { stage: self.identity.stage, worker });
                }
                Action::Left => {
                    while self.work.join_next().await.is_some() {}
                    let key = self.member_key(&self.identity.worker);
                    if let Err(error) = self.bus.delete_record(&key).await {
                        tracing::debug!(%error, "this worker's record stays until others forget it");
                    }
                    return Ok(None);
                }
                Action::Wait(until) => return Ok(Some(until)),
            }
        }
    }

    fn beat(&mut self, record: MemberRecord) {
        // In an election one takes longer than the next is away. One at a time, so that an old one, or one of a worker that has
        // left meanwhile, is not stored last.
        if self.beat.as_ref().is_some_and(|beat| !beat.is_finished()) {
            return;
        }
        let (bus, key) = (self.bus.clone(), self.member_key(&self.identity.worker));
        self.beat = Some(self.work.spawn(async move {
            match bus.put_record(&key, Expected::Anything, record.encode()).await {
                Ok(_) => Done::Beaten,
                Err(error) => {
                    tracing::warn!(%error, "this worker's sign of life could not be stored");
                    Done::Nothing
                }
            }
        }));
    }

    fn write(&mut self, partition: u16, owner: Option<&Claim>, revision: u64) {
        let (bus, key) = (self.bus.clone(), format!("owner.{}.{partition}", self.identity.stage));
        let record = Claim::record(owner);
        let expected = if revision == 0 { Expected::Absent } else { Expected::Revision(revision) };
        self.work.spawn(async move {
            let revision = match bus.put_record(&key, expected, record.encode()).await {
                Ok(revision) => Some(revision),
                Err(RecordError::Conflict) => None,
                Err(error) => {
                    tracing::warn!(partition, %error, "a partition's owner could not be stored");
                    None
                }
            };
            Done::Written { partition, revision }
        });
    }

    fn take(&mut self, done: Result<Done, tokio::task::JoinError>) {
        match done {
            Ok(Done::Written { partition, revision }) => self.view.written(partition, revision, self.now()),
            Ok(Done::Stopped(partition)) => self.view.stopped(partition),
            Ok(Done::Beaten) => self.view.beaten(self.now()),
            Ok(Done::Nothing) => {}
            Err(error) => tracing::error!(%error, "a task of the membership has failed"),
        }
    }

    fn members(&mut self, changes: Vec<RecordChange>) {
        let now = self.now();
        for RecordChange { key, value, .. } in changes {
            let worker = key.rsplit('.').next().map(WorkerId::new);
            if let (Some(worker), Ok(record)) = (worker, MemberRecord::decode(&value)) {
                self.view.member(worker, record, now);
            }
        }
    }

    fn owners(&mut self, changes: Vec<RecordChange>) {
        for RecordChange { key, value, revision } in changes {
            let partition = key.rsplit('.').next().and_then(|number| number.parse().ok());
            if let (Some(partition), Ok(record)) = (partition, OwnerRecord::decode(&value)) {
                self.view.owner(partition, &record, revision);
            }
        }
    }
}
