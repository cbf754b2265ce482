//! Suppressing persons: the record that everybody who sends goes by, and the orders that the fold takes.
//!
//! Who is suppressed is in the record first and in the event logs then; who is let in again, the other way round. Whatever
//! stops the one who writes them in between, nothing is sent, and saying it again does the rest.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use inflection_bus::{Bus, Expected, Log, RecordError, Sequence};
use inflection_delivery::{DeliveryHandle, SUPPRESSION_LEASE, Suppressed};
use inflection_domain::{
    Alias, EmailAddress, Hash128, Head, OrderKind, Partition, PersonId, PersonOrder, Timestamp, Tombstone, UserId,
    WorkspaceId,
};
use inflection_wire::{
    Installation, SuppressedPerson, SuppressedPersons, alias_record, decode_alias, encode_alias, order_batch,
};

use crate::decided::decided;

/// Tries to change the record while others change it too.
const TRIES: usize = 10;
/// How long identity, and delivery everywhere, may take until an order is in force.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often the decision logs are asked whether it is.
const ASK_EVERY: Duration = Duration::from_millis(20);

/// Whom an order is about, as an operator says it.
#[derive(Debug)]
pub(crate) enum Whom {
    /// A person.
    Person(PersonId),
    /// All persons of a user.
    User(UserId),
    /// The person of events that have this address and no person's id.
    Address(EmailAddress),
}

/// Whom an order is about, as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Subject {
    pub(crate) workspace: WorkspaceId,
    pub(crate) tombstone: Tombstone,
    pub(crate) user: bool,
    /// The person to be forgotten.
    person: Hash128,
    /// Where its events come.
    partitions: Vec<Partition>,
}

/// What came of an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Changed {
    /// Since when the person is suppressed, or was.
    pub(crate) since: Timestamp,
    /// Whether identity has taken the order, and everybody sends by it.
    pub(crate) in_force: bool,
}

/// Why an order was not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ChangeError {
    /// There are too many.
    #[error(
        "{} persons and users are suppressed, which is the most an installation may have: lift some",
        Tombstone::COUNT_MAX
    )]
    Full,
    /// There is nothing to be lifted.
    #[error("nobody is suppressed under this id")]
    NotSuppressed,
    /// The bus does not take it.
    #[error(transparent)]
    Failed(#[from] anyhow::Error),
}

impl Subject {
    pub(crate) fn new(installation: &Installation, workspace: &WorkspaceId, whom: &Whom) -> Self {
        let (key, count) = (&installation.key, installation.partitions);
        let workspace = workspace.clone();
        let of_person = |id: &PersonId| Head::person_key(&workspace, id);
        let (person, user) = match whom {
            Whom::Person(person) => (person.clone(), None),
            Whom::Address(address) => (PersonId::from_address(key, &workspace, address), None),
            Whom::User(user) => (PersonId::from_user(key, &workspace, user), Some(user)),
        };
        let (tombstone, partitions) = match user {
            Some(user) => (Tombstone::of_user(key, &workspace, user), count.all().collect()),
            None => (Tombstone::of_person(key, of_person(&person)), vec![count.of(&workspace, &person)]),
        };
        Self { tombstone, user: user.is_some(), person: of_person(&person), partitions, workspace }
    }

    /// This one alone, as those see it who send.
    pub(crate) fn alone(&self, installation: &Installation) -> Suppressed {
        Suppressed::new(self.workspace.clone(), installation.key.clone(), [self.tombstone])
    }
}

/// Reads who is suppressed.
pub(crate) async fn load(bus: &Bus) -> anyhow::Result<SuppressedPersons> {
    load_revision(bus).await.map(|(all, _)| all)
}

async fn load_revision(bus: &Bus) -> anyhow::Result<(SuppressedPersons, Expected)> {
    let found = bus.get_record(SuppressedPersons::RECORD).await.context("who is suppressed cannot be read")?;
    let Some(record) = found else { return Ok((SuppressedPersons::default(), Expected::Absent)) };
    let all = SuppressedPersons::decode(&record.value).context("the record of suppressed persons is damaged")?;
    Ok((all, Expected::Revision(record.revision)))
}

