//! `connections`.

use anyhow::Context as _;
use serde_json::{Value, json};

use crate::cli::{AdminArgs, ConnectionArgs, ConnectionsAction, ConnectionsArgs};
use crate::commands::look::{self, escape};
use crate::commands::say;
use crate::{End, Failure};

pub(crate) async fn run(args: ConnectionsArgs) -> Result<End, Failure> {
    match args.action {
        ConnectionsAction::List(admin) => list(&admin).await?,
        ConnectionsAction::Show(args) => show(&args).await?,
        ConnectionsAction::Pause(args) => tell(&args, "pause", "paused: nothing is sent, everything is kept").await?,
        ConnectionsAction::Resume(args) => tell(&args, "resume", "resumed").await?,
        ConnectionsAction::Test(args) => return test(&args).await,
    }
    Ok(End::Done)
}

/// The path of a connection, or of something to be done with it.
fn path(args: &ConnectionArgs, action: &str) -> String {
    let query = args.workspace.as_ref().map_or(String::new(), |name| format!("?workspace={}", escape(name)));
    format!("/v1/connections/{}{action}{query}", escape(&args.id))
}

async fn list(admin: &AdminArgs) -> anyhow::Result<()> {
    let answer = look::client(&admin.listener)?.get("/v1/connections").await?;
    if admin.json {
        say(&answer.to_string());
        return Ok(());
    }
    let connections = answer.get("connections").and_then(Value::as_array).context("the answer has no connections")?;
    connections.iter().for_each(|connection| say(&line(connection)));
    Ok(())
}

fn line(connection: &Value) -> String {
    let text = |name: &str| connection.get(name).and_then(Value::as_str).unwrap_or("-").to_owned();
    let number = |name: &str| connection.get(name).and_then(Value::as_u64).unwrap_or(0);
    let why = connection.get("why").and_then(Value::as_str).map_or(String::new(), |why| format!("  ({why})"));
    format!(
        "{}/{}  {}  pending {}  parked {}  key {}  {}{why}",
        text("workspace"),
        text("id"),
        text("state"),
        number("pending"),
        number("parked"),
        text("write_key"),
        text("endpoint"),
    )
}

async fn show(args: &ConnectionArgs) -> anyhow::Result<()> {
    let connection = look::client(&args.admin.listener)?.get(&path(args, "")).await?;
    say(&if args.admin.json { connection.to_string() } else { serde_json::to_string_pretty(&connection)? });
    Ok(())
}

async fn tell(args: &ConnectionArgs, action: &str, done: &str) -> anyhow::Result<()> {
    let answer = look::client(&args.admin.listener)?.post(&path(args, &format!("/{action}")), &json!({})).await?;
    say(&if args.admin.json { answer.to_string() } else { format!("{} is {done}", args.id) });
    Ok(())
}

/// Says what was shown and what was not; something that was shown to be wrong is exit code 2.
async fn test(args: &ConnectionArgs) -> Result<End, Failure> {
    let answer = look::client(&args.admin.listener)?.post(&path(args, "/test"), &json!({})).await?;
    let levels = answer.get("levels").and_then(Value::as_array).context("the answer has no levels")?;
    let shown = |level: &Value| level.get("shown").and_then(Value::as_bool);
    if args.admin.json {
        say(&answer.to_string());
    } else {
        for level in levels {
            let text = |name: &str| level.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
            let mark = match shown(level) {
                Some(true) => "yes",
                Some(false) => "NO",
                None => "not known",
            };
            say(&format!("{:<21} {mark:<10} {}", text("name"), text("detail")));
        }
    }
    Ok(if levels.iter().any(|level| shown(level) == Some(false)) { End::Wrong } else { End::Done })
}
