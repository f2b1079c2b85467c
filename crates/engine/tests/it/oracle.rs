//! For random rows, batching, partitions and restarts, a query's final result is what DataFusion
//! gives for the same rows as a batch.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray, UInt32Array};
use arrow::datatypes::{DataType, Field, Schema};
use datafusion::datasource::MemTable;
use datafusion::prelude::{SessionContext, col, lit};
use headwater_engine::plan::{
    AssignWindows, ChangelogAggregate, Filter, LateRows, Operator, Output, PartialAggregate, Pipeline, Project, Stage,
    TimeSource, ViewKey, Window, WindowAggregate,
};
use headwater_event::partition::partitions_of;
use proptest::prelude::*;

use crate::support::*;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    Nothing,
    CatchUp,
    Restart,
    TakeOver,
}

#[derive(Clone, Debug)]
pub struct Story {
    pub partitions: u32,
    pub rows: Vec<(u32, Row)>,
    pub batches: Vec<(usize, Then)>,
}

pub fn stories() -> impl Strategy<Value = Story> {
    let key = prop_oneof![
        1 => Just(None),
        8 => (0..6u8).prop_map(|key| Some(if key == 0 { String::new() } else { format!("k{key}") })),
    ];
    let row = (
        any::<u32>(),
        0..6i64,
        0..=DELAY,
        key,
        prop::option::weighted(0.9, 0..4i64),
        prop::option::weighted(0.9, -5..30i64),
    );
    let then = prop_oneof![
        4 => Just(Then::Nothing), 2 => Just(Then::CatchUp), 2 => Just(Then::Restart), 1 => Just(Then::TakeOver)
    ];
    (
        1..4u32,
        prop::collection::vec(row, 1..150),
        prop::collection::vec((1..25usize, then), 1..12),
    )
        .prop_map(|(partitions, rows, batches)| {
            let mut base = vec![-100; partitions as usize];
            let rows = rows.into_iter().map(|(partition, step, jitter, key, code, value)| {
                let partition = partition % partitions;
                base[partition as usize] += step;
                let time = Some(base[partition as usize] + jitter);
                (partition, Row { time, key, code, value })
            });
            Story {
                partitions,
                rows: rows.collect(),
                batches,
            }
        })
}

/// Rows to the partition of their key, as for a stream with `PARTITION BY key`. In one order of
/// time, which every partition then keeps to.
pub fn by_key(mut story: Story) -> Story {
    let keys: ArrayRef = Arc::new(
        story
            .rows
            .iter()
            .map(|(_, row)| row.key.clone())
            .collect::<StringArray>(),
    );
    let assigned = partitions_of(&[keys], story.rows.len(), story.partitions).unwrap();
    let mut base = -100;
    for (place, ((partition, row), assigned)) in story.rows.iter_mut().zip(assigned).enumerate() {
        *partition = assigned;
        base += (place % 3) as i64;
        row.time = Some(base + row.time.unwrap().rem_euclid(DELAY));
    }
    story
}

async fn tell(mut world: World, story: &Story) -> Vec<String> {
    tell_rows(&mut world, story).await;
    for partition in 0..story.partitions {
        let end = Row {
            time: Some(END),
            key: Some(format!("end {partition}")),
            code: None,
            value: Some(1),
        };
        world.append(partition, &[end]).await;
    }
    world.caught_up().await;
    world.restart().await;
    world.caught_up().await;
    let rows = world.view().await;
    rows.into_iter().filter(|row| !row.contains("end")).collect()
}

async fn tell_rows(world: &mut World, story: &Story) {
    let mut rest = story.rows.as_slice();
    for (count, then) in story.batches.iter().cycle() {
        let (now, later) = rest.split_at(rest.len().min(*count));
        rest = later;
        for partition in 0..story.partitions {
            let rows: Vec<Row> = now
                .iter()
                .filter(|(to, _)| *to == partition)
                .map(|(_, row)| row.clone())
                .collect();
            if !rows.is_empty() {
                world.append(partition, &rows).await;
            }
        }
        match then {
            Then::Nothing => {}
            Then::CatchUp => world.caught_up().await,
            Then::Restart => world.restart().await,
            Then::TakeOver => world.take_over().await,
        }
        if rest.is_empty() {
            break;
        }
    }
}

