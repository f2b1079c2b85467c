//! The server on Kafka instead of its own directory: the same SQL, and the same promises.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use headwater_test_servers::kafka::{self, Kafka};
use serde_json::json;

use crate::crash::{self, Load};
use crate::postgres::there;
use crate::server::Server;

const ROUNDS: u64 = 4;

pub fn server(broker: &Kafka, prefix: &str, sql: &str) -> Server {
    Server::new(sql)
        .with("log.backend=kafka")
        .with(&format!("log.brokers={}", broker.brokers))
        .with(&format!("log.prefix={prefix}"))
}

/// `kill -9` under load, again and again; the third time the data directory is lost as well, as when the server comes up on another
/// machine.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_at_random_moments_loses_and_repeats_nothing_on_kafka() {
    let Some(broker) = tokio::task::block_in_place(kafka::shared) else {
        return;
    };
    let mut server = server(broker, "crash", crash::SQL);
    server.start().await;
    let load = Arc::new(Load::new(server.url()));
    let clients = tokio::spawn(Arc::clone(&load).run(1));
    for round in 0..ROUNDS {
        tokio::time::sleep(Duration::from_millis(500 + 700 * round)).await;
        server.kill();
        if round == 2 {
            std::fs::remove_dir_all(server.data_directory()).expect("the data directory");
        }
        server.start().await;
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
    load.stop.store(true, Ordering::Relaxed);
    let sent = clients.await.expect("the clients end");
    assert!(sent > 0, "no wave was ever acknowledged");
    crash::check(&server, sent).await;
}

/// What a user does first, on Kafka: nothing but the configuration differs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_statements_work_on_kafka() {
    let Some(broker) = tokio::task::block_in_place(kafka::shared) else {
        return;
    };
    let sql = include_str!("../../../../examples/clickstream/clickstream.sql");
    let mut server = server(broker, "first", sql);
    server.start().await;
    let click = json!({"user_id": "u1", "event_type": "click", "page_url": "/home"}).to_string();
    for _ in 0..3 {
        assert_eq!(server.post("/ingest", click.clone()).await.0, 200);
    }
    server.caught_up().await;
    let counted = server
        .sql("SELECT user_id, page_url, click_count FROM page_clicks")
        .await;
    assert_eq!(
        counted,
        [json!({"user_id": "u1", "page_url": "/home", "click_count": 3})]
    );
    let history = server.sql("SELECT count(*) AS clicks FROM clicks").await;
    assert_eq!(history, [json!({"clicks": 3})]);
}

/// A cluster that can't be reached is waited for, with a line that says so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_is_not_there_is_waited_for() {
    let nobody = headwater_test_servers::ports::free_port();
    let mut child = std::process::Command::new(crate::server::binary());
    let data = tempfile::tempdir().expect("a temporary directory");
    child
        .args([
            "serve",
            "--set",
            "log.backend=kafka",
            "--set",
            "http.listen=off",
            "--set",
            "postgres.listen=off",
            "--set",
            "grpc.listen=off",
        ])
        .arg("--set")
        .arg(format!("log.brokers=127.0.0.1:{nobody}"))
        .arg("--data")
        .arg(data.path())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::piped());
    let mut child = child.spawn().expect("the binary starts");
    let lines = std::io::BufReader::new(child.stderr.take().expect("piped"));
    let told = tokio::task::spawn_blocking(move || {
        let mut lines = std::io::BufRead::lines(lines).map_while(Result::ok);
        lines.any(|line| line.contains(&format!("127.0.0.1:{nobody}")))
            && lines.any(|line| line.contains("trying again"))
    });
    let told = tokio::time::timeout(Duration::from_secs(60), told).await;
    child.kill().expect("it is still there");
    child.wait().expect("it ends");
    assert!(told.expect("a line in time").expect("no panic"));
}

