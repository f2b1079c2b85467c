//! Rows on standard output: tables for people, JSON and CSV for programs.

pub mod live;

use std::fmt;
use std::io::{self, Write};

use clap::ValueEnum;
use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// How rows are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Rows {
    /// For people.
    Table,
    /// One JSON object on each line.
    Json,
    /// With a header.
    Csv,
}

/// A column of a result, as the server names it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Column {
    pub name: String,
    #[serde(rename = "type", default)]
    pub sql_type: String,
}

/// A row with its columns in the order in which they came. Values stay the JSON text that the server wrote:
/// a DECIMAL of 1.50 would be 1.5 after a floating-point number in between.
#[derive(Clone, Debug, Default)]
pub struct Row(pub Vec<(String, Box<RawValue>)>);

impl Row {
    pub fn get(&self, column: &str) -> Option<&RawValue> {
        self.0
            .iter()
            .find(|(name, _)| name == column)
            .map(|(_, value)| &**value)
    }
}

impl<'de> Deserialize<'de> for Row {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = Row;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Row, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(Row(fields))
            }
        }
        from.deserialize_map(Fields)
    }
}

/// Writes a line to standard output at once.
pub fn line(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.write_all(b"\n")?;
    out.flush()
}

pub fn json(row: &Row) -> String {
    let fields = row
        .0
        .iter()
        .map(|(name, value)| format!("{}:{value}", serde_json::Value::from(name.as_str())));
    format!("{{{}}}", fields.collect::<Vec<_>>().join(","))
}

/// The columns of a row that came without a list of them.
pub fn columns_of(row: &Row) -> Vec<Column> {
    let columns = row.0.iter().map(|(name, _)| Column {
        name: name.clone(),
        sql_type: String::new(),
    });
    columns.collect()
}

pub fn csv_header(columns: &[Column]) -> String {
    let names: Vec<_> = columns.iter().map(|column| csv_field(&column.name)).collect();
    names.join(",")
}

pub fn csv(columns: &[Column], row: &Row) -> String {
    let fields = columns
        .iter()
        .map(|column| match row.get(&column.name).map(RawValue::get) {
            None | Some("null") => String::new(),
            Some("\"\"") => "\"\"".to_owned(),
            Some(json) => csv_field(&text_of(json)),
        });
    fields.collect::<Vec<_>>().join(",")
}

/// A JSON value for a person's terminal: what comes from events can't move the cursor or change colours.
pub fn shown(json: &str) -> String {
    let text = text_of(json);
    match text.chars().any(char::is_control) {
        true => text
            .chars()
            .flat_map(|c| {
                if c.is_control() {
                    c.escape_default().collect()
                } else {
                    vec![c]
                }
            })
            .collect(),
        false => text,
    }
}

/// A JSON value as text: strings without quotes, all else as it is written.
pub fn text_of(json: &str) -> String {
    match json {
        "null" => "NULL".to_owned(),
        _ if json.starts_with('"') => serde_json::from_str(json).unwrap_or_else(|_| json.to_owned()),
        _ => json.to_owned(),
    }
}

/// "1 row", "2 rows".
pub fn counted(count: usize, what: &str) -> String {
    match count {
        1 => format!("1 {what}"),
        _ => format!("{} {what}s", grouped(count as u64)),
    }
}

/// `1234567` as `1,234,567`.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A whole result for people.
pub fn table(columns: &[Column], rows: &[Row]) -> String {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_FULL_CONDENSED);
    table.set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(columns.iter().map(|column| &column.name));
    for row in rows {
        let cells = columns
            .iter()
            .map(|column| shown(row.get(&column.name).map_or("null", RawValue::get)));
        table.add_row(cells);
    }
    for (place, column) in columns.iter().enumerate() {
        let numeric = rows.iter().any(|row| row.get(&column.name).is_some_and(is_number));
        if let Some(column) = table.column_mut(place).filter(|_| numeric) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    format!("{table}\n{}", counted(rows.len(), "row"))
}

fn is_number(value: &RawValue) -> bool {
    value
        .get()
        .starts_with(|first: char| first == '-' || first.is_ascii_digit())
}

fn csv_field(text: &str) -> String {
    match text.contains([',', '"', '\n', '\r']) {
        true => format!("\"{}\"", text.replace('"', "\"\"")),
        false => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> (Vec<Column>, Vec<Row>) {
        let column = |name: &str| Column {
            name: name.to_owned(),
            sql_type: "TEXT".to_owned(),
        };
        let row = serde_json::from_str(r#"{"page": "/a,b", "n": 1.50, "who": null}"#).unwrap();
        (vec![column("page"), column("n"), column("who")], vec![row])
    }

    #[test]
    fn csv_quotes_what_needs_it_and_leaves_null_empty() {
        let (columns, result) = sample();
        assert_eq!(csv_header(&columns), "page,n,who");
        assert_eq!(csv(&columns, &result[0]), "\"/a,b\",1.50,");
    }

    #[test]
    fn json_keeps_the_order_of_the_columns() {
        let (_, result) = sample();
        assert_eq!(json(&result[0]), r#"{"page":"/a,b","n":1.50,"who":null}"#);
    }

    #[test]
    fn tables_say_how_many_rows() {
        let (columns, result) = sample();
        let text = table(&columns, &result);
        assert!(
            text.ends_with("1 row") && text.contains("NULL") && text.contains(" 1.50 "),
            "{text}"
        );
    }

    #[test]
    fn events_do_not_drive_the_terminal() {
        assert_eq!(shown(r#""a\u001b[2J\n""#), "a\\u{1b}[2J\\n");
    }

    #[test]
    fn numbers_are_grouped() {
        assert_eq!(grouped(1), "1");
        assert_eq!(grouped(1234), "1,234");
        assert_eq!(grouped(1234567), "1,234,567");
        assert_eq!(counted(0, "row"), "0 rows");
    }
}
