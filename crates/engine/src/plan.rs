//! What a continuous query is made of: stages, each a chain of operators between two topics.
//!
//! A stage needs no data to change place. Wherever rows must meet by key the query is cut, and the
//! two stages are joined by an internal topic. So there is one way to move rows between tasks,
//! threads or machines: the log.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::compute::SortOptions;
use arrow::datatypes::{FieldRef, SchemaRef};
use datafusion_common::Result;
use datafusion_expr_common::accumulator::Accumulator;
use datafusion_expr_common::groups_accumulator::GroupsAccumulator;
use datafusion_physical_expr_common::physical_expr::PhysicalExpr;
use headwater_event::clock::Micros;

use crate::operators::{closes_by_time, has_state, output_schema};

/// A continuous query, ready to run.
#[derive(Clone, Debug)]
pub struct Pipeline {
    /// Unique among running pipelines, and the same after a restart: topics, state tables and
    /// owners are named after it. For a catalog object `name-id`.
    pub name: Arc<str>,
    /// In the order of the flow: a stage stands behind those that write what it reads. Several may write
    /// one topic: that is how inputs meet.
    pub stages: Vec<Stage>,
}

#[derive(Clone, Debug)]
pub struct Stage {
    pub input: Input,
    pub operators: Vec<Operator>,
    pub output: Output,
    /// The numbers of the state tables of those operators that have one, in their order. Where there are none they are the
    /// operators' places.
    pub tables: Vec<usize>,
}

/// The topic that a stage reads; one task for each of its partitions.
#[derive(Clone, Debug)]
pub struct Input {
    pub topic: Arc<str>,
    pub partitions: u32,
    /// The columns to read, ascending, of the topic's schema; `schema` is what they give.
    pub columns: Vec<usize>,
    pub schema: SchemaRef,
    pub time: TimeSource,
    /// Begin at the end of the topic, where there is no commit to go on from.
    pub from_latest: bool,
    pub idle_timeout: Duration,
}

/// Where a stage's watermark comes from.
#[derive(Clone, Debug)]
pub enum TimeSource {
    /// Nothing in the query needs event time.
    None,
    /// From the rows: the greatest time seen in `column` (of the input's schema, a
    /// `Timestamp(Microsecond, _)`), less `delay`. A row more than `lateness` below the watermark as it stood
    /// before the row is late; strictly below it where nothing is allowed for.
    Rows {
        column: usize,
        delay: Micros,
        lateness: Micros,
        late: LateRows,
    },
    /// From the progress that `producers` tasks wrote with their batches, of all stages that write the topic: the
    /// least of the live ones.
    Producers { producers: u32 },
}

/// Late rows are always counted.
#[derive(Clone, Debug)]
pub enum LateRows {
    /// Rows pass on: nothing in this query closes by time.
    Keep,
    Drop,
    /// To the stream `dead_letters`: `topic` is its topic, `stream` the stream that they came from.
    DeadLetter {
        topic: Arc<str>,
        stream: Arc<str>,
    },
}

#[derive(Clone, Debug)]
pub enum Operator {
    Filter(Filter),
    Project(Project),
    AssignWindows(AssignWindows),
    GroupingSets(GroupingSets),
    PartialAggregate(PartialAggregate),
    WindowAggregate(WindowAggregate),
    PartialSessions(PartialSessions),
    SessionAggregate(SessionAggregate),
    ChangelogAggregate(ChangelogAggregate),
    RetractingAggregate(RetractingAggregate),
    NumberCopies(NumberCopies),
    Copies(Copies),
    Expire(Expire),
    TopN(TopN),
    Over(Over),
    ChangelogOver(ChangelogOver),
    Join(Join),
    TemporalJoin(TemporalJoin),
    Lookup(Lookup),
}

/// Keeps the rows for which `predicate` is true. On a changelog as on any batch.
#[derive(Clone, Debug)]
pub struct Filter {
    pub predicate: Arc<dyn PhysicalExpr>,
}

/// Computes columns. On a changelog the last expression passes the op column on.
#[derive(Clone, Debug)]
pub struct Project {
    pub expressions: Vec<Arc<dyn PhysicalExpr>>,
    pub schema: SchemaRef,
}

/// Event-time windows `[start, end)`, aligned to the epoch plus `offset`. They begin every `slide`, and end at
/// every `step` from there until they have their `size`. Hopping windows have a step as long as
/// they are, cumulating ones such a slide, and tumbling ones both. All in microseconds,
/// `0 < slide <= size`, `size` a multiple of `step`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Window {
    pub size: Micros,
    pub slide: Micros,
    pub step: Micros,
    pub offset: Micros,
}

