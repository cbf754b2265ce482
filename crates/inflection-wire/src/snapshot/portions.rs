//! The state in portions. Most mails have little to tell and stand in columns; the others stand whole, as in the log.

use std::collections::BTreeMap;

use bytes::Bytes;
use inflection_domain::{BounceClass, Delivery, Hash128, PartitionState, Person, Restore, Tombstone, UserId};
use prost::Message as _;

use crate::decisions::{decode_delivery, decode_held, decode_recent, encode_delivery, encode_held, encode_recent};
use crate::{DecodeError, enums, joined, keys as split, pb, tombstone};

/// Keys of one portion: enough that its own cost is nothing, few enough that it stays in the cache.
const KEYS_MAX: usize = 4096;

const DELIVERED: u32 = 1;
const SPAM: u32 = 2;
const MACHINE_OPEN: u32 = 4;
const PER_OPEN: u32 = 8;
const OPEN_WINNER: u32 = 16;

/// The state, portion by portion.
pub(super) fn encode(state: &PartitionState) -> impl Iterator<Item = pb::StatePortion> {
    let seen = lists(state.seen_events()).map(encode_seen);
    let persons = lists(state.persons()).map(encode_persons);
    let mails = lists(state.deliveries()).map(encode_mails);
    let tombstones = lists(state.tombstones()).map(|tombstones| encode_tombstones(&tombstones));
    let held = lists(state.held_clicks()).map(|clicks| pb::StatePortion {
        held: clicks.into_iter().map(|(number, click)| encode_held(number, click)).collect(),
        ..pb::StatePortion::default()
    });
    let recent = lists(state.recent_clicks()).map(|mails| pb::StatePortion {
        recent_clicks: mails.into_iter().map(|(mail, recent)| encode_recent(mail, recent)).collect(),
        ..pb::StatePortion::default()
    });
    seen.chain(persons).chain(mails).chain(tombstones).chain(held).chain(recent)
}

/// Adds a portion to the state that is being rebuilt.
pub(super) fn decode(portion: Bytes, state: &mut Restore) -> Result<(), DecodeError> {
    let portion = pb::StatePortion::decode(portion)?;
    for day in &portion.seen {
        state.seen_events(day.day, split("event_keys", &day.event_keys)?);
    }
    if let Some(columns) = &portion.persons {
        state.persons(decode_persons(columns)?);
    }
    if let Some(columns) = &portion.mails {
        state.deliveries(decode_mails(columns)?);
    }
    for delivery in portion.deliveries {
        state.deliveries([decode_delivery(delivery)?]);
    }
    state.tombstones(split("tombstones", &portion.tombstones)?.map(tombstone));
    for click in &portion.held {
        state.held([decode_held(click)?]);
    }
    for recent in &portion.recent_clicks {
        state.recent([decode_recent(recent)?]);
    }
    Ok(())
}

/// Cuts what comes into lists of [`KEYS_MAX`].
fn lists<T>(mut items: impl Iterator<Item = T>) -> impl Iterator<Item = Vec<T>> {
    std::iter::from_fn(move || {
        let list: Vec<T> = items.by_ref().take(KEYS_MAX).collect();
        (!list.is_empty()).then_some(list)
    })
}

fn encode_seen(events: Vec<(u32, Hash128)>) -> pb::StatePortion {
    let mut days: BTreeMap<u32, Vec<u8>> = BTreeMap::new();
    for (day, event) in events {
        days.entry(day).or_default().extend_from_slice(&event.to_bytes());
    }
    let seen = days.into_iter().map(|(day, keys)| pb::SeenDay { day, event_keys: keys.into() });
    pb::StatePortion { seen: seen.collect(), ..pb::StatePortion::default() }
}

fn encode_tombstones(tombstones: &[Tombstone]) -> pb::StatePortion {
    let tombstones = joined(tombstones.iter().map(|tombstone| tombstone.to_bytes()));
    pb::StatePortion { tombstones, ..pb::StatePortion::default() }
}

