//! Rows by key: the state of operators that look at all rows of a key at once.
//!
//! An entry of the state table is a row of a group: `partition u32 BE | key | suffix`, with the
//! suffix's order being that of the rows. Keys must be free of prefixes of one another, as row
//! encodings of the same columns are.
//!
//! A group is read as a whole and kept in a bounded cache of two generations (see [`crate::cache`]). What
//! an epoch writes is in the cache and in the list for the commit; a group leaves the cache only after
//! that list was handed over, so the table is never asked for what it has not got yet. As long as no
//! group has left, what isn't cached isn't there, and the table isn't asked at all.

use std::sync::Arc;

use bytes::Bytes;
use hashbrown::HashMap;
use hashbrown::hash_map::EntryRef;
use headwater_event::room::Share;
use headwater_log::StateTable;

use crate::error::Result;
use crate::holdings::Held;
use crate::operators::{Saved, StateChanges};

/// What a row takes beside its suffix and value, and a group beside its key and rows, roughly.
const ROW_BYTES: usize = 64;
const GROUP_BYTES: usize = 96;

pub struct Keyed {
    partition: [u8; 4],
    table: Option<Arc<dyn StateTable>>,
    young: HashMap<Bytes, Rows>,
    old: HashMap<Bytes, Rows>,
    young_bytes: usize,
    /// When they were the younger ones.
    old_bytes: usize,
    /// Before it is restored, all is kept.
    share: Option<Share>,
    /// Every group of the table is in the cache.
    is_complete: bool,
    written: Vec<(Bytes, Option<Bytes>)>,
}

/// The rows of a group, ascending by suffix.
#[derive(Debug, Default)]
pub struct Rows {
    rows: Vec<(Bytes, Bytes)>,
}

/// A group, to be looked at and changed.
pub struct Group<'a> {
    prefix: Prefix<'a>,
    rows: &'a mut Rows,
    bytes: &'a mut usize,
    written: &'a mut Vec<(Bytes, Option<Bytes>)>,
}

#[derive(Clone, Copy)]
struct Prefix<'a> {
    partition: [u8; 4],
    key: &'a [u8],
}

impl Keyed {
    pub fn new() -> Self {
        Self {
            partition: [0; 4],
            table: None,
            young: HashMap::new(),
            old: HashMap::new(),
            young_bytes: 0,
            old_bytes: 0,
            share: None,
            is_complete: true,
            written: Vec::new(),
        }
    }

    pub fn restore(&mut self, saved: &Saved) -> Result<()> {
        self.partition = saved.partition.to_be_bytes();
        self.share = Some(saved.caches.share());
        self.is_complete = saved.table.scan(&self.partition).next().transpose()?.is_none();
        self.table = Some(Arc::clone(&saved.table));
        Ok(())
    }

    /// The group of a key, from the cache or the table; without rows where there is none.
    pub fn group<'a>(&'a mut self, key: &'a [u8]) -> Result<Group<'a>> {
        let prefix = Prefix {
            partition: self.partition,
            key,
        };
        let rows = match self.young.entry_ref(key) {
            EntryRef::Occupied(known) => known.into_mut(),
            EntryRef::Vacant(place) => {
                let rows = match (self.old.remove(key), &self.table) {
                    (Some(rows), _) => rows,
                    (None, Some(table)) if !self.is_complete => load(&**table, prefix)?,
                    (None, _) => Rows::default(),
                };
                self.young_bytes += GROUP_BYTES + key.len() + rows.bytes();
                // A copy: what the key was cut from may be much larger.
                place.insert_with_key(Bytes::copy_from_slice(key), rows)
            }
        };
        Ok(Group {
            prefix,
            rows,
            bytes: &mut self.young_bytes,
            written: &mut self.written,
        })
    }

    /// Hands over what the epoch has written, and lets groups go that were not used for long.
    pub fn take_changes(&mut self, changes: &mut StateChanges) {
        changes.entries.append(&mut self.written);
        let bytes_max = self.share.as_ref().map_or(usize::MAX, Share::bytes_max);
        if self.young_bytes > bytes_max / 2 {
            self.is_complete &= self.old.is_empty();
            self.old = std::mem::take(&mut self.young);
            self.old_bytes = std::mem::take(&mut self.young_bytes);
        }
    }

    /// The groups that are in the cache.
    pub fn held(&self) -> Held {
        Held::cache(self.young_bytes + self.old_bytes)
    }
}

fn load(table: &dyn StateTable, prefix: Prefix<'_>) -> Result<Rows> {
    let prefix = prefix.with(&[]);
    let rows = table.scan(&prefix).map(|entry| {
        let (whole, value) = entry?;
        Ok((whole.slice(prefix.len()..), value))
    });
    Ok(Rows {
        rows: rows.collect::<Result<_>>()?,
    })
}

impl Rows {
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (&Bytes, &Bytes)> {
        self.rows.iter().map(|(suffix, value)| (suffix, value))
    }

