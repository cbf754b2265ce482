//! The admin listener, as an operator's script reads it.

use std::io;
use std::net::SocketAddr;

use serde_json::Value;

use crate::fact::parse_rfc3339;
use crate::http::{Answer, Client, Request};
use crate::wait::{DRAINED, SOON, eventually, holds};

/// A client of one admin listener.
#[derive(Debug, Clone, Copy)]
pub struct Admin {
    address: SocketAddr,
    key: Option<&'static str>,
}

/// `GET /v1/ledger`.
#[derive(Debug, Clone)]
pub struct Ledger {
    /// Whether the books balance.
    pub balanced: bool,
    /// What has been accepted and has not come to an end yet.
    pub pending: u64,
    /// The whole answer, for messages.
    pub raw: Value,
}

/// The calls of one connection, as the ledger counts them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CallBooks {
    /// Made for it.
    pub produced: u64,
    /// Taken by Segment.
    pub accepted: u64,
    /// Lying in the dead letters.
    pub dead: u64,
    /// Taken out of the dead letters for good.
    pub dropped: u64,
    /// Lying in the parked log.
    pub parked: u64,
    /// Left out by its settings.
    pub filtered: u64,
    /// Not sent because their person is suppressed.
    pub suppressed: u64,
    /// On their way.
    pub pending: u64,
}

impl CallBooks {
    /// What has come to an end, in one way or another.
    pub fn finished(&self) -> u64 {
        self.accepted + self.dead + self.dropped + self.filtered + self.suppressed
    }
}

impl Ledger {
    /// A count of events.
    ///
    /// # Errors
    ///
    /// When it is missing.
    pub fn events(&self, name: &str) -> Result<u64, String> {
        let count = self.raw.pointer(&format!("/events/{name}")).and_then(Value::as_u64);
        count.ok_or_else(|| format!("no {name} of events in {}", self.raw))
    }

    /// The books of the connection of that id.
    ///
    /// # Errors
    ///
    /// When it is not listed, or one of its counts is missing.
    pub fn calls(&self, connection: &str) -> Result<CallBooks, String> {
        let list = self.raw.get("calls").and_then(Value::as_array);
        let entry = list.into_iter().flatten().find(|entry| text(entry, "connection") == connection);
        let entry = entry.ok_or_else(|| format!("no calls of {connection} in {}", self.raw))?;
        let count = |name: &str| entry.get(name).and_then(Value::as_u64).ok_or_else(|| format!("no {name} in {entry}"));
        Ok(CallBooks {
            produced: count("produced")?,
            accepted: count("accepted")?,
            dead: count("dead")?,
            dropped: count("dropped")?,
            parked: count("parked")?,
            filtered: count("filtered")?,
            suppressed: count("suppressed")?,
            pending: count("pending")?,
        })
    }
}

/// One entry of `GET /v1/dead-letters`.
#[derive(Debug, Clone)]
pub struct DeadLetter {
    /// The sender's id of the event.
    pub event_id: String,
    /// The Segment messageId.
    pub message_id: String,
    /// The connection it was for.
    pub connection: String,
    /// Why.
    pub reason: String,
    /// The whole entry.
    pub raw: Value,
}

impl DeadLetter {
    /// When it died, in milliseconds.
    ///
    /// # Errors
    ///
    /// When `at` is no moment.
    pub fn at_ms(&self) -> Result<i64, String> {
        parse_rfc3339(&text(&self.raw, "at")).ok_or_else(|| format!("`at` is no moment in {}", self.raw))
    }
}

impl Admin {
    /// A client of the listener at `address`.
    pub fn new(address: SocketAddr) -> Self {
        Self { address, key: None }
    }

    /// Shows this admin key from now on.
    #[must_use]
    pub fn keyed(self, key: &'static str) -> Self {
        Self { key: Some(key), ..self }
    }

