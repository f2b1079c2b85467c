//! Window functions in the order of event time are those of the same rows as a batch.

use std::sync::Arc;

use arrow::compute::SortOptions;
use arrow::datatypes::{FieldRef, Schema, SchemaRef};
use datafusion::datasource::MemTable;
use datafusion::execution::context::ExecutionProps;
use datafusion::functions_aggregate::count::count_udaf;
use datafusion::functions_aggregate::sum::sum_udaf;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::{AggregateUDF, LogicalPlan, lit};
use datafusion::physical_expr::aggregate::AggregateExprBuilder;
use datafusion::physical_expr::window::WindowExpr;
use datafusion::physical_planner::create_window_expr;
use datafusion::prelude::{Expr, SessionContext, col};
use headwater_engine::plan::{
    ChangelogOver, FrameReach, GroupFunction, Operator, Over, Pipeline, RunningAggregate, ViewKey, WindowFunction,
};
use headwater_event::op::changelog_schema;
use proptest::prelude::*;

use crate::oracle::{Story, by_key, check, from_stream, grouped, stories};
use crate::support::*;
use crate::top_n::{changelog_stages, with_codes};

/// Functions as in SQL, without the order, and how far they look back. Rows of the same time are told apart by
/// their code where `FrameReach` is in rows.
const FRAMES: [(&str, &str, FrameReach); 8] = [
    ("lag(v)", "", FrameReach::Rows(1)),
    ("lag(v, 3, -1)", "", FrameReach::Rows(3)),
    (
        "sum(v)",
        "ROWS BETWEEN 2 PRECEDING AND CURRENT ROW",
        FrameReach::Rows(2),
    ),
    (
        "min(v)",
        "ROWS BETWEEN 4 PRECEDING AND 1 PRECEDING",
        FrameReach::Rows(4),
    ),
    (
        "first_value(v)",
        "ROWS BETWEEN 2 PRECEDING AND CURRENT ROW",
        FrameReach::Rows(2),
    ),
    (
        "last_value(code)",
        "ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW",
        FrameReach::Rows(0),
    ),
    (
        "count(*)",
        "RANGE BETWEEN INTERVAL '15 microseconds' PRECEDING AND CURRENT ROW",
        FrameReach::Time(15),
    ),
    (
        "avg(v)",
        "RANGE BETWEEN INTERVAL '30 microseconds' PRECEDING AND CURRENT ROW",
        FrameReach::Time(30),
    ),
];

fn frame(name: &str, frame: &str, reach: FrameReach) -> (FieldRef, WindowFunction) {
    let built = window_expression(&format!("{name} OVER (PARTITION BY key ORDER BY time {frame})"));
    let field = Arc::new(
        built
            .field()
            .unwrap()
            .as_ref()
            .clone()
            .with_name(format!("{name} {frame}"))
            .with_nullable(true),
    );
    let function = WindowFunction::Frame {
        name: name.to_owned(),
        reach,
        evaluate: Arc::new(move |batch| built.evaluate(batch)),
    };
    (field, function)
}

fn window_expression(sql: &str) -> Arc<dyn WindowExpr> {
    window_expressions(sql, &schema()).remove(0)
}

fn window_expressions(sql: &str, schema: &SchemaRef) -> Vec<Arc<dyn WindowExpr>> {
    let context = SessionContext::new();
    let table = MemTable::try_new(schema.clone(), vec![vec![]]).unwrap();
    context.register_table("events", Arc::new(table)).unwrap();
    let sql = format!("SELECT {sql} FROM events");
    let plan = futures::executor::block_on(context.sql(&sql))
        .unwrap()
        .into_unoptimized_plan();
    let state = context.state();
    // For the types of the frame's bounds.
    let plan = state
        .analyzer()
        .execute_and_check(plan, state.config_options(), |_, _| {})
        .unwrap();
    let LogicalPlan::Projection(projection) = plan else {
        panic!("not a projection")
    };
    let LogicalPlan::Window(window) = projection.input.as_ref() else {
        panic!("not a window")
    };
    let built = window.window_expr.iter().map(|function| {
        let (properties, context) = (ExecutionProps::new(), PhysicalPlanningContext::default());
        create_window_expr(function, window.input.schema(), &properties, &context).unwrap()
    });
    built.collect()
}

