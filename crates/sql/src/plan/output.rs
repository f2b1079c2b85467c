//! Where the rows of a continuous query go, and what names a row of a view.

use arrow::datatypes::{Schema, SchemaRef};
use datafusion::physical_expr::expressions::Column;
use headwater_catalog::definition::{Definition, Stream};
use headwater_engine::plan::{ChangelogAggregate, Operator, Output, RowsOfView, TopN, ViewKey};

use crate::error::{Result, SqlError};
use crate::plan::branch::Key;
use crate::plan::stages::Flow;

/// What names the rows of a view.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ViewRows {
    pub key: ViewKey,
    /// The names of the key's columns; `None` without a key.
    pub names: Option<Vec<String>>,
}

pub fn to_stream(flow: &Flow, definition: &Definition, stream: &Stream) -> Result<Output> {
    let mut partition_by = Vec::new();
    for name in &stream.partition_by {
        let at = flow.columns.iter().position(|column| column.name == *name);
        partition_by.push(at.ok_or_else(|| SqlError::internal(format!("{} has no column {name}", definition.name)))?);
    }
    // Rows that lie as they should already stay in the partition of their task.
    if flow.partitioned.as_ref() == Some(&partition_by) && flow.tasks == stream.partitions {
        partition_by.clear();
    }
    Ok(Output::Topic {
        topic: definition.topic().into(),
        partitions: stream.partitions,
        partition_by,
        first_producer: 0,
    })
}

pub fn to_view(flow: &mut Flow, definition: &Definition) -> Output {
    let key = view_rows(flow).key;
    if key == ViewKey::Copies {
        flow.number_copies();
    }
    if let ViewKey::Columns(key) = &key {
        keep_in_view(flow, key);
    }
    Output::View {
        table: definition.rows_table().into(),
        topic: definition.topic().into(),
        key,
        schema: flow.stored_schema(),
    }
}

/// Where the view has everything in its rows that an aggregate or the first rows know of their groups, these keep nothing
/// beside them.
fn keep_in_view(flow: &mut Flow, key: &[usize]) {
    let schema = flow.stored_schema();
    let operators = flow.last_operators();
    // The view's columns, by their places among what the operators from there on are given.
    let mut from: Vec<usize> = (0..schema.fields().len()).collect();
    let mut last = operators.len();
    while let Some(Operator::Project(project)) = last.checked_sub(1).map(|at| &operators[at]) {
        let columns = from.iter().map(|&at| {
            let column = project.expressions[at].downcast_ref::<Column>()?;
            Some(column.index())
        });
        let Some(columns) = columns.collect() else { return };
        from = columns;
        last -= 1;
    }
    match last.checked_sub(1).map(|at| &mut operators[at]) {
        Some(Operator::ChangelogAggregate(aggregate)) => keep_aggregate(aggregate, &schema, key, &from),
        Some(Operator::TopN(top)) => keep_first(top, schema, key, &from),
        _ => {}
    }
}

/// The first rows of groups that are one each and never go, where the view has all of their columns.
fn keep_first(top: &mut TopN, schema: SchemaRef, key: &[usize], from: &[usize]) {
    let is_one = top.limit == 1 && !top.row_number && top.closes_by.is_none() && top.only_added;
    let is_named_by_groups = key.iter().map(|&at| from[at]).eq(top.partition_by.iter().copied());
    // The op column is not among them.
    let columns = 0..top.schema.fields().len() - 1;
    let is_of_type = |at: usize, column| schema.field(at).data_type() == top.schema.field(column).data_type();
    let place = |column| (0..from.len()).find(|&at| from[at] == column && is_of_type(at, column));
    let columns: Option<Vec<usize>> = columns.map(place).collect();
    if let Some(columns) = columns.filter(|_| is_one && is_named_by_groups) {
        let key = key.to_vec();
        top.kept_in_view = Some(RowsOfView { schema, key, columns });
    }
}

fn keep_aggregate(aggregate: &mut ChangelogAggregate, schema: &Schema, key: &[usize], from: &[usize]) {
    let groups = aggregate.groups;
    let is_named_by_groups = groups > 0 && key.iter().map(|&at| from[at]).eq(0..groups);
    let rest = (0..from.len()).filter(|at| !key.contains(at));
    let results: Option<Vec<usize>> = rest
        .clone()
        .map(|at| {
            from[at]
                .checked_sub(groups)
                .filter(|&at| at < aggregate.aggregates.len())
        })
        .collect();
    let Some(results) = results.filter(|_| is_named_by_groups && aggregate.retraction.is_none()) else {
        return;
    };
    let has_state = |(at, &result): (usize, &usize)| match &*aggregate.aggregates[result].state_fields {
        [state] => aggregate.aggregates[result].state_is_result && state.data_type() == schema.field(at).data_type(),
        _ => false,
    };
    let types_fit = key
        .iter()
        .zip(0..groups)
        .all(|(&at, group)| aggregate.schema.field(group).data_type() == schema.field(at).data_type());
    let is_all_there = (0..aggregate.aggregates.len()).all(|at| results.contains(&at));
    if types_fit && is_all_there && rest.zip(&results).all(has_state) {
        aggregate.kept_in_view = Some(results);
    }
}

/// The columns that name a row of the view that this query makes: none where one of its window or groups is not selected.
pub fn view_rows(flow: &Flow) -> ViewRows {
    match key_columns(&flow.key) {
        Some(columns) => ViewRows {
            names: Some(columns.iter().map(|&at| flow.columns[at].name.clone()).collect()),
            key: ViewKey::Columns(columns),
        },
        None if flow.changelog => ViewRows {
            key: ViewKey::Copies,
            names: None,
        },
        // Final rows need no name: they are only added.
        None => ViewRows {
            key: ViewKey::Position,
            names: None,
        },
    }
}

fn key_columns(key: &Key) -> Option<Vec<usize>> {
    let Key::Groups { window, groups } = key else {
        return None;
    };
    let mut columns = Vec::with_capacity(groups.len() + 1);
    if let Some([start, end]) = window {
        columns.push(start.or(*end)?);
    }
    for at in groups {
        columns.push((*at)?);
    }
    Some(columns)
}
