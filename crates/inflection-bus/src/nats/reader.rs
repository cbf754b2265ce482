//! Reading a subject in order from one's own position.
//!
//! An ephemeral consumer without acknowledgements delivers from a sequence on; its own counter shows a gap. Whatever goes
//! wrong (reconnect, election, a lost heartbeat, a gap), the consumer is made anew after the last message that was handed
//! out. Durable consumers would redeliver by their own clock, after newer messages: that loses a person's order.

use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, ReplayPolicy, pull};
use async_nats::jetstream::stream::Stream;
use futures_util::{FutureExt as _, StreamExt as _, TryStreamExt as _};

use tokio::sync::watch;
use tokio::time::timeout;

use super::backoff::Backoff;
use super::{Client, PREFIX, stream_name};
use crate::{Log, Message, ReadError, Sequence};

/// Bytes asked for at once: what may lie in memory for one subject before it is handed out. A pull whose next message is
/// larger gets nothing, so this must be more than a message may be.
const PULL_BYTES: usize = 2 * 1024 * 1024;
/// Messages asked for at once, unless said otherwise.
pub(crate) const PREFETCH_MESSAGES: usize = 10_000;
/// The server's sign of life while there is nothing to deliver. A consumer lives on one server of a cluster, and not the one
/// we are connected to: that it has died is seen by two of these missing.
const HEARTBEAT: Duration = Duration::from_secs(2);
/// How long making a consumer may take. One is sometimes given to a server that has just died; the next try goes elsewhere.
const OPEN_WAIT: Duration = Duration::from_secs(2);
/// Life of one pull request.
const EXPIRES: Duration = Duration::from_secs(30);
/// The server forgets a consumer nobody pulls from after this.
const INACTIVE: Duration = Duration::from_secs(60);

/// Reads one log from NATS.
#[derive(Debug)]
pub(crate) struct Reader {
    client: Client,
    log: Log,
    after: Sequence,
    prefetch_messages: usize,
    open: Option<Open>,
    backoff: Backoff,
}

/// A consumer that delivers.
pub(super) struct Open {
    pub(super) messages: pull::Stream,
    /// The consumer's count of deliveries so far: the next message must be the next number.
    pub(super) delivered: u64,
    pub(super) connections: watch::Receiver<u64>,
}

impl std::fmt::Debug for Open {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Open").field("delivered", &self.delivered).finish_non_exhaustive()
    }
}

impl Reader {
    pub(super) fn new(client: Client, log: Log, after: Sequence, prefetch_messages: usize) -> Self {
        Self { client, log, after, prefetch_messages, open: None, backoff: Backoff::default() }
    }

    pub(crate) async fn next(&mut self, bytes_max: usize) -> Result<Vec<Message>, ReadError> {
        loop {
            let open = match &mut self.open {
                Some(open) => open,
                None => match self.client.open(&self.log, self.after, self.prefetch_messages).await {
                    Ok(open) => self.open.insert(open),
                    Err(error) => {
                        tracing::debug!(%error, log = %self.log, "a reader waits for the bus");
                        self.backoff.pause().await;
                        continue;
                    }
                },
            };
            let next = tokio::select! {
                biased;
                next = next_message(&mut open.messages, &mut open.delivered) => next.map(message),
                // The server counts what it has written to a socket as delivered. After a new connection only a new
                // consumer is sure to bring what the old one lost, and not only when something newer shows the gap.
                _ = open.connections.changed() => Err(ReadError::Unavailable("reconnected".to_owned())),
            };
            match next {
                Ok(message) => {
                    self.backoff.reset();
                    return Ok(self.drain(message, bytes_max));
                }
                Err(error) => {
                    tracing::debug!(%error, log = %self.log, "a reader starts anew");
                    self.open = None;
                    self.backoff.pause().await;
                }
            }
        }
    }

