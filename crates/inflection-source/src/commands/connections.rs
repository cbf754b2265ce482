//! `connections`.

use anyhow::Context as _;
use serde_json::Value;

use crate::cli::{ConnectionsAction, ConnectionsArgs};
use crate::commands::look::AdminClient;
use crate::commands::say;
use crate::{End, Failure};

pub(crate) async fn run(args: ConnectionsArgs) -> Result<End, Failure> {
    let ConnectionsAction::List(list) = args.action;
    let answer = AdminClient::new(&list.admin_url, list.admin_key.as_deref())?.get("/v1/connections").await?;
    if list.json {
        say(&answer.to_string());
        return Ok(End::Done);
    }
    let connections = answer.get("connections").and_then(Value::as_array).context("the answer has no connections")?;
    for connection in connections {
        let text = |name: &str| connection.get(name).and_then(Value::as_str).unwrap_or("-").to_owned();
        let pending = connection.get("pending").and_then(Value::as_u64).unwrap_or(0);
        let why = connection.get("why").and_then(Value::as_str).map_or(String::new(), |why| format!("  ({why})"));
        say(&format!(
            "{}/{}  {}  pending {pending}  key {}  {}{why}",
            text("workspace"),
            text("id"),
            text("state"),
            text("write_key"),
            text("endpoint"),
        ));
    }
    Ok(End::Done)
}
