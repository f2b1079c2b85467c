//! Views of last rows as versioned tables: `SELECT DISTINCT ON (k) … ORDER BY k, time DESC`, or rows that are numbered in that
//! order, of which the first is taken. At a time such a view has the rows that it would show had only rows up to then come.
//!
//! A view doesn't know its own past. So what it takes its rows from is read in its place: of each key the newest row before a
//! time, by the view's own order, is the one that it showed then. What the view computes of it is computed before the join;
//! what it asks of it, a `WHERE` around the numbered rows, is asked of the pair, so a row that it leaves out ends the one before.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::compute::SortOptions;
use arrow::datatypes::Field;
use datafusion::common::{Column, DFSchema};
use datafusion::logical_expr::utils::conjunction;
use datafusion::logical_expr::{Expr, ExprSchemable, LogicalPlan, SortExpr, TableScan, lit};
use headwater_catalog::definition::{Definition, Start};
use headwater_catalog::snapshot::Snapshot;

use crate::error::{Result, SqlError};
use crate::plan;
use crate::plan::branch::{Branch, Time};
use crate::plan::inline::{renamed, replace};
use crate::plan::scan::{by_itself, with_query};
use crate::plan::stages::Stages;
use crate::plan::tables::Table;
use crate::plan::top_n::{First, sort_options};

/// What a view of last rows is made of.
struct LastRows {
    /// The rows that it numbers.
    input: LogicalPlan,
    groups: Vec<Expr>,
    order: Vec<SortExpr>,
    /// The view's columns, over those of the input.
    columns: Vec<Expr>,
    /// What is asked of the last rows.
    filters: Vec<Expr>,
}

/// Such a view as the right side of a temporal join, whose columns these are places of.
pub struct Past {
    /// The columns of its key by name, and where they are, if they are read.
    pub key: Vec<(String, Option<usize>)>,
    /// Of several rows of one time the last in this order counts.
    pub order: Vec<(usize, SortOptions)>,
    /// The column that says whether the view shows the row.
    pub is_shown: Option<usize>,
}

/// The column of a view from whose time on a row is valid, or why there is none.
pub fn time_of_view(definition: &Definition, snapshot: &Snapshot) -> Result<std::result::Result<String, String>> {
    if definition.query().is_some_and(|query| query.start == Start::Latest) {
        return Ok(Err(
            "begins with what came after it was made (start = 'latest')".to_owned()
        ));
    }
    let request = by_itself(definition);
    let time = with_query(definition, snapshot, &request, |select, snapshot, request| {
        let rows = match LastRows::of(&plan::logical_plan(select, snapshot, request)?) {
            Ok(rows) => rows,
            Err(why) => return Ok(Err(why.to_owned())),
        };
        let branch = Stages::new(select, snapshot, request).node(&rows.input)?;
        Ok(rows.time(&branch))
    })?;
    let time = time.ok_or_else(|| SqlError::internal(format!("{} has no query", definition.name)))?;
    Ok(time.map(|at| definition.columns()[at].name.clone()))
}

/// The view that is read, if it is one.
pub fn scanned(plan: &LogicalPlan) -> Option<(&TableScan, &Arc<Definition>)> {
    match plan {
        LogicalPlan::TableScan(scan) => {
            let table = scan.source.downcast_ref::<Table>()?;
            table.definition.view().map(|_| (scan, &table.definition))
        }
        // It leaves columns out, no more.
        LogicalPlan::Projection(projection) => scanned(&projection.input),
        _ => None,
    }
}

impl LastRows {
    fn of(plan: &LogicalPlan) -> std::result::Result<Self, &'static str> {
        const NONE: &str = "isn't made of the last row of each key";
        let mut expressions: Vec<Expr> = plan.schema().columns().into_iter().map(Expr::Column).collect();
        let columns = expressions.len();
        let mut node = plan;
        let first = loop {
            if let LogicalPlan::Filter(filter) = node {
                if let Some(first) = First::of(filter) {
                    break first;
                }
                expressions.push(filter.predicate.clone());
                node = &filter.input;
                continue;
            }
            let (names, below) = renamed(node).ok_or(NONE)?;
            in_terms_of(&mut expressions, &names)?;
            node = below;
        };
        for (names, _) in first.above.iter().rev().filter_map(|node| renamed(node)) {
            in_terms_of(&mut expressions, &names)?;
        }
        expressions.extend(first.rest.iter().cloned());
        let number = first.window.schema.columns().pop().ok_or(NONE)?;
        in_terms_of(&mut expressions, &HashMap::from([(number, lit(1_u64))]))?;
        if first.limit != 1 {
            return Err("has several rows of a key");
        }
        let filters = expressions.split_off(columns);
        let plain = |expression: &Expr| expression.clone().unalias_nested().data;
        let groups: Vec<Expr> = first.params.partition_by.iter().map(plain).collect();
        let order = first.params.order_by.iter().map(|order| SortExpr {
            expr: plain(&order.expr),
            ..*order
        });
        Ok(Self {
            input: first.window.input.as_ref().clone(),
            // All rows of a group agree in its own columns.
            order: order.filter(|order| !groups.contains(&order.expr)).collect(),
            groups,
            columns: expressions.iter().map(plain).collect(),
            filters,
        })
    }

    /// Which of the view's columns holds the time, or why the view has no past.
    fn time(&self, branch: &Branch) -> std::result::Result<usize, String> {
        if branch.rows.changelog {
            return Err("is made of a result that changes".to_owned());
        }
        let time_of = |expr: &Expr| match expr {
            Expr::Column(column) => {
                let at = branch.rows.columns.maybe_index_of_column(column)?;
                Some((at, *branch.rows.times.get(&at)?))
            }
            _ => None,
        };
        let is_time = |order: &&SortExpr| matches!(time_of(&order.expr), Some((_, Time::Event | Time::WindowEnd)));
        let Some(time) = self.order.first().filter(is_time).filter(|order| !order.asc) else {
            return Err("doesn't take the last row by event time".to_owned());
        };
        let is_nullable = time_of(&time.expr).is_some_and(|(at, _)| branch.rows.columns.field(at).is_nullable());
        if is_nullable && time.nulls_first {
            return Err("takes rows without a time before all others (ORDER BY … DESC NULLS LAST doesn't)".to_owned());
        }
        if self.groups.is_empty() {
            return Err("has no key".to_owned());
        }
        if self
            .groups
            .iter()
            .any(|group| matches!(time_of(group), Some((_, Time::WindowStart(_) | Time::WindowEnd))))
        {
            return Err("takes the last row of each window".to_owned());
        }
        if self.key().is_none() {
            return Err("doesn't have all columns of its key".to_owned());
        }
        let at = self.columns.iter().position(|column| *column == time.expr);
        at.ok_or_else(|| {
            let names: Vec<_> = time
                .expr
                .column_refs()
                .into_iter()
                .map(|column| column.name.as_str())
                .collect();
            format!(
                "doesn't have the column {} by which it takes the last row",
                names.join(", ")
            )
        })
    }

    /// Which of the view's columns are its key.
    fn key(&self) -> Option<Vec<usize>> {
        let at = |group: &Expr| self.columns.iter().position(|column| column == group);
        self.groups.iter().map(at).collect()
    }
}

