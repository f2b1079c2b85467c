//! What the keys in `WITH (…)` mean.

use headwater_catalog::definition::{Idempotency, Late, Start, StateBound};
use headwater_catalog::snapshot::{Snapshot, nearest};
use headwater_event::clock::Micros;
use headwater_schema::column::UnknownFields;
use headwater_schema::{size, span};

use crate::error::{Place, Result, SqlError};
use crate::plan::IDLE_TIMEOUT_MS;
use crate::statement::{CreateStream, CreateView, OptionValue, StatementOption};
use crate::time::SPAN_MAX;

const PARTITIONS_MAX: u32 = 1024;
const RETENTION_MS: u64 = 7 * 24 * 60 * 60 * 1000;
const IDEMPOTENCY_WINDOW_MS: u64 = 60 * 60 * 1000;

const OF_STREAMS: [&str; 11] = [
    "partitions",
    TOPIC,
    "retention",
    "retention_bytes",
    "idempotency_key",
    "idempotency_window",
    HTTP_PATH,
    "unknown_fields",
    "late",
    "max_future",
    "idle_timeout",
];
const OF_DERIVED: [&str; 8] = [
    "partitions",
    "retention",
    "retention_bytes",
    "late",
    "idle_timeout",
    "start",
    "state",
    TTL,
];
const OF_VIEWS: [&str; 6] = ["partitions", HTTP_PATH, "start", "state", TTL, LATENESS];
/// A route of the user's choosing.
pub const HTTP_PATH: &str = "http.path";
/// The topic of Kafka's that a stream is bound to.
const TOPIC: &str = "topic";
const LATENESS: &str = "allowed_lateness";
const TTL: &str = "state_ttl";

/// With the state of what is replaced, or else from the earliest row on: see [`super::keep`].
pub const FROM_STATE: &str = "state";
const STARTS: [(&str, Start); 3] = [
    ("earliest", Start::Earliest),
    ("latest", Start::Latest),
    (FROM_STATE, Start::Earliest),
];

/// Routes that are Headwater's own, with everything below them.
const ROUTES: [&str; 9] = [
    "/v1",
    "/healthz",
    "/readyz",
    "/metrics",
    "/openapi.json",
    "/subjects",
    "/schemas",
    "/config",
    "/compatibility",
];

const ROUTE_CHARS_MAX: usize = 256;

/// All options, with their defaults.
#[derive(Debug)]
pub struct Options {
    pub partitions: Option<u32>,
    pub retention_ms: Option<u64>,
    pub retention_bytes: Option<u64>,
    pub idempotency: Option<Idempotency>,
    pub idempotency_place: Option<Place>,
    pub http_path: Option<String>,
    pub topic: Option<String>,
    pub unknown_fields: UnknownFields,
    pub late: Late,
    /// Of the event time, in microseconds.
    pub max_future: Option<Micros>,
    pub max_future_place: Option<Place>,
    pub idle_timeout_ms: u64,
    pub start: Start,
    pub state: StateBound,
    /// In microseconds.
    pub allowed_lateness: Micros,
    /// In microseconds.
    pub state_ttl: Option<Micros>,
}

impl Options {
    pub fn of_stream(create: &CreateStream, snapshot: &Snapshot) -> Result<Self> {
        let known: &[&str] = if create.query.is_some() {
            &OF_DERIVED
        } else {
            &OF_STREAMS
        };
        Self::read(&create.options, known, "a stream", &create.name.value, snapshot)
    }

    pub fn of_view(create: &CreateView, snapshot: &Snapshot) -> Result<Self> {
        Self::read(&create.options, &OF_VIEWS, "a view", &create.name.value, snapshot)
    }

