//! The service `headwater.v1.Query`: rows by their key, rows by conditions, SQL and live queries.
//!
//! The same answers as over HTTP, by the same ways: [`crate::question`] for views, [`crate::session`] for SQL.
//! A call that its client cancels, or whose deadline has passed, is dropped, and its work with it.

mod rows;
pub(crate) mod values;

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use datafusion::common::ScalarValue;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use headwater_catalog::definition::Definition;
use headwater_catalog::snapshot::{Snapshot, nearest};
use headwater_event::stored::Stored;
use headwater_grpc::status::status;
use headwater_grpc::v1::query_server::{Query, QueryServer};
use headwater_grpc::v1::rows_request::Of;
use headwater_grpc::v1::rows_response::Kind as RowsKind;
use headwater_grpc::v1::sql_response::Kind as SqlKind;
use headwater_grpc::v1::{
    Done, Encoding, LookupRequest, LookupResponse, RowsRequest, RowsResponse, SqlColumns, SqlRequest, SqlResponse,
    Value, ViewColumns,
};
use headwater_problem::{Problem, ProblemKind};
use tonic::{Request, Response, Status};

use crate::elsewhere::{self, ByKey};
use crate::error::QueryError;
use crate::execution;
use crate::grpc::rows::{Part, encoding, parts};
use crate::http::query_string::invalid;
use crate::http::{Rows, events, find_rows};
use crate::question::{Asked, Given, no_row, row};
use crate::session::{Answer, Session};
use crate::shared::Shared;
use crate::taken_in::{handed_in, taken_in};

/// The service, to be put beside others on a port.
pub fn service(shared: Arc<Shared>) -> QueryServer<Queries> {
    let bytes_max = shared.options.sql_bytes_max;
    QueryServer::new(Queries { shared }).max_decoding_message_size(bytes_max)
}

pub struct Queries {
    shared: Arc<Shared>,
}

type Answers<T> = BoxStream<'static, Result<T, Status>>;

#[tonic::async_trait]
impl Query for Queries {
    async fn lookup(&self, request: Request<LookupRequest>) -> Result<Response<LookupResponse>, Status> {
        let found = lookup(&self.shared, request.into_inner()).await;
        found.map(Response::new).map_err(|error| refused(&error))
    }

    type RowsStream = Answers<RowsResponse>;

    async fn rows(&self, request: Request<RowsRequest>) -> Result<Response<Self::RowsStream>, Status> {
        let rows = view_rows(&self.shared, request.into_inner()).await;
        rows.map(Response::new).map_err(|error| refused(&error))
    }

    type SqlStream = Answers<SqlResponse>;

    async fn sql(&self, request: Request<SqlRequest>) -> Result<Response<Self::SqlStream>, Status> {
        let answers = sql(&self.shared, request.into_inner()).await;
        answers.map(Response::new).map_err(|error| refused(&error))
    }
}

async fn lookup(shared: &Arc<Shared>, request: LookupRequest) -> Result<LookupResponse, QueryError> {
    let snapshot = shared.parts.catalog.snapshot();
    let definition = find_rows(&snapshot, &request.view)?;
    let stored = stored(&request.min_offset)?;
    if let Some(table) = definition.table() {
        let by_key = ByKey::of(table);
        let asked = Asked {
            stored,
            ..key(&definition.name, &by_key.schema, Some(&by_key.key), request.key)?
        };
        let row = elsewhere::row(shared, definition, &by_key, asked).await?;
        return Ok(LookupResponse {
            row: values::named(&row.ok_or_else(|| no_row(&definition.name, false))?)?,
        });
    }
    taken_in(shared, std::slice::from_ref(definition), &stored).await?;
    let view = shared.views.open(definition).await?;
    let asked = key(&definition.name, &view.schema, view.key.as_deref(), request.key)?;
    let question = asked.of(&view.schema)?;
    // All columns of the key have values, and nothing else was asked for.
    let key = question.key(view.key.as_deref()).unwrap_or_default();
    let row = row(&view, &key)?;
    Ok(LookupResponse {
        row: values::named(&row)?,
    })
}

