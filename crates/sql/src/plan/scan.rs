//! Where a branch begins: the topic that it reads, and what is known of its rows.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::Schema;
use datafusion::common::DFSchema;
use datafusion::logical_expr::TableScan;
use headwater_catalog::definition::{DEAD_LETTERS, Definition, Late, Start, StateBound};
use headwater_catalog::snapshot::Snapshot;
use headwater_engine::plan::{Input, LateRows, TimeSource};
use headwater_event::op::changelog_schema;

use crate::define::source::not_readable;
use crate::error::{Result, SqlError, find, translate};
use crate::plan;
use crate::plan::branch::{Branch, Key, Part, Rows, Source, Time};
use crate::plan::stages::{Flow, Request, Stages};
use crate::plan::tables::{Table, schema_of};
use crate::statement::Select;

impl Stages<'_> {
    /// The branch before any operator.
    pub fn scan(&mut self, scan: &TableScan) -> Result<Branch> {
        let table = scan
            .source
            .downcast_ref::<Table>()
            .ok_or_else(|| SqlError::internal("a table of another kind"))?;
        let name = &table.definition.name;
        if let Some(error) = not_readable(&table.definition) {
            let source = &self.select.source;
            return Err(error.at(find(source, name)).or_at_start(source));
        }
        self.reads.push(name.clone());
        branch(scan, &table.definition, self)
    }
}

fn branch(scan: &TableScan, definition: &Arc<Definition>, stages: &Stages) -> Result<Branch> {
    let Stages {
        select,
        snapshot,
        request,
        ..
    } = stages;
    let all = schema_of(definition);
    let flow = filled_by(definition, snapshot, request)?;
    let time = time_of(definition, flow.as_ref());
    let mut columns = scan
        .projection
        .clone()
        .unwrap_or_else(|| (0..all.fields().len()).collect());
    columns.extend(time.column);
    if columns.is_empty() {
        columns.push(narrowest(&all));
    }
    columns.sort_unstable();
    columns.dedup();
    let projected = all
        .project(&columns)
        .map_err(|error| SqlError::internal(error.to_string()))?;
    let mut rows = match (definition.stream(), flow) {
        (Some(stream), _) => Rows {
            columns: DFSchema::empty(),
            changelog: false,
            key: Key::Nothing,
            partitioned: stream.lies_by().iter().map(|name| all.index_of(name).ok()).collect(),
            times: time.times,
            tasks: stream.partitions,
        },
        (None, Some(flow)) => Rows {
            columns: DFSchema::empty(),
            changelog: flow.changelog,
            key: flow.key,
            partitioned: flow.partitioned,
            // A view doesn't say how far it has come.
            times: BTreeMap::new(),
            tasks: flow.tasks,
        },
        (None, None) => return Err(SqlError::internal(format!("{} has no rows", definition.name))),
    };
    rows.moved(&columns.iter().copied().map(Some).collect::<Vec<_>>());
    rows.partitioned = rows.partitioned.filter(|columns| !columns.is_empty());
    rows.columns = DFSchema::try_from_qualified_schema(scan.table_name.clone(), &projected)
        .map_err(|error| translate(&error, &select.source))?;
    let source = match time.column {
        Some(column) => TimeSource::Rows {
            column: columns.binary_search(&column).unwrap_or_default(),
            delay: time.delay,
            lateness: 0,
            late: LateRows::Keep,
        },
        None => time
            .producers
            .map_or(TimeSource::None, |producers| TimeSource::Producers { producers }),
    };
    let (input_columns, schema) = match rows.changelog {
        true => {
            columns.push(all.fields().len());
            (columns, changelog_schema(&projected))
        }
        false => (columns, Arc::new(projected)),
    };
    let idle_timeout_ms = definition
        .stream()
        .map_or(plan::IDLE_TIMEOUT_MS, |stream| stream.idle_timeout_ms);
    Ok(Branch {
        part: Part {
            input: Input {
                topic: definition.topic().into(),
                partitions: rows.tasks,
                columns: input_columns,
                schema,
                time: source,
                // Changes make sense from the first one on.
                from_latest: request.start == Start::Latest && !rows.changelog,
                idle_timeout: Duration::from_millis(idle_timeout_ms),
            },
            operators: Vec::new(),
        },
        rows,
        sources: vec![Source {
            stage: None,
            late: output_of_late(definition, snapshot),
        }],
    })
}

