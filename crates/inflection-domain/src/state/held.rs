//! Clicks as the rules of time see them: those that are held until they can be judged, and the last links of each mail.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::{PartitionState, heap};
use crate::{Hash128, Head, InstallationKey, PersonOrder, Timestamp, Tombstone};

/// What the number of a click takes when changes are written, at most, in bytes.
const NUMBER_CHANGE_BYTES: usize = 10;

/// A click that waits for what comes after it, so that it can be judged with it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HeldClick {
    /// When the clock lets it go ([`PartitionState::tick`](super::PartitionState::tick)).
    pub until: Timestamp,
    /// Whether it is part of a burst.
    pub burst: bool,
    /// Whether its person was erased: then nothing will come of it, and nothing of it is kept but its keys.
    pub erased: bool,
    /// What it is decided by.
    pub head: Head,
    /// What is passed on, sealed.
    pub body: Box<[u8]>,
}

impl HeldClick {
    /// Bytes it takes, about.
    fn bytes(&self) -> usize {
        let texts = [
            self.head.workspace.as_str().len(),
            self.head.user.as_ref().map_or(0, |user| user.as_str().len()),
            self.head.link.as_ref().map_or(0, |link| link.url.len()),
        ];
        size_of::<Self>() + heap(self.body.len()) + texts.into_iter().map(heap).sum::<usize>()
    }
}

/// The last two links of a mail that were clicked, and when, in milliseconds since 1970: a third one right after them is a
/// burst.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct RecentClicks {
    /// The clock at the last click that was noted.
    pub touched: Timestamp,
    /// Link and time, no link twice.
    pub links: Vec<(u64, i64)>,
}

impl RecentClicks {
    /// Links that are remembered.
    pub(crate) const LINKS_MAX: usize = 2;

    /// Adds a click. What is reported late pushes nothing newer out.
    pub(crate) fn add(&mut self, link: u64, at_ms: i64) {
        if let Some((_, at)) = self.links.iter_mut().find(|(known, _)| *known == link) {
            *at = at_ms.max(*at);
            return;
        }
        self.links.push((link, at_ms));
        if self.links.len() > Self::LINKS_MAX {
            let oldest =
                self.links.iter().enumerate().min_by_key(|(_, (link, at))| (*at, *link)).map(|(place, _)| place);
            if let Some(place) = oldest {
                self.links.remove(place);
            }
        }
    }
}

/// All of them. What is held is held in the order of arrival.
#[derive(Debug, Clone, Default)]
pub(crate) struct Held {
    /// By number of arrival.
    clicks: BTreeMap<u64, HeldClick>,
    due: BTreeSet<(Timestamp, u64)>,
    of_mail: HashMap<Hash128, BTreeSet<u64>>,
    recent: HashMap<Hash128, RecentClicks>,
    by_age: BTreeSet<(Timestamp, Hash128)>,
    bytes: usize,
}

impl Held {
    pub(crate) fn put(&mut self, number: u64, click: HeldClick) {
        self.take(number);
        self.due.insert((click.until, number));
        self.of_mail.entry(click.head.mail.key).or_default().insert(number);
        self.bytes += click.bytes();
        self.clicks.insert(number, click);
    }

    pub(crate) fn take(&mut self, number: u64) -> Option<HeldClick> {
        let click = self.clicks.remove(&number)?;
        self.due.remove(&(click.until, number));
        self.bytes -= click.bytes();
        if let Some(of_mail) = self.of_mail.get_mut(&click.head.mail.key) {
            of_mail.remove(&number);
            if of_mail.is_empty() {
                self.of_mail.remove(&click.head.mail.key);
            }
        }
        Some(click)
    }

    pub(crate) fn get(&self, number: u64) -> Option<&HeldClick> {
        self.clicks.get(&number)
    }

    /// Says of a click that it is part of a burst; whether that is news.
    pub(crate) fn mark_burst(&mut self, number: u64) -> bool {
        self.clicks.get_mut(&number).is_some_and(|click| !std::mem::replace(&mut click.burst, true))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u64, &HeldClick)> {
        self.clicks.iter().map(|(number, click)| (*number, click))
    }

    pub(crate) fn of_mail(&self, mail: Hash128) -> impl Iterator<Item = (u64, &HeldClick)> {
        let numbers = self.of_mail.get(&mail).into_iter().flatten();
        numbers.filter_map(|number| Some((*number, self.clicks.get(number)?)))
    }

    /// The number of the next click to be held: it depends on nothing but what is held.
    pub(crate) fn next_number(&self) -> u64 {
        self.clicks.last_key_value().map_or(0, |(last, _)| last.saturating_add(1))
    }

    /// When the first of them is let go, and its number.
    pub(crate) fn first_due(&self) -> Option<(Timestamp, u64)> {
        self.due.first().copied()
    }

    /// Whether one more click of a mail may be held.
    pub(crate) fn has_room(&self, mail: Hash128) -> bool {
        self.clicks.len() < PartitionState::HELD_MAX
            && self.bytes < PartitionState::HELD_BYTES_MAX
            && self.of_mail.get(&mail).is_none_or(|of_mail| of_mail.len() < PartitionState::HELD_PER_MAIL_MAX)
    }

    pub(crate) fn recent(&self, mail: Hash128) -> Option<&RecentClicks> {
        self.recent.get(&mail)
    }

    pub(crate) fn all_recent(&self) -> impl Iterator<Item = (Hash128, &RecentClicks)> {
        self.recent.iter().map(|(mail, recent)| (*mail, recent))
    }

