//! The logical plan's node for rows that last for a time, or whose groups do.

use std::cmp::Ordering;
use std::fmt;

use datafusion::common::{Column, DFSchemaRef, DataFusionError, Result};
use datafusion::logical_expr::{Expr, LogicalPlan, UserDefinedLogicalNodeCore};
use headwater_event::clock::Micros;

use crate::time::describe;

/// The rows of `input`, as they are, that last for `ttl` by `time`. Right below an aggregate its groups do, and end when none of
/// their rows came for so long.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Lasting {
    pub input: LogicalPlan,
    pub time: Column,
    pub ttl: Micros,
}

impl UserDefinedLogicalNodeCore for Lasting {
    fn name(&self) -> &str {
        "Lasting"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.input]
    }

    fn schema(&self) -> &DFSchemaRef {
        self.input.schema()
    }

    fn expressions(&self) -> Vec<Expr> {
        vec![Expr::Column(self.time.clone())]
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "Lasting: {} by {}", describe(self.ttl), self.time.name)
    }

    fn with_exprs_and_inputs(&self, exprs: Vec<Expr>, inputs: Vec<LogicalPlan>) -> Result<Self> {
        match (exprs.into_iter().next(), inputs.into_iter().next()) {
            (Some(Expr::Column(time)), Some(input)) => Ok(Self {
                input,
                time,
                ttl: self.ttl,
            }),
            _ => Err(DataFusionError::Internal(
                "rows of lasting groups have one input and a time column".to_owned(),
            )),
        }
    }

    /// The time column is among the `expressions`.
    fn necessary_children_exprs(&self, output_columns: &[usize]) -> Option<Vec<Vec<usize>>> {
        Some(vec![output_columns.to_vec()])
    }
}

impl PartialOrd for Lasting {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        match (&self.time, self.ttl).partial_cmp(&(&other.time, other.ttl))? {
            Ordering::Equal => self.input.partial_cmp(&other.input),
            unequal => Some(unequal),
        }
    }
}
