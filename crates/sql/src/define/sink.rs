//! `CREATE SINK`: from its options to a definition that its connector accepts.

use headwater_catalog::definition::{Definition, Sink};
use headwater_catalog::snapshot::Snapshot;
use headwater_connect::options::{About, Refusal};
use headwater_connect::sinks;

use crate::define::source::{CONNECTOR, not_readable, of_option, refused, texts};
use crate::error::{Result, SqlError};
use crate::plan::tables::unknown_object;
use crate::statement::CreateSink;

pub fn sink(create: &CreateSink, snapshot: &Snapshot) -> Result<Sink> {
    let (name, place) = (&create.reads.value, &create.reads.place);
    let reads = snapshot.get(name);
    let reads = reads.ok_or_else(|| unknown_object(name, snapshot).at(place.clone()))?;
    if let Some(error) = not_readable(reads) {
        return Err(error.at(place.clone()));
    }
    let mut options = texts(&create.options);
    let Some(connector) = options.remove(CONNECTOR) else {
        return Err(SqlError::invalid("a sink needs a connector")
            .at(create.name.place.clone())
            .hint("WITH (connector = 'file', path = '/data/out', format = 'ndjson'), for example"));
    };
    let sink = Sink {
        reads: name.clone(),
        connector,
        options,
    };
    check(&sink, reads).map_err(|refusal| placed(create, &refusal))?;
    Ok(sink)
}

/// Whether the sink can deliver the rows of what it reads as that is now.
pub fn check(sink: &Sink, reads: &Definition) -> std::result::Result<(), Refusal> {
    sinks::open(sink, reads).map(drop)
}

/// The error for a sink that can't be, where the statement says what is wrong.
pub fn placed(create: &CreateSink, refusal: &Refusal) -> SqlError {
    let place = match &refusal.about {
        About::Stream => Some(&create.reads.place),
        about => of_option(about, &create.options),
    };
    refused(refusal, place.unwrap_or(&create.name.place))
}
