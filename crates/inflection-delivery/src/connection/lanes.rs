//! A connection's lanes: where calls go when they come, into the parked log and out of it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use super::parking::{self, Lane, Late, Loaded};
use super::{GENERATIONS_A_LANE, LOOK_EVERY, Sender};
use crate::books::CallEnd;
use crate::dispatcher::{Appetite, Fate, Item, LaneId};
use crate::park::{May, Todo};

impl Sender {
    /// Begins to serve a partition.
    pub(super) fn open(&mut self, partition: u16, last: u64) {
        let released = self.tracked(partition).map_or(0, |tracked| tracked.released(&self.key, last));
        // Who waited for an earlier lane has given it up.
        self.closing.remove(&partition);
        match self.new_lane(partition, last, released) {
            Ok(lane) => {
                self.flags.set_parked(partition, !lane.park.is_live());
                self.lanes.insert(partition, lane);
            }
            Err(error) => self.failure = Some(error.into()),
        }
    }

    /// Lets go of partitions of which nothing is in hand any more.
    pub(super) fn close(&mut self) {
        let closing: Vec<u16> = self.closing.keys().copied().collect();
        for partition in closing {
            let free = self.dispatcher.close(LaneId::Partition(partition));
            if free && self.lanes.get(&partition).is_none_or(|lane| !lane.park.is_appending()) {
                self.lanes.remove(&partition);
                self.flags.set_parked(partition, false);
                // Whoever waits is told by this.
                self.closing.remove(&partition);
            }
        }
    }

    pub(super) fn push(&mut self, partition: u16, items: Vec<Item>) {
        if self.closing.contains_key(&partition) {
            return;
        }
        match self.lanes.get_mut(&partition).filter(|lane| !lane.park.is_live()) {
            Some(lane) => lane.park.push(items),
            None => {
                let now = self.now();
                self.dispatcher.push(LaneId::Partition(partition), items, now);
            }
        }
    }

    /// Whether nothing is on its way into the parked log, so that what is in hand may be dropped.
    pub(super) fn abandoned(&self) -> bool {
        !self.lanes.values().any(|lane| lane.park.is_appending())
    }

    /// Drops what is in hand of a connection that is gone, once what is on its way into the parked log is there. What is
    /// parked stays, for the case that the connection comes back.
    pub(super) fn abandon(&mut self) {
        if !self.abandoned() {
            return;
        }
        drop(self.dispatcher.unload());
        self.lanes.clear();
        for tracked in self.shared.tracked.iter() {
            tracked.update(|books| books.abandon(&self.key));
        }
    }

    /// Moves everything that is not on its way to the dead letters out of memory.
    pub(super) fn park(&mut self) {
        for (id, items) in self.dispatcher.unload() {
            let LaneId::Partition(partition) = id else { continue };
            let Some(tracked) = self.shared.tracked.get(usize::from(partition)) else { continue };
            if items.is_empty() && self.lanes.get(&partition).is_none_or(|lane| lane.park.is_live()) {
                continue;
            }
            let (released, ended) = tracked.forget_releases(&self.key);
            if !self.lanes.contains_key(&partition) {
                match self.new_lane(partition, 0, 0) {
                    Ok(lane) => drop(self.lanes.insert(partition, lane)),
                    Err(error) => {
                        self.failure = Some(error.into());
                        return;
                    }
                }
            }
            if let Some(lane) = self.lanes.get_mut(&partition) {
                lane.park.park(items, released, ended);
                lane.reader = None;
                self.flags.set_parked(partition, true);
            }
        }
    }

    /// Does what parked lanes ask for.
    pub(super) fn tend(&mut self) {
        self.look();
        let appetite = self.dispatcher.appetite(self.now());
        let away = |partition: &u16, lane: &Lane| !lane.park.is_live() && !self.closing.contains_key(partition);
        let partitions: Vec<u16> = self
            .lanes
            .iter()
            .filter(|(partition, lane)| away(partition, lane))
            .map(|(partition, _)| *partition)
            .collect();
        for partition in partitions {
            loop {
                let drain = match appetite {
                    Appetite::All => true,
                    Appetite::Try => self.loads == 0 && self.dispatcher.pending() == 0,
                    Appetite::None => false,
                };
                if !self.tend_lane(partition, drain) {
                    break;
                }
            }
        }
    }

    /// Does the next thing a lane asks for, if there is one.
    pub(super) fn tend_lane(&mut self, partition: u16, drain: bool) -> bool {
        let id = LaneId::Partition(partition);
        let (_, queued_bytes) = self.dispatcher.queued(id);
        let may = May { drain, orphaned: self.dispatcher.is_locked(id), queued_bytes };
        let (bus, now) = (self.shared.bus.clone(), self.now());
        let Some(lane) = self.lanes.get_mut(&partition) else { return false };
        let generation = lane.park.generation();
        match lane.park.poll(may) {
            Todo::Append(items) => {
                let Some(tracked) = self.shared.tracked.get(usize::from(partition)) else { return false };
                let Some(totals) = tracked.with_parked(&self.key, items.len()) else { return false };
                let (log, fence, lane) = (lane.log.clone(), lane.park.fence(), generation / GENERATIONS_A_LANE);
                let spans = (self.shared.metrics.tracer.clone(), self.key.clone());
                self.work.spawn(parking::append(bus, log, fence, (partition, lane), items, totals, spans));
            }
            Todo::Read { after } => {
                self.loads += 1;
                let (log, reader) = (lane.log.clone(), lane.reader.take());
                let (room, key, dead) = (Arc::clone(&self.shared.room), self.key.clone(), self.dead.clone());
                let (skip, before) = (lane.park.ended(), parking::expiry(self.settings.expire_after));
                let suppression = self.shared.suppression.clone();
                let load = parking::Load {
                    bus,
                    log,
                    reader,
                    after,
                    room,
                    key,
                    dead,
                    skip,
                    suppression,
                    before,
                    partition,
                    generation,
                };
                self.work.spawn(load.run());
            }
            Todo::GoLive(items) => {
                lane.reader = None;
                self.flags.set_parked(partition, false);
                self.dispatcher.push(id, items, now);
            }
            Todo::Nothing => return false,
        }
        true
    }

