//! Session windows: against DataFusion, which numbers sessions with window functions, and what their
//! state takes.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema};
use datafusion::prelude::col;
use headwater_engine::plan::{
    Aggregate, LateRows, Operator, Output, PartialSessions, Pipeline, SessionAggregate, SessionRows, TimeSource,
    ViewKey,
};
use headwater_event::clock::Micros;
use proptest::prelude::*;

use crate::oracle::{Story, by_key, check, check_on_disk, check_open, stories};
use crate::support::*;
use crate::touchy::*;

/// Sessions by key, or of all rows, in one stage or two.
pub fn sessions(partitions: u32, gap: Micros, keyed: bool, stages: usize) -> Pipeline {
    let key = || keyed.then(|| Field::new("key", DataType::Utf8, true));
    let number = |name: &str| Field::new(name, DataType::Int64, false);
    let bound = |name: &str| Field::new(name, time_type(), false);
    let with = |columns: [Field; 2]| columns.into_iter().chain(key()).collect();
    pipeline_with(
        partitions,
        PartialSessions {
            time_column: 0,
            gap,
            groups: key().iter().map(|key| physical(col(key.name()), &schema())).collect(),
            aggregates: aggregates(),
            schema: partial_schema(with([number("start"), number("last")])),
        },
        results_schema(with([bound("window_start"), bound("window_end")]), false),
        stages,
    )
}

fn pipeline_with(
    partitions: u32,
    partial: PartialSessions,
    schema_out: arrow::datatypes::SchemaRef,
    stages: usize,
) -> Pipeline {
    let groups = partial.groups.len();
    let whole = Operator::SessionAggregate(SessionAggregate {
        gap: partial.gap,
        gives: SessionRows::Ended,
        lateness: 0,
        groups,
        aggregates: partial.aggregates.clone(),
        schema: schema_out.clone(),
    });
    let view = to_view(
        &schema_out,
        ViewKey::Columns([0].into_iter().chain(2..2 + groups).collect()),
    );
    let between = partial.schema.clone();
    let from = input("events", partitions, schema(), time_from_rows(LateRows::Drop));
    let partial = Operator::PartialSessions(partial);
    if stages == 1 {
        return pipeline(vec![stage(from, vec![partial, whole], view)]);
    }
    let between_partitions = if groups == 0 { 1 } else { 3 };
    let to_topic = Output::Topic {
        topic: "query-1.0".into(),
        partitions: between_partitions,
        partition_by: (2..2 + groups).collect(),
        first_producer: 0,
    };
    let producers = TimeSource::Producers { producers: partitions };
    pipeline(vec![
        stage(from, vec![partial], to_topic),
        stage(
            input("query-1.0", between_partitions, between, producers),
            vec![whole],
            view,
        ),
    ])
}

fn touchy_sessions(gap: Micros) -> Pipeline {
    let columns = |start: Field, end: Field| {
        let key = Field::new("key", DataType::Utf8, true);
        Arc::new(Schema::new(vec![
            start,
            end,
            key,
            Field::new("sum", DataType::Int64, true),
        ]))
    };
    let number = |name: &str| Field::new(name, DataType::Int64, false);
    let bound = |name: &str| Field::new(name, time_type(), false);
    let aggregate: Aggregate = touchy();
    let partial = PartialSessions {
        time_column: 0,
        gap,
        groups: vec![physical(col("key"), &schema())],
        aggregates: vec![aggregate],
        schema: columns(number("start"), number("last")),
    };
    pipeline_with(1, partial, columns(bound("window_start"), bound("window_end")), 1)
}

pub fn sql(gap: Micros, keyed: bool) -> String {
    let (by, key, and_key) = if keyed {
        ("PARTITION BY key", "key,", ", key")
    } else {
        ("", "", "")
    };
    format!(
        "SELECT min(t), max(t) + {gap}, {key} {ORACLE_AGGREGATES} FROM \
         (SELECT *, sum(begins) OVER ({by} ORDER BY t ROWS UNBOUNDED PRECEDING) AS number FROM \
          (SELECT *, CASE WHEN t - lag(t) OVER ({by} ORDER BY t) < {gap} THEN 0 ELSE 1 END AS begins FROM events)) \
         GROUP BY number{and_key}"
    )
}

