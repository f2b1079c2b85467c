//! A logical plan into stages, in the order of the flow.
//!
//! The plan is walked from its scans on. A scan begins a [`Branch`]; filters, projections and windows add operators to
//! it; aggregates may cut it, so that rows go on in another stage; and branches meet in a topic that
//! all of them write.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::{Column, DFSchema, DataFusionError};
use datafusion::logical_expr::execution_props::ExecutionProps;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::{self, Expr, LogicalPlan};
use datafusion::physical_expr::expressions::Column as PhysicalColumn;
use datafusion::physical_expr::{PhysicalExpr, create_physical_expr};
use headwater_catalog::definition::{Start, StateBound};
use headwater_catalog::snapshot::Snapshot;
use headwater_engine::plan::{
    AssignWindows, Filter, Input, NumberCopies, Operator, Output, Pipeline, Stage, TimeSource, Window,
};
use headwater_event::clock::Micros;
use headwater_event::op::changelog_schema;
use headwater_schema::column::Column as StoredColumn;

use crate::error::{Result, SqlError, find, translate};
use crate::functions::json;
use crate::plan::branch::{Branch, Key, Part, Rows, Source, Time};
use crate::plan::set_operations::Copies;
use crate::plan::temporal::{Versioned, Versions};
use crate::plan::top_n::First;
use crate::plan::ttl::Lasting;
use crate::plan::windows::{Spans, Windows};
use crate::plan::{self, unexpected};
use crate::statement::Select;

/// What is asked of a query besides its text.
pub struct Request<'a> {
    /// The pipeline's name.
    pub name: &'a str,
    pub start: Start,
    pub state: StateBound,
    /// For so long after its end a window is corrected by rows that come late.
    pub allowed_lateness: Micros,
    /// For so long by event time a join keeps rows that it would keep for ever.
    pub state_ttl: Option<Micros>,
    /// Of internal topics; by default as many as the input has.
    pub partitions: Option<u32>,
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

/// The stages of a query as far as they are finished.
pub struct Stages<'a> {
    pub select: &'a Select,
    pub snapshot: &'a Snapshot,
    pub request: &'a Request<'a>,
    done: Vec<Stage>,
    /// The names of the objects that it reads.
    pub reads: Vec<String>,
    /// Whether it has windows that late rows correct.
    pub corrects_windows: bool,
}

pub fn build(plan: &LogicalPlan, select: &Select, snapshot: &Snapshot, request: &Request) -> Result<Flow> {
    let mut stages = Stages::new(select, snapshot, request);
    let branch = stages.node(plan)?;
    if request.allowed_lateness > 0 && !stages.corrects_windows {
        return Err(SqlError::invalid(
            "allowed_lateness is for queries that aggregate over windows: this one has nothing to correct",
        )
        .at(select.source.start())
        .hint("leave it out, or aggregate over TUMBLE, HOP, CUMULATE or SESSION"));
    }
    stages.finish(branch, plan.schema())
}

impl<'a> Stages<'a> {
    pub fn new(select: &'a Select, snapshot: &'a Snapshot, request: &'a Request<'a>) -> Self {
        Self {
            select,
            snapshot,
            request,
            done: Vec::new(),
            reads: Vec::new(),
            corrects_windows: false,
        }
    }
}

