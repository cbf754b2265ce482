//! Domain enums and their numbers on the wire. A number this version does not know decodes to nothing, never to a guess.

use inflection_domain::{
    BounceClass, CallKind, FactKind, LinkKind, MachinePolicy, MachineSignal, MachineTimes, OpenSource, OrderKind,
};

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
    Group, CustomTrack, Screen, EmailMachineOpened, LinkMachineClicked);
mirrored!(order_kind_to, order_kind_from, OrderKind: Suppress, Erase, Lift);
mirrored!(open_source_to, open_source_from, OpenSource: Pixel, ConfirmedByClick, ImpliedByClick);
mirrored!(machine_policy_to, machine_policy_from, MachinePolicy: Flag, Include, Drop, Separate);
mirrored!(machine_times_to, machine_times_from, MachineTimes: AfterDelivery, Burst);

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

pub(crate) fn machine_signal_to(value: MachineSignal) -> i32 {
    match value {
        MachineSignal::None => pb::MachineSignal::Unspecified as i32,
        MachineSignal::Human => pb::MachineSignal::Human as i32,
        MachineSignal::Suspect => pb::MachineSignal::Suspect as i32,
        MachineSignal::Machine => pb::MachineSignal::Machine as i32,
        MachineSignal::Prefetched => pb::MachineSignal::Prefetched as i32,
    }
}

pub(crate) fn machine_signal_from(number: i32) -> MachineSignal {
    match pb::MachineSignal::try_from(number) {
        Ok(pb::MachineSignal::Human) => MachineSignal::Human,
        Ok(pb::MachineSignal::Suspect) => MachineSignal::Suspect,
        Ok(pb::MachineSignal::Machine) => MachineSignal::Machine,
        Ok(pb::MachineSignal::Prefetched) => MachineSignal::Prefetched,
        Ok(pb::MachineSignal::Unspecified) | Err(_) => MachineSignal::None,
    }
}
