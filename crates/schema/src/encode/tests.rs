//! Tests of writing the types that queries make.

use std::sync::Arc;

use arrow::array::*;
use arrow::buffer::OffsetBuffer;
use arrow::compute::cast;
use arrow::datatypes::*;

use super::*;

fn written(array: ArrayRef) -> String {
    let batch = RecordBatch::try_from_iter([("a", array)]).unwrap();
    let mut out = Vec::new();
    json_array(&batch, &mut out).unwrap();
    let rows: Vec<serde_json::Value> = serde_json::from_slice(&out).expect("what is written is JSON");
    assert_eq!(rows.len(), batch.num_rows());
    String::from_utf8(out).unwrap().replace("{\"a\":", "").replace('}', "")
}

#[test]
fn every_kind_of_number() {
    let numbers: ArrayRef = Arc::new(Int32Array::from(vec![Some(1), None, Some(100)]));
    for data_type in [
        DataType::Int8,
        DataType::Int16,
        DataType::Int64,
        DataType::UInt8,
        DataType::UInt16,
        DataType::UInt32,
        DataType::UInt64,
    ] {
        assert_eq!(written(cast(&numbers, &data_type).unwrap()), "[1,null,100]");
    }
    for data_type in [DataType::Float16, DataType::Float32, DataType::Float64] {
        assert_eq!(written(cast(&numbers, &data_type).unwrap()), "[1.0,null,100.0]");
    }
    for data_type in [
        DataType::Decimal32(6, 2),
        DataType::Decimal64(6, 2),
        DataType::Decimal128(6, 2),
        DataType::Decimal256(6, 2),
    ] {
        assert_eq!(
            written(cast(&numbers, &data_type).unwrap()).replace('"', ""),
            "[1.00,null,100.00]"
        );
    }
    let none = Float64Array::from(vec![f64::NAN, f64::INFINITY, -0.5]);
    assert_eq!(written(Arc::new(none)), "[null,null,-0.5]");
}

