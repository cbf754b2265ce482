//! Identity on a real store: restarts from snapshots, damaged ones, and what of the log stays.

use std::time::Duration;

use inflection_bus::{EmbeddedConfig, NatsConfig, ProvisionConfig};
use inflection_control::Directory;
use inflection_domain::{FactKind, InstallationKey, PartitionCount, Timestamp};
use inflection_ownership::Shares;
use inflection_telemetry::Registry;
use inflection_wire::{EventChunk, encode_event, event_batch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::*;
use crate::budget::StateSize;
use crate::partition::{PartitionError, Recovered, Worker};
use crate::step::tests::fact;
use crate::{IdentityConfig, IdentityError, StateBudget};

/// Longest wait for anything here.
const PATIENCE: Duration = Duration::from_secs(30);
/// Every message of decisions is longer than this, so a snapshot follows each unless one is under way.
const ALWAYS: u64 = 1;
const NEVER: u64 = u64::MAX;

struct Install {
    bus: Bus,
    metrics: IdentityMetrics,
    events: Log,
    decisions: Log,
    _folder: tempfile::TempDir,
}

struct Life {
    task: JoinHandle<Result<(), IdentityError>>,
    stop: CancellationToken,
}

fn config(snapshot_every_bytes: u64) -> IdentityConfig {
    let (partitions, directory) = (PartitionCount::new(1).unwrap(), Directory::new(Vec::new()).1);
    let (key, state_budget) = (InstallationKey::new([7; 32]), StateBudget::of_bytes(0));
    IdentityConfig { partitions, directory, key, snapshot_every_bytes, state_budget }
}

fn snapshot_config() -> SnapshotConfig {
    SnapshotConfig { every_bytes: NEVER, gate: Arc::new(Semaphore::new(1)), erased_every: Duration::ZERO }
}

impl Install {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let bus = Bus::open_embedded(EmbeddedConfig::new(folder.path().to_owned())).await.unwrap();
        let log = |name| Log::new(name).unwrap();
        let metrics = IdentityMetrics::new(&Registry::default());
        Self { bus, metrics, events: log("events.0"), decisions: log("decisions.0"), _folder: folder }
    }

    fn start(&self, snapshot_every_bytes: u64) -> Life {
        self.start_with(config(snapshot_every_bytes))
    }

    fn start_with(&self, config: IdentityConfig) -> Life {
        let stop = CancellationToken::new();
        let (shares, all) = Shares::alone(1, stop.clone());
        let run = crate::run(config, self.bus.clone(), self.metrics.clone(), shares);
        let task = TaskTracker::new().spawn(async move { tokio::join!(run, all).0 });
        Life { task, stop }
    }

    /// Events of many persons, and the wait until they are decided.
    async fn fold(&self, rounds: std::ops::Range<u8>) {
        for round in rounds {
            let events = self.bus.append(&self.events, None, message(round)).await.unwrap();
            until(async || {
                let last = self.bus.last(&self.decisions).await.unwrap();
                let batch = last.map(|last| inflection_wire::DecisionBatch::decode(&last.payload).unwrap());
                batch.is_some_and(|batch| batch.consumed_through == events)
            })
            .await;
        }
    }

    /// Says for delivery that all decided calls have come to an end.
    async fn deliver(&self) {
        let finished_through = self.bus.last(&self.decisions).await.unwrap().unwrap().sequence;
        let progress = DeliveryProgress { finished_through, ..DeliveryProgress::default() };
        let key = DeliveryProgress::record_key(0);
        self.bus.put_record(&key, Expected::Anything, progress.encode()).await.unwrap();
    }

    async fn index(&self) -> SnapshotIndex {
        let record = self.bus.get_record(&SnapshotIndex::record_key(0)).await.unwrap();
        record.map(|record| SnapshotIndex::decode(&record.value).unwrap()).unwrap_or_default()
    }

    fn worker(&self) -> Worker {
        let partition = PartitionCount::new(1).unwrap().all().next().unwrap();
        Worker::new(partition, &self.bus, &config(NEVER), snapshot_config(), self.metrics.clone()).unwrap()
    }

    async fn recover(&self) -> Result<Step, PartitionError> {
        self.worker().recover().await.map(|recovered| recovered.step)
    }

    /// Spoils a snapshot.
    async fn damage(&self, slot: SnapshotSlot) {
        let name = slot.blob_name(0);
        let mut blob = self.bus.get_blob(&name).await.unwrap().unwrap().to_vec();
        *blob.last_mut().unwrap() ^= 1;
        self.bus.put_blob(&name, blob.into()).await.unwrap();
    }

    /// The sequence of the first message of the decision log.
    async fn first_decision(&self) -> u64 {
        self.bus.read(&self.decisions, 0).next(1).await.unwrap().first().unwrap().sequence
    }
}

