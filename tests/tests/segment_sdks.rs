//! Segment's own shapes at the public listener: what its SDKs send arrives, once, in order, under the right identity; and
//! what is wrong with a call costs no other.

#![expect(clippy::expect_used, reason = "helpers of checks: a panic is a failed check with its reason")]

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::TcpStream;
use std::slice::from_ref;

use inflection_tests::arrived::{Arrived, assert_one_content, first_arrivals};
use inflection_tests::config::{Connection, Workspace};
use inflection_tests::fact::{Fact, now_ms, recently_ms, rfc3339};
use inflection_tests::http::{Answer, Client, Request, gzip};
use inflection_tests::install::{Install, Kind, Stop};
use inflection_tests::random::Random;
use inflection_tests::segment::Segment;
use inflection_tests::sender::Sender;
use inflection_tests::standalone::{INGEST_KEY, Standalone};
use inflection_tests::wait::{SOON, eventually, holds};
use serde_json::{Value, json};

/// A word in addresses that no answer and no log may show.
const CANARY: &str = "qzcanary7";

#[track_caller]
fn send(standalone: &Standalone, request: &Request) -> Answer {
    let answer = Client::new(standalone.ingest()).call(request).expect("an answer");
    assert!(!answer.text().contains(CANARY), "the answer repeats the input: {}", answer.text());
    answer
}

/// Which call it is, of whom, and what tells it apart.
fn line(call: &Arrived) -> String {
    let who = call.user_id().map_or("-", |user| user);
    let name = call.event().or_else(|| call.body.get("name").and_then(Value::as_str)).unwrap_or_default();
    let unique = ["is_unique_open", "is_unique_click"].into_iter().any(|flag| call.flag(flag));
    format!("{} {name} {who}{}", call.kind, if unique { " unique" } else { "" })
}

/// Everything an SDK may send, of one person; and what arrives of it, in order.
fn everything(word: &str) -> (Vec<Value>, Vec<String>) {
    let at = rfc3339(recently_ms());
    let context = json!({ "library": { "name": "@segment/analytics-node", "version": "3.1.0" }, "ip": "203.0.113.7" });
    let user = format!("u-{word}");
    let email = format!("{CANARY}.{word}@corp.example");
    let mail = json!({ "email_id": 12, "campaign_id": "cmp-9", "campaign_run_id": "run-1" });
    let click = json!({ "email_id": 12, "campaign_run_id": "run-1", "link_url": "https://shop.example/a" });
    let rows = [
        (
            json!({ "type": "track", "event": "Order Placed", "properties": { "total": 9.5, "event": "own" } }),
            vec!["track Order Placed -"],
        ),
        (
            json!({ "type": "track", "event": "Email Opened", "properties": mail }),
            vec!["track Email Opened - unique", "track Email Unique Opens - unique"],
        ),
        (json!({ "type": "track", "event": "Email Unique Opens", "properties": mail }), vec![]),
        (json!({ "type": "track", "properties": {} }), vec![]),
        (json!({ "type": "alias", "previousId": "x", "userId": user }), vec![]),
        (
            json!({ "type": "identify", "userId": user, "traits": { "plan": "pro", "email": email } }),
            vec!["identify  {u}"],
        ),
        (
            json!({ "type": "track", "event": "Email Link Clicked", "properties": click }),
            vec![
                "track Link Clicked {u} unique",
                "track Unique Link Click {u} unique",
                "track Unique Link Click per Unique Open {u} unique",
            ],
        ),
        (
            json!({ "type": "page", "name": "Docs", "category": "Help", "properties": { "url": "https://a.example" } }),
            vec!["page Docs {u}"],
        ),
        (json!({ "type": "screen", "name": "Cart" }), vec!["screen Cart {u}"]),
        (json!({ "type": "group", "groupId": "g", "traits": { "name": "Acme" } }), vec!["group  {u}"]),
        (json!({ "type": "track", "event": "Order Placed", "userId": user }), vec!["track Order Placed {u}"]),
        (
            json!({ "type": "track", "event": "Email Marked as Spam", "properties": mail }),
            vec!["track Email Reported as Spam {u}"],
        ),
        (json!({ "type": "track", "event": "Unsubscribed", "properties": mail }), vec!["track Email Unsubscribed {u}"]),
    ];
    let (mut items, mut expected) = (Vec::new(), Vec::new());
    for (number, (mut item, lines)) in rows.into_iter().enumerate() {
        let fields = item.as_object_mut().expect("an object");
        fields.insert("messageId".into(), format!("m-{word}-{number}").into());
        fields.insert("anonymousId".into(), format!("p-{word}").into());
        fields.insert("timestamp".into(), at.clone().into());
        fields.insert("context".into(), context.clone());
        items.push(item);
        expected.extend(lines.into_iter().map(|line| line.replace("{u}", &user)));
    }
    (items, expected)
}

