//! Whether a query can go on with the state of another one: what its stages keep has to mean the same.
//!
//! 1. Stages read the same topics, at the same pace of time, and write the same; their operators are the same ones in the same order, but
//!    for filters and projections.
//! 2. Of each operator the rows that it is given have to mean the same, column by column, in terms of what the stage reads. Of
//!    aggregates it is the groups: what is aggregated may be another number, as long as the function is the same.
//! 3. Filters and projections of rows that only come may be others: they work on what comes from then on. Of a result that changes
//!    they have to be the same, since a row goes as it came.
//!
//! What can't be compared counts as different.

use std::sync::Arc;

use arrow::datatypes::{DataType, Schema};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::Column;
use headwater_engine::plan::{
    Aggregate, ChangelogAggregate, Input, Operator, Output, Pipeline, SessionAggregate, Stage, TimeSource, Window,
    WindowAggregate,
};
use headwater_event::op::is_changelog;

/// Aggregates whose state says nothing of what was aggregated but its type.
const PLAIN: [&str; 9] = [
    "count", "sum", "min", "max", "avg", "bool_and", "bool_or", "bit_and", "bit_or",
];

const OF_CHANGES: &str = "what is computed of a result that changes is something else";

/// Nothing, or what keeps the state of `old` from being that of `new`.
pub fn fits(old: &Pipeline, new: &Pipeline) -> Result<(), String> {
    if old.stages.len() != new.stages.len() {
        return Err("rows meet in other stages".to_owned());
    }
    let mut stages = old.stages.iter().zip(&new.stages);
    let is_read = |output: &Output| old.stages.iter().any(|other| output.is_to(&other.input.topic));
    stages.try_for_each(|(one, other)| stage(one, other, !is_read(&one.output)))
}

/// The rows at a point between two operators.
struct Rows {
    /// What each column is.
    columns: Vec<String>,
    schema: Arc<Schema>,
}

fn stage(old: &Stage, new: &Stage, is_last: bool) -> Result<(), String> {
    reads_the_same(&old.input, &new.input)?;
    let (mut before, mut after) = (Rows::of(&old.input), Rows::of(&new.input));
    let (mut old_operators, mut new_operators) = (old.operators.as_slice(), new.operators.as_slice());
    loop {
        let changes = is_changelog(&before.schema);
        let (was, is) = (before.pass(&mut old_operators), after.pass(&mut new_operators));
        if changes && was != is {
            return Err(OF_CHANGES.to_owned());
        }
        match (old_operators, new_operators) {
            ([], []) => break,
            ([one, old_rest @ ..], [other, new_rest @ ..]) => {
                same_operator((one, &before), (other, &after), changes)?;
                (before, after) = (Rows::behind(one, &before), Rows::behind(other, &after));
                (old_operators, new_operators) = (old_rest, new_rest);
            }
            _ => return Err("it has other operators that keep something".to_owned()),
        }
    }
    if types(&before.schema) != types(&after.schema) {
        return Err("the columns between its stages are others".to_owned());
    }
    // What the result's columns mean may change; what goes from stage to stage is kept there.
    if !is_last && before.columns != after.columns {
        return Err(differs("what is kept", &before.columns, &after.columns));
    }
    match without_schema(&old.output) == without_schema(&new.output) {
        true => Ok(()),
        false => Err("its rows go elsewhere, or have another key".to_owned()),
    }
}

fn reads_the_same(old: &Input, new: &Input) -> Result<(), String> {
    if old.topic != new.topic || old.partitions != new.partitions {
        return Err("it reads from something else".to_owned());
    }
    match time(old) == time(new) {
        true => Ok(()),
        false => Err("event time is not what it was, or matters now where it didn't".to_owned()),
    }
}

fn time(input: &Input) -> String {
    match &input.time {
        TimeSource::Rows {
            column,
            delay,
            lateness,
            late,
        } => format!("{} {delay} {lateness} {late:?}", input.schema.field(*column).name()),
        other => format!("{other:?}"),
    }
}

