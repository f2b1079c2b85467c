//! Columns of streams: their types, defaults and watermarks.

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Schema};
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::logical_expr::{Expr, cast};
use datafusion::sql::planner::{PlannerContext, SqlToRel};
use datafusion::sql::sqlparser::ast;
use headwater_catalog::snapshot::{Snapshot, nearest};
use headwater_event::clock::Micros;
use headwater_schema::column::{Column, ColumnDefault};
use headwater_schema::types::type_name;

use crate::error::{Kind, Place, Result, SqlError};
use crate::plan::tables::Tables;
use crate::statement::{ColumnDefinition, Name, WatermarkFor};
use crate::{time, types};

pub fn column(definition: &ColumnDefinition) -> Result<Column> {
    let (data_type, json) =
        types::arrow_type(&definition.data_type).map_err(|error| error.at(definition.type_place.clone()))?;
    let mut column = Column {
        name: definition.name.value.clone(),
        data_type,
        json,
        nullable: definition.nullable,
        default: None,
    };
    if let Some((expression, place)) = &definition.default {
        column.default = default(&column, expression).map_err(|error| error.at(place.clone()))?;
    }
    Ok(column)
}

/// The column and the delay of `WATERMARK FOR column AS column - INTERVAL …`.
pub fn watermark(watermark: &WatermarkFor, columns: &[Column]) -> Result<(String, Micros)> {
    let name = &watermark.column;
    let names: Vec<&str> = columns.iter().map(|column| column.name.as_str()).collect();
    check_known(name, &names)?;
    let column = columns.iter().find(|column| column.name == name.value);
    if let Some(column) = column.filter(|column| !types::is_event_time(&column.data_type)) {
        let found = type_name(&column.data_type, column.json);
        return Err(SqlError::new(
            Kind::Type,
            format!("the WATERMARK is for a TIMESTAMP; {} is {found}", name.value),
        )
        .at(name.place.clone()));
    }
    Ok((name.value.clone(), delay(watermark)?))
}

/// An error with the nearest name, unless there is such a column.
pub fn check_known(name: &Name, columns: &[&str]) -> Result<()> {
    if columns.contains(&name.value.as_str()) {
        return Ok(());
    }
    Err(
        SqlError::new(Kind::UnknownColumn, format!("there is no column '{}' here", name.value))
            .did_you_mean(nearest(&name.value, columns.iter().copied()))
            .at(name.place.clone())
            .hint(format!("the columns are {}", columns.join(", "))),
    )
}

fn delay(watermark: &WatermarkFor) -> Result<Micros> {
    let is_column = |expr: &ast::Expr| matches!(expr, ast::Expr::Identifier(ident) if crate::parse::normalize(ident) == watermark.column.value);
    let wrong = |why: &str| {
        let column = &watermark.column.value;
        SqlError::invalid(format!("this can't be a WATERMARK: {why}"))
            .at(watermark.place.clone())
            .hint(format!(
                "write WATERMARK FOR {column} AS {column} - INTERVAL '5' SECOND"
            ))
    };
    match &watermark.expression {
        column if is_column(column) => Ok(0),
        ast::Expr::BinaryOp {
            left,
            op: ast::BinaryOperator::Minus,
            right,
        } if is_column(left) => {
            let value = constant(right).map_err(|error| wrong(&error.message))?;
            let micros = time::micros(&value).map_err(wrong)?;
            if micros < 0 {
                return Err(wrong("the delay is negative"));
            }
            Ok(micros)
        }
        _ => Err(wrong("it is the column, less an interval")),
    }
}

fn default(column: &Column, expression: &ast::Expr) -> Result<Option<ColumnDefault>> {
    let called = match expression {
        ast::Expr::Function(function) => function.name.to_string().to_lowercase(),
        _ => String::new(),
    };
    match called.as_str() {
        "uuid" | "gen_random_uuid" if column.data_type == DataType::Utf8 && !column.json => {
            return Ok(Some(ColumnDefault::Uuid));
        }
        "uuid" | "gen_random_uuid" => return Err(mismatch(column, "uuid() is TEXT")),
        "now" | "current_timestamp" | "localtimestamp" => {
            if types::is_event_time(&column.data_type) {
                return Ok(Some(ColumnDefault::Now));
            }
            return Err(mismatch(column, "now() is a TIMESTAMP"));
        }
        _ => {}
    }
    let value = constant(expression)?;
    if value.is_null() {
        // No default at all means the same.
        return if column.nullable {
            Ok(None)
        } else {
            Err(mismatch(column, "the column is NOT NULL"))
        };
    }
    let typed = time::constant(cast(Expr::Literal(value.clone(), None), column.data_type.clone()));
    let typed = typed.ok_or_else(|| {
        mismatch(
            column,
            &format!("{value} is no {}", type_name(&column.data_type, column.json)),
        )
    })?;
    let json = match (&typed, column.json) {
        (ScalarValue::Utf8(Some(text)), true) => text.clone(),
        _ => as_json(column, &typed)?,
    };
    if serde_json::from_str::<serde_json::Value>(&json).is_err() {
        return Err(mismatch(column, "it is not JSON"));
    }
    Ok(Some(ColumnDefault::Value(json)))
}

/// The value as an event would bring it.
fn as_json(column: &Column, value: &ScalarValue) -> Result<String> {
    let schema = Schema::new(vec![Field::new("value", column.data_type.clone(), true)]);
    let batch = value
        .to_array()
        .and_then(|array| Ok(RecordBatch::try_new(schema.into(), vec![array])?))
        .map_err(|error| SqlError::internal(error.to_string()))?;
    let mut row = Vec::new();
    headwater_schema::encode::json_object(&batch, 0, &mut row)
        .map_err(|error| SqlError::internal(error.to_string()))?;
    let row: serde_json::Value = serde_json::from_slice(&row).map_err(|error| SqlError::internal(error.to_string()))?;
    Ok(row["value"].to_string())
}

fn mismatch(column: &Column, why: &str) -> SqlError {
    SqlError::new(
        Kind::Type,
        format!("this can't be the DEFAULT of {}: {why}", column.name),
    )
}

/// The value of an expression without columns.
fn constant(expression: &ast::Expr) -> Result<ScalarValue> {
    let (snapshot, schema) = (Snapshot::default(), DFSchema::empty());
    let tables = Tables { snapshot: &snapshot };
    let planned = SqlToRel::new(&tables).sql_to_expr(expression.clone(), &schema, &mut PlannerContext::new());
    planned.ok().and_then(time::constant).ok_or_else(|| {
        SqlError::unsupported(format!("{expression} is not constant"))
            .hint("a DEFAULT is a constant, uuid() or now()")
            .at(None::<Place>)
    })
}
