use crate::plan::tests::{planned, refused};

const TTL: &str = "WITH (state_ttl = '1 hour')";
const AN_HOUR: &str = "right rows from 1 hour before to 1 hour after; kept until the watermark passes that";

/// What the joins of a view with a `state_ttl` do.
fn joins(select: &str) -> Vec<String> {
    let (_, stages) = planned(&format!("CREATE MATERIALIZED VIEW v {TTL} AS {select}"));
    let is_join = |line: &String| line.contains("join by") || line.contains("keep rows with");
    stages.into_iter().filter(is_join).collect()
}

/// Whether the time of a side is selected makes no difference.
#[test]
fn a_join_is_bounded_by_the_time_of_its_rows() {
    for select in [
        "SELECT a.page_url FROM clicks a JOIN clicks b ON a.user_id = b.user_id",
        "SELECT a.page_url FROM (SELECT page_url, user_id FROM clicks WHERE price > 1) a
         JOIN (SELECT upper(page_url) AS page_url, user_id FROM (SELECT * FROM clicks) c) b USING (user_id)",
        "SELECT a.price FROM clicks a LEFT JOIN (SELECT user_id FROM clicks) b ON a.user_id = b.user_id AND a.price > 3",
        "SELECT a.price, b.price FROM clicks a FULL JOIN clicks b ON a.user_id = b.page_url",
        "SELECT page_url FROM clicks WHERE user_id IN (SELECT page_url FROM clicks)",
        "SELECT page_url FROM (SELECT page_url, user_id FROM clicks) c WHERE NOT EXISTS (SELECT 1 FROM clicks b WHERE b.page_url = c.user_id)",
        "SELECT a.price FROM clicks a, clicks b WHERE a.price < b.price",
        "SELECT a.page_url, count(*) AS n FROM clicks a JOIN clicks b ON a.user_id = b.user_id GROUP BY a.page_url",
        "SELECT a.user_id FROM (SELECT user_id, time_stamp FROM clicks UNION ALL SELECT page_url, time_stamp FROM clicks) a
         JOIN clicks b ON a.user_id = b.user_id",
        "SELECT a.n FROM (SELECT window_end, page_url, count(*) AS n FROM TUMBLE(clicks, time_stamp, INTERVAL '1 minute')
         GROUP BY window_start, window_end, page_url) a JOIN clicks b ON a.page_url = b.page_url",
    ] {
        let joins = joins(select);
        assert!(matches!(joins.as_slice(), [only] if only.contains(AN_HOUR)), "{select}: {joins:?}");
    }
}

#[test]
fn a_condition_on_the_times_narrows_the_bound_or_is_one() {
    let from = "SELECT a.page_url FROM clicks a JOIN clicks b ON a.user_id = b.user_id AND";
    let narrowed = joins(&format!("{from} b.time_stamp >= a.time_stamp"));
    assert!(
        narrowed[0].contains("right rows from the same time to 1 hour after"),
        "{narrowed:?}"
    );
    let bounded = format!("{from} b.time_stamp BETWEEN a.time_stamp AND a.time_stamp + INTERVAL '1 day'");
    let error = refused(&format!("CREATE MATERIALIZED VIEW v {TTL} AS {bounded}"));
    assert!(error.to_string().contains("this query has none"), "{error}");
}

/// One of the joins is bounded by itself; the rows behind a join have two times.
#[test]
fn of_several_joins_each_has_its_bound() {
    let three = joins(
        "SELECT a.page_url FROM clicks a JOIN clicks b ON a.user_id = b.user_id JOIN clicks c ON c.page_url = b.page_url",
    );
    assert_eq!(
        three.iter().filter(|join| join.contains(AN_HOUR)).count(),
        2,
        "{three:?}"
    );
    let mixed = joins(
        "SELECT a.page_url FROM clicks a JOIN clicks b ON a.user_id = b.user_id AND a.time_stamp = b.time_stamp
         LEFT JOIN clicks c ON c.page_url = b.page_url",
    );
    assert_eq!(
        mixed.iter().filter(|join| join.contains(AN_HOUR)).count(),
        1,
        "{mixed:?}"
    );
    assert_eq!(
        mixed.iter().filter(|join| join.contains("at the same time")).count(),
        1,
        "{mixed:?}"
    );
    let (_, stages) = planned(&format!(
        "CREATE STREAM s {TTL} AS SELECT a.page_url FROM clicks a JOIN clicks b ON a.user_id = b.user_id
         WHERE a.price IN (SELECT price FROM clicks)"
    ));
    assert!(
        stages
            .iter()
            .any(|line| line.contains("greatest") || line.contains("keep rows with")),
        "{stages:#?}"
    );
}

#[test]
fn what_has_no_time_is_refused() {
    let untimed = "CREATE STREAM untimed (k TEXT, n INT);";
    let cases = [
        (
            "SELECT c.price FROM clicks c JOIN untimed u ON u.k = c.user_id",
            "the rows that it reads of untimed have no event time",
            "WATERMARK FOR",
        ),
        (
            "SELECT c.price FROM clicks c JOIN (SELECT window_start, page_url, count(*) AS n
             FROM TUMBLE(clicks, time_stamp, INTERVAL '1 minute') GROUP BY window_start, page_url) w ON w.page_url = c.page_url",
            "the rows that it reads of clicks have no event time",
            "window_end",
        ),
        (
            "SELECT c.price FROM clicks c JOIN (SELECT page_url FROM (SELECT page_url, count(*) AS n FROM clicks GROUP BY page_url)
             UNION ALL SELECT DISTINCT user_id FROM clicks) p ON p.page_url = c.page_url",
            "what it reads of clicks changes",
            "FOR SYSTEM_TIME AS OF now()",
        ),
        (
            "SELECT u.n FROM untimed u JOIN (SELECT page_url, count(*) AS n FROM clicks GROUP BY page_url) p ON p.page_url = u.k",
            "the rows that it reads of untimed have no event time",
            "WATERMARK FOR",
        ),
    ];
    for (select, message, hint) in cases {
        let error = refused(&format!("{untimed} CREATE MATERIALIZED VIEW v {TTL} AS {select}"));
        assert!(error.message.contains(message), "{select}: {error}");
        assert!(
            error.hint.as_deref().is_some_and(|text| text.contains(hint)),
            "{select}: {error:?}"
        );
        assert!(error.place.is_some(), "{select}: {error:?}");
    }
}

