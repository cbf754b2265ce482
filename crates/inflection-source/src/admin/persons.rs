//! Suppressed persons over the admin API. Ids come in and are never shown, stored or logged.

use axum::Json;
use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use inflection_delivery::{drop_letter, visit};
use inflection_domain::{
    EmailAddress, OrderKind, PersonId, Tombstone, UserId, WorkspaceId, is_blocked_user_id, is_placeholder,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Admin, Shared, now, problem, unavailable};
use crate::persons::{ChangeError, Changed, Subject, Whom, change, hold_alias, load, release_alias, tied_person};

/// Whom a request is about: exactly one of the ids.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Named {
    pub(crate) workspace: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) person_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) user_id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) email: Option<String>,
}

/// The body of a request, or why there is none.
type Body = Result<Json<Named>, JsonRejection>;

/// Why a request names nobody; never with the id in it.
fn unclear(code: &str, message: &str) -> Box<Response> {
    Box::new(problem(StatusCode::UNPROCESSABLE_ENTITY, code, message))
}

impl Named {
    fn whom(&self) -> Result<Whom, Box<Response>> {
        match (&self.person_id, &self.user_id, &self.email) {
            (Some(id), None, None) => match PersonId::new(id.as_str()) {
                Ok(id) if !is_placeholder(id.as_str()) => Ok(Whom::Person(id)),
                _ => Err(unclear("bad_id", "person_id is no id of a person")),
            },
            (None, Some(id), None) => match UserId::new(id.as_str()) {
                Ok(id) if !is_blocked_user_id(id.as_str()) => Ok(Whom::User(id)),
                _ => Err(unclear("bad_id", "user_id is no id of a user")),
            },
            (None, None, Some(email)) => EmailAddress::new(email)
                .map(Whom::Address)
                .map_err(|error| unclear("bad_email", &format!("email {error}"))),
            _ => Err(unclear("missing_field", "give one of person_id, user_id and email")),
        }
    }

    /// Whom it is about, in a workspace that there is: a slip in its name would suppress nobody. Of an address that is two
    /// persons, if an identify has tied it to one: that one, and first the one derived from it, whose events were those
    /// before.
    async fn subjects(&self, admin: &Admin, order: OrderKind) -> Result<Subjects, Box<Response>> {
        let whom = self.whom()?;
        let workspaces = admin.directory.current();
        let found = workspaces.iter().find(|workspace| workspace.id.as_str() == self.workspace);
        let Some(workspace) = found.map(|workspace| &workspace.id) else {
            return Err(Box::new(problem(StatusCode::NOT_FOUND, "not_found", "there is no workspace of this id")));
        };
        let subject = |whom: &Whom| Subject::new(&admin.installation, workspace, whom);
        let Whom::Address(address) = &whom else {
            return Ok(Subjects { subject: subject(&whom), tied: None, derived: None });
        };
        let derived = PersonId::from_address(&admin.installation.key, workspace, address);
        let tied = match order {
            OrderKind::Suppress | OrderKind::Erase => hold_alias(&admin.bus, &derived).await,
            OrderKind::Lift => tied_person(&admin.bus, &derived).await,
        };
        let tied = tied.map_err(|error| Box::new(unavailable(&error)))?;
        let tied = tied.map(|person| subject(&Whom::Person(person)));
        Ok(Subjects { subject: subject(&whom), tied, derived: Some(derived) })
    }
}

/// Whom an order is about.
struct Subjects {
    subject: Subject,
    /// The person that the address is tied to, of an order about an address.
    tied: Option<Subject>,
    /// The person derived from the address.
    derived: Option<PersonId>,
}

fn kind(user: bool) -> &'static str {
    if user { "user" } else { "person" }
}

