//! What delivery counts, and where its spans go.

use inflection_telemetry::{CounterFamily, Gauge, GaugeFamily, Histogram, Liveness, Registry, Tracer};

/// Metrics of the delivery stage.
#[derive(Debug, Clone)]
pub struct DeliveryMetrics {
    pub(crate) accepted: CounterFamily,
    pub(crate) dead: CounterFamily,
    pub(crate) filtered: CounterFamily,
    pub(crate) suppressed: CounterFamily,
    pub(crate) requests: CounterFamily,
    pub(crate) pending: GaugeFamily,
    pub(crate) parked: GaugeFamily,
    pub(crate) room_bytes: Gauge,
    pub(crate) request_seconds: Histogram,
    pub(crate) fact_to_segment_seconds: Histogram,
    pub(crate) state: GaugeFamily,
    /// Where loops give signs of life.
    pub(crate) liveness: Liveness,
    /// Where spans go.
    pub(crate) tracer: Tracer,
}

impl DeliveryMetrics {
    /// Registers the metrics.
    #[must_use]
    pub fn new(registry: &Registry) -> Self {
        Self {
            accepted: registry.counters("inflection_delivery_calls_accepted", "Calls answered 2xx, by connection"),
            dead: registry.counters("inflection_delivery_calls_dead", "Calls put into the dead letters, by reason"),
            filtered: registry.counters("inflection_delivery_calls_filtered", "Calls a connection leaves out"),
            suppressed: registry
                .counters("inflection_delivery_calls_suppressed", "Calls not sent because their person is suppressed"),
            requests: registry.counters("inflection_delivery_requests", "Requests to Segment, by outcome"),
            pending: registry.gauges("inflection_delivery_calls_pending", "Calls in hand, by connection"),
            parked: registry.gauges("inflection_delivery_calls_parked", "Calls that lie parked, by connection"),
            room_bytes: registry.gauge("inflection_delivery_room_bytes", "Rendered bytes in memory, of 64 MiB"),
            request_seconds: registry.seconds("inflection_delivery_request_seconds", "Time of a request to Segment"),
            fact_to_segment_seconds: registry
                .seconds("inflection_delivery_fact_to_segment_seconds", "From the receipt of a fact to Segment's 2xx"),
            state: registry
                .gauges("inflection_delivery_connection_state", "1 for what a connection does on this worker, else 0"),
            liveness: registry.liveness().clone(),
            tracer: Tracer::default(),
        }
    }

    /// The same with somewhere for spans to go.
    #[must_use]
    pub fn traced(self, tracer: Tracer) -> Self {
        Self { tracer, ..self }
    }
}
