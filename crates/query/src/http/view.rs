//! `GET /v1/views/{view}?column=value&order=-count,name&limit=10&offset=20`, `GET /v1/tables/{table}?column=value`, and the
//! routes of the users' choosing over views and tables elsewhere.
//!
//! With a value for every key column the answer is the one row as JSON (the other forms have it as
//! their only one), else it is all rows that are asked for ([`crate::question`]). A table elsewhere answers the
//! first alone ([`crate::elsewhere`]).

use std::sync::Arc;

use arrow::array::RecordBatch;
use axum::body::Body;
use axum::extract::{Path, RawQuery, State};
use axum::response::{IntoResponse, Response};
use futures::{StreamExt, TryStreamExt, stream};
use headwater_catalog::definition::Definition;
use headwater_catalog::snapshot::Snapshot;
use headwater_grpc::v1::rows_request::Of;
use headwater_problem::Problem;
use headwater_schema::encode::json_object;
use http::header::HeaderMap;

use crate::elsewhere::{self, ByKey};
use crate::error::QueryError;
use crate::execution;
use crate::http::query_string;
use crate::http::rows::{self, Form};
use crate::http::{find_table, find_view};
use crate::question::{Asked, Given, LIMIT, OFFSET, ORDER, Question, no_row, row};
use crate::session::Session;
use crate::shared::Shared;
use crate::taken_in::{MIN_OFFSET, handed_in, in_headers, taken_in};
use crate::upstream::Upstream;
use crate::views::ViewRows;

pub async fn rows(
    State(shared): State<Arc<Shared>>,
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    of_name(&shared, name, query, &headers, find_view).await
}

pub async fn table_row(
    State(shared): State<Arc<Shared>>,
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    of_name(&shared, name, query, &headers, find_table).await
}

/// Answers a request for what `find` knows under the name.
async fn of_name(
    shared: &Arc<Shared>,
    name: String,
    query: Option<String>,
    headers: &HeaderMap,
    find: for<'a> fn(&'a Snapshot, &str) -> Result<&'a Arc<Definition>, Problem>,
) -> Response {
    let query = query.as_deref().unwrap_or_default();
    if let Some(upstream) = &shared.parts.upstream {
        return upstream_request(upstream, Of::View(name), query, headers).await;
    }
    let snapshot = shared.parts.catalog.snapshot();
    match find(&snapshot, &name) {
        Ok(definition) => response(answer(shared, definition, query, headers).await),
        Err(problem) => problem.into_response(),
    }
}

/// Answers a request to a view's or a table's own route.
pub async fn view_request(
    shared: &Arc<Shared>,
    definition: &Arc<Definition>,
    query: &str,
    headers: &HeaderMap,
) -> Response {
    match &shared.parts.upstream {
        Some(upstream) => upstream_request(upstream, Of::View(definition.name.clone()), query, headers).await,
        None => response(answer(shared, definition, query, headers).await),
    }
}

/// Answers a request to the own route of a view or a table that this process need not know.
pub async fn path_request(upstream: &Upstream, path: &str, query: &str, headers: &HeaderMap) -> Response {
    upstream_request(upstream, Of::Path(path.to_owned()), query, headers).await
}

async fn upstream_request(upstream: &Upstream, of: Of, query: &str, headers: &HeaderMap) -> Response {
    response(answer_of(upstream, of, query, headers).await)
}

fn response(answer: Result<Response, QueryError>) -> Response {
    answer.unwrap_or_else(|error| error.problem().into_response())
}

async fn answer_of(upstream: &Upstream, of: Of, query: &str, headers: &HeaderMap) -> Result<Response, QueryError> {
    let form = Form::accepted(headers, Form::JsonArray)?;
    let asked = asked(query, headers)?;
    let of_one_row = asked.equal.is_empty();
    let mut found = upstream.rows(of, asked).await?;
    if found.by_key && form == Form::JsonArray {
        return match found.rows.try_next().await? {
            Some(row) => object(&row),
            None => Err(no_row(&found.view, of_one_row).into()),
        };
    }
    rows::response(form, found.schema, found.rows).await
}

async fn answer(
    shared: &Arc<Shared>,
    definition: &Arc<Definition>,
    query: &str,
    headers: &HeaderMap,
) -> Result<Response, QueryError> {
    let form = Form::accepted(headers, Form::JsonArray)?;
    let asked = asked(query, headers)?;
    if let Some(table) = definition.table() {
        let by_key = ByKey::of(table);
        let row = elsewhere::row(shared, definition, &by_key, asked).await?;
        if form != Form::JsonArray {
            return rows::response(form, by_key.schema, stream::iter(row.map(Ok)).boxed()).await;
        }
        return object(&row.ok_or_else(|| no_row(&definition.name, false))?);
    }
    taken_in(shared, std::slice::from_ref(definition), &asked.stored).await?;
    let view = shared.views.open(definition).await?;
    let question = asked.of(&view.schema)?;
    match question.key(view.key.as_deref()).filter(|_| form == Form::JsonArray) {
        Some(key) => object(&row(&view, &key)?),
        None => many(shared, view, question, form).await,
    }
}

/// The row as one object.
fn object(row: &RecordBatch) -> Result<Response, QueryError> {
    let mut body = Vec::with_capacity(256);
    json_object(row, 0, &mut body)?;
    Ok(rows::answer(Form::JsonArray.content_type(), Body::from(body)))
}

async fn many(
    shared: &Arc<Shared>,
    view: Arc<ViewRows>,
    question: Question,
    form: Form,
) -> Result<Response, QueryError> {
    let session = Session::new(Arc::clone(shared));
    let frame = question.frame(&session, view)?;
    let rows = execution::rows(&shared.parts.executor, frame);
    let schema = rows.schema();
    rows::response(form, schema, rows.map_err(QueryError::from).boxed()).await
}

/// The parameters as a question: what isn't `order`, `limit`, `offset` or `min_offset` is a column.
fn asked<'a>(query: &'a str, headers: &HeaderMap) -> Result<Asked<'a>, Problem> {
    let mut asked = Asked {
        stored: in_headers(headers)?,
        ..Asked::default()
    };
    for (name, text) in query_string::parse(query)? {
        match &*name {
            ORDER => asked.order = order(&text),
            LIMIT => asked.limit = Some(query_string::number(LIMIT, &text)?),
            OFFSET => asked.offset = query_string::number(OFFSET, &text)?,
            MIN_OFFSET => asked.stored.merge(&handed_in(&text)?),
            _ => asked.equal.push((name, Given::Text(text))),
        }
    }
    Ok(asked)
}

/// `-click_count,user_id`: descending by the first, then ascending by the second.
fn order<'a>(text: &str) -> Vec<(std::borrow::Cow<'a, str>, bool)> {
    let column = |part: &str| match part.strip_prefix('-') {
        Some(name) => (name.to_owned().into(), true),
        None => (part.to_owned().into(), false),
    };
    text.split(',').map(column).collect()
}
