//! Configuration files for the installs under test, written the way an operator would.

use std::path::PathBuf;

/// Where a workspace's ingest key stands.
#[derive(Debug, Clone)]
pub enum IngestKey {
    /// In the file itself.
    Value(String),
    /// In a file of its own, re-read when it changes.
    File(PathBuf),
}

/// `[workspaces.engagement]`.
#[derive(Debug, Clone, Default)]
pub struct Engagement {
    /// `implied_open = true`.
    pub implied_open: bool,
    /// `click_per_open = "link"` instead of `"message"`.
    pub click_per_open_link: bool,
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
    pub ingest_keys: Vec<IngestKey>,
    /// Its connections: id and write key.
    pub connections: Vec<(String, String)>,
    /// Its engagement policy.
    pub engagement: Engagement,
    /// Its SendGrid webhook, if any.
    pub sendgrid: Option<Webhook>,
}

impl Workspace {
    /// A workspace `id` with one connection `<id>-prod` and keys made from the id.
    pub fn new(id: &str) -> Self {
        Self {
            id: id.to_owned(),
            ingest_keys: vec![IngestKey::Value(format!("ik_{id}_9d2c4f71a6e84b0e"))],
            connections: vec![(format!("{id}-prod"), format!("wk{id:0>8}7Qm2Zt9LxVb4RkPw3Ns6"))],
            engagement: Engagement::default(),
            sendgrid: None,
        }
    }

    /// Its first ingest key, when it stands in the file.
    pub fn ingest_key(&self) -> &str {
        match self.ingest_keys.first() {
            Some(IngestKey::Value(key)) => key,
            Some(IngestKey::File(_)) | None => panic!("workspace {} keeps its ingest key elsewhere", self.id),
        }
    }

    /// The write key of its first connection.
    pub fn write_key(&self) -> &str {
        &self.connections[0].1
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

fn render_workspace(workspace: &Workspace, endpoint: &str, lines: &mut Vec<String>) {
    let keys: Vec<String> = workspace.ingest_keys.iter().map(render_key).collect();
    lines.push("[[workspaces]]".to_owned());
    lines.push(format!("id = {:?}", workspace.id));
    lines.push(format!("ingest_keys = [{}]", keys.join(", ")));
    lines.push("[workspaces.engagement]".to_owned());
    lines.push(format!("implied_open = {}", workspace.engagement.implied_open));
    let scope = if workspace.engagement.click_per_open_link { "link" } else { "message" };
    lines.push(format!("click_per_open = {scope:?}"));
    for (id, write_key) in &workspace.connections {
        lines.push("[[workspaces.connections]]".to_owned());
        lines.push(format!("id = {id:?}"));
        lines.push(format!("write_key = {{ value = {write_key:?} }}"));
        lines.push(format!("endpoint = {endpoint:?}"));
    }
    if let Some(webhook) = &workspace.sendgrid {
        let secrets: Vec<String> = webhook.secrets.iter().map(|secret| format!("{{ value = {secret:?} }}")).collect();
        lines.push("[[workspaces.webhooks]]".to_owned());
        lines.push("provider = \"sendgrid\"".to_owned());
        lines.push(format!("token = {:?}", webhook.token));
        lines.push(format!("secrets = [{}]", secrets.join(", ")));
    }
    lines.push(String::new());
}

fn render_key(key: &IngestKey) -> String {
    match key {
        IngestKey::Value(value) => format!("{{ value = {value:?} }}"),
        IngestKey::File(path) => format!("{{ file = {:?} }}", path.display().to_string()),
    }
}
