//! What was acknowledged survives SIGKILL, of the process with the embedded store and of nats-server.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use bytes::Bytes;
use inflection_bus::{Bus, Message};

use crate::backends::{NatsServer, embedded_config, log};

/// Makes this test binary the process that is killed.
const CHILD_DIR: &str = "INFLECTION_BUS_CRASH_CHILD";
const LOGS: u64 = 4;
const KILLS: u64 = 10;

async fn read_all(bus: &Bus, name: &str) -> Vec<Message> {
    let log = log(name);
    let Some(last) = bus.last(&log).await.expect("an answer") else { return Vec::new() };
    let mut reader = bus.read(&log, 0);
    let mut read: Vec<Message> = Vec::new();
    while read.last().is_none_or(|message| message.sequence < last.sequence) {
        read.extend(reader.next(1 << 20).await.expect("messages"));
    }
    read
}

/// The process that is killed: appends to several logs at once and prints each acknowledged message; purges as it goes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn crash_child() {
    #[expect(
        clippy::disallowed_methods,
        reason = "tells the child from the ordinary test run, in which it does nothing"
    )]
    let Ok(dir) = std::env::var(CHILD_DIR) else { return };
    let config = inflection_bus::EmbeddedConfig { segment_bytes: 64 * 1024, ..embedded_config(dir.as_ref()) };
    let bus = Bus::open_embedded(config).await.unwrap();
    let writers = (0..LOGS).map(|writer| {
        let bus = bus.clone();
        async move {
            let log = log(&format!("events.{writer}"));
            let mut fence = bus.last(&log).await.unwrap().map_or(0, |last| last.sequence);
            loop {
                let payload = Bytes::from(format!(
                    "{writer}:{}:{}",
                    fence + 1,
                    "x".repeat(usize::try_from(fence % 700).unwrap())
                ));
                fence = bus.append(&log, Some(fence), payload).await.unwrap();
                println!("acked {writer} {fence}");
                if writer == 0 && fence % 50 == 0 {
                    bus.purge(&log, fence - 10).await.unwrap();
                    println!("purged {writer} {}", fence - 10);
                }
            }
        }
    });
    futures_util::future::join_all(writers).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn embedded_keeps_what_it_acknowledged_through_kills() {
    let dir = tempfile::tempdir().unwrap();
    let mut acked = vec![0; usize::try_from(LOGS).unwrap()];
    let mut purged = acked.clone();
    for kill in 1..=KILLS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["crash::crash_child", "--exact", "--nocapture"])
            .env(CHILD_DIR, dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut take = |line: &str| {
            let words: Vec<&str> = line.split(' ').collect();
            if let [what @ ("acked" | "purged"), writer, sequence] = words[..] {
                let list = if what == "acked" { &mut acked } else { &mut purged };
                list[writer.parse::<usize>().unwrap()] = sequence.parse::<u64>().unwrap();
            }
        };
        for line in lines.by_ref().take(200 + usize::try_from(kill * 37).unwrap()) {
            take(&line.unwrap());
        }
        child.kill().unwrap();
        // What it still got out before it died counts as well; a last line may be cut short.
        lines.map_while(Result::ok).filter(|line| line.matches(' ').count() == 2).for_each(|line| take(&line));
        child.wait().unwrap();
        // The last printed line may be cut inside its number, which only makes the claim weaker.
        let bus = Bus::open_embedded(embedded_config(dir.path())).await.unwrap();
        for writer in 0..LOGS {
            let (at, name) = (usize::try_from(writer).unwrap(), format!("events.{writer}"));
            let read = read_all(&bus, &name).await;
            let (first, last) = (read.first().unwrap().sequence, read.last().unwrap().sequence);
            assert!(last >= acked[at], "kill {kill}: {name} ends at {last}, acknowledged {}", acked[at]);
            assert!(last <= acked[at] + 1, "kill {kill}: one append in flight");
            assert!(first > purged[at] && (writer == 0 || first == 1), "kill {kill}: {name} begins at {first}");
            for (message, expected) in read.iter().zip(first..) {
                assert_eq!(message.sequence, expected);
                assert!(message.payload.starts_with(format!("{writer}:{expected}:").as_bytes()));
            }
            acked[at] = last;
        }
        bus.close().await;
    }
    let files = std::fs::read_dir(dir.path()).unwrap().count();
    println!("{KILLS} kills, acknowledged {acked:?}, {files} files");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nats_keeps_what_it_acknowledged_through_kills() {
    let mut server = NatsServer::start();
    let bus = server.bus(1 << 30).await;
    let log = log("events.kills");
    let mut sequences: Vec<u64> = Vec::new();
    for kill in 0..3u64 {
        for _ in 0..50 {
            let payload = Bytes::from(sequences.len().to_string());
            let fence = sequences.last().copied().unwrap_or(0);
            sequences.push(bus.append(&log, Some(fence), payload).await.unwrap());
        }
        let fence = *sequences.last().unwrap();
        // One append is under way while the server dies; it must be settled, not doubled.
        let appending = bus.append(&log, Some(fence), Bytes::from(format!("{}", sequences.len())));
        let killing = async {
            server.kill();
            server.restart();
        };
        let (appended, ()) = tokio::join!(appending, killing);
        sequences.push(appended.unwrap_or_else(|error| panic!("kill {kill}: {error}")));
    }
    let read = read_all(&bus, "events.kills").await;
    assert_eq!(read.iter().map(|message| message.sequence).collect::<Vec<_>>(), sequences);
    for (number, message) in read.iter().enumerate() {
        assert_eq!(message.payload, number.to_string());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_nats_reader_goes_on_after_the_server_died() {
    let mut server = NatsServer::start();
    let bus = server.bus(1 << 30).await;
    let log = log("events.reader");
    let mut reader = bus.read(&log, 0);
    let first = bus.append(&log, None, Bytes::from_static(b"1")).await.unwrap();
    assert_eq!(reader.next(1).await.unwrap()[0].sequence, first);
    server.kill();
    server.restart();
    let second = bus.append(&log, None, Bytes::from_static(b"2")).await.unwrap();
    assert_eq!(reader.next(1).await.unwrap()[0].sequence, second);
}
