//! The yardstick for the bus: the messages of a run through two logs of the same bus, with nothing between.
//!
//! As many messages of the same mean sizes as the run has just written into `events` and `decisions`, over as many
//! partitions: publish → first log → copy → second log → drain. No pipeline on this topology can be faster.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use bytes::Bytes;
use inflection_bus::{AppendError, Bus, EmbeddedConfig, Log, Sequence};
use serde::Serialize;
use tokio::task::JoinSet;

use super::processes::Pipeline;

/// Appends under way at once in each log of the bare relay.
const WINDOW: usize = 8;
/// Times that each way is measured; the median counts.
const RUNS: usize = 3;
/// More events than these are not sent through: the rate is the same.
const EVENTS_MAX: u64 = 1_000_000;
/// Read at once, as identity does.
const READ_BYTES: usize = 512 * 1024;

/// How messages go through the logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// [`WINDOW`] appends a log under way, in no order.
    Bare,
    /// As the stages do it: one append a log under way, the second hop fenced.
    Hollow,
}

/// Messages of one hop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(super) struct Hop {
    pub(super) messages: u64,
    /// Mean payload.
    pub(super) message_bytes: u64,
}

/// What a run wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(super) struct Shape {
    pub(super) events: u64,
    /// Into `events`, and into `decisions`.
    pub(super) hops: [Hop; 2],
}

/// What the relays made of it.
#[derive(Debug, Serialize)]
pub(super) struct Relayed {
    pub(super) shape: Shape,
    /// Events a second that the relayed messages stand for, run by run.
    pub(super) bare_events_per_second: Vec<f64>,
    pub(super) hollow_events_per_second: Vec<f64>,
}

impl Shape {
    /// What the stages say that they have written.
    pub(super) async fn of(pipeline: &Pipeline, events: u64) -> anyhow::Result<Self> {
        let hop = async |stage: &str| {
            let messages = pipeline.metric(&format!("inflection_{stage}_messages_total")).await?.max(1);
            let bytes = pipeline.metric(&format!("inflection_{stage}_message_bytes_total")).await?;
            Ok::<_, anyhow::Error>(Hop { messages, message_bytes: bytes / messages })
        };
        Ok(Self { events, hops: [hop("ingest").await?, hop("identity").await?] })
    }

    /// The share of one of `partitions` logs, of no more than [`EVENTS_MAX`] events in all; and the events of all shares.
    fn share(&self, partitions: u16) -> ([Hop; 2], u64) {
        let events = self.events.clamp(1, EVENTS_MAX);
        let share = |hop: Hop| {
            let messages = hop.messages.saturating_mul(events) / self.events.max(1) / u64::from(partitions);
            Hop { messages: messages.max(1), ..hop }
        };
        let hops = self.hops.map(share);
        let [first, _] = self.hops;
        let relayed = hops.first().map_or(1, |hop| hop.messages) * u64::from(partitions);
        (hops, relayed.saturating_mul(self.events) / first.messages.max(1))
    }
}

/// Sends a run's messages through the bus of a pipeline whose stages are stopped; without one, through an embedded bus of
/// its own.
pub(super) async fn relay(pipeline: &Pipeline, shape: Shape, partitions: u16) -> anyhow::Result<Relayed> {
    let bus = match &pipeline.bus {
        Some(bus) => bus.clone(),
        None => Bus::open_embedded(EmbeddedConfig::new(pipeline.dir().join("relay"))).await?,
    };
    let (hops, events) = shape.share(partitions);
    let mut relayed = Relayed { shape, bare_events_per_second: Vec::new(), hollow_events_per_second: Vec::new() };
    for _ in 0..RUNS {
        for (way, rates) in
            [(Way::Bare, &mut relayed.bare_events_per_second), (Way::Hollow, &mut relayed.hollow_events_per_second)]
        {
            let took = once(&bus, partitions, hops, way).await?;
            rates.push(super::report::ratio(events, took.as_secs_f64()));
        }
    }
    if pipeline.bus.is_none() {
        bus.close().await;
    }
    Ok(relayed)
}

/// Until the last message of the second hop is read in every partition.
async fn once(bus: &Bus, partitions: u16, hops: [Hop; 2], way: Way) -> anyhow::Result<Duration> {
    let mut lines = Vec::new();
    for partition in 0..partitions {
        lines.push(Line::open(bus, partition, hops, way).await?);
    }
    let started = Instant::now();
    let mut tasks = JoinSet::new();
    for line in lines {
        tasks.spawn(line.run());
    }
    while let Some(done) = tasks.join_next().await {
        done.context("a relay has panicked")??;
    }
    Ok(started.elapsed())
}

/// One partition's two logs, and where they end.
#[derive(Debug)]
struct Line {
    bus: Bus,
    logs: [Log; 2],
    ends: [Sequence; 2],
    hops: [Hop; 2],
    way: Way,
}

impl Line {
    async fn open(bus: &Bus, partition: u16, hops: [Hop; 2], way: Way) -> anyhow::Result<Self> {
        let logs = [Log::new(&format!("events.{partition}"))?, Log::new(&format!("decisions.{partition}"))?];
        let mut ends = [0; 2];
        for (log, end) in logs.iter().zip(&mut ends) {
            *end = bus.last(log).await?.map_or(0, |last| last.sequence);
        }
        Ok(Self { bus: bus.clone(), logs, ends, hops, way })
    }