/// Some opens and clicks of eight persons, of whom some become known, and one event of the round before again.
fn message(round: u8) -> Bytes {
    let mut chunk = EventChunk::default();
    for person in 0..8u8 {
        let user = if person < round % 8 { person + 1 } else { 0 };
        for (kind, name) in [(FactKind::EmailOpened, "open"), (FactKind::LinkClicked, "click")] {
            encode_event(&fact(kind, &format!("{name}-{round}-{person}"), person, user), &mut chunk);
        }
    }
    encode_event(&fact(FactKind::EmailOpened, &format!("open-{}-0", round.saturating_sub(1)), 0, 0), &mut chunk);
    event_batch(Timestamp::from_ms(i64::from(round) * 3_600_000), &[chunk])
}

impl Life {
    async fn end(self) {
        self.stop.cancel();
        self.task.await.unwrap().unwrap();
    }
}

async fn until(mut holds: impl AsyncFnMut() -> bool) {
    let waited = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waited).await.expect("it did not come about in time");
}

/// What the same events give without any snapshot.
async fn without_snapshots(rounds: u8) -> Step {
    let install = Install::new().await;
    let life = install.start(NEVER);
    install.fold(0..rounds).await;
    life.end().await;
    assert_eq!(install.first_decision().await, 1, "the log is whole");
    install.recover().await.unwrap()
}

fn assert_same(one: &Step, other: &Step) {
    assert_eq!(one.state(), other.state());
    assert_eq!(one.state().digest(), other.state().digest());
    assert_eq!(one.position(), other.position());
    assert_eq!(one.snapshot_head(0, 0), other.snapshot_head(0, 0), "the totals");
}

