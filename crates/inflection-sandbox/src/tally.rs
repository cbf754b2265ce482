//! Counting into the summary.

use std::collections::BTreeMap;

use crate::body::Item;
use crate::kind::Kind;
use crate::record::Summary;

/// Event names counted one by one; the rest are counted together.
const EVENT_NAMES_MAX: usize = 4_096;

/// Adds one under a name.
pub(crate) fn count(counts: &mut BTreeMap<String, u64>, name: &str) {
    if let Some(count) = counts.get_mut(name) {
        *count += 1;
    } else {
        counts.insert(name.to_owned(), 1);
    }
}

/// Counts a call that was taken for the first time.
pub(crate) fn count_accepted(summary: &mut Summary, item: &Item<'_>) {
    summary.accepted += 1;
    let (Some(kind), Some(head)) = (item.kind, &item.head) else {
        return;
    };
    count(&mut summary.by_type, kind.name());
    if kind == Kind::Identify && head.user_id.text().is_some() && head.anonymous_id.text().is_some() {
        summary.identity_links += 1;
    }
    if let Some(event) = head.event.text().filter(|_| kind == Kind::Track) {
        if summary.by_event.len() < EVENT_NAMES_MAX || summary.by_event.contains_key(event) {
            count(&mut summary.by_event, event);
        } else {
            summary.events_not_listed += 1;
        }
    }
}
