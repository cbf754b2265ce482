//! A small fleet in a small world: records with compare-and-set, workers that come, leave, die, sleep and wake.

use super::*;

const PARTITIONS: u16 = 8;
const STEP: Duration = Duration::from_millis(250);

/// A worker and what its stage does.
#[derive(Debug)]
struct Worker {
    view: Ownership,
    serving: BTreeSet<u16>,
    /// What it has not read yet of the records.
    members_read: usize,
    owners_read: usize,
    asleep: bool,
    gone: bool,
}

/// The bus: every write of a record, in order.
#[derive(Debug, Default)]
struct World {
    now: Duration,
    members: Vec<(WorkerId, MemberRecord)>,
    owners: Vec<(u16, OwnerRecord, u64)>,
    workers: BTreeMap<String, Worker>,
    incarnations: u64,
    /// Writes fail, and nothing is read.
    away: bool,
    forgotten: Vec<WorkerId>,
}

impl World {
    fn start(&mut self, name: &str) {
        self.incarnations += 1;
        let me = Claim { worker: WorkerId::new(name), incarnation: self.incarnations };
        let view = Ownership::new(me, PARTITIONS, self.now);
        let worker =
            Worker { view, serving: BTreeSet::new(), members_read: 0, owners_read: 0, asleep: false, gone: false };
        self.workers.insert(name.to_owned(), worker);
    }

    fn kill(&mut self, name: &str) {
        self.workers.remove(name);
    }

    fn worker(&mut self, name: &str) -> &mut Worker {
        self.workers.get_mut(name).unwrap()
    }

    fn last(&self, partition: u16) -> u64 {
        let of = self.owners.iter().rev().find(|(number, _, _)| *number == partition);
        of.map_or(0, |(_, _, revision)| *revision)
    }

    /// Lets everybody read and act, for so long.
    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.now += STEP;
            let awake = self.workers.iter().filter(|(_, worker)| !worker.asleep && !worker.gone);
            let awake: Vec<_> = awake.map(|(name, _)| name.clone()).collect();
            awake.iter().for_each(|name| self.act(name));
        }
    }

    fn act(&mut self, name: &str) {
        let mut worker = self.workers.remove(name).unwrap();
        if !self.away {
            for (id, record) in self.members.iter().skip(worker.members_read) {
                worker.view.member(id.clone(), *record, self.now);
            }
            for (partition, record, revision) in self.owners.iter().skip(worker.owners_read) {
                worker.view.owner(*partition, record, *revision);
            }
            (worker.members_read, worker.owners_read) = (self.members.len(), self.owners.len());
        }
        loop {
            match worker.view.poll(self.now) {
                Action::Beat(_) if self.away => {}
                Action::Beat(record) => {
                    self.members.push((WorkerId::new(name), record));
                    worker.view.beaten(self.now);
                }
                Action::Write { partition, owner, revision } => {
                    let holds = !self.away && self.last(partition) == revision;
                    let next = self.owners.len() as u64 + 1;
                    if holds {
                        self.owners.push((partition, Claim::record(owner.as_ref()), next));
                    }
                    worker.view.written(partition, holds.then_some(next), self.now);
                }
                Action::Start(partition) => assert!(worker.serving.insert(partition), "started twice"),
                Action::Stop(partition) => {
                    assert!(worker.serving.remove(&partition), "stopped, not started");
                    worker.view.stopped(partition);
                }
                Action::Forget(dead) => self.forgotten.push(dead),
                Action::Replaced | Action::Left => {
                    worker.gone = true;
                    break;
                }
                Action::Wait(until) => {
                    assert!(until > self.now || self.away, "waits for the past");
                    break;
                }
            }
        }
        self.workers.insert(name.to_owned(), worker);
    }

    /// How many workers that are awake serve each partition.
    fn served(&self) -> Vec<usize> {
        let awake = || self.workers.values().filter(|worker| !worker.asleep && !worker.gone);
        (0..PARTITIONS).map(|number| awake().filter(|one| one.serving.contains(&number)).count()).collect()
    }

    #[track_caller]
    fn assert_settled(&self) {
        assert_eq!(self.served(), vec![1; usize::from(PARTITIONS)], "{:?}", self.loads());
        let loads = self.loads();
        let (least, most) = (loads.values().min().unwrap(), loads.values().max().unwrap());
        assert!(most - least <= 1, "{loads:?}");
    }

    fn loads(&self) -> BTreeMap<&str, usize> {
        let awake = self.workers.iter().filter(|(_, worker)| !worker.asleep && !worker.gone);
        awake.map(|(name, worker)| (name.as_str(), worker.serving.len())).collect()
    }
}

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn one_worker_takes_everything_at_once() {
    let mut world = World::default();
    world.start("a");
    world.pass(STEP * 2);
    world.assert_settled();
}

