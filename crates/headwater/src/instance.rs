//! A running Headwater: the parts, put together in the order of the flow.
//!
//! [`Core`] is all of it without doors: log → catalog → engine → sources, sinks → ingest → queries, and the processor
//! that keeps what runs in step with the catalog. [`Instance`] opens the doors in front of a core.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::middleware::from_fn_with_state;
use headwater_catalog::definition::DEAD_LETTERS;
use headwater_catalog::snapshot::Change;
use headwater_catalog::store::{Catalog, Error as CatalogError};
use headwater_connect::delivery::Sinks;
use headwater_connect::lookup::Lookups;
use headwater_connect::runtime::Sources;
use headwater_connect::shared::Shared as ConnectShared;
use headwater_connect::within::Within;
use headwater_engine::engine::{Engine, EngineOptions};
use headwater_event::clock::{Clock, SystemClock};
use headwater_event::id::Ids;
use headwater_gateway::ingest::{Ingest, IngestOptions};
use headwater_log::Log;
use headwater_log::error::Error as LogError;
use headwater_query::error::QueryError;
use headwater_query::freshness;
use headwater_query::session::{Answer, Session};
use headwater_query::shared::{Parts, QueryOptions, Shared};
use headwater_query::upstream::Upstream;
use headwater_sql::parse::STACK_BYTES;
use headwater_telemetry::metrics::Metrics;
use headwater_telemetry::request::{Requests, observe};
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::cluster::forward::OverHttp;
use crate::cluster::roles::Role;
use crate::cluster::{Cluster, Intake, Part, Process};
use crate::config::{Config, memory};
use crate::files::{self, SqlFile};
use crate::grpc;
use crate::processor::{Connectors, Processor};
use crate::routes::{self, Readiness};
use crate::storage::Storage;
use crate::tables::Tables;

/// After the log couldn't be read.
const FOLLOW_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Everything but the doors.
pub struct Core {
    pub clock: Arc<dyn Clock>,
    pub log: Arc<dyn Log>,
    pub catalog: Arc<Catalog>,
    pub engine: Arc<Engine>,
    pub ingest: Arc<Ingest>,
    pub processor: Arc<Processor>,
    pub queries: Arc<Shared>,
    stop: CancellationToken,
    running: JoinSet<()>,
    _query_threads: QueryThreads,
}

/// Where one-off queries are computed. Taken out only to be shut down.
struct QueryThreads(Option<Runtime>);

/// A core with its doors open.
pub struct Instance {
    pub core: Core,
    pub http: Option<SocketAddr>,
    pub postgres: Option<SocketAddr>,
    pub grpc: Option<SocketAddr>,
    /// The other processes, where there can be any.
    cluster: Option<Arc<Cluster>>,
    taking_part: JoinSet<()>,
    /// Ends taking part, after the core.
    left: CancellationToken,
    doors: JoinSet<()>,
    /// Ends the doors, before the core.
    shut: CancellationToken,
    storage: Storage,
}

