//! Reading a view's rows from its state table.
//!
//! A row's key is the arrow-row encoding of the key columns, one column after the other. So the
//! encoding of some leading key columns is a prefix of the keys of all rows that have these
//! values: equality on all of them is a get, on the leading ones a scan of just those rows.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::{Schema, SchemaRef};
use bytes::Bytes;
use datafusion::common::DataFusionError;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchReceiverStreamBuilder;
use headwater_catalog::definition::{Definition, View};
use headwater_engine::plan::ViewKey;
use headwater_engine::view::ViewCodec;
use headwater_log::{Entries, Log, StateTable};
use parking_lot::RwLock;

use crate::error::QueryError;

/// Rows of one batch of a scan.
const SCAN_ROWS: usize = 8192;
/// And their encoded bytes at most, give or take a row.
const SCAN_BYTES_MAX: usize = 1 << 20;
/// Batches that a scan is ahead of its reader.
const SCAN_BATCHES_AHEAD: usize = 2;

/// One view, open for reading.
#[derive(Debug)]
pub struct ViewRows {
    pub definition: Arc<Definition>,
    pub schema: SchemaRef,
    /// The key columns' places in the schema, in the key's order: none for a view of one row.
    /// `None` without a key.
    pub key: Option<Vec<usize>>,
    codec: ViewCodec,
    table: Arc<dyn StateTable>,
}

/// The views that were read so far, kept open.
#[derive(Debug)]
pub struct Views {
    log: Arc<dyn Log>,
    open: RwLock<HashMap<String, Arc<ViewRows>>>,
}

impl Views {
    pub fn new(log: Arc<dyn Log>) -> Self {
        Self {
            log,
            open: RwLock::default(),
        }
    }

    /// The view behind a definition as it stands in the catalog.
    pub async fn open(&self, definition: &Arc<Definition>) -> Result<Arc<ViewRows>, QueryError> {
        if let Some(view) = self.open.read().get(&definition.name)
            && Arc::ptr_eq(&view.definition, definition)
        {
            return Ok(Arc::clone(view));
        }
        let view = Arc::new(ViewRows::open(self.log.as_ref(), definition).await?);
        self.open.write().insert(definition.name.clone(), Arc::clone(&view));
        Ok(view)
    }

    /// Forgets the views that `keep` doesn't want.
    pub fn retain(&self, keep: impl Fn(&Definition) -> bool) {
        self.open.write().retain(|_, view| keep(&view.definition));
    }
}

impl ViewRows {
    async fn open(log: &dyn Log, definition: &Arc<Definition>) -> Result<Self, QueryError> {
        let Some(view) = definition.view() else {
            return Err(QueryError::internal(format!("'{}' is not a view", definition.name)));
        };
        let schema = schema(view);
        let places = |key: &Vec<String>| key.iter().filter_map(|name| schema.index_of(name).ok()).collect();
        let key: Option<Vec<usize>> = view.key.as_ref().map(places);
        let encoding = key.clone().map_or(ViewKey::Position, ViewKey::Columns);
        Ok(Self {
            codec: ViewCodec::new(Arc::clone(&schema), &encoding)?,
            table: log.state(&definition.rows_table()).await?,
            definition: Arc::clone(definition),
            schema,
            key,
        })
    }

    /// The key columns' places, if there are any.
    pub fn key_columns(&self) -> &[usize] {
        self.key.as_deref().unwrap_or_default()
    }

    /// The row with this key, one value for each key column in the key's order.
    ///
    /// Reads in the caller's thread: one key is as a rule in the cache, and handing it to another
    /// thread would take longer than the read.
    pub fn get(&self, key: &[ArrayRef]) -> Result<Option<RecordBatch>, QueryError> {
        let Some(key) = self.codec.key(key)?.into_iter().next() else {
            return Ok(None);
        };
        let Some(value) = self.table.get(&key)? else {
            return Ok(None);
        };
        Ok(Some(self.codec.decode(&[(key, value)])?))
    }

    /// What the keys of the rows begin with that have these values in the leading key columns.
    pub fn prefix(&self, leading: &[ArrayRef]) -> Result<Bytes, QueryError> {
        if leading.is_empty() {
            return Ok(Bytes::new());
        }
        let prefix = self.codec.prefix(leading)?.into_iter().next();
        Ok(prefix.unwrap_or_default())
    }

    /// The rows whose keys begin with `prefix`, read on a thread that may block. `schema` is what
    /// the columns give.
    pub fn scan(
        self: &Arc<Self>,
        prefix: Bytes,
        columns: Option<Vec<usize>>,
        schema: SchemaRef,
    ) -> SendableRecordBatchStream {
        let mut stream = RecordBatchReceiverStreamBuilder::new(Arc::clone(&schema), SCAN_BATCHES_AHEAD);
        let send = stream.tx();
        let view = Arc::clone(self);
        stream.spawn_blocking(move || {
            let mut entries = view.table.scan(&prefix);
            loop {
                let chunk = chunk(&mut entries).map_err(external)?;
                if chunk.is_empty() {
                    return Ok(());
                }
                let mut rows = view.codec.decode(&chunk).map_err(|error| external(error.into()))?;
                if let Some(columns) = &columns {
                    rows = rows.project(columns)?;
                }
                let rows = rows.with_schema(Arc::clone(&schema))?;
                if send.blocking_send(Ok(rows)).is_err() {
                    // Nobody wants the rest.
                    return Ok(());
                }
            }
        });
        stream.build()
    }
}

/// The rows of a view in columns.
pub fn schema(view: &View) -> SchemaRef {
    let fields: Vec<_> = view.columns.iter().map(|column| column.field()).collect();
    Arc::new(Schema::new(fields))
}

fn chunk(entries: &mut Entries) -> Result<Vec<(Bytes, Bytes)>, QueryError> {
    let mut chunk = Vec::new();
    let mut bytes = 0;
    while chunk.len() < SCAN_ROWS && bytes < SCAN_BYTES_MAX {
        let Some(entry) = entries.next() else {
            break;
        };
        let entry = entry?;
        bytes += entry.0.len() + entry.1.len();
        chunk.push(entry);
    }
    Ok(chunk)
}

fn external(error: QueryError) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}
