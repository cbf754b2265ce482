//! How the rows of a CSV become events: which column is which field, what is the same for all, and how values are called.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::input::hash;
use super::text::Fields;
use crate::cli::ImportArgs;

/// How the text of a cell is written in an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// As a text.
    Text,
    /// Digits alone as a number: epoch milliseconds.
    Moment,
    /// true or false; also 1, 0, yes and no.
    Flag,
    /// JSON, as it stands.
    Object,
}

/// The fields of `POST /v1/events`, as `docs/api.md` lists them.
const FIELDS: [(&str, Kind); 33] = [
    ("type", Kind::Text),
    ("id", Kind::Text),
    ("timestamp", Kind::Moment),
    ("person_id", Kind::Text),
    ("user_id", Kind::Text),
    ("email", Kind::Text),
    ("email_id", Kind::Text),
    ("campaign_id", Kind::Text),
    ("campaign_run_id", Kind::Text),
    ("campaign_name", Kind::Text),
    ("email_subject", Kind::Text),
    ("email_link_url", Kind::Text),
    ("link_id", Kind::Text),
    ("link_kind", Kind::Text),
    ("bounce_class", Kind::Text),
    ("bounce_reason", Kind::Text),
    ("unsubscribe_scope", Kind::Text),
    ("is_machine", Kind::Flag),
    ("is_unique_open", Kind::Flag),
    ("is_unique_click", Kind::Flag),
    ("user_agent", Kind::Text),
    ("ip", Kind::Text),
    ("http_method", Kind::Text),
    ("purpose", Kind::Text),
    ("provider", Kind::Text),
    ("provider_message_id", Kind::Text),
    ("group_id", Kind::Text),
    ("name", Kind::Text),
    ("url", Kind::Text),
    ("title", Kind::Text),
    ("referrer", Kind::Text),
    ("properties", Kind::Object),
    ("traits", Kind::Object),
];
/// Fields that are objects, whose members may be columns of their own: `properties.plan`.
const OBJECTS: [&str; 2] = ["properties", "traits"];
/// One of these says who an event is about.
const WHO: [&str; 3] = ["person_id", "user_id", "email"];

/// Whether a name is a field, or a member of one that has members.
fn kind(field: &str) -> Option<Kind> {
    let member = OBJECTS.iter().find_map(|object| field.strip_prefix(*object)?.strip_prefix('.'));
    if member.is_some_and(|member| !member.is_empty()) {
        return Some(Kind::Text);
    }
    FIELDS.iter().find(|(name, _)| *name == field).map(|(_, kind)| *kind)
}

/// What flags and the mapping file say.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Mapping {
    delimiter: String,
    /// Column of a field.
    map: BTreeMap<String, String>,
    /// What a field is in every row.
    set: BTreeMap<String, String>,
    /// Of a field, what its values are called in the file, and here.
    values: BTreeMap<String, BTreeMap<String, String>>,
}

impl Default for Mapping {
    fn default() -> Self {
        let (map, set, values) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Self { delimiter: ",".to_owned(), map, set, values }
    }
}

impl Mapping {
    /// What is said on the command line wins over the file.
    ///
    /// # Errors
    /// Every mistake, in the words of the operator.
    pub(super) fn of(args: &ImportArgs) -> Result<Self, Vec<String>> {
        let mut mistakes = Vec::new();
        let mut mapping = match &args.mapping {
            None => Self::default(),
            Some(path) => {
                let read = std::fs::read_to_string(path).map_err(|error| error.to_string());
                let parsed = read.and_then(|text| toml::from_str(&text).map_err(|error| error.to_string()));
                parsed.unwrap_or_else(|error| {
                    mistakes.push(format!("--mapping {}: {error}", path.display()));
                    Self::default()
                })
            }
        };
        for (flag, list, into) in [("--map", &args.map, &mut mapping.map), ("--set", &args.set, &mut mapping.set)] {
            for pair in list {
                match pair.split_once('=') {
                    Some((field, value)) => drop(into.insert(field.trim().to_owned(), value.to_owned())),
                    None => mistakes.push(format!("{flag} {pair}: say field=…")),
                }
            }
        }
        if let Some(delimiter) = &args.delimiter {
            mapping.delimiter.clone_from(delimiter);
        }
        mistakes.extend(mapping.mistakes());
        if mistakes.is_empty() { Ok(mapping) } else { Err(mistakes) }
    }