fn in_terms_of(expressions: &mut [Expr], names: &HashMap<Column, Expr>) -> std::result::Result<(), &'static str> {
    for expression in expressions {
        *expression = replace(expression.clone(), names).map_err(|_| "has columns that can't be followed")?;
    }
    Ok(())
}

impl Stages<'_> {
    /// The rows that a view of last rows had at all times: its columns, and behind them what else is needed.
    pub fn past_of(&mut self, scan: &TableScan, definition: &Definition) -> Result<(Branch, Past)> {
        let internal = |why: &str| SqlError::internal(format!("{} {why}", definition.name));
        let rows = with_query(definition, self.snapshot, self.request, |select, snapshot, request| {
            LastRows::of(&plan::logical_plan(select, snapshot, request)?).map_err(internal)
        })?;
        let rows = rows.ok_or_else(|| internal("has no query"))?;
        self.reads.push(definition.name.clone());
        let mut branch = self.node(&rows.input)?;
        let ordered: Vec<Expr> = rows.order.iter().map(|order| order.expr.clone()).collect();
        let ordered = self.with_columns(&mut branch, &ordered)?;
        let known = branch.rows.columns.clone();

        let all = 0..rows.columns.len();
        let wanted: Vec<usize> = scan.projection.clone().unwrap_or_else(|| all.collect());
        let mut expressions: Vec<Expr> = wanted.iter().map(|&at| rows.columns[at].clone()).collect();
        let names = wanted.iter().map(|&at| definition.columns()[at].name.clone());
        let mut names: Vec<String> = names.collect();
        let mut place = |expression: Expr, name: String| {
            let known = expressions.iter().position(|known| *known == expression);
            known.unwrap_or_else(|| {
                expressions.push(expression);
                names.push(name);
                expressions.len() - 1
            })
        };
        // The order looks at all of them. Nobody can write these names without quotes.
        let columns = known.columns().into_iter().map(Expr::Column).enumerate();
        let places: Vec<usize> = columns
            .map(|(at, column)| place(column, format!("$order {at}")))
            .collect();
        let is_shown = conjunction(rows.filters.clone()).map(|shown| place(shown, "$shown".to_owned()));
        let mut fields = Vec::with_capacity(expressions.len());
        for (expression, name) in expressions.iter().zip(&names) {
            let (_, field) = expression.to_field(&known).map_err(|error| self.error(&error))?;
            let field = Field::new(name, field.data_type().clone(), field.is_nullable())
                .with_metadata(field.metadata().clone());
            fields.push((Some(scan.table_name.clone()), Arc::new(field)));
        }
        let schema = DFSchema::new_with_metadata(fields, HashMap::new()).map_err(|error| self.error(&error))?;
        self.project(&mut branch, &expressions, &schema)?;

        // The first in the view's order, which lets the row encoding decide in the end, is the last in the reverse.
        let reversed = |options: SortOptions| SortOptions {
            descending: !options.descending,
            nulls_first: !options.nulls_first,
        };
        let named = ordered.iter().copied().zip(rows.order.iter().map(sort_options));
        let rest = (0..places.len()).filter(|at| !ordered.contains(at));
        let order = named.chain(rest.map(|at| (at, SortOptions::default())));
        let key = rows.key().unwrap_or_default();
        let key = key.into_iter().map(|at| {
            let name = definition.columns()[at].name.clone();
            (name, wanted.iter().position(|&wanted| wanted == at))
        });
        let past = Past {
            key: key.collect(),
            order: order.map(|(at, options)| (places[at], reversed(options))).collect(),
            is_shown,
        };
        Ok((branch, past))
    }
}
