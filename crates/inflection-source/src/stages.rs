//! Stages of one process, wired to a bus: how they start, run, and leave in order.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use inflection_bus::Bus;
use inflection_control::Config;
use inflection_delivery::{DeliveryConfig, DeliveryMetrics};
use inflection_domain::PartitionCount;
use inflection_identity::{IdentityConfig, IdentityMetrics};
use inflection_ingest::{IngestConfig, IngestMetrics, SignatureClock};
use inflection_ownership::{Identity, Shares, WorkerId, join};
use inflection_telemetry::{Exporting, Registry, TraceError, TraceSettings, Tracer};
use inflection_wire::Installation;
use tokio::net::TcpListener;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admin::keys::Keys;
use crate::admin::{self, Admin, Phase, Readiness, WrongKeys};
use crate::ledger::{Bookkeeper, LedgerMetrics};
use crate::metrics::{self, BusMetrics, ReloadMetrics};
use crate::reload::{self, Read};
use crate::settings::{Folding, Sending};

/// How long admin requests in hand may take after everything else has left.
const ADMIN_DEADLINE: Duration = Duration::from_secs(3);
/// How often the books are read for the metrics.
const LEDGER_EVERY: Duration = Duration::from_secs(10);

/// Which stages a process runs.
#[derive(Debug, Default)]
pub(crate) struct Wanted {
    /// Ingest, on this listener, judging signatures by this clock.
    pub(crate) ingest: Option<(TcpListener, SignatureClock)>,
    /// Identity, keeping its state like this.
    pub(crate) identity: Option<Folding>,
    /// Delivery, sending like this.
    pub(crate) delivery: Option<Sending>,
    /// The worker's name among those that share a stage's partitions; without one the process is alone.
    pub(crate) worker: Option<WorkerId>,
}

impl Wanted {
    /// The partitions that fall to this process, until `stop`.
    fn shares(
        &self,
        stage: &'static str,
        bus: &Bus,
        partitions: PartitionCount,
        stop: CancellationToken,
    ) -> (Shares, BoxedStage) {
        let Some(worker) = self.worker.clone() else {
            let (shares, all) = Shares::alone(partitions.get(), stop);
            return (
                shares,
                Box::pin(async move {
                    all.await;
                    Ok(())
                }),
            );
        };
        let (shares, member) = join(bus, Identity { stage, worker }, partitions.get(), stop);
        (shares, Box::pin(async move { member.await.context("membership") }))
    }
}

