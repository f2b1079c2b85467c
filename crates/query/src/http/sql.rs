//! `POST /v1/sql`: statements in, what they say out.
//!
//! The body is `{"sql": "…", "params": […]}`, or the text alone. One statement is answered by one
//! object; several by `{"results":[…]}`, in their order. The forms other than JSON hold one
//! result: that of the last statement. `EMIT CHANGES` goes on as NDJSON or SSE until the client
//! leaves. It begins now, or `"from": "earliest"`, at an offset or a time.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::rejection::BytesRejection;
use axum::extract::{RawQuery, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use datafusion::common::ScalarValue;
use futures::TryStreamExt;
use headwater_event::stored::Stored;
use headwater_problem::{Problem, ProblemKind};
use http::StatusCode;
use http::header::{CONTENT_TYPE, HeaderMap};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::error::QueryError;
use crate::http::events;
use crate::http::query_string::{self, invalid};
use crate::http::rows::{self, Encoder, Form};
use crate::session::{Answer, Session};
use crate::shared::Shared;
use crate::taken_in::{MIN_OFFSET, handed_in, in_headers};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    sql: String,
    #[serde(default)]
    params: Vec<Value>,
    /// Where `EMIT CHANGES` begins, if not now.
    from: Option<String>,
}

pub async fn run(
    State(shared): State<Arc<Shared>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let answer = async {
        let body = body.map_err(|rejection| unread(&rejection, shared.options.sql_bytes_max))?;
        let request = request(&headers, &body)?;
        let form = Form::accepted(&headers, Form::Json)?;
        let parameters = request.params.iter().map(parameter).collect::<Result<Vec<_>, _>>()?;
        let from = request.from.as_deref();
        let stored = stored(query.as_deref().unwrap_or_default(), &headers)?;
        let answers = match &shared.parts.upstream {
            Some(upstream) => {
                let bytes_max = shared.options.sql_rows_bytes_max;
                upstream.sql(&request.sql, parameters, from, stored, bytes_max).await?
            }
            None => execute(&shared, &request.sql, &parameters, from, stored).await?,
        };
        answer(form, answers, shared.options.sql_rows_bytes_max).await
    };
    answer
        .await
        .unwrap_or_else(|error: QueryError| error.problem().into_response())
}

async fn execute(
    shared: &Arc<Shared>,
    sql: &str,
    parameters: &[ScalarValue],
    from: Option<&str>,
    stored: Stored,
) -> Result<Vec<Answer>, QueryError> {
    let mut session = Session::new(Arc::clone(shared)).with(stored);
    if let Some(from) = from {
        session = session.live_from(events::from("from", from)?);
    }
    session.execute(sql, parameters).await
}

/// What has to be in what the statements read: the one parameter that there is, or a header.
fn stored(query: &str, headers: &HeaderMap) -> Result<Stored, Problem> {
    let mut stored = in_headers(headers)?;
    for (name, text) in query_string::parse(query)? {
        match &*name {
            MIN_OFFSET => stored.merge(&handed_in(&text)?),
            _ => return Err(query_string::unknown(&name, [MIN_OFFSET].into_iter())),
        }
    }
    Ok(stored)
}

async fn answer(form: Form, mut answers: Vec<Answer>, bytes_max: usize) -> Result<Response, QueryError> {
    let several = answers.len() > 1;
    if form == Form::Json && several {
        return results(answers, bytes_max).await;
    }
    match answers.pop() {
        Some(Answer::Rows { schema, rows }) => rows::response(form, schema, rows).await,
        Some(Answer::Changes { schema, rows }) => match form {
            // The default, since a JSON document without an end would be of no use.
            Form::Json | Form::NdJson => Ok(rows::streamed(Form::NdJson, schema, rows)),
            Form::Events => Ok(rows::streamed(Form::Events, schema, rows)),
            _ => {
                let problem = invalid("a live query can be had as application/x-ndjson or text/event-stream");
                Err(problem.into())
            }
        },
        Some(Answer::Done { tag, rows, notice }) => Ok(json(&done(&tag, rows, notice))),
        None => Ok(json(&done("EMPTY", None, None))),
    }
}

