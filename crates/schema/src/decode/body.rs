//! One body on its way into rows, whatever its format: counts the events, cuts back the bad ones,
//! notes why they failed, and finds the ones that hold bytes that are not UTF-8.

use std::ops::Range;

use crate::decode::fields::{Context, Fields};
use crate::decode::problem::{Failures, Problem};

#[derive(Debug)]
pub(super) struct Body<'a> {
    pub bytes: &'a [u8],
    /// Where the events begin: after a byte order mark, and after CSV's header.
    pub start: usize,
    pub fields: &'a mut Fields,
    pub context: Context<'a>,
    /// Whether an event that can't be read ends with its line, or with the body.
    pub lines: bool,
    pub failures: Failures<'a>,
    /// Whether to stop when there are as many failures as are kept.
    pub stops_when_full: bool,
    /// Events so far, good and bad.
    index: usize,
    /// The first byte from here on that is not UTF-8; `usize::MAX` if there is none.
    bad_byte: usize,
}

impl<'a> Body<'a> {
    pub fn new(bytes: &'a [u8], fields: &'a mut Fields, context: Context<'a>, failures: Failures<'a>) -> Self {
        let start = if bytes.starts_with(b"\xef\xbb\xbf") { 3 } else { 0 };
        Self {
            bytes,
            start,
            fields,
            context,
            lines: true,
            failures,
            stops_when_full: false,
            index: 0,
            bad_byte: bad_byte(bytes, 0),
        }
    }

    /// Keeps the row that was read from the bytes of `span`.
    #[inline]
    pub fn accept(&mut self, span: Range<usize>) {
        if self.bad_byte < span.end {
            self.fields.truncate(self.fields.rows - 1);
            let problem = self.not_utf8();
            return self.fail(problem, span);
        }
        self.index += 1;
    }

    /// Forgets what was read of the event that the bytes of `span` hold.
    #[cold]
    #[allow(clippy::boxed_local, reason = "problems come boxed, as the errors of those who read")]
    pub fn fail(&mut self, mut problem: Box<Problem>, span: Range<usize>) {
        if self.bad_byte <= problem.at && self.bad_byte < span.end {
            problem = self.not_utf8();
        }
        if self.bad_byte < span.end {
            self.bad_byte = bad_byte(self.bytes, span.end);
        }
        self.fields.truncate(self.fields.rows);
        self.failures.add(self.index, *problem, span);
        self.index += 1;
    }

    /// Whether there have been so many failures that the rest is one.
    pub fn is_over(&self) -> bool {
        self.stops_when_full && self.failures.are_full()
    }

    /// Fails what is left from `at` on, if the body [is over](Self::is_over) before its end.
    pub fn fail_rest(&mut self, at: usize) {
        if self.is_over() && at < self.bytes.len() {
            let note = format!(
                "{} events failed; the rest of the body was not read",
                self.failures.failed
            );
            self.failures.kept_max += 1;
            let problem = Problem::wrong(at, "fewer failures", "more").note(note);
            self.fail(problem, at..self.bytes.len());
        }
    }

    /// Where reading can go on after the event that begins at `start` and can't be read.
    pub fn lost_until(&self, start: usize) -> usize {
        if self.lines {
            line_end(self.bytes, start)
        } else {
            self.bytes.len()
        }
    }

    pub fn bad_byte_before(&self, end: usize) -> bool {
        self.bad_byte < end
    }

    fn not_utf8(&self) -> Box<Problem> {
        let found = format!(
            "the byte 0x{:02x}",
            self.bytes.get(self.bad_byte).copied().unwrap_or_default()
        );
        let note = format!("invalid UTF-8: {found}");
        Problem::malformed(self.bad_byte, "UTF-8", found).note(note)
    }
}

/// Where the line that `at` is in ends: at its newline, or at the body's end.
pub(super) fn line_end(bytes: &[u8], at: usize) -> usize {
    let rest = bytes.get(at..).unwrap_or_default();
    memchr::memchr(b'\n', rest).map_or(bytes.len(), |n| at + n)
}

fn bad_byte(bytes: &[u8], from: usize) -> usize {
    let rest = bytes.get(from..).unwrap_or_default();
    // The plain check is the fast one; where it fails, the other one says where.
    if from == 0 && simdutf8::basic::from_utf8(rest).is_ok() {
        return usize::MAX;
    }
    simdutf8::compat::from_utf8(rest).map_or_else(|error| from + error.valid_up_to(), |_| usize::MAX)
}
