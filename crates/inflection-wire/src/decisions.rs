//! Decisions on their way from identity to delivery, with the state changes that make the log the state.

use std::cell::RefCell;

use bytes::Bytes;
use inflection_domain::{
    Call, CallKey, Changes, Delivery, Hash128, HeldClick, LinkClick, PendingLink, Person, RecentClicks, Timestamp,
    UserId, WorkspaceId,
};
use prost::Message as _;
use prost::encoding::message;

use crate::events::{Event, decode_event, encode_sealed, workspace};
use crate::fields::{Fields, put_bytes, put_message, put_number};
use crate::{CarriedTrace, DecodeError, carried_trace, enums, joined, key, keys, optional_key, pb, tombstone};

/// Memory that a thread keeps for writing messages, in bytes.
const SCRATCH_BYTES_MAX: usize = 1024 * 1024;
/// Bytes of a decision in its message, rather less than more: to guess how many a message has.
const USUAL_DECISION_BYTES: usize = 500;
/// Field of the decisions.
const DECISIONS: u32 = 3;
/// Field of the changes of state.
const CHANGES: u32 = 4;
/// Field of a decision.
const TRACE: u32 = 14;

/// One step of the fold: output, change of state and input offset in one message.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct DecisionBatch {
    /// Sequence in the partition's event log up to which input is consumed.
    pub consumed_through: u64,
    /// Events of the message after that one that are consumed as well.
    pub consumed_events: u32,
    /// Receive time of the oldest input.
    pub received_at: Timestamp,
    /// The decisions, in input order.
    pub decisions: Vec<Decided>,
    /// What changed.
    pub changes: Changes,
    /// Counts since the partition's beginning.
    pub totals: Vec<WorkspaceTotals>,
}

/// One fact and what Segment is told because of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Decided {
    /// Whose fact it was.
    pub workspace: WorkspaceId,
    /// When it happened.
    pub occurred_at: Timestamp,
    /// The user, or `None` while the person is anonymous.
    pub user: Option<UserId>,
    /// The calls, in order.
    pub calls: Vec<Call>,
    /// The sealed body.
    pub body: Bytes,
    /// Key of the person; `None` in messages of versions that did not write it.
    pub person: Option<Hash128>,
    /// The trace it belongs to, if its event is traced.
    pub trace: CarriedTrace,
}

/// Counts of one workspace in one partition since its beginning.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "documented in proto/inflection/v1/decisions.proto")]
pub struct WorkspaceTotals {
    pub workspace: WorkspaceId,
    pub folded: u64,
    pub duplicates: u64,
    pub calls: u64,
    pub identity_conflicts: u64,
    pub contradictions: u64,
    pub undecodable: u64,
    pub suppressed: u64,
    pub held: u64,
}

impl WorkspaceTotals {
    /// Zero of everything.
    #[must_use]
    pub fn new(workspace: WorkspaceId) -> Self {
        Self {
            workspace,
            folded: 0,
            duplicates: 0,
            calls: 0,
            identity_conflicts: 0,
            contradictions: 0,
            undecodable: 0,
            suppressed: 0,
            held: 0,
        }
    }
}

