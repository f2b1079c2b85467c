//! Access to nested data in text that holds JSON.
//!
//! `a -> 'b'` is the JSON at `b` (as text that holds JSON), `a ->> 'b'` the same as plain text, and a
//! number in place of the name an index into an array. The functions are those of
//! `datafusion-functions-json`, without the ones whose result is a union of types: streams and
//! views have no column for such a thing. A path that leads nowhere is NULL, and so is broken JSON.

use std::sync::Arc;

use arrow::datatypes::Field;
use datafusion::common::{DFSchema, Result};
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::planner::{ExprPlanner, PlannerResult, RawBinaryExpr};
use datafusion::logical_expr::{Expr, ScalarUDF};
use datafusion::sql::sqlparser::ast::BinaryOperator;
use datafusion_functions_json::udfs;
use headwater_schema::column::{TYPE_JSON, TYPE_KEY};

pub fn functions() -> Vec<Arc<ScalarUDF>> {
    vec![
        udfs::json_get_json_udf(),
        udfs::json_get_str_udf(),
        udfs::json_get_int_udf(),
        udfs::json_get_float_udf(),
        udfs::json_get_bool_udf(),
        udfs::json_as_text_udf(),
        udfs::json_contains_udf(),
        udfs::json_length_udf(),
    ]
}

/// Whether text of this field is JSON: from a column of type JSON, or taken out of one.
pub fn is_json(field: &Field) -> bool {
    let metadata = field.metadata();
    metadata.get(TYPE_KEY).is_some_and(|kind| kind == TYPE_JSON) || metadata.contains_key("is_json")
}

/// Plans the operators `->`, `->>` and `?`.
#[derive(Debug)]
pub struct JsonOperators;

impl ExprPlanner for JsonOperators {
    fn plan_binary_op(&self, expr: RawBinaryExpr, _schema: &DFSchema) -> Result<PlannerResult<RawBinaryExpr>> {
        let function = match expr.op {
            BinaryOperator::Arrow => udfs::json_get_json_udf(),
            BinaryOperator::LongArrow => udfs::json_as_text_udf(),
            BinaryOperator::Question => udfs::json_contains_udf(),
            _ => return Ok(PlannerResult::Original(expr)),
        };
        // `a -> 'b' ->> 'c'` reads the text once, with the path b, c.
        let mut arguments = match expr.left {
            Expr::ScalarFunction(inner) if inner.func.name() == "json_get_json" => inner.args,
            other => vec![other],
        };
        arguments.push(expr.right);
        let call = ScalarFunction::new_udf(function, arguments);
        Ok(PlannerResult::Planned(Expr::ScalarFunction(call)))
    }
}
