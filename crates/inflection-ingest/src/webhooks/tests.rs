//! The shell: what is answered, kept and counted when not everything goes well.

use std::sync::atomic::Ordering;

use inflection_bus::Log;
use inflection_control::Secret;
use inflection_domain::WorkspaceId;

use super::testing::webhook;
use super::*;
use crate::service::WEBHOOK_BYTES_IN_HAND_MAX;

/// The token of all webhooks for tests.
const TOKEN: &str = "0123456789abcdef";

/// A desk with one webhook.
struct Desk {
    desk: crate::desk::Desk,
    provider: Provider,
}

impl std::ops::Deref for Desk {
    type Target = crate::desk::Desk;

    fn deref(&self) -> &Self::Target {
        &self.desk
    }
}

impl Desk {
    async fn open(webhook: Webhook) -> Self {
        let provider = webhook.provider;
        Self { desk: crate::desk::Desk::open(vec![webhook]).await, provider }
    }

    async fn post(&self, body: &str) -> StatusCode {
        self.send(Request::post("/").body(Body::from(body.to_owned())).unwrap()).await.status()
    }

    async fn send(&self, request: Request<Body>) -> Response<Body> {
        self.service.webhook(request, (self.provider.name(), TOKEN), "req_1", &mut RequestTrace::default()).await
    }

    async fn kept(&self) -> Option<String> {
        let log = Log::new(&format!("unparsed.acme.{}", self.provider)).unwrap();
        let last = self.bus.last(&log).await.unwrap()?;
        Some(String::from_utf8(last.payload.to_vec()).unwrap())
    }
}

fn brevo() -> Webhook {
    webhook(Provider::Brevo, &[])
}

#[tokio::test]
async fn what_cannot_be_taken_is_kept_once_and_counted() {
    let desk = Desk::open(brevo()).await;
    let (good, bad) = (r#"{"event":"opened","email":"ann@corp.example","ts_epoch":1}"#, r#"{"event":"opened"}"#);
    let cut = format!("[{good}, {bad},");
    assert_eq!(desk.post(&cut).await, StatusCode::OK);
    assert_eq!(desk.kept().await, Some(cut));
    desk.counted(r#"inflection_ingest_events_rejected_total{code="bad_json"} 1"#);
    assert_eq!(desk.post(&format!("[{good}, {bad},{{\"a\":}}]")).await, StatusCode::OK);
    assert_eq!(desk.kept().await.unwrap(), format!("{bad}\n{{\"a\":}}\n"));
    desk.counted(r#"inflection_ingest_events_accepted_total{workspace="acme"} 1"#);
    desk.counted(r#"inflection_ingest_events_rejected_total{code="missing_identity"} 1"#);
    desk.counted(r#"inflection_ingest_events_rejected_total{code="bad_json"} 2"#);
}

#[tokio::test]
async fn an_empty_request_is_a_probe() {
    let desk = Desk::open(brevo()).await;
    assert_eq!(desk.post(" \n").await, StatusCode::OK);
    assert_eq!(desk.kept().await, None);
    desk.counted(r#"inflection_ingest_events_unmapped_total{provider="brevo",type="empty"} 1"#);
}

#[tokio::test]
async fn what_cannot_be_kept_is_not_in_the_way() {
    let desk = Desk::open(brevo()).await;
    desk.bus.close().await;
    assert_eq!(desk.post(r#"{"event":"opened"}"#).await, StatusCode::OK);
    desk.counted(r#"inflection_ingest_unkept_total{provider="brevo"} 1"#);
    // Facts are another matter, and so is a request of which nothing is stored.
    assert_eq!(desk.post(r#"{"event":"opened","email":"ann@corp.example"}"#).await, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(desk.post("no json").await, StatusCode::TOO_MANY_REQUESTS);
}

#[tokio::test]
async fn room_is_reserved_for_what_comes_of_a_body() {
    let desk = Desk::open(brevo()).await;
    let small = format!("[{}]", vec!["{}"; 4096].join(","));
    // Room for the body, and not for four thousand events.
    let others = ["a", "b", "c"].map(|name| {
        let third = (WEBHOOK_BYTES_IN_HAND_MAX - 4096 * FACT_BYTES) / 3;
        desk.service.reserve_webhook(Some(&WorkspaceId::new(name).unwrap()), third).unwrap()
    });
    assert_eq!(desk.post(&small).await, StatusCode::TOO_MANY_REQUESTS);
    drop(others);
    assert_eq!(desk.post(&small).await, StatusCode::OK);
}

#[tokio::test]
async fn a_token_that_has_vouched_for_one_body_keeps_no_other() {
    let key = "mailgun-key-of-sixteen";
    let desk = Desk::open(webhook(Provider::Mailgun, &[key])).await;
    let tag = ring::hmac::sign(&ring::hmac::Key::new(ring::hmac::HMAC_SHA256, key.as_bytes()), b"1795420800token");
    let tag: String = tag.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    let body = |event: &str| {
        format!(
            r#"{{"signature":{{"timestamp":"1795420800","token":"token","signature":"{tag}"}},"event-data":{event}}}"#
        )
    };
    assert_eq!(desk.post(&body("[1]")).await, StatusCode::OK);
    assert_eq!(desk.post(&body("[2]")).await, StatusCode::UNAUTHORIZED);
    assert_eq!(desk.kept().await, Some(body("[1]")));
    let another = r#"{"event":"opened","id":"x","recipient":"ann@corp.example","timestamp":1795420800}"#;
    assert_eq!(desk.post(&body(another)).await, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn credentials_are_asked_for_even_when_doubt_is_deferred() {
    let secrets = vec![Secret::new("user:password-16").unwrap()];
    let topics = vec!["arn:aws:sns:eu-west-1:111122223333:mail".to_owned()];
    let deferring =
        Webhook { on_auth_failure: AuthFailure::Defer, secrets, topic_arns: topics, ..webhook(Provider::Ses, &[]) };
    let desk = Desk::open(deferring).await;
    let raw = |credentials: Option<&str>| {
        let mut request = Request::post("/")
            .header("x-amz-sns-message-type", "Notification")
            .header("x-amz-sns-rawdelivery", "true")
            .header("x-amz-sns-topic-arn", "arn:aws:sns:eu-west-1:111122223333:mail");
        if let Some(credentials) = credentials {
            request = request.header("authorization", credentials);
        }
        request.body(Body::from("{}")).unwrap()
    };
    let asked = desk.send(raw(None)).await;
    assert_eq!(asked.status(), StatusCode::UNAUTHORIZED);
    assert!(asked.headers().contains_key(WWW_AUTHENTICATE));
    assert_eq!(desk.send(raw(Some("Basic AAAA"))).await.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(desk.send(raw(Some("Basic dXNlcjpwYXNzd29yZC0xNg=="))).await.status(), StatusCode::OK);
}

#[tokio::test]
async fn whatever_is_refused_is_counted() {
    let (desk, path) = (Desk::open(brevo()).await, format!("/v1/webhooks/brevo/{TOKEN}"));
    assert_eq!(desk.call("PUT", &path, String::new()).await.status(), StatusCode::METHOD_NOT_ALLOWED);
    desk.counted(r#"inflection_ingest_events_rejected_total{code="method_not_allowed"} 1"#);
    desk.service.draining.store(true, Ordering::Relaxed);
    assert_eq!(desk.call("POST", &path, "{}".to_owned()).await.status(), StatusCode::TOO_MANY_REQUESTS);
    desk.counted(r#"inflection_ingest_events_rejected_total{code="shutting_down"} 1"#);
}
