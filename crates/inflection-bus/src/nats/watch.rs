//! Following keyed records: the bucket's stream, read from the last message of every key on.
//!
//! A consumer is placed on any replica, also on one that lags behind. So the leader is asked first how far the records have
//! come: what there is is told when the consumer has come as far, and what was told once is never told again.

use std::time::{Duration, Instant};

use async_nats::jetstream::consumer::DeliverPolicy;
use async_nats::jetstream::stream::Stream;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::backoff::Backoff;
use super::reader::{self, Open, next_message};
use super::records::OPERATION;
use super::{Client, bucket_name, bucket_stream};
use crate::{ReadError, RecordChange, Sequence};

/// How long the next of what there is may take to come. A replica that is cut off from its leader never has it; the next try goes
/// elsewhere.
const THERE_WAIT: Duration = Duration::from_secs(10);
/// A leader whose records end before what was told is one that has been replaced and does not know it; that takes 10 s at
/// most. When it lasts for longer, the records were restored or made anew.
const BEHIND_MAX: Duration = Duration::from_secs(30);

/// Follows the records under a prefix.
#[derive(Debug)]
pub(crate) struct Watch {
    client: Client,
    prefix: String,
    open: Option<Open>,
    /// A consumer that is being made, in a task of its own: a caller who looks elsewhere every moment gets one all the same.
    opening: JoinSet<Result<Opened, ReadError>>,
    /// Before the next one is made.
    wait: Duration,
    backoff: Backoff,
    /// Whether what there is was told once.
    begun: bool,
    told: Told,
}

/// A consumer, and what there is.
struct Opened {
    open: Open,
    /// The newest message under the prefix that the leader had.
    leader: Sequence,
    there: Vec<Delivery>,
}

/// A message of the bucket's stream.
type Delivery = (Sequence, async_nats::Message);

/// How far the records were told.
#[derive(Debug, Default)]
struct Told {
    revision: Sequence,
    /// Since when leaders have had less.
    behind: Option<Instant>,
}

impl Client {
    pub(crate) fn watch(&self, prefix: &str) -> Watch {
        Watch {
            client: self.clone(),
            prefix: prefix.to_owned(),
            open: None,
            opening: JoinSet::new(),
            wait: Duration::ZERO,
            backoff: Backoff::default(),
            begun: false,
            told: Told::default(),
        }
    }

    /// Makes a consumer of the records under a prefix after `wait`, and takes what there is.
    async fn open_records(self, prefix: String, wait: Duration) -> Result<Opened, ReadError> {
        let unavailable = |error: String| ReadError::Unavailable(error);
        sleep(wait).await;
        let filter = format!("$KV.{}.{prefix}.>", bucket_name());
        let newest = self.last_message(&bucket_stream(), &filter).await.map_err(unavailable)?;
        let leader = newest.map_or(0, |message| message.sequence);
        let stream = self.context.get_stream_no_info(bucket_stream()).await;
        let stream: Stream<()> = stream.map_err(|error| unavailable(error.to_string()))?;
        let (mut open, count) =
            self.open_at(&stream, filter, DeliverPolicy::LastPerSubject, reader::PREFETCH_MESSAGES).await?;
        let (mut there, mut reached) = (Vec::new(), 0);
        while (there.len() as u64) < count || reached < leader {
            let next = next_message(&mut open.messages, &mut open.delivered);
            let next = timeout(THERE_WAIT, next).await.map_err(|elapsed| unavailable(elapsed.to_string()))??;
            reached = next.0;
            there.push(next);
        }
        Ok(Opened { open, leader, there })
    }
}

impl Watch {
    pub(crate) async fn next(&mut self) -> Vec<RecordChange> {
        loop {
            match self.look().await {
                Ok(messages) => {
                    self.backoff.reset();
                    self.wait = Duration::ZERO;
                    let changes = self.told.tell(messages);
                    if !self.begun || !changes.is_empty() {
                        self.begun = true;
                        return changes;
                    }
                }
                Err(error) => {
                    tracing::debug!(%error, prefix = self.prefix, "a watch starts anew");
                    self.open = None;
                    self.wait = self.backoff.take();
                }
            }
        }
    }

