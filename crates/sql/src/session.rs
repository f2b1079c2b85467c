//! DataFusion set up as Headwater's SQL has it, for one-off queries and for planning.

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::execution::SessionStateDefaults;
use datafusion::execution::session_state::{SessionState, SessionStateBuilder};
use datafusion::logical_expr::LogicalPlan;
use datafusion::logical_expr::planner::RelationPlanner;
use datafusion::prelude::SessionConfig;
use datafusion::sql::parser::Statement as DataFusionStatement;
use datafusion::sql::sqlparser::ast;

use crate::error::{Result, translate};
use crate::functions::json;
use crate::plan::naming::name_columns;
use crate::plan::set_operations;
use crate::plan::temporal;
use crate::plan::windows::{Planner, Use};
use crate::statement::Source;

/// A session state with our dialect and functions, and `TUMBLE` and `HOP` in FROM. Whoever uses it
/// adds tables (and what else a session needs).
pub fn session_state(config: SessionConfig) -> SessionStateBuilder {
    builder(config, Use::OneOff)
}

/// The logical plan of a one-off query, with its errors in our words.
///
/// # Errors
/// What is wrong with the query, with its place.
pub async fn logical_plan(state: &SessionState, query: &ast::Query, source: &Source) -> Result<LogicalPlan> {
    let statement = ast::Statement::Query(Box::new(name_columns(query)));
    state
        .statement_to_plan(DataFusionStatement::Statement(Box::new(statement)))
        .await
        .and_then(set_operations::one_off)
        .map_err(|error| translate(&error, source))
}

pub(crate) fn builder(config: SessionConfig, usage: Use) -> SessionStateBuilder {
    let mut builder = SessionStateBuilder::new().with_config(dialect(config));
    let planners: Vec<Arc<dyn RelationPlanner>> =
        vec![Arc::new(Planner::new(usage)), Arc::new(temporal::Planner { usage })];
    let mut operators = SessionStateDefaults::default_expr_planners();
    operators.insert(0, Arc::new(json::JsonOperators));
    // The builder adds its defaults behind what is there already, so ours come first.
    builder = builder.with_expr_planners(operators).with_relation_planners(planners);
    let mut functions = SessionStateDefaults::default_scalar_functions();
    functions.extend(json::functions());
    functions.push(temporal::function());
    builder
        .with_scalar_functions(functions)
        .with_aggregate_functions(SessionStateDefaults::default_aggregate_functions())
        .with_window_functions(SessionStateDefaults::default_window_functions())
        .with_higher_order_functions(SessionStateDefaults::default_higher_order_functions())
        .with_table_functions(
            SessionStateDefaults::default_table_functions()
                .into_iter()
                .map(|function| (function.name().to_owned(), function))
                .collect::<HashMap<_, _>>(),
        )
}

fn dialect(mut config: SessionConfig) -> SessionConfig {
    let options = config.options_mut();
    options.sql_parser.map_string_types_to_utf8view = false;
    options.sql_parser.collect_spans = true;
    config
}

#[cfg(test)]
mod tests;