fn batch(items: &[Value], sent_at_ms: i64) -> Vec<u8> {
    json!({ "batch": items, "sentAt": rfc3339(sent_at_ms), "writeKey": INGEST_KEY }).to_string().into_bytes()
}

#[test]
fn every_call_becomes_what_the_table_says() {
    let mut random = Random::announced("segment calls");
    let segment = Segment::start();
    let standalone = Standalone::start(&segment);
    let (items, expected) = everything(&random.word());
    for attempt in 0..2 {
        // An SDK that lost the answer sends the same again, under another `sentAt`.
        let body = gzip(&batch(&items, now_ms() + attempt * 1000));
        let request = Request::json("/v1/batch", body).header("Content-Encoding", "gzip").basic(INGEST_KEY);
        let answer = send(&standalone, &request);
        let refused = json!({ "index": 3, "code": "missing_field", "message": "event is required for a track" });
        let ignored = json!([{ "index": 2, "code": "derived_event" }, { "index": 4, "code": "alias" }]);
        let body = json!({ "success": true, "rejected": [refused], "ignored": ignored });
        assert_eq!((answer.status, answer.json()), (200, body), "attempt {attempt}");
    }
    eventually("every call arrives, in order", SOON, || {
        let came: Vec<String> = first_arrivals(segment.calls()).iter().map(line).collect();
        holds(came == expected, || format!("\ncame     {came:#?}\nexpected {expected:#?}"))
    });
    let calls = segment.calls();
    assert_one_content(&calls);
    let order = calls.first().expect("the custom track came first");
    assert_eq!(order.properties(), &json!({ "total": 9.5, "event": "own" }), "as its sender wrote them");
    assert_eq!(order.body["context"]["ip"], "203.0.113.7");
    assert_eq!(order.body["context"]["library"]["name"], "@segment/analytics-node");
    assert_eq!(order.body["context"]["integration"]["name"], "Inflection");
    assert!(order.message_id.starts_with("infl_"), "the id at Segment is ours: {}", order.message_id);
    let identify = calls.iter().find(|call| call.kind == "identify").expect("an identify");
    assert_eq!((identify.anonymous_id().is_some(), &identify.body["traits"]["plan"]), (true, &json!("pro")));
    let opened = calls.iter().find(|call| call.event() == Some("Email Opened")).expect("an open");
    assert_eq!((opened.property("email_id"), opened.body["context"].get("ip")), (Some("12"), None));

    let id = items[0]["messageId"].as_str().expect("an id");
    let told = standalone.admin().json(&format!("/v1/explain/{id}")).expect("an explanation");
    assert_eq!(told.pointer("/events/0/calls/0/call"), Some(&json!("Order Placed")), "{told}");
    let log = standalone.log_text();
    assert!(!log.contains(CANARY), "the log shows an address");
    let install = Install::Standalone(Box::new(standalone));
    install.settle();
    // What was refused is counted a moment later.
    eventually("the books show what was taken, repeated and refused", SOON, || {
        let raw = install.ledger()?.raw;
        let counts = ["folded", "duplicate", "rejected"].map(|name| raw["events"][name].as_u64());
        holds(counts == [Some(10), Some(10), Some(2)], || raw.to_string())
    });
}

