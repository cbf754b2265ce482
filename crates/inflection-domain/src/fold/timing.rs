//! What the times of several facts show: a click that follows the delivery at once, and many links of a mail at once.
//!
//! Times are those at which things happened, as their reporter gives them. Coarse times (whole seconds) never make a person a
//! machine: two times lie never farther apart than what they were rounded down from, plus their grain.

use crate::fold::{Decision, Policy, Verdict};
use crate::state::{HeldClick, PartitionState};
use crate::{Head, InstallationKey, MachineSignal, MachineTimes, Timestamp, WorkspaceId};

/// An open less than so long after the delivery is a machine's.
const OPEN_AFTER_MS: i64 = 1000;
/// A click less than so long after the delivery is a machine's.
const CLICK_AFTER_MS: i64 = 2000;
/// The same of a click that is suspect already.
const CLICK_AFTER_SUSPECT_MS: i64 = 5000;
/// What happened before the delivery, by less than this, happened at a gateway that had not passed the mail on yet. What
/// happened still earlier was measured by another clock.
const BEFORE_MAX_MS: i64 = 10 * 60 * 1000;
/// So many links of one mail at once are a burst.
const BURST_LINKS: usize = 3;
/// "At once": within less than this.
const BURST_MS: i64 = 2000;
/// The same for clicks that are suspect already.
const BURST_SUSPECT_MS: i64 = 10_000;

/// A held click that was let go, and what comes of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Released {
    /// What it was decided by.
    pub head: Head,
    /// What is passed on, sealed.
    pub body: Box<[u8]>,
    /// What comes of it; never a duplicate.
    pub verdict: Verdict,
}

impl PartitionState {
    /// What the times show of an open.
    pub(super) fn times_of_open(&self, head: &Head) -> Option<MachineTimes> {
        self.follows_delivery(head, OPEN_AFTER_MS).then_some(MachineTimes::AfterDelivery)
    }

    /// What the times show of a click, of which it is known whether it was part of a burst.
    pub(super) fn times_of_click(&self, head: &Head, burst: bool) -> Option<MachineTimes> {
        let suspect = head.machine.signal == MachineSignal::Suspect;
        let after = if suspect { CLICK_AFTER_SUSPECT_MS } else { CLICK_AFTER_MS };
        let burst = burst && head.machine.is_open_to_times();
        let delivery = || self.follows_delivery(head, after).then_some(MachineTimes::AfterDelivery);
        burst.then_some(MachineTimes::Burst).or_else(delivery)
    }

    fn follows_delivery(&self, head: &Head, less_than_ms: i64) -> bool {
        if !head.machine.is_open_to_times() {
            return false;
        }
        let since = self.mail(head.mail.key).and_then(|mail| mail.since_delivery_ms(head.occurred_at));
        since.is_some_and(|since| (-BEFORE_MAX_MS..less_than_ms).contains(&since))
    }

    /// Whether a click is to be held. Then [`PartitionState::hold`] takes it.
    pub(super) fn holds(&self, head: &Head) -> bool {
        head.machine.hold_ms > 0 && head.machine.is_open_to_times() && self.held().has_room(head.mail.key)
    }

    /// Takes a click of which the fold has said that it is held, with its sealed body. It came in a message received at
    /// `received_at`, and waits from then on: the clock may be another host's, and ahead of this one's.
    pub fn hold(&mut self, received_at: Timestamp, head: &Head, body: &[u8]) {
        let burst = self.note_click(head);
        let until = Timestamp::from_ms(received_at.as_ms().saturating_add(i64::from(head.machine.hold_ms)));
        let click = HeldClick { until, burst, erased: false, head: head.clone(), body: body.into() };
        self.change_held(self.held().next_number(), click);
    }

