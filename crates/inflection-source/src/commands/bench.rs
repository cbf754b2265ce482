//! `bench`: the whole pipeline under load, in processes of their own.
//!
//! Generator and sink run in this process; the stages (and nats-server) are children, so that CPU and memory are told
//! apart. Every call is checked at the sink by its messageId: nothing may be missing, nothing may be there twice.

mod load;
mod processes;
mod report;

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use inflection_sandbox::{Fault, FaultRule, Faults, Sandbox, SandboxConfig};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::cli::{BenchArgs, BenchBus};
use crate::commands::look::AdminClient;
use crate::commands::say;
use crate::ledger::{Bookkeeper, Ledger};
use crate::{End, Failure, install};

/// Up to so many events the sink keeps every call, and the time from fact to Segment is measured call by call.
const TRACED_EVENTS_MAX: u64 = 50_000;
/// How long the pipeline may take to come to rest after the last event.
const REST_DEADLINE: Duration = Duration::from_secs(600);
const LOOK_EVERY: Duration = Duration::from_millis(20);

pub(crate) async fn run(args: BenchArgs) -> Result<End, Failure> {
    let report = measure(&args).await?;
    if args.json {
        say(&serde_json::to_string(&report).context("the report cannot be written")?);
    } else {
        say(&report.to_string());
    }
    if report.is_sound() { Ok(End::Done) } else { Ok(End::Wrong) }
}

async fn measure(args: &BenchArgs) -> anyhow::Result<report::Report> {
    if args.workers > 1 && args.bus == BenchBus::Embedded {
        bail!("the embedded bus has one process: --workers needs --bus nats-default or nats-always");
    }
    let traced = args.events <= TRACED_EVENTS_MAX;
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let sink_address = listener.local_addr()?;
    let calls_max = if traced { usize::try_from(args.events * 4)? } else { 0 };
    let sink = Sandbox::new(SandboxConfig { calls_max, ..SandboxConfig::default() });
    let (serving, stop_sink) = (sink.clone(), stop.clone());
    tasks.spawn(async move { serving.serve(listener, stop_sink).await });

    let pipeline = processes::Pipeline::start(args, sink_address).await?;
    let before = pipeline.usage()?;
    let started = Instant::now();
    if args.outage {
        let down = Fault::Status { code: 503, retry_after: None, rate_limit_reset: None };
        sink.set_faults(Faults { rules: vec![FaultRule::always(down)] });
    }
    let loaded = load::run(args, pipeline.ingest).await?;
    let healed = args.outage.then(Instant::now);
    sink.set_faults(Faults::default());
    let ledger = rest(&pipeline).await?;
    let (took, drained) = (started.elapsed(), healed.map(|healed| healed.elapsed()));
    let usage = pipeline.usage()?.since(&before);
    let fact_to_segment = traced.then(|| report::Percentiles::of(fact_to_segment(&sink)));
    let summary = sink.summary();
    pipeline.stop().await?;
    stop.cancel();
    tasks.close();
    tasks.wait().await;
    Ok(report::Report::new(args, &loaded, &ledger, &summary, (took, drained), fact_to_segment, usage))
}

/// Waits until nothing is on its way: asked of the admin listener, or of the bus when the stages are apart.
async fn rest(pipeline: &processes::Pipeline) -> anyhow::Result<Ledger> {
    let deadline = Instant::now() + REST_DEADLINE;
    let mut books = match &pipeline.bus {
        Some(bus) => {
            let installation = install::load(bus, &Default::default(), None).await?;
            Some(Bookkeeper::new(bus.clone(), installation.partitions))
        }
        None => None,
    };
    loop {
        let ledger = match &mut books {
            Some(books) => books.read().await?,
            None => {
                let answer = AdminClient::new(&format!("http://{}", pipeline.admin), None)?.get("/v1/ledger").await?;
                serde_json::from_value(answer)?
            }
        };
        if ledger.at_rest {
            return Ok(ledger);
        }
        if Instant::now() > deadline {
            bail!("the pipeline does not come to rest:\n{ledger}");
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// From the moment a fact was sent (its timestamp) to the moment the sink had its call, in milliseconds.
fn fact_to_segment(sink: &Sandbox) -> Vec<u64> {
    let waited = |call: &inflection_sandbox::ReceivedCall| {
        let sent: jiff::Timestamp = call.body.get("timestamp")?.as_str()?.parse().ok()?;
        u64::try_from(call.received_at_ms - sent.as_millisecond()).ok()
    };
    sink.calls().iter().filter_map(waited).collect()
}
