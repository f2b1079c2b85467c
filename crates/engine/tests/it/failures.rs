//! Rows that can't be computed, live queries, and what is left when a query goes.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::{DataType, Field, Schema};
use datafusion::prelude::{col, lit};
use headwater_engine::plan::{LateRows, Operator, Pipeline, Project, ViewKey};

use crate::oracle::{HOP, TUMBLE, window_pipeline_of};
use crate::support::*;

fn row(value: i64) -> Row {
    Row {
        time: Some(value),
        key: Some("k".to_owned()),
        code: None,
        value: Some(value),
    }
}

fn divides() -> Pipeline {
    let projected = Arc::new(Schema::new(vec![Field::new("part", DataType::Int64, true)]));
    let project = Operator::Project(Project {
        expressions: vec![physical(lit(100i64) / col("v"), &schema())],
        schema: projected.clone(),
    });
    let input = input("events", 1, schema(), time_from_rows(LateRows::Keep));
    pipeline(vec![stage(
        input,
        vec![project],
        to_view(&projected, ViewKey::Position),
    )])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_row_that_fails_goes_alone() {
    let world = World::new(divides()).await;
    world.append(0, &[row(1), row(2), row(0), row(4), row(0), row(5)]).await;
    world.caught_up().await;
    assert_eq!(
        world.view().await,
        sorted(["100", "50", "25", "20"].map(str::to_owned).to_vec())
    );
    let letters = world.dead_letters("evaluate").await;
    assert_eq!(letters.len(), 2);
    assert!(
        letters[0].contains("zero") && letters[0].contains("(events[0], offset 2)"),
        "{letters:?}"
    );
    assert!(letters[1].contains("(events[0], offset 4)"), "{letters:?}");
}

/// Many small epochs of one slice do not pile up in the store.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_slice_is_rewritten_now_and_then() {
    for window in [TUMBLE, HOP] {
        let mut world = World::new(window_pipeline_of(1, window, 1)).await;
        for epoch in 0..200 {
            world.append(0, &[row(5)]).await;
            world.caught_up().await;
            if epoch % 90 == 89 {
                world.restart().await;
            }
        }
        let table = world.log.state("query-1.0.1").await.unwrap();
        assert!((1..80).contains(&table.scan(&[]).count()));
        world.append(0, &[row(END)]).await;
        world.caught_up().await;
        let view = world.view().await;
        assert_eq!(view.len() as i64, window.size / window.slide);
        assert!(view.iter().all(|row| row.contains("|k|200|1000|")), "{view:?}");
        assert_eq!(table.scan(&[]).count(), 1, "only the last row's slice is left");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_live_query_leaves_nothing_behind() {
    let world = World::new(window_pipeline_of(1, TUMBLE, 2)).await;
    let before = world.log.topics().await.unwrap().len();
    let mut live = world
        .engine
        .live(window_pipeline_of(1, TUMBLE, 2), HashMap::new())
        .await
        .unwrap();
    world.append(0, &[row(1), row(2), row(END)]).await;
    let rows = tokio::time::timeout(Duration::from_secs(10), live.recv())
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    assert!(texts(&rows)[0].starts_with("0|30|k|2|"));
    world.caught_up().await;
    assert_eq!(world.view().await.len(), 1);
    assert_eq!(world.log.topics().await.unwrap().len(), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_dropped_query_begins_anew() {
    let mut world = World::new(window_pipeline_of(1, TUMBLE, 2)).await;
    world.append(0, &[row(1), row(END)]).await;
    world.caught_up().await;
    world.running.take().unwrap().stop().await;
    world.engine.drop_pipeline(&world.pipeline).await.unwrap();
    assert!(world.log.topic("query-1.0").await.unwrap().is_none());
    assert!(world.log.topic("view.changes").await.unwrap().is_none());
    world.start().await;
    world.caught_up().await;
    assert_eq!(world.view().await.len(), 1);
}
