//! A Headwater in memory and without doors: what `check` and `test` plan and run on.

use std::sync::Arc;

use headwater_event::clock::Clock;
use headwater_log::memory::MemoryLog;
use tempfile::TempDir;

use crate::cli::failure::{Failed, Failure};
use crate::cluster::{Intake, Part};
use crate::config::Config;
use crate::instance::Core;

/// Ends with the process, and leaves nothing behind.
pub struct Embedded {
    pub core: Core,
    config: Config,
    intake: Intake,
    /// For sorts and joins that don't fit in memory.
    _directory: TempDir,
}

/// Enough to see whether a query is right.
pub const THREADS: usize = 1;

impl Embedded {
    pub async fn with_threads(clock: Arc<dyn Clock>, threads: usize) -> Failed<Self> {
        Self::start(clock, threads, Intake::Open).await
    }

    /// Statements are carried out, but sources bring nothing in and sinks take nothing out.
    pub async fn without_connectors(clock: Arc<dyn Clock>) -> Failed<Self> {
        Self::start(clock, THREADS, Intake::Shut).await
    }

    async fn start(clock: Arc<dyn Clock>, threads: usize, intake: Intake) -> Failed<Self> {
        let directory =
            tempfile::tempdir().map_err(|error| Failure::usage(format!("no temporary directory: {error}")))?;
        let mut config = Config::default();
        config.data.directory = directory.path().to_owned();
        config.engine.threads = threads;
        let log = MemoryLog::new(Arc::clone(&clock));
        let core = Core::start(&config, log, clock, Part::alone(intake)).await;
        let core = core.map_err(|error| Failure::failed(error.to_string()))?;
        Ok(Self {
            core,
            config,
            intake,
            _directory: directory,
        })
    }

    /// Stops everything but the log, and starts anew on what is in it.
    pub async fn restart(self) -> Failed<Self> {
        let (log, clock) = (Arc::clone(&self.core.log), Arc::clone(&self.core.clock));
        self.core.stop().await;
        let core = Core::start(&self.config, log, clock, Part::alone(self.intake)).await;
        let core = core.map_err(|error| Failure::failed(error.to_string()))?;
        Ok(Self { core, ..self })
    }
}
