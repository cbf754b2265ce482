//! Protobuf by hand, for the messages that every event passes through: read without copying, written without building
//! the message first. The rest of the crate uses the generated types; both are the same bytes, and tests compare them.

use crate::DecodeError;

/// One field of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Field<'a> {
    /// An integer, enum or flag.
    Varint(u64),
    /// Eight bytes.
    Fixed64(u64),
    /// A text, bytes or message.
    Bytes(&'a [u8]),
    /// Four bytes, or a group; we have no such fields, but a later version may.
    Foreign,
}

impl<'a> Field<'a> {
    pub(crate) fn varint(self) -> u64 {
        match self {
            Self::Varint(value) | Self::Fixed64(value) => value,
            Self::Bytes(_) | Self::Foreign => 0,
        }
    }

    pub(crate) fn bytes(self) -> &'a [u8] {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Varint(_) | Self::Fixed64(_) | Self::Foreign => &[],
        }
    }

    pub(crate) fn text(self, name: &'static str) -> Result<&'a str, DecodeError> {
        std::str::from_utf8(self.bytes()).map_err(|_not_utf8| DecodeError::Field(name))
    }

    pub(crate) fn flag(self) -> bool {
        self.varint() != 0
    }

    /// An enum's number; numbers of later versions stay what they are.
    pub(crate) fn number(self) -> i32 {
        // Enums and int32 are written as 64 bits with their sign; the low half is the number.
        let [a, b, c, d, ..] = self.varint().to_le_bytes();
        i32::from_le_bytes([a, b, c, d])
    }
}

/// The fields of a message, in order: number and value.
#[derive(Debug, Clone)]
pub(crate) struct Fields<'a> {
    rest: &'a [u8],
}

const CUT: DecodeError = DecodeError::Field("a field that is cut short or of no known kind");

impl<'a> Fields<'a> {
    pub(crate) fn of(message: &'a [u8]) -> Self {
        Self { rest: message }
    }

    fn varint(&mut self) -> Option<u64> {
        // Nearly all are one byte long: keys, flags, lengths of texts.
        if let Some((&byte, rest)) = self.rest.split_first()
            && byte < 0x80
        {
            self.rest = rest;
            return Some(u64::from(byte));
        }
        self.long_varint()
    }

    fn long_varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..70).step_by(7) {
            let (byte, rest) = self.rest.split_first()?;
            self.rest = rest;
            value |= u64::from(byte & 0x7f).checked_shl(shift)?;
            if *byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(count)?;
        self.rest = rest;
        Some(taken)
    }

    /// Goes behind the end of a group that has begun. Groups within it are counted and not descended into, so that depth costs
    /// nothing.
    fn skip_group(&mut self, number: u64) -> Option<()> {
        let mut open = vec![number];
        while let Some(innermost) = open.last() {
            let key = self.varint()?;
            match key & 7 {
                0 => drop(self.varint()?),
                1 => drop(self.take(8)?),
                2 => {
                    let length = usize::try_from(self.varint()?).ok()?;
                    self.take(length)?;
                }
                3 => open.push(key >> 3),
                4 if key >> 3 == *innermost => drop(open.pop()),
                5 => drop(self.take(4)?),
                _ => return None,
            }
        }
        Some(())
    }

    fn field(&mut self) -> Option<(u32, Field<'a>)> {
        let key = self.varint()?;
        let field = match key & 7 {
            0 => Field::Varint(self.varint()?),
            1 => Field::Fixed64(u64::from_le_bytes(self.take(8)?.try_into().ok()?)),
            2 => {
                let length = usize::try_from(self.varint()?).ok()?;
                Field::Bytes(self.take(length)?)
            }
            3 => {
                self.skip_group(key >> 3)?;
                Field::Foreign
            }
            5 => {
                self.take(4)?;
                Field::Foreign
            }
            _ => return None,
        };
        Some((u32::try_from(key >> 3).ok()?, field))
    }

    /// The next field; `None` at the end.
    pub(crate) fn next(&mut self) -> Result<Option<(u32, Field<'a>)>, DecodeError> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        match self.field() {
            Some(field) => Ok(Some(field)),
            None => Err(CUT),
        }
    }
}

