//! The books of connections: counted in order, each call once, whatever crash comes between.

use super::*;

const A: Option<CallEnd> = Some(CallEnd::Accepted);
const D: Option<CallEnd> = Some(CallEnd::Dead);
const F: Option<CallEnd> = Some(CallEnd::Filtered);
const P: Option<CallEnd> = Some(CallEnd::Parked);
/// A decision log: what reading makes of each message's calls; `None` is handed on. The third message and the last but
/// one are of other workspaces.
const LOG: [&[Option<CallEnd>]; 7] = [&[None, F, None, None], &[None], &[], &[F, D], &[None, None, F], &[], &[F, None]];

fn key(connection: &str) -> ConnectionKey {
    (WorkspaceId::new("acme").unwrap(), ConnectionId::new(connection).unwrap())
}

fn prod() -> ConnectionKey {
    key("prod")
}

fn at(through: u64, calls: u32) -> CallPosition {
    CallPosition { through, calls }
}

fn totals(connection: &str, ended: CallPosition) -> ConnectionTotals {
    let (workspace, connection) = key(connection);
    ConnectionTotals::new(workspace, connection, 0, ended)
}

fn progress(through: u64, connections: impl IntoIterator<Item = ConnectionTotals>) -> DeliveryProgress {
    let connections = connections.into_iter().collect();
    DeliveryProgress { finished_through: through, read_through: through, connections }
}

/// Books of a partition in which one connection begins with this message.
fn books(sequence: u64) -> Books<()> {
    let mut books = Books::new(progress(sequence - 1, []), Vec::new());
    books.introduce(&[prod()], &[], sequence);
    books
}

fn open(books: &mut Books<()>, sequence: u64, calls: &[Option<CallEnd>]) {
    assert_eq!(books.skip(&prod(), sequence), Some(0));
    books.open(&prod(), sequence, 0, calls.to_vec(), None);
    books.read(sequence);
}

/// The books of a connection as they would be stored.
fn stored(books: &Books<()>, connection: &str) -> ConnectionTotals {
    let own = |totals: &ConnectionTotals| totals.connection.as_str() == connection;
    books.progress().connections.into_iter().find(own).unwrap()
}

/// The position of `prod`, and what it has accepted, dead, filtered and parked.
fn counts(books: &Books<()>) -> (CallPosition, [u64; 4]) {
    let ConnectionTotals { ended, accepted, dead, filtered, parked, .. } = stored(books, "prod");
    (ended, [accepted, dead, filtered, parked])
}

#[test]
fn the_position_moves_over_calls_in_order_only() {
    let mut books = books(5);
    assert_eq!(counts(&books), (at(4, 0), [0; 4]));
    open(&mut books, 5, &[None, F, None]);
    open(&mut books, 6, &[None]);
    open(&mut books, 8, &[F]);
    assert_eq!(counts(&books), (at(4, 0), [0; 4]));
    assert_eq!(books.progress().finished_through, 4);
    for (sequence, end, moves, expected) in [
        (6, CallEnd::Dead, false, (at(4, 0), [0; 4])),
        (7, CallEnd::Accepted, false, (at(4, 0), [0; 4])),
        (5, CallEnd::Accepted, true, (at(4, 2), [1, 0, 1, 0])),
        (5, CallEnd::Accepted, true, (at(8, 0), [2, 1, 2, 0])),
    ] {
        assert_eq!(books.end(&prod(), sequence, end, 1), moves);
        assert_eq!(counts(&books), expected, "after one of message {sequence}");
    }
    let progress = books.progress();
    assert_eq!((progress.finished_through, progress.read_through), (8, 8));
}

#[test]
fn what_is_suppressed_is_an_end_like_others_in_its_place() {
    const S: Option<CallEnd> = Some(CallEnd::Suppressed);
    let mut books = books(5);
    open(&mut books, 5, &[None, S, None, None]);
    assert_eq!((stored(&books, "prod").ended, stored(&books, "prod").suppressed), (at(4, 0), 0));
    books.end(&prod(), 5, CallEnd::Accepted, 1);
    assert_eq!((stored(&books, "prod").ended, stored(&books, "prod").suppressed), (at(4, 2), 1));
    // One is on its way into the parked log: what is written with it counts the ones before.
    let parking = books.with_parked(&prod(), 1).unwrap();
    assert_eq!((parking.ended, parking.accepted, parking.suppressed, parking.parked), (at(4, 3), 1, 1, 1));
    books.end(&prod(), 5, CallEnd::Parked, 1);
    books.end(&prod(), 5, CallEnd::Suppressed, 1);
    assert_eq!((stored(&books, "prod").ended, stored(&books, "prod").suppressed), (at(5, 0), 2));
    // Of the parked ones too.
    books.open_release(&prod(), 1, 1, None);
    books.end_release(&prod(), 1, Fate::Suppressed, 1);
    let totals = stored(&books, "prod");
    assert_eq!((totals.released_through, totals.released_suppressed, totals.still_parked()), (1, 1, 0));
    assert_eq!(totals.counted(), 4);
    // A parked log that is ahead of the record keeps what the record says of what was sent.
    let ahead = ConnectionTotals { ended: at(6, 0), ..parking };
    let books: Books<()> = Books::new(progress(5, [totals]), vec![(prod(), ahead)]);
    assert_eq!(stored(&books, "prod").released_suppressed, 1);
}