/// Takes hold of the alias of an address that is about to be suppressed: gives the person it is tied to, or sees to it that
/// it is tied to nobody from now on, so that what comes to it stays with the person derived from it.
pub(crate) async fn hold_alias(bus: &Bus, derived: &PersonId) -> anyhow::Result<Option<PersonId>> {
    let record = alias_record(derived);
    for _ in 0..TRIES {
        if let Some(person) = aliased(bus, derived).await?.map(|alias| alias.person_for(None).cloned()) {
            return Ok(person);
        }
        match bus.put_record(&record, Expected::Absent, encode_alias(&Alias::Withheld)).await {
            // Where there is no room for this there is none for an alias either.
            Ok(_) | Err(RecordError::Full(_)) => return Ok(None),
            Err(RecordError::Conflict) => {}
            Err(error) => {
                return Err(anyhow::Error::new(error).context("that the address is withheld cannot be stored"));
            }
        }
    }
    anyhow::bail!("others change the alias of the address all the time; try again")
}

/// The person that an address is tied to.
pub(crate) async fn tied_person(bus: &Bus, derived: &PersonId) -> anyhow::Result<Option<PersonId>> {
    Ok(aliased(bus, derived).await?.and_then(|alias| alias.person_for(None).cloned()))
}

/// Lets go of the alias of an address whose person is not suppressed: it may be tied to one again.
pub(crate) async fn release_alias(bus: &Bus, derived: &PersonId) -> anyhow::Result<()> {
    // Nobody changes one that is withheld.
    if aliased(bus, derived).await? == Some(Alias::Withheld) {
        bus.delete_record(&alias_record(derived)).await.context("that the address is withheld stays")?;
    }
    Ok(())
}

async fn aliased(bus: &Bus, derived: &PersonId) -> anyhow::Result<Option<Alias>> {
    let record = bus.get_record(&alias_record(derived)).await.context("the alias of the address cannot be read")?;
    record.map(|record| decode_alias(&record.value).context("the alias of the address is damaged")).transpose()
}

/// Suppresses, erases or lets in again, and waits until that is in force.
pub(crate) async fn change(
    bus: &Bus,
    delivery: Option<&DeliveryHandle>,
    kind: OrderKind,
    subject: &Subject,
    at: Timestamp,
) -> Result<Changed, ChangeError> {
    let Written { revision, since, appended } = write(bus, kind, subject, at).await?;
    let written = Instant::now();
    let in_force = async {
        if let Some(delivery) = delivery {
            delivery.suppresses(revision).await;
        }
        if bus.is_shared() {
            // Whoever sends then has read the record since it was written.
            tokio::time::sleep_until((written + SUPPRESSION_LEASE).into()).await;
        }
        for (partition, sequence) in appended {
            taken(bus, partition, sequence).await?;
        }
        anyhow::Ok(())
    };
    let in_force = match tokio::time::timeout(PATIENCE, in_force).await {
        Ok(outcome) => outcome.map(|()| true)?,
        Err(_elapsed) => false,
    };
    Ok(Changed { since, in_force })
}

/// An order that is stored.
#[derive(Debug)]
struct Written {
    /// Of the record.
    revision: u64,
    since: Timestamp,
    appended: Vec<(Partition, Sequence)>,
}

/// Writes an order into the record and into the event logs.
///
/// Others may be written at the same time. Each is appended after its change of the record, and then its change must still
/// be there: else it is done again. So the last order of the logs is one that agrees with the last change of the record.
async fn write(bus: &Bus, kind: OrderKind, subject: &Subject, at: Timestamp) -> Result<Written, ChangeError> {
    let mut was_there = None;
    for _ in 0..TRIES {
        if kind == OrderKind::Lift {
            // Nothing that comes after the change of the record is dropped any more. And of a lift that was cut short, or was
            // overtaken, the logs may not know.
            order(bus, kind, subject, at).await?;
        }
        let edited = edit(bus, |all| match kind {
            OrderKind::Suppress | OrderKind::Erase => enter(all, kind, subject, at),
            OrderKind::Lift => leave(all, subject),
        });
        let (revision, since) = match (edited.await, was_there) {
            (Ok(edited), _) => edited,
            (Err(ChangeError::NotSuppressed), Some(edited)) => edited,
            (Err(error), _) => return Err(error),
        };
        was_there = Some((revision, since));
        let appended = order(bus, kind, subject, at).await?;
        if is_so(&load(bus).await?, kind, subject) {
            return Ok(Written { revision, since, appended });
        }
    }
    Err(anyhow::anyhow!("others say the opposite of this person all the time; try again").into())
}

/// Whether the record says what an order wants.
fn is_so(all: &SuppressedPersons, kind: OrderKind, subject: &Subject) -> bool {
    let found = all.workspaces.get(&subject.workspace).and_then(|persons| persons.get(&subject.tombstone));
    match kind {
        OrderKind::Suppress => found.is_some(),
        OrderKind::Erase => found.is_some_and(|person| person.erased),
        OrderKind::Lift => found.is_none(),
    }
}

