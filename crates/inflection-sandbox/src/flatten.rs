//! From a call to warehouse rows: which tables it touches, and under which column names and types.

use serde::Serialize;
use serde_json::{Map, Value};

use crate::dates;
use crate::kind::Kind;
use crate::snake::snake_case;

/// Longest string a warehouse column takes, in characters; the rest is cut (Segment docs, warehouse schema).
const STRING_CHARS_MAX: usize = 512;

/// The type of a column, fixed by the first value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ColumnType {
    Timestamp,
    Integer,
    Float,
    Boolean,
    Varchar,
}

/// One value on its way into a column.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Cell {
    pub(crate) name: String,
    pub(crate) kind: ColumnType,
    /// Whether the value is longer than a column takes.
    pub(crate) cut: bool,
}

/// One row on its way into a table.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Row {
    pub(crate) table: String,
    /// For a table with one row per entity: which one.
    pub(crate) entity: Option<String>,
    pub(crate) cells: Vec<Cell>,
    /// Properties that cannot become a column, because its name is Segment's own or nothing is left of it.
    pub(crate) lost: Vec<String>,
}

/// The rows that a sound call, merged with its envelope, adds to the warehouse. `sent` tells whether it has a `sentAt`.
pub(crate) fn rows(kind: Kind, call: &Value, sent: bool) -> Vec<Row> {
    let Some(call) = call.as_object() else {
        return Vec::new();
    };
    let common = common_cells(call, sent);
    match kind {
        Kind::Track => track_rows(call, common),
        Kind::Identify => identify_rows(call, common),
        Kind::Group => vec![own_row("groups", kind, call, common, &[("groupId", "group_id")])],
        Kind::Page => vec![own_row("pages", kind, call, common, &PAGE_COLUMNS)],
        Kind::Screen => vec![own_row("screens", kind, call, common, &PAGE_COLUMNS)],
        Kind::Alias => vec![own_row("aliases", kind, call, common, &[("previousId", "previous_id")])],
    }
}

const PAGE_COLUMNS: [(&str, &str); 2] = [("name", "name"), ("category", "category")];

fn track_rows(call: &Map<String, Value>, mut common: Vec<Cell>) -> Vec<Row> {
    let event = call.get("event").and_then(Value::as_str).unwrap_or_default();
    let table = snake_case(event).into_owned();
    common.push(text_cell("event", &table));
    common.push(text_cell("event_text", event));
    let mut rows = vec![Row { table: "tracks".to_owned(), entity: None, cells: common.clone(), lost: Vec::new() }];
    if !table.is_empty() {
        rows.push(own_row(&table, Kind::Track, call, common, &[]));
    }
    rows
}

fn identify_rows(call: &Map<String, Value>, common: Vec<Cell>) -> Vec<Row> {
    let identifies = own_row("identifies", Kind::Identify, call, common, &[]);
    let user_id = call.get("userId").and_then(Value::as_str);
    // The users table holds the newest state of a user: its `id` is the userId, and it has neither an anonymous id nor the
    // times of one call.
    let users = user_id.map(|user_id| {
        let of_the_call = ["user_id", "anonymous_id", "sent_at", "timestamp", "original_timestamp"];
        let cells =
            identifies.cells.iter().filter(|cell| !of_the_call.contains(&cell.name.as_str())).cloned().collect();
        Row { table: "users".to_owned(), entity: Some(user_id.to_owned()), cells, lost: identifies.lost.clone() }
    });
    [Some(identifies), users].into_iter().flatten().collect()
}

