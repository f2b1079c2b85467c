//! What grows: keys, windows that overlap, partitions. Events per CPU second should not depend on any of them.
//!
//! Windows are measured in memory, so that it is the operators that are measured, and what is kept for ever (a view's
//! rows, a join's) through the log, with a limit to memory that it outgrows. Memory is the process's.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, TimestampMicrosecondArray};
use headwater_event::offset::TopicPartition;
use headwater_log::Produced;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::bench::report::Measured;
use crate::bench::through::Through;
use crate::bench::{Bench, BenchResult, Failure, config, usage};
use crate::cluster::{Intake, Part};
use crate::instance::Core;

/// So that nothing of what is measured in memory goes to the store.
const MEMORY_LIMIT: u64 = 16 << 30;
/// Less than what is kept for ever.
const KEPT_MEMORY_LIMIT: u64 = 512 << 20;
/// As many of what is kept for ever; those that are more than `--events` are left out.
const KEPT: [usize; 3] = [1_000_000, 10_000_000, 100_000_000];
const ROWS_PER_BATCH: usize = 8192;
const SEED: u64 = 1;
/// Event time between two events.
const STEP_MICROS: i64 = 100;

struct Case {
    what: String,
    through: Through,
    events: usize,
    keys: usize,
    partitions: u32,
    /// Makes `results`.
    sql: String,
}

pub async fn growth(bench: &Bench) -> BenchResult {
    let mut cases = windows(bench);
    cases.extend(kept(bench));
    let mut measured = Vec::new();
    for case in cases {
        measured.push(run(bench, case).await?);
    }
    Ok(measured)
}

fn windows(bench: &Bench) -> Vec<Case> {
    let case = |what: String, keys: usize, partitions: u32, query: &str| Case {
        what,
        through: Through::Memory,
        events: bench.events.max(keys),
        keys,
        partitions,
        sql: format!("CREATE STREAM results AS {query}"),
    };
    let partitions = bench.cores as u32;
    let mut cases = Vec::new();
    for keys in [1_000, 10_000, 100_000, 1_000_000, 10_000_000] {
        let window = "SELECT window_start, device, count(*) AS n FROM TUMBLE(readings, at, INTERVAL '1' DAY) GROUP BY window_start, device";
        cases.push(case("an open window".to_owned(), keys, partitions, window));
        let session = "SELECT window_start, window_end, device, count(*) AS n
            FROM SESSION(readings PARTITION BY device, at, INTERVAL '1' DAY) GROUP BY window_start, window_end, device";
        cases.push(case("an open session".to_owned(), keys, partitions, session));
    }
    for slides in [2, 12, 60, 600] {
        let hop = format!(
            "SELECT window_end, device, count(*) AS n
             FROM HOP(readings, at, INTERVAL '1' SECOND, INTERVAL '{slides}' SECOND) GROUP BY window_end, device"
        );
        cases.push(case(format!("hop, size = {slides} slides"), 1_000, partitions, &hop));
    }
    for partitions in [1, 2, 64] {
        let tumble = "SELECT window_start, device, count(*) AS n FROM TUMBLE(readings, at, INTERVAL '10' SECOND) GROUP BY window_start, device";
        cases.push(case(
            format!("window, {partitions} partitions"),
            10_000,
            partitions,
            tumble,
        ));
    }
    cases
}

fn kept(bench: &Bench) -> Vec<Case> {
    let sizes = KEPT.into_iter().filter(|&size| size <= bench.events.max(KEPT[0]));
    let cases = sizes.flat_map(|size| {
        let case = |what: &str, sql: &str| Case {
            what: what.to_owned(),
            through: Through::Log,
            events: size,
            keys: size,
            partitions: bench.cores as u32,
            sql: sql.to_owned(),
        };
        [
            case(
                "rows of a view",
                "CREATE MATERIALIZED VIEW results AS SELECT device, count(*) AS n FROM readings GROUP BY device",
            ),
            case(
                "rows of a join",
                "CREATE STREAM results WITH (state = 'unbounded') AS
                 SELECT reading.device, reading.at FROM readings AS reading JOIN devices AS device ON reading.device = device.device",
            ),
        ]
    });
    cases.collect()
}

