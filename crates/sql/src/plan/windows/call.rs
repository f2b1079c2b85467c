//! The call of a window function, as it was written: `TUMBLE(table, time, size [, offset])`,
//! `HOP(table, time, slide, size [, offset])`, `CUMULATE(table, time, step, size [, offset])`,
//! `SESSION(table [PARTITION BY columns], time, gap)`.

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
use crate::plan::windows::{Sessions, Spans};
use crate::time;

pub struct Call {
    pub table: TableFactor,
    pub time: ast::Expr,
    pub window: WindowCall,
    pub alias: Option<TableAlias>,
}

/// Windows whose sizes are not yet computed.
pub enum WindowCall {
    Aligned {
        function: Function,
        /// The slide of a HOP, the step of a CUMULATE.
        part: Option<ast::Expr>,
        size: ast::Expr,
        offset: Option<ast::Expr>,
    },
    Session {
        partition_by: Vec<ast::Expr>,
        gap: ast::Expr,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Function {
    Tumble,
    Hop,
    Cumulate,
    Session,
}

impl Function {
    fn of(name: &ObjectName) -> Option<Self> {
        Some(match name.to_string().to_ascii_lowercase().as_str() {
            "tumble" => Self::Tumble,
            "hop" => Self::Hop,
            "cumulate" => Self::Cumulate,
            "session" => Self::Session,
            _ => return None,
        })
    }

    fn usage(self) -> &'static str {
        match self {
            Self::Tumble => "write TUMBLE(table, time column, INTERVAL '1 minute')",
            Self::Hop => "write HOP(table, time column, INTERVAL 'slide', INTERVAL 'size'); the slide comes first",
            Self::Cumulate => {
                "write CUMULATE(table, time column, INTERVAL 'step', INTERVAL 'size'); the step comes first"
            }
            Self::Session => "write SESSION(table PARTITION BY column, time column, INTERVAL 'gap')",
        }
    }

    /// The arguments after the table.
    fn window(self, mut arguments: Vec<ast::Expr>) -> Option<(ast::Expr, WindowCall)> {
        if self == Self::Session {
            let gap = arguments.pop()?;
            let time = arguments.pop()?;
            let partition_by = arguments;
            return Some((time, WindowCall::Session { partition_by, gap }));
        }
        let mut left = arguments.into_iter();
        let time = left.next()?;
        let part = match self {
            Self::Hop | Self::Cumulate => Some(left.next()?),
            Self::Tumble | Self::Session => None,
        };
        let call = WindowCall::Aligned {
            function: self,
            part,
            size: left.next()?,
            offset: left.next(),
        };
        left.next().is_none().then_some((time, call))
    }
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
        let Some(function) = Function::of(name) else {
            return Ok(None);
        };
        let usage = function.usage();
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
        let count = arguments.len();
        let window = match count {
            0 => None,
            _ => function.window(arguments.split_off(1)),
        };
        let (Some((time, window)), Some(table)) = (window, arguments.pop()) else {
            let error = SqlError::invalid(format!("{name} can't have {count} arguments")).hint(usage);
            return Err(external(error, name.span(), &name.to_string()));
        };
        Ok(Some(Self {
            table: table_of(factor, table, usage)?,
            time,
            window,
            alias: alias.clone(),
        }))
    }
}

impl WindowCall {
    pub fn resolve(self, schema: &DFSchema, context: &mut dyn RelationPlannerContext) -> Result<Spans> {
        match self {
            Self::Aligned {
                function,
                part,
                size,
                offset,
            } => Ok(Spans::Aligned(aligned(function, part, size, offset, context)?)),
            Self::Session { partition_by, gap } => {
                let keys = partition_by.into_iter().map(|key| key_column(key, schema, context));
                let partition_by = keys.collect::<Result<_>>()?;
                let (gap, span, text) = interval(gap, context)?;
                if gap <= 0 {
                    let error = SqlError::invalid("the gap of a SESSION is greater than 0");
                    return Err(external(error, span, &text));
                }
                Ok(Spans::Sessions(Sessions { partition_by, gap }))
            }
        }
    }
}

fn aligned(
    function: Function,
    part: Option<ast::Expr>,
    size: ast::Expr,
    offset: Option<ast::Expr>,
    context: &mut dyn RelationPlannerContext,
) -> Result<Window> {
    let (size, size_span, size_text) = interval(size, context)?;
    let part = part.map(|part| interval(part, context)).transpose()?;
    let offset = offset.map(|offset| interval(offset, context)).transpose()?;
    if size <= 0 {
        let error = SqlError::invalid("the size of a window is greater than 0");
        return Err(external(error, size_span, &size_text));
    }
    let (part, span, text) = part.unwrap_or((size, size_span, size_text));
    let refused = |error: SqlError| Err(external(error, span, &text));
    if part <= 0 || part > size {
        return refused(match function {
            Function::Cumulate => SqlError::invalid("the step of a CUMULATE is greater than 0 and at most its size")
                .hint("the step comes first: CUMULATE(table, time, step, size)"),
            _ => SqlError::invalid("the slide of a HOP is greater than 0 and at most its size")
                .hint("the slide comes first: HOP(table, time, slide, size)"),
        });
    }
    if function == Function::Cumulate && size % part != 0 {
        return refused(SqlError::invalid("the size of a CUMULATE is a multiple of its step"));
    }
    if size / part > WINDOWS_PER_ROW_MAX {
        return refused(SqlError::invalid(format!(
            "every row would be in {} windows; at most {WINDOWS_PER_ROW_MAX} are allowed",
            size / part
        )));
    }
    let offset = offset.map_or(0, |(offset, ..)| offset);
    Ok(match function {
        Function::Cumulate => Window::cumulating(size, part, offset.rem_euclid(size)),
        _ => Window::hopping(size, part, offset.rem_euclid(part)),
    })
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

/// A column that sessions are told apart by.
fn key_column(key: ast::Expr, schema: &DFSchema, context: &mut dyn RelationPlannerContext) -> Result<Column> {
    let (span, text) = (key.span(), key.to_string());
    match context.sql_to_expr(key, schema)? {
        Expr::Column(column) => Ok(column),
        _ => {
            let error = SqlError::invalid(format!("a SESSION is partitioned by columns, not by {text}"))
                .hint("compute it in a subquery: SESSION((SELECT …, expression AS key FROM …) PARTITION BY key, …)");
            Err(external(error, span, &text))
        }
    }
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