/// Appends the columns `window_start`, `window_end`, `window_time` (the last microsecond of the window;
/// all of the time column's type) to every row, once for each window that holds it. For queries that use windows without
/// aggregating over them. Rows whose time is NULL are in no window: they are dead letters.
#[derive(Clone, Debug)]
pub struct AssignWindows {
    pub time_column: usize,
    pub window: Window,
    pub schema: SchemaRef,
}

/// Every row once for each of the sets, as on a batch so on a changelog. Its output: the input's columns, the groups (NULL
/// where they are not in the set), the set's number (an unsigned integer), and the op column if there is one.
#[derive(Clone, Debug)]
pub struct GroupingSets {
    pub groups: Vec<Arc<dyn PhysicalExpr>>,
    pub sets: Vec<GroupingSet>,
    pub schema: SchemaRef,
}

#[derive(Clone, Debug)]
pub struct GroupingSet {
    /// For each of the groups whether it is in the set.
    pub groups: Vec<bool>,
    pub id: u64,
}

/// Aggregates the rows of one epoch by group (and by slice of time, where there is a window) and
/// hands the partial states on at the epoch's end. Its output: `slice` (Int64, the slice's start; only with
/// a window), then the groups, then every aggregate's state fields.
///
/// Over a changelog the states of rows that go are handed on with the opposite sign. That needs linear
/// aggregates: all their state fields are signed numbers that add up.
#[derive(Clone, Debug)]
pub struct PartialAggregate {
    pub window: Option<(usize, Window)>,
    pub groups: Vec<Arc<dyn PhysicalExpr>>,
    pub aggregates: Vec<Aggregate>,
    pub schema: SchemaRef,
}

/// Merges partial states of windows, and emits a window's rows when the watermark passes its end. Its output:
/// `window_start`, `window_end`, then the groups, then the aggregates' results.
#[derive(Clone, Debug)]
pub struct WindowAggregate {
    pub window: Window,
    /// The number of group columns after `slice` in its input.
    pub groups: usize,
    pub aggregates: Vec<Aggregate>,
    pub schema: SchemaRef,
    /// Ask for rows before the window closes too: a changelog (the schema ends in the op column).
    pub emit_changes: bool,
    /// For so long after a window's end late rows correct what it gave: a changelog, if this isn't 0.
    pub lateness: Micros,
}

/// Aggregates the rows of one epoch by group and fragment, which are rows of a group closer than `gap` to
/// one another, and hands the partial states on at the epoch's end. Its output: `start` and `last`
/// (Int64, the times of the fragment's first and last row), then the groups, then every aggregate's state fields.
#[derive(Clone, Debug)]
pub struct PartialSessions {
    pub time_column: usize,
    pub gap: Micros,
    pub groups: Vec<Arc<dyn PhysicalExpr>>,
    pub aggregates: Vec<Aggregate>,
    pub schema: SchemaRef,
}

/// Merges fragments into sessions `[first event, last event + gap)`, and emits a session's row when the
/// watermark reaches its end. Its output: `window_start`, `window_end`, then the groups, then the
/// aggregates' results.
#[derive(Clone, Debug)]
pub struct SessionAggregate {
    pub gap: Micros,
    pub gives: SessionRows,
    /// For so long after a session's end late rows change it, and what it gave: a changelog, if this isn't 0 (the schema
    /// ends in the op column).
    pub lateness: Micros,
    /// The number of group columns after `start` and `last` in its input.
    pub groups: usize,
    pub aggregates: Vec<Aggregate>,
    pub schema: SchemaRef,
}

/// What comes out of sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionRows {
    /// Each session's row, when it has ended.
    Ended,
    /// Of each group the row of its latest session as it changes, without the window's bounds, from the session's first
    /// row on until it ends: then the row goes. A changelog, without lateness.
    Latest,
}

/// Merges partial states by group for ever, and emits what changed at the end of each epoch. Its
/// output is a changelog: the groups, the results, the op column.
#[derive(Clone, Debug)]
pub struct ChangelogAggregate {
    pub groups: usize,
    pub aggregates: Vec<Aggregate>,
    /// Where rows may go again.
    pub retraction: Option<Retraction>,
    /// The rows of the view that the stage fills say all that there is to know of a group, so nothing is kept beside
    /// them: the view's key is the groups, and its other columns, in their order, are the results of these
    /// aggregates, each of whose states is its result.
    pub kept_in_view: Option<Vec<usize>>,
    pub schema: SchemaRef,
}

