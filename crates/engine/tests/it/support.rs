//! Rows, plans and a pipeline that can be stopped and started.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Array, ArrayRef, Int8Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef, TimeUnit};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::common::DFSchema;
use datafusion::functions_aggregate::average::avg_udaf;
use datafusion::functions_aggregate::count::count_udaf;
use datafusion::functions_aggregate::min_max::min_udaf;
use datafusion::functions_aggregate::sum::sum_udaf;
use datafusion::logical_expr::{AggregateUDF, lit};
use datafusion::physical_expr::aggregate::AggregateExprBuilder;
use datafusion::physical_expr::{GroupsAccumulatorAdapter, PhysicalExpr};
use datafusion::prelude::{Expr, SessionContext, cast, col};
use headwater_engine::engine::{Engine, EngineOptions, Running};
use headwater_engine::plan::{Aggregate, Input, LateRows, Operator, Output, Pipeline, Stage, TimeSource, ViewKey};
use headwater_engine::status::TaskState;
use headwater_engine::view::ViewCodec;
use headwater_event::clock::{ManualClock, Micros};
use headwater_event::offset::TopicPartition;
use headwater_event::op::{Op, op_field};
use headwater_log::embedded::EmbeddedLog;
use headwater_log::embedded::options::EmbeddedOptions;
use headwater_log::memory::MemoryLog;
use headwater_log::topic::{Cleanup, TopicSpec};
use headwater_log::{Log, Produced};

pub const DELAY: Micros = 20;
/// Later than any row of a test: closes every window.
pub const END: Micros = 1_000_000;

#[derive(Clone, Debug)]
pub struct Row {
    pub time: Option<Micros>,
    pub key: Option<String>,
    pub code: Option<i64>,
    pub value: Option<i64>,
}

pub fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("time", time_type(), true),
        Field::new("t", DataType::Int64, true),
        Field::new("key", DataType::Utf8, true),
        Field::new("code", DataType::Int64, true),
        Field::new("v", DataType::Int64, true),
    ]))
}

pub fn time_type() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("+00:00".into()))
}

pub fn batch(rows: &[Row]) -> RecordBatch {
    let times: TimestampMicrosecondArray = rows.iter().map(|row| row.time).collect();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(times.with_timezone("+00:00")),
        Arc::new(rows.iter().map(|row| row.time).collect::<Int64Array>()),
        Arc::new(rows.iter().map(|row| row.key.clone()).collect::<StringArray>()),
        Arc::new(rows.iter().map(|row| row.code).collect::<Int64Array>()),
        Arc::new(rows.iter().map(|row| row.value).collect::<Int64Array>()),
    ];
    RecordBatch::try_new(schema(), columns).unwrap()
}

pub fn physical(expression: Expr, schema: &SchemaRef) -> Arc<dyn PhysicalExpr> {
    let named = DFSchema::try_from(schema.as_ref().clone()).unwrap();
    SessionContext::new().create_physical_expr(expression, &named).unwrap()
}

fn aggregate(
    name: &str,
    function: Arc<AggregateUDF>,
    argument: Expr,
    filter: Option<Expr>,
    distinct: bool,
) -> Aggregate {
    let arguments = vec![physical(argument, &schema())];
    let built = AggregateExprBuilder::new(function, arguments.clone())
        .schema(schema())
        .alias(name)
        .with_distinct(distinct)
        .build()
        .unwrap();
    let built = Arc::new(built);
    Aggregate {
        name: name.to_owned(),
        arguments,
        filter: filter.map(|filter| physical(filter, &schema())),
        state_fields: built.state_fields().unwrap(),
        result_field: built.field(),
        state_is_result: false,
        counts_distinct: distinct && built.fun().name() == "count",
        accumulator: Arc::new(move || {
            if built.groups_accumulator_supported() {
                return built.create_groups_accumulator();
            }
            let built = Arc::clone(&built);
            Ok(Box::new(GroupsAccumulatorAdapter::new(move || {
                built.create_accumulator()
            })))
        }),
    }
}

/// The same as `ORACLE_AGGREGATES`.
pub fn aggregates() -> Vec<Aggregate> {
    vec![
        aggregate("rows", count_udaf(), lit(1i64), None, false),
        aggregate("total", sum_udaf(), col("v"), None, false),
        aggregate("least", min_udaf(), col("v"), None, false),
        aggregate("mean", avg_udaf(), cast(col("v"), DataType::Float64), None, false),
        aggregate("big", count_udaf(), col("v"), Some(col("v").gt(lit(10i64))), false),
        aggregate("first_key", min_udaf(), col("key"), None, false),
        aggregate("codes", count_udaf(), col("code"), None, true),
    ]
}

pub const ORACLE_AGGREGATES: &str = "count(*), sum(v), min(v), avg(CAST(v AS DOUBLE)), \
     count(v) FILTER (WHERE v > 10), min(key), count(DISTINCT code)";

