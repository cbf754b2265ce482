//! Workers of a stage come, leave, die and sleep: partitions find another worker in time, nothing is lost or put out of
//! order, and more workers deliver more.
//!
//! `INFLECTION_KILLS` says how often workers are disturbed (default 8), `INFLECTION_SEED` which history.

#![expect(clippy::expect_used, reason = "helpers of checks: a panic is a failed check with its reason")]

use std::slice::from_ref;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use inflection_sandbox::{Fault, FaultRule};
use inflection_tests::admin::Admin;
use inflection_tests::announce::announce;
use inflection_tests::arrived::{Arrived, first_arrivals, repeats};
use inflection_tests::checker::Latencies;
use inflection_tests::config::Workspace;
use inflection_tests::fact::{Fact, now_ms, recently_ms};
use inflection_tests::fleet::{Fleet, Stage};
use inflection_tests::install::{Install, Stop};
use inflection_tests::load::{Load, Shape, Target, Until};
use inflection_tests::random::Random;
use inflection_tests::segment::Segment;
use inflection_tests::sender::Sender;
use inflection_tests::settings::kills;
use inflection_tests::wait::{DRAINED, await_moment, eventually, holds};
use serde_json::Value;

/// Stages whose workers share partitions.
const SHARING: [Stage; 2] = [Stage::Identity, Stage::Delivery];

/// Clients that send at the same time, and requests a second of each.
const CLIENTS: usize = 2;
const REQUESTS_PER_SECOND: u32 = 25;

/// Events that are enough to have something going on in every partition.
const SOME_EVENTS: usize = 200;

/// The promise after SIGTERM is 3 seconds for the hand-over; the rest is the way of the event itself.
const TERMINATED_MS_MAX: i64 = 4_000;

/// The promise after SIGKILL.
const KILLED_MS_MAX: i64 = 15_000;

/// What was sent so long before a worker left may still have been on its way through it.
const BEFORE_MS: i64 = 1_000;

/// These checks measure, and need all of the machine, so they run one at a time.
fn alone() -> MutexGuard<'static, ()> {
    static MEASURING: Mutex<()> = Mutex::new(());
    MEASURING.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn partitions_spread_within_one_of_even() {
    let _alone = alone();
    let segment = Segment::start();
    let mut fleet = Fleet::start(&segment, &[Workspace::new("acme")]);
    assert_eq!(fleet.await_even(Stage::Delivery), [16]);
    fleet.add(Stage::Delivery, &[]);
    fleet.add(Stage::Delivery, &[]);
    assert_eq!(fleet.await_even(Stage::Delivery), [5, 5, 6]);
    fleet.worker(Stage::Delivery, 1).terminate();
    assert_eq!(fleet.await_even(Stage::Delivery), [8, 8]);
}

#[test]
fn a_worker_that_is_told_to_leave_hands_over_within_3_seconds() {
    let arrivals = hands_over("hand-over after SIGTERM", Stop::Terminate, TERMINATED_MS_MAX);
    // Nobody died: whoever came or left had finished what it had in hand, and had stored that.
    let repeats = repeats(&arrivals);
    assert!(repeats.is_empty(), "{} calls came again, the first is {:?}", repeats.len(), repeats.first());
}

#[test]
fn a_killed_worker_is_replaced_within_15_seconds() {
    hands_over("hand-over after SIGKILL", Stop::Kill, KILLED_MS_MAX);
}

