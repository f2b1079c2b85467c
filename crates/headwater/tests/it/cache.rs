//! Rows of a table in PostgreSQL that are kept in Redis, with both of them real: what is answered from where, what is refused, and that nobody is
//! ever answered with what is outdated, whoever is killed or hangs.

mod race;

use std::time::{Duration, Instant};

use headwater_test_servers::postgres::Postgres;
use headwater_test_servers::redis::Redis;
use serde_json::{Value, json};

use crate::grpc::{python, text};
use crate::postgres::there;
use crate::server::Server;
use crate::sinks::delivered;

const PATIENCE: Duration = Duration::from_secs(120);

const SQL: &str = "
CREATE STREAM clicks (user_id TEXT NOT NULL, page_url TEXT NOT NULL, n BIGINT NOT NULL) WITH (partitions = 1);
CREATE MATERIALIZED VIEW counts AS
SELECT user_id, page_url, count(*) AS clicks, max(n) AS newest FROM clicks GROUP BY user_id, page_url HAVING max(n) < 1000000;
CREATE SINK warehouse FROM counts WITH (
  connector = 'postgres', url = '${env:PG_URL}', table = 'counts', cache.url = '${env:REDIS_URL}', cache.key = '{user_id}__+__{page_url}'
);
CREATE TABLE kept (
  user_id TEXT NOT NULL, page_url TEXT NOT NULL, clicks BIGINT, newest BIGINT, PRIMARY KEY (user_id, page_url)
) WITH (
  connector = 'postgres', url = '${env:PG_URL}', table = 'counts', http.path = '/counts',
  cache.url = '${env:REDIS_URL}', cache.key = '{user_id}__+__{page_url}', cache.ttl = '1 hour'
);
";

fn server(postgres: &Postgres, redis: &Redis, sql: &str) -> Server {
    Server::new(sql)
        .with_variable("PG_URL", &postgres.url())
        .with_variable("REDIS_URL", &redis.url())
}

fn click(user: &str, page: &str, n: u64) -> Value {
    json!({"user_id": user, "page_url": page, "n": n})
}

async fn send(server: &Server, events: Value) {
    let (status, answer) = server.post("/v1/streams/clicks/events", events.to_string()).await;
    assert_eq!(status, 200, "{answer}");
    delivered(server).await;
}

async fn get(server: &Server, path: &str) -> (u16, Value) {
    let answer = reqwest::get(format!("{}{path}", server.url()))
        .await
        .expect("an answer");
    let status = answer.status().as_u16();
    (status, answer.json().await.expect("JSON"))
}

/// A value of `/metrics`, of all labels together.
async fn metric(server: &Server, name: &str) -> u64 {
    let metrics = server.get("/metrics").await;
    let values = metrics.lines().filter(|line| line.starts_with(name));
    let values = values.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok());
    values.sum::<f64>() as u64
}

