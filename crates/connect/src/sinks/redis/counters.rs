//! Counters of one transaction. Their values are looked up first, so that none overflows when the transaction is carried out.

use std::collections::HashMap;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type};
use arrow::error::ArrowError;
use headwater_event::changes::OP;
use headwater_event::op::Op;
use redis::{Pipeline, Value, from_redis_value};

use crate::sinks::redis::connection::Session;
use crate::source::Error;

/// By their keys.
#[derive(Default)]
pub(super) struct Counters(HashMap<Vec<u8>, Counter>);

enum Counter {
    /// What it holds, and what is to be added.
    Adds { value: i64, added: i64 },
    /// Why nothing can be.
    Refuses(String),
}

/// What rows add to their counters.
pub(super) struct Amounts<'a> {
    values: Option<ArrayRef>,
    ops: Option<&'a ArrayRef>,
}

impl Counters {
    /// Looks up those that the transaction has not met yet.
    pub(super) async fn learn(
        &mut self,
        session: &mut Session,
        keys: impl Iterator<Item = &Vec<u8>>,
    ) -> Result<(), Error> {
        let mut new: Vec<&Vec<u8>> = keys.filter(|key| !self.0.contains_key(*key)).collect();
        new.sort_unstable();
        new.dedup();
        let values = session.ask("GET", &new).await?;
        for (key, value) in new.into_iter().zip(values) {
            let name = String::from_utf8_lossy(key);
            let number = value.map(|value| match value {
                Value::Nil => Some(0),
                value => from_redis_value::<i64>(value).ok(),
            });
            let counter = match number {
                Ok(Some(value)) => Counter::Adds { value, added: 0 },
                Ok(None) => Counter::Refuses(format!("the key {name} holds no whole number")),
                Err(_) => Counter::Refuses(format!("the key {name} holds another type than a counter")),
            };
            self.0.insert(key.clone(), counter);
        }
        Ok(())
    }

    /// Adds to a counter that was looked up, or says why that can't be. No amount is one that is too large.
    pub(super) fn count(&mut self, key: &[u8], amount: Option<i64>) -> Result<(), String> {
        let name = String::from_utf8_lossy(key);
        match self.0.get_mut(key) {
            Some(Counter::Adds { value, added }) => {
                let sum = amount.and_then(|amount| added.checked_add(amount));
                let sum = sum.filter(|sum| value.checked_add(*sum).is_some());
                *added = sum.ok_or_else(|| format!("the counter {name} would overflow"))?;
                Ok(())
            }
            Some(Counter::Refuses(why)) => Err(why.clone()),
            None => Err(format!("the counter {name} is not known")),
        }
    }

    /// Makes commands of them.
    pub(super) fn drain(&mut self, commands: &mut Pipeline, ttl_ms: Option<i64>) {
        for (key, counter) in self.0.drain() {
            let Counter::Adds { added, .. } = counter else { continue };
            if added == 0 {
                continue;
            }
            commands.cmd("INCRBY").arg(&key).arg(added);
            if let Some(ttl_ms) = ttl_ms {
                commands.cmd("PEXPIRE").arg(&key).arg(ttl_ms);
            }
        }
    }
}

impl<'a> Amounts<'a> {
    /// Of a column of whole numbers, or of the rows themselves.
    pub(super) fn new(rows: &'a RecordBatch, column: Option<usize>) -> Result<Self, ArrowError> {
        let values = column.map(|column| cast(rows.column(column), &DataType::Int64));
        Ok(Self {
            values: values.transpose()?,
            ops: rows.column_by_name(OP),
        })
    }

    /// A row of a view that goes counts down; NULL counts nothing.
    pub(super) fn get(&self, row: usize) -> Option<i64> {
        let amount = match &self.values {
            Some(values) if values.is_null(row) => 0,
            Some(values) => values.as_primitive::<Int64Type>().value(row),
            None => 1,
        };
        let goes = |op: &str| op == Op::Delete.name() || op == Op::UpdateBefore.name();
        match self.ops.is_some_and(|ops| goes(ops.as_string::<i32>().value(row))) {
            true => amount.checked_neg(),
            false => Some(amount),
        }
    }
}
