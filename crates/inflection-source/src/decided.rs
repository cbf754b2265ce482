//! How far identity has come in a partition: the end of its decision log, without the decisions; and how a damaged message of
//! a log is told.

use anyhow::Context as _;
use inflection_bus::{Bus, Log, Message, Sequence};
use inflection_wire::{DecisionBatch, DecodeError};

/// The last message of a decision log: what is consumed, and the totals. An empty log is sequence 0 and nothing.
pub(crate) async fn decided(bus: &Bus, decisions: &Log) -> anyhow::Result<(Sequence, DecisionBatch)> {
    let last = bus.last(decisions).await.context("the decisions cannot be read")?;
    let Some(Message { sequence, payload }) = last else { return Ok((0, DecisionBatch::default())) };
    Ok((sequence, intact(decisions, sequence, DecisionBatch::decode_totals(&payload))?))
}

/// What was read of a message, unless that is damaged.
pub(crate) fn intact<T>(log: &Log, sequence: Sequence, decoded: Result<T, DecodeError>) -> anyhow::Result<T> {
    decoded.with_context(|| format!("message {sequence} of {log} is damaged"))
}
