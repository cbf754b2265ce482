//! Load from several clients at once that keeps a history of every request.
//!
//! Each client owns its persons and sends one request at a time, so the order of one person's events is known. A
//! request without a 200 is repeated with the same ids until it gets one. A [`Shape`] makes the load steady, or mixes
//! events into it that Segment refuses.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::checker::{Attempt, History, Kind, Outcome, SourceFact};
use crate::config::Workspace;
use crate::fact::{self, Fact, now_ms, recently_ms};
use crate::http::{Client, Request};
use crate::random::Random;
use crate::standalone::{INGEST_KEY, Standalone, WRITE_KEY};
use crate::wait::{DRAINED, await_moment, eventually, holds};

/// Persons of one client.
const PERSONS: usize = 40;

/// Events after which a person's next mail begins.
const EVENTS_A_MAIL: usize = 10;

/// Of so many mails of a client one is poisoned, if there is any poison.
const MAILS_A_POISON: usize = 10;

/// Most events in one request.
const EVENTS_A_REQUEST_MAX: usize = 8;

/// Links of a mail.
const LINKS: usize = 3;

/// How long a client waits for an answer before it repeats the request.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where load goes, and under which names.
#[derive(Debug, Clone)]
pub struct Target {
    /// The public listener.
    pub ingest: SocketAddr,
    /// The ingest key.
    pub ingest_key: String,
    /// The write key its calls must arrive under.
    pub write_key: String,
    /// Sets the ids of this run apart.
    pub word: String,
}

impl Target {
    /// The first connection of a workspace whose keys stand in its configuration.
    pub fn new(workspace: &Workspace, ingest: SocketAddr, word: String) -> Self {
        let (ingest_key, write_key) = (workspace.ingest_key().to_owned(), workspace.write_key().to_owned());
        Self { ingest, ingest_key, write_key, word }
    }

    /// The connection of an install that was given its keys by flags.
    pub fn of_flags(standalone: &Standalone, word: String) -> Self {
        let (ingest_key, write_key) = (INGEST_KEY.to_owned(), WRITE_KEY.to_owned());
        Self { ingest: standalone.ingest(), ingest_key, write_key, word }
    }
}

/// How load differs from good events sent as fast as they are taken.
#[derive(Debug, Clone, Default)]
pub struct Shape {
    /// Requests a second of each client; what comes late is caught up. Absent: one after the other, without a pause.
    pub requests_per_second: Option<u32>,
    /// Campaign names that Segment is made to refuse: the events of one mail in ten carry one of them.
    pub poison: Vec<String>,
}

impl Shape {
    /// Steady load of good events.
    pub fn steady(requests_per_second: u32) -> Self {
        Self { requests_per_second: Some(requests_per_second), ..Self::default() }
    }
}

/// When a client stops by itself.
#[derive(Debug, Clone, Copy)]
pub enum Until {
    /// Never: when told to.
    Told,
    /// After that many events.
    Events(usize),
}

/// Running load.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    accepted: Arc<AtomicUsize>,
    clients: Vec<JoinHandle<History>>,
}

impl Load {
    /// Starts that many clients that send good events as fast as they are taken.
    pub fn start(target: &Target, clients: usize, until: Until, random: &mut Random) -> Self {
        Self::start_shaped(target, clients, until, &Shape::default(), random)
    }

