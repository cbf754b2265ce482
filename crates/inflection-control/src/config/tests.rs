//! Files that are read, and files that are refused with every mistake.

use inflection_domain::{ClickPerOpen, Engaged, MachinePolicy, MachineSignal, MachineTiming, Traces};
use inflection_segment::Region;

use super::*;
use crate::{AuthFailure, Binding, Field, IngestKeys, IngestLimits, KeyId, Provider};

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
ingest_limits = { requests_per_second = 7 }
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
warehouse_names = false
expire_after_seconds = 3600
[[workspaces.connections]]
id = "test"
write_key = { value = "wk2" }
endpoint = "http://127.0.0.1:9000"
[[workspaces.webhooks]]
provider = "sendgrid"
token = "0123456789abcdef"
secrets = [{ value = "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEEDr2LjtURuePQzplybdC+u4CwrqDqBaWjcMMsTbhdbcwHBcepxo7yAQGhHPTnlvFYPAZFceEu/1FwCM/QmGUhA==" }]
[[workspaces]]
id = "globex"
"#;

#[test]
fn machines_are_told_from_people_as_the_file_says() {
    let text = r#"
[machine]
agents = ["AcmeScan"]
networks = ["203.0.113.0/24"]
relays = ["198.51.100.0/24", "2001:db8::/32"]
[[workspaces]]
id = "acme"
engagement = { machine_opens = "separate", machine_clicks = "include", machine_timing = "all", click_hold_seconds = 20 }
[[workspaces]]
id = "globex"
"#;
    let config = parse(text).unwrap();
    let [acme, globex] = &config.workspaces[..] else { panic!("two workspaces") };
    assert_eq!((acme.machine.opens, acme.machine.clicks), (MachinePolicy::Separate, MachinePolicy::Include));
    assert_eq!((acme.policy.machine_opens, acme.policy.machine_clicks), (acme.machine.opens, acme.machine.clicks));
    assert_eq!((acme.machine.timing, acme.machine.click_hold_ms), (MachineTiming::All, 20_000));
    assert_eq!((globex.machine.timing, globex.machine.click_hold_ms), (MachineTiming::Providers, 0));
    for workspace in [acme, globex] {
        let judge = |agent, ip: &str| {
            let traces = Traces { user_agent: agent, ip: ip.parse().ok(), ..Traces::default() };
            workspace.machine.known.judge(Engaged::Open, &traces).reason
        };
        assert_eq!(judge(Some("acmescan/1"), "192.0.2.1"), Some("configured_agent"));
        assert_eq!(judge(None, "203.0.113.9"), Some("gateway_network"));
        assert_eq!(judge(Some("Mozilla/5.0"), "2001:db8::1"), Some("apple_mpp"));
        assert_eq!(judge(Some("Mozilla/5.0"), "192.0.2.1"), None);
    }
    let plain = parse("[[workspaces]]\nid = \"a\"").unwrap();
    let traces = Traces { ip: "203.0.113.9".parse().ok(), ..Traces::default() };
    assert_eq!(plain.workspaces[0].machine.known.judge(Engaged::Click, &traces).signal, MachineSignal::None);
}

