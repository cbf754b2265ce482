//! `POST /v1/events`: from a body to stored facts.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use axum::http::StatusCode;
use inflection_domain::Fact;
use serde_json::json;

use crate::answer::{Code, Refusal};
use crate::fact::{Context, Rejection, check};
use crate::input::Input;
use crate::json::{Fault, Reader, Value};
use crate::priority::Priority;
use crate::request::Layout;

/// Bytes of a usual event, to guess how many a body has.
const USUAL_EVENT_BYTES: usize = 350;

/// The facts of a body, and what was refused of it.
#[derive(Debug, Default)]
pub(crate) struct Taken<'a> {
    pub(crate) facts: Vec<Fact<'a>>,
    /// How many events were taken: facts, and repeats within the request that equal one of them.
    pub(crate) accepted: usize,
    /// Index in the request, and why.
    pub(crate) rejected: Vec<(usize, Rejection)>,
}

impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Self {
        let (code, message) = describe(fault);
        Self::new(code, message)
    }
}

impl Refusal {
    /// A request of which nothing is taken, for the first of the reasons that its events were refused for.
    pub(crate) fn of_all(rejected: &[(usize, Rejection)]) -> Option<Self> {
        let (_, first) = rejected.first()?;
        Some(Self { rejected: rejected_list(rejected), ..Self::new(first.code, first.message.clone()) })
    }
}

pub(crate) fn describe(fault: Fault) -> (Code, &'static str) {
    match fault {
        Fault::Syntax => (Code::BadJson, "the body is not JSON"),
        Fault::Utf8 => (Code::BadUtf8, "the body is not UTF-8, or has half of a surrogate pair"),
        Fault::Depth => (Code::TooDeep, "values are nested more than 16 deep"),
        Fault::DuplicateKey => (Code::DuplicateKey, "an object has a key twice"),
        Fault::Number => (Code::BadNumber, "a number is none, not finite, or a negative zero"),
    }
}

/// Reads and checks every event of a body. What concerns the request as a whole takes nothing.
pub(crate) fn take<'a>(
    body: &'a [u8],
    layout: Layout,
    priority: Priority,
    context: Context<'_>,
    is_ours: Ours<'_>,
) -> Result<Taken<'a>, Refusal> {
    let events_max = layout.events_max();
    let expected = (body.len() / USUAL_EVENT_BYTES).min(events_max) + 1;
    let mut collector = Collector {
        context,
        age_max_ms: priority.age_max_ms(),
        is_ours,
        events_max,
        taken: Taken { facts: Vec::with_capacity(expected), ..Taken::default() },
        input: Input::default(),
        index: 0,
        seen: HashMap::with_capacity(expected),
    };
    match layout {
        Layout::Json => collector.json(body)?,
        Layout::Lines => collector.lines(body)?,
    }
    let (taken, count) = (collector.taken, collector.index);
    if count == 0 {
        return Err(Refusal::new(Code::EmptyBatch, "there is no event in the body"));
    }
    if taken.accepted == 0
        && let Some(refusal) = Refusal::of_all(&taken.rejected)
    {
        return Err(refusal);
    }
    Ok(taken)
}

/// Whether a workspace and connection that an event names are its key's own.
pub(crate) type Ours<'a> = &'a dyn Fn(Option<&str>, Option<&str>) -> bool;

/// The answer to a request of which at least one event was stored.
pub(crate) fn answer(taken: &Taken<'_>) -> (StatusCode, serde_json::Value) {
    if taken.rejected.is_empty() {
        (StatusCode::OK, json!({ "accepted": taken.accepted }))
    } else {
        let body = json!({ "accepted": taken.accepted, "rejected": rejected_list(&taken.rejected) });
        (StatusCode::MULTI_STATUS, body)
    }
}

pub(crate) fn rejected_list(rejected: &[(usize, Rejection)]) -> Vec<serde_json::Value> {
    rejected
        .iter()
        .map(|(index, why)| json!({ "index": index, "code": why.code.name(), "message": why.message }))
        .collect()
}

/// What a line claims.
pub(crate) fn read_line<'a>(line: &'a [u8], input: &mut Input<'a>) -> Result<(), Rejection> {
    let read = Reader::new(line).and_then(|mut reader| {
        let object = reader.peek() == Some(b'{');
        if object {
            input.read(&mut reader)?;
        } else {
            reader.value(1)?;
        }
        reader.end().map(|()| object)
    });
    match read {
        Ok(true) => Ok(()),
        Ok(false) => Err(Rejection::new(Code::NotAnObject, "an event is an object")),
        Err(fault) => {
            let (code, message) = describe(fault);
            Err(Rejection::new(code, message.replace("the body", "the line")))
        }
    }
}

