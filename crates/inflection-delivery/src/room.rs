//! Room for rendered calls: what the memory of this stage is bounded by, and how connections share it.
//!
//! A connection may hold as much as is left free ("dynamic thresholds", Choudhury and Hahne 1998): alone it gets half,
//! two greedy ones a third each, and whatever the greedy ones do there is always room for one more.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use crate::books::ConnectionKey;

/// How much each connection holds. Pure.
#[derive(Debug)]
struct Shares {
    bytes_max: usize,
    held: HashMap<ConnectionKey, usize>,
    total: usize,
}

impl Shares {
    fn fits(&self, key: &ConnectionKey, bytes: usize) -> bool {
        let own = self.held.get(key).copied().unwrap_or(0);
        let free = self.bytes_max.saturating_sub(self.total);
        // Who holds nothing may take what there is: a message larger than a share must not wait for ever.
        own + bytes <= free || (own == 0 && (bytes <= free || self.total == 0))
    }

    fn take(&mut self, key: &ConnectionKey, bytes: usize) {
        self.total += bytes;
        match self.held.get_mut(key) {
            Some(held) => *held += bytes,
            None => drop(self.held.insert(key.clone(), bytes)),
        }
    }

    fn give_back(&mut self, key: &ConnectionKey, bytes: usize) {
        self.total = self.total.saturating_sub(bytes);
        if let Some(held) = self.held.get_mut(key) {
            *held = held.saturating_sub(bytes);
        }
    }
}

/// The room that all connections of a process share.
#[derive(Debug)]
pub(crate) struct Room {
    shares: Mutex<Shares>,
    freed: Notify,
}

/// A part of the room; dropping it gives it back.
#[derive(Debug)]
pub(crate) struct Held {
    room: Arc<Room>,
    key: ConnectionKey,
    bytes: usize,
}

impl Room {
    pub(crate) fn new(bytes_max: usize) -> Arc<Self> {
        let shares = Shares { bytes_max, held: HashMap::new(), total: 0 };
        Arc::new(Self { shares: Mutex::new(shares), freed: Notify::new() })
    }

    /// Room for `bytes`, if the connection's share has it now.
    pub(crate) fn try_hold(self: &Arc<Self>, key: &ConnectionKey, bytes: usize) -> Option<Held> {
        let mut shares = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
        if !shares.fits(key, bytes) {
            return None;
        }
        shares.take(key, bytes);
        Some(Held { room: Arc::clone(self), key: key.clone(), bytes })
    }

    /// Waits for room.
    pub(crate) async fn hold(self: &Arc<Self>, key: &ConnectionKey, bytes: usize) -> Held {
        loop {
            // Before looking: what is freed between the look and the wait must wake us.
            let freed = self.freed.notified();
            if let Some(held) = self.try_hold(key, bytes) {
                return held;
            }
            freed.await;
        }
    }

    fn give_back(&self, key: &ConnectionKey, bytes: usize) {
        self.shares.lock().unwrap_or_else(PoisonError::into_inner).give_back(key, bytes);
        self.freed.notify_waiters();
    }

    /// Bytes held now.
    pub(crate) fn held_bytes(&self) -> usize {
        self.shares.lock().unwrap_or_else(PoisonError::into_inner).total
    }
}

impl Held {
    /// Gives back what is not needed after all.
    pub(crate) fn shrink(&mut self, bytes: usize) {
        let surplus = self.bytes.saturating_sub(bytes);
        self.bytes -= surplus;
        self.room.give_back(&self.key, surplus);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.room.give_back(&self.key, self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use inflection_domain::{ConnectionId, WorkspaceId};
    use proptest::prelude::*;

    use super::*;

    fn key(connection: usize) -> ConnectionKey {
        (WorkspaceId::new("acme").unwrap(), ConnectionId::new(&format!("c{connection}")).unwrap())
    }

    #[test]
    fn greedy_connections_leave_room_for_one_more() {
        for greedy in 1..6 {
            let room = Room::new(1_000);
            let mut parts = Vec::new();
            let mut before = usize::MAX;
            while parts.len() != before {
                before = parts.len();
                parts.extend((0..greedy).filter_map(|number| room.try_hold(&key(number), 1)));
            }
            let fair = 1_000 * greedy / (greedy + 1);
            assert!((fair..=fair + greedy).contains(&room.held_bytes()), "{greedy} greedy: {}", room.held_bytes());
            assert!(room.try_hold(&key(greedy), 1_000 / (greedy + 1) - greedy).is_some(), "room for one more");
            drop(parts);
            assert_eq!(room.held_bytes(), 0);
        }
    }

    proptest! {
        #[test]
        fn the_bound_holds(wishes in proptest::collection::vec((0usize..4, 0usize..700, any::<bool>()), 0..200)) {
            let room = Room::new(1_000);
            let mut parts = Vec::new();
            for (number, bytes, release) in wishes {
                if release && !parts.is_empty() {
                    parts.remove(bytes % parts.len());
                }
                parts.extend(room.try_hold(&key(number), bytes));
                prop_assert!(room.held_bytes() <= 1_000);
                prop_assert_eq!(room.held_bytes(), parts.iter().map(|part: &Held| part.bytes).sum::<usize>());
            }
        }
    }
}