/// The mobile SDKs have a path, a media type and a framing of their own.
#[test]
fn a_mobile_sdk_is_a_sender() {
    let segment = Segment::start();
    let standalone = Standalone::start(&segment);
    let call = |id: &str| json!({ "type": "track", "event": "Order Placed", "userId": "u", "messageId": id });
    let body = gzip(&batch(&[call("1"), call("2")], now_ms()));
    let (first, last) = body.split_at(body.len() / 2);
    let mut chunked = Vec::new();
    for chunk in [first, last, &[]] {
        chunked.extend(format!("{:x}\r\n", chunk.len()).bytes());
        chunked.extend(chunk);
        chunked.extend(b"\r\n");
    }
    let request = Request::json("/v1/b", chunked)
        .with("Content-Type", "text/plain; charset=utf-8")
        .header("Content-Encoding", "gzip")
        .header("Transfer-Encoding", "chunked");
    let answer = send(&standalone, &request.clone().basic(INGEST_KEY));
    assert_eq!((answer.status, answer.json()), (200, json!({ "success": true })));
    assert_eq!(send(&standalone, &request.basic("ik_unknown")).status, 401);
    eventually("both calls arrive", SOON, || {
        let calls = segment.calls();
        holds(calls.iter().filter(|call| call.event() == Some("Order Placed")).count() == 2, || format!("{calls:?}"))
    });
    Install::Standalone(Box::new(standalone)).settle();
}

/// What an envelope adds to its items takes room like a body: while there is none, the request is sent again later.
#[test]
fn what_is_added_to_items_takes_room_in_memory() {
    /// What one workspace may hold of 64 MiB: three times what it leaves free.
    const ROOM_BYTES: usize = 48 * 1024 * 1024;
    const BODY_BYTES: usize = 1_000_000;
    let segment = Segment::start();
    let standalone = Standalone::start(&segment);
    let item = json!({ "type": "track", "event": "A", "userId": "u", "context": { "ip": "203.0.113.7" } });
    let plain = json!({ "batch": vec![&item; 45] }).to_string();
    let shared = json!({ "batch": vec![&item; 45], "context": { "a": "x".repeat(20_000) } }).to_string();
    let post = |body: &str| send(&standalone, &Request::json("/v1/batch", body).basic(INGEST_KEY));
    assert_eq!(post(&shared).status, 200, "there is room");
    // Bodies that are announced and do not come hold all room but a little.
    let announced = Request::json("/v1/batch", "").basic(INGEST_KEY).header("Content-Length", &BODY_BYTES.to_string());
    let announce = || {
        let mut stream = TcpStream::connect(standalone.ingest()).expect("a connection");
        stream.write_all(&announced.encode()).expect("a head is sent");
        stream
    };
    let mut waiting: Vec<TcpStream> = (0..ROOM_BYTES / BODY_BYTES).map(|_| announce()).collect();
    let refused = eventually("the announced bodies have their room", SOON, || {
        let answer = post(&shared);
        if answer.status != 200 {
            return Ok(answer);
        }
        // While that was in hand it may have been in the way of one of the others.
        waiting.push(announce());
        Err("taken".to_owned())
    });
    assert_eq!((refused.status, &refused.json()["code"]), (503, &json!("overloaded")));
    assert!(refused.header("retry-after").is_some(), "an SDK is told when to send again");
    assert_eq!(post(&plain).status, 200, "as many items with nothing added still fit");
    drop(waiting);
    eventually("the room is given back", SOON, || {
        let answer = post(&shared);
        holds(answer.status == 200, || answer.text())
    });
}

