//! Lanes: calls in order, one a partition.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::{Item, LaneId, Limits};

#[derive(Debug, Default)]
struct Lane {
    items: VecDeque<(Duration, Item)>,
    bytes: usize,
    /// A batch holds what was in front.
    locked: bool,
}

/// All lanes of a connection.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    lanes: BTreeMap<LaneId, Lane>,
    waiting: usize,
    /// Where the last batch began to take: the next begins after it, so that no lane is always first.
    turn: Option<LaneId>,
}

/// What a batch takes of a lane.
pub(super) type Part = (LaneId, Vec<Item>);

impl Lanes {
    pub(super) fn push(&mut self, id: LaneId, items: impl IntoIterator<Item = Item>, now: Duration) {
        let lane = self.lanes.entry(id).or_default();
        for item in items {
            lane.bytes += item.json().len() + 1;
            lane.items.push_back((now, item));
            self.waiting += 1;
        }
    }

    /// Puts a call back where it was taken from.
    pub(super) fn push_front(&mut self, item: Item) {
        let lane = self.lanes.entry(item.ticket.lane()).or_default();
        lane.bytes += item.json().len() + 1;
        // It has waited longest; when exactly it came does not matter any more.
        lane.items.push_front((Duration::ZERO, item));
        self.waiting += 1;
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiting
    }

    /// Calls waiting in one lane, and their bytes.
    pub(super) fn queued(&self, id: LaneId) -> (usize, usize) {
        self.lanes.get(&id).map_or((0, 0), |lane| (lane.items.len(), lane.bytes))
    }

    pub(super) fn is_locked(&self, id: LaneId) -> bool {
        self.lanes.get(&id).is_some_and(|lane| lane.locked)
    }

    /// Takes everything that waits in a lane.
    pub(super) fn empty(&mut self, id: LaneId) -> Vec<Item> {
        let Some(lane) = self.lanes.get_mut(&id) else { return Vec::new() };
        self.waiting -= lane.items.len();
        lane.bytes = 0;
        std::mem::take(&mut lane.items).into_iter().map(|(_, item)| item).collect()
    }

    /// The lanes of partitions.
    pub(super) fn partitions(&self) -> Vec<LaneId> {
        self.lanes.keys().copied().filter(|id| *id != LaneId::Replay).collect()
    }

    /// Since when the oldest call waits in an idle lane, and whether there is enough for a full batch. Replays wait apart.
    pub(super) fn ready(&self, limits: &Limits) -> Option<(Duration, bool)> {
        let idle = self.lanes.iter().filter(|(id, lane)| **id != LaneId::Replay && lane.is_idle());
        let (mut oldest, mut items, mut bytes) = (None::<Duration>, 0, 0);
        for (_, lane) in idle {
            let since = lane.items.front().map_or(Duration::MAX, |(since, _)| *since);
            oldest = Some(oldest.map_or(since, |oldest| oldest.min(since)));
            items += lane.items.len();
            bytes += lane.bytes;
        }
        oldest.map(|oldest| (oldest, items >= limits.items_max || bytes >= limits.bytes_max))
    }

    /// Whether dead letters wait to be sent again, and none are under way.
    pub(super) fn replay_ready(&self) -> bool {
        self.lanes.get(&LaneId::Replay).is_some_and(Lane::is_idle)
    }

    /// Takes contiguous prefixes of idle lanes and locks those lanes. At least one item is taken if there is any.
    pub(super) fn take(&mut self, items_max: usize, bytes_max: usize) -> Vec<Part> {
        let after = self.turn.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
        let order: Vec<LaneId> = self
            .lanes
            .range((after, std::ops::Bound::Unbounded))
            .chain(self.lanes.range(..))
            .filter(|(id, lane)| **id != LaneId::Replay && lane.is_idle())
            .map(|(id, _)| *id)
            .collect();
        let parts = self.take_from(order, items_max, bytes_max);
        self.turn = parts.last().map_or(self.turn, |(id, _)| Some(*id));
        parts
    }

    /// The same for dead letters on their way back.
    pub(super) fn take_replay(&mut self, items_max: usize, bytes_max: usize) -> Vec<Part> {
        self.take_from(vec![LaneId::Replay], items_max, bytes_max)
    }

    fn take_from(&mut self, order: Vec<LaneId>, items_max: usize, bytes_max: usize) -> Vec<Part> {
        let (mut parts, mut items, mut bytes): (Vec<Part>, _, _) = (Vec::new(), 0, 0);
        for id in order {
            // Both halves of the round may name a lane; the second time it is locked.
            let Some(lane) = self.lanes.get_mut(&id).filter(|lane| !lane.locked) else { continue };
            let mut part = Vec::with_capacity(lane.items.len().min(items_max.saturating_sub(items)));
            while let Some((_, item)) = lane.items.front() {
                let size = item.json().len() + 1;
                if items >= items_max || (bytes + size > bytes_max && items > 0) {
                    break;
                }
                items += 1;
                bytes += size;
                lane.bytes -= size;
                part.extend(lane.items.pop_front().map(|(_, item)| item));
            }
            if part.is_empty() {
                break;
            }
            lane.locked = true;
            self.waiting -= part.len();
            parts.push((id, part));
        }
        parts
    }

    pub(super) fn unlock<'a>(&mut self, ids: impl IntoIterator<Item = &'a LaneId>) {
        for id in ids {
            if let Some(lane) = self.lanes.get_mut(id) {
                lane.locked = false;
            }
        }
    }
}

impl Lane {
    fn is_idle(&self) -> bool {
        !self.locked && !self.items.is_empty()
    }
}
