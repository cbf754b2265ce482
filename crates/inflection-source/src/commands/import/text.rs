//! Records of a text: its lines, or the rows of a CSV (RFC 4180), each with where it stands.

use std::io::{self, Read};

use memchr::{memchr, memchr_iter};
use serde::{Deserialize, Serialize};

/// Most bytes of a record. One event may be 32 KiB; this is for what stands around it, and for telling what is wrong.
const RECORD_BYTES_MAX: usize = 1024 * 1024;
/// Bytes read at once.
const READ_BYTES: usize = 256 * 1024;
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// What ends a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    /// A line break.
    Lines,
    /// A line break outside of quotes.
    Rows {
        /// What stands between fields.
        delimiter: u8,
        /// How many fields a row has, once the header is read.
        columns: Option<usize>,
    },
}

/// A place in a text, between two records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Position {
    /// Bytes before it, of the text as it is when it is unpacked.
    pub(super) offset: u64,
    /// Lines before it.
    pub(super) lines: u64,
}

/// Why a record is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flaw {
    /// It has more than a mebibyte; only its beginning is kept.
    TooLong,
    /// A quote is opened and not closed.
    OpenQuote,
    /// A quote is opened and closed in a later line, and what it makes is no row.
    StrayQuote,
}

/// One record, without its line break.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Record<'t> {
    /// The line it begins in; the first is 1.
    pub(super) line: u64,
    pub(super) bytes: &'t [u8],
    pub(super) flaw: Option<Flaw>,
    /// Where the next one begins.
    pub(super) end: Position,
}

/// A text that is read from front to back, with bounded memory.
#[derive(Debug)]
pub(super) struct Text<R> {
    input: R,
    framing: Framing,
    buffer: Vec<u8>,
    /// Where in the buffer the next record begins.
    start: usize,
    at: Position,
    ended: bool,
    /// The beginning of a record that is too long.
    long: Vec<u8>,
}

/// A record in what is read so far: its bytes, and those to its end.
struct Found {
    len: usize,
    taken: usize,
    flaw: Option<Flaw>,
}

impl<R: Read> Text<R> {
    pub(super) fn new(input: R) -> Self {
        Self {
            input,
            framing: Framing::Lines,
            buffer: Vec::with_capacity(READ_BYTES),
            start: 0,
            at: Position::default(),
            ended: false,
            long: Vec::new(),
        }
    }

    /// Says what ends a record; lines do, else.
    pub(super) fn set_framing(&mut self, framing: Framing) {
        self.framing = framing;
    }

    /// The first byte that is no white space, if there is one among the first bytes.
    pub(super) fn first_byte(&mut self) -> io::Result<Option<u8>> {
        if self.buffer.is_empty() {
            self.fill()?;
        }
        let text = self.buffer.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&self.buffer);
        Ok(text.iter().find(|byte| !byte.is_ascii_whitespace()).copied())
    }

    /// Goes on at a later place.
    ///
    /// # Errors
    /// What the input says, and that the text ends before.
    pub(super) fn skip_to(&mut self, position: Position) -> io::Result<()> {
        let mut left = position.offset.saturating_sub(self.at.offset);
        let held = self.buffer.len() - self.start;
        let of_held = usize::try_from(left).unwrap_or(usize::MAX).min(held);
        self.start += of_held;
        left -= of_held as u64;
        if io::copy(&mut self.input.by_ref().take(left), &mut io::sink())? < left {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the text ends before that place"));
        }
        self.at = position;
        Ok(())
    }

    /// Where the next record begins.
    pub(super) fn position(&self) -> Position {
        self.at
    }

    /// The next record; `None` at the end.
    pub(super) fn next(&mut self) -> io::Result<Option<Record<'_>>> {
        let found = loop {
            let rest = self.buffer.get(self.start..).unwrap_or_default();
            match find(rest, self.framing, self.ended) {
                Some(found) => break found,
                None if self.ended => return Ok(None),
                None => self.fill()?,
            }
        };
        let (began, start) = (self.at, self.start);
        self.advance(found.taken);
        let mut bytes = if found.flaw == Some(Flaw::TooLong) {
            self.long = self.buffer.get(start..start + found.len).unwrap_or_default().to_vec();
            self.skip_line()?;
            &self.long[..]
        } else {
            self.buffer.get(start..start + found.len).unwrap_or_default()
        };
        if began.offset == 0 {
            bytes = bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(bytes);
        }
        bytes = bytes.strip_suffix(b"\r").unwrap_or(bytes);
        Ok(Some(Record { line: began.lines + 1, bytes, flaw: found.flaw, end: self.at }))
    }

    fn advance(&mut self, bytes: usize) {
        let taken = self.buffer.get(self.start..self.start + bytes).unwrap_or_default();
        self.at.lines += memchr_iter(b'\n', taken).count() as u64;
        self.at.offset += taken.len() as u64;
        self.start += bytes;
    }

    /// Throws the rest of a line away.
    fn skip_line(&mut self) -> io::Result<()> {
        loop {
            let rest = self.buffer.get(self.start..).unwrap_or_default();
            match memchr(b'\n', rest) {
                Some(end) => {
                    self.advance(end + 1);
                    return Ok(());
                }
                None => self.advance(rest.len()),
            }
            if self.ended {
                return Ok(());
            }
            self.fill()?;
        }
    }

    /// Reads on. What is before the next record is let go.
    fn fill(&mut self) -> io::Result<()> {
        self.buffer.drain(..self.start);
        self.start = 0;
        let read = self.input.by_ref().take(READ_BYTES as u64).read_to_end(&mut self.buffer)?;
        self.ended = read == 0;
        Ok(())
    }
}

