//! Files that are read, and files that are refused with every mistake.

use super::*;
use crate::IngestKeys;

fn parse(text: &str) -> Result<Config, Vec<(usize, String)>> {
    let options = Options { allow_insecure_endpoint: true };
    Config::parse(text, options)
        .map_err(|mistakes| mistakes.into_iter().map(|mistake| (mistake.line, mistake.message)).collect())
}

const WHOLE: &str = r#"
[installation]
id = "inst-1"
key = { value = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f" }
[bus]
kind = "nats"
urls = ["nats://nats-0:4222"]
[[workspaces]]
id = "acme"
ingest_keys = [{ value = "old" }, { value = "new" }]
engagement = { implied_open = true, click_per_open = "link", machine_opens = "drop" }
[[workspaces.connections]]
id = "prod"
write_key = { value = "wk" }
region = "eu"
naming = "both"
uniqueness = "first-only"
events = ["email_opened", "Link Clicked", "identify"]
events_per_second = 5
email = "sha256"
gzip = false
[[workspaces.connections]]
id = "test"
write_key = { value = "wk2" }
endpoint = "http://127.0.0.1:9000"
[[workspaces.webhooks]]
provider = "sendgrid"
token = "0123456789abcdef"
secrets = [{ value = "s" }]
[[workspaces]]
id = "globex"
"#;

#[test]
fn a_whole_file_is_read() {
    let config = parse(WHOLE).unwrap();
    let acme = &config.workspaces[0];
    assert_eq!(config.installation.id.unwrap().as_str(), "inst-1");
    assert_eq!(config.installation.key.unwrap().expose()[31], 0x1f);
    assert_eq!(config.bus.urls, ["nats://nats-0:4222"]);
    assert_eq!(acme.policy.click_per_open, ClickPerOpen::Link);
    assert_eq!(acme.policy.machine_opens, MachinePolicy::Drop);
    let [prod, test] = &acme.connections[..] else { panic!("two connections") };
    assert_eq!((prod.naming, prod.uniqueness, prod.email), (Naming::Both, Uniqueness::FirstOnly, EmailPolicy::Sha256));
    assert_eq!(prod.rate(), Some(5));
    assert_eq!(prod.calls.as_ref().unwrap().len(), 3);
    assert!(!prod.gzip && test.gzip);
    assert_eq!(test.rate(), None, "another receiver sets its own ceiling");
    assert_eq!(format!("{:?}", prod.endpoint), "https://events.eu1.segmentapis.com/v1/batch");
    let keys = IngestKeys::of(&config.workspaces);
    assert_eq!(keys.find("new").map(WorkspaceId::as_str), Some("acme"));
    assert_eq!(keys.find("old").map(WorkspaceId::as_str), Some("acme"));
    assert_eq!(keys.find("neither"), None);
    assert_eq!(config.workspaces[1].id.as_str(), "globex");
}

#[test]
fn every_mistake_is_reported_with_its_line() {
    let text = r#"typo = 1
[bus]
kind = "kafka"
[[workspaces]]
id = "a b"
ingest_keys = [{ value = "" }, { file = "/does/not/exist" }, { vaule = "x" }]
[[workspaces.connections]]
id = "c"
region = "mars"
events = ["email_opend"]
events_per_second = 0
[[workspaces.connections]]
id = "c"
write_key = { value = "w" }
endpoint = "http://example.com"
[[workspaces.webhooks]]
provider = "pigeon"
token = "short"
"#;
    let mistakes = parse(text).unwrap_err();
    let lines: Vec<usize> = mistakes.iter().map(|(line, _)| *line).collect();
    for line in [1, 3, 5, 6, 7, 9, 10, 11, 12, 15, 16, 17, 18] {
        assert!(lines.contains(&line), "line {line} in {mistakes:#?}");
    }
    assert_eq!(lines.iter().filter(|line| **line == 6).count(), 4, "{mistakes:#?}");
}

#[test]
fn what_is_no_toml_has_a_line_too() {
    let mistakes = parse("[bus]\nkind = \n").unwrap_err();
    assert_eq!(mistakes[0].0, 2);
}

#[test]
fn mistakes_never_show_a_secret() {
    let mistakes = parse("[installation]\nkey = { value = \"SECRET-CANARY\" }").unwrap_err();
    assert!(!format!("{mistakes:?}").contains("CANARY"));
}
