//! Sending one batch.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER};
use reqwest::redirect::Policy;

use crate::answer::retry_after;
use crate::{Answer, Endpoint};

/// How long a connection may take to stand.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long one request may take, answer included (Segment's Node client: 10 s, Python: 15 s).
const REQUEST_TIMEOUT: Duration = Duration::from_secs(15);
/// Connections are given up after this, so that a changed address of the host is noticed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// Most bytes of an answer that are read; nothing we use lies beyond.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// Why a client could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The write key has characters that no header may carry.
    #[error("the write key has characters that a header cannot carry")]
    WriteKey,
    /// TLS could not be set up.
    #[error("the HTTP client could not be set up")]
    Setup(#[source] reqwest::Error),
}

/// What came of one attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// HTTP status.
    pub status: u16,
    /// What it means.
    pub answer: Answer,
}

/// No whole answer came: Segment may or may not have taken the batch. The same items must be sent again.
#[derive(Debug, thiserror::Error)]
#[error("segment did not answer")]
pub struct Unanswered(#[source] reqwest::Error);

/// Sends batches of one source: one write key, one address, connections of its own.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    endpoint: Endpoint,
    authorization: HeaderValue,
}

impl Client {
    /// A client for a write key. Redirects are not followed, proxies of the environment are not used.
    ///
    /// # Errors
    /// [`ClientError`] when the key cannot be sent or TLS cannot be set up.
    pub fn new(endpoint: Endpoint, write_key: &str, user_agent: &str) -> Result<Self, ClientError> {
        let basic = format!("Basic {}", STANDARD.encode(format!("{write_key}:")));
        let mut authorization = HeaderValue::try_from(basic).map_err(|_not_a_header| ClientError::WriteKey)?;
        authorization.set_sensitive(true);
        let http = reqwest::Client::builder()
            .user_agent(user_agent)
            .redirect(Policy::none())
            .no_proxy()
            .https_only(endpoint.batch_url().scheme() == "https")
            .http1_only()
            .tcp_nodelay(true)
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(REQUEST_TIMEOUT)
            .pool_idle_timeout(IDLE_TIMEOUT)
            .build()
            .map_err(ClientError::Setup)?;
        Ok(Self { http, endpoint, authorization })
    }

    /// Posts a batch and reads the whole answer.
    ///
    /// # Errors
    /// [`Unanswered`] when no whole answer came.
    ///
    /// # Cancel safety
    /// A dropped call leaves open whether Segment took the batch.
    pub async fn send(&self, body: Vec<u8>, gzip: bool, earlier_attempts: u32) -> Result<Outcome, Unanswered> {
        let mut request = self
            .http
            .post(self.endpoint.batch_url().clone())
            .header(AUTHORIZATION, self.authorization.clone())
            .header(CONTENT_TYPE, "application/json")
            .body(body);
        if gzip {
            request = request.header(CONTENT_ENCODING, "gzip");
        }
        if earlier_attempts > 0 {
            request = request.header("X-Retry-Count", earlier_attempts);
        }
        let mut response = request.send().await.map_err(Unanswered)?;
        let status = response.status().as_u16();
        let wait = wait_of(response.headers());
        // A cut answer is no answer: what was promised in it may not have happened.
        let mut read = 0;
        while let Some(chunk) = response.chunk().await.map_err(Unanswered)? {
            read += chunk.len();
            if read > ANSWER_BYTES_MAX {
                break;
            }
        }
        Ok(Outcome { status, answer: Answer::of(status, wait) })
    }
}

fn wait_of(headers: &HeaderMap) -> Option<Duration> {
    let text = |value: Option<&HeaderValue>| value.and_then(|value| value.to_str().ok()).map(str::to_owned);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    retry_after(
        text(headers.get(RETRY_AFTER)).as_deref(),
        text(headers.get("x-ratelimit-reset")).as_deref(),
        i64::try_from(now).unwrap_or(i64::MAX),
    )
}
