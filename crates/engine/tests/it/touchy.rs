//! An aggregate that can't bear everything: a sum up to a limit, which some numbers make fail.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BooleanArray, Int64Array};
use arrow::datatypes::{DataType, Field, Int64Type};
use datafusion::common::{Result, exec_err};
use datafusion::logical_expr::{EmitTo, GroupsAccumulator};
use datafusion::prelude::col;
use headwater_engine::plan::{
    Aggregate, ChangelogAggregate, Operator, Output, PartialAggregate, Pipeline, TimeSource, ViewKey, Window,
    WindowAggregate,
};
use headwater_event::op::changelog_schema;

use crate::support::*;

/// A row with this value can't be added.
pub const FAILS: i64 = 13;
/// Nor can one with this.
pub const PANICS: i64 = 14;
/// States whose sum is above this can't be put together.
pub const SUM_MAX: i64 = 1000;
/// This sum has no result.
pub const NO_RESULT: i64 = 666;

#[derive(Default)]
pub struct Touchy {
    sums: Vec<i64>,
}

impl GroupsAccumulator for Touchy {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        groups: &[usize],
        _: Option<&BooleanArray>,
        total: usize,
    ) -> Result<()> {
        self.sums.resize(total, 0);
        for (&group, &value) in groups.iter().zip(values[0].as_primitive::<Int64Type>().values()) {
            match value {
                FAILS => return exec_err!("can't bear {value}"),
                PANICS => panic!("can't bear {value} at all"),
                _ => self.sums[group] += value,
            }
        }
        Ok(())
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        if self.sums.contains(&NO_RESULT) {
            return exec_err!("{NO_RESULT} is no result");
        }
        Ok(Arc::new(Int64Array::from(emit_to.take_needed(&mut self.sums))))
    }

    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        Ok(vec![Arc::new(Int64Array::from(emit_to.take_needed(&mut self.sums)))])
    }

    fn merge_batch(&mut self, values: &[ArrayRef], groups: &[usize], total: usize) -> Result<()> {
        self.sums.resize(total, 0);
        for (&group, &value) in groups.iter().zip(values[0].as_primitive::<Int64Type>().values()) {
            self.sums[group] += value;
            if self.sums[group] > SUM_MAX {
                return exec_err!("a sum above {SUM_MAX}");
            }
        }
        Ok(())
    }

    fn convert_to_state(&self, values: &[ArrayRef], _: Option<&BooleanArray>) -> Result<Vec<ArrayRef>> {
        Ok(values.to_vec())
    }

    fn size(&self) -> usize {
        self.sums.len() * 8
    }
}

pub fn touchy() -> Aggregate {
    Aggregate {
        name: "touchy".to_owned(),
        arguments: vec![physical(col("v"), &schema())],
        filter: None,
        state_fields: vec![Arc::new(Field::new("sum", DataType::Int64, true))],
        result_field: Arc::new(Field::new("sum", DataType::Int64, true)),
        state_is_result: true,
        counts_distinct: false,
        accumulator: Arc::new(|| Ok(Box::<Touchy>::default())),
    }
}

/// The touchy sum by key: in windows or for ever, in one stage or two.
pub fn pipeline_of(aggregate: Aggregate, window: Option<Window>, emit_changes: bool, stages: usize) -> Pipeline {
    let key = || Field::new("key", DataType::Utf8, true);
    let sum = || Field::new("sum", DataType::Int64, true);
    let with = |columns: Vec<Field>| Arc::new(arrow::datatypes::Schema::new([columns, vec![key(), sum()]].concat()));
    let slice = window.map(|_| Field::new("slice", DataType::Int64, false));
    let partial = PartialAggregate {
        window: window.map(|window| (0, window)),
        groups: vec![physical(col("key"), &schema())],
        aggregates: vec![aggregate.clone()],
        schema: with(slice.into_iter().collect()),
    };
    let aggregates = vec![aggregate];
    let (whole, schema_out, key_columns) = match window {
        Some(window) => {
            let bound = |name: &str| Field::new(name, time_type(), false);
            let rows = with(vec![bound("window_start"), bound("window_end")]);
            let schema = if emit_changes { changelog_schema(&rows) } else { rows };
            let whole = WindowAggregate {
                window,
                groups: 1,
                aggregates,
                schema: schema.clone(),
                emit_changes,
                lateness: 0,
            };
            (Operator::WindowAggregate(whole), schema, vec![0, 2])
        }
        None => {
            let schema = changelog_schema(&with(Vec::new()));
            let whole = ChangelogAggregate {
                groups: 1,
                aggregates,
                retraction: None,
                kept_in_view: None,
                schema: schema.clone(),
            };
            (Operator::ChangelogAggregate(whole), schema, vec![0])
        }
    };
    let view = to_view(&schema_out, ViewKey::Columns(key_columns));
    let to_dead_letters = headwater_engine::plan::LateRows::DeadLetter {
        topic: "dead_letters".into(),
        stream: "events".into(),
    };
    let from = input("events", 1, schema(), time_from_rows(to_dead_letters));
    let between = partial.schema.clone();
    let partial_step = Operator::PartialAggregate(partial);
    if stages == 1 {
        return pipeline(vec![stage(from, vec![partial_step, whole], view)]);
    }
    let to_topic = Output::Topic {
        topic: "query-1.0".into(),
        partitions: 2,
        partition_by: vec![between.index_of("key").unwrap()],
        first_producer: 0,
    };
    let then = input("query-1.0", 2, between, TimeSource::Producers { producers: 1 });
    pipeline(vec![
        stage(from, vec![partial_step], to_topic),
        stage(then, vec![whole], view),
    ])
}
