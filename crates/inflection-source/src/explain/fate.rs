//! What became of calls: read from delivery's books, its parked logs and its dead letters; then decided, purely.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use anyhow::Context as _;
use inflection_bus::{Bus, Log, Message};
use inflection_delivery::{ConnectionKey, DeliveryHandle, dead_letter_log, load_progress, parked_log};
use inflection_domain::Timestamp;
use inflection_wire::{ConnectionTotals, DeadLetterEntry, DeadLetterOutcome, DeliveryProgress, ParkedBatch};

use super::Fate;
use super::calls::CallOn;
use super::find::Place;
use super::pass::Pass;
use crate::decided::intact;

const LEFT_OUT: &str = "the connection's settings leave it out";
const BEFORE: &str = "it was decided before the connection existed";
const PERHAPS_LEFT_OUT: &str =
    "accepted, or left out by the connection's settings: the bus does not say which; ask a process that runs delivery";

const PERHAPS_SENT: &str =
    "not sent, unless it was before its person was suppressed: the bus does not say which; suppressed since ";
const PERHAPS_SUPPRESSED: &str =
    "accepted, unless its person was suppressed when it was its turn: the bus does not say which";

/// A dead letter that was not replayed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Letter {
    pub(super) reason: String,
    /// Whether an operator took it out for good.
    pub(super) dropped: bool,
}

/// What delivery has written of some calls.
#[derive(Debug, Default)]
pub(super) struct Delivered {
    progress: BTreeMap<u16, DeliveryProgress>,
    /// Calls that lie parked, by the first half of their ids' hashes.
    parked: HashSet<u64>,
    /// By messageId.
    letters: HashMap<String, Letter>,
}

impl Delivered {
    /// Reads what there is of these calls.
    pub(super) async fn load(
        bus: &Bus,
        delivery: Option<&DeliveryHandle>,
        calls: &[Vec<CallOn<'_>>],
    ) -> anyhow::Result<Self> {
        let all = || calls.iter().flatten();
        let partitions: BTreeSet<u16> = all().map(|call| call.partition).collect();
        let lanes: BTreeSet<(u16, &ConnectionKey)> = all().map(|call| (call.partition, call.connection)).collect();
        let connections: BTreeSet<&ConnectionKey> = all().map(|call| call.connection).collect();
        let ids: HashSet<u64> = all().map(|call| call.high()).collect();
        let names: HashSet<&str> = all().map(|call| call.message_id.as_str()).collect();
        let mut delivered = Self::default();
        // The books first: what leaves the parked logs meanwhile is found in the dead letters, or was accepted.
        for partition in partitions {
            let progress = match delivery.and_then(|delivery| delivery.progress(partition)) {
                Some(progress) => progress,
                None => load_progress(bus, partition).await.context("progress cannot be read")?,
            };
            delivered.progress.insert(partition, progress);
        }
        for (partition, connection) in lanes {
            delivered.load_parked(bus, partition, connection, &ids).await?;
        }
        for connection in connections {
            delivered.load_letters(bus, connection, &names).await?;
        }
        Ok(delivered)
    }

    async fn load_parked(
        &mut self,
        bus: &Bus,
        partition: u16,
        connection: &ConnectionKey,
        ids: &HashSet<u64>,
    ) -> anyhow::Result<()> {
        let totals = self.totals(partition, connection).filter(|totals| totals.still_parked() > 0);
        let Some(released) = totals.map(|totals| totals.released_through) else { return Ok(()) };
        let log = parked_log(connection, partition)?;
        let mut pass = Pass::to_end(bus, &log, released).await.context("the parked calls cannot be read")?;
        while let Some(messages) = pass.next().await.context("the parked calls cannot be read")? {
            for Message { sequence, payload } in messages {
                let batch = intact(&log, sequence, ParkedBatch::decode(payload))?;
                self.parked.extend(batch.calls.iter().map(|call| call.id).filter(|id| ids.contains(id)));
            }
        }
        whole(&pass, &log)
    }

    async fn load_letters(
        &mut self,
        bus: &Bus,
        (workspace, connection): &ConnectionKey,
        names: &HashSet<&str>,
    ) -> anyhow::Result<()> {
        let log = dead_letter_log(workspace, connection)?;
        let mut pass = Pass::to_end(bus, &log, 0).await.context("the dead letters cannot be read")?;
        while let Some(messages) = pass.next().await.context("the dead letters cannot be read")? {
            for Message { sequence, payload } in messages {
                self.enter(intact(&log, sequence, DeadLetterEntry::decode(payload))?.outcome, names);
            }
        }
        whole(&pass, &log)
    }

    fn enter(&mut self, outcome: DeadLetterOutcome, names: &HashSet<&str>) {
        match outcome {
            DeadLetterOutcome::Died(letter) => {
                if names.contains(letter.message_id.as_str()) {
                    let reason = letter.reason;
                    self.letters.insert(letter.message_id, Letter { reason, dropped: false });
                }
            }
            DeadLetterOutcome::Replayed(id) => {
                self.letters.remove(&id);
            }
            DeadLetterOutcome::Dropped(id) => {
                if let Some(letter) = self.letters.get_mut(&id) {
                    letter.dropped = true;
                }
            }
        }
    }

    fn totals(&self, partition: u16, (workspace, name): &ConnectionKey) -> Option<&ConnectionTotals> {
        let connections = self.progress.get(&partition).map(|progress| progress.connections.iter());
        connections?.find(|totals| totals.workspace == *workspace && totals.connection == *name)
    }

    /// What became of one of the calls. `accepted` says whether a request that had it is known to have been answered 2xx.
    /// `suppressed` is since when its person is.
    pub(super) fn fate(
        &self,
        call: &CallOn<'_>,
        accepted: bool,
        suppressed: Option<Timestamp>,
    ) -> (Fate, Option<String>) {
        let known = Known {
            place: call.place,
            totals: self.totals(call.partition, call.connection),
            read_through: self.progress.get(&call.partition).map_or(0, |progress| progress.read_through),
            letter: self.letters.get(&call.message_id),
            parked: self.parked.contains(&call.high()),
            accepted,
            left_out: call.left_out,
            held: call.held,
            suppressed,
        };
        known.fate()
    }
}

/// The last message of these logs is never deleted. Half of one would make a call that has died look accepted.
fn whole(pass: &Pass, log: &Log) -> anyhow::Result<()> {
    anyhow::ensure!(!pass.is_stalled(), "{log} cannot be read to its end");
    Ok(())
}

/// What decides about a call's fate.
#[derive(Debug, Clone, Copy)]
struct Known<'k> {
    place: Place,
    /// The books of its connection in its partition.
    totals: Option<&'k ConnectionTotals>,
    /// Up to where delivery has read the decision log.
    read_through: u64,
    letter: Option<&'k Letter>,
    parked: bool,
    accepted: bool,
    left_out: Option<bool>,
    held: Option<&'k str>,
    /// Since when its person is suppressed.
    suppressed: Option<Timestamp>,
}

