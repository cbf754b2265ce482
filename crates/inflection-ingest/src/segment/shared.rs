//! What stands around the items of a batch for all of them, and what an item says together with it.

use std::borrow::Cow;

use inflection_domain::members::{self, Member};

use crate::json::Value;

/// Members that an envelope has for each of its items.
#[derive(Debug, Default)]
pub(super) struct Shared<'a> {
    written: &'a str,
    members: Vec<Member<'a>>,
}

impl<'a> Shared<'a> {
    /// Members of an object without its braces.
    pub(super) fn of(written: &'a str) -> Self {
        Self { written, members: members::of(written).collect() }
    }

    /// What is added to an item at most: the members and a comma.
    pub(super) fn bytes(&self) -> usize {
        if self.written.is_empty() { 0 } else { self.written.len() + 1 }
    }
}

/// The members of an object; what is no object says nothing.
pub(super) fn members_of<'a>(value: &Value<'a>) -> &'a str {
    match value {
        Value::Object { members, .. } => members,
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Text(_) | Value::Array => "",
    }
}

/// An object of an item together with what the envelope has for it. A member of the item's own wins, as a whole.
#[derive(Debug, Clone, Copy)]
pub(super) struct Merged<'e, 'a> {
    own: &'a str,
    shared: &'e Shared<'a>,
}

impl<'e, 'a> Merged<'e, 'a> {
    /// `own` are the members of the item's object without its braces.
    pub(super) fn of(own: &'a str, shared: &'e Shared<'a>) -> Self {
        Self { own, shared }
    }

    /// The value of a member, as written.
    pub(super) fn get(self, key: &str) -> Option<&'a str> {
        let shared = || self.shared.members.iter().find(|member| member.key == key).map(|member| member.value);
        members::value(self.own, key).or_else(shared)
    }

    /// All members. Nothing is copied unless both sides have some.
    pub(super) fn written(self) -> Cow<'a, str> {
        if self.own.is_empty() {
            return Cow::Borrowed(self.shared.written);
        }
        if self.shared.members.is_empty() {
            return Cow::Borrowed(self.own);
        }
        let mut text = String::with_capacity(self.own.len() + self.shared.bytes());
        text.push_str(self.own);
        let own = members::of(self.own).map(|member| member.key).collect();
        for member in missing(own, &self.shared.members, |member| Cow::Borrowed(&*member.key)) {
            text.push(',');
            text.push_str(member.written);
        }
        Cow::Owned(text)
    }
}

/// Those of `shared` whose key is not among `own`. Sorted once and then searched: senders choose both, and comparing each
/// with each would let them choose a product.
fn missing<'s, K: Ord, M>(mut own: Vec<K>, shared: &'s [M], key: impl Fn(&'s M) -> K) -> impl Iterator<Item = &'s M> {
    own.sort_unstable();
    shared.iter().filter(move |member| own.binary_search(&key(member)).is_err())
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::cmp::Ordering;

    use super::*;

    #[test]
    fn an_items_own_members_win() {
        for (own, shared, merged) in [
            ("", "", ""),
            (r#""a":1"#, "", r#""a":1"#),
            ("", r#""a" : 1"#, r#""a" : 1"#),
            (r#""a":1,"b":2"#, r#""b":3,"c":{"d":4}"#, r#""a":1,"b":2,"c":{"d":4}"#),
            (r#""\u0061":1"#, r#""a":2"#, r#""\u0061":1"#),
            (r#""a":1"#, r#""\u0061":2,"b":3"#, r#""a":1,"b":3"#),
            (r#""a":{"b":1}"#, r#""a":{"c":2}"#, r#""a":{"b":1}"#),
        ] {
            let shared = Shared::of(shared);
            let both = Merged::of(own, &shared);
            assert_eq!(both.written(), merged, "{own} and {shared:?}");
            for key in ["a", "b", "c", "d"] {
                assert_eq!(both.get(key), members::value(merged, key), "{key} of {merged}");
            }
        }
    }

    #[test]
    fn nothing_is_copied_for_an_item_without_members_of_its_own() {
        let shared = Shared::of(r#""a":1"#);
        assert!(matches!(Merged::of("", &shared).written(), Cow::Borrowed(_)));
    }

    /// A number that counts how often it is compared.
    #[derive(Debug)]
    struct Counted<'c>(usize, &'c Cell<usize>);

    impl PartialEq for Counted<'_> {
        fn eq(&self, other: &Self) -> bool {
            self.cmp(other) == Ordering::Equal
        }
    }

    impl Eq for Counted<'_> {}

    impl PartialOrd for Counted<'_> {
        fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
            Some(self.cmp(other))
        }
    }

    impl Ord for Counted<'_> {
        fn cmp(&self, other: &Self) -> Ordering {
            self.1.set(self.1.get() + 1);
            self.0.cmp(&other.0)
        }
    }

    #[test]
    fn comparisons_do_not_multiply() {
        let compared = Cell::new(0);
        for (own_keys, shared_keys) in [(0, 4_000), (4_000, 0), (4_000, 4_000), (16, 4_000), (4_000, 16)] {
            compared.set(0);
            // Scattered, so that nothing is in order already; every second one is on both sides.
            let scattered = |index: usize| index * 7919 % 8_009;
            let own = (0..own_keys).map(|index| Counted(scattered(index), &compared)).collect();
            let shared: Vec<usize> = (0..shared_keys).map(|index| scattered(index / 2 + index % 2 * 4_004)).collect();
            let found = missing(own, &shared, |number| Counted(*number, &compared)).count();
            assert!(found <= shared_keys && found >= shared_keys.saturating_sub(own_keys));
            // A sort and as many searches, of at most 12 steps each.
            let most = 20 * (own_keys + shared_keys);
            assert!(compared.get() <= most, "{} comparisons of {own_keys} and {shared_keys} keys", compared.get());
        }
    }
}
