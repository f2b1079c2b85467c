//! Sizes (`'2 GB'`, `16 MiB`, `4096`) and times (`'30 s'`, `'7 days'`, `250ms`).

use std::time::Duration;

const SIZES: &[(&str, u64)] = &[
    ("b", 1),
    ("kb", 1_000),
    ("mb", 1_000_000),
    ("gb", 1_000_000_000),
    ("tb", 1_000_000_000_000),
    ("kib", 1 << 10),
    ("mib", 1 << 20),
    ("gib", 1 << 30),
    ("tib", 1 << 40),
];

/// In milliseconds.
const TIMES: &[(&str, u64)] = &[
    ("ms", 1),
    ("s", 1_000),
    ("second", 1_000),
    ("seconds", 1_000),
    ("m", 60_000),
    ("min", 60_000),
    ("minute", 60_000),
    ("minutes", 60_000),
    ("h", 3_600_000),
    ("hour", 3_600_000),
    ("hours", 3_600_000),
    ("day", 86_400_000),
    ("days", 86_400_000),
];

/// A number of bytes; without a unit, it is one already.
pub fn bytes(text: &str) -> Result<u64, String> {
    let wrong = "expected a size, such as '2 GB', '512 MiB' or a number of bytes";
    quantity(text, SIZES, Some(1)).ok_or_else(|| wrong.to_owned())
}

/// A time that is not zero; the unit must be given.
pub fn duration(text: &str) -> Result<Duration, String> {
    let wrong = "expected a time, such as '30 s', '5 minutes' or '7 days'";
    let millis = quantity(text, TIMES, None).filter(|millis| *millis > 0);
    millis.map(Duration::from_millis).ok_or_else(|| wrong.to_owned())
}

/// Bytes as people read them.
pub fn bytes_text(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    match unit {
        0 => format!("{bytes} B"),
        _ => format!("{value:.1} {}", units[unit]),
    }
}

fn quantity(text: &str, units: &[(&str, u64)], without_unit: Option<u64>) -> Option<u64> {
    let text = text.trim();
    let digits = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim().to_ascii_lowercase();
    let factor = match unit.is_empty() {
        true => without_unit?,
        false => units.iter().find(|(name, _)| *name == unit)?.1,
    };
    match number.parse::<u64>() {
        Ok(whole) => whole.checked_mul(factor),
        Err(_) => {
            let value = number.parse::<f64>().ok()? * factor as f64;
            // 2^53: beyond it the fraction could not be kept anyway.
            (value < 9_007_199_254_740_992.0).then_some(value as u64)
        }
    }
}
