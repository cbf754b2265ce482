//! Messages of a later version are read by this one: fields that it does not know, of every wire type, anywhere in a message, change
//! nothing of what it knows.
//!
//! Samples are made from `proto/` itself, every field of every message set, so that what is added there is in here.

use std::fmt::Debug;
use std::io::Write as _;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::DeflateEncoder;
use inflection_domain::{Hash128, PartitionState};
use inflection_wire::{
    ClosedWindow, DeadLetterEntry, DecisionBatch, DeliveryProgress, EventBatch, Installation, MemberRecord,
    OperatorHold, OwnerRecord, ParkedBatch, RejectedEvents, Snapshot, SnapshotHead, SnapshotIndex, SuppressedPersons,
    decode_alias, decode_body,
};
use proptest::prelude::*;

/// Bytes before the content of a snapshot, as `proto/inflection/v1/snapshot.proto` says.
const SNAPSHOT_HEADER_BYTES: usize = 36;
/// Numbers that no field of ours has.
const UNKNOWN_FIELDS: std::ops::Range<u64> = 1_000..100_000;

/// A field of `proto/`.
#[derive(Debug, Clone)]
struct Field {
    name: String,
    number: u64,
    kind: Kind,
    repeated: bool,
    /// Of a oneof only one is set.
    choice: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    Varint,
    Fixed64,
    Fixed32,
    Text,
    Bytes,
    Message(String),
}

/// The messages of `proto/`, by name.
#[derive(Debug)]
struct Proto(std::collections::BTreeMap<String, Vec<Field>>);

impl Proto {
    fn read() -> Self {
        let (protos, files) = super::protos();
        let set = protox::compile(files, [&protos]).unwrap();
        let messages = set.file.iter().flat_map(|file| &file.message_type).map(|message| {
            let fields = message.field.iter().map(|field| Field {
                name: field.name().to_owned(),
                number: u64::try_from(field.number()).unwrap(),
                // Numbers of descriptor.proto.
                kind: match field.r#type.unwrap() {
                    6 => Kind::Fixed64,
                    7 => Kind::Fixed32,
                    9 => Kind::Text,
                    11 => Kind::Message(field.type_name().rsplit('.').next().unwrap().to_owned()),
                    12 => Kind::Bytes,
                    3 | 4 | 5 | 8 | 13 | 14 | 17 | 18 => Kind::Varint,
                    other => panic!("{} has type {other}, which this test does not know", field.name()),
                },
                repeated: field.label.unwrap() == 3,
                choice: field.oneof_index.is_some() && !field.proto3_optional(),
            });
            (message.name().to_owned(), fields.collect())
        });
        Self(messages.collect())
    }

    /// A message with every field set; of a oneof the one of this number.
    fn sample(&self, message: &str, choice: usize) -> Vec<u8> {
        let fields = &self.0[message];
        let choices: Vec<u64> = fields.iter().filter(|field| field.choice).map(|field| field.number).collect();
        let chosen = choices.get(choice % choices.len().max(1));
        let mut out = Vec::new();
        for field in fields.iter().filter(|field| !field.choice || Some(&field.number) == chosen) {
            for _ in 0..if field.repeated { 2 } else { 1 } {
                self.put(field, choice, &mut out);
            }
        }
        out
    }

    fn put(&self, Field { name, number, kind, .. }: &Field, choice: usize, out: &mut Vec<u8>) {
        match kind {
            // One suits every number of ours, flag and enum; there must be more than one partition.
            Kind::Varint => {
                put_varint(out, number << 3);
                put_varint(out, if name == "partitions" { 4 } else { 1 });
            }
            Kind::Fixed64 => {
                put_varint(out, number << 3 | 1);
                out.extend_from_slice(&7_u64.to_le_bytes());
            }
            Kind::Fixed32 => {
                put_varint(out, number << 3 | 5);
                out.extend_from_slice(&7_u32.to_le_bytes());
            }
            Kind::Text if name == "email" => put_bytes(out, *number, b"a@example.com"),
            Kind::Text => put_bytes(out, *number, b"a"),
            Kind::Bytes if name == "body" => put_bytes(out, *number, &self.sample("FactBody", choice)),
            // Of a held click.
            Kind::Bytes if name == "event" => put_bytes(out, *number, &self.sample("Event", choice)),
            Kind::Bytes if name == "calls" => put_bytes(out, *number, &deflated(&self.sample("ParkedCalls", choice))),
            // Keys are 16 bytes, the installation's is 32.
            Kind::Bytes => put_bytes(out, *number, &[7; 32][..if name == "key" { 32 } else { 16 }]),
            Kind::Message(other) => put_bytes(out, *number, &self.sample(other, choice)),
        }
    }

    /// The same message with fields between its own that nobody knows, and so in the messages within it.
    fn aged(&self, message: &str, bytes: &[u8], random: &mut Random) -> Vec<u8> {
        let (mut rest, mut out) = (bytes, Vec::new());
        while !rest.is_empty() {
            random.put_unknown(&mut out);
            let (start, key) = (rest, take_varint(&mut rest));
            let (number, wire_type) = (key >> 3, key & 7);
            let known = self.0[message].iter().find(|field| field.number == number).unwrap();
            match wire_type {
                0 => drop(take_varint(&mut rest)),
                1 => rest = &rest[8..],
                5 => rest = &rest[4..],
                2 => {
                    let length = usize::try_from(take_varint(&mut rest)).unwrap();
                    let (inner, behind) = rest.split_at(length);
                    rest = behind;
                    if let Kind::Message(other) = &known.kind {
                        put_bytes(&mut out, number, &self.aged(other, inner, random));
                        continue;
                    }
                }
                other => panic!("this test writes no field of type {other}"),
            }
            out.extend_from_slice(&start[..start.len() - rest.len()]);
        }
        random.put_unknown(&mut out);
        out
    }
}

