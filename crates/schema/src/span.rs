//! Spans of time as people write them in options.

use headwater_event::clock::Micros;

const MICROS_PER_DAY: Micros = 24 * 60 * 60 * 1_000_000;

/// `7 days`, `1 hour`, `90s`, `500 ms`, `1 day 12 hours`, in microseconds.
pub fn parse(text: &str) -> Option<Micros> {
    let mut total: Micros = 0;
    let mut rest = text.trim();
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let (number, after) = rest.split_at(digits);
        let after = after.trim_start();
        let end = after.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(after.len());
        let (unit, after) = after.split_at(end);
        let unit = unit_micros(&unit.to_ascii_lowercase())?;
        total = total.checked_add(number.parse::<Micros>().ok()?.checked_mul(unit)?)?;
        rest = after.trim_start();
    }
    Some(total)
}

fn unit_micros(unit: &str) -> Option<Micros> {
    Some(match unit {
        "us" | "microsecond" | "microseconds" => 1,
        "ms" | "millisecond" | "milliseconds" => 1000,
        "s" | "sec" | "secs" | "second" | "seconds" => 1_000_000,
        "m" | "min" | "mins" | "minute" | "minutes" => 60_000_000,
        "h" | "hour" | "hours" => 3_600_000_000,
        "d" | "day" | "days" => MICROS_PER_DAY,
        "w" | "week" | "weeks" => 7 * MICROS_PER_DAY,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_read_as_written() {
        assert_eq!(parse("7 days"), Some(7 * MICROS_PER_DAY));
        assert_eq!(parse("1 hour 30m"), Some(5_400_000_000));
        assert_eq!(parse("500ms"), Some(500_000));
        for wrong in ["", "days", "7", "7 dayz", "-1 s", "99999999999999 days"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }
}
