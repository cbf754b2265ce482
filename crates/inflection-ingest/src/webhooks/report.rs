//! What a provider reports of one mail, on its way to a fact.

use std::cell::Cell;

use inflection_control::{Field, Provider};
use inflection_domain::{BounceClass, EventId, Fact, FactKind, Hash128, Timestamp};

use super::metadata::Metadata;
use crate::fact::{Context, Outline, Rejection, check_size, complete};
use crate::input::Input;
use crate::json::Value;
use crate::machine::Clock;

/// Longest reason or user agent that is kept, in bytes: providers put whole SMTP dialogues there.
const TEXT_BYTES_MAX: usize = 1024;

/// One thing that happened to one mail, in a provider's words and not yet believed.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) kind: FactKind,
    /// The provider's id of the event, the same in every repeat; without one, its content tells events apart.
    pub(crate) id: Option<String>,
    pub(crate) at: Option<Timestamp>,
    pub(crate) email: Option<String>,
    pub(crate) message_id: Option<String>,
    pub(crate) url: Option<String>,
    pub(crate) user_agent: Option<String>,
    pub(crate) ip: Option<String>,
    /// What the provider knows of machines; `None` when it says nothing.
    pub(crate) is_machine: Option<bool>,
    pub(crate) bounce_class: BounceClass,
    pub(crate) bounce_reason: Option<String>,
    pub(crate) unsubscribe_scope: Option<String>,
    pub(crate) metadata: Metadata,
}

impl Report {
    pub(crate) fn new(kind: FactKind, metadata: Metadata) -> Self {
        Self {
            kind,
            id: None,
            at: None,
            email: None,
            message_id: None,
            url: None,
            user_agent: None,
            ip: None,
            is_machine: None,
            bounce_class: BounceClass::default(),
            bounce_reason: None,
            unsubscribe_scope: None,
            metadata,
        }
    }

