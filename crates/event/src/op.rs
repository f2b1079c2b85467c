//! Changelogs: rows that say how a result changed.
//!
//! A changelog batch is an ordinary batch whose last column is [`OP_COLUMN`]. An update is two
//! rows, the row as it was and the row as it is, next to each other and in this order, so that a
//! filter can let one of them through and still be right.

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

/// The column that holds an [`Op`], as `Int8`, never NULL, always last.
pub const OP_COLUMN: &str = "$op";

/// What a row of a changelog says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i8)]
pub enum Op {
    Insert = 0,
    /// The row as it was before an update.
    UpdateBefore = 1,
    /// The row as it is after an update.
    UpdateAfter = 2,
    Delete = 3,
}

impl Op {
    pub fn from_i8(op: i8) -> Option<Self> {
        match op {
            0 => Some(Self::Insert),
            1 => Some(Self::UpdateBefore),
            2 => Some(Self::UpdateAfter),
            3 => Some(Self::Delete),
            _ => None,
        }
    }

    /// As people see it in the column `op` of a live query.
    pub fn name(self) -> &'static str {
        match self {
            Self::Insert => "insert",
            Self::UpdateBefore => "update_before",
            Self::UpdateAfter => "update_after",
            Self::Delete => "delete",
        }
    }

    /// Whether the row is part of the result after the change.
    pub fn adds(self) -> bool {
        matches!(self, Self::Insert | Self::UpdateAfter)
    }
}

pub fn op_field() -> Field {
    Field::new(OP_COLUMN, DataType::Int8, false)
}

/// Whether batches of this schema are changelogs.
pub fn is_changelog(schema: &Schema) -> bool {
    schema.fields().last().is_some_and(|last| last.name() == OP_COLUMN)
}

/// The schema of changes to rows of `schema`.
pub fn changelog_schema(schema: &Schema) -> SchemaRef {
    let mut fields: Vec<_> = schema.fields().iter().cloned().collect();
    fields.push(op_field().into());
    Schema::new_with_metadata(fields, schema.metadata().clone()).into()
}
