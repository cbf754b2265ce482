//! On a cluster of three servers: leaders killed, servers restarted and lost, leaders asked to step down, all under load.
//! Nothing that was acknowledged is lost, order is kept, and what cannot be stored is refused in time, not dropped.
//!
//! `INFLECTION_KILLS` says how often (a third of it here, default 3), `INFLECTION_SEED` which history.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use inflection_tests::admin::Admin;
use inflection_tests::announce::announce;
use inflection_tests::arrived::repeats;
use inflection_tests::binary::{self, Finished};
use inflection_tests::checker::Outcome;
use inflection_tests::cluster::{BUSY_STREAMS, NatsCluster, SERVERS};
use inflection_tests::config::Workspace;
use inflection_tests::fact::{self, Fact, recently_ms};
use inflection_tests::fleet::{Fleet, Stage};
use inflection_tests::http::{Client, Request};
use inflection_tests::install::Install;
use inflection_tests::load::{Load, Shape, Target, Until};
use inflection_tests::nats::NatsServer;
use inflection_tests::random::Random;
use inflection_tests::segment::Segment;
use inflection_tests::settings::kills;
use inflection_tests::wait::{SOON, eventually, holds};

/// Clients that send at the same time, and requests a second of each: work in every moment, and no mountain of it.
const CLIENTS: usize = 4;
const REQUESTS_PER_SECOND: u32 = 25;

/// Events accepted between two blows: at least this many …
const EVENTS_BETWEEN_MIN: usize = 100;

/// … and less than this many more.
const EVENTS_BETWEEN_SPREAD: usize = 300;

/// Most that an answer of ingest may take, whatever befalls the bus: 9 seconds, and a slow machine.
const ANSWERED_MAX: Duration = Duration::from_secs(15);

/// Most that a refusal may take when ingest has noticed already that the bus is away: a second, and a slow machine.
const REFUSED_MAX: Duration = Duration::from_secs(8);

/// What provisioning may take.
const PROVISIONED: Duration = Duration::from_secs(60);

/// Each check starts seven processes: one check at a time.
fn alone() -> MutexGuard<'static, ()> {
    static RUNNING: Mutex<()> = Mutex::new(());
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A fleet on a cluster under load.
struct Scene {
    segment: Segment,
    /// Another workspace, whose events go nowhere: what was refused may be stored all the same.
    silent: Workspace,
    fleet: Fleet,
    load: Load,
    random: Random,
}

impl Scene {
    fn start(test: &str) -> Self {
        let mut random = Random::announced(test);
        let segment = Segment::start();
        let (workspace, mut silent) = (Workspace::new("acme"), Workspace::new("silent"));
        silent.connections.clear();
        let fleet = Fleet::start_on_cluster(&segment, &[workspace.clone(), silent.clone()]);
        let target = Target::new(&workspace, fleet.ingest(), random.word());
        let shape = Shape::steady(REQUESTS_PER_SECOND);
        let load = Load::start_shaped(&target, CLIENTS, Until::Told, &shape, &mut random);
        Self { segment, silent, fleet, load, random }
    }

    /// Waits until the clients have got some more events in: the next blow then falls into the middle of work.
    #[track_caller]
    fn await_progress(&mut self) {
        self.load.await_more(EVENTS_BETWEEN_MIN + self.random.below(EVENTS_BETWEEN_SPREAD));
    }

    /// No stage ends because servers do.
    #[track_caller]
    fn assert_none_ended(&mut self) {
        let ended = self.fleet.supervise();
        assert!(ended.is_empty(), "ended by themselves: {ended:?}\n{}", self.fleet.log_text());
    }

