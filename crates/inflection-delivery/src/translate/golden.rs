//! Golden files: what a connection sends for one fixed script of calls; `golden/` has one for each value of a setting.
//!
//! Where a difference is wanted, `INFLECTION_BLESS=1 cargo test -p inflection-delivery golden` writes the files anew;
//! read their diff before it is committed. Keys are sorted: the order of members is tested in `tests`.

use std::fs;
use std::path::Path;

use inflection_domain::{Body, BounceClass, Call, CallKey, CallKind, LinkKind, MachineTimes, OpenSource};
use serde_json::Value;

use super::Translation;
use super::tests::{VERSION, body, call, connection, item, render};

/// Files and the settings that they show. Unnamed settings have their defaults.
const CASES: [(&str, &str); 11] = [
    ("naming-inflection", "naming = \"inflection\""),
    ("naming-segment-spec", "naming = \"segment-spec\""),
    ("naming-both", "naming = \"both\""),
    ("uniqueness-events", "uniqueness = \"events\""),
    ("uniqueness-flags", "uniqueness = \"flags\""),
    ("uniqueness-first-only", "uniqueness = \"first-only\""),
    ("events-list", "events = [\"Email Opened\", \"link_clicked\", \"identify\"]"),
    ("email-plain", "email = \"plain\""),
    ("email-sha256", "email = \"sha256\""),
    ("email-omit", "email = \"omit\""),
    ("warehouse-names-off", "warehouse_names = false"),
];

/// One call of the script and who it is about.
struct Step {
    user: Option<&'static str>,
    body: Body<'static>,
    call: Call,
}

impl Step {
    /// A call about somebody whose user id is not known.
    fn anonymous(body: Body<'static>, call: Call) -> Self {
        Self { user: None, body, call }
    }

    /// A call about a known user.
    fn known(body: Body<'static>, call: Call) -> Self {
        Self { user: Some("u-1"), body, call }
    }
}

/// A call with the key of its kind and `name`, so that no two of the script have one message id.
fn named(kind: CallKind, name: &str) -> Call {
    Call { key: CallKey::new(kind, &[name.as_bytes()]), ..call(kind) }
}

fn script() -> Vec<Step> {
    mails().into_iter().chain(opens()).chain(clicks()).chain(people()).chain(passed_on()).collect()
}

fn mails() -> [Step; 4] {
    let delivered = Body { provider: Some("sendgrid".into()), provider_message_id: Some("sg-1".into()), ..body() };
    let bounced =
        Body { bounce_class: Some(BounceClass::Hard), bounce_reason: Some("550 5.1.1 no such user".into()), ..body() };
    let unsubscribed = Body { unsubscribe_scope: Some("newsletter".into()), ..body() };
    [
        Step::anonymous(delivered, named(CallKind::EmailDelivered, "mail")),
        Step::anonymous(bounced, named(CallKind::EmailBounced, "mail")),
        Step::known(body(), named(CallKind::EmailReportedAsSpam, "mail")),
        Step::known(unsubscribed, named(CallKind::EmailUnsubscribed, "mail")),
    ]
}

fn opens() -> [Step; 5] {
    let raw = |name: &str, unique: bool| Call { unique: Some(unique), ..named(CallKind::EmailOpened, name) };
    let unique = Call {
        unique: Some(true),
        open_source: Some(OpenSource::Pixel),
        ..named(CallKind::EmailUniqueOpens, "first open")
    };
    let machine = || Body {
        is_machine: true,
        machine_reason: Some("apple_mpp_probable".into()),
        classifier_version: 1,
        ..body()
    };
    let judged = Body { classifier_version: 1, ..body() };
    let apart = Call { unique: Some(false), ..named(CallKind::EmailMachineOpened, "machine's open, apart") };
    [
        Step::anonymous(judged, raw("first open", true)),
        Step::anonymous(body(), unique),
        Step::anonymous(machine(), raw("machine's open", false)),
        Step::anonymous(machine(), apart),
        Step::known(body(), Call { machine: Some(MachineTimes::AfterDelivery), ..raw("open at once", false) }),
    ]
}

