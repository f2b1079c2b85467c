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
    content: RwLock<Content>,
}

#[derive(Debug, Default)]
struct Content {
    entries: Arc<BTreeMap<Bytes, Bytes>>,
    /// Of all keys and values.
    bytes: u64,
}

/// Walks over a map that it shares with the table.
struct Walk {
    entries: Arc<BTreeMap<Bytes, Bytes>>,
    after: Bound<Bytes>,
    prefix: Bytes,
}

impl MemoryTable {
    pub fn apply(&self, writes: &[(Bytes, Option<Bytes>)]) {
        let mut content = self.content.write();
        let Content { entries, bytes } = &mut *content;
        let entries = Arc::make_mut(entries);
        for (key, value) in writes {
            let size = |value: &Bytes| (key.len() + value.len()) as u64;
            let before = match value {
                Some(value) => {
                    *bytes += size(value);
                    entries.insert(key.clone(), value.clone())
                }
                None => entries.remove(key),
            };
            *bytes -= before.as_ref().map_or(0, size);
        }
    }

    fn walk(&self, from: &[u8], prefix: &[u8]) -> Entries {
        Box::new(Walk {
            entries: Arc::clone(&self.content.read().entries),
            after: Bound::Included(Bytes::copy_from_slice(from)),
            prefix: Bytes::copy_from_slice(prefix),
        })
    }
}

impl StateTable for MemoryTable {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        Ok(self.content.read().entries.get(key).cloned())
    }

    fn get_many(&self, keys: &[Bytes]) -> Result<Vec<Option<Bytes>>> {
        let content = self.content.read();
        Ok(keys.iter().map(|key| content.entries.get(key).cloned()).collect())
    }

    fn scan(&self, prefix: &[u8]) -> Entries {
        self.walk(prefix, prefix)
    }

    fn scan_from(&self, from: &[u8]) -> Entries {
        self.walk(from, &[])
    }

    fn bytes_used(&self) -> u64 {
        self.content.read().bytes
    }

    fn entries(&self) -> u64 {
        self.content.read().entries.len() as u64
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_those_of_what_is_there() {
        let table = MemoryTable::default();
        let entry = |key: &'static str, value: Option<&'static str>| (Bytes::from(key), value.map(Bytes::from));
        table.apply(&[entry("one", Some("12345")), entry("two", Some("1"))]);
        assert_eq!((table.bytes_used(), table.entries()), (12, 2));
        table.apply(&[entry("one", Some("1")), entry("two", None), entry("three", None)]);
        assert_eq!((table.bytes_used(), table.entries()), (4, 1));
    }
}
