//! Numbers from text. Every function answers `None` if the text is no such number or too large.

/// Digits with a sign, nothing else, to be found at the start of `text`; and how many bytes.
#[inline]
pub(crate) fn integer_prefix(text: &[u8]) -> Option<(i64, usize)> {
    let negative = text.first() == Some(&b'-');
    let start = usize::from(negative);
    let mut at = start;
    let mut value = 0_u64;
    while let Some(digit) = text
        .get(at)
        .map(|byte| byte.wrapping_sub(b'0'))
        .filter(|&digit| digit < 10)
    {
        value = value.wrapping_mul(10).wrapping_add(u64::from(digit));
        at += 1;
    }
    let count = at - start;
    if count == 0 || (count > 1 && text[start] == b'0') {
        return None;
    }
    if count > 18 {
        // The sum may have wrapped around.
        let text = std::str::from_utf8(&text[..at]).ok()?;
        return Some((text.parse().ok()?, at));
    }
    // Eighteen digits fit.
    let value = value as i64;
    Some((if negative { -value } else { value }, at))
}

/// The whole of `text` as an integer.
pub(crate) fn integer(text: &[u8]) -> Option<i64> {
    integer_prefix(text)
        .filter(|&(_, length)| length == text.len())
        .map(|(value, _)| value)
}

/// The whole of `text`, which must be a number as JSON has it, as a multiple of 10^-scale, rounded
/// half away from zero as SQL does it.
pub(crate) fn decimal(text: &[u8], precision: u8, scale: i8) -> Option<i128> {
    let (negative, text) = match text {
        [b'-', text @ ..] => (true, text),
        text => (false, text),
    };
    let (mantissa, exponent) = match text.iter().position(|byte| matches!(byte, b'e' | b'E')) {
        Some(e) => (&text[..e], exponent(&text[e + 1..])?),
        None => (text, 0),
    };
    let point = mantissa.iter().position(|&byte| byte == b'.').unwrap_or(mantissa.len());
    let fraction = mantissa.len().saturating_sub(point + 1) as i64;
    if memchr::memchr(b'.', mantissa.get(point + 1..).unwrap_or_default()).is_some() {
        return None;
    }
    // Digits still to come to the left of the last one that is kept.
    let digits = mantissa.len() as i64 - i64::from(fraction > 0 || point < mantissa.len());
    let kept = digits - fraction + exponent + i64::from(scale);
    let mut value = 0_i128;
    let mut seen = 0_i64;
    for digit in mantissa
        .iter()
        .filter(|&&byte| byte != b'.')
        .map(|byte| byte.wrapping_sub(b'0'))
    {
        if digit > 9 {
            return None;
        }
        if seen < kept {
            value = value.checked_mul(10)?.checked_add(i128::from(digit))?;
        } else if seen == kept && digit >= 5 {
            value = value.checked_add(1)?;
        }
        seen += 1;
    }
    if seen == 0 {
        return None;
    }
    if value != 0 {
        let missing = u32::try_from((kept - seen).max(0)).ok()?;
        value = value.checked_mul(10_i128.checked_pow(missing)?)?;
    }
    let fits = value < 10_i128.checked_pow(u32::from(precision))?;
    fits.then_some(if negative { -value } else { value })
}

/// Exponents so large that they say nothing new are cut.
fn exponent(text: &[u8]) -> Option<i64> {
    let digits = text.strip_prefix(b"+").unwrap_or(text);
    let (negative, digits) = match digits {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let value = digits.iter().fold(0, |value: i64, digit| {
        (value * 10 + i64::from(digit - b'0')).min(1_000_000_000)
    });
    Some(if negative { -value } else { value })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers() {
        let cases = [
            ("0", Some(0)),
            ("-0", Some(0)),
            ("9223372036854775807", Some(i64::MAX)),
            ("-9223372036854775808", Some(i64::MIN)),
            ("9223372036854775808", None),
            ("99999999999999999999999999", None),
            ("01", None),
            ("-", None),
            ("", None),
            ("1.0", None),
            ("1 ", None),
        ];
        for (text, value) in cases {
            assert_eq!(integer(text.as_bytes()), value, "{text}");
        }
    }

    #[test]
    fn decimals() {
        let cases = [
            ("0", Some(0)),
            ("12.34", Some(1234)),
            ("-12.3", Some(-1230)),
            ("1.005", Some(101)),
            ("-1.005", Some(-101)),
            ("1.0049", Some(100)),
            ("1e3", Some(100_000)),
            ("1.5E-1", Some(15)),
            ("5e-3", Some(1)),
            ("4e-3", Some(0)),
            ("5e-4", Some(0)),
            ("999.99", Some(99_999)),
            ("999.995", None),
            ("1000000", None),
            ("1e999999999999", None),
            ("0e999999999999", Some(0)),
            ("1e-999999999999", Some(0)),
            ("", None),
            ("1.2.3", None),
            ("abc", None),
        ];
        for (text, value) in cases {
            assert_eq!(
                decimal(text.as_bytes(), if text.contains("e3") { 6 } else { 5 }, 2),
                value,
                "{text}"
            );
        }
    }
}
