//! The sandbox over real HTTP.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod faults;
mod http;

use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;
use inflection_sandbox::{Mode, Outcome, SandboxConfig};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::http::{BASIC_KEY, Server, request};

const SUCCESS: &str = r#"{"success":true}"#;

fn campaign() -> String {
    json!({
        "sentAt": "2026-01-01T00:00:10.000Z",
        "context": {"library": {"name": "inflection-source"}},
        "batch": [
            {"type": "identify", "messageId": "m1", "userId": "u1", "anonymousId": "a1", "traits": {"plan": "pro"}},
            {"type": "track", "messageId": "m2", "userId": "u1", "event": "Email Opened",
                "timestamp": "2026-01-01T00:00:00.000Z", "properties": {"is_unique_open": true, "userId": "x"}},
            {"type": "track", "messageId": "m3", "anonymousId": "a2", "event": "Link Clicked"},
            {"type": "track", "messageId": "m2", "userId": "u1", "event": "Email Opened"},
            {"type": "track", "messageId": "m4", "event": "Link Clicked"},
        ],
    })
    .to_string()
}

#[tokio::test]
async fn a_campaign_arrives_and_can_be_looked_at() {
    let server = Server::start(SandboxConfig::default()).await;
    let answer = server.batch(&campaign()).await;
    assert_eq!((answer.status, answer.body.as_str()), (200, SUCCESS));
    let summary = server.get("/summary").await;
    assert_eq!(summary, serde_json::to_value(server.sandbox.summary()).unwrap());
    assert_eq!(summary["by_event"], json!({"Email Opened": 1, "Link Clicked": 1}));
    assert_eq!((&summary["duplicates_with_other_content"], &summary["identity_links"]), (&json!(1), &json!(1)));

    let arrivals = async |query: &str| -> Vec<u64> {
        let calls = server.get(&format!("/calls?{query}")).await;
        calls["calls"].as_array().unwrap().iter().map(|call| call["arrival"].as_u64().unwrap()).collect()
    };
    assert_eq!(arrivals("").await, [1, 2, 3, 4, 5]);
    assert_eq!(arrivals("limit=2").await, [4, 5]);
    assert_eq!(arrivals("after=1&limit=2").await, [2, 3]);
    assert_eq!(arrivals("message_id=m2").await, [2, 4]);
    assert_eq!(arrivals("user_id=u1&event=Email%20Opened").await, [2, 4]);
    assert_eq!(arrivals("anonymous_id=a2").await, [3]);

    let opened = server.get("/calls?after=1&limit=1").await["calls"][0].clone();
    assert_eq!(opened["body"]["context"], json!({"library": {"name": "inflection-source"}}));
    assert_eq!(opened["original_timestamp"], json!("2026-01-01T00:00:00.000Z"));
    assert_eq!(opened["outcome"], json!({"is": "accepted"}));
    assert_eq!(server.sandbox.calls()[3].outcome, Outcome::Duplicate { first: 2, same_content: false });

    let tables = server.get("/tables").await;
    assert_eq!(tables["tables"]["email_opened"]["lost"], json!({"userId": 1}));
    assert_eq!(tables["tables"]["users"]["rows"], json!(1));
    assert_eq!(server.get("/duplicates").await["calls"][0]["message_id"], json!("m2"));
    assert_eq!(server.get("/drops").await["by_reason"], json!({"no_user_anon_id": 1}));
    assert_eq!(server.get("/requests?limit=1").await["requests"][0]["first_message_id"], json!("m1"));
    server.stop().await;
}

#[tokio::test]
async fn the_page_is_whole_in_itself() {
    let server = Server::start(SandboxConfig::default()).await;
    let page = server.ask("GET", "/", "", b"").await;
    assert_eq!(page.status, 200);
    assert!(page.head.contains("content-security-policy: default-src 'none'"));
    // Strangers' data may only become text.
    for risky in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "http://", "https://"] {
        assert!(!page.body.contains(risky), "{risky}");
    }
    server.stop().await;
}

