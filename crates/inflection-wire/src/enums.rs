//! Domain enums and their numbers on the wire. A number this version does not know decodes to nothing, never to a guess.

use inflection_domain::{BounceClass, CallKind, FactKind, LinkKind, OpenSource, OrderKind};

use crate::pb;

/// An enum's number as it is written.
pub(crate) fn as_varint(number: i32) -> u64 {
    i64::from(number).cast_unsigned()
}

macro_rules! mirrored {
    ($to:ident, $from:ident, $name:ident: $($variant:ident),+) => {
        pub(crate) fn $to(value: $name) -> i32 {
            match value { $($name::$variant => pb::$name::$variant as i32),+ }
        }
        pub(crate) fn $from(number: i32) -> Option<$name> {
            match pb::$name::try_from(number).ok()? {
                $(pb::$name::$variant => Some($name::$variant),)+
                pb::$name::Unspecified => None,
            }
        }
    };
}

mirrored!(fact_kind_to, fact_kind_from, FactKind: EmailDelivered, EmailOpened, EmailBounced, EmailReportedAsSpam,
    LinkClicked, EmailUnsubscribed, Identify, Page, Group, CustomTrack, Screen);
mirrored!(bounce_class_to, bounce_class_from, BounceClass: Hard, Soft, Block, Undetermined);
mirrored!(call_kind_to, call_kind_from, CallKind: EmailDelivered, EmailOpened, EmailUniqueOpens, EmailBounced,
    EmailReportedAsSpam, LinkClicked, UniqueLinkClick, UniqueLinkClickPerUniqueOpen, EmailUnsubscribed, Identify, Page,
    Group, CustomTrack, Screen);
mirrored!(order_kind_to, order_kind_from, OrderKind: Suppress, Erase, Lift);
mirrored!(open_source_to, open_source_from, OpenSource: Pixel, ConfirmedByClick, ImpliedByClick);

pub(crate) fn link_kind_to(value: LinkKind) -> i32 {
    match value {
        LinkKind::Content => pb::LinkKind::Content as i32,
        LinkKind::Unsubscribe => pb::LinkKind::Unsubscribe as i32,
        LinkKind::Preference => pb::LinkKind::Preference as i32,
    }
}

pub(crate) fn link_kind_from(number: i32) -> LinkKind {
    match pb::LinkKind::try_from(number) {
        Ok(pb::LinkKind::Unsubscribe) => LinkKind::Unsubscribe,
        Ok(pb::LinkKind::Preference) => LinkKind::Preference,
        Ok(pb::LinkKind::Content) | Err(_) => LinkKind::Content,
    }
}