async fn run(bench: &Bench, case: Case) -> Result<Measured, Failure> {
    let directory = tempfile::tempdir()?;
    let mut config = config(directory.path());
    config.engine.threads = bench.cores;
    config.memory.limit = match case.through {
        Through::Memory => MEMORY_LIMIT,
        Through::Log | Through::Kafka => KEPT_MEMORY_LIMIT,
    };
    let log = case.through.open(bench, &config)?;
    let core = Core::start(&config, log, Arc::clone(&bench.clock), Part::alone(Intake::Open)).await?;
    core.execute(&format!(
        "CREATE STREAM readings (device BIGINT NOT NULL, at TIMESTAMP NOT NULL, WATERMARK FOR at AS at - INTERVAL '1' SECOND)
         PARTITION BY (device) WITH (partitions = {partitions});
         CREATE STREAM devices (device BIGINT NOT NULL) PARTITION BY (device) WITH (partitions = {partitions})",
        partitions = case.partitions
    ))
    .await?;
    fill(&core, case.events, case.keys, case.partitions).await?;

    usage::forget_memory_max();
    let memory = usage::memory();
    let (started, cpu) = (bench.clock.elapsed(), usage::cpu());
    core.execute(&case.sql).await?;
    core.caught_up().await;
    let (took, cpu) = (bench.clock.elapsed() - started, usage::cpu() - cpu);
    let grown = (usage::memory() - memory).max(0.0);
    core.stop().await;
    let labels = [
        ("what", case.what),
        ("through", case.through.name().to_owned()),
        ("keys", case.keys.to_string()),
        ("partitions", case.partitions.to_string()),
    ];
    let measured = Measured::of(labels)
        .figure("events", case.events as f64)
        .figure("seconds", took.as_secs_f64())
        .figure("cpu_seconds", cpu.as_secs_f64())
        .figure(
            "events_per_cpu_second",
            case.events as f64 / cpu.max(usage::TICK).as_secs_f64(),
        );
    Ok(match case.through {
        Through::Memory => measured.figure("memory_bytes_per_key", grown / case.keys as f64),
        Through::Log | Through::Kafka => measured.figure("memory_bytes_max", usage::memory_max()),
    })
}

/// Every key in the first part of the events, then keys by chance. A key is always in the same partition.
async fn fill(core: &Core, events: usize, keys: usize, partitions: u32) -> Result<(), Failure> {
    let snapshot = core.catalog.snapshot();
    let stream = snapshot.get("readings").ok_or("there is no stream readings")?;
    let topic: Arc<str> = stream.topic().into();
    let schema = core
        .log
        .topic(&topic)
        .await?
        .ok_or("the stream has no topic")?
        .spec
        .schema;
    let mut random = ChaCha8Rng::seed_from_u64(SEED);
    let mut rows = vec![(Vec::new(), Vec::new()); partitions as usize];
    let step = ROWS_PER_BATCH * partitions as usize;
    for first in (0..events).step_by(step) {
        for event in first..events.min(first + step) {
            let key = if event < keys {
                event
            } else {
                random.random_range(0..keys)
            };
            let (devices, times) = &mut rows[key % partitions as usize];
            devices.push(key as i64);
            times.push(event as i64 * STEP_MICROS);
        }
        let mut batches = Vec::new();
        for (partition, (devices, times)) in (0..).zip(&mut rows) {
            let columns: Vec<ArrayRef> = vec![
                Arc::new(Int64Array::from(std::mem::take(devices))),
                Arc::new(TimestampMicrosecondArray::from(std::mem::take(times))),
            ];
            batches.push(Produced {
                partition: TopicPartition::new(Arc::clone(&topic), partition),
                rows: RecordBatch::try_new(Arc::clone(&schema), columns)?,
                progress: None,
            });
        }
        core.log.append(batches).await?;
    }
    Ok(())
}
