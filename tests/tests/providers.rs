//! Webhooks of email service providers, over real HTTP: what each signs, what comes of it, and what is refused.

#![expect(clippy::expect_used, reason = "helpers of checks: a panic is a failed check with its reason")]

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use inflection_tests::arrived::first_arrivals;
use inflection_tests::config::Workspace;
use inflection_tests::http::{Answer, Client, Request};
use inflection_tests::install::Install;
use inflection_tests::segment::Segment;
use inflection_tests::standalone::Standalone;
use inflection_tests::wait::{SOON, eventually, holds};
use ring::hmac;
use ring::rand::SystemRandom;
use ring::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
use serde_json::{Value, json};

/// The unguessable end of every path.
const TOKEN: &str = "wh_5f2c9a7d10b84e6fa3c1_0123456789";

/// What time it is to signatures: in the year 2096, when nobody runs this.
const NOW: i64 = 4_000_000_000;

/// A word in addresses that no answer and no log may show.
const CANARY: &str = "qzcanary9";

const SVIX_SECRET: &str = "C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
const MANDRILL_URL: &str = "https://hooks.example/v1/webhooks/mandrill/wh";
const TOPIC: &str = "arn:aws:sns:eu-west-1:111122223333:mail";
const CERTIFICATE: &str = include_str!("../../crates/inflection-ingest/fixtures/ses/test-certificate.pem");
const CERTIFICATE_KEY: &str = include_str!("../../crates/inflection-ingest/fixtures/ses/test-key.pkcs8.base64");

/// All webhooks of the install, one a provider.
fn tables() -> Vec<String> {
    let table =
        |provider: &str, lines: &str| format!("provider = {provider:?}\ntoken = \"{TOKEN}{provider}\"\n{lines}");
    vec![
        table("mailgun", "secrets = [{ value = \"newer-key-of-sixteen\" }, { value = \"mailgun-key-of-sixteen\" }]"),
        table("postmark", "secrets = [{ value = \"postmark:password\" }]"),
        table("resend", &format!("secrets = [{{ value = \"whsec_{SVIX_SECRET}\" }}]")),
        table(
            "mandrill",
            &format!(
                "secrets = [{{ value = \"mandrill-key-of-sixteen\" }}]\nsigned_url = {MANDRILL_URL:?}\non_auth_failure = \"defer\""
            ),
        ),
        table("mailersend", "secrets = [{ value = \"mailersend-key-of-sixteen\" }]"),
        table("brevo", "fields = { campaign_run_id = \"run\" }"),
        table(
            "cloudevents",
            "secrets = [{ value = \"bearer-key-of-sixteen\" }]\nallowed_origins = [\"mailer.example\"]",
        ),
        table("ses", &format!("topic_arns = [{TOPIC:?}]\ncertificates = [{{ value = {CERTIFICATE:?} }}]")),
    ]
}

fn sign(algorithm: hmac::Algorithm, key: &[u8], message: &[u8]) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(algorithm, key), message).as_ref().to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn post(provider: &str, body: impl Into<Vec<u8>>) -> Request {
    Request::json(&format!("/v1/webhooks/{provider}/{TOKEN}{provider}"), body)
}

/// Our fields as custom data; the run names the provider, so that arrivals can be told apart.
fn custom(provider: &str) -> Value {
    json!({ "inflection_person_id": format!("p-{provider}"), "inflection_campaign_run_id": provider,
        "inflection_email_id": "mail-1", "inflection_campaign_id": "spring" })
}

fn address(provider: &str) -> String {
    format!("{CANARY}.{provider}@corp.example")
}

fn mailgun(token: &str, id: &str) -> Request {
    let timestamp = NOW.to_string();
    let tag = hex(&sign(hmac::HMAC_SHA256, b"mailgun-key-of-sixteen", format!("{timestamp}{token}").as_bytes()));
    let body = json!({
        "signature": { "timestamp": timestamp, "token": token, "signature": tag },
        "event-data": { "event": "delivered", "id": id, "timestamp": 1_795_420_800.25, "recipient": address("mailgun"),
            "message": { "headers": { "message-id": "1@mg.example" } }, "user-variables": custom("mailgun") },
    });
    post("mailgun", body.to_string())
}

