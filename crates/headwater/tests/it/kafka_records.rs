//! Streams whose topics on Kafka other programs read and write: what they write is counted, what we write they read as they expect, and what can't be
//! read is a dead letter, once.

use std::time::{Duration, Instant};

use headwater_test_servers::kafka::{self, Kafka};
use serde_json::{Value, json};

use crate::kafka::{python, server};
use crate::postgres::there;
use crate::server::Server;

fn broker() -> Option<&'static Kafka> {
    let broker = tokio::task::block_in_place(kafka::shared)?;
    there("python3", &["-c", "import confluent_kafka"]).then_some(broker)
}

/// Runs a script that has `brokers`, `admin` and what follows from Kafka's own clients.
fn script(broker: &Kafka, text: &str) -> String {
    let before = format!(
        r#"
import json, time
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
brokers = "{0}"
admin = AdminClient({{"bootstrap.servers": brokers}})
def make(name, partitions, **config):
    admin.create_topics([NewTopic(name, partitions, 1, config=config)])[name].result()
def read(topic, count):
    consumer = Consumer({{"bootstrap.servers": brokers, "group.id": "reader", "isolation.level": "read_committed", "enable.auto.commit": False}})
    partitions = consumer.list_topics(topic).topics[topic].partitions
    consumer.assign([TopicPartition(topic, p, 0) for p in partitions])
    records, deadline = [], time.time() + 30
    while len(records) < count and time.time() < deadline:
        record = consumer.poll(0.2)
        if record is not None and record.error() is None:
            records.append(record)
    extra = consumer.poll(1.0)
    assert extra is None or extra.error() is not None, extra.value()
    consumer.close()
    return records
"#,
        broker.brokers
    );
    tokio::task::block_in_place(|| python(&(before + text)))
}

