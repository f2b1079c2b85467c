//! Rows of tables that are kept elsewhere, one by its key: what anything else would take is their own server's business.

use std::sync::Arc;

use arrow::array::{Array, RecordBatch};
use arrow::datatypes::{Schema, SchemaRef};
use headwater_catalog::definition::{Definition, Table};
use headwater_problem::{Problem, ProblemKind};
use headwater_schema::column::Column;

use crate::error::QueryError;
use crate::http::query_string::invalid;
use crate::question::Asked;
use crate::shared::Shared;
use crate::taken_in::MIN_OFFSET;

/// A table's columns, and the places of those that name a row.
pub struct ByKey {
    pub schema: SchemaRef,
    pub key: Vec<usize>,
}

impl ByKey {
    pub fn of(table: &Table) -> Self {
        let schema = Schema::new(table.columns.iter().map(Column::field).collect::<Vec<_>>());
        let key = table.key.iter().filter_map(|name| schema.index_of(name).ok());
        Self {
            key: key.collect(),
            schema: Arc::new(schema),
        }
    }
}

/// The row that was asked for, if there is one. Waits for the server for `table_timeout` at most.
pub async fn row(
    shared: &Shared,
    definition: &Definition,
    by_key: &ByKey,
    asked: Asked<'_>,
) -> Result<Option<RecordBatch>, QueryError> {
    let name = &definition.name;
    if !asked.stored.is_empty() {
        let detail = format!("'{MIN_OFFSET}' can't be waited for: what is in '{name}' is written elsewhere");
        return Err(invalid(detail)
            .hint("ask without it, or ask the view that the table is made of")
            .into());
    }
    let question = asked.of(&by_key.schema)?;
    let Some(key) = question.key(Some(&by_key.key)) else {
        let columns = by_key
            .key
            .iter()
            .map(|&place| by_key.schema.field(place).name().as_str());
        let columns: Vec<_> = columns.collect();
        let detail = format!(
            "a row of '{name}', which is kept elsewhere, is asked for by its key: {}",
            columns.join(", ")
        );
        return Err(invalid(detail)
            .hint("give a value for each of these columns, and nothing else")
            .into());
    };
    let unavailable = |why: String| Problem::new(ProblemKind::Unavailable, why);
    let Some(table) = shared.parts.lookups.get(&definition.topic()) else {
        return Err(unavailable(format!("'{name}' is not there yet")).retry_after(1).into());
    };
    let timeout = shared.options.table_timeout;
    let found = tokio::select! {
        biased;
        found = table.rows(&key) => found?,
        () = shared.parts.clock.sleep(timeout) => {
            let why = table.failure().unwrap_or_else(|| "it does not answer".to_owned());
            let seconds = timeout.as_secs_f64();
            return Err(unavailable(format!("'{name}' could not be looked at within {seconds} s: {why}")).retry_after(1).into());
        }
    };
    if let Some((_, why)) = found.unusable.into_iter().next() {
        return Err(unavailable(why).into());
    }
    if found.places.is_null(0) {
        return Ok(None);
    }
    let place = found.places.value(0) as usize;
    let columns = found.rows.iter().map(|column| column.slice(place, 1));
    let row = RecordBatch::try_new(Arc::clone(&by_key.schema), columns.collect())?;
    Ok(Some(row))
}
