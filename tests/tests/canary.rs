//! Keys and addresses that can be recognised go every way through the product, good and bad: nothing it says or shows
//! may contain them, and the keys are not in its data either.

#![expect(clippy::expect_used, reason = "helpers of checks: a panic is a failed check with its reason")]

use std::fs;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use inflection_sandbox::{Fault, FaultRule};
use inflection_tests::admin::Admin;
use inflection_tests::binary;
use inflection_tests::config::{self, Connection, Key, Workspace};
use inflection_tests::fact::{Fact, recently_ms};
use inflection_tests::http::{Client, Request};
use inflection_tests::random::Random;
use inflection_tests::segment::{Segment, status};
use inflection_tests::sender::Sender;
use inflection_tests::standalone::Standalone;
use inflection_tests::wait::{SOON, eventually, holds};
use serde_json::{Value, json};

const WRITE_KEY: &str = "wkQZCANARYwrite7Lx9Vb4RkPw3Ns6Qm2";
const INGEST_KEY: &str = "ik_QZCANARYingest_5f20c1d8a97b4e36";
const ADMIN_KEY: &str = "ak_QZCANARYadmin_91be77d04c2a4f58";
const ADDRESS: &str = "qzcanary9.ann@leak.example";

/// What of a key may not be seen anywhere: its distinctive part. (The last four characters may.)
const KEY_MARKS: [&str; 3] = ["QZCANARYwrite", "QZCANARYingest", "QZCANARYadmin"];

/// The same of an address.
const ADDRESS_MARK: &str = "qzcanary9";

/// Characters of an encoded key that are distinctive enough.
const ENCODED_CHARS: usize = 20;

/// The one connection.
const CANARY: &str = "canary";

/// A campaign name that Segment is made to refuse.
const POISON: &str = "poisoned campaign";

/// An install whose keys stand in files.
struct Mine {
    segment: Segment,
    standalone: Standalone,
    workspace: Workspace,
    word: String,
    /// Texts the product has given out so far, by name.
    given: Vec<(String, String)>,
}

impl Mine {
    fn start(folder: &Path) -> Self {
        let mut random = Random::announced("canary");
        let (write_key, ingest_key) = (folder.join("write-key"), folder.join("ingest-key"));
        config::replace(&write_key, WRITE_KEY);
        config::replace(&ingest_key, INGEST_KEY);
        let workspace = Workspace {
            ingest_keys: vec![Key::File(ingest_key)],
            connections: vec![Connection::keyed(CANARY, Key::File(write_key))],
            ..Workspace::new("mine")
        };
        let segment = Segment::start();
        let arguments = ["--admin-key", ADMIN_KEY, "--log-level", "debug"];
        let standalone = Standalone::start_with_arguments(&segment, std::slice::from_ref(&workspace), &arguments);
        Self { segment, standalone, workspace, word: random.word(), given: Vec::new() }
    }

    fn admin(&self) -> Admin {
        self.standalone.admin().keyed(ADMIN_KEY)
    }

    fn id(&self, name: &str) -> String {
        format!("e-{}-{name}", self.word)
    }

    fn person(&self, name: &str) -> String {
        format!("p-{}-{name}", self.word)
    }

    /// An event with an address in every place that one can have.
    fn fact(&self, kind: &str, name: &str) -> Fact {
        Fact::new(kind, &self.id(name), recently_ms())
            .person(&self.person(name))
            .email(ADDRESS)
            .mail("mail-1", "run-1")
            .human()
            .with("properties", json!({ "reply_to": ADDRESS }))
    }

    #[track_caller]
    fn take(&self, fact: Fact) {
        Sender::new(self.standalone.ingest(), INGEST_KEY).take(&[fact]);
    }

    /// Good calls.
    fn good_calls(&self) {
        self.take(self.fact("email_delivered", "good"));
        self.take(self.fact("email_opened", "opened").user("u-1"));
        self.take(self.fact("link_clicked", "clicked").with("email_link_url", "https://shop.example/a"));
        let identify = Fact::new("identify", &self.id("identify"), recently_ms()).person(&self.person("good"));
        self.take(identify.user("u-2").email(ADDRESS).with("traits", json!({ "email": ADDRESS })));
        self.admin().settle();
    }