    /// The address as `--admin-url` takes it.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Whether `GET /readyz` answers 200.
    pub fn is_ready(&self) -> bool {
        self.get("/readyz").is_ok_and(|answer| answer.status == 200)
    }

    /// `GET` of any path.
    ///
    /// # Errors
    ///
    /// When no answer comes.
    pub fn get(&self, path: &str) -> io::Result<Answer> {
        self.call(Request::new("GET", path))
    }

    /// The value of a metric, named with its labels if it has some.
    ///
    /// # Errors
    ///
    /// When there is no answer, or the metric is not told.
    pub fn metric(&self, name: &str) -> Result<String, String> {
        let text = self.get("/metrics").map_err(|error| format!("/metrics: {error}"))?.text();
        let found = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ').map(str::to_owned));
        found.ok_or_else(|| format!("no {name}"))
    }

    /// Waits until a metric has a value.
    #[track_caller]
    pub fn await_metric(&self, name: &str, value: &str) {
        eventually(name, SOON, || {
            let now = self.metric(name)?;
            holds(now == value, || now.clone())
        });
    }

    /// `POST` of a JSON body to any path.
    ///
    /// # Errors
    ///
    /// When no answer comes.
    pub fn post(&self, path: &str, body: &Value) -> io::Result<Answer> {
        self.call(Request::json(path, body.to_string()))
    }

    /// `POST` without a body to any path.
    ///
    /// # Errors
    ///
    /// When no answer comes.
    pub fn order(&self, path: &str) -> io::Result<Answer> {
        self.call(Request::new("POST", path))
    }

    fn call(&self, request: Request) -> io::Result<Answer> {
        let request = request.header("Connection", "close");
        let request = match self.key {
            Some(key) => request.bearer(key),
            None => request,
        };
        Client::new(self.address).call(&request)
    }

    /// The ledger.
    ///
    /// # Errors
    ///
    /// What was wrong with the answer.
    pub fn ledger(&self) -> Result<Ledger, String> {
        let raw = self.json("/v1/ledger")?;
        let balanced = raw.get("balanced").and_then(Value::as_bool).ok_or_else(|| format!("no `balanced` in {raw}"))?;
        let pending = raw.get("pending").map(total).ok_or_else(|| format!("no `pending` in {raw}"))?;
        Ok(Ledger { balanced, pending, raw })
    }

    /// Waits until nothing is pending and the books balance.
    #[track_caller]
    pub fn settle(&self) -> Ledger {
        settle(|| self.ledger())
    }

    /// All dead letters.
    ///
    /// # Errors
    ///
    /// What was wrong with the answer.
    pub fn dead_letters(&self) -> Result<Vec<DeadLetter>, String> {
        dead_letters(&self.json("/v1/dead-letters")?)
    }

    /// The dead letters that pass a filter: names and values of the query.
    ///
    /// # Errors
    ///
    /// What was wrong with the answer.
    pub fn dead_letters_where(&self, filter: &[(&str, &str)]) -> Result<Vec<DeadLetter>, String> {
        let query: Vec<String> = filter.iter().map(|(name, value)| format!("{name}={value}")).collect();
        dead_letters(&self.json(&format!("/v1/dead-letters?{}", query.join("&")))?)
    }

    /// Replays the chosen dead letters; returns the answer.
    ///
    /// # Errors
    ///
    /// What was wrong with the answer.
    pub fn replay(&self, chosen: &Value) -> Result<Value, String> {
        read("/v1/dead-letters/replay", self.post("/v1/dead-letters/replay", chosen))
    }

    /// Drops the chosen dead letters; returns the answer.
    ///
    /// # Errors
    ///
    /// What was wrong with the answer.
    pub fn drop_letters(&self, chosen: &Value) -> Result<Value, String> {
        read("/v1/dead-letters/drop", self.post("/v1/dead-letters/drop", chosen))
    }

