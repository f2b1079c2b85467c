//! What is asked of a view: conditions, an order, a part of the rows. Every door asks this way.
//!
//! With a value for every key column and nothing else it is the question for one row, which is read by its
//! key without any planning: the path that dashboards and services are on. A view of one row has no key
//! columns: it answers that row to a question without any. Anything else is a scan that DataFusion plans
//! from expressions; no text of the request ever becomes SQL.

use std::borrow::Cow;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::Schema;
use datafusion::common::{Column, ScalarValue};
use datafusion::dataframe::DataFrame;
use datafusion::logical_expr::{Expr, SortExpr, lit};
use headwater_catalog::snapshot::nearest;
use headwater_event::stored::Stored;
use headwater_problem::{Problem, ProblemKind};

use crate::error::QueryError;
use crate::http::query_string::{self, invalid};
use crate::session::Session;
use crate::tables::view::ViewTable;
use crate::taken_in::MIN_OFFSET;
use crate::value;
use crate::views::ViewRows;

pub const ORDER: &str = "order";
pub const LIMIT: &str = "limit";
pub const OFFSET: &str = "offset";

/// A question as a door hands it over, by names.
#[derive(Debug, Default, PartialEq)]
pub struct Asked<'a> {
    pub equal: Vec<(Cow<'a, str>, Given<'a>)>,
    /// Columns, and whether in descending order.
    pub order: Vec<(Cow<'a, str>, bool)>,
    pub limit: Option<usize>,
    pub offset: usize,
    /// What has to be in the view before it is read.
    pub stored: Stored,
}

/// A value that a column must have.
#[derive(Debug, PartialEq)]
pub enum Given<'a> {
    /// Understood as the column's type.
    Text(Cow<'a, str>),
    Value(ScalarValue),
}

/// A question with the places of its columns.
#[derive(Debug)]
pub struct Question {
    equal: Vec<(usize, ArrayRef)>,
    order: Vec<(usize, bool)>,
    limit: Option<usize>,
    offset: usize,
}

impl Asked<'_> {
    /// Finds the columns, and makes the values theirs.
    pub fn of(self, schema: &Schema) -> Result<Question, Problem> {
        let mut equal: Vec<(usize, ArrayRef)> = Vec::with_capacity(self.equal.len());
        for (name, given) in self.equal {
            let Ok(column) = schema.index_of(&name) else {
                return Err(unknown_column(&name, schema));
            };
            if equal.iter().any(|&(other, _)| other == column) {
                return Err(invalid(format!("'{name}' is given twice")));
            }
            let field = schema.field(column);
            let value = match given {
                Given::Text(text) => value::parse(field, &text)?,
                Given::Value(value) => value::fit(field, &value)?,
            };
            equal.push((column, value));
        }
        let order = self.order.into_iter().map(|(name, descending)| {
            let place = schema.index_of(&name).map_err(|_| {
                let problem = invalid(format!("there is no column '{name}' to order by"));
                match nearest(&name, names(schema)) {
                    Some(nearest) => problem.hint(format!("did you mean '{nearest}'?")),
                    None => problem,
                }
            })?;
            Ok((place, descending))
        });
        Ok(Question {
            equal,
            order: order.collect::<Result<_, Problem>>()?,
            limit: self.limit,
            offset: self.offset,
        })
    }
}

impl Question {
    /// The values of the key, if the question is for the one row that they name.
    ///
    /// `key` are the places of its columns.
    pub fn key(&self, key: Option<&[usize]>) -> Option<Vec<ArrayRef>> {
        let plain = self.order.is_empty() && self.limit.is_none() && self.offset == 0;
        let key = key.filter(|key| plain && self.equal.len() == key.len())?;
        let value_of = |&key: &usize| {
            let (_, value) = self.equal.iter().find(|(column, _)| *column == key)?;
            Some(Arc::clone(value))
        };
        key.iter().map(value_of).collect()
    }

    pub fn frame(self, session: &Session, view: Arc<ViewRows>) -> Result<DataFrame, QueryError> {
        let schema = Arc::clone(&view.schema);
        let column = |place: usize| Expr::Column(Column::from_name(schema.field(place).name()));
        let mut frame = session.context().read_table(Arc::new(ViewTable::new(view)))?;
        for (place, value) in &self.equal {
            let value = ScalarValue::try_from_array(value, 0)?;
            frame = frame.filter(column(*place).eq(lit(value)))?;
        }
        if !self.order.is_empty() {
            let order = self.order.iter();
            let order = order.map(|&(place, descending)| SortExpr::new(column(place), !descending, false));
            frame = frame.sort(order.collect())?;
        }
        if self.limit.is_some() || self.offset > 0 {
            frame = frame.limit(self.offset, self.limit)?;
        }
        Ok(frame)
    }
}

/// The row with this key.
pub fn row(view: &ViewRows, key: &[ArrayRef]) -> Result<RecordBatch, QueryError> {
    match view.get(key)? {
        Some(row) => Ok(row),
        None => Err(no_row(&view.definition.name, key.is_empty()).into()),
    }
}

/// `one` is whether the view has one row for all.
pub fn no_row(view: &str, one: bool) -> Problem {
    let detail = match one {
        true => format!("'{view}' has no row yet"),
        false => format!("'{view}' has no row with this key"),
    };
    Problem::new(ProblemKind::NotFound, detail)
}

fn unknown_column(name: &str, schema: &Schema) -> Problem {
    query_string::unknown(name, names(schema).chain([ORDER, LIMIT, OFFSET, MIN_OFFSET]))
}

fn names(schema: &Schema) -> impl Iterator<Item = &str> + Clone {
    schema.fields().iter().map(|field| field.name().as_str())
}
