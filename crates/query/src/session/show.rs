//! SHOW, DESCRIBE and EXPLAIN: the catalog and plans as rows.

use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use datafusion::common::ScalarValue;
use datafusion::logical_expr::LogicalPlanBuilder;
use futures::{StreamExt, stream};
use headwater_catalog::definition::{Definition, Object, Sink, Source};
use headwater_catalog::snapshot::Snapshot;
use headwater_connect::delivery::SinkStatus;
use headwater_connect::runtime::SourceStatus;
use headwater_connect::sinks;
use headwater_engine::engine::Query;
use headwater_engine::status::TaskState;
use headwater_schema::column::{Column, ColumnDefault};
use headwater_schema::types::type_name;
use headwater_sql::error::{Kind as SqlKind, SqlError};
use headwater_sql::statement::{Explain, Kind, Name, Show};

use crate::error::QueryError;
use crate::session::{Answer, Session};
use crate::shared::Shared;

pub async fn show(shared: &Shared, show: Show) -> Result<Answer, QueryError> {
    let snapshot = shared.parts.catalog.snapshot();
    let wanted: fn(&&Arc<Definition>) -> bool = match show {
        Show::Streams => |definition| definition.stream().is_some(),
        Show::Views => |definition| definition.view().is_some(),
        Show::All => |definition| definition.has_rows() || definition.table().is_some(),
        Show::Sources => return sources(shared, &snapshot),
        Show::Sinks => return sinks(shared, &snapshot).await,
    };
    let found: Vec<_> = snapshot.iter().filter(wanted).collect();
    let reads = |definition: &&Arc<Definition>| definition.query().map(|query| query.reads.join(", "));
    let mut built = Vec::with_capacity(found.len());
    for definition in &found {
        built.push(building(shared, definition).await?);
    }
    let mut topics = Vec::with_capacity(found.len());
    for definition in &found {
        topics.push(topic(shared, definition).await?);
    }
    let failures: Vec<_> = found.iter().map(|definition| failure(shared, definition)).collect();
    let behind = found.iter().map(|definition| {
        let behind = shared.freshness.behind(definition, shared)?;
        Some(behind.as_secs_f64())
    });
    let columns: [(&str, ArrayRef); 9] = [
        (
            "name",
            text(found.iter().map(|definition| Some(definition.name.clone()))),
        ),
        (
            "kind",
            text(found.iter().map(|definition| Some(definition.kind().to_owned()))),
        ),
        ("partitions", partitions(&found)),
        ("reads", text(found.iter().map(reads))),
        (
            "route",
            text(found.iter().map(|definition| definition.http_path().map(str::to_owned))),
        ),
        ("building", text(built.into_iter())),
        ("topic", text(topics.into_iter())),
        ("failure", text(failures.into_iter())),
        ("behind_seconds", Arc::new(behind.collect::<Float64Array>())),
    ];
    rows(columns)
}

/// What other programs know the topic of a stream's events by, if they can read it.
async fn topic(shared: &Shared, definition: &Definition) -> Result<Option<String>, QueryError> {
    if definition.stream().is_none() {
        return Ok(None);
    }
    let topic = shared.parts.log.topic(&definition.topic()).await?;
    Ok(topic.and_then(|topic| topic.known_as))
}

/// What keeps an object from being current: why its query doesn't get on, or why a table can't be asked for rows.
fn failure(shared: &Shared, definition: &Definition) -> Option<String> {
    if definition.table().is_some() {
        return shared.parts.lookups.failure(definition);
    }
    let query = shared
        .parts
        .engine
        .query(&format!("{}-{}", definition.name, definition.id))?;
    failure_of(&query)
}

fn failure_of(query: &Query) -> Option<String> {
    query.status().into_iter().find_map(|task| match task.state {
        TaskState::Failing(why) | TaskState::Failed(why) => Some(why),
        TaskState::Starting | TaskState::Running | TaskState::Elsewhere | TaskState::Stopped => None,
    })
}

/// How far the object is that will take the place of this one, and what keeps it.
async fn building(shared: &Shared, definition: &Definition) -> Result<Option<String>, QueryError> {
    if !definition.is_building() {
        return Ok(None);
    }
    let object = definition.latest();
    let Some(query) = shared.parts.engine.query(&format!("{}-{}", object.name, object.id)) else {
        return Ok(Some("does not run: see the server's log".to_owned()));
    };
    let progress = query.progress(shared.parts.log.as_ref()).await?;
    let percent = (progress.rows - progress.behind) * 100 / progress.rows.max(1);
    let behind = match progress.behind {
        0 => "caught up".to_owned(),
        1 => format!("{percent} %, 1 row behind"),
        rows => format!("{percent} %, {rows} rows behind"),
    };
    Ok(Some(
        failure_of(&query).map_or(behind.clone(), |why| format!("{behind}: {why}")),
    ))
}

