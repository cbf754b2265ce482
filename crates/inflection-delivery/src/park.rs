//! How a lane leaves memory for the parked log, and how it comes back. Pure.
//!
//! A lane is live, parked or draining. Parked, everything of it lies in its log or is on the way into it, in order;
//! draining, what lies there is read from the front and sent, while what comes meanwhile still goes in behind; it is
//! live again when nothing is left between the two ends. So a call is never sent before one that was there first.
//!
//! The last message of a log is never deleted, because it is the fence of the next. Before a lane is live again a message
//! without calls is put behind what was sent, so that nothing of that has to stay.

use std::collections::VecDeque;

use inflection_wire::ParkedBatch;

use crate::dispatcher::{Fate, Item, Ticket};

/// A lane is read ahead while fewer bytes of it than this wait to be sent.
pub(crate) const READ_AHEAD_BYTES: usize = 256 * 1024;

/// Where a lane is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Live,
    Parked,
    Draining,
    /// Another owner has written the log: nothing is done any more.
    Lost,
}

/// What the shell should do for a lane.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Todo {
    /// Append these calls to the log, which may be none, and say what came of it.
    Append(Vec<Item>),
    /// Read the message after this sequence, and say what it was.
    Read {
        /// The sequence.
        after: u64,
    },
    /// The lane is live again: these calls are next.
    GoLive(Vec<Item>),
    /// Nothing now.
    Nothing,
}

/// What a lane may do now.
#[derive(Debug, Clone, Copy)]
pub(crate) struct May {
    /// Whether calls are wanted to be sent.
    pub(crate) drain: bool,
    /// Whether a request of the lane is under way that was given away when it was parked.
    pub(crate) orphaned: bool,
    /// Bytes of the lane that wait to be sent.
    pub(crate) queued_bytes: usize,
}

/// One lane.
#[derive(Debug)]
pub(crate) struct Park {
    mode: Mode,
    /// On the way into the log.
    waiting: VecDeque<Item>,
    appending: bool,
    /// What is being appended has no calls.
    sealing: bool,
    /// The last message that is known to have no calls.
    sealed: u64,
    /// The last sequence of the log.
    last: u64,
    /// Up to which sequence it was read and handed on.
    read: u64,
    reading: bool,
    /// How the first calls of what is to be read have ended already.
    ended: VecDeque<(Fate, usize)>,
    /// Changes when what is being read is not wanted any more.
    generation: u64,
}

impl Park {
    /// A lane whose log ends at `last` and was sent up to `released`. `generation` must be beyond those of earlier lanes of
    /// its name: what was begun for them must not be taken for this one's.
    pub(crate) fn new(last: u64, released: u64, generation: u64) -> Self {
        let mode = if last > released { Mode::Parked } else { Mode::Live };
        Self {
            mode,
            waiting: VecDeque::new(),
            appending: false,
            sealing: false,
            sealed: 0,
            last,
            read: released.min(last),
            reading: false,
            ended: VecDeque::new(),
            generation,
        }
    }

    pub(crate) fn is_live(&self) -> bool {
        self.mode == Mode::Live
    }

    pub(crate) fn is_parked(&self) -> bool {
        self.mode == Mode::Parked
    }

    /// Whether calls are on their way into the log.
    pub(crate) fn is_appending(&self) -> bool {
        self.appending
    }

