//! A TOML document, read table by table, collecting every mistake with its line.

use std::cell::RefCell;
use std::collections::HashSet;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::Mistake;

/// Mistakes found so far, in a text.
#[derive(Debug)]
pub(crate) struct Mistakes<'a> {
    text: &'a str,
    found: RefCell<Vec<Mistake>>,
}

impl<'a> Mistakes<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        Self { text, found: RefCell::default() }
    }

    pub(crate) fn add(&self, span: &Range<usize>, message: impl Into<String>) {
        let before = self.text.as_bytes().get(..span.start).unwrap_or_default();
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        self.found.borrow_mut().push(Mistake { line, message: message.into() });
    }

    pub(crate) fn into_list(self) -> Vec<Mistake> {
        let mut list = self.found.into_inner();
        list.sort_by_key(|mistake| mistake.line);
        list
    }
}

/// A value and where it stands.
#[derive(Debug, Clone)]
pub(crate) struct At<T> {
    pub(crate) value: T,
    pub(crate) span: Range<usize>,
}

/// One table. Every key must be asked for: those that are not are reported when it is finished.
#[derive(Debug)]
pub(crate) struct Table<'d, 'm> {
    name: String,
    table: &'d DeTable<'d>,
    span: Range<usize>,
    asked: RefCell<HashSet<&'static str>>,
    mistakes: &'m Mistakes<'m>,
}

impl<'d, 'm> Table<'d, 'm> {
    pub(crate) fn root(document: &'d Spanned<DeTable<'d>>, mistakes: &'m Mistakes<'m>) -> Self {
        Self::new(String::new(), document.get_ref(), document.span(), mistakes)
    }

    fn new(name: String, table: &'d DeTable<'d>, span: Range<usize>, mistakes: &'m Mistakes<'m>) -> Self {
        Self { name, table, span, asked: RefCell::default(), mistakes }
    }

    pub(crate) fn wrong(&self, span: &Range<usize>, message: impl Into<String>) {
        self.mistakes.add(span, message);
    }

    pub(crate) fn span(&self) -> &Range<usize> {
        &self.span
    }

    fn path(&self, key: &str) -> String {
        if self.name.is_empty() { key.to_owned() } else { format!("{}.{key}", self.name) }
    }

    fn get(&self, key: &'static str) -> Option<&'d Spanned<DeValue<'d>>> {
        self.asked.borrow_mut().insert(key);
        self.table.get(key)
    }

    fn typed<T>(
        &self,
        key: &'static str,
        what: &str,
        read: impl FnOnce(&'d DeValue<'d>) -> Option<T>,
    ) -> Option<At<T>> {
        let found = self.get(key)?;
        let value = read(found.get_ref());
        if value.is_none() {
            self.wrong(&found.span(), format!("{} must be {what}", self.path(key)));
        }
        Some(At { value: value?, span: found.span() })
    }

    pub(crate) fn text(&self, key: &'static str) -> Option<At<&'d str>> {
        self.typed(key, "a string", DeValue::as_str)
    }

    pub(crate) fn contains(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    pub(crate) fn required_text(&self, key: &'static str) -> Option<At<&'d str>> {
        if !self.contains(key) {
            self.asked.borrow_mut().insert(key);
            self.wrong(&self.span, format!("{} is missing", self.path(key)));
            return None;
        }
        self.text(key)
    }

    /// A text that `read` understands; when it does not, the mistake says what would be.
    pub(crate) fn parsed<T>(&self, key: &'static str, what: &str, read: impl FnOnce(&str) -> Option<T>) -> Option<T> {
        let text = self.text(key)?;
        let value = read(text.value);
        if value.is_none() {
            self.wrong(&text.span, format!("{} must be {what}, not {:?}", self.path(key), text.value));
        }
        value
    }

    pub(crate) fn flag(&self, key: &'static str) -> Option<bool> {
        self.typed(key, "true or false", DeValue::as_bool).map(|at| at.value)
    }

    pub(crate) fn number(&self, key: &'static str, allowed: Range<u64>) -> Option<u64> {
        let what = format!("a whole number from {} to {}", allowed.start, allowed.end - 1);
        let read = |value: &DeValue<'_>| {
            let integer = value.as_integer()?;
            u64::from_str_radix(integer.as_str(), integer.radix()).ok().filter(|number| allowed.contains(number))
        };
        self.typed(key, &what, read).map(|at| at.value)
    }

    pub(crate) fn texts(&self, key: &'static str) -> Option<Vec<At<&'d str>>> {
        let what = "a list of strings";
        let list = self.typed(key, what, |value| value.as_array())?.value;
        let mut texts = Vec::new();
        for item in list.iter() {
            match item.get_ref().as_str() {
                Some(value) => texts.push(At { value, span: item.span() }),
                None => self.wrong(&item.span(), format!("{} must be {what}", self.path(key))),
            }
        }
        Some(texts)
    }

    pub(crate) fn table(&self, key: &'static str) -> Option<Table<'d, 'm>> {
        let found = self.typed(key, "a table", |value| value.as_table())?;
        Some(Table::new(self.path(key), found.value, found.span, self.mistakes))
    }

    pub(crate) fn tables(&self, key: &'static str) -> Vec<Table<'d, 'm>> {
        let what = "a list of tables";
        let Some(list) = self.typed(key, what, |value| value.as_array()) else { return Vec::new() };
        let mut tables = Vec::new();
        for item in list.value.iter() {
            match item.get_ref().as_table() {
                Some(table) => tables.push(Table::new(self.path(key), table, item.span(), self.mistakes)),
                None => self.wrong(&item.span(), format!("{} must be {what}", self.path(key))),
            }
        }
        tables
    }

    /// Reports the keys that nobody asked for.
    pub(crate) fn finish(self) {
        let asked = self.asked.borrow();
        for key in self.table.keys() {
            let name: &str = key.get_ref();
            if !asked.contains(name) {
                let mut known: Vec<&str> = asked.iter().copied().collect();
                known.sort_unstable();
                self.wrong(&key.span(), format!("{} is unknown here; known: {}", self.path(name), known.join(", ")));
            }
        }
    }
}
