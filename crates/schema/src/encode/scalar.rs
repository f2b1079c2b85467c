//! Strings and numbers as JSON.

use lexical_core::{FormattedSize, ToLexical};

const HEX: &[u8; 16] = b"0123456789abcdef";

/// Appends a JSON string.
pub(crate) fn write_string(text: &str, out: &mut Vec<u8>) {
    let mut rest = text.as_bytes();
    out.reserve(rest.len() + 2);
    out.push(b'"');
    loop {
        let plain = crate::decode::json::plain_end(rest, 0);
        out.extend_from_slice(&rest[..plain]);
        let Some(&special) = rest.get(plain) else {
            break;
        };
        write_escape(special, out);
        rest = &rest[plain + 1..];
    }
    out.push(b'"');
}

/// Appends an integer.
pub(crate) fn write_integer<N: ToLexical>(number: N, out: &mut Vec<u8>) {
    // Twenty digits and a sign are the most.
    let mut digits = [0; i64::FORMATTED_SIZE];
    out.extend_from_slice(lexical_core::write(number, &mut digits));
}

/// Appends a number in the shortest form that reads back the same; what is not one is null.
pub(crate) fn write_float(number: f64, out: &mut Vec<u8>) {
    if !number.is_finite() {
        return out.extend_from_slice(b"null");
    }
    let mut digits = [0; f64::FORMATTED_SIZE];
    out.extend_from_slice(lexical_core::write(number, &mut digits));
}

/// As [`write_float`], with the digits that a 32-bit number needs.
pub(crate) fn write_float32(number: f32, out: &mut Vec<u8>) {
    if !number.is_finite() {
        return out.extend_from_slice(b"null");
    }
    let mut digits = [0; f32::FORMATTED_SIZE];
    out.extend_from_slice(lexical_core::write(number, &mut digits));
}

/// Appends `unscaled` times 10^-scale, with all digits of the scale.
pub(crate) fn write_decimal(unscaled: i128, scale: i8, out: &mut Vec<u8>) {
    if unscaled < 0 {
        out.push(b'-');
    }
    let digits = unscaled.unsigned_abs().to_string();
    let Ok(scale) = usize::try_from(scale) else {
        out.extend_from_slice(digits.as_bytes());
        if unscaled != 0 {
            out.resize(out.len() + usize::from(scale.unsigned_abs()), b'0');
        }
        return;
    };
    let whole = digits.len().saturating_sub(scale);
    out.extend_from_slice(if whole == 0 { b"0" } else { &digits.as_bytes()[..whole] });
    if scale > 0 {
        out.push(b'.');
        out.resize(out.len() + scale.saturating_sub(digits.len()), b'0');
        out.extend_from_slice(&digits.as_bytes()[whole..]);
    }
}

fn write_escape(byte: u8, out: &mut Vec<u8>) {
    let short = match byte {
        b'"' | b'\\' => byte,
        b'\n' => b'n',
        b'\r' => b'r',
        b'\t' => b't',
        _ => {
            out.extend_from_slice(b"\\u00");
            return out.extend([HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
        }
    };
    out.extend([b'\\', short]);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn strings_are_escaped() {
        let text = "a\"b\\c\n\r\t\u{1}\u{1f}/é😀";
        let json = written(|out| write_string(text, out));
        assert_eq!(json, "\"a\\\"b\\\\c\\n\\r\\t\\u0001\\u001f/é😀\"");
        assert_eq!(serde_json::from_str::<String>(&json).unwrap(), text);
    }

    #[test]
    fn decimals_keep_their_digits() {
        let cases = [
            (12345, 2, "123.45"),
            (-5, 2, "-0.05"),
            (0, 2, "0.00"),
            (100, 0, "100"),
            (12, -3, "12000"),
            (0, -3, "0"),
            (i128::MIN, 0, "-170141183460469231731687303715884105728"),
        ];
        for (unscaled, scale, text) in cases {
            assert_eq!(written(|out| write_decimal(unscaled, scale, out)), text);
        }
    }

    #[test]
    fn numbers_read_back() {
        for number in [0.0, -0.0, 1.5, 1e300, 5e-324, f64::MAX, 0.1, 123456789.0] {
            let json = written(|out| write_float(number, out));
            assert_eq!(serde_json::from_str::<f64>(&json).unwrap(), number, "{json}");
        }
        assert_eq!(written(|out| write_float(f64::NAN, out)), "null");
        assert_eq!(written(|out| write_integer(i64::MIN, out)), i64::MIN.to_string());
        assert_eq!(written(|out| write_integer(u64::MAX, out)), u64::MAX.to_string());
    }
}
