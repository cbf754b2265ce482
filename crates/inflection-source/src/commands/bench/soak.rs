//! A soak: memory, CPU and disk sampled under steady load, stages killed if that is asked for, and a verdict.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::args::{BenchArgs, BenchBus};
use super::processes::{Pipeline, ProcessUsage};
use super::report::ratio;
use super::servers;
use crate::cli::FoldingArgs;

/// How often is looked; more often in soaks of less than seven minutes, so that there are [`SAMPLES_MIN`].
const SAMPLE_EVERY: Duration = Duration::from_secs(10);
const SAMPLES_MIN: u32 = 40;
/// Samples from one kill to the next.
const SAMPLES_A_FAULT: usize = 2;

/// Memory is flat when, in the second half of the soak, a process's mean of the last third is above that of the first third
/// by no more than this share of it, or this many MiB, whichever is more, beside what its new keys may take.
const GROWTH_SHARE: f64 = 0.1;
const GROWTH_MIB: f64 = 16.0;
/// What a key of identity's state may take, in all (ARCHITECTURE.md, "Memory of identity").
const KEY_BYTES: f64 = 100.0;

/// What it takes in a snapshot: 22 measured, and a little.
const KEY_SNAPSHOT_BYTES: u64 = 24;

const MIB: f64 = 1024.0 * 1024.0;
/// What a bus holds beside decisions: events on their way, records, and files that are not full yet.
const DISK_SLACK_BYTES: u64 = 512 << 20;

/// One look.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Sample {
    /// Since the load began.
    at_seconds: f64,
    processes: Vec<ProcessUsage>,
    state_keys: u64,
    state_bytes: u64,
    /// Bytes on disk of each stream (of all servers), or of the embedded bus's directory.
    disk_bytes: BTreeMap<String, u64>,
}

/// A stage that was killed.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Kill {
    at_seconds: f64,
    name: &'static str,
}

/// What was seen, and what to think of it.
#[derive(Debug, Serialize)]
pub(super) struct Soak {
    samples: Vec<Sample>,
    kills: Vec<Kill>,
    /// Of each process of ours, in the second half of the soak. Empty when stages were killed.
    memory: Vec<Growth>,
    disk_bytes_most: u64,
    disk_bytes_bound: u64,
}

/// How much more memory a process has in the end.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Growth {
    name: &'static str,
    from_mib: f64,
    to_mib: f64,
    allowed_mib: f64,
}

impl Growth {
    fn is_flat(&self) -> bool {
        self.to_mib - self.from_mib <= self.allowed_mib
    }
}

/// Looks, and kills, until `stop`.
pub(super) async fn watch(
    pipeline: &mut Pipeline,
    args: &BenchArgs,
    soak: Duration,
    stop: CancellationToken,
) -> anyhow::Result<Soak> {
    let started = Instant::now();
    let mut ticks = tokio::time::interval(SAMPLE_EVERY.min(soak / SAMPLES_MIN));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let (mut samples, mut kills) = (Vec::new(), Vec::new());
    let mut random = args.faults.map(Random);
    loop {
        let ended = tokio::select! {
            () = stop.cancelled() => true,
            _ = ticks.tick() => false,
        };
        samples.push(sample(pipeline, started).await?);
        if ended {
            return Ok(Soak::judge(samples, kills, args));
        }
        if let Some(random) = random.as_mut().filter(|_| samples.len() % SAMPLES_A_FAULT == 0) {
            let stages = pipeline.stages_mut();
            if let Some(victim) = random.below(stages.len()).and_then(|at| stages.get_mut(at)) {
                kills.push(Kill { at_seconds: started.elapsed().as_secs_f64(), name: victim.name() });
                victim.kill_and_start().await?;
            }
        }
    }
}

async fn sample(pipeline: &Pipeline, started: Instant) -> anyhow::Result<Sample> {
    Ok(Sample {
        at_seconds: started.elapsed().as_secs_f64(),
        processes: pipeline.usage()?.0,
        state_keys: pipeline.metric("inflection_identity_state_keys").await?,
        state_bytes: pipeline.metric("inflection_identity_state_bytes").await?,
        disk_bytes: pipeline.disk(),
    })
}

impl Soak {
    fn judge(samples: Vec<Sample>, kills: Vec<Kill>, args: &BenchArgs) -> Self {
        let disk = |sample: &Sample| sample.disk_bytes.values().sum::<u64>();
        let keys = samples.iter().map(|sample| sample.state_keys).max().unwrap_or(0);
        Self {
            memory: if kills.is_empty() { growth(&samples) } else { Vec::new() },
            disk_bytes_most: samples.iter().map(disk).max().unwrap_or(0),
            disk_bytes_bound: disk_bound(args.bus, args.partitions, args.replicas, keys),
            samples,
            kills,
        }
    }

    /// Whether memory is flat and the bus was truncated.
    pub(super) fn is_sound(&self) -> bool {
        self.memory.iter().all(Growth::is_flat) && self.disk_bytes_most <= self.disk_bytes_bound
    }

    /// The verdicts, a line each.
    pub(super) fn lines(&self) -> Vec<String> {
        let verdict = |holds: bool| if holds { "ok" } else { "WRONG" };
        let keys = self.samples.last().map_or(0, |sample| sample.state_keys);
        let mut lines =
            vec![format!("soak         {} samples, {} kills, {keys} keys", self.samples.len(), self.kills.len())];
        if !self.kills.is_empty() {
            lines.push("memory       not judged: stages were killed".to_owned());
        }
        lines.extend(self.memory.iter().map(|growth| {
            let Growth { name, from_mib, to_mib, allowed_mib } = growth;
            let flat = verdict(growth.is_flat());
            format!("memory       {flat}: {name} {from_mib:.0} to {to_mib:.0} MiB in the second half, {allowed_mib:.0} more allowed")
        }));
        let [most, bound] = [self.disk_bytes_most, self.disk_bytes_bound].map(|bytes| ratio(bytes, MIB));
        let within = verdict(self.disk_bytes_most <= self.disk_bytes_bound);
        lines.push(format!("disk         {within}: {most:.0} MiB at most, {bound:.0} allowed"));
        lines
    }
}

