//! The log on Kafka against the suite of all back ends, on a real broker, and what it promises beyond it.

#![allow(clippy::unwrap_used, reason = "a test ends where it can't go on")]

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{AsArray, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Int64Type, Schema};
use bytes::Bytes;
use headwater_event::clock::{Clock, ManualClock, SystemClock};
use headwater_event::offset::TopicPartition;
use headwater_log::conformance::{self, Backend};
use headwater_log::embedded::options::EmbeddedOptions;
use headwater_log::error::{Error, Kind, Result};
use headwater_log::kafka::KafkaLog;
use headwater_log::kafka::options::KafkaOptions;
use headwater_log::topic::{Cleanup, TopicSpec};
use headwater_log::{Commit, Log, Produced, StateWrite};
use headwater_test_servers::kafka;

#[path = "kafka/events.rs"]
mod events;
#[path = "kafka/security.rs"]
mod security;

struct OnKafka {
    brokers: String,
    folder: tempfile::TempDir,
    clock: Arc<ManualClock>,
}

impl Backend for OnKafka {
    type Log = KafkaLog;

    const DURABLE: bool = true;
    const SWEEPS: bool = false;

    fn clock(&self) -> &ManualClock {
        &self.clock
    }

    fn open(&self, storage: &str) -> Result<Arc<KafkaLog>> {
        let mut copies = EmbeddedOptions::new(self.folder.path().join(storage));
        copies.disk_free_bytes_min = 0;
        copies.write_buffer_bytes = 4 << 20;
        KafkaLog::open(KafkaOptions::new(&self.brokers, storage, copies), self.clock.clone())
    }

