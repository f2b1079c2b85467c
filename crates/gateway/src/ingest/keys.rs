//! Which events have been stored before, by the stream's idempotency key.
//!
//! The keys are in a state table of the log, `{topic}.keys`, written in the commit that stores the
//! events:
//!
//! * key: XXH3-128 of the value's bytes (text) or of its row encoding (other types), 16 bytes, big
//!   endian;
//! * value: the time of ingest, `i64` microseconds, big endian.
//!
//! Whether an event is new is decided in three steps, each dearer than the one before:
//! 1. a key that [`Recent`] has was stored at the time that it says;
//! 2. a key that it doesn't have is new, if it covers the stream's whole window;
//! 3. else the table is asked, for all such keys of a group at once.
//!
//! Keys older than the window count as never seen, and are removed by [`Keys::sweep`], a bounded
//! number at a time. Events whose key is NULL have no key and are always new.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::DataType;
use arrow::error::ArrowError;
use arrow::row::{RowConverter, SortField};
use bytes::Bytes;
use headwater_catalog::definition::Idempotency;
use headwater_event::clock::Micros;
use headwater_event::room::Share;
use headwater_log::error::Result;
use headwater_log::{Claim, Log, StateTable, StateWrite};
use xxhash_rust::xxh3::xxh3_128;

use crate::ingest::recent::{Key, Recent};

/// How the sweep is bounded.
#[derive(Clone, Copy, Debug)]
pub(super) struct KeysOptions {
    pub(super) sweep_keys_max: usize,
    pub(super) sweep_interval: Duration,
}

/// The keys of one stream, and the right to write them.
pub(super) struct Keys {
    pub(super) claim: Claim,
    name: Arc<str>,
    table: Arc<dyn StateTable>,
    window: Micros,
    recent: Recent,
    options: KeysOptions,
    /// Where the sweep goes on.
    sweep_from: Bytes,
    sweep_at: Duration,
}

/// Which rows of a group are new, and under which keys they are to be remembered.
#[derive(Default)]
pub(super) struct Screened {
    pub(super) fresh: Vec<bool>,
    pub(super) keys: Vec<Key>,
}

/// The state table of a topic's keys.
pub fn keys_table(topic: &str) -> String {
    format!("{topic}.keys")
}

/// Who commits the events of a topic whose stream has an idempotency key.
pub fn owner(topic: &str) -> String {
    format!("ingest/{topic}")
}

impl Keys {
    /// Takes over the topic's keys, and reads as many as the cache holds: with all of them there, most
    /// events need no look into the table.
    pub(super) async fn open(
        log: &dyn Log,
        topic: &str,
        idempotency: &Idempotency,
        options: KeysOptions,
        share: Share,
        now: Micros,
    ) -> Result<Self> {
        let name: Arc<str> = keys_table(topic).into();
        let claim = log.claim(&owner(topic)).await?;
        let table = log.state(&name).await?;
        let recent = load(&*table, share, now)?;
        let window_ms = Micros::try_from(idempotency.window_ms).unwrap_or(Micros::MAX);
        Ok(Self {
            claim,
            name,
            table,
            window: window_ms.saturating_mul(1000),
            recent,
            options,
            sweep_from: Bytes::new(),
            sweep_at: Duration::ZERO,
        })
    }

    /// Looks the keys of a group's rows up, in the order of the rows. Nothing is remembered before
    /// [`Keys::remember`].
    pub(super) fn screen(&self, column: &ArrayRef, now: Micros) -> Result<Screened> {
        let hashes = hashes(column)?;
        let mut unknown: Vec<(usize, Key)> = Vec::new();
        let mut fresh = vec![true; hashes.len()];
        let mut first_in_group = HashSet::with_capacity(hashes.len());
        let covered = self.recent.covers_since() <= now.saturating_sub(self.window);
        for (row, key) in hashes.iter().enumerate() {
            let Some(key) = *key else { continue };
            if !first_in_group.insert(key) {
                fresh[row] = false;
            } else if let Some(time) = self.recent.get(key) {
                fresh[row] = self.is_expired(time, now);
            } else if !covered {
                unknown.push((row, key));
            }
        }
        self.ask_table(&unknown, now, &mut fresh)?;
        let keys = hashes.iter().zip(&fresh).filter(|&(_, &fresh)| fresh);
        Ok(Screened {
            keys: keys.filter_map(|(key, _)| *key).collect(),
            fresh,
        })
    }

