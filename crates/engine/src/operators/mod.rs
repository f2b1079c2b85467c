//! What happens to batches between two topics. One file for each operator.
//!
//! Operators know no clock, no threads and no I/O, with two exceptions: an aggregate that is kept
//! per key for ever reads its former state from the store, and a lookup asks a table that is kept elsewhere. Time
//! comes in as a watermark, changes of state go out to whoever commits them.
//!
//! One epoch of an operator: [`Operator::wait_for`] and [`Operator::process`] for every batch, [`Operator::flush`],
//! [`Operator::advance`] where the watermark has moved, [`Operator::changes`].

pub mod accumulation;
pub mod assign_windows;
pub mod changelog_aggregate;
pub mod changelog_over;
pub mod copies;
pub mod counted_rows;
pub mod distinct_counts;
pub mod expire;
pub mod filter;
pub mod first;
pub mod grouping_sets;
pub mod join;
pub mod lookup;
pub mod number_copies;
pub mod over;
pub mod partial;
pub mod partial_aggregate;
pub mod partial_sessions;
pub mod parts;
pub mod pending;
pub mod project;
pub mod retracting_aggregate;
pub mod row_order;
pub mod salvage;
pub mod session_aggregate;
pub mod sessions;
pub mod slice;
pub mod sliding;
pub mod temporal_join;
pub mod top_n;
pub mod window_aggregate;
pub mod window_top_n;
pub mod windows;

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch};
use arrow::compute::{cast, filter_record_batch, is_not_null, is_null};
use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use datafusion_physical_expr_common::physical_expr::PhysicalExpr;
use futures::future::BoxFuture;
use headwater_event::clock::Micros;
use headwater_event::room::Room;
use headwater_log::StateTable;

use crate::error::{Error, Result};
use crate::guard::guarded;
use crate::holdings::Held;
use crate::lookup::Tables;
use crate::plan;

/// A step of a stage.
pub trait Operator: Send {
    /// Takes a batch, and hands on at most one. After an error of kind `Rows` the operator is as it
    /// was before. What fails later is the operator's own to find and to leave out: the other rows
    /// go on, see [`Operator::take_rejected`].
    fn process(&mut self, batch: RecordBatch, out: &mut Vec<RecordBatch>) -> Result<()>;

    /// What has to be known before the batch can be processed: rows of tables that are kept elsewhere. Who stops waiting
    /// must not hand in any more batches.
    fn wait_for<'a>(&'a mut self, _batch: &'a RecordBatch) -> Option<BoxFuture<'a, Result<()>>> {
        None
    }

    /// The end of an epoch: what was held back for it goes on.
    fn flush(&mut self, _out: &mut Vec<RecordBatch>) -> Result<()> {
        Ok(())
    }

    /// No later row will have an event time below `watermark`.
    fn advance(&mut self, _watermark: Micros, _out: &mut Vec<RecordBatch>) -> Result<()> {
        Ok(())
    }

    /// What changed in the operator's state since it was last asked.
    fn changes(&mut self, _changes: &mut StateChanges) -> Result<()> {
        Ok(())
    }

    /// Takes the state as of the last commit. Called once, before anything else.
    fn restore(&mut self, _saved: &Saved) -> Result<()> {
        Ok(())
    }

    /// How far below the watermark the times of the rows may lie that it hands on: what comes behind
    /// it is given a watermark that is so much lower.
    fn delay(&self) -> Micros {
        0
    }

    /// Rows that came too late for every window they belong to, since it was last asked.
    fn take_late(&mut self) -> u64 {
        0
    }

    /// What it has in memory between two epochs. Asked for when somebody wants to know, so it may take its time.
    fn held(&self) -> Held {
        Held::default()
    }

    /// Rows that it could not use and left out, since it was last asked. An operator that is
    /// told to process a batch again after an error may name the same rows again.
    fn take_rejected(&mut self) -> Vec<Rejected> {
        Vec::new()
    }
}

/// Rows that can't be used, with the reason.
#[derive(Debug)]
pub struct Rejected {
    /// A word for machines: `evaluate`, `aggregate`, `lookup`, `null_time`.
    pub reason: &'static str,
    /// A sentence for people.
    pub detail: String,
    pub rows: RecordBatch,
}

