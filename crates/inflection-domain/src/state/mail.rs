//! One mail as a state holds it: 16 bytes and, for mails that were opened or clicked, a little more elsewhere.
//!
//! Equal mails have one form, however they came about, so that states can be compared: a part is there only when
//! something is in it.

use super::{Delivery, LinkClick, PartitionState, PendingLink, heap};
use crate::{BounceClass, OpenSource, Timestamp};

/// What happened to one mail; [`Delivery`] says what the parts mean.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(crate) struct Mail {
    /// When it was delivered, in units of [`STAMP_MS`]; 0 when that is not known. All of them are 497 days, longer than mails
    /// are remembered.
    delivered_at: u32,
    /// Of 65,536 days, to the year 2149.
    day: u16,
    /// One bit a bounce class, and above them how the unique open came about: 0 when there is none.
    outcomes: u8,
    /// One bit a [`Mark`].
    marks: u8,
    rest: Option<Box<Rest>>,
}

/// The grain of the moment of delivery, in milliseconds.
const STAMP_MS: i64 = 10;
/// Where in [`Mail::outcomes`] the unique open stands.
const OPEN_SHIFT: u32 = 4;

/// What is so of a mail or is not.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Mark {
    Delivered,
    Spam,
    MachineOpen,
    PerOpen,
    /// [`Rest::open_winner`] is one.
    OpenWinner,
}

/// What only mails have that were opened, clicked or unsubscribed from.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
struct Rest {
    /// Means something under [`Mark::OpenWinner`]. An `Option` would cost eight bytes more for each mail opened.
    open_winner: u64,
    clicks: Box<[LinkClick]>,
    more: Option<Box<More>>,
}

/// What hardly any mail has.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
struct More {
    pending: Box<[PendingLink]>,
    scopes: Box<[u64]>,
}

impl Mail {
    /// Notes that the mail changes today.
    pub(crate) fn touch(&mut self, today: u32) {
        self.day = u16::try_from(today).unwrap_or(u16::MAX);
    }

    /// Whether the mail is forgotten: then it counts as one of which nothing is known.
    pub(crate) fn has_expired(&self, today: u32) -> bool {
        u32::from(self.day) + PartitionState::UNIQUENESS_DAYS < today
    }

    pub(crate) fn is(&self, mark: Mark) -> bool {
        self.marks & mark.bit() != 0
    }

    /// Sets a mark; whether it was not set before.
    pub(crate) fn mark(&mut self, mark: Mark) -> bool {
        let new = !self.is(mark);
        self.marks |= mark.bit();
        new
    }

    pub(crate) fn unique_open(&self) -> Option<OpenSource> {
        match self.outcomes >> OPEN_SHIFT {
            1 => Some(OpenSource::Pixel),
            2 => Some(OpenSource::ConfirmedByClick),
            3 => Some(OpenSource::ImpliedByClick),
            _ => None,
        }
    }

    pub(crate) fn open(&mut self, source: OpenSource) {
        let number = match source {
            OpenSource::Pixel => 1u8,
            OpenSource::ConfirmedByClick => 2,
            OpenSource::ImpliedByClick => 3,
        };
        self.outcomes = (self.outcomes & ((1 << OPEN_SHIFT) - 1)) | (number << OPEN_SHIFT);
    }

    /// Notes the delivery and when it was, if that is known; whether it is the first.
    pub(crate) fn deliver(&mut self, at: Option<Timestamp>) -> bool {
        let first = self.mark(Mark::Delivered);
        if first {
            self.delivered_at = at.map_or(0, stamp);
        }
        first
    }

    /// Milliseconds from the delivery to another moment, in steps of [`STAMP_MS`]; `None` when the delivery is not known.
    pub(crate) fn since_delivery_ms(&self, at: Timestamp) -> Option<i64> {
        let since = stamp(at).wrapping_sub(self.delivered_at).cast_signed();
        (self.delivered_at != 0).then_some(i64::from(since) * STAMP_MS)
    }

    pub(crate) fn open_winner(&self) -> Option<u64> {
        self.rest.as_deref().filter(|_| self.is(Mark::OpenWinner)).map(|rest| rest.open_winner)
    }

    pub(crate) fn win_open(&mut self, winner: u64) {
        self.mark(Mark::OpenWinner);
        self.rest_mut().open_winner = winner;
    }

    pub(crate) fn clicks(&self) -> &[LinkClick] {
        self.rest.as_deref().map(|rest| &*rest.clicks).unwrap_or_default()
    }

