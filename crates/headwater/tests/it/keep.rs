//! `CREATE OR REPLACE … WITH (start = 'state')`: what came before counts as the former query has it, what comes after as the new one has.

use std::sync::Arc;
use std::time::Duration;

use headwater::cli::embedded::Embedded;
use headwater_event::clock::ManualClock;
use headwater_query::session::Answer;

use crate::oracle::{rows, same};

const STREAM: &str = "CREATE STREAM events (
    id BIGINT NOT NULL, key TEXT, n BIGINT, at TIMESTAMP NOT NULL, WATERMARK FOR at AS at - INTERVAL '1' SECOND
  ) PARTITION BY (key) WITH (partitions = 3, idle_timeout = '1 minute')";

/// A query before and after, and the batch query for all rows: those up to `{cut}` came before.
struct Change {
    name: &'static str,
    kind: &'static str,
    before: &'static str,
    after: &'static str,
    batch: &'static str,
}

const CHANGES: &[Change] = &[
    Change {
        name: "counts",
        kind: "MATERIALIZED VIEW",
        before: "SELECT key, count(*) AS rows, sum(n) AS n, avg(n) AS mean FROM events GROUP BY key",
        after: "SELECT key, count(*) AS rows, sum(n * 10) AS n, avg(n + 1) AS mean FROM events WHERE n > 3 AND id % 2 = 0 GROUP BY key",
        batch: "SELECT key, count(*) AS rows, sum(CASE WHEN id <= {cut} THEN n ELSE n * 10 END) AS n,
                       avg(CASE WHEN id <= {cut} THEN n ELSE n + 1 END) AS mean
                FROM events WHERE id <= {cut} OR n > 3 AND id % 2 = 0 GROUP BY key",
    },
    // Its state is in a table of its own, whose number is another place's now.
    Change {
        name: "values_of",
        kind: "MATERIALIZED VIEW",
        before: "SELECT key, count(DISTINCT n) AS ns, max(id) AS last FROM events GROUP BY key",
        after: "SELECT key, count(DISTINCT n) AS ns, max(id) AS last FROM (SELECT key, n, id FROM events WHERE n < 7) WHERE id > 0 GROUP BY key",
        batch: "SELECT key, count(DISTINCT n) AS ns, max(id) AS last FROM events WHERE id <= {cut} OR n < 7 GROUP BY key",
    },
    Change {
        name: "firsts",
        kind: "MATERIALIZED VIEW",
        before: "SELECT key, id, place FROM (SELECT key, id, ROW_NUMBER() OVER (PARTITION BY key ORDER BY id) AS place FROM events WHERE n > 4) WHERE place <= 3",
        after: "SELECT key, id, place FROM (SELECT key, id, ROW_NUMBER() OVER (PARTITION BY key ORDER BY id) AS place FROM events WHERE n < 2) WHERE place <= 3",
        batch: "SELECT key, id, place FROM (SELECT key, id, ROW_NUMBER() OVER (PARTITION BY key ORDER BY id) AS place FROM events
                WHERE id <= {cut} AND n > 4 OR id > {cut} AND n < 2) WHERE place <= 3",
    },
    // The window in which it changes has rows of both.
    Change {
        name: "windows",
        kind: "STREAM",
        before: "SELECT window_start, count(*) AS rows FROM TUMBLE(events, at, INTERVAL '1 hour') GROUP BY window_start, window_end",
        after: "SELECT window_start, count(*) AS rows FROM TUMBLE(events, at, INTERVAL '1 hour') WHERE n > 5 GROUP BY window_start, window_end",
        batch: "SELECT window_start, count(*) AS rows FROM TUMBLE(events, at, INTERVAL '1 hour') WHERE id <= {cut} OR n > 5 GROUP BY window_start, window_end",
    },
    Change {
        name: "shaped",
        kind: "STREAM",
        before: "SELECT id, n * 2 AS twice FROM events WHERE n > 1",
        after: "SELECT id, n * 3 AS twice FROM events",
        batch: "SELECT id, n * 2 AS twice FROM events WHERE id <= {cut} AND n > 1 UNION ALL SELECT id, n * 3 FROM events WHERE id > {cut}",
    },
    Change {
        name: "of_counts",
        kind: "MATERIALIZED VIEW",
        before: "SELECT rows % 3 AS rest, count(*) AS keys FROM (SELECT key, count(*) AS rows FROM events GROUP BY key) GROUP BY rows % 3",
        after: "SELECT rows % 3 AS rest, count(*) AS keys FROM (SELECT key, count(*) AS rows FROM events WHERE n > 0 GROUP BY key) GROUP BY rows % 3",
        batch: "SELECT rows % 3 AS rest, count(*) AS keys FROM (SELECT key, count(*) AS rows FROM events WHERE id <= {cut} OR n > 0 GROUP BY key) GROUP BY rows % 3",
    },
];

