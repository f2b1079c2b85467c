use headwater_catalog::definition::Definition;
use headwater_catalog::snapshot::Snapshot;

use crate::define::changes;
use crate::error::SqlError;
use crate::explain::stages;
use crate::parse::parse;
use crate::plan::{live, pipeline};

pub const CLICKS: &str = "CREATE STREAM clicks (
  event_id TEXT NOT NULL, user_id TEXT NOT NULL, event_type TEXT NOT NULL, page_url TEXT NOT NULL,
  price DOUBLE, payload JSON, time_stamp TIMESTAMP NOT NULL,
  WATERMARK FOR time_stamp AS time_stamp - INTERVAL '5' SECOND
) PARTITION BY (user_id) WITH (partitions = 4);";

/// The catalog after these statements.
pub fn catalog(sql: &str) -> Result<Snapshot, SqlError> {
    let mut snapshot = Snapshot::default();
    for statement in parse(sql)? {
        snapshot = snapshot.with(&changes(&statement, &snapshot)?);
    }
    Ok(snapshot)
}

/// The object that the last of these statements makes after `CLICKS`, and its stages in words.
pub fn planned(sql: &str) -> (Definition, Vec<String>) {
    let snapshot = catalog(&format!("{CLICKS}{sql}")).unwrap_or_else(|error| panic!("{sql}: {error}"));
    let definition = snapshot.iter().max_by_key(|definition| definition.id).unwrap();
    let pipeline = pipeline(definition, &snapshot).unwrap_or_else(|error| panic!("{sql}: {error}"));
    (definition.as_ref().clone(), stages(&pipeline))
}

pub fn refused(sql: &str) -> SqlError {
    catalog(&format!("{CLICKS}\n{sql}"))
        .err()
        .unwrap_or_else(|| panic!("{sql} is not refused"))
}

#[test]
fn an_aggregate_by_the_partition_needs_no_second_stage() {
    let (view, stages) = planned(
        "CREATE MATERIALIZED VIEW page_clicks AS SELECT user_id, page_url, count(*) AS click_count FROM clicks GROUP BY user_id, page_url",
    );
    assert_eq!(view.view().unwrap().key_columns(), ["user_id", "page_url"]);
    assert_eq!(
        stages,
        [
            "stage 0: reads clicks-1 (4 partitions): user_id, page_url, time_stamp; watermark time_stamp - 5 seconds",
            "  aggregate in part count(*) by user_id, page_url; kept until the epoch ends",
            "  aggregate for ever: count(*); the view's rows are its state",
            "  project user_id, page_url, count(*) AS click_count",
            "  to page_clicks-2.rows, one row for each user_id, page_url",
        ]
    );
}

#[test]
fn an_aggregate_by_something_else_is_cut() {
    let (stream, stages) = planned(
        "CREATE STREAM clicks_per_minute AS SELECT window_start, page_url, count(*) AS clicks
         FROM TUMBLE(clicks, time_stamp, INTERVAL '1 minute') GROUP BY window_start, window_end, page_url",
    );
    assert_eq!(stream.stream().unwrap().partition_by, ["page_url"]);
    assert_eq!(
        stages,
        [
            "stage 0: reads clicks-1 (4 partitions): page_url, time_stamp; watermark time_stamp - 5 seconds, late rows go to dead_letters",
            "  aggregate in part count(*) by page_url, TUMBLE 1 minute; kept until the epoch ends",
            "  to clicks_per_minute-2.0 (4 partitions) by page_url",
            "stage 1: reads clicks_per_minute-2.0 (4 partitions): slice, page_url, count(*)[count]; watermark from 4 tasks",
            "  aggregate windows TUMBLE 1 minute: count(*); kept until the watermark passes the window's end",
            "  project window_start, window_end, group 0 AS page_url, result 0 AS count(*)",
            "  project window_start, page_url, count(*) AS clicks",
            "  to clicks_per_minute-2 (4 partitions), from each task to its own",
        ]
    );
}