/// What every source has brought so far, and why it doesn't get on if it doesn't.
fn sources(shared: &Shared, snapshot: &Snapshot) -> Result<Answer, QueryError> {
    let statuses = shared.parts.sources.status();
    let found: Vec<_> = snapshot
        .iter()
        .filter_map(|definition| Some((definition.name.as_str(), definition.source()?)))
        .map(|(name, source)| (name, source, statuses.iter().find(|status| status.name == name)))
        .collect();
    let count = |count: fn(&SourceStatus) -> u64| -> ArrayRef {
        let counts = found.iter().map(|(_, _, status)| i64::try_from(count((*status)?)).ok());
        Arc::new(counts.collect::<Int64Array>())
    };
    let state = |status: Option<&SourceStatus>| status.map_or("stopped", |status| status.state).to_owned();
    rows([
        ("name", text(found.iter().map(|(name, _, _)| Some((*name).to_owned())))),
        (
            "connector",
            text(found.iter().map(|(_, source, _)| Some(source.connector.clone()))),
        ),
        (
            "stream",
            text(found.iter().map(|(_, source, _)| Some(source.stream.clone()))),
        ),
        ("state", text(found.iter().map(|(_, _, status)| Some(state(*status))))),
        ("events", count(|status| status.events)),
        ("dead_letters", count(|status| status.dead_letters)),
        (
            "failure",
            text(found.iter().map(|(_, _, status)| (*status)?.failure.clone())),
        ),
    ])
}

/// What every sink has delivered so far, what it has yet to deliver, and why it doesn't get on if it doesn't.
async fn sinks(shared: &Shared, snapshot: &Snapshot) -> Result<Answer, QueryError> {
    let statuses = shared.parts.sinks.status().await;
    let found: Vec<_> = snapshot
        .iter()
        .filter_map(|definition| Some((definition.name.as_str(), definition.sink()?)))
        .map(|(name, sink)| (name, sink, statuses.iter().find(|status| status.name == name)))
        .collect();
    let count = |count: fn(&SinkStatus) -> Option<u64>| -> ArrayRef {
        let counts = found
            .iter()
            .map(|(_, _, status)| i64::try_from(count((*status)?)?).ok());
        Arc::new(counts.collect::<Int64Array>())
    };
    let state = |status: Option<&SinkStatus>| status.map_or("stopped", |status| status.state).to_owned();
    rows([
        ("name", text(found.iter().map(|(name, _, _)| Some((*name).to_owned())))),
        (
            "connector",
            text(found.iter().map(|(_, sink, _)| Some(sink.connector.clone()))),
        ),
        ("reads", text(found.iter().map(|(_, sink, _)| Some(sink.reads.clone())))),
        ("state", text(found.iter().map(|(_, _, status)| Some(state(*status))))),
        ("rows", count(|status| Some(status.rows))),
        ("lag", count(|status| status.lag)),
        ("dead_letters", count(|status| Some(status.dead_letters))),
        ("missed", count(|status| Some(status.missed))),
        (
            "failure",
            text(found.iter().map(|(_, _, status)| (*status)?.failure.clone())),
        ),
    ])
}

/// A source's options as they were written.
fn source_options(source: &Source) -> Result<Answer, QueryError> {
    let mut options = vec![
        ("into", source.stream.as_str()),
        ("connector", source.connector.as_str()),
    ];
    options.extend(source.encode.as_deref().map(|encode| ("encode", encode)));
    options.extend(source.options.iter().map(|(key, value)| (key.as_str(), value.as_str())));
    option_rows(&options)
}

/// A sink's options as they were written, and what it promises.
fn sink_options(sink: &Sink, snapshot: &Snapshot) -> Result<Answer, QueryError> {
    let mut options = vec![("from", sink.reads.as_str()), ("connector", sink.connector.as_str())];
    options.extend(sink.options.iter().map(|(key, value)| (key.as_str(), value.as_str())));
    let opened = snapshot
        .get(&sink.reads)
        .and_then(|reads| sinks::open(sink, reads).ok());
    options.extend(opened.map(|sink| ("delivery", sink.guarantee())));
    option_rows(&options)
}

fn option_rows(options: &[(&str, &str)]) -> Result<Answer, QueryError> {
    let column = |part: fn(&(&str, &str)) -> String| text(options.iter().map(|option| Some(part(option))));
    rows([
        ("option", column(|(key, _)| (*key).to_owned())),
        ("value", column(|(_, value)| (*value).to_owned())),
    ])
}

