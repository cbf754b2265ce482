//! The outermost members of an object that a sender wrote, found without building it.
//!
//! Ingest has checked the text and kept it as written: keys may have escapes, and there may be white space around them.
//! Where a text is not JSON after all, the walk ends early, so that nothing unread is passed on as read.

use std::borrow::Cow;

/// One member of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member<'a> {
    /// What the key says, without quotes and escapes.
    pub key: Cow<'a, str>,
    /// The value as written.
    pub value: &'a str,
    /// The whole member as written.
    pub written: &'a str,
}

/// The members of an object whose text, without braces, is `text`. A walk from front to back, whatever is in it.
pub fn of(text: &str) -> impl Iterator<Item = Member<'_>> {
    let mut rest = text.trim_ascii();
    std::iter::from_fn(move || {
        let (written, after) = split(rest, b',');
        rest = after;
        let (key, value) = split(written, b':');
        Some(Member { key: string(key.trim_ascii())?, value: value.trim_ascii(), written: written.trim_ascii() })
    })
}

/// Whether one of the members has this key.
#[must_use]
pub fn has(text: &str, key: &str) -> bool {
    value(text, key).is_some()
}

/// The value, as written, of the first member with this key.
#[must_use]
pub fn value<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    if text.is_empty() {
        return None; // as nearly always
    }
    of(text).find(|member| member.key == key).map(|member| member.value)
}

/// The elements of an array whose text, without brackets, is `text`, as written.
pub fn elements(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = Some(text.trim_ascii()).filter(|text| !text.is_empty());
    std::iter::from_fn(move || {
        let (element, after) = split(rest?, b',');
        rest = Some(after).filter(|after| !after.is_empty());
        Some(element.trim_ascii())
    })
}

/// What a JSON string says; `None` for any other value.
#[must_use]
pub fn string(value: &str) -> Option<Cow<'_, str>> {
    let inner = value.strip_prefix('"')?.strip_suffix('"')?;
    if inner.contains('\\') { unescaped(inner).map(Cow::Owned) } else { Some(Cow::Borrowed(inner)) }
}

/// What is before and after the first `mark` outside of strings, arrays and objects; without one, all is before it.
fn split(text: &str, mark: u8) -> (&str, &str) {
    let (mut depth, mut quoted, mut escaped) = (0_usize, false, false);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = quoted,
            b'"' => quoted = !quoted,
            _ if quoted => {}
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ if byte == mark && depth == 0 => {
                return text.get(..at).zip(text.get(at + 1..)).unwrap_or((text, ""));
            }
            _ => {}
        }
    }
    (text, "")
}