    /// Starts that many clients that send in this shape.
    pub fn start_shaped(target: &Target, clients: usize, until: Until, shape: &Shape, random: &mut Random) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let accepted = Arc::new(AtomicUsize::new(0));
        let clock = Clock { epoch: Instant::now(), epoch_ms: now_ms(), at_ms: AtomicI64::new(recently_ms()) };
        let clock = Arc::new(clock);
        let spawn = |number| {
            let person = |i| Person::new(format!("p-{}-{number}-{i}", target.word));
            let mut sender = LoadClient {
                target: target.clone(),
                shape: shape.clone(),
                http: Client::new(target.ingest).patience(PATIENCE),
                random: random.fork(),
                clock: Arc::clone(&clock),
                number,
                persons: (0..PERSONS).map(person).collect(),
                mails: 0,
                history: History { epoch_ms: clock.epoch_ms, ..History::default() },
                sent: Vec::new(),
            };
            let (stop, accepted) = (Arc::clone(&stop), Arc::clone(&accepted));
            thread::spawn(move || {
                sender.run(until, &stop, &accepted);
                sender.history
            })
        };
        let clients = (0..clients).map(spawn).collect();
        Self { stop, accepted, clients }
    }

    /// Events answered with 200 so far.
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Waits until so many more events are answered with 200.
    #[track_caller]
    pub fn await_more(&self, events: usize) {
        let enough = self.accepted() + events;
        eventually("more events are accepted", DRAINED, || {
            holds(self.accepted() >= enough, || format!("{} of {enough} events accepted", self.accepted()))
        });
    }

    /// Tells the clients to stop after the request they are at.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Waits for the clients; returns their history as one, without arrivals.
    #[track_caller]
    pub fn join(self) -> History {
        let mut whole = History::default();
        for client in self.clients {
            let part = client.join().unwrap_or_else(|_| panic!("a load client failed; its reason is above"));
            let offset = whole.facts.len();
            whole.epoch_ms = part.epoch_ms;
            whole.facts.extend(part.facts);
            whole.poison.extend(part.poison);
            whole.attempts.extend(part.attempts.into_iter().map(|mut attempt| {
                attempt.facts.iter_mut().for_each(|fact| *fact += offset);
                attempt
            }));
        }
        whole
    }
}

/// Gives times to facts and to requests.
#[derive(Debug)]
struct Clock {
    epoch: Instant,
    /// The wall clock at the epoch.
    epoch_ms: i64,
    at_ms: AtomicI64,
}

impl Clock {
    fn elapsed_ns(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_nanos()).expect("a run ends within centuries")
    }
}

#[derive(Debug)]
struct Person {
    id: String,
    events: usize,
    user_id: Option<String>,
    /// The poisoned campaign of the mail its events are about.
    poison: Option<String>,
}

impl Person {
    fn new(id: String) -> Self {
        Self { id, events: 0, user_id: None, poison: None }
    }
}

#[derive(Debug)]
struct LoadClient {
    target: Target,
    shape: Shape,
    http: Client,
    random: Random,
    clock: Arc<Clock>,
    number: usize,
    persons: Vec<Person>,
    /// Mails begun so far.
    mails: usize,
    history: History,
    /// Requests answered with 200: their events, to repeat some.
    sent: Vec<(Vec<usize>, Vec<Fact>)>,
}

impl LoadClient {
    fn run(&mut self, until: Until, stop: &AtomicBool, accepted: &AtomicUsize) {
        let (began, mut requests) = (Instant::now(), 0_u32);
        while !stop.load(Ordering::Relaxed) {
            if let Some(rate) = self.shape.requests_per_second {
                await_moment(began + Duration::from_secs(1) * requests / rate);
                requests += 1;
            }
            let left = match until {
                Until::Told => EVENTS_A_REQUEST_MAX,
                Until::Events(events) => events.saturating_sub(self.history.facts.len()),
            };
            if left == 0 {
                return;
            }
            let count = 1 + self.random.below(EVENTS_A_REQUEST_MAX.min(left));
            let (indices, facts): (Vec<usize>, Vec<Fact>) = (0..count).map(|_| self.make()).unzip();
            self.send(&indices, &facts);
            accepted.fetch_add(count, Ordering::Relaxed);
            self.sent.push((indices, facts));
            if self.random.chance(10) {
                let old = self.random.below(self.sent.len());
                let (indices, facts) = self.sent[old].clone();
                self.send(&indices, &facts);
            }
        }
    }

