//! What must hold for every person over all rows: order, and the shape of every call.

use std::collections::BTreeMap;

use inflection_tests::arrived::Arrived;

/// First arrivals of one person are in the order of their facts; repeats have equal content.
pub(crate) fn check(calls: &[Arrived]) {
    let mut content: BTreeMap<&str, &Arrived> = BTreeMap::new();
    let mut last: BTreeMap<&str, i64> = BTreeMap::new();
    for call in calls {
        assert!(call.dropped.is_none(), "Segment would drop it: {call:?}");
        assert!((1..100).contains(&call.message_id.len()), "messageId: {call:?}");
        assert!(call.user_id().is_some() || call.anonymous_id().is_some(), "about nobody: {call:?}");
        assert_eq!(call.body.pointer("/context/integration/name").and_then(|name| name.as_str()), Some("Inflection"));
        let at_ms = call.timestamp_ms().unwrap_or_else(|| panic!("no timestamp: {call:?}"));
        if let Some(first) = content.get(call.message_id.as_str()) {
            assert_eq!(first.body, call.body, "one messageId, two contents");
            continue;
        }
        content.insert(&call.message_id, call);
        if let Some(person) = call.anonymous_id() {
            let before = last.insert(person, at_ms).unwrap_or(i64::MIN);
            assert!(before <= at_ms, "{person}: a call of {at_ms} came after one of {before}");
        }
    }
}