/// What a changelog aggregate needs to know when rows go: the aggregates behind the first
/// `counts.len()` only count, and are not among the results.
#[derive(Clone, Debug)]
pub struct Retraction {
    /// The aggregate that counts a group's rows: without any the group goes.
    pub rows: usize,
    /// For each result the aggregate that counts its values, if without any the result is NULL.
    pub counts: Vec<Option<usize>>,
}

/// Aggregates the rows of a changelog by group, whatever the functions: it keeps every row, and computes a
/// group anew when one of its rows comes or goes. Its input: the group columns, the arguments, the op column. Its
/// output is a changelog: the groups, the results, the op column.
#[derive(Clone, Debug)]
pub struct RetractingAggregate {
    pub groups: usize,
    /// Arguments and filters are columns of the input.
    pub aggregates: Vec<Aggregate>,
    pub schema: SchemaRef,
}

/// Tells equal rows of a changelog apart: appends the column `copy` (UInt32, before the op column), which numbers
/// them from 0. The last of them goes first.
#[derive(Clone, Debug)]
pub struct NumberCopies {
    pub schema: SchemaRef,
}

/// Each row of a changelog as often as the column `count` (Int64) says: `EXCEPT ALL`, `INTERSECT ALL`. Its output is a
/// changelog of the other columns.
#[derive(Clone, Debug)]
pub struct Copies {
    pub count: usize,
    pub schema: SchemaRef,
}

/// Rows that come, and go when the watermark is `ttl` beyond their time. Its input is no changelog; its output is one, of the
/// same columns.
#[derive(Clone, Debug)]
pub struct Expire {
    pub time_column: usize,
    pub ttl: Micros,
    pub schema: SchemaRef,
}

/// Keeps for every group the first rows in an order: `ROW_NUMBER() OVER (PARTITION BY … ORDER BY …) <= limit`. Rows
/// that the order leaves open follow their row encoding. Its input may be a changelog.
#[derive(Clone, Debug)]
pub struct TopN {
    pub partition_by: Vec<usize>,
    pub order_by: Vec<(usize, SortOptions)>,
    pub limit: u64,
    /// Append the number (UInt64) as a column behind the others.
    pub row_number: bool,
    /// Rows come in windows: a group is complete when the watermark passes this time column's value, comes out once
    /// then, and is forgotten.
    pub closes_by: Option<usize>,
    /// The rows that come are never taken back.
    pub only_added: bool,
    /// The view that the stage fills shows the first row of each group, whole and by the groups as its key, so nothing
    /// is kept beside it.
    pub kept_in_view: Option<RowsOfView>,
    /// The input's columns, the number, and the op column unless groups come out once.
    pub schema: SchemaRef,
}

/// Rows as a view has them.
#[derive(Clone, Debug)]
pub struct RowsOfView {
    pub schema: SchemaRef,
    pub key: Vec<usize>,
    /// Where each column of the rows is among the view's.
    pub columns: Vec<usize>,
}

/// Window functions over the rows of a group in the order of event time (`OVER`). A row comes out once, with the
/// functions' results behind its columns, when the watermark has passed its time.
#[derive(Clone, Debug)]
pub struct Over {
    pub partition_by: Vec<usize>,
    pub time_column: usize,
    /// The columns that functions read, the time column among them. Functions see these alone.
    pub reads: Vec<usize>,
    pub time_among_reads: usize,
    pub functions: Vec<WindowFunction>,
    pub schema: SchemaRef,
}

#[derive(Clone)]
pub enum WindowFunction {
    /// A function of rows that are not far before its own.
    Frame {
        /// As people know it, `lag(price)`.
        name: String,
        reach: FrameReach,
        /// The results for all rows of a group, which come in the order of time. Those of the first rows are not used:
        /// they are there because others look back to them.
        evaluate: EvaluateGroup,
    },
    /// An aggregate of all rows of the group so far.
    Running(RunningAggregate),
}

/// Window functions over the rows of a changelog, in any order and with any frame: it keeps every row, and evaluates a
/// group anew when one of its rows comes or goes. Its output is a changelog.
#[derive(Clone, Debug)]
pub struct ChangelogOver {
    pub partition_by: Vec<usize>,
    pub order_by: Vec<(usize, SortOptions)>,
    pub functions: Vec<GroupFunction>,
    /// The input's columns, the functions' results, the op column.
    pub schema: SchemaRef,
}

