//! The catalog as DataFusion's planner sees it: streams and views are tables.

use std::sync::{Arc, LazyLock};

use arrow::datatypes::{DataType, Schema, SchemaRef};
use datafusion::common::config::ConfigOptions;
use datafusion::common::{DataFusionError, Result, TableReference};
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::planner::{ContextProvider, ExprPlanner, RelationPlanner};
use datafusion::logical_expr::{AggregateUDF, HigherOrderUDF, ScalarUDF, TableSource, WindowUDF};
use datafusion::prelude::SessionConfig;
use headwater_catalog::definition::Definition;
use headwater_catalog::snapshot::Snapshot;
use headwater_schema::column::Column;

use crate::define::source::not_readable;
use crate::error::{Kind, SqlError};
use crate::plan::windows::Use;
use crate::session;

/// Functions and options for planning continuous queries. Never changes.
pub static PLANNING: LazyLock<SessionState> =
    LazyLock::new(|| session::builder(SessionConfig::new(), Use::Continuous).build());

/// A stream, a view, or what is a table elsewhere, as a table.
pub struct Table {
    pub definition: Arc<Definition>,
    schema: SchemaRef,
}

/// What the planner may refer to.
pub struct Tables<'a> {
    pub snapshot: &'a Snapshot,
}

/// The rows of a stream or view, without what the engine adds to them.
pub fn schema_of(definition: &Definition) -> SchemaRef {
    let fields: Vec<_> = definition.columns().iter().map(Column::field).collect();
    Arc::new(Schema::new(fields))
}

/// The error for a stream or view that is not there.
pub fn unknown_object(name: &str, snapshot: &Snapshot) -> SqlError {
    SqlError::new(Kind::UnknownObject, format!("there is no stream or view '{name}'"))
        .did_you_mean(snapshot.nearest(name))
}

impl TableSource for Table {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }
}

impl ContextProvider for Tables<'_> {
    fn get_table_source(&self, name: TableReference) -> Result<Arc<dyn TableSource>> {
        let definition = self
            .snapshot
            .get(name.table())
            .ok_or_else(|| DataFusionError::External(Box::new(unknown_object(name.table(), self.snapshot))))?;
        // What a table that is kept elsewhere may be used for is seen when the query is cut into stages.
        if let Some(error) = not_readable(definition).filter(|_| definition.table().is_none()) {
            return Err(DataFusionError::External(Box::new(error)));
        }
        Ok(Arc::new(Table {
            definition: definition.clone(),
            schema: schema_of(definition),
        }))
    }

    fn get_expr_planners(&self) -> &[Arc<dyn ExprPlanner>] {
        PLANNING.expr_planners()
    }

    fn get_relation_planners(&self) -> &[Arc<dyn RelationPlanner>] {
        PLANNING.relation_planners()
    }

    fn get_function_meta(&self, name: &str) -> Option<Arc<ScalarUDF>> {
        PLANNING.scalar_functions().get(name).cloned()
    }

    fn get_higher_order_meta(&self, name: &str) -> Option<Arc<HigherOrderUDF>> {
        PLANNING.higher_order_functions().get(name).cloned()
    }

    fn get_aggregate_meta(&self, name: &str) -> Option<Arc<AggregateUDF>> {
        PLANNING.aggregate_functions().get(name).cloned()
    }

    fn get_window_meta(&self, name: &str) -> Option<Arc<WindowUDF>> {
        PLANNING.window_functions().get(name).cloned()
    }

    fn get_variable_type(&self, _: &[String]) -> Option<DataType> {
        None
    }

    fn options(&self) -> &ConfigOptions {
        PLANNING.config_options()
    }

    fn udf_names(&self) -> Vec<String> {
        PLANNING.scalar_functions().keys().cloned().collect()
    }

    fn higher_order_function_names(&self) -> Vec<String> {
        PLANNING.higher_order_functions().keys().cloned().collect()
    }

    fn udaf_names(&self) -> Vec<String> {
        PLANNING.aggregate_functions().keys().cloned().collect()
    }

    fn udwf_names(&self) -> Vec<String> {
        PLANNING.window_functions().keys().cloned().collect()
    }
}
