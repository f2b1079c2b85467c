//! From statements to what they change in the catalog.
//!
//! A definition is checked for everything that could keep it from running: its options, its types,
//! its query, which is planned as it will be when it runs.

mod column;
mod keep;
mod options;
mod replace;
pub mod sink;
pub mod source;
pub mod table;
#[cfg(test)]
mod tests;

use headwater_catalog::definition::{DEAD_LETTERS, Definition, Object, Query, Stream, View, Watermark};
use headwater_catalog::snapshot::{Change, Snapshot};
use headwater_log::topic::Encoding;
use headwater_schema::column::EventSchema;

use crate::define::options::Options;
use crate::error::{Kind as ErrorKind, Result, SqlError};
use crate::plan::stages::{Flow, Request};
use crate::plan::{self, tables::unknown_object};
use crate::statement::{CreateStream, CreateView, Drop, Kind, Name, ObjectKind, Select, Statement};

/// Partitions of a stream that doesn't say.
const PARTITIONS: u32 = 4;

/// What a `CREATE` or a `DROP` changes; nothing where `IF [NOT] EXISTS` applies, or where the same
/// statement made the object already. Other statements change nothing.
///
/// # Errors
/// Why it can't be, with its place.
pub fn changes(statement: &Statement, snapshot: &Snapshot) -> Result<Vec<Change>> {
    match &statement.kind {
        Kind::Drop(drop) => removed(drop, snapshot),
        Kind::CreateStream(_)
        | Kind::CreateView(_)
        | Kind::CreateSource(_)
        | Kind::CreateSink(_)
        | Kind::CreateTable(_) => {
            let Some((definition, name)) = define(statement, snapshot)? else {
                return Ok(Vec::new());
            };
            if let Some(kept) = table::in_place(&definition, snapshot) {
                return Ok(vec![Change::Put(kept)]);
            }
            if let Some(Ok(kept)) = keep::asked(statement, &definition, snapshot) {
                return Ok(vec![Change::Put(kept)]);
            }
            replace::changes(definition, snapshot).map_err(|error| error.at(name.place.clone()))
        }
        _ => Ok(Vec::new()),
    }
}

/// Why a `CREATE OR REPLACE` that asks for the state of what it replaces (`start = 'state'`) can't have it; `None` where it can, or
/// doesn't ask.
///
/// # Errors
/// Why it can't be, with its place.
pub fn why_not_kept(statement: &Statement, snapshot: &Snapshot) -> Result<Option<String>> {
    if !keep::asks(statement) {
        return Ok(None);
    }
    let defined = define(statement, snapshot)?;
    let kept = defined.and_then(|(definition, _)| keep::asked(statement, &definition, snapshot));
    Ok(kept.and_then(std::result::Result::err))
}

/// The definition that a `CREATE` makes, planned against `snapshot` as it will be, and the name in the statement. Its
/// id is 0: the catalog gives it one. `None` if there is nothing to do.
///
/// # Errors
/// Why it can't be, with its place; any statement but `CREATE`.
pub fn define<'a>(statement: &'a Statement, snapshot: &Snapshot) -> Result<Option<(Definition, &'a Name)>> {
    let sql = statement.source.text();
    let (name, or_replace, if_not_exists) = match &statement.kind {
        Kind::CreateStream(create) => (&create.name, create.or_replace, create.if_not_exists),
        Kind::CreateView(create) => (&create.name, create.or_replace, create.if_not_exists),
        Kind::CreateSource(create) => (&create.name, create.or_replace, create.if_not_exists),
        Kind::CreateSink(create) => (&create.name, create.or_replace, create.if_not_exists),
        Kind::CreateTable(create) => (&create.name, create.or_replace, create.if_not_exists),
        _ => return Err(SqlError::invalid("only CREATE makes a definition").at(statement.source.start())),
    };
    let existing = snapshot.get(&name.value);
    if let Some(existing) = existing {
        match () {
            () if if_not_exists => return Ok(None),
            () if !or_replace => return Err(exists(name, existing)),
            () if existing.latest().sql == sql => return Ok(None),
            () => {}
        }
    }
    check_name(name)?;
    // What is replaced can't be read by its successor.
    let base = snapshot.future().with(&[Change::Remove(name.value.clone())]);
    let object = object(statement, &base)?;
    let definition = Definition::new(&name.value, sql, object);
    let route = definition.http_path().and_then(|path| snapshot.by_http_path(path));
    if let Some(other) = route.filter(|other| other.name != definition.name) {
        let message = format!(
            "the path is taken by the {} {} until it is replaced",
            other.kind(),
            other.name
        );
        return Err(SqlError::invalid(message).at(name.place.clone()));
    }
    Ok(Some((definition, name)))
}

