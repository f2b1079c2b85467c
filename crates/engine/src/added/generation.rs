//! Groups of rows in memory, without an allocation for each: keys and rows lie one behind the other in chunks of bytes,
//! and the rows of a group are a chain.

use hashbrown::HashTable;

/// Longer ones have a chunk of their own.
const CHUNK_BYTES: usize = 64 << 10;
const NONE: u32 = u32::MAX;

#[derive(Default)]
pub struct Generation {
    /// Places in `groups`.
    by_key: HashTable<u32>,
    groups: Vec<Group>,
    rows: Vec<Row>,
    chunks: Vec<Vec<u8>>,
    chunk_bytes: usize,
    new_bytes: usize,
}

struct Group {
    hash: u64,
    key: Place,
    first: u32,
    last: u32,
    is_whole: bool,
}

struct Row {
    place: Place,
    next: u32,
    is_new: bool,
}

#[derive(Clone, Copy)]
struct Place {
    chunk: u32,
    start: u32,
    bytes: u32,
}

impl Generation {
    /// What it takes, but for what was reserved.
    pub fn bytes(&self) -> usize {
        let entries = self.groups.len() * (size_of::<Group>() + size_of::<u32>()) + self.rows.len() * size_of::<Row>();
        self.chunk_bytes + entries
    }

    /// What the rows take that are new, roughly.
    pub fn new_bytes(&self) -> usize {
        self.new_bytes
    }

    pub fn find(&self, hash: u64, key: &[u8]) -> Option<u32> {
        let found = self.by_key.find(hash, |&group| {
            let group = &self.groups[group as usize];
            group.hash == hash && self.at(group.key) == key
        });
        found.copied()
    }

    /// Adds a group without rows, that isn't there.
    pub fn add(&mut self, hash: u64, key: &[u8], is_whole: bool) -> u32 {
        let number = self.groups.len() as u32;
        let key = self.keep(key);
        self.groups.push(Group {
            hash,
            key,
            first: NONE,
            last: NONE,
            is_whole,
        });
        let Self { by_key, groups, .. } = self;
        by_key.insert_unique(hash, number, |&group| groups[group as usize].hash);
        number
    }

    pub fn push(&mut self, group: u32, row: &[u8], is_new: bool) {
        let number = self.rows.len() as u32;
        let place = self.keep(row);
        self.rows.push(Row {
            place,
            next: NONE,
            is_new,
        });
        self.new_bytes += if is_new { taken(row) } else { 0 };
        let group = &mut self.groups[group as usize];
        match group.last {
            NONE => group.first = number,
            last => self.rows[last as usize].next = number,
        }
        group.last = number;
    }

    /// The rows of a group, and whether each is new.
    pub fn rows(&self, group: u32) -> impl Iterator<Item = (&[u8], bool)> {
        let mut next = self.groups[group as usize].first;
        std::iter::from_fn(move || {
            let row = self.rows.get(next as usize)?;
            next = row.next;
            Some((self.at(row.place), row.is_new))
        })
    }

    /// The rows of a group that are new.
    pub fn new_rows(&self, group: u32) -> impl Iterator<Item = &[u8]> {
        self.rows(group).filter_map(|(row, is_new)| is_new.then_some(row))
    }

    pub fn is_whole(&self, group: u32) -> bool {
        self.groups[group as usize].is_whole
    }

    pub fn set_whole(&mut self, group: u32) {
        self.groups[group as usize].is_whole = true;
    }

    /// Takes the rows of a group out that are not new.
    pub fn keep_new(&mut self, group: u32) {
        let group = &mut self.groups[group as usize];
        let mut next = std::mem::replace(&mut group.first, NONE);
        group.last = NONE;
        while let Some(row) = self.rows.get_mut(next as usize) {
            let number = next;
            next = row.next;
            if !row.is_new {
                continue;
            }
            row.next = NONE;
            match group.last {
                NONE => group.first = number,
                last => self.rows[last as usize].next = number,
            }
            group.last = number;
        }
    }

