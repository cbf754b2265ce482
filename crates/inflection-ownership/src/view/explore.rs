//! Every order of events in small worlds: a breadth-first search over what workers, the bus and time may do.
//!
//! After everything that it is told a worker acts until it waits, as its task does. Its signs of life come through at
//! once, or not at all. Everything else may be late: that a worker wakes, a write, its answer, what is read of the
//! records (members and owners each in order, but not with one another), the end of a stop.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};

use super::*;

const SECOND: Duration = Duration::from_secs(1);
/// So many seconds go by at once.
const LEAPS: [u64; 3] = [1, 3, 6];
const NAMES: [&str; 2] = ["a", "b"];
/// Without time passing, a worker waits after fewer actions than this.
const ACTIONS_MAX: usize = 100;
/// Without time passing and without faults, all is quiet after fewer steps than this.
const STEPS_MAX: usize = 1000;
/// After so many seconds without faults everything is served.
const CALM_SECONDS: u32 = 30;

/// The rule that was broken, if one was.
type Checked = Result<(), String>;

fn ensure(holds: bool, rule: &str) -> Checked {
    if holds { Ok(()) } else { Err(rule.to_owned()) }
}

/// A sign of life: incarnation, number, leaving.
type Sign = (u64, u64, bool);

/// What a partition's record says.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Owner {
    claim: Option<Claim>,
    revision: u64,
}

#[derive(Debug, Clone, Hash)]
struct Write {
    partition: u16,
    claim: Option<Claim>,
    revision: u64,
}

/// What is on its way to the bus, or back.
#[derive(Debug, Clone, Hash)]
enum Flight {
    Write(Write),
    Answer { partition: u16, outcome: Option<Owner> },
}

/// Whether something comes through.
#[derive(Debug, Clone, Copy)]
enum Fate {
    Through,
    Lost,
}

/// A worker, what its stage does, and what it was told.
#[derive(Debug, Clone, Hash)]
struct Worker {
    view: Ownership,
    flights: Vec<Flight>,
    /// Not read yet.
    signs: Vec<(WorkerId, Sign)>,
    owners: VecDeque<(u16, Owner)>,
    serving: BTreeSet<u16>,
    stopping: BTreeSet<u16>,
    /// The newest that it knows of each partition's record: read, or written by itself.
    told: Vec<Owner>,
}

impl Worker {
    /// Of signs that tell the same, only the newest is kept. Those under its own name tell it something only when they
    /// are a younger one's.
    fn hear(&mut self, name: &WorkerId, sign: Sign) {
        let me = &self.view.me;
        if *name == me.worker && sign.0 <= me.incarnation {
            return;
        }
        match self.signs.iter_mut().find(|(other, seen)| other == name && (seen.0, seen.2) == (sign.0, sign.2)) {
            Some((_, seen)) => *seen = sign,
            None => self.signs.push((name.clone(), sign)),
        }
    }

    fn learn(&mut self, partition: u16, owner: Owner) {
        let told = &mut self.told[usize::from(partition)];
        if owner.revision > told.revision {
            *told = owner;
        }
    }

    fn write(&mut self, write: Write) -> Checked {
        // Together with compare-and-set this says: whoever changes a record has read what it changes, and so has one
        // whose claim was overwritten.
        let read = self.told[usize::from(write.partition)].revision == write.revision;
        self.flights.push(Flight::Write(write));
        ensure(read, "a worker writes over a revision that is not the newest it knows")
    }

    fn start(&mut self, partition: u16) -> Checked {
        let idle = !self.serving.contains(&partition) && !self.stopping.contains(&partition);
        ensure(idle, "a partition is started twice without a stop in between")?;
        self.serving.insert(partition);
        // The record on the bus may be another's already; a worker cannot know more than it was told.
        let mine = self.told[usize::from(partition)].claim.as_ref() == Some(&self.view.me);
        ensure(mine, "a partition is started by a worker that was told that it is not the owner")
    }

    fn stop(&mut self, partition: u16) -> Checked {
        self.stopping.insert(partition);
        ensure(self.serving.remove(&partition), "a partition is stopped that is not served")
    }

    fn check_left(&self, now: Duration) -> Checked {
        let late = self.view.leaving_since.is_some_and(|since| now >= since + LEAVE_WITHIN);
        ensure(late || self.serving.is_empty() && self.stopping.is_empty(), "a worker has left, and serves")
    }
}

