//! The operators of one task, one behind the other.

use std::sync::Arc;

use arrow::array::RecordBatch;
use headwater_event::clock::Micros;
use headwater_event::room::Room;
use headwater_log::{Log, StateTable, StateWrite};

use crate::error::{Error, Result};
use crate::holdings::Held;
use crate::lookup::Tables;
use crate::operators::salvage::by_rows;
use crate::operators::{Operator, Rejected, Saved, StateChanges, build, has_state, output_schema};
use crate::plan::{self, Output, Stage};

pub struct Chain {
    partition: u32,
    steps: Vec<Step>,
}

struct Step {
    operator: Box<dyn Operator>,
    state: Option<(Arc<str>, Arc<dyn StateTable>)>,
}

/// Rows that could not go on.
#[derive(Debug)]
pub struct Rejection {
    pub rejected: Rejected,
    /// Which row of the batch it was, where that is one of the batch that was processed.
    pub row: Option<usize>,
}

/// The table of an operator's state.
pub fn operator_table(pipeline: &str, stage: usize, operator: usize) -> Arc<str> {
    format!("{pipeline}.{stage}.{operator}").into()
}

/// The table of the view that the stage fills, if its rows are the operator's state.
pub fn rows_that_keep(plan: &plan::Operator, output: &Output) -> Result<Option<Arc<str>>> {
    let is_in_view = match plan {
        plan::Operator::ChangelogAggregate(plan) => plan.kept_in_view.is_some(),
        plan::Operator::TopN(plan) => plan.kept_in_view.is_some(),
        _ => false,
    };
    if !is_in_view {
        return Ok(None);
    }
    match output {
        Output::View { table, .. } => Ok(Some(Arc::clone(table))),
        Output::Topic { .. } => Err(Error::Plan(
            "there is no view to keep an operator's state in".to_owned(),
        )),
    }
}

impl Chain {
    /// Makes the operators of a stage and gives each the state of its last commit.
    pub async fn open(
        log: &dyn Log,
        (pipeline, number): (&str, usize),
        stage: &Stage,
        partition: u32,
        watermark: Option<Micros>,
        caches: &Room,
        tables: Option<&dyn Tables>,
    ) -> Result<Self> {
        let mut steps = Vec::with_capacity(stage.operators.len());
        let mut schema = stage.input.schema.clone();
        let mut watermark = watermark;
        for (place, plan) in stage.operators.iter().enumerate() {
            let mut operator = build(plan, &schema, tables)?;
            let mut state = None;
            if has_state(plan) {
                let kept_elsewhere = rows_that_keep(plan, &stage.output)?;
                let name = kept_elsewhere
                    .clone()
                    .unwrap_or_else(|| operator_table(pipeline, number, stage.table(place)));
                let table = log.state(&name).await?;
                operator.restore(&Saved {
                    table: Arc::clone(&table),
                    partition,
                    watermark,
                    caches: caches.clone(),
                })?;
                state = kept_elsewhere.is_none().then_some((name, table));
            }
            schema = output_schema(plan, &schema);
            watermark = watermark.map(|watermark| watermark.saturating_sub(operator.delay()));
            steps.push(Step { operator, state });
        }
        Ok(Self { partition, steps })
    }

    /// Processes what can be processed: a batch that fails is halved until the rows that are to
    /// blame stand alone.
    pub async fn process(
        &mut self,
        batch: RecordBatch,
        out: &mut Vec<RecordBatch>,
        rejections: &mut Vec<Rejection>,
    ) -> Result<()> {
        let mut pending = vec![(0, batch)];
        while let Some((first, batch)) = pending.pop() {
            let rows = batch.num_rows();
            match self.pass(batch.clone(), out).await {
                Ok(()) => {
                    let rejected = self.take_rejected();
                    rejections.extend(rejected.map(|rejected| Rejection { rejected, row: None }));
                }
                Err(error) if error.is_of_rows() && rows > 1 => {
                    // What was rejected on the way will be so again.
                    self.take_rejected().for_each(drop);
                    pending.push((first + rows / 2, batch.slice(rows / 2, rows - rows / 2)));
                    pending.push((first, batch.slice(0, rows / 2)));
                }
                Err(error) if error.is_of_rows() && rows == 1 => {
                    self.take_rejected().for_each(drop);
                    rejections.push(Rejection {
                        rejected: Rejected::because(&error, batch),
                        row: Some(first),
                    });
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Hands a batch through all operators. Each hands on one batch at most, so where one fails
    /// with an error of rows, those behind it have seen nothing, and those before it, whatever
    /// they do again, have kept nothing.
    async fn pass(&mut self, batch: RecordBatch, out: &mut Vec<RecordBatch>) -> Result<()> {
        let mut carried = vec![batch];
        for step in &mut self.steps {
            let mut next = Vec::new();
            for batch in carried {
                if let Some(known) = step.operator.wait_for(&batch) {
                    known.await?;
                }
                step.operator.process(batch, &mut next)?;
            }
            carried = next;
        }
        out.append(&mut carried);
        Ok(())
    }

    fn take_rejected(&mut self) -> impl Iterator<Item = Rejected> {
        self.steps.iter_mut().flat_map(|step| step.operator.take_rejected())
    }

    /// Ends the epoch.
    pub async fn finish(
        &mut self,
        mut watermark: Option<Micros>,
        out: &mut Vec<RecordBatch>,
        rejections: &mut Vec<Rejection>,
    ) -> Result<()> {
        let mut rejected = Vec::new();
        let mut carried = Vec::new();
        for step in &mut self.steps {
            let mut next = Vec::new();
            for batch in carried {
                if let Some(known) = step.operator.wait_for(&batch) {
                    known.await?;
                }
                by_rows(batch, &mut rejected, |rows| {
                    step.operator.process(rows.clone(), &mut next)
                })?;
            }
            step.operator.flush(&mut next)?;
            if let Some(watermark) = watermark {
                step.operator.advance(watermark, &mut next)?;
            }
            watermark = watermark.map(|watermark| watermark.saturating_sub(step.operator.delay()));
            carried = next;
        }
        out.append(&mut carried);
        rejected.extend(self.take_rejected());
        rejections.extend(rejected.into_iter().map(|rejected| Rejection { rejected, row: None }));
        Ok(())
    }

    /// What the epoch changed in the state of all operators.
    pub fn changes(&mut self) -> Result<Vec<StateWrite>> {
        let mut writes = Vec::new();
        for step in &mut self.steps {
            let Some((table, _)) = &step.state else { continue };
            let mut changes = StateChanges {
                partition: self.partition,
                entries: Vec::new(),
            };
            step.operator.changes(&mut changes)?;
            if !changes.entries.is_empty() {
                writes.push(StateWrite {
                    table: Arc::clone(table),
                    entries: changes.entries.into(),
                });
            }
        }
        Ok(writes)
    }

    /// How far below the watermark the times of the stage's rows may lie.
    pub fn delay(&self) -> Micros {
        self.steps.iter().map(|step| step.operator.delay()).sum()
    }

    pub fn take_late(&mut self) -> u64 {
        self.steps.iter_mut().map(|step| step.operator.take_late()).sum()
    }

    /// What each of the operators has in memory.
    pub fn held(&self) -> Arc<[Held]> {
        self.steps.iter().map(|step| step.operator.held()).collect()
    }

    /// The bytes of all state tables of the stage, of all its partitions.
    pub fn state_bytes(&self) -> u64 {
        let tables = self.steps.iter().filter_map(|step| step.state.as_ref());
        tables.map(|(_, table)| table.bytes_used()).sum()
    }
}
