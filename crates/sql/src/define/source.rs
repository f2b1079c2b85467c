//! `CREATE SOURCE`: from its options to a definition that its connector accepts.

use std::collections::BTreeMap;

use headwater_catalog::definition::{Definition, Source};
use headwater_catalog::snapshot::Snapshot;
use headwater_connect::options::{About, Refusal};
use headwater_connect::sources;

use crate::error::{Kind, Result, SqlError};
use crate::plan::tables::unknown_object;
use crate::statement::{CreateSource, OptionValue, StatementOption};

const CONNECTOR: &str = "connector";

pub fn source(create: &CreateSource, snapshot: &Snapshot) -> Result<Source> {
    let (stream, place) = (&create.stream.value, &create.stream.place);
    let into = snapshot.get(stream);
    let into = into.ok_or_else(|| unknown_object(stream, snapshot).at(place.clone()))?;
    let mut options: BTreeMap<String, String> = create
        .options
        .iter()
        .map(|option| (option.key.value.clone(), text(option)))
        .collect();
    let Some(connector) = options.remove(CONNECTOR) else {
        return Err(SqlError::invalid("a source needs a connector")
            .at(create.name.place.clone())
            .hint("WITH (connector = 'nexmark'), for example"));
    };
    let source = Source {
        stream: stream.clone(),
        connector,
        options,
        encode: create.encode.as_ref().map(|encode| encode.value.to_lowercase()),
    };
    check(&source, into).map_err(|refusal| placed(create, &refusal))?;
    Ok(source)
}

/// Whether the source can write into the stream as it is now.
pub fn check(source: &Source, into: &Definition) -> std::result::Result<(), Refusal> {
    sources::open(source, into).map(drop)
}

/// The error for a source that can't be, where the statement says what is wrong.
pub fn placed(create: &CreateSource, refusal: &Refusal) -> SqlError {
    let option = |name: &str| create.options.iter().find(|option| option.key.value == name);
    let place = match &refusal.about {
        About::Option(name) => option(name).map(|option| &option.place),
        About::Key(name) => option(name).map(|option| &option.key.place),
        About::Format => create.encode.as_ref().map(|encode| &encode.place),
        About::Stream => Some(&create.stream.place),
        About::Statement => None,
    };
    let error = SqlError::new(Kind::Invalid, refusal.message.clone())
        .did_you_mean(refusal.near.as_deref())
        .at(place.unwrap_or(&create.name.place).clone());
    match &refusal.hint {
        Some(hint) => error.hint(hint.clone()),
        None => error,
    }
}

/// The error for a query that reads a source.
pub fn not_readable(source: &str, stream: &str) -> SqlError {
    SqlError::invalid(format!("{source} is a source, which has no rows"))
        .hint(format!("what it brings is in the stream {stream}"))
}

fn text(option: &StatementOption) -> String {
    match &option.value {
        OptionValue::Text(text) | OptionValue::Number(text) => text.clone(),
        OptionValue::Boolean(value) => value.to_string(),
    }
}