    /// The sequence the next append must find.
    pub(crate) fn fence(&self) -> u64 {
        self.last
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    /// Parks the lane, or a draining one again: `unloaded` is what the dispatcher had of it, in order. What of that comes
    /// from the log is forgotten, and read again after `released`, where the first calls may have `ended` already.
    pub(crate) fn park(&mut self, unloaded: Vec<Item>, released: u64, ended: Vec<(Fate, usize)>) {
        if self.mode == Mode::Lost {
            return;
        }
        self.mode = Mode::Parked;
        self.read = released.min(self.last);
        self.reading = false;
        // What had ended of a lane that was parked before lies behind what has ended since.
        self.ended = ended.into_iter().chain(self.ended.drain(..)).collect();
        self.generation += 1;
        let own = |item: &Item| matches!(item.ticket, Ticket::Decision { .. });
        self.waiting.extend(unloaded.into_iter().filter(own));
    }

    /// Calls that come while the lane is not live.
    pub(crate) fn push(&mut self, items: impl IntoIterator<Item = Item>) {
        if self.mode != Mode::Lost {
            self.waiting.extend(items);
        }
    }

    /// The next call of the request that was under way when the lane was parked has ended: they are the first of the log.
    pub(crate) fn orphan_ended(&mut self, fate: Fate) {
        match self.ended.back_mut() {
            Some((last, count)) if *last == fate => *count += 1,
            Some(_) | None => self.ended.push_back((fate, 1)),
        }
    }

    /// How many of the first calls of what is to be read have ended already.
    pub(crate) fn ended(&self) -> usize {
        self.ended.iter().map(|(_, count)| count).sum()
    }

    /// The next thing to do. To be asked again until there is nothing.
    pub(crate) fn poll(&mut self, may: May) -> Todo {
        if matches!(self.mode, Mode::Live | Mode::Lost) {
            return Todo::Nothing;
        }
        if self.mode == Mode::Parked && may.drain && !may.orphaned {
            self.mode = Mode::Draining;
        }
        let at_end = self.mode == Mode::Draining && self.read == self.last && !self.appending;
        if at_end && may.drain && self.sealed != self.last {
            (self.appending, self.sealing) = (true, true);
            return Todo::Append(Vec::new());
        }
        if at_end && may.drain {
            self.mode = Mode::Live;
            return Todo::GoLive(std::mem::take(&mut self.waiting).into());
        }
        if !self.appending && !self.waiting.is_empty() {
            self.appending = true;
            return Todo::Append(self.next_message());
        }
        let hungry = may.drain && may.queued_bytes < READ_AHEAD_BYTES;
        if self.mode == Mode::Draining && hungry && !self.reading && self.read < self.last {
            self.reading = true;
            return Todo::Read { after: self.read };
        }
        Todo::Nothing
    }

    /// As many calls as fit into a message.
    fn next_message(&mut self) -> Vec<Item> {
        let (mut items, mut bytes) = (Vec::new(), 0);
        while let Some(item) = self.waiting.front() {
            bytes += item.bytes.len() + 32; // the frame of a call
            if bytes > ParkedBatch::CALLS_BYTES_MAX && !items.is_empty() {
                break;
            }
            items.extend(self.waiting.pop_front());
        }
        items
    }

    /// Notes that an append has its place. Returns whether the message has no calls and everything before it was handed on:
    /// then it need not be read.
    pub(crate) fn appended(&mut self, sequence: u64) -> bool {
        self.appending = false;
        let seals = std::mem::take(&mut self.sealing);
        let read = seals && self.read == self.last;
        self.last = sequence;
        if seals {
            self.sealed = sequence;
        }
        if read {
            self.read = sequence;
        }
        read
    }

    /// Notes that an append has met another owner's. What is not in the log is dropped: it is in the decision log.
    pub(crate) fn lost(&mut self) {
        self.mode = Mode::Lost;
        (self.appending, self.sealing) = (false, false);
        self.waiting.clear();
    }

    /// Notes that a message was read. Gives how its first calls have ended already and need not be sent, or `None` if the
    /// message is not wanted any more.
    pub(crate) fn loaded(&mut self, generation: u64, sequence: u64, mut calls: usize) -> Option<Vec<(Fate, usize)>> {
        if generation != self.generation || self.mode == Mode::Live {
            return None;
        }
        self.reading = false;
        self.read = sequence;
        if calls == 0 {
            // Whoever opened the partition has put it there.
            self.sealed = sequence;
        }
        let mut ended = Vec::new();
        while let Some((fate, count)) = self.ended.pop_front() {
            let of_this = count.min(calls);
            calls -= of_this;
            ended.push((fate, of_this));
            if of_this < count {
                self.ended.push_front((fate, count - of_this));
                break;
            }
        }
        Some(ended)
    }

    /// Begins a look for calls that have waited too long, from this sequence on, unless the lane is being read, or a
    /// request is under way whose calls are the first of the log.
    pub(crate) fn look(&mut self, orphaned: bool) -> Option<u64> {
        let due = !orphaned && self.is_parked() && !self.reading && self.ended.is_empty() && self.read < self.last;
        self.reading = self.reading || due;
        due.then_some(self.read)
    }

    /// Notes what the look has read to its end.
    pub(crate) fn looked(&mut self, generation: u64, through: u64) -> bool {
        let wanted = generation == self.generation;
        if wanted {
            self.reading = false;
            self.read = self.read.max(through);
        }
        wanted
    }
}

#[cfg(test)]
mod tests;
