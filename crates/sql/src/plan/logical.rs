//! From a query as written to a logical plan that can be cut into stages.
//!
//! 1. What can't run for ever is refused ([`super::refuse`]).
//! 2. Columns without a name get the one that Postgres would give them, and temporal joins their condition.
//! 3. DataFusion plans the query and coerces types; `DISTINCT ON` becomes a Top-N, `EXCEPT ALL` counts rows.
//! 4. Columns are cast to the types that streams and views keep.
//! 5. A chosen few of DataFusion's rules simplify expressions and push filters and projections down. With `state_ttl` joins and
//!    groups get their bound before ([`super::ttl`]), when they are all there and no column is gone yet.

use std::sync::Arc;

use datafusion::common::DataFusionError;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, cast};
use datafusion::optimizer::decorrelate_predicate_subquery::DecorrelatePredicateSubquery;
use datafusion::optimizer::eliminate_cross_join::EliminateCrossJoin;
use datafusion::optimizer::eliminate_duplicated_expr::EliminateDuplicatedExpr;
use datafusion::optimizer::eliminate_outer_join::EliminateOuterJoin;
use datafusion::optimizer::extract_equijoin_predicate::ExtractEquijoinPredicate;
use datafusion::optimizer::optimize_projections::OptimizeProjections;
use datafusion::optimizer::push_down_filter::PushDownFilter;
use datafusion::optimizer::replace_distinct_aggregate::ReplaceDistinctWithAggregate;
use datafusion::optimizer::simplify_expressions::SimplifyExpressions;
use datafusion::optimizer::{Analyzer, Optimizer, OptimizerContext, OptimizerRule};
use datafusion::sql::planner::{ParserOptions, SqlToRel};
use datafusion::sql::sqlparser::ast;
use headwater_catalog::snapshot::Snapshot;

use crate::error::{Kind, Result, SqlError, find, translate};
use crate::plan::naming::name_columns;
use crate::plan::refuse::refuse;
use crate::plan::set_operations;
use crate::plan::tables::{PLANNING, Tables};
use crate::plan::temporal::with_times;
use crate::plan::top_n::without_distinct_on;
use crate::statement::{Select, Source};
use crate::types::stored_type;

/// The logical plan of a continuous query.
pub fn plan(select: &Select, snapshot: &Snapshot) -> Result<LogicalPlan> {
    let source = &select.source;
    refuse(&select.query, source)?;
    let mut query = name_columns(&select.query);
    with_times(&mut query, snapshot, source)?;
    let tables = Tables { snapshot };
    let planner = SqlToRel::new_with_options(&tables, ParserOptions::from(&PLANNING.config_options().sql_parser));
    let plan = planner
        .sql_statement_to_plan(ast::Statement::Query(Box::new(query)))
        .and_then(without_distinct_on)
        .and_then(set_operations::continuous)
        .and_then(analyze)
        .map_err(|error| translate(&error, source))?;
    cast_columns(plan, source)
}

/// The plan with all its joins, subqueries among them, and still with every column of what they read.
pub fn with_joins(plan: LogicalPlan, source: &Source) -> Result<LogicalPlan> {
    optimized(plan, rules()).map_err(|error| translate(&error, source))
}

/// The plan with no more than what is needed, filtered as early as it can be.
pub fn optimize(plan: LogicalPlan, source: &Source) -> Result<LogicalPlan> {
    let mut rules = rules();
    rules.push(Arc::new(OptimizeProjections::new()));
    optimized(plan, rules).map_err(|error| translate(&error, source))
}

fn analyze(plan: LogicalPlan) -> std::result::Result<LogicalPlan, DataFusionError> {
    Analyzer::new().execute_and_check(plan, PLANNING.config_options(), |_, _| {})
}

fn rules() -> Vec<Arc<dyn OptimizerRule + Send + Sync>> {
    vec![
        Arc::new(SimplifyExpressions::new()),
        Arc::new(ReplaceDistinctWithAggregate::new()),
        Arc::new(DecorrelatePredicateSubquery::new()),
        // Before the next but one, which takes a join apart and leaves it its keys.
        Arc::new(ExtractEquijoinPredicate::new()),
        Arc::new(EliminateDuplicatedExpr::new()),
        Arc::new(EliminateCrossJoin::new()),
        Arc::new(EliminateOuterJoin::new()),
        Arc::new(PushDownFilter::new()),
    ]
}

fn optimized(
    plan: LogicalPlan,
    rules: Vec<Arc<dyn OptimizerRule + Send + Sync>>,
) -> std::result::Result<LogicalPlan, DataFusionError> {
    // Without a start time nothing is folded that depends on the clock: a plan is the same each time.
    let context = OptimizerContext::new_with_config_options(PLANNING.config_options().clone())
        .without_query_execution_start_time();
    Optimizer::with_rules(rules).optimize(plan, &context, |_, _| {})
}

/// Casts every column to the type that it can be kept as, and refuses those that can't be kept.
fn cast_columns(plan: LogicalPlan, source: &Source) -> Result<LogicalPlan> {
    let mut columns = Vec::new();
    let mut casts = false;
    for (column, field) in plan.schema().columns().into_iter().zip(plan.schema().fields()) {
        let Some(stored) = stored_type(field.data_type()) else {
            let name = headwater_schema::types::type_name(field.data_type(), false);
            let error = SqlError::new(
                Kind::Type,
                format!("the column {} has type {name}, which can't be kept", column.name),
            );
            return Err(error
                .at(find(source, &column.name))
                .or_at_start(source)
                .hint("cast it: CAST(… AS TEXT)"));
        };
        if stored == *field.data_type() {
            columns.push(Expr::Column(column));
        } else {
            casts = true;
            let name = column.name.clone();
            columns.push(cast(Expr::Column(column.clone()), stored).alias_qualified(column.relation, name));
        }
    }
    if !casts {
        return Ok(plan);
    }
    let projected = LogicalPlanBuilder::from(plan)
        .project(columns)
        .and_then(LogicalPlanBuilder::build);
    projected.map_err(|error| translate(&error, source))
}
