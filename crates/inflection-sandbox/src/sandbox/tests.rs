use serde_json::json;

use super::*;
use crate::faults::{Fault, FaultRule};
use crate::kind::Kind;
use crate::record::Outcome;

const BATCH: Endpoint = Endpoint::Batch { name: "batch" };

fn sandbox(mode: Mode, keys: &[&str]) -> Sandbox {
    let write_keys = keys.iter().map(|key| (*key).to_owned()).collect();
    Sandbox::new(SandboxConfig { mode, write_keys, ..SandboxConfig::default() })
}

fn send_as(sandbox: &Sandbox, key: &str, endpoint: Endpoint, body: &str) -> Option<u16> {
    let credentials = Credentials::Basic(key.to_owned());
    let delivered = Delivered { endpoint, credentials, encoding: Encoding::Plain, wire: Ok(body.as_bytes()) };
    sandbox.receive(delivered).status_seen()
}

fn send(sandbox: &Sandbox, body: &str) -> Option<u16> {
    send_as(sandbox, "k", BATCH, body)
}

fn batch(items: &[String]) -> String {
    format!(r#"{{"batch":[{}],"sentAt":"2026-01-01T00:00:00Z"}}"#, items.join(","))
}

fn track(message_id: &str, event: &str) -> String {
    json!({"type": "track", "messageId": message_id, "userId": "u", "event": event}).to_string()
}

fn outcomes(sandbox: &Sandbox) -> Vec<Outcome> {
    sandbox.calls().into_iter().map(|call| call.outcome).collect()
}

#[test]
fn every_call_is_accounted_for() {
    let sandbox = sandbox(Mode::Faithful, &[]);
    let link = json!({"type": "identify", "messageId": "m2", "userId": "u", "anonymousId": "a"}).to_string();
    let lost = json!({"type": "track", "event": "A"}).to_string();
    let body = batch(&[track("m1", "A"), link, lost, track("m1", "A")]);
    assert_eq!(send(&sandbox, &body), Some(200));
    let expected = [
        Outcome::Accepted,
        Outcome::Accepted,
        Outcome::Dropped { reason: "no_user_anon_id" },
        Outcome::Duplicate { first: 1, same_content: true },
    ];
    assert_eq!(outcomes(&sandbox), expected);
    let summary = sandbox.summary();
    assert_eq!((summary.requests, summary.calls, summary.accepted, summary.duplicates), (1, 4, 2, 1));
    assert_eq!((summary.identity_links, summary.dropped["no_user_anon_id"]), (1, 1));
    assert_eq!((summary.by_event["A"], summary.by_type["identify"], summary.by_status["200"]), (1, 1, 1));
    let calls = sandbox.calls();
    let first = calls.first().unwrap();
    assert_eq!(first.body, json!({"type": "track", "messageId": "m1", "userId": "u", "event": "A"}));
    assert_eq!((first.sent_at.as_deref(), first.write_key.as_str()), (Some("2026-01-01T00:00:00Z"), "k"));
    let request = sandbox.requests().pop().unwrap();
    assert_eq!((request.items, request.bytes, request.status), (4, body.len(), Some(200)));
    assert_eq!(request.first_message_id.as_deref(), Some("m1"));
}

#[test]
fn duplicates_are_found_across_keys_and_beyond_the_window() {
    for calls_max in [0, 1] {
        let sandbox = Sandbox::new(SandboxConfig { calls_max, ..SandboxConfig::default() });
        send_as(&sandbox, "one", BATCH, &batch(&[track("m1", "A")]));
        send_as(&sandbox, "one", BATCH, &batch(&[track("m2", "A")]));
        send_as(&sandbox, "two", BATCH, &batch(&[track("m1", "A")]));
        send_as(&sandbox, "two", BATCH, &batch(&[track("m1", "B")]));
        let summary = sandbox.summary();
        assert_eq!((summary.accepted, summary.duplicates, summary.duplicates_with_other_content), (2, 2, 1));
        assert_eq!(sandbox.calls().len(), calls_max);
        let kept: Vec<_> = sandbox.state().duplicates.iter().map(|kept| kept.outcome).collect();
        let duplicate = |same_content| Outcome::Duplicate { first: 1, same_content };
        assert_eq!(kept, [duplicate(true), duplicate(false)]);
    }
}

#[test]
fn calls_without_an_id_get_one_each() {
    let sandbox = sandbox(Mode::Faithful, &[]);
    let bare = json!({"type": "track", "userId": "u", "event": "A"}).to_string();
    send(&sandbox, &batch(&[bare.clone(), bare]));
    assert_eq!(outcomes(&sandbox), [Outcome::Accepted; 2]);
    let ids: HashSet<String> = sandbox.calls().into_iter().map(|call| call.message_id).collect();
    assert_eq!(ids.len(), 2);
}

#[test]
fn a_batch_over_2500_keeps_the_first() {
    let items: Vec<String> = (0..2_502).map(|n| track(&format!("m{n}"), "A")).collect();
    let body = batch(&items);
    let faithful = sandbox(Mode::Faithful, &[]);
    assert_eq!(send(&faithful, &body), Some(200));
    assert_eq!((faithful.summary().accepted, faithful.summary().dropped["batch_over_2500"]), (2_500, 2));
    assert_eq!(send(&sandbox(Mode::Strict, &["k"]), &body), Some(400));
}

#[test]
fn unknown_keys_and_drops_by_mode() {
    let lost = batch(&[track("m1", "A"), track("m2", "")]);
    let check = |mode, keys: &[&str], body: &str, expected: (Option<u16>, u64, &[&str])| {
        let sandbox = sandbox(mode, keys);
        let status = send(&sandbox, body);
        let summary = sandbox.summary();
        let reasons: Vec<&str> = summary.dropped.keys().map(String::as_str).collect();
        assert_eq!((status, summary.accepted, reasons.as_slice()), expected, "{mode:?} {keys:?} {body}");
    };
    let sound = batch(&[track("m1", "A")]);
    check(Mode::Faithful, &[], &sound, (Some(200), 1, &[]));
    check(Mode::Faithful, &["other"], &sound, (Some(200), 0, &["unknown_source"]));
    check(Mode::Faithful, &["k"], &lost, (Some(200), 1, &["event_not_defined"]));
    check(Mode::Faithful, &["k"], r#"{"batch":[]}"#, (Some(200), 0, &["empty_batch"]));
    check(Mode::Strict, &["k"], &sound, (Some(200), 1, &[]));
    check(Mode::Strict, &["other"], &sound, (Some(401), 0, &[]));
    check(Mode::Strict, &["k"], &lost, (Some(400), 0, &["event_not_defined"]));
    check(Mode::Strict, &["k"], r#"{"batch":[]}"#, (Some(400), 0, &["empty_batch"]));
    check(Mode::Faithful, &["k"], "nonsense", (Some(400), 0, &[]));
}

#[test]
fn the_key_stands_in_the_header_or_in_the_body() {
    let sandbox = sandbox(Mode::Faithful, &[]);
    let status = |credentials, body: &str| {
        let endpoint = Endpoint::Single(Kind::Track);
        let delivered = Delivered { endpoint, credentials, encoding: Encoding::Plain, wire: Ok(body.as_bytes()) };
        sandbox.receive(delivered).status_seen()
    };
    let with_key = r#"{"userId":"u","event":"A","writeKey":"in body","messageId":"m"}"#;
    let without = r#"{"userId":"u","event":"A"}"#;
    assert_eq!(status(Credentials::InBody, with_key), Some(200));
    assert_eq!(status(Credentials::InBody, without), Some(400));
    assert_eq!(status(Credentials::Unreadable, with_key), Some(400));
    assert_eq!(status(Credentials::Basic(String::new()), with_key), Some(400));
    let call = sandbox.calls().pop().unwrap();
    assert_eq!((call.write_key.as_str(), call.kind.as_str()), ("in body", "track"));
    assert_eq!(call.body, json!({"userId": "u", "event": "A", "messageId": "m"}));
}

#[test]
fn what_a_fault_keeps_out_was_never_there() {
    let sandbox = sandbox(Mode::Faithful, &[]);
    let body = batch(&[track("m1", "A"), track("m2", "B")]);
    let rules = [
        Fault::Status { code: 503, retry_after: None, rate_limit_reset: None },
        Fault::RejectItem { contains: r#""event":"B""#.to_owned() },
        Fault::StatusAfterCommit { code: 500 },
    ];
    sandbox.set_faults(Faults { rules: rules.map(|fault| FaultRule::times(fault, 1)).into() });
    assert_eq!(send(&sandbox, &body), Some(503));
    assert_eq!(send(&sandbox, &body), Some(400));
    assert_eq!(sandbox.summary().calls, 0);
    assert_eq!(send(&sandbox, &body), Some(500));
    assert_eq!(sandbox.summary().accepted, 2);
    assert_eq!(send(&sandbox, &body), Some(200));
    assert_eq!((sandbox.summary().accepted, sandbox.summary().duplicates), (2, 2));
    let faults: Vec<_> = sandbox.requests().into_iter().map(|request| request.fault).collect();
    assert_eq!(faults, [Some("status"), Some("reject_item"), Some("status_after_commit"), None]);
}

#[test]
fn tables_grow_with_accepted_calls_only() {
    let sandbox = sandbox(Mode::Faithful, &[]);
    send(&sandbox, &batch(&[track("m1", "Email Opened"), track("m1", "Email Opened"), track("m2", "")]));
    let tables = serde_json::to_value(sandbox.state().tables.snapshot()).unwrap();
    assert_eq!(tables["tables"]["email_opened"]["rows"], json!(1));
    assert_eq!(tables["tables"]["tracks"]["rows"], json!(1));
}
