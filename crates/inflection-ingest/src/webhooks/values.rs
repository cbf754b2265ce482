//! Values as providers write them: texts and numbers for one another, times in three units.

use inflection_domain::Timestamp;
use serde_json::Value as Json;

/// The text at a path of member names, if it is a text or a number.
pub(crate) fn text(value: &Json, path: &[&str]) -> Option<String> {
    at(value, path).and_then(scalar)
}

/// The text at a path, borrowed; `None` when it is no text.
pub(crate) fn word<'v>(value: &'v Json, path: &[&str]) -> Option<&'v str> {
    at(value, path).and_then(Json::as_str)
}

/// The value at a path.
pub(crate) fn at<'v>(value: &'v Json, path: &[&str]) -> Option<&'v Json> {
    path.iter().try_fold(value, |value, name| value.get(name))
}

/// A text that is not empty, or a number.
pub(crate) fn scalar(value: &Json) -> Option<String> {
    match value {
        Json::String(text) if !text.is_empty() => Some(text.clone()),
        Json::Number(number) => Some(number.to_string()),
        Json::String(_) | Json::Null | Json::Bool(_) | Json::Array(_) | Json::Object(_) => None,
    }
}

/// The moment at a path.
pub(crate) fn moment(value: &Json, path: &[&str]) -> Option<Timestamp> {
    text(value, path).and_then(|text| timestamp(&text))
}

/// Seconds, milliseconds or microseconds since 1970, told apart by their size, with a fraction or without; or RFC 3339.
/// Decimal digits are read as digits: a double cannot hold every millisecond that a decimal number can.
pub(crate) fn timestamp(text: &str) -> Option<Timestamp> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let Ok(number) = whole.parse::<i64>() else { return Timestamp::parse(text).ok() };
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let ms = match number.unsigned_abs() {
        0..100_000_000_000 => number.checked_mul(1000)?.checked_add(thousandths(fraction))?,
        100_000_000_000..100_000_000_000_000 => number,
        _ => number / 1000,
    };
    Some(Timestamp::from_ms(ms))
}

/// The first three digits of a fraction, as thousandths.
fn thousandths(fraction: &str) -> i64 {
    let digits = fraction.bytes().chain(std::iter::repeat(b'0')).take(3);
    digits.fold(0, |number, digit| number * 10 + i64::from(digit - b'0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_come_in_three_units_and_two_notations() {
        for (text, expected) in [
            ("1795420800", "2026-11-23T08:00:00.000Z"),
            ("1795420800000", "2026-11-23T08:00:00.000Z"),
            ("1795420800000000", "2026-11-23T08:00:00.000Z"),
            ("1795420800.42", "2026-11-23T08:00:00.420Z"),
            ("1795420800.0429999", "2026-11-23T08:00:00.042Z"),
            ("2026-11-23T04:00:00.1234567-04:00", "2026-11-23T08:00:00.123Z"),
            ("2026-11-23T08:00:00Z", "2026-11-23T08:00:00.000Z"),
        ] {
            assert_eq!(timestamp(text).unwrap().to_string(), expected, "{text}");
        }
        for text in ["soon", "", "1.x", "1795420800.5e3", "2026-11-23", "99999999999999999999"] {
            assert_eq!(timestamp(text), None, "{text}");
        }
    }

    #[test]
    fn numbers_beyond_a_double_stay_whole() {
        let value: Json = serde_json::from_str(r#"{"a":{"id":19421777396190490,"t":1740910271.42}}"#).unwrap();
        assert_eq!(text(&value, &["a", "id"]).as_deref(), Some("19421777396190490"));
        assert_eq!(moment(&value, &["a", "t"]).unwrap().as_ms(), 1_740_910_271_420);
        assert_eq!(text(&value, &["a"]), None);
        assert_eq!(text(&value, &["b", "id"]), None);
    }
}
