//! The statements of Headwater's SQL, as they were written.

use std::ops::Range;
use std::sync::Arc;

use datafusion::sql::sqlparser::ast;
use datafusion::sql::sqlparser::tokenizer::{Location, Span};

use crate::error::Place;

/// One statement and its text.
#[derive(Clone, Debug, PartialEq)]
pub struct Statement {
    pub source: Source,
    pub kind: Kind,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    CreateStream(CreateStream),
    CreateView(CreateView),
    CreateSource(CreateSource),
    CreateSink(CreateSink),
    CreateTable(CreateTable),
    Drop(Drop),
    Show(Show),
    /// `SHOW STATE [FOR name]`
    ShowState(Option<Name>),
    Describe(Name),
    Explain(Explain),
    Insert(Insert),
    Select(Select),
    /// What Postgres clients say to a session: `SET`, `SHOW variable`, `BEGIN`, `COMMIT`, …
    Other(Box<ast::Statement>),
}

/// `CREATE [OR REPLACE] STREAM [IF NOT EXISTS] name …`
#[derive(Clone, Debug, PartialEq)]
pub struct CreateStream {
    pub name: Name,
    pub or_replace: bool,
    pub if_not_exists: bool,
    /// Empty for a derived stream.
    pub columns: Vec<ColumnDefinition>,
    pub watermark: Option<WatermarkFor>,
    pub partition_by: Vec<Name>,
    pub options: Vec<StatementOption>,
    /// `ENCODE` of `FORMAT PLAIN ENCODE name`: what its events are on Kafka.
    pub encode: Option<Name>,
    pub query: Option<Select>,
}

/// `CREATE [OR REPLACE] MATERIALIZED VIEW [IF NOT EXISTS] name …`
#[derive(Clone, Debug, PartialEq)]
pub struct CreateView {
    pub name: Name,
    pub or_replace: bool,
    pub if_not_exists: bool,
    pub options: Vec<StatementOption>,
    pub query: Select,
}

/// `CREATE [OR REPLACE] SOURCE [IF NOT EXISTS] name INTO stream WITH (…) [FORMAT PLAIN ENCODE name]`
#[derive(Clone, Debug, PartialEq)]
pub struct CreateSource {
    pub name: Name,
    pub or_replace: bool,
    pub if_not_exists: bool,
    pub stream: Name,
    pub options: Vec<StatementOption>,
    pub encode: Option<Name>,
}

/// `CREATE [OR REPLACE] SINK [IF NOT EXISTS] name FROM stream | view WITH (…)`
#[derive(Clone, Debug, PartialEq)]
pub struct CreateSink {
    pub name: Name,
    pub or_replace: bool,
    pub if_not_exists: bool,
    pub reads: Name,
    pub options: Vec<StatementOption>,
}

