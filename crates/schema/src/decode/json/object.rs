//! An object into a row.

use crate::column::UnknownFields;
use crate::decode::fields::{Context, Fields};
use crate::decode::json::cursor::Cursor;
use crate::decode::json::value;
use crate::decode::nearest::nearest;
use crate::decode::problem::{Parsed, Problem, quoted};

/// Reads the object here into the next row of `fields`. Fields mostly come in the order that they
/// had last time, so that is looked for before the name is. A field that comes twice is an error:
/// whichever value was meant, dropping the other would lose it silently.
#[inline]
pub(crate) fn read(cursor: &mut Cursor, fields: &mut Fields, context: &Context) -> Parsed {
    let start = cursor.at;
    let row = fields.rows;
    let mut found = 0;
    let mut slot = 0;
    cursor.enter()?;
    cursor.whitespace();
    if cursor.peek() == b'}' {
        cursor.leave();
    } else {
        loop {
            let key = cursor.at;
            let guess = fields.next[slot];
            let column = match fields.members.get(guess) {
                Some(member) if cursor.take(&member.token) => Some(guess),
                _ => read_key(cursor, fields, slot, context)?,
            };
            cursor.whitespace();
            match column {
                Some(column) => {
                    let member = &mut fields.members[column];
                    if member.builder.len() != row {
                        return Err(repeated(key).in_field(&member.name));
                    }
                    if let Err(problem) = value::read(cursor, &mut member.builder, context) {
                        return Err(problem.in_field(&member.name));
                    }
                    slot = column + 1;
                    found += 1;
                }
                None => cursor.skip_value()?,
            }
            cursor.whitespace();
            match cursor.peek() {
                b',' => cursor.at += 1,
                b'}' => {
                    cursor.leave();
                    break;
                }
                _ => return Err(cursor.unexpected("`,` or `}`")),
            }
            cursor.whitespace();
        }
    }
    if found < fields.members.len() {
        fields.fill(start, context)?;
    }
    fields.rows += 1;
    Ok(())
}

/// Reads a name that was not the expected one, and finds its column.
fn read_key(cursor: &mut Cursor, fields: &mut Fields, slot: usize, context: &Context) -> Parsed<Option<usize>> {
    let start = cursor.at;
    if cursor.peek() != b'"' {
        return Err(cursor.unexpected("a field's name in quotes"));
    }
    let Some(name) = cursor.string() else {
        // The slow way says what is wrong with it.
        cursor.at = start;
        cursor.skip_string()?;
        return Err(cursor.unexpected("a field's name in quotes"));
    };
    cursor.colon()?;
    let column = fields.find(&name);
    if let Some(column) = column {
        fields.next[slot] = column;
    } else if context.unknown == UnknownFields::Reject {
        return Err(unknown(start, &name, fields));
    }
    Ok(column)
}

#[cold]
fn unknown(at: usize, name: &[u8], fields: &Fields) -> Box<Problem> {
    let names = fields.members.iter().map(|member| member.name.as_str());
    let hint = match nearest(name, names) {
        Some(name) => format!("; did you mean \"{name}\"?"),
        None => String::new(),
    };
    let shown = quoted(name);
    Problem::wrong(at, "a column of the stream", format!("the field {shown}"))
        .note(format!("there is no column {shown}{hint}"))
        .in_field(shown.trim_matches('"'))
}

#[cold]
fn repeated(at: usize) -> Box<Problem> {
    Problem::wrong(at, "the field once", "the field again").note("the field comes twice")
}
