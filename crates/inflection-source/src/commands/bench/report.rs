//! What was measured.

use std::fmt;
use std::time::Duration;

use inflection_sandbox::Summary;
use serde::Serialize;

use super::args::BenchArgs;
use super::load::Loaded;
use super::node::{NodeMeasured, NodeOutcome};
use super::processes::{ProcessUsage, Usage};
use super::relay::Relayed;
use super::soak::Soak;
use crate::ledger::Ledger;

/// Percentiles of a set of times.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(super) struct Percentiles {
    pub(super) p50: u64,
    pub(super) p99: u64,
    pub(super) max: u64,
}

impl Percentiles {
    pub(super) fn of(mut times: Vec<u64>) -> Self {
        times.sort_unstable();
        let at = |percent: usize| {
            let index = (times.len() * percent / 100).min(times.len().saturating_sub(1));
            times.get(index).copied().unwrap_or(0)
        };
        Self { p50: at(50), p99: at(99), max: times.last().copied().unwrap_or(0) }
    }
}

/// One run.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    bus: String,
    events: u64,
    batch: u64,
    concurrency: u64,
    partitions: u16,
    mix: String,
    replicas: u8,
    /// Events a second that were asked for; 0: as many as go.
    rate: u64,
    /// Of identity, and as many of delivery.
    workers: u16,
    seconds: f64,
    /// After an outage until all events were in: from its end to the last call at the sink.
    drain_seconds: Option<f64>,
    /// From the first request to the last call at the sink.
    events_per_second: f64,
    calls_per_second: f64,
    /// From the first request to the last 200.
    ingest_events_per_second: f64,
    answer_us: Percentiles,
    /// Only in runs small enough to keep every call.
    fact_to_segment_ms: Option<Percentiles>,
    requests_repeated: u64,
    calls_produced: u64,
    calls_at_sink: u64,
    duplicates_at_sink: u64,
    lost: i64,
    balanced: bool,
    /// Whether processes were killed on the way: then what was under way is sent again, under the same id.
    #[serde(skip)]
    had_faults: bool,
    processes: Vec<ProcessUsage>,
    /// CPU of each process, a call's share of an event included, in microseconds an event.
    cpu_us_per_event: Vec<(&'static str, f64)>,
    /// CPU of all processes, nats-server included, in microseconds a call.
    cpu_us_per_call: f64,
    pub(super) soak: Option<Soak>,
    pub(super) relay: Option<Relayed>,
    pub(super) node: Option<NodeOutcome>,
}

impl Report {
    pub(super) fn new(
        args: &BenchArgs,
        loaded: &Loaded,
        ledger: &Ledger,
        sink: &Summary,
        (took, drained): (Duration, Option<Duration>),
        fact_to_segment_ms: Option<Percentiles>,
        usage: Usage,
    ) -> Self {
        let rate = |time: Duration| ratio(loaded.accepted, time.as_secs_f64());
        let produced: u64 = ledger.calls.iter().map(|calls| calls.produced).sum();
        let per_event = |usage: &ProcessUsage| (usage.name, usage.cpu_seconds * 1e6 / ratio(loaded.accepted, 1.0));
        Self {
            bus: format!("{:?}", args.bus),
            events: loaded.accepted,
            batch: args.batch,
            concurrency: args.concurrency,
            partitions: args.partitions,
            mix: format!("{:?}", args.mix).to_lowercase(),
            replicas: args.replicas,
            rate: args.rate,
            workers: args.workers,
            seconds: took.as_secs_f64(),
            drain_seconds: drained.map(|drained| drained.as_secs_f64()),
            events_per_second: rate(took),
            calls_per_second: ratio(sink.accepted, took.as_secs_f64()),
            ingest_events_per_second: rate(loaded.time),
            answer_us: Percentiles::of(loaded.answers_us.clone()),
            fact_to_segment_ms,
            requests_repeated: loaded.repeated,
            calls_produced: produced,
            calls_at_sink: sink.accepted,
            duplicates_at_sink: sink.duplicates,
            lost: produced.cast_signed() - sink.accepted.cast_signed(),
            balanced: ledger.balanced && ledger.events.folded == loaded.accepted,
            had_faults: args.faults.is_some(),
            cpu_us_per_event: usage.0.iter().map(per_event).collect(),
            cpu_us_per_call: usage.0.iter().map(|usage| usage.cpu_seconds).sum::<f64>() * 1e6
                / ratio(sink.accepted, 1.0),
            processes: usage.0,
            soak: None,
            relay: None,
            node: None,
        }
    }

    pub(super) fn calls_produced(&self) -> u64 {
        self.calls_produced
    }