async fn until(server: &Server, sql: &str, expected: Value) {
    let begun = Instant::now();
    loop {
        let rows = server.sql(sql).await;
        if json!(rows) == expected {
            return;
        }
        assert!(
            begun.elapsed() < Duration::from_secs(60),
            "{sql}\n{rows:?}\n{}",
            server.log()
        );
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

async fn refused(server: &Server, sql: &str) -> String {
    let (status, answer) = server.post("/v1/sql", json!({"sql": sql}).to_string()).await;
    assert!((400..500).contains(&status), "{status} {answer}");
    answer.to_string()
}

/// What comes in over HTTP is read by Kafka's own client: JSON, with the key and the time of the event; and lies in the partition where that client
/// would have put it. The same for a stream without a topic's name, but for the partition.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_are_records_for_other_programs() {
    let Some(broker) = broker() else { return };
    let columns = "id BIGINT NOT NULL, shop TEXT, at TIMESTAMP, WATERMARK FOR at AS at - INTERVAL '1' SECOND";
    let sql = format!(
        "CREATE STREAM sales ({columns}) PARTITION BY (shop) WITH (topic = 'sales', partitions = 3);
         CREATE STREAM plain ({columns}) PARTITION BY (shop, id) WITH (partitions = 2) FORMAT PLAIN ENCODE CSV;
         CREATE MATERIALIZED VIEW per_shop AS SELECT shop, count(*) AS sales FROM sales GROUP BY shop;"
    );
    let mut server = server(broker, "records", &sql);
    server.start().await;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let now = now.expect("after 1970").as_millis() as i64 - 60_000;
    let sale = |id: i64| json!({"id": id, "shop": format!("shop {}", id % 17), "at": now + id});
    let sales: Vec<_> = (0..200).map(sale).collect();
    for stream in ["sales", "plain"] {
        let path = format!("/v1/streams/{stream}/events");
        assert_eq!(server.post(&path, json!(sales).to_string()).await.0, 200);
    }
    server.caught_up().await;
    let counted = server
        .sql("SELECT shop, sales FROM per_shop ORDER BY sales DESC, shop LIMIT 1")
        .await;
    assert_eq!(counted, [json!({"shop": "shop 0", "sales": 12})]);
    let topics = server.sql("SHOW STREAMS").await;
    let topic = |name: &str| {
        let row = topics.iter().find(|row| row["name"] == name);
        row.expect("it is there")["topic"]
            .as_str()
            .expect("its topic")
            .to_owned()
    };
    assert_eq!(topic("sales"), "sales");
    let plain = topic("plain");
    assert!(plain.starts_with("records.plain-"), "{plain}");
    let text = r#"
sales = read("sales", 200)
assert len(sales) == 200, len(sales)
for record in sales:
    value = json.loads(record.value())
    assert record.key().decode() == value["shop"], (record.key(), value)
    assert record.timestamp()[1] == NOW + value["id"], (record.timestamp(), value)
assert sorted(json.loads(record.value())["id"] for record in sales) == list(range(200))
where = {record.key(): record.partition() for record in sales}
assert len({record.partition() for record in sales}) == 3
make("theirs", 3)
theirs = {}
producer = Producer({"bootstrap.servers": brokers, "partitioner": "murmur2_random"})
for key in where:
    producer.produce("theirs", key=key, value=b"", on_delivery=lambda error, record: theirs.update({record.key(): record.partition()}))
producer.flush()
assert theirs == where, (theirs, where)
plain = read("PLAIN", 200)
first = min(plain, key=lambda record: int(record.value().split(b",")[0]))
assert first.value().startswith(b"0,shop 0,20"), first.value()
assert json.loads(first.key()) == {"shop": "shop 0", "id": 0}, first.key()
"#;
    script(broker, &text.replace("NOW", &now.to_string()).replace("PLAIN", &plain));
    for (stream, column) in [("sales", "sales"), ("plain", "sales")] {
        let rows = server
            .sql(&format!("SELECT count(*) AS {column}, sum(id) AS ids FROM {stream}"))
            .await;
        assert_eq!(rows, [json!({column: 200, "ids": 199 * 100})]);
    }
    assert_eq!(
        server.sql("SELECT count(*) AS letters FROM dead_letters").await,
        [json!({"letters": 0})]
    );
}

/// What another program writes into the topic is counted once, by keys that it has put where it likes; what it can't be is a dead letter, once;
/// through kill -9, and the loss of the data directory.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_others_write_is_counted_once() {
    let Some(broker) = broker() else { return };
    script(broker, "make('visits', 3)\n");
    let write = |from: u64, to: u64| {
        let text = format!(
            r#"
producer = Producer({{"bootstrap.servers": brokers, "linger.ms": 5}})
for n in range({from}, {to}):
    # The same key in every partition: nobody may rely on where it lies.
    producer.produce("visits", key="page %d" % (n % 7), value=json.dumps({{"id": n, "page": "page %d" % (n % 7)}}), partition=n % 3)
    if n % 100 == 7:
        producer.produce("visits", key="bad", value="no JSON %d" % n, partition=n % 3)
        producer.produce("visits", key="gone", value=None, partition=n % 3)
    if n % 100 == 0:
        producer.flush()
producer.flush()
"#
        );
        script(broker, &text);
    };
    let sql = "CREATE STREAM visits (id BIGINT NOT NULL, page TEXT NOT NULL, code TEXT NOT NULL DEFAULT uuid(), came TIMESTAMP NOT NULL DEFAULT now())
               PARTITION BY (page) WITH (topic = 'visits');
               CREATE MATERIALIZED VIEW per_page AS SELECT page, count(*) AS visits, count(DISTINCT id) AS ids FROM visits GROUP BY page;
               CREATE MATERIALIZED VIEW codes AS SELECT id, max(code) AS code FROM visits GROUP BY id;";
    write(0, 700);
    let mut server = server(broker, "visiting", sql);
    server.start().await;
    let partitions = server.sql("SHOW STREAMS").await;
    let visits = partitions.iter().find(|row| row["name"] == "visits");
    assert_eq!(visits.expect("it is there")["partitions"], 3);
    for round in 1..4_u64 {
        write(round * 700, round * 700 + 700);
        server.kill();
        if round == 2 {
            std::fs::remove_dir_all(server.data_directory()).expect("the data directory");
        }
        server.start().await;
        let own = json!({"id": 100_000 + round, "page": "own"}).to_string();
        assert_eq!(server.post("/v1/streams/visits/events", own).await.0, 200);
    }
    let pages: Vec<_> = (0..7)
        .map(|page| json!({"page": format!("page {page}"), "visits": 400, "ids": 400}))
        .collect();
    let expected = [vec![json!({"page": "own", "visits": 3, "ids": 3})], pages].concat();
    until(
        &server,
        "SELECT page, visits, ids FROM per_page ORDER BY page",
        json!(expected),
    )
    .await;
    // What is filled in is the same whenever it is read: in the view that was computed then, and in the stream that is read now.
    until(
        &server,
        "SELECT count(*) AS same FROM visits JOIN codes ON visits.id = codes.id AND visits.code = codes.code",
        json!([{"same": 2803}]),
    )
    .await;
    let letters = "SELECT count(*) AS letters, count(DISTINCT detail) AS places FROM dead_letters WHERE stream = 'visits' AND source = 'topic visits' AND detail LIKE 'partition %'";
    until(&server, letters, json!([{"letters": 56, "places": 56}])).await;
    let payload = server
        .sql("SELECT arrow_cast(payload, 'Utf8') AS payload FROM dead_letters WHERE detail NOT LIKE '%no value%' ORDER BY time LIMIT 1")
        .await;
    assert!(
        payload[0]["payload"]
            .as_str()
            .is_some_and(|text| text.starts_with("no JSON ")),
        "{payload:?}"
    );
    server.kill();
    server.start().await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    until(&server, letters, json!([{"letters": 56, "places": 56}])).await;
}

