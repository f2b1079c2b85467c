//! Top-N: rows that are numbered in an order, and a filter that lets the first of them through.
//!
//! 1. `ROW_NUMBER() OVER (PARTITION BY … ORDER BY …)` under a filter with an upper bound, in a subquery or with
//!    QUALIFY. What else the filter asks for is asked of the first rows.
//! 2. `SELECT DISTINCT ON (…) … ORDER BY …` is the same with the bound 1.
//!
//! Rows of a group must meet in one task, as for an aggregate. Where the groups are those of a window, a group comes
//! out once, when the window closes; else the result changes.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::compute::SortOptions;
use arrow::datatypes::{DataType, FieldRef};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, DFSchema, ScalarValue, TableReference};
use datafusion::functions_window::row_number::row_number_udwf;
use datafusion::logical_expr::expr::{WindowFunction, WindowFunctionParams};
use datafusion::logical_expr::utils::{conjunction, split_conjunction};
use datafusion::logical_expr::{
    self, BinaryExpr, Distinct, DistinctOn, Expr, ExprFunctionExt, ExprSchemable, LogicalPlan, LogicalPlanBuilder,
    Operator as Compare, WindowFunctionDefinition, lit,
};
use headwater_engine::plan::{Operator, TopN};
use headwater_event::op::changelog_schema;

use crate::error::Result;
use crate::plan::branch::{Branch, Key, Time, schema_of};
use crate::plan::inline::{renamed, replace};
use crate::plan::stages::Stages;

/// A filter that keeps the first rows of every group.
pub struct First<'a> {
    pub window: &'a logical_expr::Window,
    pub params: &'a WindowFunctionParams,
    /// What lies between the filter and the numbered rows, from these on: projections and renamings.
    pub above: Vec<&'a LogicalPlan>,
    /// Whether the filter's last column is the number.
    number_is_last: bool,
    pub limit: u64,
    /// What the filter asks for besides, over the numbered rows.
    pub rest: Vec<Expr>,
}

impl<'a> First<'a> {
    pub fn of(filter: &'a logical_expr::Filter) -> Option<Self> {
        let mut predicate = filter.predicate.clone();
        let mut last = Expr::Column(filter.input.schema().columns().pop()?);
        let mut above = Vec::new();
        let mut node = filter.input.as_ref();
        let window = loop {
            if let LogicalPlan::Window(window) = node {
                break window;
            }
            let (renamed, below) = renamed(node)?;
            predicate = replace(predicate, &renamed).ok()?;
            last = replace(last, &renamed).ok()?;
            above.insert(0, node);
            node = below;
        };
        let [expression] = window.window_expr.as_slice() else {
            return None;
        };
        let params = row_number(expression)?;
        let number = Expr::Column(window.schema.columns().pop()?);
        let mut limit = None;
        let mut rest = Vec::new();
        for condition in split_conjunction(&predicate) {
            let Some((bound, is_all)) = upper_bound(condition, &number) else {
                rest.push(condition.clone());
                continue;
            };
            limit = Some(limit.map_or(bound, |limit: u64| limit.min(bound)));
            if !is_all {
                rest.push(condition.clone());
            }
        }
        Some(Self {
            window,
            params,
            above,
            number_is_last: last == number,
            limit: limit?,
            rest,
        })
    }

    /// Whether the filter itself looks at the numbers of the rows that it lets through.
    fn looks_at_numbers(&self) -> bool {
        let number = self.window.schema.columns().pop();
        let mut rest = self.rest.iter();
        rest.any(|expr| {
            number
                .as_ref()
                .is_some_and(|number| expr.column_refs().contains(number))
        })
    }
}

