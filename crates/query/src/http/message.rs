//! An event or a change with its place, as JSON.
//!
//! `{"partition":0,"offset":17,"event":{…}}` for a stream, `{…,"op":"insert","row":{…}}` for a view.
//! Live messages have `position` too: where to go on after this one, over all partitions.

use std::io::Write;

use headwater_event::offset::Offset;
use headwater_event::op::Op;
use headwater_schema::encode::JsonRows;

use crate::error::QueryError;
use crate::position::Position;

/// What goes with a row.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    pub partition: u32,
    pub offset: Offset,
    pub position: Option<&'a Position>,
    pub op: Option<Op>,
}

pub fn write(message: &Message<'_>, rows: &JsonRows, row: usize, out: &mut Vec<u8>) -> Result<(), QueryError> {
    let failed = |error: std::io::Error| QueryError::internal(error.to_string());
    let Message { partition, offset, .. } = message;
    write!(out, "{{\"partition\":{partition},\"offset\":{offset}").map_err(failed)?;
    if let Some(position) = message.position {
        write!(out, ",\"position\":\"{position}\"").map_err(failed)?;
    }
    match message.op {
        Some(op) => write!(out, ",\"op\":\"{}\",\"row\":", op.name()).map_err(failed)?,
        None => out.extend_from_slice(b",\"event\":"),
    }
    rows.write(row, out);
    out.push(b'}');
    Ok(())
}