/// Puts a person into the record; gives since when it is there.
fn enter(
    all: &mut SuppressedPersons,
    kind: OrderKind,
    subject: &Subject,
    at: Timestamp,
) -> Result<Timestamp, ChangeError> {
    let full = all.count() >= Tombstone::COUNT_MAX;
    let persons = all.workspaces.entry(subject.workspace.clone()).or_default();
    if full && !persons.contains_key(&subject.tombstone) {
        return Err(ChangeError::Full);
    }
    let person = SuppressedPerson { user: subject.user, at, erased: false };
    let person = persons.entry(subject.tombstone).or_insert(person);
    person.erased |= kind == OrderKind::Erase;
    Ok(person.at)
}

/// Takes a person out of the record; gives since when it was there.
fn leave(all: &mut SuppressedPersons, subject: &Subject) -> Result<Timestamp, ChangeError> {
    let persons = all.workspaces.get_mut(&subject.workspace);
    let person = persons.and_then(|persons| persons.remove(&subject.tombstone));
    person.map(|person| person.at).ok_or(ChangeError::NotSuppressed)
}

/// Changes the record; gives its revision.
async fn edit<T>(
    bus: &Bus,
    change: impl Fn(&mut SuppressedPersons) -> Result<T, ChangeError>,
) -> Result<(u64, T), ChangeError> {
    for _ in 0..TRIES {
        let (mut all, expected) = load_revision(bus).await?;
        let given = change(&mut all)?;
        match bus.put_record(SuppressedPersons::RECORD, expected, all.encode()).await {
            Ok(revision) => return Ok((revision, given)),
            Err(RecordError::Conflict) => {}
            Err(error) => return Err(anyhow::Error::new(error).context("it cannot be stored").into()),
        }
    }
    Err(anyhow::anyhow!("others change the record of suppressed persons all the time; try again").into())
}

/// Appends the order wherever the person's events come.
async fn order(
    bus: &Bus,
    kind: OrderKind,
    subject: &Subject,
    at: Timestamp,
) -> anyhow::Result<Vec<(Partition, Sequence)>> {
    let (workspace, tombstone, person) = (subject.workspace.clone(), subject.tombstone, Some(subject.person));
    let message = order_batch(at, &PersonOrder { workspace, kind, tombstone, person });
    let mut appended = Vec::new();
    for partition in &subject.partitions {
        let log = Log::new(&format!("events.{partition}"))?;
        let sequence = bus.append(&log, None, message.clone()).await.context("the order cannot be stored")?;
        appended.push((*partition, sequence));
    }
    Ok(appended)
}