/// `GET /v1/persons`.
pub(super) async fn list(State(admin): Shared) -> Response {
    let all = match load(&admin.bus).await {
        Ok(all) => all,
        Err(error) => return unavailable(&error),
    };
    let of = |(workspace, persons): (&WorkspaceId, &std::collections::BTreeMap<Tombstone, _>)| {
        let view = |(tombstone, person): (&Tombstone, &inflection_wire::SuppressedPerson)| {
            json!({
                "workspace": workspace.as_str(),
                "key": tombstone.to_string(),
                "kind": kind(person.user),
                "since": person.at.to_string(),
                "erased": person.erased,
            })
        };
        persons.iter().map(view).collect::<Vec<Value>>()
    };
    let persons: Vec<Value> = all.workspaces.iter().flat_map(of).collect();
    Json(json!({ "persons": persons, "total": all.count(), "most": Tombstone::COUNT_MAX })).into_response()
}

/// `POST /v1/persons/suppress`.
pub(super) async fn suppress(admin: Shared, named: Body) -> Response {
    told(admin, named, OrderKind::Suppress, "suppressed").await
}

/// `POST /v1/persons/lift`.
pub(super) async fn lift(admin: Shared, named: Body) -> Response {
    told(admin, named, OrderKind::Lift, "lifted").await
}

/// `POST /v1/persons/erase`.
pub(super) async fn erase(admin: Shared, named: Body) -> Response {
    told(admin, named, OrderKind::Erase, "erased").await
}

async fn told(State(admin): Shared, named: Body, order: OrderKind, done: &'static str) -> Response {
    // What is wrong with a body would be told with what stands in it.
    let subject = named.map_err(|_rejection| unclear("bad_request", "the body is no request about a person"));
    let subjects = match subject {
        Ok(Json(named)) => named.subjects(&admin, order).await,
        Err(answer) => Err(answer),
    };
    let subjects = match subjects {
        Ok(subjects) => subjects,
        Err(answer) => return *answer,
    };
    match obey(&admin, order, &subjects, done).await {
        Ok(view) => Json(view).into_response(),
        Err(error) => refused(error),
    }
}

/// Does what an order says. An address that is tied to nobody for the sake of its suppressed person may be tied again once that
/// one is suppressed no more, and not a moment earlier: or when it could not be suppressed.
async fn obey(admin: &Admin, order: OrderKind, subjects: &Subjects, done: &str) -> Result<Value, ChangeError> {
    let outcome = tell_all(admin, order, subjects, done).await;
    let is_free = match order {
        OrderKind::Lift => matches!(outcome, Ok(_) | Err(ChangeError::NotSuppressed)),
        OrderKind::Suppress | OrderKind::Erase => matches!(outcome, Err(ChangeError::Full)),
    };
    if let Some(derived) = subjects.derived.as_ref().filter(|_| is_free) {
        release_alias(&admin.bus, derived).await?;
    }
    outcome
}

async fn tell_all(admin: &Admin, order: OrderKind, subjects: &Subjects, done: &str) -> Result<Value, ChangeError> {
    let Subjects { subject, tied, .. } = subjects;
    let also = match tied {
        Some(tied) => match tell(admin, order, tied, done).await {
            Ok(told) => Some(told),
            // Then the address's own person may be.
            Err(ChangeError::NotSuppressed) => None,
            Err(error) => return Err(error),
        },
        None => None,
    };
    let told = match (tell(admin, order, subject, done).await, &also) {
        (Ok(told), _) => told,
        // The address was tied when its person was suppressed by its own id.
        (Err(ChangeError::NotSuppressed), Some(also)) => *also,
        (Err(error), _) => return Err(error),
    };
    let tied = tied.as_ref().filter(|_| also.is_some());
    Ok(view(subject, told, tied.zip(also), done))
}

/// What came of an order about one person.
#[derive(Debug, Clone, Copy)]
struct Told {
    changed: Changed,
    dropped: Option<usize>,
}

async fn tell(admin: &Admin, order: OrderKind, subject: &Subject, done: &str) -> Result<Told, ChangeError> {
    let changed = change(&admin.bus, admin.delivery.as_ref(), order, subject, now()).await?;
    tracing::info!(workspace = %subject.workspace, key = %subject.tombstone, kind = kind(subject.user), done,
        in_force = changed.in_force, "an operator has spoken about a person");
    let dropped = match order {
        OrderKind::Erase => Some(drop_letters(admin, subject).await?),
        OrderKind::Suppress | OrderKind::Lift => None,
    };
    Ok(Told { changed, dropped })
}

