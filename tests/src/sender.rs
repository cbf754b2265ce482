//! A sender that waits for each answer.

use std::net::SocketAddr;

use serde_json::Value;

use crate::fact::{self, Fact};
use crate::http::{Answer, Client, Request};
use crate::wait::{SOON, eventually};

/// Posts events with one key over one connection.
#[derive(Debug)]
pub struct Sender {
    client: Client,
    key: String,
}

impl Sender {
    /// A sender to `ingest` with `key`.
    pub fn new(ingest: SocketAddr, key: &str) -> Self {
        Self { client: Client::new(ingest), key: key.to_owned() }
    }

    /// Posts events once and returns whatever the answer is.
    ///
    /// Panics when there is none.
    #[track_caller]
    pub fn post(&mut self, facts: &[Fact]) -> Answer {
        let request = Request::json("/v1/events", fact::body(facts)).bearer(&self.key);
        self.client.call(&request).unwrap_or_else(|error| panic!("POST /v1/events got no answer: {error}"))
    }

    /// Posts events that must all be taken at once.
    #[track_caller]
    pub fn take(&mut self, facts: &[Fact]) {
        let answer = self.post(facts);
        assert_eq!(answer.status, 200, "POST /v1/events: {}", answer.text());
        let accepted = answer.json().get("accepted").and_then(Value::as_u64);
        assert_eq!(accepted, u64::try_from(facts.len()).ok(), "POST /v1/events: {}", answer.text());
    }

    /// Posts events, again and again if need be, until they are taken.
    #[track_caller]
    pub fn take_eventually(&mut self, facts: &[Fact]) {
        let request = Request::json("/v1/events", fact::body(facts)).bearer(&self.key);
        eventually("events are taken", SOON, || {
            let answer = self.client.call(&request).map_err(|error| error.to_string())?;
            if answer.status == 200 { Ok(()) } else { Err(format!("{}: {}", answer.status, answer.text())) }
        });
    }
}
