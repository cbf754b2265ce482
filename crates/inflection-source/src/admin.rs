//! The admin listener: probes, metrics, and the admin API.

mod connections;
mod explain;
pub(crate) mod letters;
pub(crate) mod persons;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use inflection_bus::Bus;
use inflection_control::{Directory, Secret};
use inflection_delivery::DeliveryHandle;
use inflection_domain::{ConnectionId, Timestamp, WorkspaceId};
use inflection_identity::StateBudget;
use inflection_telemetry::Registry;
use inflection_wire::Installation;
use ring::digest::{SHA256, digest};
use serde_json::json;
use subtle::ConstantTimeEq as _;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::ledger::Bookkeeper;

/// Whether the process wants work.
#[derive(Debug, Default)]
pub(crate) struct Readiness(AtomicBool);

impl Readiness {
    pub(crate) fn set(&self, ready: bool) {
        self.0.store(ready, Ordering::Relaxed);
    }
}

/// What the admin listener shows and changes.
#[derive(Debug)]
pub(crate) struct Admin {
    pub(crate) bus: Bus,
    pub(crate) installation: Installation,
    pub(crate) delivery: Option<DeliveryHandle>,
    pub(crate) books: Arc<tokio::sync::Mutex<Bookkeeper>>,
    pub(crate) directory: Directory,
    /// Of identity's state, if this process runs identity.
    pub(crate) state_budget: Option<StateBudget>,
    /// Whether this process runs ingest.
    pub(crate) takes_events: bool,
    pub(crate) registry: Registry,
    pub(crate) readiness: Arc<Readiness>,
    pub(crate) key: Option<Secret>,
    pub(crate) wrong_keys: WrongKeys,
}

impl Admin {
    /// All connections that are configured now.
    fn connections(&self) -> Vec<(WorkspaceId, ConnectionId)> {
        let workspaces = self.directory.current();
        let of = |workspace: &inflection_control::Workspace| {
            let id = workspace.id.clone();
            workspace.connections.iter().map(move |connection| (id.clone(), connection.id.clone())).collect::<Vec<_>>()
        };
        workspaces.iter().flat_map(of).collect()
    }
}

/// Wrong admin keys of the last minute: whoever guesses is slowed down.
#[derive(Debug, Default)]
pub(crate) struct WrongKeys(Mutex<Option<(Instant, u32)>>);

impl WrongKeys {
    const MAX: u32 = 20;
    const WITHIN: Duration = Duration::from_secs(60);

    /// Notes one; says whether there were too many.
    fn note(&self, now: Instant) -> bool {
        let mut window = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (since, count) = window.filter(|(since, _)| now.duration_since(*since) < Self::WITHIN).unwrap_or((now, 0));
        *window = Some((since, count.saturating_add(1)));
        count >= Self::MAX
    }
}

/// The wall clock.
fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_ms(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

type Shared = State<Arc<Admin>>;

/// Serves until `shutdown`.
pub(crate) async fn serve(admin: Admin, listener: TcpListener, shutdown: CancellationToken) {
    let admin = Arc::new(admin);
    let api = Router::new()
        .route("/v1/ledger", get(ledger_view))
        .route("/v1/dead-letters", get(letters::list_view))
        .route("/v1/dead-letters/replay", post(letters::replay))
        .route("/v1/dead-letters/drop", post(letters::drop_view))
        .route("/v1/connections", get(connections::list))
        .route("/v1/connections/{id}", get(connections::show))
        .route("/v1/connections/{id}/pause", post(connections::pause))
        .route("/v1/connections/{id}/resume", post(connections::resume))
        .route("/v1/connections/{id}/test", post(connections::test))
        .route("/v1/persons", get(persons::list))
        .route("/v1/persons/suppress", post(persons::suppress))
        .route("/v1/persons/erase", post(persons::erase))
        .route("/v1/persons/lift", post(persons::lift))
        .route("/v1/explain/{id}", get(explain::view))
        .route_layer(middleware::from_fn_with_state(Arc::clone(&admin), authorize));
    let router = Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/startupz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/version", get(|| async { Json(json!({ "version": env!("CARGO_PKG_VERSION") })) }))
        .merge(api)
        .fallback(|| async { problem(StatusCode::NOT_FOUND, "not_found", "there is nothing here") })
        .with_state(admin);
    if let Err(error) = axum::serve(listener, router).with_graceful_shutdown(shutdown.cancelled_owned()).await {
        tracing::error!(%error, "the admin listener has ended");
    }
}

/// An error in the shape of the ingest API's.
pub(crate) fn problem(status: StatusCode, code: &str, message: &str) -> Response {
    (status, Json(json!({ "error": { "code": code, "message": message } }))).into_response()
}

pub(crate) fn unavailable(error: &anyhow::Error) -> Response {
    tracing::warn!(error = format!("{error:#}"), "an admin request failed");
    problem(StatusCode::SERVICE_UNAVAILABLE, "storage_unavailable", &format!("{error:#}"))
}

async fn authorize(State(admin): Shared, headers: HeaderMap, request: Request, next: Next) -> Response {
    let Some(key) = &admin.key else { return next.run(request).await };
    let hash = |text: &str| digest(&SHA256, text.as_bytes());
    let given =
        headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()).and_then(|text| text.strip_prefix("Bearer "));
    let matches = |given: &str| bool::from(hash(given.trim()).as_ref().ct_eq(hash(key.expose()).as_ref()));
    match given {
        Some(given) if matches(given) => next.run(request).await,
        Some(_) if admin.wrong_keys.note(Instant::now()) => {
            problem(StatusCode::TOO_MANY_REQUESTS, "rate_limited", "too many wrong admin keys; wait a minute")
        }
        Some(_) => problem(StatusCode::FORBIDDEN, "forbidden", "this is not the admin key"),
        None => {
            problem(StatusCode::UNAUTHORIZED, "auth_missing", "send the admin key as `Authorization: Bearer <key>`")
        }
    }
}

async fn readyz(State(admin): Shared) -> Response {
    let health = admin.bus.health().await;
    match (admin.readiness.0.load(Ordering::Relaxed), health) {
        (true, Ok(())) => match admin.state_budget.as_ref().and_then(StateBudget::exceeded) {
            // What is accepted still becomes durable, and waits: refusing it would help nobody.
            Some(held) if admin.takes_events => format!("ok; {held}\n").into_response(),
            Some(held) => (StatusCode::SERVICE_UNAVAILABLE, format!("{held}\n")).into_response(),
            None => "ok\n".into_response(),
        },
        (true, Err(why)) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response(),
        (false, _) => (StatusCode::SERVICE_UNAVAILABLE, "starting or stopping\n").into_response(),
    }
}

async fn metrics(State(admin): Shared) -> Response<Body> {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(CONTENT_TYPE, kind)], admin.registry.render()).into_response()
}

async fn ledger_view(State(admin): Shared) -> Response {
    match admin.books.lock().await.read().await {
        Ok(ledger) => Json(ledger).into_response(),
        Err(error) => unavailable(&error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guessing_is_slowed_down() {
        let (wrong, now) = (WrongKeys::default(), Instant::now());
        let refused: Vec<bool> = (0..25).map(|_| wrong.note(now)).collect();
        assert_eq!(refused.iter().position(|refused| *refused), Some(20));
        assert!(!wrong.note(now + WrongKeys::WITHIN), "a minute later it may be tried again");
    }
}
