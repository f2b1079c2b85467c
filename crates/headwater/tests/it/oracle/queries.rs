//! The continuous queries that are compared with the batch.

/// A continuous query. It is compared to its own SELECT over what it reads from.
pub struct Query {
    pub name: &'static str,
    /// A view, or else a derived stream.
    pub view: bool,
    pub select: &'static str,
    /// How the same is asked once, where that takes other words.
    pub batch: Option<&'static str>,
    pub state: &'static str,
    /// The column by which to tell windows that are closed.
    pub closed_by: Option<&'static str>,
    /// Its windows are corrected by rows that come late.
    pub corrected: bool,
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

/// One with joins that keep their rows for 90 seconds.
const fn with_ttl(name: &'static str, view: bool, select: &'static str, batch: &'static str) -> Query {
    Query {
        view,
        ..continuous(name, "state_ttl = '90 seconds'", select, batch, None)
    }
}

/// Each may read from those before it.
pub const QUERIES: &[Query] = &[
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
        "values_of",
        "SELECT count(DISTINCT n) FILTER (WHERE flag) AS ns, key, count(DISTINCT other) AS others, sum(n) AS n, count(DISTINCT x) AS xs,
                count(DISTINCT flag) AS flags, sum(DISTINCT n % 7) AS rests, max(other) AS last
         FROM events GROUP BY key",
    ),
    view("values_of_all", "SELECT count(DISTINCT id) AS ids, count(DISTINCT n) AS ns FROM events"),
    // Over a count that changes.
    view("as_many_values", "SELECT others, count(*) AS keys, sum(xs) AS xs FROM values_of GROUP BY others"),
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
    // The view's rows are its state, in another order.
    view(
        "leaders",
        "SELECT x, id, other, flag, n, key, at
         FROM (SELECT *, row_number() OVER (PARTITION BY other, key ORDER BY n DESC NULLS LAST, id) AS place FROM events)
         WHERE place = 1",
    ),
    view("of_leaders", "SELECT key, count(*) AS led, sum(n) AS n FROM leaders GROUP BY key"),
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
    Query {
        batch: Some(
            "SELECT key, flag FROM (SELECT key, flag, row_number() OVER (PARTITION BY key, flag) AS copy FROM events WHERE n > 0
             EXCEPT SELECT other, flag, row_number() OVER (PARTITION BY other, flag) FROM events WHERE n < 5)",
        ),
        ..view(
            "all_but_those",
            "SELECT key, flag FROM events WHERE n > 0 EXCEPT ALL SELECT other, flag FROM events WHERE n < 5",
        )
    },
    Query {
        batch: Some(
            "SELECT key, n FROM (SELECT key, n, row_number() OVER (PARTITION BY key, n) AS copy FROM events
             INTERSECT SELECT other, n, row_number() OVER (PARTITION BY other, n) FROM events WHERE flag)",
        ),
        ..view(
            "all_of_both",
            "SELECT key, n FROM events INTERSECT ALL SELECT other, n FROM events WHERE flag",
        )
    },
    view("how_many_of_both", "SELECT n, count(*) AS rows, max(key) AS key FROM all_of_both GROUP BY n"),
    view(
        "all_of_results",
        "SELECT others FROM values_of EXCEPT ALL SELECT xs FROM values_of WHERE key IS NOT NULL INTERSECT ALL SELECT others FROM values_of",
    ),
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
    with_ttl(
        "ttl_pairs",
        false,
        "SELECT a.id, b.id AS other FROM events a JOIN (SELECT key, id FROM shaped WHERE y > 3) b ON a.other = b.key",
        "SELECT a.id, b.id AS other FROM events a JOIN shaped b ON a.other = b.key AND b.y > 3
         AND b.at BETWEEN a.at - INTERVAL '90 seconds' AND a.at + INTERVAL '90 seconds'",
    ),
    with_ttl(
        "ttl_outer",
        false,
        "SELECT a.id, b.id AS other, b.n FROM (SELECT * FROM events WHERE at < TIMESTAMP '2100-01-01') a
         FULL JOIN (SELECT id, key, n FROM events WHERE flag AND at < TIMESTAMP '2100-01-01') b ON a.other = b.key AND b.n > a.n",
        "SELECT a.id, b.id AS other, b.n FROM (SELECT * FROM events WHERE at < TIMESTAMP '2100-01-01') a
         FULL JOIN (SELECT * FROM events WHERE flag AND at < TIMESTAMP '2100-01-01') b ON a.other = b.key AND b.n > a.n
         AND b.at BETWEEN a.at - INTERVAL '90 seconds' AND a.at + INTERVAL '90 seconds'",
    ),
    with_ttl(
        "ttl_three",
        false,
        "SELECT a.id, b.id AS second, c.id AS third FROM events a JOIN events b ON a.id < b.id AND b.key = a.other JOIN events c ON c.id > b.id AND c.key = b.other AND c.flag
         WHERE a.n > 0",
        "SELECT a.id, b.id AS second, c.id AS third FROM events a
         JOIN events b ON a.id < b.id AND b.key = a.other AND b.at BETWEEN a.at - INTERVAL '90 seconds' AND a.at + INTERVAL '90 seconds'
         JOIN events c ON c.id > b.id AND c.key = b.other AND c.flag
              AND c.at BETWEEN greatest(a.at, b.at) - INTERVAL '90 seconds' AND greatest(a.at, b.at) + INTERVAL '90 seconds'
         WHERE a.n > 0",
    ),
    with_ttl(
        "ttl_known",
        false,
        "SELECT id, other FROM events e WHERE n > 2 AND at < TIMESTAMP '2100-01-01' AND NOT EXISTS (SELECT 1 FROM shaped b WHERE b.y > 0 AND b.key = e.other)",
        "SELECT id, other FROM events a WHERE n > 2 AND at < TIMESTAMP '2100-01-01' AND NOT EXISTS (SELECT 1 FROM shaped b WHERE b.y > 0 AND b.key = a.other
         AND b.at BETWEEN a.at - INTERVAL '90 seconds' AND a.at + INTERVAL '90 seconds')",
    ),
    with_ttl(
        "ttl_windows",
        false,
        "SELECT w.key, w.window_end, e.n FROM tumbles w JOIN events e ON e.key = w.key WHERE w.events > 1",
        "SELECT w.key, w.window_end, e.n FROM tumbles w
         JOIN events e ON e.key = w.key AND e.at BETWEEN w.window_end - INTERVAL '90 seconds' AND w.window_end + INTERVAL '90 seconds'
         WHERE w.events > 1",
    ),
    // Of the groups those are left that the last rows belong to.
    with_ttl(
        "ttl_left",
        true,
        "SELECT key, count(*) AS events, min(at) AS first, bool_and(flag) AS flags FROM events GROUP BY key",
        "SELECT key, count(*) AS events, min(at) AS first, bool_and(flag) AS flags FROM events WHERE at > TIMESTAMP '2100-01-01' GROUP BY key",
    ),
    Query {
        state: "state_ttl = '1000000 days'",
        ..view(
            "ttl_counted",
            "SELECT key, count(*) AS rows, avg(n) AS n, max(window_end) AS latest, count(DISTINCT n) AS ns FROM ttl_windows GROUP BY key",
        )
    },
    Query {
        state: "state_ttl = '1000000 days'",
        ..view(
            "ttl_with_sizes",
            "SELECT e.id, e.n, b.key, b.events FROM events e LEFT JOIN basic b ON b.key = e.other AND b.n > e.n",
        )
    },
    with_ttl(
        "ttl_last_with_sizes",
        true,
        "SELECT e.id, b.key, b.events FROM events e LEFT JOIN basic b ON b.key = e.key",
        "SELECT e.id, b.key, b.events FROM events e LEFT JOIN basic b ON b.key = e.key WHERE e.at > TIMESTAMP '2100-01-01'",
    ),
    Query {
        state: "state_ttl = '1000000 days'",
        ..view(
            "ttl_first",
            "SELECT key, id, n, other, flag FROM (SELECT *, row_number() OVER (PARTITION BY upper(key), flag ORDER BY x DESC NULLS LAST, n, id) AS place FROM events)
             WHERE place = 1 AND id % 3 > 0",
        )
    },
    Query {
        state: "state_ttl = '1000000 days'",
        ..view(
            "ttl_names",
            "SELECT key AS name, flag FROM events UNION SELECT other, n > 3 FROM events WHERE n > 1 EXCEPT SELECT key, true FROM events WHERE id % 4 = 0",
        )
    },
    view(
        "last_of_keys",
        "SELECT DISTINCT ON (key) key, id, n + 1 AS more, at FROM events WHERE n IS NOT NULL ORDER BY key, at DESC, x DESC NULLS LAST, id",
    ),
    view(
        "last_that_are_odd",
        "SELECT sign, key, id, at FROM (SELECT *, row_number() OVER (PARTITION BY sign, key ORDER BY at DESC, id DESC) AS place FROM shaped)
         WHERE place = 1 AND id % 2 = 1",
    ),
    continuous(
        "as_of_view",
        "start = 'earliest'",
        "SELECT e.id, e.at, l.id AS valid, l.more, l.at AS since FROM events e LEFT JOIN last_of_keys FOR SYSTEM_TIME AS OF e.at AS l
         ON l.key = e.other AND l.more > e.n",
        "SELECT e.id, e.at, l.id AS valid, l.more, l.at AS since FROM events e
         LEFT JOIN (SELECT id, key, n + 1 AS more, at, lead(at) OVER (PARTITION BY key ORDER BY at) AS until FROM
           (SELECT *, row_number() OVER (PARTITION BY key, at ORDER BY x DESC NULLS LAST, id) AS place FROM events WHERE n IS NOT NULL) WHERE place = 1) l
         ON l.key = e.other AND l.at <= e.at AND (l.until IS NULL OR e.at < l.until) AND l.more > e.n",
        Some("at"),
    ),
    continuous(
        "as_of_filtered_view",
        "start = 'earliest'",
        "SELECT t.window_end, t.key, l.id, l.sign FROM tumbles t JOIN last_that_are_odd FOR SYSTEM_TIME AS OF t.window_end AS l
         ON l.key = t.key AND l.sign = CASE WHEN t.n > 0 THEN 'plus' ELSE 'minus' END",
        "SELECT t.window_end, t.key, l.id, l.sign FROM tumbles t
         JOIN (SELECT *, lead(at) OVER (PARTITION BY sign, key ORDER BY at, id) AS until FROM shaped) l
         ON l.key = t.key AND l.sign = CASE WHEN t.n > 0 THEN 'plus' ELSE 'minus' END
            AND l.at <= t.window_end AND (l.until IS NULL OR t.window_end < l.until) AND l.id % 2 = 1",
        Some("window_end"),
    ),
];
