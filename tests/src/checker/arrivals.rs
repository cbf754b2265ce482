//! What must hold for each call that arrived, and between calls: I2 to I9, I12, I13.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde_json::Value;

use super::{History, Promise, SourceFact, Violation};
use crate::arrived::Arrived;

/// Most that arrival and `sentAt` may lie apart: one request's time-out and a slow machine.
const SENT_AT_AGE_MS_MAX: i64 = 60_000;

/// Longest messageId (Segment: under 100 characters).
const MESSAGE_ID_CHARS_MAX: usize = 99;

/// One person under one write key.
type Lane<'a> = (&'a str, &'a str);

pub(super) fn check(history: &History, promises: &[Promise], found: &mut Vec<Violation>) {
    let by_time = history.facts_by_time();
    let mut lanes: BTreeMap<Lane<'_>, Vec<(&Arrived, usize)>> = BTreeMap::new();
    let mut ids = Ids::default();
    for call in &history.arrivals {
        check_shape(call, found);
        ids.admit(call, found);
        let index = call.timestamp_ms().and_then(|at_ms| by_time.get(&at_ms).copied());
        let Some(index) = index else {
            found.push(("I2", format!("a call with the time of no event: {}", call.body)));
            continue;
        };
        let fact = &history.facts[index];
        check_source(call, fact, &promises[index], found);
        lanes.entry((&fact.write_key, &fact.person)).or_default().push((call, index));
    }
    for calls in lanes.values() {
        check_identify(calls, &history.facts, found);
    }
    check_order(history, promises, &lanes, found);
}

/// I3, I12, I13: what can be seen on one call.
fn check_shape(call: &Arrived, found: &mut Vec<Violation>) {
    if call.message_id.is_empty() || call.message_id.chars().count() > MESSAGE_ID_CHARS_MAX {
        found.push(("I3", format!("messageId {:?}", call.message_id)));
    }
    match call.sent_at_ms {
        Some(sent_at) if (call.received_at_ms - sent_at).abs() <= SENT_AT_AGE_MS_MAX => {}
        sent_at => found.push(("I12", format!("sentAt {sent_at:?} at {}: {}", call.received_at_ms, call.body))),
    }
    if let Some(reason) = &call.dropped {
        found.push(("I13", format!("dropped under a 200, {reason}: {}", call.body)));
    }
}

/// I2, I7: a call and the event it says it comes from.
fn check_source(call: &Arrived, fact: &SourceFact, promise: &Promise, found: &mut Vec<Violation>) {
    if !promise.possible {
        found.push(("I2", format!("arrived, but was only ever refused: {fact:?}")));
    }
    if call.write_key != fact.write_key {
        found.push(("I7", format!("arrived under {}: {fact:?}", call.write_key)));
    }
    if call.anonymous_id().is_some_and(|id| id != fact.person) {
        found.push(("I7", format!("the anonymousId is not the person of {fact:?}: {}", call.body)));
    }
    if call.user_id().is_none() && call.anonymous_id().is_none() {
        found.push(("I7", format!("a call about nobody: {}", call.body)));
    }
}

/// I4, I5, I6: what a messageId stands for.
#[derive(Default)]
struct Ids<'a> {
    content: HashMap<&'a str, (&'a str, &'a Value)>,
    of_call: HashMap<(&'a str, i64, String), &'a str>,
}

impl<'a> Ids<'a> {
    fn admit(&mut self, call: &'a Arrived, found: &mut Vec<Violation>) {
        let (write_key, body) = *self.content.entry(&call.message_id).or_insert((&call.write_key, &call.body));
        if write_key != call.write_key {
            found.push(("I6", format!("{} under {write_key} and {}", call.message_id, call.write_key)));
        }
        if *body != call.body {
            found.push(("I4", format!("{} stands for {body} and {}", call.message_id, call.body)));
        }
        let name = (call.write_key.as_str(), call.timestamp_ms().unwrap_or_default(), call.label());
        let first = *self.of_call.entry(name).or_insert(&call.message_id);
        if first != call.message_id {
            found.push(("I5", format!("{first} and {} for one call: {}", call.message_id, call.body)));
        }
    }
}

/// I8, for the calls of one person in order of arrival.
fn check_identify(calls: &[(&Arrived, usize)], facts: &[SourceFact], found: &mut Vec<Violation>) {
    let mut identified: BTreeSet<&str> = BTreeSet::new();
    let mut linked: BTreeSet<&str> = BTreeSet::new();
    let mut anonymous = false;
    for (call, index) in calls {
        match (call.kind.as_str(), call.user_id()) {
            ("identify", Some(user)) => {
                identified.insert(user);
                if call.anonymous_id() == Some(&facts[*index].person) {
                    linked.insert(user);
                }
            }
            (_, Some(user)) => {
                if !identified.contains(user) {
                    found.push(("I8", format!("no Identify before {}", call.body)));
                } else if anonymous && !linked.contains(user) {
                    found.push(("I8", format!("seen anonymous, no Identify with both ids before {}", call.body)));
                }
            }
            (_, None) => anonymous = true,
        }
    }
}

/// I9: what was answered before another began arrives before it.
fn check_order(
    history: &History,
    promises: &[Promise],
    lanes: &BTreeMap<Lane<'_>, Vec<(&Arrived, usize)>>,
    found: &mut Vec<Violation>,
) {
    for calls in lanes.values() {
        let mut first_arrival: BTreeMap<usize, usize> = BTreeMap::new();
        for (place, (call, index)) in calls.iter().enumerate() {
            if call.event() == Some(history.facts[*index].kind.event_name()) {
                first_arrival.entry(*index).or_insert(place);
            }
        }
        let mut sent: Vec<usize> = first_arrival.keys().copied().collect();
        sent.sort_by_key(|index| promises[*index].began);
        for pair in sent.windows(2) {
            let (a, b) = (pair[0], pair[1]);
            if is_before(&promises[a], &promises[b]) && first_arrival[&a] > first_arrival[&b] {
                let (a, b) = (&history.facts[a], &history.facts[b]);
                found.push(("I9", format!("{} was sent before {} and arrived after it ({})", a.id, b.id, a.person)));
            }
        }
    }
}

/// Whether one event has a place before another: in the array of one request, or by an answer before the other began.
fn is_before(a: &Promise, b: &Promise) -> bool {
    if a.first_attempt == b.first_attempt {
        return a.began < b.began;
    }
    match (a.answered_ns, b.began) {
        (Some(answered_ns), Some((began_ns, _))) => answered_ns <= began_ns,
        (None, _) | (_, None) => false,
    }
}