/// What a `CREATE` makes, planned against a catalog without anything of its name.
fn object(statement: &Statement, base: &Snapshot) -> Result<Object> {
    match &statement.kind {
        Kind::CreateStream(create) => stream(create, base).map(Object::Stream),
        Kind::CreateView(create) => view(create, base).map(Object::View),
        Kind::CreateSource(create) => source::source(create, base).map(Object::Source),
        Kind::CreateSink(create) => sink::sink(create, base).map(Object::Sink),
        Kind::CreateTable(create) => table::table(create, base).map(Object::Table),
        _ => Err(SqlError::internal("CREATE of nothing that is known")),
    }
}

/// The objects that a `DROP` removes, dependents first.
fn removed(drop: &Drop, snapshot: &Snapshot) -> Result<Vec<Change>> {
    let name = &drop.name.value;
    let Some(existing) = snapshot.get(name) else {
        if drop.if_exists {
            return Ok(Vec::new());
        }
        return Err(unknown_object(name, snapshot).at(drop.name.place.clone()));
    };
    let (found, wanted) = (existing.kind(), drop.object.name());
    if found != wanted {
        let message = format!("{name} is a {found}, not a {wanted}");
        return Err(SqlError::new(ErrorKind::Invalid, message)
            .at(drop.name.place.clone())
            .hint(format!("write DROP {} {name}", kind_of(existing).sql())));
    }
    if name == DEAD_LETTERS || existing.stream().is_some_and(|stream| stream.builtin) {
        return Err(
            SqlError::invalid(format!("{name} belongs to Headwater and can't be dropped")).at(drop.name.place.clone()),
        );
    }
    let dependents = snapshot.dependents_deep(name);
    if !dependents.is_empty() && !drop.cascade {
        return Err(SqlError::new(
            ErrorKind::Dependents,
            format!(
                "{name} can't be dropped: {} depend{} on it",
                dependents.join(", "),
                if dependents.len() == 1 { "s" } else { "" }
            ),
        )
        .at(drop.name.place.clone())
        .hint(format!(
            "drop them first, or all together: DROP {} {name} CASCADE",
            drop.object.sql()
        )));
    }
    let last = std::iter::once(name.as_str());
    let names = dependents.into_iter().rev().chain(last);
    Ok(names.map(|name| Change::Remove(name.to_owned())).collect())
}

fn stream(create: &CreateStream, snapshot: &Snapshot) -> Result<Stream> {
    let options = Options::of_stream(create, snapshot)?;
    match &create.query {
        Some(query) => derived(create, query, options, snapshot),
        None => from_outside(create, options),
    }
}

