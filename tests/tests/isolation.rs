//! One connection's outage is nobody else's: the others are as fast as before, and what it held up arrives in order.
//!
//! `INFLECTION_OUTAGE_SECONDS` says how long the outage lasts (default 8).

#![expect(clippy::expect_used, reason = "helpers of checks: a panic is a failed check with its reason")]

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use inflection_sandbox::{Fault, FaultRule};
use inflection_tests::admin::Ledger;
use inflection_tests::announce::announce;
use inflection_tests::arrived::Arrived;
use inflection_tests::checker::{History, Latencies};
use inflection_tests::config::{Connection, Workspace};
use inflection_tests::fact::now_ms;
use inflection_tests::load::{Load, Shape, Target, Until};
use inflection_tests::random::Random;
use inflection_tests::segment::{Segment, status};
use inflection_tests::settings;
use inflection_tests::standalone::Standalone;
use inflection_tests::wait::{SOON, eventually, holds};

/// These checks measure, so they run one at a time.
static MEASURING: Mutex<()> = Mutex::new(());

/// Clients that send at the same time.
const CLIENTS: usize = 2;

/// Requests a second of each.
const REQUESTS_PER_SECOND: u32 = 25;

/// Events before the calm stretch begins: first requests open connections and are slower.
const WARM_EVENTS: usize = 100;

/// How long all is well.
const CALM: Duration = Duration::from_secs(4);

/// How long load goes on when all is well again, so that new calls meet those that were held up.
const AFTERWARDS: Duration = Duration::from_secs(1);

/// Between two looks at the ledger.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// `--park-after-seconds`
const PARK_AFTER_SECONDS: &str = "2";

/// What the others may lose: a fifth, and on so small figures a quarter of a second.
const SLOWER_MS_MAX: i64 = 250;

/// What the connection that suffers shares with the one that must not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Neighbour {
    /// The workspace.
    Connection,
    /// Nothing but the install.
    Workspace,
}

#[test]
fn an_outage_harms_no_other_connection() {
    isolates("outage beside a connection", Neighbour::Connection, status(503, None), "status");
}

#[test]
fn silence_harms_no_other_workspace() {
    // The longest outages have room for more than the client's own time-out.
    let ms = u64::try_from(settings::outage().as_millis()).unwrap_or(u64::MAX) / 8;
    let fault = Fault::Hang { ms: ms.clamp(1_000, 20_000), commit: false };
    isolates("silence beside a workspace", Neighbour::Workspace, fault, "hang");
}

#[test]
fn resets_harm_no_other_connection() {
    isolates("resets beside a connection", Neighbour::Connection, Fault::ResetBeforeCommit, "reset_before_commit");
}

/// An install under steady load.
struct Scene {
    standalone: Standalone,
    loads: Vec<Load>,
    suffering: Connection,
    healthy: Connection,
}

impl Scene {
    fn start(segment: &Segment, neighbour: Neighbour, random: &mut Random) -> Self {
        let mut acme = Workspace::new("acme");
        let workspaces = match neighbour {
            Neighbour::Connection => {
                acme.connections.push(Connection::named("acme-side"));
                vec![acme]
            }
            Neighbour::Workspace => vec![acme, Workspace::new("other")],
        };
        let arguments = ["--park-after-seconds", PARK_AFTER_SECONDS];
        let standalone = Standalone::start_with_arguments(segment, &workspaces, &arguments);
        let mut loads = Vec::new();
        for workspace in &workspaces {
            let target = Target::new(workspace, standalone.ingest(), random.word());
            let (clients, shape) = (CLIENTS / workspaces.len(), Shape::steady(REQUESTS_PER_SECOND));
            loads.push(Load::start_shaped(&target, clients, Until::Told, &shape, random));
        }
        loads.iter().for_each(|load| load.await_more(WARM_EVENTS));
        let mut connections = workspaces.into_iter().flat_map(|workspace| workspace.connections);
        let suffering = connections.next().expect("a first connection");
        let healthy = connections.next().expect("a second connection");
        Self { standalone, loads, suffering, healthy }
    }

    /// Lets the load run for a while. Returns the most calls that were seen parked on the connection that suffers.
    #[track_caller]
    fn watch(&self, time: Duration) -> u64 {
        let (admin, began) = (self.standalone.admin(), Instant::now());
        let (mut parked, mut looks) = (0, 0_u32);
        eventually("the stretch is over", time + SOON, || {
            if began.elapsed() >= LOOK_EVERY * looks {
                looks += 1;
                parked = parked.max(admin.ledger()?.calls(&self.suffering.id)?.parked);
            }
            holds(began.elapsed() >= time, || format!("{:?} of {time:?}", began.elapsed()))
        });
        parked
    }
}