/// Under steady load one of two workers of each stage leaves: how long did events take that were sent from then on?
/// Returns what arrived.
#[track_caller]
fn hands_over(test: &str, stop: Stop, limit_ms: i64) -> Vec<Arrived> {
    let _alone = alone();
    let mut random = Random::announced(test);
    let segment = Segment::start();
    let workspace = Workspace::new("acme");
    let mut fleet = Fleet::start(&segment, from_ref(&workspace));
    SHARING.into_iter().for_each(|stage| fleet.add(stage, &[]));
    for stage in SHARING {
        fleet.await_even(stage);
    }
    let target = Target::new(&workspace, fleet.ingest(), random.word());
    let shape = Shape::steady(REQUESTS_PER_SECOND);
    let load = Load::start_shaped(&target, CLIENTS, Until::Told, &shape, &mut random);
    load.await_more(SOME_EVENTS);
    let mut moments = Vec::new();
    for stage in SHARING {
        moments.push((stage, now_ms()));
        let leaver = fleet.worker(stage, 1);
        match stop {
            Stop::Terminate => leaver.terminate(),
            Stop::Kill => leaver.kill(),
        }
        fleet.await_even(stage);
        load.await_more(SOME_EVENTS);
    }
    load.stop();
    let history = Install::Fleet(Box::new(fleet)).complete(load.join(), &segment);

    let ends = moments.iter().skip(1).map(|(_, at_ms)| at_ms - BEFORE_MS).chain([now_ms()]);
    for ((stage, at_ms), end_ms) in moments.iter().zip(ends) {
        let latencies = history.latencies(at_ms - BEFORE_MS, end_ms);
        announce(&format!("a worker of {stage:?} left: {}", shown(&latencies)));
        assert!(latencies.percentile_ms(100) < limit_ms, "{stage:?}: {}, allowed: {limit_ms} ms", shown(&latencies));
    }
    history.assert_holds();
    history.arrivals
}

fn shown(latencies: &Latencies) -> String {
    let [p50, p99, most] = [50, 99, 100].map(|percent| latencies.percentile_ms(percent));
    format!("p50 {p50} ms, p99 {p99} ms, most {most} ms of {} events", latencies.count())
}

/// Longer than the time without a sign of life after which a worker counts as dead.
const SLEEP: Duration = Duration::from_secs(8);

/// Of so many blows the first puts a worker to sleep.
const BLOWS_A_SLEEP: usize = 4;

/// Load in the storm: enough that every blow falls into work, few enough that a sleep leaves no mountain behind.
const STORM_CLIENTS: usize = 4;
const STORM_REQUESTS_PER_SECOND: u32 = 30;

/// Between two blows at least this many events are accepted …
const EVENTS_BETWEEN_MIN: usize = 100;

/// … and less than this many more.
const EVENTS_BETWEEN_SPREAD: usize = 400;

#[test]
fn workers_come_and_go_under_load() {
    let _alone = alone();
    let mut random = Random::announced("workers come and go");
    let segment = Segment::start();
    let workspace = Workspace::new("acme");
    let mut fleet = Fleet::start(&segment, from_ref(&workspace));
    let target = Target::new(&workspace, fleet.ingest(), random.word());
    let shape = Shape::steady(STORM_REQUESTS_PER_SECOND);
    let load = Load::start_shaped(&target, STORM_CLIENTS, Until::Told, &shape, &mut random);
    for stage in [Stage::Delivery, Stage::Identity, Stage::Delivery] {
        await_progress(&load, &mut random);
        fleet.add(stage, &[]);
    }
    let mut storm = Storm { fleet, asleep: None };
    for blow in blows(&mut random) {
        await_progress(&load, &mut random);
        storm.strike(blow, &mut random);
    }
    let mut fleet = storm.over();
    for stage in SHARING {
        fleet.await_even(stage);
    }
    await_progress(&load, &mut random);
    load.stop();
    let history = Install::Fleet(Box::new(fleet)).complete(load.join(), &segment);
    announce(&format!(
        "{} events, {} calls arrived, {} of them again",
        history.facts.len(),
        history.arrivals.len(),
        repeats(&history.arrivals).len()
    ));
    history.assert_holds();
}

/// Waits until the clients have got some more events in: the blow then comes in the middle of work.
#[track_caller]
fn await_progress(load: &Load, random: &mut Random) {
    load.await_more(EVENTS_BETWEEN_MIN + random.below(EVENTS_BETWEEN_SPREAD));
}

/// What befalls a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Blow {
    /// SIGKILL, and a new start.
    Kill,
    /// SIGTERM, and a new start.
    Terminate,
    /// SIGSTOP, and SIGCONT when others have long taken over; to a worker of this stage. Other blows fall meanwhile.
    Sleep(Stage),
}

