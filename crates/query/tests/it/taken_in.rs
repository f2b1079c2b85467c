//! Who has stored events reads views that have them.

use std::sync::{Arc, Mutex};

use headwater_event::stored::Stored;
use headwater_grpc::status::problem;
use headwater_grpc::v1::rows_request::Of;
use headwater_grpc::v1::rows_response::Kind as RowsKind;
use headwater_grpc::v1::value::Kind;
use headwater_grpc::v1::{LookupRequest, RowsRequest, SqlRequest};
use headwater_problem::ProblemKind;
use headwater_schema::decode::{Format, OnError};
use reqwest::Response;
use serde_json::{Value, json};
use tonic::Code;

use crate::world::World;

/// Views behind one stage, behind two, behind a stream that a query fills, and behind a view; and two of another stream.
const VIEWS: &str = "
CREATE MATERIALIZED VIEW per_page AS SELECT page, count(*) AS n FROM clicks GROUP BY page;
CREATE STREAM homes AS SELECT user_id, page, n FROM clicks WHERE page = '/home';
CREATE MATERIALIZED VIEW per_home AS SELECT n, count(*) AS homes FROM homes GROUP BY n;
CREATE MATERIALIZED VIEW users AS SELECT user_id, count(*) AS pages, sum(clicks) AS n FROM page_clicks GROUP BY user_id;
CREATE STREAM orders (user_id TEXT NOT NULL);
CREATE MATERIALIZED VIEW per_buyer AS SELECT user_id, count(*) AS n FROM orders GROUP BY user_id;
CREATE MATERIALIZED VIEW both_of_them AS SELECT user_id FROM orders UNION ALL SELECT user_id FROM clicks";

impl World {
    /// Stores an event; the place of it.
    async fn store(&self, stream: &str, event: Value) -> Arc<str> {
        let body = event.to_string().into();
        let ingest = &self.shared.parts.ingest;
        let stored = ingest.send(stream, body, Format::Json, OnError::Reject, "test").await;
        stored.unwrap().stored
    }

    async fn ask(&self, sql: &str, min_offset: &str) -> Response {
        let request = self
            .client
            .post(format!("{}/v1/sql?min_offset={min_offset}", self.http));
        request.json(&json!({"sql": sql})).send().await.unwrap()
    }
}

async fn json_of(answer: Response) -> Value {
    answer.json().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_stored_is_read() {
    let world = World::with_clicks().await;
    world.run(VIEWS).await;
    let mut grpc = world.grpc().await;
    // All that was stored so far, as a client keeps it.
    let all = Mutex::new(Stored::default());
    for round in 1..=40_i64 {
        let store = async |page: &str| {
            let click = json!({"user_id": format!("user{}", round % 3), "page": page, "n": 1000 + round});
            let place = world.store("clicks", click).await;
            all.lock().unwrap().merge(&place.parse().unwrap());
            place
        };
        let so_far = || all.lock().unwrap().to_string();
        let page = format!("/p{}", round % 5);
        let place = store(&page).await;
        let row = world
            .get_json(&format!("/v1/views/per_page?page={page}&min_offset={place}"))
            .await;
        assert_eq!(row["n"], (round + 4) / 5, "{row}");

        let place = store("/home").await;
        let request = world
            .client
            .get(format!("{}/v1/views/per_home?n={}", world.http, 1000 + round));
        let row = json_of(request.header("headwater-min-offset", &*place).send().await.unwrap()).await;
        assert_eq!(row["homes"], 1, "{row}");

        // Three clicks there were before, and three come in each round.
        store("/sql").await;
        let total =
            "SELECT sum(n) AS n, (SELECT sum(n) FROM per_page) AS m, (SELECT count(*) FROM clicks) AS k FROM users";
        let answer = json_of(world.ask(total, &so_far()).await).await;
        let events = 3 + 5 * round - 2;
        assert_eq!(
            answer["rows"],
            json!([{"n": events, "m": events, "k": events}]),
            "{answer}"
        );

        let place = store(&format!("/grpc{round}")).await;
        let key = Kind::Text(format!("/grpc{round}"));
        let found = grpc.lookup(LookupRequest {
            view: "per_page".to_owned(),
            key: [("page".to_owned(), key.into())].into(),
            min_offset: vec![place.to_string()],
        });
        let found = found.await.unwrap().into_inner();
        assert_eq!(found.row["n"].kind, Some(Kind::Integer(1)));

        store("/rows").await;
        let order = world.store("orders", json!({"user_id": "b"})).await;
        let found = grpc.rows(RowsRequest {
            of: Some(Of::View("both_of_them".to_owned())),
            min_offset: vec![so_far(), order.to_string()],
            ..RowsRequest::default()
        });
        let mut found = found.await.unwrap().into_inner();
        let mut rows = 0;
        while let Some(message) = found.message().await.unwrap() {
            if let Some(RowsKind::Rows(batch)) = message.kind {
                rows += batch.rows.len() as i64;
            }
        }
        assert_eq!(rows, 3 + 6 * round);
    }
}

/// What somebody in front asks for is waited for behind.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_in_front_passes_it_on() {
    let world = World::with_clicks().await;
    world.run(VIEWS).await;
    let address = world.serve_grpc("127.0.0.1:0".parse().unwrap()).await;
    let front = World::in_front_of(&[address], std::time::Duration::from_secs(20)).await;
    for round in 1..=20 {
        let place = world.store("clicks", json!({"user_id": "u", "page": "/front"})).await;
        let row = front
            .get_json(&format!("/v1/views/per_page?page=/front&min_offset={place}"))
            .await;
        assert_eq!(row["n"], round, "{row}");
        let place = world.store("orders", json!({"user_id": "b"})).await;
        let answer = json_of(front.ask("SELECT n FROM per_buyer", &place).await).await;
        assert_eq!(answer["rows"], json!([{"n": round}]), "{answer}");
    }
}

