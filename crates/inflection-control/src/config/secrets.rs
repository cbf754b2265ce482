//! The secrets of a configuration file: in files of their own, in plain sight, or sealed.

use std::ops::Range;

use zeroize::Zeroizing;

use crate::document::{At, Table};
use crate::{Binding, MasterKey, Secret};

/// What the file says about the master key.
#[derive(Debug)]
pub(super) enum Master {
    /// Nothing: a sealed secret is a mistake.
    Absent,
    /// Something that is itself reported as a mistake: sealed secrets cannot be judged.
    Wrong,
    /// This.
    Known(MasterKey),
}

impl Master {
    /// Reads it from the `installation` table.
    pub(super) fn of(installation: &Table<'_, '_>) -> Self {
        match hex_key(installation, "master_key", MasterKey::parse) {
            Some(key) => Self::Known(key),
            None if installation.contains("master_key") => Self::Wrong,
            None => Self::Absent,
        }
    }

    pub(super) fn key(&self) -> Option<&MasterKey> {
        match self {
            Self::Known(key) => Some(key),
            Self::Absent | Self::Wrong => None,
        }
    }
}

/// Opens the sealed secrets of one place.
#[derive(Debug)]
pub(super) struct Opener<'a> {
    master: &'a Master,
    binding: Option<Binding>,
}

impl<'a> Opener<'a> {
    /// Without a binding nothing can be opened: the place has no valid name, which is a mistake of its own.
    pub(super) fn new(master: &'a Master, binding: Option<Binding>) -> Self {
        Self { master, binding }
    }

    fn open(&self, table: &Table<'_, '_>, sealed: &At<&str>) -> Option<Secret> {
        match (self.master, &self.binding) {
            (Master::Known(key), Some(binding)) => {
                key.open(binding, sealed.value).map_err(|error| table.wrong(&sealed.span, error.to_string())).ok()
            }
            (Master::Absent, _) => {
                table.wrong(&sealed.span, "a sealed secret needs installation.master_key, which is missing");
                None
            }
            // What stands in the way is reported where it stands.
            (Master::Wrong, _) | (Master::Known(_), None) => None,
        }
    }
}

/// The secrets of a list; those that cannot be read are reported and left out.
pub(super) fn secrets(table: &Table<'_, '_>, key: &'static str, opener: &Opener<'_>) -> Vec<Secret> {
    table.tables(key).into_iter().filter_map(|entry| secret(entry, Some(opener))).map(|(secret, _)| secret).collect()
}

pub(super) fn required_secret(table: &Table<'_, '_>, key: &'static str, opener: &Opener<'_>) -> Option<Secret> {
    match table.table(key) {
        Some(found) => secret(found, Some(opener)).map(|(secret, _)| secret),
        None => {
            let forms = "{ file = \"…\" }, { value = \"…\" } or { sealed = \"…\" }";
            table.wrong(table.span(), format!("{key} is missing: {forms}"));
            None
        }
    }
}

/// A key of the installation: a secret of 64 hexadecimal digits. It is never sealed: the master key cannot lock itself
/// away, and the persons' key belongs to no workspace.
pub(super) fn hex_key<T>(
    installation: &Table<'_, '_>,
    key: &'static str,
    parse: impl FnOnce(&str) -> Option<T>,
) -> Option<T> {
    let (secret, span) = secret(installation.table(key)?, None)?;
    let parsed = parse(secret.expose());
    if parsed.is_none() {
        installation.wrong(&span, format!("installation.{key} must be 64 hexadecimal digits"));
    }
    parsed
}

/// One secret and where it stands. Without an opener it cannot be a sealed one.
fn secret(table: Table<'_, '_>, opener: Option<&Opener<'_>>) -> Option<(Secret, Range<usize>)> {
    let span = table.span().clone();
    let secret = one_form(&table, opener);
    table.finish();
    secret.map(|secret| (secret, span))
}

/// `{ file = "…" }`, `{ value = "…" }` or `{ sealed = "…" }`.
fn one_form(table: &Table<'_, '_>, opener: Option<&Opener<'_>>) -> Option<Secret> {
    let secret = match (table.text("file"), table.text("value"), table.text("sealed")) {
        (Some(file), None, None) => Secret::new(&contents(table, &file)?),
        (None, Some(value), None) => Secret::new(value.value),
        (None, None, Some(sealed)) => {
            let Some(opener) = opener else {
                table.wrong(&sealed.span, "a key of the installation cannot be sealed");
                return None;
            };
            return opener.open(table, &sealed);
        }
        _ => None,
    };
    if secret.is_none() {
        let forms = "{ file = \"…\" }, { value = \"…\" } or { sealed = \"…\" }";
        table.wrong(table.span(), format!("a secret is {forms}, one of them, and not empty"));
    }
    secret
}

fn contents(table: &Table<'_, '_>, file: &At<&str>) -> Option<Zeroizing<String>> {
    std::fs::read_to_string(file.value)
        .map(Zeroizing::new)
        .map_err(|error| table.wrong(&file.span, format!("{} cannot be read: {error}", file.value)))
        .ok()
}
