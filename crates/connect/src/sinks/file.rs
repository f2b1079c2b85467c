//! `connector = 'file'`: rows in files of a folder, each of which is there as a whole or not at all.
//!
//! Rows wait in memory, by the partition and the folder that they belong to, until they are many ([`BUFFERED_BYTES_MAX`]);
//! then they are added to files in a hidden folder ([`staged`]). When it is time, those files are finished, synced and promised, and
//! once that is committed they are moved to their folders under their names:
//!
//! `{sink}-{id}-{partition}-{offset of its first row}.{format}`
//!
//! No other file ever gets such a name, neither after a restart nor from another sink, and a file that somebody has
//! put there is not replaced.
//!
//! `partition_by` makes a folder for each of the values ([`folders`]), as Hive does. Its columns are in the folders' names and not in
//! the files.

mod folders;
mod format;
mod staged;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use headwater_catalog::snapshot::nearest;
use headwater_event::offset::Offset;

use crate::options::{About, Options, Refusal};
use crate::sink::{Offsets, Opened, Promise, Rows, Sink, Start, Undeliverable};
use crate::sinks::Reads;
use crate::sinks::file::folders::Folders;
use crate::sinks::file::format::Format;
use crate::sinks::file::staged::{Staged, Staging};
use crate::source::Error;
use crate::within::Within;

const ROLL_BYTES: u64 = 64 << 20;
const ROLL_INTERVAL: Duration = Duration::from_secs(60);
/// What waits in memory until it is added to files.
const BUFFERED_BYTES_MAX: usize = 16 << 20;
/// Files that are made visible together.
const FILES_MAX: usize = 4096;

struct File {
    path: PathBuf,
    format: Format,
    roll_bytes: u64,
    folders: Folders,
    staging: Option<Staging>,
    parts: BTreeMap<Place, Part>,
    buffered_bytes: usize,
}

/// The partition that rows are from, and the folder that they go to.
type Place = (u32, String);

/// A file in the making.
struct Part {
    /// The offset of its first row.
    first: Offset,
    buffered: Vec<RecordBatch>,
    staged: Option<Staged>,
}

pub(super) fn open(reads: &Reads<'_>, options: &mut Options<'_>) -> Result<Opened, Refusal> {
    let missing = |what: &str| {
        Refusal::new(
            About::Statement,
            format!("a sink with the connector file needs a {what}"),
        )
        .hint("WITH (connector = 'file', path = '/data/out', format = 'ndjson')")
    };
    let schema = &reads.schema;
    let path = options.text("path").ok_or_else(|| missing("path"))?;
    let format = options.one_of("format", &Format::NAMES)?;
    let format = format.ok_or_else(|| missing("format"))?;
    let columns = match options.text("partition_by") {
        Some(names) => columns(schema, names)?,
        None => Vec::new(),
    };
    let folders = Folders::new(schema, columns).map_err(partition_by)?;
    format::check(format, folders.file_schema()).map_err(|error| Refusal::new(About::Stream, error))?;
    let interval = options.span("roll_interval")?;
    let interval = interval
        .and_then(|micros| u64::try_from(micros).ok())
        .map(Duration::from_micros);
    if interval.is_some_and(|interval| interval.is_zero()) {
        return Err(Refusal::option("roll_interval", "a span of time like '1 minute'"));
    }
    let sink = File {
        path: PathBuf::from(path),
        format,
        roll_bytes: options.bytes("roll_size")?.unwrap_or(ROLL_BYTES),
        folders,
        staging: None,
        parts: BTreeMap::new(),
        buffered_bytes: 0,
    };
    Ok(Opened {
        sink: Box::new(sink),
        interval: interval.unwrap_or(ROLL_INTERVAL),
    })
}

/// The places of the columns that a text with commas names.
fn columns(schema: &SchemaRef, names: &str) -> Result<Vec<usize>, Refusal> {
    let mut columns = Vec::new();
    for name in names.split(',').map(str::trim) {
        let Ok(column) = schema.index_of(name) else {
            let known = schema.fields().iter().map(|field| field.name().as_str());
            let refusal = partition_by(format!("there is no column '{name}' to partition by"));
            return Err(refusal.near(nearest(name, known)));
        };
        if columns.contains(&column) {
            return Err(partition_by(format!("partition_by names the column {name} twice")));
        }
        columns.push(column);
    }
    Ok(columns)
}

