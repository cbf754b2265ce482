//! What the tests of all providers share: webhooks, deliveries, and days of events.

use std::collections::BTreeMap;
use std::path::PathBuf;

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use inflection_control::{Provider, Secret, Webhook};
use inflection_domain::{BounceClass, Fact, InstallationKey, MachineRules, Timestamp, WorkspaceId};

use super::adapter::{Adapter, Delivery, Parsed, Proof, adapter};
use crate::answer::Code;
use crate::fact::Context;

/// Now, in all tests of providers but those of old signatures.
pub(crate) const NOW: &str = "2026-11-23T10:00:00Z";

pub(crate) fn webhook(provider: Provider, secrets: &[&str]) -> Webhook {
    let secrets = secrets.iter().map(|secret| Secret::new(secret).unwrap()).collect();
    Webhook::new(provider, Secret::new("0123456789abcdef").unwrap(), secrets)
}

pub(crate) fn at(text: &str) -> Timestamp {
    super::values::timestamp(text).unwrap()
}

pub(crate) fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
    let pair = |(name, value): &(&'static str, &str)| {
        (HeaderName::from_static(name), HeaderValue::from_bytes(value.as_bytes()).unwrap())
    };
    pairs.iter().map(pair).collect()
}

/// What comes of a proof: how far it goes, or the code of the refusal.
pub(crate) fn verified(
    webhook: &Webhook,
    pairs: &[(&'static str, &str)],
    body: &[u8],
    now: Timestamp,
) -> Result<Proof, Code> {
    let (headers, adapter) = (headers(pairs), adapter(webhook.provider));
    let delivery = Delivery { webhook, headers: &headers, body, now, certificates: &[] };
    adapter.require_headers(&headers).and_then(|()| (adapter.verify)(&delivery)).map_err(|refusal| refusal.code)
}

/// Requires that the request is genuine, and is not when any bit of the body or of one of the headers is another.
#[track_caller]
pub(crate) fn every_bit_counts(webhook: &Webhook, pairs: &[(&'static str, &str)], body: &[u8], now: Timestamp) {
    assert!(verified(webhook, pairs, body, now).is_ok(), "the request itself is not genuine");
    for at in 0..body.len() * 8 {
        let mut changed = body.to_vec();
        changed[at / 8] ^= 1 << (at % 8);
        assert!(verified(webhook, pairs, &changed, now).is_err(), "bit {at} of the body does not count");
    }
    for index in 0..pairs.len() {
        let (name, value) = pairs[index];
        for at in 0..value.len() * 8 {
            let mut changed = value.as_bytes().to_vec();
            changed[at / 8] ^= 1 << (at % 8);
            // Not every byte may stand in a header.
            let (Ok(changed), true) = (String::from_utf8(changed.clone()), HeaderValue::from_bytes(&changed).is_ok())
            else {
                continue;
            };
            let mut pairs = pairs.to_vec();
            pairs[index] = (name, &changed);
            assert!(verified(webhook, &pairs, body, now).is_err(), "bit {at} of {name} does not count");
        }
    }
}

/// A verified request, read.
pub(crate) fn parsed(webhook: &Webhook, pairs: &[(&'static str, &str)], body: &[u8]) -> Option<Parsed> {
    let headers = headers(pairs);
    parse(adapter(webhook.provider), &Delivery { webhook, headers: &headers, body, now: at(NOW), certificates: &[] })
}

fn parse(adapter: &Adapter, delivery: &Delivery<'_>) -> Option<Parsed> {
    let (workspace, key) = (WorkspaceId::new("acme").unwrap(), InstallationKey::new([1; 32]));
    let events = (adapter.events)(delivery)?;
    let machine = MachineRules::default();
    let context = Context { workspace: &workspace, key: &key, now: at(NOW), machine: &machine };
    Some(adapter.parse(&events, delivery, context))
}

/// The one fact of a body.
#[track_caller]
pub(crate) fn one(provider: Provider, body: &str) -> Fact<'static> {
    let mut parsed = parsed(&webhook(provider, &[]), &[], body.as_bytes()).unwrap();
    assert!(parsed.rejected.is_empty(), "{:?}", parsed.rejected);
    assert_eq!(parsed.facts.len(), 1, "{body}: {:?}", parsed.ignored);
    parsed.facts.remove(0)
}

/// A fact on one line, as it stands in the fixtures: what happened, to whom, when, and all that depends on the provider.
pub(crate) fn line(fact: &Fact<'_>) -> String {
    let body = &fact.body;
    let mut words = vec![fact.head.kind.name().to_owned(), fact.head.occurred_at.to_string()];
    let mut put = |name: &str, value: Option<&str>| words.extend(value.map(|value| format!("{name}={value}")));
    // A person derived from an address is a hash: whose address it is says more.
    put("person", Some(body.person.as_str()).filter(|person| !person.starts_with("per_")));
    put("user", fact.head.user.as_ref().map(|user| user.as_str()));
    put("email", body.email.as_ref().map(|email| email.as_str()));
    put("email_id", body.email_id.as_deref());
    put("campaign", body.campaign_id.as_deref());
    put("run", body.campaign_run_id.as_deref());
    put("name", body.campaign_name.as_deref());
    put("subject", body.email_subject.as_deref());
    put("group", body.group_id.as_deref());
    put("link", body.email_link_url.as_deref());
    put("link_id", body.link_id.as_deref());
    put("class", body.bounce_class.map(BounceClass::name));
    put("reason", body.bounce_reason.as_deref());
    put("scope", body.unsubscribe_scope.as_deref());
    put("machine", body.is_machine.then(|| body.machine_reason.as_deref().unwrap_or("provider")));
    put("message", body.provider_message_id.as_deref());
    put("id", Some(body.event_id.as_str()));
    words.join(" ")
}

/// The day of events in a provider's fixtures: `day.ndjson` has a request a line, as its body or as
/// `{"headers":…,"body":…}`; `day.facts` what must come of it. Requests are read in order, and again in reverse, as after
/// a long outage: facts must be the same, and have the same ids.
#[track_caller]
pub(crate) fn check_day(provider: Provider) {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(provider.name());
    let (day, facts) = (folder.join("day.ndjson"), folder.join("day.facts"));
    let requests = std::fs::read_to_string(&day).unwrap();
    let expected = std::fs::read_to_string(&facts).unwrap();
    let forth = read_day(provider, requests.lines());
    let back = read_day(provider, requests.lines().rev());
    let (came, counts) = &forth;
    let written = came.iter().map(|line| format!("{line}\n")).collect::<String>() + &counts.concat();
    assert_eq!(written, expected, "{}:\n{written}", facts.display());
    let sorted = |lines: &[String]| {
        let mut lines = lines.to_vec();
        lines.sort();
        lines
    };
    assert_eq!(sorted(&back.0), sorted(came), "in another order other facts came");
}

/// The facts of requests, each once, in the order of arrival; then how many events were ignored or refused, by type.
fn read_day<'r>(provider: Provider, requests: impl Iterator<Item = &'r str>) -> (Vec<String>, Vec<String>) {
    let webhook = webhook(provider, &[]);
    let (mut lines, mut counts) = (Vec::new(), BTreeMap::<String, u64>::new());
    for request in requests {
        let whole: serde_json::Value = serde_json::from_str(request).unwrap();
        let (mut headers, mut body) = (HeaderMap::new(), request.to_owned());
        if let (Some(pairs), Some(inner)) = (whole.get("headers"), whole.get("body")) {
            for (name, value) in pairs.as_object().unwrap() {
                let name: HeaderName = name.parse().unwrap();
                headers.insert(name, value.as_str().unwrap().parse().unwrap());
            }
            body = inner.as_str().map_or_else(|| inner.to_string(), str::to_owned);
        }
        let delivery =
            Delivery { webhook: &webhook, headers: &headers, body: body.as_bytes(), now: at(NOW), certificates: &[] };
        let parsed = parse(adapter(provider), &delivery).unwrap_or_else(|| panic!("cannot be read: {request}"));
        for (name, count) in parsed.ignored {
            *counts.entry(format!("ignored {name}")).or_default() += count;
        }
        for why in &parsed.rejected {
            *counts.entry(format!("refused {}", why.code.name())).or_default() += 1;
        }
        for fact in &parsed.facts {
            let line = line(fact);
            if !lines.contains(&line) {
                lines.push(line);
            }
        }
    }
    (lines, counts.into_iter().map(|(what, count)| format!("{what}: {count}\n")).collect())
}
