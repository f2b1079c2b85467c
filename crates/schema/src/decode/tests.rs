//! Tests of reading, all formats: exact messages and places, and thousands of damaged inputs.

use std::sync::Arc;

use arrow::array::{Array, AsArray};
use arrow::datatypes::{DataType, Field, Int64Type, TimeUnit, TimestampMicrosecondType};
use headwater_event::clock::ManualClock;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::column::Column;
use crate::encode;

pub(crate) fn ids() -> Arc<Ids> {
    Ids::seeded(ManualClock::new(0), 7)
}

pub(crate) fn column(name: &str, data_type: DataType) -> Column {
    Column {
        name: name.into(),
        data_type,
        json: false,
        nullable: true,
        default: None,
    }
}

fn not_null(name: &str, data_type: DataType) -> Column {
    Column {
        nullable: false,
        ..column(name, data_type)
    }
}

pub(crate) fn schema(columns: Vec<Column>) -> EventSchema {
    EventSchema {
        columns,
        unknown_fields: UnknownFields::Reject,
    }
}

/// A column of every type.
pub(crate) fn every_type() -> EventSchema {
    let point = vec![
        Field::new("x", DataType::Int32, false),
        Field::new("y", DataType::Utf8, true),
    ];
    let item = Field::new("item", DataType::Struct(point.clone().into()), true);
    let json = Column {
        json: true,
        ..column("json", DataType::Utf8)
    };
    schema(vec![
        column("bool", DataType::Boolean),
        column("small", DataType::Int16),
        column("int", DataType::Int32),
        column("big", DataType::Int64),
        column("real", DataType::Float32),
        column("double", DataType::Float64),
        column("decimal", DataType::Decimal128(10, 2)),
        column("date", DataType::Date32),
        column("time", DataType::Time64(TimeUnit::Microsecond)),
        column("ts", DataType::Timestamp(TimeUnit::Microsecond, None)),
        column("tz", DataType::Timestamp(TimeUnit::Microsecond, Some("+00:00".into()))),
        column("text", DataType::Utf8),
        column("bytes", DataType::Binary),
        json,
        column("point", DataType::Struct(point.into())),
        column("points", DataType::List(item.into())),
    ])
}

const EVERY_TYPE: &str = r#"{"bool":true,"small":-1,"int":2,"big":9007199254740993,"real":1.5,"double":-0.1,"decimal":12.30,"date":"2026-01-31","time":"12:30:00.000001","ts":"2026-01-31T12:30:00Z","tz":"2026-01-31T12:30:00.500Z","text":"a\"\u0001é😀","bytes":"AAEC","json":{"a": [1, 2]},"point":{"x":1,"y":null},"points":[{"x":1,"y":"b"},null]}"#;

fn messages(schema: &EventSchema, body: &[u8], format: Format) -> (usize, Vec<String>) {
    let decoded = Decoder::new(schema, ids()).decode(body, format, OnError::Collect, 0);
    (decoded.rows, decoded.failures.iter().map(ToString::to_string).collect())
}

#[track_caller]
fn says(schema: &EventSchema, body: impl AsRef<[u8]>, message: &str) {
    let (rows, messages) = messages(schema, body.as_ref(), Format::Json);
    assert_eq!((rows, messages.as_slice()), (0, [message.to_owned()].as_slice()));
}

#[test]
fn every_type_there_and_back() {
    let mut decoder = Decoder::new(&every_type(), ids());
    let decoded = decoder.decode(EVERY_TYPE.as_bytes(), Format::Json, OnError::Reject, 0);
    assert_eq!(decoded.failures, []);
    let decoded = decoder.decode(b"{}", Format::Json, OnError::Reject, 0);
    assert_eq!((decoded.failures, decoder.rows()), (vec![], 2));
    let batch = decoder.finish();
    let mut out = Vec::new();
    encode::json_object(&batch, 0, &mut out).unwrap();
    assert_eq!(String::from_utf8(out).unwrap(), EVERY_TYPE);
    assert!(batch.columns().iter().all(|column| column.is_null(1)));
    assert_eq!(decoder.finish().num_rows(), 0);

    let mut csv = Vec::new();
    encode::csv(&batch, true, &mut csv).unwrap();
    let decoded = decoder.decode(&csv, Format::Csv, OnError::Reject, 0);
    assert_eq!(decoded.failures, []);
    // The second row is a line of commas alone.
    assert_eq!(decoder.finish(), batch);
}

