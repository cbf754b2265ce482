//! The laws of delivery, against a Segment that fails in every way it can.

use std::collections::{HashMap, HashSet};
use std::ops::RangeInclusive;

use inflection_domain::{InstallationKey, Tombstone, WorkspaceId};
use proptest::prelude::*;

use super::*;

type Sent = (BatchId, Vec<Item>);

const ZERO: Duration = Duration::ZERO;
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
/// How long a request takes.
const TOOK: Duration = Duration::from_millis(20);
const OK: Response = whole(200, Answer::Accepted);
const REFUSED: Response = whole(400, Answer::Refused);
const DOWN: Response = whole(503, Answer::Unavailable(None));
const UNAUTHORIZED: Response = whole(401, Answer::Unauthorized);
const LANE_0: LaneId = LaneId::Partition(0);
const LANE_1: LaneId = LaneId::Partition(1);

const fn whole(status: u16, answer: Answer) -> Response {
    Response::Answered { status, answer }
}

fn item(partition: u16, number: u64) -> Item {
    let text = format!("e{partition}-{number}{{\"n\":\"{partition}-{number}\"}}");
    let split = text.find('{').unwrap();
    let ticket = Ticket::Decision { partition, sequence: number };
    let (bytes, received_at) = (Bytes::from(text), Timestamp::default());
    Item { bytes, split, ticket, received_at, id: number, person: None, trace: None }
}

fn letter(number: u64) -> Item {
    Item { ticket: Ticket::DeadLetter, ..item(u16::MAX, number) }
}

fn limits() -> Limits {
    Limits { items_max: 8, bytes_max: 10_000, in_flight_max: 3, ..Limits::default() }
}

/// One call a request, so that requests can be counted.
fn singles() -> Limits {
    Limits { items_max: 1, in_flight_max: 8, ..limits() }
}

fn place(item: &Item) -> (LaneId, u64) {
    (item.ticket.lane(), item.id)
}

fn numbers(items: &[Item]) -> Vec<u64> {
    items.iter().map(|item| item.id).collect()
}

fn upto(end: u64) -> Vec<u64> {
    (0..end).collect()
}

#[track_caller]
fn send(dispatcher: &mut Dispatcher, now: Duration) -> Sent {
    match dispatcher.poll(now) {
        Action::Send { batch, items, .. } => (batch, items),
        other @ (Action::Bury { .. } | Action::Wait(_) | Action::End(_)) => panic!("{other:?} instead of a request"),
    }
}

#[track_caller]
fn wait(dispatcher: &mut Dispatcher, now: Duration) -> Duration {
    match dispatcher.poll(now) {
        Action::Wait(Some(until)) => until,
        other @ (Action::Send { .. } | Action::Bury { .. } | Action::End(_) | Action::Wait(None)) => {
            panic!("{other:?} instead of a wait")
        }
    }
}

/// Everything that may be sent now.
fn send_all(dispatcher: &mut Dispatcher, now: Duration) -> Vec<Sent> {
    let mut sent = Vec::new();
    while let Action::Send { batch, items, .. } = dispatcher.poll(now) {
        sent.push((batch, items));
    }
    sent
}

/// What is given away, by number.
fn unload(dispatcher: &mut Dispatcher) -> Vec<(LaneId, Vec<u64>)> {
    dispatcher.unload().iter().map(|(lane, items)| (*lane, numbers(items))).collect()
}

fn ends(finished: &[Finished]) -> Vec<(u64, Fate, bool)> {
    finished.iter().map(|finished| (finished.item.id, finished.fate, finished.orphan)).collect()
}

/// Eight requests of as many lanes are under way.
fn eight_under_way() -> (Dispatcher, Vec<Sent>) {
    let mut dispatcher = Dispatcher::new(singles(), None);
    for lane in 0..20 {
        dispatcher.push(LaneId::Partition(lane), (0..2).map(|number| item(lane, number)), ZERO);
    }
    let sent = send_all(&mut dispatcher, ZERO);
    assert_eq!(sent.len(), 8);
    (dispatcher, sent)
}

#[test]
fn idle_it_sends_at_once_and_busy_it_fills_up() {
    let mut dispatcher = Dispatcher::new(limits(), None);
    assert_eq!(dispatcher.poll(ZERO), Action::Wait(None));
    dispatcher.push(LANE_0, [item(0, 1)], ZERO);
    let Action::Send { batch, items, attempts: 0 } = dispatcher.poll(ZERO) else { panic!("sends") };
    assert_eq!(items.len(), 1);
    // Another lane's call waits for company, at most the linger.
    dispatcher.push(LANE_1, [item(1, 1)], ZERO);
    assert_eq!(wait(&mut dispatcher, ZERO), limits().linger);
    assert_eq!(send(&mut dispatcher, limits().linger).1, [item(1, 1)]);
    // A full batch does not wait. The locked lane 0 gives nothing.
    dispatcher.push(LANE_0, [item(0, 2)], ZERO);
    dispatcher.push(LaneId::Partition(2), (0..20).map(|number| item(2, number)), ZERO);
    let (_, items) = send(&mut dispatcher, ZERO);
    assert!(items.iter().all(|item| item.ticket.lane() == LaneId::Partition(2)));
    assert_eq!(numbers(&items), upto(8));
    assert_eq!(dispatcher.poll(ZERO), Action::Wait(None), "three requests are under way");
    assert_eq!(dispatcher.answered(batch, OK, TOOK, ZERO, 0.5).len(), 1);
    assert_eq!(wait(&mut dispatcher, ZERO), limits().linger, "lane 0 lingers");
}

