//! What the operating system says of this process, under the names that every Prometheus client uses.
//!
//! Read from Linux's `/proc` (proc(5): `stat`, `status`, `limits`, `fd`) when metrics are; what cannot be read is left out.

use std::fs;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use crate::catalogue::Kind;

/// Ticks of the kernel's times in `/proc` a second: 100 for every program on Linux, whatever the kernel's own (time(7)).
const TICKS: f64 = 100.0;

#[derive(Debug, Clone, Copy)]
pub(crate) struct Process;

/// A metric of the process, and how it is read.
struct Reading {
    name: &'static str,
    help: &'static str,
    kind: Kind,
    read: fn() -> Option<f64>,
}

const READINGS: [Reading; 5] = [
    Reading {
        name: "process_cpu_seconds",
        help: "CPU time in user mode and in the kernel",
        kind: Kind::Counter,
        // utime and stime, fields 14 and 15.
        read: || Some((stat(14)? + stat(15)?) / TICKS),
    },
    Reading {
        name: "process_max_fds",
        help: "Files and sockets that may be open",
        kind: Kind::Gauge,
        read: || line("/proc/self/limits", "Max open files"),
    },
    Reading {
        name: "process_open_fds",
        help: "Files and sockets that are open",
        kind: Kind::Gauge,
        // The folder itself is open while it is read.
        read: || Some(small(fs::read_dir("/proc/self/fd").ok()?.count().saturating_sub(1))),
    },
    Reading {
        name: "process_resident_memory_bytes",
        help: "Memory in RAM",
        kind: Kind::Gauge,
        // In kB, which are 1,024 bytes.
        read: || Some(line("/proc/self/status", "VmRSS:")? * 1024.0),
    },
    Reading {
        name: "process_start_time_seconds",
        help: "When it was started, in seconds since 1970",
        kind: Kind::Gauge,
        // In ticks since the machine was started, field 22.
        read: || Some(line("/proc/stat", "btime")? + stat(22)? / TICKS),
    },
];

impl Process {
    /// Name, help and kind of each.
    pub(crate) fn described() -> impl Iterator<Item = (&'static str, &'static str, Kind)> {
        READINGS.iter().map(|reading| (reading.name, reading.help, reading.kind))
    }
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        for Reading { name, help, kind, read } in &READINGS {
            let Some(value) = read() else { continue };
            match kind {
                Kind::Counter => tell(&mut encoder, name, help, &ConstCounter::new(value))?,
                Kind::Gauge | Kind::Histogram => tell(&mut encoder, name, help, &ConstGauge::new(value))?,
            }
        }
        Ok(())
    }
}

fn tell(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    metric: &impl EncodeMetric,
) -> Result<(), std::fmt::Error> {
    metric.encode(encoder.encode_descriptor(name, help, None, metric.metric_type())?)
}

/// A field of `/proc/self/stat`, by its number in proc(5). The name of the program, field 2, may hold anything, so fields are
/// counted from behind its bracket.
fn stat(number: usize) -> Option<f64> {
    let text = fs::read_to_string("/proc/self/stat").ok()?;
    let (_, behind) = text.rsplit_once(')')?;
    behind.split_ascii_whitespace().nth(number.checked_sub(3)?)?.parse().ok()
}

/// The first number of the line that begins with a word.
fn line(path: &str, word: &str) -> Option<f64> {
    let text = fs::read_to_string(path).ok()?;
    let rest = text.lines().find_map(|line| line.strip_prefix(word))?;
    rest.split_ascii_whitespace().next()?.parse().ok()
}

fn small(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}