impl DecisionBatch {
    /// Writes the bus message, of exactly its size: it is kept for readers.
    #[must_use]
    pub fn encode(self) -> Bytes {
        // Where it grows is used again: it is large, and fresh memory costs more than the copy.
        thread_local!(static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) });
        SCRATCH.with_borrow_mut(|scratch| {
            scratch.clear();
            self.write(scratch);
            let message = Bytes::copy_from_slice(scratch);
            scratch.shrink_to(SCRATCH_BYTES_MAX);
            message
        })
    }

    fn write(self, out: &mut Vec<u8>) {
        put_number(out, 1, self.consumed_through);
        put_number(out, 2, self.received_at.as_ms().cast_unsigned());
        for decided in &self.decisions {
            put_message(out, DECISIONS, |out| encode_decided(decided, out));
        }
        let changes = encode_changes(self.changes);
        if changes != pb::StateChanges::default() {
            message::encode(CHANGES, &changes, out);
        }
        for totals in &self.totals {
            put_message(out, 5, |out| encode_totals(totals).encode_raw(out));
        }
        put_number(out, 6, u64::from(self.consumed_events));
    }

    /// Reads a bus message. Bodies are shared with `message`, not copied.
    ///
    /// # Errors
    /// [`DecodeError`] when it is no decision batch; a decision log has no entries that may be skipped.
    pub fn decode(message: &Bytes) -> Result<Self, DecodeError> {
        Self::read(message, |_| true)
    }

    /// Reads everything but the changes of state, which are much of a message and of use to identity only.
    ///
    /// # Errors
    /// [`DecodeError`] when it is no decision batch.
    pub fn decode_decisions(message: &Bytes) -> Result<Self, DecodeError> {
        Self::read(message, |field| field != CHANGES)
    }

    /// Reads what was consumed and the totals: what the books need.
    ///
    /// # Errors
    /// [`DecodeError`] when it is no decision batch.
    pub fn decode_totals(message: &Bytes) -> Result<Self, DecodeError> {
        Self::read(message, |field| field != CHANGES && field != DECISIONS)
    }

    fn read(message: &Bytes, wanted: impl Fn(u32) -> bool) -> Result<Self, DecodeError> {
        let (mut batch, mut last) = (Self::default(), None);
        if wanted(DECISIONS) {
            batch.decisions.reserve(message.len() / USUAL_DECISION_BYTES + 1);
        }
        let mut fields = Fields::of(message);
        while let Some((number, field)) = fields.next()? {
            match number {
                number if !wanted(number) => {}
                1 => batch.consumed_through = field.varint(),
                2 => batch.received_at = Timestamp::from_ms(field.varint().cast_signed()),
                DECISIONS => batch.decisions.push(decode_decided(field.bytes(), message, &mut last)?),
                CHANGES => batch.changes = decode_changes(pb::StateChanges::decode(field.bytes())?)?,
                5 => batch.totals.push(decode_totals(&pb::WorkspaceTotals::decode(field.bytes())?)?),
                6 => batch.consumed_events = u32::try_from(field.varint()).unwrap_or(u32::MAX),
                _ => {}
            }
        }
        Ok(batch)
    }
}

fn encode_decided(decided: &Decided, out: &mut Vec<u8>) {
    put_bytes(out, 1, decided.workspace.as_str().as_bytes());
    put_number(out, 2, decided.occurred_at.as_ms().cast_unsigned());
    put_bytes(out, 3, decided.user.as_ref().map_or("", UserId::as_str).as_bytes());
    for call in &decided.calls {
        put_message(out, 4, |out| encode_call(call, out));
    }
    put_bytes(out, 5, &decided.body);
    if let Some(person) = decided.person {
        put_bytes(out, 6, &person.to_bytes());
    }
    if let Some(trace) = &decided.trace {
        put_bytes(out, TRACE, &trace[..]);
    }
}

fn decode_decided(decision: &[u8], message: &Bytes, last: &mut Option<WorkspaceId>) -> Result<Decided, DecodeError> {
    let (mut workspace_id, mut occurred_at, mut user) = ("", Timestamp::default(), "");
    let (mut calls, mut body, mut person, mut trace) = (Vec::new(), &[][..], &[][..], None);
    let mut fields = Fields::of(decision);
    while let Some((number, field)) = fields.next()? {
        match number {
            1 => workspace_id = field.text("workspace")?,
            2 => occurred_at = Timestamp::from_ms(field.varint().cast_signed()),
            3 => user = field.text("user_id")?,
            4 => calls.push(decode_call(field.bytes())?),
            5 => body = field.bytes(),
            6 => person = field.bytes(),
            TRACE => trace = carried_trace(field.bytes()),
            _ => {}
        }
    }
    let user = (!user.is_empty()).then(|| UserId::new(user).map_err(|_invalid| DecodeError::Field("user_id")));
    let workspace = workspace(workspace_id, last)?;
    let person = optional_key("person_key", person)?;
    let (user, body) = (user.transpose()?, message.slice_ref(body));
    Ok(Decided { workspace, occurred_at, user, calls, body, person, trace })
}

fn encode_call(call: &Call, out: &mut Vec<u8>) {
    put_number(out, 1, enums::as_varint(enums::call_kind_to(call.kind)));
    put_bytes(out, 2, &call.key.to_bytes());
    put_number(out, 3, u64::from(call.links));
    if let Some(unique) = call.unique {
        // An optional flag is there also when it is false.
        out.extend_from_slice(&[4 << 3, u8::from(unique)]);
    }
    put_number(out, 5, enums::as_varint(call.open_source.map_or(0, enums::open_source_to)));
    put_bytes(out, 6, call.link_url.as_deref().unwrap_or_default().as_bytes());
    put_number(out, 7, enums::as_varint(call.machine.map_or(0, enums::machine_times_to)));
}