    fn ask_table(&self, unknown: &[(usize, Key)], now: Micros, fresh: &mut [bool]) -> Result<()> {
        if unknown.is_empty() {
            return Ok(());
        }
        let keys: Vec<_> = unknown.iter().map(|&(_, key)| encode_key(key)).collect();
        let times = self.table.get_many(&keys)?;
        for (&(row, _), time) in unknown.iter().zip(times) {
            if let Some(time) = time.as_deref().and_then(decode_time) {
                fresh[row] = self.is_expired(time, now);
            }
        }
        Ok(())
    }

    fn is_expired(&self, time: Micros, now: Micros) -> bool {
        time.saturating_add(self.window) <= now
    }

    /// What the commit has to write for new keys, behind the removals of a sweep: where a key is in
    /// both, the last entry wins.
    pub(super) fn write(&self, swept: Vec<Bytes>, keys: &[Key], now: Micros) -> StateWrite {
        let time = Bytes::copy_from_slice(&now.to_be_bytes());
        let removed = swept.into_iter().map(|key| (key, None));
        let added = keys.iter().map(|&key| (encode_key(key), Some(time.clone())));
        StateWrite {
            table: Arc::clone(&self.name),
            entries: removed.chain(added).collect(),
        }
    }

    /// To be called once the commit has succeeded.
    pub(super) fn remember(&mut self, keys: &[Key], now: Micros) {
        for &key in keys {
            self.recent.insert(key, now);
        }
    }

    /// The expired among the next keys of the table, if it is time to look.
    pub(super) fn sweep(&mut self, now: Micros, elapsed: Duration) -> Result<Vec<Bytes>> {
        if elapsed < self.sweep_at {
            return Ok(Vec::new());
        }
        let mut expired = Vec::new();
        let mut last = None;
        let mut looked_at = 0;
        for entry in self.table.scan_from(&self.sweep_from).take(self.options.sweep_keys_max) {
            let (key, time) = entry?;
            looked_at += 1;
            if decode_time(&time).is_none_or(|time| self.is_expired(time, now)) {
                expired.push(key.clone());
            }
            last = Some(key);
        }
        self.sweep_from = match last {
            Some(last) if looked_at == self.options.sweep_keys_max => after(&last),
            _ => Bytes::new(),
        };
        // Where much is expired more will be: go on with the next commit.
        let rich = looked_at == self.options.sweep_keys_max && expired.len() * 4 >= looked_at;
        self.sweep_at = if rich {
            elapsed
        } else {
            elapsed + self.options.sweep_interval
        };
        Ok(expired)
    }
}

fn load(table: &dyn StateTable, share: Share, now: Micros) -> Result<Recent> {
    let mut recent = Recent::new(share, Micros::MIN);
    for entry in table.scan_from(&[]) {
        let (key, time) = entry?;
        let key = <[u8; 16]>::try_from(&*key).map(Key::from_be_bytes);
        if let (Ok(key), Some(time)) = (key, decode_time(&time)) {
            recent.insert(key, time);
        }
        if recent.covers_since() > Micros::MIN {
            // They don't all fit, and the table is not in the order of time: begin with none.
            return Ok(recent.forget(now.saturating_add(1)));
        }
    }
    Ok(recent)
}

fn hashes(column: &ArrayRef) -> Result<Vec<Option<Key>>, ArrowError> {
    if column.data_type() == &DataType::Utf8 {
        let texts = column.as_string::<i32>().iter();
        return Ok(texts.map(|text| text.map(|text| xxh3_128(text.as_bytes()))).collect());
    }
    let converter = RowConverter::new(vec![SortField::new(column.data_type().clone())])?;
    let rows = converter.convert_columns(std::slice::from_ref(column))?;
    let keys = rows.iter().enumerate();
    Ok(keys
        .map(|(row, key)| column.is_valid(row).then(|| xxh3_128(key.as_ref())))
        .collect())
}

fn encode_key(key: Key) -> Bytes {
    Bytes::copy_from_slice(&key.to_be_bytes())
}

fn decode_time(value: &[u8]) -> Option<Micros> {
    value.try_into().ok().map(Micros::from_be_bytes)
}

/// The least key that is greater.
fn after(key: &[u8]) -> Bytes {
    [key, &[0]].concat().into()
}
