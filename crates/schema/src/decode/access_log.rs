//! The lines of an access log, as Apache and nginx write them in their combined format, into rows:
//!
//! ```text
//! 83.149.9.216 - bob [17/May/2015:10:05:03 +0000] "GET /a HTTP/1.1" 200 2030 "http://referrer/" "Mozilla/5.0"
//! ```
//!
//! The fields are those of [`FIELDS`]; each fills the column of its name if there is one. `-` is
//! NULL. The common log format, the same without referrer and agent, is read too, and so is a line
//! that breaks off within its last quoted field: logs hold such lines, cut at some limit.
//!
//! In quoted fields `\"` and `\\` stand for the character, and `\n`, `\r`, `\t`, `\xHH` for theirs;
//! bytes that make no UTF-8 stay escaped. A request line that is not `METHOD PATH PROTOCOL` is what
//! some client sent, not an error of the log: `-` or nothing gives NULL for the three of them;
//! anything else goes into `path` as a whole, so that it can be looked at.

use std::borrow::Cow;

use crate::calendar;
use crate::decode::body::{Body, line_end};
use crate::decode::builder::Values;
use crate::decode::problem::{Parsed, Problem, quoted};
use crate::decode::text;

/// What a line holds, in this order; method, path and protocol together are the request.
pub const FIELDS: [&str; 11] = [
    "client_address",
    "identity",
    "user_name",
    "time",
    "method",
    "path",
    "protocol",
    "status",
    "bytes",
    "referrer",
    "user_agent",
];

const MONTHS: [&[u8]; 12] = [
    b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec",
];

/// A part of the line, and where it begins.
struct Part<'a> {
    text: Cow<'a, [u8]>,
    at: usize,
}

struct Line<'a> {
    /// The body up to the line's end.
    bytes: &'a [u8],
    at: usize,
}

pub(super) fn read(body: &mut Body) {
    let columns = FIELDS.map(|name| body.fields.find(name.as_bytes()));
    let mut start = body.start;
    let mut lines = 0;
    while start < body.bytes.len() && !body.is_over() {
        let end = line_end(body.bytes, start);
        let content = body.bytes[start..end].trim_ascii_end();
        if !content.is_empty() {
            lines += 1;
            match read_line(body, &columns, start, start + content.len()) {
                Ok(()) => body.accept(start..end),
                Err(problem) => body.fail(problem, start..end),
            }
        }
        start = end + 1;
    }
    if lines == 0 && !body.is_over() {
        return body.fail(
            Problem::wrong(body.start, "a line of an access log", "an empty body"),
            0..body.bytes.len(),
        );
    }
    body.fail_rest(start);
}

fn read_line(body: &mut Body, columns: &[Option<usize>; 11], start: usize, end: usize) -> Parsed {
    let parts = split(&mut Line {
        bytes: &body.bytes[..end],
        at: start,
    })?;
    for ((part, column), name) in parts.iter().zip(columns).zip(FIELDS) {
        let Some(column) = *column else {
            continue;
        };
        let builder = &mut body.fields.members[column].builder;
        let read = match part {
            None => text::read_nothing(start, builder),
            Some(part) if part.text.is_empty() || *part.text == *b"-" => text::read_nothing(part.at, builder),
            Some(part) if name == "time" => match (&mut builder.values, parse_time(&part.text)) {
                (Values::Timestamp(values), Some(micros)) => {
                    values.push(micros);
                    Ok(())
                }
                (Values::Timestamp(_), None) => {
                    let expected = "a time like 17/May/2015:10:05:03 +0000";
                    Err(Problem::wrong(part.at, expected, quoted(&part.text)))
                }
                _ => text::read(&part.text, part.at, builder, &body.context),
            },
            Some(part) => text::read(&part.text, part.at, builder, &body.context),
        };
        read.map_err(|problem| problem.in_field(name))?;
    }
    body.fields.fill(start, &body.context)?;
    body.fields.rows += 1;
    Ok(())
}

fn split<'a>(line: &mut Line<'a>) -> Parsed<[Option<Part<'a>>; 11]> {
    let client = line.word("the client's address")?;
    let identity = line.word("the client's identity")?;
    let user = line.word("the user's name")?;
    let time = line.bracketed("the time")?;
    let request = line.quoted("the request")?;
    let [method, path, protocol] = split_request(request);
    let status = line.word("the status")?;
    let bytes = line.word("the size")?;
    let (mut referrer, mut agent) = (None, None);
    if line.at < line.bytes.len() {
        referrer = Some(line.quoted("the referrer")?);
        agent = Some(line.quoted("the user agent")?);
    }
    if line.at < line.bytes.len() {
        return Err(line.unexpected("the end of the line"));
    }
    let [client, identity, user, time, status, bytes] = [client, identity, user, time, status, bytes].map(Some);
    Ok([
        client, identity, user, time, method, path, protocol, status, bytes, referrer, agent,
    ])
}