    /// Now and then, looks at what lies parked for calls that have waited too long.
    pub(super) fn look(&mut self) {
        if Instant::now() < self.look_at {
            return;
        }
        let (least, most) = LOOK_EVERY;
        self.look_at = Instant::now() + (self.settings.expire_after / 4).clamp(least, most);
        let before = parking::expiry(self.settings.expire_after);
        for (partition, lane) in &mut self.lanes {
            let orphaned = self.dispatcher.is_locked(LaneId::Partition(*partition));
            let Some(after) = lane.park.look(orphaned) else { continue };
            let source = (self.shared.bus.clone(), lane.log.clone());
            let dead = (self.dead.clone(), self.key.clone(), self.shared.suppression.clone());
            let (range, task) = ((after, lane.park.fence()), (*partition, lane.park.generation()));
            self.work.spawn(parking::expire(source, range, dead, before, task));
        }
    }

    pub(super) fn parked(&mut self, (partition, lane): (u16, u64), sequence: u64, tickets: BTreeMap<u64, usize>) {
        let Some(lane) = lane_mut(&mut self.lanes, partition, lane) else { return };
        let read = lane.park.appended(sequence);
        if let Some(tracked) = self.shared.tracked.get(usize::from(partition)) {
            tracked.update(|books| {
                let moved = tickets.into_iter().fold(false, |moved, (decision, count)| {
                    books.end(&self.key, decision, CallEnd::Parked, count) || moved
                });
                (read && books.open_release(&self.key, sequence, 0, None)) || moved
            });
        }
    }

    /// Has the partition let go of: its books are not what its parked log says.
    pub(super) fn fenced(&mut self, partition: u16, lane: u64) {
        let Some(lane) = lane_mut(&mut self.lanes, partition, lane) else { return };
        lane.park.lost();
        if let Some(tracked) = self.tracked(partition) {
            tracked.fence();
        }
    }

    pub(super) fn loaded(&mut self, loaded: Loaded) {
        self.loads -= 1;
        let Loaded { partition, generation, sequence, items, count, late, held, reader } = loaded;
        let Some(lane) = self.lanes.get_mut(&partition) else { return };
        let Some(mut ended) = lane.park.loaded(generation, sequence, count) else { return };
        lane.reader = Some(reader);
        ended.extend(late.ends());
        self.count_dead("expired", late.expired);
        self.count_suppressed(late.suppressed);
        if let Some(tracked) = self.shared.tracked.get(usize::from(partition)) {
            tracked.update(|books| {
                let moved = books.open_release(&self.key, sequence, count, Some(held.into()));
                ended
                    .into_iter()
                    .fold(moved, |moved, (fate, count)| books.end_release(&self.key, sequence, fate, count) || moved)
            });
        }
        let now = self.now();
        self.dispatcher.push(LaneId::Partition(partition), items, now);
    }

    pub(super) fn looked(&mut self, partition: u16, generation: u64, expired: Vec<(u64, Late)>) {
        let Some(lane) = self.lanes.get_mut(&partition) else { return };
        let through = expired.last().map_or(0, |(sequence, _)| *sequence);
        if !lane.park.looked(generation, through) {
            return;
        }
        self.count_dead("expired", expired.iter().map(|(_, late)| late.expired).sum());
        self.count_suppressed(expired.iter().map(|(_, late)| late.suppressed).sum());
        if let Some(tracked) = self.shared.tracked.get(usize::from(partition)) {
            tracked.update(|books| {
                expired.into_iter().fold(false, |moved, (sequence, late)| {
                    let count = late.expired + late.suppressed;
                    let moved = books.open_release(&self.key, sequence, count, None) || moved;
                    late.ends().fold(moved, |moved, (fate, count)| {
                        books.end_release(&self.key, sequence, fate, count) || moved
                    })
                })
            });
        }
    }

    pub(super) fn end_release(&self, partition: u16, sequence: u64, fate: Fate, count: usize) {
        if let Some(tracked) = self.shared.tracked.get(usize::from(partition)) {
            tracked.update(|books| books.end_release(&self.key, sequence, fate, count));
        }
    }
}

/// A lane of a partition, if it is still the one that something was begun for.
fn lane_mut(lanes: &mut BTreeMap<u16, Lane>, partition: u16, lane: u64) -> Option<&mut Lane> {
    lanes.get_mut(&partition).filter(|own| own.park.generation() / GENERATIONS_A_LANE == lane)
}
