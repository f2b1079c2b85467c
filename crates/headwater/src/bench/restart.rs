//! From `kill -9` to ready, with a large state: the real binary, as a process of its own.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::bench::connection::{Connection, request};
use crate::bench::report::Measured;
use crate::bench::{Bench, BenchResult};

/// One view with a row for every event, and one window that holds all of them.
const SQL: &str = "
CREATE STREAM readings (device TEXT NOT NULL, at TIMESTAMP NOT NULL, value DOUBLE NOT NULL, WATERMARK FOR at AS at - INTERVAL '1' DAY)
PARTITION BY (device) WITH (partitions = 2);
CREATE MATERIALIZED VIEW latest AS SELECT device, count(*) AS readings, max(value) AS greatest FROM readings GROUP BY device;
CREATE STREAM per_day AS SELECT window_start, device, avg(value) AS mean FROM TUMBLE(readings, at, INTERVAL '1 day')
GROUP BY window_start, window_end, device;
";
const EVENTS_PER_REQUEST: usize = 5000;
const POLL: Duration = Duration::from_millis(5);

pub async fn restart(bench: &Bench) -> BenchResult {
    let directory = tempfile::tempdir()?;
    std::fs::write(directory.path().join("restart.sql"), SQL)?;
    let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;

    let mut process = start(directory.path(), address)?;
    ready(bench, address).await;
    let mut connection = Connection::open(address).await?;
    for first in (0..bench.events).step_by(EVENTS_PER_REQUEST) {
        let last = (first + EVENTS_PER_REQUEST).min(bench.events);
        let lines: String = (first..last)
            .map(|n| format!("{{\"device\":\"device-{n}\",\"at\":1700000000000,\"value\":{n}.5}}\n"))
            .collect();
        connection
            .expect_ok(&request(
                "POST",
                "/v1/streams/readings/events",
                "application/x-ndjson",
                lines.as_bytes(),
            ))
            .await?;
    }
    bench.clock.sleep(Duration::from_secs(3)).await;
    process.kill()?;
    process.wait()?;
    let bytes = bytes_in(&directory.path().join("data"))?;

    let started = bench.clock.elapsed();
    let mut process = start(directory.path(), address)?;
    ready(bench, address).await;
    let took = bench.clock.elapsed() - started;
    process.kill()?;
    process.wait()?;

    let reading = bench.clock.elapsed();
    read_all(&directory.path().join("data"))?;
    let read = bench.clock.elapsed() - reading;
    Ok(vec![
        Measured::new("kill -9 to ready")
            .figure("seconds", took.as_secs_f64())
            .figure("events", bench.events as f64)
            .figure("data_mb", bytes as f64 / 1e6)
            .figure("reading_seconds", read.as_secs_f64()),
    ])
}

fn start(directory: &Path, address: SocketAddr) -> std::io::Result<Child> {
    Command::new(std::env::current_exe()?)
        .arg("serve")
        .arg(directory.join("restart.sql"))
        .arg("--data")
        .arg(directory.join("data"))
        .args([
            "--set",
            &format!("http.listen={address}"),
            "--set",
            "postgres.listen=off",
            "--set",
            "grpc.listen=off",
        ])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
}

async fn ready(bench: &Bench, address: SocketAddr) {
    loop {
        if let Ok(mut connection) = Connection::open(address).await
            && connection.expect_ok(&request("GET", "/readyz", "", b"")).await.is_ok()
        {
            return;
        }
        bench.clock.sleep(POLL).await;
    }
}

fn files(directory: &Path) -> std::io::Result<Vec<std::path::PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        match path.is_dir() {
            true => found.extend(files(&path)?),
            false => found.push(path),
        }
    }
    Ok(found)
}

fn bytes_in(directory: &Path) -> std::io::Result<u64> {
    let sizes = files(directory)?.into_iter().map(|file| Ok(file.metadata()?.len()));
    sizes.sum()
}

fn read_all(directory: &Path) -> std::io::Result<()> {
    for file in files(directory)? {
        std::io::copy(&mut std::fs::File::open(file)?, &mut std::io::sink())?;
    }
    Ok(())
}
