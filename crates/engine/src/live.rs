//! Queries that somebody looks at: nothing of them is stored, and they end when nobody looks.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

use arrow::array::RecordBatch;
use async_trait::async_trait;
use headwater_event::clock::Micros;
use headwater_event::offset::{Offset, TopicPartition};
use headwater_log::error::{Error as LogError, Result as LogResult};
use headwater_log::memory::MemoryLog;
use headwater_log::topic::{Topic, TopicSpec};
use headwater_log::{Claim, Commit, Log, LoggedBatch, Produced, StateTable};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::engine::{Engine, Launch};
use crate::error::{Error, Result};
use crate::output::Destination;
use crate::plan::Pipeline;
use crate::status::TaskState;

/// Batches that wait for a slow listener; then the query waits for it too.
const LISTENER_BATCHES_MAX: usize = 64;
/// What may lie between two stages; then the earlier one waits for the later one.
const BETWEEN_BYTES_MAX: u64 = 32 * 1024 * 1024;

impl Engine {
    /// Runs a pipeline whose rows go to the receiver, in place of its output. State and the topics
    /// between its stages are in memory. The inputs in `from` are read from the given offsets, the others as planned. It ends when the receiver is dropped.
    pub async fn live(
        &self,
        pipeline: Pipeline,
        from: HashMap<TopicPartition, Offset>,
    ) -> Result<mpsc::Receiver<Result<RecordBatch>>> {
        let (sender, receiver) = mpsc::channel(LISTENER_BATCHES_MAX);
        let stop = CancellationToken::new();
        let launch = Launch {
            log: Arc::new(LookingLog {
                real: Arc::clone(self.log()),
                inputs: pipeline.inputs().map(|input| Arc::clone(&input.topic)).collect(),
                memory: MemoryLog::new(Arc::clone(self.clock())),
                trimmed: watch::Sender::new(()),
                stop: stop.clone(),
            }),
            listener: Some(Destination::Listener(sender.clone())),
            begin_at: from,
            stop: stop.clone(),
            trim_every_batches: 1,
        };
        let running = self.launch(pipeline, launch).await?;
        self.spawn(async move {
            let failed = async {
                match running.first_failure().await {
                    Some(why) => why,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = sender.closed() => {}
                () = stop.cancelled() => {}
                why = failed => {
                    // If the listener has gone meanwhile there is nobody to tell.
                    let _ = sender.send(Err(Error::Plan(why))).await;
                }
            }
            running.stop().await;
        });
        Ok(receiver)
    }
}

impl TaskState {
    fn failure(&self) -> Option<&str> {
        match self {
            Self::Failed(why) => Some(why),
            _ => None,
        }
    }
}

impl crate::engine::Running {
    /// Waits until a task has failed for good. `None` when all have ended otherwise.
    async fn first_failure(&self) -> Option<String> {
        let waiting = self.statuses().into_iter().map(|mut status| {
            Box::pin(async move {
                let ended = status.wait_for(|status| status.state.has_ended()).await.ok()?;
                ended.state.failure().map(str::to_owned)
            })
        });
        let mut waiting: Vec<_> = waiting.collect();
        while !waiting.is_empty() {
            let (ended, _, rest) = futures::future::select_all(waiting).await;
            if ended.is_some() {
                return ended;
            }
            waiting = rest;
        }
        None
    }
}

/// The inputs from the real log, everything else in memory.
#[derive(Debug)]
struct LookingLog {
    real: Arc<dyn Log>,
    inputs: HashSet<Arc<str>>,
    memory: Arc<MemoryLog>,
    /// Something between two stages has been read and let go.
    trimmed: watch::Sender<()>,
    stop: CancellationToken,
}

impl LookingLog {
    /// Waits until there is room in the topics that batches are for: until then those who read
    /// them are behind, because the listener is.
    async fn has_room(&self, batches: &[Produced]) -> LogResult<()> {
        let mut trimmed = self.trimmed.subscribe();
        for batch in batches {
            let bytes = async || {
                let topic = self.memory.topic(&batch.partition.topic).await;
                topic.map(|topic| topic.map_or(0, |topic| topic.bytes))
            };
            while bytes().await? > BETWEEN_BYTES_MAX {
                tokio::select! {
                    biased;
                    () = self.stop.cancelled() => return Err(LogError::Closed),
                    _ = trimmed.changed() => {}
                }
            }
        }
        Ok(())
    }

    fn of(&self, topic: &str) -> &dyn Log {
        if self.inputs.contains(topic) {
            &*self.real
        } else {
            &*self.memory
        }
    }
}

#[async_trait]
impl Log for LookingLog {
    async fn create_topic(&self, spec: TopicSpec) -> LogResult<Topic> {
        self.memory.create_topic(spec).await
    }