/// Numbers of a seed (xorshift).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }

    /// Up to two unknown fields of any wire type.
    fn put_unknown(&mut self, out: &mut Vec<u8>) {
        for _ in 0..self.below(3) {
            let number = UNKNOWN_FIELDS.start + self.below(UNKNOWN_FIELDS.end - UNKNOWN_FIELDS.start);
            match self.below(5) {
                0 => {
                    put_varint(out, number << 3);
                    put_varint(out, self.below(u64::MAX));
                }
                1 => {
                    put_varint(out, number << 3 | 1);
                    out.extend_from_slice(&self.below(u64::MAX).to_le_bytes());
                }
                2 => {
                    let length = usize::try_from(self.below(300)).unwrap();
                    put_bytes(out, number, &vec![0xff; length]);
                }
                3 => {
                    // A group: fields up to its end, groups among them.
                    put_varint(out, number << 3 | 3);
                    if self.below(2) == 0 {
                        self.put_unknown(out);
                    }
                    put_varint(out, number << 3 | 4);
                }
                _ => {
                    put_varint(out, number << 3 | 5);
                    out.extend_from_slice(&[0xff; 4]);
                }
            }
        }
    }
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(u8::try_from(value & 0x7f).unwrap() | 0x80);
        value >>= 7;
    }
    out.push(u8::try_from(value).unwrap());
}

fn put_bytes(out: &mut Vec<u8>, number: u64, bytes: &[u8]) {
    put_varint(out, number << 3 | 2);
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn take_varint(rest: &mut &[u8]) -> u64 {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, behind) = rest.split_first().unwrap();
        *rest = behind;
        value |= u64::from(byte & 0x7f) << shift;
        if *byte < 0x80 {
            break;
        }
    }
    value
}