#[test]
fn filters_and_projections_are_a_single_stage() {
    let (stream, stages) = planned(
        "CREATE STREAM ads AS SELECT event_id, user_id, time_stamp, payload ->> 'ad' AS ad FROM clicks WHERE event_type = 'ad_click'",
    );
    assert_eq!(stream.stream().unwrap().partition_by, ["user_id"]);
    assert_eq!(stages.len(), 4, "{stages:?}");
    assert!(stages[1].starts_with("  filter event_type = ad_click"), "{stages:?}");
    let (view, _) = planned("CREATE MATERIALIZED VIEW v AS SELECT user_id FROM clicks");
    assert_eq!(view.view().unwrap().key, None);
}

#[test]
fn a_result_without_groups_is_one_row() {
    let (view, stages) = planned("CREATE MATERIALIZED VIEW v AS SELECT count(*) AS n FROM clicks");
    assert_eq!(view.view().unwrap().key, Some(Vec::new()));
    assert!(view.view().unwrap().has_one_row());
    assert!(stages.iter().any(|stage| stage.ends_with("one row")), "{stages:?}");
}

#[test]
fn windows_work_in_every_spelling_and_through_subqueries() {
    for sql in [
        "SELECT window_end, user_id, count(*) FROM SESSION(clicks PARTITION BY user_id, time_stamp, INTERVAL '1 minute') GROUP BY window_end, user_id",
        "SELECT s.window_start, max(price) FROM TABLE(SESSION(TABLE clicks PARTITION BY page_url, user_id, DESCRIPTOR(time_stamp), INTERVAL '1' MINUTE)) s WHERE s.user_id > 'a' GROUP BY s.window_start, s.user_id, s.page_url",
        "SELECT window_time, count(*) FROM SESSION((SELECT time_stamp FROM clicks WHERE price > 1), time_stamp, INTERVAL '1 minute') GROUP BY window_time",
        "SELECT window_start, window_end, count(*) FROM CUMULATE(clicks, time_stamp, INTERVAL '1' MINUTE, INTERVAL '5' MINUTE) GROUP BY window_start, window_end",
        "SELECT window_end, count(*) FROM HOP(clicks, time_stamp, INTERVAL '1' MINUTE, INTERVAL '5' MINUTE) GROUP BY window_end",
        "SELECT window_start, window_time, max(price) FROM TABLE(TUMBLE(TABLE clicks, DESCRIPTOR(time_stamp), INTERVAL '1' MINUTE)) GROUP BY window_start, window_end, window_time",
        "SELECT w.window_start, count(DISTINCT w.user_id) AS users FROM TUMBLE(clicks, time_stamp, INTERVAL '1 minute', INTERVAL '10 seconds') w GROUP BY w.window_start HAVING count(*) > 2",
        "WITH w AS (SELECT window_start AS s, lower(page_url) AS page, price FROM TUMBLE(clicks, time_stamp, INTERVAL '1 minute') WHERE price > 1) SELECT s, page, avg(price) FROM w WHERE page <> '/' GROUP BY s, page",
        "SELECT DISTINCT window_start, user_id FROM TUMBLE(clicks, time_stamp, INTERVAL '1 minute')",
        "SELECT window_start, user_id FROM TUMBLE(clicks, time_stamp, INTERVAL '1 minute') WHERE price IS NOT NULL",
        "SELECT window_start, date_trunc('hour', window_start) AS hour, sum(price) FILTER (WHERE price > 0) AS total FROM TUMBLE(clicks, time_stamp, INTERVAL '1 minute') GROUP BY window_start, date_trunc('hour', window_start)",
        "SELECT window_start, count(*) AS n FROM TUMBLE((SELECT time_stamp, user_id FROM clicks WHERE price > 3), time_stamp, INTERVAL '1 minute') GROUP BY 1",
    ] {
        planned(&format!("CREATE STREAM s AS {sql}"));
        planned(&format!("CREATE MATERIALIZED VIEW s AS {sql}"));
    }
}

