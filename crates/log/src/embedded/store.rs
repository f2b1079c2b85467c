//! The store under the log: one fjall database, its keyspaces with their settings, and what its
//! errors mean.

use std::path::{Path, PathBuf};

use fjall::config::{BlockSizePolicy, CompressionPolicy};
use fjall::{
    AbstractTree, CompressionType, Database, Guard, Keyspace, KeyspaceCreateOptions, OwnedWriteBatch, PersistMode,
};

use crate::embedded::layout::{self, Entry};
use crate::embedded::options::EmbeddedOptions;
use crate::embedded::topics::Stored;
use crate::error::{Error, Result};

/// The journals may grow to this, or to some write buffers, whichever is more.
const JOURNAL_BYTES_MIN: u64 = 256 << 20;

/// A block is what damage to one byte costs: small, so that a batch of some size has its own.
const BATCH_BLOCK_BYTES: u32 = 4 << 10;

pub(super) struct Store {
    pub database: Database,
    pub meta: Keyspace,
    folder: PathBuf,
    write_buffer_bytes: u64,
}

impl Store {
    pub fn open(folder: PathBuf, options: &EmbeddedOptions) -> Result<Self> {
        Self::try_open(&folder, options).map_err(|error| describe(&folder, error))
    }

    fn try_open(folder: &Path, options: &EmbeddedOptions) -> Result<Self, fjall::Error> {
        let database = Database::builder(folder)
            .cache_size(options.cache_bytes)
            .manual_journal_persist(true)
            // Batches are compressed already, by column.
            .journal_compression(CompressionType::None)
            .max_journaling_size(JOURNAL_BYTES_MIN.max(options.write_buffer_bytes * 4))
            .open()?;
        let memtable_bytes = memtable_bytes(options.write_buffer_bytes);
        let meta = database.keyspace(layout::META, || small_values(memtable_bytes))?;
        Ok(Self {
            database,
            meta,
            folder: folder.to_owned(),
            write_buffer_bytes: options.write_buffer_bytes,
        })
    }

    pub fn topic_keyspaces(&self, number: u64) -> Result<Stored> {
        let memtable_bytes = memtable_bytes(self.write_buffer_bytes);
        let batches = || {
            small_values(memtable_bytes)
                .data_block_size_policy(BlockSizePolicy::all(BATCH_BLOCK_BYTES))
                .data_block_compression_policy(CompressionPolicy::disabled())
        };
        Ok(Stored {
            batches: self.keyspace(&format!("t{number}"), batches)?,
            index: self.keyspace(&format!("i{number}"), || small_values(memtable_bytes))?,
        })
    }

    pub fn table_keyspace(&self, number: u64) -> Result<Keyspace> {
        let memtable_bytes = memtable_bytes(self.write_buffer_bytes);
        self.keyspace(&format!("s{number}"), || small_values(memtable_bytes))
    }

    fn keyspace(&self, name: &str, options: impl FnOnce() -> KeyspaceCreateOptions) -> Result<Keyspace> {
        self.database.keyspace(name, options).map_err(|error| self.error(error))
    }

    pub fn delete_keyspace(&self, keyspace: Keyspace) -> Result<()> {
        self.database
            .delete_keyspace(keyspace)
            .map_err(|error| self.error(error))
    }

    /// A batch that is durable when its commit returns, and only then becomes visible.
    pub fn batch(&self) -> OwnedWriteBatch {
        self.database.batch().durability(Some(PersistMode::SyncData))
    }

    pub fn commit(&self, batch: OwnedWriteBatch) -> Result<()> {
        batch.commit().map_err(|error| self.error(error))
    }

    /// Sends the largest memtables to disk while they are above half of the write buffer, so that
    /// the other half has room for what is on its way to the disk.
    pub fn bound_memory(&self) -> Result<()> {
        while self.database.write_buffer_size() > self.write_buffer_bytes / 2 {
            let names = self.database.list_keyspace_names();
            let sized = names.iter().filter_map(|name| self.existing(name)).map(|keyspace| {
                let bytes = keyspace.tree.active_memtable().size();
                (bytes, keyspace)
            });
            let sized: Vec<_> = sized.collect();
            let active_bytes: u64 = sized.iter().map(|(bytes, _)| bytes).sum();
            let largest = sized.into_iter().max_by_key(|(bytes, _)| *bytes);
            match largest {
                Some((bytes, keyspace)) if bytes > 0 && active_bytes > self.write_buffer_bytes / 2 => {
                    keyspace.rotate_memtable().map_err(|error| self.error(error))?;
                }
                _ => break,
            }
        }
        self.wait_for_room()
    }

    /// Flushing is behind: whoever appends waits.
    fn wait_for_room(&self) -> Result<()> {
        while self.database.write_buffer_size() > self.write_buffer_bytes && self.database.outstanding_flushes() > 0 {
            // Fails once the store's own threads have failed, so this can't wait for ever.
            self.database
                .persist(PersistMode::Buffer)
                .map_err(|error| self.error(error))?;
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        Ok(())
    }

    fn existing(&self, name: &str) -> Option<Keyspace> {
        // Deleted since it was listed: must not be created again.
        self.database
            .keyspace_exists(name)
            .then(|| self.keyspace(name, KeyspaceCreateOptions::default).ok())?
    }

    /// The base offset and the entry of a batch, from the index.
    pub fn index_entry(&self, guard: Guard) -> Result<(u64, Entry)> {
        let (key, value) = guard.into_inner().map_err(|error| self.error(error))?;
        Ok((layout::base_of(&key), Entry::from_bytes(&value)?))
    }

    pub fn error(&self, error: fjall::Error) -> Error {
        describe(&self.folder, error)
    }

    pub fn memory_used(&self) -> u64 {
        self.database.write_buffer_size() + self.database.cache_size()
    }

    /// What lies on the disk, without what is reserved but not written.
    pub fn disk_used(&self) -> u64 {
        super::directory::disk_bytes(&self.folder)
    }
}

fn describe(folder: &Path, error: fjall::Error) -> Error {
    match error {
        fjall::Error::Io(source) | fjall::Error::Storage(fjall::LsmError::Io(source)) => Error::Io {
            path: folder.to_owned(),
            source,
        },
        fjall::Error::Storage(error) => Error::DamagedFile {
            file: folder.join("keyspaces"),
            what: format!("{error:?}"),
        },
        fjall::Error::InvalidVersion(found) => Error::DamagedFile {
            file: folder.join("version"),
            what: format!("the store's version is {found:?}"),
        },
        fjall::Error::Poisoned => {
            Error::Storage("writing to the disk has failed; nothing more is written until a restart".to_owned())
        }
        error => Error::Storage(format!("{}: {error:?}", folder.display())),
    }
}

pub(super) fn is_damage(error: &fjall::LsmError) -> bool {
    !matches!(error, fjall::LsmError::Io(_))
}

fn memtable_bytes(write_buffer_bytes: u64) -> u64 {
    (write_buffer_bytes / 4).clamp(64 << 10, 64 << 20)
}

fn small_values(memtable_bytes: u64) -> KeyspaceCreateOptions {
    KeyspaceCreateOptions::default()
        .max_memtable_size(memtable_bytes)
        .manual_journal_persist(true)
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store")
            .field("folder", &self.folder)
            .finish_non_exhaustive()
    }
}
