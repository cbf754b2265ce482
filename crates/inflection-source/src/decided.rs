//! How far identity has come in a partition: the end of its decision log, without the decisions.

use anyhow::Context as _;
use inflection_bus::{Bus, Log, Message, Sequence};
use inflection_wire::DecisionBatch;

/// The last message of a decision log: what is consumed, and the totals. An empty log is sequence 0 and nothing.
pub(crate) async fn decided(bus: &Bus, decisions: &Log) -> anyhow::Result<(Sequence, DecisionBatch)> {
    let last = bus.last(decisions).await.context("the decisions cannot be read")?;
    let Some(Message { sequence, payload }) = last else { return Ok((0, DecisionBatch::default())) };
    let batch = DecisionBatch::decode_totals(&payload);
    Ok((sequence, batch.with_context(|| format!("message {sequence} of {decisions} is damaged"))?))
}
