//! What is fuzzed: a function for each target, which takes any bytes and panics where a promise is
//! broken. `make test` runs the corpus through the same functions.

use std::sync::LazyLock;

use headwater_catalog::snapshot::Snapshot;
use headwater_event::clock::ManualClock;
use headwater_event::id::Ids;
use headwater_schema::decode::{Format, fuzz};
use headwater_sql::define::changes;
use headwater_sql::error::{Kind, SqlError};
use headwater_sql::explain::explain;
use headwater_sql::parse::parse;

/// A target's name, and what it does with an input.
pub type Target = (&'static str, fn(&[u8]));

/// Every target by its name, which is also its folder in the corpus.
pub const TARGETS: [Target; 5] = [
    ("json", json),
    ("ndjson", ndjson),
    ("csv", csv),
    ("combined_log", combined_log),
    ("sql", sql),
];

/// Streams to decode for, and to make statements about: one with every type, one that is strict,
/// and one for access logs.
const STREAMS: &str = "
CREATE STREAM everything (
  bool BOOLEAN, small SMALLINT, int INT, big BIGINT, real REAL, double DOUBLE, decimal DECIMAL(10, 2), date DATE, time TIME,
  ts TIMESTAMP, tz TIMESTAMPTZ, text TEXT, bytes BYTEA, json JSON, point STRUCT<x INT, y TEXT>, points STRUCT<x INT, y TEXT>[]
) WITH (unknown_fields = 'drop');
CREATE STREAM clicks (
  event_id TEXT NOT NULL DEFAULT uuid(), user_id TEXT NOT NULL, page_url TEXT NOT NULL, duration INT DEFAULT 0,
  time_stamp TIMESTAMP NOT NULL DEFAULT now(), WATERMARK FOR time_stamp AS time_stamp - INTERVAL '5' SECOND
) PARTITION BY (user_id) WITH (idempotency_key = 'event_id', http.path = '/ingest');
CREATE STREAM requests (
  client_address TEXT NOT NULL, user_name TEXT, time TIMESTAMP NOT NULL, method TEXT, path TEXT, status SMALLINT NOT NULL,
  bytes BIGINT, referrer TEXT, user_agent TEXT
);";

pub fn json(body: &[u8]) {
    decode(body, Format::Json);
}

pub fn ndjson(body: &[u8]) {
    decode(body, Format::NdJson);
}

pub fn csv(body: &[u8]) {
    decode(body, Format::Csv);
}

pub fn combined_log(body: &[u8]) {
    decode(body, Format::CombinedLog);
}

/// Parses statements and applies them one after the other, as a file of statements is.
pub fn sql(text: &[u8]) {
    let Ok(text) = str::from_utf8(text) else { return };
    let statements = match parse(text) {
        Ok(statements) => statements,
        Err(error) => return check(&error, text),
    };
    let mut snapshot = CATALOG.clone();
    for statement in &statements {
        assert_eq!(&text[statement.source.range()], statement.source.text());
        if let Err(error) = explain(statement, &snapshot) {
            check(&error, text);
        }
        match changes(statement, &snapshot) {
            Ok(changes) => snapshot = snapshot.with(&changes),
            Err(error) => check(&error, text),
        }
    }
}

static CATALOG: LazyLock<Snapshot> = LazyLock::new(|| {
    let statements = parse(STREAMS).expect("the streams can be parsed");
    statements.iter().fold(Snapshot::default(), |snapshot, statement| {
        let changes = changes(statement, &snapshot).expect("the streams can be made");
        snapshot.with(&changes)
    })
});

fn decode(body: &[u8], format: Format) {
    let ids = Ids::seeded(ManualClock::new(0), 0);
    let streams = CATALOG.iter().filter_map(|object| object.stream());
    for schema in streams.map(|stream| &stream.schema) {
        fuzz(schema, &ids, body, format);
    }
}

/// An error says what is wrong, in place, and is never a fault of Headwater's own.
fn check(error: &SqlError, text: &str) {
    assert_ne!(error.kind, Kind::Internal, "{error:?}");
    assert!(!error.message.is_empty(), "{error:?}");
    if let Some(place) = &error.place {
        let lines = text.split('\n').count() as u64;
        assert!((1..=lines).contains(&place.line) && place.column > 0, "{error:?}");
    }
    assert!(!error.render("file.sql", text).is_empty());
}
