//! Where a chain begins: the topic that it reads, and what is known of its rows.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::Schema;
use datafusion::common::DFSchema;
use datafusion::logical_expr::{LogicalPlan, TableScan};
use headwater_catalog::definition::{DEAD_LETTERS, Definition, Late, Start};
use headwater_catalog::snapshot::Snapshot;
use headwater_engine::plan::{Input, LateRows, TimeSource};
use headwater_event::op::changelog_schema;

use crate::error::{Result, SqlError, find, translate};
use crate::plan::chain::{Chain, Key, Part, Request, Rows, Time};
use crate::plan::tables::{Table, schema_of};
use crate::plan::{self, unexpected};
use crate::statement::Select;

/// The chain before any operator: the scan that is at the plan's end.
pub fn start<'a>(
    plan: &LogicalPlan,
    select: &'a Select,
    snapshot: &'a Snapshot,
    request: &'a Request<'a>,
) -> Result<Chain<'a>> {
    let mut node = plan;
    loop {
        match (node, node.inputs().as_slice()) {
            (LogicalPlan::TableScan(scan), _) => return scanned(scan, select, snapshot, request),
            (_, [input]) => node = input,
            _ => return Err(unexpected("this query").or_at_start(&select.source)),
        }
    }
}

fn scanned<'a>(
    scan: &TableScan,
    select: &'a Select,
    snapshot: &'a Snapshot,
    request: &'a Request<'a>,
) -> Result<Chain<'a>> {
    let table = scan
        .source
        .downcast_ref::<Table>()
        .ok_or_else(|| SqlError::internal("a table of another kind"))?;
    let definition = &table.definition;
    let all = schema_of(definition);
    if definition.view().is_some() && !request.live {
        return Err(SqlError::unsupported(format!(
            "{} is a view: a continuous query over a result that changes is not available in this version",
            definition.name
        ))
        .at(find(&select.source, &definition.name))
        .or_at_start(&select.source)
        .hint("read from the streams that the view reads, or follow the view with SELECT … EMIT CHANGES"));
    }
    let time = time_of(definition, snapshot, request)?;
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
    let at = |name: &str| projected.index_of(name).ok();
    let (input_schema, changelog) = match definition.view() {
        Some(_) => (changelog_schema(&projected), true),
        None => (Arc::new(projected.clone()), false),
    };
    let partition_by = definition
        .stream()
        .map(|stream| stream.partition_by.as_slice())
        .unwrap_or_default();
    let partitioned: Option<Vec<usize>> = partition_by.iter().map(|name| at(name)).collect();
    let source = match time.column {
        Some(_) => TimeSource::Rows {
            column: at(time.name.as_deref().unwrap_or_default()).unwrap_or_default(),
            delay: time.delay,
            late: LateRows::Keep,
        },
        None => time
            .producers
            .map_or(TimeSource::None, |producers| TimeSource::Producers { producers }),
    };
    let mut input_columns = columns.clone();
    if changelog {
        input_columns.push(all.fields().len());
    }
    let times = time
        .times
        .iter()
        .filter_map(|(column, time)| Some((columns.binary_search(column).ok()?, *time)));
    let columns = DFSchema::try_from_qualified_schema(scan.table_name.clone(), &projected)
        .map_err(|error| translate(&error, &select.source))?;
    Ok(Chain {
        select,
        request,
        stages: Vec::new(),
        rows: Rows {
            columns,
            changelog,
            key: Key::Nothing,
            partitioned: partitioned.filter(|columns| !columns.is_empty()),
            times: times.collect(),
            tasks: definition.partitions(),
        },
        part: Part {
            input: Input {
                topic: definition.topic().into(),
                partitions: definition.partitions(),
                columns: input_columns,
                schema: input_schema,
                time: source,
                from_latest: request.start == Start::Latest,
                idle_timeout: Duration::from_millis(
                    definition
                        .stream()
                        .map_or(plan::IDLE_TIMEOUT_MS, |stream| stream.idle_timeout_ms),
                ),
            },
            operators: Vec::new(),
        },
        reads: vec![definition.name.clone()],
        late: output_of_late(definition, snapshot),
    })
}

/// The event time of a stream.
#[derive(Default)]
struct StreamTime {
    /// The watermark's column, where rows bring the watermark.
    column: Option<usize>,
    name: Option<String>,
    delay: i64,
    /// The tasks that write the watermark, where a query fills the stream.
    producers: Option<u32>,
    times: BTreeMap<usize, Time>,
}

fn time_of(definition: &Definition, snapshot: &Snapshot, request: &Request) -> Result<StreamTime> {
    let Some(stream) = definition.stream() else {
        return Ok(StreamTime::default());
    };
    if let Some(query) = &stream.query {
        let select = crate::parse::parse_query(&query.sql)?;
        let request = Request {
            // As it runs: the number of its last tasks hangs on it.
            partitions: Some(stream.partitions),
            live: false,
            ..*request
        };
        let flow = plan::flow(&select, snapshot, &request)?;
        let producers = (!flow.times.is_empty()).then_some(flow.tasks);
        return Ok(StreamTime {
            producers,
            times: flow.times,
            ..StreamTime::default()
        });
    }
    let Some(watermark) = &stream.watermark else {
        return Ok(StreamTime::default());
    };
    let column = stream
        .schema
        .columns
        .iter()
        .position(|column| column.name == watermark.column);
    Ok(StreamTime {
        column,
        name: Some(watermark.column.clone()),
        delay: watermark.delay,
        producers: None,
        times: column.map(|column| (column, Time::Event)).into_iter().collect(),
    })
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
