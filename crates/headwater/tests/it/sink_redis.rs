//! Rows in a real Redis, each there once, whoever is killed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures::StreamExt;
use headwater_test_servers::redis::Redis;
use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};
use serde_json::{Value, json};

use crate::crash::Load;
use crate::server::Server;
use crate::sinks::delivered;

const PATIENCE: Duration = Duration::from_secs(120);
const ROUNDS: u64 = 8;
const SEED: u64 = 1;

const SQL: &str = "
CREATE STREAM clicks (id BIGINT NOT NULL, user_id TEXT, page_url TEXT, price INT, at TIMESTAMP) PARTITION BY (user_id);
CREATE MATERIALIZED VIEW counts AS
SELECT user_id, page_url, count(*) AS clicks, max(price) AS dearest FROM clicks GROUP BY user_id, page_url HAVING sum(id) < 100;
CREATE SINK cache FROM counts WITH (connector = 'redis', url = '${env:REDIS_URL}', mode = 'json', key = '{user_id}__+__{page_url}', ttl = '1 hour');
CREATE SINK hashes FROM counts WITH (connector = 'redis', url = '${env:REDIS_URL}', mode = 'hash', key = 'h:{user_id}:{page_url}');
CREATE SINK entries FROM clicks WITH (connector = 'redis', url = '${env:REDIS_URL}', mode = 'stream', key = 'clicks', length_max = 10000);
CREATE SINK messages FROM clicks WITH (connector = 'redis', url = '${env:REDIS_URL}', mode = 'publish', key = 'of:{user_id}');
CREATE SINK per_page FROM clicks WITH (connector = 'redis', url = '${env:REDIS_URL}', mode = 'counter', key = 'n:{page_url}');
CREATE SINK turnover FROM clicks WITH (connector = 'redis', url = '${env:REDIS_URL}', mode = 'counter', key = 'turnover', value = 'price');
CREATE SINK users FROM counts WITH (connector = 'redis', url = '${env:REDIS_URL}', mode = 'counter', key = 'users');
";

