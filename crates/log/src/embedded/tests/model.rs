//! Random operations against a model, with reopening in between.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{AsArray, Int64Array, RecordBatch};
use arrow::datatypes::Int64Type;
use bytes::Bytes;
use headwater_event::clock::ManualClock;
use headwater_event::offset::{Offset, TopicPartition};
use proptest::prelude::*;

use super::{NOW, small};
use crate::embedded::EmbeddedLog;
use crate::topic::{Cleanup, TopicSpec};
use crate::{Claim, Commit, Log, Produced, StateWrite};

const PARTITIONS: u32 = 2;

#[derive(Clone, Debug)]
enum Step {
    Append {
        partition: u32,
        rows: u8,
    },
    Commit {
        partition: u32,
        rows: u8,
        key: u8,
        value: Option<u8>,
        stale: bool,
    },
    Claim,
    Sweep {
        seconds: u8,
    },
    Trim {
        partition: u32,
        back: u8,
    },
    DeleteTopic,
    DeleteState,
    Flush,
    Reopen,
}

#[derive(Default)]
struct Model {
    /// Rows by offset, with the time of their append.
    rows: [Vec<(Offset, i64)>; PARTITIONS as usize],
    next: [Offset; PARTITIONS as usize],
    state: BTreeMap<Bytes, Bytes>,
    consumed: HashMap<TopicPartition, Offset>,
    value: i64,
}

struct Run {
    folder: tempfile::TempDir,
    clock: Arc<ManualClock>,
    /// `None` only while it is reopened.
    open: Option<Arc<EmbeddedLog>>,
    claim: Claim,
    stale: Claim,
    model: Model,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let partition = 0..PARTITIONS;
    let step = prop_oneof![
        8 => (partition.clone(), 0..5_u8).prop_map(|(partition, rows)| Step::Append { partition, rows }),
        8 => (partition, 0..5_u8, 0..6_u8, any::<Option<u8>>(), prop::bool::weighted(0.2)).prop_map(
            |(partition, rows, key, value, stale)| Step::Commit { partition, rows, key, value, stale }
        ),
        1 => Just(Step::Claim),
        2 => (0..30_u8).prop_map(|seconds| Step::Sweep { seconds }),
        2 => (0..PARTITIONS, 0..8_u8).prop_map(|(partition, back)| Step::Trim { partition, back }),
        1 => Just(Step::DeleteTopic),
        1 => Just(Step::DeleteState),
        1 => Just(Step::Flush),
        2 => Just(Step::Reopen),
    ];
    prop::collection::vec(step, 1..60)
}

fn spec() -> TopicSpec {
    TopicSpec {
        name: "t".to_owned(),
        schema: rows(vec![]).schema(),
        partitions: PARTITIONS,
        cleanup: Cleanup::Delete {
            retention_ms: Some(20_000),
            retention_bytes: None,
        },
        events: None,
    }
}

fn rows(values: Vec<i64>) -> RecordBatch {
    let column = Arc::new(Int64Array::from(values));
    RecordBatch::try_from_iter_with_nullable([("value", column as _, true)]).unwrap()
}

