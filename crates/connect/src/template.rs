//! Names of keys, made of columns: `clicks:{user_id}:{page_url}`. Braces of their own are written twice.

use arrow::array::RecordBatch;
use arrow::datatypes::Schema;

use crate::texts::Texts;

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Template(Vec<Part>);

#[derive(Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    /// The place of a column.
    Column(usize),
}

/// What is wrong with one.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Wrong<'a> {
    Brace,
    Column(&'a str),
}

impl Template {
    pub(crate) fn parse<'a>(text: &'a str, schema: &Schema) -> Result<Self, Wrong<'a>> {
        let mut parts = Vec::new();
        let mut plain = String::new();
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            plain.push_str(&rest[..at]);
            let brace = &rest[at..=at];
            let after = &rest[at + 1..];
            if let Some(after) = after.strip_prefix(brace) {
                plain.push_str(brace);
                rest = after;
                continue;
            }
            let (name, after) = after.split_once('}').filter(|_| brace == "{").ok_or(Wrong::Brace)?;
            let column = schema.index_of(name).map_err(|_| Wrong::Column(name))?;
            if !plain.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut plain)));
            }
            parts.push(Part::Column(column));
            rest = after;
        }
        plain.push_str(rest);
        if !plain.is_empty() {
            parts.push(Part::Text(plain));
        }
        Ok(Self(parts))
    }

    pub(crate) fn has(&self, column: usize) -> bool {
        self.0.contains(&Part::Column(column))
    }

    /// The key of a row; or why it has none.
    pub(crate) fn key(&self, rows: &RecordBatch, texts: &Texts, row: usize) -> Result<Vec<u8>, String> {
        let mut key = Vec::new();
        for part in &self.0 {
            match part {
                Part::Text(text) => key.extend(text.as_bytes()),
                Part::Column(column) => {
                    let value = texts.get(row, *column);
                    let name = || rows.schema_ref().field(*column).name();
                    let value = value.ok_or_else(|| format!("{} is NULL, and the key is made of it", name()))?;
                    key.extend(value.iter());
                }
            }
        }
        Ok(key)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Int64Array, StringArray};

    use super::*;

    #[test]
    fn keys_are_made_of_columns() {
        let rows = RecordBatch::try_from_iter([
            ("user_id", Arc::new(StringArray::from(vec![Some("u1"), None])) as _),
            ("n", Arc::new(Int64Array::from(vec![7, 8])) as _),
        ])
        .unwrap();
        let texts = Texts::new(&rows).unwrap();
        let schema = rows.schema();
        let key = |text: &str, row| {
            let key = Template::parse(text, &schema).unwrap().key(&rows, &texts, row);
            key.map(|key| String::from_utf8(key).unwrap())
        };
        assert_eq!(key("{user_id}__+__{n}", 0).unwrap(), "u1__+__7");
        assert_eq!(key("{{{n}}}:x", 1).unwrap(), "{8}:x");
        assert_eq!(key("all", 1).unwrap(), "all");
        assert_eq!(
            key("{user_id}", 1).unwrap_err(),
            "user_id is NULL, and the key is made of it"
        );
        assert_eq!(Template::parse("{page}", &schema), Err(Wrong::Column("page")));
        for text in ["{n", "n}", "{n}}"] {
            assert_eq!(Template::parse(text, &schema), Err(Wrong::Brace), "{text}");
        }
    }
}
