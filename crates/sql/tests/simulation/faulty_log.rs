//! A log in memory that takes its time, fails, and breaks, as a seed has it.
//!
//! What it holds outlives the processes that use it: each has a [`FaultyLog`] of its own over the same
//! [`MemoryLog`]. A call that fails has done nothing. One whose caller is dropped has done it wholly or not at all.

use std::collections::HashMap;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use headwater_event::clock::{Clock, ManualClock, Micros};
use headwater_event::offset::{Offset, TopicPartition};
use headwater_log::error::{Error, Result};
use headwater_log::memory::MemoryLog;
use headwater_log::topic::{Topic, TopicSpec};
use headwater_log::{Claim, Commit, Entries, Log, LoggedBatch, Produced, StateTable};
use parking_lot::Mutex;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Of a thousand calls.
#[derive(Clone, Copy, Debug)]
pub struct Odds {
    pub failing: u32,
    /// The call waits for the clock.
    pub stalling: u32,
    /// A state table that can't be read.
    pub unreadable: u32,
}

pub const TROUBLE: Odds = Odds {
    failing: 8,
    stalling: 12,
    unreadable: 3,
};

pub const CALM: Odds = Odds {
    failing: 0,
    stalling: 0,
    unreadable: 0,
};

/// How a stall can be at most.
const STALL_MS_MAX: u64 = 4_000;

/// What decides over the calls of all processes.
#[derive(Debug)]
pub struct Fate {
    random: Mutex<ChaCha8Rng>,
    odds: Mutex<Odds>,
    clock: Arc<ManualClock>,
    pub commits: AtomicU64,
    /// A call that fails has been carried out all the same: what no log may do.
    pub breaks_its_word: AtomicBool,
}

#[derive(Debug)]
pub struct FaultyLog {
    memory: Arc<MemoryLog>,
    fate: Arc<Fate>,
    /// Another process has taken over: claims of this one come too late.
    superseded: AtomicBool,
    broken: AtomicBool,
}

#[derive(Debug)]
struct FaultyTable {
    table: Arc<dyn StateTable>,
    fate: Arc<Fate>,
}

impl Fate {
    pub fn new(seed: u64, clock: Arc<ManualClock>) -> Arc<Self> {
        Arc::new(Self {
            random: Mutex::new(ChaCha8Rng::seed_from_u64(seed)),
            odds: Mutex::new(CALM),
            clock,
            commits: AtomicU64::new(0),
            breaks_its_word: AtomicBool::new(false),
        })
    }

    pub fn set(&self, odds: Odds) {
        *self.odds.lock() = odds;
    }

    fn draws(&self, of_thousand: impl Fn(&Odds) -> u32) -> bool {
        let odds = of_thousand(&self.odds.lock());
        odds > 0 && self.random.lock().random_range(0..1000) < odds
    }

    fn number(&self, range: Range<u64>) -> u64 {
        self.random.lock().random_range(range)
    }

    async fn pass_time(&self) {
        for _ in 0..self.number(0..4).saturating_sub(1) {
            tokio::task::yield_now().await;
        }
        if self.draws(|odds| odds.stalling) {
            let stall = self.number(1..STALL_MS_MAX);
            self.clock.sleep(Duration::from_millis(stall)).await;
        }
    }
}

fn failure() -> Error {
    Error::Io {
        path: "simulated".into(),
        source: io::Error::other("the simulator makes this call fail"),
    }
}

impl FaultyLog {
    pub fn new(memory: Arc<MemoryLog>, fate: Arc<Fate>) -> Arc<Self> {
        Arc::new(Self {
            memory,
            fate,
            superseded: AtomicBool::new(false),
            broken: AtomicBool::new(false),
        })
    }

    pub fn supersede(&self) {
        self.superseded.store(true, Ordering::Relaxed);
    }

    /// From now on every call fails, until a restart.
    pub fn break_down(&self) {
        self.broken.store(true, Ordering::Relaxed);
    }

    /// Before what the call does.
    async fn begin(&self) -> Result<()> {
        self.fate.pass_time().await;
        if self.broken.load(Ordering::Relaxed) {
            return Err(Error::Storage("the simulator has broken it".to_owned()));
        }
        if self.fate.draws(|odds| odds.failing) {
            return Err(failure());
        }
        Ok(())
    }

    /// After it, and before the caller is told.
    async fn end(&self) {
        self.fate.pass_time().await;
    }
}

#[async_trait]
impl Log for FaultyLog {
    async fn create_topic(&self, spec: TopicSpec) -> Result<Topic> {
        self.begin().await?;
        let topic = self.memory.create_topic(spec).await;
        self.end().await;
        topic
    }

    async fn delete_topic(&self, name: &str) -> Result<()> {
        self.begin().await?;
        self.memory.delete_topic(name).await
    }

