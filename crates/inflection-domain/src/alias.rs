//! Whose an address is, as explicit identifies have said: so that facts with nothing but the address reach that person.
//!
//! The rule. An identify with the sender's own `person_id` and a personal address ties the address to that person, and **the
//! first one stays**: mail that was opened before a change would be counted a second time after it. Another person of the
//! *same* user changes nothing. Another person of another user, or of a user that is not known, makes the address **shared**,
//! for good: so does another user of the same person. A shared address is nobody's, and what comes with nothing but it is of
//! the person derived from it, as if nothing had ever been said. So is what comes to an address of a role (`info@`).
//!
//! Addresses are looked up for those only who name nobody else: a fact that claims a user as well follows an alias when the
//! identifies claimed the same one. An address is therefore never evidence of a user.

use crate::{EmailAddress, Fact, FactKind, Hash128, Head, InstallationKey, PersonId, UserId, WorkspaceId};

/// What is known of an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Alias {
    /// It is this person's.
    Person {
        /// The person.
        person: PersonId,
        /// The user that its identifies have claimed: a keyed hash.
        user: Option<Hash128>,
    },
    /// It is nobody's: several have claimed it.
    Shared,
    /// It stays with the person derived from it, because an operator has suppressed that one.
    Withheld,
}

/// What a fact has to do with the alias of its address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AliasUse {
    /// The person derived from the address: under it the alias is kept.
    pub derived: PersonId,
    /// Whether the fact says whose the address is. If not, it goes where the alias says.
    pub ties: bool,
    /// The user that the fact claims: a keyed hash.
    pub user: Option<Hash128>,
}

impl Alias {
    /// What is known once an explicit identify has claimed the address; `None` when that changes nothing.
    #[must_use]
    pub fn claimed(known: Option<&Self>, person: &PersonId, user: Option<Hash128>) -> Option<Self> {
        let tied = |user| Self::Person { person: person.clone(), user };
        let Some(known) = known else { return Some(tied(user)) };
        let Self::Person { person: first, user: before } = known else { return None };
        match (first == person, *before, user) {
            (_, Some(before), Some(user)) if before == user => None,
            (true, None, Some(user)) => Some(tied(Some(user))),
            (true, _, None) => None,
            (true, Some(_), Some(_)) | (false, _, _) => Some(Self::Shared),
        }
    }

    /// The person of a fact that has only the address, and perhaps claims a user.
    #[must_use]
    pub fn person_for(&self, claimed: Option<Hash128>) -> Option<&PersonId> {
        match self {
            Self::Person { person, user } if claimed.is_none() || claimed == *user => Some(person),
            Self::Person { .. } | Self::Shared | Self::Withheld => None,
        }
    }

    /// What a user is known by here.
    #[must_use]
    pub fn user(key: &InstallationKey, workspace: &WorkspaceId, user: &UserId) -> Hash128 {
        let parts = [workspace.as_str().as_bytes(), user.as_str().as_bytes()];
        Hash128::keyed(key.expose(), "user of an alias", &parts)
    }
}

impl AliasUse {
    /// What a checked fact has to do with an alias: most have nothing, and cost a glance.
    #[must_use]
    pub fn of(fact: &Fact<'_>, key: &InstallationKey) -> Option<Self> {
        let (head, body) = (&fact.head, &fact.body);
        let email = body.email.as_ref()?;
        let may_tie = head.kind == FactKind::Identify;
        if !may_tie && !body.person.may_be_derived() {
            return None;
        }
        let workspace = &head.workspace;
        let derived = PersonId::from_address(key, workspace, email);
        let follows = body.person == derived;
        let ties = !follows && may_tie && ties(&body.person, head.user.as_ref(), email, key, workspace);
        if !follows && !ties {
            return None;
        }
        let user = head.user.as_ref().map(|user| Alias::user(key, workspace, user));
        Some(Self { derived, ties, user })
    }
}

/// Whether an identify of this person says whose the address is: not of a mailbox that several read, and not of a person
/// that was derived because the sender named none.
fn ties(
    person: &PersonId,
    user: Option<&UserId>,
    email: &EmailAddress,
    key: &InstallationKey,
    workspace: &WorkspaceId,
) -> bool {
    let of_user =
        || person.may_be_derived() && user.is_some_and(|user| *person == PersonId::from_user(key, workspace, user));
    !email.is_role() && !of_user()
}

