//! Connections: taken, served, and ended as a fault wants it.

use std::error::Error as _;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::response::Response;
use axum::routing::{get, post};
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, info, warn};

use crate::answer::ConnectionEnd;
use crate::sandbox::Sandbox;
use crate::{senders, views};

/// Connections at once; further ones wait in the listener's queue.
const CONNECTIONS_MAX: usize = 1_024;
/// How long a request in hand may take after shutdown before its connection is dropped.
const SHUTDOWN_WAIT_MAX: Duration = Duration::from_secs(5);
/// How long a connection may stay without a whole request head, idle ones included.
const IDLE_MAX: Duration = Duration::from_secs(75);
/// Pause after a failed accept, so that running out of descriptors does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What every handler knows.
#[derive(Clone)]
pub(crate) struct Shell {
    pub(crate) sandbox: Sandbox,
    /// Ends the delays of faults.
    pub(crate) shutdown: CancellationToken,
}

/// See [`Sandbox::serve`].
pub(crate) async fn serve(sandbox: Sandbox, listener: TcpListener, shutdown: CancellationToken) -> io::Result<()> {
    let address = listener.local_addr()?;
    info!(%address, "segment sandbox is listening");
    let routes = routes(Shell { sandbox, shutdown: shutdown.clone() });
    let connections = TaskTracker::new();
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let place = Arc::clone(&places).acquire_owned().await.map_err(io::Error::other)?;
        let stream = tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => accepted.map(|(stream, _peer)| stream),
        };
        match stream {
            Ok(stream) => {
                let connection = converse(stream, routes.clone(), shutdown.clone());
                connections.spawn(async move {
                    connection.await;
                    drop(place);
                });
            }
            Err(error) => {
                warn!(%error, "segment sandbox could not accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    connections.close();
    connections.wait().await;
    Ok(())
}

fn routes(shell: Shell) -> Router {
    Router::new()
        .route("/v1/{call}", post(senders::receive))
        .route("/", get(views::page))
        .route("/calls", get(views::calls))
        .route("/requests", get(views::requests))
        .route("/tables", get(views::tables))
        .route("/duplicates", get(views::duplicates))
        .route("/drops", get(views::drops))
        .route("/summary", get(views::summary))
        .route("/faults", get(views::faults).post(views::set_faults).delete(views::clear_faults))
        .with_state(shell)
}

/// Serves one connection to its end.
async fn converse(stream: TcpStream, routes: Router, shutdown: CancellationToken) {
    // Small answers must not wait for more; failing to say so only costs time.
    if let Err(error) = stream.set_nodelay(true) {
        debug!(%error, "no delay could not be set");
    }
    let routes = TowerToHyperService::new(routes);
    let service = service_fn(move |request| {
        let answer = routes.call(request);
        async move {
            let Ok(response) = answer.await;
            end_or_answer(response)
        }
    });
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE_MAX)
        .serve_connection(TokioIo::new(stream), service);
    let result = tokio::select! {
        biased;
        result = &mut connection => result,
        () = shutdown.cancelled() => {
            Pin::new(&mut connection).graceful_shutdown();
            // Past the wait, dropping the connection is all that is left to do.
            tokio::time::timeout(SHUTDOWN_WAIT_MAX, &mut connection).await.unwrap_or(Ok(()))
        }
    };
    let end = result.as_ref().err().and_then(|error| error.source()?.downcast_ref::<ConnectionEnd>());
    if end == Some(&ConnectionEnd::Reset) {
        // With zero linger, closing sends a RST instead of a FIN.
        let stream = connection.into_parts().io.into_inner();
        if let Err(error) = stream.set_zero_linger() {
            warn!(%error, "a connection could not be reset and is closed instead");
        }
    }
}

/// An error from the service makes the connection end without an answer.
fn end_or_answer(response: Response) -> Result<Response, ConnectionEnd> {
    match response.extensions().get::<ConnectionEnd>() {
        Some(end) => Err(*end),
        None => Ok(response),
    }
}