fn clicks() -> [Step; 6] {
    let content =
        || Body { email_link_url: Some("https://example.com/a".into()), link_id: Some("link-a".into()), ..body() };
    let unsubscribe = Body {
        email_link_url: Some("https://example.com/unsubscribe".into()),
        link_kind: LinkKind::Unsubscribe,
        ..body()
    };
    let click = |kind: CallKind, name: &str, unique: bool| Call { unique: Some(unique), ..named(kind, name) };
    let per_open = |name: &str| click(CallKind::UniqueLinkClickPerUniqueOpen, name, true);
    // An open that comes after the click completes the event, and names the link.
    let burst = Call { machine: Some(MachineTimes::Burst), ..click(CallKind::LinkMachineClicked, "burst", false) };
    let completed = Call { link_url: Some("https://example.com/b".into()), ..per_open("link b") };
    [
        Step::known(content(), click(CallKind::LinkClicked, "first click", true)),
        Step::known(content(), click(CallKind::UniqueLinkClick, "link a", true)),
        Step::known(content(), per_open("link a")),
        Step::known(body(), completed),
        Step::known(content(), burst),
        Step::known(unsubscribe, click(CallKind::LinkClicked, "unsubscribing click", false)),
    ]
}

fn people() -> [Step; 3] {
    let traits = "\"firstName\":\"Ann\",\"email\":\"Ann.Private@example.com\"";
    let identify = Body { properties: "".into(), traits: traits.into(), ..body() };
    let page = Body {
        name: Some("Pricing".into()),
        url: Some("https://example.com/pricing".into()),
        title: Some("What it costs".into()),
        referrer: Some("https://example.com/".into()),
        category: Some("Docs".into()),
        ..body()
    };
    let group = Body {
        group_id: Some("g-1".into()),
        properties: "".into(),
        traits: "\"name\":\"Acme\",\"email\":\"office@example.com\"".into(),
        ..body()
    };
    [
        Step::known(identify, Call { links: true, ..named(CallKind::Identify, "link") }),
        Step::known(page, named(CallKind::Page, "visit")),
        Step::known(group, named(CallKind::Group, "member")),
    ]
}

/// What a Segment SDK sent of its own.
fn passed_on() -> [Step; 2] {
    let context = concat!(
        r#""library":{"name":"@segment/analytics-node","version":"3.1.0"},"integration":{"name":"Other"},"#,
        r#""ip":"203.0.113.7","traits":{"email":"ann.private@example.com","plan":"pro"}"#
    );
    let ordered = Body {
        event: Some("Order Placed".into()),
        properties: r#""event":"own","total":9.5,"link_id":7"#.into(),
        context: context.into(),
        integrations: r#""All":true,"Mixpanel":false"#.into(),
        ..body()
    };
    let screen = Body {
        name: Some("Cart".into()),
        category: Some("Shop".into()),
        context: r#""app":{"name":"Shop"}"#.into(),
        ..body()
    };
    [
        Step::known(ordered, named(CallKind::CustomTrack, "order")),
        Step::anonymous(screen, named(CallKind::Screen, "cart")),
    ]
}

/// What a connection with these settings sends, as a golden file has it: without our version, which releases change.
fn sent(settings: &str) -> String {
    let connection = connection(settings);
    let sent: Value = script()
        .iter()
        .map(|Step { user, body, call }| match render(&connection, *user, body, call).0 {
            Translation::Rendered(_) => item(&connection, *user, body, call),
            Translation::Filtered => Value::from(format!("filtered: {}", call.kind.name())),
            Translation::Invalid(invalid) => panic!("{}: {invalid}", call.kind.name()),
        })
        .collect();
    let text = serde_json::to_string_pretty(&sent).unwrap();
    text.replace(&format!("\"version\": \"{VERSION}\""), "\"version\": \"<version>\"") + "\n"
}

#[test]
fn connections_send_what_the_golden_files_say() {
    let directory = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src/translate/golden"));
    let bless = std::env::var_os("INFLECTION_BLESS").is_some();
    let mut differences = Vec::new();
    for (name, settings) in CASES {
        let path = directory.join(name).with_extension("json");
        let sent = sent(settings);
        if bless {
            fs::create_dir_all(directory).unwrap();
            fs::write(&path, sent).unwrap();
            continue;
        }
        let golden = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let same = sent.lines().zip(golden.lines()).take_while(|(sent, golden)| sent == golden).count();
        if sent != golden {
            let line = |text: &str| text.lines().nth(same).unwrap_or("(the end)").trim().to_owned();
            differences.push(format!("{name}.json:{}: {} is now {}", same + 1, line(&golden), line(&sent)));
        }
    }
    let hint = "where this is wanted, run the tests with INFLECTION_BLESS=1 and read the diff";
    assert!(differences.is_empty(), "{hint}\n{}", differences.join("\n"));
}

#[test]
fn the_script_has_every_kind() {
    let script = script();
    for kind in CallKind::ALL {
        assert!(script.iter().any(|step| step.call.kind == kind), "{kind:?}");
    }
}
