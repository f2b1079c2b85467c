//! Whole records out of a file: lines, or in CSV what quotes hold together.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};

use headwater_schema::decode::Format;

use crate::source::Error;
use crate::sources::file::folder::Found;

/// How much is read at once, less where few records are wanted. A longer record is read whole up to
/// [`RECORD_BYTES_MAX`].
const READ_BYTES: usize = 1 << 20;
const READ_BYTES_MIN: u64 = 64 << 10;
/// What a record is thought to take, until it is seen.
const RECORD_BYTES: u64 = 512;
const RECORD_BYTES_MAX: usize = 64 << 20;
/// More failures than this could not all be collected.
const RECORDS_MAX: u64 = 8192;

/// Records to be decoded together.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Records {
    /// In CSV they follow the file's first line, which names the columns.
    pub(super) body: Vec<u8>,
    /// The bytes of that line.
    pub(super) header: usize,
    pub(super) count: u64,
    /// Where they are in the file.
    pub(super) start: u64,
    pub(super) end: u64,
}

/// The next records from byte `from` on, at most `count_max`; none if there are no whole ones. With
/// `ends`, what is left at the file's end is a record too.
pub(super) fn read(
    file: &Found,
    format: Format,
    from: u64,
    count_max: u64,
    ends: bool,
) -> Result<Option<Records>, Error> {
    let failed = |error: io::Error| Error::outside(format!("{}: {error}", file.path.display()));
    let mut input = File::open(&file.path).map_err(failed)?;
    let (mut body, mut start) = (Vec::new(), from);
    if format == Format::Csv {
        let Some(header) = header(&mut input).map_err(failed)? else {
            return Ok(None);
        };
        body = header;
        start = from.max(body.len() as u64);
    }
    let header = body.len();
    input.seek(SeekFrom::Start(start)).map_err(failed)?;
    loop {
        let before = body.len();
        let wanted = count_max.saturating_mul(RECORD_BYTES);
        let wanted = wanted.clamp(READ_BYTES_MIN, READ_BYTES as u64);
        (&mut input).take(wanted).read_to_end(&mut body).map_err(failed)?;
        let at_end = ((body.len() - before) as u64) < wanted;
        let (mut length, mut count) = whole(&body[header..], format, count_max.min(RECORDS_MAX));
        let all_taken = header + length == body.len();
        if count == 0 && at_end && ends && !all_taken {
            (length, count) = (body.len() - header, 1);
        }
        if count > 0 {
            body.truncate(header + length);
            let end = start + length as u64;
            return Ok(Some(Records {
                body,
                header,
                count,
                start,
                end,
            }));
        }
        if at_end {
            return Ok(None);
        }
        if body.len() > RECORD_BYTES_MAX {
            let name = &file.name;
            return Err(Error::outside(format!(
                "{name}: the record at byte {start} has no end within {RECORD_BYTES_MAX} bytes"
            )));
        }
    }
}

/// The first line of a CSV file, with its end; none if it isn't whole yet.
fn header(input: &mut File) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    input.take(READ_BYTES as u64).read_to_end(&mut line)?;
    let (length, _) = whole(&line, Format::Csv, 1);
    line.truncate(length);
    Ok((length > 0).then_some(line))
}

/// How many bytes, from the start on, are whole records, and how many those are.
fn whole(bytes: &[u8], format: Format, count_max: u64) -> (usize, u64) {
    let (mut length, mut count) = (0, 0);
    let mut in_quotes = false;
    for (at, byte) in memchr::memchr2_iter(b'\n', b'"', bytes).map(|at| (at, bytes[at])) {
        match byte {
            // A quote within quotes is written twice, which changes nothing here.
            b'"' => in_quotes ^= format == Format::Csv,
            _ if in_quotes => {}
            _ if count == count_max => break,
            _ => (length, count) = (at + 1, count + 1),
        }
    }
    (length, count)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn file(content: &str) -> (tempfile::NamedTempFile, Found) {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(content.as_bytes()).unwrap();
        let found = Found {
            name: "f".to_owned(),
            path: file.path().to_owned(),
            bytes: content.len() as u64,
        };
        (file, found)
    }

    fn text(records: &Records) -> &str {
        std::str::from_utf8(&records.body).unwrap()
    }

    #[test]
    fn only_whole_lines_are_read() {
        let (_file, found) = file("{}\n{\"a\"\n}\n{");
        let first = read(&found, Format::NdJson, 0, 2, false).unwrap().unwrap();
        assert_eq!((text(&first), first.count, first.end), ("{}\n{\"a\"\n", 2, 8));
        let next = read(&found, Format::NdJson, first.end, 9, false).unwrap().unwrap();
        assert_eq!((text(&next), next.count, next.end), ("}\n", 1, 10));
        assert_eq!(read(&found, Format::NdJson, 10, 9, false).unwrap(), None);
        let last = read(&found, Format::NdJson, 10, 9, true).unwrap().unwrap();
        assert_eq!((text(&last), last.count, last.end), ("{", 1, 11));
        assert_eq!(read(&found, Format::NdJson, 11, 9, true).unwrap(), None);
    }

    #[test]
    fn a_csv_record_may_have_lines_and_follows_the_header() {
        let (_file, found) = file("a,b\n1,\"x\ny\"\"\"\n2,z\n3");
        let first = read(&found, Format::Csv, 0, 1, false).unwrap().unwrap();
        assert_eq!((text(&first), first.start, first.end), ("a,b\n1,\"x\ny\"\"\"\n", 4, 14));
        let next = read(&found, Format::Csv, first.end, 5, false).unwrap().unwrap();
        assert_eq!((text(&next), next.header, next.end), ("a,b\n2,z\n", 4, 18));
        assert_eq!(read(&found, Format::Csv, next.end, 5, false).unwrap(), None);
    }

    #[test]
    fn a_long_line_is_read_whole() {
        let long = format!("{}\nb\n", "a".repeat(3 * READ_BYTES));
        let (_file, found) = file(&long);
        let first = read(&found, Format::NdJson, 0, 1, false).unwrap().unwrap();
        assert_eq!((first.count, first.end), (1, 3 * READ_BYTES as u64 + 1));
    }
}
