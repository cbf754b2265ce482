//! The fold: *(state, fact) → (state′, decision)*. Uniqueness and identity are decided here and nowhere else.

mod timing;

use crate::call::CallKey;
use crate::state::{LinkClick, Mail, Mark, PartitionState, Person};
use crate::{
    BounceClass, Call, CallKind, FactKind, Hash128, Head, InstallationKey, LinkKind, MachinePolicy, MachineSignal,
    OpenSource, UserId,
};

pub use timing::Released;

/// What `Unique Link Click per Unique Open` happens once for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ClickPerOpen {
    /// Once a mail: the numerator of the click-to-open rate.
    #[default]
    Message,
    /// Once a link of a mail.
    Link,
}

/// A workspace's choices. A change applies to facts folded after it; what was decided stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Policy {
    /// Whether a click without any open implies one.
    pub implied_open: bool,
    /// Scope of the third derived event.
    pub click_per_open: ClickPerOpen,
    /// Machine opens, of facts that do not say it themselves ([`crate::MachineCheck::policy`]).
    pub machine_opens: MachinePolicy,
    /// Machine clicks, likewise.
    pub machine_clicks: MachinePolicy,
}

/// What the fold says of one fact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The person is suppressed: nothing happens, and nothing is remembered of the fact, its event id neither.
    Suppressed,
    /// The event id is known; nothing happens.
    Duplicate,
    /// A new fact, with what follows from it.
    Folded(Decision),
}

/// What follows from one fact.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Decision {
    /// Whose calls these are: the user id, or `None` while the person is anonymous. Frozen here, before anything is sent.
    pub user: Option<UserId>,
    /// What Segment is told, in order. May be empty: a repeated bounce is a new fact with nothing new to tell.
    pub calls: Vec<Call>,
    /// The fact claims another user id than the person has; the first stays.
    pub conflict: bool,
    /// An open after a hard bounce: a forwarder, or a wrong bounce.
    pub contradiction: bool,
    /// The fact is a click to be held: the caller passes it to [`PartitionState::hold`] before it folds the next fact. The
    /// calls of this decision are what it made known of its person.
    pub held: bool,
}

impl PartitionState {
    /// Links of one mail whose clicks are told apart (SES tracks at most 250 links a mail); clicks on further links are
    /// told, never as unique.
    pub const LINKS_MAX: usize = 250;

    /// Folds one fact into the state. Tombstones are made under `key`.
    pub fn fold(&mut self, policy: &Policy, key: &InstallationKey, head: &Head) -> Verdict {
        if self.suppresses(key, head) {
            return Verdict::Suppressed;
        }
        if !self.see(head.event) {
            return Verdict::Duplicate;
        }
        let mut decision = Decision::default();
        self.resolve(head, &mut decision);
        let told = &mut decision;
        match head.kind {
            FactKind::EmailOpened => self.fold_open(policy, head, told),
            FactKind::LinkClicked if self.holds(head) => told.held = true,
            FactKind::LinkClicked => {
                let burst = self.note_click(head);
                self.fold_click(policy, head, burst, told);
            }
            FactKind::EmailDelivered => {
                // A time that is no evidence of an open or a click is none of a delivery.
                let at = head.machine.timed.then_some(head.occurred_at);
                let first = |mail: &mut Mail| mail.deliver(at);
                self.fold_once_a_mail(head, CallKind::EmailDelivered, b"", first, told);
            }
            FactKind::EmailReportedAsSpam => {
                self.fold_once_a_mail(head, CallKind::EmailReportedAsSpam, b"", |mail| mail.mark(Mark::Spam), told);
            }
            FactKind::EmailBounced => {
                let class = head.bounce_class;
                let first = |mail: &mut Mail| mail.bounce(class);
                self.fold_once_a_mail(head, CallKind::EmailBounced, class.name().as_bytes(), first, told);
            }
            FactKind::EmailUnsubscribed => {
                let first = |mail: &mut Mail| mail.unsubscribe(head.scope);
                self.fold_once_a_mail(head, CallKind::EmailUnsubscribed, &head.scope.to_be_bytes(), first, told);
            }
            // The identify call was placed by `resolve`, ahead of everything that needs it.
            FactKind::Identify => {}
            FactKind::Page => decision.calls.push(raw(CallKind::Page, head)),
            FactKind::Group => decision.calls.push(raw(CallKind::Group, head)),
            FactKind::CustomTrack => decision.calls.push(raw(CallKind::CustomTrack, head)),
            FactKind::Screen => decision.calls.push(raw(CallKind::Screen, head)),
        }
        Verdict::Folded(decision)
    }