fn encode_persons(persons: Vec<(Hash128, &Person)>) -> pb::StatePortion {
    let (mut keys, mut users) = (Vec::with_capacity(persons.len() * 16), String::new());
    for (key, Person::Known(user)) in persons {
        keys.extend_from_slice(&key.to_bytes());
        users.push_str(user.as_str());
        users.push('\0');
    }
    let columns = pb::PersonColumns { person_keys: keys.into(), known_user_ids: users };
    pb::StatePortion { persons: Some(columns), ..pb::StatePortion::default() }
}

fn decode_persons(columns: &pb::PersonColumns) -> Result<Vec<(Hash128, Person)>, DecodeError> {
    let keys = split("person_keys", &columns.person_keys)?;
    let users: Vec<&str> = columns.known_user_ids.split_terminator('\0').collect();
    if users.len() != keys.len() {
        return Err(DecodeError::Field("known_user_ids"));
    }
    let user = |text: &str| UserId::new(text).ok().ok_or(DecodeError::Field("known_user_ids"));
    keys.zip(users).map(|(key, text)| Ok((key, Person::Known(user(text)?)))).collect()
}

fn encode_mails(deliveries: Vec<(Hash128, Delivery)>) -> pb::StatePortion {
    let (mut keys, mut whole) = (Vec::with_capacity(deliveries.len() * 16), Vec::new());
    let mut columns = pb::MailColumns::default();
    for (key, delivery) in deliveries {
        if delivery.clicks.is_empty() && delivery.pending.is_empty() && delivery.scopes.is_empty() {
            keys.extend_from_slice(&key.to_bytes());
            columns.days.push(delivery.day);
            columns.marks.push(marks(&delivery));
            columns.unique_opens.push(delivery.unique_open.map_or(0, enums::open_source_to));
            columns.bounces.push(delivery.bounces.iter().fold(0, |bits, class| bits | bit(*class)));
            columns.open_winners.extend(delivery.open_winner);
            columns.delivered_at.push(delivery.delivered_at);
        } else {
            whole.push(encode_delivery((key, delivery)));
        }
    }
    columns.mail_keys = keys.into();
    pb::StatePortion { mails: Some(columns), deliveries: whole, ..pb::StatePortion::default() }
}

fn decode_mails(columns: &pb::MailColumns) -> Result<Vec<(Hash128, Delivery)>, DecodeError> {
    let keys = split("mail_keys", &columns.mail_keys)?;
    let rows = [columns.days.len(), columns.marks.len(), columns.unique_opens.len(), columns.bounces.len()];
    if rows != [keys.len(); 4] {
        return Err(DecodeError::Field("mails"));
    }
    if ![0, keys.len()].contains(&columns.delivered_at.len()) {
        return Err(DecodeError::Field("delivered_at"));
    }
    let mut delivered_at = columns.delivered_at.iter().copied().chain(std::iter::repeat(0));
    let mut winners = columns.open_winners.iter().copied();
    let mut winner = || winners.next().ok_or(DecodeError::Field("open_winners"));
    let rows = keys.zip(&columns.days).zip(&columns.marks).zip(&columns.unique_opens).zip(&columns.bounces);
    rows.map(|((((key, day), marks), unique_open), bounces)| {
        let delivery = Delivery {
            day: *day,
            delivered: marks & DELIVERED != 0,
            delivered_at: delivered_at.next().unwrap_or_default(),
            spam: marks & SPAM != 0,
            machine_open: marks & MACHINE_OPEN != 0,
            unique_open: enums::open_source_from(*unique_open),
            open_winner: if marks & OPEN_WINNER == 0 { None } else { Some(winner()?) },
            per_open: marks & PER_OPEN != 0,
            bounces: BounceClass::ALL.into_iter().filter(|class| bounces & bit(*class) != 0).collect(),
            ..Delivery::default()
        };
        Ok((key, delivery))
    })
    .collect()
}

fn marks(delivery: &Delivery) -> u32 {
    let marks = [
        (DELIVERED, delivery.delivered),
        (SPAM, delivery.spam),
        (MACHINE_OPEN, delivery.machine_open),
        (PER_OPEN, delivery.per_open),
        (OPEN_WINNER, delivery.open_winner.is_some()),
    ];
    marks.into_iter().filter(|(_, set)| *set).map(|(mark, _)| mark).sum()
}

fn bit(class: BounceClass) -> u32 {
    1u32 << enums::bounce_class_to(class)
}
