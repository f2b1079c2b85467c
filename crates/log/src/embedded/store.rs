//! The store under the log: one fjall database, its keyspaces with their settings, and what its
//! errors mean.

use std::path::{Path, PathBuf};

use fjall::config::{BlockSizePolicy, CompressionPolicy, PinningPolicy};
use fjall::{
    AbstractTree, CompressionType, Database, Guard, Keyspace, KeyspaceCreateOptions, OwnedWriteBatch, PersistMode,
    Readable,
};

use parking_lot::Mutex;

use crate::embedded::layout::{self, Entry};
use crate::embedded::options::EmbeddedOptions;
use crate::embedded::topics::Stored;
use crate::error::{Error, Result};

/// The journals may grow to this, or to some memtables, whichever is more. A restart reads them entry by entry, at
/// half a million a second.
const JOURNAL_BYTES_MIN: u64 = 64 << 20;
const JOURNAL_MEMTABLES: u64 = 2;

/// Of several workers of the store, one looks for memtables to flush all the time while another compacts, and takes a
/// core for that.
const WORKERS: usize = 1;

/// More than this makes a restart slower, and writing hardly faster.
const MEMTABLES_BYTES_MAX: u64 = 64 << 20;
const MEMTABLES_BYTES_MIN: u64 = 64 << 10;

/// Memtables are looked at so often while they fill up.
const LOOKS: u64 = 8;

/// What an entry takes in a memtable, in percent of what the store reckons: nodes, their towers, and what the
/// allocator rounds up.
const MEMTABLE_PERCENT: u64 = 150;

/// A block is what damage to one byte costs: small, so that a batch of some size has its own.
const BATCH_BLOCK_BYTES: u32 = 4 << 10;

pub(super) struct Store {
    pub database: Database,
    pub meta: Keyspace,
    folder: PathBuf,
    /// What a commit waits for.
    durability: PersistMode,
    /// What all memtables that are written to may take together.
    memtables_bytes: u64,
    memtables: Mutex<Memtables>,
}