#[test]
fn workers_that_come_and_leave_hand_over_within_moments() {
    let mut world = World::default();
    for name in ["a", "b", "c"] {
        world.start(name);
        world.pass(SECOND * 2);
        world.assert_settled();
    }
    let now = world.now;
    world.worker("b").view.leave(now);
    world.pass(SECOND * 2);
    assert!(world.worker("b").gone);
    world.assert_settled();
}

#[test]
fn the_dead_are_replaced_and_a_restart_under_the_same_name_waits_for_nothing() {
    let mut world = World::default();
    for name in ["a", "b"] {
        world.start(name);
    }
    world.pass(SECOND * 3);
    world.kill("a");
    world.pass(SECOND * 5);
    assert!(world.served().contains(&0), "nobody is taken for dead at once");
    world.pass(SECOND * 3);
    world.assert_settled();
    world.start("a");
    world.pass(SECOND * 2);
    world.assert_settled();
    world.kill("b");
    world.start("b");
    world.pass(SECOND);
    world.assert_settled();
}

#[test]
fn a_dead_workers_record_is_deleted_in_time_and_nobody_elses() {
    let mut world = World::default();
    for name in ["a", "b"] {
        world.start(name);
    }
    world.pass(SECOND * 3);
    world.kill("a");
    world.pass(SECOND * 25);
    assert_eq!(world.forgotten, [], "it may still come back");
    world.pass(SECOND * 10);
    assert_eq!(world.forgotten, [WorkerId::new("a")]);
}

#[test]
fn a_sleeper_that_wakes_takes_nothing_from_those_who_were_awake() {
    let mut world = World::default();
    for name in ["a", "b", "c"] {
        world.start(name);
    }
    world.pass(SECOND * 3);
    world.worker("a").asleep = true;
    world.pass(SECOND * 20);
    world.assert_settled();
    let writes = world.owners.len();
    world.worker("a").asleep = false;
    world.pass(STEP);
    assert!(world.worker("a").serving.is_empty(), "what others took is let go of");
    world.pass(SECOND * 3);
    world.assert_settled();
    assert!(world.owners.len() - writes <= 4 * usize::from(PARTITIONS), "no more changes hands than a's share");
}

#[test]
fn while_the_bus_is_away_nobody_is_dead() {
    let mut world = World::default();
    for name in ["a", "b"] {
        world.start(name);
    }
    world.pass(SECOND * 3);
    let writes = world.owners.len();
    world.away = true;
    world.pass(SECOND * 20);
    world.away = false;
    world.pass(SECOND * 3);
    assert_eq!(world.owners.len(), writes, "an outage of the bus moves nothing");
    world.assert_settled();
}

#[test]
fn of_two_with_one_name_the_younger_stays() {
    let mut world = World::default();
    world.start("a");
    world.pass(SECOND);
    let older = world.workers.remove("a").unwrap();
    world.start("a");
    world.pass(SECOND * 2);
    world.assert_settled();
    let younger = world.workers.insert("a".to_owned(), older).unwrap();
    world.pass(SECOND);
    assert!(world.worker("a").gone, "the older one ends");
    world.workers.insert("a".to_owned(), younger);
    world.pass(SECOND * 2);
    world.assert_settled();
}
