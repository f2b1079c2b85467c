//! The connectors that take rows out.

pub mod file;

use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use headwater_catalog::definition::{Definition, Sink};
use headwater_catalog::snapshot::nearest;
use headwater_event::changes::{OP, readable_schema};
use headwater_event::op::changelog_schema;
use headwater_schema::column::Column;

use crate::options::{About, Options, Refusal};
use crate::sink::Opened;
use crate::source::Error;
use crate::within::Within;

type Open = fn(&SchemaRef, &mut Options<'_>) -> Result<Opened, Refusal>;

/// Every connector by its name: to add one is a line here.
const CONNECTORS: [(&str, Open); 1] = [("file", file::open)];

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
    let schema = rows_of(reads)?;
    let found = CONNECTORS.iter().find(|(name, _)| *name == sink.connector);
    let Some((name, open)) = found else {
        return Err(unknown(&sink.connector));
    };
    let mut options = Options::new(&sink.options);
    let opened = open(&schema, &mut options)?;
    options.finish(&format!("a sink with the connector {name}"))?;
    Ok(opened)
}

/// Opens the sink and looks whether it could write.
pub fn look(sink: &Sink, reads: &Definition, within: &Within) -> Result<(), Refusal> {
    let opened = open(sink, reads)?;
    let refused = |error: Error| Refusal::new(About::Statement, error.to_string());
    opened.sink.look(within).map_err(refused)
}

/// The rows that a sink gets: a stream's events, or a view's changes with their `op`.
fn rows_of(reads: &Definition) -> Result<SchemaRef, Refusal> {
    let fields: Vec<_> = reads.columns().iter().map(Column::field).collect();
    let schema = Schema::new(fields);
    if reads.view().is_none() {
        return Ok(Arc::new(schema));
    }
    if schema.field_with_name(OP).is_ok() {
        let message = format!("{} has a column {OP}, and a sink adds one of this name", reads.name);
        return Err(Refusal::new(About::Stream, message).hint("name it otherwise in the view's SELECT"));
    }
    Ok(readable_schema(&changelog_schema(&schema)))
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