/// The answer: `also` is the person that an address is tied to.
fn view(subject: &Subject, told: Told, also: Option<(&Subject, Told)>, done: &str) -> Value {
    let in_force = told.changed.in_force && also.is_none_or(|(_, told)| told.changed.in_force);
    let mut view = json!({
        "workspace": subject.workspace.as_str(),
        "key": subject.tombstone.to_string(),
        "kind": kind(subject.user),
        "since": told.changed.since.to_string(),
        "state": done,
        "in_force": in_force,
    });
    if let Some(members) = view.as_object_mut() {
        if let Some((tied, _)) = also {
            members.insert("also".into(), tied.tombstone.to_string().into());
        }
        if let Some(dropped) = told.dropped {
            let more = also.and_then(|(_, told)| told.dropped).unwrap_or(0);
            members.insert("dead_letters_dropped".into(), (dropped + more).into());
        }
    }
    view
}

/// Takes the person's dead letters out for good.
async fn drop_letters(admin: &Admin, subject: &Subject) -> anyhow::Result<usize> {
    let (alone, mut dropped) = (subject.alone(&admin.installation), 0);
    let connections = admin.connections();
    for (workspace, connection) in connections.iter().filter(|(workspace, _)| *workspace == subject.workspace) {
        let mut own = Vec::new();
        let visited = visit(&admin.bus, workspace, connection, |stored| {
            if alone.covers_letter(&stored.letter) {
                own.push(stored.letter.message_id);
            }
        });
        visited.await?;
        for message_id in &own {
            drop_letter(&admin.bus, workspace, connection, message_id).await?;
        }
        dropped += own.len();
    }
    Ok(dropped)
}

