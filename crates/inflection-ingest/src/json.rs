//! A strict JSON reader that names what is wrong.
//!
//! The answers of this endpoint distinguish faults that general parsers report alike or repair (duplicate keys, lone
//! surrogates, numbers no double can hold, depth), and nested values are passed on as the sender wrote them. So this
//! reader walks the text once, hands out members of the outermost object, and checks nested values without building them.

use std::borrow::Cow;
use std::collections::HashSet;

/// What is wrong with a text as JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    Syntax,
    Utf8,
    Depth,
    DuplicateKey,
    Number,
}

/// Deepest nesting of one event, the event itself included.
pub(crate) const DEPTH_MAX: usize = 16;

/// A value: scalars are read, containers are checked and kept as text.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value<'a> {
    Null,
    Bool(bool),
    Number(&'a str),
    Text(Cow<'a, str>),
    /// The text of an array.
    Array,
    /// Members of an object as text, without braces, and how many keys they and everything below have.
    Object {
        members: &'a str,
        keys: usize,
    },
}

/// Reads a text from front to back.
#[derive(Debug, Clone)]
pub(crate) struct Reader<'a> {
    text: &'a str,
    at: usize,
    negative_zeros: bool,
}

impl<'a> Reader<'a> {
    /// Begins with a body. A byte order mark is not JSON.
    pub(crate) fn new(body: &'a [u8]) -> Result<Self, Fault> {
        let text = std::str::from_utf8(body).map_err(|_not_utf8| Fault::Utf8)?;
        Ok(Self::of(text))
    }

    pub(crate) fn of(text: &'a str) -> Self {
        Self { text, at: 0, negative_zeros: false }
    }

    /// Takes negative zeros too, for texts that are passed on as they are written.
    pub(crate) fn with_negative_zeros(self) -> Self {
        Self { negative_zeros: true, ..self }
    }