/// All answers in one document, which is kept in memory until it is complete.
async fn results(answers: Vec<Answer>, bytes_max: usize) -> Result<Response, QueryError> {
    let mut body = b"{\"results\":[".to_vec();
    for (index, answer) in answers.into_iter().enumerate() {
        if index > 0 {
            body.push(b',');
        }
        match answer {
            Answer::Done { tag, rows, notice } => {
                body.extend_from_slice(done(&tag, rows, notice).to_string().as_bytes());
            }
            Answer::Changes { .. } => return Err(invalid("a live query must be the only statement").into()),
            Answer::Rows { schema, mut rows } => {
                let mut encoder = Encoder::new(Form::Json, schema);
                body.extend_from_slice(&encoder.begin()?);
                while let Some(batch) = rows.try_next().await? {
                    body.extend_from_slice(&encoder.batch(&batch)?);
                    if body.len() > bytes_max {
                        let detail = format!("the results of several statements take more than {bytes_max} bytes");
                        return Err(invalid(detail).hint("send the statements one by one").into());
                    }
                }
                body.extend_from_slice(&encoder.end()?);
            }
        }
    }
    body.extend_from_slice(b"]}");
    Ok(rows::answer(Form::Json.content_type(), Body::from(body)))
}

fn done(tag: &str, rows: Option<usize>, notice: Option<String>) -> Value {
    let status = match rows {
        Some(rows) => format!("{tag} {rows}"),
        None => tag.to_owned(),
    };
    let mut done = json!({"columns": [], "rows": [], "status": status});
    if let Some(notice) = notice {
        done["notice"] = notice.into();
    }
    done
}

fn json(value: &Value) -> Response {
    rows::answer(Form::Json.content_type(), Body::from(value.to_string()))
}

fn request(headers: &HeaderMap, body: &[u8]) -> Result<Request, Problem> {
    let media = headers
        .get(CONTENT_TYPE)
        .map(|value| value.to_str().unwrap_or_default());
    let media = media.map(|media| media.split(';').next().unwrap_or_default().trim());
    let is_json = match media {
        Some("application/json") => true,
        Some("text/plain" | "application/sql") => false,
        // What curl says where nobody told it: look at the body.
        None | Some("application/x-www-form-urlencoded") => body.trim_ascii_start().starts_with(b"{"),
        Some(other) => {
            let problem = Problem::new(ProblemKind::UnknownContentType, format!("SQL can't come as '{other}'"));
            return Err(problem.hint("send application/json or text/plain"));
        }
    };
    if is_json {
        return serde_json::from_slice(body).map_err(|error| {
            Problem::new(ProblemKind::InvalidBody, error.to_string())
                .hint("send {\"sql\": \"SELECT …\", \"params\": […]}")
        });
    }
    let sql = std::str::from_utf8(body)
        .map_err(|error| Problem::new(ProblemKind::InvalidBody, format!("the text is not UTF-8: {error}")))?;
    Ok(Request {
        sql: sql.to_owned(),
        params: Vec::new(),
        from: None,
    })
}

fn parameter(value: &Value) -> Result<ScalarValue, Problem> {
    Ok(match value {
        Value::Null => ScalarValue::Null,
        Value::Bool(value) => ScalarValue::Boolean(Some(*value)),
        Value::String(value) => ScalarValue::Utf8(Some(value.clone())),
        Value::Number(value) => match (value.as_i64(), value.as_u64(), value.as_f64()) {
            (Some(value), _, _) => ScalarValue::Int64(Some(value)),
            (None, Some(value), _) => ScalarValue::UInt64(Some(value)),
            (None, None, value) => ScalarValue::Float64(value),
        },
        Value::Array(_) | Value::Object(_) => {
            return Err(invalid("a parameter must be text, a number, true, false or null"));
        }
    })
}

fn unread(rejection: &BytesRejection, bytes_max: usize) -> Problem {
    match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => Problem::new(
            ProblemKind::BodyTooLarge,
            format!("the text is larger than {bytes_max} bytes"),
        ),
        _ => Problem::new(ProblemKind::InvalidBody, rejection.body_text()),
    }
}