#[test]
fn every_path_and_every_place_of_the_key_is_good() {
    let segment = Segment::start();
    let standalone = Standalone::start(&segment);
    let calls = [
        ("/v1/track", json!({ "event": "Order Placed" }), "track"),
        ("/v1/identify", json!({ "traits": { "plan": "pro" } }), "identify"),
        ("/v1/page", json!({ "name": "Docs" }), "page"),
        ("/v1/screen", json!({ "name": "Cart" }), "screen"),
        ("/v1/group", json!({ "groupId": "g" }), "group"),
        ("/v1/alias", json!({ "previousId": "x", "userId": "u" }), ""),
    ];
    let mut expected: BTreeMap<&str, usize> = BTreeMap::new();
    for (path, fields, kind) in calls {
        for place in ["basic", "bearer", "body"] {
            let mut call = fields.clone();
            call["anonymousId"] = json!(format!("p-{place}"));
            call["messageId"] = json!(format!("{path}-{place}"));
            if place == "body" {
                call["writeKey"] = json!(INGEST_KEY);
            }
            let request = Request::json(path, call.to_string());
            let request = match place {
                "basic" => request.basic(INGEST_KEY),
                "bearer" => request.bearer(INGEST_KEY),
                _ => request,
            };
            let answer = send(&standalone, &request);
            assert_eq!((answer.status, &answer.json()["success"]), (200, &json!(true)), "{path} {place}");
            if !kind.is_empty() {
                *expected.entry(kind).or_default() += 1;
            }
        }
    }
    eventually("every call arrives once", SOON, || {
        let mut came: BTreeMap<String, usize> = BTreeMap::new();
        segment.calls().into_iter().for_each(|call| *came.entry(call.kind).or_default() += 1);
        let same = came.iter().map(|(kind, count)| (kind.as_str(), *count)).eq(expected.iter().map(|(k, n)| (*k, *n)));
        holds(same, || format!("came {came:?}, expected {expected:?}"))
    });
    Install::Standalone(Box::new(standalone)).settle();
}

#[test]
fn what_concerns_the_request_is_answered_as_sdks_understand_it() {
    let segment = Segment::start();
    let standalone = Standalone::start(&segment);
    let item = json!({ "type": "track", "event": "Order Placed", "userId": format!("{CANARY}@corp.example") });
    let body = json!({ "batch": [item] });
    let good = Request::json("/v1/batch", body.to_string()).basic(INGEST_KEY);
    let with_key = |key: &str| {
        let mut keyed = body.clone();
        keyed["writeKey"] = json!(key);
        good.clone().without("Authorization").body(keyed.to_string())
    };
    let huge = json!({ "batch": [item], "padding": "x".repeat(1024 * 1024) }).to_string();
    let bad = json!({ "batch": [{ "type": "track", "userId": CANARY }] }).to_string();
    let single = |fields: &str| Request::json("/v1/track", fields).basic(INGEST_KEY);
    let large =
        json!({ "userId": "u", "event": "Order Placed", "properties": { "a": "x".repeat(33_000) } }).to_string();
    for (name, request, status, code) in [
        ("no key", good.clone().without("Authorization"), 401, "auth_missing"),
        ("unknown key", good.clone().without("Authorization").basic("ik_unknown"), 401, "auth_invalid"),
        ("unknown key in the body", with_key("ik_unknown"), 401, "auth_invalid"),
        ("the header counts", with_key(INGEST_KEY).basic("ik_unknown"), 401, "auth_invalid"),
        ("another scheme", with_key(INGEST_KEY).header("Authorization", "Digest x"), 401, "auth_scheme"),
        ("GET", good.clone().method("GET"), 405, "method_not_allowed"),
        ("no content type", good.clone().without("Content-Type"), 415, "unsupported_media_type"),
        ("lines", good.clone().with("Content-Type", "application/x-ndjson"), 415, "unsupported_media_type"),
        ("brotli", good.clone().header("Content-Encoding", "br"), 415, "unsupported_encoding"),
        ("no gzip", good.clone().header("Content-Encoding", "gzip"), 400, "bad_gzip"),
        (
            "bomb",
            good.clone().header("Content-Encoding", "gzip").body(gzip(huge.as_bytes())),
            413,
            "decompressed_too_large",
        ),
        ("huge", good.clone().body(huge.clone()), 413, "body_too_large"),
        ("two hosts", good.clone().header("Host", "a").header("Host", "b"), 400, "bad_header"),
        ("no JSON", good.clone().body("{"), 400, "bad_json"),
        ("no UTF-8", good.clone().body(b"{\"batch\":[\"\xff\"]}".to_vec()), 400, "bad_utf8"),
        ("an array", good.clone().body("[]"), 400, "not_an_object"),
        ("deep", good.clone().body("[".repeat(100_000)), 400, "too_deep"),
        ("no batch", good.clone().body("{}"), 400, "empty_batch"),
        ("all refused", good.clone().body(bad), 400, "missing_field"),
        ("one, refused", single("{\"userId\":\"u\"}"), 400, "missing_field"),
        ("one, nobody's", single("{\"event\":\"Order Placed\"}"), 400, "missing_identity"),
        ("one, too large", single(&large), 400, "event_too_large"),
    ] {
        let answer = send(&standalone, &request);
        let body = answer.json();
        let said = (answer.status, body["code"].as_str(), body["message"].is_string(), &body["success"]);
        assert_eq!(said, (status, Some(code), true, &json!(false)), "{name}: {}", answer.text());
        assert_eq!(answer.error_code().as_deref(), Some(code), "{name}: our own shape stands beside it");
    }
    let last = json!({ "userId": "u", "event": "Good", "messageId": "last" }).to_string();
    assert_eq!(send(&standalone, &single(&last)).status, 200);
    eventually("only the good one arrives", SOON, || {
        let came: Vec<String> = segment.calls().iter().filter_map(|call| call.event().map(str::to_owned)).collect();
        holds(came == ["Good"], || format!("{came:?}"))
    });
    assert!(!standalone.log_text().contains(CANARY), "the log shows an address");
}

