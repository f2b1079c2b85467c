//! What lies between two stages goes when it has been read.

use std::time::Duration;

use headwater_event::offset::TopicPartition;

use crate::support::*;
use crate::touchy::*;

fn row(value: i64) -> Row {
    Row {
        time: Some(1),
        key: Some(format!("k{}", value % 10)),
        code: None,
        value: Some(1),
    }
}

async fn batches_between(world: &World) -> usize {
    let mut batches = 0;
    for partition in 0..2 {
        let partition = TopicPartition::new("query-1.0", partition);
        batches += world.log.read(&partition, 0, usize::MAX, None).await.unwrap().len();
    }
    batches
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn batches_between_stages_go_when_they_have_been_read() {
    let mut world = World::new(pipeline_of(touchy(), None, false, 2)).await;
    for epoch in 0..200 {
        let rows: Vec<Row> = (0..10).map(row).collect();
        world.append(0, &rows).await;
        world.caught_up().await;
        if epoch == 150 {
            world.restart().await;
        }
    }
    let left = batches_between(&world).await;
    assert!((1..=2 * 64).contains(&left), "{left} batches are left");
    let first = world
        .log
        .offsets(&TopicPartition::new("events", 0))
        .await
        .unwrap()
        .start;
    assert_eq!(first, 0, "a stream is not for the query to trim");
    assert_eq!(world.view().await.len(), 10);
    assert!(world.view().await.iter().all(|row| row.ends_with("|200")));
    // However few there are, none stays for long.
    world.clock.advance(Duration::from_secs(31));
    world.append(0, &(0..10).map(row).collect::<Vec<_>>()).await;
    world.caught_up().await;
    let left_later = batches_between(&world).await;
    assert!(
        left > 4 && left_later <= 4,
        "{left}, then {left_later} batches are left"
    );
}