#[test]
fn mistakes_about_machines_are_named() {
    let text = r#"
[machine]
agents = ["bot"]
networks = ["203.0.113.0/33"]
ips = []
[[workspaces]]
id = "acme"
[workspaces.engagement]
machine_opens = "hide"
click_hold_seconds = 61
machine_timing = "some"
"#;
    let mistakes = parse(text).unwrap_err();
    let lines: Vec<usize> = mistakes.iter().map(|(line, _)| *line).collect();
    assert_eq!(lines, [3, 4, 5, 9, 10, 11], "{mistakes:?}");
    let hold = |timing: &str| {
        let engagement = format!("engagement = {{ machine_timing = \"{timing}\", click_hold_seconds = 1 }}");
        parse(&format!("[[workspaces]]\nid = \"acme\"\n{engagement}\n")).map(|_config| ())
    };
    assert_eq!((hold("providers").is_ok(), hold("all").is_ok()), (true, true));
    assert_eq!(hold("off").unwrap_err().len(), 1, "what is held would be judged by nothing");
}

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
    assert!(!prod.warehouse_names && test.warehouse_names);
    assert_eq!(prod.expire_after, Duration::from_secs(3600));
    assert_eq!(test.rate(), None, "another receiver sets its own ceiling");
    assert_eq!(format!("{:?}", prod.endpoint), "https://events.eu1.segmentapis.com/v1/batch");
    let keys = IngestKeys::of(&config.workspaces);
    for known in ["new", "old"] {
        let (workspace, id) = keys.find(known).unwrap();
        assert_eq!((workspace.as_str(), id), ("acme", KeyId::of(known)));
    }
    assert_ne!(KeyId::of("new"), KeyId::of("old"));
    assert_eq!(keys.find("neither"), None);
    let limits = IngestLimits { requests_per_second: Some(7), events_per_second: None };
    assert_eq!((acme.ingest_limits, config.workspaces[1].ingest_limits), (limits, IngestLimits::default()));
    assert_eq!(config.workspaces[1].id.as_str(), "globex");
}

