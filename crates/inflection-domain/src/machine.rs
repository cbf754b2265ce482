//! Which opens and clicks are a machine's, as far as one fact shows it: never by one weak signal alone. What the times of
//! several facts show is found in the fold (`fold/timing.rs`).

mod agents;
mod networks;

use std::net::IpAddr;
use std::sync::Arc;

use agents::Agents;
pub use networks::Networks;

/// The version of the rules and lists by which opens and clicks are judged. It stands in every open and click that was
/// judged here, so that what another version would say can be told apart. To be raised with every change of either.
pub const CLASSIFIER_VERSION: u32 = 1;

/// What to do with opens or clicks of machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum MachinePolicy {
    /// Told with `is_machine`, never counted as unique.
    #[default]
    Flag,
    /// Counted as a person's.
    Include,
    /// Not told at all.
    Drop,
    /// Told as an event of their own, never counted.
    Separate,
}

/// Whose opens and clicks are also judged by their times.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MachineTiming {
    /// Those that name the provider that handled the mail: it took their times when they happened. Times that a sender
    /// gives of its own may be of any grain, and equal times no evidence.
    #[default]
    Providers,
    /// All of them.
    All,
    /// None.
    Off,
}

/// How one workspace looks at opens and clicks.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MachineRules {
    /// What to do with machines' opens.
    pub opens: MachinePolicy,
    /// What to do with machines' clicks.
    pub clicks: MachinePolicy,
    /// Whose facts are judged by their times.
    pub timing: MachineTiming,
    /// How long clicks are held so that those of one mail are judged together, in milliseconds; 0: not at all.
    pub click_hold_ms: u32,
    /// Who is known.
    pub known: Arc<KnownMachines>,
}

impl MachineRules {
    /// Longest time that clicks are held, in seconds. A hold delays every click, and longer bursts are no bursts.
    pub const CLICK_HOLD_SECONDS_MAX: u32 = 60;
}

/// Machines known by their agent or address: the project's lists, and what is configured beside them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownMachines {
    agents: Agents,
    gateways: Networks,
    relays: Networks,
}

impl Default for KnownMachines {
    fn default() -> Self {
        Self::with(&[], Networks::default(), Networks::default())
    }
}

impl KnownMachines {
    /// The project's own lists, and beside them: agents of machines (texts that their agents have somewhere), networks of
    /// security gateways, and of relays that fetch images ahead of readers.
    #[must_use]
    pub fn with(agents: &[String], gateways: Networks, relays: Networks) -> Self {
        Self { agents: Agents::with(agents), gateways, relays }
    }

    /// Judges what one open or click shows by itself.
    #[must_use]
    pub fn judge(&self, engaged: Engaged, traces: &Traces<'_>) -> Judgement {
        if let Some(machine) = traces.claimed {
            let signal = if machine { MachineSignal::Machine } else { MachineSignal::Human };
            return Judgement { signal, reason: None };
        }
        let machine = |reason| Judgement { signal: MachineSignal::Machine, reason: Some(reason) };
        if traces.prefetch {
            return match engaged {
                // Nobody has seen anything yet, and perhaps nobody will.
                Engaged::Open => Judgement { signal: MachineSignal::Prefetched, reason: Some("prefetch") },
                Engaged::Click => machine("prefetch"),
            };
        }
        let within = |networks: &Networks| traces.ip.is_some_and(|ip| networks.contains(ip));
        match (engaged, traces.user_agent.map(str::trim)) {
            (Engaged::Click, Some("")) => return machine("empty_agent"),
            (Engaged::Open, Some("Mozilla/5.0")) if !self.relays.is_empty() => {
                // With the relays' own list at hand, the agent alone says nothing.
                if within(&self.relays) {
                    return machine("apple_mpp");
                }
                if traces.ip.is_none() {
                    return machine("apple_mpp_probable");
                }
            }
            (_, Some(agent)) => {
                if let Some(reason) = self.agents.find(engaged, agent) {
                    return machine(reason);
                }
            }
            (_, None) => {}
        }
        match engaged {
            Engaged::Open if within(&self.gateways) => machine("gateway_network"),
            // A gateway also fetches what a person has just clicked, at the moment of the click: strong, not decisive.
            Engaged::Click if within(&self.gateways) => Judgement { signal: MachineSignal::Suspect, reason: None },
            Engaged::Open | Engaged::Click => Judgement::default(),
        }
    }
}

