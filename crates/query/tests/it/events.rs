//! Pages of a stream's events.

use serde_json::{Value, json};

use crate::world::World;

#[tokio::test(flavor = "multi_thread")]
async fn events_come_with_their_places_page_by_page() {
    let world = World::with_clicks().await;
    let first = world.get("/v1/streams/clicks/events?limit=2").await;
    let position = first.headers()["headwater-position"].to_str().unwrap().to_owned();
    let first: Value = first.json().await.unwrap();
    assert_eq!(first.as_array().map(Vec::len), Some(2));
    assert!(first[0]["offset"].is_u64() && first[0]["partition"].is_u64());
    let rest = world
        .get_json(&format!("/v1/streams/clicks/events?from={position}"))
        .await;
    assert_eq!(rest.as_array().map(Vec::len), Some(1));
    let mut numbers: Vec<_> = first
        .as_array()
        .unwrap()
        .iter()
        .chain(rest.as_array().unwrap())
        .collect();
    numbers.sort_by_key(|event| event["event"]["n"].as_i64());
    let numbers: Vec<_> = numbers.into_iter().map(|event| event["event"]["n"].clone()).collect();
    assert_eq!(numbers, [json!(3), json!(4), json!(5)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_to_begin_is_said_in_many_ways() {
    let world = World::with_clicks().await;
    let count = |query: &'static str| {
        let world = &world;
        async move {
            let events = world.get_json(&format!("/v1/streams/clicks/events?{query}")).await;
            events.as_array().unwrap_or_else(|| panic!("{events}")).len()
        }
    };
    assert_eq!(count("from=earliest").await, 3);
    assert_eq!(count("from=latest").await, 0);
    assert_eq!(count("from=1970-01-01T00:00:00Z").await, 3);
    assert_eq!(count("from=2200-01-01T00:00:00Z").await, 0);
    assert_eq!(count("partition=0").await + count("partition=1").await, 3);
    assert_eq!(count("from=1000").await, 0);
    let lines = world.client.get(format!("{}/v1/streams/clicks/events", world.http));
    let lines = lines
        .header("accept", "application/x-ndjson")
        .send()
        .await
        .unwrap()
        .text()
        .await
        .unwrap();
    assert_eq!(lines.lines().count(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_said() {
    let world = World::with_clicks().await;
    for (path, status) in [
        ("/v1/streams/click/events", 404),
        ("/v1/streams/page_clicks/events", 404),
        ("/v1/streams/clicks/events?from=soon", 400),
        ("/v1/streams/clicks/events?limit=1000000", 400),
        ("/v1/streams/clicks/events?partition=2", 400),
        ("/v1/streams/clicks/events?form=latest", 400),
    ] {
        assert_eq!(world.get(path).await.status(), status, "{path}");
    }
}