/// The first record of what is read so far, if that shows it. What it is depends on the text alone and not on how much of it is
/// read: who goes on at a place finds the same records as who came by.
fn find(rest: &[u8], framing: Framing, ended: bool) -> Option<Found> {
    let within = rest.get(..=RECORD_BYTES_MAX).unwrap_or(rest);
    let is_long = rest.len() > RECORD_BYTES_MAX;
    let end = match framing {
        Framing::Lines => memchr(b'\n', within),
        Framing::Rows { delimiter, .. } => end_of_row(within, delimiter),
    };
    let flaw = match end {
        Some(len) if is_stray(within.get(..len).unwrap_or_default(), framing) => Flaw::StrayQuote,
        Some(len) => return Some(Found { len, taken: len + 1, flaw: None }),
        None if rest.is_empty() || !(ended || is_long) => return None,
        None => Flaw::OpenQuote,
    };
    // A row that has line breaks and is none has a quote too many: its first line is to blame, and it alone.
    match memchr(b'\n', within) {
        Some(len) => Some(Found { len, taken: len + 1, flaw: Some(flaw) }),
        None if is_long => Some(Found { len: RECORD_BYTES_MAX, taken: RECORD_BYTES_MAX, flaw: Some(Flaw::TooLong) }),
        None => {
            let open = matches!(framing, Framing::Rows { delimiter, .. } if is_open(rest, delimiter));
            Some(Found { len: rest.len(), taken: rest.len(), flaw: open.then_some(flaw) })
        }
    }
}

/// Whether a row has line breaks and not as many fields as it should: then a quote that stands alone has run it together with
/// others.
fn is_stray(row: &[u8], framing: Framing) -> bool {
    match framing {
        Framing::Rows { delimiter, columns: Some(columns) } if memchr(b'\n', row).is_some() => {
            let mut place = Place::FieldBegins;
            let delimiters = row.iter().filter(|byte| {
                place = place.after(**byte, delimiter);
                place == Place::FieldBegins
            });
            delimiters.count() + 1 != columns
        }
        Framing::Lines | Framing::Rows { .. } => false,
    }
}

/// Where in a row one is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    FieldBegins,
    Plain,
    Quoted,
    /// After a quote that ends the field, or is the first of two that stand for one.
    QuoteEnds,
}

impl Place {
    fn after(self, byte: u8, delimiter: u8) -> Self {
        match (self, byte) {
            (Self::FieldBegins | Self::QuoteEnds, b'"') => Self::Quoted,
            (Self::Quoted, b'"') => Self::QuoteEnds,
            (Self::Quoted, _) => Self::Quoted,
            (_, byte) if byte == delimiter => Self::FieldBegins,
            _ => Self::Plain,
        }
    }
}

fn end_of_row(rest: &[u8], delimiter: u8) -> Option<usize> {
    let mut place = Place::FieldBegins;
    rest.iter().position(|byte| {
        if *byte == b'\n' && place != Place::Quoted {
            return true;
        }
        place = place.after(*byte, delimiter);
        false
    })
}

