//! One sender's flood is nobody else's: rates of each key, and shares of the memory for what is in hand.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "helpers of checks: a panic is a failed check with its reason"
)]

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use inflection_tests::announce::announce;
use inflection_tests::arrived::{Arrived, first_arrivals};
use inflection_tests::config::{Key, Workspace};
use inflection_tests::fact::{self, Fact, recently_ms};
use inflection_tests::http::{Answer, Client, Request, gzip};
use inflection_tests::install::{Install, Kind};
use inflection_tests::segment::Segment;
use inflection_tests::standalone::Standalone;
use inflection_tests::wait::{SOON, eventually, holds};

/// What the flooding key may send: less than a client of it sends unasked.
const REQUESTS_PER_SECOND: usize = 40;
const EVENTS_PER_SECOND: usize = 600;
/// Clients that send with it, as fast as they get answers.
const FLOODING: usize = 4;
/// Events in a request of theirs.
const EVENTS: usize = 20;
/// Requests of the one that must not notice, and how long the slowest hundredth of them may take.
const CALM_REQUESTS: usize = 300;
const CALM_P99: Duration = Duration::from_secs(1);

fn limited() -> Workspace {
    let mut flood = Workspace::new("flood");
    flood.lines.push(format!(
        "ingest_limits = {{ requests_per_second = {REQUESTS_PER_SECOND}, events_per_second = {EVENTS_PER_SECOND} }}"
    ));
    flood
}

fn deliveries(prefix: &str, from: usize, count: usize) -> Vec<Fact> {
    let at = recently_ms();
    let one = |number: usize| {
        let id = format!("{prefix}-{number}");
        Fact::new("email_delivered", &id, at).mail("mail-1", &id).person(&id)
    };
    (from..from + count).map(one).collect()
}

/// What a flooding client was answered: how many requests were taken, and how many had to wait.
#[derive(Debug, Default)]
struct Flood {
    taken: Vec<String>,
    limited: usize,
}

fn flood(ingest: SocketAddr, key: &str, name: &str, over: &AtomicBool) -> Flood {
    let (mut client, mut seen) = (Client::new(ingest), Flood::default());
    for number in 0.. {
        if over.load(Ordering::Relaxed) {
            break;
        }
        let facts = deliveries(name, number * EVENTS, EVENTS);
        let request = Request::json("/v1/events", fact::body(&facts)).bearer(key);
        let answer = client.call(&request).expect("every request has an answer");
        match answer.status {
            200 => seen.taken.extend((0..EVENTS).map(|one| format!("{name}-{}", number * EVENTS + one))),
            _ => {
                must_wait(&answer);
                seen.limited += 1;
            }
        }
    }
    seen
}

#[track_caller]
fn must_wait(answer: &Answer) {
    assert_eq!((answer.status, answer.error_code().as_deref()), (429, Some("rate_limited")), "{}", answer.text());
    let wait: u64 = answer.header("retry-after").and_then(|text| text.parse().ok()).expect("seconds to wait");
    assert_eq!(wait, 1, "a request of {EVENTS} passes within a second");
}

#[test]
fn a_flood_is_told_to_wait_and_nobody_else_notices_on_standalone() {
    a_flood_is_told_to_wait_and_nobody_else_notices(Kind::Standalone);
}

#[test]
fn a_flood_is_told_to_wait_and_nobody_else_notices_on_a_fleet() {
    a_flood_is_told_to_wait_and_nobody_else_notices(Kind::Fleet);
}

fn a_flood_is_told_to_wait_and_nobody_else_notices(kind: Kind) {
    let segment = Segment::start();
    let (flooding, calm) = (limited(), Workspace::new("calm"));
    let install = Install::start(kind, &segment, &[flooding.clone(), calm.clone()]);
    let (ingest, over) = (install.ingest(), AtomicBool::new(false));
    let began = Instant::now();
    let (mut times, floods) = thread::scope(|scope| {
        let clients: Vec<_> = (0..FLOODING)
            .map(|number| {
                let (key, over) = (flooding.ingest_key(), &over);
                scope.spawn(move || flood(ingest, key, &format!("flood{number}"), over))
            })
            .collect();
        let mut client = Client::new(ingest);
        let times: Vec<Duration> = (0..CALM_REQUESTS)
            .map(|number| {
                let body = fact::body(&deliveries("calm", number, 1));
                let started = Instant::now();
                let answer = client.call(&Request::json("/v1/events", body).bearer(calm.ingest_key()));
                assert_eq!(answer.expect("an answer").status, 200, "the calm one is not limited");
                started.elapsed()
            })
            .collect();
        // Long enough that a budget was used up and filled again.
        eventually("the flood has lasted", SOON, || {
            holds(began.elapsed() > Duration::from_secs(3), || format!("{:?}", began.elapsed()))
        });
        over.store(true, Ordering::Relaxed);
        let floods: Vec<Flood> = clients.into_iter().map(|client| client.join().expect("a flood ends")).collect();
        (times, floods)
    });
    let lasted = began.elapsed();
    times.sort_unstable();
    let p99 = times[CALM_REQUESTS * 99 / 100 - 1];
    let taken: Vec<&String> = floods.iter().flat_map(|flood| &flood.taken).collect();
    let limited: usize = floods.iter().map(|flood| flood.limited).sum();
    let count = taken.len();
    announce(&format!("{count} events of the flood taken in {lasted:?}, {limited} requests waited; calm p99 {p99:?}"));
    assert!(p99 < CALM_P99, "the calm one waits {p99:?}");
    assert!(limited > 0 && !taken.is_empty(), "{limited} waited, {} taken", taken.len());
    let most = EVENTS_PER_SECOND * (usize::try_from(lasted.as_secs()).unwrap_or(usize::MAX) + 2);
    assert!(taken.len() <= most, "{} events in {lasted:?}", taken.len());

    install.settle();
    let arrived = |key: &str| -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for call in first_arrivals(segment.calls()).iter().filter(|call| call.write_key == key) {
            let person = call.anonymous_id().map(str::to_owned).unwrap_or_default();
            *counts.entry(person).or_default() += 1;
        }
        counts
    };
    let expected: BTreeMap<String, usize> = taken.into_iter().map(|id| (id.clone(), 1)).collect();
    eventually("what was taken arrives, each once, and nothing else", SOON, || {
        let came = arrived(flooding.write_key());
        holds(came == expected, || format!("{} of {}", came.len(), expected.len()))
    });
    assert_eq!(arrived(calm.write_key()).len(), CALM_REQUESTS);
}

