//! I10: the calls that are due exactly once, against a model of forty lines.

use std::collections::{BTreeMap, BTreeSet};

use super::{History, Kind, Promise, SourceFact, Violation};

/// One mail to one person under one write key.
type Delivery<'a> = (&'a str, &'a str, &'a str);

/// What has been sent about one mail, in whatever order.
#[derive(Default)]
struct Seen<'a> {
    human_open: bool,
    machine_open: bool,
    links: BTreeSet<&'a str>,
}

impl<'a> Seen<'a> {
    fn admit(&mut self, fact: &'a SourceFact) {
        match (fact.kind, fact.machine) {
            (Kind::Opened, false) => self.human_open = true,
            (Kind::Opened, true) => self.machine_open = true,
            (Kind::Clicked, false) => self.links.extend(fact.link.as_deref()),
            (Kind::Clicked, true) | (Kind::Delivered, _) => {}
        }
    }

    fn unique_open(&self) -> bool {
        self.human_open || (self.machine_open && !self.links.is_empty())
    }

    /// Calls due once each: event name and link.
    fn due(&self) -> BTreeSet<(&'static str, &'a str)> {
        let mut due: BTreeSet<_> = self.links.iter().map(|link| ("Unique Link Click", *link)).collect();
        if self.unique_open() {
            due.insert(("Email Unique Opens", ""));
        }
        if self.unique_open() && !self.links.is_empty() {
            due.insert(("Unique Link Click per Unique Open", ""));
        }
        due
    }
}

pub(super) fn check(history: &History, promises: &[Promise], found: &mut Vec<Violation>) {
    let mut certain: BTreeMap<Delivery<'_>, Seen<'_>> = BTreeMap::new();
    let mut settled: BTreeMap<Delivery<'_>, bool> = BTreeMap::new();
    for (fact, promise) in history.facts.iter().zip(promises) {
        let delivery = (fact.write_key.as_str(), fact.person.as_str(), fact.run.as_str());
        certain.entry(delivery).or_default().admit(fact);
        // With an unanswered or poisoned event the model cannot tell what must have come of it.
        *settled.entry(delivery).or_insert(true) &= promise.answered_ns.is_some() && !history.poison.contains(&fact.id);
    }
    let arrived = arrived(history);
    for (delivery, seen) in &certain {
        let calls = arrived.get(delivery);
        let due = seen.due();
        let came: BTreeSet<(&str, &str)> =
            calls.into_iter().flatten().map(|(event, link, _)| (*event, *link)).collect();
        if settled[delivery] && came != due {
            found.push(("I10", format!("{delivery:?}: due {due:?}, came {came:?}")));
        }
        let ids = calls.map_or(0, BTreeSet::len);
        if ids > came.len() {
            found.push(("I10", format!("{delivery:?}: more than one id for one unique call: {calls:?}")));
        }
    }
    check_flags(history, found);
}

/// Distinct derived calls by mail: event name, link where it matters, messageId.
fn arrived(history: &History) -> BTreeMap<Delivery<'_>, BTreeSet<(&str, &str, &str)>> {
    let by_time = history.facts_by_time();
    let mut arrived: BTreeMap<Delivery<'_>, BTreeSet<(&str, &str, &str)>> = BTreeMap::new();
    for call in &history.arrivals {
        let link = match call.event() {
            Some("Unique Link Click") => call.property("email_link_url").unwrap_or_default(),
            Some("Email Unique Opens" | "Unique Link Click per Unique Open") => "",
            Some(_) | None => continue,
        };
        let fact = call.timestamp_ms().and_then(|at_ms| by_time.get(&at_ms)).map(|index| &history.facts[*index]);
        if let (Some(fact), Some(event)) = (fact, call.event()) {
            let delivery = (fact.write_key.as_str(), fact.person.as_str(), fact.run.as_str());
            arrived.entry(delivery).or_default().insert((event, link, &call.message_id));
        }
    }
    arrived
}

/// At most one open of a mail, and one click of each of its links, says that it is the unique one.
fn check_flags(history: &History, found: &mut Vec<Violation>) {
    let by_time = history.facts_by_time();
    let mut winners: BTreeMap<(Delivery<'_>, &str), BTreeSet<&str>> = BTreeMap::new();
    for call in &history.arrivals {
        if !call.flag("is_unique_open") && !call.flag("is_unique_click") {
            continue;
        }
        let Some(index) = call.timestamp_ms().and_then(|at_ms| by_time.get(&at_ms)) else { continue };
        let fact = &history.facts[*index];
        if call.event() == Some(fact.kind.event_name()) {
            let delivery = (fact.write_key.as_str(), fact.person.as_str(), fact.run.as_str());
            let link = fact.link.as_deref().unwrap_or_default();
            winners.entry((delivery, link)).or_default().insert(&fact.id);
        }
    }
    for (what, ids) in winners.iter().filter(|(_, ids)| ids.len() > 1) {
        found.push(("I10", format!("{what:?} was unique more than once: {ids:?}")));
    }
}