    /// Whether every call arrived, and once, the books balance, and a soak's verdicts are good. Yardsticks are figures, not
    /// verdicts.
    pub(super) fn is_sound(&self) -> bool {
        let once = self.duplicates_at_sink == 0 || self.had_faults;
        self.lost == 0 && once && self.balanced && self.soak.as_ref().is_none_or(Soak::is_sound)
    }
}

/// Counts are far below 2^52, where a double is exact.
#[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
pub(super) fn ratio(count: u64, by: f64) -> f64 {
    count as f64 / by
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { bus, events, batch, concurrency, partitions, mix, replicas, .. } = self;
        write!(
            f,
            "{bus}: {events} events ({mix}) in requests of {batch}, {concurrency} at once, {partitions} partitions"
        )?;
        write!(f, ", replicas: {replicas}")?;
        writeln!(f, ", workers of identity and of delivery: {}", self.workers)?;
        writeln!(f, "  end to end   {:>9.0} events/s  ({:.2} s)", self.events_per_second, self.seconds)?;
        if let Some(seconds) = self.drain_seconds {
            writeln!(f, "  drained in   {seconds:>9.2} s after the outage")?;
        }
        writeln!(f, "  ingest       {:>9.0} events/s", self.ingest_events_per_second)?;
        let Percentiles { p50, p99, max } = self.answer_us;
        writeln!(f, "  the 200      p50 {:.2} ms  p99 {:.2} ms  max {:.2} ms", ms(p50), ms(p99), ms(max))?;
        if let Some(Percentiles { p50, p99, max }) = self.fact_to_segment_ms {
            writeln!(f, "  fact to sink p50 {p50} ms  p99 {p99} ms  max {max} ms")?;
        }
        for (process, (_, per_event)) in self.processes.iter().zip(&self.cpu_us_per_event) {
            let ProcessUsage { name, cpu_seconds, peak_mib, .. } = process;
            writeln!(f, "  {name:<12} {cpu_seconds:>6.2} s CPU  {per_event:>6.2} us/event  {peak_mib:>5.0} MiB peak")?;
        }
        let Self { calls_produced, calls_at_sink, duplicates_at_sink, lost, requests_repeated, balanced, .. } = self;
        writeln!(
            f,
            "  calls        {calls_produced} produced, {calls_at_sink} at the sink, {lost} lost, {duplicates_at_sink} repeated"
        )?;
        let books = if *balanced { "balanced" } else { "NOT BALANCED" };
        write!(f, "  ledger       {books}; {requests_repeated} requests were not taken at once and sent again")?;
        for line in self.soak.iter().flat_map(Soak::lines) {
            write!(f, "\n  {line}")?;
        }
        self.yardsticks(f)
    }
}

impl Report {
    fn yardsticks(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(relay) = &self.relay {
            let [first, second] = relay.shape.hops;
            write!(
                f,
                "\n  relay        of {} messages of {} bytes and {} of {}:",
                first.messages, first.message_bytes, second.messages, second.message_bytes
            )?;
            for (name, rates, what) in [
                ("bare", &relay.bare_events_per_second, "any client on these two hops"),
                ("hollow", &relay.hollow_events_per_second, "the stages' appends with no work between"),
            ] {
                let rate = median(rates);
                let share = self.events_per_second / rate;
                write!(f, "\n    {name:<10} {rate:>9.0} events/s ({what}); the pipeline has {share:.2} of it")?;
            }
        }
        match &self.node {
            None => Ok(()),
            Some(NodeOutcome::NotMeasured { why }) => write!(f, "\n  node SDK     not measured: {why}"),
            Some(NodeOutcome::Measured(node)) => {
                let NodeMeasured { calls, calls_per_second, cpu_us_per_call, peak_mib, lost } = node;
                let [by_calls, by_events] =
                    [self.calls_per_second, self.events_per_second].map(|rate| rate / calls_per_second);
                write!(f, "\n  node SDK     {calls_per_second:>9.0} calls/s of {calls}, {lost} lost")?;
                write!(f, ", {cpu_us_per_call:.0} us a call, {peak_mib:.0} MiB peak")?;
                write!(f, "\n    pipeline   {:>9.0} calls/s, {by_calls:.1} times as many", self.calls_per_second)?;
                write!(f, "; events/s {by_events:.1} times as many")?;
                let (own, share) = (self.cpu_us_per_call, cpu_us_per_call / self.cpu_us_per_call);
                write!(f, "; {own:.1} us a call, its bus included: {share:.1} times less")
            }
        }
    }
}

fn median(rates: &[f64]) -> f64 {
    let mut sorted = rates.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

fn ms(us: u64) -> f64 {
    Duration::from_micros(us).as_secs_f64() * 1000.0
}
