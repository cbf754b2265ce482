//! From the records of a text to requests of events: as many as ingest takes at once, each with where it ends.

use std::io::{self, Read};
use std::ops::{ControlFlow, Range};

use super::mapping::Plan;
use super::text::{Fields, Flaw, Position, Record, Text};

/// How records become events.
#[derive(Debug)]
pub(super) enum Shape {
    /// They are events.
    Events,
    /// By columns.
    Rows { plan: Plan, delimiter: u8 },
}

/// Bounds of a request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) events: usize,
    pub(super) bytes: usize,
}

/// A record that is no event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refused {
    /// The line it begins in.
    pub(super) line: u64,
    /// As `docs/api.md` lists them; `bad_row` of a row of a CSV that is none.
    pub(super) code: String,
    pub(super) message: String,
    /// What stands there. May hold addresses.
    pub(super) written: Vec<u8>,
}

/// Events as lines of JSON, each with its line in the file and what stands there.
#[derive(Debug, Default)]
pub(super) struct Events {
    body: Vec<u8>,
    /// Rows of a CSV; lines of JSON stand in the body as they are.
    rows: Vec<u8>,
    places: Vec<Place>,
}

#[derive(Debug, Clone, Copy)]
struct Place {
    line: u64,
    /// Where its event ends in the body.
    end: usize,
    /// Where its row ends among the rows.
    row_end: usize,
}

impl Events {
    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    fn end(&self, count: usize) -> usize {
        count.checked_sub(1).and_then(|last| self.places.get(last)).map_or(0, |place| place.end)
    }

    /// The body of a request with some of the events.
    pub(super) fn body(&self, range: Range<usize>) -> &[u8] {
        self.body.get(self.end(range.start)..self.end(range.end)).unwrap_or_default()
    }

    /// One event, as it is sent.
    pub(super) fn event(&self, index: usize) -> &[u8] {
        self.body(index..index + 1).trim_ascii_end()
    }

    /// One of them as refused.
    pub(super) fn refused(&self, index: usize, code: &str, message: &str) -> Refused {
        let row_end = |at: Option<usize>| at.and_then(|at| self.places.get(at)).map_or(0, |place| place.row_end);
        let row = self.rows.get(row_end(index.checked_sub(1))..row_end(Some(index))).unwrap_or_default();
        Refused {
            line: self.places.get(index).map_or(0, |place| place.line),
            code: code.to_owned(),
            message: message.to_owned(),
            written: if row.is_empty() { self.event(index) } else { row }.to_vec(),
        }
    }

    fn add(&mut self, line: u64, event: &[u8], row: &[u8]) {
        self.body.extend_from_slice(event);
        self.body.push(b'\n');
        self.rows.extend_from_slice(row);
        self.places.push(Place { line, end: self.body.len(), row_end: self.rows.len() });
    }
}

/// Events of a request, and what stood between them and is none.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) events: Events,
    pub(super) refused: Vec<Refused>,
    refused_bytes: usize,
    /// Everything before it is in this batch or an earlier one.
    pub(super) end: Position,
}

impl Batch {
    /// Records in it.
    pub(super) fn read(&self) -> u64 {
        (self.events.len() + self.refused.len()) as u64
    }

    fn is_full(&self, limits: Limits, more_bytes: usize) -> bool {
        // What is refused is bounded too, and rows beside their events: they are kept until the batch is done.
        let records = self.events.len() + self.refused.len();
        let held = self.events.body.len() + self.events.rows.len() + self.refused_bytes;
        records >= limits.events || held + more_bytes > limits.bytes
    }
}

/// Reads a text to its end and hands out batches until told to stop. What was read before a fault of the input is handed out.
pub(super) fn read<R: Read>(
    text: &mut Text<R>,
    shape: &Shape,
    limits: Limits,
    mut hand_out: impl FnMut(Batch) -> ControlFlow<()>,
) -> io::Result<()> {
    // Also when nothing is left: then it ends where it began.
    let mut batch = Batch { end: text.position(), ..Batch::default() };
    let (mut fields, mut event) = (Fields::default(), Vec::new());
    let outcome = loop {
        let record = match text.next() {
            Ok(Some(record)) => record,
            Ok(None) => break Ok(()),
            Err(error) => break Err(error),
        };
        if record.flaw.is_none() && record.bytes.trim_ascii().is_empty() {
            batch.end = record.end;
            continue;
        }
        event.clear();
        let rendered = render(&record, shape, &mut fields, &mut event);
        let row = if matches!(shape, Shape::Events) { b"" } else { record.bytes };
        let more_bytes = if rendered.is_ok() { event.len() + 1 + row.len() } else { record.bytes.len() };
        if batch.read() > 0 && batch.is_full(limits, more_bytes) {
            let next = Batch { end: batch.end, ..Batch::default() };
            let full = std::mem::replace(&mut batch, next);
            if hand_out(full).is_break() {
                return Ok(());
            }
        }
        match rendered {
            Ok(()) => batch.events.add(record.line, &event, row),
            Err((code, message)) => {
                let (line, written) = (record.line, record.bytes.to_vec());
                batch.refused_bytes += written.len();
                batch.refused.push(Refused { line, code: code.to_owned(), message, written });
            }
        }
        batch.end = record.end;
    };
    // Also without events: blank lines at the end are read.
    let _nothing_follows = hand_out(batch);
    outcome
}

