//! What only a look into the files shows: torn tails, damage, reclaimed room, one process at a time.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use inflection_bus::{Bus, EmbeddedConfig, Expected, OpenError, RecordError};
use proptest::prelude::*;

use crate::backends::{embedded_config, log};

fn small(dir: &Path) -> EmbeddedConfig {
    EmbeddedConfig { segment_bytes: 8 * 1024, ..embedded_config(dir) }
}

fn journals(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(dir)
        .expect("a directory")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "log"))
        .collect();
    files.sort();
    files
}

async fn payloads(bus: &Bus, name: &str) -> Vec<Bytes> {
    let log = log(name);
    let Some(last) = bus.last(&log).await.expect("an answer") else { return Vec::new() };
    let mut reader = bus.read(&log, 0);
    let mut read = Vec::new();
    loop {
        let messages = reader.next(usize::MAX).await.expect("messages");
        let end = messages.last().is_some_and(|message| message.sequence == last.sequence);
        read.extend(messages.into_iter().map(|message| message.payload));
        if end {
            return read;
        }
    }
}

#[tokio::test]
async fn a_store_is_for_one_process_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let bus = Bus::open_embedded(small(dir.path())).await.unwrap();
    let second = Bus::open_embedded(small(dir.path())).await;
    assert!(matches!(second, Err(OpenError::InUse(_))), "{second:?}");
    bus.close().await;
    assert!(bus.append(&log("a.b"), None, Bytes::new()).await.is_err(), "a closed store takes nothing");
    Bus::open_embedded(small(dir.path())).await.unwrap();
}

#[tokio::test]
async fn a_torn_tail_is_dropped_wherever_it_is_torn() {
    let dir = tempfile::tempdir().unwrap();
    let bus = Bus::open_embedded(embedded_config(dir.path())).await.unwrap();
    bus.append(&log("a.b"), None, Bytes::from_static(b"first")).await.unwrap();
    bus.append(&log("a.b"), None, Bytes::from_static(b"second")).await.unwrap();
    bus.close().await;
    let file = journals(dir.path()).pop().unwrap();
    let whole = std::fs::read(&file).unwrap();
    let frame = whole.windows(6).position(|window| window == b"second").unwrap() + 6;
    for cut in 1..20 {
        let mut torn = whole.clone();
        torn[frame - cut..frame].fill(0);
        std::fs::write(&file, &torn).unwrap();
        let bus = Bus::open_embedded(embedded_config(dir.path())).await.unwrap();
        assert_eq!(payloads(&bus, "a.b").await, [Bytes::from_static(b"first")], "cut {cut}");
        bus.append(&log("a.b"), Some(1), Bytes::from_static(b"again")).await.unwrap();
        assert_eq!(payloads(&bus, "a.b").await.len(), 2);
        bus.close().await;
    }
}

#[tokio::test]
async fn damage_in_an_older_file_is_refused_with_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let bus = Bus::open_embedded(small(dir.path())).await.unwrap();
    for _ in 0..20 {
        bus.append(&log("a.b"), None, Bytes::from(vec![b'x'; 1000])).await.unwrap();
    }
    bus.close().await;
    let files = journals(dir.path());
    assert!(files.len() > 2);
    let mut bytes = std::fs::read(&files[0]).unwrap();
    bytes[2500] ^= 1;
    std::fs::write(&files[0], bytes).unwrap();
    let opened = Bus::open_embedded(small(dir.path())).await;
    assert!(
        matches!(&opened, Err(OpenError::Damaged { path, offset }) if *path == files[0] && *offset < 2500),
        "{opened:?}"
    );
}

#[tokio::test]
async fn room_is_reclaimed_and_what_is_needed_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let bus = Bus::open_embedded(small(dir.path())).await.unwrap();
    bus.put_record("kept", Expected::Absent, Bytes::from_static(b"record")).await.unwrap();
    bus.append(&log("a.rare"), None, Bytes::from_static(b"old but needed")).await.unwrap();
    for round in 0..200u64 {
        let sequence = bus.append(&log("a.busy"), None, Bytes::from(vec![b'x'; 1000])).await.unwrap();
        assert_eq!(sequence, round + 1);
        bus.purge(&log("a.busy"), sequence).await.unwrap();
    }
    assert!(journals(dir.path()).len() <= 3, "{:?}", journals(dir.path()));
    bus.close().await;
    let bus = Bus::open_embedded(small(dir.path())).await.unwrap();
    assert_eq!(payloads(&bus, "a.rare").await, [Bytes::from_static(b"old but needed")]);
    assert_eq!(bus.get_record("kept").await.unwrap().unwrap().value, Bytes::from_static(b"record"));
    assert_eq!(bus.append(&log("a.busy"), None, Bytes::new()).await.unwrap(), 201, "sequences are never given twice");
}