/// From all rows of a group in their order to a result for each.
pub type EvaluateGroup = Arc<dyn Fn(&RecordBatch) -> Result<ArrayRef> + Send + Sync>;

/// A function of all rows of a group.
#[derive(Clone)]
pub struct GroupFunction {
    pub name: String,
    pub evaluate: EvaluateGroup,
}

/// How far a window function looks back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameReach {
    Rows(usize),
    Time(Micros),
}

#[derive(Clone)]
pub struct RunningAggregate {
    pub name: String,
    pub arguments: Vec<Arc<dyn PhysicalExpr>>,
    pub filter: Option<Arc<dyn PhysicalExpr>>,
    pub state_fields: Vec<FieldRef>,
    /// Whether a row's result covers all rows of its time (`RANGE`), or only those up to itself (`ROWS`).
    pub with_peers: bool,
    pub accumulator: Arc<dyn Fn() -> Result<Box<dyn Accumulator>> + Send + Sync>,
}

/// Joins two inputs that come through one topic, by equal keys. Its input has the side of every row
/// first (Int8: 0 left, 1 right), then columns that both sides share as slots, and the op column if either side
/// is a changelog. A key with a NULL in it matches nothing.
///
/// The result is a changelog if an input is, or if unmatched rows are part of it and there is no `reach`: then
/// they come at once, and go when a match comes. With a reach they come when nothing can match them any more.
#[derive(Clone, Debug)]
pub struct Join {
    pub left: JoinSide,
    pub right: JoinSide,
    pub kind: JoinKind,
    /// Over the left columns, then the right ones: must be true for a pair to match.
    pub filter: Option<Arc<dyn PhysicalExpr>>,
    /// What is out of reach is dropped as the watermark passes. Not for changelogs.
    pub reach: Option<Reach>,
    /// Left rows meet the right ones as they stand, once, and are not kept. Inner or left joins only, without a reach;
    /// the result is no changelog.
    pub current: bool,
    /// The left columns, then the right ones (of a semi or anti join the left ones alone); the op column
    /// if the result is a changelog.
    pub schema: SchemaRef,
}

/// Joins every left row to the right row with its keys that was valid at its time: the newest one that is not later. Of
/// several right rows of one time the last in the order of their columns' encodings counts. The input is as that of a
/// [`Join`], is no changelog, and has the keys and the time of both sides in the same columns.
#[derive(Clone, Debug)]
pub struct TemporalJoin {
    pub left: JoinSide,
    pub right: JoinSide,
    /// Left rows without a match are part of the result.
    pub keeps_unmatched: bool,
    /// Of the input.
    pub time_column: usize,
    /// Of several right rows of a key and a time the last in this order of the input's columns is valid.
    pub version_order: Vec<(usize, SortOptions)>,
    /// Over the left columns, then the right ones: must be true for the row that is valid to be a match.
    pub filter: Option<Arc<dyn PhysicalExpr>>,
    /// The left columns, then the right ones.
    pub schema: SchemaRef,
}

/// Looks up every row's match in a table that is kept elsewhere, by all columns of the table's key, when the row comes. The
/// input is no changelog: a row that goes again might meet another one than when it came.
#[derive(Clone, Debug)]
pub struct Lookup {
    /// As those call it who run the engine, see [`crate::lookup::Tables`].
    pub table: Arc<str>,
    /// Columns of the input, in the order and of the types of the table's key. A key with a NULL in it matches nothing.
    pub keys: Vec<usize>,
    /// The columns of the table that are part of the result.
    pub columns: Vec<usize>,
    /// Rows without a match are part of the result.
    pub keeps_unmatched: bool,
    /// Over the columns of the result: must be true for the row that was found to be a match.
    pub filter: Option<Arc<dyn PhysicalExpr>>,
    /// The input's columns, then the table's.
    pub schema: SchemaRef,
}

#[derive(Clone, Debug)]
pub struct JoinSide {
    /// Its columns in the input, in their order.
    pub columns: Vec<usize>,
    /// Which of its own columns have to equal the other side's, in the same order and of the same types.
    pub keys: Vec<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JoinKind {
    Inner,
    Left,
    Right,
    Full,
    LeftSemi,
    LeftAnti,
}

/// A left row of time `l` and a right row of time `r` match only if `l + lower <= r <= l + upper`. A row without
/// a time matches nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reach {
    /// The time columns, each among its side's own.
    pub left: usize,
    pub right: usize,
    pub lower: Micros,
    pub upper: Micros,
}

