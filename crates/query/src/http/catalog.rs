//! `GET /v1/catalog`: what there is, as JSON.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use headwater_catalog::definition::{Definition, Object};
use headwater_schema::types::type_name;
use serde::Serialize;

use crate::shared::Shared;

#[derive(Serialize)]
pub struct Catalog {
    version: u64,
    streams: Vec<Entry>,
    views: Vec<Entry>,
    sources: Vec<SourceEntry>,
    sinks: Vec<SinkEntry>,
    tables: Vec<TableEntry>,
}

#[derive(Serialize)]
struct SourceEntry {
    name: String,
    /// The stream that it writes into.
    into: String,
    connector: String,
    sql: String,
}

#[derive(Serialize)]
struct SinkEntry {
    name: String,
    /// The stream or view that it reads.
    reads: String,
    connector: String,
    sql: String,
}

/// A table that is kept elsewhere.
#[derive(Serialize)]
struct TableEntry {
    name: String,
    columns: Vec<Column>,
    key: Vec<String>,
    connector: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    http_path: Option<String>,
    sql: String,
}

#[derive(Serialize)]
struct Entry {
    name: String,
    columns: Vec<Column>,
    /// The columns that name a row of a view: none for a view of one row. Not there where rows are
    /// only added.
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    partition_by: Vec<String>,
    partitions: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    retention_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    http_path: Option<String>,
    /// The topic of Kafka's that a stream is bound to.
    #[serde(skip_serializing_if = "Option::is_none")]
    topic: Option<String>,
    /// The streams and views that it is computed from.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    reads: Vec<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    builtin: bool,
    sql: String,
}

#[derive(Serialize)]
struct Column {
    name: String,
    #[serde(rename = "type")]
    data_type: String,
    nullable: bool,
}

pub async fn list(State(shared): State<Arc<Shared>>) -> Json<Catalog> {
    let snapshot = shared.parts.catalog.snapshot();
    let (streams, views) = snapshot
        .iter()
        .map(|definition| &**definition)
        .filter(|definition| definition.has_rows())
        .partition::<Vec<_>, _>(|definition| definition.stream().is_some());
    Json(Catalog {
        version: snapshot.version,
        streams: streams.into_iter().map(entry).collect(),
        views: views.into_iter().map(entry).collect(),
        sources: snapshot.iter().filter_map(|definition| source(definition)).collect(),
        sinks: snapshot.iter().filter_map(|definition| sink(definition)).collect(),
        tables: snapshot.iter().filter_map(|definition| table(definition)).collect(),
    })
}

fn source(definition: &Definition) -> Option<SourceEntry> {
    let source = definition.source()?;
    Some(SourceEntry {
        name: definition.name.clone(),
        into: source.stream.clone(),
        connector: source.connector.clone(),
        sql: definition.sql.clone(),
    })
}

fn sink(definition: &Definition) -> Option<SinkEntry> {
    let sink = definition.sink()?;
    Some(SinkEntry {
        name: definition.name.clone(),
        reads: sink.reads.clone(),
        connector: sink.connector.clone(),
        sql: definition.sql.clone(),
    })
}

fn table(definition: &Definition) -> Option<TableEntry> {
    let table = definition.table()?;
    Some(TableEntry {
        name: definition.name.clone(),
        columns: columns(definition),
        key: table.key.clone(),
        connector: table.connector.clone(),
        http_path: table.http_path.clone(),
        sql: definition.sql.clone(),
    })
}

fn columns(definition: &Definition) -> Vec<Column> {
    let columns = definition.columns().iter().map(|column| Column {
        name: column.name.clone(),
        data_type: type_name(&column.data_type, column.json),
        nullable: column.nullable,
    });
    columns.collect()
}

fn entry(definition: &Definition) -> Entry {
    let entry = Entry {
        name: definition.name.clone(),
        columns: columns(definition),
        key: None,
        partition_by: Vec::new(),
        partitions: definition.partitions(),
        retention_ms: None,
        http_path: definition.http_path().map(str::to_owned),
        topic: definition.stream().and_then(|stream| stream.topic.clone()),
        reads: definition.query().map(|query| query.reads.clone()).unwrap_or_default(),
        builtin: false,
        sql: definition.sql.clone(),
    };
    match &definition.object {
        Object::Stream(stream) => Entry {
            partition_by: stream.partition_by.clone(),
            retention_ms: stream.retention_ms,
            builtin: stream.builtin,
            ..entry
        },
        Object::View(view) => Entry {
            key: view.key.clone(),
            ..entry
        },
        Object::Source(_) | Object::Sink(_) | Object::Table(_) => entry,
    }
}
