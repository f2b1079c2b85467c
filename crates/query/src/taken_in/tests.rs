//! Stages that commit in any order, each as much as it likes: when a lineage has been passed, everything is in the last of them.

use std::collections::BTreeSet;
use std::task::Poll;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch};
use arrow::datatypes::{Int64Type, Schema};
use headwater_event::clock::ManualClock;
use headwater_log::memory::MemoryLog;
use headwater_log::topic::{Cleanup, TopicSpec};
use headwater_log::{Claim, Commit, Produced};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;

const SEEDS: u64 = 300;
const EVENTS: i64 = 30;

/// The stages of two queries, the second of which reads the first and the stream: `(pipeline, stage, input, output)`.
const STAGES: [(&str, usize, &str, &str); 5] = [
    ("a-2", 0, "s-1", "a-2.0"),
    ("a-2", 1, "a-2.0", "a-2.changes"),
    ("b-3", 0, "s-1", "b-3.1"),
    ("b-3", 1, "a-2.changes", "b-3.1"),
    ("b-3", 2, "b-3.1", "b-3.changes"),
];

/// What comes out: each event by both ways.
const OUT: &str = "b-3.changes";

fn partitions(topic: &str) -> u32 {
    match topic {
        "s-1" => 2,
        "a-2.0" | "b-3.1" => 3,
        _ => 1,
    }
}

/// A stage on one partition.
struct Task {
    claim: Claim,
    input: TopicPartition,
    next: Offset,
    output: &'static str,
}

fn rows(ids: Vec<i64>) -> RecordBatch {
    RecordBatch::try_from_iter([("id", Arc::new(Int64Array::from(ids)) as ArrayRef)]).unwrap()
}

fn ids(rows: &RecordBatch) -> &[i64] {
    rows.column(0).as_primitive::<Int64Type>().values()
}

impl Task {
    /// Commits some of what there is to read.
    async fn step(&mut self, log: &dyn Log, random: &mut ChaCha8Rng) {
        let batches = log.read(&self.input, self.next, usize::MAX, None).await.unwrap();
        let take = random.random_range(0..=batches.len());
        let Some(last) = batches[..take].last() else { return };
        self.next = last.next();
        let produced = batches[..take]
            .iter()
            .flat_map(|batch| ids(&batch.rows))
            .map(|&id| Produced {
                partition: TopicPartition::new(self.output, id as u32 % partitions(self.output)),
                rows: rows(vec![id]),
                progress: None,
            });
        let commit = Commit {
            consumed: vec![(self.input.clone(), self.next)],
            produced: produced.collect(),
            state: Vec::new(),
        };
        log.commit(&self.claim, commit).await.unwrap();
        if random.random_bool(0.3) && self.input.topic.contains('.') {
            log.trim(&self.input, self.next).await.unwrap();
        }
    }
}

async fn topic(log: &dyn Log, name: &str) {
    let spec = TopicSpec {
        name: name.to_owned(),
        schema: Arc::new(Schema::new(rows(Vec::new()).schema().fields().clone())),
        partitions: partitions(name),
        cleanup: Cleanup::Delete {
            retention_ms: None,
            retention_bytes: None,
        },
        events: None,
    };
    log.create_topic(spec).await.unwrap();
}

fn lineage() -> Lineage {
    let source = Source {
        name: "s".to_owned(),
        topic: "s-1".into(),
        partitions: partitions("s-1"),
    };
    let stages = STAGES.map(|(pipeline, number, input, output)| Step {
        pipeline: pipeline.into(),
        number,
        input: input.into(),
        partitions: partitions(input),
        output: output.into(),
    });
    Lineage {
        sources: [(1, source)].into(),
        stages: stages.into(),
    }
}

async fn run(seed: u64) {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let clock = ManualClock::new(0);
    let log = MemoryLog::new(clock.clone());
    for name in ["s-1", "a-2.0", "a-2.changes", "b-3.1", OUT] {
        topic(&*log, name).await;
    }
    let mut tasks = Vec::new();
    for (pipeline, number, input, output) in STAGES {
        for partition in 0..partitions(input) {
            let owner = task_owner(pipeline, number, partition);
            tasks.push(Task {
                claim: log.claim(&owner).await.unwrap(),
                input: TopicPartition::new(input, partition),
                next: 0,
                output,
            });
        }
    }
    let lineage = lineage();
    let mut stored = Stored::default();
    let mut expected = Vec::new();
    for event in 0..EVENTS {
        let partition = TopicPartition::new("s-1", random.random_range(0..2));
        let produced = Produced {
            partition: partition.clone(),
            rows: rows(vec![event]),
            progress: None,
        };
        log.append(vec![produced]).await.unwrap();
        // Only some of them are waited for.
        if random.random_bool(0.2) {
            stored.note(1, partition.partition, log.known_end(&partition));
            expected.push(event);
        }
        let waiting = stored.clone();
        let mut passed = std::pin::pin!(lineage.pass(&*log, &*clock, &waiting));
        // Not always to the end: then it is asked again, with more.
        for _ in 0..random.random_range(0..400) {
            let task = random.random_range(0..tasks.len());
            tasks[task].step(&*log, &mut random).await;
            clock.advance(LOOK_AGAIN_MAX);
            tokio::task::yield_now().await;
            if let Poll::Ready(passed) = futures::poll!(&mut passed) {
                passed.unwrap();
                let out = log
                    .read(&TopicPartition::new(OUT, 0), 0, usize::MAX, None)
                    .await
                    .unwrap();
                let mut found = HashMap::<i64, usize>::new();
                for &id in out.iter().flat_map(|batch| ids(&batch.rows)) {
                    *found.entry(id).or_default() += 1;
                }
                let missing: BTreeSet<_> = expected.iter().filter(|id| found.get(id) != Some(&2)).collect();
                assert!(
                    missing.is_empty(),
                    "seed {seed}: {missing:?} of {expected:?} in {found:?}"
                );
                break;
            }
        }
    }
    // With all at work it ends.
    let mut passed = std::pin::pin!(lineage.pass(&*log, &*clock, &stored));
    for round in 0.. {
        assert!(round < 10_000, "seed {seed}: it waits for ever");
        for task in &mut tasks {
            task.step(&*log, &mut random).await;
        }
        clock.advance(LOOK_AGAIN_MAX);
        tokio::task::yield_now().await;
        if futures::poll!(&mut passed).is_ready() {
            break;
        }
    }
}

#[tokio::test]
async fn all_is_in_the_last_stage_when_it_is_passed() {
    for seed in 0..SEEDS {
        run(seed).await;
    }
}

#[tokio::test]
async fn what_is_of_another_stream_is_not_waited_for() {
    let clock = ManualClock::new(0);
    let log = MemoryLog::new(clock.clone());
    let other = "9~0-7".parse().unwrap();
    lineage().pass(&*log, &*clock, &other).await.unwrap();
}
