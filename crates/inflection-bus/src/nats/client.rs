//! The connection, appends, last messages and purges.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_nats::connection::State;
use async_nats::jetstream::context::PublishErrorKind;
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::stream::{LastRawMessageErrorKind, Stream};
use async_nats::jetstream::{self, Context};
use bytes::Bytes;
use tokio::sync::watch;
use tokio::time::Instant;

use super::backoff::Backoff;
use super::{NatsConfig, PREFIX, Reader, SERVER_FLOOR, stream_name};
use crate::error::{AppendError, OpenError, ReadError};
use crate::{Log, Message, Sequence};

/// How long one request waits for the server.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an append is repeated through elections and reconnects before it is given up as unavailable.
const APPEND_DEADLINE: Duration = Duration::from_secs(12);
/// Shortest and longest wait between two tries.
const RETRY_WAIT: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));
/// Room for headers in a message, taken from the server's payload limit.
const HEADER_BYTES: usize = 1024;
/// A half-open connection is noticed after two of these.
const PING_INTERVAL: Duration = Duration::from_secs(10);

/// A connection to NATS.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    pub(super) context: Context,
    pub(super) client: async_nats::Client,
    pub(super) config: Arc<NatsConfig>,
    /// Counts connections made: what was on its way to a reader when the last one broke may be lost.
    pub(super) connections: watch::Receiver<u64>,
    ids: Arc<MessageIds>,
}

/// Ids for the server's own removal of repeats: random for the process, counted for the message.
#[derive(Debug)]
struct MessageIds {
    process: u64,
    next: AtomicU64,
}

impl MessageIds {
    fn next(&self) -> String {
        format!("{:x}-{:x}", self.process, self.next.fetch_add(1, Ordering::Relaxed))
    }
}

impl Client {
    pub(crate) async fn connect(config: NatsConfig) -> Result<Self, OpenError> {
        let urls = config.urls.join(", ");
        let connect =
            |source: Box<dyn std::error::Error + Send + Sync>| OpenError::Connect { urls: safe(&urls), source };
        let connected = watch::Sender::new(0);
        let connections = connected.subscribe();
        let mut options = async_nats::ConnectOptions::new()
            .name(&config.name)
            .ping_interval(PING_INTERVAL)
            .request_timeout(Some(REQUEST_TIMEOUT))
            .custom_inbox_prefix(format!("_INBOX_{}", config.name.replace(['.', ' ', '*', '>'], "_")))
            .event_callback(move |event| {
                if matches!(event, async_nats::Event::Connected) {
                    connected.send_modify(|count| *count += 1);
                }
                async move { report(&event) }
            });
        if let Some(path) = &config.creds_file {
            options = options.credentials_file(path).await.map_err(|error| connect(error.into()))?;
        }
        if let Some(path) = &config.ca_file {
            options = options.add_root_certificates(path.clone());
        }
        let client = options.connect(&config.urls).await.map_err(|error| connect(error.into()))?;
        let found = client.server_info().version;
        if version(&found) < version(SERVER_FLOOR) {
            return Err(OpenError::ServerTooOld { found, floor: SERVER_FLOOR });
        }
        let context = jetstream::context::ContextBuilder::new().timeout(REQUEST_TIMEOUT).build(client.clone());
        let ids = MessageIds { process: RandomState::new().hash_one(std::process::id()), next: AtomicU64::new(0) };
        Ok(Self { context, client, config: Arc::new(config), connections, ids: Arc::new(ids) })
    }

    pub(super) fn subject(log: &Log) -> String {
        format!("{PREFIX}.{log}")
    }

    pub(super) async fn stream(&self, log: &Log) -> Result<Stream<()>, ReadError> {
        let name = stream_name(log.stream());
        self.context.get_stream_no_info(name).await.map_err(|error| ReadError::Unavailable(error.to_string()))
    }

    pub(crate) fn payload_bytes_max(&self) -> usize {
        self.client.server_info().max_payload.saturating_sub(HEADER_BYTES)
    }

    pub(crate) fn health(&self) -> Result<(), String> {
        match self.client.connection_state() {
            State::Connected => Ok(()),
            State::Pending | State::Disconnected => Err("not connected to NATS".into()),
        }
    }

    pub(crate) async fn close(&self) {
        if let Err(error) = self.client.drain().await {
            tracing::debug!(%error, "the connection to NATS was already closed");
        }
    }

