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
use crate::persons::{ChangeError, Changed, Subject, Whom, change, load};

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

    /// Whom it is about, in a workspace that there is: a slip in its name would suppress nobody.
    fn subject(&self, admin: &Admin) -> Result<Subject, Box<Response>> {
        let whom = self.whom()?;
        let workspaces = admin.directory.current();
        let found = workspaces.iter().find(|workspace| workspace.id.as_str() == self.workspace);
        match found {
            Some(workspace) => Ok(Subject::new(&admin.installation, &workspace.id, &whom)),
            None => Err(Box::new(problem(StatusCode::NOT_FOUND, "not_found", "there is no workspace of this id"))),
        }
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
    let subject = match subject.and_then(|Json(named)| named.subject(&admin)) {
        Ok(subject) => subject,
        Err(answer) => return *answer,
    };
    let changed = match change(&admin.bus, admin.delivery.as_ref(), order, &subject, now()).await {
        Ok(changed) => changed,
        Err(error) => return refused(error),
    };
    tracing::info!(workspace = %subject.workspace, key = %subject.tombstone, kind = kind(subject.user), done,
        in_force = changed.in_force, "an operator has spoken about a person");
    let dropped = match order {
        OrderKind::Erase => match drop_letters(&admin, &subject).await {
            Ok(dropped) => Some(dropped),
            Err(error) => return unavailable(&error),
        },
        OrderKind::Suppress | OrderKind::Lift => None,
    };
    Json(view(&subject, changed, done, dropped)).into_response()
}

fn view(subject: &Subject, Changed { since, in_force }: Changed, done: &str, dropped: Option<usize>) -> Value {
    let mut view = json!({
        "workspace": subject.workspace.as_str(),
        "key": subject.tombstone.to_string(),
        "kind": kind(subject.user),
        "since": since.to_string(),
        "state": done,
        "in_force": in_force,
    });
    if let (Some(dropped), Some(members)) = (dropped, view.as_object_mut()) {
        members.insert("dead_letters_dropped".into(), dropped.into());
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