    /// Makes the next event of some person and notes it.
    fn make(&mut self) -> (usize, Fact) {
        let number = self.random.below(PERSONS);
        if self.persons[number].events.is_multiple_of(EVENTS_A_MAIL) {
            let poison = self.begin_mail();
            self.persons[number].poison = poison;
        }
        let person = &mut self.persons[number];
        let place = person.events % EVENTS_A_MAIL;
        let run = format!("run-{}", person.events / EVENTS_A_MAIL);
        person.events += 1;
        // Some persons become known after a while, and their events carry the id now and then.
        if !number.is_multiple_of(3) && person.events == 4 + number {
            person.user_id = Some(format!("u-{}", person.id));
        }
        let user_id = person.user_id.clone().filter(|_| self.random.chance(70));
        let kind = match (place, self.random.below(2)) {
            (0, _) => Kind::Delivered,
            (_, 0) => Kind::Opened,
            (_, _) => Kind::Clicked,
        };
        let index = self.history.facts.len();
        let source = SourceFact {
            id: format!("e-{}-{}-{index}", self.target.word, self.number),
            write_key: self.target.write_key.clone(),
            person: person.id.clone(),
            kind,
            run,
            link: (kind == Kind::Clicked).then(|| format!("https://shop.example/{}", self.random.below(LINKS))),
            at_ms: self.clock.at_ms.fetch_add(1, Ordering::Relaxed),
            machine: kind != Kind::Delivered && self.random.chance(25),
            user_id,
        };
        let fact = match &person.poison {
            Some(campaign) => {
                self.history.poison.insert(source.id.clone());
                written(&source).with("campaign_name", campaign.as_str())
            }
            None => written(&source),
        };
        self.history.facts.push(source);
        (index, fact)
    }

    /// The campaign of the next mail, if it is a poisoned one. All events of a mail carry it, so that whatever is
    /// derived from them does too.
    fn begin_mail(&mut self) -> Option<String> {
        self.mails += 1;
        let poison = &self.shape.poison;
        let due = self.mails.is_multiple_of(MAILS_A_POISON) && !poison.is_empty();
        due.then(|| poison[self.mails / MAILS_A_POISON % poison.len()].clone())
    }

    /// Sends until the answer is 200; every try is noted.
    fn send(&mut self, indices: &[usize], facts: &[Fact]) {
        let request = Request::json("/v1/events", fact::body(facts)).bearer(&self.target.ingest_key);
        let Self { http, clock, history, .. } = self;
        eventually("a request is taken at last", DRAINED, || {
            let began_ns = clock.elapsed_ns();
            let answer = http.call(&request);
            let outcome = match &answer {
                Ok(answer) if answer.status == 200 => Outcome::Ok,
                Ok(answer) if answer.status == 429 || answer.status >= 500 => Outcome::Unknown,
                Ok(answer) => panic!("a good request got {}: {}", answer.status, answer.text()),
                Err(_) => Outcome::Unknown,
            };
            history.attempts.push(Attempt { facts: indices.to_vec(), began_ns, ended_ns: clock.elapsed_ns(), outcome });
            match answer {
                Ok(_) if outcome == Outcome::Ok => Ok(()),
                Ok(answer) => Err(format!("{}: {}", answer.status, answer.text())),
                Err(error) => Err(error.to_string()),
            }
        });
    }
}

/// A noted event as its sender writes it.
fn written(source: &SourceFact) -> Fact {
    let kind = match source.kind {
        Kind::Delivered => "email_delivered",
        Kind::Opened => "email_opened",
        Kind::Clicked => "link_clicked",
    };
    let fact = Fact::new(kind, &source.id, source.at_ms).person(&source.person).mail("mail-1", &source.run);
    let fact = if source.machine { fact.machine() } else { fact.human() };
    let fact = match &source.link {
        Some(link) => fact.with("email_link_url", link.as_str()),
        None => fact,
    };
    match &source.user_id {
        Some(user) => fact.user(user),
        None => fact,
    }
}