    /// Decides who the fact is about, and places the identify call that later calls need.
    fn resolve(&mut self, head: &Head, decision: &mut Decision) {
        let known = self.user(head.person);
        let explicit = head.kind == FactKind::Identify;
        let identify = || raw(CallKind::Identify, head);
        match (known, &head.user) {
            (None, None) => decision.calls.extend(explicit.then(identify)),
            (None, Some(seen)) => {
                decision.calls.push(link(head.person, seen));
                decision.user = Some(seen.clone());
                self.change_person(head.person, Person::Known(seen.clone()));
            }
            (Some(known), Some(seen)) if known != seen => {
                // The fact's own claim is kept for this fact alone; joining the anonymous id to a second user would
                // glue two users together at Segment.
                decision.user = Some(seen.clone());
                decision.conflict = true;
            }
            (Some(known), _) => {
                decision.calls.extend((explicit && head.has_traits).then(identify));
                decision.user = Some(known.clone());
            }
        }
    }

    fn fold_open(&mut self, policy: &Policy, head: &Head, decision: &mut Decision) {
        if head.machine.signal == MachineSignal::Prefetched {
            return;
        }
        let found = self.times_of_open(head);
        let machine = head.machine.signal == MachineSignal::Machine || found.is_some();
        let machines = head.machine.policy.unwrap_or(policy.machine_opens);
        let counted = !machine || machines == MachinePolicy::Include;
        let kind = told_as(CallKind::EmailOpened, CallKind::EmailMachineOpened, machine, machines);
        let (key, me) = (head.mail.key, head.event.high());
        self.change_mail(key, |mail| {
            decision.contradiction = mail.has_bounced(BounceClass::Hard);
            let source = if counted {
                OpenSource::Pixel
            } else {
                mail.mark(Mark::MachineOpen);
                OpenSource::ConfirmedByClick
            };
            let first = mail.unique_open().is_none();
            if counted && first {
                mail.win_open(me);
            }
            let unique = counted && mail.open_winner() == Some(me);
            let call = kind.map(|kind| Call { unique: Some(unique), machine: found, ..raw(kind, head) });
            decision.calls.extend(call);
            // A machine's pixel is an open only once a person's click proves it.
            if first && (counted || !mail.clicks().is_empty()) {
                unique_open(mail, key, source, decision);
                for pending in mail.take_pending() {
                    let url = Some(pending.url).filter(|url| !url.is_empty());
                    click_per_open(policy, mail, key, pending.link, url, decision);
                }
            }
        });
    }

