//! Single items, and what a setting of a connection changes. Everything that a connection sends is in `golden`.

use std::collections::HashSet;
use std::slice::from_ref;

use inflection_control::{Config, Options};
use inflection_domain::{
    CallKey, EventId, LinkKind, OUR_PROPERTIES, OpenSource, PersonId, Timestamp, UserId, WorkspaceId,
};
use serde_json::{Value, json};

use super::*;

/// The version that Segment and the customer see.
pub(super) const VERSION: &str = env!("CARGO_PKG_VERSION");

pub(super) fn connection(settings: &str) -> Connection {
    let text = format!(
        "[[workspaces]]\nid = \"acme\"\n[[workspaces.connections]]\nid = \"prod\"\nwrite_key = {{ value = \"k\" }}\n{settings}"
    );
    Config::parse(&text, Options::default()).unwrap().workspaces.remove(0).connections.remove(0)
}

pub(super) fn body() -> Body<'static> {
    let text = |text: &'static str| Some(Cow::Borrowed(text));
    Body {
        email: Some(EmailAddress::new("Ann@example.com").unwrap()),
        email_id: text("mail"),
        campaign_id: text("camp"),
        campaign_run_id: text("run"),
        campaign_name: text("Spring"),
        email_subject: text("Hi"),
        properties: "\"plan\":\"pro\"".into(),
        ..Body::new(EventId::new("e1").unwrap(), PersonId::new("per_1").unwrap())
    }
}

pub(super) fn render(
    connection: &Connection,
    user: Option<&str>,
    body: &Body<'_>,
    call: &Call,
) -> (Translation, Vec<u8>) {
    render_one_of(connection, user, body, call, &[])
}

/// Renders one call of a decision that has these.
fn render_one_of(
    connection: &Connection,
    user: Option<&str>,
    body: &Body<'_>,
    call: &Call,
    calls: &[Call],
) -> (Translation, Vec<u8>) {
    let decided = Decided {
        workspace: WorkspaceId::new("acme").unwrap(),
        occurred_at: Timestamp::parse("2026-11-23T10:00:00.123Z").unwrap(),
        user: user.map(|user| UserId::new(user).unwrap()),
        calls: calls.to_vec(),
        body: bytes::Bytes::new(),
        person: None,
        trace: None,
    };
    let mut out = b"before".to_vec();
    let installation = InstallationId::new("inst-1").unwrap();
    let translation = translate(&installation, connection, &decided, body, call, &mut out);
    (translation, out)
}

pub(super) fn item(connection: &Connection, user: Option<&str>, body: &Body<'_>, call: &Call) -> Value {
    let (Translation::Rendered(at), out) = render(connection, user, body, call) else { panic!("rendered") };
    assert_eq!(&out[at.start..at.item], b"e1");
    assert_eq!(at.end, out.len());
    serde_json::from_slice(&out[at.item..at.end]).unwrap()
}

pub(super) fn call(kind: CallKind) -> Call {
    Call::plain(kind, CallKey::from_bytes([1; 16]))
}

#[test]
fn an_open_is_rendered_literally() {
    let open = Call { unique: Some(true), ..call(CallKind::EmailOpened) };
    let (Translation::Rendered(at), out) = render(&connection(""), None, &body(), &open) else { panic!("rendered") };
    let expected = format!(
        concat!(
            r#"{{"type":"track","event":"Email Opened","messageId":"infl_ea95b7cb42eeeeb3559203626a7a3366","timestamp":"2026-11-23T10:00:00.123Z","#,
            r#""anonymousId":"per_1","context":{{"integration":{{"name":"Inflection","version":"{}"}},"#,
            r#""library":{{"name":"inflection-source","version":"{}"}},"traits":{{"email":"Ann@example.com"}}}},"#,
            r#""properties":{{"event":"Email Opened","email_event":"Email Opened","userId":"Ann@example.com","#,
            r#""prospect_id":"Ann@example.com","email_id":"mail","campaign_id":"camp","campaign_run_id":"run","#,
            r#""campaign_name":"Spring","email_subject":"Hi","is_unique_open":true,"is_machine":false,"plan":"pro"}}}}"#
        ),
        VERSION, VERSION
    );
    assert_eq!(std::str::from_utf8(&out[at.item..]).unwrap(), expected);
}