/// Folds and delivers until the log was truncated; gives how many rounds that took.
async fn truncated(install: &Install) -> u8 {
    let life = install.start(ALWAYS);
    let mut rounds = 0;
    while install.index().await.truncated_through == 0 {
        install.fold(rounds..rounds + 1).await;
        install.deliver().await;
        rounds += 1;
        assert!(rounds < 200, "never truncated");
    }
    // The purge follows the index.
    until(async || install.first_decision().await > 1).await;
    life.end().await;
    rounds
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_gives_the_same_state_from_a_shorter_log() {
    let install = Install::new().await;
    let rounds = truncated(&install).await;
    let reference = without_snapshots(rounds).await;
    assert_same(&install.recover().await.unwrap(), &reference);

    let slot = install.index().await.newest_slot;
    install.damage(slot).await;
    assert_same(&install.recover().await.unwrap(), &reference);
    assert_eq!(install.metrics.snapshots_unreadable.get(), 1);
    install.damage(slot.other()).await;
    let error = install.recover().await.unwrap_err().to_string();
    assert!(error.contains("restore the bus from a backup"), "{error}");
}

/// What the audit says after restarts, and that it sees what is wrong.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_audit_goes_every_way_to_the_state() {
    let install = Install::new().await;
    let life = install.start(ALWAYS);
    install.fold(0..20).await;
    until(async || install.metrics.snapshots.get() >= 2).await;
    life.end().await;
    let whole = crate::audit(&install.bus, 0).await.unwrap();
    assert!(whole.is_sound() && whole.replays.len() == 3, "the log alone and two snapshots: {whole:?}");
    assert_eq!((whole.replays[0].from, whole.replays[0].digest), (0, without_snapshots(20).await.digest()));

    truncated(&install).await;
    let short = crate::audit(&install.bus, 0).await.unwrap();
    assert!(short.is_sound() && short.replays.iter().all(|replay| replay.from > 0), "{short:?}");

    // A snapshot that can be read but is not what the log says.
    let slot = install.index().await.newest_slot;
    let blob = install.bus.get_blob(&slot.blob_name(0)).await.unwrap().unwrap();
    let Snapshot { mut head, state } = Snapshot::decode(blob).unwrap();
    head.totals[0].duplicates += 1;
    head.decisions_through = short.through;
    install.bus.put_blob(&slot.blob_name(0), Snapshot::encode(&head, &state)).await.unwrap();
    let wrong = crate::audit(&install.bus, 0).await.unwrap();
    assert!(!wrong.is_sound() && wrong.damaged == 0, "{wrong:?}");

    install.damage(slot).await;
    let damaged = crate::audit(&install.bus, 0).await.unwrap();
    assert!(!damaged.is_sound() && damaged.damaged == 1, "{damaged:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_deleted_that_delivery_has_not_finished() {
    let install = Install::new().await;
    let life = install.start(ALWAYS);
    install.fold(0..20).await;
    until(async || install.metrics.snapshots.get() >= 2).await;
    life.end().await;
    assert_eq!((install.index().await.truncated_through, install.first_decision().await), (0, 1));
    // With the whole log no snapshot is needed.
    for slot in [SnapshotSlot::Even, SnapshotSlot::Odd] {
        install.damage(slot).await;
    }
    assert_same(&install.recover().await.unwrap(), &without_snapshots(20).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_restored_goes_on_as_if_nothing_had_been() {
    let install = Install::new().await;
    let rounds = truncated(&install).await;
    let life = install.start(ALWAYS);
    install.fold(rounds..rounds + 10).await;
    life.end().await;
    assert_same(&install.recover().await.unwrap(), &without_snapshots(rounds + 10).await);
}

#[tokio::test]
async fn two_snapshots_follow_an_erasure_at_once() {
    let install = Install::new().await;
    let life = install.start(NEVER);
    install.fold(0..5).await;
    let workspace = inflection_domain::WorkspaceId::new("acme").unwrap();
    let (kind, tombstone) = (inflection_domain::OrderKind::Erase, inflection_domain::Tombstone::from_bytes([9; 16]));
    let order = inflection_domain::PersonOrder { workspace, kind, tombstone, person: None };
    let order = inflection_wire::order_batch(Timestamp::default(), &order);
    install.bus.append(&install.events, None, order).await.unwrap();
    // The first comes with the order, although none is due.
    until(async || install.metrics.snapshots.get() >= 1 || install.index().await != SnapshotIndex::default()).await;
    install.deliver().await;
    life.end().await;
    // Nothing else comes, and the second is taken all the same.
    let (step, last) = (install.recover().await.unwrap(), install.bus.last(&install.decisions).await.unwrap().unwrap());
    let ends = (&install.decisions, last.sequence);
    let loaded = Snapshots::load(0, &install.bus, ends, snapshot_config(), install.metrics.clone()).await;
    let (mut snapshots, newest) = loaded.unwrap();
    assert_eq!(newest.unwrap().head.decisions_through, last.sequence);
    snapshots.take_if_due(&step, last.sequence);
    assert!(snapshots.taking.is_empty(), "none is due");
    snapshots.erased(1, last.sequence);
    until(async || {
        snapshots.take_if_due(&step, last.sequence);
        !snapshots.are_owed()
    })
    .await;
    assert_eq!(install.index().await.truncated_through, last.sequence - 1);
    assert_eq!(install.first_decision().await, last.sequence, "the last message stays");
    assert_same(&install.recover().await.unwrap(), &step);
}

/// It has stood still, and nothing that it could append has told it yet that another one is the owner.
#[tokio::test]
async fn a_former_owner_takes_no_snapshot_that_it_owes() {
    let install = Install::new().await;
    let life = install.start(NEVER);
    install.fold(0..3).await;
    life.end().await;
    let worker = install.worker();
    let Recovered { step, fence, mut snapshots, .. } = worker.recover().await.unwrap();
    snapshots.erased(1, fence);
    let mut size = StateSize::of(0, &StateBudget::of_bytes(0), &install.metrics);
    let other = install.start(NEVER);
    install.fold(3..4).await;
    other.end().await;
    assert!(worker.idle(&step, &mut snapshots, (fence, 0), &mut size).await.is_none());
    assert!(snapshots.taking.is_empty());
    // The owner itself takes it.
    let Recovered { step, fence, mut snapshots, .. } = worker.recover().await.unwrap();
    snapshots.erased(1, fence);
    assert!(worker.idle(&step, &mut snapshots, (fence, 0), &mut size).await.is_some());
    assert!(!snapshots.taking.is_empty());
}

#[tokio::test]
async fn who_owns_the_partition_no_more_deletes_nothing() {
    let install = Install::new().await;
    let life = install.start(NEVER);
    install.fold(0..5).await;
    install.deliver().await;
    life.end().await;
    let kept = Kept { through: 3, ..Kept::default() };
    let work = |kept| Work { partition: 0, bus: install.bus.clone(), log: install.decisions.clone(), kept };
    let step = install.recover().await.unwrap();
    let head = step.snapshot_head(0, 5);
    let blob = Snapshot::encode(&head, step.state());
    let other = SnapshotIndex::default().encode();
    install.bus.put_record(&SnapshotIndex::record_key(0), Expected::Absent, other).await.unwrap();
    let refused = work(kept).store(blob.clone(), &head).await;
    assert!(matches!(refused, Err(StoreError::Record(RecordError::Conflict))), "{refused:?}");
    assert_eq!(install.first_decision().await, 1);

    let revision = install.bus.get_record(&SnapshotIndex::record_key(0)).await.unwrap().map(|record| record.revision);
    let stored = work(Kept { revision, ..kept }).store(blob, &head).await.unwrap();
    assert_eq!((stored.index.truncated_through, install.first_decision().await), (3, 4));
}

/// The index is written, and this owner does not know it: the answer was lost, or it was the owner before, who was still
/// at it. Both times snapshots go on, and none takes the place of the newest.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_index_that_was_written_unknown_to_the_owner_ends_no_snapshots() {
    for answer_lost in [true, false] {
        let install = Install::new().await;
        let life = install.start(NEVER);
        install.fold(0..3).await;
        install.deliver().await;
        life.end().await;
        let step = install.recover().await.unwrap();
        let through = install.bus.last(&install.decisions).await.unwrap().unwrap().sequence;
        let config =
            SnapshotConfig { every_bytes: ALWAYS, gate: Arc::new(Semaphore::new(1)), erased_every: Duration::ZERO };
        let log = (&install.decisions, through);
        let (mut owner, none) = Snapshots::load(0, &install.bus, log, config, install.metrics.clone()).await.unwrap();
        assert!(none.is_none());
        let work = Work { partition: 0, bus: install.bus.clone(), log: install.decisions.clone(), kept: owner.kept };
        let head = step.snapshot_head(0, through - 1);
        let unknown = work.store(Snapshot::encode(&head, step.state()), &head).await.unwrap();
        if answer_lost {
            owner.taken(Err(StoreError::Record(RecordError::Unavailable("no answer".to_owned()))));
        }
        // One attempt may fail, then what there is is read, and then one succeeds. Messages come in between.
        for log_end in [through - 1, through, through] {
            if install.metrics.snapshots.get() == 0 {
                owner.appended(1 << 20);
                owner.take_if_due(&step, log_end);
                let ended = owner.taking.join_next().await.expect("one is due");
                owner.taken(ended.map_err(StoreError::from).flatten());
            }
        }
        assert_eq!(install.metrics.snapshots.get(), 1, "answer lost: {answer_lost}");
        let index = install.index().await;
        assert_eq!(index.newest_slot, unknown.index.newest_slot.other(), "the unknown one stays as the older");
        assert_eq!(index.truncated_through, through - 1, "and the log goes up to it");
        assert_same(&install.recover().await.unwrap(), &step);
    }
}

/// A server of its own, on which the stream of decisions is missing: records and blobs can be written, the log cannot be
/// purged.
async fn without_decisions(folder: &std::path::Path) -> (std::process::Child, Bus) {
    use std::process::{Command, Stdio};
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../scripts/nats-server");
    let found = Command::new(script).stderr(Stdio::inherit()).output().unwrap();
    assert!(found.status.success(), "this test needs a nats-server; scripts/nats-server says above why there is none");
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut server = Command::new(String::from_utf8(found.stdout).unwrap().trim());
    server.args(["-a", "127.0.0.1", "-p", &port.to_string(), "-js", "-sd"]).arg(folder).stderr(Stdio::null());
    let server = server.spawn().unwrap();
    let config = NatsConfig { urls: vec![format!("nats://127.0.0.1:{port}")], ..NatsConfig::default() };
    let bus = async {
        loop {
            if let Ok(bus) = Bus::connect_nats(config.clone()).await {
                break bus;
            }
            tokio::task::yield_now().await;
        }
    };
    let bus = tokio::time::timeout(PATIENCE, bus).await.expect("the server does not answer");
    bus.provision(&ProvisionConfig { streams: Vec::new(), replicas: 1 }).await.unwrap();
    (server, bus)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_is_taken_although_the_log_cannot_be_truncated() {
    let (folder, log) = (tempfile::tempdir().unwrap(), Log::new("decisions.0").unwrap());
    let (mut server, bus) = without_decisions(folder.path()).await;
    let progress = DeliveryProgress { finished_through: 9, ..DeliveryProgress::default() };
    bus.put_record(&DeliveryProgress::record_key(0), Expected::Anything, progress.encode()).await.unwrap();
    let (step, mut kept) = (Step::default(), Kept { through: 3, ..Kept::default() });
    for through in [5, 7] {
        let work = Work { partition: 0, bus: bus.clone(), log: log.clone(), kept };
        let (head, before) = (step.snapshot_head(0, through), kept.through);
        kept = work.store(Snapshot::encode(&head, step.state()), &head).await.unwrap();
        assert_eq!((kept.index.truncated_through, kept.through), (before, through), "the next one goes on from here");
    }
    bus.close().await;
    server.kill().unwrap();
    server.wait().unwrap();
}

#[tokio::test]
async fn a_snapshot_of_another_log_is_not_used() {
    let install = Install::new().await;
    let life = install.start(NEVER);
    install.fold(0..3).await;
    life.end().await;
    let step = install.recover().await.unwrap();
    // It stands at a message that the log has not: the bus was restored from an older backup.
    let blob = Snapshot::encode(&step.snapshot_head(0, 99), step.state());
    install.bus.put_blob(&SnapshotSlot::Even.blob_name(0), blob).await.unwrap();
    let index = SnapshotIndex::default().encode();
    install.bus.put_record(&SnapshotIndex::record_key(0), Expected::Absent, index).await.unwrap();
    assert_same(&install.recover().await.unwrap(), &step);
    assert_eq!(install.metrics.snapshots_unreadable.get(), 1);
}

#[test]
fn the_log_goes_up_to_the_older_snapshot_and_what_is_finished() {
    for (truncated, older_snapshot, finished, expected) in
        [(0, 0, 9, 0), (0, 5, 9, 5), (0, 5, 3, 3), (4, 5, 3, 4), (0, 5, 0, 0), (7, 0, 0, 7)]
    {
        assert_eq!(truncation(truncated, older_snapshot, finished), expected);
    }
}

#[test]
fn a_large_state_waits_for_more_decisions() {
    for (since, every, snapshot, expected) in
        [(9, 10, 0, false), (10, 10, 0, true), (10, 10, 6, false), (12, 10, 6, true), (0, 0, 0, false)]
    {
        assert_eq!(is_due(since, every, snapshot), expected, "{since} {every} {snapshot}");
    }
}

/// A state that takes more than it may is rebuilt whole and holds still; with more room it goes on where it stood.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_state_over_its_budget_holds_still_and_forgets_nothing() {
    let install = Install::new().await;
    let life = install.start(NEVER);
    install.fold(0..3).await;
    life.end().await;

    let budget = StateBudget::of_bytes(1);
    let life = install.start_with(IdentityConfig { state_budget: budget.clone(), ..config(NEVER) });
    until(async || budget.exceeded().is_some()).await;
    let before = install.bus.last(&install.decisions).await.unwrap().unwrap().sequence;
    let waiting = install.bus.append(&install.events, None, message(3)).await.unwrap();
    let looks = install.metrics.holds.get();
    until(async || install.metrics.holds.get() > looks + 1).await;
    // It ends by itself when it is told to, with nothing decided and nothing deleted of what waits.
    life.end().await;
    assert_eq!(budget.exceeded(), None, "a state that is gone takes nothing");
    assert_eq!(install.bus.last(&install.decisions).await.unwrap().unwrap().sequence, before);
    assert_eq!(install.bus.last(&install.events).await.unwrap().unwrap().sequence, waiting);

    let life = install.start(NEVER);
    until(async || install.bus.last(&install.decisions).await.unwrap().unwrap().sequence > before).await;
    install.fold(4..6).await;
    life.end().await;
    assert_same(&install.recover().await.unwrap(), &without_snapshots(6).await);
}
