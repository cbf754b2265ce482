//! How much may be sent: budgets of each ingest key and webhook, and of a workspace as a whole.
//!
//! They hold for this process; several of them let through several times as much.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use inflection_control::{IngestLimits, KeyId, Provider, RateBudget, Workspace};
use inflection_domain::WorkspaceId;

use crate::answer::{Code, Refusal};

/// What a request shows to be let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Source {
    /// An ingest key.
    Key(KeyId),
    /// A webhook, by the id of its token.
    Webhook(Provider, KeyId),
}

impl Source {
    /// The webhook of a token.
    pub(crate) fn webhook(provider: Provider, token: &str) -> Self {
        Self::Webhook(provider, KeyId::of(token))
    }
}

/// Whose request it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sender {
    pub(crate) workspace: WorkspaceId,
    pub(crate) source: Source,
}

/// What a sender has run into. The names are label values of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Limit {
    /// Requests a second of a key or webhook.
    Requests,
    /// Events a second of a key or webhook.
    Events,
    /// Events a second of a workspace.
    WorkspaceEvents,
    /// Its share of the memory for what is in hand.
    Share,
}

impl Limit {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Events => "events",
            Self::WorkspaceEvents => "workspace_events",
            Self::Share => "share",
        }
    }
}

/// A limit that was reached, and how long until the same request would pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Over {
    pub(crate) limit: Limit,
    wait: Duration,
}

impl Over {
    pub(crate) fn refusal(self) -> Refusal {
        let message = match self.limit {
            Limit::Requests => "this key sends more requests a second than it may",
            Limit::Events => "this key sends more events a second than it may",
            Limit::WorkspaceEvents | Limit::Share => "this workspace sends more events a second than it may",
        };
        Refusal::later(Code::RateLimited, message, whole_seconds(self.wait))
    }
}

/// Seconds, so that the wait is over after them.
fn whole_seconds(wait: Duration) -> u64 {
    wait.as_secs() + u64::from(wait.subsec_nanos() > 0)
}

/// The budgets of one key or webhook.
#[derive(Debug, Clone, Default)]
struct Budgets {
    requests: Option<RateBudget>,
    events: Option<RateBudget>,
}

/// All budgets there are.
#[derive(Debug, Default)]
pub(crate) struct Limits {
    sources: HashMap<Source, Mutex<Budgets>>,
    workspaces: HashMap<WorkspaceId, Mutex<RateBudget>>,
}

impl Limits {
    /// The limits of these workspaces; what `before` has let through counts on where a limit is still the same.
    pub(crate) fn of(workspaces: &[Workspace], before: Option<&Self>, now: Duration) -> Self {
        let mut limits = Self::default();
        for workspace in workspaces {
            if let Some(rate) = workspace.ingest_events_per_second {
                let old = before.and_then(|before| before.workspaces.get(&workspace.id)).map(held);
                let budget = Mutex::new(carried_on(rate, old, now));
                limits.workspaces.insert(workspace.id.clone(), budget);
            }
            let IngestLimits { requests_per_second, events_per_second } = workspace.ingest_limits;
            if requests_per_second.is_none() && events_per_second.is_none() {
                continue;
            }
            for source in sources(workspace) {
                let old = before.and_then(|before| before.sources.get(&source)).map(held).unwrap_or_default();
                let budgets = Budgets {
                    requests: requests_per_second.map(|rate| carried_on(rate, old.requests, now)),
                    events: events_per_second.map(|rate| carried_on(rate, old.events, now)),
                };
                limits.sources.insert(source, Mutex::new(budgets));
            }
        }
        limits
    }

    /// Lets a request in, before its body is read.
    pub(crate) fn admit_request(&self, source: Source, now: Duration) -> Result<(), Over> {
        let Some(budgets) = self.sources.get(&source) else { return Ok(()) };
        let mut budgets = budgets.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(requests) = &mut budgets.requests else { return Ok(()) };
        requests.take(1, now).map_err(|wait| Over { limit: Limit::Requests, wait })
    }

