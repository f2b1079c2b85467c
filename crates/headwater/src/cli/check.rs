//! `headwater check`: what a file of statements would make, or where it is wrong.
//!
//! The file is applied to an empty instance in memory, so it is judged by the same code as on a
//! server; nothing on this machine changes.

use std::path::PathBuf;
use std::sync::Arc;

use headwater_catalog::definition::Definition;
use headwater_catalog::snapshot::Snapshot;
use headwater_event::clock::SystemClock;
use headwater_sql::error::SqlError;

use crate::cli::embedded::Embedded;
use crate::cli::failure::{Failed, Failure};
use crate::cli::output::{self, counted};
use crate::files::SqlFile;
use crate::instance::StartError;

/// Plan a file of statements without running it, and explain it or point at what is wrong
#[derive(Debug, clap::Args)]
pub struct Check {
    /// Files of statements; each may use what the ones before it make
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Say only what would be made, without the plans
    #[arg(long, short)]
    quiet: bool,
}

impl Check {
    pub async fn run(self) -> Failed {
        let mut files = Vec::new();
        for path in &self.files {
            files.push(SqlFile::read(path).map_err(Failure::usage)?);
        }
        let embedded = Embedded::without_connectors(SystemClock::new()).await?;
        for file in &files {
            match embedded.core.apply_file(file).await {
                Ok(()) => {}
                Err(StartError::Sql(text)) => return Err(refused(&text)),
                Err(error) => return Err(Failure::failed(error.to_string())),
            }
        }
        output::line(&self.summary(&embedded)?)?;
        embedded.core.stop().await;
        Ok(())
    }

    fn summary(&self, embedded: &Embedded) -> Failed<String> {
        let snapshot = embedded.core.catalog.snapshot();
        let mut made: Vec<&Arc<Definition>> = snapshot.iter().filter(|definition| !is_builtin(definition)).collect();
        made.sort_by_key(|definition| definition.id);
        let mut text = String::new();
        for definition in &made {
            text.push_str(&format!("{} {}\n", definition.kind(), definition.name));
            if !self.quiet {
                text.extend(plan(definition, &snapshot)?.iter().map(|line| format!("  {line}\n")));
            }
        }
        let count = |kind| made.iter().filter(|definition| definition.kind() == kind).count();
        let (streams, views) = (count("stream"), count("view"));
        text.push_str(&format!(
            "ok: {}, {}",
            counted(streams, "stream"),
            counted(views, "view")
        ));
        for kind in ["source", "sink", "table"] {
            if count(kind) > 0 {
                text.push_str(&format!(", {}", counted(count(kind), kind)));
            }
        }
        Ok(text)
    }
}

/// The object's columns, and how its query would run.
fn plan(definition: &Definition, snapshot: &Snapshot) -> Failed<Vec<String>> {
    let refused = |error: SqlError| Failure::failed(error.to_string());
    let mut lines = Vec::new();
    for statement in headwater_sql::parse::parse(&definition.sql).map_err(refused)? {
        lines.extend(headwater_sql::explain::explain(&statement, snapshot).map_err(refused)?);
    }
    Ok(lines)
}

fn is_builtin(definition: &Definition) -> bool {
    definition.stream().is_some_and(|stream| stream.builtin)
}

/// The rendered error begins with a word of its own.
fn refused(text: &str) -> Failure {
    eprintln!("{}", text.trim_end());
    Failure::said()
}