    /// What there is, from a new consumer; or the next change. What it gives is gone from here, so nothing waits after it.
    async fn look(&mut self) -> Result<Vec<Delivery>, ReadError> {
        let Some(open) = &mut self.open else {
            if self.opening.is_empty() {
                self.opening.spawn(self.client.clone().open_records(self.prefix.clone(), self.wait));
            }
            let unavailable = |error: &dyn std::fmt::Display| ReadError::Unavailable(error.to_string());
            let Some(opened) = self.opening.join_next().await else { return Err(unavailable(&"nothing was begun")) };
            let opened = opened.map_err(|panic| unavailable(&panic))?;
            let Opened { open, leader, there } = opened?;
            if !self.told.reaches(leader, Instant::now()) {
                return Err(ReadError::Unavailable("a leader has less than was told before".to_owned()));
            }
            self.open = Some(open);
            return Ok(there);
        };
        tokio::select! {
            biased;
            message = next_message(&mut open.messages, &mut open.delivered) => Ok(vec![message?]),
            // What was on its way on the old connection may be lost; see `reader`.
            _ = open.connections.changed() => Err(ReadError::Unavailable("reconnected".to_owned())),
        }
    }
}

impl Told {
    /// Whether a leader with this newest message can go on where telling ended.
    fn reaches(&mut self, leader: Sequence, now: Instant) -> bool {
        if leader >= self.revision {
            self.behind = None;
            return true;
        }
        let anew = now.duration_since(*self.behind.get_or_insert(now)) > BEHIND_MAX;
        if anew {
            tracing::warn!(leader, told = self.revision, "the records were restored or made anew; they are read again");
            *self = Self::default();
        }
        anew
    }

    /// The changes that are newer than all that was told. The stream is in order: what is older was told, or is superseded
    /// by what was.
    fn tell(&mut self, messages: Vec<Delivery>) -> Vec<RecordChange> {
        let mut changes = Vec::new();
        for (revision, message) in messages {
            if revision > self.revision {
                self.revision = revision;
                changes.extend(change(revision, message));
            }
        }
        changes
    }
}

fn change(revision: Sequence, message: async_nats::Message) -> Option<RecordChange> {
    let deleted = message.headers.as_ref().is_some_and(|headers| headers.get(OPERATION).is_some());
    let (bucket, key) = message.subject.strip_prefix("$KV.")?.split_once('.')?;
    let key = (bucket == bucket_name() && !deleted).then(|| key.to_owned())?;
    Some(RecordChange { key, value: message.payload, revision })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(key: &str, revision: Sequence) -> Delivery {
        let message = async_nats::Message {
            subject: format!("$KV.{}.{key}", bucket_name()).into(),
            reply: None,
            payload: revision.to_string().into(),
            headers: None,
            status: None,
            description: None,
            length: 0,
        };
        (revision, message)
    }

    fn tell(told: &mut Told, messages: &[(&str, Sequence)]) -> Vec<(String, Sequence)> {
        let messages = messages.iter().map(|(key, revision)| message(key, *revision)).collect();
        told.tell(messages).into_iter().map(|change| (change.key, change.revision)).collect()
    }

    #[test]
    fn a_replica_that_lags_behind_tells_nothing_older() {
        let mut told = Told::default();
        assert!(told.reaches(5, Instant::now()));
        assert_eq!(tell(&mut told, &[("a.x", 4), ("a.y", 5)]), [("a.x".to_owned(), 4), ("a.y".to_owned(), 5)]);
        assert_eq!(tell(&mut told, &[("a.x", 7)]), [("a.x".to_owned(), 7)]);
        // A new consumer, on a replica that has not come as far; then it catches up.
        assert!(told.reaches(8, Instant::now()));
        assert_eq!(tell(&mut told, &[("a.x", 4), ("a.y", 5)]), []);
        assert_eq!(tell(&mut told, &[("a.x", 7), ("a.y", 8)]), [("a.y".to_owned(), 8)]);
    }

    #[test]
    fn records_that_were_made_anew_are_told_from_their_beginning_after_a_while() {
        let (mut told, start) = (Told::default(), Instant::now());
        tell(&mut told, &[("a.x", 7)]);
        assert!(!told.reaches(3, start), "perhaps a leader that is none any more");
        assert!(!told.reaches(3, start + BEHIND_MAX));
        assert!(told.reaches(7, start + BEHIND_MAX), "it was");
        assert!(!told.reaches(3, start + BEHIND_MAX), "the time counts anew");
        assert!(told.reaches(3, start + BEHIND_MAX * 3));
        assert_eq!(tell(&mut told, &[("a.x", 3)]), [("a.x".to_owned(), 3)]);
    }
}
