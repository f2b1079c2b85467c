//! Base64 (RFC 4648, the standard alphabet), in which `BYTEA` travels in JSON and CSV.
//!
//! Reading is strict about the alphabet and lenient about padding, which some writers leave out.

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
const INVALID: u8 = 0xff;
const VALUES: [u8; 256] = values();

/// Appends the base64 form of `bytes`, padded.
pub fn encode(bytes: &[u8], out: &mut Vec<u8>) {
    out.reserve(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let byte = |n: usize| u32::from(chunk.get(n).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for n in 0..4 {
            let digit = ALPHABET[(bits >> (18 - 6 * n)) as usize & 63];
            out.push(if n > chunk.len() { b'=' } else { digit });
        }
    }
}

/// Appends the bytes that `text` stands for. False if it is not base64; then what was appended is
/// of no use.
pub fn decode(text: &[u8], out: &mut Vec<u8>) -> bool {
    let padded = text.len().is_multiple_of(4);
    let digits = match text {
        [digits @ .., b'=', b'='] if padded => digits,
        [digits @ .., b'='] if padded => digits,
        digits => digits,
    };
    out.reserve(digits.len() / 4 * 3 + 2);
    for chunk in digits.chunks(4) {
        let mut bits = 0;
        for n in 0..4 {
            let value = chunk.get(n).map_or(0, |&digit| VALUES[usize::from(digit)]);
            if value == INVALID {
                return false;
            }
            bits = bits << 6 | u32::from(value);
        }
        let [_, bytes @ ..] = bits.to_be_bytes();
        let kept = chunk.len() - 1;
        // One digit is less than a byte; and bits beyond the last byte must not say anything.
        if kept == 0 || bytes[kept..].iter().any(|&rest| rest != 0) {
            return false;
        }
        out.extend_from_slice(&bytes[..kept]);
    }
    true
}

const fn values() -> [u8; 256] {
    let mut values = [INVALID; 256];
    let mut n = 0;
    while n < 64 {
        values[ALPHABET[n] as usize] = n as u8;
        n += 1;
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_vectors_of_the_standard() {
        let vectors = [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("foobar", "Zm9vYmFy"),
        ];
        for (bytes, text) in vectors {
            let mut encoded = Vec::new();
            encode(bytes.as_bytes(), &mut encoded);
            assert_eq!(encoded, text.as_bytes());
            for text in [text, text.trim_end_matches('=')] {
                let mut decoded = Vec::new();
                assert!(decode(text.as_bytes(), &mut decoded), "{text}");
                assert_eq!(decoded, bytes.as_bytes());
            }
        }
    }

    #[test]
    fn what_is_not_base64_is_refused() {
        for text in ["Z", "Zg=", "Zh==", "Zm9v=", "Z===", "====", "Zm 9", "Zm9-"] {
            assert!(!decode(text.as_bytes(), &mut Vec::new()), "{text}");
        }
    }
}
