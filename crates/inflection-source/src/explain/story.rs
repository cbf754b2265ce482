//! What was found, in words and in the admin API's shape. Pure.

use inflection_delivery::{Attempt, DeliveryHandle};
use inflection_domain::{ConnectionId, Timestamp, WorkspaceId};
use serde_json::Value;

use super::calls::CallOn;
use super::fate::Delivered;
use super::find::{DecidedEvent, Found, Hop, Search};
use super::{AttemptStory, CallStory, EVENTS_MAX, EventStory, IdentityStory, Verdict};
use crate::admin::letters::mask;

const ANONYMOUS: &str = "no user id was known for this person yet; calls carry the person id as anonymousId";
const LEARNED: &str = "this event brought the user id; the Identify that links it was placed before it";
const KNOWN: &str = "the person was already known as this user";
const KNOWN_OR_CLAIMED: &str = "the person was already known as this user, or as another one and the event itself \
    claims this one for itself alone (the ledger counts such conflicts, and there are some in this partition)";
const ROUTED: &str = "it named only an address, which an identify had tied to this person";
const UNDECIDED: &str = "identity has not decided it yet";

const HELD: &str = "identity holds this click for a moment, to judge it with those that come after it";
const SILENT: &str = "it was decided, and there was nothing new to tell Segment: the same was told of its mail or person \
    before, or the workspace's policy leaves it out, or it is a click whose person was suppressed or erased while it was held";
const NO_CONNECTIONS: &str = "no connection of its workspace is known here, so what became of its calls cannot be told";
const WAITING: &str = "it is stored, and waits for identity";

const NOTHING: &str = "nothing here has this id: it was never accepted, or it is a repeat of an event that came under \
    another id, or its person is suppressed and it was dropped, or it has been deleted since";
const SUPPRESSED: &str = "a person or user of this id is suppressed since ";
const DROPPED: &str = ": its events are taken and dropped, and leave no trace but the ledger's count";
const NO_MESSAGE_IDS: &str = "no connection is known here, so no messageId can be found";
const NOT_WHOLE: &str = "not everything could be read; ask again";
const NO_ATTEMPTS: &str = "attempts are remembered only by a process that runs delivery, since its start";

/// A text as it may be shown.
fn shown(text: &str, addresses: bool) -> String {
    let mut value = Value::String(text.to_owned());
    if !addresses {
        mask(&mut value);
    }
    value.as_str().unwrap_or_default().to_owned()
}

/// Why the calls of an event name the user they name, or none.
fn why(found: &Found, event: &DecidedEvent) -> &'static str {
    let mut calls = found.decisions().flat_map(|event| &event.decided.calls);
    match &event.decided.user {
        None => ANONYMOUS,
        Some(_) if calls.any(|call| call.links) => LEARNED,
        Some(_) if event.conflicts => KNOWN_OR_CLAIMED,
        Some(_) => KNOWN,
    }
}

/// One event with its calls.
pub(super) fn event(found: &Found, calls: Vec<CallStory>, addresses: bool) -> EventStory {
    let identity = |user: Option<&str>, person: &str, why: &str| IdentityStory {
        user_id: user.map(|user| shown(user, addresses)),
        person_id: shown(person, addresses),
        why: why.to_owned(),
    };
    let decided = found.decisions().last().map(|event| {
        let user = event.decided.user.as_ref().map(|user| user.as_str());
        let why = match event.body.routed_by_address {
            true => format!("{ROUTED}; {}", why(found, event)),
            false => why(found, event).to_owned(),
        };
        (event.decided.occurred_at, identity(user, event.body.person.as_str(), &why))
    });
    let lost = calls.is_empty().then_some(NO_CONNECTIONS);
    let (verdict, (occurred_at, identity), why) = match (&found.hop, decided.unzip()) {
        (Hop::Waiting { occurred_at, person, held }, (_, decided)) => {
            let identity = decided.unwrap_or_else(|| identity(None, person.as_str(), UNDECIDED));
            let why = if held.is_some() { HELD } else { WAITING };
            (Verdict::Waiting, (Some(*occurred_at), Some(identity)), Some(why))
        }
        (Hop::Silent, (None, None)) => (Verdict::New, (None, None), Some(SILENT)),
        (Hop::Silent | Hop::Decided(_), decided) => (Verdict::New, decided, lost),
    };
    EventStory {
        event_id: shown(found.event_id.as_str(), addresses),
        workspace: found.workspace.as_str().to_owned(),
        partition: found.partition,
        sequence: found.sequence,
        received_at: found.received_at.to_string(),
        occurred_at: occurred_at.map(|occurred_at| occurred_at.to_string()),
        verdict,
        repeats_waiting: found.repeats_waiting,
        trace_id: found.trace_id.clone(),
        identity,
        why: why.map(str::to_owned),
        calls,
    }
}

/// One call with its attempts.
pub(super) fn call(
    call: &CallOn<'_>,
    delivered: &Delivered,
    delivery: Option<&DeliveryHandle>,
    suppressed: Option<Timestamp>,
) -> CallStory {
    let attempts = delivery.map(|delivery| delivery.attempts(&call.message_id)).unwrap_or_default();
    let accepted = attempts.iter().any(|attempt| (200..300).contains(&attempt.status));
    let (fate, why) = delivered.fate(call, accepted, suppressed);
    CallStory {
        call: call.name.clone(),
        connection: call.connection.1.as_str().to_owned(),
        message_id: call.message_id.clone(),
        fate,
        why,
        attempts: attempts.iter().map(attempt).collect(),
    }
}

fn attempt(attempt: &Attempt) -> AttemptStory {
    let Attempt { at, status, outcome, took_ms, wait_ms } = *attempt;
    AttemptStory { at: at.to_string(), status, outcome: outcome.to_owned(), wait_ms, ms: took_ms }
}

/// What must be known to read the answer rightly.
pub(super) fn note(
    search: &Search<'_>,
    with_delivery: bool,
    connections: &[(WorkspaceId, ConnectionId)],
    suppressed: Option<Timestamp>,
) -> Option<String> {
    let mut notes = Vec::new();
    if let Some(since) = suppressed {
        notes.push(format!("{SUPPRESSED}{since}{DROPPED}"));
    }
    if search.found.is_empty() {
        notes.push(NOTHING.to_owned());
        if search.wanted.is_message() && connections.is_empty() {
            notes.push(NO_MESSAGE_IDS.to_owned());
        }
    } else if !with_delivery {
        notes.push(NO_ATTEMPTS.to_owned());
    }
    if search.total > search.found.len() as u64 {
        notes.push(format!("these are the newest {EVENTS_MAX} of {} events", search.total));
    }
    if !search.whole {
        notes.push(NOT_WHOLE.to_owned());
    }
    (!notes.is_empty()).then(|| notes.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_shown_on_demand() {
        for (text, masked) in [
            ("ann@example.com", "***@example.com"),
            ("p-1", "p-1"),
            ("@handle", "@handle"),
            ("ann@localhost", "ann@localhost"),
        ] {
            assert_eq!((shown(text, false).as_str(), shown(text, true).as_str()), (masked, text));
        }
    }
}