#[test]
fn one_poison_costs_two_logarithms_and_the_rest_arrives_in_order() {
    let mut dispatcher = Dispatcher::new(Limits { items_max: 500, bytes_max: 480_000, ..limits() }, None);
    dispatcher.push(LANE_0, (0..500).map(|number| item(0, number)), ZERO);
    let (mut requests, mut finished) = (0, Vec::new());
    loop {
        match dispatcher.poll(ZERO) {
            Action::Send { batch, items, .. } => {
                requests += 1;
                let poisoned = items.iter().any(|item| item.id == 321);
                finished.extend(dispatcher.answered(batch, if poisoned { REFUSED } else { OK }, TOOK, ZERO, 0.5));
            }
            Action::Bury { batch, item, status, .. } => {
                assert_eq!((item.id, status, item.event_id()), (321, 400, "e0-321"));
                finished.extend(dispatcher.buried(batch, Fate::Dead));
            }
            Action::End(_) => panic!("nobody is suppressed"),
            Action::Wait(_) => break,
        }
    }
    assert!(requests <= 2 * 9 + 1, "{requests} requests");
    let expected = |number: u64| (number, if number == 321 { Fate::Dead } else { Fate::Accepted }, false);
    assert_eq!(ends(&finished), (0..500).map(expected).collect::<Vec<_>>());
}

const KEY: InstallationKey = InstallationKey::new([7; 32]);

/// A call of the person with this number.
fn call_of(person: u64, number: u64) -> Item {
    let person = Hash128::of("test person", &[&person.to_be_bytes()]);
    Item { person: Some(person), ..item(0, number) }
}

fn suppressed(persons: &[u64]) -> Option<Arc<Suppressed>> {
    let person = |number: &u64| Hash128::of("test person", &[&number.to_be_bytes()]);
    let tombstones = persons.iter().map(|number| Tombstone::of_person(&KEY, person(number)));
    Some(Arc::new(Suppressed::new(WorkspaceId::new("acme").unwrap(), KEY, tombstones)))
}

#[test]
fn calls_of_suppressed_persons_end_in_their_place_and_are_not_sent() {
    let mut dispatcher = Dispatcher::new(limits(), None);
    dispatcher.push(LANE_0, (0..6).map(|number| call_of(number % 2, number)), ZERO);
    // Under way when it is said: it arrives.
    let (batch, items) = send(&mut dispatcher, ZERO);
    assert_eq!(numbers(&items), upto(6));
    dispatcher.set_suppressed(suppressed(&[1]));
    dispatcher.push(LANE_0, (6..10).map(|number| call_of(number % 2, number)), ZERO);
    assert!(dispatcher.answered(batch, DOWN, TOOK, ZERO, 0.5).is_empty());
    // Tried again without them. They end with what is around them, in order.
    let (batch, items) = send(&mut dispatcher, MINUTE);
    assert_eq!(numbers(&items), [0, 2, 4]);
    let fate = |number: u64| if number % 2 == 1 { Fate::Suppressed } else { Fate::Accepted };
    let expected = |numbers: std::ops::Range<u64>| numbers.map(|n| (n, fate(n), false)).collect::<Vec<_>>();
    assert_eq!(ends(&dispatcher.answered(batch, OK, TOOK, MINUTE, 0.5)), expected(0..6));
    // A request of which nothing is left is none, and takes no try of a connection that may be down.
    dispatcher.set_suppressed(suppressed(&[0, 1]));
    let Action::End(finished) = dispatcher.poll(MINUTE) else { panic!("ends") };
    assert_eq!(ends(&finished), (6..10).map(|number| (number, Fate::Suppressed, false)).collect::<Vec<_>>());
    assert_eq!((dispatcher.poll(MINUTE), dispatcher.is_locked(LANE_0)), (Action::Wait(None), false));
    // Lifted: what comes now is sent.
    dispatcher.set_suppressed(None);
    dispatcher.push(LANE_0, [call_of(1, 10)], MINUTE);
    assert_eq!(numbers(&send(&mut dispatcher, MINUTE).1), [10]);
}

#[test]
fn halves_go_on_without_the_suppressed() {
    let mut dispatcher = Dispatcher::new(limits(), None);
    dispatcher.push(LANE_0, (0..8).map(|number| call_of(u64::from(number == 5), number)), ZERO);
    dispatcher.set_suppressed(suppressed(&[1]));
    let (mut requests, mut finished) = (Vec::new(), Vec::new());
    loop {
        match dispatcher.poll(ZERO) {
            Action::Send { batch, items, .. } => {
                let answer = if items.iter().any(|item| item.id == 4) { REFUSED } else { OK };
                requests.push(numbers(&items));
                finished.extend(dispatcher.answered(batch, answer, TOOK, ZERO, 0.5));
            }
            Action::Bury { batch, .. } => finished.extend(dispatcher.buried(batch, Fate::Dead)),
            Action::End(ended) => finished.extend(ended),
            Action::Wait(_) => break,
        }
    }
    let expected: [&[u64]; 6] = [&[0, 1, 2, 3, 4, 6, 7], &[0, 1, 2, 3], &[4, 6, 7], &[4], &[4], &[6, 7]];
    assert_eq!(requests, expected);
    let fate = |number| match number {
        4 => Fate::Dead,
        5 => Fate::Suppressed,
        _ => Fate::Accepted,
    };
    assert_eq!(ends(&finished), (0..8).map(|number| (number, fate(number), false)).collect::<Vec<_>>());
}

