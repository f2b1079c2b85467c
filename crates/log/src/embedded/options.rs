//! What the embedded log is given: where it lives and what it may use.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

pub use crate::encoding::Compression;

/// Where the log lives and what it may use. Memory is bounded by the sum of the `_bytes` fields, and
/// what callers hold of what they write and have read.
#[derive(Clone)]
pub struct EmbeddedOptions {
    /// The data directory. The log is in its folder `log`.
    pub directory: PathBuf,
    /// For blocks read from disk.
    pub cache_bytes: u64,
    /// For what was written and isn't in sorted tables yet, over all topics and state tables.
    pub write_buffer_bytes: u64,
    /// For recent batches as they were appended, over all partitions.
    pub tail_cache_bytes: usize,
    /// For encoded batches and state that wait for the committer.
    pub queue_bytes: usize,
    /// Nothing is appended where it would leave less than this free on the disk.
    pub disk_free_bytes_min: u64,
    /// How often retention and compaction are applied.
    pub sweep_every: Duration,
    pub compression: Compression,
    /// Whether everything in it can be made again. Then writes aren't synced, and a log that is damaged, or that was open when the machine
    /// went down, is wiped when it is opened.
    pub expendable: bool,
    /// How to learn what is free on the disk of a directory.
    pub free_space: FreeSpace,
}

/// The free bytes on the disk of a directory.
pub type FreeSpace = Arc<dyn Fn(&Path) -> std::io::Result<u64> + Send + Sync>;

/// The requests that may wait for the committer.
pub const QUEUE_REQUESTS_MAX: usize = 4096;

impl EmbeddedOptions {
    /// The defaults for a data directory: about 220 MB of memory.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self {
            directory: directory.into(),
            cache_bytes: 32 << 20,
            write_buffer_bytes: 64 << 20,
            tail_cache_bytes: 64 << 20,
            queue_bytes: 64 << 20,
            disk_free_bytes_min: 256 << 20,
            sweep_every: Duration::from_secs(60),
            compression: Compression::default(),
            expendable: false,
            free_space: Arc::new(free_bytes),
        }
    }
}

impl std::fmt::Debug for EmbeddedOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EmbeddedOptions")
            .field("directory", &self.directory)
            .field("cache_bytes", &self.cache_bytes)
            .field("write_buffer_bytes", &self.write_buffer_bytes)
            .field("tail_cache_bytes", &self.tail_cache_bytes)
            .field("queue_bytes", &self.queue_bytes)
            .field("disk_free_bytes_min", &self.disk_free_bytes_min)
            .field("sweep_every", &self.sweep_every)
            .field("compression", &self.compression)
            .field("expendable", &self.expendable)
            .finish_non_exhaustive()
    }
}

/// What the operating system says is free for us.
fn free_bytes(directory: &Path) -> std::io::Result<u64> {
    let disk = rustix::fs::statvfs(directory)?;
    Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
}
