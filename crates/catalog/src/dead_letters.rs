//! The built-in stream that takes what could not go on.

use headwater_log::topic::Encoding;
use headwater_schema::column::{Column, EventSchema, UnknownFields};

use crate::definition::{DEAD_LETTERS, Definition, Late, Object, Stream};

const RETENTION_MS: u64 = 7 * 24 * 60 * 60 * 1000;
const IDLE_TIMEOUT_MS: u64 = 5000;

/// As every catalog has it from the first start on.
pub fn definition() -> Definition {
    let columns = headwater_schema::dead_letter::schema();
    let columns = columns.fields().iter().map(|field| Column {
        name: field.name().clone(),
        data_type: field.data_type().clone(),
        json: false,
        nullable: field.is_nullable(),
        default: None,
    });
    Definition::new(
        DEAD_LETTERS,
        "",
        Object::Stream(Stream {
            schema: EventSchema {
                columns: columns.collect(),
                unknown_fields: UnknownFields::Reject,
            },
            watermark: None,
            partition_by: Vec::new(),
            partitions: 1,
            retention_ms: Some(RETENTION_MS),
            retention_bytes: None,
            idempotency: None,
            late: Late::Drop,
            idle_timeout_ms: IDLE_TIMEOUT_MS,
            http_path: None,
            topic: None,
            encoding: Encoding::Json,
            query: None,
            builtin: true,
        }),
    )
}
