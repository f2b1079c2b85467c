//! Aggregates the rows of one epoch before they travel.
//!
//! The result is what travels and what is persisted: a hot key costs one row an epoch, however
//! many rows it had. What rows are put together by is for a [`States`] to say: by group and slice
//! of time (see [`super::partial_aggregate`]), or by stretch of a group's rows that belong to one session
//! (see [`super::partial_sessions`]). All expressions are evaluated before any state changes.
//!
//! Where an aggregate fails, the accumulators are of no use any more. Then the epoch begins again
//! from its batches: each is aggregated apart from the others and, where that fails, halved, until
//! the rows that are to blame stand alone. Partial states of a group may come out in any number of
//! pieces, so nothing else is different.

use arrow::array::RecordBatch;

use super::salvage::by_rows;
use super::{Operator, Rejected, split_by_time};
use crate::error::Result;

/// Partial states in the making.
pub trait States: Send {
    /// Rows with all that is to be computed of them.
    type Evaluated;

    /// The column without whose value a row belongs nowhere.
    fn time_column(&self) -> Option<usize>;

    fn evaluate(&self, batch: &RecordBatch) -> Result<Self::Evaluated>;

    fn update(&mut self, rows: &Self::Evaluated) -> Result<()>;

    /// All states, which are forgotten here.
    fn take(&mut self) -> Result<Vec<RecordBatch>>;

    /// Forgets everything, broken accumulators too.
    fn clear(&mut self) -> Result<()>;
}

pub struct Partial<S> {
    states: S,
    /// The epoch's batches, to begin again with.
    taken: Vec<RecordBatch>,
    /// Whether an aggregate has failed in this epoch; from then on, states by themselves.
    has_failed: bool,
    apart: Vec<RecordBatch>,
    rejected: Vec<Rejected>,
}

impl<S: States> Partial<S> {
    pub fn new(states: S) -> Self {
        Self {
            states,
            taken: Vec::new(),
            has_failed: false,
            apart: Vec::new(),
            rejected: Vec::new(),
        }
    }

    /// Aggregates everything that came in this epoch anew, batch by batch.
    fn begin_again(&mut self) -> Result<()> {
        self.has_failed = true;
        for batch in std::mem::take(&mut self.taken) {
            self.aggregate_apart(batch)?;
        }
        Ok(())
    }

    fn aggregate_apart(&mut self, batch: RecordBatch) -> Result<()> {
        let Self {
            states,
            apart,
            rejected,
            ..
        } = self;
        by_rows(batch, rejected, |rows| {
            states.clear()?;
            states.update(&states.evaluate(rows)?)?;
            apart.append(&mut states.take()?);
            Ok(())
        })?;
        states.clear()
    }
}

impl<S: States> Operator for Partial<S> {
    fn process(&mut self, batch: RecordBatch, _: &mut Vec<RecordBatch>) -> Result<()> {
        let batch = match self.states.time_column() {
            Some(time_column) => {
                let (batch, without_time) = split_by_time(batch, time_column)?;
                self.rejected.extend(without_time.map(Rejected::without_time));
                batch
            }
            None => batch,
        };
        // Evaluated all before the first update, so that an error leaves nothing behind.
        let evaluated = self.states.evaluate(&batch)?;
        if self.has_failed {
            return self.aggregate_apart(batch);
        }
        self.taken.push(batch);
        match self.states.update(&evaluated) {
            Err(error) if error.is_of_data() => self.begin_again(),
            updated => updated,
        }
    }

    fn flush(&mut self, out: &mut Vec<RecordBatch>) -> Result<()> {
        match self.states.take() {
            Ok(mut states) => out.append(&mut states),
            Err(error) if error.is_of_data() => self.begin_again()?,
            Err(error) => return Err(error),
        }
        out.append(&mut self.apart);
        self.taken.clear();
        self.has_failed = false;
        Ok(())
    }

    fn take_rejected(&mut self) -> Vec<Rejected> {
        std::mem::take(&mut self.rejected)
    }
}
