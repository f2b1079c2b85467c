//! CSV into rows (RFC 4180), with a first line that names the columns.
//!
//! Records end with LF or CRLF; fields in double quotes may hold commas, line breaks and, doubled,
//! quotes. A field that is empty is NULL; one that is empty in quotes is an empty string. Blank
//! lines are skipped. Columns that the header does not name get their default.
//!
//! A record that is well formed but wrong fails alone. After one that breaks the format (a quote in
//! the middle of a bare field, text after a closing quote) reading goes on with the next line; a
//! quote that is never closed takes everything with it to the end.

use std::borrow::Cow;

use crate::column::UnknownFields;
use crate::decode::body::{Body, line_end};
use crate::decode::nearest::nearest;
use crate::decode::problem::{Parsed, Problem, quoted};
use crate::decode::text;

/// A header may name this many columns that there are not, when those are dropped.
const HEADER_FIELDS_MAX: usize = 10_000;

struct Field<'a> {
    text: Cow<'a, [u8]>,
    start: usize,
    quoted: bool,
    /// Where the delimiter after it is, or the end.
    end: usize,
}

pub(super) fn read(body: &mut Body) {
    let bytes = body.bytes;
    let start = skip_blank_lines(bytes, body.start);
    if start >= bytes.len() {
        return body.fail(
            Problem::wrong(start, "a header line with the columns' names", "an empty body"),
            0..start,
        );
    }
    let (columns, mut at) = match read_header(body, start) {
        Ok(header) => header,
        Err(problem) => return body.fail(problem, start..bytes.len()),
    };
    loop {
        at = skip_blank_lines(bytes, at);
        if at >= bytes.len() || body.is_over() {
            break;
        }
        at = read_record(body, &columns, at);
    }
    body.fail_rest(at);
}

/// The column of each field, and where the records begin.
fn read_header(body: &Body, start: usize) -> Parsed<(Vec<Option<usize>>, usize)> {
    let mut columns = Vec::new();
    let mut at = start;
    loop {
        let field = read_field(body.bytes, at)?;
        let column = body.fields.find(&field.text);
        if column.is_some() && columns.contains(&column) {
            return Err(Problem::wrong(at, "each column once", quoted(&field.text))
                .note(format!("the header names the column {} twice", quoted(&field.text))));
        }
        if column.is_none() && body.context.unknown == UnknownFields::Reject {
            return Err(unknown(body, &field));
        }
        columns.push(column);
        if columns.len() > HEADER_FIELDS_MAX {
            return Err(Problem::wrong(
                at,
                format!("at most {HEADER_FIELDS_MAX} columns"),
                "more",
            ));
        }
        at = field.end;
        if body.bytes.get(at) != Some(&b',') {
            break;
        }
        at += 1;
    }
    let end = at;
    if body.bad_byte_before(end) {
        return Err(Problem::wrong(start, "a header in UTF-8", "other bytes"));
    }
    Ok((columns, end))
}

fn unknown(body: &Body, field: &Field) -> Box<Problem> {
    let names = body.fields.members.iter().map(|member| member.name.as_str());
    let hint = nearest(&field.text, names).map_or(String::new(), |name| format!("; did you mean \"{name}\"?"));
    let shown = quoted(&field.text);
    Problem::wrong(field.start, "a column of the stream", shown.as_str())
        .note(format!("the header names {shown}, but there is no such column{hint}"))
}

/// Reads the record at `start`; where to go on.
fn read_record(body: &mut Body, columns: &[Option<usize>], start: usize) -> usize {
    match read_fields(body, columns, start) {
        Ok((end, None)) => {
            body.accept(start..end);
            end
        }
        Ok((end, Some(problem))) => {
            body.fail(problem, start..end);
            end
        }
        Err(problem) => {
            let end = if problem.at == usize::MAX {
                body.bytes.len()
            } else {
                line_end(body.bytes, problem.at)
            };
            let problem = Box::new(Problem {
                at: if problem.at == usize::MAX { start } else { problem.at },
                ..*problem
            });
            body.fail(problem, start..end);
            end
        }
    }
}