    /// Checks it like any sender's event. A time out of range becomes `now`: a provider cannot be told to send another.
    pub(crate) fn into_fact(mut self, provider: Provider, context: Context<'_>) -> Result<Fact<'static>, Rejection> {
        let id = self.event_id(provider);
        let stated = self.at.filter(|at| context.is_in_range(*at));
        let clock = if stated.is_some() { Clock::Sender } else { Clock::Receipt };
        let outline = Outline { clock, ..Outline::new(self.kind, stated.unwrap_or(context.now)) };
        // As long as all of it together: a call made from it must fit.
        let bytes = Cell::new(id.len());
        let text = |value: Option<String>| {
            let value = value.filter(|text| !text.is_empty())?;
            bytes.set(bytes.get() + value.len());
            Input::text(value)
        };
        let mut own = |field: Field| text(self.metadata.take(field));
        let input = Input {
            id: Input::text(id),
            person_id: own(Field::PersonId),
            user_id: own(Field::UserId),
            email: text(self.email),
            group_id: own(Field::GroupId),
            email_id: own(Field::EmailId),
            email_subject: own(Field::EmailSubject),
            campaign_id: own(Field::CampaignId),
            campaign_run_id: own(Field::CampaignRunId),
            campaign_name: own(Field::CampaignName),
            link_id: own(Field::LinkId),
            email_link_url: text(self.url),
            bounce_class: (self.kind == FactKind::EmailBounced).then(|| self.bounce_class.name()).and_then(Input::text),
            bounce_reason: text(self.bounce_reason.map(cut)).filter(|_| self.kind == FactKind::EmailBounced),
            unsubscribe_scope: text(self.unsubscribe_scope),
            is_machine: self.is_machine.map(Value::Bool),
            user_agent: text(self.user_agent.map(cut)),
            ip: text(self.ip),
            provider: Input::text(provider.name()),
            provider_message_id: text(self.message_id),
            ..Input::default()
        };
        let bytes = bytes.get();
        check_size(bytes)?;
        complete(&mut Input { bytes, ..input }, outline, context)
    }

    /// The provider's own id of the event; without one, a hash of its content. Two events that are equal in kind, mail,
    /// recipient, moment, link, address and agent are one event.
    fn event_id(&self, provider: Provider) -> String {
        let whole = |id: &String| EventId::new(format!("{provider}:{id}")).ok().map(|id| id.as_str().to_owned());
        if let Some(id) = self.id.as_ref().filter(|id| !id.is_empty()) {
            return whole(id)
                .unwrap_or_else(|| format!("{provider}:hash-{}", Hash128::of("webhook event id", &[id.as_bytes()])));
        }
        let time = self.at.map(|at| at.as_ms().to_le_bytes()).unwrap_or_default();
        let [message, email, url, ip, agent] = [&self.message_id, &self.email, &self.url, &self.ip, &self.user_agent]
            .map(|text| text.as_deref().unwrap_or_default().as_bytes());
        let parts = [self.kind.name().as_bytes(), message, email, &time, url, ip, agent];
        format!("{provider}:content-{}", Hash128::of("webhook content id", &parts))
    }
}

/// Cuts a text that says more than anybody reads, and what no text should have.
fn cut(mut text: String) -> String {
    text.retain(|c| !c.is_control() || c == '\n');
    text.truncate(text.floor_char_boundary(TEXT_BYTES_MAX));
    text
}

/// The class of a bounce by its enhanced status code (RFC 3463), as far as the code tells: a full mailbox is soft whatever
/// the server says of its permanence, policy is a block.
pub(crate) fn class_of_status(status: &str) -> Option<BounceClass> {
    match status {
        "5.2.2" | "4.2.2" => Some(BounceClass::Soft),
        status if status.starts_with("5.7") => Some(BounceClass::Block),
        status if status.starts_with('4') => Some(BounceClass::Soft),
        status if status.starts_with('5') => Some(BounceClass::Hard),
        _ => None,
    }
}

/// The first enhanced status code in a text, like `5.1.1` in `550 5.1.1 no such user`.
pub(crate) fn status_in(text: &str) -> Option<&str> {
    text.split(|c: char| !c.is_ascii_digit() && c != '.').find(|word| {
        let mut parts = word.split('.');
        let class = matches!(parts.next(), Some("2" | "4" | "5"));
        let mut number = || parts.next().is_some_and(|part| (1..=3).contains(&part.len()));
        class && number() && number() && parts.next().is_none()
    })
}

/// A class that the provider tells without knowing of blocks: that a policy was the reason shows in what the server said only.
pub(crate) fn block_or(told: BounceClass, said: Option<&str>) -> BounceClass {
    let class = said.and_then(status_in).and_then(class_of_status);
    if class == Some(BounceClass::Block) { BounceClass::Block } else { told }
}

/// The class of a bounce in the vocabulary of Amazon SES, its type and subtype; `None` for what was suppressed before any
/// server could refuse it. SES reports transient bounces only when it has stopped trying.
pub(crate) fn class_of_ses(kind: &str, sub: &str) -> Option<BounceClass> {
    match (kind, sub) {
        ("Permanent", "Suppressed" | "OnAccountSuppressionList") => None,
        ("Permanent", _) => Some(BounceClass::Hard),
        ("Transient", "ContentRejected" | "AttachmentRejected") => Some(BounceClass::Block),
        ("Transient", _) => Some(BounceClass::Soft),
        _ => Some(BounceClass::Undetermined),
    }
}

#[cfg(test)]
mod tests {
    use inflection_domain::{InstallationKey, MachineRules, WorkspaceId};

    use super::*;
    use crate::answer::Code;
    use crate::webhooks::testing::{NOW, at, webhook};

    fn fact(report: Report) -> Result<Fact<'static>, Code> {
        let (workspace, key) = (WorkspaceId::new("acme").unwrap(), InstallationKey::new([1; 32]));
        let machine = MachineRules::default();
        let context = Context { workspace: &workspace, key: &key, now: at(NOW), machine: &machine };
        report.into_fact(Provider::Svix, context).map_err(|why| why.code)
    }

    #[test]
    fn a_call_made_from_it_must_fit() {
        let of = |bytes: usize| {
            let mut metadata = Metadata::of(&webhook(Provider::Svix, &[]));
            metadata.add("person_id", &"p".into());
            for field in [Field::EmailId, Field::EmailSubject, Field::CampaignId, Field::CampaignName] {
                // Each takes six bytes in a call.
                metadata.add(field.name(), &"\"".repeat(bytes).into());
            }
            fact(Report::new(FactKind::EmailOpened, metadata))
        };
        assert!(of(1024).is_ok());
        assert_eq!(of(8 * 1024).err(), Some(Code::EventTooLarge));
    }

