//! Whose calls are not sent: the record of suppressed persons, as those see it who send.
//!
//! When nobody is suppressed in a workspace there is nothing to ask. Else a call is known by the key of its person, which
//! it carries, and by the user it names.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use inflection_bus::Bus;
use inflection_domain::{Hash128, Head, InstallationKey, PersonId, Tombstone, UserId, WorkspaceId};
use inflection_wire::{DeadLetter, SuppressedPersons};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use crate::dispatcher::Item;
use crate::translate::ids;

/// How long a process on a shared bus sends by the record as it has read it. A change of the record is in force everywhere
/// when it is this old: also where the process was stopped, or hears nothing, since before.
pub const SUPPRESSION_LEASE: Duration = Duration::from_secs(3);
/// How often the record is read anew. Changes come sooner, by a watch.
const RENEW_EVERY: Duration = Duration::from_secs(1);

/// The suppressed persons and users of one workspace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Suppressed {
    workspace: WorkspaceId,
    key: InstallationKey,
    tombstones: BTreeSet<Tombstone>,
}

impl Suppressed {
    /// Those with these tombstones, made under `key`.
    #[must_use]
    pub fn new(workspace: WorkspaceId, key: InstallationKey, tombstones: impl IntoIterator<Item = Tombstone>) -> Self {
        Self { workspace, key, tombstones: tombstones.into_iter().collect() }
    }

    /// Whether a person is suppressed, or the user it is.
    pub(crate) fn covers(&self, person: Option<Hash128>, user: Option<&UserId>) -> bool {
        let is = |tombstone: Tombstone| self.tombstones.contains(&tombstone);
        person.is_some_and(|person| is(Tombstone::of_person(&self.key, person)))
            || user.is_some_and(|user| is(Tombstone::of_user(&self.key, &self.workspace, user)))
    }

    /// Whether a rendered call is one of theirs.
    pub(crate) fn covers_item(&self, item: &Item) -> bool {
        self.covers_rendered(item.person, item.json())
    }

    /// Whether a dead letter is one of theirs.
    #[must_use]
    pub fn covers_letter(&self, letter: &DeadLetter) -> bool {
        self.covers_rendered(letter.person, &letter.item)
    }

    /// Calls that an older version has stored carry no key: then only what their text tells is known of their person.
    fn covers_rendered(&self, person: Option<Hash128>, json: &[u8]) -> bool {
        let (user, anonymous) = ids(std::str::from_utf8(json).unwrap_or_default());
        let user = user.and_then(|user| UserId::new(user).ok());
        let told = || Some(Head::person_key(&self.workspace, &PersonId::new(anonymous?).ok()?));
        self.covers(person.or_else(told), user.as_ref())
    }
}

/// The record, by workspace.
#[derive(Debug, Default)]
pub(crate) struct Everybody {
    /// Of the record.
    revision: u64,
    by_workspace: HashMap<WorkspaceId, Arc<Suppressed>>,
}

/// How long the record may be gone by.
#[derive(Debug, Clone, Copy)]
enum Lease {
    /// Nobody else changes it.
    Forever,
    Until(Instant),
}

impl Lease {
    fn is_current(self) -> bool {
        match self {
            Self::Forever => true,
            Self::Until(until) => Instant::now() < until,
        }
    }
}

/// The record as it is now, for everybody who sends.
#[derive(Debug, Clone)]
pub(crate) struct Suppression {
    known: watch::Receiver<Arc<Everybody>>,
    lease: watch::Receiver<Lease>,
}

/// Makes a changed record known.
#[derive(Debug, Clone)]
pub(crate) struct Announcer {
    key: InstallationKey,
    told: watch::Sender<Arc<Everybody>>,
    lease: watch::Sender<Lease>,
}

/// Nobody is suppressed, until it is announced.
pub(crate) fn channel(key: InstallationKey) -> (Announcer, Suppression) {
    let (told, known) = watch::channel(Arc::default());
    let (granted, lease) = watch::channel(Lease::Forever);
    (Announcer { key, told, lease: granted }, Suppression { known, lease })
}

