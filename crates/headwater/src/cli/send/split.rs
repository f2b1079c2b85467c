//! Cuts an input into requests that are each complete in their format, and remembers on which line
//! each of their events stands, so that a refusal can be told in lines of the input.

use std::io::{self, BufRead, Read};

use crate::cli::send::Format;

/// The longest event. Longer ones are refused here: the rest of the input can't be trusted then.
const EVENT_BYTES_MAX: usize = 16 << 20;

/// One request's worth of events.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chunk {
    pub body: Vec<u8>,
    /// The line of the input on which each event begins, counted from 1.
    pub lines: Vec<u64>,
    /// How much of the input this is.
    pub input_bytes: u64,
}

pub struct Splitter<R> {
    input: R,
    format: Format,
    rows_max: usize,
    bytes_max: usize,
    /// Of the next byte to be read, counted from 1.
    line: u64,
    /// The first line of a CSV file, which every request repeats.
    header: Option<Vec<u8>>,
    /// Read already, and too large for the request that was full.
    pending: Option<Event>,
}

#[derive(Default)]
struct Event {
    bytes: Vec<u8>,
    line: u64,
    input_bytes: u64,
}

impl Chunk {
    pub fn first_line(&self) -> u64 {
        self.lines.first().copied().unwrap_or(1)
    }

    pub fn last_line(&self) -> u64 {
        self.lines.last().copied().unwrap_or(1)
    }
}

impl<R: BufRead> Splitter<R> {
    pub fn new(input: R, format: Format, rows_max: usize, bytes_max: usize) -> Self {
        Self {
            input,
            format,
            rows_max,
            bytes_max,
            line: 1,
            header: None,
            pending: None,
        }
    }

    /// The next request; `None` at the end of the input.
    pub fn next(&mut self) -> io::Result<Option<Chunk>> {
        if self.format == Format::Csv && self.header.is_none() {
            match self.csv_record()? {
                Some(header) => self.header = Some(header.bytes),
                None => return Ok(None),
            }
        }
        let mut chunk = Chunk {
            body: self.header.clone().unwrap_or_default(),
            ..Chunk::default()
        };
        while chunk.lines.len() < self.rows_max {
            let Some(event) = self.event()? else { break };
            if !chunk.lines.is_empty() && chunk.body.len() + event.bytes.len() > self.bytes_max {
                self.pending = Some(event);
                break;
            }
            self.add(&mut chunk, event);
        }
        if self.format == Format::Json && !chunk.lines.is_empty() {
            chunk.body.push(b']');
        }
        Ok((!chunk.lines.is_empty()).then_some(chunk))
    }

    fn add(&self, chunk: &mut Chunk, event: Event) {
        if self.format == Format::Json {
            chunk.body.push(if chunk.lines.is_empty() { b'[' } else { b',' });
        }
        chunk.body.extend_from_slice(&event.bytes);
        if self.format != Format::Json && !event.bytes.ends_with(b"\n") {
            chunk.body.push(b'\n');
        }
        chunk.lines.push(event.line);
        chunk.input_bytes += event.input_bytes;
    }

    fn event(&mut self) -> io::Result<Option<Event>> {
        if let Some(event) = self.pending.take() {
            return Ok(Some(event));
        }
        match self.format {
            Format::Ndjson | Format::CombinedLog => self.filled_line(),
            Format::Csv => self.csv_record(),
            Format::Json => self.json_value(),
        }
    }

    /// The next line that isn't blank.
    fn filled_line(&mut self) -> io::Result<Option<Event>> {
        let mut event = Event::default();
        while event.bytes.iter().all(u8::is_ascii_whitespace) {
            event.bytes.clear();
            event.line = self.line;
            if !self.append_line(&mut event)? {
                return Ok(None);
            }
        }
        Ok(Some(event))
    }

    /// A record ends with a line, unless that line break is within quotes.
    fn csv_record(&mut self) -> io::Result<Option<Event>> {
        let Some(mut event) = self.filled_line()? else {
            return Ok(None);
        };
        while event.bytes.iter().filter(|byte| **byte == b'"').count() % 2 == 1 {
            if !self.append_line(&mut event)? {
                break;
            }
        }
        Ok(Some(event))
    }

    fn append_line(&mut self, event: &mut Event) -> io::Result<bool> {
        let room = (EVENT_BYTES_MAX + 1).saturating_sub(event.bytes.len());
        let read = (&mut self.input)
            .take(room as u64)
            .read_until(b'\n', &mut event.bytes)?;
        event.input_bytes += read as u64;
        check_length(event)?;
        if event.bytes.ends_with(b"\n") {
            self.line += 1;
        }
        Ok(read > 0)
    }