#[test]
fn every_kind_of_text_and_bytes() {
    let texts: ArrayRef = Arc::new(StringArray::from(vec![Some("a\"b"), None, Some("")]));
    let dictionary = DataType::Dictionary(Box::new(DataType::Int8), Box::new(DataType::Utf8));
    for data_type in [DataType::Utf8, DataType::LargeUtf8, DataType::Utf8View, dictionary] {
        assert_eq!(written(cast(&texts, &data_type).unwrap()), r#"["a\"b",null,""]"#);
    }
    let bytes: ArrayRef = Arc::new(BinaryArray::from_opt_vec(vec![Some(b"foo"), None]));
    for data_type in [
        DataType::Binary,
        DataType::LargeBinary,
        DataType::BinaryView,
        DataType::FixedSizeBinary(3),
    ] {
        assert_eq!(written(cast(&bytes, &data_type).unwrap()), r#"["Zm9v",null]"#);
    }
}

#[test]
fn every_kind_of_time() {
    let seconds: ArrayRef = Arc::new(TimestampSecondArray::from(vec![Some(86_400), None, Some(-1)]));
    for unit in [
        TimeUnit::Second,
        TimeUnit::Millisecond,
        TimeUnit::Microsecond,
        TimeUnit::Nanosecond,
    ] {
        for zone in [None, Some("+02:00".into())] {
            let zoned = cast(&seconds, &DataType::Timestamp(unit, None)).unwrap();
            let zoned = match zone {
                None => zoned,
                Some(_) => cast(
                    &cast(&zoned, &DataType::Timestamp(unit, Some("UTC".into()))).unwrap(),
                    &DataType::Timestamp(unit, zone),
                )
                .unwrap(),
            };
            assert_eq!(
                written(zoned),
                r#"["1970-01-02T00:00:00Z",null,"1969-12-31T23:59:59Z"]"#
            );
        }
    }
    assert_eq!(written(Arc::new(Date32Array::from(vec![1]))), r#"["1970-01-02"]"#);
    assert_eq!(
        written(Arc::new(Date64Array::from(vec![86_400_000]))),
        r#"["1970-01-02"]"#
    );
    assert_eq!(written(Arc::new(Time32SecondArray::from(vec![1]))), r#"["00:00:01"]"#);
    assert_eq!(
        written(Arc::new(Time32MillisecondArray::from(vec![1]))),
        r#"["00:00:00.001"]"#
    );
    assert_eq!(
        written(Arc::new(Time64MicrosecondArray::from(vec![1]))),
        r#"["00:00:00.000001"]"#
    );
    assert_eq!(
        written(Arc::new(Time64NanosecondArray::from(vec![1]))),
        r#"["00:00:00.000000001"]"#
    );
    let interval = IntervalMonthDayNano::new(1, 2, 3_500_000_000);
    assert_eq!(
        written(Arc::new(IntervalMonthDayNanoArray::from(vec![interval]))),
        r#"["1 mons 2 days 3.500000000 secs"]"#
    );
    assert!(written(Arc::new(DurationSecondArray::from(vec![5]))).contains('5'));
}

#[test]
fn every_kind_of_nesting() {
    let numbers: ArrayRef = Arc::new(Int32Array::from(vec![1, 2, 3]));
    let item = Arc::new(Field::new("item", DataType::Int32, true));
    let offsets = OffsetBuffer::new(vec![0, 2, 2, 3].into());
    let nulls = Some(vec![true, false, true].into());
    let list: ArrayRef = Arc::new(ListArray::new(Arc::clone(&item), offsets, numbers, nulls));
    assert_eq!(written(Arc::clone(&list)), "[[1,2],null,[3]]");
    assert_eq!(written(list.slice(1, 2)), "[null,[3]]");
    assert_eq!(
        written(cast(&list, &DataType::LargeList(item)).unwrap()),
        "[[1,2],null,[3]]"
    );
    let mut map = MapBuilder::new(None, StringBuilder::new(), Int32Builder::new());
    map.keys().append_value("k");
    map.values().append_value(1);
    map.append(true).unwrap();
    assert_eq!(written(Arc::new(map.finish())), "[{\"k\":1]");
    assert_eq!(written(Arc::new(NullArray::new(2))), "[null,null]");
}

#[test]
fn json_text_stays_on_one_line_and_is_json() {
    let json = Field::new("a", DataType::Utf8, true)
        .with_metadata([(crate::column::TYPE_KEY.to_owned(), crate::column::TYPE_JSON.to_owned())].into());
    let texts = StringArray::from(vec!["{\n\"b\": 1}", "not json"]);
    let batch = RecordBatch::try_new(Arc::new(Schema::new(vec![json])), vec![Arc::new(texts)]).unwrap();
    let mut out = Vec::new();
    json_lines(&batch, &mut out).unwrap();
    assert_eq!(
        String::from_utf8(out).unwrap(),
        "{\"a\":{ \"b\": 1}}\n{\"a\":\"not json\"}\n"
    );
}

#[test]
fn csv_quotes_what_needs_it() {
    let texts: ArrayRef = Arc::new(StringArray::from(vec![
        Some("a"),
        None,
        Some(""),
        Some("b,\"c\"\n"),
        Some(" d"),
    ]));
    let numbers: ArrayRef = Arc::new(Float64Array::from(vec![
        Some(1.0),
        None,
        Some(f64::NAN),
        Some(2.5),
        Some(0.0),
    ]));
    let batch = RecordBatch::try_from_iter([("t", texts), ("n,", numbers)]).unwrap();
    let mut out = Vec::new();
    csv(&batch, true, &mut out).unwrap();
    let expected = "t,\"n,\"\r\na,1.0\r\n,\r\n\"\",\r\n\"b,\"\"c\"\"\n\",2.5\r\n\" d\",0.0\r\n";
    assert_eq!(String::from_utf8(out).unwrap(), expected);
}
