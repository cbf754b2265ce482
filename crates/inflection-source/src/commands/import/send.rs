//! Requests to ingest, and what their answers mean.

use std::io::Write as _;
use std::ops::Range;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow};
use axum::body::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use inflection_ingest::{BACKGROUND, PRIORITY_HEADER};
use reqwest::header::RETRY_AFTER;
use serde_json::Value;

use super::batches::{Events, Refused};
use super::progress::Progress;

/// How long an answer may take. Ingest answers within 9 seconds once it has the body.
const ANSWER_WAIT: Duration = Duration::from_secs(60);
/// Waits between tries, where ingest names none: doubled from the first up to the longest.
const WAIT_FIRST: Duration = Duration::from_millis(250);
const WAIT_MAX: Duration = Duration::from_secs(30);
/// After so many tries that took too long at the other end, a request is cut in halves: it may be too much for one.
const TRIES_WHOLE: u32 = 4;
/// The longest that ingest can make us wait.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(300);

/// What an answer means for a request.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Answer {
    /// It is done: what is not among the refused is on disk. Index, code and message of each.
    Done(Vec<(usize, String, String)>),
    /// Something in it cannot be taken as it is, and which is not said.
    Halve {
        code: String,
        message: String,
        /// It is too many bytes for what lies between: later requests are made smaller too.
        is_size: bool,
    },
    /// Not now; perhaps, because it takes `too_long`, never as a whole.
    Later { why: String, wait: Option<Duration>, too_long: bool },
    /// It has taken too long too often.
    TooLong,
    /// Never.
    Never(String),
}

/// Reads an answer to a request of so many events.
fn judge(status: u16, retry_after: Option<&str>, body: &[u8], events: usize) -> Answer {
    let body: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
    let text = |pointer: &str| body.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (code, message) = (text("/error/code"), text("/error/message"));
    let rejected = rejected(&body);
    let accepted = body.get("accepted").and_then(Value::as_u64).and_then(|count| usize::try_from(count).ok());
    let said = format!("ingest answers {status} {code}: {message}");
    match status {
        200 | 207 if accepted.map(|accepted| accepted + rejected.len()) == Some(events) => Answer::Done(rejected),
        200..=299 => Answer::Never(format!("what answers {status} at this address is no ingest; is --url right?")),
        401 => {
            Answer::Never(format!("{said}. Give a key that ingest knows with --ingest-key or INFLECTION_INGEST_KEY"))
        }
        300..=399 => Answer::Never(format!(
            "ingest answers {status}, and no redirect is followed; give the last address as --url"
        )),
        408 | 425 | 429 | 500..=599 => {
            let too_long = matches!(status, 408 | 504) || code == "storage_unavailable";
            Answer::Later { why: said, wait: retry_after.and_then(seconds), too_long }
        }
        // A 413 may also be of a proxy that takes smaller bodies.
        413 => {
            let code = if code.is_empty() { "event_too_large".to_owned() } else { code };
            Answer::Halve { code, message, is_size: true }
        }
        409 | 403 if code == "id_conflict" || code == "connection_forbidden" => {
            Answer::Halve { code, message, is_size: false }
        }
        400..=499 if !rejected.is_empty() && rejected.len() == events => Answer::Done(rejected),
        _ => Answer::Never(said),
    }
}

fn rejected(body: &Value) -> Vec<(usize, String, String)> {
    let list = body.get("rejected").and_then(Value::as_array);
    let text = |one: &Value, name: &str| one.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let index = |one: &Value| one.get("index").and_then(Value::as_u64).and_then(|index| usize::try_from(index).ok());
    let read = |one: &Value| Some((index(one)?, text(one, "code"), text(one, "message")));
    list.into_iter().flatten().filter_map(read).collect()
}

fn seconds(text: &str) -> Option<Duration> {
    text.trim().parse().ok().map(Duration::from_secs).map(|wait| wait.min(RETRY_AFTER_MAX))
}

/// The wait before a try, after so many that failed.
fn wait_after(failures: u32) -> Duration {
    WAIT_FIRST.saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1))).min(WAIT_MAX)
}

