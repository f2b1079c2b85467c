//! The idempotency keys seen lately, in bounded memory.
//!
//! Two generations of keys: new ones go into the young; when it is full it becomes the old one, and
//! what was old is forgotten. [`Recent::covers_since`] is what makes a miss an answer: every key
//! that was stored at that time or later is here.

use std::collections::HashMap;

use headwater_event::clock::Micros;
use headwater_event::room::Share;

/// The hash of a key's value; see [`super::keys`].
pub(super) type Key = u128;

/// What an entry takes: key, time and the table's slack.
const ENTRY_BYTES: usize = 64;

pub(super) struct Recent {
    young: Generation,
    old: Generation,
    share: Share,
    covers_since: Micros,
}

#[derive(Default)]
struct Generation {
    times: HashMap<Key, Micros>,
    latest: Option<Micros>,
}

impl Recent {
    /// Knows nothing yet: all that was stored before `covers_since` may be missing.
    pub(super) fn new(share: Share, covers_since: Micros) -> Self {
        Self {
            young: Generation::default(),
            old: Generation::default(),
            share,
            covers_since,
        }
    }

    /// Knows nothing again.
    pub(super) fn forget(self, covers_since: Micros) -> Self {
        Self::new(self.share, covers_since)
    }

    /// When the key was stored last, if that is known.
    pub(super) fn get(&self, key: Key) -> Option<Micros> {
        let time = self.young.times.get(&key).or_else(|| self.old.times.get(&key));
        time.copied()
    }

    pub(super) fn covers_since(&self) -> Micros {
        self.covers_since
    }

    pub(super) fn insert(&mut self, key: Key, time: Micros) {
        let generation_entries_max = (self.share.bytes_max() / ENTRY_BYTES / 2).max(1);
        if self.young.times.len() >= generation_entries_max {
            let forgotten = std::mem::replace(&mut self.old, std::mem::take(&mut self.young));
            if let Some(latest) = forgotten.latest {
                self.covers_since = self.covers_since.max(latest.saturating_add(1));
            }
        }
        self.young.times.insert(key, time);
        self.young.latest = self.young.latest.max(Some(time));
    }
}

#[cfg(test)]
mod tests {
    use headwater_event::room::Room;

    use super::*;

    #[test]
    fn what_is_forgotten_is_no_longer_claimed_to_be_covered() {
        let mut recent = Recent::new(Room::new(4 * ENTRY_BYTES).share(), Micros::MIN);
        for key in 0..6 {
            recent.insert(key, 100 + key as Micros);
        }
        assert_eq!(recent.covers_since(), 102);
        assert_eq!((0..6).filter(|&key| recent.get(key).is_some()).count(), 4);
        assert_eq!(recent.get(2), Some(102));
    }

    #[test]
    fn memory_stays_within_its_bound() {
        let mut recent = Recent::new(Room::new(100 * ENTRY_BYTES).share(), 0);
        for key in 0..10_000 {
            recent.insert(key, 0);
            assert!(recent.young.times.len() + recent.old.times.len() <= 100);
        }
    }
}