async fn notice(instance: &Embedded, sql: &str) -> String {
    let answers = instance.core.session().execute(sql, &[]).await;
    match answers.unwrap_or_else(|error| panic!("{sql}: {error}")).pop() {
        Some(Answer::Done { notice, .. }) => notice.unwrap_or_default(),
        _ => panic!("{sql} gives rows"),
    }
}

async fn insert(instance: &Embedded, ids: std::ops::Range<u64>) {
    let row = |id: u64| {
        let key = format!("'{}'", ["a", "b", "ä", ""][(id % 7 % 4) as usize]);
        let n = if id.is_multiple_of(11) {
            "NULL".to_owned()
        } else {
            (id % 9).to_string()
        };
        format!("({id}, {key}, {n}, TIMESTAMP '2026-01-01' + INTERVAL '{id} minutes')")
    };
    let rows: Vec<_> = ids.map(row).collect();
    let sql = format!("INSERT INTO events VALUES {}", rows.join(", "));
    instance.core.execute(&sql).await.expect("the rows are fine");
}

#[tokio::test]
async fn what_came_before_stays_as_it_was() {
    let clock = ManualClock::new(1_767_225_600_000_000);
    let mut instance = Embedded::with_threads(Arc::clone(&clock) as _, 2)
        .await
        .expect("it starts");
    instance.core.execute(STREAM).await.expect("the stream is fine");
    for change in CHANGES {
        let sql = format!("CREATE {} {} AS {}", change.kind, change.name, change.before);
        instance
            .core
            .execute(&sql)
            .await
            .unwrap_or_else(|error| panic!("{sql}: {error}"));
    }
    instance
        .core
        .execute("CREATE MATERIALIZED VIEW over_it AS SELECT sum(rows) AS rows FROM counts")
        .await
        .expect("it is fine");
    insert(&instance, 1..101).await;
    instance.core.caught_up().await;
    instance = instance.restart().await.expect("it starts again");
    insert(&instance, 101..131).await;
    instance.core.caught_up().await;
    for (at, change) in CHANGES.iter().enumerate() {
        let sql = format!(
            "CREATE OR REPLACE {} {} WITH (start = 'state') AS {}",
            change.kind, change.name, change.after
        );
        let expected = format!(
            "{} goes on with what it has kept: the new query is that of the rows from now on",
            change.name
        );
        assert_eq!(notice(&instance, &sql).await, expected, "{sql}");
        if at == 1 {
            instance = instance.restart().await.expect("it starts again");
        }
    }
    for (rows, restarts) in [(131..171, true), (171..240, false)] {
        insert(&instance, rows).await;
        instance.core.caught_up().await;
        if restarts {
            instance = instance.restart().await.expect("it starts again");
        }
    }
    insert(&instance, 10_000..10_020).await;
    for _ in 0..4 {
        instance.core.caught_up().await;
        clock.advance(Duration::from_secs(120));
    }
    instance.core.caught_up().await;
    for Change { name, batch, .. } in CHANGES {
        let closed = if *name == "windows" {
            "WHERE window_start < TIMESTAMP '2026-01-05'"
        } else {
            ""
        };
        let kept = rows(&instance, &format!("SELECT * FROM {name} {closed}")).await;
        let batch = batch.replace("{cut}", "130");
        let all = rows(&instance, &format!("SELECT * FROM ({batch}) AS q {closed}")).await;
        let alike = kept.len() == all.len() && kept.iter().zip(&all).all(|(one, other)| same(one, other));
        assert!(alike, "{name}:\n{kept:#?}\ninstead of\n{all:#?}");
    }
    let [over, counts] = [
        rows(&instance, "SELECT rows FROM over_it").await,
        rows(&instance, "SELECT sum(rows) AS rows FROM counts").await,
    ];
    assert_eq!(over, counts);
}