/// Blows in an order the seed decides; sleeps come at even distances, to each stage in turn.
fn blows(random: &mut Random) -> Vec<Blow> {
    let mut blow = |number: usize| match (number % BLOWS_A_SLEEP, random.below(2)) {
        (0, _) if (number / BLOWS_A_SLEEP).is_multiple_of(2) => Blow::Sleep(Stage::Delivery),
        (0, _) => Blow::Sleep(Stage::Identity),
        (_, 0) => Blow::Kill,
        (_, _) => Blow::Terminate,
    };
    (0..kills()).map(&mut blow).collect()
}

/// A worker: its stage, and its number in it.
type Place = (Stage, usize);

/// All workers that share partitions.
const PLACES: [Place; 5] =
    [(Stage::Identity, 0), (Stage::Identity, 1), (Stage::Delivery, 0), (Stage::Delivery, 1), (Stage::Delivery, 2)];

/// A fleet under blows.
struct Storm {
    fleet: Fleet,
    /// Who sleeps, and until when.
    asleep: Option<(Place, Instant)>,
}

impl Storm {
    #[track_caller]
    fn strike(&mut self, blow: Blow, random: &mut Random) {
        let due = self.asleep.is_some_and(|(_, until)| Instant::now() >= until);
        // One sleeps at a time.
        if due || matches!(blow, Blow::Sleep(_)) {
            self.wake();
        }
        self.supervise();
        let (stage, number) = self.victim(blow, random);
        announce(&format!("{blow:?}: worker {number} of {stage:?}"));
        let worker = self.fleet.worker(stage, number);
        match blow {
            Blow::Kill => {
                worker.kill();
                worker.start_again();
            }
            Blow::Terminate => {
                worker.terminate();
                worker.start_again();
            }
            Blow::Sleep(_) => {
                worker.pause();
                self.asleep = Some(((stage, number), Instant::now() + SLEEP));
            }
        }
    }

    /// Somebody who is awake, and is not alone with that in the stage.
    fn victim(&self, blow: Blow, random: &mut Random) -> Place {
        let asleep = self.asleep.map(|(place, _)| place);
        let awake = |place: &Place| Some(*place) != asleep;
        let fits = |place: &Place| {
            let (stage, _) = *place;
            let others = PLACES.iter().filter(|other| other.0 == stage && *other != place && awake(other)).count();
            let meant = match blow {
                Blow::Kill | Blow::Terminate => true,
                Blow::Sleep(wanted) => stage == wanted,
            };
            meant && others > 0 && awake(place)
        };
        let places: Vec<Place> = PLACES.into_iter().filter(fits).collect();
        places.get(random.below(places.len())).copied().expect("delivery has three workers, one of them asleep at most")
    }

    /// Lets the sleeper sleep its time, and wakes it.
    fn wake(&mut self) {
        if let Some(((stage, number), until)) = self.asleep.take() {
            await_moment(until);
            self.fleet.worker(stage, number).resume();
        }
    }

    /// A worker that wakes up dispossessed may end by itself: Kubernetes would start it again.
    #[track_caller]
    fn supervise(&mut self) {
        let restarted = self.fleet.supervise();
        if !restarted.is_empty() {
            announce(&format!("ended by themselves and were started again: {restarted:?}"));
        }
    }

    /// Everybody is awake and at work.
    #[track_caller]
    fn over(mut self) -> Fleet {
        self.wake();
        self.supervise();
        self.fleet
    }
}

/// How late Segment answers: long beside what a request costs in work, so that its latency is the limit.
const ANSWER_MS: u64 = 300;

/// Events of a backlog, each of another person and good for one call, in requests of so many.
const BACKLOG: usize = 15_000;
const A_REQUEST: usize = 1_000;

/// Requests that one worker alone needs for it at least.
const REQUESTS_MIN: usize = 20;

/// What four workers must reach: so many tenths of what one does.
const TENTHS_MIN: i64 = 35;

/// The connection that delivers.
const PROD: &str = "acme-prod";

/// Names of workers. They and the names of the persons decide who gets how many calls: of the second backlog nobody
/// gets more than 3,868, which are 8 requests.
const NAMES: [&str; 4] = ["delivery-0", "delivery-1", "delivery-2", "delivery-3"];

