//! A branch of a query on its way from a scan to the result: the operators so far, and what is known of
//! the rows behind them (their columns, which of them hold event time, which decide the partition, which name
//! a row), kept in step with the operators.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use datafusion::common::DFSchema;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{Column as PhysicalColumn, Literal};
use headwater_engine::plan::{Input, LateRows, Operator, Project, Window};
use headwater_event::op::{OP_COLUMN, Op, changelog_schema};

/// A part of a query that ends in one sort of rows.
#[derive(Clone, Debug)]
pub struct Branch {
    pub part: Part,
    pub rows: Rows,
    pub sources: Vec<Source>,
}

/// A stream or view that a branch reads.
#[derive(Clone, Debug)]
pub struct Source {
    /// The finished stage that reads it; `None` for the branch's unfinished part.
    pub stage: Option<usize>,
    /// Where late rows go if the query closes windows.
    pub late: LateRows,
}

/// What names a row of a result.
#[derive(Clone, Debug, Default)]
pub enum Key {
    /// Nothing in it.
    #[default]
    Nothing,
    /// Its window, if it has one, and its groups. Each with where it is among the columns now, if it still is.
    Groups {
        /// The start, and the end (or the last microsecond).
        window: Option<[Option<usize>; 2]>,
        groups: Vec<Option<usize>>,
    },
}

/// What a column with event time holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Time {
    /// What the watermark is about.
    Event,
    WindowStart(Window),
    /// Its end, or its last microsecond.
    WindowEnd,
}

/// A stage that is not finished.
#[derive(Clone, Debug)]
pub struct Part {
    pub input: Input,
    pub operators: Vec<Operator>,
}

/// What is known of the rows at this point.
#[derive(Clone, Debug)]
pub struct Rows {
    /// The columns as expressions refer to them, without the op column.
    pub columns: DFSchema,
    pub changelog: bool,
    pub key: Key,
    pub partitioned: Option<Vec<usize>>,
    pub times: BTreeMap<usize, Time>,
    pub tasks: u32,
}

/// The schema of batches of these rows.
pub fn schema_of(rows: &Rows) -> SchemaRef {
    let columns = rows.columns.as_arrow();
    match rows.changelog {
        true => changelog_schema(columns),
        false => Arc::new(columns.clone()),
    }
}

impl Branch {
    /// The rows become these expressions over them. An op column goes along.
    pub fn push_project(&mut self, mut expressions: Vec<Arc<dyn PhysicalExpr>>, schema: Schema) {
        let mut schema = Arc::new(schema);
        if self.rows.changelog {
            let op = PhysicalColumn::new(OP_COLUMN, self.rows.columns.fields().len());
            expressions.push(Arc::new(op));
            schema = changelog_schema(&schema);
        }
        self.part
            .operators
            .push(Operator::Project(Project { expressions, schema }));
    }

    /// The rows as a changelog, if they aren't one: all of them are insertions.
    pub fn make_changelog(&mut self) {
        if self.rows.changelog {
            return;
        }
        let columns = self.rows.columns.as_arrow();
        let mut expressions: Vec<Arc<dyn PhysicalExpr>> = Vec::with_capacity(columns.fields().len() + 1);
        for (at, field) in columns.fields().iter().enumerate() {
            expressions.push(Arc::new(PhysicalColumn::new(field.name(), at)));
        }
        expressions.push(Arc::new(Literal::new((Op::Insert as i8).into())));
        let schema = changelog_schema(columns);
        self.part
            .operators
            .push(Operator::Project(Project { expressions, schema }));
        self.rows.changelog = true;
    }
}

impl Key {
    /// Takes columns in that are not in it yet.
    pub fn add(&mut self, columns: &[usize]) {
        if let Self::Groups { window, groups } = self {
            for column in columns.iter().map(|&column| Some(column)) {
                if !groups.contains(&column) && !window.iter().flatten().any(|bound| *bound == column) {
                    groups.push(column);
                }
            }
        }
    }

    /// Every column `n` is now what was the column `from[n]`, or something new.
    pub fn moved(&mut self, from: &[Option<usize>]) {
        let to = |old: usize| from.iter().position(|&from| from == Some(old));
        if let Self::Groups { window, groups } = self {
            if let Some(window) = window {
                *window = window.map(|at| at.and_then(to));
            }
            for at in groups {
                *at = at.and_then(to);
            }
        }
    }
}

impl Rows {
    /// Every column `n` is now what was the column `from[n]`, or something new.
    pub fn moved(&mut self, from: &[Option<usize>]) {
        let to = |old: usize| from.iter().position(|&from| from == Some(old));
        self.key.moved(from);
        self.partitioned = self
            .partitioned
            .take()
            .and_then(|columns| columns.into_iter().map(to).collect());
        let times = from
            .iter()
            .enumerate()
            .filter_map(|(new, old)| Some((new, *self.times.get(old.as_ref()?)?)));
        self.times = times.collect();
    }
}