    fn byte(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn space(&mut self) {
        while matches!(self.byte(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    /// The next byte that is no white space, without taking it.
    pub(crate) fn peek(&mut self) -> Option<u8> {
        self.space();
        self.byte()
    }

    /// Takes `wanted` after white space, if it is there.
    pub(crate) fn take(&mut self, wanted: u8) -> bool {
        let found = self.peek() == Some(wanted);
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, wanted: u8) -> Result<(), Fault> {
        if self.take(wanted) { Ok(()) } else { Err(Fault::Syntax) }
    }

    /// Nothing may follow but white space.
    pub(crate) fn end(&mut self) -> Result<(), Fault> {
        if self.peek().is_none() { Ok(()) } else { Err(Fault::Syntax) }
    }

    pub(crate) fn position(&self) -> usize {
        self.at
    }

    /// The text from an earlier position to here.
    pub(crate) fn since(&self, start: usize) -> &'a str {
        self.text.get(start..self.at).unwrap_or_default()
    }

    /// Walks an object: `member` is called with each key and must read its value from the reader it is given.
    pub(crate) fn object<E: From<Fault>>(
        &mut self,
        member: impl FnMut(Cow<'a, str>, &mut Self) -> Result<(), E>,
    ) -> Result<(), E> {
        self.expect(b'{')?;
        if self.take(b'}') {
            return Ok(());
        }
        self.members(member)?;
        Ok(self.expect(b'}')?)
    }

    /// Walks the members of an object that has some, without its braces.
    pub(crate) fn members<E: From<Fault>>(
        &mut self,
        mut member: impl FnMut(Cow<'a, str>, &mut Self) -> Result<(), E>,
    ) -> Result<(), E> {
        loop {
            if self.peek() != Some(b'"') {
                return Err(Fault::Syntax.into());
            }
            let key = self.string()?;
            self.expect(b':')?;
            member(key, self)?;
            if !self.take(b',') {
                return Ok(());
            }
        }
    }

    /// Walks an array: `element` must read one value.
    pub(crate) fn array<E: From<Fault>>(
        &mut self,
        mut element: impl FnMut(&mut Self) -> Result<(), E>,
    ) -> Result<(), E> {
        self.expect(b'[')?;
        if self.take(b']') {
            return Ok(());
        }
        loop {
            element(self)?;
            if !self.take(b',') {
                return Ok(self.expect(b']')?);
            }
        }
    }

    /// Steps over a value by its brackets and quotes alone, and returns its text: what is wrong in it is for whoever
    /// reads that text to say.
    pub(crate) fn skim(&mut self) -> Result<&'a str, Fault> {
        if !matches!(self.peek(), Some(b'{' | b'[' | b'"')) {
            return self.skim_word();
        }
        let (start, mut depth, mut quoted) = (self.at, 0_usize, false);
        let mut bytes = self.rest().bytes().enumerate();
        while let Some((at, byte)) = bytes.next() {
            match byte {
                b'\\' if quoted => drop(bytes.next()),
                b'"' => quoted = !quoted,
                b'{' | b'[' if !quoted => depth += 1,
                b'}' | b']' if !quoted => depth = depth.saturating_sub(1),
                _ => {}
            }
            if depth == 0 && !quoted {
                self.at = start + at + 1;
                return Ok(self.since(start));
            }
        }
        Err(Fault::Syntax)
    }

    /// Steps over what is no string, array or object: a number or a word, of whatever letters.
    fn skim_word(&mut self) -> Result<&'a str, Fault> {
        let start = self.at;
        let ends = |byte| matches!(byte, b',' | b']' | b'}' | b' ' | b'\t' | b'\n' | b'\r');
        self.at += self.rest().bytes().position(ends).unwrap_or(self.rest().len());
        if self.at == start { Err(Fault::Syntax) } else { Ok(self.since(start)) }
    }

    /// Reads any value; `depth` is its own nesting, from 1.
    pub(crate) fn value(&mut self, depth: usize) -> Result<Value<'a>, Fault> {
        match self.peek().ok_or(Fault::Syntax)? {
            b'"' => Ok(Value::Text(self.string()?)),
            b'{' => {
                let start = self.at;
                let mut keys = 0;
                self.nested(depth, &mut keys)?;
                let whole = self.since(start);
                let members = whole.get(1..whole.len().saturating_sub(1)).unwrap_or_default().trim();
                Ok(Value::Object { members, keys })
            }
            b'[' => self.nested(depth, &mut 0).map(|()| Value::Array),
            b't' => self.word("true", Value::Bool(true)),
            b'f' => self.word("false", Value::Bool(false)),
            b'n' => self.word("null", Value::Null),
            b'N' | b'I' => Err(if self.rest().starts_with("NaN") || self.rest().starts_with("Infinity") {
                Fault::Number
            } else {
                Fault::Syntax
            }),
            b'-' | b'0'..=b'9' => self.number().map(Value::Number),
            _ => Err(Fault::Syntax),
        }
    }

    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn word(&mut self, word: &str, value: Value<'a>) -> Result<Value<'a>, Fault> {
        if !self.rest().starts_with(word) {
            return Err(Fault::Syntax);
        }
        self.at += word.len();
        Ok(value)
    }

    /// Checks a container and everything in it. Recursion ends at [`DEPTH_MAX`].
    fn nested(&mut self, depth: usize, keys: &mut usize) -> Result<(), Fault> {
        if depth > DEPTH_MAX {
            return Err(Fault::Depth);
        }
        if self.peek() == Some(b'[') {
            return self.array(|reader| reader.skip(depth + 1, keys));
        }
        let mut seen = Keys::default();
        self.object(|key, reader| {
            *keys += 1;
            seen.insert(key)?;
            reader.skip(depth + 1, keys)
        })
    }

    fn skip(&mut self, depth: usize, keys: &mut usize) -> Result<(), Fault> {
        match self.peek() {
            Some(b'{' | b'[') => self.nested(depth, keys),
            _ => self.value(depth).map(drop),
        }
    }

    /// A number as JSON writes it, that a double can hold, and that is not a negative zero unless these are taken.
    fn number(&mut self) -> Result<&'a str, Fault> {
        let start = self.at;
        let negative = self.byte() == Some(b'-');
        self.at += usize::from(negative);
        if self.rest().starts_with("Infinity") {
            return Err(Fault::Number);
        }
        let first = self.byte();
        let whole = self.digits()?;
        if first == Some(b'0') && whole > 1 {
            return Err(Fault::Syntax);
        }
        let mut plain = !negative;
        if self.byte() == Some(b'.') {
            self.at += 1;
            self.digits()?;
            plain = false;
        }
        if matches!(self.byte(), Some(b'e' | b'E')) {
            self.at += 1;
            self.at += usize::from(matches!(self.byte(), Some(b'+' | b'-')));
            self.digits()?;
            plain = false;
        }
        let text = self.since(start);
        if plain && whole <= 300 {
            return Ok(text); // below 1e300: no need to compute it
        }
        let number: f64 = text.parse().map_err(|_not_a_number| Fault::Syntax)?;
        let negative_zero = number == 0.0 && negative && !self.negative_zeros;
        if number.is_finite() && !negative_zero { Ok(text) } else { Err(Fault::Number) }
    }

    fn digits(&mut self) -> Result<usize, Fault> {
        let count = self.rest().bytes().take_while(u8::is_ascii_digit).count();
        self.at += count;
        if count == 0 { Err(Fault::Syntax) } else { Ok(count) }
    }

    /// A string, borrowed unless it has escapes.
    fn string(&mut self) -> Result<Cow<'a, str>, Fault> {
        self.expect(b'"')?;
        let start = self.at;
        self.at += special_at(self.text.as_bytes().get(self.at..).unwrap_or_default()).ok_or(Fault::Syntax)?;
        match self.byte() {
            Some(b'"') => {
                let text = self.since(start);
                self.at += 1;
                Ok(Cow::Borrowed(text))
            }
            Some(b'\\') => self.escaped_string(start),
            _ => Err(Fault::Syntax),
        }
    }

    fn escaped_string(&mut self, start: usize) -> Result<Cow<'a, str>, Fault> {
        let mut text = String::from(self.since(start));
        loop {
            let rest = self.rest();
            let run = special_at(rest.as_bytes()).ok_or(Fault::Syntax)?;
            text.push_str(rest.get(..run).unwrap_or_default());
            self.at += run + 1;
            match rest.as_bytes().get(run) {
                Some(b'"') => return Ok(Cow::Owned(text)),
                Some(b'\\') => text.push(self.escape()?),
                _ => return Err(Fault::Syntax),
            }
        }
    }