#[test]
fn reading_moves_a_connection_that_has_no_calls() {
    let between = totals("prod", at(5, 0));
    let within = totals("other", at(5, 2));
    let mut books: Books<()> = Books::new(progress(3, [between, within]), Vec::new());
    assert_eq!(books.read_through(), 5, "where the last of them was");
    for sequence in 6..=7 {
        books.read(sequence);
        assert_eq!(counts(&books).0, at(sequence, 0));
        assert_eq!(stored(&books, "other").ended, at(5, 2), "the message it stands in comes first");
        assert_eq!(books.progress().finished_through, 5);
    }
    // A connection that is ahead of the reader stays where it is.
    let (ahead, behind) = (totals("prod", at(9, 0)), totals("other", at(7, 1)));
    let mut books: Books<()> = Books::new(progress(7, [ahead, behind]), Vec::new());
    assert_eq!(books.read_through(), 7);
    for (sequence, expected) in [(8, at(9, 0)), (9, at(9, 0)), (10, at(10, 0))] {
        assert_eq!(books.skip(&key("other"), sequence), Some(if sequence == 8 { 1 } else { 0 }));
        assert_eq!(books.skip(&prod(), sequence), (sequence > 9).then_some(0));
        books.read(sequence);
        assert_eq!(counts(&books).0, expected);
    }
}

/// One life: goes on from what is stored, reads the whole log and ends so many of the calls that are handed on.
fn live(stored: DeliveryProgress, ends: usize) -> Books<()> {
    let mut books = Books::new(stored, Vec::new());
    let mut handed_on = Vec::new();
    for (sequence, calls) in (1..).zip(LOG) {
        if sequence <= books.read_through() {
            continue;
        }
        books.introduce(&[prod()], &[], sequence);
        if !calls.is_empty()
            && let Some(skipped) = books.skip(&prod(), sequence)
        {
            let rest = &calls[skipped as usize..];
            books.open(&prod(), sequence, skipped, rest.to_vec(), None);
            let places = (u64::from(skipped)..).zip(rest).filter(|(_, end)| end.is_none());
            handed_on.extend(places.map(|(place, _)| (sequence, place)));
        }
        books.read(sequence);
    }
    for (sequence, place) in handed_on.into_iter().take(ends) {
        // What becomes of a call is the same in every life.
        let end = if (sequence + place).is_multiple_of(3) { CallEnd::Dead } else { CallEnd::Accepted };
        books.end(&prod(), sequence, end, 1);
    }
    books
}

/// Calls of the log before a position.
fn before(position: CallPosition) -> u64 {
    let whole = LOG.iter().zip(1..).filter(|(_, sequence)| *sequence <= position.through);
    whole.map(|(calls, _)| calls.len() as u64).sum::<u64>() + u64::from(position.calls)
}

#[test]
fn a_restart_from_any_progress_counts_each_call_once() {
    let whole = live(DeliveryProgress::default(), usize::MAX).progress();
    assert_eq!(whole.finished_through, 7);
    let totals = &whole.connections[0];
    assert_eq!((totals.ended, totals.counted()), (at(7, 0), 12));
    assert_eq!(totals.filtered, 4);
    for first in 0..8 {
        for second in 0..8 {
            let mut progress = DeliveryProgress::default();
            for ends in [first, second] {
                progress = live(progress, ends).progress();
                let totals = &progress.connections[0];
                assert_eq!(totals.counted(), before(totals.ended), "what lies behind is counted");
            }
            assert_eq!(live(progress, usize::MAX).progress(), whole, "stored after {first} and after {second} more");
        }
    }
}

#[test]
fn what_is_written_with_parked_calls_is_what_the_books_say_then() {
    for ended in 0..8 {
        for parked in 1..=7 - ended {
            let mut books = live(DeliveryProgress::default(), ended);
            let written = books.with_parked(&prod(), parked).unwrap();
            let mut left = parked;
            for sequence in 1..=7 {
                let open = books.lanes[&prod()].slots.iter().filter(|slot| slot.sequence == sequence);
                let open: usize = open.map(|slot| slot.calls.iter().filter(|call| call.is_none()).count()).sum();
                let count = open.min(left);
                books.end(&prod(), sequence, CallEnd::Parked, count);
                left -= count;
            }
            assert_eq!(left, 0);
            assert_eq!(stored(&books, "prod"), written, "{ended} ended, {parked} parked");
            assert_eq!(written.still_parked(), parked as u64);
            assert_eq!(written.counted(), before(written.ended));
        }
    }
    assert_eq!(books(1).with_parked(&key("unknown"), 1), None);
}