    /// Calls that Segment refuses by themselves; returns a letter's messageId.
    fn refused_calls(&self) -> String {
        self.segment.set_faults(vec![FaultRule::always(Fault::RejectItem { contains: POISON.to_owned() })]);
        self.take(self.fact("email_delivered", "refused").with("campaign_name", POISON));
        let id = eventually("the refused call is listed", SOON, || {
            let letters = self.admin().dead_letters()?;
            letters.first().map(|letter| letter.message_id.clone()).ok_or_else(|| "no letter".to_owned())
        });
        self.segment.clear_faults();
        id
    }

    /// A write key that is refused for a while.
    fn refused_key(&self) {
        self.segment.set_faults(vec![FaultRule::always(status(401, None))]);
        self.take(self.fact("email_delivered", "unauthorized"));
        self.admin().await_state(CANARY, "paused_auth");
        self.segment.clear_faults();
        self.admin().tell(CANARY, "resume");
        self.admin().await_state(CANARY, "active");
        self.admin().settle();
    }

    /// Configuration files with keys in the wrong places.
    fn invalid_files(&self) {
        let connection = "[[workspaces.connections]]\nid = \"canary\"\n";
        for wrong in [
            format!("[[workspaces]]\nid = \"mine\"\ningest_keys = [\"{INGEST_KEY}\"]\n"),
            format!("[[workspaces]]\nid = \"mine\"\n{connection}write_key = \"{WRITE_KEY}\"\n"),
            format!("[[workspaces]]\nid = \"mine\"\n{connection}write_key = {{ value = \"{WRITE_KEY} }}\n"),
            format!("[[workspaces]]\nid = \"mine\"\n{connection}write_key = {{ key = \"{WRITE_KEY}\" }}\n"),
        ] {
            let warnings = || self.standalone.log_text().lines().filter(|line| line.contains("WARN")).count();
            let before = warnings();
            self.standalone.replace_config(&wrong);
            eventually("the mistake is logged", SOON, || {
                holds(warnings() > before, || format!("no warning after\n{wrong}"))
            });
        }
        self.standalone.reconfigure(&self.segment, std::slice::from_ref(&self.workspace));
    }

    /// Requests that are wrong in some way; notes the answers.
    fn bad_requests(&mut self) {
        let good = Request::json("/v1/events", self.fact("email_delivered", "bad").value().to_string());
        let event = |name: &str, value: &str| self.fact("email_delivered", "bad").with(name, value).value().to_string();
        let requests = [
            ("no key", good.clone()),
            ("a longer key", good.clone().bearer(&format!("{INGEST_KEY}x"))),
            ("the write key", good.clone().bearer(WRITE_KEY)),
            ("the admin key", good.clone().basic(ADMIN_KEY)),
            ("no JSON", good.clone().bearer(INGEST_KEY).body(format!("{{\"email\":\"{ADDRESS}\""))),
            ("a wrong type", good.clone().bearer(INGEST_KEY).body(event("type", ADDRESS))),
            ("a wrong time", good.clone().bearer(INGEST_KEY).body(event("timestamp", ADDRESS))),
            ("a wrong address", good.clone().bearer(INGEST_KEY).body(event("email", "qzcanary9 at leak"))),
            ("an unknown field", good.clone().bearer(INGEST_KEY).body(event("colour", ADDRESS))),
            ("a key in the path", good.bearer(INGEST_KEY).path(&format!("/v1/nothing/{INGEST_KEY}?key={WRITE_KEY}"))),
        ];
        for (name, request) in requests {
            let answer = Client::new(self.standalone.ingest()).call(&request).expect("an answer");
            self.given.push((format!("the answer to {name}"), answer.text()));
        }
        let (keyless, stranger) = (self.standalone.admin(), self.standalone.admin().keyed(WRITE_KEY));
        for (name, answer) in [
            ("no admin key", keyless.get("/v1/connections")),
            ("a wrong admin key", stranger.get("/v1/connections")),
            ("an unknown connection", self.admin().get("/v1/connections/nobody")),
            ("a wrong time filter", self.admin().get(&format!("/v1/dead-letters?since={ADDRESS}"))),
            ("a wrong choice", self.admin().post("/v1/dead-letters/replay", &json!({ "since": ADDRESS }))),
        ] {
            let answer = answer.expect("an answer");
            assert!(answer.status >= 400, "{name}: {}", answer.status);
            self.given.push((format!("the answer to {name}"), answer.text()));
        }
    }

