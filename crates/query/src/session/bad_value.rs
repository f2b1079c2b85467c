//! Which value of an `INSERT … VALUES` is wrong. DataFusion casts whole columns, and names neither the row nor the
//! column when that fails. So once it has, the rows are tried again: halves of them, down to the row, then each of its values.

use arrow::error::ArrowError;
use datafusion::common::{DataFusionError, ScalarValue};
use datafusion::logical_expr::LogicalPlan;
use datafusion::sql::sqlparser::ast::{Expr, SetExpr, Spanned, Values};
use headwater_catalog::definition::Definition;
use headwater_schema::column::Column;
use headwater_schema::types::type_name;
use headwater_sql::error::SqlError;
use headwater_sql::statement::{Insert, Kind, Name, Source, Statement};

use crate::error::QueryError;
use crate::session::{Session, insert};

/// Every row has a value for each column.
pub fn check_lengths(insert: &Insert, source: &Source, stream: &Definition) -> Result<(), SqlError> {
    let Some(values) = values(insert) else { return Ok(()) };
    let columns = names(insert, stream);
    let wrong = values
        .rows
        .iter()
        .enumerate()
        .find(|(_, row)| row.content.len() != columns.len());
    let Some((row, wrong)) = wrong else { return Ok(()) };
    let message = format!(
        "row {} has {} values for {} columns: {}",
        row + 1,
        wrong.content.len(),
        columns.len(),
        columns.join(", ")
    );
    let place = wrong.content.first().and_then(|value| source.place(value.span()));
    Err(SqlError::invalid(message).at(place.unwrap_or_else(|| insert.stream.place.clone())))
}

/// The error, about the value that is to blame for it, if there is one.
pub async fn blame(
    session: &Session,
    statement: &Statement,
    stream: &Definition,
    parameters: &[ScalarValue],
    error: QueryError,
) -> QueryError {
    let Kind::Insert(insert) = &statement.kind else {
        return error;
    };
    let (QueryError::Evaluation(_) | QueryError::Arrow(_), Some(values)) = (&error, values(insert)) else {
        return error;
    };
    let tried = Tried {
        session,
        insert,
        source: &statement.source,
        parameters,
    };
    let Some(row) = tried.first_wrong_row(values).await else {
        return error;
    };
    for (value, name) in values.rows[row].content.iter().zip(names(insert, stream)) {
        let Err(why) = tried.value(value, name).await else {
            continue;
        };
        let column = stream.columns().iter().find(|column| column.name == name);
        let what = match column.filter(|_| is_of_cast(&why)) {
            Some(Column { data_type, json, .. }) => format!("{value} is no {}", type_name(data_type, *json)),
            None => why.message(),
        };
        let message = format!("row {}, column {name}: {what}", row + 1);
        let place = statement.source.place(value.span());
        return SqlError::invalid(message)
            .at(place.unwrap_or_else(|| insert.stream.place.clone()))
            .into();
    }
    error
}

struct Tried<'a> {
    session: &'a Session,
    insert: &'a Insert,
    source: &'a Source,
    parameters: &'a [ScalarValue],
}

impl Tried<'_> {
    /// Rows fail by themselves, so of all beginnings of the list those fail that have the first wrong one.
    async fn first_wrong_row(&self, values: &Values) -> Option<usize> {
        let (mut right, mut wrong) = (0, values.rows.len());
        while wrong - right > 1 {
            let middle = right + (wrong - right) / 2;
            let rows = values.rows[right..middle].to_vec();
            let columns = self.insert.columns.clone();
            match self.can_be(Values { rows, ..values.clone() }, columns).await {
                Ok(()) => right = middle,
                Err(_) => wrong = middle,
            }
        }
        (right < wrong).then_some(right)
    }

    async fn value(&self, value: &Expr, column: &str) -> Result<(), QueryError> {
        let Some(mut alone) = values(self.insert).cloned() else {
            return Ok(());
        };
        alone.rows.truncate(1);
        for row in &mut alone.rows {
            row.content = vec![value.clone()];
        }
        let column = Name {
            value: column.to_owned(),
            place: self.insert.stream.place.clone(),
        };
        self.can_be(alone, vec![column]).await
    }

    /// Whether the rows can be computed and cast.
    async fn can_be(&self, values: Values, columns: Vec<Name>) -> Result<(), QueryError> {
        let mut insert = self.insert.clone();
        *insert.query.body = SetExpr::Values(values);
        insert.columns = columns;
        let LogicalPlan::Dml(plan) = insert::plan_of(self.session, &insert, self.source).await? else {
            return Ok(());
        };
        insert::rows(self.session, (*plan.input).clone(), self.parameters)
            .await
            .map(|_| ())
    }
}

fn values(insert: &Insert) -> Option<&Values> {
    match &*insert.query.body {
        SetExpr::Values(values) => Some(values),
        _ => None,
    }
}

/// The columns that the values are for, in their order.
fn names<'a>(insert: &'a Insert, stream: &'a Definition) -> Vec<&'a str> {
    match insert.columns.as_slice() {
        [] => stream.columns().iter().map(|column| column.name.as_str()).collect(),
        columns => columns.iter().map(|name| name.value.as_str()).collect(),
    }
}

/// Whether the value was computed, and is not of the column's type.
fn is_of_cast(error: &QueryError) -> bool {
    let of_arrow = |error: &ArrowError| {
        matches!(
            error,
            ArrowError::CastError(_) | ArrowError::ParseError(_) | ArrowError::InvalidArgumentError(_)
        )
    };
    match error {
        QueryError::Evaluation(error) => match error.find_root() {
            DataFusionError::ArrowError(error, _) => of_arrow(error),
            DataFusionError::Execution(message) => message.starts_with("Types don't match"),
            DataFusionError::Plan(message) => message.contains("cast"),
            _ => false,
        },
        QueryError::Arrow(error) => of_arrow(error),
        _ => false,
    }
}