#[test]
fn a_request_that_was_given_away_tells_what_it_had_left_out() {
    let mut dispatcher = Dispatcher::new(limits(), None);
    dispatcher.push(LANE_0, (0..3).map(|number| call_of(number, number)), ZERO);
    dispatcher.set_suppressed(suppressed(&[1]));
    let (batch, _) = send(&mut dispatcher, ZERO);
    assert_eq!(unload(&mut dispatcher), [(LANE_0, upto(3))]);
    let expected = [(0, Fate::Accepted, true), (1, Fate::Suppressed, true), (2, Fate::Accepted, true)];
    assert_eq!(ends(&dispatcher.answered(batch, OK, TOOK, ZERO, 0.5)), expected);
}

#[test]
fn a_letter_that_cannot_be_stored_is_asked_for_again() {
    let mut dispatcher = Dispatcher::new(limits(), None);
    dispatcher.push(LANE_0, [item(0, 0)], ZERO);
    let (batch, _) = send(&mut dispatcher, ZERO);
    assert!(dispatcher.answered(batch, REFUSED, TOOK, ZERO, 0.5).is_empty());
    for _ in 0..3 {
        let Action::Bury { batch, .. } = dispatcher.poll(ZERO) else { panic!("buries") };
        assert_eq!(dispatcher.poll(ZERO), Action::Wait(None), "once at a time");
        dispatcher.not_buried(batch);
    }
    let Action::Bury { batch, .. } = dispatcher.poll(ZERO) else { panic!("buries") };
    assert_eq!(ends(&dispatcher.buried(batch, Fate::Dead)), [(0, Fate::Dead, false)]);
    assert_eq!((dispatcher.pending(), dispatcher.is_locked(LANE_0)), (0, false));
}

#[test]
fn a_window_closes_the_whole_connection() {
    let (shortest, _) = limits().backoff;
    let window = Duration::from_secs(7);
    for (response, until) in [
        (whole(429, Answer::Throttled(Some(window))), window),
        (whole(429, Answer::Throttled(None)), shortest),
        (whole(503, Answer::Unavailable(Some(window))), window),
    ] {
        let mut dispatcher = Dispatcher::new(limits(), None);
        dispatcher.push(LANE_0, [item(0, 1)], ZERO);
        let (batch, _) = send(&mut dispatcher, ZERO);
        dispatcher.answered(batch, response, TOOK, ZERO, 0.0);
        dispatcher.push(LANE_1, [item(1, 1)], ZERO);
        let before = until.saturating_sub(Duration::from_millis(1));
        assert_eq!(wait(&mut dispatcher, before), until, "{response:?}");
        assert_eq!((dispatcher.appetite(before), dispatcher.hungry_at(before)), (Appetite::None, Some(until)));
        assert_eq!(dispatcher.trouble(), None);
        let Action::Send { attempts: 1, .. } = dispatcher.poll(until) else { panic!("the refused batch goes first") };
    }
    // What another worker was told holds as well, and shortens nothing.
    let mut dispatcher = Dispatcher::new(limits(), None);
    dispatcher.push(LANE_0, [item(0, 1)], ZERO);
    dispatcher.close_until(window, ZERO);
    dispatcher.close_until(SECOND, ZERO);
    assert_eq!(wait(&mut dispatcher, SECOND), window);
    assert_eq!(dispatcher.closed_until(), window);
}

#[test]
fn a_refused_key_or_a_wrong_address_keeps_everything() {
    let first = Duration::from_secs(300);
    for (response, trouble) in [
        (UNAUTHORIZED, Trouble::Unauthorized(401)),
        (whole(302, Answer::Misconfigured), Trouble::Misconfigured(302)),
        (Response::Forbidden, Trouble::Forbidden),
    ] {
        let mut dispatcher = Dispatcher::new(limits(), None);
        dispatcher.push(LANE_0, [item(0, 1), item(0, 2)], ZERO);
        let (batch, items) = send(&mut dispatcher, ZERO);
        assert!(dispatcher.answered(batch, response, TOOK, ZERO, 0.5).is_empty());
        dispatcher.push(LANE_1, [item(1, 1)], ZERO);
        assert_eq!((dispatcher.trouble(), dispatcher.pending()), (Some(trouble), 3));
        assert_eq!(wait(&mut dispatcher, SECOND), first, "{trouble:?}");
        // One try, and everything else waits for what comes of it.
        let (batch, again) = send(&mut dispatcher, first);
        assert_eq!(again, items);
        assert_eq!(dispatcher.poll(first + MINUTE), Action::Wait(None));
        assert!(dispatcher.answered(batch, response, TOOK, first, 0.5).is_empty());
        assert_eq!(wait(&mut dispatcher, first), first * 2);
        // Put right, it goes on at once.
        dispatcher.resume();
        assert_eq!((dispatcher.trouble(), dispatcher.pending()), (None, 3));
        assert_eq!(send(&mut dispatcher, first).1, items);
    }
}

#[test]
fn waits_between_attempts_grow_are_spread_and_bounded() {
    let (shortest, longest) = limits().backoff;
    let (unanswered, slow) = (Response::Unanswered, whole(429, Answer::Throttled(None)));
    // One failure more would open the breaker; a wish for patience never does.
    for (response, attempts_max) in [(DOWN, 4u32), (unanswered, 4), (slow, 12)] {
        for chance in [0.0, 0.5, 1.0] {
            let mut dispatcher = Dispatcher::new(limits(), None);
            dispatcher.push(LANE_0, [item(0, 1)], ZERO);
            let mut now = ZERO;
            for attempt in 0..attempts_max {
                let Action::Send { batch, attempts, .. } = dispatcher.poll(now) else { panic!("sends") };
                assert_eq!(attempts, attempt);
                dispatcher.answered(batch, response, TOOK, now, chance);
                assert_eq!(dispatcher.trouble(), None);
                let at = wait(&mut dispatcher, now);
                assert_eq!(dispatcher.next_attempt(batch, now), at);
                let limit = shortest.saturating_mul(2 << attempt).min(longest);
                assert_eq!(at - now, shortest + (limit - shortest).mul_f64(chance), "{response:?}, attempt {attempt}");
                now = at;
            }
        }
    }
}

