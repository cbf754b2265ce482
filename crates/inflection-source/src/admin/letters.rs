//! Dead letters over the admin API, and as the command line shows them.

use axum::Json;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use inflection_bus::Bus;
use inflection_delivery::{DeliveryHandle, StoredLetter, drop_letter, visit};
use inflection_domain::{ConnectionId, Timestamp, WorkspaceId};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Shared, now, problem, unavailable};

/// Most letters of one answer.
const LETTERS_MAX: usize = 1_000;
/// Segment removes repeats for about this long (Segment docs, handling duplicate data).
const DEDUPE_MS: i64 = 24 * 60 * 60 * 1000;

/// Which letters.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Filter {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) workspace: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) connection: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<String>,
    /// Died at or after this moment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) since: Option<String>,
    /// Died before this moment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) until: Option<String>,
    #[serde(default, rename = "messageId", skip_serializing_if = "Option::is_none")]
    pub(crate) message_id: Option<String>,
}

/// Letters by name, or all that match.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Chosen {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) workspace: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) connection: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) since: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) until: Option<String>,
    #[serde(default, rename = "messageIds")]
    pub(crate) message_ids: Vec<String>,
    #[serde(default)]
    pub(crate) all: bool,
}

/// A filter that was read.
#[derive(Debug)]
struct Wanted<'f> {
    filter: &'f Filter,
    since: Option<Timestamp>,
    until: Option<Timestamp>,
}

