//! The columns of an object: of the event itself, or of a `STRUCT` in it; finding a column by its
//! name, and filling what an event did not bring.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, StructArray};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{self, Field};
use headwater_event::clock::Micros;
use headwater_event::id::Ids;

use crate::column::{Column, ColumnDefault, UnknownFields};
use crate::decode::builder::{Builder, Values};
use crate::decode::json;
use crate::decode::problem::{Parsed, Problem};
use crate::encode::write_string;

const MICROS_PER_DAY: i64 = 86_400_000_000;

/// What decoding an event depends on beside its bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Context<'a> {
    pub ids: &'a Ids,
    pub now: Micros,
    pub unknown: UnknownFields,
}

#[derive(Debug)]
pub(crate) struct Fields {
    pub members: Vec<Member>,
    by_name: HashMap<Box<[u8]>, usize>,
    /// After the member `n - 1`, which came last time; at 0, which came first. A guess.
    pub next: Vec<usize>,
    /// Finished rows.
    pub rows: usize,
}

#[derive(Debug)]
pub(crate) struct Member {
    pub name: String,
    /// The name as most JSON writers put it: `"name":`.
    pub token: Box<[u8]>,
    pub builder: Builder,
    default: Option<ColumnDefault>,
}

impl Fields {
    pub fn new(columns: &[Column]) -> Self {
        Self::from_members(columns.iter().map(|column| (column.field(), column.default.clone())))
    }

    pub fn nested(fields: &datatypes::Fields) -> Self {
        Self::from_members(fields.iter().map(|field| (field.as_ref().clone(), None)))
    }

    fn from_members(members: impl Iterator<Item = (Field, Option<ColumnDefault>)>) -> Self {
        let members: Vec<_> = members.map(|(field, default)| Member::new(field, default)).collect();
        let names = members.iter().map(|member| member.name.as_bytes().into());
        Self {
            by_name: names.zip(0..).collect(),
            next: (0..=members.len()).collect(),
            members,
            rows: 0,
        }
    }

    pub fn find(&self, name: &[u8]) -> Option<usize> {
        self.by_name.get(name).copied()
    }

    /// Fills the columns that the current row has no value for. `at` is where the object begins.
    #[cold]
    pub fn fill(&mut self, at: usize, context: &Context) -> Parsed {
        let row = self.rows;
        for member in &mut self.members {
            if member.builder.len() == row {
                member.fill(at, context)?;
            }
        }
        Ok(())
    }

    /// A row that is NULL as a whole, so that what its fields hold does not matter.
    pub fn push_null(&mut self) {
        for member in &mut self.members {
            member.builder.push_null();
        }
        self.rows += 1;
    }

    pub fn truncate(&mut self, rows: usize) {
        for member in &mut self.members {
            member.builder.truncate(rows);
        }
        self.rows = rows;
    }

    pub fn finish(&mut self) -> Vec<ArrayRef> {
        self.rows = 0;
        self.members.iter_mut().map(|member| member.builder.finish()).collect()
    }

    pub fn finish_nested(&mut self, nulls: Option<NullBuffer>) -> ArrayRef {
        let rows = self.rows;
        let columns = self.finish();
        if columns.is_empty() {
            return Arc::new(StructArray::new_empty_fields(rows, nulls));
        }
        let fields = self.members.iter().map(|member| Arc::clone(&member.builder.field));
        Arc::new(StructArray::new(fields.collect(), columns, nulls))
    }
}

impl Member {
    fn new(field: Field, default: Option<ColumnDefault>) -> Self {
        let mut token = Vec::new();
        write_string(field.name(), &mut token);
        token.push(b':');
        Self {
            name: field.name().clone(),
            token: token.into(),
            builder: Builder::new(Arc::new(field)),
            default,
        }
    }

    /// What the column gets from an event that does not have it.
    fn fill(&mut self, at: usize, context: &Context) -> Parsed {
        let filled = match &self.default {
            None => {
                if !self.builder.field.is_nullable() {
                    return Err(missing(at, &self.builder).in_field(&self.name));
                }
                self.builder.push_null();
                true
            }
            Some(ColumnDefault::Uuid) => {
                let id = context.ids.uuid().hyphenated();
                match &mut self.builder.values {
                    Values::Text(values) => values.push(id.encode_lower(&mut [0; 36]).as_bytes()),
                    _ => false,
                }
            }
            Some(ColumnDefault::Now) => push_time(&mut self.builder.values, context.now),
            Some(ColumnDefault::Value(value)) => json::read_alone(value.as_bytes(), &mut self.builder, context).is_ok(),
        };
        if filled {
            return Ok(());
        }
        let note = format!("the column's default is not a {}", self.builder.type_name());
        Err(Problem::wrong(at, self.builder.type_name(), "the default")
            .note(note)
            .in_field(&self.name))
    }
}

fn push_time(values: &mut Values, now: Micros) -> bool {
    match values {
        Values::Timestamp(values) => values.push(now),
        Values::Date(values) => match i32::try_from(now.div_euclid(MICROS_PER_DAY)) {
            Ok(days) => values.push(days),
            Err(_) => return false,
        },
        Values::Time(values) => values.push(now.rem_euclid(MICROS_PER_DAY)),
        _ => return false,
    }
    true
}

fn missing(at: usize, builder: &Builder) -> Box<Problem> {
    let expected = builder.type_name();
    let note = format!("expected {expected}, but the field is missing and must not be NULL");
    Problem::wrong(at, expected, "no such field").note(note)
}
