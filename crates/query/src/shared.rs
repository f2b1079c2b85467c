//! What all sessions and doors share: the parts of the instance that they ask, and their limits.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use datafusion::catalog::CatalogProviderList;
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::memory_pool::FairSpillPool;
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion::execution::session_state::{SessionState, SessionStateBuilder};
use datafusion::prelude::{SessionConfig, SessionContext};
use headwater_catalog::store::Catalog;
use headwater_connect::delivery::Sinks;
use headwater_connect::lookup::Lookups;
use headwater_connect::runtime::Sources;
use headwater_engine::engine::Engine;
use headwater_event::clock::Clock;
use headwater_event::id::Ids;
use headwater_gateway::ingest::Ingest;
use headwater_log::Log;
use headwater_sql::session::session_state;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::error::QueryError;
use crate::freshness::Freshness;
use crate::tables::catalog::{DATABASE, SCHEMA, databases};
use crate::taken_in::Lineages;
use crate::upstream::Upstream;
use crate::views::Views;

/// What DataFusion's directories for spilled rows begin with.
const SPILL_PREFIX: &str = "datafusion-";

/// The parts of the instance that queries need.
pub struct Parts {
    pub catalog: Arc<Catalog>,
    pub log: Arc<dyn Log>,
    pub ingest: Arc<Ingest>,
    pub engine: Arc<Engine>,
    pub sources: Arc<Sources>,
    pub sinks: Arc<Sinks>,
    pub lookups: Arc<Lookups>,
    pub clock: Arc<dyn Clock>,
    pub ids: Arc<Ids>,
    /// The catalog's version that runs.
    pub applied: watch::Receiver<u64>,
    /// Where queries are computed: away from the sockets' threads.
    pub executor: Handle,
    /// Who answers for views and SQL over HTTP, if not this process.
    pub upstream: Option<Upstream>,
    /// Ends what would go on for ever: live subscriptions and queries.
    pub stop: CancellationToken,
}

#[derive(Clone, Debug)]
pub struct QueryOptions {
    /// What all one-off queries together may hold in memory.
    pub memory_bytes_max: usize,
    /// Where sorts and joins that need more go; `None` refuses them.
    pub spill_directory: Option<PathBuf>,
    pub spill_bytes_max: u64,
    /// The text of a request to `/v1/sql`, with its parameters.
    pub sql_bytes_max: usize,
    /// The results of several statements in one answer.
    pub sql_rows_bytes_max: usize,
    /// The rows of one INSERT, which are appended as one.
    pub insert_bytes_max: usize,
    /// How long a CREATE or DROP waits until it has taken effect.
    pub apply_timeout: Duration,
    /// How long a question waits until what its client has stored is in what it reads.
    pub min_offset_timeout: Duration,
    /// And for the server of a table that is kept elsewhere.
    pub table_timeout: Duration,
    /// Silence on a live connection after which something is sent to keep it open.
    pub heartbeat: Duration,
    /// What a live subscription reads ahead of each partition.
    pub live_read_bytes_max: usize,
    /// Live subscriptions and queries at a time.
    pub live_max: usize,
    /// Connections to the Postgres port at a time.
    pub postgres_connections_max: usize,
    /// What a client may ask for in one request to `/events`.
    pub events_rows_max: usize,
    pub events_bytes_max: usize,
}

pub struct Shared {
    pub parts: Parts,
    pub options: QueryOptions,
    pub views: Arc<Views>,
    pub(crate) lineages: Lineages,
    pub freshness: Freshness,
    /// What every session begins with.
    state: MadeBy<SessionState>,
    live: Arc<Semaphore>,
}

/// A value behind a function that copies it. Futures that hold one can be sent for all that the compiler has to look at:
/// through the many types in DataFusion's and its parser's values it looks for seconds, for every future anew.
pub(crate) type MadeBy<T> = Box<dyn Fn() -> T + Send + Sync>;

