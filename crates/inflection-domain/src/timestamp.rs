//! Moments in UTC milliseconds, read and written as RFC 3339.
//!
//! Written here and not with a date library because it sits on the hot path twice per event and must refuse what
//! libraries kindly repair: a missing zone, a leap second, epoch seconds. The tests compare it with one.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

/// Why a text or number is no timestamp.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTimestamp {
    /// Not `YYYY-MM-DDTHH:MM:SS[.fraction](Z|±HH:MM)`.
    #[error("is not an RFC 3339 date and time")]
    Malformed,
    /// No `Z` and no offset: the sender's zone would have to be guessed.
    #[error("has no time zone")]
    NoZone,
    /// A day, hour or second that does not exist.
    #[error("names a moment that does not exist")]
    NoSuchMoment,
    /// A number too small to be milliseconds since 1970 (seconds, most likely).
    #[error("is not in epoch milliseconds")]
    NotMilliseconds,
}

/// A moment: milliseconds since 1970-01-01T00:00:00Z, of the years 1 to 9999.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(i64);

const DAY_MS: i64 = 86_400_000;

impl From<SystemTime> for Timestamp {
    /// What lies before 1970 is 1970.
    fn from(time: SystemTime) -> Self {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self::from_ms(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    }
}

impl Timestamp {
    /// 9999-12-31T23:59:59.999Z.
    const MAX_MS: i64 = 253_402_300_799_999;
    /// 0001-01-01T00:00:00.000Z.
    const MIN_MS: i64 = -62_135_596_800_000;

    /// A moment from milliseconds, cut to the years that can be written.
    #[must_use]
    pub fn from_ms(ms: i64) -> Self {
        Self(ms.clamp(Self::MIN_MS, Self::MAX_MS))
    }

    /// Milliseconds since 1970.
    #[must_use]
    pub fn as_ms(self) -> i64 {
        self.0
    }

    /// The day since 1970, the unit in which state expires.
    #[must_use]
    pub fn day(self) -> u32 {
        u32::try_from(self.0.div_euclid(DAY_MS)).unwrap_or(0)
    }

    /// Reads epoch milliseconds. Numbers below 1e11 (1973 in milliseconds, 5138 in seconds) are taken for seconds.
    ///
    /// # Errors
    /// [`InvalidTimestamp::NotMilliseconds`] when the number can hardly mean milliseconds.
    pub fn from_epoch_ms(ms: i64) -> Result<Self, InvalidTimestamp> {
        if (100_000_000_000..=Self::MAX_MS).contains(&ms) {
            Ok(Self(ms))
        } else {
            Err(InvalidTimestamp::NotMilliseconds)
        }
    }

    /// Reads RFC 3339 with a zone. Digits beyond the millisecond are cut.
    ///
    /// # Errors
    /// [`InvalidTimestamp`] says what is wrong.
    pub fn parse(text: &str) -> Result<Self, InvalidTimestamp> {
        let mut rest = text.as_bytes();
        let year = digits(&mut rest, 4)?;
        literal(&mut rest, b"-")?;
        let month = digits(&mut rest, 2)?;
        literal(&mut rest, b"-")?;
        let day = digits(&mut rest, 2)?;
        literal(&mut rest, b"Tt")?;
        let hour = digits(&mut rest, 2)?;
        literal(&mut rest, b":")?;
        let minute = digits(&mut rest, 2)?;
        literal(&mut rest, b":")?;
        let second = digits(&mut rest, 2)?;
        let millis = fraction(&mut rest)?;
        let offset_minutes = zone(&mut rest)?;
        let date_ok = year >= 1 && (1..=12).contains(&month) && day >= 1 && day <= month_days(year, month);
        if !(date_ok && hour < 24 && minute < 60 && second < 60) {
            return Err(InvalidTimestamp::NoSuchMoment);
        }
        let seconds = ((days_from_civil(year, month, day) * 24 + hour) * 60 + minute - offset_minutes) * 60 + second;
        Ok(Self::from_ms(seconds * 1000 + millis))
    }

