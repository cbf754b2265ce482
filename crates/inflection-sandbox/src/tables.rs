//! The warehouse tables that Segment would make of the accepted calls.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};

use serde::Serialize;

use crate::flatten::{Cell, ColumnType, Row};

/// Tables kept; rows for further ones are only counted.
const TABLES_MAX: usize = 4_000;
/// Columns kept in a table; values for further ones are only counted.
const COLUMNS_MAX: usize = 1_000;
/// Names of lost properties kept in a table.
const LOST_NAMES_MAX: usize = 1_000;
/// Entities told apart over all tables; rows for further ones are only counted.
const ENTITIES_MAX: usize = 1_000_000;

/// All tables, by name.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Tables {
    tables: BTreeMap<String, Table>,
    /// Rows for tables beyond the 4,000th.
    rows_not_kept: u64,
    #[serde(skip)]
    entities: HashSet<u64>,
    #[serde(skip)]
    hasher: RandomState,
}

/// One table.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Table {
    rows: u64,
    columns: Vec<Column>,
    /// Values for columns beyond the 1,000th.
    values_not_kept: u64,
    /// Properties that found no column, with the number of times.
    lost: BTreeMap<String, u64>,
    /// Rows whose entity could not be told apart from others any more.
    #[serde(skip_serializing_if = "is_zero")]
    rows_not_told_apart: u64,
    #[serde(skip)]
    places: HashMap<String, usize>,
}

/// One column.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Column {
    name: String,
    /// That of its first value.
    #[serde(rename = "type")]
    kind: ColumnType,
    /// Values longer than 512 characters.
    #[serde(skip_serializing_if = "is_zero")]
    cut: u64,
    /// Values that do not fit the type.
    #[serde(skip_serializing_if = "is_zero")]
    mismatched: u64,
}

impl Tables {
    /// Adds rows.
    pub(crate) fn add(&mut self, rows: Vec<Row>) {
        for row in rows {
            self.add_row(row);
        }
    }

    /// A copy for a view, without the indexes.
    pub(crate) fn snapshot(&self) -> Self {
        let bare = |table: &Table| Table { places: HashMap::new(), ..table.clone() };
        Self {
            tables: self.tables.iter().map(|(name, table)| (name.clone(), bare(table))).collect(),
            rows_not_kept: self.rows_not_kept,
            ..Self::default()
        }
    }

    fn add_row(&mut self, row: Row) {
        if !self.tables.contains_key(&row.table) && self.tables.len() >= TABLES_MAX {
            self.rows_not_kept += 1;
            return;
        }
        let entity = row.entity.as_ref().map(|entity| self.hasher.hash_one((&row.table, entity)));
        let table = self.tables.entry(row.table).or_default();
        match entity {
            None => table.rows += 1,
            Some(entity) if self.entities.contains(&entity) => {}
            Some(entity) if self.entities.len() < ENTITIES_MAX => {
                self.entities.insert(entity);
                table.rows += 1;
            }
            Some(_) => table.rows_not_told_apart += 1,
        }
        row.cells.into_iter().for_each(|cell| table.add_cell(cell));
        row.lost.into_iter().for_each(|name| table.add_lost(name));
    }
}

impl Table {
    fn add_cell(&mut self, cell: Cell) {
        if let Some(column) = self.places.get(&cell.name).and_then(|place| self.columns.get_mut(*place)) {
            column.cut += u64::from(cell.cut);
            column.mismatched += u64::from(!fits(column.kind, cell.kind));
        } else if self.columns.len() >= COLUMNS_MAX {
            self.values_not_kept += 1;
        } else {
            self.places.insert(cell.name.clone(), self.columns.len());
            self.columns.push(Column { name: cell.name, kind: cell.kind, cut: u64::from(cell.cut), mismatched: 0 });
        }
    }

    fn add_lost(&mut self, name: String) {
        if let Some(count) = self.lost.get_mut(&name) {
            *count += 1;
        } else if self.lost.len() < LOST_NAMES_MAX {
            self.lost.insert(name, 1);
        }
    }
}

/// Whether a column keeps such a value whole. Anything can be written out as a string.
fn fits(column: ColumnType, value: ColumnType) -> bool {
    match column {
        ColumnType::Varchar => true,
        ColumnType::Float => matches!(value, ColumnType::Float | ColumnType::Integer),
        ColumnType::Timestamp | ColumnType::Integer | ColumnType::Boolean => column == value,
    }
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn row(table: &str, cells: &[(&str, ColumnType)]) -> Row {
        let cell = |(name, kind): &(&str, ColumnType)| Cell { name: (*name).to_owned(), kind: *kind, cut: false };
        Row { table: table.to_owned(), entity: None, cells: cells.iter().map(cell).collect(), lost: Vec::new() }
    }

    #[test]
    fn the_first_value_fixes_the_type() {
        let mut tables = Tables::default();
        for kind in [ColumnType::Integer, ColumnType::Float, ColumnType::Integer, ColumnType::Varchar] {
            tables.add(vec![row("a", &[("x", kind)])]);
        }
        for kind in [ColumnType::Varchar, ColumnType::Boolean] {
            tables.add(vec![row("b", &[("x", kind)])]);
        }
        let expected = json!({"rows_not_kept": 0, "tables": {
            "a": {"rows": 4, "values_not_kept": 0, "lost": {},
                "columns": [{"name": "x", "type": "integer", "mismatched": 2}]},
            "b": {"rows": 2, "values_not_kept": 0, "lost": {}, "columns": [{"name": "x", "type": "varchar"}]}}});
        assert_eq!(serde_json::to_value(tables.snapshot()).unwrap(), expected);
    }

    #[test]
    fn an_entity_has_one_row() {
        let mut tables = Tables::default();
        for user in ["u1", "u2", "u1"] {
            let entity = Some(user.to_owned());
            tables.add(vec![Row { entity, lost: vec!["id".to_owned()], ..row("users", &[]) }]);
        }
        let users = &tables.tables["users"];
        assert_eq!((users.rows, users.lost["id"]), (2, 3));
    }

    #[test]
    fn tables_and_columns_are_bounded() {
        let mut tables = Tables::default();
        let names: Vec<String> = (0..COLUMNS_MAX + 5).map(|n| format!("c{n}")).collect();
        let cells: Vec<_> = names.iter().map(|name| (name.as_str(), ColumnType::Integer)).collect();
        tables.add(vec![row("wide", &cells)]);
        for n in 0..TABLES_MAX + 5 {
            tables.add(vec![row(&format!("t{n}"), &[])]);
        }
        let wide = &tables.tables["wide"];
        assert_eq!((wide.columns.len(), wide.values_not_kept), (COLUMNS_MAX, 5));
        assert_eq!((tables.tables.len(), tables.rows_not_kept), (TABLES_MAX, 6));
    }
}