pub fn describe(shared: &Shared, name: &Name) -> Result<Answer, QueryError> {
    let snapshot = shared.parts.catalog.snapshot();
    let definition = find(&snapshot, name)?;
    if let Some(source) = definition.source() {
        return source_options(source);
    }
    if let Some(sink) = definition.sink() {
        return sink_options(sink, &snapshot);
    }
    let now = definition.columns();
    let type_of = |column: &Column| type_name(&column.data_type, column.json);
    let next = definition.successor.as_deref().map(Definition::columns);
    let named = |name: &str| next.and_then(|next| next.iter().find(|column| column.name == name));
    let is_new = |column: &&Column| now.iter().all(|known| known.name != column.name);
    let added: Vec<&Column> = next.unwrap_or_default().iter().filter(is_new).collect();
    // What the columns are, for those that are there.
    let present = |of: &dyn Fn(&Column) -> Option<String>| {
        let values = now.iter().map(of).chain(added.iter().map(|_| None));
        text(values.collect::<Vec<_>>().into_iter())
    };
    let all = || now.iter().chain(added.iter().copied());
    let nullable = now.iter().map(|column| Some(column.nullable));
    let nullable: BooleanArray = nullable.chain(added.iter().map(|_| None)).collect();
    let building =
        |column: &Column| next.map(|_| named(&column.name).map_or_else(|| "no longer there".to_owned(), type_of));
    let columns: [(&str, ArrayRef); 6] = [
        ("column", text(all().map(|column| Some(column.name.clone())))),
        ("type", present(&|column| Some(type_of(column)))),
        ("nullable", Arc::new(nullable)),
        ("default", present(&default_of)),
        ("role", present(&|column| role(definition, &column.name))),
        ("building", text(all().map(building))),
    ];
    rows(columns)
}

pub fn find<'a>(snapshot: &'a Snapshot, name: &Name) -> Result<&'a Arc<Definition>, SqlError> {
    snapshot.get(&name.value).ok_or_else(|| {
        let message = format!("there is no stream or view '{}'", name.value);
        SqlError::new(SqlKind::UnknownObject, message)
            .did_you_mean(snapshot.nearest(&name.value))
            .at(name.place.clone())
    })
}

/// A continuous query's stages, or DataFusion's plan of a one-off one.
pub async fn explain(session: &Session, explain: &Explain, parameters: &[ScalarValue]) -> Result<Answer, QueryError> {
    match &explain.statement.kind {
        Kind::Select(select) if !select.emit_changes => {
            let plan = session.plan_query(select).await?;
            let plan = LogicalPlanBuilder::from(plan).explain(explain.verbose, explain.analyze)?;
            session.rows(plan.build()?, parameters)
        }
        _ => {
            let snapshot = session.shared.parts.catalog.snapshot();
            let lines = headwater_sql::explain::explain(&explain.statement, &snapshot)?;
            let lines = StringArray::from(lines);
            rows([("plan", Arc::new(lines) as ArrayRef)])
        }
    }
}

/// What part a column plays.
fn role(definition: &Definition, column: &str) -> Option<String> {
    let mut roles = Vec::new();
    match &definition.object {
        Object::View(view) if view.key_columns().iter().any(|key| key == column) => roles.push("key"),
        Object::Table(table) if table.key.iter().any(|key| key == column) => roles.push("key"),
        Object::View(_) | Object::Source(_) | Object::Sink(_) | Object::Table(_) => {}
        Object::Stream(stream) => {
            if stream.partition_by.iter().any(|key| key == column) {
                roles.push("partition");
            }
            if stream
                .watermark
                .as_ref()
                .is_some_and(|watermark| watermark.column == column)
            {
                roles.push("event time");
            }
            if stream
                .idempotency
                .as_ref()
                .is_some_and(|idempotency| idempotency.column == column)
            {
                roles.push("idempotency key");
            }
        }
    }
    (!roles.is_empty()).then(|| roles.join(", "))
}

fn default_of(column: &Column) -> Option<String> {
    match column.default.as_ref()? {
        ColumnDefault::Uuid => Some("uuid()".to_owned()),
        ColumnDefault::Now => Some("now()".to_owned()),
        ColumnDefault::Value(value) => Some(value.clone()),
    }
}

fn partitions(definitions: &[&Arc<Definition>]) -> ArrayRef {
    let number =
        |definition: &&Arc<Definition>| i32::try_from(definition.partitions()).ok().filter(|number| *number > 0);
    Arc::new(definitions.iter().map(number).collect::<Int32Array>())
}

pub fn text(values: impl Iterator<Item = Option<String>>) -> ArrayRef {
    Arc::new(values.collect::<StringArray>())
}

pub fn rows<const N: usize>(columns: [(&str, ArrayRef); N]) -> Result<Answer, QueryError> {
    let field = |(name, column): &(&str, ArrayRef)| {
        let data_type: &DataType = column.data_type();
        Field::new(*name, data_type.clone(), true)
    };
    let schema = Arc::new(Schema::new(columns.iter().map(field).collect::<Vec<_>>()));
    let columns = columns.into_iter().map(|(_, column)| column).collect();
    let batch = RecordBatch::try_new(Arc::clone(&schema), columns)?;
    Ok(Answer::Rows {
        schema,
        rows: stream::iter([Ok(batch)]).boxed(),
    })
}
