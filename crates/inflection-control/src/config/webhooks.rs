//! The `webhooks` tables, with what each provider needs.

use std::collections::{BTreeMap, HashSet};

use super::secrets::{Opener, secrets};
use crate::document::{At, Table};
use crate::webhook::{AuthFailure, Field, Guard, KeyForm, Provider, Webhook};
use crate::{Certificate, Secret};

/// Bytes of a point on P-256, uncompressed (SEC 1, 2.3.3).
const P256_POINT_BYTES: usize = 65;

pub(super) fn webhook(table: Table<'_, '_>, tokens: &mut HashSet<String>, opener: &Opener<'_>) -> Option<Webhook> {
    let provider = provider(&table);
    let token = token(&table, tokens);
    let secrets = secrets(&table, "secrets", opener);
    let fields = table.table("fields").map(fields).unwrap_or_default();
    let answers = |text: &str| match text {
        "reject" => Some(AuthFailure::Reject),
        "defer" => Some(AuthFailure::Defer),
        _ => None,
    };
    let on_auth_failure = table.parsed("on_auth_failure", "\"reject\" or \"defer\"", answers).unwrap_or_default();
    let topic_arns = topic_arns(&table, provider);
    let certificates = only(&table, provider, Provider::Ses, "certificates", |table, key| {
        table.contains(key).then(|| self::secrets(table, key, opener))
    });
    let certificates = self::certificates(&table, &certificates.unwrap_or_default());
    let origins = only(&table, provider, Provider::Cloudevents, "allowed_origins", Table::texts).unwrap_or_default();
    let allowed_origins = origins.into_iter().map(|origin| origin.value.to_owned()).collect();
    let signed_url = only(&table, provider, Provider::Mandrill, "signed_url", |table, key| table.text(key));
    if provider == Some(Provider::Mandrill) && !table.contains("signed_url") {
        table.wrong(table.span(), "signed_url is missing: mandrill signs the address that was typed in there");
    }
    let signed_url = signed_url.and_then(|url| {
        let fits = url.value.starts_with("https://") || url.value.starts_with("http://");
        if !fits {
            table.wrong(&url.span, "signed_url must be the whole address, from https:// on");
        }
        Secret::new(url.value).filter(|_| fits)
    });
    let flag = |owner, key| only(&table, provider, owner, key, Table::flag).unwrap_or_default();
    let send_is_delivered = flag(Provider::Mandrill, "send_is_delivered");
    let initial_opens = flag(Provider::Sparkpost, "initial_opens");
    if let Some(provider) = provider {
        check_secrets(&table, provider, &secrets, token.as_ref());
    }
    table.finish();
    Some(Webhook {
        fields,
        on_auth_failure,
        topic_arns,
        certificates,
        allowed_origins,
        signed_url,
        send_is_delivered,
        initial_opens,
        ..Webhook::new(provider?, Secret::new(token?.value)?, secrets)
    })
}

/// Certificates that are whole: one that could not be read would be missed only when nothing is believed any more.
fn certificates(table: &Table<'_, '_>, texts: &[Secret]) -> Vec<Certificate> {
    let certificates: Vec<_> = texts.iter().filter_map(|text| Certificate::from_pem(text.expose())).collect();
    if certificates.len() < texts.len() {
        table.wrong(table.span(), "certificates must be PEM texts of one certificate each, with an RSA key");
    }
    certificates
}

/// The topics of SNS that a webhook of SES listens to: without them anybody's topic could send to it.
fn topic_arns(table: &Table<'_, '_>, provider: Option<Provider>) -> Vec<String> {
    let texts = only(table, provider, Provider::Ses, "topic_arns", Table::texts).unwrap_or_default();
    for text in &texts {
        let parts: Vec<&str> = text.value.split(':').collect();
        if !matches!(parts[..], ["arn", partition, "sns", region, account, topic] if partition.starts_with("aws")
            && !region.is_empty() && account.len() == 12 && !topic.is_empty())
        {
            table.wrong(&text.span, "topic_arns are like arn:aws:sns:eu-west-1:123456789012:mail-events");
        }
    }
    if provider == Some(Provider::Ses) && texts.is_empty() {
        table.wrong(table.span(), "topic_arns is missing or empty: SNS signs for everybody, so name your topics");
    }
    texts.into_iter().map(|text| text.value.to_owned()).collect()
}

