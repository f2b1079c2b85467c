//! What every gRPC call goes through: it gets an id, a deadline, is counted and timed.
//!
//! 1. The id is the caller's `x-request-id` where that is sane, else a new one. It stands in a span around everything
//!    that answers the call, so each log line has it, and in the answer's metadata.
//! 2. `grpc-timeout` holds for the whole answer, the stream included: when it is over, the call ends with
//!    DEADLINE_EXCEEDED and what works on it is dropped.
//! 3. Calls are counted by method and code when their answer has ended. Who leaves before that is counted as
//!    CANCELLED. Methods that don't exist are counted together.
//!
//! Runs as a middleware of the router that tonic makes of the services, since tonic's own time limit answers with
//! CANCELLED and ends with the answer's beginning.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use headwater_event::clock::Clock;
use headwater_event::id::Ids;
use headwater_telemetry::metrics::{GRPC_REQUEST_SECONDS, GRPC_REQUESTS};
use headwater_telemetry::request::{X_REQUEST_ID, request_id};
use http::{HeaderMap, HeaderValue};
use http_body::{Body as _, Frame, SizeHint};
use metrics::{counter, histogram};
use tonic::{Code, Status};
use tracing::{Instrument, Span};

const GRPC_TIMEOUT: &str = "grpc-timeout";
const GRPC_STATUS: &str = "grpc-status";
const GRPC_MESSAGE: &str = "grpc-message";

/// The method of calls of methods that don't exist.
const METHOD_NONE: &str = "none";

/// What the middleware needs.
#[derive(Debug)]
pub struct Calls {
    pub clock: Arc<dyn Clock>,
    pub ids: Arc<Ids>,
}

/// The middleware: `router.layer(axum::middleware::from_fn_with_state(calls, observe))`.
pub async fn observe(State(calls): State<Arc<Calls>>, request: Request, next: Next) -> Response {
    let started = calls.clock.elapsed();
    let id = request_id(request.headers(), &calls.ids);
    // An error's span, so that whatever level is logged at all, its lines have the id.
    let span = tracing::error_span!("call", request_id = &*id);
    let method = request.uri().path().to_owned();
    let deadline = request.headers().get(GRPC_TIMEOUT).map(timeout);
    let mut deadline = match deadline.transpose() {
        Ok(deadline) => deadline.map(|after| at(Arc::clone(&calls.clock), after)),
        Err(status) => return signed(status.into_http::<Body>(), &id),
    };
    let answered = next.run(request).instrument(span.clone());
    let response = match &mut deadline {
        None => answered.await,
        Some(deadline) => tokio::select! {
            biased;
            response = answered => response,
            () = deadline => exceeded().into_http(),
        },
    };
    let mut ending = Ending {
        calls,
        span,
        method,
        started,
        code: None,
    };
    ending.note(response.headers());
    // What the services don't have is answered with this code, and could have any name.
    if ending.code == Some(Code::Unimplemented) {
        METHOD_NONE.clone_into(&mut ending.method);
    }
    let response = response.map(|body| watched(body, deadline, ending));
    signed(response, &id)
}

/// An answer's body that keeps to the deadline and is counted at its end.
struct Watched {
    body: Body,
    deadline: Option<Deadline>,
    ended: bool,
    ending: Ending,
}

type Deadline = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Counts the call when the answer has ended, in whatever way.
struct Ending {
    calls: Arc<Calls>,
    span: Span,
    method: String,
    started: Duration,
    code: Option<Code>,
}

fn watched(body: Body, deadline: Option<Deadline>, mut ending: Ending) -> Body {
    let ended = body.is_end_stream();
    if ended && ending.code.is_none() {
        ending.code = Some(Code::Ok);
    }
    Body::new(Watched {
        body,
        deadline,
        ended,
        ending,
    })
}

