//! NEXMark's queries on bids: events read from the log, results committed to it, exactly once. In
//! memory the same pipelines run on the log that lives there, which takes away encoding, disk and
//! nothing else.

use std::sync::Arc;

use headwater_event::offset::TopicPartition;
use headwater_log::embedded::EmbeddedLog;
use headwater_log::memory::MemoryLog;
use headwater_log::{Log, Produced};

use crate::bench::bids::{self, Bids};
use crate::bench::report::Measured;
use crate::bench::{Bench, BenchResult, config, usage};
use crate::config::Config;
use crate::instance::{Core, embedded_options};

const ROWS_PER_BATCH: usize = 8192;
const PARTITIONS: u32 = 2;
/// Small enough that the newest batches, which are kept decoded in memory, are a small part of all:
/// what is measured is reading events back from the store.
const MEMORY_LIMIT: u64 = 512 << 20;

/// Each makes an object named after it.
const QUERIES: [(&str, &str); 10] = [
    ("q0", "CREATE STREAM q0 AS SELECT auction, bidder, price, date_time, extra FROM bid"),
    ("q1", "CREATE STREAM q1 AS SELECT auction, bidder, 0.908 * price AS price, date_time, extra FROM bid"),
    ("q2", "CREATE STREAM q2 AS SELECT auction, price FROM bid WHERE auction % 123 = 0"),
    (
        "q5 window",
        "CREATE STREAM q5 AS SELECT window_start, window_end, auction, count(*) AS num
         FROM HOP(bid, date_time, INTERVAL '2' SECOND, INTERVAL '10' SECOND) GROUP BY window_start, window_end, auction",
    ),
    (
        "q7 window",
        "CREATE STREAM q7 AS SELECT window_start, window_end, max(price) AS price
         FROM TUMBLE(bid, date_time, INTERVAL '10' SECOND) GROUP BY window_start, window_end",
    ),
    (
        "q12 window",
        "CREATE STREAM q12 AS SELECT window_start, window_end, bidder, count(*) AS bids
         FROM TUMBLE(bid, date_time, INTERVAL '10' SECOND) GROUP BY window_start, window_end, bidder",
    ),
    (
        "q11 sessions",
        "CREATE STREAM q11 AS SELECT window_start, window_end, bidder, count(*) AS bids
         FROM SESSION(bid PARTITION BY bidder, date_time, INTERVAL '10' SECOND) GROUP BY window_start, window_end, bidder",
    ),
    // The same groups in every slice, so that what comes out does not depend on the size.
    (
        "hops of 2 slides",
        "CREATE STREAM hops_2 AS SELECT window_end, auction % 1000 AS lot, count(*) AS bids
         FROM HOP(bid, date_time, INTERVAL '1' SECOND, INTERVAL '2' SECOND) GROUP BY window_end, auction % 1000",
    ),
    (
        "hops of 600 slides",
        "CREATE STREAM hops_600 AS SELECT window_end, auction % 1000 AS lot, count(*) AS bids
         FROM HOP(bid, date_time, INTERVAL '1' SECOND, INTERVAL '600' SECOND) GROUP BY window_end, auction % 1000",
    ),
    (
        "clickstream view",
        "CREATE MATERIALIZED VIEW page_clicks AS SELECT bidder, url, count(*) AS click_count FROM bid GROUP BY bidder, url",
    ),
];

pub async fn nexmark(bench: &Bench) -> BenchResult {
    let mut measured = Vec::new();
    for (name, sql) in QUERIES {
        if !bench.queries.is_empty() && !bench.queries.iter().any(|query| name.starts_with(query.as_str())) {
            continue;
        }
        let directory = tempfile::tempdir()?;
        let mut config = config(directory.path());
        config.memory.limit = MEMORY_LIMIT;
        let log = EmbeddedLog::open(embedded_options(&config), Arc::clone(&bench.clock))?;
        measured.push(query(bench, &config, log, format!("{name}, through the log"), sql).await?);
        let log = MemoryLog::new(Arc::clone(&bench.clock));
        measured.push(query(bench, &config, log, format!("{name}, in memory"), sql).await?);
    }
    Ok(measured)
}

async fn query(
    bench: &Bench,
    config: &Config,
    log: Arc<dyn Log>,
    name: String,
    sql: &str,
) -> Result<Measured, Box<dyn std::error::Error + Send + Sync>> {
    let core = Core::start(config, log, Arc::clone(&bench.clock)).await?;
    core.execute(bids::STREAM_SQL).await?;
    fill(bench, &core).await?;

    let (started, cpu) = (bench.clock.elapsed(), usage::cpu());
    core.execute(sql).await?;
    core.caught_up().await;
    let (took, cpu) = (bench.clock.elapsed() - started, usage::cpu() - cpu);
    core.stop().await;
    let events = bench.events as f64;
    Ok(Measured::new(name)
        .figure("events/s", events / took.as_secs_f64())
        .figure("cpu s", cpu.as_secs_f64())
        .figure("events/s per cpu s", events / cpu.as_secs_f64())
        .figure("memory max MB", usage::memory_max() / 1e6))
}

/// Appends the bids, spread over the partitions as they come.
async fn fill(bench: &Bench, core: &Core) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let snapshot = core.catalog.snapshot();
    let stream = snapshot.get("bid").ok_or("the stream 'bid' is not there")?;
    let mut bids = Bids::new(1);
    for batch in 0..bench.events.div_ceil(ROWS_PER_BATCH) {
        let rows = ROWS_PER_BATCH.min(bench.events - batch * ROWS_PER_BATCH);
        let partition = TopicPartition::new(stream.topic(), batch as u32 % PARTITIONS);
        let produced = Produced {
            partition,
            rows: bids.batch(rows)?,
            progress: None,
        };
        core.log.append(vec![produced]).await?;
    }
    Ok(())
}