/// Writes a record's event.
fn render(
    record: &Record<'_>,
    shape: &Shape,
    fields: &mut Fields,
    event: &mut Vec<u8>,
) -> Result<(), (&'static str, String)> {
    match (record.flaw, shape) {
        (Some(Flaw::TooLong), _) => Err(("event_too_large", "the line is longer than 1 MiB".to_owned())),
        (Some(Flaw::OpenQuote), _) => Err(("bad_row", "a quote is opened and not closed".to_owned())),
        (Some(Flaw::StrayQuote), _) => {
            let message = "a quote is opened here and closed in a later line, and the row has not the header's fields";
            Err(("bad_row", message.to_owned()))
        }
        (None, Shape::Events) => {
            event.extend_from_slice(record.bytes.trim_ascii());
            Ok(())
        }
        (None, Shape::Rows { plan, delimiter }) => {
            let row = std::str::from_utf8(record.bytes)
                .map_err(|_not_utf8| ("bad_utf8", "the row is not UTF-8".to_owned()))?;
            fields.read(row, *delimiter);
            plan.render(fields, event).map_err(|message| ("bad_row", message))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::import::mapping::Mapping;
    use crate::commands::import::text::Framing;

    fn batches(text: &str, shape: &Shape, limits: Limits) -> Vec<Batch> {
        let mut text = Text::new(text.as_bytes());
        if let Shape::Rows { delimiter, plan } = shape {
            text.set_framing(Framing::Rows { delimiter: *delimiter, columns: Some(plan.columns) });
        }
        let mut found = Vec::new();
        read(&mut text, shape, limits, |batch| {
            found.push(batch);
            ControlFlow::Continue(())
        })
        .unwrap();
        found
    }

    fn bodies(batches: &[Batch]) -> Vec<(&str, u64)> {
        batches
            .iter()
            .map(|batch| (std::str::from_utf8(batch.events.body(0..batch.events.len())).unwrap(), batch.end.offset))
            .collect()
    }

    #[test]
    fn requests_are_bounded_in_events_and_bytes() {
        let text = "{1}\n\n {22} \r\n{333}\n{4444}\n\n";
        let limits = |events, bytes| Limits { events, bytes };
        let found = batches(text, &Shape::Events, limits(2, 1000));
        assert_eq!(bodies(&found), [("{1}\n{22}\n", 13), ("{333}\n{4444}\n", 27)]);
        let found = batches(text, &Shape::Events, limits(100, 12));
        assert_eq!(bodies(&found), [("{1}\n{22}\n", 13), ("{333}\n", 19), ("{4444}\n", 27)]);
        let lines: Vec<u64> = found.iter().map(|batch| batch.events.refused(0, "", "").line).collect();
        assert_eq!(lines, [1, 4, 5]);
    }

    #[test]
    fn what_is_no_row_is_told_with_its_line_and_text() {
        let columns = ["type", "timestamp", "email"].map(str::to_owned);
        let shape = Shape::Rows { plan: Mapping::default().plan(&columns).unwrap(), delimiter: b',' };
        let text = "identify,1,\"a\nb\"\nidentify,2\nidentify,3,c\n";
        let found = batches(text, &shape, Limits { events: 100, bytes: 1000 });
        let [batch] = &found[..] else { panic!("{found:?}") };
        let refused = Refused {
            line: 3,
            code: "bad_row".to_owned(),
            message: "the row has 2 fields, the header 3".to_owned(),
            written: b"identify,2".to_vec(),
        };
        assert_eq!(batch.refused, [refused]);
        assert_eq!(batch.events.event(1), br#"{"type":"identify","timestamp":3,"email":"c"}"#);
        assert_eq!(batch.events.refused(0, "", "").written, b"identify,1,\"a\nb\"");
        assert_eq!(batch.events.refused(1, "", "").written, b"identify,3,c");
        assert_eq!((batch.read(), batch.events.refused(1, "", "").line), (3, 4));
    }
    #[test]
    fn rows_count_beside_their_events() {
        let columns = ["type", "timestamp", "email", "note"].map(str::to_owned);
        let shape = Shape::Rows { plan: Mapping::default().plan(&columns).unwrap(), delimiter: b',' };
        let row = format!("identify,1,a,{}\n", "x".repeat(300));
        let found = batches(&row.repeat(10), &shape, Limits { events: 100, bytes: 1000 });
        assert_eq!(found.iter().map(Batch::read).collect::<Vec<_>>(), [2; 5], "what is no field is held too");
    }

    #[test]
    fn an_empty_rest_ends_where_it_began() {
        let mut text = Text::new(&b"{1}\n{2}\n"[..]);
        text.skip_to(Position { offset: 8, lines: 2 }).unwrap();
        let mut ends = Vec::new();
        read(&mut text, &Shape::Events, Limits { events: 1, bytes: 1000 }, |batch| {
            ends.push(batch.end);
            ControlFlow::Continue(())
        })
        .unwrap();
        assert_eq!(ends, [Position { offset: 8, lines: 2 }]);
    }
}