fn running(
    name: &str,
    function: Arc<AggregateUDF>,
    argument: Expr,
    filter: Option<Expr>,
    with_peers: bool,
) -> (FieldRef, WindowFunction) {
    let arguments = vec![physical(argument, &schema())];
    let built = AggregateExprBuilder::new(function, arguments.clone())
        .schema(schema())
        .alias(name)
        .build()
        .unwrap();
    let built = Arc::new(built);
    let running = RunningAggregate {
        name: name.to_owned(),
        arguments,
        filter: filter.map(|filter| physical(filter, &schema())),
        state_fields: built.state_fields().unwrap(),
        with_peers,
        accumulator: {
            let built = Arc::clone(&built);
            Arc::new(move || built.create_accumulator())
        },
    };
    (built.field(), WindowFunction::Running(running))
}

fn runnings() -> Vec<(FieldRef, WindowFunction)> {
    vec![
        running("number", count_udaf(), lit(1i64), None, false),
        running("all", sum_udaf(), col("v"), None, true),
        running("big", sum_udaf(), col("v"), Some(col("v").gt(lit(10i64))), false),
    ]
}

const RUNNING_SQL: &str = "row_number() OVER (PARTITION BY key ORDER BY time, code), \
     sum(v) OVER (PARTITION BY key ORDER BY time), \
     sum(v) FILTER (WHERE v > 10) OVER (PARTITION BY key ORDER BY time, code ROWS UNBOUNDED PRECEDING)";

fn frames() -> Vec<(FieldRef, WindowFunction)> {
    FRAMES
        .iter()
        .map(|&(name, words, reach)| frame(name, words, reach))
        .collect()
}

fn frames_sql() -> String {
    let all = FRAMES.iter().map(|&(name, frame, reach)| {
        let order = match reach {
            FrameReach::Rows(_) => "time, code",
            FrameReach::Time(_) => "time",
        };
        format!("{name} OVER (PARTITION BY key ORDER BY {order} {frame})")
    });
    all.collect::<Vec<_>>().join(", ")
}

fn over(story: &Story, functions: Vec<(FieldRef, WindowFunction)>) -> Pipeline {
    let mut fields: Vec<FieldRef> = schema().fields().iter().cloned().collect();
    fields.extend(functions.iter().map(|(field, _)| field.clone()));
    let over = Over {
        partition_by: vec![2],
        time_column: 0,
        reads: (0..5).collect(),
        time_among_reads: 0,
        functions: functions.into_iter().map(|(_, function)| function).collect(),
        schema: Arc::new(Schema::new(fields)),
    };
    let view = to_view(&over.schema, ViewKey::Position);
    pipeline(vec![stage(from_stream(story), vec![Operator::Over(over)], view)])
}

/// Codes number the rows in the order of arrival.
fn numbered(mut story: Story) -> Story {
    for (number, (_, row)) in story.rows.iter_mut().enumerate() {
        row.code = Some(number as i64);
    }
    story
}

/// Counts by key and code, and what functions give over the counts of every code, which change.
const OVER_COUNTS: &str = "sum(rows) OVER (PARTITION BY code ORDER BY least, key NULLS FIRST ROWS BETWEEN 2 PRECEDING AND 1 FOLLOWING), \
     row_number() OVER (PARTITION BY code ORDER BY least, key NULLS FIRST), \
     lead(total) OVER (PARTITION BY code ORDER BY least, key NULLS FIRST)";