/// What another program writes comes in once, whatever happens to the server meanwhile; what can't be read goes to `dead_letters`, and
/// what was taken back doesn't come.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_brings_every_record_once() {
    let Some(broker) = tokio::task::block_in_place(kafka::shared) else {
        return;
    };
    if !there("python3", &["-c", "import confluent_kafka"]) {
        return;
    }
    let written = |from: u64, to: u64| {
        let script = format!(
            r#"
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic
if {from} == 0:
    admin = AdminClient({{"bootstrap.servers": "{0}"}})
    admin.create_topics([NewTopic("orders", 3, 1)])["orders"].result()
producer = Producer({{"bootstrap.servers": "{0}", "transactional.id": "shop"}})
producer.init_transactions()
for n in range({from}, {to}):
    if n % 100 == 0:
        producer.begin_transaction()
        producer.produce("orders", key="x", value='{{"id": -1, "shop": "taken back"}}')
        producer.flush()
        producer.abort_transaction()
        producer.begin_transaction()
    producer.produce("orders", key=str(n), value='{{"id": %d,\n "shop": "s%d"}}' % (n, n % 7))
    if n % 500 == 7:
        producer.produce("orders", key="bad", value="no JSON")
        producer.produce("orders", key="gone", value=None)
    if n % 100 == 99:
        producer.commit_transaction()
"#,
            broker.brokers
        );
        let output = std::process::Command::new("python3").args(["-c", &script]).output();
        let output = output.expect("python runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    written(0, 1000);
    let sql = format!(
        "CREATE STREAM orders (id BIGINT NOT NULL, shop TEXT NOT NULL);
         CREATE MATERIALIZED VIEW shops AS SELECT shop, count(*) AS orders FROM orders GROUP BY shop;
         CREATE SOURCE shop INTO orders WITH (connector = 'kafka', brokers = '{}', topic = 'orders') FORMAT PLAIN ENCODE JSON;",
        broker.brokers
    );
    let mut server = Server::new(&sql);
    for round in 1..3 {
        server.start().await;
        tokio::task::block_in_place(|| written(round * 1000, round * 1000 + 1000));
        server.kill();
    }
    server.start().await;
    let expected = [json!({"orders": 3000, "ids": 3000, "least": 0})];
    let counted = "SELECT count(*) AS orders, count(DISTINCT id) AS ids, min(id) AS least FROM orders";
    let begun = std::time::Instant::now();
    while server.sql(counted).await != expected {
        assert!(
            begun.elapsed() < Duration::from_secs(60),
            "{:?}",
            server.sql(counted).await
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    server.caught_up().await;
    let in_view = server.sql("SELECT sum(orders) AS orders FROM shops").await;
    assert_eq!(in_view, [json!({"orders": 3000})]);
    let letters = server
        .sql("SELECT count(*) AS n FROM dead_letters WHERE detail LIKE 'partition %'")
        .await;
    assert_eq!(letters, [json!({"n": 12})]);
}

/// Rows of a stream and of a view go out once each, whatever happens to the server: another program that reads what is committed sees every row of the
/// stream once, and of the view the newest row under each key.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sink_writes_every_row_once() {
    let Some(broker) = tokio::task::block_in_place(kafka::shared) else {
        return;
    };
    if !there("python3", &["-c", "import confluent_kafka"]) {
        return;
    }
    python(&format!(
        r#"
from confluent_kafka.admin import AdminClient, NewTopic
admin = AdminClient({{"bootstrap.servers": "{0}"}})
for topic in admin.create_topics([NewTopic("out", 3, 1), NewTopic("shops", 1, 1, config={{"cleanup.policy": "compact"}})]).values():
    topic.result()
"#,
        broker.brokers
    ));
    let sql = format!(
        "CREATE STREAM orders (id BIGINT NOT NULL, shop TEXT NOT NULL) WITH (partitions = 2, idempotency_key = 'id');
         CREATE MATERIALIZED VIEW shops AS SELECT shop, count(*) AS orders FROM orders GROUP BY shop HAVING count(*) < 400;
         CREATE SINK out FROM orders WITH (connector = 'kafka', brokers = '{0}', topic = 'out', key = 'id');
         CREATE SINK shops_out FROM shops WITH (connector = 'kafka', brokers = '{0}', topic = 'shops');",
        broker.brokers
    );
    let mut server = Server::new(&sql);
    server.start().await;
    for round in 0..6_u64 {
        let order =
            |id: u64| json!({"id": id, "shop": format!("shop {}", if id.is_multiple_of(2) { 0 } else { id % 7 })});
        let orders: Vec<_> = (round * 200..round * 200 + 200).map(order).collect();
        let body = json!(orders).to_string();
        assert_eq!(server.post("/v1/streams/orders/events", body).await.0, 200);
        if round % 2 == 1 {
            tokio::time::sleep(Duration::from_millis(round * 60)).await;
            server.kill();
            server.start().await;
        }
    }
    server.caught_up().await;
    let shops = server.sql("SELECT shop, orders FROM shops ORDER BY shop").await;
    assert_eq!(
        shops.len(),
        7 - 1,
        "the shop that has most has left the view: {shops:?}"
    );
    let read = format!(
        r#"
import json, time
from confluent_kafka import Consumer, TopicPartition
def read(topic, partitions):
    consumer = Consumer({{"bootstrap.servers": "{0}", "group.id": "reader", "isolation.level": "read_committed", "enable.auto.commit": False}})
    consumer.assign([TopicPartition(topic, p, 0) for p in range(partitions)])
    records, quiet = [], time.time()
    while time.time() - quiet < 3:
        record = consumer.poll(0.2)
        if record is not None and record.error() is None:
            records.append((record.key(), record.value()))
            quiet = time.time()
    consumer.close()
    return records
deadline = time.time() + 60
while True:
    out = read("out", 3)
    if len(out) >= 1200 or time.time() > deadline:
        break
assert sorted(int(key) for key, _ in out) == list(range(1200)), len(out)
assert all(json.loads(value)["id"] == int(key) for key, value in out)
latest = dict()
for key, value in read("shops", 1):
    latest[key.decode()] = value
shops = sorted((json.loads(value) for value in latest.values() if value is not None), key=lambda row: row["shop"])
assert latest["shop 0"] is None, latest["shop 0"]
print(json.dumps(shops))
"#,
        broker.brokers
    );
    let told = tokio::task::block_in_place(|| python(&read));
    let told: serde_json::Value = serde_json::from_str(told.trim()).expect("JSON");
    assert_eq!(told, json!(shops));
}

/// Runs a script; what it printed.
pub fn python(script: &str) -> String {
    let output = std::process::Command::new("python3").args(["-c", script]).output();
    let output = output.expect("python runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}
