//! Memory for what is in hand, shared among workspaces: one that floods us leaves room for the others.
//!
//! A workspace may hold three times what it leaves free. So one alone uses three quarters of the room, two greedy ones have
//! three sevenths each as soon as what they had before is stored, and a quarter of what was free stays free for who comes next.
//! Nothing is measured and nobody is timed: whether there is room follows from what is held.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use inflection_domain::WorkspaceId;

/// How many times what is left free one holder may have.
const SHARE: usize = 3;

/// Who has something in hand: a workspace, or all those who have not shown whose they are yet.
pub(crate) type Holder = Option<WorkspaceId>;

/// Room for so many bytes.
#[derive(Debug)]
pub(crate) struct Room(Mutex<State>);

#[derive(Debug)]
struct State {
    free: usize,
    held: HashMap<Holder, usize>,
}

/// A request's share of a room, until it is dropped.
#[derive(Debug)]
pub(crate) struct Share {
    room: Arc<Room>,
    holder: Holder,
    bytes: usize,
}

/// Why there is no room now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoRoom {
    /// The room is taken, by whomever.
    Full,
    /// The holder itself has as much as it may.
    OverShare,
}

impl Room {
    /// An empty room.
    pub(crate) fn new(bytes: usize) -> Arc<Self> {
        Arc::new(Self(Mutex::new(State { free: bytes, held: HashMap::new() })))
    }

    /// Takes room, if there is enough of it for this holder; at least a byte, so that the number of requests has a bound.
    pub(crate) fn take(self: &Arc<Self>, holder: Holder, bytes: usize) -> Result<Share, NoRoom> {
        let bytes = bytes.max(1);
        self.state(|state| state.take(&holder, bytes))?;
        Ok(Share { room: Arc::clone(self), holder, bytes })
    }

    fn state<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    #[cfg(test)]
    pub(crate) fn free(&self) -> usize {
        self.state(|state| state.free)
    }
}

impl State {
    fn take(&mut self, holder: &Holder, bytes: usize) -> Result<(), NoRoom> {
        let held = self.held.get(holder).copied().unwrap_or(0);
        let fits = self.free.checked_sub(bytes).filter(|left| held + bytes <= left.saturating_mul(SHARE));
        let Some(left) = fits else {
            return Err(if held == 0 { NoRoom::Full } else { NoRoom::OverShare });
        };
        self.free = left;
        self.held.insert(holder.clone(), held + bytes);
        Ok(())
    }

    fn give_back(&mut self, holder: &Holder, bytes: usize) {
        self.free += bytes;
        if let Some(held) = self.held.get_mut(holder) {
            *held = held.saturating_sub(bytes);
            if *held == 0 {
                self.held.remove(holder);
            }
        }
    }
}

impl Share {
    /// Takes more for the same request.
    pub(crate) fn grow(&mut self, bytes: usize) -> Result<(), NoRoom> {
        self.room.state(|state| state.take(&self.holder, bytes))?;
        self.bytes += bytes;
        Ok(())
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.room.state(|state| state.give_back(&self.holder, self.bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workspace(name: &str) -> Holder {
        Some(WorkspaceId::new(name).unwrap())
    }

    /// Takes as much as it gets, byte by byte.
    fn greedy(room: &Arc<Room>, name: &str) -> (Vec<Share>, NoRoom) {
        let mut shares = Vec::new();
        loop {
            match room.take(workspace(name), 1) {
                Ok(share) => shares.push(share),
                Err(why) => return (shares, why),
            }
        }
    }

    #[test]
    fn whoever_is_greedy_leaves_room_for_others() {
        let room = Room::new(700);
        let (first, why) = greedy(&room, "flood");
        assert_eq!((first.len(), why), (525, NoRoom::OverShare), "three quarters for one alone");
        let other = room.take(workspace("calm"), 100).unwrap();
        assert_eq!(room.take(workspace("calm"), 100).err(), Some(NoRoom::OverShare));
        assert_eq!(room.take(workspace("third"), 76).err(), Some(NoRoom::Full), "more than there is");
        drop((first, other));
        assert_eq!(room.free(), 700);
    }

    #[test]
    fn behind_greedy_ones_there_is_room_for_one_more() {
        let room = Room::new(70_000);
        let mut all = Vec::new();
        for number in 0..5 {
            let (shares, why) = greedy(&room, &format!("w{number}"));
            assert!(!shares.is_empty() && why == NoRoom::OverShare, "workspace {number}");
            all.push(shares);
        }
        assert!(room.free() > 0);
        drop(all);
        assert_eq!(room.free(), 70_000);
        assert!(room.state(|state| state.held.is_empty()), "who holds nothing is forgotten");
    }

    #[test]
    fn a_share_grows_and_is_given_back_as_a_whole() {
        let room = Room::new(40);
        let mut share = room.take(None, 0).unwrap();
        assert_eq!(room.free(), 39, "even an empty body takes some");
        share.grow(0).unwrap();
        share.grow(29).unwrap();
        assert_eq!(share.grow(1).err(), Some(NoRoom::OverShare));
        assert_eq!(room.free(), 10);
        drop(share);
        assert_eq!(room.free(), 40);
    }
}
