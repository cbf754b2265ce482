//! Events of a partition that are not decided yet, counted where they lie, each message once.

use std::collections::VecDeque;
use std::time::Duration;

use inflection_bus::{Bus, Log, Sequence};
use inflection_wire::{DecisionBatch, EventBatch};

/// Bytes read of a log at once.
const READ_BYTES: usize = 1024 * 1024;
/// How long a message may be waited for that is said to be there: identity may have consumed and deleted it meanwhile.
const PATIENCE: Duration = Duration::from_secs(2);

/// What was counted of one partition's event log: sixteen bytes for each message that identity has not consumed.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    through: Sequence,
    counts: VecDeque<(Sequence, u64)>,
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
                    let events = EventBatch::decode(&message.payload).map_or(1, |batch| batch.events.len() as u64);
                    self.counts.push_back((message.sequence, events));
                }
            }
        }
        let events: u64 = self.counts.iter().map(|(_, events)| events).sum();
        // Of the next message some may be decided already.
        Ok(events.saturating_sub(u64::from(decided.consumed_events)))
    }

    fn consume(&mut self, through: Sequence) {
        while self.counts.pop_front_if(|(sequence, _)| *sequence <= through).is_some() {}
        self.through = self.through.max(through);
    }
}
