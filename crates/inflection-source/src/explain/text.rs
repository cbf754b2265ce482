//! An explanation as a person reads it.

use std::fmt;

use super::{AttemptStory, CallStory, EventStory, Explanation, Fate, IdentityStory, Searched, Verdict};

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for event in &self.events {
            writeln!(f, "{event}")?;
        }
        if let Some(note) = &self.note {
            writeln!(f, "note      {note}")?;
        }
        let Searched { partitions, messages, whole } = self.searched;
        let rest = if whole { "" } else { ", and not all there is" };
        write!(f, "searched  {messages} messages of {partitions} partitions{rest}")
    }
}

impl fmt::Display for EventStory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { event_id, workspace, partition, sequence, received_at, .. } = self;
        let (log, verdict) = match self.verdict {
            Verdict::New => ("decisions", "decided"),
            Verdict::Waiting => ("events", "waiting"),
        };
        writeln!(f, "event {}", plain(event_id))?;
        let occurred = self.occurred_at.as_ref().map_or(String::new(), |at| format!(", happened {at}"));
        writeln!(f, "  received  {received_at} for workspace {workspace}{occurred}")?;
        writeln!(f, "  {verdict}   message {sequence} of {log}.{partition}")?;
        if self.repeats_waiting > 0 {
            writeln!(f, "  repeated  {} more under this id wait for identity", self.repeats_waiting)?;
        }
        if let Some(trace_id) = &self.trace_id {
            writeln!(f, "  traced    {trace_id}")?;
        }
        if let Some(IdentityStory { user_id, person_id, why }) = &self.identity {
            let user = user_id.as_ref().map_or("anonymous".to_owned(), |user| format!("user {}", plain(user)));
            writeln!(f, "  identity  person {}, {user}: {why}", plain(person_id))?;
        }
        if let Some(why) = &self.why {
            writeln!(f, "  no calls  {why}")?;
        }
        self.calls.iter().try_for_each(|call| write!(f, "{call}"))
    }
}

impl fmt::Display for CallStory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { call, connection, message_id, why, .. } = self;
        let fate = match self.fate {
            Fate::Accepted => "accepted",
            Fate::Dead => "dead",
            Fate::Dropped => "dropped",
            Fate::Parked => "parked",
            Fate::Pending => "pending",
            Fate::Filtered => "filtered",
            Fate::Suppressed => "suppressed",
        };
        let why = why.as_ref().map_or(String::new(), |why| format!(" ({})", plain(why)));
        writeln!(f, "  call      {} to {connection}: {fate}{why}  {message_id}", plain(call))?;
        self.attempts.iter().try_for_each(|attempt| writeln!(f, "    attempt {attempt}"))
    }
}

impl fmt::Display for AttemptStory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { at, status, outcome, wait_ms, ms } = self;
        match status {
            0 => write!(f, "{at}  no answer  {outcome} after {ms} ms")?,
            status => write!(f, "{at}  {status}  {outcome} after {ms} ms")?,
        }
        if *wait_ms > 0 { write!(f, ", then nothing was sent for {wait_ms} ms") } else { Ok(()) }
    }
}

/// A sender's text on a terminal: control characters could write over what stands there.
fn plain(text: &str) -> String {
    text.chars().map(|character| if character.is_control() { '\u{fffd}' } else { character }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_story_reads_like_one() {
        let attempt = |status: u16, outcome: &str, wait_ms| AttemptStory {
            at: "2026-01-31T23:59:59.123Z".to_owned(),
            status,
            outcome: outcome.to_owned(),
            wait_ms,
            ms: 3,
        };
        let call = |fate, why: Option<&str>, attempts| CallStory {
            call: "Email Opened".to_owned(),
            connection: "prod".to_owned(),
            message_id: "infl_1".to_owned(),
            fate,
            why: why.map(str::to_owned),
            attempts,
        };
        let event = EventStory {
            event_id: "e-1".to_owned(),
            workspace: "acme".to_owned(),
            partition: 3,
            sequence: 17,
            received_at: "2026-01-31T23:59:58.000Z".to_owned(),
            occurred_at: Some("2026-01-31T23:59:57.000Z".to_owned()),
            verdict: Verdict::New,
            repeats_waiting: 2,
            trace_id: Some("0af7651916cd43dd8448eb211c80319c".to_owned()),
            identity: Some(IdentityStory { user_id: None, person_id: "p\n1".to_owned(), why: "so it is".to_owned() }),
            why: None,
            calls: vec![
                call(Fate::Accepted, None, vec![attempt(0, "unanswered", 500), attempt(200, "accepted", 0)]),
                call(Fate::Dead, Some("bad_request"), vec![]),
                CallStory {
                    call: "\u{1b}[31mred\u{1b}[0m\nline\u{9b}".to_owned(),
                    ..call(Fate::Filtered, None, vec![])
                },
            ],
        };
        let searched = Searched { partitions: 4, messages: 9, whole: false };
        let told = Explanation { id: "e-1".to_owned(), events: vec![event], searched, note: Some("n".to_owned()) };
        let expected = "\
event e-1
  received  2026-01-31T23:59:58.000Z for workspace acme, happened 2026-01-31T23:59:57.000Z
  decided   message 17 of decisions.3
  repeated  2 more under this id wait for identity
  traced    0af7651916cd43dd8448eb211c80319c
  identity  person p\u{fffd}1, anonymous: so it is
  call      Email Opened to prod: accepted  infl_1
    attempt 2026-01-31T23:59:59.123Z  no answer  unanswered after 3 ms, then nothing was sent for 500 ms
    attempt 2026-01-31T23:59:59.123Z  200  accepted after 3 ms
  call      Email Opened to prod: dead (bad_request)  infl_1
  call      \u{fffd}[31mred\u{fffd}[0m\u{fffd}line\u{fffd} to prod: filtered  infl_1

note      n
searched  9 messages of 4 partitions, and not all there is";
        assert_eq!(told.to_string(), expected);
        let json = serde_json::to_value(&told).unwrap();
        assert_eq!(json.pointer("/events/0/calls/1/fate"), Some(&serde_json::json!("dead")));
        assert_eq!(serde_json::from_value::<Explanation>(json).unwrap(), told);
    }
}
