//! What was looked up not long ago, that there was no row too.
//!
//! It has two generations, the older of which is dropped as a whole. An entry that is used lives in the younger one; when that
//! has half of the rows, it becomes the older one. So what was not used for a generation goes, and keeping order costs nothing.

use std::collections::HashMap;
use std::time::Duration;

pub(super) struct Cache {
    young: HashMap<Box<[u8]>, Entry>,
    old: HashMap<Box<[u8]>, Entry>,
    rows_max: usize,
    lots: u64,
    /// An entry is not older than this.
    ttl: Duration,
}

pub(super) struct Entry {
    /// The row, encoded; `None` where there was none.
    pub(super) row: Option<Box<[u8]>>,
    asked: Duration,
    /// Of the lot that was last looked up here, and the row's place in it.
    pub(super) lot: u64,
    pub(super) place: u32,
}

impl Cache {
    pub(super) fn new(rows_max: usize, ttl: Duration) -> Self {
        Self {
            young: HashMap::new(),
            old: HashMap::new(),
            rows_max,
            lots: 0,
            ttl,
        }
    }

    /// The number of the lot that is looked up next; no entry has it yet.
    pub(super) fn next_lot(&mut self) -> u64 {
        self.lots += 1;
        self.lots
    }

    pub(super) fn get(&mut self, key: &[u8], now: Duration) -> Option<&mut Entry> {
        if !self.young.contains_key(key) {
            let (key, entry) = self.old.remove_entry(key)?;
            self.take_in(key, entry);
        }
        let ttl = self.ttl;
        let entry = self.young.get_mut(key)?;
        (now.saturating_sub(entry.asked) < ttl).then_some(entry)
    }

    /// `asked` is when: the row may have changed ever since.
    pub(super) fn put(&mut self, key: &[u8], row: Option<Box<[u8]>>, asked: Duration) {
        self.old.remove(key);
        let entry = Entry {
            row,
            asked,
            lot: 0,
            place: 0,
        };
        self.take_in(key.into(), entry);
    }

    fn take_in(&mut self, key: Box<[u8]>, entry: Entry) {
        if self.young.len() >= (self.rows_max / 2).max(1) {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, entry);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(60);

    #[test]
    fn what_is_used_stays_and_the_rest_goes() {
        let mut cache = Cache::new(10, TTL);
        cache.put(b"hot", Some(b"1".as_slice().into()), Duration::ZERO);
        for key in 0..100_u32 {
            assert!(cache.get(b"hot", Duration::ZERO).is_some(), "lost at {key}");
            cache.put(&key.to_be_bytes(), None, Duration::ZERO);
            assert!(cache.young.len() + cache.old.len() <= 10);
        }
        assert!(cache.get(&0_u32.to_be_bytes(), Duration::ZERO).is_none());
        assert!(cache.get(&99_u32.to_be_bytes(), Duration::ZERO).is_some());
    }

    #[test]
    fn what_is_old_is_asked_for_again() {
        let mut cache = Cache::new(10, TTL);
        let second = Duration::from_secs(1);
        cache.put(b"a", Some(b"1".as_slice().into()), second);
        assert!(cache.get(b"a", TTL).is_some());
        assert!(
            cache.get(b"a", TTL + second).is_none(),
            "being used doesn't make it younger"
        );
        cache.put(b"a", Some(b"2".as_slice().into()), TTL);
        let row = cache.get(b"a", TTL + second).and_then(|entry| entry.row.as_deref());
        assert_eq!(row, Some(b"2".as_slice()));
    }
}