/// What a fact tells of: an image that was fetched or a link that was followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engaged {
    /// An open.
    Open,
    /// A click.
    Click,
}

/// What one open or click shows of who did it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Traces<'a> {
    /// What the sender or the provider says. It wins over everything that is inferred.
    pub claimed: Option<bool>,
    /// The user agent; empty when it is known that there was none.
    pub user_agent: Option<&'a str>,
    /// Where it came from.
    pub ip: Option<IpAddr>,
    /// Whether it was a `HEAD` or `OPTIONS` request, or one that said of itself that it fetches ahead.
    pub prefetch: bool,
}

impl Traces<'_> {
    /// Whether a request of this method, or with this value of `Sec-Purpose`, `Purpose` or `X-Moz`, only looked ahead.
    #[must_use]
    pub fn is_prefetch(method: Option<&str>, purpose: Option<&str>) -> bool {
        let looks = |method: &str| ["HEAD", "OPTIONS"].iter().any(|name| name.eq_ignore_ascii_case(method.trim()));
        // A list of tokens with parameters, like `prefetch;prerender`.
        let ahead = |purpose: &str| {
            let mut words = purpose.split([';', ',', ' ']).map(str::trim);
            words.any(|word| ["prefetch", "prerender", "preview"].iter().any(|name| name.eq_ignore_ascii_case(word)))
        };
        method.is_some_and(looks) || purpose.is_some_and(ahead)
    }
}

/// What is known of who opened or clicked, before times are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum MachineSignal {
    /// Nothing: a person, unless the times say otherwise.
    #[default]
    None,
    /// Somebody who knows says that it was a person.
    Human,
    /// A strong sign of a machine that is not decisive alone.
    Suspect,
    /// A machine.
    Machine,
    /// A fetch ahead of any reading: no open at all.
    Prefetched,
}

/// A judgement and its reason, the value of `machine_reason` at Segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Judgement {
    /// What it is.
    pub signal: MachineSignal,
    /// Why, when it was inferred.
    pub reason: Option<&'static str>,
}

/// What the fold needs to judge an open or a click to the end, and of a delivery whether they may be compared with it. All of it stands in the fact: a workspace that is configured
/// otherwise since does not change what is decided of facts that were taken before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct MachineCheck {
    /// What the fact showed by itself.
    pub signal: MachineSignal,
    /// What is done with machines; `None` in facts of versions that did not say it.
    pub policy: Option<MachinePolicy>,
    /// Whether its time counts as evidence.
    pub timed: bool,
    /// How long it is held, in milliseconds of receive time; 0: not at all. Only clicks whose times count are held.
    pub hold_ms: u32,
}

impl MachineCheck {
    /// A check that has nothing to find: somebody who knows says what it was.
    #[must_use]
    pub fn told(machine: bool) -> Self {
        let signal = if machine { MachineSignal::Machine } else { MachineSignal::Human };
        Self { signal, ..Self::default() }
    }

    /// Whether times may still make it a machine's.
    pub(crate) fn is_open_to_times(self) -> bool {
        self.timed && matches!(self.signal, MachineSignal::None | MachineSignal::Suspect)
    }
}

/// What the times of several facts showed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MachineTimes {
    /// No person is so fast after the mail was delivered.
    AfterDelivery,
    /// No person follows so many links of a mail at once.
    Burst,
}

impl MachineTimes {
    /// The value of `machine_reason` at Segment.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::AfterDelivery => "after_delivery",
            Self::Burst => "burst",
        }
    }
}

#[cfg(test)]
mod tests;