fn name<'v>(value: Option<&'v Value<'_>>) -> Option<&'v str> {
    match value {
        Some(Value::Text(text)) => Some(text),
        _ => None,
    }
}

struct Collector<'c, 'a> {
    context: Context<'c>,
    age_max_ms: i64,
    is_ours: Ours<'c>,
    events_max: usize,
    taken: Taken<'a>,
    /// The event that is being read.
    input: Input<'a>,
    index: usize,
    /// Where in `facts` each event id of this request is.
    seen: HashMap<inflection_domain::Hash128, usize>,
}

impl<'a> Collector<'_, 'a> {
    fn json(&mut self, body: &'a [u8]) -> Result<(), Refusal> {
        let mut reader = Reader::new(body)?;
        match reader.peek() {
            Some(b'[') => self.array(&mut reader)?,
            Some(b'{') if is_envelope(&reader) => {
                let mut found = false;
                reader.object(|key, reader| -> Result<(), Refusal> {
                    if key != "events" {
                        return Ok(reader.value(1).map(drop)?);
                    }
                    if std::mem::replace(&mut found, true) {
                        return Err(Fault::DuplicateKey.into());
                    }
                    self.array(reader)
                })?;
            }
            Some(b'{') => self.event(&mut reader)?,
            _ => {
                // Sound JSON that is no event is another fault than no JSON.
                reader.value(1)?;
                reader.end()?;
                return Err(Refusal::new(Code::NotAnObject, "an event is an object"));
            }
        }
        Ok(reader.end()?)
    }

    fn array(&mut self, reader: &mut Reader<'a>) -> Result<(), Refusal> {
        if reader.peek() != Some(b'[') {
            return Err(Refusal::new(Code::NotAnObject, "events is a list of objects"));
        }
        reader.array(|reader| self.event(reader))
    }

    fn lines(&mut self, body: &'a [u8]) -> Result<(), Refusal> {
        for line in lines(body).filter(|line| !line.trim_ascii().is_empty()) {
            // A line stands for itself: its faults do not spoil the others.
            match read_line(line, &mut self.input) {
                Ok(()) => self.check()?,
                Err(why) => self.reject(why)?,
            }
        }
        Ok(())
    }

    fn event(&mut self, reader: &mut Reader<'a>) -> Result<(), Refusal> {
        if reader.peek() != Some(b'{') {
            reader.value(1)?;
            return Err(Refusal::new(Code::NotAnObject, "an event is an object"));
        }
        self.input.read(reader)?;
        self.check()
    }

    /// Checks the event that was read.
    fn check(&mut self) -> Result<(), Refusal> {
        let input = &mut self.input;
        if !(self.is_ours)(name(input.workspace.as_ref()), name(input.connection.as_ref())) {
            let message = "an event names a workspace or connection that is not of this ingest key";
            return Err(Refusal::new(Code::ConnectionForbidden, message));
        }
        match check(input, self.context, self.age_max_ms) {
            Ok(fact) => self.accept(fact),
            Err(why) => self.reject(why),
        }
    }

    fn count(&mut self) -> Result<usize, Refusal> {
        let index = self.index;
        self.index += 1;
        if self.index > self.events_max {
            let message = format!("a request may have {} events", self.events_max);
            return Err(Refusal::new(Code::TooManyEvents, message));
        }
        Ok(index)
    }

    fn accept(&mut self, fact: Fact<'a>) -> Result<(), Refusal> {
        self.count()?;
        self.taken.accepted += 1;
        match self.seen.entry(fact.head.event) {
            Entry::Vacant(entry) => {
                entry.insert(self.taken.facts.len());
            }
            Entry::Occupied(entry) if self.taken.facts.get(*entry.get()) == Some(&fact) => {}
            Entry::Occupied(_) => {
                let message = "two events of this request have one id and different content";
                return Err(Refusal::new(Code::IdConflict, message));
            }
        }
        // An equal repeat is stored like any other: that it is a duplicate is for the identity stage to say and count.
        self.taken.facts.push(fact);
        Ok(())
    }

    fn reject(&mut self, why: Rejection) -> Result<(), Refusal> {
        let index = self.count()?;
        self.taken.rejected.push((index, why));
        Ok(())
    }
}

/// What line feeds separate.
fn lines(body: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(body);
    std::iter::from_fn(move || {
        let text = rest?;
        let end = memchr::memchr(b'\n', text);
        rest = end.and_then(|end| text.get(end + 1..));
        end.map_or(Some(text), |end| text.get(..end))
    })
}

