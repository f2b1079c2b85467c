//! Keys in Redis of the rows that a transaction changes: marked before it is committed, and deleted afterwards. Why is in [`cache_aside`].
//!
//! Nothing here holds a transaction up for long, or fails it. Keys that can't be deleted are, as soon as Redis answers again: until then, and
//! for as long as this process is there.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::error::ArrowError;
use headwater_event::clock::Clock;
use parking_lot::Mutex;
use tracing::warn;

use crate::cache_aside::link::{Link, Manner};
use crate::cache_aside::{Keys, delete, mark};
use crate::options::{About, Options, Refusal};
use crate::redis::Timeouts;
use crate::sink::Start;
use crate::sinks::Reads;
use crate::source::Error;
use crate::within::Within;

const MANNER: Manner = Manner {
    what: "write",
    timeouts: Timeouts {
        connect: Duration::from_millis(500),
        answer: Duration::from_secs(2),
    },
    alone: Duration::from_millis(500),
    settle: Duration::ZERO,
    without: "rows there may be outdated until it does, for their time to live at most",
};
/// Less than who reads waits when Redis is back.
const RETRY: Duration = Duration::from_millis(250);
/// Keys that wait to be deleted; further ones go when their time is over.
const MISSED_MAX: usize = 512 << 10;

/// The options of a sink.
#[derive(Clone)]
pub(super) struct Cache {
    keys: Arc<Keys>,
    /// The places of the columns that name a row.
    named_by: Vec<usize>,
}

pub(super) struct Marks {
    cache: Cache,
    redis: Arc<Redis>,
    /// Of the transaction that is open.
    noted: BTreeSet<Vec<u8>>,
}

struct Redis {
    link: Link,
    clock: Arc<dyn Clock>,
    within: Within,
    missed: Mutex<Missed>,
}

#[derive(Clone, Copy)]
enum What {
    Mark,
    Delete,
}

#[derive(Default)]
struct Missed {
    keys: BTreeSet<Vec<u8>>,
    /// Somebody will try again.
    is_tried: bool,
}

impl Cache {
    pub(super) fn read(reads: &Reads<'_>, options: &mut Options<'_>) -> Result<Option<Self>, Refusal> {
        let named_by = reads.key();
        let fields: Vec<_> = named_by.iter().map(|&place| reads.rows.field(place).clone()).collect();
        let ttl = options.any("cache.ttl").then_some("cache.ttl");
        if let Some(ttl) = ttl {
            let message =
                "how long rows are kept in the cache is said by the table that they are looked up in, not by the sink";
            return Err(Refusal::new(About::Key(ttl.to_owned()), message)
                .hint("CREATE TABLE … WITH (connector = 'postgres', …, cache.ttl = '1 minute')"));
        }
        if named_by.is_empty() && options.any("cache.") {
            let message = "the cache has a key for each row: there have to be columns that name the rows";
            return Err(Refusal::new(About::Stream, message).hint("take out a view with GROUP BY or DISTINCT ON"));
        }
        let keys = Keys::read(&fields, options)?;
        Ok(keys.map(|keys| Self {
            keys: Arc::new(keys),
            named_by,
        }))
    }

    pub(super) async fn look(&self, within: &Within) -> Result<(), Error> {
        Link::new(self.keys.address.clone(), MANNER).look(within).await
    }

    pub(super) fn marks(&self, start: &Start<'_>) -> Marks {
        Marks {
            cache: self.clone(),
            redis: Arc::new(Redis {
                link: Link::new(self.keys.address.clone(), MANNER),
                clock: Arc::clone(start.clock),
                within: start.within.clone(),
                missed: Mutex::default(),
            }),
            noted: BTreeSet::new(),
        }
    }
}

impl Marks {
    /// These rows come, change or go.
    pub(super) fn note(&mut self, rows: &RecordBatch) -> Result<(), ArrowError> {
        let columns = self.cache.named_by.iter().map(|&place| Arc::clone(rows.column(place)));
        let keys = self.cache.keys.of(&columns.collect::<Vec<ArrayRef>>())?;
        self.noted.extend(keys.into_iter().flatten());
        Ok(())
    }

    /// The transaction is about to be committed.
    pub(super) async fn before(&self) {
        // What is not marked is deleted all the same.
        self.redis.done(What::Mark, &self.noted).await;
    }

    /// It was committed.
    pub(super) async fn after(&mut self) {
        let keys = std::mem::take(&mut self.noted);
        if !self.redis.done(What::Delete, &keys).await {
            Redis::missed(&self.redis, keys);
        }
    }
}

impl Redis {
    /// Whether it could be done. A connection that broke while nobody used it is made again once.
    async fn done(&self, what: What, keys: &BTreeSet<Vec<u8>>) -> bool {
        let keys: Vec<&[u8]> = keys.iter().map(Vec::as_slice).collect();
        if keys.is_empty() {
            return true;
        }
        for is_last in [false, true] {
            let Some(mut connection) = self.link.connection(&*self.clock, &self.within).await else {
                return false;
            };
            let done = match what {
                What::Mark => mark(&mut connection, &keys).await,
                What::Delete => delete(&mut connection, &keys).await,
            };
            match done {
                Ok(()) => return true,
                Err(error) if !is_last && error.is_connection_dropped() => self.link.forget(),
                Err(error) => {
                    self.link.failed(&error, &*self.clock);
                    return false;
                }
            }
        }
        false
    }

    /// Deletes the keys later.
    fn missed(this: &Arc<Self>, keys: BTreeSet<Vec<u8>>) {
        let mut missed = this.missed.lock();
        missed.add(keys);
        if !std::mem::replace(&mut missed.is_tried, true) {
            tokio::spawn(Arc::clone(this).delete_missed());
        }
    }

    async fn delete_missed(self: Arc<Self>) {
        loop {
            self.clock.sleep(RETRY).await;
            let keys = {
                let mut missed = self.missed.lock();
                missed.is_tried = !missed.keys.is_empty();
                if !missed.is_tried {
                    return;
                }
                std::mem::take(&mut missed.keys)
            };
            if !self.done(What::Delete, &keys).await {
                self.missed.lock().add(keys);
            }
        }
    }
}

impl Missed {
    fn add(&mut self, keys: BTreeSet<Vec<u8>>) {
        match self.keys.len() + keys.len() <= MISSED_MAX {
            true => self.keys.extend(keys),
            false => {
                let keys = keys.len();
                warn!(
                    keys,
                    "rows in the cache stay outdated until their time is over: there are too many to be deleted later"
                );
            }
        }
    }
}
