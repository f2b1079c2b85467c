//! Keeps the rows for which a predicate is true.

use arrow::array::{Array, RecordBatch};
use arrow::compute::{filter_record_batch, prep_null_mask_filter};
use datafusion_common::cast::as_boolean_array;

use super::{Operator, evaluate};
use crate::error::Result;
use crate::plan;

pub struct Filter {
    plan: plan::Filter,
}

impl Filter {
    pub fn new(plan: plan::Filter) -> Self {
        Self { plan }
    }
}

impl Operator for Filter {
    fn process(&mut self, batch: RecordBatch, out: &mut Vec<RecordBatch>) -> Result<()> {
        let keep = evaluate(&self.plan.predicate, &batch)?;
        let keep = as_boolean_array(&keep)?;
        let kept = match keep.true_count() {
            0 => return Ok(()),
            all if all == batch.num_rows() => batch,
            _ if Array::nulls(keep).is_some() => filter_record_batch(&batch, &prep_null_mask_filter(keep))?,
            _ => filter_record_batch(&batch, keep)?,
        };
        out.push(kept);
        Ok(())
    }
}
