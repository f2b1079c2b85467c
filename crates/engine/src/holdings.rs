//! What the operators of a query keep, in memory and in their state tables.

use std::sync::Arc;

use arrow::array::RecordBatch;

use crate::chain::{operator_table, rows_that_keep};
use crate::engine::Query;
use crate::operators::has_state;
use crate::status::TaskStatus;

/// What an operator has in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Groups or rows; `None` where memory holds but some of those in the state table.
    pub entries: Option<u64>,
    /// Roughly.
    pub bytes: u64,
}

/// An operator that keeps state, of all its tasks.
#[derive(Clone, Debug)]
pub struct Holding {
    pub stage: usize,
    /// Among the operators of its stage.
    pub place: usize,
    /// `None` where a view's rows are its state.
    pub table: Option<Arc<str>>,
    /// `None` where a task has not said it: it is starting or failing.
    pub held: Option<Held>,
}

impl Held {
    /// All of what is kept is in memory.
    pub fn whole(entries: usize, bytes: usize) -> Self {
        Self {
            entries: Some(entries as u64),
            bytes: bytes as u64,
        }
    }

    /// Part of what is kept is in memory.
    pub fn cache(bytes: usize) -> Self {
        Self {
            entries: None,
            bytes: bytes as u64,
        }
    }

    fn and(self, other: Self) -> Self {
        Self {
            entries: self.entries.zip(other.entries).map(|(one, other)| one + other),
            bytes: self.bytes + other.bytes,
        }
    }
}

impl Query {
    /// What the operators keep that keep anything, in the order of the flow, as the tasks have said when they were
    /// last asked: see [`Query::ask`].
    pub fn holdings(&self) -> Vec<Holding> {
        let mut holdings = Vec::new();
        for (number, (stage, tasks)) in self.pipeline.stages.iter().zip(&self.stages).enumerate() {
            for (place, plan) in stage.operators.iter().enumerate().filter(|(_, plan)| has_state(plan)) {
                let is_in_view = matches!(rows_that_keep(plan, &stage.output), Ok(Some(_)));
                let none = Held::whole(0, 0);
                holdings.push(Holding {
                    stage: number,
                    place,
                    table: (!is_in_view).then(|| operator_table(&self.pipeline.name, number, stage.table(place))),
                    held: tasks
                        .iter()
                        .try_fold(none, |sum, task| Some(sum.and(held_of(&task.borrow(), place)?))),
                });
            }
        }
        holdings
    }

    /// Asks all tasks what they hold, and returns when those that run have said it.
    pub async fn ask(&self) {
        let nudge = self.nudge();
        for task in self.stages.iter().flatten() {
            let answered = |status: &TaskStatus| status.reported >= nudge || !status.state.is_running();
            // An error means that the task has ended.
            let _ = task.clone().wait_for(answered).await;
        }
    }
}

fn held_of(status: &TaskStatus, place: usize) -> Option<Held> {
    status.held.get(place).copied()
}

impl std::iter::Sum for Held {
    fn sum<I: Iterator<Item = Self>>(each: I) -> Self {
        each.fold(Self::whole(0, 0), Self::and)
    }
}

/// The memory of the batches.
pub fn bytes_of<'a>(batches: impl IntoIterator<Item = &'a RecordBatch>) -> usize {
    batches.into_iter().map(RecordBatch::get_array_memory_size).sum()
}