impl Stages<'_> {
    /// The branch that ends in the rows of `plan`.
    pub fn node(&mut self, plan: &LogicalPlan) -> Result<Branch> {
        self.node_with(plan, true)
    }

    /// As [`Stages::node`]. Where rows are numbered to take the first ones, and nobody wants the last column, they come
    /// without their numbers.
    fn node_with(&mut self, plan: &LogicalPlan, last_column: bool) -> Result<Branch> {
        match plan {
            LogicalPlan::TableScan(scan) => self.scan(scan),
            LogicalPlan::SubqueryAlias(alias) => {
                let mut branch = self.node_with(&alias.input, last_column)?;
                let renamed = DFSchema::try_from_qualified_schema(alias.alias.clone(), branch.rows.columns.as_arrow());
                branch.rows.columns = renamed.map_err(|error| self.error(&error))?;
                Ok(branch)
            }
            LogicalPlan::Filter(filter) => {
                if let Some(first) = First::of(filter) {
                    return self.first_rows(&first, last_column);
                }
                let mut branch = self.node(&filter.input)?;
                self.filter(&mut branch, &filter.predicate)?;
                Ok(branch)
            }
            LogicalPlan::Projection(projection) => {
                let mut branch = self.node_with(&projection.input, takes_last_column(projection))?;
                self.project(&mut branch, &projection.expr, &projection.schema)?;
                Ok(branch)
            }
            LogicalPlan::Extension(extension) => {
                let node = extension.node.as_any();
                if node.is::<Versions>() {
                    return Err(self.misplaced_versions());
                }
                if let Some(lasting) = node.downcast_ref::<Lasting>() {
                    return self.expiring(lasting);
                }
                if let Some(copies) = node.downcast_ref::<Copies>() {
                    return self.copies(copies);
                }
                let Some(windows) = node.downcast_ref::<Windows>() else {
                    return Err(self.refused("this"));
                };
                let mut branch = self.node(&windows.input)?;
                self.assign(&mut branch, windows)?;
                Ok(branch)
            }
            LogicalPlan::Aggregate(aggregate) => self.aggregate(aggregate),
            LogicalPlan::Window(window) => self.over(window),
            LogicalPlan::Union(union) => self.union(union),
            LogicalPlan::Join(join) => match Versioned::of(&join.right) {
                Some(versioned) => self.temporal_join(join, versioned),
                None => self.join(join),
            },
            other => Err(self.refused(&other.display().to_string())),
        }
    }

    pub fn filter(&self, branch: &mut Branch, predicate: &Expr) -> Result<()> {
        let predicate = self.physical(branch, predicate)?;
        branch.part.operators.push(Operator::Filter(Filter { predicate }));
        Ok(())
    }

    /// The rows become these expressions over them.
    pub fn project(&self, branch: &mut Branch, expressions: &[Expr], schema: &DFSchema) -> Result<()> {
        let mut physical = Vec::with_capacity(expressions.len() + 1);
        let mut from = Vec::with_capacity(expressions.len());
        let mut named = Vec::with_capacity(expressions.len());
        let mut times = Vec::new();
        for (at, expression) in expressions.iter().enumerate() {
            physical.push(self.physical(branch, expression)?);
            let expression = expression.clone().unalias_nested().data;
            let column = place_of(&expression, &branch.rows.columns);
            times.extend(greatest_time(&expression, &branch.rows).map(|time| (at, time)));
            from.push(column);
            named.push(unchanged(&expression, &branch.rows.columns));
        }
        branch.push_project(physical, schema.as_arrow().clone());
        let mut key = std::mem::take(&mut branch.rows.key);
        key.moved(&named);
        branch.rows.moved(&from);
        branch.rows.times.extend(times);
        branch.rows.key = key;
        branch.rows.columns = schema.clone();
        Ok(())
    }

    /// Windows without an aggregate over them.
    fn assign(&self, branch: &mut Branch, windows: &Windows) -> Result<()> {
        if branch.rows.changelog {
            return Err(self.refused("a window over a result that changes"));
        }
        let Spans::Aligned(window) = windows.spans else {
            return Err(self.session_without_aggregate());
        };
        let time_column = self.time_column(branch, windows)?;
        let time_type = branch.rows.columns.field(time_column).data_type().clone();
        let before = branch.rows.columns.clone();
        let mut fields: Vec<_> = before.fields().iter().cloned().collect();
        for name in plan::windows::WINDOW_COLUMNS {
            fields.push(Arc::new(arrow::datatypes::Field::new(name, time_type.clone(), false)));
        }
        let count = before.fields().len();
        branch.part.operators.push(Operator::AssignWindows(AssignWindows {
            time_column,
            window,
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
        branch.push_project(columns, schema.as_arrow().clone());
        branch.rows.times.insert(count, Time::WindowStart(window));
        branch.rows.times.insert(count + 1, Time::WindowEnd);
        branch.rows.times.insert(count + 2, Time::WindowEnd);
        branch.rows.moved(&from);
        branch.rows.columns = schema.as_ref().clone();
        Ok(())
    }

    /// The time column of windows among the rows, if there is a watermark for it.
    pub fn time_column(&self, branch: &Branch, windows: &Windows) -> Result<usize> {
        let name = &windows.time.name;
        let place = || find(&self.select.source, name);
        let at = branch
            .rows
            .columns
            .maybe_index_of_column(&windows.time)
            .ok_or_else(|| SqlError::internal(format!("the time column {name} is not among the rows")))?;
        match branch.rows.times.get(&at) {
            Some(Time::Event | Time::WindowEnd) => Ok(at),
            Some(Time::WindowStart(inner)) if nests(*inner, &windows.spans) => Ok(at),
            Some(Time::WindowStart(_)) => Err(SqlError::invalid(format!(
                "these windows don't end where those behind {name} end, so their rows would come late"
            ))
            .at(place())
            .hint("take window_time (or window_end) of the inner windows for the time")),
            None if matches!(branch.part.input.time, TimeSource::None) => Err(SqlError::invalid(format!(
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
            .hint(match branch.rows.times.is_empty() {
                true => "take the column with the event time as it is".to_owned(),
                false => format!("columns with event time here: {}", self.time_names(branch)),
            })),
        }
        .map_err(|error| error.or_at_start(&self.select.source))
    }

    fn time_names(&self, branch: &Branch) -> String {
        let names: Vec<_> = branch
            .rows
            .times
            .keys()
            .map(|&at| branch.rows.columns.field(at).name().clone())
            .collect();
        names.join(", ")
    }

    /// From here on windows close by time: late rows leave the query.
    pub fn closes_windows(&mut self, branch: &mut Branch) {
        self.closes_windows_after(branch, 0);
    }

    /// As [`Stages::closes_windows`], of windows that can be corrected for as long as the request says; answers how long.
    pub fn closes_corrected_windows(&mut self, branch: &mut Branch) -> Result<Micros> {
        let lateness = self.request.allowed_lateness;
        if lateness > 0 && self.holds_rows_back(&branch.part.input, &branch.part.operators) {
            return Err(SqlError::unsupported(
                "allowed_lateness is not available over what waits for the watermark itself: \
                 joins that are close in time, window functions, first rows of windows",
            )
            .at(self.select.source.start())
            .hint("leave it out, or aggregate over windows of the stream itself"));
        }
        self.corrects_windows = true;
        self.closes_windows_after(branch, lateness);
        Ok(lateness)
    }

    /// Whether operators between the scans and here wait for the watermark.
    fn holds_rows_back(&self, input: &Input, operators: &[Operator]) -> bool {
        let mut before = self.done.iter().filter(|stage| stage.output.is_to(&input.topic));
        operators.iter().any(Operator::closes_by_time)
            || before.any(|stage| self.holds_rows_back(&stage.input, &stage.operators))
    }

    fn closes_windows_after(&mut self, branch: &mut Branch, allowed: Micros) {
        for source in &branch.sources {
            let input = match source.stage {
                Some(stage) => &mut self.done[stage].input,
                None => &mut branch.part.input,
            };
            if let TimeSource::Rows { late, lateness, .. } = &mut input.time {
                *lateness = allowed;
                *late = source.late.clone();
            }
        }
    }

    /// Ends the stage of a branch: its rows go on through an internal topic, partitioned by these columns.
    pub fn cut(&mut self, branch: Branch, schema: SchemaRef, partition_by: Vec<usize>) -> Branch {
        let rows = branch.rows.clone();
        let partitions = match partition_by.as_slice() {
            [] => 1,
            _ => self.request.partitions.unwrap_or(rows.tasks),
        };
        self.meet(vec![branch], schema, partition_by, partitions, rows)
    }

    /// Ends the stages of branches: their rows, which have one schema, go on together through an internal topic. `rows` is
    /// what is known of them then.
    pub fn meet(
        &mut self,
        branches: Vec<Branch>,
        schema: SchemaRef,
        partition_by: Vec<usize>,
        partitions: u32,
        mut rows: Rows,
    ) -> Branch {
        let topic: Arc<str> = format!("{}.{}", self.request.name, self.done.len()).into();
        let mut producers = 0;
        let mut sources = Vec::new();
        let mut idle_timeout = Duration::ZERO;
        for branch in branches {
            let stage = self.done.len();
            let reads = branch.sources.into_iter().map(|source| Source {
                stage: source.stage.or(Some(stage)),
                ..source
            });
            sources.extend(reads);
            idle_timeout = idle_timeout.max(branch.part.input.idle_timeout);
            let tells_time = !matches!(branch.part.input.time, TimeSource::None);
            self.done.push(Stage {
                input: branch.part.input,
                operators: branch.part.operators,
                output: Output::Topic {
                    topic: Arc::clone(&topic),
                    partitions,
                    partition_by: partition_by.clone(),
                    first_producer: producers,
                },
                tables: Vec::new(),
            });
            if tells_time {
                producers += branch.rows.tasks;
            }
        }
        rows.tasks = partitions;
        let input = Input {
            topic,
            partitions,
            columns: (0..schema.fields().len()).collect(),
            schema,
            time: match producers {
                0 => TimeSource::None,
                producers => TimeSource::Producers { producers },
            },
            from_latest: false,
            idle_timeout,
        };
        let part = Part {
            input,
            operators: Vec::new(),
        };
        Branch { part, rows, sources }
    }

    pub fn physical(&self, branch: &Branch, expression: &Expr) -> Result<Arc<dyn PhysicalExpr>> {
        physical(expression, &branch.rows.columns).map_err(|error| self.error(&error))
    }

    pub fn error(&self, error: &DataFusionError) -> SqlError {
        translate(error, &self.select.source)
    }

    pub fn refused(&self, what: &str) -> SqlError {
        unexpected(what).or_at_start(&self.select.source)
    }

    /// The result's columns in their order and as they are kept.
    fn finish(self, mut branch: Branch, result: &DFSchema) -> Result<Flow> {
        let columns = stored(result);
        let schema = Schema::new(columns.iter().map(StoredColumn::field).collect::<Vec<_>>());
        let from: Vec<usize> = result
            .columns()
            .iter()
            .map(|column| branch.rows.columns.index_of_column(column))
            .collect::<datafusion::common::Result<_>>()
            .map_err(|error| self.error(&error))?;
        let in_order =
            from.len() == branch.rows.columns.fields().len() && from.iter().enumerate().all(|(n, &at)| n == at);
        let with_op = if branch.rows.changelog {
            changelog_schema(&schema)
        } else {
            Arc::new(schema.clone())
        };
        match branch.part.operators.last_mut() {
            Some(Operator::Project(last)) if in_order => last.schema = with_op,
            None if in_order && branch.part.input.schema == with_op => {}
            _ => {
                let expressions = from.iter().map(|&at| -> Arc<dyn PhysicalExpr> {
                    Arc::new(PhysicalColumn::new(branch.rows.columns.field(at).name(), at))
                });
                let expressions = expressions.collect();
                branch.push_project(expressions, schema);
                let from: Vec<_> = from.into_iter().map(Some).collect();
                branch.rows.moved(&from);
            }
        }
        Ok(Flow {
            stages: self.done,
            last: branch.part,
            columns,
            changelog: branch.rows.changelog,
            key: branch.rows.key,
            partitioned: branch.rows.partitioned,
            times: branch.rows.times,
            tasks: branch.rows.tasks,
            reads: self.reads,
        })
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

    /// What the last stage does, for where its rows go.
    pub fn last_operators(&mut self) -> &mut [Operator] {
        &mut self.last.operators
    }

    /// Numbers equal rows, in a column behind the others.
    pub fn number_copies(&mut self) {
        let mut fields: Vec<_> = self.stored_schema().fields().iter().cloned().collect();
        fields.push(Arc::new(Field::new("copy", DataType::UInt32, false)));
        let schema = changelog_schema(&Schema::new(fields));
        self.last
            .operators
            .push(Operator::NumberCopies(NumberCopies { schema }));
    }

    pub fn into_pipeline(self, name: &str, output: Output) -> Pipeline {
        let mut stages = self.stages;
        stages.push(Stage {
            input: self.last.input,
            operators: self.last.operators,
            output,
            tables: Vec::new(),
        });
        Pipeline {
            name: name.into(),
            stages,
        }
    }
}

/// The column that an expression is, as it is or cast from one kind of integer to another: it still tells rows apart.
pub fn unchanged(expression: &Expr, columns: &DFSchema) -> Option<usize> {
    let Expr::Cast(cast) = expression else {
        return place_of(expression, columns);
    };
    let at = place_of(&cast.expr, columns)?;
    let is_integer = columns.field(at).data_type().is_integer() && cast.field.data_type().is_integer();
    is_integer.then_some(at)
}

fn place_of(expression: &Expr, columns: &DFSchema) -> Option<usize> {
    match expression {
        Expr::Column(column) => columns.maybe_index_of_column(column),
        _ => None,
    }
}

/// What the greatest of columns with event time is, which is one too. The watermark is about all of them alike.
fn greatest_time(expression: &Expr, rows: &Rows) -> Option<Time> {
    let Expr::ScalarFunction(call) = expression else {
        return None;
    };
    let time = |argument: &Expr| rows.times.get(&place_of(argument, &rows.columns)?).copied();
    let first = time(call.args.first()?).filter(|first| matches!(first, Time::Event | Time::WindowEnd));
    let is_greatest = call.func.name() == "greatest" && call.args.iter().all(|argument| time(argument) == first);
    first.filter(|_| is_greatest)
}

pub fn physical(expression: &Expr, columns: &DFSchema) -> datafusion::common::Result<Arc<dyn PhysicalExpr>> {
    create_physical_expr(
        expression,
        columns,
        &ExecutionProps::new(),
        &PhysicalPlanningContext::default(),
    )
}

/// Whether a projection takes the last column of its input.
fn takes_last_column(projection: &logical_expr::Projection) -> bool {
    let last = projection.input.schema().columns().pop();
    let mut expressions = projection.expr.iter();
    last.is_some_and(|last| expressions.any(|expression| expression.column_refs().contains(&last)))
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
fn nests(inner: Window, outer: &Spans) -> bool {
    let Spans::Aligned(outer) = outer else { return false };
    let aligned = (outer.offset + outer.size - inner.offset - inner.size) % inner.slide == 0;
    inner.is_tumbling() && outer.slide % inner.size == 0 && outer.step % inner.size == 0 && aligned
}
