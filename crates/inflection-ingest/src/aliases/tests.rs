//! On a bus: what one request says, what the next one sees, and what two that come at once make of it.

use inflection_bus::EmbeddedConfig;
use inflection_domain::{EmailAddress, MachineRules, Timestamp, WorkspaceId};
use inflection_telemetry::Registry;
use tempfile::TempDir;

use super::*;
use crate::events::take;
use crate::fact::Context;
use crate::request::Layout;

const KEY: InstallationKey = InstallationKey::new([1; 32]);

struct Scene {
    bus: Bus,
    registry: Registry,
    aliases: Aliases,
    _dir: TempDir,
}

impl Scene {
    async fn open() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let bus = Bus::open_embedded(EmbeddedConfig::new(dir.path().to_owned())).await.unwrap();
        let registry = Registry::default();
        let aliases = Aliases::new(bus.clone(), IngestMetrics::new(&registry));
        Self { bus, registry, aliases, _dir: dir }
    }

    /// Sends one request; tells whose each of its facts is, `derived` for a person made of an address.
    async fn send(&self, facts: &[&str]) -> Vec<String> {
        send(&self.aliases, facts).await
    }

    fn metric(&self, line: &str) -> bool {
        self.registry.render().lines().any(|one| one == line)
    }
}

/// Facts as `identify P=u ann`, `open P ann`, `open - ann`, `open -=u ann`.
async fn send(aliases: &Aliases, facts: &[&str]) -> Vec<String> {
    send_as(Priority::Live, aliases, facts).await
}

