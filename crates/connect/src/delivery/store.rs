//! What a sink keeps in the log: its position, as what it has consumed, and in a state table its promise and how much it has
//! delivered.
//!
//! The table has an entry for each of the promise's, with `p` before its key, one under `n`: how many rows were delivered,
//! became dead letters and were missed, three `u64`, big endian; and under `i` the sink's identity, a UUID that is made when it begins.
//!
//! Where the target keeps a position of its own, it can be behind the one that was committed here, and rows come again: they are counted
//! once.

use std::sync::Arc;

use bytes::Bytes;
use headwater_catalog::definition::Definition;
use headwater_event::clock::Micros;
use headwater_event::offset::{Offset, TopicPartition};
use headwater_log::{Claim, Commit, Log, Produced, StateTable, StateWrite};
use headwater_schema::dead_letter::{self, DeadLetter};
use headwater_schema::encode::json_object;
use metrics::{Counter, counter};
use tracing::warn;

use crate::delivery::reading::Batch;
use crate::shared::Shared;
use crate::sink::{Offsets, Promise, Start, Undeliverable};
use crate::source::Error;

const PROMISE: u8 = b'p';
const DELIVERED: &[u8] = b"n";
const IDENTITY: &[u8] = b"i";
/// So many dead letters are committed, however little else there is.
const LETTERS_MAX: usize = 1000;
/// What dead letters say of rows that could not be delivered.
const REASON: &str = "deliver";

/// How much is delivered in all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Delivered {
    pub(super) rows: u64,
    pub(super) dead_letters: u64,
    pub(super) missed: u64,
}

pub(super) struct Store {
    log: Arc<dyn Log>,
    dead_letters: Arc<str>,
    claim: Claim,
    table: Arc<str>,
    /// The sink's own, for ever: in this log, and anywhere.
    name: String,
    identity: String,
    sink: String,
    reads: String,
    /// A dead letter that can't be delivered is not one more dead letter.
    reads_dead_letters: bool,
    /// As the last commit left it.
    promise: Promise,
    committed: Offsets,
    delivered: Delivered,
    /// Since the last commit.
    taken: Delivered,
    letters: Vec<DeadLetter>,
    rows_total: Counter,
    missed_total: Counter,
    letters_total: Counter,
}

/// Who commits a sink's position.
pub fn owner(sink: &Definition) -> String {
    format!("sink/{}-{}", sink.name, sink.id)
}

impl Store {
    /// Takes over the sink's work, with what it has promised.
    pub(super) async fn open(shared: &Shared, sink: &Definition, reads: &Definition) -> Result<(Self, Promise), Error> {
        let claim = shared.log.claim(&owner(sink)).await?;
        let name: Arc<str> = sink.position_table().into();
        let table = shared.log.state(&name).await?;
        let (promise, delivered) = read(table.as_ref())?;
        let identity = match table.get(IDENTITY)? {
            Some(identity) => String::from_utf8_lossy(&identity).into_owned(),
            None => begin(shared, &claim, &name).await?,
        };
        let committed = claim.consumed.iter();
        let committed = committed
            .map(|(partition, offset)| (partition.partition, *offset))
            .collect();
        let label = sink.name.clone();
        let store = Self {
            log: Arc::clone(&shared.log),
            dead_letters: Arc::clone(&shared.dead_letters),
            claim,
            table: name,
            name: format!("{}-{}", sink.name, sink.id),
            identity,
            sink: format!("sink {}", sink.name),
            reads: reads.name.clone(),
            reads_dead_letters: reads.topic() == *shared.dead_letters,
            promise: promise.clone(),
            committed,
            delivered,
            taken: Delivered::default(),
            letters: Vec::new(),
            rows_total: counter!("headwater_sink_rows_total", "sink" => label.clone()),
            missed_total: counter!("headwater_sink_missed_rows_total", "sink" => label),
            letters_total: counter!("headwater_dead_letters_total", "stream" => reads.name.clone(), "reason" => REASON),
        };
        Ok((store, promise))
    }

