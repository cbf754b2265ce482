//! `persons`.

use anyhow::Context as _;
use serde_json::Value;

use crate::admin::persons::Named;
use crate::cli::{AdminArgs, PersonArgs, PersonsAction, PersonsArgs};
use crate::commands::{look, say};
use crate::{End, Failure};

pub(crate) async fn run(args: PersonsArgs) -> Result<End, Failure> {
    match args.action {
        PersonsAction::Suppress(args) => tell(args, "suppress").await,
        PersonsAction::Erase(args) => tell(args, "erase").await,
        PersonsAction::Lift(args) => tell(args, "lift").await,
        PersonsAction::List(args) => list(&args).await,
    }
}

/// A member of an answer, as a person reads it.
fn text<'v>(value: &'v Value, name: &str) -> &'v str {
    value.get(name).and_then(Value::as_str).unwrap_or("-")
}

/// An order that is stored and not in force yet is exit code 2.
async fn tell(args: PersonArgs, action: &str) -> Result<End, Failure> {
    let PersonArgs { workspace, whom, admin } = args;
    let named = Named { workspace, person_id: whom.person_id, user_id: whom.user_id, email: whom.email };
    let answer = look::client(&admin.listener)?.post(&format!("/v1/persons/{action}"), &named).await?;
    let in_force = answer.get("in_force").and_then(Value::as_bool).unwrap_or(false);
    if admin.json {
        say(&answer.to_string());
    } else {
        let since = if action == "lift" { "was suppressed since" } else { "since" };
        let (kind, key, state) = (text(&answer, "kind"), text(&answer, "key"), text(&answer, "state"));
        say(&format!("{kind} {key} of {}: {state}, {since} {}", text(&answer, "workspace"), text(&answer, "since")));
        if let Some(dropped) = answer.get("dead_letters_dropped").and_then(Value::as_u64) {
            say(&format!("{dropped} dead letters dropped"));
        }
        if !in_force {
            say("stored, and not in force yet: identity or delivery has not taken it within ten seconds; do they run?");
        }
    }
    Ok(if in_force { End::Done } else { End::Wrong })
}

async fn list(admin: &AdminArgs) -> Result<End, Failure> {
    let answer = look::client(&admin.listener)?.get("/v1/persons").await?;
    if admin.json {
        say(&answer.to_string());
        return Ok(End::Done);
    }
    let persons = answer.get("persons").and_then(Value::as_array).context("the answer has no persons")?;
    for person in persons {
        let erased = if person.get("erased").and_then(Value::as_bool) == Some(true) { "  erased" } else { "" };
        say(&format!(
            "{}  {}  {}  since {}{erased}",
            text(person, "workspace"),
            text(person, "kind"),
            text(person, "key"),
            text(person, "since")
        ));
    }
    let number = |name: &str| answer.get(name).and_then(Value::as_u64).unwrap_or(0);
    say(&format!("{} suppressed, of {} at most", number("total"), number("most")));
    Ok(End::Done)
}