async fn oracle(story: &Story, sql: &str) -> Vec<String> {
    let rows: Vec<Row> = story.rows.iter().map(|(_, row)| row.clone()).collect();
    let rows = batch(&rows);
    let context = SessionContext::new();
    let register = |name: &str, rows: RecordBatch| {
        let table = MemTable::try_new(rows.schema(), vec![vec![rows]]).unwrap();
        context.register_table(name, Arc::new(table)).unwrap();
    };
    register("events", rows.clone());
    // With the partition of each.
    let partitions = story
        .rows
        .iter()
        .map(|(partition, _)| *partition)
        .collect::<UInt32Array>();
    let mut fields: Vec<_> = rows.schema().fields().iter().cloned().collect();
    fields.push(Arc::new(Field::new("p", DataType::UInt32, false)));
    let columns = rows.columns().iter().cloned().chain([Arc::new(partitions) as ArrayRef]);
    let placed = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns.collect());
    register("placed", placed.unwrap());
    let batches = context.sql(sql).await.unwrap().collect().await.unwrap();
    sorted(batches.iter().flat_map(texts).collect())
}

pub fn check(pipeline: impl FnOnce(&Story) -> Pipeline, story: Story, sql: &str) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let found = tell(World::new(pipeline(&story)).await, &story).await;
        assert_eq!(found, oracle(&story, sql).await);
    });
}

/// The same without an end: the watermark stays where the rows have brought it. In the table `placed` the rows have their
/// partition, `p`.
pub fn check_open(pipeline: impl FnOnce(&Story) -> Pipeline, story: Story, sql: &str) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut world = World::new(pipeline(&story)).await;
        tell_rows(&mut world, &story).await;
        world.caught_up().await;
        world.restart().await;
        world.caught_up().await;
        assert_eq!(world.view().await, oracle(&story, sql).await);
    });
}

/// The same where only some of the rows count.
pub fn check_counting(pipeline: Pipeline, story: &Story, counted: &Story, sql: &str) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let found = tell(World::new(pipeline).await, story).await;
        assert_eq!(found, oracle(counted, sql).await);
    });
}

/// The same on a log on disk, which every restart opens anew.
pub fn check_on_disk(pipeline: impl FnOnce(&Story) -> Pipeline, story: Story, sql: &str) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let found = tell(World::on_disk(pipeline(&story)).await, &story).await;
        assert_eq!(found, oracle(&story, sql).await);
    });
}

pub fn windowed(window: Window) -> (PartialAggregate, WindowAggregate) {
    let key = || Field::new("key", DataType::Utf8, true);
    let partial = PartialAggregate {
        window: Some((0, window)),
        groups: vec![physical(col("key"), &schema())],
        aggregates: aggregates(),
        schema: partial_schema(vec![Field::new("slice", DataType::Int64, false), key()]),
    };
    let bound = |name: &str| Field::new(name, time_type(), false);
    let whole = WindowAggregate {
        window,
        groups: 1,
        aggregates: aggregates(),
        schema: results_schema(vec![bound("window_start"), bound("window_end"), key()], false),
        emit_changes: false,
        lateness: 0,
    };
    (partial, whole)
}

pub fn from_stream(story: &Story) -> headwater_engine::plan::Input {
    input("events", story.partitions, schema(), time_from_rows(LateRows::Drop))
}

pub fn two_stages(
    story: &Story,
    partial: PartialAggregate,
    whole: Operator,
    view: Output,
    columns: Vec<usize>,
) -> Pipeline {
    let between = partial.schema.clone();
    let to_topic = Output::Topic {
        topic: "query-1.0".into(),
        partitions: 3,
        partition_by: columns,
        first_producer: 0,
    };
    let producers = TimeSource::Producers {
        producers: story.partitions,
    };
    pipeline(vec![
        stage(from_stream(story), vec![Operator::PartialAggregate(partial)], to_topic),
        stage(input("query-1.0", 3, between, producers), vec![whole], view),
    ])
}

