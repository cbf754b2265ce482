//! The task that sends spans to the collector.
//!
//! Nothing waits for it. What the collector does not take within the retries is dropped and counted, and that it does not is
//! said once.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{
    ExporterBuildError, Protocol, RetryPolicy, SpanExporter as OtlpExporter, WithExportConfig as _, WithHttpConfig as _,
};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SpanData, SpanExporter as _};
use reqwest::redirect::Policy;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::settings::TraceSettings;
use super::tracer::{QUEUE_SPANS_MAX, Tracer};
use crate::{Counter, CounterFamily, Registry};

/// Most spans of one request to the collector (OpenTelemetry's default).
const BATCH_SPANS_MAX: usize = 512;
/// How long a span waits for company.
const LINGER: Duration = Duration::from_secs(1);
/// Waits before a request is tried again; after the last its spans are dropped.
const RETRY_WAITS: [Duration; 3] = [Duration::from_millis(500), Duration::from_secs(2), Duration::from_secs(8)];
/// How long the spans that are left may take when the process ends.
const FLUSH_WITHIN: Duration = Duration::from_secs(5);
/// Most bytes of an answer that are read.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// Why traces cannot be sent at all.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// The HTTP client cannot be made.
    #[error("the HTTP client for traces cannot be set up")]
    Client(#[source] reqwest::Error),
    /// The exporter cannot be made of the settings.
    #[error("the exporter of traces cannot be set up")]
    Exporter(#[source] ExporterBuildError),
}

/// The sending of spans, to be ended before the process does.
#[derive(Debug)]
pub struct Exporting(Option<(CancellationToken, JoinHandle<()>)>);

impl Tracer {
    /// Begins to send spans under the name of a service, unless traces are off.
    ///
    /// # Errors
    /// [`TraceError`] when nothing can ever be sent. A collector that is not there is none.
    pub fn start(
        settings: Option<&TraceSettings>,
        service: &'static str,
        version: &'static str,
        registry: &Registry,
        tasks: &TaskTracker,
    ) -> Result<(Self, Exporting), TraceError> {
        Self::start_within(settings, (service, version), registry, tasks, FLUSH_WITHIN)
    }

    fn start_within(
        settings: Option<&TraceSettings>,
        (service, version): (&'static str, &'static str),
        registry: &Registry,
        tasks: &TaskTracker,
        flush_within: Duration,
    ) -> Result<(Self, Exporting), TraceError> {
        // Told also when no traces are sent, so that dashboards have them.
        let dropped = registry.counters("inflection_telemetry_spans_dropped", "Spans that were not sent, by reason");
        let exported = registry.counter("inflection_telemetry_spans_exported", "Spans the collector has taken");
        let Some(settings) = settings else { return Ok((Self::default(), Exporting(None))) };
        let stop = CancellationToken::new();
        let mut exporter = exporter(settings, stop.clone())?;
        exporter.set_resource(&resource(settings, service, version));
        let (sender, queue) = mpsc::channel(QUEUE_SPANS_MAX);
        let tracer = Self::new(settings.sampling, sender, dropped.with(&[("reason", "queue_full")]));
        let export = Export { exporter, queue, batch: Vec::new(), sending: 0, exported, dropped, is_failing: false };
        let ended = tasks.spawn(export.run(stop.clone(), flush_within));
        // The host alone: an address may have a password in it.
        tracing::info!(
            collector = settings.endpoint.host_str().unwrap_or_default(),
            share = settings.sampling.ratio,
            "traces are sent"
        );
        Ok((tracer, Exporting(Some((stop, ended)))))
    }
}

impl Exporting {
    /// Sends what is left, within five seconds; spans that end after this are lost.
    pub async fn finish(self) {
        if let Some((stop, ended)) = self.0 {
            stop.cancel();
            if let Err(error) = ended.await {
                tracing::error!(%error, "the sending of traces has failed");
            }
        }
    }
}

fn exporter(settings: &TraceSettings, stop: CancellationToken) -> Result<OtlpExporter, TraceError> {
    let client = reqwest::Client::builder()
        .timeout(settings.timeout)
        .redirect(Policy::none())
        .no_proxy()
        .build()
        .map_err(TraceError::Client)?;
    OtlpExporter::builder()
        .with_http()
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(settings.endpoint.as_str())
        .with_http_client(Transport { client, stop })
        // Ours are the only ones: the library's would put a thread of the runtime to sleep.
        .with_retry_policy(RetryPolicy::disabled())
        .build()
        .map_err(TraceError::Exporter)
}

/// What all spans of a process have in common. Operators add to it, and win.
fn resource(settings: &TraceSettings, service: &'static str, version: &'static str) -> Resource {
    let ours = [KeyValue::new("service.namespace", "inflection"), KeyValue::new("service.version", version)];
    let given = Resource::builder().build();
    let ours = ours.into_iter().filter(|ours| given.get(&ours.key).is_none());
    let resource = Resource::builder().with_attributes(ours.collect::<Vec<_>>());
    if settings.is_named { resource.build() } else { resource.with_service_name(service).build() }
}

struct Export {
    exporter: OtlpExporter,
    queue: mpsc::Receiver<SpanData>,
    /// The next request.
    batch: Vec<SpanData>,
    /// Spans of the request under way.
    sending: usize,
    exported: Counter,
    dropped: CounterFamily,
    is_failing: bool,
}

impl Export {
    async fn run(mut self, stop: CancellationToken, flush_within: Duration) {
        let given_up = async {
            stop.cancelled().await;
            sleep(flush_within).await;
        };
        tokio::select! {
            () = self.send_all(&stop) => return,
            () = given_up => {}
        }
        let left = self.sending + self.batch.len() + self.queue.len();
        self.dropped.with(&[("reason", "exit")]).add(left as u64);
        tracing::warn!(spans = left, "the collector of traces did not take the last spans in time");
    }

    /// Sends until `stop`, and then what is there.
    async fn send_all(&mut self, stop: &CancellationToken) {
        loop {
            let stopped = tokio::select! {
                biased;
                () = stop.cancelled() => true,
                () = fill(&mut self.queue, &mut self.batch) => self.queue.is_closed() && self.batch.is_empty(),
            };
            if stopped {
                let room = BATCH_SPANS_MAX.saturating_sub(self.batch.len());
                self.batch.extend(std::iter::from_fn(|| self.queue.try_recv().ok()).take(room));
            }
            if stopped && self.batch.is_empty() {
                return;
            }
            self.send().await;
        }
    }

    async fn send(&mut self) {
        self.sending = self.batch.len();
        let sent = self.exporter.export(std::mem::take(&mut self.batch)).await;
        let count = std::mem::take(&mut self.sending) as u64;
        match sent {
            Ok(()) => {
                self.exported.add(count);
                if std::mem::take(&mut self.is_failing) {
                    tracing::info!("the collector takes traces again");
                }
            }
            Err(error) => {
                self.dropped.with(&[("reason", "not_taken")]).add(count);
                if !std::mem::replace(&mut self.is_failing, true) {
                    tracing::warn!(%error, "the collector takes no traces; they are dropped until it does");
                }
            }
        }
    }
}

/// Waits for a span, and then for as many as a request may have, or for company no longer than [`LINGER`].
///
/// # Cancel safety
/// What has come is in `batch`.
async fn fill(queue: &mut mpsc::Receiver<SpanData>, batch: &mut Vec<SpanData>) {
    if batch.is_empty() {
        match queue.recv().await {
            Some(first) => batch.push(first),
            None => return,
        }
    }
    let until = tokio::time::Instant::now() + LINGER;
    while batch.len() < BATCH_SPANS_MAX {
        let room = BATCH_SPANS_MAX - batch.len();
        match timeout_at(until, queue.recv_many(batch, room)).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
    }
}

/// The way to the collector. It tries again with the same bytes when that may help, and no more once the process ends.
#[derive(Debug)]
struct Transport {
    client: reqwest::Client,
    stop: CancellationToken,
}

impl HttpClient for Transport {
    fn send_bytes<'s, 'f>(
        &'s self,
        request: Request<Bytes>,
    ) -> Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'f>>
    where
        's: 'f,
        Self: 'f,
    {
        Box::pin(self.send(request))
    }
}

impl Transport {
    async fn send(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let request = reqwest::Request::try_from(request)?;
        let mut waits = RETRY_WAITS.into_iter();
        loop {
            // What began before the process ends is tried once more after that, and nothing twice.
            let is_last = self.stop.is_cancelled();
            let attempt = self.attempt(request.try_clone().ok_or("a body that cannot be sent twice")?).await;
            // OTLP specification, "Retryable Response Codes".
            let again = attempt.as_ref().map_or(true, |answer| matches!(answer.status().as_u16(), 429 | 502..=504));
            if let Err(error) = &attempt {
                tracing::debug!(error = ?std::error::Error::source(error), "the collector of traces does not answer");
            }
            let Some(wait) = waits.next().filter(|_| again && !is_last) else {
                return Ok(attempt?);
            };
            // Cut short when the process ends: then one more attempt is made at once.
            let _stopped_or_waited = timeout(wait, self.stop.cancelled()).await;
        }
    }

    async fn attempt(&self, request: reqwest::Request) -> Result<Response<Bytes>, reqwest::Error> {
        let mut answer = self.client.execute(request).await.map_err(reqwest::Error::without_url)?;
        let mut body = Vec::new();
        while body.len() < ANSWER_BYTES_MAX
            && let Some(chunk) = answer.chunk().await.map_err(reqwest::Error::without_url)?
        {
            body.extend_from_slice(&chunk);
        }
        let mut response = Response::new(Bytes::from(body));
        *response.status_mut() = answer.status();
        Ok(response)
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::sync::Notify;

    use super::*;
    use crate::trace::{Kind, Span, TraceContext};

    /// A tracer of everything, and what it counts.
    fn start(endpoint: &str, flush_within: Duration) -> (Tracer, Exporting, Registry) {
        install_tls();
        let variables = [("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint), ("OTEL_TRACES_SAMPLER", "always_on")];
        let find = |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, text)| (*text).to_owned());
        let settings = TraceSettings::read(find).unwrap();
        let registry = Registry::default();
        let (service, tasks) = (("inflection-test", "1.2.3"), TaskTracker::new());
        let (tracer, exporting) =
            Tracer::start_within(settings.as_ref(), service, &registry, &tasks, flush_within).unwrap();
        (tracer, exporting, registry)
    }

    fn span(name: &'static str) -> Span {
        Span::new(name, Kind::Client, TraceContext::root(), None, SystemTime::now())
    }

    /// Reads one request, whole.
    async fn request(stream: &mut TcpStream) -> (String, Vec<u8>) {
        let (mut bytes, mut buffer) = (Vec::new(), [0; 4096]);
        loop {
            let read = stream.read(&mut buffer).await.unwrap();
            assert!(read > 0, "a request is cut short");
            bytes.extend_from_slice(&buffer[..read]);
            let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
            let head = String::from_utf8(bytes[..end].to_vec()).unwrap().to_ascii_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
            let length: usize = length.parse().unwrap();
            if bytes.len() >= end + 4 + length {
                return (head, bytes[end + 4..end + 4 + length].to_vec());
            }
        }
    }

    async fn answer(stream: &mut TcpStream, status: &str) {
        let text = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        stream.write_all(text.as_bytes()).await.unwrap();
    }

    fn install_tls() {
        // The client wants a provider even for plain HTTP. Another test may have been first.
        rustls::crypto::ring::default_provider().install_default().ok();
    }

    #[tokio::test]
    async fn what_is_under_way_at_the_end_is_tried_once_more() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (tracer, exporting, registry) = start(&format!("http://{}", listener.local_addr().unwrap()), FLUSH_WITHIN);
        tracer.end(span("the only span"));
        let under_way = Notify::new();
        let collector = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let (head, _) = request(&mut stream).await;
            assert!(head.starts_with("post /v1/traces ") && head.contains("application/x-protobuf"), "{head}");
            answer(&mut stream, "503 Service Unavailable").await;
            under_way.notify_one();
            let (mut stream, _) = listener.accept().await.unwrap();
            let (_, body) = request(&mut stream).await;
            answer(&mut stream, "200 OK").await;
            body
        };
        let end = async {
            under_way.notified().await;
            exporting.finish().await;
        };
        let (body, ()) = tokio::join!(collector, end);
        for text in ["the only span", "inflection-test", "service.version", "1.2.3", "service.namespace"] {
            assert!(body.windows(text.len()).any(|part| part == text.as_bytes()), "{text} is not in the request");
        }
        let told = registry.render();
        assert!(told.contains("inflection_telemetry_spans_exported_total 1"), "{told}");
    }

    #[tokio::test]
    async fn a_collector_that_is_not_there_blocks_nothing_and_every_span_is_counted() {
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let (tracer, exporting, registry) = start(&format!("http://{free}"), FLUSH_WITHIN);
        let spans = QUEUE_SPANS_MAX + 10;
        for _ in 0..spans {
            tracer.end(span("lost"));
        }
        exporting.finish().await;
        let told = registry.render();
        let dropped = told.lines().filter(|line| line.starts_with("inflection_telemetry_spans_dropped_total"));
        let dropped = dropped.filter_map(|line| line.rsplit_once(' ')?.1.parse::<usize>().ok());
        assert_eq!(dropped.sum::<usize>(), spans, "{told}");
    }

    #[tokio::test]
    async fn a_collector_that_hangs_is_left_at_the_end() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let (tracer, exporting, registry) = start(&endpoint, Duration::from_millis(100));
        tracer.end(span("lost"));
        exporting.finish().await;
        let told = registry.render();
        assert!(told.contains("inflection_telemetry_spans_dropped_total{reason=\"exit\"} 1"), "{told}");
    }
}