async fn send_as(priority: Priority, aliases: &Aliases, facts: &[&str]) -> Vec<String> {
    let workspace = WorkspaceId::new("acme").unwrap();
    let now = Timestamp::parse("2026-11-23T10:00:00Z").unwrap();
    let lines = facts.iter().enumerate().map(|(number, fact)| {
        let mut words = fact.split(' ');
        let kind = if words.next() == Some("identify") { "identify" } else { "email_opened" };
        let who = words.next().unwrap();
        let (person, user) = who.split_once('=').map_or((who, None), |(person, user)| (person, Some(user)));
        let person = if person == "-" { String::new() } else { format!(r#","person_id":"{person}""#) };
        let user = user.map(|user| format!(r#","user_id":"{user}""#)).unwrap_or_default();
        let address = words.next().map(|name| format!(r#","email":"{name}@example.com""#)).unwrap_or_default();
        let at = "2026-11-23T09:59:00Z";
        format!(r#"{{"type":"{kind}","id":"{number}","timestamp":"{at}","email_id":"m"{person}{user}{address}}}"#)
    });
    let body = lines.collect::<Vec<_>>().join("\n");
    let machine = MachineRules::default();
    let context = Context { workspace: &workspace, key: &KEY, now, machine: &machine };
    let mut taken = take(body.as_bytes(), Layout::Lines, priority, context, &|_, _| true).unwrap();
    assert_eq!(taken.facts.len(), facts.len(), "{:?}", taken.rejected);
    aliases.route(&mut taken.facts, &KEY, priority).await.unwrap();
    let whose = taken.facts.iter().map(|fact| {
        let person = &fact.body.person;
        assert_eq!(fact.head.person, inflection_domain::Head::person_key(&workspace, person));
        assert!(!fact.body.routed_by_address || !person.may_be_derived());
        if person.may_be_derived() { "derived".to_owned() } else { person.as_str().to_owned() }
    });
    whose.collect()
}

#[tokio::test]
async fn an_identify_is_seen_by_what_comes_with_it_and_after() {
    let scene = Scene::open().await;
    assert_eq!(scene.send(&["open - ann", "open Q ann"]).await, ["derived", "Q"]);
    // In one request by those before it too.
    assert_eq!(scene.send(&["open - ann", "identify P=u ann", "open - ann"]).await, ["P", "P", "P"]);
    assert_eq!(
        scene
            .send(&["open - ANN", "open -=u ann", "open -=v ann", "open - bob", "open Q ann", "identify -=u ann"])
            .await,
        ["P", "P", "derived", "derived", "Q", "P"]
    );
    assert!(scene.metric("inflection_ingest_events_routed_by_address_total 5"), "{}", scene.registry.render());
    assert!(scene.metric(r#"inflection_ingest_alias_changes_total{to="person"} 1"#), "{}", scene.registry.render());
}

/// Who has no answer sends again: what is then found kept changes nothing of it, or its events would be others, and doubled.
#[tokio::test]
async fn a_repeated_request_is_routed_as_it_was() {
    let scene = Scene::open().await;
    for (request, routed) in [
        (&["open - a", "identify P=u a"][..], &["P", "P"][..]),
        (&["open - b", "identify P=u b", "open - b", "identify Q=v b"], &["derived", "P", "derived", "Q"]),
        (&["open - c", "open -=u c", "identify P c", "open -=u c", "identify P=u c"], &["P", "P", "P", "P", "P"]),
        (&["open - d", "identify P=u d", "identify Q=u d", "open -=v d"], &["P", "P", "Q", "derived"]),
    ] {
        for attempt in ["first", "second", "third"] {
            assert_eq!(scene.send(request).await, routed, "{request:?}, {attempt} time");
        }
    }
}

#[tokio::test]
async fn a_mailbox_of_several_is_nobodys() {
    let scene = Scene::open().await;
    scene.send(&["identify P=u ann", "identify P=u info", "identify P=u bob"]).await;
    assert_eq!(scene.send(&["open - ann", "open - info", "open - bob"]).await, ["P", "derived", "P"]);
    assert_eq!(scene.send(&["identify Q=v ann", "open - ann", "open - bob"]).await, ["Q", "derived", "P"]);
    scene.send(&["identify P=u ann"]).await;
    assert_eq!(scene.send(&["open - ann"]).await, ["derived"], "for good");
    scene.send(&["identify Q=u bob"]).await;
    assert_eq!(scene.send(&["open - bob"]).await, ["P"], "another person of the same user");
}

#[tokio::test]
async fn of_two_at_once_none_is_lost() {
    let scene = Scene::open().await;
    let other = Aliases::new(scene.bus.clone(), IngestMetrics::new(&Registry::default()));
    for name in ["a", "b", "c", "d", "e"] {
        let (one, two) = (format!("identify P=u {name}"), format!("identify Q=v {name}"));
        let (one, two) = ([one.as_str()], [two.as_str()]);
        tokio::join!(send(&scene.aliases, &one), send(&other, &two));
        let open = format!("open - {name}");
        assert_eq!(send(&other, &[&open]).await, ["derived"], "both have claimed {name}");
    }
}

#[tokio::test]
async fn history_does_not_take_the_places_of_live_requests() {
    let scene = Scene::open().await;
    scene.send(&["identify P ann"]).await;
    // As if requests with thousands of addresses had all places that they may have.
    let Aliases { under_way, background_under_way, .. } = &scene.aliases;
    for (full, places, free) in [(background_under_way, 16, Priority::Live), (under_way, 64, Priority::Background)] {
        let _taken = full.acquire_many(places).await.unwrap();
        let sent = tokio::time::timeout(Duration::from_secs(60), send_as(free, &scene.aliases, &["open - ann"]));
        assert_eq!(sent.await.unwrap(), ["P"], "{free:?}");
    }
}

#[tokio::test]
async fn where_nothing_can_be_read_no_fact_changes() {
    let scene = Scene::open().await;
    scene.send(&["identify P ann"]).await;
    let derived = PersonId::from_address(
        &KEY,
        &WorkspaceId::new("acme").unwrap(),
        &EmailAddress::new("ann@example.com").unwrap(),
    );
    let record = alias_record(&derived);
    assert!(!record.contains("ann") && scene.bus.get_record(&record).await.unwrap().is_some());
    scene.bus.put_record(&record, Expected::Anything, Bytes::from_static(b"\xff")).await.unwrap();
    assert_eq!(scene.send(&["open - ann", "identify P ann", "open - ann"]).await, ["derived", "P", "derived"]);
    // A closed store takes no new alias.
    scene.bus.close().await;
    let body = br#"{"type":"identify","timestamp":"2026-11-23T09:59:00Z","person_id":"P","email":"bob@example.com"}"#;
    let workspace = WorkspaceId::new("acme").unwrap();
    let now = Timestamp::parse("2026-11-23T10:00:00Z").unwrap();
    let machine = MachineRules::default();
    let context = Context { workspace: &workspace, key: &KEY, now, machine: &machine };
    let mut taken = take(body, Layout::Json, Priority::Live, context, &|_, _| true).unwrap();
    let error = scene.aliases.route(&mut taken.facts, &KEY, Priority::Live).await.unwrap_err();
    assert!(matches!(error, RecordError::Unavailable(_)), "{error}");
}