impl Announcer {
    /// From the moment this returns, nobody begins a request with a call of a person that the record has.
    pub(crate) fn announce(&self, record: SuppressedPersons, revision: u64) {
        let of = |(workspace, persons): (WorkspaceId, BTreeMap<Tombstone, _>)| {
            let own = Suppressed::new(workspace.clone(), self.key.clone(), persons.into_keys());
            (!own.tombstones.is_empty()).then(|| (workspace, Arc::new(own)))
        };
        let by_workspace = record.workspaces.into_iter().filter_map(of).collect();
        let everybody = Arc::new(Everybody { revision, by_workspace });
        // It is read and watched: what comes second may be the older.
        self.told.send_if_modified(|known| {
            let newer = known.revision < revision;
            if newer {
                *known = everybody;
            }
            newer
        });
    }

    /// From now on the record is gone by for as long as a lease lasts that [`Announcer::renew`] renews.
    pub(crate) fn expire(&self) {
        self.lease.send_replace(Lease::Until(Instant::now()));
    }

    /// Reads the record again and again, from where it is decided. The lease counts from before it was asked for, so that a
    /// process that was stopped meanwhile has none.
    pub(crate) async fn renew(self, bus: Bus) -> Infallible {
        loop {
            let asked = Instant::now();
            match timeout(SUPPRESSION_LEASE, bus.get_record(SuppressedPersons::RECORD)).await {
                Ok(Ok(record)) => {
                    let known = self.told.borrow().revision;
                    if let Some(record) = record.filter(|record| record.revision > known) {
                        match SuppressedPersons::decode(&record.value) {
                            Ok(persons) => self.announce(persons, record.revision),
                            Err(error) => tracing::error!(%error,
                                "the record of suppressed persons is damaged; the one before it holds"),
                        }
                    }
                    self.lease.send_replace(Lease::Until(asked + SUPPRESSION_LEASE));
                }
                Ok(Err(error)) => {
                    tracing::warn!(%error, "who is suppressed cannot be read; nothing is sent without it");
                }
                Err(_elapsed) => tracing::warn!("who is suppressed cannot be read in time; nothing is sent without it"),
            }
            sleep(RENEW_EVERY).await;
        }
    }
}

impl Everybody {
    /// Those of a workspace, if there are any.
    pub(crate) fn of(&self, workspace: &WorkspaceId) -> Option<&Arc<Suppressed>> {
        self.by_workspace.get(workspace)
    }
}

impl Suppression {
    /// The record as it is now.
    pub(crate) fn now(&self) -> Arc<Everybody> {
        Arc::clone(&self.known.borrow())
    }

    /// Those of a workspace, if there are any.
    pub(crate) fn of(&self, workspace: &WorkspaceId) -> Option<Arc<Suppressed>> {
        self.known.borrow().of(workspace).cloned()
    }

    /// Whether the record may be gone by: what somebody has changed long enough ago is in it.
    pub(crate) fn is_current(&self) -> bool {
        self.lease.borrow().is_current()
    }

