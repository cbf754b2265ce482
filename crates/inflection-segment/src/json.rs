//! Writing JSON straight into a buffer: no tree, no formatting machinery, one pass.

/// Appends a JSON string with its quotes.
pub fn string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    if is_plain(text.as_bytes()) {
        out.extend_from_slice(text.as_bytes());
    } else {
        escaped(out, text);
    }
    out.push(b'"');
}

fn escaped(out: &mut Vec<u8>, text: &str) {
    let mut rest = text.as_bytes();
    while let Some(at) = rest.iter().position(|byte| is_special(*byte)) {
        let (plain, special) = rest.split_at_checked(at).unwrap_or_default();
        out.extend_from_slice(plain);
        let Some((byte, tail)) = special.split_first() else { return };
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            other => {
                const DIGITS: &[u8; 16] = b"0123456789abcdef";
                let digit = |value: u8| DIGITS.get(usize::from(value)).copied().unwrap_or(b'0');
                out.extend_from_slice(&[b'\\', b'u', b'0', b'0', digit(other >> 4), digit(other & 15)]);
            }
        }
        rest = tail;
    }
    out.extend_from_slice(rest);
}

/// Whether a byte cannot stand in a string as it is.
fn is_special(byte: u8) -> bool {
    byte < 0x20 || byte == b'"' || byte == b'\\'
}

/// Whether a text can stand in a string as it is, as most can. So many bytes are looked at together as one instruction
/// takes; the last of them, where they do not fill a chunk, together with some that were looked at before.
fn is_plain(bytes: &[u8]) -> bool {
    let plain = |chunk: &[u8]| !chunk.iter().fold(false, |special, byte| special | is_special(*byte));
    let (chunks, rest) = bytes.as_chunks::<16>();
    chunks.iter().all(|chunk| plain(chunk))
        && (rest.is_empty()
            || match (bytes.last_chunk::<16>(), bytes.first_chunk::<8>(), bytes.last_chunk::<8>()) {
                (Some(last), ..) => plain(last),
                (None, Some(first), Some(last)) => plain(first) && plain(last),
                _ => plain(rest),
            })
}

/// Writes one JSON object, member by member. Keys need no escapes.
#[derive(Debug)]
pub struct Object<'a> {
    out: &'a mut Vec<u8>,
    empty: bool,
}

impl<'a> Object<'a> {
    /// Opens an object at the end of `out`.
    pub fn open(out: &'a mut Vec<u8>) -> Self {
        out.push(b'{');
        Self { out, empty: true }
    }

    /// Keys are names of ours, which can stand in a string as they are.
    fn key(&mut self, key: &str) {
        debug_assert!(is_plain(key.as_bytes()), "{key} needs escapes");
        self.out.extend_from_slice(if self.empty { b"\"" } else { b",\"" });
        self.empty = false;
        self.out.extend_from_slice(key.as_bytes());
        self.out.extend_from_slice(b"\":");
    }

    /// A text member.
    pub fn text(&mut self, key: &str, value: &str) {
        self.key(key);
        string(self.out, value);
    }

    /// A text member, unless it is absent or empty: Segment takes an empty text for a value.
    pub fn text_if(&mut self, key: &str, value: Option<&str>) {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            self.text(key, value);
        }
    }

    /// A boolean member.
    pub fn bool(&mut self, key: &str, value: bool) {
        self.key(key);
        self.out.extend_from_slice(if value { b"true" } else { b"false" });
    }

    /// A member that is an object.
    pub fn object(&mut self, key: &str, write: impl FnOnce(&mut Object<'_>)) {
        self.key(key);
        let mut inner = Object::open(self.out);
        write(&mut inner);
        inner.close();
    }

    /// Members that are JSON already, without braces.
    pub fn members(&mut self, members: &str) {
        if members.is_empty() {
            return;
        }
        if !self.empty {
            self.out.push(b',');
        }
        self.empty = false;
        self.out.extend_from_slice(members.as_bytes());
    }

    /// Closes the object.
    pub fn close(self) {
        self.out.push(b'}');
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn objects_nest_and_commas_are_right() {
        let mut out = Vec::new();
        let mut object = Object::open(&mut out);
        object.members("");
        object.text("a", "1");
        object.text_if("b", None);
        object.text_if("c", Some(""));
        object.members("\"d\":[1]");
        object.object("e", |inner| inner.bool("f", true));
        object.object("g", |_| {});
        object.close();
        assert_eq!(String::from_utf8(out).unwrap(), r#"{"a":"1","d":[1],"e":{"f":true},"g":{}}"#);
    }

    proptest! {
        #[test]
        fn any_text_survives(text in any::<String>()) {
            let mut out = Vec::new();
            string(&mut out, &text);
            let read: String = serde_json::from_slice(&out).unwrap();
            prop_assert_eq!(read, text);
        }

        #[test]
        fn a_special_byte_is_found_wherever_it_is(length in 0usize..70, at in 0usize..70, byte in any::<u8>()) {
            let mut bytes = vec![b'!'; length];
            if let Some(place) = bytes.get_mut(at) {
                *place = byte;
            }
            prop_assert_eq!(is_plain(&bytes), !bytes.iter().any(|byte| is_special(*byte)));
        }
    }
}
