//! A bounded cache of state entries: two generations, the older of which is dropped as a whole.
//!
//! An entry that is used lives in the younger generation. When that one has taken half of the
//! room, it becomes the older one. So what was not used for a generation goes, and keeping
//! order costs nothing.

use bytes::Bytes;
use hashbrown::HashMap;

/// What an entry takes beside its key and value, roughly.
const ENTRY_BYTES: usize = 96;

pub struct Cache {
    young: HashMap<Bytes, Bytes>,
    old: HashMap<Bytes, Bytes>,
    young_bytes: usize,
    bytes_max: usize,
}

impl Cache {
    pub fn new(bytes_max: usize) -> Self {
        Self {
            young: HashMap::new(),
            old: HashMap::new(),
            young_bytes: 0,
            bytes_max,
        }
    }

    pub fn get(&mut self, key: &Bytes) -> Option<Bytes> {
        if let Some(value) = self.young.get(key) {
            return Some(value.clone());
        }
        let (key, value) = self.old.remove_entry(key)?;
        self.put(key, value.clone());
        Some(value)
    }

    pub fn remove(&mut self, key: &Bytes) {
        self.young.remove(key);
        self.old.remove(key);
    }

    pub fn put(&mut self, key: Bytes, value: Bytes) {
        self.young_bytes += key.len() + value.len() + ENTRY_BYTES;
        self.young.insert(key, value);
        if self.young_bytes > self.bytes_max / 2 {
            self.old = std::mem::take(&mut self.young);
            self.young_bytes = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_stays() {
        let mut cache = Cache::new(20 * ENTRY_BYTES);
        cache.put("hot".into(), "1".into());
        for key in 0..1000 {
            assert!(cache.get(&"hot".into()).is_some(), "lost at {key}");
            cache.put(format!("cold {key}").into(), "2".into());
        }
        assert!(cache.young.len() + cache.old.len() < 30);
        assert!(cache.get(&"cold 0".into()).is_none());
    }

    #[test]
    fn the_last_value_counts() {
        let mut cache = Cache::new(4 * ENTRY_BYTES);
        for value in ["1", "2", "3"] {
            cache.put("key".into(), value.into());
            cache.put("other".into(), value.into());
            assert_eq!(cache.get(&"key".into()), Some(Bytes::from(value)));
        }
    }
}
