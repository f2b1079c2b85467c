//! Every aggregate function that there is, over a stream, over windows and over a result that changes: what it gives is what
//! it gives as a batch, or it is refused by its name.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use headwater::cli::embedded::Embedded;
use headwater_event::clock::ManualClock;
use headwater_schema::decode::{Format, OnError};
use serde_json::{Value, json};

use crate::oracle::{rows, same};

/// By function: calls of it that do, over the columns below.
const WORK: &[(&str, &[&str])] = &[
    ("any_value", &["any_value(key)"]),
    (
        "approx_distinct",
        &["approx_distinct(s)", "approx_distinct(n) FILTER (WHERE flag)"],
    ),
    ("approx_median", &["approx_median(x)"]),
    (
        "approx_percentile_cont",
        &[
            "approx_percentile_cont(x, 0.9)",
            "approx_percentile_cont(0.5) WITHIN GROUP (ORDER BY x)",
        ],
    ),
    (
        "approx_percentile_cont_with_weight",
        &["approx_percentile_cont_with_weight(x, w, 0.5)"],
    ),
    (
        "array_agg",
        &[
            "array_agg(n)",
            "array_agg(DISTINCT n)",
            "array_to_string(array_agg(n ORDER BY id), ',')",
            "array_to_string(array_agg(s ORDER BY n DESC, id) FILTER (WHERE flag), ',')",
        ],
    ),
    (
        "avg",
        &["avg(x)", "avg(n)", "avg(DISTINCT x)", "avg(n) FILTER (WHERE flag)"],
    ),
    ("bit_and", &["bit_and(n)"]),
    ("bit_or", &["bit_or(n)", "bit_or(n) FILTER (WHERE flag)"]),
    ("bit_xor", &["bit_xor(n)"]),
    ("bool_and", &["bool_and(flag)"]),
    ("bool_or", &["bool_or(flag)"]),
    ("corr", &["corr(x, y)"]),
    (
        "count",
        &[
            "count(*)",
            "count(n)",
            "count(DISTINCT n)",
            "count(DISTINCT s) FILTER (WHERE flag)",
        ],
    ),
    ("covar", &["covar(x, y)"]),
    ("covar_pop", &["covar_pop(x, y)"]),
    ("covar_samp", &["covar_samp(x, y)"]),
    (
        "first_value",
        &[
            "first_value(n ORDER BY id)",
            "first_value(s ORDER BY n DESC, id) FILTER (WHERE n > 3)",
        ],
    ),
    ("grouping", &["grouping(key)"]),
    (
        "last_value",
        &["last_value(n ORDER BY id)", "last_value(s ORDER BY n DESC, id)"],
    ),
    ("max", &["max(n)", "max(s)", "max(at)"]),
    ("mean", &["mean(x)"]),
    ("median", &["median(x)", "median(n)", "median(DISTINCT n)"]),
    ("min", &["min(n)", "min(s)", "min(flag)"]),
    (
        "percentile_cont",
        &[
            "percentile_cont(x, 0.3)",
            "percentile_cont(0.3) WITHIN GROUP (ORDER BY x)",
        ],
    ),
    ("quantile_cont", &["quantile_cont(x, 0.7)"]),
    ("regr_avgx", &["regr_avgx(y, x)"]),
    ("regr_avgy", &["regr_avgy(y, x)"]),
    ("regr_count", &["regr_count(y, x)"]),
    ("regr_intercept", &["regr_intercept(y, x)"]),
    ("regr_r2", &["regr_r2(y, x)"]),
    ("regr_slope", &["regr_slope(y, x)"]),
    ("regr_sxx", &["regr_sxx(y, x)"]),
    ("regr_sxy", &["regr_sxy(y, x)"]),
    ("regr_syy", &["regr_syy(y, x)"]),
    ("stddev", &["stddev(x)", "stddev(n)"]),
    ("stddev_pop", &["stddev_pop(x)"]),
    ("stddev_samp", &["stddev_samp(x)"]),
    (
        "string_agg",
        &[
            "string_agg(s, '+' ORDER BY id)",
            "string_agg(s, ',' ORDER BY id) FILTER (WHERE flag)",
        ],
    ),
    (
        "sum",
        &["sum(n)", "sum(x)", "sum(DISTINCT n)", "sum(n) FILTER (WHERE s > 'c')"],
    ),
    ("var", &["var(x)"]),
    ("var_pop", &["var_pop(x)"]),
    ("var_population", &["var_population(x)"]),
    ("var_samp", &["var_samp(x)"]),
    ("var_sample", &["var_sample(x)"]),
];