/// Compresses the body of a request.
pub(super) fn gzip(body: &[u8]) -> Bytes {
    let mut encoder = GzEncoder::new(Vec::with_capacity(body.len() / 4), Compression::fast());
    // A Vec takes every write.
    encoder.write_all(body).and_then(|()| encoder.finish()).unwrap_or_default().into()
}

/// Sends events, one request at a time, so that they arrive in order.
#[derive(Debug)]
pub(super) struct Sender {
    http: reqwest::Client,
    url: String,
    key: String,
    /// Without an answer that takes something for so long, it is given up; never without.
    give_up_after: Option<Duration>,
    /// Learnt from what lies between, which may take less than ingest.
    body_bytes_max: usize,
    /// Since when nothing was taken.
    failing: Option<Instant>,
    pub(super) requests: u64,
    /// Requests that were sent again.
    pub(super) repeated: u64,
}

impl Sender {
    pub(super) fn new(url: &str, key: &str, give_up_after: Option<Duration>) -> anyhow::Result<Self> {
        let http = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(ANSWER_WAIT)
            .build()
            .context("the HTTP client cannot start")?;
        let url = format!("{}/v1/events", url.trim_end_matches('/'));
        let (key, body_bytes_max, failing, requests, repeated) = (key.to_owned(), usize::MAX, None, 0, 0);
        Ok(Self { http, url, key, give_up_after, body_bytes_max, failing, requests, repeated })
    }

    /// Sees events to their end, in order; `packed` is the whole body, compressed. Gives what was refused of them.
    ///
    /// # Errors
    /// What makes it pointless to go on. Events before may have been taken, those after have not.
    pub(super) async fn deliver(
        &mut self,
        events: &Events,
        packed: &Bytes,
        progress: &Progress,
    ) -> anyhow::Result<Vec<Refused>> {
        let (mut refused, mut left) = (Vec::new(), Vec::new());
        left.extend(Some(0..events.len()).filter(|whole| !whole.is_empty()));
        while let Some(range) = left.pop() {
            let body = events.body(range.clone());
            if body.len() > self.body_bytes_max && range.len() > 1 {
                left.extend(halves(range));
                continue;
            }
            let body_bytes = body.len();
            let packed = if range.len() == events.len() { packed.clone() } else { gzip(body) };
            match self.insist(&packed, range.len(), progress).await? {
                Answer::Done(rejected) => {
                    let of = |(index, code, message): &(usize, String, String)| {
                        events.refused(range.start + index, code, message)
                    };
                    refused.extend(rejected.iter().map(of));
                }
                Answer::Halve { code, message, .. } if range.len() == 1 => {
                    refused.push(events.refused(range.start, &code, &message));
                }
                Answer::Halve { is_size, .. } => {
                    if is_size {
                        self.body_bytes_max = body_bytes / 2;
                    }
                    left.extend(halves(range));
                }
                // What fails because the bus is away is made whole again soon: each half that is taken is followed by a larger one.
                Answer::TooLong => left.extend(halves(range)),
                Answer::Later { why, .. } | Answer::Never(why) => return Err(anyhow!(why)),
            }
        }
        Ok(refused)
    }

    /// Sends a request until it is answered for good.
    async fn insist(&mut self, packed: &Bytes, events: usize, progress: &Progress) -> anyhow::Result<Answer> {
        let (mut failures, mut too_long_failures) = (0, 0);
        loop {
            self.requests += 1;
            let (why, wait) = match self.send(packed, events).await {
                Answer::Later { why, wait, too_long } => {
                    too_long_failures += u32::from(too_long);
                    (why, wait)
                }
                answer @ (Answer::Done(_) | Answer::Halve { .. } | Answer::TooLong | Answer::Never(_)) => {
                    self.failing = None;
                    progress.goes_on();
                    return Ok(answer);
                }
            };
            self.repeated += 1;
            failures += 1;
            let since = self.failing.get_or_insert_with(Instant::now).elapsed();
            if let Some(limit) = self.give_up_after.filter(|limit| since >= *limit) {
                let waited = limit.as_secs();
                return Err(anyhow!(
                    "given up after {waited} s without an answer that takes anything: {why}. The same command goes on where this one ended"
                ));
            }
            let mut wait = wait.unwrap_or_else(|| wait_after(failures));
            if let Some(limit) = self.give_up_after {
                wait = wait.min(limit.saturating_sub(since));
            }
            progress.waits(&why, wait);
            tokio::time::sleep(wait).await;
            if events > 1 && too_long_failures >= TRIES_WHOLE {
                return Ok(Answer::TooLong);
            }
        }
    }