impl Known<'_> {
    fn fate(self) -> (Fate, Option<String>) {
        let filtered = |why: &str| (Fate::Filtered, Some(why.to_owned()));
        let waits = |since| format!("its person is suppressed since {since}: it will not be sent");
        let held = self.suppressed.map(waits).or(self.held.map(str::to_owned));
        if let Some(Letter { reason, dropped }) = self.letter {
            return (if *dropped { Fate::Dropped } else { Fate::Dead }, Some(reason.clone()));
        }
        // The books lag behind what was answered.
        if self.accepted {
            return (Fate::Accepted, None);
        }
        if self.left_out == Some(true) {
            return filtered(LEFT_OUT);
        }
        match self.totals {
            Some(totals) if self.place.in_all < totals.baseline => filtered(BEFORE),
            Some(totals) if !self.place.is_behind(totals.ended) => (Fate::Pending, held),
            Some(_) if self.parked => (Fate::Parked, held),
            Some(totals) if totals.suppressed + totals.released_suppressed > 0 => match self.suppressed {
                Some(since) => (Fate::Suppressed, Some(format!("{PERHAPS_SENT}{since}"))),
                None => (Fate::Accepted, Some(PERHAPS_SUPPRESSED.to_owned())),
            },
            Some(totals) if self.left_out.is_none() && totals.filtered > 0 => {
                (Fate::Accepted, Some(PERHAPS_LEFT_OUT.to_owned()))
            }
            Some(_) => (Fate::Accepted, None),
            // A connection that delivery does not know yet begins behind what was read.
            None if self.place.sequence <= self.read_through => filtered(BEFORE),
            None => (Fate::Pending, held),
        }
    }
}

#[cfg(test)]
mod tests {
    use inflection_domain::{ConnectionId, WorkspaceId};
    use inflection_wire::CallPosition;

    use super::*;

    const SEQUENCE: u64 = 10;

    /// A connection that came into being before call 100, with its position there.
    fn totals(through: u64, calls: u32) -> ConnectionTotals {
        let (workspace, connection) = (WorkspaceId::new("acme").unwrap(), ConnectionId::new("prod").unwrap());
        ConnectionTotals::new(workspace, connection, 100, CallPosition { through, calls })
    }

