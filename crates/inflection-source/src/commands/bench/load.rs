//! The generator: requests made just in time, as fast as they are answered or at a rate.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use tokio::task::JoinSet;

use super::args::BenchArgs;
use super::mix::Mix;

pub(super) const INGEST_KEY: &str = "bench-ingest-key";
/// Wait before a request is sent again.
const AGAIN: Duration = Duration::from_millis(100);

/// What the generator saw.
#[derive(Debug, Default)]
pub(super) struct Loaded {
    pub(super) accepted: u64,
    /// Requests answered 429 or 503, or not at all while stages are killed, and sent again.
    pub(super) repeated: u64,
    /// From the first request to the last 200.
    pub(super) time: Duration,
    /// Of each 200, in microseconds.
    pub(super) answers_us: Vec<u64>,
}

/// Where and how one request is sent.
#[derive(Debug, Clone)]
struct Sender {
    client: reqwest::Client,
    url: String,
    mix: Mix,
    /// No answer is no reason to give up: stages are being killed.
    patient: bool,
}

/// Sends all events and waits for every 200.
pub(super) async fn run(args: &BenchArgs, ingest: SocketAddr) -> anyhow::Result<Loaded> {
    let client = reqwest::Client::builder().no_proxy().pool_max_idle_per_host(1024).build()?;
    let url = format!("http://{ingest}/v1/events");
    let sender = Sender { client, url, mix: args.mix, patient: args.faults.is_some() };
    let next = Arc::new(AtomicU64::new(0));
    let started = Instant::now();
    let mut workers = JoinSet::new();
    for _ in 0..args.concurrency {
        let (sender, next) = (sender.clone(), Arc::clone(&next));
        let (events, batch, rate) = (args.events_wanted(), args.batch, args.rate);
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
                sender.post(first, batch.min(events - first), &mut loaded).await?;
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

impl Sender {
    async fn post(&self, first: u64, count: u64, loaded: &mut Loaded) -> anyhow::Result<()> {
        let body = self.mix.body(first, count);
        loop {
            let sent = Instant::now();
            match self.once(body.clone()).await {
                Ok((200, _)) => {
                    loaded.answers_us.push(u64::try_from(sent.elapsed().as_micros()).unwrap_or(u64::MAX));
                    loaded.accepted += count;
                    return Ok(());
                }
                Ok((429 | 503, _)) => {}
                Ok((status, text)) => bail!("ingest answers {status}: {text}"),
                // Whether it was taken is not known; the same ids again make it one.
                Err(_no_answer) if self.patient => {}
                Err(error) => return Err(error).context("ingest does not answer"),
            }
            loaded.repeated += 1;
            tokio::time::sleep(AGAIN).await;
        }
    }

    async fn once(&self, body: Vec<u8>) -> reqwest::Result<(u16, String)> {
        let request =
            self.client.post(&self.url).bearer_auth(INGEST_KEY).header("content-type", "application/x-ndjson");
        let answer = request.body(body).send().await?;
        let status = answer.status().as_u16();
        Ok((status, answer.text().await?))
    }
}
