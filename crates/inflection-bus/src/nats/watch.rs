//! Following keyed records: the bucket's stream, read from the last message of every key on.

use async_nats::jetstream::consumer::DeliverPolicy;
use async_nats::jetstream::stream::Stream;

use super::backoff::Backoff;
use super::reader::{self, Open, next_message};
use super::records::OPERATION;
use super::{Client, bucket_name, bucket_stream};
use crate::{ReadError, RecordChange, Sequence};

/// Follows the records under a prefix.
#[derive(Debug)]
pub(crate) struct Watch {
    client: Client,
    prefix: String,
    open: Option<Open>,
    /// Whether what there is was told once.
    begun: bool,
    backoff: Backoff,
}

impl Client {
    pub(crate) fn watch(&self, prefix: &str) -> Watch {
        Watch { client: self.clone(), prefix: prefix.to_owned(), open: None, begun: false, backoff: Backoff::default() }
    }
}

impl Watch {
    pub(crate) async fn next(&mut self) -> Vec<RecordChange> {
        loop {
            match self.look().await {
                Ok(changes) => {
                    self.backoff.reset();
                    if !self.begun || !changes.is_empty() {
                        self.begun = true;
                        return changes;
                    }
                }
                Err(error) => {
                    tracing::debug!(%error, prefix = self.prefix, "a watch starts anew");
                    self.open = None;
                    self.backoff.pause().await;
                }
            }
        }
    }

    /// What there is, from a new consumer; or the next change.
    async fn look(&mut self) -> Result<Vec<RecordChange>, ReadError> {
        let subject = format!("$KV.{}.", bucket_name());
        let Some(open) = &mut self.open else {
            let stream: Stream<()> = self
                .client
                .context
                .get_stream_no_info(bucket_stream())
                .await
                .map_err(|error| ReadError::Unavailable(error.to_string()))?;
            let filter = format!("{subject}{}.>", self.prefix);
            let (mut open, there) =
                self.client.open_at(&stream, filter, DeliverPolicy::LastPerSubject, reader::PREFETCH_MESSAGES).await?;
            let mut changes = Vec::new();
            for _ in 0..there {
                changes.extend(change(next_message(&mut open.messages, &mut open.delivered).await?, &subject));
            }
            self.open = Some(open);
            return Ok(changes);
        };
        tokio::select! {
            biased;
            message = next_message(&mut open.messages, &mut open.delivered) => {
                Ok(change(message?, &subject).into_iter().collect())
            }
            // What was on its way on the old connection may be lost; see `reader`.
            _ = open.connections.changed() => Err(ReadError::Unavailable("reconnected".to_owned())),
        }
    }
}

fn change((revision, message): (Sequence, async_nats::Message), subject: &str) -> Option<RecordChange> {
    let deleted = message.headers.as_ref().is_some_and(|headers| headers.get(OPERATION).is_some());
    let key = message.subject.strip_prefix(subject).filter(|_| !deleted)?.to_owned();
    Some(RecordChange { key, value: message.payload, revision })
}