/// What would mean something else is built anew, and the answer says why.
#[tokio::test]
async fn what_does_not_fit_is_built_anew() {
    let instance = Embedded::with_threads(ManualClock::new(0) as _, 2)
        .await
        .expect("it starts");
    // Where rows move to meet by key.
    let stream = STREAM.replace("PARTITION BY (key)", "PARTITION BY (id)");
    instance.core.execute(&stream).await.expect("the stream is fine");
    let first = "SELECT key, count(*) AS rows FROM events GROUP BY key";
    for (before, after, why) in [
        (
            "SELECT key, max(n) AS n FROM events GROUP BY key",
            "SELECT key, min(n) AS n FROM events GROUP BY key",
            "the aggregates were max(events.n), and would be min(events.n)",
        ),
        (
            "SELECT key, first_value(n ORDER BY at) AS n FROM (SELECT key, n, at FROM events) AS e GROUP BY key",
            "SELECT key, first_value(n ORDER BY at) AS n FROM (SELECT key, n * 2 AS n, at FROM events) AS e GROUP BY key",
            "what is aggregated would be something else",
        ),
        (
            first,
            "SELECT upper(key) AS key, count(*) AS rows FROM events GROUP BY upper(key)",
            "the groups were key, and would be upper(key)",
        ),
        (
            first,
            "SELECT key, count(*) AS rows, max(n) AS n FROM events GROUP BY key",
            "its columns were key, rows, and would be key, rows, n",
        ),
        (
            first,
            "SELECT key, count(*) AS rows FROM events GROUP BY key HAVING count(*) > 1",
            "what is computed of a result that changes is something else",
        ),
        (
            first,
            "SELECT key, count(*) AS rows FROM (SELECT lower(key) AS key FROM events) GROUP BY key",
            "the groups were key, and would be lower(key)",
        ),
        (
            "SELECT window_start, count(*) AS rows FROM TUMBLE(events, at, INTERVAL '1 hour') GROUP BY window_start, window_end",
            "SELECT window_start, count(*) AS rows FROM TUMBLE(events, at, INTERVAL '2 hours') GROUP BY window_start, window_end",
            "the windows are others",
        ),
        (
            "SELECT DISTINCT ON (key) key, n + 1 AS n FROM events ORDER BY key, at",
            "SELECT DISTINCT ON (key) key, n + 2 AS n FROM events ORDER BY key, at",
            "what is computed of a result that changes is something else",
        ),
        (
            "SELECT key, id FROM (SELECT *, ROW_NUMBER() OVER (PARTITION BY key ORDER BY n % 5, id) AS place FROM events) WHERE place <= 2",
            "SELECT key, id FROM (SELECT *, ROW_NUMBER() OVER (PARTITION BY key ORDER BY n % 4, id) AS place FROM events) WHERE place <= 2",
            "what is kept were",
        ),
        (
            "SELECT key, n, max(n) OVER (PARTITION BY key ORDER BY at ROWS 3 PRECEDING) AS most FROM events",
            "SELECT key, n, max(n) OVER (PARTITION BY key ORDER BY at ROWS 3 PRECEDING) AS most FROM events WHERE n > 1",
            "window functions can't be compared",
        ),
        (
            "SELECT key, n FROM events",
            "SELECT key, max(n) AS n FROM events GROUP BY key",
            "its key or its options would be others",
        ),
        (
            first,
            "SELECT key, sum(n) AS rows FROM events GROUP BY key",
            "the types of its columns would be others",
        ),
    ] {
        instance
            .core
            .execute(&format!("CREATE MATERIALIZED VIEW v AS {before}"))
            .await
            .expect("it is fine");
        let found = notice(
            &instance,
            &format!("CREATE OR REPLACE MATERIALIZED VIEW v WITH (start = 'state') AS {after}"),
        )
        .await;
        assert!(
            found.starts_with("built anew from the start of events, because its state can't be kept ("),
            "{after}: {found}"
        );
        assert!(found.contains(why), "{after}: {found}");
        instance.core.caught_up().await;
        instance
            .core
            .execute("DROP MATERIALIZED VIEW v")
            .await
            .expect("it is there");
    }
    // There is nothing yet whose state it could have.
    let made = "CREATE OR REPLACE MATERIALIZED VIEW v WITH (start = 'state') AS SELECT key, max(id) AS id FROM events GROUP BY key";
    assert_eq!(notice(&instance, made).await, "");
}
