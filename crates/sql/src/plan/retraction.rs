//! Aggregates over a changelog, whose rows come and go.
//!
//! 1. Counts and sums are linear: a row that goes counts with the opposite sign, and the rest is as over a stream. An
//!    average is a sum and a count, put together behind the aggregate. For a group to go with its last row,
//!    and for a sum over NULLs alone to be NULL, rows and values are counted besides.
//! 2. With any other function among them, all rows are kept and groups are computed anew. That also goes for sums of
//!    floating-point numbers, which don't come back to what they were. (Averages of integers are exact below 2^53.)

use std::sync::Arc;

use arrow::datatypes::{DataType, Field};
use datafusion::common::{Column, DFSchema};
use datafusion::functions_aggregate::count::count_udaf;
use datafusion::functions_aggregate::sum::sum_udaf;
use datafusion::logical_expr::expr::{AggregateFunction, AggregateFunctionParams};
use datafusion::logical_expr::{self, Expr, ExprSchemable, cast, lit};
use headwater_engine::plan::{Operator, RetractingAggregate, Retraction};

use crate::error::Result;
use crate::plan::branch::{Branch, schema_of};
use crate::plan::stages::Stages;

/// A linear aggregate in terms of counts and sums.
enum Linear {
    Count(Expr),
    Sum { sum: Expr, values: Expr },
    Average { sum: Expr, values: Expr },
}

impl Stages<'_> {
    pub fn over_changelog(&mut self, branch: Branch, aggregate: &logical_expr::Aggregate) -> Result<Branch> {
        let linear: Option<Vec<_>> = aggregate
            .aggr_expr
            .iter()
            .map(|expression| linear(expression, &branch.rows.columns))
            .collect();
        match linear {
            Some(linear) => self.counted(branch, aggregate, linear),
            None => self.recomputed(branch, aggregate),
        }
    }

    fn counted(&mut self, branch: Branch, aggregate: &logical_expr::Aggregate, linear: Vec<Linear>) -> Result<Branch> {
        let groups = aggregate.group_expr.len();
        let (mut results, mut values_of, mut outputs) = (Vec::new(), Vec::new(), Vec::new());
        let mut result = |expression: Expr, values: Option<Expr>| {
            results.push(expression);
            values_of.push(values);
            column("result", results.len() - 1)
        };
        for each in linear {
            outputs.push(match each {
                Linear::Count(count) => result(count, None),
                Linear::Sum { sum, values } => result(sum, Some(values)),
                Linear::Average { sum, values } => {
                    let sum = result(sum, Some(values.clone()));
                    let values = result(values, None);
                    cast(sum, DataType::Float64) / cast(values, DataType::Float64)
                }
            });
        }
        let visible = results.len();
        let mut place_of = |expression: Expr| {
            let known = results.iter().position(|known| *known == expression);
            known.unwrap_or_else(|| {
                results.push(expression);
                results.len() - 1
            })
        };
        let retraction = Retraction {
            rows: place_of(count_of(vec![lit(1i64)], None)),
            counts: values_of.into_iter().map(|values| values.map(&mut place_of)).collect(),
        };
        let aggregates = self.aggregates(&branch, &results)?;
        let group_fields = aggregate.schema.fields().iter().take(groups);
        let mut fields: Vec<Field> = group_fields
            .enumerate()
            .map(|(at, field)| field.as_ref().clone().with_name(name("group", at)))
            .collect();
        for (at, aggregate) in aggregates.iter().take(visible).enumerate() {
            let field = aggregate.result_field.as_ref().clone();
            fields.push(field.with_name(name("result", at)).with_nullable(true));
        }
        let columns = self.unqualified(fields)?;
        let mut branch = self.merged(branch, &aggregate.group_expr, aggregates, Some(retraction), columns)?;
        let mut expressions: Vec<Expr> = (0..groups).map(|at| column("group", at)).collect();
        expressions.append(&mut outputs);
        self.project(&mut branch, &expressions, &aggregate.schema)?;
        Ok(branch)
    }

    fn recomputed(&mut self, mut branch: Branch, aggregate: &logical_expr::Aggregate) -> Result<Branch> {
        let groups = aggregate.group_expr.len();
        let mut arguments: Vec<Expr> = Vec::new();
        let mut argument = |expression: &Expr| {
            if let Expr::Literal(..) = expression {
                // Some functions want to know it before any row.
                return expression.clone();
            }
            let known = arguments.iter().position(|known| known == expression);
            let at = known.unwrap_or_else(|| {
                arguments.push(expression.clone());
                arguments.len() - 1
            });
            column("argument", at)
        };
        let mut functions = Vec::with_capacity(aggregate.aggr_expr.len());
        for expression in &aggregate.aggr_expr {
            let Some(mut function) = function_of(expression) else {
                return Err(self.refused(&expression.to_string()));
            };
            function.params.args = function.params.args.iter().map(&mut argument).collect();
            for order in &mut function.params.order_by {
                order.expr = argument(&order.expr);
            }
            let filter = function.params.filter.as_deref().map(&mut argument);
            function.params.filter = filter.map(Box::new);
            functions.push(Expr::AggregateFunction(function));
        }
        let mut fields = Vec::new();
        let mut expressions = Vec::new();
        let numbered = aggregate
            .group_expr
            .iter()
            .enumerate()
            .map(|(at, group)| ("group", at, group));
        let numbered = numbered.chain(arguments.iter().enumerate().map(|(at, each)| ("argument", at, each)));
        for (kind, at, expression) in numbered {
            let expression = expression.clone().unalias();
            let (_, field) = expression
                .to_field(&branch.rows.columns)
                .map_err(|error| self.error(&error))?;
            fields.push(field.as_ref().clone().with_name(name(kind, at)));
            expressions.push(expression);
        }
        let columns = self.unqualified(fields)?;
        self.project(&mut branch, &expressions, &columns)?;
        let group_columns: Vec<Expr> = (0..groups).map(|at| column("group", at)).collect();
        let stays = self.meets(&branch, &group_columns);
        let aggregates = self.aggregates(&branch, &functions)?;
        if stays.is_none() {
            let schema = schema_of(&branch.rows);
            branch = self.cut(branch, schema, (0..groups).collect());
        }
        let columns = aggregate.schema.as_ref().clone();
        branch
            .part
            .operators
            .push(Operator::RetractingAggregate(RetractingAggregate {
                groups,
                aggregates,
                schema: headwater_event::op::changelog_schema(columns.as_arrow()),
            }));
        self.grouped(&mut branch, stays, groups, columns);
        Ok(branch)
    }

    fn unqualified(&self, fields: Vec<Field>) -> Result<DFSchema> {
        let fields = fields.into_iter().map(Arc::new).collect::<Vec<_>>();
        DFSchema::from_unqualified_fields(fields.into(), Default::default()).map_err(|error| self.error(&error))
    }
}