fn over_counts(story: &Story) -> Pipeline {
    let (partial, whole, _) = grouped(&["key", "code"]);
    let Operator::ChangelogAggregate(plan) = &whole else {
        panic!("not an aggregate")
    };
    let counts = plan.schema.clone();
    let data = Arc::new(Schema::new(counts.fields()[..counts.fields().len() - 1].to_vec()));
    let mut fields = data.fields().to_vec();
    let mut functions = Vec::new();
    for number in 0..3 {
        let built = window_expressions(OVER_COUNTS, &data).remove(number);
        let field = built
            .field()
            .unwrap()
            .as_ref()
            .clone()
            .with_name(format!("result {number}"));
        fields.push(Arc::new(field));
        functions.push(GroupFunction {
            name: format!("function {number}"),
            evaluate: Arc::new(move |rows| built.evaluate(rows)),
        });
    }
    let ascending = SortOptions {
        descending: false,
        nulls_first: false,
    };
    let over = ChangelogOver {
        partition_by: vec![1],
        order_by: vec![(4, ascending), (0, SortOptions::default())],
        functions,
        schema: changelog_schema(&Schema::new(fields)),
    };
    let view = to_view(&over.schema, ViewKey::Columns(vec![0, 1]));
    changelog_stages(
        story,
        partial,
        whole,
        counts,
        vec![1],
        Operator::ChangelogOver(over),
        view,
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn frames_of_rows_and_of_time(story in stories()) {
        check(|story| over(story, frames()), numbered(by_key(story)), &format!("SELECT *, {} FROM events", frames_sql()));
    }

    #[test]
    fn one_frame_alone(story in stories(), which in 0..FRAMES.len()) {
        let (name, words, reach) = FRAMES[which];
        let order = match reach {
            FrameReach::Rows(_) => "time, code",
            FrameReach::Time(_) => "time",
        };
        let sql = format!("SELECT *, {name} OVER (PARTITION BY key ORDER BY {order} {words}) FROM events");
        check(|story| over(story, vec![frame(name, words, reach)]), numbered(by_key(story)), &sql);
    }

    #[test]
    fn rows_that_change(story in stories()) {
        let sql = format!(
            "SELECT *, {OVER_COUNTS} FROM (SELECT key, code, count(*) AS rows, sum(v) AS total, min(v) AS least, {rest} \
             FROM events GROUP BY key, code)",
            rest = ORACLE_AGGREGATES.strip_prefix("count(*), sum(v), min(v), ").unwrap()
        );
        check(over_counts, with_codes(story), &sql);
    }

    #[test]
    fn all_rows_so_far(story in stories()) {
        let sql = format!("SELECT *, {RUNNING_SQL}, {} FROM events", frames_sql());
        check(|story| over(story, runnings().into_iter().chain(frames()).collect()), numbered(by_key(story)), &sql);
    }
}

/// Rows come out in the order of time.
#[tokio::test]
async fn rows_come_out_by_time() {
    let rows = |from: i64, to: i64| {
        let row = |time: i64| Row {
            time: Some(time ^ 7),
            key: Some(format!("k{}", time % 3)),
            code: None,
            value: Some(time),
        };
        (from..to).map(row).collect::<Vec<_>>()
    };
    let story = Story {
        partitions: 1,
        rows: Vec::new(),
        batches: Vec::new(),
    };
    let mut world = World::new(over(&story, frames())).await;
    world.append(0, &rows(0, 30)).await;
    world.caught_up().await;
    world.restart().await;
    world.append(0, &rows(30, 60)).await;
    world.caught_up().await;
    let changes = world.topic("view.changes", 1).await;
    let times: Vec<i64> = changes
        .iter()
        .flat_map(texts)
        .map(|row| row.split('|').next().unwrap().parse().unwrap())
        .collect();
    // The greatest time is 63, so the watermark is 43.
    assert_eq!(times, (0..43).collect::<Vec<_>>());
}