/// A row with the common cells, the call's own top-level fields, and its properties or traits.
fn own_row(
    table: &str,
    kind: Kind,
    call: &Map<String, Value>,
    mut cells: Vec<Cell>,
    fields: &[(&str, &'static str)],
) -> Row {
    for (field, column) in fields {
        cells.extend(call.get(*field).and_then(|value| cell((*column).to_owned(), value)));
    }
    let mut lost = Vec::new();
    for container in ["properties", "traits"] {
        for (path, value) in leaves(call.get(container)) {
            let name = column_name(&path);
            if name.is_empty() || is_reserved(kind, &name) {
                lost.push(path.join("."));
            } else {
                cells.extend(cell(name, value));
            }
        }
    }
    Row { table: table.to_owned(), entity: None, cells, lost }
}

fn common_cells(call: &Map<String, Value>, sent: bool) -> Vec<Cell> {
    let mut cells = vec![fixed("id", ColumnType::Varchar)];
    for (field, column) in [("anonymousId", "anonymous_id"), ("userId", "user_id")] {
        cells.extend(call.get(field).and_then(Value::as_str).map(|id| text_cell(column, id)));
    }
    cells.push(fixed("received_at", ColumnType::Timestamp));
    if sent {
        cells.push(fixed("sent_at", ColumnType::Timestamp));
    }
    cells.push(fixed("timestamp", ColumnType::Timestamp));
    if call.get("timestamp").is_some_and(|value| !value.is_null()) {
        cells.push(fixed("original_timestamp", ColumnType::Timestamp));
    }
    for (path, value) in leaves(call.get("context")) {
        let name = column_name(&path);
        if !name.is_empty() {
            cells.extend(cell(format!("context_{name}"), value));
        }
    }
    cells.push(fixed("uuid", ColumnType::Varchar));
    cells.push(fixed("uuid_ts", ColumnType::Timestamp));
    cells
}

/// Names that belong to Segment, so that a property of that name is lost. Compiled from the tables' columns, because Segment
/// publishes no list.
fn is_reserved(kind: Kind, column: &str) -> bool {
    const EVERYWHERE: [&str; 13] = [
        "id",
        "user_id",
        "anonymous_id",
        "event",
        "event_text",
        "received_at",
        "sent_at",
        "timestamp",
        "original_timestamp",
        "uuid",
        "uuid_ts",
        "loaded_at",
        "message_id",
    ];
    let of_this_kind = match kind {
        Kind::Group => column == "group_id",
        Kind::Page | Kind::Screen => matches!(column, "name" | "category"),
        Kind::Alias => column == "previous_id",
        Kind::Track | Kind::Identify => false,
    };
    of_this_kind || column.starts_with("context_") || EVERYWHERE.contains(&column)
}

/// The values below an object that become columns, with their paths. Arrays are one value.
fn leaves(container: Option<&Value>) -> Vec<(Vec<&str>, &Value)> {
    let mut found = Vec::new();
    if let Some(Value::Object(fields)) = container {
        collect_leaves(fields, &mut Vec::new(), &mut found);
    }
    found
}

/// Recursion is as deep as the JSON reader allows, 128 levels.
fn collect_leaves<'a>(
    fields: &'a Map<String, Value>,
    path: &mut Vec<&'a str>,
    found: &mut Vec<(Vec<&'a str>, &'a Value)>,
) {
    for (key, value) in fields {
        path.push(key);
        match value {
            Value::Object(inner) => collect_leaves(inner, path, found),
            Value::Null => {} // A column appears with its first value.
            Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => found.push((path.clone(), value)),
        }
        path.pop();
    }
}

fn column_name(path: &[&str]) -> String {
    let mut name = String::new();
    for part in path.iter().map(|key| snake_case(key)).filter(|part| !part.is_empty()) {
        if !name.is_empty() {
            name.push('_');
        }
        name.push_str(&part);
    }
    name
}

fn fixed(name: &str, kind: ColumnType) -> Cell {
    Cell { name: name.to_owned(), kind, cut: false }
}

fn text_cell(name: &str, text: &str) -> Cell {
    Cell { name: name.to_owned(), kind: ColumnType::Varchar, cut: is_cut(text) }
}

fn cell(name: String, value: &Value) -> Option<Cell> {
    let (kind, cut) = match value {
        Value::Null => return None,
        Value::Bool(_) => (ColumnType::Boolean, false),
        Value::Number(number) if number.is_f64() => (ColumnType::Float, false),
        Value::Number(_) => (ColumnType::Integer, false),
        Value::String(text) if dates::is_timestamp(text) => (ColumnType::Timestamp, false),
        Value::String(text) => (ColumnType::Varchar, is_cut(text)),
        Value::Array(_) | Value::Object(_) => (ColumnType::Varchar, is_cut(&value.to_string())),
    };
    Some(Cell { name, kind, cut })
}

fn is_cut(text: &str) -> bool {
    text.len() > STRING_CHARS_MAX && text.chars().count() > STRING_CHARS_MAX
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn columns(row: &Row) -> Vec<&str> {
        row.cells.iter().map(|cell| cell.name.as_str()).collect()
    }

    fn cell_of(row: &Row, name: &str) -> Option<(ColumnType, bool)> {
        row.cells.iter().find(|cell| cell.name == name).map(|cell| (cell.kind, cell.cut))
    }

    #[test]
    fn a_track_has_two_tables_and_its_properties_only_in_its_own() {
        let call = json!({"userId": "u", "event": "Email Opened", "timestamp": "2026-01-01T00:00:00Z",
            "context": {"app": {"version": 1}, "ip": null}, "properties": {"email_id": "e", "is_unique_open": true}});
        let [tracks, opened] = <[Row; 2]>::try_from(rows(Kind::Track, &call, true)).unwrap();
        assert_eq!((tracks.table.as_str(), opened.table.as_str()), ("tracks", "email_opened"));
        let common = ["id", "user_id", "received_at", "sent_at", "timestamp", "original_timestamp"];
        let rest = ["context_app_version", "uuid", "uuid_ts", "event", "event_text"];
        let common = [common.as_slice(), rest.as_slice()].concat();
        assert_eq!(columns(&tracks), common);
        assert_eq!(columns(&opened), [common.as_slice(), &["email_id", "is_unique_open"]].concat());
    }

    #[test]
    fn values_have_types_and_long_strings_are_cut() {
        let call = json!({"userId": "u", "event": "A", "properties": {"b": true, "i": 7, "f": 1.5, "t": "2026-01-01",
            "s": "x", "n": null, "list": [1, {"a": 2}], "product_id": {"sku": "p"}, "long": "é".repeat(513),
            "full": "é".repeat(512), "longList": ["x".repeat(600)]}});
        let row = rows(Kind::Track, &call, false).pop().unwrap();
        let check = |name, expected| assert_eq!(cell_of(&row, name), expected, "{name}");
        check("b", Some((ColumnType::Boolean, false)));
        check("i", Some((ColumnType::Integer, false)));
        check("f", Some((ColumnType::Float, false)));
        check("t", Some((ColumnType::Timestamp, false)));
        check("s", Some((ColumnType::Varchar, false)));
        check("n", None);
        check("list", Some((ColumnType::Varchar, false)));
        check("product_id_sku", Some((ColumnType::Varchar, false)));
        check("long", Some((ColumnType::Varchar, true)));
        check("full", Some((ColumnType::Varchar, false)));
        check("long_list", Some((ColumnType::Varchar, true)));
    }

    #[test]
    fn reserved_names_are_lost() {
        let call = json!({"userId": "u", "event": "A", "properties": {"event": "A", "userId": "u", "messageId": "m",
            "user": {"id": 7}, "context_ip": "x", "日本": 1, "name": "fine", "group_id": "fine"}});
        let row = rows(Kind::Track, &call, false).pop().unwrap();
        let mut lost = row.lost.clone();
        lost.sort();
        assert_eq!(lost, ["context_ip", "event", "messageId", "user.id", "userId", "日本"]);
        assert!(cell_of(&row, "name").is_some() && cell_of(&row, "group_id").is_some());
    }

    #[test]
    fn the_other_calls() {
        let tables = |kind, call: Value| -> Vec<(String, Vec<String>)> {
            rows(kind, &call, false).into_iter().map(|row| (row.table, row.lost)).collect()
        };
        let identify = json!({"userId": "u", "anonymousId": "a", "traits": {"email": "e", "id": 1}});
        let lost = vec!["id".to_owned()];
        assert_eq!(
            tables(Kind::Identify, identify.clone()),
            [("identifies".to_owned(), lost.clone()), ("users".to_owned(), lost)]
        );
        let users = rows(Kind::Identify, &identify, true).pop().unwrap();
        assert_eq!(columns(&users), ["id", "received_at", "uuid", "uuid_ts", "email"]);
        assert_eq!(users.entity.as_deref(), Some("u"));
        assert_eq!(tables(Kind::Identify, json!({"anonymousId": "a"})).len(), 1);
        let page = json!({"userId": "u", "name": "n", "properties": {"name": "n", "url": "x"}});
        assert_eq!(tables(Kind::Page, page), [("pages".to_owned(), vec!["name".to_owned()])]);
        let group = json!({"userId": "u", "groupId": "g", "traits": {"group_id": "g"}});
        assert_eq!(tables(Kind::Group, group), [("groups".to_owned(), vec!["group_id".to_owned()])]);
        assert_eq!(tables(Kind::Track, json!({"userId": "u", "event": "日本"})), [("tracks".to_owned(), vec![])]);
    }
}