#[tokio::test]
async fn rows_are_keys_hashes_entries_messages_and_counters() {
    let Some(redis) = Redis::start().await else { return };
    let mut server = Server::new(SQL).with_variable("REDIS_URL", &redis.url());
    server.start().await;
    let client = redis::Client::open(redis.url()).expect("a URL");
    let mut listener = client.get_async_pubsub().await.expect("it listens");
    listener.subscribe("of:u1").await.expect("it listens");
    let _: () = redis.ask("SET n:/odd word").await;
    let _: () = redis.ask("LPUSH h:u2:/b word").await;
    let click = |id: u32, user: &str, page: &str, price: Option<u32>| json!({"id": id, "user_id": user, "page_url": page, "price": price});
    let wave = json!([
        click(1, "u1", "/a", Some(5)),
        click(2, "u1", "/a", None),
        click(3, "u2", "/b", None),
        click(4, "u2", "/odd", Some(2)),
        {"id": 5, "page_url": "/a"},
    ]);
    let (status, answer) = server.post("/v1/streams/clicks/events", wave.to_string()).await;
    assert_eq!(status, 200, "{answer}");
    delivered(&server).await;
    let cached = async |key: &str| -> Option<Value> {
        let text: Option<String> = redis.ask(&format!("GET {key}")).await;
        text.map(|text| serde_json::from_str(&text).expect("JSON"))
    };
    assert_eq!(
        cached("u1__+__/a").await,
        Some(json!({"user_id": "u1", "page_url": "/a", "clicks": 2, "dearest": 5}))
    );
    let left: i64 = redis.ask("PTTL u1__+__/a").await;
    assert!((1..=3_600_000).contains(&left), "{left}");
    let hash: BTreeMap<String, String> = redis.ask("HGETALL h:u1:/a").await;
    let expected = [("user_id", "u1"), ("page_url", "/a"), ("clicks", "2"), ("dearest", "5")];
    assert_eq!(
        hash,
        expected.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
    );
    assert_eq!(redis.ask::<u64>("XLEN clicks").await, 5);
    let first: redis::Value = redis.ask("XRANGE clicks - + COUNT 1").await;
    assert!(format!("{first:?}").contains("page_url"), "{first:?}");
    assert_eq!(redis.ask::<i64>("GET n:/a").await, 3);
    assert_eq!(redis.ask::<i64>("GET turnover").await, 7);
    // The view has three rows with a user, and one without, which is a row all the same.
    assert_eq!(redis.ask::<i64>("GET users").await, 4);
    let message = tokio::time::timeout(PATIENCE, listener.on_message().next())
        .await
        .expect("a message");
    let message: String = message.expect("a message").get_payload().expect("a text");
    assert!(message.starts_with("{\"id\":1,\"user_id\":\"u1\""), "{message}");

    let letters = server.sql("SELECT source, detail FROM dead_letters").await;
    let said = letters.iter().map(|row| {
        let (source, detail) = (
            row["source"].as_str().unwrap_or_default(),
            row["detail"].as_str().unwrap_or_default(),
        );
        (source, detail.rsplit_once(": ").unwrap_or_default().1)
    });
    let mut said: Vec<_> = said.collect();
    said.sort_unstable();
    let is_null = "user_id is NULL, and the key is made of it";
    assert_eq!(
        said,
        [
            ("sink cache", is_null),
            ("sink hashes", "the key h:u2:/b holds a list, and no hash"),
            ("sink hashes", is_null),
            ("sink messages", is_null),
            ("sink per_page", "the key n:/odd holds no whole number"),
        ]
    );

    // The view's row goes, and its keys with it.
    server
        .post("/v1/streams/clicks/events", click(200, "u1", "/a", None).to_string())
        .await;
    delivered(&server).await;
    assert_eq!(cached("u1__+__/a").await, None);
    assert_eq!(redis.ask::<u64>("EXISTS h:u1:/a").await, 0);
    assert_eq!(redis.ask::<i64>("GET users").await, 3);

    let described = server.sql("DESCRIBE cache").await;
    let delivery = described.iter().find(|row| row["option"] == json!("delivery"));
    assert!(
        delivery.is_some_and(|row| row["value"]
            .as_str()
            .is_some_and(|text| text.starts_with("exactly once"))),
        "{described:?}"
    );
    assert_eq!(redis.ask::<Vec<String>>("KEYS headwater:delivery:*").await.len(), 7);
    server.sql("DROP SINK cache").await;
    let started = Instant::now();
    while redis.ask::<Vec<String>>("KEYS headwater:delivery:*").await.len() != 6 {
        assert!(started.elapsed() < PATIENCE, "{}", server.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

const EVENTS: &str = "
CREATE STREAM events (id TEXT NOT NULL, key TEXT NOT NULL, n BIGINT NOT NULL, at TIMESTAMP NOT NULL)
PARTITION BY (key) WITH (partitions = 2, idempotency_key = 'id');
CREATE MATERIALIZED VIEW per_key AS SELECT key, count(*) AS events, sum(n) AS total FROM events GROUP BY key;
CREATE SINK counter FROM events WITH (connector = 'redis', url = '${env:REDIS_URL}', mode = 'counter', key = 'n:{key}');
CREATE SINK entries FROM events WITH (connector = 'redis', url = '${env:REDIS_URL}', mode = 'stream', key = 'events');
CREATE SINK rows_out FROM per_key WITH (connector = 'redis', url = '${env:REDIS_URL}', mode = 'json', key = 'row:{key}');
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_is_killed_every_event_is_counted_once() {
    let Some(mut redis) = Redis::start().await else { return };
    let from_env = |name: &str| std::env::var(name).ok().map(|value| value.parse().expect("a number"));
    let rounds = from_env("HEADWATER_CRASH_ROUNDS").unwrap_or(ROUNDS);
    let seed = from_env("HEADWATER_CRASH_SEED").unwrap_or(SEED);
    println!("crash test of the Redis sink: {rounds} rounds, HEADWATER_CRASH_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut server = Server::new(EVENTS).with_variable("REDIS_URL", &redis.url());
    server.start().await;
    let load = Arc::new(Load::new(server.url()));
    let clients = tokio::spawn(Arc::clone(&load).run(random.next_u64()));
    for round in 0..rounds {
        tokio::time::sleep(Duration::from_millis(random.random_range(50..900))).await;
        match round % 3 {
            2 => {
                redis.kill();
                tokio::time::sleep(Duration::from_millis(random.random_range(0..300))).await;
                redis.run().await;
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
    assert_eq!(redis.ask::<u64>("XLEN events").await, sent);
    for row in server.sql("SELECT * FROM per_key").await {
        let key = row["key"].as_str().expect("a key");
        assert_eq!(json!(redis.ask::<u64>(&format!("GET n:{key}")).await), row["events"]);
        let text: String = redis.ask(&format!("GET row:{key}")).await;
        assert_eq!(serde_json::from_str::<Value>(&text).expect("JSON"), row);
    }

    // What Redis has lost altogether is delivered again.
    let _: () = redis.ask("FLUSHALL").await;
    let more = json!({"id": "more", "key": "key-0", "n": 1, "at": 1_700_000_000_000_i64});
    server.post("/v1/streams/events/events", more.to_string()).await;
    let started = Instant::now();
    while redis.ask::<u64>("XLEN events").await != sent + 1 {
        assert!(started.elapsed() < PATIENCE, "{}", server.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let sinks = server.sql("SHOW SINKS").await;
    let entries = sinks
        .iter()
        .find(|sink| sink["name"] == json!("entries"))
        .expect("the sink");
    assert_eq!(entries["rows"], json!(sent + 1), "they are counted once: {sinks:?}");
}

#[tokio::test]
async fn what_can_not_work_is_refused_with_its_reason() {
    let Some(mut redis) = Redis::start().await else { return };
    let mut server = Server::new(
        "CREATE STREAM events (id BIGINT NOT NULL, t TEXT);
         CREATE MATERIALIZED VIEW v AS SELECT t, count(*) AS n FROM events GROUP BY t;",
    )
    .with_variable("REDIS_URL", &redis.url())
    .with_variable("PASSWORD", "battery staple");
    server.start().await;
    let run = async |sql: &str| server.post("/v1/sql", json!({"sql": sql}).to_string()).await;
    let create = |from: &str, options: &str| {
        format!("CREATE SINK out FROM {from} WITH (connector = 'redis', url = '${{env:REDIS_URL}}', {options})")
    };
    let host = format!("127.0.0.1:{}", redis.port);
    let at = |url: &str| create("events", "mode = 'json', key = '{id}'").replace("${env:REDIS_URL}", url);
    for (sql, expected) in [
        (
            at(&format!("redis://:hunter2@{host}")),
            "a password doesn't belong into a statement",
        ),
        (at(&format!("redis://:${{env:PASSWORD}}@{host}")), "Redis: "),
        (at("http://h"), "the option url begins with redis:// or rediss://"),
        (create("events", "key = 'x'"), "needs a mode"),
        (
            create("events", "mode = 'set', key = 'x'"),
            "the option mode is 'json' or 'hash'",
        ),
        (create("events", "mode = 'json'"), "needs a key"),
        (
            create("events", "mode = 'json', key = '{idd}'"),
            "there is no column 'idd' for the key; did you mean id?",
        ),
        (
            create("events", "mode = 'json', key = '{id'"),
            "a brace without its other half",
        ),
        (
            create("v", "mode = 'json', key = 'all'"),
            "named by t, which is not in the key",
        ),
        (
            create("events", "mode = 'stream', key = 'x', ttl = '1 hour'"),
            "has no option 'ttl'",
        ),
        (
            create("events", "mode = 'json', key = 'x', ttl = '1 us'"),
            "the option ttl is a span of time",
        ),
        (
            create("events", "mode = 'counter', key = 'x', value = 't'"),
            "t is TEXT, and a counter counts whole numbers",
        ),
    ] {
        let (status, answer) = run(&sql).await;
        assert_eq!(status, 400, "{sql}\n{answer}");
        assert!(
            answer["detail"]
                .as_str()
                .is_some_and(|detail| detail.contains(expected)),
            "{sql}\n{answer}"
        );
    }

    // One that is not there is waited for.
    redis.kill();
    assert_eq!(run(&create("events", "mode = 'json', key = '{id}'")).await.0, 200);
    server
        .post("/v1/streams/events/events", json!({"id": 7, "t": "x"}).to_string())
        .await;
    let started = Instant::now();
    while server.sql("SHOW SINKS").await[0]["state"] != json!("failing") {
        assert!(started.elapsed() < PATIENCE, "{}", server.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    redis.run().await;
    delivered(&server).await;
    assert_eq!(redis.ask::<String>("GET 7").await, "{\"id\":7,\"t\":\"x\"}");
    assert!(!server.log().contains("battery staple"));
}
