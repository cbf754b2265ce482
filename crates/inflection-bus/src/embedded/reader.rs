//! Reading a log at one's own pace.

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::watch;

use super::Shared;
use super::frame::{self, Frame, Next};
use super::index::{Place, Source};
use super::segment::Segment;
use crate::{Log, Message, ReadError, Sequence};

/// Reads one log of the embedded store.
#[derive(Debug)]
pub(crate) struct Reader {
    shared: Arc<Shared>,
    log: Log,
    after: Sequence,
    tail: watch::Receiver<Sequence>,
    closed: watch::Receiver<bool>,
}

impl Reader {
    pub(super) fn new(shared: Arc<Shared>, log: Log, after: Sequence, tail: watch::Receiver<Sequence>) -> Self {
        let closed = shared.closed.subscribe();
        Self { shared, log, after, tail, closed }
    }

    pub(crate) async fn next(&mut self, bytes_max: usize) -> Result<Vec<Message>, ReadError> {
        loop {
            // Before looking: what is appended between the look and the wait must wake us.
            self.tail.mark_unchanged();
            let messages = fetch(&self.shared, &self.log, self.after, bytes_max).await?;
            if let Some(last) = messages.last() {
                self.after = last.sequence;
                return Ok(messages);
            }
            tokio::select! {
                _ = self.tail.changed() => {}
                _ = self.closed.wait_for(|closed| *closed) => {
                    return Err(self.shared.ended());
                }
            }
        }
    }
}

/// The messages after `after`, as many as are there within `bytes_max`.
pub(super) async fn fetch(
    shared: &Shared,
    log: &Log,
    after: Sequence,
    bytes_max: usize,
) -> Result<Vec<Message>, ReadError> {
    let found = shared.index().locate(log, after, bytes_max);
    if found.iter().all(|(_, source)| matches!(source, Source::Memory(_))) {
        return found.into_iter().map(|(sequence, source)| load(log, sequence, source)).collect();
    }
    let log = log.clone();
    let load_all = move || found.into_iter().map(|(sequence, source)| load(&log, sequence, source)).collect();
    tokio::task::spawn_blocking(load_all).await.unwrap_or_else(|panic| Err(ReadError::Unavailable(panic.to_string())))
}

fn load(log: &Log, sequence: Sequence, source: Source) -> Result<Message, ReadError> {
    let payload = match source {
        Source::Memory(payload) => payload,
        Source::Disk(segment, place) => read_payload(&segment, log, sequence, place)?,
    };
    Ok(Message { sequence, payload })
}

/// Reads one message back and checks that it is the one that was written.
pub(super) fn read_payload(segment: &Segment, log: &Log, sequence: Sequence, place: Place) -> Result<Bytes, ReadError> {
    let header = frame::payload_offset(log.as_str());
    let start = u64::from(place.offset).saturating_sub(header as u64);
    let bytes = segment
        .read_at(start, header + place.length as usize)
        .map_err(|error| ReadError::Unavailable(error.to_string()))?;
    let Next::Frame(Frame::Append { log: found, sequence: number, .. }, _) = frame::next(&bytes) else {
        return Err(ReadError::Damaged { log: log.to_string(), sequence });
    };
    if found == log.as_str() && number == sequence {
        Ok(Bytes::from(bytes).slice(header..))
    } else {
        Err(ReadError::Damaged { log: log.to_string(), sequence })
    }
}
