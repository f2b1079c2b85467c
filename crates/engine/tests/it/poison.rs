//! Rows and groups that aggregates can't bear go to the dead letters; all else goes on.

use headwater_engine::plan::{AssignWindows, LateRows, Operator, ViewKey, Window};

use crate::oracle::{HOP, MANY, TUMBLE};
use crate::support::*;
use crate::touchy::*;

fn row(time: i64, key: &str, value: i64) -> Row {
    Row {
        time: Some(time),
        key: Some(key.to_owned()),
        code: None,
        value: Some(value),
    }
}

fn end() -> Row {
    row(END, "end", 0)
}

async fn never_restarted(world: &World) {
    let status = world.running.as_ref().unwrap().status();
    assert!(status.iter().all(|task| task.restarts == 0), "{status:?}");
}

/// The rows of the keys a and b, as `key|sum`.
async fn sums(world: &World) -> Vec<String> {
    let rows = world.view().await;
    let of = |row: &String| {
        row.split('|')
            .rev()
            .take(2)
            .collect::<Vec<_>>()
            .into_iter()
            .rev()
            .collect::<Vec<_>>()
            .join("|")
    };
    rows.iter().map(of).filter(|row| !row.starts_with("end")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn rows_that_an_aggregate_fails_on_go_alone() {
    for (window, stages) in [(None, 1), (None, 2), (Some(TUMBLE), 1), (Some(TUMBLE), 2)] {
        let mut world = World::new(pipeline_of(touchy(), window, false, stages)).await;
        world.append(0, &[row(1, "a", 1), row(2, "b", 2)]).await;
        world.caught_up().await;
        let rows = [
            row(3, "a", 10),
            row(4, "a", FAILS),
            row(5, "b", 20),
            row(6, "b", PANICS),
            row(7, "c", FAILS),
            row(8, "a", 100),
        ];
        world.append(0, &rows).await;
        world.caught_up().await;
        never_restarted(&world).await;
        world.restart().await;
        world.append(0, &[row(9, "b", 200), end()]).await;
        world.caught_up().await;
        assert_eq!(sums(&world).await, ["a|111", "b|222"], "{window:?}, {stages} stages");
        let letters = world.dead_letters("aggregate").await;
        assert_eq!(letters.len(), 3, "{letters:?}");
        assert!(letters[0].contains("events[0], offsets 2 to 7"), "{letters:?}");
        assert_eq!(
            letters.iter().filter(|letter| letter.contains("can't bear 13")).count(),
            2
        );
        assert_eq!(
            letters
                .iter()
                .filter(|letter| letter.contains("can't bear 14 at all"))
                .count(),
            1
        );
        never_restarted(&world).await;
    }
}

/// The group keeps what it had; the others are as if nothing was.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_group_that_can_not_be_merged_stays_as_it_was() {
    for stages in [1, 2] {
        let mut world = World::new(pipeline_of(touchy(), None, false, stages)).await;
        for (a, b) in [(600, 1), (600, 2), (300, 3), (NO_RESULT - 900, 4)] {
            world.append(0, &[row(1, "a", a), row(2, "b", b)]).await;
            world.caught_up().await;
        }
        assert_eq!(sums(&world).await, ["a|900", "b|10"]);
        assert_eq!(world.dead_letters("aggregate").await.len(), 2);
        never_restarted(&world).await;
        world.restart().await;
        world.append(0, &[row(1, "a", 50)]).await;
        world.caught_up().await;
        assert_eq!(sums(&world).await, ["a|950", "b|10"]);
    }
}

/// Such a group has no row in the window; the other groups have theirs.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_group_without_a_result_is_left_out_of_its_window() {
    for (window, emit_changes) in [
        (TUMBLE, false),
        (HOP, false),
        (MANY, false),
        (TUMBLE, true),
        (HOP, true),
    ] {
        for sums_of_a in [[600, 600, 7], [NO_RESULT - 7, 6, 1]] {
            let mut world = World::new(pipeline_of(touchy(), Some(window), emit_changes, 1)).await;
            for (epoch, a) in sums_of_a.into_iter().enumerate() {
                world.append(0, &[row(5, "a", a), row(6, "b", 2)]).await;
                world.caught_up().await;
                if epoch == 1 {
                    world.restart().await;
                }
            }
            world.append(0, &[end()]).await;
            world.caught_up().await;
            let windows = (window.size / window.slide) as usize;
            assert_eq!(sums(&world).await, vec!["b|6"; windows], "{window:?}, {emit_changes}");
            assert!(!world.dead_letters("aggregate").await.is_empty());
            never_restarted(&world).await;
        }
    }
}

/// A slice that is broken in memory is rewritten no more, and nothing of it is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_broken_slice_goes_on_in_many_epochs() {
    let mut world = World::new(pipeline_of(touchy(), Some(TUMBLE), false, 1)).await;
    for epoch in 0..150 {
        world.append(0, &[row(5, "a", 10), row(6, "b", 2)]).await;
        world.caught_up().await;
        if epoch == 120 {
            world.restart().await;
        }
    }
    world.append(0, &[end()]).await;
    world.caught_up().await;
    assert_eq!(sums(&world).await, ["b|300"]);
    never_restarted(&world).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn rows_without_a_time_are_in_no_window_and_not_forgotten() {
    let mut fields: Vec<_> = schema().fields().iter().map(|field| field.as_ref().clone()).collect();
    for name in ["window_start", "window_end", "window_time"] {
        fields.push(arrow::datatypes::Field::new(name, time_type(), false));
    }
    let with_windows = std::sync::Arc::new(arrow::datatypes::Schema::new(fields));
    let windows = Operator::AssignWindows(AssignWindows {
        time_column: 0,
        window: Window::hopping(10, 10, 0),
        schema: with_windows.clone(),
    });
    let from = input("events", 1, schema(), time_from_rows(LateRows::Keep));
    let view = to_view(&with_windows, ViewKey::Position);
    let world = World::new(pipeline(vec![stage(from, vec![windows], view)])).await;
    let nothing = Row {
        time: None,
        ..row(0, "none", 1)
    };
    world.append(0, &[row(1, "a", 1), nothing, row(2, "b", 1)]).await;
    world.caught_up().await;
    assert_eq!(world.view().await.len(), 2);
    let letters = world.dead_letters("null_time").await;
    assert_eq!(letters.len(), 1);
    assert!(letters[0].contains("events[0], offsets 0 to 2"), "{letters:?}");
}
