//! `GET /v1/streams/{stream}/events?from=…&limit=…&partition=…`: a page of a stream's events, each
//! with its place.
//!
//! The header `headwater-position` says where the next page begins: hand it back as `from`.

use std::str::FromStr;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, RawQuery, State};
use axum::response::{IntoResponse, Response};
use headwater_catalog::definition::Definition;
use headwater_log::error::Error as LogError;
use headwater_problem::{Problem, ProblemKind};
use headwater_schema::encode::JsonRows;
use http::header::{HeaderMap, HeaderName, HeaderValue};

use crate::error::QueryError;
use crate::http::find_stream;
use crate::http::message::{self, Message};
use crate::http::query_string::{self, invalid};
use crate::http::rows::{self, Form};
use crate::position::{FROM_EXPECTED, From, Position};
use crate::reader::TopicReader;
use crate::shared::Shared;

pub const POSITION: HeaderName = HeaderName::from_static("headwater-position");

const FROM: &str = "from";
const LIMIT: &str = "limit";
const PARTITION: &str = "partition";

/// Events of a page whose size nobody named.
const LIMIT_DEFAULT: usize = 100;

/// Where to read, as requests for events and live subscriptions say it.
#[derive(Debug)]
pub struct Reading {
    pub from: From,
    pub partition: Option<u32>,
    pub limit: Option<usize>,
}

pub async fn read(
    State(shared): State<Arc<Shared>>,
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let snapshot = shared.parts.catalog.snapshot();
    let answer = async {
        let definition = find_stream(&snapshot, &name)?;
        let form = Form::accepted(&headers, Form::JsonArray)?;
        let query = query.as_deref().unwrap_or_default();
        let reading = Reading::parse(query, From::Earliest, &[FROM, LIMIT, PARTITION])?;
        page(&shared, definition, reading, form).await
    };
    answer
        .await
        .unwrap_or_else(|error: QueryError| error.problem().into_response())
}

async fn page(shared: &Shared, definition: &Definition, reading: Reading, form: Form) -> Result<Response, QueryError> {
    let options = &shared.options;
    let limit = reading.limit.unwrap_or(LIMIT_DEFAULT);
    if limit > options.events_rows_max {
        let problem = invalid(format!("'limit' can be {} at most", options.events_rows_max));
        return Err(problem
            .hint("read on from the position in the answer's header headwater-position")
            .into());
    }
    let (open, between, close) = match form {
        Form::JsonArray => ("[", ",", "]"),
        Form::NdJson => ("", "\n", "\n"),
        _ => {
            let detail = "events come as application/json or application/x-ndjson";
            return Err(Problem::new(ProblemKind::InvalidQuery, detail)
                .hint("for other forms ask with SQL")
                .into());
        }
    };
    let mut reader = reading.open(shared, definition).await?;
    let mut position = reader.position();
    let mut body = open.as_bytes().to_vec();
    let mut rows = 0;
    while rows < limit && body.len() < options.events_bytes_max {
        let Some((partition, batch)) = reader.next().await? else {
            break;
        };
        let encoded = JsonRows::new(&batch.rows)?;
        for row in 0..encoded.len() {
            if rows == limit || body.len() >= options.events_bytes_max {
                break;
            }
            if rows > 0 {
                body.extend_from_slice(between.as_bytes());
            }
            let message = Message {
                partition,
                offset: batch.base + row as u64,
                position: None,
                op: None,
            };
            message::write(&message, &encoded, row, &mut body)?;
            position.advance(partition, message.offset + 1);
            rows += 1;
        }
    }
    if rows > 0 || form == Form::JsonArray {
        body.extend_from_slice(close.as_bytes());
    }
    Ok(with_position(
        rows::answer(form.content_type(), Body::from(body)),
        &position,
    ))
}

fn with_position(mut response: Response, position: &Position) -> Response {
    if let Ok(value) = HeaderValue::from_str(&position.to_string()) {
        response.headers_mut().insert(POSITION, value);
    }
    response
}

impl Reading {
    /// Reads the parameters, of which only `known` may be there.
    pub fn parse(query: &str, default: From, known: &[&str]) -> Result<Self, Problem> {
        let mut reading = Self {
            from: default,
            partition: None,
            limit: None,
        };
        for (name, value) in query_string::parse(query)? {
            if !known.contains(&&*name) {
                return Err(query_string::unknown(&name, known.iter().copied()));
            }
            match &*name {
                FROM => reading.from = from(FROM, &value)?,
                LIMIT => reading.limit = Some(query_string::number(LIMIT, &value)?),
                _ => reading.partition = Some(query_string::number(PARTITION, &value)?),
            }
        }
        Ok(reading)
    }

    pub async fn open(&self, shared: &Shared, definition: &Definition) -> Result<TopicReader, QueryError> {
        let (log, name) = (&shared.parts.log, definition.topic());
        let topic = log
            .topic(&name)
            .await?
            .ok_or_else(|| LogError::UnknownTopic(name.clone()))?;
        let partitions = topic.spec.partitions;
        if self.partition.is_some_and(|partition| partition >= partitions) {
            let detail = format!(
                "'{}' has the partitions 0 to {}",
                definition.name,
                partitions.saturating_sub(1)
            );
            return Err(invalid(detail).into());
        }
        let reader = TopicReader::open(
            Arc::clone(log),
            &name,
            partitions,
            self.partition,
            &self.from,
            shared.options.live_read_bytes_max,
        );
        Ok(reader.await?)
    }
}

/// Where to begin, out of a parameter or header.
pub fn from(name: &str, value: &str) -> Result<From, Problem> {
    From::from_str(value).map_err(|()| invalid(format!("'{name}' must be {FROM_EXPECTED}, found '{value}'")))
}