/// The aggregate as counts and sums, if it can be one over rows that go again.
fn linear(expression: &Expr, columns: &DFSchema) -> Option<Linear> {
    let function = function_of(expression)?;
    let AggregateFunctionParams {
        args,
        distinct: false,
        filter,
        order_by,
        ..
    } = &function.params
    else {
        return None;
    };
    if !order_by.is_empty() {
        return None;
    }
    let values = count_of(args.clone(), filter.clone());
    let [argument] = args.as_slice() else {
        return (function.func.name() == "count").then_some(Linear::Count(values));
    };
    let sum = sum_of(argument.clone(), filter.clone());
    match function.func.name() {
        "count" => Some(Linear::Count(values)),
        "sum" if adds_up(argument, columns) => Some(Linear::Sum { sum, values }),
        "avg" if averages_exactly(argument, columns) => Some(Linear::Average { sum, values }),
        _ => None,
    }
}

/// Whether a sum over it comes back to what it was when a value is subtracted again.
fn adds_up(argument: &Expr, columns: &DFSchema) -> bool {
    let data_type = argument.get_type(columns).ok();
    data_type.is_some_and(|data_type| matches!(data_type, DataType::Int64 | DataType::Decimal128(..)))
}

/// Integers, as floating-point numbers.
fn averages_exactly(argument: &Expr, columns: &DFSchema) -> bool {
    match argument {
        Expr::Cast(cast) => cast
            .expr
            .get_type(columns)
            .is_ok_and(|data_type| data_type.is_integer()),
        _ => false,
    }
}

fn function_of(expression: &Expr) -> Option<AggregateFunction> {
    match expression.clone().unalias() {
        Expr::AggregateFunction(function) => Some(function),
        _ => None,
    }
}

fn count_of(args: Vec<Expr>, filter: Option<Box<Expr>>) -> Expr {
    let function = AggregateFunction::new_udf(count_udaf(), args, false, filter, Vec::new(), None);
    Expr::AggregateFunction(function)
}

fn sum_of(argument: Expr, filter: Option<Box<Expr>>) -> Expr {
    let function = AggregateFunction::new_udf(sum_udaf(), vec![argument], false, filter, Vec::new(), None);
    Expr::AggregateFunction(function)
}

fn name(kind: &str, at: usize) -> String {
    format!("{kind} {at}")
}

fn column(kind: &str, at: usize) -> Expr {
    Expr::Column(Column::new_unqualified(name(kind, at)))
}
