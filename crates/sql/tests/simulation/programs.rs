//! Programs of continuous queries that are simulated, by what they are about.

/// Statements that are run together, each over the streams and those before it.
pub struct Statements {
    pub queries: &'static [&'static str],
    /// Every query leaves late rows out, so there may be some.
    pub lateness: bool,
}

const fn any(queries: &'static [&'static str]) -> Statements {
    Statements {
        queries,
        lateness: false,
    }
}

const fn by_time(queries: &'static [&'static str]) -> Statements {
    Statements {
        queries,
        lateness: true,
    }
}

pub const WINDOWS: &[Statements] = &[
    by_time(&[
        "CREATE STREAM tumbles AS SELECT window_start, window_end, k, count(*) AS c, sum(n) AS n, min(x) AS x, count(DISTINCT j) AS js
         FROM TUMBLE({a}, at, INTERVAL '10 seconds') GROUP BY window_start, window_end, k",
        "CREATE STREAM nested AS SELECT window_start, window_end, sum(c) AS c, count(*) AS groups
         FROM TUMBLE(tumbles, window_end, INTERVAL '30 seconds') GROUP BY window_start, window_end",
        "CREATE MATERIALIZED VIEW ever AS SELECT k, sum(c) AS c, max(n) AS n, count(*) AS windows FROM tumbles GROUP BY k",
    ]),
    by_time(&[
        "CREATE STREAM hops AS SELECT window_start, window_end, j, count(*) AS c, max(n) AS n, sum(x) AS x
         FROM HOP({b}, at, INTERVAL '7 seconds', INTERVAL '20 seconds', INTERVAL '3 seconds') GROUP BY window_start, window_end, j",
        "CREATE MATERIALIZED VIEW many_slices AS SELECT window_end, count(*) AS c, avg(n) AS n
         FROM HOP({a}, at, INTERVAL '2 seconds', INTERVAL '40 seconds') GROUP BY window_end",
    ]),
    by_time(&[
        "CREATE STREAM cumulates AS SELECT window_start, window_end, f, count(*) AS c, sum(n) AS n
         FROM CUMULATE({a}, at, INTERVAL '5 seconds', INTERVAL '20 seconds') GROUP BY window_start, window_end, f",
        "CREATE MATERIALIZED VIEW changing AS SELECT window_start, k, count(*) AS c, min(n) AS n
         FROM TUMBLE({a}, at, INTERVAL '15 seconds') GROUP BY window_start, k HAVING count(*) > 1",
    ]),
    by_time(&[
        "CREATE STREAM sessions AS SELECT window_start, window_end, k, count(*) AS c, sum(n) AS n, min(j) AS j
         FROM SESSION({a} PARTITION BY k, at, INTERVAL '6 seconds') GROUP BY window_start, window_end, k",
        "CREATE STREAM of_all AS SELECT window_start, window_end, count(*) AS c, max(x) AS x
         FROM SESSION({b}, at, INTERVAL '3 seconds') GROUP BY window_start, window_end",
        "CREATE STREAM of_sessions AS SELECT window_start, window_end, k, sum(c) AS c, count(*) AS sessions
         FROM SESSION(sessions PARTITION BY k, window_end, INTERVAL '15 seconds') GROUP BY window_start, window_end, k",
    ]),
    by_time(&[
        "CREATE STREAM best AS SELECT window_start, window_end, k, c, place FROM
           (SELECT *, row_number() OVER (PARTITION BY window_start, window_end ORDER BY c DESC, k) AS place FROM
             (SELECT window_start, window_end, k, count(*) AS c FROM TUMBLE({a}, at, INTERVAL '15 seconds') GROUP BY window_start, window_end, k))
         WHERE place <= 2",
        "CREATE STREAM first_of AS SELECT window_start, j, id FROM HOP({b}, at, INTERVAL '10 seconds', INTERVAL '20 seconds')
         QUALIFY row_number() OVER (PARTITION BY window_start, j ORDER BY at, id) = 1",
    ]),
    by_time(&[
        "CREATE STREAM over_time AS SELECT id, at, k, max(at) OVER (PARTITION BY k ORDER BY at RANGE UNBOUNDED PRECEDING) AS latest,
           sum(n) OVER (PARTITION BY j ORDER BY at RANGE BETWEEN INTERVAL '5 seconds' PRECEDING AND CURRENT ROW) AS n,
           count(*) OVER (PARTITION BY k ORDER BY at RANGE BETWEEN INTERVAL '10 seconds' PRECEDING AND CURRENT ROW) AS lately
         FROM {a}",
        // Rows of one time are in the order of their coming: which of them is the first is not to be told.
        "CREATE STREAM over_rows AS SELECT k, at, lag(at) OVER (PARTITION BY k ORDER BY at) AS before,
           count(*) OVER (PARTITION BY k ORDER BY at ROWS BETWEEN 2 PRECEDING AND CURRENT ROW) AS three, row_number() OVER (PARTITION BY k ORDER BY at) AS nth
         FROM {b}",
    ]),
];

