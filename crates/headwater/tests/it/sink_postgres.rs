//! Rows in a real PostgreSQL: what arrives, what is refused, and that each row is there once, whoever is killed.

mod steps;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use headwater_test_servers::postgres::Postgres;
use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};
use serde_json::{Value, json};

use crate::crash::Load;
use crate::server::Server;
use crate::sinks::delivered;

const PATIENCE: Duration = Duration::from_secs(120);
const ROUNDS: u64 = 8;
const SEED: u64 = 1;

/// A server with this stream and the sinks' URL in `PG_URL`.
fn server(postgres: &Postgres, sql: &str) -> Server {
    Server::new(sql).with_variable("PG_URL", &postgres.url())
}

async fn run(server: &Server, sql: &str) -> (u16, Value) {
    server.post("/v1/sql", json!({"sql": sql}).to_string()).await
}

/// The one sink's failure, as soon as there is one.
async fn failure(server: &Server) -> String {
    let started = Instant::now();
    loop {
        let sinks = server.sql("SHOW SINKS").await;
        if let Some(why) = sinks[0]["failure"].as_str() {
            return why.to_owned();
        }
        assert!(started.elapsed() < PATIENCE, "{sinks:?}\n{}", server.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

const EVERY_TYPE: &str = "
CREATE STREAM every (
  id BIGINT NOT NULL, t TEXT, b BOOLEAN, s SMALLINT, i INT, r REAL, d DOUBLE, n DECIMAL(12, 3), day DATE, clock TIME,
  at TIMESTAMP, tz TIMESTAMPTZ, bytes BYTEA, j JSON, parts STRUCT<a INT, b TEXT>, list TEXT[], numbers BIGINT[], nested STRUCT<x INT>[]
) WITH (partitions = 2);
CREATE SINK copy FROM every WITH (connector = 'postgres', url = '${env:PG_URL}', table = 'every');
";

#[tokio::test]
async fn every_type_arrives_as_it_is() {
    let Some(postgres) = Postgres::start().await else {
        return;
    };
    let mut server = server(&postgres, EVERY_TYPE);
    server.start().await;
    let rows = json!([
        {"id": 1, "t": "a\tb\"c\\", "b": true, "s": -7, "i": 8, "r": 1.5, "d": -2.25e10, "n": -123456789.125, "day": "1969-12-31",
         "clock": "23:59:59.5", "at": "2026-03-01T12:00:00.000001Z", "tz": "2026-03-01T12:00:00+02:00", "bytes": "AP8=",
         "j": {"k": [1, 2]}, "parts": {"a": 1, "b": "x"}, "list": ["x", null, "y"], "numbers": [], "nested": [{"x": 1}]},
        {"id": 2, "n": 0.001, "at": "1999-12-31T23:59:59.999999Z", "numbers": [1, -1]},
        {"id": 3},
    ]);
    let (status, answer) = server.post("/v1/streams/every/events", rows.to_string()).await;
    assert_eq!(status, 200, "{answer}");
    delivered(&server).await;
    postgres.execute("SET timezone = 'UTC'").await;
    let value = async |what: &str, id: u8| {
        postgres
            .value(&format!("SELECT {what} FROM every WHERE id = {id}"))
            .await
    };
    for (what, expected) in [
        ("t", "a\tb\"c\\"),
        ("b", "true"),
        ("s + i", "1"),
        ("r * d", "-33750000000"),
        ("n", "-123456789.125"),
        ("day", "1969-12-31"),
        ("clock", "23:59:59.5"),
        ("at", "2026-03-01 12:00:00.000001"),
        ("tz AT TIME ZONE 'UTC'", "2026-03-01 10:00:00"),
        ("encode(bytes, 'hex')", "00ff"),
        ("j -> 'k' -> 1", "2"),
        ("parts ->> 'b'", "x"),
        ("list", "{x,NULL,y}"),
        ("numbers", "{}"),
        ("nested -> 0 ->> 'x'", "1"),
    ] {
        assert_eq!(value(what, 1).await.as_deref(), Some(expected), "{what}");
    }
    assert_eq!(value("at", 2).await.as_deref(), Some("1999-12-31 23:59:59.999999"));
    assert_eq!(value("n", 2).await.as_deref(), Some("0.001"));
    assert_eq!(value("numbers", 2).await.as_deref(), Some("{1,-1}"));
    let empty =
        "t IS NULL AND b IS NULL AND n IS NULL AND at IS NULL AND j IS NULL AND list IS NULL AND nested IS NULL";
    assert_eq!(value(empty, 3).await.as_deref(), Some("true"));

    let described = server.sql("DESCRIBE copy").await;
    let of = |option: &str| {
        described
            .iter()
            .find(|row| row["option"] == json!(option))
            .map(|row| row["value"].clone())
    };
    assert_eq!(of("url"), Some(json!("${env:PG_URL}")));
    assert!(of("delivery").is_some_and(|value| value.as_str().is_some_and(|text| text.starts_with("exactly once"))));
    assert_eq!(
        postgres
            .value("SELECT count(*) FROM headwater_delivery")
            .await
            .as_deref(),
        Some("1")
    );
    server.sql("DROP SINK copy").await;
    let started = Instant::now();
    while postgres
        .value("SELECT count(*) FROM headwater_delivery")
        .await
        .as_deref()
        != Some("0")
    {
        assert!(started.elapsed() < PATIENCE, "{}", server.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(postgres.value("SELECT count(*) FROM every").await.as_deref(), Some("3"));
}

const VIEWS: &str = "
CREATE STREAM clicks (id BIGINT NOT NULL, page TEXT, price INT NOT NULL) PARTITION BY (page) WITH (partitions = 3);
CREATE MATERIALIZED VIEW pages AS
SELECT page, count(*) AS clicks, sum(price) AS turnover FROM clicks GROUP BY page HAVING sum(price) < 10;
CREATE MATERIALIZED VIEW total AS SELECT count(*) AS clicks, max(page) AS last FROM clicks;
CREATE SINK pages_out FROM pages WITH (connector = 'postgres', url = '${env:PG_URL}', table = 'pages');
CREATE SINK total_out FROM total WITH (connector = 'postgres', url = '${env:PG_URL}', table = 'shop.total');
";

#[tokio::test]
async fn a_table_has_the_rows_of_its_view() {
    let Some(postgres) = Postgres::start().await else {
        return;
    };
    postgres.execute("CREATE SCHEMA shop").await;
    let mut server = server(&postgres, VIEWS);
    server.start().await;
    let click = |id: u32, page: Value, price: u32| json!({"id": id, "page": page, "price": price});
    for wave in [
        // b goes, and comes no more; NULL is a group like any other.
        json!([
            click(1, json!("a"), 1),
            click(2, json!("b"), 9),
            click(3, json!(null), 2)
        ]),
        json!([
            click(4, json!("a"), 1),
            click(5, json!("b"), 9),
            click(6, json!(null), 2)
        ]),
        json!([
            click(7, json!("c"), 1),
            click(8, json!("c"), 8),
            click(9, json!(null), 6)
        ]),
    ] {
        let (status, answer) = server.post("/v1/streams/clicks/events", wave.to_string()).await;
        assert_eq!(status, 200, "{answer}");
        delivered(&server).await;
        let expected = server
            .sql("SELECT page, clicks, turnover FROM pages ORDER BY page NULLS LAST")
            .await;
        let found = postgres
            .query("SELECT to_jsonb(p)::text FROM pages p ORDER BY page NULLS LAST")
            .await;
        let found: Vec<Value> = found
            .iter()
            .map(|row| serde_json::from_str(row.get(0)).expect("JSON"))
            .collect();
        assert_eq!(found, expected);
    }
    assert_eq!(
        postgres
            .value("SELECT string_agg(clicks || last, ',') FROM shop.total")
            .await
            .as_deref(),
        Some("9c")
    );
    assert_eq!(
        postgres
            .value("SELECT count(*) FROM shop.headwater_delivery")
            .await
            .as_deref(),
        Some("1")
    );
}

const EVENTS: &str = "
CREATE STREAM events (id TEXT NOT NULL, key TEXT NOT NULL, n BIGINT NOT NULL, at TIMESTAMP NOT NULL)
PARTITION BY (key) WITH (partitions = 2, idempotency_key = 'id');
CREATE MATERIALIZED VIEW per_key AS SELECT key, count(*) AS events, sum(n) AS total FROM events GROUP BY key;
CREATE SINK rows_out FROM events WITH (connector = 'postgres', url = '${env:PG_URL}', table = 'events');
CREATE SINK keys_out FROM per_key WITH (connector = 'postgres', url = '${env:PG_URL}', table = 'per_key');
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_is_killed_every_event_is_in_the_table_once() {
    let Some(mut postgres) = Postgres::start().await else {
        return;
    };
    let from_env = |name: &str| std::env::var(name).ok().map(|value| value.parse().expect("a number"));
    let rounds = from_env("HEADWATER_CRASH_ROUNDS").unwrap_or(ROUNDS);
    let seed = from_env("HEADWATER_CRASH_SEED").unwrap_or(SEED);
    println!("crash test of the Postgres sink: {rounds} rounds, HEADWATER_CRASH_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    // The table has no key, so that a row that came twice is there twice. One row in 100 is refused.
    postgres
        .execute("CREATE TABLE events (id text, key text, n bigint CHECK (n % 100 <> 7), at timestamp)")
        .await;

    let mut server = server(&postgres, EVENTS);
    server.start().await;
    let load = Arc::new(Load::new(server.url()));
    let clients = tokio::spawn(Arc::clone(&load).run(random.next_u64()));
    for round in 0..rounds {
        tokio::time::sleep(Duration::from_millis(random.random_range(50..900))).await;
        match round % 3 {
            2 => {
                postgres.kill();
                tokio::time::sleep(Duration::from_millis(random.random_range(0..300))).await;
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
    delivered(&server).await;

    let is_taken = |n: &u64| n % 100 != 7;
    let taken = (0..sent).filter(is_taken).count();
    let found = postgres
        .value("SELECT count(*) || ' ' || count(DISTINCT id) || ' ' || count(DISTINCT n) FROM events")
        .await;
    assert_eq!(found, Some(format!("{taken} {taken} {taken}")), "of {sent}");
    let letters = server
        .sql("SELECT count(*) AS n, count(DISTINCT payload) AS m FROM dead_letters")
        .await;
    let refused = sent - taken as u64;
    assert_eq!(letters, [json!({"n": refused, "m": refused})]);
    let sinks = server.sql("SHOW SINKS").await;
    let of_rows = sinks
        .iter()
        .find(|sink| sink["name"] == json!("rows_out"))
        .expect("the sink");
    assert_eq!(
        (&of_rows["rows"], &of_rows["dead_letters"]),
        (&json!(taken), &json!(refused)),
        "{sinks:?}"
    );

    let mut expected: BTreeMap<String, Value> = BTreeMap::new();
    for row in server.sql("SELECT * FROM per_key").await {
        expected.insert(row["key"].to_string(), row);
    }
    let found = postgres.query("SELECT to_jsonb(p)::text FROM per_key p").await;
    assert_eq!(found.len(), expected.len());
    for row in found {
        let row: Value = serde_json::from_str(row.get(0)).expect("JSON");
        assert_eq!(Some(&row), expected.get(&row["key"].to_string()));
    }
}

const SIMPLE: &str = "CREATE STREAM events (id BIGINT NOT NULL, t TEXT, at TIMESTAMP) WITH (partitions = 1)";

fn create(url: &str, table: &str) -> String {
    format!("CREATE SINK out FROM events WITH (connector = 'postgres', url = '{url}', table = '{table}')")
}

#[tokio::test]
async fn what_can_not_work_is_refused_with_its_reason() {
    let Some(postgres) = Postgres::start().await else {
        return;
    };
    postgres
        .execute(
            "CREATE ROLE writer LOGIN PASSWORD 'correct horse'; REVOKE CREATE ON SCHEMA public FROM PUBLIC;
             CREATE TABLE closed (id bigint, t text, at timestamp);
             CREATE TABLE wrong (id bigint, t integer, at timestamp);
             CREATE TABLE fewer (id bigint, t text);
             CREATE TABLE more (id bigint, t text, at timestamp, x int NOT NULL);
             CREATE TABLE keyless (t text, n bigint)",
        )
        .await;
    let mut server = server(&postgres, SIMPLE)
        .with_variable("PASSWORD", "battery staple")
        .with_variable("CORRECT", "correct horse");
    server.start().await;
    let (_, answer) = run(
        &server,
        "CREATE MATERIALIZED VIEW v AS SELECT t, count(*) AS n FROM events GROUP BY t",
    )
    .await;
    assert!(answer.get("detail").is_none(), "{answer}");
    let (_, answer) = run(&server, "CREATE MATERIALIZED VIEW u AS SELECT id, t FROM events").await;
    assert!(answer.get("detail").is_none(), "{answer}");
    let host = format!("127.0.0.1:{}/postgres", postgres.port);
    let as_writer = format!("postgres://writer:${{env:CORRECT}}@{host}");
    let view = |table: &str| create("${env:PG_URL}", table).replace("FROM events", "FROM v");
    for (sql, expected) in [
        (
            create(&format!("postgres://writer:${{env:PASSWORD}}@{host}"), "t"),
            "password authentication failed for user \"writer\"",
        ),
        (
            create(&format!("postgres://writer:hunter2@{host}"), "t"),
            "a password doesn't belong into a statement",
        ),
        (create("${env:NOT_SET}", "t"), "NOT_SET is not set"),
        (
            create("postgres://postgres@127.0.0.1:PORT/nowhere", "t"),
            "database \"nowhere\" does not exist",
        ),
        (
            create("${env:PG_URL}?sslmode=sometimes", "t"),
            "the option url begins with",
        ),
        (
            create(&format!("postgres://postgres@{host}?sslmode=sometimes"), "t"),
            "sslmode is one of disable, prefer",
        ),
        (create("${env:PG_URL}", "nowhere.t"), "there is no schema nowhere"),
        (
            create("${env:PG_URL}", "a.b.c"),
            "the option table is 'table' or 'schema.table'",
        ),
        (
            create(&as_writer, "t"),
            "writer may not make it: GRANT CREATE ON SCHEMA public TO writer",
        ),
        (
            create(&as_writer, "closed"),
            "writer lacks the right to INSERT on the table closed",
        ),
        (
            create("${env:PG_URL}", "wrong"),
            "the column t of the table wrong is integer, and has to be text",
        ),
        (
            create("${env:PG_URL}", "fewer"),
            "has no column at: ALTER TABLE \"fewer\" ADD COLUMN \"at\" timestamp",
        ),
        (
            create("${env:PG_URL}", "more"),
            "the column x of the table more is NOT NULL without a DEFAULT",
        ),
        (
            view("keyless"),
            "no unique index on the view's key: ALTER TABLE \"keyless\" ADD UNIQUE NULLS NOT DISTINCT (\"t\")",
        ),
        (view("t").replace("FROM v", "FROM u"), "nothing names a row of u"),
        (
            create("${env:PG_URL}", "t").replace(", table = 't'", ""),
            "needs a table",
        ),
        (create("${env:PG_URL}", "t").replace("table", "tabel"), "needs a table"),
    ] {
        let sql = sql.replace("PORT", &postgres.port.to_string());
        let (status, answer) = run(&server, &sql).await;
        let detail = answer["detail"].as_str().unwrap_or_default();
        assert_eq!(status, 400, "{sql}\n{answer}");
        assert!(detail.contains(expected), "{sql}\n{answer}");
    }
    assert_eq!(
        postgres.value("SELECT to_regclass('t')").await,
        None,
        "nothing was made"
    );

    // What is wrong later on is said, and the secret never is.
    postgres.execute("GRANT CREATE ON SCHEMA public TO writer").await;
    assert_eq!(run(&server, &create(&as_writer, "t")).await.0, 200);
    server
        .post("/v1/streams/events/events", json!({"id": 1}).to_string())
        .await;
    delivered(&server).await;
    postgres
        .execute("ALTER ROLE writer PASSWORD 'other'; REVOKE CREATE ON SCHEMA public FROM writer")
        .await;
    server.kill();
    server.start().await;
    assert!(failure(&server).await.contains("password authentication failed"));
    let mut said = server.log();
    for sql in [
        "SHOW SINKS",
        "DESCRIBE out",
        "EXPLAIN CREATE SINK o FROM events WITH (connector = 'postgres', url = '${env:CORRECT}', table = 't')",
    ] {
        said.push_str(&run(&server, sql).await.1.to_string());
    }
    said.push_str(&server.get("/v1/catalog").await);
    assert!(
        !said.contains("correct horse") && !said.contains("battery staple"),
        "{said}"
    );
    assert!(said.contains("${env:CORRECT}"), "{said}");
}

#[tokio::test]
async fn a_server_that_is_not_there_is_waited_for() {
    let Some(mut postgres) = Postgres::stopped() else {
        return;
    };
    let mut server = server(&postgres, SIMPLE);
    server.start().await;
    let (status, answer) = run(&server, &create("${env:PG_URL}", "t")).await;
    assert_eq!(status, 200, "{answer}");
    server
        .post("/v1/streams/events/events", json!([{"id": 1}, {"id": 2}]).to_string())
        .await;
    assert!(failure(&server).await.contains("error connecting to server"));
    assert_eq!(server.sql("SHOW SINKS").await[0]["state"], json!("failing"));
    postgres.run().await;
    delivered(&server).await;
    assert_eq!(postgres.value("SELECT count(*) FROM t").await.as_deref(), Some("2"));
    let sinks = server.sql("SHOW SINKS").await;
    assert_eq!(
        (&sinks[0]["state"], &sinks[0]["failure"]),
        (&json!("running"), &Value::Null)
    );
}

#[tokio::test]
async fn rows_that_the_table_refuses_are_dead_letters() {
    let Some(postgres) = Postgres::start().await else {
        return;
    };
    postgres
        .execute("CREATE TABLE t (id bigint PRIMARY KEY DEFERRABLE INITIALLY DEFERRED, t varchar(3) NOT NULL, at timestamptz CHECK (at > '2000-01-01'))")
        .await;
    let mut server = server(&postgres, SIMPLE);
    server.start().await;
    let (status, answer) = run(&server, &create("${env:PG_URL}", "t")).await;
    assert_eq!(status, 200, "{answer}");
    let mut rows: Vec<Value> = (0..1000).map(|id| json!({"id": id, "t": "ok"})).collect();
    rows[10] = json!({"id": 9, "t": "two"});
    rows[500] = json!({"id": 500, "t": "long"});
    rows[501] = json!({"id": 501});
    rows[502] = json!({"id": 502, "t": "a\u{0}"});
    rows[999] = json!({"id": 999, "t": "ok", "at": "1999-01-01T00:00:00Z"});
    server
        .post("/v1/streams/events/events", Value::Array(rows).to_string())
        .await;
    delivered(&server).await;
    assert_eq!(postgres.value("SELECT count(*) FROM t").await.as_deref(), Some("995"));
    let letters = server
        .sql("SELECT source, reason, detail, arrow_cast(payload, 'Utf8') AS payload FROM dead_letters ORDER BY detail")
        .await;
    let details: Vec<_> = letters
        .iter()
        .map(|row| row["detail"].as_str().unwrap_or_default())
        .collect();
    for (detail, expected) in details.iter().zip([
        "partition 0, offset 10: duplicate key value violates unique constraint \"t_pkey\"",
        "partition 0, offset 500: value too long for type character varying(3)",
        "partition 0, offset 501: null value in column \"t\"",
        "partition 0, offset 502: invalid byte sequence for encoding \"UTF8\": 0x00",
        "partition 0, offset 999: new row for relation \"t\" violates check constraint",
    ]) {
        assert!(detail.starts_with(expected), "{details:?}");
    }
    assert_eq!(letters.len(), 5);
    assert_eq!(
        (&letters[1]["source"], &letters[1]["reason"]),
        (&json!("sink out"), &json!("deliver"))
    );
    assert_eq!(letters[1]["payload"], json!("{\"id\":500,\"t\":\"long\",\"at\":null}"));
    assert_eq!(server.sql("SHOW SINKS").await[0]["rows"], json!(995));
}

#[tokio::test]
async fn encryption_is_as_the_url_says() {
    let Some(postgres) = Postgres::stopped() else { return };
    let mut postgres = postgres.with_tls();
    postgres.run().await;
    let mut server = server(&postgres, SIMPLE);
    server.start().await;
    for (mode, refusal) in [
        ("disable", None),
        ("require", None),
        ("verify-full", Some("certificate")),
        ("verify-ca", Some("certificate")),
    ] {
        let url = format!("{}?sslmode={mode}", postgres.url());
        assert_eq!(run(&server, &create(&url, "t")).await.0, 200);
        server
            .post("/v1/streams/events/events", json!({"id": 1}).to_string())
            .await;
        match refusal {
            Some(part) => {
                let why = failure(&server).await;
                assert!(why.contains(part), "{mode}: {why}");
            }
            None => {
                delivered(&server).await;
                let is_encrypted = "SELECT ssl FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE application_name LIKE 'headwater %'";
                assert_eq!(
                    postgres.value(is_encrypted).await,
                    Some((mode != "disable").to_string()),
                    "{mode}"
                );
            }
        }
        server.sql("DROP SINK out").await;
    }
}