fn partition_by(message: String) -> Refusal {
    Refusal::new(About::Option("partition_by".to_owned()), message)
}

impl File {
    fn staging(&mut self) -> Result<&mut Staging, Error> {
        self.staging
            .as_mut()
            .ok_or_else(|| Error::outside("the sink is not open"))
    }

    fn staged_bytes(&self) -> u64 {
        let staged = self.parts.values().filter_map(|part| part.staged.as_ref());
        staged.map(Staged::bytes).sum()
    }

    /// Adds what waits in memory to the files.
    fn spill(&mut self) -> Result<(), Error> {
        let staging = self
            .staging
            .as_mut()
            .ok_or_else(|| Error::outside("the sink is not open"))?;
        let waiting = self.parts.iter_mut().filter(|(_, part)| !part.buffered.is_empty());
        for ((partition, _), part) in waiting {
            let staged = match &mut part.staged {
                Some(staged) => staged,
                none => none.insert(staging.begin(*partition, part.first, self.format, self.folders.file_schema())?),
            };
            staged.add(&part.buffered)?;
            part.buffered.clear();
        }
        self.buffered_bytes = 0;
        Ok(())
    }
}

#[async_trait]
impl Sink for File {
    fn guarantee(&self) -> &'static str {
        "exactly once: each row is in one file, and a file is there as a whole or not at all"
    }

    async fn look(&mut self, within: &Within) -> Result<(), Error> {
        within.check(&self.path)?;
        let there = self.path.ancestors().find(|path| path.exists());
        match there {
            Some(path) if !path.is_dir() => Err(Error::outside(format!(
                "{} is a file; a sink writes into a folder",
                path.display()
            ))),
            _ => Ok(()),
        }
    }

    async fn open(&mut self, start: Start<'_>) -> Result<Option<Offsets>, Error> {
        start.within.check(&self.path)?;
        self.parts.clear();
        self.buffered_bytes = 0;
        self.staging = Some(Staging::open(&self.path, start.name, start.promise)?);
        Ok(None)
    }

    async fn write(&mut self, rows: Rows<'_>) -> Result<Vec<Undeliverable>, Error> {
        let mut undeliverable = Vec::new();
        for group in self.folders.split(rows.rows)? {
            let folder = match group.folder {
                Ok(folder) => folder,
                Err(detail) => {
                    undeliverable.extend(group.rows.iter().map(|&row| Undeliverable {
                        row: row as usize,
                        detail: detail.clone(),
                    }));
                    continue;
                }
            };
            let first = rows.first + u64::from(group.rows.first().copied().unwrap_or(0));
            let part = self.parts.entry((rows.partition, folder)).or_insert_with(|| Part {
                first,
                buffered: Vec::new(),
                staged: None,
            });
            let content = self.folders.content(rows.rows, &group.rows)?;
            self.buffered_bytes += content.get_array_memory_size();
            part.buffered.push(content);
        }
        undeliverable.sort_by_key(|row| row.row);
        if self.buffered_bytes > BUFFERED_BYTES_MAX {
            self.spill()?;
        }
        Ok(undeliverable)
    }

    fn is_full(&self) -> bool {
        self.parts.len() >= FILES_MAX || self.staged_bytes() + self.buffered_bytes as u64 >= self.roll_bytes
    }

    async fn prepare(&mut self) -> Result<Promise, Error> {
        self.spill()?;
        let ends = self.format.extension();
        let parts = std::mem::take(&mut self.parts);
        let staging = self.staging()?;
        for ((_, folder), part) in parts {
            if let Some(staged) = part.staged {
                staging.finish(staged, &folder, ends)?;
            }
        }
        staging.promise()
    }

    async fn publish(&mut self) -> Result<(), Error> {
        self.staging()?.publish()
    }
}

/// The schema of what is in files, for a stream of `schema`.
fn without(schema: &SchemaRef, columns: &[usize]) -> (SchemaRef, Vec<usize>) {
    let kept: Vec<usize> = (0..schema.fields().len()).filter(|at| !columns.contains(at)).collect();
    let fields: Vec<_> = kept.iter().map(|&at| Arc::clone(&schema.fields()[at])).collect();
    (Arc::new(arrow::datatypes::Schema::new(fields)), kept)
}
