//! Restarts at any moment, and two processes that think that a source is theirs.

use std::sync::Arc;
use std::time::Duration;

use headwater_event::offset::TopicPartition;
use headwater_log::Log;

use crate::fixture::{Fixture, PARTITIONS};

const SEQUENCE: (&str, &str) = ("n.kind", "sequence");

#[tokio::test]
async fn every_event_comes_once_whenever_it_is_stopped() {
    let options = [SEQUENCE, ("events", "300000"), ("rate", "1000000")];
    let mut fixture = Fixture::new("datagen", &options).await;
    for restart in 0..10 {
        fixture.sources.caught_up().await;
        // Not after all that is allowed by then, but as soon as some of it is stored.
        let partition = TopicPartition::new(fixture.stream.topic(), restart % PARTITIONS);
        let end = fixture.log.offsets(&partition).await.unwrap().end;
        fixture.clock.advance(Duration::from_millis(20));
        fixture.log.wait(&partition, end).await.unwrap();
        fixture.restart().await;
    }
    fixture.advance(Duration::from_secs(1)).await;
    assert_eq!(fixture.status().state, "finished");
    assert_eq!(fixture.numbers().await, (0..300_000).collect::<Vec<_>>());
    assert_eq!(fixture.status().events, 300_000);
}

#[tokio::test]
async fn the_rate_is_by_the_clock() {
    let mut fixture = Fixture::new("datagen", &[SEQUENCE, ("rate", "100")]).await;
    assert_eq!(fixture.numbers().await.len(), 0);
    fixture.advance(Duration::from_secs(1)).await;
    assert_eq!(fixture.numbers().await.len(), 100);
    fixture.restart().await;
    fixture.advance(Duration::from_millis(500)).await;
    assert_eq!(fixture.numbers().await, (0..150).collect::<Vec<_>>());
}

#[tokio::test]
async fn who_is_overtaken_stops() {
    let fixture = Fixture::new("datagen", &[SEQUENCE, ("rate", "100")]).await;
    fixture.advance(Duration::from_secs(1)).await;
    let owner = format!("source/{}-{}", fixture.source.name, fixture.source.id);
    fixture.log.claim(&owner).await.unwrap();
    fixture.advance(Duration::from_secs(1)).await;
    let status = fixture.status();
    assert_eq!(status.state, "failed");
    assert!(status.failure.unwrap().contains("outdated"));
    assert_eq!(fixture.numbers().await.len(), 100);
}

#[tokio::test]
async fn a_stream_that_is_not_there_yet_is_waited_for() {
    let fixture = Fixture::new("datagen", &[SEQUENCE, ("events", "10")]).await;
    fixture.sources.caught_up().await;
    fixture.sources.stop(fixture.source.id).await;
    let spec = fixture.log.topic(&fixture.stream.topic()).await.unwrap().unwrap().spec;
    fixture.log.delete_topic(&spec.name).await.unwrap();
    fixture.sources.forget(&fixture.source).await.unwrap();
    fixture.sources.start(&fixture.source, &Arc::clone(&fixture.stream));
    fixture.sources.caught_up().await;
    assert_eq!(fixture.status().state, "failing");
    fixture.log.create_topic(spec).await.unwrap();
    fixture.advance(Duration::from_secs(1)).await;
    assert_eq!(fixture.status().state, "finished");
    assert_eq!(fixture.numbers().await, (0..10).collect::<Vec<_>>());
}
