//! The rows that a target with a position of its own has refused, from when that is seen until its transaction is committed. The promise names
//! them: they are dead letters then, and stay so when the transaction has to be made again.

use std::collections::BTreeSet;

use bytes::Bytes;
use headwater_event::offset::Offset;

use crate::sink::{Offsets, Promise};

/// By partition and offset.
#[derive(Debug, Default)]
pub(crate) struct Refused(BTreeSet<(u32, Offset)>);

impl Refused {
    /// Those of the promise that the target's position has not passed.
    pub(crate) fn of(promise: &Promise, next: &Offsets) -> Self {
        let place = |key: &Bytes| {
            let (partition, offset) = key.split_at_checked(4)?;
            let partition = u32::from_be_bytes(partition.try_into().ok()?);
            Some((partition, u64::from_be_bytes(offset.try_into().ok()?)))
        };
        let mut refused = Self(promise.keys().filter_map(place).collect());
        refused.pass(next);
        refused
    }

    pub(crate) fn promise(&self) -> Promise {
        let entry = |(partition, offset): &(u32, Offset)| {
            let mut key = partition.to_be_bytes().to_vec();
            key.extend(offset.to_be_bytes());
            (key.into(), Bytes::new())
        };
        self.0.iter().map(entry).collect()
    }

    pub(crate) fn insert(&mut self, partition: u32, offset: Offset) {
        self.0.insert((partition, offset));
    }

    pub(crate) fn contains(&self, partition: u32, offset: Offset) -> bool {
        self.0.contains(&(partition, offset))
    }

    /// The target has committed so far.
    pub(crate) fn pass(&mut self, next: &Offsets) {
        let is_behind = |(partition, offset): &(u32, Offset)| next.get(partition).is_some_and(|next| offset < next);
        self.0.retain(|row| !is_behind(row));
    }
}
