//! Messages and records of the bus, as another version, or a damaged disk, may have left them.

#![no_main]

use bytes::Bytes;
use inflection_wire::{
    ClosedWindow, DeadLetterEntry, DecisionBatch, DeliveryProgress, EventBatch, Installation, MemberRecord,
    OperatorHold, OwnerRecord, ParkedBatch, RejectedEvents, Snapshot, SnapshotIndex, SuppressedPersons,
    decode_alias, decode_body, encode_alias,
};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let message = Bytes::copy_from_slice(bytes);
    // What can be read is written again, and then reads as the same: else a restart would change it.
    if let Ok(batch) = DecisionBatch::decode(&message) {
        let again = batch.encode();
        let twice = DecisionBatch::decode(&again).expect("a decision batch of our own can be read").encode();
        assert_eq!(again, twice);
    }
    if let Ok(entry) = DeadLetterEntry::decode(message.clone()) {
        let again = entry.encode();
        assert_eq!(again, DeadLetterEntry::decode(again.clone()).expect("an entry of our own can be read").encode());
    }
    if let Ok(batch) = ParkedBatch::decode(message.clone()) {
        let again = batch.encode();
        assert_eq!(again, ParkedBatch::decode(again.clone()).expect("a batch of our own can be read").encode());
    }
    if let Ok(progress) = DeliveryProgress::decode(bytes) {
        let again = progress.encode();
        assert_eq!(again, DeliveryProgress::decode(&again).expect("a record of our own can be read").encode());
    }
    if let Ok(persons) = SuppressedPersons::decode(bytes) {
        let again = persons.encode();
        assert_eq!(again, SuppressedPersons::decode(&again).expect("a record of our own can be read").encode());
    }
    if let Ok(alias) = decode_alias(bytes) {
        assert_eq!(decode_alias(&encode_alias(&alias)).expect("an alias of our own can be read"), alias);
    }
    drop(EventBatch::decode(&message));
    drop(decode_body(bytes));
    drop(ClosedWindow::decode(bytes));
    drop(Installation::decode(bytes));
    drop(MemberRecord::decode(bytes));
    drop(OperatorHold::decode(bytes));
    drop(OwnerRecord::decode(bytes));
    drop(RejectedEvents::decode(bytes));
    drop(Snapshot::decode(message));
    drop(SnapshotIndex::decode(bytes));
});