fn postmark() -> Request {
    let body = json!({ "RecordType": "Open", "MessageID": "m-1", "Recipient": address("postmark"),
        "ReceivedAt": "2026-11-23T08:09:50.1234567Z", "UserAgent": "Firefox", "Metadata": custom("postmark") });
    let basic = format!("Basic {}", STANDARD.encode("postmark:password"));
    post("postmark", body.to_string()).header("Authorization", &basic)
}

fn resend(signed_at: i64) -> Request {
    let body = json!({ "type": "email.clicked", "created_at": "2026-11-23T08:10:05Z", "data": { "email_id": "e-1",
        "to": [address("resend")], "tags": custom("resend"),
        "click": { "link": "https://shop.example/a", "timestamp": "2026-11-23T08:10:00Z", "userAgent": "Firefox" } } })
    .to_string();
    let key = STANDARD.decode(SVIX_SECRET).expect("base64");
    let tag = STANDARD.encode(sign(hmac::HMAC_SHA256, &key, format!("msg_1.{signed_at}.{body}").as_bytes()));
    post("resend", body)
        .header("svix-id", "msg_1")
        .header("svix-timestamp", &signed_at.to_string())
        .header("svix-signature", &format!("v1,AAAA v1,{tag}"))
}

fn mandrill() -> Request {
    let event = json!([{ "event": "hard_bounce", "ts": 1_795_420_806, "_id": "m-1", "msg": { "_id": "m-1",
        "email": address("mandrill"), "metadata": custom("mandrill"), "diag": "smtp;550 5.1.1 no such account" } }]);
    let events = event.to_string();
    let tag = sign(
        hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
        b"mandrill-key-of-sixteen",
        format!("{MANDRILL_URL}mandrill_events{events}").as_bytes(),
    );
    let escaped: String = events.bytes().map(|byte| format!("%{byte:02X}")).collect();
    post("mandrill", format!("mandrill_events={escaped}"))
        .with("Content-Type", "application/x-www-form-urlencoded")
        .header("X-Mandrill-Signature", &STANDARD.encode(tag))
}

fn mailersend() -> Request {
    let tags: Vec<String> = custom("mailersend")
        .as_object()
        .expect("an object")
        .iter()
        .map(|(name, value)| format!("{name}:{}", value.as_str().expect("a text")))
        .collect();
    let body = json!({ "type": "activity.spam_complaint", "data": { "id": "a-1", "created_at": "2026-11-23T08:30:00Z",
        "email": { "tags": tags, "message": { "id": "m-1" }, "recipient": { "email": address("mailersend") } } } })
    .to_string();
    let tag = hex(&sign(hmac::HMAC_SHA256, b"mailersend-key-of-sixteen", body.as_bytes()));
    post("mailersend", body).header("Signature", &tag)
}

fn brevo() -> Request {
    let own = json!({ "inflection_person_id": "p-brevo", "run": "brevo", "inflection_email_id": "mail-1", "campaign_id": "spring" });
    let body = json!({ "event": "unsubscribed", "email": address("brevo"), "message-id": "<1@relay.example>",
        "ts_epoch": 1_795_424_001_000_u64, "X-Mailin-custom": own.to_string() });
    post("brevo", body.to_string())
}

fn cloudevents() -> Request {
    let mut data = custom("cloudevents");
    data.as_object_mut().expect("an object").insert("email".to_owned(), address("cloudevents").into());
    post("cloudevents", data.to_string())
        .bearer("bearer-key-of-sixteen")
        .header("ce-specversion", "1.0")
        .header("ce-id", "1")
        .header("ce-source", "/mailer")
        .header("ce-type", "email.delivered")
        .header("ce-time", "2026-11-23T08:00:02Z")
}

