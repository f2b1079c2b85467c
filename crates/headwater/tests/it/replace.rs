//! `CREATE OR REPLACE MATERIALIZED VIEW` on the real binary: whoever reads sees the old view, then the new one, and never
//! anything else, whatever they read by and whenever the process is killed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use crate::server::Server;

/// All of them have come before anything is replaced, so that only two results are right.
const EVENTS: u64 = 200_000;

/// A busy machine lets nothing come for a while, and what then comes of a partition that was taken for idle may be late: so idle is long.
const SQL: &str = "
CREATE STREAM orders (
  id BIGINT NOT NULL, customer TEXT NOT NULL, amount BIGINT NOT NULL, time_stamp TIMESTAMP NOT NULL,
  WATERMARK FOR time_stamp AS time_stamp - INTERVAL '5' SECOND
) PARTITION BY (customer) WITH (partitions = 2, idle_timeout = '3 seconds');

CREATE SOURCE made_up INTO orders WITH (
  connector = 'datagen', events = 200000, id.kind = 'sequence', customer.kind = 'uniform', customer.max = 499,
  amount.max = 100, time_stamp.step = '10 milliseconds'
);
";

const OLD: &str = "CREATE MATERIALIZED VIEW per_customer WITH (http.path = '/per-customer') AS
  SELECT customer, count(*) AS n FROM orders GROUP BY customer";
const NEW: &str = "CREATE OR REPLACE MATERIALIZED VIEW per_customer WITH (http.path = '/per-customer') AS
  SELECT customer, count(*) * 10 AS n, sum(amount) AS amount FROM orders GROUP BY customer";
/// It reads from the other one.
const TOTALS: &str = "CREATE MATERIALIZED VIEW totals AS SELECT count(*) AS customers, sum(n) AS n FROM per_customer";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_see_the_old_view_and_then_the_new_one() {
    let mut server = Server::new(SQL);
    server.start().await;
    filled(&server).await;
    assert_eq!(
        status(&server, NEW).await["notice"],
        "built anew from the start of orders, and with it totals; until that has caught up, per_customer answers as it was"
    );
    let reader = Arc::new(Reader::new(&server));
    let readers: Vec<_> = ["rest", "route", "sql", "both", "postgres"]
        .map(|way| {
            let reader = Arc::clone(&reader);
            tokio::spawn(async move { reader.read(way).await })
        })
        .into();
    let live = tokio::spawn(end_of(format!("{}/v1/views/per_customer/live", server.url())));

    until(&server, EVENTS * 10).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    reader.stop.store(true, Ordering::Relaxed);
    for reader in readers {
        let (old, new) = reader.await.expect("no read was wrong");
        assert!(new > 0, "{old} reads of the old view, {new} of the new one");
    }
    let ended = live.await.expect("it ends");
    assert!(
        ended.contains("event: end\nid\ndata: 'per_customer' was replaced"),
        "{ended}"
    );
    let shown = server.sql("SHOW MATERIALIZED VIEWS").await;
    assert!(shown.iter().all(|row| row["building"].is_null()), "{shown:?}");
    let rows = server.sql("SELECT sum(amount) > 0 AS there FROM per_customer").await;
    assert_eq!(rows, [json!({"there": true})]);
    assert_eq!(
        status(&server, NEW).await["notice"],
        "per_customer is there in these words already: nothing was changed"
    );
}

