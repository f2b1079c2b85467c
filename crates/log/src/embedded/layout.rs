//! What lies where in the store. Numbers in keys are big endian, so that keys sort as numbers do.
//!
//! | keyspace | key | value |
//! |---|---|---|
//! | `meta` | `t` topic's name | its definition, see `topic::stored` |
//! | `meta` | `s` state table's name | its number, u64 |
//! | `meta` | `n` | the last number given to a topic or state table, u64 |
//! | `meta` | `k` owner | the token of its last claim, u64 |
//! | `meta` | `K` | the last token given, u64 |
//! | `meta` | `c` length of owner u16, owner, partition u32, topic | consumed offset, u64 |
//! | `meta` | `m` topic's number u64, partition u32 | [`Entry`] of the last batch that a sweep removed |
//! | `t<number>` | partition u32, base offset u64 | a batch, see `encoding` |
//! | `i<number>` | the same | [`Entry`]: what is to be known of a batch without reading it |
//! | `s<number>` | 0, key | value of a state table |
//!
//! Topics and state tables have numbers, given once and never again, because their names may
//! hold what a keyspace's name may not, and because the store's journal may still have entries of
//! one that was deleted. A key of a state table may be empty, one of the store may not: hence the 0.

use headwater_event::clock::Micros;
use headwater_event::offset::{Offset, TopicPartition};

use crate::error::{Error, Result};

pub(super) const META: &str = "meta";
pub(super) const LAST_NUMBER: &[u8] = b"n";
pub(super) const LAST_TOKEN: &[u8] = b"K";
pub(super) const OWNER_BYTES_MAX: usize = 4096;

const BATCH_KEY_BYTES: usize = 12;

/// What is known of a batch without reading it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Entry {
    /// The offset after it.
    pub next: Offset,
    pub appended: Micros,
    /// The bytes of all batches ever appended to the partition, up to and with this one.
    pub bytes_total: u64,
}

impl Entry {
    pub fn to_bytes(self) -> [u8; 24] {
        let mut bytes = [0; 24];
        bytes[..8].copy_from_slice(&self.next.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.appended.to_be_bytes());
        bytes[16..].copy_from_slice(&self.bytes_total.to_be_bytes());
        bytes
    }

    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        if bytes.len() != 24 {
            return Err(Error::Storage(format!("an index entry of {} bytes", bytes.len())));
        }
        Ok(Self {
            next: number(&bytes[..8]),
            appended: number(&bytes[8..16]).cast_signed(),
            bytes_total: number(&bytes[16..]),
        })
    }
}

pub(super) fn batch_key(partition: u32, base: Offset) -> [u8; BATCH_KEY_BYTES] {
    let mut key = [0; BATCH_KEY_BYTES];
    key[..4].copy_from_slice(&partition.to_be_bytes());
    key[4..].copy_from_slice(&base.to_be_bytes());
    key
}

pub(super) fn base_of(key: &[u8]) -> Offset {
    key.get(4..).map_or(0, number)
}

pub(super) fn topic_key(name: &str) -> Vec<u8> {
    prefixed(b't', name.as_bytes())
}

pub(super) fn state_table_key(name: &str) -> Vec<u8> {
    prefixed(b's', name.as_bytes())
}

pub(super) fn claim_key(owner: &str) -> Vec<u8> {
    prefixed(b'k', owner.as_bytes())
}

pub(super) fn mark_key(topic: u64, partition: u32) -> Vec<u8> {
    let mut key = prefixed(b'm', &topic.to_be_bytes());
    key.extend_from_slice(&partition.to_be_bytes());
    key
}

/// The beginning of the keys of everything that the owner consumed.
pub(super) fn consumed_prefix(owner: &str) -> Vec<u8> {
    // Owners are at most OWNER_BYTES_MAX long.
    let mut key = prefixed(b'c', &(owner.len() as u16).to_be_bytes());
    key.extend_from_slice(owner.as_bytes());
    key
}

pub(super) fn consumed_key(owner: &str, partition: &TopicPartition) -> Vec<u8> {
    let mut key = consumed_prefix(owner);
    key.extend_from_slice(&partition.partition.to_be_bytes());
    key.extend_from_slice(partition.topic.as_bytes());
    key
}

/// The partition that a key of a consumed offset speaks of.
pub(super) fn consumed_partition(key: &[u8]) -> Option<TopicPartition> {
    let owner_bytes = u16::from_be_bytes([*key.get(1)?, *key.get(2)?]) as usize;
    let (partition, topic) = key.get(3 + owner_bytes..)?.split_at_checked(4)?;
    let topic = std::str::from_utf8(topic).ok()?;
    Some(TopicPartition::new(topic, number(partition) as u32))
}

pub(super) fn state_key(key: &[u8]) -> Vec<u8> {
    prefixed(0, key)
}

/// A big endian number of up to eight bytes.
pub(super) fn number(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |number, &byte| number << 8 | u64::from(byte))
}

fn prefixed(first: u8, rest: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(1 + rest.len());
    key.push(first);
    key.extend_from_slice(rest);
    key
}
