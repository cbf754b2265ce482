//! Sending one batch.

use std::error::Error as _;
use std::iter::successors;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::RequestBuilder;
use reqwest::header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER};
use reqwest::redirect::Policy;

use crate::answer::retry_after;
use crate::resolve::Resolver;
use crate::{Answer, Endpoint, ForbiddenAddress};

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

/// Why there is no outcome. It never holds the URL, and so can be shown to anyone who may see the host.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// No whole answer came: Segment may or may not have taken the batch. The same items must be sent again.
    #[error("segment did not answer")]
    Unanswered(#[source] reqwest::Error),
    /// Nothing was sent: the host leads where nothing may be sent to. It may lead elsewhere later.
    #[error(transparent)]
    Forbidden(ForbiddenAddress),
}

impl SendError {
    fn of(error: reqwest::Error) -> Self {
        // Our resolver's own error comes back wrapped by every layer of the HTTP client.
        let forbidden = successors(error.source(), |&cause| cause.source())
            .find_map(|cause| cause.downcast_ref::<ForbiddenAddress>())
            .cloned();
        forbidden.map_or_else(|| Self::Unanswered(error.without_url()), Self::Forbidden)
    }
}

/// Sends batches of one source: one write key, one address, connections of its own.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    endpoint: Endpoint,
    authorization: HeaderValue,
}

impl Client {
    /// A client for a write key. Redirects are not followed, proxies of the environment are not used.
    /// The host is resolved at each new connection, and connected to only if all its addresses may be sent to.
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
            .dns_resolver(Resolver::new(endpoint.reach()))
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
    /// [`SendError::Unanswered`] when no whole answer came, [`SendError::Forbidden`] when nothing may be sent there.
    ///
    /// # Cancel safety
    /// A dropped call leaves open whether Segment took the batch.
    pub async fn send(&self, body: Vec<u8>, gzip: bool, earlier_attempts: u32) -> Result<Outcome, SendError> {
        let mut request = self.request(body);
        if gzip {
            request = request.header(CONTENT_ENCODING, "gzip");
        }
        if earlier_attempts > 0 {
            request = request.header("X-Retry-Count", earlier_attempts);
        }
        exchange(request).await
    }

    /// Posts what is not JSON, and gives the status. Segment answers 400 to it: that proves host, path, TLS and the way
    /// out of our own network, and changes nothing.
    ///
    /// # Errors
    /// As [`Self::send`].
    ///
    /// # Cancel safety
    /// A dropped call has changed nothing.
    pub async fn probe(&self) -> Result<u16, SendError> {
        exchange(self.request(b"{".to_vec())).await.map(|outcome| outcome.status)
    }

    fn request(&self, body: Vec<u8>) -> RequestBuilder {
        self.http
            .post(self.endpoint.batch_url().clone())
            .header(AUTHORIZATION, self.authorization.clone())
            .header(CONTENT_TYPE, "application/json")
            .body(body)
    }
}

async fn exchange(request: RequestBuilder) -> Result<Outcome, SendError> {
    let mut response = request.send().await.map_err(SendError::of)?;
    let status = response.status().as_u16();
    let wait = wait_of(response.headers());
    // A cut answer is no answer: what was promised in it may not have happened.
    let mut read = 0;
    while let Some(chunk) = response.chunk().await.map_err(SendError::of)? {
        read += chunk.len();
        if read > ANSWER_BYTES_MAX {
            break;
        }
    }
    Ok(Outcome { status, answer: Answer::of(status, wait) })
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

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;
    use crate::address::Reach;

    const BAD_REQUEST: &str = "HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n";

    fn with_provider() {
        // Only the first test of the process gets to install it; the others find it there.
        drop(rustls::crypto::ring::default_provider().install_default());
    }

    fn client_of(listener: &TcpListener) -> Client {
        with_provider();
        let url = format!("http://{}", listener.local_addr().unwrap());
        Client::new(Endpoint::parse(&url, true).unwrap(), "k", "test").unwrap()
    }

    /// Takes one request whose body is `{`, answers it, and gives it back.
    async fn answer_once(listener: TcpListener, answer: &str) -> String {
        let (mut stream, _peer) = listener.accept().await.unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n{") {
            assert_ne!(stream.read_buf(&mut request).await.unwrap(), 0, "the request was cut");
        }
        stream.write_all(answer.as_bytes()).await.unwrap();
        String::from_utf8(request).unwrap()
    }

    #[tokio::test]
    async fn a_probe_gives_the_status() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = client_of(&listener);
        let (status, request) = tokio::join!(client.probe(), answer_once(listener, BAD_REQUEST));
        assert_eq!(status.unwrap(), 400);
        assert!(request.starts_with("POST /v1/batch HTTP/1.1\r\n"), "{request}");
        assert!(request.contains("authorization: Basic azo=\r\n"), "{request}");
        assert!(request.contains("content-type: application/json\r\n"), "{request}");
    }

    #[tokio::test]
    async fn no_answer_is_an_error_without_the_url() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = client_of(&listener);
        let hang_up = async { drop(listener.accept().await.unwrap()) };
        let (sent, ()) = tokio::join!(client.send(b"{".to_vec(), false, 0), hang_up);
        let error = sent.unwrap_err();
        assert!(matches!(error, SendError::Unanswered(_)), "{error:?}");
        assert!(!format!("{error:?}").contains("/v1/batch"), "{error:?}");
    }

    #[tokio::test]
    async fn the_resolvers_refusal_is_told_from_silence() {
        with_provider();
        let http = reqwest::Client::builder().no_proxy().dns_resolver(Resolver::new(Reach::Public)).build().unwrap();
        let error = SendError::of(http.get("http://localhost:9/path").send().await.unwrap_err());
        assert!(matches!(error, SendError::Forbidden(_)), "{error:?}");
        assert_eq!(error.to_string(), "localhost resolves to an address that may not be sent to");
    }
}