    pub(crate) async fn append(
        &self,
        log: &Log,
        fence: Option<Sequence>,
        payload: Bytes,
    ) -> Result<Sequence, AppendError> {
        let max = self.payload_bytes_max();
        if payload.len() > max {
            return Err(AppendError::TooLarge { bytes: payload.len(), max });
        }
        let (subject, id) = (Self::subject(log), self.ids.next());
        let (deadline, mut backoff) = (Instant::now() + APPEND_DEADLINE, Backoff::new(RETRY_WAIT.0, RETRY_WAIT.1));
        loop {
            let message = PublishMessage::build()
                .payload(payload.clone())
                .message_id(&id)
                .expected_stream(stream_name(log.stream()));
            let message = match fence {
                Some(last) => message.expected_last_subject_sequence(last),
                None => message,
            };
            let outcome = match self.context.send_publish(subject.clone(), message).await {
                Ok(ack) => ack.await,
                Err(error) => Err(error),
            };
            let error = match outcome {
                Ok(ack) => return Ok(ack.sequence),
                Err(error) => error,
            };
            match (error.kind(), fence) {
                // A fence fails for two reasons: somebody else wrote, or we did and the answer was lost.
                (PublishErrorKind::WrongLastSequence, Some(expected)) => {
                    return match self.settle(log, expected, &payload).await {
                        Ok(Some(sequence)) => Ok(sequence),
                        Ok(None) => Err(AppendError::Fenced { expected }),
                        Err(error) => Err(AppendError::Unavailable(error.to_string())),
                    };
                }
                (PublishErrorKind::MaxPayloadExceeded, _) => {
                    return Err(AppendError::TooLarge { bytes: payload.len(), max });
                }
                (PublishErrorKind::Other, _) => return Err(refusal(&error)),
                // No leader, no connection, no answer: the same message again, under the same id.
                _ if Instant::now() + backoff.next() < deadline => {
                    tracing::debug!(%error, log = %log, "repeating an append");
                    backoff.pause().await;
                }
                _ => return Err(AppendError::Unavailable(error.to_string())),
            }
        }
    }

    /// Whether the last message after `fence` is the one we tried to write.
    async fn settle(&self, log: &Log, fence: Sequence, payload: &Bytes) -> Result<Option<Sequence>, ReadError> {
        let last = self.last(log).await?;
        Ok(last.filter(|last| last.sequence > fence && last.payload == payload).map(|last| last.sequence))
    }

    pub(crate) async fn last(&self, log: &Log) -> Result<Option<Message>, ReadError> {
        let stream = self.stream(log).await?;
        match stream.get_last_raw_message_by_subject(&Self::subject(log)).await {
            Ok(message) => Ok(Some(Message { sequence: message.sequence, payload: message.payload })),
            Err(error) if matches!(error.kind(), LastRawMessageErrorKind::NoMessageFound) => Ok(None),
            Err(error) => Err(ReadError::Unavailable(error.to_string())),
        }
    }

    pub(crate) fn read(&self, log: &Log, after: Sequence, prefetch_messages: usize) -> Reader {
        Reader::new(self.clone(), log.clone(), after, prefetch_messages)
    }

    pub(crate) async fn purge(&self, log: &Log, through: Sequence) -> Result<(), AppendError> {
        let unavailable = |error: String| AppendError::Unavailable(error);
        let stream = self.stream(log).await.map_err(|error| unavailable(error.to_string()))?;
        let purge = stream.purge().filter(Self::subject(log)).sequence(through + 1);
        purge.await.map(drop).map_err(|error| unavailable(error.to_string()))
    }
}

/// A server's version as numbers; what cannot be read counts as oldest.
fn version(text: &str) -> (u32, u32, u32) {
    let mut numbers = text.split(['.', '-']).map(|part| part.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// Addresses without user and password.
fn safe(urls: &str) -> String {
    let host = |url: &str| url.rsplit_once('@').map_or(url, |(_, host)| host).trim().to_owned();
    urls.split(',').map(host).collect::<Vec<_>>().join(", ")
}

/// JetStream's answer when it will not store: "full" has codes of its own (10047, 10077 and relatives, all HTTP-like 503).
fn refusal(error: &jetstream::context::PublishError) -> AppendError {
    use std::error::Error as _;
    let server = error.source().and_then(|source| source.downcast_ref::<jetstream::Error>());
    match server {
        Some(refused) if FULL_CODES.contains(&refused.error_code().0) => AppendError::Full(refused.to_string()),
        Some(refused) => AppendError::Unavailable(refused.to_string()),
        None => AppendError::Unavailable(error.to_string()),
    }
}

/// Account resources, insufficient storage, stream store failed (maximum messages or bytes exceeded).
const FULL_CODES: [u64; 4] = [10002, 10023, 10047, 10077];

fn report(event: &async_nats::Event) {
    use async_nats::Event;
    match event {
        Event::Connected => tracing::info!("connected to NATS"),
        Event::Disconnected | Event::Closed => tracing::warn!(%event, "NATS connection"),
        Event::LameDuckMode | Event::Draining => tracing::info!(%event, "NATS connection"),
        Event::SlowConsumer(_) | Event::ServerError(_) | Event::ClientError(_) => {
            tracing::warn!(%event, "NATS connection");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_by_number() {
        assert!(version("2.9.10") < version(SERVER_FLOOR));
        assert!(version("2.14.0-RC.1") >= version("2.14.0"));
        assert!(version("2.15.1") > version("2.15.0"));
        assert_eq!(version("weird"), (0, 0, 0));
    }

    #[test]
    fn passwords_stay_out_of_errors() {
        assert_eq!(safe("nats://u:secret@a:4222, b:4222"), "a:4222, b:4222");
    }
}
