//! `EXCEPT ALL` and `INTERSECT ALL`: of each row as many as are on the left and not on the right, or as are on both sides.
//!
//! DataFusion's planner makes joins of them that take all equal rows or none. Nothing else makes such joins: NULL equals NULL, and the
//! left rows are not distinct. (Where they are, each is there once, and the same comes of it.)
//!
//! 1. Asked once, equal rows of each side are numbered, and joined by their numbers as well.
//! 2. In a continuous query the rows of each side are counted, and [`Copies`] has each row as often as the counts say.

mod node;

use std::sync::Arc;

use datafusion::common::tree_node::Transformed;
use datafusion::common::{Column, JoinType, NullEquality, Result};
use datafusion::functions_aggregate::expr_fn::sum;
use datafusion::functions_window::expr_fn::row_number;
use datafusion::logical_expr::{
    Distinct, Expr, ExprFunctionExt, Extension, Join, LogicalPlan, LogicalPlanBuilder, cast, lit, when,
};
use headwater_engine::plan::Operator;
use headwater_event::op::changelog_schema;

use crate::error::SqlError;
use crate::plan::branch::{Branch, Key};
use crate::plan::stages::Stages;

pub use node::Copies;

/// The number of a row among its equals.
const NUMBER: &str = "$number";
/// How often a row is on either side, and in the result.
const LEFT: &str = "$left";
const RIGHT: &str = "$right";
const COUNT: &str = "$count";

/// A plan that is fresh from the planner, as a one-off query's.
pub fn one_off(plan: LogicalPlan) -> Result<LogicalPlan> {
    with_all(plan, numbered)
}

/// A plan that is fresh from the planner, as a continuous query's.
pub fn continuous(plan: LogicalPlan) -> Result<LogicalPlan> {
    with_all(plan, counted)
}

fn with_all(plan: LogicalPlan, instead: impl Fn(&Join) -> Result<LogicalPlan>) -> Result<LogicalPlan> {
    let planned = plan.transform_up_with_subqueries(|node| match node {
        LogicalPlan::Join(join) if is_of_all(&join) => instead(&join).map(Transformed::yes),
        other => Ok(Transformed::no(other)),
    });
    Ok(planned?.data)
}

fn is_of_all(join: &Join) -> bool {
    join.null_equality == NullEquality::NullEqualsNull
        && matches!(join.join_type, JoinType::LeftSemi | JoinType::LeftAnti)
        && !matches!(join.left.as_ref(), LogicalPlan::Distinct(Distinct::All(_)))
}

fn numbered(join: &Join) -> Result<LogicalPlan> {
    let number = |side: &LogicalPlan| -> Result<LogicalPlan> {
        let columns: Vec<Expr> = side.schema().columns().into_iter().map(Expr::Column).collect();
        let number = row_number().partition_by(columns.clone()).build()?.alias(NUMBER);
        LogicalPlanBuilder::from(side.clone()).window([number])?.build()
    };
    let (left, right) = (number(&join.left)?, number(&join.right)?);
    let keys = |side: &LogicalPlan| side.schema().columns();
    let keys = (keys(&left), keys(&right));
    let visible: Vec<Expr> = join.left.schema().columns().into_iter().map(Expr::Column).collect();
    LogicalPlanBuilder::from(left)
        .join_detailed(right, join.join_type, keys, None, NullEquality::NullEqualsNull)?
        .project(visible)?
        .build()
}

fn counted(join: &Join) -> Result<LogicalPlan> {
    let name = |at: usize| format!("${at}");
    let column = |name: &str| Expr::Column(Column::new_unqualified(name));
    let side = |rows: &LogicalPlan, is_left: bool| {
        let columns = rows.schema().columns().into_iter().enumerate();
        let columns = columns.map(|(at, column)| Expr::Column(column).alias(name(at)));
        let counts = [
            lit(i64::from(is_left)).alias(LEFT),
            lit(i64::from(!is_left)).alias(RIGHT),
        ];
        LogicalPlanBuilder::from(rows.clone()).project(columns.chain(counts).collect::<Vec<_>>())
    };
    let both = side(&join.left, true)?.union(side(&join.right, false)?.build()?)?;
    let left = join.left.schema();
    let groups: Vec<Expr> = (0..left.fields().len()).map(|at| column(&name(at))).collect();
    let counts = both.aggregate(
        groups.clone(),
        [sum(column(LEFT)).alias(LEFT), sum(column(RIGHT)).alias(RIGHT)],
    )?;
    let count = match join.join_type {
        JoinType::LeftAnti => column(LEFT) - column(RIGHT),
        _ => when(column(LEFT).lt(column(RIGHT)), column(LEFT)).otherwise(column(RIGHT))?,
    };
    let counts = counts
        .project(groups.into_iter().chain([count.alias(COUNT)]))?
        .filter(column(COUNT).gt(lit(0_i64)))?
        .build()?;
    let copies = Copies::new(counts, Column::new_unqualified(COUNT))?;
    let copies = LogicalPlan::Extension(Extension { node: Arc::new(copies) });
    // What is left is of the left side, and so of its type.
    let columns = left.iter().enumerate().map(|(at, (table, field))| {
        cast(column(&name(at)), field.data_type().clone()).alias_qualified(table.cloned(), field.name())
    });
    LogicalPlanBuilder::from(copies)
        .project(columns.collect::<Vec<_>>())?
        .build()
}

impl Stages<'_> {
    pub fn copies(&mut self, copies: &Copies) -> crate::error::Result<Branch> {
        let mut branch = self.node(&copies.input)?;
        let count = branch.rows.columns.maybe_index_of_column(&copies.count);
        let count = count.filter(|_| branch.rows.changelog);
        let count = count.ok_or_else(|| SqlError::internal("copies are of rows that are counted"))?;
        let schema = copies.columns();
        branch
            .part
            .operators
            .push(Operator::Copies(headwater_engine::plan::Copies {
                count,
                schema: changelog_schema(schema.as_arrow()),
            }));
        let from = (0..branch.rows.columns.fields().len()).filter(|at| *at != count);
        let from: Vec<_> = from.map(Some).collect();
        branch.rows.moved(&from);
        branch.rows.key = Key::Nothing;
        branch.rows.columns = schema.as_ref().clone();
        Ok(branch)
    }
}
