//! Killed again and again under load, the product loses nothing, repeats nothing under another id, and keeps order.
//!
//! `INFLECTION_KILLS` says how often (default 8), `INFLECTION_SEED` which history.

use inflection_sandbox::FaultRule;
use inflection_tests::admin::Admin;
use inflection_tests::announce::announce;
use inflection_tests::checker::Outcome;
use inflection_tests::config::Workspace;
use inflection_tests::fleet::{Fleet, Stage};
use inflection_tests::install::Install;
use inflection_tests::load::{Load, Target, Until};
use inflection_tests::random::Random;
use inflection_tests::segment::{Segment, status};
use inflection_tests::settings::kills;
use inflection_tests::standalone::{CONNECTION, Standalone};
use inflection_tests::wait::{SOON, eventually, holds};

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
    let load = Load::start(&Target::of_flags(&standalone, random.word()), CLIENTS, Until::Told, &mut random);
    for _ in 0..kills() {
        await_progress(&load, &mut random);
        standalone.kill();
        standalone.start_again();
    }
    judge(load, &segment, Install::Standalone(Box::new(standalone)), &mut random);
}

/// When in an outage and the recovery from it the process is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moment {
    /// Segment has just gone away.
    Outage,
    /// Calls are parked.
    Parked,
    /// Segment is back, and the park drains.
    Recovery,
}

impl Moment {
    const ALL: [Self; 3] = [Self::Parked, Self::Recovery, Self::Outage];
}

#[test]
fn parked_calls_survive_kills_under_load() {
    let mut random = Random::announced("crash parking");
    let segment = Segment::start();
    let mut standalone = Standalone::start_by_flags(&segment, &["--park-after-seconds", "0"]);
    let load = Load::start(&Target::of_flags(&standalone, random.word()), CLIENTS, Until::Told, &mut random);
    for round in 0..kills() {
        // Once something must have been parked for certain, else this test shows nothing.
        let moment = Moment::ALL[if round == 0 { 0 } else { random.below(Moment::ALL.len()) }];
        announce(&format!("killed in: {moment:?}"));
        segment.set_faults(vec![FaultRule::always(status(503, None))]);
        await_progress(&load, &mut random);
        if moment != Moment::Outage {
            await_parked(standalone.admin(), CONNECTION);
        }
        if moment != Moment::Recovery {
            standalone.kill();
            standalone.start_again();
        }
        segment.clear_faults();
        await_progress(&load, &mut random);
        if moment == Moment::Recovery {
            standalone.kill();
            standalone.start_again();
        }
    }
    judge(load, &segment, Install::Standalone(Box::new(standalone)), &mut random);
}

#[track_caller]
fn await_parked(admin: Admin, connection: &str) {
    eventually("calls are parked", SOON, || {
        let books = admin.ledger()?.calls(connection)?;
        holds(books.parked > 0, || format!("{books:?}"))
    });
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
    let target = Target::new(&workspace, fleet.ingest(), random.word());
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
    judge(load, &segment, Install::Fleet(Box::new(fleet)), &mut random);
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

/// The same on NATS: delivery is killed in an outage, the server in the recovery.
#[test]
fn parked_calls_survive_kills_on_nats() {
    let mut random = Random::announced("crash parking on NATS");
    let segment = Segment::start();
    let workspace = Workspace::new("acme");
    let parking = ["--park-after-seconds", "0"];
    let mut fleet = Fleet::start_with(&segment, std::slice::from_ref(&workspace), &parking);
    let target = Target::new(&workspace, fleet.ingest(), random.word());
    let load = Load::start(&target, CLIENTS, Until::Told, &mut random);
    for _ in 0..kills().div_ceil(3) {
        segment.set_faults(vec![FaultRule::always(status(503, None))]);
        await_progress(&load, &mut random);
        await_parked(fleet.admin(Stage::Delivery), &workspace.connections[0].id);
        fleet.kill(Stage::Delivery);
        fleet.start_again(Stage::Delivery);
        segment.clear_faults();
        fleet.nats().kill();
        fleet.nats().start_again();
        supervise(&mut fleet);
        await_progress(&load, &mut random);
        fleet.kill(Stage::Delivery);
        fleet.start_again(Stage::Delivery);
    }
    supervise(&mut fleet);
    judge(load, &segment, Install::Fleet(Box::new(fleet)), &mut random);
}

/// Waits until the clients have got some more events in: the kill then comes in the middle of work.
#[track_caller]
fn await_progress(load: &Load, random: &mut Random) {
    load.await_more(EVENTS_BETWEEN_MIN + random.below(EVENTS_BETWEEN_SPREAD));
}

/// Ends the load, waits for rest, and checks the whole history, and that identity's logs and snapshots tell the same.
#[track_caller]
fn judge(load: Load, segment: &Segment, mut install: Install, random: &mut Random) {
    await_progress(&load, random);
    load.stop();
    let history = install.complete(load.join(), segment);
    let unknown = history.attempts.iter().filter(|attempt| attempt.outcome != Outcome::Ok);
    announce(&format!(
        "{} events, {} requests ({} without a 200), {} calls arrived",
        history.facts.len(),
        history.attempts.len(),
        unknown.count(),
        history.arrivals.len()
    ));
    history.assert_holds();
    install.assert_state_is_sound();
}
