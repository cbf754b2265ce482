//! The engagement truth table and the terminal facts.

use inflection_tests::arrived::Arrived;
use inflection_tests::config::Workspace;
use inflection_tests::fact::{Fact, recently_ms};

use crate::trial::{STEP_MS, Trial};

/// How a workspace counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Policy {
    Default,
    ImpliedOpen,
    LinkScope,
}

impl Policy {
    pub(crate) const ALL: [Self; 3] = [Self::Default, Self::ImpliedOpen, Self::LinkScope];

    pub(crate) fn workspace(self) -> &'static str {
        match self {
            Self::Default => "plain",
            Self::ImpliedOpen => "implied",
            Self::LinkScope => "links",
        }
    }

    fn index(self) -> usize {
        match self {
            Self::Default => 0,
            Self::ImpliedOpen => 1,
            Self::LinkScope => 2,
        }
    }
}

/// One thing that happens to the mail of a row.
#[derive(Debug, Clone, Copy)]
enum Step {
    Delivered,
    Open,
    /// An open that carries the customer's user id.
    OpenKnown,
    MachineOpen,
    Click(u8),
    MachineClick(u8),
    /// The very event of an earlier step again.
    Again(usize),
    Bounced(&'static str),
    Spam,
    Unsubscribed,
}

use Step::{Again, Bounced, Click, Delivered, MachineClick, MachineOpen, Open, OpenKnown, Spam, Unsubscribed};

/// A row: its steps, and the calls that come of each.
struct Row {
    name: &'static str,
    policy: Policy,
    steps: &'static [Step],
    calls: &'static [&'static [&'static str]],
}

const OPEN_U: &str = "Email Opened unique";
const OPEN: &str = "Email Opened";
const OPEN_M: &str = "Email Opened machine";
const PIXEL: &str = "Email Unique Opens pixel";
const CONFIRMED: &str = "Email Unique Opens confirmed_by_click";
const IMPLIED: &str = "Email Unique Opens implied_by_click";
const CLICK_U1: &str = "Link Clicked unique 1";
const CLICK_1: &str = "Link Clicked 1";
const CLICK_U2: &str = "Link Clicked unique 2";
const CLICK_M: &str = "Link Clicked machine 1";
const UNIQUE_1: &str = "Unique Link Click 1";
const UNIQUE_2: &str = "Unique Link Click 2";
const PER_OPEN_1: &str = "Unique Link Click per Unique Open 1";
const PER_OPEN_2: &str = "Unique Link Click per Unique Open 2";
const DELIVERED: &str = "Email Delivered";
const HARD: &str = "Email Bounced hard";
const SOFT: &str = "Email Bounced soft";
const SPAM: &str = "Email Reported as Spam";
const UNSUBSCRIBED: &str = "Email Unsubscribed";

const fn row(name: &'static str, steps: &'static [Step], calls: &'static [&'static [&'static str]]) -> Row {
    Row { name, policy: Policy::Default, steps, calls }
}

const fn row_with(
    policy: Policy,
    name: &'static str,
    steps: &'static [Step],
    calls: &'static [&'static [&'static str]],
) -> Row {
    Row { name, policy, steps, calls }
}

const ROWS: &[Row] = &[
    row("o", &[Open], &[&[OPEN_U, PIXEL]]),
    row("o o", &[Open, Open], &[&[OPEN_U, PIXEL], &[OPEN]]),
    row("o, same event again", &[Open, Again(0)], &[&[OPEN_U, PIXEL], &[]]),
    row("o c1", &[Open, Click(1)], &[&[OPEN_U, PIXEL], &[CLICK_U1, UNIQUE_1, PER_OPEN_1]]),
    row("c1 o", &[Click(1), Open], &[&[CLICK_U1, UNIQUE_1], &[OPEN_U, PIXEL, PER_OPEN_1]]),
    row(
        "o c1 c1 c2",
        &[Open, Click(1), Click(1), Click(2)],
        &[&[OPEN_U, PIXEL], &[CLICK_U1, UNIQUE_1, PER_OPEN_1], &[CLICK_1], &[CLICK_U2, UNIQUE_2]],
    ),
    row_with(
        Policy::LinkScope,
        "o c1 c1 c2, per link",
        &[Open, Click(1), Click(1), Click(2)],
        &[&[OPEN_U, PIXEL], &[CLICK_U1, UNIQUE_1, PER_OPEN_1], &[CLICK_1], &[CLICK_U2, UNIQUE_2, PER_OPEN_2]],
    ),
    row("m", &[MachineOpen], &[&[OPEN_M]]),
    row("m o", &[MachineOpen, Open], &[&[OPEN_M], &[OPEN_U, PIXEL]]),
    row("m c1", &[MachineOpen, Click(1)], &[&[OPEN_M], &[CLICK_U1, UNIQUE_1, PER_OPEN_1, CONFIRMED]]),
    row("c1 m", &[Click(1), MachineOpen], &[&[CLICK_U1, UNIQUE_1], &[OPEN_M, CONFIRMED, PER_OPEN_1]]),
    row("c1 only", &[Click(1)], &[&[CLICK_U1, UNIQUE_1]]),
    row_with(Policy::ImpliedOpen, "c1 only, implied", &[Click(1)], &[&[CLICK_U1, UNIQUE_1, PER_OPEN_1, IMPLIED]]),
    row_with(
        Policy::ImpliedOpen,
        "c1 o, implied",
        &[Click(1), Open],
        &[&[CLICK_U1, UNIQUE_1, PER_OPEN_1, IMPLIED], &[OPEN]],
    ),
    row("b b b", &[MachineClick(1), MachineClick(1), MachineClick(1)], &[&[CLICK_M], &[CLICK_M], &[CLICK_M]]),
    row("b c1", &[MachineClick(1), Click(1)], &[&[CLICK_M], &[CLICK_U1, UNIQUE_1]]),
    row("o b", &[Open, MachineClick(1)], &[&[OPEN_U, PIXEL], &[CLICK_M]]),
    // Learning who the reader is resets nothing.
    row("o, then o of a known user", &[Open, OpenKnown], &[&[OPEN_U, PIXEL], &[OPEN]]),
    // Terminal and negative facts.
    row("delivered twice", &[Delivered, Delivered], &[&[DELIVERED], &[]]),
    row("delivered, then bounce", &[Delivered, Bounced("hard")], &[&[DELIVERED], &[HARD]]),
    row("soft, then hard bounce", &[Bounced("soft"), Bounced("hard")], &[&[SOFT], &[HARD]]),
    row("hard bounce twice", &[Bounced("hard"), Bounced("hard")], &[&[HARD], &[]]),
    row("bounce, then open", &[Bounced("hard"), Open], &[&[HARD], &[OPEN_U, PIXEL]]),
    row("spam twice", &[Spam, Spam], &[&[SPAM], &[]]),
    row("unsubscribed twice", &[Unsubscribed, Unsubscribed], &[&[UNSUBSCRIBED], &[]]),
];

/// Every row, played by a person named after it.
pub(crate) fn trials(word: &str, workspaces: &[Workspace; 3]) -> Vec<Trial> {
    let at_ms = recently_ms();
    ROWS.iter().enumerate().map(|(number, row)| trial(row, &format!("{word}-t{number}"), at_ms, workspaces)).collect()
}

fn trial(row: &Row, key: &str, at_ms: i64, workspaces: &[Workspace; 3]) -> Trial {
    let facts: Vec<Fact> =
        row.steps.iter().enumerate().map(|(place, step)| fact(row, *step, place, key, at_ms)).collect();
    let (run, steps) = (format!("run-{key}"), row.steps.len());
    let expected = row.calls.iter().map(|calls| sorted(calls.iter().map(|call| (*call).to_owned()).collect()));
    Trial {
        name: format!("{} ({key})", row.name),
        ingest_key: workspaces[row.policy.index()].ingest_key().to_owned(),
        facts,
        read: Box::new(move |calls| read(calls, &run, at_ms, steps)),
        expected: expected.collect(),
    }
}

fn fact(row: &Row, step: Step, place: usize, key: &str, at_ms: i64) -> Fact {
    if let Again(earlier) = step {
        return fact(row, row.steps[earlier], earlier, key, at_ms);
    }
    let at_ms = at_ms + i64::try_from(place).expect("few steps") * STEP_MS;
    let make = |kind: &str| {
        Fact::new(kind, &format!("{key}-{place}"), at_ms)
            .person(&format!("p-{key}"))
            .email(&format!("{key}@corp.example"))
            .mail("mail-1", &format!("run-{key}"))
    };
    let click = |link: u8| make("link_clicked").with("email_link_url", format!("https://shop.example/offer/{link}"));
    match step {
        Delivered => make("email_delivered"),
        Open => make("email_opened").human(),
        OpenKnown => make("email_opened").human().user(&format!("u-{key}")),
        MachineOpen => make("email_opened").machine(),
        Click(link) => click(link).human(),
        MachineClick(link) => click(link).machine(),
        Again(_) => panic!("an earlier step is none that repeats"),
        Bounced(class) => make("email_bounced").with("bounce_class", class),
        Spam => make("email_reported_as_spam"),
        Unsubscribed => make("email_unsubscribed"),
    }
}

/// The tracks of a run, by the fact whose time they carry.
fn read(calls: &[Arrived], run: &str, at_ms: i64, steps: usize) -> Result<Vec<Vec<String>>, String> {
    let mut came = vec![Vec::new(); steps];
    let mut last = 0;
    let of_run = |call: &&Arrived| call.kind == "track" && call.property("campaign_run_id") == Some(run);
    for call in calls.iter().filter(of_run) {
        check_properties(call)?;
        let place = call.timestamp_ms().and_then(|at| usize::try_from((at - at_ms) / STEP_MS).ok());
        let place = place.filter(|place| *place < steps).ok_or_else(|| format!("a time of no fact: {}", call.body))?;
        if place < last {
            return Err(format!("the calls of fact {place} came after those of fact {last}: {}", call.body));
        }
        last = place;
        came[place].push(describe(call));
    }
    Ok(came.into_iter().map(sorted).collect())
}

/// Name, flags and link of a call, as the table writes it.
fn describe(call: &Arrived) -> String {
    let event = call.event().unwrap_or("no event");
    let mut words = vec![event];
    let flag = match event {
        "Email Opened" => Some("is_unique_open"),
        "Link Clicked" => Some("is_unique_click"),
        _ => None,
    };
    if let Some(flag) = flag {
        match call.properties().get(flag).and_then(serde_json::Value::as_bool) {
            Some(true) => words.push("unique"),
            Some(false) => {}
            None => words.push("without its flag"),
        }
    }
    if call.flag("is_machine") {
        words.push("machine");
    }
    words.extend(call.property("open_source").filter(|_| event == "Email Unique Opens"));
    words.extend(call.property("bounce_class"));
    words.extend(call.property("email_link_url").and_then(|url| url.rsplit('/').next()));
    words.join(" ")
}

/// The properties that every one of the nine events carries.
fn check_properties(call: &Arrived) -> Result<(), String> {
    let expected = [
        ("event", call.event().unwrap_or_default()),
        ("email_id", "mail-1"),
        ("campaign_id", "cmp-e2e"),
        ("campaign_name", "Spring launch"),
        ("email_subject", "Twelve things"),
    ];
    for (name, value) in expected {
        if call.property(name) != Some(value) {
            return Err(format!("property {name} should be {value:?}: {}", call.body));
        }
    }
    let address = call.property("userId").unwrap_or_default();
    if address.ends_with("@corp.example") { Ok(()) } else { Err(format!("userId is not the address: {}", call.body)) }
}

fn sorted(mut words: Vec<String>) -> Vec<String> {
    words.sort();
    words
}
