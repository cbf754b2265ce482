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

    /// A text field, for inputs that are not made from JSON.
    pub(crate) fn text(text: impl Into<Cow<'a, str>>) -> Option<Value<'a>> {
        Some(Value::Text(text.into()))
    }
}

/// Says which field of the input is called how, once: for the list of all, and for the way to each.
macro_rules! fields {
    ($($name:literal => $field:ident),* $(,)?) => {
        /// Names of the fields of an event that are read; all others are ignored.
        pub const EVENT_FIELDS: &[&str] = &[$($name),*];

        impl<'a> Input<'a> {
            fn slot(&mut self, key: &str) -> Option<&mut Option<Value<'a>>> {
                Some(match key {
                    $($name => &mut self.$field,)*
                    _ => return None,
                })
            }
        }
    };
}

fields! {
    "type" => kind,
    "id" => id,
    "timestamp" => timestamp,
    "person_id" => person_id,
    "user_id" => user_id,
    "email" => email,
    "email_id" => email_id,
    "campaign_id" => campaign_id,
    "campaign_run_id" => campaign_run_id,
    "campaign_name" => campaign_name,
    "email_subject" => email_subject,
    "email_link_url" => email_link_url,
    "link_id" => link_id,
    "link_kind" => link_kind,
    "bounce_class" => bounce_class,
    "bounce_reason" => bounce_reason,
    "unsubscribe_scope" => unsubscribe_scope,
    "is_machine" => is_machine,
    "is_unique_open" => is_unique_open,
    "is_unique_click" => is_unique_click,
    "user_agent" => user_agent,
    "ip" => ip,
    "http_method" => http_method,
    "purpose" => purpose,
    "provider" => provider,
    "provider_message_id" => provider_message_id,
    "properties" => properties,
    "traits" => traits,
    "group_id" => group_id,
    "name" => name,
    "url" => url,
    "title" => title,
    "referrer" => referrer,
    "workspace" => workspace,
    "connection" => connection,
}
