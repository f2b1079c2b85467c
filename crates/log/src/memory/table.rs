//! A state table in memory. A scan holds the map as it was; a write that comes meanwhile copies
//! it, which is fine for the sizes that live here.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::RwLock;

use crate::error::Result;
use crate::{Entries, StateTable};

#[derive(Debug, Default)]
pub(super) struct MemoryTable {
    entries: RwLock<Arc<BTreeMap<Bytes, Bytes>>>,
}

/// Walks over a map that it shares with the table.
struct Walk {
    entries: Arc<BTreeMap<Bytes, Bytes>>,
    after: Bound<Bytes>,
    prefix: Bytes,
}

impl MemoryTable {
    pub fn apply(&self, writes: &[(Bytes, Option<Bytes>)]) {
        let mut entries = self.entries.write();
        let entries = Arc::make_mut(&mut entries);
        for (key, value) in writes {
            match value {
                Some(value) => entries.insert(key.clone(), value.clone()),
                None => entries.remove(key),
            };
        }
    }

    fn walk(&self, from: &[u8], prefix: &[u8]) -> Entries {
        Box::new(Walk {
            entries: self.entries.read().clone(),
            after: Bound::Included(Bytes::copy_from_slice(from)),
            prefix: Bytes::copy_from_slice(prefix),
        })
    }
}

impl StateTable for MemoryTable {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        Ok(self.entries.read().get(key).cloned())
    }

    fn get_many(&self, keys: &[Bytes]) -> Result<Vec<Option<Bytes>>> {
        let entries = self.entries.read();
        Ok(keys.iter().map(|key| entries.get(key).cloned()).collect())
    }

    fn scan(&self, prefix: &[u8]) -> Entries {
        self.walk(prefix, prefix)
    }

    fn scan_from(&self, from: &[u8]) -> Entries {
        self.walk(from, &[])
    }

    fn bytes_used(&self) -> u64 {
        self.entries
            .read()
            .iter()
            .map(|(key, value)| (key.len() + value.len()) as u64)
            .sum()
    }

    fn entries(&self) -> u64 {
        self.entries.read().len() as u64
    }
}

impl Iterator for Walk {
    type Item = Result<(Bytes, Bytes)>;

    fn next(&mut self) -> Option<Self::Item> {
        let (key, value) = self.entries.range((self.after.clone(), Bound::Unbounded)).next()?;
        if !key.starts_with(&self.prefix) {
            return None;
        }
        self.after = Bound::Excluded(key.clone());
        Some(Ok((key.clone(), value.clone())))
    }
}