fn refused(error: ChangeError) -> Response {
    match error {
        ChangeError::Full => problem(StatusCode::CONFLICT, "too_many_suppressed", &error.to_string()),
        ChangeError::NotSuppressed => problem(StatusCode::NOT_FOUND, "not_found", &error.to_string()),
        ChangeError::Failed(error) => unavailable(&error),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::future::poll_fn;
    use std::pin::pin;
    use std::sync::Arc;
    use std::task::Poll;

    use inflection_bus::{Bus, EmbeddedConfig, Expected};
    use inflection_control::{Directory, InstallationSettings};
    use inflection_domain::PartitionCount;
    use inflection_wire::{SuppressedPerson, SuppressedPersons, alias_record};

    use super::*;
    use crate::admin::{Readiness, WrongKeys};
    use crate::ledger::Bookkeeper;

    async fn admin(folder: &tempfile::TempDir) -> Admin {
        let bus = Bus::open_embedded(EmbeddedConfig::new(folder.path().to_owned())).await.unwrap();
        let partitions = PartitionCount::new(1).unwrap();
        let settings = InstallationSettings::default();
        Admin {
            installation: crate::install::load(&bus, &settings, Some(partitions)).await.unwrap(),
            delivery: None,
            books: Arc::new(tokio::sync::Mutex::new(Bookkeeper::new(bus.clone(), partitions))),
            bus,
            directory: Directory::new(Vec::new()).1,
            registry: inflection_telemetry::Registry::default(),
            readiness: Arc::new(Readiness::default()),
            state_budget: None,
            takes_events: false,
            keys: super::super::Keys::default(),
            wrong_keys: WrongKeys::default(),
        }
    }

    /// An address that is tied to nobody, and may not be.
    async fn withheld(admin: &Admin) -> Subjects {
        let (workspace, address) = (WorkspaceId::new("acme").unwrap(), EmailAddress::new("ann@example.com").unwrap());
        let derived = PersonId::from_address(&admin.installation.key, &workspace, &address);
        assert_eq!(hold_alias(&admin.bus, &derived).await.unwrap(), None);
        let subject = Subject::new(&admin.installation, &workspace, &Whom::Address(address));
        Subjects { subject, tied: None, derived: Some(derived) }
    }

    async fn is_withheld(admin: &Admin, subjects: &Subjects) -> bool {
        let record = alias_record(subjects.derived.as_ref().unwrap());
        admin.bus.get_record(&record).await.unwrap().is_some()
    }

    async fn store(admin: &Admin, workspace: &WorkspaceId, persons: impl IntoIterator<Item = Tombstone>) {
        let person = SuppressedPerson { user: false, at: now(), erased: false };
        let persons: BTreeMap<_, _> = persons.into_iter().map(|tombstone| (tombstone, person)).collect();
        let all = SuppressedPersons { workspaces: [(workspace.clone(), persons)].into() };
        admin.bus.put_record(SuppressedPersons::RECORD, Expected::Anything, all.encode()).await.unwrap();
    }

    /// An identify that came in between would tie it, and what comes then would not be dropped.
    #[tokio::test]
    async fn an_address_may_be_tied_again_only_when_its_person_is_let_in() {
        let folder = tempfile::tempdir().unwrap();
        let admin = admin(&folder).await;
        let subjects = withheld(&admin).await;
        store(&admin, &subjects.subject.workspace, [subjects.subject.tombstone]).await;
        {
            // Identity does not run: that it has taken the order is waited for.
            let mut lift = pin!(obey(&admin, OrderKind::Lift, &subjects, "lifted"));
            while load(&admin.bus).await.unwrap().count() > 0 {
                assert!(is_withheld(&admin, &subjects).await, "before the lift is stored");
                let waits = poll_fn(|context| Poll::Ready(lift.as_mut().poll(context).is_pending()));
                assert!(waits.await);
                tokio::task::yield_now().await;
            }
        }
        // The one who lifted has died then; who says it again makes it whole.
        assert!(is_withheld(&admin, &subjects).await);
        let again = obey(&admin, OrderKind::Lift, &subjects, "lifted").await;
        assert!(matches!(again, Err(ChangeError::NotSuppressed)), "{again:?}");
        assert!(!is_withheld(&admin, &subjects).await);
    }

    #[tokio::test]
    async fn an_address_that_could_not_be_suppressed_may_be_tied() {
        let folder = tempfile::tempdir().unwrap();
        let admin = admin(&folder).await;
        let subjects = withheld(&admin).await;
        let workspace = &subjects.subject.workspace;
        let others = (0..Tombstone::COUNT_MAX).map(|number| {
            let user = UserId::new(number.to_string()).unwrap();
            Tombstone::of_user(&admin.installation.key, workspace, &user)
        });
        store(&admin, workspace, others).await;
        let refused = obey(&admin, OrderKind::Suppress, &subjects, "suppressed").await;
        assert!(matches!(refused, Err(ChangeError::Full)), "{refused:?}");
        assert!(!is_withheld(&admin, &subjects).await);
    }

    #[test]
    fn exactly_one_id_names_somebody() {
        let named = |person: Option<&str>, user: Option<&str>, email: Option<&str>| Named {
            workspace: "acme".to_owned(),
            person_id: person.map(str::to_owned),
            user_id: user.map(str::to_owned),
            email: email.map(str::to_owned),
        };
        for good in [named(Some("p"), None, None), named(None, Some("u"), None), named(None, None, Some("a@b.c"))] {
            assert!(good.whom().is_ok());
        }
        for bad in [
            named(None, None, None),
            named(Some("p"), Some("u"), None),
            named(Some("p"), None, Some("a@b.c")),
            named(Some(""), None, None),
            named(Some("null"), None, None),
            named(None, Some("anonymous"), None),
            named(None, Some("0"), None),
            named(None, None, Some("a")),
        ] {
            assert_eq!(bad.whom().unwrap_err().status(), StatusCode::UNPROCESSABLE_ENTITY);
        }
    }
}
