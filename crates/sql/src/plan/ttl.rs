//! `state_ttl`: a join that would keep its rows for ever keeps them until the watermark is so far beyond their time, and groups
//! that would stay for ever end when nothing has come for them for so long ([`groups`]). Where a stream meets a result that changes, the
//! stream's rows go ([`rows`]).
//!
//! Such a join gets one condition more: the times of a pair are no further apart than that. From there on it is a join that is
//! close in time (see [`super::reach`]), whose result depends on the rows alone, however they come.
//!
//! 1. The time of a side's rows is its column with event time, the end of their window where there is no other. Of several, as
//!    behind another join, it is the greatest.
//! 2. A side that has dropped its time gets it as one more column from below, and the join's result is as it was.
//! 3. Joins that are bounded anyway stay as they are: by conditions on the times, or by the keys of results that change.

mod groups;
mod node;
mod rows;

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, DFSchema, DataFusionError};
use datafusion::functions::core::expr_fn::greatest;
use datafusion::logical_expr::{
    Expr, ExprSchemable, Filter, Join, LogicalPlan, LogicalPlanBuilder, Projection, SubqueryAlias, Union, cast, lit,
};
use headwater_catalog::snapshot::Snapshot;
use headwater_engine::plan::TimeSource;
use headwater_event::clock::Micros;

use crate::error::{Result, SqlError, translate};
use crate::plan::branch::{Branch, Time};
use crate::plan::join::changes_by_key;
use crate::plan::join::null_equality::distinct_right;
use crate::plan::join::reach::nearness;
use crate::plan::stages::{Request, Stages};
use crate::plan::temporal::Versioned;
pub use crate::plan::ttl::node::Lasting;
use crate::statement::Select;
use crate::time::interval;

type Planned<T> = std::result::Result<T, DataFusionError>;

/// The plan with a bound in time for every join and every aggregate that has no other. No column of what it reads may be gone from it yet.
pub fn bounded(
    plan: LogicalPlan,
    ttl: Micros,
    select: &Select,
    snapshot: &Snapshot,
    request: &Request,
) -> Result<LogicalPlan> {
    let mut bounds = Bounds {
        ttl,
        select,
        snapshot,
        request,
        bounded: 0,
        columns: 0,
    };
    let plan = plan
        .transform_up(|node| match node {
            LogicalPlan::Join(join) => bounds.join(join),
            LogicalPlan::Aggregate(aggregate) => bounds.aggregate(aggregate),
            LogicalPlan::Filter(filter) => bounds.first_rows(filter),
            other => Ok(Transformed::no(other)),
        })
        .map_err(|error| translate(&error, &select.source))?;
    if bounds.bounded == 0 {
        return Err(SqlError::invalid(
            "state_ttl is for joins and groups that would stay for ever: this query has none",
        )
        .at(select.source.start())
        .hint("leave it out; a result that changes loses the rows that go from what it is computed of"));
    }
    Ok(plan.data)
}

struct Bounds<'a> {
    ttl: Micros,
    select: &'a Select,
    snapshot: &'a Snapshot,
    request: &'a Request<'a>,
    /// How many joins and aggregates got a bound.
    bounded: usize,
    /// How many columns were added.
    columns: usize,
}

