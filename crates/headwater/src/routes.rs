//! The HTTP door as a whole: the gateway's routes, the queries' routes, what operators ask, and the
//! routes of the users' own choosing.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use headwater_catalog::definition::Object;
use headwater_catalog::snapshot::nearest;
use headwater_catalog::store::Catalog;
use headwater_gateway::http::{HttpDoor, HttpOptions, ingest_request};
use headwater_problem::{Problem, ProblemKind};
use headwater_query::http::{path_request, view_request};
use headwater_query::shared::Shared;
use headwater_telemetry::metrics::Metrics;
use headwater_telemetry::request::Route;
use http::{Method, StatusCode};

use crate::cluster::Cluster;
use crate::cluster::roles::{Role, Roles};
use crate::config::Config;
use crate::instance::{Core, as_size};
use crate::processor::Processor;
use crate::status::Status;

/// Ready is: what the catalog says runs here, has its state back, and nothing of it is failing.
#[derive(Clone)]
pub struct Readiness {
    pub catalog: Arc<Catalog>,
    pub processor: Arc<Processor>,
}

#[derive(Clone)]
struct Routes {
    catalog: Arc<Catalog>,
    readiness: Readiness,
    processor: Arc<Processor>,
    gateway: Arc<HttpDoor>,
    queries: Arc<Shared>,
    metrics: Metrics,
    roles: Roles,
    /// Whether questions are answered, here or by somebody else.
    answers: bool,
    cluster: Option<Arc<Cluster>>,
}

pub fn router(core: &Core, cluster: Option<Arc<Cluster>>, config: &Config, metrics: Metrics) -> Router {
    let roles = config.cluster.roles.clone();
    let gateway = Arc::new(HttpDoor {
        ingest: Arc::clone(&core.ingest),
        clock: Arc::clone(&core.clock),
        options: bounds(config),
    });
    let answers = roles.has(Role::Query) || core.queries.parts.upstream.is_some();
    let routes = Routes {
        catalog: Arc::clone(&core.catalog),
        readiness: core.readiness(),
        processor: Arc::clone(&core.processor),
        gateway: Arc::clone(&gateway),
        queries: Arc::clone(&core.queries),
        metrics,
        roles: roles.clone(),
        answers,
        cluster,
    };
    let operation = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(render_metrics))
        .route("/v1/status", get(status))
        .fallback(users_route)
        .with_state(routes);
    let gateway = roles
        .has(Role::Gateway)
        .then(|| headwater_gateway::http::router(gateway));
    let queries = Arc::clone(&core.queries);
    let queries = answers.then(|| headwater_query::http::router(queries));
    operation
        .merge(gateway.unwrap_or_default())
        .merge(queries.unwrap_or_default())
}

/// Which processes there are, what runs, and where.
async fn status(State(routes): State<Routes>) -> Json<Status> {
    Json(Status::of(&routes.processor, &routes.queries, routes.cluster.as_deref()).await)
}

/// What bounds the events of a request, by whichever door.
pub fn bounds(config: &Config) -> HttpOptions {
    HttpOptions {
        request_bytes_max: as_size(config.http.request_bytes_max),
        body_read_timeout: config.http.body_timeout,
    }
}

impl Readiness {
    /// Or why it isn't.
    pub fn check(&self) -> Result<(), String> {
        let applied = *self.processor.applied().borrow();
        if applied < self.catalog.snapshot().version {
            return Err("starting".to_owned());
        }
        for query in self.processor.status() {
            if let Some(why) = query.why_not_ready() {
                return Err(format!("{}: {why}", query.name));
            }
        }
        Ok(())
    }
}

async fn ready(State(routes): State<Routes>) -> Response {
    match routes.readiness.check() {
        Ok(()) => "ready\n".into_response(),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response(),
    }
}

async fn render_metrics(State(routes): State<Routes>) -> String {
    routes.processor.publish_metrics().await;
    routes.queries.freshness.publish(&routes.queries);
    routes.metrics.render()
}

/// A stream takes events on its `http.path`, a view or a table elsewhere answers on its own.
async fn users_route(State(routes): State<Routes>, request: Request) -> Response {
    let snapshot = routes.catalog.snapshot();
    let Some(definition) = snapshot.by_http_path(request.uri().path()).cloned() else {
        return elsewhere(&routes, request).await;
    };
    let path = definition.http_path().unwrap_or_default();
    let served = match &definition.object {
        Object::Stream(_) => routes.roles.has(Role::Gateway),
        Object::View(_) | Object::Source(_) | Object::Sink(_) | Object::Table(_) => routes.answers,
    };
    if !served {
        return no_route(&routes, path);
    }
    match (&definition.object, request.method()) {
        (Object::Stream(_), &Method::POST) => ingest_request(&routes.gateway, &definition.name, path, request).await,
        (Object::View(_) | Object::Table(_), &Method::GET) => {
            let query = request.uri().query().unwrap_or_default();
            let mut response = view_request(&routes.queries, &definition, query, request.headers()).await;
            response.extensions_mut().insert(Route(path.into()));
            response
        }
        (Object::Stream(_), _) => wrong_method("POST"),
        (Object::View(_) | Object::Table(_), _) => wrong_method("GET"),
        (Object::Source(_) | Object::Sink(_), _) => no_route(&routes, path),
    }
}

/// What this process doesn't know, the query server may that answers in its place.
async fn elsewhere(routes: &Routes, request: Request) -> Response {
    let (head, _) = request.into_parts();
    let path = head.uri.path();
    match &routes.queries.parts.upstream {
        Some(upstream) if head.method == Method::GET => {
            let query = head.uri.query().unwrap_or_default();
            path_request(upstream, path, query, &head.headers).await
        }
        _ => no_route(routes, path),
    }
}

fn no_route(routes: &Routes, path: &str) -> Response {
    let snapshot = routes.catalog.snapshot();
    let paths: Vec<&str> = snapshot.iter().filter_map(|object| object.http_path()).collect();
    let problem = Problem::new(ProblemKind::NotFound, format!("there is nothing at {path}"));
    if routes.roles != Roles::all() {
        let hint = format!(
            "this process has the roles {} alone: ask one that has the others",
            routes.roles
        );
        return problem.hint(hint).into_response();
    }
    let problem = match nearest(path, paths.into_iter()) {
        Some(path) => problem.hint(format!("did you mean {path}?")),
        None => problem.hint("streams take events at /v1/streams/{stream}/events, views answer at /v1/views/{view}"),
    };
    problem.into_response()
}

fn wrong_method(allowed: &str) -> Response {
    let problem = Problem::new(ProblemKind::MethodNotAllowed, "this address does not take that method");
    problem.hint(format!("use {allowed}")).into_response()
}
