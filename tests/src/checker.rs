//! Judges the history of a run by the invariants of `reference/reliability.md` 2. Pure: it is told everything.
//!
//! What was sent is known by its timestamp: [`crate::load`] gives every event a millisecond of its own, and a call
//! carries the timestamp of the fact it comes from.

mod arrivals;
mod due;
mod latency;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use crate::admin::DeadLetter;
use crate::arrived::Arrived;

pub use latency::{Latencies, Sent};

/// What happened to a mail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `email_delivered`
    Delivered,
    /// `email_opened`
    Opened,
    /// `link_clicked`
    Clicked,
}

impl Kind {
    /// Name of the raw event in Segment.
    pub fn event_name(self) -> &'static str {
        match self {
            Self::Delivered => "Email Delivered",
            Self::Opened => "Email Opened",
            Self::Clicked => "Link Clicked",
        }
    }
}

/// One event of the source, sent once or more often with equal content.
#[derive(Debug, Clone)]
pub struct SourceFact {
    /// The sender's id.
    pub id: String,
    /// The write key its calls must arrive under.
    pub write_key: String,
    /// The person.
    pub person: String,
    /// What happened.
    pub kind: Kind,
    /// The campaign run of the mail; with the person it is the delivery key.
    pub run: String,
    /// The link, of a click.
    pub link: Option<String>,
    /// When it happened: unique in the run of the test.
    pub at_ms: i64,
    /// A machine did it.
    pub machine: bool,
    /// The customer's own id, when the event carried one.
    pub user_id: Option<String>,
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// 200: promised.
    Ok,
    /// 4xx: never taken.
    Rejected,
    /// No answer, or one that promises nothing.
    Unknown,
}

/// One request.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// Its events in order, as indices into [`History::facts`].
    pub facts: Vec<usize>,
    /// When it began, in nanoseconds of the sender's monotonic clock.
    pub began_ns: u64,
    /// When it ended.
    pub ended_ns: u64,
    /// How.
    pub outcome: Outcome,
}

/// All that is known of a run.
#[derive(Debug, Clone, Default)]
pub struct History {
    /// What was sent.
    pub facts: Vec<SourceFact>,
    /// In which requests.
    pub attempts: Vec<Attempt>,
    /// The wall clock when the sender's monotonic clock was zero.
    pub epoch_ms: i64,
    /// What Segment received, in order of arrival, repeats included.
    pub arrivals: Vec<Arrived>,
    /// The dead letters at the end.
    pub dead: Vec<DeadLetter>,
    /// Ids of events that Segment refused on purpose.
    pub poison: BTreeSet<String>,
    /// Whether the product's books balance at the end.
    pub balanced: bool,
    /// What the product says is pending at the end.
    pub pending: u64,
}

