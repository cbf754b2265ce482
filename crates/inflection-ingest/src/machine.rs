//! What an event says of who opened or clicked, and what is made of it before times are looked at.

use std::borrow::Cow;

use inflection_domain::{
    CLASSIFIER_VERSION, Engaged, FactKind, MachineCheck, MachineRules, MachineSignal, MachineTiming, Traces,
};

use crate::fact::{Rejection, flag, text};
use crate::input::Input;
use crate::json::Value;

/// Who did it, as the sender tells it.
#[derive(Debug)]
pub(crate) struct Who<'a> {
    claimed: Option<bool>,
    user_agent: Option<Cow<'a, str>>,
    /// The agent was sent, and empty.
    has_no_agent: bool,
    ip: Option<Cow<'a, str>>,
    http_method: Option<Cow<'a, str>>,
    purpose: Option<Cow<'a, str>>,
}

impl<'a> Who<'a> {
    /// Takes it out of an event.
    pub(crate) fn read(input: &mut Input<'a>) -> Result<Self, Rejection> {
        Ok(Self {
            has_no_agent: matches!(&input.user_agent, Some(Value::Text(agent)) if agent.trim().is_empty()),
            user_agent: text("user_agent", input.user_agent.take())?,
            ip: text("ip", input.ip.take())?,
            http_method: text("http_method", input.http_method.take())?,
            purpose: text("purpose", input.purpose.take())?,
            claimed: flag("is_machine", input.is_machine.as_ref())?,
        })
    }

    /// What tells events apart that have no id, in the form that ids have been made of since there are any.
    pub(crate) fn parts(&self) -> [&str; 3] {
        let claimed = self.claimed.map_or("", |machine| if machine { "machine" } else { "human" });
        [self.user_agent.as_deref().unwrap_or_default(), self.ip.as_deref().unwrap_or_default(), claimed]
    }

    /// The same of what came later: nothing, where there is nothing.
    pub(crate) fn later_parts(&self) -> impl Iterator<Item = &str> {
        let later = [("http_method", &self.http_method), ("purpose", &self.purpose)];
        later.into_iter().filter_map(|(name, value)| Some([name, value.as_deref()?])).flatten()
    }

    fn traces(&self) -> Traces<'_> {
        Traces {
            claimed: self.claimed,
            user_agent: if self.has_no_agent { Some("") } else { self.user_agent.as_deref() },
            ip: self.ip.as_deref().and_then(|ip| ip.trim().parse().ok()),
            prefetch: Traces::is_prefetch(self.http_method.as_deref(), self.purpose.as_deref()),
        }
    }
}

/// What is made of it.
#[derive(Debug, Default)]
pub(crate) struct Judged {
    pub(crate) is_machine: bool,
    pub(crate) reason: Option<&'static str>,
    pub(crate) classifier_version: u32,
    pub(crate) check: MachineCheck,
}

/// Whose word the time of a fact is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Clock {
    /// Its sender's.
    Sender,
    /// Ours: when it came, or what its sender said corrected by that. So much lies between a fact and its arrival that such
    /// times prove nothing: those of one request are all the same.
    Receipt,
}

