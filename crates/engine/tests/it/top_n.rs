//! The first rows of groups are those that `ROW_NUMBER()` gives over the same rows as a batch.

use std::sync::Arc;

use arrow::compute::SortOptions;
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use headwater_engine::plan::{
    AssignWindows, Operator, Output, PartialAggregate, Pipeline, RowsOfView, Stage, TimeSource, TopN, ViewKey, Window,
};
use headwater_event::op::{changelog_schema, is_changelog};
use proptest::prelude::*;

use crate::oracle::{HOP, Story, TUMBLE, by_key, check, from_stream, grouped, stories, windowed};
use crate::support::*;

const KEY: usize = 2;
const CODE: usize = 3;
const VALUE: usize = 4;
/// The greatest value first, NULL last, then the least code. What that leaves open: the other columns.
const ORDER_SQL: &str = "v DESC NULLS LAST, code ASC NULLS FIRST, time ASC NULLS FIRST";

fn order() -> Vec<(usize, SortOptions)> {
    let descending = SortOptions {
        descending: true,
        nulls_first: false,
    };
    vec![(VALUE, descending), (CODE, SortOptions::default())]
}

/// `input` without its op column, with the number behind it.
fn result_schema(input: &SchemaRef, row_number: bool, changelog: bool) -> SchemaRef {
    let mut fields: Vec<FieldRef> = input.fields().iter().cloned().collect();
    if is_changelog(input) {
        fields.pop();
    }
    if row_number {
        fields.push(Arc::new(Field::new("rn", DataType::UInt64, false)));
    }
    let schema = Arc::new(Schema::new(fields));
    match changelog {
        true => changelog_schema(&schema),
        false => schema,
    }
}

fn first_rows(limit: u64, row_number: bool) -> TopN {
    TopN {
        partition_by: vec![KEY],
        order_by: order(),
        limit,
        row_number,
        closes_by: None,
        only_added: true,
        kept_in_view: None,
        schema: result_schema(&schema(), row_number, true),
    }
}

fn one_stage(story: &Story, top: TopN, key: Vec<usize>) -> Pipeline {
    let view = to_view(&top.schema, ViewKey::Columns(key));
    pipeline(vec![stage(from_stream(story), vec![Operator::TopN(top)], view)])
}

/// Whose view is its state.
fn first_in_view(story: &Story) -> Pipeline {
    let mut top = first_rows(1, false);
    let rows = schema();
    top.kept_in_view = Some(RowsOfView {
        columns: (0..rows.fields().len()).collect(),
        schema: rows,
        key: vec![KEY],
    });
    one_stage(story, top, vec![KEY])
}

fn numbered_sql(limit: u64) -> String {
    format!(
        "SELECT * FROM (SELECT *, ROW_NUMBER() OVER (PARTITION BY key ORDER BY {ORDER_SQL}) AS rn FROM events) \
         WHERE rn <= {limit}"
    )
}

/// Counts by key and code, then the first two keys by count of every code.
fn over_a_changelog(story: &Story, row_number: bool) -> Pipeline {
    let (partial, whole, _) = grouped(&["key", "code"]);
    let counts = match &whole {
        Operator::ChangelogAggregate(plan) => plan.schema.clone(),
        _ => panic!("not an aggregate"),
    };
    let top = TopN {
        partition_by: vec![1],
        order_by: vec![(2, SortOptions::default().desc())],
        limit: 2,
        row_number,
        closes_by: None,
        only_added: false,
        kept_in_view: None,
        schema: result_schema(&counts, row_number, true),
    };
    let key = match row_number {
        true => vec![1, top.schema.fields().len() - 2],
        false => vec![0, 1],
    };
    let view = to_view(&top.schema, ViewKey::Columns(key));
    changelog_stages(story, partial, whole, counts, vec![1], Operator::TopN(top), view)
}

/// The third stage has one operator, over what the second puts out.
pub fn changelog_stages(
    story: &Story,
    partial: PartialAggregate,
    whole: Operator,
    between: SchemaRef,
    partition_by: Vec<usize>,
    last: Operator,
    view: Output,
) -> Pipeline {
    let to = |topic: &str, partition_by| Output::Topic {
        topic: topic.into(),
        partitions: 2,
        partition_by,
        first_producer: 0,
    };
    let from = |topic, schema, producers| input(topic, 2, schema, TimeSource::Producers { producers });
    let partials = partial.schema.clone();
    let first: Stage = stage(
        from_stream(story),
        vec![Operator::PartialAggregate(partial)],
        to("query-1.0", vec![1]),
    );
    pipeline(vec![
        first,
        stage(
            from("query-1.0", partials, story.partitions),
            vec![whole],
            to("query-1.1", partition_by),
        ),
        stage(from("query-1.1", between, 2), vec![last], view),
    ])
}

/// The first two keys by count of every window.
fn over_windows(story: &Story, window: Window, emit_changes: bool) -> Pipeline {
    let (partial, mut whole) = windowed(window);
    if emit_changes {
        whole.emit_changes = true;
        whole.schema = changelog_schema(&whole.schema);
    }
    let between = whole.schema.clone();
    let top = TopN {
        partition_by: vec![0, 1],
        order_by: vec![(3, SortOptions::default().desc())],
        limit: 2,
        row_number: true,
        closes_by: Some(1),
        only_added: true,
        kept_in_view: None,
        schema: result_schema(&between, true, false),
    };
    let view = to_view(&top.schema, ViewKey::Position);
    changelog_stages(
        story,
        partial,
        Operator::WindowAggregate(whole),
        between,
        vec![0, 1],
        Operator::TopN(top),
        view,
    )
}