    fn read(options: &[StatementOption], known: &[&str], of: &str, name: &str, snapshot: &Snapshot) -> Result<Self> {
        let mut read = Self {
            partitions: None,
            retention_ms: Some(RETENTION_MS),
            retention_bytes: None,
            idempotency: None,
            idempotency_place: None,
            http_path: None,
            topic: None,
            unknown_fields: UnknownFields::default(),
            late: Late::default(),
            max_future: None,
            max_future_place: None,
            idle_timeout_ms: IDLE_TIMEOUT_MS,
            start: Start::default(),
            state: StateBound::default(),
            allowed_lateness: 0,
            state_ttl: None,
        };
        let mut window = None;
        let mut ttl_place = None;
        for option in options {
            if !known.contains(&option.key.value.as_str()) {
                return Err(match option.key.value.as_str() {
                    LATENESS => of_final_rows(option),
                    TOPIC => of_events(option, name),
                    _ => unknown(option, known, of),
                });
            }
            match option.key.value.as_str() {
                "partitions" => read.partitions = Some(partitions(option)?),
                "retention" => read.retention_ms = retention(option)?,
                "retention_bytes" => read.retention_bytes = Some(size(option)?),
                "idempotency_key" => {
                    let column = text(option, "the name of a column")?.to_owned();
                    let window_ms = IDEMPOTENCY_WINDOW_MS;
                    read.idempotency = Some(Idempotency { column, window_ms });
                    read.idempotency_place = Some(option.place.clone());
                }
                "idempotency_window" => window = Some((millis(option)?, option.place.clone())),
                HTTP_PATH => read.http_path = Some(route(option, name, snapshot)?),
                TOPIC => read.topic = Some(text(option, "the name of a topic on Kafka")?.to_owned()),
                "unknown_fields" => {
                    read.unknown_fields = one_of(
                        option,
                        [("reject", UnknownFields::Reject), ("drop", UnknownFields::Drop)],
                    )?;
                }
                "late" => read.late = one_of(option, [("dead_letter", Late::DeadLetter), ("drop", Late::Drop)])?,
                "max_future" => {
                    read.max_future = Some(micros(option)?);
                    read.max_future_place = Some(option.place.clone());
                }
                LATENESS => read.allowed_lateness = micros(option)?,
                TTL => {
                    read.state_ttl = Some(time_to_live(option)?);
                    ttl_place = Some(option.key.place.clone());
                }
                "idle_timeout" => read.idle_timeout_ms = millis(option)?,
                "start" => read.start = one_of(option, STARTS)?,
                "state" => {
                    read.state = one_of(
                        option,
                        [("bounded", StateBound::Bounded), ("unbounded", StateBound::Unbounded)],
                    )?;
                }
                other => return Err(SqlError::internal(format!("the option {other} is known and not read"))),
            }
        }
        match (&mut read.idempotency, window) {
            (Some(idempotency), Some((window_ms, _))) => idempotency.window_ms = window_ms,
            (None, Some((_, place))) => {
                return Err(SqlError::invalid("idempotency_window is for streams with an idempotency_key").at(place));
            }
            _ => {}
        }
        match ttl_place {
            Some(place) if read.state == StateBound::Unbounded => Err(SqlError::invalid(
                "state_ttl bounds what joins keep, state = 'unbounded' lets it grow for ever",
            )
            .at(place)
            .hint("leave one of them out")),
            _ => Ok(read),
        }
    }
}

fn unknown(option: &StatementOption, known: &[&str], of: &str) -> SqlError {
    let key = &option.key.value;
    SqlError::invalid(format!("{of} like this has no option '{key}'"))
        .did_you_mean(nearest(key, known.iter().copied()))
        .at(option.key.place.clone())
        .hint(format!("its options are {}", known.join(", ")))
}

fn of_final_rows(option: &StatementOption) -> SqlError {
    SqlError::invalid("a stream holds final rows, which can't be corrected: allowed_lateness is for views")
        .at(option.key.place.clone())
        .hint(
            "CREATE MATERIALIZED VIEW … WITH (allowed_lateness = '1 minute') AS SELECT …, or a longer WATERMARK delay",
        )
}

fn of_events(option: &StatementOption, name: &str) -> SqlError {
    SqlError::unsupported(
        "a stream AS SELECT can't be bound to a topic: how far its query has come is written among its rows",
    )
    .at(option.key.place.clone())
    .hint(format!(
        "leave it out, and write the rows to the topic as well: CREATE SINK … FROM {name} WITH (connector = 'kafka', …)"
    ))
}