fn unescaped(text: &str) -> Option<String> {
    // By way of UTF-16, as that is what `\u` escapes are: two of them may make up one character.
    let mut units: Vec<u16> = Vec::with_capacity(text.len());
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        let plain = match letter {
            '\\' => match letters.next()? {
                'u' => {
                    let (digits, after) = letters.as_str().split_at_checked(4)?;
                    units.push(u16::from_str_radix(digits, 16).ok()?);
                    letters = after.chars();
                    continue;
                }
                'b' => '\u{8}',
                'f' => '\u{c}',
                'n' => '\n',
                'r' => '\r',
                't' => '\t',
                itself => itself,
            },
            plain => plain,
        };
        units.extend_from_slice(plain.encode_utf16(&mut [0; 2]));
    }
    String::from_utf16(&units).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Map, Value, json};

    #[track_caller]
    fn check(text: &str, expected: &[&str]) {
        let found: Vec<String> = of(text).map(|member| format!("{} = {}", member.key, member.value)).collect();
        assert_eq!(found, expected, "{text}");
    }

    #[test]
    fn only_the_outermost_members_are_walked() {
        check("", &[]);
        check("  ", &[]);
        check(r#""a":1"#, &["a = 1"]);
        check(r#""a":1,"b":null"#, &["a = 1", "b = null"]);
        check(r#" "a" : true , "b" : -1.5e3 "#, &["a = true", "b = -1.5e3"]);
        check(
            r#""a":{"email":1,"c":[2,3]},"b":[{"email":4},[5,6]]"#,
            &[r#"a = {"email":1,"c":[2,3]}"#, r#"b = [{"email":4},[5,6]]"#],
        );
        check(r#""":"""#, &[r#" = """#]);
    }

    #[test]
    fn marks_in_strings_are_text() {
        check(r#""a,b:c":",:{[","d":"]}""#, &[r#"a,b:c = ",:{[""#, r#"d = "]}""#]);
        check(r#""a":"\",\"b\":1","c":"\\","d":2"#, &[r#"a = "\",\"b\":1""#, r#"c = "\\""#, "d = 2"]);
        check(r#""a\"":{"b":"}\""},"c":1"#, &[r#"a" = {"b":"}\""}"#, "c = 1"]);
        check(r#""ä,":"ö:","ü":1"#, &[r#"ä, = "ö:""#, "ü = 1"]);
    }

    #[test]
    fn members_are_kept_as_written() {
        let written: Vec<&str> = of(r#" "\u0061" : [ 1 ] ,"b":2"#).map(|member| member.written).collect();
        assert_eq!(written, [r#""\u0061" : [ 1 ]"#, r#""b":2"#]);
    }

    #[test]
    fn the_walk_ends_where_the_text_is_no_object() {
        check("a:1", &[]);
        check(r#""a":1,b:2,"c":3"#, &["a = 1"]);
        check(r#""a":1,"\ud800":2,"c":3"#, &["a = 1"]);
    }

    #[test]
    fn keys_are_compared_without_their_escapes() {
        assert!(has(r#""a":1,"\u0065m\u0061il":2"#, "email"));
        assert!(!has(r#""a":{"email":1},"b":"email","Email":2"#, "email"));
    }

    #[test]
    fn elements_are_walked() {
        let walk = |text| elements(text).collect::<Vec<_>>();
        assert_eq!(walk(" "), [""; 0]);
        assert_eq!(walk(r#" 1 , "a,b" ,[2,3],{"c":4,"d":"]"} "#), ["1", r#""a,b""#, "[2,3]", r#"{"c":4,"d":"]"}"#]);
    }

    #[test]
    fn strings_are_read() {
        for (value, expected) in [
            (r#""""#, Some("")),
            (r#""email""#, Some("email")),
            (r#""\u0065mail""#, Some("email")),
            (r#""\\u0065""#, Some("\\u0065")),
            (r#""\"\\\/\b\f\n\r\t""#, Some("\"\\/\u{8}\u{c}\n\r\t")),
            (r#""\uD83D\ude00 ä""#, Some("😀 ä")),
            (r#""\ud83d""#, None),
            (r#""\u12""#, None),
            (r#""\""#, None),
            ("\"", None),
            ("null", None),
            ("1", None),
            (r#"["a"]"#, None),
        ] {
            assert_eq!(string(value).as_deref(), expected, "{value}");
        }
    }

    proptest! {
        #[test]
        fn agrees_with_a_general_parser(
            texts in proptest::collection::btree_map(any::<String>(), any::<String>(), 0..6)
        ) {
            let object: Map<String, Value> =
                texts.into_iter().map(|(key, text)| (key, json!([text, { "email": text }, text]))).collect();
            let whole = Value::from(object.clone()).to_string();
            let inner = whole.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')).unwrap();
            let read: Map<String, Value> = of(inner)
                .map(|member| (member.key.into_owned(), serde_json::from_str(member.value).unwrap()))
                .collect();
            prop_assert_eq!(read, object);
            let written: Vec<&str> = of(inner).map(|member| member.written).collect();
            prop_assert_eq!(written.join(","), inner);
        }
    }
}