impl http_body::Body for Watched {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        if let Some(deadline) = &mut self.deadline
            && deadline.as_mut().poll(context).is_ready()
        {
            let mut trailers = HeaderMap::new();
            // The message is plain text, which a header can hold.
            let _ = exceeded().add_header(&mut trailers);
            return self.end(trailers);
        }
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        match frame {
            Some(Ok(frame)) => match frame.into_trailers() {
                Ok(trailers) => self.end(trailers),
                Err(frame) => Poll::Ready(Some(Ok(frame))),
            },
            other => {
                self.ended = true;
                Poll::Ready(other)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.ended
    }

    fn size_hint(&self) -> SizeHint {
        match self.ended {
            true => SizeHint::with_exact(0),
            false => SizeHint::default(),
        }
    }
}

impl Watched {
    /// The last that is sent. What made the answer is dropped here, and so its work ends.
    fn end(&mut self, trailers: HeaderMap) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        self.ended = true;
        self.body = Body::empty();
        self.ending.note(&trailers);
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }
}

impl Ending {
    /// Takes the code out of an answer's head or end.
    fn note(&mut self, headers: &HeaderMap) {
        self.code = code(headers);
        if let Some(code @ (Code::Internal | Code::Unknown | Code::Unavailable | Code::DataLoss)) = self.code {
            let message = headers.get(GRPC_MESSAGE).and_then(|message| message.to_str().ok());
            let method = &*self.method;
            self.span
                .in_scope(|| tracing::warn!(method, ?code, message, "call failed"));
        }
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        let method = std::mem::take(&mut self.method);
        // No code has come: the client did not wait for it.
        let code = self.code.unwrap_or(Code::Cancelled);
        let took = self.calls.clock.elapsed().saturating_sub(self.started);
        counter!(GRPC_REQUESTS, "method" => method.clone(), "code" => format!("{code:?}")).increment(1);
        histogram!(GRPC_REQUEST_SECONDS, "method" => method).record(took.as_secs_f64());
    }
}

fn code(headers: &HeaderMap) -> Option<Code> {
    headers
        .get(GRPC_STATUS)
        .map(|status| Code::from_bytes(status.as_bytes()))
}

fn exceeded() -> Status {
    Status::deadline_exceeded("the call took longer than its grpc-timeout")
}

/// Returns after that time. Longer than a clock can count is as long as it can.
fn at(clock: Arc<dyn Clock>, after: Duration) -> Deadline {
    Box::pin(async move { clock.sleep(after.min(TIMEOUT_MAX)).await })
}

/// 100 years.
const TIMEOUT_MAX: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// At most eight digits and a unit, as gRPC defines it.
fn timeout(value: &HeaderValue) -> Result<Duration, Status> {
    let wrong = || {
        let found = String::from_utf8_lossy(value.as_bytes());
        Status::invalid_argument(format!(
            "grpc-timeout must be up to eight digits and one of H, M, S, m, u, n, found '{found}'"
        ))
    };
    let text = value.to_str().map_err(|_| wrong())?;
    let (number, unit) = text.split_at_checked(text.len().saturating_sub(1)).ok_or_else(wrong)?;
    let digits = (1..=8).contains(&number.len()) && number.bytes().all(|byte| byte.is_ascii_digit());
    let number: u64 = number.parse().ok().filter(|_| digits).ok_or_else(wrong)?;
    Ok(match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return Err(wrong()),
    })
}

fn signed(mut response: Response, id: &str) -> Response {
    // A sane id is a valid header value.
    if let Ok(value) = HeaderValue::from_str(id) {
        response.headers_mut().insert(X_REQUEST_ID, value);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_understood_or_refused() {
        let of = |text: &'static str| timeout(&HeaderValue::from_static(text)).ok();
        assert_eq!(of("1S"), Some(Duration::from_secs(1)));
        assert_eq!(of("250m"), Some(Duration::from_millis(250)));
        assert_eq!(of("99999999H"), Some(Duration::from_secs(99_999_999 * 3600)));
        for wrong in ["", "S", "1", "1s", "-1S", "+1S", "999999999S", "1 S"] {
            assert_eq!(of(wrong), None, "{wrong}");
        }
    }
}
