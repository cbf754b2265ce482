//! What arrived, as JSON and as a page.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::dates;
use crate::faults::{ActiveFaults, Fault, Faults};
use crate::kept::Kept;
use crate::record::{ReceivedCall, ReceivedRequest, Summary};
use crate::server::Shell;

/// Things shown when no limit is asked for.
const LIMIT_DEFAULT: usize = 100;
/// Most things shown at once.
const LIMIT_MAX: usize = 10_000;

/// Scripts and styles stand in the page itself; it may talk to nobody but this server.
const PAGE_POLICY: &str =
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'";

/// `GET /`.
pub(crate) async fn page() -> impl IntoResponse {
    let headers = [(header::CONTENT_TYPE, "text/html; charset=utf-8"), (header::CONTENT_SECURITY_POLICY, PAGE_POLICY)];
    (headers, include_str!("page.html"))
}

/// The query of `GET /calls`. Everything given must match.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CallsQuery {
    limit: Option<usize>,
    /// Only arrivals after this one, oldest first to the limit. Without it: the newest.
    after: Option<u64>,
    message_id: Option<String>,
    user_id: Option<String>,
    anonymous_id: Option<String>,
    event: Option<String>,
}

/// A call with what Segment computes for it.
#[derive(Debug, Serialize)]
pub(crate) struct CallView {
    #[serde(flatten)]
    call: ReceivedCall,
    received_at: String,
    original_timestamp: Option<String>,
    /// The clock-corrected time.
    timestamp: String,
}

/// `GET /calls`.
pub(crate) async fn calls(State(shell): State<Shell>, Query(query): Query<CallsQuery>) -> Response {
    let kept = shell.sandbox.kept_calls();
    // A search may read the whole window; that is no work for the threads that serve senders.
    match tokio::task::spawn_blocking(move || select_calls(&kept, &query)).await {
        Ok(calls) => Json(json!({ "calls": calls })).into_response(),
        Err(_panicked) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

/// The query of `GET /requests`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Limit {
    limit: Option<usize>,
}

/// `GET /requests`.
pub(crate) async fn requests(State(shell): State<Shell>, Query(query): Query<Limit>) -> Json<Value> {
    let requests: Vec<ReceivedRequest> = {
        let state = shell.sandbox.state();
        state.requests.iter().skip(state.requests.len().saturating_sub(limit(query.limit))).cloned().collect()
    };
    Json(json!({ "requests": requests }))
}

/// `GET /tables`.
pub(crate) async fn tables(State(shell): State<Shell>) -> impl IntoResponse {
    let tables = shell.sandbox.state().tables.snapshot();
    Json(tables)
}

/// `GET /duplicates`: the newest.
pub(crate) async fn duplicates(State(shell): State<Shell>, Query(query): Query<Limit>) -> Json<Value> {
    let (kept, total, other_content) = {
        let state = shell.sandbox.state();
        let summary = state.summary();
        let kept: Vec<Arc<Kept>> = state.duplicates.iter().map(Arc::clone).collect();
        (kept, summary.duplicates, summary.duplicates_with_other_content)
    };
    let calls = newest(&kept, limit(query.limit));
    Json(json!({ "total": total, "with_other_content": other_content, "calls": calls }))
}

/// `GET /drops`: counts by reason, and the newest.
pub(crate) async fn drops(State(shell): State<Shell>, Query(query): Query<Limit>) -> Json<Value> {
    let (kept, dropped) = {
        let state = shell.sandbox.state();
        let kept: Vec<Arc<Kept>> = state.drops.iter().map(Arc::clone).collect();
        (kept, state.summary().dropped)
    };
    let total: u64 = dropped.values().sum();
    let calls = newest(&kept, limit(query.limit));
    Json(json!({ "total": total, "by_reason": dropped, "calls": calls }))
}

/// `GET /summary`.
pub(crate) async fn summary(State(shell): State<Shell>) -> Json<Summary> {
    Json(shell.sandbox.summary())
}

/// `GET /faults`: the rules with what each has done.
pub(crate) async fn faults(State(shell): State<Shell>) -> Json<Value> {
    let state = shell.sandbox.state();
    Json(json!({ "rules": state.faults.rules() }))
}

/// `POST /faults`: replaces all rules.
pub(crate) async fn set_faults(State(shell): State<Shell>, body: Bytes) -> Response {
    // Read by hand, so that a plain `curl -d` needs no content type.
    let faults = serde_json::from_slice::<Faults>(&body).map_err(|error| error.to_string()).and_then(check);
    match faults {
        Ok(faults) => {
            shell.sandbox.set_faults(faults);
            self::faults(State(shell)).await.into_response()
        }
        Err(message) => (StatusCode::BAD_REQUEST, Json(json!({ "error": message }))).into_response(),
    }
}

/// `DELETE /faults`: from now on everything goes well.
pub(crate) async fn clear_faults(State(shell): State<Shell>) -> StatusCode {
    shell.sandbox.state().faults = ActiveFaults::default();
    StatusCode::NO_CONTENT
}

fn check(faults: Faults) -> Result<Faults, String> {
    for rule in &faults.rules {
        if let Fault::Status { code, .. } | Fault::StatusAfterCommit { code } = &rule.fault
            && !(200..600).contains(code)
        {
            return Err(format!("status {code} cannot be answered, only 200 to 599"));
        }
        if rule.every == Some(0) {
            return Err("`every` counts from 1".to_owned());
        }
    }
    Ok(faults)
}

fn limit(asked: Option<usize>) -> usize {
    asked.unwrap_or(LIMIT_DEFAULT).min(LIMIT_MAX)
}

fn newest(kept: &[Arc<Kept>], limit: usize) -> Vec<CallView> {
    kept.iter().skip(kept.len().saturating_sub(limit)).map(|kept| view(kept)).collect()
}

fn select_calls(kept: &[Arc<Kept>], query: &CallsQuery) -> Vec<CallView> {
    let limit = limit(query.limit);
    let matching = |kept: &Arc<Kept>| {
        // The messageId is at hand; the rest has to be parsed.
        let candidate = query.message_id.as_deref().is_none_or(|id| id == kept.message_id.as_ref());
        candidate.then(|| view(kept)).filter(|view| query.matches(&view.call.body))
    };
    match query.after {
        Some(after) => {
            let from = kept.partition_point(|kept| kept.arrival <= after);
            kept.iter().skip(from).filter_map(matching).take(limit).collect()
        }
        None => {
            let mut newest: Vec<CallView> = kept.iter().rev().filter_map(matching).take(limit).collect();
            newest.reverse();
            newest
        }
    }
}

impl CallsQuery {
    fn matches(&self, body: &Value) -> bool {
        let equal = |wanted: &Option<String>, field: &str| {
            wanted.as_deref().is_none_or(|wanted| body.get(field).and_then(Value::as_str) == Some(wanted))
        };
        equal(&self.user_id, "userId") && equal(&self.anonymous_id, "anonymousId") && equal(&self.event, "event")
    }
}

fn view(kept: &Kept) -> CallView {
    let call = kept.call();
    let original_timestamp = call.body.get("timestamp").and_then(Value::as_str).map(ToOwned::to_owned);
    let corrected_ms = dates::corrected_ms(call.received_at_ms, call.sent_at.as_deref(), original_timestamp.as_deref());
    CallView {
        received_at: dates::format_ms(call.received_at_ms),
        timestamp: dates::format_ms(corrected_ms),
        original_timestamp,
        call,
    }
}
