//! The logical plan's node for the right side of a temporal join.

use std::cmp::Ordering;
use std::collections::HashSet;
use std::fmt;

use datafusion::common::{DFSchemaRef, DataFusionError, Result};
use datafusion::logical_expr::{Expr, LogicalPlan, UserDefinedLogicalNodeCore};

/// The rows of `input` as versions: of those with one key a single one is valid at a time.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Versions {
    pub input: LogicalPlan,
    /// What is valid is what is there when it is asked for.
    pub current: bool,
}

impl UserDefinedLogicalNodeCore for Versions {
    fn name(&self) -> &str {
        "Versions"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.input]
    }

    fn schema(&self) -> &DFSchemaRef {
        self.input.schema()
    }

    fn expressions(&self) -> Vec<Expr> {
        Vec::new()
    }

    /// Without a row, one before it would be valid for longer.
    fn prevent_predicate_push_down_columns(&self) -> HashSet<String> {
        let fields = self.input.schema().fields().iter();
        fields.map(|field| field.name().clone()).collect()
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self.current {
            true => "Versions: current",
            false => "Versions: by time",
        })
    }

    fn with_exprs_and_inputs(&self, _: Vec<Expr>, inputs: Vec<LogicalPlan>) -> Result<Self> {
        let Some(input) = inputs.into_iter().next() else {
            return Err(DataFusionError::Internal("versions have one input".to_owned()));
        };
        Ok(Self {
            input,
            current: self.current,
        })
    }

    fn necessary_children_exprs(&self, output_columns: &[usize]) -> Option<Vec<Vec<usize>>> {
        Some(vec![output_columns.to_vec()])
    }
}

impl PartialOrd for Versions {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        match self.current.cmp(&other.current) {
            Ordering::Equal => self.input.partial_cmp(&other.input),
            unequal => Some(unequal),
        }
    }
}