    fn escape(&mut self) -> Result<char, Fault> {
        let kind = self.byte().ok_or(Fault::Syntax)?;
        self.at += 1;
        Ok(match kind {
            b'"' => '"',
            b'\\' => '\\',
            b'/' => '/',
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                let unit = self.hex()?;
                match unit {
                    0xd800..=0xdbff => {
                        if !self.rest().starts_with("\\u") {
                            return Err(Fault::Utf8);
                        }
                        self.at += 2;
                        let low = self.hex()?;
                        if !(0xdc00..=0xdfff).contains(&low) {
                            return Err(Fault::Utf8);
                        }
                        char::from_u32(0x10000 + ((unit - 0xd800) << 10) + (low - 0xdc00)).ok_or(Fault::Utf8)?
                    }
                    _ => char::from_u32(unit).ok_or(Fault::Utf8)?,
                }
            }
            _ => return Err(Fault::Syntax),
        })
    }

    fn hex(&mut self) -> Result<u32, Fault> {
        let digits = self.rest().get(..4).ok_or(Fault::Syntax)?;
        if !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(Fault::Syntax);
        }
        self.at += 4;
        u32::from_str_radix(digits, 16).map_err(|_checked| Fault::Syntax)
    }
}

/// Where the first byte is that ends a string or a part of it: a quote, an escape, or what must not stand in one. Eight bytes
/// are looked at together.
fn special_at(bytes: &[u8]) -> Option<usize> {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    const HIGH: u64 = ONES << 7;
    // Each has the highest bit of every byte that is meant; and of others, but only above one that is.
    let below = |bytes: u64, limit: u64| bytes.wrapping_sub(ONES * limit) & !bytes & HIGH;
    let equal = |bytes: u64, byte: u8| below(bytes ^ (ONES * u64::from(byte)), 1);
    let (chunks, rest) = bytes.as_chunks::<8>();
    for (index, chunk) in chunks.iter().enumerate() {
        let chunk = u64::from_le_bytes(*chunk);
        let found = below(chunk, 0x20) | equal(chunk, b'"') | equal(chunk, b'\\');
        if found != 0 {
            return Some(index * 8 + found.trailing_zeros() as usize / 8);
        }
    }
    let special = |byte: &u8| matches!(byte, b'"' | b'\\' | 0..=0x1f);
    rest.iter().position(special).map(|at| chunks.len() * 8 + at)
}