fn partitions(option: &StatementOption) -> Result<u32> {
    let number = match &option.value {
        OptionValue::Number(number) => number.parse().ok(),
        _ => None,
    };
    number
        .filter(|number| (1..=PARTITIONS_MAX).contains(number))
        .ok_or_else(|| wrong(option, &format!("a whole number from 1 to {PARTITIONS_MAX}")))
}

fn retention(option: &StatementOption) -> Result<Option<u64>> {
    if matches!(&option.value, OptionValue::Text(text) if text.eq_ignore_ascii_case("forever")) {
        return Ok(None);
    }
    let what = "a span of time like '7 days', or 'forever'";
    span(option, what).map(Some)
}

fn millis(option: &StatementOption) -> Result<u64> {
    span(option, "a span of time like '5 seconds' or '1 hour'")
}

fn span(option: &StatementOption, what: &str) -> Result<u64> {
    let micros = span::parse(text(option, what)?).filter(|micros| *micros >= 1000);
    micros
        .and_then(|micros| u64::try_from(micros / 1000).ok())
        .ok_or_else(|| wrong(option, what))
}

fn micros(option: &StatementOption) -> Result<Micros> {
    let what = "a span of time like '5 seconds' or '1 hour'";
    let micros = span::parse(text(option, what)?);
    micros.ok_or_else(|| wrong(option, what))
}

fn time_to_live(option: &StatementOption) -> Result<Micros> {
    let ttl = micros(option)?;
    match ttl <= SPAN_MAX {
        true => Ok(ttl),
        false => Err(wrong(option, "a span of time of up to 10,000 years")),
    }
}

fn size(option: &StatementOption) -> Result<u64> {
    let bytes = match &option.value {
        OptionValue::Text(text) | OptionValue::Number(text) => size::parse(text),
        OptionValue::Boolean(_) => None,
    };
    bytes
        .filter(|bytes| *bytes > 0)
        .ok_or_else(|| wrong(option, "a size like '10 GB'"))
}

pub fn route(option: &StatementOption, name: &str, snapshot: &Snapshot) -> Result<String> {
    let path = text(option, "a path like '/ingest'")?;
    let plain = |c: char| c.is_ascii_alphanumeric() || "/-_.~".contains(c);
    let segments_ok = path
        .split('/')
        .skip(1)
        .all(|segment| !segment.is_empty() && segment != "." && segment != "..");
    if !path.starts_with('/') || path.len() > ROUTE_CHARS_MAX || !path.chars().all(plain) || !segments_ok {
        return Err(wrong(
            option,
            "a path like '/ingest': it begins with /, and holds letters, digits, - _ . ~ and single /",
        ));
    }
    let below = |route: &str| {
        path.strip_prefix(route)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    if let Some(route) = ROUTES.iter().find(|route| below(route)) {
        return Err(
            SqlError::invalid(format!("the path {path} is taken: {route} belongs to Headwater"))
                .at(option.place.clone()),
        );
    }
    match snapshot.by_http_path(path).filter(|other| other.name != name) {
        Some(other) => Err(SqlError::invalid(format!(
            "the path {path} is taken by the {} {}",
            other.kind(),
            other.name
        ))
        .at(option.place.clone())),
        None => Ok(path.to_owned()),
    }
}

fn one_of<T: Copy, const N: usize>(option: &StatementOption, values: [(&str, T); N]) -> Result<T> {
    let names = values.map(|(name, _)| format!("'{name}'")).join(" or ");
    let text = text(option, &names)?;
    let value = values.iter().find(|(name, _)| *name == text).map(|(_, value)| *value);
    value.ok_or_else(|| wrong(option, &names))
}

fn text<'a>(option: &'a StatementOption, what: &str) -> Result<&'a str> {
    match &option.value {
        OptionValue::Text(text) => Ok(text),
        _ => Err(wrong(option, what)),
    }
}

fn wrong(option: &StatementOption, expected: &str) -> SqlError {
    SqlError::invalid(format!("the option {} is {expected}", option.key.value)).at(option.place.clone())
}