fn from_outside(create: &CreateStream, mut options: Options) -> Result<Stream> {
    let columns = create.columns.iter().map(column::column).collect::<Result<Vec<_>>>()?;
    let encoding = encoding(create, columns.len())?;
    let watermark = create
        .watermark
        .as_ref()
        .map(|watermark| column::watermark(watermark, &columns))
        .transpose()?;
    let names: Vec<&str> = columns.iter().map(|column| column.name.as_str()).collect();
    let max_future = options.max_future;
    if let (Some(_), Some(place)) = (&options.topic, &options.max_future_place) {
        return Err(SqlError::unsupported(
            "max_future is looked at where events come in, which others pass by who write to the topic",
        )
        .at(place.clone())
        .hint("leave it out, or bring the topic's events in with CREATE SOURCE … WITH (connector = 'kafka', …)"));
    }
    if let (None, Some(place)) = (&watermark, options.max_future_place.take()) {
        return Err(
            SqlError::invalid("max_future is for streams with a WATERMARK: it says which column is the time")
                .at(place)
                .hint("add to its columns: WATERMARK FOR column AS column - INTERVAL '5' SECOND"),
        );
    }
    let stream = common(create, options, &names)?;
    Ok(Stream {
        encoding,
        schema: EventSchema {
            columns,
            ..stream.schema
        },
        watermark: watermark.map(|(column, delay)| Watermark {
            column,
            delay,
            max_future,
        }),
        ..stream
    })
}

/// What the stream's events are on Kafka.
fn encoding(create: &CreateStream, columns: usize) -> Result<Encoding> {
    let Some(name) = &create.encode else {
        return Ok(Encoding::default());
    };
    match name.value.to_lowercase().as_str() {
        "json" => Ok(Encoding::Json),
        "csv" if columns == 1 => Err(SqlError::unsupported(
            "CSV of one column has no line for NULL: an empty one is none",
        )
        .at(name.place.clone())
        .hint("ENCODE JSON has one")),
        "csv" => Ok(Encoding::Csv),
        other => Err(
            SqlError::unsupported(format!("the records of a stream can't be encoded as {}", other.to_uppercase()))
                .at(name.place.clone())
                .hint("ENCODE JSON and ENCODE CSV are there; a source (CREATE SOURCE … WITH (connector = 'kafka', …)) also reads COMBINED_LOG"),
        ),
    }
}

/// A stream that a query fills: with final rows, once.
fn derived(create: &CreateStream, select: &Select, mut options: Options, snapshot: &Snapshot) -> Result<Stream> {
    if let Some(encode) = &create.encode {
        return Err(SqlError::unsupported(
            "FORMAT is for streams with columns of their own: the rows of a stream AS SELECT are kept as columns",
        )
        .at(encode.place.clone())
        .hint("CREATE SINK … WITH (connector = 'kafka', …) writes them to a topic as JSON"));
    }
    if let Some(place) = options.idempotency_place.take() {
        return Err(
            SqlError::invalid("a stream AS SELECT has no idempotency_key: its rows come exactly once").at(place),
        );
    }
    if select.emit_changes {
        return Err(
            SqlError::invalid("a stream holds final rows; EMIT CHANGES gives rows that change")
                .at(crate::error::find(&select.source, "emit"))
                .hint("leave EMIT CHANGES out, or CREATE MATERIALIZED VIEW"),
        );
    }
    let request = Request {
        name: &create.name.value,
        start: options.start,
        state: options.state,
        allowed_lateness: 0,
        state_ttl: options.state_ttl,
        partitions: options.partitions,
    };
    let flow = plan::flow(select, snapshot, &request)?;
    if flow.changelog {
        return Err(
            SqlError::invalid("a stream holds final rows; the result of this query changes")
                .at(crate::error::find(&select.source, "group"))
                .or_at_start(&select.source)
                .hint("CREATE MATERIALIZED VIEW keeps it current, or aggregate over windows: FROM TUMBLE(…)"),
        );
    }
    options.partitions = options.partitions.or(Some(flow.tasks));
    let query = query(select, &flow, &options);
    let names: Vec<&str> = flow.columns.iter().map(|column| column.name.as_str()).collect();
    let mut stream = common(create, options, &names)?;
    if create.partition_by.is_empty() {
        stream.partition_by = natural_partitions(&flow);
    }
    Ok(Stream {
        query: Some(query),
        schema: EventSchema {
            columns: flow.columns,
            ..stream.schema
        },
        ..stream
    })
}

/// The columns by which the rows of a derived stream lie already, or those of its groups.
fn natural_partitions(flow: &Flow) -> Vec<String> {
    let columns = flow.partitioned.as_deref().unwrap_or_default();
    columns.iter().map(|&at| flow.columns[at].name.clone()).collect()
}