#[test]
fn an_outage_is_tried_one_request_at_a_time_and_ends_gently() {
    let (mut dispatcher, sent) = eight_under_way();
    for (batch, _) in sent {
        dispatcher.answered(batch, DOWN, TOOK, ZERO, 1.0);
    }
    assert_eq!(dispatcher.trouble(), Some(Trouble::Unavailable(503)));
    let (mut now, mut gaps) = (ZERO, Vec::new());
    for _ in 0..6 {
        let at = wait(&mut dispatcher, now);
        assert_eq!((dispatcher.appetite(now), dispatcher.hungry_at(now)), (Appetite::None, Some(at)));
        gaps.push((at - now).as_millis());
        now = at;
        assert_eq!(dispatcher.appetite(now), Appetite::Try);
        // Ahead of the wait of its batch.
        let (batch, _) = send(&mut dispatcher, now);
        assert_eq!(dispatcher.poll(now + MINUTE), Action::Wait(None), "one request at a time");
        assert_eq!((dispatcher.appetite(now), dispatcher.hungry_at(now)), (Appetite::None, None));
        dispatcher.answered(batch, Response::Unanswered, TOOK, now, 1.0);
    }
    assert_eq!(gaps, [500, 1000, 2000, 4000, 5000, 5000]);
    now = wait(&mut dispatcher, now);
    let (batch, _) = send(&mut dispatcher, now);
    assert_eq!(dispatcher.answered(batch, OK, TOOK, now, 0.5).len(), 1);
    assert_eq!((dispatcher.trouble(), dispatcher.stalled(now)), (None, ZERO));
    // Whoever comes back is not met by everybody at once.
    let mut rounds = Vec::new();
    for _ in 0..4 {
        let sent = send_all(&mut dispatcher, now);
        rounds.push(sent.len());
        for (batch, _) in sent {
            dispatcher.answered(batch, OK, TOOK, now, 0.5);
        }
    }
    assert_eq!(rounds, [1, 2, 2, 3]);
}

#[test]
fn late_answers_of_an_outage_move_nothing_whatever_their_status() {
    for (opening, trouble, first_try, late) in [
        (DOWN, Trouble::Unavailable(503), Duration::from_millis(500), Response::Unanswered),
        (UNAUTHORIZED, Trouble::Unauthorized(401), Duration::from_secs(300), DOWN),
    ] {
        let (mut dispatcher, mut sent) = eight_under_way();
        let (last, _) = sent.pop().unwrap();
        for (batch, _) in sent {
            dispatcher.answered(batch, opening, TOOK, ZERO, 0.0);
        }
        assert_eq!(wait(&mut dispatcher, ZERO), first_try);
        let soon = Duration::from_millis(100);
        dispatcher.answered(last, late, TOOK, soon, 0.0);
        assert_eq!((wait(&mut dispatcher, soon), dispatcher.trouble()), (first_try, Some(trouble)));
    }
}

#[test]
fn a_late_answer_is_not_taken_for_the_answer_of_a_try() {
    for late in [DOWN, whole(429, Answer::Throttled(Some(SECOND)))] {
        let (mut dispatcher, mut sent) = eight_under_way();
        let (last, _) = sent.pop().unwrap();
        for (batch, _) in sent {
            dispatcher.answered(batch, DOWN, TOOK, ZERO, 0.0);
        }
        let now = wait(&mut dispatcher, ZERO);
        let (_trying, _) = send(&mut dispatcher, now);
        dispatcher.answered(last, late, TOOK, now, 0.0);
        assert_eq!(dispatcher.poll(now + MINUTE), Action::Wait(None), "the try is still under way");
    }
}

#[test]
fn push_back_halves_what_is_under_way_and_good_answers_add_to_it() {
    let mut dispatcher = Dispatcher::new(singles(), None);
    for lane in 0..100 {
        dispatcher.push(LaneId::Partition(lane), [item(lane, 0)], ZERO);
    }
    let sent = send_all(&mut dispatcher, ZERO);
    assert_eq!(sent.len(), 8);
    for (batch, _) in sent {
        dispatcher.answered(batch, whole(429, Answer::Throttled(Some(SECOND))), TOOK, ZERO, 0.0);
    }
    let mut rounds = Vec::new();
    for _ in 0..7 {
        let sent = send_all(&mut dispatcher, SECOND);
        rounds.push(sent.len());
        for (batch, _) in sent {
            dispatcher.answered(batch, OK, TOOK, SECOND, 0.5);
        }
    }
    assert_eq!(rounds, [4, 4, 5, 6, 7, 8, 8]);
}

#[test]
fn the_rate_is_kept() {
    let mut dispatcher = Dispatcher::new(limits(), Some(10));
    dispatcher.push(LANE_0, (0..100).map(|number| item(0, number)), ZERO);
    let (mut now, mut sent) = (ZERO, 0);
    while now < Duration::from_secs(5) {
        match dispatcher.poll(now) {
            Action::Send { batch, items, .. } => {
                sent += items.len();
                dispatcher.answered(batch, OK, TOOK, now, 0.5);
            }
            Action::Wait(Some(at)) => now = at.max(now + Duration::from_nanos(1)),
            other @ (Action::Wait(None) | Action::Bury { .. } | Action::End(_)) => panic!("{other:?}"),
        }
    }
    assert!((50..=62).contains(&sent), "{sent} in 5 s at 10/s");
}

