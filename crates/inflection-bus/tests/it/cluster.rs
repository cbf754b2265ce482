//! What a cluster does when servers die under it: appends and records are stored once, readers and watches go on, and a bus
//! without a majority says so.

use std::time::{Duration, Instant};

use bytes::Bytes;
use inflection_bus::{AppendError, Bus, Expected, RecordError};

use crate::backends::{NatsCluster, log};

const AMPLE: i64 = 1 << 30;
const SERVERS: usize = 3;

fn numbered(number: usize) -> Bytes {
    Bytes::from(number.to_string())
}

/// Every server is killed once and started again, each while the one before may still be catching up in some stream; one
/// writer goes on with fences and with compare-and-set, through whatever elections that takes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fences_and_records_hold_through_elections() {
    let mut cluster = NatsCluster::start();
    let bus = cluster.bus(AMPLE).await;
    let log = log("events.elections");
    let (mut reader, mut watch) = (bus.read(&log, 0), bus.watch("member"));
    assert!(watch.next().await.unwrap().is_empty());
    let (mut sequences, mut revision) = (Vec::new(), None);
    for number in 0..SERVERS {
        cluster.servers[number].kill();
        for _ in 0..20 {
            let payload = numbered(sequences.len());
            let fence = Some(sequences.last().copied().unwrap_or(0));
            let append = || bus.append(&log, fence, payload.clone());
            sequences.push(until_there(append, |error| matches!(error, AppendError::Unavailable(_))).await);
            let put = || put(&bus, sequences.len(), revision);
            revision = Some(until_there(put, |error| matches!(error, RecordError::Unavailable(_))).await);
        }
        cluster.servers[number].restart();
    }
    let mut read = Vec::new();
    while read.len() < sequences.len() {
        read.extend(reader.next(usize::MAX).await.unwrap());
    }
    assert_eq!(read.iter().map(|message| message.sequence).collect::<Vec<_>>(), sequences);
    for (number, message) in read.iter().enumerate() {
        assert_eq!(message.payload, numbered(number));
    }
    let mut last = None;
    while last != revision {
        last = watch.next().await.unwrap().last().map(|change| change.revision).or(last);
    }
}

async fn put(bus: &Bus, number: usize, revision: Option<u64>) -> Result<u64, RecordError> {
    let expected = revision.map_or(Expected::Absent, Expected::Revision);
    match bus.put_record("member.a", expected, numbered(number)).await {
        // What stands against it may be this very write, given up before.
        Err(RecordError::Conflict) => match bus.get_record("member.a").await? {
            Some(record) if record.value == numbered(number) => Ok(record.revision),
            _ => Err(RecordError::Conflict),
        },
        outcome => outcome,
    }
}

/// An append may be given up in an unlucky election; repeated by its writer it must be found, not doubled.
async fn until_there<T, E: std::fmt::Debug, F: Future<Output = Result<T, E>>>(
    write: impl Fn() -> F,
    is_unavailable: impl Fn(&E) -> bool,
) -> T {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        match write().await {
            Ok(done) => return done,
            Err(error) => assert!(is_unavailable(&error) && Instant::now() < deadline, "{error:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_majority_appends_are_given_up_in_time_and_the_bus_says_why() {
    let mut cluster = NatsCluster::start();
    let bus = cluster.bus(AMPLE).await;
    let log = log("events.minority");
    bus.append(&log, None, numbered(0)).await.unwrap();
    bus.health().await.unwrap();
    cluster.servers[0].kill();
    cluster.servers[1].kill();
    let mut took = Vec::new();
    for number in 1..3 {
        let began = Instant::now();
        let refused = bus.append(&log, None, numbered(number)).await;
        assert!(matches!(refused, Err(AppendError::Unavailable(_))), "{refused:?}");
        took.push(began.elapsed());
    }
    // The first waits for an election that does not come; after that it is known.
    assert!(took[0] < Duration::from_secs(10) && took[1] < Duration::from_secs(2), "{took:?}");
    let deadline = Instant::now() + Duration::from_secs(20);
    let why = loop {
        match bus.health().await {
            Err(why) if why.contains("leader") => break why,
            // The client looks for another server first, when it was connected to one of the two.
            other => assert!(Instant::now() < deadline, "{other:?}"),
        }
    };
    println!("given up after {took:?}: {why}");
    cluster.servers[0].restart();
    let deadline = Instant::now() + Duration::from_secs(60);
    while let Err(why) = bus.health().await {
        assert!(Instant::now() < deadline, "{why}");
    }
    while let Err(error) = bus.append(&log, None, numbered(3)).await {
        assert!(Instant::now() < deadline, "{error}");
    }
}
