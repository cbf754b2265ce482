//! Trying a connection out. Segment answers 200 to unknown keys, so no answer proves that a key is right: what is told
//! here is how far the proof goes, and what a person can do for the rest.

use std::hash::{BuildHasher as _, RandomState};

use inflection_control::Connection;
use inflection_segment::{Client, Kind, batch_body};

use crate::dead_letters::now;

/// Name of the event a person looks for in Segment's debugger.
pub const CHECK_EVENT: &str = "Inflection Connection Test";
/// Characters of a Segment write key (said by Segment's staff, segmentio/analytics-node issues).
const WRITE_KEY_CHARS: usize = 32;

/// One thing that could be shown, or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Level {
    /// Its name: `reachable`, `well_formed`, `known_key`, `confirmed_by_person`, `confirmed_by_api`.
    pub name: &'static str,
    /// Whether it was shown; `None` when it cannot be told from here.
    pub shown: Option<bool>,
    /// How, or why not, in a sentence.
    pub detail: String,
}

/// What a try has shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// The five levels, weakest first.
    pub levels: Vec<Level>,
    /// The code that the test event carries.
    pub code: String,
}

/// Tries a connection: a request that changes nothing, the shape of the key, and one event with a code to look for.
pub(crate) async fn check(client: &Client, settings: &Connection) -> Check {
    let code = format!("{:08x}", RandomState::new().hash_one("code") >> 32);
    let custom = settings.endpoint.is_custom();
    let reachable = match client.probe().await {
        Ok(400) => (true, "the endpoint answers 400 to a request that is no JSON, as it should".to_owned()),
        Ok(status) => (status < 500, format!("the endpoint answers {status} to a request that is no JSON")),
        Err(error) => (false, error.to_string()),
    };
    let key = settings.write_key.expose();
    let plain = key.len() == WRITE_KEY_CHARS && key.bytes().all(|byte| byte.is_ascii_alphanumeric());
    let well_formed = match (plain, custom) {
        (true, _) => (Some(true), "the write key has the shape of one".to_owned()),
        (false, true) => {
            (None, "the write key is not shaped like Segment's; this endpoint may have keys of its own".into())
        }
        (false, false) => {
            let why = format!("a Segment write key has {WRITE_KEY_CHARS} letters and digits: is it cut off?");
            (Some(false), why)
        }
    };
    let sent = match send(client, &code).await {
        Ok(200..=299) => format!(
            "the event {CHECK_EVENT:?} with code {code} was accepted, which Segment also says to unknown keys: look for the code in the source's debugger"
        ),
        Ok(status @ (401 | 403)) => format!("the write key is refused ({status})"),
        Ok(status) => format!("the event {CHECK_EVENT:?} was answered {status}"),
        Err(error) => error,
    };
    let level = |name, (shown, detail): (Option<bool>, String)| Level { name, shown, detail };
    let unasked = |detail: &str| (None, detail.to_owned());
    let levels = vec![
        level("reachable", (Some(reachable.0), reachable.1)),
        level("well_formed", well_formed),
        level("known_key", unasked("Segment documents no way to ask whether a source's write key exists")),
        level("confirmed_by_person", (None, sent)),
        level("confirmed_by_api", unasked("needs a token of Segment's Public API, which is not supported")),
    ];
    Check { levels, code }
}

/// Sends the test event, outside of every lane.
async fn send(client: &Client, code: &str) -> Result<u16, String> {
    let (at, mut item) = (now(), Vec::new());
    let (message_id, timestamp) = (format!("infl_check_{code}_{}", at.as_ms()), at.to_string());
    let call = inflection_segment::Call {
        kind: Kind::Track { event: CHECK_EVENT },
        message_id: &message_id,
        timestamp: &timestamp,
        user_id: None,
        anonymous_id: Some("inflection-connection-test"),
        integrations: "",
    };
    let rendered = call.render(&mut item, |_context| {}, |properties| properties.text("code", code));
    rendered.map_err(|invalid| invalid.to_string())?;
    let body = batch_body([item.as_slice()].into_iter(), &timestamp, false);
    client.send(body, false, 0).await.map(|outcome| outcome.status).map_err(|error| error.to_string())
}
