//! Dead letters over the admin API, and as the command line shows them.

use axum::Json;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use inflection_bus::Bus;
use inflection_delivery::{StoredLetter, drop_letter, list};
use inflection_domain::{ConnectionId, WorkspaceId};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Shared, problem, unavailable};

/// Most letters of one answer.
const LETTERS_MAX: usize = 1_000;

/// Which letters.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Filter {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) workspace: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) connection: Option<String>,
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
    #[serde(default, rename = "messageIds")]
    pub(crate) message_ids: Vec<String>,
    #[serde(default)]
    pub(crate) all: bool,
}

impl Filter {
    fn takes(&self, workspace: &WorkspaceId, connection: &ConnectionId) -> bool {
        let same = |wanted: &Option<String>, name: &str| wanted.as_ref().is_none_or(|wanted| wanted == name);
        same(&self.workspace, workspace.as_str()) && same(&self.connection, connection.as_str())
    }
}

/// One letter as it is shown.
pub(crate) fn view(stored: &StoredLetter, whole: bool) -> Value {
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
        let mut item = serde_json::from_slice(&letter.item).unwrap_or(Value::Null);
        mask(&mut item);
        members.insert("item".into(), item);
    }
    view
}

/// Hides the local part of everything that looks like an address.
fn mask(value: &mut Value) {
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

/// The letters of these connections that pass a filter, oldest first in each.
pub(crate) async fn find(
    bus: &Bus,
    connections: &[(WorkspaceId, ConnectionId)],
    filter: &Filter,
) -> anyhow::Result<Vec<StoredLetter>> {
    let mut found = Vec::new();
    for (workspace, connection) in connections.iter().filter(|(workspace, name)| filter.takes(workspace, name)) {
        let letters = list(bus, workspace, connection).await?;
        let wanted =
            |stored: &StoredLetter| filter.message_id.as_ref().is_none_or(|wanted| *wanted == stored.letter.message_id);
        found.extend(letters.into_iter().filter(wanted));
    }
    Ok(found)
}

impl super::Admin {
    fn connections(&self) -> Vec<(WorkspaceId, ConnectionId)> {
        let pairs = |workspace: &inflection_control::Workspace| {
            let id = workspace.id.clone();
            workspace.connections.iter().map(move |connection| (id.clone(), connection.id.clone())).collect::<Vec<_>>()
        };
        self.workspaces.iter().flat_map(pairs).collect()
    }
}

/// `GET /v1/dead-letters`.
pub(super) async fn list_view(State(admin): Shared, Query(filter): Query<Filter>) -> Response {
    match find(&admin.bus, &admin.connections(), &filter).await {
        Ok(letters) => {
            let whole = filter.message_id.is_some();
            let views: Vec<Value> = letters.iter().take(LETTERS_MAX).map(|stored| view(stored, whole)).collect();
            Json(json!({ "dead_letters": views, "total": letters.len() })).into_response()
        }
        Err(error) => unavailable(&error),
    }
}

/// The letters a request chooses, by connection.
async fn choose(admin: &super::Admin, chosen: &Chosen) -> Result<Vec<StoredLetter>, Response> {
    if chosen.message_ids.is_empty() && !chosen.all {
        return Err(problem(StatusCode::UNPROCESSABLE_ENTITY, "missing_field", "give messageIds, or \"all\": true"));
    }
    let filter =
        Filter { workspace: chosen.workspace.clone(), connection: chosen.connection.clone(), message_id: None };
    let letters = find(&admin.bus, &admin.connections(), &filter).await.map_err(|error| unavailable(&error))?;
    let wanted = |stored: &StoredLetter| chosen.all || chosen.message_ids.contains(&stored.letter.message_id);
    Ok(letters.into_iter().filter(wanted).collect())
}

/// `POST /v1/dead-letters/replay`.
pub(super) async fn replay(State(admin): Shared, Json(chosen): Json<Chosen>) -> Response {
    let Some(delivery) = &admin.delivery else {
        return problem(StatusCode::NOT_FOUND, "not_found", "this process runs no delivery; ask one that does");
    };
    let letters = match choose(&admin, &chosen).await {
        Ok(letters) => letters,
        Err(answer) => return answer,
    };
    let mut replayed = 0;
    for (workspace, connection) in admin.connections() {
        let ids: std::collections::HashSet<&str> = letters
            .iter()
            .filter(|stored| stored.letter.workspace == workspace && stored.letter.connection == connection)
            .map(|stored| stored.letter.message_id.as_str())
            .collect();
        if ids.is_empty() {
            continue;
        }
        match delivery.replay(&workspace, &connection, |id| ids.contains(id)).await {
            Ok(count) => replayed += count,
            Err(error) => return unavailable(&error.into()),
        }
    }
    Json(json!({ "replayed": replayed, "matched": letters.len() })).into_response()
}

/// `POST /v1/dead-letters/drop`.
pub(super) async fn drop_view(State(admin): Shared, Json(chosen): Json<Chosen>) -> Response {
    let letters = match choose(&admin, &chosen).await {
        Ok(letters) => letters,
        Err(answer) => return answer,
    };
    for StoredLetter { letter, .. } in &letters {
        if let Err(error) = drop_letter(&admin.bus, &letter.workspace, &letter.connection, &letter.message_id).await {
            return unavailable(&error.into());
        }
    }
    Json(json!({ "dropped": letters.len() })).into_response()
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
