//! `state_ttl` of groups without a window: a group ends when the watermark is so far beyond its last row, and begins anew with the
//! next one.
//!
//! 1. By event time the rows of a group are stretches, each row less than the `state_ttl` after the one before: sessions. The group is
//!    the latest of them, from its first row on until it ends. So the result depends on the rows and on how far the watermark is.
//! 2. The aggregate's input gets a [`Lasting`] node, which keeps the time among the columns, and the aggregate becomes one of
//!    sessions that gives the latest.
//! 3. The first row of each group is an aggregate, too: its `first_value` in the order, of all columns together.
//! 4. What is computed of a result that changes stays as it is: what goes there goes here as well.

use std::sync::Arc;

use datafusion::common::metadata::FieldMetadata;
use datafusion::common::tree_node::Transformed;
use datafusion::common::{Column, DFSchema, TableReference};
use datafusion::functions::core::expr_fn::{get_field, named_struct};
use datafusion::functions_aggregate::first_last::first_value_udaf;
use datafusion::logical_expr::expr::{AggregateFunction, Sort};
use datafusion::logical_expr::{self, Aggregate, Expr, Extension, Filter, LogicalPlan, LogicalPlanBuilder, lit};
use headwater_engine::plan::{Operator, PartialSessions, SessionAggregate, SessionRows};
use headwater_event::op::changelog_schema;

use crate::error::{Result, SqlError, find};
use crate::plan::aggregate::partial_schema;
use crate::plan::branch::Branch;
use crate::plan::inline::{Inlined, inline};
use crate::plan::stages::Stages;
use crate::plan::top_n::First;
use crate::plan::ttl::node::Lasting;
use crate::plan::ttl::{Bounds, Planned, external};
use crate::plan::windows::Windows;

/// All columns of a group's first row.
const FIRST: &str = "$first";

impl Bounds<'_> {
    /// An aggregate whose groups would stay for ever becomes one whose groups last.
    pub fn aggregate(&mut self, aggregate: Aggregate) -> Planned<Transformed<LogicalPlan>> {
        let of_windows = inline::<Windows>(&aggregate.input, Vec::new())?.is_some();
        let (branch, reads) = self.planned(&aggregate.input)?;
        if of_windows || branch.rows.changelog {
            return Ok(Transformed::no(LogicalPlan::Aggregate(aggregate)));
        }
        if let [Expr::GroupingSet(_)] = aggregate.group_expr.as_slice() {
            return Err(external(self.about_groups(
                "state_ttl can't bound GROUPING SETS, ROLLUP or CUBE",
                "make a view for each grouping, or aggregate over windows",
            )));
        }
        let input = self.lasting(&aggregate.input, &branch, &reads)?;
        let (groups, functions) = (aggregate.group_expr, aggregate.aggr_expr);
        let bounded = Aggregate::try_new_with_schema(Arc::new(input), groups, functions, aggregate.schema)?;
        Ok(Transformed::yes(LogicalPlan::Aggregate(bounded)))
    }

    /// The first row of each group, where that stays for ever, becomes an aggregate whose groups last.
    pub fn first_rows(&mut self, filter: Filter) -> Planned<Transformed<LogicalPlan>> {
        let whole = LogicalPlan::Filter(filter);
        let LogicalPlan::Filter(filter) = &whole else {
            return Ok(Transformed::no(whole));
        };
        let Some(first) = First::of(filter) else {
            return Ok(Transformed::no(whole));
        };
        let (branch, reads) = self.planned(&first.window.input)?;
        // Those of windows come out once, when the window is complete.
        if branch.rows.changelog || !self.planned(&whole)?.0.rows.changelog {
            return Ok(Transformed::no(whole));
        }
        if first.limit != 1 {
            return Err(external(self.about_groups(
                "state_ttl can't bound the first rows of groups, only the first one",
                "ROW_NUMBER() … = 1, or the first rows of windows: PARTITION BY window_start, window_end, …",
            )));
        }
        let input = self.lasting(&first.window.input, &branch, &reads)?;
        let firsts = first_row(&first, input)?;
        Ok(Transformed::yes(with_instead(&whole, &firsts)?))
    }

    /// The rows with their time, for groups that last.
    fn lasting(&mut self, input: &LogicalPlan, branch: &Branch, reads: &str) -> Planned<LogicalPlan> {
        let Some((input, Expr::Column(time))) = self.timed(input)? else {
            let what =
                format!("state_ttl can't bound these groups: the rows that they read of {reads} have no event time");
            return Err(external(self.about_groups(&what, Self::time_hint(branch))));
        };
        self.bounded += 1;
        let ttl = self.ttl;
        Ok(LogicalPlan::Extension(Extension {
            node: Arc::new(Lasting { input, time, ttl }),
        }))
    }

    fn about_groups(&self, message: &str, hint: &str) -> SqlError {
        let source = &self.select.source;
        let error = SqlError::unsupported(message);
        let error = ["group", "distinct", "row_number", "union"]
            .iter()
            .fold(error, |error, word| error.at(find(source, word)));
        error.or_at_start(source).hint(hint)
    }
}