impl Default for QueryOptions {
    fn default() -> Self {
        Self {
            memory_bytes_max: 512 << 20,
            spill_directory: None,
            spill_bytes_max: 10 << 30,
            sql_bytes_max: 1 << 20,
            sql_rows_bytes_max: 16 << 20,
            insert_bytes_max: 64 << 20,
            apply_timeout: Duration::from_secs(30),
            min_offset_timeout: Duration::from_secs(5),
            table_timeout: Duration::from_secs(5),
            heartbeat: Duration::from_secs(15),
            live_read_bytes_max: 256 << 10,
            live_max: 1000,
            postgres_connections_max: 200,
            events_rows_max: 10_000,
            events_bytes_max: 16 << 20,
        }
    }
}

impl Shared {
    pub fn new(parts: Parts, options: QueryOptions) -> datafusion::common::Result<Arc<Self>> {
        let views = Arc::new(Views::new(Arc::clone(&parts.log)));
        let databases = databases(Arc::clone(&parts.catalog), Arc::clone(&parts.log), Arc::clone(&views))?;
        let state = state(&parts, databases, runtime(&options)?);
        Ok(Arc::new(Self {
            state: Box::new(move || state.clone()),
            views,
            lineages: Lineages::default(),
            freshness: Freshness::default(),
            live: Arc::new(Semaphore::new(options.live_max)),
            parts,
            options,
        }))
    }

    /// A context of its own for a session.
    pub(crate) fn context(&self) -> SessionContext {
        SessionContext::new_with_state((self.state)())
    }

    /// The same with a list of databases of its own, to which more can be added.
    pub(crate) fn context_apart(&self) -> datafusion::common::Result<SessionContext> {
        let Parts { catalog, log, .. } = &self.parts;
        let databases = databases(Arc::clone(catalog), Arc::clone(log), Arc::clone(&self.views))?;
        let state = SessionStateBuilder::new_from_existing((self.state)()).with_catalog_list(databases);
        Ok(SessionContext::new_with_state(state.build()))
    }

    /// How many more live subscriptions and queries there may be.
    pub fn live_places(&self) -> usize {
        self.live.available_permits()
    }

    /// A live subscription's or query's place among those that there may be.
    pub(crate) fn live_permit(&self) -> Result<OwnedSemaphorePermit, QueryError> {
        let max = self.options.live_max;
        let permit = Arc::clone(&self.live).try_acquire_owned();
        permit.map_err(|_| QueryError::Busy(format!("there are {max} live subscriptions and queries already")))
    }
}

fn state(parts: &Parts, databases: Arc<dyn CatalogProviderList>, runtime: Arc<RuntimeEnv>) -> SessionState {
    let config = SessionConfig::new()
        .with_default_catalog_and_schema(DATABASE, SCHEMA)
        .with_create_default_catalog_and_schema(false)
        .with_information_schema(true)
        .with_target_partitions(parts.executor.metrics().num_workers());
    session_state(config)
        .with_runtime_env(runtime)
        .with_catalog_list(databases)
        .build()
}

fn runtime(options: &QueryOptions) -> datafusion::common::Result<Arc<RuntimeEnv>> {
    let mode = match &options.spill_directory {
        Some(directory) => {
            remove_leftovers(directory);
            DiskManagerMode::Directories(vec![directory.clone()])
        }
        None => DiskManagerMode::Disabled,
    };
    let disk = DiskManagerBuilder::default()
        .with_mode(mode)
        .with_max_temp_directory_size(options.spill_bytes_max);
    RuntimeEnvBuilder::new()
        .with_memory_pool(Arc::new(FairSpillPool::new(options.memory_bytes_max)))
        .with_disk_manager_builder(disk)
        .build_arc()
}

/// What a process that was killed had spilled is of no use to anybody.
fn remove_leftovers(directory: &Path) {
    let Ok(entries) = std::fs::read_dir(directory) else {
        return;
    };
    for entry in entries.flatten() {
        if entry.file_name().to_string_lossy().starts_with(SPILL_PREFIX)
            && let Err(error) = std::fs::remove_dir_all(entry.path())
        {
            warn!(path = %entry.path().display(), %error, "what an earlier query spilled can't be removed");
        }
    }
}
