//! Tests of reading access logs.

use std::{env, fs, path::Path};

use arrow::array::{Array, AsArray};
use arrow::datatypes::{DataType, Int32Type, Int64Type, TimeUnit};

use super::*;
use crate::column::EventSchema;
use crate::decode::tests::{column, ids, schema};
use crate::decode::{Decoder, Format, OnError};
use crate::encode;

const COMBINED: &str =
    r#"1.2.3.4 - bob [17/May/2015:10:05:03 +0200] "GET /a?b=\"c\" HTTP/1.1" 200 2030 "http://r/" "Agent \x41\xe9""#;

/// A stream of all fields.
pub(crate) fn requests() -> EventSchema {
    let columns = FIELDS.map(|name| {
        let data_type = match name {
            "time" => DataType::Timestamp(TimeUnit::Microsecond, None),
            "status" => DataType::Int32,
            "bytes" => DataType::Int64,
            _ => DataType::Utf8,
        };
        column(name, data_type)
    });
    schema(columns.to_vec())
}

fn read_one(line: &str) -> Result<String, String> {
    let mut decoder = Decoder::new(&requests(), ids());
    let decoded = decoder.decode(line.as_bytes(), Format::CombinedLog, OnError::Reject, 0);
    if let Some(failure) = decoded.failures.first() {
        return Err(failure.to_string());
    }
    let mut out = Vec::new();
    encode::csv(&decoder.finish(), false, &mut out).unwrap();
    Ok(String::from_utf8(out).unwrap().trim_end().to_owned())
}

#[test]
fn lines_of_both_formats_are_read() {
    let expected = "1.2.3.4,,bob,2015-05-17T08:05:03Z,GET,\"/a?b=\"\"c\"\"\",HTTP/1.1,200,2030,http://r/,Agent A\\xe9";
    assert_eq!(read_one(COMBINED).unwrap(), expected);
    let common = r#"h - - [17/May/2015:10:05:03 +0000] "GET / HTTP/1.0" 304 -"#;
    assert_eq!(
        read_one(common).unwrap(),
        "h,,,2015-05-17T10:05:03Z,GET,/,HTTP/1.0,304,,,"
    );
    let cut = r#"h - - [17/May/2015:10:05:03 +0000] "GET / HTTP/1.0" 304 - "-" "Mozilla/5.0 (comp"#;
    assert_eq!(
        read_one(cut).unwrap(),
        "h,,,2015-05-17T10:05:03Z,GET,/,HTTP/1.0,304,,,Mozilla/5.0 (comp"
    );
}

#[test]
fn what_clients_sent_is_no_error() {
    for (request, fields) in [
        ("-", ",,"),
        ("", ",,"),
        (r"\x16\x03\x01", ",\u{16}\u{3}\u{1},"),
        ("GET /", ",GET /,"),
        ("GET /a b HTTP/1.1", "GET,/a b,HTTP/1.1"),
    ] {
        let line = format!("h - - [17/May/2015:10:05:03 +0000] \"{request}\" 400 0 \"-\" \"-\"");
        assert_eq!(
            read_one(&line).unwrap(),
            format!("h,,,2015-05-17T10:05:03Z,{fields},400,0,,")
        );
    }
}

#[test]
fn what_is_no_line_is_placed() {
    let cases = [
        (
            "",
            "line 1, column 1: expected a line of an access log, found an empty body",
        ),
        (
            "hello",
            "line 1, column 6: expected the client's identity, found the end of the line",
        ),
        (
            "h - - now",
            "line 1, column 7: expected the time in brackets, found \"now\"",
        ),
        (
            r#"h - - [17/Mai/2015:10:05:03 +0000] "GET / HTTP/1.0" 304 -"#,
            "line 1, column 8: time: expected a time like 17/May/2015:10:05:03 +0000, found \"17/Mai/2015:10:05:03 +0000\"",
        ),
        (
            r#"h - - [17/May/2015:10:05:03 +0000] "GET / HTTP/1.0" abc -"#,
            "line 1, column 53: status: expected INT (from -2147483648 to 2147483647), found \"abc\"",
        ),
    ];
    for (line, message) in cases {
        assert_eq!(read_one(line).unwrap_err(), message);
    }
}

#[test]
fn a_real_log_is_read_whole() {
    let Some(corpus) = env::var_os("HEADWATER_CORPUS") else {
        // Tests may print; this says why nothing was tested.
        #[expect(clippy::print_stdout, reason = "a test that is skipped says so")]
        {
            println!("skipped: HEADWATER_CORPUS is not set");
        }
        return;
    };
    let log = fs::read(Path::new(&corpus).join("access-log/apache_access.log")).unwrap();
    let mut decoder = Decoder::new(&requests(), ids());
    let decoded = decoder.decode(&log, Format::CombinedLog, OnError::Reject, 0);
    assert_eq!(decoded.failures, []);
    assert_eq!(decoded.rows, 10_000);
    let batch = decoder.finish();
    assert_eq!(batch.column(0).null_count() + batch.column(5).null_count(), 0);
    // As `awk` sums and counts them.
    let bytes = batch.column(8).as_primitive::<Int64Type>();
    let statuses = batch.column(7).as_primitive::<Int32Type>();
    let paths = batch.column(5).as_string::<i32>();
    assert_eq!(
        (arrow::compute::sum(bytes), bytes.null_count()),
        (Some(2_747_282_740), 669)
    );
    assert_eq!(statuses.iter().filter(|&status| status == Some(404)).count(), 213);
    assert_eq!(paths.iter().filter(|&path| path == Some("/favicon.ico")).count(), 807);
}
