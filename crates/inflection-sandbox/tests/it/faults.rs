//! Each fault as a sender meets it.

use std::io::ErrorKind;

use inflection_sandbox::{Fault, FaultRule, Faults, SandboxConfig};
use serde_json::json;
use tokio::io::AsyncWriteExt as _;

use crate::http::{Answer, BASIC_KEY, Server, request};

const ONE: &str = r#"{"batch":[{"type":"track","userId":"u","event":"A","messageId":"m1"}]}"#;

async fn server_with(fault: Fault) -> Server {
    let faults = Faults { rules: vec![FaultRule::times(fault, 1)] };
    Server::start(SandboxConfig { faults, ..SandboxConfig::default() }).await
}

/// After the fault the same request goes well; `taken` tells whether the first had been.
async fn check_repeat(server: &Server, taken: bool) {
    assert_eq!(server.sandbox.summary().accepted, u64::from(taken));
    assert_eq!(server.batch(ONE).await.status, 200);
    let summary = server.sandbox.summary();
    assert_eq!((summary.accepted, summary.duplicates), (1, u64::from(taken)));
    server.stop().await;
}

#[tokio::test]
async fn push_back_is_set_and_cleared_over_http() {
    let server = Server::start(SandboxConfig::default()).await;
    let rules =
        json!({"rules": [{"fault": {"kind": "status", "code": 429, "retry_after": "7", "rate_limit_reset": "soon"}}]});
    assert_eq!(server.ask("POST", "/faults", "", rules.to_string().as_bytes()).await.status, 200);
    for _ in 0..2 {
        let answer = server.batch(ONE).await;
        assert_eq!(answer.status, 429);
        assert!(answer.has_header("retry-after: 7") && answer.has_header("x-ratelimit-reset: soon"), "{}", answer.head);
    }
    assert_eq!(server.get("/faults").await["rules"][0]["applied"], json!(2));
    assert_eq!(server.ask("DELETE", "/faults", "", b"").await.status, 204);
    check_repeat(&server, false).await;
}

#[tokio::test]
async fn nonsense_faults_are_refused() {
    let server = Server::start(SandboxConfig::default()).await;
    for body in [
        json!({"rules": [{"fault": {"kind": "status", "code": 99}}]}),
        json!({"rules": [{"fault": {"kind": "cut_answer"}, "every": 0}]}),
        json!({"rules": [{"fault": {"kind": "unheard of"}}]}),
    ] {
        assert_eq!(server.ask("POST", "/faults", "", body.to_string().as_bytes()).await.status, 400, "{body}");
    }
    check_repeat(&server, false).await;
}

#[tokio::test]
async fn a_lost_answer_after_commit() {
    let server = server_with(Fault::StatusAfterCommit { code: 502 }).await;
    assert_eq!(server.batch(ONE).await.status, 502);
    check_repeat(&server, true).await;
}

#[tokio::test]
async fn resets_come_as_resets() {
    for (fault, taken) in [(Fault::ResetBeforeCommit, false), (Fault::ResetAfterCommit, true)] {
        let server = server_with(fault).await;
        let (received, end) = server.raw("POST", "/v1/batch", BASIC_KEY, ONE.as_bytes()).await;
        assert_eq!((received.len(), end.unwrap_err().kind()), (0, ErrorKind::ConnectionReset));
        assert_eq!(server.sandbox.requests()[0].status, None);
        check_repeat(&server, taken).await;
    }
}

#[tokio::test]
async fn a_hang_ends_without_an_answer() {
    for commit in [false, true] {
        let server = server_with(Fault::Hang { ms: 5, commit }).await;
        let (received, end) = server.raw("POST", "/v1/batch", BASIC_KEY, ONE.as_bytes()).await;
        end.unwrap();
        assert_eq!(received, b"");
        check_repeat(&server, commit).await;
    }
}

#[tokio::test]
async fn a_long_hang_does_not_hold_up_the_end() {
    let server = server_with(Fault::Hang { ms: 3_600_000, commit: true }).await;
    let mut stream = server.connect().await;
    stream.write_all(&request("POST", "/v1/batch", BASIC_KEY, ONE.as_bytes())).await.unwrap();
    while server.sandbox.summary().accepted == 0 {
        tokio::task::yield_now().await;
    }
    server.stop().await;
}

#[tokio::test]
async fn a_slow_answer_is_a_whole_answer() {
    let server = server_with(Fault::Slow { ms: 5 }).await;
    let asked = std::time::Instant::now();
    assert_eq!(server.batch(ONE).await.status, 200);
    assert!(asked.elapsed().as_millis() >= 5);
    check_repeat(&server, true).await;
}

#[tokio::test]
async fn a_cut_answer_is_shorter_than_announced() {
    let server = server_with(Fault::CutAnswer).await;
    let (received, _end) = server.raw("POST", "/v1/batch", BASIC_KEY, ONE.as_bytes()).await;
    let answer = Answer::read(&received);
    let line = answer.head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
    let announced: usize = line.parse().unwrap();
    assert_eq!(answer.status, 200);
    assert!(answer.body.len() < announced, "{} of {announced}", answer.body.len());
    assert!(!answer.body.is_empty());
    check_repeat(&server, true).await;
}

#[tokio::test]
async fn one_poisoned_item_spoils_its_batch_only() {
    let server = Server::start(SandboxConfig::default()).await;
    let poison = Fault::RejectItem { contains: "poison".to_owned() };
    server.sandbox.set_faults(Faults { rules: vec![FaultRule::always(poison)] });
    let spoilt = r#"{"batch":[{"type":"page","userId":"u","messageId":"m2"},{"type":"page","userId":"poison"}]}"#;
    assert_eq!(server.batch(spoilt).await.status, 400);
    assert_eq!(server.sandbox.summary().calls, 0);
    assert_eq!(server.batch(r#"{"batch":[{"type":"page","userId":"u","messageId":"m2"}]}"#).await.status, 200);
    assert_eq!(server.sandbox.summary().accepted, 1);
    server.stop().await;
}

#[tokio::test]
async fn a_redirect_leads_away() {
    let server = server_with(Fault::Redirect { location: "http://127.0.0.1:9/elsewhere".to_owned() }).await;
    let answer = server.batch(ONE).await;
    assert_eq!(answer.status, 307);
    assert!(answer.has_header("location: http://127.0.0.1:9/elsewhere"));
    check_repeat(&server, false).await;
}
