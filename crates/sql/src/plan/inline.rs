//! An aggregate over windows, or over another node of ours, in terms of the node's own columns.
//!
//! Between the aggregate and the node there may be projections, filters and renamings. They are
//! folded into the aggregate's expressions, so that the window columns among its groups show.

use std::collections::HashMap;

use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, Result};
use datafusion::logical_expr::{Expr, LogicalPlan};

/// What lies between an aggregate and the node below it.
pub struct Inlined<'a, N> {
    pub node: &'a N,
    /// The expressions that were given, over the node's columns.
    pub expressions: Vec<Expr>,
    pub filters: Vec<Expr>,
}

/// `None` if there is no such node right below.
pub fn inline<N: 'static>(input: &LogicalPlan, expressions: Vec<Expr>) -> Result<Option<Inlined<'_, N>>> {
    if below::<N>(input).is_none() {
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
        let Some((renamed, input)) = renamed(node) else { break };
        for expr in expressions.iter_mut().chain(&mut filters) {
            *expr = replace(expr.clone(), &renamed)?;
        }
        node = input;
    }
    Ok(below(node).map(|node| Inlined {
        node,
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

fn below<N: 'static>(node: &LogicalPlan) -> Option<&N> {
    match node {
        LogicalPlan::Extension(extension) => extension.node.as_any().downcast_ref::<N>(),
        LogicalPlan::Filter(filter) => below(&filter.input),
        LogicalPlan::Projection(projection) => below(&projection.input),
        LogicalPlan::SubqueryAlias(alias) => below(&alias.input),
        _ => None,
    }
}