#[test]
fn each_key_of_a_workspace_has_a_rate_of_its_own() {
    let segment = Segment::start();
    let mut workspace = Workspace::new("flood");
    workspace.lines.push("ingest_limits = { events_per_second = 1 }".to_owned());
    workspace.ingest_keys.push(Key::Value("ik_second_9d2c4f71a6e84b0e".to_owned()));
    let standalone = Standalone::start_with(&segment, &[workspace.clone()]);
    let mut client = Client::new(standalone.ingest());
    let mut send = |key: &str, number: usize, events: usize| {
        let body = fact::body(&deliveries(&format!("own-{number}"), 0, events));
        client.call(&Request::json("/v1/events", body).bearer(key)).expect("an answer")
    };
    assert_eq!(send(workspace.ingest_key(), 0, 300).status, 200, "a full budget lets it through");
    let refused = send(workspace.ingest_key(), 1, 1);
    let wait: u64 = refused.header("retry-after").and_then(|text| text.parse().ok()).expect("seconds to wait");
    assert!(refused.status == 429 && (200..=300).contains(&wait), "what was too much is paid for, in {wait} s");
    assert_eq!(send("ik_second_9d2c4f71a6e84b0e", 2, 300).status, 200, "the other key");
    let limited =
        standalone.admin().metric("inflection_ingest_requests_limited_total{workspace=\"flood\",limit=\"events\"}");
    assert_eq!(limited.as_deref(), Ok("1"));
}

/// Bodies that are announced and do not come hold the room that their workspace may have, and no more.
#[test]
fn who_holds_all_it_may_leaves_room_for_others() {
    const BODY_BYTES: usize = 1024 * 1024;
    const SHARE_BYTES: usize = 48 * BODY_BYTES;
    let segment = Segment::start();
    let (flooding, calm) = (Workspace::new("flood"), Workspace::new("calm"));
    let standalone = Standalone::start_with(&segment, &[flooding.clone(), calm.clone()]);
    let announced = |key: &str| {
        let request = Request::json("/v1/events", "").bearer(key);
        let mut stream = TcpStream::connect(standalone.ingest()).expect("a connection");
        let head = request.header("Content-Length", &BODY_BYTES.to_string()).encode();
        stream.write_all(&head).expect("a head is sent");
        stream
    };
    let mut held: Vec<TcpStream> = (1..SHARE_BYTES / BODY_BYTES).map(|_| announced(flooding.ingest_key())).collect();
    let mut client = Client::new(standalone.ingest());
    // What compressed lines unpack to is not known: room is taken for the 8 MiB that they may.
    let mut send = |key: &str, id: &str| {
        let line = gzip(deliveries(id, 0, 1)[0].value().to_string().as_bytes());
        let request = Request::json("/v1/events", line).bearer(key).with("Content-Type", "application/x-ndjson");
        client.call(&request.header("Content-Encoding", "gzip")).expect("an answer")
    };
    let refused = eventually("its share is used up", SOON, || {
        let answer = send(flooding.ingest_key(), "own");
        if answer.status != 200 {
            return Ok(answer);
        }
        // While that was in hand it may have been in the way of one of the others.
        held.push(announced(flooding.ingest_key()));
        Err("taken".to_owned())
    });
    assert_eq!((refused.status, refused.error_code().as_deref()), (503, Some("overloaded")));
    assert!(refused.header("retry-after").is_some(), "it is told when to send again");
    assert_eq!(send(calm.ingest_key(), "calm").status, 200, "there is room for others");
    drop(held);
    eventually("its room is given back", SOON, || {
        let answer = send(flooding.ingest_key(), "again");
        holds(answer.status == 200, || answer.text())
    });
    eventually("the calm one's event arrives", SOON, || {
        let of_calm = |call: &&Arrived| call.write_key == calm.write_key();
        holds(segment.calls().iter().filter(of_calm).count() == 1, || "not yet".to_owned())
    });
}
