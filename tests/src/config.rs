//! Configuration files for the installs under test, written the way an operator would.

use std::fs;
use std::path::{Path, PathBuf};

/// Where a key stands.
#[derive(Debug, Clone)]
pub enum Key {
    /// In the configuration file itself.
    Value(String),
    /// In a file of its own, re-read when it changes.
    File(PathBuf),
}

impl Key {
    /// The key, when it stands in the configuration file.
    fn value(&self) -> Option<&str> {
        match self {
            Self::Value(key) => Some(key),
            Self::File(_) => None,
        }
    }
}

/// `[[workspaces.connections]]`.
#[derive(Debug, Clone)]
pub struct Connection {
    /// Its id.
    pub id: String,
    /// Its write key.
    pub write_key: Key,
    /// Further lines of its table, as they stand in the file.
    pub lines: Vec<String>,
}

impl Connection {
    /// A connection whose write key stands in the file.
    pub fn new(id: &str, write_key: &str) -> Self {
        Self::keyed(id, Key::Value(write_key.to_owned()))
    }

    /// A connection whose write key is made from its id.
    pub fn named(id: &str) -> Self {
        Self::new(id, &format!("wk{id:0>8}7Qm2Zt9LxVb4RkPw3Ns6"))
    }

    /// A connection whose write key stands anywhere.
    pub fn keyed(id: &str, write_key: Key) -> Self {
        Self { id: id.to_owned(), write_key, lines: Vec::new() }
    }

    /// Adds a line to its table.
    #[must_use]
    pub fn line(mut self, line: &str) -> Self {
        self.lines.push(line.to_owned());
        self
    }

    /// Its write key, when it stands in the file.
    pub fn write_key(&self) -> &str {
        self.write_key.value().unwrap_or_else(|| panic!("connection {} keeps its write key elsewhere", self.id))
    }
}

/// `[workspaces.engagement]`.
#[derive(Debug, Clone, Default)]
pub struct Engagement {
    /// `implied_open = true`.
    pub implied_open: bool,
    /// `click_per_open = "link"` instead of `"message"`.
    pub click_per_open_link: bool,
    /// Further lines of the table, as they stand in the file.
    pub lines: Vec<String>,
}

/// `[[workspaces.webhooks]]`.
#[derive(Debug, Clone)]
pub struct Webhook {
    /// The unguessable end of its path.
    pub token: String,
    /// The provider's public keys, newest first.
    pub secrets: Vec<String>,
}

/// `[[workspaces]]`.
#[derive(Debug, Clone)]
pub struct Workspace {
    /// Its id.
    pub id: String,
    /// Keys its senders may use.
    pub ingest_keys: Vec<Key>,
    /// Its connections.
    pub connections: Vec<Connection>,
    /// Its engagement policy.
    pub engagement: Engagement,
    /// Its SendGrid webhook, if any.
    pub sendgrid: Option<Webhook>,
    /// Further lines of its table, as they stand in the file.
    pub lines: Vec<String>,
    /// Tables of further webhooks, as they stand in the file.
    pub webhooks: Vec<String>,
}

impl Workspace {
    /// A workspace `id` with one connection `<id>-prod` and keys made from the id.
    pub fn new(id: &str) -> Self {
        Self {
            id: id.to_owned(),
            ingest_keys: vec![Key::Value(format!("ik_{id}_9d2c4f71a6e84b0e"))],
            connections: vec![Connection::new(&format!("{id}-prod"), &format!("wk{id:0>8}7Qm2Zt9LxVb4RkPw3Ns6"))],
            engagement: Engagement::default(),
            sendgrid: None,
            lines: Vec::new(),
            webhooks: Vec::new(),
        }
    }

    /// Its first ingest key, when it stands in the file.
    pub fn ingest_key(&self) -> &str {
        let key = self.ingest_keys.first().and_then(Key::value);
        key.unwrap_or_else(|| panic!("workspace {} keeps its ingest key elsewhere", self.id))
    }

    /// The write key of its first connection, when it stands in the file.
    pub fn write_key(&self) -> &str {
        self.connections[0].write_key()
    }
}

/// The file for these workspaces, every connection going to `endpoint`.
pub fn render(workspaces: &[Workspace], endpoint: &str) -> String {
    let mut lines = Vec::new();
    for workspace in workspaces {
        render_workspace(workspace, endpoint, &mut lines);
    }
    lines.join("\n")
}

/// Replaces a file in one step, as Kubernetes and careful operators do: no reader ever sees half of it.
pub fn replace(path: &Path, text: &str) {
    let beside = path.with_extension("new");
    fs::write(&beside, text).expect("a file can be written");
    fs::rename(&beside, path).expect("a file can be replaced");
}

fn render_workspace(workspace: &Workspace, endpoint: &str, lines: &mut Vec<String>) {
    let keys: Vec<String> = workspace.ingest_keys.iter().map(render_key).collect();
    lines.push("[[workspaces]]".to_owned());
    lines.push(format!("id = {:?}", workspace.id));
    lines.push(format!("ingest_keys = [{}]", keys.join(", ")));
    lines.extend(workspace.lines.iter().cloned());
    lines.push("[workspaces.engagement]".to_owned());
    lines.push(format!("implied_open = {}", workspace.engagement.implied_open));
    let scope = if workspace.engagement.click_per_open_link { "link" } else { "message" };
    lines.push(format!("click_per_open = {scope:?}"));
    lines.extend(workspace.engagement.lines.iter().cloned());
    for connection in &workspace.connections {
        lines.push("[[workspaces.connections]]".to_owned());
        lines.push(format!("id = {:?}", connection.id));
        lines.push(format!("write_key = {}", render_key(&connection.write_key)));
        lines.push(format!("endpoint = {endpoint:?}"));
        lines.extend(connection.lines.iter().cloned());
    }
    if let Some(webhook) = &workspace.sendgrid {
        let secrets: Vec<String> = webhook.secrets.iter().map(|secret| format!("{{ value = {secret:?} }}")).collect();
        lines.push("[[workspaces.webhooks]]".to_owned());
        lines.push("provider = \"sendgrid\"".to_owned());
        lines.push(format!("token = {:?}", webhook.token));
        lines.push(format!("secrets = [{}]", secrets.join(", ")));
    }
    for webhook in &workspace.webhooks {
        lines.push("[[workspaces.webhooks]]".to_owned());
        lines.push(webhook.clone());
    }
    lines.push(String::new());
}

fn render_key(key: &Key) -> String {
    match key {
        Key::Value(value) => format!("{{ value = {value:?} }}"),
        Key::File(path) => format!("{{ file = {:?} }}", path.display().to_string()),
    }
}