/// Topics that can't hold the stream are refused with what is wrong, before anything is made; a topic of others stays when the stream goes, and one
/// that was made goes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn topics_are_looked_at_first_and_left_to_others() {
    let Some(broker) = broker() else { return };
    script(
        broker,
        "make('two', 2)\nmake('compacted', 1, **{'cleanup.policy': 'compact'})\nmake('small', 1, **{'max.message.bytes': '1100000'})\n",
    );
    let mut server = server(broker, "looking", "CREATE STREAM other (id BIGINT);");
    server.start().await;
    for (sql, words) in [
        (
            "CREATE STREAM s (id BIGINT) WITH (topic = 'compacted')",
            "cleanup.policy=compact",
        ),
        (
            "CREATE STREAM s (id BIGINT) WITH (topic = 'two', partitions = 4)",
            "2 partitions, fewer than the 4",
        ),
        (
            "CREATE STREAM s (id BIGINT) WITH (topic = 'looking.other-1')",
            "internal",
        ),
        (
            "CREATE STREAM s (id BIGINT) WITH (topic = 'two') FORMAT PLAIN ENCODE AVRO",
            "ENCODE JSON and ENCODE CSV",
        ),
        (
            "CREATE STREAM s WITH (topic = 'two') AS SELECT id FROM other",
            "CREATE SINK",
        ),
    ] {
        let answer = refused(&server, sql).await;
        assert!(answer.contains(words), "{sql}: {answer}");
    }
    server
        .sql("CREATE STREAM s (id BIGINT, name TEXT) WITH (topic = 'two')")
        .await;
    server
        .sql("CREATE MATERIALIZED VIEW v AS SELECT count(*) AS n, sum(id) AS total FROM s")
        .await;
    script(
        broker,
        "p = Producer({'bootstrap.servers': brokers})\n[p.produce('two', value=json.dumps({'id': n})) for n in range(10)]\np.flush()\n",
    );
    until(&server, "SELECT n, total FROM v", json!([{"n": 10, "total": 45}])).await;
    // Made anew with other columns it begins at the first record again, and nothing of the topic is lost.
    server
        .sql("CREATE OR REPLACE STREAM s (id BIGINT, name TEXT, more TEXT) WITH (topic = 'two', partitions = 1)")
        .await;
    until(&server, "SELECT n, total FROM v", json!([{"n": 10, "total": 45}])).await;
    server
        .sql("CREATE STREAM made (id BIGINT) WITH (topic = 'made-for-us', partitions = 1)")
        .await;
    assert_eq!(server.post("/v1/streams/made/events", r#"{"id": 1}"#).await.0, 200);
    server
        .sql("CREATE OR REPLACE STREAM made (id BIGINT, more TEXT) WITH (topic = 'made-for-us')")
        .await;
    until(&server, "SELECT id, more FROM made", json!([{"id": 1, "more": null}])).await;
    server
        .sql("CREATE STREAM limited (text TEXT) WITH (topic = 'small')")
        .await;
    let (status, answer) = server
        .post(
            "/v1/streams/limited/events",
            json!({"text": "a".repeat(1_200_000)}).to_string(),
        )
        .await;
    assert!(
        status == 422 && answer.to_string().contains("max.message.bytes"),
        "{status} {answer}"
    );
    for sql in ["DROP STREAM s CASCADE", "DROP STREAM made", "DROP STREAM limited"] {
        server.sql(sql).await;
    }
    let left = r#"
deadline = time.time() + 20
while True:
    topics = set(admin.list_topics().topics)
    if "made-for-us" not in topics or time.time() > deadline:
        break
    time.sleep(0.2)
assert {"two", "small"} <= topics and "made-for-us" not in topics, topics
assert len(read("two", 10)) == 10
"#;
    script(broker, left);
}

/// Without Kafka there is nothing to be bound to.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_needs_the_log_on_kafka() {
    let mut server = Server::new("CREATE STREAM other (id BIGINT) FORMAT PLAIN ENCODE JSON;");
    server.start().await;
    let answer = refused(&server, "CREATE STREAM s (id BIGINT) WITH (topic = 'orders')").await;
    assert!(answer.contains("log.backend = 'kafka'"), "{answer}");
    let topics = server.sql("SHOW STREAMS").await;
    assert!(topics.iter().all(|row| row["topic"].is_null()), "{topics:?}");
}
