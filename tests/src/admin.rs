//! The admin listener, as an operator's script reads it.

use std::io;
use std::net::SocketAddr;

use serde_json::Value;

use crate::http::{Answer, Client, Request};

/// A client of one admin listener.
#[derive(Debug, Clone, Copy)]
pub struct Admin {
    address: SocketAddr,
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

impl Admin {
    /// A client of the listener at `address`.
    pub fn new(address: SocketAddr) -> Self {
        Self { address }
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
        Client::new(self.address).call(&Request::new("GET", path).header("Connection", "close"))
    }

    /// `POST` of a JSON body to any path.
    ///
    /// # Errors
    ///
    /// When no answer comes.
    pub fn post(&self, path: &str, body: &Value) -> io::Result<Answer> {
        Client::new(self.address).call(&Request::json(path, body.to_string()).header("Connection", "close"))
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

    /// All dead letters.
    ///
    /// # Errors
    ///
    /// What was wrong with the answer.
    pub fn dead_letters(&self) -> Result<Vec<DeadLetter>, String> {
        dead_letters(&self.json("/v1/dead-letters")?)
    }

    /// The `state` of a connection.
    ///
    /// # Errors
    ///
    /// What was wrong with the answer.
    pub fn connection_state(&self, id: &str) -> Result<String, String> {
        let raw = self.json("/v1/connections")?;
        let list = raw.get("connections").unwrap_or(&raw);
        let found = list.as_array().into_iter().flatten().find(|entry| text(entry, "id") == id);
        let found = found.ok_or_else(|| format!("no connection {id} in {raw}"))?;
        Ok(text(found, "state"))
    }

    fn json(&self, path: &str) -> Result<Value, String> {
        let answer = self.get(path).map_err(|error| format!("GET {path}: {error}"))?;
        if answer.status == 200 { Ok(answer.json()) } else { Err(format!("GET {path}: {}", answer.status)) }
    }
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
