//! Killed again and again under load, the product loses nothing, repeats nothing under another id, and keeps order.
//!
//! `INFLECTION_KILLS` says how often (default 8), `INFLECTION_SEED` which history.

use inflection_tests::config::Workspace;
use inflection_tests::fleet::{Fleet, Stage};
use inflection_tests::install::Install;
use inflection_tests::load::{Load, Target, Until};
use inflection_tests::random::Random;
use inflection_tests::segment::Segment;
use inflection_tests::settings::kills;
use inflection_tests::standalone::{INGEST_KEY, Standalone, WRITE_KEY};
use inflection_tests::wait::{DRAINED, eventually, holds, within};

/// Clients that send at the same time.
const CLIENTS: usize = 4;

/// Between two kills at least this many events are accepted …
const EVENTS_BETWEEN_MIN: usize = 100;

/// … and less than this many more.
const EVENTS_BETWEEN_SPREAD: usize = 900;

#[test]
fn standalone_survives_kills_under_load() {
    let mut random = Random::announced("crash standalone");
    let segment = Segment::start();
    let mut standalone = Standalone::start(&segment);
    let target = Target {
        ingest: standalone.ingest(),
        ingest_key: INGEST_KEY.to_owned(),
        write_key: WRITE_KEY.to_owned(),
        word: random.word(),
    };
    let load = Load::start(&target, CLIENTS, Until::Told, &mut random);
    for _ in 0..kills() {
        await_progress(&load, &mut random);
        standalone.kill();
        standalone.start_again();
    }
    judge(load, &segment, &Install::Standalone(Box::new(standalone)), &mut random);
}

/// What is killed in a fleet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    Stage(Stage),
    Nats,
}

#[test]
fn a_fleet_survives_kills_under_load() {
    let mut random = Random::announced("crash fleet");
    let segment = Segment::start();
    let workspace = Workspace::new("acme");
    let mut fleet = Fleet::start(&segment, std::slice::from_ref(&workspace));
    let target = Target {
        ingest: fleet.ingest(),
        ingest_key: workspace.ingest_key().to_owned(),
        write_key: workspace.write_key().to_owned(),
        word: random.word(),
    };
    let load = Load::start(&target, CLIENTS, Until::Told, &mut random);
    for victim in victims(&mut random) {
        await_progress(&load, &mut random);
        supervise(&mut fleet);
        match victim {
            Victim::Stage(stage) => {
                fleet.kill(stage);
                fleet.start_again(stage);
            }
            Victim::Nats => {
                fleet.nats().kill();
                fleet.nats().start_again();
            }
        }
    }
    supervise(&mut fleet);
    judge(load, &segment, &Install::Fleet(Box::new(fleet)), &mut random);
}

/// Each of the four equally often, in an order the seed decides.
fn victims(random: &mut Random) -> Vec<Victim> {
    let all = Stage::ALL.map(Victim::Stage).into_iter().chain([Victim::Nats]);
    let mut victims: Vec<Victim> = all.cycle().take(kills()).collect();
    for place in (1..victims.len()).rev() {
        victims.swap(place, random.below(place + 1));
    }
    announce(&format!("kills: {victims:?}"));
    victims
}

/// A stage may end by itself when its server dies under it: Kubernetes would start it again.
#[track_caller]
fn supervise(fleet: &mut Fleet) {
    let restarted = fleet.supervise();
    if !restarted.is_empty() {
        announce(&format!("ended by themselves and were started again: {restarted:?}"));
    }
}

/// Waits until the clients have got some more events in: the kill then comes in the middle of work.
#[track_caller]
fn await_progress(load: &Load, random: &mut Random) {
    let enough = load.accepted() + EVENTS_BETWEEN_MIN + random.below(EVENTS_BETWEEN_SPREAD);
    eventually("events are accepted after a kill", DRAINED, || {
        holds(load.accepted() >= enough, || format!("{} of {enough} events accepted", load.accepted()))
    });
}

/// Ends the load, waits for rest, and checks the whole history.
#[track_caller]
fn judge(load: Load, segment: &Segment, install: &Install, random: &mut Random) {
    await_progress(&load, random);
    load.stop();
    let mut history = load.join();
    let ledger = install.settle();
    history.balanced = ledger.balanced;
    history.pending = ledger.pending;
    // The ledger of a stage may be at rest a moment before the stage ahead of it has passed everything on. If
    // something stays away, the checker says what.
    within(DRAINED, || {
        history.arrivals = segment.calls();
        let missing = history.missing().len();
        holds(missing == 0, || format!("{missing} missing"))
    })
    .ok();
    history.dead = install.dead_letters();
    let unknown = history.attempts.iter().filter(|attempt| attempt.outcome != inflection_tests::checker::Outcome::Ok);
    announce(&format!(
        "{} events, {} requests ({} without a 200), {} calls arrived",
        history.facts.len(),
        history.attempts.len(),
        unknown.count(),
        history.arrivals.len()
    ));
    history.assert_holds();
}

#[expect(clippy::print_stdout, reason = "what was done belongs beside the seed")]
fn announce(text: &str) {
    println!("{text}");
}