#[test]
fn the_last_parked_message_wins_when_it_is_ahead() {
    let released = |released_through, totals: ConnectionTotals| ConnectionTotals { released_through, ..totals };
    let counted = |accepted, parked, totals: ConnectionTotals| ConnectionTotals { accepted, parked, ..totals };
    let own = counted(7, 2, released(3, totals("prod", at(5, 1))));
    for (written, expected) in [
        // Behind: progress was stored since.
        (counted(4, 2, totals("prod", at(5, 0))), own.clone()),
        (counted(7, 2, totals("prod", at(5, 1))), own.clone()),
        // Ahead: but what was sent of the parked log is only ever stored with progress.
        (counted(7, 4, totals("prod", at(5, 3))), counted(7, 4, released(3, totals("prod", at(5, 3))))),
        (counted(7, 6, released(1, totals("prod", at(6, 0)))), counted(7, 6, released(3, totals("prod", at(6, 0))))),
    ] {
        let books: Books<()> = Books::new(progress(5, [own.clone()]), vec![(prod(), written)]);
        assert_eq!(books.totals(&prod()), Some(&expected));
    }
    // Progress was never stored.
    let written = counted(0, 4, totals("prod", at(2, 1)));
    let books: Books<()> = Books::new(DeliveryProgress::default(), vec![(prod(), written.clone())]);
    assert_eq!((books.totals(&prod()), books.read_through()), (Some(&written), 2));
}

#[test]
fn a_new_connection_begins_where_it_was_not_decided_for() {
    let old = totals("prod", at(5, 0));
    let stored_progress = DeliveryProgress { finished_through: 5, read_through: 9, connections: vec![old] };
    let mut books: Books<()> = Books::new(stored_progress, Vec::new());
    let both = [prod(), key("new")];
    assert!(books.is_new(&both) && !books.is_new(&[prod()]));
    let workspace =
        |name: &str, calls| WorkspaceTotals { calls, ..WorkspaceTotals::new(WorkspaceId::new(name).unwrap()) };
    for sequence in 6..=9 {
        books.introduce(&both, &[workspace("acme", 40)], sequence);
        assert!(books.is_new(&both), "message {sequence} was read before");
        assert_eq!(books.skip(&key("new"), sequence), None);
        books.open(&key("new"), sequence, 0, vec![None], None);
        books.read(sequence);
    }
    assert_eq!(books.progress().read_through, 9);
    books.introduce(&both, &[workspace("beta", 7), workspace("acme", 52)], 10);
    assert!(!books.is_new(&both));
    let new = stored(&books, "new");
    assert_eq!((new.baseline, new.counted(), new.ended), (52, 0, at(9, 0)));
    assert_eq!(stored(&books, "prod").baseline, 0, "whoever was there keeps its own");
    assert_eq!(books.skip(&key("new"), 10), Some(0));
    // A workspace of which nothing was decided yet.
    books.introduce(&[key("other")], &[workspace("beta", 7)], 11);
    assert_eq!(stored(&books, "other").baseline, 0);
    // Told of once is enough.
    books.introduce(&both, &[workspace("acme", 99)], 11);
    assert_eq!(stored(&books, "new").baseline, 52);
}

fn decided(calls: u32) -> BTreeMap<WorkspaceId, u32> {
    BTreeMap::from([(prod().0, calls)])
}

#[test]
fn a_connection_that_is_gone_is_left_out_and_its_books_stay_closed() {
    let mut books: Books<()> = Books::new(progress(4, [totals("prod", at(5, 2))]), Vec::new());
    let others = BTreeMap::from([(WorkspaceId::new("beta").unwrap(), 9)]);
    for (sequence, calls, expected) in [
        (5, decided(4), (at(5, 2), 0)),
        // Two of the next message were counted in an earlier life.
        (6, decided(5), (at(6, 0), 3)),
        (7, others, (at(7, 0), 3)),
        (8, decided(4), (at(8, 0), 7)),
    ] {
        books.leave_out(&[key("there")], &calls, sequence);
        books.read(sequence);
        let (ended, [_, _, filtered, _]) = counts(&books);
        assert_eq!((ended, filtered), expected, "message {sequence}");
        assert_eq!(books.progress().finished_through, ended.through);
    }
    books.leave_out(&[prod()], &decided(4), 9);
    assert_eq!(counts(&books).1, [0, 0, 7, 0], "one that is there is asked itself");
}