fn decode_call(call: &[u8]) -> Result<Call, DecodeError> {
    let (mut kind, mut call_key, mut links, mut unique) = (None, &[][..], false, None);
    let (mut open_source, mut link_url, mut machine) = (None, "", None);
    let mut fields = Fields::of(call);
    while let Some((number, field)) = fields.next()? {
        match number {
            1 => kind = enums::call_kind_from(field.number()),
            2 => call_key = field.bytes(),
            3 => links = field.flag(),
            4 => unique = Some(field.flag()),
            5 => open_source = enums::open_source_from(field.number()),
            6 => link_url = field.text("link_url")?,
            7 => machine = enums::machine_times_from(field.number()),
            _ => {}
        }
    }
    Ok(Call {
        kind: kind.ok_or(DecodeError::Field("call.kind"))?,
        key: CallKey::from_bytes(key("call_key", call_key)?.to_bytes()),
        links,
        unique,
        machine,
        open_source,
        link_url: (!link_url.is_empty()).then(|| link_url.into()),
    })
}

fn encode_changes(changes: Changes) -> pb::StateChanges {
    pb::StateChanges {
        log_time_ms: changes.log_time.as_ms(),
        seen: joined(changes.seen.iter().map(|key| key.to_bytes())),
        suppressed: joined(changes.suppressed.iter().map(|tombstone| tombstone.to_bytes())),
        lifted: joined(changes.lifted.iter().map(|tombstone| tombstone.to_bytes())),
        forgotten_persons: joined(changes.forgotten_persons.iter().map(|key| key.to_bytes())),
        forgotten_mails: joined(changes.forgotten_mails.iter().map(|key| key.to_bytes())),
        persons: changes.persons.into_iter().map(encode_person).collect(),
        deliveries: changes.deliveries.into_iter().map(encode_delivery).collect(),
        clock_ms: changes.clock.as_ms(),
        held: changes.held.iter().map(|(number, click)| encode_held(*number, click)).collect(),
        released: changes.released,
        burst: changes.burst,
        recent_clicks: changes.recent.iter().map(|(mail, recent)| encode_recent(*mail, recent)).collect(),
    }
}

fn decode_changes(pb: pb::StateChanges) -> Result<Changes, DecodeError> {
    Ok(Changes {
        log_time: Timestamp::from_ms(pb.log_time_ms),
        seen: keys("seen", &pb.seen)?.collect(),
        suppressed: keys("suppressed", &pb.suppressed)?.map(tombstone).collect(),
        lifted: keys("lifted", &pb.lifted)?.map(tombstone).collect(),
        forgotten_persons: keys("forgotten_persons", &pb.forgotten_persons)?.collect(),
        forgotten_mails: keys("forgotten_mails", &pb.forgotten_mails)?.collect(),
        persons: pb.persons.into_iter().map(decode_person).collect::<Result<_, _>>()?,
        deliveries: pb.deliveries.into_iter().map(decode_delivery).collect::<Result<_, _>>()?,
        clock: Timestamp::from_ms(pb.clock_ms),
        held: pb.held.iter().map(decode_held).collect::<Result<_, _>>()?,
        released: pb.released,
        burst: pb.burst,
        recent: pb.recent_clicks.iter().map(decode_recent).collect::<Result<_, _>>()?,
    })
}

fn encode_person((key, Person::Known(user)): (Hash128, Person)) -> pb::PersonState {
    pb::PersonState {
        person_key: Bytes::copy_from_slice(&key.to_bytes()),
        state: Some(pb::person_state::State::KnownUserId(user.as_str().to_owned())),
    }
}

fn decode_person(pb: pb::PersonState) -> Result<(Hash128, Person), DecodeError> {
    let pb::person_state::State::KnownUserId(user) = pb.state.ok_or(DecodeError::Field("person.state"))?;
    let user = UserId::new(user).map_err(|_invalid| DecodeError::Field("known_user_id"))?;
    Ok((key("person_key", &pb.person_key)?, Person::Known(user)))
}

pub(crate) fn encode_delivery((key, delivery): (Hash128, Delivery)) -> pb::DeliveryState {
    pb::DeliveryState {
        mail_key: Bytes::copy_from_slice(&key.to_bytes()),
        day: delivery.day,
        delivered: delivery.delivered,
        spam: delivery.spam,
        machine_open: delivery.machine_open,
        unique_open: delivery.unique_open.map_or(0, enums::open_source_to),
        open_winner: delivery.open_winner,
        clicks: delivery.clicks.iter().flat_map(|click| [click.link, click.winner]).collect(),
        pending: delivery
            .pending
            .into_iter()
            .map(|pending| pb::PendingLink { link_key: pending.link, url: pending.url.into() })
            .collect(),
        per_open: delivery.per_open,
        bounces: delivery.bounces.into_iter().map(enums::bounce_class_to).collect(),
        scopes: delivery.scopes,
        delivered_at: delivery.delivered_at,
    }
}