    fn mistakes(&self) -> Vec<String> {
        let mut mistakes = Vec::new();
        for field in self.map.keys().chain(self.set.keys()).chain(self.values.keys()) {
            if kind(field).is_none() {
                mistakes.push(format!("{field:?} is no field of an event; docs/api.md lists them"));
            }
        }
        for field in self.map.keys().filter(|field| self.set.contains_key(*field)) {
            mistakes.push(format!("{field} is both mapped to a column and set for all rows"));
        }
        if self.delimiter_byte().is_none() {
            mistakes.push(format!("the delimiter is one character, or `tab`, not {:?}", self.delimiter));
        }
        mistakes
    }

    fn delimiter_byte(&self) -> Option<u8> {
        match self.delimiter.as_bytes() {
            b"tab" | b"\\t" => Some(b'\t'),
            [byte] if byte.is_ascii() && !b"\"\r\n".contains(byte) => Some(*byte),
            _ => None,
        }
    }

    /// What stands between fields.
    pub(super) fn delimiter(&self) -> u8 {
        self.delimiter_byte().unwrap_or(b',')
    }

    /// Whether anything is said that only a CSV can follow.
    pub(super) fn is_plain(&self) -> bool {
        *self == Self::default()
    }

    /// A hash by which an import knows whether it is still mapped as it was.
    pub(super) fn hash(&self) -> String {
        hash(format!("{self:?}").as_bytes())
    }

    /// How rows under this header become events.
    ///
    /// # Errors
    /// Every mistake, in the words of the operator.
    pub(super) fn plan(&self, header: &[String]) -> Result<Plan, Vec<String>> {
        let (mut cells, mut mistakes, mut used) = (Vec::new(), Vec::new(), vec![false; header.len()]);
        let mut add = |field: &str, from: Origin| {
            if let Some(kind) = kind(field) {
                let values = self.values.get(field).cloned().unwrap_or_default();
                cells.push(Cell { field: field.to_owned(), kind, from, values });
            }
        };
        for (field, text) in &self.set {
            add(field, Origin::Constant(text.clone()));
        }
        for (field, column) in &self.map {
            match header.iter().position(|name| name == column.trim()) {
                Some(at) => {
                    used.iter_mut().skip(at).take(1).for_each(|used| *used = true);
                    add(field, Origin::Column(at));
                }
                None => mistakes.push(format!("{field} is mapped to the column {column:?}, which the header has not")),
            }
        }
        for (at, name) in header.iter().enumerate() {
            let said = self.set.contains_key(name) || self.map.contains_key(name);
            if !said && kind(name).is_some() && !used.get(at).copied().unwrap_or(false) {
                used.iter_mut().skip(at).take(1).for_each(|used| *used = true);
                add(name, Origin::Column(at));
            }
        }
        mistakes.extend(misses(&cells));
        cells.sort_by(|one, other| order(&one.field).cmp(&order(&other.field)));
        mistakes.extend(doubles(&cells));
        let unused = header.iter().zip(&used).filter(|(_, used)| !**used).map(|(name, _)| name.clone()).collect();
        if mistakes.is_empty() { Ok(Plan { cells, columns: header.len(), unused }) } else { Err(mistakes) }
    }
}

/// What no event can do without.
fn misses(cells: &[Cell]) -> Vec<String> {
    let has = |field: &str| cells.iter().any(|cell| cell.field == field);
    let mut mistakes: Vec<String> = ["type", "timestamp"]
        .into_iter()
        .filter(|field| !has(field))
        .map(|field| format!("no column is {field}: say --map {field}=<column>, or --set {field}=<value>"))
        .collect();
    if !WHO.iter().any(|field| has(field)) {
        let who = WHO.join(", ");
        mistakes.push(format!("no column is one of {who}: say --map person_id=<column>, or another of them"));
    }
    mistakes
}

/// Fields that are said twice: by two columns of one name, or an object as a whole and by its members.
fn doubles(sorted: &[Cell]) -> Vec<String> {
    let twice = |pair: &[Cell]| match pair {
        [one, other] if one.field == other.field => Some(format!("two columns are {}", one.field)),
        [one, other] if one.kind == Kind::Object && other.object() == Some(&one.field) => {
            Some(format!("{} is said as a whole and by its members", one.field))
        }
        _ => None,
    };
    sorted.windows(2).filter_map(twice).collect()
}

/// Fields stand in an event in the order of the table, members behind their object's place, in the order of their names.
fn order(field: &str) -> (usize, &str) {
    let (object, member) = field.split_once('.').unwrap_or((field, ""));
    (FIELDS.iter().position(|(name, _)| *name == object).unwrap_or(FIELDS.len()), member)
}

