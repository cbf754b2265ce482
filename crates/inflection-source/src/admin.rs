//! The admin listener: probes, metrics, and the admin API.
//!
//! It has a thread and a runtime of its own, so that a probe is answered while the runtime of the stages is stuck, which is
//! when it matters. The admin API does its work where the stages do theirs.

mod connections;
mod explain;
pub(crate) mod keys;
pub(crate) mod letters;
pub(crate) mod persons;

use std::io;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use inflection_bus::Bus;
use inflection_control::Directory;
use inflection_delivery::DeliveryHandle;
use inflection_domain::{ConnectionId, Timestamp, WorkspaceId};
use inflection_identity::StateBudget;
use inflection_telemetry::Registry;
use inflection_wire::Installation;
use keys::Keys;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::ledger::Bookkeeper;

/// How far a process has come in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Not all of it runs yet.
    Starting,
    /// It wants work.
    Serving,
    /// It wants none any more.
    Stopping,
}

/// The phase, as it is now.
#[derive(Debug, Default)]
pub(crate) struct Readiness(AtomicU8);

impl Readiness {
    pub(crate) fn set(&self, phase: Phase) {
        let number = match phase {
            Phase::Starting => 0,
            Phase::Serving => 1,
            Phase::Stopping => 2,
        };
        self.0.store(number, Ordering::Relaxed);
    }