    async fn delete_topic(&self, name: &str) -> LogResult<()> {
        self.memory.delete_topic(name).await
    }

    async fn topic(&self, name: &str) -> LogResult<Option<Topic>> {
        self.of(name).topic(name).await
    }

    async fn topics(&self) -> LogResult<Vec<Topic>> {
        self.memory.topics().await
    }

    async fn offsets(&self, partition: &TopicPartition) -> LogResult<Range<Offset>> {
        self.of(&partition.topic).offsets(partition).await
    }

    fn known_end(&self, partition: &TopicPartition) -> Offset {
        self.of(&partition.topic).known_end(partition)
    }

    async fn offset_at(&self, partition: &TopicPartition, time: Micros) -> LogResult<Offset> {
        self.of(&partition.topic).offset_at(partition, time).await
    }

    async fn trim(&self, partition: &TopicPartition, before: Offset) -> LogResult<()> {
        self.memory.trim(partition, before).await?;
        self.trimmed.send_replace(());
        Ok(())
    }

    async fn append(&self, batches: Vec<Produced>) -> LogResult<Vec<Offset>> {
        self.memory.append(batches).await
    }

    async fn read(
        &self,
        partition: &TopicPartition,
        from: Offset,
        bytes_max: usize,
        columns: Option<&[usize]>,
    ) -> LogResult<Vec<LoggedBatch>> {
        self.of(&partition.topic)
            .read(partition, from, bytes_max, columns)
            .await
    }

    async fn wait(&self, partition: &TopicPartition, from: Offset) -> LogResult<()> {
        self.of(&partition.topic).wait(partition, from).await
    }

    async fn claim(&self, owner: &str) -> LogResult<Claim> {
        self.memory.claim(owner).await
    }

    async fn commit(&self, claim: &Claim, commit: Commit) -> LogResult<Vec<Offset>> {
        self.has_room(&commit.produced).await?;
        self.memory.commit(claim, commit).await
    }

    async fn consumed(&self, owner: &str) -> LogResult<HashMap<TopicPartition, Offset>> {
        self.memory.consumed(owner).await
    }

    async fn release(&self, owner: &str) -> LogResult<()> {
        self.memory.release(owner).await
    }

    async fn state(&self, table: &str) -> LogResult<Arc<dyn StateTable>> {
        self.memory.state(table).await
    }

    async fn delete_state(&self, table: &str) -> LogResult<()> {
        self.memory.delete_state(table).await
    }

    async fn state_tables(&self) -> LogResult<Vec<String>> {
        self.memory.state_tables().await
    }

    fn bytes_used(&self) -> u64 {
        self.memory.bytes_used()
    }
}

#[cfg(test)]
mod tests {
    use std::task::Poll;

    use arrow::array::Int64Array;
    use headwater_event::clock::ManualClock;
    use headwater_log::topic::Cleanup;

    use super::*;

    #[tokio::test]
    async fn a_stage_waits_for_the_one_behind_it() {
        let clock = ManualClock::new(0);
        let log = LookingLog {
            real: MemoryLog::new(clock.clone()),
            inputs: HashSet::new(),
            memory: MemoryLog::new(clock),
            trimmed: watch::Sender::new(()),
            stop: CancellationToken::new(),
        };
        let numbers = Arc::new(Int64Array::from(vec![0; BETWEEN_BYTES_MAX as usize / 8 + 1]));
        let rows = RecordBatch::try_from_iter([("n", numbers as _)]).unwrap();
        let cleanup = Cleanup::Delete {
            retention_ms: None,
            retention_bytes: None,
        };
        let spec = TopicSpec {
            name: "between".to_owned(),
            schema: rows.schema(),
            partitions: 1,
            cleanup,
            events: None,
        };
        log.create_topic(spec).await.unwrap();
        let claim = log.claim("earlier").await.unwrap();
        let partition = TopicPartition::new("between", 0);
        let commit = || Commit {
            produced: vec![Produced {
                partition: partition.clone(),
                rows: rows.slice(0, rows.num_rows()),
                progress: None,
            }],
            ..Commit::default()
        };
        log.commit(&claim, commit()).await.unwrap();
        let mut waiting = std::pin::pin!(log.commit(&claim, commit()));
        assert!(matches!(futures::poll!(&mut waiting), Poll::Pending));
        let later = log.claim("later").await.unwrap();
        log.commit(&later, Commit::default()).await.unwrap();
        log.trim(&partition, rows.num_rows() as u64).await.unwrap();
        waiting.await.unwrap();
        let mut waiting = std::pin::pin!(log.commit(&claim, commit()));
        assert!(matches!(futures::poll!(&mut waiting), Poll::Pending));
        log.stop.cancel();
        assert!(waiting.await.is_err(), "a stopped query waits for nothing");
    }
}
