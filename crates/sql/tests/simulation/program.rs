//! Continuous queries, planned, and what they give as a batch: DataFusion over the same rows.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, new_empty_array};
use arrow::compute::{cast, concat_batches};
use arrow::datatypes::{DataType, Schema, SchemaRef};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::dataframe::DataFrame;
use datafusion::datasource::MemTable;
use datafusion::prelude::{SessionConfig, SessionContext};
use headwater_catalog::definition::Definition;
use headwater_catalog::snapshot::Snapshot;
use headwater_engine::plan::Pipeline;
use headwater_schema::column::Column;
use headwater_sql::define::changes;
use headwater_sql::error::SqlError;
use headwater_sql::parse::{parse, parse_query};
use headwater_sql::plan::pipeline;
use headwater_sql::session::{logical_plan, session_state};

use crate::events::{self, Event, STREAMS};

/// Statements as the catalog and the engine have them.
pub struct Program {
    pub streams: Vec<Arc<Definition>>,
    pub queries: Vec<Query>,
}

pub struct Query {
    pub definition: Arc<Definition>,
    pub pipeline: Pipeline,
}

/// Plans statements: the streams `a` and `b` and queries after them. `{a}` and `{b}` stand for the streams without their closing rows.
pub fn plan(streams: &[String], queries: &[String]) -> Result<Program, SqlError> {
    let mut snapshot = Snapshot::default();
    for statement in streams.iter().chain(queries) {
        snapshot = after(&snapshot, statement)?;
    }
    let mut definitions: Vec<_> = snapshot.iter().cloned().collect();
    definitions.sort_by_key(|definition| definition.id);
    let (queries, streams): (Vec<_>, Vec<_>) = definitions
        .into_iter()
        .partition(|definition| definition.query().is_some());
    let planned = queries.into_iter().map(|definition| {
        let pipeline = pipeline(&definition, &snapshot)?;
        Ok(Query { definition, pipeline })
    });
    Ok(Program {
        queries: planned.collect::<Result<_, SqlError>>()?,
        streams,
    })
}

pub fn after(snapshot: &Snapshot, statement: &str) -> Result<Snapshot, SqlError> {
    let mut snapshot = snapshot.clone();
    for statement in parse(&written_out(statement))? {
        snapshot = snapshot.with(&changes(&statement, &snapshot)?);
    }
    Ok(snapshot)
}

pub fn written_out(statement: &str) -> String {
    STREAMS.iter().fold(statement.to_owned(), |text, name| {
        text.replace(&format!("{{{name}}}"), &format!("(SELECT * FROM {name} WHERE id > 0)"))
    })
}

impl Program {
    /// The rows of every query, as texts in order, over these events.
    pub fn batch(&self, events: &[Event]) -> Result<Vec<Vec<String>>, String> {
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        let runtime = runtime.map_err(|error| error.to_string())?;
        runtime.block_on(self.collected(events))
    }

    async fn collected(&self, events: &[Event]) -> Result<Vec<Vec<String>>, String> {
        let config = SessionConfig::new().with_target_partitions(1);
        let context = SessionContext::new_with_state(session_state(config).build());
        for (at, stream) in self.streams.iter().enumerate() {
            let schema = schema_of(stream);
            let rows = events::batch(&schema, events.iter().filter(|event| event.stream == at));
            register(&context, stream, rows)?;
        }
        let mut results = Vec::with_capacity(self.queries.len());
        for Query { definition, .. } in &self.queries {
            let rows = select(&context, definition).await;
            let rows = rows.map_err(|error| format!("{}: as a batch: {error}", definition.sql))?;
            results.push(texts(&rows));
            register(&context, definition, rows)?;
        }
        Ok(results)
    }
}

async fn select(context: &SessionContext, definition: &Definition) -> Result<RecordBatch, String> {
    let query = definition.query().ok_or("no query")?;
    let select = parse_query(&query.sql).map_err(|error| error.to_string())?;
    let state = context.state();
    let plan = logical_plan(&state, &select.query, &select.source).await;
    let frame = DataFrame::new(state, plan.map_err(|error| error.to_string())?);
    let batches = frame.collect().await.map_err(|error| error.to_string())?;
    let stored = schema_of(definition);
    let Some(first) = batches.first() else {
        return rows_of(
            &stored,
            stored
                .fields()
                .iter()
                .map(|field| new_empty_array(field.data_type()))
                .collect(),
        );
    };
    let rows = concat_batches(&first.schema(), &batches).map_err(|error| error.to_string())?;
    let columns = rows.columns().iter().zip(stored.fields());
    let columns = columns.map(|(column, field)| cast(column, field.data_type()));
    let columns: Vec<ArrayRef> = columns.collect::<Result<_, _>>().map_err(|error| error.to_string())?;
    rows_of(&stored, columns)
}

/// What a batch says about NULLs need not be what the stream says.
fn rows_of(schema: &SchemaRef, columns: Vec<ArrayRef>) -> Result<RecordBatch, String> {
    let fields = schema
        .fields()
        .iter()
        .map(|field| field.as_ref().clone().with_nullable(true));
    let schema = Schema::new(fields.collect::<Vec<_>>());
    RecordBatch::try_new(Arc::new(schema), columns).map_err(|error| error.to_string())
}

fn register(context: &SessionContext, definition: &Definition, rows: RecordBatch) -> Result<(), String> {
    let table = MemTable::try_new(rows.schema(), vec![vec![rows]]).map_err(|error| error.to_string())?;
    let registered = context.register_table(definition.name.as_str(), Arc::new(table));
    registered.map(drop).map_err(|error| error.to_string())
}

/// The rows of a stream or view, without what the engine adds to them.
pub fn schema_of(definition: &Definition) -> SchemaRef {
    let fields: Vec<_> = definition.columns().iter().map(Column::field).collect();
    Arc::new(Schema::new(fields))
}

/// Each row as a text, in the order of the texts.
pub fn texts(rows: &RecordBatch) -> Vec<String> {
    let options = FormatOptions::default().with_null("NULL");
    let columns: Vec<_> = rows.columns().iter().map(|column| readable(column)).collect();
    let columns: Vec<_> = columns
        .iter()
        .map(|column| ArrayFormatter::try_new(column, &options).expect("columns that can be written"))
        .collect();
    let mut texts: Vec<String> = (0..rows.num_rows())
        .map(|row| {
            let values: Vec<_> = columns.iter().map(|column| column.value(row).to_string()).collect();
            values.join("|")
        })
        .collect();
    texts.sort_unstable();
    texts
}

/// Times as numbers of seconds; a zero without its sign.
fn readable(column: &ArrayRef) -> ArrayRef {
    match column.data_type() {
        DataType::Timestamp(..) => cast(column, &DataType::Int64).expect("a time is a number"),
        DataType::Float64 => {
            let values = arrow::array::AsArray::as_primitive::<arrow::datatypes::Float64Type>(column);
            Arc::new(values.unary::<_, arrow::datatypes::Float64Type>(|value| value + 0.0))
        }
        _ => Arc::clone(column),
    }
}