/// Reads the record's fields into a row. A value that does not fit is a problem on the side, for
/// the record's end is found nevertheless.
fn read_fields(body: &mut Body, columns: &[Option<usize>], start: usize) -> Parsed<(usize, Option<Box<Problem>>)> {
    let mut problem = None;
    let mut at = start;
    let mut count = 0;
    loop {
        let field = read_field(body.bytes, at)?;
        if problem.is_none()
            && let Some(&Some(column)) = columns.get(count)
        {
            problem = read_value(body, column, &field).err();
        }
        count += 1;
        at = field.end;
        if body.bytes.get(at) != Some(&b',') {
            break;
        }
        at += 1;
    }
    if count != columns.len() {
        let expected = format!("{} fields, as in the header", columns.len());
        problem = Some(problem.unwrap_or_else(|| Problem::wrong(start, expected, count.to_string())));
    }
    if problem.is_none() {
        problem = body.fields.fill(start, &body.context).err();
    }
    if problem.is_none() {
        body.fields.rows += 1;
    }
    Ok((at, problem))
}

fn read_value(body: &mut Body, column: usize, field: &Field) -> Parsed {
    let member = &mut body.fields.members[column];
    let read = if field.text.is_empty() && !field.quoted {
        text::read_nothing(field.start, &mut member.builder)
    } else {
        let at = field.start + usize::from(field.quoted);
        text::read(&field.text, at, &mut member.builder, &body.context)
    };
    read.map_err(|problem| problem.in_field(&member.name))
}

/// Reads the field that begins at `start`.
fn read_field(bytes: &[u8], start: usize) -> Parsed<Field<'_>> {
    let rest = bytes.get(start..).unwrap_or_default();
    if rest.first() == Some(&b'"') {
        return read_quoted(bytes, start);
    }
    let length = memchr::memchr3(b',', b'\n', b'"', rest).unwrap_or(rest.len());
    if rest.get(length) == Some(&b'"') {
        return Err(Problem::malformed(
            start + length,
            "no quote within a field that has none around it",
            "one",
        ));
    }
    let text = &rest[..length];
    let text = if rest.get(length) == Some(&b',') {
        text
    } else {
        text.strip_suffix(b"\r").unwrap_or(text)
    };
    Ok(Field {
        text: Cow::Borrowed(text),
        start,
        quoted: false,
        end: start + length,
    })
}

fn read_quoted(bytes: &[u8], start: usize) -> Parsed<Field<'_>> {
    let mut text = Cow::Borrowed(&bytes[..0]);
    let mut from = start + 1;
    loop {
        let Some(length) = memchr::memchr(b'"', &bytes[from..]) else {
            // There is no place to go on from.
            return Err(Problem::malformed(usize::MAX, "a closing quote", "the end"));
        };
        let part = &bytes[from..from + length];
        from += length + 1;
        match text {
            Cow::Borrowed([]) => text = Cow::Borrowed(part),
            _ => text.to_mut().extend_from_slice(part),
        }
        if bytes.get(from) != Some(&b'"') {
            break;
        }
        text.to_mut().push(b'"');
        from += 1;
    }
    let end = match bytes[from..] {
        [b'\r', b'\n', ..] | [b'\r'] => from + 1,
        [] | [b',' | b'\n', ..] => from,
        _ => {
            return Err(Problem::malformed(
                from,
                "`,` or a line break after a closing quote",
                "something else",
            ));
        }
    };
    Ok(Field {
        text,
        start,
        quoted: true,
        end,
    })
}

fn skip_blank_lines(bytes: &[u8], mut at: usize) -> usize {
    while matches!(bytes.get(at), Some(b'\n' | b'\r')) {
        at += 1;
    }
    at
}
