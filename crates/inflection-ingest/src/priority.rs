//! Live requests, and those that may wait for them: history that is imported.
//!
//! A request says so in `Inflection-Priority`. One in the background has room of its own and is let in only while live
//! events are stored without waiting for long, so that an import as fast as it can be leaves live senders their speed.

use axum::http::HeaderMap;

use crate::answer::{Code, Refusal};
use crate::fact::{AGE_MAX_MS, HISTORY_AGE_MAX_MS};

/// The header in which a request says how urgent it is: `live` (as without it) or `background`.
pub const PRIORITY_HEADER: &str = "inflection-priority";
/// What it says of a request that may wait.
pub const BACKGROUND: &str = "background";
/// Live facts that may wait to be stored while one more background request is let in: what an install takes in some
/// hundredths of a second.
const LIVE_FACTS_WAITING_MAX: usize = 4_000;
/// Seconds after which a background request may ask again. A burst of live events is over by then.
const RETRY_SECONDS: u64 = 1;

/// How urgent a request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Priority {
    /// Something has just happened.
    Live,
    /// History: it may wait, and it may be old.
    Background,
}

impl Priority {
    /// As the head of a request says. A word that is not known is refused: a misspelt one would compete with live events.
    pub(crate) fn of(headers: &HeaderMap) -> Result<Self, Refusal> {
        let mut said = headers.get_all(PRIORITY_HEADER).iter().map(|value| value.as_bytes().trim_ascii());
        match (said.next(), said.next()) {
            (None, _) => Ok(Self::Live),
            (Some(word), None) if word.eq_ignore_ascii_case(b"live") => Ok(Self::Live),
            (Some(word), None) if word.eq_ignore_ascii_case(BACKGROUND.as_bytes()) => Ok(Self::Background),
            _ => Err(Refusal::new(Code::BadHeader, "Inflection-Priority is live or background, once")),
        }
    }

    /// How old a fact may be.
    pub(crate) fn age_max_ms(self) -> i64 {
        match self {
            Self::Live => AGE_MAX_MS,
            Self::Background => HISTORY_AGE_MAX_MS,
        }
    }

    /// Lets a request in, seeing how many live facts wait to be stored.
    pub(crate) fn admit(self, live_facts_waiting: usize) -> Result<(), Refusal> {
        match self {
            Self::Background if live_facts_waiting > LIVE_FACTS_WAITING_MAX => {
                let message = "live events go first; send these again";
                Err(Refusal::later(Code::Overloaded, message, RETRY_SECONDS))
            }
            Self::Live | Self::Background => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(words: &[&str]) -> Result<Priority, Code> {
        let mut headers = HeaderMap::new();
        words.iter().for_each(|word| {
            headers.append(PRIORITY_HEADER, word.parse().unwrap());
        });
        Priority::of(&headers).map_err(|refusal| refusal.code)
    }

    #[test]
    fn a_request_is_live_unless_it_says_otherwise() {
        assert_eq!(said(&[]), Ok(Priority::Live));
        assert_eq!(said(&["live"]), Ok(Priority::Live));
        assert_eq!(said(&[" Background "]), Ok(Priority::Background));
        for words in [&["backgroud"][..], &[""], &["live", "background"], &["background", "background"]] {
            assert_eq!(said(words), Err(Code::BadHeader), "{words:?}");
        }
    }

    #[test]
    fn only_background_waits_and_only_for_live_facts() {
        for (priority, waiting, admitted) in [
            (Priority::Background, 0, true),
            (Priority::Background, LIVE_FACTS_WAITING_MAX, true),
            (Priority::Background, LIVE_FACTS_WAITING_MAX + 1, false),
            (Priority::Live, LIVE_FACTS_WAITING_MAX + 1, true),
            (Priority::Live, usize::MAX, true),
        ] {
            let outcome = priority.admit(waiting).map_err(|refusal| (refusal.code, refusal.retry_after));
            let expected = if admitted { Ok(()) } else { Err((Code::Overloaded, Some(RETRY_SECONDS))) };
            assert_eq!(outcome, expected, "{priority:?} beside {waiting}");
        }
    }
}
