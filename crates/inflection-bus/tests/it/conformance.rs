//! What every backend does.

use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use inflection_bus::{
    AppendError, BlobError, Bus, DurabilityGap, Expected, ProvisionConfig, Record, RecordError, StreamSpec, WhenFull,
};

use crate::backends::{NatsCluster, NatsServer, embedded_config, log};

/// A size no test fills.
const AMPLE: i64 = 1 << 30;

/// Runs every claim against a bus. `full` is the same backend with room for little.
async fn conforms(bus: Bus, full: Bus) {
    messages_are_read_in_order_from_any_position(&bus).await;
    a_reader_waits_for_what_comes_next(&bus).await;
    fences_hold(&bus).await;
    of_two_writers_with_one_fence_one_wins(&bus).await;
    purged_messages_are_gone_and_the_rest_stays(&bus).await;
    records_compare_and_set(&bus).await;
    records_are_watched(&bus).await;
    a_watch_comes_to_its_end_although_others_are_looked_at(&bus).await;
    blobs_are_whole_or_not_there(&bus).await;
    too_large_is_refused(&bus).await;
    logs_are_apart(&bus).await;
    a_look_finds_the_first_message_after_a_position_and_never_waits(&bus).await;
    full_is_a_named_error_and_purging_makes_room(&full).await;
    how_full_it_is_is_told(&full).await;
    assert_eq!(bus.connections(), 1);
    bus.health().await.expect("healthy");
    bus.close().await;
    full.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn embedded_conforms() {
    let (dir, small) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let bus = Bus::open_embedded(embedded_config(dir.path())).await.unwrap();
    let full = inflection_bus::EmbeddedConfig {
        disk_bytes_max: 64 * 1024,
        segment_bytes: 16 * 1024,
        ..embedded_config(small.path())
    };
    conforms(bus, Bus::open_embedded(full).await.unwrap()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nats_conforms() {
    let (server, small) = (NatsServer::start(), NatsServer::start());
    conforms(server.bus(AMPLE).await, small.bus(64 * 1024).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_nats_cluster_conforms() {
    let (cluster, small) = (NatsCluster::start(), NatsCluster::start());
    conforms(cluster.bus(AMPLE).await, small.bus(64 * 1024).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_of_nats_may_evict_its_oldest_if_it_is_told_to() {
    let server = NatsServer::start();
    let bus = server.bus(AMPLE).await;
    let config = |when_full| {
        let streams = vec![StreamSpec { name: "events", bytes_max: 64 * 1024, when_full }];
        ProvisionConfig { streams, replicas: 1 }
    };
    let evicts = DurabilityGap::Evicts("INFLECTION_EVENTS".to_owned());
    // A stream that was made to refuse takes over what it is told now.
    let done = bus.provision(&config(WhenFull::EvictOldest)).await.expect("it provisions");
    assert!(!done.gaps.contains(&evicts), "{:?}", done.gaps);
    let log = log("events.evicted");
    for number in 1..=50 {
        assert_eq!(bus.append(&log, None, Bytes::from(vec![b'x'; 4000])).await.expect("room"), number);
    }
    let first = bus.read(&log, 0).next(1).await.expect("messages")[0].sequence;
    assert!((30..=50).contains(&first), "the oldest is gone, the newest is there: {first}");
    // Where it may not, it is a gap.
    let gaps = bus.durability_gaps(&config(WhenFull::Refuse)).await.expect("an answer");
    assert!(gaps.contains(&evicts), "{gaps:?}");
    bus.close().await;
}

fn numbered(number: u64) -> Bytes {
    Bytes::from(number.to_string())
}

async fn messages_are_read_in_order_from_any_position(bus: &Bus) {
    let log = log("events.order");
    let mut sequences = Vec::new();
    for number in 0..100 {
        sequences.push(bus.append(&log, None, numbered(number)).await.expect("appended"));
    }
    assert!(sequences.is_sorted_by(|a, b| a < b));
    for start in [0, 37, 99] {
        let after = if start == 0 { 0 } else { sequences[start - 1] };
        let mut reader = bus.read(&log, after);
        let mut read = Vec::new();
        while read.len() < 100 - start {
            read.extend(reader.next(10).await.expect("messages"));
        }
        let expected: Vec<_> = (start..100).map(|at| (sequences[at], numbered(at as u64))).collect();
        assert_eq!(read.into_iter().map(|message| (message.sequence, message.payload)).collect::<Vec<_>>(), expected);
    }
    let last = bus.last(&log).await.expect("an answer").expect("a message");
    assert_eq!((last.sequence, last.payload), (sequences[99], numbered(99)));
}

async fn a_reader_waits_for_what_comes_next(bus: &Bus) {
    let log = log("events.wait");
    let mut reader = bus.read(&log, 0);
    let (messages, appended) = tokio::join!(reader.next(1), bus.append(&log, None, numbered(1)));
    let messages = messages.expect("messages");
    assert_eq!(messages.len(), 1);
    assert_eq!(messages[0].sequence, appended.expect("appended"));
}

async fn a_look_finds_the_first_message_after_a_position_and_never_waits(bus: &Bus) {
    let log = log("events.look");
    let look = async |after| {
        let found = bus.first(&log, after).await.expect("an answer");
        found.map(|found| (found.sequence, found.payload))
    };
    assert_eq!(look(0).await, None);
    let one = bus.append(&log, None, Bytes::from_static(b"one")).await.expect("room");
    let two = bus.append(&log, None, Bytes::from_static(b"two")).await.expect("room");
    assert_eq!(look(0).await, Some((one, Bytes::from_static(b"one"))));
    assert_eq!(look(one).await, Some((two, Bytes::from_static(b"two"))));
    assert_eq!(look(two).await, None);
    bus.purge(&log, one).await.expect("purged");
    assert_eq!(look(0).await, Some((two, Bytes::from_static(b"two"))));
}

/// Of a store with room for 64 KiB: at least what lies in it, at most what it may hold.
async fn how_full_it_is_is_told(full: &Bus) {
    const HELD: u64 = 8 * 1024;
    full.append(&log("events.held"), None, vec![7; 8 * 1024].into()).await.expect("room");
    // The embedded store says so when its round has ended, which is after the answer.
    let told = async {
        loop {
            let usage = full.usage(&["events"]).await.expect("an answer");
            let [usage] = usage.as_slice() else { panic!("one store: {usage:?}") };
            assert!(["events", "journal"].contains(&usage.store), "{usage:?}");
            assert_eq!(usage.bytes_max, Some(64 * 1024));
            if (HELD..=64 * 1024).contains(&usage.bytes) {
                break;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), told).await.expect("what is held is counted");
}

async fn fences_hold(bus: &Bus) {
    let log = log("events.fence");
    assert!(bus.last(&log).await.expect("an answer").is_none());
    let first = bus.append(&log, Some(0), numbered(1)).await.expect("an empty log has last sequence 0");
    let refused = bus.append(&log, Some(0), numbered(2)).await;
    assert!(matches!(refused, Err(AppendError::Fenced { expected: 0 })), "{refused:?}");
    let second = bus.append(&log, Some(first), numbered(3)).await.expect("the fence is right");
    let refused = bus.append(&log, Some(first), numbered(4)).await;
    assert!(matches!(refused, Err(AppendError::Fenced { .. })), "{refused:?}");
    assert_eq!(bus.last(&log).await.expect("an answer").expect("a message").sequence, second);
}

async fn of_two_writers_with_one_fence_one_wins(bus: &Bus) {
    let log = log("events.race");
    let mut fence = 0;
    for round in 0..20 {
        let (one, other) = tokio::join!(
            bus.append(&log, Some(fence), numbered(round * 2)),
            bus.append(&log, Some(fence), numbered(round * 2 + 1)),
        );
        fence = match (one, other) {
            (Ok(won), Err(AppendError::Fenced { expected })) | (Err(AppendError::Fenced { expected }), Ok(won)) => {
                assert_eq!(expected, fence, "round {round}");
                won
            }
            both => panic!("round {round}: {both:?}"),
        };
    }
}

async fn purged_messages_are_gone_and_the_rest_stays(bus: &Bus) {
    let log = log("events.purge");
    let mut sequences = Vec::new();
    for number in 0..10 {
        sequences.push(bus.append(&log, None, numbered(number)).await.expect("appended"));
    }
    bus.purge(&log, sequences[6]).await.expect("purged");
    bus.purge(&log, sequences[2]).await.expect("purging what is gone is no error");
    let mut reader = bus.read(&log, 0);
    let mut read = Vec::new();
    while read.len() < 3 {
        read.extend(reader.next(usize::MAX).await.expect("messages"));
    }
    assert_eq!(read.iter().map(|message| message.sequence).collect::<Vec<_>>(), sequences[7..]);
    let next = bus.append(&log, Some(sequences[9]), numbered(10)).await.expect("fences still hold");
    bus.purge(&log, next).await.expect("purged");
    assert!(bus.last(&log).await.expect("an answer").is_none());
    assert!(bus.append(&log, Some(0), numbered(11)).await.expect("an emptied log is empty") > next);
}

async fn records_compare_and_set(bus: &Bus) {
    let put = |expected, value: &'static str| bus.put_record("a.key-1", expected, Bytes::from_static(value.as_bytes()));
    assert_eq!(bus.get_record("a.key-1").await.expect("an answer"), None);
    let conflict = put(Expected::Revision(7), "x").await;
    assert!(matches!(conflict, Err(RecordError::Conflict)), "{conflict:?}");
    let first = put(Expected::Absent, "one").await.expect("absent");
    assert!(matches!(put(Expected::Absent, "x").await, Err(RecordError::Conflict)));
    let second = put(Expected::Revision(first), "two").await.expect("the revision is right");
    assert!(matches!(put(Expected::Revision(first), "x").await, Err(RecordError::Conflict)));
    assert_eq!(
        bus.get_record("a.key-1").await.expect("an answer"),
        Some(Record { value: Bytes::from_static(b"two"), revision: second })
    );
    bus.delete_record("a.key-1").await.expect("deleted");
    bus.delete_record("a.key-1").await.expect("deleting twice is no error");
    assert_eq!(bus.get_record("a.key-1").await.expect("an answer"), None);
    let third = put(Expected::Absent, "three").await.expect("absent again");
    assert!(third > second, "revisions are never given twice");
    put(Expected::Anything, "four").await.expect("anything");
    assert!(matches!(bus.get_record("a key").await, Ok(None) | Err(RecordError::InvalidKey)));
    assert!(matches!(bus.put_record("a.*", Expected::Anything, Bytes::new()).await, Err(RecordError::InvalidKey)));
}

async fn records_are_watched(bus: &Bus) {
    let put = |key: &'static str, value: &'static str| bus.put_record(key, Expected::Anything, Bytes::from(value));
    let seen = |changes: Vec<inflection_bus::RecordChange>| {
        changes.into_iter().map(|change| (change.key, String::from_utf8_lossy(&change.value).into_owned()))
    };
    let mut empty = bus.watch("watched");
    assert!(empty.next().await.expect("an answer").is_empty(), "nothing is there yet");
    put("watched.a", "1").await.expect("put");
    put("watched.b.c", "2").await.expect("put");
    put("watchedmore.a", "another prefix").await.expect("put");
    let mut later = bus.watch("watched");
    let there: std::collections::BTreeMap<_, _> = seen(later.next().await.expect("changes")).collect();
    assert_eq!(there, [("watched.a", "1"), ("watched.b.c", "2")].map(|(k, v)| (k.to_owned(), v.to_owned())).into());
    for watch in [&mut empty, &mut later] {
        let (changes, written) = tokio::join!(watch.next(), put("watched.a", "3"));
        written.expect("put");
        let mut last: std::collections::BTreeMap<_, _> = seen(changes.expect("changes")).collect();
        // Of the first watch the earlier writes may come before it.
        while last.get("watched.a").is_none_or(|value| value != "3") {
            last.extend(seen(watch.next().await.expect("changes")));
        }
    }
}

/// A watch beside others in a loop is dropped whenever one of them has something; here, after one look each time.
async fn a_watch_comes_to_its_end_although_others_are_looked_at(bus: &Bus) {
    bus.put_record("looked.a", Expected::Anything, numbered(1)).await.expect("put");
    let mut watch = bus.watch("looked");
    let there = async {
        loop {
            match watch.next().now_or_never() {
                Some(there) => break there.expect("changes"),
                None => tokio::task::yield_now().await,
            }
        }
    };
    let there = tokio::time::timeout(Duration::from_secs(10), there).await.expect("it is starved");
    assert_eq!(
        there.into_iter().map(|change| (change.key, change.value)).collect::<Vec<_>>(),
        [("looked.a".to_owned(), numbered(1))]
    );
}

async fn blobs_are_whole_or_not_there(bus: &Bus) {
    let large = Bytes::from(vec![7; 3 << 20]);
    assert_eq!(bus.get_blob("snapshot.1").await.expect("an answer"), None);
    bus.put_blob("snapshot.1", Bytes::from_static(b"old")).await.expect("stored");
    bus.put_blob("snapshot.1", large.clone()).await.expect("replaced");
    assert_eq!(bus.get_blob("snapshot.1").await.expect("an answer"), Some(large));
    bus.delete_blob("snapshot.1").await.expect("deleted");
    bus.delete_blob("snapshot.1").await.expect("deleting twice is no error");
    assert_eq!(bus.get_blob("snapshot.1").await.expect("an answer"), None);
    assert!(matches!(bus.put_blob("../x", Bytes::new()).await, Err(BlobError::InvalidName)));
}

async fn too_large_is_refused(bus: &Bus) {
    let payload = Bytes::from(vec![0; bus.payload_bytes_max() + 1]);
    let refused = bus.append(&log("events.large"), None, payload.clone()).await;
    assert!(matches!(refused, Err(AppendError::TooLarge { .. })), "{refused:?}");
    bus.append(&log("events.large"), None, payload.slice(1..)).await.expect("exactly the limit is taken");
}

async fn logs_are_apart(bus: &Bus) {
    let (one, other) = (log("events.apart-1"), log("events.apart-11"));
    bus.append(&one, None, numbered(1)).await.expect("appended");
    bus.append(&other, None, numbered(2)).await.expect("appended");
    assert_eq!(bus.last(&one).await.expect("an answer").expect("a message").payload, numbered(1));
    assert_eq!(bus.last(&other).await.expect("an answer").expect("a message").payload, numbered(2));
    let listed = bus.logs("events").await.expect("an answer");
    assert!(listed.contains(&one) && listed.contains(&other), "{listed:?}");
    bus.purge(&one, u64::MAX >> 1).await.expect("purged");
    let listed = bus.logs("events").await.expect("an answer");
    assert!(!listed.contains(&one) && listed.contains(&other), "{listed:?}");
}

async fn full_is_a_named_error_and_purging_makes_room(bus: &Bus) {
    let log = log("events.full");
    let mut last = 0;
    let refused = loop {
        match bus.append(&log, None, Bytes::from(vec![b'x'; 4000])).await {
            Ok(sequence) => last = sequence,
            Err(error) => break error,
        }
        assert!(last < 1000, "never full");
    };
    assert!(matches!(refused, AppendError::Full(_)), "{refused:?}");
    assert!(last > 3, "room for something: {last}");
    assert!(bus.last(&log).await.expect("an answer").expect("a message").sequence == last, "nothing was evicted");
    bus.purge(&log, last).await.expect("a full bus can be purged");
    let mut tries = 0;
    while let Err(error) = bus.append(&log, None, Bytes::from(vec![b'x'; 4000])).await {
        assert!(matches!(error, AppendError::Full(_)), "{error:?}");
        tries += 1;
        assert!(tries < 100, "room comes back");
    }
}
