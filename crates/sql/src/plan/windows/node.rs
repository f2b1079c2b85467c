//! The logical plan's node for windows in FROM.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::datatypes::{Field, FieldRef};
use datafusion::common::{Column, DFSchema, DFSchemaRef, DataFusionError, ExprSchema, Result, TableReference};
use datafusion::logical_expr::{Expr, LogicalPlan, UserDefinedLogicalNodeCore};
use headwater_engine::plan::Window;

use crate::plan::windows::{WINDOW_COLUMNS, passed};
use crate::time::describe_window;

/// Each row of `input` once for every window that holds its time, with the window's columns after
/// its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Windows {
    pub input: LogicalPlan,
    pub time: Column,
    pub window: Window,
    schema: DFSchemaRef,
}

impl Windows {
    pub fn new(input: LogicalPlan, time: Column, window: Window) -> Result<Self> {
        let from = input.schema();
        let time_type = from.field_from_column(&time)?.data_type().clone();
        let mut fields: Vec<(Option<TableReference>, FieldRef)> = passed(from)
            .into_iter()
            .map(|at| {
                let (relation, field) = from.qualified_field(at);
                (relation.cloned(), Arc::clone(field))
            })
            .collect();
        let added = WINDOW_COLUMNS.map(|name| {
            let field = Arc::new(Field::new(name, time_type.clone(), false));
            (time.relation.clone(), field)
        });
        fields.extend(added);
        let schema = DFSchema::new_with_metadata(fields, DFSchema::metadata(from).clone())?;
        Ok(Self {
            input,
            time,
            window,
            schema: Arc::new(schema),
        })
    }

    /// The windows' own columns, qualified as the plan has them.
    pub fn columns(&self) -> [Column; 3] {
        WINDOW_COLUMNS.map(|name| Column::new(self.time.relation.clone(), name))
    }
}

impl UserDefinedLogicalNodeCore for Windows {
    fn name(&self) -> &str {
        "Windows"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.input]
    }

    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }

    fn expressions(&self) -> Vec<Expr> {
        vec![Expr::Column(self.time.clone())]
    }

    fn prevent_predicate_push_down_columns(&self) -> std::collections::HashSet<String> {
        WINDOW_COLUMNS.map(str::to_owned).into()
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "Windows: {} by {}", describe_window(self.window), self.time.name)
    }

    fn with_exprs_and_inputs(&self, exprs: Vec<Expr>, inputs: Vec<LogicalPlan>) -> Result<Self> {
        let (Some(input), Some(Expr::Column(time))) = (inputs.into_iter().next(), exprs.into_iter().next()) else {
            return Err(DataFusionError::Internal(
                "windows have one input and a time column".to_owned(),
            ));
        };
        Self::new(input, time, self.window)
    }

    fn necessary_children_exprs(&self, output_columns: &[usize]) -> Option<Vec<Vec<usize>>> {
        let passed = passed(self.input.schema());
        // The time column is needed as well, but it is one of `expressions`.
        let needed = output_columns.iter().filter_map(|&at| passed.get(at).copied());
        Some(vec![needed.collect()])
    }
}

impl Hash for Windows {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.input.hash(state);
        self.time.hash(state);
        (self.window.size, self.window.slide, self.window.offset).hash(state);
    }
}

impl PartialOrd for Windows {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        let key = |node: &Self| (node.window.size, node.window.slide, node.window.offset);
        match key(self).cmp(&key(other)) {
            Ordering::Equal if self == other => Some(Ordering::Equal),
            Ordering::Equal => self.input.partial_cmp(&other.input).filter(|order| order.is_ne()),
            unequal => Some(unequal),
        }
    }
}