pub const VIEWS: &[Statements] = &[
    any(&[
        "CREATE MATERIALIZED VIEW per_k AS SELECT k, count(*) AS c, sum(n) AS n, min(n) AS low, max(x) AS high, avg(n) AS mean FROM {a} GROUP BY k",
        "CREATE MATERIALIZED VIEW sizes AS SELECT c, count(*) AS ks, sum(n) AS n, min(low) AS low, count(DISTINCT high) AS highs FROM per_k GROUP BY c",
        "CREATE MATERIALIZED VIEW total AS SELECT sum(c) AS c, max(c) AS most, count(low) AS lows FROM per_k",
        "CREATE MATERIALIZED VIEW of_sizes AS SELECT ks, count(*) AS sizes, sum(c) AS c FROM sizes GROUP BY ks HAVING sum(c) > 2",
    ]),
    any(&[
        "CREATE MATERIALIZED VIEW filtered AS SELECT j, count(*) FILTER (WHERE n > 0) AS plus, sum(x) FILTER (WHERE f) AS x FROM {a}
         WHERE k <> 'b' GROUP BY j HAVING count(*) % 2 = 1",
        "CREATE MATERIALIZED VIEW no_key AS SELECT plus % 2 AS odd, x IS NULL AS nothing FROM filtered",
        "CREATE MATERIALIZED VIEW of_no_key AS SELECT odd, nothing, count(*) AS c FROM no_key GROUP BY odd, nothing",
        "CREATE MATERIALIZED VIEW kept AS SELECT id, k, n * 2 AS n FROM {a} WHERE f",
    ]),
    any(&[
        "CREATE MATERIALIZED VIEW top AS SELECT k, id, n, place FROM
           (SELECT *, row_number() OVER (PARTITION BY k ORDER BY n DESC NULLS LAST, id) AS place FROM {a}) WHERE place <= 2",
        "CREATE MATERIALIZED VIEW latest AS SELECT DISTINCT ON (j) j, id, n FROM {b} ORDER BY j, at DESC, id",
        "CREATE MATERIALIZED VIEW busiest AS SELECT f, k, c FROM (SELECT *, row_number() OVER (PARTITION BY f ORDER BY c DESC, k) AS place FROM
           (SELECT f, k, count(*) AS c FROM {a} GROUP BY f, k)) WHERE place <= 2",
        "CREATE MATERIALIZED VIEW of_latest AS SELECT n, count(*) AS js, max(id) AS id FROM latest GROUP BY n",
    ]),
    any(&[
        "CREATE MATERIALIZED VIEW places AS SELECT f, k, rank() OVER (PARTITION BY f ORDER BY c DESC) AS place, sum(c) OVER (PARTITION BY f) AS of_all
         FROM (SELECT f, k, count(*) AS c FROM {a} GROUP BY f, k)",
        "CREATE MATERIALIZED VIEW by_place AS SELECT place, count(*) AS c, sum(of_all) AS of_all FROM places GROUP BY place",
    ]),
    any(&[
        "CREATE STREAM both_streams AS SELECT id, k, n FROM {a} WHERE f UNION ALL SELECT id, j, n + 1 FROM {b} WHERE n > 0",
        "CREATE MATERIALIZED VIEW per_k AS SELECT k, count(*) AS c, min(n) AS n FROM both_streams GROUP BY k",
        "CREATE MATERIALIZED VIEW names AS SELECT k FROM {a} WHERE f UNION SELECT k FROM per_k WHERE c > 2",
        "CREATE MATERIALIZED VIEW mixed AS SELECT k, count(*) AS c, sum(n) AS n FROM
           (SELECT k, n FROM {b} UNION ALL SELECT k, n FROM per_k) GROUP BY k",
    ]),
    any(&[
        "CREATE STREAM shaped AS SELECT id, upper(k) AS k, CASE WHEN n > 0 THEN 'plus' WHEN n < 0 THEN 'minus' END AS sign, at FROM {a} WHERE id % 3 <> 1",
        "CREATE STREAM moved PARTITION BY (sign) AS SELECT * FROM shaped",
        "CREATE MATERIALIZED VIEW different AS SELECT DISTINCT k, sign FROM moved",
        "CREATE STREAM of_moved AS SELECT window_start, sign, count(*) AS c FROM TUMBLE(moved, at, INTERVAL '12 seconds') GROUP BY window_start, sign",
    ]),
];

