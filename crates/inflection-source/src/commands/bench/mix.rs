//! The events that are sent: named mixes, each for what it stresses.

use std::io::Write as _;

/// What the events of a run are. Each person has one mail and the events of one round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Mix {
    /// Delivered, opened three times, a link clicked: 1.6 calls an event. What the figures are measured with.
    Default,
    /// Delivered only, every event of a new person and mail: the state grows fastest, and so do its snapshots.
    Deliveries,
    /// Delivered, then opened nine times: repeats, which find their mail and change nothing.
    Opens,
    /// Delivered, opened, six clicks on three links: most to remember of a mail, and three calls of a first click.
    Clicks,
    /// Delivered and opened, then the person becomes known by an identify, then opens and clicks as a user: Identify calls
    /// ahead of the events that need them.
    Identify,
}

/// One event of a person's round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Delivered,
    Opened,
    /// On the link of that number.
    Clicked(u8),
    /// Says the person's user id, as everything after it does.
    Identify,
}

impl Mix {
    fn round(self) -> &'static [Kind] {
        use Kind::{Clicked, Delivered, Identify, Opened};
        match self {
            Self::Default => &[Delivered, Opened, Opened, Opened, Clicked(1)],
            Self::Deliveries => &[Delivered],
            Self::Opens => &[Delivered, Opened, Opened, Opened, Opened, Opened, Opened, Opened, Opened, Opened],
            Self::Clicks => {
                &[Delivered, Opened, Clicked(1), Clicked(2), Clicked(3), Clicked(1), Clicked(2), Clicked(3)]
            }
            Self::Identify => &[Delivered, Opened, Identify, Opened, Clicked(1)],
        }
    }

    /// A request's body: events of about 380 bytes, as a sender writes them, one a line.
    pub(super) fn body(self, first: u64, count: u64) -> Vec<u8> {
        let now = jiff::Timestamp::now().as_millisecond();
        let mut body = Vec::with_capacity(usize::try_from(count).unwrap_or(0) * 400);
        for number in first..first + count {
            self.event(number, now, &mut body);
        }
        body
    }

    fn event(self, number: u64, now_ms: i64, body: &mut Vec<u8>) {
        let round = self.round();
        let length = round.len() as u64;
        let (person, at) = (number / length, usize::try_from(number % length).unwrap_or(0));
        let kind = round.get(at).copied().unwrap_or(Kind::Delivered);
        let name = match kind {
            Kind::Delivered => "email_delivered",
            Kind::Opened => "email_opened",
            Kind::Clicked(_) => "link_clicked",
            Kind::Identify => "identify",
        };
        let mut written = write!(
            body,
            "{{\"type\":\"{name}\",\"id\":\"bench-{number}\",\"timestamp\":{now_ms},\"person_id\":\"person-{person}\",\
             \"email\":\"prospect{person}@example.com\""
        );
        if round.iter().take(at + 1).any(|kind| *kind == Kind::Identify) {
            written = written.and_then(|()| write!(body, ",\"user_id\":\"user-{person}\""));
        }
        if let Kind::Clicked(link) = kind {
            let link = format_args!("https://example.com/pricing/{link}?utm_source=mail");
            written = written.and_then(|()| write!(body, ",\"email_link_url\":\"{link}\""));
        }
        let rest = match kind {
            Kind::Identify => "\"traits\":{\"plan\":\"pro\",\"region\":\"emea\"}}".to_owned(),
            Kind::Delivered | Kind::Opened | Kind::Clicked(_) => format!(
                "\"email_id\":\"mail-1\",\"campaign_id\":\"campaign-1\",\"campaign_run_id\":\"run-{}\",\
                 \"campaign_name\":\"Spring launch campaign\",\
                 \"email_subject\":\"What is new this spring, and what comes next\",\
                 \"properties\":{{\"plan\":\"pro\",\"region\":\"emea\"}}}}",
                person % 50
            ),
        };
        written = written.and_then(|()| writeln!(body, ",{rest}"));
        // A Vec takes every write.
        debug_assert!(written.is_ok());
    }
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum as _;
    use serde_json::Value;

    use super::*;

    fn events(mix: Mix, count: u64) -> Vec<Value> {
        let body = mix.body(0, count);
        body.split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
            .map(|line| serde_json::from_slice(line).unwrap())
            .collect()
    }

    fn kinds(mix: Mix) -> Vec<String> {
        let text = |event: &Value| event["type"].as_str().unwrap().trim_start_matches("email_").to_owned();
        events(mix, mix.round().len() as u64).iter().map(text).collect()
    }

    #[test]
    fn a_round_is_what_its_name_says() {
        assert_eq!(kinds(Mix::Default), ["delivered", "opened", "opened", "opened", "link_clicked"]);
        assert_eq!(kinds(Mix::Deliveries), ["delivered"]);
        assert_eq!(kinds(Mix::Identify), ["delivered", "opened", "identify", "opened", "link_clicked"]);
        let links: Vec<Value> =
            events(Mix::Clicks, 8).iter().skip(2).map(|event| event["email_link_url"].clone()).collect();
        assert_eq!(links[0], links[3]);
        assert_ne!(links[0], links[1]);
    }

    #[test]
    fn persons_are_known_from_their_identify_on_and_every_event_has_its_own_id() {
        let sent = events(Mix::Identify, 10);
        let users: Vec<Option<&str>> = sent.iter().map(|event| event["user_id"].as_str()).collect();
        let [known, next] = [Some("user-0"), Some("user-1")];
        assert_eq!(users, [None, None, known, known, known, None, None, next, next, next]);
        for mix in Mix::value_variants() {
            let ids: std::collections::HashSet<_> =
                events(*mix, 100).iter().map(|event| event["id"].to_string()).collect();
            assert_eq!(ids.len(), 100, "{mix:?}");
            assert!(mix.body(0, 100).len() < 100 * 420, "{mix:?}");
        }
    }
}
