//! `kill -9` on the real binary, under load, at random moments.
//!
//! Clients send events and remember what was acknowledged; what was not, they send again, as they
//! would. After the last round every acknowledged event must be in the stream once, every view
//! must be exact, and every closed window must have been emitted once, with the right count.
//!
//! `HEADWATER_CRASH_ROUNDS` sets the number of rounds, `HEADWATER_CRASH_SEED` another run,
//! `HEADWATER_BIN` tests another binary.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};
use serde_json::{Value, json};

use crate::server::Server;

const ROUNDS: u64 = 20;
const SEED: u64 = 1;
const CLIENTS: u64 = 4;
/// Events that one request carries at most.
const REQUEST_EVENTS_MAX: u64 = 40;
/// A wave is sent and acknowledged as a whole before the next begins: so no event is ever further
/// behind the newest one than this, and none is late.
const WAVE_EVENTS: u64 = CLIENTS * REQUEST_EVENTS_MAX;
/// Event time from one event to the next.
const STEP_MS: u64 = 10;
const KEYS: u64 = 23;

pub const SQL: &str = "
CREATE STREAM events (
  id  TEXT NOT NULL,
  key TEXT NOT NULL,
  n   BIGINT NOT NULL,
  at  TIMESTAMP NOT NULL,
  WATERMARK FOR at AS at - INTERVAL '5' SECOND
) PARTITION BY (key) WITH (partitions = 2, idempotency_key = 'id');

CREATE MATERIALIZED VIEW per_key AS
SELECT key, count(*) AS events, sum(n) AS total, max(n) AS greatest FROM events GROUP BY key;

CREATE MATERIALIZED VIEW per_bucket AS
SELECT n % 7 AS bucket, count(*) AS events, sum(n) AS total FROM events GROUP BY n % 7;

CREATE STREAM odd AS SELECT id, key, n, at FROM events WHERE n % 2 = 1;

CREATE MATERIALIZED VIEW odd_per_key AS SELECT key, count(*) AS events FROM odd GROUP BY key;

CREATE STREAM per_second AS
SELECT window_start, key, count(*) AS events, sum(n) AS total
FROM TUMBLE(events, at, INTERVAL '1 second')
GROUP BY window_start, window_end, key;