impl Rejected {
    pub fn because(error: &Error, rows: RecordBatch) -> Self {
        Self {
            reason: match error {
                Error::Aggregate(_) => "aggregate",
                _ => "evaluate",
            },
            detail: error.to_string(),
            rows,
        }
    }

    pub fn without_time(rows: RecordBatch) -> Self {
        Self {
            reason: "null_time",
            detail: "the event time is NULL".to_owned(),
            rows,
        }
    }
}

/// An operator's state, as of the last commit.
#[derive(Clone, Debug)]
pub struct Saved {
    pub table: Arc<dyn StateTable>,
    /// Every key of the task begins with it.
    pub partition: u32,
    pub watermark: Option<Micros>,
    /// Where the state may be kept in memory in part, if it isn't kept there as a whole.
    pub caches: Room,
}

/// Entries of an operator's table to write with the epoch's commit.
#[derive(Debug)]
pub struct StateChanges {
    pub partition: u32,
    pub entries: Vec<(Bytes, Option<Bytes>)>,
}

/// Makes the operator that the plan describes. `input` is the schema of its rows.
pub fn build(plan: &plan::Operator, input: &SchemaRef, tables: Option<&dyn Tables>) -> Result<Box<dyn Operator>> {
    Ok(match plan {
        plan::Operator::Filter(plan) => Box::new(filter::Filter::new(plan.clone())),
        plan::Operator::Project(plan) => Box::new(project::Project::new(plan.clone())),
        plan::Operator::AssignWindows(plan) => Box::new(assign_windows::AssignWindows::new(plan.clone())),
        plan::Operator::GroupingSets(plan) => Box::new(grouping_sets::GroupingSets::new(plan.clone())),
        plan::Operator::PartialAggregate(plan) => {
            let states = partial_aggregate::PartialAggregate::new(plan.clone(), input)?;
            Box::new(partial::Partial::new(states))
        }
        plan::Operator::WindowAggregate(plan) => {
            Box::new(window_aggregate::WindowAggregate::new(plan.clone(), input.clone())?)
        }
        plan::Operator::PartialSessions(plan) => {
            let states = partial_sessions::PartialSessions::new(plan.clone(), input)?;
            Box::new(partial::Partial::new(states))
        }
        plan::Operator::SessionAggregate(plan) => {
            Box::new(session_aggregate::SessionAggregate::new(plan.clone(), input.clone())?)
        }
        plan::Operator::ChangelogAggregate(plan) => {
            Box::new(changelog_aggregate::ChangelogAggregate::new(plan.clone(), input)?)
        }
        plan::Operator::RetractingAggregate(plan) => {
            Box::new(retracting_aggregate::RetractingAggregate::new(plan.clone(), input)?)
        }
        plan::Operator::NumberCopies(plan) => Box::new(number_copies::NumberCopies::new(plan.clone(), input)?),
        plan::Operator::Expire(plan) => Box::new(expire::Expire::new(plan.clone(), input.clone())),
        plan::Operator::Copies(plan) => Box::new(copies::Copies::new(plan.clone())?),
        plan::Operator::TopN(plan) => match (plan.closes_by, &plan.kept_in_view) {
            (_, Some(kept)) => Box::new(first::First::new(plan.clone(), kept, input.clone())?),
            (Some(closes_by), _) => Box::new(window_top_n::WindowTopN::new(plan.clone(), closes_by, input.clone())?),
            (None, None) => Box::new(top_n::TopN::new(plan.clone(), input)?),
        },
        plan::Operator::ChangelogOver(plan) => Box::new(changelog_over::ChangelogOver::new(plan.clone(), input)?),
        plan::Operator::Over(plan) => Box::new(over::Over::new(plan.clone(), input.clone())?),
        plan::Operator::Join(plan) => join::build(plan.clone(), input)?,
        plan::Operator::TemporalJoin(plan) => Box::new(temporal_join::TemporalJoin::new(plan.clone(), input.clone())?),
        plan::Operator::Lookup(plan) => Box::new(lookup::Lookup::new(plan.clone(), tables)?),
    })
}

