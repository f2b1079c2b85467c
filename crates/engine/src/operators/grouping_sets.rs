//! Every row once for each grouping set. What lies in no set is NULL there, and the set's number tells such a NULL
//! from one in the data.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, UInt64Array, new_null_array};
use arrow::compute::concat;
use headwater_event::op::is_changelog;

use super::{Operator, batch_of, evaluate};
use crate::error::Result;
use crate::plan;

pub struct GroupingSets {
    plan: plan::GroupingSets,
}

impl GroupingSets {
    pub fn new(plan: plan::GroupingSets) -> Self {
        Self { plan }
    }

    /// The column, or NULLs in its place, for each of the sets.
    fn in_sets(&self, place: usize, column: &ArrayRef) -> Result<ArrayRef> {
        let nulls = new_null_array(column.data_type(), column.len());
        let each = self.plan.sets.iter().map(|set| match set.groups[place] {
            true => column.as_ref(),
            false => nulls.as_ref(),
        });
        Ok(concat(&each.collect::<Vec<&dyn Array>>())?)
    }
}

impl Operator for GroupingSets {
    fn process(&mut self, batch: RecordBatch, out: &mut Vec<RecordBatch>) -> Result<()> {
        let rows = batch.num_rows();
        let groups = self.plan.groups.iter().map(|group| evaluate(group, &batch));
        let groups = groups.collect::<Result<Vec<_>>>()?;
        let repeated = |column: &ArrayRef| concat(&vec![column.as_ref(); self.plan.sets.len()]);
        let mut columns = batch.columns().iter().map(repeated).collect::<Result<Vec<_>, _>>()?;
        let op = if is_changelog(&self.plan.schema) {
            columns.pop()
        } else {
            None
        };
        for (place, group) in groups.iter().enumerate() {
            columns.push(self.in_sets(place, group)?);
        }
        let ids = self.plan.sets.iter().flat_map(|set| std::iter::repeat_n(set.id, rows));
        columns.push(Arc::new(ids.collect::<UInt64Array>()));
        columns.extend(op);
        out.push(batch_of(&self.plan.schema, columns)?);
        Ok(())
    }
}
