//! Batch and stream agree: for random events, in random batches over random partitions, with restarts
//! between them, every continuous query holds what the same SELECT answers over all events at once.
//!
//! `HEADWATER_SEED=n` runs one seed alone; a failure prints its own.

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

const SEEDS: u64 = 12;

/// A continuous query. It is compared to its own SELECT over what it reads from.
struct Query {
    name: &'static str,
    /// A view, or else a derived stream.
    view: bool,
    select: &'static str,
    /// How the same is asked once, where that takes other words.
    batch: Option<&'static str>,
    state: &'static str,
    /// The column by which to tell windows that are closed.
    closed_by: Option<&'static str>,
    /// Its windows are corrected by rows that come late.
    corrected: bool,
}

const fn stream(name: &'static str, select: &'static str) -> Query {
    Query {
        name,
        view: false,
        select,
        batch: None,
        state: "state = 'unbounded'",
        closed_by: None,
        corrected: false,
    }
}

const fn view(name: &'static str, select: &'static str) -> Query {
    Query {
        view: true,
        ..stream(name, select)
    }
}

const fn windows(name: &'static str, view: bool, select: &'static str, closed_by: &'static str) -> Query {
    Query {
        view,
        closed_by: Some(closed_by),
        ..stream(name, select)
    }
}

const fn corrected(name: &'static str, select: &'static str, closed_by: &'static str) -> Query {
    Query {
        corrected: true,
        ..windows(name, true, select, closed_by)
    }
}

/// A stream whose SELECT is no batch query.
const fn continuous(
    name: &'static str,
    state: &'static str,
    select: &'static str,
    batch: &'static str,
    closed_by: Option<&'static str>,
) -> Query {
    Query {
        batch: Some(batch),
        state,
        closed_by,
        ..stream(name, select)
    }
}

