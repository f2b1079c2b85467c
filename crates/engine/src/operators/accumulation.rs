//! Groups and the accumulators of their aggregates, side by side. After an error of kind
//! `Aggregate` what was put together is broken and must be thrown away.

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, RecordBatch};
use arrow::datatypes::DataType;
use datafusion_common::cast::as_boolean_array;
use datafusion_expr_common::groups_accumulator::{EmitTo, GroupsAccumulator};
use datafusion_physical_expr_common::physical_expr::PhysicalExpr;

use super::evaluate;
use crate::error::{Error, Result};
use crate::groups::Groups;
use crate::guard::guarded;
use crate::plan::Aggregate;

/// Partial results by group key.
pub struct Accumulation {
    groups: Groups,
    accumulators: Accumulators,
    indices: Vec<usize>,
}

/// The accumulators alone, for groups that have their indices already.
pub struct Accumulators {
    aggregates: Arc<[Aggregate]>,
    each: Vec<Box<dyn GroupsAccumulator>>,
}

/// What one aggregate is given of a batch.
pub struct Arguments {
    pub values: Vec<ArrayRef>,
    pub filter: Option<BooleanArray>,
}

/// Rows with all that was computed for them.
pub struct Evaluated {
    pub groups: Vec<ArrayRef>,
    pub arguments: Vec<Arguments>,
    pub rows: usize,
}

impl Evaluated {
    pub fn of(groups: &[Arc<dyn PhysicalExpr>], aggregates: &[Aggregate], batch: &RecordBatch) -> Result<Self> {
        let groups = groups.iter().map(|group| evaluate(group, batch));
        let arguments = aggregates.iter().map(|aggregate| {
            let values = aggregate.arguments.iter().map(|argument| evaluate(argument, batch));
            let filter = aggregate
                .filter
                .as_ref()
                .map(|filter| evaluate(filter, batch))
                .transpose()?;
            Ok(Arguments {
                values: values.collect::<Result<_>>()?,
                filter: filter.map(|filter| as_boolean_array(&filter).cloned()).transpose()?,
            })
        });
        Ok(Self {
            groups: groups.collect::<Result<_>>()?,
            arguments: arguments.collect::<Result<_>>()?,
            rows: batch.num_rows(),
        })
    }
}

impl Accumulation {
    pub fn new(group_types: &[DataType], aggregates: &Arc<[Aggregate]>) -> Result<Self> {
        Ok(Self {
            groups: Groups::new(group_types)?,
            accumulators: Accumulators::new(aggregates)?,
            indices: Vec::new(),
        })
    }

    pub fn len(&self) -> usize {
        self.groups.len()
    }

    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// The memory that it takes, roughly.
    pub fn bytes(&self) -> usize {
        let states: usize = self
            .accumulators
            .each
            .iter()
            .map(|accumulator| accumulator.size())
            .sum();
        self.groups.bytes() + states
    }

    /// Adds rows.
    pub fn update(&mut self, groups: &[ArrayRef], rows: usize, arguments: &[Arguments]) -> Result<()> {
        self.groups.intern(groups, rows, &mut self.indices)?;
        self.accumulators.update(&self.indices, self.groups.len(), arguments)
    }

    /// Adds partial states: the state fields of all aggregates, one behind the other.
    pub fn merge(&mut self, groups: &[ArrayRef], rows: usize, states: &[ArrayRef]) -> Result<()> {
        self.groups.intern(groups, rows, &mut self.indices)?;
        self.accumulators.merge(&self.indices, self.groups.len(), states)
    }

    /// The keys and states of all groups, which are forgotten here.
    pub fn take_states(&mut self) -> Result<Vec<ArrayRef>> {
        let mut columns = self.groups.columns()?;
        columns.extend(self.accumulators.take_states()?);
        self.groups.clear();
        Ok(columns)
    }

    /// The keys and results of all groups, which are forgotten here.
    pub fn take_results(&mut self) -> Result<Vec<ArrayRef>> {
        let mut columns = self.groups.columns()?;
        columns.extend(self.accumulators.take_results()?);
        self.groups.clear();
        Ok(columns)
    }
}

impl Accumulators {
    pub fn new(aggregates: &Arc<[Aggregate]>) -> Result<Self> {
        let each = aggregates.iter().map(|aggregate| (aggregate.accumulator)());
        Ok(Self {
            aggregates: Arc::clone(aggregates),
            each: each
                .collect::<datafusion_common::Result<_>>()
                .map_err(Error::aggregate)?,
        })
    }

    pub fn update(&mut self, indices: &[usize], groups: usize, arguments: &[Arguments]) -> Result<()> {
        for (accumulator, arguments) in self.each.iter_mut().zip(arguments) {
            guarded(|| accumulator.update_batch(&arguments.values, indices, arguments.filter.as_ref(), groups))
                .map_err(Error::aggregate)?;
        }
        Ok(())
    }

    pub fn merge(&mut self, indices: &[usize], groups: usize, states: &[ArrayRef]) -> Result<()> {
        let mut states = states;
        for (accumulator, aggregate) in self.each.iter_mut().zip(self.aggregates.iter()) {
            let (own, rest) = states.split_at(aggregate.state_fields.len());
            guarded(|| accumulator.merge_batch(own, indices, groups)).map_err(Error::aggregate)?;
            states = rest;
        }
        Ok(())
    }

    pub fn take_states(&mut self) -> Result<Vec<ArrayRef>> {
        let mut columns = Vec::new();
        for accumulator in &mut self.each {
            columns.extend(guarded(|| accumulator.state(EmitTo::All)).map_err(Error::aggregate)?);
        }
        Ok(columns)
    }

    pub fn take_results(&mut self) -> Result<Vec<ArrayRef>> {
        let results = self
            .each
            .iter_mut()
            .map(|accumulator| guarded(|| accumulator.evaluate(EmitTo::All)));
        results
            .collect::<datafusion_common::Result<_>>()
            .map_err(Error::aggregate)
    }
}
