//! Batch and stream agree: for random events, in random batches over random partitions, with restarts
//! between them, every continuous query holds what the same SELECT answers over all events at once.
//!
//! `HEADWATER_SEED=n` runs one seed alone; a failure prints its own.

mod queries;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt;
use headwater::cli::embedded::Embedded;
use headwater_event::clock::{ManualClock, Micros};
use headwater_query::session::Answer;
use headwater_schema::decode::{Format, OnError};
use headwater_schema::encode::json_object;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

use crate::oracle::queries::{QUERIES, Query};

const SEEDS: u64 = 12;

/// What a stream's watermark allows for.
const DELAY: Micros = 10 * 60 * 1_000_000;

/// How time goes, so that no row is late.
struct Pace {
    idle_timeout: &'static str,
    /// From one event to the next, at most.
    step: Micros,
    /// An event is at most so much older than the latest before it.
    lag: Micros,
    /// Whether everything is caught up before the clock moves.
    together: bool,
}

/// Every partition is waited for: an event may be as old as the watermark allows.
const WAITING: Pace = Pace {
    idle_timeout: "1 day",
    step: 20_000_000,
    lag: DELAY,
    together: false,
};

/// Partitions are idle now and then, and windows close without them. What comes to them after that may be
/// read later than what came to others at the same time; so less time passes than the delay is long.
const IDLING: Pace = Pace {
    idle_timeout: "1 minute",
    step: 2_000_000,
    lag: 2 * 60 * 1_000_000,
    together: true,
};

/// Everything that is random.
struct Run {
    random: ChaCha8Rng,
    pace: &'static Pace,
    /// Of the latest event.
    time: Micros,
    events: usize,
}

impl Run {
    fn event(&mut self) -> Value {
        let random = &mut self.random;
        self.time += random.random_range(0..self.pace.step);
        self.events += 1;
        let at = self.time - random.random_range(0..self.pace.lag);
        let texts = [
            "a",
            "b",
            "",
            "ä",
            "日本",
            "a longer one",
            "\u{1F600}\u{0301}",
            "'\"\\\n",
        ];
        let mut event = json!({"id": self.events, "at": at_text(at)});
        if random.random_bool(0.85) {
            event["key"] = json!(texts[random.random_range(0..4)]);
        }
        if random.random_bool(0.8) {
            event["other"] = json!(texts.choose(random));
        }
        if random.random_bool(0.8) {
            event["n"] = json!(random.random_range(-10..=10));
        }
        if random.random_bool(0.8) {
            // Sums of quarters are exact, in any order.
            event["x"] = json!(f64::from(random.random_range(-400..400)) / 4.0);
        }
        if random.random_bool(0.7) {
            event["flag"] = json!(random.random_bool(0.5));
        }
        event
    }

    fn batch(&mut self) -> Bytes {
        let count = self.random.random_range(1..60);
        let lines: String = (0..count).map(|_| format!("{}\n", self.event())).collect();
        lines.into()
    }

    /// Events after which every window before them is closed, wherever they fall.
    fn last(&self) -> Bytes {
        let event = |n: usize| json!({"id": self.events + n, "key": format!("last {n}"), "other": n.to_string(), "at": "2200-01-01T00:00:00Z"});
        let lines: String = (0..64).map(|n| format!("{}\n", event(n))).collect();
        lines.into()
    }
}

