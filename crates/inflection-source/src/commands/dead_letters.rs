//! `dead-letters`.

use anyhow::{Context as _, anyhow};
use inflection_domain::Timestamp;
use serde_json::{Value, json};

use crate::admin::letters::{Chosen, Filter, find};
use crate::cli::{DeadLettersAction, DeadLettersArgs, LetterArgs, LetterFilterArgs, LettersArgs, LookArgs};
use crate::commands::look::{escape, known_connections};
use crate::commands::{look, say};
use crate::{End, Failure, install};

pub(crate) async fn run(args: DeadLettersArgs) -> Result<End, Failure> {
    match args.action {
        DeadLettersAction::List(args) => list(args).await?,
        DeadLettersAction::Show(args) => show(args).await?,
        DeadLettersAction::Replay(args) => change(args, "/v1/dead-letters/replay").await?,
        DeadLettersAction::Drop(args) => change(args, "/v1/dead-letters/drop").await?,
    }
    Ok(End::Done)
}

/// The filter that flags make.
fn filter(args: &LetterFilterArgs) -> Result<Filter, Failure> {
    let moment = |flag: &str, text: &Option<String>| match text {
        Some(text) if Timestamp::parse(text).is_err() => {
            Err(Failure::Usage(format!("{flag} must be a moment like 2026-11-24T10:00:00Z, not {text:?}")))
        }
        Some(_) | None => Ok(text.clone()),
    };
    Ok(Filter {
        workspace: args.workspace.clone(),
        connection: args.connection.clone(),
        reason: args.reason.clone(),
        since: moment("--since", &args.since)?,
        until: moment("--until", &args.until)?,
        message_id: None,
    })
}

/// Letters from the bus itself or from the admin listener, in the admin API's shape.
async fn letters(args: &LookArgs, filter: &Filter) -> anyhow::Result<Value> {
    if let Some(bus) = look::bus(&args.bus).await? {
        let installation = install::load(&bus, &Default::default(), None).await?;
        let connections = known_connections(&bus, &installation).await?;
        let found = find(&bus, &connections, filter).await?;
        bus.close().await;
        return Ok(json!({ "dead_letters": found.views, "total": found.total }));
    }
    let query: Vec<String> = [
        ("workspace", &filter.workspace),
        ("connection", &filter.connection),
        ("reason", &filter.reason),
        ("since", &filter.since),
        ("until", &filter.until),
        ("messageId", &filter.message_id),
    ]
    .into_iter()
    .filter_map(|(name, value)| value.as_ref().map(|value| format!("{name}={}", escape(value))))
    .collect();
    look::client(&args.listener)?.get(&format!("/v1/dead-letters?{}", query.join("&"))).await
}

async fn list(args: LetterFilterArgs) -> Result<(), Failure> {
    let answer = letters(&args.look, &filter(&args)?).await?;
    if args.look.bus.json {
        say(&answer.to_string());
        return Ok(());
    }
    let list = answer.get("dead_letters").and_then(Value::as_array).context("the answer has no dead letters")?;
    for letter in list {
        let text = |name: &str| {
            letter.get(name).map_or(String::new(), |value| value.as_str().map_or(value.to_string(), str::to_owned))
        };
        say(&format!(
            "{}  {}/{}  {}  {}  event {}  status {}  attempts {}",
            text("at"),
            text("workspace"),
            text("connection"),
            text("messageId"),
            text("reason"),
            text("event_id"),
            text("last_status"),
            text("attempts"),
        ));
    }
    let total = answer.get("total").and_then(Value::as_u64).unwrap_or(0);
    let cut = if total > list.len() as u64 { format!(", the oldest {} shown", list.len()) } else { String::new() };
    say(&format!("{total} dead letters{cut}"));
    Ok(())
}

async fn show(args: LetterArgs) -> Result<(), Failure> {
    let filter = Filter { message_id: Some(args.message_id.clone()), ..Filter::default() };
    let answer = letters(&args.look, &filter).await?;
    let letter =
        answer.pointer("/dead_letters/0").ok_or_else(|| anyhow!("there is no dead letter {}", args.message_id))?;
    let pretty = || serde_json::to_string_pretty(letter).context("the letter cannot be written");
    say(&if args.look.bus.json { letter.to_string() } else { pretty()? });
    Ok(())
}

async fn change(args: LettersArgs, path: &str) -> Result<(), Failure> {
    let look = &args.filter.look;
    if !look.bus.nats_url.is_empty() || look.bus.data_dir.is_some() {
        return Err(anyhow!("letters are replayed and dropped by a running install: use --admin-url").into());
    }
    let Filter { workspace, connection, reason, since, until, .. } = filter(&args.filter)?;
    let chosen =
        Chosen { workspace, connection, reason, since, until, message_ids: args.message_ids.clone(), all: args.all };
    let answer = look::client(&look.listener)?.post(path, &chosen).await?;
    if look.bus.json {
        say(&answer.to_string());
        return Ok(());
    }
    let number = |name: &str| answer.get(name).and_then(Value::as_u64);
    let matched = number("matched").unwrap_or(0);
    match (number("replayed"), number("dropped")) {
        (Some(replayed), _) => say(&format!("{replayed} of {matched} dead letters are being sent again")),
        (None, dropped) => say(&format!("{} dead letters dropped", dropped.unwrap_or(0))),
    }
    if let Some(late) = number("beyond_dedupe_window").filter(|late| *late > 0) {
        say(&format!(
            "warning: {late} of them died more than 24 hours ago; if Segment took one in spite of its answer, it does not recognise the repeat any more"
        ));
    }
    Ok(())
}
