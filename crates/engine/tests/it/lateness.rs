//! Windows that late rows correct: whatever comes within the allowance counts, in any batching and with restarts, and
//! nothing else does.

use headwater_engine::plan::{LateRows, Operator, Pipeline, TimeSource, Window};
use headwater_event::clock::Micros;
use headwater_event::op::changelog_schema;
use proptest::prelude::*;

use crate::oracle::{
    CUMULATE, HOP, MANY, Story, TUMBLE, by_key, check_counting, stories, window_pipeline, window_pipeline_of,
    window_sql,
};
use crate::session::{gaps, sessions, sql as sessions_sql};
use crate::support::*;

/// The pipeline with an allowance for lateness.
pub fn allowing(mut pipeline: Pipeline, allowed: Micros) -> Pipeline {
    for stage in &mut pipeline.stages {
        if let TimeSource::Rows { lateness, .. } = &mut stage.input.time {
            *lateness = allowed;
        }
        for operator in &mut stage.operators {
            match operator {
                Operator::WindowAggregate(windows) => {
                    windows.lateness = allowed;
                    if !windows.emit_changes {
                        windows.schema = changelog_schema(&windows.schema);
                    }
                }
                Operator::SessionAggregate(sessions) => {
                    sessions.lateness = allowed;
                    sessions.schema = changelog_schema(&sessions.schema);
                }
                _ => {}
            }
        }
    }
    pipeline
}

/// The story with rows that come so much later than they did.
fn delayed(mut story: Story, delays: &[Micros]) -> Story {
    for ((_, row), delay) in story.rows.iter_mut().zip(delays) {
        row.time = row.time.map(|time| time - delay);
    }
    story
}

/// The rows of the story that are not later than is allowed for.
fn counted(story: &Story, allowed: Micros) -> Story {
    let mut greatest = vec![Micros::MIN / 2; story.partitions as usize];
    let mut counted = story.clone();
    counted.rows.retain(|(partition, row)| {
        let (greatest, time) = (&mut greatest[*partition as usize], row.time.unwrap());
        let is_in_time = time >= *greatest - DELAY - allowed;
        *greatest = time.max(*greatest);
        is_in_time
    });
    counted
}

fn delays() -> impl Strategy<Value = Vec<Micros>> {
    let delay = prop_oneof![2 => Just(0), 3 => 0..5 * DELAY];
    prop::collection::vec(delay, 150)
}

fn windows() -> impl Strategy<Value = Window> {
    prop::sample::select(vec![TUMBLE, HOP, MANY, CUMULATE])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn windows_are_corrected(
        story in stories(),
        delays in delays(),
        window in windows(),
        allowed in 1..4 * DELAY,
        two_stages in any::<bool>(),
        emit_changes in any::<bool>(),
    ) {
        let stages = if two_stages { 2 } else { 1 };
        let story = delayed(if two_stages { story } else { by_key(story) }, &delays);
        let pipeline = allowing(window_pipeline(&story, window, stages, emit_changes), allowed);
        check_counting(pipeline, &story, &counted(&story, allowed), &window_sql(window));
    }

    #[test]
    fn sessions_are_corrected(
        story in stories(),
        delays in delays(),
        gap in gaps(),
        allowed in 1..4 * DELAY,
        two_stages in any::<bool>(),
    ) {
        let stages = if two_stages { 2 } else { 1 };
        let story = delayed(if two_stages { story } else { by_key(story) }, &delays);
        let pipeline = allowing(sessions(story.partitions, gap, true, stages), allowed);
        check_counting(pipeline, &story, &counted(&story, allowed), &sessions_sql(gap, true));
    }
}

fn row(time: Micros, value: i64) -> Row {
    Row {
        time: Some(time),
        key: Some("k".to_owned()),
        code: None,
        value: Some(value),
    }
}

pub fn to_dead_letters(mut pipeline: Pipeline) -> Pipeline {
    if let TimeSource::Rows { late, .. } = &mut pipeline.stages[0].input.time {
        *late = LateRows::DeadLetter {
            topic: "dead_letters".into(),
            stream: "events".into(),
        };
    }
    pipeline
}

/// `start|end|key|rows|sum` of what is in the view.
async fn found(world: &World) -> Vec<String> {
    let rows = world.view().await;
    let head = |row: &String| row.split('|').take(5).collect::<Vec<_>>().join("|");
    rows.iter().map(head).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_window_is_corrected_until_its_allowance_is_over() {
    for stages in [1, 2] {
        let pipeline = to_dead_letters(allowing(window_pipeline_of(1, TUMBLE, stages), 50));
        let mut world = World::new(pipeline).await;
        world.append(0, &[row(10, 1), row(29 + DELAY, 0)]).await;
        world.caught_up().await;
        assert!(found(&world).await.is_empty(), "the watermark is just below the end");
        world.append(0, &[row(30 + DELAY, 0)]).await;
        world.caught_up().await;
        assert_eq!(found(&world).await, ["0|30|k|1|1"]);
        // Late, and counted; at the very end of the allowance too; and not any more.
        for (time, value, expected) in [(5, 2, "0|30|k|2|3"), (0, 4, "0|30|k|3|7")] {
            world.restart().await;
            world.append(0, &[row(time, value)]).await;
            world.caught_up().await;
            assert_eq!(found(&world).await, [expected]);
        }
        world
            .append(0, &[row(29 + 50 + DELAY, 0), row(29, 8), row(28, 16)])
            .await;
        world.caught_up().await;
        assert_eq!(found(&world).await[0], "0|30|k|4|15");
        let letters = world.dead_letters("late").await;
        assert!(letters.len() == 1 && letters[0].contains("offset 7"), "{letters:?}");
        world.append(0, &[row(END, 0)]).await;
        world.caught_up().await;
        let table = format!("query-1.{}.{}", stages - 1, 2 - stages);
        let left = world.log.state(&table).await.unwrap().scan(&[]).count();
        assert_eq!(left, 1, "only the last row's window is left");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn sessions_that_have_ended_become_one() {
    for stages in [1, 2] {
        let pipeline = allowing(sessions(1, 10, true, stages), 100);
        let mut world = World::new(pipeline).await;
        world.append(0, &[row(0, 1), row(15, 2), row(60 + DELAY, 0)]).await;
        world.caught_up().await;
        assert_eq!(found(&world).await, ["0|10|k|1|1", "15|25|k|1|2"]);
        // One more on its own, which ends at once; then what joins two.
        world.restart().await;
        world.append(0, &[row(40, 4)]).await;
        world.caught_up().await;
        assert_eq!(found(&world).await, ["0|10|k|1|1", "15|25|k|1|2", "40|50|k|1|4"]);
        world.restart().await;
        world.append(0, &[row(8, 8)]).await;
        world.caught_up().await;
        assert_eq!(found(&world).await, ["0|25|k|3|11", "40|50|k|1|4"]);
        // What reaches into a session that is still open takes away what had ended.
        world.restart().await;
        world.append(0, &[row(48, 1), row(57, 1), row(66, 1), row(72, 1)]).await;
        world.caught_up().await;
        assert_eq!(found(&world).await, ["0|25|k|3|11"]);
        world.append(0, &[row(END, 0)]).await;
        world.caught_up().await;
        assert_eq!(found(&world).await, ["0|25|k|3|11", "40|90|k|6|8"]);
        let table = format!("query-1.{}.{}", stages - 1, 2 - stages);
        let left = world.log.state(&table).await.unwrap().scan(&[]).count();
        assert_eq!(left, 1, "only the last row's session is left");
    }
}