#[test]
fn an_operator_who_pauses_loses_nothing_and_nothing_is_sent() {
    let mut dispatcher = Dispatcher::new(limits(), None);
    dispatcher.push(LANE_0, (0..12).map(|number| item(0, number)), ZERO);
    let (batch, _) = send(&mut dispatcher, ZERO);
    dispatcher.push(LANE_1, [item(1, 0)], ZERO);
    let (poisoned, _) = send(&mut dispatcher, limits().linger);
    dispatcher.pause(SECOND);
    assert!(dispatcher.is_paused());
    // What comes of the requests under way counts, and a dead letter is stored: it is the bus that takes it.
    assert_eq!(dispatcher.answered(batch, OK, TOOK, SECOND, 0.5).len(), 8);
    assert!(dispatcher.answered(poisoned, REFUSED, TOOK, SECOND, 0.5).is_empty());
    let Action::Bury { batch, .. } = dispatcher.poll(SECOND) else { panic!("buries") };
    assert_eq!(ends(&dispatcher.buried(batch, Fate::Dead)), [(0, Fate::Dead, false)]);
    dispatcher.push(LANE_1, [item(1, 1)], SECOND);
    for now in [SECOND, MINUTE, MINUTE * 60] {
        assert_eq!(dispatcher.poll(now), Action::Wait(None));
        assert_eq!((dispatcher.appetite(now), dispatcher.hungry_at(now)), (Appetite::None, None));
    }
    assert_eq!(dispatcher.pending(), 5);
    dispatcher.resume();
    assert!(!dispatcher.is_paused());
    let (_, items) = send(&mut dispatcher, MINUTE);
    let expected = [(LANE_0, 8), (LANE_0, 9), (LANE_0, 10), (LANE_0, 11), (LANE_1, 1)];
    assert_eq!(items.iter().map(place).collect::<Vec<_>>(), expected);
}

#[test]
fn replays_go_when_nothing_else_waits() {
    let mut dispatcher = Dispatcher::new(limits(), None);
    dispatcher.push(LaneId::Replay, (0..3).map(letter), ZERO);
    dispatcher.push(LANE_0, [item(0, 0)], ZERO);
    assert_eq!(send(&mut dispatcher, ZERO).1, [item(0, 0)]);
    // Not even while a live call waits for company.
    dispatcher.push(LANE_1, [item(1, 0)], ZERO);
    let linger = limits().linger;
    assert_eq!(wait(&mut dispatcher, ZERO), linger);
    assert_eq!(send(&mut dispatcher, linger).1, [item(1, 0)]);
    let (batch, items) = send(&mut dispatcher, linger);
    assert_eq!(items, [letter(0), letter(1), letter(2)]);
    assert_eq!(dispatcher.answered(batch, OK, TOOK, linger, 0.5).len(), 3);
}

#[test]
fn replays_that_fail_wait_behind_live_calls_too() {
    for response in [REFUSED, DOWN] {
        let mut dispatcher = Dispatcher::new(limits(), None);
        dispatcher.push(LaneId::Replay, (0..8).map(letter), ZERO);
        let (batch, _) = send(&mut dispatcher, ZERO);
        dispatcher.push(LANE_0, [item(0, 0)], ZERO);
        dispatcher.answered(batch, response, TOOK, ZERO, 0.0);
        assert_eq!(send(&mut dispatcher, SECOND).1, [item(0, 0)], "{response:?}");
    }
}

/// Ten seconds at 100 a second: `backlog` live calls are there, and `arriving` come each tenth of a second.
#[track_caller]
fn check_replays(backlog: u64, arriving: u64, expected: &RangeInclusive<usize>) {
    let mut dispatcher = Dispatcher::new(Limits { items_max: 50, ..limits() }, Some(100));
    dispatcher.push(LaneId::Replay, (0..1_000).map(letter), ZERO);
    dispatcher.push(LANE_0, (0..backlog).map(|number| item(0, number)), ZERO);
    let (mut now, mut tick, mut replayed) = (ZERO, ZERO, 0);
    while now < SECOND * 10 {
        if now >= tick {
            dispatcher.push(LANE_0, (0..arriving).map(|number| item(0, number)), now);
            tick += SECOND / 10;
        }
        match dispatcher.poll(now) {
            Action::Send { batch, items, .. } => {
                if items.iter().any(|item| item.ticket == Ticket::DeadLetter) {
                    assert_eq!(dispatcher.queued(LANE_0).0, 0, "live calls wait");
                    replayed += items.len();
                }
                dispatcher.answered(batch, OK, TOOK, now, 0.5);
            }
            Action::Wait(until) => now = until.map_or(tick, |until| until.min(tick)),
            other @ (Action::Bury { .. } | Action::End(_)) => panic!("{other:?}"),
        }
    }
    assert!(expected.contains(&replayed), "{replayed} replays in 10 s");
}

#[test]
fn replays_take_a_tenth_of_the_rate_and_only_what_live_calls_leave() {
    check_replays(0, 0, &(100..=110));
    check_replays(0, 5, &(90..=110));
    check_replays(2_000, 0, &(0..=0));
}

