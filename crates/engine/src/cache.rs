//! Bounded caches of state entries.
//!
//! A cache has two generations, the older of which is dropped as a whole. An entry that is used
//! lives in the younger generation. When that one has taken half of the room, it becomes the older
//! one. So what was not used for a generation goes, and keeping order costs nothing.
//!
//! Keys and values are copied into chunks of bytes: an entry is no allocation of its own, and keeps
//! nothing else in memory.
//!
//! As long as nothing has gone from the cache of a table that was empty, what it doesn't have isn't there.
//!
//! All caches of an engine share one [`headwater_event::room::Room`].

use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashTable};
use headwater_event::room::Share;

/// Longer entries have a chunk of their own.
const CHUNK_BYTES: usize = 16 << 10;

pub struct Cache {
    hasher: DefaultHashBuilder,
    young: Generation,
    old: Generation,
    share: Share,
    is_complete: bool,
}

#[derive(Default)]
struct Generation {
    entries: HashTable<Entry>,
    chunks: Vec<Vec<u8>>,
    chunk_bytes: usize,
}

/// Where a key lies, with its value behind it.
struct Entry {
    chunk: u32,
    start: u32,
    key_bytes: u32,
    value_bytes: u32,
}

impl Cache {
    /// `is_complete` says that there is nothing to be cached yet.
    pub fn new(share: Share, is_complete: bool) -> Self {
        Self {
            hasher: DefaultHashBuilder::default(),
            young: Generation::default(),
            old: Generation::default(),
            share,
            is_complete,
        }
    }

    /// Whether everything that was ever put here and not removed is here.
    pub fn is_complete(&self) -> bool {
        self.is_complete
    }

    pub fn get(&mut self, key: &[u8]) -> Option<&[u8]> {
        let hash = self.hasher.hash_one(key);
        if self.young.find(hash, key).is_none() {
            let value = self.old.find(hash, key)?;
            self.young.put(&self.hasher, hash, key, value);
        }
        // It is there, or has just been put there.
        self.young.find(hash, key)
    }

    pub fn remove(&mut self, key: &[u8]) {
        let hash = self.hasher.hash_one(key);
        self.young.remove(hash, key);
        self.old.remove(hash, key);
    }

    /// The memory that it takes.
    pub fn bytes(&self) -> usize {
        self.young.bytes() + self.old.bytes()
    }

    pub fn put(&mut self, key: &[u8], value: &[u8]) {
        if self.young.bytes() > self.share.bytes_max() / 2 {
            self.is_complete &= self.old.entries.is_empty();
            self.old = std::mem::take(&mut self.young);
        }
        let hash = self.hasher.hash_one(key);
        self.young.put(&self.hasher, hash, key, value);
    }
}

impl Generation {
    fn bytes(&self) -> usize {
        self.chunk_bytes + self.entries.allocation_size()
    }

    fn find(&self, hash: u64, key: &[u8]) -> Option<&[u8]> {
        let entry = self.entries.find(hash, |entry| entry.key(&self.chunks) == key)?;
        Some(entry.value(&self.chunks))
    }

    /// What it took of its chunk stays taken until the generation goes.
    fn remove(&mut self, hash: u64, key: &[u8]) {
        let Self { entries, chunks, .. } = self;
        if let Ok(known) = entries.find_entry(hash, |entry| entry.key(chunks) == key) {
            known.remove();
        }
    }

    fn put(&mut self, hasher: &DefaultHashBuilder, hash: u64, key: &[u8], value: &[u8]) {
        let Self {
            entries,
            chunks,
            chunk_bytes,
        } = self;
        let known = entries.find_mut(hash, |entry| entry.key(chunks) == key);
        if let Some(known) = known {
            // States are mostly as long as before.
            if known.value_bytes as usize == value.len() {
                known.value_mut(chunks).copy_from_slice(value);
            } else {
                *known = append(chunks, chunk_bytes, key, value);
            }
            return;
        }
        let entry = append(chunks, chunk_bytes, key, value);
        entries.insert_unique(hash, entry, |entry| hasher.hash_one(entry.key(chunks)));
    }
}

/// Writes a key and its value behind each other. The log's limits on their lengths are far below what a number holds.
fn append(chunks: &mut Vec<Vec<u8>>, chunk_bytes: &mut usize, key: &[u8], value: &[u8]) -> Entry {
    let bytes = key.len() + value.len();
    let has_room = |chunk: &Vec<u8>| chunk.capacity() - chunk.len() >= bytes;
    if !chunks.last().is_some_and(has_room) {
        chunks.push(Vec::with_capacity(bytes.max(CHUNK_BYTES)));
    }
    *chunk_bytes += bytes;
    let chunk = chunks.len() - 1;
    let written = &mut chunks[chunk];
    let start = written.len();
    written.extend_from_slice(key);
    written.extend_from_slice(value);
    Entry {
        chunk: chunk as u32,
        start: start as u32,
        key_bytes: key.len() as u32,
        value_bytes: value.len() as u32,
    }
}

impl Entry {
    fn key<'a>(&self, chunks: &'a [Vec<u8>]) -> &'a [u8] {
        let start = self.start as usize;
        &chunks[self.chunk as usize][start..start + self.key_bytes as usize]
    }

    fn value<'a>(&self, chunks: &'a [Vec<u8>]) -> &'a [u8] {
        let start = (self.start + self.key_bytes) as usize;
        &chunks[self.chunk as usize][start..start + self.value_bytes as usize]
    }

    fn value_mut<'a>(&self, chunks: &'a mut [Vec<u8>]) -> &'a mut [u8] {
        let start = (self.start + self.key_bytes) as usize;
        &mut chunks[self.chunk as usize][start..start + self.value_bytes as usize]
    }
}

#[cfg(test)]
mod tests {
    use headwater_event::room::Room;

    use super::*;

    #[test]
    fn what_is_used_stays() {
        let room = Room::new(4_000);
        let mut cache = Cache::new(room.share(), true);
        cache.put(b"hot", b"1");
        for key in 0..1000 {
            assert!(cache.get(b"hot").is_some(), "lost at {key}");
            cache.put(format!("cold {key}").as_bytes(), b"2");
        }
        assert!(cache.young.bytes() + cache.old.bytes() < 5_000);
        assert!(cache.get(b"cold 0").is_none());
        assert!(!cache.is_complete());
        assert!(cache.get(b"cold 999").is_some());
    }

    #[test]
    fn the_last_value_counts() {
        let room = Room::new(400);
        let mut cache = Cache::new(room.share(), true);
        for value in ["1", "2", "three", "4", "", "6"] {
            cache.put(b"key", value.as_bytes());
            cache.put(b"other", value.as_bytes());
            assert_eq!(cache.get(b"key"), Some(value.as_bytes()));
            cache.remove(b"other");
            assert_eq!(cache.get(b"other"), None);
            assert!(cache.is_complete());
        }
    }

    #[test]
    fn long_entries_find_their_place() {
        let room = Room::new(1 << 20);
        let mut cache = Cache::new(room.share(), true);
        for length in [1, CHUNK_BYTES - 1, 3 * CHUNK_BYTES, 10] {
            cache.put(format!("{length}").as_bytes(), &vec![length as u8; length]);
        }
        assert_eq!(cache.get(b"49152").map(<[u8]>::len), Some(3 * CHUNK_BYTES));
        assert_eq!(cache.get(b"10"), Some(&[10; 10][..]));
    }
}
