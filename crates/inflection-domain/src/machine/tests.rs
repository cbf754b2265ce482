//! Every row of what one open or click shows by itself.

use super::*;

const FIREFOX: &str = "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0";
const GMAIL: &str = "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/42.0.2311.135 Safari/537.36 Edge/12.246 Mozilla/5.0";

fn networks(text: &str) -> Networks {
    Networks::read([text]).unwrap()
}

/// `machine:reason`, `suspect`, `human`, `prefetched` or `-`.
fn word(known: &KnownMachines, engaged: Engaged, traces: Traces<'_>) -> String {
    let Judgement { signal, reason } = known.judge(engaged, &traces);
    match signal {
        MachineSignal::None => "-".to_owned(),
        MachineSignal::Human => "human".to_owned(),
        MachineSignal::Suspect => "suspect".to_owned(),
        MachineSignal::Prefetched => "prefetched".to_owned(),
        MachineSignal::Machine => format!("machine:{}", reason.unwrap_or("told")),
    }
}

fn by_agent(known: &KnownMachines, engaged: Engaged, agent: &str) -> String {
    word(known, engaged, Traces { user_agent: Some(agent), ..Traces::default() })
}

#[test]
fn agents_of_opens() {
    let known = KnownMachines::default();
    for (agent, expected) in [
        ("Mozilla/5.0", "machine:apple_mpp_probable"),
        (" Mozilla/5.0 ", "machine:apple_mpp_probable"),
        (GMAIL, "machine:gmail_prefetch"),
        ("Mozilla/5.0 (Windows NT 5.1; rv:11.0) Gecko Firefox/11.0 (via ggpht.com GoogleImageProxy)", "-"),
        ("YahooMailProxy; https://help.yahoo.com/kb/yahoo-mail-proxy-SLN28749.html", "-"),
        ("Microsoft Office/16.0 (Windows NT 10.0; Microsoft Outlook 16.0.17126; Pro)", "-"),
        (FIREFOX, "-"),
        ("", "-"),
    ] {
        assert_eq!(by_agent(&known, Engaged::Open, agent), expected, "{agent}");
    }
    assert_eq!(word(&known, Engaged::Open, Traces::default()), "-");
}

#[test]
fn agents_of_clicks() {
    let known = KnownMachines::default();
    for (agent, expected) in [
        ("python-requests/2.31.0", "machine:library"),
        ("PYTHON-REQUESTS/2.31.0", "machine:library"),
        ("curl/8.5.0", "machine:library"),
        ("Go-http-client/1.1", "machine:library"),
        ("Mozilla/5.0 (X11; Linux x86_64) HeadlessChrome/124.0.0.0 Safari/537.36", "machine:headless_browser"),
        ("Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)", "machine:bot"),
        ("Slackbot-LinkExpanding 1.0 (+https://api.slack.com/robots)", "machine:bot"),
        ("Microsoft Office Existence Discovery", "machine:scanner"),
        ("Mozilla/5.0 (Proofpoint URL Defense)", "machine:scanner"),
        ("", "machine:empty_agent"),
        ("  ", "machine:empty_agent"),
        // A program's name somewhere else than in front is a person's browser that names it.
        ("Mozilla/5.0 (X11) curl/8.5.0", "-"),
        ("Mozilla/5.0", "-"),
        (GMAIL, "-"),
        (FIREFOX, "-"),
    ] {
        assert_eq!(by_agent(&known, Engaged::Click, agent), expected, "{agent}");
    }
    assert_eq!(word(&known, Engaged::Click, Traces::default()), "-", "an agent that nobody sent says nothing");
}

#[test]
fn fetching_ahead() {
    for (method, purpose, ahead) in [
        (Some("HEAD"), None, true),
        (Some("options"), None, true),
        (Some("GET"), None, false),
        (None, Some("prefetch"), true),
        (None, Some("prefetch;prerender"), true),
        (Some("GET"), Some("Preview"), true),
        (None, Some("none"), false),
        (None, None, false),
    ] {
        assert_eq!(Traces::is_prefetch(method, purpose), ahead, "{method:?} {purpose:?}");
    }
    let known = KnownMachines::default();
    let traces = Traces { prefetch: true, ..Traces::default() };
    assert_eq!(word(&known, Engaged::Open, traces), "prefetched");
    assert_eq!(word(&known, Engaged::Click, traces), "machine:prefetch");
}

#[test]
fn networks_weigh_more_on_opens_than_on_clicks() {
    let known = KnownMachines::with(&[], networks("203.0.113.0/24"), Networks::default());
    let from = |ip: &str| Traces { user_agent: Some(FIREFOX), ip: ip.parse().ok(), ..Traces::default() };
    assert_eq!(word(&known, Engaged::Open, from("203.0.113.9")), "machine:gateway_network");
    assert_eq!(word(&known, Engaged::Click, from("203.0.113.9")), "suspect");
    assert_eq!(word(&known, Engaged::Open, from("198.51.100.9")), "-");
    assert_eq!(word(&known, Engaged::Click, from("198.51.100.9")), "-");
}

#[test]
fn with_the_relays_list_apples_agent_needs_apples_address() {
    let known = KnownMachines::with(&[], Networks::default(), networks("198.51.100.0/24"));
    let from = |ip: &str| Traces { user_agent: Some("Mozilla/5.0"), ip: ip.parse().ok(), ..Traces::default() };
    assert_eq!(word(&known, Engaged::Open, from("198.51.100.1")), "machine:apple_mpp");
    assert_eq!(word(&known, Engaged::Open, from("203.0.113.1")), "-");
    assert_eq!(word(&known, Engaged::Open, from("no address")), "machine:apple_mpp_probable");
}

#[test]
fn what_somebody_says_wins_over_all_that_is_inferred() {
    let known = KnownMachines::with(&["AcmeScan".to_owned()], networks("203.0.113.0/24"), Networks::default());
    for engaged in [Engaged::Open, Engaged::Click] {
        let traces = Traces {
            user_agent: Some("AcmeScan/3"),
            ip: "203.0.113.9".parse().ok(),
            prefetch: true,
            claimed: Some(false),
        };
        assert_eq!(word(&known, engaged, traces), "human");
        assert_eq!(word(&known, engaged, Traces { claimed: Some(true), ..traces }), "machine:told");
        assert_eq!(by_agent(&known, engaged, "x acmescan y"), "machine:configured_agent");
    }
}