#[test]
fn what_waits_is_parked_after_a_while_without_success() {
    let mut dispatcher = Dispatcher::new(limits(), None);
    dispatcher.push(LANE_0, (0..5).map(|number| item(0, number)), ZERO);
    assert_eq!((dispatcher.parks_at(MINUTE), dispatcher.should_park(MINUTE * 9, MINUTE)), (None, false));
    let mut now = ZERO;
    while now < MINUTE {
        let (batch, _) = send(&mut dispatcher, now);
        assert!(!dispatcher.should_park(now, MINUTE));
        dispatcher.answered(batch, DOWN, TOOK, now, 0.5);
        assert!(!dispatcher.should_park(now, MINUTE));
        assert_eq!(dispatcher.parks_at(MINUTE), Some(MINUTE));
        now = wait(&mut dispatcher, now);
    }
    assert_eq!(dispatcher.stalled(now), now);
    assert!(!dispatcher.should_park(now, MINUTE), "a try is due");
    let (batch, _) = send(&mut dispatcher, now);
    assert!(!dispatcher.should_park(now + SECOND, MINUTE), "a try is under way");
    dispatcher.answered(batch, DOWN, TOOK, now, 0.5);
    assert!(dispatcher.should_park(now, MINUTE));
    assert_eq!(unload(&mut dispatcher), [(LANE_0, upto(5))]);
    assert_eq!((dispatcher.parks_at(MINUTE), dispatcher.should_park(now, MINUTE)), (None, false));
}

#[test]
fn a_long_window_and_a_pause_park_as_well() {
    for paused in [false, true] {
        let mut dispatcher = Dispatcher::new(limits(), None);
        dispatcher.push(LANE_0, [item(0, 0)], ZERO);
        if paused {
            dispatcher.pause(ZERO);
        } else {
            let (batch, _) = send(&mut dispatcher, ZERO);
            dispatcher.answered(batch, whole(429, Answer::Throttled(Some(MINUTE * 60))), TOOK, ZERO, 0.5);
        }
        assert!(!dispatcher.should_park(MINUTE.saturating_sub(TOOK), MINUTE));
        assert!(dispatcher.should_park(MINUTE, MINUTE));
    }
}

#[test]
fn a_pause_parks_also_when_a_good_answer_comes_after_it() {
    let mut dispatcher = Dispatcher::new(limits(), None);
    dispatcher.push(LANE_0, (0..12).map(|number| item(0, number)), ZERO);
    let (batch, _) = send(&mut dispatcher, ZERO);
    dispatcher.pause(ZERO);
    assert_eq!(dispatcher.answered(batch, OK, TOOK, TOOK, 0.5).len(), 8);
    assert_eq!((dispatcher.is_paused(), dispatcher.pending()), (true, 4));
    assert!(dispatcher.should_park(MINUTE * 2, MINUTE));
}

#[test]
fn dead_letters_on_their_way_back_are_nothing_to_park() {
    let mut dispatcher = Dispatcher::new(limits(), None);
    dispatcher.push(LaneId::Replay, (0..12).map(letter), ZERO);
    let (batch, _) = send(&mut dispatcher, ZERO);
    dispatcher.answered(batch, whole(429, Answer::Throttled(Some(MINUTE * 60))), TOOK, ZERO, 0.5);
    assert_eq!((unload(&mut dispatcher), dispatcher.pending()), (vec![], 12));
    assert!(!dispatcher.should_park(MINUTE * 2, MINUTE));
}

#[test]
fn unloading_gives_calls_in_order_and_tells_what_came_of_those_under_way() {
    for (response, accepted) in [(OK, 8), (REFUSED, 0), (DOWN, 0), (Response::Unanswered, 0), (UNAUTHORIZED, 0)] {
        let mut dispatcher = Dispatcher::new(limits(), None);
        dispatcher.push(LANE_0, (0..12).map(|number| item(0, number)), ZERO);
        let (batch, _) = send(&mut dispatcher, ZERO);
        dispatcher.push(LANE_1, [item(1, 0)], ZERO);
        assert_eq!(unload(&mut dispatcher), [(LANE_0, upto(12)), (LANE_1, vec![0])]);
        assert_eq!(unload(&mut dispatcher), [(LANE_0, vec![]), (LANE_1, vec![])], "once");
        assert_eq!((dispatcher.pending(), dispatcher.queued(LANE_0)), (0, (0, 0)));
        assert_eq!((dispatcher.is_locked(LANE_0), dispatcher.is_locked(LANE_1)), (true, false));
        dispatcher.push(LANE_0, [item(0, 12)], ZERO);
        assert_eq!(dispatcher.poll(SECOND), Action::Wait(None), "no second request of the lane");
        let finished = dispatcher.answered(batch, response, TOOK, SECOND, 0.5);
        let expected: Vec<_> = (0..accepted).map(|number: u64| (number, Fate::Accepted, true)).collect();
        assert_eq!(ends(&finished), expected, "{response:?}");
        assert_eq!((dispatcher.is_locked(LANE_0), dispatcher.pending()), (false, 1));
        dispatcher.resume();
        assert_eq!(send(&mut dispatcher, SECOND).1, [item(0, 12)]);
    }
}

#[test]
fn unloading_halved_and_waiting_batches() {
    let mut dispatcher = Dispatcher::new(limits(), None);
    dispatcher.push(LANE_0, (0..8).map(|number| item(0, number)), ZERO);
    let (batch, _) = send(&mut dispatcher, ZERO);
    dispatcher.answered(batch, REFUSED, TOOK, ZERO, 0.5);
    let (batch, half) = send(&mut dispatcher, ZERO);
    assert_eq!(numbers(&half), upto(4));
    assert_eq!(unload(&mut dispatcher), [(LANE_0, upto(8))]);
    // Only what was under way is told of.
    let finished = dispatcher.answered(batch, OK, TOOK, ZERO, 0.5);
    assert_eq!(ends(&finished), (0..4).map(|number: u64| (number, Fate::Accepted, true)).collect::<Vec<_>>());
    assert!(!dispatcher.is_locked(LANE_0));
    // Nothing of a batch that waits for its next attempt is under way.
    dispatcher.push(LANE_0, (0..8).map(|number| item(0, number)), ZERO);
    let (batch, _) = send(&mut dispatcher, ZERO);
    dispatcher.answered(batch, DOWN, TOOK, ZERO, 0.5);
    dispatcher.push(LANE_0, [item(0, 8)], ZERO);
    assert_eq!(unload(&mut dispatcher), [(LANE_0, upto(9))]);
    assert_eq!((dispatcher.is_locked(LANE_0), dispatcher.poll(ZERO)), (false, Action::Wait(None)));
}