/// Each may read from those before it.
const QUERIES: &[Query] = &[
    stream(
        "shaped",
        "SELECT id, upper(key) AS key, CASE WHEN n > 0 THEN 'plus' WHEN n < 0 THEN 'minus' WHEN n = 0 THEN 'zero' END AS sign,
                date_trunc('hour', at) AS hour, extract(SECOND FROM at) AS second, coalesce(key, other, '-') AS name,
                length(other) AS letters, substr(other, 1, 2) AS begins, x * 2 + n AS y, at
         FROM events WHERE n IS NULL OR n % 3 <> 1",
    ),
    view(
        "basic",
        "SELECT key, count(*) AS events, count(n) AS ns, sum(n) AS n, min(n) AS low, max(x) AS top, avg(x) AS x, avg(n) AS average,
                min(other) AS first, max(at) AS latest
         FROM events GROUP BY key",
    ),
    view(
        "statistics",
        "SELECT flag, key, stddev(x) AS deviation, var_pop(x) AS variance, median(x) AS middle, count(DISTINCT other) AS others,
                approx_distinct(other) AS about, bool_and(flag) AS every, bool_or(n > 5) AS any, array_agg(n) AS all
         FROM events GROUP BY key, flag",
    ),
    view(
        "filtered",
        "SELECT other, count(*) FILTER (WHERE n > 0) AS positive, sum(x) FILTER (WHERE flag) AS flagged
         FROM events WHERE key <> 'b' GROUP BY other HAVING count(*) > 2 AND sum(n) % 2 = 0",
    ),
    view("different", "SELECT DISTINCT key, flag FROM events"),
    // Its rows are the aggregate's state, in another order.
    view(
        "turned",
        "SELECT n, other, first, ns, key, most
         FROM (SELECT key, other, max(x) AS most, count(n) AS ns, min(at) AS first, sum(n) AS n FROM events GROUP BY key, other) AS pairs",
    ),
    view(
        "total",
        "SELECT count(*) AS events, sum(n) AS n, min(at) AS first, max(key) AS key, avg(x) AS x FROM events",
    ),
    view(
        "by_expression",
        "SELECT date_trunc('minute', at) AS minute, n % 4 AS rest, count(*) AS events, sum(x + n) AS total
         FROM events GROUP BY date_trunc('minute', at), n % 4",
    ),
    view("kept", "SELECT id, key || '!' AS key, x FROM events WHERE flag"),
    windows(
        "tumbles",
        false,
        "SELECT window_start, window_end, key, count(*) AS events, sum(n) AS n, avg(x) AS x, avg(n) AS average,
                count(DISTINCT other) AS others
         FROM TUMBLE(events, at, INTERVAL '3 minutes') GROUP BY window_start, window_end, key",
        "window_end",
    ),
    windows(
        "hops",
        false,
        "SELECT window_start, window_end, count(*) AS events, min(x) AS low, stddev(x) AS deviation, array_agg(n) AS all
         FROM HOP(events, at, INTERVAL '40 seconds', INTERVAL '150 seconds', INTERVAL '7 seconds')
         GROUP BY window_start, window_end",
        "window_end",
    ),
    windows(
        "best",
        true,
        "SELECT window_end, flag, max(x) AS top, median(n) AS middle, bool_or(flag) AS any
         FROM TUMBLE(events, at, INTERVAL '1 minute', INTERVAL '-13 seconds') GROUP BY window_end, flag HAVING count(*) > 2",
        "window_end",
    ),
    windows(
        "cumulates",
        false,
        "SELECT window_start, window_end, flag, count(*) AS events, sum(n) AS n, min(other) AS first
         FROM CUMULATE(events, at, INTERVAL '50 seconds', INTERVAL '5 minutes', INTERVAL '20 seconds')
         GROUP BY window_start, window_end, flag",
        "window_end",
    ),
    windows(
        "slides",
        false,
        "SELECT window_end, key, count(*) AS events, sum(n) AS n, max(other) AS last
         FROM HOP(events, at, INTERVAL '30 seconds', INTERVAL '10 minutes') GROUP BY window_end, key",
        "window_end",
    ),
    windows(
        "sessions",
        false,
        "SELECT window_start, window_end, key, count(*) AS events, sum(n) AS n, avg(x) AS x, count(DISTINCT other) AS others
         FROM SESSION(events PARTITION BY key, at, INTERVAL '45 seconds') GROUP BY window_start, window_end, key",
        "window_end",
    ),
    windows(
        "bursts",
        true,
        "SELECT window_start, count(*) AS events, max(n) AS n
         FROM (SELECT window_start, window_end, n FROM SESSION((SELECT * FROM events WHERE n <> 3), at, INTERVAL '8 seconds'))
         GROUP BY window_start, window_end",
        "window_start",
    ),
    stream(
        "marked",
        "SELECT id, window_start, window_end FROM HOP(events, at, INTERVAL '1 minute', INTERVAL '2 minutes') WHERE n > 0",
    ),
    view(
        "signs",
        "SELECT sign, count(*) AS events, sum(y) AS y, max(hour) AS hour FROM shaped GROUP BY sign",
    ),
    windows(
        "sign_windows",
        false,
        "SELECT window_start, sign, count(*) AS events, sum(letters) AS letters
         FROM TUMBLE(shaped, at, INTERVAL '2 minutes') GROUP BY window_start, sign",
        "window_start",
    ),
    windows(
        "nested",
        false,
        "SELECT window_start, sum(events) AS events, sum(n) AS n, count(*) AS groups
         FROM TUMBLE(tumbles, window_start, INTERVAL '9 minutes') GROUP BY window_start",
        "window_start",
    ),
    windows(
        "sessions_of_sessions",
        false,
        "SELECT window_start, key, sum(events) AS events, count(*) AS sessions
         FROM SESSION(sessions PARTITION BY key, window_end, INTERVAL '2 minutes') GROUP BY window_start, window_end, key",
        "window_start",
    ),
    windows(
        "hops_of_tumbles",
        true,
        "SELECT window_start, key, sum(events) AS events
         FROM HOP(tumbles, window_end, INTERVAL '4 minutes', INTERVAL '10 minutes') GROUP BY window_start, key",
        "window_start",
    ),
    view(
        "ever",
        "SELECT key, sum(events) AS events, max(n) AS n, count(*) AS minutes FROM tumbles WHERE events > 1 GROUP BY key",
    ),
    view(
        "sizes",
        "SELECT events, count(*) AS keys, sum(n) AS n, avg(ns) AS ns, count(low) FILTER (WHERE low > 0) AS lows FROM basic GROUP BY events",
    ),
    view(
        "extremes",
        "SELECT events % 3 AS rest, min(low) AS low, max(n) AS n, count(DISTINCT first) AS firsts, sum(top) AS top
         FROM basic GROUP BY events % 3",
    ),
    view("whole", "SELECT sum(events) AS events, max(events) AS most, count(*) AS keys FROM basic HAVING count(*) > 0"),
    view("without_key", "SELECT events % 2 AS odd, low IS NULL AS nothing FROM basic WHERE events > 1"),
    stream(
        "both",
        "SELECT id, key, n, at FROM events WHERE flag UNION ALL SELECT id, other, n + 1, at FROM events WHERE n > 0",
    ),
    view(
        "of_both",
        "SELECT key, count(*) AS rows, min(n) AS n FROM
         (SELECT key, n FROM events WHERE flag UNION ALL SELECT first, n FROM basic) GROUP BY key",
    ),
    view("either", "SELECT key FROM events WHERE flag UNION SELECT first FROM basic WHERE events > 2"),
    windows(
        "windows_of_both",
        false,
        "SELECT window_start, key, count(*) AS rows FROM TUMBLE(both, at, INTERVAL '2 minutes') GROUP BY window_start, key",
        "window_start",
    ),
    stream(
        "pairs",
        "SELECT a.id AS id, b.id AS next, a.at AS at, b.at AS later, b.x FROM events a JOIN events b
         ON a.key = b.key AND b.at BETWEEN a.at - INTERVAL '30 seconds' AND a.at + INTERVAL '1 minute' AND b.n >= a.n
         WHERE a.n > 5",
    ),
    windows(
        "windows_of_pairs",
        false,
        "SELECT window_start, count(*) AS pairs, count(DISTINCT id) AS ids FROM TUMBLE(pairs, at, INTERVAL '2 minutes') GROUP BY window_start",
        "window_start",
    ),
    windows(
        "unanswered",
        true,
        "SELECT a.id AS id, a.at AS at, b.id AS answer FROM events a LEFT JOIN (SELECT * FROM shaped WHERE sign = 'plus') b
         ON b.name = a.other AND b.at > a.at AND b.at <= a.at + INTERVAL '20 seconds' WHERE a.flag",
        "at",
    ),
    stream(
        "in_one_window",
        "SELECT a.window_start, a.id AS id, b.id AS other FROM TUMBLE(events, at, INTERVAL '1 minute') a
         JOIN HOP(events, at, INTERVAL '1 minute', INTERVAL '1 minute') b
         ON a.window_start = b.window_start AND a.window_end = b.window_end AND a.key = b.other WHERE b.n > 7",
    ),
    view(
        "with_basic",
        "SELECT e.id, e.key, b.events, b.low FROM events e JOIN basic b ON e.key = b.key WHERE e.n > 8",
    ),
    view(
        "with_shaped",
        "SELECT e.id, s.sign, s.hour FROM events e LEFT JOIN shaped s ON e.id = s.id AND s.y > e.x",
    ),
    view(
        "keys_and_others",
        "SELECT b.key, b.events, o.other, o.others FROM basic b FULL JOIN
         (SELECT other, count(*) AS others FROM events GROUP BY other) o ON b.key = o.other",
    ),
    view("members", "SELECT id FROM events WHERE other IN (SELECT first FROM basic WHERE events % 2 = 1)"),
    view(
        "strangers",
        "SELECT e.id, e.key FROM events e WHERE NOT EXISTS (SELECT 1 FROM basic b WHERE b.key = e.other AND b.n > 0)",
    ),
    view(
        "greatest",
        "SELECT key, id, n, place
         FROM (SELECT *, row_number() OVER (PARTITION BY key ORDER BY n DESC NULLS LAST, id) AS place FROM events)
         WHERE place <= 3",
    ),
    view(
        "latest_of",
        "SELECT DISTINCT ON (other, flag) other, flag, id, x FROM events ORDER BY other, flag, at DESC, id",
    ),
    view(
        "second_of_all",
        "SELECT id, x + 1 AS x FROM events QUALIFY row_number() OVER (ORDER BY x DESC NULLS LAST, id) = 2 AND n > -20",
    ),
    view(
        "busiest",
        "SELECT flag, key FROM (SELECT *, row_number() OVER (PARTITION BY flag ORDER BY events DESC, key) AS place
         FROM (SELECT flag, key, count(*) AS events FROM events GROUP BY flag, key)) WHERE place <= 2",
    ),
    windows(
        "busiest_of_windows",
        false,
        "SELECT window_start, window_end, key, events, place
         FROM (SELECT *, row_number() OVER (PARTITION BY window_start, window_end ORDER BY events DESC, key) AS place FROM tumbles)
         WHERE place <= 2",
        "window_end",
    ),
    windows(
        "first_of_windows",
        false,
        "SELECT window_start, key, id FROM HOP(events, at, INTERVAL '2 minutes', INTERVAL '4 minutes')
         QUALIFY row_number() OVER (PARTITION BY window_start, key ORDER BY at, id) = 1",
        "window_start",
    ),
    windows(
        "over_time",
        false,
        "SELECT id, at, lag(n) OVER (PARTITION BY key ORDER BY at) AS before,
                sum(x) OVER (PARTITION BY key ORDER BY at ROWS BETWEEN 3 PRECEDING AND CURRENT ROW) AS four,
                count(*) OVER (PARTITION BY flag ORDER BY at RANGE BETWEEN INTERVAL '1 minute' PRECEDING AND CURRENT ROW) AS lately,
                row_number() OVER (PARTITION BY upper(key) ORDER BY at) AS nth, sum(n) OVER (ORDER BY at) AS total
         FROM events",
        "at",
    ),
    view(
        "in_sets",
        "SELECT key, flag, grouping(key) AS no_key, grouping(key, flag) AS which, count(*) AS events, sum(n) AS n, min(other) AS first
         FROM events GROUP BY CUBE (key, flag)",
    ),
    view(
        "rolled_up",
        "SELECT date_trunc('hour', at) AS hour, key, count(DISTINCT other) AS others, max(x) AS top
         FROM events GROUP BY ROLLUP (date_trunc('hour', at), key) HAVING count(*) > 1",
    ),
    view(
        "sets_of_changes",
        "SELECT events % 2 AS odd, low, count(*) AS keys, sum(n) AS n, max(first) AS last
         FROM basic GROUP BY GROUPING SETS ((events % 2), (low), (events % 2), ())",
    ),
    windows(
        "sets_of_windows",
        false,
        "SELECT window_start, window_end, key, flag, grouping(flag) AS no_flag, count(*) AS events, sum(n) AS n
         FROM TUMBLE(events, at, INTERVAL '3 minutes') WHERE n > -8 GROUP BY window_start, window_end, ROLLUP (key, flag)",
        "window_end",
    ),
    view("both_of_them", "SELECT key, n FROM events INTERSECT SELECT other, n FROM events WHERE flag"),
    view("only_here", "SELECT key, flag FROM events WHERE n > 0 EXCEPT SELECT other, flag FROM events WHERE n < -5"),
    view("of_results", "SELECT events, low FROM basic EXCEPT SELECT events, n FROM (SELECT count(*) AS events, max(n) AS n FROM events GROUP BY other)"),
    view(
        "with_null",
        "SELECT e.id, b.events FROM events e JOIN basic b ON e.other IS NOT DISTINCT FROM b.key WHERE e.n = 4",
    ),
    corrected(
        "corrected_tumbles",
        "SELECT window_start, window_end, key, count(*) AS events, sum(n) AS n, avg(x) AS x, count(DISTINCT other) AS others
         FROM TUMBLE(ragged, at, INTERVAL '2 minutes') GROUP BY window_start, window_end, key",
        "window_end",
    ),
    corrected(
        "corrected_hops",
        "SELECT window_start, count(*) AS events, min(x) AS low
         FROM HOP(ragged, at, INTERVAL '40 seconds', INTERVAL '200 seconds') GROUP BY window_start, window_end HAVING count(*) > 3",
        "window_start",
    ),
    corrected(
        "corrected_cumulates",
        "SELECT window_start, window_end, flag, sum(n) AS n
         FROM CUMULATE(ragged, at, INTERVAL '50 seconds', INTERVAL '5 minutes') GROUP BY window_start, window_end, flag",
        "window_end",
    ),
    corrected(
        "corrected_sessions",
        "SELECT window_start, window_end, key, count(*) AS events, sum(n) AS n, max(other) AS last
         FROM SESSION(ragged PARTITION BY key, at, INTERVAL '45 seconds') GROUP BY window_start, window_end, key",
        "window_end",
    ),
    corrected(
        "corrected_without_key",
        "SELECT window_start, events FROM (SELECT window_start, window_end, flag, count(*) AS events
         FROM TUMBLE(ragged, at, INTERVAL '1 minute') GROUP BY window_start, window_end, flag)",
        "window_start",
    ),
    windows(
        "counted_again",
        true,
        "SELECT window_start, count(*) AS keys, sum(events) AS events FROM corrected_tumbles GROUP BY window_start",
        "window_start",
    ),
    view(
        "alike",
        "SELECT key, events, count(*) OVER (PARTITION BY low) AS alike FROM (SELECT key, count(*) AS events, min(n) AS low FROM events GROUP BY key)",
    ),
    view(
        "places",
        "SELECT flag, key, rank() OVER (PARTITION BY flag ORDER BY events DESC) AS place, sum(events) OVER (PARTITION BY flag) AS total
         FROM (SELECT flag, key, count(*) AS events FROM events GROUP BY flag, key)",
    ),
    continuous(
        "as_of_time",
        "start = 'earliest'",
        "SELECT e.id, e.at, s.id AS valid, s.at AS since, s.y FROM events e JOIN shaped FOR SYSTEM_TIME AS OF e.at AS s
         ON s.key = e.other AND s.y < e.x WHERE s.sign IS NOT NULL",
        "SELECT e.id, e.at, s.id AS valid, s.at AS since, s.y FROM events e
         JOIN (SELECT *, lead(at) OVER (PARTITION BY key ORDER BY at, id) AS until FROM shaped) s
         ON s.key = e.other AND s.at <= e.at AND (s.until IS NULL OR e.at < s.until) AND s.y < e.x WHERE s.sign IS NOT NULL",
        Some("at"),
    ),
    continuous(
        "as_of_window",
        "start = 'earliest'",
        "SELECT t.window_end, t.key, t.events, e.id FROM tumbles t
         LEFT JOIN events FOR SYSTEM_TIME AS OF t.window_end AS e ON e.key = t.key AND e.n > 0",
        "SELECT t.window_end, t.key, t.events, e.id FROM tumbles t
         LEFT JOIN (SELECT *, lead(at) OVER (PARTITION BY key ORDER BY at, id) AS until FROM events) e
         ON e.key = t.key AND e.at <= t.window_end AND (e.until IS NULL OR t.window_end < e.until) AND e.n > 0",
        Some("window_end"),
    ),
    continuous(
        "with_windows_before",
        "start = 'earliest'",
        "SELECT e.id, e.at, tumbles.events, tumbles.window_end FROM events e LEFT JOIN tumbles FOR SYSTEM_TIME AS OF e.at ON tumbles.key = e.key
         WHERE e.n > 3",
        "SELECT e.id, e.at, t.events, t.window_end FROM events e
         LEFT JOIN (SELECT *, lead(window_end) OVER (PARTITION BY key ORDER BY window_end) AS until FROM tumbles) t
         ON t.key = e.key AND t.window_end <= e.at AND (t.until IS NULL OR e.at < t.until) WHERE e.n > 3",
        Some("at"),
    ),
    windows(
        "windows_as_of_time",
        false,
        "SELECT window_start, count(*) AS events, count(DISTINCT valid) AS valid FROM TUMBLE(as_of_time, at, INTERVAL '2 minutes')
         GROUP BY window_start",
        "window_start",
    ),
    stream(
        "without_key_in_time",
        "SELECT a.id, b.id AS later FROM events a JOIN events b ON b.at > a.at AND b.at <= a.at + INTERVAL '2 seconds' AND b.n > a.n
         WHERE a.flag",
    ),
    view(
        "all_with_sizes",
        "SELECT e.id, b.key, b.events FROM events e JOIN basic b ON b.n > e.n * 40 WHERE e.n > 8",
    ),
];

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
