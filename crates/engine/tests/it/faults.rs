//! A full disk, a panic, a damaged batch: what a task does when something around it fails.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use headwater_engine::plan::Aggregate;
use headwater_engine::status::{TaskState, TaskStatus};
use headwater_event::clock::{ManualClock, Micros};
use headwater_event::offset::{Offset, TopicPartition};
use headwater_log::embedded::EmbeddedLog;
use headwater_log::error::{Error, Result};
use headwater_log::memory::MemoryLog;
use headwater_log::topic::{Topic, TopicSpec};
use headwater_log::{Claim, Commit, Log, LoggedBatch, Produced, StateTable};

use crate::support::*;
use crate::touchy::*;

fn row(key: &str, value: i64) -> Row {
    Row {
        time: Some(1),
        key: Some(key.to_owned()),
        code: None,
        value: Some(value),
    }
}

/// Lets time pass until the first task is as wanted.
async fn until(world: &World, wanted: impl Fn(&TaskStatus) -> bool) {
    for _ in 0..2_000 {
        if wanted(&world.running.as_ref().unwrap().status()[0]) {
            return;
        }
        world.clock.advance(Duration::from_millis(100));
        std::thread::sleep(Duration::from_millis(2));
    }
    panic!("stuck: {:?}", world.running.as_ref().unwrap().status());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_is_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let clock = ManualClock::new(1_000_000_000);
    let mut options = embedded_options(folder.path());
    options.disk_free_bytes_min = 1 << 20;
    let free_bytes = Arc::new(AtomicU64::new(1 << 30));
    let asked_while_full = Arc::new(AtomicU64::new(0));
    let (told, asked) = (free_bytes.clone(), asked_while_full.clone());
    options.free_space = Arc::new(move |_| {
        let free_bytes = told.load(Ordering::SeqCst);
        asked.fetch_add(u64::from(free_bytes == 0), Ordering::SeqCst);
        Ok(free_bytes)
    });
    let log = EmbeddedLog::open(options, clock.clone()).unwrap();
    let mut world = World::on(log, clock, pipeline_of(touchy(), None, false, 1)).await;
    world.caught_up().await;
    world.running.take().unwrap().stop().await;
    world.append(0, &[row("a", 1), row("b", 2)]).await;
    free_bytes.store(0, Ordering::SeqCst);
    world.clock.advance(Duration::from_secs(1));
    world.start().await;
    until(&world, |_| asked_while_full.load(Ordering::SeqCst) > 5).await;
    let status = world.running.as_ref().unwrap().status();
    assert_eq!(
        (status[0].state.clone(), status[0].epochs, status[0].restarts),
        (TaskState::Running, 0, 0)
    );
    assert!(world.view().await.is_empty());
    free_bytes.store(1 << 30, Ordering::SeqCst);
    until(&world, |task| task.epochs > 0).await;
    world.caught_up().await;
    assert_eq!(world.view().await, ["a|1", "b|2"]);
}

