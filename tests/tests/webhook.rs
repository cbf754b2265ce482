//! SendGrid's event webhook: `reference/esp-webhooks.md` 2 and its answer table.

#![expect(clippy::expect_used, reason = "helpers of checks: a panic is a failed check with its reason")]

use std::collections::BTreeMap;

use inflection_tests::arrived::first_arrivals;
use inflection_tests::config::{Webhook, Workspace};
use inflection_tests::fact::now_ms;
use inflection_tests::http::{Answer, Client, Request};
use inflection_tests::install::Install;
use inflection_tests::random::Random;
use inflection_tests::segment::Segment;
use inflection_tests::sendgrid::{SIGNATURE, SigningKey, TIMESTAMP};
use inflection_tests::standalone::Standalone;
use inflection_tests::wait::{SOON, eventually, holds};
use serde_json::{Value, json};

/// The unguessable end of the path.
const TOKEN: &str = "wh_5f2c9a7d10b84e6fa3c1";

/// The path of the webhook under test.
const PATH: &str = "/v1/webhooks/sendgrid/wh_5f2c9a7d10b84e6fa3c1";

/// A word in addresses that no answer and no log may show.
const CANARY: &str = "qzcanary7";

/// A browser no scanner list knows.
const HUMAN_AGENT: &str = "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0";

/// Most bytes of a body (answer table), and one more.
const BODY_BYTES_TOO_MANY: usize = 5 * 1024 * 1024 + 1;

/// A SendGrid event: its own fields, and what must come of it.
struct Row {
    name: &'static str,
    fields: Value,
    calls: &'static [&'static str],
}

