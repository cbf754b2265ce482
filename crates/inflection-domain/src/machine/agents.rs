//! User agents of machines: the project's list, read from `data/machine/agents.txt`, and configured ones.

use std::sync::LazyLock;

use super::Engaged;

const LIST: &str = include_str!("../../data/machine/agents.txt");

/// Reason for agents that are configured.
const CONFIGURED: &str = "configured_agent";

/// The list, read once.
static LISTED: LazyLock<Vec<Rule>> = LazyLock::new(|| LIST.lines().filter_map(Rule::read).collect());

/// How a text is compared with an agent, without regard to case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Compared {
    Is,
    Starts,
    Has,
}

/// One line of the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rule {
    opens: bool,
    clicks: bool,
    compared: Compared,
    reason: &'static str,
    text: Box<str>,
}

impl Rule {
    /// Reads a line; `None` for comments, empty lines, and what is no rule: the tests see to it that there is none such.
    fn read(line: &'static str) -> Option<Self> {
        let line = line.trim();
        if line.starts_with('#') {
            return None;
        }
        let (seen, rest) = line.split_once(' ')?;
        let (compared, rest) = rest.trim_start().split_once(' ')?;
        let (reason, text) = rest.trim_start().split_once(' ')?;
        let (opens, clicks) = match seen {
            "open" => (true, false),
            "click" => (false, true),
            "both" => (true, true),
            _ => return None,
        };
        let compared = match compared {
            "is" => Compared::Is,
            "starts" => Compared::Starts,
            "has" => Compared::Has,
            _ => return None,
        };
        Some(Self { opens, clicks, compared, reason, text: text.trim().into() })
    }

    fn is_for(&self, engaged: Engaged) -> bool {
        match engaged {
            Engaged::Open => self.opens,
            Engaged::Click => self.clicks,
        }
    }

    /// Whether the rule's text stands in an agent at `at`, and may stand there.
    fn stands_at(&self, agent: &[u8], at: usize) -> bool {
        let text = self.text.as_bytes();
        let end = at + text.len();
        let may = match self.compared {
            Compared::Is => at == 0 && end == agent.len(),
            Compared::Starts => at == 0,
            Compared::Has => true,
        };
        may && agent.get(at..end).is_some_and(|here| here.eq_ignore_ascii_case(text))
    }
}

/// All rules, found by the first letter of their text: an agent is looked through once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Agents {
    rules: Vec<Rule>,
    /// By small letter: places in `rules`.
    by_first: Box<[Vec<usize>]>,
}

impl Agents {
    /// The list, and texts that other machines have in their agents.
    pub(super) fn with(configured: &[String]) -> Self {
        let own = configured.iter().filter(|text| !text.is_empty()).map(|text| Rule {
            opens: true,
            clicks: true,
            compared: Compared::Has,
            reason: CONFIGURED,
            text: text.as_str().into(),
        });
        let rules: Vec<Rule> = LISTED.iter().cloned().chain(own).collect();
        let mut by_first = vec![Vec::new(); 256];
        for (place, rule) in rules.iter().enumerate() {
            let first = rule.text.as_bytes().first().map(|first| usize::from(first.to_ascii_lowercase()));
            if let Some(places) = first.and_then(|first| by_first.get_mut(first)) {
                places.push(place);
            }
        }
        Self { rules, by_first: by_first.into() }
    }

    /// Why the agent is a machine's, if it is one.
    pub(super) fn find(&self, engaged: Engaged, agent: &str) -> Option<&'static str> {
        let agent = agent.as_bytes();
        let found = agent.iter().enumerate().find_map(|(at, byte)| {
            let places = self.by_first.get(usize::from(byte.to_ascii_lowercase()))?;
            let rules = places.iter().filter_map(|place| self.rules.get(*place));
            rules.into_iter().find(|rule| rule.is_for(engaged) && rule.stands_at(agent, at))
        });
        found.map(|rule| rule.reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_of_the_list_is_a_rule_a_comment_or_empty() {
        let rules = LIST.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#')).count();
        assert!(rules > 40, "{rules}");
        assert_eq!(LISTED.len(), rules);
        for rule in LISTED.iter() {
            assert!(rule.text.len() > 3, "{rule:?} would be found in agents of people");
            assert!(rule.reason.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{rule:?}");
            let same = LISTED.iter().filter(|other| other.text.eq_ignore_ascii_case(&rule.text)).count();
            assert_eq!(same, 1, "{rule:?} stands there twice");
        }
    }
}