/// What was seen of a whole run.
struct Seen {
    suffering: History,
    healthy: History,
    ledger: Ledger,
    memory_peak_bytes: u64,
}

impl Seen {
    /// Ends the load, waits for rest and takes down what came out.
    #[track_caller]
    fn of(scene: Scene, segment: &Segment) -> Self {
        let Scene { mut standalone, loads, suffering, healthy } = scene;
        loads.iter().for_each(Load::stop);
        let histories: Vec<History> = loads.into_iter().map(Load::join).collect();
        let ledger = standalone.admin().settle();
        let dead = standalone.admin().dead_letters().expect("a list");
        let arrivals = segment.calls();
        let complete = |history: Option<&History>, connection: &Connection| {
            let history = History {
                arrivals: arrivals.clone(),
                dead: dead.clone(),
                balanced: ledger.balanced,
                pending: ledger.pending,
                ..history.expect("a history for each load").clone()
            };
            history.under(connection.write_key())
        };
        // Two connections of one workspace have the same history.
        let suffering = complete(histories.first(), &suffering);
        let healthy = complete(histories.last(), &healthy);
        Self { suffering, healthy, ledger, memory_peak_bytes: standalone.process().memory_peak_bytes() }
    }
}

#[track_caller]
fn isolates(test: &str, neighbour: Neighbour, fault: Fault, suffered: &str) {
    let _alone = MEASURING.lock().unwrap_or_else(PoisonError::into_inner);
    let mut random = Random::announced(test);
    let segment = Segment::start();
    let scene = Scene::start(&segment, neighbour, &mut random);
    let (suffering, healthy) = (scene.suffering.clone(), scene.healthy.clone());

    let calm_ms = now_ms();
    scene.watch(CALM);
    let write_key = Some(suffering.write_key().to_owned());
    segment.set_faults(vec![FaultRule { write_key, ..FaultRule::always(fault) }]);
    let outage_ms = now_ms();
    let parked = scene.watch(settings::outage());
    let state = scene.standalone.admin().connection_state(&healthy.id);
    let over_ms = now_ms();
    segment.clear_faults();
    scene.watch(AFTERWARDS);
    let seen = Seen::of(scene, &segment);

    let calm = seen.healthy.latencies(calm_ms, outage_ms);
    let outage = seen.healthy.latencies(outage_ms, over_ms);
    announce(&format!("healthy connection, calm:   {}", shown(&calm)));
    announce(&format!("healthy connection, outage: {}", shown(&outage)));
    announce(&format!("most parked: {parked}; peak memory: {} MiB", seen.memory_peak_bytes / 1024 / 1024));
    assert!(segment.suffered(suffered) > 0, "no request suffered {suffered}");
    assert!(parked > 0, "nothing was parked: {}", seen.ledger.raw);
    assert_eq!(state.as_deref(), Ok("active"), "the other connection in the outage");
    let limit_ms = (calm.percentile_ms(99) * 12 / 10).max(calm.percentile_ms(99) + SLOWER_MS_MAX);
    assert!(outage.percentile_ms(99) < limit_ms, "{}, {limit_ms} ms are allowed", shown(&outage));

    let books = seen.ledger.calls(&suffering.id).expect("books of the connection");
    assert_eq!((books.parked, books.pending, books.dead), (0, 0, 0), "{books:?}");
    // Within the millisecond in which the outage began something may still have come.
    assert_eq!(came_during(&seen.suffering.arrivals, outage_ms + 1, over_ms), 0, "calls came in the outage");
    seen.healthy.assert_holds();
    seen.suffering.assert_holds();
}

/// How many calls came in that stretch of the wall clock.
fn came_during(calls: &[Arrived], from_ms: i64, to_ms: i64) -> usize {
    calls.iter().filter(|call| (from_ms..to_ms).contains(&call.received_at_ms)).count()
}

fn shown(latencies: &Latencies) -> String {
    let (p50, p99) = (latencies.percentile_ms(50), latencies.percentile_ms(99));
    format!("p50 {p50} ms, p99 {p99} ms of {} events", latencies.count())
}
