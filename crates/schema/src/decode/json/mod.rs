//! JSON into rows: one object, an array of them, or one after the other (NDJSON).
//!
//! A pull parser of our own, because this is the hottest path of the product: it goes from the
//! body's bytes to the columns' vectors in one pass, with nothing in between.
//!
//! In NDJSON an object ends on the line that it begins on; several objects on one line, and blank
//! lines, are fine. After a line that can't be read it goes on with the next one.
//! In an array, nothing can be known of what follows an element that can't be read: it is one
//! failure from there to the end.

mod cursor;
mod object;
#[cfg(test)]
mod tests;
mod value;

use std::ops::Range;

use crate::decode::body::{Body, line_end};
use crate::decode::builder::Builder;
use crate::decode::fields::Context;
use crate::decode::json::cursor::Cursor;
pub(crate) use crate::decode::json::cursor::plain_end;
use crate::decode::problem::{Parsed, Problem};

/// Reads a body that is one object or an array of objects.
pub(super) fn read_json(body: &mut Body) {
    let mut cursor = Cursor::new(body.bytes, body.start);
    cursor.whitespace();
    match cursor.peek() {
        b'{' => {
            if read_event(&mut cursor, body) {
                read_end(&mut cursor, body);
            }
        }
        b'[' => read_array(&mut cursor, body),
        _ if cursor.is_at_end() => body.fail(Problem::wrong(cursor.at, "an event", "an empty body"), 0..cursor.at),
        _ => {
            let mut problem = value::not_an_object(&mut cursor);
            problem.expected = Some("an object or an array of objects".to_owned());
            body.fail(problem, body.start..body.bytes.len());
        }
    }
}

/// Reads a body of objects one after the other.
pub(super) fn read_lines(body: &mut Body) {
    let mut cursor = Cursor::new(body.bytes, body.start);
    cursor.whitespace();
    if cursor.is_at_end() {
        return body.fail(Problem::wrong(cursor.at, "an event", "an empty body"), 0..cursor.at);
    }
    let mut line = cursor.at;
    while line < body.bytes.len() && !body.is_over() {
        let end = line_end(body.bytes, line);
        read_line(&body.bytes[..end], line, body);
        line = end + 1;
    }
    body.fail_rest(line);
}

/// Reads one value that is the whole of `text`.
pub(super) fn read_alone(text: &[u8], builder: &mut Builder, context: &Context) -> Parsed {
    let mut cursor = Cursor::new(text, 0);
    cursor.whitespace();
    value::read(&mut cursor, builder, context)?;
    cursor.whitespace();
    if cursor.is_at_end() {
        Ok(())
    } else {
        Err(cursor.unexpected("the end"))
    }
}

/// Checks that `text` is one JSON value.
pub(crate) fn check(text: &[u8]) -> Parsed {
    let mut cursor = Cursor::new(text, 0);
    cursor.skip_value()?;
    cursor.whitespace();
    if cursor.is_at_end() {
        Ok(())
    } else {
        Err(cursor.unexpected("the end"))
    }
}

fn read_line(text: &[u8], start: usize, body: &mut Body) {
    let mut cursor = Cursor::new(text, start);
    cursor.whitespace();
    while !cursor.is_at_end() {
        if !read_event(&mut cursor, body) {
            return;
        }
        cursor.whitespace();
    }
}

fn read_array(cursor: &mut Cursor, body: &mut Body) {
    cursor.at += 1;
    cursor.whitespace();
    if cursor.peek() == b']' {
        cursor.at += 1;
        return read_end(cursor, body);
    }
    loop {
        cursor.whitespace();
        if body.is_over() {
            return body.fail_rest(cursor.at);
        }
        if !read_event(cursor, body) {
            return;
        }
        cursor.whitespace();
        match cursor.peek() {
            b',' => cursor.at += 1,
            b']' => {
                cursor.at += 1;
                return read_end(cursor, body);
            }
            _ => return body.fail(cursor.unexpected("`,` or `]`"), cursor.at..body.bytes.len()),
        }
    }
}

/// Makes sure that nothing follows.
fn read_end(cursor: &mut Cursor, body: &mut Body) {
    cursor.whitespace();
    if !cursor.is_at_end() {
        body.fail(cursor.unexpected("the end"), cursor.at..body.bytes.len());
    }
}

/// Reads the event here into the next row, or fails it. The cursor is after it then; false if
/// there is no saying where that is.
#[inline]
fn read_event(cursor: &mut Cursor, body: &mut Body) -> bool {
    let start = cursor.at;
    let read = match cursor.peek() {
        b'{' => object::read(cursor, body.fields, &body.context),
        _ => Err(value::not_an_object(cursor)),
    };
    match read {
        Ok(()) => body.accept(start..cursor.at),
        Err(problem) => return fail_event(cursor, body, start, problem),
    }
    true
}

#[cold]
fn fail_event(cursor: &mut Cursor, body: &mut Body, start: usize, problem: Box<Problem>) -> bool {
    *cursor = Cursor::new(cursor.body, start);
    let end = match problem.malformed {
        true => None,
        false => cursor.skip_value().is_ok().then_some(cursor.at),
    };
    let span = Range {
        start,
        end: end.unwrap_or_else(|| body.lost_until(start)),
    };
    body.fail(problem, span);
    end.is_some()
}
