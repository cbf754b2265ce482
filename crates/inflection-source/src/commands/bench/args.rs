//! What `bench` is told.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use clap::builder::ArgPredicate;

use super::mix::Mix;

/// Which bus `bench` measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum BenchBus {
    /// `standalone`, every append synced.
    Embedded,
    /// Three stages on a nats-server of its own, every write synced.
    NatsAlways,
    /// Three stages on a nats-server of its own, its default background sync.
    NatsDefault,
}

/// What `bench` is told.
#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    /// Which bus.
    #[arg(long, value_enum, default_value = "embedded")]
    pub(crate) bus: BenchBus,
    /// Events to send; a soak sends what --rate and its duration make.
    #[arg(long, default_value_t = 1_000_000, default_value_if("idle", "true", "5000"), value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    pub(crate) events: u64,
    /// What the events are, and what each mix stresses.
    #[arg(long, value_enum, default_value = "default")]
    pub(crate) mix: Mix,
    /// Events of one request.
    #[arg(long, default_value_t = 500, default_value_if("idle", "true", "1"), value_parser = clap::value_parser!(u64).range(1..=1000))]
    pub(crate) batch: u64,
    /// Requests under way at once.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u64).range(1..=1024))]
    pub(crate) concurrency: u64,
    /// Events a second; 0 is as fast as it goes. In a soak 5000 unless set.
    #[arg(
        long,
        default_value_t = 0,
        default_value_if("idle", "true", "500"),
        default_value_if("soak", ArgPredicate::IsPresent, "5000")
    )]
    pub(crate) rate: u64,
    /// Partitions of the install.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=512))]
    pub(crate) partitions: u16,
    /// How long a call waits for company, in milliseconds.
    #[arg(long, default_value_t = 100, default_value_if("idle", "true", "0"))]
    pub(crate) linger_ms: u64,
    /// Workers of identity, and as many of delivery, on a NATS bus.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(crate) workers: u16,
    /// Copies of every stream, on a NATS bus: with 3, three servers in a cluster on this machine.
    #[arg(long, default_value_t = 1, value_parser = replicas)]
    pub(crate) replicas: u8,
    /// Latency away from the limit: 5,000 events, one a request, 500 a second, linger 0. Flags beside it win.
    #[arg(long, conflicts_with_all = ["soak", "outage"])]
    pub(crate) idle: bool,
    /// The sink answers 503 until all events are in; then the time is taken until they are all delivered.
    #[arg(long, conflicts_with = "soak")]
    pub(crate) outage: bool,
    /// Steady load for so long (90s, 10m, 2h), with a sample of memory, CPU and disk every 10 s, and a verdict on them.
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(crate) soak: Option<Duration>,
    /// In a soak, kills one stage after the other (SIGKILL) and starts it again, in an order that this seed decides.
    #[arg(long, value_name = "SEED", requires = "soak")]
    pub(crate) faults: Option<u64>,
    /// Then sends the same messages through two logs of the same bus with nothing between, and prints the ratio. Not after
    /// kills: what was written is counted by the processes.
    #[arg(long, conflicts_with = "faults")]
    pub(crate) relay: bool,
    /// Then lets Segment's Node SDK post to the same sink, and prints the ratio: the directory in which
    /// @segment/analytics-node was installed (`scripts/node-sdk` prints one). Without node or the SDK it says so.
    #[arg(long, value_name = "DIRECTORY")]
    pub(crate) node: Option<PathBuf>,
    /// A nats-server (2.14 or newer) for the NATS buses.
    #[arg(long, env = "NATS_SERVER", default_value = "nats-server")]
    pub(crate) nats_server: PathBuf,
    /// Prints JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

impl BenchArgs {
    /// Events that are sent in all.
    pub(crate) fn events_wanted(&self) -> u64 {
        self.soak.map_or(self.events, |soak| self.rate.saturating_mul(soak.as_secs()).max(1))
    }

    /// What of the flags does not go together.
    pub(crate) fn mistake(&self) -> Option<&'static str> {
        if self.bus == BenchBus::Embedded && self.workers > 1 {
            return Some("the embedded bus has one process: --workers needs --bus nats-default or nats-always");
        }
        if self.bus == BenchBus::Embedded && self.replicas > 1 {
            return Some("the embedded bus has one disk: --replicas needs --bus nats-default or nats-always");
        }
        if self.soak.is_some() && self.rate == 0 {
            return Some("a soak is steady load: give it a --rate above 0");
        }
        None
    }
}

/// One, or three: two lose their majority with either.
fn replicas(text: &str) -> Result<u8, String> {
    match text {
        "1" => Ok(1),
        "3" => Ok(3),
        _ => Err("1 or 3".to_owned()),
    }
}

/// `90s`, `10m`, `2h`; whole seconds.
fn duration(text: &str) -> Result<Duration, String> {
    let parsed: jiff::SignedDuration = text.parse().map_err(|error: jiff::Error| error.to_string())?;
    let duration = Duration::try_from(parsed).map_err(|error| error.to_string())?;
    if duration.as_secs() == 0 { Err("at least a second".to_owned()) } else { Ok(duration) }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: BenchArgs,
    }

    fn args(line: &[&str]) -> BenchArgs {
        Line::try_parse_from([&["bench"], line].concat()).unwrap().args
    }

    #[test]
    fn modes_set_what_is_not_set_beside_them() {
        let idle = args(&["--idle"]);
        assert_eq!((idle.events, idle.batch, idle.rate, idle.linger_ms), (5000, 1, 500, 0));
        assert_eq!(args(&["--idle", "--rate", "100"]).rate, 100);
        assert_eq!((args(&[]).rate, args(&[]).events_wanted()), (0, 1_000_000));
        let soak = args(&["--soak", "2m"]);
        assert_eq!((soak.rate, soak.events_wanted()), (5000, 600_000));
        assert_eq!(args(&["--soak", "1m 30s", "--rate", "2"]).events_wanted(), 180);
    }

    #[test]
    fn what_does_not_go_together_is_refused() {
        assert!(args(&["--workers", "2"]).mistake().is_some());
        assert!(args(&["--replicas", "3"]).mistake().is_some());
        assert!(args(&["--soak", "1m", "--rate", "0"]).mistake().is_some());
        assert_eq!(args(&["--workers", "2", "--replicas", "3", "--bus", "nats-always"]).mistake(), None);
        for line in
            [&["--soak", "soon"][..], &["--soak", "-1s"], &["--soak", "10ms"], &["--faults", "1"], &["--replicas", "2"]]
        {
            assert!(Line::try_parse_from([&["bench"], line].concat()).is_err(), "{line:?}");
        }
    }
}