impl Run {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clock = ManualClock::new(NOW);
        let log = EmbeddedLog::open(small(folder.path()), clock.clone()).unwrap();
        log.create_topic(spec()).await.unwrap();
        let stale = log.claim("task").await.unwrap();
        let claim = log.claim("task").await.unwrap();
        Self {
            folder,
            clock,
            open: Some(log),
            claim,
            stale,
            model: Model::default(),
        }
    }

    async fn step(&mut self, step: Step) {
        match step {
            Step::Append { partition, rows } => {
                let (produced, values) = self.produce(partition, rows);
                let bases = self.log().append(vec![produced]).await.unwrap();
                self.appended(partition, bases[0], values);
            }
            Step::Commit {
                partition,
                rows,
                key,
                value,
                stale,
            } => {
                self.commit(partition, rows, key, value, stale).await;
            }
            Step::Claim => {
                let claim = self.log().claim("task").await.unwrap();
                self.stale = std::mem::replace(&mut self.claim, claim);
                assert_eq!(self.claim.consumed, self.model.consumed);
                assert!(self.claim.token > self.stale.token);
            }
            Step::Sweep { seconds } => {
                self.clock.advance(Duration::from_secs(seconds.into()));
                self.log().sweep().await.unwrap();
            }
            Step::Trim { partition, back } => {
                let before = self.model.next[partition as usize].saturating_sub(back.into());
                self.log()
                    .trim(&TopicPartition::new("t", partition), before)
                    .await
                    .unwrap();
            }
            Step::DeleteTopic => {
                self.log().delete_topic("t").await.unwrap();
                self.log().create_topic(spec()).await.unwrap();
                self.model.rows = Default::default();
                self.model.next = Default::default();
                self.model.consumed.clear();
            }
            Step::DeleteState => {
                self.log().delete_state("s").await.unwrap();
                self.model.state.clear();
            }
            Step::Flush => {
                let stored = self.log().open_topic("t").unwrap().stored.clone();
                stored.batches.rotate_memtable_and_wait().unwrap();
                stored.index.rotate_memtable_and_wait().unwrap();
            }
            Step::Reopen => {
                self.open = None;
                self.open = Some(EmbeddedLog::open(small(self.folder.path()), self.clock.clone()).unwrap());
            }
        }
    }

    fn log(&self) -> &EmbeddedLog {
        self.open.as_ref().unwrap()
    }

    fn produce(&mut self, partition: u32, count: u8) -> (Produced, Vec<i64>) {
        let values: Vec<i64> = (0..i64::from(count)).map(|row| self.model.value + row).collect();
        self.model.value += i64::from(count);
        let produced = Produced {
            partition: TopicPartition::new("t", partition),
            rows: rows(values.clone()),
            progress: None,
        };
        (produced, values)
    }

    fn appended(&mut self, partition: u32, base: Offset, values: Vec<i64>) {
        let partition = partition as usize;
        assert_eq!(base, self.model.next[partition]);
        self.model.next[partition] = base + (values.len() as u64).max(1);
        self.model.rows[partition].extend((base..).zip(values));
    }

    async fn commit(&mut self, partition: u32, count: u8, key: u8, value: Option<u8>, stale: bool) {
        let (produced, values) = self.produce(partition, count);
        let key = Bytes::copy_from_slice(&[key]);
        let value = value.map(|value| Bytes::copy_from_slice(&[value]));
        let consumed = (TopicPartition::new("t", partition), self.model.value as u64);
        let commit = Commit {
            consumed: vec![consumed.clone()],
            produced: vec![produced],
            state: vec![StateWrite {
                table: "s".into(),
                entries: Arc::new([(key.clone(), value.clone())]),
            }],
        };
        let claim = if stale { &self.stale } else { &self.claim };
        let committed = self.log().commit(claim, commit).await;
        assert_eq!(committed.is_err(), stale, "{committed:?}");
        if let Ok(bases) = committed {
            self.appended(partition, bases[0], values);
            self.model.consumed.insert(consumed.0, consumed.1);
            match value {
                Some(value) => self.model.state.insert(key, value),
                None => self.model.state.remove(&key),
            };
        }
    }

    /// Rows may be gone from the start on, by retention, and nowhere else.
    async fn check(&self) {
        for partition in 0..PARTITIONS {
            let name = TopicPartition::new("t", partition);
            let ends = self.log().offsets(&name).await.unwrap();
            let model = &self.model.rows[partition as usize];
            assert_eq!(ends.end, self.model.next[partition as usize]);
            let batches = self.log().read(&name, 0, usize::MAX, None).await.unwrap();
            let read = batches.iter().flat_map(|batch| {
                let values = batch.rows.column(0).as_primitive::<Int64Type>().values().to_vec();
                (batch.base..).zip(values)
            });
            let kept: Vec<_> = model
                .iter()
                .copied()
                .filter(|(offset, _)| *offset >= ends.start)
                .collect();
            assert_eq!(read.collect::<Vec<_>>(), kept);
        }
        let state: BTreeMap<_, _> = self
            .log()
            .state("s")
            .await
            .unwrap()
            .scan(b"")
            .map(Result::unwrap)
            .collect();
        assert_eq!(state, self.model.state);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn the_log_does_what_the_model_does(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
        runtime.block_on(async {
            let mut run = Run::start().await;
            for step in steps {
                run.step(step).await;
                run.check().await;
            }
        });
    }
}
