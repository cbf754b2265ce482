//! The truth tables of `reference/engagement.md` 3 and 6, through HTTP, on both kinds of install, undisturbed and with a
//! stop or a kill in the middle.

#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of checks: a panic is a failed check with its reason"
)]

mod engagement;
mod identity;
mod persons;
mod trial;

use inflection_tests::arrived::first_arrivals;
use inflection_tests::config::{Engagement, Workspace};
use inflection_tests::install::{Install, Kind, Stop};
use inflection_tests::random::Random;
use inflection_tests::segment::Segment;
use inflection_tests::wait::{SOON, holds, within};

use crate::engagement::Policy;
use crate::trial::Trial;

/// What happens between the first and the second half of a round.
const ROUNDS: [(&str, Option<Stop>); 3] =
    [("undisturbed", None), ("terminated", Some(Stop::Terminate)), ("killed", Some(Stop::Kill))];

#[test]
fn standalone_keeps_the_truth_tables() {
    keeps_the_truth_tables(Kind::Standalone);
}

#[test]
fn a_fleet_keeps_the_truth_tables() {
    keeps_the_truth_tables(Kind::Fleet);
}

/// One workspace for each policy.
fn workspaces() -> [Workspace; 3] {
    Policy::ALL.map(|policy| Workspace {
        engagement: Engagement {
            implied_open: policy == Policy::ImpliedOpen,
            click_per_open_link: policy == Policy::LinkScope,
            ..Engagement::default()
        },
        ..Workspace::new(policy.workspace())
    })
}

fn keeps_the_truth_tables(kind: Kind) {
    let mut random = Random::announced("truth tables");
    let segment = Segment::start();
    let workspaces = workspaces();
    let mut install = Install::start(kind, &segment, &workspaces);
    let mut trials: Vec<Trial> = Vec::new();
    for (round, stop) in ROUNDS {
        let word = format!("{round}-{}", random.word());
        let rows = engagement::trials(&word, &workspaces).into_iter().chain(identity::trials(&word, &workspaces));
        let rows: Vec<Trial> = rows.collect();
        rows.iter().for_each(|trial| trial.post_first_half(install.ingest()));
        if let Some(how) = stop {
            install.stop(how);
            install.start_again();
        }
        rows.iter().for_each(|trial| trial.post_second_half(install.ingest()));
        trials.extend(rows);
    }
    install.settle();

    let judged = within(SOON, || {
        let calls = first_arrivals(segment.calls());
        let complaints: Vec<String> = trials.iter().filter_map(|trial| trial.judge(&calls).err()).collect();
        holds(complaints.is_empty(), || {
            format!("{} of {} rows:\n{}", complaints.len(), trials.len(), complaints.join("\n"))
        })
    });
    if let Err(complaints) = judged {
        panic!("{complaints}");
    }
    let dead = install.dead_letters();
    assert!(dead.is_empty(), "{dead:?}");
    persons::check(&segment.calls());
}
