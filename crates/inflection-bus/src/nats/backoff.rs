//! Waiting before the next try, longer each time.

use std::time::Duration;

/// Doubles from the shortest wait to the longest.
#[derive(Debug)]
pub(super) struct Backoff {
    shortest: Duration,
    longest: Duration,
    next: Duration,
}

impl Backoff {
    pub(super) fn new(shortest: Duration, longest: Duration) -> Self {
        Self { shortest, longest, next: shortest }
    }

    /// How long [`pause`](Self::pause) will wait.
    pub(super) fn next(&self) -> Duration {
        self.next
    }

    pub(super) async fn pause(&mut self) {
        tokio::time::sleep(self.next).await;
        self.take();
    }

    /// How long to wait, for who waits elsewhere.
    pub(super) fn take(&mut self) -> Duration {
        let longer = (self.next * 2).min(self.longest);
        std::mem::replace(&mut self.next, longer)
    }

    /// All is well again.
    pub(super) fn reset(&mut self) {
        self.next = self.shortest;
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Self::new(Duration::from_millis(100), Duration::from_secs(2))
    }
}
