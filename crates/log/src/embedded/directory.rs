//! The data directory: who holds it, and in which format it is.
//!
//! ```text
//! <directory>/lock     locked while a process has the log open
//! <directory>/format   the version of everything below, as decimal text
//! <directory>/closed   how long the journals were when the log was closed; not there while it is open
//! <directory>/boot     since when the machine had been up when an expendable log was opened
//! <directory>/log/     the store
//! ```

use std::fs::{File, OpenOptions, TryLockError};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::embedded::journal;
use crate::error::{Error, Result};

/// The format that this version writes, and the newest that it reads.
pub const FORMAT: u32 = 1;

const LOCK_FILE: &str = "lock";
const FORMAT_FILE: &str = "format";
const CLOSED_FILE: &str = "closed";
const BOOT_FILE: &str = "boot";
const STORE_FOLDER: &str = "log";

/// Another text after each start of the machine.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// A data directory that is ours until this is dropped.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    _lock: File,
}

impl Directory {
    /// Creates the directory where it isn't there, locks it, and checks its format.
    pub fn open(path: &Path) -> Result<Self> {
        let directory = Self::lock(path)?;
        directory.check_format()?;
        Ok(directory)
    }

    /// Removes all that a log has left there.
    pub fn wipe(path: &Path) -> Result<()> {
        let directory = Self::lock(path)?;
        let there = |error: &std::io::Error| error.kind() != std::io::ErrorKind::NotFound;
        let removed = [FORMAT_FILE, CLOSED_FILE, BOOT_FILE].map(|file| std::fs::remove_file(path.join(file)));
        let store = std::fs::remove_dir_all(directory.store_folder());
        match removed.into_iter().chain([store]).filter_map(Result::err).find(there) {
            Some(source) => Err(io(path, source)),
            None => Ok(()),
        }
    }

    fn lock(path: &Path) -> Result<Self> {
        std::fs::create_dir_all(path).map_err(|source| io(path, source))?;
        let lock_path = path.join(LOCK_FILE);
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock_path);
        let lock = lock.map_err(|source| io(&lock_path, source))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(Error::InUse {
                    directory: path.to_owned(),
                });
            }
            Err(TryLockError::Error(source)) => return Err(io(&lock_path, source)),
        }
        Ok(Self {
            path: path.to_owned(),
            _lock: lock,
        })
    }

    pub fn store_folder(&self) -> PathBuf {
        self.path.join(STORE_FOLDER)
    }

    /// For a log that isn't synced, before all else: what of it is on the disk fits together only if it was closed, or if the
    /// machine has been up since it was opened.
    pub fn check_boot(&self) -> Result<()> {
        let path = self.path.join(BOOT_FILE);
        let boot = std::fs::read(BOOT_ID).unwrap_or_default();
        let same = !boot.is_empty() && std::fs::read(&path).is_ok_and(|opened| opened == boot);
        let store = self.store_folder();
        if !same && store.exists() && !self.path.join(CLOSED_FILE).exists() {
            return Err(Error::DamagedFile {
                file: store,
                what: "the machine went down while it was open, and it isn't synced".to_owned(),
            });
        }
        // Whatever a crash leaves of it isn't what the machine calls its next start.
        std::fs::write(&path, boot).map_err(|source| io(&path, source))
    }

    /// Has to come before the store is opened.
    pub fn check_journals(&self) -> Result<()> {
        journal::check(&self.store_folder(), &self.path.join(CLOSED_FILE))
    }

    /// Has to come after the last write.
    pub fn note_closed(&self) {
        let noted = journal::note_lengths(&self.store_folder(), &self.path.join(CLOSED_FILE));
        if let Err(error) = noted {
            tracing::warn!(directory = %self.path.display(), %error, "the lengths of the journals can't be noted");
        }
    }

    fn check_format(&self) -> Result<()> {
        let path = self.path.join(FORMAT_FILE);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return self.write_format(&path),
            Err(source) => return Err(io(&path, source)),
        };
        let found: u32 = text.trim().parse().map_err(|_| Error::DamagedFile {
            file: path.clone(),
            what: format!("it holds {:?} instead of the version of the format", text.trim()),
        })?;
        if found > FORMAT {
            return Err(Error::NewerFormat {
                directory: self.path.clone(),
                found,
                known: FORMAT,
            });
        }
        Ok(())
    }

    fn write_format(&self, path: &Path) -> Result<()> {
        if self.store_folder().join("version").exists() {
            return Err(Error::DamagedFile {
                file: path.to_owned(),
                what: "it is missing, but there is data beside it".to_owned(),
            });
        }
        // Under another name first: a crash must not leave half a file.
        let written = path.with_extension("new");
        let write = || {
            let mut file = File::create(&written)?;
            writeln!(file, "{FORMAT}")?;
            file.sync_all()?;
            std::fs::rename(&written, path)?;
            File::open(&self.path)?.sync_all()
        };
        write().map_err(|source| io(path, source))
    }
}

/// The bytes that the files of a folder take on the disk. What can't be read counts nothing.
pub(super) fn disk_bytes(folder: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return 0;
    };
    let bytes = entries.flatten().map(|entry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => disk_bytes(&entry.path()),
        Ok(metadata) => metadata.blocks() * 512,
        Err(_) => 0,
    });
    bytes.sum()
}

fn io(path: &Path, source: std::io::Error) -> Error {
    Error::Io {
        path: path.to_owned(),
        source,
    }
}