/// Stages that run.
#[derive(Debug)]
pub(crate) struct Stages {
    pub(crate) bus: Bus,
    pub(crate) installation: Installation,
    readiness: Arc<Readiness>,
    /// In the order of leaving: each stage's stop signal and its end.
    running: Vec<(&'static str, CancellationToken, JoinHandle<anyhow::Result<()>>)>,
    exporting: Exporting,
    admin: (CancellationToken, JoinHandle<anyhow::Result<()>>),
    /// Stops what goes on beside the stages.
    beside: CancellationToken,
    tasks: TaskTracker,
    /// Cancelled when a stage ends by itself.
    failed: CancellationToken,
}

/// What all stages are told.
#[derive(Debug)]
pub(crate) struct Setup {
    pub(crate) bus: Bus,
    pub(crate) config: Config,
    /// Reads the configuration again, to follow it.
    pub(crate) read: Read,
    pub(crate) installation: Installation,
    pub(crate) admin_listener: TcpListener,
    pub(crate) admin_keys: Keys,
    /// Where spans go, and under which name of a service.
    pub(crate) traces: Traces,
}

/// Settings of traces, and the name of the service in them.
pub(crate) type Traces = (Option<TraceSettings>, &'static str);

impl Stages {
    /// Starts the stages and the admin listener.
    pub(crate) async fn start(setup: Setup, mut wanted: Wanted) -> anyhow::Result<Self> {
        let Setup { bus, config, read, installation, admin_listener, admin_keys, traces } = setup;
        let (directory, followed) = reload::follow(&config, read);
        let (registry, readiness, tasks) = (Registry::default(), Arc::new(Readiness::default()), TaskTracker::new());
        let (tracer, exporting) = start_traces(&traces, &registry, &tasks)?;
        let mut running = Vec::new();
        let mut handle = None;
        let failed = CancellationToken::new();
        let mut spawn = |name, stop: CancellationToken, stage: BoxedStage| {
            running.push((name, stop, tasks.spawn(watched(stage, failed.clone()))));
        };
        let takes_events = wanted.ingest.is_some();
        let state_budget = wanted.identity.as_ref().map(|folding| folding.budget.clone());
        if let Some((listener, signature_clock)) = wanted.ingest.take() {
            let stop = CancellationToken::new();
            let (directory, installation) = (directory.clone(), installation.clone());
            let config = IngestConfig { listener, directory, installation, signature_clock };
            let metrics = IngestMetrics::new(&registry).traced(tracer.clone());
            let stage = inflection_ingest::run(config, bus.clone(), metrics, stop.clone());
            spawn("ingest", stop, Box::pin(async move { stage.await.context("ingest") }));
        }
        if let Some(Folding { snapshot_every_bytes, budget }) = wanted.identity.take() {
            let stop = CancellationToken::new();
            let (shares, member) = wanted.shares("identity", &bus, installation.partitions, stop.clone());
            let (partitions, directory) = (installation.partitions, directory.clone());
            let key = installation.key.clone();
            let config = IdentityConfig { partitions, directory, key, snapshot_every_bytes, state_budget: budget };
            let metrics = IdentityMetrics::new(&registry).traced(tracer.clone());
            let stage = inflection_identity::run(config, bus.clone(), metrics, shares);
            spawn("identity", stop, both(async move { stage.await.context("identity") }, member));
        }
        if let Some(Sending { limits, park_after }) = wanted.delivery {
            let stop = CancellationToken::new();
            let directory = directory.clone();
            let config = DeliveryConfig { directory, installation: installation.clone(), limits, park_after };
            let metrics = DeliveryMetrics::new(&registry).traced(tracer);
            let (shares, member) = wanted.shares("delivery", &bus, installation.partitions, stop.clone());
            let (started, stage) = inflection_delivery::start(config, bus.clone(), metrics, shares).await?;
            handle = Some(started);
            spawn("delivery", stop, both(async move { stage.await.context("delivery") }, member));
        }
        let beside = CancellationToken::new();
        let books = Arc::new(Mutex::new(Bookkeeper::new(bus.clone(), installation.partitions)));
        metrics::describe_process(&registry);
        tasks.spawn(followed.run(ReloadMetrics::new(&registry), beside.clone()));
        tasks.spawn(BusMetrics::new(&registry).keep(bus.clone(), beside.clone()));
        tasks.spawn(admin_keys.clone().follow(beside.clone()));
        if handle.is_some() {
            let metrics = LedgerMetrics::new(&registry);
            tasks.spawn(keep_books(Arc::clone(&books), metrics, beside.clone()));
        }
        let admin = Admin {
            bus: bus.clone(),
            installation: installation.clone(),
            delivery: handle,
            books,
            directory,
            state_budget,
            takes_events,
            registry,
            readiness: Arc::clone(&readiness),
            keys: admin_keys,
            wrong_keys: WrongKeys::default(),
        };
        let admin = start_admin(admin, admin_listener, &tasks)?;
        readiness.set(Phase::Serving);
        Ok(Self { bus, installation, readiness, running, exporting, admin, beside, tasks, failed })
    }

    /// Runs until SIGTERM, SIGINT, or the end of a stage; then leaves in order.
    pub(crate) async fn until_signal(self) -> anyhow::Result<()> {
        tokio::select! {
            signal = signal() => tracing::info!(signal, "stopping"),
            () = self.failed.cancelled() => tracing::error!("a stage has ended; stopping"),
        }
        self.stop().await
    }

    /// Not ready; then each stage finishes what it has in hand, the ones upstream first.
    pub(crate) async fn stop(self) -> anyhow::Result<()> {
        self.readiness.set(Phase::Stopping);
        self.beside.cancel();
        let mut outcome = Ok(());
        for (name, stop, ended) in self.running {
            stop.cancel();
            let result = ended.await.context("a stage has panicked").flatten();
            if let Err(error) = &result {
                tracing::error!(error = format!("{error:#}"), stage = name, "stage ended");
            }
            outcome = outcome.and(result);
        }
        self.bus.close().await;
        self.exporting.finish().await;
        let (stop, serving) = self.admin;
        stop.cancel();
        match tokio::time::timeout(ADMIN_DEADLINE, serving).await {
            Ok(ended) => outcome = outcome.and(ended.context("the admin listener has panicked").flatten()),
            Err(_elapsed) => {
                tracing::warn!("an admin request does not end; it is dropped");
                return outcome;
            }
        }
        self.tasks.close();
        self.tasks.wait().await;
        outcome
    }
}

/// A stage whose end is told, also when it panics.
async fn watched(stage: BoxedStage, failed: CancellationToken) -> anyhow::Result<()> {
    let _ended = failed.drop_guard();
    stage.await
}

/// Starts the admin listener; gives what stops it, and its end.
fn start_admin(
    admin: Admin,
    listener: TcpListener,
    tasks: &TaskTracker,
) -> anyhow::Result<(CancellationToken, JoinHandle<anyhow::Result<()>>)> {
    let stop = CancellationToken::new();
    // Until the admin listener has ended: while a stage leaves, the process is asked whether it is alive.
    tasks.spawn(metrics::beat(admin.registry.liveness().clone(), stop.clone()));
    let ended = admin::start(admin, listener, stop.clone()).context("the admin listener cannot start")?;
    let serving = tasks.spawn(async move { ended.await.context("the admin listener has panicked") });
    Ok((stop, serving))
}

fn start_traces(
    (settings, service): &Traces,
    registry: &Registry,
    tasks: &TaskTracker,
) -> Result<(Tracer, Exporting), TraceError> {
    Tracer::start(settings.as_ref(), service, env!("CARGO_PKG_VERSION"), registry, tasks)
}

/// Keeps the books among the metrics.
async fn keep_books(books: Arc<Mutex<Bookkeeper>>, metrics: LedgerMetrics, shutdown: CancellationToken) {
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(LEDGER_EVERY) => {}
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            read = async { books.lock().await.read().await } => match read {
                Ok(ledger) => metrics.set(&ledger, admin::now()),
                Err(error) => tracing::debug!(error = format!("{error:#}"), "the books could not be read"),
            },
        }
    }
}

/// A stage and its membership: when one fails, both end.
fn both(stage: impl Future<Output = anyhow::Result<()>> + Send + 'static, member: BoxedStage) -> BoxedStage {
    Box::pin(async move { tokio::try_join!(stage, member).map(|((), ())| ()) })
}

type BoxedStage = std::pin::Pin<Box<dyn Future<Output = anyhow::Result<()>> + Send>>;

/// Waits for SIGTERM or SIGINT.
pub(crate) async fn signal() -> &'static str {
    use tokio::signal::unix::{SignalKind, signal};
    let (terminate, interrupt) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()));
    let (Ok(mut terminate), Ok(mut interrupt)) = (terminate, interrupt) else {
        tracing::error!("signals cannot be watched; stop this process by killing it");
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    }
}
