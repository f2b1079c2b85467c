//! One text of statements: sent, and its answer written.

use futures::StreamExt;
use headwater_sql::statement::Kind;

use crate::cli::client::{self, Client, Problem};
use crate::cli::failure::{Failed, Failure};
use crate::cli::output::live::Printer;
use crate::cli::output::{self, Rows};

pub async fn execute(client: &Client, text: &str, format: Rows) -> Failed {
    match (emits_changes(text), format) {
        (true, _) => follow(client, text, format).await,
        (false, Rows::Table) => tables(client, text).await,
        (false, Rows::Json) => copy(client, text, "application/x-ndjson").await,
        (false, Rows::Csv) => copy(client, text, "text/csv").await,
    }
}

async fn tables(client: &Client, text: &str) -> Failed {
    for answer in client.sql(text).await? {
        match answer.status {
            // A text without a statement.
            Some(status) if status == "EMPTY" => {}
            Some(status) => {
                output::line(&status)?;
                if let Some(notice) = answer.notice {
                    output::line(&format!("-- {notice}"))?;
                }
            }
            None => output::line(&output::table(&answer.columns, &answer.rows))?,
        }
    }
    Ok(())
}

/// What the server streams is in its final form already, and may be more than fits in memory.
async fn copy(client: &Client, text: &str, form: &str) -> Failed {
    let response = client.sql_response(text, form).await?;
    let content_type = response
        .headers()
        .get("content-type")
        .and_then(|value| value.to_str().ok());
    // A statement that has no rows.
    if content_type.is_some_and(|content_type| content_type.starts_with("application/json")) {
        return Ok(());
    }
    let mut lines = client::lines(response);
    while let Some(line) = lines.next().await {
        let line = line?;
        match problem_of(&line) {
            Some(problem) => return Err(Failure::failed(problem.render(text))),
            None if line.is_empty() => {}
            None => output::line(&line)?,
        }
    }
    Ok(())
}

/// Whether the answer has no end. What doesn't parse here is for the server to complain about.
pub fn emits_changes(text: &str) -> bool {
    let statements = headwater_sql::parse::parse(text).unwrap_or_default();
    let mut selects = statements.iter().filter_map(|statement| match &statement.kind {
        Kind::Select(select) => Some(select),
        _ => None,
    });
    selects.any(|select| select.emit_changes)
}

async fn follow(client: &Client, text: &str, format: Rows) -> Failed {
    let mut lines = client::lines(client.sql_response(text, "application/x-ndjson").await?);
    let mut printer = Printer::new(format);
    while let Some(line) = lines.next().await {
        let line = line?;
        if line.is_empty() {
            continue;
        }
        if let Some(problem) = problem_of(&line) {
            return Err(Failure::failed(problem.render(text)));
        }
        printer.print(&line)?;
    }
    Ok(())
}

/// An answer that breaks off ends with `{"error": {…}}`.
fn problem_of(line: &str) -> Option<Problem> {
    #[derive(serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Broken {
        error: Problem,
    }
    let broken: Broken = line
        .starts_with("{\"error\":{")
        .then(|| serde_json::from_str(line).ok())??;
    (!broken.error.title.is_empty()).then_some(broken.error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn live_queries_are_recognized() {
        assert!(emits_changes("SELECT * FROM clicks EMIT CHANGES;"));
        assert!(!emits_changes("SELECT 'EMIT CHANGES'"));
        assert!(!emits_changes("SELEC"));
    }

    #[test]
    fn a_problem_at_the_end_is_no_row() {
        assert!(problem_of(r#"{"error":{"title":"A fault","detail":"gone"}}"#).is_some());
        assert!(problem_of(r#"{"error":"a column of this name"}"#).is_none());
        assert!(problem_of(r#"{"error":{"a":1},"n":2}"#).is_none());
    }
}