#[tokio::test]
async fn what_is_no_place_of_the_view_is_refused() {
    let world = World::with_clicks().await;
    world.run(VIEWS).await;
    let clicks = world.store("clicks", json!({"user_id": "u", "page": "/"})).await;
    let orders = world.store("orders", json!({"user_id": "b"})).await;
    let snapshot = world.shared.parts.catalog.snapshot();
    let id = snapshot.get("orders").unwrap().id;
    let far = format!("{id}~0-1000");
    let nowhere = format!("{id}~77-1");
    let ask = async |min_offset: &str| world.get(&format!("/v1/views/per_buyer?min_offset={min_offset}")).await;
    for (min_offset, what) in [
        ("", "can't be ''"),
        ("latest", "can't be 'latest'"),
        ("0:18", "can't be '0:18'"),
        (&*clicks, "is of 'clicks', from which 'per_buyer' takes nothing"),
        ("7777~0-1", "of a stream that is not there any more (its id was 7777)"),
        (
            &*far,
            "names offset 1000 of partition 0 of 'orders', which has not come further than 1",
        ),
        (
            &*nowhere,
            "names offset 1 of partition 77 of 'orders', which has not come further than 0",
        ),
    ] {
        let answer = ask(min_offset).await;
        assert_eq!(answer.status(), 400, "{min_offset}");
        let told = json_of(answer).await;
        assert!(told["detail"].as_str().unwrap().contains(what), "{told}");
    }
    // With one that is of the view, others do no harm.
    assert_eq!(ask(&format!("{clicks},{orders}")).await.status(), 200);
    // A column can't be called so in an address, and what is like it is found.
    let told = json_of(world.get("/v1/views/per_buyer?min_ofset=1").await).await;
    assert!(told["hint"].as_str().unwrap().contains("min_offset"), "{told}");

    let told = json_of(world.ask("SELECT n FROM per_buyer EMIT CHANGES", &orders).await).await;
    assert!(told["detail"].as_str().unwrap().contains("goes on for ever"), "{told}");
    let told = json_of(world.ask("SELECT 1 AS one", &orders).await).await;
    assert!(
        told["detail"]
            .as_str()
            .unwrap()
            .contains("nothing that comes from there"),
        "{told}"
    );

    let mut grpc = world.grpc().await;
    let sql = |min_offset: &str| SqlRequest {
        sql: "SELECT n FROM per_buyer".to_owned(),
        min_offset: vec![min_offset.to_owned()],
        ..SqlRequest::default()
    };
    for min_offset in ["latest", &*clicks] {
        let refused = grpc.sql(sql(min_offset)).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert_eq!(problem(&refused).kind, ProblemKind::InvalidQuery);
    }

    // Made anew, it is another stream.
    world
        .run("DROP VIEW both_of_them; DROP VIEW per_buyer; DROP STREAM orders")
        .await;
    world.run("CREATE STREAM orders (user_id TEXT NOT NULL); CREATE MATERIALIZED VIEW per_buyer AS SELECT user_id, count(*) AS n FROM orders GROUP BY user_id").await;
    let answer = ask(&orders).await;
    assert_eq!(answer.status(), 400);
    let told = json_of(answer).await;
    assert!(told["hint"].as_str().unwrap().contains("made anew"), "{told}");
}