#[test]
fn unloading_leaves_lanes_that_bury_and_replays() {
    for asked in [false, true] {
        let mut dispatcher = Dispatcher::new(singles(), None);
        dispatcher.push(LANE_0, (0..3).map(|number| item(0, number)), ZERO);
        let (batch, _) = send(&mut dispatcher, ZERO);
        dispatcher.answered(batch, REFUSED, TOOK, ZERO, 0.5);
        let mut bury = asked.then(|| dispatcher.poll(ZERO));
        dispatcher.push(LANE_1, [item(1, 0)], ZERO);
        dispatcher.push(LaneId::Replay, [letter(0)], ZERO);
        assert_eq!(unload(&mut dispatcher), [(LANE_1, vec![0])]);
        assert_eq!(dispatcher.pending(), 4);
        let Action::Bury { batch, .. } = bury.take().unwrap_or_else(|| dispatcher.poll(ZERO)) else { panic!("buries") };
        assert_eq!(ends(&dispatcher.buried(batch, Fate::Dead)), [(0, Fate::Dead, false)]);
        assert_eq!(send(&mut dispatcher, ZERO).1, [item(0, 1)]);
        assert_eq!(send(&mut dispatcher, ZERO).1, [letter(0)]);
    }
}

/// What a request meets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Weather {
    Fine,
    /// Segment takes it, the answer is lost.
    Lost,
    Down,
    /// Down, and it says until when.
    Busy,
    Throttled,
    /// Throttled without a number.
    Slow,
    Unauthorized,
    Misconfigured,
    Forbidden,
}

/// What happens next.
#[derive(Debug, Clone, Copy)]
enum Step {
    Push {
        lane: LaneId,
        count: u64,
    },
    /// So many answers of one kind, one after the other.
    Answers {
        weather: Weather,
        times: u8,
        pick: u8,
    },
    Buried,
    Pause,
    Resume,
    Later(Duration),
}

const LANES: [LaneId; 5] = [LANE_0, LANE_1, LaneId::Partition(2), LaneId::Partition(3), LaneId::Replay];
/// How long the server wants patience.
const WINDOW: Duration = Duration::from_secs(2);

fn weather() -> impl Strategy<Value = Weather> {
    prop_oneof![
        8 => Just(Weather::Fine),
        2 => Just(Weather::Lost),
        2 => Just(Weather::Down),
        1 => Just(Weather::Busy),
        1 => Just(Weather::Throttled),
        1 => Just(Weather::Slow),
        1 => Just(Weather::Unauthorized),
        1 => Just(Weather::Misconfigured),
        1 => Just(Weather::Forbidden),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..LANES.len(), 1u64..12).prop_map(|(lane, count)| Step::Push { lane: LANES[lane], count }),
        10 => (weather(), 1u8..8, any::<u8>())
            .prop_map(|(weather, times, pick)| Step::Answers { weather, times, pick }),
        1 => Just(Step::Buried),
        1 => Just(Step::Pause),
        1 => Just(Step::Resume),
        1 => (0u64..7_000).prop_map(|ms| Step::Later(Duration::from_millis(ms))),
    ]
}

/// A connection, a Segment, and what is known of every call.
struct World {
    dispatcher: Dispatcher,
    now: Duration,
    poison: HashSet<(LaneId, u64)>,
    /// Calls of each lane so far.
    pushed: HashMap<LaneId, u64>,
    under_way: Vec<Sent>,
    burying: Vec<BatchId>,
    sent: HashSet<(LaneId, u64)>,
    arrived: HashMap<LaneId, Vec<u64>>,
    ended: HashMap<(LaneId, u64), Fate>,
    closed_until: Duration,
    /// A request went out while the connection was in trouble, and no answer has come since.
    trying: bool,
}

impl World {
    fn new(rate: Option<u32>, poison: HashSet<(LaneId, u64)>) -> Self {
        Self {
            dispatcher: Dispatcher::new(limits(), rate),
            now: ZERO,
            poison,
            pushed: HashMap::new(),
            under_way: Vec::new(),
            burying: Vec::new(),
            sent: HashSet::new(),
            arrived: HashMap::new(),
            ended: HashMap::new(),
            closed_until: ZERO,
            trying: false,
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Push { lane, count } => self.push(lane, count),
            Step::Answers { weather, times, pick } => {
                for _ in 0..times {
                    self.answer(weather, pick);
                    if let Some(until) = self.act()
                        && self.under_way.is_empty()
                    {
                        self.now = until;
                    }
                    self.act();
                }
            }
            Step::Buried => self.bury(),
            Step::Pause => self.dispatcher.pause(self.now),
            Step::Resume => self.resume(),
            Step::Later(wait) => self.now += wait,
        }
        self.act();
    }

    fn push(&mut self, lane: LaneId, count: u64) {
        let pushed = self.pushed.entry(lane).or_default();
        let items = (*pushed..*pushed + count).map(|number| match lane {
            LaneId::Partition(partition) => item(partition, number),
            LaneId::Replay => letter(number),
        });
        self.dispatcher.push(lane, items, self.now);
        *pushed += count;
    }

    fn resume(&mut self) {
        self.dispatcher.resume();
        self.trying = false;
    }