/// Of each process of ours, from the first to the last third of the second half.
fn growth(samples: &[Sample]) -> Vec<Growth> {
    let (_warm_up, half) = samples.split_at(samples.len() / 2);
    let third = (half.len() / 3).max(1);
    let (Some(early), Some(late)) = (half.get(..third), half.get(half.len().saturating_sub(third)..)) else {
        return Vec::new();
    };
    let keys = |part: &[Sample]| mean(part.iter().map(|sample| ratio(sample.state_keys, 1.0)));
    let new_keys_mib = (keys(late) - keys(early)).max(0.0) * KEY_BYTES / MIB;
    let Some(first) = early.first() else { return Vec::new() };
    let of = |(at, process): (usize, &ProcessUsage)| {
        let resident =
            |part: &[Sample]| mean(part.iter().filter_map(|sample| Some(sample.processes.get(at)?.resident_mib)));
        let (from_mib, to_mib) = (resident(early), resident(late));
        let remembers = matches!(process.name, "identity" | "standalone");
        let keys_mib = if remembers { new_keys_mib } else { 0.0 };
        let allowed_mib = (from_mib * GROWTH_SHARE).max(GROWTH_MIB) + keys_mib;
        Growth { name: process.name, from_mib, to_mib, allowed_mib }
    };
    first.processes.iter().enumerate().filter(|(_, process)| process.name != servers::NAME).map(of).collect()
}

/// The most that the bus may take. A decision log holds what follows the older of two snapshots, and a snapshot is due after
/// `--snapshot-every-bytes`, or twice its own size: three such stretches, with the one that is being taken, and two
/// snapshots. nats-server rewrites a file when half of it is superfluous, so there the stretches count twice.
fn disk_bound(bus: BenchBus, partitions: u16, replicas: u8, keys: u64) -> u64 {
    let snapshots = keys.saturating_mul(KEY_SNAPSHOT_BYTES);
    let every = FoldingArgs::SNAPSHOT_EVERY_BYTES.saturating_mul(u64::from(partitions));
    let stretches = (every + 2 * snapshots).saturating_mul(3);
    let files = match bus {
        BenchBus::Embedded => stretches,
        BenchBus::NatsAlways | BenchBus::NatsDefault => 2 * stretches,
    };
    u64::from(replicas) * (files + 2 * snapshots + DISK_SLACK_BYTES)
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (sum, count) = values.fold((0.0, 0.0), |(sum, count), value| (sum + value, count + 1.0));
    if count > 0.0 { sum / count } else { 0.0 }
}

/// Which stage is next: the same for the same seed (splitmix64).
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> Option<usize> {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        usize::try_from((mixed ^ (mixed >> 31)).checked_rem(end as u64)?).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A soak of 40 samples in which a process grows by so many MiB and its state by so many keys, a sample.
    fn soak(name: &'static str, mib: f64, keys: u64) -> Vec<Growth> {
        let sample = |number: u64| Sample {
            at_seconds: ratio(number, 0.1),
            processes: vec![
                ProcessUsage {
                    name: servers::NAME,
                    cpu_seconds: 0.0,
                    resident_mib: 50.0 * ratio(number, 1.0),
                    peak_mib: 0.0,
                },
                ProcessUsage { name, cpu_seconds: 0.0, resident_mib: 80.0 + mib * ratio(number, 1.0), peak_mib: 0.0 },
            ],
            state_keys: keys * number,
            state_bytes: 0,
            disk_bytes: BTreeMap::new(),
        };
        growth(&(0..40).map(sample).collect::<Vec<_>>())
    }

    #[test]
    fn memory_is_flat_or_follows_the_keys() {
        let flat = |name, mib, keys| {
            let judged = soak(name, mib, keys);
            assert_eq!(judged.len(), 1, "servers of others are not judged");
            judged.iter().all(Growth::is_flat)
        };
        assert!(flat("delivery", 0.0, 0));
        assert!(flat("delivery", 1.0, 0), "14 MiB from third to third");
        assert!(!flat("delivery", 2.0, 0), "28 MiB");
        assert!(flat("identity", 2.0, 15_000), "20 of 28 MiB are keys");
        assert!(!flat("delivery", 2.0, 15_000), "which delivery has none of");
        assert_eq!(growth(&[]), []);
    }

    #[test]
    fn the_bus_may_hold_what_follows_the_older_snapshot() {
        let (mib, every) = (1 << 20, 16 << 20);
        assert_eq!(disk_bound(BenchBus::Embedded, 16, 1, 0), 3 * 16 * every + 512 * mib);
        let snapshots = 24 * mib;
        let three_servers = disk_bound(BenchBus::NatsAlways, 1, 3, mib);
        assert_eq!(three_servers, 3 * (2 * 3 * (every + 2 * snapshots) + 2 * snapshots + 512 * mib));
    }

    #[test]
    fn a_seed_decides_who_is_killed_and_everyone_has_his_turn() {
        let drawn = |seed| {
            let mut random = Random(seed);
            (0..50).filter_map(|_| random.below(3)).collect::<Vec<_>>()
        };
        assert_eq!(drawn(1), drawn(1));
        assert_ne!(drawn(1), drawn(2));
        assert!((0..3).all(|at| drawn(1).contains(&at)));
        assert_eq!(Random(1).below(0), None);
    }
}
