//! The newest requests to Segment, to answer "what was tried with this call?". Pure, and bounded in bytes.
//!
//! Requests that failed are kept apart from those that were good: there are few of them, and they tell the story.

use std::collections::VecDeque;

use inflection_domain::Timestamp;

/// Most bytes of each kind, failed and good.
const BYTES_MAX: usize = 4 * 1024 * 1024;
/// Bytes of a request beside the ids of its calls.
const REQUEST_BYTES: usize = 96;

/// One request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// When it was answered, or given up.
    pub at: Timestamp,
    /// HTTP status; 0 when no whole answer came.
    pub status: u16,
    /// What came of it, a word of the metric's list.
    pub outcome: &'static str,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
    /// How long nothing was sent because of it, in milliseconds.
    pub wait_ms: u64,
}

/// The newest requests of a process.
#[derive(Debug, Default)]
pub(crate) struct Journal {
    good: Ring,
    failed: Ring,
}

#[derive(Debug, Default)]
struct Ring {
    requests: VecDeque<(Attempt, Box<[u64]>)>,
    bytes: usize,
}

impl Ring {
    fn push(&mut self, attempt: Attempt, calls: Box<[u64]>) {
        self.bytes += size(&calls);
        self.requests.push_back((attempt, calls));
        while self.bytes > BYTES_MAX {
            let Some((_, calls)) = self.requests.pop_front() else { break };
            self.bytes -= size(&calls);
        }
    }

    fn of(&self, call: u64) -> impl Iterator<Item = &Attempt> {
        self.requests.iter().filter(move |(_, calls)| calls.contains(&call)).map(|(attempt, _)| attempt)
    }
}

fn size(calls: &[u64]) -> usize {
    REQUEST_BYTES + size_of_val(calls)
}

impl Journal {
    /// Notes a request with these calls, by the first half of their messageIds' hashes.
    pub(crate) fn note(&mut self, attempt: Attempt, calls: Box<[u64]>) {
        let good = (200..300).contains(&attempt.status);
        if good { &mut self.good } else { &mut self.failed }.push(attempt, calls);
    }

    /// The requests that had this call, oldest first.
    pub(crate) fn of(&self, call: u64) -> Vec<Attempt> {
        let mut found: Vec<Attempt> = self.failed.of(call).chain(self.good.of(call)).cloned().collect();
        found.sort_by_key(|attempt| attempt.at);
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempt(at: i64, status: u16) -> Attempt {
        Attempt { at: Timestamp::from_ms(at), status, outcome: "x", took_ms: 1, wait_ms: 0 }
    }

    #[test]
    fn it_tells_a_calls_story_and_stays_bounded() {
        let mut journal = Journal::default();
        journal.note(attempt(1, 429), Box::from([1, 2, 3]));
        journal.note(attempt(2, 0), Box::from([2, 3]));
        journal.note(attempt(3, 200), Box::from([2]));
        let story = |journal: &Journal, call| journal.of(call).iter().map(|one| one.status).collect::<Vec<_>>();
        assert_eq!(
            (story(&journal, 2), story(&journal, 1), story(&journal, 9)),
            (vec![429, 0, 200], vec![429], vec![])
        );
        (0..10_000).for_each(|at| journal.note(attempt(10 + at, 200), vec![7; 500].into()));
        assert!(journal.good.bytes <= BYTES_MAX && journal.good.requests.len() > 1_000);
        assert_eq!(story(&journal, 2), [429, 0], "good requests do not push failed ones out");
    }
}
