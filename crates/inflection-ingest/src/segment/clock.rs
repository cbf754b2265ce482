//! When a call happened: its sender's word, corrected where its clock is evidently wrong.

use std::borrow::Cow;

use inflection_domain::Timestamp;

use super::item::Item;
use crate::answer::Code;
use crate::fact::{self, AGE_MAX_MS, AHEAD_MAX_MS, Rejection};
use crate::json::Value;
use crate::machine::Clock;

/// Between `sentAt` and our clock lie the way here and what the sender's clock is off by. Up to this much it is taken for
/// the way, retries under an old `sentAt` included (the Go SDK keeps its own, and waits half a minute in all), and the
/// sender is believed: every attempt then gives the same time. Beyond it the clock is wrong, and is corrected as Segment does it.
const SKEW_MIN_MS: i64 = 5 * 60 * 1000;

/// When an item happened, and whose word that is; `now` if it does not say.
pub(super) fn occurred_at(
    item: &Item<'_>,
    batch_sent_at: Option<&Value<'_>>,
    now: Timestamp,
) -> Result<(Timestamp, Clock), Rejection> {
    let stated = moment("timestamp", item.timestamp.as_ref())?;
    let original = moment("originalTimestamp", item.original_timestamp.as_ref())?;
    // What cannot be read as a time says nothing of the clock, and is no reason to refuse the item.
    let sent_at =
        item.sent_at.as_ref().or(batch_sent_at).and_then(|value| moment("sentAt", Some(value)).ok().flatten());
    let (at, own) = match (stated, original) {
        // Who writes both has corrected the one already.
        (Some(corrected), Some(original)) => (corrected, original),
        (Some(at), None) | (None, Some(at)) => (correct(at, sent_at, now), at),
        (None, None) => return Ok((now, Clock::Receipt)),
    };
    if at.as_ms() - now.as_ms() > AHEAD_MAX_MS {
        return Ok((now, Clock::Receipt)); // nothing has happened that is yet to come
    }
    if now.as_ms() - at.as_ms() > AGE_MAX_MS {
        return Err(Rejection::new(Code::TimestampOutOfRange, "timestamp is more than a year old"));
    }
    Ok((at, if at == own { Clock::Sender } else { Clock::Receipt }))
}

fn correct(at: Timestamp, sent_at: Option<Timestamp>, now: Timestamp) -> Timestamp {
    let skew = sent_at.map_or(0, |sent_at| now.as_ms() - sent_at.as_ms());
    if skew.abs() <= SKEW_MIN_MS { at } else { Timestamp::from_ms(at.as_ms().saturating_add(skew)) }
}

fn moment(field: &str, value: Option<&Value<'_>>) -> Result<Option<Timestamp>, Rejection> {
    let stated = match value {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Text(text)) if text.is_empty() => return Ok(None),
        Some(Value::Text(text)) => &Value::Text(with_t(text)),
        Some(other) => other,
    };
    fact::moment(field, stated, "a string").map(Some)
}

/// Some clients print a blank before the hour, which RFC 3339 allows (5.6, note).
fn with_t(text: &str) -> Cow<'_, str> {
    if text.as_bytes().get(10) == Some(&b' ') { Cow::Owned(text.replacen(' ', "T", 1)) } else { Cow::Borrowed(text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: &str = "2026-11-23T10:00:00.000Z";

    fn text(text: Option<&str>) -> Option<Value<'_>> {
        text.map(|text| Value::Text(text.into()))
    }

    #[track_caller]
    fn check(timestamp: Option<&str>, original: Option<&str>, sent_at: Option<&str>, expected: Result<&str, Code>) {
        let item = Item { timestamp: text(timestamp), original_timestamp: text(original), ..Item::default() };
        let at = occurred_at(&item, text(sent_at).as_ref(), Timestamp::parse(NOW).unwrap());
        let at = at.map(|(at, _)| at.to_string()).map_err(|why| why.code);
        assert_eq!(at, expected.map(|text| Timestamp::parse(text).unwrap().to_string()));
    }

    #[test]
    fn the_sender_is_believed_while_its_clock_may_be_right() {
        let at = Some("2026-11-23T09:59:50.123Z");
        let same = Ok("2026-11-23T09:59:50.123Z");
        check(at, None, None, same);
        // Of two attempts the second says another `sentAt`; the fact is the same.
        check(at, None, Some("2026-11-23T09:59:51Z"), same);
        check(at, None, Some("2026-11-23T09:59:59Z"), same);
        check(at, None, Some("2026-11-23T10:04:59Z"), same);
        check(at, None, Some("2026-11-23T09:55:01Z"), same);
        check(None, at, Some("2026-11-23T09:59:59Z"), same);
        check(Some("2026-11-23T11:59:50.123+02:00"), None, None, same);
        check(Some("2026-11-23 09:59:50.123+00:00"), None, None, same);
    }

    #[test]
    fn a_wrong_clock_is_corrected_as_segment_does() {
        // An hour ahead, an hour behind, ten years behind: ten seconds before it was sent.
        for (at, sent_at) in [
            ("2026-11-23T10:59:50Z", "2026-11-23T11:00:00Z"),
            ("2026-11-23T08:59:50Z", "2026-11-23T09:00:00Z"),
            ("2016-11-23T08:59:50Z", "2016-11-23T09:00:00Z"),
        ] {
            check(Some(at), None, Some(sent_at), Ok("2026-11-23T09:59:50Z"));
            check(None, Some(at), Some(sent_at), Ok("2026-11-23T09:59:50Z"));
        }
        let corrected = Some("2026-11-23T09:00:00Z");
        check(corrected, Some("2016-01-01T00:00:00Z"), Some("2016-01-01T00:00:09Z"), Ok("2026-11-23T09:00:00Z"));
    }

    #[test]
    fn only_what_the_sender_said_is_its_word() {
        let at = "2026-11-23T09:59:50Z";
        for (timestamp, original, sent_at, expected) in [
            (Some(at), None, None, Clock::Sender),
            (None, Some(at), Some("2026-11-23T10:04:59Z"), Clock::Sender),
            (Some(at), Some(at), None, Clock::Sender),
            (None, None, None, Clock::Receipt),
            (Some("2026-11-23T11:00:00Z"), None, None, Clock::Receipt),
            // Corrected here, and elsewhere.
            (Some(at), None, Some("2026-11-23T11:00:00Z"), Clock::Receipt),
            (Some(at), Some("2026-11-23T08:59:50Z"), None, Clock::Receipt),
        ] {
            let item = Item { timestamp: text(timestamp), original_timestamp: text(original), ..Item::default() };
            let found = occurred_at(&item, text(sent_at).as_ref(), Timestamp::parse(NOW).unwrap());
            assert_eq!(found.unwrap().1, expected, "{timestamp:?} {original:?} {sent_at:?}");
        }
    }

    #[test]
    fn what_is_missing_or_impossible() {
        check(None, None, None, Ok(NOW));
        check(Some(""), None, None, Ok(NOW));
        check(Some("2026-11-23T11:00:00Z"), None, None, Ok(NOW));
        check(Some("2026-11-23T10:04:00Z"), None, None, Ok("2026-11-23T10:04:00Z"));
        check(Some("2026-11-23T09:00:00Z"), None, Some("yesterday"), Ok("2026-11-23T09:00:00Z"));
        check(Some("2025-11-01T00:00:00Z"), None, None, Err(Code::TimestampOutOfRange));
        check(Some("2026-11-23T09:00:00"), None, None, Err(Code::BadTimestamp));
        check(Some("yesterday"), None, None, Err(Code::BadTimestamp));
    }
}