    /// What the sink is opened with.
    pub(super) fn start<'a>(&'a self, promise: &'a Promise, shared: &'a Shared) -> Start<'a> {
        Start {
            name: &self.name,
            identity: &self.identity,
            promise,
            committed: &self.committed,
            within: &shared.within,
            clock: &shared.clock,
        }
    }

    pub(super) fn committed(&self) -> &Offsets {
        &self.committed
    }

    pub(super) fn delivered(&self) -> Delivered {
        self.delivered
    }

    /// Whether what it has noted should be committed now.
    pub(super) fn is_full(&self) -> bool {
        self.letters.len() >= LETTERS_MAX
    }

    pub(super) fn missed(&mut self, rows: u64) {
        self.taken.missed += rows;
    }

    /// Counts rows that were handed to the sink, and notes those that it could not take.
    pub(super) fn took(&mut self, batch: &Batch, undeliverable: &[Undeliverable], now: Micros) -> Result<(), Error> {
        let committed = self.committed.get(&batch.partition).copied().unwrap_or(0);
        let counted = usize::try_from(committed.saturating_sub(batch.first)).unwrap_or(usize::MAX);
        let new = batch.rows.num_rows().saturating_sub(counted);
        let refused = undeliverable.iter().filter(|row| row.row >= counted).count();
        self.taken.rows += (new - refused) as u64;
        self.taken.dead_letters += undeliverable.len() as u64;
        for row in undeliverable {
            if self.reads_dead_letters {
                warn!(
                    sink = self.sink,
                    detail = row.detail,
                    "a dead letter can't be delivered"
                );
                continue;
            }
            let mut payload = Vec::new();
            json_object(&batch.rows, row.row, &mut payload).map_err(|error| Error::Rows(error.to_string()))?;
            let offset = batch.first + row.row as u64;
            self.letters.push(DeadLetter {
                time: now,
                stream: self.reads.clone(),
                source: self.sink.clone(),
                reason: REASON.to_owned(),
                detail: format!("partition {}, offset {offset}: {}", batch.partition, row.detail),
                payload: Some(payload),
            });
        }
        Ok(())
    }

    /// Commits the position behind what was taken, with the promise.
    pub(super) async fn commit(
        &mut self,
        mut consumed: Vec<(TopicPartition, Offset)>,
        promise: Promise,
    ) -> Result<(), Error> {
        consumed.retain(|(partition, offset)| {
            let committed = self.committed.get(&partition.partition);
            committed.is_none_or(|committed| offset > committed)
        });
        let committed = consumed.iter();
        let committed: Vec<_> = committed
            .map(|(partition, offset)| (partition.partition, *offset))
            .collect();
        let taken = self.taken;
        let delivered = Delivered {
            rows: self.delivered.rows + taken.rows,
            dead_letters: self.delivered.dead_letters + taken.dead_letters,
            missed: self.delivered.missed + taken.missed,
        };
        let commit = Commit {
            consumed,
            produced: self.letters(),
            state: vec![self.write(&promise, delivered)],
        };
        self.log.commit(&self.claim, commit).await?;
        self.promise = promise;
        self.committed.extend(committed);
        self.delivered = delivered;
        self.taken = Delivered::default();
        self.letters.clear();
        self.rows_total.increment(taken.rows);
        self.missed_total.increment(taken.missed);
        self.letters_total.increment(taken.dead_letters);
        Ok(())
    }

    fn letters(&self) -> Vec<Produced> {
        if self.letters.is_empty() {
            return Vec::new();
        }
        vec![Produced {
            partition: TopicPartition::new(Arc::clone(&self.dead_letters), 0),
            rows: dead_letter::batch(&self.letters),
            progress: None,
        }]
    }

    fn write(&self, promise: &Promise, delivered: Delivered) -> StateWrite {
        let kept = self.promise.keys().filter(|key| !promise.contains_key(*key));
        let gone = kept.map(|key| (with_prefix(key), None));
        let new = promise
            .iter()
            .map(|(key, value)| (with_prefix(key), Some(value.clone())));
        let counts = [delivered.rows, delivered.dead_letters, delivered.missed];
        let counts: Vec<u8> = counts.into_iter().flat_map(u64::to_be_bytes).collect();
        let counts = (Bytes::from_static(DELIVERED), Some(counts.into()));
        StateWrite {
            table: Arc::clone(&self.table),
            entries: gone.chain(new).chain(std::iter::once(counts)).collect(),
        }
    }
}

/// Gives the sink its identity.
async fn begin(shared: &Shared, claim: &Claim, table: &Arc<str>) -> Result<String, Error> {
    let identity = shared.ids.uuid().to_string();
    let entry = (Bytes::from_static(IDENTITY), Some(identity.clone().into()));
    let commit = Commit {
        state: vec![StateWrite {
            table: Arc::clone(table),
            entries: Arc::new([entry]),
        }],
        ..Commit::default()
    };
    shared.log.commit(claim, commit).await?;
    Ok(identity)
}

fn read(table: &dyn StateTable) -> Result<(Promise, Delivered), Error> {
    let mut promise = Promise::new();
    for entry in table.scan(&[PROMISE]) {
        let (key, value) = entry?;
        promise.insert(key.slice(1..), value);
    }
    let counts = table.get(DELIVERED)?.unwrap_or_default();
    let count = |at: usize| -> u64 {
        let bytes = counts.get(at..at + 8).and_then(|bytes| bytes.try_into().ok());
        bytes.map_or(0, u64::from_be_bytes)
    };
    let delivered = Delivered {
        rows: count(0),
        dead_letters: count(8),
        missed: count(16),
    };
    Ok((promise, delivered))
}

fn with_prefix(key: &[u8]) -> Bytes {
    let mut prefixed = Vec::with_capacity(key.len() + 1);
    prefixed.push(PROMISE);
    prefixed.extend(key);
    prefixed.into()
}
