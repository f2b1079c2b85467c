//! Folders by the values of columns, named as Hive names them: `channel=Google/hour=12`.
//!
//! A value is written as in CSV. Bytes that file systems or Hive's readers take for something else are `%` and two hexadecimal digits;
//! NULL is `__HIVE_DEFAULT_PARTITION__`.

use std::collections::HashMap;

use arrow::array::{Array, AsArray, RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::{DataType, SchemaRef};
use arrow::row::{RowConverter, SortField};
use headwater_schema::encode::JsonRows;
use headwater_schema::types::{field_type_name, is_json};

use crate::sinks::file::without;
use crate::source::Error;

const NULL: &str = "__HIVE_DEFAULT_PARTITION__";
/// What file systems take for one name.
const NAME_BYTES_MAX: usize = 255;
/// Besides control characters.
const SPECIAL: &[u8] = b"\"#%'*/:=?\\{}[]^\x7f";

/// By which columns rows are told apart, and what is left for the files.
pub(super) struct Folders {
    /// Their places in the rows.
    columns: Vec<usize>,
    names: Vec<String>,
    /// The places of the other columns.
    kept: Vec<usize>,
    file_schema: SchemaRef,
    keys: Option<RowConverter>,
}

/// Rows that go to the same folder.
pub(super) struct Group {
    /// Its path within the sink's; or why there can't be one.
    pub(super) folder: Result<String, String>,
    pub(super) rows: Vec<u32>,
}

impl Folders {
    pub(super) fn new(schema: &SchemaRef, columns: Vec<usize>) -> Result<Self, String> {
        for field in columns.iter().map(|&at| schema.field(at)) {
            let plain = match field.data_type() {
                DataType::Utf8 => !is_json(field),
                DataType::Boolean | DataType::Date32 | DataType::Timestamp(_, _) => true,
                other => other.is_integer(),
            };
            if !plain {
                return Err(format!(
                    "{} is {}, and folders are named after texts, whole numbers, booleans, dates and times",
                    field.name(),
                    field_type_name(field)
                ));
            }
        }
        let (file_schema, kept) = without(schema, &columns);
        if kept.is_empty() {
            return Err("partition_by leaves no column for the files".to_owned());
        }
        let fields = columns
            .iter()
            .map(|&at| SortField::new(schema.field(at).data_type().clone()));
        let keys = match columns.is_empty() {
            true => None,
            false => Some(RowConverter::new(fields.collect()).map_err(|error| error.to_string())?),
        };
        let name = |&at: &usize| escaped(schema.field(at).name());
        Ok(Self {
            names: columns.iter().map(name).collect(),
            columns,
            kept,
            file_schema,
            keys,
        })
    }

    /// What files hold.
    pub(super) fn file_schema(&self) -> &SchemaRef {
        &self.file_schema
    }

    /// The rows by folder, each group in their order.
    pub(super) fn split(&self, rows: &RecordBatch) -> Result<Vec<Group>, Error> {
        let count = u32::try_from(rows.num_rows()).map_err(|_| Error::outside("too many rows in one batch"))?;
        let Some(keys) = &self.keys else {
            return Ok(vec![Group {
                folder: Ok(String::new()),
                rows: (0..count).collect(),
            }]);
        };
        let columns: Vec<_> = self.columns.iter().map(|&at| rows.column(at).clone()).collect();
        let encoded = keys.convert_columns(&columns).map_err(rows_error)?;
        let mut by_key: HashMap<&[u8], Vec<u32>> = HashMap::new();
        for (row, key) in (0..count).zip(encoded.iter()) {
            by_key.entry(key.data()).or_default().push(row);
        }
        let values = JsonRows::new(rows).map_err(rows_error)?;
        let mut groups: Vec<Group> = by_key
            .into_values()
            .map(|group| Group {
                folder: self.folder(rows, &values, group[0] as usize),
                rows: group,
            })
            .collect();
        groups.sort_by_key(|group| group.rows[0]);
        Ok(groups)
    }

    /// The rows as files have them.
    pub(super) fn content(&self, rows: &RecordBatch, which: &[u32]) -> Result<RecordBatch, Error> {
        let content = rows.project(&self.kept).map_err(rows_error)?;
        if which.len() == rows.num_rows() {
            return Ok(content);
        }
        take_record_batch(&content, &UInt32Array::from(which.to_vec())).map_err(rows_error)
    }

    fn folder(&self, rows: &RecordBatch, values: &JsonRows, row: usize) -> Result<String, String> {
        let mut folder = String::new();
        for (&column, name) in self.columns.iter().zip(&self.names) {
            let value = value(rows, values, row, column);
            let part = format!("{name}={value}");
            if part.len() > NAME_BYTES_MAX {
                return Err(format!(
                    "{}: a folder of this value would have a name of {} bytes, at most {NAME_BYTES_MAX} are possible",
                    rows.schema_ref().field(column).name(),
                    part.len()
                ));
            }
            if !folder.is_empty() {
                folder.push('/');
            }
            folder.push_str(&part);
        }
        Ok(folder)
    }
}

fn value(rows: &RecordBatch, values: &JsonRows, row: usize, column: usize) -> String {
    let array = rows.column(column);
    if array.is_null(row) {
        return NULL.to_owned();
    }
    if let Some(texts) = array.as_string_opt::<i32>() {
        return match texts.value(row) {
            // Not to be taken for NULL.
            NULL => format!("%5F{}", &NULL[1..]),
            text => escaped(text),
        };
    }
    let mut written = Vec::new();
    values.write_value(row, column, &mut written);
    escaped(String::from_utf8_lossy(&written).trim_matches('"'))
}

fn escaped(text: &str) -> String {
    let special = |byte: u8| byte < b' ' || SPECIAL.contains(&byte);
    if !text.bytes().any(special) {
        return text.to_owned();
    }
    let mut escaped = String::with_capacity(text.len() + 8);
    for character in text.chars() {
        match u8::try_from(character) {
            Ok(byte) if byte.is_ascii() && special(byte) => escaped.push_str(&format!("%{byte:02X}")),
            _ => escaped.push(character),
        }
    }
    escaped
}

fn rows_error(error: arrow::error::ArrowError) -> Error {
    Error::Rows(error.to_string())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int64Array, StringArray, TimestampMicrosecondArray};

    use super::*;

    fn rows() -> RecordBatch {
        let long = "x".repeat(300);
        let texts = StringArray::from(vec![
            Some("Google"),
            None,
            Some("a/b=c:%\u{1}"),
            Some(""),
            Some(NULL),
            Some("Zürich"),
            Some(".."),
            Some("Google"),
            Some(&long),
        ]);
        let times = TimestampMicrosecondArray::from(vec![Some(0); 9]);
        let columns: [(&str, ArrayRef); 3] = [
            ("c", Arc::new(texts)),
            ("at", Arc::new(times)),
            ("n", Arc::new(Int64Array::from_iter_values(0..9))),
        ];
        RecordBatch::try_from_iter(columns).unwrap()
    }

    #[test]
    fn folders_are_named_after_values() {
        let rows = rows();
        let folders = Folders::new(&rows.schema(), vec![0, 1]).unwrap();
        let groups = folders.split(&rows).unwrap();
        let named: Vec<_> = groups
            .iter()
            .map(|group| (group.folder.as_deref().unwrap_or("-"), group.rows.clone()))
            .collect();
        let at = "at=1970-01-01T00%3A00%3A00Z";
        let expected = [
            ("c=Google", vec![0, 7]),
            ("c=__HIVE_DEFAULT_PARTITION__", vec![1]),
            ("c=a%2Fb%3Dc%3A%25%01", vec![2]),
            ("c=", vec![3]),
            ("c=%5F_HIVE_DEFAULT_PARTITION__", vec![4]),
            ("c=Zürich", vec![5]),
            ("c=..", vec![6]),
        ];
        for ((found, rows), (folder, expected)) in named.iter().zip(&expected) {
            assert_eq!((*found, rows), (format!("{folder}/{at}").as_str(), expected));
        }
        assert!(groups[7].folder.as_ref().unwrap_err().contains("302 bytes"));
        let content = folders.content(&rows, &groups[0].rows).unwrap();
        assert_eq!((content.num_columns(), content.num_rows()), (1, 2));
        assert_eq!(content.schema_ref(), folders.file_schema());
    }

    #[test]
    fn what_can_not_be_a_folder_is_refused() {
        let schema = rows().schema();
        assert!(Folders::new(&schema, vec![0, 1, 2]).is_err());
        assert!(
            Folders::new(&schema, vec![]).unwrap().split(&rows()).unwrap()[0]
                .rows
                .len()
                == 9
        );
    }
}
