//! NEXMark's queries, those of `examples/nexmark`: events read from the log, results committed to it,
//! exactly once. In memory the same pipelines run on the log that lives there, which takes away encoding, disk and
//! nothing else.
//!
//! Figures count the events that a query reads: those of its streams' share in the sequence.

use std::sync::Arc;

use clap::ValueEnum;
use headwater_connect::sources::nexmark::generator::Table;
use headwater_log::Log;
use headwater_log::embedded::EmbeddedLog;
use headwater_log::memory::MemoryLog;

use crate::bench::events::{STREAMS_SQL, fill};
use crate::bench::report::Measured;
use crate::bench::{Bench, BenchResult, Failure, config, usage};
use crate::config::Config;
use crate::instance::{Core, Intake, embedded_options};

/// Small enough that the newest batches, which are kept decoded in memory, are a small part of all:
/// what is measured is reading events back from the store.
const MEMORY_LIMIT: u64 = 512 << 20;

/// Where events and results are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Through {
    /// On disk
    Log,
    /// In memory, not encoded
    Memory,
}

/// Each makes an object named after it.
const QUERIES: [(&str, &str); 26] = [
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
    // The same groups in every slice, so that what comes out does not depend on the size.
    (
        "hops-2",
        "CREATE STREAM hops_2 AS SELECT window_end, auction % 1000 AS lot, count(*) AS bids
         FROM HOP(bid, date_time, INTERVAL '1' SECOND, INTERVAL '2' SECOND) GROUP BY window_end, auction % 1000",
    ),
    (
        "hops-600",
        "CREATE STREAM hops_600 AS SELECT window_end, auction % 1000 AS lot, count(*) AS bids
         FROM HOP(bid, date_time, INTERVAL '1' SECOND, INTERVAL '600' SECOND) GROUP BY window_end, auction % 1000",
    ),
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
        for through in Through::value_variants() {
            if bench.through.is_none_or(|wanted| wanted == *through) {
                measured.push(query(bench, *through, name, sql).await?);
            }
        }
    }
    Ok(measured)
}

async fn query(bench: &Bench, through: Through, name: &str, sql: &str) -> Result<Measured, Failure> {
    let directory = tempfile::tempdir()?;
    let mut config = config(directory.path());
    config.memory.limit = MEMORY_LIMIT;
    config.engine.threads = bench.cores;
    let (place, log): (_, Arc<dyn Log>) = match through {
        Through::Log => {
            let options = embedded_options(&config);
            ("through the log", EmbeddedLog::open(options, Arc::clone(&bench.clock))?)
        }
        Through::Memory => ("in memory", MemoryLog::new(Arc::clone(&bench.clock))),
    };
    let measured = Measured::new(format!("{name}, {place}"));
    run(bench, &config, log, name, sql, measured).await
}

async fn run(
    bench: &Bench,
    config: &Config,
    log: Arc<dyn Log>,
    name: &str,
    sql: &str,
    measured: Measured,
) -> Result<Measured, Failure> {
    let core = Core::start(config, log, Arc::clone(&bench.clock), Intake::Open).await?;
    let partitioned = |sql: &str| sql.replace("partitions = 4", &format!("partitions = {}", bench.cores));
    core.execute(&partitioned(STREAMS_SQL)).await?;
    let mut filled = Vec::new();
    for table in [Table::Person, Table::Auction, Table::Bid] {
        filled.push((table.name(), fill(&core, table, bench.events as u64).await?));
    }

    usage::forget_memory_max();
    let (started, cpu) = (bench.clock.elapsed(), usage::cpu());
    if let Err(error) = core.execute(&partitioned(sql)).await {
        core.stop().await;
        return Ok(measured.note(format!("not available: {error}")));
    }
    core.caught_up().await;
    let (took, cpu) = (bench.clock.elapsed() - started, usage::cpu() - cpu);
    let snapshot = core.catalog.snapshot();
    let reads = snapshot.get(name).map(|query| query.needs()).unwrap_or_default();
    let read = filled.iter().filter(|(name, _)| reads.iter().any(|read| read == name));
    let events = read.map(|(_, rows)| *rows).sum::<u64>() as f64;
    let measured = measured
        .figure("events", events)
        .figure("events/s", events / took.as_secs_f64())
        .figure("cpu s", cpu.as_secs_f64())
        .figure("events/s per cpu s", events / cpu.as_secs_f64())
        .figure("memory max MB", usage::memory_max() / 1e6);
    core.stop().await;
    Ok(measured)
}