pub fn window_pipeline(story: &Story, window: Window, stages: usize, emit_changes: bool) -> Pipeline {
    let (partial, mut whole) = windowed(window);
    if emit_changes {
        whole.emit_changes = true;
        whole.schema = headwater_event::op::changelog_schema(&whole.schema);
    }
    let view = to_view(&whole.schema, ViewKey::Columns(vec![0, 1, 2]));
    let whole = Operator::WindowAggregate(whole);
    if stages == 2 {
        return two_stages(story, partial, whole, view, vec![1]);
    }
    let operators = vec![Operator::PartialAggregate(partial), whole];
    pipeline(vec![stage(from_stream(story), operators, view)])
}

/// For tests that tell their own story.
pub fn window_pipeline_of(partitions: u32, window: Window, stages: usize) -> Pipeline {
    let story = Story {
        partitions,
        rows: Vec::new(),
        batches: Vec::new(),
    };
    window_pipeline(&story, window, stages, false)
}

pub fn window_sql(window: Window) -> String {
    let Window {
        size,
        slide,
        step,
        offset,
    } = window;
    let last = format!("(t - (((t - {offset}) % {slide}) + {slide}) % {slide})");
    format!(
        "SELECT ws, we, key, {ORACLE_AGGREGATES} FROM \
         (SELECT *, ws + n * {step} AS we FROM \
          (SELECT *, {last} - k * {slide} AS ws FROM events CROSS JOIN generate_series(0, {size} / {slide}) AS s(k)) \
          CROSS JOIN generate_series(1, {size} / {step}) AS e(n)) \
         WHERE we > t GROUP BY ws, we, key"
    )
}

pub const TUMBLE: Window = Window::hopping(30, 30, 0);
pub const HOP: Window = Window::hopping(30, 10, 3);
const UNEVEN: Window = Window::hopping(25, 10, -4);
pub const MANY: Window = Window::hopping(60, 3, 2);
pub const CUMULATE: Window = Window::cumulating(40, 10, 3);

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn tumbling(story in stories()) {
        check(|story| window_pipeline(story, TUMBLE, 1, false), by_key(story), &window_sql(TUMBLE));
    }

    #[test]
    fn hopping(story in stories(), uneven in any::<bool>()) {
        let window = if uneven { UNEVEN } else { HOP };
        check(|story| window_pipeline(story, window, 1, false), by_key(story), &window_sql(window));
    }

    #[test]
    fn hopping_over_many_slices(story in stories()) {
        check(|story| window_pipeline(story, MANY, 1, false), by_key(story), &window_sql(MANY));
    }

    #[test]
    fn cumulating(story in stories(), emit_changes in any::<bool>()) {
        check(|story| window_pipeline(story, CUMULATE, 2, emit_changes), story, &window_sql(CUMULATE));
    }

    #[test]
    fn windows_in_two_stages(story in stories(), tumbling in any::<bool>()) {
        let window = if tumbling { TUMBLE } else { HOP };
        check(|story| window_pipeline(story, window, 2, false), story, &window_sql(window));
    }

    #[test]
    fn windows_with_changes(story in stories(), tumbling in any::<bool>()) {
        let window = if tumbling { TUMBLE } else { UNEVEN };
        check(|story| window_pipeline(story, window, 2, true), story, &window_sql(window));
    }

    #[test]
    fn a_view_by_group(story in stories()) {
        let pipeline = |story: &Story| {
            let (partial, whole, view) = grouped(&["key", "code"]);
            two_stages(story, partial, whole, view, vec![0, 1])
        };
        let sql = format!("SELECT key, code, {ORACLE_AGGREGATES} FROM events GROUP BY key, code");
        check(pipeline, story, &sql);
    }

    #[test]
    fn a_view_by_one_group_in_one_stage(story in stories()) {
        let pipeline = |story: &Story| {
            let (partial, whole, view) = grouped(&["key"]);
            let operators = vec![Operator::PartialAggregate(partial), whole];
            pipeline(vec![stage(from_stream(story), operators, view)])
        };
        let sql = format!("SELECT key, {ORACLE_AGGREGATES} FROM events GROUP BY key");
        check(pipeline, by_key(story), &sql);
    }

    #[test]
    fn rows_filtered_and_projected(story in stories()) {
        let pipeline = |story: &Story| pipeline(vec![rows_stage(story)]);
        let sql = "SELECT time, concat(key, '!'), v * 2 FROM events WHERE v > 3";
        check(pipeline, story, sql);
    }

    #[test]
    fn rows_with_cumulating_windows(story in stories()) {
        let Window { size, step, offset, .. } = CUMULATE;
        let sql = format!(
            "SELECT time, t, key, code, v, ws, we, we - 1 FROM (SELECT *, ws + n * {step} AS we FROM (SELECT *, \
             (t - (((t - {offset}) % {size}) + {size}) % {size}) AS ws FROM events) \
             CROSS JOIN generate_series(1, {size} / {step}) AS s(n)) WHERE we > t");
        check(|story| pipeline(vec![window_rows_stage(story, CUMULATE)]), story, &sql);
    }

    #[test]
    fn rows_with_their_windows(story in stories()) {
        let sql = format!(
            "SELECT time, t, key, code, v, ws, ws + {0}, ws + {0} - 1 FROM (SELECT *, \
             (t - (((t - 3) % {1}) + {1}) % {1}) - k * {1} AS ws FROM events CROSS JOIN generate_series(0, 3) AS s(k)) \
             WHERE ws + {0} > t", HOP.size, HOP.slide);
        check(|story| pipeline(vec![window_rows_stage(story, HOP)]), story, &sql);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn windows_on_disk(story in stories(), tumbling in any::<bool>()) {
        let window = if tumbling { TUMBLE } else { HOP };
        check_on_disk(|story| window_pipeline(story, window, 2, false), story, &window_sql(window));
    }

    #[test]
    fn a_view_by_group_on_disk(story in stories()) {
        let pipeline = |story: &Story| {
            let (partial, whole, view) = grouped(&["key", "code"]);
            two_stages(story, partial, whole, view, vec![0, 1])
        };
        let sql = format!("SELECT key, code, {ORACLE_AGGREGATES} FROM events GROUP BY key, code");
        check_on_disk(pipeline, story, &sql);
    }
}