#[test]
fn numbers_that_nobody_asks_for_are_not_made() {
    let first = "SELECT *, row_number() OVER (PARTITION BY page_url ORDER BY price DESC) AS place FROM clicks";
    let (view, stages) = planned(&format!(
        "CREATE MATERIALIZED VIEW v AS SELECT page_url, user_id FROM ({first}) AS f WHERE place <= 3"
    ));
    assert_eq!(view.view().unwrap().key, None);
    assert!(stages.contains(
        &"  the first 3 rows by page_url in the order of price DESC; keeps these, or every row where rows may go again"
            .to_owned()
    ), "{stages:?}");
    assert!(!stages.iter().any(|stage| stage.contains("row_number")), "{stages:?}");
    let (view, _) = planned(&format!(
        "CREATE MATERIALIZED VIEW v AS SELECT page_url, place FROM ({first}) AS f WHERE place <= 3"
    ));
    assert_eq!(view.view().unwrap().key_columns(), ["page_url", "place"]);
    let (view, _) = planned(&format!(
        "CREATE MATERIALIZED VIEW v AS SELECT user_id, page_url FROM ({first}) AS f WHERE 1 >= place"
    ));
    assert_eq!(view.view().unwrap().key_columns(), ["page_url"]);
}

#[test]
fn queries_chain() {
    let per_minute = "CREATE STREAM per_minute AS SELECT window_start, window_time, page_url, count(*) AS clicks
        FROM TUMBLE(clicks, time_stamp, INTERVAL '1 minute') GROUP BY window_start, window_time, page_url;";
    let (_, stages) = planned(&format!(
        "{per_minute} CREATE STREAM per_hour AS SELECT window_start, page_url, sum(clicks) AS clicks
         FROM TUMBLE(per_minute, window_time, INTERVAL '1 hour') GROUP BY window_start, page_url"
    ));
    assert!(stages[0].ends_with("watermark from 4 tasks"), "{stages:?}");
    let wide = per_minute.replace("per_minute AS", "per_minute WITH (partitions = 8) AS");
    let (_, stages) = planned(&format!("{wide} CREATE STREAM s AS SELECT * FROM per_minute"));
    assert!(stages[0].ends_with("watermark from 8 tasks"), "{stages:?}");
    planned(&format!(
        "{per_minute} CREATE STREAM h AS SELECT window_start, count(*) FROM TUMBLE(per_minute, window_start, INTERVAL '1 hour') GROUP BY window_start"
    ));
    planned(&format!(
        "{per_minute} CREATE MATERIALIZED VIEW total AS SELECT page_url, sum(clicks) FROM per_minute GROUP BY page_url"
    ));
    let error = refused(&format!(
        "{per_minute} CREATE STREAM h AS SELECT window_start, count(*) FROM TUMBLE(per_minute, window_start, INTERVAL '90 seconds') GROUP BY window_start"
    ));
    assert!(error.message.contains("would come late"), "{error}");
}

