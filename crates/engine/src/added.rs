//! Rows by key that are only ever added: the state of joins for ever.
//!
//! An entry of its own for each row would cost the store more than all else that happens to the row. So an entry
//! has many rows (see [`list`]):
//!
//! 1. What an epoch adds is one entry, a *piece*, and in memory.
//! 2. When the rows of the pieces have taken up the memory that there is for them, they are put into [`buckets`] by the hash of their key,
//!    all at once, and the pieces go.
//! 3. Memory has two generations (see [`crate::cache`]). A group that is asked for is read from its bucket, and is *whole*
//!    from then on: all its rows are in memory. To one that isn't, rows are added without reading it.
//!
//! A restart reads the pieces, which fit into memory, and nothing else.
//!
//! Keys in the table: `partition u32 BE | kind | side | numbers u64 BE`.
//!
//! | kind | numbers | value |
//! |---|---|---|
//! | `b` | bucket, load | rows |
//! | `h` | hash of the key, load, part | rows of a key that are many |
//! | `m` | | the number of buckets, their bytes, the next load, the rows in buckets and apart: u64 BE |
//! | `p` | number | rows that are in no bucket yet |

mod buckets;
mod generation;
mod list;

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use hashbrown::HashMap;
use headwater_log::StateTable;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use self::buckets::{Buckets, Load, list_rows};
use self::generation::Generation;
use crate::error::Result;
use crate::operators::StateChanges;

/// Tasks have their rows by another hash of the key, which must have nothing to do with this one.
const SEED: u64 = 0x6275_636b_6574_7321;
/// Pieces are cut into entries of about this.
const PIECE_BYTES: usize = 256 << 10;
/// Rows that take more memory are put into buckets even where there is more of it: a commit and a restart have to do with
/// all of them.
const NEW_BYTES_MAX: usize = 16 << 20;

pub struct Added {
    names: Names,
    table: Option<Arc<dyn StateTable>>,
    young: Generation,
    old: Generation,
    /// The rows of the epoch, in pieces.
    pieces: Vec<Vec<u8>>,
    /// The numbers of those in the table.
    written: Range<u64>,
    buckets: Buckets,
    /// In buckets and apart.
    loaded_rows: u64,
    /// In pieces.
    new_rows: u64,
}

/// What begins the keys of one side's entries.
#[derive(Clone, Copy)]
pub struct Names {
    partition: u32,
    side: u8,
}

#[derive(Clone, Copy)]
pub enum Kind {
    Bucket = b'b' as isize,
    Apart = b'h' as isize,
    Meta = b'm' as isize,
    Piece = b'p' as isize,
}

impl Added {
    pub fn new(side: u8) -> Self {
        Self {
            names: Names { partition: 0, side },
            table: None,
            young: Generation::default(),
            old: Generation::default(),
            pieces: Vec::new(),
            written: 0..0,
            buckets: Buckets::default(),
            loaded_rows: 0,
            new_rows: 0,
        }
    }

    pub fn restore(&mut self, table: &Arc<dyn StateTable>, partition: u32) -> Result<()> {
        self.names.partition = partition;
        if let Some(meta) = table.get(&self.names.of(Kind::Meta, &[]))? {
            let (&[count, bytes, load, rows], []) = meta.as_chunks::<8>() else {
                return Err(list::damaged());
            };
            let [count, bytes, load, rows] = [count, bytes, load, rows].map(u64::from_be_bytes);
            self.buckets = Buckets { count, bytes, load };
            self.loaded_rows = rows;
        }
        for entry in table.scan(&self.names.of(Kind::Piece, &[])) {
            let (key, value) = entry?;
            let number = key.last_chunk::<8>().ok_or_else(list::damaged)?;
            let number = u64::from_be_bytes(*number);
            if self.written.is_empty() {
                self.written = number..number;
            }
            self.written.end = number + 1;
            for listed in list::groups(&value) {
                let listed = listed?;
                list_rows(listed).for_each(|row| self.hold(listed.key, row));
            }
        }
        self.table = Some(Arc::clone(table));
        Ok(())
    }

    pub fn add(&mut self, key: &[u8], row: &[u8]) {
        if self.pieces.last().is_none_or(|piece| piece.len() >= PIECE_BYTES) {
            self.pieces.push(Vec::new());
        }
        if let Some(piece) = self.pieces.last_mut() {
            list::put_key(piece, key);
            list::put_row(piece, row);
            list::put_end(piece);
        }
        self.hold(key, row);
    }

    /// Has a new row in memory.
    fn hold(&mut self, key: &[u8], row: &[u8]) {
        let hash = self.names.hash(key);
        let group = match self.in_memory(hash, key) {
            Some(group) => group,
            None => self.young.add(hash, key, self.buckets.count == 0),
        };
        self.young.push(group, row, true);
        self.new_rows += 1;
    }

    /// A group of the younger generation.
    fn in_memory(&mut self, hash: u64, key: &[u8]) -> Option<u32> {
        self.young.find(hash, key).or_else(|| {
            let group = self.old.find(hash, key)?;
            Some(self.old.move_to(&mut self.young, group))
        })
    }

