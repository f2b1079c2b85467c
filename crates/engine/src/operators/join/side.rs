//! What the plan says of one of the two sides, and how its rows and keys are encoded.

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch};
use arrow::buffer::{BooleanBuffer, NullBuffer, ScalarBuffer};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{DataType, SchemaRef, TimeUnit, TimestampMicrosecondType};
use arrow::row::{RowConverter, SortField};
use bytes::Bytes;

use crate::error::{Error, Result};
use crate::plan;
use crate::plan::JoinKind;
use crate::rows::encode_rows;

pub const LEFT: usize = 0;
pub const RIGHT: usize = 1;

pub struct Side {
    pub role: Role,
    /// Its columns in the input.
    columns: Vec<usize>,
    pub types: Vec<DataType>,
    /// Among its own columns.
    keys: Vec<usize>,
    /// Among its own columns, with a reach.
    time: Option<usize>,
    pub rows: RowConverter,
    encoded_keys: RowConverter,
}

/// What a row of the side is worth to the result on its own, without a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Nothing,
    /// It is part of the result as long as it has no match.
    Unmatched,
    /// It is part of the result as long as it has a match.
    Matched,
}

impl Role {
    pub fn shows(self, matches: u64) -> bool {
        match self {
            Self::Nothing => false,
            Self::Unmatched => matches == 0,
            Self::Matched => matches > 0,
        }
    }

    /// Whether the number of its matches makes a difference.
    pub fn is_counted(self) -> bool {
        self != Self::Nothing
    }
}

impl Side {
    pub fn both(plan: &plan::Join, input: &SchemaRef) -> Result<[Self; 2]> {
        let (left, right) = match plan.kind {
            JoinKind::Inner => (Role::Nothing, Role::Nothing),
            JoinKind::Left | JoinKind::LeftAnti => (Role::Unmatched, Role::Nothing),
            JoinKind::Right => (Role::Nothing, Role::Unmatched),
            JoinKind::Full => (Role::Unmatched, Role::Unmatched),
            JoinKind::LeftSemi => (Role::Matched, Role::Nothing),
        };
        let sides = [
            Self::new(&plan.left, left, plan.reach.map(|reach| reach.left), input)?,
            Self::new(&plan.right, right, plan.reach.map(|reach| reach.right), input)?,
        ];
        if sides[LEFT].key_types() != sides[RIGHT].key_types() || sides[LEFT].keys.is_empty() {
            return Err(Error::Plan("the keys of a join are not of the same types".to_owned()));
        }
        Ok(sides)
    }

    fn new(plan: &plan::JoinSide, role: Role, time: Option<usize>, input: &SchemaRef) -> Result<Self> {
        let columns = plan.columns.iter();
        let types: Vec<DataType> = columns.map(|&column| input.field(column).data_type().clone()).collect();
        if time.is_some_and(|time| !matches!(types[time], DataType::Timestamp(TimeUnit::Microsecond, _))) {
            return Err(Error::Plan("the times of a join are not in microseconds".to_owned()));
        }
        let converter = |types: Vec<DataType>| {
            RowConverter::new(types.into_iter().map(SortField::new).collect())
                .map_err(|error| Error::Plan(format!("a join can't keep its rows: {error}")))
        };
        Ok(Self {
            role,
            columns: plan.columns.clone(),
            keys: plan.keys.clone(),
            time,
            rows: converter(types.clone())?,
            encoded_keys: converter(plan.keys.iter().map(|&key| types[key].clone()).collect())?,
            types,
        })
    }

    pub fn key_types(&self) -> Vec<DataType> {
        self.keys.iter().map(|&key| self.types[key].clone()).collect()
    }

    /// Of rows of the input.
    pub fn columns_of(&self, input: &RecordBatch) -> Vec<ArrayRef> {
        let columns = self.columns.iter();
        columns.map(|&column| input.column(column).clone()).collect()
    }

    /// Of the side's columns.
    pub fn keys_of(&self, columns: &[ArrayRef]) -> Vec<ArrayRef> {
        self.keys.iter().map(|&key| columns[key].clone()).collect()
    }

    /// Of the side's columns; nothing without a reach.
    pub fn times_of(&self, columns: &[ArrayRef]) -> ScalarBuffer<i64> {
        match self.time {
            Some(time) => columns[time]
                .as_primitive::<TimestampMicrosecondType>()
                .values()
                .clone(),
            None => ScalarBuffer::default(),
        }
    }

    pub fn encode_keys(&self, keys: &[ArrayRef], rows: usize, prefix: u8) -> Result<Vec<Bytes>> {
        Ok(encode_rows(&self.encoded_keys, keys, rows, &[prefix])?)
    }

    pub fn decode<'a>(&self, rows: impl Iterator<Item = &'a [u8]>) -> Result<Vec<ArrayRef>> {
        let parser = self.rows.parser();
        let decoded = self.rows.convert_rows(rows.map(|row| parser.parse(row)));
        decoded.map_err(|error| Error::State {
            place: "a join".to_owned(),
            what: error.to_string(),
        })
    }

    /// The rows that can have a match, and those that can't, because a part of their key or their time is NULL.
    pub fn split(&self, input: RecordBatch) -> Result<(RecordBatch, Option<RecordBatch>)> {
        let needed = self.keys.iter().chain(&self.time);
        let nulls = needed.fold(None, |nulls, &column| {
            let column = input.column(self.columns[column]);
            NullBuffer::union(nulls.as_ref(), column.logical_nulls().as_ref())
        });
        let Some(nulls) = nulls.filter(|nulls| nulls.null_count() > 0) else {
            return Ok((input, None));
        };
        let of = |rows: BooleanBuffer| filter_record_batch(&input, &BooleanArray::new(rows, None));
        Ok((of(nulls.inner().clone())?, Some(of(!nulls.inner())?)))
    }
}
