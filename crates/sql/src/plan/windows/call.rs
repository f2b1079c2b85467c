//! The call of a window function, as it was written: `TUMBLE(table, time, size [, offset])`,
//! `HOP(table, time, slide, size [, offset])`.

use datafusion::common::{Column, DFSchema, DataFusionError, ExprSchema, Result};
use datafusion::logical_expr::Expr;
use datafusion::logical_expr::planner::RelationPlannerContext;
use datafusion::sql::sqlparser::ast::{
    self, FunctionArg, FunctionArgExpr, ObjectName, Spanned, TableAlias, TableFactor,
};
use datafusion::sql::sqlparser::tokenizer::Span;
use headwater_engine::plan::Window;
use headwater_event::clock::Micros;

use crate::error::{Kind, Place, SqlError};
use crate::time;

pub struct Call {
    pub table: TableFactor,
    pub time: ast::Expr,
    pub window: WindowCall,
    pub alias: Option<TableAlias>,
}

/// A window whose sizes are not yet computed.
pub struct WindowCall {
    slide: Option<ast::Expr>,
    size: ast::Expr,
    offset: Option<ast::Expr>,
}

impl Call {
    /// `None` if the table factor is something else.
    pub fn of(factor: &TableFactor) -> Result<Option<Self>> {
        let TableFactor::Table {
            name,
            alias,
            args: Some(args),
            ..
        } = factor
        else {
            return Ok(None);
        };
        let hops = match name.to_string().to_ascii_lowercase().as_str() {
            "tumble" => false,
            "hop" => true,
            _ => return Ok(None),
        };
        let usage = if hops { HOP } else { TUMBLE };
        let span = name.span();
        let mut arguments = Vec::new();
        for argument in &args.args {
            match argument {
                FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => arguments.push(expr.clone()),
                other => {
                    let error = SqlError::unsupported(format!("{name} has no argument like {other}")).hint(usage);
                    return Err(external(error, other.span(), &other.to_string()));
                }
            }
        }
        let wrong = || {
            let error = SqlError::invalid(format!("{name} can't have {} arguments", arguments.len())).hint(usage);
            external(error, span, &name.to_string())
        };
        let mut left = arguments.clone().into_iter();
        let (Some(table), Some(time)) = (left.next(), left.next()) else {
            return Err(wrong());
        };
        let slide = if hops {
            Some(left.next().ok_or_else(wrong)?)
        } else {
            None
        };
        let size = left.next().ok_or_else(wrong)?;
        let offset = left.next();
        if left.next().is_some() {
            return Err(wrong());
        }
        Ok(Some(Self {
            table: table_of(factor, table, usage)?,
            time,
            window: WindowCall { slide, size, offset },
            alias: alias.clone(),
        }))
    }
}

const TUMBLE: &str = "write TUMBLE(table, time column, INTERVAL '1 minute')";
const HOP: &str = "write HOP(table, time column, INTERVAL 'slide', INTERVAL 'size'); the slide comes first";

impl WindowCall {
    pub fn resolve(self, context: &mut dyn RelationPlannerContext) -> Result<Window> {
        let (size, size_span, size_text) = interval(self.size, context)?;
        let slide = self.slide.map(|slide| interval(slide, context)).transpose()?;
        let offset = self.offset.map(|offset| interval(offset, context)).transpose()?;
        if size <= 0 {
            let error = SqlError::invalid("the size of a window is greater than 0");
            return Err(external(error, size_span, &size_text));
        }
        let (slide, slide_span, slide_text) = slide.unwrap_or((size, size_span, size_text));
        if slide <= 0 || slide > size {
            let error = SqlError::invalid("the slide of a HOP is greater than 0 and at most its size")
                .hint("the slide comes first: HOP(table, time, slide, size)");
            return Err(external(error, slide_span, &slide_text));
        }
        if size / slide > WINDOWS_PER_ROW_MAX {
            let error = SqlError::invalid(format!(
                "every row would be in {} windows; at most {WINDOWS_PER_ROW_MAX} are allowed",
                size / slide
            ));
            return Err(external(error, slide_span, &slide_text));
        }
        Ok(Window {
            size,
            slide,
            offset: offset.map_or(0, |(offset, ..)| offset.rem_euclid(slide)),
        })
    }
}

/// How many windows a row may be in.
const WINDOWS_PER_ROW_MAX: i64 = 10_000;

/// The time column: a plain column, a timestamp.
pub fn time_column(time: ast::Expr, schema: &DFSchema, context: &mut dyn RelationPlannerContext) -> Result<Column> {
    let (span, text) = (time.span(), time.to_string());
    let column = match context.sql_to_expr(time, schema)? {
        Expr::Column(column) => column,
        _ => {
            let error = SqlError::invalid(format!("the time of a window is a column, not {text}"))
                .hint("compute it in a subquery: TUMBLE((SELECT …, expression AS time FROM …), time, …)");
            return Err(external(error, span, &text));
        }
    };
    let data_type = schema.field_from_column(&column)?.data_type();
    if !matches!(data_type, arrow::datatypes::DataType::Timestamp(..)) {
        let name = headwater_schema::types::type_name(data_type, false);
        let error = SqlError::new(
            Kind::Type,
            format!("the time of a window is a TIMESTAMP; {text} is {name}"),
        );
        return Err(external(error, span, &text));
    }
    Ok(column)
}

/// The first argument: a name, or a query in brackets.
fn table_of(factor: &TableFactor, table: ast::Expr, usage: &str) -> Result<TableFactor> {
    let parts = match table {
        ast::Expr::Identifier(ident) => vec![ident],
        ast::Expr::CompoundIdentifier(idents) => idents,
        ast::Expr::Subquery(subquery) => {
            return Ok(TableFactor::Derived {
                lateral: false,
                subquery,
                alias: None,
                sample: None,
            });
        }
        other => {
            let error = SqlError::invalid(format!("a window is over a stream, not over {other}")).hint(usage);
            return Err(external(error, other.span(), &other.to_string()));
        }
    };
    let mut factor = factor.clone();
    if let TableFactor::Table { name, alias, args, .. } = &mut factor {
        (*name, *alias, *args) = (ObjectName::from(parts), None, None);
    }
    Ok(factor)
}

fn interval(expr: ast::Expr, context: &mut dyn RelationPlannerContext) -> Result<(Micros, Span, String)> {
    let (span, text) = (expr.span(), expr.to_string());
    let expr = context.sql_to_expr(expr, &DFSchema::empty())?;
    let micros = match time::constant(expr) {
        Some(value) => time::micros(&value),
        None => Err("it is not constant"),
    };
    match micros {
        Ok(micros) => Ok((micros, span, text)),
        Err(why) => {
            let error = SqlError::invalid(format!("{text} can't be a window's size: {why}"))
                .hint("write for example INTERVAL '1 minute'");
            Err(external(error, span, &text))
        }
    }
}

/// Our error on its way through DataFusion.
fn external(error: SqlError, span: Span, text: &str) -> DataFusionError {
    let place = (span.start.line > 0).then(|| Place {
        line: span.start.line,
        column: span.start.column,
        text: text.to_owned(),
    });
    DataFusionError::External(Box::new(error.at(place)))
}
