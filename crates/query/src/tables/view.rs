//! A view's current rows as a table.
//!
//! Equality on the leading key columns, or on all of them, reads just the rows that have these
//! values. Every filter stays in the plan as well, so what is done here need only be a superset.

use std::fmt;
use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use bytes::Bytes;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::{DataFusionError, Result, ScalarValue};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{BinaryExpr, Expr, Operator, TableProviderFilterPushDown, TableType};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::streaming::{PartitionStream, StreamingTableExec};
use futures::future::BoxFuture;

use crate::views::ViewRows;

#[derive(Debug)]
pub struct ViewTable {
    view: Arc<ViewRows>,
}

impl ViewTable {
    pub fn new(view: Arc<ViewRows>) -> Self {
        Self { view }
    }

    /// The values that the filters demand of the leading key columns, as far as they go.
    fn leading(&self, filters: &[Expr]) -> Result<Vec<ArrayRef>> {
        let mut leading = Vec::new();
        for &column in self.view.key_columns() {
            let Some(value) = filters.iter().find_map(|filter| self.demanded(column, filter)) else {
                break;
            };
            leading.push(value.to_array()?);
        }
        Ok(leading)
    }

    /// The value that the filter demands of the column, if it is an equality of the two.
    fn demanded(&self, column: usize, filter: &Expr) -> Option<ScalarValue> {
        let Expr::BinaryExpr(BinaryExpr {
            left,
            op: Operator::Eq,
            right,
        }) = filter
        else {
            return None;
        };
        let field = self.view.schema.field(column);
        match (left.as_ref(), right.as_ref()) {
            (Expr::Column(name), Expr::Literal(value, _)) | (Expr::Literal(value, _), Expr::Column(name)) => {
                let fits = name.name == *field.name() && value.data_type() == *field.data_type();
                (fits && !value.is_null()).then(|| value.clone())
            }
            _ => None,
        }
    }

    fn plan(
        &self,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let leading = self.leading(filters)?;
        let prefix = self.view.prefix(&leading);
        let schema = match projection {
            Some(columns) => Arc::new(self.view.schema.project(columns)?),
            None => Arc::clone(&self.view.schema),
        };
        let scan = ViewScan {
            view: Arc::clone(&self.view),
            prefix: prefix.map_err(|error| DataFusionError::External(Box::new(error)))?,
            columns: projection.cloned(),
            schema: Arc::clone(&schema),
        };
        let plan = StreamingTableExec::try_new(schema, vec![Arc::new(scan)], None, [], false, limit)?;
        Ok(Arc::new(plan))
    }
}

#[async_trait]
impl TableProvider for ViewTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.view.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::View
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        let of = |filter: &&Expr| match self
            .view
            .key_columns()
            .iter()
            .any(|&key| self.demanded(key, filter).is_some())
        {
            true => TableProviderFilterPushDown::Inexact,
            false => TableProviderFilterPushDown::Unsupported,
        };
        Ok(filters.iter().map(of).collect())
    }

    // As `async fn` it would be a future that holds expressions, of which the compiler proves for seconds that they can
    // be sent.
    fn scan<'a, 's, 'p, 'f, 'r>(
        &'a self,
        _state: &'s dyn Session,
        projection: Option<&'p Vec<usize>>,
        filters: &'f [Expr],
        limit: Option<usize>,
    ) -> BoxFuture<'r, Result<Arc<dyn ExecutionPlan>>>
    where
        'a: 'r,
        's: 'r,
        'p: 'r,
        'f: 'r,
    {
        Box::pin(std::future::ready(self.plan(projection, filters, limit)))
    }
}

/// The rows whose keys begin with `prefix`.
struct ViewScan {
    view: Arc<ViewRows>,
    prefix: Bytes,
    columns: Option<Vec<usize>>,
    schema: SchemaRef,
}

impl fmt::Debug for ViewScan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.view.definition.name)?;
        match self.prefix.len() {
            0 => f.write_str("all rows"),
            length => write!(f, "rows by a key prefix of {length} bytes"),
        }
    }
}

impl PartitionStream for ViewScan {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _context: Arc<TaskContext>) -> SendableRecordBatchStream {
        let schema = Arc::clone(&self.schema);
        self.view.scan(self.prefix.clone(), self.columns.clone(), schema)
    }
}
