//! The embedded log against the suite of all back ends, and what it promises beyond it.

use std::path::Path;
use std::sync::Arc;

use headwater_event::clock::ManualClock;

use super::options::EmbeddedOptions;
use super::*;
use crate::conformance::{self, Backend};

mod damage;
mod model;

/// A start that is no round number, so that a mistaken unit shows.
const NOW: i64 = 1_700_000_000_123_456;

struct Embedded {
    folder: tempfile::TempDir,
    clock: Arc<ManualClock>,
    tail_cache_bytes: usize,
}

impl Backend for Embedded {
    type Log = EmbeddedLog;

    const DURABLE: bool = true;
    const SWEEPS: bool = true;

    fn clock(&self) -> &ManualClock {
        &self.clock
    }

    fn open(&self, storage: &str) -> Result<Arc<EmbeddedLog>> {
        let mut options = small(&self.folder.path().join(storage));
        options.tail_cache_bytes = self.tail_cache_bytes;
        EmbeddedLog::open(options, self.clock.clone())
    }

    fn sweep(log: &EmbeddedLog) -> impl Future<Output = Result<()>> + Send {
        log.sweep()
    }
}

fn small(directory: &Path) -> EmbeddedOptions {
    let mut options = EmbeddedOptions::new(directory);
    options.disk_free_bytes_min = 0;
    options.write_buffer_bytes = 4 << 20;
    options
}

fn embedded(tail_cache_bytes: usize) -> Embedded {
    Embedded {
        folder: tempfile::tempdir().unwrap(),
        clock: ManualClock::new(NOW),
        tail_cache_bytes,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn conforms() {
    conformance::run(&embedded(1 << 20)).await.unwrap();
}

/// Everything is read from the store.
#[tokio::test(flavor = "multi_thread")]
async fn conforms_without_a_tail_cache() {
    conformance::run(&embedded(0)).await.unwrap();
}