#[test]
fn what_cannot_run_is_refused_with_its_place() {
    let cases = [
        (
            "SELECT pge_url FROM clicks",
            "there is no column 'pge_url' in clicks; did you mean page_url?",
            "pge_url",
        ),
        (
            "SELECT * FROM clics",
            "there is no stream or view 'clics'; did you mean clicks?",
            "clics",
        ),
        (
            "SELECT lowr(page_url) FROM clicks",
            "there is no function lowr; did you mean lower?",
            "lowr",
        ),
        (
            "SELECT * FROM clicks ORDER BY price",
            "ORDER BY is not available in continuous queries",
            "price",
        ),
        (
            "SELECT * FROM clicks LIMIT 3",
            "LIMIT is not available in continuous queries",
            "3",
        ),
        (
            "SELECT a.price FROM clicks a JOIN clicks b ON a.user_id = b.user_id",
            "this join would keep every row for ever, since a match may always come",
            "JOIN",
        ),
        (
            "SELECT price FROM clicks EXCEPT ALL BY NAME SELECT price FROM clicks",
            "EXCEPT ALL BY NAME is not available in continuous queries",
            "",
        ),
        (
            "SELECT row_number() OVER (ORDER BY price) FROM clicks",
            "row_number OVER (…) must be in the order of event time: a row comes out when the WATERMARK has passed it",
            "row_number",
        ),
        (
            "SELECT now() FROM clicks",
            "now() gives another result after a restart: a continuous query can't have it",
            "",
        ),
        (
            "SELECT * FROM clicks WHERE price > (SELECT 1)",
            "a subquery that stands for a value is not available in continuous queries",
            "",
        ),
        (
            "SELECT count(*) FROM TUMBLE(clicks, time_stamp, INTERVAL '1 minute')",
            "an aggregate over windows needs window_start or window_end in its GROUP BY",
            "",
        ),
        (
            "SELECT * FROM SESSION(clicks PARTITION BY user_id, time_stamp, INTERVAL '1 minute')",
            "SESSION without an aggregate is not available in continuous queries",
            "SESSION",
        ),
        (
            "SELECT count(*) FROM TUMBLE(clicks, price, INTERVAL '1 minute')",
            "the time of a window is a TIMESTAMP; price is DOUBLE",
            "price",
        ),
        (
            "SELECT count(*) FROM TUMBLE(clicks, time_stamp, INTERVAL '1 month')",
            "INTERVAL '1 month' can't be a window's size: months and years differ in length",
            "",
        ),
        ("SELECT page_url FROM clicks GROUP BY user_id", "", ""),
    ];
    for (sql, message, text) in cases {
        let error = refused(&format!("CREATE MATERIALIZED VIEW v AS {sql}"));
        let place = error
            .place
            .clone()
            .unwrap_or_else(|| panic!("{sql}: no place for {error}"));
        assert!(place.line >= 6, "{sql}: {error}");
        if !message.is_empty() {
            assert_eq!(error.message, message, "{sql}");
        }
        assert!(text.is_empty() || place.text == text, "{sql}: {place:?}");
    }
    let error = refused("CREATE STREAM s AS SELECT user_id, count(*) FROM clicks GROUP BY user_id");
    assert!(error.message.starts_with("a stream holds final rows"), "{error}");
    let error = refused(
        "CREATE STREAM plain (t TIMESTAMP); CREATE STREAM s AS SELECT window_start, count(*) FROM TUMBLE(plain, t, INTERVAL '1 minute') GROUP BY 1",
    );
    assert!(error.message.contains("plain has no WATERMARK"), "{error}");
}

#[test]
fn live_queries_may_follow_views() {
    let snapshot = catalog(&format!(
        "{CLICKS} CREATE MATERIALIZED VIEW v AS SELECT user_id, count(*) AS n FROM clicks GROUP BY user_id"
    ))
    .unwrap();
    let (pipeline, schema) = live(
        "SELECT user_id, n * 2 AS twice FROM v WHERE n > 3 EMIT CHANGES",
        &snapshot,
        "live-1",
    )
    .unwrap();
    let names: Vec<_> = schema.fields().iter().map(|field| field.name().as_str()).collect();
    assert_eq!(names, ["user_id", "twice", "$op"]);
    assert_eq!(pipeline.stages[0].input.columns, [0, 1, 2]);
    let (pipeline, _) = live("SELECT count(*) FROM v EMIT CHANGES", &snapshot, "live-1").unwrap();
    assert!(pipeline.keeps_state());
    let windows = "SELECT window_start, count(*) AS n FROM TUMBLE(clicks, time_stamp, INTERVAL '1 minute') GROUP BY window_start EMIT CHANGES";
    assert!(live(windows, &snapshot, "live-2").unwrap().1.field(2).name() == "$op");
    // The row of a session comes once, when it has ended.
    let sessions = "SELECT window_start, user_id, count(*) AS n FROM SESSION(clicks PARTITION BY user_id, time_stamp, INTERVAL '1 minute')
         GROUP BY window_start, user_id EMIT CHANGES";
    assert_eq!(live(sessions, &snapshot, "live-3").unwrap().1.fields().len(), 3);
    live("SELECT * FROM clicks EMIT CHANGES", &snapshot, "l").unwrap();
    live("SELECT count(*) FROM clicks EMIT CHANGES", &snapshot, "l").unwrap();
}

