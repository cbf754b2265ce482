//! Fields of ours in a provider's custom data.

use std::collections::BTreeMap;

use inflection_control::{Field, Webhook};
use serde_json::Value as Json;

use super::elements;
use super::values::{scalar, word};

/// How surely a name means one of our fields; the surest wins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    /// Something of the provider's own that means about the same.
    Fallback,
    /// Our name without prefix.
    Plain,
    /// Our name with prefix, or the name the configuration gives.
    Named,
}

/// The fields of ours that were found so far. Names count in any case, with `-` for `_`, and best behind `inflection_` or
/// `x-inflection-`; a field that the configuration names otherwise counts under that name only.
#[derive(Debug, Default, Clone)]
pub(crate) struct Metadata {
    renamed: BTreeMap<String, Field>,
    found: BTreeMap<Field, (Rank, String)>,
}

impl Metadata {
    pub(crate) fn of(webhook: &Webhook) -> Self {
        let renamed = webhook.fields.iter().map(|(field, name)| (name.clone(), *field)).collect();
        Self { renamed, found: BTreeMap::new() }
    }

    /// Takes one name and value, if it is a field of ours.
    pub(crate) fn add(&mut self, name: &str, value: &Json) {
        let Some((field, rank)) = self.field(name) else { return };
        // Several values of one name (Amazon's tags): the first.
        let value = value.as_array().map_or(Some(value), |values| values.first()).and_then(scalar);
        self.put(field, rank, value);
    }

    /// Takes what it knows of an object's members. What is no object has none.
    pub(crate) fn add_object(&mut self, object: Option<&Json>) {
        let members = object.and_then(Json::as_object).into_iter().flatten();
        members.for_each(|(name, value)| self.add(name, value));
    }

    /// Takes a list of `{"name":…,"value":…}`.
    pub(crate) fn add_pairs(&mut self, pairs: Option<&Json>) {
        for pair in pairs.and_then(Json::as_array).into_iter().flatten() {
            if let (Some(name), Some(value)) = (word(pair, &["name"]), pair.get("value")) {
                self.add(name, value);
            }
        }
    }

    /// Takes an object that stands in a text, as providers without structured custom data carry it: bounded like an event.
    pub(crate) fn add_json_text(&mut self, text: Option<&str>) {
        let parsed = text.and_then(|text| elements::build(text).ok());
        self.add_object(parsed.as_ref());
    }

    /// Takes a list of tags, each like `campaign_id:spring`.
    pub(crate) fn add_tags(&mut self, tags: Option<&Json>) {
        let tags = tags.and_then(Json::as_array).into_iter().flatten().filter_map(Json::as_str);
        tags.for_each(|tag| self.add_tag(tag));
    }

    /// Takes a tag like `campaign_id:spring`.
    pub(crate) fn add_tag(&mut self, tag: &str) {
        if let Some((name, value)) = tag.split_once(':') {
            self.add(name.trim(), &Json::String(value.trim().to_owned()));
        }
    }

    /// Takes a value of the provider's own that means about the same, for a sender who has given none.
    pub(crate) fn or(mut self, field: Field, value: Option<String>) -> Self {
        self.put(field, Rank::Fallback, value);
        self
    }

    /// The value of a field, once.
    pub(crate) fn take(&mut self, field: Field) -> Option<String> {
        self.found.remove(&field).map(|(_, value)| value)
    }

    fn put(&mut self, field: Field, rank: Rank, value: Option<String>) {
        let Some(value) = value.filter(|value| !value.is_empty()) else { return };
        if self.found.get(&field).is_none_or(|(before, _)| *before < rank) {
            self.found.insert(field, (rank, value));
        }
    }

    fn field(&self, name: &str) -> Option<(Field, Rank)> {
        if let Some(field) = self.renamed.get(name) {
            return Some((*field, Rank::Named));
        }
        let name = name.to_ascii_lowercase().replace('-', "_");
        let prefixed = name.strip_prefix("inflection_").or_else(|| name.strip_prefix("x_inflection_"));
        let field = Field::ALL.into_iter().find(|field| field.name() == prefixed.unwrap_or(&name))?;
        let is_renamed = self.renamed.values().any(|renamed| *renamed == field);
        (!is_renamed).then_some((field, if prefixed.is_some() { Rank::Named } else { Rank::Plain }))
    }
}

#[cfg(test)]
mod tests {
    use inflection_control::{Provider, Secret};
    use serde_json::json;

    use super::*;

    fn webhook() -> Webhook {
        Webhook::new(Provider::Sendgrid, Secret::new("token").unwrap(), Vec::new())
    }

    fn found(webhook: &Webhook, object: &Json) -> Vec<(&'static str, String)> {
        let mut metadata = Metadata::of(webhook);
        metadata.add_object(Some(object));
        Field::ALL.into_iter().filter_map(|field| Some((field.name(), metadata.take(field)?))).collect()
    }

    #[test]
    fn the_prefixed_name_wins_in_any_order() {
        let expected = [("campaign_id", "ours".to_owned())];
        assert_eq!(found(&webhook(), &json!({"campaign_id": "x", "inflection_campaign_id": "ours"})), expected);
        assert_eq!(found(&webhook(), &json!({"X-Inflection-Campaign-Id": "ours", "campaign_id": "x"})), expected);
        assert_eq!(found(&webhook(), &json!({"inflection_campaign_id": "", "CAMPAIGN_ID": "ours"})), expected);
        assert_eq!(found(&webhook(), &json!({"inflection_campaign_id": ["ours", "x"], "other": 1})), expected);
        assert_eq!(found(&webhook(), &json!({"campaign": "x", "inflection_": "x", "campaign_id": {"a": 1}})), []);
        assert_eq!(
            found(&webhook(), &json!({"person_id": 19421777396190490_u64})),
            [("person_id", "19421777396190490".to_owned())]
        );
    }

    #[test]
    fn a_renamed_field_counts_under_its_name_only() {
        let mut webhook = webhook();
        webhook.fields.insert(Field::CampaignId, "cid".to_owned());
        let object = json!({"cid": "ours", "inflection_campaign_id": "x", "person_id": "p"});
        assert_eq!(found(&webhook, &object), [("person_id", "p".to_owned()), ("campaign_id", "ours".to_owned())]);
        assert_eq!(found(&webhook, &json!({"inflection_campaign_id": "x"})), []);
    }

    #[test]
    fn texts_and_tags_are_looked_into() {
        let mut metadata = Metadata::of(&webhook()).or(Field::CampaignId, Some("fallback".to_owned()));
        metadata.add_json_text(Some("not json"));
        metadata.add_json_text(Some(r#"{"person_id":"p"}"#));
        metadata.add_tag("inflection_campaign_id: spring ");
        metadata.add_tag("newsletter");
        assert_eq!(metadata.take(Field::PersonId).as_deref(), Some("p"));
        assert_eq!(metadata.take(Field::CampaignId).as_deref(), Some("spring"));
        assert_eq!(metadata.take(Field::CampaignId), None);
    }

    #[test]
    fn an_object_in_a_text_is_bounded_like_an_event() {
        let person = |values: usize| {
            let mut metadata = Metadata::of(&webhook());
            let text = format!(r#"{{"person_id":"p","more":[{}]}}"#, vec!["0"; values].join(","));
            metadata.add_json_text(Some(&text));
            metadata.take(Field::PersonId)
        };
        // Beside the values of the list: the object, its second member, and the list.
        assert_eq!(person(elements::VALUES_MAX - 3).as_deref(), Some("p"));
        assert_eq!(person(elements::VALUES_MAX - 2), None);
    }
}