/// A filter that cannot be read, and why.
#[derive(Debug, thiserror::Error)]
#[error("{0} must be a moment like 2026-11-24T10:00:00Z")]
pub(crate) struct NoMoment(&'static str);

impl<'f> Wanted<'f> {
    fn new(filter: &'f Filter) -> Result<Self, NoMoment> {
        let moment = |name, text: &Option<String>| {
            text.as_deref().map(|text| Timestamp::parse(text).ok().ok_or(NoMoment(name))).transpose()
        };
        Ok(Self { filter, since: moment("since", &filter.since)?, until: moment("until", &filter.until)? })
    }

    fn takes_log(&self, workspace: &WorkspaceId, connection: &ConnectionId) -> bool {
        let same = |wanted: &Option<String>, name: &str| wanted.as_ref().is_none_or(|wanted| wanted == name);
        same(&self.filter.workspace, workspace.as_str()) && same(&self.filter.connection, connection.as_str())
    }

    fn takes(&self, stored: &StoredLetter) -> bool {
        let same = |wanted: &Option<String>, text: &str| wanted.as_ref().is_none_or(|wanted| wanted == text);
        same(&self.filter.message_id, &stored.letter.message_id)
            && same(&self.filter.reason, &stored.letter.reason)
            && self.since.is_none_or(|since| stored.at >= since)
            && self.until.is_none_or(|until| stored.at < until)
    }
}

/// One letter as it is shown.
fn view(stored: &StoredLetter, whole: bool) -> Value {
    let letter = &stored.letter;
    let mut view = json!({
        "event_id": letter.event_id,
        "messageId": letter.message_id,
        "workspace": letter.workspace.as_str(),
        "connection": letter.connection.as_str(),
        "call": letter.kind,
        "reason": letter.reason,
        "attempts": letter.attempts,
        "last_status": letter.last_status,
        "at": stored.at.to_string(),
    });
    if whole && let Some(members) = view.as_object_mut() {
        members.insert("item".into(), serde_json::from_slice(&letter.item).unwrap_or(Value::Null));
    }
    mask(&mut view);
    view
}

/// Hides the local part of everything that looks like an address.
pub(crate) fn mask(value: &mut Value) {
    match value {
        Value::String(text) => {
            if let Some((local, host)) = text.rsplit_once('@')
                && !local.is_empty()
                && host.contains('.')
            {
                *text = format!("***@{host}");
            }
        }
        Value::Array(list) => list.iter_mut().for_each(mask),
        Value::Object(members) => members.values_mut().for_each(mask),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// Letters that were found.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// The oldest of them as they are shown, at most a thousand.
    pub(crate) views: Vec<Value>,
    /// How many there are.
    pub(crate) total: usize,
}

/// The letters of these connections that pass a filter, oldest first in each.
pub(crate) async fn find(
    bus: &Bus,
    connections: &[(WorkspaceId, ConnectionId)],
    filter: &Filter,
) -> anyhow::Result<Found> {
    let (wanted, whole) = (Wanted::new(filter)?, filter.message_id.is_some());
    let mut found = Found::default();
    for (workspace, connection) in connections.iter().filter(|(workspace, name)| wanted.takes_log(workspace, name)) {
        visit(bus, workspace, connection, |stored| {
            if wanted.takes(&stored) {
                found.total += 1;
                if found.views.len() < LETTERS_MAX {
                    found.views.push(view(&stored, whole));
                }
            }
        })
        .await?;
    }
    Ok(found)
}

/// `GET /v1/dead-letters`.
pub(super) async fn list_view(State(admin): Shared, Query(filter): Query<Filter>) -> Response {
    match find(&admin.bus, &admin.connections(), &filter).await {
        Ok(found) => Json(json!({ "dead_letters": found.views, "total": found.total })).into_response(),
        Err(error) => refused(&error),
    }
}

fn refused(error: &anyhow::Error) -> Response {
    match error.downcast_ref::<NoMoment>() {
        Some(why) => problem(StatusCode::UNPROCESSABLE_ENTITY, "bad_timestamp", &why.to_string()),
        None => unavailable(error),
    }
}

/// A letter that a request chooses: enough to replay or drop it.
#[derive(Debug)]
struct Choice {
    sequence: u64,
    message_id: String,
    at: Timestamp,
    frozen: bool,
}

/// The letters of one connection.
type Choices = (WorkspaceId, ConnectionId, Vec<Choice>);

/// The letters a request chooses, by connection.
async fn choose(admin: &super::Admin, chosen: &Chosen) -> Result<Vec<Choices>, Response> {
    if chosen.message_ids.is_empty() && !chosen.all {
        return Err(problem(StatusCode::UNPROCESSABLE_ENTITY, "missing_field", "give messageIds, or \"all\": true"));
    }
    let filter = Filter {
        workspace: chosen.workspace.clone(),
        connection: chosen.connection.clone(),
        reason: chosen.reason.clone(),
        since: chosen.since.clone(),
        until: chosen.until.clone(),
        message_id: None,
    };
    let wanted = Wanted::new(&filter).map_err(|error| refused(&error.into()))?;
    let ids: std::collections::HashSet<&str> = chosen.message_ids.iter().map(String::as_str).collect();
    let mut choices = Vec::new();
    for (workspace, connection) in admin.connections() {
        if !wanted.takes_log(&workspace, &connection) {
            continue;
        }
        let mut own = Vec::new();
        let visited = visit(&admin.bus, &workspace, &connection, |stored| {
            if wanted.takes(&stored) && (chosen.all || ids.contains(stored.letter.message_id.as_str())) {
                let (frozen, message_id) = (!stored.letter.item.is_empty(), stored.letter.message_id);
                own.push(Choice { sequence: stored.sequence, message_id, at: stored.at, frozen });
            }
        });
        visited.await.map_err(|error| unavailable(&error.into()))?;
        choices.push((workspace, connection, own));
    }
    Ok(choices)
}

/// `POST /v1/dead-letters/replay`.
pub(super) async fn replay(State(admin): Shared, Json(chosen): Json<Chosen>) -> Response {
    let Some(delivery) = &admin.delivery else {
        return problem(StatusCode::NOT_FOUND, "not_found", "this process runs no delivery; ask one that does");
    };
    let choices = match choose(&admin, &chosen).await {
        Ok(choices) => choices,
        Err(answer) => return answer,
    };
    let (mut replayed, mut matched, mut late) = (0, 0, 0);
    for (workspace, connection, own) in choices {
        matched += own.len();
        match replay_of(delivery, &workspace, &connection, &own).await {
            Ok((count, beyond)) => (replayed, late) = (replayed + count, late + beyond),
            Err(error) => return unavailable(&error),
        }
    }
    Json(json!({ "replayed": replayed, "matched": matched, "beyond_dedupe_window": late })).into_response()
}

/// Hands a connection its letters; gives how many, and how many of them Segment may have forgotten. A letter without an
/// item (Segment would drop it) cannot be sent.
async fn replay_of(
    delivery: &DeliveryHandle,
    workspace: &WorkspaceId,
    connection: &ConnectionId,
    own: &[Choice],
) -> anyhow::Result<(usize, usize)> {
    let forgotten = now().as_ms() - DEDUPE_MS;
    let frozen = || own.iter().filter(|choice| choice.frozen);
    let letters: Vec<u64> = frozen().map(|choice| choice.sequence).collect();
    let (count, late) = (letters.len(), frozen().filter(|choice| choice.at.as_ms() < forgotten).count());
    if count > 0 {
        delivery.replay(workspace, connection, letters).await?;
    }
    Ok((count, late))
}

/// `POST /v1/dead-letters/drop`.
pub(super) async fn drop_view(State(admin): Shared, Json(chosen): Json<Chosen>) -> Response {
    let choices = match choose(&admin, &chosen).await {
        Ok(choices) => choices,
        Err(answer) => return answer,
    };
    let mut dropped = 0;
    for (workspace, connection, own) in choices {
        for choice in own {
            if let Err(error) = drop_letter(&admin.bus, &workspace, &connection, &choice.message_id).await {
                return unavailable(&error.into());
            }
            dropped += 1;
        }
    }
    Json(json!({ "dropped": dropped })).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_masked() {
        let mut item = json!({"a": "ann@example.com", "b": ["x", {"c": "b@c.d"}], "d": "@handle", "e": 1});
        mask(&mut item);
        assert_eq!(item, json!({"a": "***@example.com", "b": ["x", {"c": "***@c.d"}], "d": "@handle", "e": 1}));
    }
}
