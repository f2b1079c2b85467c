//! How the memory limit is shared out.

/// What each part of the process may take, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemorySplit {
    /// Blocks of the log's store that were read from disk.
    pub log_cache: u64,
    /// What was written and is not on disk in its final place.
    pub write_buffers: u64,
    /// The newest batches of each topic, so that readers that follow it don't go to the disk.
    pub tail_cache: u64,
    /// Events that were taken and are not durable yet. When it is full, clients get 429.
    pub ingest_queue: u64,
    /// One-off queries, all together. A query that needs more fails with a message that says so.
    pub query_pool: u64,
    /// Epochs of continuous queries, from reading their events to the commit. Those that find no room wait.
    pub epochs: u64,
    /// The state of views, so that not every change goes to the log's store.
    pub state_caches: u64,
    /// Idempotency keys that were seen lately.
    pub key_caches: u64,
}

/// The one place that decides who gets how much.
///
/// What the process takes whatever it does ([`BASE`]) comes off first; of the rest:
///
/// | part | share | why |
/// |---|---|---|
/// | log cache | 15 % | point queries on views and reads of history |
/// | write buffers | 20 % | larger ones write less often to disk |
/// | tail cache | 8 % | every continuous query reads there |
/// | ingest queue | 15 % | one group commit of full rate, and the one after it; the largest body even at the least limit |
/// | query pool | 12 % | joins and sorts of one-off queries |
/// | epochs | 15 % | two at once, large enough that a commit is a small part of the work, even at the least limit |
/// | state caches | 5 % | the hot keys of views |
/// | key caches | 2 % | a table of recent idempotency keys is asked only for older ones |
/// | the rest | 8 % | open windows, decoding, sockets |
pub fn split(limit: u64) -> MemorySplit {
    let percent = limit.saturating_sub(BASE) / 100;
    MemorySplit {
        log_cache: percent * 15,
        write_buffers: percent * 20,
        tail_cache: percent * 8,
        ingest_queue: percent * 15,
        query_pool: percent * 12,
        epochs: percent * 15,
        state_caches: percent * 5,
        key_caches: percent * 2,
    }
}

/// Code, stacks, and what the allocator keeps for itself.
const BASE: u64 = 64 << 20;

/// The memory that this process can have: the machine's, or its container's where that is less.
pub fn of_machine() -> u64 {
    let machine = std::fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|text| total_of(&text));
    let container = std::fs::read_to_string("/sys/fs/cgroup/memory.max").ok();
    let container = container.and_then(|text| text.trim().parse().ok());
    let known = [machine, container].into_iter().flatten().min();
    known.unwrap_or(UNKNOWN)
}

/// Assumed where the system doesn't tell.
const UNKNOWN: u64 = 4 << 30;

fn total_of(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}
