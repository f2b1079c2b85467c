//! The gRPC door as a whole: the services of the gateway and the queries, health and reflection.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::middleware::from_fn_with_state;
use axum::serve::ListenerExt;
use futures::stream::{self, BoxStream};
use futures::{Stream, StreamExt};
use headwater_event::clock::Clock;
use headwater_gateway::grpc::Door;
use headwater_grpc::DESCRIPTORS;
use headwater_grpc::observe::{Calls, observe};
use headwater_grpc::v1::ingest_server::SERVICE_NAME as INGEST;
use headwater_grpc::v1::query_server::SERVICE_NAME as QUERY;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::{Health, HealthServer, SERVICE_NAME as HEALTH};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};
use tonic_reflection::server::Builder as Reflection;
use tracing::warn;

use crate::cluster::roles::Role;
use crate::config::Config;
use crate::instance::{Core, StartError};
use crate::routes::{Readiness, bounds};

/// How often somebody who watches the health is told of changes.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// What is under way when the server stops may take so long.
const STOP_GRACE: Duration = Duration::from_secs(10);

/// A peer that has gone without a word is found out after a silence of 15 s and three questions.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(15);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_QUESTIONS: u32 = 3;

/// The services that are there.
pub fn router(core: &Core, config: &Config, shut: CancellationToken) -> Result<Router, StartError> {
    let reflection = || {
        Reflection::configure()
            .include_reflection_service(false)
            .register_encoded_file_descriptor_set(DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET)
    };
    let wrong = |error: tonic_reflection::server::Error| StartError::Parts(error.to_string());
    let mut routes = Routes::builder();
    let mut services = vec!["", HEALTH];
    if config.cluster.roles.has(Role::Gateway) {
        let (ingest, clock) = (Arc::clone(&core.ingest), Arc::clone(&core.clock));
        routes.add_service(Door::new(ingest, clock, bounds(config)));
        services.push(INGEST);
    }
    if config.cluster.roles.has(Role::Query) {
        routes.add_service(headwater_query::grpc::service(Arc::clone(&core.queries)));
        services.push(QUERY);
    }
    let health = Healths {
        readiness: core.readiness(),
        services,
        clock: Arc::clone(&core.clock),
        shut,
    };
    routes
        .add_service(HealthServer::new(health))
        .add_service(reflection().build_v1().map_err(wrong)?)
        .add_service(reflection().build_v1alpha().map_err(wrong)?);
    let calls = Arc::new(Calls {
        clock: Arc::clone(&core.clock),
        ids: Arc::clone(&core.queries.parts.ids),
    });
    let router = routes.routes().into_axum_router();
    Ok(router.layer(from_fn_with_state(calls, observe)))
}

/// Serves calls until `shut`, then finishes those that are under way.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    clock: Arc<dyn Clock>,
    shut: CancellationToken,
) -> io::Result<()> {
    let service = router.into_make_service_with_connect_info::<SocketAddr>();
    let told = shut.clone();
    let served = axum::serve(listener.tap_io(prepare), service)
        .with_graceful_shutdown(async move { told.cancelled().await })
        .into_future();
    tokio::select! {
        served = served => served,
        () = async { shut.cancelled().await; clock.sleep(STOP_GRACE).await } => {
            warn!("gRPC calls whose clients take nothing were cut off");
            Ok(())
        }
    }
}

/// A socket that can't be set up so serves all the same, only later or longer.
fn prepare(socket: &mut TcpStream) {
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_IDLE)
        .with_interval(KEEPALIVE_INTERVAL)
        .with_retries(KEEPALIVE_QUESTIONS);
    let set = socket.set_nodelay(true);
    if let Err(error) = set.and_then(|()| SockRef::from(&*socket).set_tcp_keepalive(&keepalive)) {
        tracing::debug!(%error, "a gRPC connection could not be set up fully");
    }
}

/// `grpc.health.v1`: serving is what `/readyz` calls ready, for the server and each service alike.
struct Healths {
    readiness: Readiness,
    /// Those that this process has; the server as a whole has no name.
    services: Vec<&'static str>,
    clock: Arc<dyn Clock>,
    shut: CancellationToken,
}

fn health(readiness: &Readiness) -> ServingStatus {
    match readiness.check() {
        Ok(()) => ServingStatus::Serving,
        Err(_) => ServingStatus::NotServing,
    }
}

#[tonic::async_trait]
impl Health for Healths {
    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        let service = request.into_inner().service;
        match self.services.contains(&&*service) {
            true => Ok(Response::new(answer(health(&self.readiness)))),
            false => Err(Status::not_found(format!("there is no service '{service}' here"))),
        }
    }

    type WatchStream = BoxStream<'static, Result<HealthCheckResponse, Status>>;

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let service = request.into_inner().service;
        let readiness = self.services.contains(&&*service).then(|| self.readiness.clone());
        let changes = changes(readiness, Arc::clone(&self.clock));
        let changes = changes.map(|status| Ok(answer(status)));
        let changes = changes.take_until(self.shut.clone().cancelled_owned());
        Ok(Response::new(changes.boxed()))
    }
}

/// The health now, and whenever it is another. Of a service that isn't there it is always the same.
fn changes(readiness: Option<Readiness>, clock: Arc<dyn Clock>) -> impl Stream<Item = ServingStatus> + Send {
    stream::unfold((readiness, clock, None), |(readiness, clock, told)| async move {
        loop {
            let status = readiness.as_ref().map_or(ServingStatus::ServiceUnknown, health);
            if told != Some(status) {
                return Some((status, (readiness, clock, Some(status))));
            }
            clock.sleep(WATCH_INTERVAL).await;
        }
    })
}

fn answer(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status.into() }
}
