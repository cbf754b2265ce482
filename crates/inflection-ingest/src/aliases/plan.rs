//! What becomes of a request's facts and of the aliases it names: pure.

use std::collections::{BTreeSet, HashMap, HashSet};

use inflection_bus::Expected;
use inflection_domain::{Alias, AliasUse, Fact, PersonId};

/// What was found under an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) alias: Option<Alias>,
    /// What a write that replaces it expects.
    pub(super) expected: Expected,
}

/// What is to be done.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// Which facts become whose.
    pub(super) routes: Vec<(usize, PersonId)>,
    /// Aliases that become others, in the order of their keys.
    pub(super) changes: Vec<(PersonId, Alias, Expected)>,
}

impl Plan {
    /// First all ties, in the order of the facts, then whose the others are: what is said anywhere in a request holds for all
    /// of it, so that a repeat of the request, which finds it kept, makes the same of it. `unkept` are addresses that there
    /// was no room for.
    pub(super) fn of(
        facts: &[Fact<'_>],
        uses: &[(usize, AliasUse)],
        found: &HashMap<PersonId, Found>,
        unkept: &HashSet<PersonId>,
    ) -> Self {
        let mut now: HashMap<&PersonId, Alias> =
            found.iter().filter_map(|(derived, found)| Some((derived, found.alias.clone()?))).collect();
        let mut changed = BTreeSet::new();
        for (place, alias) in uses.iter().filter(|(_, alias)| alias.ties && !unkept.contains(&alias.derived)) {
            if let Some(fact) = facts.get(*place)
                && let Some(next) = Alias::claimed(now.get(&alias.derived), &fact.body.person, alias.user)
            {
                now.insert(&alias.derived, next);
                changed.insert(&alias.derived);
            }
        }
        let route = |(place, alias): &(usize, AliasUse)| {
            let person = now.get(&alias.derived)?.person_for(alias.user)?;
            Some((*place, person.clone()))
        };
        let routes = uses.iter().filter(|(_, alias)| !alias.ties).filter_map(route).collect();
        let change = |derived: &PersonId| {
            let expected = found.get(derived).map_or(Expected::Absent, |found| found.expected);
            Some((derived.clone(), now.get(derived)?.clone(), expected))
        };
        Self { routes, changes: changed.into_iter().filter_map(change).collect() }
    }
}