    pub fn get(&self, suffix: &[u8]) -> Option<&Bytes> {
        let place = self.place(suffix).ok()?;
        Some(&self.rows[place].1)
    }

    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Where the suffix is, or where it would be. Most come at the end.
    fn place(&self, suffix: &[u8]) -> std::result::Result<usize, usize> {
        match self.rows.last() {
            Some((last, _)) if &last[..] >= suffix => self.rows.binary_search_by(|(known, _)| known[..].cmp(suffix)),
            _ => Err(self.rows.len()),
        }
    }

    fn bytes(&self) -> usize {
        self.rows.iter().map(|(suffix, value)| row_bytes(suffix, value)).sum()
    }
}

impl Group<'_> {
    pub fn rows(&self) -> &Rows {
        self.rows
    }

    pub fn put(&mut self, suffix: Bytes, value: Bytes) {
        self.written.push((self.prefix.with(&suffix), Some(value.clone())));
        *self.bytes += row_bytes(&suffix, &value);
        match self.rows.place(&suffix) {
            Ok(place) => self.rows.rows[place].1 = value,
            Err(place) => self.rows.rows.insert(place, (suffix, value)),
        }
    }

    /// Removes a row, and hands back its value if it was there.
    pub fn remove(&mut self, suffix: &[u8]) -> Option<Bytes> {
        let place = self.rows.place(suffix).ok()?;
        self.written.push((self.prefix.with(suffix), None));
        let (suffix, value) = self.rows.rows.remove(place);
        *self.bytes = self.bytes.saturating_sub(row_bytes(&suffix, &value));
        Some(value)
    }
}

impl Prefix<'_> {
    fn with(&self, suffix: &[u8]) -> Bytes {
        [&self.partition, self.key, suffix].concat().into()
    }
}

fn row_bytes(suffix: &[u8], value: &[u8]) -> usize {
    ROW_BYTES + suffix.len() + value.len()
}

#[cfg(test)]
mod tests {
    use headwater_event::clock::ManualClock;
    use headwater_event::room::Room;
    use headwater_log::memory::MemoryLog;
    use headwater_log::{Commit, Log, StateWrite};

    use super::*;

    const KEYS: u8 = 50;

    async fn opened(log: &dyn Log, bytes_max: usize) -> Keyed {
        let mut keyed = Keyed::new();
        let saved = Saved {
            table: log.state("rows").await.unwrap(),
            partition: 3,
            watermark: None,
            caches: Room::new(bytes_max),
        };
        keyed.restore(&saved).unwrap();
        keyed
    }

    async fn commit(log: &dyn Log, keyed: &mut Keyed) {
        let mut changes = StateChanges {
            partition: 3,
            entries: Vec::new(),
        };
        keyed.take_changes(&mut changes);
        let state = vec![StateWrite {
            table: "rows".into(),
            entries: changes.entries.into(),
        }];
        let claim = log.claim("owner").await.unwrap();
        let commit = Commit {
            state,
            ..Commit::default()
        };
        log.commit(&claim, commit).await.unwrap();
    }

    fn key(number: u8) -> Bytes {
        vec![number, 0].into()
    }

    fn of(keyed: &mut Keyed, number: u8) -> Vec<(u8, u8)> {
        let key = key(number);
        let group = keyed.group(&key).unwrap();
        group
            .rows()
            .iter()
            .map(|(suffix, value)| (suffix[0], value[0]))
            .collect()
    }

    #[tokio::test]
    async fn rows_are_found_whatever_has_left_the_cache() {
        for bytes_max in [0, 2_000, usize::MAX] {
            let log = MemoryLog::new(ManualClock::new(0));
            let mut keyed = opened(&*log, bytes_max).await;
            for round in 0..4 {
                for number in 0..KEYS {
                    let key = key(number);
                    let mut group = keyed.group(&key).unwrap();
                    group.put(vec![9 - round].into(), vec![number].into());
                    assert_eq!(group.rows().len(), usize::from(round) + 1);
                }
                commit(&*log, &mut keyed).await;
            }
            let first = key(0);
            assert_eq!(keyed.group(&first).unwrap().remove(&[7]), Some(vec![0].into()));
            assert_eq!(keyed.group(&first).unwrap().remove(&[7]), None);
            assert_eq!(of(&mut keyed, 0), [(6, 0), (8, 0), (9, 0)]);
            commit(&*log, &mut keyed).await;
            assert_eq!(of(&mut keyed, 0), [(6, 0), (8, 0), (9, 0)]);

            let mut keyed = opened(&*log, bytes_max).await;
            assert_eq!(of(&mut keyed, 0), [(6, 0), (8, 0), (9, 0)]);
            assert_eq!(of(&mut keyed, KEYS - 1), [6, 7, 8, 9].map(|suffix| (suffix, KEYS - 1)));
            assert_eq!(of(&mut keyed, KEYS), []);
        }
    }
}
