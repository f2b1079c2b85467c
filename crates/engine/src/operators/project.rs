//! Computes columns.

use arrow::array::{RecordBatch, RecordBatchOptions};

use super::{Operator, batch_of, evaluate};
use crate::error::Result;
use crate::plan;

pub struct Project {
    plan: plan::Project,
}

impl Project {
    pub fn new(plan: plan::Project) -> Self {
        Self { plan }
    }
}

impl Operator for Project {
    fn process(&mut self, batch: RecordBatch, out: &mut Vec<RecordBatch>) -> Result<()> {
        if self.plan.expressions.is_empty() {
            let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
            let schema = self.plan.schema.clone();
            out.push(RecordBatch::try_new_with_options(schema, Vec::new(), &options)?);
            return Ok(());
        }
        let columns = self
            .plan
            .expressions
            .iter()
            .map(|expression| evaluate(expression, &batch));
        out.push(batch_of(&self.plan.schema, columns.collect::<Result<_>>()?)?);
        Ok(())
    }
}
