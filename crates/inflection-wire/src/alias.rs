//! Whose an address is: a keyed record each.

use bytes::Bytes;
use inflection_domain::{Alias, PersonId};
use prost::Message as _;

use crate::{DecodeError, key_bytes, optional_key, pb};

/// Begins the keys of aliases.
pub const ALIAS_RECORDS: &str = "alias";
/// The record that is there as soon as there may be an alias.
pub const ALIASES_BEGUN_RECORD: &str = "aliases.begun";

/// The key of the alias of an address, by the person derived from it.
#[must_use]
pub fn alias_record(derived: &PersonId) -> String {
    format!("{ALIAS_RECORDS}.{}", derived.as_str())
}

/// Writes an alias.
#[must_use]
pub fn encode_alias(alias: &Alias) -> Bytes {
    let state = match alias {
        Alias::Person { person, user } => pb::address_alias::State::Person(pb::AliasedPerson {
            person_id: person.as_str().to_owned(),
            user: key_bytes(*user),
        }),
        Alias::Shared => pb::address_alias::State::Shared(true),
        Alias::Withheld => pb::address_alias::State::Withheld(true),
    };
    pb::AddressAlias { state: Some(state) }.encode_to_vec().into()
}

/// Reads an alias.
///
/// # Errors
/// [`DecodeError`] when it is none.
pub fn decode_alias(bytes: &[u8]) -> Result<Alias, DecodeError> {
    match pb::AddressAlias::decode(bytes)?.state {
        Some(pb::address_alias::State::Person(person)) => Ok(Alias::Person {
            user: optional_key("user", &person.user)?,
            person: PersonId::new(person.person_id).ok().ok_or(DecodeError::Field("person_id"))?,
        }),
        Some(pb::address_alias::State::Shared(_)) => Ok(Alias::Shared),
        Some(pb::address_alias::State::Withheld(_)) => Ok(Alias::Withheld),
        None => Err(DecodeError::Field("state")),
    }
}

#[cfg(test)]
mod tests {
    use inflection_domain::Hash128;

    use super::*;

    #[test]
    fn aliases_survive_the_wire() {
        let person = PersonId::new("p 1").unwrap();
        for user in [None, Some(Hash128::of("test", &[]))] {
            let alias = Alias::Person { person: person.clone(), user };
            assert_eq!(decode_alias(&encode_alias(&alias)).unwrap(), alias);
        }
        for alias in [Alias::Shared, Alias::Withheld] {
            assert_eq!(decode_alias(&encode_alias(&alias)).unwrap(), alias);
        }
        assert!(decode_alias(&[]).is_err());
        assert!(decode_alias(&[0x0a, 0]).is_err(), "nobody's alias");
    }
}