/// The key as a question, if it has a value for each of the key columns of a view or a table and for no other.
fn key(
    name: &str,
    schema: &Schema,
    places: Option<&[usize]>,
    mut given: HashMap<String, Value>,
) -> Result<Asked<'static>, Problem> {
    let Some(places) = places else {
        let problem = invalid(format!("'{name}' has no key"));
        return Err(problem.hint("ask for rows by conditions (Rows), or with SQL"));
    };
    let columns = places.iter().map(|&place| schema.field(place).name().as_str());
    let is = match places.len() {
        0 => format!("'{name}' has one row, and no key"),
        _ => format!(
            "the key of '{name}' is {}",
            columns.clone().collect::<Vec<_>>().join(", ")
        ),
    };
    let mut asked = Asked::default();
    for column in columns.clone() {
        let value = given.remove(column);
        // A name that nobody knows may be this one, misspelt.
        let Some(value) = value else {
            let wrong = given.into_keys().min();
            return Err(match wrong {
                Some(wrong) => not_of_key(&is, &wrong, columns),
                None => invalid(format!("{is}: there is no value for {column}")),
            });
        };
        asked.equal.push((column.to_owned().into(), values::given(value)?));
    }
    match given.into_keys().min() {
        Some(wrong) => Err(not_of_key(&is, &wrong, columns)),
        None => Ok(asked),
    }
}

fn not_of_key<'a>(is: &str, wrong: &str, columns: impl Iterator<Item = &'a str>) -> Problem {
    let problem = invalid(format!("{is}, '{wrong}' is not of it"));
    match nearest(wrong, columns) {
        Some(nearest) => problem.hint(format!("did you mean '{nearest}'?")),
        None => problem,
    }
}

async fn view_rows(shared: &Arc<Shared>, request: RowsRequest) -> Result<Answers<RowsResponse>, QueryError> {
    let encoding = encoding(request.encoding)?;
    let snapshot = shared.parts.catalog.snapshot();
    let definition = view_of(&snapshot, request.of.as_ref())?;
    let asked = asked(request)?;
    let (by_key, schema, rows): (bool, SchemaRef, Rows) = match definition.table() {
        Some(table) => {
            let by_key = ByKey::of(table);
            let row = elsewhere::row(shared, definition, &by_key, asked).await?;
            (true, by_key.schema, stream::iter(row.map(Ok)).boxed())
        }
        None => {
            taken_in(shared, std::slice::from_ref(definition), &asked.stored).await?;
            let view = shared.views.open(definition).await?;
            let question = asked.of(&view.schema)?;
            match question.key(view.key.as_deref()) {
                Some(key) => {
                    let row = view.get(&key)?;
                    (true, Arc::clone(&view.schema), stream::iter(row.map(Ok)).boxed())
                }
                None => {
                    let session = Session::new(Arc::clone(shared));
                    let frame = question.frame(&session, view)?;
                    let rows = execution::rows(&shared.parts.executor, frame);
                    (false, rows.schema(), rows.map_err(QueryError::from).boxed())
                }
            }
        }
    };
    let columns = RowsKind::Columns(ViewColumns {
        view: definition.name.clone(),
        columns: values::columns(&schema),
        by_key,
    });
    let parts = parts(schema, rows, encoding).map_ok(|part| match part {
        Part::Rows(rows) => RowsKind::Rows(rows),
        Part::Arrow(bytes) => RowsKind::Arrow(bytes),
    });
    let kinds = stream::iter([Ok(columns)]).chain(parts);
    let responses = kinds.map_ok(|kind| RowsResponse { kind: Some(kind) });
    Ok(responses.map_err(|error| refused(&error)).boxed())
}

