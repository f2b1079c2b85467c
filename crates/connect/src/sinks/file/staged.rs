//! Files that nobody sees yet, and how they come to be seen.
//!
//! They are in the hidden folder `.{sink}-{id}` of the sink's, as `{partition}-{offset of the first row}`. A promise is such a name with
//! the path that the file will have. To keep it, the file is moved there. A promised file that is no longer in the hidden folder has been
//! moved before; any other that is still there when the sink begins was not promised, and its rows come again: it is removed.
//!
//! A promise is known until the next one is, long after it was kept. So no file that is begun after it may have its name: the offsets do
//! that, since what is promised is never read again.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use headwater_event::offset::Offset;

use crate::sink::Promise;
use crate::sinks::file::format::{Format, Writer};
use crate::source::Error;

pub(super) struct Staging {
    /// The sink's folder.
    root: PathBuf,
    folder: PathBuf,
    name: String,
    /// Whether the folder has been made.
    is_made: bool,
    /// Finished files, with the path within the root that each gets.
    finished: Vec<(String, String)>,
}

/// A file that is being written.
pub(super) struct Staged {
    name: String,
    partition: u32,
    first: Offset,
    path: PathBuf,
    writer: Writer<Appending>,
    bytes: Arc<AtomicU64>,
}

/// Opens its file for each piece, so that any number of files can be in the making.
struct Appending {
    path: PathBuf,
    bytes: Arc<AtomicU64>,
}

impl Staging {
    /// Keeps what was promised, and removes what was not.
    pub(super) fn open(root: &Path, name: &str, promise: &Promise) -> Result<Self, Error> {
        let folder = root.join(format!(".{name}"));
        let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
        let mut staging = Self {
            root: root.to_owned(),
            folder,
            name: name.to_owned(),
            is_made: false,
            finished: promise.iter().map(|(name, path)| (text(name), text(path))).collect(),
        };
        staging.publish()?;
        match fs::remove_dir_all(&staging.folder) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(&staging.folder)(error)),
            _ => Ok(staging),
        }
    }

    /// Begins a file whose first row has this offset.
    pub(super) fn begin(
        &mut self,
        partition: u32,
        first: Offset,
        format: Format,
        schema: &SchemaRef,
    ) -> Result<Staged, Error> {
        if !self.is_made {
            make_folder(&self.folder)?;
            self.is_made = true;
        }
        let name = format!("{partition}-{first}");
        let path = self.folder.join(&name);
        let bytes = Arc::new(AtomicU64::new(0));
        let appending = Appending {
            path: path.clone(),
            bytes: Arc::clone(&bytes),
        };
        Ok(Staged {
            writer: Writer::new(format, schema, appending).map_err(about(&path))?,
            name,
            partition,
            first,
            path,
            bytes,
        })
    }

    /// Completes the file, durably.
    pub(super) fn finish(&mut self, staged: Staged, folder: &str, ends: &str) -> Result<(), Error> {
        staged.writer.finish().map_err(about(&staged.path))?;
        let file = fs::File::open(&staged.path).map_err(failed(&staged.path))?;
        file.sync_all().map_err(failed(&staged.path))?;
        let name = format!("{}-{}-{:012}.{ends}", self.name, staged.partition, staged.first);
        let path = match folder {
            "" => name,
            folder => format!("{folder}/{name}"),
        };
        self.finished.push((staged.name, path));
        Ok(())
    }

    /// What there is to publish, durable in the hidden folder.
    pub(super) fn promise(&self) -> Result<Promise, Error> {
        if !self.finished.is_empty() {
            sync_folder(&self.folder)?;
        }
        let entry = |(name, path): &(String, String)| (Bytes::from(name.clone()), Bytes::from(path.clone()));
        Ok(self.finished.iter().map(entry).collect())
    }

    /// Moves the finished files to where they belong, as far as that has not been done.
    pub(super) fn publish(&mut self) -> Result<(), Error> {
        let mut folders = BTreeSet::new();
        for (name, path) in &self.finished {
            let (from, to) = (self.folder.join(name), self.root.join(path));
            let folder = to.parent().unwrap_or(&self.root).to_owned();
            if there(&from)? {
                if there(&to)? {
                    return Err(Error::outside(format!(
                        "there is a file {} already, which this sink has not written; move it away",
                        to.display()
                    )));
                }
                make_folder(&folder)?;
                fs::rename(&from, &to).map_err(failed(&to))?;
            }
            folders.insert(folder);
        }
        // Before the promise is forgotten it has to be certain that it is kept. A folder that is gone was removed with its files.
        for folder in folders {
            if there(&folder)? {
                sync_folder(&folder)?;
            }
        }
        self.finished.clear();
        Ok(())
    }
}

impl Staged {
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    pub(super) fn add(&mut self, rows: &[RecordBatch]) -> Result<(), Error> {
        self.writer.add(rows).map_err(about(&self.path))
    }
}

impl Write for Appending {
    fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
        let mut file = OpenOptions::new().create(true).append(true).open(&self.path)?;
        let written = file.write(piece)?;
        self.bytes.fetch_add(written as u64, Ordering::Relaxed);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Makes the folder with all that are above it, durably.
fn make_folder(folder: &Path) -> Result<(), Error> {
    if folder.is_dir() || folder.as_os_str().is_empty() {
        return Ok(());
    }
    let above = folder.parent().unwrap_or(Path::new(""));
    make_folder(above)?;
    match fs::create_dir(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed(folder)(error)),
        _ => {}
    }
    let above = if above.as_os_str().is_empty() {
        Path::new(".")
    } else {
        above
    };
    sync_folder(above)
}

fn sync_folder(folder: &Path) -> Result<(), Error> {
    let opened = fs::File::open(folder).map_err(failed(folder))?;
    opened.sync_all().map_err(failed(folder))
}

fn there(path: &Path) -> Result<bool, Error> {
    match fs::symlink_metadata(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(failed(path)(error)),
    }
}

fn failed(path: &Path) -> impl Fn(io::Error) -> Error + '_ {
    move |error| Error::outside(format!("{}: {error}", path.display()))
}

/// Says which file an error is about.
fn about(path: &Path) -> impl Fn(Error) -> Error + '_ {
    move |error| match error {
        Error::Outside(what) => Error::outside(format!("{}: {what}", path.display())),
        other => other,
    }
}