/// Columns with the results of `aggregates` behind them.
pub fn results_schema(columns: Vec<Field>, changelog: bool) -> SchemaRef {
    let mut fields: Vec<FieldRef> = columns.into_iter().map(Arc::new).collect();
    fields.extend(aggregates().iter().map(|aggregate| aggregate.result_field.clone()));
    if changelog {
        fields.push(op_field().into());
    }
    Arc::new(Schema::new(fields))
}

pub fn partial_schema(columns: Vec<Field>) -> SchemaRef {
    let mut fields: Vec<FieldRef> = columns.into_iter().map(Arc::new).collect();
    for (number, aggregate) in aggregates().iter().enumerate() {
        let renamed = aggregate.state_fields.iter().enumerate().map(|(place, field)| {
            let name = format!("{number}.{place}");
            Arc::new(field.as_ref().clone().with_name(name).with_nullable(true))
        });
        fields.extend(renamed);
    }
    Arc::new(Schema::new(fields))
}

pub fn time_from_rows(late: LateRows) -> TimeSource {
    TimeSource::Rows {
        column: 0,
        delay: DELAY,
        lateness: 0,
        late,
    }
}

pub fn input(topic: &str, partitions: u32, schema: SchemaRef, time: TimeSource) -> Input {
    Input {
        topic: topic.into(),
        partitions,
        columns: (0..schema.fields().len()).collect(),
        schema,
        time,
        from_latest: false,
        idle_timeout: Duration::from_secs(10),
    }
}

pub fn to_view(schema: &SchemaRef, key: ViewKey) -> Output {
    let fields: Vec<_> = schema
        .fields()
        .iter()
        .filter(|field| field.name() != "$op")
        .cloned()
        .collect();
    Output::View {
        table: "view".into(),
        topic: "view.changes".into(),
        key,
        schema: Arc::new(Schema::new(fields)),
    }
}

pub fn pipeline(stages: Vec<Stage>) -> Pipeline {
    Pipeline {
        name: "query-1".into(),
        stages,
    }
}

pub fn stage(input: Input, operators: Vec<Operator>, output: Output) -> Stage {
    Stage {
        input,
        operators,
        output,
        tables: Vec::new(),
    }
}

/// A log, an engine, and a pipeline on them.
pub struct World {
    pub log: Arc<dyn Log>,
    /// Where the log is, if it is on disk.
    folder: Option<tempfile::TempDir>,
    pub clock: Arc<ManualClock>,
    pub engine: Arc<Engine>,
    pub pipeline: Pipeline,
    pub running: Option<Running>,
}

impl World {
    pub async fn new(pipeline: Pipeline) -> Self {
        let clock = ManualClock::new(1_000_000_000);
        let log = MemoryLog::new(clock.clone());
        Self::on(log, clock, pipeline).await
    }

    pub async fn on(log: Arc<dyn Log>, clock: Arc<ManualClock>, pipeline: Pipeline) -> Self {
        let first = &pipeline.stages[0].input;
        create(&*log, &first.topic, schema(), first.partitions).await;
        create(&*log, "dead_letters", dead_letter_schema(), 1).await;
        let engine = Engine::new(engine_options(), log.clone(), clock.clone()).unwrap();
        let mut world = Self {
            log,
            folder: None,
            clock,
            engine,
            pipeline,
            running: None,
        };
        world.start().await;
        world
    }

    /// On a log on disk, which a restart opens anew.
    pub async fn on_disk(pipeline: Pipeline) -> Self {
        let clock = ManualClock::new(1_000_000_000);
        let folder = tempfile::tempdir().unwrap();
        let log = EmbeddedLog::open(embedded_options(folder.path()), clock.clone()).unwrap();
        let mut world = Self::on(log, clock, pipeline).await;
        world.folder = Some(folder);
        world
    }

    pub async fn start(&mut self) {
        self.running = Some(self.engine.start(self.pipeline.clone()).await.unwrap());
    }

    pub async fn restart(&mut self) {
        self.running.take().unwrap().stop().await;
        if self.folder.is_some() {
            self.reopen();
        }
        self.start().await;
    }

    fn reopen(&mut self) {
        let nothing = MemoryLog::new(self.clock.clone());
        self.log = nothing.clone();
        self.engine = Engine::new(engine_options(), nothing, self.clock.clone()).unwrap();
        let path = self.folder.as_ref().unwrap().path();
        // What the tasks held of the log goes with the threads of the former engine.
        let opened = (0..1000).find_map(|_| {
            std::thread::sleep(Duration::from_millis(5));
            EmbeddedLog::open(embedded_options(path), self.clock.clone()).ok()
        });
        self.log = opened.unwrap();
        self.engine = Engine::new(engine_options(), self.log.clone(), self.clock.clone()).unwrap();
    }

    /// Another instance takes over while the first still runs.
    pub async fn take_over(&mut self) {
        let former = self.running.take().unwrap();
        while former.status().iter().any(|task| task.state == TaskState::Starting) {
            tokio::task::yield_now().await;
        }
        self.start().await;
        self.caught_up().await;
        drop(former);
    }