    /// Ends the load, waits for rest, and checks the whole history.
    #[track_caller]
    fn judge(mut self, blows: &str) {
        self.await_progress();
        self.assert_none_ended();
        self.load.stop();
        let history = Install::Fleet(Box::new(self.fleet)).complete(self.load.join(), &self.segment);
        let refused = history.attempts.iter().filter(|attempt| attempt.outcome != Outcome::Ok).count();
        let took = history.attempts.iter().map(|attempt| attempt.ended_ns - attempt.began_ns).max();
        let (took, latencies) = (Duration::from_nanos(took.unwrap_or_default()), history.latencies(0, i64::MAX));
        announce(&format!(
            "{blows}: {} events, {} requests ({refused} without a 200, the longest took {:?}), {} calls arrived, {} of them \
             again; longest without any 200: {:?}; from fact to sink p50 {} ms, p99 {} ms, most {} ms",
            history.facts.len(),
            history.attempts.len(),
            took,
            history.arrivals.len(),
            repeats(&history.arrivals).len(),
            history.longest_silence(),
            latencies.percentile_ms(50),
            latencies.percentile_ms(99),
            latencies.percentile_ms(100),
        ));
        assert!(took < ANSWERED_MAX, "a request had no answer for {took:?}");
        history.assert_holds();
    }
}

/// Kills of this run: a server takes longer to come back than a stage, so there are fewer than elsewhere.
fn blows() -> usize {
    kills().div_ceil(3)
}

/// The server that leads one of the busy streams is killed, each in turn, and now and then a stage with it; the two that are
/// left go on.
#[test]
fn leaders_killed_one_after_the_other_lose_nothing() {
    let _alone = alone();
    let mut scene = Scene::start("cluster: leaders killed");
    for (blow, stream) in (0..blows()).zip(BUSY_STREAMS.iter().cycle()) {
        scene.await_progress();
        let leader = scene.fleet.cluster().leader(stream);
        scene.fleet.cluster().server(leader).kill();
        if blow % 2 == 1 {
            let stage = Stage::ALL[scene.random.below(Stage::ALL.len())];
            announce(&format!("{stage:?} is killed too"));
            scene.fleet.kill(stage);
            scene.fleet.start_again(stage);
        }
        scene.await_progress();
        scene.fleet.cluster().start_again(leader);
    }
    scene.judge(&format!("{} leaders killed", blows()));
}

#[test]
fn a_rolling_restart_under_load_loses_nothing() {
    let _alone = alone();
    let mut scene = Scene::start("cluster: rolling restart");
    for number in 0..SERVERS {
        scene.await_progress();
        scene.fleet.cluster().server(number).terminate();
        scene.fleet.cluster().start_again(number);
    }
    scene.judge("3 servers restarted");
}

#[test]
fn all_goes_on_without_one_server() {
    let _alone = alone();
    let mut scene = Scene::start("cluster: one server lost");
    scene.await_progress();
    let lost = scene.random.below(SERVERS);
    scene.fleet.cluster().server(lost).kill();
    scene.await_progress();
    // Also what starts only now finds its way, though the first address it is given may be the dead server's.
    for stage in Stage::ALL {
        scene.fleet.terminate(stage);
        scene.fleet.start_again(stage);
        scene.await_progress();
    }
    scene.judge("1 server lost for good");
}

/// A server that hangs is worse than one that dies: its clients stay connected to it.
#[test]
fn a_server_that_hangs_is_left_for_another() {
    let _alone = alone();
    let mut scene = Scene::start("cluster: a server hangs");
    for stage in ["ingest", "identity"] {
        scene.await_progress();
        let server = scene.fleet.cluster().server_of(&format!("inflection-source-{stage}"));
        scene.fleet.cluster().server(server).pause();
        scene.await_progress();
        scene.fleet.cluster().resume(server);
    }
    scene.judge("2 servers paused");
}

#[test]
fn leaders_step_down_under_load() {
    let _alone = alone();
    let mut scene = Scene::start("cluster: step-downs");
    let blows = 2 * blows();
    for stream in BUSY_STREAMS.iter().cycle().take(blows) {
        scene.await_progress();
        scene.fleet.cluster().step_down(stream);
    }
    scene.judge(&format!("{blows} step-downs"));
}

