//! A server that has a query server answer in its place: its clients see no difference.

use std::net::SocketAddr;
use std::time::Duration;

use reqwest::Response;
use serde_json::json;

use crate::world::World;

const PATIENCE: Duration = Duration::from_secs(20);

/// What a client sees: the status, the content type and the body.
async fn seen(answer: Response) -> (u16, String, Vec<u8>) {
    let status = answer.status().as_u16();
    let content_type = answer.headers()["content-type"].to_str().unwrap().to_owned();
    (status, content_type, answer.bytes().await.unwrap().to_vec())
}

async fn nobody() -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap()
}

#[tokio::test]
async fn answers_are_the_same_as_from_the_query_server() {
    let world = World::with_clicks().await;
    world
        .run("CREATE MATERIALIZED VIEW total AS SELECT count(*) AS n, max(time_stamp) AS last FROM clicks")
        .await;
    world.wait_for_rows("SELECT n FROM total", 3).await;
    let address = world.serve_grpc("127.0.0.1:0".parse().unwrap()).await;
    let front = World::in_front_of(&[address], PATIENCE).await;
    for path in [
        "/v1/views/page_clicks?user_id=u1&page=/home",
        "/v1/views/page_clicks?user_id=u1&page=/nowhere",
        "/v1/views/page_clicks?order=-clicks,user_id",
        "/v1/views/page_clicks?order=user_id&limit=1&offset=1",
        "/v1/views/page_clicks?clicks=1",
        "/v1/views/page_clicks?clicks=many",
        "/v1/views/page_clicks?usr_id=u1",
        "/v1/views/page_clicks?order=usr_id",
        "/v1/views/page_clicks?limit=x",
        "/v1/views/page_clicks?user_id=u1&user_id=u2",
        "/v1/views/total",
        "/v1/views/total?n=3",
        "/v1/views/page_click",
        "/v1/views/clicks",
    ] {
        for accept in [
            "*/*",
            "application/json",
            "text/csv",
            "application/x-ndjson",
            "application/vnd.apache.arrow.stream",
            "image/png",
        ] {
            // Which of two mistakes is told first is not the same.
            if accept == "image/png" && !path.starts_with("/v1/views/page_clicks") {
                continue;
            }
            let ask = async |world: &World| {
                let request = world
                    .client
                    .get(format!("{}{path}", world.http))
                    .header("accept", accept);
                seen(request.send().await.unwrap()).await
            };
            let (here, there) = (ask(&world).await, ask(&front).await);
            let shown = String::from_utf8_lossy(&there.2);
            assert_eq!(here, there, "{path} as {accept}: {shown}");
        }
    }
}

#[tokio::test]
async fn statements_are_answered_the_same() {
    let world = World::with_clicks().await;
    let address = world.serve_grpc("127.0.0.1:0".parse().unwrap()).await;
    let front = World::in_front_of(&[address], PATIENCE).await;
    let ask = async |world: &World, request: &serde_json::Value| {
        let request = world.client.post(format!("{}/v1/sql", world.http)).json(request);
        seen(request.send().await.unwrap()).await
    };
    for request in [
        json!({"sql": "SELECT user_id, page, n, extra FROM clicks ORDER BY n"}),
        json!({"sql": "SELECT page, clicks FROM page_clicks WHERE user_id = $1 AND clicks > $2", "params": ["u1", 0.5]}),
        json!({"sql": "SELECT 1 AS a, NULL AS b, true AS c, 1.5 AS d, DATE '2026-01-31' AS e, [1, 2] AS f"}),
        json!({"sql": "SELECT user_id FROM page_clicks WHERE clicks > 99"}),
        json!({"sql": "SELECT 1 AS a; SELECT 2 AS b; SHOW VIEWS"}),
        json!({"sql": "DESCRIBE page_clicks"}),
        json!({"sql": "SELECT clics\nFROM page_clicks"}),
        json!({"sql": "SELEC 1"}),
        json!({"sql": "SELECT 1 / 0"}),
        json!({"sql": "SELECT $1", "params": []}),
        json!({"sql": "SELECT 1", "params": [[1]]}),
        json!({"sql": ""}),
        json!({"sql": "DROP STREAM nowhere"}),
        json!({"sql": "SELECT 1; SELECT 2 FROM page_clicks EMIT CHANGES"}),
    ] {
        let (here, there) = (ask(&world, &request).await, ask(&front, &request).await);
        let shown = String::from_utf8_lossy(&there.2);
        assert_eq!(here, there, "{request}: {shown}");
    }
    let insert = json!({"sql": "INSERT INTO clicks (user_id, page) VALUES ('u9', '/x'); CREATE STREAM s (a INT)"});
    let (status, _, body) = ask(&front, &insert).await;
    let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(
        (status, &body["results"][0]["status"]),
        (200, &json!("INSERT 1")),
        "{body}"
    );
    assert!(world.shared.parts.catalog.snapshot().get("s").is_some());
}

