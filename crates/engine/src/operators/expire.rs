//! Rows that come, and go again when the watermark is so far beyond their time: a changelog of rows that only came.
//!
//! They wait for that like others for the watermark itself (see [`super::pending`], which is all of the state).

use std::sync::Arc;

use arrow::array::{Int8Array, RecordBatch};
use arrow::datatypes::SchemaRef;
use headwater_event::clock::Micros;
use headwater_event::op::Op;

use super::pending::Pending;
use super::{Operator, Rejected, Saved, StateChanges, batch_of, split_by_time};
use crate::error::Result;
use crate::holdings::Held;
use crate::plan;

pub struct Expire {
    plan: plan::Expire,
    pending: Pending,
    rejected: Vec<Rejected>,
}

impl Expire {
    pub fn new(plan: plan::Expire, input: SchemaRef) -> Self {
        Self {
            pending: Pending::new(input, plan.time_column),
            rejected: Vec::new(),
            plan,
        }
    }

    /// The time below which rows have gone: they go when the watermark reaches their end.
    fn gone_below(&self, watermark: Micros) -> Micros {
        watermark.saturating_sub(self.plan.ttl).saturating_add(1)
    }

    fn changes_of(&self, rows: &RecordBatch, op: Op) -> Result<RecordBatch> {
        let mut columns = rows.columns().to_vec();
        columns.push(Arc::new(Int8Array::from_value(op as i8, rows.num_rows())));
        batch_of(&self.plan.schema, columns)
    }
}

impl Operator for Expire {
    fn process(&mut self, batch: RecordBatch, out: &mut Vec<RecordBatch>) -> Result<()> {
        let (rows, without) = split_by_time(batch, self.plan.time_column)?;
        self.rejected.extend(without.map(Rejected::without_time));
        if rows.num_rows() > 0 {
            out.push(self.changes_of(&rows, Op::Insert)?);
            self.pending.add(rows, None)?;
        }
        Ok(())
    }

    fn advance(&mut self, watermark: Micros, out: &mut Vec<RecordBatch>) -> Result<()> {
        if let Some(gone) = self.pending.take_ready(self.gone_below(watermark))? {
            out.push(self.changes_of(&gone, Op::Delete)?);
        }
        Ok(())
    }

    fn changes(&mut self, changes: &mut StateChanges) -> Result<()> {
        self.pending.take_changes(changes)
    }

    fn restore(&mut self, saved: &Saved) -> Result<()> {
        self.pending.restore(&Saved {
            watermark: saved.watermark.map(|watermark| self.gone_below(watermark)),
            ..saved.clone()
        })
    }

    fn held(&self) -> Held {
        Held::whole(self.pending.len(), self.pending.bytes())
    }

    fn take_rejected(&mut self) -> Vec<Rejected> {
        std::mem::take(&mut self.rejected)
    }
}
