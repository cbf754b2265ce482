//! One trace shows an event's whole way through three processes, it is found from the event's id, it tells nobody's address,
//! and nothing depends on whether anybody collects it.

#![expect(clippy::expect_used, reason = "helpers of checks: a panic is a failed check with its reason")]

use std::collections::{BTreeMap, BTreeSet};
use std::slice::from_ref;

use inflection_tests::collector::{Collector, Span};
use inflection_tests::config::Workspace;
use inflection_tests::fact::{self, Fact, recently_ms};
use inflection_tests::fleet::{Fleet, Stage};
use inflection_tests::http::{Client, Request};
use inflection_tests::ports;
use inflection_tests::segment::Segment;
use inflection_tests::sender::Sender;
use inflection_tests::wait::{DRAINED, eventually, holds};

/// The caller's own trace and span.
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const CALLER: &str = "b7ad6b7169203331";

/// A trace that the caller does not keep.
const UNSAMPLED: &str = "11f7651916cd43dd8448eb211c80319c";

/// What collectors ask for.
const COLLECTOR_KEY: &str = "qzcanary-collector-key";

/// Ids as senders write them: addresses.
const EVENT: &str = "qzcanary.open@corp.example";
const PERSON: &str = "qzcanary.person@corp.example";
const USER: &str = "qzcanary.user@corp.example";
const ADDRESS: &str = "qzcanary.ann@mail.example";

fn opened(id: &str, person: &str) -> Fact {
    Fact::new("email_opened", id, recently_ms()).person(person).mail("mail-1", "run-1").human()
}

/// Posts one event with a `traceparent`.
#[track_caller]
fn post(fleet: &Fleet, workspace: &Workspace, fact: &Fact, traceparent: &str) {
    let body = fact::body(from_ref(fact));
    let request = Request::json("/v1/events", body).bearer(workspace.ingest_key()).header("traceparent", traceparent);
    let answer = Client::new(fleet.ingest()).call(&request).expect("an answer");
    assert_eq!(answer.status, 200, "{}", answer.text());
}

#[track_caller]
fn await_calls(segment: &Segment, count: usize) {
    eventually("the calls arrive", DRAINED, || {
        let calls = segment.calls().len();
        holds(calls >= count, || format!("{calls} of {count} calls"))
    });
}

#[test]
fn one_trace_shows_the_whole_way_of_an_event() {
    let (collector, segment, workspace) = (Collector::start(), Segment::start(), Workspace::new("acme"));
    let (url, headers) = (collector.url(), format!("x-collector-key={COLLECTOR_KEY}"));
    // Only what a caller asks for.
    let environment = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", url.as_str()),
        ("OTEL_EXPORTER_OTLP_HEADERS", headers.as_str()),
        ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"),
        ("OTEL_TRACES_SAMPLER_ARG", "0"),
        ("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test"),
    ];
    let mut fleet = Fleet::start_in(&environment, &segment, from_ref(&workspace));
    post(&fleet, &workspace, &opened("untraced", "p-2"), &format!("00-{UNSAMPLED}-{CALLER}-00"));
    let event = opened(EVENT, PERSON).user(USER).email(ADDRESS);
    post(&fleet, &workspace, &event, &format!("00-{TRACE}-{CALLER}-01"));
    // Each process ends as soon as its part is done: what it knows of the trace it must tell before.
    fleet.terminate(Stage::Ingest);
    // An opened and a unique open of each, and the identify of the one whose user is known.
    await_calls(&segment, 5);
    let admin = fleet.admin(Stage::Delivery);
    let told = admin.json(&format!("/v1/explain/{EVENT}")).expect("an explanation");
    assert_eq!(told.pointer("/events/0/trace_id").and_then(|id| id.as_str()), Some(TRACE), "{told}");
    let told = admin.json("/v1/explain/untraced").expect("an explanation");
    assert!(told.pointer("/events/0/trace_id").is_none() && told.pointer("/events/0").is_some(), "{told}");
    fleet.terminate(Stage::Identity);
    fleet.terminate(Stage::Delivery);

    let spans = collector.spans();
    let traced: Vec<&Span> = spans.iter().filter(|span| span.trace == TRACE).collect();
    assert_way(&traced);
    assert_requests(&spans, &traced);
    assert!(spans.iter().all(|span| span.trace != UNSAMPLED), "{spans:#?}");
    assert!(collector.has_received(COLLECTOR_KEY), "the collector's own key is sent");
    assert!(collector.has_received("deployment.environment.name"), "and what operators add");
    for secret in [EVENT, PERSON, USER, ADDRESS, "qzcanary.", workspace.ingest_key(), workspace.write_key()] {
        assert!(!collector.has_received(secret), "{secret} is in a span");
    }
    assert!(!fleet.log_text().contains(COLLECTOR_KEY), "the collector's key is logged");
}

