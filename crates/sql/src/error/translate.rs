//! DataFusion's errors in our words, with places.

use datafusion::common::{Column, DataFusionError, SchemaError};
use datafusion::sql::sqlparser::tokenizer::{Location, Span};
use headwater_catalog::snapshot::nearest;

use crate::error::{Kind, Place, SqlError};
use crate::statement::Source;

/// What DataFusion says about `source`.
pub fn translate(error: &DataFusionError, source: &Source) -> SqlError {
    let diagnostic = error.diagnostic();
    let span = diagnostic.and_then(|diagnostic| diagnostic.span);
    let place = span.and_then(|span| {
        let start = Location::new(span.start.line, span.start.column);
        let end = Location::new(span.end.line, span.end.column);
        source.place(Span::new(start, end))
    });
    let (error, word) = match root(error) {
        DataFusionError::External(ours) => match ours.downcast_ref::<SqlError>() {
            Some(ours) => (ours.clone(), None),
            None => (SqlError::invalid(sentence(&ours.to_string())), None),
        },
        DataFusionError::SchemaError(error, _) => schema(error),
        DataFusionError::Plan(message) => plan(message, diagnostic.map(|diagnostic| diagnostic.message.as_str())),
        DataFusionError::NotImplemented(message) => (SqlError::unsupported(sentence(message)), None),
        DataFusionError::SQL(error, _) => (SqlError::syntax(sentence(&error.to_string())), None),
        DataFusionError::Internal(message) => (SqlError::internal(sentence(message)), None),
        other => (SqlError::invalid(sentence(&other.strip_backtrace())), None),
    };
    let found = || word.and_then(|word| find(source, &word));
    let place = error.place.clone().or(place).or_else(found);
    SqlError { place, ..error }.or_at_start(source)
}

/// The place of the first occurrence of `word` in a statement.
pub fn find(source: &Source, word: &str) -> Option<Place> {
    let text = source.text();
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    let lower = text.to_ascii_lowercase();
    let (at, _) = lower.match_indices(&word.to_ascii_lowercase()).find(|(at, found)| {
        let before = text[..*at].chars().next_back();
        let after = text[at + found.len()..].chars().next();
        !before.is_some_and(is_part) && !after.is_some_and(is_part)
    })?;
    let start = source.start();
    let before = &text[..at];
    let (line, column) = match before.rfind('\n') {
        Some(newline) => {
            let lines = before.matches('\n').count() as u64;
            (start.line + lines, before[newline + 1..].chars().count() as u64 + 1)
        }
        None => (start.line, start.column + before.chars().count() as u64),
    };
    Some(Place {
        line,
        column,
        text: text[at..at + word.len()].to_owned(),
    })
}

/// The error below all context.
fn root(error: &DataFusionError) -> &DataFusionError {
    match error {
        DataFusionError::Context(_, inner) | DataFusionError::Diagnostic(_, inner) => root(inner),
        DataFusionError::Shared(inner) => root(inner),
        DataFusionError::Collection(errors) => errors.first().map_or(error, root),
        DataFusionError::External(inner) => match inner.downcast_ref::<DataFusionError>() {
            Some(inner) => root(inner),
            None => error,
        },
        _ => error,
    }
}

fn schema(error: &SchemaError) -> (SqlError, Option<String>) {
    match error {
        SchemaError::FieldNotFound { field, valid_fields } => unknown_column(field, valid_fields),
        SchemaError::AmbiguousReference { field } => {
            let message = format!("the column '{}' is in more than one table", field.name);
            let error = SqlError::new(Kind::Ambiguous, message)
                .hint(format!("write the table's name before it: table.{}", field.name));
            (error, Some(field.name.clone()))
        }
        SchemaError::DuplicateQualifiedField { name, .. } | SchemaError::DuplicateUnqualifiedField { name } => {
            let error = SqlError::new(Kind::Ambiguous, format!("the column '{name}' is there twice"))
                .hint("give one of them another name: expression AS name");
            (error, Some(name.clone()))
        }
    }
}

fn unknown_column(field: &Column, valid: &[Column]) -> (SqlError, Option<String>) {
    let mut tables: Vec<_> = valid.iter().filter_map(|column| column.relation.as_ref()).collect();
    tables.dedup();
    let table = match (&field.relation, tables.as_slice()) {
        (Some(relation), _) => format!(" in {}", relation.table()),
        (None, [table]) => format!(" in {}", table.table()),
        (None, _) => String::new(),
    };
    let near = nearest(&field.name, valid.iter().map(|column| column.name.as_str()));
    let message = format!("there is no column '{}'{table}", field.name);
    let mut error = SqlError::new(Kind::UnknownColumn, message).did_you_mean(near);
    if near.is_none() && !valid.is_empty() {
        let names: Vec<_> = valid.iter().map(|column| column.name.as_str()).take(20).collect();
        error = error.hint(format!("the columns are {}", names.join(", ")));
    }
    (error, Some(field.name.clone()))
}

fn plan(message: &str, diagnostic: Option<&str>) -> (SqlError, Option<String>) {
    if let Some(rest) = message.strip_prefix("Invalid function '") {
        let (name, rest) = rest.split_once('\'').unwrap_or((rest, ""));
        let suggested = rest
            .split_once("Did you mean '")
            .and_then(|(_, name)| name.split('\'').next());
        let near = suggested.filter(|near| nearest(name, [*near].into_iter()).is_some());
        let error = SqlError::new(Kind::UnknownFunction, format!("there is no function {name}")).did_you_mean(near);
        return (error, Some(name.to_owned()));
    }
    let kind = match message {
        _ if message.contains("coerce") || message.contains("type") => Kind::Type,
        _ => Kind::Invalid,
    };
    let message = diagnostic.unwrap_or(message);
    let function = message
        .split_once("call to '")
        .and_then(|(_, rest)| rest.split('\'').next());
    let message = match function {
        Some(function) => format!("{function} can't take arguments of these types: {}", sentence(message)),
        None => sentence(message),
    };
    (SqlError::new(kind, message), function.map(str::to_owned))
}

/// The first line, beginning in lower case and without a full stop, free of DataFusion's prefixes.
fn sentence(message: &str) -> String {
    let mut message = message.lines().next().unwrap_or_default().trim();
    for prefix in [
        "Error during planning: ",
        "This feature is not implemented: ",
        "Schema error: ",
        "SQL error: ",
        "Execution error: ",
    ] {
        message = message.strip_prefix(prefix).unwrap_or(message).trim();
    }
    let message = message.trim_end_matches(['.', ':']);
    let mut chars = message.chars();
    match (chars.next(), chars.clone().next()) {
        (Some(first), Some(second)) if second.is_lowercase() || second == ' ' => {
            first.to_lowercase().chain(chars).collect()
        }
        _ => message.to_owned(),
    }
}