/// Calls that are refused, with what is said of them.
const REFUSED: &[(&str, &str)] = &[
    (
        "bit_xor(DISTINCT n)",
        "DISTINCT inside bit_xor is not available in continuous queries",
    ),
    (
        "nth_value(n, 2 ORDER BY id)",
        "ORDER BY inside nth_value is not available in continuous queries",
    ),
    (
        "sum(n ORDER BY id)",
        "ORDER BY inside sum is not available in continuous queries",
    ),
];

/// They differ with the batches that they were put together from.
fn is_approximate(call: &str) -> bool {
    call.starts_with("approx_percentile") || call.starts_with("approx_median")
}

fn select(from: &str, groups: &str) -> String {
    let calls = WORK.iter().flat_map(|(_, calls)| *calls).enumerate();
    let calls: Vec<_> = calls.map(|(number, call)| format!("{call} AS c{number}")).collect();
    format!("SELECT {groups}, {} FROM {from} GROUP BY {groups}", calls.join(", "))
}

fn events(ids: std::ops::Range<i64>) -> Bytes {
    let lines = ids.map(|id| {
        let n = (id * 7919) % 23 - 5;
        let mut event = json!({
            "id": id, "key": format!("k{}", id % 3), "n": n, "x": ((id * 31) % 101) as f64 / 4.0, "y": ((id * 17) % 89) as f64,
            "w": 1 + id % 4, "s": format!("{}", ["a", "bb", "c", "d", "é"][(id % 5) as usize]), "flag": id % 4 < 2,
            "at": format!("2026-01-01T12:{:02}:{:02}Z", id / 60 % 60, id % 60),
        });
        if id % 11 == 0 {
            for column in ["n", "x", "s", "flag"] {
                event[column] = Value::Null;
            }
        }
        format!("{event}\n")
    });
    lines.collect::<String>().into()
}

async fn run(instance: &Embedded, sql: &str) {
    let done = instance.core.execute(sql).await;
    done.unwrap_or_else(|error| panic!("{sql}: {error}"));
}

/// What the rows have for each call; approximate ones apart.
fn compare(name: &str, found: &[Value], expected: &[Value]) {
    assert_eq!(found.len(), expected.len(), "{name}");
    let by_group = |rows: &[Value]| {
        let mut rows = rows.to_vec();
        rows.sort_by_key(|row| format!("{} {}", row["key"], row["window_start"]));
        rows
    };
    for (found, expected) in by_group(found).iter().zip(by_group(expected)) {
        for (number, call) in WORK.iter().flat_map(|(_, calls)| *calls).enumerate() {
            let column = format!("c{number}");
            let (ours, theirs) = (json!({"c": found[&column]}), json!({"c": expected[&column]}));
            let is_near = match (ours["c"].as_f64(), theirs["c"].as_f64()) {
                (Some(ours), Some(theirs)) if is_approximate(call) => (ours - theirs).abs() <= 3.0,
                _ => false,
            };
            assert!(
                is_near || same(&ours, &theirs),
                "{call} in {name}: {ours} instead of {theirs}"
            );
        }
    }
}