/// The value of a text that has been read as a part of another, and was sound.
#[expect(clippy::expect_used, reason = "the same text was read before, under stricter rules")]
pub(crate) fn read_again(written: &str) -> Value<'_> {
    Reader::of(written).with_negative_zeros().value(1).expect("a part of a sound text is sound")
}

/// Keys of one object seen so far: a short list while there are few, a set beyond.
#[derive(Debug, Default)]
pub(crate) struct Keys<'a> {
    few: Vec<Cow<'a, str>>,
    many: HashSet<Cow<'a, str>>,
}

impl<'a> Keys<'a> {
    const FEW: usize = 16;

    pub(crate) fn insert(&mut self, key: Cow<'a, str>) -> Result<(), Fault> {
        if self.few.contains(&key) {
            return Err(Fault::DuplicateKey);
        }
        if self.few.len() < Self::FEW {
            self.few.push(key);
        } else if !self.many.insert(key) {
            return Err(Fault::DuplicateKey);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: &str) -> Result<Value<'_>, Fault> {
        let mut reader = Reader::new(text.as_bytes())?;
        let value = reader.value(1)?;
        reader.end()?;
        Ok(value)
    }

    #[test]
    fn faults_have_names() {
        let deep = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        let digits = "9".repeat(400);
        for (text, expected) in [
            ("", Fault::Syntax),
            ("{\"a\":1", Fault::Syntax),
            ("{\"a\":1}x", Fault::Syntax),
            ("\u{feff}{}", Fault::Syntax),
            ("{'a':1}", Fault::Syntax),
            ("{\"a\":1,}", Fault::Syntax),
            ("[1,]", Fault::Syntax),
            ("// x\n1", Fault::Syntax),
            ("\"a\nb\"", Fault::Syntax),
            ("01", Fault::Syntax),
            ("1.", Fault::Syntax),
            ("+1", Fault::Syntax),
            ("\"\\x\"", Fault::Syntax),
            ("\"\\u12g4\"", Fault::Syntax),
            ("{\"a\":1,\"a\":2}", Fault::DuplicateKey),
            ("{\"a\":1,\"\\u0061\":2}", Fault::DuplicateKey),
            ("[{\"x\":{\"a\":1,\"a\":2}}]", Fault::DuplicateKey),
            ("\"\\ud800\"", Fault::Utf8),
            ("\"\\ud800\\u0041\"", Fault::Utf8),
            ("\"\\udc00\"", Fault::Utf8),
            ("NaN", Fault::Number),
            ("Infinity", Fault::Number),
            ("-Infinity", Fault::Number),
            ("1e999", Fault::Number),
            ("-0", Fault::Number),
            ("-0.0", Fault::Number),
            (&digits, Fault::Number),
            (&deep(17), Fault::Depth),
            (&"[".repeat(100_000), Fault::Depth),
        ] {
            assert_eq!(read(text), Err(expected), "{}", text.chars().take(40).collect::<String>());
        }
        assert!(read(&deep(16)).is_ok());
        assert_eq!(Reader::new(b"\"\xff\"").err(), Some(Fault::Utf8));
        let many: Vec<String> = (0..100).chain([50]).map(|key| format!("\"{key}\":1")).collect();
        assert_eq!(read(&format!("{{{}}}", many.join(","))), Err(Fault::DuplicateKey));
    }