    /// The entries of all connections.
    ///
    /// # Errors
    ///
    /// What was wrong with the answer.
    pub fn connections(&self) -> Result<Vec<Value>, String> {
        let raw = self.json("/v1/connections")?;
        let list = raw.get("connections").unwrap_or(&raw).as_array().cloned();
        list.ok_or_else(|| format!("no list of connections in {raw}"))
    }

    /// The ids of all connections, in order.
    ///
    /// # Errors
    ///
    /// What was wrong with the answer.
    pub fn connection_ids(&self) -> Result<Vec<String>, String> {
        let mut ids: Vec<String> = self.connections()?.iter().map(|entry| text(entry, "id")).collect();
        ids.sort();
        Ok(ids)
    }

    /// The `state` of a connection.
    ///
    /// # Errors
    ///
    /// What was wrong with the answer.
    pub fn connection_state(&self, id: &str) -> Result<String, String> {
        let all = self.connections()?;
        let found = all.iter().find(|entry| text(entry, "id") == id);
        let found = found.ok_or_else(|| format!("no connection {id} in {all:?}"))?;
        Ok(text(found, "state"))
    }

    /// Waits until a connection is in a state.
    #[track_caller]
    pub fn await_state(&self, id: &str, expected: &str) {
        eventually(&format!("{id} is {expected}"), SOON, || {
            let state = self.connection_state(id)?;
            holds(state == expected, || state.clone())
        });
    }

    /// Tells a connection to `pause` or `resume`; the answer must be 200.
    #[track_caller]
    pub fn tell(&self, id: &str, verb: &str) {
        let path = format!("/v1/connections/{id}/{verb}");
        let answer = self.order(&path).unwrap_or_else(|error| panic!("POST {path} got no answer: {error}"));
        assert_eq!(answer.status, 200, "POST {path}: {}", answer.text());
    }

    /// `GET` of a path that answers with JSON.
    ///
    /// # Errors
    ///
    /// What was wrong with the answer.
    pub fn json(&self, path: &str) -> Result<Value, String> {
        read(path, self.get(path))
    }
}

/// Looks at the books until nothing is pending and they balance.
#[track_caller]
pub(crate) fn settle(look: impl Fn() -> Result<Ledger, String>) -> Ledger {
    eventually("the ledger comes to rest", DRAINED, || {
        let ledger = look()?;
        holds(ledger.balanced && ledger.pending == 0, || ledger.raw.to_string())?;
        Ok(ledger)
    })
}

/// The JSON of a good answer.
fn read(path: &str, answer: io::Result<Answer>) -> Result<Value, String> {
    let answer = answer.map_err(|error| format!("{path}: {error}"))?;
    if answer.status == 200 { Ok(answer.json()) } else { Err(format!("{path}: {} {}", answer.status, answer.text())) }
}

/// Reads `{"dead_letters":[…]}`, as the admin listener and `dead-letters list --json` write it.
///
/// # Errors
///
/// What was wrong with it.
pub fn dead_letters(raw: &Value) -> Result<Vec<DeadLetter>, String> {
    let entries = raw.get("dead_letters").and_then(Value::as_array);
    let entries = entries.ok_or_else(|| format!("no `dead_letters` in {raw}"))?;
    let read = |entry: &Value| DeadLetter {
        event_id: text(entry, "event_id"),
        message_id: text(entry, "messageId"),
        connection: text(entry, "connection"),
        reason: text(entry, "reason"),
        raw: entry.clone(),
    };
    Ok(entries.iter().map(read).collect())
}

/// A count, or a table of counts by some name.
fn total(value: &Value) -> u64 {
    match value {
        Value::Number(number) => number.as_u64().unwrap_or(u64::MAX),
        Value::Object(table) => table.values().map(total).sum(),
        Value::Array(list) => list.iter().map(total).sum(),
        Value::Null | Value::Bool(_) | Value::String(_) => 0,
    }
}

fn text(entry: &Value, field: &str) -> String {
    entry.get(field).and_then(Value::as_str).unwrap_or_default().to_owned()
}
