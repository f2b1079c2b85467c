//! The catalog as it is kept: a compacted topic of two text columns, an object's name and its
//! definition as JSON, or NULL once it is dropped.
//!
//! Changes are written by compare-and-swap on the version, so that a file of statements, planned
//! against one version, is applied to that version or not at all. The version is the offset after
//! the last change, the same for every process that follows the topic.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, AsArray, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use headwater_event::offset::TopicPartition;
use headwater_log::error::Error as LogError;
use headwater_log::topic::{Cleanup, TopicSpec};
use headwater_log::{Commit, Log, LoggedBatch, Produced};
use tokio::sync::{Mutex, watch};

use crate::definition::Definition;
use crate::snapshot::{Change, Snapshot};

/// The topic that the catalog lives in.
pub const TOPIC: &str = "$catalog";

/// The owner of the catalog's commits: whoever claimed last may write.
const OWNER: &str = "catalog";

/// How much of the catalog's topic is read at once.
const READ_BYTES_MAX: usize = 4 << 20;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Somebody changed the catalog meanwhile: plan again against the current version.
    #[error("the catalog has changed meanwhile (it is at version {found}, the change was made for version {expected})")]
    Conflict { expected: u64, found: u64 },
    #[error("the catalog's entry '{name}' can't be read: {source}. It may be from a newer version of Headwater")]
    Unreadable { name: String, source: serde_json::Error },
    #[error("catalog: {0}")]
    Log(#[from] LogError),
    #[error("catalog: {0}")]
    Arrow(#[from] arrow::error::ArrowError),
}

/// The catalog of one log. Cheap to read; changed by [`Catalog::apply`].
#[derive(Debug)]
pub struct Catalog {
    log: Arc<dyn Log>,
    current: watch::Sender<Arc<Snapshot>>,
    /// Held over a change, from looking at the version to having it in `current`.
    changing: Mutex<()>,
}

impl Catalog {
    /// Reads the catalog, creating its topic where there is none.
    pub async fn open(log: Arc<dyn Log>) -> Result<Arc<Self>, Error> {
        log.create_topic(spec()).await?;
        let catalog = Self {
            log,
            current: watch::Sender::new(Arc::new(Snapshot::default())),
            changing: Mutex::new(()),
        };
        catalog.catch_up().await?;
        Ok(Arc::new(catalog))
    }

    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.current.borrow().clone()
    }

    /// Changes whenever the catalog does.
    pub fn subscribe(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.current.subscribe()
    }

    /// Applies all changes, or none; the answer is the new version. New objects get their id here:
    /// a definition whose id is 0 gets the next one.
    ///
    /// # Errors
    /// [`Error::Conflict`] if the catalog is no longer at `expected_version`.
    pub async fn apply(&self, expected_version: u64, changes: Vec<Change>) -> Result<u64, Error> {
        let _changing = self.changing.lock().await;
        let claim = match self.log.claim(OWNER).await {
            Ok(claim) => claim,
            // Somebody else wants to change it in the same moment.
            Err(LogError::Fenced { .. } | LogError::ClaimLost { .. }) => {
                return Err(self.conflict(expected_version).await?);
            }
            Err(error) => return Err(error.into()),
        };
        self.catch_up().await?;
        let now = self.snapshot();
        if now.version != expected_version {
            return Err(self.conflict(expected_version).await?);
        }
        if changes.is_empty() {
            return Ok(now.version);
        }
        let changes = now.with_ids(changes);
        let commit = Commit {
            produced: vec![Produced {
                partition: partition(),
                rows: rows(&changes)?,
                progress: None,
            }],
            ..Commit::default()
        };
        match self.log.commit(&claim, commit).await {
            Ok(_) => {}
            Err(LogError::Fenced { .. } | LogError::ClaimLost { .. }) => {
                return Err(self.conflict(expected_version).await?);
            }
            Err(error) => return Err(error.into()),
        }
        self.catch_up().await?;
        Ok(self.snapshot().version)
    }

    async fn conflict(&self, expected: u64) -> Result<Error, Error> {
        self.catch_up().await?;
        let found = self.snapshot().version;
        Ok(Error::Conflict { expected, found })
    }

    /// Takes in what others have changed until now.
    pub async fn refresh(&self) -> Result<(), Error> {
        let _changing = self.changing.lock().await;
        self.catch_up().await
    }

    /// Follows changes that others make, until the log fails. Processes that share a log run this.
    pub async fn follow(&self) -> Result<(), Error> {
        loop {
            let version = self.snapshot().version;
            self.log.wait(&partition(), version).await?;
            let _changing = self.changing.lock().await;
            self.catch_up().await?;
        }
    }

    async fn catch_up(&self) -> Result<(), Error> {
        loop {
            let before = self.snapshot();
            let batches = self
                .log
                .read(&partition(), before.version, READ_BYTES_MAX, None)
                .await?;
            let Some(last) = batches.last() else {
                return Ok(());
            };
            let version = last.next();
            let mut changes = Vec::new();
            for batch in &batches {
                read_changes(batch, &mut changes)?;
            }
            let after = before.at_version(version, changes);
            self.current.send_replace(Arc::new(after));
        }
    }
}

fn partition() -> TopicPartition {
    TopicPartition::new(TOPIC, 0)
}

fn spec() -> TopicSpec {
    TopicSpec {
        name: TOPIC.to_owned(),
        schema: Arc::new(schema()),
        partitions: 1,
        cleanup: Cleanup::Compact { key: "name".to_owned() },
        events: None,
    }
}

fn schema() -> Schema {
    Schema::new(vec![
        Field::new("name", DataType::Utf8, false),
        Field::new("definition", DataType::Utf8, true),
    ])
}

fn rows(changes: &[Change]) -> Result<RecordBatch, Error> {
    let names = StringArray::from_iter_values(changes.iter().map(Change::name));
    let mut definitions = Vec::with_capacity(changes.len());
    for change in changes {
        definitions.push(match change {
            Change::Put(definition) => Some(text_of(definition)?),
            Change::Remove(_) => None,
        });
    }
    let columns: Vec<Arc<dyn Array>> = vec![Arc::new(names), Arc::new(StringArray::from(definitions))];
    Ok(RecordBatch::try_new(Arc::new(schema()), columns)?)
}

/// The definition as it is kept. What could not be read back must not get into the log: no catalog
/// that holds it would open again.
fn text_of(definition: &Definition) -> Result<String, Error> {
    let unreadable = |source| Error::Unreadable {
        name: definition.name.clone(),
        source,
    };
    let text = serde_json::to_string(definition).map_err(unreadable)?;
    serde_json::from_str::<Definition>(&text).map_err(unreadable)?;
    Ok(text)
}

fn read_changes(batch: &LoggedBatch, changes: &mut Vec<Change>) -> Result<(), Error> {
    let names = batch.rows.column(0).as_string::<i32>();
    let definitions = batch.rows.column(1).as_string::<i32>();
    for row in 0..batch.rows.num_rows() {
        let name = names.value(row);
        if definitions.is_null(row) {
            changes.push(Change::Remove(name.to_owned()));
            continue;
        }
        let definition: Definition =
            serde_json::from_str(definitions.value(row)).map_err(|source| Error::Unreadable {
                name: name.to_owned(),
                source,
            })?;
        changes.push(Change::Put(definition));
    }
    Ok(())
}

/// The objects as they are, in the shape in which [`BTreeMap`] keeps them.
pub(crate) type Objects = BTreeMap<String, Arc<Definition>>;
