//! What every HTTP request goes through: it gets an id, is counted and timed.
//!
//! 1. The id is the caller's `X-Request-Id` where that is sane, else a new one.
//! 2. It stands in a span around everything that answers the request, so each log line has it; in
//!    the request's extensions as [`RequestId`]; in the answer's `X-Request-Id`; and in the answer
//!    itself where that is a problem document.
//! 3. Requests are counted by route and status. The route is the pattern that matched, or the
//!    [`Route`] that a handler put into the extensions of its response: never the path as it came,
//!    of which there are endlessly many.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use headwater_event::clock::Clock;
use headwater_event::id::Ids;
use headwater_problem::{Problem, ProblemKind};
use http::header::{ALLOW, CONTENT_LENGTH};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use metrics::{Counter, Histogram, counter, histogram};
use parking_lot::RwLock;
use tracing::Instrument;

use crate::metrics::{HTTP_REQUEST_SECONDS, HTTP_REQUESTS};

pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// A caller's id that is longer is not taken.
pub const REQUEST_ID_BYTES_MAX: usize = 128;

/// The route of requests that matched none.
const ROUTE_NONE: &str = "none";

/// The id of a request, in its extensions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestId(pub Arc<str>);

/// Put into a response's extensions by a handler that answers for routes of the users' choosing:
/// the route to count the request under.
#[derive(Clone, Debug)]
pub struct Route(pub Arc<str>);

/// What the middleware needs and keeps.
#[derive(Debug)]
pub struct Requests {
    clock: Arc<dyn Clock>,
    ids: Arc<Ids>,
    /// Looking a metric up by its labels costs more than the rest of the middleware.
    routes: RwLock<HashMap<Box<str>, RouteMetrics>>,
}

#[derive(Debug)]
struct RouteMetrics {
    seconds: Histogram,
    by_status: HashMap<StatusCode, Counter>,
}

impl Requests {
    pub fn new(clock: Arc<dyn Clock>, ids: Arc<Ids>) -> Arc<Self> {
        Arc::new(Self {
            clock,
            ids,
            routes: RwLock::default(),
        })
    }

    fn count(&self, route: &str, status: StatusCode, took: Duration) {
        if !self.count_known(route, status, took) {
            self.learn(route, status);
            self.count_known(route, status, took);
        }
    }

    fn count_known(&self, route: &str, status: StatusCode, took: Duration) -> bool {
        let routes = self.routes.read();
        let Some(metrics) = routes.get(route) else { return false };
        let Some(counter) = metrics.by_status.get(&status) else {
            return false;
        };
        counter.increment(1);
        metrics.seconds.record(took.as_secs_f64());
        true
    }

    fn learn(&self, route: &str, status: StatusCode) {
        let mut routes = self.routes.write();
        let metrics = routes.entry(route.into()).or_insert_with(|| RouteMetrics {
            seconds: histogram!(HTTP_REQUEST_SECONDS, "route" => route.to_owned()),
            by_status: HashMap::new(),
        });
        metrics.by_status.entry(status).or_insert_with(
            || counter!(HTTP_REQUESTS, "route" => route.to_owned(), "status" => status.as_str().to_owned()),
        );
    }
}

/// The middleware: `router.layer(axum::middleware::from_fn_with_state(requests, observe))`, as the
/// outermost layer of the whole router, fallback included.
pub async fn observe(State(requests): State<Arc<Requests>>, mut request: Request, next: Next) -> Response {
    let started = requests.clock.elapsed();
    let id = request_id(request.headers(), &requests.ids);
    let matched = request.extensions().get::<MatchedPath>().cloned();
    request.extensions_mut().insert(RequestId(Arc::clone(&id)));
    // An error's span, so that whatever level is logged at all, its lines have the id.
    let span = tracing::error_span!("request", request_id = &*id);

    let mut response = next.run(request).instrument(span.clone()).await;
    let status = response.status();
    if status == StatusCode::METHOD_NOT_ALLOWED && response.extensions().get::<Problem>().is_none() {
        response = method_not_allowed(&response);
    }
    if status.is_server_error() {
        let detail = response
            .extensions()
            .get::<Problem>()
            .map(|problem| problem.detail.as_str());
        span.in_scope(|| tracing::warn!(status = status.as_u16(), detail, "request failed"));
    }
    sign(&mut response, &id);
    let took = requests.clock.elapsed().saturating_sub(started);
    let route = response.extensions().get::<Route>().map(|route| &*route.0);
    let route = route.or(matched.as_ref().map(MatchedPath::as_str));
    requests.count(route.unwrap_or(ROUTE_NONE), status, took);
    response
}

