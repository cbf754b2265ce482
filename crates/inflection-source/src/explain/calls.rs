//! What a decided event makes for each connection of its workspace. Pure.

use inflection_delivery::{ConnectionView, Translation, translate};
use inflection_domain::{Call, CallKind, ConnectionId, InstallationId, MessageId, WorkspaceId};

use super::find::{DecidedEvent, Found, Place};

/// One call on one connection.
#[derive(Debug)]
pub(super) struct CallOn<'c> {
    pub(super) partition: u16,
    pub(super) place: Place,
    /// The event's name, or which call it is.
    pub(super) name: String,
    pub(super) connection: &'c (WorkspaceId, ConnectionId),
    pub(super) message_id: String,
    /// Whether the connection's settings leave it out, where the settings are known.
    pub(super) left_out: Option<bool>,
    /// Why the connection sends nothing now, where that is known.
    pub(super) held: Option<&'c str>,
}

impl CallOn<'_> {
    /// By what attempts and parked calls are noted.
    pub(super) fn high(&self) -> u64 {
        MessageId::high_of(&self.message_id)
    }
}

/// The calls of an event, connection by connection.
pub(super) fn on_connections<'c>(
    found: &Found,
    installation: &InstallationId,
    connections: &'c [(WorkspaceId, ConnectionId)],
    views: &'c [ConnectionView],
) -> Vec<CallOn<'c>> {
    let mut calls = Vec::new();
    for connection in connections.iter().filter(|(workspace, _)| *workspace == found.workspace) {
        let (workspace, name) = connection;
        let view = views.iter().find(|view| view.workspace == *workspace && view.settings.id == *name);
        let decided =
            found.decisions().flat_map(|event| (0u32..).zip(&event.decided.calls).map(move |call| (event, call)));
        for (event, (number, call)) in decided {
            calls.push(CallOn {
                partition: found.partition,
                place: event.place.plus(number),
                name: told_as(event, call),
                connection,
                message_id: MessageId::new(installation, workspace, name, call.key).to_string(),
                left_out: view.map(|view| is_left_out(event, call, installation, view)),
                held: view.and_then(|view| view.status.why.as_deref()),
            });
        }
    }
    calls
}

fn told_as(event: &DecidedEvent, call: &Call) -> String {
    let own = event.body.event.as_deref().filter(|_| call.kind == CallKind::CustomTrack);
    own.or(call.kind.event_name()).unwrap_or(call.kind.name()).to_owned()
}

fn is_left_out(event: &DecidedEvent, call: &Call, installation: &InstallationId, view: &ConnectionView) -> bool {
    let mut rendered = Vec::new();
    match translate(installation, &view.settings, &event.decided, &event.body, call, &mut rendered) {
        Translation::Filtered => true,
        Translation::Rendered(_) | Translation::Invalid(_) => false,
    }
}