impl Stages<'_> {
    /// The first rows, with the last column of the filter if that is wanted.
    pub fn first_rows(&mut self, first: &First<'_>, last_column: bool) -> Result<Branch> {
        let mut branch = self.node(&first.window.input)?;
        let row_number = last_column || !first.number_is_last || first.looks_at_numbers();
        let columns: Vec<Column> = branch.rows.columns.columns();
        let groups = &first.params.partition_by;
        let stays = self.meets(&branch, groups);

        let mut wanted = groups.clone();
        wanted.extend(first.params.order_by.iter().map(|order| order.expr.clone()));
        let known = self.with_columns(&mut branch, &wanted)?;
        let (partition_by, ordered) = known.split_at(groups.len());
        let options = first.params.order_by.iter().map(sort_options);
        let order_by: Vec<(usize, SortOptions)> = ordered.iter().copied().zip(options).collect();
        let partition_by = partition_by.to_vec();
        let closes_by = match self.select.emit_changes {
            // Asked for what is known before the window closes.
            true => None,
            false => self.window_end(&mut branch, &partition_by)?,
        };
        if closes_by.is_some() {
            self.closes_windows(&mut branch);
        }
        branch = self.gathered(branch, &partition_by, stays);

        let number = first.window.schema.iter().last();
        let number = number
            .filter(|_| row_number)
            .map(|(relation, field)| (relation.cloned(), field.clone()));
        let schema = self.append(&branch, number)?;
        let changelog = closes_by.is_none();
        let only_added = !branch.rows.changelog;
        branch.part.operators.push(Operator::TopN(TopN {
            partition_by: partition_by.clone(),
            order_by,
            limit: first.limit,
            row_number,
            closes_by,
            only_added,
            kept_in_view: None,
            schema: match changelog {
                true => changelog_schema(schema.as_arrow()),
                false => Arc::new(schema.as_arrow().clone()),
            },
        }));
        branch.rows.columns = schema;
        branch.rows.changelog = changelog;
        let number = row_number.then(|| branch.rows.columns.fields().len() - 1);
        branch.rows.key = key(first, columns.len(), &partition_by, number);
        match closes_by {
            Some(_) => branch.rows.times.retain(|_, time| *time != Time::Event),
            None => branch.rows.times.clear(),
        }
        if let Some(rest) = conjunction(first.rest.clone()) {
            self.filter(&mut branch, &rest)?;
        }
        // Without the columns that were computed for the groups and the order.
        let number = branch.rows.columns.columns().pop().filter(|_| row_number);
        let wanted: Vec<Column> = columns.into_iter().chain(number).collect();
        if wanted.len() < branch.rows.columns.fields().len() {
            self.project_columns(&mut branch, &wanted)?;
        }
        for node in &first.above {
            self.above_first_rows(&mut branch, node)?;
        }
        Ok(branch)
    }

    /// What a projection or renaming makes of the rows, which may be without their numbers.
    fn above_first_rows(&self, branch: &mut Branch, node: &LogicalPlan) -> Result<()> {
        let schema = match node {
            LogicalPlan::Projection(projection) => {
                let known = &branch.rows.columns;
                let is_there = |expr: &Expr| expr.column_refs().iter().all(|column| known.has_column(column));
                let fields = projection
                    .schema
                    .iter()
                    .map(|(relation, field)| (relation.cloned(), field.clone()));
                let kept = projection
                    .expr
                    .iter()
                    .cloned()
                    .zip(fields)
                    .filter(|(expr, _)| is_there(expr));
                let (expressions, fields): (Vec<Expr>, Vec<_>) = kept.unzip();
                let schema = DFSchema::new_with_metadata(fields, HashMap::new()).map_err(|error| self.error(&error))?;
                return self.project(branch, &expressions, &schema);
            }
            LogicalPlan::SubqueryAlias(alias) => {
                DFSchema::try_from_qualified_schema(alias.alias.clone(), branch.rows.columns.as_arrow())
            }
            _ => return Ok(()),
        };
        branch.rows.columns = schema.map_err(|error| self.error(&error))?;
        Ok(())
    }

    /// Where the values of expressions are among the columns. Those that are no columns are computed, and stand behind
    /// the others then.
    pub fn with_columns(&self, branch: &mut Branch, expressions: &[Expr]) -> Result<Vec<usize>> {
        let mut places = Vec::with_capacity(expressions.len());
        let before = branch.rows.columns.clone();
        let mut computed: Vec<Expr> = Vec::new();
        for expression in expressions {
            let expression = expression.clone().unalias_nested().data;
            let known = match &expression {
                Expr::Column(column) => before.maybe_index_of_column(column),
                _ => None,
            };
            places.push(known.unwrap_or_else(|| {
                let place = computed.iter().position(|known| *known == expression);
                before.fields().len()
                    + place.unwrap_or_else(|| {
                        computed.push(expression);
                        computed.len() - 1
                    })
            }));
        }
        if computed.is_empty() {
            return Ok(places);
        }
        let mut fields: Vec<_> = before
            .iter()
            .map(|(relation, field)| (relation.cloned(), field.clone()))
            .collect();
        for (number, expression) in computed.iter().enumerate() {
            let (_, field) = expression.to_field(&before).map_err(|error| self.error(&error))?;
            let name = format!("computed {} {number}", before.fields().len());
            fields.push((None, Arc::new(field.as_ref().clone().with_name(name))));
        }
        let schema = DFSchema::new_with_metadata(fields, HashMap::new()).map_err(|error| self.error(&error))?;
        let mut all: Vec<Expr> = before.columns().into_iter().map(Expr::Column).collect();
        all.extend(computed);
        self.project(branch, &all, &schema)?;
        Ok(places)
    }

    /// The rows of a group in one task. `stays` is what [`Stages::meets`] says of the groups.
    pub fn gathered(&mut self, mut branch: Branch, groups: &[usize], stays: Option<Option<Vec<usize>>>) -> Branch {
        let Some(decide) = stays else {
            let schema = schema_of(&branch.rows);
            branch = self.cut(branch, schema, groups.to_vec());
            branch.rows.partitioned = (!groups.is_empty()).then(|| groups.to_vec());
            return branch;
        };
        branch.rows.partitioned = decide
            .map(|decide| decide.into_iter().map(|group| groups[group]).collect())
            .filter(|columns: &Vec<usize>| !columns.is_empty());
        branch
    }

    /// The column with the time at which the groups are complete, if they are those of a window.
    fn window_end(&self, branch: &mut Branch, groups: &[usize]) -> Result<Option<usize>> {
        let time_of = |group: &usize| Some((*group, *branch.rows.times.get(group)?));
        let times: Vec<(usize, Time)> = groups.iter().filter_map(time_of).collect();
        if let Some((end, _)) = times.iter().find(|(_, time)| *time == Time::WindowEnd) {
            return Ok(Some(*end));
        }
        for (start, time) in times {
            if let Time::WindowStart(window) = time {
                let start = Expr::Column(Column::from(branch.rows.columns.qualified_field(start)));
                let size = ScalarValue::new_interval_mdn(0, 0, window.size.saturating_mul(1000));
                let end = self.with_columns(branch, &[start + lit(size)])?;
                return Ok(end.first().copied());
            }
        }
        Ok(None)
    }

    /// The branch's columns, and others behind them.
    pub fn append(
        &self,
        branch: &Branch,
        more: impl IntoIterator<Item = (Option<TableReference>, FieldRef)>,
    ) -> Result<DFSchema> {
        let columns = branch.rows.columns.iter();
        let mut fields: Vec<_> = columns
            .map(|(relation, field)| (relation.cloned(), field.clone()))
            .collect();
        fields.extend(more);
        DFSchema::new_with_metadata(fields, HashMap::new()).map_err(|error| self.error(&error))
    }

    /// These columns alone.
    pub fn project_columns(&self, branch: &mut Branch, columns: &[Column]) -> Result<()> {
        let all = &branch.rows.columns;
        let fields = columns.iter().map(|column| {
            let (relation, field) = all.qualified_field_from_column(column)?;
            Ok((relation.cloned(), field.clone()))
        });
        let fields: datafusion::common::Result<Vec<_>> = fields.collect();
        let schema = fields.and_then(|fields| DFSchema::new_with_metadata(fields, HashMap::new()));
        let schema = schema.map_err(|error| self.error(&error))?;
        let columns: Vec<Expr> = columns.iter().cloned().map(Expr::Column).collect();
        self.project(branch, &columns, &schema)
    }
}