/// A setting that one provider has, and none of the others.
fn only<'d, 'm, T>(
    table: &Table<'d, 'm>,
    provider: Option<Provider>,
    owner: Provider,
    key: &'static str,
    read: impl FnOnce(&Table<'d, 'm>, &'static str) -> Option<T>,
) -> Option<T> {
    let value = read(table, key);
    if value.is_some() && provider.is_some_and(|provider| provider != owner) {
        table.wrong(table.span(), format!("{key} is a setting of {owner} only"));
    }
    value
}

fn provider(table: &Table<'_, '_>) -> Option<Provider> {
    let text = table.required_text("provider")?;
    let found = Provider::from_name(text.value);
    if found.is_none() {
        let known = Provider::ALL.map(Provider::name).join(", ");
        table.wrong(&text.span, format!("provider {:?} is unknown; known: {known}", text.value));
    }
    found
}

fn token<'d>(table: &Table<'d, '_>, tokens: &mut HashSet<String>) -> Option<At<&'d str>> {
    let text = table.required_text("token")?;
    let plain = text.value.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'));
    if text.value.len() < Webhook::TOKEN_BYTES_MIN || !plain {
        let least = Webhook::TOKEN_BYTES_MIN;
        let message = format!("token must be at least {least} letters, digits, '-' or '_', and hard to guess");
        table.wrong(&text.span, message);
    } else if !tokens.insert(text.value.to_owned()) {
        table.wrong(&text.span, "token is used by another webhook");
    }
    Some(text)
}

/// The `fields` table: our name of a field, and what the sender's custom data calls it.
fn fields(table: Table<'_, '_>) -> BTreeMap<Field, String> {
    let mut names = HashSet::new();
    let named = |field: Field| {
        let text = table.text(field.name())?;
        if !names.insert(text.value) {
            table.wrong(
                &text.span,
                format!("{:?} is the name of two fields: only one of them would be found", text.value),
            );
        }
        Some((field, text.value.to_owned()))
    };
    let fields = Field::ALL.into_iter().filter_map(named).collect();
    table.finish();
    fields
}

fn check_secrets(table: &Table<'_, '_>, provider: Provider, secrets: &[Secret], token: Option<&At<&str>>) {
    match provider.guard() {
        // A secret that cannot be read is reported where it stands.
        Guard::Signed(_) if secrets.is_empty() && !table.contains("secrets") => {
            table.wrong(table.span(), "secrets is missing: without it anybody could send events");
        }
        Guard::Signed(_) if secrets.is_empty() => {
            table.wrong(table.span(), "secrets is empty: without it anybody could send events");
        }
        Guard::Signed(form) => {
            for (index, _) in secrets.iter().enumerate().filter(|(_, secret)| !has_form(secret, form)) {
                let message = format!("secret {} of {provider} must be {}", index + 1, described(form));
                table.wrong(table.span(), message);
            }
        }
        Guard::Topics if secrets.is_empty() => {}
        Guard::Topics | Guard::Credentials => {
            let (least, long) = (Webhook::LONE_TOKEN_BYTES_MIN, Webhook::SECRET_BYTES_MIN);
            let is_weak = secrets.is_empty() || secrets.iter().any(|secret| secret.expose().len() < long);
            if let Some(token) = token.filter(|token| is_weak && token.value.len() < least) {
                let message = format!(
                    "without secrets of at least {long} characters the token is all that protects this webhook: it must \
                     be at least {least} characters"
                );
                table.wrong(&token.span, message);
            }
        }
    }
}

fn has_form(secret: &Secret, form: KeyForm) -> bool {
    form.decode(secret).is_some_and(|key| match form {
        KeyForm::Text | KeyForm::Base64 => key.len() >= Webhook::SECRET_BYTES_MIN,
        KeyForm::P256PublicKey => key.len() == P256_POINT_BYTES,
    })
}

fn described(form: KeyForm) -> String {
    let least = Webhook::SECRET_BYTES_MIN;
    match form {
        KeyForm::Text => format!("the signing key as the console shows it, at least {least} characters"),
        KeyForm::Base64 => format!("base64 of at least {least} bytes, as the console shows it after whsec_"),
        KeyForm::P256PublicKey => {
            "the verification key as the console shows it, base64 that begins with MFkwEwYHKoZI".to_owned()
        }
    }
}