/// A broken invariant: its number (`I1` …) and what was seen.
pub type Violation = (&'static str, String);

/// When each event was first begun and first promised.
struct Promise {
    /// Begin of the first request with it, and its place in that request.
    began: Option<(u64, usize)>,
    /// Index of that first request.
    first_attempt: usize,
    /// End of the first request that promised it.
    answered_ns: Option<u64>,
    /// Some request may have left it behind.
    possible: bool,
}

impl History {
    /// Every broken invariant.
    pub fn violations(&self) -> Vec<Violation> {
        let promises = self.promises();
        let mut found = Vec::new();
        self.check_loss(&promises, &mut found);
        self.check_dead(&mut found);
        arrivals::check(self, &promises, &mut found);
        due::check(self, &promises, &mut found);
        if !self.balanced || self.pending != 0 {
            found.push(("I17", format!("balanced: {}, pending: {}", self.balanced, self.pending)));
        }
        found
    }

    /// Panics with the broken invariants, if there are any.
    #[track_caller]
    pub fn assert_holds(&self) {
        let found = self.violations();
        let shown: Vec<String> = found.iter().take(20).map(|(rule, text)| format!("{rule}: {text}")).collect();
        assert!(
            found.is_empty(),
            "{} violations in a history of {} events, {} requests, {} arrivals:\n{}",
            found.len(),
            self.facts.len(),
            self.attempts.len(),
            self.arrivals.len(),
            shown.join("\n")
        );
    }

    /// The same run as one of several connections must have seen it: every event is due under that write key, and of
    /// the arrivals only those under it count.
    #[must_use]
    pub fn under(&self, write_key: &str) -> Self {
        let mut history = self.clone();
        history.facts.iter_mut().for_each(|fact| write_key.clone_into(&mut fact.write_key));
        history.arrivals.retain(|call| call.write_key == write_key);
        history
    }

    /// Promised events whose raw call has neither arrived nor died.
    pub fn missing(&self) -> Vec<&SourceFact> {
        let promises = self.promises();
        let arrived = self.raw_arrivals();
        let dead = self.dead_ids();
        let facts = self.facts.iter().enumerate();
        let missing = facts.filter(|(index, fact)| {
            promises[*index].answered_ns.is_some()
                && !arrived.contains(&(fact.write_key.as_str(), fact.at_ms, fact.kind.event_name()))
                && !dead.contains(fact.id.as_str())
        });
        missing.map(|(_, fact)| fact).collect()
    }

    fn check_loss(&self, promises: &[Promise], found: &mut Vec<Violation>) {
        for fact in self.missing() {
            found.push(("I1", format!("promised, but neither arrived nor dead: {fact:?}")));
        }
        for (fact, promise) in self.facts.iter().zip(promises) {
            if promise.answered_ns.is_none() && promise.began.is_some() && !promise.possible {
                found.push(("I1", format!("a good event was refused: {fact:?}")));
            }
        }
    }

    fn check_dead(&self, found: &mut Vec<Violation>) {
        let delivered: BTreeSet<&str> = self.arrivals.iter().map(|call| call.message_id.as_str()).collect();
        for letter in &self.dead {
            if !self.poison.contains(&letter.event_id) {
                found.push(("I16", format!("dead, but not poison: {}", letter.raw)));
            }
            if letter.reason.is_empty() {
                found.push(("I16", format!("dead without a reason: {}", letter.raw)));
            }
            if delivered.contains(letter.message_id.as_str()) {
                found.push(("I16", format!("dead and delivered: {}", letter.raw)));
            }
        }
        let dead = self.dead_ids();
        for id in self.poison.iter().filter(|id| !dead.contains(id.as_str())) {
            found.push(("I16", format!("poison that is not listed: {id}")));
        }
    }

    fn promises(&self) -> Vec<Promise> {
        let blank = |_: &SourceFact| Promise { began: None, first_attempt: 0, answered_ns: None, possible: false };
        let mut promises: Vec<Promise> = self.facts.iter().map(blank).collect();
        for (index, attempt) in self.attempts.iter().enumerate() {
            for (place, fact) in attempt.facts.iter().enumerate() {
                let promise = &mut promises[*fact];
                if promise.began.is_none_or(|(began, _)| attempt.began_ns < began) {
                    promise.began = Some((attempt.began_ns, place));
                    promise.first_attempt = index;
                }
                promise.possible |= attempt.outcome != Outcome::Rejected;
                if attempt.outcome == Outcome::Ok {
                    let earlier = promise.answered_ns.unwrap_or(u64::MAX);
                    promise.answered_ns = Some(attempt.ended_ns.min(earlier));
                }
            }
        }
        promises
    }

    fn raw_arrivals(&self) -> BTreeSet<(&str, i64, &str)> {
        let tracks = self.arrivals.iter().filter_map(|call| Some((call, call.timestamp_ms()?, call.event()?)));
        tracks.map(|(call, at_ms, event)| (call.write_key.as_str(), at_ms, event)).collect()
    }

    fn dead_ids(&self) -> BTreeSet<&str> {
        self.dead.iter().map(|letter| letter.event_id.as_str()).collect()
    }

    fn facts_by_time(&self) -> BTreeMap<i64, usize> {
        self.facts.iter().enumerate().map(|(index, fact)| (fact.at_ms, index)).collect()
    }
}
