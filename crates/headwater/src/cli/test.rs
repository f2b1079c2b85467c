//! `headwater test`: sqllogictest files, each against a fresh instance in memory.
//!
//! The format is that of <https://sqlite.org/sqllogictest>. After each statement everything that
//! follows from it has happened before the next one runs. The clock stands still; three statements are
//! the runner's own: `RUN FILE 'file.sql'` (relative to the test), `SET CLOCK TO '2026-01-31T12:00:00Z'`
//! and `ADVANCE CLOCK BY INTERVAL '1 minute'`.

pub mod database;
mod directive;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use headwater_event::clock::{Clock, Micros, SystemClock};
use sqllogictest::Runner;

use crate::cli::failure::{Failed, Failure};
use crate::cli::output::{self, counted};
use crate::cli::test::database::Database;

/// Run sqllogictest files, each against a fresh instance in memory with a clock that is moved by hand
///
/// Besides SQL there are RUN FILE 'file.sql', SET CLOCK TO '2026-01-31T12:00:00Z' and
/// ADVANCE CLOCK BY INTERVAL '1 minute'.
#[derive(Debug, clap::Args)]
pub struct Test {
    /// A file, or a directory with *.slt files in it at any depth
    path: PathBuf,
}

/// What every test's clock shows at first: 2026-01-01T00:00:00Z.
pub const BEGINNING: Micros = 1_767_225_600_000_000;

impl Test {
    pub async fn run(self) -> Failed {
        let files = files(&self.path)?;
        let clock = SystemClock::new();
        let mut failed = 0;
        for file in &files {
            let started = clock.elapsed();
            match run_file(file).await {
                Ok(()) => {
                    let took = clock.elapsed() - started;
                    output::line(&format!("ok      {} ({:.1} s)", file.display(), took.as_secs_f64()))?;
                }
                Err(why) => {
                    failed += 1;
                    output::line(&format!("FAILED  {}\n{why}", file.display()))?;
                }
            }
        }
        output::line(&format!(
            "{} ok, {failed} failed",
            counted(files.len() - failed, "file")
        ))?;
        if failed > 0 { Err(Failure::said()) } else { Ok(()) }
    }
}

async fn run_file(file: &Path) -> Result<(), String> {
    let directory = file.parent().unwrap_or(Path::new("")).to_owned();
    let database = Database::start(directory, BEGINNING).await;
    let database = Arc::new(database.map_err(|failure| failure.message)?);
    let shared = Arc::clone(&database);
    let mut runner = Runner::new(move || {
        let database = Arc::clone(&shared);
        async move { Ok(database::Connection(database)) }
    });
    let colour = std::io::IsTerminal::is_terminal(&std::io::stdout());
    let result = runner.run_file_async(file).await;
    result.map_err(|error| error.display(colour).to_string())
}

/// All test files at or below `path`, in order.
fn files(path: &Path) -> Failed<Vec<PathBuf>> {
    let cant = |error: std::io::Error| Failure::usage(format!("can't read {}: {error}", path.display()));
    if std::fs::metadata(path).map_err(cant)?.is_file() {
        return Ok(vec![path.to_owned()]);
    }
    let mut found = Vec::new();
    let mut pending = vec![path.to_owned()];
    while let Some(directory) = pending.pop() {
        for entry in std::fs::read_dir(&directory).map_err(cant)? {
            let entry = entry.map_err(cant)?;
            // Symbolic links are not followed: they may lead back here.
            let kind = entry.file_type().map_err(cant)?;
            if kind.is_dir() {
                pending.push(entry.path());
            } else if entry.path().extension().is_some_and(|extension| extension == "slt") {
                found.push(entry.path());
            }
        }
    }
    found.sort();
    match found.is_empty() {
        true => Err(Failure::usage(format!(
            "there are no *.slt files in {}",
            path.display()
        ))),
        false => Ok(found),
    }
}
