//! Tokens that vouch for one content.
//!
//! Mailgun signs a token and not the events beside it, so whoever has seen one request could write another. The first content
//! that a token has vouched for in this process is the only one it vouches for.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use inflection_domain::Hash128;

/// Most tokens that are remembered; the oldest leave first. About 4 MiB.
const TOKENS_MAX: usize = 65_536;

/// What each token was seen with.
#[derive(Debug, Default)]
pub(crate) struct Tokens(Mutex<Seen>);

#[derive(Debug, Default)]
struct Seen {
    contents: HashMap<Hash128, Hash128>,
    order: VecDeque<Hash128>,
}

impl Tokens {
    /// Whether a token may vouch for a content: it is new, or this is a repeat.
    pub(crate) fn admit(&self, token: Hash128, content: Hash128) -> bool {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(before) = seen.contents.get(&token) {
            return *before == content;
        }
        if seen.order.len() >= TOKENS_MAX
            && let Some(oldest) = seen.order.pop_front()
        {
            seen.contents.remove(&oldest);
        }
        seen.contents.insert(token, content);
        seen.order.push_back(token);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_vouches_for_one_content() {
        let (tokens, hash) = (Tokens::default(), |text: &str| Hash128::of("test", &[text.as_bytes()]));
        assert!(tokens.admit(hash("token"), hash("a")));
        assert!(tokens.admit(hash("token"), hash("a")));
        assert!(!tokens.admit(hash("token"), hash("b")));
        assert!(tokens.admit(hash("another"), hash("b")));
        for number in 0..TOKENS_MAX {
            assert!(tokens.admit(hash(&number.to_string()), hash("c")));
        }
        assert!(tokens.admit(hash("token"), hash("b")), "the oldest is forgotten, not the newest refused");
        assert_eq!(tokens.0.lock().unwrap().contents.len(), TOKENS_MAX);
    }
}
