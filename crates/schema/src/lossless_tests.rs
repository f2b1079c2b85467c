//! Tests of casts that lose nothing.

use arrow::array::*;

use super::*;

fn column(name: &str, data_type: DataType, nullable: bool) -> Column {
    Column {
        name: name.to_owned(),
        data_type,
        json: false,
        nullable,
        default: None,
    }
}

fn stream(columns: Vec<Column>) -> EventSchema {
    EventSchema {
        columns,
        unknown_fields: UnknownFields::Reject,
    }
}

/// What becomes of values in a column of this type: how they are written, with `-` for those that don't fit.
fn fitted(values: impl Array + 'static, to: DataType) -> Vec<String> {
    let values: ArrayRef = Arc::new(values);
    let rows = RecordBatch::try_from_iter_with_nullable([("a", values, true)]).unwrap();
    let fit = Fit::new(&stream(vec![column("a", to, true)]), rows.schema_ref()).unwrap();
    let (good, misfits) = fit.apply(&rows).unwrap();
    assert_eq!(good.num_rows() + misfits.len(), rows.num_rows());
    let mut good = (0..good.num_rows()).map(|row| {
        let mut text = Vec::new();
        crate::encode::json_object(&good, row, &mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        text["{\"a\":".len()..text.len() - 1].to_owned()
    });
    (0..rows.num_rows())
        .map(|row| match misfits.iter().any(|misfit| misfit.row == row) {
            true => "-".to_owned(),
            false => good.next().unwrap(),
        })
        .collect()
}

#[test]
fn numbers_keep_their_value_or_do_not_fit() {
    let big = i64::from(i32::MAX) + 1;
    let numbers = Int64Array::from(vec![Some(1), None, Some(big), Some(-5)]);
    assert_eq!(fitted(numbers, DataType::Int32), ["1", "null", "-", "-5"]);
    let unsigned = UInt64Array::from(vec![7, u64::MAX]);
    assert_eq!(fitted(unsigned, DataType::Int64), ["7", "-"]);
    let numbers = Int64Array::from(vec![3, (1 << 53) + 1, i64::MAX]);
    assert_eq!(fitted(numbers, DataType::Float64), ["3.0", "-", "-"]);
    let numbers = Int32Array::from(vec![12, 1000]);
    assert_eq!(fitted(numbers, DataType::Decimal128(5, 2)), ["12.00", "-"]);
    let decimals = Decimal128Array::from(vec![1500, 1234])
        .with_precision_and_scale(10, 3)
        .unwrap();
    assert_eq!(fitted(decimals, DataType::Decimal128(10, 2)), ["1.50", "-"]);
    assert_eq!(fitted(Float32Array::from(vec![0.5]), DataType::Float64), ["0.5"]);
}

#[test]
fn times_are_instants() {
    let micros = DataType::Timestamp(TimeUnit::Microsecond, None);
    let nanos = TimestampNanosecondArray::from(vec![1_000, 1_001]).with_timezone("+02:00");
    assert_eq!(fitted(nanos, micros.clone()), ["\"1970-01-01T00:00:00.000001Z\"", "-"]);
    let zoned = DataType::Timestamp(TimeUnit::Microsecond, Some("+00:00".into()));
    let seconds = TimestampSecondArray::from(vec![Some(60), None, Some(i64::MAX)]);
    assert_eq!(fitted(seconds, zoned), ["\"1970-01-01T00:01:00Z\"", "null", "-"]);
    assert_eq!(fitted(Date32Array::from(vec![1]), micros), ["\"1970-01-02T00:00:00Z\""]);
    let clock = Time64NanosecondArray::from(vec![1_000_000_000, 1]);
    let to = DataType::Time64(TimeUnit::Microsecond);
    assert_eq!(fitted(clock, to), ["\"00:00:01\"", "-"]);
}

#[test]
fn texts_bytes_and_lists() {
    assert_eq!(fitted(LargeStringArray::from(vec!["a"]), DataType::Utf8), ["\"a\""]);
    let dictionary: DictionaryArray<arrow::datatypes::Int8Type> = vec!["x", "y", "x"].into_iter().collect();
    assert_eq!(fitted(dictionary, DataType::Utf8), ["\"x\"", "\"y\"", "\"x\""]);
    let list = ListArray::from_iter_primitive::<arrow::datatypes::Int32Type, _, _>([
        Some(vec![Some(1), None]),
        None,
        Some(vec![Some(2)]),
    ]);
    let strict = DataType::List(Arc::new(Field::new("element", DataType::Int64, false)));
    assert_eq!(fitted(list.clone(), strict), ["-", "null", "[2]"]);
    let loose = DataType::List(Arc::new(Field::new("element", DataType::Int64, true)));
    assert_eq!(fitted(list, loose), ["[1,null]", "null", "[2]"]);
}

#[test]
fn what_can_not_be_is_said() {
    let file = Schema::new(vec![
        Field::new("id", DataType::Float64, true),
        Field::new("more", DataType::Int64, true),
    ]);
    let refused = |columns| Fit::new(&stream(columns), &file).unwrap_err();
    let id = column("id", DataType::Int64, false);
    let more = column("more", DataType::Int64, true);
    assert_eq!(
        refused(vec![id.clone(), more.clone()]),
        "the column id is DOUBLE, and BIGINT is expected: no cast keeps every value"
    );
    let id = column("id", DataType::Float64, false);
    let missing = column("at", DataType::Date32, false);
    assert_eq!(
        refused(vec![id.clone(), more, missing]),
        "there is no column at, which is DATE NOT NULL; there are id, more"
    );
    assert!(
        refused(vec![id, column("mores", DataType::Int64, true)]).contains("no column for more; did you mean mores?")
    );
}

#[test]
fn null_and_bad_json_do_not_fit() {
    let texts: ArrayRef = Arc::new(StringArray::from(vec![Some("{\"a\":1}"), None, Some("{")]));
    let rows = RecordBatch::try_from_iter_with_nullable([("payload", texts, true)]).unwrap();
    let payload = Column {
        json: true,
        ..column("payload", DataType::Utf8, false)
    };
    let fit = Fit::new(&stream(vec![payload]), rows.schema_ref()).unwrap();
    let (good, misfits) = fit.apply(&rows).unwrap();
    assert_eq!(good.num_rows(), 1);
    let details: Vec<_> = misfits
        .iter()
        .map(|misfit| (misfit.row, misfit.detail.as_str()))
        .collect();
    assert_eq!(
        details,
        [
            (1, "payload: expected JSON NOT NULL, found NULL"),
            (2, "payload: expected JSON NOT NULL, found \"{\"")
        ]
    );
}
