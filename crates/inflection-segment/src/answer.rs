//! What an answer means.

use std::time::Duration;

/// What to do after an answer. Retry policy begins here and nowhere else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Segment took the batch.
    Accepted,
    /// Something in the batch is not acceptable, or it is too large: halve it, in order.
    Refused,
    /// The write key is not accepted: pause, keep everything, tell a person.
    Unauthorized,
    /// The address is wrong (a redirect, a missing path): pause, keep everything, tell a person. Never followed.
    Misconfigured,
    /// Slow down; how long the server wants us to wait, when it says.
    Throttled(Option<Duration>),
    /// A passing fault; how long the server wants us to wait, when it says.
    Unavailable(Option<Duration>),
}

impl Answer {
    /// The meaning of a status. `wait` is what [`retry_after`] read from the headers.
    ///
    /// 408, 410 and 460 are retried as Segment's own Node client does; 501 and 505 will not pass.
    #[must_use]
    pub fn of(status: u16, wait: Option<Duration>) -> Self {
        match status {
            200..=299 => Self::Accepted,
            400 | 413 | 422 => Self::Refused,
            401 | 403 => Self::Unauthorized,
            429 => Self::Throttled(wait),
            300..=399 | 404 | 405 | 501 | 505 => Self::Misconfigured,
            _ => Self::Unavailable(wait),
        }
    }
}

/// Shortest wait that is taken from a header: 0 must not make a tight loop.
const WAIT_MIN: Duration = Duration::from_secs(1);
/// Longest: a typing error in a header must not stop delivery for a day.
const WAIT_MAX: Duration = Duration::from_secs(3600);

/// Reads `Retry-After` (seconds, or an HTTP date) or `X-RateLimit-Reset` (seconds): a wait of 1 second to 1 hour.
/// `None` when there is neither, or nonsense.
#[must_use]
pub fn retry_after(
    retry_after: Option<&str>,
    rate_limit_reset: Option<&str>,
    now_unix_seconds: i64,
) -> Option<Duration> {
    let seconds = |text: &str| text.trim().parse::<u64>().ok();
    let date = |text: &str| {
        let date = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text.trim()).ok()?;
        u64::try_from(date.as_second().saturating_sub(now_unix_seconds)).ok().or(Some(0))
    };
    let wait =
        retry_after.and_then(|text| seconds(text).or_else(|| date(text))).or(rate_limit_reset.and_then(seconds))?;
    Some(Duration::from_secs(wait).clamp(WAIT_MIN, WAIT_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_have_one_meaning_each() {
        for (status, expected) in [
            (200, Answer::Accepted),
            (202, Answer::Accepted),
            (302, Answer::Misconfigured),
            (400, Answer::Refused),
            (401, Answer::Unauthorized),
            (403, Answer::Unauthorized),
            (404, Answer::Misconfigured),
            (408, Answer::Unavailable(None)),
            (410, Answer::Unavailable(None)),
            (413, Answer::Refused),
            (429, Answer::Throttled(None)),
            (500, Answer::Unavailable(None)),
            (501, Answer::Misconfigured),
            (503, Answer::Unavailable(None)),
            (599, Answer::Unavailable(None)),
        ] {
            assert_eq!(Answer::of(status, None), expected, "{status}");
        }
    }

    #[test]
    fn waits_are_read_and_bounded() {
        let now = 1_795_428_000; // 2026-11-23T10:00:00Z
        for (header, reset, expected) in [
            (Some("7"), None, Some(7)),
            (Some(" 7 "), Some("9"), Some(7)),
            (None, Some("9"), Some(9)),
            (Some("0"), None, Some(1)),
            (Some("-1"), None, None),
            (Some("1000000000"), None, Some(3600)),
            (Some("soon"), None, None),
            (Some("soon"), Some("3"), Some(3)),
            (Some("Mon, 23 Nov 2026 10:00:30 GMT"), None, Some(30)),
            (Some("Mon, 23 Nov 2026 09:00:00 GMT"), None, Some(1)),
            (None, None, None),
        ] {
            let wait = retry_after(header, reset, now);
            assert_eq!(wait, expected.map(Duration::from_secs), "{header:?} {reset:?}");
        }
    }
}
