//! `CREATE SOURCE`: from its options to a definition that its connector accepts.

use std::collections::BTreeMap;

use headwater_catalog::definition::{Definition, Object, Source};
use headwater_catalog::snapshot::Snapshot;
use headwater_connect::options::{About, Refusal};
use headwater_connect::sources;

use crate::error::{Kind, Place, Result, SqlError};
use crate::plan::tables::unknown_object;
use crate::statement::{CreateSource, OptionValue, StatementOption};

pub(super) const CONNECTOR: &str = "connector";

pub fn source(create: &CreateSource, snapshot: &Snapshot) -> Result<Source> {
    let (stream, place) = (&create.stream.value, &create.stream.place);
    let into = snapshot.get(stream);
    let into = into.ok_or_else(|| unknown_object(stream, snapshot).at(place.clone()))?;
    let mut options = texts(&create.options);
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
    let place = match &refusal.about {
        About::Format => create.encode.as_ref().map(|encode| &encode.place),
        About::Stream => Some(&create.stream.place),
        about => of_option(about, &create.options),
    };
    refused(refusal, place.unwrap_or(&create.name.place))
}

/// The error for a query that reads a source, a sink, or a table that is kept elsewhere; none for what has rows.
pub fn not_readable(definition: &Definition) -> Option<SqlError> {
    let name = &definition.name;
    match &definition.object {
        Object::Stream(_) | Object::View(_) => None,
        Object::Table(_) => Some(
            SqlError::unsupported(format!(
                "{name} is a table that is kept elsewhere: it is asked for rows by key, and not read as a whole"
            ))
            .hint(format!(
                "in a continuous query: … JOIN {name} FOR SYSTEM_TIME AS OF now() AS t ON t.key = …; else ask its own server"
            )),
        ),
        Object::Source(source) => Some(
            SqlError::invalid(format!("{name} is a source, which has no rows"))
                .hint(format!("what it brings is in the stream {}", source.stream)),
        ),
        Object::Sink(sink) => Some(
            SqlError::invalid(format!("{name} is a sink, which has no rows"))
                .hint(format!("what it takes elsewhere is in {}", sink.reads)),
        ),
    }
}

/// The place of the option that a refusal is about.
pub(super) fn of_option<'a>(about: &About, options: &'a [StatementOption]) -> Option<&'a Place> {
    let option = |name: &str| options.iter().find(|option| option.key.value == name);
    match about {
        About::Option(name) => option(name).map(|option| &option.place),
        About::Key(name) => option(name).map(|option| &option.key.place),
        About::Format | About::Stream | About::Column(_) | About::Statement => None,
    }
}

pub(super) fn refused(refusal: &Refusal, place: &Place) -> SqlError {
    let error = SqlError::new(Kind::Invalid, refusal.message.clone())
        .did_you_mean(refusal.near.as_deref())
        .at(place.clone());
    match &refusal.hint {
        Some(hint) => error.hint(hint.clone()),
        None => error,
    }
}

/// Options as a definition keeps them.
pub(super) fn texts(options: &[StatementOption]) -> BTreeMap<String, String> {
    let pair = |option: &StatementOption| (option.key.value.clone(), text(option));
    options.iter().map(pair).collect()
}

fn text(option: &StatementOption) -> String {
    match &option.value {
        OptionValue::Text(text) | OptionValue::Number(text) => text.clone(),
        OptionValue::Boolean(value) => value.to_string(),
    }
}