/// What may happen next.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// So many seconds go by.
    Leap(u64),
    /// A write takes effect whose writer is gone, or has given up on it.
    Stray(usize),
    /// A worker starts: another life of one that is there, or was.
    Begin(&'static str),
    /// The worker with this index.
    Of(usize, Event),
}

#[derive(Debug, Clone, Copy)]
enum Event {
    /// It wakes, and gives a sign of life.
    Wake,
    /// It wakes, and its sign of life is lost.
    WakeUnheard,
    /// A write takes effect, or its answer is told.
    Land(usize),
    /// A write takes effect, and its answer is lost.
    LandUnheard(usize),
    /// The answer to a write is lost before it takes effect.
    GiveUp(usize),
    ReadSigns,
    ReadOwner,
    /// Its stage has stopped a partition.
    Finish(u16),
    Leave,
    Die,
}

impl Step {
    fn is_fault(self) -> bool {
        match self {
            Self::Leap(_) | Self::Stray(_) => false,
            Self::Begin(_) => true,
            Self::Of(_, event) => match event {
                Event::Wake | Event::Land(_) | Event::ReadSigns | Event::ReadOwner | Event::Finish(_) => false,
                Event::WakeUnheard | Event::LandUnheard(_) | Event::GiveUp(_) | Event::Leave | Event::Die => true,
            },
        }
    }
}

#[derive(Debug, Clone, Hash)]
struct World {
    now: Duration,
    workers: Vec<Worker>,
    signs: BTreeMap<WorkerId, Sign>,
    owners: Vec<Owner>,
    strays: Vec<Write>,
    revision: u64,
    incarnation: u64,
    /// How often time may still leap, and how many faults may still happen.
    leaps: u8,
    faults: u8,
}

impl World {
    fn empty(partitions: u16) -> Self {
        Self {
            now: Duration::ZERO,
            workers: Vec::new(),
            signs: BTreeMap::new(),
            owners: vec![Owner { claim: None, revision: 0 }; usize::from(partitions)],
            strays: Vec::new(),
            revision: 0,
            incarnation: 0,
            leaps: 0,
            faults: 0,
        }
    }

    /// Two workers that have just started.
    fn fresh(partitions: u16) -> Self {
        let mut world = Self::empty(partitions);
        NAMES.into_iter().for_each(|name| world.begin(name));
        world
    }

    /// Two workers that have shared the partitions out.
    fn calm(partitions: u16) -> Self {
        let mut world = Self::fresh(partitions);
        world.settle().unwrap();
        for _ in 0..3 {
            world.now += SECOND;
            world.settle().unwrap();
        }
        world.check_calm().unwrap();
        world
    }

    fn with(mut self, leaps: u8, faults: u8) -> Self {
        (self.leaps, self.faults) = (leaps, faults);
        self
    }

    /// The index of the worker that serves the first partition.
    fn first(&self) -> usize {
        self.workers.iter().position(|worker| worker.serving.contains(&0)).unwrap()
    }

    /// A worker starts, and reads the records as they are.
    fn begin(&mut self, name: &str) {
        self.incarnation += 1;
        let me = Claim { worker: WorkerId::new(name), incarnation: self.incarnation };
        let mut view = Ownership::new(me, u16::try_from(self.owners.len()).unwrap(), self.now);
        for (name, &(incarnation, beat, leaving)) in &self.signs {
            view.member(name.clone(), MemberRecord { incarnation, beat, leaving }, self.now);
        }
        for (partition, owner) in (0u16..).zip(&self.owners).filter(|(_, owner)| owner.revision > 0) {
            view.owner(partition, &Claim::record(owner.claim.as_ref()), owner.revision);
        }
        self.workers.push(Worker {
            view,
            flights: Vec::new(),
            signs: Vec::new(),
            owners: VecDeque::new(),
            serving: BTreeSet::new(),
            stopping: BTreeSet::new(),
            told: self.owners.clone(),
        });
    }

    /// A worker's process ends; what it has written may still take effect.
    fn end(&mut self, at: usize) -> Worker {
        let worker = self.workers.remove(at);
        for flight in &worker.flights {
            if let Flight::Write(write) = flight {
                self.strays.push(write.clone());
            }
        }
        worker
    }

