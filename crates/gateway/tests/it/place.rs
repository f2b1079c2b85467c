//! Where events were stored: what an answer says about it.

use std::collections::BTreeMap;

use axum::body::Body;
use headwater_event::stored::Stored;
use headwater_gateway::http::OFFSET_HEADER;
use http::Request;
use tower::ServiceExt;

use crate::fixture::{Fixture, PARTITIONS, click, place};

/// The end of each partition that has anything.
async fn ends(fixture: &Fixture, stream: &str) -> BTreeMap<u32, u64> {
    let stored = fixture.stored(stream).await.into_iter();
    let rows = stored.map(|(partition, batches)| (partition, batches.iter().map(|rows| rows.num_rows() as u64).sum()));
    rows.filter(|(_, rows)| *rows > 0).collect()
}

fn by_partition(stored: &Stored) -> BTreeMap<u32, u64> {
    stored
        .iter()
        .map(|(_, partition, offset)| (partition, offset))
        .collect()
}

#[tokio::test]
async fn an_answer_says_where_its_events_are() {
    let fixture = Fixture::new().await;
    let id = fixture.catalog.snapshot().get("clicks").unwrap().id;
    let many: Vec<_> = (0..40).map(|user| click("e", &format!("u{user}"))).collect();
    let first = place(&fixture.ingest, "clicks", &many.join("\n")).await;
    assert_eq!(first.streams().collect::<Vec<_>>(), [id]);
    assert_eq!(by_partition(&first), ends(&fixture, "clicks").await);
    assert_eq!(by_partition(&first).len(), PARTITIONS as usize);

    // One event lies in one partition, and says nothing of the others.
    let before = ends(&fixture, "clicks").await;
    let second = by_partition(&place(&fixture.ingest, "clicks", &click("e", "u7")).await);
    let [(&partition, &offset)] = second.iter().collect::<Vec<_>>()[..] else {
        panic!("{second:?}");
    };
    assert_eq!(offset, before[&partition] + 1);
    assert_eq!(offset, ends(&fixture, "clicks").await[&partition]);
}

#[tokio::test]
async fn an_event_that_was_stored_before_is_found_too() {
    let fixture = Fixture::new().await;
    let stream = "unique_clicks";
    let first = place(&fixture.ingest, stream, &click("e1", "u1")).await;
    place(&fixture.ingest, stream, &click("e2", "u2")).await;
    let again = place(&fixture.ingest, stream, &click("e1", "u1")).await;
    assert!(again.covers(&first), "{again} is before {first}");
    // Of another partition than what is stored now, and whoever else sent it.
    let mixed = [click("e1", "u1"), click("e3", "u3"), click("e3", "u3")].join("\n");
    let mixed = place(&fixture.ingest, stream, &mixed).await;
    assert!(mixed.covers(&first), "{mixed} is before {first}");
    let all = ends(&fixture, stream).await;
    let told = by_partition(&mixed);
    assert!(
        all.iter().all(|(partition, end)| told[partition] == *end),
        "{all:?} {told:?}"
    );
}

#[tokio::test]
async fn the_doors_tell_it() {
    let fixture = Fixture::new().await;
    let router = fixture.router(Default::default());
    let post = |body: String| {
        let request = Request::post("/v1/streams/clicks/events")
            .body(Body::from(body))
            .unwrap();
        let router = router.clone();
        async move { router.oneshot(request).await.unwrap() }
    };
    let answer = post(click("e1", "u1")).await;
    let told: Stored = answer.headers()[OFFSET_HEADER].to_str().unwrap().parse().unwrap();
    assert_eq!(by_partition(&told), ends(&fixture, "clicks").await);
    // Where nothing was stored there is no place.
    for nothing in ["[]", "[{}]"] {
        let answer = post(nothing.to_owned()).await;
        assert!(!answer.headers().contains_key(OFFSET_HEADER), "{nothing}");
    }
}
