//! `dead-letters`.

use anyhow::{Context as _, anyhow};
use inflection_bus::Bus;
use inflection_delivery::load_progress;
use inflection_domain::{ConnectionId, WorkspaceId};
use serde_json::{Value, json};

use crate::admin::letters::{Chosen, Filter, find, view};
use crate::cli::{DeadLettersAction, DeadLettersArgs, LetterArgs, LetterFilterArgs, LettersArgs, LookArgs};
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

/// Letters from the bus itself or from the admin listener, in the admin API's shape.
async fn letters(args: &LookArgs, filter: &Filter) -> anyhow::Result<Value> {
    if let Some(bus) = look::bus(args).await? {
        let connections = known_connections(&bus).await?;
        let letters = find(&bus, &connections, filter).await?;
        bus.close().await;
        let whole = filter.message_id.is_some();
        let views: Vec<Value> = letters.iter().map(|stored| view(stored, whole)).collect();
        return Ok(json!({ "dead_letters": views, "total": views.len() }));
    }
    let query: Vec<String> =
        [("workspace", &filter.workspace), ("connection", &filter.connection), ("messageId", &filter.message_id)]
            .into_iter()
            .filter_map(|(name, value)| value.as_ref().map(|value| format!("{name}={}", escape(value))))
            .collect();
    look::admin(args)?.get(&format!("/v1/dead-letters?{}", query.join("&"))).await
}

/// The connections that delivery has counts for: without a configuration file, the bus itself knows them.
async fn known_connections(bus: &Bus) -> anyhow::Result<Vec<(WorkspaceId, ConnectionId)>> {
    let installation = install::load(bus, &Default::default(), None).await?;
    let mut known = Vec::new();
    for partition in installation.partitions.all() {
        for totals in load_progress(bus, partition.index()).await?.connections {
            let pair = (totals.workspace, totals.connection);
            if !known.contains(&pair) {
                known.push(pair);
            }
        }
    }
    Ok(known)
}

/// Ids and names have no characters that need it; what a person types may.
fn escape(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

async fn list(args: LetterFilterArgs) -> anyhow::Result<()> {
    let filter = Filter { workspace: args.workspace, connection: args.connection, message_id: None };
    let answer = letters(&args.look, &filter).await?;
    if args.look.json {
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
    say(&format!("{} dead letters", answer.get("total").and_then(Value::as_u64).unwrap_or(0)));
    Ok(())
}

async fn show(args: LetterArgs) -> anyhow::Result<()> {
    let filter = Filter { message_id: Some(args.message_id.clone()), ..Filter::default() };
    let answer = letters(&args.look, &filter).await?;
    let letter =
        answer.pointer("/dead_letters/0").ok_or_else(|| anyhow!("there is no dead letter {}", args.message_id))?;
    let text = if args.look.json { letter.to_string() } else { serde_json::to_string_pretty(letter)? };
    say(&text);
    Ok(())
}

async fn change(args: LettersArgs, path: &str) -> anyhow::Result<()> {
    let look = &args.filter.look;
    if !look.nats_url.is_empty() || look.data_dir.is_some() {
        return Err(anyhow!("letters are replayed and dropped by a running install: use --admin-url"));
    }
    let chosen = Chosen {
        workspace: args.filter.workspace.clone(),
        connection: args.filter.connection.clone(),
        message_ids: args.message_ids,
        all: args.all,
    };
    let answer = look::admin(look)?.post(path, &chosen).await?;
    say(&answer.to_string());
    Ok(())
}