#[test]
fn a_join_is_where_two_stages_meet() {
    let (_, stages) = planned(
        "CREATE STREAM bought AS SELECT a.user_id, a.page_url, b.price, b.time_stamp FROM clicks a JOIN clicks b
         ON a.user_id = b.user_id AND b.time_stamp BETWEEN a.time_stamp AND a.time_stamp + INTERVAL '10' MINUTE AND b.price > a.price",
    );
    let join: Vec<_> = stages.iter().filter(|line| line.contains("join by")).collect();
    assert_eq!(
        join,
        [
            "  join by user_id, where price > price; right rows from the same time to 10 minutes after; kept until the watermark passes that"
        ]
    );
    let exchange = stages
        .iter()
        .filter(|line| line.contains("bought-2.0 (4 partitions) by user_id"));
    assert_eq!(exchange.count(), 2, "{stages:#?}");
    assert!(
        stages.iter().any(|line| line.contains("watermark from 8 tasks")),
        "{stages:#?}"
    );
}

/// Whatever the way in which the distance is written.
#[test]
fn how_close_in_time_rows_are_is_found() {
    let windows = |name: &str| format!("TUMBLE(clicks, time_stamp, INTERVAL '1' MINUTE) {name}");
    let plain = "clicks a JOIN clicks b ON a.user_id = b.user_id AND";
    let minute = "INTERVAL '1' MINUTE";
    let expected = [
        (
            format!("{plain} b.time_stamp >= a.time_stamp AND b.time_stamp <= a.time_stamp + {minute}"),
            "from the same time to 1 minute after",
        ),
        (
            format!("{plain} a.time_stamp - {minute} < b.time_stamp AND a.time_stamp >= b.time_stamp"),
            "from 59999999 microseconds before to the same time",
        ),
        (
            format!("{plain} b.time_stamp - {minute} BETWEEN a.time_stamp - {minute} AND a.time_stamp"),
            "from the same time to 1 minute after",
        ),
        (format!("{plain} a.time_stamp = b.time_stamp"), "at the same time"),
        (
            format!(
                "{} JOIN {} USING (user_id, window_start, window_end)",
                windows("a"),
                windows("b")
            ),
            "at the same time",
        ),
        (
            format!("{} JOIN {} USING (user_id, window_start)", windows("a"), windows("b")),
            "at the same time",
        ),
    ];
    for (from, expected) in expected {
        let (_, stages) = planned(&format!("CREATE STREAM s AS SELECT a.page_url FROM {from}"));
        let join = stages.iter().find(|line| line.contains("join by"));
        assert!(join.is_some_and(|join| join.contains(expected)), "{from}: {join:?}");
    }
    for open in [
        "b.time_stamp >= a.time_stamp",
        "b.time_stamp >= a.time_stamp AND b.time_stamp <= b.time_stamp + INTERVAL '1' MINUTE",
        "date_trunc('day', b.time_stamp) = date_trunc('day', a.time_stamp)",
    ] {
        let error = refused(&format!("CREATE STREAM s AS SELECT a.page_url FROM {plain} {open}"));
        assert!(error.to_string().contains("keep every row for ever"), "{open}: {error}");
    }
}

#[test]
fn joins_that_can_not_be() {
    let cases = [
        (
            "SELECT price FROM clicks WHERE price NOT IN (SELECT price FROM clicks)",
            "NOT IN (SELECT …) with columns that may be NULL",
        ),
        (
            "SELECT price FROM clicks WHERE user_id IN (SELECT page_url FROM clicks) OR price > 3",
            "below OR or NOT",
        ),
    ];
    for (sql, message) in cases {
        let error = refused(&format!(
            "CREATE MATERIALIZED VIEW v WITH (state = 'unbounded') AS {sql}"
        ));
        assert!(error.to_string().contains(message), "{sql}: {error}");
    }
}