pub const JOINS: &[Statements] = &[
    by_time(&[
        "CREATE STREAM pairs AS SELECT p.id AS id, q.id AS other, p.at AS at, q.at AS later FROM {a} p JOIN {b} q
         ON p.k = q.k AND q.at BETWEEN p.at - INTERVAL '5 seconds' AND p.at + INTERVAL '10 seconds' AND q.n >= p.n",
        "CREATE STREAM of_pairs AS SELECT window_start, count(*) AS pairs, count(DISTINCT id) AS ids FROM TUMBLE(pairs, at, INTERVAL '20 seconds') GROUP BY window_start",
    ]),
    by_time(&[
        "CREATE STREAM answers AS SELECT p.id AS id, p.at AS at, q.id AS answer FROM {a} p LEFT JOIN {b} q
         ON q.j = p.j AND q.at > p.at AND q.at <= p.at + INTERVAL '6 seconds'",
        "CREATE STREAM either AS SELECT p.id AS id, q.id AS other FROM {a} p FULL JOIN {a} q
         ON p.k = q.j AND q.at BETWEEN p.at - INTERVAL '4 seconds' AND p.at",
    ]),
    by_time(&[
        "CREATE STREAM in_one AS SELECT p.window_start, p.id AS id, q.id AS other FROM TUMBLE({a}, at, INTERVAL '10 seconds') p
         JOIN TUMBLE({b}, at, INTERVAL '10 seconds') q ON p.window_start = q.window_start AND p.window_end = q.window_end AND p.k = q.k",
        "CREATE STREAM share AS SELECT p.window_start, p.k, p.c, t.c AS of_all FROM
           (SELECT window_start, window_end, k, count(*) AS c FROM TUMBLE({a}, at, INTERVAL '15 seconds') GROUP BY window_start, window_end, k) p
         JOIN (SELECT window_start, window_end, count(*) AS c FROM TUMBLE({a}, at, INTERVAL '15 seconds') GROUP BY window_start, window_end) t
           ON p.window_start = t.window_start AND p.window_end = t.window_end",
    ]),
    any(&[
        "CREATE MATERIALIZED VIEW per_k AS SELECT k, count(*) AS c, min(n) AS n FROM {a} GROUP BY k",
        "CREATE MATERIALIZED VIEW sides AS SELECT p.k, p.c, o.j, o.js FROM per_k p FULL JOIN (SELECT j, count(*) AS js FROM {b} GROUP BY j) o ON p.k = o.j",
        "CREATE MATERIALIZED VIEW with_view WITH (state = 'unbounded') AS SELECT q.id, q.k, p.c FROM {b} q LEFT JOIN per_k p ON q.k = p.k AND p.n < q.n",
    ]),
    any(&[
        "CREATE MATERIALIZED VIEW for_ever WITH (state = 'unbounded') AS SELECT p.id AS id, q.id AS other FROM {a} p JOIN {b} q ON p.n = q.n AND p.f = q.f",
        "CREATE MATERIALIZED VIEW counted WITH (state = 'unbounded') AS SELECT id, count(*) AS c FROM for_ever GROUP BY id",
    ]),
    any(&[
        "CREATE MATERIALIZED VIEW per_j AS SELECT j, count(*) AS c, sum(n) AS n FROM {b} GROUP BY j",
        "CREATE MATERIALIZED VIEW members WITH (state = 'unbounded') AS SELECT id, k FROM {a} WHERE k IN (SELECT j FROM per_j WHERE c % 2 = 1)",
        "CREATE MATERIALIZED VIEW strangers WITH (state = 'unbounded') AS SELECT p.id FROM {a} p WHERE NOT EXISTS (SELECT 1 FROM per_j q WHERE q.j = p.j AND q.n > 0)",
        "CREATE MATERIALIZED VIEW of_strangers WITH (state = 'unbounded') AS SELECT count(*) AS c, max(id) AS id FROM strangers",
    ]),
];
