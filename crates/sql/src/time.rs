//! Spans of time as SQL writes them, and sizes in options.

use datafusion::common::{DFSchema, ScalarValue};
use datafusion::logical_expr::Expr;
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::optimizer::simplify_expressions::ExprSimplifier;
use headwater_event::clock::Micros;

use headwater_engine::plan::Window;

const MICROS_PER_DAY: i64 = 24 * 60 * 60 * 1_000_000;
/// Ten thousand years: a few of them together, and a time, are still far from what an `i64` holds.
pub const SPAN_MAX: Micros = 3_652_500 * MICROS_PER_DAY;

/// The value of an expression without columns.
pub fn constant(expression: Expr) -> Option<ScalarValue> {
    let simplifier = ExprSimplifier::new(SimplifyContext::builder().build());
    let expression = simplifier.coerce(expression, &DFSchema::empty()).ok()?;
    match simplifier.simplify(expression).ok()? {
        Expr::Literal(value, _) => Some(value),
        _ => None,
    }
}

/// A span of at most [`SPAN_MAX`] as SQL has it.
pub fn interval(micros: Micros) -> ScalarValue {
    let days = i32::try_from(micros / MICROS_PER_DAY).unwrap_or(i32::MAX);
    ScalarValue::new_interval_mdn(0, days, micros % MICROS_PER_DAY * 1000)
}

/// An interval in microseconds; the error says what is wrong with it.
pub fn micros(value: &ScalarValue) -> Result<Micros, &'static str> {
    let micros = match value {
        ScalarValue::IntervalMonthDayNano(Some(interval)) if interval.months != 0 => return Err(MONTHS),
        ScalarValue::IntervalMonthDayNano(Some(interval)) => {
            if interval.nanoseconds % 1000 != 0 {
                return Err("time counts in microseconds");
            }
            i64::from(interval.days)
                .checked_mul(MICROS_PER_DAY)
                .and_then(|days| days.checked_add(interval.nanoseconds / 1000))
        }
        ScalarValue::IntervalDayTime(Some(interval)) => i64::from(interval.days)
            .checked_mul(MICROS_PER_DAY)
            .and_then(|days| days.checked_add(i64::from(interval.milliseconds) * 1000)),
        ScalarValue::IntervalYearMonth(Some(_)) => return Err(MONTHS),
        _ => return Err("it is not an INTERVAL"),
    };
    let micros = micros.filter(|micros| (-SPAN_MAX..=SPAN_MAX).contains(micros));
    micros.ok_or("it is longer than 10,000 years")
}

const MONTHS: &str = "months and years differ in length";

/// For people: `1 minute`, `90 seconds`.
pub fn describe(micros: Micros) -> String {
    let units = [
        (MICROS_PER_DAY, "day"),
        (3_600_000_000, "hour"),
        (60_000_000, "minute"),
        (1_000_000, "second"),
        (1000, "millisecond"),
        (1, "microsecond"),
    ];
    let (unit, name) = units
        .into_iter()
        .find(|(unit, _)| micros != 0 && micros % unit == 0)
        .unwrap_or((1_000_000, "second"));
    let count = micros / unit;
    format!("{count} {name}{}", if count == 1 { "" } else { "s" })
}

/// For people: `TUMBLE 1 minute`, `HOP 5 minutes every 1 minute`, `CUMULATE 1 hour by 1 minute`.
pub fn describe_window(window: Window) -> String {
    let offset = match window.offset {
        0 => String::new(),
        offset => format!(", offset {}", describe(offset)),
    };
    if window.step < window.size {
        return format!(
            "CUMULATE {} by {}{offset}",
            describe(window.size),
            describe(window.step)
        );
    }
    if window.slide == window.size {
        return format!("TUMBLE {}{offset}", describe(window.size));
    }
    format!("HOP {} every {}{offset}", describe(window.size), describe(window.slide))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_told_in_their_largest_unit() {
        assert_eq!(describe(90_000_000), "90 seconds");
        assert_eq!(describe(60_000_000), "1 minute");
    }
}
