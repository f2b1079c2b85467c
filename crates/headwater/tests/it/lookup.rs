//! Lookup joins with a real PostgreSQL: what rows meet, what is refused, and that no event is lost or meets a row that was not
//! there, whoever is killed.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use headwater_test_servers::postgres::Postgres;
use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};
use serde_json::{Value, json};

use crate::crash::Load;
use crate::server::Server;

const PATIENCE: Duration = Duration::from_secs(120);
const ROUNDS: u64 = 6;
const SEED: u64 = 1;

fn server(postgres: &Postgres, sql: &str) -> Server {
    Server::new(sql).with_variable("PG_URL", &postgres.url())
}

async fn run(server: &Server, sql: &str) -> (u16, Value) {
    server.post("/v1/sql", json!({"sql": sql}).to_string()).await
}

async fn send(server: &Server, stream: &str, rows: Value) {
    let (status, answer) = server
        .post(&format!("/v1/streams/{stream}/events"), rows.to_string())
        .await;
    assert_eq!(status, 200, "{answer}");
}

/// Why queries wait for the table, as soon as they do.
async fn failure(server: &Server, table: &str) -> String {
    let started = Instant::now();
    loop {
        let tables = server.sql("SHOW TABLES").await;
        let found = tables.iter().find(|row| row["name"] == json!(table));
        if let Some(why) = found.and_then(|row| row["failure"].as_str()) {
            return why.to_owned();
        }
        assert!(started.elapsed() < PATIENCE, "{tables:?}\n{}", server.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The first of the rows, as soon as there are so many.
async fn rows(server: &Server, sql: &str, count: usize) -> Vec<Value> {
    let started = Instant::now();
    loop {
        let rows = server.sql(sql).await;
        if rows.len() >= count {
            return rows;
        }
        assert!(started.elapsed() < PATIENCE, "{sql}: {rows:?}\n{}", server.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

const TABLES: &str = "
CREATE TABLE customers (id int PRIMARY KEY, name varchar(20), level smallint, since timestamptz, secret text);
INSERT INTO customers VALUES (1, 'Ada', 3, '2026-01-01T12:00:00+02', 'x'), (2, 'Bob', 1, NULL, 'y'), (4, NULL, 9, NULL, 'z');
CREATE TABLE prices (country text, code uuid, price numeric(10, 3), UNIQUE (code, country));
INSERT INTO prices VALUES ('DE', '00000000-0000-0000-0000-00000000000a', 1.5), ('FR', '00000000-0000-0000-0000-00000000000a', -2.125),
                          ('DE', '00000000-0000-0000-0000-00000000000b', NULL);
";

const ORDERS: &str = "
CREATE STREAM orders (
  n BIGINT NOT NULL, customer_id INT, country TEXT, code TEXT, amount INT, at TIMESTAMP, WATERMARK FOR at AS at
) WITH (partitions = 2, idle_timeout = '50 ms');
CREATE TABLE customers (id INT NOT NULL PRIMARY KEY, name TEXT, level BIGINT, since TIMESTAMP)
WITH (connector = 'postgres', url = '${env:PG_URL}', table = 'public.customers');
CREATE TABLE prices (country TEXT, code TEXT, price DECIMAL(12, 4), PRIMARY KEY (country, code))
WITH (connector = 'postgres', url = '${env:PG_URL}', table = 'prices', cache.ttl = '1 hour', cache.rows = 3);
CREATE STREAM met AS
SELECT o.n, c.name, c.since FROM orders o JOIN customers FOR SYSTEM_TIME AS OF now() AS c ON o.customer_id = c.id;
CREATE STREAM all_orders AS
SELECT o.n, c.id, c.name, c.level * 2 AS twice FROM orders o
LEFT JOIN customers FOR SYSTEM_TIME AS OF PROCTIME() AS c ON c.id = o.customer_id AND c.level > o.amount;
CREATE STREAM good AS
SELECT o.n, c.name FROM orders o JOIN customers FOR SYSTEM_TIME AS OF now() c ON o.customer_id = c.id WHERE c.level > o.amount AND o.n < 100;
CREATE STREAM priced AS
SELECT o.n, p.price FROM orders o LEFT JOIN prices FOR SYSTEM_TIME AS OF now() AS p ON p.code = o.code AND p.country = upper(o.country);
CREATE MATERIALIZED VIEW per_name AS
SELECT c.name, count(*) AS orders FROM orders o LEFT JOIN customers FOR SYSTEM_TIME AS OF now() AS c ON o.customer_id = c.id GROUP BY c.name;
CREATE STREAM per_second AS
SELECT w.window_start, c.name, w.orders FROM (
  SELECT window_start, window_end, customer_id, count(*) AS orders FROM TUMBLE(orders, at, INTERVAL '1 second')
  GROUP BY window_start, window_end, customer_id) w
JOIN customers FOR SYSTEM_TIME AS OF now() AS c ON c.id = w.customer_id;
CREATE STREAM both AS
SELECT m.n, m.name, p.price FROM (
  SELECT o.n, o.country, o.code, c.name FROM orders o JOIN customers FOR SYSTEM_TIME AS OF now() AS c ON o.customer_id = c.id) m
JOIN prices FOR SYSTEM_TIME AS OF now() AS p ON p.code = m.code AND p.country = m.country;
";

#[tokio::test]
async fn rows_meet_what_the_table_has() {
    let Some(postgres) = Postgres::start().await else {
        return;
    };
    postgres.execute(TABLES).await;
    let mut server = server(&postgres, ORDERS);
    server.start().await;
    let code = |last: char| format!("00000000-0000-0000-0000-00000000000{last}");
    let order = |n: u32, customer: Value, country: &str, code: &str, amount: u32| json!({"n": n, "customer_id": customer, "country": country, "code": code, "amount": amount, "at": format!("2026-03-01T12:00:{n:02}Z")});
    send(
        &server,
        "orders",
        json!([
            order(0, json!(1), "DE", &code('a'), 2),
            order(1, json!(2), "fr", &code('a'), 2),
            order(2, json!(3), "DE", &code('b'), 0),
            order(3, json!(null), "DE", &code('c'), 0),
            order(4, json!(4), "IT", &code('a'), 8),
            order(5, json!(1), "DE", "no uuid", 3),
            order(6, json!(1), "FR", &code('A'), 9),
        ]),
    )
    .await;
    server.caught_up().await;
    let ada = json!("2026-01-01T10:00:00Z");
    assert_eq!(
        server.sql("SELECT * FROM met ORDER BY n").await,
        [
            json!({"n": 0, "name": "Ada", "since": ada}),
            json!({"n": 1, "name": "Bob", "since": null}),
            json!({"n": 4, "name": null, "since": null}),
            json!({"n": 5, "name": "Ada", "since": ada}),
            json!({"n": 6, "name": "Ada", "since": ada}),
        ]
    );
    let none = |n: u32| json!({"n": n, "id": null, "name": null, "twice": null});
    assert_eq!(
        server.sql("SELECT * FROM all_orders ORDER BY n").await,
        [
            json!({"n": 0, "id": 1, "name": "Ada", "twice": 6}),
            none(1),
            none(2),
            none(3),
            json!({"n": 4, "id": 4, "name": null, "twice": 18}),
            none(5),
            none(6),
        ]
    );
    assert_eq!(
        server.sql("SELECT * FROM good ORDER BY n").await,
        [json!({"n": 0, "name": "Ada"}), json!({"n": 4, "name": null})]
    );
    let priced = server
        .sql("SELECT n, CAST(price AS TEXT) AS price FROM priced ORDER BY n")
        .await;
    let prices: Vec<_> = priced.iter().map(|row| row["price"].as_str()).collect();
    assert_eq!(
        prices,
        [Some("1.5000"), Some("-2.1250"), None, None, None, None, None],
        "a UUID is what Postgres writes"
    );
    assert_eq!(
        server.sql("SELECT * FROM per_name ORDER BY name NULLS LAST").await,
        [
            json!({"name": "Ada", "orders": 3}),
            json!({"name": "Bob", "orders": 1}),
            json!({"name": null, "orders": 3}),
        ]
    );
    assert_eq!(
        server
            .sql("SELECT n, name, CAST(price AS DOUBLE) AS price FROM both ORDER BY n")
            .await,
        [json!({"n": 0, "name": "Ada", "price": 1.5})]
    );
    let windows = rows(&server, "SELECT name, orders FROM per_second ORDER BY window_start", 4).await;
    assert_eq!(
        windows[..2],
        [json!({"name": "Ada", "orders": 1}), json!({"name": "Bob", "orders": 1})]
    );

    let described = server.sql("DESCRIBE customers").await;
    assert_eq!(described[0]["role"], json!("key"));
    assert_eq!((&described[3]["column"], described.len()), (&json!("since"), 4));
    let tables = server.sql("SHOW TABLES").await;
    let kinds = tables.iter().filter(|row| row["kind"] == json!("table"));
    assert_eq!(kinds.count(), 2);
    let explained = server
        .sql("EXPLAIN CREATE STREAM e AS SELECT o.n, c.name FROM orders o JOIN customers FOR SYSTEM_TIME AS OF now() AS c ON o.customer_id = c.id")
        .await;
    let plan: Vec<_> = explained.iter().filter_map(|row| row["plan"].as_str()).collect();
    assert!(plan.join("\n").contains("looked up"), "{plan:?}");
    let (status, answer) = run(&server, "SELECT * FROM customers").await;
    assert_eq!(status, 400, "{answer}");
    let detail = answer["detail"].as_str().unwrap_or_default();
    assert!(
        detail.contains("asked for rows by key, and not read as a whole"),
        "{answer}"
    );
}

const SIMPLE: &str = "CREATE STREAM events (n BIGINT NOT NULL, id BIGINT, t TEXT, at TIMESTAMP, WATERMARK FOR at AS at) WITH (partitions = 1);
CREATE MATERIALIZED VIEW per_id AS SELECT id, count(*) AS n FROM events GROUP BY id;
CREATE TABLE things (id BIGINT PRIMARY KEY, name TEXT) WITH (connector = 'postgres', url = '${env:PG_URL}', table = 'things');";

#[tokio::test]
async fn what_can_not_work_is_refused_with_its_reason() {
    let Some(postgres) = Postgres::start().await else {
        return;
    };
    postgres
        .execute(
            "CREATE ROLE reader LOGIN PASSWORD 'correct horse';
             CREATE TABLE things (id bigint PRIMARY KEY, name text NOT NULL, price numeric(20, 2), small int, f double precision);
             CREATE TABLE keyless (id bigint, name text);
             CREATE TABLE half (id bigint, part bigint, PRIMARY KEY (id, part))",
        )
        .await;
    let mut server = server(&postgres, SIMPLE).with_variable("PASSWORD", "correct horse");
    server.start().await;
    let of = |columns: &str, table: &str, more: &str| {
        format!(
            "CREATE TABLE t ({columns}) WITH (connector = 'postgres', url = '${{env:PG_URL}}', table = '{table}'{more})"
        )
    };
    let join = |join: &str| format!("CREATE STREAM s AS SELECT e.n, x.name FROM events e {join}");
    let as_reader = format!(
        "postgres://reader:${{env:PASSWORD}}@127.0.0.1:{}/postgres",
        postgres.port
    );
    for (sql, part, column) in [
        ("CREATE TABLE t (id BIGINT PRIMARY KEY)".to_owned(), "a table needs a connector", 14),
        (of("id BIGINT", "things", ""), "needs a PRIMARY KEY", 14),
        (of("id BIGINT PRIMARY KEY DEFAULT 1", "things", ""), "no DEFAULT", 39),
        (of("id BIGINT, PRIMARY KEY (ident)", "things", ""), "no column 'ident'", 41),
        (of("id DOUBLE PRIMARY KEY", "things", ""), "a key can't be DOUBLE", 20),
        (of("id BIGINT PRIMARY KEY, l TEXT[]", "things", ""), "can't be read as TEXT[]", 42),
        (of("id BIGINT PRIMARY KEY", "things", ", cache.rows = 10"), "cache.rows is for tables with a cache.ttl", 0),
        (of("id BIGINT PRIMARY KEY", "things", ", cache.tll = '1 s'"), "did you mean cache.ttl", 0),
        (of("id BIGINT PRIMARY KEY", "nothing", ""), "there is no table", 14),
        (of("id BIGINT PRIMARY KEY, nam TEXT", "things", ""), "the table things has no column nam", 14),
        (of("id INT PRIMARY KEY", "things", ""), "the column id of the table things is bigint", 14),
        (of("id BIGINT PRIMARY KEY, f DECIMAL(10, 2)", "things", ""), "has to be numeric", 14),
        (of("id BIGINT PRIMARY KEY, small INT NOT NULL", "things", ""), "the column small of the table things may be NULL", 14),
        (of("id BIGINT PRIMARY KEY", "keyless", ""), "no unique index on (\"id\")", 14),
        (of("id BIGINT PRIMARY KEY", "half", ""), "no unique index on (\"id\")", 14),
        (
            format!("CREATE TABLE t (id BIGINT PRIMARY KEY) WITH (connector = 'postgres', url = '{as_reader}', table = 'things')"),
            "reader may not read the column id",
            14,
        ),
        (
            "CREATE TABLE t (id BIGINT PRIMARY KEY) WITH (connector = 'postgres', url = 'postgres://me:pw@h/d', table = 'x')".to_owned(),
            "a password doesn't belong into a statement",
            0,
        ),
        ("CREATE TABLE t (id BIGINT PRIMARY KEY) WITH (connector = 'postgers')".to_owned(), "did you mean postgres", 0),
        (join("JOIN things x ON x.id = e.id"), "asked for rows by key", 0),
        (join("JOIN things FOR SYSTEM_TIME AS OF e.at AS x ON x.id = e.id"), "what its rows were at a time isn't known", 0),
        (join("JOIN things FOR SYSTEM_TIME AS OF now() AS x ON x.name = e.t"), "looked up by its key", 0),
        (join("JOIN things FOR SYSTEM_TIME AS OF now() AS x ON x.id > e.id"), "needs a column on each side", 0),
        (join("RIGHT JOIN things FOR SYSTEM_TIME AS OF now() AS x ON x.id = e.id"), "stands on the right of a JOIN or LEFT JOIN", 0),
        (
            "CREATE MATERIALIZED VIEW s AS SELECT p.n, x.name FROM per_id p JOIN things FOR SYSTEM_TIME AS OF now() AS x ON x.id = p.id".to_owned(),
            "rows before FOR SYSTEM_TIME AS OF change",
            0,
        ),
        ("CREATE SINK s FROM things WITH (connector = 'file', path = '/x')".to_owned(), "asked for rows by key", 0),
    ] {
        let (status, answer) = run(&server, &sql).await;
        let said = answer.to_string();
        assert!(status == 400 && said.contains(&part.replace('"', "\\\"")), "{sql}: {status} {said}");
        assert!(column == 0 || answer["errors"][0]["column"] == json!(column), "{sql}: {said}");
        assert!(!said.contains("correct horse"), "{said}");
    }
    // A wider declaration than the table's is fine; a key narrower than what it has to equal is not.
    let (status, answer) = run(&server, &of("id BIGINT PRIMARY KEY, small BIGINT", "things", "")).await;
    assert_eq!(status, 200, "{answer}");
    postgres
        .execute("CREATE TABLE narrow (id int PRIMARY KEY, name text)")
        .await;
    let (status, answer) = run(
        &server,
        &of("id INT PRIMARY KEY, name TEXT", "narrow", "").replace("TABLE t", "TABLE narrow"),
    )
    .await;
    assert_eq!(status, 200, "{answer}");
    let (status, answer) = run(
        &server,
        &join("JOIN narrow FOR SYSTEM_TIME AS OF now() AS x ON x.id = e.id"),
    )
    .await;
    assert!(
        status == 400 && answer.to_string().contains("of another type"),
        "{answer}"
    );
    assert_eq!(
        run(
            &server,
            &join("JOIN things FOR SYSTEM_TIME AS OF now() AS x ON x.id = e.id")
        )
        .await
        .0,
        200
    );
    let (status, answer) = run(&server, "DROP TABLE things").await;
    assert!(
        status == 400 && answer.to_string().contains("s depends on it"),
        "{status} {answer}"
    );
    assert_eq!(run(&server, "DROP TABLE things CASCADE").await.0, 200);
    assert_eq!(run(&server, "SELECT * FROM s").await.0, 400, "it went too");
}

#[tokio::test]
async fn what_changes_is_seen_when_it_is_no_longer_remembered() {
    let Some(postgres) = Postgres::start().await else {
        return;
    };
    postgres
        .execute(
            "CREATE TABLE things (id bigint PRIMARY KEY, name text); INSERT INTO things VALUES (1, 'old');
             CREATE TABLE others (id bigint PRIMARY KEY, name text); INSERT INTO others VALUES (1, 'other'), (2, 'second')",
        )
        .await;
    let remembering = SIMPLE.replace("'things')", "'things', cache.ttl = '1 second')");
    let sql = format!(
        "{remembering}
         CREATE TABLE always (id BIGINT PRIMARY KEY, name TEXT) WITH (connector = 'postgres', url = '${{env:PG_URL}}', table = 'things');
         CREATE STREAM found AS SELECT e.n, x.name FROM events e LEFT JOIN things FOR SYSTEM_TIME AS OF now() AS x ON x.id = e.id;
         CREATE STREAM found_now AS SELECT e.n, x.name FROM events e LEFT JOIN always FOR SYSTEM_TIME AS OF now() AS x ON x.id = e.id;"
    );
    let mut server = server(&postgres, &sql);
    server.start().await;
    let name = async |stream: &str, n: u64, id: u64| {
        send(&server, "events", json!({"n": n, "id": id})).await;
        let found = rows(&server, &format!("SELECT name FROM {stream} WHERE n = {n}"), 1).await;
        found[0]["name"].clone()
    };
    assert_eq!(name("found", 1, 1).await, json!("old"));
    assert_eq!(name("found_now", 2, 2).await, json!(null));
    postgres
        .execute("UPDATE things SET name = 'new'; INSERT INTO things VALUES (2, 'there')")
        .await;
    assert_eq!(name("found_now", 3, 1).await, json!("new"), "without a cache at once");
    assert_eq!(name("found_now", 4, 2).await, json!("there"));
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert_eq!(name("found", 5, 1).await, json!("new"));
    assert_eq!(
        name("found", 6, 2).await,
        json!("there"),
        "that there was none is forgotten too"
    );

    // Another table with the same columns takes its place, and what reads from it goes on.
    let replaced = "CREATE OR REPLACE TABLE things (id BIGINT PRIMARY KEY, name TEXT) \
                    WITH (connector = 'postgres', url = '${env:PG_URL}', table = 'others')";
    let (status, answer) = run(&server, replaced).await;
    assert_eq!(status, 200, "{answer}");
    assert!(answer.to_string().contains("goes on, and asks this one"), "{answer}");
    assert_eq!(name("found", 7, 1).await, json!("other"));
    let before = server.sql("SELECT name FROM found WHERE n = 1").await;
    assert_eq!(before, [json!({"name": "old"})], "what was committed stays");
    server.kill();
    std::fs::write(server.sql_file(), "").expect("the SQL file");
    server.start().await;
    send(&server, "events", json!({"n": 8, "id": 2})).await;
    let found = rows(&server, "SELECT name FROM found WHERE n = 8", 1).await;
    assert_eq!(found, [json!({"name": "second"})], "a restart goes on with it");
    assert_eq!(server.sql("SELECT count(*) AS n FROM found").await, [json!({"n": 8})]);

    // With other columns what reads from it is made anew, and meets what is there now.
    postgres.execute("ALTER TABLE things ADD more text").await;
    let wider = "CREATE OR REPLACE TABLE always (id BIGINT PRIMARY KEY, name TEXT, more TEXT) \
                 WITH (connector = 'postgres', url = '${env:PG_URL}', table = 'things')";
    let (status, answer) = run(&server, wider).await;
    assert_eq!(status, 200, "{answer}");
    assert!(answer.to_string().contains("with it found_now"), "{answer}");
    let found = rows(&server, "SELECT n, name FROM found_now ORDER BY n", 8).await;
    assert_eq!(found[0], json!({"n": 1, "name": "new"}));
    assert_eq!(found.len(), 8);
}

#[tokio::test]
async fn a_server_that_is_away_holds_up_its_queries_alone() {
    let Some(mut postgres) = Postgres::stopped() else {
        return;
    };
    let sql = format!(
        "{SIMPLE}
         CREATE STREAM found AS SELECT e.n, x.name FROM events e LEFT JOIN things FOR SYSTEM_TIME AS OF now() AS x ON x.id = e.id;"
    );
    let mut server = server(&postgres, &sql);
    server.start().await;
    send(&server, "events", json!([{"n": 1, "id": 1}, {"n": 2, "id": 7}])).await;
    assert!(failure(&server, "things").await.contains("error connecting to server"));
    // Others go on.
    rows(&server, "SELECT * FROM per_id", 2).await;
    assert_eq!(server.sql("SELECT * FROM found").await, Vec::<Value>::new());
    // So does whoever stops it.
    server.signal("TERM");
    assert!(server.ended().await.success(), "{}", server.log());
    server.start().await;
    failure(&server, "things").await;
    postgres.run().await;
    postgres
        .execute("CREATE TABLE things (id bigint PRIMARY KEY, name text); INSERT INTO things VALUES (1, 'one')")
        .await;
    let found = rows(&server, "SELECT * FROM found ORDER BY n", 2).await;
    assert_eq!(found, [json!({"n": 1, "name": "one"}), json!({"n": 2, "name": null})]);
    let tables = server.sql("SHOW TABLES").await;
    assert!(tables.iter().all(|table| table["failure"].is_null()), "{tables:?}");
    // A table that doesn't fit any more is waited for too.
    postgres.execute("ALTER TABLE things RENAME name TO title").await;
    send(&server, "events", json!({"n": 3, "id": 1})).await;
    failure(&server, "things").await;
    postgres.execute("ALTER TABLE things RENAME title TO name").await;
    let found = rows(&server, "SELECT name FROM found ORDER BY n", 3).await;
    assert_eq!(found[2], json!({"name": "one"}));
}

#[tokio::test]
async fn rows_that_can_not_be_used_are_dead_letters() {
    let Some(postgres) = Postgres::start().await else {
        return;
    };
    postgres
        .execute(
            "CREATE TABLE things (id bigint PRIMARY KEY, name text, till timestamp, price numeric(10, 3));
             INSERT INTO things VALUES (1, 'one', '2026-01-01', 1.25), (2, 'two', 'infinity', 1), (3, 'three', NULL, 1.125), (4, 'four', NULL, 0)",
        )
        .await;
    let sql = format!(
        "{SIMPLE}
         CREATE TABLE dated (id BIGINT PRIMARY KEY, till TIMESTAMP, price DECIMAL(8, 2)) WITH (connector = 'postgres', url = '${{env:PG_URL}}', table = 'things', cache.ttl = '1 hour');
         CREATE STREAM found AS SELECT e.n, x.price FROM events e LEFT JOIN dated FOR SYSTEM_TIME AS OF now() AS x ON x.id = e.id AND 1 / (e.n - 5) < 5;"
    );
    let mut server = server(&postgres, &sql);
    server.start().await;
    let events: Vec<Value> = (1..=8_i64).map(|n| json!({"n": n, "id": n % 5, "t": "x"})).collect();
    send(&server, "events", Value::Array(events)).await;
    let letters = rows(&server, "SELECT reason, detail FROM dead_letters ORDER BY detail", 4).await;
    server.caught_up().await;
    let found = server
        .sql("SELECT n, CAST(price AS TEXT) AS price FROM found ORDER BY n")
        .await;
    let expected = [(1, Some("1.25")), (4, Some("0.00")), (5, None), (6, Some("1.25"))];
    let expected = expected.map(|(n, price)| json!({"n": n, "price": price}));
    assert_eq!(found, expected, "{letters:?}");
    assert!(
        letters.iter().all(|letter| letter["reason"] == json!("lookup")),
        "{letters:?}"
    );
    let details: String = letters.iter().filter_map(|letter| letter["detail"].as_str()).collect();
    assert!(details.contains("the value of till is none of its type"), "{details}");
    assert!(details.contains("the value of price is none of its type"), "{details}");
    // The division fails for an event whose row is there.
    send(&server, "events", json!([{"n": 5, "id": 4}, {"n": 9, "id": 4}])).await;
    let letters = rows(&server, "SELECT reason FROM dead_letters WHERE reason = 'evaluate'", 1).await;
    assert_eq!(letters.len(), 1);
    let found = rows(&server, "SELECT n FROM found WHERE n = 9", 1).await;
    assert_eq!(found.len(), 1);
}

const LOADED: &str = "
CREATE STREAM events (id TEXT NOT NULL, key TEXT NOT NULL, n BIGINT NOT NULL, at TIMESTAMP NOT NULL)
PARTITION BY (key) WITH (partitions = 2, idempotency_key = 'id');
CREATE TABLE buckets (bucket BIGINT NOT NULL PRIMARY KEY, name TEXT NOT NULL) WITH (connector = 'postgres', url = '${env:PG_URL}', table = 'buckets');
CREATE TABLE remembered (bucket BIGINT NOT NULL PRIMARY KEY, name TEXT NOT NULL)
WITH (connector = 'postgres', url = '${env:PG_URL}', table = 'buckets', cache.ttl = '100 ms', cache.rows = 20);
CREATE STREAM named AS
SELECT e.n, b.name FROM events e LEFT JOIN buckets FOR SYSTEM_TIME AS OF now() AS b ON b.bucket = e.n % 100;
CREATE MATERIALIZED VIEW per_name AS
SELECT r.name, count(*) AS events, sum(e.n) AS total FROM events e JOIN remembered FOR SYSTEM_TIME AS OF now() AS r ON r.bucket = e.n % 100 GROUP BY r.name;
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_is_killed_every_event_meets_its_row_once() {
    let Some(mut postgres) = Postgres::start().await else {
        return;
    };
    let from_env = |name: &str| std::env::var(name).ok().map(|value| value.parse().expect("a number"));
    let rounds = from_env("HEADWATER_CRASH_ROUNDS").unwrap_or(ROUNDS);
    let seed = from_env("HEADWATER_CRASH_SEED").unwrap_or(SEED);
    println!("crash test of lookups: {rounds} rounds, HEADWATER_CRASH_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    // Of 100 buckets there are 90.
    postgres
        .execute(
            "CREATE TABLE buckets (bucket int PRIMARY KEY, name text NOT NULL);
             INSERT INTO buckets SELECT n, 'bucket ' || n FROM generate_series(0, 89) AS n",
        )
        .await;
    let mut server = server(&postgres, LOADED);
    server.start().await;
    let load = Arc::new(Load::new(server.url()));
    let clients = tokio::spawn(Arc::clone(&load).run(random.next_u64()));
    for round in 0..rounds {
        tokio::time::sleep(Duration::from_millis(random.random_range(50..900))).await;
        match round % 2 {
            1 => {
                postgres.kill();
                tokio::time::sleep(Duration::from_millis(random.random_range(0..600))).await;
                postgres.run().await;
            }
            _ => {
                server.kill();
                server.start().await;
            }
        }
    }
    load.stop.store(true, Ordering::Relaxed);
    let sent = clients.await.expect("the clients end");
    server.caught_up().await;

    let counts = server
        .sql("SELECT count(*) AS rows, count(DISTINCT n) AS events, count(name) AS named FROM named")
        .await;
    let has_row = |n: &u64| n % 100 < 90;
    let named = (0..sent).filter(has_row).count();
    assert_eq!(counts, [json!({"rows": sent, "events": sent, "named": named})]);
    let wrong = "SELECT count(*) AS n FROM named WHERE coalesce(name, '') <> CASE WHEN n % 100 < 90 THEN concat('bucket ', n % 100) ELSE '' END";
    assert_eq!(server.sql(wrong).await, [json!({"n": 0})]);
    let buckets = (0..sent.min(100)).filter(has_row).count();
    let total: u64 = (0..sent).filter(has_row).sum();
    assert_eq!(
        server
            .sql("SELECT count(*) AS names, sum(events) AS events, sum(total) AS total FROM per_name")
            .await,
        [json!({"names": buckets, "events": named, "total": total})]
    );
}