    pub(crate) fn click(&mut self, click: LinkClick) {
        push(&mut self.rest_mut().clicks, click);
    }

    pub(crate) fn pending(&self) -> &[PendingLink] {
        self.more().map(|more| &*more.pending).unwrap_or_default()
    }

    /// Adds a click that waits for the mail to be opened.
    pub(crate) fn wait_for_open(&mut self, link: u64, url: &str) {
        let waiting: usize = self.pending().iter().map(|pending| pending.url.len()).sum();
        let fits = waiting + url.len() <= Delivery::PENDING_BYTES_MAX;
        let url = if fits { url } else { "" };
        push(&mut self.more_mut().pending, PendingLink { link, url: url.into() });
    }

    /// The clicks that waited. None waits any longer.
    pub(crate) fn take_pending(&mut self) -> Box<[PendingLink]> {
        let Some(rest) = self.rest.as_deref_mut() else { return Box::default() };
        let Some(more) = rest.more.as_deref_mut() else { return Box::default() };
        let pending = std::mem::take(&mut more.pending);
        if more.scopes.is_empty() {
            rest.more = None;
        }
        pending
    }

    pub(crate) fn has_bounced(&self, class: BounceClass) -> bool {
        self.outcomes & bit(class) != 0
    }

    /// Notes a bounce; whether it is the first of its class.
    pub(crate) fn bounce(&mut self, class: BounceClass) -> bool {
        let new = !self.has_bounced(class);
        self.outcomes |= bit(class);
        new
    }

    fn scopes(&self) -> &[u64] {
        self.more().map(|more| &*more.scopes).unwrap_or_default()
    }

    /// Notes an unsubscribe; whether it is the first of its scope.
    pub(crate) fn unsubscribe(&mut self, scope: u64) -> bool {
        let new = !self.scopes().contains(&scope);
        if new {
            push(&mut self.more_mut().scopes, scope);
        }
        new
    }

    /// About how large the mail is in a list of changes.
    pub(crate) fn change_bytes(&self) -> usize {
        let urls: usize = self.pending().iter().map(|pending| pending.url.len() + 16).sum();
        80 + self.clicks().len() * 16 + self.scopes().len() * 8 + urls
    }

    /// Bytes held outside the mail itself.
    pub(crate) fn heap_bytes(&self) -> usize {
        let Some(rest) = self.rest.as_deref() else { return 0 };
        let more = rest.more.as_deref().map_or(0, |more| {
            let urls: usize = more.pending.iter().map(|pending| heap(pending.url.len())).sum();
            heap(size_of::<More>()) + heap(size_of_val(&*more.pending)) + urls + heap(size_of_val(&*more.scopes))
        });
        heap(size_of::<Rest>()) + heap(size_of_val(&*rest.clicks)) + more
    }

    fn rest_mut(&mut self) -> &mut Rest {
        self.rest.get_or_insert_default()
    }

    fn more(&self) -> Option<&More> {
        self.rest.as_deref()?.more.as_deref()
    }

    fn more_mut(&mut self) -> &mut More {
        self.rest_mut().more.get_or_insert_default()
    }
}

impl From<Delivery> for Mail {
    fn from(delivery: Delivery) -> Self {
        let mut mail = Self { delivered_at: delivery.delivered_at, ..Self::default() };
        mail.touch(delivery.day);
        delivery.unique_open.into_iter().for_each(|source| mail.open(source));
        for (mark, set) in [
            (Mark::Delivered, delivery.delivered),
            (Mark::Spam, delivery.spam),
            (Mark::MachineOpen, delivery.machine_open),
            (Mark::PerOpen, delivery.per_open),
        ] {
            if set {
                mail.mark(mark);
            }
        }
        for class in delivery.bounces {
            mail.bounce(class);
        }
        if let Some(winner) = delivery.open_winner {
            mail.win_open(winner);
        }
        if !delivery.clicks.is_empty() {
            mail.rest_mut().clicks = delivery.clicks.into_boxed_slice();
        }
        if !delivery.pending.is_empty() || !delivery.scopes.is_empty() {
            let (pending, scopes) = (delivery.pending.into_boxed_slice(), delivery.scopes.into_boxed_slice());
            *mail.more_mut() = More { pending, scopes };
        }
        mail
    }
}

