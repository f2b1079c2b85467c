//! The gRPC door: the service `headwater.v1.Ingest`, in front of the same pipeline as the HTTP door.
//!
//! A call is read within the same bounds as a body over HTTP: its size, the room that is left for all of them, and time.
//! Room is taken for each piece as it comes, before tonic puts them together to the message.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::extract::ConnectInfo;
use bytes::Bytes;
use headwater_event::clock::Clock;
use headwater_grpc::status::{item as told, status};
use headwater_grpc::v1::ingest_server::{Ingest as IngestService, IngestServer};
use headwater_grpc::v1::{self, SendRequest, SendResponse};
use headwater_problem::{ERRORS_MAX, Problem, ProblemKind};
use headwater_schema::decode::{Format, OnError};
use headwater_telemetry::metrics::INGEST_ERRORS;
use http_body::Frame;
use metrics::counter;
use parking_lot::Mutex;
use tonic::body::Body;
use tonic::server::NamedService;
use tonic::{Request, Response, Status};

use crate::http::HttpOptions;
use crate::http::format::Declared;
use crate::ingest::budget::Reservation;
use crate::ingest::error::item;
use crate::ingest::{Accepted, Delivery, Ingest};

/// What stands around the events in a message, at most.
const AROUND_BYTES: usize = 4 << 10;

/// The service, to be put beside others on a port.
#[derive(Clone)]
pub struct Door {
    ingest: Arc<Ingest>,
    clock: Arc<dyn Clock>,
    options: HttpOptions,
    server: IngestServer<Events>,
}

/// The service behind the bounds.
struct Events {
    ingest: Arc<Ingest>,
}

/// The room that a call's message takes, in the call's extensions.
#[derive(Clone)]
struct Room(Arc<Mutex<Option<Reservation>>>);

impl Door {
    pub fn new(ingest: Arc<Ingest>, clock: Arc<dyn Clock>, options: HttpOptions) -> Self {
        let events = Events {
            ingest: Arc::clone(&ingest),
        };
        let bytes_max = options.request_bytes_max + AROUND_BYTES;
        Self {
            server: IngestServer::new(events).max_decoding_message_size(bytes_max),
            ingest,
            clock,
            options,
        }
    }
}

impl NamedService for Door {
    const NAME: &'static str = <IngestServer<Events> as NamedService>::NAME;
}

impl tower::Service<http::Request<Body>> for Door {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, call: http::Request<Body>) -> Self::Future {
        let room = match self.ingest.reserve(0) {
            Ok(reservation) => Room(Arc::new(Mutex::new(Some(reservation)))),
            Err(error) => {
                let refused = refused(error.into()).into_http();
                return Box::pin(std::future::ready(Ok(refused)));
            }
        };
        let (mut head, body) = call.into_parts();
        head.extensions.insert(room.clone());
        let bounded = Bounded {
            body,
            room,
            clock: Arc::clone(&self.clock),
            timeout: self.options.body_read_timeout,
            late: None,
        };
        self.server.call(http::Request::from_parts(head, Body::new(bounded)))
    }
}

/// A call's body that takes room for what comes, and comes in time or not at all.
struct Bounded {
    body: Body,
    room: Room,
    clock: Arc<dyn Clock>,
    timeout: Duration,
    /// Set when something had to be waited for.
    late: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl http_body::Body for Bounded {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) else {
            return self.poll_late(context);
        };
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
            && let Some(reservation) = &mut *self.room.0.lock()
            && let Err(error) = reservation.grow(data.len())
        {
            return Poll::Ready(Some(Err(refused(error.into()))));
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

impl Bounded {
    fn poll_late(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let (clock, timeout) = (Arc::clone(&self.clock), self.timeout);
        let late = self
            .late
            .get_or_insert_with(|| Box::pin(async move { clock.sleep(timeout).await }));
        late.as_mut().poll(context).map(|()| {
            let detail = format!("the events had not come after {} s", timeout.as_secs());
            let problem = Problem::new(ProblemKind::BodyTimeout, detail).hint("send fewer at once");
            Some(Err(refused(problem)))
        })
    }
}

#[tonic::async_trait]
impl IngestService for Events {
    async fn send(&self, request: Request<SendRequest>) -> Result<Response<SendResponse>, Status> {
        let room = request.extensions().get::<Room>().and_then(|room| room.0.lock().take());
        let source = source(request.extensions().get());
        let request = request.into_inner();
        let accepted = match what(&request) {
            Err(problem) => return Err(refused(problem)),
            Ok((format, on_error)) => {
                let delivery = Delivery {
                    body: request.events,
                    format,
                    on_error,
                    source: &source,
                };
                let room = match room {
                    Some(room) => room,
                    // Only behind something else than a door.
                    None => self
                        .ingest
                        .reserve(delivery.body.len())
                        .map_err(|error| status(&error.into()))?,
                };
                self.ingest.deliver(&request.stream, delivery, room).await
            }
        };
        let accepted = accepted.map_err(|error| status(&error.into()))?;
        Ok(Response::new(response(&accepted)))
    }
}

/// The format of the events, and what becomes of bad ones.
fn what(request: &SendRequest) -> Result<(Format, OnError), Problem> {
    let format = match v1::Format::try_from(request.format) {
        Ok(v1::Format::Json) => Format::Json,
        Ok(v1::Format::Ndjson) => Format::NdJson,
        Ok(v1::Format::Csv) => Format::Csv,
        Ok(v1::Format::CombinedLog) => Format::CombinedLog,
        Ok(v1::Format::Unspecified) => Declared::Unsaid.of(&request.events).map_err(|_| {
            Problem::new(ProblemKind::UnknownContentType, "the events do not look like JSON")
                .hint("say what format they have")
        })?,
        Err(_) => return Err(unknown("format", request.format)),
    };
    let on_error = match v1::OnError::try_from(request.on_error) {
        Ok(v1::OnError::Unspecified | v1::OnError::Reject) => OnError::Reject,
        Ok(v1::OnError::DeadLetter) => OnError::Collect,
        Err(_) => return Err(unknown("on_error", request.on_error)),
    };
    Ok((format, on_error))
}

fn unknown(field: &str, number: i32) -> Problem {
    Problem::new(ProblemKind::InvalidQuery, format!("{field} can't be {number}"))
}

fn response(accepted: &Accepted) -> SendResponse {
    let failures = accepted.failures.iter().take(ERRORS_MAX);
    SendResponse {
        accepted: accepted.accepted as u64,
        duplicates: accepted.duplicates as u64,
        rejected: accepted.rejected as u64,
        errors: failures.map(|failure| told(&item(failure))).collect(),
        offset: accepted.stored.to_string(),
    }
}

fn source(client: Option<&ConnectInfo<SocketAddr>>) -> String {
    client.map_or_else(|| "grpc".to_owned(), |ConnectInfo(address)| format!("grpc {address}"))
}

/// Counts what was refused before it came to the pipeline, which counts its own.
fn refused(problem: Problem) -> Status {
    counter!(INGEST_ERRORS, "reason" => problem.kind.slug()).increment(1);
    status(&problem)
}
