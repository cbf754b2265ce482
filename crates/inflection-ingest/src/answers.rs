//! How requests are answered, counted by route and status.

use std::sync::OnceLock;

use axum::body::Body;
use axum::http::{Request, Response, StatusCode};
use inflection_telemetry::catalogue::{ROUTES, STATUSES};
use inflection_telemetry::{Counter, CounterFamily};

use crate::framing::Ambiguity;
use crate::service::Service;

/// The route of what is not there.
const UNKNOWN: &str = "unknown";
/// Every provider's; the path goes on with a token, which is a secret.
const WEBHOOKS: &str = "/v1/webhooks";

/// Counts answers. Every combination that has come once is kept at hand, since this happens for each request.
#[derive(Debug)]
pub(crate) struct Answers {
    family: CounterFamily,
    known: Vec<OnceLock<Counter>>,
}

impl Answers {
    pub(crate) fn new(family: CounterFamily) -> Self {
        // One more column, for a status that is in no list.
        let known = (0..ROUTES.len() * (STATUSES.len() + 1)).map(|_| OnceLock::new()).collect();
        Self { family, known }
    }

    fn count(&self, route: &'static str, status: StatusCode) {
        let row = ROUTES.iter().position(|known| *known == route);
        let column = STATUSES.iter().position(|known| *known == status.as_str()).unwrap_or(STATUSES.len());
        let kept = row.and_then(|row| self.known.get(row * (STATUSES.len() + 1) + column));
        let counter = || self.family.with(&[("route", route), ("status", status.as_str())]);
        match kept {
            Some(kept) => kept.get_or_init(counter).add(1),
            None => counter().add(1),
        }
    }
}

/// The route of a path: one of a closed list.
fn route(path: &str) -> &'static str {
    if path.strip_prefix(WEBHOOKS).is_some_and(|rest| rest.starts_with('/')) {
        return WEBHOOKS;
    }
    ROUTES.iter().find(|route| **route == path && **route != WEBHOOKS).copied().unwrap_or(UNKNOWN)
}

impl Service {
    /// Answers one request, and counts the answer.
    pub(crate) async fn answered(&self, request: Request<Body>, ambiguity: Option<Ambiguity>) -> Response<Body> {
        let route = route(request.uri().path());
        let answer = self.call(request, ambiguity).await;
        self.answers.count(route, answer.status());
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::desk::Desk;
    use crate::segment::Endpoint;

    #[test]
    fn paths_are_counted_under_a_closed_list() {
        for (path, expected) in [
            ("/v1/events", "/v1/events"),
            ("/v1/batch", "/v1/batch"),
            ("/v1/webhooks/sendgrid/a-secret-token", "/v1/webhooks"),
            ("/v1/webhooks", "unknown"),
            ("/v1/webhooksx/y", "unknown"),
            ("/v1/events/", "unknown"),
            ("unknown", "unknown"),
            ("/", "unknown"),
        ] {
            assert_eq!(route(path), expected, "{path}");
        }
        // Whatever SDKs are answered on has a route of its own.
        let single = ["alias", "b", "batch", "group", "identify", "import", "page", "screen", "track"];
        for path in single.map(|name| format!("/v1/{name}")) {
            assert!(Endpoint::of(&path).is_some() && route(&path) == path, "{path}");
        }
    }

    #[tokio::test]
    async fn answers_are_counted() {
        let desk = Desk::open(Vec::new()).await;
        desk.call("POST", "/v1/events", r#"{"type":"email_opened","person_id":"p","timestamp":1}"#.into()).await;
        desk.call("GET", "/v1/events", String::new()).await;
        desk.call("POST", "/v1/webhooks/sendgrid/token", String::new()).await;
        for _ in 0..2 {
            desk.call("GET", "/robots.txt", String::new()).await;
        }
        desk.counted(r#"inflection_ingest_requests_total{route="/v1/events",status="422"} 1"#);
        desk.counted(r#"inflection_ingest_requests_total{route="/v1/events",status="405"} 1"#);
        desk.counted(r#"inflection_ingest_requests_total{route="/v1/webhooks",status="401"} 1"#);
        desk.counted(r#"inflection_ingest_requests_total{route="unknown",status="404"} 2"#);
    }
}