/// One step of a random history.
#[derive(Debug, Clone)]
enum Step {
    Append(u8, u16),
    Purge(u8, u8),
    Record(u8, u8),
    Forget(u8),
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0u8..3, 0u16..3000).prop_map(|(log, bytes)| Step::Append(log, bytes)),
        2 => (0u8..3, 0u8..20).prop_map(|(log, back)| Step::Purge(log, back)),
        1 => (0u8..3, any::<u8>()).prop_map(|(key, value)| Step::Record(key, value)),
        1 => (0u8..3).prop_map(Step::Forget),
        1 => Just(Step::Reopen),
    ];
    proptest::collection::vec(step, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// The store against a model of a few lines, through purges, moves between files and restarts.
    #[test]
    fn the_store_is_what_a_list_would_be(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let dir = tempfile::tempdir().unwrap();
            let mut bus = Bus::open_embedded(small(dir.path())).await.unwrap();
            let mut model: Vec<(u64, Vec<Bytes>)> = vec![(0, vec![]); 3]; // purged through, all payloads
            let mut records = [None; 3];
            for step in steps {
                match step {
                    Step::Append(at, bytes) => {
                        let (_, list) = &mut model[usize::from(at)];
                        let payload = Bytes::from(vec![u8::try_from(list.len() % 251).unwrap(); usize::from(bytes)]);
                        let sequence = bus.append(&log(&format!("m.{at}")), None, payload.clone()).await.unwrap();
                        list.push(payload);
                        assert_eq!(sequence, list.len() as u64);
                    }
                    Step::Purge(at, back) => {
                        let (purged, list) = &mut model[usize::from(at)];
                        let through = (list.len() as u64).saturating_sub(u64::from(back));
                        bus.purge(&log(&format!("m.{at}")), through).await.unwrap();
                        *purged = through.max(*purged);
                    }
                    Step::Record(key, value) => {
                        let revision = bus.put_record(&format!("r{key}"), Expected::Anything, Bytes::from(vec![value])).await;
                        records[usize::from(key)] = Some((value, revision.unwrap()));
                    }
                    Step::Forget(key) => {
                        bus.delete_record(&format!("r{key}")).await.unwrap();
                        records[usize::from(key)] = None;
                    }
                    Step::Reopen => {
                        bus.close().await;
                        bus = Bus::open_embedded(small(dir.path())).await.unwrap();
                    }
                }
            }
            for (at, (purged, list)) in model.iter().enumerate() {
                assert_eq!(payloads(&bus, &format!("m.{at}")).await, list[usize::try_from(*purged).unwrap()..]);
            }
            for (key, expected) in records.iter().enumerate() {
                let found = bus.get_record(&format!("r{key}")).await.unwrap();
                assert_eq!(found.map(|record| (record.value[0], record.revision)), *expected);
            }
        });
    }
}

/// Records that may be many leave room for those without which nothing goes on, also over a restart.
#[tokio::test]
async fn many_records_leave_room_for_the_others() {
    const VALUE_BYTES: usize = 512 * 1024;
    let dir = tempfile::tempdir().unwrap();
    let value = Bytes::from(vec![b'x'; VALUE_BYTES]);
    let open =
        || Bus::open_embedded(EmbeddedConfig { many_records: "alias", ..EmbeddedConfig::new(dir.path().to_owned()) });
    let bus = open().await.unwrap();
    let mut kept = 0;
    let full = loop {
        match bus.put_record(&format!("alias.{kept}"), Expected::Absent, value.clone()).await {
            Ok(_) => kept += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(full, RecordError::Full(_)), "{full}");
    assert_eq!(kept, 31, "16 MiB, less their keys");
    bus.put_record("progress.1", Expected::Absent, value.clone()).await.unwrap();
    bus.close().await;
    let bus = open().await.unwrap();
    assert_eq!(bus.get_record("alias.30").await.unwrap().map(|record| record.value.len()), Some(VALUE_BYTES));
    bus.put_record("progress.2", Expected::Absent, value.clone()).await.unwrap();
    let again = bus.put_record("alias.more", Expected::Absent, value).await.unwrap_err();
    assert!(matches!(again, RecordError::Full(_)), "{again}");
    bus.close().await;
}