impl Bounds<'_> {
    fn join(&mut self, join: Join) -> Planned<Transformed<LogicalPlan>> {
        if Versioned::of(&join.right).is_some() {
            return Ok(Transformed::no(LogicalPlan::Join(join)));
        }
        let once = self.distinct_right(&join)?;
        let sides = [self.planned(&join.left)?, self.planned(&once)?];
        let [left, right] = &sides;
        let near = || nearness([&left.0.rows, &right.0.rows], &join.on, join.filter.as_ref());
        let changes = |side: &&(Branch, String)| side.0.rows.changelog;
        match sides.iter().find(changes) {
            Some(_) if sides.iter().all(|side| changes_by_key(&side.0)) => {}
            Some((_, reads)) => {
                let is_fine = |side: &(Branch, String)| !side.0.rows.changelog || changes_by_key(&side.0);
                return match sides.iter().all(is_fine) {
                    true => self.with_rows_that_go(&join, &once, &sides).map(Transformed::yes),
                    false => Err(external(self.of_changes(reads))),
                };
            }
            None if near().is_some() => {}
            None => return self.with_bound(&join, &sides).map(Transformed::yes),
        }
        Ok(match Arc::ptr_eq(&once, &join.right) {
            true => Transformed::no(LogicalPlan::Join(join)),
            false => Transformed::yes(LogicalPlan::Join(Join { right: once, ..join })),
        })
    }

    /// The right side, whose rows are groups as well where each is needed once.
    fn distinct_right(&mut self, join: &Join) -> Planned<Arc<LogicalPlan>> {
        let right = distinct_right(join)?;
        match (right.as_ref(), Arc::ptr_eq(&right, &join.right)) {
            (LogicalPlan::Aggregate(distinct), false) => Ok(Arc::new(self.aggregate(distinct.clone())?.data)),
            _ => Ok(right),
        }
    }

    fn with_bound(&mut self, join: &Join, sides: &[(Branch, String); 2]) -> Planned<LogicalPlan> {
        let mut timed = Vec::with_capacity(sides.len());
        for (plan, side) in [&join.left, &join.right].into_iter().zip(sides) {
            let found = self.timed(plan)?;
            timed.push(found.ok_or_else(|| external(self.without_time(side)))?);
        }
        let (Some((right, right_time)), Some((left, left_time))) = (timed.pop(), timed.pop()) else {
            return Err(DataFusionError::Internal("a join has two sides".to_owned()));
        };
        let of_type = left_time.get_type(left.schema())?;
        let right_time = match right_time.get_type(right.schema())? == of_type {
            true => right_time,
            false => cast(right_time, of_type),
        };
        let ttl = lit(interval(self.ttl));
        let near = right_time
            .clone()
            .gt_eq(left_time.clone() - ttl.clone())
            .and(right_time.lt_eq(left_time + ttl));
        let filter = match &join.filter {
            Some(filter) => filter.clone().and(near),
            None => near,
        };
        self.bounded += 1;
        joined(join, left, right, Some(filter))
    }

    /// The plan as a branch, for what is known of its rows, and the names of what it reads.
    fn planned(&self, plan: &LogicalPlan) -> Planned<(Branch, String)> {
        let mut stages = Stages::new(self.select, self.snapshot, self.request);
        let branch = stages.node(plan).map_err(external)?;
        stages.reads.dedup();
        Ok((branch, stages.reads.join(", ")))
    }

    /// The plan with the event time of its rows: a column, which may have been added.
    fn timed(&mut self, plan: &LogicalPlan) -> Planned<Option<(LogicalPlan, Expr)>> {
        let times = self.times(plan)?;
        let below = match (times.as_slice(), plan) {
            ([only], _) => return Ok(Some((plan.clone(), Expr::Column(only.clone())))),
            ([_, ..], _) => {
                let greatest = greatest(times.into_iter().map(Expr::Column).collect());
                let columns = plan.schema().columns().into_iter().map(Expr::Column).collect();
                return self.with_column(plan.clone(), columns, greatest).map(Some);
            }
            ([], LogicalPlan::Projection(Projection { input, .. })) => input,
            ([], LogicalPlan::SubqueryAlias(SubqueryAlias { input, .. })) => input,
            ([], LogicalPlan::Filter(Filter { input, .. })) => input,
            ([], LogicalPlan::Union(union)) => return self.timed_union(union),
            ([], _) => return Ok(None),
        };
        let Some((below, time)) = self.timed(below)? else {
            return Ok(None);
        };
        match plan {
            LogicalPlan::Projection(projection) => self.with_column(below, projection.expr.clone(), time).map(Some),
            LogicalPlan::SubqueryAlias(alias) => {
                let renamed = SubqueryAlias::try_new(Arc::new(below), alias.alias.clone())?;
                let Expr::Column(time) = time else { return Ok(None) };
                let time = Column::new(Some(alias.alias.clone()), time.name);
                Ok(Some((LogicalPlan::SubqueryAlias(renamed), Expr::Column(time))))
            }
            LogicalPlan::Filter(filter) => {
                let filter = Filter::try_new(filter.predicate.clone(), Arc::new(below))?;
                Ok(Some((LogicalPlan::Filter(filter), time)))
            }
            _ => Ok(None),
        }
    }

    /// The rows of all inputs with the time of each.
    fn timed_union(&mut self, union: &Union) -> Planned<Option<(LogicalPlan, Expr)>> {
        let mut inputs = Vec::with_capacity(union.inputs.len());
        let mut time = None;
        for input in &union.inputs {
            let Some((timed, its_time)) = self.timed(input)? else {
                return Ok(None);
            };
            let columns = input.schema().columns().into_iter().map(Expr::Column).collect();
            let (timed, column) = self.with_column(timed, columns, its_time)?;
            time = time.or_else(|| timed.schema().fields().last().cloned().map(|field| (field, column)));
            inputs.push(Arc::new(timed));
        }
        let Some((field, column)) = time else { return Ok(None) };
        let fields = union
            .schema
            .iter()
            .map(|(table, field)| (table.cloned(), Arc::clone(field)));
        let fields = fields.chain([(None, field)]).collect();
        let schema = DFSchema::new_with_metadata(fields, union.schema.metadata().clone())?;
        let schema = Arc::new(schema);
        Ok(Some((LogicalPlan::Union(Union { inputs, schema }), column)))
    }

    /// These columns, and the time behind them.
    fn with_column(&mut self, input: LogicalPlan, mut columns: Vec<Expr>, time: Expr) -> Planned<(LogicalPlan, Expr)> {
        self.columns += 1;
        // Nobody can write it without quotes.
        let name = format!("$time {}", self.columns);
        columns.push(time.alias(&name));
        let plan = LogicalPlanBuilder::from(input).project(columns)?.build()?;
        Ok((plan, Expr::Column(Column::new_unqualified(name))))
    }

    /// The columns with the event time of rows; where there are none, with the ends of their windows.
    fn times(&self, plan: &LogicalPlan) -> Planned<Vec<Column>> {
        let rows = self.planned(plan)?.0.rows;
        let of = |wanted: Time| {
            let is_wanted = |column: &Column| {
                let at = rows.columns.maybe_index_of_column(column);
                at.and_then(|at| rows.times.get(&at)) == Some(&wanted)
            };
            let columns = plan.schema().columns().into_iter();
            columns.filter(is_wanted).collect::<Vec<_>>()
        };
        let times = of(Time::Event);
        Ok(if times.is_empty() { of(Time::WindowEnd) } else { times })
    }

    fn of_changes(&self, reads: &str) -> SqlError {
        let stages = Stages::new(self.select, self.snapshot, self.request);
        stages
            .about_join(&format!(
                "state_ttl can't bound this join: what it reads of {reads} changes, and a change has no event time"
            ))
            .hint(
                "join the streams, and aggregate behind the join; meet the rows of a view as they stand: \
                 JOIN v FOR SYSTEM_TIME AS OF now(); or let the state grow: WITH (state = 'unbounded')",
            )
    }

    fn without_time(&self, (branch, reads): &(Branch, String)) -> SqlError {
        let stages = Stages::new(self.select, self.snapshot, self.request);
        let error = stages.about_join(&format!(
            "state_ttl can't bound this join: the rows that it reads of {reads} have no event time"
        ));
        error.hint(Self::time_hint(branch))
    }

    fn time_hint(branch: &Branch) -> &'static str {
        match branch.part.input.time {
            TimeSource::None => "add to the stream's columns: WATERMARK FOR time AS time - INTERVAL '5' SECOND",
            _ => "select the column with the event time as it is, of windows window_end",
        }
    }
}

/// The join of other plans for its sides, which may have columns more, with its own columns.
fn joined(join: &Join, left: LogicalPlan, right: LogicalPlan, filter: Option<Expr>) -> Planned<LogicalPlan> {
    let bounded = LogicalPlan::Join(Join::try_new(
        Arc::new(left),
        Arc::new(right),
        join.on.clone(),
        filter,
        join.join_type,
        join.join_constraint,
        join.null_equality,
        join.null_aware,
    )?);
    if bounded.schema().fields().len() == join.schema.fields().len() {
        return Ok(bounded);
    }
    let columns = join.schema.columns().into_iter().map(Expr::Column);
    LogicalPlanBuilder::from(bounded).project(columns)?.build()
}

fn external(error: SqlError) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

#[cfg(test)]
mod tests;