fn without_schema(output: &Output) -> String {
    match output {
        Output::Topic { .. } => format!("{output:?}"),
        Output::View { table, topic, key, .. } => format!("{table} {topic} {key:?}"),
    }
}

impl Rows {
    fn of(input: &Input) -> Self {
        let names = input.schema.fields().iter().map(|field| field.name().clone());
        Self {
            columns: names.collect(),
            schema: input.schema.clone(),
        }
    }

    /// The rows behind filters and projections, which are taken from the operators, and what these do.
    fn pass(&mut self, operators: &mut &[Operator]) -> Vec<String> {
        let mut passed = Vec::new();
        while let [first, rest @ ..] = *operators {
            match first {
                Operator::Filter(filter) => passed.push(format!("filter {}", self.meaning(&filter.predicate))),
                Operator::Project(project) => {
                    self.columns = project.expressions.iter().map(|each| self.meaning(each)).collect();
                    self.schema = project.schema.clone();
                    passed.push(self.columns.join(", "));
                }
                _ => break,
            }
            *operators = rest;
        }
        passed
    }

    /// The rows behind any other operator, whose columns are their places: that it is the same is known.
    fn behind(operator: &Operator, before: &Self) -> Self {
        let schema = operator.output_schema(&before.schema);
        Self {
            columns: (0..schema.fields().len()).map(|at| format!("#{at}")).collect(),
            schema,
        }
    }

    /// The expression in terms of what the stage reads.
    fn meaning(&self, expression: &Arc<dyn PhysicalExpr>) -> String {
        let of = |column: &Column| self.columns.get(column.index()).map_or("?", String::as_str);
        if let Some(column) = expression.downcast_ref::<Column>() {
            return of(column).to_owned();
        }
        let named = Arc::clone(expression).transform_up(|each| {
            let Some(column) = each.downcast_ref::<Column>() else {
                return Ok(Transformed::no(each));
            };
            let named: Arc<dyn PhysicalExpr> = Arc::new(Column::new(of(column), 0));
            Ok(Transformed::yes(named))
        });
        match named {
            Ok(named) => format!("{} {:?}", named.data, expression.data_type(&self.schema).ok()),
            // Like nothing else.
            Err(error) => format!("{error} at {:p}", Arc::as_ptr(expression)),
        }
    }

    fn meanings(&self, expressions: &[Arc<dyn PhysicalExpr>]) -> Vec<String> {
        expressions.iter().map(|each| self.meaning(each)).collect()
    }
}