/// The schema of the rows that the operator hands on.
pub fn output_schema(plan: &plan::Operator, input: &SchemaRef) -> SchemaRef {
    match plan {
        plan::Operator::Filter(_) => input.clone(),
        plan::Operator::Project(plan) => plan.schema.clone(),
        plan::Operator::AssignWindows(plan) => plan.schema.clone(),
        plan::Operator::GroupingSets(plan) => plan.schema.clone(),
        plan::Operator::PartialAggregate(plan) => plan.schema.clone(),
        plan::Operator::WindowAggregate(plan) => plan.schema.clone(),
        plan::Operator::PartialSessions(plan) => plan.schema.clone(),
        plan::Operator::SessionAggregate(plan) => plan.schema.clone(),
        plan::Operator::ChangelogAggregate(plan) => plan.schema.clone(),
        plan::Operator::RetractingAggregate(plan) => plan.schema.clone(),
        plan::Operator::NumberCopies(plan) => plan.schema.clone(),
        plan::Operator::Copies(plan) => plan.schema.clone(),
        plan::Operator::Expire(plan) => plan.schema.clone(),
        plan::Operator::TopN(plan) => plan.schema.clone(),
        plan::Operator::Over(plan) => plan.schema.clone(),
        plan::Operator::ChangelogOver(plan) => plan.schema.clone(),
        plan::Operator::Join(plan) => plan.schema.clone(),
        plan::Operator::TemporalJoin(plan) => plan.schema.clone(),
        plan::Operator::Lookup(plan) => plan.schema.clone(),
    }
}

/// Whether the operator keeps state across epochs, in a table of its own.
pub fn has_state(plan: &plan::Operator) -> bool {
    matches!(
        plan,
        plan::Operator::WindowAggregate(_)
            | plan::Operator::SessionAggregate(_)
            | plan::Operator::ChangelogAggregate(_)
            | plan::Operator::RetractingAggregate(_)
            | plan::Operator::NumberCopies(_)
            | plan::Operator::Expire(_)
            | plan::Operator::TopN(_)
            | plan::Operator::Over(_)
            | plan::Operator::ChangelogOver(_)
            | plan::Operator::Join(_)
            | plan::Operator::TemporalJoin(_)
    )
}

/// Whether the operator holds rows back until the watermark has passed them.
pub fn closes_by_time(plan: &plan::Operator) -> bool {
    match plan {
        plan::Operator::WindowAggregate(_)
        | plan::Operator::SessionAggregate(_)
        | plan::Operator::Over(_)
        | plan::Operator::TemporalJoin(_) => true,
        plan::Operator::TopN(plan) => plan.closes_by.is_some(),
        plan::Operator::Join(join) => join.reach.is_some(),
        _ => false,
    }
}

fn evaluate(expression: &Arc<dyn PhysicalExpr>, batch: &RecordBatch) -> Result<ArrayRef> {
    Ok(guarded(|| expression.evaluate(batch)?.into_array(batch.num_rows()))?)
}

/// The rows that have a time in the column, and those that have none.
fn split_by_time(batch: RecordBatch, time_column: usize) -> Result<(RecordBatch, Option<RecordBatch>)> {
    let times = batch.column(time_column);
    if times.null_count() == 0 {
        return Ok((batch, None));
    }
    let without = filter_record_batch(&batch, &is_null(times)?)?;
    let with = filter_record_batch(&batch, &is_not_null(times)?)?;
    Ok((with, Some(without)))
}

/// A batch of `schema`; columns whose type differs in representation alone are cast.
fn batch_of(schema: &SchemaRef, columns: Vec<ArrayRef>) -> Result<RecordBatch> {
    let columns = columns.into_iter().zip(schema.fields()).map(|(column, field)| {
        if column.data_type() == field.data_type() {
            return Ok(column);
        }
        cast(&column, field.data_type())
    });
    let columns = columns.collect::<Result<Vec<_>, _>>()?;
    Ok(RecordBatch::try_new(schema.clone(), columns)?)
}
