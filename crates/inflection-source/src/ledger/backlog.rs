//! Events of a partition that are not decided yet, counted where they lie, each message once.

use std::collections::VecDeque;
use std::time::Duration;

use inflection_bus::{Bus, Log, Sequence};
use inflection_domain::Timestamp;
use inflection_wire::{DecisionBatch, EventBatch};

/// Bytes read of a log at once.
const READ_BYTES: usize = 1024 * 1024;
/// How long a message may be waited for that is said to be there: identity may have consumed and deleted it meanwhile.
const PATIENCE: Duration = Duration::from_secs(2);

/// What was counted of one partition's event log: twenty-four bytes for each message that identity has not consumed.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    through: Sequence,
    counts: VecDeque<Counted>,
}

/// A message that was counted.
#[derive(Debug)]
struct Counted {
    sequence: Sequence,
    events: u64,
    /// When its events were received; nothing when it cannot be read.
    received_at: Option<Timestamp>,
}

impl Backlog {
    /// Counts the events behind the last decision.
    pub(super) async fn count(&mut self, bus: &Bus, partition: u16, decided: &DecisionBatch) -> anyhow::Result<u64> {
        let log = Log::new(&format!("events.{partition}"))?;
        self.consume(decided.consumed_through);
        if let Some(last) = bus.last(&log).await?.filter(|last| last.sequence > self.through) {
            let mut reader = bus.read(&log, self.through);
            while self.through < last.sequence {
                let Ok(messages) = tokio::time::timeout(PATIENCE, reader.next(READ_BYTES)).await else { break };
                for message in messages? {
                    self.through = message.sequence;
                    let (events, received_at) = EventBatch::decode(&message.payload)
                        .map_or((1, None), |batch| (batch.events.len() as u64, Some(batch.received_at)));
                    self.counts.push_back(Counted { sequence: message.sequence, events, received_at });
                }
            }
        }
        let events: u64 = self.counts.iter().map(|counted| counted.events).sum();
        // Of the next message some may be decided already.
        Ok(events.saturating_sub(u64::from(decided.consumed_events)))
    }

    /// When the oldest of them was received, as of the last count.
    pub(super) fn oldest(&self) -> Option<Timestamp> {
        self.counts.iter().filter(|counted| counted.events > 0).find_map(|counted| counted.received_at)
    }

    fn consume(&mut self, through: Sequence) {
        while self.counts.pop_front_if(|counted| counted.sequence <= through).is_some() {}
        self.through = self.through.max(through);
    }
}

#[cfg(test)]
mod tests {
    use inflection_bus::EmbeddedConfig;
    use inflection_wire::event_batch;

    use super::*;
    use crate::explain::tests::{chunk, fact};

    /// What is decided of a partition: whole messages, and events of the one after them.
    fn decided(consumed_through: Sequence, consumed_events: u32) -> DecisionBatch {
        DecisionBatch { consumed_through, consumed_events, ..DecisionBatch::default() }
    }

    #[tokio::test]
    async fn what_is_not_decided_is_counted_where_it_lies() {
        let folder = tempfile::tempdir().unwrap();
        let bus = Bus::open_embedded(EmbeddedConfig::new(folder.path().to_owned())).await.unwrap();
        let log = Log::new("events.3").unwrap();
        let mut backlog = Backlog::default();
        assert_eq!(backlog.count(&bus, 3, &decided(0, 0)).await.unwrap(), 0);
        assert_eq!(backlog.oldest(), None);
        for events in [2, 3, 4] {
            let facts: Vec<_> = (0..events).map(|number| fact(&format!("e-{events}-{number}"), "p-1")).collect();
            bus.append(&log, None, event_batch(Timestamp::from_ms(events), &[chunk(&facts)])).await.unwrap();
        }
        bus.append(&log, None, "no events".into()).await.unwrap();
        assert_eq!(backlog.count(&bus, 3, &decided(0, 0)).await.unwrap(), 2 + 3 + 4 + 1);
        assert_eq!(backlog.count(&bus, 3, &decided(1, 2)).await.unwrap(), 1 + 4 + 1, "two of the second are decided");
        assert_eq!(backlog.oldest(), Some(Timestamp::from_ms(3)));
        // Counted once, they are not read again: they need not even be there any more.
        bus.purge(&log, 3).await.unwrap();
        assert_eq!(backlog.count(&bus, 3, &decided(2, 0)).await.unwrap(), 4 + 1);
        bus.append(&log, None, event_batch(Timestamp::from_ms(1), &[chunk(&[fact("e-new", "p-1")])])).await.unwrap();
        assert_eq!(backlog.count(&bus, 3, &decided(4, 0)).await.unwrap(), 1);
        assert_eq!(backlog.oldest(), Some(Timestamp::from_ms(1)));
        assert_eq!(backlog.count(&bus, 3, &decided(5, 0)).await.unwrap(), 0);
        bus.close().await;
    }
}