/// The rows of `input` with a number, as the window has them, but only those that have the number 1.
fn first_row(first: &First<'_>, input: LogicalPlan) -> Planned<LogicalPlan> {
    let numbered = first.window.schema.as_ref();
    let Some(((number_table, number), columns)) = numbered
        .iter()
        .collect::<Vec<_>>()
        .split_last()
        .map(|(number, rest)| (*number, rest.to_vec()))
    else {
        return Ok(input);
    };
    let column = |at: usize| Expr::Column(Column::from(columns[at]));
    let field = |at: usize| format!("c{at}");
    let whole = (0..columns.len()).flat_map(|at| [lit(field(at)), column(at)]);
    let mut order: Vec<Sort> = first.params.order_by.clone();
    // What the order leaves open, the values decide. No column may be in it twice.
    let is_open = |at: &usize| {
        let is_ordered = order
            .iter()
            .any(|sort| sort.expr.clone().unalias_nested().data == column(*at));
        !is_ordered && !columns[*at].1.data_type().is_nested()
    };
    let open: Vec<usize> = (0..columns.len()).filter(is_open).collect();
    order.extend(open.into_iter().map(|at| column(at).sort(true, true)));
    let value = AggregateFunction::new_udf(
        first_value_udaf(),
        vec![named_struct(whole.collect())],
        false,
        None,
        order,
        None,
    );
    let groups = &first.params.partition_by;
    let value = Expr::AggregateFunction(value).alias(FIRST);
    let firsts = Aggregate::try_new(Arc::new(input), groups.clone(), vec![value])?;
    let value = Expr::Column(Column::new_unqualified(FIRST));
    let mut projected = Vec::with_capacity(columns.len() + 1);
    for (at, (table, of)) in columns.iter().enumerate() {
        let expression = match groups.contains(&column(at)) {
            true => column(at),
            false => get_field(value.clone(), field(at)),
        };
        projected.push(named(expression, *table, of));
    }
    projected.push(named(lit(1_u64), number_table, number));
    LogicalPlanBuilder::from(LogicalPlan::Aggregate(firsts))
        .project(projected)?
        .build()
}

fn named(expression: Expr, table: Option<&TableReference>, field: &arrow::datatypes::FieldRef) -> Expr {
    let metadata = FieldMetadata::from(field.as_ref());
    expression.alias_qualified_with_metadata(table.cloned(), field.name(), Some(metadata))
}

/// The plan with other rows instead of those that its numbered rows are.
fn with_instead(plan: &LogicalPlan, firsts: &LogicalPlan) -> Planned<LogicalPlan> {
    if let LogicalPlan::Window(_) = plan {
        return Ok(firsts.clone());
    }
    let inputs: Planned<Vec<_>> = plan
        .inputs()
        .into_iter()
        .map(|input| with_instead(input, firsts))
        .collect();
    plan.with_new_exprs(plan.expressions(), inputs?)
}

impl Stages<'_> {
    /// An aggregate whose groups end when nothing has come for them for a time.
    pub fn lasting(&mut self, aggregate: &logical_expr::Aggregate, inlined: Inlined<'_, Lasting>) -> Result<Branch> {
        let Lasting { input, time, ttl } = inlined.node;
        let mut branch = self.node(input)?;
        for filter in &inlined.filters {
            self.filter(&mut branch, filter)?;
        }
        let time_column = branch
            .rows
            .columns
            .maybe_index_of_column(time)
            .ok_or_else(|| SqlError::internal(format!("the time column {} is not among the rows", time.name)))?;
        let (group_expr, aggr_expr) = inlined.expressions.split_at(aggregate.group_expr.len());
        let groups = self.groups(&branch, group_expr)?;
        let aggregates = self.aggregates(&branch, aggr_expr)?;
        let columns: DFSchema = aggregate.schema.as_ref().clone();
        let stays = self.meets(&branch, group_expr);
        let count = groups.len();
        let schema = partial_schema(&["start", "last"], &columns.fields()[..count], &aggregates);
        branch.part.operators.push(Operator::PartialSessions(PartialSessions {
            time_column,
            gap: *ttl,
            groups,
            aggregates: aggregates.clone(),
            schema: schema.clone(),
        }));
        self.closes_windows(&mut branch);
        if stays.is_none() {
            branch = self.cut(branch, schema, (2..2 + count).collect());
        }
        branch.part.operators.push(Operator::SessionAggregate(SessionAggregate {
            gap: *ttl,
            gives: SessionRows::Latest,
            lateness: 0,
            groups: count,
            aggregates,
            schema: changelog_schema(columns.as_arrow()),
        }));
        self.grouped(&mut branch, stays, count, columns);
        Ok(branch)
    }
}
