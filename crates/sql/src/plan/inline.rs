//! An aggregate over windows, in terms of the windows' own columns.
//!
//! Between the aggregate and the windows there may be projections, filters and renamings. They are
//! folded into the aggregate's expressions, so that the window columns among its groups show.

use std::collections::HashMap;

use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, Result};
use datafusion::logical_expr::{Expr, LogicalPlan};

use crate::plan::windows::Windows;

/// What lies between an aggregate and the windows below it.
pub struct Inlined<'a> {
    pub windows: &'a Windows,
    /// The expressions that were given, over the windows' columns.
    pub expressions: Vec<Expr>,
    pub filters: Vec<Expr>,
}

/// `None` if there are no windows right below.
pub fn inline(input: &LogicalPlan, expressions: Vec<Expr>) -> Result<Option<Inlined<'_>>> {
    if windows_below(input).is_none() {
        return Ok(None);
    }
    let (mut expressions, mut filters) = (expressions, Vec::new());
    let mut node = input;
    loop {
        if let LogicalPlan::Filter(filter) = node {
            filters.push(filter.predicate.clone());
            node = &filter.input;
            continue;
        }
        let Some((renamed, below)) = renamed(node) else { break };
        for expr in expressions.iter_mut().chain(&mut filters) {
            *expr = replace(expr.clone(), &renamed)?;
        }
        node = below;
    }
    Ok(windows_below(node).map(|windows| Inlined {
        windows,
        expressions,
        filters,
    }))
}

/// What the columns of a projection or a renaming are in terms of what lies below it.
pub fn renamed(node: &LogicalPlan) -> Option<(HashMap<Column, Expr>, &LogicalPlan)> {
    match node {
        LogicalPlan::Projection(projection) => {
            let computed = projection.expr.iter().map(|expr| expr.clone().unalias());
            let columns = projection.schema.columns().into_iter();
            Some((columns.zip(computed).collect(), &projection.input))
        }
        LogicalPlan::SubqueryAlias(alias) => {
            let below = alias.input.schema().columns().into_iter().map(Expr::Column);
            let columns = alias.schema.columns().into_iter();
            Some((columns.zip(below).collect(), &alias.input))
        }
        _ => None,
    }
}

/// The expression with other expressions for some of its columns.
pub fn replace(expr: Expr, columns: &HashMap<Column, Expr>) -> Result<Expr> {
    let replaced = expr.transform_up(|expr| match &expr {
        Expr::Column(column) => match columns.get(column) {
            Some(other) => Ok(Transformed::yes(other.clone())),
            None => Ok(Transformed::no(expr)),
        },
        _ => Ok(Transformed::no(expr)),
    })?;
    Ok(replaced.data)
}

fn windows_below(node: &LogicalPlan) -> Option<&Windows> {
    match node {
        LogicalPlan::Extension(extension) => extension.node.as_any().downcast_ref::<Windows>(),
        LogicalPlan::Filter(filter) => windows_below(&filter.input),
        LogicalPlan::Projection(projection) => windows_below(&projection.input),
        LogicalPlan::SubqueryAlias(alias) => windows_below(&alias.input),
        _ => None,
    }
}
