//! Which opens are a machine's: only what the fact itself shows, and never one weak signal alone.

/// Whether an open with this user agent is a machine's. `None`: nothing says so, it counts as a person's.
///
/// * exactly `Mozilla/5.0` is what Apple's mail relay sends when it prefetches every image of a mail, read or not;
/// * `Chrome/42.0.2311.135 … Edge/12.246 Mozilla/5.0` is Gmail's prefetch for a user who is merely logged in;
/// * `GoogleImageProxy` and `YahooMailProxy` fetch when a person opens the mail: not machines.
///
/// Sources: `docs/engagement.md`, machine traffic.
#[must_use]
pub fn classify_open(user_agent: Option<&str>) -> Option<&'static str> {
    match user_agent?.trim() {
        "Mozilla/5.0" => Some("apple_mpp_probable"),
        agent if agent.contains("Chrome/42.0.2311.135") && agent.contains("Edge/12.246") => Some("gmail_prefetch"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agents_are_told_apart() {
        let gmail = "Mozilla/5.0 (Windows NT 10.0) Chrome/42.0.2311.135 Safari/537.36 Edge/12.246 Mozilla/5.0";
        let proxy = "Mozilla/5.0 (Windows NT 5.1; rv:11.0) Gecko Firefox/11.0 (via ggpht.com GoogleImageProxy)";
        assert_eq!(classify_open(None), None);
        assert_eq!(classify_open(Some("Mozilla/5.0")), Some("apple_mpp_probable"));
        assert_eq!(classify_open(Some(gmail)), Some("gmail_prefetch"));
        assert_eq!(classify_open(Some(proxy)), None);
        assert_eq!(classify_open(Some("YahooMailProxy; https://help.yahoo.com")), None);
    }
}