    /// Lets all events of a request in, or none of them: what one budget refuses costs the other nothing.
    pub(crate) fn admit_events(&self, sender: &Sender, events: usize, now: Duration) -> Result<(), Over> {
        let count = u32::try_from(events).unwrap_or(u32::MAX);
        let mut workspace =
            self.workspaces.get(&sender.workspace).map(|one| one.lock().unwrap_or_else(PoisonError::into_inner));
        let after = match workspace.as_deref() {
            Some(budget) => {
                let mut budget = budget.clone();
                budget.take(count, now).map_err(|wait| Over { limit: Limit::WorkspaceEvents, wait })?;
                Some(budget)
            }
            None => None,
        };
        if let Some(budgets) = self.sources.get(&sender.source)
            && let Some(own) = &mut budgets.lock().unwrap_or_else(PoisonError::into_inner).events
        {
            own.take(count, now).map_err(|wait| Over { limit: Limit::Events, wait })?;
        }
        if let (Some(budget), Some(after)) = (workspace.as_deref_mut(), after) {
            *budget = after;
        }
        Ok(())
    }
}

fn sources(workspace: &Workspace) -> impl Iterator<Item = Source> + '_ {
    let keys = workspace.ingest_keys.iter().map(|key| Source::Key(KeyId::of(key.expose())));
    let hook = |hook: &inflection_control::Webhook| Source::webhook(hook.provider, hook.token.expose());
    keys.chain(workspace.webhooks.iter().map(hook))
}