    async fn topic(&self, name: &str) -> Result<Option<Topic>> {
        self.begin().await?;
        self.memory.topic(name).await
    }

    async fn topics(&self) -> Result<Vec<Topic>> {
        self.begin().await?;
        self.memory.topics().await
    }

    async fn offsets(&self, partition: &TopicPartition) -> Result<Range<Offset>> {
        self.begin().await?;
        let offsets = self.memory.offsets(partition).await;
        self.end().await;
        offsets
    }

    fn known_end(&self, partition: &TopicPartition) -> Offset {
        self.memory.known_end(partition)
    }

    async fn offset_at(&self, partition: &TopicPartition, time: Micros) -> Result<Offset> {
        self.begin().await?;
        self.memory.offset_at(partition, time).await
    }

    async fn trim(&self, partition: &TopicPartition, before: Offset) -> Result<()> {
        self.begin().await?;
        let trimmed = self.memory.trim(partition, before).await;
        self.end().await;
        trimmed
    }

    async fn append(&self, batches: Vec<Produced>) -> Result<Vec<Offset>> {
        self.begin().await?;
        let offsets = self.memory.append(batches).await;
        self.end().await;
        offsets
    }

    /// Epochs become of any size: a batch at the least.
    async fn read(
        &self,
        partition: &TopicPartition,
        from: Offset,
        bytes_max: usize,
        columns: Option<&[usize]>,
    ) -> Result<Vec<LoggedBatch>> {
        self.begin().await?;
        let bytes_max = match self.fate.number(0..3) {
            0 => 1,
            1 => 600,
            _ => bytes_max,
        };
        let read = self.memory.read(partition, from, bytes_max, columns).await;
        self.end().await;
        read
    }

    async fn wait(&self, partition: &TopicPartition, from: Offset) -> Result<()> {
        self.begin().await?;
        let waited = self.memory.wait(partition, from).await;
        self.end().await;
        waited
    }

    async fn claim(&self, owner: &str) -> Result<Claim> {
        self.begin().await?;
        if self.superseded.load(Ordering::Relaxed) {
            let owner = owner.to_owned();
            return Err(Error::Fenced { owner });
        }
        let claim = self.memory.claim(owner).await;
        self.end().await;
        claim
    }

    async fn commit(&self, claim: &Claim, commit: Commit) -> Result<Vec<Offset>> {
        let begun = self.begin().await;
        if begun.is_err() && !self.fate.breaks_its_word.load(Ordering::Relaxed) {
            return begun.map(|()| Vec::new());
        }
        let committed = self.memory.commit(claim, commit).await;
        self.fate.commits.fetch_add(1, Ordering::Relaxed);
        self.end().await;
        begun.and(committed)
    }

    async fn consumed(&self, owner: &str) -> Result<HashMap<TopicPartition, Offset>> {
        self.begin().await?;
        self.memory.consumed(owner).await
    }

    async fn release(&self, owner: &str) -> Result<()> {
        self.begin().await?;
        self.memory.release(owner).await
    }

    async fn state(&self, table: &str) -> Result<Arc<dyn StateTable>> {
        self.begin().await?;
        let table = self.memory.state(table).await?;
        self.end().await;
        let fate = Arc::clone(&self.fate);
        Ok(Arc::new(FaultyTable { table, fate }))
    }

    async fn delete_state(&self, table: &str) -> Result<()> {
        self.begin().await?;
        self.memory.delete_state(table).await
    }

    async fn state_tables(&self) -> Result<Vec<String>> {
        self.begin().await?;
        self.memory.state_tables().await
    }

    fn bytes_used(&self) -> u64 {
        self.memory.bytes_used()
    }
}

impl FaultyTable {
    fn read(&self) -> Result<()> {
        match self.fate.draws(|odds| odds.unreadable) {
            true => Err(failure()),
            false => Ok(()),
        }
    }

    /// The entries up to one that can't be read.
    fn entries(&self, entries: Entries) -> Entries {
        let fate = Arc::clone(&self.fate);
        let mut ended = false;
        Box::new(entries.map_while(move |entry| {
            if ended {
                return None;
            }
            ended = fate.draws(|odds| odds.unreadable);
            Some(if ended { Err(failure()) } else { entry })
        }))
    }
}

impl StateTable for FaultyTable {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        self.read()?;
        self.table.get(key)
    }

    fn get_many(&self, keys: &[Bytes]) -> Result<Vec<Option<Bytes>>> {
        self.read()?;
        self.table.get_many(keys)
    }

    fn scan(&self, prefix: &[u8]) -> Entries {
        self.entries(self.table.scan(prefix))
    }

    fn scan_from(&self, from: &[u8]) -> Entries {
        self.entries(self.table.scan_from(from))
    }

    fn bytes_used(&self) -> u64 {
        self.table.bytes_used()
    }

    fn entries(&self) -> u64 {
        self.table.entries()
    }
}