fn is_open(row: &[u8], delimiter: u8) -> bool {
    let last = row.iter().fold(Place::FieldBegins, |place, byte| place.after(*byte, delimiter));
    last == Place::Quoted
}

/// The fields of a row; one that is used again and again takes no new memory.
#[derive(Debug, Default)]
pub(super) struct Fields {
    text: Vec<u8>,
    ends: Vec<usize>,
}

impl Fields {
    /// Splits a row.
    pub(super) fn read(&mut self, row: &str, delimiter: u8) {
        self.text.clear();
        self.ends.clear();
        let mut place = Place::FieldBegins;
        for byte in row.bytes() {
            let next = place.after(byte, delimiter);
            match (place, next) {
                (Place::FieldBegins, Place::Quoted) | (Place::Quoted, Place::QuoteEnds) => {}
                (_, Place::FieldBegins) => self.ends.push(self.text.len()),
                _ => self.text.push(byte),
            }
            place = next;
        }
        self.ends.push(self.text.len());
    }

    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// A field, without its quotes.
    pub(super) fn get(&self, index: usize) -> Option<&str> {
        let end = *self.ends.get(index)?;
        let start = index.checked_sub(1).and_then(|before| self.ends.get(before).copied()).unwrap_or(0);
        // Cut at delimiters and quotes, which are single bytes of a text that is UTF-8.
        std::str::from_utf8(self.text.get(start..end)?).ok()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ROWS: Framing = Framing::Rows { delimiter: b',', columns: None };

    fn records(bytes: &[u8], framing: Framing) -> Vec<(u64, String, Option<Flaw>, Position)> {
        let mut text = Text::new(bytes);
        text.set_framing(framing);
        let mut found = Vec::new();
        while let Some(record) = text.next().unwrap() {
            let bytes = String::from_utf8_lossy(record.bytes).into_owned();
            found.push((record.line, bytes, record.flaw, record.end));
        }
        found
    }

    #[track_caller]
    fn check(text: &str, framing: Framing, expected: &[(u64, &str, Option<Flaw>)]) {
        let found = records(text.as_bytes(), framing);
        let seen: Vec<_> = found.iter().map(|(line, text, flaw, _)| (*line, text.as_str(), *flaw)).collect();
        assert_eq!(seen, expected, "{text:?}");
    }

    #[test]
    fn lines_have_numbers_whatever_their_breaks() {
        check("a\nb\r\n\nc", Framing::Lines, &[(1, "a", None), (2, "b", None), (3, "", None), (4, "c", None)]);
        check("\u{feff}a\n\u{feff}b\n", Framing::Lines, &[(1, "a", None), (2, "\u{feff}b", None)]);
        check("", Framing::Lines, &[]);
    }

    #[test]
    fn quoted_breaks_end_no_row() {
        check("a,\"b\n\"\"c\"\"\"\nd\n", ROWS, &[(1, "a,\"b\n\"\"c\"\"\"", None), (3, "d", None)]);
        check("5\" pipe,x\ny\n", ROWS, &[(1, "5\" pipe,x", None), (2, "y", None)]);
    }

    #[test]
    fn a_quote_that_is_not_closed_costs_one_line() {
        let open = Some(Flaw::OpenQuote);
        check("a\n\"b,c\nd\ne\n", ROWS, &[(1, "a", None), (2, "\"b,c", open), (3, "d", None), (4, "e", None)]);
        check("a\n\"b", ROWS, &[(1, "a", None), (2, "\"b", open)]);
    }

    #[test]
    fn a_stray_quote_costs_one_line() {
        let (two, stray) = (Framing::Rows { delimiter: b',', columns: Some(2) }, Some(Flaw::StrayQuote));
        let rows = "a,b\n\"c,d\ne,f\ng,\"h\"\ni,\"j\nk\"\n";
        let expected =
            [(1, "a,b", None), (2, "\"c,d", stray), (3, "e,f", None), (4, "g,\"h\"", None), (5, "i,\"j\nk\"", None)];
        check(rows, two, &expected);
        // Far more lines than the quote had swallowed before.
        let text = format!("\"a,b\n{}c,\"d\"\n", "1,2\n".repeat(100_000));
        let found = records(text.as_bytes(), two);
        let refused: Vec<u64> = found.iter().filter(|(_, _, flaw, _)| flaw.is_some()).map(|(line, ..)| *line).collect();
        assert_eq!((found.len(), refused), (100_002, vec![1]));
    }

    /// Wherever reading began, and so whatever is read ahead.
    #[test]
    fn what_is_too_long_is_so_whatever_is_read_of_it() {
        for (framing, quote) in [(Framing::Lines, ""), (ROWS, "\"")] {
            for (bytes, is_long) in [(RECORD_BYTES_MAX, false), (RECORD_BYTES_MAX + 1, true)] {
                let long = format!("{quote}{}{quote}", "x".repeat(bytes - 2 * quote.len()));
                for before in [0, 1, READ_BYTES / 2, READ_BYTES - 1] {
                    for end in ["", "\n", "\nb\n"] {
                        let text = format!("{}{long}{end}", "\n".repeat(before));
                        let found = records(text.as_bytes(), framing);
                        let (_, shown, flaw, _) = &found[before];
                        let seen = (shown.len(), *flaw, found.len() - before);
                        let flaw = is_long.then_some(Flaw::TooLong);
                        let others = usize::from(end.contains('b'));
                        assert_eq!(seen, (RECORD_BYTES_MAX, flaw, 1 + others), "{bytes} after {before}, then {end:?}");
                    }
                }
            }
        }
        // One with line breaks is cut at the first of them.
        let rows = format!("\"a\n{}\"\nb\n", "x\n".repeat(RECORD_BYTES_MAX / 2));
        let found = records(rows.as_bytes(), ROWS);
        assert_eq!(found[0].2, Some(Flaw::OpenQuote));
        assert_eq!(found[1].1, "x");
    }

    #[test]
    fn a_line_without_end_is_cut_and_skipped() {
        for framing in [Framing::Lines, ROWS] {
            let text = format!("a\n{}\nb\n", "x".repeat(5 * RECORD_BYTES_MAX));
            let found = records(text.as_bytes(), framing);
            let seen: Vec<_> = found.iter().map(|(line, text, flaw, _)| (*line, text.len(), *flaw)).collect();
            assert_eq!(seen, [(1, 1, None), (2, RECORD_BYTES_MAX, Some(Flaw::TooLong)), (3, 1, None)]);
        }
    }

    #[test]
    fn fields_are_unquoted() {
        let mut fields = Fields::default();
        for (row, expected) in [
            ("a,b", &["a", "b"][..]),
            ("", &[""]),
            (",", &["", ""]),
            (r#""a,b","c ""d""",e"#, &["a,b", r#"c "d""#, "e"]),
            (r#" a ,"é","""#, &[" a ", "é", ""]),
            (r#"5" pipe,"x"y"#, &["5\" pipe", "xy"]),
        ] {
            fields.read(row, b',');
            let seen: Vec<_> = (0..fields.len()).map(|at| fields.get(at).unwrap()).collect();
            assert_eq!(seen, expected, "{row:?}");
        }
        assert_eq!(fields.get(9), None);
    }

    proptest! {
        /// From any place between two records the rest is the same, and fields come back as they were written.
        #[test]
        fn a_text_goes_on_where_it_was_left(rows in proptest::collection::vec(proptest::collection::vec("[a\",\r\né]{0,6}", 1..4), 1..8)) {
            let quoted = |field: &String| format!("\"{}\"", field.replace('"', "\"\""));
            let lines: Vec<String> = rows.iter().map(|row| row.iter().map(quoted).collect::<Vec<_>>().join(",")).collect();
            let whole = format!("{}\n", lines.join("\n"));
            let all = records(whole.as_bytes(), ROWS);
            prop_assert_eq!(all.len(), rows.len());
            for (at, (_, _, _, end)) in all.iter().enumerate() {
                let mut text = Text::new(whole.as_bytes());
                text.set_framing(ROWS);
                text.skip_to(*end).unwrap();
                let next = text.next().unwrap().map(|record| (record.line, String::from_utf8_lossy(record.bytes).into_owned()));
                prop_assert_eq!(next, all.get(at + 1).map(|(line, text, _, _)| (*line, text.clone())));
            }
            let mut fields = Fields::default();
            for (row, (_, text, _, _)) in rows.iter().zip(&all) {
                fields.read(text, b',');
                let seen: Vec<&str> = (0..fields.len()).map(|at| fields.get(at).unwrap()).collect();
                prop_assert_eq!(seen, row.iter().map(String::as_str).collect::<Vec<_>>());
            }
        }
    }
}
