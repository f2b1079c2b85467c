//! NEXMark's queries, those of `examples/nexmark`: events read from the log, results committed to it,
//! exactly once. In memory the same pipelines run on the log that lives there, which takes away encoding, disk and
//! nothing else.
//!
//! Figures count the events that a query reads: those of its streams' share in the sequence.

use std::sync::Arc;
use std::time::Duration;

use headwater_connect::sources::nexmark::generator::Table;
use headwater_engine::engine::Running;
use headwater_log::Log;
use tokio::task::JoinSet;

use crate::bench::events::{Feed, STREAMS_SQL};
use crate::bench::report::{Measured, percentile_ms};
use crate::bench::through::Through;
use crate::bench::{Bench, BenchResult, Failure, config, usage};
use crate::cluster::{Intake, Part};
use crate::config::Config;
use crate::instance::Core;

/// Small enough that the newest batches, which are kept decoded in memory, are a small part of all:
/// what is measured is reading events back from the store.
const MEMORY_LIMIT: u64 = 512 << 20;

/// How long events come at a steady rate, and how often a batch of them.
const LATENCY_TIME: Duration = Duration::from_secs(5);
const LATENCY_TICK: Duration = Duration::from_millis(5);

/// Each makes an object named after it.
const QUERIES: [(&str, &str); 24] = [
    ("q0", include_str!("../../../../examples/nexmark/q0.sql")),
    ("q1", include_str!("../../../../examples/nexmark/q1.sql")),
    ("q2", include_str!("../../../../examples/nexmark/q2.sql")),
    ("q3", include_str!("../../../../examples/nexmark/q3.sql")),
    ("q4", include_str!("../../../../examples/nexmark/q4.sql")),
    ("q5", include_str!("../../../../examples/nexmark/q5.sql")),
    ("q6", include_str!("../../../../examples/nexmark/q6.sql")),
    ("q7", include_str!("../../../../examples/nexmark/q7.sql")),
    ("q8", include_str!("../../../../examples/nexmark/q8.sql")),
    ("q9", include_str!("../../../../examples/nexmark/q9.sql")),
    ("q10", include_str!("../../../../examples/nexmark/q10.sql")),
    ("q11", include_str!("../../../../examples/nexmark/q11.sql")),
    ("q12", include_str!("../../../../examples/nexmark/q12.sql")),
    ("q13", include_str!("../../../../examples/nexmark/q13.sql")),
    ("q14", include_str!("../../../../examples/nexmark/q14.sql")),
    ("q15", include_str!("../../../../examples/nexmark/q15.sql")),
    ("q16", include_str!("../../../../examples/nexmark/q16.sql")),
    ("q17", include_str!("../../../../examples/nexmark/q17.sql")),
    ("q18", include_str!("../../../../examples/nexmark/q18.sql")),
    ("q19", include_str!("../../../../examples/nexmark/q19.sql")),
    ("q20", include_str!("../../../../examples/nexmark/q20.sql")),
    ("q21", include_str!("../../../../examples/nexmark/q21.sql")),
    ("q22", include_str!("../../../../examples/nexmark/q22.sql")),
    // Not NEXMark's: as the clickstream example counts, with nearly all keys different.
    (
        "clickstream",
        "CREATE MATERIALIZED VIEW clickstream AS SELECT bidder, url, count(*) AS click_count FROM bid GROUP BY bidder, url",
    ),
];

pub async fn nexmark(bench: &Bench) -> BenchResult {
    let unknown = |wanted: &&String| !QUERIES.iter().any(|(name, _)| name == wanted);
    if let Some(wanted) = bench.queries.iter().find(unknown) {
        return Err(format!("there is no query {wanted}; there are q0 to q22 and clickstream").into());
    }
    let mut measured = Vec::new();
    for (name, sql) in QUERIES {
        if !bench.queries.is_empty() && !bench.queries.iter().any(|query| query == name) {
            continue;
        }
        let usual = || Through::USUAL.to_vec();
        for through in bench.through.map_or_else(usual, |wanted| vec![wanted]) {
            measured.push(query(bench, through, name, sql).await?);
        }
    }
    Ok(measured)
}

