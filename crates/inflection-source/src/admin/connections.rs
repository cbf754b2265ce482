//! Connections over the admin API.

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use inflection_delivery::{ConnectionView, ControlError, DeliveryHandle};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Shared, problem, unavailable};

/// Which workspace's.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Of {
    #[serde(default)]
    workspace: Option<String>,
}

fn view(ConnectionView { workspace, settings, status }: &ConnectionView) -> Value {
    json!({
        "workspace": workspace.as_str(),
        "id": settings.id.as_str(),
        "state": status.state.name(),
        "why": status.why,
        "pending": status.pending,
        "parked": status.parked,
        "last_status": status.last_status,
        "closed_for_ms": u64::try_from(status.closed_for.as_millis()).unwrap_or(u64::MAX),
        "endpoint": format!("{:?}", settings.endpoint),
        "write_key": settings.write_key.hint(),
        "events_per_second": settings.rate(),
    })
}

/// `GET /v1/connections`.
pub(super) async fn list(State(admin): Shared) -> Json<Value> {
    let all = admin.delivery.as_ref().map(DeliveryHandle::connections).unwrap_or_default();
    Json(json!({ "connections": all.iter().map(view).collect::<Vec<_>>() }))
}

/// The connection of this name, if it is clear which; and the delivery that knows it.
fn find<'a>(admin: &'a super::Admin, id: &str, of: &Of) -> Result<(&'a DeliveryHandle, ConnectionView), Box<Response>> {
    let Some(delivery) = &admin.delivery else {
        let message = "this process runs no delivery; ask one that does";
        return Err(Box::new(problem(StatusCode::NOT_FOUND, "not_found", message)));
    };
    let named = |view: &ConnectionView| {
        view.settings.id.as_str() == id && of.workspace.as_ref().is_none_or(|name| view.workspace.as_str() == name)
    };
    let mut found = delivery.connections().into_iter().filter(named);
    match (found.next(), found.next()) {
        (Some(only), None) => Ok((delivery, only)),
        (None, _) => Err(Box::new(problem(StatusCode::NOT_FOUND, "not_found", "there is no connection of this id"))),
        (Some(_), Some(_)) => {
            let message = "several workspaces have a connection of this id: say which with ?workspace=";
            Err(Box::new(problem(StatusCode::CONFLICT, "ambiguous", message)))
        }
    }
}

/// `GET /v1/connections/{id}`.
pub(super) async fn show(State(admin): Shared, Path(id): Path<String>, Query(of): Query<Of>) -> Response {
    match find(&admin, &id, &of) {
        Ok((_, found)) => Json(view(&found)).into_response(),
        Err(answer) => *answer,
    }
}

/// `POST /v1/connections/{id}/pause`.
pub(super) async fn pause(admin: Shared, id: Path<String>, of: Query<Of>) -> Response {
    hold(admin, id, of, true).await
}

/// `POST /v1/connections/{id}/resume`.
pub(super) async fn resume(admin: Shared, id: Path<String>, of: Query<Of>) -> Response {
    hold(admin, id, of, false).await
}

async fn hold(State(admin): Shared, Path(id): Path<String>, Query(of): Query<Of>, paused: bool) -> Response {
    let (delivery, found) = match find(&admin, &id, &of) {
        Ok(found) => found,
        Err(answer) => return *answer,
    };
    let (workspace, connection) = (&found.workspace, &found.settings.id);
    tracing::info!(workspace = %workspace, connection = %connection, paused, "an operator holds or resumes a connection");
    match delivery.hold(workspace, connection, paused).await {
        Ok(()) => {
            let answer = json!({ "workspace": workspace.as_str(), "id": connection.as_str(), "paused": paused });
            Json(answer).into_response()
        }
        Err(error) => refused(error),
    }
}

/// `POST /v1/connections/{id}/test`.
pub(super) async fn test(State(admin): Shared, Path(id): Path<String>, Query(of): Query<Of>) -> Response {
    let (delivery, found) = match find(&admin, &id, &of) {
        Ok(found) => found,
        Err(answer) => return *answer,
    };
    match delivery.check(&found.workspace, &found.settings.id).await {
        Ok(check) => {
            let level = |level: &inflection_delivery::Level| json!({ "name": level.name, "shown": level.shown, "detail": level.detail });
            let levels: Vec<Value> = check.levels.iter().map(level).collect();
            Json(json!({ "id": found.settings.id.as_str(), "code": check.code, "levels": levels })).into_response()
        }
        Err(error) => refused(error),
    }
}

fn refused(error: ControlError) -> Response {
    match error {
        ControlError::NoConnection(..) => problem(StatusCode::NOT_FOUND, "not_found", &error.to_string()),
        ControlError::Hold(_) | ControlError::Stopping => unavailable(&error.into()),
    }
}
