//! What arbitrary bytes may do to the parsers and verifiers of requests: nothing but be refused.
//!
//! The fuzz targets in `fuzz/` call these functions with bytes that a fuzzer makes up, the tests below with the providers'
//! own requests, damaged. Each panics when one of its claims does not hold.
#![expect(
    clippy::missing_panics_doc,
    clippy::panic,
    reason = "each function is a claim, and panics when it does not hold"
)]

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use bytes::Bytes;
use inflection_control::{Provider, Secret, Webhook};
use inflection_domain::{Fact, InstallationKey, MachineRules, Timestamp, WorkspaceId};
use inflection_wire::{EventBatch, EventChunk, encode_event, event_batch};

use crate::fact::Context;
use crate::priority::Priority;
use crate::request::Layout;
use crate::webhooks::adapter::{Delivery, adapter};
use crate::{body, events, segment};

/// 2026-11-23T10:00:00Z, as milliseconds since 1970.
const NOW_MS: i64 = 1_795_428_000_000;
/// Most bytes that a body is unpacked to.
const UNPACKED_BYTES_MAX: usize = 1024 * 1024;
/// A secret of every form that providers' keys have: text, and base64 of sixteen bytes.
const SECRET: &str = "MDEyMzQ1Njc4OWFiY2RlZg==";
/// Headers that some provider's proof or some binding of events reads.
const HEADERS: [&str; 16] = [
    "content-type",
    "authorization",
    "svix-id",
    "svix-timestamp",
    "svix-signature",
    "webhook-id",
    "webhook-timestamp",
    "webhook-signature",
    "signature",
    "x-mandrill-signature",
    "x-twilio-email-event-webhook-signature",
    "x-twilio-email-event-webhook-timestamp",
    "x-amz-sns-message-type",
    "ce-specversion",
    "ce-type",
    "ce-id",
];

/// `POST /v1/events`, as JSON and as lines. The number of facts that were taken.
pub fn events(bytes: &[u8]) -> usize {
    let mut facts = 0;
    with_context(|context| {
        for layout in [Layout::Json, Layout::Lines] {
            if let Ok(taken) = events::take(bytes, layout, Priority::Live, context, &|_, _| true) {
                let count = taken.accepted + taken.rejected.len();
                assert!(count <= layout.events_max(), "more events than a request may have");
                assert!(taken.facts.len() <= taken.accepted, "a fact of no event");
                facts += assert_readable(&taken.facts);
            }
        }
    });
    facts
}

/// `POST /v1/batch` and a single call. The number of facts that were taken.
pub fn calls(bytes: &[u8]) -> usize {
    let mut facts = 0;
    with_context(|context| segment::fuzz(bytes, context, |taken| facts += assert_readable(taken)));
    facts
}

/// A body that says it is gzip.
pub fn gzip(bytes: &[u8]) {
    if let Ok(unpacked) = body::gunzip(bytes, UNPACKED_BYTES_MAX) {
        assert!(unpacked.len() <= UNPACKED_BYTES_MAX, "unpacked beyond the limit");
    }
}

/// A webhook's verifier, and its parser with the verifier out of the way. The first byte chooses the provider; then come the
/// values of sixteen headers that some provider reads, a line each and empty for absent; then the body. The number of facts that
/// it would give if it were genuine.
pub fn webhook(bytes: &[u8]) -> usize {
    let Some((first, rest)) = bytes.split_first() else { return 0 };
    let Some(provider) = Provider::ALL.get(usize::from(*first) % Provider::ALL.len()) else { return 0 };
    let (headers, body) = request(rest);
    deliver(*provider, &headers, body)
}

fn deliver(provider: Provider, headers: &HeaderMap, body: &[u8]) -> usize {
    let (Some(token), Some(secret)) = (Secret::new("0123456789abcdef"), Secret::new(SECRET)) else { return 0 };
    let webhook = Webhook::new(provider, token, vec![secret]);
    let delivery = Delivery { webhook: &webhook, headers, body, now: now(), certificates: &[] };
    let adapter = adapter(provider);
    let proof = adapter.require_headers(headers).and_then(|()| (adapter.verify)(&delivery));
    assert!(proof.is_err(), "{provider} takes a request of someone who has no secret");
    let Some(events) = (adapter.events)(&delivery) else { return 0 };
    let mut facts = 0;
    with_context(|context| facts += assert_readable(&adapter.parse(&events, &delivery, context).facts));
    facts
}