/// What both kinds of streams have.
fn common(create: &CreateStream, options: Options, columns: &[&str]) -> Result<Stream> {
    for name in &create.partition_by {
        column::check_known(name, columns)?;
    }
    if let (Some(idempotency), Some(place)) = (&options.idempotency, &options.idempotency_place) {
        let name = Name {
            value: idempotency.column.clone(),
            place: place.clone(),
        };
        column::check_known(&name, columns)?;
    }
    Ok(Stream {
        schema: EventSchema {
            columns: Vec::new(),
            unknown_fields: options.unknown_fields,
        },
        watermark: None,
        partition_by: create.partition_by.iter().map(|name| name.value.clone()).collect(),
        partitions: options.partitions.unwrap_or(PARTITIONS),
        retention_ms: options.retention_ms,
        retention_bytes: options.retention_bytes,
        idempotency: options.idempotency,
        late: options.late,
        idle_timeout_ms: options.idle_timeout_ms,
        http_path: options.http_path,
        topic: options.topic,
        encoding: Encoding::default(),
        query: None,
        builtin: false,
    })
}

fn view(create: &CreateView, snapshot: &Snapshot) -> Result<View> {
    let options = Options::of_view(create, snapshot)?;
    let select = &create.query;
    let request = Request {
        name: &create.name.value,
        start: options.start,
        state: options.state,
        allowed_lateness: options.allowed_lateness,
        state_ttl: options.state_ttl,
        partitions: options.partitions,
    };
    let flow = plan::flow(select, snapshot, &request)?;
    let rows = plan::output::view_rows(&flow);
    Ok(View {
        key: rows.names,
        partitions: flow.tasks,
        query: query(select, &flow, &options),
        http_path: options.http_path,
        columns: flow.columns,
    })
}

fn query(select: &Select, flow: &Flow, options: &Options) -> Query {
    Query {
        sql: select.source.text().to_owned(),
        reads: flow.reads.clone(),
        start: options.start,
        state: options.state,
        allowed_lateness: options.allowed_lateness,
        state_ttl: options.state_ttl,
        tables: Vec::new(),
    }
}

fn exists(name: &Name, existing: &Definition) -> SqlError {
    SqlError::new(
        ErrorKind::Exists,
        format!("there is a {} {} already", existing.kind(), name.value),
    )
    .at(name.place.clone())
    .hint("CREATE OR REPLACE makes it anew, IF NOT EXISTS leaves it as it is")
}

/// Topics and tables carry the names of objects; `$` and `.` in them are Headwater's own.
fn check_name(name: &Name) -> Result<()> {
    if name.value == DEAD_LETTERS {
        return Err(SqlError::invalid(format!("{DEAD_LETTERS} belongs to Headwater")).at(name.place.clone()));
    }
    let allowed = |c: char| c.is_alphanumeric() || c == '_' || c == '-';
    if name.value.chars().all(allowed) {
        return Ok(());
    }
    Err(SqlError::invalid("a name holds letters, digits, _ and -").at(name.place.clone()))
}

fn kind_of(definition: &Definition) -> ObjectKind {
    match &definition.object {
        Object::Stream(_) => ObjectKind::Stream,
        Object::View(_) => ObjectKind::View,
        Object::Source(_) => ObjectKind::Source,
        Object::Sink(_) => ObjectKind::Sink,
        Object::Table(_) => ObjectKind::Table,
    }
}

impl ObjectKind {
    /// As [`Definition::kind`] has it.
    fn name(self) -> &'static str {
        match self {
            Self::Stream => "stream",
            Self::View => "view",
            Self::Source => "source",
            Self::Sink => "sink",
            Self::Table => "table",
        }
    }

    fn sql(self) -> &'static str {
        match self {
            Self::Stream => "STREAM",
            Self::View => "MATERIALIZED VIEW",
            Self::Source => "SOURCE",
            Self::Sink => "SINK",
            Self::Table => "TABLE",
        }
    }
}
