//! Lateness, idle partitions, equal times: what event time does, apart from what is computed. What becomes of the rows of
//! idle partitions, however the tasks' epochs fall, is for the simulator to show (`sql/tests/simulation/idle.rs`).

use std::time::Duration;

use headwater_engine::plan::{LateRows, Operator, Output, ViewKey, Window};
use headwater_event::clock::Micros;
use proptest::prelude::*;

use crate::lateness::allowing;
use crate::oracle::{CUMULATE, HOP, TUMBLE, window_pipeline_of};
use crate::session::sessions;
use crate::support::*;

fn row(time: Micros) -> Row {
    Row {
        time: Some(time),
        key: Some("k".to_owned()),
        code: None,
        value: Some(1),
    }
}

fn rows_to_view(late: LateRows, partitions: u32) -> headwater_engine::plan::Pipeline {
    let filter = Operator::Filter(headwater_engine::plan::Filter {
        predicate: physical(datafusion::prelude::lit(true), &schema()),
    });
    let input = input("events", partitions, schema(), time_from_rows(late));
    pipeline(vec![stage(input, vec![filter], to_view(&schema(), ViewKey::Position))])
}

fn to_dead_letters() -> LateRows {
    LateRows::DeadLetter {
        topic: "dead_letters".into(),
        stream: "events".into(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn late_is_late_in_any_batching(
        times in prop::collection::vec(-100..100i64, 1..100),
        batches in prop::collection::vec((1..20usize, any::<bool>()), 1..6),
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.block_on(async {
            let mut world = World::new(rows_to_view(to_dead_letters(), 1)).await;
            let mut rest = times.as_slice();
            for (count, restart) in batches.iter().cycle() {
                let (now, later) = rest.split_at(rest.len().min(*count));
                world.append(0, &now.iter().map(|&time| row(time)).collect::<Vec<_>>()).await;
                rest = later;
                if *restart {
                    world.restart().await;
                }
                if rest.is_empty() {
                    break;
                }
            }
            world.caught_up().await;
            let mut greatest = Micros::MIN / 2;
            let mut in_time = 0;
            for &time in &times {
                if time >= greatest - DELAY {
                    in_time += 1;
                    greatest = greatest.max(time);
                }
            }
            assert_eq!(world.view().await.len(), in_time);
            assert_eq!(world.dead_letters("late").await.len(), times.len() - in_time);
        });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn rows_without_a_time_go_to_the_dead_letters() {
    let world = World::new(rows_to_view(to_dead_letters(), 1)).await;
    let nothing = Row { time: None, ..row(0) };
    let absurd = row(Micros::MAX - 1);
    world.append(0, &[row(1), nothing, absurd, row(2)]).await;
    world.caught_up().await;
    assert_eq!(world.view().await.len(), 2);
    world.append(0, &[row(END), row(3)]).await;
    world.caught_up().await;
    for (reason, offset) in [("null_time", 1), ("time_range", 2), ("late", 5)] {
        let letters = world.dead_letters(reason).await;
        let place = format!("(events[0], offset {offset})");
        assert!(letters.len() == 1 && letters[0].contains(&place), "{letters:?}");
    }
}

/// The rows that an idle partition's windows give have places of their own in a view without a
/// key, though nothing was read between them, over a restart too.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn rows_of_windows_have_places_of_their_own() {
    let mut pipeline = window_pipeline_of(2, TUMBLE, 1);
    let Output::View { key, .. } = &mut pipeline.stages[0].output else {
        panic!("not a view")
    };
    *key = ViewKey::Position;
    let mut world = World::new(pipeline).await;
    world
        .append(1, &[row(5), row(10), row(10), row(35), row(40), row(65)])
        .await;
    world.caught_up().await;
    for (windows, time) in [(1, 50 + DELAY), (2, 75 + DELAY), (3, 120 + DELAY)] {
        world.append(0, &[row(time)]).await;
        world.caught_up().await;
        world.clock.advance(Duration::from_secs(11));
        world.append(0, &[row(time)]).await;
        world.caught_up().await;
        let rows = world.view().await;
        let of_idle = rows
            .iter()
            .filter(|row| ["0|", "30|", "60|"].iter().any(|start| row.starts_with(start)));
        assert!(of_idle.count() >= windows, "{rows:?}");
        world.restart().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn rows_of_one_time_are_all_counted() {
    let world = World::new(window_pipeline_of(1, TUMBLE, 1)).await;
    for _ in 0..5 {
        world.append(0, &[row(29), row(29)]).await;
        world.caught_up().await;
    }
    world.append(0, &[row(END)]).await;
    world.caught_up().await;
    assert!(world.view().await[0].starts_with("0|30|k|10|"));
}

/// With one stage and with two: a partition without rows holds nothing up once it is idle.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_idle_partition_holds_nothing_up() {
    let of = |key: &str, time| Row {
        key: Some(key.to_owned()),
        ..row(time)
    };
    for stages in [1, 2] {
        let mut world = World::new(window_pipeline_of(2, TUMBLE, stages)).await;
        world.append(1, &[of("b", 5)]).await;
        world.caught_up().await;
        world.clock.advance(Duration::from_secs(5));
        world.append(0, &[of("a", 7), of("a", END)]).await;
        world.caught_up().await;
        let closed = if stages == 1 { 1 } else { 0 };
        assert_eq!(
            world.view().await.len(),
            closed,
            "{stages} stages: partition 1 may have more rows"
        );
        world.clock.advance(Duration::from_secs(6));
        world.caught_up().await;
        let expected = world.view().await;
        assert_eq!(expected.len(), 2, "{stages} stages");
        // What comes after all, comes late; before and after a restart.
        world.append(1, &[of("b", 6)]).await;
        world.restart().await;
        world.append(1, &[of("b", 6)]).await;
        world.caught_up().await;
        let status = world.running.as_ref().unwrap().status();
        assert!(status.iter().map(|task| task.late_rows).sum::<u64>() >= 1);
        assert_eq!(world.view().await, expected);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_query_may_begin_at_the_end() {
    let mut pipeline = rows_to_view(LateRows::Keep, 1);
    pipeline.stages[0].input.from_latest = true;
    let mut world = World::new(pipeline).await;
    world.caught_up().await;
    world.append(0, &[row(1)]).await;
    world.restart().await;
    world.caught_up().await;
    assert_eq!(world.view().await.len(), 1);
    let other = headwater_engine::plan::Pipeline {
        name: "query-2".into(),
        ..world.pipeline.clone()
    };
    let late = world.engine.start(other).await.unwrap();
    late.caught_up().await;
    assert_eq!(world.view().await.len(), 1);
}

/// The greatest time that can be computed with, and the longest window that SQL lets in.
const TIME_MAX: Micros = Micros::MAX / 4;
const SPAN_MAX: Micros = 3_652_500 * 24 * 60 * 60 * 1_000_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn nothing_overflows_at_the_edges_of_time() {
    let windows = [
        TUMBLE,
        HOP,
        CUMULATE,
        Window::hopping(SPAN_MAX, SPAN_MAX, SPAN_MAX - 1),
        Window::hopping(SPAN_MAX, SPAN_MAX / 7, 5),
        Window::cumulating(SPAN_MAX, SPAN_MAX / 4, 3),
    ];
    let mut pipelines = Vec::new();
    for stages in [1, 2] {
        pipelines.extend(windows.map(|window| window_pipeline_of(1, window, stages)));
        pipelines.push(sessions(1, 1, true, stages));
        pipelines.push(sessions(1, SPAN_MAX, true, stages));
    }
    for mut pipeline in pipelines {
        for lateness in [0, 50, Micros::MAX] {
            pipeline.stages[0].input.time = time_from_rows(to_dead_letters());
            let pipeline = match lateness {
                0 => pipeline.clone(),
                _ => allowing(pipeline.clone(), lateness),
            };
            let mut world = World::new(pipeline).await;
            let beyond = [
                row(TIME_MAX + 1),
                row(-TIME_MAX - 1),
                row(Micros::MAX),
                row(Micros::MIN),
            ];
            for rows in [
                vec![row(-TIME_MAX); 2],
                beyond.to_vec(),
                vec![row(-1), row(0)],
                vec![row(TIME_MAX), row(-TIME_MAX)],
            ] {
                world.append(0, &rows).await;
                world.restart().await;
                world.caught_up().await;
            }
            let status = world.running.as_ref().unwrap().status();
            assert!(status.iter().all(|task| task.restarts == 0), "{status:?}");
            assert_eq!(world.dead_letters("time_range").await.len(), 4);
            let late = if lateness == Micros::MAX { 0 } else { 1 };
            assert_eq!(world.dead_letters("late").await.len(), late);
            let count = |row: &String| row.split('|').nth(3).unwrap().parse::<usize>().unwrap();
            let rows = world.view().await;
            let first = rows.iter().map(count).max();
            assert_eq!(first, Some(if late == 0 { 3 } else { 2 }), "{rows:?}");
        }
    }
}
