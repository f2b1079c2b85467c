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

use std::collections::BTreeMap;
use std::time::Duration;

use arrow::array::RecordBatch;
use async_trait::async_trait;
use bytes::Bytes;
use headwater_event::offset::Offset;

use crate::source::Error;
use crate::within::Within;

/// What a sink has made durable and not visible, in entries of its own making. Kept in a state table.
pub type Promise = BTreeMap<Bytes, Bytes>;

/// A sink as its options describe it.
pub struct Opened {
    pub sink: Box<dyn Sink>,
    /// Rows wait so long at most before they become visible.
    pub interval: Duration,
}

/// Where a sink goes on.
#[derive(Debug)]
pub struct Start<'a> {
    /// The sink's own, never used by another one.
    pub name: &'a str,
    pub promise: &'a Promise,
    /// Where files may be.
    pub within: &'a Within,
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

    /// Looks whether it could write, before a `CREATE SINK` is accepted.
    fn look(&self, within: &Within) -> Result<(), Error>;

    /// Begins, or begins again: keeps the promise, and forgets all rows that are not part of it.
    async fn open(&mut self, start: Start<'_>) -> Result<(), Error>;

    /// Takes rows; those that it can't take are named.
    async fn write(&mut self, rows: Rows<'_>) -> Result<Vec<Undeliverable>, Error>;

    /// Whether it has so many rows that they should become visible now.
    fn is_full(&self) -> bool;

    /// Makes the rows durable. The answer is the new promise; the old one has been kept.
    async fn prepare(&mut self) -> Result<Promise, Error>;

    /// Makes visible what was prepared, durably.
    async fn publish(&mut self) -> Result<(), Error>;
}