#[test]
fn without_an_equality_all_rows_meet() {
    for (state, from, expected) in [
        ("'unbounded'", "clicks a CROSS JOIN clicks b", "keeps every row"),
        (
            "'unbounded'",
            "clicks a, clicks b WHERE a.price < b.price",
            ", where price",
        ),
        (
            "'bounded'",
            "clicks a LEFT JOIN clicks b ON b.time_stamp BETWEEN a.time_stamp AND a.time_stamp + INTERVAL '1' MINUTE",
            "from the same time to 1 minute after",
        ),
    ] {
        let sql = format!("CREATE MATERIALIZED VIEW v WITH (state = {state}) AS SELECT a.page_url FROM {from}");
        let (_, stages) = planned(&sql);
        let join = stages.iter().find(|line| line.contains("join by no column"));
        assert!(join.is_some_and(|join| join.contains(expected)), "{from}: {stages:#?}");
    }
    let error = refused("CREATE STREAM s AS SELECT a.price FROM clicks a, clicks b WHERE a.price < b.price");
    assert!(
        error
            .hint
            .as_deref()
            .is_some_and(|hint| hint.contains("FOR SYSTEM_TIME AS OF")),
        "{error:?}"
    );
}

const RATES: &str = "CREATE STREAM rates (page_url TEXT, rate INT, kind TEXT, since TIMESTAMPTZ NOT NULL,
    WATERMARK FOR since AS since - INTERVAL '1' MINUTE);";

#[test]
fn the_valid_row_is_found_before_anything_is_asked_of_it() {
    let (stream, stages) = planned(&format!(
        "{RATES} CREATE STREAM s AS SELECT c.user_id, r.rate, c.time_stamp
         FROM clicks c LEFT JOIN rates FOR SYSTEM_TIME AS OF c.time_stamp AS r ON r.page_url = c.page_url AND r.kind = 'a'
         WHERE c.price > 1"
    ));
    assert_eq!(stream.stream().unwrap().partition_by, [] as [&str; 0]);
    let filters: Vec<_> = stages.iter().filter(|line| line.starts_with("  filter")).collect();
    assert_eq!(filters.len(), 1, "{stages:#?}");
    assert!(
        stages.iter().any(|line| line.contains(
            "left join by page_url with the row valid at time_stamp, where kind = a; rows are kept until the watermark passes, \
             then the newest right one of each key"
        )),
        "{stages:#?}"
    );
    let late = stages
        .iter()
        .filter(|line| line.contains("late rows go to dead_letters"));
    assert_eq!(late.count(), 2, "{stages:#?}");
    // The filter of an inner join comes from below it.
    let (_, stages) = planned(&format!(
        "{RATES} CREATE STREAM s AS SELECT c.user_id
         FROM clicks c JOIN rates FOR SYSTEM_TIME AS OF c.time_stamp ON rates.page_url = c.page_url WHERE rates.kind = 'a'"
    ));
    assert!(
        stages
            .iter()
            .any(|line| line.contains("valid at time_stamp, where kind = a")),
        "{stages:#?}"
    );
}

#[test]
fn rows_as_they_stand_are_met_once() {
    let (_, stages) = planned(
        "CREATE MATERIALIZED VIEW pages AS SELECT page_url, count(*) AS n FROM clicks GROUP BY page_url;
         CREATE STREAM s AS SELECT c.user_id, p.n FROM clicks c LEFT JOIN pages FOR SYSTEM_TIME AS OF now() p ON p.page_url = c.page_url",
    );
    assert!(
        stages.iter().any(
            |line| line.contains("left join by page_url; with the right rows as they stand; keeps every right row")
        ),
        "{stages:#?}"
    );
}

#[test]
fn results_with_a_key_are_joined_without_more_ado() {
    let sql = "CREATE MATERIALIZED VIEW v AS SELECT a.user_id, a.n, b.n AS m FROM
        (SELECT user_id, count(*) AS n FROM clicks GROUP BY user_id) a FULL JOIN
        (SELECT page_url, count(*) AS n FROM clicks GROUP BY page_url) b ON a.user_id = b.page_url";
    let (_, stages) = planned(sql);
    assert!(
        stages
            .iter()
            .any(|line| line.contains("full join by user_id; keeps every row")),
        "{stages:#?}"
    );
}