/// What names a row among the first ones. What was computed for them is not among the columns in the end.
fn key(first: &First<'_>, columns: usize, groups: &[usize], number: Option<usize>) -> Key {
    if groups.iter().any(|&group| group >= columns) {
        return Key::Nothing;
    }
    if first.limit > 1 && number.is_none() {
        return Key::Nothing;
    }
    let number = number.filter(|_| first.limit > 1);
    Key::Groups {
        window: None,
        groups: groups.iter().copied().chain(number).map(Some).collect(),
    }
}

pub fn sort_options(order: &logical_expr::SortExpr) -> SortOptions {
    SortOptions {
        descending: !order.asc,
        nulls_first: order.nulls_first,
    }
}

/// What follows `OVER`, if the rows are numbered.
fn row_number(expression: &Expr) -> Option<&WindowFunctionParams> {
    match expression {
        Expr::Alias(alias) => row_number(&alias.expr),
        Expr::WindowFunction(function) => match &function.fun {
            WindowFunctionDefinition::WindowUDF(function_of) if function_of.name() == "row_number" => {
                Some(&function.params)
            }
            _ => None,
        },
        _ => None,
    }
}

/// The greatest number that the condition lets through, and whether it lets all up to it through.
fn upper_bound(condition: &Expr, number: &Expr) -> Option<(u64, bool)> {
    let Expr::BinaryExpr(BinaryExpr { left, op, right }) = condition else {
        return None;
    };
    let (op, bound) = match (literal(left), literal(right)) {
        (None, Some(bound)) if bare(left) == number => (*op, bound),
        (Some(bound), None) if bare(right) == number => (op.swap()?, bound),
        _ => return None,
    };
    match op {
        Compare::LtEq => Some((bound, true)),
        Compare::Lt => Some((bound.saturating_sub(1), true)),
        Compare::Eq => Some((bound, bound <= 1)),
        _ => None,
    }
}

