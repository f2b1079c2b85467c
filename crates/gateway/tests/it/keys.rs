//! Idempotency keys: a repeated event is acknowledged and not stored again.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use headwater_gateway::ingest::keys::keys_table;
use headwater_gateway::ingest::{Accepted, Ingest, IngestOptions};
use headwater_schema::decode::OnError;

use crate::fixture::{Fixture, WINDOW_MS, click, send};

const STREAM: &str = "unique_clicks";

async fn counts(ingest: &Ingest, body: &str) -> (usize, usize) {
    let Accepted {
        accepted, duplicates, ..
    } = send(ingest, STREAM, body, OnError::Reject).await.unwrap();
    (accepted, duplicates)
}

fn clicks(ids: impl IntoIterator<Item = u32>) -> String {
    let clicks: Vec<_> = ids.into_iter().map(|id| click(&id.to_string(), "u1")).collect();
    clicks.join("\n")
}

/// With room for all keys, and with room for next to none, so that the table is asked.
fn caches() -> [IngestOptions; 2] {
    [64 << 20, 0].map(|keys_cache_bytes_max| IngestOptions {
        keys_cache_bytes_max,
        ..IngestOptions::default()
    })
}

#[tokio::test]
async fn repeated_events_are_acknowledged_and_not_stored() {
    for options in caches() {
        let fixture = Fixture::with(options).await;
        assert_eq!(counts(&fixture.ingest, &clicks([1, 2, 1])).await, (2, 1));
        assert_eq!(counts(&fixture.ingest, &clicks([2, 3])).await, (1, 1));
        assert_eq!(counts(&fixture.ingest, &clicks([1, 2, 3])).await, (0, 3));
        assert_eq!(fixture.texts(STREAM, "event_id").await, ["1", "2", "3"]);
    }
}

#[tokio::test]
async fn events_stay_known_across_restarts() {
    for options in caches() {
        let fixture = Fixture::with(options.clone()).await;
        assert_eq!(counts(&fixture.ingest, &clicks(0..100)).await, (100, 0));
        let restarted = fixture.restarted(options);
        assert_eq!(counts(&restarted, &clicks(50..150)).await, (50, 50));
        assert_eq!(fixture.texts(STREAM, "event_id").await.len(), 150);
    }
}

#[tokio::test]
async fn two_that_write_the_same_stream_do_not_store_an_event_twice() {
    let fixture = Fixture::new().await;
    let other = fixture.restarted(IngestOptions::default());
    for round in 0..5 {
        assert_eq!(counts(&fixture.ingest, &clicks([round])).await, (1, 0));
        assert_eq!(counts(&other, &clicks([round, round + 100])).await, (1, 1));
        assert_eq!(counts(&fixture.ingest, &clicks([round + 100])).await, (0, 1));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_event_from_many_at_once_is_stored_once() {
    let fixture = Fixture::new().await;
    let senders = (0..64).map(|_| {
        let ingest = Arc::clone(&fixture.ingest);
        tokio::spawn(async move { counts(&ingest, &clicks(0..10)).await })
    });
    let answers = join_all(senders).await.into_iter().map(|answer| answer.unwrap());
    let (accepted, duplicates) = answers.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
    assert_eq!((accepted, duplicates), (10, 630));
    assert_eq!(fixture.texts(STREAM, "event_id").await.len(), 10);
}

#[tokio::test]
async fn large_bodies_are_looked_through_as_well() {
    let fixture = Fixture::with(IngestOptions {
        large_body_bytes_min: 100,
        ..IngestOptions::default()
    })
    .await;
    let body = clicks(0..1000);
    let answers = join_all((0..5).map(|_| counts(&fixture.ingest, &body))).await;
    assert_eq!(answers.iter().map(|answer| answer.0).sum::<usize>(), 1000);
    assert_eq!(fixture.texts(STREAM, "event_id").await.len(), 1000);
}

#[tokio::test]
async fn a_key_is_forgotten_after_the_window() {
    for options in caches() {
        let fixture = Fixture::with(options).await;
        assert_eq!(counts(&fixture.ingest, &clicks([1])).await, (1, 0));
        fixture.clock.advance(Duration::from_millis(WINDOW_MS - 1));
        assert_eq!(counts(&fixture.ingest, &clicks([1])).await, (0, 1));
        fixture.clock.advance(Duration::from_millis(1));
        assert_eq!(counts(&fixture.ingest, &clicks([1])).await, (1, 0));
        assert_eq!(counts(&fixture.ingest, &clicks([1])).await, (0, 1), "and seen anew");
    }
}

#[tokio::test]
async fn expired_keys_are_removed_a_few_at_a_time() {
    let fixture = Fixture::with(IngestOptions {
        sweep_keys_max: 10,
        ..IngestOptions::default()
    })
    .await;
    assert_eq!(counts(&fixture.ingest, &clicks(0..100)).await, (100, 0));
    fixture.clock.advance(Duration::from_millis(WINDOW_MS));
    for id in 1000..1020 {
        assert_eq!(counts(&fixture.ingest, &clicks([id])).await, (1, 0));
    }
    let topic = fixture.catalog.snapshot().get(STREAM).unwrap().topic();
    let table = fixture.log.state(&keys_table(&topic)).await.unwrap();
    assert_eq!(table.scan_from(&[]).count(), 20, "only the new ones are left");
    for id in 1000..1020 {
        assert_eq!(counts(&fixture.ingest, &clicks([id])).await, (0, 1));
    }
}

#[tokio::test]
async fn good_events_and_dead_letters_and_keys_are_one_commit() {
    let fixture = Fixture::new().await;
    let body = format!("{}\n{{}}", clicks([1, 1]));
    let answer = send(&fixture.ingest, STREAM, &body, OnError::Collect).await.unwrap();
    assert_eq!((answer.accepted, answer.duplicates, answer.rejected), (1, 1, 1));
    assert_eq!(fixture.dead_letters().await.num_rows(), 1);
}