    fn phase(&self) -> Phase {
        match self.0.load(Ordering::Relaxed) {
            0 => Phase::Starting,
            1 => Phase::Serving,
            _ => Phase::Stopping,
        }
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
    pub(crate) keys: Keys,
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
pub(crate) fn now() -> Timestamp {
    SystemTime::now().into()
}

type Shared = State<Arc<Admin>>;

/// Serves on a thread of its own until `shutdown`; gives its end.
///
/// # Errors
/// When the thread, or its runtime, cannot be made.
pub(crate) fn start(
    admin: Admin,
    listener: TcpListener,
    shutdown: CancellationToken,
) -> io::Result<impl Future<Output = Result<(), oneshot::error::RecvError>> + Send> {
    // From the events of the stages' runtime to those of its own.
    let listener = listener.into_std()?;
    let stages = Handle::current();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (tell, ended) = oneshot::channel();
    std::thread::Builder::new().name("admin".into()).spawn(move || {
        runtime.block_on(async {
            match TcpListener::from_std(listener) {
                Ok(listener) => serve(admin, listener, stages, shutdown).await,
                Err(error) => tracing::error!(%error, "the admin listener cannot serve"),
            }
        });
        let _nobody_waits = tell.send(());
    })?;
    Ok(ended)
}

async fn serve(admin: Admin, listener: TcpListener, stages: Handle, shutdown: CancellationToken) {
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
        .route_layer(middleware::from_fn_with_state(stages, with_the_stages))
        .route_layer(middleware::from_fn_with_state(Arc::clone(&admin), authorize));
    let router = Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/startupz", get(startupz))
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
    if !admin.keys.any() {
        return next.run(request).await;
    }
    let given =
        headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()).and_then(|text| text.strip_prefix("Bearer "));
    match given {
        Some(given) if admin.keys.accept(given) => next.run(request).await,
        Some(_) if admin.wrong_keys.note(Instant::now()) => {
            problem(StatusCode::TOO_MANY_REQUESTS, "rate_limited", "too many wrong admin keys; wait a minute")
        }
        Some(_) => problem(StatusCode::FORBIDDEN, "forbidden", "this is not the admin key"),
        None => {
            problem(StatusCode::UNAUTHORIZED, "auth_missing", "send the admin key as `Authorization: Bearer <key>`")
        }
    }
}

/// Does a request's work in the runtime of the stages. What has begun is done, whether its caller waits for it or not.
async fn with_the_stages(State(stages): State<Handle>, request: Request, next: Next) -> Response {
    match stages.spawn(next.run(request)).await {
        Ok(answer) => answer,
        Err(error) => {
            tracing::error!(%error, "an admin request has failed");
            problem(StatusCode::INTERNAL_SERVER_ERROR, "internal", "the request has failed; the log says why")
        }
    }
}

/// What a probe is answered.
fn probe(outcome: Result<(), impl std::fmt::Display>) -> Response {
    match outcome {
        Ok(()) => "ok\n".into_response(),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response(),
    }
}

/// Whether the process should be left running: it works, or waits. That the bus or Segment is away is no reason to end it.
async fn livez(State(admin): Shared) -> Response {
    let alive = admin.registry.liveness().check();
    if let Err(stuck) = &alive {
        tracing::error!(%stuck, "this process is stuck and should be started anew");
    }
    probe(alive)
}

/// Whether the process has started, once and for all.
async fn startupz(State(admin): Shared) -> Response {
    probe(if admin.readiness.phase() == Phase::Starting { Err("starting") } else { Ok(()) })
}

/// Whether the process wants work and can do it.
async fn readyz(State(admin): Shared) -> Response {
    match admin.readiness.phase() {
        Phase::Starting => probe(Err("starting")),
        Phase::Serving => match (admin.bus.health().await, admin.state_budget.as_ref().and_then(StateBudget::exceeded))
        {
            (Err(why), _) => probe(Err(why)),
            // What is accepted still becomes durable, and waits: refusing it would help nobody.
            (Ok(()), Some(held)) if admin.takes_events => format!("ok; {held}\n").into_response(),
            (Ok(()), Some(held)) => probe(Err(held)),
            (Ok(()), None) => probe(Ok::<_, &str>(())),
        },
        Phase::Stopping => probe(Err("stopping")),
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

    /// One exchange with the admin listener, blocking: the runtime of the stages is what stands still here.
    fn get(address: std::net::SocketAddr, path: &str) -> String {
        use std::io::{Read as _, Write as _};
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    /// Asks until the answer begins with a status.
    fn await_status(address: std::net::SocketAddr, path: &str, status: &str) -> String {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let answer = get(address, path);
            if answer.starts_with(&format!("HTTP/1.1 {status} ")) {
                return answer;
            }
            assert!(Instant::now() < deadline, "{path} is not answered {status}: {answer}");
            // Between two looks.
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    #[test]
    fn a_runtime_that_stands_still_is_seen_from_outside() {
        let folder = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (readiness, shutdown) = (Arc::new(Readiness::default()), CancellationToken::new());
        let (address, ended) = runtime.block_on(async {
            let bus = Bus::open_embedded(inflection_bus::EmbeddedConfig::new(folder.path().to_owned())).await.unwrap();
            let partitions = inflection_domain::PartitionCount::new(1).unwrap();
            let settings = inflection_control::InstallationSettings::default();
            let installation = crate::install::load(&bus, &settings, Some(partitions)).await.unwrap();
            let admin = Admin {
                installation,
                delivery: None,
                books: Arc::new(tokio::sync::Mutex::new(Bookkeeper::new(bus.clone(), partitions))),
                bus,
                directory: Directory::new(Vec::new()).1,
                registry: Registry::default(),
                readiness: Arc::clone(&readiness),
                state_budget: None,
                takes_events: true,
                keys: Keys::default(),
                wrong_keys: WrongKeys::default(),
            };
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let (address, liveness) = (listener.local_addr().unwrap(), admin.registry.liveness().clone());
            let ended = start(admin, listener, shutdown.clone()).unwrap();
            Handle::current().spawn(crate::metrics::beat(liveness, shutdown.clone()));
            (address, ended)
        });
        let is = |path, status| assert!(get(address, path).starts_with(&format!("HTTP/1.1 {status} ")), "{path}");
        is("/startupz", 503);
        is("/readyz", 503);
        readiness.set(Phase::Serving);
        is("/startupz", 200);
        is("/readyz", 200);
        is("/livez", 200);
        is("/v1/ledger", 200);
        // The only worker waits for something that no other task can give it.
        let (release, held) = std::sync::mpsc::channel::<()>();
        runtime.spawn(async move { held.recv() });
        let answer = await_status(address, "/livez", "503");
        assert!(answer.contains("the runtime has run no task for 1"), "{answer}");
        is("/metrics", 200);
        is("/startupz", 200);
        release.send(()).unwrap();
        await_status(address, "/livez", "200");
        readiness.set(Phase::Stopping);
        is("/readyz", 503);
        is("/livez", 200);
        shutdown.cancel();
        runtime.block_on(ended).unwrap();
    }

    #[test]
    fn guessing_is_slowed_down() {
        let (wrong, now) = (WrongKeys::default(), Instant::now());
        let refused: Vec<bool> = (0..25).map(|_| wrong.note(now)).collect();
        assert_eq!(refused.iter().position(|refused| *refused), Some(20));
        assert!(!wrong.note(now + WrongKeys::WITHIN), "a minute later it may be tried again");
    }
}