/// `CREATE [OR REPLACE] TABLE [IF NOT EXISTS] name (columns, PRIMARY KEY (columns)) WITH (…)`
#[derive(Clone, Debug, PartialEq)]
pub struct CreateTable {
    pub name: Name,
    pub or_replace: bool,
    pub if_not_exists: bool,
    pub columns: Vec<ColumnDefinition>,
    pub key: Vec<Name>,
    pub options: Vec<StatementOption>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct ColumnDefinition {
    pub name: Name,
    pub data_type: ast::DataType,
    pub type_place: Place,
    pub nullable: bool,
    pub default: Option<(ast::Expr, Place)>,
}

/// `WATERMARK FOR column AS column - INTERVAL …`
#[derive(Clone, Debug, PartialEq)]
pub struct WatermarkFor {
    pub column: Name,
    pub expression: ast::Expr,
    pub place: Place,
}

/// `key = value` in `WITH (…)`.
#[derive(Clone, Debug, PartialEq)]
pub struct StatementOption {
    pub key: Name,
    pub value: OptionValue,
    pub place: Place,
}

#[derive(Clone, Debug, PartialEq)]
pub enum OptionValue {
    Text(String),
    Number(String),
    Boolean(bool),
}

/// `DROP STREAM | [MATERIALIZED] VIEW | SOURCE | SINK | TABLE [IF EXISTS] name [CASCADE]`
#[derive(Clone, Debug, PartialEq)]
pub struct Drop {
    pub object: ObjectKind,
    pub name: Name,
    pub if_exists: bool,
    pub cascade: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ObjectKind {
    Stream,
    View,
    Source,
    Sink,
    Table,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Show {
    Streams,
    Views,
    Sources,
    Sinks,
    /// Streams, views and tables: `SHOW TABLES`, `SHOW ALL`.
    All,
}

/// `EXPLAIN [VERBOSE | ANALYZE] statement`
#[derive(Clone, Debug, PartialEq)]
pub struct Explain {
    pub verbose: bool,
    pub analyze: bool,
    /// A SELECT or a CREATE.
    pub statement: Box<Statement>,
}

/// `INSERT INTO stream [(columns)] VALUES … | SELECT …`
#[derive(Clone, Debug, PartialEq)]
pub struct Insert {
    pub stream: Name,
    /// Empty: all columns, in their order.
    pub columns: Vec<Name>,
    pub query: Box<ast::Query>,
}

/// A query: `SELECT`, `WITH … SELECT`, `VALUES`; with `EMIT CHANGES` a continuous one.
#[derive(Clone, Debug, PartialEq)]
pub struct Select {
    pub source: Source,
    pub query: Box<ast::Query>,
    pub emit_changes: bool,
}

/// A name: in lower case unless it was quoted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    pub value: String,
    pub place: Place,
}

/// A part of a text, which is kept as a whole so that places stay those of the whole.
#[derive(Clone, PartialEq, Eq)]
pub struct Source {
    whole: Arc<str>,
    range: Range<usize>,
    start: (u64, u64),
}

impl Source {
    pub(crate) fn new(whole: Arc<str>, range: Range<usize>, start: Location) -> Self {
        Self {
            whole,
            range,
            start: (start.line, start.column),
        }
    }

    /// The statement alone.
    pub fn text(&self) -> &str {
        self.whole.get(self.range.clone()).unwrap_or_default()
    }

    /// Everything that was parsed with it.
    pub fn whole(&self) -> &str {
        &self.whole
    }

    /// The statement's bytes within the whole.
    pub fn range(&self) -> Range<usize> {
        self.range.clone()
    }

    /// Where the statement begins; the text is its first word.
    pub fn start(&self) -> Place {
        Place {
            line: self.start.0,
            column: self.start.1,
            text: self.text().split_whitespace().next().unwrap_or_default().to_owned(),
        }
    }

    /// The place of a span; `None` where the parser had no span to give.
    pub fn place(&self, span: Span) -> Option<Place> {
        if span.start.line == 0 {
            return None;
        }
        let (start, end) = (self.offset_of(span.start), self.offset_of(span.end));
        Some(Place {
            line: span.start.line,
            column: span.start.column,
            text: self.whole.get(start..end.max(start)).unwrap_or_default().to_owned(),
        })
    }

    /// What is left of the statement from `location` on.
    pub(crate) fn from(&self, location: Location) -> Self {
        let start = self.offset_of(location).min(self.range.end);
        Self::new(self.whole.clone(), start..self.range.end, location)
    }

    /// The byte offset of a location within the whole.
    fn offset_of(&self, location: Location) -> usize {
        offset_of(&self.whole, location)
    }
}

/// Locations count lines at `\n` and columns in characters, both from 1.
pub(crate) fn offset_of(text: &str, location: Location) -> usize {
    let mut line_start = 0;
    for _ in 1..location.line.max(1) {
        match text[line_start..].find('\n') {
            Some(end) => line_start += end + 1,
            None => return text.len(),
        }
    }
    let column = location.column.saturating_sub(1) as usize;
    text[line_start..]
        .char_indices()
        .nth(column)
        .map_or(text.len(), |(offset, _)| line_start + offset)
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.text())
    }
}