/// What is known of memtables, to bound what they take.
///
/// There are those that are written to, those on their way to the disk, and those that are there: the store lets
/// these go only when it sends the next one, because a reader may still look at them. So what is there is up to
/// three times what is written to, and that is what is bounded.
#[derive(Default)]
struct Memtables {
    /// What the store reckoned when they were last looked at.
    looked_at: u64,
    /// On their way to the disk, with their size.
    sent: Vec<(u64, Keyspace)>,
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
            .worker_threads(WORKERS)
            .max_journaling_size(JOURNAL_BYTES_MIN.max(memtables_bytes(options.write_buffer_bytes) * JOURNAL_MEMTABLES))
            .open()?;
        let memtables_bytes = memtables_bytes(options.write_buffer_bytes);
        let meta = database.keyspace(layout::META, || small_values(memtables_bytes))?;
        Ok(Self {
            database,
            meta,
            folder: folder.to_owned(),
            durability: match options.expendable {
                true => PersistMode::Buffer,
                false => PersistMode::SyncData,
            },
            memtables_bytes,
            memtables: Mutex::default(),
        })
    }

    pub fn topic_keyspaces(&self, number: u64) -> Result<Stored> {
        let memtables_bytes = self.memtables_bytes;
        let batches = || {
            small_values(memtables_bytes)
                .data_block_size_policy(BlockSizePolicy::all(BATCH_BLOCK_BYTES))
                .data_block_compression_policy(CompressionPolicy::disabled())
        };
        Ok(Stored {
            batches: self.keyspace(&format!("t{number}"), batches)?,
            index: self.keyspace(&format!("i{number}"), || small_values(memtables_bytes))?,
        })
    }

    pub fn table_keyspace(&self, number: u64) -> Result<Keyspace> {
        self.keyspace(&format!("s{number}"), || small_values(self.memtables_bytes))
    }

    /// The names of all state tables.
    pub fn table_names(&self) -> Result<Vec<String>> {
        let prefix = layout::state_table_key("");
        let tables = self.database.snapshot().prefix(&self.meta, &prefix);
        let name = |guard: Guard| {
            let (key, _) = guard.into_inner().map_err(|error| self.error(error))?;
            Ok(String::from_utf8_lossy(&key[prefix.len()..]).into_owned())
        };
        tables.map(name).collect()
    }

    fn keyspace(&self, name: &str, options: impl FnOnce() -> KeyspaceCreateOptions) -> Result<Keyspace> {
        self.database.keyspace(name, options).map_err(|error| self.error(error))
    }

    pub fn delete_keyspace(&self, keyspace: Keyspace) -> Result<()> {
        self.database
            .delete_keyspace(keyspace)
            .map_err(|error| self.error(error))
    }

    /// A batch that is durable when its commit returns, and only then becomes visible. In a log that is expendable, the operating system has it.
    pub fn batch(&self) -> OwnedWriteBatch {
        self.database.batch().durability(Some(self.durability))
    }

    /// Everything that was committed is durable when this returns.
    pub fn sync(&self) -> Result<()> {
        self.database
            .persist(PersistMode::SyncAll)
            .map_err(|error| self.error(error))
    }

    pub fn commit(&self, batch: OwnedWriteBatch) -> Result<()> {
        batch.commit().map_err(|error| self.error(error))
    }

    /// Sends the largest memtables to the disk while all that are written to are too large together, once those
    /// that were sent before are nearly there. Whoever appends waits for that.
    pub fn bound_memory(&self) -> Result<()> {
        let mut memtables = self.memtables.lock();
        let reckoned = self.database.write_buffer_size();
        memtables.looked_at = memtables.looked_at.min(reckoned);
        if reckoned - memtables.looked_at < self.memtables_bytes / LOOKS {
            return Ok(());
        }
        loop {
            let active = self.active_memtables();
            let total: u64 = active.iter().map(|(bytes, _)| bytes).sum();
            let Some((bytes, largest)) = active.into_iter().max_by_key(|(bytes, _)| *bytes) else {
                break;
            };
            if total <= self.memtables_bytes || bytes == 0 {
                break;
            }
            self.wait_for_flushes(&mut memtables.sent)?;
            largest.rotate_memtable().map_err(|error| self.error(error))?;
            memtables.sent.push((bytes, largest));
        }
        memtables.looked_at = self.database.write_buffer_size();
        Ok(())
    }

    fn active_memtables(&self) -> Vec<(u64, Keyspace)> {
        let keyspaces = self.database.supervisor.keyspaces.read();
        // Poisoned means no more than that a thread of the store panicked while it held the list.
        let keyspaces = keyspaces.unwrap_or_else(std::sync::PoisonError::into_inner);
        let sized = |keyspace: &Keyspace| (keyspace.tree.active_memtable().size(), keyspace.clone());
        keyspaces.values().map(sized).collect()
    }

    /// Waits until little of what was sent is still on its way.
    fn wait_for_flushes(&self, sent: &mut Vec<(u64, Keyspace)>) -> Result<()> {
        loop {
            sent.retain(|(_, keyspace)| keyspace.tree.sealed_memtable_count() > 0);
            if sent.iter().map(|(bytes, _)| bytes).sum::<u64>() <= self.memtables_bytes / 2 {
                return Ok(());
            }
            // Fails once the store's own threads have failed, so this can't go on for ever.
            self.database
                .persist(PersistMode::Buffer)
                .map_err(|error| self.error(error))?;
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
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

fn memtables_bytes(write_buffer_bytes: u64) -> u64 {
    (write_buffer_bytes * 100 / MEMTABLE_PERCENT / 3).clamp(MEMTABLES_BYTES_MIN, MEMTABLES_BYTES_MAX)
}

fn small_values(memtable_bytes: u64) -> KeyspaceCreateOptions {
    KeyspaceCreateOptions::default()
        .max_memtable_size(memtable_bytes)
        // In the cache like all blocks, so that what they take is bounded.
        .index_block_pinning_policy(PinningPolicy::disabled())
        .manual_journal_persist(true)
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store")
            .field("folder", &self.folder)
            .finish_non_exhaustive()
    }
}
