//! The logical plan's node for rows that are there several times.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use datafusion::common::{Column, DFSchema, DFSchemaRef, DataFusionError, Result};
use datafusion::logical_expr::{Expr, LogicalPlan, UserDefinedLogicalNodeCore};

/// Each row of `input` as often as its column `count` says, without that column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copies {
    pub input: LogicalPlan,
    pub count: Column,
    schema: DFSchemaRef,
}

impl Copies {
    pub fn new(input: LogicalPlan, count: Column) -> Result<Self> {
        let from = input.schema();
        let at = from.index_of_column(&count)?;
        let fields = from.iter().enumerate().filter(|(place, _)| *place != at);
        let fields = fields.map(|(_, (table, field))| (table.cloned(), Arc::clone(field)));
        let schema = DFSchema::new_with_metadata(fields.collect(), from.metadata().clone())?;
        Ok(Self {
            input,
            count,
            schema: Arc::new(schema),
        })
    }

    pub fn columns(&self) -> &DFSchemaRef {
        &self.schema
    }
}

impl UserDefinedLogicalNodeCore for Copies {
    fn name(&self) -> &str {
        "Copies"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.input]
    }

    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }

    fn expressions(&self) -> Vec<Expr> {
        vec![Expr::Column(self.count.clone())]
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "Copies: {}", self.count)
    }

    fn with_exprs_and_inputs(&self, exprs: Vec<Expr>, inputs: Vec<LogicalPlan>) -> Result<Self> {
        match (exprs.into_iter().next(), inputs.into_iter().next()) {
            (Some(Expr::Column(count)), Some(input)) => Self::new(input, count),
            _ => Err(DataFusionError::Internal(
                "copies have one input and a count".to_owned(),
            )),
        }
    }

    /// The count is among the `expressions`.
    fn necessary_children_exprs(&self, output_columns: &[usize]) -> Option<Vec<Vec<usize>>> {
        let count = self.input.schema().maybe_index_of_column(&self.count)?;
        let below = output_columns.iter().map(|&at| at + usize::from(at >= count));
        Some(vec![below.collect()])
    }
}

impl Hash for Copies {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.input.hash(state);
        self.count.hash(state);
    }
}

impl PartialOrd for Copies {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        match self.count.partial_cmp(&other.count)? {
            Ordering::Equal => self.input.partial_cmp(&other.input),
            unequal => Some(unequal),
        }
    }
}
