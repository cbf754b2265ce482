//! The generator: requests made beforehand, or just in time when they are paced.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use tokio::task::JoinSet;

use crate::cli::BenchArgs;

pub(super) const INGEST_KEY: &str = "bench-ingest-key";
/// Each person gets so many events: one delivered, opens, a click.
const EVENTS_PER_PERSON: u64 = 5;

/// What the generator saw.
#[derive(Debug, Default)]
pub(super) struct Loaded {
    pub(super) accepted: u64,
    /// Requests answered 429 or 503 and sent again.
    pub(super) repeated: u64,
    /// From the first request to the last 200.
    pub(super) time: Duration,
    /// Of each 200, in microseconds.
    pub(super) answers_us: Vec<u64>,
}

/// Sends all events and waits for every 200.
pub(super) async fn run(args: &BenchArgs, ingest: SocketAddr) -> anyhow::Result<Loaded> {
    let client = reqwest::Client::builder().no_proxy().pool_max_idle_per_host(1024).build()?;
    let next = Arc::new(AtomicU64::new(0));
    let started = Instant::now();
    let mut workers = JoinSet::new();
    for _ in 0..args.concurrency {
        let (client, next) = (client.clone(), Arc::clone(&next));
        let (events, batch, rate) = (args.events, args.batch, args.rate);
        workers.spawn(async move {
            let mut loaded = Loaded::default();
            loop {
                let first = next.fetch_add(batch, Ordering::Relaxed);
                if first >= events {
                    return Ok::<_, anyhow::Error>(loaded);
                }
                if rate > 0 {
                    let due = started + Duration::from_secs_f64(seconds(first, rate));
                    tokio::time::sleep_until(due.into()).await;
                }
                post(&client, ingest, first, batch.min(events - first), &mut loaded).await?;
            }
        });
    }
    let mut total = Loaded::default();
    while let Some(worker) = workers.join_next().await {
        let loaded = worker.context("a generator has panicked")??;
        total.accepted += loaded.accepted;
        total.repeated += loaded.repeated;
        total.answers_us.extend(loaded.answers_us);
    }
    total.time = started.elapsed();
    Ok(total)
}

fn seconds(events: u64, rate: u64) -> f64 {
    Duration::from_secs(events).as_secs_f64() / Duration::from_secs(rate).as_secs_f64()
}

async fn post(
    client: &reqwest::Client,
    ingest: SocketAddr,
    first: u64,
    count: u64,
    loaded: &mut Loaded,
) -> anyhow::Result<()> {
    let body = body(first, count);
    loop {
        let sent = Instant::now();
        let answer = client
            .post(format!("http://{ingest}/v1/events"))
            .bearer_auth(INGEST_KEY)
            .header("content-type", "application/x-ndjson")
            .body(body.clone())
            .send()
            .await
            .context("ingest does not answer")?;
        let status = answer.status().as_u16();
        let text = answer.text().await?;
        match status {
            200 => {
                loaded.answers_us.push(u64::try_from(sent.elapsed().as_micros()).unwrap_or(u64::MAX));
                loaded.accepted += count;
                return Ok(());
            }
            429 | 503 => {
                loaded.repeated += 1;
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            _ => bail!("ingest answers {status}: {text}"),
        }
    }
}

/// Events of about 380 bytes, as a sender writes them.
fn body(first: u64, count: u64) -> Vec<u8> {
    use std::io::Write as _;
    let now = jiff::Timestamp::now().as_millisecond();
    let mut body = Vec::with_capacity(usize::try_from(count).unwrap_or(0) * 400);
    for number in first..first + count {
        let person = number / EVENTS_PER_PERSON;
        let (kind, link) = match number % EVENTS_PER_PERSON {
            0 => ("email_delivered", ""),
            4 => ("link_clicked", ",\"email_link_url\":\"https://example.com/pricing?utm_source=mail\""),
            _ => ("email_opened", ""),
        };
        let line = writeln!(
            body,
            "{{\"type\":\"{kind}\",\"id\":\"bench-{number}\",\"timestamp\":{now},\"person_id\":\"person-{person}\",\
             \"email\":\"prospect{person}@example.com\",\"email_id\":\"mail-1\",\"campaign_id\":\"campaign-1\",\
             \"campaign_run_id\":\"run-{}\",\"campaign_name\":\"Spring launch campaign\",\
             \"email_subject\":\"What is new this spring, and what comes next\"{link},\
             \"properties\":{{\"plan\":\"pro\",\"region\":\"emea\"}}}}",
            person % 50
        );
        // A Vec takes every write.
        debug_assert!(line.is_ok());
    }
    body
}
