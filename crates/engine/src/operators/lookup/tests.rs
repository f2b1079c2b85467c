use arrow::array::{AsArray, Int64Array, StringArray};
use arrow::datatypes::{DataType, Int64Type};
use async_trait::async_trait;
use datafusion::logical_expr::Operator as Arithmetic;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{binary, col, lit};
use futures::executor::block_on;

use super::*;

/// Has a row for each even number from 0 to 18, `name n`, but that of 8 can't be used.
#[derive(Debug)]
struct Even;

impl Tables for Even {
    fn open(&self, table: &str) -> Option<Arc<dyn Table>> {
        (table == "even-1").then(|| Arc::new(Self) as _)
    }
}

#[async_trait]
impl Table for Even {
    async fn rows(&self, keys: &[ArrayRef]) -> Result<Found> {
        let keys = keys[0].as_primitive::<Int64Type>();
        assert_eq!(keys.null_count(), 0, "NULL is no key");
        let numbers: Int64Array = (0..10).map(|n| Some(2 * n)).collect();
        let names: StringArray = (0..10).map(|n| Some(format!("name {}", 2 * n))).collect();
        let place = |key: Option<i64>| {
            let key = key.filter(|key| key % 2 == 0 && (0..20).contains(key))?;
            u32::try_from(key / 2).ok()
        };
        let is_bad = |(at, key): (usize, Option<i64>)| (key == Some(8)).then(|| (at, "eight".to_owned()));
        Ok(Found {
            rows: vec![Arc::new(numbers), Arc::new(names)],
            places: keys.iter().map(place).collect(),
            unusable: keys.iter().enumerate().filter_map(is_bad).collect(),
        })
    }
}

fn input() -> SchemaRef {
    let field = |name| Field::new(name, DataType::Int64, true);
    Arc::new(Schema::new(vec![field("key"), field("n")]))
}

/// `1 / n < 2`, or nothing.
fn lookup(keeps_unmatched: bool, has_filter: bool) -> Lookup {
    let mut fields: Vec<_> = input().fields().iter().map(|field| Field::clone(field)).collect();
    fields.push(Field::new("name", DataType::Utf8, true));
    let schema = Arc::new(Schema::new(fields));
    let filter = || -> datafusion_common::Result<Arc<dyn PhysicalExpr>> {
        let divided = binary(lit(1_i64), Arithmetic::Divide, col("n", &schema)?, &schema)?;
        binary(divided, Arithmetic::Lt, lit(2_i64), &schema)
    };
    let plan = plan::Lookup {
        table: "even-1".into(),
        keys: vec![0],
        columns: vec![1],
        keeps_unmatched,
        filter: has_filter.then(|| filter().unwrap()),
        schema,
    };
    Lookup::new(plan, Some(&Even)).unwrap()
}

fn process(lookup: &mut Lookup, rows: &[(Option<i64>, i64)]) -> Vec<(i64, Option<String>)> {
    let keys: Int64Array = rows.iter().map(|(key, _)| *key).collect();
    let numbers: Int64Array = rows.iter().map(|(_, n)| Some(*n)).collect();
    let batch = RecordBatch::try_new(input(), vec![Arc::new(keys), Arc::new(numbers)]).unwrap();
    block_on(lookup.wait_for(&batch).unwrap()).unwrap();
    let mut out = Vec::new();
    lookup.process(batch, &mut out).unwrap();
    assert!(out.len() <= 1, "one batch at most");
    let rows = out.iter().flat_map(|batch| {
        let numbers = batch.column(1).as_primitive::<Int64Type>().values().iter();
        let names = batch.column(2).as_string::<i32>().iter();
        numbers.zip(names).map(|(n, name)| (*n, name.map(str::to_owned)))
    });
    rows.collect()
}

fn named(n: i64, key: i64) -> (i64, Option<String>) {
    (n, Some(format!("name {key}")))
}

#[test]
fn rows_without_a_match_are_left_out_or_padded() {
    let rows = [
        (Some(2), 1),
        (None, 2),
        (Some(3), 3),
        (Some(2), 4),
        (Some(18), 5),
        (Some(20), 6),
    ];
    let found = process(&mut lookup(false, false), &rows);
    assert_eq!(found, [named(1, 2), named(4, 2), named(5, 18)]);
    let found = process(&mut lookup(true, false), &rows);
    assert_eq!(
        found,
        [named(1, 2), (2, None), (3, None), named(4, 2), named(5, 18), (6, None)]
    );
    let found = process(&mut lookup(false, false), &[(None, 1), (Some(1), 2)]);
    assert_eq!(found, []);
}

#[test]
fn rows_that_can_not_be_computed_are_set_aside_and_the_others_keep_their_order() {
    let mut lookup = lookup(true, true);
    // 1 / 1 is less than 2; 1 / 0 fails, but where there is no match nothing is asked.
    let rows = [
        (Some(2), 1),
        (Some(4), 0),
        (None, 0),
        (Some(8), 3),
        (Some(6), 4),
        (Some(8), 0),
        (Some(1), 0),
    ];
    let found = process(&mut lookup, &rows);
    assert_eq!(found, [named(1, 2), (0, None), named(4, 6), (0, None)]);
    let rejected = lookup.take_rejected();
    let reasons: Vec<_> = rejected
        .iter()
        .map(|rejected| {
            (
                rejected.reason,
                rejected.rows.column(0).as_primitive::<Int64Type>().value(0),
            )
        })
        .collect();
    assert_eq!(reasons, [("lookup", 8), ("lookup", 8), ("evaluate", 4)]);
}

#[test]
fn nothing_is_processed_that_was_not_looked_up() {
    let mut lookup = lookup(true, false);
    let batch = RecordBatch::new_empty(input());
    assert!(matches!(lookup.process(batch, &mut Vec::new()), Err(Error::Plan(_))));
}
