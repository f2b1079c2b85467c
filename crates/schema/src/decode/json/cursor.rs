//! A place in JSON text, and the steps that lead on from it.
//!
//! Steps come in two kinds. The fast ones answer `None` or `false` for anything out of the
//! ordinary, and say nothing more; `diagnose` in [`super::value`] then looks again, slowly, to say
//! what is wrong. The checking ones ([`Cursor::skip_value`] and what it uses) return a [`Problem`].
//! None recurses: the levels that are open are bits of a number, at most [`LEVELS_MAX`] of them.

use std::borrow::Cow;

use crate::decode::problem::{Parsed, Problem, quoted};

/// How deep objects and arrays of an event may be nested, the event's own object included.
pub const LEVELS_MAX: u32 = 128;

const ONES: u64 = u64::MAX / 255;
const HIGH: u64 = ONES << 7;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Cursor<'a> {
    pub body: &'a [u8],
    pub at: usize,
    /// Objects and arrays that are open here.
    pub level: u32,
}

impl<'a> Cursor<'a> {
    pub fn new(body: &'a [u8], at: usize) -> Self {
        Self { body, at, level: 0 }
    }

    /// The next byte; 0, which JSON has no use for, at the end.
    #[inline(always)]
    pub fn peek(&self) -> u8 {
        self.body.get(self.at).copied().unwrap_or(0)
    }

    #[inline(always)]
    pub fn rest(&self) -> &'a [u8] {
        self.body.get(self.at..).unwrap_or_default()
    }

    pub fn is_at_end(&self) -> bool {
        self.at >= self.body.len()
    }

    #[inline(always)]
    pub fn whitespace(&mut self) {
        while matches!(self.peek(), b' ' | b'\n' | b'\r' | b'\t') {
            self.at += 1;
        }
    }

    /// Goes past `token` if it is next.
    #[inline(always)]
    pub fn take(&mut self, token: &[u8]) -> bool {
        let found = self.rest().starts_with(token);
        if found {
            self.at += token.len();
        }
        found
    }

    /// Reads a string, appending its content to `out`.
    #[inline]
    pub fn string_into(&mut self, out: &mut Vec<u8>) -> bool {
        let start = self.at + 1;
        let end = plain_end(self.body, start);
        match self.body.get(end) {
            Some(b'"') => {
                out.extend_from_slice(&self.body[start..end]);
                self.at = end + 1;
                true
            }
            Some(b'\\') => {
                out.extend_from_slice(&self.body[start..end]);
                self.at = end;
                self.escaped_into(out)
            }
            _ => false,
        }
    }

    /// Reads a string.
    #[inline]
    pub fn string(&mut self) -> Option<Cow<'a, [u8]>> {
        if self.peek() != b'"' {
            return None;
        }
        let start = self.at + 1;
        let end = plain_end(self.body, start);
        if self.body.get(end) == Some(&b'"') {
            self.at = end + 1;
            return Some(Cow::Borrowed(&self.body[start..end]));
        }
        let mut content = Vec::new();
        self.string_into(&mut content).then_some(Cow::Owned(content))
    }

    /// Goes past the string here without reading it. The cursor stands on its quote.
    pub fn skip_string(&mut self) -> Parsed {
        let start = self.at;
        self.at += 1;
        loop {
            self.at = plain_end(self.body, self.at);
            match self.body.get(self.at) {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(());
                }
                Some(b'\\') => {
                    let at = self.at;
                    if self.escape().is_none() {
                        let shown = &self.body[at..self.body.len().min(at + 6)];
                        return Err(Problem::malformed(at, "an escape sequence of JSON", quoted(shown)));
                    }
                }
                Some(&control) => {
                    let found = format!("the control character 0x{control:02x}");
                    return Err(Problem::malformed(self.at, "the string to go on", found));
                }
                None => return Err(Problem::malformed(start, "a string with a closing quote", "the end")),
            }
        }
    }

    /// Goes past a number; false if there is none.
    #[inline]
    pub fn number(&mut self) -> bool {
        if self.peek() == b'-' {
            self.at += 1;
        }
        match self.peek() {
            b'0' => self.at += 1,
            b'1'..=b'9' => self.digits(),
            _ => return false,
        }
        if self.peek() == b'.' {
            self.at += 1;
            if !self.peek().is_ascii_digit() {
                return false;
            }
            self.digits();
        }
        if matches!(self.peek(), b'e' | b'E') {
            self.at += 1;
            if matches!(self.peek(), b'+' | b'-') {
                self.at += 1;
            }
            if !self.peek().is_ascii_digit() {
                return false;
            }
            self.digits();
        }
        !self.peek().is_ascii_digit()
    }

    /// Goes past one value of any kind, and checks it.
    pub fn skip_value(&mut self) -> Parsed {
        let mut objects = 0_u128;
        let outside = self.level;
        loop {
            self.whitespace();
            if self.open(&mut objects)? {
                continue;
            }
            if self.close(outside, &mut objects)? {
                return Ok(());
            }
        }
    }

    /// The problem of finding something here that does not belong.
    #[cold]
    pub fn unexpected(&self, expected: &str) -> Box<Problem> {
        let found = match self.rest() {
            [] => "the end".to_owned(),
            rest => quoted(&rest[..character_length(rest)]),
        };
        Problem::malformed(self.at, expected, found)
    }

    /// Goes past a scalar, an empty object or array, or into a container; true for the last.
    fn open(&mut self, objects: &mut u128) -> Parsed<bool> {
        let start = self.at;
        match self.peek() {
            b'"' => self.skip_string()?,
            b'{' | b'[' => return self.open_container(objects),
            b'-' | b'0'..=b'9' => {
                if !self.number() {
                    return Err(Problem::malformed(start, "a number", quoted(word(&self.body[start..]))));
                }
            }
            _ => {
                if !(self.take(b"true") || self.take(b"false") || self.take(b"null")) {
                    return Err(self.unexpected("a value"));
                }
            }
        }
        Ok(false)
    }

    fn open_container(&mut self, objects: &mut u128) -> Parsed<bool> {
        let is_object = self.peek() == b'{';
        if self.level >= LEVELS_MAX {
            let expected = format!("at most {LEVELS_MAX} levels of nesting");
            return Err(Problem::malformed(self.at, expected, "one more"));
        }
        self.at += 1;
        self.whitespace();
        if self.peek() == if is_object { b'}' } else { b']' } {
            self.at += 1;
            return Ok(false);
        }
        self.level += 1;
        *objects = *objects << 1 | u128::from(is_object);
        if is_object {
            self.skip_key()?;
        }
        Ok(true)
    }

    /// After a value: goes past what closes here. True if that was all; false if a value follows.
    fn close(&mut self, outside: u32, objects: &mut u128) -> Parsed<bool> {
        while self.level > outside {
            let in_object = *objects & 1 == 1;
            self.whitespace();
            match self.peek() {
                b',' => {
                    self.at += 1;
                    if in_object {
                        self.whitespace();
                        self.skip_key()?;
                    }
                    return Ok(false);
                }
                b'}' if in_object => (),
                b']' if !in_object => (),
                _ if in_object => return Err(self.unexpected("`,` or `}`")),
                _ => return Err(self.unexpected("`,` or `]`")),
            }
            self.at += 1;
            self.level -= 1;
            *objects >>= 1;
        }
        Ok(true)
    }

    fn skip_key(&mut self) -> Parsed {
        if self.peek() != b'"' {
            return Err(self.unexpected("a field's name in quotes"));
        }
        self.skip_string()?;
        self.colon()
    }

    pub fn colon(&mut self) -> Parsed {
        self.whitespace();
        if self.peek() != b':' {
            return Err(self.unexpected("`:`"));
        }
        self.at += 1;
        Ok(())
    }

    fn digits(&mut self) {
        while self.peek().is_ascii_digit() {
            self.at += 1;
        }
    }

    /// Reads on from a backslash to the string's end.
    #[cold]
    fn escaped_into(&mut self, out: &mut Vec<u8>) -> bool {
        loop {
            let Some(c) = self.escape() else {
                return false;
            };
            out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            let end = plain_end(self.body, self.at);
            out.extend_from_slice(&self.body[self.at..end]);
            self.at = end;
            match self.body.get(end) {
                Some(b'"') => {
                    self.at += 1;
                    return true;
                }
                Some(b'\\') => (),
                _ => return false,
            }
        }
    }

    /// Reads an escape sequence. Half of a surrogate pair is none: no text can hold it.
    fn escape(&mut self) -> Option<char> {
        let kind = *self.body.get(self.at + 1)?;
        self.at += 2;
        Some(match kind {
            b'"' | b'\\' | b'/' => char::from(kind),
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                let first = self.hex()?;
                if !(0xd800..0xdc00).contains(&first) {
                    return char::from_u32(first);
                }
                if !self.take(b"\\u") {
                    return None;
                }
                let second = self.hex()?.checked_sub(0xdc00).filter(|&low| low < 0x400)?;
                char::from_u32(0x10000 + ((first - 0xd800) << 10) + second)?
            }
            _ => return None,
        })
    }

    fn hex(&mut self) -> Option<u32> {
        let digits = self.rest().first_chunk::<4>()?;
        self.at += 4;
        let mut value = 0;
        for &digit in digits {
            value = value << 4 | char::from(digit).to_digit(16)?;
        }
        Some(value)
    }
}

