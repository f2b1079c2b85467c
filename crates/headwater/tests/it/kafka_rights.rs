//! A broker that asks an authorizer: with the rights that docs/operating.md lists everything works, and where one of them is missing the error says
//! which, on what, and how to give it.

use std::time::{Duration, Instant};

use headwater_test_servers::kafka::{self, GUEST, Kafka};
use serde_json::json;

use crate::kafka::python;
use crate::postgres::there;
use crate::server::Server;

const PREFIX: &str = "guarded";
const BOUND: &str = "their-orders";

/// What docs/operating.md says that it takes, in the words of `kafka-acls`: the operation, and on what, which ends in `*` where it is a prefix.
const RIGHTS: [(&str, &str); 8] = [
    ("Create", "topic guarded.*"),
    ("Read", "topic guarded.*"),
    ("Write", "topic guarded.*"),
    ("Delete", "topic guarded.*"),
    ("Write", "transactional-id guarded/*"),
    ("DescribeConfigs", "topic their-orders"),
    ("Read", "topic their-orders"),
    ("Write", "topic their-orders"),
];

/// So many are on Headwater's own topics: without them no server begins.
const OWN: usize = 5;

const SQL: &str = "
CREATE STREAM clicks (id BIGINT NOT NULL, page TEXT NOT NULL) WITH (partitions = 2, idempotency_key = 'id');
CREATE MATERIALIZED VIEW per_page AS SELECT page, count(*) AS clicks FROM clicks GROUP BY page;
CREATE STREAM orders (id BIGINT NOT NULL) WITH (topic = 'their-orders');
CREATE MATERIALIZED VIEW ordered AS SELECT count(*) AS orders FROM orders;
";

fn broker() -> Option<&'static Kafka> {
    let broker = tokio::task::block_in_place(kafka::shared)?;
    there("python3", &["-c", "import confluent_kafka"]).then_some(broker)
}

/// Gives the guest all of the rights but one of these, and takes that away.
fn allow_all_but(broker: &Kafka, missing: Option<usize>) {
    let mut script = format!(
        r#"
from confluent_kafka.admin import *
admin = AdminClient({{"bootstrap.servers": "{}"}})
def binding(operation, kind, name):
    pattern = ResourcePatternType.PREFIXED if name.endswith("*") else ResourcePatternType.LITERAL
    operation = "".join("_" + letter if letter.isupper() else letter.upper() for letter in operation).strip("_")
    return (getattr(ResourceType, kind), name.rstrip("*"), pattern, "User:{GUEST}", "*", getattr(AclOperation, operation), AclPermissionType.ALLOW)
if "{BOUND}" not in admin.list_topics().topics:
    admin.create_topics([NewTopic("{BOUND}", 2, 1)])["{BOUND}"].result()
"#,
        broker.brokers
    );
    for (number, (operation, on)) in RIGHTS.iter().enumerate() {
        let (kind, name) = on.split_once(' ').expect("a kind and a name");
        let kind = kind.replace('-', "_").to_uppercase();
        let binding = format!("binding('{operation}', '{kind}', '{name}')");
        script += &match missing == Some(number) {
            true => format!("for done in admin.delete_acls([AclBindingFilter(*{binding})]).values(): done.result()\n"),
            false => format!("for done in admin.create_acls([AclBinding(*{binding})]).values(): done.result()\n"),
        };
    }
    tokio::task::block_in_place(|| python(&script));
}

fn server(broker: &Kafka) -> Server {
    let secured = &broker.secured;
    Server::new(SQL)
        .with("log.backend=kafka")
        .with(&format!("log.brokers={}", secured.brokers))
        .with(&format!("log.prefix={PREFIX}"))
        .with("log.security=sasl_ssl")
        .with(&format!("log.tls_ca={}", secured.ca().display()))
        .with("log.sasl_mechanism=PLAIN")
        .with(&format!("log.sasl_user={GUEST}"))
        .with(&format!("log.sasl_password={}", secured.password))
}