    /// The 24 characters of `2026-01-31T23:59:59.123Z`.
    #[must_use]
    pub fn to_rfc3339(self) -> [u8; 24] {
        let (year, month, day) = civil_from_days(self.0.div_euclid(DAY_MS));
        let in_day = self.0.rem_euclid(DAY_MS);
        let mut text = *b"0000-00-00T00:00:00.000Z";
        put(&mut text, 0..4, year);
        put(&mut text, 5..7, month);
        put(&mut text, 8..10, day);
        put(&mut text, 11..13, in_day / 3_600_000);
        put(&mut text, 14..16, in_day / 60_000 % 60);
        put(&mut text, 17..19, in_day / 1000 % 60);
        put(&mut text, 20..23, in_day % 1000);
        text
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_rfc3339().iter().try_for_each(|byte| fmt::Write::write_char(f, char::from(*byte)))
    }
}

fn digits(rest: &mut &[u8], count: usize) -> Result<i64, InvalidTimestamp> {
    let (head, tail) = rest.split_at_checked(count).ok_or(InvalidTimestamp::Malformed)?;
    *rest = tail;
    head.iter().try_fold(0, |value, byte| {
        if byte.is_ascii_digit() { Ok(value * 10 + i64::from(byte - b'0')) } else { Err(InvalidTimestamp::Malformed) }
    })
}

fn literal(rest: &mut &[u8], allowed: &[u8]) -> Result<(), InvalidTimestamp> {
    let (first, tail) = rest.split_first().ok_or(InvalidTimestamp::Malformed)?;
    *rest = tail;
    if allowed.contains(first) { Ok(()) } else { Err(InvalidTimestamp::Malformed) }
}

/// Milliseconds of an optional `.123456`.
fn fraction(rest: &mut &[u8]) -> Result<i64, InvalidTimestamp> {
    let Some(tail) = rest.strip_prefix(b".") else { return Ok(0) };
    let count = tail.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let (head, tail) = tail.split_at(count);
    *rest = tail;
    if head.is_empty() || head.len() > 12 {
        return Err(InvalidTimestamp::Malformed);
    }
    Ok(head.iter().chain(b"00").take(3).fold(0, |value, byte| value * 10 + i64::from(byte - b'0')))
}

/// The offset in minutes east of UTC. It must be all that is left.
fn zone(rest: &mut &[u8]) -> Result<i64, InvalidTimestamp> {
    let Some((sign, tail)) = rest.split_first() else { return Err(InvalidTimestamp::NoZone) };
    *rest = tail;
    let minutes = match sign {
        b'Z' | b'z' => 0,
        b'+' | b'-' => {
            let hours = digits(rest, 2)?;
            literal(rest, b":")?;
            let minutes = digits(rest, 2)?;
            if hours > 23 || minutes > 59 {
                return Err(InvalidTimestamp::NoSuchMoment);
            }
            (hours * 60 + minutes) * if *sign == b'-' { -1 } else { 1 }
        }
        _ => return Err(InvalidTimestamp::NoZone),
    };
    if rest.is_empty() { Ok(minutes) } else { Err(InvalidTimestamp::Malformed) }
}

fn month_days(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days since 1970-01-01 of a date of the proleptic Gregorian calendar. Years are counted from March, so that the leap
/// day is the last of its year, in eras of 400 years (146,097 days).
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// The inverse of [`days_from_civil`].
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (era * 400 + year_of_era + i64::from(month <= 2), month, day)
}

fn put(text: &mut [u8; 24], range: std::ops::Range<usize>, mut value: i64) {
    for slot in text.get_mut(range).unwrap_or_default().iter_mut().rev() {
        *slot = b'0' + u8::try_from(value % 10).unwrap_or(0);
        value /= 10;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn rfc3339_with_a_zone_is_read() {
        let ms = |text| Timestamp::parse(text).map(Timestamp::as_ms);
        assert_eq!(ms("1970-01-01T00:00:00Z"), Ok(0));
        assert_eq!(ms("2026-11-23T10:20:30.123456+02:00"), Ok(1_795_422_030_123));
        assert_eq!(ms("2024-02-29T00:00:00.5-00:30"), Ok(1_709_166_600_500));
        for (text, expected) in [
            ("2026-11-23T10:20:30", InvalidTimestamp::NoZone),
            ("2026-11-23 10:20:30Z", InvalidTimestamp::Malformed),
            ("2026-02-30T00:00:00Z", InvalidTimestamp::NoSuchMoment),
            ("2026-01-01T25:00:00Z", InvalidTimestamp::NoSuchMoment),
            ("2026-01-01T23:59:60Z", InvalidTimestamp::NoSuchMoment),
            ("0000-01-01T00:00:00Z", InvalidTimestamp::NoSuchMoment),
            ("10000-01-01T00:00:00Z", InvalidTimestamp::Malformed),
            ("2026-01-01T00:00:00.Z", InvalidTimestamp::Malformed),
            ("2026-01-01T00:00:00Zx", InvalidTimestamp::Malformed),
            ("yesterday", InvalidTimestamp::Malformed),
            ("", InvalidTimestamp::Malformed),
        ] {
            assert_eq!(ms(text), Err(expected), "{text}");
        }
    }

    #[test]
    fn epoch_seconds_are_refused() {
        assert_eq!(Timestamp::from_epoch_ms(1_740_910_272), Err(InvalidTimestamp::NotMilliseconds));
        assert!(Timestamp::from_epoch_ms(1_740_910_272_000).is_ok());
    }

    proptest! {
        #[test]
        fn agrees_with_a_date_library(ms in Timestamp::MIN_MS..=Timestamp::MAX_MS) {
            let ours = Timestamp::from_ms(ms).to_string();
            let theirs: jiff::Timestamp = ours.parse().unwrap();
            prop_assert_eq!(theirs.as_millisecond(), ms);
            prop_assert_eq!(Timestamp::parse(&ours).unwrap().as_ms(), ms);
        }

        #[test]
        fn never_panics(text in ".{0,40}") {
            let _outcome = Timestamp::parse(&text);
        }
    }
}
