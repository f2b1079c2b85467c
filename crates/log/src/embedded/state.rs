//! State tables: a keyspace each, read through snapshots of the store.

use std::sync::Arc;

use bytes::Bytes;
use fjall::{AbstractTree, Guard, Readable};

use crate::embedded::Shared;
use crate::embedded::layout::state_key;
use crate::embedded::topics::OpenTable;
use crate::error::Result;
use crate::{Entries, StateTable};

#[derive(Debug)]
pub(super) struct EmbeddedTable {
    pub shared: Arc<Shared>,
    pub table: Arc<OpenTable>,
}

impl EmbeddedTable {
    fn walk(&self, entries: fjall::Iter) -> Entries {
        let shared = self.shared.clone();
        Box::new(entries.map(move |guard: Guard| {
            let (key, value) = guard.into_inner().map_err(|error| shared.store.error(error))?;
            Ok((Bytes::copy_from_slice(&key[1..]), Bytes::copy_from_slice(&value)))
        }))
    }
}

impl StateTable for EmbeddedTable {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        let snapshot = self.shared.store.database.snapshot();
        let value = snapshot.get(&self.table.keyspace, state_key(key));
        let value = value.map_err(|error| self.shared.store.error(error))?;
        Ok(value.map(|value| Bytes::copy_from_slice(&value)))
    }

    fn get_many(&self, keys: &[Bytes]) -> Result<Vec<Option<Bytes>>> {
        let snapshot = self.shared.store.database.snapshot();
        let get = |key: &Bytes| {
            let value = snapshot.get(&self.table.keyspace, state_key(key));
            let value = value.map_err(|error| self.shared.store.error(error))?;
            Ok(value.map(|value| Bytes::copy_from_slice(&value)))
        };
        keys.iter().map(get).collect()
    }

    fn scan(&self, prefix: &[u8]) -> Entries {
        let snapshot = self.shared.store.database.snapshot();
        self.walk(snapshot.prefix(&self.table.keyspace, state_key(prefix)))
    }

    fn scan_from(&self, from: &[u8]) -> Entries {
        let snapshot = self.shared.store.database.snapshot();
        self.walk(snapshot.range(&self.table.keyspace, state_key(from)..))
    }

    fn bytes_used(&self) -> u64 {
        self.table.keyspace.disk_space() + self.table.keyspace.tree.active_memtable().size()
    }

    fn entries(&self) -> u64 {
        self.table.keyspace.approximate_len() as u64
    }
}