pub(crate) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(low_seven(value) | 0x80);
        value >>= 7;
    }
    out.push(low_seven(value));
}

fn low_seven(value: u64) -> u8 {
    let [low, ..] = (value & 0x7f).to_le_bytes();
    low
}

/// Writes an integer, enum or flag; zero is what is absent.
pub(crate) fn put_number(out: &mut Vec<u8>, field: u32, value: u64) {
    if value != 0 {
        put_varint(out, u64::from(field) << 3);
        put_varint(out, value);
    }
}

pub(crate) fn put_fixed64(out: &mut Vec<u8>, field: u32, value: u64) {
    if value != 0 {
        put_varint(out, u64::from(field) << 3 | 1);
        out.extend_from_slice(&value.to_le_bytes());
    }
}

/// Writes a text or bytes; empty is what is absent.
pub(crate) fn put_bytes(out: &mut Vec<u8>, field: u32, bytes: &[u8]) {
    if !bytes.is_empty() {
        put_varint(out, u64::from(field) << 3 | 2);
        put_varint(out, bytes.len() as u64);
        out.extend_from_slice(bytes);
    }
}

/// Writes a message.
///
/// Its length comes before it but is known after it; two bytes are left for it, since most messages are 128 to 16,383
/// bytes long. Others are moved to where they belong.
pub(crate) fn put_message(out: &mut Vec<u8>, field: u32, write: impl FnOnce(&mut Vec<u8>)) {
    put_varint(out, u64::from(field) << 3 | 2);
    let start = out.len();
    out.extend_from_slice(&[0; 2]);
    write(out);
    let end = out.len();
    put_varint(out, (end - start - 2) as u64);
    let length_bytes = out.len() - end;
    if let &[low, high] = out.get(end..).unwrap_or_default() {
        if let Some([a, b, ..]) = out.get_mut(start..) {
            (*a, *b) = (low, high);
        }
        out.truncate(end);
    } else {
        out.get_mut(start..).unwrap_or_default().rotate_right(length_bytes);
        out.drain(start + length_bytes..start + length_bytes + 2);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_every_size_have_their_length() {
        for size in [0usize, 1, 126, 127, 128, 129, 300, 16_382, 16_383, 16_384, 16_385, 300_000] {
            let mut out = b"before".to_vec();
            put_message(&mut out, 7, |out| {
                if size > 0 {
                    out.resize(out.len() + size, b'x');
                }
            });
            put_number(&mut out, 1, 300);
            let mut fields = Fields::of(&out[6..]);
            let (number, field) = fields.next().unwrap().unwrap();
            assert_eq!((number, field.bytes().len()), (7, size));
            assert!(field.bytes().iter().all(|byte| *byte == b'x'));
            assert_eq!(fields.next().unwrap(), Some((1, Field::Varint(300))), "size {size}");
            assert_eq!(fields.next().unwrap(), None);
        }
    }

    #[test]
    fn what_is_cut_is_refused() {
        let mut out = Vec::new();
        put_bytes(&mut out, 3, b"text");
        put_fixed64(&mut out, 4, 7);
        put_number(&mut out, 5, u64::MAX);
        let read = |bytes: &[u8]| {
            let mut fields = Fields::of(bytes);
            let mut count = 0;
            while fields.next()?.is_some() {
                count += 1;
            }
            Ok::<_, DecodeError>(count)
        };
        assert_eq!(read(&out).unwrap(), 3);
        let ends = [6, 15, out.len()];
        for end in 1..out.len() {
            assert_eq!(read(&out[..end]).is_ok(), ends.contains(&end), "cut at {end}");
        }
    }
}