/// Both with the rows that they are given.
fn same_operator(old: (&Operator, &Rows), new: (&Operator, &Rows), changes: bool) -> Result<(), String> {
    let ((one, before), (other, after)) = (old, new);
    let same = |is_same: bool, what: &str| match is_same {
        true => Ok(()),
        false => Err(format!("{what} are others")),
    };
    match (one, other) {
        (Operator::PartialAggregate(one), Operator::PartialAggregate(other)) => {
            let (was, is) = (before.meanings(&one.groups), after.meanings(&other.groups));
            if was != is {
                return Err(differs("the groups", &was, &is));
            }
            let span = |rows: &Rows, window: &Option<_>| {
                let (column, window): &(usize, Window) = window.as_ref()?;
                Some((rows.columns[*column].clone(), *window))
            };
            same(span(before, &one.window) == span(after, &other.window), "the windows")?;
            aggregates(&one.aggregates, &other.aggregates)?;
            same_arguments((&one.aggregates, before), (&other.aggregates, after), changes)
        }
        (Operator::PartialSessions(one), Operator::PartialSessions(other)) => {
            let (was, is) = (before.meanings(&one.groups), after.meanings(&other.groups));
            if was != is {
                return Err(differs("the groups", &was, &is));
            }
            let time = |rows: &Rows, column: usize| rows.columns[column].clone();
            let is_same = one.gap == other.gap && time(before, one.time_column) == time(after, other.time_column);
            same(is_same, "the sessions")?;
            aggregates(&one.aggregates, &other.aggregates)?;
            same_arguments((&one.aggregates, before), (&other.aggregates, after), false)
        }
        (Operator::WindowAggregate(one), Operator::WindowAggregate(other)) => {
            let span = |each: &WindowAggregate| (each.window, each.groups, each.emit_changes, each.lateness);
            same(span(one) == span(other), "the windows")?;
            aggregates(&one.aggregates, &other.aggregates)
        }
        (Operator::SessionAggregate(one), Operator::SessionAggregate(other)) => {
            let span = |each: &SessionAggregate| (each.gap, each.groups, each.gives, each.lateness);
            same(span(one) == span(other), "the sessions, or the state_ttl,")?;
            aggregates(&one.aggregates, &other.aggregates)
        }
        (Operator::ChangelogAggregate(one), Operator::ChangelogAggregate(other)) => {
            aggregates(&one.aggregates, &other.aggregates)?;
            let rest = |each: &ChangelogAggregate| format!("{:?} {:?}", each.groups, each.retraction);
            same(rest(one) == rest(other), "the groups")?;
            // Where there is more than the aggregates behind it they aren't kept in the view.
            match one.kept_in_view == other.kept_in_view {
                true => Ok(()),
                false => Err(OF_CHANGES.to_owned()),
            }
        }
        // How far they look back isn't all that tells their functions apart.
        (Operator::Over(_) | Operator::ChangelogOver(_), _) => Err("window functions can't be compared".to_owned()),
        _ if before.columns != after.columns => Err(differs("what is kept", &before.columns, &after.columns)),
        _ => same(
            format!("{one:?}") == format!("{other:?}"),
            "the operators that keep something",
        ),
    }
}

/// What is aggregated, where that is not free to be something else.
fn same_arguments(
    (old, before): (&[Aggregate], &Rows),
    (new, after): (&[Aggregate], &Rows),
    changes: bool,
) -> Result<(), String> {
    let arguments = |aggregate: &Aggregate, rows: &Rows| {
        let filter = aggregate.filter.as_ref().map(|filter| rows.meaning(filter));
        (rows.meanings(&aggregate.arguments), filter)
    };
    let mut pairs = old.iter().zip(new);
    match pairs.all(|(one, other)| !changes && is_plain(one) || arguments(one, before) == arguments(other, after)) {
        true => Ok(()),
        false => Err("what is aggregated would be something else".to_owned()),
    }
}

fn is_plain(aggregate: &Aggregate) -> bool {
    PLAIN.contains(&head(aggregate))
}

/// The function's name.
fn head(aggregate: &Aggregate) -> &str {
    aggregate.name.split('(').next().unwrap_or_default()
}

fn aggregates(old: &[Aggregate], new: &[Aggregate]) -> Result<(), String> {
    let function = |aggregate: &Aggregate| match is_plain(aggregate) {
        true => head(aggregate).to_owned(),
        false => aggregate.name.clone(),
    };
    let shape = |aggregate: &Aggregate| {
        let states = aggregate.state_fields.iter().map(|field| field.data_type().clone());
        let result = aggregate.result_field.data_type().clone();
        let states: Vec<DataType> = states.chain([result]).collect();
        (function(aggregate), states, aggregate.counts_distinct)
    };
    let names = |all: &[Aggregate]| all.iter().map(|each| each.name.clone()).collect::<Vec<_>>();
    match old.iter().map(shape).eq(new.iter().map(shape)) {
        true => Ok(()),
        false => Err(differs("the aggregates", &names(old), &names(new))),
    }
}

fn types(schema: &Schema) -> Vec<(DataType, bool)> {
    let fields = schema.fields().iter();
    fields
        .map(|field| (field.data_type().clone(), field.is_nullable()))
        .collect()
}

fn differs(what: &str, old: &[String], new: &[String]) -> String {
    let plain = |names: &[String]| match names {
        [] => "nothing".to_owned(),
        names => crate::explain::plain(&names.join(", ")),
    };
    format!("{what} were {}, and would be {}", plain(old), plain(new))
}
