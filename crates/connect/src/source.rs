//! What a connector is to the loop that runs it.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::Arc;

use arrow::array::RecordBatch;
use async_trait::async_trait;
use bytes::Bytes;
use headwater_event::clock::Micros;
use headwater_event::id::Ids;
use headwater_log::Log;
use headwater_log::error::{Error as LogError, Kind};

use crate::within::Within;

/// Where a source stands, in entries of its own making. Kept in a state table.
pub type Position = BTreeMap<Bytes, Bytes>;

/// Why a source or a sink can't go on at present. It is tried again, with growing pauses.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What it reads from is not as it should be. A sentence for people.
    #[error("{0}")]
    Outside(String),
    #[error("its rows do not fit the stream: {0}")]
    Rows(String),
    /// Another process does the same work. Not tried again.
    #[error("{0}")]
    Taken(String),
    #[error(transparent)]
    Log(#[from] LogError),
}

/// A source as its options describe it, at its beginning.
pub struct Opened {
    pub source: Box<dyn Source>,
    /// Events a second; `None` is as fast as the stream takes them.
    pub rate: Option<NonZeroU32>,
}

/// What the loop asks for, and hands in.
#[derive(Debug)]
pub struct Ask<'a> {
    /// No more events than this.
    pub events_max: u64,
    /// The time of ingest.
    pub now: Micros,
    pub ids: &'a Arc<Ids>,
    pub log: &'a dyn Log,
    /// Where files may be.
    pub within: &'a Within,
}

/// What comes next.
#[derive(Debug)]
pub enum Next {
    Batch(Batch),
    /// Nothing now; there may be something later.
    Later,
    /// Nothing any more.
    End,
}

/// Events, and where the source stands after them.
#[derive(Debug)]
pub struct Batch {
    /// Columns of the stream by name. Those that are left out get their defaults.
    pub rows: RecordBatch,
    /// How many events the rate counts for them: at least the rows, unless they are generated as
    /// part of a sequence that others have their share of.
    pub events: u64,
    pub rejected: Vec<Rejected>,
    /// What changes in the position; `None` removes an entry.
    pub position: Vec<(Bytes, Option<Bytes>)>,
}

/// An event that could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// A sentence for people, with the place.
    pub detail: String,
    pub payload: Vec<u8>,
}

/// Brings events in.
#[async_trait]
pub trait Source: Send {
    /// Looks whether what it reads from is there, before a `CREATE SOURCE` is accepted.
    fn look(&self, _within: &Within) -> Result<(), Error> {
        Ok(())
    }

    /// Goes on behind the rows that were stored with this position; it is empty at first.
    fn resume(&mut self, position: Position) -> Result<(), Error>;

    /// The next events. Safe to cancel: what was not handed out comes again. Runs on threads that
    /// may block.
    async fn next(&mut self, ask: &Ask<'_>) -> Result<Next, Error>;
}

impl Error {
    pub fn outside(message: impl Into<String>) -> Self {
        Self::Outside(message.into())
    }

    /// Whether somebody else has taken over, so that trying again would only be in the way.
    pub fn is_taken(&self) -> bool {
        match self {
            Self::Taken(_) => true,
            Self::Log(error) => error.kind() == Kind::Conflict,
            Self::Outside(_) | Self::Rows(_) => false,
        }
    }
}

/// A position that is one number: how many events of a sequence are behind it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count(pub u64);

impl Count {
    const KEY: &'static [u8] = b"events";

    pub fn resume(position: &Position) -> Result<Self, Error> {
        let Some(value) = position.get(Self::KEY) else {
            return Ok(Self(0));
        };
        let number = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
        let broken = || Error::outside("its position can't be read: it is no number");
        number.map(Self).ok_or_else(broken)
    }

    pub fn change(self) -> Vec<(Bytes, Option<Bytes>)> {
        vec![(Bytes::from_static(Self::KEY), Some(self.0.to_string().into()))]
    }
}