pub(crate) fn encode_held(number: u64, click: &HeldClick) -> pb::HeldClickState {
    pb::HeldClickState {
        number,
        until_ms: click.until.as_ms(),
        burst: click.burst,
        erased: click.erased,
        event: encode_sealed(&click.head, &click.body).into(),
    }
}

pub(crate) fn decode_held(pb: &pb::HeldClickState) -> Result<(u64, HeldClick), DecodeError> {
    let Event { head, body, .. } = decode_event(&pb.event, &pb.event, &mut None)?;
    let until = Timestamp::from_ms(pb.until_ms);
    Ok((pb.number, HeldClick { until, burst: pb.burst, erased: pb.erased, head, body: body[..].into() }))
}

pub(crate) fn encode_recent(mail: Hash128, recent: &RecentClicks) -> pb::RecentClicksState {
    pb::RecentClicksState {
        mail_key: Bytes::copy_from_slice(&mail.to_bytes()),
        touched_ms: recent.touched.as_ms(),
        links: recent.links.iter().map(|(link, _)| *link).collect(),
        at_ms: recent.links.iter().map(|(_, at)| *at).collect(),
    }
}

pub(crate) fn decode_recent(pb: &pb::RecentClicksState) -> Result<(Hash128, RecentClicks), DecodeError> {
    if pb.links.len() != pb.at_ms.len() {
        return Err(DecodeError::Field("recent_clicks"));
    }
    let links = pb.links.iter().copied().zip(pb.at_ms.iter().copied()).collect();
    Ok((key("mail_key", &pb.mail_key)?, RecentClicks { touched: Timestamp::from_ms(pb.touched_ms), links }))
}

pub(crate) fn decode_delivery(pb: pb::DeliveryState) -> Result<(Hash128, Delivery), DecodeError> {
    let (clicks, cut) = pb.clicks.as_chunks::<2>();
    if !cut.is_empty() {
        return Err(DecodeError::Field("clicks"));
    }
    let delivery = Delivery {
        day: pb.day,
        delivered: pb.delivered,
        spam: pb.spam,
        machine_open: pb.machine_open,
        unique_open: enums::open_source_from(pb.unique_open),
        open_winner: pb.open_winner,
        clicks: clicks.iter().map(|[link, winner]| LinkClick { link: *link, winner: *winner }).collect(),
        pending: pb
            .pending
            .into_iter()
            .map(|pending| PendingLink { link: pending.link_key, url: pending.url.into() })
            .collect(),
        per_open: pb.per_open,
        bounces: pb.bounces.into_iter().filter_map(enums::bounce_class_from).collect(),
        scopes: pb.scopes,
        delivered_at: pb.delivered_at,
    };
    Ok((key("mail_key", &pb.mail_key)?, delivery))
}

pub(crate) fn encode_totals(totals: &WorkspaceTotals) -> pb::WorkspaceTotals {
    pb::WorkspaceTotals {
        workspace: totals.workspace.as_str().to_owned(),
        folded: totals.folded,
        duplicates: totals.duplicates,
        calls: totals.calls,
        identity_conflicts: totals.identity_conflicts,
        contradictions: totals.contradictions,
        undecodable: totals.undecodable,
        suppressed: totals.suppressed,
        held: totals.held,
    }
}

pub(crate) fn decode_totals(pb: &pb::WorkspaceTotals) -> Result<WorkspaceTotals, DecodeError> {
    Ok(WorkspaceTotals {
        workspace: WorkspaceId::new(&pb.workspace).map_err(|_invalid| DecodeError::Field("workspace"))?,
        folded: pb.folded,
        duplicates: pb.duplicates,
        calls: pb.calls,
        identity_conflicts: pb.identity_conflicts,
        contradictions: pb.contradictions,
        undecodable: pb.undecodable,
        suppressed: pb.suppressed,
        held: pb.held,
    })
}

#[cfg(test)]
mod tests {
    use inflection_domain::{
        BounceClass, CallKind, FactKind, Head, LinkKind, LinkRef, MachineCheck, MachineTimes, MailRef, OpenSource,
    };

    use super::*;

    fn hash(byte: u8) -> Hash128 {
        Hash128::from_bytes([byte; 16])
    }