pub fn gaps() -> impl Strategy<Value = Micros> {
    prop::sample::select(vec![1, 4, 9, 15, 40])
}

/// Of each key the latest session as it changes, until it ends.
fn latest(partitions: u32, gap: Micros, stages: usize) -> Pipeline {
    let mut pipeline = sessions(partitions, gap, true, stages);
    let last = pipeline.stages.last_mut().unwrap();
    let results = results_schema(vec![Field::new("key", DataType::Utf8, true)], true);
    if let Some(Operator::SessionAggregate(sessions)) = last.operators.last_mut() {
        sessions.gives = SessionRows::Latest;
        sessions.schema = results.clone();
    }
    last.output = to_view(&results, ViewKey::Columns(vec![0]));
    pipeline
}

/// The latest session of each key, if it has not ended when the watermark of all partitions, or of the key's, is where
/// the rows have brought it.
fn latest_sql(gap: Micros, of_all: bool) -> String {
    let reached = if of_all {
        "(SELECT min(r) FROM reached)"
    } else {
        "min(r)"
    };
    format!(
        "WITH reached AS (SELECT p, max(t) - {DELAY} AS r FROM placed GROUP BY p) \
         SELECT key, {ORACLE_AGGREGATES} FROM \
          (SELECT *, max(number) OVER (PARTITION BY key) AS latest FROM \
           (SELECT *, sum(begins) OVER (PARTITION BY key ORDER BY t ROWS UNBOUNDED PRECEDING) AS number FROM \
            (SELECT placed.*, r, CASE WHEN t - lag(t) OVER (PARTITION BY key ORDER BY t) < {gap} THEN 0 ELSE 1 END AS begins \
             FROM placed JOIN reached ON reached.p = placed.p))) \
         WHERE number = latest GROUP BY key HAVING max(t) + {gap} > {reached}"
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_latest_in_one_stage(story in stories(), gap in gaps()) {
        check_open(|story| latest(story.partitions, gap, 1), by_key(story), &latest_sql(gap, false));
    }

    #[test]
    fn the_latest_in_two_stages(story in stories(), gap in gaps()) {
        check_open(|story| latest(story.partitions, gap, 2), with_all_partitions(story), &latest_sql(gap, true));
    }

    #[test]
    fn the_latest_end(story in stories(), gap in gaps()) {
        check(|story| latest(story.partitions, gap, 2), story, "SELECT key FROM events WHERE false");
    }
}

/// Without the partitions that have no rows, on which the others would have to wait.
fn with_all_partitions(mut story: Story) -> Story {
    let used: BTreeSet<u32> = story.rows.iter().map(|(partition, _)| *partition).collect();
    let used: Vec<u32> = used.into_iter().collect();
    for (partition, _) in &mut story.rows {
        *partition = used.binary_search(partition).unwrap() as u32;
    }
    story.partitions = used.len() as u32;
    story
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn in_one_stage(story in stories(), gap in gaps()) {
        check(|story| sessions(story.partitions, gap, true, 1), by_key(story), &sql(gap, true));
    }

    #[test]
    fn in_two_stages(story in stories(), gap in gaps()) {
        check(|story| sessions(story.partitions, gap, true, 2), story, &sql(gap, true));
    }

    #[test]
    fn of_all_rows(story in stories(), gap in 1..4i64) {
        // Rows of one order of time, so that there is more than one session.
        let story = Story { partitions: 1, rows: story.rows.into_iter().map(|(_, row)| (0, row)).collect(), ..story };
        check(|story| sessions(story.partitions, gap, false, 2), by_key(story), &sql(gap, false));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn on_disk(story in stories(), gap in gaps()) {
        check_on_disk(|story| sessions(story.partitions, gap, true, 2), story, &sql(gap, true));
    }
}

fn row(time: Micros, key: &str, value: i64) -> Row {
    Row {
        time: Some(time),
        key: Some(key.to_owned()),
        code: None,
        value: Some(value),
    }
}

/// `start|end|key|rows` of the sessions in the view.
async fn found(world: &World) -> Vec<String> {
    let rows = world.view().await;
    let head = |row: &String| row.split('|').take(4).collect::<Vec<_>>().join("|");
    rows.iter().map(head).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_session_ends_a_gap_after_its_last_event() {
    for stages in [1, 2] {
        let mut world = World::new(sessions(1, 10, true, stages)).await;
        // The row at 32 joins what came as two. The one at 50 is a whole gap behind the one at 40.
        for rows in [[row(25, "a", 1), row(40, "a", 1)], [row(32, "a", 1), row(50, "a", 1)]] {
            world.append(0, &rows).await;
            world.caught_up().await;
            world.restart().await;
        }
        world.append(0, &[row(49 + DELAY, "b", 1)]).await;
        world.caught_up().await;
        assert!(found(&world).await.is_empty(), "the watermark is just below the end");
        world.append(0, &[row(50 + DELAY, "b", 1)]).await;
        world.caught_up().await;
        assert_eq!(found(&world).await, ["25|50|a|3"]);
        // Late for what has ended; in time for what has not.
        world.append(0, &[row(49, "a", 1), row(59, "a", 1)]).await;
        world.restart().await;
        world.append(0, &[row(END, "end", 1)]).await;
        world.caught_up().await;
        assert_eq!(found(&world).await, ["25|50|a|3", "50|69|a|2", "69|80|b|2"]);
        let table = format!("query-1.{}.{}", stages - 1, 2 - stages);
        let left = world.log.state(&table).await.unwrap().scan(&[]).count();
        assert_eq!(left, 1, "only the last row's session is left");
    }
}

/// Many small epochs, many keys, a session that goes on for ever: neither entries nor groups pile up.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn state_is_rewritten_and_nothing_is_lost() {
    let mut world = World::new(sessions(1, 100, true, 1)).await;
    let table = "query-1.0.1";
    let mut expected = BTreeSet::new();
    for epoch in 0..120 {
        let time = epoch * 30;
        let mut rows: Vec<Row> = (0..40)
            .map(|number| row(time, &format!("{epoch}-{number}"), 1))
            .collect();
        expected.extend((0..40).map(|number| format!("{time}|{}|{epoch}-{number}|1", time + 100)));
        rows.push(row(time, "always", 1));
        world.append(0, &rows).await;
        world.caught_up().await;
        if epoch % 50 == 49 {
            world.restart().await;
        }
        let entries: Vec<_> = world
            .log
            .state(table)
            .await
            .unwrap()
            .scan(&[])
            .map(Result::unwrap)
            .collect();
        assert!(entries.len() < 20, "{} entries", entries.len());
    }
    world.append(0, &[row(END, "end", 1)]).await;
    world.caught_up().await;
    expected.insert(format!("0|{}|always|120", 119 * 30 + 100));
    let found: BTreeSet<String> = found(&world).await.into_iter().collect();
    assert_eq!(found, expected);
}

/// What can't be merged is left out, and so is a session without a result; all else goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_fails_goes_alone() {
    let mut world = World::new(touchy_sessions(10)).await;
    let epochs = [
        [
            row(1, "a", 1),
            row(2, "a", FAILS),
            row(3, "b", PANICS),
            row(4, "b", 600),
            row(4, "c", 660),
        ],
        [
            row(5, "a", 2),
            row(5, "b", 600),
            row(6, "b", 1),
            row(6, "c", NO_RESULT - 660),
            row(7, "d", FAILS),
        ],
        [
            row(9, "a", 4),
            row(9, "b", 7),
            row(9, "c", 0),
            row(9, "d", 8),
            row(9, "e", 16),
        ],
    ];
    for rows in epochs {
        world.append(0, &rows).await;
        world.caught_up().await;
        world.restart().await;
    }
    world.append(0, &[row(END, "end", 0)]).await;
    world.caught_up().await;
    assert_eq!(found(&world).await, ["1|19|a|7", "4|19|b|607", "9|19|d|8", "9|19|e|16"]);
    let letters = world.dead_letters("aggregate").await;
    // Of b two: in an epoch in which a row failed, states come in pieces.
    assert_eq!(letters.len(), 6, "{letters:?}");
    let status = world.running.as_ref().unwrap().status();
    assert!(status.iter().all(|task| task.restarts == 0), "{status:?}");
}