/// How rows become events.
#[derive(Debug)]
pub(super) struct Plan {
    cells: Vec<Cell>,
    /// Fields of a row.
    pub(super) columns: usize,
    /// Columns that are no field.
    pub(super) unused: Vec<String>,
}

/// One field of an event.
#[derive(Debug)]
struct Cell {
    field: String,
    kind: Kind,
    from: Origin,
    values: BTreeMap<String, String>,
}

#[derive(Debug)]
enum Origin {
    Column(usize),
    Constant(String),
}

impl Cell {
    /// The object that it is a member of.
    fn object(&self) -> Option<&str> {
        self.field.split_once('.').map(|(object, _)| object)
    }

    /// Its value in a row; an empty cell is none.
    fn value<'r>(&'r self, row: &'r Fields) -> Option<&'r str> {
        let text = match &self.from {
            Origin::Column(at) => row.get(*at)?,
            Origin::Constant(text) => text,
        };
        let text = self.values.get(text).map_or(text, String::as_str);
        Some(text).filter(|text| !text.is_empty())
    }
}

impl Plan {
    /// Writes the event of a row as JSON on one line.
    ///
    /// # Errors
    /// Why it is none, in the words of the answers.
    pub(super) fn render(&self, row: &Fields, out: &mut Vec<u8>) -> Result<(), String> {
        if row.len() != self.columns {
            return Err(format!("the row has {} fields, the header {}", row.len(), self.columns));
        }
        out.push(b'{');
        let mut object = None;
        for (cell, value) in self.cells.iter().filter_map(|cell| Some((cell, cell.value(row)?))) {
            if cell.object() != object {
                if object.is_some() {
                    out.push(b'}');
                }
                object = cell.object();
                if let Some(object) = object {
                    key(object, out);
                    out.push(b'{');
                }
            }
            key(cell.field.split_once('.').map_or(&*cell.field, |(_, member)| member), out);
            write_value(cell.kind, value, out);
        }
        if object.is_some() {
            out.push(b'}');
        }
        out.push(b'}');
        Ok(())
    }
}

fn key(name: &str, out: &mut Vec<u8>) {
    if out.last() != Some(&b'{') {
        out.push(b',');
    }
    string(name, out);
    out.push(b':');
}

fn string(text: &str, out: &mut Vec<u8>) {
    let written = serde_json::to_writer(&mut *out, text);
    // A Vec takes every write, and a text is always JSON.
    debug_assert!(written.is_ok());
}

/// What is not what its field asks for is written as a text: ingest then says what is wrong with it.
fn write_value(kind: Kind, text: &str, out: &mut Vec<u8>) {
    match kind {
        Kind::Moment if is_number(text) => out.extend_from_slice(text.as_bytes()),
        Kind::Flag => match text.to_ascii_lowercase().as_str() {
            "true" | "1" | "yes" => out.extend_from_slice(b"true"),
            "false" | "0" | "no" => out.extend_from_slice(b"false"),
            _ => string(text, out),
        },
        // Line breaks in it are white space: within JSON strings there are none.
        Kind::Object if serde_json::from_str::<IgnoredAny>(text).is_ok() => {
            out.extend(text.bytes().map(|byte| if matches!(byte, b'\n' | b'\r') { b' ' } else { byte }));
        }
        Kind::Text | Kind::Moment | Kind::Object => string(text, out),
    }
}

