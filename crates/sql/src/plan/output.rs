//! Where the rows of a continuous query go, and what names a row of a view.

use headwater_catalog::definition::{Definition, Stream};
use headwater_engine::plan::{Output, ViewKey};

use crate::error::{Result, SqlError, find};
use crate::plan::branch::Key;
use crate::plan::stages::Flow;
use crate::statement::Select;

/// What names the rows of a view.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ViewRows {
    pub key: ViewKey,
    /// The names of the key's columns; `None` without a key.
    pub names: Option<Vec<String>>,
}

pub fn to_stream(flow: &Flow, definition: &Definition, stream: &Stream) -> Result<Output> {
    let mut partition_by = Vec::new();
    for name in &stream.partition_by {
        let at = flow.columns.iter().position(|column| column.name == *name);
        partition_by.push(at.ok_or_else(|| SqlError::internal(format!("{} has no column {name}", definition.name)))?);
    }
    // Rows that lie as they should already stay in the partition of their task.
    if flow.partitioned.as_ref() == Some(&partition_by) && flow.tasks == stream.partitions {
        partition_by.clear();
    }
    Ok(Output::Topic {
        topic: definition.topic().into(),
        partitions: stream.partitions,
        partition_by,
        first_producer: 0,
    })
}

pub fn to_view(flow: &mut Flow, definition: &Definition, select: &Select) -> Result<Output> {
    let key = view_rows(flow, select)?.key;
    if key == ViewKey::Copies {
        flow.number_copies();
    }
    Ok(Output::View {
        table: definition.rows_table().into(),
        topic: definition.topic().into(),
        key,
        schema: flow.stored_schema(),
    })
}

/// The columns that name a row of the view that this query makes.
///
/// # Errors
/// A changing result has rows that can't be told apart without one of its groups.
pub fn view_rows(flow: &Flow, select: &Select) -> Result<ViewRows> {
    let Key::Groups { window, groups } = &flow.key else {
        let key = match flow.changelog {
            true => ViewKey::Copies,
            false => ViewKey::Position,
        };
        return Ok(ViewRows { key, names: None });
    };
    let mut columns = Vec::new();
    let mut missing = Vec::new();
    if let Some([start, end]) = window {
        match start.or(*end) {
            Some(at) => columns.push(at),
            None => missing.push("window_start"),
        }
    }
    for (name, at) in groups {
        match at {
            Some(at) => columns.push(*at),
            None => missing.push(name.as_str()),
        }
    }
    match missing.first() {
        None => {
            let names = columns.iter().map(|&at| flow.columns[at].name.clone()).collect();
            Ok(ViewRows {
                key: ViewKey::Columns(columns),
                names: Some(names),
            })
        }
        // Final rows need no name: they are only added.
        Some(_) if !flow.changelog => Ok(ViewRows {
            key: ViewKey::Position,
            names: None,
        }),
        Some(missing) => {
            let name = missing.rsplit('.').next().unwrap_or(missing);
            Err(SqlError::invalid(format!(
                "the query groups by {name} and doesn't select it, so the view's rows could not be told apart"
            ))
            .at(find(&select.source, "group"))
            .or_at_start(&select.source)
            .hint(format!("add {name} to the SELECT")))
        }
    }
}