pub fn grouped(columns: &[&str]) -> (PartialAggregate, Operator, Output) {
    let fields = || {
        columns
            .iter()
            .map(|name| schema().field_with_name(name).unwrap().clone())
            .collect::<Vec<_>>()
    };
    let partial = PartialAggregate {
        window: None,
        groups: columns.iter().map(|name| physical(col(*name), &schema())).collect(),
        aggregates: aggregates(),
        schema: partial_schema(fields()),
    };
    let whole = ChangelogAggregate {
        groups: columns.len(),
        aggregates: aggregates(),
        retraction: None,
        kept_in_view: None,
        schema: results_schema(fields(), true),
    };
    let view = to_view(&whole.schema, ViewKey::Columns((0..columns.len()).collect()));
    (partial, Operator::ChangelogAggregate(whole), view)
}

fn rows_stage(story: &Story) -> Stage {
    let fields = vec![
        Field::new("time", time_type(), true),
        Field::new("loud", DataType::Utf8, true),
        Field::new("twice", DataType::Int64, true),
    ];
    let projected = Arc::new(arrow::datatypes::Schema::new(fields));
    let loud = datafusion::functions::expr_fn::concat(vec![col("key"), lit("!")]);
    let expressions = [col("time"), loud, col("v") * lit(2i64)];
    let operators = vec![
        Operator::Filter(Filter {
            predicate: physical(col("v").gt(lit(3i64)), &schema()),
        }),
        Operator::Project(Project {
            expressions: expressions
                .into_iter()
                .map(|expression| physical(expression, &schema()))
                .collect(),
            schema: projected.clone(),
        }),
    ];
    stage(from_stream(story), operators, to_view(&projected, ViewKey::Position))
}

fn window_rows_stage(story: &Story, window: Window) -> Stage {
    let mut fields: Vec<Field> = schema().fields().iter().map(|field| field.as_ref().clone()).collect();
    for name in ["window_start", "window_end", "window_time"] {
        fields.push(Field::new(name, time_type(), false));
    }
    let schema = Arc::new(arrow::datatypes::Schema::new(fields));
    let operators = vec![Operator::AssignWindows(AssignWindows {
        time_column: 0,
        window,
        schema: schema.clone(),
    })];
    stage(from_stream(story), operators, to_view(&schema, ViewKey::Position))
}
