//! Days and dates: the proleptic Gregorian calendar, by Howard Hinnant's algorithms
//! (<https://howardhinnant.github.io/date_algorithms.html>), and the reading and writing of dates,
//! times and time stamps as text.
//!
//! A time stamp is read from RFC 3339 (`2026-01-31T12:30:00.5+01:00`, with `T`, `t` or a space),
//! from the same without an offset, meaning UTC, and from a date alone, meaning midnight. The
//! years 0001 to 9999 are accepted. A leap second (`:60`) is read as the last microsecond before
//! it: `23:59:60` is `23:59:59.999999`, so that order is kept and no date changes. Digits beyond
//! the microsecond are cut off.

use headwater_event::clock::Micros;

const SECOND: i64 = 1_000_000;
const DAY: i64 = 86_400 * SECOND;

/// 0001-01-01T00:00:00Z and the end of 9999: what a time stamp may be.
pub const MICROS_MIN: Micros = days_of(1, 1, 1) as i64 * DAY;
pub const MICROS_MAX: Micros = (days_of(9999, 12, 31) as i64 + 1) * DAY - 1;

/// Days since 1970-01-01.
pub const fn days_of(year: i32, month: u32, day: u32) -> i32 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let month_from_march = (month as i32 + 9) % 12;
    let day_of_year = (153 * month_from_march + 2) / 5 + day as i32 - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// Year, month and day of a day since 1970-01-01.
pub fn date_of(days: i64) -> (i64, u32, u32) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = (day_of_year - (153 * month_from_march + 2) / 5 + 1) as u32;
    let month = ((month_from_march + 2) % 12 + 1) as u32;
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

/// Microseconds since 1970-01-01T00:00:00Z, or `None` if `text` is no time stamp.
#[inline]
pub fn parse_timestamp(text: &[u8]) -> Option<Micros> {
    let (date, rest) = text.split_at_checked(10)?;
    let midnight = i64::from(parse_date(date)?) * DAY;
    let [separator, rest @ ..] = rest else {
        return Some(midnight);
    };
    if !matches!(separator, b'T' | b't' | b' ') {
        return None;
    }
    let (time, rest) = time_prefix(rest)?;
    let offset = match rest {
        [] | [b'Z' | b'z'] => 0,
        rest => parse_offset(rest)?,
    };
    let micros = midnight + time - offset;
    (MICROS_MIN..=MICROS_MAX).contains(&micros).then_some(micros)
}

/// Days since 1970-01-01 of `YYYY-MM-DD`.
#[inline]
pub fn parse_date(text: &[u8]) -> Option<i32> {
    let &[y0, y1, y2, y3, b'-', m0, m1, b'-', d0, d1] = text else {
        return None;
    };
    let year = two(y0, y1)? * 100 + two(y2, y3)?;
    let (month, day) = (two(m0, m1)?, two(d0, d1)?);
    let exists = year >= 1 && (1..=12).contains(&month) && day >= 1 && day <= days_in(year, month);
    exists.then(|| days_of(year as i32, month, day))
}

/// Microseconds since midnight of `HH:MM[:SS[.ffffff]]`.
pub fn parse_time(text: &[u8]) -> Option<i64> {
    let (time, rest) = match text {
        &[h0, h1, b':', m0, m1] => {
            time_prefix(&[h0, h1, b':', m0, m1, b':', b'0', b'0']).map(|(time, _)| (time, &[][..]))?
        }
        text => time_prefix(text)?,
    };
    rest.is_empty().then_some(time)
}

/// Appends `YYYY-MM-DD`.
pub fn write_date(days: i64, out: &mut Vec<u8>) {
    let (year, month, day) = date_of(days);
    if (0..=9999).contains(&year) {
        write_two((year / 100) as u32, out);
        write_two((year % 100) as u32, out);
    } else {
        out.extend_from_slice(format!("{year:+05}").as_bytes());
    }
    out.push(b'-');
    write_two(month, out);
    out.push(b'-');
    write_two(day, out);
}

/// Appends `HH:MM:SS` and as many groups of three digits of the fraction as say something.
pub fn write_time(nanos: i64, out: &mut Vec<u8>) {
    let seconds = (nanos / 1_000_000_000) as u32;
    write_two(seconds / 3600, out);
    out.push(b':');
    write_two(seconds / 60 % 60, out);
    out.push(b':');
    write_two(seconds % 60, out);
    let mut fraction = (nanos % 1_000_000_000) as u32;
    if fraction == 0 {
        return;
    }
    out.push(b'.');
    while fraction != 0 {
        let group = fraction / 1_000_000;
        out.push(b'0' + (group / 100) as u8);
        write_two(group % 100, out);
        fraction = fraction % 1_000_000 * 1000;
    }
}

/// Appends `YYYY-MM-DDTHH:MM:SS[.fff[fff[fff]]]Z` of `value` units since 1970, of which
/// `per_second` make a second.
pub fn write_timestamp(value: i64, per_second: i64, out: &mut Vec<u8>) {
    let per_day = per_second * 86_400;
    write_date(value.div_euclid(per_day), out);
    out.push(b'T');
    write_time(value.rem_euclid(per_day) * (1_000_000_000 / per_second), out);
    out.push(b'Z');
}