    async fn sweep(_: &KafkaLog) -> Result<()> {
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn conforms() {
    let Some(broker) = kafka::shared() else {
        return;
    };
    let backend = OnKafka {
        brokers: broker.brokers.clone(),
        folder: tempfile::tempdir().unwrap(),
        // The brokers put their own time on the marks of transactions.
        clock: ManualClock::new(SystemClock::new().now()),
    };
    conformance::run(&backend).await.unwrap();
}

/// A log of its own for each process; `directory` has the process's copies.
fn open(broker: &kafka::Kafka, prefix: &str, directory: &Path) -> Arc<KafkaLog> {
    let mut copies = EmbeddedOptions::new(directory);
    copies.disk_free_bytes_min = 0;
    copies.write_buffer_bytes = 4 << 20;
    KafkaLog::open(KafkaOptions::new(&broker.brokers, prefix, copies), SystemClock::new()).unwrap()
}

fn spec() -> TopicSpec {
    TopicSpec {
        name: "numbers".to_owned(),
        schema: Arc::new(Schema::new(vec![Field::new("n", DataType::Int64, false)])),
        partitions: 2,
        cleanup: Cleanup::Delete {
            retention_ms: None,
            retention_bytes: None,
        },
        events: None,
    }
}

fn numbers(partition: u32, numbers: Range<i64>) -> Produced {
    let column = Arc::new(Int64Array::from_iter_values(numbers));
    Produced {
        partition: TopicPartition::new("numbers", partition),
        rows: RecordBatch::try_new(spec().schema, vec![column]).unwrap(),
        progress: None,
    }
}

/// Commits a number to partition 0, the same to the state, and that everything before was consumed.
fn commit(number: i64) -> Commit {
    Commit {
        consumed: vec![(TopicPartition::new("numbers", 1), number as u64)],
        produced: vec![numbers(0, number..number + 1)],
        state: vec![StateWrite {
            table: "last".into(),
            entries: [(Bytes::from_static(b"n"), Some(Bytes::from(number.to_string())))].into(),
        }],
    }
}

async fn all(log: &dyn Log, partition: u32) -> Vec<i64> {
    let partition = TopicPartition::new("numbers", partition);
    let (mut numbers, mut at) = (Vec::new(), 0);
    loop {
        let read = log.read(&partition, at, 1 << 20, None).await.unwrap();
        let Some(last) = read.last() else {
            return numbers;
        };
        at = last.next();
        for batch in read {
            numbers.extend(batch.rows.column(0).as_primitive::<Int64Type>().values());
        }
    }
}

async fn last(log: &dyn Log) -> Option<Bytes> {
    log.state("last").await.unwrap().get(b"n").unwrap()
}

/// Processes see what the others make and commit; work that is taken over goes on where it was, with the state that was left, and
/// whoever had it can't commit any more.
#[tokio::test(flavor = "multi_thread")]
async fn processes_share_a_log() {
    let Some(broker) = kafka::shared() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let first = open(broker, "shared", &folder.path().join("first"));
    first.create_topic(spec()).await.unwrap();
    let second = open(broker, "shared", &folder.path().join("second"));
    assert_eq!(second.topic("numbers").await.unwrap().unwrap().spec, spec());
    let mut other = spec();
    other.partitions = 3;
    assert_eq!(second.create_topic(other).await.unwrap_err().kind(), Kind::Conflict);

    let claimed = first.claim("task").await.unwrap();
    let seen_by_first = first.state("last").await.unwrap();
    first.commit(&claimed, commit(7)).await.unwrap();
    let taken_over = second.claim("task").await.unwrap();
    assert_eq!(taken_over.consumed, [(TopicPartition::new("numbers", 1), 7)].into());
    assert_eq!(last(&*second).await.as_deref(), Some(&b"7"[..]));
    let late = first.commit(&claimed, commit(8)).await;
    assert!(matches!(late, Err(Error::Fenced { .. })), "{late:?}");
    assert_eq!(seen_by_first.get(b"n").unwrap().as_deref(), Some(&b"7"[..]));
    second.commit(&taken_over, commit(9)).await.unwrap();
    assert_eq!(all(&*first, 0).await, [7, 9]);
    assert_eq!(last(&*first).await.as_deref(), Some(&b"9"[..]));

    first.delete_topic("numbers").await.unwrap();
    let gone = tokio::time::timeout(Duration::from_secs(10), async {
        while second.topic("numbers").await.unwrap().is_some() {
            tokio::task::yield_now().await;
        }
    });
    gone.await.unwrap();
}

/// Whatever others append meanwhile, and whatever was read before: where a partition ends, everything has that was acknowledged before.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_is_before_the_settled_end() {
    const ROUNDS: i64 = 60;
    let Some(broker) = kafka::shared() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let first = open(broker, "settled", &folder.path().join("first"));
    first.create_topic(spec()).await.unwrap();
    let [asked, second] = ["asked", "second"].map(|name| open(broker, "settled", &folder.path().join(name)));
    let partition = TopicPartition::new("numbers", 0);
    let appends = async |log: Arc<KafkaLog>| {
        for round in 0..ROUNDS {
            let base = log.append(vec![numbers(0, round..round + 1)]).await.unwrap()[0];
            let end = asked.settled(&partition).await.unwrap().end;
            assert!(end > base, "{base} is stored, and the end is {end}");
            // With readers that stand at the end, too.
            if round % 3 == 0 {
                asked.read(&partition, end, usize::MAX, None).await.unwrap();
            }
        }
    };
    tokio::join!(appends(first.clone()), appends(second.clone()));
    assert_eq!(
        asked.settled(&partition).await.unwrap().end,
        asked.offsets(&partition).await.unwrap().end
    );
    assert_eq!(all(&*asked, 0).await.len() as i64, 2 * ROUNDS);
}

/// Commits of many owners are one transaction, and yet each is its own: one that is refused spoils no other, and of one whose work was claimed
/// anew nothing is written.
#[tokio::test(flavor = "multi_thread")]
async fn commits_together_are_each_their_own() {
    const OWNERS: i64 = 6;
    const ROUNDS: i64 = 5;
    let Some(broker) = kafka::shared() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let log = open(broker, "together", folder.path());
    log.create_topic(spec()).await.unwrap();
    let owners: Vec<_> = (0..OWNERS).map(|owner| owner.to_string()).collect();
    let claims = futures::future::join_all(owners.iter().map(|owner| log.claim(owner))).await;
    let claims: Vec<_> = claims.into_iter().map(Result::unwrap).collect();
    let mut expected = Vec::new();
    for round in 0..ROUNDS {
        let commits = claims.iter().zip(0..).map(|(claim, owner)| {
            let mut commit = commit(round * OWNERS + owner);
            if owner == 0 {
                // No broker takes that.
                let large = Some(Bytes::from(vec![0; 40 << 20]));
                commit.state[0].entries = [(Bytes::from_static(b"large"), large)].into();
            }
            log.commit(claim, commit)
        });
        let committed = futures::future::join_all(commits).await;
        for (committed, owner) in committed.into_iter().zip(0..) {
            assert_eq!(committed.is_ok(), owner != 0, "{owner}: {committed:?}");
        }
        expected.extend((1..OWNERS).map(|owner| round * OWNERS + owner));
    }
    let mut stored = all(&*log, 0).await;
    stored.sort_unstable();
    assert_eq!(stored, expected);

    let (late, anew) = futures::join!(log.commit(&claims[1], commit(100)), log.claim("1"));
    let has_late = anew.unwrap().consumed == [(TopicPartition::new("numbers", 1), 100)].into();
    assert_eq!(late.is_ok(), has_late, "{late:?}");
    assert_eq!(all(&*log, 0).await.contains(&100), has_late);
    assert!(matches!(
        log.commit(&claims[1], commit(101)).await,
        Err(Error::Fenced { .. })
    ));
}

/// A process that is taken for gone is not waited for. If it is there after all, it has lost everything, and can claim it again.
#[tokio::test(flavor = "multi_thread")]
async fn whoever_has_left_has_lost_all_it_had() {
    let Some(broker) = kafka::shared() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let first = open(broker, "left", &folder.path().join("first"));
    first.create_topic(spec()).await.unwrap();
    let second = open(broker, "left", &folder.path().join("second"));
    let (one, other) = (first.claim("one").await.unwrap(), first.claim("other").await.unwrap());
    first.commit(&one, commit(1)).await.unwrap();
    first.commit(&other, commit(2)).await.unwrap();
    second.state("last").await.unwrap();
    second.left(first.process());
    let taken = second.claim("one").await.unwrap();
    assert_eq!(taken.consumed, [(TopicPartition::new("numbers", 1), 1)].into());
    let lost = first.commit(&one, commit(3)).await;
    assert_eq!(lost.unwrap_err().kind(), Kind::Conflict);
    let mut other = other;
    while let Err(error) = first.commit(&other, commit(4)).await {
        assert_eq!(error.kind(), Kind::Conflict);
        other = first.claim("other").await.unwrap();
        assert_eq!(other.consumed, [(TopicPartition::new("numbers", 1), 2)].into());
    }
    second.commit(&taken, commit(5)).await.unwrap();
    assert_eq!(all(&*second, 0).await, [1, 2, 4, 5]);
}

/// A process without its directory, or with one that is damaged, reads everything from the cluster.
#[tokio::test(flavor = "multi_thread")]
async fn copies_can_be_made_again() {
    let Some(broker) = kafka::shared() else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let log = open(broker, "copies", &folder.path().join("here"));
    log.create_topic(spec()).await.unwrap();
    let claim = log.claim("task").await.unwrap();
    for number in 0..20 {
        log.commit(&claim, commit(number)).await.unwrap();
    }
    drop(log);
    let elsewhere = open(broker, "copies", &folder.path().join("elsewhere"));
    assert_eq!(last(&*elsewhere).await.as_deref(), Some(&b"19"[..]));
    assert_eq!(all(&*elsewhere, 0).await, (0..20).collect::<Vec<_>>());
    let claim = elsewhere.claim("task").await.unwrap();
    assert_eq!(claim.consumed, [(TopicPartition::new("numbers", 1), 19)].into());
    drop(elsewhere);
    let store = folder.path().join("elsewhere").join("log");
    let files = std::fs::read_dir(store).unwrap().map(|file| file.unwrap().path());
    for journal in files.filter(|file| file.extension().is_some_and(|extension| extension == "jnl")) {
        let bytes = std::fs::read(&journal).unwrap();
        std::fs::write(&journal, &bytes[..bytes.len() / 100]).unwrap();
    }
    let damaged = open(broker, "copies", &folder.path().join("elsewhere"));
    assert_eq!(last(&*damaged).await.as_deref(), Some(&b"19"[..]));
}

/// Copies of another cluster's tables are not taken for this one's.
#[tokio::test(flavor = "multi_thread")]
async fn a_directory_belongs_to_one_cluster() {
    let (Some(broker), Some(other)) = (kafka::shared(), tokio::task::block_in_place(kafka::Kafka::start)) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    drop(open(broker, "mixed", folder.path()));
    let options = KafkaOptions::new(&other.brokers, "mixed", EmbeddedOptions::new(folder.path()));
    let error = KafkaLog::open(options, SystemClock::new()).map(|_| ()).unwrap_err();
    let said = error.to_string();
    assert!(
        matches!(error, Error::Invalid(_)) && said.contains("belongs to the Kafka cluster") && said.contains("--data"),
        "{said}"
    );
    drop(open(broker, "mixed", folder.path()));
}

/// While the broker is away, nothing that was acknowledged is lost, and what is asked for waits or fails; afterwards all goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_killed_comes_back_with_everything() {
    let Some(mut broker) = tokio::task::block_in_place(kafka::Kafka::start) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let log = open(&broker, "killed", folder.path());
    log.create_topic(spec()).await.unwrap();
    let claim = log.claim("task").await.unwrap();
    log.commit(&claim, commit(1)).await.unwrap();
    log.append(vec![numbers(1, 0..10)]).await.unwrap();
    broker.kill(0);
    let (waiting, going_on) = (log.clone(), log.clone());
    let append = tokio::spawn(async move { waiting.append(vec![numbers(1, 10..20)]).await });
    tokio::task::block_in_place(|| broker.run(0));
    let appended = append.await.unwrap().is_ok();
    // The claim may have been lost: whoever has the work takes it up again, as the engine does.
    let mut claim = claim;
    while going_on.commit(&claim, commit(2)).await.is_err() {
        claim = going_on.claim("task").await.unwrap();
    }
    log.append(vec![numbers(1, 20..30)]).await.unwrap();
    let expected: Vec<i64> = (0..30)
        .filter(|number| appended || !(10..20).contains(number))
        .collect();
    assert_eq!(all(&*log, 1).await, expected);
    assert_eq!(all(&*log, 0).await, [1, 2]);
    assert_eq!(last(&*log).await.as_deref(), Some(&b"2"[..]));
}