    /// From here on no row is new.
    pub fn forget_new(&mut self) {
        self.rows.iter_mut().for_each(|row| row.is_new = false);
        self.new_bytes = 0;
    }

    /// All groups: the hash and the key of each.
    pub fn groups(&self) -> impl Iterator<Item = (u32, u64, &[u8])> {
        self.by_key.iter().map(|&number| {
            let group = &self.groups[number as usize];
            (number, group.hash, self.at(group.key))
        })
    }

    pub fn key(&self, group: u32) -> &[u8] {
        self.at(self.groups[group as usize].key)
    }

    /// Moves a group to another generation, where it is not.
    pub fn move_to(&mut self, other: &mut Self, group: u32) -> u32 {
        let hash = self.groups[group as usize].hash;
        if let Ok(known) = self.by_key.find_entry(hash, |&known| known == group) {
            known.remove();
        }
        let there = other.add(hash, self.key(group), self.is_whole(group));
        for (row, is_new) in self.rows(group) {
            other.push(there, row, is_new);
        }
        self.new_bytes -= self.new_rows(group).map(taken).sum::<usize>();
        there
    }

    fn at(&self, place: Place) -> &[u8] {
        let start = place.start as usize;
        &self.chunks[place.chunk as usize][start..start + place.bytes as usize]
    }

    fn keep(&mut self, bytes: &[u8]) -> Place {
        let has_room = |chunk: &Vec<u8>| chunk.capacity() - chunk.len() >= bytes.len();
        if !self.chunks.last().is_some_and(has_room) {
            self.chunks.push(Vec::with_capacity(bytes.len().max(CHUNK_BYTES)));
        }
        self.chunk_bytes += bytes.len();
        let chunk = self.chunks.len() - 1;
        let start = self.chunks[chunk].len();
        self.chunks[chunk].extend_from_slice(bytes);
        Place {
            chunk: chunk as u32,
            start: start as u32,
            bytes: bytes.len() as u32,
        }
    }
}

/// With the key of a group that has no other row.
fn taken(row: &[u8]) -> usize {
    row.len() + size_of::<Row>() + size_of::<Group>()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(generation: &Generation, group: u32) -> Vec<(u8, bool)> {
        generation.rows(group).map(|(row, is_new)| (row[0], is_new)).collect()
    }

    #[test]
    fn rows_stay_in_their_groups() {
        let mut one = Generation::default();
        // The same hash for two keys.
        let (a, b) = (one.add(1, b"a", true), one.add(1, b"b", false));
        for row in 0..6u8 {
            one.push(if row % 2 == 0 { a } else { b }, &[row], row < 3);
        }
        one.push(a, &[9; 2 * CHUNK_BYTES], false);
        assert_eq!(
            (one.find(1, b"a"), one.find(1, b"b"), one.find(1, b"c")),
            (Some(a), Some(b), None)
        );
        assert_eq!(rows(&one, a), [(0, true), (2, true), (4, false), (9, false)]);
        assert_eq!(rows(&one, b), [(1, true), (3, false), (5, false)]);

        one.keep_new(a);
        one.push(a, &[7], false);
        assert_eq!(rows(&one, a), [(0, true), (2, true), (7, false)]);

        let mut other = Generation::default();
        let moved = one.move_to(&mut other, a);
        assert!(one.find(1, b"a").is_none() && one.find(1, b"b").is_some() && other.is_whole(moved));
        assert_eq!(rows(&other, moved), [(0, true), (2, true), (7, false)]);
        assert_eq!(other.new_bytes(), 2 * one.new_bytes());
        other.forget_new();
        assert_eq!((other.new_rows(moved).count(), other.new_bytes()), (0, 0));
        assert_eq!(one.groups().map(|(_, _, key)| key).collect::<Vec<_>>(), [b"b"]);
    }
}