/// Between the new configuration and the end of what was under way, messages are read already.
#[test]
fn leaving_out_counts_nothing_ahead_of_calls_that_are_under_way() {
    let mut books = books(1);
    open(&mut books, 1, &[None, None]);
    books.end(&prod(), 1, CallEnd::Accepted, 1);
    books.leave_out(&[], &decided(3), 2);
    books.read(2);
    // A crash here reads message 2 again.
    assert_eq!(counts(&books), (at(0, 1), [1, 0, 0, 0]));
    assert!(books.abandon(&prod()));
    assert_eq!(counts(&books), (at(2, 0), [1, 0, 4, 0]));
}

#[test]
fn abandoning_ends_what_is_under_way_and_leaves_what_is_parked() {
    let mut books = books(1);
    open(&mut books, 1, &[None, F, None]);
    open(&mut books, 2, &[None, None]);
    books.end(&prod(), 1, CallEnd::Parked, 2);
    books.end(&prod(), 2, CallEnd::Accepted, 1);
    books.open_release(&prod(), 1, 2, None);
    books.end_release(&prod(), 1, Fate::Accepted, 1);
    assert!(books.abandon(&prod()));
    assert_eq!(counts(&books), (at(2, 0), [1, 0, 2, 2]));
    let own = stored(&books, "prod");
    assert_eq!((own.still_parked(), own.released_through), (2, 0));
    // What is still told of its calls is too late.
    assert!(!books.end(&prod(), 2, CallEnd::Accepted, 1));
    assert!(!books.end_release(&prod(), 1, Fate::Accepted, 1));
    assert!(!books.abandon(&prod()));
    assert_eq!(stored(&books, "prod"), own);
    // When it comes back, it goes on from there.
    assert_eq!(books.forget_releases(&prod()), (0, vec![]));
    open(&mut books, 3, &[None]);
    assert!(books.end(&prod(), 3, CallEnd::Accepted, 1));
    assert_eq!(counts(&books), (at(3, 0), [2, 0, 2, 2]));
}

#[test]
fn parked_messages_are_counted_in_order_when_they_have_ended() {
    let mut books = books(1);
    open(&mut books, 1, &[P, P, P, A]);
    assert_eq!(counts(&books), (at(1, 0), [1, 0, 0, 3]));
    books.open_release(&prod(), 1, 2, None);
    books.open_release(&prod(), 2, 1, None);
    for (sequence, fate, expected) in [
        (2, Fate::Dead, (0, 0, 0, 3)),
        (1, Fate::Accepted, (0, 0, 0, 3)),
        (3, Fate::Accepted, (0, 0, 0, 3)),
        (1, Fate::Accepted, (2, 2, 1, 0)),
    ] {
        let moved = books.end_release(&prod(), sequence, fate, 1);
        let own = stored(&books, "prod");
        let released = (own.released_through, own.released_accepted, own.released_dead, own.still_parked());
        assert_eq!((released, moved), (expected, expected.0 > 0), "after one of message {sequence}");
    }
}

#[test]
fn forgotten_messages_tell_how_their_first_calls_ended() {
    let mut books = books(1);
    assert_eq!(books.forget_releases(&prod()), (0, vec![]));
    open(&mut books, 1, &[P; 9]);
    for (sequence, open) in [(1, 1), (2, 5), (3, 3)] {
        books.open_release(&prod(), sequence, open, None);
    }
    books.end_release(&prod(), 1, Fate::Dead, 1);
    let fates = [Fate::Accepted, Fate::Accepted, Fate::Dead, Fate::Accepted];
    for fate in fates {
        assert!(!books.end_release(&prod(), 2, fate, 1));
    }
    let (released, ended) = books.forget_releases(&prod());
    assert_eq!((released, &ended), (1, &vec![(Fate::Accepted, 2), (Fate::Dead, 1), (Fate::Accepted, 1)]));
    assert_eq!(books.forget_releases(&prod()), (1, vec![]), "once");
    // They are read again, and what has ended already is noted first: nothing is counted twice.
    books.open_release(&prod(), 2, 5, None);
    for (fate, count) in ended {
        assert!(!books.end_release(&prod(), 2, fate, count));
    }
    assert!(books.end_release(&prod(), 2, Fate::Accepted, 1));
    books.open_release(&prod(), 3, 3, None);
    assert!(books.end_release(&prod(), 3, Fate::Accepted, 3));
    let own = stored(&books, "prod");
    assert_eq!((own.released_through, own.released_accepted, own.released_dead, own.still_parked()), (3, 7, 2, 0));
    assert_eq!(books.forget_releases(&key("unknown")), (0, vec![]));
}