/// The new view takes long for each event, so that all of this is asked before it is there.
#[tokio::test]
async fn what_is_being_built_is_shown() {
    let mut server = Server::new(SQL);
    server.start().await;
    filled(&server).await;
    let slow = NEW.replace(
        "sum(amount)",
        "sum(amount + 0 * levenshtein(repeat(customer, 500), repeat(id::text, 500)))",
    );
    status(&server, &slow).await;
    let shown = server.sql("SHOW MATERIALIZED VIEWS").await;
    let building = |row: &Value| {
        row["building"]
            .as_str()
            .is_some_and(|building| building.contains('%') || building == "caught up")
    };
    assert!(shown.iter().all(building), "{shown:?}");
    let state = server.sql("SHOW STATE FOR totals").await;
    assert!(
        state.iter().any(|row| row["object"] == "totals (building)"),
        "{state:?}"
    );

    let described = server.sql("DESCRIBE per_customer").await;
    let columns: Vec<_> = described
        .iter()
        .map(|row| [&row["column"], &row["type"], &row["building"]])
        .collect();
    assert_eq!(
        json!(columns),
        json!([
            ["customer", "TEXT", "TEXT"],
            ["n", "BIGINT", "BIGINT"],
            ["amount", null, "BIGINT"]
        ])
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_view_that_is_being_built_survives_kill_9() {
    let mut random = StdRng::seed_from_u64(7);
    let mut server = Server::new(SQL);
    server.start().await;
    filled(&server).await;
    let mut present = EVENTS;
    for round in 2..6 {
        let sql = NEW.replace("* 10", &format!("* {round}"));
        status(&server, &sql).await;
        let next = EVENTS * round;
        loop {
            tokio::time::sleep(Duration::from_millis(random.random_range(0..600))).await;
            server.kill();
            server.start().await;
            let [a, b] = both(&server).await;
            assert_eq!(a, b, "the views are swapped together");
            assert!(a == present || a == next, "{a} is neither {present} nor {next}");
            if a == next || random.random_bool(0.3) {
                break;
            }
        }
        until(&server, next).await;
        present = next;
    }
    server.kill();
    server.start().await;
    assert_eq!(both(&server).await, [present, present]);
    // What was replaced has gone from the disk, at the latest with a restart.
    let log = server.log();
    assert!(
        log.contains("deleting the state of an object that was dropped"),
        "{log}"
    );
}

#[tokio::test]
async fn a_view_that_is_being_built_is_replaced_and_dropped() {
    let mut server = Server::new(SQL);
    server.start().await;
    filled(&server).await;
    status(&server, NEW).await;
    let other = NEW.replace("* 10", "* 3");
    status(&server, &other).await;
    until(&server, EVENTS * 3).await;

    status(&server, NEW).await;
    status(&server, "DROP MATERIALIZED VIEW per_customer CASCADE").await;
    assert!(server.sql("SHOW MATERIALIZED VIEWS").await.is_empty());
    status(&server, OLD).await;
    server.caught_up().await;
    let rows = server.sql("SELECT sum(n) AS n FROM per_customer").await;
    assert_eq!(rows, [json!({"n": EVENTS})]);
}

#[tokio::test]
async fn a_view_that_is_made_meanwhile_reads_what_is_to_come() {
    let mut server = Server::new(SQL);
    server.start().await;
    filled(&server).await;
    // The column is one of the new view.
    let both = format!(
        "{NEW}; CREATE MATERIALIZED VIEW amounts AS SELECT sum(amount) AS amount, sum(n) AS n FROM per_customer"
    );
    status(&server, &both).await;
    server.kill();
    server.start().await;
    until(&server, EVENTS * 10).await;
    server.caught_up().await;
    let rows = server
        .sql("SELECT n, amount = (SELECT sum(amount) FROM orders) AS same FROM amounts")
        .await;
    assert_eq!(rows, [json!({"n": EVENTS * 10, "same": true})]);
}

/// Closed windows are all there when the new view takes its place: also those that were closed because nothing came
/// any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn windows_are_closed_as_far_as_they_were() {
    let mut server = Server::new(SQL);
    server.start().await;
    let windows = "CREATE OR REPLACE MATERIALIZED VIEW windows AS SELECT window_start, count(*) * 1 AS n
        FROM TUMBLE(orders, time_stamp, INTERVAL '1 second') GROUP BY window_start";
    status(&server, windows).await;
    filled(&server).await;
    let total = "SELECT sum(n) AS n FROM windows";
    let old = settled(&server, total).await;
    status(&server, &windows.replace("* 1", "* 2")).await;
    let started = Instant::now();
    loop {
        let now = server.sql(total).await[0]["n"].as_u64().expect("a number");
        if now != old {
            assert_eq!(now, old * 2);
            break;
        }
        assert!(started.elapsed() < Duration::from_secs(120), "{}", server.log());
    }
}

/// Reads again and again.
struct Reader {
    url: String,
    stop: AtomicBool,
    http: reqwest::Client,
    postgres_port: u16,
}

impl Reader {
    fn new(server: &Server) -> Self {
        Self {
            url: server.url(),
            stop: AtomicBool::new(false),
            http: reqwest::Client::new(),
            postgres_port: server.postgres_port,
        }
    }

    /// How often it saw the old view, and the new one.
    async fn read(&self, way: &str) -> (u64, u64) {
        let (mut old, mut new) = (0, 0);
        let postgres = self.postgres().await;
        while !self.stop.load(Ordering::Relaxed) {
            let found = match way {
                "rest" => sum(&self.get("/v1/views/per_customer?order=customer").await),
                "route" => sum(&self.get("/per-customer").await),
                "postgres" => {
                    let row = postgres
                        .query_one("SELECT sum(n)::bigint AS n FROM per_customer", &[])
                        .await;
                    row.expect("a row").get::<_, i64>("n").into()
                }
                "sql" => self.sql("SELECT n FROM totals").await["rows"][0]["n"].clone(),
                _ => {
                    let sql = "SELECT (SELECT sum(n) FROM per_customer) AS a, (SELECT n FROM totals) AS b";
                    let row = self.sql(sql).await["rows"][0].clone();
                    assert_eq!(row["a"], row["b"], "the views are swapped together");
                    row["a"].clone()
                }
            };
            match found.as_u64() {
                Some(EVENTS) => old += 1,
                Some(n) if n == EVENTS * 10 => new += 1,
                _ => panic!("{way}: {found}"),
            }
            assert!(
                new == 0 || found == EVENTS * 10,
                "{way}: the old view after the new one"
            );
        }
        (old, new)
    }

    async fn postgres(&self) -> tokio_postgres::Client {
        let address = format!(
            "host=127.0.0.1 port={} user=headwater dbname=headwater",
            self.postgres_port
        );
        let (client, connection) = tokio_postgres::connect(&address, tokio_postgres::NoTls)
            .await
            .expect("a connection");
        tokio::spawn(connection);
        client
    }

    async fn get(&self, path: &str) -> Value {
        let answer = self
            .http
            .get(format!("{}{path}", self.url))
            .send()
            .await
            .expect("an answer");
        assert!(
            answer.status().is_success(),
            "{path}: {}",
            answer.text().await.expect("a text")
        );
        answer.json().await.expect("JSON")
    }

    async fn sql(&self, sql: &str) -> Value {
        let request = self.http.post(format!("{}/v1/sql", self.url));
        let answer = request.json(&json!({"sql": sql})).send().await.expect("an answer");
        assert!(
            answer.status().is_success(),
            "{sql}: {}",
            answer.text().await.expect("a text")
        );
        answer.json().await.expect("JSON")
    }
}

fn sum(rows: &Value) -> Value {
    let rows = rows.as_array().expect("rows");
    assert_eq!(rows.len(), 500, "all customers");
    rows.iter().filter_map(|row| row["n"].as_u64()).sum::<u64>().into()
}

/// All events are there, and the views have them.
async fn filled(server: &Server) {
    status(server, OLD).await;
    status(server, TOTALS).await;
    let started = Instant::now();
    loop {
        if both(server).await == [EVENTS, EVENTS] {
            return;
        }
        assert!(started.elapsed() < Duration::from_secs(240), "{}", server.log());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn both(server: &Server) -> [u64; 2] {
    let rows = server
        .sql("SELECT (SELECT sum(n) FROM per_customer) AS a, (SELECT n FROM totals) AS b")
        .await;
    ["a", "b"].map(|column| rows[0][column].as_u64().unwrap_or_default())
}

/// Waits until the views have come this far.
async fn until(server: &Server, n: u64) {
    let started = Instant::now();
    while both(server).await != [n, n] {
        assert!(started.elapsed() < Duration::from_secs(120), "{n}:\n{}", server.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// What the query gives when it has not changed for longer than it takes an input to be idle, which closes windows too.
async fn settled(server: &Server, sql: &str) -> u64 {
    const UNCHANGED: usize = 4;
    let (mut last, mut unchanged) = (0, 0);
    while unchanged < UNCHANGED {
        tokio::time::sleep(Duration::from_secs(2)).await;
        let now = server.sql(sql).await[0]["n"].as_u64().unwrap_or_default();
        unchanged = if now == last && now > 0 { unchanged + 1 } else { 0 };
        last = now;
    }
    last
}

/// The answer of a statement without rows.
async fn status(server: &Server, sql: &str) -> Value {
    let (status, answer) = server.post("/v1/sql", json!({"sql": sql}).to_string()).await;
    assert_eq!(status, 200, "{sql}\n{answer}");
    answer
}

/// All that comes until the server ends it.
async fn end_of(url: String) -> String {
    let answer = reqwest::get(url).await.expect("an answer");
    answer.text().await.expect("a text")
}