    /// Remembers a click among those of its mail; whether it is part of a burst. Held clicks that turn out to be part of the
    /// same one are marked.
    pub(super) fn note_click(&mut self, head: &Head) -> bool {
        let (true, Some(link)) = (head.machine.timed && head.machine.signal != MachineSignal::Human, &head.link) else {
            return false;
        };
        let (mail, at) = (head.mail.key, head.occurred_at.as_ms());
        let mut recent = self.held().recent(mail).cloned().unwrap_or_default();
        let mut clicks: Vec<Clicked> = vec![Clicked::of(head, link.key, None)];
        clicks.extend(recent.links.iter().map(|(link, at)| Clicked {
            at: *at,
            link: *link,
            suspect: false,
            held: None,
        }));
        clicks.extend(self.held().of_mail(mail).filter_map(|(number, click)| {
            let link = click.head.link.as_ref()?;
            Some(Clicked::of(&click.head, link.key, Some(number)))
        }));
        let burst = in_burst(&clicks);
        for click in burst.iter().filter_map(|place| clicks.get(*place)) {
            if let Some(number) = click.held {
                self.mark_burst(number);
            }
        }
        recent.add(link.key, at);
        recent.touched = self.clock();
        self.change_recent(mail, recent);
        burst.contains(&0)
    }

    /// Lets go the first held click whose time has come, and decides it. `policy` gives a workspace's choices.
    pub fn release(&mut self, policy: impl Fn(&WorkspaceId) -> Policy, key: &InstallationKey) -> Option<Released> {
        let (until, number) = self.held().first_due()?;
        if until > self.clock() {
            return None;
        }
        let HeldClick { burst, erased, head, body, .. } = self.take_held(number)?;
        if erased || self.suppresses(key, &head) {
            return Some(Released { head, body, verdict: Verdict::Suppressed });
        }
        // Who it is was decided when it came, and the identify was told then; what was learned since is no conflict.
        let user = head.user.clone().or_else(|| self.user(head.person).cloned());
        let mut decision = Decision { user, ..Decision::default() };
        self.fold_click(&policy(&head.workspace), &head, burst, &mut decision);
        Some(Released { head, body, verdict: Verdict::Folded(decision) })
    }
}

/// One click among those of a mail.
#[derive(Debug, Clone, Copy)]
struct Clicked {
    at: i64,
    link: u64,
    suspect: bool,
    /// Its number, when it is held.
    held: Option<u64>,
}

impl Clicked {
    fn of(head: &Head, link: u64, held: Option<u64>) -> Self {
        let suspect = head.machine.signal == MachineSignal::Suspect;
        Self { at: head.occurred_at.as_ms(), link, suspect, held }
    }
}

/// The places of those clicks that are part of a burst. There are few clicks: at most those of one mail that are held.
fn in_burst(clicks: &[Clicked]) -> Vec<usize> {
    let mut order: Vec<(usize, &Clicked)> = clicks.iter().enumerate().collect();
    order.sort_unstable_by_key(|(place, click)| (click.at, *place));
    let mut burst = Vec::new();
    for start in 0..order.len() {
        let Some(from) = order.get(start..) else { break };
        let Some((_, first)) = from.first() else { break };
        let within = |window: i64| from.iter().take_while(move |(_, click)| click.at - first.at < window);
        if is_burst(within(BURST_MS).map(|(_, click)| click.link)) {
            burst.extend(within(BURST_MS).map(|(place, _)| *place));
        }
        if is_burst(within(BURST_SUSPECT_MS).map(|(_, click)| click.link)) {
            burst.extend(within(BURST_SUSPECT_MS).filter(|(_, click)| click.suspect).map(|(place, _)| *place));
        }
    }
    burst
}

/// Whether there are enough links of each other.
fn is_burst(links: impl Iterator<Item = u64>) -> bool {
    let mut known = Vec::with_capacity(BURST_LINKS);
    for link in links {
        if !known.contains(&link) {
            known.push(link);
        }
        if known.len() >= BURST_LINKS {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests;
