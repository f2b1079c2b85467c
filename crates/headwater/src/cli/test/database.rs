//! An instance in memory as sqllogictest sees a database.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use headwater_event::clock::{Clock, ManualClock, Micros};
use headwater_query::error::QueryError;
use headwater_query::session::Answer;
use headwater_schema::encode::json_object;
use sqllogictest::{AsyncDB, DBOutput, DefaultColumnType};

use crate::cli::embedded::{Embedded, THREADS};
use crate::cli::failure::Failed;
use crate::cli::output::{self, Row};
use crate::cli::test::directive::{self, Directive};
use crate::files::SqlFile;
use crate::instance::StartError;

/// A clock that is moved goes there in so many steps: what happens at a time finds the clock not
/// far from it.
const CLOCK_STEPS: u32 = 20;

pub struct Database {
    embedded: Embedded,
    clock: Arc<ManualClock>,
    /// Where the test is.
    directory: PathBuf,
}

/// One of a test's connections to its database.
pub struct Connection(pub Arc<Database>);

#[derive(Debug, thiserror::Error)]
pub enum TestError {
    #[error("{0}")]
    Query(#[from] QueryError),
    #[error("{0}")]
    File(#[from] StartError),
    #[error("{0}")]
    Runner(String),
}

impl Database {
    pub async fn start(directory: PathBuf, now: Micros) -> Failed<Self> {
        Self::with_threads(directory, now, THREADS).await
    }

    pub async fn with_threads(directory: PathBuf, now: Micros, threads: usize) -> Failed<Self> {
        let clock = ManualClock::new(now);
        let embedded = Embedded::with_threads(Arc::clone(&clock) as Arc<dyn Clock>, threads).await?;
        Ok(Self {
            embedded,
            clock,
            directory,
        })
    }

    /// Stops everything but the log, and starts anew on what is in it.
    pub async fn restart(self) -> Failed<Self> {
        let embedded = self.embedded.restart().await?;
        Ok(Self { embedded, ..self })
    }

    /// Carries out a statement, and all that follows from it.
    pub async fn run(&self, sql: &str) -> Result<DBOutput<DefaultColumnType>, TestError> {
        let output = match directive::parse(sql) {
            Some(directive) => {
                self.direct(directive.map_err(TestError::Runner)?).await?;
                DBOutput::StatementComplete(0)
            }
            None => {
                let answers = self.embedded.core.session().execute(sql, &[]).await?;
                // Of several statements, the last one's answer counts.
                match answers.into_iter().next_back() {
                    Some(answer) => output(answer).await?,
                    None => DBOutput::StatementComplete(0),
                }
            }
        };
        self.embedded.core.caught_up().await;
        Ok(output)
    }

    async fn direct(&self, directive: Directive) -> Result<(), TestError> {
        match directive {
            Directive::AdvanceClock(duration) => self.advance(duration).await,
            Directive::SetClock(time) => {
                let duration = u64::try_from(time - self.clock.now());
                let duration = duration.map_err(|_| TestError::Runner("the clock does not go back".to_owned()))?;
                self.advance(Duration::from_micros(duration)).await;
            }
            Directive::RunFile(path) => {
                let file = SqlFile::read(&self.directory.join(path)).map_err(TestError::Runner)?;
                self.embedded.core.apply_file(&file).await?;
            }
        }
        Ok(())
    }

    async fn advance(&self, duration: Duration) {
        // What was just started takes its time from the clock as it stands now.
        self.embedded.core.caught_up().await;
        let target = self.clock.now() + Micros::try_from(duration.as_micros()).unwrap_or(Micros::MAX);
        for _ in 0..CLOCK_STEPS {
            self.clock.advance(duration / CLOCK_STEPS);
            self.embedded.core.caught_up().await;
        }
        self.clock.advance_to(target);
    }
}

#[async_trait]
impl AsyncDB for Connection {
    type Error = TestError;
    type ColumnType = DefaultColumnType;

    async fn run(&mut self, sql: &str) -> Result<DBOutput<DefaultColumnType>, TestError> {
        self.0.run(sql).await
    }

    async fn shutdown(&mut self) {}

    fn engine_name(&self) -> &str {
        "headwater"
    }

    async fn sleep(_: Duration) {
        // Tests move the clock; waiting changes nothing.
    }
}

async fn output(answer: Answer) -> Result<DBOutput<DefaultColumnType>, TestError> {
    match answer {
        Answer::Done { rows, .. } => Ok(DBOutput::StatementComplete(rows.unwrap_or(0) as u64)),
        Answer::Changes { .. } => Err(TestError::Runner(
            "a query that never ends can't be tested; use a view".to_owned(),
        )),
        Answer::Rows { schema, rows } => {
            let types = vec![DefaultColumnType::Any; schema.fields().len()];
            Ok(DBOutput::Rows {
                types,
                rows: texts(rows).await?,
            })
        }
    }
}

/// Every value as the HTTP door would write it, without quotes; NULL and empty text as sqllogictest
/// has them.
async fn texts(mut rows: headwater_query::http::Rows) -> Result<Vec<Vec<String>>, TestError> {
    let mut all = Vec::new();
    while let Some(batch) = rows.next().await {
        let batch = batch?;
        for row in 0..batch.num_rows() {
            let mut json = Vec::new();
            json_object(&batch, row, &mut json).map_err(|error| TestError::Runner(error.to_string()))?;
            let row: Row = serde_json::from_slice(&json).map_err(|error| TestError::Runner(error.to_string()))?;
            all.push(row.0.iter().map(|(_, value)| text(value.get())).collect());
        }
    }
    Ok(all)
}

fn text(json: &str) -> String {
    let text = output::text_of(json);
    match text.is_empty() {
        true => "(empty)".to_owned(),
        false => text,
    }
}