fn held<T: Clone>(budget: &Mutex<T>) -> T {
    budget.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// A budget of this rate: the old one, or a full one when the rate is another.
fn carried_on(per_second: u32, old: Option<RateBudget>, now: Duration) -> RateBudget {
    old.filter(|old| old.per_second() == per_second).unwrap_or_else(|| RateBudget::new(per_second, now))
}

#[cfg(test)]
mod tests {
    use axum::http::StatusCode;
    use axum::http::header::RETRY_AFTER;
    use inflection_control::Secret;
    use inflection_domain::{MachineRules, Policy};

    use super::*;
    use crate::desk::Desk;
    use crate::webhooks::testing::webhook;

    fn acme(total: Option<u32>, requests: Option<u32>, events: Option<u32>) -> Vec<Workspace> {
        vec![Workspace {
            id: WorkspaceId::new("acme").unwrap(),
            ingest_keys: ["one", "two"].map(|key| Secret::new(key).unwrap()).to_vec(),
            ingest_events_per_second: total,
            ingest_limits: IngestLimits { requests_per_second: requests, events_per_second: events },
            machine: MachineRules::default(),
            policy: Policy::default(),
            connections: Vec::new(),
            webhooks: Vec::new(),
        }]
    }

    fn sender(key: &str) -> Sender {
        Sender { workspace: WorkspaceId::new("acme").unwrap(), source: Source::Key(KeyId::of(key)) }
    }

    const START: Duration = Duration::ZERO;

    #[track_caller]
    fn over<T: std::fmt::Debug>(outcome: Result<T, Over>) -> (Limit, Option<u64>) {
        let over = outcome.unwrap_err();
        (over.limit, over.refusal().retry_after)
    }

    #[test]
    fn each_key_has_budgets_of_its_own() {
        let limits = Limits::of(&acme(None, Some(2), Some(10)), None, START);
        let (one, two) = (sender("one"), sender("two"));
        for _ in 0..2 {
            limits.admit_request(one.source, START).unwrap();
        }
        assert_eq!(over(limits.admit_request(one.source, START)), (Limit::Requests, Some(1)));
        limits.admit_request(two.source, START).unwrap();
        limits.admit_request(one.source, Duration::from_millis(501)).unwrap();
        limits.admit_events(&one, 10, START).unwrap();
        assert_eq!(over(limits.admit_events(&one, 10, START)), (Limit::Events, Some(1)), "no more than a second");
        limits.admit_events(&two, 10, START).unwrap();
    }

    #[test]
    fn the_wait_is_whole_seconds_and_long_enough() {
        for (wait_ms, seconds) in [(0, 1), (1, 1), (999, 1), (1_000, 1), (1_001, 2), (5_000, 5)] {
            let over = Over { limit: Limit::Events, wait: Duration::from_millis(wait_ms) };
            assert_eq!(over.refusal().retry_after, Some(seconds), "{wait_ms} ms");
        }
        let limits = Limits::of(&acme(None, None, Some(10)), None, START);
        limits.admit_events(&sender("one"), 45, START).unwrap();
        let (limit, wait) = over(limits.admit_events(&sender("one"), 10, START));
        assert_eq!(limit, Limit::Events, "a large request is paid for");
        let later = Duration::from_secs(wait.unwrap());
        limits.admit_events(&sender("one"), 10, later).unwrap();
    }

    #[test]
    fn what_one_budget_refuses_costs_the_other_nothing() {
        let limits = Limits::of(&acme(Some(15), None, Some(10)), None, START);
        let (one, two) = (sender("one"), sender("two"));
        limits.admit_events(&one, 10, START).unwrap();
        assert_eq!(over(limits.admit_events(&one, 5, START)).0, Limit::Events);
        assert_eq!(over(limits.admit_events(&two, 10, START)).0, Limit::WorkspaceEvents);
        limits.admit_events(&two, 5, START).unwrap();
    }

    #[test]
    fn a_reload_lets_nobody_begin_anew() {
        let before = Limits::of(&acme(Some(10), Some(1), Some(10)), None, START);
        before.admit_request(sender("one").source, START).unwrap();
        before.admit_events(&sender("one"), 10, START).unwrap();
        let same = Limits::of(&acme(Some(10), Some(1), Some(10)), Some(&before), START);
        assert!(same.admit_request(sender("one").source, START).is_err());
        assert_eq!(over(same.admit_events(&sender("two"), 1, START)).0, Limit::WorkspaceEvents);
        let other = Limits::of(&acme(None, Some(2), None), Some(&before), START);
        other.admit_request(sender("one").source, START).unwrap();
        let none = Limits::of(&acme(None, None, None), Some(&before), START);
        for _ in 0..100 {
            none.admit_request(sender("one").source, START).unwrap();
            none.admit_events(&sender("one"), 10_000, START).unwrap();
        }
    }

    #[tokio::test]
    async fn every_door_says_when_to_come_again() {
        let limits = IngestLimits { requests_per_second: None, events_per_second: Some(1) };
        let fact = r#"{"type":"email_opened","timestamp":"2026-11-23T10:00:00Z","person_id":"p"}"#;
        let track = r#"{"type":"track","event":"A","userId":"u"}"#;
        let report = r#"{"event":"opened","email":"ann@corp.example","ts_epoch":1}"#;
        let hook = "/v1/webhooks/brevo/0123456789abcdef";
        for (path, one, before, after) in [
            ("/v1/events", fact.replace("2026-11-23T10:00:00Z", &crate::writer::now().to_string()), "[", "]"),
            ("/v1/batch", track.to_owned(), r#"{"batch":["#, "]}"),
            (hook, report.to_owned(), "[", "]"),
        ] {
            let desk = Desk::open_limited(vec![webhook(Provider::Brevo, &[])], limits).await;
            // A minute's worth, let through by a full budget and paid for by those after it.
            let many = format!("{before}{}{after}", vec![one.as_str(); 60].join(","));
            let answer = desk.call("POST", path, many).await;
            assert_eq!(answer.status(), StatusCode::OK, "{path}");
            let answer = desk.call("POST", path, format!("{before}{one}{after}")).await;
            assert_eq!(answer.status(), StatusCode::TOO_MANY_REQUESTS, "{path}");
            let wait: u64 = answer.headers()[RETRY_AFTER].to_str().unwrap().parse().unwrap();
            assert!((40..=60).contains(&wait), "{path}: {wait}");
            desk.counted(r#"inflection_ingest_requests_limited_total{workspace="acme",limit="events"} 1"#);
            desk.counted(r#"inflection_ingest_events_accepted_total{workspace="acme"} 60"#);
        }
    }
}