#[tokio::test]
async fn a_live_query_goes_through() {
    let world = World::with_clicks().await;
    let address = world.serve_grpc("127.0.0.1:0".parse().unwrap()).await;
    let front = World::in_front_of(&[address], PATIENCE).await;
    let request = json!({"sql": "SELECT user_id FROM clicks EMIT CHANGES", "from": "earliest"});
    let request = front.client.post(format!("{}/v1/sql", front.http)).json(&request);
    let mut answer = request.send().await.unwrap();
    let mut text = String::new();
    while text.lines().count() < 3 {
        let chunk = tokio::time::timeout(PATIENCE, answer.chunk())
            .await
            .unwrap()
            .unwrap()
            .unwrap();
        text.push_str(std::str::from_utf8(&chunk).unwrap());
    }
    assert!(text.contains(r#""user_id":"u2""#), "{text}");
}

#[tokio::test]
async fn a_query_server_that_is_away_is_tried_elsewhere_and_again() {
    let world = World::with_clicks().await;
    let (away, address) = (nobody().await, world.serve_grpc("127.0.0.1:0".parse().unwrap()).await);
    let front = World::in_front_of(&[away, address], PATIENCE).await;
    let ask = async |front: &World| {
        let url = format!("{}/v1/views/page_clicks?user_id=u1&page=/home", front.http);
        front.client.get(url).send().await.unwrap().status().as_u16()
    };
    for _ in 0..8 {
        assert_eq!(ask(&front).await, 200);
    }

    // One that comes back while it is asked for.
    let front = World::in_front_of(&[away], PATIENCE).await;
    let (status, _) = tokio::join!(ask(&front), async {
        world.shared.parts.clock.sleep(Duration::from_millis(300)).await;
        world.serve_grpc(away).await
    });
    assert_eq!(status, 200);
}

#[tokio::test]
async fn without_a_query_server_the_answer_says_so_in_time() {
    let away = nobody().await;
    let front = World::in_front_of(&[away], Duration::from_millis(500)).await;
    let answer = front
        .client
        .get(format!("{}/v1/views/page_clicks", front.http))
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status().as_u16(), 503);
    assert_eq!(answer.headers()["retry-after"], "1");
    let problem: serde_json::Value = answer.json().await.unwrap();
    let says = format!("the query server at {away} did not answer within 0.5 s");
    assert_eq!(problem["detail"], says, "{problem}");

    // What writes is tried once, and its sender told.
    let insert = json!({"sql": "INSERT INTO clicks (user_id, page) VALUES ('u9', '/x')"});
    let answer = front
        .client
        .post(format!("{}/v1/sql", front.http))
        .json(&insert)
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status().as_u16(), 503);
    let problem: serde_json::Value = answer.json().await.unwrap();
    assert!(problem["detail"].as_str().unwrap().contains("broke off"), "{problem}");
}
