//! A whole service on a bus of its own, for tests of the shell: what is answered, kept and counted.

use std::sync::Arc;

use axum::body::Body;
use axum::http::{Request, Response};
use inflection_bus::{Bus, EmbeddedConfig};
use inflection_control::{IngestLimits, Secret, Webhook, Workspace};
use inflection_domain::{InstallationKey, MachineRules, PartitionCount, Policy, WorkspaceId};
use inflection_telemetry::Registry;
use tempfile::TempDir;
use tokio_util::task::TaskTracker;

use crate::metrics::IngestMetrics;
use crate::service::Service;
use crate::webhooks::SignatureClock;
use crate::webhooks::testing::{NOW, at};
use crate::writer::Writers;

/// The one ingest key.
pub(crate) const INGEST_KEY: &str = "an-ingest-key-of-the-desk";

pub(crate) struct Desk {
    pub(crate) service: Arc<Service>,
    pub(crate) bus: Bus,
    registry: Registry,
    _dir: TempDir,
}

impl Desk {
    pub(crate) async fn open(webhooks: Vec<Webhook>) -> Self {
        Self::open_limited(webhooks, IngestLimits::default()).await
    }

    pub(crate) async fn open_limited(webhooks: Vec<Webhook>, ingest_limits: IngestLimits) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let bus = Bus::open_embedded(EmbeddedConfig::new(dir.path().to_owned())).await.unwrap();
        let registry = Registry::default();
        let metrics = IngestMetrics::new(&registry);
        let partitions = PartitionCount::new(1).unwrap();
        let writers = Writers::start(&bus, partitions, &metrics, &TaskTracker::new()).unwrap();
        let workspace = Workspace {
            id: WorkspaceId::new("acme").unwrap(),
            ingest_keys: vec![Secret::new(INGEST_KEY).unwrap()],
            ingest_events_per_second: None,
            ingest_limits,
            policy: Policy::default(),
            machine: MachineRules::default(),
            connections: Vec::new(),
            webhooks,
        };
        let key = InstallationKey::new([1; 32]);
        let mut service = Service::new(bus.clone(), &[workspace], key, partitions, writers, metrics);
        service.signature_clock = SignatureClock::Fixed(at(NOW));
        Self { service: Arc::new(service), bus, registry, _dir: dir }
    }

    /// Sends a request through all of the service.
    pub(crate) async fn call(&self, method: &str, path: &str, body: String) -> Response<Body> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "ingest.example")
            .header("content-type", "application/json")
            .header("authorization", format!("Bearer {INGEST_KEY}"));
        Arc::clone(&self.service).answered(request.body(Body::from(body)).unwrap(), None).await
    }

    /// Requires a line among the metrics.
    #[track_caller]
    pub(crate) fn counted(&self, line: &str) {
        let metrics = self.registry.render();
        assert!(metrics.lines().any(|one| one == line), "{line} is not in\n{metrics}");
    }
}