/// Without a majority nothing can be stored: that is said at once, by everyone, and never by silence.
#[test]
fn without_a_majority_ingest_refuses_and_what_was_taken_arrives_later() {
    let _alone = alone();
    let mut scene = Scene::start("cluster: two servers lost");
    scene.await_progress();
    let left = scene.random.below(SERVERS);
    let lost: Vec<usize> = (0..SERVERS).filter(|number| *number != left).collect();
    lost.iter().for_each(|number| scene.fleet.cluster().server(*number).kill());

    let key = scene.silent.ingest_key().to_owned();
    let mut client = Client::new(scene.fleet.ingest()).patience(SOON);
    let mut refuse = |what: &str, within: Duration| {
        let fact = Fact::new("email_opened", what, recently_ms()).person(what).mail("mail-1", "run-1");
        let (began, request) = (Instant::now(), Request::json("/v1/events", fact::body(&[fact])).bearer(&key));
        let answer = client.call(&request).expect("ingest answers");
        let took = began.elapsed();
        assert_eq!(answer.status, 503, "{what}: {}", answer.text());
        assert_eq!(answer.error_code().as_deref(), Some("storage_unavailable"));
        let seconds = answer.header("retry-after").and_then(|seconds| seconds.parse::<u64>().ok());
        assert!(seconds.is_some_and(|seconds| seconds > 0), "{:?}", answer.header("retry-after"));
        assert!(took < within, "{what}: answered after {took:?}, allowed {within:?}");
        took
    };
    let took = [refuse("first", ANSWERED_MAX), refuse("second", REFUSED_MAX), refuse("third", REFUSED_MAX)];
    announce(&format!("refused after {took:?}"));
    for stage in Stage::ALL {
        let why = await_unready(scene.fleet.admin(stage));
        assert!(why.contains("leader"), "/readyz of {stage:?} does not say why: {why:?}");
    }

    scene.fleet.cluster().server(lost[0]).start_again();
    scene.await_progress();
    for stage in Stage::ALL {
        let admin = scene.fleet.admin(stage);
        eventually(&format!("{stage:?} is ready again"), SOON, || holds(admin.is_ready(), || "not ready".to_owned()));
    }
    scene.judge("2 servers lost, 1 came back");
}

/// Waits until `/readyz` is not 200; returns what it says.
#[track_caller]
fn await_unready(admin: Admin) -> String {
    eventually("/readyz says not ready", SOON, || {
        let answer = admin.get("/readyz").map_err(|error| error.to_string())?;
        holds(answer.status == 503, || format!("{}: {}", answer.status, answer.text()))?;
        Ok(answer.text())
    })
}

#[test]
fn a_cluster_with_three_replicas_is_durable() {
    let _alone = alone();
    let folder = tempfile::tempdir().expect("a temporary directory");
    let cluster = NatsCluster::start(folder.path());
    let (url, monitor) = (cluster.url(), cluster.monitor_url());
    let provision = |more: &[&str]| {
        let base = ["provision", "--nats-url", &url, "--nats-monitor-url", &monitor];
        binary::run(&[&base, more].concat(), PROVISIONED)
    };
    // One that began small grows: every stream and bucket has its three replicas afterwards.
    let small = provision(&["--replicas", "1", "--allow-degraded"]);
    assert_eq!(small.code, Some(0), "{}", small.output);
    assert!(small.output.contains("DEGRADED"), "{}", small.output);
    for _ in ["grown", "again"] {
        let Finished { code, output, .. } = provision(&["--replicas", "3"]);
        assert_eq!(code, Some(0), "{output}");
        assert!(!output.contains("DEGRADED"), "{output}");
    }
}

#[test]
fn three_replicas_on_one_server_are_refused_with_what_is_missing() {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let server = NatsServer::start(folder.path());
    let refused = binary::run(&["provision", "--nats-url", &server.url(), "--replicas", "3"], PROVISIONED);
    assert_eq!(refused.code, Some(1), "{}", refused.output);
    assert!(refused.output.contains("cluster of three"), "{}", refused.output);
}
