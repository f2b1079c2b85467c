//! A logical plan into operators, in the order of the flow.
//!
//! The plan of a query without joins and unions is a chain from a scan to the result. It is walked
//! from the scan on, and what is known of the rows (their columns, which of them hold event time,
//! which decide the partition, which name a row) is kept in step with the operators.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use datafusion::common::{Column, DFSchema, DataFusionError};
use datafusion::logical_expr::execution_props::ExecutionProps;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::{Expr, LogicalPlan};
use datafusion::physical_expr::expressions::Column as PhysicalColumn;
use datafusion::physical_expr::{PhysicalExpr, create_physical_expr};
use headwater_catalog::definition::Start;
use headwater_catalog::snapshot::Snapshot;
use headwater_engine::plan::{
    AssignWindows, Filter, Input, LateRows, Operator, Output, Pipeline, Project, Stage, TimeSource, Window,
};
use headwater_event::op::{OP_COLUMN, changelog_schema};
use headwater_schema::column::Column as StoredColumn;

use crate::error::{Result, SqlError, find, translate};
use crate::functions::json;
use crate::plan::windows::Windows;
use crate::plan::{self, scan, unexpected};
use crate::statement::Select;

/// What is asked of a query besides its text.
pub struct Request<'a> {
    /// The pipeline's name.
    pub name: &'a str,
    pub start: Start,
    /// Of internal topics; by default as many as the input has.
    pub partitions: Option<u32>,
    /// A `SELECT … EMIT CHANGES`: it may follow a view.
    pub live: bool,
}

/// A query as stages, but for the last one's output.
#[derive(Debug)]
pub struct Flow {
    pub stages: Vec<Stage>,
    last: Part,
    /// The columns of the result, without the op column.
    pub columns: Vec<StoredColumn>,
    /// The result changes: batches end in the op column.
    pub changelog: bool,
    pub key: Key,
    /// The columns whose hash gave a row its partition, in this order.
    pub partitioned: Option<Vec<usize>>,
    pub times: BTreeMap<usize, Time>,
    /// The tasks of the last stage.
    pub tasks: u32,
    /// The objects that it reads.
    pub reads: Vec<String>,
}