    #[test]
    fn a_time_out_of_range_is_now() {
        let happened_at = |text: &str| {
            let mut metadata = Metadata::of(&webhook(Provider::Svix, &[]));
            metadata.add("person_id", &"p".into());
            let report = Report { at: Some(at(text)), ..Report::new(FactKind::EmailOpened, metadata) };
            let head = fact(report).unwrap().head;
            (head.occurred_at, head.machine.timed)
        };
        for taken in ["2026-11-23T10:05:00Z", "2025-11-22T10:00:00Z"] {
            assert_eq!(happened_at(taken), (at(taken), true));
        }
        for moved in ["2026-11-23T10:05:00.001Z", "2025-11-22T09:59:59.999Z", "9999-12-31T23:59:59Z", "0"] {
            assert_eq!(happened_at(moved), (at(NOW), false), "{moved}: and it is no evidence");
        }
    }

    #[test]
    fn an_event_whose_time_cannot_be_read_keeps_its_id() {
        let id_at = |now: &str| {
            let mut metadata = Metadata::of(&webhook(Provider::Svix, &[]));
            metadata.add("person_id", &"p".into());
            let (workspace, key) = (WorkspaceId::new("acme").unwrap(), InstallationKey::new([1; 32]));
            let machine = MachineRules::default();
            let context = Context { workspace: &workspace, key: &key, now: at(now), machine: &machine };
            let report = Report { at: None, ..Report::new(FactKind::EmailOpened, metadata) };
            report.into_fact(Provider::Svix, context).unwrap().body.event_id
        };
        assert_eq!(id_at(NOW), id_at("2026-11-23T11:00:00Z"));
    }

    #[test]
    fn status_codes_are_found_and_classed() {
        for (text, status, class) in [
            ("550 5.1.1 no such user", Some("5.1.1"), Some(BounceClass::Hard)),
            ("smtp; 452 4.2.2 over quota", Some("4.2.2"), Some(BounceClass::Soft)),
            ("552-5.2.2 mailbox full", Some("5.2.2"), Some(BounceClass::Soft)),
            ("550 5.7.26 unauthenticated", Some("5.7.26"), Some(BounceClass::Block)),
            ("host 10.0.0.1 said: 5.4", None, None),
            ("", None, None),
        ] {
            assert_eq!(status_in(text), status, "{text}");
            assert_eq!(status_in(text).and_then(class_of_status), class, "{text}");
        }
    }

    #[test]
    fn bounces_of_ses_have_classes() {
        for (kind, sub, class) in [
            ("Permanent", "General", Some(BounceClass::Hard)),
            ("Permanent", "NoEmail", Some(BounceClass::Hard)),
            ("Permanent", "Suppressed", None),
            ("Permanent", "OnAccountSuppressionList", None),
            ("Transient", "MailboxFull", Some(BounceClass::Soft)),
            ("Transient", "ContentRejected", Some(BounceClass::Block)),
            ("Transient", "AttachmentRejected", Some(BounceClass::Block)),
            ("Undetermined", "Undetermined", Some(BounceClass::Undetermined)),
            ("", "", Some(BounceClass::Undetermined)),
        ] {
            assert_eq!(class_of_ses(kind, sub), class, "{kind}/{sub}");
        }
    }

    #[test]
    fn a_policy_shows_in_what_the_server_said() {
        for (said, class) in [
            (Some("550 5.7.1 refused by policy"), BounceClass::Block),
            (Some("550 5.1.1 no such user"), BounceClass::Soft),
            (Some("gone"), BounceClass::Soft),
            (None, BounceClass::Soft),
        ] {
            assert_eq!(block_or(BounceClass::Soft, said), class, "{said:?}");
        }
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        assert_eq!(cut("é".repeat(600)).len(), 1024);
        assert_eq!(cut("a\u{0}b\rc\nd".to_owned()), "abc\nd");
    }
}
