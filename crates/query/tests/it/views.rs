//! Rows of views over HTTP.

use serde_json::json;

use crate::world::World;

#[tokio::test(flavor = "multi_thread")]
async fn a_key_names_one_row() {
    let world = World::with_clicks().await;
    let row = world.get_json("/v1/views/page_clicks?user_id=u1&page=%2Fhome").await;
    assert_eq!(row, json!({"user_id": "u1", "page": "/home", "clicks": 2}));
    let row = world.get_json("/v1/views/page_clicks?page=%2F%C3%A4&user_id=u2").await;
    assert_eq!(row["clicks"], 1);
    let response = world.get("/v1/views/page_clicks?user_id=u1&page=/nowhere").await;
    assert_eq!(response.status(), 404);
    let problem: serde_json::Value = response.json().await.unwrap();
    assert_eq!(problem["type"], "https://headwater.dev/problems/not-found");
}

#[tokio::test(flavor = "multi_thread")]
async fn other_questions_get_arrays() {
    let world = World::with_clicks().await;
    let rows = world.get_json("/v1/views/page_clicks?order=-clicks,user_id").await;
    assert_eq!(rows[0]["clicks"], 2);
    assert_eq!(rows.as_array().map(Vec::len), Some(2));
    let rows = world
        .get_json("/v1/views/page_clicks?order=-clicks&limit=1&offset=1")
        .await;
    assert_eq!(rows, json!([{"user_id": "u2", "page": "/ä", "clicks": 1}]));
    let rows = world.get_json("/v1/views/page_clicks?user_id=u1").await;
    assert_eq!(rows, json!([{"user_id": "u1", "page": "/home", "clicks": 2}]));
    let rows = world.get_json("/v1/views/page_clicks?clicks=1").await;
    assert_eq!(rows[0]["user_id"], "u2");
    let rows = world
        .get_json("/v1/views/page_clicks?user_id=u1&page=/home&limit=5")
        .await;
    assert!(rows.is_array());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_named_with_the_nearest_name() {
    let world = World::with_clicks().await;
    let cases = [
        ("/v1/views/page_click", 404, "page_clicks"),
        ("/v1/views/clicks", 404, "stream"),
        ("/v1/views/page_clicks?usr_id=u1", 400, "user_id"),
        ("/v1/views/page_clicks?order=-click", 400, "clicks"),
        ("/v1/views/page_clicks?clicks=many", 400, "BIGINT"),
        ("/v1/views/page_clicks?limit=-1", 400, "limit"),
        ("/v1/views/page_clicks?user_id=a&user_id=b", 400, "twice"),
        ("/v1/views/page_clicks?user_id=%ff", 400, "UTF-8"),
    ];
    for (path, status, says) in cases {
        let response = world.get(path).await;
        assert_eq!(response.status(), status, "{path}");
        let problem = response.text().await.unwrap();
        assert!(problem.contains(says), "{path}: {problem}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_come_in_the_form_that_is_accepted() {
    let world = World::with_clicks().await;
    for question in ["user_id=u1", "user_id=u1&page=/home"] {
        let request = world
            .client
            .get(format!("{}/v1/views/page_clicks?{question}", world.http));
        let answer = request.header("accept", "text/csv").send().await.unwrap();
        assert_eq!(answer.text().await.unwrap(), "user_id,page,clicks\r\nu1,/home,2\r\n");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_of_one_row_answers_it() {
    let world = World::with_clicks().await;
    world
        .run("CREATE MATERIALIZED VIEW total AS SELECT count(*) AS clicks, sum(n) AS n FROM clicks")
        .await;
    world.wait_for_rows("SELECT clicks AS n FROM total", 3).await;
    assert_eq!(world.get_json("/v1/views/total").await, json!({"clicks": 3, "n": 12}));
    let rows = world.get_json("/v1/views/total?limit=1").await;
    assert_eq!(rows, json!([{"clicks": 3, "n": 12}]));
    let rows = world.get_json("/v1/views/total?clicks=4").await;
    assert_eq!(rows, json!([]));
    world
        .run("CREATE MATERIALIZED VIEW none AS SELECT count(*) AS clicks FROM clicks WHERE n > 100")
        .await;
    assert_eq!(world.get("/v1/views/none").await.status(), 404);
    world
        .run("CREATE MATERIALIZED VIEW pages AS SELECT page FROM clicks WHERE n > 3")
        .await;
    world.wait_for_rows("SELECT count(*) AS n FROM pages", 2).await;
    assert_eq!(
        world.get_json("/v1/views/pages").await.as_array().map(Vec::len),
        Some(2)
    );
    let catalog = world.get_json("/v1/catalog").await;
    let key_of = |name: &str| {
        let views = catalog["views"].as_array().unwrap();
        views.iter().find(|view| view["name"] == name).unwrap()["key"].clone()
    };
    assert_eq!(key_of("page_clicks"), json!(["user_id", "page"]));
    assert_eq!(key_of("total"), json!([]));
    assert_eq!(key_of("pages"), json!(null));
}
