//! The names of tables, and what the server says about them.

use tokio_postgres::Client;

use crate::postgres::connection::sentence;
use crate::source::Error;

/// The name of a table as it stands in SQL: `"schema"."table"`.
#[derive(Clone, Debug)]
pub(crate) struct Name {
    pub(crate) schema: Option<String>,
    pub(crate) table: String,
}

impl Name {
    /// `table` or `schema.table`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (schema, table) = match text.split_once('.') {
            Some((schema, table)) => (Some(schema), table),
            None => (None, text),
        };
        let is_name = |name: &str| !name.is_empty() && !name.contains(['.', '\0']);
        (is_name(table) && schema.is_none_or(is_name)).then(|| Self {
            schema: schema.map(str::to_owned),
            table: table.to_owned(),
        })
    }

    pub(crate) fn sql(&self) -> String {
        match &self.schema {
            Some(schema) => format!("{}.{}", quoted(schema), quoted(&self.table)),
            None => quoted(&self.table),
        }
    }

    /// Another table beside this one.
    pub(crate) fn beside(&self, table: &str) -> Self {
        Self {
            schema: self.schema.clone(),
            table: table.to_owned(),
        }
    }
}

pub(crate) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// What the server says, for people.
pub(crate) fn said(error: tokio_postgres::Error) -> Error {
    Error::outside(format!("Postgres: {}", sentence(&error)))
}

/// Whether there is a table (or what else has columns) of that name.
pub(crate) async fn is_there(client: &Client, name: &Name) -> Result<bool, Error> {
    let row = client
        .query_one("SELECT to_regclass($1) IS NOT NULL", &[&name.sql()])
        .await;
    Ok(row.map_err(said)?.get(0))
}
