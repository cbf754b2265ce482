//! What follows from the end of a call, and what is made known of a connection.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Duration;

use inflection_wire::{DeadLetterEntry, DeadLetterOutcome};

use super::status::{self, ConnectionState};
use super::{Done, Sender};
use crate::dead_letters::{message_id, now};
use crate::dispatcher::{Fate, Finished, Item, Response, Ticket, Trouble};
use crate::journal::Attempt;
use crate::trace::End;

impl From<Fate> for End {
    fn from(fate: Fate) -> Self {
        match fate {
            Fate::Accepted => Self::Accepted,
            Fate::Dead => Self::Refused,
            Fate::Suppressed => Self::Suppressed,
        }
    }
}

impl Sender {
    /// Tells the partitions which calls have ended.
    pub(super) fn finish(&mut self, finished: Vec<Finished>) {
        // In their order: which call of a message has ended how is known by its place.
        let mut ends: Vec<(Ticket, Fate)> = Vec::new();
        let (mut accepted, mut suppressed, mut oldest, at) = (0, 0, i64::MAX, now());
        for Finished { item, fate, orphan } in finished {
            if fate == Fate::Accepted {
                accepted += 1;
                oldest = oldest.min(item.received_at.as_ms());
            }
            suppressed += usize::from(fate == Fate::Suppressed);
            // The span of a call that was given away ended when it was parked.
            if let Some(trace) = item.trace.as_ref().filter(|_| !orphan) {
                trace.end(&self.shared.metrics.tracer, &self.key, message_id(&item), fate.into());
            }
            match item.ticket {
                Ticket::Decision { partition, .. } | Ticket::Parked { partition, .. } if orphan => {
                    if let Some(lane) = self.lanes.get_mut(&partition) {
                        lane.park.orphan_ended(fate);
                    }
                }
                Ticket::DeadLetter if fate == Fate::Accepted => self.note_replayed(&item),
                // It stays where it lies.
                Ticket::DeadLetter => {}
                ticket @ (Ticket::Decision { .. } | Ticket::Parked { .. }) => ends.push((ticket, fate)),
            }
        }
        if accepted > 0 {
            let labels = [("workspace", self.key.0.as_str()), ("connection", self.key.1.as_str())];
            self.shared.metrics.accepted.with(&labels).add(accepted);
            let waited = u64::try_from(at.as_ms() - oldest).unwrap_or(0);
            self.shared.metrics.fact_to_segment_seconds.observe(Duration::from_millis(waited));
        }
        self.count_suppressed(suppressed);
        for equal in ends.chunk_by(PartialEq::eq) {
            let &[(ticket, fate), ..] = equal else { continue };
            let count = equal.len();
            if fate == Fate::Dead {
                self.count_dead("refused", count);
            }
            match ticket {
                Ticket::Decision { partition, sequence } => {
                    if let Some(tracked) = self.shared.tracked.get(usize::from(partition)) {
                        tracked.update(|books| books.end(&self.key, sequence, fate.into(), count));
                    }
                }
                Ticket::Parked { partition, sequence } => self.end_release(partition, sequence, fate, count),
                Ticket::DeadLetter => {}
            }
        }
    }

    pub(super) fn count_dead(&self, reason: &'static str, count: usize) {
        let labels = [("workspace", self.key.0.as_str()), ("connection", self.key.1.as_str()), ("reason", reason)];
        if count > 0 {
            self.shared.metrics.dead.with(&labels).add(count as u64);
        }
    }

    pub(super) fn count_suppressed(&self, count: usize) {
        let labels = [("workspace", self.key.0.as_str()), ("connection", self.key.1.as_str())];
        if count > 0 {
            self.shared.metrics.suppressed.with(&labels).add(count as u64);
        }
    }

    pub(super) fn note_replayed(&mut self, item: &Item) {
        let outcome = DeadLetterOutcome::Replayed(message_id(item).to_owned());
        let entry = DeadLetterEntry { at: now(), outcome }.encode();
        let (bus, dead) = (self.shared.bus.clone(), self.dead.clone());
        self.work.spawn(async move {
            if let Err(error) = bus.append(&dead, None, entry).await {
                tracing::warn!(%error, "a replayed dead letter is still listed; replaying it again does no harm");
            }
            Done::Noted
        });
    }

    pub(super) fn note(&self, response: Response, took: Duration, wait: Duration, calls: Box<[u64]>) {
        let outcome = response.outcome();
        let labels = [("workspace", self.key.0.as_str()), ("connection", self.key.1.as_str()), ("outcome", outcome)];
        self.shared.metrics.requests.with(&labels).add(1);
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let attempt = Attempt { at: now(), status: response.status(), outcome, took_ms: ms(took), wait_ms: ms(wait) };
        self.shared.journal.lock().unwrap_or_else(PoisonError::into_inner).note(attempt, calls);
        self.status.lock().unwrap_or_else(PoisonError::into_inner).last_status = Some(response.status());
    }

    /// Makes the connection's state known, and says so when it has changed.
    pub(super) fn publish(&self) {
        let trouble = self.dispatcher.trouble();
        let (state, why) = status::of(self.dispatcher.is_paused(), trouble);
        self.flags.trouble.store(state != ConnectionState::Active, Ordering::Relaxed);
        let pending = self.dispatcher.pending();
        let labels = [("workspace", self.key.0.as_str()), ("connection", self.key.1.as_str())];
        self.shared.metrics.pending.with(&labels).set(i64::try_from(pending).unwrap_or(i64::MAX));
        let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        if status.state != state {
            let (workspace, connection, state) = (self.key.0.as_str(), self.key.1.as_str(), state.name());
            match (&why, trouble) {
                (None, _) => tracing::info!(workspace, connection, state, "the connection sends again"),
                (Some(why), Some(Trouble::Unavailable(_)) | None) => {
                    tracing::warn!(workspace, connection, state, why, "the connection sends nothing");
                }
                (Some(why), Some(_)) => {
                    tracing::error!(workspace, connection, state, why, "the connection sends nothing");
                }
            }
        }
        let closed_until = self.dispatcher.closed_until().saturating_sub(self.now());
        (status.state, status.why, status.pending, status.closed_for) = (state, why, pending, closed_until);
    }
}