    /// A worker does what it has to do until it waits or ends.
    fn act(&mut self, at: usize, sign: Fate) -> Checked {
        for _ in 0..ACTIONS_MAX {
            let worker = &mut self.workers[at];
            match worker.view.poll(self.now) {
                Action::Beat(record) => match sign {
                    Fate::Through => self.beat(at, record),
                    Fate::Lost => {}
                },
                Action::Write { partition, owner, revision } => {
                    worker.write(Write { partition, claim: owner, revision })?;
                }
                Action::Start(partition) => worker.start(partition)?,
                Action::Stop(partition) => worker.stop(partition)?,
                Action::Forget(dead) => {
                    self.signs.remove(&dead);
                }
                Action::Replaced => {
                    self.end(at);
                    return Ok(());
                }
                Action::Left => {
                    worker.check_left(self.now)?;
                    let worker = self.end(at);
                    self.signs.remove(&worker.view.me.worker);
                    return Ok(());
                }
                Action::Wait(until) => return ensure(until > self.now, "a worker waits for a moment that is past"),
            }
        }
        Err("a worker acts without end".to_owned())
    }

    fn beat(&mut self, at: usize, record: MemberRecord) {
        let sign = (record.incarnation, record.beat, record.leaving);
        let name = self.workers[at].view.me.worker.clone();
        self.workers.iter_mut().for_each(|worker| worker.hear(&name, sign));
        self.signs.insert(name, sign);
        self.workers[at].view.beaten(self.now);
    }

    /// Takes effect, if the revision is still that one.
    fn compare_and_set(&mut self, write: Write) -> Option<Owner> {
        let owner = &mut self.owners[usize::from(write.partition)];
        if owner.revision != write.revision {
            return None;
        }
        self.revision += 1;
        *owner = Owner { claim: write.claim, revision: self.revision };
        for worker in &mut self.workers {
            worker.owners.push_back((write.partition, owner.clone()));
        }
        Some(owner.clone())
    }

    fn land(&mut self, at: usize, flight: usize, answer: Fate) -> Checked {
        match self.workers[at].flights.remove(flight) {
            Flight::Answer { partition, outcome } => self.answer(at, partition, outcome),
            Flight::Write(write) => {
                let partition = write.partition;
                let outcome = self.compare_and_set(write);
                match answer {
                    Fate::Through => {
                        self.workers[at].flights.push(Flight::Answer { partition, outcome });
                        Ok(())
                    }
                    Fate::Lost => self.answer(at, partition, None),
                }
            }
        }
    }

    fn give_up(&mut self, at: usize, flight: usize) -> Checked {
        match self.workers[at].flights.remove(flight) {
            Flight::Answer { partition, .. } => self.answer(at, partition, None),
            Flight::Write(write) => {
                let partition = write.partition;
                self.strays.push(write);
                self.answer(at, partition, None)
            }
        }
    }

    fn answer(&mut self, at: usize, partition: u16, outcome: Option<Owner>) -> Checked {
        let worker = &mut self.workers[at];
        worker.view.written(partition, outcome.as_ref().map(|owner| owner.revision), self.now);
        if let Some(owner) = outcome {
            worker.learn(partition, owner);
        }
        self.act(at, Fate::Through)
    }

    fn read_signs(&mut self, at: usize) -> Checked {
        let worker = &mut self.workers[at];
        for (name, (incarnation, beat, leaving)) in std::mem::take(&mut worker.signs) {
            worker.view.member(name, MemberRecord { incarnation, beat, leaving }, self.now);
        }
        self.act(at, Fate::Through)
    }

    fn read_owner(&mut self, at: usize) -> Checked {
        let worker = &mut self.workers[at];
        if let Some((partition, owner)) = worker.owners.pop_front() {
            worker.view.owner(partition, &Claim::record(owner.claim.as_ref()), owner.revision);
            worker.learn(partition, owner);
        }
        self.act(at, Fate::Through)
    }

