//! How machines are told from people: what is known of them everywhere, and each workspace's choices.

use std::sync::Arc;

use inflection_domain::{KnownMachines, MachinePolicy, MachineRules, MachineTiming, Networks};

use crate::document::Table;

/// Most agents that may be configured: every one is looked for in every click's agent.
const AGENTS_MAX: usize = 1000;
/// Shortest text that is looked for in agents: shorter ones are found in those of people.
const AGENT_BYTES_MIN: usize = 4;

/// The table `machine`: who is known beside those of the project's own lists.
pub(super) fn known(table: Table<'_, '_>) -> Arc<KnownMachines> {
    let mut agents = Vec::new();
    for text in table.texts("agents").unwrap_or_default() {
        if text.value.len() < AGENT_BYTES_MIN {
            let message = format!("machine.agents: {:?} is shorter than {AGENT_BYTES_MIN} bytes", text.value);
            table.wrong(&text.span, message);
        } else if agents.len() == AGENTS_MAX {
            table.wrong(&text.span, format!("machine.agents has more than {AGENTS_MAX}"));
            break;
        } else {
            agents.push(text.value.to_owned());
        }
    }
    let gateways = networks(&table, "networks");
    let relays = networks(&table, "relays");
    table.finish();
    Arc::new(KnownMachines::with(&agents, gateways, relays))
}

fn networks(table: &Table<'_, '_>, key: &'static str) -> Networks {
    let texts = table.texts(key).unwrap_or_default();
    if let Some(last) = texts.get(Networks::COUNT_MAX) {
        table.wrong(&last.span, format!("machine.{key} has more than {}", Networks::COUNT_MAX));
        return Networks::default();
    }
    Networks::read(texts.iter().map(|text| text.value)).unwrap_or_else(|_one_is_none| {
        for text in texts.iter().filter(|text| Networks::read([text.value]).is_err()) {
            let message = format!("machine.{key} must be networks like \"203.0.113.0/24\", not {:?}", text.value);
            table.wrong(&text.span, message);
        }
        Networks::default()
    })
}

/// A workspace's choices, in its table `engagement`.
pub(super) fn rules(table: &Table<'_, '_>, known: &Arc<KnownMachines>) -> MachineRules {
    let policy = |text: &str| match text {
        "flag" => Some(MachinePolicy::Flag),
        "include" => Some(MachinePolicy::Include),
        "drop" => Some(MachinePolicy::Drop),
        "separate" => Some(MachinePolicy::Separate),
        _ => None,
    };
    let timing = |text: &str| match text {
        "providers" => Some(MachineTiming::Providers),
        "all" => Some(MachineTiming::All),
        "off" => Some(MachineTiming::Off),
        _ => None,
    };
    let words = "\"flag\", \"include\", \"drop\" or \"separate\"";
    let seconds = table.number("click_hold_seconds", 0..u64::from(MachineRules::CLICK_HOLD_SECONDS_MAX) + 1);
    let seconds = seconds.and_then(|seconds| u32::try_from(seconds).ok()).unwrap_or(0);
    let timing = table.parsed("machine_timing", "\"providers\", \"all\" or \"off\"", timing).unwrap_or_default();
    if seconds > 0 && timing == MachineTiming::Off {
        let message = "click_hold_seconds holds clicks to judge them by their times, but machine_timing is \"off\"";
        table.wrong(table.span(), message);
    }
    MachineRules {
        opens: table.parsed("machine_opens", words, policy).unwrap_or_default(),
        clicks: table.parsed("machine_clicks", words, policy).unwrap_or_default(),
        timing,
        click_hold_ms: seconds * 1000,
        known: Arc::clone(known),
    }
}