fn ses() -> Request {
    let tags: Value = custom("ses")
        .as_object()
        .expect("an object")
        .iter()
        .map(|(name, value)| (name.clone(), json!([value])))
        .collect();
    let event = json!({ "eventType": "Delivery", "mail": { "messageId": "m-1", "destination": [address("ses")], "tags": tags },
        "delivery": { "timestamp": "2026-11-23T08:00:02Z", "recipients": [address("ses")] } });
    let (message, time) = (event.to_string(), "2026-12-31T23:59:59.000Z");
    let signed =
        format!("Message\n{message}\nMessageId\nsns-1\nTimestamp\n{time}\nTopicArn\n{TOPIC}\nType\nNotification\n");
    let key = STANDARD.decode(CERTIFICATE_KEY.replace('\n', "")).expect("base64");
    let key = RsaKeyPair::from_pkcs8(&key).expect("a key");
    let mut signature = vec![0; key.public().modulus_len()];
    key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), signed.as_bytes(), &mut signature)
        .expect("a message can be signed");
    let body = json!({ "Type": "Notification", "MessageId": "sns-1", "TopicArn": TOPIC, "Message": message, "Timestamp": time,
        "SignatureVersion": "2", "Signature": STANDARD.encode(signature),
        "SigningCertURL": "https://sns.eu-west-1.amazonaws.com/SimpleNotificationService-0a.pem" });
    post("ses", body.to_string())
        .with("Content-Type", "text/plain; charset=UTF-8")
        .header("x-amz-sns-message-type", "Notification")
        .header("x-amz-sns-message-id", "sns-1")
}

fn all() -> Vec<(&'static str, Request)> {
    vec![
        ("mailgun", mailgun("token-1", "event-1")),
        ("postmark", postmark()),
        ("resend", resend(NOW)),
        ("mandrill", mandrill()),
        ("mailersend", mailersend()),
        ("brevo", brevo()),
        ("ses", ses()),
        ("cloudevents", cloudevents()),
    ]
}

struct Desk {
    segment: Segment,
    standalone: Standalone,
}

impl Desk {
    fn open() -> Self {
        let workspace = Workspace { webhooks: tables(), ..Workspace::new("acme") };
        let (segment, now) = (Segment::start(), NOW.to_string());
        let clock = ["--allow-test-clock", "--test-now-unix", now.as_str()];
        let standalone = Standalone::start_with_arguments(&segment, &[workspace], &clock);
        Self { segment, standalone }
    }

    #[track_caller]
    fn send(&self, request: &Request) -> Answer {
        let answer = Client::new(self.standalone.ingest()).call(request).expect("an answer");
        assert!(!answer.text().contains(CANARY), "the answer repeats the input: {}", answer.text());
        answer
    }

    /// Waits until exactly these calls have arrived, each once: provider, event, and what depends on it.
    #[track_caller]
    fn finish(self, expected: &[&str]) {
        let Self { segment, standalone } = self;
        let install = Install::Standalone(Box::new(standalone));
        install.settle();
        eventually("what was accepted arrives, and nothing else", SOON, || {
            let mut came: Vec<String> = first_arrivals(segment.calls())
                .iter()
                .map(|call| {
                    let mut words = vec![call.property("campaign_run_id").unwrap_or("?"), call.event().unwrap_or("?")];
                    words.extend(call.property("bounce_class"));
                    words.extend(call.property("email_link_url"));
                    words.join(" ")
                })
                .collect();
            came.sort();
            holds(came == expected, || format!("\ncame     {came:#?}\nexpected {expected:#?}"))
        });
        for call in first_arrivals(segment.calls()) {
            let provider = call.property("campaign_run_id").unwrap_or_default();
            assert_eq!(call.anonymous_id(), Some(format!("p-{provider}").as_str()), "{call:?}");
            assert_eq!(call.property("userId"), Some(address(provider).as_str()), "{call:?}");
            assert_eq!((call.property("campaign_id"), call.property("email_id")), (Some("spring"), Some("mail-1")));
        }
        let log = install.log_text();
        assert!(!log.contains(CANARY) && !log.contains(TOKEN), "the log shows an address or a token");
    }
}

/// What comes of all requests.
const ARRIVALS: [&str; 10] = [
    "brevo Email Unsubscribed",
    "cloudevents Email Delivered",
    "mailersend Email Reported as Spam",
    "mailgun Email Delivered",
    "mandrill Email Bounced hard",
    "postmark Email Opened",
    "postmark Email Unique Opens",
    "resend Link Clicked https://shop.example/a",
    "resend Unique Link Click https://shop.example/a",
    "ses Email Delivered",
];