    /// What may happen now; what would happen by itself comes first.
    fn steps(&self) -> Vec<Step> {
        let faults = self.faults > 0;
        let mut steps = Vec::new();
        for (at, worker) in self.workers.iter().enumerate() {
            let mut events = Vec::new();
            // Before its next sign of life is due nothing wakes it: it has acted after all that it was told.
            if worker.view.beat_at <= self.now {
                events.push(Event::Wake);
                events.extend(faults.then_some(Event::WakeUnheard));
            }
            for (number, flight) in worker.flights.iter().enumerate() {
                events.push(Event::Land(number));
                if faults && matches!(flight, Flight::Write(_)) {
                    events.extend([Event::LandUnheard(number), Event::GiveUp(number)]);
                }
            }
            events.extend((!worker.signs.is_empty()).then_some(Event::ReadSigns));
            events.extend((!worker.owners.is_empty()).then_some(Event::ReadOwner));
            events.extend(worker.stopping.iter().map(|partition| Event::Finish(*partition)));
            events.extend(faults.then_some(Event::Die));
            events.extend((faults && worker.view.leaving_since.is_none()).then_some(Event::Leave));
            steps.extend(events.into_iter().map(|event| Step::Of(at, event)));
        }
        steps.extend((0..self.strays.len()).map(Step::Stray));
        if faults {
            steps.extend(NAMES.map(Step::Begin));
        }
        if self.leaps > 0 {
            steps.extend(LEAPS.map(Step::Leap));
        }
        steps
    }

    fn take(&mut self, step: Step) -> Checked {
        self.faults -= u8::from(step.is_fault());
        match step {
            Step::Leap(seconds) => {
                self.leaps -= 1;
                self.now += Duration::from_secs(seconds);
                Ok(())
            }
            Step::Stray(number) => {
                let write = self.strays.remove(number);
                self.compare_and_set(write);
                Ok(())
            }
            Step::Begin(name) => {
                self.begin(name);
                self.act(self.workers.len() - 1, Fate::Through)
            }
            Step::Of(at, event) => self.take_event(at, event),
        }
    }

    fn take_event(&mut self, at: usize, event: Event) -> Checked {
        match event {
            Event::Wake => self.act(at, Fate::Through),
            Event::WakeUnheard => self.act(at, Fate::Lost),
            Event::Land(flight) => self.land(at, flight, Fate::Through),
            Event::LandUnheard(flight) => self.land(at, flight, Fate::Lost),
            Event::GiveUp(flight) => self.give_up(at, flight),
            Event::ReadSigns => self.read_signs(at),
            Event::ReadOwner => self.read_owner(at),
            Event::Finish(partition) => {
                self.workers[at].stopping.remove(&partition);
                self.workers[at].view.stopped(partition);
                self.act(at, Fate::Through)
            }
            Event::Leave => self.leave(at),
            Event::Die => {
                self.end(at);
                Ok(())
            }
        }
    }

    /// A worker is told to leave.
    fn leave(&mut self, at: usize) -> Checked {
        self.workers[at].view.leave(self.now);
        self.act(at, Fate::Through)
    }

    /// Everything that is on its way arrives.
    fn settle(&mut self) -> Checked {
        for _ in 0..STEPS_MAX {
            let Some(step) = self.steps().first().copied() else { return Ok(()) };
            self.take(step)?;
        }
        Err("there is no end of things to do".to_owned())
    }

    /// Goes on without faults; `calmed` holds the worlds from which this was tried.
    fn calm_down(mut self, calmed: &mut HashSet<u64>) -> Checked {
        (self.leaps, self.faults) = (0, 0);
        self.settle()?;
        if !calmed.insert(self.digest()) {
            return Ok(());
        }
        for _ in 0..CALM_SECONDS {
            self.now += SECOND;
            self.settle()?;
        }
        self.check_calm()
    }

    fn check_calm(&self) -> Checked {
        let left = self.workers.iter().all(|worker| worker.view.leaving_since.is_none());
        ensure(left, "a worker that was told to leave is still there")?;
        let names: BTreeSet<&WorkerId> = self.workers.iter().map(|worker| &worker.view.me.worker).collect();
        ensure(names.len() == self.workers.len(), "two workers with one name are still there")?;
        let loads = || self.workers.iter().map(|worker| worker.serving.len());
        let (Some(least), Some(most)) = (loads().min(), loads().max()) else { return Ok(()) };
        ensure(most - least <= 1, "the partitions are not shared out evenly")?;
        for (partition, owner) in (0u16..).zip(&self.owners) {
            let mut serving = self.workers.iter().filter(|worker| worker.serving.contains(&partition));
            let (Some(worker), None) = (serving.next(), serving.next()) else {
                return Err(format!("partition {partition} is served by nobody, or by more than one"));
            };
            ensure(owner.claim.as_ref() == Some(&worker.view.me), "the record does not name who serves a partition")?;
        }
        Ok(())
    }

    fn digest(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.hash(&mut hasher);
        hasher.finish()
    }