#[test]
fn more_delivery_workers_deliver_more() {
    let _alone = alone();
    let segment = Segment::start();
    segment.set_faults(vec![FaultRule::always(Fault::Slow { ms: ANSWER_MS })]);
    let workspace = Workspace::new("acme");
    let [first, others @ ..] = NAMES;
    let mut fleet = Fleet::start_with(&segment, from_ref(&workspace), &one_at_a_time(first));
    let one = drain(&mut fleet, &segment, &workspace, "one");
    for name in others {
        fleet.add(Stage::Delivery, &one_at_a_time(name));
    }
    fleet.await_even(Stage::Delivery);
    let four = drain(&mut fleet, &segment, &workspace, "four");
    announce(&format!("one worker: {one:?}, four workers: {four:?}"));
    assert!(one.requests >= REQUESTS_MIN, "too few requests to measure: {one:?}");
    assert!(one.took_ms * 10 >= four.took_ms * TENTHS_MIN, "one worker: {one:?}, four workers: {four:?}");
    let arrived = first_arrivals(segment.calls()).len();
    assert_eq!(arrived, 2 * BACKLOG, "everything has arrived");
}

/// Arguments of a worker of that name that has one request under way, and parks nothing.
fn one_at_a_time(name: &str) -> [&str; 8] {
    ["--worker-id", name, "--in-flight-max", "1", "--linger-ms", "0", "--park-after-seconds", "600"]
}

/// How a backlog has arrived.
#[derive(Debug, Clone, Copy)]
struct Drained {
    /// From the resume to the last arrival.
    took_ms: i64,
    requests: usize,
}

/// Lets a backlog grow before the paused connection, until its workers have it all in memory; then lets it go.
#[track_caller]
fn drain(fleet: &mut Fleet, segment: &Segment, workspace: &Workspace, word: &str) -> Drained {
    let admin = fleet.admin(Stage::Delivery);
    admin.tell(PROD, "pause");
    fleet.workers(Stage::Delivery).for_each(|worker| worker.admin().await_state(PROD, "paused"));
    let before = segment.requests().len();
    let mut sender = Sender::new(fleet.ingest(), workspace.ingest_key());
    for start in (0..BACKLOG).step_by(A_REQUEST) {
        sender.take(&delivered(word, start..start + A_REQUEST));
    }
    eventually("the backlog waits in memory", DRAINED, || {
        let waiting: Result<Vec<usize>, String> =
            fleet.workers(Stage::Delivery).map(|worker| waiting(worker.admin())).collect();
        let waiting = waiting?;
        holds(waiting.iter().sum::<usize>() == BACKLOG, || format!("{waiting:?} calls of {BACKLOG}"))
    });
    let resumed_ms = now_ms();
    admin.tell(PROD, "resume");
    let requests = eventually("the backlog arrives", DRAINED, || {
        let requests = segment.requests().split_off(before);
        let calls: usize = requests.iter().map(|request| request.items).sum();
        holds(calls >= BACKLOG, || format!("{calls} calls of {BACKLOG}"))?;
        Ok(requests)
    });
    let last_ms = requests.iter().map(|request| request.at_ms).max().expect("a backlog takes requests");
    Drained { took_ms: last_ms - resumed_ms, requests: requests.len() }
}

/// Calls that a worker has in memory.
fn waiting(admin: Admin) -> Result<usize, String> {
    let shown = admin.json(&format!("/v1/connections/{PROD}"))?;
    let pending = shown.get("pending").and_then(Value::as_u64).and_then(|calls| usize::try_from(calls).ok());
    pending.ok_or_else(|| format!("no `pending` in {shown}"))
}

fn delivered(word: &str, numbers: std::ops::Range<usize>) -> Vec<Fact> {
    let at_ms = recently_ms();
    let fact = |number| {
        Fact::new("email_delivered", &format!("e-{word}-{number}"), at_ms)
            .person(&format!("p-{word}-{number}"))
            .mail("mail-1", "run-1")
    };
    numbers.map(fact).collect()
}
