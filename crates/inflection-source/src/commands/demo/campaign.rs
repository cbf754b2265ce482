//! A sample campaign: what happens to mails, with the untidiness of the real world.

use serde_json::{Value, json};

/// Events in the order in which they are sent, and what is known of them beforehand.
#[derive(Debug)]
pub(crate) struct Campaign {
    pub(crate) events: Vec<Value>,
    /// Events that are sent a second time.
    pub(crate) repeats: u64,
    /// People whose user id becomes known while the campaign runs.
    pub(crate) late_users: u64,
}

const LINKS: [&str; 3] =
    ["https://example.com/pricing", "https://example.com/docs?utm_source=mail", "https://example.com/blog/spring"];
/// How long the campaign took.
const DURATION_MS: u64 = 90 * 60 * 1000;

/// A small generator with a fixed seed: every demo tells the same story.
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        // SplitMix64 (Steele, Lea, Flood 2014).
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// True in so many of a thousand.
    fn permille(&mut self, share: u64) -> bool {
        self.below(1000) < share
    }
}

impl Campaign {
    /// A campaign to so many people that ended just now.
    pub(crate) fn new(prospects: u32, now_ms: i64) -> Self {
        let mut story =
            Story { chance: Chance(7), timed: Vec::new(), start: now_ms - DURATION_MS.cast_signed(), late_users: 0 };
        (0..prospects).for_each(|number| story.prospect(number));
        let Story { mut chance, mut timed, late_users, .. } = story;
        timed.sort_by_key(|(at, _)| *at);
        let mut events = Vec::with_capacity(timed.len());
        let mut repeats = 0;
        for (number, (_, mut event)) in timed.into_iter().enumerate() {
            if let Some(members) = event.as_object_mut() {
                members.insert("id".into(), format!("demo-{number}").into());
            }
            if chance.permille(30) {
                repeats += 1;
                events.push(event.clone());
            }
            events.push(event);
        }
        Self { events, repeats, late_users }
    }
}

struct Story {
    chance: Chance,
    timed: Vec<(u64, Value)>,
    start: i64,
    late_users: u64,
}

impl Story {
    /// One mail to one person.
    fn prospect(&mut self, number: u32) {
        let mut person = json!({
            "person_id": format!("person-{number}"),
            "email": format!("prospect{number}@example.com"),
            "email_id": "spring-mail-1",
            "campaign_id": "spring",
            "campaign_run_id": "spring-run-1",
            "campaign_name": "Spring launch",
            "email_subject": "What is new this spring",
        });
        let known = self.chance.permille(300);
        if known {
            set(&mut person, "user_id", format!("user-{number}"));
        }
        let mut at = self.chance.below(DURATION_MS / 3);
        if self.chance.permille(35) {
            let class = if self.chance.permille(600) { "hard" } else { "soft" };
            self.add(at, "email_bounced", &person, &[("bounce_class", class.into())]);
            return;
        }
        self.add(at, "email_delivered", &person, &[]);
        if self.chance.permille(250) {
            at += self.chance.below(1000);
            self.add(at, "email_opened", &person, &[("is_machine", true.into())]);
        }
        if !self.chance.permille(480) {
            return;
        }
        for _ in 0..=self.chance.below(3) {
            at += 1000 + self.chance.below(DURATION_MS / 12);
            self.add(at, "email_opened", &person, &[]);
        }
        if self.chance.permille(280) {
            self.clicks(&mut person, number, known, at);
        }
        if self.chance.permille(12) {
            self.add(at + 5000, "email_unsubscribed", &person, &[]);
        }
        if self.chance.permille(6) {
            self.add(at + 6000, "email_reported_as_spam", &person, &[]);
        }
    }

    /// Clicks, on which some people sign up: their user id becomes known.
    fn clicks(&mut self, person: &mut Value, number: u32, known: bool, mut at: u64) {
        for click in 0..=self.chance.below(3) {
            at += 500 + self.chance.below(60_000);
            let link = usize::try_from(self.chance.below(LINKS.len() as u64)).ok().and_then(|at| LINKS.get(at));
            let link = link.copied().unwrap_or_default();
            if click == 0 && !known && self.chance.permille(500) {
                set(person, "user_id", format!("user-{number}"));
                self.late_users += 1;
            }
            self.add(at, "link_clicked", person, &[("email_link_url", link.into())]);
        }
    }

    fn add(&mut self, at: u64, kind: &str, person: &Value, more: &[(&str, Value)]) {
        let mut event = person.clone();
        set(&mut event, "type", kind);
        set(&mut event, "timestamp", self.start + at.cast_signed());
        more.iter().for_each(|(name, value)| set(&mut event, name, value.clone()));
        self.timed.push((at, event));
    }
}

fn set(event: &mut Value, name: &str, value: impl Into<Value>) {
    if let Some(members) = event.as_object_mut() {
        members.insert(name.to_owned(), value.into());
    }
}