/// Whatever it is that panics: the task goes on from its last commit.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_that_panics_starts_again() {
    let panics = Arc::new(AtomicBool::new(false));
    let told = panics.clone();
    let aggregate = Aggregate {
        accumulator: Arc::new(move || {
            assert!(!told.swap(false, Ordering::SeqCst), "told to panic");
            Ok(Box::<Touchy>::default())
        }),
        ..touchy()
    };
    let world = World::new(pipeline_of(aggregate, None, false, 1)).await;
    world.append(0, &[row("a", 1), row("b", 2)]).await;
    world.caught_up().await;
    panics.store(true, Ordering::SeqCst);
    world.append(0, &[row("a", 10)]).await;
    until(&world, |task| task.offset == 3).await;
    world.caught_up().await;
    assert_eq!(world.view().await, ["a|11", "b|2"]);
    let status = world.running.as_ref().unwrap().status();
    assert_eq!(status[0].restarts, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_batch_is_left_out() {
    let clock = ManualClock::new(1_000_000_000);
    let log = Arc::new(DamagedLog {
        memory: MemoryLog::new(clock.clone()),
        damaged: TopicPartition::new("events", 0),
        at: 2..4,
    });
    let mut world = World::on(log, clock, pipeline_of(touchy(), None, false, 1)).await;
    world.running.take().unwrap().stop().await;
    for value in [1, 10, 100] {
        world.append(0, &[row("a", value), row("b", value)]).await;
    }
    world.start().await;
    world.caught_up().await;
    assert_eq!(world.view().await, ["a|101", "b|101"]);
    let status = world.running.as_ref().unwrap().status();
    assert_eq!(
        (status[0].damaged_batches, status[0].restarts, status[0].offset),
        (1, 0, 6)
    );
    world.restart().await;
    world.append(0, &[row("a", 1000 - 101)]).await;
    world.caught_up().await;
    assert_eq!(world.view().await, ["a|1000", "b|101"]);
    assert_eq!(
        world.running.as_ref().unwrap().status()[0].damaged_batches,
        0,
        "it is not read again"
    );
}

/// A log in memory, one batch of which can't be read.
#[derive(Debug)]
struct DamagedLog {
    memory: Arc<MemoryLog>,
    damaged: TopicPartition,
    at: Range<Offset>,
}

#[async_trait]
impl Log for DamagedLog {
    async fn read(
        &self,
        partition: &TopicPartition,
        from: Offset,
        bytes_max: usize,
        columns: Option<&[usize]>,
    ) -> Result<Vec<LoggedBatch>> {
        let mut read = self.memory.read(partition, from, bytes_max, columns).await?;
        if *partition != self.damaged {
            return Ok(read);
        }
        if self.at.contains(&from) {
            return Err(Error::Damaged {
                partition: partition.clone(),
                base: self.at.start,
                next: self.at.end,
                what: "told so".to_owned(),
            });
        }
        if from < self.at.start {
            read.retain(|batch| batch.base < self.at.start);
        }
        Ok(read)
    }

    async fn create_topic(&self, spec: TopicSpec) -> Result<Topic> {
        self.memory.create_topic(spec).await
    }

    async fn delete_topic(&self, name: &str) -> Result<()> {
        self.memory.delete_topic(name).await
    }

    async fn topic(&self, name: &str) -> Result<Option<Topic>> {
        self.memory.topic(name).await
    }

    async fn topics(&self) -> Result<Vec<Topic>> {
        self.memory.topics().await
    }

    async fn offsets(&self, partition: &TopicPartition) -> Result<Range<Offset>> {
        self.memory.offsets(partition).await
    }

    fn known_end(&self, partition: &TopicPartition) -> Offset {
        self.memory.known_end(partition)
    }

    async fn offset_at(&self, partition: &TopicPartition, time: Micros) -> Result<Offset> {
        self.memory.offset_at(partition, time).await
    }

    async fn trim(&self, partition: &TopicPartition, before: Offset) -> Result<()> {
        self.memory.trim(partition, before).await
    }

    async fn append(&self, batches: Vec<Produced>) -> Result<Vec<Offset>> {
        self.memory.append(batches).await
    }

    async fn wait(&self, partition: &TopicPartition, from: Offset) -> Result<()> {
        self.memory.wait(partition, from).await
    }

    async fn claim(&self, owner: &str) -> Result<Claim> {
        self.memory.claim(owner).await
    }

    async fn commit(&self, claim: &Claim, commit: Commit) -> Result<Vec<Offset>> {
        self.memory.commit(claim, commit).await
    }

    async fn consumed(&self, owner: &str) -> Result<HashMap<TopicPartition, Offset>> {
        self.memory.consumed(owner).await
    }

    async fn release(&self, owner: &str) -> Result<()> {
        self.memory.release(owner).await
    }

    async fn state_tables(&self) -> Result<Vec<String>> {
        self.memory.state_tables().await
    }

    async fn state(&self, table: &str) -> Result<Arc<dyn StateTable>> {
        self.memory.state(table).await
    }

    async fn delete_state(&self, table: &str) -> Result<()> {
        self.memory.delete_state(table).await
    }

    fn bytes_used(&self) -> u64 {
        self.memory.bytes_used()
    }
}
