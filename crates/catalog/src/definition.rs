//! The objects of the catalog.

use std::collections::BTreeMap;

use headwater_event::clock::Micros;
use headwater_log::topic::{Encoding, Events};
use headwater_schema::column::{Column, EventSchema};
use headwater_schema::future::Horizon;
use serde::{Deserialize, Serialize};

/// An object under its name. All objects share one space of names, in lower case unless they were
/// quoted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Definition {
    pub name: String,
    /// Never used again, also not for an object of the same name: topics and state of an object
    /// are named after it. Given by the catalog; 0 until then.
    pub id: u64,
    /// The statement that made it, as it was written.
    pub sql: String,
    pub object: Object,
    /// What takes its place as soon as it has caught up, see [`crate::successor`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub successor: Option<Box<Self>>,
    /// Its query reads the successors of what it names, where there are any: so does every successor, and what
    /// was made to read from one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub ahead: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Object {
    Stream(Stream),
    View(View),
    Source(Source),
    Sink(Sink),
    Table(Table),
}

/// A stream: events from outside, or the rows of a continuous query.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stream {
    pub schema: EventSchema,
    pub watermark: Option<Watermark>,
    /// Columns whose values decide the partition; none means that rows are spread evenly.
    pub partition_by: Vec<String>,
    pub partitions: u32,
    pub retention_ms: Option<u64>,
    pub retention_bytes: Option<u64>,
    pub idempotency: Option<Idempotency>,
    pub late: Late,
    pub idle_timeout_ms: u64,
    /// A route of the user's choosing that takes events.
    pub http_path: Option<String>,
    /// The topic of Kafka's that it is bound to: others write to it too, and so decide where rows lie.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    /// What its events are on Kafka.
    #[serde(default)]
    pub encoding: Encoding,
    /// The query that fills it; `None` for a stream that is filled from outside.
    pub query: Option<Query>,
    /// Made by Headwater itself (`dead_letters`); can't be dropped.
    #[serde(default)]
    pub builtin: bool,
}

/// A result kept current under a key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct View {
    pub columns: Vec<Column>,
    /// The columns that name a row; without columns, the view has one row. `None` where nothing
    /// names a row.
    pub key: Option<Vec<String>>,
    pub partitions: u32,
    /// A route of the user's choosing that answers with rows.
    pub http_path: Option<String>,
    pub query: Query,
}

/// Brings events from elsewhere into a stream. What the options mean is its connector's business.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// The stream that it writes into, by name.
    pub stream: String,
    pub connector: String,
    /// As they were written, but for `connector`; numbers and booleans as text.
    pub options: BTreeMap<String, String>,
    /// `ENCODE` of the `FORMAT` clause, in lower case.
    #[serde(default)]
    pub encode: Option<String>,
}

/// Takes the rows of a stream, or the changes of a view, elsewhere. What the options mean is its connector's business.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sink {
    /// The stream or view that it reads, by name.
    pub reads: String,
    pub connector: String,
    /// As they were written, but for `connector`; numbers and booleans as text.
    pub options: BTreeMap<String, String>,
}

/// A table that is kept elsewhere: queries look its rows up by its key. What the options mean is its connector's business.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Table {
    /// Those that queries may refer to; there may be more.
    pub columns: Vec<Column>,
    /// The columns that name a row; at least one.
    pub key: Vec<String>,
    pub connector: String,
    /// As they were written, but for `connector` and `http.path`; numbers and booleans as text.
    pub options: BTreeMap<String, String>,
    /// A route of the user's choosing that answers with a row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http_path: Option<String>,
}

/// A continuous query.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Query {
    /// The SELECT alone.
    pub sql: String,
    /// The objects that it reads, by name.
    pub reads: Vec<String>,
    pub start: Start,
    #[serde(default)]
    pub state: StateBound,
    /// For so long after its end a window is corrected by rows that come late.
    #[serde(default)]
    pub allowed_lateness: Micros,
    /// For so long by event time a join keeps rows that it would keep for ever.
    #[serde(default)]
    pub state_ttl: Option<Micros>,
    /// For each stage the numbers of its state tables, where the query goes on with what another one kept.
    #[serde(default)]
    pub tables: Vec<Vec<usize>>,
}

/// Whether the state of a query may grow with every row for ever.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum StateBound {
    #[default]
    Bounded,
    Unbounded,
}

/// Where a continuous query begins in its inputs' history.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Start {
    #[default]
    Earliest,
    Latest,
}

/// `WATERMARK FOR column AS column - delay`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Watermark {
    pub column: String,
    pub delay: Micros,
    /// Rows whose time is further ahead of the clock when they come in are kept out.
    #[serde(default)]
    pub max_future: Option<Micros>,
}

/// An event whose key was seen within the window is acknowledged and not stored again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Idempotency {
    pub column: String,
    pub window_ms: u64,
}

/// What becomes of rows behind the watermark.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Late {
    #[default]
    DeadLetter,
    Drop,
}

/// The stream that takes what could not go on. Its schema is part of the product:
/// `time, stream, source, reason, detail, payload`.
pub const DEAD_LETTERS: &str = "dead_letters";

impl Stream {
    /// How its events are written where other programs read along; `None` where a query fills it, as how far that has come is written among its
    /// rows.
    pub fn events(&self) -> Option<Events> {
        self.query.is_none().then(|| Events {
            encoding: self.encoding,
            columns: self.schema.clone(),
            key: self.partition_by.clone(),
            time: self.watermark.as_ref().map(|watermark| watermark.column.clone()),
            bound: self.topic.clone(),
        })
    }