    #[test]
    fn containers_are_kept_as_written() {
        let value = read(" { \"a\" : { \"b\" : [ 1 , {\"c\":2} ] } } ").unwrap();
        assert_eq!(value, Value::Object { members: "\"a\" : { \"b\" : [ 1 , {\"c\":2} ] }", keys: 3 });
        assert_eq!(read("\"\\ud83d\\ude00\\n\""), Ok(Value::Text("😀\n".into())));
    }

    #[test]
    fn brackets_are_skimmed_whatever_is_between_them() {
        for (text, expected) in [
            ("{} x", Some("{}")),
            (" [1,[2],{\"a\":[]}],", Some("[1,[2],{\"a\":[]}]")),
            (r#"{"a":"}","b\"}":"\\"}}"#, Some(r#"{"a":"}","b\"}":"\\"}"#)),
            ("{\"a\":1,\"a\":NaN,\"\\ud800\":-0}", Some("{\"a\":1,\"a\":NaN,\"\\ud800\":-0}")),
            (r#"{"ä":"ö}"}"#, Some(r#"{"ä":"ö}"}"#)),
            ("NaN,1", Some("NaN")),
            (" -1.5e3 ]", Some("-1.5e3")),
            ("ä}", Some("ä")),
            (r#""a,\"]" ,"#, Some(r#""a,\"]""#)),
            (",", None),
            ("", None),
            ("{\"a\":\"", None),
            ("[[]", None),
            ("{\"a\\", None),
        ] {
            assert_eq!(Reader::of(text).skim().ok(), expected, "{text}");
        }
    }

    #[test]
    fn negative_zeros_are_taken_where_they_are_passed_on() {
        for (text, taken) in
            [("-0", true), ("[-0.0]", true), ("{\"a\":-0e-9}", true), ("-1e999", false), ("NaN", false)]
        {
            assert!(read(text).is_err(), "{text}");
            assert_eq!(Reader::of(text).with_negative_zeros().value(1).is_ok(), taken, "{text}");
        }
    }

    fn json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<i64>().prop_map(Into::into),
            any::<String>().prop_map(Into::into),
        ];
        leaf.prop_recursive(4, 40, 6, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..6).prop_map(Into::into),
                proptest::collection::btree_map(any::<String>(), inner, 0..6)
                    .prop_map(|map| map.into_iter().collect::<serde_json::Map<_, _>>().into()),
            ]
        })
    }

    proptest! {
        #[test]
        fn the_first_special_byte_is_found(
            bytes in proptest::collection::vec(
                prop_oneof![4 => any::<u8>(), 1 => Just(b'"'), 1 => Just(b'\\'), 9 => b' '..=b'!'],
                0..40,
            ),
        ) {
            let first = bytes.iter().position(|byte| *byte < 0x20 || *byte == b'"' || *byte == b'\\');
            prop_assert_eq!(special_at(&bytes), first);
        }

        #[test]
        fn what_another_writer_writes_is_read(value in json()) {
            prop_assert!(read(&value.to_string()).is_ok());
        }

        #[test]
        fn agrees_with_a_general_parser_on_garbage(text in "[\\[\\]{}:,\"a0-9eE.+\\-\\\\ntrufals ]{0,24}") {
            if let Ok(value) = read(&text) {
                prop_assert!(serde_json::from_str::<serde_json::Value>(&text).is_ok(), "{:?}", value);
            }
        }
    }
}
