//! The states of a person.

use std::collections::BTreeSet;

use inflection_tests::arrived::Arrived;
use inflection_tests::config::Workspace;
use inflection_tests::fact::{Fact, recently_ms};

use crate::trial::{STEP_MS, Trial};

/// One event: of which person, with which user id, with which address. Empty is absent.
///
/// Names become ids of this row alone; a user id after `!` is sent literally, `!*` is a very long one.
#[derive(Debug, Clone, Copy)]
struct Step {
    person: &'static str,
    user: Option<&'static str>,
    address: &'static str,
}

/// A row: its steps, and the calls that come of each, in order.
///
/// `P` is a person as `anonymousId`, `=u` a user as `userId`, `derived` an id made from an address or a user id.
struct Row {
    name: &'static str,
    steps: &'static [Step],
    calls: &'static [&'static [&'static str]],
    /// Calls that may be there or not.
    optional: &'static str,
}

/// One more than a user id may have.
const USER_ID_BYTES_TOO_MANY: usize = 256;

/// `person_id`, and `user_id` if there is one.
const fn of(person: &'static str, user: Option<&'static str>) -> Step {
    Step { person, user, address: "" }
}

/// No `person_id`.
const fn without_person(user: Option<&'static str>, address: &'static str) -> Step {
    Step { person: "", user, address }
}

const fn row(name: &'static str, steps: &'static [Step], calls: &'static [&'static [&'static str]]) -> Row {
    Row { name, steps, calls, optional: "" }
}

const ROWS: &[Row] = &[
    row("anonymous", &[of("P", None), of("P", None)], &[&["track P"], &["track P"]]),
    row("known from the start", &[of("P", Some("u"))], &[&["identify P=u", "track =u"]]),
    row(
        "learned",
        &[of("P", None), of("P", Some("u")), of("P", None)],
        &[&["track P"], &["identify P=u", "track =u"], &["track =u"]],
    ),
    row(
        "the same again",
        &[of("P", Some("u")), of("P", Some("u")), of("P", None)],
        &[&["identify P=u", "track =u"], &["track =u"], &["track =u"]],
    ),
    row(
        "conflict",
        &[of("P", Some("u")), of("P", Some("v")), of("P", None)],
        &[&["identify P=u", "track =u"], &["track =v"], &["track =u"]],
    ),
    row(
        "a second person of the user",
        &[of("P", Some("u")), of("Q", Some("u")), of("Q", None)],
        &[&["identify P=u", "track =u"], &["identify Q=u", "track =u"], &["track =u"]],
    ),
    Row {
        name: "user id only",
        steps: &[without_person(Some("u"), ""), without_person(Some("u"), "")],
        calls: &[&["track =u"], &["track =u"]],
        optional: "identify derived=u",
    },
    row(
        "address only",
        &[without_person(None, "a"), without_person(None, "a")],
        &[&["track derived"], &["track derived"]],
    ),
    row(
        "address, then with a user id",
        &[without_person(None, "a"), without_person(Some("u"), "a"), without_person(None, "a")],
        &[&["track derived"], &["identify derived=u", "track =u"], &["track =u"]],
    ),
    row("blocked: null", &[of("P", Some("!null"))], &[&["track P"]]),
    row("blocked: undefined", &[of("P", Some("!undefined"))], &[&["track P"]]),
    row("blocked: anonymous", &[of("P", Some("!anonymous"))], &[&["track P"]]),
    row("blocked: -1", &[of("P", Some("!-1"))], &[&["track P"]]),
    row("blocked: zeros", &[of("P", Some("!0")), of("P", Some("!0000"))], &[&["track P"], &["track P"]]),
    row("blocked: dashes", &[of("P", Some("!---")), of("P", Some("!0-0"))], &[&["track P"], &["track P"]]),
    row("blocked: empty", &[of("P", Some("!"))], &[&["track P"]]),
    row("blocked: too long", &[of("P", Some("!*"))], &[&["track P"]]),
    row(
        "blocked, then learned",
        &[of("P", Some("!null")), of("P", Some("u"))],
        &[&["track P"], &["identify P=u", "track =u"]],
    ),
];

/// Every row, played by persons and users named after it.
pub(crate) fn trials(word: &str, workspaces: &[Workspace; 3]) -> Vec<Trial> {
    let at_ms = recently_ms();
    let rows = ROWS.iter().enumerate();
    let key = workspaces[0].ingest_key();
    rows.map(|(number, row)| trial(row, &format!("{word}-i{number}"), at_ms, key)).collect()
}

fn trial(row: &'static Row, key: &str, at_ms: i64, ingest_key: &str) -> Trial {
    let facts = row.steps.iter().enumerate().map(|(place, step)| fact(*step, place, key, at_ms)).collect();
    let expected = row.calls.iter().map(|calls| calls.iter().map(|call| (*call).to_owned()).collect()).collect();
    let (owned_key, steps) = (key.to_owned(), row.steps.len());
    Trial {
        name: format!("{} ({key})", row.name),
        ingest_key: ingest_key.to_owned(),
        facts,
        read: Box::new(move |calls| {
            let mut came = read(calls, &owned_key, at_ms, steps)?;
            came.iter_mut().for_each(|calls| calls.retain(|call| row.optional.is_empty() || call != row.optional));
            Ok(came)
        }),
        expected,
    }
}

fn fact(step: Step, place: usize, key: &str, at_ms: i64) -> Fact {
    // A run of its own for every event, so that each is the first delivery of a mail.
    let at_ms = at_ms + i64::try_from(place).expect("few steps") * STEP_MS;
    let mut fact =
        Fact::new("email_delivered", &format!("{key}-{place}"), at_ms).mail("mail-1", &format!("{key}-{place}"));
    if !step.person.is_empty() {
        fact = fact.person(&format!("{}-{key}", step.person));
    }
    if !step.address.is_empty() {
        fact = fact.email(&format!("{}.{key}@corp.example", step.address));
    }
    match step.user.map(|user| user.strip_prefix('!').ok_or(user)) {
        Some(Ok("*")) => fact.user(&"x".repeat(USER_ID_BYTES_TOO_MANY)),
        Some(Ok(literal)) => fact.user(literal),
        Some(Err(user)) => fact.user(&format!("{user}-{key}")),
        None => fact,
    }
}

/// The calls of a row by the fact whose time they carry, in order of arrival.
fn read(calls: &[Arrived], key: &str, at_ms: i64, steps: usize) -> Result<Vec<Vec<String>>, String> {
    let suffix = format!("-{key}");
    let runs: Vec<String> = (0..steps).map(|place| format!("{key}-{place}")).collect();
    let is_ours = |call: &&Arrived| {
        let ids = [call.user_id(), call.anonymous_id()];
        ids.into_iter().flatten().any(|id| id.ends_with(&suffix))
            || call.property("campaign_run_id").is_some_and(|run| runs.iter().any(|own| own == run))
    };
    let mut came = vec![Vec::new(); steps];
    let mut derived: BTreeSet<String> = BTreeSet::new();
    for call in calls.iter().filter(is_ours) {
        let place = call.timestamp_ms().and_then(|at| usize::try_from((at - at_ms) / STEP_MS).ok());
        let place = place.filter(|place| *place < steps).ok_or_else(|| format!("a time of no fact: {}", call.body))?;
        let person = call.anonymous_id().map(|id| {
            id.strip_suffix(&suffix).unwrap_or_else(|| {
                derived.insert(id.to_owned());
                "derived"
            })
        });
        let user = call.user_id().map(|id| format!("={}", id.strip_suffix(&suffix).unwrap_or(id)));
        came[place].push(format!("{} {}{}", call.kind, person.unwrap_or_default(), user.unwrap_or_default()));
    }
    if derived.len() > 1 {
        return Err(format!("one address, several persons: {derived:?}"));
    }
    match derived.iter().find(|id| id.contains('@') || id.contains("corp.example")) {
        Some(id) => Err(format!("the address shows in the anonymousId {id}")),
        None => Ok(came),
    }
}
