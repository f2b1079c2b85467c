//! What a connector that takes rows out is to the loop that runs it.
//!
//! Rows become visible in two steps, so that each comes out once, whatever fails and wherever the process ends:
//!
//! 1. [`Sink::prepare`] makes all rows since the last time durable, where nobody sees them yet, and says what it takes to
//!    make them visible: the *promise*. The loop commits it together with the position behind the rows.
//! 2. [`Sink::publish`] keeps the promise. It may be asked to again, after a restart by [`Sink::open`]: what is done
//!    already stays done.
//!
//! A process that ends before the commit finds the old position, and reads the rows again; one that ends after it finds the promise.
//!
//! A target that has transactions keeps the position itself, in the same transaction as the rows. Then [`Sink::open`] says how far the
//! target is, and the loop reads on from there, whatever it has committed: `prepare` leaves the transaction open, `publish`
//! ends it, and where that did not happen the rows are read again. What the promise has to say is which of them are dead letters
//! already.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use async_trait::async_trait;
use bytes::Bytes;
use headwater_event::clock::Clock;
use headwater_event::offset::Offset;

use crate::source::Error;
use crate::within::Within;

/// What a sink has made durable and not visible, in entries of its own making. Kept in a state table.
pub type Promise = BTreeMap<Bytes, Bytes>;

/// The next offsets to be handed to a sink, by partition.
pub type Offsets = BTreeMap<u32, Offset>;

/// A sink as its options describe it.
pub struct Opened {
    pub sink: Box<dyn Sink>,
    /// Rows wait so long at most before they become visible.
    pub interval: Duration,
}

/// Where a sink goes on.
#[derive(Debug)]
pub struct Start<'a> {
    /// The sink's own, never used by another one of this log.
    pub name: &'a str,
    /// Nor by one of any other log.
    pub identity: &'a str,
    pub promise: &'a Promise,
    /// What the loop has committed; empty before the first time.
    pub committed: &'a Offsets,
    /// Where files may be.
    pub within: &'a Within,
    pub clock: &'a Arc<dyn Clock>,
}

/// Rows as they are in the log.
#[derive(Debug)]
pub struct Rows<'a> {
    pub partition: u32,
    /// The offset of the first one; the others follow.
    pub first: Offset,
    pub rows: &'a RecordBatch,
}

/// A row that can't be delivered. It becomes a dead letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Undeliverable {
    /// Within the rows.
    pub row: usize,
    /// A sentence for people.
    pub detail: String,
}

/// Takes rows out. Runs on threads that may block. After an error it is opened anew before anything else.
#[async_trait]
pub trait Sink: Send {
    /// What it promises, for people: "exactly once: …".
    fn guarantee(&self) -> &'static str;

    /// Looks whether it could write, before a `CREATE SINK` is accepted. What may mend itself, such as a server that can't be reached,
    /// is no error.
    async fn look(&mut self, within: &Within) -> Result<(), Error>;

    /// Begins, or begins again: keeps the promise, and forgets all rows that are not part of it.
    ///
    /// The answer is the position that the target keeps, if it does; a partition that it doesn't know begins at the first row that is kept.
    async fn open(&mut self, start: Start<'_>) -> Result<Option<Offsets>, Error>;

    /// Takes rows; those that it can't take are named.
    async fn write(&mut self, rows: Rows<'_>) -> Result<Vec<Undeliverable>, Error>;

    /// Whether it has so many rows that they should become visible now.
    fn is_full(&self) -> bool;

    /// Makes the rows durable. The answer is the new promise; the old one has been kept.
    async fn prepare(&mut self) -> Result<Promise, Error>;

    /// Makes visible what was prepared, durably.
    async fn publish(&mut self) -> Result<(), Error>;

    /// The sink is dropped, and is not open: keeps the promise, and leaves nothing else in the target.
    async fn forget(&mut self, start: Start<'_>) -> Result<(), Error> {
        self.open(start).await.map(drop)
    }
}
