//! `demo`: a campaign through everything, into a local stand-in for Segment.

mod campaign;
mod summary;

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use indicatif::{ProgressBar, ProgressStyle};
use inflection_bus::{Bus, EmbeddedConfig};
use inflection_domain::PartitionCount;
use inflection_ingest::SignatureClock;
use inflection_sandbox::{Fault, FaultRule, Faults, Sandbox, SandboxConfig};
use serde_json::json;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admin::keys::Keys;
use crate::cli::{ConfigFileArgs, DemoArgs, FoldingArgs, ListenArgs, SendingArgs, StandaloneArgs, TestClockArgs};
use crate::commands::{bind, say};
use crate::ledger::{Bookkeeper, Ledger};
use crate::reload::Read;
use crate::stages::{self, Setup, Stages, Wanted};
use crate::{End, Failure, install, settings};

/// Events of one request.
const BATCH: usize = 200;
/// Requests that Segment refuses for speed, half-way.
const THROTTLED_REQUESTS: u64 = 3;
/// How long the pipeline may take to come to rest.
const REST_DEADLINE: Duration = Duration::from_secs(60);
/// How often it is looked at meanwhile.
const LOOK_EVERY: Duration = Duration::from_millis(50);

const INGEST_KEY: &str = "demo-ingest-key";

pub(crate) async fn run(args: DemoArgs) -> Result<End, Failure> {
    let data = tempfile::tempdir().context("no temporary directory")?;
    let anywhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let (tasks, stop_sandbox) = (TaskTracker::new(), CancellationToken::new());
    let sandbox_listener = bind("sandbox", anywhere).await?;
    let sandbox_address = sandbox_listener.local_addr().context("the sandbox has no address")?;
    let sandbox = Sandbox::new(SandboxConfig::default());
    let serving = sandbox.clone();
    let stop = stop_sandbox.clone();
    let served = tasks.spawn(async move { serving.serve(sandbox_listener, stop).await });

    let (listener, admin_listener) = (bind("ingest", anywhere).await?, bind("admin", anywhere).await?);
    let ingest = listener.local_addr().context("the ingest has no address")?;
    let admin = admin_listener.local_addr().context("the admin listener has no address")?;
    let flags = standalone_args(data.path(), sandbox_address);
    let config = settings::standalone(&flags)?;
    let embedded = EmbeddedConfig {
        many_records: inflection_wire::ALIAS_RECORDS,
        ..EmbeddedConfig::new(data.path().to_path_buf())
    };
    let bus = Bus::open_embedded(embedded).await.context("the embedded bus")?;
    let partitions = PartitionCount::new(16);
    let installation = install::load(&bus, &config.installation, partitions).await?;
    let (sending, identity) = (settings::sending(&flags.sending), Some(settings::folding(&flags.folding)));
    let read = Read::new(move || settings::standalone(&flags));
    let traces = (settings::traces()?, "inflection-demo");
    let setup = Setup { bus, config, read, installation, admin_listener, admin_keys: Keys::default(), traces };
    let wanted =
        Wanted { ingest: Some((listener, SignatureClock::System)), identity, delivery: Some(sending), worker: None };
    let stages = Stages::start(setup, wanted).await?;

    say(&format!(
        "A campaign to {} people goes through ingest, identity and delivery into a local stand-in for Segment.",
        args.prospects
    ));
    let started = Instant::now();
    let campaign = campaign::Campaign::new(args.prospects, now_ms());
    let sent = play(&campaign, ingest, &sandbox).await?;
    let ledger = rest(&stages).await?;
    let took = started.elapsed();
    summary::print(&campaign, sent, &sandbox, &ledger, took);
    say(&format!(
        "\nLook      http://{sandbox_address}/            what Segment received, live, with the warehouse tables"
    ));
    say(&format!("          http://{admin}/v1/ledger   the books   http://{admin}/metrics   the numbers"));

    let balanced = ledger.balanced && ledger.at_rest && ledger.events.accepted == sent;
    if !args.exit {
        say(&format!(
            "\nTry it    curl -H 'Authorization: Bearer {INGEST_KEY}' -H 'Content-Type: application/json' http://{ingest}/v1/events \\\n            -d '{}'",
            json!({"type": "email_opened", "person_id": "you", "timestamp": now_ms(), "campaign_run_id": "run-1", "email_id": "mail-1"})
        ));
        say("\nServing until Ctrl-C.");
        stages::signal().await;
    }
    stages.stop().await?;
    stop_sandbox.cancel();
    served.await.context("the sandbox has panicked")?.context("the sandbox has ended")?;
    if balanced { Ok(End::Done) } else { Ok(End::Wrong) }
}

fn standalone_args(data_dir: &std::path::Path, sandbox: SocketAddr) -> StandaloneArgs {
    let anywhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    StandaloneArgs {
        data_dir: Some(data_dir.to_path_buf()),
        listen: ListenArgs { listen: anywhere, admin_listen: anywhere, admin_key: None, admin_key_file: None },
        ingest_key: Some(INGEST_KEY.into()),
        write_key: Some("demo-write-key-0123456789abcdef".into()),
        region: None,
        segment_endpoint: Some(format!("http://{sandbox}")),
        file: ConfigFileArgs { config: None, allow_insecure_endpoint: true },
        sending: SendingArgs { linger_ms: 100, in_flight_max: 8, park_after_seconds: 60 },
        folding: FoldingArgs { snapshot_every_bytes: FoldingArgs::SNAPSHOT_EVERY_BYTES, state_budget_mib: None },
        partitions: 16,
        clock: TestClockArgs::default(),
    }
}

fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

/// Posts the campaign's events in order, and lets Segment refuse some requests half-way. Gives how many were accepted.
async fn play(campaign: &campaign::Campaign, ingest: SocketAddr, sandbox: &Sandbox) -> anyhow::Result<u64> {
    let client = reqwest::Client::builder().no_proxy().build()?;
    let bar = ProgressBar::new(campaign.events.len() as u64);
    bar.set_style(ProgressStyle::with_template("{bar:40} {pos}/{len} events  {per_sec}  {elapsed}")?);
    let mut accepted = 0;
    let batches = campaign.events.len().div_ceil(BATCH);
    for (number, batch) in campaign.events.chunks(BATCH).enumerate() {
        if number == batches / 2 {
            let fault = Fault::Status { code: 429, retry_after: Some("1".into()), rate_limit_reset: None };
            let rule = FaultRule { fault, times: Some(THROTTLED_REQUESTS), every: None, write_key: None };
            sandbox.set_faults(Faults { rules: vec![rule] });
        }
        let request = client.post(format!("http://{ingest}/v1/events")).bearer_auth(INGEST_KEY).json(&batch);
        let answer = request.send().await.context("ingest does not answer")?;
        let status = answer.status();
        if status.as_u16() != 200 {
            bail!("ingest answers {status}: {}", answer.text().await.unwrap_or_default());
        }
        let answer: serde_json::Value = answer.json().await?;
        accepted += answer.get("accepted").and_then(serde_json::Value::as_u64).unwrap_or(0);
        bar.inc(batch.len() as u64);
    }
    bar.finish_and_clear();
    Ok(accepted)
}

/// Waits until nothing is on its way any more.
async fn rest(stages: &Stages) -> anyhow::Result<Ledger> {
    let deadline = Instant::now() + REST_DEADLINE;
    let mut books = Bookkeeper::new(stages.bus.clone(), stages.installation.partitions);
    loop {
        let ledger = books.read().await?;
        if ledger.at_rest || Instant::now() > deadline {
            return Ok(ledger);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