CREATE STREAM hops AS
SELECT window_start, n % 3 AS bucket, count(*) AS events
FROM HOP(events, at, INTERVAL '1 second', INTERVAL '3 seconds')
GROUP BY window_start, window_end, n % 3;
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_at_random_moments_loses_and_repeats_nothing() {
    let rounds = from_env("HEADWATER_CRASH_ROUNDS").unwrap_or(ROUNDS);
    let seed = from_env("HEADWATER_CRASH_SEED").unwrap_or(SEED);
    println!("crash test: {rounds} rounds, HEADWATER_CRASH_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);

    let mut server = Server::new(SQL);
    server.start().await;
    let load = Arc::new(Load::new(server.url()));
    let clients = tokio::spawn(Arc::clone(&load).run(random.next_u64()));
    for round in 0..rounds {
        // From right after the start to well into steady work.
        let alive = Duration::from_millis(random.random_range(20..700));
        tokio::time::sleep(alive).await;
        server.kill();
        server.start().await;
        if round % 10 == 9 {
            println!("round {}: {} events acknowledged", round + 1, load.acknowledged());
        }
    }
    load.stop.store(true, Ordering::Relaxed);
    let sent = clients.await.expect("the clients end");
    assert!(sent > 0, "no wave was ever acknowledged");
    check(&server, sent).await;
}

/// That everything that was sent is there, once, in the stream, in every view and in every window.
pub async fn check(server: &Server, sent: u64) {
    server.caught_up().await;
    let numbers = 0..sent;

    let stored = server
        .sql("SELECT count(*) AS rows, count(DISTINCT id) AS ids FROM events")
        .await;
    assert_eq!(
        stored,
        vec![json!({"rows": sent, "ids": sent})],
        "every acknowledged event once"
    );

    let mut per_key: HashMap<String, (u64, u64, u64)> = HashMap::new();
    let mut odd: HashMap<String, u64> = HashMap::new();
    let mut per_bucket: HashMap<u64, (u64, u64)> = HashMap::new();
    for n in numbers {
        let entry = per_key.entry(key(n)).or_default();
        *entry = (entry.0 + 1, entry.1 + n, entry.2.max(n));
        *odd.entry(key(n)).or_default() += n % 2;
        let entry = per_bucket.entry(n % 7).or_default();
        *entry = (entry.0 + 1, entry.1 + n);
    }

    for row in server.sql("SELECT * FROM per_key").await {
        let expected = per_key.remove(text(&row, "key")).expect("a key that was sent");
        assert_eq!(
            (number(&row, "events"), number(&row, "total"), number(&row, "greatest")),
            expected,
            "{row}"
        );
    }
    assert!(per_key.is_empty(), "keys without a row: {per_key:?}");
    for row in server.sql("SELECT * FROM odd_per_key").await {
        assert_eq!(Some(number(&row, "events")), odd.remove(text(&row, "key")), "{row}");
    }
    for row in server.sql("SELECT * FROM per_bucket").await {
        let expected = per_bucket
            .remove(&number(&row, "bucket"))
            .expect("a bucket that was sent");
        assert_eq!((number(&row, "events"), number(&row, "total")), expected, "{row}");
    }
    assert!(per_bucket.is_empty(), "buckets without a row: {per_bucket:?}");
    check_windows(
        server,
        "SELECT date_trunc('second', at) AS window_start, key AS k, count(*) AS events FROM events GROUP BY 1, 2",
        "SELECT window_start, key AS k, events FROM per_second",
    )
    .await;
    check_windows(
        server,
        "SELECT window_start, n % 3 AS k, count(*) AS events
         FROM HOP(events, at, INTERVAL '1 second', INTERVAL '3 seconds') GROUP BY window_start, n % 3",
        "SELECT window_start, bucket AS k, events FROM hops",
    )
    .await;
    let late = server.sql("SELECT count(*) AS rows FROM dead_letters").await;
    assert_eq!(late, vec![json!({"rows": 0})], "nothing was late or refused");
}

/// Every emitted window is emitted once and as the batch query has it; the windows that the batch
/// query has besides are the newest, which are still open.
async fn check_windows(server: &Server, batch: &str, streamed: &str) {
    let once = format!(
        "SELECT count(*) AS n FROM (SELECT window_start, k FROM ({streamed}) GROUP BY 1, 2 HAVING count(*) > 1)"
    );
    assert_eq!(
        server.sql(&once).await,
        vec![json!({"n": 0})],
        "a window was emitted twice: {streamed}"
    );
    let wrong = format!(
        "SELECT s.window_start, s.k, s.events AS streamed, b.events AS batch FROM ({streamed}) s LEFT JOIN ({batch}) b USING (window_start, k)
         WHERE b.events IS DISTINCT FROM s.events ORDER BY 1, 2 LIMIT 20"
    );
    assert_eq!(
        server.sql(&wrong).await,
        Vec::<Value>::new(),
        "a window is wrong: {streamed}"
    );
    // Each partition closes by its own watermark, at most a wave behind the newest event.
    let slack_s = 5 + 3 + 1 + WAVE_EVENTS * STEP_MS / 1000;
    let missing = format!(
        "SELECT count(*) AS n FROM ({batch}) b LEFT JOIN ({streamed}) s USING (window_start, k)
         WHERE s.events IS NULL
           AND b.window_start < (SELECT max(at) FROM events) - INTERVAL '{slack_s} seconds'"
    );
    assert_eq!(
        server.sql(&missing).await,
        vec![json!({"n": 0})],
        "a closed window is missing: {streamed}"
    );
}

/// Clients that send waves of events until they are told to stop.
pub struct Load {
    urls: Vec<String>,
    pub stop: AtomicBool,
    acknowledged: AtomicU64,
}

impl Load {
    pub fn new(url: String) -> Self {
        Self::over(vec![url])
    }

    /// Each request goes to any of these, and when it fails to any of them again.
    pub fn over(urls: Vec<String>) -> Self {
        Self {
            urls,
            stop: AtomicBool::new(false),
            acknowledged: AtomicU64::new(0),
        }
    }

    pub fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// Ends after a whole wave; the answer is the number of events, all of them acknowledged.
    pub async fn run(self: Arc<Self>, seed: u64) -> u64 {
        let mut sent = 0;
        while !self.stop.load(Ordering::Relaxed) {
            let clients = (0..CLIENTS).map(|client| {
                let from = sent + client * REQUEST_EVENTS_MAX;
                let load = Arc::clone(&self);
                tokio::spawn(async move { load.send(from, from + REQUEST_EVENTS_MAX, seed ^ from).await })
            });
            for client in clients.collect::<Vec<_>>() {
                client.await.expect("a client");
            }
            sent += WAVE_EVENTS;
        }
        sent
    }

    /// Sends events in requests of random size, each until it is acknowledged.
    async fn send(&self, mut from: u64, to: u64, seed: u64) {
        let mut random = StdRng::seed_from_u64(seed);
        let client = reqwest::Client::new();
        while from < to {
            let next = (from + random.random_range(1..=REQUEST_EVENTS_MAX)).min(to);
            let body: Vec<_> = (from..next).map(event).collect();
            loop {
                let url = &self.urls[random.random_range(0..self.urls.len())];
                let url = format!("{url}/v1/streams/events/events");
                let request = client.post(url).json(&body).timeout(Duration::from_secs(5));
                match request.send().await {
                    Ok(answer) if answer.status().is_success() => break,
                    Ok(answer)
                        if answer.status().is_client_error() && answer.status() != 429 && answer.status() != 404 =>
                    {
                        panic!("refused: {}", answer.text().await.unwrap_or_default())
                    }
                    _ => tokio::time::sleep(Duration::from_millis(10)).await,
                }
            }
            self.acknowledged.fetch_add(next - from, Ordering::Relaxed);
            from = next;
        }
    }
}

fn event(n: u64) -> Value {
    let at = 1_700_000_000_000 + n * STEP_MS;
    json!({"id": format!("event-{n}"), "key": key(n), "n": n, "at": at})
}

fn key(n: u64) -> String {
    format!("key-{}", n * 7919 % KEYS)
}

fn number(row: &Value, column: &str) -> u64 {
    row[column]
        .as_u64()
        .unwrap_or_else(|| panic!("no number '{column}' in {row}"))
}

fn text<'a>(row: &'a Value, column: &str) -> &'a str {
    row[column]
        .as_str()
        .unwrap_or_else(|| panic!("no text '{column}' in {row}"))
}

pub fn from_env(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(
        value
            .parse()
            .unwrap_or_else(|_| panic!("{name} is not a number: {value}")),
    )
}
