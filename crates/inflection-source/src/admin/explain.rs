//! `GET /v1/explain/{id}`.

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use serde::Deserialize;

use super::{Shared, problem, unavailable};
use crate::explain::explain;

/// What is shown.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Shown {
    /// Whether ids that look like addresses are shown as they are.
    #[serde(default)]
    addresses: bool,
}

/// Tells every hop of the events that an id names: an event's, a person's, or a messageId.
pub(super) async fn view(State(admin): Shared, Path(id): Path<String>, Query(query): Query<Shown>) -> Response {
    let (connections, delivery) = (admin.connections(), admin.delivery.as_ref());
    match explain(&admin.bus, &admin.installation, &connections, delivery, &id, query.addresses).await {
        Ok(told) if told.events.is_empty() => {
            problem(StatusCode::NOT_FOUND, "not_found", &told.note.unwrap_or_default())
        }
        Ok(told) => Json(told).into_response(),
        Err(error) => unavailable(&error),
    }
}