    /// The next value of an array, or of values one after the other.
    fn json_value(&mut self) -> io::Result<Option<Event>> {
        let mut event = Event::default();
        let mut depth = 0_usize;
        let (mut in_string, mut escaped) = (false, false);
        while let Some(byte) = self.byte()? {
            event.input_bytes += 1;
            let between = matches!(byte, b' ' | b'\t' | b'\r' | b'\n' | b',' | b'[' | b']');
            if event.bytes.is_empty() {
                if between {
                    continue;
                }
                event.line = self.line;
            } else if depth == 0 && !in_string && between {
                return Ok(Some(event));
            }
            event.bytes.push(byte);
            check_length(&event)?;
            match byte {
                _ if escaped => escaped = false,
                b'\\' if in_string => escaped = true,
                b'"' => in_string = !in_string,
                b'{' | b'[' if !in_string => depth += 1,
                b'}' | b']' if !in_string => depth = depth.saturating_sub(1),
                _ => {}
            }
            if depth == 0 && byte == b'}' && !in_string {
                return Ok(Some(event));
            }
        }
        Ok((!event.bytes.is_empty()).then_some(event))
    }

    fn byte(&mut self) -> io::Result<Option<u8>> {
        let byte = self.input.fill_buf()?.first().copied();
        if let Some(byte) = byte {
            self.input.consume(1);
            self.line += u64::from(byte == b'\n');
        }
        Ok(byte)
    }
}

fn check_length(event: &Event) -> io::Result<()> {
    match event.bytes.len() > EVENT_BYTES_MAX {
        true => Err(io::Error::other(format!(
            "line {}: an event is longer than {EVENT_BYTES_MAX} bytes; is this the right --format?",
            event.line
        ))),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunks(input: &str, format: Format, rows: usize, bytes: usize) -> Vec<(String, Vec<u64>)> {
        let mut splitter = Splitter::new(input.as_bytes(), format, rows, bytes);
        let mut all = Vec::new();
        let mut input_bytes = 0;
        while let Some(chunk) = splitter.next().unwrap() {
            input_bytes += chunk.input_bytes;
            all.push((String::from_utf8(chunk.body).unwrap(), chunk.lines));
        }
        assert!(input_bytes <= input.len() as u64);
        all
    }

    fn chunk(body: &str, lines: &[u64]) -> (String, Vec<u64>) {
        (body.to_owned(), lines.to_vec())
    }

    #[test]
    fn lines_are_cut_by_rows_and_blank_ones_left_out() {
        let found = chunks("{1}\n\n{2}\n{3}", Format::Ndjson, 2, 100);
        assert_eq!(found, [chunk("{1}\n{2}\n", &[1, 3]), chunk("{3}\n", &[4])]);
    }

    #[test]
    fn lines_are_cut_by_bytes() {
        let found = chunks("aaaa\nbbbb\ncc\n", Format::CombinedLog, 9, 8);
        assert_eq!(found, [chunk("aaaa\n", &[1]), chunk("bbbb\ncc\n", &[2, 3])]);
    }

    #[test]
    fn csv_repeats_its_header_and_keeps_line_breaks_in_quotes() {
        let found = chunks("a,b\n1,\"x\ny\"\n2,z\n", Format::Csv, 1, 100);
        assert_eq!(found, [chunk("a,b\n1,\"x\ny\"\n", &[2]), chunk("a,b\n2,z\n", &[4])]);
    }

    #[test]
    fn json_arrays_are_cut_between_their_values() {
        let found = chunks(
            "[\n {\"a\": \"}]\\\"\"},\n {\"b\": [1, {}]} , 7\n]\n",
            Format::Json,
            2,
            100,
        );
        assert_eq!(
            found,
            [
                chunk("[{\"a\": \"}]\\\"\"},{\"b\": [1, {}]}]", &[2, 3]),
                chunk("[7]", &[3])
            ]
        );
        assert_eq!(
            chunks("{\"a\":1}{\"a\":2}", Format::Json, 9, 99),
            [chunk("[{\"a\":1},{\"a\":2}]", &[1, 1])]
        );
    }

    #[test]
    fn nothing_is_no_request() {
        for format in [Format::Ndjson, Format::Json, Format::Csv, Format::CombinedLog] {
            assert_eq!(chunks("\n\n", format, 1, 1), []);
        }
        assert_eq!(chunks("a,b\n", Format::Csv, 1, 1), []);
    }
}