#[test]
fn a_rate_is_told_so_that_sdks_wait() {
    let segment = Segment::start();
    let mut workspace = Workspace::new("acme");
    workspace.lines.push("ingest_events_per_second = 1".to_owned());
    let standalone = Standalone::start_with(&segment, &[workspace.clone()]);
    let refused = eventually("the rate is reached", SOON, || {
        let call = json!({ "event": "Order Placed", "userId": "u" }).to_string();
        let answer = send(&standalone, &Request::json("/v1/track", call).basic(workspace.ingest_key()));
        if answer.status == 200 { Err("taken".to_owned()) } else { Ok(answer) }
    });
    assert_eq!((refused.status, &refused.json()["code"]), (429, &json!("rate_limited")));
    let wait: u64 = refused.header("retry-after").and_then(|text| text.parse().ok()).expect("seconds to wait");
    assert!((1..=60).contains(&wait), "{wait}");
}

/// A product says who its users are; mail that is sent to their addresses is then known to be theirs, whoever reports it.
#[test]
fn an_identify_tells_whose_the_mail_to_an_address_is() {
    let mut random = Random::announced("segment address");
    let word = random.word();
    let segment = Segment::start();
    let standalone = Standalone::start(&segment);
    let (user, email) = (format!("u-{word}"), format!("{CANARY}.{word}@corp.example"));
    let open = |id: &str| {
        let fact = Fact::new("email_opened", id, recently_ms()).mail("mail-1", "run-1").human();
        Sender::new(standalone.ingest(), INGEST_KEY).take(from_ref(&fact.email(&email)));
    };
    open("before");
    let identify = json!({ "userId": user, "traits": { "email": email, "plan": "pro" } }).to_string();
    assert_eq!(send(&standalone, &Request::json("/v1/identify", identify).basic(INGEST_KEY)).status, 200);
    open("after");
    eventually("the mail's person is known", SOON, || {
        let calls = first_arrivals(segment.calls());
        let opens: Vec<_> = calls.iter().filter(|call| call.event() == Some("Email Opened")).collect();
        let [before, after] = opens.as_slice() else { return Err(format!("{} opens", opens.len())) };
        let anonymous = before.anonymous_id().expect("nobody is known before");
        assert_eq!((before.user_id(), after.user_id(), after.anonymous_id()), (None, Some(user.as_str()), None));
        let links: Vec<&str> =
            calls.iter().filter(|call| call.kind == "identify").filter_map(Arrived::anonymous_id).collect();
        holds(links.len() == 2 && links.contains(&anonymous), || {
            format!("identifies of {links:?}, the mail's is {anonymous}")
        })
    });
    let metrics = standalone.admin().get("/metrics").expect("an answer").text();
    let name = "inflection_ingest_events_accepted_total";
    let counted = metrics.lines().find_map(|line| line.strip_prefix(name)?.rsplit(' ').next());
    let install = Install::Standalone(Box::new(standalone));
    let books = install.settle().raw;
    assert_eq!(books["events"]["folded"], json!(4), "two opens, the identify, and that of the address");
    assert_eq!(counted, Some("4"), "the metric counts as the books do");
}