/// Where, from `at` on, the first quote, backslash or control character is; else the end.
/// Eight bytes at a step: see "Determine if a word has a byte less than n" in Bit Twiddling Hacks;
/// the lowest byte that it marks is always right.
#[inline]
pub(crate) fn plain_end(body: &[u8], mut at: usize) -> usize {
    while let Some(chunk) = body.get(at..).and_then(|rest| rest.first_chunk::<8>()) {
        let word = u64::from_le_bytes(*chunk);
        let quote = word ^ (ONES * b'"' as u64);
        let backslash = word ^ (ONES * b'\\' as u64);
        let marks = (quote.wrapping_sub(ONES) & !quote)
            | (backslash.wrapping_sub(ONES) & !backslash)
            | (word.wrapping_sub(ONES * 0x20) & !word);
        let marks = marks & HIGH;
        if marks != 0 {
            return at + marks.trailing_zeros() as usize / 8;
        }
        at += 8;
    }
    let rest = body.get(at..).unwrap_or_default();
    let special = |&byte: &u8| byte < 0x20 || byte == b'"' || byte == b'\\';
    rest.iter().position(special).map_or(body.len(), |n| at + n)
}

/// The letters, digits and signs at the start of `text`, to show what is not a number.
pub(crate) fn word(text: &[u8]) -> &[u8] {
    let part = |byte: &u8| byte.is_ascii_alphanumeric() || b"+-._".contains(byte);
    let length = text.iter().take_while(|&byte| part(byte)).count();
    &text[..length]
}

fn character_length(text: &[u8]) -> usize {
    let following = text.iter().skip(1).take(3).take_while(|&&byte| byte & 0xc0 == 0x80);
    1 + following.count()
}
