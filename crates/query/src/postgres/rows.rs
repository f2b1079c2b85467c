//! Rows and errors as the Postgres protocol has them.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::Schema;
use arrow_pg::datatypes::arrow_schema_to_pg_fields;
use arrow_pg::encode_recordbatch;
use futures::{Stream, StreamExt, stream};
use headwater_schema::types::is_json;
use headwater_sql::error::Place;
use pgwire::api::Type;
use pgwire::api::portal::Format;
use pgwire::api::results::{FieldInfo, QueryResponse, Response, Tag};
use pgwire::error::{ErrorInfo, PgWireError, PgWireResult};
use pgwire::messages::data::DataRow;

use crate::error::QueryError;
use crate::http::Rows;
use crate::session::Answer;

pub type Fields = Arc<Vec<FieldInfo>>;

/// The fields of rows, in the formats that the client wants.
pub fn fields(schema: &Schema, format: &Format) -> PgWireResult<Fields> {
    if let Format::Individual(formats) = format
        && formats.len() != schema.fields().len()
    {
        let message = format!(
            "there are formats for {} columns, and {} columns",
            formats.len(),
            schema.fields().len()
        );
        return Err(refused("08P01", message));
    }
    let mut fields = arrow_schema_to_pg_fields(schema, format, None)?;
    for (index, field) in schema.fields().iter().enumerate() {
        if is_json(field) {
            let name = field.name().clone();
            fields[index] = FieldInfo::new(name, None, None, Type::JSON, format.format_for(index));
        }
    }
    Ok(Arc::new(fields))
}

/// What a statement gave, as a response. `sql` is the text that places in errors refer to.
pub fn response(answer: Answer, format: &Format, sql: &Arc<str>) -> PgWireResult<Response> {
    match answer {
        Answer::Done { tag, rows: None, .. } => Ok(Response::Execution(Tag::new(&tag))),
        Answer::Done {
            tag, rows: Some(rows), ..
        } => Ok(Response::Execution(Tag::new(&tag).with_oid(0).with_rows(rows))),
        Answer::Rows { schema, rows } | Answer::Changes { schema, rows } => {
            let fields = fields(&schema, format)?;
            let rows = encoded(Arc::clone(&fields), rows, Arc::clone(sql));
            Ok(Response::Query(QueryResponse::new(fields, rows)))
        }
    }
}

/// Rows one by one.
pub fn encoded(fields: Fields, rows: Rows, sql: Arc<str>) -> impl Stream<Item = PgWireResult<DataRow>> + Send {
    rows.flat_map(move |batch| {
        let rows: Box<dyn Iterator<Item = _> + Send + Sync> = match batch {
            Ok(batch) => one_by_one(&fields, batch),
            Err(error) => Box::new(std::iter::once(Err(told(&error, &sql)))),
        };
        stream::iter(rows)
    })
}

fn one_by_one(fields: &Fields, batch: RecordBatch) -> Box<dyn Iterator<Item = PgWireResult<DataRow>> + Send + Sync> {
    if batch.num_columns() != fields.len() {
        let error = refused("XX000", "the rows have other columns than were announced".to_owned());
        return Box::new(std::iter::once(Err(error)));
    }
    encode_recordbatch(Arc::clone(fields), batch)
}

/// An error with its class, its place in the text, and what to do.
pub fn told(error: &QueryError, sql: &str) -> PgWireError {
    let mut info = ErrorInfo::new("ERROR".to_owned(), error.sqlstate().to_owned(), error.message());
    info.hint = error.hint();
    info.position = error.place().map(|place| position(place, sql).to_string());
    PgWireError::UserError(Box::new(info))
}

pub fn refused(sqlstate: &str, message: String) -> PgWireError {
    PgWireError::UserError(Box::new(ErrorInfo::new(
        "ERROR".to_owned(),
        sqlstate.to_owned(),
        message,
    )))
}

/// The place as the protocol counts it: characters from the beginning, from 1.
fn position(place: &Place, sql: &str) -> usize {
    let lines_before = usize::try_from(place.line.saturating_sub(1)).unwrap_or(0);
    let before: usize = sql
        .split_inclusive('\n')
        .take(lines_before)
        .map(|line| line.chars().count())
        .sum();
    before + usize::try_from(place.column).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_counted_in_characters_from_the_beginning() {
        let place = Place {
            line: 2,
            column: 8,
            text: "x".to_owned(),
        };
        assert_eq!(position(&place, "-- ä\nSELECT x"), 13);
    }
}