    /// Notes everything that can be looked at.
    fn look(&mut self, letter: &str) {
        let message_id = self.segment.calls().first().map(|call| call.message_id.clone()).expect("a call");
        let paths = [
            "/metrics".to_owned(),
            "/version".to_owned(),
            "/readyz".to_owned(),
            "/v1/ledger".to_owned(),
            "/v1/connections".to_owned(),
            format!("/v1/connections/{CANARY}"),
            "/v1/dead-letters".to_owned(),
            format!("/v1/dead-letters?messageId={letter}"),
            format!("/v1/explain/{}", self.id("good")),
            format!("/v1/explain/{}", self.id("refused")),
            format!("/v1/explain/{}", self.person("good")),
            format!("/v1/explain/{message_id}"),
        ];
        for path in paths {
            let answer = self.admin().get(&path).expect("an answer");
            assert_eq!(answer.status, 200, "GET {path}: {}", answer.text());
            self.given.push((format!("GET {path}"), answer.text()));
        }
        let test = self.admin().order(&format!("/v1/connections/{CANARY}/test")).expect("an answer");
        self.given.push(("a test of the connection".to_owned(), test.text()));
        let (url, id) = (self.admin().url(), self.id("good"));
        let commands: [&[&str]; 6] = [
            &["connections", "list"],
            &["connections", "show", CANARY],
            &["dead-letters", "list"],
            &["dead-letters", "show", letter],
            &["ledger"],
            &["explain", id.as_str()],
        ];
        for command in commands {
            let access = ["--admin-url", url.as_str(), "--admin-key", ADMIN_KEY];
            let finished = binary::ask(&[command, &access[..]].concat());
            self.given.push((format!("{command:?}"), finished.output));
        }
    }
}

/// What may be seen nowhere: parts of the keys as they are, and as they travel in a Basic header.
fn key_marks() -> Vec<String> {
    let encoded = [WRITE_KEY, INGEST_KEY, ADMIN_KEY].map(|key| STANDARD.encode(format!("{key}:")));
    let encoded = encoded.iter().map(|text| text.chars().take(ENCODED_CHARS).collect::<String>());
    KEY_MARKS.iter().map(|mark| (*mark).to_owned()).chain(encoded).collect()
}

/// Every file below a directory.
fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("a directory can be read") {
        let path = entry.expect("an entry can be read").path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push((path.display().to_string(), fs::read(&path).expect("a file can be read")));
        }
    }
    found
}

#[test]
fn nothing_shows_a_key_or_an_address() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let mut mine = Mine::start(folder.path());
    mine.good_calls();
    let letter = mine.refused_calls();
    mine.refused_key();
    mine.invalid_files();
    mine.bad_requests();
    mine.look(&letter);
    // The canaries are really in there.
    let arrived = mine.segment.calls();
    assert!(arrived.iter().all(|call| call.write_key == WRITE_KEY), "another key was used");
    let addressed = arrived.iter().filter(|call| call.property("userId") == Some(ADDRESS)).count();
    assert!(addressed > 0, "no call carries the address");
    let whole = mine.admin().dead_letters_where(&[("messageId", letter.as_str())]).expect("a list");
    let masked = whole.first().and_then(|letter| letter.raw.get("item")).map(Value::to_string);
    assert!(masked.is_some_and(|item| item.contains("@leak.example")), "the letter is shown with its address masked");

    let status = mine.standalone.terminate();
    assert!(status.success(), "ended with {status} after SIGTERM");
    mine.given.push(("the log".to_owned(), mine.standalone.log_text()));
    let keys = key_marks();
    for (name, text) in &mine.given {
        for mark in keys.iter().map(String::as_str).chain([ADDRESS_MARK]) {
            let line = text.lines().find(|line| line.contains(mark));
            assert_eq!(line, None, "{name} shows {mark}");
        }
    }
    // Addresses are data; keys are not.
    let files = files(&mine.standalone.data_dir());
    assert!(!files.is_empty(), "there is no data");
    for (name, bytes) in files {
        let text = String::from_utf8_lossy(&bytes);
        let mark = keys.iter().find(|mark| text.contains(mark.as_str()));
        assert_eq!(mark, None, "{name} holds a key");
    }
}
