//! One pass over a log: from a place in it to what is its end now.

use std::time::Duration;

use inflection_bus::{Bus, Log, Message, ReadError, Reader, Sequence};

/// Bytes read at once.
const READ_BYTES: usize = 1024 * 1024;
/// Longest wait for messages. They were there when the pass began: if none come, they have been deleted meanwhile, or the
/// bus is away.
const STALL_MAX: Duration = Duration::from_secs(5);

/// A pass under way.
#[derive(Debug)]
pub(super) struct Pass {
    reader: Reader,
    read: Sequence,
    end: Sequence,
    stalled: bool,
}

impl Pass {
    /// From the message after `after` to `end`.
    pub(super) fn new(bus: &Bus, log: &Log, after: Sequence, end: Sequence) -> Self {
        Self { reader: bus.read(log, after), read: after, end, stalled: false }
    }

    /// From the message after `after` to the last one there is.
    pub(super) async fn to_end(bus: &Bus, log: &Log, after: Sequence) -> Result<Self, ReadError> {
        let end = bus.last(log).await?.map_or(0, |last| last.sequence);
        Ok(Self::new(bus, log, after, end))
    }

    /// The next messages; `None` at the end, and when nothing comes any more.
    pub(super) async fn next(&mut self) -> Result<Option<Vec<Message>>, ReadError> {
        if self.read >= self.end || self.stalled {
            return Ok(None);
        }
        // A log that lies in memory is read without waiting for anything; others need this thread as well.
        tokio::task::yield_now().await;
        let Ok(messages) = tokio::time::timeout(STALL_MAX, self.reader.next(READ_BYTES)).await else {
            self.stalled = true;
            return Ok(None);
        };
        let (mut messages, end) = (messages?, self.end);
        messages.retain(|message| message.sequence <= end);
        self.read = messages.last().map_or(end, |last| last.sequence);
        Ok(Some(messages))
    }

    /// Whether the pass ended before the end of the log.
    pub(super) fn is_stalled(&self) -> bool {
        self.stalled
    }
}
