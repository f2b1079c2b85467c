//! Rows as bodies of answers, in the form that the request accepts, encoded batch by batch as the
//! client takes them.
//!
//! The first batch is awaited before anything is answered, so that an error at the beginning is a
//! problem document. A later one ends NDJSON and SSE with a line that has the problem, and breaks
//! the other forms off, which the client sees as an incomplete body.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{Schema, SchemaRef};
use arrow::ipc::writer::StreamWriter;
use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use futures::stream::{BoxStream, Stream};
use futures::{StreamExt, stream};
use headwater_problem::{Problem, ProblemKind};
use headwater_schema::encode::{JsonRows, csv, json_lines};
use headwater_schema::types::field_type_name;
use http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, HeaderMap, HeaderValue};
use serde_json::json;

use crate::error::QueryError;

/// How rows look on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// `{"columns":[…],"rows":[…]}`
    Json,
    /// `[…]`
    JsonArray,
    NdJson,
    Csv,
    Arrow,
    /// Server-sent events, a row each.
    Events,
}

pub type Rows = BoxStream<'static, Result<RecordBatch, QueryError>>;

impl Form {
    /// The first form of `Accept` that there is; without the header, or for `*/*`, `default`.
    pub fn accepted(headers: &HeaderMap, default: Self) -> Result<Self, Problem> {
        let Some(accept) = headers.get(ACCEPT) else {
            return Ok(default);
        };
        let accept = accept.to_str().unwrap_or_default();
        for media in accept.split(',') {
            let media = media.split(';').next().unwrap_or_default().trim();
            return Ok(match media {
                "" | "*/*" | "application/*" => default,
                "application/json" if default == Self::JsonArray => Self::JsonArray,
                "application/json" => Self::Json,
                "application/x-ndjson" | "application/ndjson" | "application/jsonl" => Self::NdJson,
                "text/csv" => Self::Csv,
                "application/vnd.apache.arrow.stream" => Self::Arrow,
                "text/event-stream" => Self::Events,
                _ => continue,
            });
        }
        let problem = Problem::new(
            ProblemKind::InvalidQuery,
            format!("no form of answer is known for '{accept}'"),
        );
        Err(problem.hint(
            "accept application/json, application/x-ndjson, text/csv, application/vnd.apache.arrow.stream \
             or text/event-stream",
        ))
    }

    pub fn content_type(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::Json | Self::JsonArray => "application/json",
            Self::NdJson => "application/x-ndjson",
            Self::Csv => "text/csv; charset=utf-8",
            Self::Arrow => "application/vnd.apache.arrow.stream",
            Self::Events => "text/event-stream",
        })
    }

    /// Whether a problem can be told after the answer has begun.
    fn has_room_for_problems(self) -> bool {
        matches!(self, Self::NdJson | Self::Events)
    }
}

/// An answer with all of the rows.
pub async fn response(form: Form, schema: SchemaRef, mut rows: Rows) -> Result<Response, QueryError> {
    let first = rows.next().await.transpose()?;
    let rows = stream::iter(first.map(Ok)).chain(rows);
    Ok(streamed(form, schema, rows.boxed()))
}

/// An answer that begins before the first row is there.
pub fn streamed(form: Form, schema: SchemaRef, rows: Rows) -> Response {
    let body = Body::from_stream(encoded(form, schema, rows));
    answer(form.content_type(), body)
}

/// An answer that nobody may keep.
pub fn answer(content_type: HeaderValue, body: Body) -> Response {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, content_type);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// `[{"name": …, "type": …}, …]`
pub fn columns(schema: &Schema) -> serde_json::Value {
    let fields = schema.fields().iter();
    fields
        .map(|field| json!({"name": field.name(), "type": field_type_name(field)}))
        .collect()
}

/// Where the encoding of an answer is.
enum Progress {
    Beginning(Encoder, Rows),
    Rows(Encoder, Rows),
    Ended,
}