/// The expression without casts, which don't change which of two numbers is the greater.
fn bare(expression: &Expr) -> &Expr {
    match expression {
        Expr::Cast(cast) if cast.field.data_type().is_integer() => bare(&cast.expr),
        _ => expression,
    }
}

fn literal(expression: &Expr) -> Option<u64> {
    match expression {
        Expr::Literal(value, _) if value.data_type().is_integer() => match value.cast_to(&DataType::Int64) {
            Ok(ScalarValue::Int64(Some(bound))) => Some(u64::try_from(bound).unwrap_or(0)),
            _ => None,
        },
        _ => None,
    }
}

/// `DISTINCT ON` as numbered rows of which the first is taken.
pub fn without_distinct_on(plan: LogicalPlan) -> datafusion::common::Result<LogicalPlan> {
    let replaced = plan.transform_up(|plan| match plan {
        LogicalPlan::Distinct(Distinct::On(distinct)) => Ok(Transformed::yes(first_of(distinct)?)),
        other => Ok(Transformed::no(other)),
    });
    Ok(replaced?.data)
}

fn first_of(distinct: DistinctOn) -> datafusion::common::Result<LogicalPlan> {
    let number = Expr::from(WindowFunction::new(row_number_udwf(), Vec::new()))
        .partition_by(distinct.on_expr)
        .order_by(distinct.sort_expr.unwrap_or_default())
        .build()?;
    let is_first = Expr::Column(Column::from_name(number.schema_name().to_string())).lt_eq(lit(1u64));
    LogicalPlanBuilder::from(Arc::unwrap_or_clone(distinct.input))
        .window(vec![number])?
        .filter(is_first)?
        .project(distinct.select_expr)?
        .build()
}