#[tokio::test]
async fn a_row_is_answered_from_redis_the_second_time() {
    let (Some(postgres), Some(redis)) = (Postgres::start().await, Redis::start().await) else {
        return;
    };
    let mut server = server(&postgres, &redis, SQL);
    server.start().await;
    let there_is = async |key: &str| redis.ask::<Option<String>>(&format!("GET {key}")).await;
    send(
        &server,
        json!([click("u1", "/a", 1), click("u1", "/a", 2), click("u2", "/a", 3)]),
    )
    .await;
    let counted =
        |clicks: u64, newest: u64| json!({"user_id": "u1", "page_url": "/a", "clicks": clicks, "newest": newest});
    assert_eq!(there_is("u1__+__/a").await, None);
    assert_eq!(
        get(&server, "/counts?user_id=u1&page_url=/a").await,
        (200, counted(2, 2))
    );
    let kept = r#"{"user_id":"u1","page_url":"/a","clicks":2,"newest":2}"#;
    assert_eq!(there_is("u1__+__/a").await.as_deref(), Some(kept));
    let left: i64 = redis.ask("PTTL u1__+__/a").await;
    assert!((3_590_000..=3_600_000).contains(&left), "{left}");
    assert_eq!(there_is("u2__+__/a").await, None, "nobody has asked for it");

    // What nobody was told of is not seen: the answer is from Redis, at all addresses, in all forms.
    postgres
        .execute("UPDATE counts SET clicks = 99 WHERE user_id = 'u1'")
        .await;
    for address in ["/counts", "/v1/tables/kept"] {
        let path = format!("{address}?page_url=%2Fa&user_id=u1");
        assert_eq!(get(&server, &path).await, (200, counted(2, 2)), "{address}");
    }
    let csv = reqwest::Client::new().get(format!("{}/counts?user_id=u1&page_url=/a", server.url()));
    let csv = csv.header("accept", "text/csv").send().await.expect("an answer");
    assert_eq!(
        csv.text().await.expect("a text"),
        "user_id,page_url,clicks,newest\r\nu1,/a,2,2\r\n"
    );
    assert!(metric(&server, "headwater_lookup_cached_keys_total").await >= 3);
    if there("python3", &["-c", "import grpc_reflection, grpc_status"]) {
        let script = r#"
Lookup, lookup = method("headwater.v1.Query", "Lookup")
row = lookup(Lookup(view="kept", key={"user_id": {"text": "u1"}, "page_url": {"text": "/a"}})).row
assert row["clicks"].integer == 2, row
error = refused(lambda: lookup(Lookup(view="kept", key={"user_id": {"text": "u1"}})))
assert "the key of 'kept' is user_id, page_url: there is no value for page_url" in error.details(), error
print("grpcio is content")
"#;
        let output = python(&server, script);
        assert!(text(&output).contains("grpcio is content"), "{}", text(&output));
    }
    // A server in front asks this one.
    let mut front = Server::new("").with(&format!("query.upstream=grpc://127.0.0.1:{}", server.grpc_port));
    front.start().await;
    for address in ["/counts", "/v1/tables/kept"] {
        let path = format!("{address}?user_id=u1&page_url=/a");
        assert_eq!(get(&front, &path).await, (200, counted(2, 2)), "{address}");
    }
    assert_eq!(get(&front, "/counts?user_id=u9&page_url=/a").await.0, 404);

    // The writer takes it out; the next who asks puts the new one there.
    send(&server, click("u1", "/a", 7)).await;
    assert_eq!(there_is("u1__+__/a").await, None);
    assert_eq!(
        get(&server, "/counts?user_id=u1&page_url=/a").await,
        (200, counted(3, 7))
    );
    assert!(
        there_is("u1__+__/a")
            .await
            .is_some_and(|row| row.contains("\"clicks\":3"))
    );
    // A row that goes is gone.
    send(&server, click("u1", "/a", 1_000_000)).await;
    assert_eq!(get(&server, "/counts?user_id=u1&page_url=/a").await.0, 404);
    assert!(
        there_is("u1__+__/a")
            .await
            .is_none_or(|kept| kept.starts_with("reading:"))
    );

    for (query, status, part) in [
        (
            "user_id=u1",
            400,
            "a row of 'kept', which is kept elsewhere, is asked for by its key: user_id, page_url",
        ),
        ("user_id=u1&page_url=/a&clicks=2", 400, "asked for by its key"),
        ("user_id=u1&page_url=/a&limit=1", 400, "asked for by its key"),
        ("user_id=u1&page_ulr=/a", 400, "did you mean 'page_url'?"),
        ("user_id=u3&page_url=/a", 404, "'kept' has no row with this key"),
    ] {
        let (found, answer) = get(&server, &format!("/counts?{query}")).await;
        assert!(
            found == status && answer.to_string().contains(part),
            "{query}: {found} {answer}"
        );
    }
    let sent = reqwest::Client::new().post(format!("{}/v1/streams/clicks/events", server.url()));
    let sent = sent
        .body(click("u5", "/a", 1).to_string())
        .header("content-type", "application/json");
    let sent = sent.send().await.expect("an answer");
    let offset = sent.headers()["headwater-offset"].to_str().expect("a text").to_owned();
    let (status, answer) = get(&server, &format!("/counts?user_id=u1&page_url=/a&min_offset={offset}")).await;
    assert!(
        status == 400 && answer.to_string().contains("is written elsewhere"),
        "{answer}"
    );
    assert_eq!(server.post("/counts", "{}").await.0, 405);
    let catalog: Value = serde_json::from_str(&server.get("/v1/catalog").await).expect("JSON");
    assert_eq!(catalog["tables"][0]["http_path"], json!("/counts"));
    let (_, answer) = get(&server, "/v1/views/kept").await;
    assert!(
        answer["hint"]
            .as_str()
            .is_some_and(|hint| hint.contains("/v1/tables/kept")),
        "{answer}"
    );
}