fn split_request(request: Part) -> [Option<Part>; 3] {
    let at = request.at;
    let text = &request.text;
    if text.is_empty() || **text == *b"-" {
        return [None, None, None];
    }
    let first = memchr::memchr(b' ', text);
    let last = memchr::memrchr(b' ', text);
    let (Some(first), Some(last)) = (first, last) else {
        return [None, Some(request), None];
    };
    let well_formed = first > 0 && first < last && text[..first].iter().all(u8::is_ascii_alphabetic);
    if !well_formed || !text[last + 1..].starts_with(b"HTTP/") {
        return [None, Some(request), None];
    }
    let part = |from: usize, to: usize| {
        Some(Part {
            text: Cow::Owned(text[from..to].to_vec()),
            at: at + from,
        })
    };
    [part(0, first), part(first + 1, last), part(last + 1, text.len())]
}

impl<'a> Line<'a> {
    /// What is up to the next space.
    fn word(&mut self, what: &str) -> Parsed<Part<'a>> {
        let at = self.at;
        let rest = &self.bytes[at..];
        let length = memchr::memchr(b' ', rest).unwrap_or(rest.len());
        if length == 0 {
            return Err(self.unexpected(what));
        }
        self.at += length;
        self.space();
        Ok(Part {
            text: Cow::Borrowed(&rest[..length]),
            at,
        })
    }

    fn bracketed(&mut self, what: &str) -> Parsed<Part<'a>> {
        let rest = &self.bytes[self.at..];
        let length = memchr::memchr(b']', rest);
        let (Some(b'['), Some(length)) = (rest.first(), length) else {
            return Err(self.unexpected(&format!("{what} in brackets")));
        };
        let at = self.at + 1;
        self.at += length + 1;
        self.space();
        Ok(Part {
            text: Cow::Borrowed(&rest[1..length]),
            at,
        })
    }

    fn quoted(&mut self, what: &str) -> Parsed<Part<'a>> {
        if self.bytes.get(self.at) != Some(&b'"') {
            return Err(self.unexpected(&format!("{what} in quotes")));
        }
        let at = self.at + 1;
        self.at = at;
        let mut escaped = false;
        loop {
            let rest = &self.bytes[self.at..];
            let length = memchr::memchr2(b'"', b'\\', rest).unwrap_or(rest.len());
            self.at += length;
            match rest.get(length) {
                Some(b'\\') => {
                    escaped = true;
                    self.at = (self.at + 2).min(self.bytes.len());
                }
                _ => break,
            }
        }
        let text = &self.bytes[at..self.at];
        self.at = (self.at + 1).min(self.bytes.len());
        self.space();
        let text = if escaped {
            Cow::Owned(unescape(text))
        } else {
            Cow::Borrowed(text)
        };
        Ok(Part { text, at })
    }

    fn space(&mut self) {
        if self.bytes.get(self.at) == Some(&b' ') {
            self.at += 1;
        }
    }

    fn unexpected(&self, expected: &str) -> Box<Problem> {
        let found = match &self.bytes[self.at..] {
            [] => "the end of the line".to_owned(),
            rest => quoted(rest),
        };
        Problem::malformed(self.at, expected, found)
    }
}

fn unescape(text: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [byte, after @ ..] = rest {
        let (taken, value) = match (byte, after) {
            (b'\\', [b'n', ..]) => (2, b'\n'),
            (b'\\', [b'r', ..]) => (2, b'\r'),
            (b'\\', [b't', ..]) => (2, b'\t'),
            (b'\\', &[b'x', high, low, ..]) => match hex(high, low).filter(u8::is_ascii) {
                Some(value) => (4, value),
                None => (1, b'\\'),
            },
            (b'\\', &[c @ (b'"' | b'\\'), ..]) => (2, c),
            _ => (1, *byte),
        };
        plain.push(value);
        rest = &rest[taken..];
    }
    plain
}

fn hex(high: u8, low: u8) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    u8::try_from(digit(high)? << 4 | digit(low)?).ok()
}

/// Microseconds since 1970 of `17/May/2015:10:05:03 +0000`.
fn parse_time(text: &[u8]) -> Option<i64> {
    let &[d0, d1, b'/', m0, m1, m2, b'/', y0, y1, y2, y3, b':', ref time @ ..] = text else {
        return None;
    };
    let month = MONTHS.iter().position(|&name| name == [m0, m1, m2])? as u8 + 1;
    let (clock, offset) = time.split_at_checked(8)?;
    let mut standard = [0; 24];
    let date = [
        y0,
        y1,
        y2,
        y3,
        b'-',
        b'0' + month / 10,
        b'0' + month % 10,
        b'-',
        d0,
        d1,
        b'T',
    ];
    standard[..11].copy_from_slice(&date);
    standard[11..19].copy_from_slice(clock);
    let offset: &[u8; 5] = offset.strip_prefix(b" ")?.try_into().ok()?;
    standard[19..].copy_from_slice(offset);
    calendar::parse_timestamp(&standard)
}

#[cfg(test)]
#[path = "access_log_tests.rs"]
pub(super) mod tests;
