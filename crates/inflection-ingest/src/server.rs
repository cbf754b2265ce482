//! The HTTP edge: connections, their bounds, and how they end.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::body::Body;
use axum::http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use inflection_bus::Bus;
use inflection_control::Directory;
use inflection_wire::Installation;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::framing::Guarded;
use crate::metrics::IngestMetrics;
use crate::service::Service;
use crate::webhooks::SignatureClock;
use crate::writer::Writers;

/// How long a request head may take; also how long a connection may idle.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Most bytes of a request head.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Most connections at once; further ones wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 16_000;
/// How long requests in hand may take after the stop signal.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// What ingest is told.
#[derive(Debug)]
pub struct IngestConfig {
    /// The public listener, already bound.
    pub listener: TcpListener,
    /// Whose events are taken.
    pub directory: Directory,
    /// The installation's identity.
    pub installation: Installation,
    /// What time it is to signatures that grow old.
    pub signature_clock: SignatureClock,
}

/// Why ingest stopped.
#[derive(Debug, thiserror::Error)]
pub enum IngestError {
    /// A log has no valid name: a defect.
    #[error("partition logs cannot be named")]
    Name(#[from] inflection_bus::InvalidName),
}

/// Takes events until `shutdown`; then refuses new ones, finishes those in hand, and returns once all is stored.
///
/// # Errors
/// [`IngestError`] when it cannot start.
pub async fn run(
    config: IngestConfig,
    bus: Bus,
    metrics: IngestMetrics,
    shutdown: CancellationToken,
) -> Result<(), IngestError> {
    let (writing, serving, counting) = (TaskTracker::new(), TaskTracker::new(), TaskTracker::new());
    let (counted, mut directory) = (CancellationToken::new(), config.directory);
    let partitions = config.installation.partitions;
    let writers = Writers::start(&bus, partitions, &metrics, &writing)?;
    let mut service = Service::new(bus, &directory.current(), config.installation.key, partitions, writers, metrics);
    service.signature_clock = config.signature_clock;
    let service = Arc::new(service);
    counting.spawn(service.rejected.clone().keep(service.bus.clone(), counted.clone()));
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        // Room comes back by itself: a connection that idles is closed, and a request has its time. A full house is no work.
        let permit = tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            workspaces = directory.changed() => {
                service.configure(&workspaces);
                continue;
            }
            permit = Arc::clone(&room).acquire_owned() => permit,
        };
        let accepted = tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            workspaces = directory.changed() => {
                service.configure(&workspaces);
                continue;
            }
            accepted = config.listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let connection = serve(Arc::clone(&service), stream, peer, shutdown.clone());
                serving.spawn(async move {
                    connection.await;
                    drop(permit);
                });
            }
            Err(error) => {
                // Out of file descriptors, most likely: those that end make room.
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
    service.draining.store(true, Ordering::Relaxed);
    drop(config.listener);
    serving.close();
    if tokio::time::timeout(DRAIN_TIMEOUT, serving.wait()).await.is_err() {
        tracing::warn!(connections = serving.len(), "connections did not end in time and are dropped");
    }
    drop(service);
    counted.cancel();
    counting.close();
    counting.wait().await;
    writing.close();
    if tokio::time::timeout(DRAIN_TIMEOUT, writing.wait()).await.is_err() {
        tracing::warn!("appends did not end in time; their senders have no answer and will send again");
    }
    Ok(())
}

async fn serve(service: Arc<Service>, stream: TcpStream, peer: SocketAddr, shutdown: CancellationToken) {
    service.metrics.connections.add(1);
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, %peer, "a connection keeps its delay");
    }
    let (guarded, verdicts) = Guarded::new(stream);
    let handler = Arc::clone(&service);
    let handle = service_fn(move |request: Request<Incoming>| {
        let (handler, ambiguity) = (Arc::clone(&handler), verdicts.next());
        async move { Ok::<_, Infallible>(handler.answered(request.map(Body::new), ambiguity).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(guarded), handle);
    tokio::pin!(connection);
    let outcome = tokio::select! {
        outcome = connection.as_mut() => outcome,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = outcome {
        tracing::debug!(%error, "a connection ended early");
    }
    service.metrics.connections.add(-1);
}