pub fn encoded(form: Form, schema: SchemaRef, rows: Rows) -> impl Stream<Item = Result<Bytes, QueryError>> {
    let begin = Progress::Beginning(Encoder::new(form, schema), rows);
    stream::unfold(begin, |progress| async move {
        match progress {
            Progress::Beginning(mut encoder, rows) => Some(match encoder.begin() {
                Ok(bytes) => (Ok(bytes), Progress::Rows(encoder, rows)),
                Err(error) => (Err(error), Progress::Ended),
            }),
            Progress::Rows(mut encoder, mut rows) => {
                let next = match rows.next().await {
                    Some(batch) => batch.and_then(|batch| encoder.batch(&batch)),
                    None => return Some((encoder.end(), Progress::Ended)),
                };
                Some(match next {
                    Ok(bytes) => (Ok(bytes), Progress::Rows(encoder, rows)),
                    Err(error) => (encoder.broken(error), Progress::Ended),
                })
            }
            Progress::Ended => None,
        }
    })
}

/// Turns batches into the bytes of one form.
pub struct Encoder {
    form: Form,
    schema: SchemaRef,
    rows: usize,
    arrow: Option<StreamWriter<Vec<u8>>>,
}

impl Encoder {
    pub fn new(form: Form, schema: SchemaRef) -> Self {
        Self {
            form,
            schema,
            rows: 0,
            arrow: None,
        }
    }

    pub fn begin(&mut self) -> Result<Bytes, QueryError> {
        let mut out = Vec::new();
        match self.form {
            Form::Json => {
                let columns = columns(&self.schema);
                out.extend_from_slice(format!("{{\"columns\":{columns},\"rows\":[").as_bytes());
            }
            Form::JsonArray => out.push(b'['),
            Form::Csv => csv(&RecordBatch::new_empty(Arc::clone(&self.schema)), true, &mut out)?,
            Form::Arrow => {
                let mut writer = StreamWriter::try_new(Vec::new(), &self.schema)?;
                out.append(writer.get_mut());
                self.arrow = Some(writer);
            }
            Form::NdJson | Form::Events => {}
        }
        Ok(out.into())
    }

    pub fn batch(&mut self, batch: &RecordBatch) -> Result<Bytes, QueryError> {
        let mut out = Vec::new();
        match self.form {
            Form::Json | Form::JsonArray => {
                let rows = JsonRows::new(batch)?;
                for row in 0..rows.len() {
                    if self.rows > 0 {
                        out.push(b',');
                    }
                    rows.write(row, &mut out);
                    self.rows += 1;
                }
            }
            Form::NdJson => json_lines(batch, &mut out)?,
            Form::Csv => csv(batch, false, &mut out)?,
            Form::Arrow => {
                if let Some(writer) = &mut self.arrow {
                    writer.write(batch)?;
                    out.append(writer.get_mut());
                }
            }
            Form::Events => {
                let rows = JsonRows::new(batch)?;
                for row in 0..rows.len() {
                    out.extend_from_slice(b"data: ");
                    rows.write(row, &mut out);
                    out.extend_from_slice(b"\n\n");
                }
            }
        }
        Ok(out.into())
    }

    pub fn end(mut self) -> Result<Bytes, QueryError> {
        Ok(match self.form {
            Form::Json => Bytes::from_static(b"]}"),
            Form::JsonArray => Bytes::from_static(b"]"),
            Form::Arrow => match &mut self.arrow {
                Some(writer) => {
                    writer.finish()?;
                    std::mem::take(writer.get_mut()).into()
                }
                None => Bytes::new(),
            },
            Form::NdJson | Form::Csv | Form::Events => Bytes::new(),
        })
    }

    /// The last that a client gets of rows that ended in an error.
    fn broken(&self, error: QueryError) -> Result<Bytes, QueryError> {
        if !self.form.has_room_for_problems() {
            return Err(error);
        }
        let problem = error.problem().to_json();
        Ok(match self.form {
            Form::Events => format!("event: error\ndata: {problem}\n\n").into(),
            _ => format!("{{\"error\":{problem}}}\n").into(),
        })
    }
}
