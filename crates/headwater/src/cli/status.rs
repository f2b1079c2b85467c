//! `headwater status`: which processes there are, what runs, and where.

use serde_json::json;

use crate::cli::client::{Client, ServerUrl};
use crate::cli::failure::{Failed, Failure};
use crate::cli::output::{self, Row};
use crate::status::{self, Task};

/// Show which processes there are, what runs, where, and how far it is
///
/// Any process of a cluster can be asked. STATE and WATERMARK of what another process runs are as that one has last committed.
#[derive(Debug, clap::Args)]
pub struct Status {
    #[command(flatten)]
    server: ServerUrl,
    /// Tables for people, or the whole as JSON for programs
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Format {
    Table,
    Json,
}

impl Status {
    pub async fn run(self) -> Failed {
        let client = Client::new(&self.server)?;
        let text = client.get_text(&["v1", "status"]).await?;
        if let Format::Json = self.format {
            return Ok(output::line(&text)?);
        }
        let status: status::Status = client.read(&text)?;
        let mut parts = Vec::new();
        if !status.processes.is_empty() {
            parts.push(processes(&status)?);
        }
        match &status.unknown {
            Some(why) => parts.push(format!("What runs isn't known here: {why}")),
            None => parts.push(tasks(&status)?),
        }
        parts.extend(views(&status)?);
        parts.extend(connectors("source", &status.sources)?);
        parts.extend(connectors("sink", &status.sinks)?);
        Ok(output::line(&parts.join("\n\n"))?)
    }
}

fn processes(status: &status::Status) -> Failed<String> {
    let rows = status.processes.iter().map(|process| {
        let is = |id: &Option<_>| id.as_ref() == Some(&process.id);
        json!({
            "process": process.id,
            "roles": process.roles.to_string(),
            "http": process.http,
            "version": process.version,
            "": match (is(&status.leader), is(&status.process)) {
                (true, true) => "leads, answers",
                (true, false) => "leads",
                (false, true) => "answers",
                (false, false) => "",
            },
        })
    });
    table(rows)
}

fn tasks(status: &status::Status) -> Failed<String> {
    let of_query = |query: &status::QueryStatus| {
        let row = |task: &Task| {
            json!({
                "query": query.name,
                "stage": task.stage,
                "partition": task.partition,
                "process": task.process,
                "state": task.state,
                "lag": task.lag,
                "watermark": task.watermark,
                "last commit": task.committed_at,
            })
        };
        let failed = query
            .failure
            .iter()
            .map(|why| json!({"query": query.name, "state": format!("failed: {why}")}));
        failed.chain(query.tasks.iter().map(row)).collect::<Vec<_>>()
    };
    match status.queries.is_empty() {
        true => Ok("no continuous queries".to_owned()),
        false => table(status.queries.iter().flat_map(of_query)),
    }
}

/// Where the process that was asked shows any.
fn views(status: &status::Status) -> Failed<Option<String>> {
    let shown = status
        .views
        .iter()
        .filter_map(|view| Some((&view.name, view.behind_seconds?)));
    let rows: Vec<_> = shown
        .map(|(name, behind)| json!({"view": name, "behind": format!("{behind:.3} s")}))
        .collect();
    match rows.is_empty() {
        true => Ok(None),
        false => table(rows.into_iter()).map(Some),
    }
}

fn connectors(kind: &str, statuses: &[status::ConnectorStatus]) -> Failed<Option<String>> {
    if statuses.is_empty() {
        return Ok(None);
    }
    let rows = statuses.iter().map(|status| {
        json!({
            kind: status.name,
            "process": status.process,
            "state": status.state,
            "lag": status.lag,
            "failure": status.failure,
        })
    });
    table(rows).map(Some)
}

fn table(rows: impl Iterator<Item = serde_json::Value>) -> Failed<String> {
    let text = serde_json::Value::from_iter(rows).to_string();
    let unreadable = |error: serde_json::Error| Failure::failed(error.to_string());
    let rows: Vec<Row> = serde_json::from_str(&text).map_err(unreadable)?;
    let columns = rows.first().map(output::columns_of).unwrap_or_default();
    Ok(output::table(&columns, &rows))
}
