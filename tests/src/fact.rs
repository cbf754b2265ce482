//! Events as a sender writes them, and times for them.

use std::time::{SystemTime, UNIX_EPOCH};

use jiff::Timestamp;
use serde_json::{Map, Value, json};

/// A browser no scanner list knows: what a person's opens and clicks carry.
const HUMAN_AGENT: &str = "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.4 Safari/605.1.15";

/// One event for `POST /v1/events`.
#[derive(Debug, Clone, PartialEq)]
pub struct Fact {
    fields: Map<String, Value>,
}

impl Fact {
    /// An event with what every one needs.
    pub fn new(kind: &str, id: &str, at_ms: i64) -> Self {
        let mut fact = Self { fields: Map::new() };
        fact.put("type", kind);
        fact.put("id", id);
        fact.put("timestamp", rfc3339(at_ms));
        fact
    }

    /// Names the person.
    #[must_use]
    pub fn person(self, id: &str) -> Self {
        self.with("person_id", id)
    }

    /// Names the customer's own id of the person.
    #[must_use]
    pub fn user(self, id: &str) -> Self {
        self.with("user_id", id)
    }

    /// Names the recipient's address.
    #[must_use]
    pub fn email(self, address: &str) -> Self {
        self.with("email", address)
    }

    /// Names the mail and the run it was sent in.
    #[must_use]
    pub fn mail(self, email_id: &str, run: &str) -> Self {
        self.with("email_id", email_id)
            .with("campaign_id", "cmp-e2e")
            .with("campaign_run_id", run)
            .with("campaign_name", "Spring launch")
            .with("email_subject", "Twelve things")
    }

    /// Says that a person's browser did it.
    #[must_use]
    pub fn human(self) -> Self {
        self.with("user_agent", HUMAN_AGENT)
    }

    /// Says that a machine did it.
    #[must_use]
    pub fn machine(self) -> Self {
        self.with("is_machine", true)
    }

    /// Sets any field.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.put(name, value);
        self
    }

    /// Takes a field away.
    #[must_use]
    pub fn without(mut self, name: &str) -> Self {
        self.fields.remove(name);
        self
    }

    /// As JSON.
    pub fn value(&self) -> Value {
        Value::Object(self.fields.clone())
    }

    fn put(&mut self, name: &str, value: impl Into<Value>) {
        self.fields.insert(name.to_owned(), value.into());
    }
}

/// The body of a request with these events.
pub fn body(facts: &[Fact]) -> Vec<u8> {
    let events: Vec<Value> = facts.iter().map(Fact::value).collect();
    json!({ "events": events }).to_string().into_bytes()
}

/// A moment as Segment and senders write it.
pub fn rfc3339(at_ms: i64) -> String {
    let moment = Timestamp::from_millisecond(at_ms).expect("a moment of this century");
    format!("{moment:.3}")
}

/// Reads a moment; `None` if it is none.
pub fn parse_rfc3339(text: &str) -> Option<i64> {
    text.parse::<Timestamp>().ok().map(Timestamp::as_millisecond)
}

/// The wall clock.
pub fn now_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is past 1970");
    i64::try_from(now.as_millis()).expect("milliseconds fit for some time")
}

/// Two hours ago: where the made-up events of a run begin.
pub fn recently_ms() -> i64 {
    now_ms() - 2 * 3_600_000
}
