//! Points in time as Segment reads and writes them.

use jiff::Timestamp;
use jiff::civil::{Date, DateTime};

/// The present, in Unix milliseconds.
pub(crate) fn now_ms() -> i64 {
    Timestamp::now().as_millisecond()
}

/// ISO 8601 in UTC with milliseconds; empty for times outside the calendar.
pub(crate) fn format_ms(ms: i64) -> String {
    Timestamp::from_millisecond(ms).map_or_else(|_outside| String::new(), |at| format!("{at:.3}"))
}

/// When a call happened by the receiver's clock: `receivedAt - (sentAt - originalTimestamp)` (Segment docs, common fields).
///
/// Without a readable `sentAt` nothing can be corrected, and without a time of its own a call happened when it was received.
pub(crate) fn corrected_ms(received_at_ms: i64, sent_at: Option<&str>, original: Option<&str>) -> i64 {
    match (sent_at.and_then(parse_ms), original.and_then(parse_ms)) {
        (_, None) => received_at_ms,
        (None, Some(original_ms)) => original_ms,
        (Some(sent_at_ms), Some(original_ms)) => received_at_ms - (sent_at_ms - original_ms),
    }
}

/// Whether a warehouse would type this text as a timestamp: an ISO 8601 date, with or without time and zone.
pub(crate) fn is_timestamp(text: &str) -> bool {
    // Most strings are no dates; the parsers need not see them.
    let looks_like_it = text.len() >= 10 && text.bytes().take(4).all(|byte| byte.is_ascii_digit());
    looks_like_it
        && (text.parse::<Timestamp>().is_ok() || text.parse::<DateTime>().is_ok() || text.parse::<Date>().is_ok())
}

fn parse_ms(text: &str) -> Option<i64> {
    text.parse::<Timestamp>().ok().map(Timestamp::as_millisecond)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_are_corrected() {
        let received_at_ms = 1_767_225_660_000; // 2026-01-01T00:01:00Z
        let check = |sent_at, original, expected: &str| {
            assert_eq!(format_ms(corrected_ms(received_at_ms, sent_at, original)), expected);
        };
        check(None, None, "2026-01-01T00:01:00.000Z");
        check(Some("2026-01-01T00:00:00Z"), None, "2026-01-01T00:01:00.000Z");
        check(None, Some("2025-12-31T23:00:00Z"), "2025-12-31T23:00:00.000Z");
        check(Some("2026-01-01T00:00:00Z"), Some("2025-12-31T23:00:00.250Z"), "2025-12-31T23:01:00.250Z");
        check(Some("nonsense"), Some("2025-12-31T23:00:00Z"), "2025-12-31T23:00:00.000Z");
    }

    #[test]
    fn what_counts_as_a_timestamp() {
        for text in ["2026-01-01", "2026-01-01T00:00:00Z", "2026-01-01T00:00:00.123+02:00", "2026-01-01 10:00:00"] {
            assert!(is_timestamp(text), "{text}");
        }
        for text in ["", "2026", "1234567890", "2026-13-01", "campaign 2026-01-01"] {
            assert!(!is_timestamp(text), "{text}");
        }
    }
}
