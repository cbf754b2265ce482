//! What a person reads after the campaign.

use std::time::Duration;

use inflection_domain::CallKind;
use inflection_sandbox::Sandbox;

use super::campaign::Campaign;
use crate::commands::say;
use crate::ledger::Ledger;

/// Prints the nine events, identity, delivery and the books.
pub(crate) fn print(campaign: &Campaign, sent: u64, sandbox: &Sandbox, ledger: &Ledger, took: Duration) {
    let received = sandbox.summary();
    let count = |name: &str| received.by_event.get(name).copied().unwrap_or(0);
    let of_type = |name: &str| received.by_type.get(name).copied().unwrap_or(0);
    let status = |code: &str| received.by_status.get(code).copied().unwrap_or(0);
    say(&format!("\nSent      {sent} events in {:.1} s, {} of them twice", took.as_secs_f64(), campaign.repeats));
    say("\nSegment received");
    for kind in CallKind::ALL {
        // The two that machines' opens and clicks may be told as are none of the nine.
        let of_machines = matches!(kind, CallKind::EmailMachineOpened | CallKind::LinkMachineClicked);
        if let Some(name) = kind.event_name().filter(|name| !of_machines || count(name) > 0) {
            let note = if kind.is_derived() { "   derived, once each" } else { "" };
            say(&format!("  {:>7}  {name}{note}", count(name)));
        }
    }
    say(&format!(
        "  {:>7}  identify calls, {} of them joining a person to a user id ({} became known only on a click)",
        of_type("identify"),
        received.identity_links,
        campaign.late_users
    ));
    say(&format!(
        "\nRequests  {} ({} answered 429 half-way and sent again), {} calls each on average",
        received.requests,
        status("429"),
        received.accepted / received.requests.max(1)
    ));
    say(&format!(
        "Repeats   {} duplicates folded before Segment saw them; Segment saw {} twice, {} with other content",
        ledger.events.duplicate, received.duplicates, received.duplicates_with_other_content
    ));
    say(&format!("\n{ledger}"));
}