    fn held(workspace: &WorkspaceId, erased: bool) -> HeldClick {
        HeldClick {
            until: Timestamp::from_ms(99),
            burst: !erased,
            erased,
            head: Head {
                workspace: workspace.clone(),
                kind: FactKind::LinkClicked,
                event: hash(20),
                person: hash(21),
                user: (!erased).then(|| UserId::new("u").unwrap()),
                occurred_at: Timestamp::from_ms(-3),
                mail: MailRef { key: hash(22), known: true },
                link: (!erased).then(|| LinkRef { key: 5, url: "u".into() }),
                link_kind: LinkKind::Preference,
                machine: MachineCheck { timed: true, hold_ms: 20_000, ..MachineCheck::default() },
                bounce_class: BounceClass::default(),
                scope: 0,
                has_traits: false,
            },
            body: if erased { Box::default() } else { b"sealed".as_slice().into() },
        }
    }

    fn changes(workspace: &WorkspaceId) -> Changes {
        let delivery = Delivery {
            day: 20_000,
            machine_open: true,
            unique_open: Some(OpenSource::Pixel),
            open_winner: Some(0),
            clicks: vec![LinkClick { link: 1, winner: 2 }, LinkClick { link: 3, winner: 4 }],
            pending: vec![PendingLink { link: 5, url: "u".into() }],
            bounces: vec![BounceClass::Hard, BounceClass::Undetermined],
            scopes: vec![0, 9],
            delivered_at: u32::MAX,
            ..Delivery::default()
        };
        Changes {
            log_time: Timestamp::from_ms(6),
            seen: vec![hash(1), hash(2)],
            persons: vec![(hash(3), Person::Known(UserId::new("u").unwrap()))],
            deliveries: vec![(hash(4), delivery), (hash(5), Delivery::default())],
            suppressed: vec![tombstone(hash(6)), tombstone(hash(7))],
            lifted: vec![tombstone(hash(8))],
            forgotten_persons: vec![hash(9)],
            forgotten_mails: vec![hash(10), hash(11)],
            clock: Timestamp::from_ms(7),
            held: vec![(0, held(workspace, false)), (u64::MAX, held(workspace, true))],
            released: vec![1, 300],
            burst: vec![2, 400],
            recent: vec![
                (hash(12), RecentClicks { touched: Timestamp::from_ms(8), links: vec![(1, 2), (3, -4)] }),
                (hash(13), RecentClicks::default()),
            ],
        }
    }

    #[test]
    fn decode_undoes_encode() {
        let workspace = WorkspaceId::new("acme").unwrap();
        let call = Call {
            links: true,
            unique: Some(false),
            machine: Some(MachineTimes::Burst),
            open_source: Some(OpenSource::ConfirmedByClick),
            link_url: Some("https://example.com".into()),
            ..Call::plain(CallKind::EmailUniqueOpens, CallKey::from_bytes([3; 16]))
        };
        let batch = DecisionBatch {
            consumed_through: 42,
            consumed_events: 3,
            received_at: Timestamp::from_ms(5),
            decisions: vec![
                Decided {
                    workspace: workspace.clone(),
                    occurred_at: Timestamp::from_ms(-7),
                    user: Some(UserId::new("u").unwrap()),
                    calls: vec![call, Call::plain(CallKind::Page, CallKey::from_bytes([4; 16]))],
                    body: Bytes::from_static(b"sealed"),
                    person: Some(hash(12)),
                    trace: Some(Box::new([13; 24])),
                },
                Decided {
                    workspace: workspace.clone(),
                    occurred_at: Timestamp::default(),
                    user: None,
                    calls: vec![],
                    body: Bytes::new(),
                    person: None,
                    trace: None,
                },
            ],
            changes: changes(&workspace),
            totals: vec![WorkspaceTotals { folded: 1, calls: 2, suppressed: 3, ..WorkspaceTotals::new(workspace) }],
        };
        let encoded = batch.clone().encode();
        assert_eq!(DecisionBatch::decode(&encoded).unwrap(), batch);
        // The generated code agrees with the hand-written one: it understands the message, and is understood.
        let generated = pb::DecisionBatch::decode(&encoded[..]).unwrap();
        assert_eq!(DecisionBatch::decode(&generated.encode_to_vec().into()).unwrap(), batch);
        assert_eq!(generated.encode_to_vec(), encoded);
        let without = DecisionBatch { changes: Changes::default(), ..batch };
        assert_eq!(DecisionBatch::decode_decisions(&encoded).unwrap(), without);
        let totals = DecisionBatch { decisions: Vec::new(), ..without };
        assert_eq!(DecisionBatch::decode_totals(&encoded).unwrap(), totals);
        assert_eq!(DecisionBatch::default().encode(), Bytes::new(), "what says nothing is absent");
    }
}