    /// The third call of message 10, the 104th of the partition; nothing else is known of it.
    fn known(totals: Option<&ConnectionTotals>) -> Known<'_> {
        Known {
            place: Place { sequence: SEQUENCE, in_message: 2, in_all: 103 },
            totals,
            read_through: 0,
            letter: None,
            parked: false,
            accepted: false,
            left_out: Some(false),
            held: None,
            suppressed: None,
        }
    }

    #[track_caller]
    fn check(known: Known<'_>, expected: Fate, why: Option<&str>) {
        assert_eq!(known.fate(), (expected, why.map(str::to_owned)), "{known:?}");
    }

    #[test]
    fn a_position_tells_what_has_ended() {
        for (through, calls, expected) in [
            (0, 0, Fate::Pending),
            (8, 0, Fate::Pending),
            (9, 0, Fate::Pending),
            (9, 2, Fate::Pending),
            (9, 3, Fate::Accepted),
            (10, 0, Fate::Accepted),
            (11, 1, Fate::Accepted),
        ] {
            check(known(Some(&totals(through, calls))), expected, None);
        }
    }

    #[test]
    fn what_is_known_of_a_call_wins_over_the_books() {
        let (before, behind) = (totals(9, 0), totals(10, 0));
        check(Known { accepted: true, ..known(Some(&before)) }, Fate::Accepted, None);
        check(Known { held: Some("paused"), ..known(Some(&before)) }, Fate::Pending, Some("paused"));
        check(Known { parked: true, held: Some("401"), ..known(Some(&behind)) }, Fate::Parked, Some("401"));
        check(Known { left_out: Some(true), ..known(Some(&behind)) }, Fate::Filtered, Some(LEFT_OUT));
        let mut letter = Letter { reason: "bad_request".to_owned(), dropped: false };
        for totals in [&before, &behind] {
            check(Known { letter: Some(&letter), ..known(Some(totals)) }, Fate::Dead, Some("bad_request"));
        }
        letter.dropped = true;
        check(Known { letter: Some(&letter), ..known(Some(&behind)) }, Fate::Dropped, Some("bad_request"));
    }

    #[test]
    fn calls_from_before_a_connection_are_not_its_own() {
        let late = ConnectionTotals { baseline: 104, ..totals(10, 0) };
        check(known(Some(&late)), Fate::Filtered, Some(BEFORE));
        check(known(None), Fate::Pending, None);
        check(Known { read_through: SEQUENCE - 1, ..known(None) }, Fate::Pending, None);
        check(Known { read_through: SEQUENCE, ..known(None) }, Fate::Filtered, Some(BEFORE));
    }

    #[test]
    fn without_settings_the_books_alone_do_not_tell_what_was_left_out() {
        let none = totals(10, 0);
        check(Known { left_out: None, ..known(Some(&none)) }, Fate::Accepted, None);
        let some = ConnectionTotals { filtered: 1, ..none };
        check(Known { left_out: None, ..known(Some(&some)) }, Fate::Accepted, Some(PERHAPS_LEFT_OUT));
        check(known(Some(&some)), Fate::Accepted, None);
    }

    #[test]
    fn what_the_books_count_as_suppressed_makes_a_difference_for_the_persons() {
        let (none, since) = (totals(10, 0), Some(Timestamp::from_ms(0)));
        let some = ConnectionTotals { suppressed: 1, ..none.clone() };
        let released = ConnectionTotals { parked: 1, released_suppressed: 1, ..none.clone() };
        check(Known { suppressed: since, ..known(Some(&none)) }, Fate::Accepted, None);
        for totals in [&some, &released] {
            let why = format!("{PERHAPS_SENT}1970-01-01T00:00:00.000Z");
            check(Known { suppressed: since, ..known(Some(totals)) }, Fate::Suppressed, Some(&why));
            check(known(Some(totals)), Fate::Accepted, Some(PERHAPS_SUPPRESSED));
            check(Known { accepted: true, suppressed: since, ..known(Some(totals)) }, Fate::Accepted, None);
        }
        let before = totals(9, 0);
        let why = "its person is suppressed since 1970-01-01T00:00:00.000Z: it will not be sent";
        check(Known { suppressed: since, ..known(Some(&before)) }, Fate::Pending, Some(why));
        check(Known { suppressed: since, parked: true, ..known(Some(&none)) }, Fate::Parked, Some(why));
    }

    #[test]
    fn a_letters_last_entry_counts() {
        let letter = |reason: &str| {
            let (workspace, connection) = (WorkspaceId::new("acme").unwrap(), ConnectionId::new("prod").unwrap());
            DeadLetterOutcome::Died(inflection_wire::DeadLetter {
                workspace,
                connection,
                message_id: "infl_1".into(),
                event_id: "e".into(),
                kind: "page".into(),
                reason: reason.into(),
                attempts: 1,
                last_status: 400,
                item: Default::default(),
                person: None,
            })
        };
        let told = |outcomes: Vec<DeadLetterOutcome>, name: &str| {
            let mut delivered = Delivered::default();
            outcomes.into_iter().for_each(|outcome| delivered.enter(outcome, &HashSet::from([name])));
            delivered.letters.remove("infl_1").map(|letter| (letter.reason, letter.dropped))
        };
        let (replayed, dropped) =
            (DeadLetterOutcome::Replayed("infl_1".into()), || DeadLetterOutcome::Dropped("infl_1".into()));
        assert_eq!(told(vec![letter("a")], "infl_2"), None);
        assert_eq!(told(vec![dropped()], "infl_1"), None);
        assert_eq!(told(vec![letter("a"), dropped()], "infl_1"), Some(("a".to_owned(), true)));
        assert_eq!(told(vec![letter("a"), replayed.clone()], "infl_1"), None);
        assert_eq!(told(vec![letter("a"), replayed, letter("b")], "infl_1"), Some(("b".to_owned(), false)));
    }
}