fn deflated(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A parked message around these calls and books.
fn parked(calls: &[u8], totals: &[u8]) -> Bytes {
    let mut out = Vec::new();
    put_bytes(&mut out, 1, totals);
    put_bytes(&mut out, 2, &deflated(calls));
    put_varint(&mut out, 3 << 3);
    put_varint(&mut out, calls.len() as u64);
    out.into()
}

/// A snapshot's frame around this content.
fn framed(version: &[u8], content: &[u8]) -> Bytes {
    let checksum = Hash128::of("snapshot", &[content]).to_bytes();
    let length = (content.len() as u64).to_le_bytes();
    [b"inflsnap".as_slice(), version, &length, &checksum, content].concat().into()
}

/// What a reader makes of a message, to be compared.
fn seen<T: Debug, E: Debug>(read: Result<T, E>) -> String {
    format!("{:?}", read.expect("a sample is a message"))
}

/// Every message that is read on its own, by its name, and how.
type Reader = (&'static str, fn(Vec<u8>) -> String);
const READERS: [Reader; 17] = [
    ("AddressAlias", |bytes| seen(decode_alias(&bytes))),
    ("EventBatch", |bytes| {
        let batch = EventBatch::decode(&bytes.into()).unwrap();
        // Bodies are handed on as they are; what is in them is compared below.
        let heads: Vec<_> = batch.events.into_iter().map(|event| event.unwrap().head).collect();
        format!("{:?} {heads:?} {:?}", batch.received_at, batch.orders)
    }),
    ("FactBody", |bytes| seen(decode_body(&bytes))),
    ("DecisionBatch", |bytes| seen(DecisionBatch::decode(&bytes.into()))),
    ("DecisionBatch", |bytes| seen(DecisionBatch::decode_decisions(&bytes.into()))),
    ("DecisionBatch", |bytes| seen(DecisionBatch::decode_totals(&bytes.into()))),
    ("DeliveryProgress", |bytes| seen(DeliveryProgress::decode(&bytes))),
    ("ParkedCalls", |bytes| seen(ParkedBatch::decode(parked(&bytes, &Proto::read().sample("ConnectionTotals", 0))))),
    ("ConnectionTotals", |bytes| seen(ParkedBatch::decode_totals(parked(&[], &bytes)))),
    ("ClosedWindow", |bytes| seen(ClosedWindow::decode(&bytes))),
    ("OperatorHold", |bytes| seen(OperatorHold::decode(&bytes))),
    ("DeadLetterEntry", |bytes| seen(DeadLetterEntry::decode(bytes.into()))),
    ("SuppressedPersons", |bytes| seen(SuppressedPersons::decode(&bytes))),
    ("Installation", |bytes| seen(Installation::decode(&bytes))),
    ("RejectedEvents", |bytes| format!("{:?}", RejectedEvents::decode(&bytes))),
    ("Member", |bytes| seen(MemberRecord::decode(&bytes))),
    ("Owner", |bytes| seen(OwnerRecord::decode(&bytes))),
];

#[test]
fn every_message_has_a_reader_here() {
    let proto = Proto::read();
    let mut covered: Vec<String> = READERS.iter().map(|(name, _)| (*name).to_owned()).collect();
    // Read by the test of snapshots; its portions are read by generated code only. ParkedBatch is read around its two parts.
    covered.extend(
        ["Snapshot", "StatePortion", "SeenDay", "PersonColumns", "MailColumns", "SnapshotIndex", "ParkedBatch"]
            .map(str::to_owned),
    );
    let mut at = 0;
    while let Some(name) = covered.get(at).cloned() {
        at += 1;
        for field in &proto.0[&name] {
            if let Kind::Message(inner) = &field.kind
                && !covered.contains(inner)
            {
                covered.push(inner.clone());
            }
        }
    }
    let missing: Vec<_> = proto.0.keys().filter(|name| !covered.contains(name)).collect();
    assert!(missing.is_empty(), "{missing:?} are in proto/ and not read here");
}

proptest! {
    #[test]
    fn fields_of_a_later_version_change_nothing(seed in 1_u64..) {
        let (proto, mut random) = (Proto::read(), Random(seed));
        for (name, read) in READERS {
            for choice in 0..3 {
                let sample = proto.sample(name, choice);
                let aged = proto.aged(name, &sample, &mut random);
                prop_assert_eq!(read(aged), read(sample), "{}", name);
            }
        }
        let index = proto.sample("SnapshotIndex", 0);
        let aged = proto.aged("SnapshotIndex", &index, &mut random);
        prop_assert_eq!(SnapshotIndex::decode(&aged).unwrap(), SnapshotIndex::decode(&index).unwrap());
    }

    #[test]
    fn a_snapshot_of_a_later_version_is_read(seed in 1_u64..) {
        let (proto, mut random) = (Proto::read(), Random(seed));
        let head = SnapshotHead { partition: 3, consumed_through: 4, decisions_through: 5, ..SnapshotHead::default() };
        let blob = Snapshot::encode(&head, &PartitionState::default());
        let aged = proto.aged("Snapshot", &blob[SNAPSHOT_HEADER_BYTES..], &mut random);
        let snapshot = Snapshot::decode(framed(&blob[8..12], &aged)).unwrap();
        prop_assert_eq!(snapshot.head, head);
    }

    /// What ingest of a later version says of a fact reaches delivery of that version, through an identity that does not know it.
    #[test]
    fn unknown_fields_of_a_fact_pass_through_identity(seed in 1_u64..) {
        let (proto, mut random) = (Proto::read(), Random(seed));
        let body = proto.aged("FactBody", &proto.sample("FactBody", 0), &mut random);
        let mut event = proto.sample("Event", 0);
        // The last of a field counts.
        put_bytes(&mut event, 16, &body);
        let mut message = Vec::new();
        put_bytes(&mut message, 2, &event);
        let batch = EventBatch::decode(&message.into()).unwrap();
        let event = batch.events.into_iter().next().unwrap().unwrap();
        prop_assert_eq!(&event.body, &body);
        let mut decisions = DecisionBatch::decode(&proto.sample("DecisionBatch", 0).into()).unwrap();
        decisions.decisions[0].body = event.body;
        let written = DecisionBatch::decode_decisions(&decisions.encode()).unwrap();
        prop_assert_eq!(&written.decisions[0].body, &body);
    }
}
