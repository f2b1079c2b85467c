//! The connectors that take rows out.

pub mod file;
pub mod kafka;
pub mod postgres;
pub mod redis;

mod refused;

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::{Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::row::{RowConverter, Rows, SortField};
use headwater_catalog::definition::{Definition, Sink};
use headwater_catalog::snapshot::nearest;
use headwater_event::changes::{OP, readable_schema};
use headwater_event::op::{Op, changelog_schema};
use headwater_schema::column::Column;

use crate::options::{About, Options, Refusal};
use crate::sink::Opened;
use crate::source::Error;
use crate::within::Within;

/// What a sink reads.
pub(crate) struct Reads<'a> {
    definition: &'a Definition,
    /// A stream's events, or a view's changes with their `op`.
    pub(crate) schema: SchemaRef,
    /// The same without the `op`.
    pub(crate) rows: SchemaRef,
}

type Open = fn(&Reads<'_>, &mut Options<'_>) -> Result<Opened, Refusal>;

/// Every connector by its name: to add one is a line here.
const CONNECTORS: [(&str, Open); 4] = [
    ("file", file::open),
    ("kafka", kafka::open),
    ("postgres", postgres::open),
    ("redis", redis::open),
];

impl Opened {
    pub fn guarantee(&self) -> &'static str {
        self.sink.guarantee()
    }
}

/// The sink that a definition describes. Looks at the definition alone, never outside.
///
/// # Errors
/// What a person has to write otherwise.
pub fn open(sink: &Sink, reads: &Definition) -> Result<Opened, Refusal> {
    let reads = Reads::of(reads)?;
    let found = CONNECTORS.iter().find(|(name, _)| *name == sink.connector);
    let Some((name, open)) = found else {
        return Err(unknown(&sink.connector));
    };
    let mut options = Options::new(&sink.options);
    let opened = open(&reads, &mut options)?;
    options.finish(&format!("a sink with the connector {name}"))?;
    Ok(opened)
}

/// Opens the sink and looks whether it could write.
pub async fn look(sink: &Sink, reads: &Definition, within: &Within) -> Result<(), Refusal> {
    let mut opened = open(sink, reads)?;
    let refused = |error: Error| Refusal::new(About::Statement, error.to_string());
    opened.sink.look(within).await.map_err(refused)
}

impl<'a> Reads<'a> {
    fn of(definition: &'a Definition) -> Result<Self, Refusal> {
        let fields: Vec<_> = definition.columns().iter().map(Column::field).collect();
        let rows = Arc::new(Schema::new(fields));
        let schema = match definition.view() {
            None => Arc::clone(&rows),
            Some(_) if rows.field_with_name(OP).is_ok() => {
                let message = format!(
                    "{} has a column {OP}, and a sink adds one of this name",
                    definition.name
                );
                return Err(Refusal::new(About::Stream, message).hint("name it otherwise in the view's SELECT"));
            }
            Some(_) => readable_schema(&changelog_schema(&rows)),
        };
        Ok(Self {
            definition,
            schema,
            rows,
        })
    }

    /// Whether it is a view, whose rows change.
    pub(crate) fn is_view(&self) -> bool {
        self.definition.view().is_some()
    }

    /// The places of the columns that name a row of a view; none where nothing does.
    pub(crate) fn key(&self) -> Vec<usize> {
        let names = self.definition.view().and_then(|view| view.key.as_ref());
        names
            .into_iter()
            .flatten()
            .filter_map(|name| self.rows.index_of(name).ok())
            .collect()
    }

    /// Of a view the places of the columns that name a row: by them `what` is changed. None for a stream.
    pub(crate) fn key_of_changes(&self, what: &str) -> Result<Option<Vec<usize>>, Refusal> {
        let Some(view) = self.definition.view() else {
            return Ok(None);
        };
        if view.key.is_none() {
            let message = format!(
                "nothing names a row of {}, so that {what} can't be kept in step with it",
                self.definition.name
            );
            return Err(Refusal::new(About::Stream, message)
                .hint("a view with GROUP BY or DISTINCT ON has a key; or take out the rows of a derived stream"));
        };
        Ok(Some(self.key()))
    }
}

/// Of each key the last change, with whether the row is gone after it; in the order of the rows.
///
/// A row that goes because of a filter is an update without its second half.
pub(crate) fn last_changes(rows: &RecordBatch, key: &[usize]) -> Result<Vec<(u32, bool)>, ArrowError> {
    let ops = rows.column_by_name(OP).map(|column| column.as_string::<i32>());
    let gone = [Op::Delete.name(), Op::UpdateBefore.name()];
    let is_gone = |row: u32| ops.is_some_and(|ops| gone.contains(&ops.value(row as usize)));
    let rows_by_key = keys(rows, key)?;
    let mut last: HashMap<&[u8], u32> = HashMap::with_capacity(rows.num_rows());
    for row in 0..rows.num_rows() {
        let key = rows_by_key.as_ref().map_or(&[] as &[u8], |keys| keys.row(row).data());
        last.insert(key, row as u32);
    }
    let mut last: Vec<_> = last.into_values().map(|row| (row, is_gone(row))).collect();
    last.sort_unstable();
    Ok(last)
}

/// The keys of rows as bytes. None where the key has no columns.
fn keys(rows: &RecordBatch, key: &[usize]) -> Result<Option<Rows>, ArrowError> {
    if key.is_empty() {
        return Ok(None);
    }
    let columns: Vec<_> = key.iter().map(|&place| Arc::clone(rows.column(place))).collect();
    let fields = columns.iter().map(|column| SortField::new(column.data_type().clone()));
    RowConverter::new(fields.collect())?.convert_columns(&columns).map(Some)
}

fn unknown(connector: &str) -> Refusal {
    let names = CONNECTORS.map(|(name, _)| name);
    Refusal::new(
        About::Option("connector".to_owned()),
        format!("there is no connector '{connector}' for sinks"),
    )
    .near(nearest(connector, names.into_iter()))
    .hint(format!("there is {}", names.join(", ")))
}