async fn until(server: &Server, sql: &str, expected: serde_json::Value) {
    let begun = Instant::now();
    loop {
        let rows = server.sql(sql).await;
        if json!(rows) == expected {
            return;
        }
        let waited = begun.elapsed();
        assert!(waited < Duration::from_secs(120), "{sql}\n{rows:?}\n{}", server.log());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_rights_that_are_listed_are_enough_and_each_is_named_where_it_is_missing() {
    let Some(broker) = broker() else { return };
    allow_all_but(broker, None);
    let mut first = server(broker);
    first.start().await;
    for id in 0..10 {
        let click = json!({"id": id, "page": "home"}).to_string();
        assert_eq!(first.post("/v1/streams/clicks/events", click).await.0, 200);
        let order = json!({"id": id}).to_string();
        assert_eq!(first.post("/v1/streams/orders/events", order).await.0, 200);
    }
    until(
        &first,
        "SELECT page, clicks FROM per_page",
        json!([{"page": "home", "clicks": 10}]),
    )
    .await;
    until(&first, "SELECT orders FROM ordered", json!([{"orders": 10}])).await;
    first.sql("DROP MATERIALIZED VIEW per_page").await;
    for retention in ["2 days", "1 day"] {
        let kept = format!("CREATE OR REPLACE STREAM kept (id BIGINT) WITH (retention = '{retention}')");
        first.sql(&kept).await;
    }
    first.sql("DROP STREAM kept").await;
    first.signal("TERM");
    assert!(first.ended().await.success());
    let log = first.log();
    assert!(
        !log.contains("uthoriz") && !log.contains("the right"),
        "something was refused: {log}"
    );

    for (number, (right, on)) in RIGHTS.iter().enumerate().take(OWN) {
        allow_all_but(broker, Some(number));
        let mut server = server(broker);
        let log = match server.start_or_end().await {
            Some(status) => {
                assert!(!status.success());
                server.log()
            }
            None => use_it(&server).await,
        };
        check(right, on, &log);
    }
    topics_of_others(broker).await;
}

/// Of a topic that others have, each right is taken away from a server that runs.
async fn topics_of_others(broker: &Kafka) {
    allow_all_but(broker, None);
    let mut server = server(broker);
    server.start().await;
    for (number, (right, on)) in RIGHTS.iter().enumerate().skip(OWN) {
        allow_all_but(broker, Some(number));
        let begun = Instant::now();
        let mut said = String::new();
        while !(said.contains("the right") || server.log().contains(&format!("the right {right} on topic"))) {
            assert!(
                begun.elapsed() < Duration::from_secs(60),
                "without {right} on {on}: {}",
                server.log()
            );
            let again = r#"{"sql": "CREATE OR REPLACE STREAM again (id BIGINT) WITH (topic = 'their-orders')"}"#;
            let (path, body) = match *right {
                "DescribeConfigs" => ("/v1/sql", again),
                _ => ("/v1/streams/orders/events", r#"{"id": 1}"#),
            };
            let (status, answer) = server.post(path, body.to_owned()).await;
            said = format!("{status} {answer}");
        }
        check(right, on, &(said + &server.log()));
        allow_all_but(broker, None);
    }
    // Nothing is the matter any more.
    let begun = Instant::now();
    while server
        .post("/v1/streams/orders/events", r#"{"id": 2}"#.to_owned())
        .await
        .0
        != 200
    {
        assert!(begun.elapsed() < Duration::from_secs(60), "{}", server.log());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Whether it was said that the right is missing, and how to give it.
fn check(right: &str, on: &str, said: &str) {
    let (kind, name) = on.split_once(' ').expect("a kind and a name");
    let name = name.trim_end_matches('*');
    let missing = format!("the right {right} on {} '{name}", kind.replace('-', " "));
    let grant = format!("--operation {right} --{kind} '{name}");
    println!("without {right} on {on}");
    assert!(
        said.contains(&missing) && said.contains(&grant),
        "without {right} on {on}: {said}"
    );
}

/// What is said where a right is missing that is needed for some statements alone.
async fn use_it(server: &Server) -> String {
    let post = async |path: &str, body: &str| {
        let (status, answer) = server.post(path, body.to_owned()).await;
        format!("{status} {answer}\n")
    };
    let mut said = post("/v1/streams/orders/events", r#"{"id": 1}"#).await;
    server.sql("CREATE STREAM gone (id BIGINT)").await;
    said += &post("/v1/sql", r#"{"sql": "DROP STREAM gone"}"#).await;
    let begun = Instant::now();
    while !(said.clone() + &server.log()).contains("the right") && begun.elapsed() < Duration::from_secs(20) {
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    said + &server.log()
}