#[test]
fn what_every_provider_signs_arrives_once() {
    let desk = Desk::open();
    // The second time as repeats, the third in another order.
    for round in 0..3 {
        let mut requests = all();
        if round == 2 {
            requests.reverse();
        }
        for (provider, request) in requests {
            let answer = desk.send(&request);
            assert_eq!((answer.status, answer.text().trim()), (200, "ok"), "{provider}, round {round}");
        }
    }
    // One event under another token is the same event.
    assert_eq!(desk.send(&mailgun("token-2", "event-1")).status, 200);
    desk.finish(&ARRIVALS);
}

#[test]
fn what_they_have_not_signed_is_refused() {
    let desk = Desk::open();
    let unproven = |request: &Request| {
        ["Authorization", "svix-signature", "X-Mandrill-Signature", "Signature", "x-amz-sns-message-type"]
            .iter()
            .fold(request.clone(), |request, name| request.without(name))
    };
    for (provider, request) in all() {
        let unknown = desk.send(&request.clone().path(&format!("/v1/webhooks/{provider}/wh_unknown")));
        assert_eq!(unknown.status, 401, "{provider}: {}", unknown.text());
        // Brevo has no secrets here: its token is the proof. Mailgun's proof stands in the body.
        if provider == "brevo" || provider == "mailgun" {
            continue;
        }
        let answer = desk.send(&unproven(&request));
        let expected = if provider == "mandrill" { 429 } else { 401 };
        assert_eq!(answer.status, expected, "{provider}: {}", answer.text());
    }
    let challenged = desk.send(&postmark().without("Authorization"));
    assert!(challenged.header("www-authenticate").is_some_and(|value| value.starts_with("Basic")));
    // A token of Mailgun that was seen vouches for nothing else.
    assert_eq!(desk.send(&mailgun("token-1", "event-1")).status, 200);
    assert_eq!(desk.send(&mailgun("token-1", "event-2")).status, 401);
    for seconds in [-301, 301] {
        let stale = desk.send(&resend(NOW + seconds));
        assert_eq!((stale.status, stale.error_code().as_deref()), (401, Some("signature_stale")), "{seconds}");
    }
    assert_eq!(desk.send(&resend(NOW - 300)).status, 200);
    let foreign = desk.send(&post("teleporter", "{}"));
    assert_eq!(foreign.status, 401, "{}", foreign.text());
    desk.finish(&[
        "mailgun Email Delivered",
        "resend Link Clicked https://shop.example/a",
        "resend Unique Link Click https://shop.example/a",
    ]);
}

#[test]
fn a_sender_of_cloudevents_asks_first() {
    let desk = Desk::open();
    let asks = |token: &str, origin: &str| {
        let path = format!("/v1/webhooks/cloudevents/{token}cloudevents");
        let answer = desk.send(&Request::new("OPTIONS", &path).header("WebHook-Request-Origin", origin));
        assert_eq!((answer.status, answer.header("allow")), (200, Some("POST")));
        answer.header("webhook-allowed-origin").map(str::to_owned)
    };
    assert_eq!(asks(TOKEN, "mailer.example").as_deref(), Some("mailer.example"));
    assert_eq!(asks(TOKEN, "stranger.example"), None);
    assert_eq!(asks("unknown", "mailer.example"), None);
    assert_eq!(desk.send(&cloudevents().with("Content-Type", "text/plain")).status, 415);
    desk.finish(&[]);
}

#[test]
fn without_leave_the_clock_goes_on() {
    let workspace = Workspace { webhooks: tables(), ..Workspace::new("acme") };
    let (segment, now) = (Segment::start(), NOW.to_string());
    let standalone = Standalone::start_with_arguments(&segment, &[workspace], &["--test-now-unix", &now]);
    let stale = Client::new(standalone.ingest()).call(&resend(NOW)).expect("an answer");
    assert_eq!((stale.status, stale.error_code().as_deref()), (401, Some("signature_stale")), "{}", stale.text());
}