#[tokio::test]
async fn every_aggregate_works_or_is_refused_by_name() {
    let clock = ManualClock::new(1_767_225_600_000_000);
    let mut instance = Embedded::with_threads(Arc::clone(&clock) as _, 1)
        .await
        .expect("it starts");
    run(
        &instance,
        "CREATE STREAM events (id BIGINT NOT NULL, key TEXT, n BIGINT, x DOUBLE, y DOUBLE, w BIGINT, s TEXT, flag BOOLEAN, at TIMESTAMP NOT NULL,
           WATERMARK FOR at AS at - INTERVAL '1 hour') PARTITION BY (id) WITH (partitions = 3, idle_timeout = '1 second');
         CREATE MATERIALIZED VIEW changing AS
           SELECT id, max(key) AS key, max(n) AS n, max(x) AS x, max(y) AS y, max(w) AS w, max(s) AS s, bool_or(flag) AS flag, max(at) AS at
           FROM events GROUP BY id",
    )
    .await;

    let listed = rows(
        &instance,
        "SELECT DISTINCT routine_name AS name FROM information_schema.routines WHERE function_type = 'AGGREGATE'",
    )
    .await;
    let listed: BTreeSet<&str> = listed.iter().filter_map(|row| row["name"].as_str()).collect();
    assert!(listed.len() > 30, "{listed:?}");
    let known: BTreeSet<&str> = WORK.iter().map(|(name, _)| *name).chain(["nth_value"]).collect();
    let unknown: Vec<_> = listed.difference(&known).collect();
    assert!(unknown.is_empty(), "no test knows {unknown:?}");

    for (call, message) in REFUSED {
        let error = instance
            .core
            .execute(&format!(
                "CREATE MATERIALIZED VIEW bad AS SELECT key, {call} AS c FROM events GROUP BY key"
            ))
            .await
            .expect_err(call);
        assert!(error.to_string().contains(message), "{error}");
    }

    run(
        &instance,
        &format!("CREATE MATERIALIZED VIEW of_stream AS {}", select("events", "key")),
    )
    .await;
    let windows = select(
        "TUMBLE(events, at, INTERVAL '2 minutes')",
        "window_start, window_end, key",
    );
    run(&instance, &format!("CREATE STREAM of_windows AS {windows}")).await;
    run(
        &instance,
        &format!("CREATE MATERIALIZED VIEW of_changes AS {}", select("changing", "key")),
    )
    .await;
    for part in 0..6 {
        let body = events(part * 50..part * 50 + 50);
        let sent = instance
            .core
            .ingest
            .send("events", body, Format::NdJson, OnError::Reject, "test")
            .await;
        sent.expect("the events are fine");
        if part % 2 == 1 {
            instance.core.caught_up().await;
            instance = instance.restart().await.expect("it starts again");
        }
    }
    // What was there comes again and changes.
    let body = events(0..20);
    let ingest = &instance.core.ingest;
    ingest
        .send("events", body, Format::NdJson, OnError::Reject, "test")
        .await
        .expect("the events are fine");
    run(&instance, "INSERT INTO events (id, key, at) SELECT 1000 + v.i, 'last', '2026-01-02T00:00:00' FROM generate_series(1, 50) AS v(i)").await;
    for _ in 0..3 {
        instance.core.caught_up().await;
        clock.advance(Duration::from_secs(3600));
    }
    instance.core.caught_up().await;

    let dead = rows(&instance, "SELECT reason, detail FROM dead_letters").await;
    assert!(dead.is_empty(), "{dead:?}");
    let closed = "WHERE key <> 'last'";
    for (name, select) in [
        ("of_stream", select("events", "key")),
        ("of_windows", windows),
        ("of_changes", select("changing", "key")),
    ] {
        let found = rows(&instance, &format!("SELECT * FROM {name} {closed}")).await;
        let expected = rows(&instance, &format!("SELECT * FROM ({select}) AS q {closed}")).await;
        assert!(!expected.is_empty(), "{name}");
        compare(name, &found, &expected);
    }
}
