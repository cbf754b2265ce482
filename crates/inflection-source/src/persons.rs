//! Suppressing persons: the record that everybody who sends goes by, and the orders that the fold takes.
//!
//! Who is suppressed is in the record first and in the event logs then; who is let in again, the other way round. Whatever
//! stops the one who writes them in between, nothing is sent, and saying it again does the rest.

use std::time::Duration;

use anyhow::Context as _;
use inflection_bus::{Bus, Expected, Log, RecordError, Sequence};
use inflection_delivery::{DeliveryHandle, Suppressed};
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
/// How long identity, and delivery in this process, may take until an order is in force.
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
    /// Whether identity has taken the order, and this process sends by it.
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
    let (revision, since, appended) = match kind {
        OrderKind::Suppress | OrderKind::Erase => {
            let (revision, since) = edit(bus, |all| enter(all, kind, subject, at)).await?;
            (revision, since, order(bus, kind, subject, at).await?)
        }
        OrderKind::Lift => {
            leave(&mut load(bus).await?, subject)?;
            let appended = order(bus, kind, subject, at).await?;
            let (revision, since) = edit(bus, |all| leave(all, subject)).await?;
            (revision, since, appended)
        }
    };
    let in_force = async {
        if let Some(delivery) = delivery {
            delivery.suppresses(revision).await;
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
    use inflection_domain::{InstallationId, InstallationKey, PartitionCount};

    use super::*;

    fn installation() -> Installation {
        Installation {
            id: InstallationId::new("inst-1").unwrap(),
            key: InstallationKey::new([7; 32]),
            partitions: PartitionCount::new(16).unwrap(),
            schema_version: 1,
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
