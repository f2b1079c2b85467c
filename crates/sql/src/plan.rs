//! From continuous queries to stages.
//!
//! 1. [`logical`]: the query becomes a logical plan, or is refused with its place.
//! 2. [`stages`]: the plan becomes operators in the order of the flow, in [`branch`]es that begin at scans. Where rows
//!    must meet by key ([`aggregate`]) a branch is cut into two stages; several branches meet where all write one topic.
//!    A join may be [`temporal`]. Numbered rows of which the first are taken are a Top-N ([`top_n`]), other window functions run over time ([`over`]).
//!    What would be kept for ever may have a time to live ([`ttl`]).
//! 3. [`output`]: what becomes of the last stage's rows, and what names a row of a view.
//!
//! A plan depends on the catalog and the text alone: planning again after a restart gives the same
//! stages, and with them the same topics and state tables.

mod aggregate;
pub(crate) mod branch;
mod grouping;
mod inline;
mod join;
mod logical;
mod lookup;
pub mod naming;
pub(crate) mod output;
mod over;
mod refuse;
mod retraction;
mod scan;
mod sessions;
pub(crate) mod set_operations;
pub(crate) mod shape;
pub(crate) mod stages;
pub(crate) mod tables;
pub(crate) mod temporal;
#[cfg(test)]
pub(crate) mod tests;
mod top_n;
mod ttl;
mod union;
pub mod windows;

use arrow::datatypes::SchemaRef;
use datafusion::logical_expr::LogicalPlan;
use headwater_catalog::definition::{Definition, Object, Start, StateBound};
use headwater_catalog::snapshot::Snapshot;
use headwater_engine::plan::{Output, Pipeline};

use crate::error::{Kind, Result, SqlError};
use crate::parse::parse_query;
use crate::plan::stages::{Flow, Request};
use crate::plan::ttl::bounded;
use crate::statement::Select;

/// When an input without rows is left out of the watermark, unless its stream says otherwise.
pub(crate) const IDLE_TIMEOUT_MS: u64 = 5000;

/// The stages of a stream or view that a query fills. One that is ahead reads from the successors of what it names.
///
/// # Errors
/// What can't run, with its place in the query. [`SqlError`] of kind `Invalid` for a stream without a query.
pub fn pipeline(definition: &Definition, snapshot: &Snapshot) -> Result<Pipeline> {
    let name = format!("{}-{}", definition.name, definition.id);
    let Some(query) = definition.query() else {
        return Err(SqlError::invalid(format!(
            "{} is filled from outside, not by a query",
            definition.name
        )));
    };
    let future = definition.ahead.then(|| snapshot.future());
    let snapshot = future.as_ref().unwrap_or(snapshot);
    let select = parse_query(&query.sql)?;
    let request = Request {
        name: &name,
        start: query.start,
        state: query.state,
        allowed_lateness: query.allowed_lateness,
        state_ttl: query.state_ttl,
        partitions: Some(definition.partitions()),
    };
    let mut flow = flow(&select, snapshot, &request)?;
    let output = match &definition.object {
        Object::Stream(stream) => output::to_stream(&flow, definition, stream)?,
        Object::View(_) => output::to_view(&mut flow, definition),
        Object::Source(_) | Object::Sink(_) | Object::Table(_) => {
            return Err(SqlError::internal(format!("a {} has no query", definition.kind())));
        }
    };
    let mut pipeline = flow.into_pipeline(&name, output);
    for (stage, tables) in pipeline.stages.iter_mut().zip(&query.tables) {
        stage.tables.clone_from(tables);
    }
    Ok(pipeline)
}

/// `SELECT … EMIT CHANGES`: its stages, and the schema of the batches that they put out into the topic
/// `{name}.out`. Where the result changes, the batches end in the op column.
///
/// # Errors
/// What can't run, with its place.
pub fn live(sql: &str, snapshot: &Snapshot, name: &str) -> Result<(Pipeline, SchemaRef)> {
    let select = parse_query(sql)?;
    live_select(&select, snapshot, name)
}

/// As [`live`], of a statement that is parsed already.
pub fn live_select(select: &Select, snapshot: &Snapshot, name: &str) -> Result<(Pipeline, SchemaRef)> {
    let request = Request {
        name,
        start: Start::Earliest,
        // It goes with whoever looks at it.
        state: StateBound::Unbounded,
        allowed_lateness: 0,
        state_ttl: None,
        partitions: None,
    };
    let flow = flow(select, snapshot, &request)?;
    let schema = flow.rows_schema();
    let output = Output::Topic {
        topic: format!("{name}.out").into(),
        partitions: flow.tasks,
        partition_by: Vec::new(),
        first_producer: 0,
    };
    Ok((flow.into_pipeline(name, output), schema))
}

/// Everything about a query but where its rows go.
pub(crate) fn flow(select: &Select, snapshot: &Snapshot, request: &Request) -> Result<Flow> {
    let plan = logical_plan(select, snapshot, request)?;
    stages::build(&plan, select, snapshot, request)
}

/// The logical plan that the stages are made of.
fn logical_plan(select: &Select, snapshot: &Snapshot, request: &Request) -> Result<LogicalPlan> {
    let mut plan = logical::plan(select, snapshot)?;
    if let Some(ttl) = request.state_ttl {
        let whole = logical::with_joins(plan, &select.source)?;
        plan = bounded(whole, ttl, select, snapshot, request)?;
    }
    logical::optimize(plan, &select.source)
}

/// An error about something that a checked query can't hold.
fn unexpected(what: &str) -> SqlError {
    SqlError::new(
        Kind::Unsupported,
        format!("{what} is not available in continuous queries"),
    )
}