fn row(name: &'static str, fields: Value, calls: &'static [&'static str]) -> Row {
    Row { name, fields, calls }
}

fn rows() -> Vec<Row> {
    let click = json!({ "event": "click", "url": "https://shop.example/a", "useragent": HUMAN_AGENT });
    let open = json!({ "event": "open", "sg_machine_open": false, "useragent": HUMAN_AGENT });
    vec![
        row("delivered", json!({ "event": "delivered", "response": "250 OK" }), &["Email Delivered"]),
        row("open", open, &["Email Opened unique", "Email Unique Opens"]),
        row("open machine", json!({ "event": "open", "sg_machine_open": true }), &["Email Opened machine"]),
        row(
            "click",
            click,
            &["Link Clicked unique https://shop.example/a", "Unique Link Click https://shop.example/a"],
        ),
        row(
            "bounce",
            json!({ "event": "bounce", "type": "bounce", "status": "5.1.1", "reason": "550 unknown" }),
            &["Email Bounced hard"],
        ),
        row("blocked", json!({ "event": "bounce", "type": "blocked", "status": "5.7.1" }), &["Email Bounced block"]),
        row("full", json!({ "event": "bounce", "type": "bounce", "status": "5.2.2" }), &["Email Bounced soft"]),
        row("spam", json!({ "event": "spamreport" }), &["Email Reported as Spam"]),
        row("unsubscribe", json!({ "event": "unsubscribe" }), &["Email Unsubscribed"]),
        row("group", json!({ "event": "group_unsubscribe", "asm_group_id": 7 }), &["Email Unsubscribed"]),
        row("processed", json!({ "event": "processed" }), &[]),
        row("deferred", json!({ "event": "deferred", "attempt": "3" }), &[]),
        row("dropped", json!({ "event": "dropped", "reason": "Bounced Address" }), &[]),
        row("resubscribe", json!({ "event": "group_resubscribe", "asm_group_id": 7 }), &[]),
        row("unheard-of", json!({ "event": "teleported" }), &[]),
    ]
}

/// The whole event of a row, as SendGrid sends it.
fn event(row: &Row, word: &str) -> Value {
    let name = row.name.replace(' ', "-");
    let mut event = json!({
        "email": format!("{CANARY}.{name}@corp.example"),
        "timestamp": now_ms() / 1000 - 600,
        "sg_event_id": format!("{word}-{name}"),
        "sg_message_id": format!("{word}.recvd-1-2-3.0"),
        "smtp-id": "<1@mail.example>",
        "category": ["spring"],
        "inflection_person_id": format!("p-{word}-{name}"),
        "inflection_email_id": "mail-1",
        "inflection_campaign_id": "cmp-9",
        "inflection_campaign_run_id": row.name,
        "inflection_campaign_name": "Spring launch",
        "inflection_email_subject": "Twelve things",
    });
    let fields = event.as_object_mut().expect("an object");
    fields.extend(row.fields.as_object().expect("an object").clone());
    event
}

/// An install with one webhook, and the keys that sign for it.
struct Desk {
    segment: Segment,
    standalone: Standalone,
    newest: SigningKey,
    older: SigningKey,
    word: String,
}

impl Desk {
    fn open(test: &str) -> Self {
        let mut random = Random::announced(test);
        let (newest, older) = (SigningKey::generate(), SigningKey::generate());
        let webhook = Webhook { token: TOKEN.to_owned(), secrets: vec![newest.public(), older.public()] };
        let workspace = Workspace { sendgrid: Some(webhook), ..Workspace::new("acme") };
        let segment = Segment::start();
        let standalone = Standalone::start_with(&segment, &[workspace]);
        Self { segment, standalone, newest, older, word: random.word() }
    }

    #[track_caller]
    fn send(&self, request: &Request) -> Answer {
        let answer = Client::new(self.standalone.ingest()).call(request).expect("an answer");
        assert!(!answer.text().contains(CANARY), "the answer repeats the input: {}", answer.text());
        answer
    }

    /// A body with one delivered event of that name.
    fn body(&self, name: &'static str) -> Vec<u8> {
        let delivered = row(name, json!({ "event": "delivered" }), &[]);
        json!([event(&delivered, &self.word)]).to_string().into_bytes()
    }

    /// Waits until the ledger rests; then only these runs may have arrived.
    #[track_caller]
    fn finish(self, expected: &[&str]) {
        let Self { segment, standalone, .. } = self;
        let install = Install::Standalone(Box::new(standalone));
        install.settle();
        eventually("what was accepted arrives, and nothing else", SOON, || {
            let calls = first_arrivals(segment.calls());
            let mut arrived: Vec<&str> = calls.iter().filter_map(|call| call.property("campaign_run_id")).collect();
            arrived.sort_unstable();
            holds(arrived == expected, || format!("arrived {arrived:?}, expected {expected:?}"))
        });
        let log = install.log_text();
        assert!(!log.contains(CANARY) && !log.contains(TOKEN), "the log shows an address or the token");
    }
}

/// The timestamp header of a request made now.
fn timestamp() -> String {
    (now_ms() / 1000).to_string()
}

#[test]
fn every_event_becomes_what_the_table_says() {
    let desk = Desk::open("sendgrid mapping");
    let rows = rows();
    let body = json!(rows.iter().map(|row| event(row, &desk.word)).collect::<Vec<_>>()).to_string();
    for attempt in 0..2 {
        // SendGrid repeats: the second time nothing new may come of it.
        let answer = desk.send(&desk.newest.request(PATH, &timestamp(), body.as_bytes()));
        assert_eq!((answer.status, answer.text().trim()), (200, "ok"), "attempt {attempt}");
    }
    let expected: BTreeMap<&str, Vec<String>> = rows
        .iter()
        .filter(|row| !row.calls.is_empty())
        .map(|row| (row.name, row.calls.iter().map(|call| (*call).to_owned()).collect()))
        .collect();
    eventually("every mapped event arrives", SOON, || {
        let calls = first_arrivals(desk.segment.calls());
        let mut came: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for call in &calls {
            let mut words = vec![call.event().unwrap_or_default()];
            words.extend((call.flag("is_unique_open") || call.flag("is_unique_click")).then_some("unique").filter(
                |_| {
                    // Derived events may repeat the flag; the table names it on the raw ones.
                    matches!(call.event(), Some("Email Opened" | "Link Clicked"))
                },
            ));
            words.extend(call.flag("is_machine").then_some("machine"));
            words.extend(call.property("bounce_class"));
            words.extend(call.property("email_link_url"));
            came.entry(call.property("campaign_run_id").unwrap_or_default()).or_default().push(words.join(" "));
        }
        came.values_mut().for_each(|calls| calls.sort());
        holds(came == expected, || format!("\ncame     {came:?}\nexpected {expected:?}"))
    });
    for call in first_arrivals(desk.segment.calls()) {
        let person = call.anonymous_id().unwrap_or_default();
        assert!(person.starts_with(&format!("p-{}", desk.word)), "not the person: {call:?}");
        let address = call.property("userId").unwrap_or_default();
        assert!(address.starts_with(CANARY), "not the address: {call:?}");
        assert_eq!(call.property("campaign_id"), Some("cmp-9"), "{call:?}");
    }
    Install::Standalone(Box::new(desk.standalone)).settle();
}

#[test]
fn only_what_sendgrid_signed_is_taken() {
    let desk = Desk::open("sendgrid signatures");
    let (body, now) = (desk.body("forged"), timestamp());
    let stranger = SigningKey::generate();
    let good = desk.newest.request(PATH, &now, &body);
    let mut altered = body.clone();
    altered.push(b' ');
    let signature = desk.newest.sign(&now, &body);
    let mut flipped = signature.clone().into_bytes();
    flipped[20] = if flipped[20] == b'A' { b'B' } else { b'A' };
    let flipped = String::from_utf8(flipped).expect("base64 is text");
    let refused = [
        ("another key", stranger.request(PATH, &now, &body)),
        ("altered body", good.clone().body(altered)),
        ("altered timestamp", good.clone().with(TIMESTAMP, &format!("{now}0"))),
        ("altered signature", good.clone().with(SIGNATURE, &flipped)),
        ("no signature", good.clone().without(SIGNATURE)),
        ("no timestamp", good.clone().without(TIMESTAMP)),
        ("neither", good.clone().without(SIGNATURE).without(TIMESTAMP)),
        ("empty signature", good.clone().with(SIGNATURE, "")),
        ("cut signature", good.clone().with(SIGNATURE, signature.get(..8).unwrap_or_default())),
        ("no base64", good.clone().with(SIGNATURE, "%%%")),
        ("no DER", good.clone().with(SIGNATURE, "AAAA")),
    ];
    for (name, request) in &refused {
        let answer = desk.send(request);
        assert_eq!(answer.status, 401, "{name}: {}", answer.text());
    }
    let unknown = desk.send(&desk.newest.request("/v1/webhooks/sendgrid/wh_unknown", &now, &body));
    assert!(matches!(unknown.status, 401 | 404), "unknown token: {} {}", unknown.status, unknown.text());
    desk.finish(&[]);
}

#[test]
fn both_keys_of_a_rotation_are_good() {
    let desk = Desk::open("sendgrid rotation");
    for (name, key) in [("by-newest", &desk.newest), ("by-older", &desk.older)] {
        let answer = desk.send(&key.request(PATH, &timestamp(), &desk.body(name)));
        assert_eq!(answer.status, 200, "{name}: {}", answer.text());
    }
    desk.finish(&["by-newest", "by-older"]);
}

#[test]
fn the_signature_is_over_the_bytes_as_they_came() {
    let desk = Desk::open("sendgrid line ends");
    let mut body = desk.body("with-line-end");
    body.extend_from_slice(b"\r\n");
    let answer = desk.send(&desk.newest.request(PATH, &timestamp(), &body));
    assert_eq!(answer.status, 200, "{}", answer.text());
    // Its content type is of no concern.
    let plain = desk.newest.request(PATH, &timestamp(), &desk.body("as-text")).with("Content-Type", "text/plain");
    assert_eq!(desk.send(&plain).status, 200);
    desk.finish(&["as-text", "with-line-end"]);
}

#[test]
fn probes_and_nonsense_are_not_made_to_come_again() {
    let desk = Desk::open("sendgrid probes");
    for method in ["GET", "HEAD"] {
        let answer = desk.send(&Request::new(method, PATH));
        assert_eq!((answer.status, answer.body.len()), (200, 0), "{method}");
    }
    for nonsense in ["", "[", "not json", "{}", "[1,2]", "[]", "[{\"event\":\"open\"}]", "\u{feff}[]"] {
        let answer = desk.send(&desk.newest.request(PATH, &timestamp(), nonsense.as_bytes()));
        assert_eq!(answer.status, 200, "{nonsense:?}: {}", answer.text());
    }
    let huge = vec![b' '; BODY_BYTES_TOO_MANY];
    assert_eq!(desk.send(&desk.newest.request(PATH, &timestamp(), &huge)).status, 413);
    desk.finish(&[]);
}