/// The query that fills a derived stream or a view, as it runs.
fn filled_by(definition: &Definition, snapshot: &Snapshot, request: &Request) -> Result<Option<Flow>> {
    with_query(definition, snapshot, request, plan::flow)
}

/// What `plan` makes of the query that fills a derived stream or a view.
pub fn with_query<T>(
    definition: &Definition,
    snapshot: &Snapshot,
    request: &Request,
    plan: impl FnOnce(&Select, &Snapshot, &Request) -> Result<T>,
) -> Result<Option<T>> {
    let Some(query) = definition.query() else {
        return Ok(None);
    };
    let future = definition.ahead.then(|| snapshot.future());
    let snapshot = future.as_ref().unwrap_or(snapshot);
    let select = crate::parse::parse_query(&query.sql)?;
    let request = Request {
        // The number of its last tasks hangs on it.
        partitions: Some(definition.partitions()),
        state: query.state,
        allowed_lateness: query.allowed_lateness,
        state_ttl: query.state_ttl,
        ..*request
    };
    plan(&select, snapshot, &request).map(Some)
}

/// The columns of a stream that hold event time.
pub fn event_times(definition: &Definition, snapshot: &Snapshot) -> Result<BTreeMap<usize, Time>> {
    let flow = filled_by(definition, snapshot, &by_itself(definition))?;
    Ok(time_of(definition, flow.as_ref()).times)
}

/// For what is asked about an object, and not about a query that reads it.
pub fn by_itself(definition: &Definition) -> Request<'_> {
    Request {
        name: &definition.name,
        start: Start::Earliest,
        state: StateBound::Unbounded,
        allowed_lateness: 0,
        state_ttl: None,
        partitions: None,
    }
}

/// The event time of a stream.
#[derive(Default)]
struct StreamTime {
    /// The watermark's column, where rows bring the watermark.
    column: Option<usize>,
    delay: i64,
    /// The tasks that write the watermark, where a query fills the stream.
    producers: Option<u32>,
    times: BTreeMap<usize, Time>,
}

fn time_of(definition: &Definition, flow: Option<&Flow>) -> StreamTime {
    let Some(stream) = definition.stream() else {
        return StreamTime::default();
    };
    if let Some(flow) = flow {
        return StreamTime {
            producers: (!flow.times.is_empty()).then_some(flow.tasks),
            times: flow.times.clone(),
            ..StreamTime::default()
        };
    }
    let Some(watermark) = &stream.watermark else {
        return StreamTime::default();
    };
    let column = stream
        .schema
        .columns
        .iter()
        .position(|column| column.name == watermark.column);
    StreamTime {
        column,
        delay: watermark.delay,
        producers: None,
        times: column.map(|column| (column, Time::Event)).into_iter().collect(),
    }
}

fn output_of_late(definition: &Definition, snapshot: &Snapshot) -> LateRows {
    let topic = snapshot
        .get(DEAD_LETTERS)
        .map_or_else(|| format!("{DEAD_LETTERS}-0"), |stream| stream.topic());
    match definition.stream().map(|stream| stream.late) {
        Some(Late::Drop) => LateRows::Drop,
        _ => LateRows::DeadLetter {
            topic: topic.into(),
            stream: definition.name.as_str().into(),
        },
    }
}

/// The column that costs least to read, for queries that only count rows.
fn narrowest(schema: &Schema) -> usize {
    let fields = schema.fields().iter().enumerate();
    fields
        .min_by_key(|(_, field)| field.data_type().primitive_width().unwrap_or(usize::MAX))
        .map_or(0, |(at, _)| at)
}