fn over_windows_sql(window: Window) -> String {
    let Window {
        size, slide, offset, ..
    } = window;
    let last = format!("(t - (((t - {offset}) % {slide}) + {slide}) % {slide})");
    format!(
        "SELECT * FROM (SELECT *, ROW_NUMBER() OVER (PARTITION BY ws ORDER BY n DESC, key NULLS FIRST) AS rn FROM \
         (SELECT ws, ws + {size}, key, count(*) AS n, {rest} FROM \
         (SELECT *, {last} - k * {slide} AS ws FROM events CROSS JOIN generate_series(0, {size} / {slide}) AS s(k)) \
         WHERE ws + {size} > t GROUP BY ws, key)) WHERE rn <= 2",
        rest = ORACLE_AGGREGATES.strip_prefix("count(*), ").unwrap()
    )
}

/// The first rows of every key and window, in one stage.
fn rows_in_windows(story: &Story, row_number: bool) -> Pipeline {
    let mut fields: Vec<FieldRef> = schema().fields().iter().cloned().collect();
    for name in ["window_start", "window_end", "window_time"] {
        fields.push(Arc::new(Field::new(name, time_type(), false)));
    }
    let windows = Arc::new(Schema::new(fields));
    let top = TopN {
        partition_by: vec![5, KEY],
        closes_by: Some(7),
        schema: result_schema(&windows, row_number, false),
        ..first_rows(3, row_number)
    };
    let view = to_view(&top.schema, ViewKey::Position);
    let assign = AssignWindows {
        time_column: 0,
        window: HOP,
        schema: windows,
    };
    let operators = vec![Operator::AssignWindows(assign), Operator::TopN(top)];
    pipeline(vec![stage(from_stream(story), operators, view)])
}

fn rows_in_windows_sql(columns: &str) -> String {
    format!(
        "SELECT {columns} FROM (SELECT *, ws + {0}, ws + {0} - 1, ROW_NUMBER() OVER \
         (PARTITION BY ws, key ORDER BY {ORDER_SQL}) AS rn FROM (SELECT *, \
         (t - (((t - 3) % {1}) + {1}) % {1}) - k * {1} AS ws FROM events CROSS JOIN generate_series(0, 3) AS s(k)) \
         WHERE ws + {0} > t) WHERE rn <= 3",
        HOP.size, HOP.slide
    )
}

/// Rows that end a story have no code, and would be among the first rows of those without one.
pub fn with_codes(mut story: Story) -> Story {
    for (_, row) in &mut story.rows {
        row.code.get_or_insert(9);
    }
    story
}

/// Many rows are equal.
fn alike(mut story: Story) -> Story {
    for (_, row) in &mut story.rows {
        row.time = Some(0);
        row.code = None;
        row.value = row.value.map(|value| value % 3);
    }
    story
}

/// No two rows are equal.
fn distinct(mut story: Story) -> Story {
    for (number, (_, row)) in story.rows.iter_mut().enumerate() {
        row.value = Some((number as i64 * 37) % 151);
    }
    story
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn with_their_numbers(story in stories(), limit in 1..5u64) {
        check(|story| one_stage(story, first_rows(limit, true), vec![KEY, 5]), by_key(story), &numbered_sql(limit));
    }

    #[test]
    fn equal_rows(story in stories(), limit in 1..5u64) {
        let story = alike(by_key(story));
        check(|story| one_stage(story, first_rows(limit, true), vec![KEY, 5]), story, &numbered_sql(limit));
    }

    #[test]
    fn the_first_alone(story in stories()) {
        let sql = format!("SELECT time, t, key, code, v FROM ({})", numbered_sql(1));
        check(|story| one_stage(story, first_rows(1, false), vec![KEY]), by_key(story.clone()), &sql);
        check(first_in_view, by_key(story), &sql);
    }

    #[test]
    fn the_first_of_equal_rows(story in stories()) {
        let sql = format!("SELECT time, t, key, code, v FROM ({})", numbered_sql(1));
        check(first_in_view, alike(by_key(story)), &sql);
    }

    #[test]
    fn without_numbers(story in stories(), limit in 2..6u64) {
        let sql = format!("SELECT time, t, key, code, v FROM ({})", numbered_sql(limit));
        let pipeline = |story: &Story| one_stage(story, first_rows(limit, false), vec![0, KEY, VALUE]);
        check(pipeline, by_key(distinct(story)), &sql);
    }

    #[test]
    fn of_counts_that_change(story in stories(), row_number in any::<bool>()) {
        let columns = match row_number {
            true => "*",
            false => "* EXCEPT (rn)",
        };
        let sql = format!(
            "SELECT {columns} FROM (SELECT *, ROW_NUMBER() OVER \
             (PARTITION BY code ORDER BY n DESC, key NULLS FIRST) AS rn FROM \
             (SELECT key, code, count(*) AS n, {rest} FROM events GROUP BY key, code)) WHERE rn <= 2",
            rest = ORACLE_AGGREGATES.strip_prefix("count(*), ").unwrap()
        );
        check(|story| over_a_changelog(story, row_number), with_codes(story), &sql);
    }

    #[test]
    fn of_windows(story in stories(), tumbling in any::<bool>(), emit_changes in any::<bool>()) {
        let window = if tumbling { TUMBLE } else { HOP };
        check(|story| over_windows(story, window, emit_changes), story, &over_windows_sql(window));
    }

    #[test]
    fn of_rows_in_windows(story in stories(), row_number in any::<bool>()) {
        let sql = rows_in_windows_sql(if row_number { "*" } else { "* EXCEPT (rn)" });
        check(|story| rows_in_windows(story, row_number), by_key(story), &sql.replace("SELECT *, ws + ", "SELECT time, t, key, code, v, ws, ws + "));
    }
}