#[tokio::test]
async fn what_is_not_the_row_is_not_taken_for_it() {
    let (Some(postgres), Some(redis)) = (Postgres::start().await, Redis::start().await) else {
        return;
    };
    let mut server = server(&postgres, &redis, SQL);
    server.start().await;
    // Two rows with one name.
    let (first, second) = (("a__+__b", "c"), ("a", "b__+__c"));
    send(
        &server,
        json!([
            click(first.0, first.1, 1),
            click(second.0, second.1, 2),
            click(second.0, second.1, 3)
        ]),
    )
    .await;
    for _ in 0..3 {
        for ((user, page), clicks) in [(first, 1), (second, 2)] {
            let (status, row) = get(
                &server,
                &format!(
                    "/counts?user_id={}&page_url={}",
                    user.replace('+', "%2B"),
                    page.replace('+', "%2B")
                ),
            )
            .await;
            assert_eq!((status, &row["clicks"]), (200, &json!(clicks)), "{user} {page}: {row}");
        }
    }
    // What others keep there.
    let _: () = redis.ask("HSET u1__+__/hash clicks 7").await;
    for (page, value) in [
        ("/word", "word"),
        ("/half", r#"{"user_id":"u1","page_url":"/half"}"#),
        (
            "/more",
            r#"{"user_id":"u1","page_url":"/more","clicks":7,"newest":1,"x":1}"#,
        ),
        (
            "/several",
            r#"[{"user_id":"u1","page_url":"/several","clicks":7,"newest":1}]"#,
        ),
        ("/other", r#"{"user_id":"u1","page_url":"/word","clicks":7,"newest":1}"#),
    ] {
        let _: () = redis.ask(&format!("SET u1__+__{page} {value}")).await;
    }
    let pages = ["/hash", "/word", "/half", "/more", "/several", "/other"];
    // Not by the sink, which would take them out.
    for page in pages {
        postgres
            .execute(&format!("INSERT INTO counts VALUES ('u1', '{page}', 1, 5)"))
            .await;
    }
    for page in pages {
        for _ in 0..2 {
            let (status, row) = get(&server, &format!("/counts?user_id=u1&page_url={page}")).await;
            let expected = json!({"user_id": "u1", "page_url": page, "clicks": 1, "newest": 5});
            assert_eq!((status, row), (200, expected), "{page}");
        }
    }
    let kind: String = redis.ask("TYPE u1__+__/hash").await;
    assert_eq!(kind, "hash", "what is others' is left as it is");
    assert!(!server.log().contains("WRONGTYPE"), "{}", server.log());
}

#[tokio::test]
async fn every_type_and_joins_go_through_redis() {
    let (Some(postgres), Some(redis)) = (Postgres::start().await, Redis::start().await) else {
        return;
    };
    postgres
        .execute(
            "CREATE TABLE every (id bigint PRIMARY KEY, t text, b boolean, s smallint, r real, d double precision, n numeric(12, 3), day date,
               clock time, at timestamp, tz timestamptz, bytes bytea, j jsonb);
             INSERT INTO every VALUES (1, E'a\\tb\"c', true, -7, 1.5, -2.25e10, -123456789.125, '1969-12-31', '23:59:59.5',
               '2026-03-01T12:00:00.000001', '2026-03-01T12:00:00+02', '\\x00ff', '{\"k\": [1, 2]}');
             INSERT INTO every (id, t, r) VALUES (2, NULL, NULL), (3, 'x', 'Infinity')",
        )
        .await;
    let sql = "CREATE STREAM events (n BIGINT NOT NULL, id BIGINT) WITH (partitions = 1);
        CREATE TABLE every (id BIGINT PRIMARY KEY, t TEXT, b BOOLEAN, s SMALLINT, r REAL, d DOUBLE, n DECIMAL(12, 3), day DATE, clock TIME,
          at TIMESTAMP, tz TIMESTAMPTZ, bytes BYTEA, j JSON)
        WITH (connector = 'postgres', url = '${env:PG_URL}', table = 'every', cache.url = '${env:REDIS_URL}', cache.key = 'every:{id}');
        CREATE STREAM met AS SELECT e.n, x.t, x.n AS decimal, x.at FROM events e LEFT JOIN every FOR SYSTEM_TIME AS OF now() AS x ON x.id = e.id;";
    let mut server = server(&postgres, &redis, sql);
    server.start().await;
    for id in [1, 2, 3] {
        let (status, row) = get(&server, &format!("/v1/tables/every?id={id}")).await;
        assert_eq!((status, &row["id"]), (200, &json!(id)), "{row}");
        assert_eq!(
            get(&server, &format!("/v1/tables/every?id={id}")).await,
            (200, row),
            "the same again"
        );
    }
    let kept: Option<String> = redis.ask("GET every:1").await;
    assert!(kept.is_some_and(|row| row.contains("-123456789.125")));
    let infinite: Option<String> = redis.ask("GET every:3").await;
    assert!(
        infinite.is_none_or(|kept| kept.starts_with("reading:")),
        "infinity is no JSON"
    );
    assert!(metric(&server, "headwater_lookup_cached_keys_total").await >= 2);
    let before = metric(&server, "headwater_lookup_asked_keys_total").await;

    // Events meet the rows that are there, and those that are not.
    let events: Vec<Value> = (0..40_u64).map(|n| json!({"n": n, "id": n % 4})).collect();
    let (status, answer) = server
        .post("/v1/streams/events/events", Value::Array(events).to_string())
        .await;
    assert_eq!(status, 200, "{answer}");
    server.caught_up().await;
    let met = server.sql("SELECT t, CAST(decimal AS TEXT) AS decimal, at, count(*) AS n FROM met GROUP BY t, decimal, at ORDER BY t NULLS LAST").await;
    assert_eq!(
        met,
        [
            json!({"t": "a\tb\"c", "decimal": "-123456789.125", "at": "2026-03-01T12:00:00.000001Z", "n": 10}),
            json!({"t": "x", "decimal": null, "at": null, "n": 10}),
            json!({"t": null, "decimal": null, "at": null, "n": 20}),
        ]
    );
    let asked = metric(&server, "headwater_lookup_asked_keys_total").await - before;
    assert!(
        asked > 0 && metric(&server, "headwater_lookup_cached_keys_total").await >= 4,
        "{asked}"
    );
}

#[tokio::test]
async fn what_can_not_work_is_refused() {
    let (Some(postgres), Some(redis)) = (Postgres::start().await, Redis::start().await) else {
        return;
    };
    let mut server = server(&postgres, &redis, SQL);
    server.start().await;
    postgres
        .execute("CREATE TABLE priced (price numeric(10, 2) PRIMARY KEY)")
        .await;
    let table = |more: &str| {
        format!(
            "CREATE TABLE t (user_id TEXT, page_url TEXT, PRIMARY KEY (user_id, page_url)) \
             WITH (connector = 'postgres', url = '${{env:PG_URL}}', table = 'counts'{more})"
        )
    };
    let sink = |of: &str, more: &str| {
        format!("CREATE SINK s FROM {of} WITH (connector = 'postgres', url = '${{env:PG_URL}}', table = 'other'{more})")
    };
    let at = ", cache.url = '${env:REDIS_URL}'";
    let key = ", cache.key = '{user_id}__+__{page_url}'";
    for (sql, part) in [
        (table(at), "cache.url needs a cache.key"),
        (table(key), "there is no cache.url"),
        (table(&format!("{at}, cache.key = '{{user_id}}'")), "rows are named by page_url, which is not in cache.key"),
        (table(&format!("{at}, cache.key = '{{user_id}}{{page_ulr}}'")), "did you mean page_url?"),
        (table(&format!("{at}, cache.key = '{{user_id'")), "a brace without its other half"),
        (table(&format!("{at}{key}, cache.rows = 10")), "cache.rows is for rows that each process remembers"),
        (table(&format!("{at}{key}, cache.ttl = '0 s'")), "the option cache.ttl is a span of time"),
        (table(&format!("{at}, cache.kye = 'x'")), "cache.url needs a cache.key"),
        (table(&format!("{key}, cache.url = 'redis://:hunter2@localhost'")), "a password doesn't belong into a statement"),
        (table(&format!("{key}, cache.url = 'http://localhost'")), "the option cache.url begins with redis:// or rediss://"),
        (table(", http.path = '/counts'"), "the path /counts is taken by the table kept"),
        (table(", http.path = 'counts'"), "a path like '/ingest'"),
        (
            "CREATE TABLE t (price DECIMAL(10, 2) PRIMARY KEY) WITH (connector = 'postgres', url = '${env:PG_URL}', table = 'priced', \
             cache.url = '${env:REDIS_URL}', cache.key = '{price}')"
                .to_owned(),
            "of which the cache can't make keys",
        ),
        (sink("clicks", &format!("{at}{key}")), "there have to be columns that name the rows"),
        (sink("counts", at), "cache.url needs a cache.key"),
        (sink("counts", &format!("{at}{key}, cache.ttl = '1 s'")), "said by the table"),
        (sink("counts", &format!("{at}, cache.key = '{{user_id}}{{page_url}}{{clicks}}'")), "'clicks' is none of the columns that name a row"),
        (sink("counts", &format!("{key}, cache.url = '${{env:NOTHING_THERE}}'")), "the cache.url: the environment variable NOTHING_THERE is not set"),
    ] {
        let (status, answer) = server.post("/v1/sql", json!({"sql": sql}).to_string()).await;
        let said = answer.to_string();
        assert!(status == 400 && said.contains(part), "{sql}: {status} {said}");
        assert_eq!(answer["errors"][0]["line"], json!(1), "{sql}: {said}");
    }
    // A Redis that wants a password, and says so.
    let _: () = redis.ask("CONFIG SET requirepass correct-horse").await;
    let (status, answer) = server
        .post("/v1/sql", json!({"sql": table(&format!("{at}{key}"))}).to_string())
        .await;
    assert!(status == 400 && answer.to_string().contains("Redis: "), "{answer}");
}

/// What there is for a key, as soon as it is like this.
async fn until(redis: &Redis, key: &str, is_so: impl Fn(Option<&str>) -> bool) {
    let started = Instant::now();
    loop {
        let there: Option<String> = redis.ask(&format!("GET {key}")).await;
        if is_so(there.as_deref()) {
            return;
        }
        assert!(started.elapsed() < PATIENCE, "{key}: {there:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Stored, and not waited for.
async fn store(server: &Server, event: &Value) {
    let (status, answer) = server.post("/v1/streams/clicks/events", event.to_string()).await;
    assert_eq!(status, 200, "{answer}");
}

#[tokio::test]
async fn a_writer_that_dies_in_its_commit_leaves_nothing_outdated() {
    let (Some(postgres), Some(redis)) = (Postgres::start().await, Redis::start().await) else {
        return;
    };
    let mut server = server(&postgres, &redis, SQL);
    server.start().await;
    let clicks = async || get(&server, "/counts?user_id=u1&page_url=/a").await.1["clicks"].clone();
    send(&server, click("u1", "/a", 1)).await;
    assert_eq!(clicks().await, json!(1));
    until(&redis, "u1__+__/a", |there| {
        there.is_some_and(|row| row.starts_with('{'))
    })
    .await;
    // Commits wait for a replica that there isn't.
    let replica = async |name: &str| {
        postgres
            .execute(&format!("ALTER SYSTEM SET synchronous_standby_names = '{name}'"))
            .await;
        postgres.query("SELECT pg_reload_conf()").await;
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    replica("nobody").await;
    store(&server, &click("u1", "/a", 2)).await;
    until(&redis, "u1__+__/a", |there| there == Some("writing")).await;
    for _ in 0..3 {
        assert_eq!(clicks().await, json!(1), "it is not committed yet");
    }
    let there: Option<String> = redis.ask("GET u1__+__/a").await;
    assert_eq!(there.as_deref(), Some("writing"), "nobody puts the old row there");
    server.kill();
    replica("").await;
    let started = Instant::now();
    while postgres.value("SELECT clicks FROM counts").await.as_deref() != Some("2") {
        assert!(started.elapsed() < PATIENCE, "the commit is done without its writer");
    }
    server.start().await;
    let (_, row) = get(&server, "/counts?user_id=u1&page_url=/a").await;
    assert_eq!(row["clicks"], json!(2));
}

#[tokio::test]
async fn a_reader_that_is_slow_puts_no_old_row_there() {
    let (Some(postgres), Some(redis)) = (Postgres::start().await, Redis::start().await) else {
        return;
    };
    // Whoever reads as `reader` holds a row that it has seen for two seconds, if that is wanted.
    postgres
        .execute(
            "CREATE TABLE counts (user_id text, page_url text, clicks bigint, newest bigint, PRIMARY KEY (user_id, page_url));
             CREATE TABLE slowly (is_wanted boolean);
             CREATE FUNCTION slow() RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER AS $$
               BEGIN IF EXISTS (SELECT FROM slowly) THEN PERFORM pg_sleep(2); END IF; RETURN true; END $$;
             CREATE ROLE reader LOGIN PASSWORD 'r'; GRANT SELECT ON counts TO reader;
             ALTER TABLE counts ENABLE ROW LEVEL SECURITY;
             CREATE POLICY slowed ON counts FOR SELECT TO reader USING (slow())",
        )
        .await;
    let (sink, table) = SQL.split_once("CREATE TABLE").expect("a table");
    let sql = format!("{sink} CREATE TABLE {}", table.replace("env:PG_URL", "env:READER_URL"));
    let reader = format!("postgres://reader:r@127.0.0.1:{}/postgres", postgres.port);
    let mut server = server(&postgres, &redis, &sql).with_variable("READER_URL", &reader);
    server.start().await;
    send(&server, click("u1", "/a", 1)).await;
    postgres.execute("INSERT INTO slowly VALUES (true)").await;
    let path = "/counts?user_id=u1&page_url=/a";
    let slow = async {
        let (_, row) = get(&server, path).await;
        row["clicks"].clone()
    };
    let meanwhile = async {
        until(&redis, "u1__+__/a", |there| {
            there.is_some_and(|word| word.starts_with("reading:"))
        })
        .await;
        // By then it reads.
        tokio::time::sleep(Duration::from_millis(500)).await;
        store(&server, &click("u1", "/a", 2)).await;
        until(&redis, "u1__+__/a", |there| there.is_none()).await;
        postgres.execute("DELETE FROM slowly").await;
        postgres.value("SELECT clicks FROM counts").await
    };
    let (answered, committed) = tokio::join!(slow, meanwhile);
    assert_eq!(committed.as_deref(), Some("2"));
    assert_eq!(answered, json!(1), "it had read the row before");
    let there: Option<String> = redis.ask("GET u1__+__/a").await;
    assert_eq!(there, None, "and has not put it there");
    assert_eq!(get(&server, path).await.1["clicks"], json!(2));
}