    /// Decides a click of which it is known whether it was part of a burst.
    fn fold_click(&mut self, policy: &Policy, head: &Head, burst: bool, decision: &mut Decision) {
        let found = self.times_of_click(head, burst);
        let machine = head.machine.signal == MachineSignal::Machine || found.is_some();
        let machines = head.machine.policy.unwrap_or(policy.machine_clicks);
        let counted = (!machine || machines == MachinePolicy::Include)
            && head.link_kind == LinkKind::Content
            && head.link.is_some();
        let kind = told_as(CallKind::LinkClicked, CallKind::LinkMachineClicked, machine, machines);
        let click = |unique| kind.map(|kind| Call { unique: Some(unique), machine: found, ..raw(kind, head) });
        let Some(link) = head.link.as_ref().filter(|_| counted) else {
            decision.calls.extend(click(false));
            return;
        };
        let (key, me) = (head.mail.key, head.event.high());
        self.change_mail(key, |mail| {
            let winner = mail.clicks().iter().find(|click| click.link == link.key).map(|click| click.winner);
            let first_on_link = winner.is_none() && mail.clicks().len() < Self::LINKS_MAX;
            if first_on_link {
                mail.click(LinkClick { link: link.key, winner: me });
            }
            let unique = first_on_link || winner == Some(me);
            decision.calls.extend(click(unique));

            let machine_open = mail.is(Mark::MachineOpen);
            if mail.unique_open().is_none() && (machine_open || policy.implied_open) {
                let source = if machine_open { OpenSource::ConfirmedByClick } else { OpenSource::ImpliedByClick };
                unique_open(mail, key, source, decision);
            }
            if !first_on_link {
                return;
            }
            let call_key = CallKey::new(CallKind::UniqueLinkClick, &[&key.to_bytes(), &link.key.to_be_bytes()]);
            decision.calls.push(Call { unique: Some(true), ..Call::plain(CallKind::UniqueLinkClick, call_key) });
            if mail.unique_open().is_some() {
                click_per_open(policy, mail, key, link.key, None, decision);
            } else if policy.click_per_open == ClickPerOpen::Link || mail.pending().is_empty() {
                mail.wait_for_open(link.key, &link.url);
            }
        });
    }

    /// A call told once a mail (per `part`, a bounce class or a scope), where the mail is known; else once a fact.
    /// `first` says whether the mail had none yet, and remembers it.
    fn fold_once_a_mail(
        &mut self,
        head: &Head,
        kind: CallKind,
        part: &[u8],
        first: impl FnOnce(&mut Mail) -> bool,
        decision: &mut Decision,
    ) {
        if !head.mail.known {
            decision.calls.push(raw(kind, head));
        } else if self.change_mail(head.mail.key, first) {
            let key = CallKey::new(kind, &[&head.mail.key.to_bytes(), part]);
            decision.calls.push(Call::plain(kind, key));
        }
    }
}

/// What an open or click is told as, if it is told.
fn told_as(kind: CallKind, of_machines: CallKind, machine: bool, machines: MachinePolicy) -> Option<CallKind> {
    match machines {
        MachinePolicy::Drop if machine => None,
        MachinePolicy::Separate if machine => Some(of_machines),
        MachinePolicy::Flag | MachinePolicy::Include | MachinePolicy::Drop | MachinePolicy::Separate => Some(kind),
    }
}

/// A call that happens once for its fact.
fn raw(kind: CallKind, head: &Head) -> Call {
    Call::plain(kind, CallKey::new(kind, &[&head.event.to_bytes()]))
}

/// The identify that joins a person to a user: once for the pair, whichever fact brings the evidence.
fn link(person: Hash128, user: &UserId) -> Call {
    let key = CallKey::new(CallKind::Identify, &[&person.to_bytes(), user.as_str().as_bytes()]);
    Call { links: true, ..Call::plain(CallKind::Identify, key) }
}

fn unique_open(mail: &mut Mail, key: Hash128, source: OpenSource, decision: &mut Decision) {
    mail.open(source);
    let kind = CallKind::EmailUniqueOpens;
    let call = Call::plain(kind, CallKey::new(kind, &[&key.to_bytes()]));
    decision.calls.push(Call { unique: Some(true), open_source: Some(source), ..call });
}

fn click_per_open(
    policy: &Policy,
    mail: &mut Mail,
    key: Hash128,
    link: u64,
    link_url: Option<Box<str>>,
    decision: &mut Decision,
) {
    let kind = CallKind::UniqueLinkClickPerUniqueOpen;
    let call_key = match policy.click_per_open {
        ClickPerOpen::Message if !mail.mark(Mark::PerOpen) => return,
        ClickPerOpen::Message => CallKey::new(kind, &[&key.to_bytes()]),
        ClickPerOpen::Link => CallKey::new(kind, &[&key.to_bytes(), &link.to_be_bytes()]),
    };
    decision.calls.push(Call { unique: Some(true), link_url, ..Call::plain(kind, call_key) });
}

#[cfg(test)]
mod tests;