async fn query(bench: &Bench, through: Through, name: &str, sql: &str) -> Result<Measured, Failure> {
    let directory = tempfile::tempdir()?;
    let mut config = config(directory.path());
    config.memory.limit = MEMORY_LIMIT;
    config.engine.threads = bench.cores;
    let log = through.open(bench, &config)?;
    let measured = Measured::of([("query", name.to_owned()), ("through", through.name().to_owned())]);
    // Files are for the benchmark alone.
    let sql = sql.replace("path = '", &format!("path = '{}/", directory.path().display()));
    let measured = run(bench, &config, Arc::clone(&log), name, &sql, measured).await?;
    through.clear(&*log).await?;
    Ok(measured)
}

async fn run(
    bench: &Bench,
    config: &Config,
    log: Arc<dyn Log>,
    name: &str,
    sql: &str,
    measured: Measured,
) -> Result<Measured, Failure> {
    let core = Core::start(config, log, Arc::clone(&bench.clock), Part::alone(Intake::Open)).await?;
    let partitioned = |sql: &str| sql.replace("partitions = 4", &format!("partitions = {}", bench.cores));
    core.execute(&partitioned(STREAMS_SQL)).await?;
    let mut filled = Vec::new();
    for table in [Table::Person, Table::Auction, Table::Bid] {
        let feed = Feed::of(&core, table)?;
        let rows = feed.fill(&core, bench.events as u64).await?;
        filled.push((feed, rows));
    }

    usage::forget_memory_max();
    let (started, cpu) = (bench.clock.elapsed(), usage::cpu());
    // What a query writes to files goes with the rest.
    let files = format!("path = '{}/", config.data.directory.display());
    if let Err(error) = core.execute(&partitioned(sql).replace("path = '", &files)).await {
        core.stop().await;
        return Ok(measured.note(format!("not available: {error}")));
    }
    core.caught_up().await;
    let (took, cpu) = (bench.clock.elapsed() - started, usage::cpu() - cpu);
    let memory = usage::memory_max();
    let snapshot = core.catalog.snapshot();
    let reads = snapshot.get(name).map(|query| query.needs()).unwrap_or_default();
    filled.retain(|(feed, _)| reads.iter().any(|read| read == feed.table.name()));
    let events = filled.iter().map(|(_, rows)| *rows).sum::<u64>() as f64;
    let mut measured = measured
        .figure("events", events)
        .figure("seconds", took.as_secs_f64())
        .figure("cpu_seconds", cpu.as_secs_f64())
        .figure("events_per_second", events / took.as_secs_f64())
        .figure("events_per_cpu_second", events / cpu.max(usage::TICK).as_secs_f64())
        .figure("memory_bytes_max", memory);
    if let Some(running) = core.processor.running(name).filter(|_| bench.rate > 0) {
        let feeds: Vec<_> = filled.into_iter().map(|(feed, _)| feed).collect();
        let mut latencies = latencies(bench, &core, &running, &feeds).await?;
        measured = measured
            .figure("latency_ms_p50", percentile_ms(&mut latencies, 50.0))
            .figure("latency_ms_p99", percentile_ms(&mut latencies, 99.0));
    }
    core.stop().await;
    Ok(measured)
}

/// The events that follow, at a steady rate: from the append of a batch until everything that comes of it was committed.
/// A row that waits for its window to close is not waited for.
async fn latencies(
    bench: &Bench,
    core: &Core,
    running: &Arc<Running>,
    feeds: &[Feed],
) -> Result<Vec<Duration>, Failure> {
    let clock = &bench.clock;
    let mut waiting = JoinSet::new();
    let (started, first) = (clock.elapsed(), bench.events as u64);
    let mut appended = first;
    for number in 0.. {
        let passed = clock.elapsed() - started;
        if passed > LATENCY_TIME {
            break;
        }
        let due = first + (passed.as_secs_f64() * bench.rate as f64) as u64;
        let batches: Result<Vec<_>, _> = feeds.iter().map(|feed| feed.batch(appended..due, number)).collect();
        let batches: Vec<_> = batches?.into_iter().filter(|batch| batch.rows.num_rows() > 0).collect();
        if !batches.is_empty() {
            let sent = clock.elapsed();
            core.log.append(batches).await?;
            let (running, log, clock) = (Arc::clone(running), Arc::clone(&core.log), Arc::clone(clock));
            let is_warm = passed > LATENCY_TIME / 10;
            waiting.spawn(async move {
                let passed = running.passed(&*log).await;
                passed.map(|()| is_warm.then(|| clock.elapsed() - sent))
            });
            appended = due;
        }
        clock.sleep(LATENCY_TICK).await;
    }
    let mut latencies = Vec::new();
    while let Some(waited) = waiting.join_next().await {
        latencies.extend(waited??);
    }
    Ok(latencies)
}