    async fn send(&self, packed: &Bytes, events: usize) -> Answer {
        let request = self
            .http
            .post(&self.url)
            .bearer_auth(&self.key)
            .header("content-type", "application/x-ndjson")
            .header("content-encoding", "gzip")
            .header(PRIORITY_HEADER, BACKGROUND)
            .body(packed.clone());
        let later = |error: reqwest::Error| {
            // Without its own words, which may hold the address twice.
            let why = if error.is_connect() { "cannot be reached" } else { "does not answer" };
            Answer::Later { why: format!("ingest {why}"), wait: None, too_long: error.is_timeout() }
        };
        match request.send().await {
            Ok(answer) => {
                let status = answer.status().as_u16();
                let retry_after = answer.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
                let retry_after = retry_after.map(str::to_owned);
                match answer.bytes().await {
                    Ok(body) => judge(status, retry_after.as_deref(), &body, events),
                    Err(error) => later(error),
                }
            }
            Err(error) if error.is_builder() => {
                Answer::Never("--url is no address like http://127.0.0.1:8080".to_owned())
            }
            Err(error) => later(error),
        }
    }
}

/// The two halves, the one that comes first last: it is taken from the end.
fn halves(range: Range<usize>) -> [Range<usize>; 2] {
    let middle = range.start + range.len() / 2;
    [middle..range.end, range.start..middle]
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::ops::ControlFlow;
    use std::sync::{Arc, Mutex};

    use axum::Router;
    use axum::http::StatusCode;
    use axum::routing::post;
    use flate2::read::GzDecoder;
    use tokio::net::TcpListener;

    use super::*;
    use crate::commands::import::batches::{Limits, Shape, read};
    use crate::commands::import::text::Text;

    #[track_caller]
    fn check(status: u16, body: &str, expected: &str) {
        let answer = match judge(status, Some("7"), body.as_bytes(), 2) {
            Answer::Done(refused) => format!("done {refused:?}"),
            Answer::Halve { code, .. } => format!("halve {code}"),
            Answer::Later { why, wait, too_long } => {
                format!("later {why} {wait:?}{}", if too_long { ", too long" } else { "" })
            }
            Answer::TooLong => "too long".to_owned(),
            Answer::Never(why) => format!("never {why}"),
        };
        assert!(answer.starts_with(expected), "{status} {body}: {answer}");
    }

    #[test]
    fn answers_are_read_for_what_to_do_next() {
        let one = r#"{"index":1,"code":"bad_id","message":"m"}"#;
        check(200, r#"{"accepted":2}"#, "done []");
        check(207, &format!(r#"{{"accepted":1,"rejected":[{one}]}}"#), r#"done [(1, "bad_id", "m")]"#);
        let error = |code: &str| format!(r#"{{"error":{{"code":"{code}","message":"m"}}}}"#);
        let all = format!(r#"{{"error":{{"code":"bad_id"}},"rejected":[{one},{one}]}}"#);
        check(422, &all, r#"done [(1, "bad_id", "m"), (1, "bad_id", "m")]"#);
        check(409, &error("id_conflict"), "halve id_conflict");
        check(403, &error("connection_forbidden"), "halve connection_forbidden");
        check(413, "<html>", "halve event_too_large");
        check(429, &error("rate_limited"), "later ingest answers 429 rate_limited: m Some(7s)");
        check(503, "", "later ingest answers 503 :  Some(7s)");
        check(503, &error("storage_unavailable"), "later ingest answers 503 storage_unavailable: m Some(7s), too long");
        check(504, "<html>", "later ingest answers 504 :  Some(7s), too long");
        check(401, &error("auth_invalid"), "never ingest answers 401 auth_invalid: m. Give a key");
        check(403, "<html>", "never ingest answers 403");
        check(404, &error("not_found"), "never");
        check(307, "", "never ingest answers 307, and no redirect");
        check(200, "<html>", "never what answers 200");
        check(200, r#"{"success":true}"#, "never what answers 200");
        check(200, r#"{"accepted":1}"#, "never what answers 200");
    }

    /// Events of one digit each.
    fn events(text: &str) -> Events {
        let (mut found, limits) = (None, Limits { events: 100, bytes: 1000 });
        let read = read(&mut Text::new(text.as_bytes()), &Shape::Events, limits, |batch| {
            found = Some(batch.events);
            ControlFlow::Continue(())
        });
        read.unwrap();
        found.unwrap()
    }

    /// Serves requests of up to three events; larger ones cannot be stored in time, ever.
    async fn small_ingest(listener: TcpListener, taken: Arc<Mutex<String>>) {
        let serve = |packed: Bytes, taken: Arc<Mutex<String>>| async move {
            let mut body = String::new();
            GzDecoder::new(&packed[..]).read_to_string(&mut body).unwrap();
            let (status, answer) = match body.lines().count() {
                count @ ..=3 => {
                    taken.lock().unwrap().push_str(&body);
                    (StatusCode::OK, format!(r#"{{"accepted":{count}}}"#))
                }
                _ => {
                    let answer = r#"{"error":{"code":"storage_unavailable","message":"m"}}"#;
                    (StatusCode::SERVICE_UNAVAILABLE, answer.to_owned())
                }
            };
            (status, [(RETRY_AFTER, "0")], answer)
        };
        let serve = move |packed: Bytes| serve(packed, Arc::clone(&taken));
        axum::serve(listener, Router::new().route("/v1/events", post(serve))).await.unwrap();
    }

    #[tokio::test]
    async fn what_takes_too_long_as_a_whole_is_taken_in_parts() {
        // Another test may have done it.
        rustls::crypto::ring::default_provider().install_default().ok();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let taken = Arc::new(Mutex::new(String::new()));
        let text = "1\n2\n3\n4\n5\n6\n7\n8\n9\n";
        let (events, progress) = (events(text), Progress::new(None, 0));
        let packed = gzip(events.body(0..events.len()));
        let mut sender = Sender::new(&url, "key", Some(Duration::from_secs(60))).unwrap();
        let outcome = tokio::select! {
            outcome = sender.deliver(&events, &packed, &progress) => outcome.unwrap(),
            () = small_ingest(listener, Arc::clone(&taken)) => unreachable!(),
        };
        assert_eq!((outcome, taken.lock().unwrap().as_str()), (Vec::new(), text), "all, and in order");
        // 9 events are tried four times, then the last 5 of them, then in 2 and 3; the first 4 in 2 and 2 likewise.
        assert_eq!((sender.requests, sender.repeated), (16, 12));
    }

    #[test]
    fn waits_grow_to_a_bound() {
        let waits: Vec<u128> = (1..=4).map(|failures| wait_after(failures).as_millis()).collect();
        assert_eq!(waits, [250, 500, 1000, 2000]);
        assert_eq!(wait_after(u32::MAX), WAIT_MAX);
        assert_eq!(
            (seconds("12"), seconds("99999"), seconds("soon")),
            (Some(Duration::from_secs(12)), Some(RETRY_AFTER_MAX), None)
        );
    }

    #[test]
    fn halves_are_taken_in_order() {
        let (mut left, mut seen) = (Vec::from(halves(0..5)), Vec::new());
        while let Some(range) = left.pop() {
            if range.len() > 1 { left.extend(halves(range)) } else { seen.push(range.start) }
        }
        assert_eq!(seen, [0, 1, 2, 3, 4]);
    }
}