#[test]
fn what_standalone_took_survives_and_keeps_its_order() {
    what_was_taken_survives_and_keeps_its_order(Kind::Standalone);
}

#[test]
fn what_a_fleet_took_survives_and_keeps_its_order() {
    what_was_taken_survives_and_keeps_its_order(Kind::Fleet);
}

/// What was answered 200 is on disk; order is each person's, over batches and a SIGKILL.
#[track_caller]
fn what_was_taken_survives_and_keeps_its_order(kind: Kind) {
    const PEOPLE: usize = 20;
    const BATCHES: usize = 30;
    let mut random = Random::announced("segment order");
    let word = random.word();
    let segment = Segment::start();
    let mut workspace = Workspace::new("acme");
    workspace.connections.push(Connection::named("picky").line("events = [\"email_opened\", \"custom_track\"]"));
    let mut install = Install::start(kind, &segment, &[workspace.clone()]);
    let at = rfc3339(recently_ms());
    for number in 0..BATCHES {
        let items: Vec<Value> = (0..PEOPLE)
            .map(|person| {
                json!({
                    "type": "track", "event": "Step", "messageId": format!("{word}-{number}-{person}"),
                    "userId": format!("u-{person}"), "timestamp": at, "properties": { "step": number },
                })
            })
            .collect();
        let body = json!({ "batch": items }).to_string();
        let request = Request::json("/v1/batch", body).basic(workspace.ingest_key());
        let answer = Client::new(install.ingest()).call(&request).expect("an answer");
        assert_eq!((answer.status, answer.json()), (200, json!({ "success": true })));
    }
    install.stop(Stop::Kill);
    install.start_again();
    install.settle();
    // The books of a stage may be at rest a moment before the stage ahead of it has passed everything on.
    eventually("everything arrives", SOON, || {
        let came = first_arrivals(segment.calls()).len();
        holds(came >= 2 * PEOPLE * BATCHES + PEOPLE, || format!("{came} calls"))
    });
    for (connection, identifies) in workspace.connections.iter().zip([PEOPLE, 0]) {
        let calls = first_arrivals(segment.calls());
        let calls: Vec<&Arrived> = calls.iter().filter(|call| call.write_key == connection.write_key()).collect();
        let mut steps: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
        for call in calls.iter().filter(|call| call.event() == Some("Step")) {
            let step = call.properties()["step"].as_u64().expect("a number");
            steps.entry(call.user_id().expect("a user")).or_default().push(step);
        }
        let all: Vec<u64> = (0..BATCHES).map(|step| step as u64).collect();
        assert_eq!(steps.len(), PEOPLE);
        for (user, came) in steps {
            assert_eq!(came, all, "{user} on {}", connection.id);
        }
        assert_eq!(calls.iter().filter(|call| call.kind == "identify").count(), identifies, "{}", connection.id);
        assert_eq!(calls.len(), PEOPLE * BATCHES + identifies, "nothing else, nothing twice");
    }
}
