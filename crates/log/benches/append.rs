//! How fast the embedded log appends. Prints a table; takes the folder to write in as argument.
//!
//! * batches of 64 and 256 KiB from several tasks at once, so that they share syncs: MB/s and the
//!   latency of an append;
//! * batches of one row from 64 tasks: appends per second.

#![allow(clippy::print_stdout, reason = "a benchmark prints its result")]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use futures::future::try_join_all;
use headwater_event::clock::{Clock, SystemClock};
use headwater_event::offset::TopicPartition;
use headwater_log::embedded::EmbeddedLog;
use headwater_log::embedded::options::EmbeddedOptions;
use headwater_log::error::Result;
use headwater_log::topic::{Cleanup, TopicSpec};
use headwater_log::{Log, Produced};

/// What is measured: how many tasks append how many batches of how many rows.
struct Load {
    name: &'static str,
    tasks: usize,
    appends: usize,
    rows: usize,
}

/// A row has about this many bytes.
const ROW_BYTES: usize = 128;

const LOADS: [Load; 3] = [
    Load {
        name: "64 KiB",
        tasks: 16,
        appends: 500,
        rows: (64 << 10) / ROW_BYTES,
    },
    Load {
        name: "256 KiB",
        tasks: 16,
        appends: 125,
        rows: (256 << 10) / ROW_BYTES,
    },
    Load {
        name: "1 row",
        tasks: 64,
        appends: 500,
        rows: 1,
    },
];

fn main() -> Result<()> {
    // Cargo passes `--bench`.
    let folder = std::env::args().skip(1).find(|argument| !argument.starts_with("--"));
    let folder = folder
        .map_or_else(std::env::temp_dir, PathBuf::from)
        .join(format!("append-{}", std::process::id()));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let result = match runtime {
        Ok(runtime) => runtime.block_on(measure_all(&folder)),
        Err(error) => {
            println!("no runtime: {error}");
            Ok(())
        }
    };
    // Only what this run has made.
    if let Err(error) = std::fs::remove_dir_all(&folder) {
        println!("{} is left over: {error}", folder.display());
    }
    result
}

async fn measure_all(folder: &std::path::Path) -> Result<()> {
    let clock = SystemClock::new();
    println!(
        "{:>10} {:>10} {:>10} {:>10} {:>10}",
        "batch", "MB/s", "appends/s", "p50 ms", "p99 ms"
    );
    for load in LOADS {
        let log = EmbeddedLog::open(EmbeddedOptions::new(folder.join(load.name)), clock.clone())?;
        measure(&log, &clock, &load).await?;
    }
    Ok(())
}

async fn measure(log: &Arc<EmbeddedLog>, clock: &Arc<SystemClock>, load: &Load) -> Result<()> {
    let rows = rows(load.rows)?;
    let spec = TopicSpec {
        name: "bench".to_owned(),
        schema: rows.schema(),
        partitions: 4,
        cleanup: Cleanup::Delete {
            retention_ms: None,
            retention_bytes: None,
        },
        events: None,
    };
    log.create_topic(spec).await?;
    let started = clock.elapsed();
    let tasks = (0..load.tasks).map(|task| {
        let (log, clock, rows, appends) = (log.clone(), clock.clone(), rows.clone(), load.appends);
        async move {
            let appending = tokio::spawn(append(log, clock, rows, appends, task as u32 % 4));
            appending
                .await
                .map_err(|error| headwater_log::error::Error::Storage(error.to_string()))?
        }
    });
    let mut latencies: Vec<Duration> = try_join_all(tasks).await?.into_iter().flatten().collect();
    let seconds = (clock.elapsed() - started).as_secs_f64();
    latencies.sort_unstable();
    let at = |share: f64| latencies[((latencies.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
    let appends = latencies.len() as f64;
    let megabytes = appends * load.rows as f64 * ROW_BYTES as f64 / 1e6;
    println!(
        "{:>10} {:>10.1} {:>10.0} {:>10.2} {:>10.2}",
        load.name,
        megabytes / seconds,
        appends / seconds,
        at(0.5),
        at(0.99)
    );
    Ok(())
}

async fn append(
    log: Arc<EmbeddedLog>,
    clock: Arc<SystemClock>,
    rows: RecordBatch,
    appends: usize,
    partition: u32,
) -> Result<Vec<Duration>> {
    let mut latencies = Vec::with_capacity(appends);
    for _ in 0..appends {
        let before = clock.elapsed();
        let batch = Produced {
            partition: TopicPartition::new("bench", partition),
            rows: rows.clone(),
            progress: None,
        };
        log.append(vec![batch]).await?;
        latencies.push(clock.elapsed() - before);
    }
    Ok(latencies)
}

fn rows(count: usize) -> Result<RecordBatch> {
    let ids = Int64Array::from_iter_values(0..count as i64);
    // Half of it compresses, as it does in life.
    let texts = (0..count as u64).map(|row| format!("{:016x}{:084}", row.wrapping_mul(0x9e37_79b9_7f4a_7c15), row));
    let columns: [(&str, ArrayRef); 2] = [
        ("id", Arc::new(ids)),
        ("text", Arc::new(StringArray::from_iter_values(texts))),
    ];
    Ok(RecordBatch::try_from_iter(columns)?)
}
