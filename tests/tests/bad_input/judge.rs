//! Sends rows and judges the answers.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use inflection_tests::arrived::Arrived;
use inflection_tests::http::{ANSWER_WAIT, Answer, Connection};
use inflection_tests::sender::Sender;
use serde_json::Value;

use crate::row::{CANARY, Desk, Expect, Row};

/// How long a connection may stay open that must be closed.
const CLOSE_WAIT: Duration = Duration::from_secs(5);

/// The campaign run of a call: which row it comes from.
pub(crate) fn run_of(call: &Arrived) -> &str {
    call.property("campaign_run_id").unwrap_or("no campaign_run_id")
}

/// Sends rows, one connection each, and collects what is wrong, so that one run shows all of it.
#[derive(Debug)]
pub(crate) struct Judge {
    ingest: SocketAddr,
    desk: Desk,
    health_checks: usize,
    /// Bodies of refusals, without what may differ.
    bodies: BTreeMap<String, Value>,
    complaints: Vec<String>,
}

impl Judge {
    pub(crate) fn new(ingest: SocketAddr, desk: &Desk) -> Self {
        let desk = desk.clone();
        Self { ingest, desk, health_checks: 0, bodies: BTreeMap::new(), complaints: Vec::new() }
    }

    /// Sends one row, judges the answer, and sees that the next good request is taken.
    pub(crate) fn check(&mut self, row: &Row) {
        if let Err(complaint) = self.judge(row) {
            self.complaints.push(format!("{}: {complaint}", row.id));
        }
        self.check_good(&row.id);
    }

    /// A good request from a client of its own.
    pub(crate) fn check_good(&mut self, after: &str) {
        let fact = self.desk.numbered(true, "health", self.health_checks);
        let answer = Sender::new(self.ingest, &self.desk.key).post(&[fact]);
        assert_eq!(answer.status, 200, "not healthy after {after}: {}", answer.text());
        self.health_checks += 1;
    }

    /// Two rows must have got the same answer, so that it tells nothing.
    pub(crate) fn check_twins(&mut self, one: &str, other: &str) {
        if self.bodies.get(one) != self.bodies.get(other) {
            self.complaints.push(format!("{one} and {other} can be told apart"));
        }
    }

    /// How many good requests have been sent in between.
    pub(crate) fn health_checks(&self) -> usize {
        self.health_checks
    }

    /// Panics with everything that was wrong.
    pub(crate) fn finish(&self) {
        assert!(self.complaints.is_empty(), "{} rows:\n{}", self.complaints.len(), self.complaints.join("\n"));
    }

    fn judge(&mut self, row: &Row) -> Result<(), String> {
        let mut connection = Connection::open(self.ingest, ANSWER_WAIT).map_err(|error| error.to_string())?;
        let answer = exchange(&mut connection, row);
        if matches!(row.expect, Expect::Nothing) {
            return Ok(());
        }
        let answer = answer?;
        if answer.text().contains(CANARY) {
            return Err(format!("the answer repeats the input: {}", answer.text()));
        }
        if answer.status >= 400 && answer.interim.contains(&100) {
            return Err("a 100 was sent before the refusal".to_owned());
        }
        judge_answer(&answer, &row.expect)?;
        if let Some((name, part)) = row.header {
            let value = answer.header(name).unwrap_or_default();
            if !value.contains(part) {
                return Err(format!("header {name} is {value:?} and should have {part:?}"));
            }
        }
        if row.closed && !connection.closes_within(CLOSE_WAIT) {
            return Err("the connection was left open".to_owned());
        }
        self.bodies.insert(row.id.clone(), without_request_id(answer.json()));
        Ok(())
    }
}

/// Sends while receiving: a refusal may come long before the body has been sent.
fn exchange(connection: &mut Connection, row: &Row) -> Result<Answer, String> {
    let mut writer = connection.writer().map_err(|error| error.to_string())?;
    thread::scope(|scope| {
        scope.spawn(move || {
            // The other side may well hang up in the middle.
            writer.write_all(&row.bytes).ok();
            if matches!(row.expect, Expect::Nothing) {
                writer.shutdown(std::net::Shutdown::Write).ok();
            }
        });
        connection.receive(false).map_err(|error| format!("no answer: {error}"))
    })
}

fn judge_answer(answer: &Answer, expect: &Expect) -> Result<(), String> {
    let saw = || format!("got {} {}", answer.status, answer.text());
    match expect {
        Expect::Refused { status, code } => {
            let same = answer.status == *status && answer.error_code().as_deref() == Some(code);
            if !same {
                return Err(format!("{}, expected {status} {code}", saw()));
            }
            let request_id = answer.json().pointer("/error/request_id").and_then(Value::as_str).map(str::len);
            request_id.filter(|length| *length > 0).map(|_| ()).ok_or_else(|| format!("{}: no request_id", saw()))
        }
        Expect::Unframed { status, code } => {
            let named = answer.body.is_empty() || answer.error_code().as_deref() == Some(code);
            let same = answer.status == *status && named;
            if same { Ok(()) } else { Err(format!("{}, expected {status} {code} or no body", saw())) }
        }
        Expect::Taken { accepted, .. } => {
            let same = answer.status == 200 && accepted_of(answer) == Some(*accepted);
            if same { Ok(()) } else { Err(format!("{}, expected 200 with {accepted}", saw())) }
        }
        Expect::Mixed { accepted, refused, .. } => {
            let same = answer.status == 207 && accepted_of(answer) == Some(*accepted);
            let same = same && refused_of(answer) == owned(refused);
            if same { Ok(()) } else { Err(format!("{}, expected 207 with {accepted} and {refused:?}", saw())) }
        }
        Expect::AllRefused { refused } => {
            let first = refused.first().map(|(_, code)| *code);
            let same = answer.status == 422 && answer.error_code().as_deref() == first;
            let same = same && refused_of(answer) == owned(refused);
            if same { Ok(()) } else { Err(format!("{}, expected 422 and {refused:?}", saw())) }
        }
        Expect::Nothing => Ok(()),
    }
}

fn accepted_of(answer: &Answer) -> Option<usize> {
    answer.json().get("accepted").and_then(Value::as_u64).and_then(|count| usize::try_from(count).ok())
}

fn refused_of(answer: &Answer) -> Vec<(u64, String)> {
    let json = answer.json();
    let entries = json.get("rejected").and_then(Value::as_array).cloned().unwrap_or_default();
    let read = |entry: &Value| {
        let code = entry.get("code").and_then(Value::as_str)?;
        Some((entry.get("index").and_then(Value::as_u64)?, code.to_owned()))
    };
    entries.iter().filter_map(read).collect()
}

fn owned(refused: &[(u64, &str)]) -> Vec<(u64, String)> {
    refused.iter().map(|(index, code)| (*index, (*code).to_owned())).collect()
}

fn without_request_id(mut body: Value) -> Value {
    if let Some(error) = body.get_mut("error").and_then(Value::as_object_mut) {
        error.remove("request_id");
    }
    body
}