    /// Adds to a first message what has arrived already. Does not wait, so nothing is lost when the caller is dropped.
    fn drain(&mut self, first: Message, bytes_max: usize) -> Vec<Message> {
        let mut bytes = first.payload.len();
        self.after = first.sequence;
        let mut messages = vec![first];
        while bytes < bytes_max {
            let Some(open) = &mut self.open else { break };
            match next_message(&mut open.messages, &mut open.delivered).now_or_never() {
                None => break,
                Some(Ok(next)) => {
                    let message = message(next);
                    bytes += message.payload.len();
                    self.after = message.sequence;
                    messages.push(message);
                }
                Some(Err(_)) => self.open = None,
            }
        }
        messages
    }
}

impl Client {
    async fn open(&self, log: &Log, after: Sequence, prefetch_messages: usize) -> Result<Open, ReadError> {
        let stream = self.stream(log).await?;
        let from = DeliverPolicy::ByStartSequence { start_sequence: after + 1 };
        self.open_at(&stream, Self::subject(log), from, prefetch_messages).await.map(|(open, _)| open)
    }

    /// Makes a consumer; also tells how many messages it has to deliver at first.
    pub(super) async fn open_at(
        &self,
        stream: &Stream<()>,
        subject: String,
        deliver_policy: DeliverPolicy,
        prefetch_messages: usize,
    ) -> Result<(Open, u64), ReadError> {
        let unavailable = |error: &dyn std::fmt::Display| ReadError::Unavailable(error.to_string());
        let mut connections = self.connections.clone();
        connections.mark_unchanged();
        let config = pull::Config {
            deliver_policy,
            ack_policy: AckPolicy::None,
            replay_policy: ReplayPolicy::Instant,
            filter_subject: subject,
            inactive_threshold: INACTIVE,
            memory_storage: true,
            num_replicas: 1,
            ..pull::Config::default()
        };
        let consumer = timeout(OPEN_WAIT, stream.create_consumer(config)).await;
        let consumer = consumer.map_err(|elapsed| unavailable(&elapsed))?.map_err(|error| unavailable(&error))?;
        let there = consumer.cached_info().num_pending;
        let messages = consumer
            .stream()
            .max_bytes_per_batch(PULL_BYTES)
            .max_messages_per_batch(prefetch_messages)
            .heartbeat(HEARTBEAT)
            .expires(EXPIRES)
            .messages()
            .await
            .map_err(|error| unavailable(&error))?;
        Ok((Open { messages, delivered: 0, connections }, there))
    }

    /// The logs of a stream that hold messages.
    pub(crate) async fn logs(&self, stream: &str) -> Result<Vec<Log>, ReadError> {
        let unavailable = |error: &dyn std::fmt::Display| ReadError::Unavailable(error.to_string());
        let found = self.context.get_stream_no_info(stream_name(stream)).await.map_err(|error| unavailable(&error))?;
        let mut subjects = found.info_with_subjects(">").await.map_err(|error| unavailable(&error))?;
        let (mut logs, prefix) = (Vec::new(), format!("{PREFIX}."));
        while let Some((subject, count)) = subjects.try_next().await.map_err(|error| unavailable(&error))? {
            let log = subject.strip_prefix(&prefix).and_then(|name| Log::new(name).ok());
            logs.extend(log.filter(|_| count > 0));
        }
        Ok(logs)
    }
}

/// The next message and its sequence in the stream, if it is the one after the last.
pub(super) async fn next_message(
    messages: &mut pull::Stream,
    delivered: &mut u64,
) -> Result<(Sequence, async_nats::Message), ReadError> {
    let lost = |why: &str| ReadError::Unavailable(why.to_owned());
    let message = match messages.next().await {
        Some(Ok(message)) => message,
        Some(Err(error)) => return Err(lost(&error.to_string())),
        None => return Err(lost("the consumer ended")),
    };
    let info = message.info().map_err(|error| lost(&error.to_string()))?;
    let (number, sequence) = (info.consumer_sequence, info.stream_sequence);
    if number != *delivered + 1 {
        return Err(lost("a delivery is missing"));
    }
    *delivered = number;
    Ok((sequence, message.message))
}

fn message((sequence, message): (Sequence, async_nats::Message)) -> Message {
    Message { sequence, payload: message.payload }
}
