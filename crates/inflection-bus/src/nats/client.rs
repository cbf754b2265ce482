//! The connection, appends, last messages and purges.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_nats::jetstream::message::{PublishMessage, StreamMessage};
use async_nats::jetstream::stream::{LastRawMessageErrorKind, Stream};
use async_nats::jetstream::{self, Context};
use bytes::Bytes;
use futures_util::future::join_all;
use tokio::sync::watch;
use tokio::time::timeout;

use super::availability::Availability;
use super::publish::Unpublished;
use super::{NatsConfig, PREFIX, Reader, SERVER_FLOOR, stream_name};
use crate::error::{AppendError, OpenError, ReadError};
use crate::{Log, Message, Sequence, Usage};

/// How long one request waits for the server: enough to place a stream.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a small question to a stream's leader waits. In an election nobody answers, and the sooner the next try, the
/// sooner it goes on.
pub(super) const ANSWER_WAIT: Duration = Duration::from_secs(2);
/// Room for headers in a message, taken from the server's payload limit.
const HEADER_BYTES: usize = 1024;
/// A connection to a server that hangs, or to nobody any more, is left when two of these have no answer.
const PING_INTERVAL: Duration = Duration::from_secs(3);

/// A connection to NATS.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    pub(super) context: Context,
    pub(super) client: async_nats::Client,
    pub(super) config: Arc<NatsConfig>,
    /// Counts connections made: what was on its way to a reader when the last one broke may be lost.
    pub(super) connections: watch::Receiver<u64>,
    pub(super) ids: Arc<MessageIds>,
    pub(super) availability: Availability,
}

/// Ids for the server's own removal of repeats: random for the process, counted for the message.
#[derive(Debug)]
pub(super) struct MessageIds {
    process: u64,
    next: AtomicU64,
}

impl MessageIds {
    pub(super) fn next(&self) -> String {
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
        Ok(Self {
            context,
            client,
            config: Arc::new(config),
            connections,
            ids: Arc::new(ids),
            availability: Availability::default(),
        })
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
        let stream = stream_name(log.stream());
        let message = PublishMessage::build().payload(payload.clone()).expected_stream(&stream);
        let message = match fence {
            Some(last) => message.expected_last_subject_sequence(last),
            None => message,
        };
        match (self.publish(&stream, &Self::subject(log), message).await, fence) {
            (Ok(sequence), _) => Ok(sequence),
            // A fence fails for two reasons: somebody else wrote, or we did and the answer was lost.
            (Err(Unpublished::Sequence), Some(expected)) => match self.settle(log, expected, &payload).await {
                Ok(Some(sequence)) => Ok(sequence),
                Ok(None) => Err(AppendError::Fenced { expected }),
                Err(error) => Err(AppendError::Unavailable(error.to_string())),
            },
            (Err(Unpublished::Sequence), None) => {
                Err(AppendError::Unavailable("the server expects a sequence that was not given".to_owned()))
            }
            (Err(Unpublished::TooLarge), _) => Err(AppendError::TooLarge { bytes: payload.len(), max }),
            (Err(Unpublished::Full(why)), _) => Err(AppendError::Full(why)),
            (Err(Unpublished::Unavailable(why)), _) => Err(AppendError::Unavailable(why)),
        }
    }

    /// Whether the last message after `fence` is the one we tried to write.
    async fn settle(&self, log: &Log, fence: Sequence, payload: &Bytes) -> Result<Option<Sequence>, ReadError> {
        let last = self.last(log).await?;
        Ok(last.filter(|last| last.sequence > fence && last.payload == payload).map(|last| last.sequence))
    }

    pub(crate) async fn last(&self, log: &Log) -> Result<Option<Message>, ReadError> {
        let last = self.last_message(&stream_name(log.stream()), &Self::subject(log)).await;
        let last = last.map_err(ReadError::Unavailable)?;
        Ok(last.map(|message| Message { sequence: message.sequence, payload: message.payload }))
    }

    pub(crate) async fn first(&self, log: &Log, after: Sequence) -> Result<Option<Message>, ReadError> {
        let stream = self.stream(log).await?;
        match timeout(ANSWER_WAIT, stream.get_first_raw_message_by_subject(Self::subject(log), after + 1)).await {
            Ok(Ok(message)) => Ok(Some(Message { sequence: message.sequence, payload: message.payload })),
            Ok(Err(error)) if matches!(error.kind(), LastRawMessageErrorKind::NoMessageFound) => Ok(None),
            Ok(Err(error)) => Err(ReadError::Unavailable(error.to_string())),
            Err(elapsed) => Err(ReadError::Unavailable(elapsed.to_string())),
        }
    }

    pub(crate) async fn usage(&self, streams: &[&'static str]) -> Result<Vec<Usage>, ReadError> {
        let ask = |store: &'static str| async move {
            let found = timeout(ANSWER_WAIT, self.context.get_stream(stream_name(store))).await;
            let found = found.map_err(|elapsed| ReadError::Unavailable(elapsed.to_string()))?;
            let found = found.map_err(|error| ReadError::Unavailable(error.to_string()))?;
            let info = found.cached_info();
            // Zero or less is no limit.
            let bytes_max = u64::try_from(info.config.max_bytes).ok().filter(|bytes| *bytes > 0);
            Ok(Usage { store, bytes: info.state.bytes, bytes_max })
        };
        join_all(streams.iter().map(|stream| ask(stream))).await.into_iter().collect()
    }

    pub(crate) fn connections(&self) -> u64 {
        *self.connections.borrow()
    }

    /// The last message of a subject, from the stream's leader.
    pub(super) async fn last_message(&self, stream: &str, subject: &str) -> Result<Option<StreamMessage>, String> {
        let stream = self.context.get_stream_no_info(stream).await.map_err(|error| error.to_string())?;
        match timeout(ANSWER_WAIT, stream.get_last_raw_message_by_subject(subject)).await {
            Ok(Ok(message)) => Ok(Some(message)),
            Ok(Err(error)) if matches!(error.kind(), LastRawMessageErrorKind::NoMessageFound) => Ok(None),
            Ok(Err(error)) => Err(error.to_string()),
            Err(elapsed) => Err(elapsed.to_string()),
        }
    }

    pub(crate) fn read(&self, log: &Log, after: Sequence, prefetch_messages: usize) -> Reader {
        Reader::new(self.clone(), log.clone(), after, prefetch_messages)
    }

    pub(crate) async fn purge(&self, log: &Log, through: Sequence) -> Result<(), AppendError> {
        let unavailable = |error: String| AppendError::Unavailable(error);
        let stream = self.stream(log).await.map_err(|error| unavailable(error.to_string()))?;
        let purge = stream.purge().filter(Self::subject(log)).sequence(through + 1);
        let purged = timeout(ANSWER_WAIT, purge).await.map_err(|elapsed| unavailable(elapsed.to_string()))?;
        purged.map(drop).map_err(|error| unavailable(error.to_string()))
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
