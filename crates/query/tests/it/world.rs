//! An instance in miniature: a log in memory, a catalog, an engine that runs what the catalog says,
//! and the doors.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::Schema;
use axum::middleware::from_fn_with_state;
use headwater_catalog::definition::{Definition, Object};
use headwater_catalog::store::Catalog;
use headwater_connect::delivery::Sinks;
use headwater_connect::lookup::Lookups;
use headwater_connect::runtime::Sources;
use headwater_connect::within::Within;
use headwater_engine::engine::{Engine, EngineOptions, Running};
use headwater_event::clock::{Clock, SystemClock};
use headwater_event::id::Ids;
use headwater_event::op::changelog_schema;
use headwater_gateway::ingest::{Ingest, IngestOptions};
use headwater_grpc::observe::{Calls, observe};
use headwater_grpc::v1::query_client::QueryClient;
use headwater_log::Log;
use headwater_log::memory::MemoryLog;
use headwater_log::topic::{Cleanup, TopicSpec};
use headwater_log::work::Work;
use headwater_query::session::{Answer, Session};
use headwater_query::shared::{Parts, QueryOptions, Shared};
use headwater_query::upstream::Upstream;
use reqwest::{Client, Response};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::transport::Channel;

const STREAM: &str = "CREATE STREAM clicks (user_id TEXT NOT NULL, page TEXT NOT NULL, n BIGINT DEFAULT 1, \
                      extra JSON, time_stamp TIMESTAMP NOT NULL DEFAULT now()) \
                      PARTITION BY (user_id) WITH (partitions = 2)";
const VIEW: &str = "CREATE MATERIALIZED VIEW page_clicks AS \
                    SELECT user_id, page, count(*) AS clicks FROM clicks GROUP BY user_id, page";

pub struct World {
    pub shared: Arc<Shared>,
    pub http: String,
    pub postgres: SocketAddr,
    pub client: Client,
    stop: CancellationToken,
}

impl World {
    /// Without anything in the catalog.
    pub async fn empty() -> Self {
        Self::of(None).await
    }

    /// With nothing of its own, asking at these addresses.
    pub async fn in_front_of(addresses: &[SocketAddr], timeout: Duration) -> Self {
        let addresses: Vec<_> = addresses.iter().map(SocketAddr::to_string).collect();
        let upstream = Upstream::new(&addresses, timeout, SystemClock::new()).unwrap();
        Self::of(Some(upstream)).await
    }

    async fn of(upstream: Option<Upstream>) -> Self {
        let clock: Arc<dyn Clock> = SystemClock::new();
        let log: Arc<dyn Log> = MemoryLog::new(Arc::clone(&clock));
        let ids = Ids::seeded(Arc::clone(&clock), 1);
        let catalog = Catalog::open(Arc::clone(&log)).await.unwrap();
        let options = EngineOptions {
            threads: 1,
            ..EngineOptions::default()
        };
        let engine = Engine::new(options, Arc::clone(&log), Arc::clone(&clock)).unwrap();
        let (applied, receiver) = watch::channel(0);
        tokio::spawn(process(
            Arc::clone(&catalog),
            Arc::clone(&log),
            Arc::clone(&engine),
            applied,
        ));
        let options = IngestOptions {
            threads: 1,
            ..IngestOptions::default()
        };
        let (in_log, in_catalog) = (Arc::clone(&log), Arc::clone(&catalog));
        let ingest = Ingest::new(options, in_log, in_catalog, Arc::clone(&clock), Arc::clone(&ids), None).unwrap();
        let shared = headwater_connect::shared::Shared {
            log: Arc::clone(&log),
            clock: Arc::clone(&clock),
            ids: Arc::clone(&ids),
            dead_letters: "dead_letters".into(),
            within: Within::default(),
            work: Work::all(),
        };
        let sources = Sources::new(1, shared.clone()).unwrap();
        let sinks = Sinks::new(1, shared).unwrap();
        let lookups = Lookups::new(Arc::clone(&clock), Arc::clone(&ids), Within::default());
        let stop = CancellationToken::new();
        let parts = Parts {
            catalog,
            log,
            ingest,
            engine,
            sources,
            sinks,
            lookups,
            clock,
            ids,
            applied: receiver,
            executor: Handle::current(),
            upstream,
            stop: stop.clone(),
        };
        let options = QueryOptions {
            heartbeat: Duration::from_millis(200),
            sql_bytes_max: 64 << 10,
            ..QueryOptions::default()
        };
        let shared = Shared::new(parts, options).unwrap();
        let http = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let postgres = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (http_at, postgres_at) = (http.local_addr().unwrap(), postgres.local_addr().unwrap());
        let router = headwater_query::http::router(Arc::clone(&shared));
        tokio::spawn(async move { axum::serve(http, router).await });
        tokio::spawn(headwater_query::postgres::serve(
            postgres,
            Arc::clone(&shared),
            stop.clone(),
        ));
        Self {
            shared,
            http: format!("http://{http_at}"),
            postgres: postgres_at,
            client: Client::new(),
            stop,
        }
    }

