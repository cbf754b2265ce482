//! Keyed records: a KV bucket's stream, read and written directly.
//!
//! The client's own KV reads may be answered by a replica that lags behind (ADR-8, ADR-31), so decisions are made on the
//! leader's last message and on the expected sequence of a write.

use async_nats::jetstream::message::PublishMessage;
use bytes::Bytes;

use super::publish::Unpublished;
use super::{Client, bucket_name, bucket_stream};
use crate::log::is_name;
use crate::{Expected, Record, RecordError};

/// Header by which a bucket marks deletions.
pub(super) const OPERATION: &str = "KV-Operation";

/// What lies under a key: a value, or the mark of a deletion.
struct Entry {
    revision: u64,
    value: Option<Bytes>,
}

impl Client {
    fn record_subject(key: &str) -> Result<String, RecordError> {
        if is_name(key) { Ok(format!("$KV.{}.{key}", bucket_name())) } else { Err(RecordError::InvalidKey) }
    }

    async fn entry(&self, key: &str) -> Result<Option<Entry>, RecordError> {
        let last = self.last_message(&bucket_stream(), &Self::record_subject(key)?).await;
        Ok(last.map_err(RecordError::Unavailable)?.map(|message| {
            let deleted = message.headers.get(OPERATION).is_some();
            Entry { revision: message.sequence, value: (!deleted).then_some(message.payload) }
        }))
    }

    pub(crate) async fn get_record(&self, key: &str) -> Result<Option<Record>, RecordError> {
        let entry = self.entry(key).await?;
        Ok(entry.and_then(|entry| Some(Record { value: entry.value?, revision: entry.revision })))
    }

    pub(crate) async fn put_record(&self, key: &str, expected: Expected, value: Bytes) -> Result<u64, RecordError> {
        let write = |last: Option<u64>| self.write_record(key, last, PublishMessage::build().payload(value.clone()));
        match expected {
            Expected::Anything => write(None).await,
            Expected::Revision(revision) => write(Some(revision)).await,
            Expected::Absent => match write(Some(0)).await {
                // A deleted key has a sequence of its own; only the mark tells it from an existing one.
                Err(RecordError::Conflict) => match self.entry(key).await? {
                    Some(Entry { revision, value: None }) => write(Some(revision)).await,
                    _ => Err(RecordError::Conflict),
                },
                outcome => outcome,
            },
        }
    }

    pub(crate) async fn delete_record(&self, key: &str) -> Result<(), RecordError> {
        let mark = PublishMessage::build().header(OPERATION, "DEL");
        self.write_record(key, None, mark).await.map(drop)
    }

    async fn write_record(&self, key: &str, last: Option<u64>, message: PublishMessage) -> Result<u64, RecordError> {
        let message = match last {
            Some(last) => message.expected_last_subject_sequence(last),
            None => message,
        };
        let published = self.publish(&bucket_stream(), &Self::record_subject(key)?, message).await;
        published.map_err(|error| match error {
            Unpublished::Sequence => RecordError::Conflict,
            Unpublished::Full(why) => RecordError::Full(why),
            Unpublished::TooLarge => RecordError::Unavailable("the record is larger than a message may be".to_owned()),
            Unpublished::Unavailable(why) => RecordError::Unavailable(why),
        })
    }
}
