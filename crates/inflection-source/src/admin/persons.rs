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
use crate::persons::{ChangeError, Changed, Subject, Whom, change, hold_alias, load, release_alias};

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
    async fn subjects(&self, admin: &Admin, order: OrderKind) -> Result<(Subject, Option<Subject>), Box<Response>> {
        let whom = self.whom()?;
        let workspaces = admin.directory.current();
        let found = workspaces.iter().find(|workspace| workspace.id.as_str() == self.workspace);
        let Some(workspace) = found.map(|workspace| &workspace.id) else {
            return Err(Box::new(problem(StatusCode::NOT_FOUND, "not_found", "there is no workspace of this id")));
        };
        let subject = |whom: &Whom| Subject::new(&admin.installation, workspace, whom);
        let Whom::Address(address) = &whom else { return Ok((subject(&whom), None)) };
        let derived = PersonId::from_address(&admin.installation.key, workspace, address);
        let tied = match order {
            OrderKind::Suppress | OrderKind::Erase => hold_alias(&admin.bus, &derived).await,
            OrderKind::Lift => release_alias(&admin.bus, &derived).await,
        };
        let tied = tied.map_err(|error| Box::new(unavailable(&error)))?;
        Ok((subject(&whom), tied.map(|person| subject(&Whom::Person(person)))))
    }
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
    let (subject, tied) = match subjects {
        Ok(subjects) => subjects,
        Err(answer) => return *answer,
    };
    let also = match &tied {
        Some(tied) => match tell(&admin, order, tied, done).await {
            Ok(told) => Some(told),
            // Then the address's own person may be.
            Err(ChangeError::NotSuppressed) => None,
            Err(error) => return refused(error),
        },
        None => None,
    };
    let told = match (tell(&admin, order, &subject, done).await, &also) {
        (Ok(told), _) => told,
        // The address was tied when its person was suppressed by its own id.
        (Err(ChangeError::NotSuppressed), Some(also)) => *also,
        (Err(error), _) => return refused(error),
    };
    let tied = tied.filter(|_| also.is_some());
    Json(view(&subject, told, tied.as_ref().zip(also), done)).into_response()
}

/// What came of an order about one person.
#[derive(Debug, Clone, Copy)]
struct Told {
    changed: Changed,
    dropped: Option<usize>,
}

async fn tell(admin: &Admin, order: OrderKind, subject: &Subject, done: &'static str) -> Result<Told, ChangeError> {
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
    use super::*;

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
