//! How close in event time the rows of a pair must lie, from the conditions of a join.
//!
//! A condition counts if it compares a column with event time of one side with one of the other, each plus or
//! minus a constant interval. Two together (`BETWEEN` is two) bound the distance of the pair, and so does one
//! equality, of `window_start` for instance.

use arrow::datatypes::{DataType, TimeUnit};
use datafusion::common::{Column, ScalarValue};
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{Between, BinaryExpr, Cast, Expr, Operator, lit};
use headwater_event::clock::Micros;

use crate::plan::branch::{Rows, Time};
use crate::time;

/// The right row's time is the left one's plus at least `lower` and at most `upper`.
pub struct Nearness {
    /// The times of the left and the right rows.
    pub times: [Expr; 2],
    pub lower: Micros,
    pub upper: Micros,
    /// The conditions of the filter that this doesn't stand for.
    pub rest: Vec<Expr>,
}

/// A column plus a constant.
struct Shifted {
    column: Column,
    by: Micros,
}

/// What a condition says of the distance from the left column to the right one.
struct Bound {
    columns: [Column; 2],
    lower: Option<Micros>,
    upper: Option<Micros>,
    /// Which condition of the filter it is; an equality of keys is none.
    condition: Option<usize>,
}

pub fn nearness(sides: [&Rows; 2], on: &[(Expr, Expr)], filter: Option<&Expr>) -> Option<Nearness> {
    let conditions = filter.map(split_conjunction).unwrap_or_default();
    let mut bounds = Vec::new();
    for (left, right) in on {
        bounds.extend(compared(sides, left, Operator::Eq, right, None));
    }
    for (number, condition) in conditions.iter().enumerate() {
        let number = Some(number);
        match condition {
            Expr::BinaryExpr(BinaryExpr { left, op, right }) => {
                bounds.extend(compared(sides, left, *op, right, number))
            }
            Expr::Between(Between {
                expr,
                negated: false,
                low,
                high,
            }) => {
                let above = compared(sides, expr, Operator::GtEq, low, None);
                let below = compared(sides, expr, Operator::LtEq, high, None);
                bounds.extend(above.into_iter().chain(below));
            }
            _ => {}
        }
    }
    // Times of rows before bounds of windows, and then as they were written.
    bounds.sort_by_key(|bound| (0..2).any(|side| start_of(sides[side], &bound.columns[side]).is_some()));
    bounds.iter().find_map(|bound| {
        let alike = || bounds.iter().filter(|other| other.columns == bound.columns);
        let lower = alike().filter_map(|bound| bound.lower).max()?;
        let upper = alike().filter_map(|bound| bound.upper).min()?;
        let is_told = |number: usize| alike().any(|bound| bound.condition == Some(number));
        let rest = conditions.iter().enumerate().filter(|(number, _)| !is_told(*number));
        let [left, right] = &bound.columns;
        Some(Nearness {
            times: [time_of(sides[0], left), time_of(sides[1], right)],
            lower,
            upper,
            rest: rest.map(|(_, condition)| (*condition).clone()).collect(),
        })
    })
}

fn compared(sides: [&Rows; 2], a: &Expr, op: Operator, b: &Expr, condition: Option<usize>) -> Option<Bound> {
    let (a, b) = (shifted(a)?, shifted(b)?);
    let is_time_of = |side: usize, column: &Column| {
        let at = sides[side].columns.maybe_index_of_column(column)?;
        sides[side].times.get(&at).map(|_| ())
    };
    let (left, op, right) = match (is_time_of(0, &a.column), is_time_of(1, &b.column)) {
        (Some(()), Some(())) => (a, op.swap()?, b),
        _ => {
            is_time_of(0, &b.column)?;
            is_time_of(1, &a.column)?;
            (b, op, a)
        }
    };
    // right.column + right.by OP left.column + left.by, with the column of a window's start at its end.
    let start = |side: usize, column: &Column| start_of(sides[side], column).unwrap_or_default();
    let distance = left.by.checked_sub(right.by)? + start(1, &right.column) - start(0, &left.column);
    let (lower, upper) = match op {
        Operator::Eq => (Some(distance), Some(distance)),
        Operator::GtEq => (Some(distance), None),
        Operator::Gt => (Some(distance.checked_add(1)?), None),
        Operator::LtEq => (None, Some(distance)),
        Operator::Lt => (None, Some(distance.checked_sub(1)?)),
        _ => return None,
    };
    Some(Bound {
        columns: [left.column, right.column],
        lower,
        upper,
        condition,
    })
}

/// A column with constant intervals added and taken away.
fn shifted(expression: &Expr) -> Option<Shifted> {
    match expression {
        Expr::Column(column) => Some(Shifted {
            column: column.clone(),
            by: 0,
        }),
        Expr::Alias(alias) => shifted(&alias.expr),
        // Times are compared in one unit and one zone, which changes none of them.
        Expr::Cast(Cast { expr, field }) if is_exact(field.data_type()) => shifted(expr),
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => {
            let (inner, interval) = match (&**left, op, &**right) {
                (inner, Operator::Plus | Operator::Minus, Expr::Literal(interval, _)) => (inner, interval),
                (Expr::Literal(interval, _), Operator::Plus, inner) => (inner, interval),
                _ => return None,
            };
            let interval = time::micros(interval).ok()?;
            let interval = if *op == Operator::Minus { -interval } else { interval };
            let inner = shifted(inner)?;
            Some(Shifted {
                by: inner.by.checked_add(interval)?,
                ..inner
            })
        }
        _ => None,
    }
}

fn is_exact(kind: &DataType) -> bool {
    matches!(
        kind,
        DataType::Timestamp(TimeUnit::Microsecond | TimeUnit::Nanosecond, _)
    )
}

/// How long before the last microsecond of its window the column lies, if it is a window's start: rows of a window may come
/// until that.
fn start_of(rows: &Rows, column: &Column) -> Option<Micros> {
    let at = rows.columns.maybe_index_of_column(column)?;
    match rows.times.get(&at)? {
        Time::WindowStart(window) => Some(window.size - 1),
        Time::Event | Time::WindowEnd => None,
    }
}

/// The time that the watermark has to pass.
fn time_of(rows: &Rows, column: &Column) -> Expr {
    let expression = Expr::Column(column.clone());
    match start_of(rows, column) {
        Some(to_last) => expression + lit(ScalarValue::new_interval_mdn(0, 0, to_last.saturating_mul(1000))),
        None => expression,
    }
}
