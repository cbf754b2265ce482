//! The admin listener: probes, metrics, and the admin API.

pub(crate) mod letters;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use inflection_bus::Bus;
use inflection_control::{Secret, Workspace};
use inflection_delivery::DeliveryHandle;
use inflection_domain::PartitionCount;
use inflection_telemetry::Registry;
use ring::digest::{SHA256, digest};
use serde_json::{Value, json};
use subtle::ConstantTimeEq as _;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::ledger;

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
    pub(crate) partitions: PartitionCount,
    pub(crate) delivery: Option<DeliveryHandle>,
    pub(crate) workspaces: Vec<Workspace>,
    pub(crate) registry: Registry,
    pub(crate) readiness: Arc<Readiness>,
    pub(crate) key: Option<Secret>,
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
        .route("/v1/connections", get(connections))
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
        Some(_) => problem(StatusCode::FORBIDDEN, "forbidden", "this is not the admin key"),
        None => {
            problem(StatusCode::UNAUTHORIZED, "auth_missing", "send the admin key as `Authorization: Bearer <key>`")
        }
    }
}

async fn readyz(State(admin): Shared) -> Response {
    let health = admin.bus.health();
    match (admin.readiness.0.load(Ordering::Relaxed), health) {
        (true, Ok(())) => "ok\n".into_response(),
        (true, Err(why)) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response(),
        (false, _) => (StatusCode::SERVICE_UNAVAILABLE, "starting or stopping\n").into_response(),
    }
}

async fn metrics(State(admin): Shared) -> Response<Body> {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(CONTENT_TYPE, kind)], admin.registry.render()).into_response()
}

async fn ledger_view(State(admin): Shared) -> Response {
    match ledger::read(&admin.bus, admin.partitions).await {
        Ok(ledger) => Json(ledger).into_response(),
        Err(error) => unavailable(&error),
    }
}

async fn connections(State(admin): Shared) -> Json<Value> {
    let all = admin.delivery.as_ref().map(DeliveryHandle::connections).unwrap_or_default();
    let list: Vec<Value> = all
        .into_iter()
        .map(|(workspace, connection, status)| {
            json!({
                "workspace": workspace.as_str(),
                "id": connection.id.as_str(),
                "state": status.state.name(),
                "why": status.why,
                "pending": status.pending,
                "last_status": status.last_status,
                "endpoint": format!("{:?}", connection.endpoint),
                "write_key": connection.write_key.hint(),
                "events_per_second": connection.rate(),
            })
        })
        .collect();
    Json(json!({ "connections": list }))
}
