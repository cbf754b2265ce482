//! The laws of delivery, against a Segment that fails in every way it can.

use std::collections::{BTreeMap, HashMap};

use proptest::prelude::*;

use super::*;

fn item(partition: u16, number: u64) -> Item {
    let text = format!("e{partition}-{number}{{\"n\":\"{partition}-{number}\"}}");
    let split = text.find('{').unwrap();
    Item {
        bytes: Bytes::from(text),
        split,
        ticket: Ticket::Decision { partition, sequence: number },
        received_at: Timestamp::default(),
    }
}

fn limits() -> Limits {
    Limits { items_max: 8, bytes_max: 10_000, in_flight_max: 3, ..Limits::default() }
}

fn place(item: &Item) -> (u16, u64) {
    match item.ticket {
        Ticket::Decision { partition, sequence } => (partition, sequence),
        Ticket::DeadLetter => (u16::MAX, 0),
    }
}

const OK: Response = Response { status: 200, answer: Answer::Accepted };
const REFUSED: Response = Response { status: 400, answer: Answer::Refused };
const ZERO: Duration = Duration::ZERO;

#[test]
fn idle_it_sends_at_once_and_busy_it_fills_up() {
    let mut dispatcher = Dispatcher::new(limits(), None);
    assert_eq!(dispatcher.poll(ZERO), Action::Wait(None));
    dispatcher.push(LaneId::Partition(0), [item(0, 1)], ZERO);
    let Action::Send { batch, items, attempts: 0 } = dispatcher.poll(ZERO) else { panic!("sends") };
    assert_eq!(items.len(), 1);
    // Another lane's call waits for company, at most the linger.
    dispatcher.push(LaneId::Partition(1), [item(1, 1)], ZERO);
    assert_eq!(dispatcher.poll(ZERO), Action::Wait(Some(limits().linger)));
    let Action::Send { .. } = dispatcher.poll(limits().linger) else { panic!("sends after the linger") };
    // A full batch does not wait. The locked lane 0 gives nothing.
    dispatcher.push(LaneId::Partition(0), [item(0, 2)], ZERO);
    dispatcher.push(LaneId::Partition(2), (0..20).map(|number| item(2, number)), ZERO);
    let Action::Send { items, .. } = dispatcher.poll(ZERO) else { panic!("sends") };
    assert_eq!(items.iter().map(place).collect::<Vec<_>>(), (0..8).map(|number| (2, number)).collect::<Vec<_>>());
    assert_eq!(dispatcher.poll(ZERO), Action::Wait(None), "three requests are under way");
    assert_eq!(dispatcher.answered(batch, OK, ZERO, 0.5).len(), 1);
    let Action::Wait(Some(_)) = dispatcher.poll(ZERO) else { panic!("lane 0 lingers") };
}

#[test]
fn one_poison_costs_two_logarithms_and_the_rest_arrives_in_order() {
    let mut dispatcher = Dispatcher::new(Limits { items_max: 500, bytes_max: 480_000, ..limits() }, None);
    dispatcher.push(LaneId::Partition(0), (0..500).map(|number| item(0, number)), ZERO);
    let (mut requests, mut finished) = (0, Vec::new());
    loop {
        match dispatcher.poll(ZERO) {
            Action::Send { batch, items, .. } => {
                requests += 1;
                let poisoned = items.iter().any(|item| place(item).1 == 321);
                finished.extend(dispatcher.answered(batch, if poisoned { REFUSED } else { OK }, ZERO, 0.5));
            }
            Action::Bury { batch, item, status, .. } => {
                assert_eq!((place(&item).1, status, item.event_id()), (321, 400, "e0-321"));
                finished.extend(dispatcher.buried(batch));
            }
            Action::Wait(_) => break,
        }
    }
    assert!(requests <= 2 * 9 + 1, "{requests} requests");
    let numbers: Vec<u64> = finished.iter().map(|finished| place(&finished.item).1).collect();
    assert_eq!(numbers, (0..500).collect::<Vec<_>>());
    assert_eq!(finished.iter().filter(|finished| finished.fate == Fate::Dead).count(), 1);
}

