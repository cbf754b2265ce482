//! A collector of traces inside the test: OTLP over HTTP, protobuf.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use prost::Message;

/// Bytes read at once.
const READ_BYTES: usize = 16 * 1024;

/// A running collector; it stops when dropped.
#[derive(Debug)]
pub struct Collector {
    address: SocketAddr,
    shared: Arc<Shared>,
    server: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    spans: Mutex<Vec<Span>>,
    /// Bodies as they came, headers included: what they must not contain is looked for here.
    received: Mutex<Vec<Vec<u8>>>,
    stop: AtomicBool,
}

/// A span as it was received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// `service.name` of the process it is of.
    pub service: String,
    /// Its name.
    pub name: String,
    /// 32 hexadecimal digits.
    pub trace: String,
    /// 16 hexadecimal digits.
    pub id: String,
    /// The same of its parent; empty at the root of a trace.
    pub parent: String,
    /// When it began and ended, nanoseconds of Unix time.
    pub time_ns: (u64, u64),
    /// Its attributes; numbers as text.
    pub attributes: BTreeMap<String, String>,
    /// The spans it links to, by their ids.
    pub links: Vec<String>,
    /// Whether it says that it went wrong.
    pub failed: bool,
}

impl Span {
    /// An attribute, or nothing.
    pub fn attribute(&self, key: &str) -> &str {
        self.attributes.get(key).map_or("", String::as_str)
    }
}

impl Collector {
    /// Starts one that takes everything.
    pub fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port for the collector");
        let address = listener.local_addr().expect("a bound port");
        let shared = Arc::new(Shared::default());
        let serving = Arc::clone(&shared);
        let server = thread::spawn(move || {
            // Exporters keep their connections; each has a thread that ends with it.
            for stream in listener.incoming() {
                if serving.stop.load(Ordering::SeqCst) {
                    return;
                }
                let (stream, serving) = (stream.expect("a connection"), Arc::clone(&serving));
                thread::spawn(move || serve(stream, &serving));
            }
        });
        Self { address, shared, server: Some(server) }
    }

    /// Its base address, as `OTEL_EXPORTER_OTLP_ENDPOINT` takes it.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Everything received so far.
    pub fn spans(&self) -> Vec<Span> {
        self.shared.spans.lock().expect("no test panics in between").clone()
    }

    /// Whether a text was in anything received, headers included.
    pub fn has_received(&self, text: &str) -> bool {
        let received = self.shared.received.lock().expect("no test panics in between");
        received.iter().any(|bytes| bytes.windows(text.len()).any(|part| part == text.as_bytes()))
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        // Wakes the listener; that it may be gone already is no matter.
        TcpStream::connect(self.address).ok();
        if let Some(server) = self.server.take() {
            server.join().ok();
        }
    }
}

fn serve(mut stream: TcpStream, shared: &Shared) {
    let mut bytes = Vec::new();
    while let Some((head, body)) = request(&mut stream, &mut bytes) {
        assert!(head.starts_with("POST /v1/traces "), "{head}");
        shared.received.lock().expect("no test panics in between").push([head.as_bytes(), &body].concat());
        let request = ExportRequest::decode(&*body).expect("an export request");
        shared.spans.lock().expect("no test panics in between").extend(spans(request));
        if stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").is_err() {
            return;
        }
    }
    stream.shutdown(Shutdown::Both).ok();
}

/// Reads the next request; what comes behind it stays in `bytes`.
fn request(stream: &mut TcpStream, bytes: &mut Vec<u8>) -> Option<(String, Vec<u8>)> {
    let mut buffer = [0; READ_BYTES];
    loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
            let lower = head.to_ascii_lowercase();
            let length = lower.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
            let all = end + 4 + length.expect("a length");
            if bytes.len() >= all {
                let body = bytes[end + 4..all].to_vec();
                bytes.drain(..all);
                return Some((head, body));
            }
        }
        let read = stream.read(&mut buffer).ok().filter(|read| *read > 0)?;
        bytes.extend_from_slice(&buffer[..read]);
    }
}

fn spans(request: ExportRequest) -> Vec<Span> {
    let mut found = Vec::new();
    for of_resource in request.resource_spans {
        let resource = attributes(of_resource.resource.unwrap_or_default().attributes);
        let service = resource.get("service.name").cloned().unwrap_or_default();
        for span in of_resource.scope_spans.into_iter().flat_map(|of_scope| of_scope.spans) {
            found.push(Span {
                service: service.clone(),
                name: span.name,
                trace: hex(&span.trace_id),
                id: hex(&span.span_id),
                parent: hex(&span.parent_span_id),
                time_ns: (span.start_time_unix_nano, span.end_time_unix_nano),
                attributes: attributes(span.attributes),
                links: span.links.iter().map(|link| hex(&link.span_id)).collect(),
                failed: span.status.is_some_and(|status| status.code == ERROR),
            });
        }
    }
    found
}

fn attributes(pairs: Vec<KeyValue>) -> BTreeMap<String, String> {
    let text = |value: Option<AnyValue>| match value.unwrap_or_default() {
        AnyValue { string: Some(text), .. } => text,
        AnyValue { int: Some(number), .. } => number.to_string(),
        AnyValue { .. } => "?".to_owned(),
    };
    pairs.into_iter().map(|pair| (pair.key, text(pair.value))).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `STATUS_CODE_ERROR`.
const ERROR: i32 = 2;

// As much of OTLP as is looked at (opentelemetry-proto, trace/v1/trace.proto and its neighbours).

#[derive(Clone, PartialEq, prost::Message)]
struct ExportRequest {
    #[prost(message, repeated, tag = "1")]
    resource_spans: Vec<ResourceSpans>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ResourceSpans {
    #[prost(message, optional, tag = "1")]
    resource: Option<Resource>,
    #[prost(message, repeated, tag = "2")]
    scope_spans: Vec<ScopeSpans>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Resource {
    #[prost(message, repeated, tag = "1")]
    attributes: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ScopeSpans {
    #[prost(message, repeated, tag = "2")]
    spans: Vec<WireSpan>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct WireSpan {
    #[prost(bytes = "vec", tag = "1")]
    trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    span_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    parent_span_id: Vec<u8>,
    #[prost(string, tag = "5")]
    name: String,
    #[prost(fixed64, tag = "7")]
    start_time_unix_nano: u64,
    #[prost(fixed64, tag = "8")]
    end_time_unix_nano: u64,
    #[prost(message, repeated, tag = "9")]
    attributes: Vec<KeyValue>,
    #[prost(message, repeated, tag = "13")]
    links: Vec<Link>,
    #[prost(message, optional, tag = "15")]
    status: Option<Status>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Link {
    #[prost(bytes = "vec", tag = "2")]
    span_id: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Status {
    #[prost(int32, tag = "3")]
    code: i32,
}

#[derive(Clone, PartialEq, prost::Message)]
struct KeyValue {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(message, optional, tag = "2")]
    value: Option<AnyValue>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct AnyValue {
    #[prost(string, optional, tag = "1")]
    string: Option<String>,
    #[prost(int64, optional, tag = "3")]
    int: Option<i64>,
}
