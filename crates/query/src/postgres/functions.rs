//! What `datafusion-pg-catalog` lacks for the questions of `psql` and drivers: the names of this server and of its
//! user, functions about things that there are none of here, and subqueries that DataFusion can't plan.

use std::ops::ControlFlow;

use arrow::datatypes::DataType;
use datafusion::common::{Result, ScalarValue};
use datafusion::logical_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, TypeSignature, Volatility,
};
use datafusion::prelude::SessionContext;
use datafusion::sql::sqlparser::ast::{Expr, FunctionArguments, Statement, Value, visit_expressions_mut};
use headwater_sql::plan::naming::name_columns;

use crate::postgres::NAME;

/// A function with the same value always, whatever it is asked.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Constant {
    name: &'static str,
    value: ScalarValue,
    signature: Signature,
}

pub fn register(context: &SessionContext) {
    let version = format!("PostgreSQL 16.6 (Headwater {})", env!("CARGO_PKG_VERSION"));
    let text = |text: &str| ScalarValue::Utf8(Some(text.to_owned()));
    let nothing = ScalarValue::Utf8(None);
    let constants = [
        ("version", text(&version)),
        ("pg_get_userbyid", text(NAME)),
        ("session_user", text(NAME)),
        ("pg_function_is_visible", ScalarValue::Boolean(Some(true))),
        ("pg_type_is_visible", ScalarValue::Boolean(Some(true))),
        ("pg_get_function_result", nothing.clone()),
        ("pg_get_function_arguments", nothing.clone()),
        ("pg_get_viewdef", nothing.clone()),
        ("pg_size_pretty", nothing.clone()),
        // Of options and privileges alone.
        ("array_to_string", nothing.clone()),
        ("array_remove", nothing.clone()),
        ("pg_table_size", ScalarValue::Int64(None)),
        ("obj_description", nothing.clone()),
        ("col_description", nothing.clone()),
        ("shobj_description", nothing),
    ];
    for (name, value) in constants {
        context.register_udf(ScalarUDF::from(Constant {
            name,
            value,
            signature: Signature::one_of(
                vec![TypeSignature::Nullary, TypeSignature::VariadicAny],
                Volatility::Stable,
            ),
        }));
    }
}

/// Columns that the tables of `datafusion-pg-catalog` lack.
const COLUMNS_WITHOUT_VALUE: [&str; 3] = ["reloptions", "relacl", "typacl"];

/// Names columns as Postgres does, and takes what there is none of for empty: options, privileges, and what is listed
/// by `ARRAY(SELECT …)`.
pub fn rewrite(statements: &mut Vec<Statement>) {
    let _ = visit_expressions_mut(statements, |expression: &mut Expr| {
        let nothing = match expression {
            Expr::Function(function) => {
                matches!(function.args, FunctionArguments::Subquery(_))
                    && function.name.to_string().eq_ignore_ascii_case("array")
            }
            Expr::CompoundIdentifier(names) => {
                let name = names.last().map(|name| name.value.as_str());
                name.is_some_and(|name| COLUMNS_WITHOUT_VALUE.contains(&name))
            }
            _ => false,
        };
        if nothing {
            *expression = Expr::Value(Value::SingleQuotedString(String::new()).into());
        }
        ControlFlow::<()>::Continue(())
    });
    for statement in statements {
        if let Statement::Query(query) = statement {
            **query = name_columns(query);
        }
    }
}

impl ScalarUDFImpl for Constant {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arguments: &[DataType]) -> Result<DataType> {
        Ok(self.value.data_type())
    }

    fn invoke_with_args(&self, _arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        Ok(ColumnarValue::Scalar(self.value.clone()))
    }
}
