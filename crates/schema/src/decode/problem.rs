//! What is wrong with an event: collected inside as a [`Problem`] at a byte of the body, handed
//! out as a [`Failure`] with line and column.

use std::fmt;
use std::ops::Range;

/// How much of a value is shown in a message, in characters.
const SHOWN_CHARS_MAX: usize = 40;

/// Why one event could not be taken. Says the first thing that is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The event's place in the body, counted from 0.
    pub index: usize,
    /// The field, if it is one field that is wrong; nested ones as `address.city`, `tags[2]`.
    pub field: Option<String>,
    /// Counted from 1; 0 for rows that did not come as text.
    pub line: usize,
    /// In characters, counted from 1; 0 for rows that did not come as text.
    pub column: usize,
    pub expected: Option<String>,
    pub found: Option<String>,
    /// A sentence for people, without the place.
    pub message: String,
    /// The bytes of the body that were not taken.
    pub span: Range<usize>,
}

pub(crate) type Parsed<T = ()> = Result<T, Box<Problem>>;

#[derive(Debug, Default)]
pub(crate) struct Problem {
    /// The byte of the body where it shows.
    pub at: usize,
    pub field: String,
    pub expected: Option<String>,
    pub found: Option<String>,
    /// What to say if expected and found don't say it all.
    pub note: Option<String>,
    /// The text breaks the format, so that the event's end is not known.
    pub malformed: bool,
}

/// Finds line and column of bytes of the body. Fast for bytes asked for in ascending order.
#[derive(Debug)]
pub(crate) struct Places<'a> {
    body: &'a [u8],
    at: usize,
    line: usize,
    column: usize,
}

/// The failures of one body.
#[derive(Debug)]
pub(crate) struct Failures<'a> {
    places: Places<'a>,
    /// How many are kept; the others are counted only.
    pub kept_max: usize,
    pub list: Vec<Failure>,
    pub failed: usize,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line > 0 {
            write!(f, "line {}, column {}: ", self.line, self.column)?;
        }
        f.write_str(&self.message)
    }
}

impl Problem {
    /// A well-formed value that is not what the column takes.
    pub fn wrong(at: usize, expected: impl Into<String>, found: impl Into<String>) -> Box<Self> {
        Box::new(Self {
            at,
            expected: Some(expected.into()),
            found: Some(found.into()),
            ..Self::default()
        })
    }

    /// Text that breaks the format.
    pub fn malformed(at: usize, expected: impl Into<String>, found: impl Into<String>) -> Box<Self> {
        let mut problem = Self::wrong(at, expected, found);
        problem.malformed = true;
        problem
    }

    pub fn note(mut self: Box<Self>, note: impl Into<String>) -> Box<Self> {
        self.note = Some(note.into());
        self
    }

    /// The same problem, seen from the object that holds the field.
    pub fn in_field(mut self: Box<Self>, name: &str) -> Box<Self> {
        let dot = if self.field.is_empty() || self.field.starts_with('[') {
            ""
        } else {
            "."
        };
        self.field.insert_str(0, dot);
        self.field.insert_str(0, name);
        self
    }

    /// The same problem, seen from the list that holds the item.
    pub fn in_item(mut self: Box<Self>, item: usize) -> Box<Self> {
        let dot = if self.field.is_empty() || self.field.starts_with('[') {
            ""
        } else {
            "."
        };
        self.field.insert_str(0, &format!("[{item}]{dot}"));
        self
    }

    pub fn into_failure(self, index: usize, (line, column): (usize, usize), span: Range<usize>) -> Failure {
        let what = match (&self.note, &self.expected, &self.found) {
            (Some(note), _, _) => note.clone(),
            (None, Some(expected), Some(found)) => format!("expected {expected}, found {found}"),
            (None, Some(expected), None) => format!("expected {expected}"),
            (None, None, _) => "the event can't be read".to_owned(),
        };
        let field = (!self.field.is_empty()).then_some(self.field);
        Failure {
            index,
            message: match &field {
                Some(field) => format!("{field}: {what}"),
                None => what,
            },
            field,
            line,
            column,
            expected: self.expected,
            found: self.found,
            span,
        }
    }
}

impl<'a> Places<'a> {
    pub fn new(body: &'a [u8]) -> Self {
        Self {
            body,
            at: 0,
            line: 1,
            column: 1,
        }
    }

    pub fn of(&mut self, at: usize) -> (usize, usize) {
        let at = at.min(self.body.len());
        if at < self.at {
            *self = Self::new(self.body);
        }
        for &byte in &self.body[self.at..at] {
            if byte == b'\n' {
                self.line += 1;
                self.column = 1;
            } else if byte & 0xc0 != 0x80 {
                // Bytes that go on with a character don't count.
                self.column += 1;
            }
        }
        self.at = at;
        (self.line, self.column)
    }
}

impl<'a> Failures<'a> {
    pub fn new(body: &'a [u8], kept_max: usize) -> Self {
        Self {
            places: Places::new(body),
            kept_max,
            list: Vec::new(),
            failed: 0,
        }
    }

    pub fn add(&mut self, index: usize, problem: Problem, span: Range<usize>) {
        self.failed += 1;
        if self.list.len() < self.kept_max {
            let place = self.places.of(problem.at);
            self.list.push(problem.into_failure(index, place, span));
        }
    }

    pub fn are_full(&self) -> bool {
        self.list.len() >= self.kept_max
    }
}

/// `text` for a message: quoted, shortened, and with nothing that disturbs a terminal.
pub(crate) fn quoted(text: &[u8]) -> String {
    let start = &text[..text.len().min(SHOWN_CHARS_MAX * 4)];
    let start = String::from_utf8_lossy(start);
    let mut shown: String = start.chars().take(SHOWN_CHARS_MAX).flat_map(shown_char).collect();
    if start.chars().nth(SHOWN_CHARS_MAX).is_some() {
        shown.push('…');
    }
    format!("\"{shown}\"")
}

fn shown_char(c: char) -> impl Iterator<Item = char> {
    let escaped = c.is_control().then(|| c.escape_default());
    let plain = escaped.is_none().then_some(c);
    escaped.into_iter().flatten().chain(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_count_lines_and_characters() {
        let mut places = Places::new("ab\nöx\n\ny".as_bytes());
        let found: Vec<_> = [0, 2, 3, 5, 7, 8, 99, 1].map(|at| places.of(at)).to_vec();
        assert_eq!(found, [(1, 1), (1, 3), (2, 1), (2, 2), (3, 1), (4, 1), (4, 2), (1, 2)]);
    }

    #[test]
    fn values_are_shown_short_and_harmless() {
        assert_eq!(quoted(b"abc"), "\"abc\"");
        assert_eq!(quoted(b"a\x1b[1m\n"), "\"a\\u{1b}[1m\\n\"");
        assert_eq!(quoted("ü".repeat(50).as_bytes()), format!("\"{}…\"", "ü".repeat(40)));
    }
}
