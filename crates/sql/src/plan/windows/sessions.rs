//! Sessions in a one-off query: window functions number them, and others find their bounds.

use datafusion::common::{Column, Result};
use datafusion::functions_aggregate::min_max::{max_udaf, min_udaf};
use datafusion::functions_aggregate::sum::sum_udaf;
use datafusion::functions_window::lead_lag::lag_udwf;
use datafusion::logical_expr::expr::WindowFunction;
use datafusion::logical_expr::{
    Expr, ExprFunctionExt, LogicalPlan, LogicalPlanBuilder, WindowFrame, WindowFunctionDefinition, lit, when,
};

use crate::plan::windows::{Sessions, WINDOW_END, WINDOW_START, WINDOW_TIME, interval, passed};

/// The time of the row before, whether a row begins a session, the number of its session, and the times of
/// the session's first and last row.
const BEFORE: &str = "$before";
const BEGINS: &str = "$begins";
const NUMBER: &str = "$number";
const FIRST: &str = "$first";
const LAST: &str = "$last";

/// Every row with the bounds of its session; rows without a time are in none.
pub fn one_off(input: LogicalPlan, time: &Column, sessions: &Sessions) -> Result<LogicalPlan> {
    let schema = input.schema().clone();
    let relation = time.relation.clone();
    let time = Expr::Column(time.clone());
    let all: Vec<Expr> = schema.columns().into_iter().map(Expr::Column).collect();
    let visible = passed(&schema).into_iter().map(|at| all[at].clone());
    let visible: Vec<Expr> = visible.collect();
    let column = |name: &str| Expr::Column(Column::new_unqualified(name));

    let by: Vec<Expr> = sessions.partition_by.iter().cloned().map(Expr::Column).collect();
    let in_order = vec![time.clone().sort(true, false)];
    let before = over(WindowFunctionDefinition::WindowUDF(lag_udwf()), time.clone())
        .partition_by(by.clone())
        .order_by(in_order.clone())
        .build()?;
    let continues = time.clone().lt(column(BEFORE) + interval(sessions.gap));
    let begins = when(continues, lit(0_i64)).otherwise(lit(1_i64))?;
    let number = over(WindowFunctionDefinition::AggregateUDF(sum_udaf()), column(BEGINS))
        .partition_by(by.clone())
        .order_by(in_order)
        .window_frame(WindowFrame::new(Some(true)))
        .build()?;
    let of_session: Vec<Expr> = by.into_iter().chain([column(NUMBER)]).collect();
    let bound = |function| {
        over(WindowFunctionDefinition::AggregateUDF(function), time.clone())
            .partition_by(of_session.clone())
            .build()
    };
    let (first, last) = (bound(min_udaf())?, bound(max_udaf())?);

    let plan = LogicalPlanBuilder::from(input)
        .filter(time.clone().is_not_null())?
        .window([before.alias(BEFORE)])?
        .project(all.iter().cloned().chain([begins.alias(BEGINS)]))?
        .window([number.alias(NUMBER)])?
        .project(all.iter().cloned().chain([column(NUMBER)]))?
        .window([first.alias(FIRST), last.alias(LAST)])?;
    let end = column(LAST) + interval(sessions.gap);
    let last = column(LAST) + interval(sessions.gap - 1);
    let bounds = [
        column(FIRST).alias_qualified(relation.clone(), WINDOW_START),
        end.alias_qualified(relation.clone(), WINDOW_END),
        last.alias_qualified(relation, WINDOW_TIME),
    ];
    plan.project(visible.into_iter().chain(bounds))?.build()
}

fn over(function: WindowFunctionDefinition, argument: Expr) -> Expr {
    Expr::from(WindowFunction::new(function, vec![argument]))
}
