//! Where the rows of a continuous query go, and what names a row of a view.

use headwater_catalog::definition::{Definition, Stream};
use headwater_engine::plan::{Output, ViewKey};

use crate::error::{Result, SqlError};
use crate::plan::branch::Key;
use crate::plan::stages::Flow;

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

pub fn to_view(flow: &mut Flow, definition: &Definition) -> Output {
    let key = view_rows(flow).key;
    if key == ViewKey::Copies {
        flow.number_copies();
    }
    Output::View {
        table: definition.rows_table().into(),
        topic: definition.topic().into(),
        key,
        schema: flow.stored_schema(),
    }
}

/// The columns that name a row of the view that this query makes: none where one of its window or groups is not selected.
pub fn view_rows(flow: &Flow) -> ViewRows {
    match key_columns(&flow.key) {
        Some(columns) => ViewRows {
            names: Some(columns.iter().map(|&at| flow.columns[at].name.clone()).collect()),
            key: ViewKey::Columns(columns),
        },
        None if flow.changelog => ViewRows {
            key: ViewKey::Copies,
            names: None,
        },
        // Final rows need no name: they are only added.
        None => ViewRows {
            key: ViewKey::Position,
            names: None,
        },
    }
}

fn key_columns(key: &Key) -> Option<Vec<usize>> {
    let Key::Groups { window, groups } = key else {
        return None;
    };
    let mut columns = Vec::with_capacity(groups.len() + 1);
    if let Some([start, end]) = window {
        columns.push(start.or(*end)?);
    }
    for at in groups {
        columns.push((*at)?);
    }
    Some(columns)
}