impl From<&Mail> for Delivery {
    fn from(mail: &Mail) -> Self {
        Self {
            day: mail.day.into(),
            delivered: mail.is(Mark::Delivered),
            delivered_at: mail.delivered_at,
            spam: mail.is(Mark::Spam),
            machine_open: mail.is(Mark::MachineOpen),
            unique_open: mail.unique_open(),
            open_winner: mail.open_winner(),
            clicks: mail.clicks().to_vec(),
            pending: mail.pending().to_vec(),
            per_open: mail.is(Mark::PerOpen),
            bounces: BounceClass::ALL.into_iter().filter(|class| mail.has_bounced(*class)).collect(),
            scopes: mail.scopes().to_vec(),
        }
    }
}

impl Mark {
    fn bit(self) -> u8 {
        1u8 << (self as u8)
    }
}

/// A moment in units of [`STAMP_MS`], without what is above 32 bits; never 0.
fn stamp(at: Timestamp) -> u32 {
    let [a, b, c, d, ..] = at.as_ms().div_euclid(STAMP_MS).to_le_bytes();
    u32::from_le_bytes([a, b, c, d]).max(1)
}

fn bit(class: BounceClass) -> u8 {
    match class {
        BounceClass::Hard => 1,
        BounceClass::Soft => 2,
        BounceClass::Block => 4,
        BounceClass::Undetermined => 8,
    }
}

/// Adds to a list that has no room to spare: one is enough nearly always, and many mails have one.
fn push<T>(list: &mut Box<[T]>, item: T) {
    let mut longer = std::mem::take(list).into_vec();
    longer.reserve_exact(1);
    longer.push(item);
    *list = longer.into_boxed_slice();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn most_mails_are_small() {
        assert_eq!((size_of::<Mail>(), size_of::<Rest>(), size_of::<More>()), (16, 32, 32));
    }

    #[test]
    fn what_is_packed_is_what_was_told() {
        let full = Delivery {
            day: 20_000,
            delivered: true,
            delivered_at: 4_000_000_000,
            spam: true,
            machine_open: true,
            unique_open: Some(OpenSource::Pixel),
            open_winner: Some(0),
            clicks: vec![LinkClick { link: 1, winner: 2 }, LinkClick { link: 3, winner: 4 }],
            pending: vec![PendingLink { link: 5, url: "u".into() }],
            per_open: true,
            bounces: vec![BounceClass::Hard, BounceClass::Undetermined],
            scopes: vec![0, 9],
        };
        let plain = Delivery { day: 1, delivered: true, ..Delivery::default() };
        for delivery in [full, plain, Delivery { scopes: vec![7], ..Delivery::default() }, Delivery::default()] {
            assert_eq!(Delivery::from(&Mail::from(delivery.clone())), delivery);
        }
    }

    #[test]
    fn the_time_since_the_delivery_is_told_to_ten_milliseconds() {
        let at = |ms: i64| Timestamp::from_ms(1_790_000_000_000 + ms);
        let mut mail = Mail::default();
        assert_eq!(mail.since_delivery_ms(at(0)), None);
        assert!(mail.deliver(Some(at(0))) && !mail.deliver(Some(at(5000))), "the first delivery counts");
        for (ms, since) in [(0, 0), (9, 0), (999, 990), (1000, 1000), (-1, -10), (86_400_000, 86_400_000)] {
            assert_eq!(mail.since_delivery_ms(at(ms)), Some(since), "{ms}");
        }
        let year = 365 * 86_400_000;
        assert!(mail.since_delivery_ms(at(year)).is_none_or(|since| !(-600_000..5000).contains(&since)));
        // Coarse times never bring two moments nearer to each other than they were.
        let mut mail = Mail::default();
        mail.deliver(Some(at(9)));
        assert_eq!(mail.since_delivery_ms(at(1009)), Some(1000));
        let mut mail = Mail::default();
        assert!(mail.deliver(None) && !mail.deliver(Some(at(0))), "the first counts, whenever it was");
        assert_eq!(mail.since_delivery_ms(at(0)), None);
    }

    #[test]
    fn equal_mails_have_one_form() {
        let mut mail = Mail::default();
        mail.click(LinkClick { link: 1, winner: 2 });
        let clicked = mail.clone();
        mail.wait_for_open(1, "https://example.com");
        assert_eq!(mail.take_pending().len(), 1);
        assert_eq!(mail, clicked);
        assert_eq!(mail.heap_bytes(), clicked.heap_bytes());
        assert_eq!(mail, Mail::from(Delivery::from(&mail)));
    }
}
