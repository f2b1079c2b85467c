//! Statements prepared in SQL: `PREPARE q AS …`, `EXECUTE q('u1')`, `DEALLOCATE q`.
//!
//! They belong to their connection and are called by name; what is prepared by the extended protocol
//! is kept by `pgwire` itself.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::common::ScalarValue;
use datafusion::sql::sqlparser::ast::{self, Ident};
use futures::TryStreamExt;
use parking_lot::Mutex;
use pgwire::error::{PgWireError, PgWireResult};

use crate::error::QueryError;
use crate::postgres::prepared::{Prepared, Preparer};
use crate::postgres::rows::{refused, told};
use crate::session::{Answer, Session};

/// What a connection may have prepared at a time.
const STATEMENTS_MAX: usize = 1000;

/// A connection's statements by their names.
#[derive(Default)]
pub struct Named(Mutex<HashMap<String, Arc<Statement>>>);

pub struct Statement {
    pub prepared: Prepared,
    /// As they were declared, for the first parameters or for none.
    types: Vec<ast::DataType>,
}

impl Named {
    pub async fn prepare(
        &self,
        preparer: &Preparer,
        name: &Ident,
        types: &[ast::DataType],
        statement: &ast::Statement,
    ) -> PgWireResult<()> {
        let sql = Arc::from(statement.to_string());
        let prepared = preparer.prepare(&sql).await.map_err(without_place)?;
        let prepared = prepared.ok_or_else(|| refused("42601", "there is no statement to prepare".to_owned()))?;
        let name = normalize(name);
        let types = types.to_vec();
        let mut statements = self.0.lock();
        if statements.contains_key(&name) {
            let message = format!("there is a prepared statement '{name}' already");
            return Err(refused("42P05", message));
        }
        if statements.len() >= STATEMENTS_MAX {
            let message = format!("there are {STATEMENTS_MAX} prepared statements already; DEALLOCATE some");
            return Err(refused("53400", message));
        }
        statements.insert(name, Arc::new(Statement { prepared, types }));
        Ok(())
    }

    pub fn get(&self, name: &str) -> PgWireResult<Arc<Statement>> {
        let statement = self.0.lock().get(name).cloned();
        statement.ok_or_else(|| unknown(name))
    }

    /// Forgets a statement; whether it was there.
    pub fn remove(&self, name: &str) -> bool {
        self.0.lock().remove(name).is_some()
    }

    pub fn clear(&self) {
        self.0.lock().clear();
    }
}

impl Statement {
    /// The values of an EXECUTE's expressions, as the statement's parameters want them.
    pub async fn values(&self, session: &Session, expressions: &[ast::Expr]) -> PgWireResult<Vec<ScalarValue>> {
        let types = self
            .prepared
            .parameters()
            .map_err(|error| without_place(told(&error, "")))?;
        if expressions.len() != types.len().max(self.types.len()) {
            let message = format!(
                "the statement has {} parameters, but there are values for {}",
                types.len().max(self.types.len()),
                expressions.len()
            );
            return Err(refused("42601", message));
        }
        if expressions.is_empty() {
            return Ok(Vec::new());
        }
        let mut values = Vec::with_capacity(expressions.len());
        for (place, expression) in expressions.iter().enumerate() {
            let expression = match self.types.get(place) {
                Some(declared) => format!("CAST({expression} AS {declared})"),
                None => expression.to_string(),
            };
            let value = value(session, &expression, types.get(place).and_then(Option::as_ref)).await;
            values.push(value.map_err(|error| without_place(told(&error, "")))?);
        }
        Ok(values)
    }
}

async fn value(session: &Session, expression: &str, wanted: Option<&DataType>) -> Result<ScalarValue, QueryError> {
    let answer = session.execute(&format!("SELECT {expression}"), &[]).await?.pop();
    let Some(Answer::Rows { rows, .. }) = answer else {
        return Err(QueryError::internal("an expression has no value"));
    };
    let batches: Vec<_> = rows.try_collect().await?;
    let batch = batches.iter().find(|batch| batch.num_rows() == 1);
    let batch = batch.ok_or_else(|| QueryError::internal("an expression has no value"))?;
    let value = ScalarValue::try_from_array(batch.column(0), 0)?;
    Ok(match wanted {
        Some(wanted) => value.cast_to(wanted)?,
        None => value,
    })
}

/// A name as it is known: in lower case unless it was quoted.
pub fn normalize(name: &Ident) -> String {
    match name.quote_style {
        Some(_) => name.value.clone(),
        None => name.value.to_lowercase(),
    }
}

pub fn unknown(name: &str) -> PgWireError {
    refused("26000", format!("there is no prepared statement '{name}'"))
}

/// The place is one in the text that was prepared, which the client does not have at hand.
fn without_place(error: PgWireError) -> PgWireError {
    match error {
        PgWireError::UserError(mut info) => {
            info.position = None;
            PgWireError::UserError(info)
        }
        error => error,
    }
}