/// The trace of the event: all three services, every hop, each within the one before it.
#[track_caller]
fn assert_way(traced: &[&Span]) {
    let mut hops: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for span in traced {
        *hops.entry((span.service.as_str(), span.name.as_str())).or_default() += 1;
    }
    let expected = BTreeMap::from([
        (("inflection-ingest", "POST /v1/events"), 1),
        (("inflection-ingest", "append event"), 1),
        (("inflection-identity", "fold event"), 1),
        (("inflection-identity", "append decision"), 1),
        (("inflection-delivery", "deliver call"), 3),
        (("inflection-delivery", "send call"), 3),
    ]);
    assert_eq!(hops, expected, "{traced:#?}");
    let above = |name: &str| match name {
        "append event" => Some("POST /v1/events"),
        "fold event" => Some("append event"),
        "append decision" => Some("fold event"),
        "deliver call" => Some("append decision"),
        "send call" => Some("deliver call"),
        _ => None,
    };
    for span in traced {
        let parent = traced.iter().find(|other| other.id == span.parent);
        assert_eq!(parent.map(|parent| parent.name.as_str()), above(&span.name), "{span:?}");
        if parent.is_none() {
            assert_eq!(span.parent, CALLER, "the caller's span is the parent of the request: {span:?}");
        }
        assert!(span.time_ns.0 <= span.time_ns.1 && !span.failed, "{span:?}");
    }
    let one = |name: &str| traced.iter().find(|span| span.name == name).expect("a span of that name");
    assert_eq!(one("POST /v1/events").attribute("http.response.status_code"), "200");
    assert_eq!(one("fold event").attribute("inflection.verdict"), "new");
    assert_eq!(one("fold event").attribute("inflection.calls"), "3");
    let ids: BTreeSet<&str> = traced.iter().map(|span| span.attribute("messaging.message.id")).collect();
    assert_eq!(ids.iter().filter(|id| id.starts_with("infl_")).count(), 3, "{ids:?}");
}

/// Each call was in a request that answered 200, and the request knows which calls it had.
#[track_caller]
fn assert_requests(spans: &[Span], traced: &[&Span]) {
    let requests: Vec<&Span> = spans.iter().filter(|span| span.name == "POST /v1/batch").collect();
    assert!(!requests.is_empty() && requests.iter().all(|request| request.trace != TRACE), "{requests:#?}");
    for call in traced.iter().filter(|span| span.name == "deliver call") {
        assert_eq!(call.attribute("inflection.outcome"), "accepted", "{call:?}");
        let sent = traced.iter().find(|span| span.parent == call.id).expect("it was sent");
        assert_eq!(sent.attribute("http.response.status_code"), "200", "{sent:?}");
        assert_eq!(sent.attribute("http.request.resend_count"), "0", "{sent:?}");
        let request = requests.iter().find(|request| request.links.contains(&call.id)).expect("a request had it");
        assert_eq!(sent.links, from_ref(&request.id), "{sent:?}");
    }
}

#[test]
fn a_collector_that_is_not_there_is_said_once_and_hinders_nothing() {
    let (segment, workspace) = (Segment::start(), Workspace::new("acme"));
    let nowhere = format!("http://{}", ports::free());
    let environment = [("OTEL_EXPORTER_OTLP_ENDPOINT", nowhere.as_str()), ("OTEL_TRACES_SAMPLER", "always_on")];
    let mut fleet = Fleet::start_in(&environment, &segment, from_ref(&workspace));
    let mut sender = Sender::new(fleet.ingest(), workspace.ingest_key());
    for number in 0..50 {
        sender.take(&[opened(&format!("e-{number}"), &format!("p-{number}"))]);
    }
    await_calls(&segment, 100);
    for stage in Stage::ALL {
        fleet.terminate(stage);
    }
    let log = fleet.log_text();
    assert_eq!(log.matches("the collector takes no traces").count(), 3, "once a process:\n{log}");
}