/// The caller's id if it can stand in a log line as it is, else a new one.
pub fn request_id(headers: &HeaderMap, ids: &Ids) -> Arc<str> {
    let given = headers.get(X_REQUEST_ID).and_then(|value| value.to_str().ok());
    match given.filter(|id| is_sane(id)) {
        Some(id) => id.into(),
        None => {
            let mut text = [0; uuid_text::LENGTH];
            uuid_text::encode(ids, &mut text).into()
        }
    }
}

mod uuid_text {
    //! A UUID as text, without an allocation of its own.

    use headwater_event::id::Ids;

    pub const LENGTH: usize = 36;

    pub fn encode<'a>(ids: &Ids, text: &'a mut [u8; LENGTH]) -> &'a str {
        ids.uuid().hyphenated().encode_lower(text)
    }
}

fn is_sane(id: &str) -> bool {
    (1..=REQUEST_ID_BYTES_MAX).contains(&id.len())
        && id
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.:/+=".contains(&byte))
}

fn method_not_allowed(response: &Response) -> Response {
    let allow = response.headers().get(ALLOW).cloned();
    let problem = Problem::new(ProblemKind::MethodNotAllowed, "this address does not take that method");
    let problem = match allow.as_ref().and_then(|allow| allow.to_str().ok()) {
        Some(allowed) => problem.hint(format!("allowed: {allowed}")),
        None => problem,
    };
    let mut refused = problem.into_response();
    if let Some(allow) = allow {
        refused.headers_mut().insert(ALLOW, allow);
    }
    refused
}

/// Writes the id into the answer's head, and into its body where that is a problem document.
fn sign(response: &mut Response, id: &str) {
    // A sane id is a valid header value.
    if let Ok(value) = HeaderValue::from_str(id) {
        response.headers_mut().insert(X_REQUEST_ID, value);
    }
    if let Some(problem) = response.extensions_mut().remove::<Problem>() {
        response.headers_mut().remove(CONTENT_LENGTH);
        *response.body_mut() = Body::from(problem.request_id(id).to_json());
    }
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::middleware::from_fn_with_state;
    use axum::routing::get;
    use headwater_event::clock::SystemClock;
    use http_body_util::BodyExt;
    use tower::ServiceExt;

    use super::*;

    async fn answer(request: Request) -> (StatusCode, HeaderMap, String) {
        let clock = SystemClock::new();
        let requests = Requests::new(clock.clone(), Ids::seeded(clock, 1));
        let router = Router::new()
            .route("/fine", get(|| async { "fine" }))
            .route(
                "/busy",
                get(|| async { Problem::new(ProblemKind::TooBusy, "full").retry_after(1) }),
            )
            .layer(from_fn_with_state(requests, observe));
        let (head, body) = router.oneshot(request).await.unwrap().into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        (head.status, head.headers, String::from_utf8(body.to_vec()).unwrap())
    }

    fn request(path: &str, id: Option<&str>) -> Request {
        let mut request = Request::builder().uri(path);
        if let Some(id) = id {
            request = request.header(X_REQUEST_ID, id);
        }
        request.body(Body::empty()).unwrap()
    }

    #[tokio::test]
    async fn the_callers_id_comes_back() {
        let (status, headers, body) = answer(request("/fine", Some("abc-1"))).await;
        assert_eq!(
            (status, headers[X_REQUEST_ID].to_str().unwrap(), &*body),
            (StatusCode::OK, "abc-1", "fine")
        );
    }

    #[tokio::test]
    async fn an_id_that_could_forge_log_lines_is_replaced() {
        for id in ["a b", "\"quoted\"", &"x".repeat(REQUEST_ID_BYTES_MAX + 1)] {
            let (_, headers, _) = answer(request("/fine", Some(id))).await;
            assert_eq!(headers[X_REQUEST_ID].len(), 36);
        }
    }

    #[tokio::test]
    async fn a_problem_has_the_id() {
        let (status, headers, body) = answer(request("/busy", Some("abc-2"))).await;
        assert_eq!(
            (status, &headers["retry-after"]),
            (StatusCode::TOO_MANY_REQUESTS, &HeaderValue::from(1))
        );
        assert!(body.contains(r#""request_id":"abc-2""#), "{body}");
    }

    #[tokio::test]
    async fn a_wrong_method_is_a_problem_too() {
        let request = Request::post("/fine").body(Body::empty()).unwrap();
        let (status, headers, body) = answer(request).await;
        assert_eq!(
            (status, headers[ALLOW].to_str().unwrap()),
            (StatusCode::METHOD_NOT_ALLOWED, "GET,HEAD")
        );
        assert!(body.contains("method-not-allowed"), "{body}");
    }
}