#[tokio::test]
async fn all_paths_take_calls_and_others_do_not() {
    let server = Server::start(SandboxConfig::default()).await;
    let single = json!({"userId": "u", "event": "A", "groupId": "g", "previousId": "p", "writeKey": "k"}).to_string();
    for path in ["track", "identify", "page", "screen", "group", "alias"] {
        let answer = server.ask("POST", &format!("/v1/{path}"), "Authorization: Bearer t\r\n", single.as_bytes()).await;
        assert_eq!((answer.status, answer.body.as_str()), (200, SUCCESS), "{path}");
    }
    for path in ["batch", "import"] {
        assert_eq!(server.ask("POST", &format!("/v1/{path}"), BASIC_KEY, campaign().as_bytes()).await.status, 200);
    }
    assert_eq!(server.ask("POST", "/v1/b", BASIC_KEY, b"{}").await.status, 404);
    assert_eq!(server.ask("GET", "/v1/batch", "", b"").await.status, 405);
    let kinds: Vec<String> = server.sandbox.calls().into_iter().take(6).map(|call| call.kind).collect();
    assert_eq!(kinds, ["track", "identify", "page", "screen", "group", "alias"]);
    server.stop().await;
}

#[tokio::test]
async fn gzip_is_taken_and_damaged_gzip_is_not() {
    let server = Server::start(SandboxConfig { calls_max: 0, ..SandboxConfig::default() }).await;
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(campaign().as_bytes()).unwrap();
    let packed = encoder.finish().unwrap();
    let headers = format!("Content-Encoding: gzip\r\n{BASIC_KEY}");
    assert_eq!(server.ask("POST", "/v1/batch", &headers, &packed).await.status, 200);
    assert_eq!(server.ask("POST", "/v1/batch", &headers, campaign().as_bytes()).await.status, 400);
    let request = &server.sandbox.requests()[0];
    assert_eq!((request.bytes, request.wire_bytes), (campaign().len(), packed.len()));
    assert_eq!((server.sandbox.summary().accepted, server.sandbox.calls().len()), (3, 0));
    server.stop().await;
}

#[tokio::test]
async fn bad_requests_are_told_so() {
    let server = Server::start(SandboxConfig::default()).await;
    let too_large = format!(r#"{{"batch":[]{}}}"#, " ".repeat(600_000));
    for (body, message) in [("{", "malformed JSON"), (too_large.as_str(), "body too large")] {
        let answer = server.batch(body).await;
        let expected = json!({"success": false, "message": message, "code": "invalid_request"});
        assert_eq!((answer.status, serde_json::from_str::<Value>(&answer.body).unwrap()), (400, expected));
    }
    let answer = server.ask("POST", "/v1/batch", "", campaign().as_bytes()).await;
    assert_eq!((answer.status, answer.body.contains("missing write key")), (400, true));
    server.stop().await;
}

#[tokio::test]
async fn strict_mode_knows_its_keys() {
    let strict =
        |key: &str| SandboxConfig { mode: Mode::Strict, write_keys: vec![key.to_owned()], ..SandboxConfig::default() };
    let sound = r#"{"batch":[{"type":"page","userId":"u"}]}"#;
    let stranger = Server::start(strict("other")).await;
    assert_eq!(stranger.batch(sound).await.status, 401);
    let known = Server::start(strict("key")).await;
    assert_eq!(known.batch(sound).await.status, 200);
    let refused = known.batch(&campaign()).await;
    assert_eq!((refused.status, refused.body.contains("item 4 would be dropped: no_user_anon_id")), (400, true));
    stranger.stop().await;
    known.stop().await;
}

#[tokio::test]
async fn a_connection_is_kept_for_further_requests() {
    let server = Server::start(SandboxConfig::default()).await;
    let mut stream = server.connect().await;
    for _ in 0..3 {
        stream.write_all(&request("POST", "/v1/batch", BASIC_KEY, campaign().as_bytes())).await.unwrap();
        let mut received = Vec::new();
        while !received.ends_with(SUCCESS.as_bytes()) {
            assert_ne!(stream.read_buf(&mut received).await.unwrap(), 0, "closed in between");
        }
    }
    assert_eq!(server.sandbox.summary().requests, 3);
    // An idle connection does not hold up the end.
    server.stop().await;
    assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
}
