//! Faults on demand: which request suffers what.

use serde::{Deserialize, Serialize};

/// The faults in force. The first rule that matches a request wins.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Faults {
    /// Looked at in this order.
    pub rules: Vec<FaultRule>,
}

/// One fault and the requests it befalls.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FaultRule {
    /// What happens.
    pub fault: Fault,
    /// Applied to this many requests, then the rule is spent. Absent: until the faults are cleared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub times: Option<u64>,
    /// Applied only to each n-th matching request (the n-th first); the others go on to the next rule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub every: Option<u64>,
    /// Matches only requests with this write key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub write_key: Option<String>,
}

impl FaultRule {
    /// A rule for every request, until cleared.
    pub fn always(fault: Fault) -> Self {
        Self { fault, times: None, every: None, write_key: None }
    }

    /// A rule for the next `times` requests.
    pub fn times(fault: Fault, times: u64) -> Self {
        Self { times: Some(times), ..Self::always(fault) }
    }
}

/// What can go wrong between a sender and Segment. "Commits" means: the calls are taken as if nothing had happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Fault {
    /// Answers with this status without committing.
    Status {
        /// The HTTP status.
        code: u16,
        /// The raw `Retry-After` value: seconds, an HTTP date, or garbage.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        retry_after: Option<String>,
        /// The raw `X-RateLimit-Reset` value.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        rate_limit_reset: Option<String>,
    },
    /// Commits, then answers with this status.
    StatusAfterCommit {
        /// The HTTP status.
        code: u16,
    },
    /// Reads the request, then resets the connection (TCP RST) without committing.
    ResetBeforeCommit,
    /// Commits, then resets the connection instead of answering.
    ResetAfterCommit,
    /// Holds the request, then closes the connection without an answer.
    Hang {
        /// How long the request is held, in milliseconds.
        ms: u64,
        /// Whether the calls are taken (on arrival).
        #[serde(default)]
        commit: bool,
    },
    /// Commits on arrival and delays the answer.
    Slow {
        /// The delay, in milliseconds.
        ms: u64,
    },
    /// Commits, announces a longer answer than it sends, and closes the connection.
    CutAnswer,
    /// 400 for any request in which an item's JSON contains the text, with nothing committed. Other requests do not match.
    RejectItem {
        /// The poison, as it stands in the item's raw JSON.
        contains: String,
    },
    /// 307 to another place, without committing.
    Redirect {
        /// The `Location` header.
        location: String,
    },
}

impl Fault {
    /// The fault's name in the JSON form.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Status { .. } => "status",
            Self::StatusAfterCommit { .. } => "status_after_commit",
            Self::ResetBeforeCommit => "reset_before_commit",
            Self::ResetAfterCommit => "reset_after_commit",
            Self::Hang { .. } => "hang",
            Self::Slow { .. } => "slow",
            Self::CutAnswer => "cut_answer",
            Self::RejectItem { .. } => "reject_item",
            Self::Redirect { .. } => "redirect",
        }
    }
}

/// The rules in force with what each has done so far.
#[derive(Debug, Default)]
pub(crate) struct ActiveFaults {
    rules: Vec<ActiveRule>,
}

#[derive(Debug, Serialize)]
pub(crate) struct ActiveRule {
    #[serde(flatten)]
    rule: FaultRule,
    /// Requests that matched.
    matched: u64,
    /// Requests that suffered the fault.
    applied: u64,
}

impl ActiveFaults {
    /// Starts afresh with these rules.
    pub(crate) fn new(faults: Faults) -> Self {
        let rules = faults.rules.into_iter().map(|rule| ActiveRule { rule, matched: 0, applied: 0 }).collect();
        Self { rules }
    }

    /// The rules and their counts, for the view.
    pub(crate) fn rules(&self) -> &[ActiveRule] {
        &self.rules
    }

    /// Decides what befalls this request, and counts it. `has_item` tells whether an item's raw JSON contains a text.
    pub(crate) fn select(&mut self, write_key: &str, has_item: impl Fn(&str) -> bool) -> Option<Fault> {
        self.rules.iter_mut().find_map(|active| active.apply(write_key, &has_item))
    }
}