/// What names a row of a result.
#[derive(Clone, Debug, Default)]
pub enum Key {
    /// Nothing in it.
    #[default]
    Nothing,
    /// Its window, if it has one, and its groups. Each with where it is among the columns now.
    Groups {
        /// The start, and the end (or the last microsecond).
        window: Option<[Option<usize>; 2]>,
        groups: Vec<(String, Option<usize>)>,
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

/// A query on its way.
pub struct Chain<'a> {
    pub select: &'a Select,
    pub request: &'a Request<'a>,
    pub stages: Vec<Stage>,
    pub part: Part,
    pub rows: Rows,
    pub reads: Vec<String>,
    /// Where late rows go if the query closes windows.
    pub late: LateRows,
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

pub fn build(plan: &LogicalPlan, select: &Select, snapshot: &Snapshot, request: &Request) -> Result<Flow> {
    let mut chain = scan::start(plan, select, snapshot, request)?;
    chain.node(plan)?;
    chain.finish(plan.schema())
}

impl Chain<'_> {
    /// Appends the operators of `plan`.
    pub fn node(&mut self, plan: &LogicalPlan) -> Result<()> {
        match plan {
            LogicalPlan::TableScan(_) => Ok(()),
            LogicalPlan::SubqueryAlias(alias) => {
                self.node(&alias.input)?;
                let renamed = DFSchema::try_from_qualified_schema(alias.alias.clone(), self.rows.columns.as_arrow());
                self.rows.columns = renamed.map_err(|error| self.error(&error))?;
                Ok(())
            }
            LogicalPlan::Filter(filter) => {
                self.node(&filter.input)?;
                self.filter(&filter.predicate)
            }
            LogicalPlan::Projection(projection) => {
                self.node(&projection.input)?;
                self.project(&projection.expr, &projection.schema)
            }
            LogicalPlan::Extension(extension) => match extension.node.as_any().downcast_ref::<Windows>() {
                Some(windows) => {
                    self.node(&windows.input)?;
                    self.assign(windows)
                }
                None => Err(self.refused("this")),
            },
            LogicalPlan::Aggregate(aggregate) => self.aggregate(aggregate),
            other => Err(self.refused(&other.display().to_string())),
        }
    }

    pub fn filter(&mut self, predicate: &Expr) -> Result<()> {
        let predicate = self.physical(predicate)?;
        self.part.operators.push(Operator::Filter(Filter { predicate }));
        Ok(())
    }

    /// The rows become these expressions over them.
    pub fn project(&mut self, expressions: &[Expr], schema: &DFSchema) -> Result<()> {
        let mut physical = Vec::with_capacity(expressions.len() + 1);
        let mut from = Vec::with_capacity(expressions.len());
        for expression in expressions {
            physical.push(self.physical(expression)?);
            let column = match expression.clone().unalias_nested().data {
                Expr::Column(column) => self.rows.columns.maybe_index_of_column(&column),
                _ => None,
            };
            from.push(column);
        }
        self.push_project(physical, schema.as_arrow().clone());
        self.rows.moved(&from);
        self.rows.columns = schema.clone();
        Ok(())
    }

    pub fn push_project(&mut self, mut expressions: Vec<Arc<dyn PhysicalExpr>>, schema: Schema) {
        let mut schema = Arc::new(schema);
        if self.rows.changelog {
            expressions.push(Arc::new(PhysicalColumn::new(
                OP_COLUMN,
                self.rows.columns.fields().len(),
            )));
            schema = changelog_schema(&schema);
        }
        self.part
            .operators
            .push(Operator::Project(Project { expressions, schema }));
    }

    /// Windows without an aggregate over them.
    fn assign(&mut self, windows: &Windows) -> Result<()> {
        if self.rows.changelog {
            return Err(self.refused("a window over a result that changes"));
        }
        let time_column = self.time_column(windows)?;
        let time_type = self.rows.columns.field(time_column).data_type().clone();
        let before = self.rows.columns.clone();
        let mut fields: Vec<_> = before.fields().iter().cloned().collect();
        for name in plan::windows::WINDOW_COLUMNS {
            fields.push(Arc::new(arrow::datatypes::Field::new(name, time_type.clone(), false)));
        }
        let count = before.fields().len();
        self.part.operators.push(Operator::AssignWindows(AssignWindows {
            time_column,
            window: windows.window,
            schema: Arc::new(Schema::new(fields)),
        }));
        let schema = datafusion::logical_expr::UserDefinedLogicalNodeCore::schema(windows).clone();
        let mut from = Vec::new();
        for (relation, field) in schema.iter() {
            let added = plan::windows::WINDOW_COLUMNS
                .iter()
                .position(|name| name == field.name());
            let column = Column::new(relation.cloned(), field.name());
            from.push(
                added
                    .map(|n| count + n)
                    .or_else(|| before.maybe_index_of_column(&column)),
            );
        }
        let columns = from
            .iter()
            .zip(schema.fields())
            .map(|(at, field)| -> Arc<dyn PhysicalExpr> {
                Arc::new(PhysicalColumn::new(field.name(), at.unwrap_or_default()))
            });
        let columns = columns.collect();
        self.push_project(columns, schema.as_arrow().clone());
        self.rows.times.insert(count, Time::WindowStart(windows.window));
        self.rows.times.insert(count + 1, Time::WindowEnd);
        self.rows.times.insert(count + 2, Time::WindowEnd);
        self.rows.moved(&from);
        self.rows.columns = schema.as_ref().clone();
        Ok(())
    }

    /// The time column of windows among the rows, if there is a watermark for it.
    pub fn time_column(&self, windows: &Windows) -> Result<usize> {
        let name = &windows.time.name;
        let place = || find(&self.select.source, name);
        let at = self
            .rows
            .columns
            .maybe_index_of_column(&windows.time)
            .ok_or_else(|| SqlError::internal(format!("the time column {name} is not among the rows")))?;
        match self.rows.times.get(&at) {
            Some(Time::Event | Time::WindowEnd) => Ok(at),
            Some(Time::WindowStart(inner)) if nests(*inner, windows.window) => Ok(at),
            Some(Time::WindowStart(_)) => Err(SqlError::invalid(format!(
                "these windows don't end where those behind {name} end, so their rows would come late"
            ))
            .at(place())
            .hint("take window_time (or window_end) of the inner windows for the time")),
            None if matches!(self.part.input.time, TimeSource::None) => Err(SqlError::invalid(format!(
                "{} has no WATERMARK, so it is never known when a window is complete",
                self.reads.join(", ")
            ))
            .at(place())
            .hint(format!(
                "add to the stream's columns: WATERMARK FOR {name} AS {name} - INTERVAL '5' SECOND"
            ))),
            None => Err(SqlError::invalid(format!(
                "the WATERMARK is not for {name}, so its windows can't be closed"
            ))
            .at(place())
            .hint(match self.rows.times.is_empty() {
                true => "take the column with the event time as it is".to_owned(),
                false => format!("columns with event time here: {}", self.time_names()),
            })),
        }
        .map_err(|error| error.or_at_start(&self.select.source))
    }

    fn time_names(&self) -> String {
        let names: Vec<_> = self
            .rows
            .times
            .keys()
            .map(|&at| self.rows.columns.field(at).name().clone())
            .collect();
        names.join(", ")
    }

    /// From here on windows close by time: late rows leave the query.
    pub fn closes_windows(&mut self) {
        let input = match self.stages.first_mut() {
            Some(first) => &mut first.input,
            None => &mut self.part.input,
        };
        if let TimeSource::Rows { late, .. } = &mut input.time {
            *late = self.late.clone();
        }
    }

    pub fn physical(&self, expression: &Expr) -> Result<Arc<dyn PhysicalExpr>> {
        physical(expression, &self.rows.columns).map_err(|error| self.error(&error))
    }

    pub fn error(&self, error: &DataFusionError) -> SqlError {
        translate(error, &self.select.source)
    }

    pub fn refused(&self, what: &str) -> SqlError {
        unexpected(what).or_at_start(&self.select.source)
    }

    /// The result's columns in their order and as they are kept.
    fn finish(mut self, result: &DFSchema) -> Result<Flow> {
        let columns = stored(result);
        let schema = Schema::new(columns.iter().map(StoredColumn::field).collect::<Vec<_>>());
        let from: Vec<usize> = result
            .columns()
            .iter()
            .map(|column| self.rows.columns.index_of_column(column))
            .collect::<datafusion::common::Result<_>>()
            .map_err(|error| self.error(&error))?;
        let in_order =
            from.len() == self.rows.columns.fields().len() && from.iter().enumerate().all(|(n, &at)| n == at);
        let with_op = if self.rows.changelog {
            changelog_schema(&schema)
        } else {
            Arc::new(schema.clone())
        };
        match self.part.operators.last_mut() {
            Some(Operator::Project(last)) if in_order => last.schema = with_op,
            None if in_order && self.part.input.schema == with_op => {}
            _ => {
                let expressions = from.iter().map(|&at| -> Arc<dyn PhysicalExpr> {
                    Arc::new(PhysicalColumn::new(self.rows.columns.field(at).name(), at))
                });
                let expressions = expressions.collect();
                self.push_project(expressions, schema);
                let from: Vec<_> = from.into_iter().map(Some).collect();
                self.rows.moved(&from);
            }
        }
        Ok(Flow {
            stages: self.stages,
            last: self.part,
            columns,
            changelog: self.rows.changelog,
            key: self.rows.key,
            partitioned: self.rows.partitioned,
            times: self.rows.times,
            tasks: self.rows.tasks,
            reads: self.reads,
        })
    }
}

impl Rows {
    /// Every column `n` is now what was the column `from[n]`, or something new.
    pub fn moved(&mut self, from: &[Option<usize>]) {
        let to = |old: usize| from.iter().position(|&from| from == Some(old));
        if let Key::Groups { window, groups } = &mut self.key {
            if let Some(window) = window {
                *window = window.map(|at| at.and_then(to));
            }
            for (_, at) in groups {
                *at = at.and_then(to);
            }
        }
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

impl Flow {
    /// The schema of the batches that come out.
    pub fn rows_schema(&self) -> SchemaRef {
        let schema = self.stored_schema();
        if self.changelog {
            changelog_schema(&schema)
        } else {
            schema
        }
    }

    pub fn stored_schema(&self) -> SchemaRef {
        Arc::new(Schema::new(
            self.columns.iter().map(StoredColumn::field).collect::<Vec<_>>(),
        ))
    }

    pub fn into_pipeline(self, name: &str, output: Output) -> Pipeline {
        let mut stages = self.stages;
        stages.push(Stage {
            input: self.last.input,
            operators: self.last.operators,
            output,
        });
        Pipeline {
            name: name.into(),
            stages,
        }
    }
}

pub fn physical(expression: &Expr, columns: &DFSchema) -> datafusion::common::Result<Arc<dyn PhysicalExpr>> {
    create_physical_expr(
        expression,
        columns,
        &ExecutionProps::new(),
        &PhysicalPlanningContext::default(),
    )
}

fn stored(result: &DFSchema) -> Vec<StoredColumn> {
    let columns = result.fields().iter().map(|field| StoredColumn {
        name: field.name().clone(),
        data_type: field.data_type().clone(),
        json: json::is_json(field),
        nullable: field.is_nullable(),
        default: None,
    });
    columns.collect()
}

/// Whether every window of `outer` ends where one of `inner` does, so that the inner rows, which come
/// when their window ends, are there when the outer one closes.
fn nests(inner: Window, outer: Window) -> bool {
    let aligned = (outer.offset + outer.size - inner.offset - inner.size) % inner.slide == 0;
    inner.slide == inner.size && outer.slide % inner.size == 0 && aligned
}