    /// With the stream `clicks`, the view `page_clicks` over it, and three events of two users.
    pub async fn with_clicks() -> Self {
        let world = Self::empty().await;
        world.run(&format!("{STREAM}; {VIEW}")).await;
        world
            .run("INSERT INTO clicks (user_id, page, n) VALUES ('u1', '/home', 3), ('u1', '/home', 4), ('u2', '/ä', 5)")
            .await;
        world.wait_for_rows("SELECT sum(clicks) AS n FROM page_clicks", 3).await;
        world
    }

    /// A client of the gRPC service.
    pub async fn grpc(&self) -> QueryClient<Channel> {
        let address = self.serve_grpc("127.0.0.1:0".parse().unwrap()).await;
        QueryClient::connect(format!("http://{address}")).await.unwrap()
    }

    /// Serves the gRPC service, and says where.
    pub async fn serve_grpc(&self, at: SocketAddr) -> SocketAddr {
        let listener = TcpListener::bind(at).await.unwrap();
        let address = listener.local_addr().unwrap();
        let service = headwater_query::grpc::service(Arc::clone(&self.shared));
        let calls = Arc::new(Calls {
            clock: Arc::clone(&self.shared.parts.clock),
            ids: Arc::clone(&self.shared.parts.ids),
        });
        let router = Routes::new(service).into_axum_router();
        let router = router.layer(from_fn_with_state(calls, observe));
        tokio::spawn(async move { axum::serve(listener, router).await });
        address
    }

    pub fn session(&self) -> Session {
        Session::new(Arc::clone(&self.shared))
    }

    pub async fn run(&self, sql: &str) -> Vec<Answer> {
        match self.session().execute(sql, &[]).await {
            Ok(answers) => answers,
            Err(error) => panic!("{sql}: {error}"),
        }
    }

    pub async fn get(&self, path: &str) -> Response {
        self.client.get(format!("{}{path}", self.http)).send().await.unwrap()
    }

    pub async fn get_json(&self, path: &str) -> Value {
        self.get(path).await.json().await.unwrap()
    }

    /// `POST /v1/sql`
    pub async fn sql(&self, sql: &str) -> Value {
        let body = serde_json::json!({"sql": sql});
        let response = self.client.post(format!("{}/v1/sql", self.http)).json(&body).send();
        response.await.unwrap().json().await.unwrap()
    }

    /// Asks until the column `n` of the only row is `wanted`.
    pub async fn wait_for_rows(&self, sql: &str, wanted: i64) {
        let mut found = Value::Null;
        for _ in 0..500 {
            found = self.sql(sql).await["rows"][0]["n"].clone();
            if found == wanted {
                return;
            }
            self.shared.parts.clock.sleep(Duration::from_millis(20)).await;
        }
        panic!("{sql}: {wanted} was expected, there is {found}");
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Runs what the catalog says.
async fn process(catalog: Arc<Catalog>, log: Arc<dyn Log>, engine: Arc<Engine>, applied: watch::Sender<u64>) {
    let mut versions = catalog.subscribe();
    let mut objects: BTreeMap<u64, (Arc<Definition>, Option<Running>)> = BTreeMap::new();
    loop {
        let snapshot = versions.borrow_and_update().clone();
        let known: Vec<u64> = objects.keys().rev().copied().collect();
        for id in known {
            if !snapshot.iter().any(|definition| definition.id == id)
                && let Some((definition, running)) = objects.remove(&id)
            {
                if let Some(running) = running {
                    running.stop().await;
                }
                log.delete_topic(&definition.topic()).await.unwrap();
            }
        }
        let mut definitions: Vec<_> = snapshot.iter().collect();
        definitions.sort_by_key(|definition| definition.id);
        for definition in definitions {
            if objects.contains_key(&definition.id) {
                continue;
            }
            let fields: Vec<_> = definition.columns().iter().map(|column| column.field()).collect();
            let rows = Arc::new(Schema::new(fields));
            let schema = match definition.object {
                Object::View(_) => changelog_schema(&rows),
                _ => rows,
            };
            let pipeline = definition
                .query()
                .map(|_| headwater_sql::plan::pipeline(definition, &snapshot).unwrap());
            let writers = pipeline.as_ref().and_then(|pipeline| pipeline.stages.last());
            let partitions = match definition.object {
                Object::Stream(_) | Object::Source(_) | Object::Sink(_) | Object::Table(_) => {
                    definition.partitions().max(1)
                }
                Object::View(_) => writers.map_or(1, |stage| stage.input.partitions),
            };
            let cleanup = Cleanup::Delete {
                retention_ms: None,
                retention_bytes: None,
            };
            let name = definition.topic();
            let topic = log
                .create_topic(TopicSpec {
                    name,
                    schema,
                    partitions,
                    cleanup,
                    events: None,
                })
                .await;
            topic.unwrap();
            let running = match pipeline {
                Some(pipeline) => Some(engine.start(pipeline).await.unwrap()),
                None => None,
            };
            objects.insert(definition.id, (Arc::clone(definition), running));
        }
        applied.send_replace(snapshot.version);
        if versions.changed().await.is_err() {
            return;
        }
    }
}