impl ActiveRule {
    fn apply(&mut self, write_key: &str, has_item: &impl Fn(&str) -> bool) -> Option<Fault> {
        let spent = self.rule.times.is_some_and(|times| self.applied >= times);
        let other_key = self.rule.write_key.as_deref().is_some_and(|wanted| wanted != write_key);
        if spent || other_key || !self.befalls(has_item) {
            return None;
        }
        self.matched += 1;
        let turn = self.rule.every.is_none_or(|every| self.matched.checked_rem(every).unwrap_or(0) == 0);
        if !turn {
            return None;
        }
        self.applied += 1;
        Some(self.rule.fault.clone())
    }

    fn befalls(&self, has_item: &impl Fn(&str) -> bool) -> bool {
        match &self.rule.fault {
            Fault::RejectItem { contains } => has_item(contains),
            Fault::Status { .. }
            | Fault::StatusAfterCommit { .. }
            | Fault::ResetBeforeCommit
            | Fault::ResetAfterCommit
            | Fault::Hang { .. }
            | Fault::Slow { .. }
            | Fault::CutAnswer
            | Fault::Redirect { .. } => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn select_each(faults: Faults, keys: &[&str]) -> Vec<Option<&'static str>> {
        let mut active = ActiveFaults::new(faults);
        keys.iter().map(|key| active.select(key, |text| text == "poison").map(|fault| fault.name())).collect()
    }

    #[test]
    fn a_budget_is_spent() {
        let faults = Faults { rules: vec![FaultRule::times(Fault::CutAnswer, 2)] };
        assert_eq!(select_each(faults, &["k"; 4]), [Some("cut_answer"), Some("cut_answer"), None, None]);
    }

    #[test]
    fn each_nth_request_and_the_next_rule_for_the_others() {
        let nth = FaultRule { every: Some(3), ..FaultRule::always(Fault::ResetAfterCommit) };
        let faults = Faults { rules: vec![nth, FaultRule::times(Fault::CutAnswer, 1)] };
        let expected = [Some("cut_answer"), None, Some("reset_after_commit"), None];
        assert_eq!(select_each(faults, &["k"; 4]), expected);
    }

    #[test]
    fn other_write_keys_are_spared() {
        let rule = FaultRule { write_key: Some("b".to_owned()), ..FaultRule::always(Fault::CutAnswer) };
        assert_eq!(select_each(Faults { rules: vec![rule] }, &["a", "b"]), [None, Some("cut_answer")]);
    }

    #[test]
    fn only_the_poisoned_batch_is_rejected() {
        let rule = |contains: &str| FaultRule::always(Fault::RejectItem { contains: contains.to_owned() });
        assert_eq!(select_each(Faults { rules: vec![rule("clean")] }, &["k"]), [None]);
        assert_eq!(select_each(Faults { rules: vec![rule("poison")] }, &["k"]), [Some("reject_item")]);
    }

    #[test]
    fn the_json_form() {
        let json = r#"{"rules":[{"fault":{"kind":"status","code":429,"retry_after":"2"},"times":1},
            {"fault":{"kind":"hang","ms":50,"commit":true},"every":2,"write_key":"k"},{"fault":{"kind":"cut_answer"}}]}"#;
        let faults: Faults = serde_json::from_str(json).unwrap();
        assert_eq!(faults.rules.len(), 3);
        let again: Faults = serde_json::from_str(&serde_json::to_string(&faults).unwrap()).unwrap();
        assert_eq!(faults, again);
    }

    #[test]
    fn unknown_fields_are_refused() {
        for json in [
            r#"{"rule":[]}"#,
            r#"{"rules":[{"fault":{"kind":"cut_answer"},"time":1}]}"#,
            r#"{"rules":[{"fault":{"kind":"status","code":500,"after":1}}]}"#,
            r#"{"rules":[{"fault":{"kind":"nonsense"}}]}"#,
        ] {
            assert!(serde_json::from_str::<Faults>(json).is_err(), "{json}");
        }
    }
}
