//! What a row is, and the desk at which rows are written.

use inflection_tests::config::{Key, Workspace};
use inflection_tests::fact::{self, Fact, recently_ms};
use inflection_tests::http::Request;

/// A word that no answer and no log may show: it stands in every address, subject and bad value.
pub(crate) const CANARY: &str = "qzcanary7";

/// What the answer must be.
#[derive(Debug, Clone)]
pub(crate) enum Expect {
    /// Refused as a whole, with this code in the body.
    Refused { status: u16, code: &'static str },
    /// Refused by the HTTP parser and closed; a body may be missing.
    Unframed { status: u16, code: &'static str },
    /// All taken: `200 {"accepted":n}`. `arrive` calls of it reach Segment.
    Taken { accepted: usize, arrive: usize },
    /// Some taken: 207, with these indices refused.
    Mixed { accepted: usize, arrive: usize, refused: &'static [(u64, &'static str)] },
    /// All refused one by one: 422, the first one's code, every index listed.
    AllRefused { refused: &'static [(u64, &'static str)] },
    /// The client hangs up; there need not be an answer.
    Nothing,
}

/// A row of the table.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub(crate) id: String,
    pub(crate) bytes: Vec<u8>,
    pub(crate) expect: Expect,
    /// Whether the connection must be closed afterwards.
    pub(crate) closed: bool,
    /// A header the answer must have, and a part of its value.
    pub(crate) header: Option<(&'static str, &'static str)>,
}

impl Row {
    pub(crate) fn new(id: &str, bytes: Vec<u8>, expect: Expect) -> Self {
        let closed = matches!(expect, Expect::Unframed { .. });
        Self { id: id.to_owned(), bytes, expect, closed, header: None }
    }

    pub(crate) fn refused(id: &str, request: &Request, status: u16, code: &'static str) -> Self {
        Self::new(id, request.encode(), Expect::Refused { status, code })
    }

    pub(crate) fn refused_bytes(id: &str, bytes: Vec<u8>, status: u16, code: &'static str) -> Self {
        Self::new(id, bytes, Expect::Refused { status, code })
    }

    pub(crate) fn unframed(id: &str, bytes: Vec<u8>, status: u16, code: &'static str) -> Self {
        Self::new(id, bytes, Expect::Unframed { status, code })
    }

    pub(crate) fn taken(id: &str, request: &Request, accepted: usize) -> Self {
        Self::new(id, request.encode(), Expect::Taken { accepted, arrive: accepted })
    }

    /// It does not matter whether the connection stays open.
    pub(crate) fn open_or_closed(mut self) -> Self {
        self.closed = false;
        self
    }

    pub(crate) fn with_header(mut self, name: &'static str, part: &'static str) -> Self {
        self.header = Some((name, part));
        self
    }
}

/// Knows the keys and makes facts that can be told apart by their run.
#[derive(Debug, Clone)]
pub(crate) struct Desk {
    pub(crate) key: String,
    pub(crate) own_connection: String,
    pub(crate) other_connection: String,
    word: String,
    at_ms: i64,
}

impl Desk {
    pub(crate) fn new(ours: &Workspace, theirs: &Workspace, word: &str) -> Self {
        let key = match ours.ingest_keys.as_slice() {
            [Key::Value(value), ..] => value.clone(),
            _ => "ik_in_a_file".to_owned(),
        };
        Self {
            key,
            own_connection: ours.connections[0].id.clone(),
            other_connection: theirs.connections[0].id.clone(),
            word: word.to_owned(),
            at_ms: recently_ms(),
        }
    }

    /// The campaign run that marks the facts of a row as good or bad.
    pub(crate) fn run(&self, good: bool, row: &str) -> String {
        if good { format!("good-{row}") } else { format!("bad-{row}") }
    }

    /// A sound fact of a row, marked as one that must or must not arrive.
    pub(crate) fn fact(&self, good: bool, row: &str) -> Fact {
        self.numbered(good, row, 0)
    }

    /// One of several facts of a row, each of a person of its own.
    pub(crate) fn numbered(&self, good: bool, row: &str, number: usize) -> Fact {
        let row_id = row.replace(' ', "_");
        let fact = Fact::new("email_delivered", &format!("{}-{row_id}-{number}", self.word), self.at_ms)
            .person(&format!("p-{}-{row_id}-{number}", self.word))
            .email(&format!("{CANARY}.{number}@leak.example"))
            .mail("mail", &self.run(good, row));
        fact.with("email_subject", format!("{CANARY} subject"))
    }

    /// A sound request with any body.
    pub(crate) fn post(&self, body: impl Into<Vec<u8>>) -> Request {
        Request::json("/v1/events", body).bearer(&self.key)
    }

    /// A sound request with one bare event.
    pub(crate) fn post_one(&self, fact: &Fact) -> Request {
        self.post(fact.value().to_string())
    }

    /// A sound request with a list of events.
    pub(crate) fn post_all(&self, facts: &[Fact]) -> Request {
        self.post(fact::body(facts))
    }

    /// The text of a bad fact with one part of it replaced: for what a JSON writer would not write.
    pub(crate) fn mangled(&self, row: &str, from: &str, to: &str) -> Request {
        let text = self.fact(false, row).value().to_string();
        assert!(text.contains(from), "{row}: {from} is not in {text}");
        self.post(text.replacen(from, to, 1))
    }
}