#[test]
fn who_it_is_about() {
    let linked = Call { links: true, ..call(CallKind::Identify) };
    let both = item(&connection(""), Some("u"), &body(), &linked);
    assert_eq!((&both["userId"], &both["anonymousId"]), (&"u".into(), &"per_1".into()));
    assert_eq!(both["traits"]["email"], "Ann@example.com");
    let known = item(&connection(""), Some("u"), &body(), &call(CallKind::EmailDelivered));
    assert_eq!((&known["userId"], known.get("anonymousId")), (&"u".into(), None));
    let own = Body { traits: "\"email\":\"b@example.com\"".into(), ..body() };
    assert_eq!(item(&connection(""), Some("u"), &own, &linked)["traits"]["email"], "b@example.com");
}

#[test]
fn the_address_is_passed_on_as_the_connection_says() {
    let delivered = call(CallKind::EmailDelivered);
    let hashed = item(&connection("email = \"sha256\""), None, &body(), &delivered);
    // `printf ann@example.com | sha256sum`
    assert_eq!(hashed["properties"]["userId"], "71d4f55f72fa128dfb468a1a3901507c804b74316488744d769d7f4b16696476");
    assert_eq!(hashed["context"].get("traits"), None);
    let omitted = item(&connection("email = \"omit\""), None, &body(), &delivered).to_string();
    assert!(!omitted.contains("example.com"));
    let role = Body { email: Some(EmailAddress::new("info@example.com").unwrap()), ..body() };
    let role = item(&connection(""), None, &role, &delivered);
    assert_eq!((&role["properties"]["userId"], role["context"].get("traits")), (&"info@example.com".into(), None));
}

/// Traits of an identify and of a group, which must be equal.
#[track_caller]
fn check_own_traits(policy: &str, own: &str, expected: &Value) {
    let body = Body { traits: own.into(), group_id: Some("g".into()), ..body() };
    for kind in [CallKind::Identify, CallKind::Group] {
        let item = item(&connection(&format!("email = \"{policy}\"")), Some("u"), &body, &call(kind));
        assert_eq!(&item["traits"], expected, "{kind:?} of {own}");
    }
}