fn at_text(at: Micros) -> String {
    let time = arrow::temporal_conversions::timestamp_us_to_datetime(at).expect("within range");
    time.format("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()
}

async fn send(instance: &Embedded, body: Bytes) {
    let ingest = &instance.core.ingest;
    for stream in ["events", "ragged"] {
        let body = body.clone();
        let sent = ingest
            .send(stream, body, Format::NdJson, OnError::Reject, "oracle")
            .await;
        sent.expect("the events are fine");
    }
}

pub async fn rows(instance: &Embedded, sql: &str) -> Vec<Value> {
    let answers = instance.core.session().execute(sql, &[]).await;
    let answers = answers.unwrap_or_else(|error| panic!("{sql}: {error}"));
    let Some(Answer::Rows { rows, .. }) = answers.into_iter().next() else {
        panic!("{sql} gives no rows");
    };
    let batches: Vec<_> = rows
        .try_collect()
        .await
        .unwrap_or_else(|error| panic!("{sql}: {error}"));
    let mut found = Vec::new();
    for batch in batches {
        for row in 0..batch.num_rows() {
            let mut text = Vec::new();
            json_object(&batch, row, &mut text).expect("it can be written");
            found.push(in_order(serde_json::from_slice(&text).expect("JSON")));
        }
    }
    found.sort_by(|one, other| {
        let numbers = |row: &Value| floats(row).iter().sum::<f64>();
        without_floats(one)
            .cmp(&without_floats(other))
            .then(numbers(one).total_cmp(&numbers(other)))
    });
    found
}

/// What an array holds counts, and not in which order.
fn in_order(mut row: Value) -> Value {
    for value in row.as_object_mut().into_iter().flat_map(|row| row.values_mut()) {
        if let Value::Array(items) = value {
            items.sort_by_key(Value::to_string);
        }
    }
    row
}

fn floats(row: &Value) -> Vec<f64> {
    let values = row.as_object().into_iter().flat_map(|row| row.values());
    values
        .filter(|value| value.is_f64())
        .filter_map(Value::as_f64)
        .collect()
}

fn without_floats(row: &Value) -> String {
    let values = row.as_object().into_iter().flatten();
    let rest: Vec<_> = values
        .map(|(name, value)| (name, if value.is_f64() { &Value::Null } else { value }))
        .collect();
    format!("{rest:?}")
}

pub fn same(one: &Value, other: &Value) -> bool {
    let near = |(one, other): (f64, f64)| (one - other).abs() <= 1e-6 * one.abs().max(other.abs()).max(1.0);
    let (ours, theirs) = (floats(one), floats(other));
    without_floats(one) == without_floats(other) && ours.len() == theirs.len() && ours.into_iter().zip(theirs).all(near)
}

async fn compare(instance: &Embedded, query: &Query, seed: u64) {
    let closed = match query.closed_by {
        Some(column) => format!("WHERE {column} < TIMESTAMP '2100-01-01'"),
        None => String::new(),
    };
    let stream = rows(instance, &format!("SELECT * FROM {} {closed}", query.name)).await;
    let select = query.batch.unwrap_or(query.select);
    let batch = rows(instance, &format!("SELECT * FROM ({select}) AS q {closed}")).await;
    let first = stream.iter().zip(&batch).position(|(one, other)| !same(one, other));
    let first = first.unwrap_or(stream.len().min(batch.len()));
    assert!(
        stream.len() == batch.len() && first == batch.len(),
        "HEADWATER_SEED={seed}: {} has {} rows instead of {}; row {first} is\n{:?} instead of\n{:?}\n{}",
        query.name,
        stream.len(),
        batch.len(),
        stream.get(first),
        batch.get(first),
        select
    );
}

async fn create(instance: &Embedded, query: &Query) {
    let kind = if query.view { "MATERIALIZED VIEW" } else { "STREAM" };
    let lateness = if query.corrected {
        ", allowed_lateness = '10 minutes'"
    } else {
        ""
    };
    let sql = format!(
        "CREATE {kind} {} WITH ({}{lateness}) AS {}",
        query.name, query.state, query.select
    );
    let created = instance.core.execute(&sql).await;
    created.unwrap_or_else(|error| panic!("{sql}: {error}"));
}

async fn run(seed: u64) {
    let mut run = Run {
        random: ChaCha8Rng::seed_from_u64(seed),
        pace: if seed.is_multiple_of(2) { &WAITING } else { &IDLING },
        // So that some events are before 1970.
        time: -20 * 60 * 1_000_000,
        events: 0,
    };
    let partitions = run.random.random_range(1..=4);
    let by = *["key", "id", "other, key"].choose(&mut run.random).expect("some");
    let clock = ManualClock::new(1_767_225_600_000_000);
    let threads = run.random.random_range(1..=2);
    let mut instance = Embedded::with_threads(Arc::clone(&clock) as _, threads)
        .await
        .expect("it starts");
    // The second's windows close at once, and are corrected by what the first waits for.
    for (name, delay) in [("events", DELAY), ("ragged", 0)] {
        let stream = format!(
            "CREATE STREAM {name} (
               id INT NOT NULL, key TEXT, other TEXT, n BIGINT, x DOUBLE, flag BOOLEAN, at TIMESTAMP NOT NULL,
               WATERMARK FOR at AS at - INTERVAL '{} minutes'
             ) PARTITION BY ({by}) WITH (partitions = {partitions}, idle_timeout = '{}')",
            delay / 60_000_000,
            run.pace.idle_timeout
        );
        instance.core.execute(&stream).await.expect("the stream is fine");
    }

    let mut queries = QUERIES.iter();
    for _ in 0..10 {
        for query in queries.by_ref().take(run.random.random_range(0..6)) {
            create(&instance, query).await;
        }
        for _ in 0..run.random.random_range(0..4) {
            send(&instance, run.batch()).await;
        }
        if run.pace.together || run.random.random_bool(0.3) {
            instance.core.caught_up().await;
        }
        if run.random.random_bool(0.3) {
            clock.advance(Duration::from_secs(run.random.random_range(0..90)));
        }
        if run.random.random_bool(0.4) {
            instance = instance.restart().await.expect("it starts again");
        }
    }
    for query in queries {
        create(&instance, query).await;
    }
    send(&instance, run.last()).await;
    // By now every partition without events is idle, and those that read from it are told.
    for _ in 0..4 {
        instance.core.caught_up().await;
        clock.advance(Duration::from_secs(2 * 24 * 60 * 60));
    }
    instance.core.caught_up().await;

    let dead = rows(&instance, "SELECT reason, detail FROM dead_letters").await;
    assert!(dead.is_empty(), "HEADWATER_SEED={seed}: {dead:?}");
    for query in QUERIES {
        compare(&instance, query, seed).await;
    }
}

#[tokio::test]
async fn every_query_gives_what_it_gives_as_a_batch() {
    let seeds = match std::env::var("HEADWATER_SEED") {
        Ok(seed) => {
            let seed = seed.parse().expect("HEADWATER_SEED is a number");
            seed..seed + 1
        }
        Err(_) => 0..SEEDS,
    };
    for seed in seeds {
        run(seed).await;
    }
}