fn is_number(text: &str) -> bool {
    !text.starts_with('0') && text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use inflection_domain::{Timestamp, WorkspaceId};
    use inflection_ingest::{EVENT_FIELDS, LineCheck};

    use super::*;

    fn mapping(toml: &str) -> Mapping {
        toml::from_str(toml).unwrap()
    }

    fn header(columns: &str) -> Vec<String> {
        columns.split(',').map(str::to_owned).collect()
    }

    #[track_caller]
    fn check(toml: &str, columns: &str, row: &str, expected: &str) {
        let mapping = mapping(toml);
        let plan = mapping.plan(&header(columns)).unwrap();
        let (mut fields, mut out) = (Fields::default(), Vec::new());
        fields.read(row, mapping.delimiter());
        plan.render(&fields, &mut out).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }

    #[track_caller]
    fn refused(toml: &str, columns: &str, expected: &str) {
        let mapping = mapping(toml);
        let mistakes = match mapping.mistakes() {
            none if none.is_empty() => mapping.plan(&header(columns)).unwrap_err(),
            mistakes => mistakes,
        };
        assert_eq!(mistakes.join("; "), expected);
    }

    #[test]
    fn names_of_fields_need_no_mapping() {
        check(
            "",
            "timestamp,type,person_id,note,email,is_machine",
            r#"1764000000000,email_opened,p 1,x,"""Ann"" <a@b>",Yes"#,
            r#"{"type":"email_opened","timestamp":1764000000000,"person_id":"p 1","email":"\"Ann\" <a@b>","is_machine":true}"#,
        );
    }

    #[test]
    fn columns_are_mapped_constants_set_and_values_translated() {
        check(
            "delimiter = \";\"\n[map]\ntype = \"Event\"\nperson_id = \"Contact ID\"\ntimestamp = \"At\"\n\
             [set]\ncampaign_id = \"spring\"\n[values.type]\nOpen = \"email_opened\"",
            "Contact ID,Event,At,campaign_id",
            "7;Open;2025-01-31T10:00:00Z;ignored",
            r#"{"type":"email_opened","timestamp":"2025-01-31T10:00:00Z","person_id":"7","campaign_id":"spring"}"#,
        );
    }

    #[test]
    fn objects_are_json_or_come_member_by_member() {
        let columns = "type,timestamp,user_id,traits,properties.plan,properties.a b";
        check(
            "",
            columns,
            "identify,1764000000000,u,\"{\"\"n\"\": 1,\n \"\"m\"\":[]}\",pro,\"x\ny\"",
            r#"{"type":"identify","timestamp":1764000000000,"user_id":"u","properties":{"a b":"x\ny","plan":"pro"},"traits":{"n": 1,  "m":[]}}"#,
        );
        let nothing = r#"{"type":"identify","timestamp":"07","user_id":"u","traits":"{\"n\":"}"#;
        check("", columns, r#"identify,07,u,"{""n"":",,"#, nothing);
    }

    #[test]
    fn mistakes_are_told_together() {
        refused(
            "",
            "a,b",
            "no column is type: say --map type=<column>, or --set type=<value>; no column is timestamp: \
             say --map timestamp=<column>, or --set timestamp=<value>; no column is one of person_id, user_id, email: \
             say --map person_id=<column>, or another of them",
        );
        let columns = "type,timestamp,email";
        refused("[map]\nid = \"Key\"", columns, "id is mapped to the column \"Key\", which the header has not");
        refused("[map]\nuser = \"a\"", columns, "\"user\" is no field of an event; docs/api.md lists them");
        refused("[map]\nid = \"a\"\n[set]\nid = \"b\"", columns, "id is both mapped to a column and set for all rows");
        refused("delimiter = \"ab\"", columns, "the delimiter is one character, or `tab`, not \"ab\"");
        refused("", "type,timestamp,email,email", "two columns are email");
        refused("", "type,timestamp,email,traits,traits.a", "traits is said as a whole and by its members");
        assert!(toml::from_str::<Mapping>("columns = 1").is_err());
    }

    #[test]
    fn a_row_has_as_many_fields_as_the_header() {
        let plan = Mapping::default().plan(&header("type,timestamp,email")).unwrap();
        let mut fields = Fields::default();
        fields.read("email_opened,1", b',');
        assert_eq!(plan.render(&fields, &mut Vec::new()).unwrap_err(), "the row has 2 fields, the header 3");
    }

    /// All but those that the ingest key decides: a column of such a name is the file's own.
    #[test]
    fn every_field_of_ingest_may_be_mapped() {
        let missing: Vec<_> = EVENT_FIELDS.iter().filter(|field| kind(field).is_none()).collect();
        assert_eq!(missing, [&"workspace", &"connection"]);
    }

    /// A name that ingest does not know would be ignored there: a list in every one of them is not.
    #[test]
    fn every_field_is_one_of_ingest() {
        let check = LineCheck::new(WorkspaceId::new("any").unwrap(), Timestamp::parse("2026-11-23T10:00:00Z").unwrap());
        for (field, _) in FIELDS {
            let others = [("type", "\"email_opened\""), ("timestamp", "1795420800000"), ("person_id", "\"p\"")];
            let mut members: Vec<String> = others
                .iter()
                .filter(|(name, _)| *name != field)
                .map(|(name, value)| format!("\"{name}\":{value}"))
                .collect();
            members.push(format!("\"{field}\":[]"));
            let line = format!("{{{}}}", members.join(","));
            assert_eq!(check.check(line.as_bytes()).unwrap_err().code, "bad_type", "{field}");
        }
    }
}