    pub async fn append(&self, partition: u32, rows: &[Row]) {
        let topic = Arc::clone(&self.pipeline.stages[0].input.topic);
        let produced = Produced {
            partition: TopicPartition::new(topic, partition),
            rows: batch(rows),
            progress: None,
        };
        self.log.append(vec![produced]).await.unwrap();
    }

    pub async fn caught_up(&self) {
        let caught_up = self.running.as_ref().unwrap().caught_up();
        tokio::time::timeout(Duration::from_secs(30), caught_up)
            .await
            .expect("stuck");
    }

    /// The rows of the view, as text; checked against what its changes add up to.
    pub async fn view(&self) -> Vec<String> {
        let stage = self.pipeline.stages.last().unwrap();
        let Output::View {
            table,
            topic,
            key,
            schema,
        } = &stage.output
        else {
            panic!("not a view")
        };
        let entries: Vec<_> = self
            .log
            .state(table)
            .await
            .unwrap()
            .scan(&[])
            .map(Result::unwrap)
            .collect();
        let rows = ViewCodec::new(schema.clone(), key).unwrap().decode(&entries).unwrap();
        let rows = sorted(texts(&rows));
        let mut sums: BTreeMap<String, i64> = BTreeMap::new();
        for changes in self.topic(topic, stage.input.partitions).await {
            let ops = changes
                .columns()
                .last()
                .unwrap()
                .as_any()
                .downcast_ref::<Int8Array>()
                .unwrap()
                .clone();
            let data: Vec<usize> = (0..schema.fields().len()).collect();
            for (text, op) in texts(&changes.project(&data).unwrap()).into_iter().zip(ops.values()) {
                *sums.entry(text).or_default() += if Op::from_i8(*op).unwrap().adds() { 1 } else { -1 };
            }
        }
        sums.retain(|_, sum| *sum != 0);
        let added_up: Vec<String> = sums
            .into_iter()
            .flat_map(|(text, sum)| vec![text; sum as usize])
            .collect();
        assert_eq!(rows, added_up, "the changes do not add up to the view");
        rows
    }

    pub async fn topic(&self, topic: &str, partitions: u32) -> Vec<RecordBatch> {
        let mut all = Vec::new();
        for partition in 0..partitions {
            let partition = TopicPartition::new(topic, partition);
            let read = self.log.read(&partition, 0, usize::MAX, None).await.unwrap();
            all.extend(read.into_iter().map(|batch| batch.rows));
        }
        all
    }

    pub async fn dead_letters(&self, reason: &str) -> Vec<String> {
        let batches = self.topic("dead_letters", 1).await;
        let all = concat_batches(&dead_letter_schema(), &batches).unwrap();
        let texts = texts(&all);
        texts
            .into_iter()
            .filter(|text| text.contains(&format!("|{reason}|")))
            .collect()
    }
}

fn engine_options() -> EngineOptions {
    EngineOptions {
        threads: 2,
        epoch_bytes_max: 2_000,
        epochs_bytes_max: 1 << 20,
        state_cache_bytes_max: 2_000,
        dead_letters: Some("dead_letters".into()),
        ..EngineOptions::default()
    }
}

pub fn embedded_options(directory: &Path) -> EmbeddedOptions {
    let mut options = EmbeddedOptions::new(directory);
    options.disk_free_bytes_min = 0;
    options.write_buffer_bytes = 4 << 20;
    options
}

async fn create(log: &dyn Log, name: &str, schema: SchemaRef, partitions: u32) {
    let spec = TopicSpec {
        name: name.to_owned(),
        schema,
        partitions,
        cleanup: Cleanup::Delete {
            retention_ms: None,
            retention_bytes: None,
        },
        events: None,
    };
    log.create_topic(spec).await.unwrap();
}

fn dead_letter_schema() -> SchemaRef {
    let text = |name: &str| Field::new(name, DataType::Utf8, false);
    Arc::new(Schema::new(vec![
        Field::new("time", DataType::Timestamp(TimeUnit::Microsecond, None), false),
        text("stream"),
        text("source"),
        text("reason"),
        text("detail"),
        Field::new("payload", DataType::Binary, true),
    ]))
}

/// Each row as text. Times as numbers.
pub fn texts(batch: &RecordBatch) -> Vec<String> {
    let options = FormatOptions::default().with_null("NULL");
    let columns: Vec<ArrayRef> = batch
        .columns()
        .iter()
        .map(|column| match column.data_type() {
            DataType::Timestamp(_, _) => arrow::compute::cast(column, &DataType::Int64).unwrap(),
            _ => Arc::clone(column),
        })
        .collect();
    let columns: Vec<_> = columns
        .iter()
        .map(|column| ArrayFormatter::try_new(column, &options).unwrap())
        .collect();
    let line = |row| {
        columns
            .iter()
            .map(|column| column.value(row).to_string())
            .collect::<Vec<_>>()
            .join("|")
    };
    (0..batch.num_rows()).map(line).collect()
}

pub fn sorted(mut texts: Vec<String>) -> Vec<String> {
    texts.sort();
    texts
}