    fn describe(&self, step: Step) -> String {
        let Step::Of(at, event) = step else { return format!("{step:?}") };
        let Claim { worker, incarnation } = &self.workers[at].view.me;
        format!("{}#{incarnation} {event:?}, with {:?} on their way", worker.as_str(), self.workers[at].flights)
    }
}

/// Worlds are numbered as they are found; the first has the number 0.
struct Search {
    first: World,
    /// For every world after the first: the number of the one before, and the step from there. The shortest way.
    ways: Vec<(usize, Step)>,
}

impl Search {
    /// The way to a world, and a last step from there.
    fn way(&self, mut number: usize, last: Option<Step>) -> String {
        let mut steps: Vec<Step> = last.into_iter().collect();
        while number > 0 {
            let (before, step) = self.ways[number - 1];
            steps.push(step);
            number = before;
        }
        let mut world = self.first.clone();
        let mut lines = Vec::new();
        for step in steps.into_iter().rev() {
            lines.push(format!("{:?} {}", world.now, world.describe(step)));
            drop(world.take(step));
        }
        format!("{}\n{world:#?}", lines.join("\n"))
    }
}

/// Checks every world that is within so many steps of the first; there must be so many, or the search was cut short.
#[track_caller]
fn explore(first: World, steps_max: usize, worlds_min: usize) {
    let (mut seen, mut calmed) = (HashSet::from([first.digest()]), HashSet::new());
    let mut queue = VecDeque::from([(first.clone(), 0, 0)]);
    let mut search = Search { first, ways: Vec::new() };
    while let Some((world, number, steps)) = queue.pop_front() {
        if let Err(rule) = world.clone().calm_down(&mut calmed) {
            panic!("{rule}, when all goes well after\n{}", search.way(number, None));
        }
        if steps == steps_max {
            continue;
        }
        for step in world.steps() {
            let mut next = world.clone();
            if let Err(rule) = next.take(step) {
                panic!("{rule}, after\n{}", search.way(number, Some(step)));
            }
            if seen.insert(next.digest()) {
                search.ways.push((number, step));
                queue.push_back((next, search.ways.len(), steps + 1));
            }
        }
    }
    println!("{} worlds, {} of them calm", seen.len(), calmed.len());
    assert!(seen.len() >= worlds_min, "only {} worlds", seen.len());
}

/// More steps than there are to any world.
const ALL: usize = 1000;

#[test]
fn two_that_start_share_one_partition() {
    explore(World::fresh(1).with(1, 0), 10, 8_000);
}

#[test]
fn two_that_start_share_two_partitions() {
    explore(World::fresh(2).with(1, 0), 6, 7_000);
}

#[test]
fn two_that_start_share_one_partition_whatever_fails() {
    explore(World::fresh(1).with(1, 1), 5, 8_000);
}

#[test]
fn one_partition_stays_served_whatever_fails() {
    explore(World::calm(1).with(1, 1), 9, 4_000);
}

#[test]
fn two_partitions_stay_served_whatever_fails() {
    explore(World::calm(2).with(1, 1), 7, 5_000);
}

#[test]
fn one_partition_stays_served_whatever_fails_and_however_late() {
    explore(World::calm(1).with(2, 1), 5, 4_000);
}

#[test]
fn one_that_leaves_hands_over() {
    let mut world = World::calm(1).with(2, 0);
    world.leave(world.first()).unwrap();
    explore(world, 8, 8_000);
}

#[test]
fn one_that_is_started_again_takes_up_what_it_had() {
    let mut world = World::calm(1).with(2, 0);
    let dead = world.end(world.first());
    world.begin(dead.view.me.worker.as_str());
    explore(world, ALL, 6_000);
}

#[test]
fn of_two_with_one_name_one_stays_in_every_order() {
    let mut world = World::calm(1).with(1, 0);
    let name = world.workers[world.first()].view.me.worker.clone();
    world.begin(name.as_str());
    explore(world, 10, 3_000);
}

#[test]
fn a_third_takes_its_share() {
    let mut world = World::calm(1).with(1, 0);
    let takes = |name: &str| {
        let workers = [WorkerId::new("a"), WorkerId::new("b"), WorkerId::new(name)];
        let [a, b, third] = &workers;
        assign(&[a, b, third], 1) == [third]
    };
    let third = (0u32..).map(|number| format!("w{number}")).find(|name| takes(name)).unwrap();
    world.begin(&third);
    explore(world, 9, 8_000);
}