    /// Does what is asked for until it is to wait.
    fn act(&mut self) -> Option<Duration> {
        for _ in 0..1_000 {
            match self.dispatcher.poll(self.now) {
                Action::Send { batch, items, .. } => self.sends(batch, items),
                Action::Bury { batch, item, .. } => {
                    assert!(self.poison.contains(&place(&item)), "buries what is good");
                    self.burying.push(batch);
                }
                Action::End(_) => panic!("nobody is suppressed"),
                Action::Wait(until) => {
                    assert!(until.is_none_or(|until| until > self.now), "a wait is a wait");
                    return until;
                }
            }
        }
        panic!("asks for more and more");
    }

    fn sends(&mut self, batch: BatchId, items: Vec<Item>) {
        assert!(!self.dispatcher.is_paused(), "sends while paused");
        assert!(self.now >= self.closed_until.max(self.dispatcher.closed_until()), "sends in a closed window");
        if self.dispatcher.trouble().is_some() {
            assert!(!self.trying, "two tries at once");
            self.trying = true;
        }
        assert!(!items.is_empty() && items.len() <= limits().items_max);
        let lanes: HashSet<LaneId> = items.iter().map(|item| item.ticket.lane()).collect();
        let clash = self.under_way.iter().flat_map(|(_, items)| items).any(|item| lanes.contains(&item.ticket.lane()));
        assert!(!clash, "two requests of one lane");
        assert!(items.iter().all(|item| !self.ended.contains_key(&place(item))), "sent after its end");
        if lanes.contains(&LaneId::Replay) && items.iter().all(|item| !self.sent.contains(&place(item))) {
            let live = |lane: &&LaneId| **lane != LaneId::Replay && !self.dispatcher.is_locked(**lane);
            let waiting: usize = LANES.iter().filter(live).map(|lane| self.dispatcher.queued(*lane).0).sum();
            assert_eq!(waiting, 0, "a replay goes before live calls");
        }
        self.sent.extend(items.iter().map(place));
        self.under_way.push((batch, items));
        assert!(self.under_way.len() <= limits().in_flight_max);
    }

    fn answer(&mut self, weather: Weather, pick: u8) {
        if self.under_way.is_empty() {
            return;
        }
        let (batch, items) = self.under_way.swap_remove(usize::from(pick) % self.under_way.len());
        let poisoned = items.iter().any(|item| self.poison.contains(&place(item)));
        if matches!(weather, Weather::Fine | Weather::Lost) && !poisoned {
            for (lane, number) in items.iter().map(place) {
                let seen = self.arrived.entry(lane).or_default();
                if !seen.contains(&number) {
                    seen.push(number);
                }
            }
        }
        if matches!(weather, Weather::Busy | Weather::Throttled) {
            self.closed_until = self.closed_until.max(self.now + WINDOW);
        }
        let response = match weather {
            Weather::Fine if poisoned => REFUSED,
            Weather::Fine => OK,
            Weather::Lost => Response::Unanswered,
            Weather::Down => DOWN,
            Weather::Busy => whole(503, Answer::Unavailable(Some(WINDOW))),
            Weather::Throttled => whole(429, Answer::Throttled(Some(WINDOW))),
            Weather::Slow => whole(429, Answer::Throttled(None)),
            Weather::Unauthorized => UNAUTHORIZED,
            Weather::Misconfigured => whole(404, Answer::Misconfigured),
            Weather::Forbidden => Response::Forbidden,
        };
        self.trying = false;
        let finished = self.dispatcher.answered(batch, response, TOOK, self.now, 0.5);
        self.finish(finished);
    }

    fn bury(&mut self) {
        if let Some(batch) = self.burying.pop() {
            let finished = self.dispatcher.buried(batch, Fate::Dead);
            self.finish(finished);
        }
    }

    fn finish(&mut self, finished: Vec<Finished>) {
        for Finished { item, fate, orphan } in finished {
            assert!(!orphan, "nothing was given away");
            assert!(self.ended.insert(place(&item), fate).is_none(), "ended twice");
        }
    }

    /// The faults are over: everything comes to its end.
    fn end(mut self) {
        if self.dispatcher.is_paused() {
            self.resume();
        }
        for _ in 0..20_000 {
            let until = self.act();
            match (self.under_way.is_empty(), self.burying.is_empty(), until) {
                (false, _, _) => self.answer(Weather::Fine, 0),
                (true, false, _) => self.bury(),
                (true, true, Some(until)) => self.now = until,
                (true, true, None) => break,
            }
        }
        assert_eq!(self.dispatcher.pending(), 0);
        for (lane, pushed) in self.pushed {
            for number in 0..pushed {
                let expected = if self.poison.contains(&(lane, number)) { Fate::Dead } else { Fate::Accepted };
                assert_eq!(self.ended.get(&(lane, number)), Some(&expected), "{lane:?} {number}");
            }
            let seen = self.arrived.remove(&lane).unwrap_or_default();
            assert!(seen.is_sorted(), "{lane:?} arrived as {seen:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever happens on the way: every call ends exactly once, first arrivals at Segment keep each lane's order, at
    /// most one request of a lane is under way, nothing is sent while paused or in a closed window, one request at a
    /// time goes out in an outage, no replay begins before live calls, poison and only poison dies, and limits hold.
    #[test]
    fn laws(
        steps in proptest::collection::vec(step(), 1..80),
        rate in proptest::option::of(1u32..60),
        poison in proptest::collection::hash_set((0..LANES.len(), 0u64..40), 0..5),
    ) {
        let poison = poison.into_iter().map(|(lane, number)| (LANES[lane], number)).collect();
        let mut world = World::new(rate, poison);
        for step in steps {
            world.step(step);
        }
        world.end();
    }
}
