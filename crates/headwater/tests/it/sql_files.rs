//! `tests/sql`: the dialect by examples, a file for each feature. Every file runs in several manners
//! against the same expectations: as it is, with other numbers of partitions and threads, and with a
//! restart before every statement.
//!
//! `HEADWATER_TEST_FILE=name` runs only files with `name` in their path, and `HEADWATER_TEST_UPDATE=1`
//! writes what was answered into them instead of comparing: read the difference before keeping it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use headwater::cli::test::BEGINNING;
use headwater::cli::test::database::{Database, TestError};
use sqllogictest::{AsyncDB, DBOutput, DefaultColumnType, Runner};

/// How a file is run.
#[derive(Clone, Copy, Debug)]
struct Manner {
    name: &'static str,
    threads: usize,
    /// In place of every `partitions = 4`.
    partitions: Option<u32>,
    restarts: bool,
}

const STRAIGHT: Manner = Manner {
    name: "straight",
    threads: 1,
    partitions: None,
    restarts: false,
};

const OTHERS: [Manner; 3] = [
    Manner {
        name: "one-partition",
        partitions: Some(1),
        ..STRAIGHT
    },
    Manner {
        name: "seven-partitions",
        threads: 3,
        partitions: Some(7),
        ..STRAIGHT
    },
    Manner {
        name: "restarts",
        restarts: true,
        ..STRAIGHT
    },
];

/// A database that does what the manner says besides what the file says.
struct Connection {
    /// Taken out only while it is started anew.
    database: Option<Database>,
    manner: Manner,
}

#[async_trait::async_trait]
impl AsyncDB for Connection {
    type Error = TestError;
    type ColumnType = DefaultColumnType;

    async fn run(&mut self, sql: &str) -> Result<DBOutput<DefaultColumnType>, TestError> {
        let database = self.database.take().expect("it is put back");
        let database = match self.manner.restarts {
            true => database
                .restart()
                .await
                .map_err(|failure| TestError::Runner(failure.message))?,
            false => database,
        };
        let sql = match self.manner.partitions {
            Some(partitions) => sql.replace("partitions = 4", &format!("partitions = {partitions}")),
            None => sql.to_owned(),
        };
        let answer = database.run(&sql).await;
        self.database = Some(database);
        answer
    }

    async fn shutdown(&mut self) {}

    fn engine_name(&self) -> &str {
        "headwater"
    }

    async fn sleep(_: Duration) {
        // Tests move the clock; waiting changes nothing.
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/sql")
}

fn files() -> Vec<PathBuf> {
    let only = std::env::var("HEADWATER_TEST_FILE").unwrap_or_default();
    let entries = std::fs::read_dir(root()).expect("tests/sql");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let mut files: Vec<_> = paths
        .filter(|path| path.extension().is_some_and(|extension| extension == "slt"))
        .filter(|path| path.to_string_lossy().contains(&only))
        .collect();
    files.sort();
    files
}

async fn connect(manner: Manner) -> Result<Connection, TestError> {
    let database = Database::with_threads(root(), BEGINNING, manner.threads).await;
    Ok(Connection {
        database: Some(database.map_err(|failure| TestError::Runner(failure.message))?),
        manner,
    })
}

async fn run(file: &Path, manner: Manner) -> Result<(), String> {
    let mut runner = Runner::new(move || connect(manner));
    // For records with `skipif`: what is different in this manner.
    runner.add_label(manner.name);
    let result = runner.run_file_async(file).await;
    result.map_err(|error| format!("{} ({}): {}", file.display(), manner.name, error.display(false)))
}

async fn update(file: &Path) {
    let mut runner = Runner::new(|| connect(STRAIGHT));
    let updated = runner.update_test_file(
        file,
        " ",
        sqllogictest::default_validator,
        sqllogictest::default_normalizer,
        sqllogictest::default_column_validator,
    );
    updated.await.expect("the file runs");
}

async fn run_all(manner: Manner) {
    let files = files();
    assert!(!files.is_empty(), "there are no files in tests/sql");
    let mut failures = Vec::new();
    for file in files {
        failures.extend(run(&file, manner).await.err());
    }
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
}

#[tokio::test]
async fn as_they_are() {
    if std::env::var_os("HEADWATER_TEST_UPDATE").is_some() {
        for file in files() {
            update(&file).await;
        }
    }
    run_all(STRAIGHT).await;
}

#[tokio::test]
async fn with_one_partition() {
    run_all(OTHERS[0]).await;
}

#[tokio::test]
async fn with_seven_partitions_and_three_threads() {
    run_all(OTHERS[1]).await;
}

#[tokio::test]
async fn with_a_restart_before_every_statement() {
    run_all(OTHERS[2]).await;
}
