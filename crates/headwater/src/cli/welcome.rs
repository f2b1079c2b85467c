//! What a person reads when the server is up: where it listens, what there is, a line to paste for each.

use std::net::SocketAddr;

use arrow::datatypes::DataType;
use headwater_catalog::definition::{Definition, Object, Stream, View};
use headwater_catalog::snapshot::Snapshot;
use headwater_schema::column::Column;
use serde_json::{Value, json};

/// The doors that are open.
#[derive(Clone, Copy, Debug)]
pub struct Doors {
    pub http: Option<SocketAddr>,
    pub postgres: Option<SocketAddr>,
    pub grpc: Option<SocketAddr>,
}

/// Everything that there is, with a line to paste.
pub fn text(doors: Doors, snapshot: &Snapshot) -> String {
    let mut lines = Vec::new();
    if let Some(http) = doors.http {
        lines.push(format!("HTTP      http://{http}"));
    }
    if let Some(postgres) = doors.postgres {
        let (host, port) = (postgres.ip(), postgres.port());
        lines.push(format!("Postgres  psql -h {host} -p {port} -U headwater headwater"));
    }
    if let Some(grpc) = doors.grpc {
        lines.push(format!("gRPC      grpcurl -plaintext {grpc} list"));
    }
    for definition in snapshot.iter() {
        if let Some(line) = doors.http.and_then(|http| line_for(definition, http)) {
            lines.push(String::new());
            lines.push(format!("{} {}", definition.kind(), definition.name));
            lines.push(format!("  {line}"));
        }
    }
    if let Some(http) = doors.http {
        lines.push(String::new());
        lines.push("ask anything".to_owned());
        lines.push(format!("  headwater sql{}", server_argument(http)));
    }
    lines.join("\n")
}

/// What to add to a command so that it finds a server that isn't at the usual place.
pub fn server_argument(http: SocketAddr) -> String {
    match http.to_string() == "127.0.0.1:8080" {
        true => String::new(),
        false => format!(" --server http://{http}"),
    }
}

/// A command that puts something in or takes something out.
pub fn line_for(definition: &Definition, http: SocketAddr) -> Option<String> {
    match &definition.object {
        Object::Stream(stream) if stream.builtin => None,
        Object::Stream(stream) if stream.query.is_some() => Some(tail(&definition.name, http)),
        Object::Stream(stream) => Some(send(&definition.name, stream, http)),
        Object::View(view) => Some(look(&definition.name, view, http)),
        Object::Source(source) => Some(tail(&source.stream, http)),
        Object::Sink(_) | Object::Table(_) => None,
    }
}

fn tail(name: &str, http: SocketAddr) -> String {
    format!("headwater tail {name}{}", server_argument(http))
}

fn send(name: &str, stream: &Stream, http: SocketAddr) -> String {
    let path = match &stream.http_path {
        Some(path) => path.clone(),
        None => format!("/v1/streams/{name}/events"),
    };
    let needed = stream
        .schema
        .columns
        .iter()
        .filter(|column| !column.nullable && column.default.is_none());
    let fields = needed.map(|column| format!("{}:{}", Value::from(column.name.as_str()), example(column)));
    let event = fields.collect::<Vec<_>>().join(",");
    format!("curl -d '{{{}}}' http://{http}{path}", quoted(&event))
}

fn look(name: &str, view: &View, http: SocketAddr) -> String {
    let path = match &view.http_path {
        Some(path) => path.clone(),
        None => format!("/v1/views/{name}"),
    };
    let number = view
        .columns
        .iter()
        .find(|column| column.data_type.is_numeric() && !view.key_columns().contains(&column.name));
    let order = number
        .map(|column| format!("order=-{}&", column.name))
        .unwrap_or_default();
    format!("curl 'http://{http}{path}?{order}limit=10'")
}

fn example(column: &Column) -> Value {
    match &column.data_type {
        DataType::Boolean => json!(true),
        DataType::Float32 | DataType::Float64 | DataType::Decimal128(_, _) => json!(1.5),
        numeric if numeric.is_numeric() => json!(1),
        DataType::Date32 => json!("2026-01-31"),
        DataType::Time64(_) => json!("12:00:00"),
        DataType::Timestamp(_, _) => json!("2026-01-31T12:00:00Z"),
        DataType::List(_) => json!([]),
        DataType::Struct(fields) => fields.iter().map(|field| (field.name().clone(), Value::Null)).collect(),
        _ if column.json => json!({}),
        _ if column.name.ends_with("url") || column.name == "path" => json!("/home"),
        _ => json!("a"),
    }
}

/// For between single quotes of a shell.
fn quoted(text: &str) -> String {
    text.replace('\'', "'\\''")
}

#[cfg(test)]
mod tests {
    use headwater_schema::column::{ColumnDefault, EventSchema, UnknownFields};

    use super::*;

    fn column(name: &str, data_type: DataType, default: Option<ColumnDefault>) -> Column {
        Column {
            name: name.to_owned(),
            data_type,
            json: false,
            nullable: false,
            default,
        }
    }

    #[test]
    fn a_stream_gets_an_event_that_it_would_take() {
        let columns = vec![
            column("event_id", DataType::Utf8, Some(ColumnDefault::Uuid)),
            column("page_url", DataType::Utf8, None),
            column("n", DataType::Int64, None),
        ];
        let stream = Stream {
            schema: EventSchema {
                columns,
                unknown_fields: UnknownFields::Reject,
            },
            watermark: None,
            partition_by: Vec::new(),
            partitions: 1,
            retention_ms: None,
            retention_bytes: None,
            idempotency: None,
            late: headwater_catalog::definition::Late::Drop,
            idle_timeout_ms: 1000,
            http_path: Some("/ingest".to_owned()),
            topic: None,
            encoding: headwater_log::topic::Encoding::Json,
            query: None,
            builtin: false,
        };
        let http = SocketAddr::from(([127, 0, 0, 1], 8080));
        assert_eq!(
            send("clicks", &stream, http),
            "curl -d '{\"page_url\":\"/home\",\"n\":1}' http://127.0.0.1:8080/ingest"
        );
    }
}
