//! The logical plan's node for windows in FROM.

use std::cmp::Ordering;
use std::collections::HashSet;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::datatypes::{Field, FieldRef};
use datafusion::common::{Column, DFSchema, DFSchemaRef, DataFusionError, ExprSchema, Result, TableReference};
use datafusion::logical_expr::{Expr, LogicalPlan, UserDefinedLogicalNodeCore};
use headwater_engine::plan::Window;
use headwater_event::clock::Micros;

use crate::plan::windows::{WINDOW_COLUMNS, passed};
use crate::time::{describe, describe_window};

/// What windows rows are in.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd)]
pub enum Spans {
    /// Those that begin and end at times known before any row.
    Aligned(Window),
    Sessions(Sessions),
}

/// A window for every stretch of rows with the same values in some columns, each row closer than
/// `gap` to the next.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd)]
pub struct Sessions {
    pub partition_by: Vec<Column>,
    pub gap: Micros,
}

/// Each row of `input` once for every window that holds its time, with the window's columns after
/// its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Windows {
    pub input: LogicalPlan,
    pub time: Column,
    pub spans: Spans,
    schema: DFSchemaRef,
}

impl Spans {
    fn partition_by(&self) -> &[Column] {
        match self {
            Self::Aligned(_) => &[],
            Self::Sessions(sessions) => &sessions.partition_by,
        }
    }
}

impl Windows {
    pub fn new(input: LogicalPlan, time: Column, spans: Spans) -> Result<Self> {
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
            spans,
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
        let time = std::iter::once(&self.time);
        time.chain(self.spans.partition_by())
            .cloned()
            .map(Expr::Column)
            .collect()
    }

    fn prevent_predicate_push_down_columns(&self) -> HashSet<String> {
        let windows = WINDOW_COLUMNS.iter().map(|name| (*name).to_owned());
        match &self.spans {
            Spans::Aligned(_) => windows.collect(),
            // Without a row, two sessions may come of one.
            Spans::Sessions(sessions) => {
                let is_key = |name: &&String| sessions.partition_by.iter().any(|column| column.name == **name);
                let fields = self.input.schema().fields().iter().map(|field| field.name());
                windows.chain(fields.filter(|name| !is_key(name)).cloned()).collect()
            }
        }
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match &self.spans {
            Spans::Aligned(window) => write!(f, "Windows: {} by {}", describe_window(*window), self.time.name),
            Spans::Sessions(sessions) => write!(f, "Windows: SESSION {} by {}", describe(sessions.gap), self.time.name),
        }
    }

    fn with_exprs_and_inputs(&self, exprs: Vec<Expr>, inputs: Vec<LogicalPlan>) -> Result<Self> {
        let columns = exprs.into_iter().map(|expr| match expr {
            Expr::Column(column) => Ok(column),
            other => Err(DataFusionError::Internal(format!("windows by {other}"))),
        });
        let mut columns = columns.collect::<Result<Vec<_>>>()?.into_iter();
        let (Some(input), Some(time)) = (inputs.into_iter().next(), columns.next()) else {
            return Err(DataFusionError::Internal(
                "windows have one input and a time column".to_owned(),
            ));
        };
        let spans = match &self.spans {
            Spans::Aligned(window) => Spans::Aligned(*window),
            Spans::Sessions(sessions) => Spans::Sessions(Sessions {
                partition_by: columns.collect(),
                gap: sessions.gap,
            }),
        };
        Self::new(input, time, spans)
    }

    fn necessary_children_exprs(&self, output_columns: &[usize]) -> Option<Vec<Vec<usize>>> {
        let passed = passed(self.input.schema());
        // The time column and the keys are needed as well, but they are among the `expressions`.
        let needed = output_columns.iter().filter_map(|&at| passed.get(at).copied());
        Some(vec![needed.collect()])
    }
}

impl Hash for Windows {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.input.hash(state);
        self.time.hash(state);
        self.spans.hash(state);
    }
}

impl PartialOrd for Windows {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        match self.spans.partial_cmp(&other.spans)? {
            Ordering::Equal if self == other => Some(Ordering::Equal),
            Ordering::Equal => self.input.partial_cmp(&other.input).filter(|order| order.is_ne()),
            unequal => Some(unequal),
        }
    }
}