/// Each of these aggregates of a stream has groups that end; what is computed of them is as it is without.
#[test]
fn groups_end() {
    for (select, ends) in [
        ("SELECT page_url, count(*) AS n FROM clicks GROUP BY page_url", 1),
        ("SELECT count(*) AS n FROM (SELECT upper(page_url) AS page FROM clicks WHERE price > 1) GROUP BY page, length(page)", 1),
        ("SELECT n, count(*) AS of FROM (SELECT count(*) AS n FROM clicks GROUP BY user_id) GROUP BY n", 1),
        ("SELECT a.n, b.n AS m FROM (SELECT user_id, count(*) AS n FROM clicks GROUP BY user_id) a
          JOIN (SELECT page_url, count(*) AS n FROM clicks GROUP BY page_url) b ON a.user_id = b.page_url", 2),
        ("SELECT user_id FROM clicks EXCEPT SELECT page_url FROM clicks", 2),
        ("SELECT user_id FROM clicks EXCEPT ALL SELECT page_url FROM clicks", 1),
        ("SELECT user_id FROM clicks UNION SELECT page_url FROM clicks", 1),
        ("SELECT DISTINCT ON (user_id) user_id, page_url FROM clicks ORDER BY user_id, time_stamp DESC", 1),
        ("SELECT page_url, user_id FROM clicks QUALIFY row_number() OVER (PARTITION BY page_url ORDER BY price, price, page_url) = 1", 1),
        ("SELECT page_url, count(*) AS n FROM (SELECT window_end, page_url FROM TUMBLE(clicks, time_stamp, INTERVAL '1 minute')
          GROUP BY window_start, window_end, page_url) GROUP BY page_url", 1),
    ] {
        let (_, stages) = planned(&format!("CREATE MATERIALIZED VIEW v {TTL} AS {select}"));
        let ending = stages.iter().filter(|line| line.contains("each is kept until the watermark is 1 hour beyond its last row"));
        assert_eq!(ending.count(), ends, "{select}: {stages:#?}");
        let for_ever = stages.iter().any(|line| line.contains("keeps one state for each group"));
        assert_eq!(for_ever, select.contains("AS of "), "{select}: {stages:#?}");
    }
}

/// Of a stream that meets a result that changes each row goes by its time, and on that side alone.
#[test]
fn rows_go_that_meet_what_changes() {
    for select in [
        "SELECT c.price FROM clicks c JOIN (SELECT page_url, count(*) AS n FROM clicks GROUP BY page_url) p ON p.page_url = c.page_url",
        "SELECT c.price FROM (SELECT user_id, count(*) AS n FROM clicks GROUP BY user_id) p
         RIGHT JOIN (SELECT price, user_id FROM clicks WHERE price > 1) c ON p.user_id = c.user_id AND p.n > 3",
    ] {
        let (_, stages) = planned(&format!("CREATE MATERIALIZED VIEW v {TTL} AS {select}"));
        let going = stages
            .iter()
            .filter(|line| line.contains("rows for a time; each is kept until the watermark is 1 hour beyond it"));
        assert_eq!(going.count(), 1, "{select}: {stages:#?}");
    }
}

#[test]
fn other_queries_have_nothing_to_bound() {
    for select in [
        "SELECT page_url, price FROM clicks",
        "SELECT window_start, page_url, count(*) AS n FROM TUMBLE(clicks, time_stamp, INTERVAL '1 minute') GROUP BY window_start, window_end, page_url",
        "SELECT window_end, page_url FROM (SELECT *, row_number() OVER (PARTITION BY window_end ORDER BY n) AS place FROM
         (SELECT window_start, window_end, page_url, count(*) AS n FROM TUMBLE(clicks, time_stamp, INTERVAL '1 minute') GROUP BY window_start, window_end, page_url))
         WHERE place = 1",
    ] {
        let error = refused(&format!("CREATE MATERIALIZED VIEW v {TTL} AS {select}"));
        assert!(error.message.contains("this query has none"), "{select}: {error}");
        assert!(
            error.hint.as_deref().is_some_and(|hint| hint.contains("result that changes")),
            "{error:?}"
        );
    }
    let both = "SELECT a.price FROM clicks a JOIN clicks b ON a.user_id = b.user_id";
    let error = refused(&format!(
        "CREATE MATERIALIZED VIEW v WITH (state = 'unbounded', state_ttl = '1 hour') AS {both}"
    ));
    assert!(error.message.contains("state_ttl bounds what joins keep"), "{error}");
    let error = refused(&format!("CREATE STREAM s AS {both}"));
    assert!(
        error.hint.as_deref().is_some_and(|hint| hint.contains("state_ttl")),
        "{error:?}"
    );
}