/// How the look into an object ended.
enum Walk {
    Envelope,
    Event,
}

impl From<Fault> for Walk {
    /// The fault is met again, and reported, when the object is read as an event.
    fn from(_: Fault) -> Self {
        Self::Event
    }
}

/// Whether an object is `{"events": …}` and not an event: an event has a `type`.
fn is_envelope(reader: &Reader<'_>) -> bool {
    // The first of the two keys decides; the walk ends there.
    let walked = reader.clone().object(|key, reader| match &*key {
        "events" => Err(Walk::Envelope),
        "type" => Err(Walk::Event),
        _ => reader.value(1).map(drop).map_err(Walk::from),
    });
    matches!(walked, Err(Walk::Envelope))
}

#[cfg(test)]
mod tests {
    use inflection_domain::{InstallationKey, MachineRules, Timestamp, WorkspaceId};

    use super::*;

    fn taken(body: &str, layout: Layout) -> Result<Taken<'_>, (Code, Vec<serde_json::Value>)> {
        let (workspace, key) = (WorkspaceId::new("acme").unwrap(), InstallationKey::new([1; 32]));
        let now = Timestamp::parse("2026-11-23T10:00:00Z").unwrap();
        let machine = MachineRules::default();
        let context = Context { workspace: &workspace, key: &key, now, machine: &machine };
        take(body.as_bytes(), layout, Priority::Live, context, &|_, connection| {
            connection.is_none_or(|name| name == "prod")
        })
        .map_err(|refusal| (refusal.code, refusal.rejected))
    }

    fn event(extra: &str) -> String {
        format!(r#"{{"type":"email_opened","timestamp":"2026-11-23T09:59:00Z","person_id":"p"{extra}}}"#)
    }

    #[test]
    fn every_layout_is_read() {
        let one = event(r#","id":"1""#);
        let two = event(r#","id":"2""#);
        for (body, layout, count) in [
            (one.clone(), Layout::Json, 1),
            (format!("[{one},{two}]"), Layout::Json, 2),
            (format!(" {{\"events\" : [ {one} , {two} ] }} "), Layout::Json, 2),
            (format!("{{\"sent\":1,\"events\":[{one}]}}"), Layout::Json, 1),
            (format!("{one}\n\r\n{two}\n"), Layout::Lines, 2),
        ] {
            let taken = taken(&body, layout).unwrap();
            assert_eq!((taken.accepted, taken.facts.len(), taken.rejected.len()), (count, count, 0), "{body}");
        }
    }

    #[test]
    fn lines_are_what_line_feeds_separate() {
        for body in ["", "\n", "a", "a\n", "\na", "a\nb", "a\r\n\nbc\n\n"] {
            assert!(lines(body.as_bytes()).eq(body.as_bytes().split(|byte| *byte == b'\n')), "{body:?}");
        }
    }

    #[test]
    fn a_bad_line_does_not_spoil_the_others() {
        let body = format!("{}\n{{broken\n[1]\n{}\n", event(r#","id":"1""#), event(r#","id":"2""#));
        let taken = taken(&body, Layout::Lines).unwrap();
        let codes: Vec<(usize, Code)> = taken.rejected.iter().map(|(index, why)| (*index, why.code)).collect();
        assert_eq!(codes, [(1, Code::BadJson), (2, Code::NotAnObject)]);
        assert_eq!(taken.accepted, 2);
    }

    #[test]
    fn equal_content_without_an_id_has_an_equal_id() {
        let spaced = event("").replace("\":", "\" : ");
        let body = format!("[{},{spaced},{}]", event(""), event(r#","email_id":"m""#));
        let taken = taken(&body, Layout::Json).unwrap();
        let ids: Vec<&str> = taken.facts.iter().map(|fact| fact.body.event_id.as_str()).collect();
        assert_eq!(ids[0], ids[1]);
        assert_ne!(ids[0], ids[2]);
        assert_eq!(taken.accepted, 3);
    }

    #[test]
    fn one_id_with_two_contents_takes_nothing() {
        let body = format!("[{},{}]", event(r#","id":"1""#), event(r#","id":"1","email_id":"m""#));
        assert_eq!(taken(&body, Layout::Json).unwrap_err().0, Code::IdConflict);
    }

    #[test]
    fn a_foreign_connection_takes_nothing() {
        let body = format!("[{},{}]", event(""), event(r#","connection":"other""#));
        assert_eq!(taken(&body, Layout::Json).unwrap_err().0, Code::ConnectionForbidden);
        assert_eq!(taken(&event(r#","connection":"prod""#), Layout::Json).unwrap().accepted, 1);
    }
}