#[test]
fn a_window_closes_the_whole_connection() {
    let mut dispatcher = Dispatcher::new(limits(), None);
    dispatcher.push(LaneId::Partition(0), [item(0, 1)], ZERO);
    let Action::Send { batch, .. } = dispatcher.poll(ZERO) else { panic!("sends") };
    let wait = Duration::from_secs(7);
    dispatcher.answered(batch, Response { status: 429, answer: Answer::Throttled(Some(wait)) }, ZERO, 0.0);
    dispatcher.push(LaneId::Partition(1), [item(1, 1)], ZERO);
    assert_eq!(dispatcher.poll(Duration::from_secs(6)), Action::Wait(Some(wait)));
    let Action::Send { attempts: 1, .. } = dispatcher.poll(wait) else { panic!("the refused batch goes first") };
}

#[test]
fn a_refused_key_pauses_and_keeps_everything() {
    for (status, answer, pause) in
        [(401, Answer::Unauthorized, Pause::Unauthorized(401)), (302, Answer::Misconfigured, Pause::Misconfigured(302))]
    {
        let mut dispatcher = Dispatcher::new(limits(), None);
        dispatcher.push(LaneId::Partition(0), [item(0, 1), item(0, 2)], ZERO);
        let Action::Send { batch, items, .. } = dispatcher.poll(ZERO) else { panic!("sends") };
        assert!(dispatcher.answered(batch, Response { status, answer }, ZERO, 0.5).is_empty());
        assert_eq!((dispatcher.poll(Duration::from_secs(999)), dispatcher.pause()), (Action::Wait(None), Some(pause)));
        assert_eq!(dispatcher.pending(), 2);
        dispatcher.resume();
        let Action::Send { items: again, .. } = dispatcher.poll(ZERO) else { panic!("sends again") };
        assert_eq!(again, items);
    }
}

#[test]
fn waits_grow_are_spread_and_bounded() {
    let mut dispatcher = Dispatcher::new(limits(), None);
    dispatcher.push(LaneId::Partition(0), [item(0, 1)], ZERO);
    let (shortest, longest) = limits().backoff;
    let mut now = ZERO;
    for attempt in 0..12u32 {
        let Action::Send { batch, attempts, .. } = dispatcher.poll(now) else { panic!("sends") };
        assert_eq!(attempts, attempt);
        dispatcher.answered(batch, Response { status: 503, answer: Answer::Unavailable(None) }, now, 1.0);
        let Action::Wait(Some(at)) = dispatcher.poll(now) else { panic!("waits") };
        assert!(at - now >= shortest && at - now <= longest, "{:?}", at - now);
        assert_eq!(at - now, shortest.saturating_mul(2 << attempt).min(longest));
        now = at;
    }
}

#[test]
fn the_rate_is_kept() {
    let mut dispatcher = Dispatcher::new(limits(), Some(10));
    dispatcher.push(LaneId::Partition(0), (0..100).map(|number| item(0, number)), ZERO);
    let (mut now, mut sent) = (ZERO, 0);
    while now < Duration::from_secs(5) {
        match dispatcher.poll(now) {
            Action::Send { batch, items, .. } => {
                sent += items.len();
                dispatcher.answered(batch, OK, now, 0.5);
            }
            Action::Wait(Some(at)) => now = at.max(now + Duration::from_nanos(1)),
            other @ (Action::Wait(None) | Action::Bury { .. }) => panic!("{other:?}"),
        }
    }
    assert!((50..=62).contains(&sent), "{sent} in 5 s at 10/s");
}

/// What a request meets.
#[derive(Debug, Clone, Copy)]
enum Weather {
    Fine,
    /// Segment takes it, the answer is lost.
    Lost,
    Down,
    Throttled,
    Unauthorized,
}

