//! Random events, written at random, read by us and by `serde_json`: the same rows.

use proptest::prelude::*;
use serde_json::{Map, Number, Value, json};

use crate::calendar;
use crate::decode::tests::{every_type, ids};
use crate::decode::{Decoder, Format, OnError};
use crate::encode;

fn text() -> impl Strategy<Value = String> {
    prop_oneof!["[a-z]{0,20}", ".{0,20}", "[\"\\\\/\u{0}-\u{20}é😀]{0,12}"]
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        text().prop_map(Value::from)
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(text(), inner, 0..4).prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

fn point() -> impl Strategy<Value = Value> {
    (any::<i32>(), prop::option::of(text())).prop_map(|(x, y)| json!({"x": x, "y": y}))
}

fn timestamp() -> impl Strategy<Value = Value> {
    (calendar::MICROS_MIN..=calendar::MICROS_MAX).prop_map(|micros| {
        let mut text = Vec::new();
        calendar::write_timestamp(micros, 1_000_000, &mut text);
        Value::from(String::from_utf8(text).unwrap())
    })
}

/// An event as the encoder writes it: that is the simple conversion that both must agree on.
fn event() -> impl Strategy<Value = Map<String, Value>> {
    let double = any::<f64>()
        .prop_filter_map("a number", Number::from_f64)
        .prop_map(Value::from);
    let values = (
        any::<bool>().prop_map(Value::from),
        any::<i16>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        double,
        timestamp(),
        text().prop_map(Value::from),
        any_json(),
        point(),
        prop::collection::vec(prop::option::of(point()), 0..4).prop_map(|points| json!(points)),
    );
    let names = [
        "bool", "small", "int", "big", "double", "ts", "text", "json", "point", "points",
    ];
    (values, any::<u16>()).prop_map(move |((a, b, c, d, e, f, g, h, i, j), present)| {
        let fields = names.into_iter().zip([a, b, c, d, e, f, g, h, i, j]).enumerate();
        let fields = fields.filter(|(n, _)| present >> n & 1 == 1);
        fields.map(|(_, (name, value))| (name.to_owned(), value)).collect()
    })
}

/// Writes `value` with whitespace, escapes and order of fields drawn from `choices`.
fn write(value: &Value, top: bool, choices: &mut impl Iterator<Item = u8>, out: &mut String) {
    let mut next = || choices.next().unwrap_or(0);
    let space = |choice: u8, out: &mut String| out.push_str(["", "", "", " ", "\t ", " \r"][usize::from(choice) % 6]);
    match value {
        Value::String(text) => {
            out.push('"');
            for c in text.chars() {
                match next() % 4 {
                    0 => c
                        .encode_utf16(&mut [0; 2])
                        .iter()
                        .for_each(|unit| out.push_str(&format!("\\u{unit:04X}"))),
                    _ => {
                        let quoted = serde_json::to_string(&c).unwrap();
                        out.push_str(&quoted[1..quoted.len() - 1]);
                    }
                }
            }
            out.push('"');
        }
        Value::Array(items) => {
            out.push('[');
            for (n, item) in items.iter().enumerate() {
                out.push_str(if n > 0 { "," } else { "" });
                space(choices.next().unwrap_or(0), out);
                write(item, false, choices, out);
                space(choices.next().unwrap_or(0), out);
            }
            out.push(']');
        }
        Value::Object(fields) => {
            let mut fields: Vec<_> = fields.iter().collect();
            if top && !fields.is_empty() {
                let turn = usize::from(next()) % fields.len();
                fields.rotate_left(turn);
            }
            out.push('{');
            for (n, (name, value)) in fields.into_iter().enumerate() {
                out.push_str(if n > 0 { "," } else { "" });
                space(choices.next().unwrap_or(0), out);
                write(&Value::from(name.as_str()), false, choices, out);
                space(choices.next().unwrap_or(0), out);
                out.push(':');
                space(choices.next().unwrap_or(0), out);
                write(value, false, choices, out);
            }
            out.push('}');
        }
        other => out.push_str(&other.to_string()),
    }
}

proptest! {
    #[test]
    fn reads_what_serde_json_reads(
        events in prop::collection::vec(event(), 1..8),
        choices in prop::collection::vec(any::<u8>(), 0..400),
        lines in any::<bool>(),
    ) {
        let mut choices = choices.into_iter().cycle().take(100_000);
        let mut body = String::new();
        for (n, event) in events.iter().enumerate() {
            body.push_str(match (lines, n) { (true, 0) => "", (true, _) => "\n", (false, 0) => "[", (false, _) => "," });
            write(&Value::Object(event.clone()), true, &mut choices, &mut body);
        }
        body.push_str(if lines { "" } else { "]" });
        let format = if lines { Format::NdJson } else { Format::Json };

        let mut decoder = Decoder::new(&every_type(), ids());
        let decoded = decoder.decode(body.as_bytes(), format, OnError::Reject, 0);
        prop_assert_eq!(decoded.failures, vec![], "{}", body);
        let mut out = Vec::new();
        encode::json_lines(&decoder.finish(), &mut out).unwrap();

        let written: Vec<Value> = out.split(|&byte| byte == b'\n').filter(|line| !line.is_empty())
            .map(|line| serde_json::from_slice(line).unwrap()).collect();
        let read: Vec<Map<String, Value>> = match lines {
            true => serde_json::Deserializer::from_str(&body).into_iter().map(Result::unwrap).collect(),
            false => serde_json::from_str(&body).unwrap(),
        };
        prop_assert_eq!(written.len(), read.len());
        for (written, read) in written.iter().zip(&read) {
            for column in every_type().columns {
                let expected = read.get(&column.name).unwrap_or(&Value::Null);
                prop_assert_eq!(&written[&column.name], expected, "{}", column.name);
            }
        }
    }
}