    /// The columns whose values decide where a row lies, wherever it comes from.
    pub fn lies_by(&self) -> &[String] {
        match self.topic {
            Some(_) => &[],
            None => &self.partition_by,
        }
    }

    /// How far ahead of the clock the times of its rows may lie, if there is a bound.
    pub fn horizon(&self) -> Option<Horizon> {
        let watermark = self.watermark.as_ref()?;
        Some(Horizon {
            column: watermark.column.clone(),
            max_future: watermark.max_future?,
        })
    }
}

impl View {
    /// The columns that name a row, if there are any.
    pub fn key_columns(&self) -> &[String] {
        self.key.as_deref().unwrap_or_default()
    }

    /// Whether the view has one row at most: a result without groups.
    pub fn has_one_row(&self) -> bool {
        self.key.as_ref().is_some_and(Vec::is_empty)
    }
}

impl Definition {
    /// An object that is not in the catalog yet.
    pub fn new(name: &str, sql: &str, object: Object) -> Self {
        Self {
            name: name.to_owned(),
            id: 0,
            sql: sql.to_owned(),
            object,
            successor: None,
            ahead: false,
        }
    }

    /// The object as it will be: its successor, if it has one.
    pub fn latest(&self) -> &Self {
        self.successor.as_deref().unwrap_or(self)
    }

    /// Whether it is not what it will be, or reads from what isn't.
    pub fn is_building(&self) -> bool {
        self.successor.is_some() || self.ahead
    }

    pub fn stream(&self) -> Option<&Stream> {
        match &self.object {
            Object::Stream(stream) => Some(stream),
            Object::View(_) | Object::Source(_) | Object::Sink(_) | Object::Table(_) => None,
        }
    }

    pub fn view(&self) -> Option<&View> {
        match &self.object {
            Object::View(view) => Some(view),
            Object::Stream(_) | Object::Source(_) | Object::Sink(_) | Object::Table(_) => None,
        }
    }

    pub fn source(&self) -> Option<&Source> {
        match &self.object {
            Object::Source(source) => Some(source),
            Object::Stream(_) | Object::View(_) | Object::Sink(_) | Object::Table(_) => None,
        }
    }

    pub fn sink(&self) -> Option<&Sink> {
        match &self.object {
            Object::Sink(sink) => Some(sink),
            Object::Stream(_) | Object::View(_) | Object::Source(_) | Object::Table(_) => None,
        }
    }

    pub fn table(&self) -> Option<&Table> {
        match &self.object {
            Object::Table(table) => Some(table),
            Object::Stream(_) | Object::View(_) | Object::Source(_) | Object::Sink(_) => None,
        }
    }

    /// Whether it has rows that can be read: a stream or a view.
    pub fn has_rows(&self) -> bool {
        matches!(self.object, Object::Stream(_) | Object::View(_))
    }

    pub fn query(&self) -> Option<&Query> {
        match &self.object {
            Object::Stream(stream) => stream.query.as_ref(),
            Object::View(view) => Some(&view.query),
            Object::Source(_) | Object::Sink(_) | Object::Table(_) => None,
        }
    }

    /// The objects without which it can't be, by name: what its query or a sink reads, or the stream that a
    /// source writes into.
    pub fn needs(&self) -> &[String] {
        match (&self.object, self.query()) {
            (Object::Source(source), _) => std::slice::from_ref(&source.stream),
            (Object::Sink(sink), _) => std::slice::from_ref(&sink.reads),
            (_, Some(query)) => &query.reads,
            (_, None) => &[],
        }
    }

    /// None for a source or a sink.
    pub fn columns(&self) -> &[Column] {
        match &self.object {
            Object::Stream(stream) => &stream.schema.columns,
            Object::View(view) => &view.columns,
            Object::Table(table) => &table.columns,
            Object::Source(_) | Object::Sink(_) => &[],
        }
    }

    /// 0 for what has no topic.
    pub fn partitions(&self) -> u32 {
        match &self.object {
            Object::Stream(stream) => stream.partitions,
            Object::View(view) => view.partitions,
            Object::Source(_) | Object::Sink(_) | Object::Table(_) => 0,
        }
    }

    pub fn http_path(&self) -> Option<&str> {
        match &self.object {
            Object::Stream(stream) => stream.http_path.as_deref(),
            Object::View(view) => view.http_path.as_deref(),
            Object::Table(table) => table.http_path.as_deref(),
            Object::Source(_) | Object::Sink(_) => None,
        }
    }

    /// "stream", "view", "source", "sink" or "table".
    pub fn kind(&self) -> &'static str {
        match &self.object {
            Object::Stream(_) => "stream",
            Object::View(_) => "view",
            Object::Source(_) => "source",
            Object::Sink(_) => "sink",
            Object::Table(_) => "table",
        }
    }

    /// The topic of a stream's events, or of a view's changes. Other objects have none.
    pub fn topic(&self) -> String {
        match &self.object {
            Object::Stream(_) | Object::Source(_) | Object::Sink(_) | Object::Table(_) => {
                format!("{}-{}", self.name, self.id)
            }
            Object::View(_) => format!("{}-{}.changes", self.name, self.id),
        }
    }

    /// The state table that holds what a source has brought, or a sink delivered, so far.
    pub fn position_table(&self) -> String {
        format!("{}-{}.position", self.name, self.id)
    }

    /// The state table that holds a view's rows.
    pub fn rows_table(&self) -> String {
        format!("{}-{}.rows", self.name, self.id)
    }
}