fn weather() -> impl Strategy<Value = Weather> {
    prop_oneof![
        4 => Just(Weather::Fine),
        2 => Just(Weather::Lost),
        2 => Just(Weather::Down),
        1 => Just(Weather::Throttled),
        1 => Just(Weather::Unauthorized),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Whatever happens on the way: every call ends exactly once, first arrivals at Segment keep each lane's order, at most
    /// one request of a lane is under way, poison and only poison dies, and limits hold.
    #[test]
    fn laws(
        pushes in proptest::collection::vec((0u16..4, 1usize..12), 1..20),
        weathers in proptest::collection::vec(weather(), 1..60),
        order in proptest::collection::vec(any::<u8>(), 1..60),
        poison in proptest::collection::hash_set((0u16..4, 0u64..40), 0..4),
    ) {
        let mut dispatcher = Dispatcher::new(limits(), None);
        let (mut now, mut next, mut pushes) = (ZERO, [0u64; 4], pushes.into_iter());
        let mut under_way: Vec<(BatchId, Vec<Item>)> = Vec::new();
        let mut arrived: BTreeMap<u16, Vec<u64>> = BTreeMap::new();
        let mut ended: HashMap<(u16, u64), Fate> = HashMap::new();
        let (mut weathers, mut order) = (weathers.into_iter(), order.into_iter().cycle());
        for _ in 0..20_000 {
            if let Some((lane, count)) = pushes.next() {
                let first = next[usize::from(lane)];
                next[usize::from(lane)] += count as u64;
                dispatcher.push(LaneId::Partition(lane), (first..first + count as u64).map(|n| item(lane, n)), now);
            }
            let mut finished = Vec::new();
            match dispatcher.poll(now) {
                Action::Send { batch, items, .. } => {
                    prop_assert!(!items.is_empty() && items.len() <= limits().items_max);
                    for (_, others) in &under_way {
                        let clash = others.iter().any(|other| items.iter().any(|item| place(item).0 == place(other).0));
                        prop_assert!(!clash, "two requests of one lane");
                    }
                    under_way.push((batch, items));
                    prop_assert!(under_way.len() <= limits().in_flight_max);
                    continue;
                }
                Action::Bury { batch, item, .. } => {
                    prop_assert!(poison.contains(&place(&item)));
                    finished = dispatcher.buried(batch);
                }
                Action::Wait(until) => {
                    if !under_way.is_empty() {
                        let pick = usize::from(order.next().unwrap()) % under_way.len();
                        let (batch, items) = under_way.swap_remove(pick);
                        let poisoned = items.iter().any(|item| poison.contains(&place(item)));
                        let weather = weathers.next().unwrap_or(Weather::Fine);
                        let response = match weather {
                            Weather::Fine | Weather::Lost if poisoned => REFUSED,
                            Weather::Fine => OK,
                            Weather::Lost => Response { status: 0, answer: Answer::Unavailable(None) },
                            Weather::Down => Response { status: 503, answer: Answer::Unavailable(None) },
                            Weather::Throttled => Response { status: 429, answer: Answer::Throttled(Some(Duration::from_secs(1))) },
                            Weather::Unauthorized => Response { status: 401, answer: Answer::Unauthorized },
                        };
                        if matches!(weather, Weather::Fine | Weather::Lost) && !poisoned {
                            for (lane, number) in items.iter().map(place) {
                                let seen = arrived.entry(lane).or_default();
                                if !seen.contains(&number) {
                                    seen.push(number);
                                }
                            }
                        }
                        finished = dispatcher.answered(batch, response, now, 0.5);
                    } else if dispatcher.pause().is_some() {
                        dispatcher.resume();
                    } else if let Some(until) = until {
                        now = until;
                    } else if pushes.len() == 0 {
                        break;
                    }
                }
            }
            for Finished { item, fate } in finished {
                prop_assert!(ended.insert(place(&item), fate).is_none(), "ended twice");
            }
        }
        prop_assert_eq!(dispatcher.pending(), 0);
        for (lane, count) in (0u16..).zip(next) {
            for number in 0..count {
                let expected = if poison.contains(&(lane, number)) { Fate::Dead } else { Fate::Accepted };
                prop_assert_eq!(ended.get(&(lane, number)), Some(&expected));
            }
            let seen = arrived.remove(&lane).unwrap_or_default();
            prop_assert!(seen.is_sorted(), "lane {} arrived as {:?}", lane, seen);
        }
    }
}