/// An aggregate function over its arguments.
#[derive(Clone)]
pub struct Aggregate {
    /// As people know it, `sum(price)`.
    pub name: String,
    pub arguments: Vec<Arc<dyn PhysicalExpr>>,
    pub filter: Option<Arc<dyn PhysicalExpr>>,
    pub state_fields: Vec<FieldRef>,
    pub result_field: FieldRef,
    /// What it knows of a group is its result, and nothing else: a count, a sum, a minimum.
    pub state_is_result: bool,
    /// It counts distinct values, and its state is a list of them.
    pub counts_distinct: bool,
    pub accumulator: Arc<dyn Fn() -> Result<Box<dyn GroupsAccumulator>> + Send + Sync>,
}

/// Where a stage's rows go.
#[derive(Clone, Debug)]
pub enum Output {
    /// To a topic, partitioned by the columns of the stage's rows; without columns, from each task
    /// to the partition of its own number (modulo `partitions`).
    Topic {
        topic: Arc<str>,
        partitions: u32,
        partition_by: Vec<usize>,
        /// The number that the stage's first task has among all producers of the topic.
        first_producer: u32,
    },
    /// To a view: `table` keeps the current rows (see `view::key` and `view::row` for the encoding), and
    /// `topic`, with as many partitions as the stage has tasks, takes the changes.
    View {
        table: Arc<str>,
        topic: Arc<str>,
        key: ViewKey,
        schema: SchemaRef,
    },
}

/// What names a row of a view.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ViewKey {
    /// These columns of the view.
    Columns(Vec<usize>),
    /// Nothing in the row: the place of the input row that it came from. Rows are only added.
    Position,
    /// All of it, and the number that [`NumberCopies`] gave it, in a column behind those of the view.
    Copies,
}

impl Pipeline {
    /// What it reads and doesn't write itself.
    pub fn inputs(&self) -> impl Iterator<Item = &Input> {
        let inputs = self.stages.iter().map(|stage| &stage.input);
        inputs.filter(|input| !self.stages.iter().any(|stage| stage.output.is_to(&input.topic)))
    }

    /// Whether any of its operators keeps state across epochs.
    pub fn keeps_state(&self) -> bool {
        self.stages.iter().flat_map(|stage| &stage.operators).any(has_state)
    }
}

impl Operator {
    /// Whether it holds rows back until the watermark has passed them.
    pub fn closes_by_time(&self) -> bool {
        closes_by_time(self)
    }

    /// The schema of the rows that come out, given that of those that go in.
    pub fn output_schema(&self, input: &SchemaRef) -> SchemaRef {
        output_schema(self, input)
    }
}

impl Pipeline {
    /// Whether any of its operators holds rows back until the watermark has passed them.
    pub fn closes_by_time(&self) -> bool {
        self.stages
            .iter()
            .flat_map(|stage| &stage.operators)
            .any(closes_by_time)
    }
}

impl Stage {
    /// Whether it waits for tables that are kept elsewhere.
    pub fn looks_up(&self) -> bool {
        let mut operators = self.operators.iter();
        operators.any(|operator| matches!(operator, Operator::Lookup(_)))
    }

    /// The number of the state table of the operator at this place.
    pub fn table(&self, place: usize) -> usize {
        let before = self.operators[..place].iter().filter(|operator| has_state(operator));
        self.tables.get(before.count()).copied().unwrap_or(place)
    }

    /// The numbers of all its state tables.
    pub fn all_tables(&self) -> Vec<usize> {
        let places = 0..self.operators.len();
        let with_state = places.filter(|&place| has_state(&self.operators[place]));
        with_state.map(|place| self.table(place)).collect()
    }

    /// The schema of the rows that come out.
    pub fn output_schema(&self) -> SchemaRef {
        let input = self.input.schema.clone();
        let operators = self.operators.iter();
        operators.fold(input, |schema, operator| output_schema(operator, &schema))
    }
}

impl Output {
    pub fn is_to(&self, name: &str) -> bool {
        matches!(self, Self::Topic { topic, .. } if **topic == *name)
    }
}

impl fmt::Debug for Aggregate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl fmt::Debug for GroupFunction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl fmt::Debug for WindowFunction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl WindowFunction {
    pub fn name(&self) -> &str {
        match self {
            Self::Frame { name, .. } => name,
            Self::Running(running) => &running.name,
        }
    }
}