#[test]
fn wrong_values_are_named() {
    let every = every_type();
    let cases = [
        (
            r#"{"big":"abc"}"#,
            "line 1, column 8: big: expected BIGINT, found the string \"abc\"",
        ),
        (
            r#"{"big":1.0}"#,
            "line 1, column 8: big: expected BIGINT, found the number 1.0",
        ),
        (
            r#"{"small":40000}"#,
            "line 1, column 10: small: expected SMALLINT (from -32768 to 32767), found the number 40000",
        ),
        (r#"{"int":{}}"#, "line 1, column 8: int: expected INT, found an object"),
        (
            r#"{"big":9223372036854775808}"#,
            "line 1, column 8: big: expected BIGINT (from -9223372036854775808 to 9223372036854775807), found the number 9223372036854775808",
        ),
        (
            r#"{"double":1e999}"#,
            "line 1, column 11: double: expected DOUBLE, found the number 1e999",
        ),
        (
            r#"{"real":1e39}"#,
            "line 1, column 9: real: expected REAL, found the number 1e39",
        ),
        (
            r#"{"decimal":1e8}"#,
            "line 1, column 12: decimal: expected DECIMAL(10, 2), found the number 1e8",
        ),
        (
            r#"{"bool":1}"#,
            "line 1, column 9: bool: expected BOOLEAN, found the number 1",
        ),
        (
            r#"{"text":[1]}"#,
            "line 1, column 9: text: expected TEXT, found an array",
        ),
        (r#"{"text":true}"#, "line 1, column 9: text: expected TEXT, found true"),
        (
            r#"{"ts":"yesterday"}"#,
            "line 1, column 7: ts: expected TIMESTAMP (like 2026-01-31T12:30:00Z), found the string \"yesterday\"",
        ),
        (
            r#"{"ts":999999999999999}"#,
            "line 1, column 7: ts: expected TIMESTAMP (milliseconds, in the years 1 to 9999), found the number 999999999999999",
        ),
        (
            r#"{"date":"2026-02-30"}"#,
            "line 1, column 9: date: expected DATE (like 2026-01-31), found the string \"2026-02-30\"",
        ),
        (
            r#"{"time":"25:00:00"}"#,
            "line 1, column 9: time: expected TIME (like 12:30:00), found the string \"25:00:00\"",
        ),
        (
            r#"{"bytes":"a"}"#,
            "line 1, column 10: bytes: expected BYTEA (in base64), found the string \"a\"",
        ),
        (
            r#"{"point":{"x":"1"}}"#,
            "line 1, column 15: point.x: expected INT, found the string \"1\"",
        ),
        (
            r#"{"point":{}}"#,
            "line 1, column 10: point.x: expected INT, but the field is missing and must not be NULL",
        ),
        (
            r#"{"points":[null,{"x":true}]}"#,
            "line 1, column 22: points[1].x: expected INT, found true",
        ),
        (
            r#"{"point":{"x":1,"z":1}}"#,
            "line 1, column 17: point.z: there is no column \"z\"",
        ),
        (
            "{\n \"texd\":1}",
            "line 2, column 2: texd: there is no column \"texd\"; did you mean \"text\"?",
        ),
        (r#"{"int":1,"int":2}"#, "line 1, column 10: int: the field comes twice"),
        (
            "1",
            "line 1, column 1: expected an object or an array of objects, found the number 1",
        ),
        ("[1]", "line 1, column 2: expected an object, found the number 1"),
    ];
    for (body, message) in cases {
        says(&every, body, message);
    }
    let must = schema(vec![not_null("a", DataType::Int64)]);
    says(
        &must,
        "{}",
        "line 1, column 1: a: expected BIGINT, but the field is missing and must not be NULL",
    );
    says(
        &must,
        r#"{"a":null}"#,
        "line 1, column 6: a: expected BIGINT NOT NULL, found null",
    );
}

#[test]
fn malformed_text_is_placed() {
    let every = every_type();
    let cases = [
        ("", "line 1, column 1: expected an event, found an empty body"),
        (" \n ", "line 2, column 2: expected an event, found an empty body"),
        (
            "{",
            "line 1, column 2: expected a field's name in quotes, found the end",
        ),
        ("{\"int\" 1}", "line 1, column 8: expected `:`, found \"1\""),
        ("{\"int\":1", "line 1, column 9: expected `,` or `}`, found the end"),
        (
            "{\"int\":1,}",
            "line 1, column 10: expected a field's name in quotes, found \"}\"",
        ),
        ("{\"int\":01}", "line 1, column 8: int: expected a number, found \"01\""),
        ("{\"int\":-}", "line 1, column 8: int: expected a number, found \"-\""),
        ("{\"int\":nil}", "line 1, column 8: int: expected a value, found \"n\""),
        ("{\"int\":}", "line 1, column 8: int: expected a value, found \"}\""),
        (
            "{\"text\":\"ab",
            "line 1, column 9: text: expected a string with a closing quote, found the end",
        ),
        (
            "{\"text\":\"a\tb\"}",
            "line 1, column 11: text: expected the string to go on, found the control character 0x09",
        ),
        (
            "{\"text\":\"\\x\"}",
            "line 1, column 10: text: expected an escape sequence of JSON, found \"\\x\"}\"",
        ),
        (
            "{\"text\":\"\\ud800\"}",
            "line 1, column 10: text: expected an escape sequence of JSON, found \"\\ud800\"",
        ),
        (
            "{\"json\":[1 2]}",
            "line 1, column 12: json: expected `,` or `]`, found \"2\"",
        ),
        ("[{},", "line 1, column 5: expected a value, found the end"),
    ];
    for (body, message) in cases {
        let (_, messages) = messages(&every, body.as_bytes(), Format::Json);
        assert_eq!(messages, [message], "{body}");
    }
    let (rows, messages) = messages(&every, b"{} {}", Format::Json);
    assert_eq!(
        (rows, messages),
        (1, vec!["line 1, column 4: expected the end, found \"{\"".to_owned()])
    );
}

#[test]
fn nesting_has_a_limit() {
    let nested = |levels: usize| format!("{{\"json\":{}{}}}", "[".repeat(levels - 1), "]".repeat(levels - 1));
    let mut every = every_type();
    assert_eq!(messages(&every, nested(128).as_bytes(), Format::Json).0, 1);
    says(
        &every,
        nested(129),
        "line 1, column 136: json: expected at most 128 levels of nesting, found one more",
    );
    every.unknown_fields = UnknownFields::Drop;
    let dropped = nested(200).replace("json", "none");
    says(
        &every,
        dropped,
        "line 1, column 136: expected at most 128 levels of nesting, found one more",
    );
    let (rows, _) = messages(&every, nested(100).replace("json", "none").as_bytes(), Format::NdJson);
    assert_eq!(rows, 1);
}

#[test]
fn bytes_that_are_not_utf8_fail_their_event() {
    let body = b"{\"text\":\"a\"}\n{\"text\":\"b\xff\"}\n{\"text\":\"c\"}\n{\"text\":\"\xc3\"}\n{\"int\":1}";
    let (rows, messages) = messages(&every_type(), body, Format::NdJson);
    assert_eq!(rows, 3);
    assert_eq!(
        messages,
        [
            "line 2, column 11: invalid UTF-8: the byte 0xff",
            "line 4, column 10: invalid UTF-8: the byte 0xc3"
        ]
    );
}

#[test]
fn the_good_events_are_collected() {
    let body =
        "\u{feff}{\"int\":1}\r\n\r\n{\"int\":oops}{\"int\":2}\r\n{\"int\":3} {\"int\":\"x\"} {\"int\":4}\n{\"int\":5";
    let mut decoder = Decoder::new(&every_type(), ids());
    let decoded = decoder.decode(body.as_bytes(), Format::NdJson, OnError::Collect, 0);
    let spans = decoded
        .failures
        .iter()
        .map(|failure| (failure.index, &body[failure.span.clone()]));
    let expected = [
        (1, "{\"int\":oops}{\"int\":2}\r"),
        (3, "{\"int\":\"x\"}"),
        (5, "{\"int\":5"),
    ];
    assert_eq!(spans.collect::<Vec<_>>(), expected);
    assert_eq!((decoded.rows, decoded.failed, decoder.rows()), (3, 3, 3));

    let decoded = decoder.decode(body.as_bytes(), Format::NdJson, OnError::Reject, 0);
    assert_eq!((decoded.rows, decoded.failed, decoder.rows()), (0, 3, 3));

    let body = b"[{\"int\":1},{\"int\":true},{\"int\":2},{\"int\":,{\"int\":3}]";
    let decoded = decoder.decode(body, Format::Json, OnError::Collect, 0);
    assert_eq!((decoded.rows, decoded.failed), (2, 2));
    assert_eq!(decoded.failures[1].span, 34..body.len());
}

#[test]
fn failures_are_bounded() {
    let body = "1\n".repeat(FAILURES_COLLECTED_MAX + 5);
    let mut decoder = Decoder::new(&every_type(), ids());
    let good_first = format!("{{\"int\":1}}\n{body}");
    let decoded = decoder.decode(good_first.as_bytes(), Format::NdJson, OnError::Collect, 0);
    assert_eq!((decoded.rejected, decoded.rows, decoder.rows()), (true, 0, 0));
    let decoded = decoder.decode(body.as_bytes(), Format::NdJson, OnError::Collect, 0);
    assert_eq!(decoded.failed, FAILURES_COLLECTED_MAX + 1);
    assert_eq!(
        decoded.failures[FAILURES_COLLECTED_MAX].span,
        2 * FAILURES_COLLECTED_MAX..body.len()
    );
    assert_eq!(
        decoded.failures[FAILURES_COLLECTED_MAX].message,
        "10000 events failed; the rest of the body was not read"
    );
    let decoded = decoder.decode(body.as_bytes(), Format::NdJson, OnError::Reject, 0);
    assert_eq!(
        (decoded.failed, decoded.failures.len()),
        (FAILURES_COLLECTED_MAX + 5, FAILURES_TOLD_MAX)
    );
}

#[test]
fn defaults_fill_what_is_missing_and_null_stays() {
    let with = |column: Column, default| Column {
        default: Some(default),
        ..column
    };
    let timestamp = DataType::Timestamp(TimeUnit::Microsecond, None);
    let schema = schema(vec![
        with(not_null("id", DataType::Utf8), ColumnDefault::Uuid),
        with(column("at", timestamp), ColumnDefault::Now),
        with(column("n", DataType::Int64), ColumnDefault::Value("7".into())),
    ]);
    assert_eq!(check(&schema, &ids()), Ok(()));
    let mut decoder = Decoder::new(&schema, ids());
    let decoded = decoder.decode(b"{}{\"n\":null,\"at\":5}", Format::NdJson, OnError::Reject, 42);
    assert_eq!(decoded.failures, []);
    let batch = decoder.finish();
    assert_eq!(batch.column(0).as_string::<i32>().value(0).len(), 36);
    assert_eq!(
        batch
            .column(1)
            .as_primitive::<TimestampMicrosecondType>()
            .values()
            .as_ref(),
        [42, 5000]
    );
    assert_eq!(batch.column(2).as_primitive::<Int64Type>().value(0), 7);
    assert!(batch.column(2).is_null(1));
    says(
        &schema,
        r#"{"id":null}"#,
        "line 1, column 7: id: expected TEXT NOT NULL, found null",
    );

    let wrong = with(column("n", DataType::Int64), ColumnDefault::Value("\"x\"".into()));
    let message = "column n: the default does not fit: expected BIGINT, found the string \"x\"";
    assert_eq!(
        check(&super::tests::schema(vec![wrong]), &ids()),
        Err(message.to_owned())
    );
}

#[test]
fn csv_is_read_with_its_places() {
    let schema = schema(vec![column("a", DataType::Utf8), not_null("n", DataType::Int64)]);
    let body = b"n,a\r\n1,\"x, \"\"y\"\"\nz\"\r\n\r\n2,\n3,\"\"\n,b\nx,c\n4\n5,d\"\n6,\"e\"f\n7,g";
    let mut decoder = Decoder::new(&schema, ids());
    let decoded = decoder.decode(body, Format::Csv, OnError::Collect, 0);
    let messages: Vec<_> = decoded.failures.iter().map(ToString::to_string).collect();
    assert_eq!(
        messages,
        [
            "line 7, column 1: n: expected BIGINT NOT NULL, found nothing",
            "line 8, column 1: n: expected BIGINT, found \"x\"",
            "line 9, column 1: expected 2 fields, as in the header, found 1",
            "line 10, column 4: expected no quote within a field that has none around it, found one",
            "line 11, column 6: expected `,` or a line break after a closing quote, found something else",
        ]
    );
    let batch = decoder.finish();
    let a = batch.column(0).as_string::<i32>();
    let texts: Vec<_> = a.iter().collect();
    assert_eq!(texts, [Some("x, \"y\"\nz"), None, Some(""), Some("g")]);
    let cases = [
        (
            "",
            "line 1, column 1: expected a header line with the columns' names, found an empty body",
        ),
        (
            "a,m\n",
            "line 1, column 3: the header names \"m\", but there is no such column",
        ),
        ("a,a\n", "line 1, column 3: the header names the column \"a\" twice"),
        ("a,n\n\"x", "line 2, column 1: expected a closing quote, found the end"),
        (
            "a\nx\n",
            "line 2, column 1: n: expected BIGINT, but the field is missing and must not be NULL",
        ),
    ];
    for (body, message) in cases {
        assert_eq!(
            super::tests::messages(&schema, body.as_bytes(), Format::Csv).1,
            [message]
        );
    }
}

#[test]
fn plain_csv_is_read_as_csv_core_reads_it() {
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let schema = schema(vec![column("a", DataType::Utf8), column("b", DataType::Utf8)]);
    for _ in 0..300 {
        let mut body = b"a,b\n".to_vec();
        let mut rows = Vec::new();
        for _ in 0..random.random_range(1..5) {
            let mut field = || -> String {
                (0..random.random_range(1..6))
                    .map(|_| ['x', ',', '"', '\n', '\r', 'é'][random.random_range(0..6)])
                    .collect()
            };
            let row = [field(), field()];
            let quoted = row.clone().map(|text| format!("\"{}\"", text.replace('"', "\"\"")));
            body.extend_from_slice(format!("{},{}\n", quoted[0], quoted[1]).as_bytes());
            rows.push(row);
        }
        let mut decoder = Decoder::new(&schema, ids());
        assert_eq!(decoder.decode(&body, Format::Csv, OnError::Reject, 0).failures, []);
        let batch = decoder.finish();
        let (mut reader, mut out, mut at) = (csv_core::Reader::new(), [0; 64], 0);
        for n in 0..2 + 2 * rows.len() {
            let (_, read, written) = reader.read_field(&body[at..], &mut out);
            at += read;
            if n >= 2 {
                let value = batch.column(n % 2).as_string::<i32>().value(n / 2 - 1);
                assert_eq!(
                    (value.as_bytes(), value),
                    (&out[..written], rows[n / 2 - 1][n % 2].as_str())
                );
            }
        }
    }
}

/// Cuts, doubles, swaps and overwrites; the promises are checked by [`fuzz`].
#[test]
fn damaged_input_breaks_no_promise() {
    let mut random = ChaCha8Rng::seed_from_u64(2026);
    let (every, ids) = (every_type(), ids());
    let json = format!("[{EVERY_TYPE},\n{EVERY_TYPE}]");
    let lines = format!("{EVERY_TYPE}\r\n{{\"int\":1}}{{}}\n{EVERY_TYPE}");
    let csv = "bool,ts,text,json,points,decimal\r\nt,2026-01-01,\"a\"\"\n\",{},[],1\n,,,,,\nf,5,é,\"[1,2]\",\"[{\"\"x\"\":1}]\",2.5\n";
    let log = "1.2.3.4 - bob [17/May/2015:10:05:03 +0000] \"GET /a HTTP/1.1\" 200 5 \"-\" \"A \\\" \\xe9\"\n".repeat(3);
    let inputs = [
        (Format::Json, json.as_bytes(), &every),
        (Format::NdJson, lines.as_bytes(), &every),
        (Format::Csv, csv.as_bytes(), &every),
        (
            Format::CombinedLog,
            log.as_bytes(),
            &super::access_log::tests::requests(),
        ),
    ];
    for (format, input, schema) in inputs {
        fuzz(schema, &ids, input, format);
        for _ in 0..3000 {
            let mut body = input.to_vec();
            for _ in 0..random.random_range(1..4) {
                damage(&mut body, &mut random);
            }
            fuzz(schema, &ids, &body, format);
        }
    }
}

fn damage(body: &mut Vec<u8>, random: &mut ChaCha8Rng) {
    if body.is_empty() {
        return;
    }
    let at = random.random_range(0..body.len());
    let end = (at + random.random_range(1..20)).min(body.len());
    match random.random_range(0..5) {
        0 => body[at] = random.random(),
        1 => body[at] = b"{}[]\",:\\\n0-n\xff "[random.random_range(0..14)],
        2 => drop(body.drain(at..end)),
        3 => body.truncate(at),
        _ => {
            let part = body[at..end].to_vec();
            let to = random.random_range(0..body.len());
            body.splice(to..to, part);
        }
    }
}
