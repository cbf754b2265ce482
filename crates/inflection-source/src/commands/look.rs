//! Looking into an install: through its admin listener, or at the bus itself.

use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use inflection_bus::{Bus, EmbeddedConfig, NatsConfig};
use inflection_delivery::load_progress;
use inflection_domain::{ConnectionId, WorkspaceId};
use inflection_wire::Installation;
use serde_json::Value;

use crate::admin::keys;
use crate::cli::{AdminListenerArgs, BusArgs};

const TIMEOUT: Duration = Duration::from_secs(30);

/// Asks an admin listener.
#[derive(Debug)]
pub(crate) struct AdminClient {
    http: reqwest::Client,
    url: String,
    key: Option<String>,
}

impl AdminClient {
    pub(crate) fn new(url: &str, key: Option<&str>) -> anyhow::Result<Self> {
        let http = reqwest::Client::builder().no_proxy().timeout(TIMEOUT).build()?;
        Ok(Self { http, url: url.trim_end_matches('/').to_owned(), key: key.map(str::to_owned) })
    }

    pub(crate) async fn get(&self, path: &str) -> anyhow::Result<Value> {
        self.ask(self.http.get(format!("{}{path}", self.url))).await
    }

    pub(crate) async fn post(&self, path: &str, body: &impl serde::Serialize) -> anyhow::Result<Value> {
        self.ask(self.http.post(format!("{}{path}", self.url)).json(body)).await
    }

    async fn ask(&self, request: reqwest::RequestBuilder) -> anyhow::Result<Value> {
        let request = match &self.key {
            Some(key) => request.bearer_auth(key),
            None => request,
        };
        let hint = || format!("{} does not answer; is the install running, and is --admin-url right?", self.url);
        let answer = request.send().await.with_context(hint)?;
        let status = answer.status();
        let body: Value = answer.json().await.with_context(|| format!("{} answers {status} without JSON", self.url))?;
        if !status.is_success() {
            let message = body.pointer("/error/message").and_then(Value::as_str).unwrap_or("no message");
            bail!("{} answers {status}: {message}", self.url);
        }
        Ok(body)
    }
}

/// Opens the bus itself, when flags say so.
pub(crate) async fn bus(args: &BusArgs) -> anyhow::Result<Option<Bus>> {
    if !args.nats_url.is_empty() {
        let config = NatsConfig {
            urls: args.nats_url.clone(),
            creds_file: args.nats_creds.clone(),
            name: "inflection-source-look".into(),
            ..NatsConfig::default()
        };
        return Ok(Some(Bus::connect_nats(config).await?));
    }
    match &args.data_dir {
        Some(dir) if !dir.exists() => Err(anyhow!("{} does not exist", dir.display())),
        Some(dir) => {
            let opened = Bus::open_embedded(EmbeddedConfig::new(dir.clone())).await;
            Ok(Some(opened.context("a running install is asked with --admin-url")?))
        }
        None => Ok(None),
    }
}

/// The connections that delivery has books for: without a configuration file, the bus itself knows them.
pub(crate) async fn known_connections(
    bus: &Bus,
    installation: &Installation,
) -> anyhow::Result<Vec<(WorkspaceId, ConnectionId)>> {
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

/// A text as it stands in a path or query. Ids and names have no characters that need it; what a person types may.
pub(crate) fn escape(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

/// The admin listener of a running install.
pub(crate) fn client(args: &AdminListenerArgs) -> anyhow::Result<AdminClient> {
    let key = keys::first(args.admin_key.as_deref(), args.admin_key_file.as_deref())?;
    AdminClient::new(&args.admin_url, key.as_deref())
}
