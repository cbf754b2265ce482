//! This version beside the next one, on one bus and under load: nothing is lost, doubled or out of order, whoever took a partition
//! over from whom. What may not be side by side is refused.
//!
//! Run by `scripts/check-upgrade`, which makes the next version: every message of it has a field more.

use inflection_tests::announce::announce;
use inflection_tests::binary::binary;
use inflection_tests::config::Workspace;
use inflection_tests::fleet::{Fleet, Stage};
use inflection_tests::install::Install;
use inflection_tests::load::{Load, Target, Until};
use inflection_tests::random::Random;
use inflection_tests::segment::Segment;
use inflection_tests::settings::next_binaries;

/// Clients that send at the same time.
const CLIENTS: usize = 4;
/// Between two steps of the roll-out at least this many events are accepted.
const EVENTS_BETWEEN: usize = 300;

#[test]
fn two_versions_side_by_side_lose_and_double_nothing() {
    let (next, breaking) = next_binaries();
    let mut random = Random::announced("upgrade");
    let (segment, workspace) = (Segment::start(), Workspace::new("acme"));
    let mut fleet = Fleet::start(&segment, std::slice::from_ref(&workspace));
    let target = Target::new(&workspace, fleet.ingest(), random.word());
    let load = Load::start(&target, CLIENTS, Until::Told, &mut random);
    load.await_more(EVENTS_BETWEEN);

    // A stage of the next version does not start before its bus is provisioned for it.
    fleet.worker(Stage::Identity, 0).terminate();
    let (code, said) = fleet.worker(Stage::Identity, 0).refused_by(&next);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("run its `inflection-source provision` first"), "{said}");
    let provisioned = fleet.provision_by(&next);
    assert_eq!(provisioned.code, Some(0), "{}", provisioned.output);
    fleet.worker(Stage::Identity, 0).start_again();
    announce("provisioned for the next version, whose identity has taken over");
    load.await_more(EVENTS_BETWEEN);

    // Both versions of a stage share its partitions.
    for stage in [Stage::Identity, Stage::Delivery] {
        let other = if stage == Stage::Identity { binary() } else { &next };
        fleet.add_of(other, stage, &[]);
        fleet.await_even(stage);
        load.await_more(EVENTS_BETWEEN);
    }
    // From ingest of the next version through identity of both to delivery of both, and back.
    fleet.worker(Stage::Ingest, 0).roll_to(&next);
    load.await_more(EVENTS_BETWEEN);
    for (stage, number, to) in [
        (Stage::Identity, 0, binary()),
        (Stage::Delivery, 1, binary()),
        (Stage::Delivery, 0, &next),
        (Stage::Identity, 1, &next),
        (Stage::Ingest, 0, binary()),
    ] {
        fleet.worker(stage, number).roll_to(to);
        load.await_more(EVENTS_BETWEEN);
    }
    load.stop();

    let mut install = Install::Fleet(Box::new(fleet));
    let history = install.complete(load.join(), &segment);
    announce(&format!("{} events, {} calls arrived", history.facts.len(), history.arrivals.len()));
    history.assert_holds();
    install.assert_state_is_sound();

    // One that older programs may not work beside takes the bus, and then they refuse it.
    let Install::Fleet(mut fleet) = install else { panic!("a fleet") };
    let provisioned = fleet.provision_by(&breaking);
    assert_eq!(provisioned.code, Some(0), "{}", provisioned.output);
    fleet.worker(Stage::Ingest, 0).terminate();
    let (code, said) = fleet.worker(Stage::Ingest, 0).refused_by(binary());
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("on can read; this one knows") && said.contains("upgrade it"), "{said}");
    let refused = fleet.provision_by(binary());
    assert_eq!(refused.code, Some(1), "{}", refused.output);
}
