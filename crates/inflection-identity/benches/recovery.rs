//! How long identity takes from its start until it folds again, and what it holds, with millions of keys remembered.
//!
//! `cargo bench -p inflection-identity --bench recovery -- [KEYS]` (5,000,000 unless told). Of ten keys five are event ids,
//! four are mails (of which 40 in 100 were opened and 5 clicked) and one is a known person.

#![expect(clippy::print_stdout, reason = "figures are for people")]

use std::fs;
use std::time::{Duration, Instant};

use inflection_bus::{Bus, EmbeddedConfig, Expected, Log};
use inflection_control::Directory;
use inflection_domain::{
    Body, Delivery, EventId, Fact, FactKind, Hash128, Head, InstallationKey, LinkClick, LinkKind, MachineCheck,
    MailRef, OpenSource, PartitionCount, PartitionState, Person, PersonId, Timestamp, UserId, WorkspaceId,
};
use inflection_identity::{IdentityConfig, IdentityMetrics, StateBudget};
use inflection_ownership::Shares;
use inflection_telemetry::Registry;
use inflection_wire::{DecisionBatch, EventChunk, Snapshot, SnapshotHead, SnapshotIndex, encode_event, event_batch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

const PARTITIONS: u16 = 16;
const NOW_MS: i64 = 1_795_420_800_000;

fn main() -> Outcome<()> {
    // Cargo passes `--bench`.
    let keys = std::env::args().skip(1).find_map(|argument| argument.parse().ok()).unwrap_or(5_000_000);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(measure(keys))
}

async fn measure(keys: u64) -> Outcome<()> {
    let folder = tempfile::tempdir()?;
    let bus = Bus::open_embedded(EmbeddedConfig::new(folder.path().to_owned())).await?;
    let (mut state_bytes, mut blob_bytes, mut encoding) = (0, 0, Duration::ZERO);
    for partition in 0..PARTITIONS {
        let state = state(u64::from(partition) * keys..u64::from(partition) * keys + keys / u64::from(PARTITIONS));
        let head = SnapshotHead { partition, decisions_through: 1, ..SnapshotHead::default() };
        let started = Instant::now();
        let blob = Snapshot::encode(&head, &state);
        encoding += started.elapsed();
        (state_bytes, blob_bytes) = (state_bytes + state.bytes(), blob_bytes + blob.len());
        let index = SnapshotIndex::default();
        bus.put_blob(&index.newest_slot.blob_name(partition), blob).await?;
        bus.put_record(&SnapshotIndex::record_key(partition), Expected::Absent, index.encode()).await?;
        bus.append(&decisions(partition)?, None, DecisionBatch::default().encode()).await?;
        bus.append(&Log::new(&format!("events.{partition}"))?, None, event()?).await?;
    }
    let before = resident_bytes();
    let (stop, registry, started) = (CancellationToken::new(), Registry::default(), Instant::now());
    let partitions = PartitionCount::new(PARTITIONS).ok_or("a number of partitions")?;
    let (shares, all) = Shares::alone(PARTITIONS, stop.clone());
    let config = IdentityConfig {
        partitions,
        directory: Directory::new(Vec::new()).1,
        key: InstallationKey::new([7; 32]),
        snapshot_every_bytes: u64::MAX,
        state_budget: StateBudget::of_bytes(0),
    };
    let run = inflection_identity::run(config, bus.clone(), IdentityMetrics::new(&registry), shares);
    let tasks = TaskTracker::new();
    let identity = tasks.spawn(async move { tokio::join!(run, all).0 });
    for partition in 0..PARTITIONS {
        // Its first decision after the start.
        bus.read(&decisions(partition)?, 1).next(1).await?;
    }
    let (elapsed, held) = (started.elapsed(), resident_bytes().saturating_sub(before));
    stop.cancel();
    identity.await??;
    #[expect(clippy::cast_precision_loss, reason = "a figure of three digits")]
    let each = |bytes: usize| bytes as f64 / keys as f64;
    println!("{keys} keys in {PARTITIONS} partitions");
    println!("state      {:6.1} bytes a key, {:6.1} resident", each(state_bytes), each(held));
    println!("snapshots  {:6.1} bytes a key, written in {:.2} s", each(blob_bytes), encoding.as_secs_f64());
    println!("from start to the first decision of every partition: {:.2} s", elapsed.as_secs_f64());
    Ok(())
}

fn decisions(partition: u16) -> Outcome<Log> {
    Ok(Log::new(&format!("decisions.{partition}"))?)
}

/// A state of these keys.
fn state(keys: std::ops::Range<u64>) -> PartitionState {
    let today = now().day();
    let mut state = PartitionState::restore(now());
    for number in keys {
        let key = Hash128::of("key", &[&number.to_le_bytes()]);
        match number % 10 {
            0..5 => state.seen_events(today - small(number % 7), [key]),
            5..9 => state.deliveries([(key, mail(number, today))]),
            _ => state.persons(UserId::new(format!("user-{number:012}")).map(|user| (key, Person::Known(user)))),
        }
    }
    state.finish()
}

fn mail(number: u64, today: u32) -> Delivery {
    let percent = number / 10 % 100;
    let opened = percent < 40;
    let click = LinkClick { link: number, winner: number };
    Delivery {
        day: today - small(number % 300),
        delivered: true,
        unique_open: opened.then_some(OpenSource::Pixel),
        open_winner: opened.then_some(number),
        clicks: if percent < 5 { vec![click] } else { Vec::new() },
        ..Delivery::default()
    }
}

fn small(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

fn now() -> Timestamp {
    Timestamp::from_ms(NOW_MS)
}

/// A message of one event.
fn event() -> Outcome<bytes::Bytes> {
    let (workspace, event_id, person) = (WorkspaceId::new("acme")?, EventId::new("new")?, PersonId::new("someone")?);
    let person_key = Head::person_key(&workspace, &person);
    let head = Head {
        kind: FactKind::EmailOpened,
        event: Head::event_key(&workspace, &event_id),
        person: person_key,
        user: None,
        occurred_at: now(),
        mail: MailRef::new(person_key, Some("run"), Some("mail"), None),
        link: None,
        link_kind: LinkKind::Content,
        machine: MachineCheck::default(),
        bounce_class: inflection_domain::BounceClass::default(),
        scope: 0,
        has_traits: false,
        workspace,
    };
    let body = Body::new(event_id, person);
    let mut chunk = EventChunk::default();
    encode_event(&Fact { head, body }, &mut chunk);
    Ok(event_batch(now(), &[chunk]))
}

/// Memory of this process, where the system tells.
fn resident_bytes() -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib: usize = line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0);
    kib * 1024
}
