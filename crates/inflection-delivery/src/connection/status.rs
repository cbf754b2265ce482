//! What is known of a connection.

use std::time::Duration;

use crate::dispatcher::Trouble;

/// What a connection does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ConnectionState {
    /// Sends.
    #[default]
    Active,
    /// Holds everything: an operator wants it to.
    Paused,
    /// Holds everything: the write key is refused.
    PausedAuth,
    /// Holds everything: it does not answer, or its address is wrong.
    Broken,
}

impl ConnectionState {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Active, Self::Paused, Self::PausedAuth, Self::Broken];

    /// The word in the admin API.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Paused => "paused",
            Self::PausedAuth => "paused_auth",
            Self::Broken => "broken",
        }
    }
}

/// What is known of a connection.
#[derive(Debug, Clone, Default)]
pub struct ConnectionStatus {
    /// What it does.
    pub state: ConnectionState,
    /// Why, in a sentence, when it does not send.
    pub why: Option<String>,
    /// Calls in memory on their way to Segment, waiting or under way.
    pub pending: usize,
    /// Calls that lie parked.
    pub parked: u64,
    /// The last status Segment answered; 0 when it did not.
    pub last_status: Option<u16>,
    /// How long the server still wants no requests.
    pub closed_for: Duration,
}

/// The state that follows from what is in the way, and why.
pub(super) fn of(paused: bool, trouble: Option<Trouble>) -> (ConnectionState, Option<String>) {
    let (state, why) = match trouble {
        _ if paused => (ConnectionState::Paused, "paused by an operator; everything is kept".to_owned()),
        None => return (ConnectionState::Active, None),
        Some(Trouble::Unavailable(0)) => {
            (ConnectionState::Broken, "the endpoint does not answer; everything is kept, and it is tried again".into())
        }
        Some(Trouble::Unavailable(status)) => {
            let why = format!("the endpoint answers {status}; everything is kept, and it is tried again");
            (ConnectionState::Broken, why)
        }
        Some(Trouble::Unauthorized(status)) => {
            (ConnectionState::PausedAuth, format!("the write key is refused ({status}); everything is kept"))
        }
        Some(Trouble::Misconfigured(status @ 300..=399)) => {
            let why = format!("the endpoint redirects ({status}), which is never followed; everything is kept");
            (ConnectionState::Broken, why)
        }
        Some(Trouble::Misconfigured(status)) => {
            (ConnectionState::Broken, format!("the endpoint answers {status}: wrong address; everything is kept"))
        }
        Some(Trouble::Forbidden) => {
            let why = "the endpoint's name leads to an address that may not be sent to; everything is kept";
            (ConnectionState::Broken, why.to_owned())
        }
    };
    (state, Some(why))
}
