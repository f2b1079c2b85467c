//! Statements, in a session and by `POST /v1/sql`.

use std::time::Duration;

use datafusion::common::ScalarValue;
use futures::{StreamExt, TryStreamExt};
use headwater_query::error::QueryError;
use headwater_query::session::Answer;
use reqwest::header::{ACCEPT, CONTENT_TYPE};
use serde_json::{Value, json};

use crate::world::World;

async fn refused(world: &World, sql: &str) -> QueryError {
    match world.session().execute(sql, &[]).await {
        Ok(_) => panic!("{sql} was not refused"),
        Err(error) => error,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_select_sees_streams_and_views() {
    let world = World::with_clicks().await;
    let answer = world
        .sql("SELECT user_id, sum(n) AS n FROM clicks GROUP BY user_id ORDER BY user_id")
        .await;
    assert_eq!(answer["columns"][1], json!({"name": "n", "type": "BIGINT"}));
    assert_eq!(
        answer["rows"],
        json!([{"user_id": "u1", "n": 7}, {"user_id": "u2", "n": 5}])
    );
    let joined = "SELECT c.n, v.clicks FROM clicks c JOIN page_clicks v ON c.user_id = v.user_id AND c.page = v.page \
                  WHERE v.user_id = 'u1' ORDER BY c.n";
    let answer = world.sql(joined).await;
    assert_eq!(answer["rows"], json!([{"n": 3, "clicks": 2}, {"n": 4, "clicks": 2}]));
    let answer = world.sql("SELECT count(*) AS n FROM clicks").await;
    assert_eq!(answer["rows"][0]["n"], 3);
    let answer = world.sql("SELECT page FROM clicks LIMIT 1").await;
    assert_eq!(answer["rows"].as_array().map(Vec::len), Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn equality_on_key_columns_reads_only_those_rows() {
    let world = World::with_clicks().await;
    let plan = world
        .sql("EXPLAIN SELECT * FROM page_clicks WHERE user_id = 'u1'")
        .await
        .to_string();
    assert!(plan.contains("partial_filters=[page_clicks.user_id"), "{plan}");
    let answer = world
        .sql("SELECT clicks FROM page_clicks WHERE user_id = 'u1' AND page = '/home'")
        .await;
    assert_eq!(answer["rows"], json!([{"clicks": 2}]));
    let answer = world
        .sql("SELECT clicks FROM page_clicks WHERE user_id = 'nobody'")
        .await;
    assert_eq!(answer["rows"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn parameters_stand_for_values() {
    let world = World::with_clicks().await;
    let body = json!({"sql": "SELECT page FROM clicks WHERE user_id = $1 AND n > $2", "params": ["u1", 3]});
    let request = world.client.post(format!("{}/v1/sql", world.http)).json(&body);
    let answer: Value = request.send().await.unwrap().json().await.unwrap();
    assert_eq!(answer["rows"], json!([{"page": "/home"}]));
    let session = world.session();
    let values = [ScalarValue::from("u9"), ScalarValue::from("/p")];
    let answers = session
        .execute("INSERT INTO clicks (user_id, page) VALUES ($1, $2)", &values)
        .await
        .unwrap();
    assert!(matches!(&answers[0], Answer::Done { tag, rows: Some(1), .. } if tag == "INSERT"));
    let answer = world.sql("SELECT page, n FROM clicks WHERE user_id = 'u9'").await;
    assert_eq!(
        answer["rows"],
        json!([{"page": "/p", "n": 1}]),
        "the default is filled in"
    );
    let error = session
        .execute("SELECT * FROM clicks WHERE user_id = $1", &[])
        .await
        .err()
        .unwrap();
    assert_eq!(error.sqlstate(), "22023");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_changes_the_catalog_as_a_whole_or_not_at_all() {
    let world = World::empty().await;
    let error = refused(
        &world,
        "CREATE STREAM a (x INT); CREATE MATERIALIZED VIEW v AS SELECT y FROM a",
    )
    .await;
    assert_eq!(error.sqlstate(), "42703", "{error}");
    assert!(world.shared.parts.catalog.snapshot().get("a").is_none());
    let error = refused(&world, "CREATE STREAM a (x INT); SELECT 1; DROP STREAM b").await;
    assert_eq!(error.sqlstate(), "42P01", "{error}");
    assert!(world.shared.parts.catalog.snapshot().get("a").is_none());
    world
        .run("CREATE STREAM a (x INT); CREATE MATERIALIZED VIEW v AS SELECT x, count(*) AS n FROM a GROUP BY x")
        .await;
    let error = refused(&world, "DROP STREAM a").await;
    assert_eq!(error.sqlstate(), "2BP01");
    assert!(error.to_string().contains('v'), "{error}");
    world.run("DROP STREAM a CASCADE").await;
    assert!(world.shared.parts.catalog.snapshot().get("v").is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_there_is_can_be_shown() {
    let world = World::with_clicks().await;
    let shown = world.sql("SHOW VIEWS").await;
    assert_eq!(shown["rows"][0]["name"], "page_clicks");
    assert_eq!(shown["rows"][0]["reads"], "clicks");
    let described = world.sql("DESCRIBE clicks").await;
    assert_eq!(described["rows"][0]["column"], "user_id");
    assert_eq!(described["rows"][0]["role"], "partition");
    assert_eq!(described["rows"][2]["default"], "1");
    assert_eq!(described["rows"][3]["type"], "JSON");
    let explained = world.sql("EXPLAIN CREATE STREAM s AS SELECT page FROM clicks").await;
    assert!(!explained["rows"].as_array().unwrap().is_empty(), "{explained}");
    let catalog = world.get_json("/v1/catalog").await;
    assert_eq!(catalog["streams"][0]["name"], "clicks");
    assert_eq!(catalog["views"][0]["key"], json!(["user_id", "page"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_queries_keep_can_be_shown() {
    let world = World::with_clicks().await;
    world
        .run(
            "CREATE STREAM visits (who TEXT, at TIMESTAMP NOT NULL, WATERMARK FOR at AS at - INTERVAL '5' SECOND)
               PARTITION BY (who) WITH (partitions = 2);
             CREATE STREAM minutes AS SELECT window_start, who, count(*) AS n
               FROM TUMBLE(visits, at, INTERVAL '1 minute') GROUP BY window_start, who;
             CREATE STREAM again WITH (state_ttl = '1 hour') AS SELECT a.who FROM visits a JOIN visits b ON a.who = b.who;
             CREATE MATERIALIZED VIEW last AS SELECT DISTINCT ON (user_id) user_id, page FROM clicks ORDER BY user_id, time_stamp DESC",
        )
        .await;
    let (now, later) = ("'2026-03-01T12:00:00Z'", "'2026-03-01T12:01:00Z'");
    world
        .run(&format!(
            "INSERT INTO visits VALUES ('a', {now}), ('b', {now}), ('a', {now}), ('c', {later})"
        ))
        .await;
    world.wait_for_rows("SELECT count(*) AS n FROM last", 2).await;
    let mut rows = Vec::new();
    for _ in 0..500 {
        let state = world.sql("SHOW STATE").await;
        rows = state["rows"].as_array().unwrap().clone();
        let holds = |object: &str, entries: u64| {
            rows.iter()
                .any(|row| row["object"] == object && row["entries"] == entries)
        };
        if holds("minutes", 3) && holds("again", 8) {
            break;
        }
        world.shared.parts.clock.sleep(Duration::from_millis(20)).await;
    }
    let of = |object: &str, operator: &str| {
        let found = rows
            .iter()
            .find(|row| row["object"] == object && row["operator"].as_str().unwrap().starts_with(operator));
        found
            .unwrap_or_else(|| panic!("{object} has no {operator}: {rows:#?}"))
            .clone()
    };
    let windows = of("minutes", "aggregate windows");
    assert_eq!(windows["keeps"], "kept until the watermark passes the window's end");
    assert_eq!(windows["entries"], 3, "a and b in one window, c in the next");
    let join = of("again", "join by who");
    assert_eq!(join["keeps"], "kept until the watermark passes that");
    assert_eq!(join["entries"], 8, "four rows of each side");
    let counts = of("page_clicks", "aggregate for ever");
    assert_eq!(counts["keeps"], "the view's rows are its state");
    assert_eq!(of("page_clicks", "the view's rows")["entries"], 2);
    assert_eq!(of("last", "the first row")["entries"], 2);
    for row in &rows {
        let is_in_memory = row["operator"] != "the view's rows";
        assert!(!is_in_memory || row["memory_bytes"].as_u64().unwrap() > 0, "{row}");
        assert!(row["disk_bytes"].as_u64().is_none_or(|bytes| bytes > 0), "{row}");
    }
    let one = world.sql("SHOW STATE FOR page_clicks").await;
    let objects: Vec<_> = one["rows"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| &row["object"])
        .collect();
    assert_eq!(objects, ["page_clicks", "page_clicks"]);
    let error = refused(&world, "SHOW STATE FOR page_click").await;
    assert_eq!(
        error.to_string(),
        "line 1, column 16: there is no stream or view 'page_click'; did you mean page_clicks?"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_are_problems_with_a_place() {
    let world = World::with_clicks().await;
    let problem = world.sql("SELECT user_id,\n  pge FROM clicks").await;
    assert_eq!(problem["type"], "https://headwater.dev/problems/sql-error", "{problem}");
    assert_eq!(problem["status"], 400);
    assert_eq!(
        (&problem["errors"][0]["line"], &problem["errors"][0]["column"]),
        (&json!(2), &json!(3))
    );
    let url = format!("{}/v1/sql", world.http);
    let cases: [(&str, Vec<u8>, u16); 5] = [
        ("application/json", b"{\"sql\": 1}".to_vec(), 400),
        (
            "application/json",
            b"{\"sql\": \"SELECT 1\", \"parms\": []}".to_vec(),
            400,
        ),
        ("text/plain", vec![0xff], 400),
        ("image/png", b"SELECT 1".to_vec(), 415),
        ("text/plain", vec![b' '; 70_000], 413),
    ];
    for (media, body, status) in cases {
        let request = world.client.post(&url).header(CONTENT_TYPE, media).body(body);
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), status, "{media}");
        assert_eq!(response.headers()[CONTENT_TYPE], "application/problem+json");
    }
    let problem = world.sql("SELECT 1 / 0 AS x").await;
    assert_eq!(problem["status"], 400, "{problem}");
    let problem = world.sql("INSERT INTO page_clicks VALUES ('a', 'b', 1)").await;
    assert_eq!(problem["status"], 400, "{problem}");
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_come_in_the_form_that_is_accepted() {
    let world = World::with_clicks().await;
    let url = format!("{}/v1/sql", world.http);
    let ask = |accept: &'static str| {
        let sql = "SELECT user_id, n FROM clicks WHERE n > 3 ORDER BY n";
        let request = world.client.post(&url).header(ACCEPT, accept).body(sql);
        async move { request.send().await.unwrap() }
    };
    let lines = ask("application/x-ndjson").await.text().await.unwrap();
    assert_eq!(lines, "{\"user_id\":\"u1\",\"n\":4}\n{\"user_id\":\"u2\",\"n\":5}\n");
    let lines = ask("text/csv").await.text().await.unwrap();
    assert_eq!(lines, "user_id,n\r\nu1,4\r\nu2,5\r\n");
    let stream = ask("application/vnd.apache.arrow.stream").await.bytes().await.unwrap();
    let reader = arrow::ipc::reader::StreamReader::try_new(&stream[..], None).unwrap();
    let rows: usize = reader.map(|batch| batch.unwrap().num_rows()).sum();
    assert_eq!(rows, 2);
    assert_eq!(ask("image/png").await.status(), 400);
    let several = world.sql("CREATE STREAM other (x INT); SELECT 1 AS one").await;
    assert_eq!(several["results"][0]["status"], "CREATE STREAM");
    assert_eq!(several["results"][1]["rows"], json!([{"one": 1}]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_live_query_goes_on_and_ends_with_its_reader() {
    let world = World::with_clicks().await;
    let url = format!("{}/v1/sql", world.http);
    let request = world
        .client
        .post(&url)
        .body("SELECT user_id, n + 1 AS m FROM clicks WHERE n > 1 EMIT CHANGES");
    let response = request.send().await.unwrap();
    assert_eq!(response.headers()[CONTENT_TYPE], "application/x-ndjson");
    let mut lines = response.bytes_stream();
    world
        .run("INSERT INTO clicks (user_id, page, n) VALUES ('u3', '/', 1), ('u3', '/', 7)")
        .await;
    let line = tokio::time::timeout(Duration::from_secs(20), lines.try_next())
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    assert_eq!(&line[..], b"{\"user_id\":\"u3\",\"m\":8}\n");

    let answers = world
        .run("SELECT user_id, count(*) AS n FROM clicks GROUP BY user_id EMIT CHANGES")
        .await;
    let Some(Answer::Changes { schema, mut rows }) = answers.into_iter().next() else {
        panic!("not a live query");
    };
    assert_eq!(schema.field(2).name(), "op");
    world.run("INSERT INTO clicks (user_id, page) VALUES ('u4', '/')").await;
    let batch = tokio::time::timeout(Duration::from_secs(20), rows.next())
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    assert_eq!(batch.schema(), schema);
    assert_eq!(batch.num_rows(), 1);
}
