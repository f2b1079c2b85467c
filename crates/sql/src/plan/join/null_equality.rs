//! Keys of which NULL equals NULL: those of `EXCEPT`, `INTERSECT` and `IS NOT DISTINCT FROM`.
//!
//! A key that may be NULL becomes two that are not: whether it is, and what it is if it isn't.

use std::sync::Arc;

use datafusion::common::{DFSchema, JoinType, NullEquality, Result, ScalarValue};
use datafusion::logical_expr::{Expr, ExprSchemable, Join, LogicalPlan, LogicalPlanBuilder, lit, when};

/// The keys as ones of which NULL equals nothing.
pub fn without_nulls(on: Vec<(Expr, Expr)>, left: &DFSchema, right: &DFSchema) -> Result<Vec<(Expr, Expr)>> {
    let mut keys = Vec::with_capacity(2 * on.len());
    for (l, r) in on {
        if !l.nullable(left)? && !r.nullable(right)? {
            keys.push((l, r));
            continue;
        }
        let instead = lit(ScalarValue::new_default(&l.get_type(left)?)?);
        let value = |key: &Expr| when(key.clone().is_null(), instead.clone()).otherwise(key.clone());
        keys.push((value(&l)?, value(&r)?));
        keys.push((l.is_null(), r.is_null()));
    }
    Ok(keys)
}

/// Of the right rows of `EXCEPT` and `INTERSECT` each is needed once, which bounds what is kept of them.
pub fn distinct_right(join: &Join) -> Result<Arc<LogicalPlan>> {
    let right = join.right.as_ref();
    let is_set_operation = join.null_equality == NullEquality::NullEqualsNull
        && matches!(join.join_type, JoinType::LeftSemi | JoinType::LeftAnti)
        && join.filter.is_none()
        && join.on.len() == right.schema().fields().len();
    if !is_set_operation || matches!(right, LogicalPlan::Aggregate(_)) {
        return Ok(Arc::clone(&join.right));
    }
    let columns = right.schema().columns().into_iter().map(Expr::Column);
    let distinct =
        LogicalPlanBuilder::from(right.clone()).aggregate(columns.collect::<Vec<_>>(), Vec::<Expr>::new())?;
    Ok(Arc::new(distinct.build()?))
}
