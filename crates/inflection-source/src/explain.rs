//! What became of an event: every hop, told from what the bus holds and what running delivery remembers.
//!
//! * `find`: where the event lies, in the decision logs and behind them in the event logs;
//! * `calls`: what it makes for each connection;
//! * `suppressed`: whose calls are not sent;
//! * `fate`: what became of a call, from the books of delivery, its parked logs and its dead letters;
//! * `story`: the same in words and in the admin API's shape; `text`: as a person reads it.
//!
//! Nothing here is an index: a question reads the logs. That is slow on a large install (about as long as the decisions
//! take to travel) and costs nothing as long as nobody asks.

mod calls;
mod fate;
mod find;
mod pass;
mod story;
mod suppressed;
mod text;

use inflection_bus::Bus;
use inflection_delivery::DeliveryHandle;
use inflection_domain::{ConnectionId, WorkspaceId};
use inflection_wire::Installation;
use serde::{Deserialize, Serialize};

use calls::CallOn;
use fate::Delivered;
use find::{Search, Wanted};
use suppressed::Suppressions;

/// Most events of one answer: the newest.
const EVENTS_MAX: usize = 100;

/// What is known of an id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Explanation {
    /// What was asked for, as given.
    pub(crate) id: String,
    /// The events it names, newest last.
    pub(crate) events: Vec<EventStory>,
    /// What was read to find them.
    pub(crate) searched: Searched,
    /// What must be known to read the answer rightly.
    pub(crate) note: Option<String>,
}

/// How much was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Searched {
    /// Partitions looked into.
    pub(crate) partitions: u16,
    /// Messages looked at.
    pub(crate) messages: u64,
    /// Whether that is everything the bus holds.
    pub(crate) whole: bool,
}

/// One event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct EventStory {
    /// The sender's id.
    pub(crate) event_id: String,
    /// Whose it is.
    pub(crate) workspace: String,
    /// Where everything about its person lies.
    pub(crate) partition: u16,
    /// Its message: in the decision log, or in the event log while it waits.
    pub(crate) sequence: u64,
    /// When ingest received it. Identity decides several events in one step: then it is when the oldest was received.
    pub(crate) received_at: String,
    /// When it happened; not known of an event that made no call.
    pub(crate) occurred_at: Option<String>,
    /// Whether it is decided.
    pub(crate) verdict: Verdict,
    /// Further copies, under the same id, that identity has not looked at yet. They will be found to be duplicates.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) repeats_waiting: u64,
    /// The trace it belongs to, if it was sampled and made a call or waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) trace_id: Option<String>,
    /// Who it is about; not known of an event that made no call.
    pub(crate) identity: Option<IdentityStory>,
    /// Why there are no calls, or no more of them yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) why: Option<String>,
    /// Its calls, on each connection.
    pub(crate) calls: Vec<CallStory>,
}

/// Whether an event is decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Verdict {
    /// It was seen for the first time, and decided.
    New,
    /// It is stored and not decided yet.
    Waiting,
}

/// Who an event is about, as it was decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct IdentityStory {
    /// The user its calls name.
    pub(crate) user_id: Option<String>,
    /// Inflection's person.
    pub(crate) person_id: String,
    /// Why it is this user, or none.
    pub(crate) why: String,
}

/// One call on one connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CallStory {
    /// The documented event name, or `identify`, `page`, `group`.
    pub(crate) call: String,
    /// The connection.
    pub(crate) connection: String,
    /// Segment's id of it.
    #[serde(rename = "messageId")]
    pub(crate) message_id: String,
    /// What became of it.
    pub(crate) fate: Fate,
    /// Why, where that is not plain.
    pub(crate) why: Option<String>,
    /// The requests that had it, oldest first.
    pub(crate) attempts: Vec<AttemptStory>,
}

/// What became of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Fate {
    /// Segment answered 2xx.
    Accepted,
    /// It lies in the dead letters.
    Dead,
    /// It was a dead letter, and an operator took it out for good.
    Dropped,
    /// It lies in the parked log until its connection takes calls again.
    Parked,
    /// It is on its way.
    Pending,
    /// It is not for this connection.
    Filtered,
    /// It was not sent because its person is suppressed.
    Suppressed,
}

/// One request that had a call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AttemptStory {
    /// When it was answered, or given up.
    pub(crate) at: String,
    /// HTTP status; 0 when no whole answer came.
    pub(crate) status: u16,
    /// What came of it.
    pub(crate) outcome: String,
    /// How long nothing was sent because of it, in milliseconds.
    pub(crate) wait_ms: u64,
    /// How long it took, in milliseconds.
    pub(crate) ms: u64,
}

/// By reference, as serde asks.
fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// Tells what is known of an id: an event's, a person's, or a messageId.
///
/// `connections` are those whose calls are told. Attempts, and what settings leave out, are known with `delivery` only.
/// Ids that look like addresses are masked, unless `addresses` are wanted.
pub(crate) async fn explain(
    bus: &Bus,
    installation: &Installation,
    connections: &[(WorkspaceId, ConnectionId)],
    delivery: Option<&DeliveryHandle>,
    id: &str,
    addresses: bool,
) -> anyhow::Result<Explanation> {
    let wanted = Wanted::new(id, &installation.id, connections);
    let search = Search::new(bus, wanted).run(installation.partitions).await?;
    let views = delivery.map(DeliveryHandle::connections).unwrap_or_default();
    let found = search.found.iter();
    let calls: Vec<Vec<CallOn<'_>>> =
        found.map(|found| calls::on_connections(found, &installation.id, connections, &views)).collect();
    let delivered = Delivered::load(bus, delivery, &calls).await?;
    let suppressed = Suppressions::load(bus, installation).await?;
    let mut events = Vec::new();
    for (found, calls) in search.found.iter().zip(&calls) {
        let since = suppressed.since(found);
        let calls = calls.iter().map(|call| story::call(call, &delivered, delivery, since)).collect();
        events.push(story::event(found, calls, addresses));
    }
    Ok(Explanation {
        id: id.to_owned(),
        events,
        searched: Searched {
            partitions: installation.partitions.get(),
            messages: search.messages,
            whole: search.whole,
        },
        note: story::note(&search, delivery.is_some(), connections, suppressed.of_id(id, connections)),
    })
}

#[cfg(test)]
pub(crate) mod tests;
