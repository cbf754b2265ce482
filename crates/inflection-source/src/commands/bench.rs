//! `bench`: the whole pipeline under load, in processes of their own.
//!
//! Generator and sink run in this process; the stages (and nats-server) are children, so that CPU and memory are told
//! apart. Beside the pipeline's figure, in the same run, there may be yardsticks: a bare relay over the same bus, and
//! Segment's Node SDK posting to the same sink. Every call is checked at the sink by its messageId: nothing may be missing, nothing may be there twice.

mod args;
mod load;
mod mix;
mod node;
mod processes;
mod relay;
mod report;
mod servers;
mod soak;

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use inflection_sandbox::{Fault, FaultRule, Faults, Sandbox, SandboxConfig};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::commands::look::AdminClient;
use crate::commands::say;
use crate::ledger::{Bookkeeper, Ledger};
use crate::{End, Failure, install};
pub(crate) use args::BenchArgs;

/// Up to so many events the sink keeps every call, and the time from fact to Segment is measured call by call.
const TRACED_EVENTS_MAX: u64 = 50_000;
/// How long the pipeline may take to come to rest after the last event.
const REST_DEADLINE: Duration = Duration::from_secs(600);
const LOOK_EVERY: Duration = Duration::from_millis(20);

pub(crate) async fn run(args: BenchArgs) -> Result<End, Failure> {
    if let Some(mistake) = args.mistake() {
        return Err(Failure::Usage(mistake.to_owned()));
    }
    let report = measure(&args).await?;
    if args.json {
        say(&serde_json::to_string(&report).context("the report cannot be written")?);
    } else {
        say(&report.to_string());
    }
    if report.is_sound() { Ok(End::Done) } else { Ok(End::Wrong) }
}

async fn measure(args: &BenchArgs) -> anyhow::Result<report::Report> {
    let traced = args.events_wanted() <= TRACED_EVENTS_MAX;
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let sink_address = listener.local_addr()?;
    let calls_max = if traced { usize::try_from(args.events_wanted() * 4)? } else { 0 };
    let sink = Sandbox::new(SandboxConfig { calls_max, ..SandboxConfig::default() });
    let (serving, stop_sink) = (sink.clone(), stop.clone());
    tasks.spawn(async move { serving.serve(listener, stop_sink).await });

    let mut pipeline = processes::Pipeline::start(args, sink_address).await?;
    let before = pipeline.usage()?;
    let started = Instant::now();
    if args.outage {
        let down = Fault::Status { code: 503, retry_after: None, rate_limit_reset: None };
        sink.set_faults(Faults { rules: vec![FaultRule::always(down)] });
    }
    let (loaded, soak) = loaded(args, &mut pipeline).await?;
    let healed = args.outage.then(Instant::now);
    sink.set_faults(Faults::default());
    let ledger = rest(&pipeline).await?;
    let (took, drained) = (started.elapsed(), healed.map(|healed| healed.elapsed()));
    let usage = pipeline.usage()?.since(&before);
    let fact_to_segment = traced.then(|| report::Percentiles::of(fact_to_segment(&sink)));
    let summary = sink.summary();
    let mut report = report::Report::new(args, &loaded, &ledger, &summary, (took, drained), fact_to_segment, usage);
    report.soak = soak;
    if args.relay {
        let shape = relay::Shape::of(&pipeline, loaded.accepted).await?;
        pipeline.stop_stages().await?;
        report.relay = Some(relay::relay(&pipeline, shape, args.partitions).await?);
    }
    pipeline.stop().await?;
    if let Some(folder) = &args.node {
        report.node = Some(node::post(folder, &sink, sink_address, report.calls_produced()).await?);
    }
    stop.cancel();
    tasks.close();
    tasks.wait().await;
    Ok(report)
}

/// Sends the load; in a soak, watches meanwhile.
async fn loaded(
    args: &BenchArgs,
    pipeline: &mut processes::Pipeline,
) -> anyhow::Result<(load::Loaded, Option<soak::Soak>)> {
    let ingest = pipeline.ingest;
    let Some(duration) = args.soak else { return Ok((load::run(args, ingest).await?, None)) };
    let stop = CancellationToken::new();
    let load = async {
        let _ended = stop.clone().drop_guard();
        load::run(args, ingest).await
    };
    let (loaded, soak) = tokio::try_join!(load, soak::watch(pipeline, args, duration, stop.clone()))?;
    Ok((loaded, Some(soak)))
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