    /// Brings the groups of keys into memory, whole. The answer has the place of each for [`Added::rows`], or nothing
    /// where there are no rows for certain. A key is asked for once.
    pub fn find(&mut self, keys: &[&[u8]]) -> Result<Vec<Option<u32>>> {
        let mut found = Vec::with_capacity(keys.len());
        let mut missing = Vec::new();
        for (place, key) in keys.iter().enumerate() {
            let hash = self.names.hash(key);
            let group = self.in_memory(hash, key);
            found.push(group);
            if self.buckets.count > 0 && !group.is_some_and(|group| self.young.is_whole(group)) {
                missing.push((self.buckets.bucket(hash), hash, place));
            }
        }
        missing.sort_unstable();
        for of_bucket in missing.chunk_by(|one, other| one.0 == other.0) {
            self.read(of_bucket, keys, &mut found)?;
        }
        Ok(found)
    }

    /// Reads keys of one bucket: its number, the hash and the place among `keys`.
    fn read(&mut self, missing: &[(u64, u64, usize)], keys: &[&[u8]], found: &mut [Option<u32>]) -> Result<()> {
        let Some(table) = &self.table else { return Ok(()) };
        let young = &mut self.young;
        for &(_, hash, place) in missing {
            match found[place] {
                // Those that are in buckets come from there.
                Some(group) => young.keep_new(group),
                None => found[place] = Some(young.add(hash, keys[place], false)),
            }
        }
        let wanted: HashMap<&[u8], _> = missing
            .iter()
            .map(|&(_, hash, place)| (keys[place], (hash, place)))
            .collect();
        let mut take = |place: usize, row: &[u8]| {
            if let Some(group) = found[place] {
                young.push(group, row, false);
            }
        };
        self.buckets
            .read(&**table, self.names, &wanted, missing[0].0, &mut take)?;
        for &(_, _, place) in missing {
            if let Some(group) = found[place] {
                young.set_whole(group);
            }
        }
        Ok(())
    }

    /// The rows of a group that was found in this epoch.
    pub fn rows(&self, group: u32) -> impl Iterator<Item = &[u8]> {
        self.young.rows(group).map(|(row, _)| row)
    }

    /// Hands over what the epoch has added, and sees to it that no more than `bytes_max` are in memory.
    pub fn take_changes(&mut self, bytes_max: usize, changes: &mut StateChanges) -> Result<()> {
        let is_full = self.young.bytes() > bytes_max / 2;
        let new_bytes = self.young.new_bytes() + self.old.new_bytes();
        if new_bytes > NEW_BYTES_MAX || (is_full && self.old.new_bytes() > bytes_max / 8) {
            self.load(&mut changes.entries)?;
        } else {
            for piece in self.pieces.drain(..) {
                let key = self.names.of(Kind::Piece, &[self.written.end]);
                changes.entries.push((key, Some(piece.into())));
                self.written.end += 1;
            }
        }
        if is_full {
            self.turn();
        }
        Ok(())
    }

    /// Puts the rows that are new into buckets.
    fn load(&mut self, entries: &mut Vec<(Bytes, Option<Bytes>)>) -> Result<()> {
        let mut load = Load::default();
        for generation in [&self.old, &self.young] {
            for (group, hash, key) in generation.groups() {
                let mut rows = generation.new_rows(group).peekable();
                if rows.peek().is_some() {
                    load.add(self.buckets.load, hash, key, rows);
                }
            }
        }
        self.buckets.put(self.table.as_deref(), self.names, load, entries)?;
        self.loaded_rows += std::mem::take(&mut self.new_rows);
        let Buckets { count, bytes, load } = self.buckets;
        let meta = [count, bytes, load, self.loaded_rows].map(u64::to_be_bytes);
        entries.push((
            self.names.of(Kind::Meta, &[]),
            Some(Bytes::copy_from_slice(meta.as_flattened())),
        ));
        let pieces = self.written.clone().map(|number| self.names.of(Kind::Piece, &[number]));
        entries.extend(pieces.map(|piece| (piece, None)));
        self.written.start = self.written.end;
        self.pieces.clear();
        self.old.forget_new();
        self.young.forget_new();
        Ok(())
    }

    /// Lets the older generation go, but for rows that are nowhere else.
    fn turn(&mut self) {
        let gone = std::mem::replace(&mut self.old, std::mem::take(&mut self.young));
        for (group, hash, key) in gone.groups() {
            let mut rows = gone.new_rows(group).peekable();
            if rows.peek().is_none() {
                continue;
            }
            let has_all = gone.is_whole(group) && gone.rows(group).all(|(_, is_new)| is_new);
            let there = self.young.add(hash, key, has_all);
            rows.for_each(|row| self.young.push(there, row, true));
        }
    }

    pub fn len(&self) -> u64 {
        self.loaded_rows + self.new_rows
    }

    /// What it has in memory.
    pub fn bytes(&self) -> usize {
        self.young.bytes() + self.old.bytes()
    }
}

impl Names {
    pub fn of(self, kind: Kind, numbers: &[u64]) -> Bytes {
        let mut key = Vec::with_capacity(6 + 8 * numbers.len());
        key.extend_from_slice(&self.partition.to_be_bytes());
        key.extend_from_slice(&[kind as u8, self.side]);
        numbers
            .iter()
            .for_each(|number| key.extend_from_slice(&number.to_be_bytes()));
        key.into()
    }

    pub fn hash(self, key: &[u8]) -> u64 {
        xxh3_64_with_seed(key, SEED)
    }
}

#[cfg(test)]
mod tests;