/// Why it could not start, on one line that also says how to mend it.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("{0}")]
    Log(#[from] LogError),
    #[error("{0}")]
    Catalog(#[from] CatalogError),
    #[error("{key} = {address}: {}", listen_failure(.source))]
    Listen {
        key: &'static str,
        address: SocketAddr,
        source: io::Error,
    },
    #[error("can't start threads: {0}")]
    Threads(#[source] io::Error),
    #[error("{0}")]
    Parts(String),
    /// A file of statements was refused; the text is rendered, with place and hint.
    #[error("{0}")]
    Sql(String),
}

impl Core {
    /// Starts the parts on `log` and puts the catalog that it holds into effect.
    pub async fn start(
        config: &Config,
        log: Arc<dyn Log>,
        clock: Arc<dyn Clock>,
        part: Part,
    ) -> Result<Self, StartError> {
        let share = memory::split(config.memory.limit);
        let ids = Ids::random(Arc::clone(&clock));
        let stop = CancellationToken::new();
        let mut running = JoinSet::new();

        let catalog = Catalog::open(Arc::clone(&log)).await?;
        if part.work.is_shared() {
            running.spawn(follow(Arc::clone(&catalog), Arc::clone(&clock), stop.clone()));
        }
        create_dead_letters(&catalog).await?;

        let dead_letters: Option<Arc<str>> = catalog.snapshot().get(DEAD_LETTERS).map(|stream| stream.topic().into());
        let lookups = Lookups::new(Arc::clone(&clock), Arc::clone(&ids), within(config)?);
        let options = EngineOptions {
            tables: Some(Arc::new(Tables(Arc::clone(&lookups)))),
            threads: config.engine.threads,
            epochs_bytes_max: as_size(share.epochs),
            state_cache_bytes_max: as_size(share.state_caches),
            dead_letters: dead_letters.clone(),
            work: part.work.clone(),
            ..EngineOptions::default()
        };
        let engine = Engine::new(options, Arc::clone(&log), Arc::clone(&clock));
        let engine = engine.map_err(StartError::Threads)?;

        let shared = ConnectShared {
            log: Arc::clone(&log),
            clock: Arc::clone(&clock),
            ids: Arc::clone(&ids),
            dead_letters: dead_letters.unwrap_or_else(|| DEAD_LETTERS.into()),
            within: within(config)?,
            work: part.work.clone(),
        };
        let sources = Sources::new(config.engine.threads, shared.clone()).map_err(StartError::Threads)?;
        let sinks = Sinks::new(config.engine.threads, shared).map_err(StartError::Threads)?;

        let connectors = Connectors {
            sources: Arc::clone(&sources),
            sinks: Arc::clone(&sinks),
            lookups: Arc::clone(&lookups),
        };

        let forward = part.forward.clone();
        let answers = part.roles.has(Role::Query);
        let processor = Processor::new(
            Arc::clone(&catalog),
            Arc::clone(&log),
            Arc::clone(&engine),
            connectors,
            part,
            Arc::clone(&clock),
        );
        let mut applied = processor.applied();
        running.spawn(Arc::clone(&processor).run(stop.clone()));

        let options = IngestOptions {
            queue_bytes_max: as_size(share.ingest_queue),
            keys_cache_bytes_max: as_size(share.key_caches),
            threads: config.engine.threads,
            ..IngestOptions::default()
        };
        let ingest = Ingest::new(
            options,
            Arc::clone(&log),
            Arc::clone(&catalog),
            Arc::clone(&clock),
            Arc::clone(&ids),
            forward,
        );
        let ingest = ingest.map_err(StartError::Threads)?;

        let (query_threads, executor) = QueryThreads::start(config.engine.threads).map_err(StartError::Threads)?;
        let upstream = upstream(config, &clock)?;
        let parts = Parts {
            catalog: Arc::clone(&catalog),
            log: Arc::clone(&log),
            ingest: Arc::clone(&ingest),
            engine: Arc::clone(&engine),
            sources,
            sinks,
            lookups,
            clock: Arc::clone(&clock),
            ids,
            applied: processor.applied(),
            executor,
            upstream,
            stop: stop.clone(),
        };
        let options = QueryOptions {
            memory_bytes_max: as_size(share.query_pool),
            spill_directory: Some(config.data.directory.join("spill")),
            min_offset_timeout: config.query.min_offset_timeout,
            ..QueryOptions::default()
        };
        let queries = Shared::new(parts, options).map_err(|error| StartError::Parts(error.to_string()))?;

        if answers {
            running.spawn(freshness::follow(Arc::clone(&queries), stop.clone()));
        }
        let version = catalog.snapshot().version;
        // The processor runs until it is told to stop, so the wait ends.
        let _ = applied.wait_for(|applied| *applied >= version).await;
        Ok(Self {
            clock,
            log,
            catalog,
            engine,
            ingest,
            processor,
            queries,
            stop,
            running,
            _query_threads: query_threads,
        })
    }

    /// Runs statements for their effect: what they answer with is thrown away.
    pub async fn execute(&self, sql: &str) -> Result<(), QueryError> {
        self.session().execute(sql, &[]).await.map(|_: Vec<Answer>| ())
    }

    pub fn session(&self) -> Session {
        Session::new(Arc::clone(&self.queries))
    }

    pub fn readiness(&self) -> Readiness {
        Readiness {
            catalog: Arc::clone(&self.catalog),
            processor: Arc::clone(&self.processor),
        }
    }

    /// Applies a file of statements, as a whole or not at all. What the catalog has already, in the same
    /// words, stays as it is.
    pub async fn apply_file(&self, file: &SqlFile) -> Result<(), StartError> {
        loop {
            let before = self.catalog.snapshot();
            let remaining = files::without_what_is_there(file, &before);
            match self.session().execute(&remaining, &[]).await {
                Ok(_) => return Ok(()),
                // Another process has applied some of it meanwhile: the same file, as a rule.
                Err(_) if self.catalog.snapshot().version != before.version => {}
                Err(error) => return Err(StartError::Sql(file.render(&error))),
            }
        }
    }

    /// Returns when sources have brought what is there, and every continuous query has committed all that its inputs hold now.
    pub async fn caught_up(&self) {
        self.processor.caught_up().await;
    }

    /// Stops the queries, each after its current epoch.
    pub async fn stop(mut self) {
        self.stop.cancel();
        while self.running.join_next().await.is_some() {}
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl QueryThreads {
    fn start(threads: usize) -> io::Result<(Self, Handle)> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(threads)
            .thread_name("headwater-query")
            .thread_stack_size(STACK_BYTES)
            .enable_all()
            .build()?;
        let handle = runtime.handle().clone();
        Ok((Self(Some(runtime)), handle))
    }
}

impl Drop for QueryThreads {
    fn drop(&mut self) {
        // Waiting for the threads here could block a thread of another runtime.
        if let Some(threads) = self.0.take() {
            threads.shutdown_background();
        }
    }
}

impl Instance {
    /// Opens the log in the data directory, applies the files, and opens the doors that `config` names.
    pub async fn start(config: &Config, files: &[SqlFile]) -> Result<Self, StartError> {
        let http = listen("http.listen", config.http.listen).await?;
        let roles = &config.cluster.roles;
        let queried = roles.has(Role::Query);
        let postgres = listen("postgres.listen", config.postgres.listen.filter(|_| queried)).await?;
        let called = queried || roles.has(Role::Gateway);
        let grpc = listen("grpc.listen", config.grpc.listen.filter(|_| called)).await?;
        let metrics = headwater_telemetry::metrics::install().map_err(|error| StartError::Parts(error.to_string()))?;
        let clock: Arc<dyn Clock> = SystemClock::new();
        let storage = Storage::open(config, &clock).await?;
        let (cluster, part) = match storage.process() {
            Some(id) => {
                let me = Process {
                    id: id.into(),
                    roles: config.cluster.roles.clone(),
                    started: clock.now(),
                    http: config
                        .cluster
                        .address
                        .clone()
                        .or_else(|| address_of(&http).map(reachable)),
                    version: env!("CARGO_PKG_VERSION").to_owned(),
                };
                let session = config.cluster.session;
                let (cluster, mut part) = Cluster::new(me, session, storage.log(), Arc::clone(&clock))
                    .map_err(|error| StartError::Parts(error.to_string()))?;
                part.forward = Some(Arc::new(OverHttp::new(Arc::clone(&cluster), part.work.clone())));
                (Some(cluster), part)
            }
            None => (None, Part::alone(Intake::Open)),
        };
        let mut taking_part = JoinSet::new();
        let left = CancellationToken::new();
        if let Some(cluster) = &cluster {
            taking_part.spawn(Arc::clone(cluster).run(left.clone()));
        }
        let core = Core::start(config, storage.log(), clock, part).await?;
        for file in files {
            core.apply_file(file).await?;
        }

        let mut instance = Self {
            http: address_of(&http),
            postgres: address_of(&postgres),
            grpc: address_of(&grpc),
            core,
            cluster,
            taking_part,
            left,
            doors: JoinSet::new(),
            shut: CancellationToken::new(),
            storage,
        };
        if let Some(listener) = http {
            instance.serve_http(listener, config, metrics);
        }
        if let Some(listener) = postgres {
            let queries = Arc::clone(&instance.core.queries);
            let shut = instance.shut.clone();
            instance.doors.spawn(async move {
                if let Err(error) = headwater_query::postgres::serve(listener, queries, shut).await {
                    error!(%error, "the Postgres door is closed");
                }
            });
        }
        if let Some(listener) = grpc {
            instance.serve_grpc(listener, config)?;
        }
        Ok(instance)
    }

    /// Closes the doors, lets what is under way finish, and stops the core.
    pub async fn stop(mut self) {
        self.shut.cancel();
        // Live subscriptions would go on for ever: the core's token ends them.
        self.core.stop.cancel();
        while self.doors.join_next().await.is_some() {}
        self.core.stop().await;
        // What was this process's goes to others once it says goodbye.
        self.left.cancel();
        while self.taking_part.join_next().await.is_some() {}
        // Threads of the engine may hold on to it a little longer.
        let storage = self.storage;
        if tokio::task::spawn_blocking(move || storage.close()).await.is_err() {
            error!("closing the log has failed");
        }
        info!("stopped");
    }

    fn serve_http(&mut self, listener: TcpListener, config: &Config, metrics: Metrics) {
        let clock = Arc::clone(&self.core.clock);
        let upkeep = metrics.clone();
        let (shut, ticking) = (self.shut.clone(), Arc::clone(&clock));
        self.doors.spawn(async move {
            tokio::select! {
                () = upkeep.upkeep(&*ticking) => {}
                () = shut.cancelled() => {}
            }
        });
        let requests = Requests::new(clock, Arc::clone(&self.core.queries.parts.ids));
        let router = routes::router(&self.core, self.cluster.clone(), config, metrics)
            .layer(from_fn_with_state(requests, observe));
        let shut = self.shut.clone();
        let service = router.into_make_service_with_connect_info::<SocketAddr>();
        self.doors.spawn(async move {
            let served = axum::serve(listener, service).with_graceful_shutdown(async move { shut.cancelled().await });
            if let Err(error) = served.await {
                error!(%error, "the HTTP door is closed");
            }
        });
    }

    fn serve_grpc(&mut self, listener: TcpListener, config: &Config) -> Result<(), StartError> {
        let router = grpc::router(&self.core, config, self.shut.clone())?;
        let served = grpc::serve(listener, router, Arc::clone(&self.core.clock), self.shut.clone());
        self.doors.spawn(async move {
            if let Err(error) = served.await {
                error!(%error, "the gRPC door is closed");
            }
        });
        Ok(())
    }
}

/// Where files of sources and sinks may be.
fn within(config: &Config) -> Result<Within, StartError> {
    let Some(folder) = &config.files.directory else {
        return Ok(Within::default());
    };
    Within::folder(folder)
        .map_err(|error| StartError::Parts(format!("files.directory = {}: {error}", folder.display())))
}

/// The query server that answers in this one's place, if one is named.
fn upstream(config: &Config, clock: &Arc<dyn Clock>) -> Result<Option<Upstream>, StartError> {
    let Some(addresses) = &config.query.upstream else {
        return Ok(None);
    };
    let upstream = Upstream::new(addresses, config.query.upstream_timeout, Arc::clone(clock));
    upstream
        .map(Some)
        .map_err(|error| StartError::Parts(format!("query.upstream: {error}")))
}

async fn create_dead_letters(catalog: &Catalog) -> Result<(), CatalogError> {
    loop {
        let snapshot = catalog.snapshot();
        let definition = headwater_catalog::dead_letters::definition();
        if snapshot.get(&definition.name).is_some() {
            return Ok(());
        }
        match catalog.apply(snapshot.version, vec![Change::Put(definition)]).await {
            // Another process begins, too.
            Err(CatalogError::Conflict { .. }) => {}
            done => return done.map(drop),
        }
    }
}

/// Follows what other processes change in the catalog.
async fn follow(catalog: Arc<Catalog>, clock: Arc<dyn Clock>, stop: CancellationToken) {
    let following = async {
        loop {
            if let Err(error) = catalog.follow().await {
                warn!(%error, "the catalog can't be followed, trying again");
            }
            clock.sleep(FOLLOW_AGAIN_AFTER).await;
        }
    };
    tokio::select! {
        () = following => {}
        () = stop.cancelled() => {}
    }
}

async fn listen(key: &'static str, address: Option<SocketAddr>) -> Result<Option<TcpListener>, StartError> {
    let Some(address) = address else { return Ok(None) };
    let bound = TcpListener::bind(address).await;
    bound
        .map(Some)
        .map_err(|source| StartError::Listen { key, address, source })
}

fn address_of(listener: &Option<TcpListener>) -> Option<SocketAddr> {
    listener.as_ref()?.local_addr().ok()
}

/// How other machines may reach an address here.
fn reachable(address: SocketAddr) -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname");
    match (address.ip().is_unspecified(), host) {
        (true, Ok(host)) => format!("{}:{}", host.trim(), address.port()),
        _ => address.to_string(),
    }
}

fn listen_failure(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "the port is in use. Stop what uses it, or choose another port, or \"off\"".to_owned()
        }
        io::ErrorKind::PermissionDenied => "this user may not open the port. Choose one above 1023".to_owned(),
        _ => error.to_string(),
    }
}

pub(crate) fn as_size(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

/// Reads the files of statements that `serve` is given.
pub fn read_files(paths: &[PathBuf]) -> Result<Vec<SqlFile>, StartError> {
    paths
        .iter()
        .map(|path| SqlFile::read(path).map_err(StartError::Sql))
        .collect()
}