fn days_in(year: u32, month: u32) -> u32 {
    match month {
        2 if year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400)) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Reads `HH:MM:SS[.f…]` at the start of `text`; microseconds, and what follows.
#[inline]
fn time_prefix(text: &[u8]) -> Option<(i64, &[u8])> {
    let &[h0, h1, b':', m0, m1, b':', s0, s1, ref rest @ ..] = text else {
        return None;
    };
    let (hour, minute, second) = (two(h0, h1)?, two(m0, m1)?, two(s0, s1)?);
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let (fraction, rest) = fraction_prefix(rest)?;
    let seconds = i64::from(hour * 3600 + minute * 60);
    if second == 60 {
        return Some((seconds * SECOND + 60 * SECOND - 1, rest));
    }
    Some(((seconds + i64::from(second)) * SECOND + fraction, rest))
}

/// Reads `.` and digits at the start of `text`, if there is a dot; microseconds.
#[inline]
fn fraction_prefix(text: &[u8]) -> Option<(i64, &[u8])> {
    let [b'.', text @ ..] = text else {
        return Some((0, text));
    };
    let count = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    if count == 0 {
        return None;
    }
    let digit = |n: usize| if n < count { i64::from(text[n] - b'0') } else { 0 };
    let micros = (0..6).fold(0, |micros, n| micros * 10 + digit(n));
    Some((micros, &text[count..]))
}

/// `+HH:MM`, `-HHMM` or `+HH`, in microseconds.
fn parse_offset(text: &[u8]) -> Option<i64> {
    let (sign, hour, minute) = match *text {
        [sign, h0, h1, b':', m0, m1] | [sign, h0, h1, m0, m1] => (sign, two(h0, h1)?, two(m0, m1)?),
        [sign, h0, h1] => (sign, two(h0, h1)?, 0),
        _ => return None,
    };
    if hour > 23 || minute > 59 {
        return None;
    }
    let offset = i64::from(hour * 60 + minute) * 60 * SECOND;
    match sign {
        b'+' => Some(offset),
        b'-' => Some(-offset),
        _ => None,
    }
}

#[inline]
fn two(tens: u8, ones: u8) -> Option<u32> {
    let (tens, ones) = (tens.wrapping_sub(b'0'), ones.wrapping_sub(b'0'));
    (tens < 10 && ones < 10).then(|| u32::from(tens) * 10 + u32::from(ones))
}

fn write_two(number: u32, out: &mut Vec<u8>) {
    out.push(b'0' + (number / 10) as u8);
    out.push(b'0' + (number % 10) as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(micros: Micros) -> String {
        let mut out = Vec::new();
        write_timestamp(micros, SECOND, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn every_day_there_and_back() {
        for days in days_of(1, 1, 1)..=days_of(9999, 12, 31) {
            let (year, month, day) = date_of(i64::from(days));
            assert_eq!(days_of(year as i32, month, day), days);
        }
        assert_eq!(days_of(1970, 1, 1), 0);
        assert_eq!(days_of(2000, 3, 1), 11_017);
    }

    #[test]
    fn time_stamps_are_read() {
        let cases = [
            ("1970-01-01T00:00:00Z", 0),
            ("1970-01-01", 0),
            ("1970-01-01 00:00:01", SECOND),
            ("1970-01-01t00:00:01.5z", SECOND * 3 / 2),
            ("1970-01-01T01:00:00+01:00", 0),
            ("1969-12-31T23:30:00-0030", 0),
            ("1970-01-01T00:00:00.1234569Z", 123_456),
            ("2015-06-30T23:59:60Z", 1_435_708_799_999_999),
            ("9999-12-31T23:59:59.999999Z", MICROS_MAX),
            ("0001-01-01", MICROS_MIN),
        ];
        for (text, micros) in cases {
            assert_eq!(parse_timestamp(text.as_bytes()), Some(micros), "{text}");
        }
    }

    #[test]
    fn what_is_no_time_stamp_is_refused() {
        let cases = "0000-01-01|10000-01-01|2026-02-29|2026-13-01|2026-1-1|2026-01-01T|2026-01-01T24:00:00Z|\
            2026-01-01T00:00:61Z|2026-01-01T00:00:00.Z|2026-01-01T00:00:00+24:00|2026-01-01T00:00Z|\
            9999-12-31T23:59:59-01:00|0001-01-01T00:00:00+01:00|2026-01-01T00:00:00Zx|now|";
        for text in cases.split('|') {
            assert_eq!(parse_timestamp(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn time_stamps_are_written_with_the_digits_that_matter() {
        assert_eq!(written(0), "1970-01-01T00:00:00Z");
        assert_eq!(written(-1), "1969-12-31T23:59:59.999999Z");
        assert_eq!(written(500_000), "1970-01-01T00:00:00.500Z");
        assert_eq!(written(MICROS_MAX), "9999-12-31T23:59:59.999999Z");
        assert_eq!(written(i64::MAX), "+294247-01-10T04:00:54.775807Z");
    }
}