#[test]
fn a_senders_own_address_is_passed_on_as_the_connection_says() {
    let hash = "71d4f55f72fa128dfb468a1a3901507c804b74316488744d769d7f4b16696476";
    let own = r#""plan":"pro","email":"ANN@example.com","size":[1]"#;
    check_own_traits("plain", own, &json!({"plan": "pro", "email": "ANN@example.com", "size": [1]}));
    check_own_traits("sha256", own, &json!({"plan": "pro", "email": hash, "size": [1]}));
    check_own_traits("omit", own, &json!({"plan": "pro", "size": [1]}));
    for (email, hashed) in [
        (r#""\u0065mail" : " ann\u0040example.com ""#, json!({"email": hash})),
        (r#""EMail":"ann@example.com""#, json!({"EMail": hash})),
        (r#""email":"no address""#, json!({})),
        (r#""email":["ann@example.com"]"#, json!({})),
        (r#""email":null"#, json!({})),
    ] {
        check_own_traits("sha256", email, &hashed);
        check_own_traits("omit", email, &json!({}));
    }
    check_own_traits(
        "omit",
        r#""about":"\"email\":","boss":{"email":"b"}"#,
        &json!({
            "about": "\"email\":",
            "boss": {"email": "b"},
        }),
    );
}

#[test]
fn a_groups_traits_are_not_its_members() {
    let group = Body { group_id: Some("g".into()), traits: r#""name":"Acme""#.into(), email: None, ..body() };
    let calls = [Call { links: true, ..call(CallKind::Identify) }, call(CallKind::Group)];
    let traits = calls.each_ref().map(|call| {
        let (Translation::Rendered(at), out) = render_one_of(&connection(""), Some("u"), &group, call, &calls) else {
            panic!("rendered")
        };
        serde_json::from_slice::<Value>(&out[at.item..]).unwrap()["traits"].clone()
    });
    assert_eq!(traits, [json!({}), json!({"name": "Acme"})]);
}

#[test]
fn an_identify_that_another_call_needs_goes_everywhere() {
    let links = Call { links: true, ..call(CallKind::Identify) };
    let sent = |body: &Body<'_>, call: &Call, calls: &[Call]| {
        let body = Body { integrations: r#""All":false"#.into(), event: Some("A".into()), ..body.clone() };
        let (_, out) = render_one_of(&connection(""), Some("u"), &body, call, calls);
        String::from_utf8(out).unwrap().contains(r#""integrations":{"All":false}"#)
    };
    let plain = Body { email_id: None, campaign_run_id: None, ..body() };
    let track = call(CallKind::CustomTrack);
    assert!(!sent(&plain, &links, &[links.clone(), track.clone()]));
    assert!(sent(&plain, &track, &[links.clone(), track.clone()]), "the track keeps its own");
    assert!(sent(&plain, &links, from_ref(&links)), "an identify's are its own");
    assert!(sent(&plain, &call(CallKind::Identify), &[call(CallKind::Identify)]));
    // A second report of a bounce, and a machine's open where these are not told of, make no call but this.
    assert!(!sent(&body(), &links, from_ref(&links)));
    assert!(!sent(&Body { is_machine: true, ..plain.clone() }, &links, from_ref(&links)));
    // A click that is held makes its other calls later; one that somebody vouches for was not judged.
    let held = Body { email_link_url: Some("https://example.com".into()), ..plain.clone() };
    assert!(!sent(&held, &links, from_ref(&links)));
    assert!(!sent(&Body { classifier_version: 1, ..plain.clone() }, &links, from_ref(&links)));
}

#[test]
fn an_external_id_that_is_an_address_is_passed_on_as_the_connection_says() {
    let check = |policy: &str, written: &str, expected: Value| {
        let own = Body { event: Some("A".into()), email: None, context: written.into(), ..body() };
        let item = item(&connection(&format!("email = \"{policy}\"")), Some("u"), &own, &call(CallKind::CustomTrack));
        assert_eq!(item["context"].get("externalIds").cloned().unwrap_or_default(), expected, "{policy} of {written}");
    };
    let hash = "71d4f55f72fa128dfb468a1a3901507c804b74316488744d769d7f4b16696476";
    let phone = json!({ "id": "+1", "type": "phone" });
    let address = json!({ "id": "ANN@example.com", "type": "email", "collection": "users", "encoding": "none" });
    let hashed = json!({ "id": hash, "type": "email", "collection": "users", "encoding": "none" });
    let both = json!({ "externalIds": [address, phone] }).to_string();
    let both = inside(&both, '{', '}').unwrap();
    check("plain", both, json!([address, phone]));
    check("sha256", both, json!([hashed, phone]));
    check("omit", both, json!([phone]));
    let escaped = r#""external\u0049ds" : [ { "\u0069d" : "ann\u0040example.com" , "t\u0079pe":"Email" } ]"#;
    check("sha256", escaped, json!([{ "id": hash, "type": "Email" }]));
    check("omit", escaped, json!(null));
    for unreadable in [
        r#""externalIds":{"id":"ann@example.com","type":"email"}"#,
        r#""externalIds":["ann@example.com"]"#,
        r#""externalIds":[{"id":["ann@example.com"],"type":"email"}]"#,
    ] {
        check("sha256", unreadable, json!(null));
        check("omit", unreadable, json!(null));
    }
}

/// How often an item has a text. Readers disagree on an object that has a key twice, so parsing would hide it.
fn count(body: &Body<'_>, kind: CallKind, text: &str) -> usize {
    let (_, out) = render(&connection(""), Some("u"), body, &call(kind));
    std::str::from_utf8(&out).unwrap().matches(text).count()
}

#[test]
fn a_name_is_written_once() {
    // The address stands in the context, and among the traits unless the sender's own does.
    let addresses = |traits: &str| {
        let body = Body { traits: traits.into(), ..body() };
        count(&body, CallKind::Identify, "Ann@example.com")
    };
    assert_eq!(addresses(r#""plan":"pro""#), 2);
    assert_eq!(addresses(r#""email":"b""#), 1);
    assert_eq!(addresses(r#""\u0065mail":"b""#), 1);
    assert_eq!(addresses(r#""boss":{"email":"b"}"#), 2);
    let urls = |properties: &str| {
        let body = Body { url: Some("https://example.com".into()), properties: properties.into(), ..body() };
        count(&body, CallKind::Page, "https://example.com")
    };
    assert_eq!(urls(""), 1);
    assert_eq!(urls(r#""url":"own""#), 0);
    assert_eq!(urls(r#""u\u0072l":"own""#), 0);
    assert_eq!(urls(r#""image":{"url":"nested"}"#), 1);
}

#[test]
fn what_warehouses_lose_is_mirrored() {
    let mirrors = |settings: &str, kind: CallKind| {
        let item = item(&connection(settings), Some("u"), &body(), &call(kind));
        ["email_event", "prospect_id"].map(|name| item["properties"].get(name).cloned())
    };
    let both = [Some(json!("Email Delivered")), Some(json!("Ann@example.com"))];
    assert_eq!(mirrors("", CallKind::EmailDelivered), both);
    assert_eq!(mirrors("warehouse_names = false", CallKind::EmailDelivered), [None, None]);
    assert_eq!(mirrors("email = \"omit\"", CallKind::EmailDelivered), [Some(json!("Email Delivered")), None]);
    let spam = mirrors("naming = \"segment-spec\"", CallKind::EmailReportedAsSpam);
    assert_eq!(spam, [Some(json!("Email Marked as Spam")), Some(json!("Ann@example.com"))]);
    assert_eq!(mirrors("", CallKind::Page), [None, None]);
}

#[test]
fn names_follow_the_connection() {
    let click = Body { email_link_url: Some("https://example.com".into()), ..body() };
    let clicked = Call { unique: Some(false), ..call(CallKind::LinkClicked) };
    let names = |naming: &str| {
        let item = item(&connection(&format!("naming = \"{naming}\"")), None, &click, &clicked);
        let has = |name: &str| item["properties"].get(name).is_some();
        (item["event"].as_str().unwrap().to_owned(), has("email_link_url"), has("link_url"))
    };
    assert_eq!(names("inflection"), ("Link Clicked".into(), true, false));
    assert_eq!(names("segment-spec"), ("Email Link Clicked".into(), false, true));
    assert_eq!(names("both"), ("Link Clicked".into(), true, true));
}

#[test]
fn uniqueness_and_lists_filter() {
    let first = Call { unique: Some(true), ..call(CallKind::EmailOpened) };
    let repeat = Call { unique: Some(false), ..call(CallKind::EmailOpened) };
    let derived = call(CallKind::EmailUniqueOpens);
    let sent = |settings: &str| {
        let sent = |call: &Call| render(&connection(settings), None, &body(), call).0 != Translation::Filtered;
        [sent(&first), sent(&repeat), sent(&derived), sent(&call(CallKind::EmailDelivered))]
    };
    assert_eq!(sent(""), [true; 4]);
    assert_eq!(sent("uniqueness = \"flags\""), [true, true, false, true]);
    assert_eq!(sent("uniqueness = \"first-only\""), [true, false, false, true]);
    assert_eq!(sent("events = [\"Email Opened\"]"), [true, true, false, false]);
    let own = Body { event: Some("Order Placed".into()), ..body() };
    let custom = |settings: &str| {
        let (translation, _) = render(&connection(settings), None, &own, &call(CallKind::CustomTrack));
        translation != Translation::Filtered
    };
    for settings in ["", "events = [\"*\"]", "events = [\"custom_track\"]", "uniqueness = \"first-only\""] {
        assert!(custom(settings), "{settings}");
    }
    assert!(!custom("events = [\"email_opened\", \"Link Clicked\", \"screen\"]"));
}

#[test]
fn what_segment_would_drop_dies_here() {
    let nobody = Body { group_id: None, ..body() };
    let (translation, out) = render(&connection(""), None, &nobody, &call(CallKind::Group));
    assert_eq!((translation, &out[..]), (Translation::Invalid(Invalid::GroupId), &b"before"[..]));
}

#[test]
fn a_custom_track_is_passed_on_under_its_own_name() {
    let custom = call(CallKind::CustomTrack);
    let own = Body {
        event: Some("Order Placed".into()),
        properties: r#""event":"own","userId":7,"total":9.5"#.into(),
        context: r#" "ip" : "203.0.113.7", "traits" : { "email" : "ANN@example.com", "plan":"pro" } "#.into(),
        integrations: r#""All":false"#.into(),
        ..body()
    };
    for naming in ["inflection", "segment-spec", "both"] {
        let item = item(&connection(&format!("naming = \"{naming}\"")), Some("u"), &own, &custom);
        assert_eq!((&item["type"], &item["event"]), (&"track".into(), &"Order Placed".into()));
        assert_eq!(
            item["properties"],
            json!({"event": "own", "userId": 7, "total": 9.5}),
            "nothing of ours among them"
        );
        assert_eq!(item["integrations"], json!({"All": false}));
        assert_eq!(item["context"]["ip"], "203.0.113.7");
    }
    let traits = |email: &str, own: &Body<'_>| {
        let connection = connection(&format!("email = \"{email}\""));
        item(&connection, Some("u"), own, &custom)["context"].get("traits").cloned()
    };
    let hash = "71d4f55f72fa128dfb468a1a3901507c804b74316488744d769d7f4b16696476";
    assert_eq!(traits("plain", &own), Some(json!({"email": "ANN@example.com", "plan": "pro"})));
    assert_eq!(traits("sha256", &own), Some(json!({"email": hash, "plan": "pro"})));
    assert_eq!(traits("omit", &own), Some(json!({"plan": "pro"})));
    let null = Body { email: None, context: r#""traits":null"#.into(), ..own.clone() };
    assert_eq!(traits("plain", &null), None, "never null");
    let nameless = Body { event: None, ..own };
    assert_eq!(render(&connection(""), None, &nameless, &custom).0, Translation::Invalid(Invalid::NoEvent));
}

#[test]
fn integration_is_ours_and_the_library_the_senders() {
    let context = r#""integration":{"name":"Other"},"library":{"name":"analytics-go"}"#;
    for kind in [CallKind::CustomTrack, CallKind::Identify, CallKind::Page, CallKind::Screen, CallKind::Group] {
        let own =
            Body { event: Some("Order Placed".into()), group_id: Some("g".into()), context: context.into(), ..body() };
        let item = item(&connection(""), Some("u"), &own, &call(kind));
        assert_eq!(item["context"]["integration"]["name"], "Inflection", "{kind:?}");
        assert_eq!(item["context"]["library"], json!({"name": "analytics-go"}), "{kind:?}");
        let without = render(&connection(""), Some("u"), &Body { context: "".into(), ..own }, &call(kind)).1;
        assert!(String::from_utf8(without).unwrap().contains("inflection-source"), "{kind:?}");
    }
}

/// A sender's property may not have a name that we write: the list that ingest refuses by must be complete.
#[test]
fn every_property_we_write_is_reserved() {
    let everything = Body {
        email_link_url: Some("l".into()),
        link_id: Some("l".into()),
        link_kind: LinkKind::Unsubscribe,
        machine_reason: Some("m".into()),
        classifier_version: 1,
        bounce_class: Some(inflection_domain::BounceClass::Hard),
        bounce_reason: Some("b".into()),
        unsubscribe_scope: Some("s".into()),
        provider: Some("p".into()),
        provider_message_id: Some("p".into()),
        properties: "".into(),
        ..body()
    };
    let mut written = HashSet::new();
    for kind in CallKind::ALL.into_iter().filter(|kind| kind.event_name().is_some()) {
        let call = Call { unique: Some(true), open_source: Some(OpenSource::Pixel), ..call(kind) };
        let item = item(&connection("naming = \"both\""), None, &everything, &call);
        written.extend(item["properties"].as_object().unwrap().keys().cloned());
    }
    let reserved: HashSet<String> = OUR_PROPERTIES.iter().map(|name| (*name).to_owned()).collect();
    assert_eq!(written, reserved);
}