    pub(crate) fn put_recent(&mut self, mail: Hash128, recent: RecentClicks) {
        if let Some(old) = self.recent.get(&mail) {
            self.by_age.remove(&(old.touched, mail));
        }
        self.by_age.insert((recent.touched, mail));
        self.recent.insert(mail, recent);
        while self.recent.len() > PartitionState::RECENT_MAX {
            self.forget_oldest();
        }
    }

    /// Forgets links that were clicked before `moment`.
    pub(crate) fn forget_before(&mut self, moment: Timestamp) {
        while self.by_age.first().is_some_and(|(touched, _)| *touched < moment) {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        if let Some((_, mail)) = self.by_age.pop_first() {
            self.recent.remove(&mail);
        }
    }

    /// Bytes held.
    pub(crate) fn bytes(&self) -> usize {
        let recent = size_of::<(Hash128, RecentClicks)>() + RecentClicks::LINKS_MAX * size_of::<(u64, i64)>();
        self.bytes + self.recent.len() * (recent + size_of::<(Timestamp, Hash128)>())
    }

    /// Whether both remember the same.
    pub(crate) fn same(&self, other: &Self) -> bool {
        self.clicks == other.clicks && self.recent == other.recent
    }
}

impl PartitionState {
    /// Clicks of one mail that are held at a time; further ones are judged when they come.
    pub const HELD_PER_MAIL_MAX: usize = 64;
    /// Clicks of a partition that are held at a time.
    pub const HELD_MAX: usize = 4096;
    /// Bytes that held clicks of a partition take, after which no more are held.
    pub const HELD_BYTES_MAX: usize = 4 * 1024 * 1024;
    /// Mails whose last links are remembered, the ones clicked last.
    pub const RECENT_MAX: usize = 4096;
    /// How long the last links of a mail are remembered, in milliseconds of receive time: longer than the reports of one
    /// burst lie apart.
    pub const RECENT_MS: i64 = 10 * 60 * 1000;

    /// Moves the clock that holds are measured by: to the receive time of the message whose facts come next, never back.
    /// Unlike [`PartitionState::advance`] it does not depend on how messages are gathered into steps.
    pub fn tick(&mut self, received_at: Timestamp) {
        if received_at > self.clock {
            self.clock = received_at;
            self.held.forget_before(Timestamp::from_ms(received_at.as_ms() - Self::RECENT_MS));
        }
    }

    /// The receive time that holds have been measured by so far.
    #[must_use]
    pub fn clock(&self) -> Timestamp {
        self.clock
    }

    /// When the first held click is let go.
    #[must_use]
    pub fn next_release(&self) -> Option<Timestamp> {
        self.held.first_due().map(|(until, _)| until)
    }

    /// Whether a held click can be let go.
    #[must_use]
    pub fn has_due(&self) -> bool {
        self.next_release().is_some_and(|until| until <= self.clock)
    }

    /// The held clicks with the numbers of their arrival, in order.
    pub fn held_clicks(&self) -> impl Iterator<Item = (u64, &HeldClick)> {
        self.held.iter()
    }

    /// The last links of mails, in no order.
    pub fn recent_clicks(&self) -> impl Iterator<Item = (Hash128, &RecentClicks)> {
        self.held.all_recent()
    }

    /// What is held and what is recent, to be looked at.
    pub(crate) fn held(&self) -> &Held {
        &self.held
    }

    pub(crate) fn change_held(&mut self, number: u64, click: HeldClick) {
        self.changes_bytes += 160 + click.body.len() + click.head.link.as_ref().map_or(0, |link| link.url.len());
        self.held.put(number, click);
        self.touched_held.insert(number);
    }

    /// Marks a held click as part of a burst. The changes say its number: its body, and those of all others that one click
    /// makes part of its burst, would not fit into one message.
    pub(crate) fn mark_burst(&mut self, number: u64) {
        if self.held.mark_burst(number) {
            self.changes_bytes += NUMBER_CHANGE_BYTES;
            self.touched_burst.insert(number);
        }
    }

    pub(crate) fn take_held(&mut self, number: u64) -> Option<HeldClick> {
        self.changes_bytes += NUMBER_CHANGE_BYTES;
        self.touched_held.insert(number);
        self.held.take(number)
    }

    pub(crate) fn change_recent(&mut self, mail: Hash128, recent: RecentClicks) {
        self.changes_bytes += 64;
        self.held.put_recent(mail, recent);
        self.touched_recent.push(mail);
    }

    /// Takes everything that names a person out of its held clicks, and of everyone's whom the order is about.
    pub(super) fn erase_held(&mut self, key: &InstallationKey, order: &PersonOrder) {
        let concerned = |head: &Head| {
            let users = head.user.iter().chain(self.user(head.person));
            let mut tombstones = users.map(|user| Tombstone::of_user(key, &head.workspace, user));
            order.person == Some(head.person) || tombstones.any(|tombstone| tombstone == order.tombstone)
        };
        let concerned = self.held.iter().filter(|(_, click)| !click.erased && concerned(&click.head));
        let numbers: Vec<u64> = concerned.map(|(number, _)| number).collect();
        for number in numbers {
            if let Some(mut click) = self.held.take(number) {
                click.erased = true;
                click.body = Box::default();
                click.head.user = None;
                click.head.link = None;
                self.change_held(number, click);
            }
        }
    }
}