/// Judges what a fact shows by itself, and says under which rules the fold goes on. What is no open and no click is nobody's
/// but its sender's; with the time of a delivery those of opens and clicks are compared.
pub(crate) fn judge(kind: FactKind, who: &Who<'_>, names_provider: bool, clock: Clock, rules: &MachineRules) -> Judged {
    let timed = clock == Clock::Sender
        && match rules.timing {
            MachineTiming::Providers => names_provider,
            MachineTiming::All => true,
            MachineTiming::Off => false,
        };
    let (engaged, policy) = match kind {
        FactKind::EmailOpened => (Engaged::Open, rules.opens),
        FactKind::LinkClicked => (Engaged::Click, rules.clicks),
        FactKind::EmailDelivered => {
            let check = MachineCheck { timed, ..MachineCheck::default() };
            return Judged { is_machine: who.claimed.unwrap_or_default(), check, ..Judged::default() };
        }
        FactKind::EmailBounced
        | FactKind::EmailReportedAsSpam
        | FactKind::EmailUnsubscribed
        | FactKind::Identify
        | FactKind::Page
        | FactKind::Group
        | FactKind::CustomTrack
        | FactKind::Screen => {
            return Judged { is_machine: who.claimed.unwrap_or_default(), ..Judged::default() };
        }
    };
    let judgement = rules.known.judge(engaged, &who.traces());
    // What is not judged by its time has nothing to wait for.
    let hold_ms = if engaged == Engaged::Click && timed { rules.click_hold_ms } else { 0 };
    Judged {
        is_machine: judgement.signal == MachineSignal::Machine,
        reason: judgement.reason,
        classifier_version: if who.claimed.is_none() { CLASSIFIER_VERSION } else { 0 },
        check: MachineCheck { signal: judgement.signal, policy: Some(policy), timed, hold_ms },
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use inflection_domain::{KnownMachines, MachinePolicy, Networks};

    use super::*;

    fn who(fields: &[(&str, &str)]) -> Who<'static> {
        let mut input = Input::default();
        for (name, value) in fields {
            let value = Input::text(value.to_owned().to_owned());
            match *name {
                "user_agent" => input.user_agent = value,
                "ip" => input.ip = value,
                "http_method" => input.http_method = value,
                "purpose" => input.purpose = value,
                "is_machine" => {
                    let machine = matches!(value, Some(Value::Text(text)) if text == "true");
                    input.is_machine = Some(Value::Bool(machine));
                }
                name => panic!("{name}"),
            }
        }
        Who::read(&mut input).unwrap()
    }

    #[track_caller]
    fn check(kind: FactKind, fields: &[(&str, &str)], signal: MachineSignal, reason: Option<&str>) {
        let gateways = Networks::read(["203.0.113.0/24"]).unwrap();
        let known = Arc::new(KnownMachines::with(&[], gateways, Networks::default()));
        let judged =
            judge(kind, &who(fields), false, Clock::Sender, &MachineRules { known, ..MachineRules::default() });
        assert_eq!((judged.check.signal, judged.reason), (signal, reason), "{fields:?}");
        assert_eq!(judged.is_machine, signal == MachineSignal::Machine, "{fields:?}");
    }

    #[test]
    fn what_an_event_says_is_judged() {
        use FactKind::{EmailOpened as Open, LinkClicked as Click};
        check(Open, &[], MachineSignal::None, None);
        check(Open, &[("user_agent", "Mozilla/5.0")], MachineSignal::Machine, Some("apple_mpp_probable"));
        check(Open, &[("user_agent", "")], MachineSignal::None, None);
        check(Open, &[("purpose", "prefetch")], MachineSignal::Prefetched, Some("prefetch"));
        check(Open, &[("ip", "203.0.113.9")], MachineSignal::Machine, Some("gateway_network"));
        check(Open, &[("ip", "no address")], MachineSignal::None, None);
        check(Click, &[], MachineSignal::None, None);
        check(Click, &[("user_agent", "")], MachineSignal::Machine, Some("empty_agent"));
        check(Click, &[("user_agent", "curl/8.5.0")], MachineSignal::Machine, Some("library"));
        check(Click, &[("http_method", "HEAD")], MachineSignal::Machine, Some("prefetch"));
        check(Click, &[("ip", "203.0.113.9")], MachineSignal::Suspect, None);
        check(Click, &[("user_agent", "curl/8.5.0"), ("is_machine", "false")], MachineSignal::Human, None);
        check(Click, &[("is_machine", "true")], MachineSignal::Machine, None);
        let who = who(&[("user_agent", "")]);
        for (kind, timed) in [(FactKind::EmailDelivered, true), (FactKind::EmailBounced, false)] {
            let judged = judge(kind, &who, true, Clock::Sender, &MachineRules::default());
            let check = MachineCheck { timed, ..MachineCheck::default() };
            assert_eq!((judged.check, judged.classifier_version), (check, 0), "{kind:?}");
        }
    }

    #[test]
    fn rules_go_with_the_fact() {
        let rules = |timing, click_hold_ms| MachineRules {
            opens: MachinePolicy::Drop,
            clicks: MachinePolicy::Separate,
            timing,
            click_hold_ms,
            ..MachineRules::default()
        };
        for (kind, provider, timing, hold, timed, held) in [
            (FactKind::EmailOpened, false, MachineTiming::Providers, 0, false, 0),
            (FactKind::EmailOpened, true, MachineTiming::Providers, 0, true, 0),
            (FactKind::EmailOpened, false, MachineTiming::All, 0, true, 0),
            (FactKind::LinkClicked, true, MachineTiming::Off, 0, false, 0),
            // A hold makes no time evidence that is none.
            (FactKind::LinkClicked, false, MachineTiming::Providers, 20_000, false, 0),
            (FactKind::LinkClicked, true, MachineTiming::Off, 20_000, false, 0),
            (FactKind::LinkClicked, true, MachineTiming::Providers, 20_000, true, 20_000),
            (FactKind::LinkClicked, false, MachineTiming::All, 20_000, true, 20_000),
            (FactKind::EmailOpened, false, MachineTiming::Providers, 20_000, false, 0),
        ] {
            let received = judge(kind, &who(&[]), provider, Clock::Receipt, &rules(timing, hold));
            assert_eq!((received.check.timed, received.check.hold_ms), (false, 0), "its time is ours");
            let judged = judge(kind, &who(&[]), provider, Clock::Sender, &rules(timing, hold));
            let policy = if kind == FactKind::EmailOpened { MachinePolicy::Drop } else { MachinePolicy::Separate };
            assert_eq!(judged.check.policy, Some(policy));
            assert_eq!(
                (judged.check.timed, judged.check.hold_ms),
                (timed, held),
                "{kind:?} {provider} {timing:?} {hold}"
            );
            assert_eq!(judged.classifier_version, CLASSIFIER_VERSION);
        }
        let told = who(&[("is_machine", "false")]);
        let told = judge(FactKind::EmailOpened, &told, true, Clock::Sender, &MachineRules::default());
        assert_eq!(told.classifier_version, 0, "nobody judged");
    }

    #[test]
    fn ids_of_content_are_as_before_where_there_is_nothing_new() {
        assert_eq!(who(&[("user_agent", "a"), ("ip", "b")]).parts(), ["a", "b", ""]);
        assert_eq!(who(&[("is_machine", "true")]).parts(), ["", "", "machine"]);
        assert_eq!(who(&[("user_agent", "a")]).later_parts().count(), 0);
        assert_eq!(who(&[("purpose", "p")]).later_parts().collect::<Vec<_>>(), ["purpose", "p"]);
    }
}