/// Waits until identity has taken a message of an event log.
async fn taken(bus: &Bus, partition: Partition, sequence: Sequence) -> anyhow::Result<()> {
    let log = Log::new(&format!("decisions.{partition}"))?;
    loop {
        let (_, batch) = decided(bus, &log).await?;
        if batch.consumed_through >= sequence {
            return Ok(());
        }
        tokio::time::sleep(ASK_EVERY).await;
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::pin::{Pin, pin};
    use std::task::Poll;

    use inflection_bus::EmbeddedConfig;
    use inflection_domain::{InstallationId, InstallationKey, PartitionCount};
    use inflection_wire::EventBatch;

    use super::*;

    fn installation() -> Installation {
        Installation {
            id: InstallationId::new("inst-1").unwrap(),
            key: InstallationKey::new([7; 32]),
            partitions: PartitionCount::new(16).unwrap(),
            schema_version: inflection_wire::SCHEMA_VERSION,
            oldest_reader: 1,
        }
    }

    fn subject(whom: &Whom) -> Subject {
        Subject::new(&installation(), &WorkspaceId::new("acme").unwrap(), whom)
    }

    #[test]
    fn a_person_is_where_its_events_come_and_a_user_everywhere() {
        let address = EmailAddress::new("Ann@Example.com").unwrap();
        let derived = PersonId::from_address(&installation().key, &WorkspaceId::new("acme").unwrap(), &address);
        let by_address = subject(&Whom::Address(address));
        assert_eq!(by_address, subject(&Whom::Person(derived)), "an address stands for the person made of it");
        assert_eq!((by_address.partitions.len(), by_address.user), (1, false));
        let user = subject(&Whom::User(UserId::new("u1").unwrap()));
        assert_eq!((user.partitions.len(), user.user), (16, true));
    }

    /// The orders in an event log, all about one person here.
    async fn orders(bus: &Bus, partition: Partition) -> Vec<OrderKind> {
        let log = Log::new(&format!("events.{partition}")).unwrap();
        if bus.last(&log).await.unwrap().is_none() {
            return Vec::new();
        }
        let messages = bus.read(&log, 0).next(usize::MAX).await.unwrap().into_iter();
        messages.map(|message| EventBatch::decode(&message.payload).unwrap().orders.remove(0).kind).collect()
    }

    /// Works on an order until so many are in the log of one of the person's partitions, and then no further.
    async fn begin<T>(mut written: Pin<&mut impl Future<Output = T>>, bus: &Bus, partition: Partition, count: usize) {
        while orders(bus, partition).await.len() < count {
            let ended = poll_fn(|cx| Poll::Ready(written.as_mut().poll(cx).is_ready())).await;
            assert!(!ended, "it is still appended to other partitions");
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn orders_at_the_same_time_leave_record_and_logs_at_one() {
        let user = subject(&Whom::User(UserId::new("u1").unwrap()));
        let (some, at) = (user.partitions[3], Timestamp::from_ms(5));
        // (who is slow, how many orders are in the log when the other one comes)
        for (slow, fast, count) in [
            (OrderKind::Suppress, OrderKind::Lift, 2),
            (OrderKind::Erase, OrderKind::Lift, 2),
            (OrderKind::Lift, OrderKind::Suppress, 2),
            (OrderKind::Lift, OrderKind::Suppress, 3),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let bus = Bus::open_embedded(EmbeddedConfig::new(folder.path().to_owned())).await.unwrap();
            write(&bus, OrderKind::Suppress, &user, at).await.unwrap();
            let mut slower = pin!(write(&bus, slow, &user, at));
            begin(slower.as_mut(), &bus, some, count).await;
            write(&bus, fast, &user, at).await.unwrap();
            slower.await.unwrap();
            let all = load(&bus).await.unwrap();
            assert!(is_so(&all, slow, &user), "who ends last has it as meant: {slow:?}");
            for partition in &user.partitions {
                let last = orders(&bus, *partition).await.pop();
                assert_eq!(last, Some(slow), "{slow:?} {count} in partition {partition}");
            }
        }
    }

    #[tokio::test]
    async fn a_lift_that_was_cut_short_is_made_whole_by_repeating_it() {
        let folder = tempfile::tempdir().unwrap();
        let bus = Bus::open_embedded(EmbeddedConfig::new(folder.path().to_owned())).await.unwrap();
        let (subject, at) = (subject(&Whom::Person(PersonId::new("p1").unwrap())), Timestamp::from_ms(5));
        // The record knows nothing of the person; the fold has heard of a suppression last.
        order(&bus, OrderKind::Suppress, &subject, at).await.unwrap();
        let lifted = write(&bus, OrderKind::Lift, &subject, at).await;
        assert!(matches!(lifted, Err(ChangeError::NotSuppressed)), "{lifted:?}");
        assert_eq!(orders(&bus, subject.partitions[0]).await.pop(), Some(OrderKind::Lift));
    }

    #[test]
    fn the_record_is_bounded_and_says_since_when() {
        let at = Timestamp::from_ms;
        let one = |number: usize| subject(&Whom::Person(PersonId::new(number.to_string()).unwrap()));
        let mut all = SuppressedPersons::default();
        for number in 0..Tombstone::COUNT_MAX {
            assert_eq!(enter(&mut all, OrderKind::Suppress, &one(number), at(5)).unwrap(), at(5));
        }
        let error = enter(&mut all, OrderKind::Suppress, &one(Tombstone::COUNT_MAX), at(6)).unwrap_err();
        assert!(matches!(error, ChangeError::Full), "{error}");
        assert!(error.to_string().starts_with("10000 persons and users are suppressed"), "{error}");
        // Who is there may be told of again, and be erased.
        assert_eq!(enter(&mut all, OrderKind::Erase, &one(7), at(7)).unwrap(), at(5));
        assert_eq!(enter(&mut all, OrderKind::Suppress, &one(7), at(8)).unwrap(), at(5));
        let entry = all.workspaces[&one(7).workspace][&one(7).tombstone];
        assert_eq!(entry, SuppressedPerson { user: false, at: at(5), erased: true }, "an erasure is not taken back");
        assert_eq!(leave(&mut all, &one(7)).unwrap(), at(5));
        assert!(matches!(leave(&mut all, &one(7)), Err(ChangeError::NotSuppressed)));
        assert_eq!(enter(&mut all, OrderKind::Suppress, &one(Tombstone::COUNT_MAX), at(9)).unwrap(), at(9));
    }
}