/// Splits the headers from the body.
fn request(bytes: &[u8]) -> (HeaderMap, &[u8]) {
    let (mut headers, mut rest) = (HeaderMap::new(), bytes);
    for name in HEADERS {
        let end = memchr::memchr(b'\n', rest).unwrap_or(rest.len());
        let (line, after) = rest.split_at_checked(end).unwrap_or((rest, &[]));
        if !line.is_empty()
            && let Ok(value) = HeaderValue::from_bytes(line)
        {
            headers.insert(HeaderName::from_static(name), value);
        }
        rest = after.strip_prefix(b"\n").unwrap_or(after);
    }
    (headers, rest)
}

fn now() -> Timestamp {
    Timestamp::from_ms(NOW_MS)
}

fn with_context(check: impl FnOnce(Context<'_>)) {
    let Ok(workspace) = WorkspaceId::new("acme") else { return };
    let key = InstallationKey::new([1; 32]);
    let machine = MachineRules::default();
    check(Context { workspace: &workspace, key: &key, now: now(), machine: &machine });
}

/// Identity must be able to read all that ingest takes: it cannot ask the sender again.
fn assert_readable(facts: &[Fact<'_>]) -> usize {
    let mut chunk = EventChunk::default();
    facts.iter().for_each(|fact| encode_event(fact, &mut chunk));
    let message: Bytes = event_batch(now(), &[chunk]);
    let read = EventBatch::decode(&message).map(|batch| batch.events);
    let Ok(read) = read else { panic!("identity cannot read the message") };
    assert_eq!(read.len(), facts.len(), "an event was lost on the wire");
    for (fact, event) in facts.iter().zip(read) {
        let Ok(event) = event else { panic!("identity cannot read an event") };
        assert_eq!(event.head, fact.head, "an event changed on the wire");
        assert!(inflection_wire::decode_body(&event.body).is_ok(), "delivery cannot read a body");
    }
    facts.len()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    /// A request of a fixture as [`webhook`] takes it: a body, or `{"headers":…,"body":…}`.
    fn written(provider: u8, line: &str) -> Vec<u8> {
        let whole: serde_json::Value = serde_json::from_str(line).unwrap();
        let body = whole.get("headers").and_then(|_| whole.get("body"));
        let body = body.map_or_else(|| line.to_owned(), |body| body.as_str().map_or(body.to_string(), str::to_owned));
        let header = |name: &&str| whole.pointer(&format!("/headers/{name}")).and_then(serde_json::Value::as_str);
        let headers = HEADERS.map(|name| format!("{}\n", header(&name).unwrap_or_default())).concat();
        [&[provider], headers.as_bytes(), body.as_bytes()].concat()
    }

    /// Every request of every provider's day, whole, cut off, and with one byte changed, at every other place.
    #[test]
    fn damaged_requests_of_providers_are_survived() {
        for (index, provider) in Provider::ALL.into_iter().enumerate() {
            let mut facts = 0;
            let day = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(provider.name()).join("day.ndjson");
            for line in fs::read_to_string(day).unwrap().lines().take(8) {
                let whole = written(u8::try_from(index).unwrap(), line);
                facts += webhook(&whole);
                for at in (0..whole.len()).step_by(37) {
                    webhook(&whole[..at]);
                    let mut changed = whole.clone();
                    changed[at] = changed[at].wrapping_add(u8::try_from(at % 251).unwrap());
                    webhook(&changed);
                }
            }
            // Those of CloudEvents have headers of their own, which are not set here.
            assert!(
                facts > 0 || provider == Provider::Cloudevents,
                "{provider}: nothing was read, so nothing was damaged"
            );
        }
    }

    #[test]
    fn damaged_events_and_calls_are_survived() {
        let event = br#"[{"type":"link_clicked","id":"e","timestamp":"2026-11-23T09:00:00Z","person_id":"p","email":"a@b.example","email_link_url":"https://a.example/\u00e9","properties":{"n":[1,-2.5e3,null,true]}}]"#;
        let call = br#"{"batch":[{"type":"track","event":"Link Clicked","messageId":"m","anonymousId":"p","properties":{"email_link_url":"https://a.example/"},"timestamp":"2026-11-23T09:00:00Z"},{"type":"alias","previousId":"a","userId":"b"}],"context":{"ip":"1.2.3.4"}}"#;
        let check = |bytes: &[u8]| {
            events(bytes);
            calls(bytes);
            gzip(bytes);
        };
        assert!(events(event) > 0 && calls(call) > 0, "nothing was read, so nothing was damaged");
        for whole in [&event[..], &call[..]] {
            for at in 0..whole.len() {
                check(&whole[..at]);
                for by in [1, 0x20, 0x80] {
                    let mut changed = whole.to_vec();
                    changed[at] ^= by;
                    check(&changed);
                }
            }
        }
    }
}
