//! How long events took from their sender to Segment.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{History, Outcome};

/// Nanoseconds of a millisecond.
const MS_NS: u64 = 1_000_000;

/// How a fact was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sent {
    /// When its first request began, by the wall clock; `None` if there was none.
    pub began_ms: Option<i64>,
    /// Whether a request with it was answered with 200.
    pub promised: bool,
}

/// Times from the begin of a request to the arrival of its events' raw calls.
#[derive(Debug, Clone)]
pub struct Latencies {
    sorted_ms: Vec<i64>,
}

impl Latencies {
    /// How many there are.
    pub fn count(&self) -> usize {
        self.sorted_ms.len()
    }

    /// What `percent` of them do not exceed, in milliseconds.
    #[track_caller]
    pub fn percentile_ms(&self, percent: usize) -> i64 {
        let rank = (self.sorted_ms.len() * percent).div_ceil(100).max(1);
        *self.sorted_ms.get(rank - 1).expect("at least one event was sent and has arrived")
    }
}

impl History {
    /// The latencies of the events that were first sent in this stretch of the wall clock. An event that has not
    /// arrived is not counted here: it is a loss, and other invariants notice it.
    pub fn latencies(&self, from_ms: i64, to_ms: i64) -> Latencies {
        let mut received: BTreeMap<(&str, i64, &str), i64> = BTreeMap::new();
        for call in &self.arrivals {
            if let (Some(at_ms), Some(event)) = (call.timestamp_ms(), call.event()) {
                received.entry((call.write_key.as_str(), at_ms, event)).or_insert(call.received_at_ms);
            }
        }
        let mut sorted_ms = Vec::new();
        for (fact, sent) in self.facts.iter().zip(self.sent()) {
            let Some(sent_ms) = sent.began_ms.filter(|sent_ms| (from_ms..to_ms).contains(sent_ms)) else { continue };
            let name = (fact.write_key.as_str(), fact.at_ms, fact.kind.event_name());
            sorted_ms.extend(received.get(&name).map(|received_ms| received_ms - sent_ms));
        }
        sorted_ms.sort_unstable();
        Latencies { sorted_ms }
    }

    /// How each fact was sent, in their order.
    pub fn sent(&self) -> impl Iterator<Item = Sent> {
        self.promises().into_iter().map(|promise| Sent {
            began_ms: promise.began.map(|(began_ns, _)| self.wall_clock_ms(began_ns)),
            promised: promise.answered_ns.is_some(),
        })
    }

    /// The longest time in which no request at all was answered with 200, from the first such answer to the last.
    pub fn longest_silence(&self) -> Duration {
        let good = self.attempts.iter().filter(|attempt| attempt.outcome == Outcome::Ok);
        let mut ended_ns: Vec<u64> = good.map(|attempt| attempt.ended_ns).collect();
        ended_ns.sort_unstable();
        let longest_ns = ended_ns.windows(2).map(|pair| pair[1] - pair[0]).max();
        Duration::from_nanos(longest_ns.unwrap_or_default())
    }

    fn wall_clock_ms(&self, since_epoch_ns: u64) -> i64 {
        self.epoch_ms + i64::try_from(since_epoch_ns / MS_NS).expect("a run ends within centuries")
    }
}