    async fn run(self) -> anyhow::Result<()> {
        let [events, decisions] = &self.logs;
        tokio::try_join!(self.publish(events), self.copy(events, decisions), self.drain(decisions))?;
        // What is relayed is deleted, so that runs do not fill the disk.
        for log in &self.logs {
            let last = self.bus.last(log).await?.map_or(0, |last| last.sequence);
            self.bus.purge(log, last.saturating_sub(1)).await?;
        }
        Ok(())
    }

    async fn publish(&self, log: &Log) -> anyhow::Result<()> {
        let [Hop { messages, message_bytes }, _] = self.hops;
        let mut appends = Appends::new(&self.bus, log, message_bytes, self.way, None)?;
        appends.add(messages).await?;
        appends.finish().await
    }

    /// Reads one message after the other, and writes as many as the run did for as many.
    async fn copy(&self, from: &Log, to: &Log) -> anyhow::Result<()> {
        let ([first, second], [from_end, to_end]) = (self.hops, self.ends);
        let mut reader = self.bus.read(from, from_end);
        let fence = (self.way == Way::Hollow).then_some(to_end);
        let mut appends = Appends::new(&self.bus, to, second.message_bytes, self.way, fence)?;
        let (mut read, mut written) = (0, 0);
        while read < first.messages {
            read += reader.next(READ_BYTES).await?.len() as u64;
            let due = second.messages * read.min(first.messages) / first.messages;
            appends.add(due - written).await?;
            written = due;
        }
        appends.finish().await
    }

    async fn drain(&self, log: &Log) -> anyhow::Result<()> {
        let ([_, Hop { messages, .. }], [_, end]) = (self.hops, self.ends);
        let mut reader = self.bus.read(log, end);
        let mut read = 0;
        while read < messages {
            read += reader.next(READ_BYTES).await?.len() as u64;
        }
        Ok(())
    }
}

/// Appends of equal messages to one log.
struct Appends<'a> {
    bus: &'a Bus,
    log: &'a Log,
    payload: Bytes,
    way: Way,
    fence: Option<Sequence>,
    under_way: JoinSet<Result<Sequence, AppendError>>,
}

impl<'a> Appends<'a> {
    fn new(bus: &'a Bus, log: &'a Log, bytes: u64, way: Way, fence: Option<Sequence>) -> anyhow::Result<Self> {
        let payload = Bytes::from(vec![b'x'; usize::try_from(bytes)?]);
        Ok(Self { bus, log, payload, way, fence, under_way: JoinSet::new() })
    }

    async fn add(&mut self, messages: u64) -> anyhow::Result<()> {
        for _ in 0..messages {
            match self.way {
                Way::Hollow => {
                    let stored = self.bus.append(self.log, self.fence, self.payload.clone()).await?;
                    self.fence = self.fence.map(|_before| stored);
                }
                Way::Bare => {
                    if self.under_way.len() >= WINDOW {
                        self.one().await?;
                    }
                    let (bus, log, payload) = (self.bus.clone(), self.log.clone(), self.payload.clone());
                    self.under_way.spawn(async move { bus.append(&log, None, payload).await });
                }
            }
        }
        Ok(())
    }

    async fn one(&mut self) -> anyhow::Result<()> {
        if let Some(done) = self.under_way.join_next().await {
            done.context("an append has panicked")??;
        }
        Ok(())
    }

    async fn finish(mut self) -> anyhow::Result<()> {
        while !self.under_way.is_empty() {
            self.one().await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(events: u64, first: u64, second: u64) -> Shape {
        let hop = |messages| Hop { messages, message_bytes: 1000 };
        Shape { events, hops: [hop(first), hop(second)] }
    }

    #[test]
    fn partitions_share_a_run_and_long_ones_are_cut() {
        let counts = |shape: Shape| {
            let (hops, events) = shape.share(16);
            (hops.map(|hop| hop.messages), events)
        };
        assert_eq!(counts(shape(160_000, 1600, 800)), ([100, 50], 160_000));
        assert_eq!(counts(shape(10_000_000, 100_000, 50_000)), ([625, 312], 1_000_000));
        // A run of a few messages relays one a partition, which stand for their own share of events.
        assert_eq!(counts(shape(80, 8, 4)), ([1, 1], 160));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn every_message_goes_through_both_logs_and_is_deleted() {
        let folder = tempfile::tempdir().unwrap();
        let bus = Bus::open_embedded(EmbeddedConfig::new(folder.path().to_owned())).await.unwrap();
        for way in [Way::Bare, Way::Hollow] {
            // More decisions than events too: a step may write several messages.
            for (first, second) in [(50, 20), (20, 50)] {
                let before = bus.last(&Log::new("decisions.1").unwrap()).await.unwrap().map_or(0, |last| last.sequence);
                let hops = [Hop { messages: first, message_bytes: 100 }, Hop { messages: second, message_bytes: 70 }];
                once(&bus, 2, hops, way).await.unwrap();
                let last = bus.last(&Log::new("decisions.1").unwrap()).await.unwrap().unwrap();
                assert_eq!((last.sequence, last.payload.len()), (before + second, 70), "{way:?}");
                let left = bus.read(&Log::new("events.1").unwrap(), 0).next(usize::MAX).await.unwrap();
                assert_eq!(left.len(), 1, "{way:?}: the last message stays");
            }
        }
        bus.close().await;
    }
}
