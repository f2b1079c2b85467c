//! What clients say to every Postgres server: settings that have no effect here are accepted, the
//! values of the common ones can be asked for, and transactions are brackets without meaning, since
//! each statement takes effect by itself.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use datafusion::sql::sqlparser::ast::Statement;
use futures::{StreamExt, stream};
use pgwire::api::portal::Format;
use pgwire::api::results::{Response, Tag};
use pgwire::error::PgWireResult;

use crate::postgres::rows::{refused, response};
use crate::session::Answer;

/// Settings that clients ask for, and what they hear.
const SETTINGS: [(&str, &str); 14] = [
    ("application_name", ""),
    ("client_encoding", "UTF8"),
    ("datestyle", "ISO, MDY"),
    ("default_transaction_isolation", "read committed"),
    ("default_transaction_read_only", "off"),
    ("integer_datetimes", "on"),
    ("intervalstyle", "postgres"),
    ("search_path", "public"),
    ("server_encoding", "UTF8"),
    ("server_version", "16.6"),
    ("standard_conforming_strings", "on"),
    ("statement_timeout", "0"),
    ("timezone", "UTC"),
    ("transaction_isolation", "read committed"),
];

/// What the statement asks of the session.
pub fn answer(statement: &Statement, format: &Format) -> PgWireResult<Response> {
    Ok(match statement {
        Statement::ShowVariable { .. } => {
            let answer = show(statement).ok_or_else(|| {
                let message = format!("there is no setting to show by {statement}");
                refused("42704", message)
            })?;
            response(answer, format, &Arc::from(""))?
        }
        Statement::StartTransaction { .. } => Response::TransactionStart(Tag::new("BEGIN")),
        Statement::Commit { .. } => Response::TransactionEnd(Tag::new("COMMIT")),
        Statement::Rollback { savepoint: None, .. } => Response::TransactionEnd(Tag::new("ROLLBACK")),
        Statement::Rollback { .. } => Response::Execution(Tag::new("ROLLBACK")),
        Statement::Savepoint { .. } => Response::Execution(Tag::new("SAVEPOINT")),
        Statement::ReleaseSavepoint { .. } => Response::Execution(Tag::new("RELEASE")),
        Statement::Set(_) => Response::Execution(Tag::new("SET")),
        Statement::Discard { .. } => Response::Execution(Tag::new("DISCARD ALL")),
        Statement::Deallocate { .. } => Response::Execution(Tag::new("DEALLOCATE")),
        other => {
            let message = format!("{other} is not supported");
            return Err(refused("0A000", message));
        }
    })
}

/// The setting that a `SHOW` asks for.
pub fn show(statement: &Statement) -> Option<Answer> {
    let Statement::ShowVariable { variable } = statement else {
        return None;
    };
    let words: Vec<_> = variable.iter().map(|word| word.value.to_lowercase()).collect();
    let name = match words.join("_").as_str() {
        "transaction_isolation_level" => "transaction_isolation".to_owned(),
        "time_zone" => "timezone".to_owned(),
        name => name.to_owned(),
    };
    let (name, value) = SETTINGS.iter().find(|(known, _)| *known == name)?;
    let schema = Arc::new(Schema::new(vec![Field::new(*name, DataType::Utf8, false)]));
    let column: ArrayRef = Arc::new(StringArray::from_iter_values([value]));
    let rows = RecordBatch::try_new(Arc::clone(&schema), vec![column]);
    Some(Answer::Rows {
        schema,
        rows: stream::iter([rows.map_err(Into::into)]).boxed(),
    })
}