    /// Waits until the record may be gone by.
    ///
    /// # Cancel safety
    /// A dropped call has changed nothing.
    pub(crate) async fn current(&self) {
        let mut lease = self.lease.clone();
        while !lease.borrow_and_update().is_current() {
            if lease.changed().await.is_err() {
                // Delivery has ended; whoever waits here is about to.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Waits until this revision of the record, or a later one, is gone by.
    pub(crate) async fn reached(&self, revision: u64) {
        let mut known = self.known.clone();
        // The other end lives as long as anybody sends.
        let _reached_or_over = known.wait_for(|everybody| everybody.revision >= revision).await;
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use inflection_bus::{EmbeddedConfig, Expected};
    use inflection_domain::{ConnectionId, Timestamp};
    use inflection_wire::SuppressedPerson;

    use super::*;

    const KEY: InstallationKey = InstallationKey::new([7; 32]);

    fn workspace() -> WorkspaceId {
        WorkspaceId::new("acme").unwrap()
    }

    fn person(id: &str) -> Hash128 {
        Head::person_key(&workspace(), &PersonId::new(id).unwrap())
    }

    fn letter(person: Option<Hash128>, item: &str) -> DeadLetter {
        DeadLetter {
            workspace: workspace(),
            connection: ConnectionId::new("prod").unwrap(),
            message_id: "infl_1".into(),
            event_id: "e".into(),
            kind: "page".into(),
            reason: "bad_request".into(),
            attempts: 1,
            last_status: 400,
            item: Bytes::copy_from_slice(item.as_bytes()),
            person,
        }
    }

    #[test]
    fn calls_are_known_by_person_and_by_user() {
        let user = UserId::new("u \"1\"").unwrap();
        let tombstones = [Tombstone::of_person(&KEY, person("p1")), Tombstone::of_user(&KEY, &workspace(), &user)];
        let suppressed = Suppressed::new(workspace(), KEY, tombstones);
        for (known, item, expected) in [
            (Some("p1"), "{}", true),
            (Some("p2"), "{}", false),
            (None, "{}", false),
            (Some("p2"), r#"{"type":"track","event":"\"userId\":\"","messageId":"m","userId":"u \"1\""}"#, true),
            (Some("p2"), r#"{"type":"track","messageId":"m","userId":"u2"}"#, false),
            // A call of an older version tells its person only where it names it.
            (None, r#"{"type":"track","messageId":"m","anonymousId":"p1"}"#, true),
            (None, r#"{"type":"track","messageId":"m","anonymousId":"p2"}"#, false),
            // What a sender wrote names nobody.
            (None, r#"{"type":"track","messageId":"m","context":{},"properties":{},"anonymousId":"p1"}"#, false),
            (Some("p2"), r#"{"type":"track","messageId":"m","context":{"userId":"u \"1\""}}"#, false),
        ] {
            assert_eq!(suppressed.covers_letter(&letter(known.map(person), item)), expected, "{known:?} {item}");
        }
        let other = Suppressed::new(WorkspaceId::new("globex").unwrap(), KEY, suppressed.tombstones.clone());
        assert!(!other.covers(None, Some(&user)), "another workspace's user of the same name");
    }

    #[tokio::test]
    async fn what_is_announced_is_known_at_once() {
        let (announcer, known) = channel(KEY);
        assert_eq!(known.of(&workspace()), None);
        let tombstone = Tombstone::of_person(&KEY, person("p1"));
        let entry = SuppressedPerson { user: false, at: Timestamp::default(), erased: false };
        let mut record = SuppressedPersons::default();
        record.workspaces.entry(workspace()).or_default().insert(tombstone, entry);
        announcer.announce(record.clone(), 3);
        assert!(known.of(&workspace()).unwrap().covers(Some(person("p1")), None));
        known.reached(3).await;
        record.workspaces.get_mut(&workspace()).unwrap().clear();
        announcer.announce(record, 4);
        assert_eq!(known.of(&workspace()), None, "nobody is left");
        let mut older = SuppressedPersons::default();
        older.workspaces.entry(workspace()).or_default().insert(tombstone, entry);
        announcer.announce(older, 3);
        assert_eq!(known.of(&workspace()), None, "what comes late does not count");
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_sends_by_a_record_that_was_not_read_for_long() {
        let (announcer, known) = channel(KEY);
        assert!(known.is_current(), "nobody else is on the bus");
        announcer.expire();
        assert!(!known.is_current(), "it was never read");
        let folder = tempfile::tempdir().unwrap();
        let bus = Bus::open_embedded(EmbeddedConfig::new(folder.path().to_owned())).await.unwrap();
        let tombstone = Tombstone::of_person(&KEY, person("p1"));
        let entry = SuppressedPerson { user: false, at: Timestamp::default(), erased: false };
        let mut record = SuppressedPersons::default();
        record.workspaces.entry(workspace()).or_default().insert(tombstone, entry);
        bus.put_record(SuppressedPersons::RECORD, Expected::Absent, record.encode()).await.unwrap();
        tokio::select! {
            biased;
            _never = announcer.clone().renew(bus) => {}
            () = known.current() => {}
        }
        // Nobody watches: reading it is enough.
        assert!(known.of(&workspace()).unwrap().covers(Some(person("p1")), None));
        assert!(known.is_current());
        // The process is stopped, or hears nothing.
        tokio::time::advance(SUPPRESSION_LEASE).await;
        assert!(!known.is_current());
    }
}
