//! `GET /v1/views/{view}?column=value&order=-count,name&limit=10&offset=20`, and the routes of the
//! users' choosing over views.
//!
//! With a value for every key column the answer is the one row (as JSON; the other forms have it as
//! their only one), read by its key without any planning: this is the path that dashboards and
//! services are on. A view of one row has no key columns: it answers that row to a question without
//! any. Anything else is a scan that DataFusion plans from expressions; no text of the request ever
//! becomes SQL.

use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::datatypes::Schema;
use axum::body::Body;
use axum::extract::{Path, RawQuery, State};
use axum::response::{IntoResponse, Response};
use datafusion::common::{Column, ScalarValue};
use datafusion::dataframe::DataFrame;
use datafusion::logical_expr::{Expr, SortExpr, lit};
use futures::{StreamExt, TryStreamExt};
use headwater_catalog::definition::Definition;
use headwater_catalog::snapshot::nearest;
use headwater_problem::{Problem, ProblemKind};
use headwater_schema::encode::json_object;
use http::header::HeaderMap;

use crate::error::QueryError;
use crate::execution;
use crate::http::query_string::{self, invalid};
use crate::http::rows::{self, Form};
use crate::http::{find_view, value};
use crate::session::Session;
use crate::shared::Shared;
use crate::tables::view::ViewTable;
use crate::views::ViewRows;

const ORDER: &str = "order";
const LIMIT: &str = "limit";
const OFFSET: &str = "offset";

/// What a request asks of a view.
#[derive(Debug, Default)]
struct Question {
    /// Columns by their place, and the values that they must have.
    equal: Vec<(usize, ArrayRef)>,
    /// Columns by their place, and whether in descending order.
    order: Vec<(usize, bool)>,
    limit: Option<usize>,
    offset: usize,
}

pub async fn rows(
    State(shared): State<Arc<Shared>>,
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let snapshot = shared.parts.catalog.snapshot();
    match find_view(&snapshot, &name) {
        Ok(definition) => view_request(&shared, definition, query.as_deref().unwrap_or_default(), &headers).await,
        Err(problem) => problem.into_response(),
    }
}

/// Answers a request to a view's own route, or to its route by name.
pub async fn view_request(
    shared: &Arc<Shared>,
    definition: &Arc<Definition>,
    query: &str,
    headers: &HeaderMap,
) -> Response {
    match answer(shared, definition, query, headers).await {
        Ok(response) => response,
        Err(error) => error.problem().into_response(),
    }
}

async fn answer(
    shared: &Arc<Shared>,
    definition: &Arc<Definition>,
    query: &str,
    headers: &HeaderMap,
) -> Result<Response, QueryError> {
    let form = Form::accepted(headers, Form::JsonArray)?;
    let view = shared.views.open(definition).await?;
    let question = Question::parse(query, &view.schema)?;
    match question.key(&view).filter(|_| form == Form::JsonArray) {
        Some(key) => one(&view, &key),
        None => many(shared, view, question, form).await,
    }
}

/// The row with this key.
fn one(view: &ViewRows, key: &[ArrayRef]) -> Result<Response, QueryError> {
    let Some(row) = view.get(key)? else {
        let detail = match key {
            [] => format!("'{}' has no row yet", view.definition.name),
            _ => format!("'{}' has no row with this key", view.definition.name),
        };
        return Err(Problem::new(ProblemKind::NotFound, detail).into());
    };
    let mut body = Vec::with_capacity(256);
    json_object(&row, 0, &mut body)?;
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

impl Question {
    fn parse(query: &str, schema: &Schema) -> Result<Self, Problem> {
        let mut question = Self::default();
        for (name, text) in query_string::parse(query)? {
            match &*name {
                ORDER => question.order = order(&text, schema)?,
                LIMIT => question.limit = Some(query_string::number(LIMIT, &text)?),
                OFFSET => question.offset = query_string::number(OFFSET, &text)?,
                name => {
                    let Ok(column) = schema.index_of(name) else {
                        return Err(unknown_parameter(name, schema));
                    };
                    if question.equal.iter().any(|&(other, _)| other == column) {
                        return Err(invalid(format!("'{name}' is given twice")));
                    }
                    let value = value::parse(schema.field(column), &text)?;
                    question.equal.push((column, value));
                }
            }
        }
        Ok(question)
    }

    /// The values of the key, if the question is for the one row that they name.
    fn key(&self, view: &ViewRows) -> Option<Vec<ArrayRef>> {
        let plain = self.order.is_empty() && self.limit.is_none() && self.offset == 0;
        let key = view.key.as_ref().filter(|key| plain && self.equal.len() == key.len())?;
        let value_of = |&key: &usize| {
            let (_, value) = self.equal.iter().find(|(column, _)| *column == key)?;
            Some(Arc::clone(value))
        };
        key.iter().map(value_of).collect()
    }

    fn frame(self, session: &Session, view: Arc<ViewRows>) -> Result<DataFrame, QueryError> {
        let schema = Arc::clone(&view.schema);
        let column = |place: usize| Expr::Column(Column::from_name(schema.field(place).name()));
        let mut frame = session.context().read_table(Arc::new(ViewTable::new(view)))?;
        for (place, value) in &self.equal {
            let value = ScalarValue::try_from_array(value, 0)?;
            frame = frame.filter(column(*place).eq(lit(value)))?;
        }
        if !self.order.is_empty() {
            let order = self.order.iter();
            let order = order.map(|&(place, descending)| SortExpr::new(column(place), !descending, false));
            frame = frame.sort(order.collect())?;
        }
        if self.limit.is_some() || self.offset > 0 {
            frame = frame.limit(self.offset, self.limit)?;
        }
        Ok(frame)
    }
}

/// `-click_count,user_id`: descending by the first, then ascending by the second.
fn order(text: &str, schema: &Schema) -> Result<Vec<(usize, bool)>, Problem> {
    let column = |part: &str| {
        let (name, descending) = match part.strip_prefix('-') {
            Some(name) => (name, true),
            None => (part, false),
        };
        let place = schema.index_of(name).map_err(|_| {
            let problem = invalid(format!("there is no column '{name}' to order by"));
            match nearest(name, names(schema)) {
                Some(nearest) => problem.hint(format!("did you mean '{nearest}'?")),
                None => problem,
            }
        })?;
        Ok((place, descending))
    };
    text.split(',').map(column).collect()
}

fn unknown_parameter(name: &str, schema: &Schema) -> Problem {
    query_string::unknown(name, names(schema).chain([ORDER, LIMIT, OFFSET]))
}

fn names(schema: &Schema) -> impl Iterator<Item = &str> + Clone {
    schema.fields().iter().map(|field| field.name().as_str())
}