#[test]
fn what_is_not_said_is_the_default() {
    let text = "[[workspaces]]\nid = \"acme\"\n[[workspaces.connections]]\nid = \"c\"\nwrite_key = { value = \"w\" }";
    let secret = Secret::new("w").unwrap();
    let connection = Connection::new(ConnectionId::new("c").unwrap(), secret, Endpoint::of_region(Region::default()));
    assert_eq!(parse(text).unwrap().workspaces[0].connections, std::slice::from_ref(&connection));
    assert!(connection.gzip && connection.warehouse_names);
    assert_eq!(connection.expire_after.as_secs(), 604_800);
    for seconds in ["0", "31536001", "1.5", "-1"] {
        let mistakes = parse(&format!("{text}\nexpire_after_seconds = {seconds}")).unwrap_err();
        assert_eq!(mistakes.len(), 1, "{seconds}: {mistakes:?}");
        assert_eq!(mistakes[0].0, 6, "{seconds}: {mistakes:?}");
    }
    for seconds in [1, 31_536_000] {
        let config = parse(&format!("{text}\nexpire_after_seconds = {seconds}")).unwrap();
        assert_eq!(config.workspaces[0].connections[0].expire_after.as_secs(), seconds);
    }
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
    for line in [1, 3, 5, 6, 7, 9, 10, 11, 12, 15, 17, 18] {
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

/// SendGrid's own example of a verification key.
const VERIFICATION_KEY: &str = "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEEDr2LjtURuePQzplybdC+u4CwrqDqBaWjcMMsTbhdbcwHBcepxo7yAQGhHPTnlvFYPAZFceEu/1FwCM/QmGUhA==";

const MASTER_KEY: &str = "c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0c0";

/// A text sealed under [`MASTER_KEY`].
fn sealed(binding: &Binding, secret: &str) -> String {
    MasterKey::parse(MASTER_KEY).unwrap().seal(binding, secret).unwrap()
}

fn acme() -> WorkspaceId {
    WorkspaceId::new("acme").unwrap()
}

/// A file whose connection has this sealed write key, on line 6.
fn with_sealed_write_key(installation: &str, connection: &str, sealed: &str) -> String {
    format!(
        "[installation]\n{installation}\n[[workspaces]]\nid = \"acme\"\n[[workspaces.connections]]\n\
         write_key = {{ sealed = \"{sealed}\" }}\nid = \"{connection}\"\n"
    )
}

fn master_key(digits: &str) -> String {
    format!("master_key = {{ value = \"{digits}\" }}")
}

#[test]
fn sealed_secrets_are_opened() {
    let write_key = sealed(&Binding::write_key(&acme(), &ConnectionId::new("prod").unwrap()), "wk");
    let ingest_key = sealed(&Binding::ingest_key(&acme()), "ik");
    let webhook_secret = sealed(&Binding::webhook(&acme()), VERIFICATION_KEY);
    let text = WHOLE
        .replace("[bus]", &format!("{}\n[bus]", master_key(MASTER_KEY)))
        .replace("value = \"wk\"", &format!("sealed = \"{write_key}\""))
        .replace("value = \"new\"", &format!("sealed = \"{ingest_key}\""))
        .replace(&format!("value = \"{VERIFICATION_KEY}\""), &format!("sealed = \"{webhook_secret}\""));
    let config = parse(&text).unwrap();
    assert!(config.installation.master_key.is_some());
    let acme = &config.workspaces[0];
    assert_eq!(acme.connections[0].write_key.expose(), "wk");
    assert_eq!(acme.connections[1].write_key.expose(), "wk2");
    assert_eq!(acme.ingest_keys[1].expose(), "ik");
    assert_eq!(acme.webhooks[0].secrets[0].expose(), VERIFICATION_KEY);
}

#[test]
fn the_master_key_comes_from_a_file() {
    let file = std::env::temp_dir().join(format!("inflection-control-master-key-{}", std::process::id()));
    std::fs::write(&file, format!("{MASTER_KEY}\n")).unwrap();
    let text = format!("[installation]\nmaster_key = {{ file = '{}' }}", file.display());
    let config = parse(&text);
    std::fs::remove_file(&file).unwrap();
    let binding = Binding::ingest_key(&acme());
    let opened = config.unwrap().installation.master_key.unwrap().open(&binding, &sealed(&binding, "ik"));
    assert_eq!(opened.unwrap().expose(), "ik");
}

/// What is said of a file, and on which line.
#[track_caller]
fn check_refused(text: &str, expected: &[(usize, &str)]) {
    let mistakes = parse(text).unwrap_err();
    let found: Vec<(usize, &str)> = mistakes.iter().map(|(line, message)| (*line, message.as_str())).collect();
    assert_eq!(found, expected);
}

#[test]
fn a_sealed_secret_that_cannot_be_opened_is_a_mistake() {
    const FOREIGN: &str = "the sealed secret does not belong here, or the master key is another one";
    let sealed = sealed(&Binding::write_key(&acme(), &ConnectionId::new("prod").unwrap()), "CANARY");
    let right = master_key(MASTER_KEY);
    assert!(parse(&with_sealed_write_key(&right, "prod", &sealed)).is_ok());
    check_refused(&with_sealed_write_key(&right, "test", &sealed), &[(6, FOREIGN)]);
    let other = master_key(&MASTER_KEY.replace("c0", "c1"));
    check_refused(&with_sealed_write_key(&other, "prod", &sealed), &[(6, FOREIGN)]);
    let none = "a sealed secret needs installation.master_key, which is missing";
    check_refused(&with_sealed_write_key("", "prod", &sealed), &[(6, none)]);
    let malformed = parse(&with_sealed_write_key(&right, "prod", "v1.CANARY")).unwrap_err();
    assert_eq!(malformed.len(), 1, "{malformed:?}");
    assert!(!format!("{malformed:?}").contains("CANARY"), "{malformed:?}");
}

#[test]
fn the_master_key_is_read_from_a_file_that_lacks_the_secrets() {
    let file = std::env::temp_dir().join(format!("inflection-control-unsealed-{}", std::process::id()));
    std::fs::write(&file, format!("[installation]\n{}\n[[workspaces]]\nid = 7\nkeys = 1", master_key(MASTER_KEY)))
        .unwrap();
    let key = Config::load_master_key(&file);
    std::fs::write(&file, format!("[installation]\n{}", master_key("c0c0"))).unwrap();
    let wrong = Config::load_master_key(&file);
    std::fs::remove_file(&file).unwrap();
    let binding = Binding::ingest_key(&WorkspaceId::new("acme").unwrap());
    assert!(key.unwrap().unwrap().open(&binding, &sealed(&binding, "ik")).is_ok());
    assert!(wrong.unwrap_err().to_string().contains("line 2: installation.master_key must be 64 hexadecimal digits"));
}

#[test]
fn a_wrong_master_key_is_the_only_mistake() {
    let sealed = sealed(&Binding::write_key(&acme(), &ConnectionId::new("prod").unwrap()), "wk");
    let text = with_sealed_write_key(&master_key("c0c0"), "prod", &sealed);
    check_refused(&text, &[(2, "installation.master_key must be 64 hexadecimal digits")]);
    let text = with_sealed_write_key(&master_key(MASTER_KEY).replace("value", "sealed"), "prod", &sealed);
    check_refused(&text, &[(2, "a key of the installation cannot be sealed")]);
}

#[test]
fn no_debug_output_shows_a_key() {
    let text = format!("[installation]\n{}", master_key(MASTER_KEY));
    let config = parse(&text).unwrap();
    assert!(!format!("{config:?}").contains("c0c0"), "{config:?}");
}

/// A file with one webhook, its table's first line being line 4.
fn webhook(lines: &str) -> String {
    format!("[[workspaces]]\nid = \"acme\"\n[[workspaces.webhooks]]\n{lines}\n")
}

#[test]
fn a_webhook_is_read() {
    let text = webhook(&format!(
        "provider = \"sendgrid\"\ntoken = \"0123456789abcdef\"\nsecrets = [{{ value = \"{VERIFICATION_KEY}\" }}]\n\
         on_auth_failure = \"defer\"\n[workspaces.webhooks.fields]\ncampaign_id = \"cid\"\nperson_id = \"pid\""
    ));
    let hook = parse(&text).unwrap().workspaces.remove(0).webhooks.remove(0);
    assert_eq!((hook.provider, hook.on_auth_failure), (Provider::Sendgrid, AuthFailure::Defer));
    let named = |field| hook.fields.get(&field).map(String::as_str);
    assert_eq!(
        (named(Field::CampaignId), named(Field::PersonId), named(Field::EmailId)),
        (Some("cid"), Some("pid"), None)
    );
}

#[test]
fn every_mistake_of_a_webhook_is_reported() {
    let text = webhook(
        "provider = \"sendgrid\"\ntoken = \"tooshort\"\nsecrets = [{ value = \"SECRET-CANARY\" }]\n\
         on_auth_failure = \"maybe\"\n[workspaces.webhooks.fields]\ncampain_id = \"cid\"",
    );
    let mistakes = parse(&text).unwrap_err();
    let lines: Vec<usize> = mistakes.iter().map(|(line, _)| *line).collect();
    assert_eq!(lines, [3, 5, 7, 9], "{mistakes:#?}");
    assert!(!format!("{mistakes:?}").contains("CANARY"), "{mistakes:?}");
}

#[test]
fn every_provider_says_what_it_needs() {
    let long = "0123456789abcdef0123456789abcdef";
    for (lines, expected) in [
        ("provider = \"ses\"\ntopic_arns = [\"arn:aws:sns:eu-west-1:111122223333:mail\"]", None),
        ("provider = \"ses\"", Some("topic_arns is missing")),
        ("provider = \"ses\"\ntopic_arns = [\"mail\"]", Some("topic_arns are like")),
        (
            "provider = \"ses\"\ntopic_arns = [\"arn:aws:sns:eu-west-1:111122223333:mail\"]\ncertificates = [{ value = \"x\" }]",
            Some("PEM"),
        ),
        ("provider = \"mailgun\"\nsecrets = [{ value = \"a-key-of-sixteen\" }]", None),
        ("provider = \"mailgun\"", Some("secrets is missing")),
        ("provider = \"mailgun\"\nsecrets = []", Some("secrets is empty")),
        (
            "provider = \"mailgun\"\nsecrets = [{ value = \"a-key-of-sixteen\" }]\ntopic_arns = []",
            Some("a setting of ses only"),
        ),
        ("provider = \"mailersend\"\nsecrets = [{ value = \"seven-l\" }]", Some("at least 8")),
        ("provider = \"resend\"\nsecrets = [{ value = \"whsec_AAAAAAAAAAA=\" }]", None),
        ("provider = \"resend\"\nsecrets = [{ value = \"whsec_AAAAAAAA\" }]", Some("at least 8 bytes")),
        (
            "provider = \"brevo\"\nfields = { campaign_id = \"cid\", email_id = \"cid\" }",
            Some("the name of two fields"),
        ),
        ("provider = \"svix\"\nsecrets = [{ value = \"whsec_%\" }]", Some("must be base64")),
        (
            "provider = \"mandrill\"\nsecrets = [{ value = \"a-key-of-sixteen\" }]\nsigned_url = \"https://a.example/\"",
            None,
        ),
        ("provider = \"mandrill\"\nsecrets = [{ value = \"a-key-of-sixteen\" }]", Some("signed_url is missing")),
        (
            "provider = \"mandrill\"\nsecrets = [{ value = \"a-key-of-sixteen\" }]\nsigned_url = \"a.example\"",
            Some("whole address"),
        ),
        ("provider = \"sparkpost\"\ninitial_opens = true", None),
        ("provider = \"brevo\"\ninitial_opens = true", Some("a setting of sparkpost only")),
        ("provider = \"postmark\"", None),
        ("provider = \"mailjet\"\nsecrets = [{ value = \"user:password\" }]", None),
    ] {
        let text = webhook(&format!("token = \"{long}\"\n{lines}"));
        let found = parse(&text).err().map(|mistakes| format!("{mistakes:?}"));
        match (expected, &found) {
            (None, found) => assert_eq!(found, &None, "{lines}"),
            (Some(expected), found) => {
                assert!(found.as_ref().is_some_and(|found| found.contains(expected)), "{lines}: {found:?}");
            }
        }
    }
    // Credentials that are easily guessed add nothing to a token.
    let short = |provider: &str, secret: &str| {
        let text = format!("{provider}\ntoken = \"0123456789abcdef\"\nsecrets = [{{ value = \"{secret}\" }}]");
        parse(&webhook(&text)).err().map(|mistakes| format!("{mistakes:?}"))
    };
    let raw = "provider = \"ses\"\ntopic_arns = [\"arn:aws:sns:eu-west-1:111122223333:mail\"]";
    for provider in ["provider = \"postmark\"", raw] {
        assert_eq!(short(provider, "user:password-16"), None);
        assert!(short(provider, "x").unwrap().contains("at least 32"));
    }
    let lone = parse(&webhook("provider = \"brevo\"\ntoken = \"0123456789abcdef\"")).unwrap_err();
    assert!(lone[0].1.contains("at least 32"), "{lone:?}");
}

#[test]
fn certificates_are_whole() {
    let whole = include_str!("../../../inflection-ingest/fixtures/ses/sns-2021.pem");
    let read = |pem: &str| {
        let text = format!(
            "provider = \"ses\"\ntoken = \"0123456789abcdef\"\ntopic_arns = [\"arn:aws:sns:eu-west-1:111122223333:mail\"]\n\
             certificates = [{{ value = {pem:?} }}]"
        );
        parse(&webhook(&text)).map(|mut config| config.workspaces.remove(0).webhooks.remove(0).certificates.len())
    };
    assert_eq!(read(whole), Ok(1));
    for damaged in
        [whole.get(..whole.len() / 2).unwrap(), "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"]
    {
        assert!(read(damaged).unwrap_err()[0].1.contains("PEM"), "{damaged}");
    }
}
