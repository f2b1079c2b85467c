//! `TUMBLE`, `HOP`, `CUMULATE` and `SESSION` in FROM.
//!
//! In a continuous query they become a [`Windows`] node, which the engine's operators stand for
//! later. In a one-off query they become what DataFusion has: a projection with the arithmetic of
//! [`crate::functions::windows`], or window functions (see [`sessions`]).

mod call;
mod node;
mod sessions;

use std::sync::Arc;

use datafusion::common::{Column, DFSchema, DataFusionError, ExprSchema, Result, ScalarValue};
use datafusion::logical_expr::planner::{PlannedRelation, RelationPlanner, RelationPlannerContext, RelationPlanning};
use datafusion::logical_expr::{Expr, Extension, LogicalPlan, LogicalPlanBuilder, ScalarUDF, lit};
use datafusion::sql::sqlparser::ast::TableFactor;
use headwater_engine::plan::Window;

use crate::functions::windows::WindowEnds;
use crate::plan::windows::call::Call;

pub use node::{Sessions, Spans, Windows};

pub const WINDOW_START: &str = "window_start";
pub const WINDOW_END: &str = "window_end";
pub const WINDOW_TIME: &str = "window_time";

/// The columns that windows add, in their order.
pub const WINDOW_COLUMNS: [&str; 3] = [WINDOW_START, WINDOW_END, WINDOW_TIME];

/// What a query is planned for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    Continuous,
    OneOff,
}

/// Plans window functions in FROM.
#[derive(Debug)]
pub struct Planner {
    usage: Use,
}

impl Planner {
    pub fn new(usage: Use) -> Self {
        Self { usage }
    }
}

impl RelationPlanner for Planner {
    fn plan_relation(
        &self,
        relation: TableFactor,
        context: &mut dyn RelationPlannerContext,
    ) -> Result<RelationPlanning> {
        let Some(call) = Call::of(&relation)? else {
            return Ok(RelationPlanning::Original(Box::new(relation)));
        };
        let input = context.plan(call.table)?;
        let time = call::time_column(call.time, input.schema(), context)?;
        let (input, time) = in_micros(input, time)?;
        let spans = call.window.resolve(input.schema(), context)?;
        let plan = match (self.usage, spans) {
            (Use::Continuous, spans) => LogicalPlan::Extension(Extension {
                node: Arc::new(Windows::new(input, time, spans)?),
            }),
            (Use::OneOff, Spans::Aligned(window)) => one_off(input, &time, window)?,
            (Use::OneOff, Spans::Sessions(sessions)) => sessions::one_off(input, &time, &sessions)?,
        };
        let planned = PlannedRelation::new(plan, call.alias);
        Ok(RelationPlanning::Planned(Box::new(planned)))
    }
}

/// The columns of `schema` that stay visible beside the windows' own: an input's `window_start` is
/// hidden by the new one.
pub fn passed(schema: &DFSchema) -> Vec<usize> {
    let fields = schema.fields().iter().enumerate();
    fields
        .filter(|(_, field)| !WINDOW_COLUMNS.contains(&field.name().as_str()))
        .map(|(at, _)| at)
        .collect()
}

/// The input with its time column in microseconds.
fn in_micros(input: LogicalPlan, time: Column) -> Result<(LogicalPlan, Column)> {
    use arrow::datatypes::{DataType, TimeUnit};
    let DataType::Timestamp(unit, zone) = input.schema().field_from_column(&time)?.data_type().clone() else {
        return Err(DataFusionError::Internal("the time column is no timestamp".to_owned()));
    };
    if unit == TimeUnit::Microsecond {
        return Ok((input, time));
    }
    let micros = DataType::Timestamp(TimeUnit::Microsecond, zone);
    let columns: Vec<Expr> = input
        .schema()
        .columns()
        .into_iter()
        .map(|column| {
            if column == time {
                let cast = datafusion::logical_expr::cast(Expr::Column(column.clone()), micros.clone());
                return cast.alias_qualified(column.relation.clone(), column.name);
            }
            Expr::Column(column)
        })
        .collect();
    let plan = LogicalPlanBuilder::from(input).project(columns)?.build()?;
    Ok((plan, time))
}

/// Every row once for each of its windows; rows without a time are in none.
fn one_off(input: LogicalPlan, time: &Column, window: Window) -> Result<LogicalPlan> {
    let schema = input.schema().clone();
    let relation = time.relation.clone();
    let visible: Vec<Expr> = passed(&schema)
        .into_iter()
        .map(|at| Expr::Column(Column::from(schema.qualified_field(at))))
        .collect();
    let ends_of =
        |window: Window| ScalarUDF::new_from_impl(WindowEnds::new(window)).call(vec![Expr::Column(time.clone())]);
    let mut columns = visible.clone();
    columns.push(ends_of(window).alias(WINDOW_END));
    // A window that grows begins where the one does that it grows to be.
    let grows = window.step < window.size;
    if grows {
        let whole = ends_of(Window::hopping(window.size, window.size, window.offset));
        columns.push((whole - interval(window.size)).alias(WINDOW_START));
    }
    let mut plan = LogicalPlanBuilder::from(input)
        .filter(Expr::Column(time.clone()).is_not_null())?
        .project(columns)?;
    // Unnesting drops the qualifier, so the column gets it last.
    let end = Column::new_unqualified(WINDOW_END);
    if !window.is_tumbling() {
        plan = plan.unnest_column(end.clone())?;
    }
    let end = Expr::Column(end);
    let start = match grows {
        true => Expr::Column(Column::new_unqualified(WINDOW_START)),
        false => end.clone() - interval(window.size),
    };
    let last = end.clone() - interval(1);
    let mut columns = visible;
    columns.extend([
        start.alias_qualified(relation.clone(), WINDOW_START),
        end.alias_qualified(relation.clone(), WINDOW_END),
        last.alias_qualified(relation, WINDOW_TIME),
    ]);
    plan.project(columns)?.build()
}

fn interval(micros: i64) -> Expr {
    lit(ScalarValue::new_interval_mdn(0, 0, micros.saturating_mul(1000)))
}
