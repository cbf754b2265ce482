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

    pub(super) fn waiting(&self) -> usize {
        self.waiting
    }

    /// Since when the oldest call waits in an idle lane, and whether there is enough for a full batch.
    pub(super) fn ready(&self, limits: &Limits) -> Option<(Duration, bool)> {
        let idle = self.lanes.values().filter(|lane| !lane.locked && !lane.items.is_empty());
        let (mut oldest, mut items, mut bytes) = (None::<Duration>, 0, 0);
        for lane in idle {
            let since = lane.items.front().map_or(Duration::MAX, |(since, _)| *since);
            oldest = Some(oldest.map_or(since, |oldest| oldest.min(since)));
            items += lane.items.len();
            bytes += lane.bytes;
        }
        oldest.map(|oldest| (oldest, items >= limits.items_max || bytes >= limits.bytes_max))
    }

    /// Takes contiguous prefixes of idle lanes and locks those lanes. At least one item is taken if there is any.
    pub(super) fn take(&mut self, items_max: usize, bytes_max: usize) -> Vec<Part> {
        let after = self.turn.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
        let order: Vec<LaneId> = self
            .lanes
            .range((after, std::ops::Bound::Unbounded))
            .chain(self.lanes.range(..))
            .filter(|(_, lane)| !lane.locked && !lane.items.is_empty())
            .map(|(id, _)| *id)
            .collect();
        let (mut parts, mut items, mut bytes): (Vec<Part>, _, _) = (Vec::new(), 0, 0);
        for id in order {
            // Both halves of the round may name a lane; the second time it is locked.
            let Some(lane) = self.lanes.get_mut(&id).filter(|lane| !lane.locked) else { continue };
            let mut part = Vec::new();
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
            self.turn = Some(id);
            parts.push((id, part));
        }
        parts
    }

    pub(super) fn unlock(&mut self, ids: impl IntoIterator<Item = LaneId>) {
        for id in ids {
            if let Some(lane) = self.lanes.get_mut(&id) {
                lane.locked = false;
            }
        }
    }
}