fn view_of<'a>(snapshot: &'a Snapshot, of: Option<&Of>) -> Result<&'a Arc<Definition>, Problem> {
    match of {
        Some(Of::View(name)) => find_rows(snapshot, name),
        Some(Of::Path(path)) => snapshot
            .by_http_path(path)
            .filter(|definition| definition.stream().is_none())
            .ok_or_else(|| Problem::new(ProblemKind::NotFound, format!("there is no view or table at {path}"))),
        None => Err(invalid("the request names no view")),
    }
}

fn asked(request: RowsRequest) -> Result<Asked<'static>, Problem> {
    let equal = request.r#where.into_iter().map(|condition| {
        let value = values::given(condition.value.unwrap_or_default())?;
        Ok((condition.column.into(), value))
    });
    let order = request.order.into_iter();
    let number = |name: &str, number: u64| {
        usize::try_from(number).map_err(|_| invalid(format!("'{name}' is larger than this machine can count")))
    };
    Ok(Asked {
        equal: equal.collect::<Result<Vec<(_, Given)>, Problem>>()?,
        order: order.map(|order| (order.column.into(), order.descending)).collect(),
        limit: request.limit.map(|limit| number("limit", limit)).transpose()?,
        offset: number("offset", request.offset)?,
        stored: stored(&request.min_offset)?,
    })
}

/// What the caller has stored, and wants to see.
fn stored(min_offset: &[String]) -> Result<Stored, Problem> {
    let mut stored = Stored::default();
    for text in min_offset {
        stored.merge(&handed_in(text)?);
    }
    Ok(stored)
}

async fn sql(shared: &Arc<Shared>, request: SqlRequest) -> Result<Answers<SqlResponse>, QueryError> {
    let encoding = encoding(request.encoding)?;
    let parameters = request.parameters.into_iter().map(values::parameter);
    let parameters: Vec<ScalarValue> = parameters.collect::<Result<_, Problem>>()?;
    let mut session = Session::new(Arc::clone(shared)).with(stored(&request.min_offset)?);
    if !request.from.is_empty() {
        session = session.live_from(events::from("from", &request.from)?);
    }
    let answers = session.execute(&request.sql, &parameters).await?;
    let count = answers.len();
    if count > 1 && answers.iter().any(|answer| matches!(answer, Answer::Changes { .. })) {
        return Err(invalid("a live query must be the only statement").into());
    }
    let answers = (1..).zip(answers);
    let kinds = stream::iter(answers).flat_map(move |(number, answer)| result(answer, number == count, encoding));
    let responses = kinds.map_ok(|kind| SqlResponse { kind: Some(kind) });
    Ok(responses.map_err(|error| refused(&error)).boxed())
}

/// What a statement gave, as messages.
fn result(answer: Answer, last: bool, encoding: Encoding) -> BoxStream<'static, Result<SqlKind, QueryError>> {
    let (schema, rows, live) = match answer {
        Answer::Done { tag, rows, notice } => {
            let done = Done {
                tag,
                rows: rows.map(|rows| rows as u64),
                notice: notice.unwrap_or_default(),
                last,
            };
            return stream::iter([Ok(SqlKind::Done(done))]).boxed();
        }
        Answer::Rows { schema, rows } => (schema, rows, false),
        Answer::Changes { schema, rows } => (schema, rows, true),
    };
    let columns = head(&schema, live, last);
    let parts = parts(schema, rows, encoding).map_ok(|part| match part {
        Part::Rows(rows) => SqlKind::Rows(rows),
        Part::Arrow(bytes) => SqlKind::Arrow(bytes),
    });
    stream::iter([Ok(columns)]).chain(parts).boxed()
}

fn head(schema: &SchemaRef, live: bool, last: bool) -> SqlKind {
    SqlKind::Columns(SqlColumns {
        columns: values::columns(schema),
        live,
        last,
    })
}

fn refused(error: &QueryError) -> Status {
    status(&error.problem())
}
