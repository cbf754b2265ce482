//! What a sender claims, field by field, before any of it is believed.

use std::borrow::Cow;

use crate::json::{Fault, Keys, Reader, Value};

/// One event as a sender wrote it. A field is `None` when it is absent.
#[derive(Debug, Default)]
pub(crate) struct Input<'a> {
    pub(crate) kind: Option<Value<'a>>,
    pub(crate) id: Option<Value<'a>>,
    pub(crate) timestamp: Option<Value<'a>>,
    pub(crate) person_id: Option<Value<'a>>,
    pub(crate) user_id: Option<Value<'a>>,
    pub(crate) email: Option<Value<'a>>,
    pub(crate) email_id: Option<Value<'a>>,
    pub(crate) campaign_id: Option<Value<'a>>,
    pub(crate) campaign_run_id: Option<Value<'a>>,
    pub(crate) campaign_name: Option<Value<'a>>,
    pub(crate) email_subject: Option<Value<'a>>,
    pub(crate) email_link_url: Option<Value<'a>>,
    pub(crate) link_id: Option<Value<'a>>,
    pub(crate) link_kind: Option<Value<'a>>,
    pub(crate) bounce_class: Option<Value<'a>>,
    pub(crate) bounce_reason: Option<Value<'a>>,
    pub(crate) unsubscribe_scope: Option<Value<'a>>,
    pub(crate) is_machine: Option<Value<'a>>,
    pub(crate) is_unique_open: Option<Value<'a>>,
    pub(crate) is_unique_click: Option<Value<'a>>,
    pub(crate) user_agent: Option<Value<'a>>,
    pub(crate) ip: Option<Value<'a>>,
    pub(crate) http_method: Option<Value<'a>>,
    pub(crate) purpose: Option<Value<'a>>,
    pub(crate) provider: Option<Value<'a>>,
    pub(crate) provider_message_id: Option<Value<'a>>,
    pub(crate) properties: Option<Value<'a>>,
    pub(crate) traits: Option<Value<'a>>,
    pub(crate) group_id: Option<Value<'a>>,
    pub(crate) name: Option<Value<'a>>,
    pub(crate) url: Option<Value<'a>>,
    pub(crate) title: Option<Value<'a>>,
    pub(crate) referrer: Option<Value<'a>>,
    pub(crate) workspace: Option<Value<'a>>,
    pub(crate) connection: Option<Value<'a>>,
    /// Bytes of the event as written.
    pub(crate) bytes: usize,
}

impl<'a> Input<'a> {
    /// Reads one object in place of what was there; it is a kilobyte, so it is not handed around. Fields we do not know are
    /// checked as JSON and left out.
    pub(crate) fn read(&mut self, reader: &mut Reader<'a>) -> Result<(), Fault> {
        reader.peek();
        let start = reader.position();
        *self = Self::default();
        let mut unknown = Keys::default();
        reader.object(|key, reader| {
            let value = reader.value(2)?;
            match self.slot(&key) {
                Some(slot @ None) => *slot = Some(value),
                Some(Some(_)) => return Err(Fault::DuplicateKey),
                None => unknown.insert(key)?,
            }
            Ok(())
        })?;
        self.bytes = reader.since(start).len();
        Ok(())
    }

    fn slot(&mut self, key: &str) -> Option<&mut Option<Value<'a>>> {
        Some(match key {
            "type" => &mut self.kind,
            "id" => &mut self.id,
            "timestamp" => &mut self.timestamp,
            "person_id" => &mut self.person_id,
            "user_id" => &mut self.user_id,
            "email" => &mut self.email,
            "email_id" => &mut self.email_id,
            "campaign_id" => &mut self.campaign_id,
            "campaign_run_id" => &mut self.campaign_run_id,
            "campaign_name" => &mut self.campaign_name,
            "email_subject" => &mut self.email_subject,
            "email_link_url" => &mut self.email_link_url,
            "link_id" => &mut self.link_id,
            "link_kind" => &mut self.link_kind,
            "bounce_class" => &mut self.bounce_class,
            "bounce_reason" => &mut self.bounce_reason,
            "unsubscribe_scope" => &mut self.unsubscribe_scope,
            "is_machine" => &mut self.is_machine,
            "is_unique_open" => &mut self.is_unique_open,
            "is_unique_click" => &mut self.is_unique_click,
            "user_agent" => &mut self.user_agent,
            "ip" => &mut self.ip,
            "http_method" => &mut self.http_method,
            "purpose" => &mut self.purpose,
            "provider" => &mut self.provider,
            "provider_message_id" => &mut self.provider_message_id,
            "properties" => &mut self.properties,
            "traits" => &mut self.traits,
            "group_id" => &mut self.group_id,
            "name" => &mut self.name,
            "url" => &mut self.url,
            "title" => &mut self.title,
            "referrer" => &mut self.referrer,
            "workspace" => &mut self.workspace,
            "connection" => &mut self.connection,
            _ => return None,
        })
    }

    /// A text field, for inputs that are not made from JSON.
    pub(crate) fn text(text: impl Into<Cow<'a, str>>) -> Option<Value<'a>> {
        Some(Value::Text(text.into()))
    }
}
