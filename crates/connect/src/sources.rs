//! The connectors that bring events in.

pub mod datagen;
pub mod file;
pub mod kafka;
pub mod nexmark;

use arrow::datatypes::DataType;
use headwater_catalog::definition::{Definition, Source, Stream};
use headwater_catalog::snapshot::nearest;
use headwater_schema::column::Column;
use headwater_schema::types::type_name;

use crate::options::{About, Options, Refusal};
use crate::source::{Error, Opened};
use crate::within::Within;

type Open = fn(&Source, &Stream, &mut Options<'_>) -> Result<Opened, Refusal>;

/// Every connector by its name: to add one is a line here.
const CONNECTORS: [(&str, Open); 4] = [
    ("datagen", datagen::open),
    ("file", file::open),
    ("kafka", kafka::open),
    ("nexmark", nexmark::open),
];

/// The source that a definition describes. Looks at the definition alone, never outside.
///
/// # Errors
/// What a person has to write otherwise.
pub fn open(source: &Source, into: &Definition) -> Result<Opened, Refusal> {
    let stream = writable(into)?;
    let found = CONNECTORS.iter().find(|(name, _)| *name == source.connector);
    let Some((name, open)) = found else {
        return Err(unknown(&source.connector));
    };
    let mut options = Options::new(&source.options);
    let opened = open(source, stream, &mut options)?;
    options.finish(&format!("a source with the connector {name}"))?;
    Ok(opened)
}

/// Opens the source and looks whether what it reads from is there.
pub fn look(source: &Source, into: &Definition, within: &Within) -> Result<(), Refusal> {
    let opened = open(source, into)?;
    let refused = |error: Error| Refusal::new(About::Statement, error.to_string());
    opened.source.look(within).map_err(refused)
}

fn unknown(connector: &str) -> Refusal {
    let names = CONNECTORS.map(|(name, _)| name);
    Refusal::new(
        About::Option("connector".to_owned()),
        format!("there is no connector '{connector}' for sources"),
    )
    .near(nearest(connector, names.into_iter()))
    .hint(format!("there are {}", names.join(", ")))
}

/// The stream, if sources may write into it.
fn writable(into: &Definition) -> Result<&Stream, Refusal> {
    let name = &into.name;
    let refuse = |message| Err(Refusal::new(About::Stream, message));
    match into.stream() {
        None => refuse(format!("{name} is a {}; a source writes into a stream", into.kind())),
        Some(stream) if stream.builtin => refuse(format!("{name} is filled by Headwater itself")),
        Some(stream) if stream.query.is_some() => refuse(format!("{name} is filled by its query")),
        Some(stream) if stream.idempotency.is_some() => {
            let refusal = Refusal::new(
                About::Stream,
                format!("{name} has an idempotency_key, and a source does not look at it"),
            );
            Err(refusal.hint("a source brings every event once; leave the idempotency_key out"))
        }
        Some(stream) => Ok(stream),
    }
}

/// Checks the stream's columns against the fields that a connector brings: each must be a field of the
/// same type, or have a DEFAULT.
fn check_fields(stream: &Stream, connector: &str, fields: &arrow::datatypes::Schema) -> Result<(), Refusal> {
    for column in &stream.schema.columns {
        match fields.field_with_name(&column.name) {
            Ok(field) if *field.data_type() == column.data_type && !column.json => {}
            Ok(field) => {
                let (brings, has) = (type_name(field.data_type(), false), type_of(column));
                let message = format!("{connector} brings {} as {brings}; the column is {has}", column.name);
                return Err(Refusal::new(About::Stream, message));
            }
            Err(_) if column.default.is_some() => {}
            Err(_) => {
                let names: Vec<&str> = fields.fields().iter().map(|field| field.name().as_str()).collect();
                let message = format!("{connector} brings no field '{}' for the column", column.name);
                return Err(Refusal::new(About::Stream, message)
                    .near(nearest(&column.name, names.iter().copied()))
                    .hint(format!("it brings {}; other columns need a DEFAULT", names.join(", "))));
            }
        }
    }
    Ok(())
}

fn type_of(column: &Column) -> String {
    type_name(&column.data_type, column.json)
}

/// Event time.
const TIME: DataType = DataType::Timestamp(arrow::datatypes::TimeUnit::Microsecond, None);