impl Fact<'_> {
    /// Makes it a fact of the person that its address is tied to. Its id stays: a repeat that came before the alias has it too.
    pub fn follow_address(&mut self, person: &PersonId) {
        let (head, body) = (&mut self.head, &mut self.body);
        head.person = Head::person_key(&head.workspace, person);
        head.mail = body.mail(head.person);
        body.person = person.clone();
        body.routed_by_address = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Body, BounceClass, EventId, LinkKind, Timestamp};

    const KEY: InstallationKey = InstallationKey::new([7; 32]);

    fn person(id: &str) -> PersonId {
        PersonId::new(id).unwrap()
    }

    fn user(id: &str) -> Hash128 {
        Alias::user(&KEY, &workspace(), &UserId::new(id).unwrap())
    }

    fn workspace() -> WorkspaceId {
        WorkspaceId::new("acme").unwrap()
    }

    /// Plays identifies, `P=u` or `P`, one after the other; tells what is known then: `P=u`, `P`, `shared` or nothing.
    fn known_after(identifies: &str) -> String {
        let mut known: Option<Alias> = None;
        for identify in identifies.split_whitespace() {
            let (of, claims) = identify.split_once('=').map_or((identify, None), |(of, user)| (of, Some(user)));
            known = Alias::claimed(known.as_ref(), &person(of), claims.map(user)).or(known);
        }
        match known {
            None => String::new(),
            Some(Alias::Person { person, user: claimed }) => {
                let claims = ["u", "v"].into_iter().find(|name| Some(user(name)) == claimed);
                format!("{}{}", person.as_str(), claims.map(|user| format!("={user}")).unwrap_or_default())
            }
            Some(Alias::Shared) => "shared".to_owned(),
            Some(Alias::Withheld) => "withheld".to_owned(),
        }
    }

    #[test]
    fn the_first_person_stays_and_who_disagrees_makes_it_shared() {
        for (identifies, known) in [
            ("", ""),
            ("P", "P"),
            ("P=u", "P=u"),
            ("P P", "P"),
            ("P P=u", "P=u"),
            ("P=u P", "P=u"),
            ("P=u P=u", "P=u"),
            // A second person of the same user: what was counted stays counted.
            ("P=u Q=u", "P=u"),
            ("P P=u Q=u", "P=u"),
            ("P=u Q=u Q=u", "P=u"),
            // Another user, or one that nobody knows to be the same.
            ("P=u Q=v", "shared"),
            ("P=u Q", "shared"),
            ("P Q=u", "shared"),
            ("P Q", "shared"),
            ("P=u P=v", "shared"),
            // For good.
            ("P=u Q=v P=u", "shared"),
            ("P Q P P", "shared"),
        ] {
            assert_eq!(known_after(identifies), known, "{identifies}");
        }
        assert_eq!(Alias::claimed(Some(&Alias::Withheld), &person("P"), Some(user("u"))), None);
    }

    #[test]
    fn who_claims_a_user_follows_only_to_the_same() {
        let of = |user| Alias::Person { person: person("P"), user };
        for (alias, claimed, follows) in [
            (of(None), None, true),
            (of(Some(user("u"))), None, true),
            (of(Some(user("u"))), Some(user("u")), true),
            (of(Some(user("u"))), Some(user("v")), false),
            (of(None), Some(user("u")), false),
            (Alias::Shared, None, false),
            (Alias::Withheld, None, false),
        ] {
            assert_eq!(alias.person_for(claimed), follows.then_some(&person("P")), "{alias:?} {claimed:?}");
        }
    }

    fn fact(kind: FactKind, of: &PersonId, claims: Option<&str>, email: Option<&str>) -> Fact<'static> {
        let key = Head::person_key(&workspace(), of);
        let event = EventId::new("e").unwrap();
        let head = Head {
            workspace: workspace(),
            kind,
            event: Head::event_key(&workspace(), &event),
            person: key,
            user: claims.map(|user| UserId::new(user).unwrap()),
            occurred_at: Timestamp::from_ms(1),
            mail: crate::MailRef::new(key, Some("run"), None, None),
            link: None,
            link_kind: LinkKind::Content,
            machine: crate::MachineCheck::default(),
            bounce_class: BounceClass::default(),
            scope: 0,
            has_traits: false,
        };
        let email = email.map(|email| EmailAddress::new(email).unwrap());
        Fact { head, body: Body { email, campaign_run_id: Some("run".into()), ..Body::new(event, of.clone()) } }
    }

    #[test]
    fn only_explicit_identifies_tie_and_only_bare_addresses_follow() {
        use FactKind::{EmailOpened, Group, Identify};
        let ann = "Ann@Example.com";
        let derived = PersonId::from_address(&KEY, &workspace(), &EmailAddress::new(ann).unwrap());
        let of_user = PersonId::from_user(&KEY, &workspace(), &UserId::new("u").unwrap());
        let own = person("per_1");
        let alike = person("per_aaaaaaaaaaaaaaaaaaaaaaaaaa");
        for (kind, of, claims, email, ties) in [
            (Identify, &own, None, Some(ann), Some(true)),
            (Identify, &own, Some("u"), Some("ann@example.COM"), Some(true)),
            (Identify, &alike, Some("u"), Some(ann), Some(true)),
            (Identify, &own, Some("u"), None, None),
            (Identify, &own, Some("u"), Some("info@example.com"), None),
            (Identify, &of_user, Some("u"), Some(ann), None),
            (Identify, &derived, Some("u"), Some(ann), Some(false)),
            (EmailOpened, &derived, None, Some(ann), Some(false)),
            (Group, &derived, None, Some(ann), Some(false)),
            (EmailOpened, &own, None, Some(ann), None),
            (EmailOpened, &alike, None, Some(ann), None),
            (EmailOpened, &of_user, Some("u"), Some(ann), None),
            (EmailOpened, &derived, None, None, None),
        ] {
            let found = AliasUse::of(&fact(kind, of, claims, email), &KEY);
            let expected = ties.map(|ties| AliasUse { derived: derived.clone(), ties, user: claims.map(user) });
            assert_eq!(found, expected, "{kind:?} {email:?}");
        }
    }

    #[test]
    fn what_follows_is_wholly_the_other_persons_and_keeps_its_id() {
        let derived = PersonId::from_address(&KEY, &workspace(), &EmailAddress::new("ann@example.com").unwrap());
        let mut followed = fact(FactKind::EmailOpened, &derived, None, Some("ann@example.com"));
        followed.follow_address(&person("P"));
        let mut direct = fact(FactKind::EmailOpened, &person("P"), None, Some("ann@example.com"));
        assert!(!direct.body.routed_by_address);
        direct.body.routed_by_address = true;
        assert_eq!(followed, direct);
    }
}
