//! The HTTP door: `POST /v1/streams/{stream}/events`, and a stream's own route.
//!
//! | Content-Type | format |
//! |---|---|
//! | `application/json` | an object, or an array of objects |
//! | `application/x-ndjson`, `application/ndjson`, `application/jsonl` | an object a line |
//! | `text/csv` | CSV, its first line the names of the columns |
//! | `text/x-combined-log` | Apache's and nginx's combined access log |
//! | none, or `application/x-www-form-urlencoded` (which curl sends) | JSON, if it looks like it |
//!
//! Parameters: `format=json|ndjson|csv|combined_log` goes before the Content-Type;
//! `on_error=reject|dead_letter` says what becomes of a request with bad events. Bodies may be
//! compressed with gzip or zstd ([`decompress`]). The answer is
//! `{"accepted":n}`, with `duplicates`, and `rejected` with `errors`, where there are any. The header
//! [`OFFSET_HEADER`] says where they are.

pub mod body;
pub mod decompress;
pub mod format;

mod forwarded;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{ConnectInfo, Path, Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use headwater_event::clock::Clock;
use headwater_problem::{ERRORS_MAX, Problem, ProblemItem, ProblemKind};
use headwater_schema::decode::OnError;
use headwater_telemetry::metrics::INGEST_ERRORS;
use headwater_telemetry::request::Route;
use http::header::CONTENT_TYPE;
use http::{HeaderName, HeaderValue, StatusCode};
use metrics::counter;
use serde::Serialize;

use crate::http::format::Parameters;
use crate::ingest::error::item;
use crate::ingest::{Accepted, Delivery, Ingest};

/// Says how far the stream had come with the events of a request: a [`headwater_event::stored::Stored`], for whoever wants to read a
/// view with them in it.
pub const OFFSET_HEADER: &str = "headwater-offset";

/// The bounds of the door.
#[derive(Clone, Debug, PartialEq)]
pub struct HttpOptions {
    /// A body is no larger, as it comes and once it is decompressed.
    pub request_bytes_max: usize,
    /// A body has come as a whole after this time.
    pub body_read_timeout: Duration,
}

/// The door, and what is behind it.
#[derive(Debug)]
pub struct HttpDoor {
    pub ingest: Arc<Ingest>,
    pub clock: Arc<dyn Clock>,
    pub options: HttpOptions,
}

impl Default for HttpOptions {
    fn default() -> Self {
        Self {
            request_bytes_max: 16 << 20,
            body_read_timeout: Duration::from_secs(30),
        }
    }
}

pub fn router(door: Arc<HttpDoor>) -> Router {
    Router::new()
        .route("/v1/streams/{stream}/events", post(ingest_by_name))
        .route("/internal/streams/{stream}/rows", post(forwarded::store))
        .with_state(door)
}

/// Takes the events of a request that came by the stream's own route, `path`.
pub async fn ingest_request(door: &HttpDoor, stream: &str, path: &str, request: Request) -> Response {
    let mut response = ingest(door, stream, request).await;
    response.extensions_mut().insert(Route(path.into()));
    response
}

async fn ingest_by_name(
    State(door): State<Arc<HttpDoor>>,
    stream: Result<Path<String>, PathRejection>,
    request: Request,
) -> Response {
    match stream {
        Ok(Path(stream)) => ingest(&door, &stream, request).await,
        Err(rejection) => Problem::new(ProblemKind::UnknownStream, rejection.body_text()).into_response(),
    }
}

async fn ingest(door: &HttpDoor, stream: &str, request: Request) -> Response {
    match take(door, stream, request).await {
        Ok(accepted) => answer(&accepted),
        Err(problem) => problem.into_response(),
    }
}

async fn take(door: &HttpDoor, stream: &str, request: Request) -> Result<Accepted, Problem> {
    door.ingest.check(stream)?;
    let (head, body) = request.into_parts();
    let parameters = Parameters::parse(head.uri.query()).inspect_err(count)?;
    let declared = format::declared(&head.headers, parameters.format).inspect_err(count)?;
    let encoding = decompress::encoding(&head.headers).inspect_err(count)?;
    let read = body::read(door, &head.headers, body).await.inspect_err(count)?;
    let (body, reservation) = match encoding {
        None => read,
        Some(encoding) => {
            let bytes_max = door.options.request_bytes_max;
            let work = move || decompress::decompress(encoding, &read.0, read.1, bytes_max);
            door.ingest.compute(work).await?.inspect_err(count)?
        }
    };
    let format = declared.of(&body).inspect_err(count)?;
    let source = match parameters.on_error {
        OnError::Reject => String::new(),
        OnError::Collect => source(head.extensions.get()),
    };
    let delivery = Delivery {
        body,
        format,
        on_error: parameters.on_error,
        source: &source,
    };
    Ok(door.ingest.deliver(stream, delivery, reservation).await?)
}

fn source(client: Option<&ConnectInfo<SocketAddr>>) -> String {
    client.map_or_else(|| "http".to_owned(), |ConnectInfo(address)| format!("http {address}"))
}

/// Counts what was refused before it came to the pipeline, which counts its own.
fn count(problem: &Problem) {
    counter!(INGEST_ERRORS, "reason" => problem.kind.slug()).increment(1);
}

#[derive(Serialize)]
struct Answer {
    accepted: usize,
    #[serde(skip_serializing_if = "is_zero")]
    duplicates: usize,
    #[serde(skip_serializing_if = "is_zero")]
    rejected: usize,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<ProblemItem>,
}

fn answer(accepted: &Accepted) -> Response {
    let answer = Answer {
        accepted: accepted.accepted,
        duplicates: accepted.duplicates,
        rejected: accepted.rejected,
        errors: accepted.failures.iter().take(ERRORS_MAX).map(item).collect(),
    };
    // Numbers and strings under text keys: there is nothing in it that could fail.
    let body = serde_json::to_vec(&answer).unwrap_or_default();
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = StatusCode::OK;
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    say(&accepted.stored, &mut response);
    response
}

/// Adds where events were stored, if any were.
fn say(stored: &str, response: &mut Response) {
    // It is made of digits and signs that a header may have.
    if let Ok(value) = HeaderValue::from_str(stored)
        && !stored.is_empty()
    {
        response
            .headers_mut()
            .insert(HeaderName::from_static(OFFSET_HEADER), value);
    }
}

fn is_zero(count: &usize) -> bool {
    *count == 0
}
